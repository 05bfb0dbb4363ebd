//! Nodes that are executed together: the machine level of a plan, which exists in memory only.
//!
//! A decomposed operator is a dozen nodes, each of which walks its tensors and is resolved for itself; and neighbours often
//! read the same tensor. Where a graph holds such nodes, the plan marks them as a [`Group`]: they are passed over, and at one
//! of them one kernel computes what they would have.
//!
//! | group | from | result |
//! |---|---|---|
//! | norms (`norm.rs`) | products, mean, root, of any exporter; with the sum before it | the same bits |
//! | rotary embedding (`rope.rs`) | halves, neighbours, `x·cos + rotate_half(x)·sin` | the same bits |
//! | gate (`gate.rs`) | `x·sigmoid(x)·y` | the same bits |
//! | linear layers of one input (`linear.rs`) | `linear`; `mm` and `addmm` by a transposed weight | the same bits; a product with a transposed weight within the tolerance of its sum |
//! | layers with packed weights (`coded.rs`) | `linear`, `mm`, `addmm` by dequantized codes, of floats or of codes | exact sums of codes: within the tolerance of the dequantized sum |
//! | a norm or a gate before such layers, read by nothing else | any of the above | the same bits |
//! | attention over caches (`cached.rs`) | rotations, `update_cache` twice, `custom_sdpa` | the same bits |
//! | attention (`attention.rs`) | scaled products, mask, softmax with or without its guards | within the tolerance of its sums |
//!
//! Nobody can tell: the values between have no reader outside of the group, none is an output or goes to a region's end, and a
//! run whose outputs are watched executes every node by itself. Where the sizes of a call are not those that a kernel takes,
//! the nodes of that group are executed one by one at its place.

mod attention;
mod cached;
mod coded;
mod finder;
mod gate;
mod linear;
mod norm;
mod rope;

use pteron_ir::memory::StorageMap;
use pteron_ir::{Graph, NodeId, Op, SideTable, ValueId};
use pteron_kernels::nn::RopeStyle;
use pteron_tensor::DType;
use smallvec::SmallVec;

use crate::fold::Folded;
use finder::Finder;

pub(crate) use attention::{Attention, AttentionShape, Sizes};
pub(crate) use cached::Cached;
pub(crate) use coded::{CodedLayer, Param, Rule, Source};
pub(crate) use linear::Layer;

/// What a group computes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fused {
    /// `weight · round(x · rsqrt(mean(x²) + eps))` over the last dimension.
    RmsNorm { x: ValueId, weight: ValueId, eps: Eps },
    /// The sum `a + b`, and that norm of it.
    AddRmsNorm { a: ValueId, b: ValueId, weight: ValueId, eps: Eps },
    /// Rotation of the pairs of `x`, whose elements are those of the result `[B, S, H, D]`, by `cos` and `sin`, whose
    /// elements are `[S, D/2]`, or `[S, D]` for [`RopeStyle::RotateHalf`]. `pairs` is `x` as `[B, S, H, D/2, 2]`, where it
    /// was viewed so.
    Rope { x: ValueId, pairs: Option<ValueId>, cos: ValueId, sin: ValueId, style: RopeStyle },
    /// `x · sigmoid(x) · gate`.
    SiluGate { x: ValueId, gate: ValueId },
    /// Linear layers of one input, whose elements are `of`, a result each.
    Linears { x: ValueId, of: DType, layers: SmallVec<[Layer; 3]> },
    /// Linear layers with packed weights, of the same activations, a result each; then the results of `before`, the norm or gate
    /// whose own result those activations are, but for that one.
    Coded { x: Source, layers: SmallVec<[CodedLayer; 3]>, before: Option<Box<Fused>> },
    /// Softmax of scaled products, times values.
    Sdpa(Box<Attention>),
    /// Attention over caches that it writes first.
    Cached(Box<Cached>),
}

impl Fused {
    /// The high-level operator that it is, for those who count time.
    pub(crate) fn op(&self) -> Op {
        match self {
            Fused::RmsNorm { .. } | Fused::AddRmsNorm { .. } => Op::RmsNorm,
            Fused::Rope { .. } => Op::Rope,
            Fused::SiluGate { .. } => Op::Silu,
            Fused::Linears { .. } | Fused::Coded { .. } => Op::Linear,
            Fused::Sdpa(_) => Op::Sdpa,
            Fused::Cached(_) => Op::CustomSdpa,
        }
    }

