//! Rules of matrix products and layers.

use pteron_tensor::DType;

use super::reduce::softmax_of;
use super::{Backward, GradientError, GradientResult};
use crate::arg::Arg;
use crate::entity::ValueId;
use crate::op::Op;

type Found = Result<ValueId, GradientError>;

/// The last two dimensions exchanged.
fn transposed(b: &mut Backward<'_, '_>, x: ValueId) -> Found {
    let rank = b.sizes(x)?.len();
    let mut dims: Vec<i64> = (0..rank as i64).collect();
    dims.swap(rank - 1, rank - 2);
    b.call(Op::PermuteCopy, [x.into(), Arg::ints(&dims)])
}

/// `x` as a matrix of its last dimension's rows.
fn rows(b: &mut Backward<'_, '_>, x: ValueId) -> Found {
    let sizes = b.sizes(x)?;
    let last = sizes.last().copied().unwrap_or(1);
    let lead: i64 = sizes[..sizes.len().saturating_sub(1)].iter().product();
    b.view(x, &[lead, last])
}

/// `x·wᵀ + bias`: `g·w`, `gᵀ·x`, and the sum of `g`'s rows.
pub(crate) fn linear(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, w) = (b.gradient()?, b.tensor(0)?, b.tensor(1)?);
    let g = rows(b, g)?;
    if b.needs(0) {
        let sizes = b.sizes(x)?;
        let d = b.call(Op::Mm, [g.into(), w.into()])?;
        let d = b.view(d, &sizes)?;
        b.give(0, d)?;
    }
    if b.needs(1) {
        let x = rows(b, x)?;
        let gt = transposed(b, g)?;
        let d = b.call(Op::Mm, [gt.into(), x.into()])?;
        b.give(1, d)?;
    }
    if b.needs(2) {
        b.give(2, g)?;
    }
    Ok(())
}

/// `g·yᵀ` and `xᵀ·g`, for arguments `i` and `i + 1` of a product by `product`.
fn product(b: &mut Backward<'_, '_>, product: Op, i: usize, g: ValueId) -> GradientResult {
    let (x, y) = (b.tensor(i)?, b.tensor(i + 1)?);
    if b.needs(i) {
        let yt = transposed(b, y)?;
        let d = b.call(product, [g.into(), yt.into()])?;
        b.give(i, d)?;
    }
    if b.needs(i + 1) {
        let xt = transposed(b, x)?;
        let d = b.call(product, [xt.into(), g.into()])?;
        b.give(i + 1, d)?;
    }
    Ok(())
}

/// A product of matrices.
pub(crate) fn mm(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    product(b, Op::Mm, 0, g)
}

/// Products of a batch of matrices.
pub(crate) fn bmm(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    product(b, Op::Bmm, 0, g)
}

/// `beta·c + alpha·(x·y)`.
pub(crate) fn addmm(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, beta, alpha) = (b.gradient()?, b.number(3)?, b.number(4)?);
    if b.needs(0) {
        let d = b.scaled(g, beta)?;
        b.give(0, d)?;
    }
    let g = b.scaled(g, alpha)?;
    product(b, Op::Mm, 1, g)
}

/// With `r = 1/√(mean(x²) + eps)` and `h = g·w`: `r·(h − x·r²·mean(h·x))`, and the sum of `g·x·r` for the weight.
pub(crate) fn rms_norm(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, w, eps) = (b.gradient()?, b.tensor(0)?, b.optional_tensor(2), b.number(3)?);
    let square = b.mul(x, x)?;
    let mean = b.call(Op::Mean, [square.into(), Arg::ints(&[-1]), true.into()])?;
    let mean = b.call(Op::AddScalar, [mean.into(), eps.into()])?;
    let r = b.call(Op::Rsqrt, [mean.into()])?;
    let normal = b.mul(x, r)?;
    if b.needs(2) {
        let d = b.mul(g, normal)?;
        b.give(2, d)?;
    }
    if b.needs(0) {
        let h = match w {
            Some(w) => b.mul(g, w)?,
            None => g,
        };
        let along = b.mul(h, normal)?;
        let along = b.call(Op::Mean, [along.into(), Arg::ints(&[-1]), true.into()])?;
        let part = b.mul(normal, along)?;
        let rest = b.call(Op::Sub, [h.into(), part.into()])?;
        let d = b.mul(rest, r)?;
        b.give(0, d)?;
    }
    Ok(())
}

/// Turned back by the same angles.
pub(crate) fn rope(b: &mut Backward<'_, '_>) -> GradientResult {
    if b.needs(1) || b.needs(2) {
        return b.fail("the angles are differentiated, expected tables that are not trained");
    }
    let (g, cos, sin, interleaved) = (b.gradient()?, b.arg(1), b.tensor(2)?, b.arg(3));
    let back = b.call(Op::Neg, [sin.into()])?;
    let d = b.call(Op::Rope, [g.into(), cos, back.into(), interleaved])?;
    b.give(0, d)
}

