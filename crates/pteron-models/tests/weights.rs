//! Checkpoints against configurations: names, shapes, ties.

mod common;

use std::path::PathBuf;

use common::tiny;
use pteron_checkpoint::{Checkpoint, CheckpointError, SafetensorsWriter, TensorSpec};
use pteron_ir::ConstData;
use pteron_models::{
    BuildOptions, CheckpointWeights, ModelConfig, ModelError, Parameter, SyntheticSource, Weights, WeightsOptions,
    build, parameters,
};
use pteron_tensor::{DType, TensorSource, read_all};
use serde_json::json;

/// Writes a checkpoint of these weights in bf16; those of `same` have the embedding's elements.
fn write(folder: &tempfile::TempDir, parameters: &[Parameter], same: Option<&str>) -> PathBuf {
    let path = folder.path().join("model.safetensors");
    let specs: Vec<TensorSpec> = parameters.iter().map(|p| TensorSpec::new(&p.stored, DType::BF16, &p.shape)).collect();
    let mut writer = SafetensorsWriter::create(&path, &specs, &[("format", "pt")]).unwrap();
    for p in parameters {
        let name = if Some(p.name.as_str()) == same { "model.embed_tokens.weight" } else { &p.name };
        let source = SyntheticSource::new(name, DType::BF16, &p.shape, 1).unwrap();
        writer.write(&read_all(&source).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn extra(name: &str, shape: &[usize]) -> Parameter {
    Parameter {
        name: name.into(),
        stored: name.into(),
        shape: shape.to_vec(),
        because: String::new(),
        interleaved: false,
    }
}

fn check<'a>(checkpoint: &'a Checkpoint, config: &ModelConfig) -> Result<CheckpointWeights<'a>, ModelError> {
    CheckpointWeights::new(checkpoint, config, &WeightsOptions::default())
}

#[test]
fn a_checkpoint_gives_every_weight() {
    for (class, changes) in [
        ("LlamaForCausalLM", json!({"attention_bias": true, "mlp_bias": true})),
        ("Qwen2ForCausalLM", json!({})),
        ("Qwen3ForCausalLM", json!({"tie_word_embeddings": true})),
    ] {
        let c = tiny(class, changes);
        let folder = tempfile::tempdir().unwrap();
        let mut all = parameters(&c);
        all.push(extra("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]));
        let checkpoint = Checkpoint::open(write(&folder, &all, None)).unwrap();
        let weights = check(&checkpoint, &c).unwrap();
        assert!(weights.warnings().is_empty() && weights.unexpected().is_empty());
        let m = build(&c, &weights, &BuildOptions::default()).unwrap();
        for k in m.constants.values().filter(|k| !k.name.contains("freqs")) {
            let ConstData::Source(source) = &k.data else { panic!("no source") };
            let expected = SyntheticSource::new(&k.name, DType::BF16, source.shape(), 1).unwrap();
            let (a, b) = (read_all(source.as_ref()).unwrap(), read_all(&expected).unwrap());
            let wide: Vec<[u8; 4]> =
                b.as_chunks::<2>().0.iter().map(|h| half::bf16::from_le_bytes(*h).to_f32().to_le_bytes()).collect();
            assert_eq!(a.as_chunks::<4>().0, wide, "{}", k.name);
        }
    }
}

#[test]
fn every_difference_is_named_with_its_file() {
    let c = tiny("LlamaForCausalLM", json!({}));
    let folder = tempfile::tempdir().unwrap();
    let mut all = parameters(&c);
    all.retain(|p| p.name != "model.layers.1.mlp.up_proj.weight");
    let embedding = all.iter_mut().find(|p| p.name == "model.embed_tokens.weight").unwrap();
    embedding.shape = vec![516, 64];
    all.push(extra("model.layers.0.self_attn.q_proj.bias", &[64]));
    let path = write(&folder, &all, None);
    let checkpoint = Checkpoint::open(&path).unwrap();
    let error = check(&checkpoint, &c).unwrap_err();
    let text = error.to_string();
    let ModelError::Checkpoint(CheckpointError::Mismatch(wrong)) = error else { panic!("{error}") };
    assert_eq!(wrong.missing[0].name, "model.layers.1.mlp.up_proj.weight");
    assert_eq!((&wrong.wrong_shape[0].file, &wrong.wrong_shape[0].found[..]), (&path, &[516, 64][..]));
    assert_eq!(wrong.unexpected[0].0, "model.layers.0.self_attn.q_proj.bias");
    assert!(text.contains("vocab_size 512, hidden_size 64 of config.json"), "{text}");

    // What is merely too much can be let through, and is told.
    let folder = tempfile::tempdir().unwrap();
    let mut all = parameters(&c);
    all.push(extra("model.vision.weight", &[2]));
    let checkpoint = Checkpoint::open(write(&folder, &all, None)).unwrap();
    assert!(check(&checkpoint, &c).is_err());
    let lax = WeightsOptions { allow_unexpected: true, ..WeightsOptions::default() };
    let weights = CheckpointWeights::new(&checkpoint, &c, &lax).unwrap();
    assert_eq!(weights.unexpected(), ["model.vision.weight"]);
    assert!(weights.warnings()[0].contains("model.vision.weight"));
}

#[test]
fn a_tied_output_may_be_written_twice() {
    let tied = tiny("LlamaForCausalLM", json!({"tie_word_embeddings": true}));
    let untied = tiny("LlamaForCausalLM", json!({}));
    for (same, stays_tied) in [(Some("lm_head.weight"), true), (None, false)] {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = Checkpoint::open(write(&folder, &parameters(&untied), same)).unwrap();
        let weights = check(&checkpoint, &tied).unwrap();
        assert_eq!(weights.warnings().len(), usize::from(!stays_tied));
        let mut c = tied.clone();
        weights.configure(&mut c);
        assert_eq!(c.tie_word_embeddings, stays_tied);
        let m = build(&c, &weights, &BuildOptions::default()).unwrap();
        assert_eq!(m.constants.values().any(|k| &*k.name == "lm_head.weight"), !stays_tied);
    }
    // Not tied, not there.
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = Checkpoint::open(write(&folder, &parameters(&tied), None)).unwrap();
    assert!(check(&checkpoint, &untied).unwrap_err().to_string().contains("missing `lm_head.weight`"));
}

#[test]
fn names_of_a_base_model_lack_the_prefix() {
    let c = tiny("LlamaForCausalLM", json!({}));
    let folder = tempfile::tempdir().unwrap();
    let mut all = parameters(&c);
    for p in &mut all {
        p.stored = p.stored.strip_prefix("model.").unwrap_or(&p.stored).to_owned();
    }
    let checkpoint = Checkpoint::open(write(&folder, &all, None)).unwrap();
    let weights = check(&checkpoint, &c).unwrap();
    let norm = weights.get("model.norm.weight", &[64]).unwrap();
    assert_eq!(norm.label(), "norm.weight");
    build(&c, &weights, &BuildOptions::default()).unwrap();
}

/// The names of the weights from which the programs in `fixtures/executorch` were exported.
#[test]
fn metas_names() {
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/executorch");
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(format!("{fixtures}/{name}")).unwrap()).unwrap()
    };
    let c = ModelConfig::from_meta(&read("params.json"), None).unwrap();
    let index = read("tiny_llama.f32.json");
    let mut expected: Vec<(String, Vec<u64>)> = Vec::new();
    for (name, entry) in index.as_object().unwrap() {
        expected.push((name.clone(), entry["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect()));
    }
    let mut found: Vec<(String, Vec<u64>)> =
        parameters(&c).into_iter().map(|p| (p.stored, p.shape.iter().map(|&n| n as u64).collect())).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn synthetic_weights_are_deterministic_and_in_range() {
    let a = SyntheticSource::new("model.layers.0.mlp.up_proj.weight", DType::F32, &[128, 256], 5).unwrap();
    let all = read_all(&a).unwrap();
    let mut part = vec![0; 3 * a.row_bytes()];
    a.read_rows(100..103, &mut part).unwrap();
    assert_eq!(part, all[100 * a.row_bytes()..103 * a.row_bytes()]);
    let values: Vec<f64> = all.as_chunks::<4>().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    assert!(mean.abs() < 0.002 && (variance * 256.0 - 1.0).abs() < 0.05, "{mean} {variance}");
    let other =
        |name: &str, seed| read_all(&SyntheticSource::new(name, DType::F32, &[128, 256], seed).unwrap()).unwrap();
    assert_ne!(&other("model.layers.0.mlp.up_proj.weight", 6)[..], &all[..]);
    assert_ne!(&other("model.layers.1.mlp.up_proj.weight", 5)[..], &all[..]);
    assert!(SyntheticSource::new("w", DType::I8, &[2], 0).is_err());
    assert!(SyntheticSource::new("w", DType::F32, &[usize::MAX, 2], 0).is_err());
    assert!(a.read_rows(127..129, &mut part).is_err());
}
