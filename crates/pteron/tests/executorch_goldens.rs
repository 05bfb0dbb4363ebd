//! Programs that the real ExecuTorch wrote give in Pteron what its own runtime gave: `fixtures/executorch`, whose README says
//! how the recordings were made. Same shapes and number of calls, all finite, floats within 1e-5 of the largest magnitude,
//! integers equal.

use pteron::exec::{Value, ValueRef};
use pteron::ir::MetaValue;
use pteron::tensor::{DType, Scalar, Tensor, Tolerance};
use pteron::{Exporter, LoadOptions, Program};
use pteron_testkit::fixture;
use serde_json::Value as Json;

fn numbers(v: &Json) -> Vec<f64> {
    let one = |v: &Json| match v {
        Json::Bool(b) => f64::from(u8::from(*b)),
        other => other.as_f64().unwrap(),
    };
    v.as_array().unwrap().iter().map(one).collect()
}

fn sizes(v: &Json) -> Vec<usize> {
    v.as_array().unwrap().iter().map(|d| usize::try_from(d.as_u64().unwrap()).unwrap()).collect()
}

/// A value of the recordings: an object with dtype, shape and data, or a bare number, boolean or string.
fn value(v: &Json) -> Option<Value> {
    Some(match v {
        Json::Object(o) => {
            let dtype: DType = o["dtype"].as_str().unwrap().parse().unwrap();
            let mut t = Tensor::zeros(dtype, &sizes(&o["shape"])).unwrap();
            for (i, x) in numbers(&o["data"]).into_iter().enumerate() {
                let x = if dtype.is_float() { Scalar::Float(x) } else { Scalar::Int(x as i64) };
                t.view_mut().set_scalar(i, x).unwrap();
            }
            Value::Tensor(t)
        }
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap()), Value::Int),
        _ => return None,
    })
}

fn same(what: &str, expected: &Value, found: &ValueRef<'_>) {
    match (expected, found) {
        (Value::Tensor(e), ValueRef::Tensor(f)) => {
            assert_eq!((e.dtype(), e.sizes()), (f.dtype(), f.sizes()), "{what}");
            let class = if e.dtype().is_float() { Tolerance::GOLDEN_F32 } else { Tolerance::EXACT };
            let found = f.to_f64_vec();
            assert!(found.iter().all(|x| x.is_finite()), "{what}: {found:?}");
            class.check(&e.view().to_f64_vec(), &found).unwrap_or_else(|m| panic!("{what}: {m}"));
        }
        (Value::Int(e), ValueRef::Int(f)) => assert_eq!(e, f, "{what}"),
        (Value::Bool(e), ValueRef::Bool(f)) => assert_eq!(e, f, "{what}"),
        (Value::Float(e), ValueRef::Float(f)) => assert_eq!(e, f, "{what}"),
        (e, f) => panic!("{what}: expected {}, found {}", e.describe(), f.describe()),
    }
}

fn open(path: &str, data: &[&str]) -> Program {
    let data = data.iter().map(|d| fixture(d)).collect();
    let options = LoadOptions { data, threads: Some(2), ..LoadOptions::default() };
    Program::open(fixture(path), &options).unwrap_or_else(|e| panic!("{e}"))
}

fn read(path: &str) -> Json {
    serde_json::from_slice(&std::fs::read(fixture(path)).unwrap()).unwrap()
}

/// Runs the recorded calls of a program in order, since state carries over. Gives the number of outputs compared.
fn micro(name: &str) -> usize {
    recorded("micro", name)
}

