//! Which kind of tokenizer some bytes are.

use super::TokenizerError;
use super::validate::{self, MAX_PIECE_BYTES, TOKENIZER_JSON};
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
    } else if llama2c_header(bytes).is_some() {
        Ok(TokenizerKind::Llama2c)
    } else {
        unknown(foreign(bytes).unwrap_or("the content is neither JSON nor another tokenizer's"))
    }
}

/// What a file is that is given for a tokenizer by mistake, by its first 9 bytes or more; `None` for all others.
pub fn foreign(bytes: &[u8]) -> Option<&'static str> {
    // An ExecuTorch file has its identifier behind the first offset; safetensors begin with the length of their JSON.
    match bytes.get(4..8) {
        Some([b'E', b'T', b'0'..=b'9', b'0'..=b'9']) => return Some("the file is an ExecuTorch program (.pte)"),
        Some(b"BP08") => return Some("the file is a bundled ExecuTorch program (.bpte)"),
        Some(b"FT01") => return Some("the file is an ExecuTorch data file (.ptd)"),
        _ => {}
    }
    if bytes.get(8) == Some(&b'{') && bytes.get(4..8) == Some(&[0; 4]) {
        return Some("the file looks like safetensors");
    }
    bytes.starts_with(b"PK\x03\x04").then_some("the file is a zip archive, as PyTorch's checkpoints are")
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

/// What stands before the pieces of a `tokenizer.bin`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Llama2cHeader {
    /// Its size.
    pub(super) bytes: usize,
    /// Number of pieces; `None` if the file's end ends them.
    pub(super) vocab: Option<usize>,
    pub(super) bos: u32,
    pub(super) eos: u32,
    /// Bytes of the longest piece.
    pub(super) longest: usize,
}

/// The header of a `tokenizer.bin`, if a first piece follows it. ExecuTorch's has vocabulary, bos, eos and the longest
/// piece's bytes; karpathy's own files have the last alone.
pub(super) fn llama2c_header(bytes: &[u8]) -> Option<Llama2cHeader> {
    let int = |at: usize| Some(i32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let number = |at: usize| int(at).and_then(|n| u32::try_from(n).ok());
    let longest_at = |at: usize| number(at).map(|n| n as usize).filter(|n| (1..=MAX_PIECE_BYTES).contains(n));
    let piece_at = |at: usize, longest: usize| {
        let length = number(at + 4).map(|n| n as usize).filter(|&n| n <= longest);
        let score = int(at).map(|bits| f32::from_bits(bits as u32));
        score.is_some_and(f32::is_finite) && length.is_some_and(|length| bytes.len() >= at + 8 + length)
    };
    if let (Some(vocab), Some(bos), Some(eos), Some(longest)) = (number(0), number(4), number(8), longest_at(12))
        && (vocab > 2 && bos < vocab && eos < vocab && piece_at(16, longest))
    {
        return Some(Llama2cHeader { bytes: 16, vocab: Some(vocab as usize), bos, eos, longest });
    }
    let longest = longest_at(0).filter(|&longest| piece_at(4, longest) && bytes.len() > 64)?;
    Some(Llama2cHeader { bytes: 4, vocab: None, bos: 1, eos: 2, longest })
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
            (b"\x20\0\0\0ET12\0\0\0\0", "ExecuTorch program (.pte)"),
            (b"\x20\0\0\0BP08\0\0\0\0", "bundled ExecuTorch program"),
            (b"\x20\0\0\0FT01\0\0\0\0", "ExecuTorch data file"),
            (b"\x20\0\0\0\0\0\0\0{}", "safetensors"),
            (b"PK\x03\x04", "zip archive"),
        ] {
            let error = detect(bytes).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
