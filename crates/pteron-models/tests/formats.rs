//! One model in the spellings of every format: the modules are the same, to the last bit of their constants.

mod common;

use std::fs;
use std::path::Path;

use common::tiny;
use pteron_checkpoint::{Checkpoint, CheckpointKind, SafetensorsWriter, TensorSpec};
use pteron_ir::{ConstData, Module, print};
use pteron_models::{
    BuildOptions, CheckpointWeights, ConfigFormat, ModelConfig, ModelError, Parameter, RopeScaling, Rotation,
    SyntheticSource, Weights, WeightsOptions, build, parameters,
};
use pteron_tensor::{DType, read_all};
use pteron_testkit::gguf::{Field, GgufFile};
use pteron_testkit::torch::{self, TorchTensor};
use serde_json::{Value, json};

/// The elements of a weight in the module's order.
fn values(p: &Parameter) -> Vec<f32> {
    let source = SyntheticSource::new(&p.name, DType::F32, &p.shape, 3).unwrap();
    read_all(&source).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

/// Rows of heads whose rotary pairs are halves, with the pairs as neighbours: written as the converters define it,
/// `[heads, 2, D/2, …]` to `[heads, D/2, 2, …]`.
fn neighbours(values: &[f32], rows: usize, head_dim: usize) -> Vec<f32> {
    let (width, half) = (values.len() / rows, head_dim / 2);
    let mut out = Vec::with_capacity(values.len());
    for head in 0..rows / head_dim {
        for pair in 0..half {
            for side in 0..2 {
                let row = head * head_dim + side * half + pair;
                out.extend(&values[row * width..][..width]);
            }
        }
    }
    out
}

/// What a checkpoint of the configuration's format stores for `p`.
fn stored(p: &Parameter, head_dim: usize) -> Vec<f32> {
    let values = values(p);
    if p.interleaved { neighbours(&values, p.shape[0], head_dim) } else { values }
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn write_hugging_face(folder: &Path, config: &ModelConfig, json: &Value) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), json.to_string()).unwrap();
    let all = parameters(config);
    let specs: Vec<TensorSpec> = all.iter().map(|p| TensorSpec::new(&p.name, DType::F32, &p.shape)).collect();
    let mut w = SafetensorsWriter::create(folder.join("model.safetensors"), &specs, &[("format", "pt")]).unwrap();
    all.iter().for_each(|p| w.write(&bytes(&values(p))).unwrap());
    w.finish().unwrap();
}

/// The same model as llama.cpp's converter writes it.
fn gguf(config: &ModelConfig, architecture: &str) -> GgufFile {
    let c = ModelConfig { format: ConfigFormat::Gguf, interleaved: architecture == "llama", ..config.clone() };
    let mut f = GgufFile::default();
    f.set("general.architecture", Field::Text(architecture.into()));
    let int = |n: usize| Field::U32(u32::try_from(n).unwrap());
    for (key, value) in [
        ("block_count", int(c.n_layers)),
        ("context_length", int(c.max_position_embeddings)),
        ("embedding_length", int(c.dim)),
        ("feed_forward_length", int(c.hidden_dim)),
        ("attention.head_count", int(c.n_heads)),
        ("attention.head_count_kv", int(c.n_kv_heads)),
        ("attention.key_length", int(c.head_dim)),
        ("attention.value_length", int(c.head_dim)),
        ("attention.layer_norm_rms_epsilon", Field::F32(c.norm_eps as f32)),
        ("rope.freq_base", Field::F32(c.rope.theta as f32)),
    ] {
        f.set(&format!("{architecture}.{key}"), value);
    }
    f.set("tokenizer.ggml.bos_token_id", Field::U32(1));
    f.set("tokenizer.ggml.eos_token_id", Field::U32(2));
    f.set("tokenizer.ggml.eot_token_id", Field::U32(3));
    for p in parameters(&c) {
        f.f32(&p.stored, &p.shape, &stored(&p, c.head_dim));
    }
    f
}

