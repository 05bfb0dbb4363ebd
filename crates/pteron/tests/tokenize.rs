//! `pteron tokenize`: kinds of tokenizers, both directions, JSON and lines, what is refused.

mod support;

use std::path::Path;

use support::{golden, pteron, pteron_with_input, with_glass};

fn tok512() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/llama2c/tok512.bin");
    path.to_str().unwrap().to_owned()
}

#[test]
fn text_to_ids_and_back() {
    let dir = with_glass();
    let tokenize = |args: &[&str]| pteron(dir.path(), &[&["tokenize", "-t", "glass-en"], args].concat());
    let (prompt, continuation, _) = golden().swap_remove(0);
    let found = tokenize(&[&prompt]).ok();
    let ids: Vec<u64> = found.split_whitespace().map(|w| w.parse().unwrap()).collect();
    assert!(!ids.is_empty() && found.ends_with('\n'), "{found:?}");
    assert_eq!(tokenize(&["--decode", "--no-special", found.trim()]).ok(), prompt);
    // A list with brackets and commas is read as well, and a file says the same as an argument.
    assert_eq!(tokenize(&["--decode", "--no-special", &format!("{ids:?}")]).ok(), prompt);
    std::fs::write(dir.path().join("text"), &prompt).unwrap();
    assert_eq!(tokenize(&["-f", "text"]).ok(), found);
    assert_eq!(pteron_with_input(dir.path(), &["tokenize", "-t", "glass-en/tokenizer.json"], &prompt).ok(), found);
    // The kind that was found is said, beside the ids and not among them.
    let ran = tokenize(&[&prompt]);
    assert!(ran.err.contains("tokens, bos") && !ran.out.contains("tokens"), "{ran:?}");

    let json = tokenize(&["--json", &prompt]).json();
    assert_eq!(json["ids"], serde_json::json!(ids));
    assert_eq!(json["pieces"].as_array().unwrap().len(), ids.len());
    assert!(!json["tokenizer"].as_str().unwrap().is_empty());
    let text = tokenize(&["--json", "--decode", &format!("{continuation:?}")]).json();
    assert!(!text["text"].as_str().unwrap().is_empty());
}

#[test]
fn a_line_each() {
    let dir = with_glass();
    let lines = |args: &[&str], input: &str| {
        pteron_with_input(dir.path(), &[&["tokenize", "-t", "glass-en", "--jsonl"], args].concat(), input)
    };
    let texts = ["Once upon a time", "two\nlines", "  spaces  ", "he said, why?"];
    let input: String = texts.iter().map(|t| serde_json::json!(t).to_string() + "\n").collect();
    let ids = lines(&["--no-special"], &input).ok();
    assert_eq!(ids.lines().count(), texts.len());
    let rows: String =
        ids.lines().map(|l| format!("[{}]\n", l.split_whitespace().collect::<Vec<_>>().join(","))).collect();
    let back = lines(&["--decode", "--no-special"], &rows).ok();
    let back: Vec<String> = back.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(back, texts);
    let ran = lines(&[], "\"fine\"\nnot json\n");
    assert!(ran.code == 1 && ran.err.contains("error: line 2: expected a JSON string"), "{ran:?}");
}

#[test]
fn other_kinds_are_found_by_content() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(tok512(), dir.path().join("words.json")).unwrap();
    let ran = pteron(dir.path(), &["tokenize", "-t", "words.json", "Once upon a time"]);
    assert!(ran.err.contains("llama2.c"), "{}", ran.err);
    let ids = ran.ok();
    assert_eq!(
        pteron(dir.path(), &["tokenize", "-t", "words.json", "--decode", "--no-special", ids.trim()]).ok(),
        "Once upon a time"
    );
}

#[test]
fn what_is_refused() {
    let dir = with_glass();
    std::fs::write(dir.path().join("poem.model"), "roses are red").unwrap();
    for (args, code, said) in [
        (&["tokenize", "-t", "nowhere", "x"][..], 1, "nowhere"),
        (&["tokenize", "-t", "poem.model", "x"], 1, "poem.model"),
        (&["tokenize", "-t", "glass-en", "--decode", "1 2 three"], 2, "\"three\" is no id"),
        (&["tokenize", "-t", "glass-en", "--decode", "99999999"], 1, "no token has the id 99999999"),
        (&["tokenize", "-t", "glass-en", "-f", "missing.txt"], 1, "missing.txt: cannot be read"),
        (&["tokenize", "-t", "glass-en", "--pattern", "cpp", "x"], 2, "--pattern is for tiktoken"),
    ] {
        // The kind of the tokenizer comes first, where it was read.
        let ran = pteron(dir.path(), args);
        let (_, e) = ran.err.rsplit_once("error: ").unwrap();
        assert!(ran.code == code && ran.out.is_empty() && e.contains(said), "{args:?}: {ran:?}");
    }
}
