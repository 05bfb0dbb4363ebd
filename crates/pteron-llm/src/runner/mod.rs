//! Text from a prompt: prefill, then one token after another.
//!
//! The rules are those of ExecuTorch's runner (main: `extension/llm/runner/text_llm_runner.cpp`, `text_prefiller.cpp`,
//! `text_token_generator.h`). Where Pteron differs, it is to refuse or repair what gives wrong text there:
//!
//! - a first token that already ends the text stops the run (ExecuTorch looks for an end only after the second one);
//! - special tokens do not appear in the text;
//! - without a KV cache, a conversation of several turns is passed whole on every call;
//! - a prompt that does not fit, and ids that the model does not have, are errors before the model is called.

mod config;
mod decoder;
mod generator;
mod prefill;

pub use config::GenerationConfig;
pub use decoder::{DecoderError, Logits, LogitsData, TextDecoder, TokensPerCall};
pub use prefill::PrefillMode;

use crate::clock::Clock;
use crate::metadata::ModelMetadata;
use crate::sampler::{Sampler, SamplerConfig, SamplerError};
use crate::stats::Stats;
use crate::tokenizer::{Tokenizer, TokenizerError};
use decoder::Caller;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunnerError {
    /// Tokenizing or decoding failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// Sampling failed, or a sampling parameter is out of range.
    #[error(transparent)]
    Sampler(#[from] SamplerError),
    /// The model failed.
    #[error("the model failed at position {position} with {tokens} tokens: {source}")]
    Decoder {
        /// Start position of the call.
        position: usize,
        /// Tokens of the call.
        tokens: usize,
        /// The model's own error.
        source: DecoderError,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty: give at least one token of text")]
    EmptyPrompt,
    /// The prompt leaves no room in the context.
    #[error(
        "the prompt has {prompt} tokens at position {position}, and the model's context holds {context} (one must stay \
         free for the answer); shorten the prompt, start a new conversation, or export with a larger --max-context-length"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that are there already.
        position: usize,
        /// Tokens the context holds.
        context: usize,
    },
    /// The limits leave no token to generate.
    #[error(
        "nothing to generate: the limits (seq_len {seq_len}, max_new_tokens {max_new_tokens}, context {context}) leave no \
         token after the {occupied} of the prompt and the conversation before it"
    )]
    NoRoom {
        /// `seq_len`, −1 for none.
        seq_len: i64,
        /// `max_new_tokens`, −1 for none.
        max_new_tokens: i64,
        /// Tokens the context holds.
        context: usize,
        /// Tokens there before the first new one.
        occupied: usize,
    },
    /// The tokenizer gives an id that the model does not know.
    #[error(
        "token {piece:?} has id {id}, but the model's vocabulary has {vocab} entries: this tokenizer does not belong to \
         this model"
    )]
    TokenOutsideVocabulary {
        /// The id.
        id: u32,
        /// Its spelling.
        piece: String,
        /// Rows of the model's vocabulary.
        vocab: usize,
    },
    /// The logits are not `[1, n, vocab]` or `[n, vocab]`.
    #[error(
        "the model returned logits of shape {shape:?} with {elements} elements; expected [1, n, vocab] or [n, vocab]"
    )]
    LogitsShape {
        /// The shape.
        shape: Vec<usize>,
        /// Number of elements.
        elements: usize,
    },
    /// The logits are not as wide as the vocabulary that the program declares.
    #[error("the model returned {found} logits a token, but the program declares a vocabulary of {declared}")]
    LogitsWidth {
        /// Width of the logits.
        found: usize,
        /// `get_vocab_size`.
        declared: usize,
    },
    /// The program takes a fixed number of tokens that cannot serve this run.
    #[error(
        "the program takes exactly {fixed} tokens a call and {reason}; export it with dynamic shapes, or with a KV cache and one token a call"
    )]
    FixedLength {
        /// Tokens of a call.
        fixed: usize,
        /// Why that is not enough.
        reason: &'static str,
    },
    /// Metadata and program disagree about the cache.
    #[error("the program's metadata says use_kv_cache = {metadata}, but its inputs say {inputs}")]
    CacheMismatch {
        /// What the constant method says.
        metadata: bool,
        /// What the inputs say.
        inputs: bool,
    },
    /// A position in the past was asked for that was not reached yet.
    #[error("cannot go back to position {wanted}: the conversation has {position} tokens")]
    Rewind {
        /// The position asked for.
        wanted: usize,
        /// The position reached.
        position: usize,
    },
    /// A limit of the configuration makes no sense.
    #[error("{name} is {value}, expected -1 (no limit) or a number above 0")]
    Limit {
        /// The field.
        name: &'static str,
        /// Its value.
        value: i64,
    },
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended the text with this id (the last of the result's ids).
    EndOfText(u32),
    /// `max_new_tokens` or `seq_len` was reached.
    Length,
    /// The context is full.
    ContextFull,
    /// [`CancelHandle::cancel`] was called.
    Cancelled,
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationResult {
    /// The new text, without the prompt and without special tokens.
    pub text: String,
    /// The new ids, with the one that ended the text.
    pub token_ids: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Counters and times.
    pub stats: Stats,
}

/// Ends a run from another thread or from a callback, before the next call of the model.
#[derive(Clone, Debug, Default)]
pub struct CancelHandle(Arc<AtomicBool>);

impl CancelHandle {
    /// Asks the run to end. Without a run in progress it ends the next one.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// A tokenizer, a model and the state of a conversation.
#[derive(Debug)]
pub struct Runner<D, C> {
    tokenizer: Tokenizer,
    decoder: D,
    metadata: ModelMetadata,
    clock: C,
    eos_ids: Vec<u32>,
    stats: Stats,
    /// The tokens the model has seen; their number is the next position.
    history: Vec<u32>,
    cancel: CancelHandle,
}

impl<D: TextDecoder, C: Clock> Runner<D, C> {
    /// Puts the parts together. The ids that end a text are the program's, else the tokenizer's own.
    pub fn new(tokenizer: Tokenizer, decoder: D, metadata: ModelMetadata, clock: C) -> Result<Self, RunnerError> {
        let inputs = decoder.uses_kv_cache();
        if inputs != metadata.use_kv_cache && metadata.declares_max_seq_len {
            return Err(RunnerError::CacheMismatch { metadata: metadata.use_kv_cache, inputs });
        }
        if let (true, TokensPerCall::Exactly(fixed)) = (inputs, decoder.tokens_per_call())
            && fixed != 1
        {
            return Err(RunnerError::FixedLength { fixed, reason: "keeps a KV cache" });
        }
        let eos_ids = metadata.resolve_eos_ids(tokenizer.eos_id());
        Ok(Self {
            tokenizer,
            decoder,
            metadata,
            clock,
            eos_ids,
            stats: Stats::default(),
            history: Vec::new(),
            cancel: CancelHandle::default(),
        })
    }

    /// Records when loading began and ended, in milliseconds since the Unix epoch.
    pub fn set_load_times(&mut self, start_ms: i64, end_ms: i64) {
        self.stats.model_load_start_ms = start_ms;
        self.stats.model_load_end_ms = end_ms;
    }

    /// Adds ids that end a text (from `generation_config.json`, or a chat template's end of turn).
    pub fn add_eos_ids(&mut self, ids: &[u32]) {
        for &id in ids {
            if !self.eos_ids.contains(&id) {
                self.eos_ids.push(id);
            }
        }
    }

    /// The ids that end a text.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's metadata.
    pub fn metadata(&self) -> &ModelMetadata {
        &self.metadata
    }

    /// The model.
    pub fn decoder(&self) -> &D {
        &self.decoder
    }

    /// Counters and times of the last run.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The next position: the number of tokens the model has seen. As in ExecuTorch, the last token of a run has been
    /// chosen but not seen.
    pub fn position(&self) -> usize {
        self.history.len()
    }

    /// The tokens the model has seen.
    pub fn history(&self) -> &[u32] {
        &self.history
    }

    /// A handle that ends runs.
    pub fn cancel_handle(&self) -> CancelHandle {
        self.cancel.clone()
    }

    /// Makes the runner listen to a handle that is already in other hands.
    pub fn with_cancel_handle(mut self, handle: CancelHandle) -> Self {
        self.cancel = handle;
        self
    }

    /// How prompts are passed to the model.
    pub fn prefill_mode(&self) -> PrefillMode {
        PrefillMode::choose(&self.metadata, self.decoder.uses_kv_cache(), self.decoder.tokens_per_call())
    }

    /// Ends the conversation: position 0, statistics but the load times forgotten.
    pub fn reset(&mut self) -> Result<(), RunnerError> {
        self.history.clear();
        self.stats.reset();
        self.decoder.reset().map_err(|source| RunnerError::Decoder { position: 0, tokens: 0, source })
    }

    /// Goes back in the conversation, as if the tokens from `position` on had not been seen: the cache's later entries
    /// are overwritten before anything attends to them. (A ring cache that has wrapped cannot go back; its runs start
    /// over with [`reset`](Self::reset).)
    pub fn rewind(&mut self, position: usize) -> Result<(), RunnerError> {
        let wrapped = self.is_ring() && self.position() > self.metadata.max_seq_len;
        if position > self.position() || (wrapped && position != self.position()) {
            return Err(RunnerError::Rewind { wanted: position, position: self.position() });
        }
        self.history.truncate(position);
        Ok(())
    }

    /// Runs once so that pages, caches and threads are warm. Leaves no trace: no text, the position and the statistics
    /// are as before. Call it before a conversation: it writes over what a ring cache still holds of one.
    pub fn warmup(&mut self, prompt: &str, config: &GenerationConfig) -> Result<(), RunnerError> {
        let config = GenerationConfig { warming: true, echo: false, ..config.clone() };
        self.generate(prompt, &config, &mut |_| {}).map(|_| ())
    }

    /// Continues the conversation with a prompt. `on_text` gets the prompt first when `echo` is set, then each new piece
    /// of text that is not empty.
    ///
    /// The prompt is encoded between `num_bos` and `num_eos` ids; use [`generate_ids`](Self::generate_ids) for ids made
    /// otherwise, such as by the tokenizer's own post-processor.
    pub fn generate(
        &mut self,
        prompt: &str,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<GenerationResult, RunnerError> {
        config.validate()?;
        let start_ms = self.clock.now_ms();
        let ids = self.tokenizer.encode_counted(prompt, config.num_bos, config.num_eos)?;
        self.run(&ids, Some(prompt), start_ms, config, on_text)
    }

    /// Continues the conversation with ids. `num_bos` and `num_eos` are not looked at; `echo` gives the ids' text.
    pub fn generate_ids(
        &mut self,
        ids: &[u32],
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<GenerationResult, RunnerError> {
        config.validate()?;
        let start_ms = self.clock.now_ms();
        self.run(ids, None, start_ms, config, on_text)
    }

    /// Takes the ids of the whole conversation, goes back to where they part from what the model has seen, and runs on the
    /// rest. This is how a chat continues: render all messages again, encode, call this. What was seen already is not
    /// computed twice.
    pub fn generate_conversation(
        &mut self,
        ids: &[u32],
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<GenerationResult, RunnerError> {
        config.validate()?;
        let start_ms = self.clock.now_ms();
        let same = self.history.iter().zip(ids).take_while(|(a, b)| a == b).count();
        // The model must see at least one token to say what comes next.
        let keep = same.min(ids.len().saturating_sub(1));
        if keep < self.position() && self.rewind(keep).is_err() {
            self.reset()?;
        }
        let keep = self.position();
        self.run(&ids[keep..], None, start_ms, config, on_text)
    }

    fn run(
        &mut self,
        prompt: &[u32],
        text: Option<&str>,
        start_ms: i64,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<GenerationResult, RunnerError> {
        let before = (self.history.len(), self.stats.clone());
        self.stats.reset();
        self.stats.inference_start_ms = start_ms;
        self.stats.num_prompt_tokens = prompt.len() as u64;
        let result = self.run_from_here(prompt, text, config, on_text);
        let stats = self.stats.clone();
        if config.warming {
            self.history.truncate(before.0);
            self.stats = before.1;
        }
        self.cancel.clear();
        result.map(|result| GenerationResult { stats, ..result })
    }

    fn run_from_here(
        &mut self,
        prompt: &[u32],
        text: Option<&str>,
        config: &GenerationConfig,
        on_text: &mut dyn FnMut(&str),
    ) -> Result<GenerationResult, RunnerError> {
        self.check_prompt(prompt)?;
        let budget = self.budget(prompt.len(), config)?;
        let seed = config.seed.unwrap_or_else(|| self.clock.now_us() as u64);
        let mut sampler = Sampler::new(SamplerConfig {
            temperature: config.temperature,
            top_p: config.topp,
            top_k: config.topk,
            seed,
        })?;
        let mut silent = |_: &str| {};
        let on_text: &mut dyn FnMut(&str) = if config.warming { &mut silent } else { on_text };
        if config.echo {
            match text {
                Some(text) => on_text(text),
                None => on_text(&self.tokenizer.decode(prompt, config.skip_special_tokens)?),
            }
        }
        let mode = self.prefill_mode();
        let mut caller = Caller {
            decoder: &mut self.decoder,
            clock: &self.clock,
            stats: &mut self.stats,
            vocab: self.metadata.vocab_size,
        };
        let context: Vec<u32> = self.history.iter().chain(prompt).copied().collect();
        let first = prefill::prefill(&mut caller, mode, &mut self.history, prompt, &self.cancel, |row, caller| {
            caller.timed_sampling(|| if config.first_token_greedy { sampler.greedy(row) } else { sampler.sample(row) })
        })?;
        let now = caller.clock.now_ms();
        caller.stats.prompt_eval_end_ms = now;
        caller.stats.first_token_ms = now;
        let generated = generator::TokenGenerator {
            caller,
            tokenizer: &self.tokenizer,
            sampler: &mut sampler,
            history: &mut self.history,
            eos_ids: if config.ignore_eos { &[] } else { &self.eos_ids },
            cancel: &self.cancel,
            skip_special: config.skip_special_tokens,
        }
        .generate(&context, first, budget.tokens, on_text)?;
        self.stats.inference_end_ms = self.clock.now_ms();
        self.stats.num_generated_tokens = (generated.token_ids.len() as u64).saturating_sub(1);
        Ok(GenerationResult {
            text: generated.text,
            token_ids: generated.token_ids,
            prompt_tokens: prompt.len(),
            finish_reason: generated.stopped.unwrap_or(budget.reason),
            stats: Stats::default(),
        })
    }

    /// Whether the conversation may be longer than the cache.
    fn is_ring(&self) -> bool {
        self.metadata.is_ring() && self.decoder.can_wrap()
    }

    fn check_prompt(&self, prompt: &[u32]) -> Result<(), RunnerError> {
        if prompt.is_empty() {
            return Err(RunnerError::EmptyPrompt);
        }
        if let Some(vocab) = self.metadata.vocab_size
            && let Some(&id) = prompt.iter().find(|&&id| id as usize >= vocab)
        {
            let piece = self.tokenizer.id_to_piece(id).unwrap_or_default();
            return Err(RunnerError::TokenOutsideVocabulary { id, piece, vocab });
        }
        let context = self.context_len();
        let position = if self.is_ring() { 0 } else { self.position() };
        if position + prompt.len() >= context {
            return Err(RunnerError::PromptTooLong { prompt: prompt.len(), position, context });
        }
        Ok(())
    }

    /// Tokens of a conversation: the declared context, or what one call takes where each call takes the whole text (the
    /// last new token is never passed, so one more).
    fn context_len(&self) -> usize {
        let declared = self.metadata.max_context_len;
        match (self.decoder.uses_kv_cache(), self.decoder.tokens_per_call()) {
            (false, TokensPerCall::Exactly(n) | TokensPerCall::UpTo(n)) => declared.min(n.saturating_add(1)),
            _ => declared,
        }
    }

    fn budget(&self, prompt: usize, config: &GenerationConfig) -> Result<Budget, RunnerError> {
        let context = self.context_len();
        let occupied = if self.is_ring() { 0 } else { self.position() + prompt };
        let tokens = config.resolve_max_new_tokens(context, occupied);
        if tokens == 0 {
            let (seq_len, max_new_tokens) = (config.seq_len, config.max_new_tokens);
            return Err(RunnerError::NoRoom { seq_len, max_new_tokens, context, occupied });
        }
        let own = config.resolve_max_new_tokens(usize::MAX, occupied);
        let asked_for = own <= context.saturating_sub(occupied);
        Ok(Budget { tokens, reason: if asked_for { FinishReason::Length } else { FinishReason::ContextFull } })
    }
}

/// How many tokens a run may give, and what it means to reach that.
struct Budget {
    tokens: usize,
    reason: FinishReason,
}
