//! Embeddings.

use pteron_ir::{Graph, Module, Op};

use super::Quantizer;
use crate::annotation::{Annotations, InputIndex, QuantizationConfig};
use crate::error::SpecError;

/// The argument of `aten::embedding(weight, indices)` that is the weight.
const WEIGHT: u16 = 0;

/// torchao's `EmbeddingQuantizer`: annotates the weight of every `aten::embedding`.
#[derive(Clone, Debug)]
pub struct EmbeddingQuantizer {
    config: QuantizationConfig,
}

impl EmbeddingQuantizer {
    /// A quantizer with the weight's spec of `config`.
    pub fn new(config: QuantizationConfig) -> EmbeddingQuantizer {
        EmbeddingQuantizer { config }
    }
}

impl Quantizer for EmbeddingQuantizer {
    fn name(&self) -> &str {
        "embedding"
    }

    fn annotate(&self, _: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        self.config.validate()?;
        let Some(spec) = &self.config.weight else { return Ok(()) };
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            if node.op != Op::Embedding || annotations.is_annotated(node.handle) {
                continue;
            }
            let at = annotations.at(node.handle);
            at.annotated = true;
            at.set_input(InputIndex::arg(WEIGHT), spec.clone());
        }
        Ok(())
    }
}
