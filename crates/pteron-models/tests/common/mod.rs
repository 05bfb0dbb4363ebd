//! Configurations that the tests share.

use pteron_models::ModelConfig;
use serde_json::{Value, json};

/// A tiny model of the architecture `class`, with GQA.
pub(crate) fn tiny(class: &str, changes: Value) -> ModelConfig {
    let mut v = json!({
        "architectures": [class], "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 512, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "sliding_window": null, "bos_token_id": 1, "eos_token_id": [2, 3]
    });
    for (k, x) in changes.as_object().unwrap() {
        v[k] = x.clone();
    }
    ModelConfig::from_hf(&v).unwrap_or_else(|e| panic!("{e}"))
}
