//! Matrices, norms, attention, and ExecuTorch's custom operators for language models.

use smallvec::SmallVec;

use crate::infer::{InferCtx, InferError, InferResult, one};
use crate::symint::SymInt;
use crate::types::{TensorType, Type};

fn same_size(ctx: &InferCtx<'_>, what: &str, a: &SymInt, b: &SymInt) -> Result<(), InferError> {
    if a.may_equal(b, ctx.symbols) { Ok(()) } else { ctx.fail(format!("{what}: {a} and {b} differ")) }
}

fn rank(ctx: &InferCtx<'_>, what: &str, t: &TensorType, n: usize) -> Result<(), InferError> {
    if t.rank() == n { Ok(()) } else { ctx.fail(format!("{what} is {t}, expected {n} dimensions")) }
}

pub(crate) fn linear(ctx: &InferCtx<'_>) -> InferResult {
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    rank(ctx, "weight", w, 2)?;
    let Some(inner) = x.dims.last() else { return ctx.fail("input is a scalar tensor") };
    same_size(ctx, &format!("input {x} and weight {w}"), inner, &w.dims[1])?;
    if let Some(b) = ctx.optional_tensor(2)? {
        rank(ctx, "bias", b, 1)?;
        same_size(ctx, &format!("bias {b} and weight {w}"), &b.dims[0], &w.dims[0])?;
    }
    let mut dims = x.dims.clone();
    let last = dims.len() - 1;
    dims[last] = w.dims[0].clone();
    one(TensorType { dtype: x.dtype, dims, order: None })
}

pub(crate) fn mm(ctx: &InferCtx<'_>) -> InferResult {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    rank(ctx, "self", a, 2)?;
    rank(ctx, "mat2", b, 2)?;
    same_size(ctx, &format!("{a} and {b}"), &a.dims[1], &b.dims[0])?;
    one(TensorType::new(a.dtype, [a.dims[0].clone(), b.dims[1].clone()]))
}

pub(crate) fn addmm(ctx: &InferCtx<'_>) -> InferResult {
    let (a, b) = (ctx.tensor(1)?, ctx.tensor(2)?);
    rank(ctx, "mat1", a, 2)?;
    rank(ctx, "mat2", b, 2)?;
    same_size(ctx, &format!("{a} and {b}"), &a.dims[1], &b.dims[0])?;
    let out = TensorType::new(a.dtype, [a.dims[0].clone(), b.dims[1].clone()]);
    ctx.broadcast(&ctx.tensor(0)?.dims, &out.dims)?;
    one(out)
}

pub(crate) fn bmm(ctx: &InferCtx<'_>) -> InferResult {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(1)?);
    rank(ctx, "self", a, 3)?;
    rank(ctx, "mat2", b, 3)?;
    same_size(ctx, &format!("batches of {a} and {b}"), &a.dims[0], &b.dims[0])?;
    same_size(ctx, &format!("{a} and {b}"), &a.dims[2], &b.dims[1])?;
    one(TensorType::new(a.dtype, [a.dims[0].clone(), a.dims[1].clone(), b.dims[2].clone()]))
}

