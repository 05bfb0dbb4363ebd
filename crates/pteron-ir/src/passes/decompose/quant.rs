//! Quantization: operators that ExecuTorch's runtime lacks, where others compute the same numbers.

use pteron_tensor::DType;
use smallvec::SmallVec;

use super::{Emitted, Trouble, bool_arg, optional_tensor, tensor, unsupported};
use crate::arg::Arg;
use crate::args;
use crate::entity::ValueId;
use crate::graph::Node;
use crate::infer::InferError;
use crate::op::Op;
use crate::passes::rewrite::{Emitter, Size};
use crate::symint::SymInt;
use crate::types::Type;

/// Codes and zero points below this are whole in f32, so that it does not matter whether they are subtracted as ints.
const WHOLE_IN_F32: i64 = 1 << 24;

fn int(node: &Node, i: usize, name: &str) -> Result<i64, Trouble> {
    match node.args.get(i) {
        Some(Arg::Int(v)) => Ok(*v),
        _ => unsupported(format!("`{name}` is not a known int")),
    }
}

fn dtype(node: &Node, i: usize) -> Option<DType> {
    match node.args.get(i) {
        Some(Arg::DType(d)) => Some(*d),
        _ => None,
    }
}

/// Least and largest code: arguments `i` and the next, by default those of the codes' type.
fn codes(node: &Node, i: usize, of: DType) -> Result<(i64, i64), Trouble> {
    let (lo, hi) = match of {
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::I16 => (-32768, 32767),
        DType::U16 => (0, 65535),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    };
    let known = |i: usize, default: i64| match node.args.get(i) {
        Some(Arg::Int(v)) => Ok(*v),
        Some(Arg::Float(v)) if v.fract() == 0.0 => Ok(*v as i64),
        Some(Arg::None) | None => Ok(default),
        _ => unsupported("the range of codes is not known"),
    };
    Ok((known(i, lo)?, known(i + 1, hi)?))
}

pub(super) fn convert_element_type(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let x = tensor(node, 0)?;
    let to = dtype(node, 1).unwrap_or(e.tensor_ty(x).dtype);
    Ok(e.call(Op::ToCopy, args![x, to])?)
}

/// A tensor cut into blocks, as rows of a matrix or as positions of a dimension.
enum Cut {
    /// A matrix of one row a block.
    Rows { count: Size, width: i64 },
    /// One block for each position of a dimension.
    Axis(usize),
}

fn product(e: &Emitter<'_>, sizes: &[SymInt]) -> SymInt {
    sizes.iter().fold(SymInt::Const(1), |n, d| n.mul(d, &e.g.symbols))
}

fn cut(e: &Emitter<'_>, x: ValueId, block: &Arg) -> Result<Cut, Trouble> {
    let Arg::Ints(items) = block else { return unsupported("`block_size` is no list of ints") };
    let dims = e.tensor_ty(x).dims;
    let block: Vec<i64> = items
        .iter()
        .map(|i| match i {
            crate::arg::IntArg::Const(c) => Ok(*c),
            crate::arg::IntArg::Value(_) => unsupported("`block_size` is not known"),
        })
        .collect::<Result<_, _>>()?;
    if block.len() != dims.len() {
        return unsupported("`block_size` has another rank than the input");
    }
    let full = |i: usize| dims[i].as_const() == Some(block[i]);
    // Ones, then a size that divides the dimension, then whole dimensions.
    let first = block.iter().position(|&b| b != 1).unwrap_or(block.len().saturating_sub(1));
    if (first + 1..block.len()).all(full)
        && let Some(size) = dims.get(first).and_then(SymInt::as_const)
        && let (Some(&b), true) = (block.get(first), size > 0)
        && b > 0
        && size % b == 0
    {
        let rest = block[first + 1..].iter().product::<i64>();
        let count = product(e, &dims[..first]).scale(size / b, &e.g.symbols);
        return Ok(Cut::Rows { count: Size { size: count, of: None }, width: b * rest });
    }
    let ones: Vec<usize> = (0..block.len()).filter(|&i| block[i] == 1 && !full(i)).collect();
    match ones[..] {
        [axis] if (0..block.len()).all(|i| i == axis || full(i)) => Ok(Cut::Axis(axis)),
        _ => unsupported("blocks of these sizes are neither rows nor channels"),
    }
}

fn sizes_of(e: &Emitter<'_>, x: ValueId) -> Vec<Size> {
    (0..e.tensor_ty(x).rank()).map(|d| e.size(x, d)).collect()
}

