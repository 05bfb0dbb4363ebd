//! What quantizing each layer of a checkpoint costs, and recipes that meet a divergence or a size.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use pteron_eval::sensitivity::{self, LayerCost};
use pteron_eval::{Estimate, Evaluation};
use pteron_ir::{ConstData, Def, Module};
use pteron_kernels::Context;
use pteron_models::build;
use pteron_quant::moments::Moments;
use pteron_quant::pt2e::{Encodings, convert_module, fuse_embeddings, parameters, prepare_module};
use pteron_quant::recipe::{Change, Pattern, Recipe, Rule};
use pteron_quant::transform::Transform;

use super::Exporter;
use crate::calibration::{Feed, Passes, Probe, Recorded, compare, record};
use crate::error::Error;
use crate::host;
use crate::program::LoadOptions;
use crate::quantize;

/// What the recipe that is looked for must meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// At most this mean KL divergence from the float model, in nats, with the fewest layers left float.
    Divergence(f64),
    /// At most so many bytes of constants, with the least divergence.
    Bytes(u64),
}

/// How far the search is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Running calibration data: windows done, and all.
    Calibrating(usize, usize),
    /// Measuring layers: layers done, and all.
    Layers(usize, usize),
    /// Measuring recipes: the layers that this one leaves float.
    Recipe(usize),
}

/// A recipe with what was measured of it.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundRecipe {
    /// The recipe.
    pub recipe: Recipe,
    /// Module paths that it leaves float, those that are worth the most first.
    pub kept: Vec<String>,
    /// How far the model is from the float one with it, on the same windows.
    pub evaluation: Evaluation,
    /// Bytes of the model's constants with it.
    pub bytes: u64,
}

/// What a search for sensitive layers found.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// What quantizing each layer alone costs, the dearest first.
    pub layers: Vec<LayerCost>,
    /// Bytes of the float model's constants.
    pub float_bytes: u64,
    /// The recipe as it was given, without layers left float.
    pub whole: FoundRecipe,
    /// A recipe that meets the budget, if one was asked for.
    pub found: Option<FoundRecipe>,
}

fn wrong(reason: impl std::fmt::Display) -> Error {
    Error::Quantize { reason: reason.to_string() }
}

/// A float model whose layers are quantized by one recipe after the other and measured.
struct Trials {
    path: PathBuf,
    float: Module,
    recorded: Recorded,
    probe: Probe,
    encodings: Option<Encodings>,
    moments: Option<Moments>,
    load: LoadOptions,
    ctx: Arc<Context>,
}

impl Trials {
    /// The float model quantized by `recipe`, with the module paths of layers that it names and that stay float.
    fn quantized(&self, recipe: &Recipe) -> Result<(Module, Vec<String>), Error> {
        let mut module = self.float.clone();
        let mut kept = Vec::new();
        let resolved = recipe.resolve(&module).map_err(wrong)?;
        let choose = |path: &str, kind| resolved.layer(path, kind);
        if resolved.transforms(&module) {
            let mut modules = [&mut module];
            let report = Transform::new(&choose).apply(&mut modules, self.moments.as_ref(), &self.ctx, &mut |_, _| {});
            kept.extend(report.map_err(wrong)?.kept.into_iter().map(|(path, _)| path));
        }
        if let Some(quantizer) = resolved.quantizer().map_err(wrong)? {
            let prepared = prepare_module(&mut module, &quantizer).map_err(wrong)?;
            let mut params = Vec::new();
            for (graph, prepared) in module.graphs.iter().zip(&prepared) {
                params.push(match &self.encodings {
                    Some(e) => e.apply(graph, prepared).map_err(wrong)?,
                    None => parameters(graph, prepared).map_err(wrong)?,
                });
            }
            convert_module(&mut module, &prepared, &params).map_err(wrong)?;
            module.graphs.iter_mut().try_for_each(|g| fuse_embeddings(g).map(drop)).map_err(wrong)?;
        }
        Ok((module, kept))
    }

    /// How far the model is from the float one with `recipe`, and the bytes of its constants.
    fn measure(&mut self, recipe: &Recipe) -> Result<(Evaluation, u64), Error> {
        let (mut module, _) = self.quantized(recipe)?;
        let bytes = constant_bytes(&module);
        quantize::lower(&mut module)?;
        self.recorded.rewind();
        let found = compare(&self.path, module, &self.probe, &mut self.recorded, &self.load, &mut |_, _| {})?;
        Ok((found, bytes))
    }

    fn found(&mut self, recipe: Recipe, kept: Vec<String>) -> Result<FoundRecipe, Error> {
        let (evaluation, bytes) = self.measure(&recipe)?;
        Ok(FoundRecipe { recipe, kept, evaluation, bytes })
    }
}

