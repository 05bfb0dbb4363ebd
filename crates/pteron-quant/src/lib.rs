//! PT2E quantization: number formats, specs and annotations, observers, sharing groups, mergeable calibration state, and the
//! table of `--pt2e-quantize` schemes.
//!
//! A *quantizer* only annotates: it says, for the edges and outputs of a graph's nodes, how they are quantized
//! ([`annotation`], [`spec`]). [`groups`] finds which of them share parameters. An [`observer::Observer`] for each group
//! watches calibration data and gives scales and zero points. What the observers of a run have learnt can be written to bytes
//! and merged with that of other runs ([`state`]). [`scheme`] has the numbers of each scheme by its ExecuTorch name.
//!
//! The crate opens no files and has no clock: bytes in, bytes out.

pub mod annotation;
pub mod error;
pub mod format;
pub mod groups;
pub mod kv_cache;
pub mod moments;
pub mod near;
pub mod observer;
pub mod pt2e;
pub mod quantizer;
pub mod recipe;
pub mod scheme;
pub mod spec;
pub mod state;
pub mod transform;
mod watch;
pub mod weight;

pub use error::{ObserveError, SpecError, TensorLabel};
