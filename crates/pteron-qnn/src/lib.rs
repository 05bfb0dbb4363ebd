//! Qualcomm QNN.
//!
//! [`graph`] describes a graph in QNN's terms as plain data; [`names`] are the names by which ExecuTorch's runtime knows
//! tensors; [`soc`] is the table of systems on chip; [`payload`] and [`spec`] are what a program carries; [`partition`] and
//! [`lower`] make graphs of ours. None of these needs the library.
//!
//! [`QnnLibrary`] is what the library does for the rest, and [`HostOptions::open`] gives it: the library is opened in a process
//! of its own ([`serve`]), so that its crashes and what it prints stay there. [`QnnBackend`] is the backend that
//! [`pteron_exec`] calls.

mod delegate;
mod error;
pub mod graph;
mod host;
pub mod lower;
pub mod names;
pub mod partition;
pub mod payload;
#[cfg(target_os = "linux")]
mod room;
mod selftest;
pub mod soc;
pub mod spec;
#[cfg(target_os = "linux")]
mod sys;
mod worker;

pub use delegate::{BACKEND_ID, QnnBackend};
pub use error::QnnError;
pub use host::{
    BACKEND, BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, GraphInfo, HostOptions, LibraryInfo,
    OTHERS, Optimization, Origin, ProfileEvent, ProfileLevel, ProfileUnit, QnnCompiler, QnnLibrary, SDK_VARIABLE,
    SYSTEM, Sdk, TensorInfo, Verdict, Version, WHEEL, WORKER_VARIABLE, WorkerCommand,
};
pub use selftest::{SelfTest, self_test};
pub use worker::{WORKER_ARGUMENT, serve};
