//! Plans a graph and runs it.
//!
//! A [`Session`] holds a module, its resolved constants, its mutable buffers and a thread pool, and runs the module's
//! methods. Whatever needs a graph executed goes through it: generation, calibration, evaluation, comparison.
//!
//! Planning assigns memory ([`pteron_ir::memory`]): one arena for all methods, allocated once and after the whole module has
//! been checked, plus one for the buffers. Running follows the graph's nodes: where sizes depend on the input, the same
//! inference that the graph was built with gives them, and an output that would not fit its memory is an error, never a write.
//!
//! Nodes that one kernel computes (`fuse/`) are found when a graph is planned and executed as one, unless somebody watches
//! the nodes' outputs. A call that changed no sizes leaves a list of what its nodes need (`prepared.rs`), by which the calls
//! after it are executed (`repeat.rs`).
//!
//! This crate knows no file format and no language model. It spawns threads through [`pteron_kernels`] only, prints nothing
//! and reads no clock: a [`Profiler`] brings its own.

mod coded;
mod constants;
mod delegate;
mod dispatch;
mod error;
mod explain;
mod fold;
mod frame;
mod fuel;
mod fuse;
mod fused;
mod hook;
mod in_place;
mod memory;
mod operands;
mod plan;
mod prepared;
mod repeat;
mod run;
mod scalar;
mod session;
mod value;
mod weights;

pub use delegate::{DelegateEvent, DelegateFactory, DelegateInstance, Delegates};
pub use dispatch::has_kernel;
pub use error::ExecError;
pub use fuel::Fuel;
pub use hook::{NoHook, NodeEvent, NodeHook, OperatorTotal, Profiler, Span};
pub use pteron_kernels::quant::QuantSemantics;
pub use pteron_kernels::{Context, Threads};
pub use session::{MemoryReport, Session, SessionOptions};
pub use value::{Output, Outputs, Value, ValueRef};
