//! Quantized exports of the bundled model: the logits that ExecuTorch's own runtime gives for the same files, and what they cost.
//! `tools/oracle/check_quantized.py` recorded them.

mod support;

use serde_json::{Value, json};
use support::{pteron, with_glass};

fn recorded() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/quantized/executorch.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn strings(v: &Value) -> Vec<&str> {
    v.as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect()
}

fn numbers(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(|s| s.as_f64().unwrap()).collect()
}

#[test]
fn logits_are_executorchs() {
    let (folder, recorded) = (with_glass(), recorded());
    let tensor = |shape: Value, data: Value| json!({"dtype": "int64", "shape": shape, "data": data});
    let call = |c: &Value| {
        let n = c["tokens"].as_array().unwrap().len();
        json!([tensor(json!([1, n]), c["tokens"].clone()), tensor(json!([1]), json!([c["position"]]))])
    };
    let calls: Vec<Value> = recorded["calls"].as_array().unwrap().iter().map(call).collect();
    std::fs::write(folder.path().join("calls.json"), serde_json::to_vec(&calls).unwrap()).unwrap();
    let forms = recorded["forms"].as_object().unwrap();
    assert_eq!(forms.len(), 10);
    for (name, form) in forms {
        let export = ["export", "glass-en", "-o", "q.pte", "-kv", "--use-sdpa-with-kv-cache"];
        let mut flags: Vec<&str> = export.into_iter().chain(strings(&form["flags"])).collect();
        // The recorded programs are portable ones.
        if name.starts_with("xnnpack") {
            flags.push("--no-xnnpack");
        }
        pteron(folder.path(), &flags).ok();
        let out = pteron(folder.path(), &["exec", "q.pte", "--calls", "calls.json"]).json();
        for (ours, theirs) in out.as_array().unwrap().iter().zip(form["logits"].as_array().unwrap()) {
            let (ours, theirs) = (numbers(&ours[0]["data"]), numbers(theirs));
            let most = theirs.iter().fold(0f64, |m, v| m.max(v.abs()));
            assert_eq!(ours.len(), theirs.len());
            let worst = ours.iter().zip(&theirs).fold(0f64, |m, (a, b)| m.max((a - b).abs()));
            // A code of an activation that lies at a tie may go the other way on another processor, so dynamic schemes get
            // the width of a code.
            let dynamic = name.starts_with("xnnpack") || name.starts_with("8da4w") || name.starts_with("kv8");
            let allowed = if dynamic { 1e-2 } else { 1e-4 };
            assert!(worst <= allowed * most, "{name}: {worst} of {most}");
        }
    }
}

#[test]
fn the_damage_is_measured_and_small() {
    let folder = with_glass();
    // A text that the tokenizer of the bundled model encodes: what the model itself says.
    let text = include_str!("../assets/glass-en/LICENSE").repeat(2);
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let eval = |flags: &[&str]| {
        let base =
            ["eval", "glass-en", "--reference", "glass-en", "--text", "text.txt", "--window", "64", "--windows", "8"];
        let args: Vec<&str> = base.into_iter().chain(["--json"]).chain(flags.iter().copied()).collect();
        let found = pteron(folder.path(), &args).json()["evaluation"].clone();
        let kl = found["divergence"]["kl"]["mean"].as_f64().unwrap();
        (kl, found["divergence"]["same_top"]["mean"].as_f64().unwrap(), found["scored"].as_u64().unwrap())
    };
    let (float, same, scored) = eval(&[]);
    assert!(float.abs() < 1e-9 && same == 1.0 && scored > 100, "{float} {same} {scored}");
    let (int8, same, _) = eval(&["-qmode", "int8"]);
    assert!(int8 > 1e-6 && int8 < 2e-3 && same > 0.95, "{int8} {same}");
    let (int4, ..) = eval(&["-qmode", "4w", "-G", "32"]);
    assert!(int4 > int8 && int4 < 0.2, "{int4}");
    let (dynamic, ..) = eval(&["--pt2e-quantize", "xnnpack_dynamic"]);
    assert!(dynamic > int8 && dynamic < 0.05, "{dynamic}");
}

