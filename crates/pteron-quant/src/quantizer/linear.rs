//! Linear layers.

use pteron_ir::{Graph, Module, Op};

use super::Quantizer;
use super::rules::Rules;
use crate::annotation::{Annotations, QuantizationConfig};
use crate::error::SpecError;

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

    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        self.config.validate()?;
        let mut rules = Rules::new(module, graph, annotations);
        for n in graph.all_nodes() {
            if graph.nodes[n].op == Op::Linear && !rules.is_annotated(n) {
                rules.weighted(n, &self.config, None, true);
            }
        }
        Ok(())
    }
}
