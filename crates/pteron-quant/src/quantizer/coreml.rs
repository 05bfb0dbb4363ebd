//! Core ML's static patterns.

use pteron_ir::{NodeId, Op};

use super::PatternQuantizer;
use super::rules::Rules;
use crate::annotation::{InputIndex, QuantizationConfig};
use crate::spec::Spec;

/// What is captured whole here and is not in the graphs that ExecuTorch's Llama gives its quantizer.
const LACKING: &[Op] = &[Op::RmsNorm, Op::Rope];

impl PatternQuantizer {
    /// ExecuTorch's `CoreMLQuantizer` with a static configuration for the whole model: linear layers, convolutions, sums,
    /// products and products of matrices, each also with an activation function behind it, whose output is then quantized in its
    /// place (`coremltools/optimize/torch/quantization/_coreml_quantizer_utils.py`). Messages call it `name`.
    pub fn core_ml(name: &str, config: QuantizationConfig) -> PatternQuantizer {
        PatternQuantizer { name: name.to_owned(), config, lacking: LACKING, annotate }
    }
}

fn annotate(mut rules: Rules<'_>, nodes: &[NodeId], config: &QuantizationConfig) {
    for &n in nodes {
        let op = rules.node(n).op;
        let known = matches!(op, Op::Linear | Op::Convolution | Op::Add | Op::Mul | Op::Bmm | Op::Mm);
        if !known || rules.is_annotated(n) {
            continue;
        }
        let behind = activation_behind(&rules, n);
        let output = || config.output_activation.clone().map(Spec::from);
        match op {
            Op::Linear | Op::Convolution => rules.weighted(n, config, None, behind.is_none()),
            _ => match operands(&rules, n, config) {
                None => continue,
                Some(inputs) => rules.set(n, inputs, output().filter(|_| behind.is_none())),
            },
        }
        if let Some(behind) = behind {
            rules.set(behind, Vec::new(), output());
        }
    }
}

/// The activation function that alone reads what `n` gives.
fn activation_behind(rules: &Rules<'_>, n: NodeId) -> Option<NodeId> {
    let reader = rules.only_reader(rules.output(n)?)?;
    let is_activation = matches!(
        rules.node(reader).op,
        Op::Relu | Op::Silu | Op::Gelu | Op::Sigmoid | Op::Tanh | Op::Softmax | Op::LogSoftmax
    );
    (is_activation && !rules.is_annotated(reader)).then_some(reader)
}

/// The specs of an operator's two operands; a number is none of them. `None` where the pattern does not match: a tensor by
/// itself, or other types than floats.
fn operands(rules: &Rules<'_>, n: NodeId, config: &QuantizationConfig) -> Option<Vec<(InputIndex, Spec)>> {
    let (a, b) = (rules.input(n, 0)?, rules.input(n, 1)?);
    if a == b || ![a, b].into_iter().all(|v| rules.dtype(v).is_some_and(|d| d.is_float())) {
        return None;
    }
    let spec = config.input_activation.as_ref()?;
    let tensors = [(0, a), (1, b)].into_iter().filter(|&(_, v)| rules.scalar_constant(v).is_none());
    Some(tensors.map(|(arg, _)| (InputIndex::arg(arg), spec.clone().into())).collect())
}
