//! What of a captured model is quantized, and how: source transforms, then PT2E, calibrated and measured.

use std::collections::BTreeSet;
use std::path::Path;

use pteron_ir::Module;
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::passes;
use pteron_kernels::Context;
use pteron_models::PreQuantized;
use pteron_quant::moments::Moments;
use pteron_quant::pt2e::{
    Encodings, PreparedGraph, QuantizeError, SlotParams, convert_module, fuse_embeddings, parameters, prepare_module,
    put_on_lpbq_grid,
};
use pteron_quant::quantizer::Quantizer;
use pteron_quant::recipe::{Base, Change, Pattern, Plan, Recipe, RecipeQuantizer, Resolved, Rule};
use pteron_quant::state::CalibrationState;
use pteron_quant::transform::{Algorithm, EmbeddingMode, LayerKind, LinearMode, Lookup, Transform, TransformReport};

use crate::calibration::{
    CalibrationData, CalibrationOptions, CalibrationReport, EvaluationOptions, ExportEvaluation, Feed, Passes, Probe,
    hex, measure,
};
use crate::error::Error;
use crate::program::LoadOptions;

/// What was quantized.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QuantizationReport {
    /// The recipe in a few words: modes and schemes by their names, with group sizes and the algorithm.
    pub scheme: String,
    /// Layers that were quantized.
    pub layers: usize,
    /// Those of them whose codes are the checkpoint's, taken over as they are.
    pub taken_over: usize,
    /// Layers that stay float: module path and reason.
    pub kept_float: Vec<(String, String)>,
    /// What it was calibrated with, if it was.
    pub calibration: Option<CalibrationReport>,
    /// Which scales are trained ones, if the checkpoint was trained for this recipe.
    pub trained: Option<TrainedScales>,
    /// How far it is from the float model.
    pub evaluation: Option<ExportEvaluation>,
    /// Why that was not measured, if it was not.
    pub not_evaluated: Option<String>,
    /// The recipe as TOML.
    #[serde(skip)]
    pub recipe: String,
    /// What became of each operator, a line each.
    #[serde(skip)]
    pub plan: String,
}

/// Where the scales of a model that was trained with its quantization simulated come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TrainedScales {
    /// Scales that training found.
    pub trained: usize,
    /// Scales of tensors that the trained form does not have, learnt from calibration data.
    pub calibrated: usize,
}

/// What a quantization is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Choosing scales of weights: layers done, and all.
    Weights(usize, usize),
    /// Running calibration data: windows done, and all.
    Calibrating(usize, usize),
    /// Measuring the model: tokens done, and all.
    Evaluating(usize, usize),
}

/// Checks what can be checked before any work.
///
/// # Errors
/// [`Error::Quantize`] for a recipe that contradicts itself, or for a scheme whose quantizer is not there.
pub fn check(recipe: &Recipe) -> Result<(), Error> {
    recipe.validate().map_err(wrong)
}

/// What the codes of a pre-quantized checkpoint are quantized as.
pub(crate) fn pre_quantized(layout: PreQuantized) -> Recipe {
    let embedding = EmbeddingMode { bits: layout.embedding_bits, group: layout.embedding_group };
    let base = Base {
        linear: Some(LinearMode::Int8DynActInt4Weight { group: layout.group }),
        embedding: Some(embedding),
        algorithm: Some(Algorithm::Stored),
        ..Base::default()
    };
    let output = LinearMode::Int8DynActInt8Weight { group: 0 };
    let change = Change { mode: Some(output.name().to_owned()), group: output.group(), ..Change::default() };
    let output = Pattern::new("lm_head").ok().filter(|_| layout.output_of_8_bits);
    Recipe { base, rules: output.into_iter().map(|path| Rule { path, change: change.clone() }).collect() }
}

/// Checks that a static scheme has something to learn from.
///
/// # Errors
/// [`Error::Quantize`] that says how to get data.
pub fn check_data(recipe: &Recipe, calibration: &CalibrationOptions) -> Result<(), Error> {
    match calibration.is_none() && recipe.needs_calibration().map_err(wrong)? {
        true => Err(needs_data(recipe)),
        false => Ok(()),
    }
}

/// The sentence for a static scheme without data.
pub(crate) fn needs_data(recipe: &Recipe) -> Error {
    let scheme = recipe.base.pt2e.as_deref().unwrap_or_default();
    Error::Quantize {
        reason: format!(
            "{scheme} is a static scheme, whose ranges of activations are learnt from text: give a few hundred lines of what \
             the model will read with --calibration-data FILE (text or JSON Lines), or a state that `pteron calibrate` wrote \
             with --calibration-state FILE; xnnpack_dynamic and the modes of --quantization-mode need none"
        ),
    }
}

