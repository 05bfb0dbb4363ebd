//! Headers and indices changed by the mutator: an error, or a checkpoint that the `safetensors` crate accepts as well and
//! whose every tensor can be read.

mod common;
mod drive;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};

use common::*;
use pteron_checkpoint::{Checkpoint, GenerationConfigFile, MemoryBytes};
use pteron_tensor::read_all;
use pteron_testkit::hostile::{self, Counting, Field, Kind, Seed, walk};
use tempfile::{TempDir, tempdir};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The header's length, made right for a header that has grown or shrunk.
fn repair_header(seed: &[u8], bytes: &mut [u8]) {
    let Some(old) = seed.first_chunk::<8>().map(|n| u64::from_le_bytes(*n)) else { return };
    let new = (old + bytes.len() as u64).saturating_sub(seed.len() as u64);
    for (to, from) in bytes.iter_mut().zip(new.to_le_bytes()) {
        *to = from;
    }
}

fn safetensors(count: usize) -> Seed {
    let dir = tempdir().unwrap();
    let path = dir.path().join("seed.safetensors");
    write(&path, &llama()[..count]);
    let bytes = fs::read(&path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut fields = walk::json(&bytes, 8..end);
    fields.push(Field::new("header length", 0, 8, Kind::Int));
    Seed::new(format!("{count} tensors"), bytes, fields, end).repaired(repair_header)
}

/// What is accepted here is accepted by the reference, and reads the same.
fn like_the_reference(file: &[u8]) -> Result<(), String> {
    let bytes = Arc::new(MemoryBytes::new(file.to_vec()));
    let c = Checkpoint::from_bytes("mutant", bytes, None).map_err(|e| e.to_string())?;
    let theirs =
        safetensors::SafeTensors::deserialize(file).unwrap_or_else(|e| panic!("refused by the reference: {e}"));
    assert_eq!(c.tensors().len(), theirs.len());
    for t in c.tensors() {
        let all = read_all(c.get(t.name).unwrap().as_ref()).unwrap();
        assert_eq!(&*all, theirs.tensor(t.name).unwrap().data());
    }
    Ok(())
}

#[test]
fn headers() {
    let seeds = vec![safetensors(10), safetensors(6), safetensors(3), safetensors(1)];
    let tally = hostile::mutants("safetensors", seeds, like_the_reference);
    // Changes inside names leave valid files; most others do not.
    assert!(tally.accepted > 50 && tally.refused > 1000, "{tally:?}");
}

#[test]
fn every_truncation_of_a_file() {
    let seed = safetensors(3);
    hostile::truncations("safetensors", &Seed { header: seed.bytes.len(), ..seed }, |_| false, drive::checkpoint);
}

#[test]
fn every_bit_of_a_header() {
    hostile::bit_flips("safetensors", &safetensors(2), like_the_reference);
}

/// A checkpoint in shards, of which one file is replaced by each mutant.
struct Sharded {
    _dir: TempDir,
    folder: PathBuf,
}

fn sharded_folder() -> &'static Mutex<Sharded> {
    static FOLDER: OnceLock<Mutex<Sharded>> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let dir = tempdir().unwrap();
        let folder = sharded(dir.path(), &llama());
        Mutex::new(Sharded { _dir: dir, folder })
    })
}

/// Opens the shards with `bytes` in the place of the file `name`.
fn opened_with(name: &str, bytes: &[u8]) -> Result<(), String> {
    let s = sharded_folder().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = s.folder.join(name);
    let kept = fs::read(&path).unwrap();
    fs::write(&path, bytes).unwrap();
    let opened = if bytes.len().is_multiple_of(2) { Checkpoint::open(&s.folder) } else { open_file_mode(&s.folder) };
    let result = match opened {
        Ok(c) => {
            drive::read_all_tensors(&c);
            Ok(())
        }
        Err(e) => {
            let e = e.to_string();
            assert!(e.starts_with(&s.folder.display().to_string()), "{e}");
            Err(e)
        }
    };
    fs::write(&path, kept).unwrap();
    result
}

fn text_seed(name: &str, text: &str) -> Seed {
    let bytes = text.as_bytes().to_vec();
    let fields = walk::json(&bytes, 0..bytes.len());
    let len = bytes.len();
    Seed::new(name, bytes, fields, len)
}

#[test]
fn indices() {
    let text = fs::read_to_string(sharded_folder().lock().unwrap().folder.join(INDEX)).unwrap();
    let tally = hostile::mutants("index", vec![text_seed(INDEX, &text)], |b| opened_with(INDEX, b));
    assert!(tally.accepted > 20 && tally.refused > 500, "{tally:?}");
}

#[test]
fn configs() {
    let text = fs::read_to_string(sharded_folder().lock().unwrap().folder.join("config.json")).unwrap();
    hostile::mutants("config.json", vec![text_seed("config.json", &text)], |b| opened_with("config.json", b));
}

#[test]
fn generation_configs() {
    let seeds = [
        r#"{"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 50}"#,
        r#"{"eos_token_id": 2, "transformers_version": "4.46.1", "suppress_tokens": null}"#,
    ];
    let seeds = seeds.iter().enumerate().map(|(i, t)| text_seed(&format!("generation_config {i}"), t)).collect();
    let drive = |bytes: &[u8]| {
        let dir = tempdir().unwrap();
        let path = dir.path().join("generation_config.json");
        fs::write(&path, bytes).unwrap();
        GenerationConfigFile::read(&path).map(drop).map_err(|e| e.to_string())
    };
    let tally = hostile::mutants("generation_config", seeds, drive);
    assert!(tally.accepted > 100 && tally.refused > 200, "{tally:?}");
}
