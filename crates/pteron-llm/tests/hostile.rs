//! Mutants of tokenizers and chat templates: an error, or something that encodes, decodes and renders within the limits.

mod common;
mod drive;

use pteron_testkit::hostile::{self, Counting, Limits, Seed, walk};
use serde_json::json;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The library of tokenizers and the template engine recurse over what they parse, to a bounded depth.
fn limits() -> Limits {
    Limits { stack: 1 << 20, ..Limits::default() }
}

fn json_seed(name: &str, text: String) -> Seed {
    let bytes = text.into_bytes();
    let fields = walk::json(&bytes, 0..bytes.len());
    let len = bytes.len();
    Seed::new(name, bytes, fields, len)
}

/// With few words, so that the structure around them is a good part of the file.
fn tokenizer_jsons() -> Vec<Seed> {
    let small = json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Replace",
            "pattern": {"Regex": "[ \\t]{2,3}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "\\p{N}{1,3}|\\s+(?!\\S)"},
            "behavior": "Isolated", "invert": false}, {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false}]},
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": {"l": 0, "o": 1, "lo": 2, "H": 3}, "merges": [["l", "o"]]}
    });
    // A trie in which nothing is found.
    let charsmap = base64(&[&1024u32.to_le_bytes()[..], &[0; 1024]].concat());
    let unigram = json!({
        "version": "1.0", "added_tokens": [], "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        "post_processor": null, "decoder": common::llama2_decoder(),
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": true,
            "vocab": [["<unk>", 0.0], ["▁", -2.0], ["l", -3.0], ["lo", -2.5], ["<0x20>", -9.0]]}
    });
    let plain = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "H": 1, "##e": 2}}});
    vec![
        json_seed("small", small.to_string()),
        json_seed("unigram", unigram.to_string()),
        json_seed("wordpiece", plain.to_string()),
        json_seed("byte level", common::byte_level_json().to_string()),
    ]
}

#[test]
fn tokenizer_json() {
    let seeds = tokenizer_jsons();
    let tally = hostile::mutants_within("tokenizer_json", seeds, limits(), drive::tokenizer);
    assert!(tally.accepted > 50 && tally.refused > 500, "{tally:?}");
}

const TEMPLATES: [&str; 3] = [
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] | trim + '<|im_end|>' }}\\n{% endfor %}\
     {% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "{%- set ns = namespace(n=0) -%}{%- for i in range(10) %}{% set ns.n = ns.n + i * 3 %}{% endfor -%}\
     {{ ns.n }}{% macro f(x, y=2) %}{{ x ~ y }}{% endmacro %}{{ f('a' * 3) }}{{ messages | length }}\
     {{ strftime_now('%d %b %Y') }}{{ messages | tojson(indent=2) }}{{ (messages | map(attribute='content') | list)[0][:4].split(' ') }}",
    "{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% else %}{{ raise_exception('no') }}{% endif %}\
     {% for m in loop_messages %}{% generation %}{{ m.content.replace('H', 'h').upper() | join('-') | string }}{% endgeneration %}\
     {% if loop.index > 5 %}{% break %}{% endif %}{% endfor %}{{ [1, [2, {'a': 3}]] | string }}{{ '%s-%d' | format('x', 4) }}",
];

/// Tokens of a template: words, numbers, strings, tags.
fn template_seed(number: usize, text: &str) -> Seed {
    let bytes = text.as_bytes().to_vec();
    let fields = walk::words_of_text(&bytes);
    let len = bytes.len();
    Seed::new(format!("template {number}"), bytes, fields, len)
}

#[test]
fn chat_templates() {
    let seeds = TEMPLATES.iter().enumerate().map(|(i, t)| template_seed(i, t)).collect();
    let tally = hostile::mutants_within("chat_template", seeds, limits(), drive::chat_template);
    assert!(tally.accepted > 200 && tally.refused > 200, "{tally:?}");
}

#[test]
fn tokenizer_configs() {
    let text = json!({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}, "unk_token": null,
        "add_bos_token": true, "chat_template": [{"name": "default", "template": TEMPLATES[0]},
        {"name": "tool_use", "template": TEMPLATES[1]}]});
    let plain = json!({"chat_template": TEMPLATES[0], "bos_token": null});
    let seeds = vec![json_seed("named", text.to_string()), json_seed("plain", plain.to_string())];
    let tally = hostile::mutants_within("tokenizer_config", seeds, limits(), drive::tokenizer_config);
    assert!(tally.accepted > 200 && tally.refused > 200, "{tally:?}");
}

