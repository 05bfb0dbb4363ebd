//! Static Llama computes the ordinary model's logits: blocks of tokens, one token, and the whole text without caches, with the
//! caches moved between calls as a runner moves them.

use std::sync::Arc;

use pteron::llm::runner::{LogitsData, TextDecoder, TokensPerCall};
use pteron::{LoadOptions, Program, ProgramDecoder};
use pteron_exec::{Session, SessionOptions, ValueRef};
use pteron_models::{
    BuildOptions, CALIBRATE_FORWARD, KV_FORWARD, MASKED, ModelConfig, PREFILL_FORWARD, StaticOptions, SyntheticWeights,
    build, build_static, build_static_calibration, build_static_mutable,
};
use pteron_tensor::{Tensor, Tolerance};
use pteron_testkit::Numbers;

const CONTEXT: usize = 40;
const VOCABULARY: usize = 96;
const LAYERS: usize = 2;
const HEAD: usize = 8;
const KV_HEADS: usize = 2;

fn config(qk_norm: bool) -> ModelConfig {
    let (class, kind) = if qk_norm { ("Qwen3ForCausalLM", "qwen3") } else { ("LlamaForCausalLM", "llama") };
    ModelConfig::from_hf(&serde_json::json!({
        "architectures": [class], "model_type": kind, "vocab_size": VOCABULARY, "hidden_size": 48,
        "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 6, "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "tie_word_embeddings": qk_norm, "bos_token_id": 1, "eos_token_id": 2
    }))
    .unwrap()
}

fn options(prefill_ar_len: Option<usize>) -> StaticOptions {
    StaticOptions { max_context_length: CONTEXT, prefill_ar_len, ..StaticOptions::default() }
}

