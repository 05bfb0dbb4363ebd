//! Encoding, decoding, streaming, and files that are wrong.

mod common;

use common::{
    BYTE_LEVEL_CONFIG, byte_fallback, byte_fallback_json, byte_level, byte_level_json, llama2_decoder, metaspace,
};
use proptest::prelude::*;
use pteron_llm::tokenizer::{MAX_JSON_DEPTH, StreamDecoder, Tokenizer, TokenizerError, TokenizerKind};
use serde_json::{Value, json};

const TEXTS: [&str; 8] = [
    "hello world",
    "  a  b\n\tc ",
    "日本語のテキスト、好好好。",
    "😀👩‍👩‍👧‍👦🏳️‍🌈🇩🇪",
    "e\u{301}a\u{300}\u{308} नमस्ते",
    "ʹ\u{0}\u{7f}\u{ffff}\u{fffd}",
    "",
    "مرحبا <|eos|> x <tool>y",
];

fn decoders() -> Vec<(&'static str, Tokenizer)> {
    let strip_both = json!({"type": "Sequence", "decoders": [
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
        {"type": "Strip", "content": " ", "start": 2, "stop": 0}, {"type": "ByteFallback"}, {"type": "Fuse"}]});
    let after_fuse = json!({"type": "Sequence", "decoders": [
        {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "a▁"}, "content": "*"},
        {"type": "Strip", "content": "b", "start": 0, "stop": 1}]});
    vec![
        ("byte level", byte_level()),
        ("llama 2", byte_fallback(llama2_decoder())),
        ("metaspace", byte_fallback(metaspace())),
        (
            "byte fallback, then metaspace",
            byte_fallback(json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace()]})),
        ),
        ("strip", byte_fallback(strip_both)),
        ("no decoder", byte_fallback(Value::Null)),
        ("word piece", byte_fallback(json!({"type": "WordPiece", "prefix": "▁", "cleanup": true}))),
        ("bpe suffix", byte_fallback(json!({"type": "BPEDecoder", "suffix": "▁"}))),
        ("ctc", byte_fallback(json!({"type": "CTC", "pad_token": "a", "word_delimiter_token": "▁", "cleanup": true}))),
        ("replace after fuse", byte_fallback(after_fuse)),
    ]
}

fn stream(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut decoder = tokenizer.stream(skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    pieces.push(decoder.finish().unwrap());
    pieces
}

#[test]
fn texts_survive_both_ways_and_streamed() {
    for (name, tokenizer) in decoders().into_iter().take(2) {
        for text in TEXTS {
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{name}");
            assert_eq!(stream(&tokenizer, &ids, false).concat(), text, "{name}");
        }
    }
}

#[test]
fn facts_of_a_byte_level_tokenizer() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.kind(), TokenizerKind::HuggingFaceJson);
    assert_eq!(tokenizer.vocab_size(), 269);
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(266), Some(267)));
    let special: Vec<u32> = tokenizer.special_tokens().iter().map(|t| t.id).collect();
    assert_eq!(special, [266, 267]);
    assert!(tokenizer.is_special(267) && !tokenizer.is_special(268) && !tokenizer.is_special(5));
    assert_eq!(tokenizer.token_to_id("<tool>"), Some(268));
    assert_eq!(tokenizer.id_to_piece(256).as_deref(), Some("Ġa"));
    assert_eq!(tokenizer.id_to_piece(999), None);
    let hello = tokenizer.token_to_id("hello").unwrap();
    assert_eq!(tokenizer.encode("hello<|eos|>", false).unwrap(), [hello, 267]);
    assert_eq!(tokenizer.encode("hello", true).unwrap(), [266, hello]);
    assert_eq!(tokenizer.encode_counted("hello", 0, 0).unwrap(), [hello]);
    assert_eq!(tokenizer.encode_counted("hello", 2, 1).unwrap(), [266, 266, hello, 267]);
    assert_eq!(tokenizer.decode(&[266, hello, 267, 9999], true).unwrap(), "hello");
    assert_eq!(tokenizer.decode(&[266, hello, 267], false).unwrap(), "<|bos|>hello<|eos|>");
    assert_eq!(tokenizer.decode(&[], true).unwrap(), "");
}

