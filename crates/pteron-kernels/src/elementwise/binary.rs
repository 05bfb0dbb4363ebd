//! Arithmetic of two or three operands.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pteron_tensor::{DType, Scalar, View, ViewMut};

use super::compute::{Compute, Num, Operand, in_compute, in_float, result_type};
use super::drive::{check_cast, map1, map2, map3};
use crate::{Context, KernelError, KernelResult};

/// What a division rounds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundingMode {
    /// Towards zero.
    Trunc,
    /// Down, as Python's `//`.
    Floor,
}

impl FromStr for RoundingMode {
    type Err = KernelError;

    /// PyTorch's names: `trunc`, `floor`.
    fn from_str(s: &str) -> Result<RoundingMode, KernelError> {
        match s {
            "trunc" => Ok(RoundingMode::Trunc),
            "floor" => Ok(RoundingMode::Floor),
            other => {
                Err(KernelError::new("aten::div", format!("rounding_mode is `{other}`; known are `trunc` and `floor`")))
            }
        }
    }
}

fn common_of(op: &'static str, operands: &[Operand<'_>], out: &ViewMut<'_>) -> Result<DType, KernelError> {
    let common = result_type(operands);
    check_cast(op, common, out.dtype())?;
    Ok(common)
}

/// Defines operators whose function is the same in every compute type.
macro_rules! arithmetic {
    ($($(#[$doc:meta])* $name:ident $op:literal |$a:ident, $b:ident : $C:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(ctx: &Context, a: Operand<'_>, b: Operand<'_>, out: ViewMut<'_>) -> KernelResult {
            let common = common_of($op, &[a, b], &out)?;
            in_compute!(common, $C => map2(ctx, $op, [a, b], out, common, |$a: $C, $b: $C| -> $C { $f }))
        }
    )* };
}

arithmetic! {
    /// `a · b`; of two `bool` operands their conjunction.
    mul "aten::mul" |x, y: C| x.times(y);
    /// The larger of `a` and `b`; NaN if either is NaN.
    maximum "aten::maximum" |x, y: C| if y.above(x) { y } else { x };
    /// The smaller of `a` and `b`; NaN if either is NaN.
    minimum "aten::minimum" |x, y: C| if y.below(x) { y } else { x };
}

fn scaled(
    ctx: &Context,
    op: &'static str,
    [a, b]: [Operand<'_>; 2],
    alpha: Scalar,
    out: ViewMut<'_>,
    subtract: bool,
) -> KernelResult {
    let common = common_of(op, &[a, b], &out)?;
    if matches!(alpha, Scalar::Float(_)) && !common.is_float() {
        return Err(KernelError::new(op, format!("alpha is a float, but the operands promote to {common}")));
    }
    if matches!(alpha, Scalar::Bool(_)) && common != DType::Bool {
        return Err(KernelError::new(op, format!("alpha is a bool, but the operands promote to {common}")));
    }
    in_compute!(common, C => {
        let k = C::from_scalar(alpha);
        if alpha.as_f64() == 1.0 {
            map2(ctx, op, [a, b], out, common, move |x: C, y: C| if subtract { x.minus(y) } else { x.plus(y) })
        } else {
            map2(ctx, op, [a, b], out, common, move |x: C, y: C| {
                let y = k.times(y);
                if subtract { x.minus(y) } else { x.plus(y) }
            })
        }
    })
}

/// `a + alpha·b`; of two `bool` operands their disjunction.
///
/// # Errors
/// Also for a float `alpha` with integer operands.
pub fn add(ctx: &Context, a: Operand<'_>, b: Operand<'_>, alpha: Scalar, out: ViewMut<'_>) -> KernelResult {
    scaled(ctx, "aten::add", [a, b], alpha, out, false)
}

/// `a - alpha·b`.
///
/// # Errors
/// Also for a float `alpha` with integer operands, and for a `bool` operand, as in PyTorch.
pub fn sub(ctx: &Context, a: Operand<'_>, b: Operand<'_>, alpha: Scalar, out: ViewMut<'_>) -> KernelResult {
    let is_bool = |o: &Operand<'_>| match o {
        Operand::View(v) => v.dtype() == DType::Bool,
        Operand::Scalar(s) => matches!(s, Scalar::Bool(_)),
    };
    if is_bool(&a) || is_bool(&b) {
        return Err(KernelError::new("aten::sub", "bool operands have no difference; use logical_xor"));
    }
    scaled(ctx, "aten::sub", [a, b], alpha, out, true)
}

/// `a / b`, a float: integers divide as `f32`.
pub fn div(ctx: &Context, a: Operand<'_>, b: Operand<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::div";
    let common = match result_type(&[a, b]) {
        c if c.is_float() => c,
        _ => DType::F32,
    };
    check_cast(op, common, out.dtype())?;
    in_float!(common, C => map2(ctx, op, [a, b], out, common, |x: C, y: C| x / y))
}

