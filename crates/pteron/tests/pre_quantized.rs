//! Checkpoints that are quantized already, as `export_llama --preq_mode` takes them: codes and scales go over bit for bit.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use pteron::Exporter;
use pteron::checkpoint::Checkpoint;
use pteron::ir::{Arg, ConstData, ConstId, Def, Module, NodeId, print};
use pteron::models::{ConfigFormat, ModelConfig, PreQuantized, parameters};
use pteron::quant::TensorLabel;
use pteron::quant::recipe::Recipe;
use pteron::quant::weight::{self, Matrix};
use pteron::tensor::{CastSource, DType, read_all};
use pteron_testkit::torch::{TorchTensor, save};
use serde_json::{Value, json};
use support::{pteron, with_glass};

const GROUP: usize = 32;
const LAYOUT: PreQuantized =
    PreQuantized { group: GROUP, output_of_8_bits: true, embedding_bits: 8, embedding_group: 0 };

/// A tensor of the checkpoint: the class of its storage, its sizes, its bytes.
#[derive(Clone)]
struct Stored {
    class: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn floats(shape: &[usize], values: &[f32]) -> Stored {
    Stored { class: "FloatStorage", shape: shape.to_vec(), bytes: bytemuck::cast_slice(values).to_vec() }
}

/// The bundled model as torchao's source transforms leave it in a state dictionary under Meta's names, and its `params.json`.
/// The output layer, which is tied, is written by itself.
fn quantized(folder: &Path) -> (BTreeMap<String, Stored>, Value) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let hf = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    let config =
        ModelConfig { format: ConfigFormat::Meta, interleaved: true, tie_word_embeddings: false, ..hf.clone() };
    let mut all = BTreeMap::new();
    for p in parameters(&config) {
        let name = if p.name == "lm_head.weight" { "model.embed_tokens.weight" } else { &p.name };
        let source = CastSource::wrap(checkpoint.get(name).unwrap(), DType::F32);
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&read_all(source.as_ref()).unwrap());
        // Groups do not divide the rows of `w2`, which stays float.
        let (rows, columns) = match &p.shape[..] {
            &[rows, columns] if columns.is_multiple_of(GROUP) => (rows, columns),
            _ => {
                all.insert(p.stored, floats(&p.shape, &values));
                continue;
            }
        };
        let (group, range) = match p.name.as_str() {
            "lm_head.weight" | "model.embed_tokens.weight" => (0, (-128, 127)),
            _ => (GROUP, (-8, 7)),
        };
        let label = TensorLabel::new("w", "weight");
        let q = weight::affine(&label, Matrix::new(&label, &values, rows, columns).unwrap(), group, range).unwrap();
        // The pairs of a head, half a head apart in the module, are neighbours in the file.
        let d = hf.head_dim;
        let from = |row: usize| if p.interleaved { row / d * d + row % d / 2 + row % 2 * (d / 2) } else { row };
        let by_rows = |width: usize| (0..rows).flat_map(move |row| from(row) * width..(from(row) + 1) * width);
        let groups = q.scales.len() / rows;
        let codes: Vec<u8> = by_rows(columns).map(|i| q.codes[i].cast_unsigned()).collect();
        let scales: Vec<f32> = by_rows(groups).map(|i| q.scales[i]).collect();
        let module = p.stored.strip_suffix(".weight").unwrap().to_owned();
        all.insert(p.stored, Stored { class: "CharStorage", shape: p.shape.clone(), bytes: codes });
        all.insert(format!("{module}.scales"), floats(&[rows, groups], &scales));
    }
    let params = json!({
        "dim": hf.dim, "n_layers": hf.n_layers, "n_heads": hf.n_heads, "n_kv_heads": hf.n_kv_heads,
        "head_dim": hf.head_dim, "vocab_size": hf.vocab_size, "multiple_of": 1, "hidden_dim": hf.hidden_dim,
        "norm_eps": hf.norm_eps, "rope_theta": hf.rope.theta, "quantization_args": {"group_size": GROUP}
    });
    (all, params)
}

