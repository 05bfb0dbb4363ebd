//! Where each node went.

use std::collections::BTreeMap;
use std::fmt;

use pteron_ir::{Graph, NodeId};

use super::{Plan, dequantizes_constant};
use crate::lower::is_quantization;

/// Where a node is executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placement {
    /// In the delegate of that number.
    Delegated(usize),
    /// Outside, for this reason.
    Refused(String),
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeReport {
    /// Its stable number.
    pub handle: u32,
    /// Its operator: `aten::linear`.
    pub op: &'static str,
    /// The module it came from.
    pub path: String,
    /// Whether it only quantizes or dequantizes.
    pub quantization: bool,
    /// Where it is executed.
    pub placement: Placement,
}

/// A method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphReport {
    /// Its name.
    pub method: String,
    /// Its delegates.
    pub delegates: usize,
    /// Its nodes, without those that dequantize a constant: these are part of who reads them.
    pub nodes: Vec<NodeReport>,
}

/// All methods.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartitionReport {
    /// The methods.
    pub methods: Vec<GraphReport>,
}

impl GraphReport {
    /// What became of the nodes of `graph`.
    pub fn new(graph: &Graph, plan: &Plan) -> GraphReport {
        let mut part_of: BTreeMap<NodeId, usize> = BTreeMap::new();
        for (i, (nodes, _)) in plan.parts.iter().enumerate() {
            nodes.iter().for_each(|&n| {
                part_of.insert(n, i);
            });
        }
        let row = |&n: &NodeId| {
            let node = &graph.nodes[n];
            let placement = match (part_of.get(&n), plan.refused.get(&n)) {
                (Some(&p), _) => Placement::Delegated(p),
                (None, Some(why)) => Placement::Refused(why.clone()),
                (None, None) => Placement::Refused("nothing that is delegated reads it".to_owned()),
            };
            NodeReport {
                handle: node.handle.0,
                op: node.op.name(),
                path: graph.paths.get(node.path).map_or(String::new(), |p| p.to_string()),
                quantization: is_quantization(node.op),
                placement,
            }
        };
        let nodes = graph.body().nodes.iter().filter(|&&n| !dequantizes_constant(graph, n)).map(row).collect();
        GraphReport { method: graph.name.clone(), delegates: plan.parts.len(), nodes }
    }

    /// The nodes that stay outside, but for the marks between shards.
    pub fn refused(&self) -> impl Iterator<Item = (&NodeReport, &str)> {
        self.nodes.iter().filter_map(|n| match &n.placement {
            Placement::Refused(why) if n.op != "llama::fallback" => Some((n, why.as_str())),
            _ => None,
        })
    }
}

impl PartitionReport {
    /// The nodes that stay outside, with their method.
    pub fn refused(&self) -> impl Iterator<Item = (&str, &NodeReport, &str)> {
        self.methods.iter().flat_map(|m| m.refused().map(|(n, why)| (m.method.as_str(), n, why)))
    }

    /// The first node that stays outside: one that computes, if there is one, because others stay outside for its sake.
    pub fn first_refused(&self) -> Option<(&str, &NodeReport, &str)> {
        self.refused().find(|(_, n, _)| !n.quantization).or_else(|| self.refused().next())
    }

    /// Whether every node is delegated.
    pub fn is_full(&self) -> bool {
        self.refused().next().is_none()
    }
}

impl fmt::Display for PartitionReport {
    /// A line for each method and operator, then one for each node that stays outside.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for m in &self.methods {
            let outside = m.refused().count();
            let total = m.nodes.iter().filter(|n| n.op != "llama::fallback").count();
            writeln!(f, "{}: {} of {total} nodes in {} delegate(s)", m.method, total - outside, m.delegates)?;
            let mut by_op: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
            for n in m.nodes.iter().filter(|n| !n.quantization && n.op != "llama::fallback") {
                let counts = by_op.entry(n.op).or_default();
                match n.placement {
                    Placement::Delegated(_) => counts.0 += 1,
                    Placement::Refused(_) => counts.1 += 1,
                }
            }
            for (op, (inside, outside)) in by_op {
                writeln!(f, "  {op:<34} {inside:>6} delegated {outside:>6} not")?;
            }
            for (n, why) in m.refused() {
                writeln!(f, "  #{} {} of `{}`: {why}", n.handle, n.op, n.path)?;
            }
        }
        Ok(())
    }
}
