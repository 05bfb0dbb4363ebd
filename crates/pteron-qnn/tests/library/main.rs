//! Qualcomm's own library, in every release that is there: a graph is validated, compiled, described, loaded and executed,
//! and what goes wrong is one sentence.

#![cfg(target_os = "linux")]

mod common;
mod compile;
mod delegate;
mod errors;
