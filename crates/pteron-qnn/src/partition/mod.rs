//! Which nodes of a quantized graph Qualcomm's library takes, and the graph with its parts as delegates.
//!
//! Every node is lowered and shown to the library ([`QnnCompiler::validate`]); nodes that it takes are joined into parts of which
//! none waits for another that waits for it. What stays outside is reported with the reason.

mod apply;
mod compile;
mod levels;
mod prepare;
mod report;

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{BufferId, Def, Graph, Module, NodeId, Op, ValueId};

use crate::error::QnnError;
use crate::host::{QnnCompiler, Verdict};
use crate::lower::{Boundary, LinearForm, is_dequantize, is_quantization, lower};
use crate::soc::Soc;

pub use apply::{Part, apply, drop_unused_buffers};
pub use compile::{
    CompileError, CompileOptions, CompileSpecs, Compiled, Context, MethodIo, Shards, Together, compile, compile_specs,
};
pub use prepare::{IoParams, ShardError, narrow, own_dequantize, shard, tag_io};
pub use report::{GraphReport, NodeReport, PartitionReport, Placement};

/// Nodes of one part, in order, with what it reads and gives.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The parts, in an order in which they can be executed.
    pub parts: Vec<(Vec<NodeId>, Boundary)>,
    /// Why a node is in no part.
    pub refused: BTreeMap<NodeId, String>,
}

/// Rounds of validation after which a graph is taken not to settle; each refuses at least one node more.
const MAX_ROUNDS: usize = 64;

/// Finds the parts of `graph` that `library` takes, compiled for `soc`.
///
/// # Errors
/// [`QnnError`] if the library cannot be asked.
pub fn plan(
    module: &Module,
    graph: &Graph,
    library: &dyn QnnCompiler,
    soc: Soc,
    form: LinearForm,
) -> Result<Plan, QnnError> {
    let mut refused: BTreeMap<NodeId, String> = BTreeMap::new();
    for &n in &graph.body().nodes {
        if let Some(reason) = never(graph, n) {
            refused.insert(n, reason);
        }
    }
    for _ in 0..MAX_ROUNDS {
        let parts = parts_of(module, graph, &mut refused);
        let before = refused.len();
        for (nodes, boundary) in &parts {
            let lowered = lower(module, graph, nodes, boundary, form);
            refused.extend(lowered.refused.iter().cloned());
            let all: Vec<usize> = (0..lowered.graph.nodes.len()).collect();
            let verdicts = library.validate(&lowered.graph, &all, soc)?;
            for (n, range) in &lowered.nodes {
                let words =
                    verdicts.get(range.clone()).unwrap_or_default().iter().zip(&lowered.graph.nodes[range.clone()]);
                for (verdict, node) in words {
                    if let Verdict::Refused(why) = verdict {
                        let why = why.trim();
                        refused.entry(*n).or_insert_with(|| format!("the library refuses {}: {why}", node.op));
                    }
                }
            }
        }
        if refused.len() == before {
            return Ok(Plan { parts, refused });
        }
    }
    Err(QnnError::Mismatch(format!("method `{}`: the library refuses other nodes each time it is asked", graph.name)))
}

/// Why a node is never lowered, whatever the library says.
fn never(graph: &Graph, n: NodeId) -> Option<String> {
    let node = &graph.nodes[n];
    match node.op {
        Op::Fallback => Some("it marks the end of a shard".to_owned()),
        Op::Delegate => Some("it is a delegate's".to_owned()),
        Op::Custom | Op::Cond | Op::Loop => Some(format!("QNN has no operator for {} here", node.op)),
        _ => None,
    }
}

/// True for a node that dequantizes a constant: it goes wherever it is read.
pub(crate) fn dequantizes_constant(graph: &Graph, n: NodeId) -> bool {
    let node = &graph.nodes[n];
    let Some(pteron_ir::Arg::Value(v)) = node.args.first() else { return false };
    is_dequantize(node.op) && matches!(graph.values[*v].def, Def::Const(_))
}

