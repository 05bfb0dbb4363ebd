//! Training of a checkpoint with quantization simulated, and the use of what it found.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use pteron_checkpoint::atomic::AtomicFile;
use pteron_checkpoint::{CheckpointKind, SafetensorsWriter, TensorSpec, read_limited};
use pteron_exec::{Session, SessionOptions, Threads, ValueRef};
use pteron_ir::Module;
use pteron_models::{BuildOptions, ModelConfig, build};
use pteron_quant::pt2e::{Encodings, PreparedGraph, prepare_module};
use pteron_quant::recipe::Recipe;
use pteron_quant::transform::Algorithm;
use pteron_tensor::{DType, View};
use pteron_train::{
    Batch, Identity, Loss, Order, QuantStart, Schedule, Target, TrainError, TrainGraph, TrainGraphOptions, Trainer,
    TrainerOptions,
};

use super::Exporter;
use crate::calibration::{CalibrationData, DataOptions, Feed, Passes, Purpose, hash, hex};
use crate::error::Error;
use crate::host::MemorySampler;
use crate::qat::{DEFAULT_WINDOW, STATE_FILE, TrainEvent, TrainOptions, TrainReport, Trained};

/// The state of a run, in the output's folder.
const RUN_FILE: &str = "training_state.bin";
/// Most bytes of one that is read.
const MAX_RUN_BYTES: u64 = 1 << 40;
/// Files of a Hugging Face folder that go with the weights.
const BESIDE: [&str; 10] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
];

fn wrong(reason: impl std::fmt::Display) -> Error {
    Error::Quantize { reason: reason.to_string() }
}

fn failed(e: TrainError) -> Error {
    wrong(e)
}

/// A run and what it needs beside its parameters.
struct Run<'a> {
    options: &'a TrainOptions,
    out: &'a Path,
    trainer: Trainer,
    teacher: Option<Session>,
    windows: Vec<Vec<u32>>,
    held_back: Vec<Vec<u32>>,
    identity: Identity,
}

