//! Linear layers: `int8`, `8da4w`, `8da8w`, `4w`.

use std::collections::BTreeMap;

use pteron_ir::{Arg, Def, Graph, Module, Op, ValueId, args};
use pteron_tensor::DType;

use super::{LinearMode, Readers, Rewriter, TransformError, Weight};

/// The argument of `aten::linear` that is the weight.
pub(super) const WEIGHT: u16 = 1;

/// Replaces every linear layer of `graph` that `readers` names; gives their number.
///
/// | mode | becomes |
/// |---|---|
/// | `int8` | `linear(x, codes as x's type) · scales (+ bias)`, as ExecuTorch's `WeightOnlyInt8Linear` computes it |
/// | `4w`, `int8` in groups | `linear(x, dequantize_affine(codes), bias)` |
/// | `8da4w`, `8da8w` | the same of `x` through `choose_qparams_affine`, `quantize_affine`, `dequantize_affine`, one scale a token; layers that read the same `x` share this |
///
/// Those with `dequantize_affine` are computed in f32 whatever the model's type is, as ExecuTorch's kernels compute them.
pub(super) fn replace(
    graph: &mut Graph,
    module: &mut Module,
    readers: &Readers,
    mode: LinearMode,
    weight: &Weight,
) -> Result<usize, TransformError> {
    let body = graph.body_id();
    let nodes = std::mem::take(&mut graph.regions[body].nodes);
    let mut count = 0;
    // Activations that an earlier layer has sent through codes already.
    let mut shared: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    if mode.is_dynamic() {
        for &n in &nodes {
            let node = &graph.nodes[n];
            if node.op == Op::DequantizeAffine
                && let Some(x) = through_codes(graph, node.outputs[0])
            {
                shared.insert(x, node.outputs[0]);
                // What was made f32 for its codes.
                if let Some(narrow) = argument_of(graph, x, Op::ToCopy) {
                    shared.insert(narrow, node.outputs[0]);
                }
            }
        }
    }
    for n in nodes {
        let node = &graph.nodes[n];
        let is_ours = readers.has(graph, n, Op::Linear, WEIGHT);
        let (Some(Arg::Value(x)), true) = (node.args.first().cloned(), is_ours) else {
            graph.regions[body].nodes.push(n);
            continue;
        };
        count += 1;
        let (path, bias) = (node.path, node.args.get(2).cloned().unwrap_or(Arg::None));
        let mut r = Rewriter { module, graph, path };
        let float = r.tensor(x).dtype;
        let codes = r.constant(&weight.name, weight.codes.clone());
        let scales = r.constant(&format!("{}_scale", weight.name), weight.scales.clone());
        let arguments: Vec<Arg> = match mode {
            LinearMode::Int8 => {
                let w = r.one(Op::ToCopy, args![codes, float].into())?;
                let mut y = r.one(Op::Linear, args![x, w].into())?;
                let scales = cast(&mut r, scales, float)?;
                y = r.one(Op::Mul, args![y, scales].into())?;
                if let Arg::Value(b) = bias {
                    y = r.one(Op::Add, args![y, b].into())?;
                }
                let old = r.graph.nodes[n].outputs[0];
                r.graph.replace_uses(old, y);
                continue;
            }
            LinearMode::Int4Weight { group: _ } | LinearMode::Int8Groups { group: _ } => {
                vec![cast(&mut r, x, DType::F32)?.into()]
            }
            LinearMode::Int8DynActInt4Weight { group: _ } | LinearMode::Int8DynActInt8Weight { group: _ } => {
                let known = shared.get(&x).copied().filter(|&v| before(r.graph, v));
                let x = match known {
                    Some(v) => v,
                    None => {
                        let v = activation(&mut r, x)?;
                        shared.insert(x, v);
                        v
                    }
                };
                vec![x.into()]
            }
        };
        let grid = r.tensor(codes).dims.to_vec();
        let groups = grid.get(1).and_then(pteron_ir::SymInt::as_const).unwrap_or(1) / group_of(weight).max(1);
        let rows = grid.first().and_then(pteron_ir::SymInt::as_const).unwrap_or(1);
        // torchao keeps one scale a block in a tensor of the weight's rank.
        let scales = match r.tensor(scales).rank() {
            1 => r.one(Op::ViewCopy, args![scales, Arg::ints(&[rows, groups])].into())?,
            _ => scales,
        };
        let block = Arg::ints(&[1, group_of(weight)]);
        let (lo, hi) = weight.range;
        let dequantize = args![codes, block, scales, Arg::None, DType::I8, lo, hi, DType::F32];
        let w = r.one(Op::DequantizeAffine, dequantize.into())?;
        if float != DType::F32 {
            let bias = match bias {
                Arg::Value(b) => cast(&mut r, b, DType::F32)?.into(),
                none => none,
            };
            let all: Vec<Arg> = arguments.into_iter().chain([w.into(), bias]).collect();
            let y = r.one(Op::Linear, all.into_iter().collect())?;
            let y = cast(&mut r, y, float)?;
            let old = r.graph.nodes[n].outputs[0];
            r.graph.replace_uses(old, y);
            continue;
        }
        let node = &mut graph.nodes[n];
        node.args = arguments.into_iter().chain([w.into(), bias]).collect();
        graph.regions[body].nodes.push(n);
    }
    Ok(count)
}

