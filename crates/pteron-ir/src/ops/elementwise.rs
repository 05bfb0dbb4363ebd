//! Element by element: arithmetic, comparison, conversion, filling.

use pteron_tensor::{DType, DimOrder, contiguous_order};

use crate::infer::{InferCtx, InferError, InferResult, ScalarArg, one};
use crate::symint::SymInt;
use crate::types::{Dims, TensorType};

/// PyTorch's result type of two tensors: within a category, a tensor with dimensions decides over one without.
fn promote(a: &TensorType, b: &TensorType) -> DType {
    let category = |d: DType| if d.is_float() { 2 } else { i32::from(d != DType::Bool) };
    let (x, y) = (category(a.dtype), category(b.dtype));
    match (a.rank() == 0, b.rank() == 0) {
        (true, false) if x <= y => b.dtype,
        (false, true) if y <= x => a.dtype,
        _ => DType::promote(a.dtype, b.dtype),
    }
}

/// PyTorch's result type of a tensor and a scalar: the scalar matters only if its category is higher.
fn promote_scalar(a: &TensorType, s: &ScalarArg) -> DType {
    match s {
        ScalarArg::Float(_) if !a.dtype.is_float() => DType::F32,
        ScalarArg::Int(_) if a.dtype == DType::Bool => DType::I64,
        _ => a.dtype,
    }
}

/// The memory order of a result: the common one of operands of the same rank, else row-major.
fn order_of(a: &TensorType, b: &TensorType, rank: usize) -> Option<DimOrder> {
    let full = |t: &TensorType| t.rank() == rank;
    match (full(a), full(b)) {
        (true, true) if a.dim_order() == b.dim_order() => a.order.clone(),
        (true, false) => a.order.clone(),
        (false, true) => b.order.clone(),
        _ => None,
    }
}

fn binary(ctx: &InferCtx<'_>, dtype: impl Fn(&TensorType, &TensorType) -> DType) -> InferResult {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dims = ctx.broadcast(&a.dims, &b.dims)?;
    let order = order_of(a, b, dims.len());
    one(TensorType { dtype: dtype(a, b), dims, order })
}

fn with_dtype(a: &TensorType, dtype: DType) -> TensorType {
    TensorType { dtype, ..a.clone() }
}

pub(crate) fn arithmetic(ctx: &InferCtx<'_>) -> InferResult {
    binary(ctx, promote)
}

pub(crate) fn arithmetic_scalar(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    one(with_dtype(a, promote_scalar(a, &ctx.scalar(1)?)))
}

fn float_of(d: DType) -> DType {
    if d.is_float() { d } else { DType::F32 }
}

pub(crate) fn true_division(ctx: &InferCtx<'_>) -> InferResult {
    binary(ctx, |a, b| float_of(promote(a, b)))
}

pub(crate) fn true_division_scalar(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    ctx.scalar(1)?;
    one(with_dtype(a, float_of(a.dtype)))
}

pub(crate) fn division_with_mode(ctx: &InferCtx<'_>) -> InferResult {
    match ctx.args.get(2) {
        Some(crate::arg::Arg::None) => true_division(ctx),
        Some(crate::arg::Arg::Str(s)) if matches!(s.as_ref(), "floor" | "trunc") => arithmetic(ctx),
        _ => ctx.fail("rounding_mode must be None, \"floor\" or \"trunc\""),
    }
}

pub(crate) fn comparison(ctx: &InferCtx<'_>) -> InferResult {
    binary(ctx, |_, _| DType::Bool)
}

pub(crate) fn predicate(ctx: &InferCtx<'_>) -> InferResult {
    one(with_dtype(ctx.tensor(0)?, DType::Bool))
}

pub(crate) fn select_by_condition(ctx: &InferCtx<'_>) -> InferResult {
    let (c, a, b) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    if !matches!(c.dtype, DType::Bool | DType::U8) {
        return ctx.fail(format!("condition is {}, expected bool", c.dtype));
    }
    let dims = ctx.broadcast(&c.dims, &ctx.broadcast(&a.dims, &b.dims)?)?;
    one(TensorType { dtype: promote(a, b), dims, order: None })
}

pub(crate) fn clamp(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let mut dtype = a.dtype;
    for i in [1, 2] {
        if !matches!(ctx.args[i], crate::arg::Arg::None) {
            dtype = promote_scalar(&with_dtype(a, dtype), &ctx.scalar(i)?);
        }
    }
    one(with_dtype(a, dtype))
}

pub(crate) fn same(ctx: &InferCtx<'_>) -> InferResult {
    one(ctx.tensor(0)?.clone())
}

/// The same type, which must be a float.
pub(crate) fn same_float(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    if a.dtype.is_float() { one(a.clone()) } else { ctx.fail(format!("expected a float tensor, found {a}")) }
}

pub(crate) fn to_float(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    one(with_dtype(a, float_of(a.dtype)))
}