fn divergence(e: &Evaluation) -> Estimate {
    e.divergence.as_ref().map_or(Estimate { mean: f64::NAN, stderr: 0.0 }, |d| d.kl)
}

/// Bytes of the constants that nodes read.
fn constant_bytes(module: &Module) -> u64 {
    let mut used = BTreeSet::new();
    for graph in &module.graphs {
        for n in graph.all_nodes() {
            used.extend(graph.reads(n).into_iter().filter_map(|v| match graph.values[v].def {
                Def::Const(c) => Some(c),
                _ => None,
            }));
        }
    }
    let bytes = |c| match &module.constants[c].data {
        ConstData::Source(s) => s.byte_len() as u64,
        ConstData::External(_) | ConstData::Missing => 0,
    };
    used.into_iter().map(bytes).sum()
}

/// A pattern for one module path.
fn exactly(path: &str) -> Result<Pattern, Error> {
    let mut text = String::with_capacity(path.len() + 8);
    for c in path.chars() {
        if !c.is_alphanumeric() && c != '_' {
            text.push('\\');
        }
        text.push(c);
    }
    Pattern::new(&text).map_err(wrong)
}

/// What `recipe` says of a module, as a rule of its own.
fn change_of(recipe: &Recipe, rule: Option<usize>, is_embedding: bool) -> Result<Change, Error> {
    if let Some(rule) = rule.and_then(|i| recipe.rules.get(i)) {
        return Ok(rule.change.clone());
    }
    let b = &recipe.base;
    if is_embedding && b.embedding.is_some() {
        return Ok(Change { embedding: b.embedding, ..Change::default() });
    }
    Ok(match b.linear {
        Some(mode) => Change { mode: Some(mode.name().to_owned()), group: mode.group(), ..Change::default() },
        None => {
            let schemes = recipe.schemes().map_err(wrong)?;
            Change { scheme: schemes.first().map(|s| s.name.to_owned()), ..Change::default() }
        }
    })
}

/// `recipe` with nothing but `path` quantized.
fn alone(recipe: &Recipe, path: &str, change: Change) -> Result<Recipe, Error> {
    let rest = Rule { path: Pattern::new(".*").map_err(wrong)?, change: keep_float() };
    let base = recipe.base.clone();
    Ok(Recipe { base, rules: vec![Rule { path: exactly(path)?, change }, rest] })
}

fn keep_float() -> Change {
    Change { keep_float: true, ..Change::default() }
}

/// `recipe` with `kept` left float, and without the rules that have nothing left.
fn keeping(recipe: &Recipe, paths: &[String], kept: &[String]) -> Result<Recipe, Error> {
    let mut rules = Vec::new();
    for path in kept {
        rules.push(Rule { path: exactly(path)?, change: keep_float() });
    }
    let left = |rule: &Rule| paths.iter().any(|p| rule.path.matches(p) && !kept.contains(p));
    rules.extend(recipe.rules.iter().filter(|r| left(r)).cloned());
    Ok(Recipe { base: recipe.base.clone(), rules })
}

