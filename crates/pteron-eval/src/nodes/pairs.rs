//! Which value of the quantized graph stands for which of the float graph.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{Arg, DebugHandle, Def, Graph, Module, NodeId, Op, Type, ValueId};
use serde::Serialize;

/// How a value is read as codes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Codes {
    /// As floats.
    None,
    /// With parameters that are chosen anew at each run.
    Dynamic,
    /// With one scale and zero point: the codes stand for `least..=most`.
    Static {
        /// What the least code stands for.
        least: f64,
        /// What the largest code stands for.
        most: f64,
    },
    /// With a scale for each of several parts.
    Parts,
}

/// A value of the float graph with the one that stands for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// The module path of the float graph's node.
    pub path: String,
    /// Its operator.
    pub operator: &'static str,
    /// Its debug handle.
    pub handle: u32,
    /// The pairs that it reads, by number.
    pub inputs: Vec<usize>,
    /// How the quantized graph's readers read it.
    pub codes: Codes,
}

/// All pairs, in the order of the float graph's nodes.
#[derive(Clone, Debug, Default)]
pub struct Pairing {
    /// The pairs.
    pub pairs: Vec<Pair>,
    references: BTreeMap<ValueId, usize>,
    subjects: BTreeMap<ValueId, Vec<usize>>,
}

fn is_quantize(op: Op) -> bool {
    matches!(
        op,
        Op::QuantizePerTensor
            | Op::QuantizePerTensorTensor
            | Op::QuantizePerTensorTensor2
            | Op::QuantizePerChannel
            | Op::QuantizePerToken
            | Op::QuantizePerChannelGroup
            | Op::QuantizeAffine
    )
}

fn is_choose(op: Op) -> bool {
    matches!(
        op,
        Op::ChooseQparams
            | Op::ChooseQparamsSymmetric
            | Op::ChooseQparamsPerTokenAsymmetric
            | Op::ChooseQparamsPerToken
            | Op::ChooseQparamsAffine
    )
}

fn argument(graph: &Graph, n: NodeId, i: usize) -> Option<ValueId> {
    match graph.nodes[n].args.get(i) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    }
}

fn is_float(graph: &Graph, v: ValueId) -> bool {
    graph.ty(v).as_tensor().is_some_and(|t| t.dtype.is_float())
}

/// A node whose first output is a value that its readers compute with: no view, no state, no constant dequantized.
fn compared(graph: &Graph, n: NodeId) -> Option<ValueId> {
    let node = &graph.nodes[n];
    let &first = node.outputs.first()?;
    let computed = !node.op.mutates() && !node.op.is_view() && !node.op.is_structural();
    (computed && is_float(graph, first)).then_some(first)
}

/// The readers of every value.
fn readers(graph: &Graph) -> BTreeMap<ValueId, Vec<NodeId>> {
    let mut out: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
    for n in graph.all_nodes() {
        for v in graph.reads(n) {
            out.entry(v).or_default().push(n);
        }
    }
    for &v in graph.outputs() {
        // Whoever calls the graph reads it as it is.
        out.entry(v).or_default();
    }
    out
}

/// What the readers of `v` see, and how: the value itself, or what stands for its codes.
fn as_read(graph: &Graph, module: &Module, readers: &BTreeMap<ValueId, Vec<NodeId>>, v: ValueId) -> (ValueId, Codes) {
    let none: &[NodeId] = &[];
    let of = |v: ValueId| readers.get(&v).map_or(none, Vec::as_slice);
    let through = of(v).iter().find(|&&n| is_quantize(graph.nodes[n].op) && argument(graph, n, 0) == Some(v));
    let Some(&quantize) = through else { return (v, Codes::None) };
    let codes = codes_of(graph, module, quantize);
    let all = of(v).iter().all(|&n| {
        let op = graph.nodes[n].op;
        is_quantize(op) || is_choose(op) || matches!(op, Op::SymSize | Op::SymNumel)
    });
    let back = graph.nodes[quantize].outputs.first().and_then(|&q| {
        of(q)
            .iter()
            .find(|&&n| graph.nodes[n].op.is_dequantize())
            .and_then(|&n| graph.nodes[n].outputs.first().copied())
    });
    match back {
        Some(back) if all && !graph.outputs().contains(&v) => (back, codes),
        _ => (v, codes),
    }
}

