//! How far the quantized model is from the float one: a short evaluation after every quantized export.

use std::path::Path;

use pteron_eval::{CausalModel, Evaluation, ModelError, Protocol, evaluate};
use pteron_ir::Module;
use pteron_kernels::Context;

use crate::error::Error;
use crate::eval::EvalModel;
use crate::program::{LoadOptions, Program};

/// Largest mean KL divergence of an export that is let through, in nats. Schemes that work lie far below it (8-bit weights
/// below a hundredth, 4-bit weights in groups below a tenth or two of a nat for small models, less for large ones); at half
/// a nat the next token's distribution has lost what sets the model apart from a much smaller one.
pub const DEFAULT_MAX_KL: f64 = 0.5;

/// What is done after a quantized export.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EvaluationOptions {
    /// Whether anything is measured.
    pub enabled: bool,
    /// Largest mean KL divergence in nats.
    pub max_kl: f64,
    /// Whether a model beyond it is written all the same.
    pub allow_degraded: bool,
}

impl Default for EvaluationOptions {
    fn default() -> EvaluationOptions {
        EvaluationOptions { enabled: true, max_kl: DEFAULT_MAX_KL, allow_degraded: false }
    }
}

/// Windows of tokens to measure on, with where they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Windows of equal length.
    pub(crate) windows: Vec<Vec<u32>>,
    /// Where they come from, for people.
    pub(crate) source: String,
}

/// What was measured, of the quantized model against the float one.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct ExportEvaluation {
    /// Where the tokens come from.
    pub text: String,
    /// Tokens of a window.
    pub window: usize,
    /// Windows.
    pub windows: usize,
    /// Tokens that were scored: all but the first of each window.
    pub scored: usize,
    /// Perplexity of the float model.
    pub perplexity_float: f64,
    /// Perplexity of the quantized model.
    pub perplexity: f64,
    /// Mean KL divergence from the float model, in nats.
    pub kl: f64,
    /// Its standard error.
    pub kl_stderr: f64,
    /// KL divergence below which 99% of the tokens lie.
    pub kl_99: f64,
    /// Share of tokens whose likeliest next token is the float model's.
    pub same_top_token: f64,
    /// The largest mean KL divergence that was allowed.
    pub max_kl: f64,
}

impl ExportEvaluation {
    /// Whether the model is as near as it was asked to be.
    pub fn holds(&self) -> bool {
        self.kl <= self.max_kl
    }
}

/// Bytes that the float model's logits may take, f32.
const LOGIT_BYTES: usize = 512 << 20;

/// The logits of a model that has been run, as a model.
#[derive(Debug)]
pub(crate) struct Recorded {
    vocab: usize,
    window: usize,
    most: usize,
    logits: Vec<f32>,
    /// The next row.
    at: usize,
}

impl Recorded {
    /// Runs `model` over the windows of `probe`, as many as fit in memory with their logits; cuts the others off.
    pub(crate) fn of(model: &mut EvalModel, probe: &mut Probe) -> Result<Recorded, Error> {
        let vocab = model.vocab_size();
        let window = probe.windows.first().map_or(1, Vec::len).max(1);
        let fits = (LOGIT_BYTES / 4 / vocab.max(1) / window).max(1);
        probe.windows.truncate(fits);
        let failed = |e: ModelError| Error::Calibration { reason: format!("the float model cannot be evaluated: {e}") };
        let mut logits = Vec::with_capacity(probe.windows.len() * window * vocab);
        for tokens in &probe.windows {
            model.restart().map_err(failed)?;
            for part in tokens.chunks(model.most_tokens().max(1)) {
                logits.extend_from_slice(model.feed(part).map_err(failed)?);
            }
        }
        Ok(Recorded { vocab, window, most: model.most_tokens(), logits, at: 0 })
    }
}

impl CausalModel for Recorded {
    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn most_tokens(&self) -> usize {
        self.most
    }

    fn whole_context(&self) -> bool {
        false
    }

    fn max_context(&self) -> usize {
        self.window
    }

    fn restart(&mut self) -> Result<(), ModelError> {
        // Windows come in the order in which they were recorded.
        self.at = self.at.next_multiple_of(self.window);
        Ok(())
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError> {
        let range = self.at * self.vocab..(self.at + tokens.len()) * self.vocab;
        self.at += tokens.len();
        self.logits.get(range).ok_or_else(|| "more tokens than were recorded".into())
    }
}

/// The logits of the float model `module`, which takes windows of the probe's length and gives the logits of all tokens.
pub(crate) fn record(path: &Path, module: Module, probe: &mut Probe, load: &LoadOptions) -> Result<Recorded, Error> {
    let mut model = EvalModel::from_program(Program::from_module(path, module, load)?, "forward")?;
    Recorded::of(&mut model, probe)
}

/// Measures `module` against the float model's logits, from the first window on.
pub(crate) fn compare(
    path: &Path,
    module: Module,
    probe: &Probe,
    float: &mut Recorded,
    load: &LoadOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, Error> {
    let mut model = EvalModel::from_program(Program::from_module(path, module, load)?, "forward")?;
    float.at = 0;
    let tokens: Vec<u32> = probe.windows.iter().flatten().copied().collect();
    let ctx = Context::new(load.threads.unwrap_or_else(crate::host::default_threads));
    let protocol = Protocol::NonOverlapping { window: float.window };
    evaluate(&ctx, &mut model, Some(float), &tokens, protocol, None, None, &mut |p| {
        progress(p.done, p.total);
        true
    })
    .map_err(|e| Error::Calibration { reason: format!("the quantized model cannot be evaluated: {e}") })
}

/// [`compare`], as an export reports it.
pub(crate) fn measure(
    path: &Path,
    module: Module,
    probe: &Probe,
    mut float: Recorded,
    max_kl: f64,
    load: &LoadOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ExportEvaluation, Error> {
    let found = compare(path, module, probe, &mut float, load, progress)?;
    let Some(d) = &found.divergence else {
        return Err(Error::Calibration { reason: "the evaluation compared nothing".to_owned() });
    };
    Ok(ExportEvaluation {
        text: probe.source.clone(),
        window: float.window,
        windows: found.windows,
        scored: found.scored,
        perplexity_float: d.reference.value,
        perplexity: found.perplexity.value,
        kl: d.kl.mean,
        kl_stderr: d.kl.stderr,
        kl_99: d.kl_quantiles.p99,
        same_top_token: d.same_top.mean,
        max_kl,
    })
}