    /// The tensors it reads, of which the first gives the results those sizes that are not fixed.
    pub(crate) fn inputs(&self) -> SmallVec<[ValueId; 8]> {
        match self {
            &Fused::RmsNorm { x, weight, .. } => SmallVec::from_slice(&[x, weight]),
            &Fused::AddRmsNorm { a, b, weight, .. } => SmallVec::from_slice(&[a, b, weight]),
            &Fused::Rope { x, cos, sin, .. } => SmallVec::from_slice(&[x, cos, sin]),
            &Fused::SiluGate { x, gate } => SmallVec::from_slice(&[x, gate]),
            Fused::Linears { x, layers, .. } => {
                let own = layers.iter().flat_map(|l| [Some(l.weight), l.bias]).flatten();
                std::iter::once(*x).chain(own).collect()
            }
            Fused::Coded { x, layers, before } => {
                let first = before.as_ref().map_or_else(|| x.inputs().into_iter().collect(), |b| b.inputs());
                first.into_iter().chain(layers.iter().filter_map(|l| l.bias)).collect()
            }
            Fused::Sdpa(a) => [Some(a.q), Some(a.k), Some(a.v), a.mask].into_iter().flatten().collect(),
            Fused::Cached(a) => a.inputs(),
        }
    }

    /// [`Fused::inputs`], and the constant below the root.
    pub(crate) fn operands(&self) -> SmallVec<[ValueId; 8]> {
        let eps = match self.eps() {
            Some(Eps::Constant(v)) => Some(v),
            _ => None,
        };
        self.inputs().into_iter().chain(eps).collect()
    }

    /// True for linear layers, which read weights from memory once where rows are few.
    pub(crate) fn reads_weights(&self) -> bool {
        matches!(self, Fused::Linears { .. } | Fused::Coded { .. })
    }

    /// What a norm or a gate reads row by row: operands of its result's sizes. Nothing else has any.
    pub(crate) fn rows(&self) -> SmallVec<[ValueId; 2]> {
        match *self {
            Fused::RmsNorm { x, .. } => SmallVec::from_slice(&[x]),
            Fused::AddRmsNorm { a, b, .. } => SmallVec::from_slice(&[a, b]),
            Fused::SiluGate { x, gate } => SmallVec::from_slice(&[x, gate]),
            _ => SmallVec::new(),
        }
    }

    pub(crate) fn eps(&self) -> Option<Eps> {
        match self {
            &Fused::RmsNorm { eps, .. } | &Fused::AddRmsNorm { eps, .. } => Some(eps),
            Fused::Coded { before: Some(b), .. } => b.eps(),
            _ => None,
        }
    }
}

/// The summand below the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Eps {
    /// A number of the graph.
    Number(f64),
    /// A constant of one element.
    Constant(ValueId),
}

/// Nodes of one region, in their order, and what they compute together.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) members: SmallVec<[NodeId; 16]>,
    pub(crate) what: Fused,
    /// The results, in the kernel's order.
    pub(crate) outs: SmallVec<[ValueId; 3]>,
    /// All values from outside on whose sizes those of the members depend.
    pub(crate) reads: SmallVec<[ValueId; 8]>,
}

/// A node's part in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// In none.
    Alone,
    /// Passed over.
    Inner,
    /// The one at whose turn the group of that number is executed.
    Turn(usize),
}

/// The groups of a graph.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) list: Vec<Group>,
    pub(crate) part: SideTable<NodeId, Part>,
}

/// Members, what they compute and its results.
type Found = (SmallVec<[NodeId; 16]>, Fused, SmallVec<[ValueId; 3]>);

