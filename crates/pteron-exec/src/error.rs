//! Why a module could not be planned or run.

use pteron_ir::memory::MemoryError;
use pteron_ir::{Graph, NodeId};
use pteron_tensor::SourceError;

use crate::session::MemoryReport;

/// An error of planning or running. Messages name the method and, where there is one, the node with its module path.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// No method of that name.
    #[error("there is no method `{name}`: the program has {}", .known.join(", "))]
    UnknownMethod {
        /// The name asked for.
        name: String,
        /// The methods there are.
        known: Vec<String>,
    },
    /// Another number of inputs.
    #[error("method `{method}` takes {expected} inputs, {found} given")]
    InputCount {
        /// The method.
        method: String,
        /// Inputs declared.
        expected: usize,
        /// Inputs given.
        found: usize,
    },
    /// An input of another type, or with a size that the program does not allow.
    #[error("method `{method}`, input {position} `{name}`: {found} given, {expected} expected")]
    Input {
        /// The method.
        method: String,
        /// Position of the input.
        position: usize,
        /// Its name.
        name: String,
        /// What was given.
        found: String,
        /// What is declared.
        expected: String,
    },
    /// A node that could not be executed.
    #[error("method `{method}`, node {handle} {op}{}: {reason}", if .path.is_empty() { String::new() } else { format!(" ({path})") })]
    Node {
        /// The method.
        method: String,
        /// The node's stable number.
        handle: String,
        /// Its operator.
        op: String,
        /// Its module path.
        path: String,
        /// What went wrong.
        reason: String,
    },
    /// A constant whose bytes are nowhere.
    #[error("constant `{name}` has no data: {reason}")]
    Constant {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// Bytes of a constant could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Memory could not be planned.
    #[error("method `{method}`: {source}")]
    Memory {
        /// The method.
        method: String,
        /// Why.
        source: MemoryError,
    },
    /// The program declares more memory than allowed. Nothing of it was allocated.
    #[error(
        "the program declares {needed} bytes of working memory (activations {}, state {}, decoded constants {}, backends \
         {}), {allowed} are allowed",
        .declared.arena, .declared.state, .declared.decoded_constants, .declared.delegates
    )]
    MemoryLimit {
        /// What is declared, as far as it was looked at.
        declared: MemoryReport,
        /// Bytes needed: the sum.
        needed: u64,
        /// Bytes allowed.
        allowed: u64,
    },
    /// A loop that does not end.
    #[error("method `{method}`: more than {limit} operator calls in one run: the program does not end")]
    StepLimit {
        /// The method.
        method: String,
        /// The limit.
        limit: u64,
    },
    /// A run that computes more than it may.
    #[error(
        "method `{method}`, node {handle} {op}{}: needs {needed} element operations, {left} of the run's {limit} are left",
        if .path.is_empty() { String::new() } else { format!(" ({path})") }
    )]
    OutOfFuel {
        /// The method.
        method: String,
        /// The node's stable number.
        handle: String,
        /// Its operator.
        op: String,
        /// Its module path.
        path: String,
        /// Operations that it needs.
        needed: u64,
        /// Operations that were left.
        left: u64,
        /// Operations that the run began with.
        limit: u64,
    },
    /// A delegate that could not be prepared.
    #[error("delegate `{backend}`: {reason}")]
    Delegate {
        /// The backend.
        backend: String,
        /// Why.
        reason: String,
    },
}

impl ExecError {
    pub(crate) fn at(graph: &Graph, node: NodeId, reason: impl std::fmt::Display) -> ExecError {
        let (handle, op, path) = place(graph, node);
        ExecError::Node { method: graph.name.clone(), handle, op, path, reason: reason.to_string() }
    }

    pub(crate) fn out_of_fuel(graph: &Graph, node: NodeId, needed: u64, left: u64, limit: u64) -> ExecError {
        let (handle, op, path) = place(graph, node);
        ExecError::OutOfFuel { method: graph.name.clone(), handle, op, path, needed, left, limit }
    }
}

/// A node's number, operator and module path.
fn place(graph: &Graph, node: NodeId) -> (String, String, String) {
    let n = &graph.nodes[node];
    let op = match &n.extra {
        pteron_ir::Extra::Custom(key) => key.to_string(),
        _ => n.op.to_string(),
    };
    (n.handle.to_string(), op, graph.paths[n.path].to_string())
}
