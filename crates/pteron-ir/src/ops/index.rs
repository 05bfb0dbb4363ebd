//! Gathering and scattering by index.

use pteron_tensor::DType;

use crate::infer::{InferCtx, InferError, InferResult, one};
use crate::types::{Dims, TensorType};

pub(super) fn require_index(ctx: &InferCtx<'_>, what: &str, t: &TensorType) -> Result<(), InferError> {
    match t.dtype {
        DType::I64 | DType::I32 => Ok(()),
        other => ctx.fail(format!("{what} is {other}, expected i64 or i32")),
    }
}

pub(crate) fn embedding(ctx: &InferCtx<'_>) -> InferResult {
    let (w, i) = (ctx.tensor(0)?, ctx.tensor(1)?);
    require_index(ctx, "indices", i)?;
    if w.rank() != 2 {
        return ctx.fail(format!("weight is {w}, expected a matrix"));
    }
    let mut dims = i.dims.clone();
    dims.push(w.dims[1].clone());
    one(TensorType { dtype: w.dtype, dims, order: None })
}

/// The sizes of `self[indices]`: the broadcast index sizes stand where the first indexed dimension was if the indexed
/// dimensions are neighbours, else in front.
fn indexed_dims(ctx: &InferCtx<'_>) -> Result<Dims, InferError> {
    let a = ctx.tensor(0)?;
    let indices = ctx.tensor_list(1)?;
    if indices.len() > a.rank() {
        return ctx.fail(format!("{} indices for {a}", indices.len()));
    }
    let mut shape: Option<Dims> = None;
    for i in indices.iter().flatten() {
        require_index(ctx, "an index", i)?;
        shape = Some(match shape {
            None => i.dims.clone(),
            Some(s) => ctx.broadcast(&s, &i.dims)?,
        });
    }
    let Some(shape) = shape else { return ctx.fail("no index is given") };
    let used: Vec<usize> = (0..indices.len()).filter(|&d| indices[d].is_some()).collect();
    let neighbours = used.windows(2).all(|w| w[1] == w[0] + 1);
    let at = if neighbours { used[0] } else { 0 };
    let mut dims: Dims = (0..a.rank()).filter(|d| !used.contains(d)).map(|d| a.dims[d].clone()).collect();
    dims.insert_many(at, shape);
    Ok(dims)
}

pub(crate) fn index(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    one(TensorType { dtype: a.dtype, dims: indexed_dims(ctx)?, order: None })
}

pub(crate) fn index_put(ctx: &InferCtx<'_>) -> InferResult {
    let (a, values) = (ctx.tensor(0)?, ctx.tensor(2)?);
    let into = indexed_dims(ctx)?;
    let dims = ctx.broadcast(&values.dims, &into)?;
    let fits = dims.len() == into.len() && dims.iter().zip(&into).all(|(x, y)| x.may_equal(y, ctx.symbols));
    if !fits || values.dtype != a.dtype {
        return ctx.fail(format!("values {values} do not fit the indexed part of {a}"));
    }
    one(a.clone())
}

pub(crate) fn index_select(ctx: &InferCtx<'_>) -> InferResult {
    let (a, i) = (ctx.tensor(0)?, ctx.tensor(2)?);
    require_index(ctx, "index", i)?;
    let d = ctx.dim(ctx.const_int(1)?, a.rank())?;
    let mut dims = a.dims.clone();
    match (dims.get_mut(d), i.rank()) {
        (Some(size), 1) => *size = i.dims[0].clone(),
        (None, _) => {}
        _ => return ctx.fail(format!("index is {i}, expected a vector")),
    }
    one(TensorType { dtype: a.dtype, dims, order: None })
}

pub(crate) fn gather(ctx: &InferCtx<'_>) -> InferResult {
    let (a, i) = (ctx.tensor(0)?, ctx.tensor(2)?);
    require_index(ctx, "index", i)?;
    ctx.dim(ctx.const_int(1)?, a.rank())?;
    if a.rank() != i.rank() {
        return ctx.fail(format!("index {i} and self {a} differ in rank"));
    }
    one(TensorType { dtype: a.dtype, dims: i.dims.clone(), order: None })
}
