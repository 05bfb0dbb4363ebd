//! Tokenizers, the Hugging Face file first.
#![no_main]

#[path = "../../crates/pteron-llm/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::tokenizer);
