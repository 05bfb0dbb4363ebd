//! Drives the readers with the bytes of one file, as far as they go; the fuzz targets use this file as well.
#![allow(dead_code, reason = "each user takes a part")]

use std::path::Path;
use std::sync::Arc;

use pteron_checkpoint::{Checkpoint, GenerationConfigFile, MemoryBytes};

/// Opens a checkpoint of one file, and reads every tensor: whole where it is small, its first and last row where not.
pub(crate) fn checkpoint(bytes: &[u8]) -> Result<(), String> {
    let source = Arc::new(MemoryBytes::new(bytes.to_vec()));
    let c = Checkpoint::from_bytes("file", source, None).map_err(|e| e.to_string())?;
    read_all_tensors(&c);
    let _ = (c.config_json().map(drop), c.gguf_vocabulary().map(drop), c.warnings().len());
    Ok(())
}

/// Reads every tensor of a checkpoint; a tensor that cannot be read is an error, not a panic.
pub(crate) fn read_all_tensors(c: &Checkpoint) {
    for info in c.tensors() {
        let Ok(t) = c.get(info.name) else { continue };
        let size = t.dtype().bytes_for(t.shape().iter().product());
        if size.is_some_and(|n| n <= 1 << 20) {
            if let Ok(all) = pteron_tensor::read_all(t.as_ref()) {
                assert_eq!(Some(all.len()), size, "{} has another size", info.name);
            }
            continue;
        }
        let row = t.dtype().bytes_for(t.shape().iter().skip(1).product());
        let rows = t.shape().first().copied().unwrap_or(0);
        if let Some(row) = row.filter(|&n| n <= 1 << 20) {
            let mut out = vec![0u8; row];
            for first in [0, rows.saturating_sub(1)] {
                let _ = t.read_rows(first..first + 1, &mut out);
            }
        }
    }
}

/// Reads a `generation_config.json`.
pub(crate) fn generation_config(bytes: &[u8]) -> Result<(), String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
    GenerationConfigFile::from_json(Path::new("generation_config.json"), &value).map_err(|e| e.to_string())?;
    Ok(())
}
