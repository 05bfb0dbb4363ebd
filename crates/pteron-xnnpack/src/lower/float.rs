//! Operators over f32: which ones XNNPACK computes.

use pteron_ir::{Arg, Def, Graph, IntArg, Module, Node, NodeId, Op, SymInt, TensorType, ValueId};
use pteron_tensor::DType;
use smallvec::SmallVec;

use super::linear::{at_the_border, tensor};
use super::{Chosen, MAX_RANK, Unit};
use crate::payload::{BinaryKind, UnaryKind};

type Verdict<T> = Result<T, String>;

/// The kind of an operator with one tensor.
pub(super) fn unary(op: Op) -> Option<UnaryKind> {
    Some(match op {
        Op::Abs => UnaryKind::Abs,
        Op::Neg => UnaryKind::Negate,
        Op::Exp => UnaryKind::Exp,
        Op::Log => UnaryKind::Log,
        Op::Sin => UnaryKind::Sin,
        Op::Cos => UnaryKind::Cos,
        Op::Sqrt => UnaryKind::SquareRoot,
        Op::Rsqrt => UnaryKind::ReciprocalSquareRoot,
        Op::Tanh => UnaryKind::Tanh,
        Op::Sigmoid => UnaryKind::Sigmoid,
        Op::Gelu => UnaryKind::Gelu,
        Op::Floor => UnaryKind::Floor,
        Op::Ceil => UnaryKind::Ceiling,
        Op::Relu | Op::Clamp => UnaryKind::Clamp,
        Op::Softmax => UnaryKind::Softmax,
        Op::Clone | Op::CloneDimOrder => UnaryKind::Copy,
        Op::PowScalar => UnaryKind::Square,
        _ => return None,
    })
}

/// The kind of an operator with two tensors, or with a tensor and a number.
pub(super) fn binary(op: Op) -> Option<BinaryKind> {
    Some(match op {
        Op::Add | Op::AddScalar => BinaryKind::Add,
        Op::Sub | Op::SubScalar => BinaryKind::Subtract,
        Op::Mul | Op::MulScalar => BinaryKind::Multiply,
        Op::Div | Op::DivScalar => BinaryKind::Div,
        Op::Maximum => BinaryKind::Maximum,
        Op::Minimum => BinaryKind::Minimum,
        Op::Bmm => BinaryKind::BatchMatrixMultiply,
        _ => return None,
    })
}

/// A number among the arguments.
pub(super) fn number(arg: Option<&Arg>) -> Option<f64> {
    match arg {
        Some(Arg::Int(i)) => Some(*i as f64),
        Some(Arg::Float(f)) => Some(*f),
        _ => None,
    }
}

fn int(node: &Node, i: usize) -> Option<i64> {
    match node.args.get(i) {
        Some(Arg::Int(v)) => Some(*v),
        _ => None,
    }
}

fn is_static(t: &TensorType) -> bool {
    t.dims.iter().all(|d| d.as_const().is_some_and(|d| d > 0))
}

fn alpha_is_one(node: &Node) -> Verdict<()> {
    match number(node.args.get(2)) {
        Some(1.0) | None => Ok(()),
        Some(alpha) => Err(format!("alpha is {alpha}, XNNPACK has 1")),
    }
}

/// Start and size of a slice along its dimension.
pub(super) fn slice(graph: &Graph, node: &Node) -> Option<(usize, u32, u32)> {
    let Some(Arg::Value(x)) = node.args.first() else { return None };
    let (input, output) = (graph.ty(*x).as_tensor()?, graph.ty(*node.outputs.first()?).as_tensor()?);
    let rank = i64::try_from(input.rank()).ok()?;
    let dim = int(node, 1)?;
    let axis = usize::try_from(if dim < 0 { dim + rank } else { dim }).ok()?;
    let (size, kept) = (input.dims.get(axis)?.as_const()?, output.dims.get(axis)?.as_const()?);
    let start = match node.args.get(2) {
        None | Some(Arg::None) => 0,
        Some(Arg::Int(s)) if *s < 0 => (*s + size).max(0),
        Some(Arg::Int(s)) => (*s).min(size),
        Some(_) => return None,
    };
    if start + kept > size {
        return None;
    }
    Some((axis, u32::try_from(start).ok()?, u32::try_from(kept).ok()?))
}

