//! Folders of PyTorch checkpoints: Hugging Face's `pytorch_model.bin`, Meta's shards, and what is refused.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{open_file_mode, refused};
use pteron_checkpoint::{Checkpoint, CheckpointKind, Description, SafetensorsWriter, TensorSpec};
use pteron_tensor::{DType, read_all};
use pteron_testkit::torch::{TorchTensor, save};
use tempfile::tempdir;

/// A matrix or vector of 16-bit elements that count up from `from`.
#[derive(Clone, Debug, PartialEq)]
struct Part {
    shape: Vec<usize>,
    elements: Vec<u16>,
}

impl Part {
    fn new(shape: &[usize], from: u16) -> Part {
        let n: usize = shape.iter().product();
        Part { shape: shape.to_vec(), elements: (0..n as u16).map(|i| from.wrapping_add(i)).collect() }
    }
    /// Piece `i` of `n` along an axis.
    fn piece(&self, axis: usize, i: usize, n: usize) -> Part {
        let (rows, columns) = match *self.shape.as_slice() {
            [n] => (n, 1),
            [rows, columns] => (rows, columns),
            _ => panic!("{:?}", self.shape),
        };
        let inside = |r: usize, c: usize| {
            let (at, all) = if axis == 0 { (r, rows) } else { (c, columns) };
            at / (all / n) == i
        };
        let cells = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
        let elements = cells.filter(|&(r, c)| inside(r, c)).map(|(r, c)| self.elements[r * columns + c]).collect();
        let mut shape = self.shape.clone();
        shape[axis] /= n;
        Part { shape, elements }
    }
}

type Weights = BTreeMap<String, Part>;

fn write_as(path: &Path, weights: &Weights, class: &'static str) {
    let tensors: Vec<TorchTensor> =
        weights.iter().map(|(n, p)| TorchTensor { name: n.clone(), class, shape: p.shape.clone() }).collect();
    let mut file = fs::File::create(path).unwrap();
    save(&mut file, &tensors, &mut |t| weights[&t.name].elements.iter().flat_map(|e| e.to_le_bytes()).collect())
        .unwrap();
}

fn write(path: &Path, weights: &Weights) {
    write_as(path, weights, "BFloat16Storage");
}

const PARAMS: &str = r#"{"dim": 8, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": 12, "norm_eps": 1e-5}"#;

/// Weights of a layer with dim 8, two key heads of 2, hidden 16 and a vocabulary of 12.
fn meta() -> Weights {
    [
        ("tok_embeddings.weight", &[12, 8][..]),
        ("output.weight", &[12, 8]),
        ("norm.weight", &[8]),
        ("rope.freqs", &[1]),
        ("layers.0.attention_norm.weight", &[8]),
        ("layers.0.ffn_norm.weight", &[8]),
        ("layers.0.attention.wq.weight", &[8, 8]),
        ("layers.0.attention.wk.weight", &[4, 8]),
        ("layers.0.attention.wv.weight", &[4, 8]),
        ("layers.0.attention.wo.weight", &[8, 8]),
        ("layers.0.attention.wq.bias", &[8]),
        ("layers.0.feed_forward.w1.weight", &[16, 8]),
        ("layers.0.feed_forward.w2.weight", &[8, 16]),
        ("layers.0.feed_forward.w3.weight", &[16, 8]),
    ]
    .iter()
    .zip(0u16..)
    .map(|((name, shape), i)| ((*name).to_owned(), Part::new(shape, i * 1000)))
    .collect()
}

/// Shard `i` of `n`; the embedding is divided along `embedding`.
fn shard(weights: &Weights, i: usize, n: usize, embedding: usize) -> Weights {
    let cut = |(name, part): (&String, &Part)| {
        let axis = match name.rsplit('.').nth(1).unwrap() {
            "tok_embeddings" => Some(embedding),
            "output" | "wq" | "wk" | "wv" | "w1" | "w3" => Some(0),
            "wo" | "w2" => Some(1),
            _ => None,
        };
        (name.clone(), axis.map_or_else(|| part.clone(), |axis| part.piece(axis, i, n)))
    };
    weights.iter().map(cut).collect()
}

/// A Meta folder of `n` shards.
fn folder(n: usize, embedding: usize) -> tempfile::TempDir {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("params.json"), PARAMS).unwrap();
    for i in 0..n {
        write(&nth(&dir, i), &shard(&meta(), i, n, embedding));
    }
    dir
}

fn nth(dir: &tempfile::TempDir, i: usize) -> PathBuf {
    dir.path().join(format!("consolidated.{i:02}.pth"))
}

