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

/// Logits of the float model, f32, that are recorded or compared at most, in bytes: what bounds the time of an evaluation.
const LOGIT_BYTES: usize = 512 << 20;

impl Probe {
    /// Tokens of a window.
    fn window(&self) -> usize {
        self.windows.first().map_or(1, Vec::len).max(1)
    }

    /// Cuts off the windows beyond what is measured of a model of `vocab` tokens.
    fn limit(&mut self, vocab: usize) {
        let fits = (LOGIT_BYTES / 4 / vocab.max(1) / self.window()).max(1);
        self.windows.truncate(fits);
    }
}

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
        probe.limit(vocab);
        let window = probe.window();
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

    /// Goes back to the first window.
    pub(crate) fn rewind(&mut self) {
        self.at = 0;
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

/// The model that `module` is, which takes windows of the probe's length and gives the logits of all tokens.
fn model_of(path: &Path, module: Module, load: &LoadOptions) -> Result<EvalModel, Error> {
    EvalModel::from_program(Program::from_module(path, module, load)?, "forward")
}

/// The logits of the float model `module`, for those who compare several models with it.
pub(crate) fn record(path: &Path, module: Module, probe: &mut Probe, load: &LoadOptions) -> Result<Recorded, Error> {
    Recorded::of(&mut model_of(path, module, load)?, probe)
}

/// Measures `module` against the float model, from the first window on.
pub(crate) fn compare(
    path: &Path,
    module: Module,
    probe: &Probe,
    float: &mut dyn CausalModel,
    load: &LoadOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evaluation, Error> {
    let mut model = model_of(path, module, load)?;
    let tokens: Vec<u32> = probe.windows.iter().flatten().copied().collect();
    let ctx = Context::new(load.threads.unwrap_or_else(crate::host::default_threads));
    let protocol = Protocol::NonOverlapping { window: probe.window() };
    evaluate(&ctx, &mut model, Some(float), &tokens, protocol, None, None, &mut |p| {
        progress(p.done, p.total);
        true
    })
    .map_err(|e| Error::Calibration { reason: format!("the quantized model cannot be evaluated: {e}") })
}

/// Tokens in one call of the two models: the logits of more would take more memory than the models.
const STEP: usize = 32;

/// A model that is fed some tokens at a time.
struct InSteps<'a>(&'a mut dyn CausalModel);

impl CausalModel for InSteps<'_> {
    fn vocab_size(&self) -> usize {
        self.0.vocab_size()
    }

    fn most_tokens(&self) -> usize {
        if self.0.whole_context() { self.0.most_tokens() } else { self.0.most_tokens().min(STEP) }
    }

    fn whole_context(&self) -> bool {
        self.0.whole_context()
    }

    fn max_context(&self) -> usize {
        self.0.max_context()
    }

    fn restart(&mut self) -> Result<(), ModelError> {
        self.0.restart()
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError> {
        self.0.feed(tokens)
    }
}

/// [`compare`] with the float model `float`, as an export reports it. Both models run window by window, so that the logits of
/// one window are all that is held.
pub(crate) fn measure(
    path: &Path,
    module: Module,
    mut probe: Probe,
    float: Module,
    max_kl: f64,
    load: &LoadOptions,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<ExportEvaluation, Error> {
    let mut float = model_of(path, float, load)?;
    probe.limit(float.vocab_size());
    let found = compare(path, module, &probe, &mut InSteps(&mut float), load, progress)?;
    let Some(d) = &found.divergence else {
        return Err(Error::Calibration { reason: "the evaluation compared nothing".to_owned() });
    };
    Ok(ExportEvaluation {
        text: probe.source.clone(),
        window: probe.window(),
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
