//! Tokenizers: SentencePiece, tiktoken, tekken and llama2.c first.
#![no_main]

#[path = "../../crates/pteron-llm/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::tokenizer);
