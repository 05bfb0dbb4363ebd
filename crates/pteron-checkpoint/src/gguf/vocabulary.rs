//! The tokenizer that a GGUF file carries, as plain data.

use super::metadata::GgufMetadata;
use crate::error::CheckpointError;
use crate::limits::MAX_GGUF_VOCABULARY;

/// The tokenizer that a GGUF file carries, as plain data: the keys `tokenizer.ggml.*`.
///
/// Lists other than `tokens` and `merges` are empty or as long as `tokens`; ids are below its length.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GgufVocabulary {
    /// The kind: `llama` (SentencePiece BPE), `gpt2` (byte-level BPE), `t5` (unigram), `bert`, `rwkv`.
    pub model: String,
    /// llama.cpp's name for how text is cut before merging: `llama-bpe`, `smollm`.
    pub pre: Option<String>,
    /// The pieces by id, as the kind spells them.
    pub tokens: Vec<String>,
    /// Scores of the pieces.
    pub scores: Vec<f32>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// Pairs that are merged, first to last, with one space between the halves.
    pub merges: Vec<String>,
    /// Before every text.
    pub bos: Option<u32>,
    /// After every text.
    pub eos: Option<u32>,
    /// For what no piece covers.
    pub unk: Option<u32>,
    /// Fills a batch.
    pub pad: Option<u32>,
    /// After every turn of a conversation.
    pub eot: Option<u32>,
    /// Whether encoding begins with `bos`.
    pub add_bos: Option<bool>,
    /// Whether encoding ends with `eos`.
    pub add_eos: Option<bool>,
    /// Whether a space is put before the text.
    pub add_space_prefix: Option<bool>,
    /// Whether runs of spaces become one.
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's compiled normalization.
    pub precompiled_charsmap: Option<Vec<u8>>,
    /// A Jinja template that lays a conversation out as text.
    pub chat_template: Option<String>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";

impl GgufMetadata {
    /// The tokenizer; `None` if the file has none (`tokenizer.ggml.model` is absent or `none`).
    ///
    /// # Errors
    /// [`CheckpointError::Field`] for a field of another type, a list of another length than the vocabulary's, or an id
    /// outside it; [`CheckpointError::TooLarge`] above [`MAX_GGUF_VOCABULARY`].
    pub fn vocabulary(&self) -> Result<Option<GgufVocabulary>, CheckpointError> {
        let model = match self.text("tokenizer.ggml.model")? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(model) => model.to_owned(),
        };
        let wrong =
            |field, expected, found: String| CheckpointError::Field { path: self.path.clone(), field, expected, found };
        let tokens = self.texts(TOKENS)?.unwrap_or_default();
        if tokens.is_empty() {
            return Err(wrong(TOKENS, "a list with the pieces of the vocabulary", "nothing".to_owned()));
        }
        if tokens.len() > MAX_GGUF_VOCABULARY {
            return Err(CheckpointError::TooLarge {
                path: self.path.clone(),
                what: "the number of pieces in the vocabulary",
                found: tokens.len() as u64,
                limit: MAX_GGUF_VOCABULARY as u64,
            });
        }
        let parallel = |field, len: usize| {
            if len == 0 || len == tokens.len() {
                return Ok(());
            }
            let expected = "as many items as tokenizer.ggml.tokens";
            Err(wrong(field, expected, format!("{len} items where the vocabulary has {}", tokens.len())))
        };
        const SCORES: &str = "tokenizer.ggml.scores";
        let scores = self.f32s(SCORES)?.unwrap_or_default();
        parallel(SCORES, scores.len())?;
        const TYPES: &str = "tokenizer.ggml.token_type";
        let token_types = self.i32s(TYPES)?.unwrap_or_default();
        parallel(TYPES, token_types.len())?;
        let id = |field| match self.u32(field)? {
            Some(id) if id as usize >= tokens.len() => {
                Err(wrong(field, "an id in the vocabulary", format!("{id} where it has {} pieces", tokens.len())))
            }
            id => Ok(id),
        };
        Ok(Some(GgufVocabulary {
            model,
            pre: self.text("tokenizer.ggml.pre")?.map(str::to_owned),
            scores: scores.to_vec(),
            token_types,
            merges: self.texts("tokenizer.ggml.merges")?.unwrap_or_default().to_vec(),
            bos: id("tokenizer.ggml.bos_token_id")?,
            eos: id("tokenizer.ggml.eos_token_id")?,
            unk: id("tokenizer.ggml.unknown_token_id")?,
            pad: id("tokenizer.ggml.padding_token_id")?,
            eot: id("tokenizer.ggml.eot_token_id")?,
            add_bos: self.bool("tokenizer.ggml.add_bos_token")?,
            add_eos: self.bool("tokenizer.ggml.add_eos_token")?,
            add_space_prefix: self.bool("tokenizer.ggml.add_space_prefix")?,
            remove_extra_whitespaces: self.bool("tokenizer.ggml.remove_extra_whitespaces")?,
            precompiled_charsmap: self.bytes("tokenizer.ggml.precompiled_charsmap")?,
            chat_template: self.text("tokenizer.chat_template")?.map(str::to_owned),
            tokens: tokens.to_vec(),
        }))
    }
}