/// What an operator wants beyond f32 tensors that XNNPACK can hold.
fn conditions(graph: &Graph, node: &Node) -> Verdict<()> {
    let first = |i: usize| match node.args.get(i) {
        Some(Arg::Value(v)) => tensor(graph, *v),
        _ => Err(format!("argument {i} is no tensor")),
    };
    match node.op {
        Op::Add | Op::AddScalar | Op::Sub | Op::SubScalar => alpha_is_one(node)?,
        Op::Gelu => match node.args.get(1) {
            Some(Arg::Str(s)) if s.as_ref() != "none" => return Err(format!("approximate is {s}, XNNPACK has none")),
            _ => {}
        },
        Op::PowScalar => match number(node.args.get(1)) {
            Some(2.0) => {}
            _ => return Err("XNNPACK has squares, no other powers".to_owned()),
        },
        Op::Softmax => {
            let (rank, dim) = (first(0)?.rank(), int(node, 1).unwrap_or(0));
            let last = dim == -1 || i64::try_from(rank).is_ok_and(|r| dim == r - 1);
            if !last {
                return Err("XNNPACK's softmax is over the last dimension".to_owned());
            }
        }
        Op::Bmm if (first(0)?.rank() != 3 || first(1)?.rank() != 3) => {
            return Err("its tensors are not of rank 3".to_owned());
        }
        Op::Cat => match node.args.first() {
            Some(Arg::Values(list)) if (2..=5).contains(&list.len()) => {}
            _ => return Err("XNNPACK joins 2 to 5 tensors".to_owned()),
        },
        Op::SliceCopy => {
            if int(node, 4).unwrap_or(1) != 1 {
                return Err("XNNPACK's slices have a step of 1".to_owned());
            }
            if !is_static(first(0)?) || slice(graph, node).is_none() {
                return Err("XNNPACK's slices have fixed sizes and places".to_owned());
            }
        }
        Op::ViewCopy | Op::UnsqueezeCopy | Op::SqueezeDimsCopy | Op::SqueezeDimCopy => {
            let out = node.outputs.first().copied().ok_or("it has no output")?;
            if !is_static(tensor(graph, out)?) {
                return Err("XNNPACK's views have fixed sizes".to_owned());
            }
        }
        Op::Clamp if number(node.args.get(1)).is_none() && number(node.args.get(2)).is_none() => {
            return Err("it has no bound that is a number".to_owned());
        }
        _ => {}
    }
    Ok(())
}

fn is_known(op: Op) -> bool {
    unary(op).is_some()
        || binary(op).is_some()
        || matches!(
            op,
            Op::PermuteCopy
                | Op::Cat
                | Op::SliceCopy
                | Op::ViewCopy
                | Op::UnsqueezeCopy
                | Op::SqueezeDimsCopy
                | Op::SqueezeDimCopy
        )
}

/// `Ok(None)` for what computes no tensor of floats.
pub(super) fn examine(module: &Module, graph: &Graph, n: NodeId) -> Verdict<Option<Chosen>> {
    let node = &graph.nodes[n];
    let [output] = node.outputs.as_slice() else {
        return if node.outputs.is_empty() { Ok(None) } else { Err("XNNPACK has no such operator".to_owned()) };
    };
    if graph.ty(*output).as_tensor().is_none() {
        return Ok(None);
    }
    if !is_known(node.op) {
        return Err("XNNPACK has no such operator".to_owned());
    }
    at_the_border(graph, *output)?;
    let mut inputs: SmallVec<[ValueId; 4]> = SmallVec::new();
    let mut trouble = None;
    for (i, arg) in node.args.iter().enumerate() {
        // Sizes and places may be values: `conditions` says of which operators they must be numbers.
        if matches!(arg, Arg::Ints(list) if list.iter().any(|d| matches!(d, IntArg::Value(_)))) {
            trouble.get_or_insert_with(|| "its sizes are computed when the program runs".to_owned());
        }
        arg.for_each_value(|v| {
            let found = match graph.values[v].def {
                Def::Const(c) => {
                    let ty = &module.constants[c].ty;
                    if ty.dtype == DType::F32 && ty.rank() <= MAX_RANK && ty.order.is_none() && is_static(ty) {
                        Ok(())
                    } else {
                        Err(format!("its constant is {ty}, XNNPACK payloads are written for f32"))
                    }
                }
                _ if graph.ty(v).as_tensor().is_none() => {
                    Err(format!("argument {i} is computed when the program runs"))
                }
                _ => {
                    if !inputs.contains(&v) {
                        inputs.push(v);
                    }
                    at_the_border(graph, v)
                }
            };
            if let Err(e) = found {
                trouble.get_or_insert(e);
            }
        });
    }
    if let Some(e) = trouble {
        return Err(e);
    }
    if inputs.is_empty() {
        return Err("all its arguments are constants".to_owned());
    }
    conditions(graph, node)?;
    let unknown = |d: &SymInt| matches!(d, SymInt::Unknown { .. });
    if inputs.iter().any(|&v| graph.ty(v).as_tensor().is_some_and(|t| t.dims.iter().any(unknown))) {
        return Err("sizes of a tensor are known only when the program runs".to_owned());
    }
    Ok(Some(Chosen { unit: Unit::Float, inputs }))
}
