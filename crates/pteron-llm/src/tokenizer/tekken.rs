//! Mistral's `tekken.json`: a rank file with its pattern and special tokens, as JSON. Special tokens come first, the rank of
//! a token is counted behind them.

use super::byte_bpe::{ByteBpe, Merges, Parts};
use super::pattern::{self, Cutter};
use super::validate::{self, MAX_VOCABULARY, TEKKEN, invalid};
use super::{SpecialToken, TokenizerError, TokenizerKind, base64};
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::fmt;

/// Special tokens of files that do not list them (`mistral-common`, `tekken.py`): those of version 7 and before.
const UNLISTED: [&str; 20] = [
    "<unk>",
    "<s>",
    "</s>",
    "[INST]",
    "[/INST]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "[TOOL_CALLS]",
    "[IMG]",
    "<pad>",
    "[IMG_BREAK]",
    "[IMG_END]",
    "[PREFIX]",
    "[MIDDLE]",
    "[SUFFIX]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[TOOL_CONTENT]",
];

#[derive(Deserialize)]
struct File {
    config: Config,
    vocab: Vocab,
    special_tokens: Option<Vec<Special>>,
}

#[derive(Deserialize)]
struct Config {
    pattern: String,
    default_vocab_size: usize,
    default_num_special_tokens: usize,
    version: Option<String>,
}

#[derive(Deserialize)]
struct Special {
    rank: usize,
    token_str: String,
}

#[derive(Deserialize)]
struct Token {
    rank: usize,
    token_bytes: String,
}

/// The bytes of each token, by rank.
struct Vocab(Vec<Box<[u8]>>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Vocab;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tokens")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                use serde::de::Error;
                let mut pieces = Vec::new();
                while let Some(token) = seq.next_element::<Token>()? {
                    let at = pieces.len();
                    if at == MAX_VOCABULARY {
                        return Err(Error::custom(format_args!("`vocab` has more than {MAX_VOCABULARY} tokens")));
                    }
                    if token.rank != at {
                        return Err(Error::custom(format_args!("`vocab`: token {at} has rank {}", token.rank)));
                    }
                    let piece = base64::decode(token.token_bytes.as_bytes())
                        .ok_or_else(|| Error::custom(format_args!("`vocab`: token {at} is not base64")))?;
                    pieces.push(piece.into_boxed_slice());
                }
                Ok(Vocab(pieces))
            }
        }
        deserializer.deserialize_seq(V)
    }
}

/// Reads a `tekken.json`.
pub(super) fn open(bytes: &[u8]) -> Result<ByteBpe, TokenizerError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    validate::check_size(TEKKEN, bytes)?;
    validate::check_depth(TEKKEN, bytes)?;
    let file: File = serde_json::from_slice(bytes).map_err(|e| invalid(TEKKEN, e))?;
    let Config { pattern, default_vocab_size: size, default_num_special_tokens: reserved, version } = file.config;
    let mut ranks = file.vocab.0;
    if reserved > MAX_VOCABULARY || size > MAX_VOCABULARY || size <= reserved || size - reserved > ranks.len() {
        return Err(invalid(
            TEKKEN,
            format_args!(
                "`default_vocab_size` is {size} and `default_num_special_tokens` {reserved}, for {} tokens in `vocab`",
                ranks.len()
            ),
        ));
    }
    ranks.truncate(size - reserved);
    let mut names: Vec<String> = match file.special_tokens {
        Some(listed) => {
            for (at, token) in listed.iter().enumerate() {
                if token.rank != at {
                    return Err(invalid(TEKKEN, format_args!("`special_tokens`: token {at} has rank {}", token.rank)));
                }
            }
            listed.into_iter().map(|t| t.token_str).collect()
        }
        None if listed_by_version(version.as_deref()) => {
            let version = version.unwrap_or_default();
            return Err(invalid(
                TEKKEN,
                format_args!("`special_tokens` is missing, which version {version} must have"),
            ));
        }
        None => UNLISTED.iter().map(|&t| t.to_owned()).collect(),
    };
    if names.len() > reserved {
        return Err(invalid(TEKKEN, format_args!("{} special tokens for {reserved} places", names.len())));
    }
    names.extend((names.len()..reserved).map(|i| format!("<SPECIAL_{i}>")));
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(invalid(TEKKEN, format_args!("two special tokens are {:?}", pair[0])));
    }
    let known = pattern::find(&pattern).ok_or_else(|| {
        let shown: String = pattern.chars().take(80).collect();
        invalid(TEKKEN, format_args!("`pattern` is none of those that are known: {shown}"))
    })?;
    let id = |name: &str| (0u32..).zip(&names).find(|(_, n)| *n == name).map(|(id, _)| id);
    let (bos, eos) = (id("<s>"), id("</s>"));
    let special = (0u32..).zip(&names).map(|(id, n)| SpecialToken { id, content: n.clone() }).collect();
    let pieces = names.iter().map(|n| n.as_bytes().into()).chain(ranks).collect();
    ByteBpe::new(Parts {
        kind: TokenizerKind::Tekken,
        file: TEKKEN,
        pieces,
        special,
        user_defined: Vec::new(),
        merges: Merges::ById,
        cutter: Cutter::new(&[known]).map_err(|e| invalid(TEKKEN, e))?,
        nfc: false,
        bos,
        eos,
        add_bos: bos.is_some(),
        add_eos: false,
        all_bytes: true,
    })
}

