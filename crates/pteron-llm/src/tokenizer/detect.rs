//! Which kind of tokenizer some bytes are.

use super::TokenizerError;
use super::validate::{self, TOKENIZER_JSON};
use std::fmt;

/// Kinds of tokenizer files, told apart by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerKind {
    /// `tokenizer.json` of the Hugging Face tokenizers library.
    HuggingFaceJson,
    /// Mistral's `tekken.json`.
    Tekken,
    /// A SentencePiece model (protocol buffer).
    SentencePiece,
    /// A tiktoken rank file: lines of base64 and rank.
    Tiktoken,
    /// llama2.c's `tokenizer.bin`.
    Llama2c,
    /// A GGUF file, which carries its tokenizer inside.
    Gguf,
}

impl fmt::Display for TokenizerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HuggingFaceJson => "a Hugging Face tokenizer.json",
            Self::Tekken => "a Tekken tokenizer (tekken.json)",
            Self::SentencePiece => "a SentencePiece model",
            Self::Tiktoken => "a tiktoken rank file",
            Self::Llama2c => "a llama2.c tokenizer.bin",
            Self::Gguf => "a GGUF file",
        })
    }
}

/// Says what the bytes are, or what they look like instead of a tokenizer.
pub fn detect(bytes: &[u8]) -> Result<TokenizerKind, TokenizerError> {
    let unknown = |found: &str| Err(TokenizerError::Unknown { found: found.to_owned() });
    if bytes.is_empty() {
        return unknown("the file is empty");
    }
    if bytes.starts_with(b"GGUF") {
        return Ok(TokenizerKind::Gguf);
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return unknown("the file is a Git LFS pointer, its content was not downloaded");
    }
    let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    match text.first() {
        Some(b'{') => return detect_json(text),
        Some(b'<') => return unknown("the file starts like a web page"),
        _ => {}
    }
    if is_sentencepiece(bytes) {
        Ok(TokenizerKind::SentencePiece)
    } else if is_tiktoken(bytes) {
        Ok(TokenizerKind::Tiktoken)
    } else if is_llama2c(bytes) {
        Ok(TokenizerKind::Llama2c)
    } else {
        unknown("the content is neither JSON nor another tokenizer's")
    }
}

fn detect_json(text: &[u8]) -> Result<TokenizerKind, TokenizerError> {
    validate::check_size(TOKENIZER_JSON, text)?;
    validate::check_depth(TOKENIZER_JSON, text)?;
    let keys = validate::top_level_keys(text)?;
    let has = |key: &str| keys.iter().any(|k| k == key);
    if has("model") {
        return Ok(TokenizerKind::HuggingFaceJson);
    }
    if has("config") && has("vocab") {
        return Ok(TokenizerKind::Tekken);
    }
    let found = if has("tokenizer_class") || has("chat_template") {
        "the file looks like tokenizer_config.json; tokenizer.json is beside it".to_owned()
    } else if has("architectures") || has("hidden_size") {
        "the file looks like a model's config.json".to_owned()
    } else if keys.is_empty() {
        "the JSON object is empty".to_owned()
    } else {
        let shown: Vec<&str> = keys.iter().take(4).map(String::as_str).collect();
        format!("a JSON object without `model` (its keys start with {})", shown.join(", "))
    };
    Err(TokenizerError::Unknown { found })
}

/// A `ModelProto` starts with field 1, `pieces`: a message whose own field 1 is the piece's text, then field 2 its score.
fn is_sentencepiece(bytes: &[u8]) -> bool {
    let [0x0A, length, rest @ ..] = bytes else { return false };
    let Some(piece) = rest.get(..usize::from(*length)) else { return false };
    let [0x0A, text, tail @ ..] = piece else { return false };
    *length < 0x80
        && tail.get(usize::from(*text)).is_none_or(|&tag| tag == 0x15 || tag == 0x18)
        && std::str::from_utf8(tail.get(..usize::from(*text)).unwrap_or(&[0xFF])).is_ok()
}

fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or(bytes).trim_ascii_end();
    let mut parts = line.split(|&b| b == b' ');
    let (Some(token), Some(rank), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    !token.is_empty()
        && token.len() % 4 == 0
        && token.iter().all(base64)
        && !rank.is_empty()
        && rank.iter().all(u8::is_ascii_digit)
}

/// Header of four little-endian integers (vocabulary, bos, eos, longest token), then score, length and bytes of a token.
/// karpathy's own files have only the longest token's length before the first token.
fn is_llama2c(bytes: &[u8]) -> bool {
    let int = |at: usize| Some(i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let token_at = |at: usize, longest: i32| {
        let Some(length) = int(at + 4) else { return false };
        let score = int(at).map(|bits| f32::from_bits(bits as u32));
        (0..=longest).contains(&length) && score.is_some_and(f32::is_finite) && bytes.len() >= at + 8 + length as usize
    };
    let with_header = matches!(
        (int(0), int(4), int(8), int(12)),
        (Some(vocab), Some(bos), Some(eos), Some(longest))
            if vocab > 2 && (0..vocab).contains(&bos) && (0..vocab).contains(&eos)
                && (1..=4096).contains(&longest) && token_at(16, longest)
    );
    with_header
        || matches!(int(0), Some(longest) if (1..=4096).contains(&longest) && token_at(4, longest) && bytes.len() > 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_by_content() {
        let sentencepiece = b"\x0A\x0E\x0A\x05<unk>\x15\0\0\0\0\x18\x02\x0A\x0C\x0A\x03<s>\x15\0\0\0\0\x18\x03";
        let mut llama2c = Vec::new();
        for int in [512i32, 1, 2, 27] {
            llama2c.extend(int.to_le_bytes());
        }
        llama2c.extend(0f32.to_le_bytes());
        llama2c.extend(5i32.to_le_bytes());
        llama2c.extend(b"<unk>");
        for (bytes, kind) in [
            (br#" {"version":"1.0","model":{}}"#.as_slice(), TokenizerKind::HuggingFaceJson),
            (br#"{"config":{},"vocab":[]}"#, TokenizerKind::Tekken),
            (b"GGUF\x03\0\0\0", TokenizerKind::Gguf),
            (b"IQ== 0\nIg== 1\n", TokenizerKind::Tiktoken),
            (sentencepiece, TokenizerKind::SentencePiece),
            (&llama2c, TokenizerKind::Llama2c),
        ] {
            assert_eq!(detect(bytes), Ok(kind));
        }
    }

    #[test]
    fn other_files_are_named() {
        for (bytes, part) in [
            (b"".as_slice(), "empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
            (b"<!DOCTYPE html>", "web page"),
            (br#"{"tokenizer_class":"X","bos_token":"<s>"}"#, "tokenizer_config.json"),
            (br#"{"architectures":["LlamaForCausalLM"]}"#, "config.json"),
            (br#"{"a":1}"#, "keys start with a"),
            (b"{", "tokenizer.json"),
            (b"\xFF\xFE\x00\x01", "neither JSON"),
        ] {
            let error = detect(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn an_unsupported_kind_says_so() {
        let error = super::super::Tokenizer::from_bytes(b"IQ== 0\n", None).unwrap_err().to_string();
        assert_eq!(
            error,
            "this looks like a tiktoken rank file, which is not supported yet; supported: a Hugging Face tokenizer.json"
        );
    }
}
