//! Tensors made of numbers, and conversions of dtype and layout.

use pteron_tensor::{B8, DType, Scalar, View, ViewMut};

use super::compute::{Compute, broadcast_sizes, broadcast_strides, in_compute};
use super::drive::{BLOCK, check_out, whole_bytes};
use super::nest::Nest;
use crate::shape_ops::engine::copy_strided;
use crate::{Context, KernelError, KernelResult};

/// Every element of `out` becomes `value`, converted to its dtype.
pub fn fill(_ctx: &Context, value: Scalar, out: ViewMut<'_>) -> KernelResult {
    fill_as("aten::fill", value, out)
}

fn fill_as(op: &'static str, value: Scalar, out: ViewMut<'_>) -> KernelResult {
    let sizes = out.sizes();
    check_out(op, &out, sizes)?;
    if out.dtype() == DType::Bool {
        return fill_rows::<B8>(value, out);
    }
    in_compute!(out.dtype(), C => fill_rows::<C>(value, out))
}

fn fill_rows<C: Compute>(value: Scalar, mut out: ViewMut<'_>) -> KernelResult {
    let nest = Nest::new(out.sizes(), &[out.strides()], true);
    let step = nest.inner()[0];
    let dtype = out.dtype();
    let block = [C::from_scalar(value); BLOCK];
    nest.rows(0..nest.total(), |at, len| {
        let mut done = 0;
        while done < len {
            let n = block.len().min(len - done);
            C::store(dtype, out.bytes_mut(), at[0] + done * step, step, &block[..n]);
            done += n;
        }
    });
    Ok(())
}

/// A tensor of `sizes` full of `value`.
///
/// # Errors
/// Also if `out` does not have these sizes.
pub fn full(_ctx: &Context, sizes: &[i64], value: Scalar, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::full";
    if sizes.len() != out.rank() || sizes.iter().zip(out.sizes()).any(|(&s, &o)| usize::try_from(s) != Ok(o)) {
        return Err(KernelError::new(op, format!("size is {sizes:?}, but out has {:?}", out.sizes())));
    }
    fill_as(op, value, out)
}

/// A tensor of the sizes of `a` full of `value`.
pub fn full_like(_ctx: &Context, a: View<'_>, value: Scalar, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::full_like";
    check_out(op, &out, a.sizes())?;
    fill_as(op, value, out)
}

/// A tensor without dimensions that holds `value`.
pub fn scalar_tensor(_ctx: &Context, value: Scalar, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::scalar_tensor";
    check_out(op, &out, &[])?;
    fill_as(op, value, out)
}

/// `start, start + step, …` up to but without `end`, in one dimension: `start + i·step` in `f64`, or in `i64` if all three
/// are integers.
///
/// # Errors
/// Also for a step of 0 or away from `end`, and for an out of another length.
pub fn arange(_ctx: &Context, start: Scalar, end: Scalar, step: Scalar, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::arange";
    let integers = [start, end, step].iter().all(|s| !matches!(s, Scalar::Float(_)));
    let (s, e, d) = (start.as_f64(), end.as_f64(), step.as_f64());
    if d == 0.0 || !s.is_finite() || !e.is_finite() || d.is_nan() {
        return Err(KernelError::new(op, format!("start {s}, end {e} and step {d} make no range")));
    }
    if (e - s) * d < 0.0 {
        return Err(KernelError::new(op, format!("step {d} leads away from end: start {s}, end {e}")));
    }
    let n = if integers {
        let span = i128::from(end.as_i64()) - i128::from(start.as_i64());
        let step = i128::from(step.as_i64());
        usize::try_from((span + step - step.signum()) / step).ok()
    } else {
        Some(((e - s) / d).ceil()).filter(|n| *n < 9e15).map(|n| n as usize)
    };
    let n = n.ok_or_else(|| KernelError::new(op, format!("the range {s}..{e} by {d} has too many elements")))?;
    check_out(op, &out, &[n])?;
    let stride = out.strides()[0];
    let dtype = out.dtype();
    for i in 0..n {
        if integers {
            let v = start.as_i64().wrapping_add((i as i64).wrapping_mul(step.as_i64()));
            i64::store(dtype, out.bytes_mut(), i * stride, 1, &[v]);
        } else {
            f64::store(dtype, out.bytes_mut(), i * stride, 1, &[s + i as f64 * d]);
        }
    }
    Ok(())
}

fn copy_as(ctx: &Context, op: &'static str, a: View<'_>, mut out: ViewMut<'_>) -> KernelResult {
    whole_bytes(op, a.dtype())?;
    let sizes = out.sizes();
    let strides = broadcast_strides(sizes, a.sizes(), a.strides());
    copy_strided(ctx, a, 0, &strides, &mut out);
    Ok(())
}

/// `a` converted to the dtype and the strides of `out` (`_to_copy`, `_to_dim_order_copy`). Any dtype goes to any other, as
/// C++'s `static_cast`; a float goes to an integer truncated.
pub fn to_copy(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::_to_copy";
    check_out(op, &out, a.sizes())?;
    copy_as(ctx, op, a, out)
}

/// A copy of `a` of the same dtype, with the strides of `out` (`clone`, `_clone_dim_order`).
///
/// # Errors
/// Also if the dtypes differ.
pub fn clone(ctx: &Context, a: View<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::clone";
    check_out(op, &out, a.sizes())?;
    if a.dtype() != out.dtype() {
        return Err(KernelError::new(op, format!("out is {}, expected {}", out.dtype(), a.dtype())));
    }
    copy_as(ctx, op, a, out)
}

/// `out` becomes `source`, broadcast to its sizes and converted to its dtype (`copy_`).
pub fn copy(ctx: &Context, source: View<'_>, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::copy";
    let sizes = broadcast_sizes(op, &[source.sizes(), out.sizes()])?;
    check_out(op, &out, &sizes)?;
    copy_as(ctx, op, source, out)
}
