//! Calibration as a user meets it: data, shards, state files, recipes, what stands beside a program, and what is refused.

mod support;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use support::{pteron, with_glass};

/// The bundled model and a text of some windows.
fn folder() -> tempfile::TempDir {
    let folder = with_glass();
    fs::write(folder.path().join("text.txt"), pteron::bundled::EVALUATION_TEXT).unwrap();
    folder
}

const STATIC: [&str; 9] = [
    "--pt2e-quantize",
    "xnnpack",
    "--calibration-data",
    "text.txt",
    "--calibration-seq-length",
    "64",
    "--calibration-limit",
    "9",
    "-kv",
];

/// Runs `command glass-en` with flags.
fn run(folder: &Path, command: &str, lists: &[&[&str]]) -> support::Ran {
    let args: Vec<&str> =
        [command, "glass-en"].into_iter().chain(lists.iter().flat_map(|l| l.iter().copied())).collect();
    pteron(folder, &args)
}

fn card(folder: &Path, stem: &str) -> Value {
    serde_json::from_slice(&fs::read(folder.join(format!("{stem}.card.json"))).unwrap()).unwrap()
}

#[test]
fn a_static_scheme_is_calibrated_measured_and_described() {
    let folder = folder();
    let report = run(folder.path(), "export", &[&STATIC, &["-o", "a.pte", "--json"]]).json();
    let calibration = &report["quantization"]["calibration"];
    assert_eq!(calibration["tokens"], 9 * 64);
    assert_eq!((&calibration["windows"], &calibration["files"]), (&json!(9), &json!(["text.txt"])));
    let evaluation = &report["quantization"]["evaluation"];
    assert!(evaluation["kl"].as_f64().unwrap() > 1e-5 && evaluation["kl"].as_f64().unwrap() < 0.5, "{evaluation}");
    assert_eq!(evaluation["text"], "windows held back from calibration");
    assert_eq!((&evaluation["window"], &evaluation["windows"]), (&json!(64), &json!(4)));

    // What stands beside it.
    let mut names: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| n.starts_with("a."));
    names.sort();
    assert_eq!(names, ["a.card.json", "a.pte", "a.recipe.toml", "a.tokenizer.json", "a.tokenizer_config.json"]);
    let card = card(folder.path(), "a");
    assert_eq!(card["program"]["bytes"], fs::metadata(folder.path().join("a.pte")).unwrap().len());
    assert_eq!(card["quantization"]["evaluation"], *evaluation);
    assert_eq!(card["quantization"]["calibration"]["sha256"], calibration["sha256"]);
    assert_eq!(card["source"]["files"][0]["file"], "model.safetensors");
    assert_eq!(card["missing_operators"], json!([]));

    // The data are named in the program, and the tokenizer beside it is found.
    let said = pteron(folder.path(), &["inspect", "a.pte", "--json"]).ok();
    assert!(
        said.contains("get_calibration_sha256") && said.contains(calibration["sha256"].as_str().unwrap()),
        "{said}"
    );
    assert!(said.contains("get_calibration_tokens"));
    let greedy = ["run", "a.pte", "--prompt", "Alice was", "--max-new-tokens", "4", "--temperature", "0", "--json"];
    assert_eq!(pteron(folder.path(), &greedy).json()["token_ids"].as_array().unwrap().len(), 4);

    // The recipe beside it makes the same program again.
    let again = [&["--recipe", "a.recipe.toml", "-o", "b.pte", "--bare"], &STATIC[2..]].concat();
    run(folder.path(), "export", &[&again]).ok();
    assert!(fs::read(folder.path().join("a.pte")).unwrap() == fs::read(folder.path().join("b.pte")).unwrap());
    assert!(!folder.path().join("b.card.json").exists());
}

