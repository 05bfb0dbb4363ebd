//! Sums and means.

use pteron_tensor::{DType, View, ViewMut};

use super::lines::Lines;
use crate::elementwise::compute::{Compute, Num, in_compute, in_float};
use crate::elementwise::drive::{check_out, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::dim_of;
use crate::{Context, KernelError, KernelResult};

/// The sum over `dims`, in the dtype of `out`: elements are converted to its compute type first, so that a sum of `bool`
/// into `i64` counts. No elements give 0.
pub fn sum(_ctx: &Context, a: View<'_>, dims: &[i64], keepdim: bool, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::sum";
    if out.dtype() == DType::Bool {
        return Err(KernelError::new(op, "out is bool, expected a number type"));
    }
    let lines = Lines::new(op, &a, dims, keepdim, &[&out])?;
    in_compute!(out.dtype(), C => lines.kept.each(|at| {
        let mut acc = <C as Num>::Acc::default();
        lines.blocks::<C>(&a, at[0], |b| acc = C::acc_plus(acc, C::block_sum(b)));
        C::store_one(&mut out, at[1], C::from_acc(acc));
    }));
    Ok(())
}

/// The mean over `dims`, in the dtype of `out`, a float. No elements give NaN.
pub fn mean(_ctx: &Context, a: View<'_>, dims: &[i64], keepdim: bool, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::mean";
    if !out.dtype().is_float() {
        return Err(KernelError::new(op, format!("out is {}, expected a float type", out.dtype())));
    }
    let lines = Lines::new(op, &a, dims, keepdim, &[&out])?;
    in_float!(out.dtype(), C => lines.kept.each(|at| {
        let mut acc = 0.0;
        lines.blocks::<C>(&a, at[0], |b| acc += C::block_sum(b));
        C::store_one(&mut out, at[1], C::from_acc(acc / lines.count as f64));
    }));
    Ok(())
}

/// Running sums along `dim`, in the dtype of `out`; floats accumulate in `f64`.
pub fn cumsum(_ctx: &Context, a: View<'_>, dim: i64, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::cumsum";
    whole_bytes(op, a.dtype())?;
    check_out(op, &out, a.sizes())?;
    if out.dtype() == DType::Bool {
        return Err(KernelError::new(op, "out is bool, expected a number type"));
    }
    let d = dim_of(op, dim, a.rank())?;
    let (n, step_in, step_out) = match a.rank() {
        0 => (1, 1, 1),
        _ => (a.sizes()[d], a.strides()[d], out.strides()[d]),
    };
    let mut sizes = a.sizes().to_vec();
    if let Some(s) = sizes.get_mut(d) {
        *s = (*s).min(1);
    }
    let nest = Nest::new(&sizes, &[a.strides(), out.strides()], false);
    in_compute!(out.dtype(), C => nest.each(|at| {
        let mut acc = <C as Num>::Acc::default();
        for i in 0..n {
            let mut v = [C::ZERO];
            C::load(a.dtype(), a.bytes(), at[0] + i * step_in, 1, &mut v);
            acc = C::acc_plus(acc, v[0].widen());
            C::store_one(&mut out, at[1] + i * step_out, C::from_acc(acc));
        }
    }));
    Ok(())
}
