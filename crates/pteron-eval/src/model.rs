//! What is measured, and what can go wrong.

use crate::window::Protocol;

/// Any error of a model.
pub type ModelError = Box<dyn std::error::Error + Send + Sync>;

/// A model that gives logits for tokens.
pub trait CausalModel {
    /// Number of logits of a position.
    fn vocab_size(&self) -> usize;

    /// The most tokens of one call of [`CausalModel::feed`], at least 1.
    fn most_tokens(&self) -> usize;

    /// Whether a context must be given in one call: the model has no KV cache.
    fn whole_context(&self) -> bool;

    /// The longest context in tokens.
    fn max_context(&self) -> usize;

    /// A new context begins.
    ///
    /// # Errors
    /// Whatever the model reports.
    fn restart(&mut self) -> Result<(), ModelError>;

    /// The next tokens of the context, from 1 to [`CausalModel::most_tokens`]. Gives their logits, f32
    /// `[tokens, vocab_size]`, row-major.
    ///
    /// # Errors
    /// Whatever the model reports.
    fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError>;
}

/// Why a model cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A protocol with impossible numbers.
    #[error("perplexity protocol: {reason}")]
    Protocol {
        /// What is wrong.
        reason: String,
    },
    /// Not enough text.
    #[error("the text has {found} tokens, but {protocol} needs at least {needed}: give more text or a smaller window")]
    TooShort {
        /// Tokens there.
        found: usize,
        /// Tokens needed.
        needed: usize,
        /// The protocol.
        protocol: Protocol,
    },
    /// A window that the model cannot take.
    #[error(
        "a window of {window} tokens does not fit {which}, whose longest context is {most}: use a window of at most {most}"
    )]
    Context {
        /// `the model` or `the reference`.
        which: &'static str,
        /// Tokens of a window.
        window: usize,
        /// The model's longest context.
        most: usize,
    },
    /// A token that the model does not have.
    #[error(
        "token {token} at position {position} of the text is outside {which}'s vocabulary of {vocab}: the tokenizer belongs to another model"
    )]
    Token {
        /// `the model` or `the reference`.
        which: &'static str,
        /// The token.
        token: u32,
        /// Its position in the text.
        position: usize,
        /// Rows of the model's logits.
        vocab: usize,
    },
    /// Two models that cannot be compared.
    #[error("the model gives {model} logits a position, the reference {reference}: they have different vocabularies")]
    Vocabulary {
        /// The model's.
        model: usize,
        /// The reference's.
        reference: usize,
    },
    /// Logits of another size than promised.
    #[error("{which} gave {found} logits for {tokens} tokens, expected {expected}")]
    Logits {
        /// `the model` or `the reference`.
        which: &'static str,
        /// Tokens fed.
        tokens: usize,
        /// Logits given.
        found: usize,
        /// Logits expected.
        expected: usize,
    },
    /// Logits that are no numbers.
    #[error("{which} gave logits that are not finite at token {position} of the text")]
    NotFinite {
        /// `the model` or `the reference`.
        which: &'static str,
        /// Position in the text.
        position: usize,
    },
    /// The model failed.
    #[error("{which} failed at token {position} of the text: {source}")]
    Model {
        /// `the model` or `the reference`.
        which: &'static str,
        /// Position in the text.
        position: usize,
        /// Why.
        source: ModelError,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}
