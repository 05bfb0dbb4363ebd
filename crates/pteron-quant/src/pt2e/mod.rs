//! Post-training quantization over graphs, as PT2E does it: `prepare` places observers from annotations, calibration runs data
//! through them, `convert` writes quantize and dequantize nodes and folds weights.
//!
//! An observer changes no value, so a prepared graph is the graph itself beside a table: which observers see which value, and
//! which edge reads through which ([`PreparedGraph`]). The same module is run for calibration as without it, with a
//! [`Calibration`] as its hook. Where a scheme has fake-quantize modules, which round while they observe, a [`RoundedRun`] is run
//! in its place.
//!
//! ```text
//! let mut prepared = prepare_module(&mut module, &quantizer)?;   // transforms, annotates, observes constants
//! ... runs of `module` with Calibration::new(&mut prepared[0]) as the hook, one a window ...
//! convert_module(&mut module, &prepared, &parameters)?;
//! ```
//!
//! What was learnt of one graph can be put onto another graph of the same model: [`Encodings`] are kept by module path and port.

mod calibrate;
mod codes;
mod convert;
mod encodings;
mod error;
mod fuse;
mod module;
mod params;
mod prepare;
mod rounded;
mod states;

pub use calibrate::{Calibration, observe_constants};
pub use codes::{CodesSource, Rounding};
pub use convert::{Converted, convert};
pub use encodings::Encodings;
pub use error::QuantizeError;
pub use fuse::fuse_embeddings;
pub use module::{convert_module, prepare_module};
pub use params::{SlotParams, parameters, put_on_lpbq_grid};
pub(crate) use prepare::value_at;
pub use prepare::{Concat, PreparedGraph, Slot, SlotId, Tap, prepare};
pub use rounded::RoundedRun;
