//! Checkpoints of one file that begin as PyTorch's zip.
#![no_main]

#[path = "../../crates/pteron-checkpoint/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::checkpoint);