#[test]
fn saved_truncation_and_padding_are_off() {
    let tokenizer = byte_fallback(llama2_decoder());
    assert_eq!(tokenizer.encode("a b a b a b", false).unwrap().len(), 6);
    assert_eq!(tokenizer.encode("a", true).unwrap().len(), 2);
}

#[test]
fn without_a_config_there_is_no_bos_to_add() {
    let tokenizer = Tokenizer::from_bytes(byte_level_json().to_string().as_bytes(), None).unwrap();
    assert_eq!(tokenizer.eos_id(), None);
    assert_eq!(tokenizer.encode_counted("a", 1, 0), Err(TokenizerError::NoSpecial { which: "bos" }));
    assert_eq!(tokenizer.encode_counted("a", 0, 1), Err(TokenizerError::NoSpecial { which: "eos" }));
}

#[test]
fn an_emoji_in_four_tokens_comes_out_whole() {
    let tokenizer = byte_level();
    let ids = "a😀b".bytes().map(u32::from).collect::<Vec<_>>();
    assert_eq!(stream(&tokenizer, &ids, true), ["a", "", "", "", "😀", "b", ""]);
    assert_eq!(stream(&tokenizer, &ids[..3], true), ["a", "", "", "\u{FFFD}"]);
    // A byte that cannot continue the character settles it at once.
    assert_eq!(stream(&tokenizer, &[0xF0, 0x9F, u32::from(b'x')], true), ["", "", "\u{FFFD}x", ""]);
}

#[test]
fn a_run_of_byte_tokens_waits_for_its_end() {
    let tokenizer = byte_fallback(llama2_decoder());
    let a = tokenizer.token_to_id("a").unwrap();
    let run: Vec<u32> = "日本".bytes().map(|b| u32::from(b) + 3).chain([a]).collect();
    assert_eq!(stream(&tokenizer, &run, true), ["", "", "", "", "", "", "日本a", ""]);
    let broken: Vec<u32> = run[..5].to_vec();
    assert_eq!(stream(&tokenizer, &broken, true).last().unwrap(), &"\u{FFFD}".repeat(5));
}

#[test]
fn leading_space_is_dropped_only_at_the_start_of_the_text() {
    for decoder in [llama2_decoder(), metaspace()] {
        let tokenizer = byte_fallback(decoder);
        let hello = tokenizer.token_to_id("▁hello").unwrap();
        assert_eq!(stream(&tokenizer, &[1, hello, hello, 2], true), ["", "hello", " hello", "", ""]);
        let mut after = StreamDecoder::after(&tokenizer, true, &[1, hello]).unwrap();
        assert_eq!(after.push(hello).unwrap(), " hello");
        let mut first = StreamDecoder::after(&tokenizer, true, &[1]).unwrap();
        assert_eq!(first.push(hello).unwrap(), "hello");
        assert_eq!(first.finish().unwrap(), "");
        // After `finish` a new text begins.
        assert_eq!(first.push(hello).unwrap(), "hello");
    }
}

