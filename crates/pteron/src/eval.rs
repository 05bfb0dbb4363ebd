//! Programs and captured checkpoints, as [`pteron_eval`] measures them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use pteron_eval::nodes::{NodeComparison, NodeError};
use pteron_eval::{CausalModel, EvalError, ModelError};
use pteron_exec::{NoHook, NodeHook};
use pteron_ir::Module;
use pteron_llm::runner::{Logits, LogitsData, TextDecoder, TokensPerCall};
use pteron_tensor::DType;

use crate::error::Error;
use crate::export::{Exporter, config_of};
use crate::program::{LoadOptions, Program};
use crate::text::ProgramDecoder;

/// Logits of one call take at most so many bytes, f32, if the model lets the number of tokens be chosen.
const LOGIT_BYTES: usize = 64 << 20;

/// A text model whose logits are measured: a program, or a captured checkpoint.
#[derive(Debug)]
pub struct EvalModel {
    decoder: ProgramDecoder,
    vocab: usize,
    most: usize,
    /// Tokens of a call with a static shape, to which shorter calls are filled up.
    fixed: Option<usize>,
    max_context: usize,
    position: usize,
    padded: Vec<i64>,
    logits: Vec<f32>,
}

impl EvalModel {
    /// Takes the method `method` of a program. One token is fed to learn the number of logits, and whether a call gives
    /// those of all its tokens: where it gives the last one's only, a model with a KV cache is fed token by token, and one
    /// without is an error.
    ///
    /// # Errors
    /// [`Error::NotText`] if the program is no text model, or cannot be measured.
    pub fn from_program(program: Program, method: &str) -> Result<EvalModel, Error> {
        let path = program.path().to_owned();
        let metadata = program.metadata()?;
        let fail = |reason: String| Error::NotText { path: path.clone(), method: method.to_owned(), reason };
        let mut decoder = ProgramDecoder::new(program, method)?;
        let per_call = decoder.tokens_per_call();
        let fixed = match per_call {
            TokensPerCall::Exactly(n) => Some(n),
            TokensPerCall::UpTo(_) | TokensPerCall::Any => None,
        };
        let cached = decoder.uses_kv_cache();
        let probe = fixed.unwrap_or_else(|| per_call.most().min(2));
        let (rows, vocab) = {
            let logits = decoder.step(&vec![0; probe], 0).map_err(|e| fail(e.to_string()))?;
            logits.rows().map_err(|e| fail(e.to_string()))?
        };
        decoder.reset().map_err(|e| fail(e.to_string()))?;
        let last_only = rows == 1 && probe > 1;
        if last_only && (fixed.is_some() || !cached) {
            let hint = "export it with --generate-full-logits";
            return Err(fail(format!(
                "it gives the logits of the last token only, and has no cache that could be fed token by token: {hint}"
            )));
        }
        let room = (LOGIT_BYTES / 4 / vocab.max(1)).max(1);
        let most = match (last_only, fixed, cached) {
            (true, _, _) => 1,
            (_, Some(n), _) => n,
            (_, None, true) => per_call.most().min(room),
            (_, None, false) => per_call.most(),
        };
        let declared = metadata.max_context_len.max(metadata.max_seq_len);
        let max_context = if cached { declared } else { most };
        Ok(EvalModel { decoder, vocab, most, fixed, max_context, position: 0, padded: Vec::new(), logits: Vec::new() })
    }