fn scalar_dtype(s: &ScalarArg) -> DType {
    match s {
        ScalarArg::Int(_) => DType::I64,
        ScalarArg::Float(_) => DType::F32,
        ScalarArg::Bool(_) => DType::Bool,
    }
}

pub(crate) fn full(ctx: &InferCtx<'_>) -> InferResult {
    let dtype = ctx.optional_dtype(2)?.unwrap_or(scalar_dtype(&ctx.scalar(1)?));
    one(TensorType::new(dtype, ctx.ints(0)?))
}

pub(crate) fn full_like(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    ctx.scalar(1)?;
    one(with_dtype(a, ctx.optional_dtype(2)?.unwrap_or(a.dtype)))
}

pub(crate) fn scalar_tensor(ctx: &InferCtx<'_>) -> InferResult {
    let s = ctx.scalar(0)?;
    let dtype = ctx.optional_dtype(1)?.unwrap_or(match s {
        ScalarArg::Int(_) => DType::F32,
        ref other => scalar_dtype(other),
    });
    one(TensorType::new(dtype, []))
}

pub(crate) fn arange(ctx: &InferCtx<'_>) -> InferResult {
    let (start, end, step) = (ctx.scalar(0)?, ctx.scalar(1)?, ctx.scalar(2)?);
    let count = match (&start, &end, &step) {
        (ScalarArg::Int(a), ScalarArg::Int(b), ScalarArg::Int(SymInt::Const(k))) if *k > 0 => {
            let up = b.sub(a, ctx.symbols).add(&SymInt::Const(k.saturating_sub(1)), ctx.symbols);
            up.floor_div(&SymInt::Const(*k), ctx.symbols)
        }
        (ScalarArg::Int(SymInt::Const(a)), ScalarArg::Int(SymInt::Const(b)), ScalarArg::Int(SymInt::Const(k)))
            if *k < 0 =>
        {
            let down = k.saturating_neg();
            let span = a.saturating_sub(*b).saturating_add(down - 1);
            Some(SymInt::Const(span / down))
        }
        _ => {
            let value = |s: &ScalarArg| match s {
                ScalarArg::Int(SymInt::Const(c)) => Some(*c as f64),
                ScalarArg::Float(f) => *f,
                _ => None,
            };
            match (value(&start), value(&end), value(&step)) {
                (Some(a), Some(b), Some(k)) if k != 0.0 => Some(SymInt::Const(((b - a) / k).ceil() as i64)),
                _ => None,
            }
        }
    };
    let Some(count) = count else {
        return ctx.fail("start, end and step do not give a known number of elements");
    };
    // Of sizes that are known within bounds only, some calls may fit: each is checked when it is made.
    let count = match (count.min(ctx.symbols), count.max(ctx.symbols)) {
        (_, ..0) => return ctx.fail("end lies before start"),
        (..0, max) => SymInt::Unknown { min: 0, max },
        _ => count,
    };
    let any_float = [&start, &end, &step].iter().any(|s| matches!(s, ScalarArg::Float(_)));
    let dtype = ctx.optional_dtype(3)?.unwrap_or(if any_float { DType::F32 } else { DType::I64 });
    one(TensorType::new(dtype, [count]))
}

pub(crate) fn to_copy(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    one(with_dtype(a, ctx.optional_dtype(1)?.unwrap_or(a.dtype)))
}

pub(crate) fn clone(ctx: &InferCtx<'_>) -> InferResult {
    one(ctx.tensor(0)?.clone())
}

/// The `dim_order` argument `i`: a permutation, or the input's own order for `None`.
fn requested_order(ctx: &InferCtx<'_>, i: usize, a: &TensorType) -> Result<Option<DimOrder>, InferError> {
    let Some(order) = ctx.optional_const_ints(i)? else { return Ok(a.order.clone()) };
    let rank = a.rank();
    let valid = order.len() == rank && (0..rank).all(|d| order.contains(&(d as i64)));
    if !valid {
        return ctx.fail(format!("dim_order {order:?} is not a permutation of 0..{rank}"));
    }
    let order: DimOrder = order.iter().map(|&d| u8::try_from(d).unwrap_or(u8::MAX)).collect();
    Ok((order != contiguous_order(rank)).then_some(order))
}

pub(crate) fn to_dim_order_copy(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let dtype = ctx.optional_dtype(1)?.unwrap_or(a.dtype);
    one(TensorType { dtype, dims: a.dims.clone(), order: requested_order(ctx, 3, a)? })
}

pub(crate) fn clone_dim_order(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    one(TensorType { dtype: a.dtype, dims: a.dims.clone(), order: requested_order(ctx, 2, a)? })
}

pub(crate) fn copy_into(ctx: &InferCtx<'_>) -> InferResult {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let dims: Dims = ctx.broadcast(&a.dims, &b.dims)?;
    if dims.len() != a.rank() || !dims.iter().zip(&a.dims).all(|(x, y)| x.may_equal(y, ctx.symbols)) {
        return ctx.fail(format!("src {b} does not broadcast to self {a}"));
    }
    one(a.clone())
}
