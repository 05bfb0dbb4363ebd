//! What the reader of a format hands to [`Checkpoint`](crate::Checkpoint).

use std::path::PathBuf;

use pteron_tensor::{DType, Shape, SharedSource};
use serde_json::Value;

use crate::files::Bytes;
use crate::gguf::{GgmlType, GgufMetadata};
use crate::llama2c::Llama2cHeader;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are, little-endian.
    Plain(DType),
    /// In blocks of llama.cpp's, which are decoded to f32.
    Ggml(GgmlType),
    /// As 8-bit integers in groups with an f32 scale each, as llama2.c has them; decoded to f32.
    GroupedI8,
}

impl Encoding {
    /// The name: `f32`, `Q4_K`.
    pub const fn name(self) -> &'static str {
        match self {
            Encoding::Plain(dtype) => dtype.name(),
            Encoding::Ggml(ty) => ty.name(),
            Encoding::GroupedI8 => "grouped i8",
        }
    }
}

impl std::fmt::Display for Encoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What a checkpoint says about the model, in its format's own terms.
#[derive(Debug, Clone, PartialEq)]
pub enum Description {
    /// The object of a `config.json`; `None` if there is none beside the weights.
    HuggingFace {
        /// The object.
        config: Option<Value>,
    },
    /// The object of Meta's `params.json`; `None` if there is none beside the weights.
    Meta {
        /// The object.
        params: Option<Value>,
    },
    /// The metadata of a GGUF file.
    Gguf(Box<GgufMetadata>),
    /// The header of a llama2.c model.
    Llama2c(Llama2cHeader),
}

/// An opened format. Its tensors may come in any order; names must differ, which
/// [`Checkpoint`](crate::Checkpoint) checks.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) files: Vec<(PathBuf, Bytes)>,
    pub(crate) tensors: Vec<Entry>,
    pub(crate) description: Description,
    /// A sentence each, beginning with the file.
    pub(crate) warnings: Vec<String>,
}

/// A tensor of an opened checkpoint.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: String,
    /// As decoded.
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    /// The position of its file in [`Opened::files`].
    pub(crate) file: usize,
    /// As stored.
    pub(crate) bytes: u64,
    pub(crate) encoding: Encoding,
    pub(crate) place: Place,
}

/// Where the elements of a tensor come from.
#[derive(Debug)]
pub(crate) enum Place {
    /// [`Entry::bytes`] bytes of the file in [`Entry::encoding`], row-major. The reader has checked that they are there.
    Range { offset: u64 },
    /// A source of the reader's own, with the entry's name, element type and shape.
    Source(SharedSource),
}
