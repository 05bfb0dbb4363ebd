//! A tiny Llama whose numbers come from integer arithmetic, as in `tools/oracle/make_qat_goldens.py`.

#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use pteron_ir::Module;
use pteron_models::{BuildOptions, ModelConfig, ModelError, build, parameters};
use pteron_tensor::{MemorySource, SharedSource};
use pteron_train::{
    AdamW, Batch, Loss, QatOptions, ScaleMode, Schedule, StepReport, Target, TrainError, TrainGraphOptions, Trainer,
    TrainerOptions,
};

pub(crate) const VOCAB: usize = 64;
pub(crate) const LENGTH: usize = 16;

fn numbers(key: u64, n: usize, scale: f64, offset: f64) -> Vec<f32> {
    let mask = 0xFFFF_FFFFu64;
    let number = |i: u64| {
        let mut x = (i + 1).wrapping_mul(key + 7).wrapping_mul(2_654_435_761) & mask;
        x ^= x >> 15;
        x = x.wrapping_mul(2_246_822_519) & mask;
        x ^= x >> 13;
        (((x >> 8) as f64 / f64::from(1 << 24) - 0.5) * scale + offset) as f32
    };
    (0..n as u64).map(number).collect()
}

pub(crate) fn config(bias: bool) -> ModelConfig {
    ModelConfig::from_hf(&serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": false,
        "attention_bias": bias
    }))
    .unwrap()
}

/// In the order in which the script numbers them.
const LEAVES: [&str; 9] = [
    "input_layernorm.weight",
    "self_attn.q_proj.weight",
    "self_attn.k_proj.weight",
    "self_attn.v_proj.weight",
    "self_attn.o_proj.weight",
    "post_attention_layernorm.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "mlp.down_proj.weight",
];

fn key(name: &str) -> u64 {
    match name {
        "model.embed_tokens.weight" => 0,
        "model.norm.weight" => 19,
        "lm_head.weight" => 20,
        _ => {
            let rest = name.strip_prefix("model.layers.").unwrap();
            let (layer, leaf) = rest.split_once('.').unwrap();
            let at = LEAVES.iter().position(|l| *l == leaf).unwrap();
            1 + layer.parse::<u64>().unwrap() * 9 + at as u64
        }
    }
}

/// The model over windows of [`LENGTH`] tokens, the logits of all.
pub(crate) fn module() -> Module {
    module_with(false, &|_| None)
}

/// The same with other weights, where `given` has them.
pub(crate) fn module_with(bias: bool, given: &dyn Fn(&str) -> Option<Vec<f32>>) -> Module {
    let weights = |name: &str, shape: &[usize]| -> Result<SharedSource, ModelError> {
        let n = shape.iter().product();
        let values = given(name).unwrap_or_else(|| match shape.len() {
            2 => numbers(key(name), n, 0.15, 0.0),
            _ if name.ends_with(".bias") => numbers(100 + name.len() as u64, n, 0.3, 0.0),
            _ => numbers(key(name), n, 0.2, 1.0),
        });
        Ok(Arc::new(MemorySource::of(name, shape, &values).unwrap()))
    };
    let options = BuildOptions {
        dynamic_shape: false,
        full_logits: true,
        max_seq_length: LENGTH,
        max_context_length: LENGTH,
        ..BuildOptions::default()
    };
    build(&config(bias), &weights, &options).unwrap()
}

pub(crate) fn is_parameter(name: &str) -> bool {
    parameters(&config(true)).iter().any(|p| p.name == name)
}

pub(crate) fn graph_options(qat: QatOptions) -> TrainGraphOptions {
    TrainGraphOptions { loss: Loss::CrossEntropy, qat, lora: None }
}

pub(crate) fn options() -> TrainerOptions {
    TrainerOptions {
        adam: AdamW::default(),
        schedule: Schedule { peak: 1e-4, warmup: 0, steps: 20, floor: 1.0 },
        clip_norm: None,
        scales: ScaleMode::Live,
        scale_rate: 1e-3,
        quantize_from: 1,
        observe_until: None,
        bf16: false,
        seed: 0,
    }
}

/// The tokens of step `step`, from 0, and the next ones.
pub(crate) fn window(step: u64) -> (Vec<i64>, Vec<i64>) {
    let ids: Vec<i64> = (0..=LENGTH as u64).map(|i| ((step * 31 + i * i * 7 + i * 3) % VOCAB as u64) as i64).collect();
    (ids[..LENGTH].to_vec(), ids[1..].to_vec())
}

pub(crate) fn step(trainer: &mut Trainer) -> Result<StepReport, TrainError> {
    let (tokens, next) = window(trainer.steps());
    trainer.step(&[Batch { tokens: &tokens, target: Target::Tokens(&next) }])
}

/// Some steps, which must do.
pub(crate) fn steps(trainer: &mut Trainer, n: usize) {
    for _ in 0..n {
        step(trainer).unwrap();
    }
}