fn codes_of(graph: &Graph, module: &Module, quantize: NodeId) -> Codes {
    let node = &graph.nodes[quantize];
    let number = |i: usize| match node.args.get(i) {
        Some(Arg::Float(f)) => Some(*f),
        Some(Arg::Int(i)) => Some(*i as f64),
        Some(Arg::Value(v)) => match graph.values[*v].def {
            Def::Const(c) => match &module.constants[c].data {
                pteron_ir::ConstData::Source(s) if s.shape().iter().product::<usize>() == 1 => {
                    pteron_tensor::read_all(s.as_ref())
                        .ok()
                        .and_then(|bytes| pteron_tensor::read_scalar(s.dtype(), &bytes, 0))
                        .map(|s| s.as_f64())
                }
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    match node.op {
        Op::QuantizePerTensor | Op::QuantizePerTensorTensor | Op::QuantizePerTensorTensor2 => {
            match (number(1), number(2), number(3), number(4)) {
                (Some(scale), Some(zero), Some(lo), Some(hi)) => {
                    Codes::Static { least: scale * (lo - zero), most: scale * (hi - zero) }
                }
                _ => Codes::Dynamic,
            }
        }
        Op::QuantizePerChannel => Codes::Parts,
        _ => Codes::Dynamic,
    }
}

impl Pairing {
    /// Pairs the nodes of the float graph `reference` with those of `subject`, which was quantized from the same capture.
    pub fn of(reference: &Graph, subject: &Graph, subject_module: &Module) -> Pairing {
        let captured = reference.all_nodes().iter().map(|&n| reference.nodes[n].handle.0 + 1).max().unwrap_or(0);
        let by_handle: BTreeMap<DebugHandle, NodeId> =
            subject.all_nodes().into_iter().map(|n| (subject.nodes[n].handle, n)).collect();
        // The last node of each module path that quantization made and that is no part of a way through codes.
        let mut made: BTreeMap<&str, NodeId> = BTreeMap::new();
        for n in subject.all_nodes() {
            let node = &subject.nodes[n];
            let passes = is_quantize(node.op) || node.op.is_dequantize() || is_choose(node.op);
            if node.handle.0 >= captured && !passes && node.op != Op::ToCopy && compared(subject, n).is_some() {
                made.insert(&subject.paths[node.path], n);
            }
        }
        let same = |n: NodeId| {
            let node = &reference.nodes[n];
            by_handle.get(&node.handle).copied().filter(|&s| subject.nodes[s].op == node.op)
        };
        // Nodes of each path that quantization has put others in the place of. Of several it cannot be told which is which.
        let mut replaced: BTreeMap<&str, usize> = BTreeMap::new();
        for n in reference.all_nodes() {
            if compared(reference, n).is_some() && same(n).is_none() {
                *replaced.entry(&reference.paths[reference.nodes[n].path]).or_default() += 1;
            }
        }
        let readers = readers(subject);
        let mut out = Pairing::default();
        for n in reference.all_nodes() {
            let node = &reference.nodes[n];
            let Some(value) = compared(reference, n) else { continue };
            let path: &str = &reference.paths[node.path];
            let alone = replaced.get(path) == Some(&1);
            let Some(other) = same(n).or_else(|| made.get(path).copied().filter(|_| alone)) else { continue };
            let Some(&found) = subject.nodes[other].outputs.first() else { continue };
            if !same_shape(reference.ty(value), subject.ty(found)) {
                continue;
            }
            let (found, codes) = as_read(subject, subject_module, &readers, found);
            let index = out.pairs.len();
            let inputs = out.inputs(reference, n);
            let (operator, handle) = (node.op.name(), node.handle.0);
            out.pairs.push(Pair { path: path.to_owned(), operator, handle, inputs, codes });
            out.references.insert(value, index);
            out.subjects.entry(found).or_default().push(index);
        }
        out
    }

    /// The pairs that a node of the float graph reads, through views and copies.
    fn inputs(&self, graph: &Graph, n: NodeId) -> Vec<usize> {
        let (mut out, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut open = graph.reads(n);
        while let Some(v) = open.pop() {
            if !seen.insert(v) {
                continue;
            }
            match (self.references.get(&v), graph.values[v].def) {
                (Some(&i), _) => {
                    out.insert(i);
                }
                (None, Def::Node(m, _)) => open.extend(graph.reads(m)),
                _ => {}
            }
        }
        out.into_iter().collect()
    }

    /// The pair whose float value this is.
    pub fn of_reference(&self, v: ValueId) -> Option<usize> {
        self.references.get(&v).copied()
    }

    /// The pairs for which this value of the quantized graph stands.
    pub fn of_subject(&self, v: ValueId) -> &[usize] {
        self.subjects.get(&v).map_or(&[], Vec::as_slice)
    }
}

fn same_shape(a: &Type, b: &Type) -> bool {
    match (a.as_tensor(), b.as_tensor()) {
        (Some(a), Some(b)) => a.dims.len() == b.dims.len(),
        _ => false,
    }
}
