//! Quantization: parameters, codes, operators over codes.

use pteron_tensor::DType;
use smallvec::SmallVec;

use super::index::require_index;
use crate::arg::Arg;
use crate::infer::{InferCtx, InferError, InferResult, ScalarArg, one};
use crate::symint::SymInt;
use crate::types::{Dims, TensorType, Type};

/// Least and largest code of a type that holds codes.
fn code_range(ctx: &InferCtx<'_>, dtype: DType) -> Result<(i64, i64), InferError> {
    Ok(match dtype {
        DType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
        DType::U8 => (0, i64::from(u8::MAX)),
        DType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DType::U16 => (0, i64::from(u16::MAX)),
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        other => return ctx.fail(format!("codes of type {other}, expected i8, u8, i16, u16 or i32")),
    })
}

/// Argument `i`, the type of codes, which holds those of arguments `range` and the next.
fn codes(ctx: &InferCtx<'_>, i: usize, range: usize) -> Result<DType, InferError> {
    let Some(dtype) = ctx.optional_dtype(i)? else { return ctx.fail("the codes have no dtype") };
    let (lo, hi) = code_range(ctx, dtype)?;
    let (qmin, qmax) = (ctx.const_int(range)?, ctx.const_int(range + 1)?);
    if qmin < lo || qmax > hi || qmin > qmax {
        return ctx.fail(format!("codes {qmin} to {qmax} do not fit {dtype}, {lo} to {hi}"));
    }
    Ok(dtype)
}

/// Argument `i`, codes of the dtype that argument `dtype` says; 4-bit codes are said to be i8.
fn coded<'a>(ctx: &InferCtx<'a>, i: usize, dtype: usize) -> Result<&'a TensorType, InferError> {
    let (t, said) = (ctx.tensor(i)?, ctx.optional_dtype(dtype)?);
    if t.dtype == DType::I4 && said == Some(DType::I8) {
        return Ok(t);
    }
    code_range(ctx, t.dtype)?;
    match said {
        Some(said) if said != t.dtype => ctx.fail(format!("the input is {}, dtype says {said}", t.dtype)),
        _ => Ok(t),
    }
}

fn real<'a>(ctx: &InferCtx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let x = ctx.tensor(i)?;
    match x.dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(x),
        other => ctx.fail(format!("the input is {other}, expected f32, f16 or bf16")),
    }
}

fn f32_input<'a>(ctx: &InferCtx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let x = ctx.tensor(i)?;
    if x.dtype == DType::F32 { Ok(x) } else { ctx.fail(format!("the input is {}, expected f32", x.dtype)) }
}

/// The type of real numbers: argument `i`, f32 by default.
fn reals(ctx: &InferCtx<'_>, i: usize) -> Result<DType, InferError> {
    match ctx.optional_dtype(i)?.unwrap_or(DType::F32) {
        d @ (DType::F32 | DType::F16 | DType::BF16) => Ok(d),
        other => ctx.fail(format!("the result would be {other}, expected f32, f16 or bf16")),
    }
}

fn scales<'a>(ctx: &InferCtx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let s = ctx.tensor(i)?;
    match s.dtype {
        DType::F32 | DType::F64 => Ok(s),
        other => ctx.fail(format!("the scales are {other}, expected f32 or f64")),
    }
}

fn zero_points(ctx: &InferCtx<'_>, i: usize) -> Result<(), InferError> {
    match ctx.optional_tensor(i)? {
        Some(t) if matches!(t.dtype, DType::Bool | DType::F16 | DType::BF16 | DType::I4) => {
            ctx.fail(format!("the zero points are {}, expected ints, f32 or f64", t.dtype))
        }
        _ => Ok(()),
    }
}

fn same_number(ctx: &InferCtx<'_>, what: &str, a: &SymInt, b: &SymInt) -> Result<(), InferError> {
    if a.may_equal(b, ctx.symbols) { Ok(()) } else { ctx.fail(format!("{a} {what} for {b}")) }
}

/// As many scales (argument `i`) and zero points (the next) as `n`.
fn params(ctx: &InferCtx<'_>, i: usize, n: &SymInt) -> Result<(), InferError> {
    same_number(ctx, "scales", &scales(ctx, i)?.numel(ctx.symbols), n)?;
    zero_points(ctx, i + 1)?;
    match ctx.optional_tensor(i + 1)? {
        Some(z) => same_number(ctx, "zero points", &z.numel(ctx.symbols), n),
        None => Ok(()),
    }
}

