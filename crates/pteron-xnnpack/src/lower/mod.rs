//! From graphs to payloads: which nodes XNNPACK computes, in which partitions, and why not the others.
//!
//! As ExecuTorch's exporter has it: dynamically quantized linear layers and float ones come first, before operators are
//! decomposed; with the extended operators, float operators of the decomposed graph follow, in delegates of their own.

mod constants;
mod float;
mod linear;
mod payload;
mod schedule;

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_exec::Context;
use pteron_ir::{Arg, Delegate, DelegateId, Extra, Graph, Module, NodeId, Op, Type, ValueId};
use smallvec::SmallVec;

use crate::error::XnnpackError;
use crate::payload::Payload;
use constants::Constants;
use linear::Linear;

/// Id of the backend in programs.
pub const BACKEND: &str = "XnnpackBackend";

/// Highest rank of a tensor of XNNPACK.
const MAX_RANK: usize = crate::payload::MAX_RANK;

/// Which operators are lowered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Linear layers: dynamically quantized ones with 8-bit weights per channel or 4-bit weights per channel or group, and
    /// those of f32. What `XnnpackDynamicallyQuantizedPartitioner` takes. For graphs whose quantization is not decomposed.
    Linear,
    /// Operators over f32: what `XnnpackPartitioner` takes of a graph of ExecuTorch's kernels.
    Extended,
}

/// Nodes of one operator that stay where they are for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The operator.
    pub op: Op,
    /// Why, a sentence without a full stop.
    pub reason: String,
    /// How many.
    pub count: usize,
    /// Module path of the first one.
    pub first: String,
}

/// What was lowered, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Number of payloads.
    pub delegates: usize,
    /// Nodes lowered, by operator.
    pub lowered: BTreeMap<Op, usize>,
    /// Linear layers whose activations are quantized when they run, by XNNPACK's rule.
    pub dynamic_layers: usize,
    /// Nodes that were looked at and stay, in the order in which they were met.
    pub refused: Vec<Refused>,
    /// Bytes of constants in the payloads' named data.
    pub named_data_bytes: u64,
}

impl Report {
    fn refuse(&mut self, op: Op, reason: String, path: &str) {
        match self.refused.iter_mut().find(|r| r.op == op && r.reason == reason) {
            Some(r) => r.count += 1,
            None => self.refused.push(Refused { op, reason, count: 1, first: path.to_owned() }),
        }
    }

    /// Adds what another step did.
    pub fn extend(&mut self, other: Report) {
        self.delegates += other.delegates;
        self.dynamic_layers += other.dynamic_layers;
        self.named_data_bytes += other.named_data_bytes;
        for (op, n) in other.lowered {
            *self.lowered.entry(op).or_default() += n;
        }
        for r in other.refused {
            match self.refused.iter_mut().find(|x| x.op == r.op && x.reason == r.reason) {
                Some(x) => x.count += r.count,
                None => self.refused.push(r),
            }
        }
    }
}

/// What a node becomes in a payload.
#[derive(Debug, Clone)]
enum Unit {
    Linear(Linear),
    Float,
}

/// A node that XNNPACK computes.
#[derive(Debug, Clone)]
struct Chosen {
    unit: Unit,
    /// Values that come from outside of constants: those that it waits for.
    inputs: SmallVec<[ValueId; 4]>,
}

/// The nodes that XNNPACK computes.
type Choice = BTreeMap<NodeId, Chosen>;

fn choose(module: &Module, graph: &Graph, scope: Scope, report: &mut Report) -> Choice {
    let mut choice = Choice::new();
    for &n in &graph.body().nodes {
        let node = &graph.nodes[n];
        let chosen = match scope {
            Scope::Linear if node.op == Op::Linear => linear::examine(module, graph, n),
            Scope::Extended if node.op != Op::Delegate => float::examine(module, graph, n),
            _ => continue,
        };
        match chosen {
            Ok(Some(chosen)) => {
                report.dynamic_layers += usize::from(matches!(&chosen.unit, Unit::Linear(l) if l.is_dynamic()));
                *report.lowered.entry(node.op).or_default() += 1;
                choice.insert(n, chosen);
            }
            Ok(None) => {}
            Err(reason) => report.refuse(node.op, reason, &graph.paths[node.path]),
        }
    }
    let inside = graph.all_nodes().len() - graph.body().nodes.len();
    if inside > 0 {
        report.refuse(Op::Cond, format!("{inside} nodes inside branches and loops are not looked at"), "");
    }
    choice
}

