//! Ints, floats and booleans that are computed at run time.

use smallvec::SmallVec;

use crate::infer::{InferCtx, InferResult, ScalarArg, one};
use crate::op::Op;
use crate::symint::SymInt;
use crate::types::Type;

pub(crate) fn size(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    let d = ctx.dim(ctx.const_int(1)?, a.rank())?;
    match a.dims.get(d) {
        Some(s) => one(Type::Int(s.clone())),
        None => ctx.fail("a scalar tensor has no dimensions"),
    }
}

pub(crate) fn numel(ctx: &InferCtx<'_>) -> InferResult {
    one(Type::Int(ctx.tensor(0)?.numel(ctx.symbols)))
}

/// The one element of a tensor. Its value is not known from types: capture declares it as a symbol.
pub(crate) fn local_scalar_dense(ctx: &InferCtx<'_>) -> InferResult {
    let a = ctx.tensor(0)?;
    if !a.numel(ctx.symbols).may_equal(&SymInt::Const(1), ctx.symbols) {
        return ctx.fail(format!("{a} has more than one element"));
    }
    one(match a.dtype {
        d if d.is_float() => Type::Float,
        pteron_tensor::DType::Bool => Type::Bool,
        _ => Type::Int(SymInt::ANY),
    })
}

fn is_float(ctx: &InferCtx<'_>, i: usize) -> Result<bool, crate::infer::InferError> {
    Ok(matches!(ctx.scalar(i)?, ScalarArg::Float(_)))
}

pub(crate) fn arithmetic(ctx: &InferCtx<'_>) -> InferResult {
    if is_float(ctx, 0)? || is_float(ctx, 1)? {
        return one(Type::Float);
    }
    let (a, b, s) = (ctx.int(0)?, ctx.int(1)?, ctx.symbols);
    let r = match ctx.op {
        Op::PrimAdd => a.add(&b, s),
        Op::PrimSub => a.sub(&b, s),
        Op::PrimMul => a.mul(&b, s),
        Op::PrimMax => a.maximum(&b, s),
        Op::PrimMin => a.minimum(&b, s),
        Op::PrimFloorDiv => {
            if b == SymInt::Const(0) {
                return ctx.fail("division by zero");
            }
            a.floor_div(&b, s).unwrap_or(SymInt::ANY)
        }
        Op::PrimMod => match (a.as_const(), b.as_const()) {
            (_, Some(0)) => return ctx.fail("division by zero"),
            // Python's modulo: the sign of the divisor.
            (Some(x), Some(y)) => {
                SymInt::Const(x.checked_rem(y).map_or(0, |r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }))
            }
            (None, Some(y)) if y > 0 => SymInt::Unknown { min: 0, max: y - 1 },
            _ => SymInt::ANY,
        },
        other => return ctx.fail(format!("{other} is no integer arithmetic")),
    };
    one(Type::Int(r))
}

pub(crate) fn negation(ctx: &InferCtx<'_>) -> InferResult {
    if is_float(ctx, 0)? {
        return one(Type::Float);
    }
    one(Type::Int(ctx.int(0)?.scale(-1, ctx.symbols)))
}

pub(crate) fn comparison(ctx: &InferCtx<'_>) -> InferResult {
    for i in 0..ctx.args.len() {
        ctx.scalar(i)?;
    }
    Ok(SmallVec::from_iter([Type::Bool]))
}

pub(crate) fn real(ctx: &InferCtx<'_>) -> InferResult {
    for i in 0..ctx.args.len() {
        ctx.scalar(i)?;
    }
    one(Type::Float)
}