impl Groups {
    /// Finds the groups of `graph` and lets the memory that they use live as long as they need it.
    pub(crate) fn find(graph: &Graph, map: &mut StorageMap, folded: &Folded) -> Groups {
        let order = graph.all_nodes();
        let finder = Finder::new(graph, &order);
        let mut groups = Groups { list: Vec::new(), part: SideTable::new(Part::Alone) };
        // Attention before linear layers: what stands around its products is no layer of its own.
        for &n in &order {
            let is_free = |m: NodeId| groups.part[m] == Part::Alone && !folded.nodes[m];
            let candidates: SmallVec<[Found; 2]> = match graph.nodes[n].op {
                Op::Mean | Op::RmsNorm => finder.norms(n),
                Op::Cat | Op::Add => finder.rope(n).into_iter().collect(),
                Op::Sigmoid => finder.silu_gate(n).into_iter().collect(),
                Op::Softmax => finder.attention(n, &is_free).into_iter().collect(),
                _ => continue,
            };
            for found in candidates {
                if groups.add(&finder, &order, map, folded, found) {
                    break;
                }
            }
        }
        for &n in order.iter().filter(|&&n| graph.nodes[n].op == Op::CustomSdpa) {
            groups.add_cached(&finder, &order, map, folded, n);
        }
        let item = |m: NodeId| folded.layers[m];
        for &n in &order {
            if groups.part[n] == Part::Alone {
                let _ = finder.coded(n, &item).into_iter().any(|f| {
                    groups.add_behind(&finder, &order, map, folded, &f) || groups.add(&finder, &order, map, folded, f)
                });
            }
        }
        for &n in &order {
            let is_free = |m: NodeId| groups.part[m] == Part::Alone && !folded.nodes[m] && folded.layers[m].is_none();
            if let Some(found) = finder.linears(n, &is_free) {
                groups.add(&finder, &order, map, folded, found);
            }
        }
        groups
    }

    /// Adds layers together with the norm or gate that gives their activations and nothing else, which was a group itself.
    fn add_behind(
        &mut self,
        finder: &Finder<'_>,
        order: &[NodeId],
        map: &mut StorageMap,
        folded: &Folded,
        (members, what, outs): &Found,
    ) -> bool {
        let &Fused::Coded { x: x @ (Source::Floats(v) | Source::Dynamic { x: v, .. }), ref layers, before: None } =
            what
        else {
            return false;
        };
        let (made, views) = finder.before_views(v);
        let gives = |g: &Group| !g.what.rows().is_empty() && g.outs.last() == Some(&made);
        let number = self.list.iter().position(gives).filter(|_| finder.dtype(made) == Some(DType::F32));
        let Some(number) = number else { return false };
        let before = &self.list[number];
        let all: SmallVec<[NodeId; 16]> = members.iter().chain(&views).chain(&before.members).copied().collect();
        let what = Fused::Coded { x, layers: layers.clone(), before: Some(Box::new(before.what.clone())) };
        let rest = before.outs.iter().filter(|&&o| o != made);
        let found = (all, what, outs.iter().chain(rest).copied().collect());
        self.add_with(finder, order, map, folded, found, &[number])
    }

    /// Adds the attention that `n`, a `custom_sdpa`, computes over the caches that are written for it, together with the
    /// rotations before it, which were groups themselves.
    fn add_cached(
        &mut self,
        finder: &Finder<'_>,
        order: &[NodeId],
        map: &mut StorageMap,
        folded: &Folded,
        n: NodeId,
    ) -> bool {
        let position = |x: ValueId| {
            let gives = |g: &Group| matches!(g.what, Fused::Rope { .. }) && g.outs[..] == [x];
            self.list.iter().position(gives)
        };
        let turn = |x: ValueId| position(x).map(|i| (self.list[i].what.clone(), self.list[i].members.clone()));
        let Some(found) = finder.cached(n, &turn) else { return false };
        let Fused::Cached(what) = &found.1 else { return false };
        let turned = [(what.q, &what.turn_q), (what.k, &what.turn_k)];
        let mut numbers: SmallVec<[usize; 2]> =
            turned.iter().filter(|(_, turn)| turn.is_some()).filter_map(|&(x, _)| position(x)).collect();
        // The later one first: taking a group off the list moves the last one.
        numbers.sort_unstable_by(|a, b| b.cmp(a));
        self.add_with(finder, order, map, folded, found, &numbers)
    }

