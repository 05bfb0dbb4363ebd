//! Checkpoints to programs.

mod beside;
mod qat;
mod qnn;
mod quantization;
mod rotation;
mod sensitivity;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use pteron_checkpoint::atomic::{AtomicError, AtomicFile};
use pteron_checkpoint::{Checkpoint, GenerationConfigFile, Shown, read_limited};
use pteron_ir::{MetaValue, Module};
use pteron_llm::tokenizer::Tokenizer;
use pteron_models::{BuildOptions, ModelConfig, SpecialTokens, StaticKvCache, WeightsOptions, build};
use pteron_program::{Emitted, WriteError, emit};
use pteron_pte::ParsedHead;
use pteron_quant::moments::Moments;
use pteron_quant::recipe::Recipe;
use pteron_tensor::DType;

use crate::backend::{self, PartitionReport, Xnnpack};
use crate::calibration::{CalibrationOptions, EvaluationOptions, hash};
use crate::error::Error;
use crate::host::MemorySampler;
use crate::quantize::{self, QuantizationReport};
use crate::text::TokenizerSource;

use beside::Beside;
pub use qnn::{QnnContextReport, QnnMode, QnnNodeReport, QnnOptions, QnnReport};
pub use quantization::{CALIBRATION_SHA256, CALIBRATION_TOKENS, Calibrated, ShardOf};
pub use rotation::ROTATION;
pub use sensitivity::{Budget, FoundRecipe, Search, Sensitivity};

/// What an export is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Building the graph from the configuration.
    Building,
    /// Choosing scales of weights: layers done, and in all.
    Quantizing {
        /// Layers done.
        done: usize,
        /// Layers in all.
        total: usize,
    },
    /// Running calibration data: windows done, and in all.
    Calibrating {
        /// Windows done.
        done: usize,
        /// Windows in all.
        total: usize,
    },
    /// Measuring the quantized model: tokens done, and in all.
    Evaluating {
        /// Tokens done.
        done: usize,
        /// Tokens in all.
        total: usize,
    },
    /// Running passes.
    Lowering,
    /// Asking Qualcomm's library, and waiting for its compiler.
    Compiling,
    /// Planning memory and making the program's head.
    Emitting,
    /// Writing: bytes written so far, and in all.
    Writing {
        /// Bytes written.
        done: u64,
        /// Bytes of the file.
        total: u64,
    },
    /// Verifying the head and flushing the file to the disk.
    Finishing,
}

/// What an export made.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ExportReport {
    /// The file; `None` if nothing was written.
    pub path: Option<PathBuf>,
    /// The files written beside it: tokenizer, chat template, recipe, card.
    pub beside: Vec<PathBuf>,
    /// Architecture, by its `model_type`.
    pub architecture: String,
    /// Element type of the program.
    pub dtype: String,
    /// What was quantized; `None` for a float program.
    pub quantization: Option<QuantizationReport>,
    /// What a backend took; `None` for a portable program.
    pub partition: Option<PartitionReport>,
    /// What Qualcomm's library made of it, if it was lowered to that.
    pub qnn: Option<QnnReport>,
    /// Elements of all weights.
    pub parameters: u64,
    /// Bytes of constants in the program, those of delegates among them.
    pub weight_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of planned memory, of all methods' arenas together.
    pub arena_bytes: u64,
    /// Bytes that ExecuTorch's default planner would need for the same pieces.
    pub executorch_arena_bytes: u64,
    /// Methods that can be called.
    pub methods: Vec<String>,
    /// Instructions of all methods.
    pub instructions: usize,
    /// Distinct operators of all methods.
    pub operators: usize,
    /// Those of them for which ExecuTorch's runtime has no kernel, in any of its libraries.
    pub missing_operators: Vec<String>,
    /// Largest anonymous memory of the process (`RssAnon`) during the export; `None` where the system does not tell.
    pub peak_anonymous_bytes: Option<u64>,
    /// Seconds from opening the checkpoint to the finished file.
    pub seconds: f64,
    /// What is odd without being an error, a sentence each.
    pub warnings: Vec<String>,
}

