//! The rules by operator.

use pteron_ir::{NodeId, Op, ValueId};
use pteron_tensor::DType;

use crate::annotation::{BiasSpec, InputIndex, Point, QuantizationConfig};
use crate::format::QScheme;
use crate::quantizer::rules::Rules;
use crate::scheme::{Compat, ModuleQConfig, QuantDtype};
use crate::spec::{ObserverCtr, ObserverKind, QuantizationSpec, Spec};

/// What a rule does with an operator's tensors. *act* is the spec of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// First input act, output act.
    SingleInSingleOut,
    /// First input act.
    SingleIn,
    /// First two inputs act, output act.
    Binary,
    /// Input and output share what the producer annotated; else the input act and the output shares it.
    InOutSharing,
    /// First input act, all outputs share it.
    Split,
    /// No input, output act.
    Constant,
    Weighted,
    Cat,
    Embedding,
    IndexPut,
    LayerNorm,
    MatMul,
    RmsNorm,
    Sigmoid,
    Tanh,
    TopK,
    Where,
}

fn rule(op: Op) -> Option<Rule> {
    Some(match op {
        Op::Abs
        | Op::Amax
        | Op::Amin
        | Op::Ceil
        | Op::Clamp
        | Op::Cos
        | Op::CumSum
        | Op::Exp
        | Op::FastHadamardTransform
        | Op::Flip
        | Op::Floor
        | Op::Gelu
        | Op::Log
        | Op::LogSoftmax
        | Op::Mean
        | Op::Neg
        | Op::PowTensor
        | Op::Relu
        | Op::Round
        | Op::Rsqrt
        | Op::SelectCopy
        | Op::Sin
        | Op::SliceCopy
        | Op::Softmax
        | Op::Sqrt
        | Op::Sum
        | Op::ToCopy
        | Op::UpsampleNearest2d => Rule::SingleInSingleOut,
        Op::Argmax | Op::Argmin => Rule::SingleIn,
        // Of their two outputs the first is a number, which ExecuTorch's rule for `getitem` annotates.
        Op::MaxDim | Op::MinDim => Rule::SingleInSingleOut,
        Op::Add
        | Op::Div
        | Op::Eq
        | Op::Ge
        | Op::Gt
        | Op::Le
        | Op::LogicalAnd
        | Op::Lt
        | Op::Maximum
        | Op::Minimum
        | Op::Mul
        | Op::Ne
        | Op::Sub => Rule::Binary,
        Op::ExpandCopy
        | Op::Gather
        | Op::Index
        | Op::IndexSelect
        | Op::PermuteCopy
        | Op::Repeat
        | Op::SqueezeDimCopy
        | Op::SqueezeDimsCopy
        | Op::TransposeCopy
        | Op::UnsqueezeCopy
        | Op::ViewCopy
        // `RemoveRedundancy` takes copies out of ExecuTorch's graphs: what they give is what they were given.
        | Op::Clone
        | Op::CloneDimOrder => Rule::InOutSharing,
        Op::SplitWithSizesCopy => Rule::Split,
        Op::Arange | Op::Full | Op::FullLike | Op::ScalarTensor => Rule::Constant,
        Op::Convolution | Op::Linear => Rule::Weighted,
        Op::Cat => Rule::Cat,
        Op::Embedding => Rule::Embedding,
        Op::IndexPut | Op::IndexPutInto => Rule::IndexPut,
        Op::LayerNorm => Rule::LayerNorm,
        Op::Bmm | Op::Mm => Rule::MatMul,
        Op::RmsNorm => Rule::RmsNorm,
        Op::Sigmoid => Rule::Sigmoid,
        Op::Tanh => Rule::Tanh,
        Op::TopK => Rule::TopK,
        Op::Where => Rule::Where,
        _ => return None,
    })
}

/// Whether there is a rule.
pub(super) fn is_known(op: Op) -> bool {
    rule(op).is_some()
}

