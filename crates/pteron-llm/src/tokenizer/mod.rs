//! Text ↔ token ids.
//!
//! [`Tokenizer::from_bytes`] looks at the content, never at a file's name, and says which [`TokenizerKind`] it found.
//! To add a kind: implement [`Backend`] in a module of its own and add its arm to `open` in this file.

mod byte_level;
mod detect;
mod hf;
mod stream;
mod validate;

pub use detect::{TokenizerKind, detect};
pub use stream::{StreamDecoder, StreamPlan};
pub use validate::{MAX_JSON_DEPTH, MAX_TOKEN_ID, MAX_TOKENIZER_BYTES};

use std::fmt;

/// Why a tokenizer cannot be read or used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is of a kind that is recognised but cannot be read.
    #[error("this looks like {kind}, which is not supported yet; supported: a Hugging Face tokenizer.json")]
    UnsupportedKind {
        /// The kind.
        kind: TokenizerKind,
    },
    /// The file is nothing known.
    #[error("not a tokenizer: {found}; expected a Hugging Face tokenizer.json")]
    Unknown {
        /// What it looks like.
        found: String,
    },
    /// The file is larger than any tokenizer.
    #[error("{file} has {size} bytes, more than the limit of {limit}")]
    TooLarge {
        /// Which file.
        file: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A field is missing or wrong.
    #[error("{file}: {message}")]
    Invalid {
        /// Which file.
        file: &'static str,
        /// What is wrong, with the field's name.
        message: String,
    },
    /// The text could not be encoded or the ids could not be decoded.
    #[error("the tokenizer failed to {action}: {message}")]
    Failed {
        /// `encode` or `decode`.
        action: &'static str,
        /// The reason.
        message: String,
    },
    /// A special id was asked for that the tokenizer does not define.
    #[error(
        "the tokenizer defines no {which} token (tokenizer_config.json has no `{which}_token`), so none can be added"
    )]
    NoSpecial {
        /// `bos` or `eos`.
        which: &'static str,
    },
}

/// What a kind of tokenizer must be able to do.
pub trait Backend: fmt::Debug + Send + Sync {
    /// The kind.
    fn kind(&self) -> TokenizerKind;
    /// Ids of a text. Special tokens written in the text become their ids. `add_special` adds what the tokenizer itself
    /// adds around a text (its post-processor).
    fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError>;
    /// Text of ids; ids without a token give no text.
    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError>;
    /// Number of tokens, added ones included.
    fn vocab_size(&self) -> usize;
    /// The id of a token as it is spelled in the vocabulary.
    fn token_to_id(&self, token: &str) -> Option<u32>;
    /// The token of an id as it is spelled in the vocabulary.
    fn id_to_piece(&self, id: u32) -> Option<String>;
    /// Beginning of text.
    fn bos_id(&self) -> Option<u32>;
    /// End of text.
    fn eos_id(&self) -> Option<u32>;
    /// Special tokens, by rising id.
    fn special_tokens(&self) -> &[SpecialToken];
    /// How ids can be decoded one by one.
    fn stream_plan(&self) -> StreamPlan;
}

/// A token that carries structure instead of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its spelling.
    pub content: String,
}

/// A tokenizer of any supported kind.
#[derive(Debug)]
pub struct Tokenizer {
    backend: Box<dyn Backend>,
}

impl Tokenizer {
    /// Reads a tokenizer from the bytes of its file; `tokenizer_config` is the content of `tokenizer_config.json`, which
    /// names the beginning and end tokens.
    pub fn from_bytes(bytes: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        Ok(Self { backend: open(detect(bytes)?, bytes, tokenizer_config)? })
    }

    /// Wraps a backend of one's own.
    pub fn from_backend(backend: Box<dyn Backend>) -> Self {
        Self { backend }
    }

    /// The kind that was found.
    pub fn kind(&self) -> TokenizerKind {
        self.backend.kind()
    }

    /// Ids of a text, with (`add_special`) or without what the tokenizer itself puts around a text. Special tokens
    /// written in the text become their ids either way, so a rendered chat template is encoded with `false`.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.backend.encode(text, add_special)
    }

    /// Ids of a text between `num_bos` beginning ids and `num_eos` end ids: the counts of ExecuTorch's runner, taken
    /// literally whatever the tokenizer's post-processor would do.
    pub fn encode_counted(&self, text: &str, num_bos: usize, num_eos: usize) -> Result<Vec<u32>, TokenizerError> {
        let id = |which, id: Option<u32>| id.ok_or(TokenizerError::NoSpecial { which });
        let mut ids = Vec::new();
        if num_bos > 0 {
            ids.resize(num_bos, id("bos", self.bos_id())?);
        }
        ids.extend(self.encode(text, false)?);
        if num_eos > 0 {
            ids.resize(ids.len() + num_eos, id("eos", self.eos_id())?);
        }
        Ok(ids)
    }

    /// Text of ids. Ids without a token (a model's vocabulary may be padded) give no text.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        self.backend.decode(ids, skip_special)
    }

    /// Number of tokens, added ones included.
    pub fn vocab_size(&self) -> usize {
        self.backend.vocab_size()
    }

    /// The id of a token as it is spelled in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.backend.token_to_id(token)
    }

    /// The token of an id as it is spelled in the vocabulary (`Ġhello`, `▁hello`, `<0x0A>`).
    pub fn id_to_piece(&self, id: u32) -> Option<String> {
        self.backend.id_to_piece(id)
    }

    /// Beginning of text, where the tokenizer names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.backend.bos_id()
    }

    /// End of text, where the tokenizer names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.backend.eos_id()
    }

    /// Special tokens, by rising id.
    pub fn special_tokens(&self) -> &[SpecialToken] {
        self.backend.special_tokens()
    }

    /// Whether an id is one of [`special_tokens`](Self::special_tokens).
    pub fn is_special(&self, id: u32) -> bool {
        self.special_tokens().binary_search_by_key(&id, |t| t.id).is_ok()
    }

    /// A decoder that takes ids one by one.
    pub fn stream(&self, skip_special: bool) -> StreamDecoder<'_> {
        StreamDecoder::new(self, skip_special)
    }

    pub(crate) fn stream_plan(&self) -> StreamPlan {
        self.backend.stream_plan()
    }
}

/// The place where a kind of tokenizer is added.
fn open(kind: TokenizerKind, bytes: &[u8], config: Option<&[u8]>) -> Result<Box<dyn Backend>, TokenizerError> {
    match kind {
        TokenizerKind::HuggingFaceJson => Ok(Box::new(hf::HfTokenizer::from_bytes(bytes, config)?)),
        TokenizerKind::Tekken
        | TokenizerKind::SentencePiece
        | TokenizerKind::Tiktoken
        | TokenizerKind::Llama2c
        | TokenizerKind::Gguf => Err(TokenizerError::UnsupportedKind { kind }),
    }
}
