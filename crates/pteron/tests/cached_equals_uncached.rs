//! A cache must not change what a model computes: prefill in one call, in chunks, token by token and no cache at all give
//! the same logits over 200 positions of a model with grouped queries.

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, ValueRef};
use pteron_ir::Module;
use pteron_models::{BuildOptions, ModelConfig, SpecialTokens, SyntheticWeights, build};
use pteron_tensor::{DType, Tensor, Tolerance};
use pteron_testkit::Numbers;

const POSITIONS: usize = 200;
const CONTEXT: usize = 208;
const VOCABULARY: usize = 96;

fn config(sliding_window: Option<usize>) -> ModelConfig {
    let mut json = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": 64,
        "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": 8, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2
    });
    if let Some(window) = sliding_window {
        json["architectures"] = serde_json::json!(["MistralForCausalLM"]);
        json["model_type"] = "mistral".into();
        json["sliding_window"] = window.into();
    }
    ModelConfig::from_hf(&json).unwrap()
}

fn module(config: &ModelConfig, use_kv_cache: bool, use_sdpa_with_kv_cache: bool) -> Module {
    let options = BuildOptions {
        dtype: DType::F32,
        use_kv_cache,
        use_sdpa_with_kv_cache,
        quantize_kv_cache: false,
        static_kv_cache: None,
        use_spin_quant: false,
        dynamic_shape: true,
        max_seq_length: CONTEXT,
        max_context_length: CONTEXT,
        full_logits: true,
        tokens: SpecialTokens::new(config, None).unwrap(),
        metadata: Vec::new(),
    };
    build(config, &SyntheticWeights::new(7), &options).unwrap()
}

/// The logits of all positions, the tokens given in chunks of `chunk`.
fn logits(module: &Module, tokens: &[i64], chunk: usize, cached: bool) -> Vec<f64> {
    let mut session = Session::new(Arc::new(module.clone()), &SessionOptions::with_threads(2)).unwrap();
    let mut all = Vec::new();
    for (i, part) in tokens.chunks(chunk).enumerate() {
        let ids = Tensor::of(&[1, part.len()], part).unwrap();
        let pos = Tensor::of(&[1], &[(i * chunk) as i64]).unwrap();
        let mut inputs = vec![ValueRef::Tensor(ids.view())];
        if cached {
            inputs.push(ValueRef::Tensor(pos.view()));
        }
        let outputs = session.run("forward", &inputs).unwrap();
        all.extend(outputs.tensor(0).unwrap().to_f64_vec());
    }
    all
}

fn check(config: &ModelConfig) {
    let mut numbers = Numbers::new(3);
    let tokens: Vec<i64> = (0..POSITIONS).map(|_| numbers.below(VOCABULARY as u64) as i64).collect();
    let expected = logits(&module(config, false, false), &tokens, POSITIONS, false);
    assert_eq!(expected.len(), POSITIONS * VOCABULARY);
    let largest = expected.iter().fold(0.0f64, |m, x| m.max(x.abs()));
    assert!(largest > 0.1 && expected.iter().all(|x| x.is_finite()), "the logits say nothing: largest {largest}");
    for (form, sdpa) in [("plain cache", false), ("custom operators", true)] {
        let module = module(config, true, sdpa);
        for chunk in [POSITIONS, 1, 7, 32] {
            let found = logits(&module, &tokens, chunk, true);
            if let Err(e) = Tolerance::REORDERED_MODEL_F32.check(&expected, &found) {
                panic!("{form}, chunks of {chunk}: {e}");
            }
        }
    }
}

#[test]
fn on_a_model_with_grouped_queries() {
    check(&config(None));
}

#[test]
fn on_a_model_with_a_sliding_window() {
    check(&config(Some(50)));
}

#[test]
fn the_window_matters() {
    let tokens: Vec<i64> = (0..POSITIONS as i64).map(|i| i * 13 % VOCABULARY as i64).collect();
    let run = |c: &ModelConfig| logits(&module(c, false, false), &tokens, POSITIONS, false);
    let (wide, narrow) = (run(&config(None)), run(&config(Some(50))));
    let cut = 50 * VOCABULARY;
    assert!(Tolerance::REORDERED_MODEL_F32.check(&wide[..cut], &narrow[..cut]).is_ok());
    assert!(Tolerance::REORDERED_MODEL_F32.check(&wide[cut..], &narrow[cut..]).is_err());
}
