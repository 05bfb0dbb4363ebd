//! Linear layers of one input, and products with a transposed weight as the linear layers that they are.

use pteron_ir::{NodeId, Op, ValueId};
use pteron_tensor::DType;
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Found, Fused};

/// One layer of a group: `x·weightᵀ + bias`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Layer {
    /// `[N, K]`.
    pub(crate) weight: ValueId,
    /// `[N]`.
    pub(crate) bias: Option<ValueId>,
}

/// A layer with its nodes.
struct Single {
    members: SmallVec<[NodeId; 2]>,
    x: ValueId,
    layer: Layer,
    out: ValueId,
}

impl Finder<'_> {
    /// The layers of which `n` is the first, for whose nodes `is_free` holds: several of one input, one that was a product
    /// with a transposed weight, or one of bf16, whose weight may be laid out.
    pub(super) fn linears(&self, n: NodeId, is_free: &dyn Fn(NodeId) -> bool) -> Option<Found> {
        let first = self.layer(n).filter(|l| l.members.iter().all(|&m| is_free(m)))?;
        let x = first.x;
        let mut all: SmallVec<[Single; 3]> = smallvec![first];
        for &other in self.users(x) {
            if self.position[other] > self.position[n]
                && self.together(n, other)
                && let Some(l) = self.layer(other)
                && l.x == x
                && l.members.iter().all(|&m| is_free(m))
                && self.dtype(l.out) == self.dtype(all[0].out)
                && self.rank(l.out) == self.rank(all[0].out)
            {
                all.push(l);
            }
        }
        let of = self.dtype(x)?;
        let is_whole = all.len() == 1 && all[0].members.len() == 1;
        if is_whole && (of != DType::BF16 || !self.is_const(all[0].layer.weight)) {
            return None;
        }
        let members = all.iter().flat_map(|l| l.members.iter().copied()).collect();
        let outs = all.iter().map(|l| l.out).collect();
        let layers = all.iter().map(|l| l.layer).collect();
        Some((members, Fused::Linears { x, of, layers }, outs))
    }

    fn layer(&self, n: NodeId) -> Option<Single> {
        let out = self.out(n)?;
        let (x, weight, bias) = match self.op(n) {
            Op::Linear => {
                let layer = Layer { weight: self.value(n, 1)?, bias: self.value(n, 2) };
                return Some(Single { members: smallvec![n], x: self.value(n, 0)?, layer, out });
            }
            Op::Mm => (self.value(n, 0)?, self.value(n, 1)?, None),
            Op::AddMm => {
                let bias = self.value(n, 0)?;
                let plain = self.number(n, 3).unwrap_or(1.0) == 1.0 && self.number(n, 4).unwrap_or(1.0) == 1.0;
                if !plain || self.rank(bias)? != 1 || self.last_dim(bias) != self.last_dim(out) {
                    return None;
                }
                (self.value(n, 1)?, self.value(n, 2)?, Some(bias))
            }
            _ => return None,
        };
        // Integers wrap in the same way, but their kernels are not those of layers.
        if !self.dtype(x)?.is_float() {
            return None;
        }
        let turned = self.producer(weight)?;
        let swaps = match self.op(turned) {
            Op::PermuteCopy => self.ints(turned, 1)?[..] == [1, 0],
            Op::TransposeCopy => {
                let (a, b) = (self.number(turned, 1)?, self.number(turned, 2)?);
                let place = |d: f64| if d < 0.0 { d + 2.0 } else { d };
                place(a) != place(b)
            }
            _ => false,
        };
        let rows = self.value(turned, 0)?;
        if !swaps || self.rank(rows)? != 2 {
            return None;
        }
        let members = if self.is_read_only_by(weight, &[n]) { smallvec![turned, n] } else { smallvec![n] };
        Some(Single { members, x, layer: Layer { weight: rows, bias }, out })
    }
}
