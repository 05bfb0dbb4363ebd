//! Drawings, as SVG in the page.

use std::fmt::Write;

use super::{escaped, path_html, short};
use crate::measure::Position;
use crate::nodes::{Codes, NodeError};

/// What a bar's colour says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Something that is to be small.
    Cost,
    /// Good, middling and bad signals.
    Good,
    /// See [`Tone::Good`].
    Fair,
    /// See [`Tone::Good`].
    Bad,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Cost => "cost",
            Tone::Good => "good",
            Tone::Fair => "fair",
            Tone::Bad => "bad",
        }
    }
}

/// Signals of more decibel than this fill a bar.
const FULL_DB: f64 = 60.0;
/// Below so many decibel the noise is a tenth of the signal and more.
const FAIR_DB: f64 = 20.0;
/// Below so many decibel a layer is worth more bits (Qualcomm's advice for groups of layers).
const BAD_DB: f64 = 10.0;

/// A bar that fills `part` of its place.
pub(super) fn bar(part: f64, tone: Tone) -> String {
    let width = if part.is_finite() { 100.0 * part.clamp(0.0, 1.0) } else { 0.0 };
    format!("<span class=\"track\"><span class=\"{}\" style=\"width:{width:.1}%\"></span></span>", tone.class())
}

/// A bar of `sqnr` decibel with a mark at `own`.
pub(super) fn decibel_bar(sqnr: f64, own: f64) -> String {
    let tone = match sqnr {
        db if db.is_nan() || db < BAD_DB => Tone::Bad,
        db if db < FAIR_DB => Tone::Fair,
        _ => Tone::Good,
    };
    let part = |db: f64| 100.0 * (db / FULL_DB).clamp(0.0, 1.0);
    let width = if sqnr.is_nan() { 0.0 } else { part(sqnr) };
    let mark = match own {
        own if own.is_nan() => String::new(),
        own => format!("<i style=\"left:{:.1}%\"></i>", part(own)),
    };
    format!("<span class=\"track\"><span class=\"{}\" style=\"width:{width:.1}%\"></span>{mark}</span>", tone.class())
}

/// Width and height of a histogram, and of the part under its axis.
const WIDTH: f64 = 280.0;
const HEIGHT: f64 = 96.0;
const AXIS: f64 = 14.0;
/// Columns of a histogram, at the most.
const COLUMNS: usize = 96;

/// Columns of counts, on a logarithmic scale.
fn columns(out: &mut String, counts: &[u64], left: f64, width: f64) {
    let most = counts.iter().copied().max().unwrap_or(0);
    let full = ((most + 1) as f64).ln();
    for (i, &c) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
        let h = ((c + 1) as f64).ln() / full * HEIGHT;
        let x = left + i as f64 * width;
        let _ = write!(
            out,
            "<rect class=\"col\" x=\"{x:.2}\" y=\"{:.2}\" width=\"{:.2}\" height=\"{h:.2}\"/>",
            HEIGHT - h,
            (width * 0.92).max(0.3)
        );
    }
}