pub(crate) fn convolution(ctx: &InferCtx<'_>) -> InferResult {
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let spatial = w.rank().saturating_sub(2);
    if !(1..=2).contains(&spatial) || x.rank() != w.rank() {
        return ctx.fail(format!("input {x} with weight {w}: expected both of 3 or both of 4 dimensions"));
    }
    if ctx.bool(6)? {
        return ctx.fail("transposed convolution is not supported");
    }
    let per_axis = |i: usize| -> Result<SmallVec<[i64; 2]>, InferError> {
        let v = ctx.const_ints(i)?;
        match v.len() {
            1 => Ok(SmallVec::from_elem(v[0], spatial)),
            n if n == spatial => Ok(SmallVec::from_slice(&v)),
            n => ctx.fail(format!("{n} values for {spatial} spatial dimensions")),
        }
    };
    let (stride, padding, dilation) = (per_axis(3)?, per_axis(4)?, per_axis(5)?);
    let groups = ctx.const_int(8)?;
    if groups < 1 || stride.iter().any(|&s| s < 1) || dilation.iter().any(|&d| d < 1) || padding.iter().any(|&p| p < 0)
    {
        return ctx.fail("groups, stride and dilation must be positive and padding not negative");
    }
    same_size(ctx, &format!("channels of {x} and {w}"), &x.dims[1], &w.dims[1].scale(groups, ctx.symbols))?;
    let mut dims = x.dims.clone();
    dims[1] = w.dims[0].clone();
    for i in 0..spatial {
        let k = w.dims[i + 2].add(&SymInt::Const(-1), ctx.symbols).scale(dilation[i], ctx.symbols);
        let span =
            x.dims[i + 2].add(&SymInt::Const(padding[i].saturating_mul(2) - 1), ctx.symbols).sub(&k, ctx.symbols);
        let Some(q) = span.floor_div(&SymInt::Const(stride[i]), ctx.symbols) else {
            return ctx.fail("the output size is not known");
        };
        dims[i + 2] = q.add(&SymInt::Const(1), ctx.symbols);
    }
    one(TensorType { dtype: x.dtype, dims, order: x.order.clone() })
}

pub(crate) fn native_layer_norm(ctx: &InferCtx<'_>) -> InferResult {
    let x = ctx.tensor(0)?;
    let shape = ctx.ints(1)?;
    let Some(lead) = x.rank().checked_sub(shape.len()) else {
        return ctx.fail(format!("normalized_shape has more dimensions than {x}"));
    };
    for (a, b) in x.dims[lead..].iter().zip(&shape) {
        same_size(ctx, "normalized_shape", a, b)?;
    }
    let stat: TensorType =
        TensorType::new(x.dtype, (0..x.rank()).map(|i| if i < lead { x.dims[i].clone() } else { SymInt::Const(1) }));
    Ok(SmallVec::from_iter([Type::Tensor(x.clone()), stat.clone().into(), stat.into()]))
}

pub(crate) fn upsample_nearest2d(ctx: &InferCtx<'_>) -> InferResult {
    let x = ctx.tensor(0)?;
    rank(ctx, "input", x, 4)?;
    let mut dims = x.dims.clone();
    match (&ctx.args[1], ctx.optional_floats(2)?) {
        (crate::arg::Arg::None, Some([h, w])) => {
            for (i, f) in [(2, *h), (3, *w)] {
                let Some(size) = x.dims[i].as_const() else { return ctx.fail("a dynamic size cannot be scaled") };
                dims[i] = SymInt::Const((size as f64 * f).floor() as i64);
            }
        }
        (_, None) => {
            let size = ctx.ints(1)?;
            if size.len() != 2 {
                return ctx.fail(format!("output_size has {} values, expected 2", size.len()));
            }
            dims[2] = size[0].clone();
            dims[3] = size[1].clone();
        }
        _ => return ctx.fail("either output_size or two scale_factors must be given"),
    }
    one(TensorType { dtype: x.dtype, dims, order: x.order.clone() })
}

pub(crate) fn rms_norm(ctx: &InferCtx<'_>) -> InferResult {
    let x = ctx.tensor(0)?;
    let shape = ctx.ints(1)?;
    let (Some(last), [size]) = (x.dims.last(), shape.as_slice()) else {
        return ctx.fail(format!("normalized_shape must name the last dimension of {x}"));
    };
    same_size(ctx, "normalized_shape", last, size)?;
    if let Some(w) = ctx.optional_tensor(2)? {
        rank(ctx, "weight", w, 1)?;
        same_size(ctx, &format!("weight {w} and input {x}"), &w.dims[0], last)?;
    }
    one(x.clone())
}

pub(crate) fn rope(ctx: &InferCtx<'_>) -> InferResult {
    let (x, cos, sin) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    rank(ctx, "x", x, 4)?;
    for (name, t) in [("cos", cos), ("sin", sin)] {
        rank(ctx, name, t, 2)?;
        same_size(ctx, &format!("positions of {name} {t} and x {x}"), &t.dims[0], &x.dims[1])?;
        same_size(ctx, &format!("pairs of {name} {t} and x {x}"), &t.dims[1].scale(2, ctx.symbols), &x.dims[3])?;
    }
    one(x.clone())
}