#[test]
fn hundred_thousand_tokens_stream_in_linear_time() {
    for (name, tokenizer) in decoders().into_iter().take(4) {
        // Bytes that are never a character, and tokens without text, are the worst for a decoder that looks back.
        for id in [0xFF + 3, 4, 2] {
            let start = std::time::Instant::now();
            let mut decoder = tokenizer.stream(true);
            for _ in 0..100_000 {
                decoder.push(id).unwrap();
            }
            decoder.finish().unwrap();
            assert!(start.elapsed().as_secs() < 30, "{name}, id {id}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pieces_concatenate_to_the_whole_decoding(
        ids in prop::collection::vec(prop_oneof![3 => 0u32..285, 2 => 255u32..285, 1 => 0u32..8, 1 => 220u32..262], 0..60),
        skip_special: bool,
    ) {
        thread_local!(static DECODERS: Vec<(&'static str, Tokenizer)> = decoders());
        DECODERS.with(|decoders| -> Result<(), TestCaseError> {
            for (name, tokenizer) in decoders {
                let whole = tokenizer.decode(&ids, skip_special).unwrap();
                prop_assert_eq!(stream(tokenizer, &ids, skip_special).concat(), whole, "{}", name);
            }
            Ok(())
        })?;
    }

    #[test]
    fn encoded_text_streams_back(text in "\\PC{0,40}") {
        thread_local!(static TOKENIZERS: [Tokenizer; 2] = [byte_level(), byte_fallback(llama2_decoder())]);
        TOKENIZERS.with(|tokenizers| -> Result<(), TestCaseError> {
            for tokenizer in tokenizers {
                let ids = tokenizer.encode(&text, false).unwrap();
                prop_assert_eq!(stream(tokenizer, &ids, false).concat(), tokenizer.decode(&ids, false).unwrap());
            }
            Ok(())
        })?;
    }

    #[test]
    fn damaged_files_are_errors(at in 0usize..9000, byte: u8) {
        let mut bytes = byte_level_json().to_string().into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes, Some(BYTE_LEVEL_CONFIG)) {
            let ids = tokenizer.encode("hello 😀", true);
            if let Ok(ids) = ids {
                let _ = tokenizer.decode(&ids, false);
            }
        }
    }
}

#[test]
fn wrong_files_say_what_is_wrong() {
    let with = |change: &dyn Fn(&mut Value)| {
        let mut json = byte_level_json();
        change(&mut json);
        Tokenizer::from_bytes(json.to_string().as_bytes(), None).unwrap_err().to_string()
    };
    let deep = format!("{{\"model\":{}1{}}}", "[".repeat(MAX_JSON_DEPTH), "]".repeat(MAX_JSON_DEPTH));
    for (error, part) in [
        (with(&|j| j["model"] = Value::Null), "`model` is missing"),
        (with(&|j| drop(j["model"].as_object_mut().unwrap().remove("vocab"))), "`model.vocab` is missing"),
        (with(&|j| j["model"]["vocab"] = json!({})), "`model.vocab` is empty"),
        (with(&|j| drop(j["model"].as_object_mut().unwrap().remove("merges"))), "`model.merges` is missing"),
        (with(&|j| j["model"]["vocab"]["a"] = json!(5_000_000_000u64)), "\"a\" the id 5000000000"),
        (with(&|j| j["model"]["vocab"]["a"] = json!(98)), "two tokens the id 98"),
        (with(&|j| j["model"]["dropout"] = json!(0.1)), "`model.dropout` is 0.1"),
        (with(&|j| j["added_tokens"][0]["id"] = json!(300)), "\"<|bos|>\" is id 300, but it resolves to id 266"),
        (with(&|j| j["model"]["type"] = json!("Nonsense")), "tokenizer.json: "),
        (with(&|j| j["model"]["merges"][0] = json!(["never", "seen"])), "tokenizer.json: "),
        (
            with(&|j| {
                j["pre_tokenizer"] =
                    json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false});
            }),
            "tokenizer.json: ",
        ),
        (Tokenizer::from_bytes(deep.as_bytes(), None).unwrap_err().to_string(), "nested deeper than 64 levels"),
    ] {
        assert!(error.contains(part), "{part} in: {error}");
    }
    let json = byte_level_json().to_string();
    for (config, part) in [
        (r#"{"bos_token": "<nope>"}"#, "`bos_token` is \"<nope>\", which is not in tokenizer.json"),
        (r#"{"eos_token": 7}"#, "`eos_token` is 7, expected a string"),
        (r#"{"eos_token": {}}"#, "without a `content` string"),
        ("{", "tokenizer_config.json: "),
    ] {
        let error = Tokenizer::from_bytes(json.as_bytes(), Some(config.as_bytes())).unwrap_err().to_string();
        assert!(error.contains(part), "{part} in: {error}");
    }
}

#[test]
fn a_file_that_makes_the_library_panic_gives_an_error() {
    let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": 3});
    let tokenizer = Tokenizer::from_bytes(byte_fallback_json(strip).to_string().as_bytes(), None).unwrap();
    let a = tokenizer.token_to_id("a").unwrap();
    let error = tokenizer.decode(&[a], false).unwrap_err();
    assert!(matches!(error, TokenizerError::Failed { action: "decode", .. }), "{error}");
}
