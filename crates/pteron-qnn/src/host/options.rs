//! How the library is opened.

use std::sync::Arc;
use std::time::Duration;

use super::sdk::Sdk;
use super::types::QnnLibrary;
use super::worker_command::WorkerCommand;
use crate::error::QnnError;

/// How the library is opened.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Where it lies.
    pub sdk: Sdk,
    /// How its process is started.
    pub worker: WorkerCommand,
    /// The longest time that the library may take for one call, or for one stage of a compilation.
    pub timeout: Duration,
}

impl HostOptions {
    /// Long enough to finalize a model of billions of parameters.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3600);

    /// The library of `sdk`, with the worker that [`WorkerCommand::find`] finds.
    ///
    /// # Errors
    /// [`QnnError::Worker`] if none is found.
    pub fn new(sdk: Sdk) -> Result<HostOptions, QnnError> {
        let worker = WorkerCommand::find().map_err(QnnError::Worker)?;
        Ok(HostOptions { sdk, worker, timeout: HostOptions::DEFAULT_TIMEOUT })
    }

    /// Opens the library in a process of its own.
    ///
    /// # Errors
    /// [`QnnError`]: the worker cannot be started, the file is not a QNN library or lacks a function, it crashes; it is opened on
    /// Linux only.
    pub fn open(self) -> Result<Arc<dyn QnnLibrary>, QnnError> {
        #[cfg(target_os = "linux")]
        return Ok(Arc::new(super::process::Host::open(self)?));
        #[cfg(not(target_os = "linux"))]
        Err(QnnError::Worker("Qualcomm's library is opened on Linux only".to_owned()))
    }
}
