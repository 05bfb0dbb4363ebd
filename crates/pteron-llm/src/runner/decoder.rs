//! The model, as the runner sees it.

use super::RunnerError;
use crate::clock::Clock;
use crate::sampler::{LogitsRow, SamplerError};
use crate::stats::Stats;
use half::{bf16, f16};
use std::borrow::Cow;

/// Any error of a model.
pub type DecoderError = Box<dyn std::error::Error + Send + Sync>;

/// How many tokens one call of a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokensPerCall {
    /// A static shape.
    Exactly(usize),
    /// A dynamic shape, up to its declared bound (ExecuTorch's exporter declares `max_seq_len − 1`).
    UpTo(usize),
    /// A dynamic shape without a bound.
    Any,
}

impl TokensPerCall {
    /// The most tokens of one call.
    pub fn most(self) -> usize {
        match self {
            Self::Exactly(n) | Self::UpTo(n) => n,
            Self::Any => usize::MAX,
        }
    }
}

/// A model that turns tokens into logits.
pub trait TextDecoder {
    /// One call. With a KV cache, `tokens` are the tokens from position `start_pos` on. Without one, `tokens` are the
    /// whole text and `start_pos` is 0.
    fn step(&mut self, tokens: &[i64], start_pos: i64) -> Result<Logits<'_>, DecoderError>;

    /// Whether the model remembers earlier calls. In ExecuTorch's programs: whether it has a second input.
    fn uses_kv_cache(&self) -> bool;

    /// How many tokens a call takes.
    fn tokens_per_call(&self) -> TokensPerCall;

    /// Whether the cache can be a ring that overwrites its oldest entries. ExecuTorch's runner takes a program whose
    /// `get_max_seq_len` is below its `get_max_context_len` for one, and so does this runner unless the model knows
    /// better: programs whose calls are shorter than their cache declare the same. True if not told.
    fn can_wrap(&self) -> bool {
        true
    }

    /// A new conversation begins at position 0. Caches that are addressed by position need nothing.
    fn reset(&mut self) -> Result<(), DecoderError> {
        Ok(())
    }
}

impl<D: TextDecoder + ?Sized> TextDecoder for Box<D> {
    fn step(&mut self, tokens: &[i64], start_pos: i64) -> Result<Logits<'_>, DecoderError> {
        (**self).step(tokens, start_pos)
    }

    fn uses_kv_cache(&self) -> bool {
        (**self).uses_kv_cache()
    }

    fn tokens_per_call(&self) -> TokensPerCall {
        (**self).tokens_per_call()
    }

    fn can_wrap(&self) -> bool {
        (**self).can_wrap()
    }

    fn reset(&mut self) -> Result<(), DecoderError> {
        (**self).reset()
    }
}

/// The elements of a logits tensor, borrowed from the model or owned.
#[derive(Clone, Debug)]
pub enum LogitsData<'a> {
    /// Single precision.
    F32(Cow<'a, [f32]>),
    /// IEEE half precision.
    F16(Cow<'a, [f16]>),
    /// bfloat16.
    Bf16(Cow<'a, [bf16]>),
}

impl LogitsData<'_> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(data) => data.len(),
            Self::F16(data) => data.len(),
            Self::Bf16(data) => data.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a call returns: `[1, n, vocab]` or `[n, vocab]`, dense, the last dimension contiguous. `n` is the number of
/// tokens passed, or 1 where the program returns the last token's logits only.
#[derive(Clone, Debug)]
pub struct Logits<'a> {
    /// The elements.
    pub data: LogitsData<'a>,
    /// The shape.
    pub shape: Vec<usize>,
}

impl Logits<'_> {
    /// Rows and width.
    pub fn rows(&self) -> Result<(usize, usize), RunnerError> {
        let rows_and_width = match *self.shape.as_slice() {
            [1, rows, vocab] | [rows, vocab] => Some((rows, vocab)),
            _ => None,
        };
        match rows_and_width {
            Some((rows, vocab))
                if rows > 0
                    && vocab > 0
                    && rows.checked_mul(vocab) == Some(self.data.len())
                    && u32::try_from(vocab).is_ok() =>
            {
                Ok((rows, vocab))
            }
            _ => Err(RunnerError::LogitsShape { shape: self.shape.clone(), elements: self.data.len() }),
        }
    }

    /// One row, `None` past the last.
    pub fn row(&self, index: usize) -> Result<Option<LogitsRow<'_>>, RunnerError> {
        let (rows, vocab) = self.rows()?;
        if index >= rows {
            return Ok(None);
        }
        let range = index * vocab..(index + 1) * vocab;
        Ok(match &self.data {
            LogitsData::F32(data) => data.get(range).map(LogitsRow::F32),
            LogitsData::F16(data) => data.get(range).map(LogitsRow::F16),
            LogitsData::Bf16(data) => data.get(range).map(LogitsRow::Bf16),
        })
    }
}