/// `x` as a vector of the numbers of blocks.
fn flat(e: &mut Emitter<'_>, x: ValueId) -> Result<ValueId, InferError> {
    let ty = e.tensor_ty(x);
    if ty.rank() == 1 {
        return Ok(x);
    }
    let n = Size { size: product(e, &ty.dims), of: None };
    e.reshape(x, &[n])
}

/// Scales and zero points as ExecuTorch's kernels take them: vectors, the zero points i64, the scales of type `scale`.
fn params(
    e: &mut Emitter<'_>,
    scales: ValueId,
    zero_points: Option<ValueId>,
    scale: DType,
) -> Result<(ValueId, Option<ValueId>), Trouble> {
    if e.tensor_ty(scales).dtype != DType::F32 {
        return unsupported("scales in f64 are rounded to f32 by ExecuTorch's kernels");
    }
    let scales = flat(e, scales)?;
    let scales = e.cast(scales, scale)?;
    let zero_points = match zero_points {
        None => None,
        Some(z) if e.tensor_ty(z).dtype.is_float() => {
            return unsupported("zero points that are floats have no kernel in ExecuTorch");
        }
        Some(z) => {
            let z = flat(e, z)?;
            Some(e.cast(z, DType::I64)?)
        }
    };
    Ok((scales, zero_points))
}

fn or_none(v: Option<ValueId>) -> Arg {
    v.map_or(Arg::None, Arg::Value)
}

/// `(q − zp) · scale` for each row, by the kernel for channels.
fn dequantize(
    e: &mut Emitter<'_>,
    q: ValueId,
    cut: Cut,
    (scales, zero_points): (ValueId, Option<ValueId>),
    (qmin, qmax): (i64, i64),
    out: DType,
) -> Emitted {
    let codes = e.tensor_ty(q).dtype;
    if codes == DType::I32 && (qmin < -WHOLE_IN_F32 || qmax > WHOLE_IN_F32) {
        return unsupported("codes beyond 24 bits are rounded otherwise by ExecuTorch's kernel");
    }
    let (scales, zero_points) = params(e, scales, zero_points, DType::F32)?;
    let sizes = sizes_of(e, q);
    let (q, axis, back) = match cut {
        Cut::Rows { count, width } => (e.reshape(q, &[count, width.into()])?, 0i64, true),
        Cut::Axis(axis) => (q, i64::try_from(axis).unwrap_or(0), false),
    };
    let call = args![q, scales, or_none(zero_points), axis, qmin, qmax, codes];
    let mut x = e.call(Op::DequantizePerChannel, call)?;
    if back {
        x = e.reshape(x, &sizes)?;
    }
    Ok(e.cast(x, out)?)
}

/// `clamp(round(x / scale) + zp)` for each row, by the kernel for channels.
fn quantize(
    e: &mut Emitter<'_>,
    x: ValueId,
    cut: Cut,
    (scales, zero_points): (ValueId, Option<ValueId>),
    (qmin, qmax): (i64, i64),
    codes: DType,
) -> Emitted {
    let (scales, zero_points) = params(e, scales, zero_points, DType::F64)?;
    let zero_points = match zero_points {
        Some(z) => z,
        None => e.call(Op::FullLike, args![scales, 0i64, DType::I64])?,
    };
    let sizes = sizes_of(e, x);
    let (x, axis, back) = match cut {
        Cut::Rows { count, width } => (e.reshape(x, &[count, width.into()])?, 0i64, true),
        Cut::Axis(axis) => (x, i64::try_from(axis).unwrap_or(0), false),
    };
    let q = e.call(Op::QuantizePerChannel, args![x, scales, zero_points, axis, qmin, qmax, codes])?;
    if back { Ok(e.reshape(q, &sizes)?) } else { Ok(q) }
}

pub(super) fn dequantize_per_channel_group(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let (q, scales) = (tensor(node, 0)?, tensor(node, 1)?);
    let ty = e.tensor_ty(q);
    let width = match &ty.dims[..] {
        [_, w] => w.as_const(),
        _ => None,
    };
    let Some(width) = width else { return unsupported("the rows' length is not known") };
    let group = int(node, 6, "group_size")?.min(width);
    if group < 1 || width % group != 0 {
        return unsupported("`group_size` does not divide the rows");
    }
    let count = Size { size: ty.dims[0].scale(width / group, &e.g.symbols), of: None };
    let range = (int(node, 3, "quant_min")?, int(node, 4, "quant_max")?);
    let out = dtype(node, 7).unwrap_or(DType::F32);
    dequantize(e, q, Cut::Rows { count, width: group }, (scales, optional_tensor(node, 2)), range, out)
}

