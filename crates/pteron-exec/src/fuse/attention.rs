//! Attention in its parts: products, mask, softmax, guards of rows that see nothing.
//!
//! Between the tensors and the two products stand operators that only move elements: heads are split off, repeated for
//! the queries that share them, batch and heads are made one dimension. The plan notes these nodes; what they come to is
//! worked out from the sizes of a call ([`Attention::shape`]), and where it is no attention, the nodes are executed.

use pteron_ir::{Arg, NodeId, Op, ValueId};
use pteron_tensor::{DType, Shape, contiguous_order, strides_for};
use smallvec::{SmallVec, smallvec};

use super::finder::Finder;
use super::{Found, Fused};

/// A tensor and the nodes that bring its elements to where a product reads them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Chain {
    pub(crate) source: ValueId,
    /// From the source on.
    nodes: SmallVec<[NodeId; 8]>,
    /// The product of all factors on the way.
    scale: f64,
}

/// The parts of an attention.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) q: ValueId,
    pub(crate) k: ValueId,
    pub(crate) v: ValueId,
    /// Added to the scores.
    pub(crate) mask: Option<ValueId>,
    query: Chain,
    key: Chain,
    value: Chain,
    /// What the scores and the weights go through on their way from product to product.
    scores: Chain,
    weights: Chain,
    /// From the second product to the result.
    result: Chain,
    /// The scores that the softmax reads.
    masked: ValueId,
    /// Rows that see nothing are 0 and not NaN.
    pub(crate) empty_is_zero: bool,
}

/// What the parts come to in a call. Strides are those of batch-less heads, positions and elements.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttentionShape {
    /// Query heads, key heads, queries, keys, elements of a key, elements of a value.
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) width: usize,
    pub(crate) value_width: usize,
    pub(crate) q: [usize; 3],
    pub(crate) k: [usize; 3],
    pub(crate) v: [usize; 3],
    pub(crate) out: [usize; 2],
    pub(crate) scale: f64,
}

/// Operators that only move elements, or multiply all of them by a number.
fn only_moves(op: Op) -> bool {
    op.is_view()
        || matches!(op, Op::ExpandCopy | Op::Clone | Op::PermuteCopy | Op::TransposeCopy | Op::MulScalar | Op::ToCopy)
}