/// All tensors, read whole and by rows in both modes of loading.
fn read(path: &Path) -> Weights {
    let read = |c: &Checkpoint| -> Weights {
        c.tensors()
            .map(|t| {
                let source = c.get(t.name).unwrap();
                assert_eq!((source.shape(), source.dtype(), source.label()), (t.shape, t.dtype, t.name));
                let all = read_all(source.as_ref()).unwrap();
                for start in 0..source.rows() {
                    let end = source.rows().min(start + 3);
                    let mut rows = vec![0; (end - start) * source.row_bytes()];
                    source.read_rows(start..end, &mut rows).unwrap();
                    assert_eq!(rows, all[start * source.row_bytes()..end * source.row_bytes()], "{}", t.name);
                }
                let elements = all.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
                (t.name.to_owned(), Part { shape: t.shape.to_vec(), elements })
            })
            .collect()
    };
    let whole = read(&Checkpoint::open(path).unwrap());
    assert_eq!(whole, read(&open_file_mode(path).unwrap()));
    whole
}

#[test]
fn shards_of_meta_are_merged() {
    for (n, embedding) in [(1, 0), (2, 1), (2, 0), (4, 1), (4, 0)] {
        let dir = folder(n, embedding);
        assert_eq!(read(dir.path()), meta(), "{n} shards, axis {embedding}");
        // Any of the files means all of them.
        assert_eq!(read(&nth(&dir, n - 1)), meta());
        assert_eq!(read(&dir.path().join("params.json")), meta());
        let c = Checkpoint::open(dir.path()).unwrap();
        assert_eq!((c.kind(), c.files().len()), (CheckpointKind::PyTorch, n));
        let Description::Meta { params: Some(params) } = c.description() else { panic!("{:?}", c.description()) };
        assert_eq!(params["dim"], 8);
        assert!(c.warnings().is_empty());
        assert_eq!(c.total_bytes(), 2 * c.num_parameters());
    }
}

#[test]
fn missing_shards_are_named() {
    let dir = folder(4, 1);
    fs::remove_file(nth(&dir, 1)).unwrap();
    refused(dir.path(), &["consolidated.01.pth"]);
    // Only the sizes tell that there was another after the last.
    let dir = folder(4, 1);
    fs::remove_file(nth(&dir, 3)).unwrap();
    refused(
        dir.path(),
        &[
            "the weights are split over 4 shards, as `layers.0.attention.wq.weight` with its 2 of 8 rows tells, and there \
         are 3: consolidated.03.pth missing",
        ],
    );
    let dir = folder(2, 0);
    fs::remove_file(nth(&dir, 1)).unwrap();
    refused(dir.path(), &["split over 2 shards", "and there are 1: consolidated.01.pth missing"]);
    refused(&nth(&dir, 0), &["consolidated.01.pth missing"]);
}

#[test]
fn shards_that_do_not_fit_are_refused() {
    let change = |change: &dyn Fn(&mut Weights)| {
        let dir = folder(2, 1);
        let mut last = shard(&meta(), 1, 2, 1);
        change(&mut last);
        write(&nth(&dir, 1), &last);
        dir
    };
    let dir = change(&|w| w.get_mut("norm.weight").unwrap().elements[7] += 1);
    refused(dir.path(), &["consolidated.01.pth: tensor `norm.weight`", "must be the same in every shard"]);
    let dir = change(&|w| drop(w.remove("layers.0.feed_forward.w2.weight")));
    refused(dir.path(), &["consolidated.01.pth: tensor `layers.0.feed_forward.w2.weight`", "is missing here, and "]);
    let dir = change(&|w| drop(w.insert("layers.0.extra.weight".into(), Part::new(&[2], 0))));
    refused(dir.path(), &["consolidated.01.pth: tensor `layers.0.extra.weight`", "does not have it"]);
    let dir = change(&|w| drop(w.insert("layers.0.attention.wo.weight".into(), Part::new(&[8, 2], 0))));
    refused(dir.path(), &["is bf16 [8, 2], and in the first shard bf16 [8, 4]"]);
    let dir = folder(2, 1);
    write_as(&nth(&dir, 1), &shard(&meta(), 1, 2, 1), "HalfStorage");
    refused(dir.path(), &["is f16 [", "and in the first shard bf16 ["]);

    // What nothing is known about cannot be merged, and stays as it is where there is one shard.
    let mut odd = meta();
    odd.insert("vision.proj.weight".into(), Part::new(&[4, 4], 0));
    let dir = folder(2, 1);
    (0..2).for_each(|i| write(&nth(&dir, i), &shard(&odd, i, 2, 1)));
    refused(
        dir.path(),
        &["consolidated.00.pth: tensor `vision.proj.weight`", "nothing says how this weight is divided"],
    );
    let dir = folder(1, 1);
    write(&nth(&dir, 0), &odd);
    assert_eq!(read(dir.path()), odd);
    // The width of the embedding comes from the norm.
    let dir = folder(2, 1);
    for i in 0..2 {
        let mut part = shard(&meta(), i, 2, 1);
        part.remove("norm.weight");
        write(&nth(&dir, i), &part);
    }
    refused(dir.path(), &["tensor `tok_embeddings.weight`", "cannot be merged without `norm.weight`"]);
}

