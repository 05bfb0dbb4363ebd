//! `pteron eval`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pteron::checkpoint::atomic::{AtomicError, AtomicFile};
use pteron::checkpoint::{FileKind, open_bytes, read_limited};
use pteron::evaluation::nodes::NodeError;
use pteron::evaluation::report::Report;
use pteron::evaluation::{CausalModel, Evaluation, Protocol, evaluate};
use pteron::exec::Context;
use pteron::llm::tokenizer::Tokenizer;
use pteron::{EvalModel, Exporter, LoadOptions, Program, compare_nodes};
use serde_json::json;

use super::low::{EvalArgs, ProtocolArg};
use super::output::{Done, Failure, number, put, put_json, say};
use super::{high, run};

/// Most bytes of a text.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// Least number of scored tokens below which a perplexity says little.
const FEW: usize = 4096;

pub(super) fn run(a: &EvalArgs) -> Done {
    let protocol = protocol(a)?;
    let load = high::eval_load(a)?;
    let comparable = comparable(a)?;
    let text = text(&a.text)?;
    let place = tokenizer_place(a);
    let asked = a.tokenizer.as_deref().or((place.is_dir() || is_kind(place, FileKind::Gguf)).then_some(place));
    let (tokenizer, _) = run::tokenizer(asked, place)?;
    let tokens = tokenizer.encode(&text, true)?;
    let mut model = open(&a.subject, a, protocol, &load, true)?;
    let reference = a.reference.as_deref().map(|r| open(r, a, protocol, &load, false));
    let mut reference = reference.transpose()?;
    let ctx = Context::new(load.threads.unwrap_or_else(pteron::host::default_threads));
    // A tokenizer that adds no beginning token to a text has none that llama.cpp's protocol would put before a window.
    let bos = tokenizer.bos_id().filter(|bos| tokens.first() == Some(bos));
    let bar = bar("evaluating {wide_bar} {pos}/{len} tokens  {msg}  {eta}");
    let found = evaluate(
        &ctx,
        &mut model,
        reference.as_mut().map(|r| r as &mut dyn CausalModel),
        &tokens,
        protocol,
        bos,
        a.windows,
        &mut |p| {
            bar.set_length(p.total as u64);
            bar.set_position(p.done as u64);
            if p.perplexity.is_finite() {
                bar.set_message(format!("perplexity {:.4}", p.perplexity));
            }
            true
        },
    );
    bar.finish_and_clear();
    let found = found.map_err(|e| anyhow::anyhow!("{}: {e}", a.subject.display()))?;
    if found.scored < FEW && !a.json {
        say(&format!("note: only {} tokens were scored; the standard errors say what that is worth", found.scored));
    }
    let nodes = if comparable { nodes(a, &tokens, protocol, &load)? } else { Vec::new() };
    if let Some(path) = &a.positions {
        write(path, &positions(&found))?;
    }
    let facts = facts(a, &tokenizer, &found);
    if let Some(path) = &a.report {
        let title = format!("Evaluation of {}", name_of(&a.subject));
        let page = Report { title: &title, facts: &facts, evaluation: Some(&found), layers: &[], nodes: &nodes };
        write(path, &page.to_html())?;
    }
    if a.json {
        return put_json(&json!({
            "subject": a.subject,
            "reference": a.reference,
            "text": a.text,
            "tokenizer": tokenizer.kind().to_string(),
            "evaluation": found,
            "nodes": a.nodes.map(|_| &nodes),
        }));
    }
    put(&table(&facts, &found, a.nodes.map(|n| &nodes[..nodes.len().min(n)])))
}

/// Whether nodes are compared: if that was asked for, or they can be shown on the page.
fn comparable(a: &EvalArgs) -> Result<bool, Failure> {
    let Some(reference) = a.reference.as_deref() else { return Ok(false) };
    let program = [a.subject.as_path(), reference].into_iter().find(|p| p.is_file() && is_program(p));
    match (program, a.nodes) {
        (Some(path), Some(_)) => Err(Failure::Usage(format!(
            "--nodes compares a checkpoint as it is quantized with itself in float; {} is a program, whose nodes are not \
             those of the checkpoint any more",
            path.display()
        ))),
        (Some(_), None) => Ok(false),
        (None, nodes) => Ok((nodes.is_some() || a.report.is_some()) && a.node_tokens > 0),
    }
}

