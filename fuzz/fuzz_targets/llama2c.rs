//! Checkpoints of one file that begin as llama2.c's models.
#![no_main]

#[path = "../../crates/pteron-checkpoint/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::checkpoint);
