//! stories260K, in all versions of llama2.c's format, tells its story.

mod support;

use std::path::{Path, PathBuf};

use pteron::exec::ValueRef;
use pteron::llm::tokenizer::Tokenizer;
use pteron::tensor::Tensor;
use pteron::{Exporter, LoadOptions, Program};
use pteron_testkit::fixture;
use serde_json::Value as Json;
use support::pteron;

fn export(checkpoint: &Path, out: &Path) {
    let exporter = Exporter::open(checkpoint).unwrap().kv_cache(true).sdpa_with_kv_cache(true);
    let report = exporter.max_seq_length(256).max_context_length(256).write(out).unwrap();
    assert_eq!(report.warnings, [""; 0]);
    assert_eq!(report.parameters, 260_032);
}

/// Greedy tokens after `token`.
fn greedy(program: &Path, mut token: i64, steps: usize) -> Vec<i64> {
    let mut program = Program::open(program, &LoadOptions { threads: Some(1), ..LoadOptions::default() }).unwrap();
    let mut ids = Vec::new();
    for position in 0..steps {
        let tokens = Tensor::of(&[1, 1], &[token]).unwrap();
        let at = Tensor::of(&[1], &[position as i64]).unwrap();
        let inputs = [ValueRef::Tensor(tokens.view()), ValueRef::Tensor(at.view())];
        let outputs = program.session().run("forward", &inputs).unwrap();
        let logits = outputs.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec();
        token = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as i64;
        ids.push(token);
    }
    ids
}

fn golden() -> (Vec<i64>, String) {
    let golden: Json = serde_json::from_slice(&std::fs::read(fixture("llama2c/golden.json")).unwrap()).unwrap();
    let ids = golden["greedy_ids"].as_array().unwrap().iter().map(|i| i.as_i64().unwrap()).collect();
    (ids, golden["text"].as_str().unwrap().replace("<0x0A>", "\n"))
}

#[test]
fn the_story_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("m.pte");
    export(&fixture("llama2c/stories260K.bin"), &out);
    let (expected, text) = golden();
    let ids = greedy(&out, 1, expected.len());
    assert_eq!(ids, expected);
    let tokenizer = Tokenizer::from_bytes(&std::fs::read(fixture("llama2c/tok512.bin")).unwrap(), None).unwrap();
    let ids: Vec<u32> = ids.iter().map(|&i| u32::try_from(i).unwrap()).collect();
    let told = tokenizer.decode(&ids, false).unwrap();
    assert_eq!(told.trim_start(), text.trim_start());
    assert!(
        told.trim_start()
            .starts_with("Once upon a time, there was a little girl named Lily. She loved to play outside")
    );
}

/// The sizes of stories260K.
const DIM: usize = 64;
const HIDDEN: usize = 172;
const LAYERS: usize = 5;
const KV_DIM: usize = 32;
const VOCAB: usize = 512;
const CONTEXT: usize = 512;

/// Start and length of each tensor, in elements.
type Spans = Vec<(usize, usize)>;

/// The file's words, and where each weight of version 0 begins, in the order of the later versions: both sorts of
/// norms and the last one, then the matrices.
fn spans() -> (Vec<f32>, Spans, Spans) {
    let bytes = std::fs::read(fixture("llama2c/stories260K.bin")).unwrap();
    let words: Vec<f32> = bytes[28..].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut at = 0;
    let mut next = |n: usize| {
        at += n;
        (at - n, n)
    };
    let embedding = next(VOCAB * DIM);
    let attention_norm = next(LAYERS * DIM);
    let attention: Vec<(usize, usize)> = [DIM, KV_DIM, KV_DIM, DIM].map(|rows| next(LAYERS * rows * DIM)).to_vec();
    let ffn_norm = next(LAYERS * DIM);
    let ffn: Vec<(usize, usize)> = (0..3).map(|_| next(LAYERS * HIDDEN * DIM)).collect();
    let norm = next(DIM);
    assert_eq!(words.len(), at + 2 * CONTEXT * 4);
    let mut matrices = vec![embedding];
    matrices.extend(
        attention
            .into_iter()
            .chain(ffn)
            .flat_map(|(at, n)| (0..LAYERS).map(move |i| (at + i * (n / LAYERS), n / LAYERS))),
    );
    (words, vec![attention_norm, ffn_norm, norm], matrices)
}

