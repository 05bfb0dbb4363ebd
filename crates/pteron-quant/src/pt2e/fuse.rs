//! Dequantize and look up as one operator.

use pteron_ir::{Arg, Def, Extra, Graph, InferCtx, Op, ValueId, args};

use super::QuantizeError;

/// Replaces `embedding(dequantize_per_channel(codes, scales, zero points, axis 0), indices)` by
/// `quantized_decomposed::embedding_byte.dtype`, as ExecuTorch's `QuantFusionPass` does, so that a table is never dequantized as
/// a whole. Gives the number of embeddings replaced.
///
/// # Errors
/// [`QuantizeError::Infer`] if the operator does not fit.
pub fn fuse_embeddings(graph: &mut Graph) -> Result<usize, QuantizeError> {
    let body = graph.body_id();
    let nodes = std::mem::take(&mut graph.regions[body].nodes);
    let mut fused = 0;
    for n in nodes {
        let Some((arguments, old)) = pattern(graph, n) else {
            graph.regions[body].nodes.push(n);
            continue;
        };
        let op = Op::EmbeddingByteDType;
        let outputs = {
            let types = |v: ValueId| graph.ty(v);
            InferCtx { op, args: &arguments, types: &types, symbols: &graph.symbols }.infer()
        };
        let path = graph.nodes[n].path;
        let outputs = outputs.map_err(|error| QuantizeError::Infer {
            graph: graph.name.clone(),
            label: graph.paths[path].to_string(),
            error,
        })?;
        let made = graph.add_node(body, op, arguments, outputs, Extra::None, path);
        let new = graph.nodes[made].outputs[0];
        graph.replace_uses(old, new);
        fused += 1;
    }
    // What only the replaced embeddings read is gone with them.
    let used: std::collections::BTreeSet<ValueId> = {
        let nodes = graph.all_nodes();
        let reads = nodes.iter().flat_map(|&n| graph.reads(n));
        reads.chain(graph.outputs().iter().copied()).chain(graph.mutations.iter().map(|m| m.1)).collect()
    };
    let kept = graph.body().nodes.iter().copied().filter(|&n| {
        let node = &graph.nodes[n];
        node.op != Op::DequantizePerChannel || node.outputs.iter().any(|v| used.contains(v))
    });
    graph.regions[body].nodes = kept.collect();
    Ok(fused)
}

fn pattern(graph: &Graph, n: pteron_ir::NodeId) -> Option<(Vec<Arg>, ValueId)> {
    let node = &graph.nodes[n];
    let (Op::Embedding, [Arg::Value(table), indices, ..]) = (node.op, node.args.as_slice()) else { return None };
    let Def::Node(d, 0) = graph.values[*table].def else { return None };
    let dequantize = &graph.nodes[d];
    let (Op::DequantizePerChannel, [codes, scales, zeros, Arg::Int(0), lo, hi, ..]) =
        (dequantize.op, dequantize.args.as_slice())
    else {
        return None;
    };
    let dtype = graph.ty(node.outputs[0]).as_tensor()?.dtype;
    let arguments = args![codes.clone(), scales.clone(), zeros.clone(), lo.clone(), hi.clone(), indices.clone(), dtype];
    Some((arguments.into(), node.outputs[0]))
}
