//! Drives the readers of tokenizers and chat templates, and encodes, decodes and renders with what they accept; the fuzz
//! targets use this file as well.
#![allow(dead_code, reason = "each user takes a part")]

use pteron_llm::chat::{ChatTemplates, DateTime, Message, RenderOptions};
use pteron_llm::tokenizer::Tokenizer;

/// Text of several scripts, white space, and spellings of special tokens.
const TEXT: &str = "Hello  world\n\tdon't é 好 😀 123 <s></s><|bos|> <0xE2> ▁x";

/// Opens a tokenizer; encodes a text, and decodes its ids and some others at once and one by one.
pub(crate) fn tokenizer(bytes: &[u8]) -> Result<(), String> {
    let t = Tokenizer::from_bytes(bytes, None).map_err(|e| e.to_string())?;
    let mut ids = t.encode(TEXT, true).unwrap_or_default();
    ids.extend(t.encode("", true).unwrap_or_default());
    let vocab = u32::try_from(t.vocab_size()).unwrap_or(u32::MAX);
    ids.extend([0, 1, 2, vocab.wrapping_sub(1), vocab, u32::MAX]);
    for skip in [false, true] {
        let whole = t.decode(&ids, skip);
        let mut stream = t.stream(skip);
        let mut text = String::new();
        let mut failed = false;
        for &id in &ids {
            match stream.push(id) {
                Ok(piece) => text.push_str(&piece),
                Err(_) => failed = true,
            }
        }
        match stream.finish() {
            Ok(piece) => text.push_str(&piece),
            Err(_) => failed = true,
        }
        assert!(text.len() < 1 << 20);
        drop((whole, failed));
    }
    for id in ids {
        let _ = (t.id_to_piece(id), t.is_special(id));
    }
    let _ = (t.bos_id(), t.eos_id(), t.special_tokens().len(), t.token_to_id("<s>"));
    Ok(())
}

/// Reads a chat template as `chat_template.jinja` holds it and renders a conversation.
pub(crate) fn chat_template(bytes: &[u8]) -> Result<(), String> {
    rendered(ChatTemplates::from_files(None, Some(bytes)).map_err(|e| shown(&e))?)
}

/// Reads a `tokenizer_config.json` and renders a conversation with its template.
pub(crate) fn tokenizer_config(bytes: &[u8]) -> Result<(), String> {
    rendered(ChatTemplates::from_files(Some(bytes), None).map_err(|e| shown(&e))?)
}

fn rendered(templates: ChatTemplates) -> Result<(), String> {
    let messages = [Message::system("You are brief."), Message::user("Hi\n\"there\" é"), Message::assistant("Hello.")];
    let options = RenderOptions {
        add_generation_prompt: true,
        now: Some(DateTime::from_unix_seconds(1_700_000_000)),
        ..RenderOptions::default()
    };
    let text = templates.render(&messages, &options).map_err(|e| shown(&e))?;
    assert!(text.len() <= 64 << 20, "{} bytes of text", text.len());
    Ok(())
}

/// A template may put any text, zero bytes among them, into its own message.
fn shown(e: &pteron_llm::chat::ChatError) -> String {
    e.to_string().chars().take(500).filter(|c| *c != '\0').collect()
}
