//! Comparisons and logic: results are truth values, in an out of any type (`bool` as a rule).

use pteron_tensor::{B8, View, ViewMut};

use super::compute::{Num, Operand, in_compute, result_type};
use super::drive::{map1, map2};
use crate::{Context, KernelResult};

macro_rules! compare {
    ($($(#[$doc:meta])* $name:ident $op:literal |$a:ident, $b:ident : $C:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(ctx: &Context, a: Operand<'_>, b: Operand<'_>, out: ViewMut<'_>) -> KernelResult {
            let common = result_type(&[a, b]);
            in_compute!(common, $C => map2(ctx, $op, [a, b], out, common, |$a: $C, $b: $C| B8::from($f)))
        }
    )* };
}

compare! {
    /// `a = b` in the promoted type; NaN equals nothing.
    eq "aten::eq" |x, y: C| x == y;
    /// `a ≠ b` in the promoted type.
    ne "aten::ne" |x, y: C| x != y;
    /// `a < b` in the promoted type.
    lt "aten::lt" |x, y: C| x < y;
    /// `a ≤ b` in the promoted type.
    le "aten::le" |x, y: C| x <= y;
    /// `a > b` in the promoted type.
    gt "aten::gt" |x, y: C| x > y;
    /// `a ≥ b` in the promoted type.
    ge "aten::ge" |x, y: C| x >= y;
    /// True where both operands are not 0. NaN counts as true.
    logical_and "aten::logical_and" |x, y: C| x != C::ZERO && y != C::ZERO;
    /// True where an operand is not 0. NaN counts as true.
    logical_or "aten::logical_or" |x, y: C| x != C::ZERO || y != C::ZERO;
    /// True where one operand is 0 and the other is not. NaN counts as true.
    logical_xor "aten::logical_xor" |x, y: C| (x != C::ZERO) != (y != C::ZERO);
}

macro_rules! predicate {
    ($($(#[$doc:meta])* $name:ident $op:literal |$a:ident : $C:ident| $f:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
            in_compute!(a.dtype(), $C => map1(ctx, $op, a.into(), out, a.dtype(), |$a: $C| B8::from($f)))
        }
    )* };
}

predicate! {
    /// True where `a` is 0.
    logical_not "aten::logical_not" |x: C| x == C::ZERO;
    /// True where `a` is NaN.
    isnan "aten::isnan" |x: C| x.nan();
    /// True where `a` is positive or negative infinity.
    isinf "aten::isinf" |x: C| x.inf();
}