pub(super) fn dequantize_affine(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let (q, scales) = (tensor(node, 0)?, tensor(node, 2)?);
    let cut = cut(e, q, &node.args[1])?;
    let range = codes(node, 5, e.tensor_ty(q).dtype)?;
    let out = dtype(node, 7).unwrap_or(DType::F32);
    if out != DType::F32 {
        return unsupported("torchao computes 16-bit results in 16 bits, ExecuTorch in f32");
    }
    dequantize(e, q, cut, (scales, optional_tensor(node, 3)), range, out)
}

pub(super) fn quantize_affine(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let (x, scales) = (tensor(node, 0)?, tensor(node, 2)?);
    let cut = cut(e, x, &node.args[1])?;
    let Some(to) = dtype(node, 4) else { return unsupported("the codes have no dtype") };
    let range = codes(node, 5, to)?;
    quantize(e, x, cut, (scales, optional_tensor(node, 3)), range, to)
}

/// To codes and back.
pub(super) fn fake_quant_per_channel(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let (x, scales, zero_points) = (tensor(node, 0)?, tensor(node, 1)?, tensor(node, 2)?);
    let (axis, rank) = (int(node, 3, "axis")?, e.tensor_ty(x).rank());
    let from_end = axis + i64::try_from(rank).unwrap_or(0);
    let axis = usize::try_from(if axis < 0 { from_end } else { axis }).unwrap_or(0);
    let (qmin, qmax) = (int(node, 4, "quant_min")?, int(node, 5, "quant_max")?);
    if qmin < -WHOLE_IN_F32 || qmax > WHOLE_IN_F32 {
        return unsupported("codes beyond 24 bits are rounded otherwise by ExecuTorch's kernel");
    }
    let codes = if qmin >= -128 && qmax <= 127 { DType::I8 } else { DType::I32 };
    let range = (qmin, qmax);
    let q = quantize(e, x, Cut::Axis(axis), (scales, Some(zero_points)), range, codes)?;
    dequantize(e, q, Cut::Axis(axis), (scales, Some(zero_points)), range, DType::F32)
}

/// Least and largest element of each block, widened to hold 0.
fn range_of_blocks(e: &mut Emitter<'_>, x: ValueId, cut: Option<Cut>) -> Result<(ValueId, ValueId), Trouble> {
    let rank = i64::try_from(e.tensor_ty(x).rank()).unwrap_or(0);
    let (x, dims): (ValueId, Vec<i64>) = match cut {
        Some(Cut::Rows { count, width }) => (e.reshape(x, &[count, width.into()])?, vec![1]),
        Some(Cut::Axis(axis)) => (x, (0..rank).filter(|&d| usize::try_from(d) != Ok(axis)).collect()),
        None => (x, (0..rank).collect()),
    };
    let zero = e.scalar(DType::F32, 0.0)?;
    let low = e.call(Op::Amin, args![x, Arg::ints(&dims)])?;
    let low = e.call(Op::Minimum, args![low, zero])?;
    let high = e.call(Op::Amax, args![x, Arg::ints(&dims)])?;
    Ok((low, e.call(Op::Maximum, args![high, zero])?))
}

fn over(e: &mut Emitter<'_>, a: ValueId, by: f64) -> Result<ValueId, InferError> {
    let by = e.scalar(DType::F32, by)?;
    e.call(Op::Div, args![a, by])
}

fn at_least(e: &mut Emitter<'_>, a: ValueId, eps: f64) -> Result<ValueId, InferError> {
    e.call(Op::Clamp, args![a, eps])
}

/// The larger magnitude.
fn magnitude(e: &mut Emitter<'_>, low: ValueId, high: ValueId) -> Result<ValueId, InferError> {
    let low = e.call(Op::Neg, args![low])?;
    e.call(Op::Maximum, args![low, high])
}