fn recorded(folder: &str, name: &str) -> usize {
    let data: &[&str] = if name == "m_mlp_ptd" { &["executorch/micro/_default_external_constant.ptd"] } else { &[] };
    let mut program = open(&format!("executorch/{folder}/{name}.pte"), data);
    let mut compared = 0;
    for call in read(&format!("executorch/{folder}/{name}.json")).as_array().unwrap() {
        let method = call["method"].as_str().unwrap();
        let expected = call["outputs"].as_array().unwrap();
        let constant = program.module().metadata.iter().find(|m| m.name.as_ref() == method).cloned();
        if let Some(constant) = constant {
            assert_eq!(constant.values.len(), expected.len(), "{name}, {method}");
            for (found, e) in constant.values.iter().zip(expected) {
                match (found, value(e)) {
                    (MetaValue::Str(s), None) => assert_eq!(e.as_str(), Some(s.as_ref())),
                    (MetaValue::Int(i), Some(e)) => same(method, &e, &ValueRef::Int(*i)),
                    (MetaValue::Bool(b), Some(e)) => same(method, &e, &ValueRef::Bool(*b)),
                    (MetaValue::Float(f), Some(e)) => same(method, &e, &ValueRef::Float(*f)),
                    (MetaValue::Tensor(t), Some(e)) => same(method, &e, &ValueRef::Tensor(t.view())),
                    (found, _) => panic!("{name}, {method}: {found:?} for {e}"),
                }
                compared += 1;
            }
            continue;
        }
        let inputs: Vec<Option<Value>> = call["inputs"].as_array().unwrap().iter().map(value).collect();
        let found = program.call(method, &inputs).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(found.len(), expected.len(), "{name}, {method}");
        for (i, (f, e)) in found.iter().zip(expected).enumerate() {
            same(&format!("{name}, {method}, output {i}"), &value(e).unwrap(), &f.as_ref().unwrap().as_ref());
            compared += 1;
        }
    }
    compared
}

#[test]
fn micro_programs() {
    let programs = [
        ("m_add", 1),
        ("m_add_noplan_io", 1),
        ("m_args", 7),
        ("m_cast", 4),
        ("m_cast_skipdo", 4),
        ("m_chlast", 1),
        ("m_cond", 2),
        ("m_map", 2),
        ("m_mlp", 6),
        ("m_mlp_dyn", 3),
        ("m_mlp_ptd", 1),
        ("m_mlp_xnn", 1),
        ("m_mlp_xnn_inline", 1),
        ("m_multiout", 6),
        ("m_mutbuf", 2),
        ("m_mutbuf_init", 2),
        ("m_mutbuf_named", 1),
        ("m_scan", 2),
        ("m_shared", 4),
        ("m_shared_rw", 5),
    ];
    for (name, outputs) in programs {
        assert_eq!(micro(name), outputs, "{name}");
    }
}

#[test]
fn quantization() {
    let programs = [
        ("embeddings", 10),
        ("per_channel", 4),
        ("per_tensor", 56),
        ("per_token", 12),
        ("pt2e_dynamic", 3),
        ("pt2e_static", 3),
    ];
    for (name, outputs) in programs {
        assert_eq!(recorded("quant", name), outputs, "{name}");
    }
}

/// A cache of codes. Scores differ by the rounding of f32 sums, so that now and then a code differs by one.
#[test]
fn a_quantized_cache() {
    let mut program = open("executorch/v7_kv_sdpa_qkv.pte", &[]);
    let golden = read("executorch/golden/v7_kv_sdpa_qkv.json");
    assert_eq!(steps(&mut program, &golden), 4);
}

#[test]
fn a_bundled_program_carries_its_own_test() {
    let path = fixture("executorch/micro/m_mlp.bpte");
    let bytes = std::fs::read(&path).unwrap();
    let bundle = pteron::pte::BundledProgram::parse(&bytes).unwrap();
    let cases = pteron::program_format::bundled::test_cases(&bundle).unwrap();
    assert_eq!(cases.len(), 1);
    let mut program = Program::open(&path, &LoadOptions::default()).unwrap();
    for case in cases {
        let owned = |v: &pteron::program_format::bundled::CaseValue| match v {
            pteron::program_format::bundled::CaseValue::Tensor(t) => Value::Tensor(t.clone()),
            other => panic!("{other:?}"),
        };
        let inputs: Vec<Option<Value>> = case.inputs.iter().map(|v| Some(owned(v))).collect();
        let found = program.call(&case.method, &inputs).unwrap();
        assert_eq!(found.len(), case.expected.len());
        for (f, e) in found.iter().zip(&case.expected) {
            same("m_mlp.bpte", &owned(e), &f.as_ref().unwrap().as_ref());
        }
    }
}