fn write(folder: &Path, tensors: &BTreeMap<String, Stored>, params: &Value) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("params.json"), params.to_string()).unwrap();
    let list: Vec<TorchTensor> = tensors
        .iter()
        .map(|(name, t)| TorchTensor { name: name.clone(), class: t.class, shape: t.shape.clone() })
        .collect();
    let mut out = BufWriter::new(File::create(folder.join("consolidated.00.pth")).unwrap());
    save(&mut out, &list, &mut |t| tensors[&t.name].bytes.clone()).unwrap();
}

/// All constants that something reads, by name, as bytes.
fn constants(module: &Module) -> BTreeMap<String, Vec<u8>> {
    let bytes = |data: &ConstData| match data {
        ConstData::Source(source) => read_all(source.as_ref()).unwrap().to_vec(),
        _ => Vec::new(),
    };
    let used = |id| module.graphs[0].all_nodes().iter().any(|&n| reads(module, n, id));
    let used = module.constants.iter().filter(|(id, _)| used(*id));
    used.map(|(_, c)| (c.name.to_string(), bytes(&c.data))).collect()
}

fn reads(module: &Module, node: NodeId, id: ConstId) -> bool {
    let graph = &module.graphs[0];
    let is = |a: &Arg| matches!(a, Arg::Value(v) if graph.values[*v].def == Def::Const(id));
    graph.nodes[node].args.iter().any(is)
}

#[test]
fn codes_and_scales_go_over_bit_for_bit() {
    let dir = with_glass();
    let (tensors, params) = quantized(&dir.path().join("glass-en"));
    let meta = dir.path().join("meta");
    write(&meta, &tensors, &params);
    let found = Exporter::open(&meta).unwrap().kv_cache(true).pre_quantized(LAYOUT).captured().unwrap();
    // The float model, quantized in the same way by this program.
    let recipe = "quantization-mode = '8da4w'\ngroup-size = 32\nembedding-quantize = '8,0'\nweight-algorithm = 'affine'\n\
                  [[rule]]\npath = 'lm_head'\nquantization-mode = '8da8w'";
    let recipe = Recipe::parse(recipe).unwrap();
    let float = Exporter::open(dir.path().join("glass-en")).unwrap().kv_cache(true);
    let expected = float.quantize(recipe).captured().unwrap();
    let (found_constants, mut expected_constants) = (constants(&found), constants(&expected));
    // Tied there, by itself here.
    for leaf in ["quantized", "quantized_scale"] {
        let tied = expected_constants.remove(&format!("model.embed_tokens.weight_{leaf}")).unwrap();
        expected_constants.insert(format!("lm_head.weight_{leaf}"), tied);
    }
    assert_eq!(found_constants.keys().collect::<Vec<_>>(), expected_constants.keys().collect::<Vec<_>>());
    for (name, expected) in &expected_constants {
        assert!(found_constants[name] == *expected, "{name}");
    }
    let nodes = |m: &Module| print::graph(&m.graphs[0]).lines().filter(|l| l.contains("torchao::")).count();
    assert_eq!(nodes(&found), nodes(&expected));
}

