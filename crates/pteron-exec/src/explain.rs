//! What an error of a node says beside its reason.

use pteron_ir::{Arg, Def, Graph, NodeId, Op, ValueId};
use pteron_tensor::Scalar;

/// The numbers that the nodes before `failed` read out of inputs, as a part of a sentence: positions, mostly, and what is
/// wrong with a node behind them is often they. Empty if there are none.
pub(crate) fn numbers_of_inputs(graph: &Graph, failed: NodeId, scalar: &dyn Fn(ValueId) -> Scalar) -> String {
    const MOST: usize = 4;
    let mut seen: Vec<(usize, String)> = Vec::new();
    for n in graph.all_nodes() {
        if n == failed || seen.len() == MOST {
            break;
        }
        let node = &graph.nodes[n];
        if node.op != Op::LocalScalarDense {
            continue;
        }
        let (Some(Arg::Value(from)), Some(&out)) = (node.args.first(), node.outputs.first()) else { continue };
        let Some(input) = input_behind(graph, *from) else { continue };
        let text = match scalar(out) {
            Scalar::Int(i) => i.to_string(),
            Scalar::Float(f) => f.to_string(),
            Scalar::Bool(b) => b.to_string(),
        };
        if !seen.iter().any(|(i, t)| *i == input && *t == text) {
            seen.push((input, text));
        }
    }
    let parts: Vec<String> = seen
        .iter()
        .map(|(input, number)| {
            let name = graph.inputs.get(*input).and_then(|&v| graph.values[v].name.as_deref());
            let name = name.map(|n| format!(" `{n}`")).unwrap_or_default();
            format!("input {input}{name} is {number}")
        })
        .collect();
    if parts.is_empty() { String::new() } else { format!("; in this call {}", parts.join(", ")) }
}

/// The input of which `v` is a part, seen through nodes that only choose from their first argument.
fn input_behind(graph: &Graph, mut v: ValueId) -> Option<usize> {
    for _ in 0..8 {
        match graph.values[v].def {
            Def::Input(i) => return Some(i as usize),
            Def::Node(node, _) => {
                let node = &graph.nodes[node];
                let chooses = node.op.is_view() || matches!(node.op, Op::SelectCopy | Op::SliceCopy | Op::Clone);
                match node.args.first() {
                    Some(Arg::Value(from)) if chooses => v = *from,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    None
}
