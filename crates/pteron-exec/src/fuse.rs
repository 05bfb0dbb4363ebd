//! Nodes that are executed together.
//!
//! A decomposed operator is a dozen nodes, each of which walks its tensors and is resolved for itself. Where a graph holds
//! such a dozen, the plan marks it as a [`Group`]: its nodes are passed over, and at the last of them one kernel computes
//! what they would have, bit for bit: the same operations in the same order, rounded where the nodes round. The values
//! between have no reader outside of the group. A run that is watched executes every node by itself.

use pteron_ir::memory::{StorageId, StorageMap, aliased_input};
use pteron_ir::{Arg, Graph, IntArg, NodeId, Op, RegionId, SideTable, TensorType, ValueId};
use pteron_tensor::DType;
use smallvec::SmallVec;

/// What a group computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fused {
    /// `weight · round(x · rsqrt(mean(x²) + eps))` over the last dimension.
    RmsNorm { x: ValueId, weight: ValueId, eps: Eps },
    /// Rotation of the halves of the last dimension of `x [B, S, H, D]` by `cos` and `sin` `[S, D/2]`.
    Rope { x: ValueId, cos: ValueId, sin: ValueId },
    /// `x · sigmoid(x) · gate`.
    SiluGate { x: ValueId, gate: ValueId },
}

impl Fused {
    /// The high-level operator that it is, for those who count time.
    pub(crate) fn op(&self) -> Op {
        match self {
            Fused::RmsNorm { .. } => Op::RmsNorm,
            Fused::Rope { .. } => Op::Rope,
            Fused::SiluGate { .. } => Op::Silu,
        }
    }

    /// The tensors it reads, of which the first has the sizes of its result.
    pub(crate) fn inputs(&self) -> SmallVec<[ValueId; 3]> {
        match *self {
            Fused::RmsNorm { x, weight, .. } => SmallVec::from_slice(&[x, weight]),
            Fused::Rope { x, cos, sin } => SmallVec::from_slice(&[x, cos, sin]),
            Fused::SiluGate { x, gate } => SmallVec::from_slice(&[x, gate]),
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
    /// The result: the output of the last member.
    pub(crate) out: ValueId,
}

/// A node's part in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// In none.
    Alone,
    /// Passed over.
    Inner,
    /// The last one of the group of that number.
    Last(usize),
}

/// The groups of a graph.
#[derive(Debug)]
pub(crate) struct Groups {
    pub(crate) list: Vec<Group>,
    pub(crate) part: SideTable<NodeId, Part>,
}

/// The nodes that read a value.
#[derive(Clone, Debug, Default, PartialEq)]
struct Users {
    nodes: SmallVec<[NodeId; 2]>,
    /// Also read by a graph's or region's end, a loop, or a branch.
    escapes: bool,
}

struct Finder<'g> {
    graph: &'g Graph,
    users: SideTable<ValueId, Users>,
    region: SideTable<NodeId, Option<RegionId>>,
    position: SideTable<NodeId, usize>,
}

impl Groups {
    /// Finds the groups of `graph` and lets the memory that they read live until they are executed.
    pub(crate) fn find(graph: &Graph, map: &mut StorageMap) -> Groups {
        let order = graph.all_nodes();
        let finder = Finder::new(graph, &order);
        let mut groups = Groups { list: Vec::new(), part: SideTable::new(Part::Alone) };
        for &n in &order {
            let found = match graph.nodes[n].op {
                Op::Mean => finder.rms_norm(n),
                Op::Cat => finder.rope(n),
                Op::Sigmoid => finder.silu_gate(n),
                _ => None,
            };
            let Some((mut members, what)) = found else { continue };
            members.sort_by_key(|&m| finder.position[m]);
            members.dedup();
            let Some(&last) = members.last() else { continue };
            let out = graph.nodes[last].outputs[0];
            let group = Group { members, what, out };
            let free = group.members.iter().all(|&m| groups.part[m] == Part::Alone);
            if !free || !finder.is_closed(&group) || !finder.keeps_its_inputs(&group, &order, map) {
                continue;
            }
            let at = finder.position[last];
            let mut live = |v: ValueId| {
                if let Some(s) = map.of[v] {
                    map.storages[s].last = map.storages[s].last.max(at);
                }
            };
            group.what.inputs().into_iter().for_each(&mut live);
            // Those between are kept as well, for the case that the members are executed one by one after all.
            for &m in &group.members {
                graph.nodes[m].outputs.iter().for_each(|&v| live(v));
                graph.nodes[m].args.iter().for_each(|a| a.for_each_value(&mut live));
                groups.part[m] = if m == last { Part::Last(groups.list.len()) } else { Part::Inner };
            }
            groups.list.push(group);
        }
        groups
    }
}