#[test]
fn four_shards_are_one_run() {
    let folder = folder();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    // Moving averages and a histogram whose range is fixed depend on the windows' order, or on all of them.
    let recipe = "pt2e-quantize = 'xnnpack'\n\
                  [[rule]]\npath = 'model\\.layers\\.\\d+\\.mlp.*'\nobserver = 'MovingAverageMinMaxObserver'\n\
                  [[rule]]\npath = '.*'\nobserver = 'MinMaxObserver'\n";
    fs::write(folder.path().join("r.toml"), recipe).unwrap();
    let flags = [&["--recipe", "r.toml"], &STATIC[2..]].concat();
    run(folder.path(), "calibrate", &[&flags, &["-o", "whole"]]).ok();
    for i in 1..=4 {
        let (shard, out) = (format!("{i}/4"), format!("s{i}"));
        run(folder.path(), "calibrate", &[&flags, &["--shard", &shard, "-o", &out]]).ok();
    }
    let merge = |names: &[&str]| pteron(folder.path(), &[&["calibrate", "-o", "merged", "--merge"], names].concat());
    merge(&["s3", "s1", "s4", "s2"]).ok();
    assert!(read("merged") == read("whole"));
    let form = ["--recipe", "r.toml", "-kv", "--bare"];
    run(folder.path(), "export", &[&form, &["--calibration-state", "merged", "-o", "merged.pte"]]).ok();
    run(folder.path(), "export", &[&flags, &["--bare", "-o", "direct.pte"]]).ok();
    assert!(read("merged.pte") == read("direct.pte"));

    // What does not belong together.
    for (names, parts) in [
        (&["s1", "s2", "s4"][..], &["windows", "are missing", "s1 is shard 1/4"][..]),
        (&["s1", "s2", "s2", "s3", "s4"], &["shards 2 and 2 overlap"]),
        (&["s1", "text.txt"], &["text.txt", "no calibration state"]),
        (&["s1", "nowhere"], &["nowhere"]),
    ] {
        fs::remove_file(folder.path().join("merged")).unwrap_or_default();
        let said = merge(names).fails(1);
        assert!(parts.iter().all(|p| said.contains(p)), "{names:?}: {said}");
        assert!(!folder.path().join("merged").exists());
    }
    run(folder.path(), "calibrate", &[&flags, &["--calibration-seed", "7", "--shard", "2/4", "-o", "other"]]).ok();
    let said = merge(&["s1", "other", "s3", "s4"]).fails(1);
    assert!(said.contains("choices of windows differ"), "{said}");
    let other = "coreml_baseline_8a_c4w";
    fs::write(folder.path().join("m.toml"), recipe.replace("xnnpack", other)).unwrap();
    let flags = [&["--recipe", "m.toml"], &STATIC[2..]].concat();
    run(folder.path(), "calibrate", &[&flags, &["--shard", "2/4", "-o", "scheme"]]).ok();
    let said = merge(&["s1", "scheme", "s3", "s4"]).fails(1);
    assert!(said.contains("schemes differ") && said.contains(other), "{said}");
    let mut other_tier = read("s2");
    let at = other_tier.windows(4).position(|w| w == b"avx2" || w == b"avx5" || w == b"scal" || w == b"neon");
    if let Some(at) = at {
        other_tier[at] = b'x';
        reseal(&mut other_tier);
        fs::write(folder.path().join("tier"), &other_tier).unwrap();
        let said = merge(&["s1", "tier", "s3", "s4"]).fails(1);
        assert!(said.contains("kernel tiers differ"), "{said}");
    }
    let mut model = read("s2");
    model[12] ^= 1;
    reseal(&mut model);
    fs::write(folder.path().join("model"), &model).unwrap();
    let said = merge(&["s1", "model", "s3", "s4"]).fails(1);
    assert!(said.contains("models differ"), "{said}");
    let mut version = read("s2");
    version[8] = 9;
    fs::write(folder.path().join("version"), &version).unwrap();
    let said = merge(&["s1", "version", "s3", "s4"]).fails(1);
    assert!(said.contains("version: the calibration state has format version 9"), "{said}");
    // A state is used with what it was made for only.
    for (flags, part) in [
        (&["--recipe", "r.toml", "-kv", "--calibration-state", "s1"][..], "shard 1/4"),
        (&["--recipe", "r.toml", "--calibration-state", "whole"], "another scheme or form"),
        (&["--pt2e-quantize", "xnnpack", "-kv", "--calibration-state", "whole"], "another scheme or form"),
        (&["--recipe", "r.toml", "-kv", "--calibration-state", "version"], "format version 9"),
    ] {
        let said = run(folder.path(), "export", &[flags, &["-o", "no.pte"]]).fails(1);
        assert!(said.contains(part) && !folder.path().join("no.pte").exists(), "{flags:?}: {said}");
    }
}

/// A right checksum for a state that was changed.
fn reseal(bytes: &mut Vec<u8>) {
    bytes.truncate(bytes.len() - 4);
    let crc = !bytes.iter().fold(!0u32, |crc, b| {
        (0..8).fold(crc ^ u32::from(*b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 })
    });
    bytes.extend_from_slice(&crc.to_le_bytes());
}

