//! On systems for which Qualcomm has no library that could be opened: Linux is the one that has.

use std::time::Duration;

use super::sdk::Sdk;
use super::types::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, LibraryInfo, ProfileEvent, ProfileLevel, QnnLibrary,
    Verdict,
};
use super::worker_command::WorkerCommand;
use crate::error::QnnError;
use crate::graph::QnnGraph;
use crate::soc::Soc;

/// How the library is opened.
#[derive(Debug, Clone)]
pub struct HostOptions {
    /// Where it lies.
    pub sdk: Sdk,
    /// How its process is started.
    pub worker: WorkerCommand,
    /// The longest time that the library may take for one call.
    pub timeout: Duration,
}

fn elsewhere() -> QnnError {
    QnnError::Worker("Qualcomm's library is opened on Linux only".to_owned())
}

impl HostOptions {
    /// The library of `sdk`.
    ///
    /// # Errors
    /// [`QnnError::Worker`], always.
    pub fn new(_sdk: Sdk) -> Result<HostOptions, QnnError> {
        Err(elsewhere())
    }
}

/// Qualcomm's library, which is not to be had here.
#[derive(Debug)]
pub struct Host {
    info: std::convert::Infallible,
}

impl Host {
    /// Opens nothing.
    ///
    /// # Errors
    /// [`QnnError::Worker`], always.
    pub fn open(_options: HostOptions) -> Result<Host, QnnError> {
        Err(elsewhere())
    }
}

impl QnnLibrary for Host {
    fn info(&self) -> &LibraryInfo {
        match self.info {}
    }

    fn supported_operations(&self) -> Result<Vec<String>, QnnError> {
        match self.info {}
    }

    fn validate(&self, _: &QnnGraph, _: &[usize], _: Soc) -> Result<Vec<Verdict>, QnnError> {
        match self.info {}
    }

    fn compose(
        &self,
        _: &[QnnGraph],
        _: &ComposeOptions,
        _: &mut dyn FnMut(ComposeStage),
    ) -> Result<Composed, QnnError> {
        match self.info {}
    }

    fn inspect(&self, _: &[u8]) -> Result<BinaryInfo, QnnError> {
        match self.info {}
    }

    fn load(&self, _: &[u8], _: Option<Soc>) -> Result<(ContextId, BinaryInfo), QnnError> {
        match self.info {}
    }

    fn execute(
        &self,
        _: ContextId,
        _: &str,
        _: &[&[u8]],
        _: &mut [&mut [u8]],
        _: ProfileLevel,
    ) -> Result<Vec<ProfileEvent>, QnnError> {
        match self.info {}
    }

    fn unload(&self, _: ContextId) -> Result<(), QnnError> {
        match self.info {}
    }
}
