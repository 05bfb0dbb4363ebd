//! Largest and smallest elements, and truth of all or any.

use pteron_tensor::{B8, DType, View, ViewMut};

use super::lines::Lines;
use crate::elementwise::compute::{Compute, Num, block_best, in_compute};
use crate::elementwise::drive::check_cast;
use crate::shape_ops::engine::check_dtype;
use crate::{Context, KernelError, KernelResult};

fn not_empty(op: &'static str, lines: &Lines) -> KernelResult {
    if lines.count == 0 && lines.kept.total() > 0 {
        return Err(KernelError::new(op, "a dimension without elements has no extremum"));
    }
    Ok(())
}

/// The best element and its place among the reduced ones: the first of equals.
fn best<C: Num>(lines: &Lines, a: &View<'_>, at: usize, max: bool) -> (C, usize) {
    let (mut found, mut place, mut seen) = (C::ZERO, 0, 0);
    lines.blocks::<C>(a, at, |b| {
        let Some(&first) = b.first() else { return };
        let beats = |v: C, than: C| if max { v.above(than) } else { v.below(than) };
        let top = if max { block_best(b, first, C::above) } else { block_best(b, first, C::below) };
        if seen == 0 || beats(top, found) {
            let i = b.iter().position(|&v| v == top || (v.nan() && top.nan())).unwrap_or(0);
            // The first of equals, so that the sign of a zero does not depend on the lanes.
            (found, place) = (b[i], seen + i);
        }
        seen += b.len();
    });
    (found, place)
}

fn value(op: &'static str, a: View<'_>, dims: &[i64], keepdim: bool, mut out: ViewMut<'_>, max: bool) -> KernelResult {
    let lines = Lines::new(op, &a, dims, keepdim, &[&out])?;
    check_cast(op, a.dtype(), out.dtype())?;
    not_empty(op, &lines)?;
    in_compute!(a.dtype(), C => lines.kept.each(|at| {
        let (v, _) = best::<C>(&lines, &a, at[0], max);
        C::store_one(&mut out, at[1], v);
    }));
    Ok(())
}

fn place(
    op: &'static str,
    a: View<'_>,
    dim: Option<i64>,
    keepdim: bool,
    mut out: ViewMut<'_>,
    max: bool,
) -> KernelResult {
    check_dtype(op, &out, DType::I64)?;
    let lines = Lines::new(op, &a, dim.as_slice(), keepdim, &[&out])?;
    not_empty(op, &lines)?;
    in_compute!(a.dtype(), C => lines.kept.each(|at| {
        let (_, i) = best::<C>(&lines, &a, at[0], max);
        i64::store_one(&mut out, at[1], i as i64);
    }));
    Ok(())
}

fn both(
    op: &'static str,
    a: View<'_>,
    dim: i64,
    keepdim: bool,
    mut values: ViewMut<'_>,
    mut indices: ViewMut<'_>,
    max: bool,
) -> KernelResult {
    check_dtype(op, &values, a.dtype())?;
    check_dtype(op, &indices, DType::I64)?;
    let lines = Lines::new(op, &a, &[dim], keepdim, &[&values, &indices])?;
    not_empty(op, &lines)?;
    in_compute!(a.dtype(), C => lines.kept.each(|at| {
        let (v, i) = best::<C>(&lines, &a, at[0], max);
        C::store_one(&mut values, at[1], v);
        i64::store_one(&mut indices, at[2], i as i64);
    }));
    Ok(())
}

/// The largest element over `dims`; NaN if there is one.
///
/// # Errors
/// Also for a result of no elements.
pub fn amax(_ctx: &Context, a: View<'_>, dims: &[i64], keepdim: bool, out: ViewMut<'_>) -> KernelResult {
    value("aten::amax", a, dims, keepdim, out, true)
}

/// The smallest element over `dims`; NaN if there is one.
///
/// # Errors
/// Also for a result of no elements.
pub fn amin(_ctx: &Context, a: View<'_>, dims: &[i64], keepdim: bool, out: ViewMut<'_>) -> KernelResult {
    value("aten::amin", a, dims, keepdim, out, false)
}

/// Where the largest element stands along `dim`, or among all elements in row-major order: the first of equals, NaN above
/// everything. `out` is `i64`.
///
/// # Errors
/// Also for a result of no elements.
pub fn argmax(_ctx: &Context, a: View<'_>, dim: Option<i64>, keepdim: bool, out: ViewMut<'_>) -> KernelResult {
    place("aten::argmax", a, dim, keepdim, out, true)
}

/// Where the smallest element stands along `dim`, or among all elements in row-major order: the first of equals, NaN below
/// everything. `out` is `i64`.
///
/// # Errors
/// Also for a result of no elements.
pub fn argmin(_ctx: &Context, a: View<'_>, dim: Option<i64>, keepdim: bool, out: ViewMut<'_>) -> KernelResult {
    place("aten::argmin", a, dim, keepdim, out, false)
}

/// The largest element along `dim` and where it stands (`i64`): the first of equals, NaN above everything.
///
/// # Errors
/// Also for a result of no elements.
pub fn max_dim(
    _ctx: &Context,
    a: View<'_>,
    dim: i64,
    keepdim: bool,
    values: ViewMut<'_>,
    indices: ViewMut<'_>,
) -> KernelResult {
    both("aten::max", a, dim, keepdim, values, indices, true)
}

/// The smallest element along `dim` and where it stands (`i64`): the first of equals, NaN below everything.
///
/// # Errors
/// Also for a result of no elements.
pub fn min_dim(
    _ctx: &Context,
    a: View<'_>,
    dim: i64,
    keepdim: bool,
    values: ViewMut<'_>,
    indices: ViewMut<'_>,
) -> KernelResult {
    both("aten::min", a, dim, keepdim, values, indices, false)
}

fn truth(op: &'static str, a: View<'_>, dims: &[i64], keepdim: bool, mut out: ViewMut<'_>, any: bool) -> KernelResult {
    if !matches!(out.dtype(), DType::Bool | DType::U8) {
        return Err(KernelError::new(op, format!("out is {}, expected bool or u8", out.dtype())));
    }
    let lines = Lines::new(op, &a, dims, keepdim, &[&out])?;
    in_compute!(a.dtype(), C => lines.kept.each(|at| {
        let mut result = !any;
        lines.blocks::<C>(&a, at[0], |b| {
            result = if any { result || b.iter().any(|&v| v != C::ZERO) } else { result && b.iter().all(|&v| v != C::ZERO) };
        });
        B8::store_one(&mut out, at[1], B8::from(result));
    }));
    Ok(())
}

/// True if any element is not 0; false without elements. NaN counts as true. `out` is `bool` or `u8`, without dimensions.
pub fn any(_ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    truth("aten::any", a, &[], false, out, true)
}

/// True where any element along `dim` is not 0; false without elements. `out` is `bool` or `u8`.
pub fn any_dim(_ctx: &Context, a: View<'_>, dim: i64, keepdim: bool, out: ViewMut<'_>) -> KernelResult {
    truth("aten::any", a, &[dim], keepdim, out, true)
}

/// True if no element is 0; true without elements. `out` is `bool` or `u8`, without dimensions.
pub fn all(_ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    truth("aten::all", a, &[], false, out, false)
}

/// True where no element along `dim` is 0; true without elements. `out` is `bool` or `u8`.
pub fn all_dim(_ctx: &Context, a: View<'_>, dim: i64, keepdim: bool, out: ViewMut<'_>) -> KernelResult {
    truth("aten::all", a, &[dim], keepdim, out, false)
}