/// Ranges of the forms for Qualcomm's processors, without its libraries: sharded, merged, and used by every form.
#[test]
fn the_forms_for_qnn_are_calibrated_by_the_command() {
    let folder = folder();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let scheme = ["--pt2e-quantize", "qnn_16a8w"];
    let data = ["--calibration-data", "text.txt", "--calibration-seq-length", "48", "--calibration-limit", "4"];
    let flags = [&scheme[..], &data].concat();
    let qnn = ["--qnn", "--max-context-length", "64"];
    let said = run(folder.path(), "calibrate", &[&flags, &qnn, &["-o", "whole"]]).ok();
    assert!(said.contains("pteron export ... --qnn --calibration-state whole"), "{said}");
    for (shard, out) in [("1/2", "s1"), ("2/2", "s2")] {
        run(folder.path(), "calibrate", &[&flags, &qnn, &["--shard", shard, "-o", out]]).ok();
    }
    pteron(folder.path(), &["calibrate", "-o", "merged", "--merge", "s2", "s1"]).ok();
    assert!(read("merged") == read("whole"));

    let size = ["-kv", "--disable-dynamic-shape", "--max-seq-length", "64", "--max-context-length", "64"];
    let form = [&scheme[..], &size, &["--qnn", "--qnn-on-cpu", "--bare", "--no-evaluation"]].concat();
    for mode in ["mutable", "hybrid"] {
        run(folder.path(), "export", &[&form, &["--qnn-mode", mode, "--calibration-state", "merged", "-o", "a.pte"]])
            .ok();
        run(folder.path(), "export", &[&form, &["--qnn-mode", mode, "-o", "b.pte"], &data]).ok();
        assert!(read("a.pte") == read("b.pte"), "{mode}");
    }
    // The state of one form is none of another.
    run(folder.path(), "calibrate", &[&flags, &qnn, &["--use-qnn-sha", "-o", "heads"]]).ok();
    run(folder.path(), "calibrate", &[&flags, &["-kv", "-o", "cache"]]).ok();
    for (state, other) in [("heads", "static form, head by head"), ("cache", "f32, KV cache")] {
        let said = run(folder.path(), "export", &[&form, &["--calibration-state", state, "-o", "no.pte"]]).fails(1);
        assert!(said.contains("another scheme or form") && said.contains(other), "{state}: {said}");
    }
    let said =
        run(folder.path(), "export", &[&scheme, &["-kv", "--calibration-state", "whole", "-o", "no.pte"]]).fails(1);
    assert!(said.contains("another scheme or form") && said.contains("static form"), "{said}");
    run(folder.path(), "calibrate", &[&flags, &["--use-qnn-sha", "-o", "no"]]).fails(2);
}

#[test]
fn histograms_are_sharded_by_two_passes() {
    let folder = folder();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let data = ["--calibration-data", "text.txt", "--calibration-seq-length", "64", "--calibration-limit", "5"];
    // PyTorch's own depends on the order of the data.
    let grows = run(folder.path(), "calibrate", &[&["--pt2e-quantize", "xnnpack", "--shard", "1/2", "-o", "h"], &data]);
    let said = grows.fails(1);
    assert!(said.contains("HistogramObserver") && said.contains("ShardableHistogramObserver"), "{said}");
    assert!(!folder.path().join("h").exists());
    let recipe = "pt2e-quantize = 'xnnpack'\n[[rule]]\npath = '.*'\nobserver = 'ShardableHistogramObserver'\n";
    fs::write(folder.path().join("r.toml"), recipe).unwrap();
    let calibrate = |more: &[&str]| run(folder.path(), "calibrate", &[&["--recipe", "r.toml"], &data, more]).ok();
    let merge = |out: &str, a: &str, b: &str| pteron(folder.path(), &["calibrate", "-o", out, "--merge", a, b]).ok();
    calibrate(&["-o", "whole"]);
    assert!(calibrate(&["--shard", "1/2", "-o", "r1"]).contains("--ranges"));
    calibrate(&["--shard", "2/2", "-o", "r2"]);
    merge("ranges", "r1", "r2");
    let said = run(folder.path(), "export", &[&["--recipe", "r.toml", "--calibration-state", "ranges", "-o", "x.pte"]])
        .fails(1);
    assert!(said.contains("the second pass is missing"), "{said}");
    calibrate(&["--shard", "1/2", "--ranges", "ranges", "-o", "c1"]);
    calibrate(&["--shard", "2/2", "--ranges", "ranges", "-o", "c2"]);
    merge("counts", "c1", "c2");
    assert!(read("counts") == read("whole"));
}