    /// Captures a checkpoint for windows of `window` tokens, computing in `dtype`: with a KV cache and the logits of all
    /// tokens.
    ///
    /// # Errors
    /// As [`Exporter::write`], and [`Error::Exec`] where the machine's memory does not do.
    pub fn from_checkpoint(
        path: &Path,
        window: usize,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<EvalModel, Error> {
        let exporter = Exporter::open(path)?;
        EvalModel::from_exporter(exporter, path, window, dtype, options)
    }

    /// [`EvalModel::from_checkpoint`] of an exporter with settings of one's own, of which shapes, cache and logits are set
    /// here.
    ///
    /// # Errors
    /// As [`EvalModel::from_checkpoint`].
    pub fn from_exporter(
        exporter: Exporter<'_>,
        path: &Path,
        window: usize,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<EvalModel, Error> {
        let module = shaped(exporter, window, dtype)?.module()?;
        EvalModel::from_program(Program::from_module(path, module, options)?, METHOD)
    }

    /// [`EvalModel::from_exporter`] of the module as it was captured, high-level operators whole: what [`compare_nodes`] takes.
    ///
    /// # Errors
    /// As [`EvalModel::from_checkpoint`].
    pub fn captured(
        exporter: Exporter<'_>,
        path: &Path,
        window: usize,
        dtype: DType,
        options: &LoadOptions,
    ) -> Result<EvalModel, Error> {
        let module = shaped(exporter, window, dtype)?.captured()?;
        EvalModel::from_program(Program::from_module(path, module, options)?, METHOD)
    }

    /// The module that is run.
    pub fn module(&self) -> &Arc<Module> {
        self.decoder.program().module()
    }

    /// [`CausalModel::feed`], with a hook around every node.
    ///
    /// # Errors
    /// Whatever the model reports.
    pub fn feed_watched(&mut self, tokens: &[u32], hook: &mut dyn NodeHook) -> Result<&[f32], ModelError> {
        self.padded.clear();
        self.padded.extend(tokens.iter().map(|&t| i64::from(t)));
        // Attention is causal: what is filled up behind the tokens does not reach them, and the next context overwrites it.
        if let Some(fixed) = self.fixed.filter(|&f| f > tokens.len()) {
            self.padded.resize(fixed, 0);
        }
        let start = i64::try_from(self.position)?;
        let logits = self.decoder.step_watched(&self.padded, start, hook)?;
        let (rows, vocab) = logits.rows()?;
        if vocab != self.vocab || rows != self.padded.len() {
            let found = format!("logits of {rows} × {vocab}, expected {} × {}", self.padded.len(), self.vocab);
            return Err(found.into());
        }
        widen(logits, tokens.len(), vocab, &mut self.logits);
        self.position += tokens.len();
        Ok(&self.logits)
    }
}

/// The method of a captured checkpoint.
const METHOD: &str = "forward";

/// Tokens of a call whose values are held for a comparison.
const HELD_TOKENS: usize = 64;

/// An export with a KV cache and the logits of all tokens, for windows of `window` tokens.
fn shaped(exporter: Exporter<'_>, window: usize, dtype: DType) -> Result<Exporter<'_>, Error> {
    let vocab = config_of(exporter.checkpoint())?.vocab_size;
    let call = (LOGIT_BYTES / 4 / vocab).clamp(1, window.max(1));
    // A dynamic shape takes one token less than the longest call.
    let longest = call + pteron_models::DYNAMIC_RESERVE;
    Ok(exporter
        .dtype(dtype)
        .kv_cache(true)
        .sdpa_with_kv_cache(true)
        .dynamic_shape(true)
        .full_logits(true)
        .max_seq_length(longest)
        .max_context_length(window.max(longest)))
}

/// Compares a quantized model with the float model node by node over windows of `tokens`, which must lie within it: both from
/// [`EvalModel::captured`] with the same shapes. `progress` is called with the tokens run; `false` stops.
///
/// # Errors
/// [`EvalError::Model`] with the position in `tokens`; [`EvalError::Stopped`].
pub fn compare_nodes(
    subject: &mut EvalModel,
    reference: &mut EvalModel,
    tokens: &[u32],
    windows: &[Range<usize>],
    progress: &mut dyn FnMut(usize) -> bool,
) -> Result<Vec<NodeError>, EvalError> {
    let (ours, theirs) = (subject.module().clone(), reference.module().clone());
    let (Some(g), Some(r)) = (ours.graph(METHOD), theirs.graph(METHOD)) else { return Ok(Vec::new()) };
    let mut comparison = NodeComparison::new(r, g, &ours);
    let piece = subject.most.min(reference.most).min(HELD_TOKENS);
    let mut done = 0;
    for window in windows {
        let failed = |which, position, source| EvalError::Model { which, position, source };
        reference.restart().map_err(|e| failed("the reference", window.start, e))?;
        subject.restart().map_err(|e| failed("the model", window.start, e))?;
        for (i, tokens) in tokens[window.clone()].chunks(piece).enumerate() {
            let at = window.start + i * piece;
            let run = reference.feed_watched(tokens, &mut comparison.reference());
            run.map_err(|e| failed("the reference", at, e))?;
            let run = subject.feed_watched(tokens, &mut comparison.subject());
            run.map_err(|e| failed("the model", at, e))?;
            done += tokens.len();
            if !progress(done) {
                return Err(EvalError::Stopped);
            }
        }
    }
    Ok(comparison.finish())
}

/// The first `rows` rows of `logits` as f32; f32 logits are taken as they are.
fn widen(logits: Logits<'_>, rows: usize, vocab: usize, out: &mut Vec<f32>) {
    let n = rows.saturating_mul(vocab);
    match logits.data {
        LogitsData::F32(d) => {
            *out = d.into_owned();
            out.truncate(n);
        }
        LogitsData::F16(d) => {
            out.clear();
            out.extend(d.iter().take(n).map(|v| v.to_f32()));
        }
        LogitsData::Bf16(d) => {
            out.clear();
            out.extend(d.iter().take(n).map(|v| v.to_f32()));
        }
    }
}

impl CausalModel for EvalModel {
    fn vocab_size(&self) -> usize {
        self.vocab
    }

    fn most_tokens(&self) -> usize {
        self.most
    }

    fn whole_context(&self) -> bool {
        !self.decoder.uses_kv_cache()
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn restart(&mut self) -> Result<(), ModelError> {
        self.position = 0;
        self.decoder.reset()
    }

    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError> {
        self.feed_watched(tokens, &mut NoHook)
    }
}
