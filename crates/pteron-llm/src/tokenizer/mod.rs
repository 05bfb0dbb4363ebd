//! Text ↔ token ids.
//!
//! [`Tokenizer::from_bytes`] looks at the content, never at a file's name, and says which [`TokenizerKind`] it found.
//! A GGUF file's vocabulary comes through [`Tokenizer::from_gguf`]. A `tokenizer.json` that is not
//! byte-level BPE is executed by the `tokenizers` library, everything else by this crate, in time that grows as `n log n` with the text.
//! To add a kind: implement [`Backend`] in a module of its own and add its arm to `open` in this file.

mod base64;
mod byte_bpe;
mod byte_level;
mod detect;
mod gguf;
mod hf;
mod hf_bytes;
mod llama2c;
mod merge;
mod pattern;
mod prefix;
mod sentencepiece;
mod special;
mod stream;
mod tekken;
mod tiktoken;
mod validate;

pub use detect::{TokenizerKind, detect, foreign};
pub use gguf::GgufVocabularyParts;
pub use special::{SpecialText, SpecialToken};
pub use stream::{StreamDecoder, StreamPlan};
pub use tiktoken::{TiktokenOptions, TiktokenPattern, TiktokenSpecial};
pub use validate::{
    MAX_JSON_DEPTH, MAX_MERGES, MAX_PIECE_BYTES, MAX_REPLACEMENT_BYTES, MAX_SMALL_TOKENIZER_BYTES, MAX_TEXT_BYTES,
    MAX_TOKEN_ID, MAX_TOKENIZER_BYTES, MAX_VOCABULARY,
};

use std::fmt;

/// How a text becomes ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add what the tokenizer itself puts around a text.
    pub add_special: bool,
    /// What becomes of special tokens that the text spells out.
    pub special: SpecialText,
}

/// Why a tokenizer cannot be read or used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is nothing known.
    #[error(
        "not a tokenizer: {found}; expected tokenizer.json, a SentencePiece or tiktoken model, tekken.json, a llama2.c \
         tokenizer.bin or a GGUF file"
    )]
    Unknown {
        /// What it looks like.
        found: String,
    },
    /// A GGUF file, whose vocabulary its own reader gives.
    #[error("this is a GGUF file: its vocabulary is read by the checkpoint reader and passed on in parts")]
    NeedsGgufReader,
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
        "the tokenizer defines no {which} token (for a tokenizer.json, tokenizer_config.json says it in `{which}_token`), so none can be added"
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
    /// Ids of a text.
    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError>;
    /// Text of ids; ids without a token give no text.
    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError>;
    /// Number of tokens, added ones included.
    fn vocab_size(&self) -> usize;
    /// The id of a token as it is spelled in the vocabulary.
    fn token_to_id(&self, token: &str) -> Option<u32>;
    /// The token of an id as it is spelled in the vocabulary.
    fn id_to_piece(&self, id: u32) -> Option<String>;
    /// Appends the bytes of a token; those of a backend whose plan is [`StreamPlan::ByteLevel`] make the text.
    fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        byte_level::push_bytes(&self.id_to_piece(id).unwrap_or_default(), out);
    }
    /// Beginning of text.
    fn bos_id(&self) -> Option<u32>;
    /// End of text.
    fn eos_id(&self) -> Option<u32>;
    /// Special tokens, by rising id.
    fn special_tokens(&self) -> &[SpecialToken];
    /// How ids can be decoded one by one.
    fn stream_plan(&self) -> StreamPlan;
}

/// A tokenizer of any supported kind.
#[derive(Debug)]
pub struct Tokenizer {
    backend: Box<dyn Backend>,
}

impl Tokenizer {
    /// Reads a tokenizer from the bytes of its file; `tokenizer_config` is the content of `tokenizer_config.json`, which
    /// names the beginning and end tokens of a `tokenizer.json`; the other kinds name their own.
    pub fn from_bytes(bytes: &[u8], tokenizer_config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        Ok(Self { backend: open(detect(bytes)?, bytes, tokenizer_config)? })
    }

    /// Reads a tiktoken rank file, with what such a file does not say.
    pub fn from_tiktoken(bytes: &[u8], options: &TiktokenOptions) -> Result<Self, TokenizerError> {
        Ok(Self { backend: Box::new(tiktoken::open(bytes, options)?) })
    }

    /// Makes the tokenizer that a GGUF file describes.
    pub fn from_gguf(parts: GgufVocabularyParts) -> Result<Self, TokenizerError> {
        Ok(Self { backend: gguf::open(parts)? })
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
        self.backend.encode(text, EncodeOptions { add_special, special: SpecialText::Parse })
    }

    /// Ids of a text.
    pub fn encode_with(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        self.backend.encode(text, options)
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

    pub(crate) fn push_bytes(&self, id: u32, out: &mut Vec<u8>) {
        self.backend.push_bytes(id, out);
    }

    pub(crate) fn stream_plan(&self) -> StreamPlan {
        self.backend.stream_plan()
    }
}

/// The place where a kind of tokenizer is added.
fn open(kind: TokenizerKind, bytes: &[u8], config: Option<&[u8]>) -> Result<Box<dyn Backend>, TokenizerError> {
    match kind {
        TokenizerKind::HuggingFaceJson => hf::open(bytes, config),
        TokenizerKind::Tekken => Ok(Box::new(tekken::open(bytes)?)),
        TokenizerKind::SentencePiece => Ok(Box::new(sentencepiece::open(bytes)?)),
        TokenizerKind::Tiktoken => Ok(Box::new(tiktoken::open(bytes, &TiktokenOptions::default())?)),
        TokenizerKind::Llama2c => Ok(Box::new(llama2c::open(bytes)?)),
        TokenizerKind::Gguf => Err(TokenizerError::NeedsGgufReader),
    }
}