fn with_dtype(t: &TensorType, dtype: DType) -> InferResult {
    one(TensorType { dtype, ..t.clone() })
}

fn two(a: TensorType, b: TensorType) -> InferResult {
    Ok(SmallVec::from_iter([Type::Tensor(a), Type::Tensor(b)]))
}

pub(crate) fn quantize_per_tensor(ctx: &InferCtx<'_>) -> InferResult {
    ctx.scalar(1)?;
    ctx.int(2)?;
    with_dtype(real(ctx, 0)?, codes(ctx, 5, 3)?)
}

pub(crate) fn quantize_per_tensor_tensor(ctx: &InferCtx<'_>) -> InferResult {
    params(ctx, 1, &SymInt::Const(1))?;
    with_dtype(real(ctx, 0)?, codes(ctx, 5, 3)?)
}

/// One known number, or a tensor of one.
fn one_number(ctx: &InferCtx<'_>, i: usize) -> Result<(), InferError> {
    same_number(ctx, "numbers", &ctx.tensor(i)?.numel(ctx.symbols), &SymInt::Const(1))
}

pub(crate) fn quantize_per_tensor_tensor2(ctx: &InferCtx<'_>) -> InferResult {
    params(ctx, 1, &SymInt::Const(1))?;
    one_number(ctx, 3)?;
    one_number(ctx, 4)?;
    let Some(dtype) = ctx.optional_dtype(5)? else { return ctx.fail("the codes have no dtype") };
    code_range(ctx, dtype)?;
    with_dtype(real(ctx, 0)?, dtype)
}

pub(crate) fn dequantize_per_tensor(ctx: &InferCtx<'_>) -> InferResult {
    ctx.scalar(1)?;
    ctx.int(2)?;
    with_dtype(coded(ctx, 0, 5)?, reals(ctx, 6)?)
}

pub(crate) fn dequantize_per_tensor_tensor(ctx: &InferCtx<'_>) -> InferResult {
    params(ctx, 1, &SymInt::Const(1))?;
    with_dtype(coded(ctx, 0, 5)?, reals(ctx, 6)?)
}

pub(crate) fn quantize_per_channel(ctx: &InferCtx<'_>) -> InferResult {
    let x = real(ctx, 0)?;
    params(ctx, 1, &x.dims[axis(ctx, x)?])?;
    with_dtype(x, codes(ctx, 6, 4)?)
}

/// Argument 3, a dimension of `x`.
fn axis(ctx: &InferCtx<'_>, x: &TensorType) -> Result<usize, InferError> {
    if x.rank() == 0 {
        return ctx.fail("a tensor without dimensions has no channels");
    }
    ctx.dim(ctx.const_int(3)?, x.rank())
}

pub(crate) fn dequantize_per_channel(ctx: &InferCtx<'_>) -> InferResult {
    let x = coded(ctx, 0, 6)?;
    params(ctx, 1, &x.dims[axis(ctx, x)?])?;
    with_dtype(x, reals(ctx, 7)?)
}

pub(crate) fn fake_quant_per_channel(ctx: &InferCtx<'_>) -> InferResult {
    let x = f32_input(ctx, 0)?;
    params(ctx, 1, &x.dims[axis(ctx, x)?])?;
    one(x.clone())
}

/// Number of rows of the last dimension.
fn tokens(ctx: &InferCtx<'_>, x: &TensorType) -> Result<SymInt, InferError> {
    let Some((_, lead)) = x.dims.split_last() else { return ctx.fail("a tensor without dimensions has no tokens") };
    Ok(lead.iter().fold(SymInt::Const(1), |n, d| n.mul(d, ctx.symbols)))
}

pub(crate) fn quantize_per_token(ctx: &InferCtx<'_>) -> InferResult {
    let x = real(ctx, 0)?;
    params(ctx, 1, &tokens(ctx, x)?)?;
    with_dtype(x, codes(ctx, 5, 3)?)
}

pub(crate) fn dequantize_per_token(ctx: &InferCtx<'_>) -> InferResult {
    let x = coded(ctx, 0, 5)?;
    params(ctx, 1, &tokens(ctx, x)?)?;
    with_dtype(x, reals(ctx, 6)?)
}

