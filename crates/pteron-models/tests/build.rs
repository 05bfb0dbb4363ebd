//! Graphs of every form: types, operators, state, metadata.

mod common;

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use common::tiny;
use pteron_checkpoint::GenerationConfigFile;
use pteron_ir::{ConstData, Def, Id, MetaValue, Module, Op, verify};
use pteron_models::{
    BuildOptions, ModelConfig, ModelError, SpecialTokens, SyntheticWeights, Weights, build, parameters, parse_metadata,
};
use pteron_tensor::{DType, MemorySource, SharedSource};
use serde_json::json;

fn made(config: &ModelConfig, options: &BuildOptions) -> Module {
    let m = build(config, &SyntheticWeights::new(7), options).unwrap_or_else(|e| panic!("{e}"));
    if let Err(e) = verify::module(&m) {
        panic!("{options:?}\n{e}");
    }
    m
}

fn count(m: &Module, op: Op) -> usize {
    let g = &m.graphs[0];
    g.all_nodes().into_iter().filter(|n| g.nodes[*n].op == op).count()
}

fn type_of_output(m: &Module) -> String {
    let g = &m.graphs[0];
    assert_eq!(g.outputs().len(), 1);
    g.ty(g.outputs()[0]).to_string()
}

fn inputs(m: &Module) -> Vec<String> {
    let g = &m.graphs[0];
    g.inputs.iter().map(|v| format!("{}: {}", g.values[*v].name.as_deref().unwrap_or(""), g.ty(*v))).collect()
}

fn families() -> Vec<(&'static str, ModelConfig)> {
    let llama3 = json!({"rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                                        "original_max_position_embeddings": 32}});
    vec![
        ("llama", tiny("LlamaForCausalLM", json!({}))),
        (
            "llama3, tied",
            tiny("LlamaForCausalLM", {
                let mut v = llama3;
                v["tie_word_embeddings"] = json!(true);
                v
            }),
        ),
        (
            "llama, all biases, MHA",
            tiny("LlamaForCausalLM", json!({"attention_bias": true, "mlp_bias": true, "num_key_value_heads": 4})),
        ),
        ("MQA, wide heads", tiny("LlamaForCausalLM", json!({"num_key_value_heads": 1, "head_dim": 32}))),
        ("mistral", tiny("MistralForCausalLM", json!({"sliding_window": 5}))),
        ("qwen2", tiny("Qwen2ForCausalLM", json!({}))),
        (
            "qwen2, window by layer",
            tiny("Qwen2ForCausalLM", json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1})),
        ),
        ("qwen3", tiny("Qwen3ForCausalLM", json!({}))),
    ]
}

