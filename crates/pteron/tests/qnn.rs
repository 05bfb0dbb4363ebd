//! Qualcomm's libraries behind the command line: what `doctor` says, and a program for the tensor processor.

mod support;

use std::path::Path;
use std::sync::Arc;

use pteron::ir::parse;
use pteron::program_format::{EmitOptions, emit};
use pteron::qnn::graph::{DataType, Encoding, QnnGraph, QnnNode, QnnTensor, TensorKind};
use pteron::qnn::payload::write_payload;
use pteron::qnn::soc::Soc;
use pteron::qnn::spec::{CompileSpec, HtpOptions};
use pteron::qnn::{ComposeOptions, HostOptions, Origin, QnnLibrary, Sdk, WorkerCommand, names};
use pteron_testkit::{QNN_RELEASES, qnn_libraries};
use serde_json::json;
use support::{pteron, with_glass};

#[test]
fn doctor_without_the_library() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    let text = pteron(dir.path(), &["doctor", "--qnn-sdk", "empty"]).ok();
    for part in ["not found", "looked at empty (--qnn-sdk)", "pip install onnxruntime-qnn", "licence", "SM8650"] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let json = pteron(dir.path(), &["doctor", "--qnn-sdk", "empty", "--json"]).json();
    assert_eq!(json["qnn"]["found"], false);
    assert_eq!(json["qnn"]["looked_at"], json!(["empty (--qnn-sdk)"]));
    assert_eq!(json["backends"], json!(["XnnpackBackend", "QnnBackend"]));
    let soc = json["qnn"]["socs"].as_array().unwrap().iter().find(|s| s["name"] == "SM8650").unwrap();
    assert_eq!((&soc["model"], &soc["htp"], &soc["weight_sharing"]), (&json!(57), &json!("V75"), &json!(true)));
}

#[test]
fn doctor_with_a_file_that_is_not_the_library() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("libQnnHtp.so"), "no library").unwrap();
    let ran = pteron(dir.path(), &["doctor", "--qnn-sdk", "."]);
    assert_eq!(ran.code, 1, "{}", ran.out);
    assert!(ran.out.contains("problem   ") && ran.out.contains("libQnnHtp.so: it cannot be opened"), "{}", ran.out);
}