/// Checks scales and zero points of a matrix whose rows are cut into groups of argument `group`.
fn groups(ctx: &InferCtx<'_>, x: &TensorType, group: usize) -> Result<(), InferError> {
    let [rows, width] = &x.dims[..] else { return ctx.fail(format!("the input is {x}, expected a matrix")) };
    let group = ctx.const_int(group)?;
    let (s, z) = (scales(ctx, 1)?, zero_points(ctx, 2));
    z?;
    let group = match (width.as_const(), s.dims.last().and_then(SymInt::as_const)) {
        (Some(w), Some(1)) if group > w => w,
        _ => group,
    };
    if group <= 1 || width.as_const().is_some_and(|w| w % group != 0) {
        return ctx.fail(format!("group_size {group} must be above 1 and divide {width}"));
    }
    match width.floor_div(&SymInt::Const(group), ctx.symbols) {
        Some(n) => params(ctx, 1, &rows.mul(&n, ctx.symbols)),
        None => Ok(()),
    }
}

pub(crate) fn quantize_per_channel_group(ctx: &InferCtx<'_>) -> InferResult {
    let x = real(ctx, 0)?;
    groups(ctx, x, 6)?;
    with_dtype(x, codes(ctx, 5, 3)?)
}

pub(crate) fn dequantize_per_channel_group(ctx: &InferCtx<'_>) -> InferResult {
    let x = coded(ctx, 0, 5)?;
    groups(ctx, x, 6)?;
    with_dtype(x, reals(ctx, 7)?)
}

pub(crate) fn choose_qparams(ctx: &InferCtx<'_>) -> InferResult {
    f32_input(ctx, 0)?;
    codes(ctx, 4, 1)?;
    if ctx.const_int(1)? >= ctx.const_int(2)? {
        return ctx.fail("quant_min must be below quant_max");
    }
    ctx.scalar(3)?;
    two(TensorType::fixed(DType::F64, &[1]), TensorType::fixed(DType::I64, &[1]))
}

/// The sizes of argument 0, but 1 at the end.
fn per_token(ctx: &InferCtx<'_>) -> Result<Dims, InferError> {
    let x = f32_input(ctx, 0)?;
    tokens(ctx, x)?;
    if ctx.optional_dtype(1)? != Some(DType::I8) {
        return ctx.fail("only codes of type i8 are chosen per token");
    }
    let mut dims = x.dims.clone();
    if let Some(last) = dims.last_mut() {
        *last = SymInt::Const(1);
    }
    Ok(dims)
}

pub(crate) fn choose_qparams_per_token_asymmetric(ctx: &InferCtx<'_>) -> InferResult {
    let dims = per_token(ctx)?;
    two(TensorType::new(DType::F64, dims.clone()), TensorType::new(DType::I64, dims))
}

/// PyTorch's eager operator gives f32 for both.
pub(crate) fn choose_qparams_per_token(ctx: &InferCtx<'_>) -> InferResult {
    let dims = per_token(ctx)?;
    two(TensorType::new(DType::F32, dims.clone()), TensorType::new(DType::F32, dims))
}

/// Blocks of argument `i` along each dimension of `x`.
fn blocks(ctx: &InferCtx<'_>, x: &TensorType, i: usize) -> Result<Dims, InferError> {
    let block = ctx.ints(i)?;
    if block.len() != x.rank() {
        return ctx.fail(format!("{} block sizes for {x}", block.len()));
    }
    x.dims
        .iter()
        .zip(&block)
        .map(|(size, b)| match (size.as_const(), b.as_const()) {
            _ if size == b => Ok(SymInt::Const(1)),
            (Some(s), Some(b)) if b > 0 && s % b == 0 => Ok(SymInt::Const(s / b)),
            (None, Some(1)) => Ok(size.clone()),
            _ => ctx.fail(format!("a block of {b} does not divide {size}")),
        })
        .collect()
}

fn known_number(ctx: &InferCtx<'_>, i: usize) -> Result<Option<i64>, InferError> {
    if matches!(ctx.args.get(i), Some(Arg::None)) {
        return Ok(None);
    }
    match ctx.scalar(i)? {
        ScalarArg::Int(v) => Ok(v.as_const()),
        ScalarArg::Float(v) => Ok(v.map(|f| f as i64)),
        ScalarArg::Bool(_) => ctx.fail("a code is a bool, expected a number"),
    }
}

