//! Small tokenizers, written as `tokenizer.json`, and a clock that only moves when told.
#![allow(dead_code, reason = "each test file uses its own part")]

use pteron_llm::clock::Clock;
use pteron_llm::tokenizer::Tokenizer;
use serde_json::{Map, Value, json};
use std::cell::Cell;

/// Each reading is one millisecond after the one before.
#[derive(Debug, Default)]
pub(crate) struct TickingClock(Cell<i64>);

impl Clock for TickingClock {
    fn now_us(&self) -> i64 {
        self.0.set(self.0.get() + 1000);
        self.0.get()
    }
}

/// The characters of GPT-2's byte alphabet, by byte.
pub(crate) fn byte_alphabet() -> Vec<char> {
    let mut next = 0x100;
    (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap()
            }
        })
        .collect()
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
           "normalized": false, "special": special})
}

/// 256 bytes, some merges (among them parts of characters), then `<|bos|>` 266, `<|eos|>` 267, `<tool>` 268 (not special).
pub(crate) fn byte_level_json() -> Value {
    let alphabet = byte_alphabet();
    let piece = |bytes: &[u8]| bytes.iter().map(|&b| alphabet[usize::from(b)]).collect::<String>();
    let merges: [(&[u8], &[u8]); 10] = [
        (b" ", b"a"),
        (b"h", b"e"),
        (b"l", b"l"),
        (b"he", b"ll"),
        (b"hell", b"o"),
        (&[0xF0], &[0x9F]),
        (&[0xF0, 0x9F], &[0x98]),
        (&[0xBD], &[0xE5]),
        (&[0xA5], &[0xBD]),
        (b" ", b" "),
    ];
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        vocab.insert(piece(&[byte]), byte.into());
    }
    for (left, right) in merges {
        let id = vocab.len();
        vocab.insert(piece(left) + &piece(right), id.into());
    }
    let next = vocab.len();
    let merges: Vec<Value> = merges.iter().map(|(l, r)| json!([piece(l), piece(r)])).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(next, "<|bos|>", true), added(next + 1, "<|eos|>", true), added(next + 2, "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<|bos|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [next], "tokens": ["<|bos|>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges}
    })
}

pub(crate) const BYTE_LEVEL_CONFIG: &[u8] = br#"{"bos_token": "<|bos|>", "eos_token": {"content": "<|eos|>"}}"#;

pub(crate) fn byte_level() -> Tokenizer {
    Tokenizer::from_bytes(byte_level_json().to_string().as_bytes(), Some(BYTE_LEVEL_CONFIG)).unwrap()
}

/// Llama-2's construction: `<unk>`, `<s>`, `</s>`, 256 byte tokens from id 3, then pieces with `▁`.
pub(crate) fn byte_fallback_json(decoder: Value) -> Value {
    let mut vocab = Map::new();
    let pieces = [
        "▁", "a", "b", "▁a", "▁b", "▁▁", "hello", "▁hello", "é", "好", "😀", "\u{301}", "▁<", "<0x", "\u{FFFD}", "x▁y",
    ];
    let names = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    for token in names.chain(bytes).chain(pieces.map(str::to_owned)) {
        let id = vocab.len();
        vocab.insert(token, id.into());
    }
    json!({
        "version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 5}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"},
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": decoder,
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": ["▁ a", "▁ b", "▁ ▁"]}
    })
}

pub(crate) fn llama2_decoder() -> Value {
    json!({"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})
}

pub(crate) fn metaspace() -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})
}

pub(crate) fn byte_fallback(decoder: Value) -> Tokenizer {
    let config = br#"{"bos_token": "<s>", "eos_token": "</s>"}"#;
    Tokenizer::from_bytes(byte_fallback_json(decoder).to_string().as_bytes(), Some(config)).unwrap()
}

/// How long this thread has computed; the time of day where the system does not say. Other tests and programs do not count.
pub(crate) fn spent(since: std::time::Instant) -> std::time::Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    match text.split_whitespace().next().and_then(|n| n.parse().ok()) {
        Some(nanoseconds) => std::time::Duration::from_nanos(nanoseconds),
        None => since.elapsed(),
    }
}