/// Calls of the model, timed and checked.
pub(super) struct Caller<'r, D, C> {
    pub(super) decoder: &'r mut D,
    pub(super) clock: &'r C,
    pub(super) stats: &'r mut Stats,
    pub(super) vocab: Option<usize>,
}

/// The part of [`Caller`] that is there while logits are borrowed from the model.
pub(super) struct Timer<'c, C> {
    clock: &'c C,
    stats: &'c mut Stats,
}

impl<C: Clock> Timer<'_, C> {
    pub(super) fn timed_sampling(
        &mut self,
        sample: impl FnOnce() -> Result<u32, SamplerError>,
    ) -> Result<u32, RunnerError> {
        let start = self.clock.now_us();
        let token = sample()?;
        self.stats.aggregate_sampling_time_us += (self.clock.now_us() - start).max(0);
        Ok(token)
    }
}

impl<D: TextDecoder, C: Clock> Caller<'_, D, C> {
    /// Calls the model and hands the row of the last token to `use_row`.
    ///
    /// A program without a cache that takes exactly `n` tokens gets shorter texts filled up on the right: attention is
    /// causal, so the rows of the real tokens do not depend on what follows them.
    pub(super) fn step<T>(
        &mut self,
        tokens: &[i64],
        position: usize,
        use_row: impl FnOnce(LogitsRow<'_>, &mut Timer<'_, C>) -> Result<T, RunnerError>,
    ) -> Result<T, RunnerError> {
        let count = tokens.len();
        let fixed = match self.decoder.tokens_per_call() {
            TokensPerCall::Exactly(fixed) if fixed != count => Some(fixed),
            _ => None,
        };
        let padded;
        let passed = match fixed {
            Some(fixed) if fixed < count => {
                return Err(RunnerError::FixedLength { fixed, reason: "the text is longer" });
            }
            Some(fixed) => {
                padded = tokens.iter().copied().chain(std::iter::repeat(0)).take(fixed).collect::<Vec<_>>();
                &padded
            }
            None => tokens,
        };
        let start_us = self.clock.now_us();
        let logits = self.decoder.step(passed, position as i64).map_err(|source| RunnerError::Decoder {
            position,
            tokens: count,
            source,
        })?;
        let end_us = self.clock.now_us();
        self.stats.model_execution_start_ms = start_us.div_euclid(1000);
        self.stats.model_execution_end_ms = end_us.div_euclid(1000);
        self.stats.aggregate_model_execution_time_us += (end_us - start_us).max(0);
        let (rows, width) = logits.rows()?;
        if let Some(declared) = self.vocab
            && declared != width
        {
            return Err(RunnerError::LogitsWidth { found: width, declared });
        }
        let row = match fixed {
            Some(fixed) if rows != fixed => {
                return Err(RunnerError::FixedLength {
                    fixed,
                    reason: "returns the last token's logits only, so a shorter text cannot be filled up",
                });
            }
            Some(_) => count - 1,
            None => rows - 1,
        };
        match logits.row(row)? {
            Some(row) => use_row(row, &mut Timer { clock: self.clock, stats: self.stats }),
            None => Err(RunnerError::LogitsShape { shape: logits.shape.clone(), elements: logits.data.len() }),
        }
    }
}
