//! All graphs of a module at once.

use pteron_ir::{Module, verify};

use super::QuantizeError;
use super::calibrate::observe_constants;
use super::convert::{Converted, Folded, convert_with};
use super::params::SlotParams;
use super::prepare::{PreparedGraph, prepare};
use crate::annotation::Annotations;
use crate::quantizer::Quantizer;

/// PT2E's `prepare_pt2e` over a module: brings it to the operators that `quantizer` knows, annotates each graph, places
/// observers and shows them the constants. The module computes what it did; it is the one to run for calibration.
///
/// # Errors
/// [`QuantizeError`] naming the graph and the tensor.
pub fn prepare_module(module: &mut Module, quantizer: &dyn Quantizer) -> Result<Vec<PreparedGraph>, QuantizeError> {
    quantizer.transform_for_annotation(module)?;
    let mut graphs = std::mem::take(&mut module.graphs);
    let prepared = graphs.iter_mut().map(|graph| {
        let mut annotations = Annotations::new();
        quantizer.annotate(module, graph, &mut annotations)?;
        quantizer.adjust(module, graph, &annotations)?;
        let mut prepared = prepare(module, graph, &annotations)?;
        observe_constants(module, graph, &mut prepared)?;
        Ok(prepared)
    });
    let prepared = prepared.collect::<Result<Vec<_>, QuantizeError>>();
    module.graphs = graphs;
    prepared
}

/// PT2E's `convert_pt2e` over a module: quantize and dequantize nodes in every graph, with the parameters of its slots, as
/// [`super::parameters`] or [`super::Encodings::apply`] gives them. A constant that several graphs quantize alike is folded once.
///
/// # Errors
/// [`QuantizeError`]; [`QuantizeError::Transform`] if graphs and prepared graphs are not the same.
pub fn convert_module(
    module: &mut Module,
    prepared: &[PreparedGraph],
    params: &[Vec<SlotParams>],
) -> Result<Vec<Converted>, QuantizeError> {
    let names = module.graphs.iter().map(|g| &g.name);
    if !names.eq(prepared.iter().map(|p| &p.graph)) || prepared.len() != params.len() {
        let reason = "other graphs were prepared than the module has".to_owned();
        return Err(QuantizeError::Transform { reason });
    }
    let mut folded = Folded::default();
    let mut graphs = std::mem::take(&mut module.graphs);
    let converted = graphs.iter_mut().zip(prepared).zip(params);
    let converted = converted.map(|((g, p), params)| convert_with(module, g, p, params.clone(), &mut folded));
    let converted = converted.collect::<Result<Vec<_>, _>>();
    module.graphs = graphs;
    let converted = converted?;
    match verify::module(module) {
        Ok(()) => Ok(converted),
        Err(errors) => Err(QuantizeError::Transform { reason: errors.to_string() }),
    }
}
