//! The process that the library lives in.
//!
//! It is started by the host with pipes for its input and output and an unnamed file for its errors. The library prints to
//! standard output whenever it likes: that descriptor is pointed at the file before the library is opened, and the frames
//! (`wire`) go through a copy of the pipe that the library does not know. When the host's process ends, this one ends.

#[cfg(target_os = "linux")]
pub(crate) mod message;
#[cfg(target_os = "linux")]
mod serve;
#[cfg(target_os = "linux")]
pub(crate) mod wire;

#[cfg(target_os = "linux")]
pub(crate) use serve::tail;
#[cfg(target_os = "linux")]
pub use serve::{WORKER_ARGUMENT, serve};

/// The argument that makes `pteron` this process.
#[cfg(not(target_os = "linux"))]
pub const WORKER_ARGUMENT: &str = "qnn-worker";

/// Serves nothing: Qualcomm's library is opened on Linux only.
#[cfg(not(target_os = "linux"))]
pub fn serve(_args: impl Iterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    std::process::ExitCode::FAILURE
}
