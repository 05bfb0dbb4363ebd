//! What quantize and dequantize nodes say of the tensors around them.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{Arg, ConstData, ConstId, Def, Graph, IntArg, Module, Node, Op, ValueId};
use pteron_tensor::{CastSource, DType, SharedSource, read_all};

use super::shape;
use super::weights::WeightParams;
use crate::graph::{DataType, Encoding};

/// How the integers of a whole tensor stand for reals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Act {
    /// The integers' type.
    pub(super) dtype: DataType,
    /// The scale.
    pub(super) scale: f32,
    /// The integer that stands for 0.
    pub(super) zero_point: i32,
    /// The least integer.
    pub(super) lo: i64,
    /// The largest integer.
    pub(super) hi: i64,
}

impl Act {
    pub(super) fn encoding(self) -> Encoding {
        Encoding::per_tensor(self.scale, self.zero_point)
    }

    /// Parameters under which `value`, a constant, is exact: all other integers of the type are unused.
    pub(super) fn of_constant(dtype: DataType, hi: i64, value: f64) -> Act {
        let top = i32::try_from(hi).unwrap_or(i32::MAX);
        let scale = if value == 0.0 { 1.0 } else { (value.abs() / f64::from(top)) as f32 };
        Act { dtype, scale, zero_point: if value < 0.0 { top } else { 0 }, lo: 0, hi }
    }

    /// The integer nearest to `value`.
    pub(super) fn code(self, value: f64) -> i64 {
        let code = (value / f64::from(self.scale)).round_ties_even() + f64::from(self.zero_point);
        // Clamped before it is narrowed; scales are positive.
        code.clamp(self.lo as f64, self.hi as f64) as i64
    }

    /// `codes` as the bytes of a tensor.
    pub(super) fn bytes(self, codes: impl IntoIterator<Item = i64>) -> Vec<u8> {
        let width = usize::try_from(self.dtype.bits() / 8).unwrap_or(1);
        codes.into_iter().flat_map(|c| c.to_le_bytes().into_iter().take(width)).collect()
    }
}

/// The type that integers from `lo` to `hi`, held as `container`, have in QNN: by the range, because 16 bits without sign are
/// held as 32 bits in PT2E's graphs.
pub(super) fn fixed_type(container: DType, lo: i64, hi: i64) -> Option<DataType> {
    Some(match (container, lo, hi) {
        (DType::U8 | DType::I32 | DType::U16, 0.., ..=255) => DataType::UFixed8,
        (DType::I32 | DType::U16, 0.., ..=65535) => DataType::UFixed16,
        (DType::I8, -128.., ..=127) => DataType::SFixed8,
        (DType::I16, -32768.., ..=32767) => DataType::SFixed16,
        (DType::I32, ..) => DataType::SFixed32,
        _ => return None,
    })
}

/// An argument as a value.
pub(super) fn value(node: &Node, i: usize) -> Option<ValueId> {
    match node.args.get(i)? {
        Arg::Value(v) => Some(*v),
        _ => None,
    }
}

/// An argument as a number.
pub(super) fn number(node: &Node, i: usize) -> Option<f64> {
    match node.args.get(i)? {
        Arg::Float(f) => Some(*f),
        Arg::Int(n) => Some(*n as f64),
        Arg::Bool(b) => Some(f64::from(u8::from(*b))),
        _ => None,
    }
}

/// An argument as an integer that is known.
pub(super) fn int(node: &Node, i: usize) -> Option<i64> {
    match node.args.get(i)? {
        Arg::Int(n) => Some(*n),
        _ => None,
    }
}

/// An argument as integers that are known.
pub(super) fn ints(node: &Node, i: usize) -> Option<Vec<i64>> {
    match node.args.get(i)? {
        Arg::Ints(items) => items.iter().map(|i| if let IntArg::Const(c) = i { Some(*c) } else { None }).collect(),
        Arg::Int(n) => Some(vec![*n]),
        _ => None,
    }
}