impl Exporter<'_> {
    /// Trains the checkpoint, a Hugging Face folder, with the quantization of the recipe simulated, and writes the folder `out`: the
    /// trained weights, what lay beside them, and [`STATE_FILE`]; an export of that folder quantizes as was trained. The state of the
    /// run stands there as well, and is brought up to date every [`TrainOptions::save_every`] steps.
    ///
    /// `tell` is called with what the run does; `false` ends it after its state is saved.
    ///
    /// # Errors
    /// [`Error`] naming the file, option, step or tensor. What was saved before stays.
    pub fn train(
        mut self,
        options: &TrainOptions,
        out: &Path,
        tell: &mut dyn FnMut(&TrainEvent) -> bool,
    ) -> Result<TrainReport, Error> {
        check(options)?;
        let sampler = MemorySampler::start();
        let mut warnings = self.checkpoint.warnings().to_vec();
        if self.checkpoint.kind() != CheckpointKind::HuggingFace || self.checkpoint.folder().is_none() {
            let path = self.checkpoint.path().display();
            return Err(wrong(format!("{path}: it is no Hugging Face folder, which training reads and writes")));
        }
        if options.fake_quantize && self.recipe.is_none() {
            return Err(wrong(
                "the recipe has no trainable quantizer: give --pt2e-quantize, --quantization-mode or --recipe",
            ));
        }
        if self.recipe.base.spin_quant {
            return Err(wrong("--use-spin-quant is not for training: its operator has no gradient"));
        }
        train_as_exported(&mut self.recipe);
        let mut config = self.checked_config(&mut warnings)?;
        let checkpoint = Arc::clone(&self.checkpoint);
        let weights = self.open_weights(&checkpoint, &mut config)?;
        // What is trained, and written, are the rotated weights.
        self.recipe.base.rotate = None;
        warnings.extend(weights.warnings().iter().cloned());
        let data = self.training_data(options, &config)?;
        let length = data.window - 1;
        let shape = BuildOptions {
            dtype: DType::F32,
            dynamic_shape: false,
            full_logits: true,
            max_seq_length: length,
            max_context_length: length,
            ..BuildOptions::default()
        };
        let mut module = build(&config, &weights, &shape)?;
        let teacher = match options.loss {
            Loss::Distillation => Some(self.teacher(module.clone(), options.threads)?),
            Loss::CrossEntropy => None,
        };
        let identity = self.identity(options, &config, &data)?;
        let resumed = self.resumed(options, out)?;
        let slots = self.slots(options, &mut module, &data, resumed.is_some(), tell)?;
        let mut trainer = self.trainer(options, &config, &module, slots.as_ref())?;
        if let Some(bytes) = &resumed {
            let path = out.join(RUN_FILE);
            trainer.resume(bytes, &identity).map_err(|e| wrong(format!("{}: {e}", path.display())))?;
        }
        std::fs::create_dir_all(out)
            .map_err(|e| wrong(format!("{}: the folder cannot be made: {e}", out.display())))?;
        let mut run = Run {
            options,
            out,
            trainer,
            teacher,
            windows: data.windows.clone(),
            held_back: data.held_back.clone(),
            identity,
        };
        let mut report = run.go(tell)?;
        self.write_trained(&run.trainer, options, slots.as_ref(), config.tie_word_embeddings, out)?;
        report.peak_anonymous_bytes = sampler.finish().map(|m| m.anonymous);
        report.warnings = warnings;
        Ok(report)
    }

    /// Windows of one token more than are trained on at once: each token has a next one.
    fn training_data(&self, options: &TrainOptions, config: &ModelConfig) -> Result<CalibrationData, Error> {
        let positions = config.max_position_embeddings;
        let tokenizer = self.model_tokenizer()?.ok_or_else(|| {
            let path = self.checkpoint.path().display();
            wrong(format!("{path}: there is no tokenizer beside the weights; give it with --tokenizer-path"))
        })?;
        let data = DataOptions {
            purpose: Purpose::Training,
            files: options.files.clone(),
            limit: usize::MAX,
            window: Some(options.window.unwrap_or(DEFAULT_WINDOW.min(positions))),
            seed: None,
        };
        CalibrationData::read(&data, &tokenizer, positions)
    }

    fn teacher(&self, module: Module, threads: usize) -> Result<Session, Error> {
        let path = self.checkpoint.path().to_owned();
        let options = SessionOptions::with_threads(threads);
        Session::new(Arc::new(module), &options).map_err(|e| Error::Exec { path, source: Box::new(e) })
    }

    fn identity(
        &self,
        options: &TrainOptions,
        config: &ModelConfig,
        data: &CalibrationData,
    ) -> Result<Identity, Error> {
        let model = hash::of_model(&hash::of_files(&self.checkpoint)?, config);
        // What decides a step's result; threads, measurements and saving do not.
        let decisive = TrainOptions {
            files: Vec::new(),
            threads: 0,
            evaluate_every: 0,
            save_every: 0,
            resume: false,
            ..options.clone()
        };
        let settings = hash::sha256(format!("{decisive:?}\n{}", self.recipe).as_bytes());
        Ok(Identity { model: hex(&model), data: hex(&data.windows_sha256()), settings: hex(&settings) })
    }

    /// The bytes of a run that goes on.
    fn resumed(&self, options: &TrainOptions, out: &Path) -> Result<Option<Vec<u8>>, Error> {
        let path = out.join(RUN_FILE);
        match (path.is_file(), options.resume) {
            (true, true) => Ok(Some(read_limited(&path, MAX_RUN_BYTES)?)),
            (false, _) => Ok(None),
            (true, false) => Err(wrong(format!(
                "{}: there is a run in this folder already: --resume goes on with it, another folder begins anew",
                path.display()
            ))),
        }
    }

    /// The slots of PT2E's schemes, with the ranges that training begins with; `None` where the recipe has source transforms only,
    /// or nothing is simulated.
    fn slots(
        &self,
        options: &TrainOptions,
        module: &mut Module,
        data: &CalibrationData,
        resumed: bool,
        tell: &mut dyn FnMut(&TrainEvent) -> bool,
    ) -> Result<Option<PreparedGraph>, Error> {
        if !options.fake_quantize {
            return Ok(None);
        }
        let resolved = self.recipe.resolve(module).map_err(wrong)?;
        let Some(quantizer) = resolved.quantizer().map_err(wrong)? else { return Ok(None) };
        let prepared = prepare_module(module, &quantizer).map_err(wrong)?;
        let (Some(mut prepared), Some(graph)) = (prepared.into_iter().next(), module.graphs.first()) else {
            return Err(wrong("the model has no graph"));
        };
        if prepared.needs_data(graph) && !resumed {
            let length = data.window - 1;
            let windows = data.windows.iter().take(options.calibration_windows.max(1));
            let windows: Vec<Vec<u32>> = windows.map(|w| w[..length].to_vec()).collect();
            let path = self.checkpoint.path().to_owned();
            let feed = Feed { path: &path, module, windows: &windows, threads: options.threads };
            feed.observe(&mut prepared, Passes::Both, &mut |done, total| {
                tell(&TrainEvent::Calibrating { done, total });
            })?;
        }
        Ok(Some(prepared))
    }

    fn trainer(
        &self,
        options: &TrainOptions,
        config: &ModelConfig,
        module: &Module,
        slots: Option<&PreparedGraph>,
    ) -> Result<Trainer, Error> {
        let names: std::collections::BTreeSet<String> =
            pteron_models::parameters(config).into_iter().map(|p| p.name).collect();
        let resolved = self.recipe.resolve(module).ok().filter(|_| options.fake_quantize);
        let choice = |path: &str, kind| resolved.as_ref().and_then(|r| r.layer(path, kind));
        let graph_options = TrainGraphOptions { loss: options.loss, qat: options.qat, lora: options.lora };
        let graph =
            TrainGraph::new(module, slots, &choice, &|name| names.contains(name), graph_options).map_err(failed)?;
        if options.fake_quantize && graph.prepared.weights.is_empty() {
            let scheme = self.recipe.describe();
            return Err(wrong(format!(
                "the recipe has no trainable quantizer: {scheme} quantizes no weight of this model"
            )));
        }
        let trainer_options = TrainerOptions {
            adam: options.adam,
            schedule: Schedule {
                peak: options.rate,
                warmup: options.warmup,
                steps: options.steps,
                floor: options.floor,
            },
            clip_norm: options.clip_norm,
            scales: options.scales,
            scale_rate: options.scale_rate,
            quantize_from: options.quantize_from,
            observe_until: options.observe_until,
            bf16: options.bf16,
            seed: options.seed,
        };
        let start = |label: &pteron_quant::TensorLabel| {
            let slot = slots?.slots.iter().find(|s| s.label == *label)?;
            let observer = slot.observer.as_ref().filter(|o| o.has_data())?;
            let range = observer.ranges(label).ok().and_then(|r| r.first().copied());
            Some(QuantStart { range, params: observer.calculate_qparams(label).ok() })
        };
        Trainer::new(graph, trainer_options, Threads::of(options.threads), &start).map_err(failed)
    }

    /// The folder: weights, what lay beside them, and what quantizes them.
    fn write_trained(
        &self,
        trainer: &Trainer,
        options: &TrainOptions,
        slots: Option<&PreparedGraph>,
        tied: bool,
        out: &Path,
    ) -> Result<(), Error> {
        let dtype = if options.bf16 { DType::BF16 } else { DType::F32 };
        let own = trainer.graph().params.iter().filter_map(|p| Some((p, p.constant?)));
        let own: Vec<_> = own.collect();
        let specs: Vec<TensorSpec> =
            own.iter().map(|(p, _)| TensorSpec::new(p.name.clone(), dtype, &p.sizes)).collect();
        let path = out.join("model.safetensors");
        let mut writer = SafetensorsWriter::create(&path, &specs, &[("format", "pt")])?;
        for (_, constant) in own {
            let values = trainer.effective(constant).map_err(failed)?;
            if options.bf16 {
                let bytes: Vec<u8> = values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect();
                writer.write(&bytes)?;
            } else {
                writer.write(bytemuck::cast_slice(&values))?;
            }
        }
        writer.finish()?;
        for name in BESIDE {
            let Some(from) = self.checkpoint.folder().map(|f| f.join(name)).filter(|f| f.is_file()) else { continue };
            let mut bytes = read_limited(&from, 1 << 30)?;
            if name == "config.json" {
                bytes = as_written(&from, &bytes, dtype, tied)?;
            }
            put(&out.join(name), &bytes)?;
        }
        let state = out.join(STATE_FILE);
        if !options.fake_quantize {
            // One of an earlier run would be of other weights.
            if state.is_file() {
                std::fs::remove_file(&state).map_err(|e| wrong(format!("{}: {e}", state.display())))?;
            }
            return Ok(());
        }
        let trained = pteron_checkpoint::Checkpoint::open(out)?;
        let found = trainer.encodings(slots).map_err(failed)?;
        let trained = Trained::new(self.recipe.to_string(), weights_hash(&trained)?, found);
        let text = serde_json::to_vec_pretty(&trained).map_err(wrong)?;
        put(&state, &text)
    }

    /// What training found, if the checkpoint is a folder that [`Exporter::train`] wrote and no other recipe is asked for; its recipe
    /// is taken then.
    pub(super) fn trained(&mut self, warnings: &mut Vec<String>) -> Result<Option<Encodings>, Error> {
        let Some(folder) = self.checkpoint.folder() else { return Ok(None) };
        let path = folder.join(STATE_FILE);
        let Some(state) = Trained::read(folder)? else { return Ok(None) };
        let named = |reason: String| wrong(format!("{}: {reason}", path.display()));
        let recipe = Recipe::parse(&state.recipe).map_err(|e| named(format!("recipe: {e}")))?;
        if self.recipe.is_none() {
            self.recipe = recipe;
        } else if self.recipe.to_string() != recipe.to_string() {
            warnings.push(format!(
                "{}: the weights were trained for another recipe ({}), whose scales are not used",
                path.display(),
                recipe.describe()
            ));
            return Ok(None);
        }
        let found = weights_hash(&self.checkpoint)?;
        if found != state.weights {
            return Err(named(format!(
                "it is of other weights: their SHA-256 is {found}, expected {}; remove it to quantize without it",
                state.weights
            )));
        }
        state.encodings().map(Some).map_err(named)
    }
}

