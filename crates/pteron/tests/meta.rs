//! A Hugging Face checkpoint written again as Meta's: the program gives the same logits, bit for bit.

mod support;

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use pteron::checkpoint::{Checkpoint, SafetensorsWriter, TensorSpec};
use pteron::exec::ValueRef;
use pteron::models::{ModelConfig, SyntheticSource, parameters};
use pteron::tensor::{DType, Tensor, read_all};
use pteron::{Exporter, LoadOptions, Program};
use pteron_testkit::torch::{Pickle, TorchTensor, ZipWriter, save};
use pteron_testkit::{fetched, large_tests_allowed};
use serde_json::{Value as Json, json};
use support::{pteron, with_glass};

/// How a weight is divided among shards.
#[derive(Clone, Copy, PartialEq)]
enum Axis {
    Rows,
    Columns,
    None,
}

/// A Hugging Face folder seen as Meta's checkpoint.
struct AsMeta {
    checkpoint: Checkpoint,
    config: Json,
    /// Meta's name, the name there, and how it is divided.
    weights: Vec<(String, String, Axis)>,
}

impl AsMeta {
    /// `output` says whether a tied output layer is written by itself.
    fn new(folder: &Path, output: bool) -> AsMeta {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let config = checkpoint.config_json().unwrap().clone();
        let mut weights = Vec::new();
        let mut add = |meta: String, theirs: String, axis| weights.push((meta, theirs, axis));
        add("tok_embeddings.weight".into(), "model.embed_tokens.weight".into(), Axis::Columns);
        add("norm.weight".into(), "model.norm.weight".into(), Axis::None);
        if checkpoint.info("lm_head.weight").is_some() {
            add("output.weight".into(), "lm_head.weight".into(), Axis::Rows);
        } else if output {
            add("output.weight".into(), "model.embed_tokens.weight".into(), Axis::Rows);
        }
        for i in 0..config["num_hidden_layers"].as_u64().unwrap() {
            for (meta, theirs, axis) in [
                ("attention.wq", "self_attn.q_proj", Axis::Rows),
                ("attention.wk", "self_attn.k_proj", Axis::Rows),
                ("attention.wv", "self_attn.v_proj", Axis::Rows),
                ("attention.wo", "self_attn.o_proj", Axis::Columns),
                ("feed_forward.w1", "mlp.gate_proj", Axis::Rows),
                ("feed_forward.w2", "mlp.down_proj", Axis::Columns),
                ("feed_forward.w3", "mlp.up_proj", Axis::Rows),
                ("attention_norm", "input_layernorm", Axis::None),
                ("ffn_norm", "post_attention_layernorm", Axis::None),
            ] {
                add(format!("layers.{i}.{meta}.weight"), format!("model.layers.{i}.{theirs}.weight"), axis);
            }
        }
        AsMeta { checkpoint, config, weights }
    }

    fn size(&self, field: &str) -> Option<usize> {
        self.config[field].as_u64().map(|n| n as usize)
    }

    fn head_dim(&self) -> usize {
        let of_heads = || self.size("hidden_size").unwrap() / self.size("num_attention_heads").unwrap();
        self.size("head_dim").unwrap_or_else(of_heads)
    }

    fn params(&self) -> Json {
        json!({
            "dim": self.size("hidden_size"), "n_layers": self.size("num_hidden_layers"),
            "n_heads": self.size("num_attention_heads"), "n_kv_heads": self.size("num_key_value_heads"),
            "head_dim": self.head_dim(), "vocab_size": self.size("vocab_size"), "multiple_of": 1,
            "hidden_dim": self.size("intermediate_size"), "norm_eps": self.config["rms_norm_eps"],
            "rope_theta": self.config.get("rope_theta").cloned().unwrap_or(json!(10000.0)),
        })
    }

    /// Shard `i` of `n` of a weight: its shape and bytes.
    fn part(&self, theirs: &str, axis: Axis, rotated: bool, (i, n): (usize, usize)) -> (Vec<usize>, Vec<u8>) {
        let source = self.checkpoint.get(theirs).unwrap();
        let (mut shape, row_bytes) = (source.shape().to_vec(), source.row_bytes());
        let all = read_all(source.as_ref()).unwrap();
        let mut rows: Vec<&[u8]> = all.chunks(row_bytes).collect();
        if rotated {
            // Halves of a head to neighbours.
            let d = self.head_dim();
            let from = |row: usize| row / d * d + row % d / 2 + (row % 2) * (d / 2);
            rows = (0..rows.len()).map(|row| rows[from(row)]).collect();
        }
        let bytes = match axis {
            Axis::None => rows.concat(),
            Axis::Rows => {
                shape[0] /= n;
                rows[i * shape[0]..(i + 1) * shape[0]].concat()
            }
            Axis::Columns => {
                shape[1] /= n;
                let span = row_bytes / n;
                rows.iter().flat_map(|row| &row[i * span..(i + 1) * span]).copied().collect()
            }
        };
        (shape, bytes)
    }