impl Finder<'_> {
    /// The attention whose softmax `n` is, of nodes for which `is_free` holds.
    pub(super) fn attention(&self, n: NodeId, is_free: &dyn Fn(NodeId) -> bool) -> Option<Found> {
        let masked = self.value(n, 0)?;
        if !self.is_last_dim(n, 1, self.rank(masked)?) || self.dtype(masked)? != DType::F32 {
            return None;
        }
        let mut members: SmallVec<[NodeId; 16]> = smallvec![n];
        let mut soft = self.out(n)?;
        let mut empty_is_zero = false;
        if let Some((guards, guarded)) = self.guards(masked, soft) {
            members.extend(guards);
            (soft, empty_is_zero) = (guarded, true);
        }
        // Upwards.
        let (mut below, mut mask) = (masked, None);
        if let Some(add) = self.made_by(masked, Op::Add).filter(|&a| self.alpha_is_one(a)) {
            let (a, b) = self.two(add)?;
            let product_of =
                |v: ValueId| self.op(self.producer(self.walk_up(v, is_free).source)?).eq(&Op::Bmm).then_some(v);
            let (x, m) = if product_of(a).is_some() { (a, b) } else { (b, a) };
            if self.dtype(m)? != DType::F32 {
                return None;
            }
            members.push(add);
            (below, mask) = (x, Some(m));
        }
        let scores = self.walk_up(below, is_free);
        let first = self.made_by(scores.source, Op::Bmm)?;
        let (query, key) = (self.walk_up(self.two(first)?.0, is_free), self.walk_up(self.two(first)?.1, is_free));
        // Downwards.
        let weights = self.walk_down(soft);
        let second = self.only_user(self.end_of(&weights)?, Op::Bmm)?;
        if self.value(second, 0) != Some(self.end_of(&weights)?) {
            return None;
        }
        let value = self.walk_up(self.value(second, 1)?, is_free);
        let result = self.walk_down(self.out(second)?);
        let out = self.end_of(&result)?;
        members.extend([first, second]);
        for chain in [&scores, &weights, &result] {
            members.extend(chain.nodes.iter().copied());
        }
        // Of the ways from query, key and value, what nobody else needs.
        let (mut own, mut grew) = (members.clone(), true);
        while grew {
            grew = false;
            for &m in query.nodes.iter().chain(&key.nodes).chain(&value.nodes) {
                if !own.contains(&m) && self.out(m).is_some_and(|v| self.is_read_only_by(v, &own)) {
                    own.push(m);
                    grew = true;
                }
            }
        }
        let dtype = self.dtype(query.source)?;
        let known = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        let same = [key.source, value.source, out].iter().all(|&v| self.dtype(v) == Some(dtype));
        let plain = [&scores, &weights, &value, &result].iter().all(|c| c.scale == 1.0);
        let wide = [self.out(first)?, self.out(second)?].iter().all(|&v| self.dtype(v) == Some(DType::F32));
        let (q, k, v) = (query.source, key.source, value.source);
        let what = Attention { q, k, v, mask, query, key, value, scores, weights, result, masked, empty_is_zero };
        (known && same && plain && wide).then(|| (own, Fused::Sdpa(Box::new(what)), smallvec![out]))
    }

    /// The nodes that make 0 of the rows of `soft` whose scores are all -∞, and what they give.
    fn guards(&self, scores: ValueId, soft: ValueId) -> Option<(SmallVec<[NodeId; 6]>, ValueId)> {
        let hidden = self.users(scores).iter().copied().find(|&n| self.op(n) == Op::EqScalar)?;
        let shown = self.only_user(self.out(hidden)?, Op::LogicalNot)?;
        let any = self.only_user(self.out(shown)?, Op::AnyDim)?;
        let none = self.only_user(self.out(any)?, Op::LogicalNot)?;
        let choice = self.only_user(self.out(none)?, Op::Where)?;
        let zeros = self.made_by(self.value(choice, 1)?, Op::FullLike)?;
        let fits = self.number(hidden, 1) == Some(f64::NEG_INFINITY)
            && self.is_last_dim(any, 1, self.rank(scores)?)
            && matches!(self.arg(any, 2), Some(Arg::Bool(true)))
            && self.value(choice, 0) == self.out(none)
            && self.value(choice, 2) == Some(soft)
            && self.value(zeros, 0) == Some(soft)
            && self.number(zeros, 1) == Some(0.0);
        fits.then(|| Some((smallvec![hidden, shown, any, none, zeros, choice], self.out(choice)?))).flatten()
    }

    /// From `v` back over free nodes that only move elements.
    fn walk_up(&self, v: ValueId, is_free: &dyn Fn(NodeId) -> bool) -> Chain {
        let mut chain = Chain { source: v, nodes: SmallVec::new(), scale: 1.0 };
        while let Some(n) = self.producer(chain.source).filter(|&n| only_moves(self.op(n)) && is_free(n)) {
            let Some(scale) = self.step(n) else { break };
            let Some(from) = self.value(n, 0) else { break };
            chain.scale *= scale;
            chain.nodes.insert(0, n);
            chain.source = from;
        }
        chain
    }

    /// From `v` on over nodes that only move elements, each the only reader of what comes before.
    fn walk_down(&self, v: ValueId) -> Chain {
        let mut chain = Chain { source: v, nodes: SmallVec::new(), scale: 1.0 };
        let mut at = v;
        while let Some(n) = self.sole_user(at).filter(|&n| only_moves(self.op(n))) {
            let (Some(1.0), Some(next)) = (self.step(n), self.out(n)) else { break };
            chain.nodes.push(n);
            at = next;
        }
        chain
    }

    fn end_of(&self, chain: &Chain) -> Option<ValueId> {
        chain.nodes.last().map_or(Some(chain.source), |&n| self.out(n))
    }

    /// The factor of a node that only moves elements; `None` for one that does more.
    fn step(&self, n: NodeId) -> Option<f64> {
        match self.op(n) {
            Op::MulScalar => self.number(n, 1),
            Op::ToCopy => {
                let narrow = |v| matches!(self.dtype(v), Some(DType::F16 | DType::BF16));
                let (from, to) = (self.value(n, 0)?, self.out(n)?);
                let wide = |v| self.dtype(v) == Some(DType::F32);
                (narrow(from) && wide(to) || wide(from) && narrow(to)).then_some(1.0)
            }
            _ => Some(1.0),
        }
    }
}

/// A dimension as factors: size and distance in the source, the outermost first, none of size 1.
type Factors = SmallVec<[(usize, usize); 3]>;

/// Where the elements of a tensor lie in the source of its chain.
#[derive(Clone, Debug)]
struct Moved(SmallVec<[Factors; 5]>);

