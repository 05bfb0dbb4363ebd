//! Why an export or a load failed.

use std::path::{Path, PathBuf};

use pteron_checkpoint::CheckpointError;
use pteron_checkpoint::atomic::AtomicError;
use pteron_exec::ExecError;
use pteron_llm::metadata::MetadataError;
use pteron_llm::tokenizer::TokenizerError;
use pteron_models::ModelError;
use pteron_program::{EmitError, LiftError, WriteError};
use pteron_pte::PteError;
use pteron_tensor::SourceError;

/// Why an export or a load failed. Each message is a sentence that names the file, the field or the option.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A quantization that is not known, does not fit the model, or cannot be done.
    #[error("{reason}")]
    Quantize {
        /// The sentence.
        reason: String,
    },
    /// Calibration data or a calibration state that cannot be used, or a model that cannot be calibrated or evaluated.
    #[error("{reason}")]
    Calibration {
        /// The sentence.
        reason: String,
    },
    /// A program for Qualcomm's tensor processors that cannot be made.
    #[error("{reason}")]
    Qnn {
        /// The sentence.
        reason: String,
    },
    /// The quantized model is too far from the float model.
    #[error(
        "{}: the quantized model is too far from the float model: {} nats of mean KL divergence on {} tokens ({}), more than \
         --max-kl {}; perplexity {:.2} became {:.2}; nothing was written (`pteron sensitivity` ranks the layers, a recipe \
         keeps them float, --allow-degraded writes it all the same)",
        path.display(), crate::error::short(.evaluation.kl), .evaluation.scored, .evaluation.text, .evaluation.max_kl,
        .evaluation.perplexity_float, .evaluation.perplexity
    )]
    Degraded {
        /// The file that would have been written.
        path: PathBuf,
        /// What was measured.
        evaluation: Box<crate::calibration::ExportEvaluation>,
    },
    /// What a backend cannot take.
    #[error("{backend}: {reason}")]
    Backend {
        /// Its id in programs.
        backend: String,
        /// A sentence.
        reason: String,
    },
    /// A checkpoint, or another file, cannot be read.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A model cannot be built from the checkpoint with these options.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// A configuration that is none of a model that can be built.
    #[error("{}: {source}", path.display())]
    Config {
        /// The checkpoint, or the file that has the configuration.
        path: PathBuf,
        /// The field, what was found and what was expected.
        source: Box<ModelError>,
    },
    /// A pass failed or broke the module.
    #[error("the model could not be lowered: {0}")]
    Passes(#[from] Box<pteron_ir::pass::RunError>),
    /// The module cannot be written as a program.
    #[error(transparent)]
    Emit(Box<EmitError>),
    /// The program's bytes could not be produced.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file to be written.
        path: PathBuf,
        /// What went wrong.
        source: Box<WriteError>,
    },
    /// The file could not be put in its place.
    #[error(transparent)]
    Atomic(#[from] AtomicError),
    /// What was written does not read back.
    #[error("{}: the program just made does not verify: {source}", path.display())]
    ReadBack {
        /// The file to be written.
        path: PathBuf,
        /// What is wrong.
        source: Box<PteError>,
    },
    /// A file of one format that breaks its rules.
    #[error("{}: {source}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<PteError>,
    },
    /// A file of another format.
    #[error("{}: {found}; expected {expected}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A file's bytes could not be reached.
    #[error("{}: {source}", path.display())]
    Source {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: Box<SourceError>,
    },
    /// A program that cannot be lifted to a module.
    #[error("{}: {source}", path.display())]
    Lift {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: Box<LiftError>,
    },
    /// A program that cannot be prepared or executed.
    #[error("{}: {source}", path.display())]
    Exec {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: Box<ExecError>,
    },
    /// Inputs that do not fit a method.
    #[error("{}: method `{method}`: {reason}", path.display())]
    Call {
        /// The file.
        path: PathBuf,
        /// The method.
        method: String,
        /// What was given and what was expected.
        reason: String,
    },
    /// A program that generates no text.
    #[error("{}: method `{method}` does not generate text: {reason}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// The method.
        method: String,
        /// What was found and what was expected.
        reason: String,
    },
    /// A constant method with an unusable value.
    #[error("{}: {source}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// Which.
        source: Box<MetadataError>,
    },
    /// A tokenizer that cannot be read.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<TokenizerError>,
    },
    /// A tokenizer that does not belong to the model.
    #[error(
        "{}: token {piece:?} has id {id}, but {config} has vocab_size {vocab}: this tokenizer does not belong to this \
         model",
        path.display()
    )]
    Vocabulary {
        /// The tokenizer's file.
        path: PathBuf,
        /// The token.
        piece: String,
        /// Its id.
        id: u32,
        /// The file that gives the vocabulary's size.
        config: &'static str,
        /// That size.
        vocab: usize,
    },
    /// Memory could not be locked.
    #[error(
        "{}: {bytes} bytes could not be locked in memory: {source}; raise the limit (`ulimit -l`) or load by `mmap`",
        path.display()
    )]
    Lock {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// Why the configuration of the checkpoint or file `path` was refused.
    pub(crate) fn of_config(path: &Path, e: ModelError) -> Error {
        match e {
            // These name a field; the others say themselves which file they speak of.
            ModelError::UnknownArchitecture { .. } | ModelError::Field { .. } => {
                Error::Config { path: path.to_owned(), source: Box::new(e) }
            }
            e => e.into(),
        }
    }
}

/// A number in three or four digits, for people.
pub fn short(v: f64) -> String {
    match v {
        v if v == 0.0 || !v.is_finite() => format!("{v}"),
        v if v.abs() >= 0.01 && v.abs() < 1000.0 => format!("{v:.3}"),
        v => format!("{v:.2e}"),
    }
}

impl From<CheckpointError> for Error {
    fn from(e: CheckpointError) -> Error {
        Error::Checkpoint(Box::new(e))
    }
}

impl From<ModelError> for Error {
    fn from(e: ModelError) -> Error {
        Error::Model(Box::new(e))
    }
}

impl From<EmitError> for Error {
    fn from(e: EmitError) -> Error {
        Error::Emit(Box::new(e))
    }
}
