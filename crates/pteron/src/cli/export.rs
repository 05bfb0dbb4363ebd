//! `pteron export`.

use std::cell::Cell;
use std::fmt::Write;
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pteron::llm::metadata::ModelMetadata;
use pteron::models::{ModelError, StaticKvCache, parse_metadata};
use pteron::{Error, ExportReport, Exporter, Progress, Xnnpack, quantize};

use super::high;
use super::low::ExportArgs;
use super::output::{Done, Failure, bytes, number, put, put_json, say};

pub(super) fn run(a: &ExportArgs) -> Done {
    let checkpoint = high::checkpoint(a)?;
    let out = high::output_file(a, checkpoint)?;
    let exporter = exporter(a, checkpoint)?;
    if a.print_plan {
        return print_plan(exporter);
    }
    if a.verbose {
        say(&format!("{}: {} tensors", checkpoint.display(), exporter.checkpoint().tensors().len()));
    }
    let bar = Bar::new();
    let verbose = a.verbose;
    let exporter = exporter.on_progress(|p| bar.show(p, verbose));
    let report = if a.export_only { exporter.check() } else { exporter.write(&out) };
    bar.bar.finish_and_clear();
    let report = report.map_err(failure)?;
    for w in &report.warnings {
        say(&format!("warning: {w}"));
    }
    if a.json {
        return put_json(&report);
    }
    let table = report.qnn.as_ref().filter(|q| a.verbose || q.outside > 0).map_or("", |q| q.table.as_str());
    put(&format!("{table}{}", summary(&report)))
}

/// The export that the flags describe.
pub(super) fn exporter<'p>(a: &ExportArgs, checkpoint: &Path) -> Result<Exporter<'p>, Failure> {
    if a.use_sdpa_with_kv_cache && !a.use_kv_cache {
        return Err(Failure::Usage("--use-sdpa-with-kv-cache needs --use-kv-cache (-kv)".to_owned()));
    }
    if a.quantization.quantize_kv_cache && !a.use_sdpa_with_kv_cache {
        return Err(Failure::Usage("--quantize-kv-cache needs --use-sdpa-with-kv-cache and -kv".to_owned()));
    }
    if a.max_context_length < a.max_seq_length {
        return Err(Failure::Usage(format!(
            "--max-context-length is {}, expected at least --max-seq-length, which is {}",
            a.max_context_length, a.max_seq_length
        )));
    }
    let metadata = match &a.metadata {
        None => Vec::new(),
        Some(text) => {
            let value =
                serde_json::from_str(text).map_err(|e| Failure::Usage(format!("--metadata is no JSON: {e}")))?;
            let metadata = parse_metadata(&value).map_err(|e| Failure::Usage(format!("--metadata: {e}")))?;
            let mut module = pteron::ir::Module::new("metadata");
            for (name, values) in &metadata {
                module.set_metadata(name, values.clone());
            }
            ModelMetadata::from_constant_methods(&pteron::constant_methods(&module))
                .map_err(|e| Failure::Usage(format!("--metadata: {e}")))?;
            metadata
        }
    };
    let recipe = high::recipe(&a.quantization, &a.calibration.calibration_data)?;
    let calibration = high::calibration(&a.calibration, a.calibration_state.as_deref())?;
    if !a.print_plan {
        quantize::check_data(&recipe, &calibration).map_err(|e| Failure::Usage(e.to_string()))?;
    }
    let mut exporter = Exporter::open(checkpoint)?
        .dtype(high::dtype(a.dtype_override))
        .kv_cache(a.use_kv_cache)
        .sdpa_with_kv_cache(a.use_sdpa_with_kv_cache)
        .quantize_kv_cache(a.quantization.quantize_kv_cache)
        .static_kv_cache(static_kv_cache(a)?)
        .dynamic_shape(!a.disable_dynamic_shape)
        .max_seq_length(a.max_seq_length)
        .max_context_length(a.max_context_length)
        .full_logits(a.generate_full_logits)
        .allow_unexpected(a.allow_unexpected)
        .xnnpack(xnnpack(a, recipe.base.pt2e.as_deref())?)
        .quantize(recipe)
        .calibration(calibration)
        .evaluation(high::gate(&a.gate)?)
        .bare(a.bare);
    if let Some(layout) = high::pre_quantized(&a.preq)? {
        exporter = exporter.pre_quantized(layout);
    }
    if let Some(options) = high::qnn(a)? {
        exporter = exporter.qnn(options);
    }
    for (name, values) in metadata {
        exporter = exporter.metadata(name, values);
    }
    if let Some(path) = &a.params {
        exporter = exporter.params(path);
    }
    if let Some(path) = &a.tokenizer_path {
        exporter = exporter.tokenizer(path);
    }
    Ok(exporter)
}

