//! What each operator computes.
//!
//! One scalar implementation of every operator defines its meaning; SIMD variants stand behind a registry and are chosen at
//! run time by what the processor has. Kernels are plain functions over [`pteron_tensor::View`]s: they know no graph and no
//! model. An output view has the sizes that shape inference gave; a kernel checks them and refuses what does not fit.
//!
//! Results do not depend on the number of threads: work is split by fixed sizes, and no reduction is split across threads
//! in a way that depends on their number.

mod ctx;
mod error;
mod operand;
mod pool;
mod scratch;
mod wide;

pub mod attention;
pub mod elementwise;
pub mod index;
pub mod matmul;
pub mod nn;
pub mod packed;
pub mod quant;
pub mod reduce;
pub mod shape_ops;
pub mod simd;
pub mod vexp;

pub use ctx::Context;
pub use error::{KernelError, KernelResult};
pub use pool::{ThreadPool, Threads, bind};
pub use simd::ask_for;
