//! The quantized part of an export: data, calibration, the twin that is calibrated and measured, and its limits.

use std::path::Path;
use std::sync::Arc;

use pteron_ir::{MetaValue, Module};
use pteron_llm::tokenizer::Tokenizer;
use pteron_models::{BuildOptions, CheckpointWeights, DYNAMIC_RESERVE, ModelConfig, PreQuantized, build};
use pteron_quant::pt2e::prepare_module;
use pteron_quant::recipe::{Base, Plan, Recipe};
use pteron_quant::state::{CalibrationState, Sha256, Shard, StateHeader};
use pteron_quant::transform::TransformError;

use super::{Exporter, Lowered, Progress};
use crate::bundled;
use crate::calibration::{
    CalibrationData, CalibrationOptions, CalibrationReport, EvaluationOptions, Feed, Passes, Probe, begins, hash,
    read_state,
};
use crate::error::Error;
use crate::host;
use crate::quantize::{self, Job, QuantizationReport, Step};
use crate::text::TokenizerSource;

/// Tokens of a window of the bundled text.
const BUNDLED_WINDOW: usize = 128;

/// A constant method with the SHA-256 of the calibration data, in hexadecimal digits.
pub const CALIBRATION_SHA256: &str = "get_calibration_sha256";
/// A constant method with the number of tokens that were calibrated with.
pub const CALIBRATION_TOKENS: &str = "get_calibration_tokens";

/// Which part of a calibration is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardOf {
    /// Number of the shard, from 1.
    pub index: u32,
    /// Number of shards.
    pub count: u32,
}

/// What a calibration gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibrated {
    /// What the observers have learnt.
    pub state: CalibrationState,
    /// Tokens that this run's observers saw.
    pub tokens: u64,
    /// True if histograms have their range and must count in a second run: see [`Exporter::calibrate`].
    pub needs_counts: bool,
    /// Seconds that the windows took.
    pub seconds: f64,
    /// What is odd without being an error, a sentence each.
    pub warnings: Vec<String>,
}

fn wrong(reason: impl std::fmt::Display) -> Error {
    Error::Calibration { reason: reason.to_string() }
}

