//! A converted graph cut at its quantize nodes: each piece between codes and codes is run on the oracle's codes.

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_exec::{QuantSemantics, Session, SessionOptions, Value};
use pteron_ir::{Arg, Def, Graph, Module, NodeId, Op, ValueId};
use pteron_quant::annotation::Point;
use pteron_quant::pt2e::PreparedGraph;
use pteron_tensor::{DType, Tensor};

/// What is quantized: module, port of the operator that computed it or the name of an input, and through how many other
/// quantize nodes it went.
pub(crate) type Cut = (String, String, usize);

struct Node {
    cut: Option<Cut>,
    codes: ValueId,
}

fn cuts(graph: &Graph, prepared: &PreparedGraph) -> Vec<Node> {
    let body = graph.body().nodes.iter().filter(|&&n| graph.nodes[n].op == Op::QuantizePerTensor);
    body.map(|&n| Node { cut: cut(graph, prepared, n), codes: graph.nodes[n].outputs[0] }).collect()
}

fn cut(graph: &Graph, prepared: &PreparedGraph, n: NodeId) -> Option<Cut> {
    let (mut n, mut depth) = (n, 0);
    loop {
        let Arg::Value(source) = graph.nodes[n].args[0] else { return None };
        match graph.values[source].def {
            Def::Node(before, _) => match graph.nodes[before].op {
                Op::QuantizePerTensor => n = before,
                Op::DequantizePerTensor => (n, depth) = (before, depth + 1),
                _ => {
                    let label = prepared.node_label(graph, Point::output(graph.nodes[before].handle))?;
                    return Some((label.module, label.port, depth));
                }
            },
            Def::Input(_) => {
                let name = graph.values[source].name.as_deref()?;
                // As the arguments of the oracle's `forward` are called.
                let name = name.strip_prefix("atten_").unwrap_or(name);
                return Some((String::new(), name.to_owned(), depth));
            }
            _ => return None,
        }
    }
}

fn run(module: Module, inputs: &[Value], count: usize) -> Vec<Tensor> {
    let options = SessionOptions { quant: QuantSemantics::Eager, ..SessionOptions::with_threads(1) };
    let name = module.graphs[0].name.clone();
    let mut session = Session::new(Arc::new(module), &options).unwrap();
    let refs: Vec<_> = inputs.iter().map(Value::as_ref).collect();
    let out = session.run(&name, &refs).unwrap();
    (0..count).map(|i| Tensor::copy_of(&out.tensor(i).unwrap())).collect()
}

fn ints(t: &Tensor) -> Vec<i64> {
    match t.dtype() {
        DType::I8 => t.view().as_slice::<i8>().unwrap().iter().map(|&v| v.into()).collect(),
        DType::U8 => t.view().as_slice::<u8>().unwrap().iter().map(|&v| v.into()).collect(),
        DType::I16 => t.view().as_slice::<i16>().unwrap().iter().map(|&v| v.into()).collect(),
        _ => t.view().as_slice::<i32>().unwrap().iter().map(|&v| v.into()).collect(),
    }
}

fn tensor(like: &Tensor, codes: &[i64]) -> Tensor {
    let shape = like.sizes();
    match like.dtype() {
        DType::I8 => Tensor::of(shape, &codes.iter().map(|&v| v as i8).collect::<Vec<_>>()),
        DType::U8 => Tensor::of(shape, &codes.iter().map(|&v| v as u8).collect::<Vec<_>>()),
        DType::I16 => Tensor::of(shape, &codes.iter().map(|&v| v as i16).collect::<Vec<_>>()),
        _ => Tensor::of(shape, &codes.iter().map(|&v| v as i32).collect::<Vec<_>>()),
    }
    .unwrap()
}

/// Codes that were compared, and those that are one apart.
///
/// # Panics
/// If codes are more than one apart, or tensors are quantized that the oracle does not quantize.
pub(crate) fn compare(
    module: &Module,
    prepared: &PreparedGraph,
    inputs: &[Value],
    golden: &BTreeMap<Cut, Vec<i64>>,
) -> (usize, usize) {
    let nodes = cuts(&module.graphs[0], prepared);
    // The graph's own codes, for what the oracle folded: tensors that are computed of constants.
    let mut watched = module.clone();
    watched.graphs[0].set_outputs(nodes.iter().map(|n| n.codes).collect());
    let own = run(watched, inputs, nodes.len());

    let mut cut = module.clone();
    let graph = &mut cut.graphs[0];
    let mut given = inputs.to_vec();
    let mut found = 0;
    for (node, own) in nodes.iter().zip(&own) {
        let known = node.cut.as_ref().and_then(|c| golden.get(c));
        found += usize::from(known.is_some());
        given.push(Value::Tensor(known.map_or_else(|| own.clone(), |codes| tensor(own, codes))));
        let ty = graph.ty(node.codes).clone();
        let input = graph.add_input("codes", ty);
        graph.replace_uses(node.codes, input);
    }
    assert_eq!(found, golden.len(), "quantize nodes of the oracle that were found here");
    graph.set_outputs(nodes.iter().map(|n| n.codes).collect());
    let forced = run(cut, &given, nodes.len());

    let (mut all, mut apart) = (0, 0);
    for (node, forced) in nodes.iter().zip(&forced) {
        let Some((cut, codes)) = node.cut.as_ref().and_then(|c| golden.get_key_value(c)) else { continue };
        let forced = ints(forced);
        assert_eq!(forced.len(), codes.len(), "{cut:?}");
        for (a, b) in forced.iter().zip(codes) {
            assert!((a - b).abs() <= 1, "{cut:?}: {a} and {b}");
            apart += usize::from(a != b);
        }
        all += codes.len();
    }
    (all, apart)
}