/// With `p` the softmax of the scores and `t = p·(g·vᵀ − Σ p·g·vᵀ)`: `scale·t·k`, `scale·tᵀ·q` and `pᵀ·g`. Query heads that
/// share a key head are rows of one product. Rows whose keys are all hidden give nothing, as PyTorch's do.
pub(crate) fn sdpa(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, q, k, v) = (b.gradient()?, b.tensor(0)?, b.tensor(1)?, b.tensor(2)?);
    if b.needs(3) {
        return b.fail("the mask is differentiated, expected one that is not trained");
    }
    let ([n, heads, s, d], [_, kv_heads, t, _], [_, _, _, dv]) = (four(b, q)?, four(b, k)?, four(b, v)?);
    let scale = match b.arg(6) {
        Arg::None => (d as f64).sqrt().recip(),
        _ => b.number(6)?,
    };
    let (batch, group) = (n * kv_heads, (heads / kv_heads.max(1)) * s);
    let (q, g) = (b.view(q, &[batch, group, d])?, b.view(g, &[batch, group, dv])?);
    let (k, v) = (b.view(k, &[batch, t, d])?, b.view(v, &[batch, t, dv])?);
    let kt = transposed(b, k)?;
    let scores = b.call(Op::Bmm, [q.into(), kt.into()])?;
    let scores = b.scaled(scores, scale)?;
    let scores = b.view(scores, &[n, heads, s, t])?;
    let (scores, seen) = masked(b, scores, [s, t])?;
    let mut p = b.call(Op::Softmax, [scores.into(), (-1i64).into(), false.into()])?;
    if let Some(seen) = seen {
        // A row that sees nothing has a softmax of NaN.
        let zero = b.zeros(&[1], p)?;
        p = b.call(Op::Where, [seen.into(), p.into(), zero.into()])?;
    }
    let p = b.view(p, &[batch, group, t])?;
    if b.needs(2) {
        let pt = transposed(b, p)?;
        let dv = b.call(Op::Bmm, [pt.into(), g.into()])?;
        give_viewed(b, 2, dv)?;
    }
    if !b.needs(0) && !b.needs(1) {
        return Ok(());
    }
    let vt = transposed(b, v)?;
    let dp = b.call(Op::Bmm, [g.into(), vt.into()])?;
    let ds = softmax_of(b, dp, p, -1)?;
    let ds = b.scaled(ds, scale)?;
    if b.needs(0) {
        let dq = b.call(Op::Bmm, [ds.into(), k.into()])?;
        give_viewed(b, 0, dq)?;
    }
    if b.needs(1) {
        let dst = transposed(b, ds)?;
        let dk = b.call(Op::Bmm, [dst.into(), q.into()])?;
        give_viewed(b, 1, dk)?;
    }
    Ok(())
}

fn give_viewed(b: &mut Backward<'_, '_>, i: usize, g: ValueId) -> GradientResult {
    let x = b.tensor(i)?;
    let sizes = b.sizes(x)?;
    let d = b.view(g, &sizes)?;
    b.give(i, d)
}

fn four(b: &Backward<'_, '_>, x: ValueId) -> Result<[i64; 4], GradientError> {
    let sizes = b.sizes(x)?;
    <[i64; 4]>::try_from(sizes).map_err(|s| b.error(format!("a tensor of sizes {s:?}, expected 4 dimensions")))
}

/// Scores `[B, H, S, T]` under the node's mask, and which of them are seen where that is known as booleans.
fn masked(
    b: &mut Backward<'_, '_>,
    scores: ValueId,
    [s, t]: [i64; 2],
) -> Result<(ValueId, Option<ValueId>), GradientError> {
    let seen = match b.optional_tensor(3) {
        Some(mask) if b.ty(mask).dtype != DType::Bool => {
            let scores = b.call(Op::Add, [scores.into(), mask.into()])?;
            let hidden = b.call(Op::EqScalar, [scores.into(), f64::NEG_INFINITY.into()])?;
            let seen = b.call(Op::LogicalNot, [hidden.into()])?;
            return Ok((scores, Some(seen)));
        }
        Some(mask) => mask,
        None if b.bool(5) => {
            let places = |b: &mut Backward<'_, '_>, n: i64, sizes: [i64; 2]| {
                let places = b.call(Op::Arange, [0i64.into(), n.into(), 1i64.into(), DType::I64.into()])?;
                b.view(places, &sizes)
            };
            let (row, column) = (places(b, s, [s, 1])?, places(b, t, [1, t])?);
            b.call(Op::Ge, [row.into(), column.into()])?
        }
        None => return Ok((scores, None)),
    };
    let dtype = b.ty(scores).dtype;
    let hidden = b.call(Op::Full, [Arg::ints(&[1]), f64::NEG_INFINITY.into(), dtype.into()])?;
    let scores = b.call(Op::Where, [seen.into(), scores.into(), hidden.into()])?;
    Ok((scores, Some(seen)))
}