    /// Writes `params.json` and `n` shards into `folder`.
    fn write(&self, folder: &Path, n: usize) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("params.json"), self.params().to_string()).unwrap();
        let class = |dtype| match dtype {
            DType::F32 => "FloatStorage",
            DType::F16 => "HalfStorage",
            DType::BF16 => "BFloat16Storage",
            other => panic!("{other}"),
        };
        for i in 0..n {
            let tensor = |(meta, theirs, axis): &(String, String, Axis)| {
                let info = self.checkpoint.info(theirs).unwrap();
                let mut shape = info.shape.to_vec();
                match axis {
                    Axis::Rows => shape[0] /= n,
                    Axis::Columns => shape[1] /= n,
                    Axis::None => {}
                }
                TorchTensor { name: meta.clone(), class: class(info.dtype), shape }
            };
            let tensors: Vec<TorchTensor> = self.weights.iter().map(tensor).collect();
            let mut out = BufWriter::new(File::create(folder.join(format!("consolidated.{i:02}.pth"))).unwrap());
            save(&mut out, &tensors, &mut |t| {
                let (_, theirs, axis) = self.weights.iter().find(|w| w.0 == t.name).unwrap();
                let rotated = t.name.ends_with("wq.weight") || t.name.ends_with("wk.weight");
                let (shape, bytes) = self.part(theirs, *axis, rotated, (i, n));
                assert_eq!(shape, t.shape);
                bytes
            })
            .unwrap();
        }
    }
}

/// The bits of all logits of a prompt and of some greedy tokens after it, and those tokens.
fn logits(checkpoint: &Path, out: PathBuf, prompt: &[i64], steps: usize) -> (Vec<Vec<u32>>, Vec<i64>) {
    let exporter = Exporter::open(checkpoint).unwrap().kv_cache(true).sdpa_with_kv_cache(true).full_logits(true);
    let report = exporter.max_seq_length(64).write(&out).unwrap();
    assert_eq!(report.warnings, [""; 0]);
    let mut program = Program::open(&out, &LoadOptions { threads: Some(2), ..LoadOptions::default() }).unwrap();
    let (mut all, mut chosen, mut tokens, mut position) = (Vec::new(), Vec::new(), prompt.to_vec(), 0i64);
    for _ in 0..steps {
        let ids = Tensor::of(&[1, tokens.len()], &tokens).unwrap();
        let at = Tensor::of(&[1], &[position]).unwrap();
        let inputs = [ValueRef::Tensor(ids.view()), ValueRef::Tensor(at.view())];
        let outputs = program.session().run("forward", &inputs).unwrap();
        let values = outputs.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec();
        let last = &values[values.len() / tokens.len() * (tokens.len() - 1)..];
        let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        position += tokens.len() as i64;
        tokens = vec![best as i64];
        chosen.push(best as i64);
        all.push(values.iter().map(|v| v.to_bits()).collect());
    }
    drop(program);
    std::fs::remove_file(out).unwrap();
    (all, chosen)
}