/// Scales of source transforms are found by `affine` in training, and so they must be in the export.
fn train_as_exported(recipe: &mut Recipe) {
    let transforms = recipe.base.linear.is_some() || recipe.base.embedding.is_some();
    if transforms {
        recipe.base.algorithm = Some(Algorithm::Affine);
    }
    for rule in &mut recipe.rules {
        if rule.change.algorithm.is_some() {
            rule.change.algorithm = Some(Algorithm::Affine);
        }
    }
}

fn check(o: &TrainOptions) -> Result<(), Error> {
    let fail =
        |option: &str, found: String, expected: &str| Err(wrong(format!("{option} is {found}, expected {expected}")));
    if o.files.is_empty() {
        return Err(wrong("there is nothing to train on: give text with --data FILE"));
    }
    if o.steps == 0 {
        return fail("--steps", "0".to_owned(), "at least 1");
    }
    if o.batch == 0 {
        return fail("--batch", "0".to_owned(), "at least 1 window");
    }
    if !(o.rate.is_finite() && o.rate > 0.0) {
        return fail("--learning-rate", o.rate.to_string(), "a number above 0");
    }
    if !(o.scale_rate.is_finite() && o.scale_rate > 0.0) {
        return fail("--scale-rate", o.scale_rate.to_string(), "a number above 0");
    }
    if !(0.0..=1.0).contains(&o.floor) {
        return fail("--final-rate", o.floor.to_string(), "0 to 1");
    }
    if o.clip_norm.is_some_and(|c| !(c.is_finite() && c > 0.0)) {
        return fail("--clip-norm", format!("{:?}", o.clip_norm), "a number above 0");
    }
    if let Some(lora) = o.lora
        && (lora.rank == 0 || !lora.alpha.is_finite())
    {
        return fail("--lora-rank", lora.rank.to_string(), "at least 1");
    }
    if o.bf16 && o.lora.is_some() {
        return fail("--dtype", "bf16".to_owned(), "fp32 with --lora-rank: adapters are added to weights of f32");
    }
    Ok(())
}