/// `v` with the sizes and the type that output `k` of the node had.
fn as_output(e: &mut Emitter<'_>, node: &Node, k: usize, x: ValueId, v: ValueId) -> Emitted {
    let Some(Type::Tensor(ty)) = node.outputs.get(k).map(|&o| e.g.ty(o).clone()) else {
        return unsupported("an output is missing");
    };
    let v = e.cast(v, ty.dtype)?;
    if e.tensor_ty(v).dims == ty.dims {
        return Ok(v);
    }
    let dims = e.tensor_ty(x).dims;
    let sizes: Vec<Size> = ty
        .dims
        .iter()
        .map(|d| Size { size: d.clone(), of: dims.iter().position(|o| o == d).map(|at| (x, at)) })
        .collect();
    Ok(e.reshape(v, &sizes)?)
}

pub(super) type Two = Result<SmallVec<[ValueId; 2]>, Trouble>;

pub(super) fn choose_qparams_symmetric(e: &mut Emitter<'_>, node: &Node) -> Two {
    let x = tensor(node, 0)?;
    let (qmin, qmax) = (int(node, 1, "quant_min")?, int(node, 2, "quant_max")?);
    let Some(Arg::Float(eps)) = node.args.get(3) else { return unsupported("`eps` is not a known float") };
    let (low, high) = range_of_blocks(e, x, None)?;
    let most = magnitude(e, low, high)?;
    let scale = over(e, most, (qmax - qmin) as f64 / 2.0)?;
    let scale = at_least(e, scale, *eps)?;
    let middle = if dtype(node, 4) == Some(DType::U8) { 128i64 } else { 0 };
    let zero_point = e.call(Op::FullLike, args![scale, middle, DType::I64])?;
    Ok(SmallVec::from_iter([as_output(e, node, 0, x, scale)?, as_output(e, node, 1, x, zero_point)?]))
}

pub(super) fn choose_qparams_per_token(e: &mut Emitter<'_>, node: &Node) -> Two {
    let x = tensor(node, 0)?;
    let most = e.call(Op::Abs, args![x])?;
    let most = e.call(Op::Amax, args![most, Arg::ints(&[-1]), true])?;
    let most = at_least(e, most, 1e-5)?;
    let scale = over(e, most, 127.0)?;
    let zero_point = e.call(Op::FullLike, args![scale, 0.0f64])?;
    Ok(SmallVec::from_iter([scale, zero_point]))
}

pub(super) fn choose_qparams_affine(e: &mut Emitter<'_>, node: &Node) -> Two {
    let x = tensor(node, 0)?;
    let Some(Arg::Str(mapping)) = node.args.get(1) else { return unsupported("`mapping_type` is no string") };
    let Some(to) = dtype(node, 3) else { return unsupported("the codes have no dtype") };
    let (qmin, qmax) = codes(node, 4, to)?;
    let eps = match node.args.get(6) {
        Some(Arg::Float(f)) => *f,
        _ => f64::from(f32::MIN_POSITIVE),
    };
    bool_arg(node, 9, "keepdim")?;
    let cut = cut(e, x, &node.args[2])?;
    let (low, high) = range_of_blocks(e, x, Some(cut))?;
    let steps = (qmax - qmin) as f64;
    let middle = |e: &mut Emitter<'_>, scale| e.call(Op::FullLike, args![scale, (qmax + qmin + 1) / 2]);
    let (scale, zero_point) = match mapping.as_ref() {
        "SYMMETRIC" => {
            let most = magnitude(e, low, high)?;
            let scale = over(e, most, steps / 2.0)?;
            let scale = at_least(e, scale, eps)?;
            (scale, middle(e, scale)?)
        }
        "SYMMETRIC_NO_CLIPPING_ERR" => {
            let (a, b) = (over(e, low, qmin as f64)?, over(e, high, qmax as f64)?);
            let above = e.call(Op::Gt, args![a, b])?;
            let scale = e.call(Op::Where, args![above, a, b])?;
            let scale = at_least(e, scale, eps)?;
            (scale, middle(e, scale)?)
        }
        _ => {
            let span = e.call(Op::Sub, args![high, low])?;
            let scale = over(e, span, steps)?;
            let scale = at_least(e, scale, eps)?;
            let z = e.call(Op::Div, args![low, scale])?;
            let z = e.call(Op::Round, args![z])?;
            let first = e.scalar(DType::F32, qmin as f64)?;
            let z = e.call(Op::Sub, args![first, z])?;
            (scale, e.call(Op::Clamp, args![z, qmin, qmax])?)
        }
    };
    Ok(SmallVec::from_iter([as_output(e, node, 0, x, scale)?, as_output(e, node, 1, x, zero_point)?]))
}