/// Annotates one node.
pub(super) fn annotate(rules: &mut Rules<'_>, n: NodeId, config: &QuantizationConfig, compat: Compat) {
    let (Some(rule), Some(act)) = (rule(rules.node(n).op), config.input_activation.clone()) else { return };
    let out_float = rules.output(n).is_some_and(|v| is_float(rules, v));
    let output = config.output_activation.clone().filter(|_| out_float).map(Spec::from);
    let act_at = |rules: &Rules<'_>, args: &[u16]| -> Vec<(InputIndex, Spec)> {
        let float = |arg: &&u16| rules.input(n, **arg).is_some_and(|v| is_float(rules, v));
        args.iter().filter(float).map(|&arg| (InputIndex::arg(arg), act.clone().into())).collect()
    };
    let first = Spec::Shared(Point::edge(rules.node(n).handle, 0));
    match rule {
        Rule::SingleInSingleOut => some(rules, n, act_at(rules, &[0]), output),
        Rule::SingleIn => some(rules, n, act_at(rules, &[0]), None),
        Rule::Binary => some(rules, n, act_at(rules, &[0, 1]), output),
        Rule::InOutSharing => in_out_sharing(rules, n, &act, out_float),
        Rule::Split | Rule::TopK => {
            let inputs = act_at(rules, &[0]);
            if inputs.is_empty() {
                return;
            }
            rules.set(n, inputs, Some(first.clone()));
            let outputs = if rule == Rule::Split { rules.node(n).outputs.len() } else { 1 };
            let at = rules.annotations.at(rules.graph.nodes[n].handle);
            (1..outputs).for_each(|i| at.set_output(u16::try_from(i).unwrap_or(u16::MAX), first.clone()));
        }
        Rule::Constant => some(rules, n, Vec::new(), output),
        Rule::Weighted => rules.weighted(n, config, None, true),
        Rule::Cat => cat(rules, n, &act, config, compat, out_float),
        Rule::Embedding => embedding(rules, n, &act, config),
        Rule::IndexPut => {
            // The buffer that is written is not annotated: it would be folded like a constant.
            let inputs = act_at(rules, &[2]);
            let shared = (!inputs.is_empty()).then(|| Spec::Shared(Point::edge(rules.node(n).handle, 2)));
            some(rules, n, inputs, shared);
        }
        Rule::LayerNorm => layer_norm(rules, n, &act, config),
        Rule::MatMul => {
            let second = second_operand(&act, compat);
            let inputs = vec![(InputIndex::arg(0), act.into()), (InputIndex::arg(1), second.into())];
            rules.set(n, inputs, config.output_activation.clone().map(Spec::from));
        }
        Rule::RmsNorm => {
            // Input and weight.
            let inputs = act_at(rules, &[0, 2]);
            rules.set(n, inputs, config.output_activation.clone().map(Spec::from));
        }
        Rule::Sigmoid | Rule::Tanh if !out_float => {}
        Rule::Sigmoid => {
            let inputs = vec![(InputIndex::arg(0), act.into())];
            rules.set(n, inputs, config.output_activation.as_ref().and_then(of_sigmoid).map(Spec::from));
        }
        Rule::Tanh => {
            let inputs = vec![(InputIndex::arg(0), act.into())];
            rules.set(n, inputs, config.output_activation.as_ref().map(of_tanh).map(Spec::from));
        }
        Rule::Where => {
            let inputs = act_at(rules, &[0, 1, 2]);
            rules.set(n, inputs, output);
        }
    }
}

/// `_is_float_tensor`: of f32 or bf16.
pub(super) fn is_float(rules: &Rules<'_>, v: ValueId) -> bool {
    matches!(rules.dtype(v), Some(DType::F32 | DType::BF16))
}

/// Annotates unless nothing is quantized.
fn some(rules: &mut Rules<'_>, n: NodeId, inputs: Vec<(InputIndex, Spec)>, output: Option<Spec>) {
    if !inputs.is_empty() || output.is_some() {
        rules.set(n, inputs, output);
    }
}

/// `annotate_in_out_obs_sharing_op`, then `annotate_single_in_share_out`.
fn in_out_sharing(rules: &mut Rules<'_>, n: NodeId, act: &QuantizationSpec, out_float: bool) {
    let Some(v) = rules.input(n, 0) else { return };
    let input = InputIndex::arg(0);
    match rules.annotated_source(v).filter(|_| is_float(rules, v)) {
        Some(point) => rules.set(n, vec![(input, Spec::Shared(point))], Some(Spec::Shared(point))),
        None if is_float(rules, v) => {
            let shared = out_float.then(|| Spec::Shared(Point::edge(rules.node(n).handle, 0)));
            rules.set(n, vec![(input, act.clone().into())], shared);
        }
        None => {}
    }
}

