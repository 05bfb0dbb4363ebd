//! Configurations: each member of the family, each way to be refused.

use pteron_models::{Architecture, ModelConfig, RopeScaling};
use pteron_tensor::DType;
use serde_json::{Value, json};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": 512, "rms_norm_eps": 1e-5, "max_position_embeddings": 2048, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2
    })
}

fn with(mut base: Value, changes: Value) -> Value {
    for (k, v) in changes.as_object().unwrap() {
        base[k] = v.clone();
    }
    base
}

fn without(mut base: Value, field: &str) -> Value {
    base.as_object_mut().unwrap().remove(field);
    base
}

fn parse(v: Value) -> ModelConfig {
    ModelConfig::from_hf(&v).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(v: Value) -> String {
    ModelConfig::from_hf(&v).unwrap_err().to_string()
}

#[test]
fn llama_of_all_ages() {
    let c = parse(llama());
    assert_eq!((c.architecture, c.head_dim, c.n_kv_heads, c.dtype), (Architecture::Llama, 16, 2, Some(DType::BF16)));
    assert_eq!((c.rope.theta, c.rope.scaling, c.interleaved), (10_000.0, RopeScaling::None, false));
    assert_eq!(
        (c.tie_word_embeddings, c.qkv_bias, c.o_bias, c.mlp_bias, c.qk_norm),
        (false, false, false, false, false)
    );
    assert_eq!(c.windows, [None, None]);
    // Llama 1: no heads of their own for keys, no theta.
    assert_eq!(parse(without(llama(), "num_key_value_heads")).n_kv_heads, 4);
    // 3.1, with three ends of text.
    let c = parse(with(
        llama(),
        json!({"rope_theta": 500000.0, "vocab_size": 128256, "eos_token_id": [128001, 128008, 128009], "bos_token_id": 128000,
               "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 8192, "rope_type": "llama3"}}),
    ));
    assert_eq!(c.eos_token_ids, [128_001, 128_008, 128_009]);
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    assert_eq!((c.rope.theta, c.rope.scaling), (500_000.0, expected));
    // SmolLM2: tied, explicit head size.
    let c = parse(with(llama(), json!({"tie_word_embeddings": true, "head_dim": 32, "rope_interleaved": false})));
    assert_eq!((c.tie_word_embeddings, c.head_dim, c.q_dim()), (true, 32, 128));
    // Biases.
    let c = parse(with(llama(), json!({"attention_bias": true, "mlp_bias": true})));
    assert_eq!((c.qkv_bias, c.o_bias, c.mlp_bias), (true, true, true));
}

#[test]
fn mistral_slides_over_all_layers() {
    let base = with(llama(), json!({"architectures": ["MistralForCausalLM"], "model_type": "mistral"}));
    assert_eq!(parse(with(base.clone(), json!({"sliding_window": 7}))).windows, [Some(7), Some(7)]);
    assert_eq!(parse(with(base.clone(), json!({"sliding_window": null}))).windows, [None, None]);
    assert_eq!(parse(base.clone()).windows, [Some(4096), Some(4096)]);
    assert_eq!(parse(with(base.clone(), json!({"head_dim": null}))).head_dim, 16);
    assert!(refused(with(base, json!({"sliding_window": 0}))).contains("sliding_window"));
}

#[test]
fn qwen2_has_biases_and_windows_by_layer() {
    let base = with(
        llama(),
        json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 4,
               "sliding_window": 9, "use_sliding_window": false, "max_window_layers": 2}),
    );
    let c = parse(base.clone());
    assert_eq!((c.qkv_bias, c.o_bias, c.qk_norm, c.windows), (true, false, false, vec![None; 4]));
    let on = with(base.clone(), json!({"use_sliding_window": true}));
    assert_eq!(parse(on.clone()).windows, [None, None, Some(9), Some(9)]);
    let types = json!({"layer_types": ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]});
    assert_eq!(parse(with(on.clone(), types.clone())).windows, [Some(9), None, None, Some(9)]);
    assert!(refused(with(base.clone(), types)).contains("layer_types[0]"));
    assert!(refused(with(on.clone(), json!({"layer_types": ["full_attention"]}))).contains("layer_types"));
    assert!(refused(with(on, json!({"layer_types": ["a", "b", "c", "d"]}))).contains("layer_types[0]"));
    assert_eq!(parse(with(base, json!({"max_window_layers": 28, "use_sliding_window": true}))).windows, [None; 4]);
}

#[test]
fn qwen3_has_norms() {
    let base = with(llama(), json!({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}));
    let c = parse(base.clone());
    assert_eq!((c.qk_norm, c.head_dim, c.qkv_bias), (true, 128, false));
    assert_eq!(parse(with(base, json!({"head_dim": 8}))).head_dim, 8);
}

