//! How the worker process is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::worker::WORKER_ARGUMENT;

/// A command that serves Qualcomm's library: `pteron qnn-worker`, or a program of one's own that calls [`crate::serve`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
}

/// The variable that names the program that serves the library, for users of the library crates: it gets the argument
/// `qnn-worker`.
pub const WORKER_VARIABLE: &str = "PTERON_QNN_WORKER";

/// The names of programs that serve the library.
const PROGRAMS: [&str; 2] = ["pteron", "pteron-qnn-worker"];

impl WorkerCommand {
    /// `program qnn-worker`.
    pub fn new(program: impl Into<PathBuf>) -> WorkerCommand {
        WorkerCommand { program: program.into(), args: vec![WORKER_ARGUMENT.into()] }
    }

    /// The program that [`WORKER_VARIABLE`] names; else this program if it is `pteron`; else a `pteron` or
    /// `pteron-qnn-worker` in this program's folder or the one above it, where Cargo puts programs beside tests.
    ///
    /// # Errors
    /// A sentence that says where it was looked for.
    pub fn find() -> Result<WorkerCommand, String> {
        if let Some(program) = std::env::var_os(WORKER_VARIABLE) {
            return Ok(WorkerCommand::new(program));
        }
        let here = std::env::current_exe().map_err(|e| format!("this program's own path is not known: {e}"))?;
        let folder = here.parent().unwrap_or(Path::new("."));
        let folders = [Some(folder), folder.parent()];
        let candidates = folders.into_iter().flatten().flat_map(|f| PROGRAMS.map(|p| f.join(p)));
        let own = std::iter::once(here.clone()).filter(|h| h.file_stem().is_some_and(|s| s == PROGRAMS[0]));
        own.chain(candidates).find(|p| p.is_file()).map(WorkerCommand::new).ok_or_else(|| {
            format!("no `pteron` lies in {} or above it, and {WORKER_VARIABLE} is not set", folder.display())
        })
    }
}
