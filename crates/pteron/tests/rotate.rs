//! Rotations: the function stays as it is, whatever the model's form, and the weights are other ones.

mod support;

use std::fs::{self, File};
use std::path::Path;

use pteron::evaluation::CausalModel;
use pteron::ir::{Module, print};
use pteron::models::{BuildOptions, ModelConfig, ModelError, Rotation, SyntheticWeights, Weights, build, parameters};
use pteron::tensor::{DType, SharedSource, read_all};
use pteron::{EvalModel, LoadOptions, Program};
use pteron_testkit::torch::{TorchTensor, save};
use serde_json::{Value, json};
use support::{pteron, with_glass};

/// A tiny model with GQA.
fn tiny(class: &str, changes: Value) -> ModelConfig {
    let mut v = json!({
        "architectures": [class], "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 256, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "sliding_window": null, "bos_token_id": 1, "eos_token_id": 2
    });
    changes.as_object().unwrap().iter().for_each(|(k, x)| v[k] = x.clone());
    ModelConfig::from_hf(&v).unwrap()
}

const TOKENS: [u32; 12] = [1, 7, 200, 31, 31, 5, 99, 250, 0, 64, 3, 18];

/// Logits of all tokens.
fn logits(config: &ModelConfig, weights: &dyn Weights, options: BuildOptions) -> Vec<f32> {
    let options = BuildOptions { full_logits: true, max_seq_length: 32, max_context_length: 32, ..options };
    let module = build(config, weights, &options).unwrap();
    let load = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let program = Program::from_module(Path::new("tiny"), module, &load).unwrap();
    EvalModel::from_program(program, "forward").unwrap().feed(&TOKENS).unwrap().to_vec()
}

#[track_caller]
fn close(a: &[f32], b: &[f32]) {
    let most = a.iter().fold(0f32, |m, v| m.max(v.abs()));
    let off = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0f32, f32::max);
    assert!(a.len() == b.len() && most > 0.1 && off <= 1e-5 * most, "{off} of {most}");
}

/// The weights of a model whose output layer may be tied, as [`Rotation::weight`] wants them.
fn untied(tied: bool) -> impl Fn(&str, &[usize]) -> Result<SharedSource, ModelError> {
    move |name: &str, shape: &[usize]| {
        let name = if tied && name == "lm_head.weight" { "model.embed_tokens.weight" } else { name };
        SyntheticWeights::new(5).get(name, shape)
    }
}

#[test]
fn the_function_stays() {
    let biases = json!({"attention_bias": true, "mlp_bias": true});
    for (class, changes) in [
        ("LlamaForCausalLM", json!({})),
        ("LlamaForCausalLM", json!({"tie_word_embeddings": true, "hidden_size": 64, "head_dim": 16})),
        // No Hadamard matrix of these sizes is known, or is.
        ("LlamaForCausalLM", json!({"hidden_size": 50, "head_dim": 6, "num_key_value_heads": 1})),
        ("LlamaForCausalLM", biases),
        ("Qwen2ForCausalLM", json!({})),
        ("Qwen3ForCausalLM", json!({"head_dim": 20})),
    ] {
        let config = tiny(class, changes.clone());
        let plain = logits(&config, &SyntheticWeights::new(5), BuildOptions::default());
        let free = ModelConfig { tie_word_embeddings: false, ..config.clone() };
        let inner = untied(config.tie_word_embeddings);
        for seed in [0, 9] {
            let rotation = Rotation::hadamard(&config, seed).unwrap();
            let rotated = |name: &str, shape: &[usize]| rotation.weight(name, shape, &inner);
            close(&plain, &logits(&free, &rotated, BuildOptions::default()));
            let cached = BuildOptions { use_kv_cache: true, use_sdpa_with_kv_cache: true, ..BuildOptions::default() };
            close(&plain, &logits(&free, &rotated, cached));
            // 56 is 28 · 2.
            let rotation = rotation.with_spin_quant(&config).unwrap();
            let rotated = |name: &str, shape: &[usize]| rotation.weight(name, shape, &inner);
            let options = BuildOptions { use_spin_quant: true, ..BuildOptions::default() };
            close(&plain, &logits(&free, &rotated, options));
        }
    }
}

