//! An evaluation as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere.

mod charts;
mod style;

use std::fmt::Write;

use crate::nodes::NodeError;
use crate::run::Evaluation;
use crate::sensitivity::LayerCost;

/// What a page shows; what is `None` or empty is left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report<'a> {
    /// The page's title.
    pub title: &'a str,
    /// Facts beside each other: name and text.
    pub facts: &'a [(String, String)],
    /// How good the model is.
    pub evaluation: Option<&'a Evaluation>,
    /// What quantizing each layer costs, the dearest first.
    pub layers: &'a [LayerCost],
    /// The nodes, those that add the most noise first.
    pub nodes: &'a [NodeError],
}

/// Nodes and layers that are shown before the rest is folded away.
const SHOWN: usize = 24;
/// Histograms on a page, at the most.
const HISTOGRAMS: usize = 400;

/// Text as HTML.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A path that may break behind its dots.
fn path_html(path: &str) -> String {
    escaped(path).replace('.', ".<wbr>")
}

/// Decibel, as people read them.
pub(crate) fn decibel(db: f64) -> String {
    match db {
        _ if db.is_nan() => "not a number".to_owned(),
        _ if db == f64::INFINITY => "exact".to_owned(),
        _ if db == f64::NEG_INFINITY => "not finite".to_owned(),
        _ => format!("{db:.1}"),
    }
}

/// Few digits, whatever the size.
pub(crate) fn short(v: f64) -> String {
    match v.abs() {
        0.0 => "0".to_owned(),
        a if (1e-3..1e5).contains(&a) => {
            let digits = (3 - a.log10().floor() as i32).clamp(0, 6) as usize;
            format!("{v:.digits$}")
        }
        _ => format!("{v:.2e}"),
    }
}

impl Report<'_> {
    /// The page.
    pub fn to_html(&self) -> String {
        let mut out = String::new();
        let title = escaped(self.title);
        let _ = write!(
            out,
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
             content=\"width=device-width, initial-scale=1\">\n<meta name=\"color-scheme\" content=\"light \
             dark\">\n<title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
            style::CSS
        );
        self.facts(&mut out);
        if let Some(e) = self.evaluation {
            figures(&mut out, e);
        }
        if !self.layers.is_empty() {
            self.layers(&mut out);
        }
        if !self.nodes.is_empty() {
            self.signals(&mut out);
            self.histograms(&mut out);
        }
        out.push_str("</main>\n</body>\n</html>\n");
        out
    }

    fn facts(&self, out: &mut String) {
        out.push_str("<dl class=\"facts\">\n");
        for (name, text) in self.facts {
            let _ = writeln!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escaped(name), escaped(text));
        }
        out.push_str("</dl>\n");
    }

    fn layers(&self, out: &mut String) {
        out.push_str(
            "<section>\n<h2>What quantizing each layer costs</h2>\n<p>Mean KL divergence from the float model when this layer \
             alone is quantized, the dearest first.</p>\n",
        );
        let most = self.layers.iter().map(|l| l.kl.mean).fold(0.0, f64::max);
        folded(out, self.layers.len(), "layers", |out, range| {
            out.push_str(
                "<table class=\"bars\"><thead><tr><th>Layer</th><th>KL, nats</th><th class=\"bar\"></th><th>Bytes \
                 saved</th></tr></thead><tbody>\n",
            );
            for l in &self.layers[range] {
                let _ = writeln!(
                    out,
                    "<tr><td class=\"path\">{}</td><td class=\"n\">{}</td><td class=\"bar\">{}</td><td \
                     class=\"n\">{}</td></tr>",
                    path_html(&l.path),
                    short(l.kl.mean),
                    charts::bar(l.kl.mean / most, charts::Tone::Cost),
                    l.bytes_saved
                );
            }
            out.push_str("</tbody></table>\n");
        });
        out.push_str("</section>\n");
    }

    fn signals(&self, out: &mut String) {
        out.push_str(
            "<section>\n<h2>Signal and noise, node by node</h2>\n<p>SQNR is the signal to quantization noise of a node&#39;s \
             output, in decibel: 20 dB is noise of a tenth of the signal. <em>Own</em> counts only the noise that the node adds \
             to that of its inputs; the nodes are sorted by it, worst first. Bars show SQNR, the mark in them the node&#39;s \
             own.</p>\n",
        );
        folded(out, self.nodes.len(), "nodes", |out, range| {
            out.push_str(
                "<table class=\"bars\"><thead><tr><th>Node</th><th>Own, dB</th><th>SQNR, dB</th><th \
                 class=\"bar\"></th><th>Cosine</th><th>Max. error</th></tr></thead><tbody>\n",
            );
            for n in &self.nodes[range] {
                let _ = writeln!(
                    out,
                    "<tr><td class=\"path\">{}<small>{}</small></td><td class=\"n\">{}</td><td class=\"n\">{}</td><td \
                     class=\"bar\">{}</td><td class=\"n\">{:.5}</td><td class=\"n\">{}</td></tr>",
                    path_html(&n.path),
                    escaped(n.operator),
                    decibel(n.own_sqnr_db),
                    decibel(n.error.sqnr_db),
                    charts::decibel_bar(n.error.sqnr_db, n.own_sqnr_db),
                    n.error.cosine,
                    short(n.error.max_abs)
                );
            }
            out.push_str("</tbody></table>\n");
        });
        out.push_str("</section>\n");
    }

    fn histograms(&self, out: &mut String) {
        out.push_str(
            "<section>\n<h2>Values and ranges</h2>\n<p>The float model&#39;s values at each node, counts on a logarithmic \
             scale. The shaded band is the range that the chosen scale and zero point can represent; what lies outside is \
             clipped. Nodes without a band are read as floats or with parameters that are chosen at run time.</p>\n",
        );
        let shown: Vec<&NodeError> = self.nodes.iter().take(HISTOGRAMS).collect();
        folded(out, shown.len(), "histograms", |out, range| {
            out.push_str("<div class=\"grid\">\n");
            for n in &shown[range] {
                out.push_str(&charts::histogram(n));
            }
            out.push_str("</div>\n");
        });
        if self.nodes.len() > HISTOGRAMS {
            let _ = writeln!(out, "<p>{} more nodes are not drawn.</p>", self.nodes.len() - HISTOGRAMS);
        }
        out.push_str("</section>\n");
    }
}