/// The nodes of both checkpoints compared.
fn nodes(a: &EvalArgs, tokens: &[u32], protocol: Protocol, load: &LoadOptions) -> Result<Vec<NodeError>, Failure> {
    let Some(reference) = a.reference.as_deref() else { return Ok(Vec::new()) };
    let window = protocol.window().min(a.node_tokens);
    let count = a.node_tokens.min(tokens.len()).checked_div(window).unwrap_or(0).max(1);
    let windows: Vec<_> = (0..count).map(|i| i * window..((i + 1) * window).min(tokens.len())).collect();
    let open = |path: &Path, exporter| EvalModel::captured(exporter, path, window, high::dtype(a.dtype), load);
    let mut subject = open(&a.subject, quantized(&a.subject, a)?)?;
    // The same nodes: the float model is rotated as well.
    let recipe = high::recipe(&a.quantization, &a.calibration.calibration_data)?.float();
    let mut float = open(reference, Exporter::open(reference)?.quantize(recipe))?;
    let bar = bar("comparing nodes {wide_bar} {pos}/{len} tokens  {eta}");
    bar.set_length(windows.iter().map(|w| w.len() as u64).sum());
    let found = compare_nodes(&mut subject, &mut float, tokens, &windows, &mut |done| {
        bar.set_position(done as u64);
        true
    });
    bar.finish_and_clear();
    found.map_err(|e| anyhow::anyhow!("{}: {e}", a.subject.display()).into())
}

/// A checkpoint with the quantization of the flags.
fn quantized(path: &Path, a: &EvalArgs) -> Result<Exporter<'static>, Failure> {
    let exporter = Exporter::open(path)?.quantize_kv_cache(a.quantization.quantize_kv_cache);
    let calibration = high::calibration(&a.calibration, a.calibration_state.as_deref())?;
    Ok(exporter.quantize(high::recipe(&a.quantization, &a.calibration.calibration_data)?).calibration(calibration))
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn bar(style: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Writes a file whole or not at all.
pub(super) fn write(path: &Path, text: &str) -> Done {
    let mut file = AtomicFile::create(path)?;
    file.write_all(text.as_bytes()).map_err(|e| AtomicError::from_io(path, e))?;
    file.commit()?;
    Ok(())
}

/// A path without the folders before it.
pub(super) fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// A line for each scored token.
fn positions(e: &Evaluation) -> String {
    let mut out = "nll,reference_nll,kl,delta_p,same_top\n".to_owned();
    for p in &e.positions {
        let _ = writeln!(out, "{},{},{},{},{}", p.nll, p.reference_nll, p.kl, p.delta_p, u8::from(p.same_top));
    }
    out
}

fn protocol(a: &EvalArgs) -> Result<Protocol, Failure> {
    let window = a.window;
    let name = a.protocol;
    if a.stride.is_some() && name != ProtocolArg::Strided {
        return Err(Failure::Usage("--stride is for --protocol strided".to_owned()));
    }
    let protocol = match name {
        ProtocolArg::NonOverlapping => Protocol::NonOverlapping { window },
        ProtocolArg::LlamaCpp => Protocol::LlamaCpp { window },
        ProtocolArg::Strided => Protocol::Strided { window, stride: a.stride.unwrap_or((window / 2).max(1)) },
    };
    if a.windows == Some(0) {
        return Err(Failure::Usage("--windows is 0, expected at least 1".to_owned()));
    }
    match protocol.cut(usize::MAX / 4, Some(1)) {
        Ok(_) => Ok(protocol),
        Err(e) => Err(Failure::Usage(format!("--window and --stride: {e}"))),
    }
}

/// A text file.
pub(super) fn text(path: &Path) -> Result<String, Failure> {
    let bytes = read_limited(path, MAX_TEXT_BYTES)?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("{}: byte {at} is not UTF-8, expected a text file", path.display()).into()
    })
}

/// Where the tokenizer lies if none is given: with the reference, else with the subject.
fn tokenizer_place(a: &EvalArgs) -> &Path {
    a.reference.as_deref().filter(|r| !is_program(r)).unwrap_or(&a.subject)
}

fn is_program(path: &Path) -> bool {
    is_kind(path, FileKind::ExecutorchProgram)
}

/// Whether a file is of a kind; a bundled program counts as a program.
fn is_kind(path: &Path, kind: FileKind) -> bool {
    let Ok(bytes) = open_bytes(path, pteron::checkpoint::LoadMode::File) else { return false };
    let mut prefix = vec![0u8; FileKind::PREFIX.min(usize::try_from(bytes.len()).unwrap_or(usize::MAX))];
    if bytes.read_at(0, &mut prefix).is_err() {
        return false;
    }
    let bundle = prefix.get(4..8) == Some(b"BP08") && kind == FileKind::ExecutorchProgram;
    bundle || FileKind::detect(&prefix, bytes.len()) == kind
}

