//! Caches that are written where they lie.
//!
//! ExecuTorch's exporter writes a cache without its custom operators as a new tensor: `index_put(cache, …)`, which attention
//! reads, and at the end of the graph `copy_(cache, …)`. Each copies all positions. Where nobody needs the old contents any
//! more, the new tensor is the cache itself: rows are written in place, and the copy is nothing.

use pteron_ir::memory::StorageMap;
use pteron_ir::{Arg, Def, Graph, NodeId, Op, SideTable, ValueId};

/// Nodes that are executed otherwise than they stand there.
#[derive(Debug)]
pub(crate) struct InPlace {
    /// `index_put` whose result is its first argument's memory.
    pub(crate) writes: SideTable<NodeId, bool>,
    /// Copies of a tensor onto itself.
    pub(crate) idle: SideTable<NodeId, bool>,
}

impl InPlace {
    /// The operator that node `n` is executed as.
    pub(crate) fn op(&self, graph: &Graph, n: NodeId) -> Op {
        if self.writes[n] { Op::IndexPutInto } else { graph.nodes[n].op }
    }

    /// Finds them in `graph` and gives the results the memory of their buffers.
    pub(crate) fn find(graph: &Graph, map: &mut StorageMap) -> InPlace {
        let mut found = InPlace { writes: SideTable::new(false), idle: SideTable::new(false) };
        let order = graph.all_nodes();
        let body = &graph.regions[graph.body_id()].nodes;
        // Branches and loops may read what lies outside of them.
        if order.len() != body.len() {
            return found;
        }
        for &(buffer, last) in &graph.mutations {
            let Some((put, copy, old, new)) = pair(graph, buffer, last) else { continue };
            let place = |n: NodeId| order.iter().position(|&m| m == n);
            let (Some(at), Some(end)) = (place(put), place(copy)) else { continue };
            let reads = |n: &NodeId| {
                let mut found = false;
                graph.nodes[*n].args.iter().for_each(|a| a.for_each_value(|v| found |= map.of[v] == map.of[old]));
                found
            };
            // The old contents are read before, and by the two themselves.
            let later = order.get(at + 1..).unwrap_or(&[]).iter().filter(|&&n| n != copy).any(reads);
            let Some(Arg::Value(rows)) = graph.nodes[put].args.get(2) else { continue };
            let same_type = graph.ty(old) == graph.ty(new);
            if later || end < at || map.of[*rows] == map.of[old] || !same_type {
                continue;
            }
            let (Some(from), Some(to)) = (map.of[new], map.of[old]) else { continue };
            for v in graph.values.keys() {
                if map.of[v] == Some(from) {
                    map.of[v] = Some(to);
                }
            }
            map.storages[from].bytes = 0;
            found.writes[put] = true;
            found.idle[copy] = true;
        }
        found
    }
}

/// The `index_put` and the copy that give `buffer` its new value, the old value and what was put.
fn pair(graph: &Graph, buffer: pteron_ir::BufferId, last: ValueId) -> Option<(NodeId, NodeId, ValueId, ValueId)> {
    let made = |v: ValueId, op: Op| match graph.values[v].def {
        Def::Node(n, 0) if graph.nodes[n].op == op => Some(n),
        _ => None,
    };
    let value = |n: NodeId, i: usize| match graph.nodes[n].args.get(i) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    };
    let copy = made(last, Op::CopyInto)?;
    let (old, new) = (value(copy, 0)?, value(copy, 1)?);
    let put = made(new, Op::IndexPut)?;
    let own = matches!(graph.values[old].def, Def::Buffer(b) if b == buffer) && value(put, 0) == Some(old);
    own.then_some((put, copy, old, new))
}
