//! Checkpoints made in temporary folders.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::{Path, PathBuf};

use pteron_checkpoint::{Checkpoint, LoadMode, OpenOptions, SafetensorsWriter, TensorSpec};
use pteron_tensor::DType;

/// Bytes that differ from tensor to tensor.
pub(crate) fn bytes_of(spec: &TensorSpec) -> Vec<u8> {
    let seed = spec.name.bytes().fold(17u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    let len = spec.dtype.bytes_for(spec.shape.iter().product()).unwrap();
    (0..len as u32).map(|i| (seed.wrapping_add(i.wrapping_mul(2_654_435_761)) >> 13) as u8).collect()
}

/// The names and shapes of a tiny tied Llama in bf16 with f32 norms.
pub(crate) fn llama() -> Vec<TensorSpec> {
    let mut specs = vec![
        TensorSpec::new("model.embed_tokens.weight", DType::BF16, &[32, 8]),
        TensorSpec::new("model.norm.weight", DType::F32, &[8]),
    ];
    for layer in 0..2 {
        let p = format!("model.layers.{layer}");
        specs.push(TensorSpec::new(format!("{p}.self_attn.q_proj.weight"), DType::BF16, &[8, 8]));
        specs.push(TensorSpec::new(format!("{p}.self_attn.k_proj.weight"), DType::BF16, &[4, 8]));
        specs.push(TensorSpec::new(format!("{p}.mlp.up_proj.weight"), DType::BF16, &[24, 8]));
        specs.push(TensorSpec::new(format!("{p}.input_layernorm.weight"), DType::F32, &[8]));
    }
    specs
}

pub(crate) fn write(path: &Path, specs: &[TensorSpec]) {
    let mut w = SafetensorsWriter::create(path, specs, &[("format", "pt")]).unwrap();
    for spec in specs {
        // Odd pieces, so that rows and elements are cut.
        for piece in bytes_of(spec).chunks(37) {
            w.write(piece).unwrap();
        }
    }
    w.finish().unwrap();
}

/// A folder with `config.json` and one file of weights.
pub(crate) fn single(folder: &Path, specs: &[TensorSpec]) -> PathBuf {
    std::fs::write(folder.join("config.json"), r#"{"model_type": "llama", "hidden_size": 8}"#).unwrap();
    write(&folder.join("model.safetensors"), specs);
    folder.to_owned()
}

pub(crate) const SHARDS: [&str; 3] =
    ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A folder with `config.json`, three shards and their index.
pub(crate) fn sharded(folder: &Path, specs: &[TensorSpec]) -> PathBuf {
    std::fs::write(folder.join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    let mut map = serde_json::Map::new();
    for (i, shard) in SHARDS.iter().enumerate() {
        let part: Vec<TensorSpec> = specs.iter().skip(i).step_by(SHARDS.len()).cloned().collect();
        write(&folder.join(shard), &part);
        map.extend(part.iter().map(|s| (s.name.clone(), (*shard).into())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(folder.join(INDEX), index.to_string()).unwrap();
    folder.to_owned()
}

pub(crate) fn open_file_mode(path: &Path) -> Result<Checkpoint, pteron_checkpoint::CheckpointError> {
    Checkpoint::open_with(path, &OpenOptions { load: LoadMode::File })
}

/// Opening must fail in both modes with the same message, which has each of `parts`.
#[track_caller]
pub(crate) fn refused(path: &Path, parts: &[&str]) {
    let e = Checkpoint::open(path).unwrap_err().to_string();
    assert_eq!(open_file_mode(path).unwrap_err().to_string(), e);
    for part in parts {
        assert!(e.contains(part), "`{part}` is not in: {e}");
    }
}