impl Exporter<'_> {
    /// What is quantized, and how; nothing by default.
    #[must_use]
    pub fn quantize(mut self, recipe: Recipe) -> Self {
        self.recipe = recipe;
        self
    }

    /// What is quantized, and how.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// Reads a pre-quantized checkpoint of Meta's (`--preq-mode`): its codes and scales are taken over as they are, in the place
    /// of what [`Exporter::quantize`] was told, but for rotations.
    #[must_use]
    pub fn pre_quantized(mut self, layout: PreQuantized) -> Self {
        self.weights.pre_quantized = Some(layout);
        let Recipe { base, rules } = quantize::pre_quantized(layout);
        let Base { rotate, spin_quant, .. } = self.recipe.base;
        self.recipe = Recipe { base: Base { rotate, spin_quant, ..base }, rules };
        self
    }

    /// Where a static scheme learns the ranges of activations.
    #[must_use]
    pub fn calibration(mut self, options: CalibrationOptions) -> Self {
        self.calibration = options;
        self
    }

    /// How far a quantized model may be from the float one.
    #[must_use]
    pub fn evaluation(mut self, options: EvaluationOptions) -> Self {
        self.evaluation = options;
        self
    }

    /// What the recipe makes of each operator of the model.
    ///
    /// # Errors
    /// As [`Exporter::write`].
    pub fn plan(mut self) -> Result<Plan, Error> {
        let mut config = self.checked_config(&mut Vec::new())?;
        let checkpoint = Arc::clone(&self.checkpoint);
        let weights = self.open_weights(&checkpoint, &mut config)?;
        let mut module = build(&config, &weights, &self.options)?;
        quantize::plan(&self.recipe, &mut module)
    }

    /// Runs calibration data past the observers of the recipe's static scheme, or a part of them, and gives what was learnt.
    ///
    /// Histograms whose range is fixed before they count need the range of all shards: a run in several shards gives ranges
    /// first; merged, they are given to a second run of each shard as `ranges`, which counts.
    ///
    /// # Errors
    /// As [`Exporter::write`], and [`Error::Calibration`] for a scheme that learns nothing from data, a shard that is none, or
    /// an observer that cannot be sharded, naming the tensor.
    pub fn calibrate(mut self, shard: Option<ShardOf>, ranges: Option<&CalibrationState>) -> Result<Calibrated, Error> {
        let mut warnings = self.checkpoint.warnings().to_vec();
        let mut config = self.checked_config(&mut warnings)?;
        let checkpoint = Arc::clone(&self.checkpoint);
        // A folder that was trained has its recipe.
        self.trained(&mut warnings)?;
        let weights = self.open_weights(&checkpoint, &mut config)?;
        warnings.extend(weights.warnings().iter().cloned());
        if self.calibration.data.files.is_empty() {
            return Err(wrong("there is nothing to calibrate with: give text with --calibration-data FILE"));
        }
        let data = self.data(&config)?;
        let total = data.windows.len() as u64;
        let ShardOf { index, count } = shard.unwrap_or(ShardOf { index: 1, count: 1 });
        let shard = Shard::of(index, count, total)
            .ok_or_else(|| wrong(format!("shard {index}/{count} is none; expected 1/{count} to {count}/{count}")))?;
        let header = self.header(&config, &data, shard)?;
        let mut module = self.twin(&config, &weights, data.window)?;
        let resolved = self.recipe.resolve(&module).map_err(wrong)?;
        let Some(quantizer) = resolved.quantizer().map_err(wrong)? else {
            return Err(wrong(nothing_to_learn(&self.recipe)));
        };
        let prepared = prepare_module(&mut module, &quantizer).map_err(wrong)?;
        let (Some(mut prepared), Some(graph)) = (prepared.into_iter().next(), module.graphs.first()) else {
            return Err(wrong("the model has no graph"));
        };
        if !prepared.needs_data(graph) {
            return Err(wrong(nothing_to_learn(&self.recipe)));
        }
        // Said before hours of work: an observer that cannot be sharded.
        prepared.state(graph, header.clone()).map_err(wrong)?;
        let passes = match (count, ranges) {
            (1, None) => Passes::Both,
            (_, None) => Passes::One,
            (_, Some(ranges)) => {
                check_state(ranges, &StateHeader { shard: Shard::whole(total), ..header.clone() })?;
                prepared.restore_ranges(graph, ranges).map_err(wrong)?;
                Passes::One
            }
        };
        let range = usize::try_from(shard.first_window).unwrap_or(0)..usize::try_from(shard.end_window).unwrap_or(0);
        let windows = data.windows.get(range).unwrap_or_default();
        let path = self.checkpoint.path().to_owned();
        let feed = Feed { path: &path, module: &module, windows, threads: host::default_threads() };
        let started = std::time::Instant::now();
        let mut progress = self.progress.take();
        feed.observe(&mut prepared, passes, &mut |done, total| {
            if let Some(p) = &mut progress {
                p(Progress::Calibrating { done, total });
            }
        })?;
        let state = prepared.state(graph, header).map_err(wrong)?;
        Ok(Calibrated {
            needs_counts: prepared.needs_counts(),
            state,
            tokens: windows.len() as u64 * data.window as u64,
            seconds: started.elapsed().as_secs_f64(),
            warnings,
        })
    }

    /// Learns the scales of a static cache from the calibration data, in front of all else: the model that the rest is learnt
    /// from has that cache.
    pub(super) fn learn_kv_scales(
        &mut self,
        config: &ModelConfig,
        weights: &CheckpointWeights<'_>,
    ) -> Result<(), Error> {
        if self.options.static_kv_cache.is_none() {
            return Ok(());
        }
        if self.calibration.state.is_some() {
            return Err(wrong(
                "a calibration state has no scales of a static KV cache, and was learnt without one: give \
                 --calibration-data instead",
            ));
        }
        if self.calibration.data.files.is_empty() {
            return Ok(());
        }
        let data = self.data(config)?;
        let module = build(config, weights, &self.float_options(data.window))?;
        let path = self.checkpoint.path().to_owned();
        let feed = Feed { path: &path, module: &module, windows: &data.windows, threads: host::default_threads() };
        let mut progress = self.progress.take();
        let scales = feed.kv_scales(&mut |done, total| {
            if let Some(p) = &mut progress {
                p(Progress::Calibrating { done, total });
            }
        });
        self.progress = progress;
        if let Some(cache) = &mut self.options.static_kv_cache {
            cache.scales = scales?;
        }
        Ok(())
    }

    /// How the cache is quantized, in a few words.
    fn cache_scheme(&self) -> Option<String> {
        match &self.options.static_kv_cache {
            _ if self.options.quantize_kv_cache => Some("8-bit KV cache".to_owned()),
            Some(cache) if cache.scales.is_empty() => Some(format!("static 8-bit KV cache, scale {}", cache.scale)),
            Some(_) => Some("static 8-bit KV cache, calibrated".to_owned()),
            None => None,
        }
    }

    /// [`Exporter::twin_options`] with a float cache.
    fn float_options(&self, window: usize) -> BuildOptions {
        BuildOptions { quantize_kv_cache: false, static_kv_cache: None, ..self.twin_options(window) }
    }

    pub(super) fn quantize_module(
        &mut self,
        module: &mut Module,
        config: &ModelConfig,
        weights: &CheckpointWeights<'_>,
        warnings: &mut Vec<String>,
    ) -> Result<Option<QuantizationReport>, Error> {
        let trained = self.trained(warnings)?;
        let cache = self.cache_scheme();
        if self.recipe.is_none() && cache.is_none() {
            return Ok(None);
        }
        self.tell(Progress::Quantizing { done: 0, total: 0 });
        let (recipe, moments) = (self.recipe.clone(), self.moments.clone());
        let data = match self.calibration.data.files.is_empty() {
            true => None,
            false => Some(self.data(config)?),
        };
        let state = match &self.calibration.state {
            None => None,
            Some(path) => {
                let state = read_state(path)?;
                let own = self.state_identity(config)?;
                let header = StateHeader { model: own.0, recipe: own.1, scheme: own.2, ..state.header.clone() };
                check_state(&state, &header).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
                if let Some(missing) = missing_part(&state) {
                    return Err(wrong(format!("{}: {missing}", path.display())));
                }
                Some(state)
            }
        };
        if trained.is_none() {
            quantize::check_data(&recipe, &self.calibration)?;
        }
        let (probe, not_evaluated) = self.probe(data.as_ref(), state.as_ref(), config)?;
        let calibrated = data.as_ref().map(|d| d.window);
        let window = calibrated.into_iter().chain(probe.iter().flat_map(|p| p.windows.first().map(Vec::len))).max();
        let twin = match window {
            Some(window) => Some(self.twin(config, weights, window)?),
            None if state.is_some() => Some(self.twin(config, weights, BUNDLED_WINDOW)?),
            None => None,
        };
        // The float model has a float cache.
        let measured = match (&self.qnn, window) {
            (Some(q), Some(window)) if probe.is_some() => Some(self.static_measured(q, config, weights, window)?),
            _ => None,
        };
        let float = match (window, &cache) {
            _ if measured.is_some() => measured.clone(),
            (Some(window), Some(_)) => Some(build(config, weights, &self.float_options(window))?),
            _ => twin.clone(),
        };
        let path = self.checkpoint.path().to_owned();
        let stored = |name: &str| weights.codes(name).map_err(|e| TransformError::Source(e.to_string()));
        let job = Job {
            path: &path,
            recipe: &recipe,
            moments: moments.as_deref(),
            stored: &stored,
            data: data.as_ref(),
            state: state.as_ref(),
            trained: trained.as_ref(),
            probe,
            measured,
            evaluation: self.evaluation,
            threads: host::default_threads(),
            lpbq_grid: self.qnn.is_some(),
        };
        let mut report = job.run(module, twin, float, &mut |step| {
            self.tell(match step {
                Step::Weights(done, total) => Progress::Quantizing { done, total },
                Step::Calibrating(done, total) => Progress::Calibrating { done, total },
                Step::Evaluating(done, total) => Progress::Evaluating { done, total },
            });
        })?;
        report.not_evaluated = not_evaluated;
        let scales = self.options.static_kv_cache.as_ref().map_or(0, |c| c.scales.len());
        if let (None, Some(data), 1..) = (&report.calibration, &data, scales) {
            report.calibration = Some(CalibrationReport::of(data, scales));
        }
        if let Some(cache) = &cache {
            let parts = [report.scheme.as_str(), cache];
            report.scheme = parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("; ");
        }
        for (path, why) in &report.kept_float {
            warnings.push(format!("`{path}` stays float: {why}"));
        }
        if let Some(c) = &report.calibration {
            let tokens = i64::try_from(c.tokens).unwrap_or(i64::MAX);
            self.note(module, CALIBRATION_SHA256, MetaValue::Str(c.sha256.as_str().into()));
            self.note(module, CALIBRATION_TOKENS, MetaValue::Int(tokens));
        }
        Ok(Some(report))
    }

    /// Refuses a model that is too far from the float one, unless it was allowed; `out` is what messages name.
    pub(super) fn within_limit(&self, out: &Path, lowered: &mut Lowered) -> Result<(), Error> {
        let Some(evaluation) = lowered.quantization.as_ref().and_then(|q| q.evaluation.as_ref()) else { return Ok(()) };
        if evaluation.holds() {
            return Ok(());
        }
        let evaluation = Box::new(evaluation.clone());
        if !self.evaluation.allow_degraded {
            return Err(Error::Degraded { path: out.to_owned(), evaluation });
        }
        lowered.warnings.push(format!(
            "the quantized model is {} nats from the float model, more than --max-kl {}, and is written all the same \
             (--allow-degraded)",
            crate::error::short(evaluation.kl),
            evaluation.max_kl
        ));
        Ok(())
    }

    /// Adds a constant method, but for one that was given.
    pub(super) fn note(&self, module: &mut Module, name: &str, value: MetaValue) {
        if !self.options.metadata.iter().any(|(given, _)| given == name) {
            module.set_metadata(name, vec![value]);
        }
    }

    /// The calibration data, cut for the model.
    pub(super) fn data(&self, config: &ModelConfig) -> Result<CalibrationData, Error> {
        let tokenizer = self.model_tokenizer()?.ok_or_else(|| {
            wrong(format!(
                "{}: there is no tokenizer beside the weights, and calibration needs the model's own: give it with \
                 --tokenizer-path",
                self.checkpoint.path().display()
            ))
        })?;
        CalibrationData::read(&self.calibration.data, &tokenizer, config.max_position_embeddings)
    }

    /// The tokenizer that was given, or that lies with the weights.
    pub(super) fn model_tokenizer(&self) -> Result<Option<Tokenizer>, Error> {
        match self.tokenizer_source()? {
            Some(source) => Ok(Some(source.tokenizer()?)),
            None => Ok(None),
        }
    }

    pub(super) fn tokenizer_source(&self) -> Result<Option<TokenizerSource>, Error> {
        if let Some(path) = &self.tokenizer {
            return Ok(Some(TokenizerSource::open(path)?));
        }
        let files = self.checkpoint.tokenizer_files();
        match files.tokenizer_json.or(files.tokenizer_model) {
            Some(path) => Ok(Some(TokenizerSource::open(&path)?)),
            None if self.checkpoint.gguf_vocabulary()?.is_some() => {
                Ok(Some(TokenizerSource::open(self.checkpoint.path())?))
            }
            None => Ok(None),
        }
    }

    /// The model in the form that is calibrated, over windows of `window` tokens.
    fn twin(&self, config: &ModelConfig, weights: &CheckpointWeights<'_>, window: usize) -> Result<Module, Error> {
        match &self.qnn {
            Some(q) => self.static_twin(q, config, weights, window),
            None => Ok(build(config, weights, &self.twin_options(window))?),
        }
    }

    /// The form of the model that is calibrated and measured: windows of `window` tokens in one call, the logits of all of
    /// them, attention and cache as in the exported form.
    pub(super) fn twin_options(&self, window: usize) -> BuildOptions {
        let longest = window + DYNAMIC_RESERVE;
        BuildOptions {
            dynamic_shape: true,
            full_logits: true,
            max_seq_length: longest,
            max_context_length: longest,
            ..self.options.clone()
        }
    }

    /// What is measured on: windows that were held back from calibration, or the bundled text; else why nothing is.
    fn probe(
        &self,
        data: Option<&CalibrationData>,
        state: Option<&CalibrationState>,
        config: &ModelConfig,
    ) -> Result<(Option<Probe>, Option<String>), Error> {
        if !self.evaluation.enabled {
            return Ok((None, Some("--no-evaluation".to_owned())));
        }
        let held_back = data.map(|d| &d.held_back).or(state.map(|s| &s.header.held_back)).filter(|h| !h.is_empty());
        if let Some(windows) = held_back {
            return Ok((
                Some(Probe { windows: windows.clone(), source: "windows held back from calibration".into() }),
                None,
            ));
        }
        let tokenizer = match self.model_tokenizer() {
            Ok(Some(tokenizer)) => tokenizer,
            Ok(None) => return Ok((None, Some("there is no tokenizer beside the weights".to_owned()))),
            Err(e) if self.tokenizer.is_none() => return Ok((None, Some(e.to_string()))),
            Err(e) => return Err(e),
        };
        let text = std::str::from_utf8(bundled::EVALUATION_TEXT).map_err(wrong)?;
        let bos = begins(&tokenizer)?;
        let tokens = tokenizer.encode(text, false).map_err(wrong)?;
        let window = BUNDLED_WINDOW.min(config.max_position_embeddings);
        let body = window.saturating_sub(usize::from(bos.is_some())).max(1);
        let known = |w: &&[u32]| w.iter().all(|&t| (t as usize) < config.vocab_size);
        let windows: Vec<Vec<u32>> = tokens
            .chunks_exact(body)
            .filter(known)
            .map(|part| bos.into_iter().chain(part.iter().copied()).collect())
            .collect();
        if windows.is_empty() || window < 2 {
            let why = format!("the bundled text does not fill a window of {window} tokens");
            return Ok((None, Some(why)));
        }
        let why = if data.is_some() { "the calibration data have one window" } else { "no --calibration-data" };
        Ok((Some(Probe { windows, source: format!("the bundled text: {why}") }), None))
    }

    /// Hash of the model; hash and name of the recipe in the form that is exported.
    fn state_identity(&self, config: &ModelConfig) -> Result<(Sha256, Sha256, String), Error> {
        let model = hash::of_model(&hash::of_files(&self.checkpoint)?, config);
        let o = &self.options;
        let attention = match (o.use_kv_cache, o.use_sdpa_with_kv_cache) {
            _ if self.qnn.as_ref().is_some_and(|q| q.single_heads) => "static form, head by head",
            _ if self.qnn.is_some() => "static form",
            (_, true) if o.quantize_kv_cache => "8-bit KV cache with custom_sdpa",
            (_, true) => "KV cache with custom_sdpa",
            (true, false) => "KV cache",
            (false, false) => "no KV cache",
        };
        let rotated = self.rotation_sha256.as_ref().map_or_else(String::new, |sha256| format!(", rotations {sha256}"));
        let form = format!("{}, {attention}{rotated}", o.dtype);
        let recipe = hash::sha256(format!("{}\n{form}", self.recipe).as_bytes());
        Ok((model, recipe, format!("{}; {form}", self.recipe.describe())))
    }

    fn header(&self, config: &ModelConfig, data: &CalibrationData, shard: Shard) -> Result<StateHeader, Error> {
        let (model, recipe, scheme) = self.state_identity(config)?;
        Ok(StateHeader {
            model,
            kernel_tier: host::instruction_set(),
            recipe,
            scheme,
            data: data.sha256,
            windows: data.windows_sha256(),
            data_tokens: data.tokens(),
            window_tokens: u32::try_from(data.window).unwrap_or(u32::MAX),
            shard,
            held_back: data.held_back.clone(),
        })
    }
}

