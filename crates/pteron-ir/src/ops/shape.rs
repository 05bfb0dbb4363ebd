//! Other sizes, other positions.

use smallvec::SmallVec;

use pteron_tensor::DType;

use crate::infer::{InferCtx, InferResult, one};
use crate::symint::SymInt;
use crate::types::{Dims, TensorType, Type};

fn row_major(dtype: DType, dims: Dims) -> TensorType {
    TensorType { dtype, dims, order: None }
}

pub(crate) fn view(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let mut dims = ctx.ints(1)?;
    let total = a.numel(ctx.symbols);
    let minus_one = SymInt::Const(-1);
    let free: SmallVec<[usize; 2]> = (0..dims.len()).filter(|&i| dims[i] == minus_one).collect();
    match free.as_slice() {
        [] => {
            let n = dims.iter().fold(SymInt::Const(1), |n, d| n.mul(d, ctx.symbols));
            if !n.may_equal(&total, ctx.symbols) {
                return ctx.fail(format!("{a} has {total} elements, the sizes asked for have {n}"));
            }
        }
        [i] => {
            let others = dims.iter().enumerate().filter(|(k, _)| k != i);
            let rest = others.fold(SymInt::Const(1), |n, (_, d)| n.mul(d, ctx.symbols));
            if let (Some(t), Some(r)) = (total.as_const(), rest.as_const())
                && (r <= 0 || t % r != 0)
            {
                return ctx.fail(format!("{t} elements cannot be divided into rows of {r}"));
            }
            // Where the quotient is not known, its range still is: at least one row divides the elements.
            dims[*i] = match total.floor_div(&rest, ctx.symbols) {
                Some(q) => q,
                None => SymInt::Unknown { min: 0, max: total.max(ctx.symbols) },
            };
        }
        _ => return ctx.fail("more than one size is -1"),
    }
    one(row_major(a.dtype, dims))
}

pub(crate) fn unsqueeze(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let d = ctx.dim(ctx.const_int(1)?, a.rank() + 1)?;
    let mut dims = a.dims.clone();
    dims.insert(d, SymInt::Const(1));
    one(row_major(a.dtype, dims))
}

fn squeeze(ctx: &InferCtx<'_>, which: &[i64]) -> InferResult {
    let a = ctx.tensor(0)?;
    let which = which.iter().map(|&d| ctx.dim(d, a.rank())).collect::<Result<SmallVec<[usize; 4]>, _>>()?;
    let keep = |i: usize, d: &SymInt| !(which.contains(&i) && *d == SymInt::Const(1));
    let dims = a.dims.iter().enumerate().filter(|(i, d)| keep(*i, d)).map(|(_, d)| d.clone()).collect();
    one(row_major(a.dtype, dims))
}

pub(crate) fn squeeze_dims(ctx: &InferCtx<'_>) -> InferResult {
    squeeze(ctx, &ctx.const_ints(1)?)
}

pub(crate) fn squeeze_dim(ctx: &InferCtx<'_>) -> InferResult {
    squeeze(ctx, &[ctx.const_int(1)?])
}

pub(crate) fn permute(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let order = ctx.const_ints(1)?;
    let order = order.iter().map(|&d| ctx.dim(d, a.rank())).collect::<Result<SmallVec<[usize; 6]>, _>>()?;
    if order.len() != a.rank() || !(0..a.rank()).all(|d| order.contains(&d)) {
        return ctx.fail(format!("dims {order:?} is not a permutation of the {} dimensions", a.rank()));
    }
    one(row_major(a.dtype, order.iter().map(|&d| a.dims[d].clone()).collect()))
}

pub(crate) fn transpose(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let (i, j) = (ctx.dim(ctx.const_int(1)?, a.rank())?, ctx.dim(ctx.const_int(2)?, a.rank())?);
    let mut dims = a.dims.clone();
    if a.rank() > 0 {
        dims.swap(i, j);
    }
    one(row_major(a.dtype, dims))
}

pub(crate) fn expand(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let mut dims = ctx.ints(1)?;
    let Some(lead) = dims.len().checked_sub(a.rank()) else {
        return ctx.fail(format!("{} sizes for {a}", dims.len()));
    };
    for i in 0..dims.len() {
        let own = i.checked_sub(lead).map(|k| &a.dims[k]);
        match (own, dims[i] == SymInt::Const(-1)) {
            (Some(own), true) => dims[i] = own.clone(),
            (None, true) => return ctx.fail("size -1 for a new leading dimension"),
            (Some(own), false) => {
                if *own != SymInt::Const(1) && !own.may_equal(&dims[i], ctx.symbols) {
                    return ctx.fail(format!("size {own} of dimension {i} does not expand to {}", dims[i]));
                }
            }
            (None, false) => {}
        }
    }
    one(row_major(a.dtype, dims))
}

/// `start` or `end` of a slice of `size` elements: negative counts from the back, and both are clamped to the tensor. A
/// symbolic bound that cannot be placed is taken to lie inside; the executor computes the real one.
fn slice_bound(ctx: &InferCtx<'_>, bound: Option<SymInt>, default: SymInt, size: &SymInt) -> SymInt {
    let Some(b) = bound else { return default };
    let zero = SymInt::Const(0);
    let (lo, hi) = b.range(ctx.symbols);
    if lo >= 0 {
        // A known large end, i64::MAX by convention, is the whole dimension.
        if lo >= size.max(ctx.symbols) {
            size.clone()
        } else if b.as_const().is_some() {
            b.minimum(size, ctx.symbols)
        } else {
            b
        }
    } else if hi < 0 {
        size.add(&b, ctx.symbols).maximum(&zero, ctx.symbols)
    } else {
        SymInt::Unknown { min: 0, max: size.max(ctx.symbols) }
    }
}

