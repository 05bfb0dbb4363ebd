//! Measures a language model: alone by perplexity, against another by Kullback-Leibler divergence and what follows from it,
//! node by node, and layer by layer; and shows it on a page.
//!
//! A model is anything that gives logits for tokens ([`CausalModel`]). A text's tokens are cut into windows by a named
//! [`Protocol`], because perplexities of different protocols cannot be compared; [`evaluate`] walks the windows, feeds both
//! models the same tokens and sums up what it sees position by position, without ever holding more logits than one call
//! gives. Every figure comes with its standard error where it has one.
//!
//! This crate opens no file, reads no clock and prints nothing.

mod measure;
mod model;
pub mod nodes;
pub mod report;
mod run;
pub mod sensitivity;
mod stats;
mod window;

pub use measure::{Position, measure_rows};
pub use model::{CausalModel, EvalError, ModelError};
pub use run::{Divergence, Evaluation, Perplexity, Progress, evaluate};
pub use stats::{Estimate, Quantiles};
pub use window::{Protocol, Window, Windows};