#[test]
fn alone_the_transform_stands_in_front_of_weights_as_they_are() {
    let config = tiny("LlamaForCausalLM", json!({}));
    let options = BuildOptions { use_spin_quant: true, ..BuildOptions::default() };
    let [with, without] =
        [options, BuildOptions::default()].map(|o| build(&config, &SyntheticWeights::new(5), &o).unwrap());
    let operators = |m: &Module| print::module(m).matches("llama::fast_hadamard_transform").count();
    assert_eq!((operators(&with), operators(&without)), (config.n_layers, 0));
    let weights = |m: &Module| m.constants.values().map(|c| c.name.to_string()).collect::<Vec<_>>();
    assert_eq!(weights(&with), weights(&without));
    // The operator takes no other sizes, and no bf16.
    let other = tiny("LlamaForCausalLM", json!({"intermediate_size": 96}));
    let bf16 = BuildOptions { dtype: DType::BF16, use_spin_quant: true, ..BuildOptions::default() };
    for (config, options, says) in [
        (&other, BuildOptions { use_spin_quant: true, ..BuildOptions::default() }, "2^k or 28·2^k"),
        (&config, bf16, "fp32 or fp16"),
    ] {
        let said = build(config, &SyntheticWeights::new(5), &options).unwrap_err().to_string();
        assert!(said.contains(says), "{said}");
    }
}

#[test]
fn rows_are_the_same_in_any_parts_and_other_than_they_were() {
    let config = tiny("LlamaForCausalLM", json!({"attention_bias": true}));
    let rotation = Rotation::hadamard(&config, 3).unwrap();
    let inner = untied(false);
    let (mut same, mut other) = (0, 0);
    for p in parameters(&config) {
        let source = rotation.weight(&p.name, &p.shape, &inner).unwrap();
        let whole = read_all(source.as_ref()).unwrap();
        let n = source.row_bytes();
        let mut parts = vec![0u8; whole.len()];
        // Backwards, in parts that no block of rows has.
        for start in (0..source.rows()).step_by(5).rev() {
            let end = source.rows().min(start + 5);
            source.read_rows(start..end, &mut parts[start * n..end * n]).unwrap();
        }
        assert!(whole[..] == parts[..], "{}", p.name);
        let plain = read_all(inner(&p.name, &p.shape).unwrap().as_ref()).unwrap();
        if plain[..] == whole[..] { same += 1 } else { other += 1 }
    }
    // What is held of one model's weights is not another's.
    let name = "model.layers.1.self_attn.o_proj.weight";
    let other_model = |name: &str, shape: &[usize]| SyntheticWeights::new(6).get(name, shape);
    let of = |inner: &dyn Weights| read_all(rotation.weight(name, &[48, 48], inner).unwrap().as_ref()).unwrap();
    assert!(of(&inner)[..] != of(&other_model)[..]);
    // Biases of query and key.
    assert_eq!((same, other), (2 * 2, 2 * 11 + 3));
}

#[test]
fn a_weight_that_is_no_number_is_named() {
    let config = tiny("LlamaForCausalLM", json!({}));
    let rotation = Rotation::hadamard(&config, 0).unwrap();
    let inner = |name: &str, shape: &[usize]| -> Result<SharedSource, ModelError> {
        let mut values = vec![0.5f32; shape.iter().product()];
        values[3] = f32::NAN;
        Ok(std::sync::Arc::new(pteron::tensor::MemorySource::of(name, shape, &values).unwrap()))
    };
    let source = rotation.weight("model.embed_tokens.weight", &[256, 48], &inner).unwrap();
    let error = read_all(source.as_ref()).unwrap_err().to_string();
    assert_eq!(error, "model.embed_tokens.weight: row 0, column 3 is NaN: it cannot be rotated");
}

