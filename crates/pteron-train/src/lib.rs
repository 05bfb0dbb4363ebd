//! Quantization-aware training.
//!
//! The model is captured as for an export, and the same quantizers annotate it. [`prepare`] puts fake quantization where
//! post-training quantization has observers; [`pteron_ir::gradient`] appends the gradients of the loss; the one executor runs
//! the graph, a step at a time ([`Trainer`]). What a step changes (weights, ranges, moments of the optimizer) is data outside
//! the graph, so that a run can be written down whole and resumed to the same bits.
//!
//! This crate opens no file, reads no clock and prints nothing.

mod error;
mod graph;
mod learned;
mod optimizer;
mod order;
pub mod prepare;
mod resume;
mod trainer;

pub use error::TrainError;
pub use graph::{Lora, Loss, ParamKind, Parameter, TrainGraph, TrainGraphOptions};
pub use optimizer::{AdamW, Schedule};
pub use order::Order;
pub use prepare::{QatOptions, QparamsRule};
pub use resume::{Identity, VERSION};
pub use trainer::{Batch, QuantStart, ScaleMode, StepReport, Target, Trainer, TrainerOptions};
