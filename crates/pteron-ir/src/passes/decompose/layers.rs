//! Norms, activations, rotary embedding.

use pteron_tensor::DType;

use super::{Emitted, bool_arg, optional_tensor, tensor, unsupported};
use crate::arg::Arg;
use crate::args;
use crate::graph::Node;
use crate::op::Op;
use crate::passes::rewrite::Emitter;

/// `x · rsqrt(mean(x²) + eps) · weight`; the norm in f32, back in the dtype of `x` before the weight.
pub(super) fn rms_norm(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let x = tensor(node, 0)?;
    let Some(Arg::Float(eps)) = node.args.get(3) else { return unsupported("`eps` is not a known float") };
    let dtype = e.tensor_ty(x).dtype;
    let x32 = e.cast(x, DType::F32)?;
    let square = e.call(Op::Mul, args![x32, x32])?;
    let mean = e.call(Op::Mean, args![square, Arg::ints(&[-1]), true])?;
    let eps = e.scalar(DType::F32, *eps)?;
    let shifted = e.call(Op::Add, args![mean, eps])?;
    let inverse = e.call(Op::Rsqrt, args![shifted])?;
    let normed = e.call(Op::Mul, args![x32, inverse])?;
    let mut out = e.cast(normed, dtype)?;
    if let Some(weight) = optional_tensor(node, 2) {
        out = e.call(Op::Mul, args![out, weight])?;
        // A weight of a wider type widens the product.
        out = e.cast(out, dtype)?;
    }
    Ok(out)
}

pub(super) fn silu(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let x = tensor(node, 0)?;
    let gate = e.call(Op::Sigmoid, args![x])?;
    Ok(e.call(Op::Mul, args![x, gate])?)
}

/// An operator with a number as the operator with a constant tensor of no dimensions. The constant has the type of `x`, or f32
/// if a fraction meets ints, so that the result has the type that it had.
pub(super) fn scalar_operand(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let x = tensor(node, 0)?;
    let op = match node.op {
        Op::AddScalar => Op::Add,
        Op::SubScalar => Op::Sub,
        Op::MulScalar => Op::Mul,
        _ => Op::Div,
    };
    let number = |i: usize| match node.args.get(i) {
        Some(Arg::Int(v)) if v.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS => Ok((*v as f64, false)),
        Some(Arg::Float(v)) => Ok((*v, true)),
        _ => unsupported("the number is not known, or a float does not hold it"),
    };
    let (mut value, mut is_float) = number(1)?;
    if matches!(node.op, Op::AddScalar | Op::SubScalar) {
        let (alpha, float) = number(2)?;
        (value, is_float) = (value * alpha, is_float || float);
    }
    let dtype = e.tensor_ty(x).dtype;
    let constant = e.scalar(if is_float && !dtype.is_float() { DType::F32 } else { dtype }, value)?;
    Ok(e.call(op, args![x, constant])?)
}

/// `1 / x`.
pub(super) fn reciprocal(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let x = tensor(node, 0)?;
    let dtype = e.tensor_ty(x).dtype;
    let one = e.scalar(if dtype.is_float() { dtype } else { DType::F32 }, 1.0)?;
    Ok(e.call(Op::Div, args![one, x])?)
}

pub(super) fn transpose(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let x = tensor(node, 0)?;
    let (Some(Arg::Int(a)), Some(Arg::Int(b))) = (node.args.get(1), node.args.get(2)) else {
        return unsupported("the dimensions are not known ints");
    };
    let rank = e.tensor_ty(x).rank();
    let n = i64::try_from(rank).unwrap_or(i64::MAX);
    let place = |d: i64| usize::try_from(if d < 0 { d.saturating_add(n) } else { d }).ok().filter(|&d| d < rank);
    let mut order: Vec<i64> = (0..n).collect();
    if rank > 0 {
        let (Some(a), Some(b)) = (place(*a), place(*b)) else { return unsupported("there is no such dimension") };
        order.swap(a, b);
    }
    Ok(e.call(Op::PermuteCopy, args![x, Arg::ints(&order)])?)
}

/// For each pair (p, q) of the last dimension: `p·cos − q·sin` and `q·cos + p·sin`. `cos` and `sin` [S, D/2] become
/// [S, 1, D/2] to meet `x` [B, S, H, D].
pub(super) fn rope(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let (x, cos, sin) = (tensor(node, 0)?, tensor(node, 1)?, tensor(node, 2)?);
    let interleaved = bool_arg(node, 3, "interleaved")?;
    let ty = e.tensor_ty(x);
    let Some(width) = ty.dims.get(3).and_then(|d| d.as_const()).filter(|d| d % 2 == 0) else {
        return unsupported("the last dimension of `x` is not a known even number");
    };
    let lead = [e.size(x, 0), e.size(x, 1), e.size(x, 2)];
    let x32 = e.cast(x, if ty.dtype == DType::F64 { DType::F64 } else { DType::F32 })?;
    let cos = e.call(Op::UnsqueezeCopy, args![cos, 1i64])?;
    let sin = e.call(Op::UnsqueezeCopy, args![sin, 1i64])?;
    let (p, q) = if interleaved {
        let mut sizes = lead.to_vec();
        sizes.extend([(width / 2).into(), 2.into()]);
        let pairs = e.reshape(x32, &sizes)?;
        (e.call(Op::SelectCopy, args![pairs, 4i64, 0i64])?, e.call(Op::SelectCopy, args![pairs, 4i64, 1i64])?)
    } else {
        let half = width / 2;
        (e.call(Op::SliceCopy, args![x32, 3i64, 0i64, half])?, e.call(Op::SliceCopy, args![x32, 3i64, half, width])?)
    };
    let product = |e: &mut Emitter<'_>, a, b| e.call(Op::Mul, args![a, b]);
    let (pc, qs) = (product(e, p, cos)?, product(e, q, sin)?);
    let first = e.call(Op::Sub, args![pc, qs])?;
    let (qc, ps) = (product(e, q, cos)?, product(e, p, sin)?);
    let second = e.call(Op::Add, args![qc, ps])?;
    let turned = if interleaved {
        let a = e.call(Op::UnsqueezeCopy, args![first, 4i64])?;
        let b = e.call(Op::UnsqueezeCopy, args![second, 4i64])?;
        let pairs = e.call(Op::Cat, [Arg::tensors(&[a, b]), 4i64.into()])?;
        let mut sizes = lead.to_vec();
        sizes.push(width.into());
        e.reshape(pairs, &sizes)?
    } else {
        e.call(Op::Cat, [Arg::tensors(&[first, second]), 3i64.into()])?
    };
    Ok(e.cast(turned, ty.dtype)?)
}
