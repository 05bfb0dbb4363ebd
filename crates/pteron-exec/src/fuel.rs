//! How much a run may compute.

use pteron_ir::{Arg, Op, ValueId};

/// A budget of element operations, charged by each node before it is executed.
///
/// The charge is an estimate from the operator and the sizes of the call: [`Fuel::NODE`] for the node itself; one for each
/// element written or, where more are read than written, read; one for each multiply-add of a matrix product, a convolution
/// or attention. A loop pays for each of its iterations, and for what it carries from one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fuel {
    limit: Option<u64>,
    left: u64,
    refused: Option<u64>,
}

impl Fuel {
    /// What a node costs besides its elements: about as long as it takes to find its operands.
    pub const NODE: u64 = 64;

    /// A budget without an end.
    pub const UNLIMITED: Fuel = Fuel { limit: None, left: u64::MAX, refused: None };

    /// A budget of `limit` operations; none at all is no limit.
    pub fn new(limit: Option<u64>) -> Fuel {
        Fuel { limit, left: limit.unwrap_or(u64::MAX), refused: None }
    }

    /// Operations that it began with.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// Operations that it still has.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// What was asked for when it was not there any more.
    pub fn refused(&self) -> Option<u64> {
        self.refused
    }

    /// Takes what `cost` says, which is not called where there is no limit.
    ///
    /// # Errors
    /// A sentence, if less is left.
    #[inline]
    pub fn charge(&mut self, cost: impl FnOnce() -> u64) -> Result<(), String> {
        if self.limit.is_none() {
            return Ok(());
        }
        let cost = cost();
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.refused = Some(cost);
                Err(format!("needs {cost} operations, {} are left", self.left))
            }
        }
    }
}

fn product(sizes: &[usize]) -> u64 {
    sizes.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64))
}

/// Element operations of one node, given the sizes of this call and the ints that it knows.
pub(crate) fn cost<'a>(
    op: Op,
    args: &[Arg],
    outputs: &[ValueId],
    sizes: &dyn Fn(ValueId) -> &'a [usize],
    int: &dyn Fn(usize) -> Option<i64>,
) -> u64 {
    let tensor = |i: usize| -> &[usize] {
        match args.get(i) {
            Some(Arg::Value(v)) => sizes(*v),
            _ => &[],
        }
    };
    let numel = |i: usize| match args.get(i) {
        Some(Arg::Value(v)) => product(sizes(*v)),
        _ => 0,
    };
    let written = outputs.iter().fold(0u64, |n, &v| n.saturating_add(product(sizes(v))));
    let last = |i: usize| tensor(i).last().map_or(1, |&d| d as u64);
    // Elements of the dimensions of `i` but the first.
    let row = |i: usize| product(tensor(i).get(1..).unwrap_or(&[]));
    // Query, keys (of `positions`) and values: two products with each position.
    let attention = |query: usize, positions: u64| numel(query).saturating_mul(positions).saturating_mul(2);
    let cached = |start: usize, length: u64, capacity: u64| {
        let start = int(start).and_then(|s| u64::try_from(s).ok()).unwrap_or(0);
        start.saturating_add(length).min(capacity)
    };
    let dim = |i: usize, d: usize| tensor(i).get(d).map_or(1, |&d| d as u64);
    let work = match op {
        Op::Linear | Op::Mm | Op::Bmm => written.saturating_mul(last(0)),
        Op::AddMm => written.saturating_mul(last(1)),
        Op::Convolution if matches!(args.get(6), Some(Arg::Bool(true))) => numel(0).saturating_mul(row(1)),
        Op::Convolution => written.saturating_mul(row(1)),
        Op::Sdpa => {
            let keys = tensor(1);
            attention(0, keys.len().checked_sub(2).map_or(1, |d| dim(1, d)))
        }
        Op::CustomSdpa => attention(0, cached(3, dim(0, 1), dim(1, 1))),
        Op::SdpaWithKvCache => attention(0, cached(5, dim(0, 1), dim(3, 1))).saturating_add(numel(1)),
        Op::Sum
        | Op::Mean
        | Op::Amax
        | Op::Amin
        | Op::Argmax
        | Op::Argmin
        | Op::MaxDim
        | Op::MinDim
        | Op::AnyDim
        | Op::AnyAll
        | Op::Softmax
        | Op::LogSoftmax
        | Op::CumSum
        | Op::LayerNorm => numel(0),
        Op::TopK => numel(0).saturating_mul(u64::from(64 - numel(0).leading_zeros())),
        // What is written in place is as large as what is given, or as the indices say.
        Op::UpdateCache => numel(0),
        Op::CopyInto | Op::CopyIndex => return numel(1).saturating_add(Fuel::NODE),
        Op::IndexPutInto => {
            let indices = match args.get(1) {
                Some(Arg::Values(list)) => list.as_slice(),
                _ => &[],
            };
            let pairs = indices.iter().flatten().map(|&v| product(sizes(v))).max().unwrap_or(1);
            let rest = product(tensor(0).get(indices.len()..).unwrap_or(&[]));
            let held = indices.iter().zip(tensor(0)).filter(|(i, _)| i.is_none());
            let held = held.fold(1u64, |n, (_, &d)| n.saturating_mul(d as u64));
            return pairs.saturating_mul(rest).saturating_mul(held).max(numel(2)).saturating_add(Fuel::NODE);
        }
        _ => 0,
    };
    work.max(written).saturating_add(Fuel::NODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pteron_ir::Id;

    #[test]
    fn a_budget_ends() {
        let mut f = Fuel::new(Some(10));
        assert_eq!(f.charge(|| 4), Ok(()));
        assert!(f.charge(|| 7).unwrap_err().contains("7 operations, 6 are left"));
        assert_eq!((f.refused(), f.left()), (Some(7), 6));
        let mut none = Fuel::new(None);
        assert_eq!(none.charge(|| unreachable!("nobody asks")), Ok(()));
        assert_eq!(none.limit(), None);
    }

    #[test]
    fn classes_of_operators_cost_what_they_compute() {
        let shapes: [&[usize]; 6] = [&[2, 3, 8], &[5, 8], &[2, 3, 5], &[1, 4, 3, 8], &[1, 4, 7, 8], &[1, 16, 2, 8]];
        let of = |op: Op, args: &[usize], outputs: &[usize], start: i64| {
            let args: Vec<Arg> = args.iter().map(|&i| Arg::Value(ValueId::from_index(i))).collect();
            let outputs: Vec<ValueId> = outputs.iter().map(|&i| ValueId::from_index(i)).collect();
            cost(op, &args, &outputs, &|v| shapes[v.index()], &|_| Some(start)) - Fuel::NODE
        };
        assert_eq!(of(Op::Linear, &[0, 1], &[2], 0), 2 * 3 * 5 * 8);
        assert_eq!(of(Op::Relu, &[0], &[0], 0), 48);
        assert_eq!(of(Op::Sum, &[0], &[], 0), 48);
        assert_eq!(of(Op::Sdpa, &[3, 4, 4], &[3], 0), 2 * 4 * 3 * 8 * 7);
        // Four query positions after nine in a cache of sixteen.
        assert_eq!(of(Op::CustomSdpa, &[3, 5, 5], &[3], 9), 2 * 96 * 13);
        assert_eq!(of(Op::CustomSdpa, &[3, 5, 5], &[3], i64::MAX), 2 * 96 * 16);
        assert_eq!(of(Op::CopyInto, &[0, 1], &[0], 0), 40);
        assert_eq!(of(Op::PrimAdd, &[], &[], 0), 0);
    }
}
