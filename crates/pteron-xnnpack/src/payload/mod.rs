//! A payload as plain data.

mod header;
mod node;
mod parse;
mod value;
mod write;

use std::ops::Range;

pub use node::{BinaryKind, Conv, ConvKind, Node, NodeKind, OutputRange, Pooling, PoolingKind, UnaryKind};
pub use value::{Datatype, QuantParams, Scales, Value};

/// The id that stands for no value, and the external id of an internal value.
pub const NO_VALUE: u32 = u32::MAX;

/// Most external values that ExecuTorch's backend accepts.
pub(crate) const MAX_EXTERNS: u32 = 4096;

/// Highest rank of XNNPACK.
pub(crate) const MAX_RANK: usize = 6;

/// Position of a value in [`Payload::values`].
pub type ValueIndex = usize;

/// Bits of a node's or a value's `flags`.
pub mod flags {
    /// Value: an input of the payload.
    pub const EXTERNAL_INPUT: u32 = 1;
    /// Value: an output of the payload.
    pub const EXTERNAL_OUTPUT: u32 = 2;
    /// Fully connected: the filter is stored as `[in, out]`; batch matrix multiply: the second input is transposed.
    pub const TRANSPOSE_WEIGHTS: u32 = 1;
    /// Batch matrix multiply: the first input is transposed.
    pub const TRANSPOSE_A: u32 = 2;
    /// Fully connected: the input is flattened to two dimensions first.
    pub const RESHAPE_2D: u32 = 4;
    /// Reductions: reduced dimensions stay with size 1.
    pub const KEEP_DIMS: u32 = 0x40;
}

/// Where the bytes of a constant are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConstantBytes {
    /// In the payload, at these bytes of the blob.
    Blob(Range<usize>),
    /// In the program's named data under this key.
    Named(String),
}

/// An entry of the payload's table of constants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constant {
    /// Where the bytes are.
    pub bytes: ConstantBytes,
    /// Number of bytes.
    pub size: u64,
}

/// An XNNPACK graph. Every index and every range in it has been checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Payload {
    /// Version of the schema: `0`.
    pub version: String,
    /// The file identifier, `XN00` or `XN01`.
    pub identifier: [u8; 4],
    /// All values.
    pub values: Vec<Value>,
    /// All nodes, in order of execution.
    pub nodes: Vec<Node>,
    /// The inputs in the order of the delegate call's arguments.
    pub inputs: Vec<ValueIndex>,
    /// The outputs in the order of the delegate call's arguments, which follow the inputs.
    pub outputs: Vec<ValueIndex>,
    /// The constants; entry 0 is a placeholder for no constant.
    pub constants: Vec<Constant>,
}
