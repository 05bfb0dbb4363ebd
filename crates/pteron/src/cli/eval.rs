//! `pteron eval`.

use std::fmt::Write;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pteron::checkpoint::{FileKind, open_bytes, read_limited};
use pteron::evaluation::{CausalModel, Evaluation, Protocol, evaluate};
use pteron::exec::Context;
use pteron::llm::tokenizer::Tokenizer;
use pteron::quant::recipe::Recipe;
use pteron::{EvalModel, Exporter, LoadOptions, Program};
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
    let text = text(&a.text)?;
    let place = tokenizer_place(a);
    let asked = a.tokenizer.as_deref().or((place.is_dir() || is_kind(place, FileKind::Gguf)).then_some(place));
    let (tokenizer, _) = run::tokenizer(asked, place)?;
    let tokens = tokenizer.encode(&text, true)?;
    let recipe = high::recipe(&a.quantization)?;
    let mut model = open(&a.subject, a, protocol, &load, recipe)?;
    let reference = a.reference.as_deref().map(|r| open(r, a, protocol, &load, Recipe::default()));
    let mut reference = reference.transpose()?;
    let ctx = Context::new(load.threads.unwrap_or_else(pteron::host::default_threads));
    // A tokenizer that adds no beginning token to a text has none that llama.cpp's protocol would put before a window.
    let bos = tokenizer.bos_id().filter(|bos| tokens.first() == Some(bos));
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let style = "evaluating {wide_bar} {pos}/{len} tokens  {msg}  {eta}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
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
    if a.json {
        return put_json(&json!({
            "subject": a.subject,
            "reference": a.reference,
            "text": a.text,
            "tokenizer": tokenizer.kind().to_string(),
            "evaluation": found,
        }));
    }
    put(&table(a, &tokenizer, &found))
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

fn text(path: &Path) -> Result<String, Failure> {
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

/// A program, or a checkpoint captured for the windows.
fn open(
    path: &Path,
    a: &EvalArgs,
    protocol: Protocol,
    load: &LoadOptions,
    recipe: Recipe,
) -> Result<EvalModel, Failure> {
    if path.is_file() && is_program(path) {
        if !recipe.is_none() {
            let reason =
                format!("{} is a program, which is quantized when it is exported: give a checkpoint", path.display());
            return Err(Failure::Usage(reason));
        }
        let program = Program::open(path, &LoadOptions { data: a.data_paths.clone(), ..load.clone() })?;
        return Ok(EvalModel::from_program(program, &a.method_name)?);
    }
    let calibration = high::calibration(&a.calibration, a.calibration_state.as_deref())?;
    let exporter = Exporter::open(path)?.quantize(recipe).calibration(calibration);
    Ok(EvalModel::from_exporter(exporter, path, protocol.window(), high::dtype(a.dtype), load)?)
}

fn table(a: &EvalArgs, tokenizer: &Tokenizer, e: &Evaluation) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<18} {text}");
    };
    row("subject", a.subject.display().to_string());
    if let Some(r) = &a.reference {
        row("reference", r.display().to_string());
    }
    let left = if e.left_out > 0 { format!(", {} left out", number(e.left_out as u64)) } else { String::new() };
    row("text", format!("{}: {} tokens{left}", a.text.display(), number(e.text_tokens as u64)));
    row("tokenizer", tokenizer.kind().to_string());
    let bos =
        e.bos.map_or_else(|| "no token of beginning added to windows".to_owned(), |b| format!("token {b} begins each"));
    row("method", format!("{}; {bos}", e.protocol));
    row("scored", format!("{} tokens in {} windows", number(e.scored as u64), number(e.windows as u64)));
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
    out
}