/// SHA-256 of the files that hold a checkpoint's weights.
fn weights_hash(checkpoint: &pteron_checkpoint::Checkpoint) -> Result<String, Error> {
    let files = hash::of_files(checkpoint)?;
    let all: Vec<&str> = files.iter().map(|f| f.sha256.as_str()).collect();
    Ok(hex(&hash::sha256(all.join("\n").as_bytes())))
}

fn put(path: &PathBuf, bytes: &[u8]) -> Result<(), Error> {
    use std::io::Write;
    let mut file = AtomicFile::create(path)?;
    let unwritten = |e: std::io::Error| Error::Atomic(pteron_checkpoint::atomic::AtomicError::from_io(path, e));
    file.write_all(bytes).map_err(unwritten)?;
    file.commit()?;
    Ok(())
}

/// A `config.json` with the weights' element type, and an output layer that is tied or not.
fn as_written(path: &Path, bytes: &[u8], dtype: DType, tied: bool) -> Result<Vec<u8>, Error> {
    let mut config: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| wrong(format!("{}: it is no JSON: {e}", path.display())))?;
    for key in ["torch_dtype", "dtype"] {
        if let Some(value) = config.get_mut(key) {
            *value = dtype.torch_name().into();
        }
    }
    if !tied && let Some(fields) = config.as_object_mut() {
        fields.insert("tie_word_embeddings".to_owned(), false.into());
    }
    serde_json::to_vec_pretty(&config).map_err(wrong)
}

