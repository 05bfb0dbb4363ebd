//! Reductions over dimensions.

use pteron_tensor::DType;
use smallvec::SmallVec;

use crate::arg::Arg;
use crate::infer::{InferCtx, InferError, InferResult, one};
use crate::symint::SymInt;
use crate::types::{Dims, TensorType, Type};

/// The sizes left when `dims` (all if empty or missing) are reduced.
fn reduced(ctx: &InferCtx<'_>, a: &TensorType, dims: Option<&[i64]>, keep: bool) -> Result<Dims, InferError> {
    let all = dims.is_none_or(<[i64]>::is_empty);
    let which =
        dims.unwrap_or_default().iter().map(|&d| ctx.dim(d, a.rank())).collect::<Result<SmallVec<[usize; 4]>, _>>()?;
    let hit = |i: usize| all || which.contains(&i);
    let sizes = a.dims.iter().enumerate();
    Ok(if keep {
        sizes.map(|(i, d)| if hit(i) { SymInt::Const(1) } else { d.clone() }).collect()
    } else {
        sizes.filter(|(i, _)| !hit(*i)).map(|(_, d)| d.clone()).collect()
    })
}

fn over_list(ctx: &InferCtx<'_>, dtype: DType) -> InferResult {
    let a = ctx.tensor(0)?;
    let dims = reduced(ctx, a, ctx.optional_const_ints(1)?.as_deref(), ctx.bool(2)?)?;
    one(TensorType { dtype, dims, order: None })
}

pub(crate) fn sum(ctx: &InferCtx<'_>) -> InferResult {
    let own = ctx.tensor(0)?.dtype;
    over_list(ctx, ctx.optional_dtype(3)?.unwrap_or(if own.is_float() { own } else { DType::I64 }))
}

pub(crate) fn mean(ctx: &InferCtx<'_>) -> InferResult {
    let dtype = ctx.optional_dtype(3)?.unwrap_or(ctx.tensor(0)?.dtype);
    if !dtype.is_float() {
        return ctx.fail(format!("the mean of {dtype} is not defined: give a float dtype"));
    }
    over_list(ctx, dtype)
}

pub(crate) fn extreme(ctx: &InferCtx<'_>) -> InferResult {
    over_list(ctx, ctx.tensor(0)?.dtype)
}

pub(crate) fn arg_extreme(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let dim = ctx.optional_int(1)?.and_then(|d| d.as_const());
    let dims = reduced(ctx, a, dim.as_ref().map(std::slice::from_ref), ctx.bool(2)?)?;
    one(TensorType { dtype: DType::I64, dims, order: None })
}

pub(crate) fn extreme_with_index(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let dims = reduced(ctx, a, Some(&[ctx.const_int(1)?]), ctx.bool(2)?)?;
    let indices = TensorType { dtype: DType::I64, dims: dims.clone(), order: None };
    Ok(SmallVec::from_iter([TensorType { dtype: a.dtype, dims, order: None }.into(), Type::from(indices)]))
}

pub(crate) fn any_dim(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let dims = reduced(ctx, a, Some(&[ctx.const_int(1)?]), ctx.bool(2)?)?;
    one(TensorType { dtype: DType::Bool, dims, order: None })
}

pub(crate) fn any_all(ctx: &InferCtx<'_>) -> InferResult {
    ctx.tensor(0)?;
    one(TensorType::new(DType::Bool, []))
}

pub(crate) fn softmax(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    ctx.dim(ctx.const_int(1)?, a.rank())?;
    let dtype = if ctx.bool(2)? { DType::F32 } else { a.dtype };
    if !dtype.is_float() {
        return ctx.fail(format!("expected a float tensor, found {a}"));
    }
    one(TensorType { dtype, ..a.clone() })
}

pub(crate) fn topk(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let d = ctx.dim(ctx.const_int(2)?, a.rank())?;
    let k = ctx.int(1)?;
    let mut dims = a.dims.clone();
    if let Some(size) = dims.get_mut(d) {
        if k.min(ctx.symbols) < 0 || k.min(ctx.symbols) > size.max(ctx.symbols) {
            return ctx.fail(format!("k is {k} for a dimension of {size}"));
        }
        *size = k;
    }
    let indices = TensorType { dtype: DType::I64, dims: dims.clone(), order: None };
    Ok(SmallVec::from_iter([TensorType { dtype: a.dtype, dims, order: None }.into(), Type::from(indices)]))
}

pub(crate) fn cumsum(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    ctx.dim(ctx.const_int(1)?, a.rank())?;
    let own = if a.dtype.is_float() { a.dtype } else { DType::I64 };
    let dtype = match ctx.args.get(2) {
        Some(Arg::DType(d)) => *d,
        _ => own,
    };
    one(TensorType { dtype, ..a.clone() })
}
