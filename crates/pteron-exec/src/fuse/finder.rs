//! Looking around in a graph: who makes a value, who reads it, what a node is.

use pteron_ir::memory::{StorageId, StorageMap};
use pteron_ir::{Arg, Def, Graph, IntArg, NodeId, Op, RegionId, SideTable, TensorType, ValueId};
use pteron_tensor::DType;
use smallvec::SmallVec;

use super::Fused;

/// The nodes that read a value.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Users {
    pub(super) nodes: SmallVec<[NodeId; 2]>,
    /// Also read by a graph's or region's end, a loop, or a branch.
    pub(super) escapes: bool,
}

pub(super) struct Finder<'g> {
    pub(super) graph: &'g Graph,
    users: SideTable<ValueId, Users>,
    region: SideTable<NodeId, Option<RegionId>>,
    pub(super) position: SideTable<NodeId, usize>,
}

impl<'g> Finder<'g> {
    pub(super) fn new(graph: &'g Graph, order: &[NodeId]) -> Finder<'g> {
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

    /// Nothing but the results is read outside of the group, and all its nodes stand in one region.
    pub(super) fn is_closed(&self, members: &[NodeId], outs: &[ValueId]) -> bool {
        let region = members.first().map(|&m| self.region[m]);
        members.iter().all(|&m| {
            let inner = |v: &ValueId| self.is_read_only_by(*v, members);
            Some(self.region[m]) == region && self.graph.nodes[m].outputs.iter().all(|v| outs.contains(v) || inner(v))
        })
    }

    /// Whoever reads `v` is one of `members`.
    pub(super) fn is_read_only_by(&self, v: ValueId, members: &[NodeId]) -> bool {
        let u = &self.users[v];
        !u.escapes && u.nodes.iter().all(|n| members.contains(n))
    }

    /// The member at whose turn the group can be executed: the last one, or the earliest that comes after all that the group
    /// reads; always before whoever reads a result. Values for which `ready` holds are there from the beginning.
    pub(super) fn turn(
        &self,
        members: &[NodeId],
        what: &Fused,
        outs: &[ValueId],
        ready: &dyn Fn(ValueId) -> bool,
    ) -> Option<NodeId> {
        let readers = outs.iter().flat_map(|&v| &self.users[v].nodes).filter(|n| !members.contains(n));
        let until = readers.map(|&n| self.position[n]).min().unwrap_or(usize::MAX);
        let last = members.last().copied().filter(|&m| self.position[m] < until);
        if last.is_some() {
            return last;
        }
        let mut after = None;
        let mut note = |v: ValueId| {
            if let Def::Node(n, _) = self.graph.values[v].def
                && !members.contains(&n)
                && !ready(v)
            {
                after = after.max(Some(self.position[n]));
            }
        };
        what.inputs().into_iter().for_each(&mut note);
        for &m in members {
            self.graph.nodes[m].args.iter().for_each(|a| a.for_each_value(&mut note));
        }
        let at = members.iter().copied().find(|&m| Some(self.position[m]) > after)?;
        (self.position[at] < until).then_some(at)
    }

    /// No node between the first and the last member writes in place what the group reads.
    pub(super) fn keeps_its_inputs(&self, members: &[NodeId], order: &[NodeId], map: &StorageMap) -> bool {
        let (Some(&first), Some(&last)) = (members.first(), members.last()) else { return false };
        let mut read: SmallVec<[StorageId; 8]> = SmallVec::new();
        for &m in members {
            self.graph.nodes[m].args.iter().for_each(|a| a.for_each_value(|v| read.extend(map.of[v])));
        }
        let between = order.get(self.position[first]..=self.position[last]).unwrap_or(&[]);
        between.iter().filter(|n| !members.contains(n)).all(|&n| {
            let node = &self.graph.nodes[n];
            // In place: what it writes is the memory of one of its arguments.
            let overwrites = |s: StorageId| {
                let mut own = false;
                node.args.iter().for_each(|a| a.for_each_value(|v| own |= map.of[v] == Some(s)));
                own && !node.op.is_view() && read.contains(&s)
            };
            !node.outputs.iter().filter_map(|&v| map.of[v]).any(overwrites)
        })
    }

    pub(super) fn op(&self, n: NodeId) -> Op {
        self.graph.nodes[n].op
    }

    pub(super) fn arg(&self, n: NodeId, i: usize) -> Option<&'g Arg> {
        self.graph.nodes[n].args.get(i)
    }

    /// The type of a row-major tensor.
    pub(super) fn ty(&self, v: ValueId) -> Option<&'g TensorType> {
        self.graph.ty(v).as_tensor().filter(|t| t.order.is_none())
    }

    pub(super) fn dtype(&self, v: ValueId) -> Option<DType> {
        self.ty(v).map(|t| t.dtype)
    }

    /// The size of the last dimension where it is fixed.
    pub(super) fn last_dim(&self, v: ValueId) -> Option<i64> {
        self.ty(v)?.dims.last()?.as_const()
    }

    pub(super) fn rank(&self, v: ValueId) -> Option<usize> {
        self.ty(v).map(|t| t.dims.len())
    }

    pub(super) fn is_const(&self, v: ValueId) -> bool {
        matches!(self.graph.values[v].def, Def::Const(_))
    }

    pub(super) fn producer(&self, v: ValueId) -> Option<NodeId> {
        match self.graph.values[v].def {
            Def::Node(n, 0) => Some(n),
            _ => None,
        }
    }