impl Run<'_> {
    /// All steps that are left.
    fn go(&mut self, tell: &mut dyn FnMut(&TrainEvent) -> bool) -> Result<TrainReport, Error> {
        let o = self.options;
        let order = Order::new(o.seed, self.windows.len());
        let graph = self.trainer.graph();
        let trained = graph.trained.iter().map(|&i| graph.params[i].sizes.iter().map(|&n| n as u64).product::<u64>());
        let began = TrainEvent::Began {
            step: self.trainer.steps(),
            steps: o.steps,
            trained: trained.sum(),
            quantizers: graph.prepared.quantizers,
            windows: self.windows.len(),
            held_back: self.held_back.len(),
            arena_bytes: self.trainer.arena_bytes(),
        };
        let mut going = tell(&began);
        let before = self.measure(tell)?;
        let (mut after, mut loss, mut measured) = (before, None, self.trainer.steps());
        let (started, first) = (Instant::now(), self.trainer.steps());
        while going && self.trainer.steps() < o.steps {
            let done = self.step(&order)?;
            loss = Some(done.loss);
            let (seconds, steps) = (started.elapsed().as_secs_f64(), done.step - first);
            let tokens = (steps * o.batch as u64) as f64 * self.trainer.graph().tokens as f64;
            going = tell(&TrainEvent::Step {
                step: done.step,
                loss: done.loss,
                norm: done.norm,
                rate: done.rate,
                tokens_per_second: tokens / seconds.max(1e-9),
                seconds_left: seconds / steps as f64 * (o.steps - done.step) as f64,
            });
            let last = !going || done.step == o.steps;
            let due = |every: u64| every > 0 && done.step.is_multiple_of(every);
            if due(o.save_every) || last {
                self.save(tell)?;
            }
            if due(o.evaluate_every) || last {
                after = self.measure(tell)?;
                measured = done.step;
            }
        }
        debug_assert_eq!(measured, self.trainer.steps());
        let steps = self.trainer.steps();
        let tokens = (steps - first) * o.batch as u64 * self.trainer.graph().tokens as u64;
        Ok(TrainReport {
            folder: self.out.to_owned(),
            steps,
            loss,
            before,
            after,
            tokens,
            seconds: started.elapsed().as_secs_f64(),
            peak_anonymous_bytes: None,
            warnings: Vec::new(),
        })
    }

    fn step(&mut self, order: &Order) -> Result<pteron_train::StepReport, Error> {
        let first = self.trainer.steps() * self.options.batch as u64;
        let chosen: Vec<usize> = (0..self.options.batch as u64).map(|i| order.at(first + i)).collect();
        let mut prepared = Vec::with_capacity(chosen.len());
        for i in chosen {
            let window = self.windows[i].clone();
            prepared.push(self.prepared(&window)?);
        }
        let batches: Vec<Batch<'_>> = prepared.iter().map(Prepared::batch).collect();
        self.trainer.step(&batches).map_err(failed)
    }

    /// A window with what it is trained towards.
    fn prepared(&mut self, window: &[u32]) -> Result<Prepared, Error> {
        let ids: Vec<i64> = window.iter().map(|&t| i64::from(t)).collect();
        let length = self.trainer.graph().tokens;
        let (tokens, next) = (ids[..length].to_vec(), ids[1..=length].to_vec());
        let logits = match &mut self.teacher {
            None => Vec::new(),
            Some(session) => {
                let (sizes, strides) = ([1, length], [length, 1]);
                let view = View::new(DType::I64, &sizes, &strides, bytemuck::cast_slice(&tokens)).map_err(wrong)?;
                let inputs = [ValueRef::Tensor(view)];
                let out = session.run("forward", &inputs).map_err(wrong)?;
                let view = out.tensor(0).ok_or_else(|| wrong("the float model gives no logits"))?;
                match view.as_slice::<f32>() {
                    Some(logits) => logits.to_vec(),
                    None => view.to_f64_vec().into_iter().map(|v| v as f32).collect(),
                }
            }
        };
        Ok(Prepared { tokens, next, logits })
    }

    /// The loss on windows that are not trained on; `None` if there are none.
    fn measure(&mut self, tell: &mut dyn FnMut(&TrainEvent) -> bool) -> Result<Option<f64>, Error> {
        if self.held_back.is_empty() {
            return Ok(None);
        }
        let mut sum = 0.0;
        for i in 0..self.held_back.len() {
            let window = self.held_back[i].clone();
            let prepared = self.prepared(&window)?;
            sum += self.trainer.evaluate(&prepared.batch(), true).map_err(failed)?.0;
        }
        let loss = sum / self.held_back.len() as f64;
        tell(&TrainEvent::Evaluation { step: self.trainer.steps(), loss });
        Ok(Some(loss))
    }

    fn save(&self, tell: &mut dyn FnMut(&TrainEvent) -> bool) -> Result<(), Error> {
        put(&self.out.join(RUN_FILE), &self.trainer.to_bytes(&self.identity))?;
        tell(&TrainEvent::Saved { step: self.trainer.steps() });
        Ok(())
    }
}

/// A window, the next tokens and the teacher's logits.
struct Prepared {
    tokens: Vec<i64>,
    next: Vec<i64>,
    logits: Vec<f32>,
}

impl Prepared {
    fn batch(&self) -> Batch<'_> {
        let target = match self.logits.is_empty() {
            true => Target::Tokens(&self.next),
            false => Target::Logits(&self.logits),
        };
        Batch { tokens: &self.tokens, target }
    }
}