/// The dtype of argument `i`, which holds the codes of arguments `range` and the next; they are its own by default.
fn codes_or_all(ctx: &InferCtx<'_>, i: usize, range: usize) -> Result<DType, InferError> {
    let Some(dtype) = ctx.optional_dtype(i)? else { return ctx.fail("the codes have no dtype") };
    let (lo, hi) = code_range(ctx, dtype)?;
    let (qmin, qmax) = (known_number(ctx, range)?.unwrap_or(lo), known_number(ctx, range + 1)?.unwrap_or(hi));
    if qmin < lo || qmax > hi || qmin > qmax {
        return ctx.fail(format!("codes {qmin} to {qmax} do not fit {dtype}, {lo} to {hi}"));
    }
    Ok(dtype)
}

fn product(dims: &[SymInt], ctx: &InferCtx<'_>) -> SymInt {
    dims.iter().fold(SymInt::Const(1), |n, d| n.mul(d, ctx.symbols))
}

pub(crate) fn choose_qparams_affine(ctx: &InferCtx<'_>) -> InferResult {
    let x = f32_input(ctx, 0)?;
    match ctx.args.get(1) {
        Some(Arg::Str(s)) if matches!(s.as_ref(), "SYMMETRIC" | "SYMMETRIC_NO_CLIPPING_ERR" | "ASYMMETRIC") => {}
        _ => return ctx.fail("mapping_type must be SYMMETRIC, SYMMETRIC_NO_CLIPPING_ERR or ASYMMETRIC"),
    }
    let counts = blocks(ctx, x, 2)?;
    codes_or_all(ctx, 3, 4)?;
    let scale = ctx.optional_dtype(7)?.unwrap_or(DType::F32);
    let zero_point = match (ctx.optional_dtype(8)?, &ctx.args[1]) {
        (Some(d), _) => d,
        (None, Arg::Str(s)) if s.as_ref() == "ASYMMETRIC" => DType::I32,
        // A tensor like the scales, filled with the middle of the codes.
        (None, _) => DType::F32,
    };
    if !matches!(scale, DType::F32 | DType::F64) || matches!(zero_point, DType::Bool | DType::I4) {
        return ctx.fail(format!("scales of {scale} and zero points of {zero_point} are not computed"));
    }
    let dims: Dims = if ctx.bool(9)? {
        counts
    } else {
        // `torch.amin` over the dimensions inside blocks: those of block size 1 and the counts of split ones stay.
        let block = ctx.ints(2)?;
        let kept =
            |(i, c): (usize, &SymInt)| (block[i] != x.dims[i] || block[i] == SymInt::Const(1)).then(|| c.clone());
        counts.iter().enumerate().filter_map(kept).collect()
    };
    two(TensorType::new(scale, dims.clone()), TensorType::new(zero_point, dims))
}

pub(crate) fn quantize_affine(ctx: &InferCtx<'_>) -> InferResult {
    let x = real(ctx, 0)?;
    params(ctx, 2, &product(&blocks(ctx, x, 1)?, ctx))?;
    with_dtype(x, codes_or_all(ctx, 4, 5)?)
}

pub(crate) fn dequantize_affine(ctx: &InferCtx<'_>) -> InferResult {
    let x = coded(ctx, 0, 4)?;
    params(ctx, 2, &product(&blocks(ctx, x, 1)?, ctx))?;
    with_dtype(x, reals(ctx, 7)?)
}

pub(crate) fn convert_qd8(ctx: &InferCtx<'_>) -> InferResult {
    let x = f32_input(ctx, 0)?;
    let inner = ctx.const_int(1)?;
    let lead = usize::try_from(inner).ok().filter(|&n| n >= 1).and_then(|n| x.rank().checked_sub(n));
    let Some(lead) = lead else { return ctx.fail(format!("num_nonbatch_dims is {inner} for {x}")) };
    let mut dims = x.dims.clone();
    dims.iter_mut().skip(lead).for_each(|d| *d = SymInt::Const(1));
    let outputs = [
        TensorType::new(DType::I8, x.dims.clone()),
        TensorType::new(DType::F32, dims.clone()),
        TensorType::new(DType::I32, dims),
    ];
    Ok(outputs.into_iter().map(Type::Tensor).collect())
}