/// A quantization under way: everything that decides its result.
pub(crate) struct Job<'a> {
    /// What messages call the model.
    pub(crate) path: &'a Path,
    pub(crate) recipe: &'a Recipe,
    pub(crate) moments: Option<&'a Moments>,
    /// The codes that the checkpoint has.
    pub(crate) stored: Lookup<'a>,
    pub(crate) data: Option<&'a CalibrationData>,
    pub(crate) state: Option<&'a CalibrationState>,
    /// Parameters that training found, in the place of what observers would learn.
    pub(crate) trained: Option<&'a Encodings>,
    /// What is measured on, if anything is.
    pub(crate) probe: Option<Probe>,
    /// The model in the form that is measured, where the twin is none that text can be run through.
    pub(crate) measured: Option<Module>,
    pub(crate) evaluation: EvaluationOptions,
    pub(crate) threads: usize,
    /// Scales of 4-bit weights in blocks are put on the grid of QNN's blockwise expansion.
    pub(crate) lpbq_grid: bool,
}

/// The twin's share of a recipe in PT2E: its prepared graph, and the parameters that go onto every other graph.
struct Calibrated {
    prepared: PreparedGraph,
    params: Vec<SlotParams>,
    encodings: Encodings,
    report: Option<CalibrationReport>,
    trained: Option<TrainedScales>,
}

