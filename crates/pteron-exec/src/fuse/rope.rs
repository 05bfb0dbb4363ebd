//! Rotary embedding in its three spellings: halves, neighbours, and `x·cos + rotate_half(x)·sin`.

use pteron_ir::{Arg, NodeId, Op, ValueId};
use pteron_kernels::nn::RopeStyle;
use pteron_tensor::DType;
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Found, Fused};

type Members = SmallVec<[NodeId; 16]>;

/// The products below a rotation: of which two parts, by which angles.
struct Turned {
    members: Members,
    /// First and second part of `x`.
    parts: (ValueId, ValueId),
    cos: ValueId,
    sin: ValueId,
}

impl Finder<'_> {
    /// `n` joins the rotated parts, or is the sum of `x·cos` and `rotate_half(x)·sin`.
    pub(super) fn rope(&self, n: NodeId) -> Option<Found> {
        match self.op(n) {
            Op::Cat => self.rope_of_halves(n).or_else(|| self.rope_of_neighbours(n)),
            Op::Add => self.rope_of_rotated(n),
            _ => None,
        }
    }

    /// The two tensors that a `cat` along the last of `rank` dimensions joins.
    fn joined(&self, cat: NodeId, rank: usize) -> Option<(ValueId, ValueId)> {
        let Some(Arg::Values(parts)) = self.arg(cat, 0) else { return None };
        let &[Some(low), Some(high)] = &parts[..] else { return None };
        (self.rank(self.out(cat)?)? == rank && self.is_last_dim(cat, 1, rank)).then_some((low, high))
    }

    /// `a·cos - b·sin` and `b·cos + a·sin`.
    fn turned(&self, low: ValueId, high: ValueId) -> Option<Turned> {
        let (sub, add) = (self.made_by(low, Op::Sub)?, self.made_by(high, Op::Add)?);
        let (u, v) = self.two(add)?;
        let products = [self.two(sub)?.0, self.two(sub)?.1, u, v].map(|p| self.made_by(p, Op::Mul));
        let [Some(ac), Some(bs), Some(u), Some(v)] = products else { return None };
        if !self.alpha_is_one(sub) || !self.alpha_is_one(add) {
            return None;
        }
        let is = |n: NodeId, x: ValueId, y: ValueId| self.beside(n, x) == Some(y);
        let (p, q) = self.two(ac)?;
        let (r, s) = self.two(bs)?;
        for (a, cos) in [(p, q), (q, p)] {
            for (b, sin) in [(r, s), (s, r)] {
                let fits = a != cos
                    && b != sin
                    && self.is_angles(cos)
                    && self.is_angles(sin)
                    && (is(u, b, cos) && is(v, a, sin) || is(u, a, sin) && is(v, b, cos));
                if fits {
                    let members = smallvec![sub, add, ac, bs, u, v];
                    return Some(Turned { members, parts: (a, b), cos, sin });
                }
            }
        }
        None
    }

    /// f32 of sizes `[S, 1, n]` or `[1, S, 1, n]`, `n` being fixed.
    fn is_angles(&self, v: ValueId) -> bool {
        let Some(t) = self.ty(v) else { return false };
        let rank = t.dims.len();
        let one = |d: usize| t.dims[d].as_const() == Some(1);
        t.dtype == DType::F32
            && (rank == 3 || rank == 4 && one(0))
            && one(rank - 2)
            && t.dims[rank - 1].as_const().is_some()
    }

    /// The width of `x`'s heads where it is `[B, S, H, D]` with an even `D`.
    fn width(&self, x: ValueId) -> Option<i64> {
        let width = self.last_dim(x)?;
        (self.rank(x)? == 4 && width > 0 && width % 2 == 0).then_some(width)
    }

    /// What is converted to f32 before and back afterwards, and the result then.
    fn narrowed(&self, wide: ValueId, out: ValueId, members: &mut Members) -> Option<(ValueId, ValueId)> {
        let (x, widening) = self.before_widening(wide)?;
        let Some(widening) = widening else { return Some((x, out)) };
        let narrowing = self.only_user(out, Op::ToCopy)?;
        let narrow = self.out(narrowing)?;
        members.extend([widening, narrowing]);
        (self.dtype(narrow) == self.dtype(x)).then_some((x, narrow))
    }

    fn rope_of_halves(&self, cat: NodeId) -> Option<Found> {
        let (low, high) = self.joined(cat, 4)?;
        let Turned { mut members, parts: (a, b), cos, sin } = self.turned(low, high)?;
        let (first, second) = (self.producer(a)?, self.producer(b)?);
        let wide = self.value(first, 0)?;
        let width = self.width(wide)?;
        let fits = self.value(second, 0) == Some(wide)
            && self.is_slice(first, 4, 0, width / 2, width)
            && self.is_slice(second, 4, width / 2, width, width)
            && [cos, sin].iter().all(|&v| self.last_dim(v) == Some(width / 2));
        members.extend([cat, first, second]);
        let (x, out) = self.narrowed(wide, self.out(cat)?, &mut members)?;
        fits.then_some((members, Fused::Rope { x, pairs: None, cos, sin, style: RopeStyle::HalfSplit }, smallvec![out]))
    }

    /// Neighbours: the last dimension is viewed as pairs, and the pairs that are joined as one dimension again.
    fn rope_of_neighbours(&self, cat: NodeId) -> Option<Found> {
        let (low, high) = self.joined(cat, 5)?;
        // Each with a dimension of 1 at the end.
        let (under_low, under_high) = (self.producer(low)?, self.producer(high)?);
        let flat = |n: NodeId| self.op(n).is_view().then(|| self.value(n, 0)).flatten();
        let one = |v: ValueId| self.rank(v) == Some(5) && self.last_dim(v) == Some(1);
        if !one(low) || !one(high) {
            return None;
        }
        let (low, high) = (flat(under_low)?, flat(under_high)?);
        let Turned { mut members, parts: (a, b), cos, sin } = self.turned(low, high)?;
        members.extend([cat, under_low, under_high]);
        let pairs = self.of_pairs(a, 0, &mut members)?;
        if self.of_pairs(b, 1, &mut members)? != pairs || self.rank(pairs)? != 5 || self.last_dim(pairs) != Some(2) {
            return None;
        }
        let split = self.producer(pairs)?;
        let joined = self.sole_user(self.out(cat)?)?;
        if !self.op(split).is_view() || !self.op(joined).is_view() {
            return None;
        }
        members.extend([split, joined]);
        let out = self.out(joined)?;
        let width = self.width(out)?;
        let fits = [cos, sin].iter().all(|&v| self.last_dim(v) == Some(width / 2));
        let (x, out) = self.narrowed(self.value(split, 0)?, out, &mut members)?;
        let what = Fused::Rope { x, pairs: Some(pairs), cos, sin, style: RopeStyle::Interleaved };
        fits.then_some((members, what, smallvec![out]))
    }

    /// What `v` is element `which` of the last dimension of.
    fn of_pairs(&self, v: ValueId, which: i64, members: &mut Members) -> Option<ValueId> {
        let n = self.producer(v)?;
        members.push(n);
        if self.op(n) == Op::SelectCopy {
            let (dim, index) = (self.number(n, 1)?, self.number(n, 2)?);
            let last = dim == 4.0 || dim == -1.0;
            let same = index == which as f64 || index == (which - 2) as f64;
            return (last && same).then(|| self.value(n, 0)).flatten();
        }
        if !self.op(n).is_view() || self.rank(v)? != 4 {
            return None;
        }
        let slice = self.producer(self.value(n, 0)?)?;
        members.push(slice);
        self.is_slice(slice, 5, which, which + 1, 2).then(|| self.value(slice, 0)).flatten()
    }

    /// `x·cos + cat(-x₂, x₁)·sin`, whose angles are given for both halves.
    fn rope_of_rotated(&self, add: NodeId) -> Option<Found> {
        let (u, v) = self.two(add)?;
        let (u, v) = (self.made_by(u, Op::Mul)?, self.made_by(v, Op::Mul)?);
        if !self.alpha_is_one(add) {
            return None;
        }
        for (plain, rotated) in [(u, v), (v, u)] {
            let (p, q) = self.two(rotated)?;
            for (cat, sin) in [(p, q), (q, p)] {
                let Some(cat) = self.made_by(cat, Op::Cat) else { continue };
                let Some((low, high)) = self.joined(cat, 4) else { continue };
                let (Some(neg), Some(first)) = (self.made_by(low, Op::Neg), self.producer(high)) else { continue };
                let (Some(second), Some(wide)) =
                    (self.value(neg, 0).and_then(|b| self.producer(b)), self.value(first, 0))
                else {
                    continue;
                };
                let (Some(width), Some(cos)) = (self.width(wide), self.beside(plain, wide)) else { continue };
                let fits = self.value(second, 0) == Some(wide)
                    && self.is_slice(first, 4, 0, width / 2, width)
                    && self.is_slice(second, 4, width / 2, width, width)
                    && [cos, sin].iter().all(|&v| self.is_angles(v) && self.last_dim(v) == Some(width));
                if !fits {
                    continue;
                }
                let mut members = smallvec![add, plain, rotated, cat, neg, first, second];
                let (x, out) = self.narrowed(wide, self.out(add)?, &mut members)?;
                let what = Fused::Rope { x, pairs: None, cos, sin, style: RopeStyle::RotateHalf };
                return Some((members, what, smallvec![out]));
            }
        }
        None
    }
}
