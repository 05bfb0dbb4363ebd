//! Data types, shapes, dim order, views, byte sources and named tolerances.
//!
//! The lowest room of Pteron: everything above it speaks in these terms. It knows no file, no graph and no operator.
//!
//! * [`DType`]: the element types of ExecuTorch programs that Pteron computes with, and PyTorch's promotion rules.
//! * [`Shape`], [`DimOrder`] and [`strides_for`]: concrete sizes and how they lie in memory.
//! * [`View`] and [`ViewMut`]: borrowed tensors that kernels read and write; [`Tensor`]: an owned one.
//! * [`TensorSource`]: where the bytes of a constant come from, decoded by rows and only when asked for.
//! * [`Tolerance`]: the named classes by which results are compared.
//! * [`natural_order`]: the order of names for people.

mod bytes;
mod cast;
mod dtype;
mod grouped;
mod hadamard;
mod names;
mod shape;
mod source;
mod tensor;
mod tolerance;

pub use bytes::AlignedBytes;
pub use cast::{Scalar, cast_bytes, read_scalar, write_scalar};
pub use dtype::{B8, DType, Element, UnknownDType};
pub use grouped::GroupedCodes;
pub use hadamard::HADAMARD_28;
pub use names::natural_order;
pub use shape::{DimOrder, Shape, ShapeError, checked_numel, contiguous_order, is_contiguous, strides_for};
pub use source::{
    ByteSource, CastSource, MemorySource, RangeSource, RowMapSource, SharedBytes, SharedSource, SourceError,
    TensorBytes, TensorSource, check_rows, copy_range, read_all,
};
pub use tensor::{Tensor, View, ViewError, ViewMut};
pub use tolerance::{Mismatch, Tolerance};