/// `1 − 2vvᵀ` over the length of `v`, which is orthogonal and no Hadamard matrix.
fn reflection(n: usize, seed: usize) -> Vec<f64> {
    let v: Vec<f64> = (0..n).map(|i| ((i * 31 + seed * 17) % 13) as f64 - 5.5).collect();
    let square: f64 = v.iter().map(|x| x * x).sum();
    let at = |i: usize, j: usize| f64::from(u8::from(i == j)) - 2.0 * v[i] * v[j] / square;
    (0..n * n).map(|k| at(k / n, k % n)).collect()
}

/// Name, rows and elements.
type Named = (String, usize, Vec<f64>);

/// A file of rotations as `torch.save` writes it.
fn write_rotations(path: &Path, matrices: &[Named]) {
    let tensor = |(name, n, _): &Named| TorchTensor { name: name.clone(), class: "DoubleStorage", shape: vec![*n, *n] };
    let tensors: Vec<TorchTensor> = matrices.iter().map(tensor).collect();
    let bytes = |t: &TorchTensor| {
        let found = matrices.iter().find(|(name, ..)| *name == t.name).unwrap();
        found.2.iter().flat_map(|v| v.to_le_bytes()).collect()
    };
    save(&mut File::create(path).unwrap(), &tensors, &mut |t| bytes(t)).unwrap();
}

/// Those of the bundled model.
fn rotations(dim: usize, head: usize, layers: usize) -> Vec<Named> {
    let mut out = vec![("R1".to_owned(), dim, reflection(dim, 0))];
    out.extend((0..layers).map(|i| (format!("model.layers.{i}.self_attn.R2"), head, reflection(head, i + 1))));
    out
}

/// Mean KL divergence of the bundled model with these flags against itself, and all that was measured.
fn divergence(folder: &Path, flags: &[&str]) -> (f64, Value) {
    let text = "A text that is long enough for some windows of thirty-two tokens each. ".repeat(20);
    fs::write(folder.join("text.txt"), text).unwrap();
    divergence_on(folder, "text.txt", flags)
}

fn divergence_on(folder: &Path, text: &str, flags: &[&str]) -> (f64, Value) {
    let args = ["eval", "glass-en", "--reference", "glass-en", "--text", text, "--window", "32", "--windows", "8"];
    let found = pteron(folder, &[&args[..], &["--json"], flags].concat()).json();
    (found["evaluation"]["divergence"]["kl"]["mean"].as_f64().unwrap(), found)
}

#[test]
fn a_file_of_rotations_is_applied_and_a_bad_one_refused() {
    let dir = with_glass();
    let folder = dir.path();
    let config = ModelConfig::from_checkpoint(&pteron::checkpoint::Checkpoint::open(folder.join("glass-en")).unwrap());
    let config = config.unwrap();
    let (dim, head, layers) = (config.dim, config.head_dim, config.n_layers);
    let good = rotations(dim, head, layers);
    write_rotations(&folder.join("R.bin"), &good);
    let (kl, found) = divergence(folder, &["--optimized-rotation-path", "R.bin", "--nodes"]);
    assert!(kl.abs() < 1e-6, "{kl}");
    // The nodes of the float model are those of the rotated one.
    let nodes = found["nodes"].as_array().unwrap();
    assert!(nodes.len() > 20 && nodes.iter().all(|n| n["error"]["sqnr_db"].is_null()), "{}", nodes[0]);

    let export = ["export", "glass-en", "-o", "m.pte", "--optimized_rotation_path", "R.bin"];
    let bad = |change: &dyn Fn(&mut Vec<Named>)| {
        let mut all = good.clone();
        change(&mut all);
        write_rotations(&folder.join("R.bin"), &all);
        let said = pteron(folder, &export).fails(1);
        assert!(said.starts_with("error: R.bin: ") && !folder.join("m.pte").exists(), "{said}");
        said
    };
    let says = |said: String, what: &str| assert!(said.contains(what), "{said}");
    says(bad(&|r| r[0].2[5] += 0.01), "rotation `R1` is not orthogonal: its product with its transpose is");
    says(bad(&|r| r[1].2[5] = f64::NAN), "rotation `model.layers.0.self_attn.R2`: row 0, column 5 is NaN");
    says(bad(&|r| drop(r.remove(2))), "there is no rotation `model.layers.1.self_attn.R2`; expected one of");
    let other =
        format!("rotation `R1` is f64 [8, 8], expected floats [{dim}, {dim}] (hidden_size {dim} of config.json)");
    says(bad(&|r| r[0] = ("R1".to_owned(), 8, reflection(8, 0))), &other);
    let more = format!("`model.layers.{layers}.self_attn.R2` is no rotation of this model, which has R1 and those of");
    says(bad(&|r| r.push((format!("model.layers.{layers}.self_attn.R2"), head, reflection(head, 1)))), &more);
}