fn built(checkpoint: &Checkpoint, rotated: bool) -> Result<Module, ModelError> {
    let mut config = ModelConfig::from_checkpoint(checkpoint)?;
    let rotation = if rotated { Some(Rotation::hadamard(&config, 1)?) } else { None };
    let weights =
        CheckpointWeights::new(checkpoint, &config, &WeightsOptions { rotation, ..WeightsOptions::default() })?;
    assert!(weights.warnings().is_empty() && weights.unexpected().is_empty());
    weights.configure(&mut config);
    assert!(!(rotated && config.tie_word_embeddings));
    build(&config, &weights, &BuildOptions { use_kv_cache: true, ..BuildOptions::default() })
}

#[track_caller]
fn same(a: &Module, b: &Module) {
    // Small constants are printed where their bytes lie in memory as they are; all are compared below.
    let text = |m: &Module| -> Vec<String> {
        let cut = |l: &str| {
            if l.starts_with("  const ") { l.split(" = ").next().unwrap_or("").to_owned() } else { l.to_owned() }
        };
        print::module(m).lines().skip(1).map(cut).collect()
    };
    for (x, y) in text(a).iter().zip(&text(b)) {
        assert_eq!(x, y);
    }
    assert_eq!(text(a).len(), text(b).len());
    assert_eq!(a.constants.len(), b.constants.len());
    for (x, y) in a.constants.values().zip(b.constants.values()) {
        assert_eq!(x.name, y.name);
        let (ConstData::Source(x), ConstData::Source(y)) = (&x.data, &y.data) else { continue };
        assert!(read_all(x.as_ref()).unwrap()[..] == read_all(y.as_ref()).unwrap()[..], "{}", x.label());
    }
}

fn config_of(class: &str, changes: Value) -> (ModelConfig, Value) {
    let mut v = json!({
        "architectures": [class], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "sliding_window": null, "bos_token_id": 1, "eos_token_id": [2, 3]
    });
    for (k, x) in changes.as_object().unwrap() {
        v[k] = x.clone();
    }
    (ModelConfig::from_hf(&v).unwrap(), v)
}

#[test]
fn gguf_files_give_the_modules_of_folders() {
    for (class, architecture, changes) in [
        ("LlamaForCausalLM", "llama", json!({})),
        ("LlamaForCausalLM", "llama", json!({"tie_word_embeddings": true, "rope_theta": 500000.0})),
        ("LlamaForCausalLM", "llama", json!({"attention_bias": true, "mlp_bias": true, "head_dim": 8})),
        ("MistralForCausalLM", "llama", json!({})),
        ("Qwen2ForCausalLM", "qwen2", json!({"rms_norm_eps": 1e-6})),
        ("Qwen3ForCausalLM", "qwen3", json!({"tie_word_embeddings": true})),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (config, json) = config_of(class, changes);
        write_hugging_face(&dir.path().join("hf"), &config, &json);
        let path = dir.path().join("m.gguf");
        fs::write(&path, gguf(&config, architecture).bytes()).unwrap();
        let [hf, gguf] = [dir.path().join("hf"), path].map(|p| Checkpoint::open(p).unwrap());
        assert_eq!(gguf.kind(), CheckpointKind::Gguf);
        let read = ModelConfig::from_checkpoint(&gguf).unwrap();
        assert_eq!((read.bos_token_id, &read.eos_token_ids[..]), (Some(1), &[2i64, 3][..]));
        assert_eq!(read.norm_eps, config.norm_eps);
        for rotated in [false, true] {
            same(&built(&hf, rotated).unwrap(), &built(&gguf, rotated).unwrap());
        }
    }
}