#[test]
fn params_are_checked_as_json() {
    let dir = folder(1, 0);
    fs::write(dir.path().join("params.json"), "[1]").unwrap();
    refused(dir.path(), &["params.json: invalid JSON: an object is needed"]);
    fs::remove_file(dir.path().join("params.json")).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.description(), &Description::Meta { params: None });
}

#[test]
fn safetensors_with_metas_names() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("params.json"), PARAMS).unwrap();
    let weights = meta();
    let specs: Vec<TensorSpec> = weights.iter().map(|(n, p)| TensorSpec::new(n, DType::BF16, &p.shape)).collect();
    let path = dir.path().join("consolidated.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &specs, &[]).unwrap();
    for part in weights.values() {
        writer.write(&part.elements.iter().flat_map(|e| e.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();
    assert_eq!(read(dir.path()), weights);
    let c = Checkpoint::open(dir.path()).unwrap();
    assert!(matches!(c.description(), Description::Meta { params: Some(_) }), "{:?}", c.description());
}

fn hugging_face() -> Weights {
    [("model.embed_tokens.weight", &[6, 4][..]), ("model.norm.weight", &[4]), ("lm_head.weight", &[6, 4])]
        .iter()
        .zip(0u16..)
        .map(|((name, shape), i)| ((*name).to_owned(), Part::new(shape, i * 100)))
        .collect()
}

#[test]
fn folders_of_hugging_face() {
    let dir = tempdir().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"model_type": "llama"}"#).unwrap();
    write(&dir.path().join("pytorch_model.bin"), &hugging_face());
    // Beside the weights of a training run lie others.
    write(&dir.path().join("optimizer.pt"), &meta());
    assert_eq!(read(dir.path()), hugging_face());
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!((c.kind(), c.config_json().unwrap()["model_type"].as_str()), (CheckpointKind::PyTorch, Some("llama")));

    let dir = tempdir().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    let names = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
    let half = |i: usize| -> Weights {
        hugging_face().into_iter().enumerate().filter(|(k, _)| k % 2 == i).map(|(_, w)| w).collect()
    };
    let map: serde_json::Map<String, serde_json::Value> =
        hugging_face().keys().enumerate().map(|(k, n)| (n.clone(), names[k % 2].into())).collect();
    let index = serde_json::json!({"metadata": {}, "weight_map": map});
    fs::write(dir.path().join("pytorch_model.bin.index.json"), index.to_string()).unwrap();
    (0..2).for_each(|i| write(&dir.path().join(names[i]), &half(i)));
    assert_eq!(read(dir.path()), hugging_face());
    assert_eq!(read(&dir.path().join(names[0])), hugging_face());
    assert_eq!(read(&dir.path().join("pytorch_model.bin.index.json")), hugging_face());
    // A tensor in both.
    write(&dir.path().join(names[1]), &hugging_face());
    refused(dir.path(), &["tensor `lm_head.weight`: is listed twice"]);
    fs::remove_file(dir.path().join(names[1])).unwrap();
    refused(dir.path(), &[names[1]]);
}

#[test]
fn pickles_are_never_executed() {
    let fixtures: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "pytorch"].iter().collect();
    let dir = tempdir().unwrap();
    let place = |name: &str| {
        let to = dir.path().join(name);
        fs::copy(fixtures.join(name), &to).unwrap();
        to
    };
    refused(
        &place("evil.pth"),
        &["evil.pth: the pickle asks for `posix.system`", "nothing in a pickle is executed here"],
    );
    refused(
        &place("legacy.pth"),
        &["legacy.pth: is a bare pickle", "torch.save(torch.load(old, weights_only=True), new)"],
    );
    refused(&place("bare.pkl"), &["bare.pkl: is a bare pickle"]);
    assert!(!Path::new("pwned").exists());
    let c = Checkpoint::open(place("training.pth")).unwrap();
    assert_eq!(c.tensors().map(|t| t.name.to_owned()).collect::<Vec<_>>(), ["bias", "weight"]);
    assert!(c.warnings()[0].ends_with("training.pth: the weights are those under `model`; left out: optimizer"));
}

#[test]
fn truncated_archives_are_refused() {
    let dir = folder(1, 0);
    let bytes = fs::read(nth(&dir, 0)).unwrap();
    for cut in (4..bytes.len()).step_by(97) {
        fs::write(nth(&dir, 0), &bytes[..cut]).unwrap();
        refused(dir.path(), &["consolidated.00.pth: invalid PyTorch checkpoint (zip): the file is cut short"]);
    }
}