impl Moved {
    fn of(sizes: &[usize]) -> Option<Moved> {
        (!sizes.contains(&0)).then_some(())?;
        let strides = strides_for(sizes, &contiguous_order(sizes.len())).ok()?;
        let dim = |(&n, &s): (&usize, &usize)| if n == 1 { SmallVec::new() } else { smallvec![(n, s)] };
        Some(Moved(sizes.iter().zip(&strides).map(dim).collect()))
    }

    /// The same elements in the same order with other sizes.
    fn view(&self, sizes: &[usize]) -> Option<Moved> {
        (!sizes.contains(&0)).then_some(())?;
        let mut left: SmallVec<[(usize, usize); 8]> = self.0.iter().flatten().rev().copied().collect();
        let mut out = SmallVec::new();
        for &size in sizes {
            let (mut dim, mut need) = (Factors::new(), size);
            while need != 1 {
                let (n, s) = left.pop()?;
                if need % n == 0 {
                    dim.push((n, s));
                    need /= n;
                } else if n % need == 0 && need > 1 {
                    dim.push((need, s * (n / need)));
                    left.push((n / need, s));
                    need = 1;
                } else {
                    return None;
                }
            }
            out.push(dim);
        }
        left.is_empty().then_some(Moved(out))
    }

    /// The only factor of dimension `d` after neighbours that lie one behind the other are made one; (1, 0) if it has none.
    fn single(&self, d: usize) -> Option<(usize, usize)> {
        let mut all: Factors = SmallVec::new();
        for &(n, s) in self.0.get(d)? {
            match all.last_mut() {
                Some((m, t)) if *t == n * s => (*m, *t) = (*m * n, s),
                _ => all.push((n, s)),
            }
        }
        match all[..] {
            [] => Some((1, 0)),
            [one] => Some(one),
            _ => None,
        }
    }

    /// Size and distance of what dimension `d` has, and how often each is repeated in a row.
    fn repeated(&self, d: usize) -> Option<(usize, usize, usize)> {
        let dim = self.0.get(d)?;
        let own: Factors = dim.iter().copied().filter(|f| f.1 != 0).collect();
        let times = dim.iter().filter(|f| f.1 == 0).map(|f| f.0).product();
        // Repetitions stand innermost.
        let inner = dim.iter().skip_while(|f| f.1 != 0).all(|f| f.1 == 0);
        let (n, s) = Moved(smallvec![own]).single(0)?;
        inner.then_some((n, s, times))
    }
}

/// What the steps of a chain need to know of a call and of the graph.
pub(crate) struct Sizes<'a> {
    pub(crate) of: &'a dyn Fn(ValueId) -> Shape,
    pub(crate) graph: &'a pteron_ir::Graph,
}

impl Chain {
    /// Where the elements of the chain's end lie in its source.
    fn moved(&self, sizes: &Sizes<'_>) -> Option<Moved> {
        let mut at = Moved::of(&(sizes.of)(self.source))?;
        for &n in &self.nodes {
            let node = &sizes.graph.nodes[n];
            let to = (sizes.of)(*node.outputs.first()?);
            let int = |i: usize| match node.args.get(i) {
                Some(Arg::Int(d)) => usize::try_from(if *d < 0 { d + i64::try_from(to.len()).ok()? } else { *d }).ok(),
                _ => None,
            };
            at = match node.op {
                Op::MulScalar | Op::ToCopy | Op::Clone => at,
                Op::ExpandCopy => {
                    let lead = to.len().checked_sub(at.0.len())?;
                    let mut dims: SmallVec<[Factors; 5]> = SmallVec::new();
                    for (d, &size) in to.iter().enumerate() {
                        let old = d.checked_sub(lead).map(|d| at.0[d].clone()).unwrap_or_default();
                        let held: usize = old.iter().map(|f| f.0).product();
                        dims.push(match held {
                            n if n == size => old,
                            1 => smallvec![(size, 0)],
                            _ => return None,
                        });
                    }
                    Moved(dims)
                }
                Op::TransposeCopy => {
                    let (a, b) = (int(1)?, int(2)?);
                    (a < at.0.len() && b < at.0.len()).then(|| at.0.swap(a, b))?;
                    at
                }
                Op::PermuteCopy => {
                    let Some(Arg::Ints(order)) = node.args.get(1) else { return None };
                    let mut dims = SmallVec::new();
                    for o in order.iter() {
                        let pteron_ir::IntArg::Const(d) = o else { return None };
                        let d = if *d < 0 { d + i64::try_from(at.0.len()).ok()? } else { *d };
                        dims.push(at.0.get(usize::try_from(d).ok()?)?.clone());
                    }
                    Moved(dims)
                }
                // Views of all kinds: the same elements in the same order.
                _ => at.view(&to)?,
            };
            let counted: usize = at.0.iter().flatten().map(|f| f.0).product();
            if counted != to.iter().product::<usize>() || at.0.len() != to.len() {
                return None;
            }
        }
        Some(at)
    }
}