#[test]
fn every_form_of_every_family() {
    for (family, c) in families() {
        let slides = c.windows.iter().flatten().count();
        for (kv, op) in [(false, false), (true, false), (true, true)] {
            for dynamic_shape in [false, true] {
                for full_logits in [false, true] {
                    for dtype in [DType::F32, DType::F16, DType::BF16] {
                        let options = BuildOptions {
                            dtype,
                            use_kv_cache: kv,
                            use_sdpa_with_kv_cache: op,
                            dynamic_shape,
                            full_logits,
                            max_seq_length: 16,
                            max_context_length: 24,
                            ..BuildOptions::default()
                        };
                        let what = format!("{family} {options:?}");
                        let m = made(&c, &options);
                        let l = c.n_layers;
                        let seq = match (dynamic_shape, kv) {
                            (true, _) => "s0",
                            (false, true) => "1",
                            (false, false) => "16",
                        };
                        let mut expected = vec![format!("tokens: i64[1, {seq}]")];
                        if kv {
                            expected.push("input_pos: i64[1]".into());
                        }
                        assert_eq!(inputs(&m), expected, "{what}");
                        let logits =
                            if full_logits { format!("{dtype}[1, {seq}, 512]") } else { format!("{dtype}[1, 512]") };
                        assert_eq!(type_of_output(&m), logits, "{what}");
                        if dynamic_shape {
                            let symbol = m.graphs[0].symbols.values().next().unwrap();
                            assert_eq!((symbol.min, symbol.max), (1, 15), "{what}");
                        }
                        assert_eq!(count(&m, Op::Linear), 7 * l + 1, "{what}");
                        let norms = 2 * l + 1 + if c.qk_norm { 2 * l } else { 0 };
                        assert_eq!(count(&m, Op::RmsNorm), norms, "{what}");
                        assert_eq!(count(&m, Op::Rope), 2 * l, "{what}");
                        assert_eq!(count(&m, Op::Silu), l, "{what}");
                        assert_eq!(count(&m, Op::Embedding), 1, "{what}");
                        assert_eq!(count(&m, Op::Sdpa), if op { 0 } else { l }, "{what}");
                        assert_eq!(count(&m, Op::CustomSdpa), if op { l } else { 0 }, "{what}");
                        assert_eq!(count(&m, Op::UpdateCache), if op { 2 * l } else { 0 }, "{what}");
                        assert_eq!(count(&m, Op::IndexPutInto), if kv && !op { 2 * l } else { 0 }, "{what}");
                        assert_eq!(count(&m, Op::SelectCopy), usize::from(!full_logits), "{what}");
                        assert_eq!(count(&m, Op::LocalScalarDense), usize::from(kv), "{what}");
                        // One mask a distinct window, for all layers.
                        assert_eq!(count(&m, Op::Gt), usize::from(slides > 0), "{what}");
                        assert_eq!(count(&m, Op::Le), usize::from(slides > 0 || kv && !op), "{what}");
                        assert_eq!(count(&m, Op::Where), usize::from(slides > 0 && op), "{what}");
                        assert_eq!(m.buffers.len(), if kv { 2 * l } else { 0 }, "{what}");
                        assert_eq!(m.graphs[0].mutations.len(), m.buffers.len(), "{what}");
                        let cache =
                            if op { [1, 24, c.n_kv_heads, c.head_dim] } else { [1, c.n_kv_heads, 24, c.head_dim] };
                        for b in m.buffers.values() {
                            assert_eq!(
                                (b.ty.dtype, b.ty.fixed_sizes().unwrap().as_slice()),
                                (dtype, &cache[..]),
                                "{what}"
                            );
                        }
                        assert_eq!(m.constants.len(), parameters(&c).len() + 2, "{what}");
                        for k in m.constants.values() {
                            let table = k.name.contains("freqs_");
                            assert_eq!(k.ty.dtype, if table { DType::F32 } else { dtype }, "{what} {}", k.name);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn masks_follow_the_windows() {
    let c = tiny("Qwen2ForCausalLM", json!({"use_sliding_window": true, "sliding_window": 4, "max_window_layers": 1}));
    let kv = BuildOptions { use_kv_cache: true, max_seq_length: 16, max_context_length: 16, ..BuildOptions::default() };
    let masks = |m: &Module, op: Op, argument: usize| -> Vec<String> {
        let g = &m.graphs[0];
        let nodes = g.all_nodes().into_iter().filter(|n| g.nodes[*n].op == op);
        nodes
            .map(|n| match &g.nodes[n].args[argument] {
                pteron_ir::Arg::Value(v) => match g.values[*v].def {
                    Def::Node(by, _) => format!("{} {}", g.nodes[by].op, g.ty(*v)),
                    other => format!("{other:?}"),
                },
                other => other.kind_name().to_owned(),
            })
            .collect()
    };
    let m = made(&c, &kv);
    assert_eq!(
        masks(&m, Op::Sdpa, 3),
        ["aten::le.Tensor bool[s0, 16]", "aten::logical_and bool[s0, 16]", "aten::logical_and bool[s0, 16]"]
    );
    let m = made(&c, &BuildOptions { use_sdpa_with_kv_cache: true, ..kv.clone() });
    assert_eq!(masks(&m, Op::CustomSdpa, 4), ["None", "aten::where.self f32[s0, 16]", "aten::where.self f32[s0, 16]"]);
    let m = made(&c, &BuildOptions { use_kv_cache: false, ..kv.clone() });
    assert_eq!(masks(&m, Op::Sdpa, 3), ["None", "aten::logical_and bool[s0, s0]", "aten::logical_and bool[s0, s0]"]);
    // A window as long as the context hides nothing.
    let wide = tiny("MistralForCausalLM", json!({"sliding_window": 16}));
    assert_eq!(count(&made(&wide, &kv), Op::Gt), 0);
}

#[test]
fn a_tied_embedding_is_one_constant() {
    let c = tiny("LlamaForCausalLM", json!({"tie_word_embeddings": true}));
    let m = made(&c, &BuildOptions::default());
    let g = &m.graphs[0];
    let weight_of = |op: Op, argument: usize| {
        let node = g.all_nodes().into_iter().rfind(|n| g.nodes[*n].op == op).unwrap();
        match g.nodes[node].args[argument] {
            pteron_ir::Arg::Value(v) => g.values[v].def,
            _ => panic!("no value"),
        }
    };
    assert_eq!(weight_of(Op::Embedding, 0), weight_of(Op::Linear, 1));
    assert!(!m.constants.values().any(|c| c.name.starts_with("lm_head")));
}

/// The names and shapes asked for, in order.
struct Recorder(RefCell<Vec<(String, Vec<usize>)>>);

impl Weights for Recorder {
    fn get(&self, name: &str, shape: &[usize]) -> Result<SharedSource, ModelError> {
        self.0.borrow_mut().push((name.to_owned(), shape.to_vec()));
        SyntheticWeights::new(0).get(name, shape)
    }
}

#[test]
fn the_builder_asks_for_the_listed_parameters() {
    let meta = ModelConfig::from_meta(
        &json!({"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 512, "hidden_dim": 160}),
        None,
    );
    for (family, c) in families().into_iter().chain([("meta", meta.unwrap())]) {
        let recorder = Recorder(RefCell::default());
        let m = build(&c, &recorder, &BuildOptions::default()).unwrap();
        let mut asked = recorder.0.into_inner();
        let mut listed: Vec<_> = parameters(&c).into_iter().map(|p| (p.name, p.shape)).collect();
        asked.sort();
        listed.sort();
        assert_eq!(asked, listed, "{family}");
        for p in asked {
            assert!(m.constants.values().any(|k| *k.name == *p.0), "{family} {}", p.0);
        }
    }
}

#[test]
fn module_paths_mirror_the_checkpoint() {
    let c = tiny("Qwen3ForCausalLM", json!({}));
    let m = made(&c, &BuildOptions { use_kv_cache: true, ..BuildOptions::default() });
    let g = &m.graphs[0];
    let paths = |op: Op| -> Vec<String> {
        let nodes = g.all_nodes().into_iter().filter(|n| g.nodes[*n].op == op);
        nodes.map(|n| g.paths[g.nodes[n].path].to_string()).collect()
    };
    let linears = paths(Op::Linear);
    assert_eq!(linears[0], "model.layers.0.self_attn.q_proj");
    assert_eq!(linears[13], "model.layers.1.mlp.down_proj");
    assert_eq!(linears.last().unwrap(), "lm_head");
    assert_eq!(paths(Op::RmsNorm)[1], "model.layers.0.self_attn.q_norm");
    assert_eq!(paths(Op::Embedding), ["model.embed_tokens"]);
    assert_eq!(paths(Op::Sdpa)[2], "model.layers.2.self_attn");
    assert_eq!(m.buffers[Id::from_index(1)].name.as_ref(), "model.layers.0.self_attn.kv_cache.v_cache");
}

#[test]
fn constants_are_sources_of_the_asked_type() {
    let c = tiny("LlamaForCausalLM", json!({}));
    let bf16 = SyntheticWeights::new(3).with_dtype(DType::BF16);
    let m = build(&c, &bf16, &BuildOptions { dtype: DType::F16, ..BuildOptions::default() }).unwrap();
    let k = m.constants.values().find(|k| k.name.ends_with("input_layernorm.weight")).unwrap();
    let ConstData::Source(source) = &k.data else { panic!("no source") };
    let mut row = [0u8; 2];
    source.read_rows(5..6, &mut row).unwrap();
    let value = half::f16::from_le_bytes(row).to_f32();
    assert!((0.8..1.2).contains(&value), "{value}");
    let found = |w: &dyn Weights| build(&c, w, &BuildOptions::default()).unwrap_err().to_string();
    let short = |name: &str, _: &[usize]| -> Result<SharedSource, ModelError> {
        Ok(Arc::new(MemorySource::of(name, &[2, 3], &[0f32; 6]).unwrap()))
    };
    assert_eq!(found(&short), "weight `model.embed_tokens.weight` has shape [2, 3], expected [512, 64]");
    let whole = |name: &str, shape: &[usize]| -> Result<SharedSource, ModelError> {
        Ok(Arc::new(MemorySource::of(name, shape, &vec![0i8; shape.iter().product()]).unwrap()))
    };
    assert!(found(&whole).contains("has dtype i8"));
    let none = |name: &str, _: &[usize]| -> Result<SharedSource, ModelError> {
        Err(ModelError::MissingWeight(name.to_owned()))
    };
    assert_eq!(found(&none), "weight `model.embed_tokens.weight` is missing");
}

fn meta(m: &Module) -> Vec<String> {
    let one = |v: &MetaValue| match v {
        MetaValue::Int(i) => i.to_string(),
        MetaValue::Bool(b) => b.to_string(),
        MetaValue::Float(f) => format!("{f:?}"),
        MetaValue::Str(s) => format!("{s:?}"),
        MetaValue::Tensor(_) => "tensor".into(),
    };
    m.metadata
        .iter()
        .map(|d| format!("{} {}", d.name, d.values.iter().map(one).collect::<Vec<_>>().join(" ")))
        .collect()
}

#[test]
fn constant_methods() {
    let c = tiny("LlamaForCausalLM", json!({}));
    let generation =
        GenerationConfigFile { eos_token_ids: vec![5, 6, 5], bos_token_id: None, ..GenerationConfigFile::default() };
    let tokens = SpecialTokens::new(&c, Some(&generation)).unwrap();
    assert_eq!(tokens, SpecialTokens { bos: Some(1), eos: vec![5, 6] });
    assert_eq!(SpecialTokens::new(&c, None).unwrap().eos, [2, 3]);
    let outside = GenerationConfigFile { eos_token_ids: vec![512], ..GenerationConfigFile::default() };
    let text = SpecialTokens::new(&c, Some(&outside)).unwrap_err().to_string();
    assert!(text.starts_with("generation_config.json: field `eos_token_id`: found 512, expected"), "{text}");

    let mut options = BuildOptions { use_kv_cache: true, tokens, ..BuildOptions::default() };
    let standard = [
        "get_max_seq_len 128",
        "get_max_context_len 128",
        "get_n_layers 3",
        "get_vocab_size 512",
        "use_kv_cache true",
        "use_sdpa_with_kv_cache false",
        "enable_dynamic_shape true",
        "get_bos_id 1",
        "get_eos_ids 5 6",
    ];
    assert_eq!(meta(&made(&c, &options)), standard);
    let user = json!({"get_bos_id": 9, "get_eos_ids": [4], "name": "tiny", "scale": 0.5, "flags": [true, 1, "x"]});
    options.metadata = parse_metadata(&user).unwrap();
    let mut expected = standard.map(String::from).to_vec();
    expected[7] = "get_bos_id 9".into();
    expected[8] = "get_eos_ids 4".into();
    expected.extend(["name \"tiny\"".into(), "scale 0.5".into(), "flags true 1 \"x\"".into()]);
    assert_eq!(meta(&made(&c, &options)), expected);
    options = BuildOptions::default();
    assert_eq!(meta(&made(&c, &options)).len(), 7);

    for (bad, name) in [
        (json!([1]), "``"),
        (json!({"a": null}), "`a`"),
        (json!({"a": {"b": 1}}), "`a`"),
        (json!({"a": [[1]]}), "`a`"),
        (json!({"a": u64::MAX}), "`a`"),
        (json!({"forward": 1}), "`forward`"),
        (json!({"": 1}), "``"),
    ] {
        let text = parse_metadata(&bad).unwrap_err().to_string();
        assert!(text.starts_with(&format!("metadata {name}: found ")), "{text}");
    }
}

#[test]
fn options_are_checked() {
    let c = tiny("LlamaForCausalLM", json!({}));
    let refused = |o: BuildOptions| build(&c, &SyntheticWeights::new(0), &o).unwrap_err().to_string();
    let base = BuildOptions::default;
    for (options, option) in [
        (BuildOptions { use_sdpa_with_kv_cache: true, ..base() }, "use_sdpa_with_kv_cache"),
        (BuildOptions { max_seq_length: 129, ..base() }, "max_context_length"),
        (BuildOptions { max_seq_length: 1, ..base() }, "max_seq_length"),
        (BuildOptions { max_seq_length: 0, dynamic_shape: false, ..base() }, "max_seq_length"),
        (BuildOptions { max_seq_length: usize::MAX, max_context_length: usize::MAX, ..base() }, "max_seq_length"),
        (BuildOptions { max_context_length: usize::MAX, ..base() }, "max_context_length"),
        (BuildOptions { dtype: DType::I64, ..base() }, "dtype-override"),
        (BuildOptions { dtype: DType::F64, ..base() }, "dtype-override"),
    ] {
        let text = refused(options);
        assert!(text.starts_with(&format!("option `{option}`: found ")), "{text}");
    }
    // The shortest of each form.
    for (use_kv_cache, dynamic_shape, n) in [(false, false, 1), (true, false, 1), (false, true, 2), (true, true, 2)] {
        made(&c, &BuildOptions { use_kv_cache, dynamic_shape, max_seq_length: n, max_context_length: n, ..base() });
        let options = BuildOptions {
            use_kv_cache,
            use_sdpa_with_kv_cache: use_kv_cache,
            dynamic_shape,
            max_seq_length: n,
            max_context_length: n,
            ..base()
        };
        made(&c, &options);
    }
    let long = BuildOptions { max_context_length: 65, max_seq_length: 64, ..base() };
    assert!(long.warnings(&c)[0].contains("a context of 65 tokens is longer than the 64 positions"));
    assert!(BuildOptions { max_context_length: 64, max_seq_length: 64, ..base() }.warnings(&c).is_empty());
}

#[test]
fn a_model_of_a_billion_is_built_quickly() {
    let c = ModelConfig::from_hf(&json!({
        "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "rope_theta": 5e5,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "max_position_embeddings": 131072
    }))
    .unwrap();
    let options = BuildOptions {
        use_kv_cache: true,
        use_sdpa_with_kv_cache: true,
        max_seq_length: 2048,
        max_context_length: 131_072,
        ..BuildOptions::default()
    };
    let start = Instant::now();
    let m = build(&c, &SyntheticWeights::new(0), &options).unwrap();
    let took = start.elapsed();
    let weights: u64 = parameters(&c).iter().map(|p| p.shape.iter().product::<usize>() as u64).sum();
    println!("{weights} weights, {} nodes: {took:?}", m.graphs[0].nodes.len());
    assert_eq!(weights, 1_235_814_400);
    verify::module(&m).unwrap();
}
