//! The gate of a feed-forward layer.

use pteron_ir::{NodeId, Op, ValueId};
use pteron_tensor::DType;
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Found, Fused};

impl Finder<'_> {
    /// `sigmoid` is that of `silu`'s decomposition, whose result is multiplied by another tensor.
    pub(super) fn silu_gate(&self, sigmoid: NodeId) -> Option<Found> {
        let (x, s) = (self.value(sigmoid, 0)?, self.out(sigmoid)?);
        let silu = self.only_user(s, Op::Mul)?;
        if self.beside(silu, s) != Some(x) || x == s {
            return None;
        }
        let y = self.out(silu)?;
        let mut members: SmallVec<[NodeId; 16]> = smallvec![sigmoid, silu];
        let product = self.only_user(y, Op::Mul)?;
        members.push(product);
        let gate = self.beside(product, y)?;
        let out = self.out(product)?;
        let (dtype, rank) = (self.dtype(x)?, self.rank(x)?);
        let same = |&v: &ValueId| self.dtype(v) == Some(dtype) && self.rank(v) == Some(rank);
        let fits =
            gate != y && matches!(dtype, DType::F16 | DType::BF16 | DType::F32) && [s, y, gate, out].iter().all(same);
        fits.then_some((members, Fused::SiluGate { x, gate }, smallvec![out]))
    }
}
