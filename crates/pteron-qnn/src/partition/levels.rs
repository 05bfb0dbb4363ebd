//! Parts without circles.

use std::collections::BTreeMap;

use pteron_ir::{Def, Graph, NodeId, ValueId};

use super::dequantizes_constant;
use crate::lower::is_dequantize;

/// The part of each node that is `taken`. A node's part is the largest number of refused nodes on a way to it that follow a
/// taken one; between two nodes of one part there is then no way through a refused node.
pub(super) fn parts(graph: &Graph, taken: &dyn Fn(NodeId) -> bool) -> BTreeMap<NodeId, usize> {
    let body = &graph.body().nodes;
    let mut level: BTreeMap<NodeId, usize> = BTreeMap::new();
    let mut of: BTreeMap<NodeId, usize> = BTreeMap::new();
    for &n in body {
        if dequantizes_constant(graph, n) {
            continue;
        }
        let mine = taken(n);
        let reached = |v: ValueId| match graph.values[v].def {
            Def::Node(m, _) => level.get(&m).map(|l| if mine && !of.contains_key(&m) { l + 1 } else { *l }),
            _ => None,
        };
        let at = graph.reads(n).into_iter().filter_map(reached).max().unwrap_or(0);
        level.insert(n, at);
        if mine {
            of.insert(n, at);
        }
    }
    // Numbers are dequantized by who reads them, so that what crosses between parts are the integers.
    let mut readers: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    for &n in body {
        for v in graph.reads(n) {
            if let Def::Node(m, _) = graph.values[v].def {
                readers.entry(m).or_default().push(n);
            }
        }
    }
    let leaves = |v: ValueId| graph.outputs().contains(&v) || graph.mutations.iter().any(|m| m.1 == v);
    for &n in body {
        if !of.contains_key(&n)
            || !is_dequantize(graph.nodes[n].op)
            || graph.nodes[n].outputs.iter().any(|&v| leaves(v))
        {
            continue;
        }
        let parts: Vec<Option<usize>> = readers.get(&n).into_iter().flatten().map(|r| of.get(r).copied()).collect();
        if let [Some(first), ref rest @ ..] = parts[..]
            && rest.iter().all(|p| *p == Some(first))
        {
            of.insert(n, first);
        }
    }
    of
}