/// Replays the recorded steps of a language model. Gives their number.
fn steps(program: &mut Program, golden: &Json) -> usize {
    steps_within(program, golden, Tolerance::GOLDEN_F32)
}

fn steps_within(program: &mut Program, golden: &Json, class: Tolerance) -> usize {
    let steps = golden["steps"].as_array().unwrap();
    for (i, step) in steps.iter().enumerate() {
        let tokens: Vec<i64> = numbers(&step["tokens"]).into_iter().map(|t| t as i64).collect();
        let mut inputs = vec![Some(Value::Tensor(Tensor::of(&[1, tokens.len()], &tokens).unwrap()))];
        if let Some(p) = step["input_pos"].as_i64() {
            inputs.push(Some(Value::Tensor(Tensor::of(&[1], &[p]).unwrap())));
        }
        let found = program.call("forward", &inputs).unwrap_or_else(|e| panic!("{e}"));
        let [Some(Value::Tensor(logits))] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(logits.sizes(), sizes(&step["out_shape"]), "step {i}");
        let found = logits.view().to_f64_vec();
        let expected = numbers(&step["logits"]);
        let last = &found[found.len() - expected.len()..];
        class.check(&expected, last).unwrap_or_else(|m| panic!("step {i}: {m}"));
    }
    steps.len()
}

/// Programs whose linear layers XNNPACK computed from 8-bit activations and 4-bit or 8-bit weights. Its integer kernels round
/// elsewhere, so that now and then an activation's code differs by one.
#[test]
fn language_models_of_quantized_payloads() {
    let variants = [
        "v4_8da4w_xnn",
        "v4b_8da4w_xnn_ext",
        "v4d_8da4w_xnn_emb8",
        "v4e_8da4w_xnn_emb4",
        "v5_pt2e_xnn_dyn",
        "v5b_pt2e_xnn_dyn_qc4",
    ];
    for name in variants {
        let mut program = open(&format!("executorch/{name}.pte"), &[]);
        let golden = read(&format!("executorch/golden/{name}.json"));
        assert_eq!(steps_within(&mut program, &golden, Tolerance::REORDERED_MODEL_F32), 4, "{name}");
    }
}

#[test]
fn language_models() {
    let variants = [
        ("v1_nokv", 2),
        ("v1b_nokv_static", 2),
        ("v2_kv", 4),
        ("v2b_kv_static", 8),
        ("v3_kv_sdpa", 4),
        ("v6_kv_sdpa_xnn_fp32", 4),
        ("v7b_kv_sdpa_emb4", 4),
        ("v7c_kv_sdpa_emb8", 4),
    ];
    for (name, count) in variants {
        let mut program = open(&format!("executorch/{name}.pte"), &[]);
        assert_eq!(steps(&mut program, &read(&format!("executorch/golden/{name}.json"))), count, "{name}");
    }
}

#[test]
fn sdpa_with_kv_cache() {
    for name in ["causal", "masked"] {
        let base = format!("executorch/sdpa/sdpa_with_kv_cache_{name}");
        let mut program = open(&format!("{base}.pte"), &[]);
        let (calls, expected) = (read(&format!("{base}.calls.json")), read(&format!("{base}.out.json")));
        let (calls, expected) = (calls.as_array().unwrap(), expected.as_array().unwrap());
        assert_eq!((calls.len(), expected.len()), (3, 3));
        for (call, outputs) in calls.iter().zip(expected) {
            let inputs: Vec<Option<Value>> = call.as_array().unwrap().iter().map(value).collect();
            let found = program.call("forward", &inputs).unwrap();
            assert_eq!(found.len(), 1);
            same(name, &value(&outputs[0]).unwrap(), &found[0].as_ref().unwrap().as_ref());
        }
    }
}

