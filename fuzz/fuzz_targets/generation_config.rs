//! generation_config.json.
#![no_main]

#[path = "../../crates/pteron-checkpoint/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::generation_config);
