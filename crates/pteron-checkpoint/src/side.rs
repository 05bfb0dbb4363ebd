//! The files that lie beside the weights.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::CheckpointError;
use crate::files::read_limited;
use crate::json;
use crate::limits::{MAX_CONFIG_BYTES, MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};

/// What `generation_config.json` says about generating. Absent and `null` fields are `None` or empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfigFile {
    /// The token before every text.
    pub bos_token_id: Option<i64>,
    /// The tokens at which generation stops, in the file's order; the file may hold one number or a list.
    pub eos_token_ids: Vec<i64>,
    /// The token that fills a batch.
    pub pad_token_id: Option<i64>,
    /// Whether tokens are sampled or the likeliest is taken.
    pub do_sample: Option<bool>,
    /// Divisor of the logits.
    pub temperature: Option<f64>,
    /// Probability mass that is sampled from.
    pub top_p: Option<f64>,
    /// Number of likeliest tokens that are sampled from.
    pub top_k: Option<i64>,
}

impl GenerationConfigFile {
    /// Reads `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Json`], [`CheckpointError::Field`] for a field of another type, or what
    /// [`read_limited`] gives.
    pub fn read(path: &Path) -> Result<GenerationConfigFile, CheckpointError> {
        let value = json::parse(path, &read_limited(path, MAX_CONFIG_BYTES)?)?;
        GenerationConfigFile::from_json(path, &value)
    }

    /// Takes the fields out of `value`, which messages call `path`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`].
    pub fn from_json(path: &Path, value: &Value) -> Result<GenerationConfigFile, CheckpointError> {
        let bad = |field, expected, value: &Value| CheckpointError::Field {
            path: path.to_owned(),
            field,
            expected,
            found: json::describe(value),
        };
        let Value::Object(fields) = value else {
            return Err(CheckpointError::Json {
                path: path.to_owned(),
                reason: format!("an object is needed, found {}", json::describe(value)),
            });
        };
        let get = |field: &str| fields.get(field).filter(|v| !v.is_null());
        let int =
            |field: &'static str| get(field).map(|v| v.as_i64().ok_or_else(|| bad(field, "an integer", v))).transpose();
        let number =
            |field: &'static str| get(field).map(|v| v.as_f64().ok_or_else(|| bad(field, "a number", v))).transpose();
        const EOS: &str = "eos_token_id";
        let eos_token_ids = match get(EOS) {
            None => Vec::new(),
            Some(v) => {
                let wrong = || bad(EOS, "an integer or a list of integers", v);
                let ids = v.as_array().map_or(std::slice::from_ref(v), Vec::as_slice);
                ids.iter().map(|id| id.as_i64().ok_or_else(wrong)).collect::<Result<_, _>>()?
            }
        };
        Ok(GenerationConfigFile {
            bos_token_id: int("bos_token_id")?,
            eos_token_ids,
            pad_token_id: int("pad_token_id")?,
            do_sample: get("do_sample")
                .map(|v| v.as_bool().ok_or_else(|| bad("do_sample", "true or false", v)))
                .transpose()?,
            temperature: number("temperature")?,
            top_p: number("top_p")?,
            top_k: int("top_k")?,
        })
    }
}

/// Which of the tokenizer's files are there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenizerFiles {
    /// `tokenizer.json`: the whole tokenizer.
    pub tokenizer_json: Option<PathBuf>,
    /// `tokenizer_config.json`: special tokens, often the chat template.
    pub tokenizer_config: Option<PathBuf>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<PathBuf>,
    /// `chat_template.jinja`: the chat template by itself.
    pub chat_template_jinja: Option<PathBuf>,
    /// `tokenizer.model`: SentencePiece or tiktoken.
    pub tokenizer_model: Option<PathBuf>,
}

impl TokenizerFiles {
    /// Looks for the files in `folder`.
    pub fn find(folder: &Path) -> TokenizerFiles {
        TokenizerFiles::find_prefixed(folder, "")
    }

