//! Joining tensors and taking them apart.

use pteron_tensor::{DType, Shape, View, ViewMut};

use super::engine::{Plan, check_dtype, count_of, dim_of};
use crate::elementwise::compute::{Operand, result_type};
use crate::elementwise::drive::{check_cast, check_out, whole_bytes};
use crate::{Context, KernelError, KernelResult};

fn promoted(op: &'static str, tensors: &[View<'_>], out: &ViewMut<'_>) -> Result<DType, KernelError> {
    for t in tensors {
        whole_bytes(op, t.dtype())?;
    }
    let operands: Vec<Operand<'_>> = tensors.iter().map(|&t| t.into()).collect();
    let common = result_type(&operands);
    check_cast(op, common, out.dtype())?;
    Ok(common)
}

/// The tensors one after the other along `dim`, converted to the dtype of `out`, which their promoted type can go to. All
/// other sizes agree; a tensor of sizes `[0]` is skipped whatever the others have, as in PyTorch.
///
/// # Errors
/// Also without any tensor.
pub fn cat(ctx: &Context, tensors: &[View<'_>], dim: i64, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::cat";
    if tensors.is_empty() {
        return Err(KernelError::new(op, "there are no tensors to join"));
    }
    promoted(op, tensors, &out)?;
    let parts: Vec<View<'_>> = tensors.iter().copied().filter(|t| t.sizes() != [0]).collect();
    let Some(first) = parts.first() else {
        return check_out(op, &out, &[0]);
    };
    if first.rank() == 0 {
        return Err(KernelError::new(op, "tensors without dimensions cannot be joined"));
    }
    let d = dim_of(op, dim, first.rank())?;
    let mut sizes = Shape::from_slice(first.sizes());
    for p in &parts[1..] {
        let same = p.rank() == sizes.len() && (0..sizes.len()).all(|i| i == d || p.sizes()[i] == sizes[i]);
        if !same {
            let e = format!("sizes {:?} and {:?} differ outside of dim {d}", first.sizes(), p.sizes());
            return Err(KernelError::new(op, e));
        }
        sizes[d] = sizes[d]
            .checked_add(p.sizes()[d])
            .ok_or_else(|| KernelError::new(op, format!("the sizes along dim {d} add up to too many")))?;
    }
    check_out(op, &out, &sizes)?;
    let stride = out.strides()[d];
    let mut at = 0;
    for p in parts {
        if p.numel() > 0 {
            Plan::new(p.sizes(), out.strides(), p.strides()).run_on(ctx, p, 0, &mut out, at * stride);
        }
        at += p.sizes()[d];
    }
    Ok(())
}

/// The tensors, all of the same sizes, along a new dimension `dim`, converted to the dtype of `out`.
///
/// # Errors
/// Also without any tensor.
pub fn stack(ctx: &Context, tensors: &[View<'_>], dim: i64, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::stack";
    let Some(first) = tensors.first() else {
        return Err(KernelError::new(op, "there are no tensors to join"));
    };
    promoted(op, tensors, &out)?;
    let d = dim_of(op, dim, first.rank() + 1)?;
    if let Some(t) = tensors.iter().find(|t| t.sizes() != first.sizes()) {
        return Err(KernelError::new(op, format!("sizes {:?} and {:?} differ", first.sizes(), t.sizes())));
    }
    let mut sizes = Shape::from_slice(first.sizes());
    sizes.insert(d, tensors.len());
    check_out(op, &out, &sizes)?;
    let mut strides = Shape::from_slice(out.strides());
    let step = strides.remove(d);
    for (i, t) in tensors.iter().enumerate().filter(|(_, t)| t.numel() > 0) {
        Plan::new(t.sizes(), &strides, t.strides()).run_on(ctx, *t, 0, &mut out, i * step);
    }
    Ok(())
}

/// `a` taken apart along `dim`: `outs[i]` has `split_sizes[i]` positions of it.
///
/// # Errors
/// Also if the sizes do not add up to the dimension, or there are not as many outs.
pub fn split_with_sizes(
    ctx: &Context,
    a: View<'_>,
    split_sizes: &[i64],
    dim: i64,
    outs: &mut [ViewMut<'_>],
) -> KernelResult {
    let op = "aten::split_with_sizes_copy";
    if a.rank() == 0 {
        return Err(KernelError::new(op, "a tensor without dimensions cannot be split"));
    }
    let d = dim_of(op, dim, a.rank())?;
    let counts: Vec<usize> = split_sizes.iter().map(|&s| count_of(op, "a split size", s)).collect::<Result<_, _>>()?;
    let sum = counts.iter().try_fold(0usize, |n, &s| n.checked_add(s));
    if sum != Some(a.sizes()[d]) {
        let e = format!("split sizes {split_sizes:?} do not add up to {}, the size of dim {d}", a.sizes()[d]);
        return Err(KernelError::new(op, e));
    }
    if outs.len() != counts.len() {
        return Err(KernelError::new(op, format!("{} split sizes, but {} outs", counts.len(), outs.len())));
    }
    let mut sizes = Shape::from_slice(a.sizes());
    for (out, &n) in outs.iter().zip(&counts) {
        sizes[d] = n;
        check_dtype(op, out, a.dtype())?;
        check_out(op, out, &sizes)?;
    }
    let mut at = 0;
    for (out, &n) in outs.iter_mut().zip(&counts) {
        if out.numel() > 0 {
            let from = at * a.strides()[d];
            Plan::new(out.sizes(), out.strides(), a.strides()).run_on(ctx, a, from, out, 0);
        }
        at += n;
    }
    Ok(())
}