impl<'g> Finder<'g> {
    fn new(graph: &'g Graph, order: &[NodeId]) -> Finder<'g> {
        let mut users = SideTable::new(Users::default());
        let mut region = SideTable::new(None);
        let mut position = SideTable::new(usize::MAX);
        for (i, &n) in order.iter().enumerate() {
            position[n] = i;
            let node = &graph.nodes[n];
            for arg in &node.args {
                arg.for_each_value(|v| {
                    let u: &mut Users = &mut users[v];
                    if u.nodes.last() != Some(&n) {
                        u.nodes.push(n);
                    }
                    u.escapes |= !node.regions.is_empty();
                });
            }
        }
        for (id, r) in graph.regions.iter() {
            r.nodes.iter().for_each(|&n| region[n] = Some(id));
            r.results.iter().for_each(|&v| users[v].escapes = true);
        }
        graph.outputs().iter().for_each(|&v| users[v].escapes = true);
        graph.mutations.iter().for_each(|m| users[m.1].escapes = true);
        Finder { graph, users, region, position }
    }

    /// Nothing but the result is read outside of the group, and all its nodes stand in one region.
    fn is_closed(&self, g: &Group) -> bool {
        let region = g.members.first().map(|&m| self.region[m]);
        g.members.iter().all(|&m| {
            let inner = |v: &ValueId| {
                let u = &self.users[*v];
                !u.escapes && u.nodes.iter().all(|n| g.members.contains(n))
            };
            Some(self.region[m]) == region && self.graph.nodes[m].outputs.iter().all(|v| *v == g.out || inner(v))
        })
    }

    /// No node between the first and the last member writes in place what the group reads.
    fn keeps_its_inputs(&self, g: &Group, order: &[NodeId], map: &StorageMap) -> bool {
        let (Some(&first), Some(&last)) = (g.members.first(), g.members.last()) else { return false };
        let mut read: SmallVec<[StorageId; 8]> = SmallVec::new();
        for &m in &g.members {
            self.graph.nodes[m].args.iter().for_each(|a| a.for_each_value(|v| read.extend(map.of[v])));
        }
        let between = order.get(self.position[first]..=self.position[last]).unwrap_or(&[]);
        between.iter().all(|&n| {
            (0..self.graph.nodes[n].outputs.len()).all(|k| {
                let written = aliased_input(self.graph, n, k, false).and_then(|v| map.of[v]);
                written.is_none_or(|s| !read.contains(&s))
            })
        })
    }

    fn ty(&self, v: ValueId) -> Option<&TensorType> {
        self.graph.ty(v).as_tensor().filter(|t| t.order.is_none())
    }

    fn dtype(&self, v: ValueId) -> Option<DType> {
        self.ty(v).map(|t| t.dtype)
    }

    fn producer(&self, v: ValueId) -> Option<NodeId> {
        match self.graph.values[v].def {
            pteron_ir::Def::Node(n, 0) => Some(n),
            _ => None,
        }
    }

    /// The node of operator `op` that gives `v`.
    fn made_by(&self, v: ValueId, op: Op) -> Option<NodeId> {
        self.producer(v).filter(|&n| self.graph.nodes[n].op == op)
    }

    /// The only reader of `v`, if it is a node of operator `op`.
    fn only_user(&self, v: ValueId, op: Op) -> Option<NodeId> {
        match (&self.users[v].nodes[..], self.users[v].escapes) {
            (&[n], false) if self.graph.nodes[n].op == op => Some(n),
            _ => None,
        }
    }

    fn out(&self, n: NodeId) -> Option<ValueId> {
        self.graph.nodes[n].outputs.first().copied()
    }

    fn value(&self, n: NodeId, i: usize) -> Option<ValueId> {
        match self.graph.nodes[n].args.get(i) {
            Some(Arg::Value(v)) => Some(*v),
            _ => None,
        }
    }

    /// The first two arguments of a node, both tensors.
    fn two(&self, n: NodeId) -> Option<(ValueId, ValueId)> {
        Some((self.value(n, 0)?, self.value(n, 1)?))
    }

    /// The other argument of a node of two of which one is `v`.
    fn beside(&self, n: NodeId, v: ValueId) -> Option<ValueId> {
        match self.two(n)? {
            (a, b) if a == v => Some(b),
            (a, b) if b == v => Some(a),
            _ => None,
        }
    }

    /// The factor of `add` and `sub` is 1.
    fn alpha_is_one(&self, n: NodeId) -> bool {
        match self.graph.nodes[n].args.get(2) {
            None | Some(Arg::None | Arg::Int(1)) => true,
            Some(Arg::Float(f)) => *f == 1.0,
            _ => false,
        }
    }

    fn is_last_dim(&self, n: NodeId, arg: usize, rank: usize) -> bool {
        let last = |d: i64| d == -1 || usize::try_from(d).is_ok_and(|d| d + 1 == rank);
        match self.graph.nodes[n].args.get(arg) {
            Some(Arg::Int(d)) => last(*d),
            Some(Arg::Ints(list)) => matches!(&list[..], [IntArg::Const(d)] if last(*d)),
            _ => false,
        }
    }

    /// `v`, or what it was before it was converted to f32, with the node that did.
    fn before_widening(&self, v: ValueId) -> Option<(ValueId, Option<NodeId>)> {
        if self.dtype(v)? != DType::F32 {
            return None;
        }
        let narrow = |n: NodeId| {
            let x = self.value(n, 0)?;
            matches!(self.dtype(x)?, DType::F16 | DType::BF16).then_some((x, Some(n)))
        };
        Some(self.made_by(v, Op::ToCopy).and_then(narrow).unwrap_or((v, None)))
    }

    /// `mean` is that of `rms_norm`'s decomposition.
    fn rms_norm(&self, mean: NodeId) -> Option<(SmallVec<[NodeId; 16]>, Fused)> {
        let squares = self.value(mean, 0)?;
        let square = self.made_by(squares, Op::Mul)?;
        let (wide, same) = self.two(square)?;
        let rank = self.ty(wide)?.dims.len();
        let keeps = matches!(self.graph.nodes[mean].args.get(2), Some(Arg::Bool(true)));
        if wide != same || !keeps || !self.is_last_dim(mean, 1, rank) || self.dtype(self.out(mean)?)? != DType::F32 {
            return None;
        }
        let (x, widening) = self.before_widening(wide)?;
        let mut members = SmallVec::from_slice(&[square, mean]);
        members.extend(widening);
        let mean_out = self.out(mean)?;
        let (add, eps) = match self.only_user(mean_out, Op::Add) {
            Some(n) => {
                let eps = self.beside(n, mean_out)?;
                let constant = matches!(self.graph.values[eps].def, pteron_ir::Def::Const(_));
                let one = self.ty(eps)?.dims.is_empty() && self.dtype(eps)?.is_float();
                (n, (constant && one).then_some(Eps::Constant(eps))?)
            }
            None => {
                let n = self.only_user(mean_out, Op::AddScalar)?;
                match self.graph.nodes[n].args.get(1) {
                    Some(Arg::Float(f)) => (n, Eps::Number(*f)),
                    _ => return None,
                }
            }
        };
        let root = self.only_user(self.out(add)?, Op::Rsqrt)?;
        let scale = self.only_user(self.out(root)?, Op::Mul)?;
        if !self.alpha_is_one(add) || self.beside(scale, self.out(root)?)? != wide {
            return None;
        }
        members.extend([add, root, scale]);
        let mut normal = self.out(scale)?;
        if widening.is_some() {
            let narrowing = self.only_user(normal, Op::ToCopy)?;
            members.push(narrowing);
            normal = self.out(narrowing)?;
        }
        let product = self.only_user(normal, Op::Mul)?;
        let weight = self.beside(product, normal)?;
        members.push(product);
        let n = self.ty(x)?.dims.last()?.as_const()?;
        let dtype = self.dtype(x)?;
        let fits = self.ty(weight)?.dims.len() == 1
            && self.ty(weight)?.dims[0].as_const() == Some(n)
            && [normal, weight, self.out(product)?].iter().all(|&v| self.dtype(v) == Some(dtype))
            && self.ty(self.out(product)?)?.dims.len() == rank
            && n > 0;
        fits.then_some((members, Fused::RmsNorm { x, weight, eps }))
    }

    /// `cat` is that of `rope`'s decomposition by halves.
    fn rope(&self, cat: NodeId) -> Option<(SmallVec<[NodeId; 16]>, Fused)> {
        let Some(Arg::Values(parts)) = self.graph.nodes[cat].args.first() else { return None };
        let &[Some(low), Some(high)] = &parts[..] else { return None };
        let (sub, add) = (self.made_by(low, Op::Sub)?, self.made_by(high, Op::Add)?);
        if !self.is_last_dim(cat, 1, 4) || !self.alpha_is_one(sub) || !self.alpha_is_one(add) {
            return None;
        }
        let (low_cos, high_sin) = self.two(sub)?;
        let low_cos = self.made_by(low_cos, Op::Mul)?;
        let high_sin = self.made_by(high_sin, Op::Mul)?;
        // a·cos - b·sin
        let (a, cos) = self.half(low_cos)?;
        let (b, sin) = self.half(high_sin)?;
        // b·cos + a·sin, in either order.
        let (u, v) = self.two(add)?;
        let (u, v) = (self.made_by(u, Op::Mul)?, self.made_by(v, Op::Mul)?);
        let is = |n: NodeId, x: ValueId, y: ValueId| self.beside(n, x) == Some(y);
        if !(is(u, b, cos) && is(v, a, sin) || is(u, a, sin) && is(v, b, cos)) {
            return None;
        }
        let (first, second) = (self.made_by(a, Op::SliceCopy)?, self.made_by(b, Op::SliceCopy)?);
        let wide = self.value(first, 0)?;
        let ty = self.ty(wide)?;
        let width = ty.dims.last()?.as_const()?;
        let halves = self.is_slice(first, 0, width / 2) && self.is_slice(second, width / 2, width);
        if self.value(second, 0) != Some(wide) || ty.dims.len() != 4 || width <= 0 || width % 2 != 0 || !halves {
            return None;
        }
        let (x, widening) = self.before_widening(wide)?;
        let mut members: SmallVec<[NodeId; 16]> =
            SmallVec::from_slice(&[cat, sub, add, low_cos, high_sin, u, v, first, second]);
        let (cos, cos_view) = self.angles(cos, width / 2)?;
        let (sin, sin_view) = self.angles(sin, width / 2)?;
        for view in [cos_view, sin_view] {
            let users = &self.users[self.out(view)?];
            if !users.escapes && users.nodes.iter().all(|n| members.contains(n)) {
                members.push(view);
            }
        }
        if let Some(n) = widening {
            // Read by the slices only.
            members.push(n);
            let narrowing = self.only_user(self.out(cat)?, Op::ToCopy)?;
            if self.dtype(self.out(narrowing)?) != self.dtype(x) {
                return None;
            }
            members.push(narrowing);
        }
        Some((members, Fused::Rope { x, cos, sin }))
    }

    /// A product's factor that is a slice, and the other one.
    fn half(&self, product: NodeId) -> Option<(ValueId, ValueId)> {
        let (a, b) = self.two(product)?;
        match (self.made_by(a, Op::SliceCopy), self.made_by(b, Op::SliceCopy)) {
            (Some(_), None) => Some((a, b)),
            (None, Some(_)) => Some((b, a)),
            _ => None,
        }
    }

    /// The node takes `from..to` of the last dimension.
    fn is_slice(&self, n: NodeId, from: i64, to: i64) -> bool {
        let int = |i: usize| match self.graph.nodes[n].args.get(i) {
            Some(Arg::Int(v)) => Some(*v),
            _ => None,
        };
        let start = match self.graph.nodes[n].args.get(2) {
            Some(Arg::None) => Some(0),
            _ => int(2),
        };
        let end = match self.graph.nodes[n].args.get(3) {
            Some(Arg::None) => Some(2 * (to - from)),
            _ => int(3),
        };
        let step = match self.graph.nodes[n].args.get(4) {
            None => Some(1),
            _ => int(4),
        };
        self.is_last_dim(n, 1, 4)
            && start == Some(from)
            && end.is_some_and(|e| e == to || e > to && to > from && from > 0)
            && step == Some(1)
    }

    /// What the factor `[S, 1, half]` is a view of: `[S, half]` in f32; and the view.
    fn angles(&self, v: ValueId, half: i64) -> Option<(ValueId, NodeId)> {
        let view = self.producer(v).filter(|&n| self.graph.nodes[n].op.is_view())?;
        let table = self.value(view, 0)?;
        let (of, ty) = (self.ty(table)?, self.ty(v)?);
        let fits = of.dtype == DType::F32
            && of.dims.len() == 2
            && of.dims[1].as_const() == Some(half)
            && ty.dims.len() == 3
            && ty.dims[1].as_const() == Some(1)
            && ty.dims[2].as_const() == Some(half);
        fits.then_some((table, view))
    }

    /// `sigmoid` is that of `silu`'s decomposition, whose result is multiplied by another tensor.
    fn silu_gate(&self, sigmoid: NodeId) -> Option<(SmallVec<[NodeId; 16]>, Fused)> {
        let x = self.value(sigmoid, 0)?;
        let s = self.out(sigmoid)?;
        let silu = self.only_user(s, Op::Mul)?;
        let y = self.out(silu)?;
        let product = self.only_user(y, Op::Mul)?;
        let gate = self.beside(product, y)?;
        let dtype = self.dtype(x)?;
        let fits = self.beside(silu, s) == Some(x)
            && x != s
            && gate != y
            && matches!(dtype, DType::F16 | DType::BF16 | DType::F32)
            && [s, y, gate, self.out(product)?].iter().all(|&v| self.dtype(v) == Some(dtype))
            && [s, y, gate, self.out(product)?]
                .iter()
                .all(|&v| self.ty(v).map(|t| t.dims.len()) == self.ty(x).map(|t| t.dims.len()));
        fits.then_some((SmallVec::from_slice(&[sigmoid, silu, product]), Fused::SiluGate { x, gate }))
    }
}
