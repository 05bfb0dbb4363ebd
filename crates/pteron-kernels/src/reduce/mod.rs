//! Operators that combine the elements along dimensions.
//!
//! `dims` name dimensions, counted from the end if negative; none at all means every dimension. `out` has the sizes of the
//! input with those dimensions removed, or of size 1 with `keepdim`. Inputs and outputs may have any strides.
//!
//! Elements are combined in row-major order in blocks of a fixed size, whatever the strides, so that a result depends on
//! neither layout nor number of threads. Sums of floats hold 16 `f32` lanes within a block and `f64` across blocks.
//!
//! All functions give a [`KernelError`](crate::KernelError) for sizes, dtypes or dimensions that do not fit, and for `i4`
//! elements.

mod extrema;
mod lines;
mod softmax;
mod sums;
mod topk;

pub use extrema::{all, all_dim, amax, amin, any, any_dim, argmax, argmin, max_dim, min_dim};
pub use softmax::{log_softmax, softmax};
pub use sums::{cumsum, mean, sum};
pub use topk::topk;