/// The first of `count` things, and the rest folded away.
fn folded(out: &mut String, count: usize, what: &str, mut part: impl FnMut(&mut String, std::ops::Range<usize>)) {
    part(out, 0..count.min(SHOWN));
    if count > SHOWN {
        let _ = writeln!(out, "<details><summary>{} more {what}</summary>", count - SHOWN);
        part(out, SHOWN..count);
        out.push_str("</details>\n");
    }
}

fn figures(out: &mut String, e: &Evaluation) {
    let mut cards: Vec<(&str, String, String)> =
        vec![("Perplexity", format!("{:.4}", e.perplexity.value), format!("± {:.4}", e.perplexity.stderr))];
    if let Some(d) = &e.divergence {
        let ratio = d.log_ratio.exp();
        cards.push((
            "Perplexity of the reference",
            format!("{:.4}", d.reference.value),
            format!("± {:.4}", d.reference.stderr),
        ));
        let change = 100.0 * (ratio.mean - 1.0);
        cards.push(("Change", format!("{change:+.3}%"), format!("± {:.3}%, paired", 100.0 * ratio.stderr)));
        cards.push(("Mean KL divergence", short(d.kl.mean), format!("± {} nats", short(d.kl.stderr))));
        let q = d.kl_quantiles;
        cards.push(("KL divergence, 99%", short(q.p99), format!("median {}, max {}", short(q.median), short(q.max))));
        cards.push((
            "Same top token",
            format!("{:.2}%", 100.0 * d.same_top.mean),
            format!("± {:.2}%", 100.0 * d.same_top.stderr),
        ));
    }
    out.push_str("<section>\n<h2>Figures</h2>\n<div class=\"cards\">\n");
    for (name, value, more) in cards {
        let _ = writeln!(
            out,
            "<div class=\"card\"><span>{}</span><strong>{}</strong><small>{}</small></div>",
            escaped(name),
            escaped(&value),
            escaped(&more)
        );
    }
    let _ = writeln!(
        out,
        "</div>\n<p>{}; {} tokens scored in {} windows.</p>",
        escaped(&e.protocol.to_string()),
        e.scored,
        e.windows
    );
    if e.divergence.is_some() && !e.positions.is_empty() {
        out.push_str("<h3>KL divergence of the scored tokens</h3>\n");
        out.push_str(&charts::divergences(&e.positions));
    }
    out.push_str("</section>\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::{Codes, Histogram, TensorError};
    use crate::stats::Estimate;

    fn node(path: &str, codes: Codes) -> NodeError {
        let mut values = Histogram::default();
        values.add(&[-1.0, 0.5, 3.0]);
        let error = TensorError { elements: 3, sqnr_db: 12.5, cosine: 0.99, mse: 0.1, max_abs: 0.25 };
        NodeError {
            path: path.to_owned(),
            operator: "aten::linear",
            handle: 1,
            error,
            input_sqnr_db: f64::INFINITY,
            own_sqnr_db: 12.5,
            codes,
            values,
        }
    }

    #[test]
    fn a_page_stands_alone_and_escapes_what_it_is_told() {
        let nodes: Vec<NodeError> =
            (0..30).map(|i| node(&format!("model.<b>.{i}"), Codes::Static { least: -0.5, most: 1.0 })).collect();
        let kl = Estimate { mean: 0.5, stderr: 0.1 };
        let layers = [LayerCost { path: "a&b".to_owned(), kl, bytes_saved: 7 }];
        let facts = [("subject".to_owned(), "\"x\"".to_owned())];
        let report = Report { title: "<t>", facts: &facts, evaluation: None, layers: &layers, nodes: &nodes };
        let html = report.to_html();
        for foreign in ["http://", "https://", "src=", "<script", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        assert!(html.contains("&lt;t&gt;") && html.contains("a&amp;b") && !html.contains("<b>"));
        assert!(html.contains("6 more nodes") && html.contains("&quot;x&quot;"));
        // Each histogram shows its range; two of three values lie outside of it.
        assert_eq!(html.matches("class=\"range\"").count(), 30);
        assert!(html.contains("66.7% clipped"), "{html}");
        assert_eq!(html.matches("<details>").count(), html.matches("</details>").count());
        assert_eq!(html, report.to_html());
    }

    #[test]
    fn figures_are_short() {
        assert_eq!([0.0, 1.23456, 123.456, 0.00123, 1.5e-7].map(short), ["0", "1.235", "123.5", "0.001230", "1.50e-7"]);
        assert_eq!([f64::INFINITY, 3.06, f64::NEG_INFINITY].map(decibel), ["exact", "3.1", "not finite"]);
    }
}
