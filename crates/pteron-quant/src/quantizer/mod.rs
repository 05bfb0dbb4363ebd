//! Quantizers: they annotate a graph's nodes with how their tensors are quantized, and do nothing else.

mod coreml;
mod embedding;
mod linear;
mod qnn;
mod rules;
mod xnnpack;

pub use embedding::EmbeddingQuantizer;
pub use qnn::{ModulePredicate, QnnQuantizer};

use pteron_ir::pass::{Pass, PassContext, Runner};
use pteron_ir::passes::DECOMPOSE;
use pteron_ir::{Graph, Module, NodeId, Op};

use crate::annotation::{Annotations, QuantizationConfig};
use crate::error::SpecError;
use crate::pt2e::QuantizeError;
use crate::scheme::{AppliesTo, Patterns, SchemeSpecs};
use rules::Rules;

/// Annotates.
pub trait Quantizer: std::fmt::Debug {
    /// Its name, for messages.
    fn name(&self) -> &str;

    /// PT2E's `transform_for_annotation`: brings the module to the operators that the rules know, without a change of what it
    /// computes. The default does nothing.
    ///
    /// # Errors
    /// [`QuantizeError`] if an operator cannot be replaced.
    fn transform_for_annotation(&self, module: &mut Module) -> Result<(), QuantizeError> {
        let _ = module;
        Ok(())
    }

    /// Writes annotations for the nodes of `graph` of `module`. Nodes that are annotated already are left alone.
    ///
    /// # Errors
    /// [`SpecError`] if a spec cannot be put on a node.
    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError>;

    /// Changes constants that the annotations cannot hold, as `QnnQuantizer` does with infinities, before anything is
    /// observed. The default does nothing.
    ///
    /// # Errors
    /// [`QuantizeError`] naming the constant.
    fn adjust(&self, module: &mut Module, graph: &mut Graph, annotations: &Annotations) -> Result<(), QuantizeError> {
        let _ = (module, graph, annotations);
        Ok(())
    }
}

/// A quantizer that puts one configuration on the patterns of operators that a backend knows.
#[derive(Clone, Debug)]
pub struct PatternQuantizer {
    name: String,
    config: QuantizationConfig,
    /// Operators that the patterns do not know: they are taken apart.
    lacking: &'static [Op],
    /// Annotates the patterns among a graph's nodes, which stand in the order in which they are computed.
    annotate: fn(Rules<'_>, &[NodeId], &QuantizationConfig),
}

impl Quantizer for PatternQuantizer {
    fn name(&self) -> &str {
        &self.name
    }

    fn transform_for_annotation(&self, module: &mut Module) -> Result<(), QuantizeError> {
        match self.lacking {
            [] => Ok(()),
            lacking => decompose(module, lacking),
        }
    }

    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        self.config.validate()?;
        (self.annotate)(Rules::new(module, graph, annotations), &graph.all_nodes(), &self.config);
        Ok(())
    }
}

/// The quantizers of a scheme.
///
/// # Errors
/// A scheme whose backend's rules are not known here, by its name.
pub fn of_scheme(name: &str, specs: &SchemeSpecs) -> Result<Vec<Box<dyn Quantizer>>, String> {
    if let Patterns::Qnn(config) = specs.patterns {
        let quantizer = QnnQuantizer::new(name, config).with_custom_annotations(specs.custom_annotations.clone());
        return Ok(vec![Box::new(quantizer)]);
    }
    let one = |rule: &crate::scheme::Rule| -> Result<Box<dyn Quantizer>, String> {
        let config = rule.config.clone();
        Ok(match (rule.applies_to, specs.patterns) {
            (AppliesTo::Linear, _) => Box::new(PatternQuantizer::linear(name, config)),
            (AppliesTo::Embedding, _) => Box::new(EmbeddingQuantizer::new(config)),
            (AppliesTo::Everything, Patterns::Xnnpack) => Box::new(PatternQuantizer::xnnpack(name, config)),
            (AppliesTo::Everything, Patterns::CoreMl) => Box::new(PatternQuantizer::core_ml(name, config)),
            (AppliesTo::BlockSizeMap | AppliesTo::ConvAndLinear | AppliesTo::Everything, _) => {
                let what = rule.applies_to.describe();
                return Err(format!("the scheme {name} annotates {what}, which is not built yet"));
            }
        })
    };
    specs.rules.iter().map(one).collect()
}

/// Runs passes for a target that has these operators.
fn transform(module: &mut Module, passes: &[Pass], has: &dyn Fn(Op) -> bool) -> Result<(), QuantizeError> {
    let ran = Runner::new(passes.iter().copied()).run(module, &PassContext::new(has));
    ran.map(drop).map_err(|e| QuantizeError::Transform { reason: e.to_string() })
}

/// Replaces the operators of `lacking` in all graphs by those that they are made of.
pub(crate) fn decompose(module: &mut Module, lacking: &[Op]) -> Result<(), QuantizeError> {
    // Attention is made of operators of numbers, which go last.
    const OF_NUMBERS: [Op; 4] = [Op::AddScalar, Op::SubScalar, Op::MulScalar, Op::DivScalar];
    for all in [false, true] {
        transform(module, &[DECOMPOSE], &|op| !lacking.contains(&op) || (!all && OF_NUMBERS.contains(&op)))?;
    }
    Ok(())
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

    fn transform_for_annotation(&self, module: &mut Module) -> Result<(), QuantizeError> {
        self.quantizers.iter().try_for_each(|q| q.transform_for_annotation(module))
    }

    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        for q in &self.quantizers {
            let before = annotations.clone();
            q.annotate(module, graph, annotations)?;
            if let Some(node) = before.overwritten_in(annotations).first() {
                let problem = format!("was changed by {}, which came later", q.name());
                return Err(SpecError::Reference { point: format!("node {node}"), problem });
            }
        }
        Ok(())
    }

    fn adjust(&self, module: &mut Module, graph: &mut Graph, annotations: &Annotations) -> Result<(), QuantizeError> {
        self.quantizers.iter().try_for_each(|q| q.adjust(module, graph, annotations))
    }
}