/// Lowers what `scope` says of every graph of `module`: partitions become calls of delegates, whose weights are decoded by rows
/// when the program is written. What only the lowered nodes read stays for dead code elimination. Keys of the named data are
/// SHA-256 of the bytes, computed on the threads of `ctx`.
///
/// # Errors
/// [`XnnpackError`] if a weight cannot be read or a graph does not fit the format.
pub fn lower(module: &mut Module, scope: Scope, ctx: &Context) -> Result<Report, XnnpackError> {
    let mut report = Report::default();
    let mut graphs = std::mem::take(&mut module.graphs);
    let result = lower_graphs(module, &mut graphs, scope, ctx, &mut report);
    module.graphs = graphs;
    result.map(|()| report)
}

/// A partition that has been made a payload.
struct Made {
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    payload: Payload,
    /// Entries of the constants, in the order of the payload's table, which begins with none.
    constants: Vec<usize>,
    path: pteron_ir::PathId,
}

fn lower_graphs(
    module: &mut Module,
    graphs: &mut [Graph],
    scope: Scope,
    ctx: &Context,
    report: &mut Report,
) -> Result<(), XnnpackError> {
    let mut constants = Constants::default();
    let mut plans = Vec::with_capacity(graphs.len());
    for graph in graphs.iter() {
        let choice = choose(module, graph, scope, report);
        let plan = schedule::plan(graph, &choice);
        let mut made = Vec::with_capacity(plan.partitions.len());
        for nodes in &plan.partitions {
            made.push(payload::make(module, graph, nodes, &choice, &mut constants)?);
        }
        report.delegates += made.len();
        plans.push((plan, made));
    }
    let keys = constants.keys(ctx)?;
    report.named_data_bytes += constants.bytes();
    for (graph, (plan, made)) in graphs.iter_mut().zip(plans) {
        let body = graph.body_id();
        graph.regions[body].nodes.clear();
        let mut ids: Vec<Option<Made>> = made.into_iter().map(Some).collect();
        let mut renamed = BTreeMap::new();
        for step in plan.order {
            match step {
                schedule::Step::Node(n) => graph.regions[body].nodes.push(n),
                schedule::Step::Partition(i) => {
                    let Some(made) = ids.get_mut(i).and_then(Option::take) else { continue };
                    let id = delegate(module, &made, &constants, &keys)?;
                    call(graph, id, &made, &mut renamed);
                }
            }
        }
    }
    Ok(())
}

/// Adds the delegate of a partition.
fn delegate(
    module: &mut Module,
    made: &Made,
    constants: &Constants,
    keys: &[String],
) -> Result<DelegateId, XnnpackError> {
    let mut payload = made.payload.clone();
    let mut named_data = Vec::new();
    for (entry, &at) in payload.constants.iter_mut().skip(1).zip(&made.constants) {
        let (Some(key), Some(source)) = (keys.get(at), constants.source(at)) else { continue };
        entry.bytes = crate::payload::ConstantBytes::Named(key.clone());
        entry.size = source.byte_len() as u64;
        if !named_data.iter().any(|(k, _): &(Box<str>, _)| k.as_ref() == key.as_str()) {
            named_data.push((key.as_str().into(), Arc::clone(source)));
        }
    }
    let payload = payload.to_blob()?.into();
    Ok(module.delegates.push(Delegate { backend: BACKEND.into(), payload, compile_specs: Vec::new(), named_data }))
}

/// Adds the call at the end of the body and gives readers its results. `renamed` are the results of earlier calls.
fn call(graph: &mut Graph, id: DelegateId, made: &Made, renamed: &mut BTreeMap<ValueId, ValueId>) {
    let types: Vec<Type> = made.outputs.iter().map(|&v| graph.ty(v).clone()).collect();
    let args: Vec<Arg> = made.inputs.iter().map(|v| Arg::Value(renamed.get(v).copied().unwrap_or(*v))).collect();
    let n = graph.add_node(graph.body_id(), Op::Delegate, args, types, Extra::Delegate(id), made.path);
    let new = graph.nodes[n].outputs.clone();
    for (&old, &new) in made.outputs.iter().zip(&new) {
        graph.replace_uses(old, new);
        renamed.insert(old, new);
    }
}
