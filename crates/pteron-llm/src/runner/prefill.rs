//! The prompt's way into the model.

use super::decoder::{Caller, Timer};
use super::{CancelHandle, RunnerError, TextDecoder, TokensPerCall};
use crate::clock::Clock;
use crate::metadata::ModelMetadata;
use crate::sampler::LogitsRow;

/// How a prompt is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefillMode {
    /// Without a cache: the whole text in one call.
    Whole,
    /// With a cache and a dynamic shape: chunks of at most so many tokens.
    Chunks(usize),
    /// With a cache and a static shape: token by token.
    Sequential,
}

impl PrefillMode {
    /// ExecuTorch's choice: in parallel when `enable_dynamic_shape` or without a cache, else token by token. A chunk has at
    /// most `max_seq_len` tokens, and no more than the program's own bound.
    pub(super) fn choose(metadata: &ModelMetadata, uses_kv_cache: bool, per_call: TokensPerCall) -> Self {
        let chunk = metadata.max_seq_len.min(per_call.most());
        if !uses_kv_cache {
            Self::Whole
        } else if metadata.enable_dynamic_shape && chunk > 1 {
            Self::Chunks(chunk)
        } else {
            Self::Sequential
        }
    }
}

/// Passes `prompt` after `history`, appends it there, and chooses the first token from the last row; `None` when
/// the run was cancelled between two calls.
pub(super) fn prefill<D: TextDecoder, C: Clock>(
    caller: &mut Caller<'_, D, C>,
    mode: PrefillMode,
    history: &mut Vec<u32>,
    prompt: &[u32],
    cancel: &CancelHandle,
    mut choose: impl FnMut(LogitsRow<'_>, &mut Timer<'_, C>) -> Result<u32, RunnerError>,
) -> Result<Option<u32>, RunnerError> {
    let chunk = match mode {
        PrefillMode::Whole => {
            let tokens: Vec<i64> = history.iter().chain(prompt).copied().map(i64::from).collect();
            let first = caller.step(&tokens, 0, choose)?;
            history.extend_from_slice(prompt);
            return Ok(Some(first));
        }
        PrefillMode::Chunks(chunk) => chunk,
        PrefillMode::Sequential => 1,
    };
    let mut first = None;
    let chunks = prompt.chunks(chunk);
    let last = chunks.len().saturating_sub(1);
    for (index, chunk) in chunks.enumerate() {
        if cancel.is_set() {
            return Ok(None);
        }
        let tokens: Vec<i64> = chunk.iter().copied().map(i64::from).collect();
        let token =
            caller.step(
                &tokens,
                history.len(),
                |row, timer| {
                    if index == last { choose(row, timer).map(Some) } else { Ok(None) }
                },
            )?;
        history.extend_from_slice(chunk);
        first = token;
    }
    Ok(first)
}