/// The static cache that the flags ask for.
fn static_kv_cache(a: &ExportArgs) -> Result<Option<StaticKvCache>, Failure> {
    if !a.static_quantize_kv_cache {
        return Ok(None);
    }
    if !a.use_kv_cache {
        return Err(Failure::Usage("--static-quantize-kv-cache needs --use-kv-cache (-kv)".to_owned()));
    }
    match a.static_quantize_kv_cache_scale {
        Some(scale) if scale.is_finite() && scale > 0.0 => Ok(Some(StaticKvCache { scale, ..StaticKvCache::default() })),
        Some(scale) => {
            Err(Failure::Usage(format!("--static-quantize-kv-cache-scale is {scale}, expected a positive number")))
        }
        None if a.calibration.calibration_data.is_empty() => Err(Failure::Usage(
            "--static-quantize-kv-cache learns its scales from text: give some of what the model will read with \
             --calibration-data FILE, or one scale for all with --static-quantize-kv-cache-scale (export_llama's is 0.007874, \
             which clips beyond 1)"
                .to_owned(),
        )),
        None => Ok(Some(StaticKvCache::default())),
    }
}

/// The recipe and what it makes of the model.
fn print_plan(exporter: Exporter<'_>) -> Done {
    let recipe = exporter.recipe().clone();
    if recipe.is_none() {
        return Err(Failure::Usage(
            "--print-plan needs something to quantize: a --recipe, or flags of quantization".into(),
        ));
    }
    let plan = exporter.plan().map_err(failure)?;
    put(&format!("{recipe}\n{plan}"))
}

/// What goes to XNNPACK: as the flags say, and where `export_llama` gives it a PT2E scheme's linear layers by itself.
fn xnnpack(a: &ExportArgs, pt2e: Option<&str>) -> Result<Option<Xnnpack>, Failure> {
    let of_xnnpack = |list: &str| list.split(',').any(|name| name.trim().starts_with("xnnpack_dynamic"));
    let by_itself = !a.no_xnnpack && !a.qnn.qnn && pt2e.is_some_and(of_xnnpack);
    let on = a.xnnpack || by_itself;
    if a.xnnpack_extended_ops && !on {
        return Err(Failure::Usage("--xnnpack-extended-ops needs --xnnpack (-X)".to_owned()));
    }
    if a.require_full_delegation && !on && !a.qnn.qnn {
        return Err(Failure::Usage("--require-full-delegation needs a backend: --xnnpack (-X) or --qnn".to_owned()));
    }
    let (extended_ops, require_full_delegation) = (a.xnnpack_extended_ops, a.require_full_delegation);
    Ok(on.then_some(Xnnpack { extended_ops, require_full_delegation }))
}

/// An option out of range is wrong usage. Options have the names of the flags, but for the spelling.
pub(super) fn failure(e: Error) -> Failure {
    match &e {
        Error::Model(m) => match &**m {
            ModelError::Option { option, found, expected } => {
                Failure::Usage(format!("--{} is {found}, expected {expected}", option.replace('_', "-")))
            }
            _ => e.into(),
        },
        _ => e.into(),
    }
}

const WRITING: &str = "{msg:11} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
const QUANTIZING: &str = "{msg:11} {wide_bar} {pos}/{len} layers  {eta}";
const CALIBRATING: &str = "{msg:11} {wide_bar} {pos}/{len} windows  {eta}";
const EVALUATING: &str = "{msg:11} {wide_bar} {pos}/{len} tokens  {eta}";

/// A bar on a terminal, nothing elsewhere.
pub(super) struct Bar {
    pub(super) bar: ProgressBar,
    template: Cell<&'static str>,
}

impl Bar {
    pub(super) fn new() -> Bar {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let bar = Bar { bar, template: Cell::new("") };
        bar.style(WRITING);
        bar
    }

    fn style(&self, template: &str) {
        self.bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    }

