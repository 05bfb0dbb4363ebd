//! Functions of one operand.

use std::str::FromStr;

use pteron_tensor::{DType, View, ViewMut};

use super::compute::{Flt, Num, in_compute, in_float};
use super::drive::{check_cast, map, map1};
use super::normal::normal_cdf;
use crate::simd::Function;
use crate::{Context, KernelError, KernelResult};

/// Functions of a real variable: integers and `bool` are computed as `f32`.
macro_rules! real {
    ($($(#[$doc:meta])* $name:ident $op:literal |$a:ident : $C:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
            let common = if a.dtype().is_float() { a.dtype() } else { DType::F32 };
            check_cast($op, common, out.dtype())?;
            in_float!(common, $C => map1(ctx, $op, a.into(), out, common, |$a: $C| -> $C { $f }))
        }
    )* };
}

real! {
    /// Square root; NaN below 0.
    sqrt "aten::sqrt" |x: C| x.root();
    /// `1/√a`.
    rsqrt "aten::rsqrt" |x: C| C::of(1.0).over(x.root());
    /// `1/a`.
    reciprocal "aten::reciprocal" |x: C| C::of(1.0).over(x);
    /// Natural logarithm.
    log "aten::log" |x: C| x.ln_e();
    /// Sine of radians.
    sin "aten::sin" |x: C| x.sine();
    /// Cosine of radians.
    cos "aten::cos" |x: C| x.cosine();
}

/// `f` of each element through the rows of [`crate::simd`], or `exact` in `f64`.
fn function(
    ctx: &Context,
    op: &'static str,
    a: View<'_>,
    out: ViewMut<'_>,
    f: Function,
    exact: impl Fn(f64) -> f64 + Sync,
) -> KernelResult {
    let common = if a.dtype().is_float() { a.dtype() } else { DType::F32 };
    check_cast(op, common, out.dtype())?;
    if common == DType::F64 {
        return map1(ctx, op, a.into(), out, common, exact);
    }
    let kernels = ctx.kernels();
    map(ctx, op, [a.into()], out, common, &|[a]: [&[f32]; 1], o: &mut [f32]| kernels.map(f, a, o))
}

/// `e^a`.
pub fn exp(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    function(ctx, "aten::exp", a, out, Function::Exp, f64::exp)
}

/// Hyperbolic tangent.
pub fn tanh(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    function(ctx, "aten::tanh", a, out, Function::Tanh, f64::tanh)
}

/// `1/(1 + e^-a)`.
pub fn sigmoid(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    function(ctx, "aten::sigmoid", a, out, Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()))
}

/// `a/(1 + e^-a)`, of floats only.
///
/// # Errors
/// Also for integers, as in PyTorch.
pub fn silu(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::silu";
    float_only(op, a.dtype())?;
    function(ctx, op, a, out, Function::Silu, |x| x / (1.0 + (-x).exp()))
}

/// Which formula [`gelu`] uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x·Φ(x) = x·(1 + erf(x/√2))/2`.
    None,
    /// `x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))/2`.
    Tanh,
}

impl FromStr for Gelu {
    type Err = KernelError;

    /// PyTorch's names: `none`, `tanh`.
    fn from_str(s: &str) -> Result<Gelu, KernelError> {
        match s {
            "none" => Ok(Gelu::None),
            "tanh" => Ok(Gelu::Tanh),
            other => {
                Err(KernelError::new("aten::gelu", format!("approximate is `{other}`; known are `none` and `tanh`")))
            }
        }
    }
}

/// The Gaussian error linear unit (Hendrycks and Gimpel, 2016), of floats only.
///
/// # Errors
/// Also for integers, as in PyTorch.
pub fn gelu(ctx: &Context, a: View<'_>, approximate: Gelu, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::gelu";
    float_only(op, a.dtype())?;
    match approximate {
        Gelu::None => function(ctx, op, a, out, Function::Gelu, |x| x * normal_cdf(x)),
        Gelu::Tanh => function(ctx, op, a, out, Function::GeluTanh, |x| {
            let beta = (2.0 / std::f64::consts::PI).sqrt();
            0.5 * x * (1.0 + (beta * (x + 0.044715 * x * x * x)).tanh())
        }),
    }
}

fn float_only(op: &'static str, dtype: DType) -> KernelResult {
    if dtype.is_float() {
        return Ok(());
    }
    Err(KernelError::new(op, format!("the operand is {dtype}, expected a float type")))
}

/// Functions that keep the operand's type.
macro_rules! same_type {
    ($($(#[$doc:meta])* $name:ident $op:literal bool $allowed:literal |$a:ident : $C:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
            if !$allowed && a.dtype() == DType::Bool {
                return Err(KernelError::new($op, "it is not defined for bool"));
            }
            check_cast($op, a.dtype(), out.dtype())?;
            in_compute!(a.dtype(), $C => map1(ctx, $op, a.into(), out, a.dtype(), |$a: $C| -> $C { $f }))
        }
    )* };
}

same_type! {
    /// `-a`; integers wrap. Not for `bool`.
    neg "aten::neg" bool false |x: C| x.negated();
    /// Magnitude; the smallest integer of a signed type stays itself.
    abs "aten::abs" bool true |x: C| x.magnitude();
    /// `max(a, 0)`; NaN stays NaN. Not for `bool`.
    relu "aten::relu" bool false |x: C| if x.nan() || x > C::ZERO { x } else { C::ZERO };
    /// The largest integer not above `a`.
    floor "aten::floor" bool true |x: C| x.floored();
    /// The smallest integer not below `a`.
    ceil "aten::ceil" bool true |x: C| x.ceiled();
    /// The nearest integer, halves to the even one.
    round "aten::round" bool true |x: C| x.rounded();
}

/// Every bit flipped; of `bool` the negation.
///
/// # Errors
/// Also for floats.
pub fn bitwise_not(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::bitwise_not";
    let common = a.dtype();
    if common.is_float() {
        return Err(KernelError::new(op, format!("the operand is {common}, expected integers or bool")));
    }
    check_cast(op, common, out.dtype())?;
    if common == DType::Bool {
        return map1(ctx, op, a.into(), out, common, |x: i64| x ^ 1);
    }
    map1(ctx, op, a.into(), out, common, |x: i64| !x)
}