impl Exporter<'_> {
    /// Quantizes each layer that the recipe quantizes alone, everything else in float, and measures how far the model is from the
    /// float one on `windows`; then looks for a recipe that meets `budget`, by leaving layers float, those first that spare the
    /// most divergence for their bytes. A static scheme is calibrated once, with all layers.
    ///
    /// # Errors
    /// As [`Exporter::write`], and [`Error::Quantize`] if no recipe meets the budget.
    pub fn sensitivity(
        mut self,
        windows: Vec<Vec<u32>>,
        budget: Option<Budget>,
        progress: &mut dyn FnMut(Search),
    ) -> Result<Sensitivity, Error> {
        let mut config = self.checked_config(&mut Vec::new())?;
        let checkpoint = Arc::clone(&self.checkpoint);
        let weights = self.open_weights(&checkpoint, &mut config)?;
        let recipe = self.recipe.clone();
        if recipe.is_none() {
            return Err(wrong(
                "nothing is quantized: give a scheme with --pt2e-quantize, --quantization-mode or --recipe",
            ));
        }
        let data = if self.calibration.data.files.is_empty() { None } else { Some(self.data(&config)?) };
        let longest = windows.iter().map(Vec::len).chain(data.iter().map(|d| d.window)).max().unwrap_or(1);
        let float = build(&config, &weights, &self.twin_options(longest))?;
        let path = self.checkpoint.path().to_owned();
        let threads = host::default_threads();
        let load = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
        let mut probe = Probe { windows, source: "the text".to_owned() };
        let mut lowered = float.clone();
        quantize::lower(&mut lowered)?;
        let recorded = record(&path, lowered, &mut probe, &load)?;
        let ctx = Arc::new(Context::new(threads));
        let mut trials =
            Trials { path: path.clone(), float, recorded, probe, encodings: None, moments: None, load, ctx };
        let resolved = recipe.resolve(&trials.float).map_err(wrong)?;
        // What the whole recipe learns from data.
        if let Some(data) = &data {
            let mut tell = |done, total| progress(Search::Calibrating(done, total));
            if quantize::weighs(&resolved, &trials.float) {
                let feed = Feed { path: &path, module: &trials.float, windows: &data.windows, threads };
                let grams = quantize::rounded_together(&resolved, &trials.float);
                trials.moments = Some(feed.moments(&|name| grams.contains(name), &mut tell)?);
            }
        }
        if let Some(quantizer) = resolved.quantizer().map_err(wrong)? {
            let mut module = trials.float.clone();
            let prepared = prepare_module(&mut module, &quantizer).map_err(wrong)?;
            let (Some(mut prepared), Some(graph)) = (prepared.into_iter().next(), module.graphs.first()) else {
                return Err(wrong("the model has no graph"));
            };
            if prepared.needs_data(graph) {
                let Some(data) = &data else { return Err(quantize::needs_data(&recipe)) };
                let feed = Feed { path: &path, module: &module, windows: &data.windows, threads };
                feed.observe(&mut prepared, Passes::Both, &mut |done, total| {
                    progress(Search::Calibrating(done, total));
                })?;
                trials.encodings = Some(Encodings::of(graph, &prepared).map_err(wrong)?);
            }
        }
        let plan = quantize::plan(&recipe, &mut trials.float.clone())?;
        let (_, kept_float) = trials.quantized(&recipe)?;
        let mut paths: Vec<(String, bool)> = Vec::new();
        for layer in plan.layers.iter().filter(|l| l.treatment != "float" && !kept_float.contains(&l.path)) {
            if !paths.iter().any(|(p, _)| *p == layer.path) {
                paths.push((layer.path.clone(), layer.operator == "embedding"));
            }
        }
        let float_bytes = constant_bytes(&trials.float);
        let mut layers = Vec::with_capacity(paths.len());
        for (i, (path, is_embedding)) in paths.iter().enumerate() {
            progress(Search::Layers(i, paths.len()));
            let change = change_of(&recipe, resolved.rule(path), *is_embedding)?;
            let (found, bytes) = trials.measure(&alone(&recipe, path, change)?)?;
            let bytes_saved = i64::try_from(float_bytes).unwrap_or(i64::MAX) - i64::try_from(bytes).unwrap_or(i64::MAX);
            layers.push(LayerCost { path: path.clone(), kl: divergence(&found), bytes_saved });
        }
        progress(Search::Layers(paths.len(), paths.len()));
        sensitivity::rank(&mut layers);
        let whole = trials.found(recipe.clone(), Vec::new())?;
        let all: Vec<String> = paths.into_iter().map(|(p, _)| p).collect();
        let names = |kept: &[usize]| kept.iter().map(|&i| layers[i].path.clone()).collect::<Vec<_>>();
        let kept = match budget {
            None => None,
            Some(Budget::Bytes(target)) => {
                let kept = sensitivity::keep_within(&layers, whole.bytes, target).ok_or_else(|| {
                    wrong(format!(
                        "the model's constants take {} bytes with every layer quantized, more than the {target} that were asked \
                         for: take fewer bits",
                        whole.bytes
                    ))
                })?;
                Some(names(&kept))
            }
            Some(Budget::Divergence(most)) => {
                let kept = sensitivity::keep_until(&layers, most, |kept| {
                    progress(Search::Recipe(kept.len()));
                    match kept {
                        [] => Ok(divergence(&whole.evaluation).mean),
                        kept => {
                            let recipe = keeping(&recipe, &all, &names(kept))?;
                            trials.measure(&recipe).map(|(found, _)| divergence(&found).mean)
                        }
                    }
                })?;
                Some(names(&kept.ok_or_else(|| {
                    wrong(format!("no recipe that quantizes a layer keeps the divergence within {most} nats"))
                })?))
            }
        };
        let found = match kept {
            None => None,
            Some(kept) => {
                let recipe = keeping(&recipe, &all, &kept)?;
                Some(trials.found(recipe, kept)?)
            }
        };
        Ok(Sensitivity { layers, float_bytes, whole, found })
    }
}
