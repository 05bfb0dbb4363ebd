//! GGUF files through the front door: the same program as from a folder, byte for byte, and what is said of files that
//! cannot be exported.

mod support;

use std::fs;
use std::path::Path;

use pteron::Exporter;
use pteron::checkpoint::Checkpoint;
use pteron::models::{ConfigFormat, ModelConfig, parameters};
use pteron::tensor::{CastSource, DType, read_all};
use pteron_testkit::fetched;
use pteron_testkit::gguf::{Field, GgufFile};
use support::{pteron, with_glass};

/// The bundled model as llama.cpp's converter writes it: f16 but for vectors, rows of query and key with rotary pairs as
/// neighbours.
fn glass() -> GgufFile {
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
        f.tensor(&p.stored, 1, &p.shape, bytes);
    }
    f
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