    /// The node that gives `v` as any of its results.
    pub(super) fn maker(&self, v: ValueId) -> Option<NodeId> {
        match self.graph.values[v].def {
            Def::Node(n, _) => Some(n),
            _ => None,
        }
    }

    /// The node of operator `op` that gives `v`.
    pub(super) fn made_by(&self, v: ValueId, op: Op) -> Option<NodeId> {
        self.producer(v).filter(|&n| self.op(n) == op)
    }

    /// The only reader of `v`, if it is a node of operator `op`.
    pub(super) fn only_user(&self, v: ValueId, op: Op) -> Option<NodeId> {
        self.sole_user(v).filter(|&n| self.op(n) == op)
    }

    /// The only reader of `v`.
    pub(super) fn sole_user(&self, v: ValueId) -> Option<NodeId> {
        match (&self.users[v].nodes[..], self.users[v].escapes) {
            (&[n], false) => Some(n),
            _ => None,
        }
    }

    /// What `v` is a view of with the same rows, and the nodes of the views.
    pub(super) fn before_views(&self, v: ValueId) -> (ValueId, SmallVec<[NodeId; 2]>) {
        let (mut at, mut nodes) = (v, SmallVec::new());
        while let Some(n) = self.producer(at).filter(|&n| self.op(n).is_view())
            && let Some(x) = self.value(n, 0)
            && self.last_dim(x).is_some()
            && self.last_dim(x) == self.last_dim(at)
        {
            nodes.push(n);
            at = x;
        }
        (at, nodes)
    }

    /// The nodes that read `v`.
    pub(super) fn users(&self, v: ValueId) -> &[NodeId] {
        &self.users[v].nodes
    }

    /// The nodes stand in one region.
    pub(super) fn together(&self, a: NodeId, b: NodeId) -> bool {
        self.region[a] == self.region[b]
    }

    pub(super) fn out(&self, n: NodeId) -> Option<ValueId> {
        self.graph.nodes[n].outputs.first().copied()
    }

    pub(super) fn value(&self, n: NodeId, i: usize) -> Option<ValueId> {
        match self.arg(n, i) {
            Some(Arg::Value(v)) => Some(*v),
            _ => None,
        }
    }

    /// The first two arguments of a node, both tensors.
    pub(super) fn two(&self, n: NodeId) -> Option<(ValueId, ValueId)> {
        Some((self.value(n, 0)?, self.value(n, 1)?))
    }

    /// The other argument of a node of two of which one is `v`.
    pub(super) fn beside(&self, n: NodeId, v: ValueId) -> Option<ValueId> {
        match self.two(n)? {
            (a, b) if a == v => Some(b),
            (a, b) if b == v => Some(a),
            _ => None,
        }
    }

    /// A number that stands in the graph.
    pub(super) fn number(&self, n: NodeId, i: usize) -> Option<f64> {
        match self.arg(n, i) {
            Some(Arg::Float(f)) => Some(*f),
            Some(Arg::Int(i)) => Some(*i as f64),
            _ => None,
        }
    }

    /// The factor of `add` and `sub` is 1.
    pub(super) fn alpha_is_one(&self, n: NodeId) -> bool {
        matches!(self.arg(n, 2), None | Some(Arg::None)) || self.number(n, 2) == Some(1.0)
    }

    /// The list of fixed ints at `i`.
    pub(super) fn ints(&self, n: NodeId, i: usize) -> Option<SmallVec<[i64; 6]>> {
        let Some(Arg::Ints(list)) = self.arg(n, i) else { return None };
        list.iter().map(|i| if let IntArg::Const(c) = i { Some(*c) } else { None }).collect()
    }

    pub(super) fn is_last_dim(&self, n: NodeId, arg: usize, rank: usize) -> bool {
        let last = |d: i64| d == -1 || usize::try_from(d).is_ok_and(|d| d + 1 == rank);
        match self.arg(n, arg) {
            Some(Arg::Int(d)) => last(*d),
            Some(Arg::Ints(_)) => self.ints(n, arg).is_some_and(|list| matches!(list[..], [d] if last(d))),
            _ => false,
        }
    }

    /// The node takes `from..to` of the last dimension, whose size is `size`, of a tensor of rank `rank`.
    pub(super) fn is_slice(&self, n: NodeId, rank: usize, from: i64, to: i64, size: i64) -> bool {
        let bound = |i: usize, missing: i64| match self.arg(n, i) {
            None | Some(Arg::None) => Some(missing),
            Some(Arg::Int(v)) => Some(if *v < 0 { *v + size } else { (*v).min(size) }),
            _ => None,
        };
        self.op(n) == Op::SliceCopy
            && self.is_last_dim(n, 1, rank)
            && bound(2, 0) == Some(from)
            && bound(3, size) == Some(to)
            && matches!(self.arg(n, 4), None | Some(Arg::None | Arg::Int(1)))
    }

    /// `v`, or what it was before it was converted to f32, with the node that did.
    pub(super) fn before_widening(&self, v: ValueId) -> Option<(ValueId, Option<NodeId>)> {
        if self.dtype(v)? != DType::F32 {
            return None;
        }
        let narrow = |n: NodeId| {
            let x = self.value(n, 0)?;
            matches!(self.dtype(x)?, DType::F16 | DType::BF16).then_some((x, Some(n)))
        };
        Some(self.made_by(v, Op::ToCopy).and_then(narrow).unwrap_or((v, None)))
    }
}