/// The exports of the checkpoint that the recorded programs were exported from, in the same five variants.
#[test]
fn our_exports_of_the_same_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let variants = [
        ("v1_nokv", false, false, true),
        ("v1b_nokv_static", false, false, false),
        ("v2_kv", true, false, true),
        ("v2b_kv_static", true, false, false),
        ("v3_kv_sdpa", true, true, true),
    ];
    for (name, kv, sdpa, dynamic) in variants {
        let out = folder.path().join(format!("{name}.pte"));
        let report = Exporter::open(fixture("tiny_llama_hf"))
            .unwrap()
            .kv_cache(kv)
            .sdpa_with_kv_cache(sdpa)
            .dynamic_shape(dynamic)
            .max_seq_length(32)
            .max_context_length(32)
            .write(&out)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(report.arena_bytes <= report.executorch_arena_bytes, "{name}");
        let mut program = Program::open(&out, &LoadOptions::default()).unwrap();
        assert!(steps(&mut program, &read(&format!("executorch/golden/{name}.json"))) >= 2, "{name}");
    }
}

/// Keys of the named data of a program: SHA-256 of the bytes.
fn keys(path: &std::path::Path) -> std::collections::BTreeSet<String> {
    let file = pteron::ProgramFile::open(path, pteron::LoadMode::Mmap).unwrap();
    file.head().program().named_data.iter().map(|n| n.key.clone()).collect()
}

/// What goes to XNNPACK: the logits that ExecuTorch's own programs give, in as many delegates, and in them the very bytes of
/// weights and scales, but for query and key projections, whose rows its exporter has in Meta's order.
#[test]
fn our_exports_for_xnnpack_of_the_same_checkpoint() {
    let base = |text: &str| pteron::quant::recipe::Recipe::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let pt2e = |name: &str| base(&format!("pt2e_quantize = \"{name}\"\n"));
    let grouped = "quantization_mode = \"8da4w\"\ngroup_size = 32\n";
    let forms = [
        ("v4_8da4w_xnn", base(grouped), false, 22),
        ("v4b_8da4w_xnn_ext", base(grouped), true, 22),
        ("v4e_8da4w_xnn_emb4", base(&format!("{grouped}embedding_quantize = \"4,32\"\n")), false, 22),
        ("v5_pt2e_xnn_dyn", pt2e("xnnpack_dynamic"), false, 22),
        ("v5b_pt2e_xnn_dyn_qc4", pt2e("xnnpack_dynamic_qc4"), false, 22),
        ("v6_kv_sdpa_xnn_fp32", pteron::quant::recipe::Recipe::default(), false, 11),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, recipe, extended_ops, equal) in forms {
        let out = folder.path().join(format!("{name}.pte"));
        let xnnpack = pteron::Xnnpack { extended_ops, require_full_delegation: true };
        let report = Exporter::open(fixture("tiny_llama_hf"))
            .unwrap()
            .kv_cache(true)
            .sdpa_with_kv_cache(true)
            .max_seq_length(32)
            .max_context_length(32)
            .quantize(recipe)
            .xnnpack(Some(xnnpack))
            .bare(true)
            .write(&out)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        let partition = report.partition.unwrap();
        assert!(extended_ops || partition.delegates == 9, "{name}: {partition:?}");
        assert!(partition.delegated.contains(&("aten::linear".to_owned(), 15)), "{name}: {partition:?}");
        let (ours, theirs) = (keys(&out), keys(&fixture(&format!("executorch/{name}.pte"))));
        assert_eq!(ours.intersection(&theirs).count(), equal, "{name}");
        let mut program = Program::open(&out, &LoadOptions::default()).unwrap();
        let golden = read(&format!("executorch/golden/{name}.json"));
        assert_eq!(steps_within(&mut program, &golden, Tolerance::REORDERED_MODEL_F32), 4, "{name}");
    }
}
