//! Chat templates, and a conversation rendered with them.
#![no_main]

#[path = "../../crates/pteron-llm/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::chat_template);