fn group_of(weight: &Weight) -> i64 {
    i64::try_from(weight.group).unwrap_or(i64::MAX)
}

/// True if the node that gives `v` stands in the body already.
fn before(graph: &Graph, v: ValueId) -> bool {
    match graph.values[v].def {
        Def::Node(n, _) => graph.body().nodes.contains(&n),
        _ => true,
    }
}

/// The first argument of the node that gives `v`, if it is an `op`.
fn argument_of(graph: &Graph, v: ValueId, op: Op) -> Option<ValueId> {
    match graph.values[v].def {
        Def::Node(n, _) if graph.nodes[n].op == op => match graph.nodes[n].args.first() {
            Some(Arg::Value(x)) => Some(*x),
            _ => None,
        },
        _ => None,
    }
}

/// The activation whose codes `v` dequantizes, if that is what it is.
fn through_codes(graph: &Graph, v: ValueId) -> Option<ValueId> {
    argument_of(graph, argument_of(graph, v, Op::DequantizeAffine)?, Op::QuantizeAffine)
}

/// `x` as elements of a type.
fn cast(r: &mut Rewriter<'_>, x: ValueId, to: DType) -> Result<ValueId, TransformError> {
    if r.tensor(x).dtype == to { Ok(x) } else { r.one(Op::ToCopy, args![x, to].into()) }
}

/// `x` in f32 through 8-bit codes, one scale and zero point a token: torchao's `Int8DynamicActivation…` asymmetric.
fn activation(r: &mut Rewriter<'_>, x: ValueId) -> Result<ValueId, TransformError> {
    let ty = r.tensor(x);
    let width = ty.dims.last().and_then(pteron_ir::SymInt::as_const).unwrap_or(1);
    let mut block = vec![1i64; ty.rank()];
    if let Some(last) = block.last_mut() {
        *last = width;
    }
    let block = Arg::ints(&block);
    let range = (-128i64, 127i64);
    let wide = cast(r, x, DType::F32)?;
    let chosen = r.call(
        Op::ChooseQparamsAffine,
        args![wide, "ASYMMETRIC", block.clone(), DType::I8, range.0, range.1, Arg::None, DType::F32, DType::I8, true]
            .into(),
    )?;
    let &[scale, zero] = chosen.as_slice() else {
        return Err(TransformError::Source("choose_qparams_affine has not two outputs".to_owned()));
    };
    let q = r.one(Op::QuantizeAffine, args![wide, block.clone(), scale, zero, DType::I8, range.0, range.1].into())?;
    r.one(Op::DequantizeAffine, args![q, block, scale, zero, DType::I8, range.0, range.1, DType::F32].into())
}
