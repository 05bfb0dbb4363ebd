//! Checks of `tokenizer.json` before a third-party parser sees it.

use super::{TokenizerError, base64};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// The largest tokenizer file that is read. (Gemma's, the largest in wide use, has 34 MB.)
pub const MAX_TOKENIZER_BYTES: usize = 256 << 20;
/// The deepest nesting of JSON that is read.
pub const MAX_JSON_DEPTH: usize = 64;
/// The largest token id that is accepted.
pub const MAX_TOKEN_ID: u32 = (1 << 24) - 1;

/// The largest tokenizer file of the other kinds. (Llama 4's, the largest in wide use, has 4 MB.)
pub const MAX_SMALL_TOKENIZER_BYTES: usize = 64 << 20;
/// The most tokens of a vocabulary. (Gemma's has 262,144.)
pub const MAX_VOCABULARY: usize = 1 << 21;
/// The most pairs that a list of merges may have. (Gemma's has 514,906.)
pub const MAX_MERGES: usize = 1 << 22;
/// The longest token, in bytes. (The longest in wide use are runs of 512 spaces.)
pub const MAX_PIECE_BYTES: usize = 4096;
/// The longest text that a rule of a SentencePiece normalizer may give, in bytes. (NFKC's longest has 33.)
pub const MAX_REPLACEMENT_BYTES: usize = 256;
/// The longest text that is encoded at once, in bytes; places in it are numbers of 32 bits.
pub const MAX_TEXT_BYTES: usize = u32::MAX as usize / 4;

pub(super) const TOKENIZER_JSON: &str = "tokenizer.json";
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
pub(super) const SENTENCEPIECE: &str = "the SentencePiece model";
pub(super) const TIKTOKEN: &str = "the tiktoken rank file";
pub(super) const TEKKEN: &str = "tekken.json";
pub(super) const LLAMA2C: &str = "tokenizer.bin";
pub(super) const GGUF: &str = "the GGUF file's vocabulary";

/// A table whose keys come from a file. Its hash has a random seed, so that no file can be made whose keys all fall into one
/// place; nothing ever depends on its order.
#[allow(clippy::disallowed_types, reason = "looked up only; a fixed hash would let a file make loading quadratic")]
pub(super) type FileMap<K, V> = std::collections::HashMap<K, V>;

/// What the checks learn about the file.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) added_tokens: Vec<AddedToken>,
    pub(super) decoder: serde_json::Value,
}

#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
}

pub(super) fn invalid(file: &'static str, message: impl fmt::Display) -> TokenizerError {
    // Text of the file may be part of it, and third-party parsers quote it as it is.
    const LONGEST: usize = 600;
    let mut shown = String::new();
    for c in message.to_string().chars().take(LONGEST) {
        if c.is_control() { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    TokenizerError::Invalid { file, message: shown }
}

pub(super) fn check_size(file: &'static str, bytes: &[u8]) -> Result<(), TokenizerError> {
    if bytes.len() > MAX_TOKENIZER_BYTES {
        return Err(TokenizerError::TooLarge { file, size: bytes.len(), limit: MAX_TOKENIZER_BYTES });
    }
    Ok(())
}

/// [`MAX_SMALL_TOKENIZER_BYTES`].
pub(super) fn check_small(file: &'static str, bytes: &[u8]) -> Result<(), TokenizerError> {
    if bytes.len() > MAX_SMALL_TOKENIZER_BYTES {
        return Err(TokenizerError::TooLarge { file, size: bytes.len(), limit: MAX_SMALL_TOKENIZER_BYTES });
    }
    Ok(())
}

/// [`MAX_TEXT_BYTES`].
pub(super) fn check_text(text: &str) -> Result<(), TokenizerError> {
    if text.len() > MAX_TEXT_BYTES {
        let message = format!("the text has {} bytes, more than the limit of {MAX_TEXT_BYTES}", text.len());
        return Err(TokenizerError::Failed { action: "encode", message });
    }
    Ok(())
}

/// Counts brackets outside strings; the grammar is left to the parser.
pub(super) fn check_depth(file: &'static str, bytes: &[u8]) -> Result<(), TokenizerError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err(invalid(file, format_args!("nested deeper than {MAX_JSON_DEPTH} levels at byte {at}")));
        }
    }
    Ok(())
}

pub(super) fn top_level_keys(bytes: &[u8]) -> Result<Vec<String>, TokenizerError> {
    struct Keys(Vec<String>);
    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct V;
            impl<'de> Visitor<'de> for V {
                type Value = Keys;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                    let mut keys = Vec::new();
                    while let Some((key, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                        keys.push(key);
                    }
                    Ok(Keys(keys))
                }
            }
            deserializer.deserialize_map(V)
        }
    }
    serde_json::from_slice::<Keys>(bytes).map(|keys| keys.0).map_err(|e| invalid(TOKENIZER_JSON, e))
}