#[test]
fn the_newer_spelling() {
    let c = parse(with(
        without(llama(), "torch_dtype"),
        json!({"dtype": "float16", "rope_parameters": {"rope_type": "linear", "factor": 2, "rope_theta": 5e5}}),
    ));
    assert_eq!((c.dtype, c.rope.theta, c.rope.scaling), (Some(DType::F16), 5e5, RopeScaling::Linear { factor: 2.0 }));
    let c = parse(with(
        llama(),
        json!({"rope_parameters": {"rope_theta": 7.5, "rope_type": "default"}, "rope_theta": 3.0}),
    ));
    assert_eq!((c.rope.theta, c.rope.scaling), (7.5, RopeScaling::None));
    // Yarn without a factor: the ratio of the contexts.
    let yarn = json!({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 512}});
    match parse(with(llama(), yarn)).rope.scaling {
        RopeScaling::Yarn { factor, beta_fast, beta_slow, attention_factor, truncate, .. } => {
            assert_eq!((factor, beta_fast, beta_slow, truncate), (4.0, 32.0, 1.0, true));
            assert!((attention_factor - (0.1 * 4f64.ln() + 1.0)).abs() < 1e-15);
        }
        other => panic!("{other:?}"),
    }
    // The architecture by its type alone.
    assert_eq!(parse(without(llama(), "architectures")).architecture, Architecture::Llama);
    // null is absent; explicit null is no token.
    let c = parse(with(llama(), json!({"bos_token_id": null, "eos_token_id": null, "rope_scaling": null})));
    assert_eq!((c.bos_token_id, c.eos_token_ids.len()), (None, 0));
}