pub(crate) fn sdpa(ctx: &InferCtx<'_>) -> InferResult {
    let (q, k, v) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    for (name, t) in [("query", q), ("key", k), ("value", v)] {
        rank(ctx, name, t, 4)?;
    }
    same_size(ctx, &format!("query {q} and key {k}"), &q.dims[3], &k.dims[3])?;
    same_size(ctx, &format!("key {k} and value {v}"), &k.dims[2], &v.dims[2])?;
    if let (false, Some(a), Some(b)) = (ctx.bool(7)?, q.dims[1].as_const(), k.dims[1].as_const())
        && a != b
    {
        return ctx.fail(format!("{a} query heads with {b} key heads need enable_gqa"));
    }
    let mut dims = q.dims.clone();
    dims[3] = v.dims[3].clone();
    one(TensorType { dtype: q.dtype, dims, order: None })
}

fn check_heads(ctx: &InferCtx<'_>, q: &TensorType, k: &TensorType, v: &TensorType) -> Result<(), InferError> {
    for (name, t) in [("query", q), ("key", k), ("value", v)] {
        rank(ctx, name, t, 4)?;
    }
    same_size(ctx, &format!("head size of query {q} and key {k}"), &q.dims[3], &k.dims[3])?;
    same_size(ctx, &format!("positions of key {k} and value {v}"), &k.dims[1], &v.dims[1])?;
    same_size(ctx, &format!("heads of key {k} and value {v}"), &k.dims[2], &v.dims[2])?;
    match (q.dims[2].as_const(), k.dims[2].as_const()) {
        (Some(hq), Some(hk)) if hk < 1 || hq % hk != 0 => {
            ctx.fail(format!("{hq} query heads cannot share {hk} key heads"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn update_cache(ctx: &InferCtx<'_>) -> InferResult {
    let (value, cache) = (ctx.tensor(0)?, ctx.tensor(1)?);
    rank(ctx, "value", value, 4)?;
    rank(ctx, "cache", cache, 4)?;
    for i in [0, 2, 3] {
        same_size(ctx, &format!("value {value} and cache {cache}"), &value.dims[i], &cache.dims[i])?;
    }
    if value.dtype != cache.dtype {
        return ctx.fail(format!("value is {}, the cache is {}", value.dtype, cache.dtype));
    }
    if value.dims[1].min(ctx.symbols) > cache.dims[1].max(ctx.symbols) {
        return ctx.fail(format!("value {value} has more positions than the cache {cache}"));
    }
    ctx.int(2)?;
    let unused = TensorType::fixed(value.dtype, &[1]);
    Ok(SmallVec::from_iter([Type::Tensor(unused), Type::Tensor(cache.clone())]))
}

pub(crate) fn custom_sdpa(ctx: &InferCtx<'_>) -> InferResult {
    let (q, k, v) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    check_heads(ctx, q, k, v)?;
    ctx.int(3)?;
    if ctx.optional_tensor(4)?.is_some() && ctx.bool(6)? {
        return ctx.fail("attn_mask and is_causal exclude each other");
    }
    one(TensorType { dtype: q.dtype, dims: q.dims.clone(), order: None })
}

pub(crate) fn sdpa_with_kv_cache(ctx: &InferCtx<'_>) -> InferResult {
    let (q, k, v) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    let (kc, vc) = (ctx.tensor(3)?, ctx.tensor(4)?);
    check_heads(ctx, q, k, v)?;
    check_heads(ctx, q, kc, vc)?;
    ctx.int(5)?;
    ctx.int(6)?;
    if ctx.optional_tensor(7)?.is_some() && ctx.bool(9)? {
        return ctx.fail("attn_mask and is_causal exclude each other");
    }
    let out = TensorType { dtype: q.dtype, dims: q.dims.clone(), order: None };
    Ok(SmallVec::from_iter([Type::Tensor(out), Type::Tensor(kc.clone()), Type::Tensor(vc.clone())]))
}
