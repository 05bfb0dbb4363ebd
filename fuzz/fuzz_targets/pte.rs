//! The reader of programs.
#![no_main]

#[path = "../../crates/pteron-pte/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::pte);