fn nothing_to_learn(recipe: &Recipe) -> String {
    match recipe.is_none() {
        true => "nothing is quantized: give a static scheme with --pt2e-quantize, or a --recipe".to_owned(),
        false => format!("{} learns nothing from data: it needs no calibration", recipe.describe()),
    }
}

/// Checks that a state is of the same model and recipe, and of the same data where `expected` has them.
fn check_state(state: &CalibrationState, expected: &StateHeader) -> Result<(), Error> {
    let found = &state.header;
    if found.model != expected.model {
        return Err(wrong("the calibration state is of another model"));
    }
    if found.recipe != expected.recipe {
        return Err(wrong(match found.scheme == expected.scheme {
            true => "the calibration state is of another recipe".to_owned(),
            false => {
                format!(
                    "the calibration state is of another scheme or form ({}), expected {}",
                    found.scheme, expected.scheme
                )
            }
        }));
    }
    if (found.data, found.windows) != (expected.data, expected.windows) {
        return Err(wrong("the calibration state is of other calibration data, or of another choice of windows"));
    }
    Ok(())
}

/// What a state lacks to be used in an export.
fn missing_part(state: &CalibrationState) -> Option<String> {
    let shard = state.header.shard;
    if shard.count > 1 || shard.first_window > 0 || shard.end_window < shard.total_windows {
        return Some(format!(
            "this is shard {}/{} of a calibration; merge all {} with `pteron calibrate --merge` first",
            shard.index, shard.count, shard.count
        ));
    }
    None
}