#[test]
fn metas_files_give_the_modules_of_folders() {
    for tied in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (config, json) = config_of("LlamaForCausalLM", json!({"tie_word_embeddings": tied}));
        write_hugging_face(&dir.path().join("hf"), &config, &json);
        let params = json!({"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1,
            "hidden_dim": 160, "multiple_of": 1, "norm_eps": 1e-5, "rope_theta": 10000.0});
        let folder = dir.path().join("meta");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("params.json"), params.to_string()).unwrap();
        let c = ModelConfig { format: ConfigFormat::Meta, interleaved: true, ..config };
        let all = parameters(&c);
        let tensors: Vec<TorchTensor> = all
            .iter()
            .map(|p| TorchTensor { name: p.stored.clone(), class: "FloatStorage", shape: p.shape.clone() })
            .collect();
        let mut file = Vec::new();
        torch::save(&mut file, &tensors, &mut |t| {
            let p = all.iter().find(|p| p.stored == t.name).unwrap();
            bytes(&stored(p, 16))
        })
        .unwrap();
        fs::write(folder.join("consolidated.00.pth"), file).unwrap();
        let [hf, meta] = [dir.path().join("hf"), folder].map(|p| Checkpoint::open(p).unwrap());
        for rotated in [false, true] {
            same(&built(&hf, rotated).unwrap(), &built(&meta, rotated).unwrap());
        }
    }
}

#[test]
fn blocks_are_reached_through_the_modules_names() {
    let (config, _) = config_of("LlamaForCausalLM", json!({}));
    let mut f = gguf(&config, "llama");
    let q = f.tensors.iter_mut().find(|t| t.name == "blk.0.attn_q.weight").unwrap();
    // Q8_0: a scale of 1 and codes that count rows.
    q.ty = 8;
    q.bytes = (0..64u8).flat_map(|row| [[0, 0x3C].as_slice(), &[row; 32], &[0, 0x3C], &[row; 32]].concat()).collect();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m.gguf"), f.bytes()).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    let config = ModelConfig::from_checkpoint(&c).unwrap();
    let weights = CheckpointWeights::new(&c, &config, &WeightsOptions::default()).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let blocks = weights.blocks(name).unwrap().unwrap();
    let decoded = read_all(weights.get(name, &[64, 64]).unwrap().as_ref()).unwrap();
    for row in 0..64 {
        let mut codes = vec![0; blocks.row_bytes()];
        let from = weights.stored_row(name, row);
        blocks.read_rows(from..from + 1, &mut codes).unwrap();
        let value = f32::from_le_bytes(decoded[row * 256..][..4].try_into().unwrap());
        assert_eq!(value, f32::from(codes[2]), "{row}");
    }
    assert_eq!([0, 1, 8, 9, 16].map(|row| weights.stored_row(name, row)), [0, 2, 1, 3, 16]);
    assert_eq!(weights.stored_row("model.layers.0.mlp.up_proj.weight", 1), 1);
    assert!(weights.blocks("model.norm.weight").unwrap().is_none());
}

/// The configuration of a GGUF file with one change.
fn changed(change: impl FnOnce(&mut GgufFile)) -> Result<ModelConfig, String> {
    let (config, _) = config_of("LlamaForCausalLM", json!({}));
    let mut f = gguf(&config, "llama");
    change(&mut f);
    let bytes = std::sync::Arc::new(pteron_checkpoint::MemoryBytes::new(f.bytes()));
    let c = Checkpoint::from_bytes("m.gguf", bytes, None).unwrap();
    ModelConfig::from_checkpoint(&c).map_err(|e| e.to_string())
}