/// The quotient `a / b` rounded as `mode` says; without a mode, [`div`]. Integers stay integers.
///
/// # Errors
/// Also for an integer division by zero, and for two `bool` operands.
pub fn div_mode(
    ctx: &Context,
    a: Operand<'_>,
    b: Operand<'_>,
    mode: Option<RoundingMode>,
    out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::div";
    let Some(mode) = mode else { return div(ctx, a, b, out) };
    let common = common_of(op, &[a, b], &out)?;
    if common == DType::Bool {
        return Err(KernelError::new(op, "a rounding division of bool by bool is not defined"));
    }
    let by_zero = AtomicBool::new(false);
    in_compute!(common, C => map2(ctx, op, [a, b], out, common, |x: C, y: C| {
        if !common.is_float() && y == C::ZERO {
            by_zero.store(true, Relaxed);
        }
        match mode {
            RoundingMode::Trunc => x.quotient_trunc(y),
            RoundingMode::Floor => x.quotient_floor(y),
        }
    }))?;
    if by_zero.load(Relaxed) {
        return Err(KernelError::new(op, "integer division by zero"));
    }
    Ok(())
}

/// `base` to the power of `exponent`. Integers wrap; an integer to a negative power of an exponent tensor is truncated
/// towards zero.
///
/// # Errors
/// Also for integers with a negative integer number as exponent, as in PyTorch.
pub fn pow(ctx: &Context, base: Operand<'_>, exponent: Operand<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::pow";
    let common = common_of(op, &[base, exponent], &out)?;
    let Operand::Scalar(e) = exponent else {
        return in_compute!(common, C => map2(ctx, op, [base, exponent], out, common, |x: C, y: C| x.power(y)));
    };
    if !common.is_float() {
        let e = e.as_i64();
        if e < 0 {
            return Err(KernelError::new(op, format!("integers cannot be raised to the negative power {e}")));
        }
        return map1(ctx, op, base, out, common, move |x: i64| x.power(e));
    }
    in_float!(common, C => {
        let e64 = e.as_f64();
        let e = C::from_scalar(e);
        // The exponents that PyTorch computes without a logarithm.
        let f: fn(C, C) -> C = if e64 == 0.5 {
            |x, _| x.sqrt()
        } else if e64 == 2.0 {
            |x, _| x * x
        } else if e64 == 3.0 {
            |x, _| x * x * x
        } else if e64 == -0.5 {
            |x, _| 1.0 / x.sqrt()
        } else if e64 == -1.0 {
            |x, _| 1.0 / x
        } else if e64 == -2.0 {
            |x, _| 1.0 / (x * x)
        } else {
            |x, e| x.powf(e)
        };
        map1(ctx, op, base, out, common, move |x: C| f(x, e))
    })
}

/// Elements of `a` limited to `min..=max`; NaN stays NaN, and a NaN limit makes everything NaN. Where `min > max` the
/// result is `max`.
///
/// # Errors
/// Also without any limit.
pub fn clamp(ctx: &Context, a: View<'_>, min: Option<Scalar>, max: Option<Scalar>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::clamp";
    if min.is_none() && max.is_none() {
        return Err(KernelError::new(op, "at least one of min and max must be given"));
    }
    let mut operands = vec![Operand::View(a)];
    operands.extend(min.into_iter().chain(max).map(Operand::Scalar));
    let common = common_of(op, &operands, &out)?;
    in_compute!(common, C => {
        let (min, max) = (min.map(C::from_scalar), max.map(C::from_scalar));
        map1(ctx, op, a.into(), out, common, move |x: C| {
            let x = min.map_or(x, |m| if m.above(x) { m } else { x });
            max.map_or(x, |m| if m.below(x) { m } else { x })
        })
    })
}

/// `a` where `condition` is true, otherwise `b`; all three broadcast.
///
/// # Errors
/// Also for a condition that is neither `bool` nor `u8`.
pub fn where_self(
    ctx: &Context,
    condition: View<'_>,
    a: Operand<'_>,
    b: Operand<'_>,
    out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::where";
    if !matches!(condition.dtype(), DType::Bool | DType::U8) {
        return Err(KernelError::new(op, format!("the condition is {}, expected bool or u8", condition.dtype())));
    }
    let common = common_of(op, &[a, b], &out)?;
    in_compute!(common, C => map3(ctx, op, [condition.into(), a, b], out, common, |c: C, x: C, y: C| {
        if c == C::ZERO { y } else { x }
    }))
}

/// Defines operators of integers and `bool`.
macro_rules! bitwise {
    ($($(#[$doc:meta])* $name:ident $op:literal |$a:ident, $b:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        ///
        /// # Errors
        /// Also for a float operand.
        pub fn $name(ctx: &Context, a: Operand<'_>, b: Operand<'_>, out: ViewMut<'_>) -> KernelResult {
            let common = common_of($op, &[a, b], &out)?;
            if common.is_float() {
                return Err(KernelError::new($op, format!("operands promote to {common}, expected integers or bool")));
            }
            map2(ctx, $op, [a, b], out, common, |$a: i64, $b: i64| $f)
        }
    )* };
}

bitwise! {
    /// Bits set in both operands.
    bitwise_and "aten::bitwise_and" |x, y| x & y;
    /// Bits set in either operand.
    bitwise_or "aten::bitwise_or" |x, y| x | y;
    /// Bits set in one operand only.
    bitwise_xor "aten::bitwise_xor" |x, y| x ^ y;
}
