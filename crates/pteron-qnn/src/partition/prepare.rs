//! What is done to a converted graph before it is cut into parts.

use std::collections::BTreeMap;

use pteron_ir::{Arg, ConstData, Def, Extra, Graph, Module, NodeId, Op, Type, ValueId};
use pteron_tensor::{CastSource, DType};

use crate::lower::{is_dequantize, is_quantize};

/// Index of the argument `dtype` of `quantize_per_tensor` and `dequantize_per_tensor`.
const DTYPE: usize = 5;

/// True for parameters `0..=65535` in 32 bits.
fn is_wide(graph: &Graph, n: NodeId) -> bool {
    let node = &graph.nodes[n];
    matches!(node.op, Op::QuantizePerTensor | Op::DequantizePerTensor)
        && node.args.get(3) == Some(&Arg::Int(0))
        && node.args.get(4) == Some(&Arg::Int(65535))
        && node.args.get(DTYPE) == Some(&Arg::DType(DType::I32))
}

/// Gives 16-bit integers without sign their own type in all graphs: PT2E holds them as 32-bit ones.
pub fn narrow(module: &mut Module) {
    let mut graphs = std::mem::take(&mut module.graphs);
    let mut constants = Vec::new();
    for g in &mut graphs {
        for n in g.all_nodes() {
            if !is_wide(g, n) {
                continue;
            }
            g.nodes[n].args[DTYPE] = Arg::DType(DType::U16);
            if is_quantize(g.nodes[n].op) {
                g.nodes[n].outputs.clone().iter().for_each(|&v| retype(g, v, DType::U16));
            } else if let Some(Arg::Value(v)) = g.nodes[n].args.first()
                && let Def::Const(c) = g.values[*v].def
            {
                constants.push(c);
            }
        }
    }
    constants.sort_unstable();
    constants.dedup();
    for &c in &constants {
        if let ConstData::Source(source) = &module.constants[c].data {
            module.constants[c].data = ConstData::Source(CastSource::wrap(source.clone(), DType::U16));
            module.constants[c].ty.dtype = DType::U16;
        }
    }
    for g in &mut graphs {
        let read: Vec<ValueId> = g
            .values
            .iter()
            .filter(|(_, v)| matches!(v.def, Def::Const(c) if constants.contains(&c)))
            .map(|(id, _)| id)
            .collect();
        read.into_iter().for_each(|v| retype(g, v, DType::U16));
    }
    module.graphs = graphs;
}

fn retype(g: &mut Graph, v: ValueId, dtype: DType) {
    if let Type::Tensor(t) = &mut g.values[v].ty {
        t.dtype = dtype;
    }
}

/// Gives each node that reads a dequantized value a dequantize node of its own (`DuplicateDQPass`), so that it can stand in
/// its reader's part.
pub fn own_dequantize(graph: &mut Graph) {
    let body = graph.body_id();
    let mut taken: BTreeMap<ValueId, ()> = BTreeMap::new();
    let mut out = Vec::new();
    for n in std::mem::take(&mut graph.regions[body].nodes) {
        let mut args = graph.nodes[n].args.clone();
        for arg in &mut args {
            arg.map_values(|v| {
                let Def::Node(m, _) = graph.values[v].def else { return v };
                let constant = super::dequantizes_constant(graph, m);
                if !is_dequantize(graph.nodes[m].op) || constant || taken.insert(v, ()).is_none() {
                    return v;
                }
                let node = graph.nodes[m].clone();
                let types: Vec<Type> = node.outputs.iter().map(|&o| graph.ty(o).clone()).collect();
                let copy = graph.add_node(body, node.op, node.args, types, Extra::None, node.path);
                out.push(copy);
                graph.nodes[copy].outputs[0]
            });
        }
        graph.nodes[n].args = args;
        out.push(n);
    }
    graph.regions[body].nodes = out;
}

/// The integers of an input or output of a method.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IoParams {
    /// Their type.
    pub dtype: DType,
    /// Their scale.
    pub scale: f64,
    /// The integer that stands for 0.
    pub zero_point: i64,
    /// The least integer.
    pub quant_min: i64,
    /// The largest integer.
    pub quant_max: i64,
}

fn io_params(graph: &Graph, n: NodeId) -> Option<IoParams> {
    let node = &graph.nodes[n];
    let (Some(Arg::Float(scale)), Some(Arg::Int(zero_point))) = (node.args.get(1), node.args.get(2)) else {
        return None;
    };
    let (Some(Arg::Int(lo)), Some(Arg::Int(hi)), Some(Arg::DType(dtype))) =
        (node.args.get(3), node.args.get(4), node.args.get(DTYPE))
    else {
        return None;
    };
    Some(IoParams { dtype: *dtype, scale: *scale, zero_point: *zero_point, quant_min: *lo, quant_max: *hi })
}