/// Exports a checkpoint as an ExecuTorch program.
///
/// The defaults are `export_llama`'s: f32, no KV cache, dynamic shape, 128 tokens. Weights are read while the file is
/// written, a piece at a time.
pub struct Exporter<'p> {
    checkpoint: Arc<Checkpoint>,
    generation: Option<GenerationConfigFile>,
    params: Option<PathBuf>,
    tokenizer: Option<PathBuf>,
    options: BuildOptions,
    weights: WeightsOptions,
    recipe: Recipe,
    moments: Option<Arc<Moments>>,
    /// SHA-256 of the file of rotations, once it is read.
    rotation_sha256: Option<String>,
    calibration: CalibrationOptions,
    evaluation: EvaluationOptions,
    qnn: Option<QnnOptions>,
    bare: bool,
    xnnpack: Option<Xnnpack>,
    progress: Option<Box<dyn FnMut(Progress) + 'p>>,
    started: Instant,
}

impl std::fmt::Debug for Exporter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter")
            .field("checkpoint", &self.checkpoint.path())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Most bytes of a `params.json`.
const MAX_PARAMS_BYTES: u64 = pteron_checkpoint::limits::MAX_CONFIG_BYTES;

impl<'p> Exporter<'p> {
    /// Opens a checkpoint of any kind that is read: see [`Checkpoint::open`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the file.
    pub fn open(path: impl AsRef<Path>) -> Result<Exporter<'p>, Error> {
        let started = Instant::now();
        let checkpoint = Checkpoint::open(path)?;
        let generation = checkpoint.generation_config()?;
        Ok(Exporter { started, ..Exporter::new(checkpoint, generation) })
    }

    /// Takes a checkpoint that is already open, such as [`Checkpoint::from_bytes`] gives.
    pub fn new(checkpoint: Checkpoint, generation: Option<GenerationConfigFile>) -> Exporter<'p> {
        Exporter {
            checkpoint: Arc::new(checkpoint),
            generation,
            params: None,
            tokenizer: None,
            options: BuildOptions::default(),
            weights: WeightsOptions::default(),
            recipe: Recipe::default(),
            moments: None,
            rotation_sha256: None,
            calibration: CalibrationOptions::default(),
            evaluation: EvaluationOptions::default(),
            qnn: None,
            bare: false,
            xnnpack: None,
            progress: None,
            started: Instant::now(),
        }
    }

    /// The model arguments: a `config.json` or Meta's `params.json`, in place of the checkpoint's own `config.json`.
    #[must_use]
    pub fn params(mut self, path: impl Into<PathBuf>) -> Self {
        self.params = Some(path.into());
        self
    }

    /// The tokenizer that is compared with the model, and that names the special tokens where the configuration does not.
    /// By default `tokenizer.json` or `tokenizer.model` beside the weights, if one is there.
    #[must_use]
    pub fn tokenizer(mut self, path: impl Into<PathBuf>) -> Self {
        self.tokenizer = Some(path.into());
        self
    }

    /// Element type of weights, activations and caches: f32, f16 or bf16.
    #[must_use]
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.options.dtype = dtype;
        self
    }

    /// Whether keys and values are kept between calls.
    #[must_use]
    pub fn kv_cache(mut self, on: bool) -> Self {
        self.options.use_kv_cache = on;
        self
    }

    /// Whether attention and cache are ExecuTorch's custom operators; needs the cache.
    #[must_use]
    pub fn sdpa_with_kv_cache(mut self, on: bool) -> Self {
        self.options.use_sdpa_with_kv_cache = on;
        self
    }

    /// Whether that cache holds 8-bit codes; needs ExecuTorch's custom operators.
    #[must_use]
    pub fn quantize_kv_cache(mut self, on: bool) -> Self {
        self.options.quantize_kv_cache = on;
        self
    }

    /// Keys and values as 8-bit codes whose scales are constants, learnt from the calibration data; or, if there are none, those
    /// that are given. Needs the cache, and it without ExecuTorch's custom operators.
    #[must_use]
    pub fn static_kv_cache(mut self, cache: Option<StaticKvCache>) -> Self {
        self.options.static_kv_cache = cache;
        self
    }

    /// Whether the number of tokens of a call may vary.
    #[must_use]
    pub fn dynamic_shape(mut self, on: bool) -> Self {
        self.options.dynamic_shape = on;
        self
    }

    /// Longest single call in tokens.
    #[must_use]
    pub fn max_seq_length(mut self, tokens: usize) -> Self {
        self.options.max_seq_length = tokens;
        self
    }

    /// Positions that the cache holds, at least [`Exporter::max_seq_length`].
    #[must_use]
    pub fn max_context_length(mut self, tokens: usize) -> Self {
        self.options.max_context_length = tokens;
        self
    }

    /// Whether the logits of all tokens of a call are returned.
    #[must_use]
    pub fn full_logits(mut self, on: bool) -> Self {
        self.options.full_logits = on;
        self
    }

    /// Adds a constant method, which wins over one of the same name.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, values: Vec<MetaValue>) -> Self {
        self.options.metadata.push((name.into(), values));
        self
    }

    /// Whether tensors that the model does not have are left out with a warning instead of being an error.
    #[must_use]
    pub fn allow_unexpected(mut self, on: bool) -> Self {
        self.weights.allow_unexpected = on;
        self
    }

    /// What the algorithm `mse` weighs the errors of weights by; unweighted by default.
    #[must_use]
    pub fn moments(mut self, moments: Arc<Moments>) -> Self {
        self.moments = Some(moments);
        self
    }

    /// What of the model goes to XNNPACK; nothing by default.
    #[must_use]
    pub fn xnnpack(mut self, xnnpack: Option<Xnnpack>) -> Self {
        self.xnnpack = xnnpack;
        self
    }

    /// Whether the program is written alone, without the files beside it: tokenizer, chat template, recipe and card.
    #[must_use]
    pub fn bare(mut self, on: bool) -> Self {
        self.bare = on;
        self
    }

    /// Called with what the export is doing, and with every piece written.
    #[must_use]
    pub fn on_progress(mut self, progress: impl FnMut(Progress) + 'p) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Writes the program to `out`, which holds the old file or none until the new one is whole and on the disk.
    ///
    /// # Errors
    /// [`Error`] naming the file, field, weight or option; `out` is then as it was.
    pub fn write(mut self, out: impl AsRef<Path>) -> Result<ExportReport, Error> {
        let out = out.as_ref();
        // Before any work: a folder that cannot be written to is known at once.
        let mut file = AtomicFile::create(out)?;
        let sampler = MemorySampler::start();
        let mut lowered = self.lower()?;
        let total = lowered.emitted.file.total_len;
        ParsedHead::parse(&lowered.emitted.file.head, total)
            .map_err(|e| Error::ReadBack { path: out.to_owned(), source: Box::new(e) })?;
        self.within_limit(out, &mut lowered)?;
        let mut done = 0u64;
        self.tell(Progress::Writing { done, total });
        let mut progress = self.progress.take();
        let mut hashed = Hashed { file: &mut file, hash: (!self.bare).then(hash::Hasher::new) };
        lowered
            .emitted
            .write_to(&mut hashed, &mut |n| {
                done = done.saturating_add(n);
                if let Some(p) = &mut progress {
                    p(Progress::Writing { done, total });
                }
            })
            .map_err(|e| match e {
                WriteError::Sink(e) => Error::Atomic(AtomicError::from_io(out, e)),
                e => Error::Write { path: out.to_owned(), source: Box::new(e) },
            })?;
        let sha256 = hashed.hash.map(hash::Hasher::finish);
        self.progress = progress;
        self.tell(Progress::Finishing);
        // The program last: what stands beside a new program is never older than it.
        let beside = match sha256 {
            Some(sha256) => self.beside(out, &lowered, &sha256)?,
            None => Vec::new(),
        };
        let (beside, mut files): (Vec<PathBuf>, Vec<AtomicFile>) =
            beside.into_iter().map(|Beside { path, file }| (path, file)).unzip();
        files.push(file);
        AtomicFile::commit_all(files)?;
        Ok(self.report(lowered, Some(out), beside, sampler))
    }

    /// Builds, lowers and verifies the model and plans its memory, and writes nothing.
    ///
    /// # Errors
    /// As [`Exporter::write`].
    pub fn check(mut self) -> Result<ExportReport, Error> {
        let sampler = MemorySampler::start();
        let mut lowered = self.lower()?;
        let path = self.checkpoint.path().to_owned();
        self.within_limit(&path, &mut lowered)?;
        Ok(self.report(lowered, None, Vec::new(), sampler))
    }

    /// The lowered module, as it would be written, but not measured.
    ///
    /// # Errors
    /// As [`Exporter::write`].
    pub fn module(mut self) -> Result<Module, Error> {
        self.evaluation.enabled = false;
        let mut warnings = Vec::new();
        Ok(self.capture(&mut warnings)?.module)
    }

    /// The module as it was captured, with its quantization: before operators are decomposed for ExecuTorch's runtime.
    ///
    /// # Errors
    /// As [`Exporter::write`].
    pub fn captured(mut self) -> Result<Module, Error> {
        self.evaluation.enabled = false;
        let mut warnings = Vec::new();
        Ok(self.build(&mut warnings)?.module)
    }

    fn tell(&mut self, what: Progress) {
        if let Some(p) = &mut self.progress {
            p(what);
        }
    }

    fn lower(&mut self) -> Result<Lowered, Error> {
        let mut warnings = self.checkpoint.warnings().to_vec();
        let Captured { module, config, parameters, quantization, partition, qnn } = self.capture(&mut warnings)?;
        self.tell(Progress::Emitting);
        let emitted = emit(&module, &self.emit_options())?;
        let methods = module.graphs.iter().map(|g| g.name.clone()).collect();
        Ok(Lowered { emitted, methods, config, parameters, quantization, partition, qnn, warnings })
    }

    fn capture(&mut self, warnings: &mut Vec<String>) -> Result<Captured, Error> {
        let options = self.qnn.clone();
        // Before hours of calibration: is the library there?
        let library = options.as_ref().map_or(Ok(None), qnn::library)?;
        let mut captured = self.build(warnings)?;
        if let (Some(options), Some(library)) = (options, library) {
            self.lower_qnn(&options, library.as_ref(), &mut captured, warnings)?;
            return Ok(captured);
        }
        self.tell(Progress::Lowering);
        match self.xnnpack {
            None => quantize::lower(&mut captured.module)?,
            Some(x) => {
                let context = pteron_exec::Context::new(crate::host::default_threads());
                captured.partition = Some(backend::lower(&mut captured.module, x, &context, quantize::lower)?);
            }
        }
        Ok(captured)
    }

    /// Builds and quantizes.
    fn build(&mut self, warnings: &mut Vec<String>) -> Result<Captured, Error> {
        self.tell(Progress::Building);
        quantize::check(&self.recipe)?;
        let mut config = self.checked_config(warnings)?;
        // The weights borrow the checkpoint, which quantization reads beside them.
        let checkpoint = Arc::clone(&self.checkpoint);
        let weights = self.open_weights(&checkpoint, &mut config)?;
        warnings.extend(weights.warnings().iter().cloned());
        warnings.extend(self.options.warnings(&config));
        self.learn_kv_scales(&config, &weights)?;
        let mut module = match self.qnn.clone() {
            Some(options) => self.static_module(&options, &config, &weights)?,
            None => build(&config, &weights, &self.options)?,
        };
        if let Some(rotation) = self.recipe.rotation() {
            self.note(&mut module, ROTATION, MetaValue::Str(rotation.into()));
        }
        let parameters =
            pteron_models::parameters(&config).iter().map(|p| p.shape.iter().map(|&d| d as u64).product::<u64>()).sum();
        let quantization = self.quantize_module(&mut module, &config, &weights, warnings)?;
        Ok(Captured { module, config, parameters, quantization, partition: None, qnn: None })
    }

    /// The configuration, and the options checked against it.
    fn checked_config(&mut self, warnings: &mut Vec<String>) -> Result<ModelConfig, Error> {
        let config = self.config()?;
        self.special_tokens(&config, warnings)?;
        self.options.validate(&config)?;
        Ok(config)
    }

    /// The model's configuration: of the file given, else the checkpoint's.
    fn config(&self) -> Result<ModelConfig, Error> {
        let Some(path) = &self.params else { return config_of(&self.checkpoint) };
        let text = read_limited(path, MAX_PARAMS_BYTES)?;
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|e| Error::Kind {
            path: path.clone(),
            found: format!("it is no JSON: {e}"),
            expected: "a params.json of Meta's, or a config.json",
        })?;
        // Only Meta's files call the width `dim`.
        let config = match value.get("dim") {
            None => ModelConfig::from_hf(&value),
            Some(_) => ModelConfig::from_meta_checkpoint(&value, &self.checkpoint),
        };
        config.map_err(|e| Error::of_config(path, e))
    }

    /// The tokens that the program tells its runner: those of the configuration, else the tokenizer's.
    fn special_tokens(&mut self, config: &ModelConfig, warnings: &mut Vec<String>) -> Result<(), Error> {
        let mut tokens = SpecialTokens::new(config, self.generation.as_ref())?;
        let files = self.checkpoint.tokenizer_files();
        let beside = files.tokenizer_json.clone().or(files.tokenizer_model.clone());
        if let Some(path) = self.tokenizer.clone().or(beside.clone()) {
            match TokenizerSource::open(&path).and_then(|source| source.tokenizer()) {
                Ok(tokenizer) => {
                    check_vocabulary(&path, &tokenizer, config)?;
                    if let Some(odd) = odd_vocabulary(tokenizer.vocab_size(), config.vocab_size) {
                        let (path, file) = (path.display(), config.file());
                        warnings.push(format!("{path}: the tokenizer may be another model's: {odd} of {file}"));
                    }
                    tokens.bos = tokens.bos.or(tokenizer.bos_id().map(i64::from));
                    if tokens.eos.is_empty() {
                        tokens.eos = tokenizer.eos_id().map(i64::from).into_iter().collect();
                    }
                }
                // One that was not asked for is not needed for an export.
                Err(e) if self.tokenizer.is_none() => {
                    warnings.push(format!("{e}; the program is exported without looking at it"));
                }
                Err(e) => return Err(e),
            }
        } else if let Some(vocabulary) = self.checkpoint.gguf_vocabulary()? {
            // The ids of its special tokens are the configuration's already.
            check_pieces(self.checkpoint.path(), &vocabulary.tokens, config)?;
            if let Some(odd) = odd_vocabulary(vocabulary.tokens.len(), config.vocab_size) {
                let path = self.checkpoint.path().display();
                warnings.push(format!("{path}: the tokenizer may be another model's: {odd} rows of the embedding"));
            }
        }
        self.options.tokens = tokens;
        Ok(())
    }

    fn report(
        &self,
        lowered: Lowered,
        path: Option<&Path>,
        beside: Vec<PathBuf>,
        sampler: MemorySampler,
    ) -> ExportReport {
        let operators = lowered.operators();
        let Lowered { emitted, methods, config, parameters, quantization, partition, qnn, warnings } = lowered;
        let delegated = partition.as_ref().map_or(0, |p| p.weight_bytes);
        let arenas = || emitted.report.methods.iter().flat_map(|m| &m.arenas);
        ExportReport {
            path: path.map(Path::to_owned),
            beside,
            architecture: config.architecture.model_type().to_owned(),
            dtype: self.options.dtype.to_string(),
            quantization,
            partition,
            qnn,
            parameters,
            weight_bytes: emitted.report.constant_bytes.saturating_add(delegated),
            file_bytes: emitted.file.total_len,
            arena_bytes: arenas().map(|a| a.bytes).sum(),
            executorch_arena_bytes: arenas().map(|a| a.executorch_bytes).sum(),
            methods,
            instructions: emitted.report.methods.iter().map(|m| m.instructions).sum(),
            operators: operators.len(),
            missing_operators: beside::missing(&operators),
            peak_anonymous_bytes: sampler.finish().map(|m| m.anonymous),
            seconds: self.started.elapsed().as_secs_f64(),
            warnings,
        }
    }
}

