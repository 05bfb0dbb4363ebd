//! Why a graph cannot be quantized.

use pteron_ir::InferError;

use crate::error::{ObserveError, SpecError};

/// Why a graph cannot be quantized.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuantizeError {
    /// A spec or annotation is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Observation failed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// An annotation of a node that is not there.
    #[error("graph `{graph}`: an annotation names node {node}, which is not there")]
    NoNode {
        /// The graph.
        graph: String,
        /// The node's number.
        node: String,
    },
    /// An annotation of something that is no tensor.
    #[error("graph `{graph}`: an annotation names {point}, which is no tensor")]
    NoTensor {
        /// The graph.
        graph: String,
        /// The edge or output.
        point: String,
    },
    /// An operator that the quantizer's rules do not know, and that cannot be replaced.
    #[error("the graph cannot be brought to what the quantizer knows: {reason}")]
    Transform {
        /// Which pass, which node, and why.
        reason: String,
    },
    /// Parameters for a graph that another graph was calibrated for.
    #[error("graph `{graph}`: {label} has no counterpart in the graph that was calibrated")]
    NoEncoding {
        /// The graph.
        graph: String,
        /// The tensor.
        label: String,
    },
    /// Parameters of two calibrated tensors for one.
    #[error("graph `{graph}`: {first} and {second} share parameters here, and were calibrated with different ones")]
    Encodings {
        /// The graph.
        graph: String,
        /// A tensor.
        first: String,
        /// Another.
        second: String,
    },
    /// A weight without bytes.
    #[error("constant `{constant}` has no bytes here, so that it cannot be quantized")]
    NoData {
        /// The constant.
        constant: String,
    },
    /// A weight that cannot be read.
    #[error("{reason}")]
    Source {
        /// Which, and why.
        reason: String,
    },
    /// A node that conversion makes does not fit.
    #[error("graph `{graph}`: {label} cannot be quantized: {error}")]
    Infer {
        /// The graph.
        graph: String,
        /// The tensor.
        label: String,
        /// What does not fit.
        error: InferError,
    },
    /// Something that cannot be converted.
    #[error("graph `{graph}`: {label} cannot be quantized: {reason}")]
    Unsupported {
        /// The graph.
        graph: String,
        /// The tensor.
        label: String,
        /// Why.
        reason: String,
    },
}
