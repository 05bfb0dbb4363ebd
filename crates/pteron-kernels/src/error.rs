//! Why a kernel refused its arguments.

/// The result of a kernel.
pub type KernelResult = Result<(), KernelError>;

/// A kernel's arguments do not fit together. The message is one sentence with what was found and what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct KernelError {
    /// The operator's name, `aten::add` for example.
    pub op: &'static str,
    /// What does not fit.
    pub reason: String,
}

impl KernelError {
    /// An error of operator `op`.
    pub fn new(op: &'static str, reason: impl Into<String>) -> KernelError {
        KernelError { op, reason: reason.into() }
    }
}