#[test]
fn recipes_say_what_becomes_of_each_layer() {
    let folder = folder();
    let recipe = "quantization-mode = '8da4w'\ngroup-size = 32\n\
                  [[rule]]\npath = 'model\\.layers\\.\\d+\\.mlp\\.down_proj'\nquantization-mode = 'int8'\n\
                  [[rule]]\npath = 'lm_head'\nkeep-float = true\n";
    fs::write(folder.path().join("r.toml"), recipe).unwrap();
    let plan = run(folder.path(), "export", &[&["--recipe", "r.toml", "--print-plan"]]).ok();
    for line in [
        "model.layers.0.self_attn.q_proj  linear  8da4w, groups of 32, hqq",
        "lm_head                          linear  float  (rule 2)",
    ] {
        assert!(plan.contains(line), "{plan}");
    }
    // 341 columns are not divided by 32, and int8 does not divide them.
    assert!(plan.contains("model.layers.3.mlp.down_proj     linear  int8  (rule 1)"), "{plan}");
    assert_eq!(plan, run(folder.path(), "export", &[&["--recipe", "r.toml", "--dry-run"]]).ok());
    let report = run(folder.path(), "export", &[&["--recipe", "r.toml", "-o", "a.pte", "--json"]]).json();
    assert_eq!(report["quantization"]["kept_float"], json!([]));
    assert!(report["quantization"]["evaluation"]["text"].as_str().unwrap().contains("bundled text"));
    let beside = fs::read_to_string(folder.path().join("a.recipe.toml")).unwrap();
    assert!(beside.contains("# lm_head") && beside.contains("[[rule]]"), "{beside}");

    let pt2e = "pt2e-quantize = 'xnnpack_dynamic'\n\
                [[rule]]\npath = '.*down_proj'\nkeep-float = true\n\
                [[rule]]\npath = '.*o_proj'\nbits = 4\ngranularity = 'group'\ngroup-size = 32\n\
                [[rule]]\npath = 'lm_head'\npt2e-quantize = 'vulkan_8w'\n";
    fs::write(folder.path().join("p.toml"), pt2e).unwrap();
    let plan = run(folder.path(), "export", &[&["--recipe", "p.toml", "--print-plan"]]).ok();
    assert!(plan.contains("weight 4 bits per_block_symmetric") && plan.contains("(rule 2)"), "{plan}");
    let head = plan.lines().find(|l| l.starts_with("lm_head")).unwrap();
    assert!(head.contains("weight 8 bits per_channel_symmetric") && !head.contains("input"), "{head}");
    let report = run(folder.path(), "export", &[&["--recipe", "p.toml", "-o", "p.pte", "--json"]]).json();
    // Four layers of seven linears without down_proj, and the head.
    assert_eq!(report["quantization"]["layers"], 4 * 6 + 1);
}

#[test]
fn a_model_that_is_too_far_is_not_written() {
    let folder = folder();
    let recipe = "quantization-mode = '4w'\ngroup-size = 0\nweight-algorithm = 'affine'\nembedding-quantize = '2,0'\n";
    fs::write(folder.path().join("r.toml"), recipe).unwrap();
    let flags = ["--recipe", "r.toml", "-o", "a.pte", "--max-kl", "0.01"];
    let said = run(folder.path(), "export", &[&flags]).fails(1);
    assert!(
        said.contains("--max-kl 0.01") && said.contains("--allow-degraded") && said.contains("perplexity"),
        "{said}"
    );
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with("a.")), "{left:?}");
    let ran = run(folder.path(), "export", &[&flags, &["--allow-degraded"]]);
    assert!(ran.err.contains("warning") && ran.err.contains("--max-kl"), "{}", ran.err);
    assert!(ran.ok().contains("KL divergence"));
    let out = run(folder.path(), "export", &[&["--recipe", "r.toml", "-o", "b.pte", "--no-evaluation"]]).ok();
    assert!(out.contains("not evaluated"), "{out}");
}