/// A Hugging Face folder of random weights whose sizes can be divided by four.
fn synthetic(folder: &Path, tied: bool) {
    std::fs::create_dir_all(folder).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 4,
        "vocab_size": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 256,
        "tie_word_embeddings": tied
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let config = ModelConfig::from_hf(&config).unwrap();
    let all = parameters(&config);
    let specs: Vec<TensorSpec> = all.iter().map(|p| TensorSpec::new(&p.name, DType::BF16, &p.shape)).collect();
    let mut writer = SafetensorsWriter::create(folder.join("model.safetensors"), &specs, &[]).unwrap();
    for p in &all {
        writer.write(&read_all(&SyntheticSource::new(&p.name, DType::BF16, &p.shape, 3).unwrap()).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

const PROMPT: [i64; 9] = [2, 50, 77, 301, 12, 9, 200, 33, 5];

#[test]
fn glass_as_meta_has_it() {
    let dir = with_glass();
    let folder = dir.path().join("glass-en");
    let expected = logits(&folder, dir.path().join("hf.pte"), &PROMPT, 12);
    for output in [true, false] {
        let meta = dir.path().join(format!("meta-{output}"));
        AsMeta::new(&folder, output).write(&meta, 1);
        let found = logits(&meta, dir.path().join("meta.pte"), &PROMPT, 12);
        assert!(found == expected, "{:?}, expected {:?}", found.1, expected.1);
    }
}

#[test]
fn shards_give_the_same_logits() {
    let dir = tempfile::tempdir().unwrap();
    for tied in [false, true] {
        let folder = dir.path().join(format!("hf-{tied}"));
        synthetic(&folder, tied);
        let expected = logits(&folder, dir.path().join("hf.pte"), &PROMPT, 5);
        for n in [1, 2, 4] {
            let meta = dir.path().join(format!("meta-{tied}-{n}"));
            AsMeta::new(&folder, false).write(&meta, n);
            let found = logits(&meta, dir.path().join("meta.pte"), &PROMPT, 5);
            assert!(found == expected, "{n} shards: {:?}, expected {:?}", found.1, expected.1);
        }
    }
}

#[test]
fn the_command_exports_metas_folders() {
    let dir = tempfile::tempdir().unwrap();
    synthetic(&dir.path().join("hf"), false);
    AsMeta::new(&dir.path().join("hf"), false).write(&dir.path().join("meta"), 2);
    let report = pteron(dir.path(), &["export", "meta", "-kv", "-o", "m.pte", "--json"]).json();
    assert_eq!((&report["architecture"], &report["path"]), (&json!("llama"), &json!("m.pte")));
    // As export_llama is called.
    let long = ["export", "-c", "meta/consolidated.00.pth", "-p", "meta/params.json", "-kv", "-o", "same.pte"];
    pteron(dir.path(), &long).ok();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("m.pte") == read("same.pte"));

    let fails = |said: &[&str]| {
        let e = pteron(dir.path(), &["export", "meta", "-o", "x.pte"]).fails(1);
        assert_eq!(e.trim_end().lines().count(), 1, "{e}");
        said.iter().for_each(|part| assert!(e.contains(part), "`{part}` is not in: {e}"));
        assert!(!dir.path().join("x.pte").exists());
    };
    let last = dir.path().join("meta/consolidated.01.pth");
    std::fs::rename(&last, dir.path().join("kept.pth")).unwrap();
    fails(&["the weights are split over 2 shards", "consolidated.01.pth missing"]);
    std::fs::rename(dir.path().join("kept.pth"), &last).unwrap();
    let first = dir.path().join("meta/consolidated.00.pth");
    std::fs::rename(&first, dir.path().join("kept.pth")).unwrap();
    fails(&["consolidated.00.pth"]);

    let mut pickle = Pickle::new();
    pickle.op(b"}");
    pickle.text("w");
    pickle.global("os", "system");
    pickle.op(b"(");
    pickle.text("touch pwned");
    pickle.op(b"tRs");
    let mut file = File::create(&first).unwrap();
    let mut zip = ZipWriter::new(&mut file);
    zip.add("consolidated/data.pkl", &pickle.finish()).unwrap();
    zip.finish().unwrap();
    fails(&["meta/consolidated.00.pth: the pickle asks for `os.system`", "nothing in a pickle is executed here"]);
    assert!(!dir.path().join("pwned").exists());

    std::fs::rename(dir.path().join("kept.pth"), &first).unwrap();
    std::fs::remove_file(dir.path().join("meta/params.json")).unwrap();
    fails(&["params.json"]);
}

#[test]
fn a_folder_with_pytorch_model_bin() {
    let dir = with_glass();
    let from = dir.path().join("glass-en");
    let mut whole = AsMeta::new(&from, false);
    // The same names and rows as in the safetensors file.
    let names: Vec<(String, String, Axis)> =
        whole.checkpoint.tensors().map(|t| (t.name.to_owned(), t.name.to_owned(), Axis::None)).collect();
    whole.weights = names;
    let to = dir.path().join("bin");
    whole.write(&to, 1);
    std::fs::remove_file(to.join("params.json")).unwrap();
    std::fs::rename(to.join("consolidated.00.pth"), to.join("pytorch_model.bin")).unwrap();
    for name in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    pteron(dir.path(), &["export", "glass-en", "-kv", "-o", "a.pte"]).ok();
    pteron(dir.path(), &["export", "bin", "-kv", "-o", "b.pte"]).ok();
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    assert!(read("a.pte") == read("b.pte"));
}

#[test]
fn smollm2_as_meta_has_it() {
    const NAME: &str = "meta::smollm2_as_meta_has_it";
    let Some(folder) = fetched(NAME, "smollm2-135m") else { return };
    if !large_tests_allowed(NAME) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let prompt = [504i64, 3575, 282, 4649, 314];
    let expected = logits(&folder, dir.path().join("hf.pte"), &prompt, 8);
    let meta = dir.path().join("meta");
    AsMeta::new(&folder, false).write(&meta, 3);
    let found = logits(&meta, dir.path().join("meta.pte"), &prompt, 8);
    assert!(found == expected, "{:?}, expected {:?}", found.1, expected.1);
}