pub(crate) fn slice(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let d = ctx.dim(ctx.const_int(1)?, a.rank())?;
    let Some(size) = a.dims.get(d).cloned() else { return ctx.fail("a scalar tensor cannot be sliced") };
    let step = ctx.const_int(4)?;
    if step <= 0 {
        return ctx.fail(format!("step is {step}, expected a positive number"));
    }
    let start = slice_bound(ctx, ctx.optional_int(2)?, SymInt::Const(0), &size);
    let end = slice_bound(ctx, ctx.optional_int(3)?, size.clone(), &size);
    let span = end.sub(&start, ctx.symbols);
    let length = if span.max(ctx.symbols) <= 0 {
        SymInt::Const(0)
    } else {
        let up = span.add(&SymInt::Const(step - 1), ctx.symbols);
        match up.floor_div(&SymInt::Const(step), ctx.symbols) {
            Some(q) if matches!(q, SymInt::Unknown { .. }) => {
                let (lo, hi) = q.range(ctx.symbols);
                SymInt::Unknown { min: lo.max(0), max: hi.min(size.max(ctx.symbols)) }
            }
            Some(q) => q,
            None => return ctx.fail("the length is not known"),
        }
    };
    let mut dims = a.dims.clone();
    dims[d] = length;
    one(row_major(a.dtype, dims))
}

pub(crate) fn select(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    if a.rank() == 0 {
        return ctx.fail("a scalar tensor has no dimension to select from");
    }
    let d = ctx.dim(ctx.const_int(1)?, a.rank())?;
    let size = a.dims[d].max(ctx.symbols);
    if let Some(i) = ctx.int(2)?.as_const()
        && (i >= size || i < -size)
    {
        return ctx.fail(format!("index {i} of dimension {d} with {size} elements"));
    }
    let mut dims = a.dims.clone();
    dims.remove(d);
    one(row_major(a.dtype, dims))
}

pub(crate) fn cat(ctx: &InferCtx<'_>) -> InferResult {
    let parts = ctx.tensor_list(0)?;
    let parts: Vec<&TensorType> = parts.into_iter().flatten().collect();
    let Some(first) = parts.first() else { return ctx.fail("an empty list of tensors") };
    let dtype = parts.iter().fold(first.dtype, |d, t| DType::promote(d, t.dtype));
    // As in PyTorch, an empty vector may stand among tensors of any rank.
    let empty = |t: &TensorType| t.rank() == 1 && t.dims[0] == SymInt::Const(0);
    let Some(model) = parts.iter().find(|t| !empty(t)) else { return one(row_major(dtype, first.dims.clone())) };
    let d = ctx.dim(ctx.const_int(1)?, model.rank())?;
    let mut dims = model.dims.clone();
    if dims.is_empty() {
        return ctx.fail("scalar tensors cannot be concatenated");
    }
    dims[d] = SymInt::Const(0);
    for t in parts.iter().filter(|t| !empty(t)) {
        let fits = t.rank() == model.rank()
            && (0..t.rank()).all(|i| i == d || t.dims[i].may_equal(&model.dims[i], ctx.symbols));
        if !fits {
            return ctx.fail(format!("{t} does not fit {model} along dimension {d}"));
        }
        dims[d] = dims[d].add(&t.dims[d], ctx.symbols);
    }
    let order = model.order.clone().filter(|_| parts.iter().all(|t| t.order == model.order));
    one(TensorType { dtype, dims, order })
}

pub(crate) fn split_with_sizes(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let sizes = ctx.ints(1)?;
    let d = ctx.dim(ctx.const_int(2)?, a.rank())?;
    let Some(size) = a.dims.get(d) else { return ctx.fail("a scalar tensor cannot be split") };
    let total = sizes.iter().fold(SymInt::Const(0), |n, s| n.add(s, ctx.symbols));
    if !total.may_equal(size, ctx.symbols) {
        return ctx.fail(format!("sizes that add up to {total} for a dimension of {size}"));
    }
    let part = |s: &SymInt| {
        let mut dims = a.dims.clone();
        dims[d] = s.clone();
        Type::Tensor(row_major(a.dtype, dims))
    };
    Ok(sizes.iter().map(part).collect())
}

pub(crate) fn repeat(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let mut dims = ctx.ints(1)?;
    let Some(lead) = dims.len().checked_sub(a.rank()) else {
        return ctx.fail(format!("{} repeats for {a}", dims.len()));
    };
    for (own, d) in a.dims.iter().zip(dims[lead..].iter_mut()) {
        *d = d.mul(own, ctx.symbols);
    }
    one(row_major(a.dtype, dims))
}

pub(crate) fn copy_index(ctx: &InferCtx<'_>) -> InferResult {
    let (to, from) = (ctx.tensor(0)?, ctx.tensor(1)?);
    if to.rank() != from.rank() + 1 || to.dtype != from.dtype {
        return ctx.fail(format!("copy_from {from} is not a row of copy_to {to}"));
    }
    let rows = ctx.int(2)?.add(&SymInt::Const(1), ctx.symbols);
    let mut dims = to.dims.clone();
    dims[0] = match rows.as_const() {
        Some(_) => rows,
        None => SymInt::Unknown { min: 0, max: to.dims[0].max(ctx.symbols).max(1) },
    };
    one(row_major(to.dtype, dims))
}
