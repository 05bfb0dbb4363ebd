//! Small rewrites that leave less to look at.

use crate::arg::Arg;
use crate::entity::{NodeId, RegionId, SideTable, ValueId};
use crate::graph::{Def, Graph};
use crate::module::Module;
use crate::op::Op;
use crate::pass::{Pass, PassContext, PassError, PassReport};
use crate::schema::OutputSpec;

/// * A view of a view is a view of the first one's input.
/// * A copy (clone, a cast to the own dtype, a view of the own sizes) with the type of its input goes: if its input is made
///   by a node for this copy alone, or if neither is ever written and the copy is read by nodes only.
///
/// Nothing moves a read of a tensor behind a write to it.
pub const CANONICALIZE: Pass =
    Pass { name: "canonicalize", about: "folds views of views, removes copies that change nothing", run };

fn run(m: &mut Module, cx: &PassContext<'_>) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    for g in &mut m.graphs {
        let mut facts = Facts::of(g);
        region(g, g.body_id(), cx, &mut facts, &mut report);
    }
    Ok(report)
}

/// How each value is used.
struct Facts {
    /// Reads by nodes.
    by_nodes: SideTable<ValueId, u32>,
    /// Reads by results and mutations.
    by_ends: SideTable<ValueId, u32>,
    /// True for what some node mutates.
    written: SideTable<ValueId, bool>,
    /// The region in which each node stands: a tensor made outside a loop is not written inside it.
    home: SideTable<NodeId, Option<RegionId>>,
    /// What stands for a value from here on.
    instead: SideTable<ValueId, Option<ValueId>>,
}

impl Facts {
    fn of(g: &Graph) -> Facts {
        let mut f = Facts {
            by_nodes: SideTable::new(0),
            by_ends: SideTable::new(0),
            written: SideTable::new(false),
            home: SideTable::new(None),
            instead: SideTable::new(None),
        };
        f.region(g, g.body_id());
        g.mutations.iter().for_each(|m| f.by_ends[m.1] += 1);
        f
    }

    fn region(&mut self, g: &Graph, r: RegionId) {
        for &n in &g.regions[r].nodes {
            let node = &g.nodes[n];
            self.home[n] = Some(r);
            node.args.iter().for_each(|a| a.for_each_value(|v| self.by_nodes[v] += 1));
            if !node.op.is_structural() {
                for (a, declared) in node.args.iter().zip(node.op.schema().inputs()) {
                    if let (true, Arg::Value(v)) = (declared.is_mutated(), a) {
                        self.written[*v] = true;
                    }
                }
            }
            node.regions.iter().for_each(|&inner| self.region(g, inner));
        }
        g.regions[r].results.iter().for_each(|&v| self.by_ends[v] += 1);
    }

    fn uses(&self, v: ValueId) -> u32 {
        self.by_nodes[v] + self.by_ends[v]
    }
}

fn region(g: &mut Graph, r: RegionId, cx: &PassContext<'_>, facts: &mut Facts, report: &mut PassReport) {
    let nodes = std::mem::take(&mut g.regions[r].nodes);
    let mut kept = Vec::with_capacity(nodes.len());
    for n in nodes {
        let replace = |v: ValueId| facts.instead[v].unwrap_or(v);
        g.nodes[n].args.iter_mut().for_each(|a| a.map_values(replace));
        if let Some(source) = folded_view(g, n, facts)
            && cx.step()
        {
            let old = g.nodes[n].args[0].clone();
            old.for_each_value(|v| facts.by_nodes[v] -= 1);
            facts.by_nodes[source] += 1;
            g.nodes[n].args[0] = Arg::Value(source);
            report.changed += 1;
        }
        if let Some((from, to)) = idle_copy(g, n, facts)
            && cx.step()
        {
            facts.instead[to] = Some(from);
            facts.by_nodes[from] = facts.by_nodes[from] - 1 + facts.by_nodes[to];
            facts.by_ends[from] += facts.by_ends[to];
            facts.written[from] |= facts.written[to];
            report.changed += 1;
            continue;
        }
        for inner in g.nodes[n].regions.clone() {
            region(g, inner, cx, facts, report);
        }
        kept.push(n);
    }
    g.regions[r].nodes = kept;
    let replace = |v: ValueId| facts.instead[v].unwrap_or(v);
    g.regions[r].results.iter_mut().for_each(|v| *v = replace(*v));
    if r == g.body_id() {
        g.mutations.iter_mut().for_each(|m| m.1 = replace(m.1));
    }
}

/// For a view of a view: the input of the inner one, if nothing writes it later.
fn folded_view(g: &Graph, n: NodeId, facts: &Facts) -> Option<ValueId> {
    let node = &g.nodes[n];
    let Some(Arg::Value(v)) = node.args.first() else { return None };
    let Def::Node(inner, _) = g.values[*v].def else { return None };
    let inner = &g.nodes[inner];
    let Some(Arg::Value(source)) = inner.args.first() else { return None };
    (node.op == Op::ViewCopy && inner.op == Op::ViewCopy && !facts.written[*source] && !facts.written[*v])
        .then_some(*source)
}

/// For a copy that is not needed: its input and its output.
fn idle_copy(g: &Graph, n: NodeId, facts: &Facts) -> Option<(ValueId, ValueId)> {
    let node = &g.nodes[n];
    if !matches!(node.op, Op::Clone | Op::CloneDimOrder | Op::ToCopy | Op::ToDimOrderCopy | Op::ViewCopy) {
        return None;
    }
    let (Some(Arg::Value(from)), &[to]) = (node.args.first(), node.outputs.as_slice()) else { return None };
    // The types must be known to be equal: unknown sizes that look alike are not, nor is a spelled-out row-major order.
    let (a, b) = (g.ty(*from).as_tensor()?, g.ty(to).as_tensor()?);
    let same = a.dtype == b.dtype
        && a.order == b.order
        && a.rank() == b.rank()
        && a.dims.iter().zip(&b.dims).all(|(x, y)| x.is_equal(y));
    // A view's sizes are those of its input if its type is; of the others no operator changes a size.
    let same = same || (node.op != Op::ViewCopy && a.dtype == b.dtype && a.order == b.order && a.dims == b.dims);
    if !same {
        return None;
    }
    let made_for_this = match g.values[*from].def {
        Def::Node(maker_id, k) if facts.uses(*from) == 1 => {
            let maker = &g.nodes[maker_id];
            let is_version = !maker.op.is_structural()
                && matches!(maker.op.schema().outputs.get(k as usize), Some(OutputSpec::NewVersion { .. }));
            !maker.op.is_structural() && !is_version && facts.home[maker_id] == facts.home[n]
        }
        _ => false,
    };
    let only_read = !facts.written[*from] && !facts.written[to] && facts.by_ends[to] == 0;
    (made_for_this || only_read).then_some((*from, to))
}
