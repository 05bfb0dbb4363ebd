//! Text in, text out, over anything that turns tokens into logits.
//!
//! - [`tokenizer`]: text ↔ ids, and streaming decoding that never splits a character.
//! - [`chat`]: a model's own chat template, rendered with limits.
//! - [`sampler`]: logits → one id (argmax, temperature, top-k, top-p).
//! - [`metadata`]: what a program's constant methods say about the model.
//! - [`runner`]: prefill, decode loop, positions, stop rules.
//! - [`static_llama`]: programs of fixed sizes whose caches are inputs and outputs, as made for Qualcomm's processor.
//! - [`stats`]: the counters and times of one run, as ExecuTorch reports them.
//!
//! The crate knows no HTTP and no terminal, prints nothing and opens no file: bytes come in, strings and numbers go out.
//! The model is reached through [`runner::TextDecoder`], the time through [`clock::Clock`].

pub mod chat;
pub mod clock;
pub mod metadata;
pub mod runner;
pub mod sampler;
pub mod static_llama;
pub mod stats;
pub mod tokenizer;
