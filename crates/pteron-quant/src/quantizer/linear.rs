//! Linear layers.

use pteron_ir::{Arg, Graph, Op};

use super::Quantizer;
use crate::annotation::{Annotations, BiasSpec, InputIndex, Point, QuantizationConfig};
use crate::error::SpecError;
use crate::format::QScheme;
use crate::spec::{DeriveQParams, DerivedQuantizationSpec, Spec};

/// Arguments of `aten::linear(input, weight, bias)`.
const INPUT: u16 = 0;
const WEIGHT: u16 = 1;
const BIAS: u16 = 2;

/// Annotates every `aten::linear` with one configuration: what ExecuTorch's `XNNPACKQuantizer` does with a dynamic
/// configuration, and `VulkanQuantizer` with a weight-only one (`_annotate_linear` of their `*_quantizer_utils.py`).
#[derive(Clone, Debug)]
pub struct LinearQuantizer {
    name: String,
    config: QuantizationConfig,
}

impl LinearQuantizer {
    /// A quantizer that messages call `name`.
    pub fn new(name: &str, config: QuantizationConfig) -> LinearQuantizer {
        LinearQuantizer { name: name.to_owned(), config }
    }
}

impl Quantizer for LinearQuantizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn annotate(&self, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        self.config.validate()?;
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            if node.op != Op::Linear || annotations.is_annotated(node.handle) {
                continue;
            }
            let at = annotations.at(node.handle);
            at.annotated = true;
            if let Some(spec) = &self.config.input_activation {
                at.set_input(InputIndex::arg(INPUT), spec.clone());
            }
            if let Some(spec) = &self.config.weight {
                at.set_input(InputIndex::arg(WEIGHT), spec.clone());
            }
            if matches!(node.args.get(usize::from(BIAS)), Some(Arg::Value(_))) {
                match &self.config.bias {
                    None => {}
                    Some(BiasSpec::Observed(spec)) => at.set_input(InputIndex::arg(BIAS), spec.clone()),
                    Some(BiasSpec::Derived) => {
                        let per_channel =
                            self.config.weight.as_ref().is_some_and(|w| w.effective_qscheme().is_per_channel());
                        let spec = DerivedQuantizationSpec {
                            derived_from: vec![Point::edge(node.handle, INPUT), Point::edge(node.handle, WEIGHT)],
                            derive: DeriveQParams::Bias { repeat: 1 },
                            dtype: pteron_tensor::DType::I32,
                            quant_min: Some(i64::from(i32::MIN)),
                            quant_max: Some(i64::from(i32::MAX)),
                            qscheme: Some(if per_channel {
                                QScheme::PerChannelSymmetric
                            } else {
                                QScheme::PerTensorSymmetric
                            }),
                            ch_axis: per_channel.then_some(0),
                            is_dynamic: false,
                        };
                        at.set_input(InputIndex::arg(BIAS), Spec::Derived(spec));
                    }
                }
            }
            if let Some(spec) = &self.config.output_activation {
                at.set_output(0, spec.clone());
            }
        }
        Ok(())
    }
}
