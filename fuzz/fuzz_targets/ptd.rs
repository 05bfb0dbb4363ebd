//! The reader of tensor data files.
#![no_main]

#[path = "../../crates/pteron-pte/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::ptd);