/// A node's values with the range of its codes.
pub(super) fn histogram(n: &NodeError) -> String {
    let (first, width, counts) = n.values.bins();
    let (min, max) = n.values.range().unwrap_or((0.0, 0.0));
    let (min, max) = (f64::from(min), f64::from(max));
    let each = counts.len().div_ceil(COLUMNS).max(1);
    let joined: Vec<u64> = counts.chunks(each).map(|c| c.iter().sum()).collect();
    let (mut left, mut right) = (first, first + width * (joined.len() * each) as f64);
    if let Codes::Static { least, most } = n.codes {
        left = left.min(least);
        right = right.max(most);
    }
    let span = (right - left).max(f64::MIN_POSITIVE);
    let x = |v: f64| (v - left) / span * WIDTH;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\">", HEIGHT + AXIS);
    let mut caption = format!("{} to {}", short(min), short(max));
    match n.codes {
        Codes::Static { least, most } => {
            let _ = write!(
                svg,
                "<rect class=\"range\" x=\"{:.2}\" y=\"0\" width=\"{:.2}\" height=\"{HEIGHT}\"/>",
                x(least),
                (x(most) - x(least)).max(0.5)
            );
            let all: u64 = joined.iter().sum();
            let outside: u64 = counts
                .iter()
                .enumerate()
                .filter(|(i, _)| {
                    let middle = first + (*i as f64 + 0.5) * width;
                    middle < least - width / 2.0 || middle > most + width / 2.0
                })
                .map(|(_, c)| c)
                .sum();
            let clipped = 100.0 * outside as f64 / all.max(1) as f64;
            let _ = write!(caption, "; codes {} to {}", short(least), short(most));
            match outside {
                0 => {}
                _ if clipped < 0.05 => caption.push_str(", less than 0.1% clipped"),
                _ => {
                    let _ = write!(caption, ", {clipped:.1}% clipped");
                }
            }
        }
        Codes::Dynamic => caption.push_str("; range chosen at run time"),
        Codes::Parts => caption.push_str("; a range for each part"),
        Codes::None => {}
    }
    columns(&mut svg, &joined, x(first), x(first + width * each as f64) - x(first));
    if let Codes::Static { least, most } = n.codes {
        for v in [least, most] {
            let at = x(v).clamp(0.5, WIDTH - 0.5);
            let _ = write!(svg, "<line class=\"edge\" x1=\"{at:.2}\" y1=\"0\" x2=\"{at:.2}\" y2=\"{HEIGHT}\"/>");
        }
    }
    let _ = write!(svg, "<line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{WIDTH}\" y2=\"{HEIGHT}\"/>");
    let label = |svg: &mut String, v: f64, anchor: &str| {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">{}</text>",
            x(v).clamp(0.0, WIDTH),
            HEIGHT + AXIS - 3.0,
            short(v)
        );
    };
    label(&mut svg, left, "start");
    if left < 0.0 && right > 0.0 && (WIDTH * 0.2..WIDTH * 0.8).contains(&x(0.0)) {
        label(&mut svg, 0.0, "middle");
    }
    label(&mut svg, right, "end");
    svg.push_str("</svg>");
    format!(
        "<figure>{svg}<figcaption><strong>{}</strong> {}<br>{}</figcaption></figure>\n",
        path_html(&n.path),
        escaped(n.operator),
        escaped(&caption)
    )
}

/// How KL divergences are spread, by powers of ten in quarters.
pub(super) fn divergences(positions: &[Position]) -> String {
    const LEAST: f64 = -8.0;
    const STEP: f64 = 0.25;
    const BINS: usize = 40;
    let mut counts = vec![0u64; BINS];
    for p in positions {
        let at = (p.kl.max(1e-30).log10() - LEAST) / STEP;
        counts[(at.max(0.0) as usize).min(BINS - 1)] += 1;
    }
    let wide = 2.0 * WIDTH;
    let width = wide / BINS as f64;
    let mut svg = format!("<svg class=\"wide\" viewBox=\"0 0 {wide} {}\" role=\"img\">", HEIGHT + AXIS);
    columns(&mut svg, &counts, 0.0, width);
    let _ = write!(svg, "<line class=\"axis\" x1=\"0\" y1=\"{HEIGHT}\" x2=\"{wide}\" y2=\"{HEIGHT}\"/>");
    for power in (LEAST as i32..=2).step_by(2) {
        let x = (f64::from(power) - LEAST) / STEP * width;
        let anchor = if power == LEAST as i32 {
            "start"
        } else if power == 2 {
            "end"
        } else {
            "middle"
        };
        let y = HEIGHT + AXIS - 3.0;
        let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">1e{power}</text>");
    }
    svg.push_str("</svg>\n");
    svg
}
