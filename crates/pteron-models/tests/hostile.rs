//! Mutants of configurations: an error that names the field, or a model that can be built and verified within the limits.

mod drive;

use pteron_testkit::hostile::{self, Counting, Seed, walk};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn seed(name: &str, text: &str) -> Seed {
    let bytes = text.as_bytes().to_vec();
    let fields = walk::json(&bytes, 0..bytes.len());
    let len = bytes.len();
    Seed::new(name, bytes, fields, len)
}

fn hugging_face() -> Vec<Seed> {
    let sizes = r#""hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 64, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        "bos_token_id": 1, "eos_token_id": [2, 3], "torch_dtype": "bfloat16""#;
    let text = |more: &str| format!("{{{sizes}, {more}}}");
    vec![
        seed(
            "llama",
            &text(r#""architectures": ["LlamaForCausalLM"], "rope_theta": 10000.0, "tie_word_embeddings": true"#),
        ),
        seed(
            "llama3",
            &text(
                r#""model_type": "llama", "rope_theta": 500000.0, "head_dim": 16, "attention_bias": true,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128}"#,
            ),
        ),
        seed("mistral", &text(r#""architectures": ["MistralForCausalLM"], "sliding_window": 16"#)),
        seed(
            "qwen2",
            &text(
                r#""architectures": ["Qwen2ForCausalLM"], "use_sliding_window": false, "max_window_layers": 2,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}"#,
            ),
        ),
        seed(
            "qwen3",
            &text(
                r#""architectures": ["Qwen3ForCausalLM"], "head_dim": 16, "layer_types": ["full_attention", "full_attention"]"#,
            ),
        ),
    ]
}

#[test]
fn configs() {
    let tally = hostile::mutants("config", hugging_face(), drive::config);
    assert!(tally.accepted > 100 && tally.refused > 500, "{tally:?}");
}

#[test]
fn params() {
    let seeds = vec![
        seed(
            "llama2",
            r#"{"dim": 32, "multiple_of": 16, "n_heads": 4, "n_layers": 2, "norm_eps": 1e-05, "vocab_size": -1}"#,
        ),
        seed(
            "llama3",
            r#"{"dim": 32, "ffn_dim_multiplier": 1.5, "multiple_of": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2,
                "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true, "vocab_size": 64}"#,
        ),
    ];
    let tally = hostile::mutants("params", seeds, drive::params);
    assert!(tally.accepted > 100 && tally.refused > 500, "{tally:?}");
}
