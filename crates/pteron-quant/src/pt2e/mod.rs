//! Post-training quantization over graphs, as PT2E does it: `prepare` places observers from annotations, calibration runs data
//! through them, `convert` writes quantize and dequantize nodes and folds weights.
//!
//! An observer changes no value, so a prepared graph is the graph itself beside a table: which observers see which value, and
//! which edge reads through which ([`PreparedGraph`]). The same module is run for calibration as without it, with a
//! [`Calibration`] as its hook.

mod calibrate;
mod codes;
mod convert;
mod error;
mod fuse;
mod prepare;

pub use calibrate::{Calibration, observe_constants};
pub use codes::{CodesSource, Rounding};
pub use convert::{Converted, SlotParams, convert, parameters};
pub use error::QuantizeError;
pub use fuse::fuse_embeddings;
pub use prepare::{PreparedGraph, Slot, SlotId, Tap, prepare};
