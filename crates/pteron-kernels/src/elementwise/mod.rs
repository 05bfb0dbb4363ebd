//! Operators that compute each element by itself, with broadcasting and PyTorch's type promotion.
//!
//! Operands are tensors or numbers ([`Operand`]). Sizes broadcast as in PyTorch, aligned at the last dimension; `out` has
//! the broadcast sizes, any strides, and a dtype that the result's category can go to (no float into an integer, no number
//! into `bool`). The computation runs in the promoted type (`f16` and `bf16` in `f32`, integers in wrapping `i64`) and is
//! rounded once, when it is stored.
//!
//! All functions give a [`KernelError`](crate::KernelError) for sizes or dtypes that do not fit, and for `i4` elements.

mod binary;
mod compare;
pub(crate) mod compute;
pub(crate) mod drive;
mod fill;
pub(crate) mod nest;
pub(crate) mod normal;
mod unary;

pub use binary::{
    RoundingMode, add, bitwise_and, bitwise_or, bitwise_xor, clamp, div, div_mode, maximum, minimum, mul, pow, sub,
    where_self,
};
pub use compare::{eq, ge, gt, isinf, isnan, le, logical_and, logical_not, logical_or, logical_xor, lt, ne};
pub use compute::Operand;
pub use fill::{arange, clone, copy, fill, full, full_like, scalar_tensor, to_copy};
pub use unary::{
    Gelu, abs, bitwise_not, ceil, cos, exp, floor, gelu, log, neg, reciprocal, relu, round, rsqrt, sigmoid, silu, sin,
    sqrt, tanh,
};
