//! Which chosen nodes go into one payload, and in which order everything is then called.
//!
//! A value's level is the number of times that a way from the inputs to it leaves a payload and enters another. Nodes of one
//! level go into one payload: a way from one of them to another that leaves the payload would raise the level.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{Graph, NodeId, ValueId};

use super::Choice;

/// One step of a lowered body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Node(NodeId),
    Partition(usize),
}

/// Partitions, each in the order of its nodes, and the order of all steps.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) partitions: Vec<Vec<NodeId>>,
    pub(super) order: Vec<Step>,
}

/// What a node waits for: the makers of what it reads, and, if it writes in place, the readers of the version that it replaces.
fn waits(graph: &Graph, n: NodeId, choice: &Choice, readers: &BTreeMap<ValueId, Vec<NodeId>>) -> Vec<NodeId> {
    let maker = |v: ValueId| match graph.values[v].def {
        pteron_ir::Def::Node(maker, _) => Some(maker),
        _ => None,
    };
    if let Some(chosen) = choice.get(&n) {
        return chosen.inputs.iter().filter_map(|&v| maker(v)).collect();
    }
    let node = &graph.nodes[n];
    let mut out: Vec<NodeId> = graph.reads(n).into_iter().filter_map(maker).collect();
    if node.op.mutates() {
        for (arg, schema) in node.args.iter().zip(node.op.schema().inputs()) {
            if schema.is_mutated() {
                arg.for_each_value(|v| out.extend(readers.get(&v).into_iter().flatten().filter(|&&r| r != n)));
            }
        }
    }
    out
}

pub(super) fn plan(graph: &Graph, choice: &Choice) -> Plan {
    let body = &graph.body().nodes;
    // Readers that come before: only those have to see the version that a writer replaces.
    let mut readers: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
    let mut level: BTreeMap<NodeId, u32> = BTreeMap::new();
    let mut needs: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
    let mut at: BTreeMap<u32, usize> = BTreeMap::new();
    let mut plan = Plan::default();
    let mut home: BTreeMap<NodeId, usize> = BTreeMap::new();
    for &n in body {
        let is_chosen = choice.contains_key(&n);
        let before = waits(graph, n, choice, &readers);
        let steps = before.iter().map(|w| {
            let leaves = !is_chosen && choice.contains_key(w);
            level.get(w).copied().unwrap_or(0) + u32::from(leaves)
        });
        let mine = steps.max().unwrap_or(0);
        level.insert(n, mine);
        if is_chosen {
            let p = *at.entry(mine).or_insert_with(|| {
                plan.partitions.push(Vec::new());
                plan.partitions.len() - 1
            });
            plan.partitions[p].push(n);
            home.insert(n, p);
        }
        needs.insert(n, before);
        let reads = match choice.get(&n) {
            Some(c) => c.inputs.to_vec(),
            None => graph.reads(n),
        };
        reads.into_iter().for_each(|v| readers.entry(v).or_default().push(n));
    }
    let step_of = |n: NodeId| home.get(&n).map_or(Step::Node(n), |&p| Step::Partition(p));
    let mut done: BTreeSet<NodeId> = BTreeSet::new();
    let mut called = vec![false; plan.partitions.len()];
    // Nodes in their order, payloads when something first needs them, and in the end those that only results need.
    for &n in body.iter().filter(|n| !home.contains_key(n)).chain(home.keys()) {
        let mut todo = vec![(step_of(n), false)];
        while let Some((step, ready)) = todo.pop() {
            let members: &[NodeId] = match &step {
                Step::Node(n) => std::slice::from_ref(n),
                Step::Partition(p) => &plan.partitions[*p],
            };
            let finished = match step {
                Step::Node(n) => done.contains(&n),
                Step::Partition(p) => called[p],
            };
            if finished {
                continue;
            }
            if ready {
                match step {
                    Step::Node(n) => {
                        done.insert(n);
                    }
                    Step::Partition(p) => called[p] = true,
                }
                plan.order.push(step);
                continue;
            }
            todo.push((step, true));
            let waiting = members.iter().flat_map(|m| needs.get(m).into_iter().flatten()).map(|&w| step_of(w));
            todo.extend(waiting.filter(|&w| w != step).map(|w| (w, false)));
        }
    }
    plan
}
