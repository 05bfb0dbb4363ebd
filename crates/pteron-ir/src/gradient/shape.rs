//! Rules of operators that move elements.

use super::{Backward, GradientError, GradientResult};
use crate::arg::Arg;
use crate::entity::ValueId;
use crate::op::Op;

/// The gradient with the argument's sizes.
pub(crate) fn viewed(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let sizes = b.sizes(x)?;
    let d = b.view(g, &sizes)?;
    b.give(0, d)
}

/// The dimensions back in their order.
pub(crate) fn permute(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, dims) = (b.gradient()?, b.ints(1)?);
    let mut back = vec![0i64; dims.len()];
    for (i, &d) in dims.iter().enumerate() {
        let d = b.dim(d, dims.len())?;
        back[d] = i as i64;
    }
    let d = b.call(Op::PermuteCopy, [g.into(), Arg::ints(&back)])?;
    b.give(0, d)
}

/// The same exchange again.
pub(crate) fn transpose(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, one, other) = (b.gradient()?, b.arg(1), b.arg(2));
    let d = b.call(Op::TransposeCopy, [g.into(), one, other])?;
    b.give(0, d)
}

/// The sum over what was repeated.
pub(crate) fn expand(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    b.give(0, g)
}

/// `g` at `start..` of dimension `dim` of a tensor of `sizes`, zeros elsewhere.
fn padded(
    b: &mut Backward<'_, '_>,
    g: ValueId,
    dim: usize,
    start: i64,
    sizes: &[i64],
) -> Result<ValueId, GradientError> {
    let own = b.sizes(g)?[dim];
    let mut parts = Vec::with_capacity(3);
    let mut hole = sizes.to_vec();
    for (n, part) in [(start, None), (own, Some(g)), (sizes[dim] - start - own, None)] {
        match part {
            Some(g) => parts.push(g),
            None if n > 0 => {
                hole[dim] = n;
                parts.push(b.zeros(&hole, g)?);
            }
            None => {}
        }
    }
    if parts.len() == 1 { Ok(g) } else { b.call(Op::Cat, [Arg::tensors(&parts), (dim as i64).into()]) }
}

/// The gradient where the slice lay, zeros elsewhere.
pub(crate) fn slice(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let sizes = b.sizes(x)?;
    let dim = b.dim(b.int(1)?, sizes.len())?;
    let n = sizes[dim];
    let start = b.optional_int(2)?.unwrap_or(0);
    let start = if start < 0 { start + n } else { start }.clamp(0, n);
    let step = b.int(4)?;
    let taken = b.sizes(g)?[dim];
    let d = if step == 1 || taken <= 1 {
        padded(b, g, dim, start, &sizes)?
    } else {
        let zeros = b.zeros(&sizes, x)?;
        let end = start + (taken - 1) * step + 1;
        let at = [Arg::Int(start), Arg::Int(end), Arg::Int(step), Arg::DType(pteron_tensor::DType::I64)];
        let rows = b.call(Op::Arange, at)?;
        let indices = (0..dim).map(|_| None).chain([Some(rows)]).collect();
        b.call(Op::IndexPut, [zeros.into(), Arg::Values(indices), g.into(), false.into()])?
    };
    b.give(0, d)
}

/// The gradient at that index, zeros elsewhere.
pub(crate) fn select(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let sizes = b.sizes(x)?;
    let dim = b.dim(b.int(1)?, sizes.len())?;
    let index = b.int(2)?;
    let index = if index < 0 { index + sizes[dim] } else { index };
    let g = b.call(Op::UnsqueezeCopy, [g.into(), (dim as i64).into()])?;
    let d = padded(b, g, dim, index, &sizes)?;
    b.give(0, d)
}

/// Each its own part.
pub(crate) fn cat(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    let rank = b.sizes(g)?.len();
    let dim = b.dim(b.int(1)?, rank)?;
    let Arg::Values(parts) = b.arg(0) else { return b.fail("the first argument is no list of tensors") };
    let mut start = 0;
    for (i, part) in parts.iter().enumerate() {
        let Some(part) = *part else { continue };
        let sizes = b.sizes(part)?;
        // PyTorch lets an empty vector stand among tensors of any rank.
        if sizes.len() != rank {
            continue;
        }
        let end = start + sizes[dim];
        if b.needs_item(0, i) {
            let d = b.call(Op::SliceCopy, [g.into(), (dim as i64).into(), start.into(), end.into(), 1i64.into()])?;
            b.give_item(0, i, d);
        }
        start = end;
    }
    Ok(())
}

/// The parts' gradients behind each other, zeros for a part without.
pub(crate) fn split_with_sizes(b: &mut Backward<'_, '_>) -> GradientResult {
    let x = b.tensor(0)?;
    let (splits, mut sizes) = (b.ints(1)?, b.sizes(x)?);
    let dim = b.dim(b.int(2)?, sizes.len())?;
    let mut parts = Vec::with_capacity(splits.len());
    for (i, &n) in splits.iter().enumerate() {
        sizes[dim] = n;
        parts.push(match b.gradient_of(i) {
            Some(g) => g,
            None => b.zeros(&sizes, x)?,
        });
    }
    let d = b.call(Op::Cat, [Arg::tensors(&parts), (dim as i64).into()])?;
    b.give(0, d)
}

/// The sum over the copies.
pub(crate) fn repeat(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x) = (b.gradient()?, b.tensor(0)?);
    let (sizes, repeats) = (b.sizes(x)?, b.ints(1)?);
    let lead = repeats.len() - sizes.len().min(repeats.len());
    let mut apart = Vec::with_capacity(2 * repeats.len());
    let mut copies = Vec::with_capacity(repeats.len());
    for (i, &n) in repeats.iter().enumerate() {
        copies.push(apart.len() as i64);
        apart.extend([n, if i < lead { 1 } else { sizes[i - lead] }]);
    }
    let d = b.view(g, &apart)?;
    let d = b.sum(d, &copies)?;
    let d = b.view(d, &sizes)?;
    b.give(0, d)
}

/// The same again.
pub(crate) fn flip(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, dims) = (b.gradient()?, b.arg(1));
    let d = b.call(Op::Flip, [g.into(), dims])?;
    b.give(0, d)
}
