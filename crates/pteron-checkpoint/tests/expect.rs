//! Names and shapes compared with what a model needs.

mod common;

use common::*;
use pteron_checkpoint::{Checkpoint, CheckpointError, Expectations, ExpectedTensor, TensorMismatches, TensorSpec};
use pteron_tensor::DType;
use tempfile::tempdir;

fn expected() -> Expectations {
    let tensors =
        llama().iter().map(|s| ExpectedTensor::required(&s.name, &s.shape, "hidden_size 8 of config.json")).collect();
    Expectations { tensors, ..Expectations::default() }
}

fn mismatches(c: &Checkpoint, e: &Expectations) -> (TensorMismatches, String) {
    match c.check(e).unwrap_err() {
        CheckpointError::Mismatch(m) => {
            let text = m.to_string();
            (*m, text)
        }
        other => panic!("{other}"),
    }
}

#[test]
fn tied_weights_need_no_head() {
    let dir = tempdir().unwrap();
    let c = Checkpoint::open(single(dir.path(), &llama())).unwrap();
    let mut e = expected();
    let mut head = ExpectedTensor::required("lm_head.weight", &[32, 8], "");
    head.required = false;
    e.tensors.push(head.clone());
    let report = c.check(&e).unwrap();
    assert_eq!(report.found_as.last().unwrap(), &None);
    assert_eq!(report.found_as[0].as_deref(), Some("model.embed_tokens.weight"));
    assert!(report.harmless.is_empty() && report.unexpected.is_empty());
    // Required, it is missing; with the embedding as its other name, it is there.
    e.tensors.last_mut().unwrap().required = true;
    let (m, text) = mismatches(&c, &e);
    assert_eq!((m.missing.len(), m.wrong_shape.len(), m.unexpected.len()), (1, 0, 0));
    assert!(text.contains("missing `lm_head.weight`") && text.contains("model.safetensors"), "{text}");
    e.tensors.last_mut().unwrap().alternatives = vec!["model.embed_tokens.weight".to_owned()];
    assert_eq!(c.check(&e).unwrap().found_as.last().unwrap().as_deref(), Some("model.embed_tokens.weight"));
}

#[test]
fn all_differences_are_in_one_error() {
    let dir = tempdir().unwrap();
    let mut specs = llama();
    specs[0].shape[0] = 40;
    specs[1].name = "model.norm.wieght".to_owned();
    specs[2].name = "extra.self_attn.z".to_owned();
    specs.push(TensorSpec::new("model.layers.0.self_attn.rotary_emb.inv_freq", DType::F32, &[2]));
    let folder = sharded(dir.path(), &specs);
    let c = Checkpoint::open(&folder).unwrap();
    let mut e = expected();
    e.harmless = vec!["*.rotary_emb.inv_freq".to_owned()];
    let (m, text) = mismatches(&c, &e);
    let missing: Vec<&str> = m.missing.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(missing, ["model.norm.weight", "model.layers.0.self_attn.q_proj.weight"]);
    assert_eq!(m.missing[0].near.as_deref(), Some("model.norm.wieght"));
    assert_eq!(m.missing[0].place, folder.join(INDEX));
    assert_eq!(m.missing[1].near, None);
    assert_eq!(m.wrong_shape.len(), 1);
    let w = &m.wrong_shape[0];
    assert_eq!((w.found.as_slice(), w.expected.as_slice()), (&[40, 8][..], &[32, 8][..]));
    assert_eq!(w.file, folder.join(SHARDS[0]));
    let unexpected: Vec<&str> = m.unexpected.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(unexpected, ["extra.self_attn.z", "model.norm.wieght"]);
    for part in [
        "2 missing, 1 of another shape, 2 unexpected",
        "did you mean `model.norm.wieght`?",
        "has shape [40, 8] in",
        "expected [32, 8] from hidden_size 8 of config.json",
        "unexpected `extra.self_attn.z` in",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn strangers_can_be_allowed() {
    let dir = tempdir().unwrap();
    let mut specs = llama();
    specs.push(TensorSpec::new("visual.patch", DType::U8, &[2]));
    specs.push(TensorSpec::new("x.rotary_emb.inv_freq", DType::F32, &[2]));
    let c = Checkpoint::open(single(dir.path(), &specs)).unwrap();
    let mut e = expected();
    e.harmless = vec!["*.inv_freq".to_owned()];
    assert_eq!(mismatches(&c, &e).0.unexpected.len(), 1);
    e.allow_unexpected = true;
    let report = c.check(&e).unwrap();
    assert_eq!(report.unexpected, ["visual.patch"]);
    assert_eq!(report.harmless, ["x.rotary_emb.inv_freq"]);
}

#[test]
fn long_lists_are_cut_in_the_text_only() {
    let dir = tempdir().unwrap();
    let c = Checkpoint::open(single(dir.path(), &llama())).unwrap();
    let mut e = expected();
    e.tensors.extend((0..100).map(|i| ExpectedTensor::required(format!("t{i}"), &[1], "")));
    let (m, text) = mismatches(&c, &e);
    assert_eq!(m.missing.len(), 100);
    assert!(text.contains("and 88 more like this") && text.lines().count() == 14, "{text}");
}
