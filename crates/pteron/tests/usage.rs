//! Spellings, errors, files.

mod support;

use support::{fixture, pteron, pteron_with_input, with_glass};

#[test]
fn every_spelling_gives_the_same_file() {
    let dir = with_glass();
    let mut first: Option<Vec<u8>> = None;
    for flags in [
        &["glass-en", "--use-kv-cache", "--use-sdpa-with-kv-cache", "--max-seq-length", "64", "-o", "m.pte"][..],
        &["-c", "glass-en", "-kv", "--use_sdpa_with_kv_cache", "--max_seq_length=64", "--output_dir", "m.pte"],
        &[
            "--checkpoint",
            "glass-en/model.safetensors",
            "-p",
            "glass-en/config.json",
            "-kv",
            "--use_sdpa-with_kv-cache",
            "--max-seq_length",
            "64",
            "-n",
            "m.pte",
            "--dtype_override",
            "FP32",
            "-t",
            "glass-en/tokenizer.json",
        ],
        &["glass-en", "-kv", "--use_sdpa_with_kv_cache", "--max_seq_length", "64", "-om.pte", "-dfp32", "-v"],
    ] {
        let _ = std::fs::remove_file(dir.path().join("m.pte"));
        pteron(dir.path(), &[&["export"], flags].concat()).ok();
        let bytes = std::fs::read(dir.path().join("m.pte")).unwrap();
        assert!(first.get_or_insert_with(|| bytes.clone()) == &bytes, "{flags:?}");
    }
}

/// The search of scales that is weighed by a layer's inputs is the default where there are texts to learn these from.
#[test]
fn calibration_data_decide_the_default_algorithm() {
    let dir = with_glass();
    let plan = |mode: &[&str], more: &[&str]| {
        pteron(dir.path(), &[&["export", "glass-en", "--print-plan"], mode, more].concat()).ok()
    };
    let data = ["--calibration-data", "any.txt"];
    let hqq = [&data[..], &["--weight-algorithm", "hqq"]].concat();
    let (four, eight) = (["-qmode", "8da4w", "-G", "32"], ["-qmode", "int8"]);
    assert!(plan(&four, &[]).contains("8da4w, groups of 32, hqq"));
    for mode in [&four[..], &eight] {
        assert!(plan(mode, &data).contains("weight-algorithm = 'mse'"));
        assert!(plan(mode, &hqq).contains("weight-algorithm = 'hqq'"));
    }
    assert!(!plan(&eight, &[]).contains("mse"));
    assert!(!plan(&[&eight[..], &["-G", "32"]].concat(), &data).contains("mse"));
}

#[test]
fn flags_that_are_not_built_say_so() {
    let dir = with_glass();
    for flags in [
        &["-V"][..],
        &["-lora", "16"],
        &["-qat"],
        &["-s", "x.so"],
        &["--generate_etrecord"],
        &["-prof", "x"],
        &["--coreml"],
        &["--mps"],
        &["--vulkan"],
        &["--use_attention_sink", "4,2044"],
    ] {
        let e = pteron(dir.path(), &[&["export", "glass-en", "-o", "m.pte"], flags].concat()).fails(2);
        assert!(e.contains(flags[0].split('=').next().unwrap()) && e.contains("not built yet"), "{e}");
        assert!(!dir.path().join("m.pte").exists());
    }
}