/// Keys `[Hkv, D]` and values `[Hkv, D]` of each position seen, by layer.
#[derive(Default)]
struct Seen {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

/// One call of `method` for `tokens`, padded to `ar`; gives the tokens' logits and adds what is new to `seen`.
fn step(session: &mut Session, method: &str, ar: usize, tokens: &[i32], seen: &mut [Seen]) -> Vec<f64> {
    let (past, known) = (CONTEXT - ar, seen[0].keys.len());
    let mut ids = tokens.to_vec();
    ids.resize(ar, 0);
    let positions: Vec<i32> = (0..ar).map(|i| (known + i).min(CONTEXT - 1) as i32).collect();
    let mut mask = vec![MASKED; ar * CONTEXT];
    for row in 0..ar {
        mask[row * CONTEXT..][..known].fill(0.0);
        mask[row * CONTEXT + past..][..=row].fill(0.0);
    }
    let (mut k, mut v) = (Vec::new(), Vec::new());
    for layer in seen.iter() {
        // What lies behind the mask must not matter.
        let (mut keys, mut values) = (vec![0.5f32; KV_HEADS * HEAD * past], vec![-3.0f32; KV_HEADS * past * HEAD]);
        for p in 0..known {
            for (i, (&key, &value)) in layer.keys[p].iter().zip(&layer.values[p]).enumerate() {
                keys[i * past + p] = key;
                values[(i / HEAD * past + p) * HEAD + i % HEAD] = value;
            }
        }
        k.push(Tensor::of(&[1, KV_HEADS, HEAD, past], &keys).unwrap());
        v.push(Tensor::of(&[1, KV_HEADS, past, HEAD], &values).unwrap());
    }
    let first = [
        Tensor::of(&[1, ar], &ids).unwrap(),
        Tensor::of(&[1, 1, ar, CONTEXT], &mask).unwrap(),
        Tensor::of(&[1, ar], &positions).unwrap(),
    ];
    let inputs: Vec<ValueRef<'_>> = first.iter().chain(&k).chain(&v).map(|t| ValueRef::Tensor(t.view())).collect();
    let outputs = session.run(method, &inputs).unwrap();
    let logits = outputs.tensor(0).unwrap().to_f64_vec()[..tokens.len() * VOCABULARY].to_vec();
    for (layer, seen) in seen.iter_mut().enumerate() {
        let keys = outputs.tensor(1 + layer).unwrap().to_f64_vec();
        let values = outputs.tensor(1 + LAYERS + layer).unwrap().to_f64_vec();
        for t in 0..tokens.len() {
            seen.keys.push((0..KV_HEADS * HEAD).map(|i| keys[i * ar + t] as f32).collect());
            let value = |i: usize| values[(i / HEAD * ar + t) * HEAD + i % HEAD] as f32;
            seen.values.push((0..KV_HEADS * HEAD).map(value).collect());
        }
    }
    logits
}

/// The logits of one call of a decoder.
fn logits(decoder: &mut ProgramDecoder, tokens: &[i64], at: usize) -> Vec<f64> {
    let given = decoder.step(tokens, at as i64).unwrap();
    assert_eq!(given.shape, [tokens.len(), VOCABULARY]);
    let LogitsData::F32(data) = given.data else { panic!("the logits are numbers") };
    data.iter().map(|v| f64::from(*v)).collect()
}

#[test]
fn all_methods_give_the_ordinary_models_logits() {
    let mut numbers = Numbers::new(5);
    let tokens: Vec<i32> = (0..30).map(|_| numbers.below(VOCABULARY as u64) as i32).collect();
    for qk_norm in [false, true] {
        let config = config(qk_norm);
        let weights = SyntheticWeights::new(7);
        let ordinary = BuildOptions { full_logits: true, ..BuildOptions::default() };
        let ordinary = build(&config, &weights, &ordinary).unwrap();
        let mut session = Session::new(Arc::new(ordinary), &SessionOptions::with_threads(2)).unwrap();
        let long: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
        let ids = Tensor::of(&[1, long.len()], &long).unwrap();
        let inputs = [ValueRef::Tensor(ids.view())];
        let outputs = session.run("forward", &inputs).unwrap();
        let expected = outputs.tensor(0).unwrap().to_f64_vec();
        let same = |what: &str, found: &[f64]| {
            if let Err(e) = Tolerance::REORDERED_MODEL_F32.check(&expected, found) {
                panic!("{what}, qk_norm {qk_norm}: {e}");
            }
        };

        let module = build_static(&config, &weights, &options(Some(8))).unwrap();
        assert_eq!(module.constants.iter().filter(|(_, c)| c.name.ends_with("q_proj.weight")).count(), LAYERS);
        let mut session = Session::new(Arc::new(module), &SessionOptions::with_threads(2)).unwrap();
        // Prefill of 8, 8 and 5 tokens, then one by one.
        let mut seen: Vec<Seen> = (0..LAYERS).map(|_| Seen::default()).collect();
        let mut found = Vec::new();
        for block in tokens[..21].chunks(8) {
            found.extend(step(&mut session, PREFILL_FORWARD, 8, block, &mut seen));
        }
        for token in &tokens[21..] {
            found.extend(step(&mut session, KV_FORWARD, 1, &[*token], &mut seen));
        }
        same("hybrid", &found);

        // The decoder that text is generated with: it cuts the tokens and keeps the caches itself.
        let module = build_static(&config, &weights, &options(Some(8))).unwrap();
        let program = Program::from_module("static", module, &LoadOptions::default()).unwrap();
        let mut decoder = ProgramDecoder::new(program, "forward").unwrap();
        assert_eq!(decoder.tokens_per_call(), TokensPerCall::UpTo(8));
        let metadata = decoder.metadata().unwrap();
        assert_eq!((metadata.max_context_len, metadata.enable_dynamic_shape), (CONTEXT, true));
        let mut found = logits(&mut decoder, &long[..21], 0);
        for (at, token) in long.iter().enumerate().skip(21) {
            found.extend(logits(&mut decoder, &[*token], at));
        }
        same("decoder", &found);
        decoder.reset().unwrap();
        let again = logits(&mut decoder, &long, 0);
        same("decoder, once more", &again);

        let module = build_static_mutable(&config, &weights, &options(None)).unwrap();
        let mut session = Session::new(Arc::new(module), &SessionOptions::with_threads(2)).unwrap();
        let mut found = Vec::new();
        for (i, &token) in long.iter().enumerate() {
            let (token, pos) = (Tensor::of(&[1, 1], &[token]).unwrap(), Tensor::of(&[1], &[i as i64]).unwrap());
            let inputs = [ValueRef::Tensor(token.view()), ValueRef::Tensor(pos.view())];
            let outputs = session.run("forward", &inputs).unwrap();
            assert_eq!(outputs.tensor(0).unwrap().sizes(), [1, VOCABULARY]);
            found.extend(outputs.tensor(0).unwrap().to_f64_vec());
        }
        same("mutable", &found);

        let calibrated = build_static_calibration(&config, &weights, &options(None), tokens.len()).unwrap();
        let mut session = Session::new(Arc::new(calibrated), &SessionOptions::with_threads(2)).unwrap();
        let n = tokens.len();
        let mask: Vec<f32> = (0..n * n).map(|i| if i % n <= i / n { 0.0 } else { MASKED }).collect();
        let positions: Vec<i32> = (0..n as i32).collect();
        let inputs = [
            Tensor::of(&[1, n], &tokens).unwrap(),
            Tensor::of(&[1, 1, n, n], &mask).unwrap(),
            Tensor::of(&[1, n], &positions).unwrap(),
        ];
        let inputs: Vec<ValueRef<'_>> = inputs.iter().map(|t| ValueRef::Tensor(t.view())).collect();
        let outputs = session.run(CALIBRATE_FORWARD, &inputs).unwrap();
        same("calibration graph", &outputs.tensor(0).unwrap().to_f64_vec());
        assert_eq!(outputs.tensor(1).unwrap().sizes(), [1, KV_HEADS, HEAD, n]);
    }
}

#[test]
fn a_context_that_does_not_fit_is_refused() {
    let weights = SyntheticWeights::new(7);
    let refused = |options: &StaticOptions| build_static(&config(false), &weights, options).unwrap_err().to_string();
    assert_eq!(
        refused(&options(Some(CONTEXT))),
        "option `prefill_ar_len`: found 40, expected an integer from 2 to 39 (less than max_context_length)"
    );
    assert!(refused(&StaticOptions { max_context_length: 1, ..options(None) }).contains("at least 2"));
}

/// A model whose layers see the last six tokens.
fn windowed() -> ModelConfig {
    ModelConfig::from_hf(&serde_json::json!({
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": VOCABULARY, "hidden_size": 48,
        "intermediate_size": 96, "num_hidden_layers": LAYERS, "num_attention_heads": 6, "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "hidden_act": "silu", "sliding_window": 6, "bos_token_id": 1, "eos_token_id": 2
    }))
    .unwrap()
}

#[test]
fn windows_and_single_heads_give_the_ordinary_models_logits() {
    let weights = SyntheticWeights::new(7);
    let mut numbers = Numbers::new(11);
    let tokens: Vec<i64> = (0..30).map(|_| numbers.below(VOCABULARY as u64) as i64).collect();
    for (config, single_heads) in [(windowed(), false), (config(true), true), (windowed(), true)] {
        let full = BuildOptions { full_logits: true, ..BuildOptions::default() };
        let ordinary = build(&config, &weights, &full).unwrap();
        let mut session = Session::new(Arc::new(ordinary), &SessionOptions::with_threads(2)).unwrap();
        let ids = Tensor::of(&[1, tokens.len()], &tokens).unwrap();
        let inputs = [ValueRef::Tensor(ids.view())];
        let outputs = session.run("forward", &inputs).unwrap();
        let expected = outputs.tensor(0).unwrap().to_f64_vec();
        let same = |what: &str, found: &[f64]| {
            if let Err(e) = Tolerance::REORDERED_MODEL_F32.check(&expected, found) {
                panic!("{what}, windows {:?}, single heads {single_heads}: {e}", config.windows);
            }
        };
        let options = StaticOptions { single_heads, ..options(Some(8)) };
        let module = build_static(&config, &weights, &options).unwrap();
        let program = Program::from_module("static", module, &LoadOptions::default()).unwrap();
        let mut decoder = ProgramDecoder::new(program, "forward").unwrap();
        let mut found = logits(&mut decoder, &tokens[..21], 0);
        for (at, token) in tokens.iter().enumerate().skip(21) {
            found.extend(logits(&mut decoder, &[*token], at));
        }
        same("hybrid", &found);
        let module = build_static_mutable(&config, &weights, &options).unwrap();
        let program = Program::from_module("mutable", module, &LoadOptions::default()).unwrap();
        let mut decoder = ProgramDecoder::new(program, "forward").unwrap();
        let found: Vec<f64> =
            tokens.iter().enumerate().flat_map(|(at, token)| logits(&mut decoder, &[*token], at)).collect();
        same("mutable", &found);
    }
}

#[test]
fn windows_of_two_lengths_are_refused() {
    let config = ModelConfig { windows: vec![Some(6), Some(9)], ..windowed() };
    let error = build_static(&config, &SyntheticWeights::new(7), &options(None)).unwrap_err().to_string();
    assert!(error.contains("windows of 6 and 9 tokens"), "{error}");
}
