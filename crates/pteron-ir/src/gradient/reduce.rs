//! Rules of reductions.

use super::{Backward, GradientError, GradientResult};
use crate::arg::Arg;
use crate::entity::ValueId;
use crate::op::Op;

/// The dimensions that a node reduces, and the argument's sizes with 1 in their places.
fn reduced(b: &Backward<'_, '_>) -> Result<(Vec<i64>, Vec<i64>), GradientError> {
    let x = b.tensor(0)?;
    let mut kept = b.sizes(x)?;
    let mut dims = b.ints(1)?;
    if dims.is_empty() {
        dims = (0..kept.len() as i64).collect();
    }
    for d in &mut dims {
        let at = b.dim(*d, kept.len())?;
        if let Some(size) = kept.get_mut(at) {
            *size = 1;
        }
        *d = at as i64;
    }
    Ok((dims, kept))
}

/// `v`, a result of the node, with the reduced dimensions as 1.
fn kept(b: &mut Backward<'_, '_>, v: ValueId) -> Result<ValueId, GradientError> {
    let (_, sizes) = reduced(b)?;
    b.view(v, &sizes)
}

fn spread(b: &mut Backward<'_, '_>, g: ValueId) -> GradientResult {
    let x = b.tensor(0)?;
    let sizes = b.sizes(x)?;
    let d = kept(b, g)?;
    let d = b.call(Op::ExpandCopy, [d.into(), Arg::ints(&sizes)])?;
    b.give(0, d)
}

/// The gradient for each summand.
pub(crate) fn sum(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    spread(b, g)
}

/// The gradient for each, over their number.
pub(crate) fn mean(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let (from, (_, to)) = (b.sizes(x)?, reduced(b)?);
    let n: i64 = from.iter().zip(&to).filter(|(_, t)| **t == 1).map(|(f, _)| *f).product();
    let g = b.call(Op::DivScalar, [g.into(), (n as f64).into()])?;
    spread(b, g)
}

/// The gradient to the elements that are the extreme, in equal parts (PyTorch's rule of `amax` and `amin`).
pub(crate) fn extreme(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, out) = (b.gradient()?, b.tensor(0)?, b.output(0));
    let (dims, _) = reduced(b)?;
    let (g, out) = (kept(b, g)?, kept(b, out)?);
    let hits = b.call(Op::Eq, [x.into(), out.into()])?;
    let dtype = b.ty(x).dtype;
    let hits = b.call(Op::ToCopy, [hits.into(), dtype.into()])?;
    let number = b.sum(hits, &dims)?;
    let share = b.call(Op::Div, [g.into(), number.into()])?;
    let d = b.mul(hits, share)?;
    b.give(0, d)
}

/// `y·(g − Σ g·y)` along the dimension.
pub(crate) fn softmax(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, y, dim) = (b.gradient()?, b.output(0), b.int(1)?);
    let d = softmax_of(b, g, y, dim)?;
    b.give(0, d)
}

/// [`softmax`], of a softmax `y` that is no result of the node.
pub(super) fn softmax_of(b: &mut Backward<'_, '_>, g: ValueId, y: ValueId, dim: i64) -> Result<ValueId, GradientError> {
    let weighed = b.mul(g, y)?;
    let total = b.sum(weighed, &[dim])?;
    let rest = b.call(Op::Sub, [g.into(), total.into()])?;
    b.mul(rest, y)
}

/// `g − eʸ·Σ g` along the dimension.
pub(crate) fn log_softmax(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, y, dim) = (b.gradient()?, b.output(0), b.int(1)?);
    let total = b.sum(g, &[dim])?;
    let p = b.call(Op::Exp, [y.into()])?;
    let part = b.mul(p, total)?;
    let d = b.call(Op::Sub, [g.into(), part.into()])?;
    b.give(0, d)
}
