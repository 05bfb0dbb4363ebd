//! Infinities in constants and numbers, which no range of codes holds: `QnnQuantizer._replace_inf`.

use std::sync::Arc;

use pteron_ir::{Arg, ConstData, ConstId, Def, Graph, Module, NodeId, Op};
use pteron_tensor::{CastSource, DType, MemorySource, read_all};

use crate::annotation::{Annotations, Point};
use crate::pt2e::QuantizeError;
use crate::spec::Spec;

/// The largest f16: what is beyond it stands for infinity.
const F16_MAX: f32 = 65504.0;

/// Replaces what is infinite, or beyond f16, in float constants and in the numbers of `scalar_tensor` by the number of codes of
/// the node that reads it (or that it is), less one: −65535 for a mask among 16-bit scores. Constants that linear layers,
/// convolutions, embeddings and norms read are weights, and left as they are.
pub(super) fn replace(module: &mut Module, graph: &mut Graph, annotations: &Annotations) -> Result<(), QuantizeError> {
    let nodes = graph.all_nodes();
    let mut ranges: Vec<(ConstId, f32)> = Vec::new();
    for &n in &nodes {
        let Some(range) = quant_range(graph, annotations, n) else { continue };
        let node = &mut graph.nodes[n];
        if node.op == Op::ScalarTensor
            && let Some(Arg::Float(v)) = node.args.first_mut()
            && v.abs() >= f64::from(F16_MAX)
        {
            *v = f64::from(range).copysign(*v);
        }
        let weighted =
            matches!(node.op, Op::Linear | Op::Convolution | Op::Embedding | Op::RmsNorm | Op::LayerNorm | Op::Index);
        if weighted {
            continue;
        }
        let node = &graph.nodes[n];
        let mut read = Vec::new();
        node.args.iter().for_each(|a| a.for_each_value(|v| read.push(v)));
        for v in read {
            let Def::Const(c) = graph.values[v].def else { continue };
            match ranges.iter_mut().find(|(known, _)| *known == c) {
                Some((_, widest)) => *widest = widest.max(range),
                None => ranges.push((c, range)),
            }
        }
    }
    ranges.into_iter().try_for_each(|(c, range)| replace_in(module, c, range))
}

fn replace_in(module: &mut Module, c: ConstId, range: f32) -> Result<(), QuantizeError> {
    let constant = &mut module.constants[c];
    let ConstData::Source(source) = &constant.data else { return Ok(()) };
    if constant.ty.dtype != DType::F32 {
        return Ok(());
    }
    let failed = |e: pteron_tensor::SourceError| QuantizeError::Source { reason: e.to_string() };
    let bytes = read_all(CastSource::wrap(source.clone(), DType::F32).as_ref()).map_err(failed)?;
    let mut values: Vec<f32> = bytemuck::cast_slice(&bytes).to_vec();
    if values.iter().all(|v| v.abs() < F16_MAX) {
        return Ok(());
    }
    for v in values.iter_mut().filter(|v| v.abs() >= F16_MAX) {
        *v = range.copysign(*v);
    }
    let replaced = MemorySource::of(&constant.name, source.shape(), &values).map_err(failed)?;
    constant.data = ConstData::Source(Arc::new(replaced));
    Ok(())
}

/// The number of codes of the node's output, less one.
fn quant_range(graph: &Graph, annotations: &Annotations, n: NodeId) -> Option<f32> {
    let mut point = Point::output(graph.nodes[n].handle);
    // A chain of shared specs ends; one in a circle is refused when groups are resolved.
    for _ in 0..graph.nodes.len() + 1 {
        let (lo, hi) = match annotations.spec(point)? {
            Spec::Shared(to) => {
                point = *to;
                continue;
            }
            Spec::Observed(s) => s.quant_range().ok()?,
            Spec::Fixed(s) => s.format().ok().map(|f| (f.quant_min, f.quant_max))?,
            Spec::Derived(s) => s.format().ok().map(|f| (f.quant_min, f.quant_max))?,
        };
        return Some((hi - lo) as f32);
    }
    None
}