    /// Adds a group that takes over the nodes of those of `numbers`, which descend.
    fn add_with(
        &mut self,
        finder: &Finder<'_>,
        order: &[NodeId],
        map: &mut StorageMap,
        folded: &Folded,
        found: Found,
        numbers: &[usize],
    ) -> bool {
        let members: SmallVec<[NodeId; 16]> =
            numbers.iter().flat_map(|&g| self.list[g].members.iter().copied()).collect();
        let alone = |&m: &NodeId| std::mem::replace(&mut self.part[m], Part::Alone);
        let parts: SmallVec<[Part; 16]> = members.iter().map(alone).collect();
        if self.add(finder, order, map, folded, found) {
            numbers.iter().for_each(|&g| self.remove(g));
            return true;
        }
        members.iter().zip(parts).for_each(|(&m, p)| self.part[m] = p);
        false
    }

    /// Takes a group whose nodes belong to another one now off the list.
    fn remove(&mut self, number: usize) {
        self.list.swap_remove(number);
        let from = self.list.len();
        let moved = self.list.get(number).map(|g| g.members.clone()).unwrap_or_default();
        for m in moved {
            if self.part[m] == Part::Turn(from) {
                self.part[m] = Part::Turn(number);
            }
        }
    }

    /// Adds a group if its nodes are free and nobody can tell that they are executed together.
    fn add(
        &mut self,
        finder: &Finder<'_>,
        order: &[NodeId],
        map: &mut StorageMap,
        folded: &Folded,
        (mut members, what, outs): Found,
    ) -> bool {
        members.sort_by_key(|&m| finder.position[m]);
        members.dedup();
        let (Some(&first), Some(&last)) = (members.first(), members.last()) else { return false };
        let free = members.iter().all(|&m| self.part[m] == Part::Alone && !folded.nodes[m]);
        if !free || !finder.is_closed(&members, &outs) {
            return false;
        }
        let ready = |v: ValueId| map.of[v].is_some_and(|s| folded.storages[s].is_some());
        let Some(at) = finder.turn(&members, &what, &outs, &ready) else { return false };
        // The places of what attention reads are known when all before it has been executed; and caches are not written before
        // others have read what was there.
        let in_time = at == last || !matches!(what, Fused::Sdpa(_) | Fused::Cached(_));
        let written = |v: ValueId| outs.iter().any(|&o| map.of[o] == map.of[v]);
        if !in_time || what.inputs().into_iter().any(written) || !finder.keeps_its_inputs(&members, order, map) {
            return false;
        }
        let mut reads: SmallVec<[ValueId; 8]> = what.inputs().into_iter().collect();
        if let Fused::Sdpa(a) = &what {
            reads.extend(a.on_the_way(finder.graph));
        }
        for &m in &members {
            finder.graph.nodes[m].args.iter().for_each(|a| a.for_each_value(|v| reads.push(v)));
        }
        let inner = |v: ValueId| finder.maker(v).is_some_and(|n| members.contains(&n));
        reads.retain(|v| !inner(*v));
        reads.sort_unstable();
        reads.dedup();
        // All of it happens at its turn: what comes from outside lives until then, and what the members give is kept apart
        // from what else is there, for the case that they are executed one by one after all.
        let turn = finder.position[at];
        for v in reads.iter().filter_map(|&v| map.of[v]) {
            map.storages[v].last = map.storages[v].last.max(turn);
        }
        let is_idle = |n: NodeId| {
            let node = &finder.graph.nodes[n];
            let shares =
                || node.outputs.first().is_some_and(|&v| finder.value(n, 0).map(|x| map.of[x]) == Some(map.of[v]));
            members.contains(&n) || folded.nodes[n] || node.op.is_view() && shares()
        };
        // The last position at which something else is computed meanwhile; after it the members follow one another.
        let other = (finder.position[first]..turn).rev().find(|&i| order.get(i).is_some_and(|&n| !is_idle(n)));
        let until = if at == last { other } else { Some(turn) };
        for v in members.iter().flat_map(|&m| &finder.graph.nodes[m].outputs).filter_map(|&v| map.of[v]) {
            let s = &mut map.storages[v];
            s.first = s.first.min(turn);
            s.last = s.last.max(until.unwrap_or(0));
        }
        // The results are written side by side, also one that nothing reads but the group itself.
        for s in outs.iter().filter_map(|&v| map.of[v]) {
            let s = &mut map.storages[s];
            (s.first, s.last) = (s.first.min(turn), s.last.max(turn));
        }
        for &m in &members {
            self.part[m] = if m == at { Part::Turn(self.list.len()) } else { Part::Inner };
        }
        self.list.push(Group { members, what, outs, reads });
        true
    }
}