#[test]
fn the_same_export_gives_the_same_bytes() {
    let folder = with_glass();
    let flags = ["export", "glass-en", "-qmode", "8da4w", "-G", "32", "-E", "4,32", "-o"];
    let write = |name: &str| {
        let args: Vec<&str> = flags.into_iter().chain([name]).collect();
        pteron(folder.path(), &args).ok();
        std::fs::read(folder.path().join(name)).unwrap()
    };
    assert_eq!(write("a.pte"), write("b.pte"));
}

#[test]
fn what_is_wrong_is_said_in_one_sentence() {
    let folder = with_glass();
    let export = |flags: &[&str], code: i32| {
        let args: Vec<&str> = ["export", "glass-en", "-o", "x.pte"].into_iter().chain(flags.iter().copied()).collect();
        let said = pteron(folder.path(), &args).fails(code);
        assert!(!folder.path().join("x.pte").exists());
        said
    };
    for (flags, code, parts) in [
        (&["-qmode", "8da5w"][..], 2, ["8da5w", "8da4w"]),
        (&["-qmode", "4w", "-G", "7"], 1, ["group size 7", "columns"]),
        (&["-G", "32"], 2, ["--group-size", "--quantization-mode"]),
        (&["-E", "3,32"], 2, ["--embedding-quantize", "2, 4 or 8"]),
        (&["--pt2e-quantize", "xnnpack_dynamics"], 2, ["xnnpack_dynamics", "did you mean xnnpack_dynamic"]),
        (&["--pt2e-quantize", "qnn_16a4w"], 2, ["qnn_16a4w", "--calibration-data"]),
        (&["--pt2e-quantize", "vulkan_8w", "-qmode", "int8"], 2, ["--quantization-mode", "--pt2e-quantize"]),
        (&["--pt2e-quantize", "vulkan_8w", "--quant-compat", "et9"], 2, ["et9", "et0.5 or et1.5"]),
        (&["--xnnpack-extended-ops"], 2, ["--xnnpack-extended-ops", "-X"]),
        (&["--require-full-delegation"], 2, ["--require-full-delegation", "-X"]),
        (&["-qmode", "int8", "-X", "--require-full-delegation"], 1, ["not delegated", "its weight is no constant"]),
        (&["-E", "8,0", "-X", "--no-xnnpack"], 2, ["--no-xnnpack", "--xnnpack"]),
    ] {
        let said = export(flags, code);
        assert!(parts.iter().all(|p| said.contains(p)), "{flags:?}: {said}");
    }
}

#[test]
fn what_goes_to_xnnpack_is_told() {
    let folder = with_glass();
    let base = ["export", "glass-en", "-kv", "--use-sdpa-with-kv-cache", "-o", "x.pte", "--no-evaluation", "--bare"];
    let export = |flags: &[&str]| {
        let args: Vec<&str> = base.into_iter().chain(flags.iter().copied()).chain(["--json"]).collect();
        pteron(folder.path(), &args).json()["partition"].clone()
    };
    let grouped = export(&["-qmode", "8da4w", "-G", "32", "-X"]);
    let layers = grouped["dynamic_layers"].as_u64().unwrap();
    assert!(layers > 7 && grouped["undelegated"].as_array().unwrap().is_empty(), "{grouped}");
    // Layers whose rows the groups do not divide stay float, and go there as well.
    assert_eq!((layers, &grouped["delegated"]), (25, &json!([["aten::linear", 29]])));
    let shown = pteron(folder.path(), &["inspect", "x.pte"]).ok();
    assert!(shown.contains("payloads") && shown.contains("qbint4 in groups of 32"), "{shown}");
    // Switched on by the scheme, as in export_llama, and off by a flag.
    assert_eq!(export(&["--pt2e-quantize", "xnnpack_dynamic"])["dynamic_layers"], 29);
    assert_eq!(export(&["--pt2e-quantize", "xnnpack_dynamic", "--no-xnnpack"]), Value::Null);
    let extended = export(&["-qmode", "8da4w", "-G", "32", "-X", "--xnnpack-extended-ops"]);
    assert!(extended["delegates"].as_u64() > grouped["delegates"].as_u64(), "{extended}");
    let stays = extended["undelegated"].as_array().unwrap().iter().map(|u| u["operator"].as_str().unwrap());
    assert!(stays.into_iter().any(|op| op == "llama::custom_sdpa"), "{extended}");
}