fn header(version: i32, group: Option<i32>) -> Vec<u8> {
    let mut out: Vec<u8> =
        [0x616b_3432, version, 64, 172, 5, 8, 4, 512, 512].iter().flat_map(|w| w.to_le_bytes()).collect();
    out.push(1);
    out.extend(group.map(i32::to_le_bytes).unwrap_or_default());
    out.resize(256, 0);
    out
}

fn to_bytes(words: &[f32]) -> impl Iterator<Item = u8> + '_ {
    words.iter().flat_map(|w| w.to_le_bytes())
}

#[test]
fn every_version_gives_the_same_program() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| -> PathBuf { dir.path().join(name) };
    let (words, norms, matrices) = spans();
    export(&fixture("llama2c/stories260K.bin"), &at("0.pte"));

    let mut one = header(1, None);
    norms.iter().chain(&matrices).for_each(|&(start, n)| one.extend(to_bytes(&words[start..start + n])));
    std::fs::write(at("1.bin"), one).unwrap();
    export(&at("1.bin"), &at("1.pte"));
    let read = |name: &str| std::fs::read(at(name)).unwrap();
    assert!(read("0.pte") == read("1.pte"));

    // Quantized as llama2.c does it, and the same numbers in f32.
    let (mut two, mut plain) = (header(2, Some(32)), header(1, None));
    for &(start, n) in &norms {
        two.extend(to_bytes(&words[start..start + n]));
        plain.extend(to_bytes(&words[start..start + n]));
    }
    for &(start, n) in &matrices {
        let (mut integers, mut scales) = (Vec::new(), Vec::new());
        for group in words[start..start + n].chunks(32) {
            let scale = group.iter().fold(0f32, |m, w| m.max(w.abs())) / 127.0;
            let quantized: Vec<i8> = group.iter().map(|w| (w / scale).round() as i8).collect();
            plain.extend(quantized.iter().flat_map(|q| (f32::from(*q) * scale).to_le_bytes()));
            integers.extend(quantized.iter().map(|q| *q as u8));
            scales.push(scale);
        }
        two.extend(integers);
        two.extend(to_bytes(&scales));
    }
    std::fs::write(at("2.bin"), two).unwrap();
    std::fs::write(at("plain.bin"), plain).unwrap();
    export(&at("2.bin"), &at("2.pte"));
    export(&at("plain.bin"), &at("plain.pte"));
    assert!(read("2.pte") == read("plain.pte"));
    assert_eq!(greedy(&at("2.pte"), 1, 12), golden().0[..12]);
}

#[test]
fn the_command_exports_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(fixture("llama2c/stories260K.bin"), dir.path().join("stories260K.bin")).unwrap();
    let report = pteron(dir.path(), &["export", "stories260K.bin", "-kv", "-o", "m.pte", "--json"]).json();
    assert_eq!((&report["architecture"], &report["parameters"]), (&"llama".into(), &260_032.into()));
    let seen = pteron(dir.path(), &["inspect", "m.pte", "--json"]).json();
    assert_eq!(seen["metadata"]["get_bos_id"], serde_json::json!([1]));
    assert_eq!(seen["metadata"]["get_eos_ids"], serde_json::json!([1, 2]));
    assert_eq!(seen["metadata"]["get_vocab_size"], serde_json::json!([512]));

    let bytes = std::fs::read(dir.path().join("stories260K.bin")).unwrap();
    std::fs::write(dir.path().join("cut.bin"), &bytes[..bytes.len() - 1]).unwrap();
    let e = pteron(dir.path(), &["export", "cut.bin", "-o", "x.pte"]).fails(1);
    assert!(e.contains("cut.bin: invalid llama2.c model: the file ends in the tables of rotary embedding"), "{e}");
}