/// A program, or a checkpoint captured for the windows: with the quantization of the flags if it is the subject.
fn open(
    path: &Path,
    a: &EvalArgs,
    protocol: Protocol,
    load: &LoadOptions,
    is_subject: bool,
) -> Result<EvalModel, Failure> {
    if path.is_file() && is_program(path) {
        if is_subject
            && (a.quantization.quantize_kv_cache
                || !high::recipe(&a.quantization, &a.calibration.calibration_data)?.is_none())
        {
            let reason =
                format!("{} is a program, which is quantized when it is exported: give a checkpoint", path.display());
            return Err(Failure::Usage(reason));
        }
        let program = Program::open(path, &LoadOptions { data: a.data_paths.clone(), ..load.clone() })?;
        return Ok(EvalModel::from_program(program, &a.method_name)?);
    }
    let exporter = if is_subject { quantized(path, a)? } else { Exporter::open(path)? };
    Ok(EvalModel::from_exporter(exporter, path, protocol.window(), high::dtype(a.dtype), load)?)
}

/// What was measured, and how: name and text.
fn facts(a: &EvalArgs, tokenizer: &Tokenizer, e: &Evaluation) -> Vec<(String, String)> {
    let left = if e.left_out > 0 { format!(", {} left out", number(e.left_out as u64)) } else { String::new() };
    let bos =
        e.bos.map_or_else(|| "no token of beginning added to windows".to_owned(), |b| format!("token {b} begins each"));
    let rows = [
        ("subject", Some(a.subject.display().to_string())),
        ("reference", a.reference.as_ref().map(|r| r.display().to_string())),
        (
            "quantized",
            high::recipe(&a.quantization, &a.calibration.calibration_data)
                .ok()
                .filter(|r| !r.is_none())
                .map(|r| r.describe()),
        ),
        ("text", Some(format!("{}: {} tokens{left}", a.text.display(), number(e.text_tokens as u64)))),
        ("tokenizer", Some(tokenizer.kind().to_string())),
        ("method", Some(format!("{}; {bos}", e.protocol))),
        ("scored", Some(format!("{} tokens in {} windows", number(e.scored as u64), number(e.windows as u64)))),
    ];
    rows.into_iter().filter_map(|(name, text)| text.map(|t| (name.to_owned(), t))).collect()
}

fn table(facts: &[(String, String)], e: &Evaluation, nodes: Option<&[NodeError]>) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<18} {text}");
    };
    facts.iter().for_each(|(name, text)| row(name, text.clone()));
    row("perplexity", format!("{:.4} ± {:.4}", e.perplexity.value, e.perplexity.stderr));
    if let Some(d) = &e.divergence {
        let percent = |x: f64| 100.0 * x;
        row("of the reference", format!("{:.4} ± {:.4}", d.reference.value, d.reference.stderr));
        let ratio = d.log_ratio.exp();
        row("change", format!("{:+.3}% ± {:.3}%", percent(ratio.mean - 1.0), percent(ratio.stderr)));
        row("KL divergence", format!("mean {:.3e} ± {:.1e} nats", d.kl.mean, d.kl.stderr));
        let q = d.kl_quantiles;
        row(
            "",
            format!(
                "median {:.3e}, 90% {:.3e}, 99% {:.3e}, 99.9% {:.3e}, max {:.3e}",
                q.median, q.p90, q.p99, q.p99_9, q.max
            ),
        );
        row("same top token", format!("{:.3}% ± {:.3}%", percent(d.same_top.mean), percent(d.same_top.stderr)));
        row(
            "Δp",
            format!(
                "mean {:+.4}% ± {:.4}%, RMS {:.3}%",
                percent(d.delta_p.mean),
                percent(d.delta_p.stderr),
                percent(d.delta_p_rms)
            ),
        );
    }
    if let Some(nodes) = nodes {
        node_table(&mut out, nodes);
    }
    out
}

/// Nodes, a line each.
fn node_table(out: &mut String, nodes: &[NodeError]) {
    let width = |part: fn(&NodeError) -> usize| nodes.iter().map(part).max().unwrap_or(0);
    let (paths, operators) = (width(|n| n.path.len()), width(|n| n.operator.len()));
    let db = |v: f64| if v == f64::INFINITY { "exact".to_owned() } else { format!("{v:.1}") };
    let _ = writeln!(
        out,
        "\n{:<paths$}  {:<operators$}  {:>7}  {:>7}  {:>9}  {:>10}",
        "node", "operator", "own dB", "SQNR dB", "cosine", "max error"
    );
    for n in nodes {
        let _ = writeln!(
            out,
            "{:<paths$}  {:<operators$}  {:>7}  {:>7}  {:>9.6}  {:>10.3e}",
            n.path,
            n.operator,
            db(n.own_sqnr_db),
            db(n.error.sqnr_db),
            n.error.cosine,
            n.error.max_abs
        );
    }
}