#[test]
fn scaling_of_gguf_files() {
    let with = |fields: &[(&str, Field)]| {
        changed(|f| {
            for (key, value) in fields {
                f.set(&format!("llama.rope.scaling.{key}"), value.clone());
            }
        })
    };
    let text = |s: &str| Field::Text(s.into());
    assert_eq!(with(&[]).unwrap().rope.scaling, RopeScaling::None);
    let linear = with(&[("type", text("linear")), ("factor", Field::F32(4.0))]).unwrap();
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let original = ("original_context_length", Field::U32(32));
    let yarn = with(&[("type", text("yarn")), ("factor", Field::F32(4.0)), original]).unwrap();
    let hf = json!({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}});
    assert_eq!(yarn.rope, tiny("LlamaForCausalLM", hf).rope);
    let e = with(&[("type", text("longrope"))]).unwrap_err();
    assert!(e.contains("field `llama.rope.scaling.type`: found \"longrope\", expected none, linear or yarn"), "{e}");

    // Llama 3.1's factors are a tensor.
    let factors = changed(|f| {
        f.f32("rope_freqs.weight", &[8], &[1.0, 1.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]);
    })
    .unwrap();
    let plain = changed(|_| {}).unwrap();
    let (base, scaled) =
        (pteron_models::rope::inv_freq(&plain.rope, 16), pteron_models::rope::inv_freq(&factors.rope, 16));
    assert_eq!((scaled[2], scaled[4], scaled[7]), (base[2], base[4] / 4.0, base[7] / 8.0));
    for (shape, values) in [(7, [1.0; 7].to_vec()), (8, [0.0; 8].to_vec())] {
        let e = changed(|f| {
            f.f32("rope_freqs.weight", &[shape], &values);
        });
        assert!(e.unwrap_err().contains("field `rope_freqs.weight`"));
    }
}

#[test]
fn what_is_wrong_with_a_gguf_model_is_named() {
    let set = |key: &str, value: Field| {
        changed(|f| {
            f.set(key, value);
        })
        .unwrap_err()
    };
    let e = set("general.architecture", Field::Text("gemma3".into()));
    assert_eq!(e, "the GGUF metadata: architecture `gemma3` is not supported; known are llama, qwen2, qwen3");
    let e = set("general.architecture", Field::Text("qwen2".into()));
    assert!(e.contains("field `qwen2.block_count`: found nothing"), "{e}");
    for (key, value, says) in [
        ("llama.block_count", Field::U32(0), "found 0, expected an integer from 1 to"),
        ("llama.expert_count", Field::U32(8), "found 8, expected 0, or nothing"),
        ("llama.attention.value_length", Field::U32(8), "expected 16, the size of a head"),
        ("llama.rope.dimension_count", Field::U32(8), "expected 16, the size of a head"),
        ("llama.embedding_length", Field::Text("x".into()), "found \"x\""),
        ("llama.attention.head_count_kv", Field::I32s(vec![2, 4]), "a list of different numbers"),
        ("llama.attention.layer_norm_rms_epsilon", Field::F32(f32::NAN), "found \"NaN\""),
    ] {
        let e = set(key, value);
        assert!(e.contains(&format!("field `{key}`")) && e.contains(says), "{e}");
    }
    let e = set("tokenizer.ggml.eos_token_id", Field::U32(512));
    assert!(e.contains("field `eos_token_id`: found 512, expected a token from 0 to 511"), "{e}");
    // The same number for every layer is the number.
    let same = changed(|f| {
        f.set("llama.attention.head_count_kv", Field::I32s(vec![2, 2]));
    });
    assert_eq!(same.unwrap().n_kv_heads, 2);
}

#[test]
fn a_weight_that_is_missing_from_a_gguf_file() {
    let (config, _) = config_of("LlamaForCausalLM", json!({}));
    let mut f = gguf(&config, "llama");
    f.tensors.retain(|t| t.name != "blk.1.ffn_up.weight");
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("m.gguf"), f.bytes()).unwrap();
    let e = built(&Checkpoint::open(dir.path()).unwrap(), false).unwrap_err().to_string();
    assert!(e.contains("missing `blk.1.ffn_up.weight`") && e.contains("m.gguf"), "{e}");
}

/// SmolLM2 as shipped, in blocks of Q4_1 and Q8_0, against the folder that `tools/make_smollm2.py` decodes from it.
#[test]
fn smollm2_as_shipped_gives_the_module_of_the_folder() {
    let test = "formats::smollm2_as_shipped_gives_the_module_of_the_folder";
    let (Some(folder), Some(gguf)) =
        (pteron_testkit::fetched(test, "smollm2-135m"), pteron_testkit::fetched(test, "smollm2-135m-gguf"))
    else {
        return;
    };
    let [hf, gguf] = [folder, gguf].map(|p| Checkpoint::open(p).unwrap());
    same(&built(&hf, false).unwrap(), &built(&gguf, false).unwrap());
}
