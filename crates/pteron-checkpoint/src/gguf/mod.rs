//! GGUF, llama.cpp's format: metadata with the tokenizer, and tensors in plain numbers or in blocks that share scales.

mod blocks;
mod codes;
mod decode;
mod grids;
mod metadata;
mod reader;
mod types;
mod vocabulary;

use std::path::PathBuf;

use pteron_tensor::DType;

pub(crate) use blocks::BlockSource;
pub use blocks::GgmlBlocks;
pub use metadata::{GgufArray, GgufMetadata, GgufValue};
pub use types::GgmlType;
pub use vocabulary::GgufVocabulary;

use crate::error::CheckpointError;
use crate::files::Bytes;
use crate::opened::{Description, Encoding, Entry, Opened, Place};
use reader::Part;

/// Reads a GGUF file, or all parts of one in their order.
pub(crate) fn open(files: Vec<(PathBuf, Bytes)>) -> Result<Opened, CheckpointError> {
    let mut tensors = Vec::new();
    let mut metadata: Option<GgufMetadata> = None;
    let mut declared = None;
    for (file, (path, bytes)) in files.iter().enumerate() {
        let Part { metadata: own, tensors: listed } = reader::read(path, bytes.shared().as_ref())?;
        check_part(&own, file, files.len())?;
        if file == 0 {
            declared = own.u32("split.tensors.count")?;
            metadata = Some(own);
        }
        tensors.extend(listed.into_iter().map(|t| Entry {
            name: t.name,
            dtype: t.ty.plain().unwrap_or(DType::F32),
            shape: t.shape,
            file,
            bytes: t.bytes,
            encoding: t.ty.plain().map_or(Encoding::Ggml(t.ty), Encoding::Plain),
            place: Place::Range { offset: t.offset },
        }));
    }
    let Some(metadata) = metadata else {
        return Err(CheckpointError::Gguf { path: PathBuf::new(), reason: "there is no file".to_owned() });
    };
    if let Some(n) = declared.filter(|&n| files.len() > 1 && n as usize != tensors.len()) {
        let reason = format!("its parts have {} tensors together, and split.tensors.count says {n}", tensors.len());
        return Err(CheckpointError::Gguf { path: metadata.path, reason });
    }
    let description = Description::Gguf(Box::new(metadata));
    Ok(Opened { files, tensors, description, warnings: Vec::new() })
}

/// What the part itself says about being number `at` of `count`.
fn check_part(own: &GgufMetadata, at: usize, count: usize) -> Result<(), CheckpointError> {
    let fail = |reason: String| Err(CheckpointError::Gguf { path: own.path.clone(), reason });
    let declared = own.u32("split.count")?.unwrap_or(1).max(1) as usize;
    let number = own.u32("split.no")?.unwrap_or(0) as usize;
    if declared == count && number == at {
        return Ok(());
    }
    if count == 1 {
        return fail(format!(
            "it is part {} of {declared} (split.no, split.count), and its name does not end in \
             -{:05}-of-{declared:05}.gguf, by which the others could be found",
            number.saturating_add(1),
            number.saturating_add(1)
        ));
    }
    fail(format!(
        "it is part {} of {declared} by split.no and split.count, and part {} of {count} by its name",
        number.saturating_add(1),
        at + 1
    ))
}