#[test]
fn bad_input_is_told_in_a_sentence() {
    let folder = folder();
    let write = |name: &str, content: &str| fs::write(folder.path().join(name), content).unwrap();
    write("empty.txt", "");
    write("short.txt", "Alice");
    write("broken.jsonl", "{\"text\": \"Alice was beginning\"}\n{\"text\": \n");
    write("match.toml", "quantization-mode = 'int8'\n[[rule]]\npath = 'model.layer'\nkeep-float = true\n");
    write("key.toml", "quantization-mode = 'int8'\n[[rules]]\npath = 'x'\n");
    write(
        "group.toml",
        "quantization-mode = 'int8'\n[[rule]]\npath = 'lm_head'\nquantization-mode = '4w'\ngroup-size = 7\n",
    );
    write(
        "block.toml",
        "pt2e-quantize = 'vulkan_8w'\n[[rule]]\npath = 'lm_head'\ngranularity = 'group'\ngroup-size = 7\n",
    );
    let xnnpack = ["--pt2e-quantize", "xnnpack"];
    for (flags, code, parts) in [
        (&["--pt2e-quantize", "xnnpack"][..], 2, &["xnnpack is a static scheme", "--calibration-data"][..]),
        (&["--calibration-data", "empty.txt"], 1, &["empty.txt: the file is empty"]),
        (
            &["--calibration-data", "short.txt"],
            1,
            &["short.txt", "less than one window of 128", "--calibration-seq-length"],
        ),
        (&["--calibration-data", "broken.jsonl"], 1, &["broken.jsonl: line 2 is no JSON"]),
        (&["--calibration-data", "nowhere.txt"], 1, &["nowhere.txt"]),
        (&["--calibration-data", "text.txt", "--calibration-seq-length", "4096"], 1, &["4096", "128 positions"]),
        (&["--calibration-data", "text.txt", "--calibration-limit", "0"], 1, &["--calibration-limit is 0"]),
        (&["--calibration-limit", "3"], 2, &["--calibration-limit is for --calibration-data"]),
        (
            &["--calibration-tasks", "wikitext"],
            2,
            &["--calibration-tasks", "lm-evaluation-harness", "--calibration-data"],
        ),
        (&["--calibration-state", "text.txt"], 1, &["text.txt", "no calibration state"]),
        (&["--calibration-data", "text.txt", "--max-kl", "NaN"], 2, &["--max-kl is NaN"]),
    ] {
        let given = if flags.contains(&"--pt2e-quantize") { &[][..] } else { &xnnpack[..] };
        let said = run(folder.path(), "export", &[given, flags, &["-o", "x.pte"]]).fails(code);
        assert!(parts.iter().all(|p| said.contains(p)), "{flags:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
        assert!(!folder.path().join("x.pte").exists());
    }
    for (recipe, code, parts) in [
        ("match.toml", 1, &["rule 1 (`model.layer`) matches no linear layer"][..]),
        ("key.toml", 2, &["key.toml: unknown key `rules`; did you mean rule?"]),
        ("group.toml", 0, &["`lm_head` stays float: the group size 7 does not divide its 128 columns"]),
        ("block.toml", 1, &["7", "128"]),
        ("nowhere.toml", 1, &["nowhere.toml"]),
    ] {
        let ran = run(folder.path(), "export", &[&["--recipe", recipe, "-o", "x.pte", "--bare"]]);
        assert_eq!(ran.code, code, "{recipe}: {}", ran.err);
        assert!(parts.iter().all(|p| ran.err.contains(p)), "{recipe}: {}", ran.err);
        assert_eq!(folder.path().join("x.pte").exists(), code == 0);
        let _ = fs::remove_file(folder.path().join("x.pte"));
    }
    for (flags, code, parts) in [
        (
            &["--pt2e-quantize", "xnnpack_dynamic", "--calibration-data", "text.txt"][..],
            1,
            &["learns nothing from data"][..],
        ),
        (&["--calibration-data", "text.txt"], 1, &["nothing is quantized"]),
        (&["--pt2e-quantize", "xnnpack"], 1, &["--calibration-data"]),
        (&["--pt2e-quantize", "xnnpack", "--calibration-data", "text.txt", "--shard", "5/4"], 2, &["--shard is 5/4"]),
        (&["--pt2e-quantize", "qnn_8a8", "--calibration-data", "text.txt"], 2, &["did you mean qnn_8a8w"]),
    ] {
        let said = run(folder.path(), "calibrate", &[flags, &["-o", "x.state"]]).fails(code);
        assert!(parts.iter().all(|p| said.contains(p)), "{flags:?}: {said}");
        assert!(!folder.path().join("x.state").exists());
    }
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let folder = folder();
    let path = folder.path().join("glass-en/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let entries: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let at = 8 + header + usize::try_from(entries[name]["data_offsets"][0].as_u64().unwrap()).unwrap();
    assert_eq!(entries[name]["dtype"], "F16");
    bytes[at..at + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    for flags in [&["-qmode", "int8"][..], &["--pt2e-quantize", "xnnpack_dynamic"], &STATIC] {
        let said = run(folder.path(), "export", &[flags, &["-o", "x.pte"]]).fails(1);
        assert!(said.contains("model.layers.1.mlp.up_proj") && said.contains("NaN"), "{flags:?}: {said}");
        assert!(!folder.path().join("x.pte").exists());
    }
}

#[test]
fn a_quantized_cache_is_measured_against_a_float_one() {
    let folder = folder();
    let cache = ["-kv", "--use-sdpa-with-kv-cache", "--quantize-kv-cache"];
    let report = run(folder.path(), "export", &[&cache, &["-o", "a.pte", "--json"]]).json();
    let quantization = &report["quantization"];
    assert_eq!(quantization["scheme"], "8-bit KV cache");
    let kl = quantization["evaluation"]["kl"].as_f64().unwrap();
    assert!(kl > 1e-7 && kl < 0.05, "{quantization}");
}

#[test]
fn a_static_cache_learns_its_scales_from_text() {
    let folder = folder();
    let flag = ["-kv", "--static-quantize-kv-cache"];
    let report = run(folder.path(), "export", &[&flag, &STATIC[2..8], &["-o", "a.pte", "--json"]]).json();
    let quantization = &report["quantization"];
    assert_eq!(quantization["scheme"], "static 8-bit KV cache, calibrated");
    let kl = |report: &Value| report["quantization"]["evaluation"]["kl"].as_f64().unwrap();
    let learnt = kl(&report);
    assert!(learnt > 1e-9 && learnt < 0.02, "{quantization}");
    assert!(quantization["calibration"]["tokens"].as_u64() >= Some(512), "{quantization}");
    assert_eq!(report["missing_operators"], json!([]));
    // One scale for all clips what is larger than 1.
    let scale = ["--static-quantize-kv-cache-scale", "0.007874", "--allow-degraded"];
    let report = run(folder.path(), "export", &[&flag, &scale, &["-o", "b.pte", "--json"]]).json();
    assert_eq!(report["quantization"]["scheme"], "static 8-bit KV cache, scale 0.007874");
    assert!(kl(&report) > 10.0 * learnt, "{} {learnt}", kl(&report));
    // A scheme beside the cache is calibrated with it.
    let report =
        run(folder.path(), "export", &[&flag[1..], &STATIC, &["-o", "c.pte", "--json", "--allow-degraded"]]).json();
    assert_eq!(report["quantization"]["scheme"], "xnnpack; static 8-bit KV cache, calibrated");
    fs::remove_file(folder.path().join("c.pte")).unwrap();
    for (flags, parts) in [
        (&["--static-quantize-kv-cache"][..], &["--static-quantize-kv-cache needs --use-kv-cache"][..]),
        (&flag, &["learns its scales from text", "--calibration-data FILE"]),
        (
            &["-kv", "--static-quantize-kv-cache", "--static-quantize-kv-cache-scale", "0"],
            &["scale is 0, expected a positive"],
        ),
        (&["-kv", "--use-sdpa-with-kv-cache", "--static-quantize-kv-cache"], &["--use-sdpa-with-kv-cache"]),
    ] {
        let said = run(folder.path(), "export", &[flags, &["-o", "c.pte"]]).fails(2);
        assert!(parts.iter().all(|p| said.contains(p)), "{flags:?}: {said}");
        assert!(!folder.path().join("c.pte").exists());
    }
}

#[test]
fn qnn_schemes_are_calibrated_in_the_forms_with_a_cache() {
    let folder = folder();
    let flags = ["--pt2e-quantize", "qnn_16a8w", "--bare", "--json", "-o", "a.pte"];
    let report = run(folder.path(), "export", &[&flags, &STATIC[2..]]).json();
    let kl = report["quantization"]["evaluation"]["kl"].as_f64().unwrap();
    assert!(kl > 1e-7 && kl < 0.1, "{kl}");
}
