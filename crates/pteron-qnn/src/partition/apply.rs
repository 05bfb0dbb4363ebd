//! Putting delegates in the place of parts.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{Arg, BufferId, Def, DelegateId, Extra, Graph, Id, Module, NodeId, Op, Type, ValueId};

use crate::lower::Boundary;

/// A part that became a delegate.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its nodes.
    pub nodes: Vec<NodeId>,
    /// What it reads and gives.
    pub boundary: Boundary,
    /// The delegate.
    pub delegate: DelegateId,
}

/// Puts a call of its delegate in the place of each part. Nodes are put in an order in which each comes after what it reads,
/// and before what writes over it.
///
/// # Errors
/// A sentence, if no such order exists: the parts are not those of [`super::plan`].
pub fn apply(graph: &mut Graph, parts: &[Part]) -> Result<(), String> {
    let body = graph.body_id();
    let old = std::mem::take(&mut graph.regions[body].nodes);
    // A unit is a part or a single node.
    let mut unit_of: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (i, part) in parts.iter().enumerate() {
        part.nodes.iter().for_each(|&n| {
            unit_of.insert(n, i);
        });
    }
    let mut units: Vec<Option<NodeId>> = vec![None; parts.len()];
    let mut first: Vec<usize> = vec![usize::MAX; parts.len()];
    for (at, &n) in old.iter().enumerate() {
        match unit_of.get(&n) {
            Some(&u) => first[u] = first[u].min(at),
            None => {
                unit_of.insert(n, units.len());
                units.push(Some(n));
                first.push(at);
            }
        }
    }
    let order = ordered(graph, &old, &unit_of, &first)?;
    // What parts give is another value from then on, in the inputs of later parts too.
    let mut given: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    for u in order {
        match units[u] {
            Some(n) => graph.regions[body].nodes.push(n),
            None => call(graph, &parts[u], &mut given),
        }
    }
    Ok(())
}

/// The units in order: those that come first among the nodes first.
fn ordered(
    graph: &Graph,
    old: &[NodeId],
    unit_of: &BTreeMap<NodeId, usize>,
    first: &[usize],
) -> Result<Vec<usize>, String> {
    let mut before: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); first.len()];
    let mut readers: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
    for &n in old {
        let unit = unit_of[&n];
        for v in graph.reads(n) {
            readers.entry(v).or_default().push(unit);
            if let Def::Node(m, _) = graph.values[v].def
                && let Some(&maker) = unit_of.get(&m)
                && maker != unit
            {
                before[unit].insert(maker);
            }
        }
    }
    for &n in old {
        let node = &graph.nodes[n];
        let mutated = node.op.schema().inputs().zip(&node.args).filter(|(a, _)| a.is_mutated());
        for (_, argument) in mutated {
            argument.for_each_value(|v| {
                let others = readers.get(&v).into_iter().flatten().filter(|&&r| r != unit_of[&n]);
                before[unit_of[&n]].extend(others);
            });
        }
    }
    let mut after: Vec<Vec<usize>> = vec![Vec::new(); first.len()];
    let mut waits: Vec<usize> = before.iter().map(BTreeSet::len).collect();
    for (unit, makers) in before.iter().enumerate() {
        makers.iter().for_each(|&m| after[m].push(unit));
    }
    let mut ready: BTreeSet<(usize, usize)> =
        (0..first.len()).filter(|&u| waits[u] == 0).map(|u| (first[u], u)).collect();
    let mut order = Vec::with_capacity(first.len());
    while let Some((_, u)) = ready.pop_first() {
        order.push(u);
        for &next in &after[u] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.insert((first[next], next));
            }
        }
    }
    if order.len() == first.len() { Ok(order) } else { Err("two parts of the graph wait for each other".to_owned()) }
}

fn call(graph: &mut Graph, part: &Part, given: &mut BTreeMap<ValueId, ValueId>) {
    let args: Vec<Arg> = part.boundary.inputs.iter().map(|v| Arg::Value(given.get(v).copied().unwrap_or(*v))).collect();
    let types: Vec<Type> = part.boundary.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
    let (body, path) = (graph.body_id(), graph.intern_path(""));
    let n = graph.add_node(body, Op::Delegate, args, types, Extra::Delegate(part.delegate), path);
    let inside: BTreeSet<NodeId> = part.nodes.iter().copied().collect();
    for (&old, new) in part.boundary.outputs.iter().zip(graph.nodes[n].outputs.clone()) {
        // Nodes of the part are gone from the body; what they read does not matter.
        graph.replace_uses(old, new);
        given.insert(old, new);
        graph.values[new].name = graph.values[old].name.clone();
    }
    debug_assert!(inside.iter().all(|n| !graph.regions[body].nodes.contains(n)));
    let owned: BTreeSet<BufferId> = part.boundary.buffers.iter().map(|b| b.0).collect();
    graph.mutations.retain(|m| !owned.contains(&m.0));
}

/// Takes buffers that no graph reads or writes any more out of the module.
pub fn drop_unused_buffers(module: &mut Module) {
    let mut used = vec![false; module.buffers.len()];
    for g in &module.graphs {
        g.mutations.iter().for_each(|m| used[m.0.index()] = true);
        for n in g.all_nodes() {
            for v in g.reads(n) {
                if let Def::Buffer(b) = g.values[v].def {
                    used[b.index()] = true;
                }
            }
        }
        for &v in g.outputs() {
            if let Def::Buffer(b) = g.values[v].def {
                used[b.index()] = true;
            }
        }
    }
    if used.iter().all(|u| *u) {
        return;
    }
    let old = std::mem::take(&mut module.buffers);
    let mut place: Vec<Option<BufferId>> = vec![None; old.len()];
    for (b, buffer) in old.iter() {
        if used[b.index()] {
            place[b.index()] = Some(module.buffers.push(buffer.clone()));
        }
    }
    for g in &mut module.graphs {
        for (_, value) in g.values.iter_mut() {
            if let Def::Buffer(b) = value.def {
                match place[b.index()] {
                    Some(to) => value.def = Def::Buffer(to),
                    // A value that nothing reads; it must not name what is gone.
                    None => value.def = Def::Input(u32::MAX),
                }
            }
        }
        g.mutations.iter_mut().for_each(|m| m.0 = place[m.0.index()].unwrap_or(m.0));
    }
}
