//! GGUF files through the front door: the same program as from a folder, byte for byte, and what is said of files that
//! cannot be exported.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pteron::checkpoint::Checkpoint;
use pteron::checkpoint::gguf::GgmlType;
use pteron::exec::ValueRef;
use pteron::ir::{ConstData, Module};
use pteron::models::{ConfigFormat, ModelConfig, parameters};
use pteron::quant::recipe::{Base, Recipe};
use pteron::quant::transform::{Algorithm, LinearMode};
use pteron::tensor::{CastSource, DType, SharedSource, Tensor, read_all};
use pteron::{Exporter, LoadOptions, Program};
use pteron_testkit::fetched;
use pteron_testkit::gguf::{Field, GgufFile};
use support::{pteron, with_glass};

/// The bundled model as llama.cpp's converter writes it: f16 but for vectors, rows of query and key with rotary pairs as
/// neighbours.
fn glass() -> GgufFile {
    glass_in(&mut |_, _, _| None)
}

/// The type and bytes of a matrix of this name (the file's) and sizes, its rows in the file's order; `None` leaves it f16.
type Encode<'a> = &'a mut dyn FnMut(&str, &[usize], &[f32]) -> Option<(GgmlType, Vec<u8>)>;

fn glass_in(encode: Encode<'_>) -> GgufFile {
    let dir = with_glass();
    let folder = dir.path().join("glass-en");
    let checkpoint = Checkpoint::open(&folder).unwrap();
    let hf = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    let config = ModelConfig { format: ConfigFormat::Gguf, interleaved: true, ..hf.clone() };
    let mut f = GgufFile::default();
    let int = |n: usize| Field::U32(u32::try_from(n).unwrap());
    f.set("general.architecture", Field::Text("llama".into()));
    f.set("llama.block_count", int(hf.n_layers));
    f.set("llama.context_length", int(hf.max_position_embeddings));
    f.set("llama.embedding_length", int(hf.dim));
    f.set("llama.feed_forward_length", int(hf.hidden_dim));
    f.set("llama.attention.head_count", int(hf.n_heads));
    f.set("llama.attention.head_count_kv", int(hf.n_kv_heads));
    f.set("llama.attention.layer_norm_rms_epsilon", Field::F32(1e-6));
    f.set("llama.rope.freq_base", Field::F32(10_000.0));
    f.set("llama.rope.dimension_count", int(hf.head_dim));
    f.set("tokenizer.ggml.model", Field::Text("gpt2".into()));
    f.set("tokenizer.ggml.tokens", Field::Texts((0..hf.vocab_size).map(|i| format!("t{i}")).collect()));
    f.set("tokenizer.ggml.bos_token_id", Field::U32(2));
    f.set("tokenizer.ggml.eos_token_id", Field::U32(3));
    for p in parameters(&config) {
        let source = checkpoint.get(&p.name).unwrap();
        if let [n] = p.shape[..] {
            let bytes = read_all(CastSource::wrap(source, DType::F32).as_ref()).unwrap();
            f.tensor(&p.stored, 0, &[n], bytes.to_vec());
            continue;
        }
        let all = read_all(source.as_ref()).unwrap();
        let (row, half) = (source.row_bytes(), hf.head_dim / 2);
        let mut bytes = Vec::with_capacity(all.len());
        for i in 0..p.shape[0] {
            // Neighbours 2j and 2j + 1 are rows j and j + D/2 of the head.
            let (head, at) = (i / hf.head_dim, i % hf.head_dim);
            let from = if p.interleaved { head * hf.head_dim + at % 2 * half + at / 2 } else { i };
            bytes.extend(&all[from * row..][..row]);
        }
        let values: Vec<f32> = bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect();
        match encode(&p.stored, &p.shape, &values) {
            Some((ty, bytes)) => f.tensor(&p.stored, ty.id(), &p.shape, bytes),
            None => f.tensor(&p.stored, 1, &p.shape, bytes),
        };
    }
    f
}