/// Whether files of this version list their special tokens: those after 7.
fn listed_by_version(version: Option<&str>) -> bool {
    let number = version.and_then(|v| v.strip_prefix('v')).map(|v| v.split(|c: char| !c.is_ascii_digit()).next());
    number.flatten().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 7)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(edit: impl FnOnce(&mut serde_json::Value)) -> Result<ByteBpe, TokenizerError> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let base64 = |byte: u8| {
            let (a, b) = (ALPHABET[usize::from(byte >> 2)], ALPHABET[usize::from((byte & 3) << 4)]);
            format!("{}{}==", char::from(a), char::from(b))
        };
        let mut vocab: Vec<_> =
            (0..=255u8).map(|b| json!({"rank": b, "token_bytes": base64(b), "token_str": null})).collect();
        vocab.push(json!({"rank": 256, "token_bytes": "aGk=", "token_str": "hi"}));
        vocab.push(json!({"rank": 257, "token_bytes": "aG8=", "token_str": "ho"}));
        let mut value = json!({
            "config": {"pattern": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
                "num_vocab_tokens": 258, "default_vocab_size": 281, "default_num_special_tokens": 24, "version": "v3"},
            "vocab": vocab});
        edit(&mut value);
        open(value.to_string().as_bytes())
    }

    #[test]
    fn ranks_stand_behind_the_special_tokens() {
        use crate::tokenizer::Backend;
        let t = file(|_| {}).unwrap();
        assert_eq!(t.plain("hihoh"), [280, 24 + 104, 24 + 111, 24 + 104]);
        assert_eq!((t.bos_id(), t.eos_id(), t.vocab_size()), (Some(1), Some(2), 281));
        assert_eq!(t.special_tokens()[23].content, "<SPECIAL_23>");
        assert_eq!(t.token_to_id("[INST]"), Some(3));
        assert_eq!(t.decode(&[1, 280, 3], true).unwrap(), "hi");
        assert_eq!(t.decode(&[1, 280, 3, 9999], false).unwrap(), "<s>hi[INST]");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |edit: fn(&mut serde_json::Value)| file(edit).unwrap_err().to_string();
        assert!(error(|v| v["config"]["pattern"] = "(a*)*b".into()).contains("`pattern` is none"));
        assert!(error(|v| v["config"]["version"] = "v13".into()).contains("`special_tokens` is missing"));
        assert!(error(|v| v["config"]["default_vocab_size"] = 300.into()).contains("for 258 tokens"));
        assert!(error(|v| v["config"]["default_vocab_size"] = 24.into()).contains("`default_vocab_size` is 24"));
        let few = error(|v| {
            v["config"]["default_num_special_tokens"] = 9.into();
            v["config"]["default_vocab_size"] = 267.into();
        });
        assert!(few.contains("special tokens for 9 places"), "{few}");
        assert!(error(|v| v["config"]["default_num_special_tokens"] = u32::MAX.into()).contains("4294967295, for 258"));
        assert!(error(|v| v["vocab"][3]["rank"] = 7.into()).contains("token 3 has rank 7"));
        assert!(error(|v| v["vocab"][3]["token_bytes"] = "?".into()).contains("token 3 is not base64"));
        assert!(error(|v| v["vocab"][3]["token_bytes"] = "aGk=".into()).contains("two tokens are \"hi\""));
        let special = json!([{"rank": 0, "token_str": "a"}, {"rank": 1, "token_str": "a"}]);
        assert!(
            file(|v| v["special_tokens"] = special).unwrap_err().to_string().contains("two special tokens are \"a\"")
        );
        let late = json!([{"rank": 1, "token_str": "a"}]);
        assert!(file(|v| v["special_tokens"] = late).unwrap_err().to_string().contains("token 0 has rank 1"));
    }
}
