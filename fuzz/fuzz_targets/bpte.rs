//! The reader of bundled programs.
#![no_main]

#[path = "../../crates/pteron-pte/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::bpte);
