//! What of a captured model is quantized, and how.

use std::sync::Arc;

use pteron_ir::Module;
use pteron_kernels::Context;
use pteron_quant::annotation::Annotations;
use pteron_quant::moments::Moments;
use pteron_quant::pt2e::{convert, fuse_embeddings, observe_constants, prepare};
use pteron_quant::quantizer::{ComposableQuantizer, Quantizer, of_scheme};
use pteron_quant::scheme::{Compat, Scheme};
use pteron_quant::transform::{Algorithm, EmbeddingMode, LayerChoice, LayerKind, LinearMode, Transform};

use crate::error::Error;

/// Which quantization an export applies: one of ExecuTorch's source transforms (`--quantization-mode`,
/// `--embedding-quantize`), or PT2E schemes (`--pt2e-quantize`).
#[derive(Clone, Debug, Default)]
pub struct Quantization {
    /// Linear layers, as a source transform.
    pub linear: Option<LinearMode>,
    /// Embeddings, as a source transform.
    pub embedding: Option<EmbeddingMode>,
    /// How the source transforms choose scales.
    pub algorithm: Algorithm,
    /// What `mse` weighs the errors of weights by; unweighted if `None`.
    pub moments: Option<Arc<Moments>>,
    /// Names of PT2E schemes with commas between them.
    pub pt2e: Option<String>,
    /// Whose numbers the schemes take.
    pub compat: Compat,
}

/// What was quantized.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QuantizationReport {
    /// The modes and schemes by their names, with group sizes and the algorithm.
    pub scheme: String,
    /// Layers that were quantized.
    pub layers: usize,
    /// Layers that stay float: module path and reason.
    pub kept_float: Vec<(String, String)>,
}

impl Quantization {
    /// True if nothing is quantized.
    pub fn is_none(&self) -> bool {
        self.linear.is_none() && self.embedding.is_none() && self.pt2e.is_none()
    }

    /// Checks what can be checked before any work.
    ///
    /// # Errors
    /// [`Error::Quantize`] for a scheme that is not known, or needs what is not built; for source transforms of linear
    /// layers together with PT2E.
    pub fn validate(&self) -> Result<(), Error> {
        let Some(names) = &self.pt2e else { return Ok(()) };
        if self.linear.is_some() {
            let reason = "--quantization-mode and --pt2e-quantize both quantize linear layers; give one of them";
            return Err(Error::Quantize { reason: reason.to_owned() });
        }
        for scheme in Scheme::parse_list(names).map_err(wrong)? {
            let specs = scheme.specs(self.compat).map_err(wrong)?;
            if specs.needs_calibration() {
                let reason = format!(
                    "the scheme {} learns the ranges of activations from calibration data, which is not built yet; dynamic \
                     and weight-only schemes are: xnnpack_dynamic, xnnpack_dynamic_qc4, vulkan_8w, coreml_c4w, embedding",
                    scheme.name
                );
                return Err(Error::Quantize { reason });
            }
        }
        Ok(())
    }

    /// Quantizes a captured module, computing on the threads of `ctx`; `progress` is called with the layers done and all.
    ///
    /// # Errors
    /// [`Error::Quantize`] naming the layer or the weight.
    pub fn apply(
        &self,
        module: &mut Module,
        ctx: &Context,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<QuantizationReport, Error> {
        self.validate()?;
        let mut names = Vec::new();
        let (mut layers, mut kept_float) = (0, Vec::new());
        if self.linear.is_some() || self.embedding.is_some() {
            let choose = |_: &str, kind: LayerKind| match kind {
                LayerKind::Linear => self.linear.map(|l| LayerChoice::Linear(l, self.algorithm)),
                LayerKind::Embedding => self.embedding.map(|e| LayerChoice::Embedding(e, self.algorithm)),
            };
            let report = Transform::new(&choose).apply(module, self.moments.as_deref(), ctx, progress).map_err(wrong)?;
            layers += report.quantized;
            kept_float.extend(report.kept);
            names.extend(
                self.linear
                    .map(|m| describe(m.name(), group_of(m), Some(self.algorithm).filter(|_| m != LinearMode::Int8))),
            );
            names.extend(
                self.embedding
                    .map(|e| describe(&format!("embedding {} bits", e.bits), Some(e.group), Some(self.algorithm))),
            );
        }
        if let Some(list) = &self.pt2e {
            layers += self.pt2e(module, list)?;
            names.push(list.clone());
        }
        Ok(QuantizationReport { scheme: names.join("; "), layers, kept_float })
    }

    fn pt2e(&self, module: &mut Module, list: &str) -> Result<usize, Error> {
        let mut quantizers: Vec<Box<dyn Quantizer>> = Vec::new();
        for scheme in Scheme::parse_list(list).map_err(wrong)? {
            let specs = scheme.specs(self.compat).map_err(wrong)?;
            quantizers.extend(of_scheme(scheme.name, &specs).map_err(wrong)?);
        }
        let quantizer = ComposableQuantizer::new(quantizers);
        let mut graphs = std::mem::take(&mut module.graphs);
        let mut folded = 0;
        for graph in &mut graphs {
            let mut annotations = Annotations::new();
            quantizer.annotate(graph, &mut annotations).map_err(wrong)?;
            let mut prepared = prepare(module, graph, &annotations).map_err(wrong)?;
            observe_constants(module, graph, &mut prepared).map_err(wrong)?;
            let converted = convert(module, graph, &prepared).map_err(wrong)?;
            fuse_embeddings(graph).map_err(wrong)?;
            folded += converted.folded;
        }
        module.graphs = graphs;
        if folded == 0 {
            return Err(Error::Quantize { reason: format!("{list}: the model has no layer that it quantizes") });
        }
        Ok(folded)
    }
}

fn group_of(m: LinearMode) -> Option<usize> {
    match m {
        LinearMode::Int8 => None,
        LinearMode::Int8DynActInt4Weight { group } | LinearMode::Int4Weight { group } => Some(group),
    }
}

fn describe(name: &str, group: Option<usize>, algorithm: Option<Algorithm>) -> String {
    let group = match group {
        Some(0) => ", a scale for each row".to_owned(),
        Some(g) => format!(", groups of {g}"),
        None => String::new(),
    };
    let algorithm = algorithm.map_or_else(String::new, |a| format!(", {a}"));
    format!("{name}{group}{algorithm}")
}

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::Quantize { reason: e.to_string() }
}
