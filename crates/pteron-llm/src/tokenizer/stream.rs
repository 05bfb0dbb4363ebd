//! Decoding of one id after another.
//!
//! The pieces that [`StreamDecoder::push`] and [`StreamDecoder::finish`] return, put together, are exactly what
//! [`Tokenizer::decode`] returns for all ids at once, and no piece ends inside a character. The work for a token does not
//! grow with the length of the text. Text is held back only where a later token may still change it: an incomplete
//! character, and a run of byte tokens (`<0xE2>`), which decodes as a whole once another token ends it.

use super::{Tokenizer, TokenizerError};
use serde_json::Value;

/// Most tokens kept as left context of the next piece.
const MAX_CONTEXT_TOKENS: usize = 32;

/// How a tokenizer's decoder can be run piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamPlan {
    /// Each token is a string of bytes; the text is their concatenation.
    ByteLevel,
    /// A token's text depends on the token alone and on whether it is the first; with `byte_runs`, neighbouring byte
    /// tokens decode together.
    Window {
        /// Whether the decoder has byte fallback.
        byte_runs: bool,
    },
    /// Later tokens may change earlier text in ways that have no bound: everything is given out at the end.
    Whole,
}

impl StreamPlan {
    /// The plan for the `decoder` value of a `tokenizer.json`.
    pub(super) fn of_decoder(decoder: &Value) -> Self {
        let mut steps = Vec::new();
        flatten(decoder, &mut steps);
        if steps.iter().any(|step| kind(step) == "ByteLevel") {
            let only_bytes = steps.iter().all(|step| matches!(kind(step), "ByteLevel" | "Fuse"))
                && steps.iter().position(|step| kind(step) == "ByteLevel") == Some(0)
                && steps.iter().filter(|step| kind(step) == "ByteLevel").count() == 1;
            return if only_bytes { Self::ByteLevel } else { Self::Whole };
        }
        let mut fused = false;
        for step in &steps {
            match kind(step) {
                "Fuse" => fused = true,
                // After `Fuse` the whole text is one token: stripping its start is local, anything else is not.
                "Strip" if !fused || step["stop"].as_u64() == Some(0) => {}
                "Replace" | "ByteFallback" | "Metaspace" | "WordPiece" if !fused => {}
                _ => return Self::Whole,
            }
        }
        Self::Window { byte_runs: steps.iter().any(|step| kind(step) == "ByteFallback") }
    }
}

fn kind(step: &Value) -> &str {
    step["type"].as_str().unwrap_or_default()
}

fn flatten<'a>(decoder: &'a Value, steps: &mut Vec<&'a Value>) {
    match decoder["decoders"].as_array() {
        Some(inner) if kind(decoder) == "Sequence" => inner.iter().for_each(|step| flatten(step, steps)),
        _ if decoder.is_null() => {}
        _ => steps.push(decoder),
    }
}

