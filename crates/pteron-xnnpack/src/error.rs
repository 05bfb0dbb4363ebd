//! Why a payload cannot be read or executed.

use pteron_ir::InferError;
use pteron_pte::flatbuf::FlatError;

/// An error of reading or lifting a payload.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum XnnpackError {
    /// The FlatBuffers structure does not hold.
    #[error("XNNPACK payload, field `{}` {source}", .source.field)]
    Structure {
        /// What does not hold.
        #[from]
        source: FlatError,
    },
    /// A field says something that cannot be.
    #[error("XNNPACK payload, {place}: found {found}, expected {expected}")]
    Malformed {
        /// Which part: `node 3, field input_id`.
        place: String,
        /// What is there.
        found: String,
        /// What can be.
        expected: String,
    },
    /// A constant that is in the program's named data is not there.
    #[error("XNNPACK payload, value {value}: the program has no named data `{}`", key.escape_debug())]
    MissingData {
        /// The value's id.
        value: u32,
        /// The key.
        key: String,
    },
    /// A constant that cannot be read.
    #[error("{reason}")]
    Source {
        /// Why, a sentence that names it.
        reason: String,
    },
    /// A valid payload that cannot be executed yet.
    #[error("{what}")]
    Unsupported {
        /// A sentence that names the value or node.
        what: String,
    },
    /// A node whose inputs do not fit it.
    #[error("XNNPACK payload, node {node} {kind}: {}", .source.reason)]
    Infer {
        /// Position of the node.
        node: usize,
        /// Its kind.
        kind: &'static str,
        /// What does not fit.
        source: InferError,
    },
}

impl From<pteron_tensor::SourceError> for XnnpackError {
    fn from(e: pteron_tensor::SourceError) -> XnnpackError {
        XnnpackError::Source { reason: e.to_string() }
    }
}

impl XnnpackError {
    pub(crate) fn malformed(
        place: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> XnnpackError {
        XnnpackError::Malformed { place: place.into(), found: found.to_string(), expected: expected.into() }
    }

    pub(crate) fn unsupported(what: impl Into<String>) -> XnnpackError {
        XnnpackError::Unsupported { what: what.into() }
    }
}
