//! Errors of this crate.

use pteron_ir::memory::MemoryError;
use pteron_pte::PteError;
use pteron_tensor::SourceError;

/// Why a module cannot be written as a program.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum EmitError {
    /// An operator that no kernel of ExecuTorch executes.
    #[error(
        "method `{method}`: {node} calls `{op}`, which has no kernel in ExecuTorch; decompose `{op}` before the program is \
         written"
    )]
    HighLevel {
        /// The method.
        method: String,
        /// The node's stable number and module path.
        node: String,
        /// The operator.
        op: &'static str,
    },
    /// A node that the format cannot hold.
    #[error("method `{method}`: {node}: {reason}")]
    Node {
        /// The method.
        method: String,
        /// The node's stable number and module path.
        node: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A value that the format cannot hold.
    #[error("method `{method}`: {value}: {reason}")]
    Value {
        /// The method.
        method: String,
        /// The value.
        value: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A constant that cannot be written.
    #[error("constant `{name}`: {reason}")]
    Constant {
        /// Its name.
        name: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A mutable buffer that cannot be written.
    #[error("buffer `{name}`: {reason}")]
    Buffer {
        /// Its name.
        name: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// Named data of two delegates that share a key and differ.
    #[error("named data `{key}`: two delegates give different bytes under this key")]
    NamedData {
        /// The key.
        key: String,
    },
    /// Two methods, or a method and a constant method, of one name.
    #[error("method `{name}` is there twice")]
    DuplicateMethod {
        /// The name.
        name: String,
    },
    /// A tensor without an upper bound.
    #[error("method `{method}`: {source}")]
    Memory {
        /// The method.
        method: String,
        /// What has no bound.
        source: MemoryError,
    },
    /// The file format refuses what would be written.
    #[error(transparent)]
    Format(#[from] PteError),
    /// A small constant could not be read to be compared with others.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// Why a program's bytes could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// A constant's bytes could not be read.
    #[error("constant `{name}`: {source}")]
    Source {
        /// Its name.
        name: String,
        /// What went wrong.
        source: SourceError,
    },
    /// The destination refused bytes.
    #[error("the destination refused bytes: {0}")]
    Sink(#[from] std::io::Error),
}

/// Why a program cannot be lifted to a module.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LiftError {
    /// An instruction that cannot be lifted.
    #[error("method `{method}`, instruction {chain}.{index} ({what}): {reason}")]
    Instruction {
        /// The method.
        method: String,
        /// Its chain.
        chain: usize,
        /// The instruction in its chain.
        index: usize,
        /// The kernel key or the kind of instruction.
        what: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A value that cannot be lifted.
    #[error("method `{method}`, value {value}: {reason}")]
    Value {
        /// The method.
        method: String,
        /// Its index.
        value: u32,
        /// What was found and what was expected.
        reason: String,
    },
    /// What was lifted breaks a rule of [`pteron_ir::verify`]: declared sizes that its operators cannot give, for example.
    #[error(
        "the program contradicts itself: {first}{}",
        if *.more > 0 { format!(" (and {more} more such places)") } else { String::new() }
    )]
    Contradiction {
        /// The first broken rule, with its graph and node.
        first: String,
        /// How many more there are.
        more: usize,
    },
    /// A part of the file that the program refers to.
    #[error(transparent)]
    Format(#[from] PteError),
    /// Bytes of the file that could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
}
