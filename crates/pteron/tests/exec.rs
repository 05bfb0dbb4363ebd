//! `pteron exec` on programs that the real ExecuTorch made, against what its runtime gave.

mod support;

use serde_json::{Value, json};
use support::{fixture, pteron, pteron_with_input, with_glass};

/// Numbers of a tensor or a scalar.
fn numbers(v: &Value) -> Vec<f64> {
    let one = |v: &Value| match v {
        Value::Bool(b) => f64::from(u8::from(*b)),
        other => other.as_f64().unwrap(),
    };
    match v {
        Value::Object(o) => o["data"].as_array().unwrap().iter().map(one).collect(),
        other => vec![one(other)],
    }
}

/// Runs the recorded calls of one method and compares. Gives their number.
fn check(program: &str, golden: &str, more: &[&str]) -> usize {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture(golden)).unwrap();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap();
    let steps: Vec<&Value> = all.iter().filter(|s| s["method"] == "forward").collect();
    assert!(!steps.is_empty(), "{golden}");
    let calls: Vec<&Value> = steps.iter().map(|s| &s["inputs"]).collect();
    std::fs::write(dir.path().join("calls.json"), json!(calls).to_string()).unwrap();
    let path = fixture(program).display().to_string();
    let args = [&["exec", &path, "--calls", "calls.json", "--out", "out.json"][..], more].concat();
    pteron(dir.path(), &args).ok();
    let out = std::fs::read_to_string(dir.path().join("out.json")).unwrap();
    let out: Vec<Vec<Value>> = serde_json::from_str(&out).unwrap();
    assert_eq!(out.len(), steps.len(), "{program}");
    for (got, step) in out.iter().zip(&steps) {
        let wanted = step["outputs"].as_array().unwrap();
        assert_eq!(got.len(), wanted.len(), "{program}");
        for (got, wanted) in got.iter().zip(wanted) {
            assert_eq!(got["shape"], wanted["shape"], "{program}");
            let dtype = wanted["dtype"].as_str().map(|d| d.trim_start_matches("torch."));
            assert_eq!(got["dtype"].as_str(), dtype, "{program}");
            let (got, wanted) = (numbers(got), numbers(wanted));
            let most = wanted.iter().fold(0f64, |m, x| m.max(x.abs()));
            for (a, b) in got.iter().zip(&wanted) {
                assert!((a - b).abs() <= 1e-5 * most, "{program}: {a} {b}");
            }
        }
    }
    steps.len()
}

#[test]
fn recorded_calls_give_recorded_outputs() {
    let mut calls = 0;
    for name in [
        "m_add",
        "m_args",
        "m_cast",
        "m_chlast",
        "m_cond",
        "m_mlp",
        "m_mlp_dyn",
        "m_multiout",
        "m_mutbuf",
        "m_mutbuf_init",
    ] {
        calls += check(&format!("micro/{name}.pte"), &format!("micro/{name}.json"), &[]);
    }
    assert!(calls >= 10);
}

#[test]
fn bundles_data_files_and_delegates_work() {
    check("micro/m_mlp.bpte", "micro/m_mlp.json", &["--load-mode", "file"]);
    let data = fixture("micro/_default_external_constant.ptd").display().to_string();
    check("micro/m_mlp_ptd.pte", "micro/m_mlp_ptd.json", &["--data", &data]);
    check("micro/m_mlp_xnn.pte", "micro/m_mlp_xnn.json", &["--cpu_threads", "2"]);
}

#[test]
fn calls_come_from_standard_input_and_special_numbers_pass() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("micro/m_add.json")).unwrap();
    let steps: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut inputs = steps[0]["inputs"].clone();
    inputs[0]["data"][0] = json!("here");
    let call = format!("[{inputs}]").replace("\"here\"", "-Infinity");
    let path = fixture("micro/m_add.pte").display().to_string();
    let out = pteron_with_input(dir.path(), &["exec", &path, "--calls", "-"], &call).ok();
    assert!(out.contains("-Infinity"), "{out}");
    let out = pteron_with_input(dir.path(), &["exec", &path, "--calls", "-"], &call.replace("-Infinity", "NaN")).ok();
    assert!(out.contains("NaN"), "{out}");
}

#[test]
fn a_program_is_held_to_the_limits_that_are_given() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(fixture("micro/m_mlp.json")).unwrap();
    let steps: Vec<Value> = serde_json::from_str(&text).unwrap();
    let call = format!("[{}]", steps[0]["inputs"]);
    let path = fixture("micro/m_mlp.pte").display().to_string();
    let run = |more: &[&str]| pteron_with_input(dir.path(), &[&["exec", &path, "--calls", "-"], more].concat(), &call);
    run(&["--max-memory", "1MiB", "--max-operations", "1M"]).ok();
    let e = run(&["--max-memory", "100"]).fails(1);
    assert!(e.contains("the program declares") && e.contains("100 are allowed; --max-memory SIZE"), "{e}");
    let e = run(&["--max-operations", "20"]).fails(1);
    assert!(e.contains("of the run's 20 are left; --max-operations N"), "{e}");
    assert!(run(&["--max-memory", "2XB"]).fails(2).contains("such as 2GiB"));
}

/// Of a static shape the text before a projection is a view without an instruction, which only the payload says is an input.
#[test]
fn delegates_whose_inputs_are_views_of_a_static_shape() {
    let dir = with_glass();
    let ids: Vec<u32> = (5..37).collect();
    let call = json!([[{"dtype": "int64", "shape": [1, 32], "data": ids}]]);
    std::fs::write(dir.path().join("calls.json"), call.to_string()).unwrap();
    let logits = |name: &str, length: &str, more: &[&str]| {
        let flags = ["export", "glass-en", "-o", name, "--max-seq-length", length, "--max-context-length", length];
        let quantized = ["--pt2e-quantize", "xnnpack_dynamic", "--no-evaluation", "--bare"];
        pteron(dir.path(), &[&flags[..], &quantized, more].concat()).ok();
        numbers(&pteron(dir.path(), &["exec", name, "--calls", "calls.json"]).json()[0][0])
    };
    assert_eq!(logits("static.pte", "32", &["--disable-dynamic-shape"]), logits("dynamic.pte", "33", &[]));
}
