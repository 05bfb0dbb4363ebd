//! XNNPACK payloads in ExecuTorch programs: reading them, and the delegate that executes them.
//!
//! A delegate with the id `XnnpackBackend` carries an `XNNGraph`: values, nodes, and constants that lie behind it or in the
//! program's named data. [`Payload::parse`] checks such a blob completely; [`lift`] makes it a graph of
//! [`pteron_ir`] operators; [`XnnpackBackend`] is the backend that [`pteron_exec`] calls.
//!
//! Payloads of f32 values are executed. Payloads with quantized values are read as well, and [`lift`] refuses them by name.

mod backend;
mod error;
mod lift;
mod payload;
mod sizes;

pub use backend::XnnpackBackend;
pub use error::XnnpackError;
pub use lift::{METHOD, lift};
pub use payload::{
    BinaryKind, Constant, ConstantBytes, Conv, ConvKind, Datatype, NO_VALUE, Node, NodeKind, OutputRange, Payload,
    Pooling, PoolingKind, QuantParams, Scales, UnaryKind, Value, ValueIndex, flags,
};
