//! One token after another.

use super::decoder::Caller;
use super::{CancelHandle, FinishReason, RunnerError, TextDecoder};
use crate::clock::Clock;
use crate::sampler::Sampler;
use crate::tokenizer::{StreamDecoder, Tokenizer};

pub(super) struct TokenGenerator<'r, D, C> {
    pub(super) caller: Caller<'r, D, C>,
    pub(super) tokenizer: &'r Tokenizer,
    pub(super) sampler: &'r mut Sampler,
    pub(super) history: &'r mut Vec<u32>,
    pub(super) eos_ids: &'r [u32],
    pub(super) cancel: &'r CancelHandle,
    pub(super) skip_special: bool,
}

pub(super) struct Generated {
    pub(super) text: String,
    pub(super) token_ids: Vec<u32>,
    /// `None`: the budget was used up.
    pub(super) stopped: Option<FinishReason>,
}

impl<D: TextDecoder, C: Clock> TokenGenerator<'_, D, C> {
    /// Gives out `first` (`None`: cancelled during the prompt) and up to `budget − 1` more tokens. `context` is the text before, for decoding.
    pub(super) fn generate(
        mut self,
        context: &[u32],
        first: Option<u32>,
        budget: usize,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<Generated, RunnerError> {
        let mut stream = StreamDecoder::after(self.tokenizer, self.skip_special, context)?;
        let mut generated = Generated { text: String::new(), token_ids: Vec::new(), stopped: None };
        let uses_kv_cache = self.caller.decoder.uses_kv_cache();
        let mut whole: Vec<i64> =
            if uses_kv_cache { Vec::new() } else { self.history.iter().copied().map(i64::from).collect() };
        let mut give = |piece: String, text: &mut String| {
            if !piece.is_empty() {
                on_text(&piece);
                text.push_str(&piece);
            }
        };
        let Some(mut current) = first else {
            return Ok(Generated { stopped: Some(FinishReason::Cancelled), ..generated });
        };
        loop {
            generated.token_ids.push(current);
            give(stream.push(current)?, &mut generated.text);
            if self.eos_ids.contains(&current) {
                generated.stopped = Some(FinishReason::EndOfText(current));
                break;
            }
            if generated.token_ids.len() >= budget {
                break;
            }
            if self.cancel.is_set() {
                generated.stopped = Some(FinishReason::Cancelled);
                break;
            }
            let sampler = &mut *self.sampler;
            let position = self.history.len();
            let next = if uses_kv_cache {
                let token = [i64::from(current)];
                self.caller.step(&token, position, |row, timer| timer.timed_sampling(|| sampler.sample(row)))
            } else {
                whole.push(i64::from(current));
                self.caller.step(&whole, 0, |row, timer| timer.timed_sampling(|| sampler.sample(row)))
            }?;
            self.history.push(current);
            current = next;
        }
        give(stream.finish()?, &mut generated.text);
        Ok(generated)
    }
}
