//! XNNPACK payloads in ExecuTorch programs: writing them, reading them, and the delegate that executes them.
//!
//! A delegate with the id `XnnpackBackend` carries an `XNNGraph`: values, nodes, and constants that lie behind it or in the
//! program's named data. [`Payload::parse`] checks such a blob completely; [`lift`] makes it a graph of
//! [`pteron_ir`] operators; [`XnnpackBackend`] is the backend that [`pteron_exec`] calls. In the other direction, [`lower`] finds what
//! XNNPACK computes of a module and puts calls of payloads in its place; [`Payload::to_blob`] writes one.
//!
//! Payloads of f32 and of quantized values are executed: constants with a scale for each channel or group, values quantized at
//! run time row by row (`qdint8`), and values with one scale and zero point. Those of f16 and bf16 are read, and [`lift`] refuses
//! them by name.

mod backend;
mod error;
mod inline;
mod lift;
mod lower;
mod payload;
mod sizes;

pub use backend::XnnpackBackend;
pub use error::XnnpackError;
pub use inline::inline;
pub use lift::{METHOD, lift};
pub use lower::{BACKEND, Refused, Report, Scope, lower};
pub use payload::{
    BinaryKind, Constant, ConstantBytes, Conv, ConvKind, Datatype, NO_VALUE, Node, NodeKind, OutputRange, Payload,
    Pooling, PoolingKind, QuantParams, Scales, UnaryKind, Value, ValueIndex, flags,
};
