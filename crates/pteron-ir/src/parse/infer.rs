//! Types that were left out.

use crate::entity::{NodeId, RegionId, SideTable, ValueId};
use crate::graph::Graph;
use crate::infer::InferCtx;
use crate::op::Op;
use crate::types::Type;

/// Values whose type was written `_` or not at all.
pub(super) struct Holes {
    unknown: SideTable<ValueId, bool>,
    any: bool,
    /// Nodes that have such outputs.
    pub(super) nodes: Vec<NodeId>,
}

impl Default for Holes {
    fn default() -> Self {
        Holes { unknown: SideTable::new(false), any: false, nodes: Vec::new() }
    }
}

type Results = Vec<(NodeId, Result<String, String>)>;

impl Holes {
    pub(super) fn add(&mut self, v: ValueId) {
        self.unknown[v] = true;
        self.any = true;
    }

    pub(super) fn contains(&self, v: ValueId) -> bool {
        self.unknown[v]
    }

    /// Infers the types in order of execution. What depends on a value that has none is not mentioned again.
    pub(super) fn resolve(&mut self, g: &mut Graph) -> Results {
        let mut out = Vec::new();
        if self.any {
            self.region(g, g.body_id(), &mut out);
        }
        out
    }

    fn region(&mut self, g: &mut Graph, r: RegionId, out: &mut Results) {
        for n in g.regions[r].nodes.clone() {
            let regions = g.nodes[n].regions.clone();
            for &inner in &regions {
                self.params(g, n, inner);
                self.region(g, inner, out);
            }
            if self.nodes.binary_search(&n).is_err() {
                continue;
            }
            let mut blocked = false;
            g.nodes[n].args.iter().for_each(|a| a.for_each_value(|v| blocked |= self.unknown[v]));
            if blocked {
                continue;
            }
            let result = self.types(g, n).map(|types| {
                let spelled: Vec<String> = types.iter().map(Type::to_string).collect();
                for (v, ty) in g.nodes[n].outputs.clone().into_iter().zip(types) {
                    if std::mem::take(&mut self.unknown[v]) {
                        g.values[v].ty = ty;
                    }
                }
                spelled.join(", ")
            });
            out.push((n, result));
        }
    }

    /// A loop's parameters have the types of its first values.
    fn params(&mut self, g: &mut Graph, n: NodeId, inner: RegionId) {
        for (i, p) in g.regions[inner].params.clone().into_iter().enumerate() {
            if let Some(crate::arg::Arg::Value(v)) = g.nodes[n].args.get(i)
                && self.unknown[p]
                && !self.unknown[*v]
            {
                g.values[p].ty = g.values[*v].ty.clone();
                self.unknown[p] = false;
            }
        }
    }

    fn types(&self, g: &Graph, n: NodeId) -> Result<Vec<Type>, String> {
        let node = &g.nodes[n];
        let types: Vec<Type> = match node.op {
            Op::Cond | Op::Loop => {
                let Some(&r) = node.regions.first() else { return Err("there is no region".into()) };
                let results = g.regions[r].results.iter().skip(usize::from(node.op == Op::Loop));
                if let Some(v) = results.clone().find(|&&v| self.unknown[v]) {
                    return Err(format!(
                        "the type of the region's result {} is not known",
                        crate::print::Names::new(g).of(g, *v)
                    ));
                }
                results.map(|&v| g.ty(v).clone()).collect()
            }
            op => {
                let types = |v: ValueId| g.ty(v);
                let ctx = InferCtx { op, args: &node.args, types: &types, symbols: &g.symbols };
                ctx.infer().map_err(|e| e.to_string())?.into_vec()
            }
        };
        match (types.len(), node.outputs.len()) {
            (a, b) if a == b => Ok(types),
            (a, b) => Err(format!("{} has {a} outputs, {b} are written", node.op)),
        }
    }
}
