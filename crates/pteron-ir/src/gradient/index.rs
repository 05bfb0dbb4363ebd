//! Rules of operators that look elements up: gradients are added up where the elements came from.

use pteron_tensor::DType;
use smallvec::SmallVec;

use super::{Backward, GradientResult};
use crate::arg::Arg;
use crate::entity::ValueId;
use crate::op::Op;

type Indices = SmallVec<[Option<ValueId>; 4]>;

/// Adds the gradient up at `indices` of argument 0.
fn scattered(b: &mut Backward<'_, '_>, g: ValueId, indices: Indices) -> GradientResult {
    let x = b.tensor(0)?;
    let sizes = b.sizes(x)?;
    let zeros = b.zeros(&sizes, x)?;
    let d = b.call(Op::IndexPut, [zeros.into(), Arg::Values(indices), g.into(), true.into()])?;
    b.give(0, d)
}

/// Rows of a table; the row of `padding_idx` gets nothing.
pub(crate) fn embedding(b: &mut Backward<'_, '_>) -> GradientResult {
    let (mut g, indices, padding) = (b.gradient()?, b.tensor(1)?, b.int(2)?);
    if padding >= 0 {
        let counts = b.call(Op::NeScalar, [indices.into(), padding.into()])?;
        let dtype = b.ty(g).dtype;
        let counts = b.call(Op::ToCopy, [counts.into(), dtype.into()])?;
        let counts = b.call(Op::UnsqueezeCopy, [counts.into(), (-1i64).into()])?;
        g = b.mul(g, counts)?;
    }
    scattered(b, g, SmallVec::from_iter([Some(indices)]))
}

/// `x[indices]`.
pub(crate) fn index(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    let Arg::Values(indices) = b.arg(1) else { return b.fail("the indices are no list of tensors") };
    scattered(b, g, indices)
}

/// Rows along a dimension.
pub(crate) fn index_select(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, x, rows) = (b.gradient()?, b.tensor(0)?, b.tensor(2)?);
    let rank = b.sizes(x)?.len();
    let dim = b.dim(b.int(1)?, rank)?;
    scattered(b, g, (0..dim).map(|_| None).chain([Some(rows)]).collect())
}

/// One element a place of the index along a dimension: the other dimensions count through their own places.
pub(crate) fn gather(b: &mut Backward<'_, '_>) -> GradientResult {
    let (g, at) = (b.gradient()?, b.tensor(2)?);
    let sizes = b.sizes(at)?;
    let dim = b.dim(b.int(1)?, sizes.len())?;
    let mut indices = Indices::new();
    for (d, &n) in sizes.iter().enumerate() {
        if d == dim {
            indices.push(Some(at));
            continue;
        }
        let count = b.call(Op::Arange, [0i64.into(), n.into(), 1i64.into(), DType::I64.into()])?;
        let mut along = vec![1i64; sizes.len()];
        along[d] = n;
        indices.push(Some(b.view(count, &along)?));
    }
    scattered(b, g, indices)
}
