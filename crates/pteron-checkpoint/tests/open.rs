//! Opening checkpoints of every shape, and every way in which that fails.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use pteron_checkpoint::{Checkpoint, CheckpointError, CheckpointKind, TensorSpec};
use pteron_tensor::{DType, read_all};
use tempfile::tempdir;

#[track_caller]
fn holds(path: &Path, specs: &[TensorSpec]) {
    let mut names: Vec<&str> = specs.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    for checkpoint in [Checkpoint::open(path).unwrap(), open_file_mode(path).unwrap()] {
        assert_eq!(checkpoint.tensors().map(|t| t.name).collect::<Vec<_>>(), names);
        for spec in specs {
            let source = checkpoint.get(&spec.name).unwrap();
            assert_eq!((source.label(), source.dtype()), (spec.name.as_str(), spec.dtype));
            assert_eq!(source.shape(), spec.shape.as_slice());
            assert_eq!(&*read_all(source.as_ref()).unwrap(), bytes_of(spec).as_slice(), "{}", spec.name);
        }
    }
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    fs::write(path, change(text)).unwrap();
}

#[test]
fn a_folder_with_one_file() {
    let dir = tempdir().unwrap();
    let (folder, specs) = (dir.path(), llama());
    single(folder, &specs);
    // The folder, its weights and its side files all mean the same.
    for name in ["", "model.safetensors", "config.json"] {
        holds(&folder.join(name), &specs);
    }
    let c = Checkpoint::open(folder).unwrap();
    assert_eq!(c.kind(), CheckpointKind::HuggingFace);
    assert_eq!(c.config_json().unwrap()["hidden_size"], 8);
    let elements: usize = specs.iter().map(|s| s.shape.iter().product::<usize>()).sum();
    assert_eq!(c.num_parameters(), elements as u64);
    assert_eq!(c.total_bytes(), specs.iter().map(|s| bytes_of(s).len() as u64).sum::<u64>());
    assert!(c.warnings().is_empty());
    assert_eq!(c.generation_config().unwrap(), None);
    assert_eq!(c.info("model.norm.weight").unwrap().file, folder.join("model.safetensors"));
}

#[test]
fn a_folder_with_shards() {
    let dir = tempdir().unwrap();
    let (folder, specs) = (dir.path(), llama());
    sharded(folder, &specs);
    for name in ["", INDEX, SHARDS[0], SHARDS[2], "config.json"] {
        holds(&folder.join(name), &specs);
    }
    let c = Checkpoint::open(folder).unwrap();
    assert_eq!(c.files().len(), 3);
    assert_eq!(c.info(&specs[1].name).unwrap().file, folder.join(SHARDS[1]));
    assert!(c.warnings().is_empty());
}

#[test]
fn a_file_by_itself() {
    let dir = tempdir().unwrap();
    let (path, specs) = (dir.path().join("weights.bin"), llama());
    write(&path, &specs);
    holds(&path, &specs);
    let c = Checkpoint::open(&path).unwrap();
    assert_eq!(c.kind(), CheckpointKind::SafetensorsFile);
    let e = c.config_json().unwrap_err();
    assert!(matches!(e, CheckpointError::MissingConfig { .. }));
    assert!(e.to_string().contains("there is no config.json"), "{e}");
    // In a folder of its own it is found under any name with the format's ending.
    fs::rename(&path, dir.path().join("weights.safetensors")).unwrap();
    holds(dir.path(), &specs);
}

#[test]
fn bytes_in_memory() {
    let dir = tempdir().unwrap();
    let (path, specs) = (dir.path().join("w"), llama());
    write(&path, &specs);
    let bytes = std::sync::Arc::new(pteron_checkpoint::MemoryBytes::new(fs::read(&path).unwrap()));
    let c = Checkpoint::from_bytes("bundled", bytes, Some(serde_json::json!({"a": 1}))).unwrap();
    assert_eq!(c.tensors().len(), specs.len());
    assert_eq!(c.get("model.norm.weight").unwrap().as_slice().unwrap(), bytes_of(&specs[1]));
    assert_eq!(c.config_json().unwrap()["a"], 1);
    assert_eq!(c.tokenizer_files(), Default::default());
}

