//! Linear layers: which ones XNNPACK computes, and how their weights and activations are quantized.

use pteron_ir::{Arg, ConstId, Def, Graph, Module, Node, NodeId, Op, TensorType, ValueId};
use pteron_tensor::{CastSource, DType, read_all};
use smallvec::SmallVec;

use super::constants::{Form, source_of};
use super::{Chosen, MAX_RANK, Unit};

/// Why a layer stays where it is.
type Verdict<T> = Result<T, String>;

/// XNNPACK's kernels for weights in groups want groups of a multiple of this.
const GROUP: i64 = 32;

/// How a weight `[out, in]` is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// f32.
    Float(ConstId),
    /// Codes with a scale for each output channel.
    PerChannel { codes: ConstId, scales: ConstId, bits: u32 },
    /// 4-bit codes with a scale for each group of input channels.
    PerGroup { codes: ConstId, scales: ConstId, group: i64 },
}

/// A linear layer.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// The activation, before it is quantized.
    pub(super) x: ValueId,
    pub(super) weight: Weight,
    pub(super) bias: Option<ConstId>,
}

impl Linear {
    /// True if the activation is quantized when the program runs.
    pub(super) fn is_dynamic(&self) -> bool {
        !matches!(self.weight, Weight::Float(_))
    }
}

impl Weight {
    /// The form of the codes, or of the weight.
    pub(super) fn form(self) -> Form {
        match self {
            Weight::Float(_) => Form::Float,
            Weight::PerChannel { bits: 8, .. } => Form::Bytes,
            Weight::PerChannel { .. } | Weight::PerGroup { .. } => Form::Nibbles,
        }
    }
}

fn maker(graph: &Graph, v: ValueId) -> Option<&Node> {
    match graph.values[v].def {
        Def::Node(n, _) => Some(&graph.nodes[n]),
        _ => None,
    }
}

fn value(node: &Node, i: usize) -> Option<ValueId> {
    match node.args.get(i) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    }
}

fn constant(graph: &Graph, v: ValueId) -> Option<ConstId> {
    match graph.values[v].def {
        Def::Const(c) => Some(c),
        _ => None,
    }
}

/// A constant, perhaps under other sizes.
fn constant_under_views(graph: &Graph, v: ValueId) -> Option<ConstId> {
    match maker(graph, v) {
        Some(node) if node.op.is_view() || node.op == Op::Clone => constant_under_views(graph, value(node, 0)?),
        _ => constant(graph, v),
    }
}

fn int(node: &Node, i: usize) -> Option<i64> {
    match node.args.get(i) {
        Some(Arg::Int(v)) => Some(*v),
        _ => None,
    }
}

pub(super) fn tensor(graph: &Graph, v: ValueId) -> Verdict<&TensorType> {
    graph.ty(v).as_tensor().ok_or_else(|| "an argument is no tensor".to_owned())
}

/// Checks a tensor that a payload takes or gives.
pub(super) fn at_the_border(graph: &Graph, v: ValueId) -> Verdict<()> {
    let t = tensor(graph, v)?;
    if t.dtype != DType::F32 {
        return Err(format!("its tensors are {}, XNNPACK payloads are written for f32", t.dtype));
    }
    if t.rank() == 0 || t.rank() > MAX_RANK {
        return Err(format!("a tensor has {} dimensions, XNNPACK has 1 to {MAX_RANK}", t.rank()));
    }
    if t.order.is_some() {
        return Err("a tensor is not row-major".to_owned());
    }
    let fits = |d: &pteron_ir::SymInt| (1..=i64::from(i32::MAX)).contains(&d.max(&graph.symbols));
    if !t.dims.iter().all(fits) {
        return Err("the sizes of a tensor have no bound, or it is empty".to_owned());
    }
    Ok(())
}

/// The operator, the codes' argument, and the arguments of scale, zero point and the range of codes.
struct Dequantize {
    scale: usize,
    zero_point: usize,
    range: usize,
}

fn dequantize(op: Op) -> Option<Dequantize> {
    Some(match op {
        Op::DequantizeAffine => Dequantize { scale: 2, zero_point: 3, range: 5 },
        Op::DequantizePerChannel => Dequantize { scale: 1, zero_point: 2, range: 4 },
        Op::DequantizePerChannelGroup
        | Op::DequantizePerToken
        | Op::DequantizePerTensor
        | Op::DequantizePerTensorTensor => Dequantize { scale: 1, zero_point: 2, range: 3 },
        _ => return None,
    })
}