#[test]
fn doctor_with_the_library() {
    let Some(folder) = qnn_libraries("doctor_with_the_library", QNN_RELEASES[0]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = folder.display().to_string();
    let json = pteron(dir.path(), &["doctor", "--qnn-sdk", &folder, "--json"]).json();
    let qnn = &json["qnn"];
    assert_eq!(
        (&qnn["found"], &qnn["problem"], &qnn["found_through"]),
        (&json!(true), &json!(null), &json!("--qnn-sdk"))
    );
    assert_eq!(qnn["library"]["provider"], "HTP_QTI_AISW");
    assert!(qnn["library"]["build"].as_str().unwrap().contains("2.49"), "{qnn}");
    assert_eq!(qnn["test"]["soc"], "SM8650");
    assert!(qnn["operators"].as_u64().unwrap() > 100);
    let text = pteron(dir.path(), &["doctor", "--qnn-sdk", &folder]).ok();
    assert!(text.contains("one addition for SM8650") && text.contains("right"), "{text}");
}

/// Before anything is calibrated, and without the library.
#[test]
fn options_that_do_not_fit_are_said() {
    let dir = with_glass();
    let text = ["--calibration-data", "glass-en/LICENSE", "-o", "m.pte"];
    let export = |more: &[&str]| {
        let base = ["export", "glass-en", "--qnn", "--qnn-on-cpu", "--pt2e-quantize", "qnn_8a8w"];
        pteron(dir.path(), &[&base[..], &text, more].concat()).fails(2)
    };
    let shards = export(&["--num-sharding", "9"]);
    assert!(shards.contains("--num-sharding is 9, expected at most 4 (the model's layers)"), "{shards}");
    let sharing = export(&["--qnn-mode", "hybrid", "--weight-sharing", "--soc-model", "SM8450"]);
    assert!(sharing.contains("--weight-sharing is given for SM8450 (V69), expected a system on chip"), "{sharing}");
    let soc = export(&["--soc-model", "SM8651"]);
    assert!(soc.contains("--soc-model is SM8651, expected one of") && soc.contains("SM8650"), "{soc}");
}

fn host(folder: &Path) -> Arc<dyn QnnLibrary> {
    let sdk = Sdk::at(folder, Origin::Argument).unwrap();
    let worker = WorkerCommand::new(env!("CARGO_BIN_EXE_pteron"));
    HostOptions { sdk, worker, timeout: HostOptions::DEFAULT_TIMEOUT }.open().unwrap()
}

/// `y = x + x` for SM8650, as a context binary.
fn context(host: &dyn QnnLibrary) -> Vec<u8> {
    let mut g = QnnGraph::new("forward");
    let tensor = |name: String, kind, scale| QnnTensor {
        name,
        kind,
        dtype: DataType::UFixed8,
        dims: vec![1, 4],
        encoding: Encoding::per_tensor(scale, 0),
        data: None,
    };
    let x = g.add_tensor(tensor(names::input(0, "x"), TensorKind::AppWrite, 0.5));
    let y = g.add_tensor(tensor(names::output("y"), TensorKind::AppRead, 1.0));
    let (name, op) = ("add".to_owned(), "ElementWiseAdd".to_owned());
    g.add_node(QnnNode { name, op, params: Vec::new(), inputs: vec![x, x], outputs: vec![y] });
    let options = ComposeOptions::new(Soc::by_name("SM8650").unwrap());
    host.compose(&[g], &options, &mut |_| {}).unwrap().binary().to_vec()
}

/// A program that is one call of the delegate.
fn program(context: &[u8], soc: &str) -> Vec<u8> {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let spec = CompileSpec::for_soc(Soc::by_name(soc).unwrap(), HtpOptions::default()).write().unwrap();
    let text = format!(
        "module \"t\" {{\n  delegate d0 \"QnnBackend\" hex \"{}\" spec \"qnn_compile_spec\" = hex \"{}\"\n  \
         graph forward(%0 \"x\": u8[1, 4]) {{\n    %1 = delegate d0(%0) : u8[1, 4] #0\n    return %1\n  }}\n}}\n",
        hex(&write_payload(context)),
        hex(&spec)
    );
    let module = parse::module(&text).unwrap_or_else(|e| panic!("{e:?}"));
    let emitted = emit(&module, &EmitOptions::default()).unwrap();
    let mut bytes = Vec::new();
    emitted.write_to(&mut bytes, &mut |_| {}).unwrap();
    bytes
}

#[test]
fn a_program_of_the_tensor_processor() {
    let Some(folder) = qnn_libraries("a_program_of_the_tensor_processor", QNN_RELEASES[0]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let context = context(host(&folder).as_ref());
    std::fs::write(dir.path().join("m.pte"), program(&context, "SM8650")).unwrap();
    let calls = json!([[{"dtype": "uint8", "shape": [1, 4], "data": [0, 1, 77, 255]}]]);
    std::fs::write(dir.path().join("calls.json"), calls.to_string()).unwrap();
    let sdk = folder.display().to_string();
    let exec = |program: &str, sdk: &str| {
        pteron(dir.path(), &["exec", program, "--calls", "calls.json", "--out", "out.json", "--qnn-sdk", sdk])
    };
    exec("m.pte", &sdk).ok();
    let out: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.path().join("out.json")).unwrap()).unwrap();
    assert_eq!(out[0][0]["data"], json!([0, 1, 77, 255]), "{out}");

    std::fs::write(dir.path().join("other.pte"), program(&context, "SM8550")).unwrap();
    let other = exec("other.pte", &sdk).fails(1);
    assert!(other.contains("compiled for SM8650 (V75), expected one for SM8550 (V73)"), "{other}");
    let none = exec("m.pte", ".").fails(1);
    assert!(none.contains("Qualcomm's QNN library was not found; looked at . (--qnn-sdk)"), "{none}");
    let inspected = pteron(dir.path(), &["inspect", "m.pte"]).ok();
    assert!(inspected.contains("QnnBackend"), "{inspected}");
}