/// Turns ids into text as they come. See the module documentation for the guarantees.
#[derive(Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    plan: StreamPlan,
    /// `ByteLevel`: the start of an incomplete character, at most 3 bytes.
    tail: Vec<u8>,
    /// Tokens whose text was given out and that the next ones are decoded after.
    context: Vec<u32>,
    /// The text of `context` alone.
    context_text: String,
    /// Tokens whose text was not given out.
    pending: Vec<u32>,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder at the start of a text.
    pub fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self {
            tokenizer,
            skip_special,
            plan: tokenizer.stream_plan(),
            tail: Vec::new(),
            context: Vec::new(),
            context_text: String::new(),
            pending: Vec::new(),
        }
    }

    /// A decoder that continues after `before`: the pieces are what these ids lack to the text of both. So the space
    /// before the first new word is kept.
    pub fn after(tokenizer: &'t Tokenizer, skip_special: bool, before: &[u32]) -> Result<Self, TokenizerError> {
        let mut decoder = Self::new(tokenizer, skip_special);
        if decoder.plan != StreamPlan::ByteLevel {
            let mut last: Vec<u32> =
                before.iter().rev().copied().filter(|&id| decoder.has_text(id)).take(MAX_CONTEXT_TOKENS).collect();
            last.reverse();
            decoder.set_context(last)?;
        }
        Ok(decoder)
    }

    /// Takes one id; returns the text that is now certain, often empty.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        if !self.has_text(id) {
            return Ok(String::new());
        }
        match self.plan {
            StreamPlan::ByteLevel => {
                self.tokenizer.push_bytes(id, &mut self.tail);
                Ok(take_characters(&mut self.tail))
            }
            StreamPlan::Whole => {
                self.pending.push(id);
                Ok(String::new())
            }
            StreamPlan::Window { byte_runs } => {
                self.pending.push(id);
                let in_run = byte_runs && self.tokenizer.id_to_piece(id).is_some_and(|piece| is_byte_piece(&piece));
                if in_run { Ok(String::new()) } else { self.commit() }
            }
        }
    }

    /// Ends the text; returns what was held back. An incomplete character becomes U+FFFD. The decoder is then at the
    /// start of a new text.
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let text = if self.plan == StreamPlan::ByteLevel {
            String::from_utf8_lossy(&self.tail).into_owned()
        } else if self.pending.is_empty() {
            String::new()
        } else {
            self.commit()?
        };
        *self = Self::new(self.tokenizer, self.skip_special);
        Ok(text)
    }

    fn has_text(&self, id: u32) -> bool {
        !(self.skip_special && self.tokenizer.is_special(id)) && self.tokenizer.id_to_piece(id).is_some()
    }

    /// Gives out the text of `pending`, which becomes context.
    fn commit(&mut self) -> Result<String, TokenizerError> {
        let mut ids = std::mem::take(&mut self.context);
        ids.append(&mut self.pending);
        let text = self.tokenizer.decode(&ids, self.skip_special)?;
        let new = text[common_prefix(&text, &self.context_text)..].to_owned();
        self.set_context(ids)?;
        Ok(new)
    }

    /// Keeps the shortest end of `ids` that has text of its own: whatever a decoder does to the start of a text (dropping
    /// a leading space) then happens inside the context.
    fn set_context(&mut self, mut ids: Vec<u32>) -> Result<(), TokenizerError> {
        for length in 1..=ids.len().min(MAX_CONTEXT_TOKENS) {
            let start = ids.len() - length;
            let text = self.tokenizer.decode(&ids[start..], self.skip_special)?;
            if !text.is_empty() {
                self.context_text = text;
                self.context = ids.split_off(start);
                return Ok(());
            }
        }
        // No text so far. The first token stays first, the middle of a long run without text says nothing.
        if ids.len() > MAX_CONTEXT_TOKENS {
            ids.drain(1..=ids.len() - MAX_CONTEXT_TOKENS);
        }
        self.context_text = self.tokenizer.decode(&ids, self.skip_special)?;
        self.context = ids;
        Ok(())
    }
}

/// Length of the longest common start of two texts, at a character boundary of the first.
fn common_prefix(text: &str, prefix: &str) -> usize {
    if text.starts_with(prefix) {
        return prefix.len();
    }
    text.char_indices()
        .zip(prefix.chars())
        .find(|((_, a), b)| a != b)
        .map_or(text.len().min(prefix.len()), |((at, _), _)| at)
}

/// The byte tokens of byte fallback, by the rule of the `tokenizers` library.
fn is_byte_piece(piece: &str) -> bool {
    piece.len() == 6
        && piece.starts_with("<0x")
        && piece.ends_with('>')
        && piece.get(3..5).is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok())
}

/// Takes the complete characters out of `bytes`, each malformed sequence as one U+FFFD, and leaves an incomplete one.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                match error.error_len() {
                    Some(length) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = &after[length..];
                    }
                    None => {
                        *bytes = after.to_vec();
                        return text;
                    }
                }
            }
        }
    }
}
