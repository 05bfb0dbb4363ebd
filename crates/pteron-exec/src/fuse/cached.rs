//! Attention over caches that the same step writes: the rotations of queries and keys, the new rows, `custom_sdpa`.

use pteron_ir::{Arg, NodeId, Op, ValueId};
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Found, Fused};

/// Attention of new positions over two caches, behind writing them there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cached {
    /// `[B, S, Hq, D]` as `custom_sdpa` reads it: the result of `turn_q` where there is one.
    pub(crate) q: ValueId,
    /// `[B, S, Hkv, D]` as it goes into the cache: the result of `turn_k` where there is one.
    pub(crate) k: ValueId,
    pub(crate) v: ValueId,
    /// Rotations, each a [`Fused::Rope`].
    pub(crate) turn_q: Option<Fused>,
    pub(crate) turn_k: Option<Fused>,
    /// The first new position.
    pub(crate) start: Arg,
    pub(crate) is_causal: bool,
    pub(crate) scale: Option<f64>,
}

impl Cached {
    pub(super) fn inputs(&self) -> SmallVec<[ValueId; 8]> {
        let of = |turn: &Option<Fused>, plain: ValueId| turn.as_ref().map_or_else(|| smallvec![plain], Fused::inputs);
        let mut all: SmallVec<[ValueId; 8]> = of(&self.turn_q, self.q);
        all.extend(of(&self.turn_k, self.k));
        all.push(self.v);
        all
    }
}

impl Finder<'_> {
    /// The attention that `n`, a `custom_sdpa`, computes over caches written just for it. `turn` gives the rotation whose
    /// result a value is, with its nodes. The results are the attention's, the two caches, and the rotated queries.
    pub(super) fn cached(
        &self,
        n: NodeId,
        turn: &dyn Fn(ValueId) -> Option<(Fused, SmallVec<[NodeId; 16]>)>,
    ) -> Option<Found> {
        let written = |i: usize| {
            let cache = self.value(n, i)?;
            let update = self.maker(cache).filter(|&u| self.op(u) == Op::UpdateCache)?;
            let fits = self.graph.nodes[update].outputs.get(1) == Some(&cache) && self.arg(update, 2) == self.arg(n, 3);
            fits.then_some((update, self.value(update, 0)?, cache))
        };
        let ((uk, k, keys), (uv, v, values)) = (written(1)?, written(2)?);
        let (start, q, out) = (self.arg(n, 3)?.clone(), self.value(n, 0)?, self.out(n)?);
        let plain = matches!(self.arg(n, 4), None | Some(Arg::None)) && self.number(n, 5).unwrap_or(0.0) == 0.0;
        let is_causal = match self.arg(n, 6) {
            None | Some(Arg::None) => false,
            Some(Arg::Bool(b)) => *b,
            _ => return None,
        };
        let scale = match self.arg(n, 7) {
            None | Some(Arg::None) => None,
            Some(Arg::Float(f)) => Some(*f),
            _ => return None,
        };
        if !plain || uk == uv || !self.together(n, uk) || !self.together(n, uv) {
            return None;
        }
        let mut members: SmallVec<[NodeId; 16]> = smallvec![uk, uv, n];
        let mut turned = |x: ValueId, reader: NodeId| {
            let (rope, nodes) = turn(x).filter(|_| self.sole_user(x) == Some(reader))?;
            members.extend(nodes);
            Some(rope)
        };
        let (turn_q, turn_k) = (turned(q, n), turned(k, uk));
        let mut outs = smallvec![out, keys, values];
        outs.extend(turn_q.is_some().then_some(q));
        let what = Cached { q, k, v, turn_q, turn_k, start, is_causal, scale };
        Some((members, Fused::Cached(Box::new(what)), outs))
    }
}