pub(super) fn examine(module: &Module, graph: &Graph, n: NodeId) -> Verdict<Option<Chosen>> {
    let node = &graph.nodes[n];
    let (Some(x), Some(w)) = (value(node, 0), value(node, 1)) else { return Err("an argument is missing".to_owned()) };
    let output = node.outputs.first().copied().ok_or("it has no output")?;
    let bias = match node.args.get(2) {
        Some(Arg::Value(b)) => {
            let Some(c) = constant(graph, *b) else { return Err("its bias is no constant".to_owned()) };
            if tensor(graph, *b)?.dtype != DType::F32 {
                return Err(format!("its bias is {}, expected f32", tensor(graph, *b)?.dtype));
            }
            Some(c)
        }
        _ => None,
    };
    let (x, weight) = match maker(graph, w) {
        Some(dq) if dequantize(dq.op).is_some() => (activation(graph, x)?, quantized_weight(module, graph, dq)?),
        _ => {
            let Some(c) = constant(graph, w) else { return Err("its weight is no constant".to_owned()) };
            if tensor(graph, w)?.dtype != DType::F32 {
                return Err(format!("its weight is {}, expected f32 or codes", tensor(graph, w)?.dtype));
            }
            (x, Weight::Float(c))
        }
    };
    at_the_border(graph, x)?;
    at_the_border(graph, output)?;
    if constant(graph, x).is_some() {
        return Err("its input is a constant".to_owned());
    }
    let inputs = SmallVec::from_iter([x]);
    Ok(Some(Chosen { unit: Unit::Linear(Linear { x, weight, bias }), inputs }))
}

/// What is quantized when the program runs, and dequantized to `v`: codes −128 to 127, a scale and zero point of all or of
/// each row. XNNPACK then chooses a scale and zero point of each row by its own rule, as in ExecuTorch's programs.
fn activation(graph: &Graph, v: ValueId) -> Verdict<ValueId> {
    let float = || "its weight is quantized and its activation is not".to_owned();
    let dq = maker(graph, v).ok_or_else(float)?;
    if dq.op == Op::ToCopy {
        return Err(format!("its activation is {}, XNNPACK payloads are written for f32", tensor(graph, v)?.dtype));
    }
    let at = dequantize(dq.op).ok_or_else(float)?;
    let codes = value(dq, 0).ok_or_else(float)?;
    let q = maker(graph, codes).ok_or_else(float)?;
    let rows_of = |block: Option<&Arg>| match block {
        Some(Arg::Ints(block)) => {
            let (last, lead) = block.split_last()?;
            let whole = tensor(graph, v).ok()?.dims.last()?.as_const()?;
            let is = |a: &pteron_ir::IntArg, n: i64| matches!(a, pteron_ir::IntArg::Const(c) if *c == n);
            (is(last, whole) && lead.iter().all(|b| is(b, 1))).then_some(())
        }
        _ => None,
    };
    // The quantizing operator, its scale and zero point, and where its range stands.
    let (scale, zero_point, range) = match q.op {
        Op::ConvertQd8 if int(q, 1) == Some(1) => return value(q, 0).ok_or_else(float),
        Op::QuantizeAffine => {
            if rows_of(q.args.get(1)).is_none() {
                return Err("its activation is quantized in other blocks than rows".to_owned());
            }
            (value(q, 2), value(q, 3), 5)
        }
        Op::QuantizePerTensorTensor | Op::QuantizePerToken => (value(q, 1), value(q, 2), 3),
        Op::QuantizePerTensor | Op::QuantizePerChannel => {
            return Err(
                "its activation has a scale that is fixed before, XNNPACK payloads are written for scales that are \
                        chosen when the program runs"
                    .to_owned(),
            );
        }
        _ => return Err(float()),
    };
    if (int(q, range), int(q, range + 1)) != (Some(-128), Some(127)) {
        return Err("its activation has not the codes -128 to 127".to_owned());
    }
    let (Some(scale), Some(zero_point)) = (scale, zero_point) else {
        return Err("its activation has no scale".to_owned());
    };
    if value(dq, at.scale) != Some(scale) || value(dq, at.zero_point) != Some(zero_point) {
        return Err("its activation is dequantized with another scale than it is quantized with".to_owned());
    }
    let chosen = maker(graph, scale).filter(|_| maker(graph, zero_point).is_some());
    let x = value(q, 0);
    match chosen {
        Some(c) if x.is_some() && value(c, 0) == x => match c.op {
            Op::ChooseQparams | Op::ChooseQparamsPerTokenAsymmetric => x.ok_or_else(float),
            Op::ChooseQparamsAffine if matches!(c.args.get(1), Some(Arg::Str(s)) if s.as_ref() == "ASYMMETRIC") => {
                x.ok_or_else(float)
            }
            Op::ChooseQparamsAffine | Op::ChooseQparamsSymmetric | Op::ChooseQparamsPerToken => {
                Err("its activation is quantized symmetrically, which XNNPACK's rule is not".to_owned())
            }
            _ => Err("its activation's scale is not chosen from the activation".to_owned()),
        },
        _ => Err("its activation's scale is not chosen from the activation".to_owned()),
    }
}

