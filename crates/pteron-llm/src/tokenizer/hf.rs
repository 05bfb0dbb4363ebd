//! Hugging Face `tokenizer.json`: the file is the whole pipeline, so nothing about a model is guessed. Byte-level BPE is run by
//! this crate ([`hf_bytes`]), everything else by the `tokenizers` library.

use super::hf_bytes;
use super::stream::StreamPlan;
use super::validate::{self, TOKENIZER_CONFIG, TOKENIZER_JSON, invalid};
use super::{Backend, EncodeOptions, SpecialText, SpecialToken, TokenizerError, TokenizerKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

#[derive(Debug)]
pub(super) struct HfTokenizer {
    inner: tokenizers::Tokenizer,
    /// The same with special tokens as text, made when it is first needed.
    as_text: OnceLock<tokenizers::Tokenizer>,
    special: Vec<SpecialToken>,
    bos: Option<u32>,
    eos: Option<u32>,
    plan: StreamPlan,
}

/// Reads the file; `config` is the content of `tokenizer_config.json`.
pub(super) fn open(bytes: &[u8], config: Option<&[u8]>) -> Result<Box<dyn Backend>, TokenizerError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let summary = validate::summarize(bytes)?;
    let config = config.map(Config::parse).transpose()?.unwrap_or_default();
    match hf_bytes::open(bytes, config.bos.as_deref(), config.eos.as_deref()) {
        Some(own) => Ok(Box::new(own)),
        None => Ok(Box::new(HfTokenizer::new(bytes, summary, &config)?)),
    }
}

impl HfTokenizer {
    /// The file in the library, whatever it holds.
    #[cfg(test)]
    pub(super) fn from_bytes(bytes: &[u8], config: Option<&[u8]>) -> Result<Self, TokenizerError> {
        let config = config.map(Config::parse).transpose()?.unwrap_or_default();
        HfTokenizer::new(bytes, validate::summarize(bytes)?, &config)
    }

    fn new(bytes: &[u8], summary: validate::Summary, config: &Config) -> Result<Self, TokenizerError> {
        let mut inner = guarded("be read", || tokenizers::Tokenizer::from_bytes(bytes))
            .map_err(|message| invalid(TOKENIZER_JSON, message))?;
        // Settings of a training run that were saved along would cut or fill prompts.
        inner.with_truncation(None).map_err(|e| invalid(TOKENIZER_JSON, e))?;
        inner.with_padding(None);
        for token in summary.added_tokens.iter().filter(|t| !t.content.is_empty()) {
            let found = inner.token_to_id(&token.content);
            if found != Some(token.id) {
                return Err(invalid(
                    TOKENIZER_JSON,
                    format_args!(
                        "`added_tokens` says {:?} is id {}, but it resolves to {}",
                        token.content,
                        token.id,
                        found.map_or("no id".to_owned(), |id| format!("id {id}"))
                    ),
                ));
            }
        }
        let mut special: Vec<SpecialToken> = inner
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, token)| token.special)
            .map(|(id, token)| SpecialToken { id, content: token.content })
            .collect();
        special.sort_unstable_by_key(|token| token.id);
        let resolve = |field: &'static str, token: &Option<String>| match token {
            None => Ok(None),
            Some(token) => inner.token_to_id(token).map(Some).ok_or_else(|| {
                invalid(TOKENIZER_CONFIG, format_args!("`{field}` is {token:?}, which is not in tokenizer.json"))
            }),
        };
        let (bos, eos) = (resolve("bos_token", &config.bos)?, resolve("eos_token", &config.eos)?);
        Ok(Self { inner, as_text: OnceLock::new(), special, bos, eos, plan: StreamPlan::of_decoder(&summary.decoder) })
    }
}

impl Backend for HfTokenizer {
    fn kind(&self) -> TokenizerKind {
        TokenizerKind::HuggingFaceJson
    }

    fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let inner = match options.special {
            SpecialText::Parse => &self.inner,
            SpecialText::AsText => self.as_text.get_or_init(|| {
                let mut inner = self.inner.clone();
                inner.set_encode_special_tokens(true);
                inner
            }),
        };
        guarded("encode", || inner.encode(text, options.add_special))
            .map(|encoding| encoding.get_ids().to_vec())
            .map_err(|message| TokenizerError::Failed { action: "encode", message })
    }

    fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, TokenizerError> {
        // Some decoders assume at least one token.
        if !ids.iter().any(|&id| self.inner.id_to_token(id).is_some() && !(skip_special && self.is_special(id))) {
            return Ok(String::new());
        }
        guarded("decode", || self.inner.decode(ids, skip_special))
            .map_err(|message| TokenizerError::Failed { action: "decode", message })
    }

    fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    fn id_to_piece(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    fn bos_id(&self) -> Option<u32> {
        self.bos
    }

    fn eos_id(&self) -> Option<u32> {
        self.eos
    }

    fn special_tokens(&self) -> &[SpecialToken] {
        &self.special
    }

    fn stream_plan(&self) -> StreamPlan {
        self.plan
    }
}

impl HfTokenizer {
    fn is_special(&self, id: u32) -> bool {
        self.special.binary_search_by_key(&id, |token| token.id).is_ok()
    }
}

/// The library indexes by values of the file in places; a panic there is the file's fault and becomes an error.
fn guarded<T>(action: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err(format!("the file is inconsistent, the tokenizers library cannot {action} with it")),
    }
}

#[derive(Default)]
struct Config {
    bos: Option<String>,
    eos: Option<String>,
}

impl Config {
    fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        validate::check_size(TOKENIZER_CONFIG, bytes)?;
        let config: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| invalid(TOKENIZER_CONFIG, e))?;
        let token = |field: &str| match &config[field] {
            serde_json::Value::Null => Ok(None),
            serde_json::Value::String(token) => Ok(Some(token.clone())),
            serde_json::Value::Object(token) => match token.get("content") {
                Some(serde_json::Value::String(content)) => Ok(Some(content.clone())),
                _ => Err(invalid(TOKENIZER_CONFIG, format_args!("`{field}` is an object without a `content` string"))),
            },
            other => Err(invalid(TOKENIZER_CONFIG, format_args!("`{field}` is {other}, expected a string"))),
        };
        Ok(Self { bos: token("bos_token")?, eos: token("eos_token")? })
    }
}
