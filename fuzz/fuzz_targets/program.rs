//! Programs parsed, lifted, verified, planned and called under limits.
#![no_main]

#[path = "../../crates/pteron-program/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::program);