impl Attention {
    /// Values whose sizes the shape depends on, besides those of the group's members.
    pub(crate) fn on_the_way<'a>(&'a self, graph: &'a pteron_ir::Graph) -> impl Iterator<Item = ValueId> + 'a {
        let nodes = [&self.query, &self.key, &self.value].into_iter().flat_map(|c| &c.nodes);
        nodes.flat_map(|&n| graph.nodes[n].outputs.iter().copied())
    }

    /// What the parts come to with the sizes of a call; `None` if that is no attention that the kernel computes.
    pub(crate) fn shape(&self, sizes: &Sizes<'_>) -> Option<AttentionShape> {
        let (q, k, v) = (self.query.moved(sizes)?, self.key.moved(sizes)?, self.value.moved(sizes)?);
        let [q3, k3, v3] = [&q, &k, &v].map(|m| m.0.len() == 3);
        if !(q3 && k3 && v3) {
            return None;
        }
        let ((heads, qh), (queries, qs), (width, qd)) = (q.single(0)?, q.single(1)?, q.single(2)?);
        let ((kv_heads, kh, group), (kd_n, kd), (keys, ks)) = (k.repeated(0)?, k.single(1)?, k.single(2)?);
        let ((v_heads, vh, v_group), (v_keys, vs), (value_width, vd)) = (v.repeated(0)?, v.single(1)?, v.single(2)?);
        let fits = heads == kv_heads * group
            && (kv_heads, group) == (v_heads, v_group)
            && kd_n == width
            && v_keys == keys
            && (qd == 1 || width == 1)
            && (kd == 1 || width == 1)
            && (vd == 1 || value_width == 1)
            && [heads, queries, keys, width, value_width].iter().all(|&n| n > 0);
        // From product to product elements keep their places.
        let in_place = |c: &Chain, expected: &[usize]| {
            let source = (sizes.of)(c.source);
            let same = c.moved(sizes).and_then(|m| m.view(&source)).is_some_and(|m| {
                let whole = Moved::of(&source);
                whole.is_some_and(|w| (0..source.len()).all(|d| m.single(d) == w.single(d)))
            });
            same && source.iter().product::<usize>() == expected.iter().product()
        };
        let square = [heads, queries, keys];
        if !fits || !in_place(&self.scores, &square) || !in_place(&self.weights, &square) {
            return None;
        }
        let masked = (sizes.of)(self.masked);
        if masked.iter().product::<usize>() != heads * queries * keys || masked.last() != Some(&keys) {
            return None;
        }
        if let Some(m) = self.mask {
            let m = (sizes.of)(m);
            let scores = [1, heads, queries, keys];
            let fits = m.len() <= 4 && m.iter().rev().zip(scores.iter().rev()).all(|(&a, &b)| a == b || a == 1);
            // Scores that are broadcast themselves have other rows than those of the mask.
            let rows = masked.iter().rev().zip(scores.iter().rev()).all(|(a, b)| a == b);
            if !fits || !rows {
                return None;
            }
        }
        // The result is written whole; where its elements come from says where rows of the product go.
        let result = self.result.moved(sizes)?;
        if (sizes.of)(self.result.source)[..] != [heads, queries, value_width] {
            return None;
        }
        let flat: SmallVec<[(usize, usize); 8]> = result.0.iter().flatten().copied().collect();
        let (mut out, mut behind) = ([0, 0], 1);
        let mut last = true;
        for &(n, s) in flat.iter().rev() {
            match s {
                1 if last && n == value_width => {}
                s if s == value_width && n == queries && out[1] == 0 => out[1] = behind,
                s if s == queries * value_width && n == heads && out[0] == 0 => out[0] = behind,
                _ => return None,
            }
            last = false;
            behind *= n;
        }
        Some(AttentionShape {
            heads,
            kv_heads,
            queries,
            keys,
            width,
            value_width,
            q: [qh, qs, qd],
            k: [kh, ks, kd],
            v: [vh, vs, vd],
            out,
            scale: self.query.scale * self.key.scale,
        })
    }
}