/// Blocks of 32 as llama.cpp's reference makes them, and the signed codes in them.
fn blocks(ty: GgmlType, values: &[f32]) -> (Vec<u8>, Vec<i8>) {
    let (mut bytes, mut codes) = (Vec::new(), Vec::new());
    for block in values.chunks_exact(32) {
        let most = block.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap();
        let scale = half::f16::from_f32(if ty == GgmlType::Q8_0 { most.abs() / 127.0 } else { most / -8.0 });
        let inverse = if scale.to_f32() == 0.0 { 0.0 } else { 1.0 / scale.to_f32() };
        let (lo, hi) = if ty == GgmlType::Q8_0 { (-127.0, 127.0) } else { (-8.0, 7.0) };
        let q: Vec<i8> = block.iter().map(|v| (v * inverse).round().clamp(lo, hi) as i8).collect();
        bytes.extend(scale.to_le_bytes());
        match ty {
            GgmlType::Q8_0 => bytes.extend(q.iter().map(|&q| q.cast_unsigned())),
            _ => {
                // A minimum of 8 scales makes the same numbers of Q4_1, whose codes are not signed.
                if ty == GgmlType::Q4_1 {
                    bytes.extend(half::f16::from_f32(-8.0 * scale.to_f32()).to_le_bytes());
                }
                let nibble = |at: usize| (q[at] + 8).cast_unsigned();
                bytes.extend((0..16).map(|i| nibble(i) | nibble(i + 16) << 4));
            }
        }
        codes.extend(q);
    }
    (bytes, codes)
}

/// The bundled model in blocks, and the codes of its matrices by their names in the file.
fn glass_in_blocks() -> (GgufFile, BTreeMap<String, Vec<i8>>) {
    let mut all = BTreeMap::new();
    let file = glass_in(&mut |name, shape, values| {
        let ty = match name {
            "blk.1.attn_v.weight" => GgmlType::Q4_1,
            // Its rows are no whole blocks.
            _ if !shape[1].is_multiple_of(32) => return None,
            _ if name.contains("ffn_up") || name.contains("token_embd") => GgmlType::Q8_0,
            _ => GgmlType::Q4_0,
        };
        let (bytes, codes) = blocks(ty, values);
        all.insert(name.to_owned(), codes);
        Some((ty, bytes))
    });
    (file, all)
}

fn constant<'m>(module: &'m Module, name: &str) -> Option<&'m SharedSource> {
    module.constants.values().find(|c| c.name.as_ref() == name).and_then(|c| match &c.data {
        ConstData::Source(source) => Some(source),
        _ => None,
    })
}

/// Largest difference of the logits of two programs, and the largest of the second's.
fn compared(a: &Path, b: &Path) -> (f32, f32) {
    let run = |path: &Path| {
        let mut program = Program::open(path, &LoadOptions { threads: Some(2), ..LoadOptions::default() }).unwrap();
        let ids = Tensor::of(&[1, 9], &[2i64, 50, 77, 301, 12, 9, 200, 33, 5]).unwrap();
        let inputs = [ValueRef::Tensor(ids.view())];
        let outputs = program.session().run("forward", &inputs).unwrap();
        outputs.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec()
    };
    let (a, b) = (run(a), run(b));
    let most = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |m, v| m.max(v.abs()));
    (most(&mut a.iter().zip(&b).map(|(x, y)| x - y)), most(&mut b.iter().copied()))
}