fn varint(mut n: usize, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// A field of a Protocol Buffers message that has a length.
fn field(number: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    varint(content.len(), out);
    out.extend_from_slice(content);
}

/// A SentencePiece model of `kind` (1 unigram, 2 BPE): three control pieces, the bytes, and some text.
fn sentencepiece(kind: u8) -> Seed {
    let mut model = Vec::new();
    let mut piece = |text: &str, score: f32, of: u8| {
        let mut p = Vec::new();
        field(1, text.as_bytes(), &mut p);
        p.push(2 << 3 | 5);
        p.extend(score.to_le_bytes());
        p.extend([3 << 3, of]);
        field(1, &p, &mut model);
    };
    piece("<unk>", 0.0, 2);
    piece("<s>", 0.0, 3);
    piece("</s>", 0.0, 3);
    (0..=255u8).for_each(|b| piece(&format!("<0x{b:02X}>"), 0.0, 6));
    for (i, text) in ["▁", "l", "o", "lo", "▁w", "H", "e", "▁He", "😀"].iter().enumerate() {
        piece(text, -(i as f32), 1);
    }
    let mut trainer = vec![3 << 3, kind];
    // unk, bos, eos and pad ids; byte fallback.
    for (number, id) in [(40usize, 0usize), (41, 1), (42, 2), (35, 1)] {
        varint(number << 3, &mut trainer);
        varint(id, &mut trainer);
    }
    field(2, &trainer, &mut model);
    let mut normalizer = Vec::new();
    field(1, b"identity", &mut normalizer);
    normalizer.extend([3 << 3, 1, 4 << 3, 1, 5 << 3, 1]);
    field(3, &normalizer, &mut model);
    let fields = walk::protobuf(&model, 0..model.len(), 2);
    let len = model.len();
    Seed::new(if kind == 2 { "sentencepiece bpe" } else { "sentencepiece unigram" }, model, fields, len)
}

fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().chain([0, 0].iter()).take(3).fold(0usize, |n, &b| n << 8 | usize::from(b));
        for i in 0..4 {
            out.push(if i <= chunk.len() { char::from(SIGNS[n >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    out
}

/// All bytes, then some pairs.
fn ranks() -> Vec<Vec<u8>> {
    let more = [&b"lo"[..], b" w", b"He", b"  ", "é".as_bytes()];
    (0..=255u8).map(|b| vec![b]).chain(more.iter().map(|m| m.to_vec())).collect()
}

fn tiktoken() -> Seed {
    let lines: String = ranks().iter().enumerate().map(|(i, r)| format!("{} {i}\n", base64(r))).collect();
    let bytes = lines.into_bytes();
    let fields = walk::lines(&bytes);
    let len = bytes.len();
    Seed::new("tiktoken", bytes, fields, len)
}

fn tekken() -> Seed {
    let ranks = ranks();
    let vocab: Vec<_> = ranks
        .iter()
        .enumerate()
        .map(|(i, r)| json!({"rank": i, "token_bytes": base64(r), "token_str": String::from_utf8(r.clone()).ok()}))
        .collect();
    // Only published patterns are taken.
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/tokenizers/tekken.json");
    let known: serde_json::Value = serde_json::from_slice(&std::fs::read(known).unwrap()).unwrap();
    let file = json!({
        "config": {"pattern": known["config"]["pattern"], "num_vocab_tokens": ranks.len(), "default_vocab_size": ranks.len() + 3, "default_num_special_tokens": 3,
            "version": "v7"},
        "special_tokens": [{"rank": 0, "token_str": "<unk>", "is_control": true}, {"rank": 1, "token_str": "<s>", "is_control": true},
            {"rank": 2, "token_str": "</s>", "is_control": true}],
        "vocab": vocab});
    json_seed("tekken", file.to_string())
}

/// llama2.c's file: the longest piece, then score, length and bytes of each.
fn llama2c() -> Seed {
    let mut pieces: Vec<String> = ["<unk>", "\n<s>\n", "\n</s>\n"].map(str::to_owned).to_vec();
    pieces.extend((0..=255u8).map(|b| format!("<0x{b:02X}>")));
    pieces.extend([" ", "l", "o", "lo", " w", "H", "e"].map(str::to_owned));
    let longest = pieces.iter().map(String::len).max().unwrap_or(1);
    let mut bytes = u32::try_from(longest).unwrap().to_le_bytes().to_vec();
    let mut fields = vec![hostile::Field::new("longest", 0, 4, hostile::Kind::Int)];
    for (i, piece) in pieces.iter().enumerate() {
        let at = bytes.len();
        bytes.extend((-(i as f32)).to_le_bytes());
        bytes.extend(u32::try_from(piece.len()).unwrap().to_le_bytes());
        bytes.extend(piece.as_bytes());
        fields.push(hostile::Field::new("score", at, 4, hostile::Kind::Float));
        fields.push(hostile::Field::new("length", at + 4, 4, hostile::Kind::Int));
        fields.push(hostile::Field::new("piece", at + 8, piece.len(), hostile::Kind::Bytes));
    }
    let len = bytes.len();
    Seed::new("llama2c", bytes, fields, len)
}

#[test]
fn tokenizer_models() {
    let seeds = vec![sentencepiece(2), sentencepiece(1), tiktoken(), tekken(), llama2c()];
    let tally = hostile::mutants_within("tokenizer_model", seeds, limits(), drive::tokenizer);
    assert!(tally.accepted > 100 && tally.refused > 300, "{tally:?}");
}

#[test]
fn truncated_tokenizers() {
    for seed in [sentencepiece(2), llama2c()] {
        // A protocol buffer, and a list without a count, may end after any of their entries.
        let tally = hostile::truncations("tokenizer_model", &Seed { header: 600, ..seed }, |_| true, drive::tokenizer);
        assert!(tally.refused > 300, "{tally:?}");
    }
}

#[test]
fn a_character_map_cannot_ask_for_memory() {
    let file = |map: &[u8]| {
        json!({"normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": base64(map)}]},
            "model": {"type": "WordPiece", "unk_token": "a", "vocab": {"a": 0}}})
        .to_string()
    };
    for map in [&u32::MAX.to_le_bytes()[..], &[8, 0, 0, 0, 1, 2, 3, 4], &[0, 0, 0, 0], &[1, 2], &[]] {
        let verdict = hostile::check("charsmap", file(map).as_bytes(), &limits(), drive::tokenizer).unwrap();
        assert!(verdict.unwrap_err().contains("`precompiled_charsmap` is no map"));
    }
}
