//! params.json, and the model built of it.
#![no_main]

#[path = "../../crates/pteron-models/tests/drive/mod.rs"]
mod drive;

pteron_fuzz::target!(drive::params);