#[test]
fn another_architecture_is_named() {
    assert_eq!(
        refused(with(llama(), json!({"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}))),
        "config.json: architecture `Gemma3ForCausalLM` is not supported; known are LlamaForCausalLM, \
         MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    );
    assert!(refused(json!({"model_type": "phi3"})).contains("`phi3`"));
    assert!(refused(json!({})).contains("architectures"));
    assert!(refused(json!([])).contains("an object"));
    assert!(refused(with(llama(), json!({"model_type": "mistral"}))).contains("model_type"));
    assert!(refused(with(llama(), json!({"architectures": "LlamaForCausalLM"}))).contains("architectures"));
    assert!(refused(with(llama(), json!({"architectures": [3]}))).contains("architectures"));
}

#[test]
fn each_wrong_field_is_named() {
    for (change, field) in [
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"num_attention_heads": -4}), "num_attention_heads"),
        (json!({"num_attention_heads": 5}), "hidden_size"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 0}), "num_key_value_heads"),
        (json!({"num_key_value_heads": 8}), "num_key_value_heads"),
        (json!({"hidden_size": 1u64 << 40}), "hidden_size"),
        (json!({"hidden_size": 64.5}), "hidden_size"),
        (json!({"hidden_size": "64"}), "hidden_size"),
        (json!({"hidden_size": u64::MAX}), "hidden_size"),
        (json!({"intermediate_size": 0}), "intermediate_size"),
        (json!({"intermediate_size": null}), "intermediate_size"),
        (json!({"num_hidden_layers": 1_000_000}), "num_hidden_layers"),
        (json!({"vocab_size": 0}), "vocab_size"),
        (json!({"head_dim": 15}), "head_dim"),
        (json!({"head_dim": 1 << 20}), "head_dim"),
        (json!({"rms_norm_eps": -1.0}), "rms_norm_eps"),
        (json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
        (json!({"rope_theta": 0.0}), "rope_theta"),
        (json!({"rope_theta": 1e300}), "rope_theta"),
        (json!({"rope_theta": "1e4"}), "rope_theta"),
        (json!({"max_position_embeddings": 0}), "max_position_embeddings"),
        (json!({"hidden_act": "gelu"}), "hidden_act"),
        (json!({"torch_dtype": "float64"}), "torch_dtype"),
        (json!({"torch_dtype": "float8"}), "torch_dtype"),
        (json!({"tie_word_embeddings": 1}), "tie_word_embeddings"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"rope_interleaved": true}), "rope_interleaved"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "quantization_config.quant_method"),
        (json!({"eos_token_id": 512}), "eos_token_id"),
        (json!({"eos_token_id": [1, -1]}), "eos_token_id"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id"),
        (json!({"bos_token_id": [1, 2]}), "bos_token_id"),
        (json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "rope_scaling.type"),
        (json!({"rope_scaling": {"rope_type": "longrope"}}), "rope_scaling.rope_type"),
        (json!({"rope_scaling": {"factor": 2.0}}), "rope_scaling.rope_type"),
        (json!({"rope_scaling": "linear"}), "rope_scaling"),
        (json!({"rope_scaling": {"type": "linear"}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "linear", "factor": 0}}), "rope_scaling.factor"),
        (json!({"rope_scaling": {"type": "yarn"}}), "rope_scaling.factor"),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "beta_fast": 1, "beta_slow": 2}}),
            "rope_scaling.beta_fast",
        ),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 2, "low_freq_factor": 4, "high_freq_factor": 4}}),
            "rope_scaling.high_freq_factor",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": 2, "original_max_position_embeddings": 0}}),
            "rope_scaling.original_max_position_embeddings",
        ),
        (json!({"rope_parameters": {"partial_rotary_factor": 0.25}}), "rope_parameters.partial_rotary_factor"),
        (json!({"rope_parameters": {"full_attention": {}}}), "rope_parameters.full_attention"),
        (
            json!({"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2}}),
            "rope_scaling",
        ),
    ] {
        let text = refused(with(llama(), change.clone()));
        assert!(text.starts_with(&format!("config.json: field `{field}`: found ")), "{change}: {text}");
        assert!(text.contains("expected "), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
    for field in ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size"] {
        let text = refused(without(llama(), field));
        assert!(text.contains(&format!("`{field}`: found nothing")), "{text}");
    }
}

#[test]
fn a_configuration_made_by_hand_is_checked() {
    let good = parse(llama());
    let check = |change: fn(&mut ModelConfig)| {
        let mut c = good.clone();
        change(&mut c);
        c.validate().unwrap_err().to_string()
    };
    assert!(good.validate().is_ok());
    assert!(check(|c| c.rope.theta = f64::NAN).contains("rope_theta"));
    assert!(check(|c| c.rope.theta = f64::INFINITY).contains("rope_theta"));
    assert!(check(|c| c.norm_eps = f64::NAN).contains("rms_norm_eps"));
    assert!(check(|c| c.n_kv_heads = 0).contains("num_key_value_heads"));
    assert!(check(|c| c.windows.clear()).contains("sliding_window"));
    assert!(check(|c| c.n_heads = usize::MAX).contains("num_attention_heads"));
    assert!(check(|c| c.rope.scaling = RopeScaling::Linear { factor: f64::NAN }).contains("rope_scaling.factor"));
}

#[test]
fn metas_params() {
    let parse = |v: Value| ModelConfig::from_meta(&v, None);
    let tiny = json!({"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 512, "hidden_dim": 160,
                      "multiple_of": 32, "norm_eps": 1e-05, "rope_theta": 10000.0});
    let c = parse(tiny.clone()).unwrap();
    assert_eq!((c.dim, c.hidden_dim, c.n_kv_heads, c.head_dim, c.interleaved), (64, 160, 2, 16, true));
    // stories110M, the tiny Llama of ExecuTorch's CI, and Llama 3.2 1B.
    let hidden = |v: Value| parse(v).unwrap().hidden_dim;
    assert_eq!(
        hidden(json!({"dim": 768, "multiple_of": 32, "n_heads": 12, "n_layers": 12, "vocab_size": 32000})),
        2048
    );
    assert_eq!(hidden(json!({"dim": 64, "multiple_of": 32, "n_heads": 4, "n_layers": 2, "vocab_size": 512})), 192);
    let l32 = json!({"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256,
        "ffn_dim_multiplier": 1.5, "multiple_of": 256, "norm_eps": 1e-05, "rope_theta": 500000.0, "use_scaled_rope": true});
    let c = parse(l32.clone()).unwrap();
    assert_eq!(c.hidden_dim, 8192);
    assert!(matches!(c.rope.scaling, RopeScaling::Llama3 { factor: 32.0, original_max_position_embeddings: 8192, .. }));
    let factor = |changes: Value| match parse(with(l32.clone(), changes)).unwrap().rope.scaling {
        RopeScaling::Llama3 { factor, high_freq_factor, .. } => (factor, high_freq_factor),
        other => panic!("{other:?}"),
    };
    assert_eq!(factor(json!({"n_layers": 32})), (8.0, 4.0));
    assert_eq!(factor(json!({"rope_scale_factor": 6, "high_freq_factor": 3})), (6.0, 3.0));
    assert_eq!(factor(json!({"rope_scaling_factor": 16, "rope_high_freq_factor": 2})), (16.0, 2.0));
    // Mistral.
    let windowed = parse(with(tiny.clone(), json!({"sliding_window": 100}))).unwrap();
    assert_eq!(windowed.windows, [Some(100), Some(100)]);
    // Llama 2: the vocabulary is the tokenizer's.
    let unknown = with(tiny.clone(), json!({"vocab_size": -1}));
    assert_eq!(ModelConfig::from_meta(&unknown, Some(32000)).unwrap().vocab_size, 32000);
    for (change, field) in [
        (json!({"vocab_size": -1}), "vocab_size"),
        (json!({"moe": true}), "moe"),
        (json!({"act_fn": "gelu"}), "act_fn"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"use_qk_norm": true}), "qk_norm_before_rope"),
        (json!({"hidden_dim": null, "ffn_dim_multiplier": 1e30}), "ffn_dim_multiplier"),
        (json!({"hidden_dim": null, "multiple_of": 0}), "multiple_of"),
        (json!({"sliding_window": 0}), "sliding_window"),
        (json!({"quantization_args": {"scheme": "int4_weight_int8_dynamic_activation"}}), "quantization_args"),
        (json!({"lora_args": {"rank": 16}}), "lora_args"),
        (json!({"n_kv_heads": 3}), "n_kv_heads"),
        (json!({"n_heads": 3, "n_kv_heads": 3}), "dim"),
        (json!({"dim": null}), "dim"),
    ] {
        let text = parse(with(tiny.clone(), change)).unwrap_err().to_string();
        assert!(text.starts_with(&format!("params.json: field `{field}`: found ")), "{text}");
    }
}