#[test]
fn schemes_are_explained_field_by_field() {
    let dir = with_glass();
    let text = pteron(dir.path(), &["explain-scheme", "qnn_8a8w", "--quant-compat", "et0.5"]).ok();
    for line in [
        "qnn_8a8w (qnn, numbers of et0.5)",
        "[per_channel] conv1d",
        "    observer           PerChannelMinMaxObserver",
        "    eps                2^-12",
        "    quant_min          -127",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let json = pteron(dir.path(), &["explain-scheme", "qnn_16a4w", "--json"]).json();
    let rule = &json["rules"][0];
    assert_eq!(json["quant_compat"], "et1.5");
    assert_eq!((&rule["name"], &rule["weight"]["quant_max"]), (&"per_channel".into(), &7.into()));
    assert!((rule["input_activation"]["eps"].as_f64().unwrap() * 65535.0 - 0.0001).abs() < 1e-18);
    assert_eq!(json["custom_annotations"][0], "custom_annotate_llama_matmul_16a8w");
    let list = pteron(dir.path(), &["explain-scheme"]).ok();
    assert!(list.contains("coreml_baseline_8a_c4w") && list.contains("(not implemented)"), "{list}");
    assert!(pteron(dir.path(), &["explain-scheme", "--json"]).json().as_array().unwrap().len() > 20);
    let two = pteron(dir.path(), &["explain-scheme", "xnnpack_dynamic,embedding", "--json"]).json();
    assert_eq!(two[1]["rules"][0]["weight"]["qscheme"], "per_channel_affine_float_qparams");
    for (args, said) in [
        (&["qnn_8a8"][..], "did you mean qnn_8a8w"),
        (&["nothing_like_it"], "there is no quantization scheme"),
        (&["openvino_4wo"], "not implemented here"),
        (&["qnn_16a4w_block", "--quant-compat", "et0.5"], "not in ExecuTorch 0.5"),
        (&["qnn_8a8w", "--quant-compat", "et9"], "expected et0.5 or et1.5"),
        (&["xnnpack_dynamic,xnnpack_dynamic_qc4"], "both quantize linears"),
    ] {
        let e = pteron(dir.path(), &[&["explain-scheme"], args].concat()).fails(2);
        assert!(e.contains(said), "{args:?}: {e}");
    }
}

#[test]
fn wrong_usage_exits_2() {
    let dir = with_glass();
    for (args, said) in [
        (&["export", "glass-en", "--use-kv-cach"][..], "--use-kv-cache"),
        (&["export", "glass-en", "--use_sdpa_with_kv_cache", "-o", "m.pte"], "needs --use-kv-cache"),
        (&["export", "glass-en", "--max-seq-length", "256", "-o", "m.pte"], "--max-context-length is 128"),
        (&["export", "glass-en", "-d", "fp64"], "fp32, fp16, bf16"),
        (&["export", "glass-en", "-m", "{", "-o", "m.pte"], "--metadata is no JSON"),
        (&["export", "glass-en", "-m", r#"{"forward": 1}"#, "-o", "m.pte"], "--metadata: metadata `forward`"),
        (&["export", "glass-en", "-m", r#"{"get_bos_id": "a"}"#, "-o", "m.pte"], "`get_bos_id` returns a string"),
        (&["export", "glass-en", "--max-seq-length", "1", "-o", "m.pte"], "--max-seq-length is 1"),
        (&["run", "m.pte", "-p", "x", "--temperature", "-1"], "--temperature is -1"),
        (&["run", "m.pte", "-p", "x", "--max-new-tokens", "0"], "--max-new-tokens is 0"),
        (&["run", "m.pte", "-p", "x", "--seed", "-1"], "invalid value '-1' for '--seed <N>'"),
        (&["export"], "no checkpoint"),
        (&["export", "glass-en", "-o", "a.pte", "-n", "b"], "names a file and so does -n"),
        (&["run", "m.pte", "-p", "x", "--cpu-threads", "0"], "--cpu-threads is 0"),
        (&["run", "-p", "x"], "required"),
        (&["inspect", "glass-en", "--dump"], "--dump needs a program"),
        (&["frobnicate"], "unrecognized subcommand"),
        (&[], "Usage"),
    ] {
        let r = pteron(dir.path(), args);
        assert_eq!(r.code, 2, "{args:?}: {} {}", r.out, r.err);
        assert!(r.err.contains(said), "{args:?}: {}", r.err);
    }
}

#[test]
fn failures_exit_1_with_one_sentence() {
    let dir = with_glass();
    std::fs::write(
        dir.path().join("text.pte"),
        "this is no program, only a text that is long enough to be read as one",
    )
    .unwrap();
    std::fs::write(dir.path().join("calls.json"), "[[1, 2]]").unwrap();
    let add = fixture("micro/m_add.pte").display().to_string();
    for (args, said) in [
        (&["export", "absent", "-o", "m.pte"][..], "absent"),
        (&["export", "glass-en", "-o", "no/such/m.pte"], "there is no folder"),
        (&["export", "glass-en", "-o", "m.pte", "-p", "absent.json"], "absent.json"),
        (&["export", "glass-en", "-o", "m.pte", "-t", "glass-en/config.json"], "glass-en/config.json"),
        (&["run", "absent.pte", "-t", "glass-en", "-p", "x"], "absent.pte"),
        (&["run", "text.pte", "-t", "glass-en", "-p", "x"], "text.pte"),
        (&["run", "glass-en/model.safetensors", "-p", "x"], "is a safetensors file; expected an ExecuTorch program"),
        (&["run", &add, "-t", "glass-en", "-p", "x"], "does not generate text"),
        (&["run", &add, "-t", "absent.json", "-p", "x"], "absent.json"),
        (&["exec", &add, "--calls", "calls.json"], "call 0: "),
        (&["exec", &add, "--calls", "calls.json", "--method", "frob"], "frob"),
        (&["exec", &add, "--calls", "absent.json"], "absent.json"),
        (&["inspect", "absent"], "absent"),
        (&["inspect", "text.pte"], "text.pte"),
    ] {
        let e = pteron(dir.path(), args).fails(1);
        assert!(e.contains(said), "{args:?}: {e}");
        assert_eq!(e.trim_end().lines().count(), 1, "{e}");
    }
}

#[test]
fn an_unknown_architecture_is_named_with_those_known() {
    let dir = with_glass();
    let path = dir.path().join("glass-en/config.json");
    let config = std::fs::read_to_string(&path).unwrap().replace("LlamaForCausalLM", "MambaForCausalLM");
    std::fs::write(&path, config.replace("\"llama\"", "\"mamba\"")).unwrap();
    let e = pteron(dir.path(), &["export", "glass-en", "-o", "m.pte"]).fails(1);
    assert!(e.contains("MambaForCausalLM") && e.contains("Llama") && e.contains("Qwen3"), "{e}");
}

#[test]
fn a_failed_export_leaves_the_old_file() {
    let dir = with_glass();
    std::fs::write(dir.path().join("m.pte"), "old").unwrap();
    let weights = dir.path().join("glass-en/model.safetensors");
    let all = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &all[..all.len() - 1]).unwrap();
    pteron(dir.path(), &["export", "glass-en", "-o", "m.pte"]).fails(1);
    assert_eq!(std::fs::read(dir.path().join("m.pte")).unwrap(), b"old");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    std::fs::write(&weights, all).unwrap();
    pteron(dir.path(), &["export", "glass-en", "-o", "m.pte"]).ok();
    assert!(std::fs::read(dir.path().join("m.pte")).unwrap().len() > 1 << 20);
}

#[test]
fn metadata_is_written_and_wins() {
    let dir = with_glass();
    let json = r#"{"get_eos_ids": [3, 4], "who": "a_b", "half": 0.5, "yes": true}"#;
    pteron(dir.path(), &["export", "glass-en", "-o", "m.pte", "-m", json]).ok();
    let seen = pteron(dir.path(), &["inspect", "m.pte", "--json"]).json();
    for (name, value) in [
        ("get_eos_ids", serde_json::json!([3, 4])),
        ("get_bos_id", serde_json::json!([2])),
        ("who", serde_json::json!(["a_b"])),
        ("half", serde_json::json!([0.5])),
        ("yes", serde_json::json!([true])),
        ("use_kv_cache", serde_json::json!([false])),
    ] {
        assert_eq!(seen["metadata"][name], value, "{name}");
    }
}

#[test]
fn export_only_writes_nothing() {
    let dir = with_glass();
    let report = pteron(dir.path(), &["export", "glass-en", "-kv", "--export_only", "--json"]).json();
    assert_eq!(report["path"], serde_json::Value::Null);
    assert!(report["file_bytes"].as_u64().unwrap() > 1 << 20);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn everything_can_be_inspected() {
    let dir = with_glass();
    let kind = |path: &str| pteron(dir.path(), &["inspect", path, "--json"]).json()["kind"].clone();
    assert_eq!(kind("glass-en"), "checkpoint");
    assert_eq!(kind("glass-en/model.safetensors"), "checkpoint");
    for (name, expected) in [
        ("micro/m_mlp.pte", "program"),
        ("micro/m_mlp.bpte", "program"),
        ("micro/m_mlp.etdp", "profile"),
        ("micro/_default_external_constant.ptd", "data"),
        ("v3_kv_sdpa.pte", "program"),
    ] {
        let path = fixture(name).display().to_string();
        assert_eq!(kind(&path), expected, "{name}");
        assert!(!pteron(dir.path(), &["inspect", &path]).ok().is_empty());
        if expected == "program" {
            assert!(pteron(dir.path(), &["inspect", &path, "--dump"]).ok().contains("method \"forward\""));
            assert!(pteron(dir.path(), &["inspect", &path, "--ir"]).ok().contains("graph forward("), "{name}");
        }
    }
}

#[test]
fn version_help_and_generated_documents() {
    let dir = tempfile::tempdir().unwrap();
    let version = pteron(dir.path(), &["--version"]).ok();
    assert!(version.starts_with(concat!("pteron ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(pteron(dir.path(), &["export", "--help"]).ok().contains("--pt2e-quantize"));
    let cli = pteron(dir.path(), &["help-markdown"]).ok();
    for part in ["## `pteron export`", "## `pteron demo`", "`--use-sdpa-with-kv-cache`", "| `-d`, `--dtype-override"] {
        assert!(cli.contains(part), "{part}\n{cli}");
    }
    let operators = pteron(dir.path(), &["operators", "--markdown"]).ok();
    assert!(operators.contains("| `aten::add.Tensor` | kernel | portable | yes | yes |"), "{operators}");
    assert!(pteron(dir.path(), &["operators", "--json"]).json().as_array().unwrap().len() > 80);
}

#[test]
fn chat_needs_a_template() {
    let dir = with_glass();
    pteron(dir.path(), &["export", "glass-en", "-kv", "-o", "glass-en/m.pte"]).ok();
    let args = ["run", "glass-en/m.pte", "--chat", "--max-new-tokens", "3", "--temperature", "0", "--json"];
    let e = pteron_with_input(dir.path(), &args, "hello").fails(1);
    assert!(e.contains("chat template"), "{e}");
    let template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]";
    std::fs::write(dir.path().join("glass-en/m.chat_template.jinja"), template).unwrap();
    let args = [&args[..], &["--system", "Be kind."]].concat();
    let r = pteron_with_input(dir.path(), &args, "hello").json();
    assert_eq!(r["prompt"], "[system] Be kind.\n[user] hello\n[assistant]");
    assert_eq!(r["token_ids"].as_array().unwrap().len(), 3);
}

#[test]
fn a_locked_program_runs_or_the_limit_is_named() {
    let dir = with_glass();
    pteron(dir.path(), &["export", "glass-en", "-kv", "-o", "glass-en/m.pte"]).ok();
    let args =
        ["run", "glass-en/m.pte", "-p", "Alice", "--load_mode", "mlock", "--max-new-tokens", "2", "--stats", "none"];
    let r = pteron(dir.path(), &args);
    if r.code != 0 {
        assert!(r.fails(1).contains("could not be locked in memory"));
    }
}

#[test]
fn what_a_runtime_lacks_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let xnn = fixture("micro/m_mlp_xnn.pte").display().to_string();
    for runtime in ["executorch-1.5", "pteron"] {
        let out = pteron(dir.path(), &["inspect", &xnn, "--runtime", runtime]).ok();
        assert!(out.contains("has every operator and backend"), "{out}");
    }
    let mut bytes = std::fs::read(fixture("micro/m_add.pte")).unwrap();
    let at = bytes.windows(9).position(|w| w == b"aten::add").unwrap();
    bytes[at..at + 9].copy_from_slice(b"mine::add");
    std::fs::write(dir.path().join("m.pte"), bytes).unwrap();
    for runtime in ["executorch-1.5", "pteron"] {
        let r = pteron(dir.path(), &["inspect", "m.pte", "--runtime", runtime]);
        assert!(r.code == 1 && r.out.contains("operator mine::add.out (1 calls in forward)"), "{} {}", r.code, r.out);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pteron"))
        .args(["operators", "--markdown"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
}

#[test]
fn layers_are_listed_as_people_count() {
    use pteron::checkpoint::{SafetensorsWriter, TensorSpec};
    use pteron::tensor::DType;
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = [10, 2, 0, 11, 1].map(|i| format!("layers.{i}.weight")).to_vec();
    let specs: Vec<TensorSpec> = names.iter().map(|n| TensorSpec::new(n, DType::U8, &[1])).collect();
    let mut writer = SafetensorsWriter::create(dir.path().join("w.safetensors"), &specs, &[]).unwrap();
    for _ in &names {
        writer.write(&[0]).unwrap();
    }
    writer.finish().unwrap();
    let out = pteron(dir.path(), &["inspect", "w.safetensors"]).ok();
    let listed: Vec<&str> = out.lines().filter_map(|l| l.trim().strip_suffix(": u8[1], 1 B")).collect();
    let expected = [0, 1, 2, 10, 11].map(|i| format!("layers.{i}.weight"));
    assert_eq!(listed, expected, "{out}");
}

#[test]
fn a_refused_configuration_names_its_checkpoint() {
    let dir = with_glass();
    let path = dir.path().join("glass-en/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["num_hidden_layers"] = 0.into();
    std::fs::write(&path, config.to_string()).unwrap();
    let e = pteron(dir.path(), &["export", "glass-en", "-o", "m.pte"]).fails(1);
    assert!(e.starts_with("error: glass-en: config.json: field `num_hidden_layers`: found 0"), "{e}");
    let e = pteron(dir.path(), &["export", "glass-en", "-p", "glass-en/config.json", "-o", "m.pte"]).fails(1);
    assert!(e.starts_with("error: glass-en/config.json: config.json: field"), "{e}");
    assert!(!dir.path().join("m.pte").exists());
}