struct Lowered {
    emitted: Emitted,
    methods: Vec<String>,
    config: ModelConfig,
    parameters: u64,
    quantization: Option<QuantizationReport>,
    partition: Option<PartitionReport>,
    qnn: Option<QnnReport>,
    warnings: Vec<String>,
}

impl Lowered {
    /// Distinct operators of all methods.
    fn operators(&self) -> Vec<String> {
        let plans = &self.emitted.program.execution_plans;
        let mut all: Vec<String> = plans.iter().flat_map(|p| p.operators.iter().map(ToString::to_string)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// A file whose bytes are hashed as they are written.
struct Hashed<'f> {
    file: &'f mut AtomicFile,
    hash: Option<hash::Hasher>,
}

impl std::io::Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.file.write(bytes)?;
        if let Some(hash) = &mut self.hash {
            hash.update(&bytes[..n]);
        }
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

/// A model ready to be emitted.
struct Captured {
    module: Module,
    config: ModelConfig,
    parameters: u64,
    quantization: Option<QuantizationReport>,
    partition: Option<PartitionReport>,
    qnn: Option<QnnReport>,
}

/// The configuration that a checkpoint has beside its weights.
pub(crate) fn config_of(checkpoint: &Checkpoint) -> Result<ModelConfig, Error> {
    ModelConfig::from_checkpoint(checkpoint).map_err(|e| Error::of_config(checkpoint.path(), e))
}

/// What is odd about a tokenizer of `pieces` tokens for a model of `vocab` rows: more pieces than rows, or less than nine
/// in ten. (Rows are often padded to a round number.)
pub fn odd_vocabulary(pieces: usize, vocab: usize) -> Option<String> {
    let fits = pieces <= vocab && pieces >= vocab - vocab / 10;
    (!fits).then(|| format!("it has {pieces} tokens, against the vocabulary of {vocab}"))
}

/// Every piece of a GGUF file's vocabulary must have a row in its embedding.
fn check_pieces(path: &Path, pieces: &[String], config: &ModelConfig) -> Result<(), Error> {
    let vocab = config.vocab_size;
    match pieces.get(vocab) {
        None => Ok(()),
        Some(piece) => Err(Error::Vocabulary {
            path: path.to_owned(),
            piece: Shown(piece).to_string(),
            id: u32::try_from(vocab).unwrap_or(u32::MAX),
            config: config.file(),
            vocab,
        }),
    }
}

/// Every special token must have a row in the embedding; ordinary tokens have lower ids.
fn check_vocabulary(path: &Path, tokenizer: &Tokenizer, config: &ModelConfig) -> Result<(), Error> {
    let vocab = config.vocab_size;
    let ids = tokenizer.bos_id().into_iter().chain(tokenizer.eos_id());
    match ids.into_iter().find(|&id| id as usize >= vocab) {
        None => Ok(()),
        Some(id) => Err(Error::Vocabulary {
            path: path.to_owned(),
            piece: tokenizer.id_to_piece(id).unwrap_or_default(),
            id,
            config: config.file(),
            vocab,
        }),
    }
}