    /// Looks for the files in `folder` whose names begin with `prefix`: `model.tokenizer.json` for `model.`.
    pub fn find_prefixed(folder: &Path, prefix: &str) -> TokenizerFiles {
        let there = |name: &str| Some(folder.join(format!("{prefix}{name}"))).filter(|p| p.is_file());
        TokenizerFiles {
            tokenizer_json: there("tokenizer.json"),
            tokenizer_config: there("tokenizer_config.json"),
            special_tokens_map: there("special_tokens_map.json"),
            chat_template_jinja: there("chat_template.jinja"),
            tokenizer_model: there("tokenizer.model"),
        }
    }

    /// The bytes of one of these files: at most [`MAX_TOKENIZER_BYTES`], or [`MAX_TEMPLATE_BYTES`] for
    /// `chat_template.jinja`. `None` if it is not there.
    ///
    /// # Errors
    /// What [`read_limited`] gives.
    pub fn read(&self, file: &Option<PathBuf>) -> Result<Option<Vec<u8>>, CheckpointError> {
        let Some(path) = file else { return Ok(None) };
        let limit = if *file == self.chat_template_jinja { MAX_TEMPLATE_BYTES } else { MAX_TOKENIZER_BYTES };
        read_limited(path, limit).map(Some)
    }
}

/// `config.json` of `folder`, if it is there.
pub(crate) fn config(folder: &Path) -> Result<Option<Value>, CheckpointError> {
    object(&folder.join("config.json"))
}

/// `params.json` of `folder`, if it is there.
pub(crate) fn params(folder: &Path) -> Result<Option<Value>, CheckpointError> {
    object(&folder.join("params.json"))
}

/// The object that the file at `path` holds, if it is there.
fn object(path: &Path) -> Result<Option<Value>, CheckpointError> {
    let text = match read_limited(path, MAX_CONFIG_BYTES) {
        Ok(text) => text,
        Err(CheckpointError::NotFound { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let value = json::parse(path, &text)?;
    if value.is_object() {
        return Ok(Some(value));
    }
    let reason = format!("an object is needed, found {}", json::describe(&value));
    Err(CheckpointError::Json { reason, path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<GenerationConfigFile, String> {
        let path = Path::new("generation_config.json");
        let value = json::parse(path, text.as_bytes()).map_err(|e| e.to_string())?;
        GenerationConfigFile::from_json(path, &value).map_err(|e| e.to_string())
    }

    #[test]
    fn eos_is_a_number_or_a_list() {
        assert_eq!(read(r#"{"eos_token_id": 2}"#).unwrap().eos_token_ids, [2]);
        assert_eq!(read(r#"{"eos_token_id": [128001, 128009]}"#).unwrap().eos_token_ids, [128_001, 128_009]);
        assert_eq!(read(r#"{"eos_token_id": null}"#).unwrap(), GenerationConfigFile::default());
        assert_eq!(read("{}").unwrap(), GenerationConfigFile::default());
        let all = read(
            r#"{"bos_token_id":1,"pad_token_id":0,"do_sample":true,"temperature":0.6,"top_p":1,"top_k":50,"x":[]}"#,
        )
        .unwrap();
        assert_eq!((all.bos_token_id, all.pad_token_id, all.do_sample), (Some(1), Some(0), Some(true)));
        assert_eq!((all.temperature, all.top_p, all.top_k), (Some(0.6), Some(1.0), Some(50)));
    }

    #[test]
    fn wrong_types_name_the_field() {
        assert_eq!(
            read(r#"{"eos_token_id": [1, "two"]}"#).unwrap_err(),
            "generation_config.json: field `eos_token_id` must be an integer or a list of integers, found a list of 2"
        );
        for (text, field) in [
            (r#"{"bos_token_id": 1.5}"#, "bos_token_id"),
            (r#"{"top_p": "x"}"#, "top_p"),
            (r#"{"do_sample": 1}"#, "do_sample"),
        ] {
            assert!(read(text).unwrap_err().contains(field));
        }
        assert!(read("[]").unwrap_err().contains("an object is needed"));
    }
}
