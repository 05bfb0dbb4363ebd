//! Why no module can be made.

use std::path::PathBuf;

use pteron_checkpoint::{CheckpointError, Shown};
use pteron_ir::InferError;
use pteron_tensor::{DType, SourceError};

/// Why no module can be made. Each message names the file and field, the weight or the option.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A model of another family.
    #[error("{file}: architecture `{}` is not supported; known are {known}", Shown(found))]
    UnknownArchitecture {
        /// The file that names it.
        file: &'static str,
        /// The name found.
        found: String,
        /// The names known.
        known: String,
    },
    /// A field of a configuration that is missing, of another type, out of range or at odds with another.
    #[error("{file}: field `{}`: found {}, expected {expected}", Shown(field), Shown(found))]
    Field {
        /// The file.
        file: &'static str,
        /// The field, with dots between levels.
        field: String,
        /// What is there.
        found: String,
        /// What would do.
        expected: String,
    },
    /// An option that does not fit the model or another option.
    #[error("option `{option}`: found {found}, expected {expected}")]
    Option {
        /// Its name, as on the command line.
        option: &'static str,
        /// What was given.
        found: String,
        /// What would do.
        expected: String,
    },
    /// An entry of the metadata to be added.
    #[error("metadata `{}`: found {}, expected {expected}", Shown(name), Shown(found))]
    Metadata {
        /// The entry's name.
        name: String,
        /// What is there.
        found: String,
        /// What would do.
        expected: &'static str,
    },
    /// The checkpoint cannot be read, or does not have the tensors that its configuration implies.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A weight cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A weight that the look-up does not have.
    #[error("weight `{}` is missing", Shown(.0))]
    MissingWeight(String),
    /// A weight that is stored as codes which cannot be read.
    #[error("weight `{}`: {reason}", Shown(name))]
    Codes {
        /// Its name in the checkpoint.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of rotations that is not the model's.
    #[error("{}: {reason}", path.display())]
    Rotation {
        /// The file.
        path: PathBuf,
        /// What is wrong, naming the matrix.
        reason: String,
    },
    /// A weight of other sizes than the model's.
    #[error("weight `{}` has shape {found:?}, expected {expected:?}", Shown(name))]
    WeightShape {
        /// Its name.
        name: String,
        /// Its sizes.
        found: Vec<usize>,
        /// The sizes needed.
        expected: Vec<usize>,
    },
    /// A weight whose elements are no floats.
    #[error("weight `{}` has dtype {found}, expected f32, f16, bf16 or f64", Shown(name))]
    WeightDType {
        /// Its name.
        name: String,
        /// Its element type.
        found: DType,
    },
    /// An operator that refuses its arguments.
    #[error("module `{path}`: {source}")]
    Graph {
        /// The module path at which it was called.
        path: String,
        /// What it says.
        source: InferError,
    },
}
