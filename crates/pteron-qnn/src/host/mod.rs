//! The library as the rest of the program sees it.

#[cfg(target_os = "linux")]
mod connection;
mod options;
#[cfg(target_os = "linux")]
mod process;
mod sdk;
mod types;
mod worker_command;

pub use options::HostOptions;
pub use sdk::{BACKEND, OTHERS, Origin, SDK_VARIABLE, SYSTEM, Sdk, WHEEL};
pub use types::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, GraphInfo, LibraryInfo, Optimization, ProfileEvent,
    ProfileLevel, ProfileUnit, QnnCompiler, QnnLibrary, TensorInfo, Verdict, Version,
};
pub use worker_command::{WORKER_VARIABLE, WorkerCommand};