/// Reads the parts that the third-party parser does not check.
pub(super) fn summarize(bytes: &[u8]) -> Result<Summary, TokenizerError> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Option<Vec<AddedToken>>,
        #[serde(default)]
        normalizer: serde_json::Value,
        #[serde(default)]
        decoder: serde_json::Value,
        model: Option<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type")]
        kind: Option<String>,
        vocab: Option<Vocab>,
        merges: Option<IgnoredAny>,
        dropout: Option<f64>,
    }
    check_size(TOKENIZER_JSON, bytes)?;
    check_depth(TOKENIZER_JSON, bytes)?;
    let file: File = serde_json::from_slice(bytes).map_err(|e| invalid(TOKENIZER_JSON, e))?;
    check_charsmaps(&file.normalizer)?;
    let Some(model) = file.model else { return Err(invalid(TOKENIZER_JSON, "`model` is missing")) };
    let vocab = model.vocab.ok_or_else(|| invalid(TOKENIZER_JSON, "`model.vocab` is missing"))?;
    if vocab.len == 0 {
        return Err(invalid(TOKENIZER_JSON, "`model.vocab` is empty"));
    }
    if model.kind.as_deref() == Some("BPE") && model.merges.is_none() {
        return Err(invalid(TOKENIZER_JSON, "`model.merges` is missing, a BPE model needs it"));
    }
    if let Some(dropout) = model.dropout.filter(|&d| d != 0.0) {
        return Err(invalid(
            TOKENIZER_JSON,
            format_args!(
                "`model.dropout` is {dropout}: the same text would give other tokens each time; expected null or 0"
            ),
        ));
    }
    let added_tokens = file.added_tokens.unwrap_or_default();
    for token in &added_tokens {
        if token.id > MAX_TOKEN_ID {
            return Err(invalid(
                TOKENIZER_JSON,
                format_args!("`added_tokens` gives {:?} the id {}, more than {MAX_TOKEN_ID}", token.content, token.id),
            ));
        }
    }
    Ok(Summary { added_tokens, decoder: file.decoder })
}

/// Checks every `precompiled_charsmap`: the size of a trie in bytes, the trie, and text. The library takes the size at its
/// word before it reads the trie.
fn check_charsmaps(normalizer: &serde_json::Value) -> Result<(), TokenizerError> {
    use serde_json::Value as Json;
    let parts: Vec<&Json> = match normalizer {
        Json::Array(items) => items.iter().collect(),
        Json::Object(fields) => {
            if let Some(Json::String(map)) = fields.get("precompiled_charsmap") {
                let bytes = base64::decode(map.as_bytes()).unwrap_or_default();
                let fits = bytes.split_first_chunk::<4>().is_some_and(|(size, rest)| {
                    let size = u32::from_le_bytes(*size) as usize;
                    size >= 4 && size.is_multiple_of(4) && size <= rest.len()
                });
                if !fits {
                    return Err(invalid(TOKENIZER_JSON, "`precompiled_charsmap` is no map: its trie is not all there"));
                }
            }
            fields.values().collect()
        }
        _ => Vec::new(),
    };
    parts.into_iter().try_for_each(check_charsmaps)
}

/// Number of entries of a vocabulary, whether it maps tokens to ids or lists (token, score) pairs.
struct Vocab {
    len: usize,
}

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Vocab;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary (object or array)")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut ids = Vec::new();
                while let Some((token, id)) = map.next_entry::<std::borrow::Cow<'de, str>, u64>()? {
                    match u32::try_from(id) {
                        Ok(id) if id <= MAX_TOKEN_ID => ids.push(id),
                        _ => {
                            return Err(serde::de::Error::custom(format_args!(
                                "`model.vocab` gives {token:?} the id {id}, more than {MAX_TOKEN_ID}"
                            )));
                        }
                    }
                }
                ids.sort_unstable();
                if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
                    return Err(serde::de::Error::custom(format_args!(
                        "`model.vocab` gives two tokens the id {}",
                        pair[0]
                    )));
                }
                Ok(Vocab { len: ids.len() })
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                let mut len = 0usize;
                while seq.next_element::<IgnoredAny>()?.is_some() {
                    len += 1;
                }
                if len > MAX_TOKEN_ID as usize {
                    return Err(serde::de::Error::custom("`model.vocab` is too long"));
                }
                Ok(Vocab { len })
            }
        }
        deserializer.deserialize_any(V)
    }
}
