//! Reads model checkpoints: names, shapes, lazily decoded bytes. Writes safetensors.
//!
//! [`Checkpoint::open`] takes a Hugging Face folder (one `model.safetensors`, or shards with their index), Meta's
//! `consolidated.*.pth` with `params.json`, a [GGUF](gguf) file or its parts, a llama2.c model, or a file of weights by
//! itself. It checks every header against the bytes that are there, and hands out [tensor sources] that touch the file only
//! when rows are asked for. What a path holds is told by its content ([`FileKind`]), never by its name. Nothing in a
//! checkpoint is ever executed, and no model architecture is known here: [`Description`] is what the format itself says of
//! the model, for those who know.
//!
//! Files are foreign: each limit is a constant in [`limits`], each error names the file and, where there is one, the
//! tensor or field.
//!
//! [`atomic::AtomicFile`] is the way in which every writer of the project puts a file in its place.
//!
//! ```
//! use pteron_checkpoint::{Checkpoint, SafetensorsWriter, TensorSpec};
//! use pteron_tensor::{DType, read_all};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("model.safetensors");
//! let specs = [TensorSpec::new("norm.weight", DType::F32, &[2])];
//! let mut writer = SafetensorsWriter::create(&path, &specs, &[("format", "pt")])?;
//! writer.write(&[0, 0, 128, 63, 0, 0, 0, 64])?;
//! writer.finish()?;
//!
//! let checkpoint = Checkpoint::open(&path)?;
//! let tensor = checkpoint.get("norm.weight")?;
//! assert_eq!((tensor.dtype(), tensor.shape()), (DType::F32, &[2][..]));
//! assert_eq!(read_all(tensor.as_ref())?.len(), 8);
//! # Ok(())
//! # }
//! ```
//!
//! [tensor sources]: pteron_tensor::TensorSource

pub mod atomic;
mod checkpoint;
mod error;
mod expect;
mod files;
mod folder;
pub mod gguf;
mod header;
mod json;
mod kind;
pub mod limits;
mod llama2c;
mod opened;
mod pytorch;
mod side;
mod writer;

pub use checkpoint::{Checkpoint, CheckpointKind, OpenOptions, TensorInfo};
pub use error::{CheckpointError, Shown};
pub use expect::{CheckReport, Expectations, ExpectedTensor, MissingTensor, TensorMismatches, WrongShape};
pub use files::{FileBytes, LoadMode, MappedFile, MemoryBytes, open_bytes, read_limited};
pub use header::{HeaderTensor, SafetensorsHeader};
pub use kind::FileKind;
pub use llama2c::Llama2cHeader;
pub use opened::{Description, Encoding};
pub use side::{GenerationConfigFile, TokenizerFiles};
pub use writer::{SafetensorsWriter, TensorSpec};