#[test]
fn the_command_takes_them() {
    let dir = with_glass();
    let (tensors, params) = quantized(&dir.path().join("glass-en"));
    write(&dir.path().join("meta"), &tensors, &params);
    let mode = ["--preq_mode", "8da4w_output_8da8w"];
    let export = |folder: &str, flags: &[&str]| {
        pteron(
            dir.path(),
            &[&["export", folder, "-kv", "-o", "m.pte", "--bare", "-t", "glass-en/tokenizer.json"], flags].concat(),
        )
    };
    let report = export(
        "meta",
        &[&mode[..], &["--preq_group_size", "32", "--preq_embedding_quantize", "8,0", "--json"]].concat(),
    )
    .json();
    let q = &report["quantization"];
    assert_eq!((q["layers"].as_u64(), q["taken_over"].as_u64()), (Some(26), Some(26)), "{q}");
    // Against its own numbers in floats: only activations are rounded.
    assert!(q["evaluation"]["kl"].as_f64().unwrap() < 0.05, "{q}");
    let plan = export("meta", &[&mode[..], &["--print-plan"]].concat()).ok();
    assert!(plan.contains("weight-algorithm = 'stored'") && plan.contains("8da8w, stored"), "{plan}");
    fs::remove_file(dir.path().join("m.pte")).unwrap();

    // What contradicts the checkpoint, and what the checkpoint contradicts.
    let e = export("meta", &[&mode[..], &["--preq_group_size", "64"]].concat()).fails(2);
    assert!(
        e.contains("--preq-group-size is 64, expected 32, the group_size in quantization_args of params.json"),
        "{e}"
    );
    let e = export("meta", &["--preq_mode", "8da4w"]).fails(1);
    assert!(e.contains("`output.scales` has 1024 elements for 1024 rows of 128 codes, expected 4096"), "{e}");
    let e = export("meta", &[&mode[..], &["--preq_embedding_quantize", "8,32"]].concat()).fails(1);
    assert!(e.contains("`tok_embeddings.scales`") && e.contains("--preq-embedding-quantize"), "{e}");
    let e = export("meta", &[&mode[..], &["--preq_embedding_quantize", "3,32"]].concat()).fails(2);
    assert!(e.contains("--preq-embedding-quantize is 3,32, expected BITS,GROUP"), "{e}");
    let e = export("meta", &[]).fails(1);
    assert!(e.contains("is quantized already") && e.contains("--preq-mode"), "{e}");
    let e = export("meta", &[&mode[..], &["-qmode", "8da4w"]].concat()).fails(2);
    assert!(e.contains("--preq-mode") && e.contains("--quantization-mode"), "{e}");
    let e = export("meta", &["--preq_group_size", "64"]).fails(2);
    assert!(e.contains("--preq-mode"), "{e}");
    let e = export("glass-en", &mode).fails(1);
    assert!(e.contains("no layer of the model can be quantized") && e.contains("without codes"), "{e}");
    let wq = "layers.0.attention.wq";
    for (name, part, change) in [
        (
            "zeros",
            "`layers.0.attention.wq.zeros` has 1",
            &(|all: &mut BTreeMap<String, Stored>| {
                all.insert(format!("{wq}.zeros"), floats(&[128, 4], &[1.0; 512]));
            }) as &dyn Fn(&mut BTreeMap<String, Stored>),
        ),
        ("alone", "it is i8, and there is no `layers.0.attention.wq.scales` beside it", &|all| {
            all.remove(&format!("{wq}.scales"));
        }),
        ("wide", "code 8 in row 0, column 0, expected -8 to 7", &|all| {
            all.get_mut(&format!("{wq}.weight")).unwrap().bytes[0] = 8;
        }),
        ("float", "there is a `layers.0.attention.wq.scales` beside it, and it is not i8", &|all| {
            all.insert(format!("{wq}.weight"), floats(&[128, 128], &[1.0; 128 * 128]));
        }),
    ] {
        let mut changed = tensors.clone();
        change(&mut changed);
        write(&dir.path().join(name), &changed, &params);
        let e = export(name, &mode).fails(1);
        assert!(e.contains(part) && e.contains(wq), "{name}: {e}");
    }
    let mut wrong = params.clone();
    wrong["quantization_args"] = json!({"scheme": "x"});
    write(&dir.path().join("arguments"), &tensors, &wrong);
    let e = export("arguments", &mode).fails(1);
    assert!(e.contains("params.json: field `quantization_args`") && e.contains("group_size"), "{e}");
    assert!(!dir.path().join("m.pte").exists());
}
