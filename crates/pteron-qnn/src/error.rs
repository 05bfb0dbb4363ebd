//! Errors: one sentence each.

use std::path::PathBuf;

use crate::graph::GraphError;

/// What keeps a graph from being compiled or run.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum QnnError {
    /// No library was found.
    #[error(
        "Qualcomm's QNN library was not found; looked at {}; `pteron doctor` says how to get it",
        .looked.join(", ")
    )]
    NotFound {
        /// Where it was looked for.
        looked: Vec<String>,
    },
    /// A file is there and is not the library.
    #[error("{}: {what}", .path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// The worker process cannot be started.
    #[error("the worker process of Qualcomm's library cannot be started: {0}")]
    Worker(String),
    /// The worker process ended or stopped answering.
    #[error("Qualcomm's library {what} while it was asked to {doing}{}", said(.chatter))]
    Crashed {
        /// `crashed (signal 11)`, `ended its process`, `gave no answer for 600 s`.
        what: String,
        /// What it was doing.
        doing: String,
        /// The last lines that it printed.
        chatter: String,
    },
    /// The library refused.
    #[error("Qualcomm's library refused to {doing}: {what}{}", said(.chatter))]
    Refused {
        /// What it was asked to do.
        doing: String,
        /// Its number of the error with its own words.
        what: String,
        /// QNN's number of the error: the low 16 bits of what the call gave.
        code: u32,
        /// The last lines that it printed.
        chatter: String,
    },
    /// A graph does not hold.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Bytes of a constant cannot be read.
    #[error("{0}")]
    Data(String),
    /// What was handed over does not fit what is there.
    #[error("{0}")]
    Mismatch(String),
}

/// What the library printed, as the end of a sentence.
fn said(chatter: &str) -> String {
    let line = chatter.lines().rev().find(|l| !l.trim().is_empty());
    line.map(|l| format!(" (it said: {})", l.trim())).unwrap_or_default()
}