impl Job<'_> {
    /// Quantizes `module`. `twin` is the same model in the form that is calibrated and measured: windows of any length, the
    /// logits of all tokens; needed for either. `float` is what it is measured against.
    pub(crate) fn run(
        mut self,
        module: &mut Module,
        mut twin: Option<Module>,
        float: Option<Module>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<QuantizationReport, Error> {
        check(self.recipe)?;
        let resolved = self.recipe.resolve(module).map_err(wrong)?;
        let mut plan = transform_plan(&resolved, module);
        let mut measured = self.measured.take();
        let TransformReport { quantized: mut layers, taken_over, kept: kept_float } =
            self.transform(&resolved, module, twin.as_mut(), measured.as_mut(), progress)?;
        let (mut calibration, mut trained) = (None, None);
        if let Some(quantizer) = resolved.quantizer().map_err(wrong)? {
            let calibrated = match &mut twin {
                Some(twin) => Some(self.calibrate(&quantizer, twin, progress)?),
                None => None,
            };
            layers += self.convert(&quantizer, module, calibrated.as_ref(), &mut plan)?;
            if let Some(measured) = &mut measured {
                self.convert(&quantizer, measured, calibrated.as_ref(), &mut Plan::default())?;
            }
            if let (Some(twin), Some(c)) = (&mut twin, calibrated) {
                convert_module(twin, &[c.prepared], &[c.params]).map_err(wrong)?;
                twin.graphs.iter_mut().try_for_each(|g| fuse_embeddings(g).map(drop)).map_err(wrong)?;
                (calibration, trained) = (c.report, c.trained);
            }
        }
        let mut report = QuantizationReport {
            scheme: self.recipe.describe(),
            layers,
            taken_over,
            kept_float,
            calibration,
            trained,
            evaluation: None,
            not_evaluated: None,
            recipe: self.recipe.to_string(),
            plan: plan.to_string(),
        };
        if let (Some(float), Some(probe), Some(mut measured)) = (float, self.probe.take(), measured.or(twin)) {
            lower(&mut measured)?;
            let load = LoadOptions { threads: Some(self.threads), ..LoadOptions::default() };
            let mut tell = |done, total| progress(Step::Evaluating(done, total));
            let max_kl = self.evaluation.max_kl;
            report.evaluation = Some(measure(self.path, measured, probe, float, max_kl, &load, &mut tell)?);
        }
        Ok(report)
    }

    /// Source transforms of all modules, alike.
    fn transform(
        &self,
        resolved: &Resolved,
        module: &mut Module,
        twin: Option<&mut Module>,
        measured: Option<&mut Module>,
        progress: &mut dyn FnMut(Step),
    ) -> Result<TransformReport, Error> {
        let base = &self.recipe.base;
        if base.linear.is_none() && base.embedding.is_none() && !resolved.transforms(module) {
            return Ok(TransformReport::default());
        }
        let gathered = match (&twin, self.data, self.moments) {
            (Some(twin), Some(data), None) if weighs(resolved, twin) => {
                let feed = Feed { path: self.path, module: twin, windows: &data.windows, threads: self.threads };
                let grams = rounded_together(resolved, twin);
                Some(feed.moments(&|name| grams.contains(name), &mut |done, total| {
                    progress(Step::Calibrating(done, total));
                })?)
            }
            _ => None,
        };
        let moments = self.moments.or(gathered.as_ref());
        let ctx = Context::new(self.threads);
        let choose = |path: &str, kind| resolved.layer(path, kind);
        let mut modules: Vec<&mut Module> = vec![module];
        modules.extend(twin);
        modules.extend(measured);
        let mut tell = |done, total| progress(Step::Weights(done, total));
        let transform = Transform::new(&choose).stored(self.stored);
        transform.apply(&mut modules, moments, &ctx, &mut tell).map_err(wrong)
    }

    /// Prepares the twin and lets its observers see data, where they need some.
    fn calibrate(
        &self,
        quantizer: &RecipeQuantizer,
        twin: &mut Module,
        progress: &mut dyn FnMut(Step),
    ) -> Result<Calibrated, Error> {
        let prepared = prepare_module(twin, quantizer).map_err(wrong)?;
        let (Some(mut prepared), Some(graph)) = (prepared.into_iter().next(), twin.graphs.first()) else {
            return Err(wrong("the model has no graph"));
        };
        let mut report = None;
        if let Some(trained) = self.trained {
            match trained.apply(graph, &prepared) {
                Ok(params) => {
                    let trained_scales = TrainedScales { trained: params.len(), calibrated: 0 };
                    let (encodings, trained) = (trained.clone(), Some(trained_scales));
                    return Ok(Calibrated { prepared, params, encodings, report, trained });
                }
                // What this form has of its own is learnt from data, where there are some.
                Err(_) if self.data.is_some() || self.state.is_some() => {}
                Err(e) => return Err(other_form(&e)),
            }
        }
        if prepared.needs_data(graph) {
            if let Some(state) = self.state {
                prepared.restore(graph, state).map_err(wrong)?;
                let h = &state.header;
                report = Some(CalibrationReport {
                    files: Vec::new(),
                    sha256: hex(&h.data),
                    tokens: h.data_tokens,
                    windows: h.shard.total_windows,
                    window: h.window_tokens as usize,
                    observers: state.len(),
                    kernel_tier: h.kernel_tier.clone(),
                });
            } else if let Some(data) = self.data {
                let feed = Feed { path: self.path, module: twin, windows: &data.windows, threads: self.threads };
                feed.observe(&mut prepared, Passes::Both, &mut |done, total| progress(Step::Calibrating(done, total)))?;
                report = Some(CalibrationReport::of(data, prepared.learning(graph).count()));
            } else {
                return Err(needs_data(self.recipe));
            }
        }
        let mut encodings = Encodings::of(graph, &prepared).map_err(wrong)?;
        let (mut params, mut scales) = (parameters(graph, &prepared).map_err(wrong)?, None);
        if let Some(found) = self.trained {
            let (with, trained, calibrated) = encodings.with_trained(found, &prepared);
            params = with.apply(graph, &prepared).map_err(wrong)?;
            (encodings, scales) = (with, Some(TrainedScales { trained, calibrated }));
        }
        if self.lpbq_grid {
            put_on_lpbq_grid(graph, &prepared, &mut params);
        }
        Ok(Calibrated { prepared, params, encodings, report, trained: scales })
    }

    /// PT2E over the exported module, with the twin's parameters where there is one; gives the number of folded constants.
    fn convert(
        &self,
        quantizer: &RecipeQuantizer,
        module: &mut Module,
        calibrated: Option<&Calibrated>,
        plan: &mut Plan,
    ) -> Result<usize, Error> {
        let prepared = prepare_module(module, quantizer).map_err(wrong)?;
        for graph in &module.graphs {
            plan.layers.extend(quantizer.plan(module, graph).map_err(wrong)?.layers);
        }
        let mut params = Vec::new();
        for (graph, prepared) in module.graphs.iter().zip(&prepared) {
            let mut of_graph = match calibrated.map(|c| &c.encodings).or(self.trained) {
                Some(encodings) => encodings.apply(graph, prepared).map_err(|e| match calibrated {
                    Some(_) => wrong(e),
                    None => other_form(&e),
                })?,
                None if prepared.needs_data(graph) => return Err(needs_data(self.recipe)),
                None => parameters(graph, prepared).map_err(wrong)?,
            };
            if self.lpbq_grid {
                put_on_lpbq_grid(graph, prepared, &mut of_graph);
            }
            params.push(of_graph);
        }
        let converted = convert_module(module, &prepared, &params).map_err(wrong)?;
        module.graphs.iter_mut().try_for_each(|g| fuse_embeddings(g).map(drop)).map_err(wrong)?;
        let folded: usize = converted.iter().map(|c| c.folded).sum();
        if folded == 0 {
            let list = self.recipe.base.pt2e.as_deref().unwrap_or_default();
            return Err(wrong(format!("{list}: the model has no layer that it quantizes")));
        }
        Ok(folded)
    }
}

