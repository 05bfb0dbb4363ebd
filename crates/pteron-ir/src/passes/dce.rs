//! Removes what nobody reads.

use crate::entity::{NodeId, RegionId, SideTable, ValueId};
use crate::graph::{Def, Graph};
use crate::module::Module;
use crate::op::Op;
use crate::pass::{Pass, PassContext, PassError, PassReport};

/// Removes nodes whose outputs nobody reads. Delegates and operators outside the table stay, because what else they do is
/// not known. A write to a buffer goes if neither a node nor a mutation reads the new version: what a buffer holds in the
/// end is what the graph's mutations say. Constants and buffers stay, read or not.
pub const DCE: Pass = Pass { name: "dce", about: "removes nodes whose outputs nobody reads", run };

fn run(m: &mut Module, cx: &PassContext<'_>) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    for g in &mut m.graphs {
        let live = liveness(g);
        sweep(g, g.body_id(), &live, cx, &mut report);
    }
    Ok(report)
}

/// Readers go before what they read, and a node goes with its regions: so the graph is whole after each step.
fn sweep(g: &mut Graph, r: RegionId, live: &SideTable<NodeId, bool>, cx: &PassContext<'_>, report: &mut PassReport) {
    let nodes = std::mem::take(&mut g.regions[r].nodes);
    let mut kept = Vec::with_capacity(nodes.len());
    for n in nodes.into_iter().rev() {
        if !live[n] && cx.step() {
            report.changed += 1;
            continue;
        }
        if live[n] {
            for inner in g.nodes[n].regions.clone() {
                sweep(g, inner, live, cx, report);
            }
        }
        kept.push(n);
    }
    kept.reverse();
    g.regions[r].nodes = kept;
}

fn has_side_effects(op: Op) -> bool {
    matches!(op, Op::Delegate | Op::Custom)
}

fn liveness(g: &Graph) -> SideTable<NodeId, bool> {
    let mut live = SideTable::new(false);
    let mut owner: SideTable<RegionId, Option<NodeId>> = SideTable::new(None);
    let mut home: SideTable<NodeId, Option<RegionId>> = SideTable::new(None);
    let all = g.all_nodes();
    for &n in &all {
        g.nodes[n].regions.iter().for_each(|&r| owner[r] = Some(n));
    }
    for (r, region) in g.regions.iter() {
        region.nodes.iter().for_each(|&n| home[n] = Some(r));
    }
    let mut todo: Vec<ValueId> = g.outputs().to_vec();
    todo.extend(g.mutations.iter().map(|m| m.1));
    let mark = |first: NodeId, live: &mut SideTable<NodeId, bool>, todo: &mut Vec<ValueId>| {
        let mut next = Some(first);
        // With a node, the nodes in whose regions it stands are live.
        while let Some(n) = next {
            if std::mem::replace(&mut live[n], true) {
                return;
            }
            g.nodes[n].args.iter().for_each(|a| a.for_each_value(|v| todo.push(v)));
            for &r in &g.nodes[n].regions {
                todo.extend(&g.regions[r].results);
            }
            next = home[n].and_then(|r| owner[r]);
        }
    };
    for &n in all.iter().filter(|&&n| has_side_effects(g.nodes[n].op)) {
        mark(n, &mut live, &mut todo);
    }
    while let Some(v) = todo.pop() {
        match g.values[v].def {
            Def::Node(n, _) => mark(n, &mut live, &mut todo),
            Def::Param(r, _) => {
                if let Some(n) = owner[r] {
                    mark(n, &mut live, &mut todo);
                }
            }
            Def::Input(_) | Def::Const(_) | Def::Buffer(_) => {}
        }
    }
    live
}