/// The parts that the nodes that are not refused make. Nodes that no part can have are refused on the way.
fn parts_of(module: &Module, graph: &Graph, refused: &mut BTreeMap<NodeId, String>) -> Vec<(Vec<NodeId>, Boundary)> {
    loop {
        let taken = |n: NodeId| !refused.contains_key(&n) && !dequantizes_constant(graph, n);
        let part_of = levels::parts(graph, &taken);
        let mut parts: BTreeMap<usize, Vec<NodeId>> = BTreeMap::new();
        for &n in &graph.body().nodes {
            if let Some(&p) = part_of.get(&n) {
                parts.entry(p).or_default().push(n);
            }
        }
        let mut more: Vec<(NodeId, String)> = Vec::new();
        for nodes in parts.values() {
            if nodes.iter().all(|&n| is_quantization(graph.nodes[n].op)) {
                let reason = "no other node beside it is delegated";
                more.extend(nodes.iter().map(|&n| (n, reason.to_owned())));
            }
        }
        let owned = owned_buffers(graph, &part_of);
        for &n in &graph.body().nodes {
            let touched = buffers_of(graph, n);
            let foreign = touched.iter().find(|b| part_of.contains_key(&n) && !owned.contains_key(b));
            if let Some(&b) = foreign {
                let name = &module.buffers[b].name;
                more.push((n, format!("the buffer `{name}` is used outside the delegate as well")));
            }
        }
        if more.is_empty() {
            let boundary = |nodes: &Vec<NodeId>, p: usize| boundary_of(graph, nodes, &owned, p);
            return parts.into_iter().map(|(p, nodes)| (nodes.clone(), boundary(&nodes, p))).collect();
        }
        for (n, reason) in more {
            refused.entry(n).or_insert(reason);
        }
    }
}

/// The buffers that a node reads or writes.
fn buffers_of(graph: &Graph, n: NodeId) -> Vec<BufferId> {
    let of = |v: ValueId| match graph.values[v].def {
        Def::Buffer(b) => Some(b),
        _ => None,
    };
    graph.reads(n).into_iter().filter_map(of).collect()
}

/// Buffers that only one part touches, which writes them, with that part.
fn owned_buffers(graph: &Graph, part_of: &BTreeMap<NodeId, usize>) -> BTreeMap<BufferId, usize> {
    let mut owned: BTreeMap<BufferId, Option<usize>> = BTreeMap::new();
    for (b, v) in &graph.mutations {
        let writer = match graph.values[*v].def {
            Def::Node(n, _) => part_of.get(&n).copied(),
            _ => None,
        };
        owned.insert(*b, writer);
    }
    for &n in &graph.body().nodes {
        for b in buffers_of(graph, n) {
            let here = part_of.get(&n).copied();
            let entry = owned.entry(b).or_insert(None);
            if *entry != here {
                *entry = None;
            }
        }
    }
    owned.into_iter().filter_map(|(b, p)| Some((b, p?))).collect()
}

fn boundary_of(graph: &Graph, nodes: &[NodeId], owned: &BTreeMap<BufferId, usize>, part: usize) -> Boundary {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let made_inside = |v: ValueId| matches!(graph.values[v].def, Def::Node(n, _) if inside.contains(&n));
    let is_mine = |b: BufferId| owned.get(&b) == Some(&part);
    let mut read = Vec::new();
    for &n in nodes {
        for v in graph.reads(n) {
            let comes_in = match graph.values[v].def {
                Def::Const(_) => false,
                Def::Node(m, _) => !inside.contains(&m) && !dequantizes_constant(graph, m),
                Def::Input(_) | Def::Param(..) | Def::Buffer(_) => {
                    !matches!(graph.values[v].def, Def::Buffer(b) if is_mine(b))
                }
            };
            if comes_in && !read.contains(&v) {
                read.push(v);
            }
        }
    }
    // The method's own inputs and outputs keep their order.
    let inputs: Vec<ValueId> = graph.inputs.iter().copied().filter(|v| read.contains(v)).collect();
    let inputs = inputs.iter().copied().chain(read.iter().copied().filter(|v| !inputs.contains(v))).collect();
    let mut outputs: Vec<ValueId> = Vec::new();
    let mut give = |v: ValueId| {
        if made_inside(v) && !outputs.contains(&v) {
            outputs.push(v);
        }
    };
    graph.outputs().iter().for_each(|&v| give(v));
    let mine: Vec<(BufferId, ValueId)> = graph.mutations.iter().copied().filter(|m| is_mine(m.0)).collect();
    graph.mutations.iter().filter(|m| !is_mine(m.0)).for_each(|m| give(m.1));
    for n in graph.all_nodes() {
        if !inside.contains(&n) {
            graph.reads(n).into_iter().for_each(&mut give);
        }
    }
    Boundary { inputs, outputs, buffers: mine }
}