/// Parameters of a node of the family `quantize_per_tensor` and `dequantize_per_tensor`.
pub(super) fn per_tensor(node: &Node) -> Option<Act> {
    if !matches!(node.op, Op::QuantizePerTensor | Op::DequantizePerTensor) {
        return None;
    }
    let (scale, zero_point) = (number(node, 1)?, int(node, 2)?);
    let (lo, hi) = (int(node, 3)?, int(node, 4)?);
    let Some(Arg::DType(container)) = node.args.get(5) else { return None };
    let dtype = fixed_type(*container, lo, hi)?;
    Some(Act { dtype, scale: scale as f32, zero_point: i32::try_from(zero_point).ok()?, lo, hi })
}

/// True for nodes that quantize or dequantize.
pub(crate) fn is_quantization(op: Op) -> bool {
    is_quantize(op) || is_dequantize(op)
}

/// True for nodes that quantize.
pub(crate) fn is_quantize(op: Op) -> bool {
    matches!(op, Op::QuantizePerTensor | Op::QuantizePerTensorTensor | Op::QuantizePerChannel | Op::QuantizeAffine)
}

/// True for nodes that dequantize.
pub(crate) fn is_dequantize(op: Op) -> bool {
    matches!(
        op,
        Op::DequantizePerTensor | Op::DequantizePerTensorTensor | Op::DequantizePerChannel | Op::DequantizeAffine
    )
}

/// Operators whose output holds numbers of their first tensor (of `cat`, of all of its tensors), so that its integers are
/// the input's where nothing else is said.
pub(super) fn keeps_numbers(op: Op) -> bool {
    shape::is(op) || matches!(op, Op::Clone | Op::Embedding)
}

/// The node that makes a value.
pub(super) fn maker(graph: &Graph, v: ValueId) -> Option<&Node> {
    match graph.values[v].def {
        Def::Node(n, _) => Some(&graph.nodes[n]),
        _ => None,
    }
}

/// Per-tensor parameters of every value that has some: of codes, of the floats that a node makes and that are only read as
/// codes, and of what passes such numbers on.
pub(super) fn activations(graph: &Graph) -> BTreeMap<ValueId, Act> {
    let mut acts: BTreeMap<ValueId, Act> = BTreeMap::new();
    let nodes = graph.all_nodes();
    let mut read_as_floats: BTreeSet<ValueId> = graph.outputs().iter().copied().collect();
    for &n in nodes.iter().filter(|&&n| !is_quantize(graph.nodes[n].op)) {
        read_as_floats.extend(graph.reads(n));
    }
    for &n in &nodes {
        let node = &graph.nodes[n];
        let (Some(act), Some(x), Some(&out)) = (per_tensor(node), value(node, 0), node.outputs.first()) else {
            continue;
        };
        if is_dequantize(node.op) {
            acts.entry(x).or_insert(act);
            acts.insert(out, act);
        } else {
            acts.insert(out, act);
            // The first parameters are the tensor's own; others are reached by a conversion.
            if maker(graph, x).is_some_and(|m| !is_quantization(m.op)) && !read_as_floats.contains(&x) {
                acts.entry(x).or_insert(act);
            }
        }
    }
    let first = |node: &Node| match node.args.first() {
        Some(Arg::Values(items)) => items.first().copied().flatten(),
        _ => value(node, 0),
    };
    for &n in &nodes {
        let node = &graph.nodes[n];
        if !keeps_numbers(node.op) {
            continue;
        }
        if let Some(act) = first(node).and_then(|x| acts.get(&x).copied()) {
            node.outputs.iter().for_each(|&o| {
                acts.entry(o).or_insert(act);
            });
        }
    }
    for &n in nodes.iter().rev() {
        let node = &graph.nodes[n];
        // What is joined has parameters of its own each.
        if !keeps_numbers(node.op) || node.op == Op::Cat {
            continue;
        }
        let act = node.outputs.first().and_then(|o| acts.get(o).copied());
        let Some((act, x)) = act.zip(first(node)) else { continue };
        let float = |t: &pteron_ir::Type| t.as_tensor().is_some_and(|t| t.dtype.is_float());
        let takes = match graph.values[x].def {
            Def::Buffer(_) => true,
            Def::Node(m, _) => !is_quantization(graph.nodes[m].op),
            _ => false,
        };
        if takes && float(graph.ty(x)) {
            acts.entry(x).or_insert(act);
        }
    }
    acts
}