/// Release 1.5: the output's observer gives its range to all inputs. Release 0.5: all share that of the first input.
fn cat(
    rules: &mut Rules<'_>,
    n: NodeId,
    act: &QuantizationSpec,
    config: &QuantizationConfig,
    compat: Compat,
    out_float: bool,
) {
    let inputs = rules.inputs(n, 0);
    let (true, Some(&(first, _))) = (out_float, inputs.first()) else { return };
    if compat == Compat::ExecuTorch0_5 {
        let shared = Spec::Shared(Point::Edge { user: rules.node(n).handle, input: first });
        let spec =
            |(i, _): &(InputIndex, ValueId)| (*i, if *i == first { Spec::from(act.clone()) } else { shared.clone() });
        let inputs = inputs.iter().map(spec).collect();
        return rules.set(n, inputs, Some(shared));
    }
    let spec = |&(i, v): &(InputIndex, ValueId)| {
        // What passes a tensor on keeps its producer's parameters, without another step between them.
        let point = rules.annotated_source(v);
        match point.filter(|&p| matches!(rules.annotations.spec(p), Some(Spec::Shared(_)))) {
            Some(point) => (i, Spec::Shared(point)),
            None => (i, act.clone().into()),
        }
    };
    let inputs = inputs.iter().map(spec).collect();
    let output = config.output_activation.as_ref();
    let output = output.map(|s| QuantizationSpec {
        ch_axis: None,
        observer: ObserverCtr::new(ObserverKind::Concat),
        ..s.clone()
    });
    rules.set(n, inputs, output.map(Spec::from));
}

/// The weight is quantized as the activation that its rows become; per channel, as a weight.
fn embedding(rules: &mut Rules<'_>, n: NodeId, act: &QuantizationSpec, config: &QuantizationConfig) {
    if !rules.input(n, 0).is_some_and(|v| is_float(rules, v)) {
        return;
    }
    let (weight, output) = match (&config.weight, config.per_channel_embedding) {
        (Some(weight), true) => (weight.clone(), Spec::from(act.clone())),
        _ => (act.clone(), Spec::Shared(Point::edge(rules.node(n).handle, 0))),
    };
    rules.set(n, vec![(InputIndex::arg(0), weight.into())], Some(output));
}

fn layer_norm(rules: &mut Rules<'_>, n: NodeId, act: &QuantizationSpec, config: &QuantizationConfig) {
    let mut inputs = vec![(InputIndex::arg(0), Spec::from(act.clone()))];
    if rules.input(n, 2).is_some() {
        let weight = if act.dtype == DType::I32 { weight_16a16w(Compat::ExecuTorch1_5) } else { act.clone() };
        inputs.push((InputIndex::arg(2), weight.into()));
    }
    if let (Some(_), Some(BiasSpec::Observed(bias))) = (rules.input(n, 3), &config.bias) {
        inputs.push((InputIndex::arg(3), bias.clone().into()));
    }
    rules.set(n, inputs, config.output_activation.clone().map(Spec::from));
}

/// A 16-bit second operand must be symmetric and signed.
fn second_operand(act: &QuantizationSpec, compat: Compat) -> QuantizationSpec {
    if act.dtype == DType::I32 { weight_16a16w(compat) } else { act.clone() }
}

/// The weight of `get_16a16w_qnn_ptq_config()`.
fn weight_16a16w(compat: Compat) -> QuantizationSpec {
    let config = ModuleQConfig::new(QuantDtype::Use16a16w, compat).per_tensor();
    // The configuration has a weight; the fallback is never taken.
    config.weight.unwrap_or_else(|| QuantizationSpec {
        dtype: DType::I16,
        quant_min: Some(-32767),
        quant_max: Some(32767),
        qscheme: Some(QScheme::PerTensorSymmetric),
        ch_axis: Some(0),
        observer: ObserverCtr::new(ObserverKind::MinMax),
        is_dynamic: false,
    })
}

/// 0 to 1 in whole steps of the codes.
fn of_sigmoid(out: &QuantizationSpec) -> Option<QuantizationSpec> {
    let (lo, hi) = out.quant_range().ok()?;
    Some(QuantizationSpec {
        quant_min: Some(lo),
        quant_max: Some(hi),
        qscheme: Some(QScheme::PerTensorAffine),
        ch_axis: None,
        observer: ObserverCtr::fixed_qparams(1.0 / (hi - lo + 1) as f64, 0),
        ..out.clone()
    })
}

/// With 16 bits −1 to 1, as QNN demands.
fn of_tanh(out: &QuantizationSpec) -> QuantizationSpec {
    if out.dtype != DType::I32 {
        return out.clone();
    }
    QuantizationSpec {
        qscheme: Some(QScheme::PerTensorAffine),
        ch_axis: None,
        observer: ObserverCtr::fixed_qparams(1.0 / 32768.0, 32768),
        ..out.clone()
    }
}
