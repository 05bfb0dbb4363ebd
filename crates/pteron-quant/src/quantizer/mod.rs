//! Quantizers: they annotate a graph's nodes with how their tensors are quantized, and do nothing else.

mod embedding;
mod linear;

pub use embedding::EmbeddingQuantizer;
pub use linear::LinearQuantizer;

use pteron_ir::Graph;

use crate::annotation::Annotations;
use crate::error::SpecError;
use crate::scheme::{AppliesTo, SchemeSpecs};

/// Annotates.
pub trait Quantizer: std::fmt::Debug {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// Writes annotations for the nodes of `graph`. Nodes that are annotated already are left alone.
    ///
    /// # Errors
    /// [`SpecError`] if a spec cannot be put on a node.
    fn annotate(&self, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError>;
}

/// The quantizers of a scheme whose rules are for linear layers and embeddings.
///
/// # Errors
/// A rule for other operators, by its name: their annotators are not built yet.
pub fn of_scheme(name: &str, specs: &SchemeSpecs) -> Result<Vec<Box<dyn Quantizer>>, String> {
    let one = |rule: &crate::scheme::Rule| -> Result<Box<dyn Quantizer>, String> {
        match rule.applies_to {
            AppliesTo::Linear => Ok(Box::new(LinearQuantizer::new(name, rule.config.clone()))),
            AppliesTo::Embedding => Ok(Box::new(EmbeddingQuantizer::new(rule.config.clone()))),
            AppliesTo::BlockSizeMap | AppliesTo::ConvAndLinear | AppliesTo::Everything => {
                Err(format!("the scheme {name} annotates {}, which is not built yet", rule.applies_to.describe()))
            }
        }
    };
    specs.rules.iter().map(one).collect()
}

/// PT2E's `ComposableQuantizer`: runs quantizers one after the other and refuses one that changes what an earlier one wrote.
#[derive(Debug, Default)]
pub struct ComposableQuantizer {
    quantizers: Vec<Box<dyn Quantizer>>,
}

impl ComposableQuantizer {
    /// Of these, in this order.
    pub fn new(quantizers: Vec<Box<dyn Quantizer>>) -> ComposableQuantizer {
        ComposableQuantizer { quantizers }
    }
}

impl Quantizer for ComposableQuantizer {
    fn name(&self) -> &str {
        "ComposableQuantizer"
    }

    fn annotate(&self, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        for q in &self.quantizers {
            let before = annotations.clone();
            q.annotate(graph, annotations)?;
            if let Some(node) = before.overwritten_in(annotations).first() {
                let problem = format!("was changed by {}, which came later", q.name());
                return Err(SpecError::Reference { point: format!("node {node}"), problem });
            }
        }
        Ok(())
    }
}