    /// Shows `done` of `total`; counting begins anew where the unit changes, or `done` is 0.
    fn count(&self, done: u64, total: u64, template: &'static str) {
        if done == 0 || self.template.get() != template {
            self.style(template);
            self.template.set(template);
            self.bar.reset();
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
    }

    pub(super) fn show(&self, p: Progress, verbose: bool) {
        let stage = match p {
            Progress::Building => "building",
            Progress::Quantizing { done, total } => {
                self.count(done as u64, total as u64, QUANTIZING);
                "quantizing"
            }
            Progress::Calibrating { done, total } => {
                self.count(done as u64, total as u64, CALIBRATING);
                "calibrating"
            }
            Progress::Evaluating { done, total } => {
                self.count(done as u64, total as u64, EVALUATING);
                "evaluating"
            }
            Progress::Lowering => "lowering",
            Progress::Compiling => "compiling",
            Progress::Emitting => "planning",
            Progress::Writing { done, total } => {
                self.count(done, total, WRITING);
                "writing"
            }
            Progress::Finishing => "flushing",
        };
        if self.bar.message() != stage {
            self.bar.set_message(stage);
            if verbose {
                self.bar.suspend(|| say(stage));
            }
        }
    }
}

/// The end of an export, for people.
pub(super) fn summary(r: &ExportReport) -> String {
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14} {text}");
    };
    match &r.path {
        Some(path) => row("program", path.display().to_string()),
        None => row("program", "verified, not written (--export-only)".to_owned()),
    }
    let names: Vec<_> = r.beside.iter().filter_map(|p| p.file_name()).map(|n| n.to_string_lossy()).collect();
    if !names.is_empty() {
        row("beside it", names.join(", "));
    }
    row("model", format!("{}, {}", r.architecture, r.dtype));
    if let Some(q) = &r.quantization {
        row("quantized", format!("{}: {} layers", q.scheme, number(q.layers as u64)));
        if q.taken_over > 0 {
            let (taken, all) = (number(q.taken_over as u64), number(q.layers as u64));
            row("taken over", format!("{taken} of {all} layers have the checkpoint's own codes and scales"));
        }
        if let Some(c) = &q.calibration {
            row("calibrated", calibrated(c));
        }
        if let Some(t) = q.trained {
            let all = number((t.trained + t.calibrated) as u64);
            row("trained", format!("{} of {all} scales found by training", number(t.trained as u64)));
        }
        match (&q.evaluation, &q.not_evaluated) {
            (Some(e), _) => {
                row("perplexity", format!("{:.4} (float: {:.4}) on {}", e.perplexity, e.perplexity_float, e.text));
                let (percent, limit) = (100.0 * e.same_top_token, e.max_kl);
                row(
                    "KL divergence",
                    format!(
                        "{} ± {} nats (99%: {}; limit {limit}), same top token {percent:.1}%, {} tokens scored",
                        pteron::short(e.kl),
                        pteron::short(e.kl_stderr),
                        pteron::short(e.kl_99),
                        number(e.scored as u64)
                    ),
                );
            }
            (None, Some(why)) => row("not evaluated", why.clone()),
            (None, None) => {}
        }
    }
    if let Some(q) = &r.qnn {
        let nodes = number((q.delegated + q.outside) as u64);
        row(
            "delegated",
            format!("{} of {nodes} nodes to {} ({}, {})", number(q.delegated as u64), q.soc, q.mode, q.library),
        );
        for c in &q.contexts {
            let shared = c.shared_bytes.map_or(String::new(), |b| format!(", {} with shared weights", bytes(b)));
            let graphs = c.graphs.join(", ");
            let time = format!("compiled in {:.2} s, {:.2} s of it finalizing", c.compose_seconds, c.finalize_seconds);
            row("context", format!("{}{shared}: {graphs}; {time}", bytes(c.bytes)));
        }
    }
    if !r.missing_operators.is_empty() {
        row("not in ExecuTorch", r.missing_operators.join(", "));
    }
    if let Some(p) = &r.partition {
        let taken: usize = p.delegated.iter().map(|(_, n)| n).sum();
        row("delegated", format!("{} nodes in {} delegates to {}", number(taken as u64), p.delegates, p.backend));
        if p.dynamic_layers > 0 {
            let n = number(p.dynamic_layers as u64);
            row("", format!("{n} layers quantize activations by {}'s rule, row by row", p.backend));
        }
        for u in &p.undelegated {
            row("  stays", format!("{} {}: {}", number(u.count as u64), u.operator, u.reason));
        }
    }
    row("parameters", number(r.parameters));
    row("file size", format!("{} ({} of constants)", bytes(r.file_bytes), bytes(r.weight_bytes)));
    row("arena size", format!("{} (ExecuTorch's planner: {})", bytes(r.arena_bytes), bytes(r.executorch_arena_bytes)));
    row("methods", r.methods.join(", "));
    row("instructions", format!("{} of {} operators", number(r.instructions as u64), r.operators));
    let peak = r.peak_anonymous_bytes.map_or_else(|| "not known on this system".to_owned(), bytes);
    row("peak memory", peak);
    row("time", format!("{:.2} s", r.seconds));
    out
}

/// `5,120 tokens in 10 windows of text.txt`.
pub(super) fn calibrated(c: &pteron::calibration::CalibrationReport) -> String {
    let files = if c.files.is_empty() { "a state file".to_owned() } else { c.files.join(", ") };
    let sha = c.sha256.get(..12).unwrap_or_default();
    format!(
        "{} tokens in {} windows of {files} (SHA-256 {sha}…), {} observers",
        number(c.tokens),
        number(c.windows),
        c.observers
    )
}