/// Makes integers of the inputs and outputs of `graph` that are quantized where they come in and dequantized where they leave
/// (`TagQuantIO`, `BuildQuantIo`). Gives their parameters, inputs and outputs each by position; `None` where one stays as it is.
pub fn tag_io(graph: &mut Graph) -> (Vec<Option<IoParams>>, Vec<Option<IoParams>>) {
    let body = graph.body_id();
    let inputs = graph.inputs.clone();
    let mut tagged_inputs = Vec::with_capacity(inputs.len());
    for x in inputs {
        let readers: Vec<NodeId> =
            graph.body().nodes.iter().copied().filter(|&n| graph.reads(n).contains(&x)).collect();
        let params: Vec<Option<IoParams>> = readers
            .iter()
            .map(|&n| if graph.nodes[n].op == Op::QuantizePerTensor { io_params(graph, n) } else { None })
            .collect();
        let first = params.first().copied().flatten();
        let leaves = graph.outputs().contains(&x) || graph.mutations.iter().any(|m| m.1 == x);
        let Some(p) = first.filter(|_| !leaves && params.iter().all(|q| *q == first)) else {
            tagged_inputs.push(None);
            continue;
        };
        retype(graph, x, p.dtype);
        for n in readers {
            let codes = graph.nodes[n].outputs[0];
            graph.replace_uses(codes, x);
            graph.regions[body].nodes.retain(|&m| m != n);
        }
        tagged_inputs.push(Some(p));
    }
    let mut results = graph.outputs().to_vec();
    let mut tagged_outputs = Vec::with_capacity(results.len());
    for v in &mut results {
        let made_by = match graph.values[*v].def {
            Def::Node(n, _) if graph.nodes[n].op == Op::DequantizePerTensor => Some(n),
            _ => None,
        };
        let codes = made_by.and_then(|n| match graph.nodes[n].args.first() {
            Some(Arg::Value(c)) => Some((*c, io_params(graph, n)?)),
            _ => None,
        });
        if let Some((codes, _)) = codes {
            *v = codes;
        }
        tagged_outputs.push(codes.map(|c| c.1));
    }
    graph.set_outputs(results);
    (tagged_inputs, tagged_outputs)
}

/// Why a graph cannot be cut into shards.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option `num_sharding`: found {found}, expected {expected}")]
pub struct ShardError {
    /// What was asked for.
    pub found: usize,
    /// What would do.
    pub expected: String,
}

/// Inserts `llama::fallback`, the identity, after the last node of each shard but the last. Shards begin at layers `0`, `s`,
/// `2s`… with `s` layers each, the quotient of `layers` and `shards`, as ExecuTorch's `split_graph` has it: where layers are left
/// over there is one shard more.
///
/// # Errors
/// [`ShardError`] if there are fewer layers than shards, or the graph has no such layers.
pub fn shard(graph: &mut Graph, layers: usize, shards: usize, prefix: &str) -> Result<(), ShardError> {
    if shards < 2 {
        return Ok(());
    }
    let size = layers / shards;
    if size == 0 {
        return Err(ShardError { found: shards, expected: format!("at most {layers} (the model's layers)") });
    }
    for start in (size..layers).step_by(size) {
        let path = format!("{prefix}{}", start - 1);
        let last = |g: &Graph| {
            let ends = |n: &&NodeId| {
                let node = &g.nodes[**n];
                g.paths.get(node.path).is_some_and(|p| **p == *path) && node.op == Op::Add
            };
            g.body().nodes.iter().rev().find(ends).copied()
        };
        let Some(end) = last(graph) else {
            let expected = format!("0: this model has no module `{path}` to end a shard with");
            return Err(ShardError { found: shards, expected });
        };
        let sum = graph.nodes[end].outputs[0];
        let quantized = graph
            .body()
            .nodes
            .iter()
            .copied()
            .find(|&n| is_quantize(graph.nodes[n].op) && graph.nodes[n].args.first() == Some(&Arg::Value(sum)));
        // The integers cross, not the numbers.
        let (after, value) = quantized.map_or((end, sum), |n| (n, graph.nodes[n].outputs[0]));
        let (body, at, ty) = (graph.body_id(), graph.nodes[after].path, graph.ty(value).clone());
        let n = graph.add_node(body, Op::Fallback, [Arg::Value(value)], [ty], Extra::None, at);
        let out = graph.nodes[n].outputs[0];
        graph.replace_uses(value, out);
        graph.nodes[n].args[0] = Arg::Value(value);
        // Behind the node that gives the value, in the order of the body.
        graph.regions[body].nodes.pop();
        if let Some(place) = graph.body().nodes.iter().position(|&m| m == after) {
            graph.regions[body].nodes.insert(place + 1, n);
        }
    }
    Ok(())
}