#[test]
fn a_rotated_program_is_the_same_each_time_and_says_so() {
    let dir = with_glass();
    let folder = dir.path();
    let export = |out: &str, more: &[&str]| {
        let args = ["export", "glass-en", "-o", out, "-kv", "--use-sdpa-with-kv-cache", "-qmode", "int8"];
        pteron(folder, &[&args[..], more].concat()).ok();
        fs::read(folder.join(out)).unwrap()
    };
    let first = export("a.pte", &["--rotate", "hadamard,4"]);
    assert!(first == export("b.pte", &["--rotate=hadamard,4"]));
    assert!(first != export("c.pte", &["--rotate", "hadamard"]));
    let recipe = fs::read_to_string(folder.join("a.recipe.toml")).unwrap();
    assert!(recipe.starts_with("quantization-mode = 'int8'\nrotate = 'hadamard,4'\n"), "{recipe}");
    // The recipe is all that it takes.
    fs::write(folder.join("r.toml"), &recipe).unwrap();
    let args = ["export", "glass-en", "-o", "d.pte", "-kv", "--use-sdpa-with-kv-cache", "--recipe", "r.toml"];
    pteron(folder, &args).ok();
    assert!(first == fs::read(folder.join("d.pte")).unwrap());
    let card: Value = serde_json::from_slice(&fs::read(folder.join("a.card.json")).unwrap()).unwrap();
    assert_eq!(card["form"]["rotation"], "rotated hadamard,4");
    assert!(card["quantization"]["evaluation"]["kl"].as_f64().unwrap() < 0.01, "{card}");
    let metadata = pteron(folder, &["inspect", "a.pte", "--json"]).ok();
    assert!(metadata.contains("get_rotation"), "{metadata}");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let dir = with_glass();
    let folder = dir.path();
    let fails = |flags: &[&str], code: i32| {
        let args = ["export", "glass-en", "-o", "m.pte"];
        let said = pteron(folder, &[&args[..], flags].concat()).fails(code);
        assert!(!folder.join("m.pte").exists());
        said
    };
    let says = |said: String, what: &str| assert!(said.contains(what), "{said}");
    says(fails(&["--rotate", "givens"], 2), "--rotate is givens, expected hadamard or hadamard,SEED");
    says(fails(&["--rotate", "hadamard,x"], 2), "expected hadamard or hadamard,SEED");
    says(fails(&["-sq", "cuda"], 2), "native");
    says(
        fails(&["--use_spin_quant", "native"], 2),
        "--use-spin-quant is native for an intermediate_size of 341, expected 2^k or 28·2^k elements",
    );
    // Codes of a checkpoint may have been rotated before.
    let codes = fails(&["--use_spin_quant", "native", "--preq_mode", "8da4w"], 2);
    says(codes, "--use-spin-quant is native for an intermediate_size of 341");
    says(fails(&["--rotate", "hadamard", "--preq_mode", "8da4w"], 2), "cannot be used with '--preq-mode");
    says(
        fails(&["--rotate", "hadamard", "-qmode", "8da4w", "--weight-algorithm", "stored"], 2),
        "codes cannot be rotated",
    );
    // A state that was learnt from another rotation.
    fs::write(folder.join("text.txt"), "What the model reads, again and again. ".repeat(40)).unwrap();
    let scheme = ["--pt2e-quantize", "qnn_16a8w"];
    let data = ["--calibration-data", "text.txt", "--calibration-seq-length", "32", "-o", "a.state"];
    pteron(folder, &[&["calibrate", "glass-en", "--rotate", "hadamard"][..], &scheme, &data].concat()).ok();
    let state = ["--calibration-state", "a.state"];
    says(fails(&[&scheme[..], &["--rotate", "hadamard,1"], &state].concat(), 1), "is of another");
    let args = ["export", "glass-en", "-o", "m.pte", "--no-evaluation", "--rotate", "hadamard"];
    pteron(folder, &[&args[..], &scheme, &state].concat()).ok();
}