/// Trained scales do not suffice for the form that is exported.
fn other_form(e: &QuantizeError) -> Error {
    wrong(format!(
        "{e}: the scales were trained in the form without a KV cache, and this one has tensors of its own; give text that their \
         ranges are learnt from with --calibration-data FILE, or export without -kv and --qnn"
    ))
}

/// The module as the exported program computes it.
pub(crate) fn lower(module: &mut Module) -> Result<(), Error> {
    let context = PassContext::new(&passes::executorch_portable);
    let runner = Runner::new([passes::DECOMPOSE, passes::CANONICALIZE, passes::DCE]);
    runner.run(module, &context).map_err(Box::new)?;
    Ok(())
}

/// Takes apart what QNN's rules do not know, in a graph that is not quantized.
pub(crate) fn decompose_for_qnn(module: &mut Module) -> Result<(), Error> {
    let has = |op: pteron_ir::Op| !pteron_quant::quantizer::QnnQuantizer::LACKING.contains(&op);
    Runner::new([passes::DECOMPOSE]).run(module, &PassContext::new(&has)).map_err(Box::new)?;
    Ok(())
}

/// How each linear layer's scales are chosen: the path of its node, and the algorithm.
fn algorithms<'a>(
    resolved: &'a Resolved,
    module: &'a Module,
) -> impl Iterator<Item = (&'a pteron_ir::Graph, pteron_ir::NodeId, Algorithm)> {
    module.graphs.iter().flat_map(move |g| {
        g.all_nodes().into_iter().filter_map(move |n| {
            let node = &g.nodes[n];
            let (kind, _) = LayerKind::of(node.op).filter(|(kind, _)| *kind == LayerKind::Linear)?;
            Some((g, n, resolved.layer(&g.paths[node.path], kind)?.algorithm()))
        })
    })
}

/// Whether a layer's scales or codes are searched with weighed errors.
pub(crate) fn weighs(resolved: &Resolved, module: &Module) -> bool {
    algorithms(resolved, module).any(|(_, _, a)| matches!(a, Algorithm::Mse | Algorithm::Gptq))
}

/// The weights whose codes make up for each other's errors.
pub(crate) fn rounded_together(resolved: &Resolved, module: &Module) -> BTreeSet<String> {
    let weight = |g: &pteron_ir::Graph, n: pteron_ir::NodeId| match g.nodes[n].args.get(1) {
        Some(pteron_ir::Arg::Value(w)) => match g.values[*w].def {
            pteron_ir::Def::Const(c) => Some(module.constants[c].name.to_string()),
            _ => None,
        },
        _ => None,
    };
    let gptq = algorithms(resolved, module).filter(|(_, _, a)| *a == Algorithm::Gptq);
    gptq.filter_map(|(g, n, _)| weight(g, n)).collect()
}

fn transform_plan(resolved: &Resolved, module: &Module) -> Plan {
    Plan { layers: module.graphs.iter().flat_map(|g| resolved.transform_plan(g).layers).collect() }
}

/// What a recipe makes of each operator of a module, which is brought to what the recipe's quantizers know.
///
/// # Errors
/// [`Error::Quantize`] naming the rule.
pub fn plan(recipe: &Recipe, module: &mut Module) -> Result<Plan, Error> {
    check(recipe)?;
    let resolved = recipe.resolve(module).map_err(wrong)?;
    let mut plan = transform_plan(&resolved, module);
    if let Some(quantizer) = resolved.quantizer().map_err(wrong)? {
        quantizer.transform_for_annotation(module).map_err(wrong)?;
        for graph in &module.graphs {
            plan.layers.extend(quantizer.plan(module, graph).map_err(wrong)?.layers);
        }
    }
    Ok(plan)
}

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::Quantize { reason: e.to_string() }
}