pub(crate) fn convert_element_type(ctx: &InferCtx<'_>) -> InferResult {
    let x = ctx.tensor(0)?;
    with_dtype(x, ctx.optional_dtype(1)?.unwrap_or(x.dtype))
}

/// A table of codes, `per_byte` in a byte, looked up; the type of the result is argument 6, if the operator has it, else
/// that of the scales.
fn embedding(ctx: &InferCtx<'_>, per_byte: i64) -> InferResult {
    let (table, s, indices) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(5)?);
    require_index(ctx, "indices", indices)?;
    let [rows, packed] = &table.dims[..] else { return ctx.fail(format!("the table is {table}, expected a matrix")) };
    if table.dtype != DType::U8 && (per_byte > 1 || table.dtype != DType::I8) {
        return ctx.fail(format!("the table is {}, expected u8", table.dtype));
    }
    let fits = match &s.dims[..] {
        [n] | [n, _] => n.may_equal(rows, ctx.symbols),
        _ => false,
    };
    if !fits || !matches!(s.dtype, DType::F32 | DType::F16 | DType::BF16) {
        return ctx.fail(format!("scales {s} for a table {table}: expected floats, one or a list for each row"));
    }
    let width = packed.scale(per_byte, ctx.symbols);
    if let (Some(w), Some(g)) = (width.as_const(), s.dims.get(1).and_then(SymInt::as_const))
        && (g < 1 || w % g != 0)
    {
        return ctx.fail(format!("{g} groups do not divide {w} columns"));
    }
    let dtype = match ctx.args.len() {
        7.. => ctx.optional_dtype(6)?.unwrap_or(s.dtype),
        _ => s.dtype,
    };
    if let Some(z) = ctx.optional_tensor(2)? {
        let same = z.rank() == s.rank() && z.dims.iter().zip(&s.dims).all(|(a, b)| a.may_equal(b, ctx.symbols));
        if !same || !matches!(z.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return ctx.fail(format!("zero points {z}: expected floats of the sizes of the scales {s}"));
        }
    }
    ctx.const_int(3)?;
    ctx.const_int(4)?;
    let mut dims = indices.dims.clone();
    dims.push(width);
    one(TensorType::new(dtype, dims))
}

pub(crate) fn embedding_byte(ctx: &InferCtx<'_>) -> InferResult {
    embedding(ctx, 1)
}

pub(crate) fn embedding_4bit(ctx: &InferCtx<'_>) -> InferResult {
    embedding(ctx, 2)
}

pub(crate) fn embedding_2bit(ctx: &InferCtx<'_>) -> InferResult {
    embedding(ctx, 4)
}

pub(crate) fn add(ctx: &InferCtx<'_>) -> InferResult {
    let (a, b) = (ctx.tensor(0)?, ctx.tensor(5)?);
    code_range(ctx, a.dtype)?;
    let same = a.rank() == b.rank() && a.dims.iter().zip(&b.dims).all(|(x, y)| x.may_equal(y, ctx.symbols));
    if a.dtype != b.dtype || !same {
        return ctx.fail(format!("{a} and {b}: expected the same type"));
    }
    one(a.clone())
}

fn mixed(ctx: &InferCtx<'_>, transposed: bool) -> InferResult {
    let (x, w) = (ctx.tensor(0)?, ctx.tensor(1)?);
    let ([m, k], [a, b]) = (&x.dims[..], &w.dims[..]) else {
        return ctx.fail(format!("{x} and {w}: expected two matrices"));
    };
    let (inner, n) = if transposed { (b, a) } else { (a, b) };
    same_number(ctx, "columns", k, inner)?;
    if w.dtype != DType::I8 || !matches!(x.dtype, DType::F32 | DType::F16) {
        return ctx.fail(format!("{x} and {w}: expected f32 or f16, and i8"));
    }
    let dtype = if transposed { ctx.optional_dtype(4)?.unwrap_or(x.dtype) } else { x.dtype };
    one(TensorType::new(dtype, [m.clone(), n.clone()]))
}

pub(crate) fn mixed_mm(ctx: &InferCtx<'_>) -> InferResult {
    mixed(ctx, false)
}

pub(crate) fn mixed_linear(ctx: &InferCtx<'_>) -> InferResult {
    mixed(ctx, true)
}