/// A constant's number of elements at most, for those that are read whole while a graph is lowered: scales, biases.
const MAX_SMALL: usize = 1 << 24;

/// The source of a constant.
pub(super) fn source(module: &Module, c: ConstId) -> Result<SharedSource, String> {
    match &module.constants[c].data {
        ConstData::Source(s) => Ok(s.clone()),
        ConstData::External(_) | ConstData::Missing => {
            Err(format!("the constant `{}` has no data here", module.constants[c].name))
        }
    }
}

/// The constant that a value is.
pub(super) fn constant(graph: &Graph, v: ValueId) -> Option<ConstId> {
    match graph.values[v].def {
        Def::Const(c) => Some(c),
        _ => None,
    }
}

/// The numbers of a small constant.
pub(super) fn small_numbers(module: &Module, c: ConstId) -> Result<Vec<f64>, String> {
    let source = source(module, c)?;
    let numel: usize = source.shape().iter().product();
    if numel > MAX_SMALL {
        return Err(format!(
            "the constant `{}` has {numel} elements, expected at most {MAX_SMALL}",
            module.constants[c].name
        ));
    }
    let bytes = read_all(CastSource::wrap(source, DType::F64).as_ref()).map_err(|e| e.to_string())?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// Parameters of the constant that a dequantize node reads, with its integers.
pub(super) fn weight(module: &Module, graph: &Graph, node: &Node) -> Result<Option<WeightParams>, String> {
    let Some(c) = value(node, 0).and_then(|v| constant(graph, v)) else { return Ok(None) };
    let numbers = |i: usize| match value(node, i).and_then(|v| constant(graph, v)) {
        Some(c) => small_numbers(module, c),
        None => Err("its scales are no constants".to_owned()),
    };
    let (scales, zeros, lo, hi, container) = match node.op {
        Op::DequantizePerTensor => {
            let one = |i: usize| number(node, i).map(|n| vec![n]).ok_or("its scale is no constant".to_owned());
            (one(1)?, one(2)?, int(node, 3), int(node, 4), node.args.get(5))
        }
        Op::DequantizePerChannel => (numbers(1)?, numbers(2)?, int(node, 4), int(node, 5), node.args.get(6)),
        Op::DequantizeAffine => {
            let bound = |i: usize| number(node, i).map(|n| n as i64);
            (numbers(2)?, numbers(3)?, bound(5), bound(6), node.args.get(4))
        }
        _ => return Ok(None),
    };
    let (Some(lo), Some(hi), Some(Arg::DType(container))) = (lo, hi, container) else {
        return Err("its range is not known".to_owned());
    };
    let dtype =
        fixed_type(*container, lo, hi).ok_or_else(|| format!("QNN has no integers {lo}..={hi} of {container}"))?;
    let axis = match node.op {
        Op::DequantizePerChannel => {
            Some(usize::try_from(int(node, 3).unwrap_or(-1)).map_err(|_| "its axis is no constant")?)
        }
        _ => None,
    };
    let block = match node.op {
        Op::DequantizeAffine => {
            let sizes = ints(node, 1).ok_or("its block size is not known")?;
            Some(sizes.into_iter().map(|b| usize::try_from(b).unwrap_or(0)).collect())
        }
        _ => None,
    };
    Ok(Some(WeightParams { constant: c, dtype, container: *container, scales, zeros, axis, block, lo, hi }))
}
