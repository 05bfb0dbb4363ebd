//! Core ML's static patterns.

use pteron_ir::{Graph, Module, NodeId, Op};

use super::rules::Rules;
use super::{Quantizer, decompose};
use crate::annotation::{Annotations, InputIndex, QuantizationConfig};
use crate::error::SpecError;
use crate::pt2e::QuantizeError;
use crate::spec::Spec;

/// What is captured whole here and is not in the graphs that ExecuTorch's Llama gives its quantizer.
const LACKING: &[Op] = &[Op::RmsNorm, Op::Rope];

/// ExecuTorch's `CoreMLQuantizer` with a static configuration for the whole model: linear layers, convolutions, sums, products
/// and products of matrices, each also with an activation function behind it, whose output is then quantized in its place
/// (`coremltools/optimize/torch/quantization/_coreml_quantizer_utils.py`).
#[derive(Clone, Debug)]
pub struct CoreMlQuantizer {
    name: String,
    config: QuantizationConfig,
}

impl CoreMlQuantizer {
    /// A quantizer that messages call `name`.
    pub fn new(name: &str, config: QuantizationConfig) -> CoreMlQuantizer {
        CoreMlQuantizer { name: name.to_owned(), config }
    }
}

impl Quantizer for CoreMlQuantizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn transform_for_annotation(&self, module: &mut Module) -> Result<(), QuantizeError> {
        decompose(module, LACKING)
    }

    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        self.config.validate()?;
        let mut rules = Rules::new(module, graph, annotations);
        for n in graph.all_nodes() {
            let op = graph.nodes[n].op;
            let known = matches!(op, Op::Linear | Op::Convolution | Op::Add | Op::Mul | Op::Bmm | Op::Mm);
            if !known || rules.is_annotated(n) {
                continue;
            }
            let behind = activation_behind(&rules, n);
            match op {
                Op::Linear | Op::Convolution => rules.weighted(n, &self.config, None, behind.is_none()),
                _ => match operands(&rules, n, &self.config) {
                    None => continue,
                    Some(inputs) => {
                        let output = self.config.output_activation.clone().map(Spec::from);
                        rules.set(n, inputs, output.filter(|_| behind.is_none()));
                    }
                },
            }
            if let Some(behind) = behind {
                rules.set(behind, Vec::new(), self.config.output_activation.clone().map(Spec::from));
            }
        }
        Ok(())
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