pub(crate) fn hadamard(ctx: &InferCtx<'_>) -> InferResult {
    let x = ctx.tensor(0)?;
    if !matches!(x.dtype, DType::F32 | DType::F16) {
        return ctx.fail(format!("the input is {}, expected f32 or f16", x.dtype));
    }
    if let Some(n) = x.dims.last().and_then(SymInt::as_const)
        && !(n > 0 && (if n % 28 == 0 { n / 28 } else { n }).unsigned_abs().is_power_of_two())
    {
        return ctx.fail(format!("rows of {n} elements: expected 2^k or 28·2^k"));
    }
    one(x.clone())
}

pub(crate) fn quantized_sdpa(ctx: &InferCtx<'_>) -> InferResult {
    let (q, k, v) = (ctx.tensor(0)?, ctx.tensor(1)?, ctx.tensor(2)?);
    for (name, t) in [("query", q), ("key", k), ("value", v)] {
        if t.rank() != 4 || t.dtype != DType::I8 {
            return ctx.fail(format!("{name} is {t}, expected i8 of rank 4"));
        }
    }
    ctx.int(3)?;
    if ctx.optional_tensor(4)?.is_some() && ctx.bool(6)? {
        return ctx.fail("attn_mask and is_causal exclude each other");
    }
    for i in [8, 10, 12] {
        let (z, s) = (ctx.tensor(i)?, ctx.tensor(i + 1)?);
        if z.dtype != DType::I8 || s.dtype != DType::F32 || z.rank() != 4 || s.rank() != 4 {
            return ctx.fail(format!("zero points {z} and scales {s}: expected i8 and f32 of rank 4"));
        }
    }
    ctx.bool(14)?;
    one(TensorType::new(DType::F32, q.dims.clone()))
}

pub(crate) fn update_cache_with_indices(ctx: &InferCtx<'_>) -> InferResult {
    let indices = ctx.tensor(3)?;
    if indices.dtype != DType::I64 || indices.rank() != 2 {
        return ctx.fail(format!("indices are {indices}, expected i64 of rank 2"));
    }
    super::nn::update_cache(ctx)
}

/// One number of f32, a flag.
fn flag(ctx: &InferCtx<'_>, i: usize) -> Result<(), InferError> {
    match ctx.optional_tensor(i)? {
        Some(t) if t.dtype != DType::F32 => ctx.fail(format!("the flag is {t}, expected one f32")),
        Some(_) => one_number(ctx, i),
        None => Ok(()),
    }
}

pub(crate) fn observe_qparams(ctx: &InferCtx<'_>) -> InferResult {
    f32_input(ctx, 0)?;
    let range = f32_input(ctx, 1)?;
    same_number(ctx, "numbers of a range", &range.numel(ctx.symbols), &SymInt::Const(2))?;
    flag(ctx, 2)?;
    if ctx.const_int(4)? >= ctx.const_int(5)? {
        return ctx.fail("quant_min is not below quant_max");
    }
    let one = || TensorType::new(DType::F32, [SymInt::Const(1)]);
    Ok(SmallVec::from_iter([range.clone().into(), Type::Tensor(one()), Type::Tensor(one())]))
}

/// Scales, zero points, block sizes, codes and flag of a fake quantization of argument `i`, which they follow.
fn faked<'a>(ctx: &InferCtx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let x = f32_input(ctx, i)?;
    params(ctx, i + 1, &product(&blocks(ctx, x, i + 3)?, ctx))?;
    if ctx.const_int(i + 4)? >= ctx.const_int(i + 5)? {
        return ctx.fail("quant_min is not below quant_max");
    }
    flag(ctx, i + 6)?;
    Ok(x)
}

pub(crate) fn fake_quantize(ctx: &InferCtx<'_>) -> InferResult {
    one(faked(ctx, 0)?.clone())
}

pub(crate) fn fake_quantize_backward(ctx: &InferCtx<'_>) -> InferResult {
    f32_input(ctx, 0)?;
    one(faked(ctx, 1)?.clone())
}

pub(crate) fn fake_quantize_params_backward(ctx: &InferCtx<'_>) -> InferResult {
    f32_input(ctx, 0)?;
    faked(ctx, 1)?;
    let like = |i: usize| Ok::<_, InferError>(TensorType { dtype: DType::F32, ..ctx.tensor(i)?.clone() });
    two(like(2)?, like(3)?)
}