#[test]
fn codes_of_blocks_are_taken_over() {
    let dir = with_glass();
    let at = |name: &str| dir.path().join(name);
    let (file, codes) = glass_in_blocks();
    fs::write(at("blocks.gguf"), file.bytes()).unwrap();
    let tokenizer = ["--tokenizer-path", "glass-en/tokenizer.json"];
    let common = [&["export", "blocks.gguf", "--generate-full-logits", "--bare", "--json"], &tokenizer[..]].concat();
    let export = |flags: &[&str]| pteron(dir.path(), &[&common[..], flags].concat());
    export(&["-o", "float.pte"]).ok();
    let stored = ["--weight-algorithm", "stored", "-E", "8,32"];
    for (mode, group) in [("4w", "128"), ("8da4w", "32"), ("int8", "32"), ("8da8w", "0")] {
        let out = format!("{mode}.pte");
        let report = export(&[&["-o", &out, "-qmode", mode, "-G", group], &stored[..]].concat()).json();
        let q = &report["quantization"];
        // Four layers of seven matrices, the output layer and the embedding, but for one in Q4_1 and four in f16.
        assert_eq!((q["layers"].as_u64(), q["taken_over"].as_u64()), (Some(25), Some(25)), "{q}");
        let kept = q["kept_float"].as_array().unwrap();
        assert_eq!(kept.len(), 5);
        let why = |path: &str| kept.iter().find(|k| k[0] == path).unwrap()[1].as_str().unwrap();
        assert!(why("model.layers.1.self_attn.v_proj").contains("stored as Q4_1"), "{kept:?}");
        assert!(why("model.layers.1.mlp.down_proj").contains("stored as f16, without codes"), "{kept:?}");
        let warned = report["warnings"].as_array().unwrap().iter().any(|w| w.as_str().unwrap().contains("Q4_1"));
        assert!(warned, "{report}");
        // Nothing is quantized again: where activations are float, the program is the float one.
        let (difference, most) = compared(&at(&out), &at("float.pte"));
        let (kl, float) = (q["evaluation"]["kl"].as_f64().unwrap(), matches!(mode, "4w" | "int8"));
        match float {
            true => assert!(difference <= 1e-5 * most && kl < 1e-8, "{mode}: {difference} of {most}, KL {kl}"),
            false => assert!(difference <= 0.1 * most && kl < 0.02, "{mode}: {difference} of {most}, KL {kl}"),
        }
        let base =
            Base { linear: LinearMode::from_name(mode, None), algorithm: Some(Algorithm::Stored), ..Base::default() };
        let recipe = Recipe { base, rules: Vec::new() };
        let module = Exporter::open(at("blocks.gguf")).unwrap().quantize(recipe).captured().unwrap();
        let parameters =
            parameters(&ModelConfig::from_checkpoint(&Checkpoint::open(at("blocks.gguf")).unwrap()).unwrap());
        let mut compared = 0;
        for p in parameters.iter().filter(|p| codes.contains_key(&p.stored)) {
            let found = constant(&module, &format!("{}_quantized", p.name));
            if p.stored == "blk.1.attn_v.weight" {
                assert!(found.is_none());
                continue;
            }
            compared += 1;
            let all = read_all(found.unwrap_or_else(|| panic!("{}", p.name)).as_ref()).unwrap();
            let (width, half) = (p.shape[1], 32 / 2);
            for (row, found) in all.chunks_exact(width).enumerate() {
                // Row j of a half of a head is neighbour 2j of it.
                let (head, i) = (row / 32, row % 32);
                let from = if p.interleaved { head * 32 + i % half * 2 + i / half } else { row };
                let expected = &codes[&p.stored][from * width..][..width];
                assert_eq!(bytemuck::cast_slice::<u8, i8>(found), expected, "{} {row}", p.name);
            }
        }
        // The output layer is tied: its codes are the embedding's.
        assert_eq!(compared, 24);
    }

    // Nothing to take over.
    fs::write(at("plain.gguf"), glass().bytes()).unwrap();
    let plain = ["export", "plain.gguf", "-o", "m.pte", "-qmode", "4w", "--weight-algorithm", "stored"];
    let e = pteron(dir.path(), &plain).fails(1);
    assert!(e.contains("no layer of the model can be quantized") && e.contains("it is stored as f16"), "{e}");
    // A scale that is no number: said, and only that layer stays float.
    let mut file = glass_in_blocks().0;
    let t = file.tensors.iter_mut().find(|t| t.name == "blk.0.ffn_gate.weight").unwrap();
    t.bytes[..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    fs::write(at("infinite.gguf"), file.bytes()).unwrap();
    let infinite = ["export", "infinite.gguf", "-o", "m.pte", "-qmode", "4w", "--weight-algorithm", "stored"];
    let ran = pteron(dir.path(), &[&infinite[..], &["--no-evaluation"]].concat());
    let why = "`model.layers.0.mlp.gate_proj` stays float: the scale of group 0 of row 0 of its weight is inf";
    assert!(ran.err.contains(why), "{}", ran.err);
}

fn export(path: &Path, out: &Path, dtype: DType) -> Vec<u8> {
    Exporter::open(path).unwrap().kv_cache(true).sdpa_with_kv_cache(true).dtype(dtype).write(out).unwrap();
    fs::read(out).unwrap()
}

#[test]
fn the_same_program_as_from_the_folder() {
    let dir = with_glass();
    let path = dir.path().join("glass.gguf");
    fs::write(&path, glass().bytes()).unwrap();
    for dtype in [DType::F32, DType::F16] {
        let a = export(&dir.path().join("glass-en"), &dir.path().join("a.pte"), dtype);
        let b = export(&path, &dir.path().join("b.pte"), dtype);
        assert!(a == b, "{dtype}: {} and {} bytes", a.len(), b.len());
    }
    let shown = pteron(dir.path(), &["inspect", "glass.gguf"]).ok();
    assert!(shown.contains("LlamaForCausalLM: 4 layers of 128") && shown.contains("token_embd.weight"), "{shown}");
}

#[test]
fn what_cannot_be_exported_is_told_in_one_sentence() {
    let dir = with_glass();
    let fails = |path: &str| pteron(dir.path(), &["export", path, "-o", "m.pte"]).fails(1);
    let write = |name: &str, change: &dyn Fn(&mut GgufFile)| {
        let mut f = glass();
        change(&mut f);
        fs::write(dir.path().join(name), f.bytes()).unwrap();
    };

    write("gemma.gguf", &|f| {
        f.set("general.architecture", Field::Text("gemma3".into()));
    });
    let e = fails("gemma.gguf");
    assert!(e.contains("architecture `gemma3` is not supported; known are llama, qwen2, qwen3"), "{e}");

    write("vocabulary.gguf", &|f| {
        f.set("tokenizer.ggml.tokens", Field::Texts((0..1030).map(|i| format!("t{i}")).collect()));
    });
    let e = fails("vocabulary.gguf");
    assert!(e.contains("vocabulary.gguf: token \"t1024\" has id 1024") && e.contains("1024"), "{e}");

    write("part-00001-of-00002.gguf", &|f| {
        f.set("split.count", Field::U32(2));
    });
    let e = fails("part-00001-of-00002.gguf");
    assert!(e.contains("1 shard(s) that are not in the folder: part-00002-of-00002.gguf"), "{e}");

    let whole = glass().bytes();
    fs::write(dir.path().join("cut.gguf"), &whole[..whole.len() - 1000]).unwrap();
    let e = fails("cut.gguf");
    assert!(e.contains("cut.gguf: tensor `") && e.contains("the file is cut short"), "{e}");

    let weights = fs::read(dir.path().join("glass-en/model.safetensors")).unwrap();
    fs::write(dir.path().join("glass-en/model.safetensors"), &weights[..weights.len() - 1000]).unwrap();
    let e = fails("glass-en");
    assert!(e.contains("model.safetensors: tensor `") && e.contains("the file is cut short"), "{e}");

    fs::write(dir.path().join("glass-en/model.safetensors"), &weights).unwrap();
    fs::remove_file(dir.path().join("glass-en/config.json")).unwrap();
    let e = fails("glass-en");
    assert!(e.contains("there is no config.json, so nothing says which model these weights are"), "{e}");
    assert!(!dir.path().join("m.pte").exists());
}

/// SmolLM2 as shipped, in blocks of Q4_1 and Q8_0, against the folder that `tools/make_smollm2.py` decodes from it.
#[test]
fn smollm2_gives_the_same_program_as_from_the_folder() {
    let test = "gguf::smollm2_gives_the_same_program_as_from_the_folder";
    let (Some(folder), Some(gguf)) = (fetched(test, "smollm2-135m"), fetched(test, "smollm2-135m-gguf")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let a = export(&folder, &dir.path().join("a.pte"), DType::F32);
    let b = export(&gguf, &dir.path().join("b.pte"), DType::F32);
    assert!(a == b, "{} and {} bytes", a.len(), b.len());
}
