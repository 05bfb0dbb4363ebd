//! What of a captured model is quantized, and how.

use pteron_ir::Module;
use pteron_kernels::Context;
use pteron_quant::moments::Moments;
use pteron_quant::pt2e::{convert_module, fuse_embeddings, parameters, prepare_module};
use pteron_quant::quantizer::{ComposableQuantizer, Quantizer, of_scheme};
use pteron_quant::recipe::Recipe;
use pteron_quant::transform::Transform;

use crate::error::Error;

/// What was quantized.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QuantizationReport {
    /// The recipe in a few words: modes and schemes by their names, with group sizes and the algorithm.
    pub scheme: String,
    /// Layers that were quantized.
    pub layers: usize,
    /// Layers that stay float: module path and reason.
    pub kept_float: Vec<(String, String)>,
}

/// Checks what can be checked before any work.
///
/// # Errors
/// [`Error::Quantize`] for a recipe that contradicts itself or needs what is not built.
pub fn check(recipe: &Recipe) -> Result<(), Error> {
    recipe.validate().map_err(wrong)?;
    if recipe.needs_calibration().map_err(wrong)? {
        let reason = format!(
            "the scheme {} learns the ranges of activations from calibration data, which is not built yet; dynamic and \
             weight-only schemes are: xnnpack_dynamic, xnnpack_dynamic_qc4, vulkan_8w, coreml_c4w, embedding",
            recipe.base.pt2e.as_deref().unwrap_or_default()
        );
        return Err(Error::Quantize { reason });
    }
    Ok(())
}

/// Quantizes a captured module, computing on the threads of `ctx`; the algorithm `mse` weighs the errors of weights by
/// `moments`. `progress` is called with the layers done and all.
///
/// # Errors
/// [`Error::Quantize`] naming the rule, the layer or the weight.
pub fn apply(
    recipe: &Recipe,
    module: &mut Module,
    moments: Option<&Moments>,
    ctx: &Context,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<QuantizationReport, Error> {
    check(recipe)?;
    let resolved = recipe.resolve(module).map_err(wrong)?;
    let (mut layers, mut kept_float) = (0, Vec::new());
    if recipe.base.linear.is_some() || recipe.base.embedding.is_some() || resolved.transforms(module) {
        let choose = |path: &str, kind| resolved.layer(path, kind);
        let report = Transform::new(&choose).apply(module, moments, ctx, progress).map_err(wrong)?;
        layers += report.quantized;
        kept_float.extend(report.kept);
    }
    if recipe.base.pt2e.is_some() {
        layers += pt2e(recipe, module)?;
    }
    Ok(QuantizationReport { scheme: recipe.describe(), layers, kept_float })
}

fn pt2e(recipe: &Recipe, module: &mut Module) -> Result<usize, Error> {
    let mut quantizers: Vec<Box<dyn Quantizer>> = Vec::new();
    for scheme in recipe.schemes().map_err(wrong)? {
        let specs = scheme.specs(recipe.base.compat).map_err(wrong)?;
        quantizers.extend(of_scheme(scheme.name, &specs).map_err(wrong)?);
    }
    let quantizer = ComposableQuantizer::new(quantizers);
    let prepared = prepare_module(module, &quantizer).map_err(wrong)?;
    let params = module.graphs.iter().zip(&prepared).map(|(g, p)| parameters(g, p));
    let params = params.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    let converted = convert_module(module, &prepared, &params).map_err(wrong)?;
    for graph in &mut module.graphs {
        fuse_embeddings(graph).map_err(wrong)?;
    }
    let folded: usize = converted.iter().map(|c| c.folded).sum();
    if folded == 0 {
        let list = recipe.base.pt2e.as_deref().unwrap_or_default();
        return Err(Error::Quantize { reason: format!("{list}: the model has no layer that it quantizes") });
    }
    Ok(folded)
}

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::Quantize { reason: e.to_string() }
}