#[cfg(unix)]
#[test]
fn the_hubs_cache_is_a_folder_of_links() {
    let dir = tempdir().unwrap();
    let repo = dir.path().join("models--org--name");
    let (blobs, snapshot) = (repo.join("blobs"), repo.join("snapshots").join("abc123"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    let specs = llama();
    sharded(&blobs, &specs);
    for name in [INDEX, "config.json", SHARDS[0], SHARDS[1], SHARDS[2]] {
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).unwrap();
    }
    holds(&snapshot, &specs);
    holds(&repo, &specs);
    fs::create_dir(repo.join("snapshots").join("older")).unwrap();
    refused(&repo, &["holds 2 snapshots and no refs/main", "point at one"]);
    fs::create_dir(repo.join("refs")).unwrap();
    fs::write(repo.join("refs").join("main"), "abc123\n").unwrap();
    holds(&repo, &specs);
    fs::write(repo.join("refs").join("main"), "../../elsewhere").unwrap();
    refused(&repo, &["refs/main names a snapshot that is not there"]);
}

#[test]
fn zero_copy_when_mapped_and_hints_change_nothing() {
    let dir = tempdir().unwrap();
    let specs = llama();
    single(dir.path(), &specs);
    let mapped = Checkpoint::open(dir.path()).unwrap();
    let source = mapped.get("model.embed_tokens.weight").unwrap();
    mapped.will_read("model.embed_tokens.weight");
    let slice = source.as_slice().unwrap();
    assert_eq!(slice, bytes_of(&specs[0]));
    mapped.release("model.embed_tokens.weight");
    assert_eq!(slice, bytes_of(&specs[0]));
    mapped.release("no such tensor");
    assert!(open_file_mode(dir.path()).unwrap().get("model.embed_tokens.weight").unwrap().as_slice().is_none());
    // The source outlives the checkpoint.
    drop(mapped);
    let mut rows = [0; 32];
    source.read_rows(3..5, &mut rows).unwrap();
    assert_eq!(rows, bytes_of(&specs[0])[48..80]);
}

#[test]
fn an_unknown_name_gets_a_suggestion() {
    let dir = tempdir().unwrap();
    single(dir.path(), &llama());
    let c = Checkpoint::open(dir.path()).unwrap();
    let e = c.get("embed_tokens.weight").unwrap_err().to_string();
    assert!(e.contains("no tensor `embed_tokens.weight`; did you mean `model.embed_tokens.weight`?"), "{e}");
}

#[test]
fn paths_that_mean_nothing() {
    let dir = tempdir().unwrap();
    refused(&dir.path().join("absent"), &["absent: there is no such file or folder"]);
    refused(dir.path(), &["the folder holds no weights", "expected safetensors"]);
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(dir.path().join("notes.txt"), "hello").unwrap();
    refused(dir.path(), &["the folder holds no weights"]);
    refused(&dir.path().join("notes.txt"), &["notes.txt: is no safetensors file"]);
    refused(&dir.path().join("config.json"), &["the folder holds no weights"]);
}

#[test]
fn other_kinds_are_named() {
    let dir = tempdir().unwrap();
    for (name, bytes, says) in [
        ("a.gguf", &b"GGUF\x03\0\0\0"[..], "invalid GGUF file: it ends within its header"),
        ("consolidated.00.pth", b"PK\x03\x04....", ""),
        ("old.pt", b"\x80\x02\x8a\x0a", "bare pickle"),
        ("stories.bin", b"24ka\x01\0\0\0", ""),
        ("m.pte", b"\x20\0\0\0ET12", "ExecuTorch program"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        refused(&path, &[name, says]);
        refused(dir.path(), &[&dir.path().display().to_string(), name, says]);
        fs::remove_file(&path).unwrap();
    }
    fs::write(dir.path().join("model.safetensors"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        .unwrap();
    refused(dir.path(), &["model.safetensors: is a Git LFS pointer"]);
    fs::write(dir.path().join("model.safetensors"), "").unwrap();
    refused(dir.path(), &["model.safetensors: is empty"]);
}

#[test]
fn files_that_belong_together_in_no_known_way() {
    let dir = tempdir().unwrap();
    let specs = llama();
    sharded(dir.path(), &specs);
    fs::remove_file(dir.path().join(INDEX)).unwrap();
    refused(dir.path(), &["3 safetensors files", SHARDS[0], SHARDS[2], "no model.safetensors.index.json"]);
    refused(&dir.path().join(SHARDS[1]), &[SHARDS[1], "is shard 2 of 3"]);
    fs::remove_file(dir.path().join(SHARDS[0])).unwrap();
    fs::remove_file(dir.path().join(SHARDS[2])).unwrap();
    refused(dir.path(), &["is shard 2 of 3"]);
}

#[test]
fn the_index_must_agree_with_the_folder() {
    let dir = tempdir().unwrap();
    let (folder, specs) = (dir.path(), llama());
    let index = folder.join(INDEX);
    let anew = || sharded(folder, &specs);

    anew();
    fs::remove_file(folder.join(SHARDS[1])).unwrap();
    refused(folder, &[INDEX, "names 1 shard(s) that are not in the folder", SHARDS[1]]);

    for name in ["../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""] {
        anew();
        edit(&index, |t| t.replacen(SHARDS[0], name, 1));
        refused(folder, &[INDEX, "a shard must be a plain file name", name]);
    }

    anew();
    edit(&index, |t| t.replace("model.norm.weight", "model.norm.scale"));
    refused(folder, &[INDEX, "places tensor `model.norm.scale`", SHARDS[1], "which does not have it"]);

    anew();
    edit(&index, |t| t.replacen("\"model.norm.weight\":", "\"model.embed_tokens.weight\":", 1));
    refused(folder, &[INDEX, "tensor `model.embed_tokens.weight`", "listed twice"]);

    anew();
    edit(&index, |t| t[..t.len() / 2].to_owned());
    refused(folder, &[INDEX, "invalid JSON", "line 1 column"]);

    anew();
    fs::write(&index, r#"{"weight_map": {"a": 1}}"#).unwrap();
    refused(folder, &[INDEX, "invalid JSON", "string"]);
    fs::write(&index, "{}").unwrap();
    refused(folder, &[INDEX, "weight_map"]);
    fs::write(&index, "[".repeat(5000)).unwrap();
    refused(folder, &[INDEX, "levels deep"]);
}

#[test]
fn tensors_beside_the_index_are_told() {
    let dir = tempdir().unwrap();
    let (folder, specs) = (dir.path(), llama());
    let index = folder.join(INDEX);
    sharded(folder, &specs);
    edit(&index, |t| t.replacen(&format!("\"model.norm.weight\":\"{}\",", SHARDS[1]), "", 1));
    holds(folder, &specs);
    let c = Checkpoint::open(folder).unwrap();
    assert!(c.warnings()[0].contains("does not list 1 tensor(s): model.norm.weight"), "{:?}", c.warnings());

    // A second copy: the index says which one counts; without the index nobody can.
    sharded(folder, &specs);
    let norm = TensorSpec::new("model.norm.weight", DType::F32, &[3]);
    write(&folder.join("extra.safetensors"), &[norm, TensorSpec::new("extra", DType::I64, &[1])]);
    edit(&index, |t| t.replacen("\"weight_map\":{", "\"weight_map\":{\"extra\":\"extra.safetensors\",", 1));
    let c = Checkpoint::open(folder).unwrap();
    assert_eq!(c.info("model.norm.weight").unwrap().shape, [8]);
    assert!(c.warnings()[0].contains("in another shard"), "{:?}", c.warnings());
    edit(&index, |t| t.replacen(&format!("\"model.norm.weight\":\"{}\",", SHARDS[1]), "", 1));
    refused(folder, &["`model.norm.weight`", "lies in both `extra.safetensors` and", SHARDS[1]]);
}

#[test]
fn one_file_goes_before_an_index() {
    let dir = tempdir().unwrap();
    let specs = llama();
    sharded(dir.path(), &specs);
    single(dir.path(), &specs[..3]);
    holds(dir.path(), &specs[..3]);
    assert!(Checkpoint::open(dir.path()).unwrap().warnings()[0].contains("ignored"));
}

#[test]
fn broken_weights_name_file_and_tensor() {
    let dir = tempdir().unwrap();
    let folder = single(dir.path(), &llama());
    let path = folder.join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    refused(&folder, &["model.safetensors: tensor `", "cut short"]);
    for cut in 1..200 {
        fs::write(&path, &whole[..cut]).unwrap();
        refused(&folder, &["model.safetensors: "]);
    }
    let mut huge = whole.clone();
    huge[..8].copy_from_slice(&(1u64 << 62).to_le_bytes());
    fs::write(&path, &huge).unwrap();
    refused(&folder, &["model.safetensors: ", "declared to have 4611686018427387904 bytes"]);
    let at = whole.windows(6).position(|w| w == b"\"BF16\"").unwrap();
    let mut odd = whole.clone();
    odd[at..at + 6].copy_from_slice(b"\"Q8_0\"");
    fs::write(&path, &odd).unwrap();
    refused(&folder, &["model.safetensors: tensor `model.", "has dtype `Q8_0`, which is not supported"]);
}

#[test]
fn config_json_is_checked() {
    let dir = tempdir().unwrap();
    let folder = single(dir.path(), &llama());
    let config = folder.join("config.json");
    fs::write(&config, "{\n  \"a\": 1,\n}").unwrap();
    refused(&folder, &["config.json: invalid JSON", "line 3 column 1"]);
    fs::write(&config, format!("{{\"a\": {}", "[".repeat(100_000))).unwrap();
    refused(&folder, &["config.json: invalid JSON: nested more than 64 levels deep at line 1 column 70"]);
    fs::write(&config, "[1]").unwrap();
    refused(&folder, &["config.json", "an object is needed, found a list of 1"]);
    fs::write(&config, vec![b' '; (1 << 20) + 1]).unwrap();
    refused(&folder, &["config.json", "1048577, more than the limit of 1048576"]);
    fs::remove_file(&config).unwrap();
    let e = Checkpoint::open(&folder).unwrap().config_json().unwrap_err().to_string();
    assert!(e.contains("there is no config.json, so nothing says which model"), "{e}");
    fs::create_dir(&config).unwrap();
    refused(&folder, &["config.json: is not a regular file"]);
}

#[test]
fn side_files_are_found() {
    let dir = tempdir().unwrap();
    let folder = single(dir.path(), &llama());
    fs::write(folder.join("generation_config.json"), r#"{"bos_token_id": 1, "eos_token_id": [2, 7]}"#).unwrap();
    for name in ["tokenizer.json", "chat_template.jinja"] {
        fs::write(folder.join(name), name).unwrap();
    }
    let c = Checkpoint::open(&folder).unwrap();
    assert_eq!(c.generation_config().unwrap().unwrap().eos_token_ids, [2, 7]);
    let files = c.tokenizer_files();
    assert_eq!(files.tokenizer_json.as_deref(), Some(folder.join("tokenizer.json").as_path()));
    assert_eq!(files.tokenizer_model, None);
    assert_eq!(files.read(&files.tokenizer_json).unwrap().unwrap(), b"tokenizer.json");
    assert_eq!(files.read(&files.tokenizer_config).unwrap(), None);
    fs::write(folder.join("chat_template.jinja"), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(files.read(&files.chat_template_jinja), Err(CheckpointError::TooLarge { .. })));
    fs::write(folder.join("generation_config.json"), r#"{"eos_token_id": "x"}"#).unwrap();
    let e = c.generation_config().unwrap_err().to_string();
    assert!(e.contains("generation_config.json: field `eos_token_id`"), "{e}");
}

/// Ten GiB that take no room on the disk open at once, and only what is asked for is read.
#[test]
fn a_large_checkpoint_opens_lazily() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let rows = 10usize << 20;
    let header = format!(r#"{{"w":{{"dtype":"F16","shape":[{rows},512],"data_offsets":[0,{}]}}}}"#, rows << 10);
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.extend(header.as_bytes());
    fs::write(&path, &start).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_len(start.len() as u64 + ((rows as u64) << 10)).unwrap();
    for c in [Checkpoint::open(dir.path()).unwrap(), open_file_mode(dir.path()).unwrap()] {
        assert_eq!(c.total_bytes(), 10 << 30);
        let source = c.get("w").unwrap();
        let mut row = [1; 1024];
        source.read_rows(rows - 1..rows, &mut row).unwrap();
        assert_eq!(row, [0; 1024]);
        assert!(source.read_rows(rows..rows + 1, &mut row).is_err());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn devices_and_pipes_are_refused_without_waiting() {
    let dir = tempdir().unwrap();
    single(dir.path(), &llama());
    fs::remove_file(dir.path().join("config.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir.path().join("config.json")).unwrap();
    refused(dir.path(), &["config.json: is not a regular file"]);
    refused(Path::new("/dev/zero"), &["/dev/zero: is not a regular file"]);
}
