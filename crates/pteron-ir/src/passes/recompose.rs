//! Puts operators together again that were taken apart.

use pteron_tensor::{CastSource, DType, read_all};

use crate::arg::{Arg, IntArg};
use crate::args;
use crate::entity::{NodeId, ValueId};
use crate::graph::{Def, Graph};
use crate::module::{ConstData, Module};
use crate::op::Op;
use crate::pass::{Pass, PassContext, PassError, PassReport};

/// Makes `x · rsqrt(mean(x²) + eps) · weight` in f32, over the last dimension, one `aten::rms_norm`: what the pass `decompose`
/// makes of it, and what ExecuTorch's Llama is exported as. Backends that have the operator want it whole. The product by the
/// weight becomes the norm and keeps its debug handle; what nobody reads then is left to `dce`.
pub const RECOMPOSE_RMS_NORM: Pass =
    Pass { name: "recompose_rms_norm", about: "puts RMSNorm together that was taken apart", run };

fn run(m: &mut Module, cx: &PassContext<'_>) -> Result<PassReport, PassError> {
    let mut report = PassReport::default();
    let mut graphs = std::mem::take(&mut m.graphs);
    for g in &mut graphs {
        for n in g.all_nodes() {
            let Some((x, width, weight, eps)) = norm(m, g, n) else { continue };
            if !cx.step() {
                break;
            }
            let node = &mut g.nodes[n];
            node.op = Op::RmsNorm;
            node.args = args![x, Arg::ints(&[width]), weight, eps].into_iter().collect();
            report.changed += 1;
        }
    }
    m.graphs = graphs;
    Ok(report)
}

/// Input, width, weight and eps, if `n` is the last product of a norm.
fn norm(m: &Module, g: &Graph, n: NodeId) -> Option<(ValueId, i64, ValueId, f64)> {
    let (a, b) = product(g, n)?;
    let (normed, weight) = if is_constant(g, b) { (a, b) } else { (b, a) };
    if !is_constant(g, weight) {
        return None;
    }
    let (a, b) = product(g, producer(g, normed)?)?;
    let (x, inverse) = if by(g, b, Op::Rsqrt).is_some() { (a, b) } else { (b, a) };
    let shifted = tensor(g, by(g, inverse, Op::Rsqrt)?, 0)?;
    let (mean, eps) = sum(m, g, producer(g, shifted)?)?;
    let mean = by(g, mean, Op::Mean)?;
    let ty = g.ty(x).as_tensor()?;
    let last = i64::try_from(ty.rank()).ok()? - 1;
    let over_last =
        matches!(&g.nodes[mean].args[1], Arg::Ints(d) if matches!(d[..], [IntArg::Const(d)] if d == -1 || d == last));
    if !over_last || g.nodes[mean].args.get(2) != Some(&Arg::Bool(true)) || !is_square(g, tensor(g, mean, 0)?, x) {
        return None;
    }
    let width = ty.dims.last()?.as_const()?;
    let weight_ty = g.ty(weight).as_tensor()?;
    let fits = weight_ty.rank() == 1 && weight_ty.dims[0].as_const() == Some(width);
    let out = g.ty(g.nodes[n].outputs[0]).as_tensor()?;
    let f32s = [ty.dtype, weight_ty.dtype, out.dtype].iter().all(|d| *d == DType::F32);
    (fits && f32s && out.dims == ty.dims).then_some((x, width, weight, eps))
}

fn producer(g: &Graph, v: ValueId) -> Option<NodeId> {
    match g.values[v].def {
        Def::Node(n, 0) => Some(n),
        _ => None,
    }
}

/// The node that gives `v`, if it is of this operator.
fn by(g: &Graph, v: ValueId, op: Op) -> Option<NodeId> {
    producer(g, v).filter(|&n| g.nodes[n].op == op)
}

fn tensor(g: &Graph, n: NodeId, arg: usize) -> Option<ValueId> {
    match g.nodes[n].args.get(arg) {
        Some(Arg::Value(v)) => Some(*v),
        _ => None,
    }
}

fn product(g: &Graph, n: NodeId) -> Option<(ValueId, ValueId)> {
    if g.nodes[n].op != Op::Mul {
        return None;
    }
    Some((tensor(g, n, 0)?, tensor(g, n, 1)?))
}

fn is_constant(g: &Graph, v: ValueId) -> bool {
    matches!(g.values[v].def, Def::Const(_))
}

fn is_square(g: &Graph, v: ValueId, x: ValueId) -> bool {
    let Some(n) = producer(g, v) else { return false };
    match g.nodes[n].op {
        Op::Mul => product(g, n) == Some((x, x)),
        Op::PowScalar => {
            tensor(g, n, 0) == Some(x) && matches!(g.nodes[n].args.get(1), Some(Arg::Int(2)) | Some(Arg::Float(2.0)))
        }
        _ => false,
    }
}

/// The summand that is computed, and the number that is added to it.
fn sum(m: &Module, g: &Graph, n: NodeId) -> Option<(ValueId, f64)> {
    let node = &g.nodes[n];
    if !matches!(node.args.get(2), Some(Arg::Int(1)) | Some(Arg::Float(1.0))) {
        return None;
    }
    match (node.op, node.args.get(1)?) {
        (Op::AddScalar, Arg::Float(eps)) => Some((tensor(g, n, 0)?, *eps)),
        (Op::Add, Arg::Value(b)) => {
            let a = tensor(g, n, 0)?;
            number(m, g, *b).map(|eps| (a, eps)).or_else(|| number(m, g, a).map(|eps| (*b, eps)))
        }
        _ => None,
    }
}

/// A constant of one element, as the shortest decimal that is that f32.
fn number(m: &Module, g: &Graph, v: ValueId) -> Option<f64> {
    let Def::Const(c) = g.values[v].def else { return None };
    let ConstData::Source(source) = &m.constants[c].data else { return None };
    if source.shape().iter().product::<usize>() != 1 {
        return None;
    }
    let bytes = read_all(CastSource::wrap(source.clone(), DType::F32).as_ref()).ok()?;
    let value = f32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    value.to_string().parse().ok()
}