/// True if a constant has no element but zeros.
fn is_zero(module: &Module, c: ConstId) -> bool {
    let zeros = |s| read_all(s).is_ok_and(|b| b.iter().all(|&b| b == 0));
    source_of(module, c).is_ok_and(|s| zeros(s.as_ref()))
}

/// The first scale of a weight that XNNPACK refuses, which wants normal numbers above 0.
fn odd_scale(module: &Module, scales: ConstId) -> Verdict<Option<f32>> {
    let source = source_of(module, scales).map_err(|e| e.to_string())?;
    let bytes = read_all(CastSource::wrap(source.clone(), DType::F32).as_ref()).map_err(|e| e.to_string())?;
    let scales = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
    Ok(scales.into_iter().find(|s| !(s.is_normal() && *s > 0.0)))
}

fn quantized_weight(module: &Module, graph: &Graph, dq: &Node) -> Verdict<Weight> {
    let none = || "its weight has no constant codes and scales".to_owned();
    let Some(at) = dequantize(dq.op) else { return Err(none()) };
    if matches!(dq.op, Op::DequantizePerTensor | Op::DequantizePerTensorTensor) {
        return Err("its weight has one scale, XNNPACK wants one for each channel or group where activations are \
                    quantized when the program runs"
            .to_owned());
    }
    let codes = value(dq, 0).ok_or_else(none)?;
    let (ty, codes) = (tensor(graph, codes)?, constant(graph, codes).ok_or_else(none)?);
    let scales = value(dq, at.scale).and_then(|v| constant_under_views(graph, v)).ok_or_else(none)?;
    match dq.args.get(at.zero_point) {
        Some(Arg::Value(z)) => match constant_under_views(graph, *z) {
            Some(z) if is_zero(module, z) => {}
            _ => return Err("its weight has zero points other than 0".to_owned()),
        },
        Some(Arg::None) | None => {}
        Some(_) => return Err("its weight has zero points other than 0".to_owned()),
    }
    if let Some(scale) = odd_scale(module, scales)? {
        return Err(format!("its weight has a scale of {scale}, XNNPACK wants normal numbers above 0"));
    }
    let sizes = ty.fixed_sizes().ok_or_else(none)?;
    let &[_, columns] = sizes.as_slice() else { return Err(format!("its weight is {ty}, expected a matrix")) };
    let columns = i64::try_from(columns).map_err(|e| e.to_string())?;
    let (lo, hi) = match (int(dq, at.range), int(dq, at.range + 1)) {
        (Some(lo), Some(hi)) => (lo, hi),
        _ if ty.dtype == DType::I4 => (-8, 7),
        _ => (-128, 127),
    };
    if !matches!(ty.dtype, DType::I8 | DType::I4) {
        return Err(format!("its weight has codes of type {}, expected i8", ty.dtype));
    }
    let bits = if lo >= -8 && hi <= 7 { 4 } else { 8 };
    // XNNPACK reads rows of nibbles one behind the other, without a gap behind an odd column: such rows are written as bytes.
    let channel_bits = if columns % 2 != 0 && ty.dtype == DType::I8 { 8 } else { bits };
    let group = match dq.op {
        Op::DequantizePerChannel if int(dq, 3) == Some(0) => None,
        Op::DequantizePerChannel => return Err("its weight has scales of input channels".to_owned()),
        Op::DequantizePerChannelGroup => int(dq, 6),
        _ => match dq.args.get(1) {
            Some(Arg::Ints(block)) => match block.as_slice() {
                [pteron_ir::IntArg::Const(1), pteron_ir::IntArg::Const(group)] => Some(*group),
                _ => return Err("its weight has other blocks than rows or parts of rows".to_owned()),
            },
            _ => return Err(none()),
        },
    };
    Ok(match (group, bits) {
        (None, _) => Weight::PerChannel { codes, scales, bits: channel_bits },
        // As ExecuTorch has it: a group of a whole row is a channel for 8 bits and a group for 4.
        (Some(g), 8) if g == columns => Weight::PerChannel { codes, scales, bits },
        (Some(_), 8) => return Err("XNNPACK has no kernel for 8-bit weights in groups".to_owned()),
        (Some(group), _) if group % GROUP == 0 && columns % group == 0 => Weight::PerGroup { codes, scales, group },
        (Some(g), _) if g == columns => Weight::PerChannel { codes, scales, bits: channel_bits },
        (Some(group), _) => {
            return Err(format!("its weight has groups of {group}, XNNPACK wants a multiple of {GROUP}"));
        }
    })
}
