//! Attention.

use pteron_tensor::DType;

use super::{Emitted, Trouble, bool_arg, optional_tensor, tensor, unsupported};
use crate::arg::Arg;
use crate::args;
use crate::entity::ValueId;
use crate::graph::Node;
use crate::op::Op;
use crate::passes::rewrite::{Emitter, Size};
use crate::symint::SymInt;

/// `softmax(q·kᵀ·scale + mask)·v` over query [B, Hq, S, D], key [B, Hkv, T, D], value [B, Hkv, T, Dv]; batch and heads are
/// one dimension on the way.
pub(super) fn sdpa(e: &mut Emitter<'_>, node: &Node) -> Emitted {
    let (q, k, v) = (tensor(node, 0)?, tensor(node, 1)?, tensor(node, 2)?);
    let mask = optional_tensor(node, 3);
    if !matches!(node.args.get(4), Some(Arg::Float(0.0))) {
        return unsupported("`dropout_p` is not 0: a program does not drop");
    }
    let causal = bool_arg(node, 5, "is_causal")?;
    if causal && mask.is_some() {
        return unsupported("`attn_mask` and `is_causal` exclude each other");
    }
    let (qt, kt) = (e.tensor_ty(q), e.tensor_ty(k));
    let (Some(heads), Some(kv_heads)) = (qt.dims[1].as_const(), kt.dims[1].as_const()) else {
        return unsupported("the numbers of heads are not known");
    };
    let group = match heads.checked_rem(kv_heads) {
        Some(0) if kv_heads > 0 => heads / kv_heads,
        _ => return unsupported(format!("{heads} query heads cannot share {kv_heads} key heads")),
    };
    let scale = match (node.args.get(6), qt.dims[3].as_const()) {
        (Some(Arg::Float(s)), _) => *s,
        (Some(Arg::None), Some(d)) if d > 0 => 1.0 / (d as f64).sqrt(),
        _ => return unsupported("neither `scale` nor the head size is known"),
    };
    let dtype = qt.dtype;
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    let (q, k, v) = (e.cast(q, wide)?, e.cast(k, wide)?, e.cast(v, wide)?);
    let root = scale.abs().sqrt();
    let q = e.call(Op::MulScalar, args![q, if scale < 0.0 { -root } else { root }])?;
    let k = e.call(Op::MulScalar, args![k, root])?;

    let batch = e.size(q, 0);
    let rows = e.product(&batch, &heads.into());
    let (queries, keys) = (e.size(q, 2), e.size(k, 2));
    let (width, value_width) = (e.size(q, 3), e.size(v, 3));
    let q = e.reshape(q, &[rows.clone(), queries.clone(), width.clone()])?;
    let k = share(e, k, group)?;
    let k = e.reshape(k, &[rows.clone(), keys.clone(), width])?;
    let v = share(e, v, group)?;
    let v = e.reshape(v, &[rows.clone(), keys.clone(), value_width.clone()])?;
    let k = e.call(Op::PermuteCopy, args![k, Arg::ints(&[0, 2, 1])])?;
    let mut scores = e.call(Op::Bmm, args![q, k])?;

    let mut split = false;
    let mask = match mask {
        Some(m) => {
            let (m, per_head) = flat_mask(e, m)?;
            split = per_head;
            Some(m)
        }
        None if causal => Some(causal_mask(e, &queries, &keys)?),
        None => None,
    };
    if split {
        scores = e.reshape(scores, &[batch.clone(), heads.into(), queries.clone(), keys.clone()])?;
    }
    if let Some(m) = mask {
        let bias = if e.tensor_ty(m).dtype == DType::Bool {
            let (shown, hidden) = (e.scalar(wide, 0.0)?, e.scalar(wide, f64::NEG_INFINITY)?);
            e.call(Op::Where, args![m, shown, hidden])?
        } else {
            m
        };
        scores = e.call(Op::Add, args![scores, bias])?;
    }
    let mut weights = e.call(Op::Softmax, args![scores, -1i64, false])?;
    // Causal rows see at least the first position; of other masks that is not known.
    if mask.is_some() && !causal {
        weights = hidden_rows_to_zero(e, scores, weights)?;
    }
    if split {
        weights = e.reshape(weights, &[rows, queries.clone(), keys])?;
    }
    let out = e.call(Op::Bmm, args![weights, v])?;
    let out = e.reshape(out, &[batch, heads.into(), queries, value_width])?;
    Ok(e.cast(out, dtype)?)
}

/// [B, Hkv, T, D] with each head `group` times in a row: [B, Hkv, group, T, D].
fn share(e: &mut Emitter<'_>, x: ValueId, group: i64) -> Emitted {
    if group == 1 {
        return Ok(x);
    }
    let x = e.call(Op::UnsqueezeCopy, args![x, 2i64])?;
    Ok(e.call(Op::ExpandCopy, args![x, Arg::ints(&[-1, -1, group, -1, -1])])?)
}

/// A mask over [S, T], and false; or the mask as it is, over [B, H, S, T], and true.
fn flat_mask(e: &mut Emitter<'_>, mask: ValueId) -> Result<(ValueId, bool), Trouble> {
    let ty = e.tensor_ty(mask);
    let Some(lead) = ty.rank().checked_sub(2).filter(|&n| n > 0) else { return Ok((mask, false)) };
    if ty.dims[..lead].iter().any(|d| *d != SymInt::Const(1)) {
        return Ok((mask, true));
    }
    let dims: Vec<i64> = (0..lead).map(|d| i64::try_from(d).unwrap_or(i64::MAX)).collect();
    Ok((e.call(Op::SqueezeDimsCopy, args![mask, Arg::ints(&dims)])?, false))
}

/// True where a query, counted from 0, is not before a key, counted from 0.
fn causal_mask(e: &mut Emitter<'_>, queries: &Size, keys: &Size) -> Emitted {
    let (queries, keys) = (e.int(queries)?, e.int(keys)?);
    let query = e.call(Op::Arange, args![0i64, queries])?;
    let key = if keys == queries { query } else { e.call(Op::Arange, args![0i64, keys])? };
    let query = e.call(Op::UnsqueezeCopy, args![query, 1i64])?;
    Ok(e.call(Op::Ge, args![query, key])?)
}

/// The softmax of a row of minus infinities is no number: such rows become zero.
fn hidden_rows_to_zero(e: &mut Emitter<'_>, scores: ValueId, weights: ValueId) -> Emitted {
    let hidden = e.call(Op::EqScalar, args![scores, f64::NEG_INFINITY])?;
    let shown = e.call(Op::LogicalNot, args![hidden])?;
    let any_shown = e.call(Op::AnyDim, args![shown, -1i64, true])?;
    let none_shown = e.call(Op::LogicalNot, args![any_shown])?;
    let zeros = e.call(Op::FullLike, args![weights, 0i64])?;
    Ok(e.call(Op::Where, args![none_shown, zeros, weights])?)
}
