//! The library as the rest of the program sees it.

#[cfg(target_os = "linux")]
mod connection;
#[cfg(target_os = "linux")]
mod process;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod process;
mod sdk;
mod types;
mod worker_command;

pub use process::{Host, HostOptions};
pub use sdk::{BACKEND, OTHERS, Origin, SDK_VARIABLE, SYSTEM, Sdk, WHEEL};
pub use types::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, GraphInfo, LibraryInfo, Optimization, ProfileEvent,
    ProfileLevel, ProfileUnit, QnnLibrary, TensorInfo, Verdict, Version,
};
pub use worker_command::{WORKER_VARIABLE, WorkerCommand};
