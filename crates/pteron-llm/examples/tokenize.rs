//! Ids of many texts, for comparison with other libraries (`tools/oracle/check_tokenizers.py`).
//!
//! `tokenize FILE [parse] [add] [cpp]`: standard input has a JSON string a line; standard output gets `[ids, text of the
//! ids, whether streaming gave the same text]` a line. `FILE` is a tokenizer, or JSON with the parts of a GGUF vocabulary
//! under `gguf`. `parse` makes special tokens in the text their ids, `add` adds bos and eos, `cpp` takes ExecuTorch's pattern.

use pteron_llm::tokenizer::{
    EncodeOptions, GgufVocabularyParts, SpecialText, TiktokenOptions, TiktokenPattern, Tokenizer,
};
use serde_json::{Value, json};
use std::io::{BufRead, BufWriter, Write, stdin, stdout};

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Fallible<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| arguments.iter().skip(1).any(|a| a == word);
    let file = arguments.first().ok_or("expected a tokenizer")?;
    let tokenizer = open(&std::fs::read(file)?, has("cpp"))?;
    let special = if has("parse") { SpecialText::Parse } else { SpecialText::AsText };
    let options = EncodeOptions { add_special: has("add"), special };
    let mut out = BufWriter::new(stdout().lock());
    for line in stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids = tokenizer.encode_with(&text, options)?;
        let decoded = tokenizer.decode(&ids, true)?;
        let mut stream = tokenizer.stream(true);
        let mut streamed = String::new();
        for &id in &ids {
            streamed.push_str(&stream.push(id)?);
        }
        streamed.push_str(&stream.finish()?);
        serde_json::to_writer(&mut out, &json!([ids, decoded, streamed == decoded]))?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

fn open(bytes: &[u8], cpp: bool) -> Fallible<Tokenizer> {
    if cpp {
        let options = TiktokenOptions { pattern: TiktokenPattern::Cpp, ..TiktokenOptions::default() };
        return Ok(Tokenizer::from_tiktoken(bytes, &options)?);
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value) if value["gguf"].is_object() => Ok(Tokenizer::from_gguf(parts(&value["gguf"])?)?),
        _ => Ok(Tokenizer::from_bytes(bytes, None)?),
    }
}

fn parts(v: &Value) -> Fallible<GgufVocabularyParts> {
    fn list<T: serde::de::DeserializeOwned>(v: &Value) -> Fallible<Vec<T>> {
        Ok(if v.is_null() { Vec::new() } else { serde_json::from_value(v.clone())? })
    }
    let id = |name: &str| v[name].as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(GgufVocabularyParts {
        model: v["model"].as_str().unwrap_or_default().to_owned(),
        pre: v["pre"].as_str().map(str::to_owned),
        tokens: list(&v["tokens"])?,
        scores: list(&v["scores"])?,
        token_types: list(&v["token_type"])?,
        merges: list(&v["merges"])?,
        bos: id("bos_token_id"),
        eos: id("eos_token_id"),
        unk: id("unknown_token_id"),
        add_bos: v["add_bos_token"].as_bool(),
        add_eos: v["add_eos_token"].as_bool(),
        add_space_prefix: v["add_space_prefix"].as_bool(),
        remove_extra_whitespaces: v["remove_extra_whitespaces"].as_bool(),
        precompiled_charsmap: list(&v["precompiled_charsmap"])?,
    })
}
