//! `pteron tokenize`.

use std::io::Read;

use anyhow::{Context, anyhow};
use pteron::TokenizerSource;
use pteron::llm::tokenizer::{EncodeOptions, SpecialText, TiktokenOptions, TiktokenPattern, Tokenizer, TokenizerKind};
use serde_json::{Value, json};

use super::low::{PatternArg, TokenizeArgs};
use super::output::{Done, Failure, put, put_json, put_line, say};

pub(super) fn run(a: &TokenizeArgs) -> Done {
    let tokenizer = open(a)?;
    let text = text(a)?;
    let kind = tokenizer.kind().to_string();
    if !a.json {
        let id = |id: Option<u32>| id.map_or("none".to_owned(), |id| id.to_string());
        let (bos, eos) = (id(tokenizer.bos_id()), id(tokenizer.eos_id()));
        say(&format!("{kind}, {} tokens, bos {bos}, eos {eos}", tokenizer.vocab_size()));
    }
    if !a.jsonl {
        return one(a, &tokenizer, &kind, &text);
    }
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let wrong = |expected: &str| anyhow!("line {number}: expected {expected}");
        if a.decode {
            let ids: Vec<u32> = serde_json::from_str(line).map_err(|e| wrong(&format!("a list of ids: {e}")))?;
            decode(a, &tokenizer, &kind, &ids)?;
        } else {
            let text: String = serde_json::from_str(line).map_err(|e| wrong(&format!("a JSON string: {e}")))?;
            encode(a, &tokenizer, &kind, &text)?;
        }
    }
    Ok(())
}

fn open(a: &TokenizeArgs) -> Result<Tokenizer, Failure> {
    let source = TokenizerSource::open(&a.tokenizer)?;
    if a.pattern == PatternArg::Python {
        return Ok(source.tokenizer()?);
    }
    let options = TiktokenOptions { pattern: TiktokenPattern::Cpp, ..TiktokenOptions::default() };
    let kind = source.tokenizer()?.kind();
    match source.bytes() {
        Some(bytes) if kind == TokenizerKind::Tiktoken => Ok(Tokenizer::from_tiktoken(bytes, &options)?),
        _ => Err(Failure::Usage(format!(
            "--pattern is for tiktoken rank files, {} is {kind}, which says itself how text is cut",
            source.path().display()
        ))),
    }
}

fn line(a: &TokenizeArgs, value: &Value) -> Done {
    if a.jsonl { put_line(&value.to_string()) } else { put_json(value) }
}

fn text(a: &TokenizeArgs) -> Result<String, Failure> {
    if let Some(text) = &a.text {
        return Ok(text.clone());
    }
    if let Some(path) = &a.file {
        return Ok(std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?);
    }
    let mut text = String::new();
    std::io::stdin().lock().read_to_string(&mut text).context("standard input cannot be read")?;
    Ok(text)
}

fn one(a: &TokenizeArgs, tokenizer: &Tokenizer, kind: &str, text: &str) -> Done {
    if !a.decode {
        return encode(a, tokenizer, kind, text);
    }
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, ',' | '[' | ']')).filter(|w| !w.is_empty());
    let id = |w: &str| w.parse::<u32>().map_err(|_| Failure::Usage(format!("{w:?} is no id: expected whole numbers")));
    let ids = words.map(id).collect::<Result<Vec<_>, _>>()?;
    decode(a, tokenizer, kind, &ids)
}

fn encode(a: &TokenizeArgs, tokenizer: &Tokenizer, kind: &str, text: &str) -> Done {
    let special = if a.as_text { SpecialText::AsText } else { SpecialText::Parse };
    let ids = tokenizer.encode_with(text, EncodeOptions { add_special: !a.no_special, special })?;
    if a.json {
        let pieces: Vec<Value> = ids.iter().map(|&id| json!(tokenizer.id_to_piece(id))).collect();
        return line(a, &json!({"tokenizer": kind, "ids": ids, "pieces": pieces}));
    }
    let words: Vec<String> = ids.iter().map(u32::to_string).collect();
    put_line(&words.join(" "))
}

fn decode(a: &TokenizeArgs, tokenizer: &Tokenizer, kind: &str, ids: &[u32]) -> Done {
    let size = tokenizer.vocab_size();
    if let Some(id) = ids.iter().find(|&&id| tokenizer.id_to_piece(id).is_none()) {
        return Err(anyhow!("no token has the id {id}; the tokenizer has {size} tokens").into());
    }
    let text = tokenizer.decode(ids, a.no_special)?;
    if a.json {
        return line(a, &json!({"tokenizer": kind, "text": text}));
    }
    if a.jsonl { put_line(&json!(text).to_string()) } else { put(&text) }
}