#[test]
fn codes_that_are_rounded_together_are_nearer_and_need_text() {
    let dir = with_glass();
    let folder = dir.path();
    let gptq = ["-qmode", "int8", "--rotate", "hadamard", "--weight-algorithm", "gptq"];
    let said = pteron(folder, &[&["export", "glass-en", "-o", "m.pte"], &gptq[..]].concat()).fails(1);
    assert!(said.contains("the algorithm gptq") && said.contains("--calibration-data"), "{said}");
    assert!(!folder.join("m.pte").exists());
    // Two thirds of a text to learn from, the rest to measure on.
    let text = std::str::from_utf8(pteron::bundled::EVALUATION_TEXT).unwrap();
    let (data, rest) = text.split_at(text.floor_char_boundary(text.len() / 3 * 2));
    fs::write(folder.join("data.txt"), data).unwrap();
    fs::write(folder.join("rest.txt"), rest).unwrap();
    let data = ["--calibration-data", "data.txt", "--calibration-seq-length", "64"];
    let rounded = divergence_on(folder, "rest.txt", &[&gptq[..], &data].concat()).0;
    let nearest = divergence_on(folder, "rest.txt", &["-qmode", "int8", "--rotate", "hadamard"]).0;
    assert!(rounded < 0.7 * nearest && rounded > 0.0, "{rounded} {nearest}");
}

#[test]
fn what_is_trained_is_rotated_once() {
    let dir = with_glass();
    let folder = dir.path();
    fs::write(folder.join("data.txt"), "What the model reads, again and again. ".repeat(40)).unwrap();
    let args = ["qat", "glass-en", "--data", "data.txt", "--seq-length", "17", "--batch", "1", "--steps", "1"];
    let more = ["--warmup", "0", "--learning-rate", "1e-9", "--evaluate-every", "0", "-qmode", "8da4w", "-G", "32"];
    pteron(folder, &[&args[..], &more, &["--rotate", "hadamard", "-o", "out"]].concat()).ok();
    let config: Value = serde_json::from_slice(&fs::read(folder.join("out/config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    fs::write(folder.join("text.txt"), "A text that is long enough for a window of tokens. ".repeat(20)).unwrap();
    let args =
        ["eval", "out", "--reference", "glass-en", "--text", "text.txt", "--window", "32", "--windows", "2", "--json"];
    let found = pteron(folder, &args).json();
    let kl = found["evaluation"]["divergence"]["kl"]["mean"].as_f64().unwrap();
    assert!(kl > 1e-6 && kl < 0.3, "{kl}");
    let said = pteron(folder, &["export", "out", "-o", "m.pte", "--no-evaluation", "--json"]).json();
    assert_eq!(said["quantization"]["scheme"], "8da4w, groups of 32, affine");
}
