//! GGUF files: what ggml's own tools wrote, and every way in which a file can be wrong.

mod common;

use std::path::Path;
use std::sync::Arc;

use pteron_checkpoint::gguf::GgmlType;
use pteron_checkpoint::{
    Checkpoint, CheckpointError, CheckpointKind, Description, Encoding, LoadMode, MemoryBytes, OpenOptions,
};
use pteron_tensor::{DType, read_all};
use pteron_testkit::gguf::{Field, GgufFile};

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf").join(name)
}

#[test]
fn blocks_are_decoded_as_ggml_decodes_them() {
    let expected = std::fs::read(fixture("blocks.f32")).unwrap();
    for load in [LoadMode::Mmap, LoadMode::File] {
        let c = Checkpoint::open_with(fixture("blocks.gguf"), &OpenOptions { load }).unwrap();
        assert_eq!(c.kind(), CheckpointKind::Gguf);
        // In the order of the file, which is that of the expected values.
        let mut tensors: Vec<_> = c.tensors().collect();
        let order = |t: &str| {
            let names = std::fs::read_to_string(fixture("make_blocks.py")).unwrap();
            names.find(&format!("\"{}\"", t.trim_end_matches(".weight"))).unwrap()
        };
        tensors.sort_by_key(|t| order(t.name));
        assert!(tensors.len() >= 21);
        let mut at = 0;
        for t in tensors {
            let Encoding::Ggml(ty) = t.encoding else { panic!("{}", t.name) };
            assert_eq!((t.dtype, t.shape), (DType::F32, &[2, 512][..]));
            assert_eq!(t.name, format!("{}.weight", ty.name()));
            let expected = &expected[at..at + 4096];
            at += 4096;
            let blocks = c.blocks(t.name).unwrap().unwrap();
            assert_eq!((blocks.ty(), blocks.rows()), (ty, 2));
            assert_eq!(blocks.row_bytes() as u64 * 2, t.bytes);
            let mut codes = vec![0; blocks.row_bytes()];
            blocks.read_rows(1..2, &mut codes).unwrap();
            if let Some(all) = blocks.as_slice() {
                assert_eq!(all[blocks.row_bytes()..], codes);
            }
            let source = c.get(t.name).unwrap();
            let found = read_all(source.as_ref()).unwrap();
            let differing = found.chunks(4).zip(expected.chunks(4)).filter(|(a, b)| a != b).count();
            assert_eq!(differing, 0, "{}: first {:?} {:?}", t.name, &found[..4], &expected[..4]);
            let mut second = vec![0; 2048];
            source.read_rows(1..2, &mut second).unwrap();
            assert_eq!(second, expected[2048..]);
        }
        assert_eq!(at, expected.len());
    }
}

/// Codes times scales are what ggml decodes, bit for bit, for every type that has them.
#[test]
fn blocks_are_taken_over_as_codes() {
    let c = Checkpoint::open(fixture("blocks.gguf")).unwrap();
    let mut taken = Vec::new();
    for t in c.tensors() {
        let Encoding::Ggml(ty) = t.encoding else { panic!("{}", t.name) };
        let blocks = c.blocks(t.name).unwrap().unwrap();
        match blocks.codes() {
            Ok(codes) => {
                taken.push((ty, codes.bits(), codes.group()));
                let half = 1i16 << (codes.bits() - 1);
                let all = read_all(codes.codes().as_ref()).unwrap();
                let within = |&b: &u8| (-half..half).contains(&i16::from(b.cast_signed()));
                assert!(all.iter().all(within), "{ty}");
                let decoded = read_all(c.get(t.name).unwrap().as_ref()).unwrap();
                assert!(read_all(codes.dequantized().as_ref()).unwrap()[..] == decoded[..], "{ty}");
            }
            Err(why) => assert!(why.contains(&format!("stored as {ty}")), "{why}"),
        }
    }
    taken.sort_by_key(|t| t.0.id());
    use GgmlType as T;
    let expected = [
        (T::Q4_0, 4, 32),
        (T::Q5_0, 8, 32),
        (T::Q8_0, 8, 32),
        (T::Q3_K, 4, 16),
        (T::Q6_K, 8, 16),
        (T::IQ4_NL, 8, 32),
        (T::IQ4_XS, 8, 32),
        (T::TQ1_0, 2, 256),
        (T::TQ2_0, 4, 256),
        (T::MXFP4, 8, 32),
        (T::NVFP4, 8, 16),
        (T::Q1_0, 2, 128),
    ];
    assert_eq!(taken, expected);
    // A vector is no matrix.
    let c = open(changed(|f| {
        f.tensor("v", GgmlType::Q8_0.id(), &[64], vec![0; 68]);
    }))
    .unwrap();
    let why = c.blocks("v").unwrap().unwrap().codes().unwrap_err();
    assert!(why.contains("the shape [64]"), "{why}");
}

/// A small file: two tensors and a vocabulary.
fn small() -> GgufFile {
    let mut f = GgufFile::default();
    let texts = |all: &[&str]| Field::Texts(all.iter().map(|s| (*s).to_owned()).collect());
    f.set("general.architecture", Field::Text("llama".into()));
    f.set("llama.block_count", Field::U32(1));
    f.set("tokenizer.ggml.model", Field::Text("gpt2".into()));
    f.set("tokenizer.ggml.pre", Field::Text("smollm".into()));
    f.set("tokenizer.ggml.tokens", texts(&["<s>", "</s>", "a", "b", "ab"]));
    f.set("tokenizer.ggml.scores", Field::F32s(vec![0.0, 0.0, -1.0, -2.0, -3.0]));
    f.set("tokenizer.ggml.token_type", Field::I32s(vec![3, 3, 1, 1, 1]));
    f.set("tokenizer.ggml.merges", texts(&["a b"]));
    f.set("tokenizer.ggml.bos_token_id", Field::U32(0));
    f.set("tokenizer.ggml.eos_token_id", Field::U32(1));
    f.set("tokenizer.ggml.add_bos_token", Field::Bool(true));
    f.set("tokenizer.ggml.precompiled_charsmap", Field::Bytes(vec![1, 2, 3]));
    f.set("tokenizer.chat_template", Field::Text("{{ messages }}".into()));
    f.f32("norm.weight", &[3], &[1.0, 2.0, 3.0]);
    f.tensor("codes.weight", GgmlType::Q8_0.id(), &[2, 64], (0..136).map(|i| i as u8).collect());
    f
}

fn open(bytes: Vec<u8>) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_bytes("m.gguf", Arc::new(MemoryBytes::new(bytes)), None)
}

#[track_caller]
fn refused(bytes: Vec<u8>, parts: &[&str]) {
    let e = open(bytes).unwrap_err().to_string();
    assert!(e.starts_with("m.gguf: "), "{e}");
    for part in parts {
        assert!(e.contains(part), "`{part}` is not in: {e}");
    }
}

/// The small file with one change.
fn changed(change: impl FnOnce(&mut GgufFile)) -> Vec<u8> {
    let mut f = small();
    change(&mut f);
    f.bytes()
}

#[test]
fn metadata_vocabulary_and_tensors() {
    let c = open(small().bytes()).unwrap();
    let Description::Gguf(metadata) = c.description() else { panic!() };
    assert_eq!((metadata.version(), metadata.text("general.architecture").unwrap()), (3, Some("llama")));
    assert_eq!(metadata.u32("llama.block_count").unwrap(), Some(1));
    assert!(metadata.text("llama.block_count").unwrap_err().to_string().contains("must be text, found 1"));
    let v = c.gguf_vocabulary().unwrap().unwrap();
    assert_eq!((v.model.as_str(), v.pre.as_deref()), ("gpt2", Some("smollm")));
    assert_eq!((v.tokens.len(), v.scores[3], v.token_types[0]), (5, -2.0, 3));
    assert_eq!((&v.merges[..], v.bos, v.eos, v.unk), (&["a b".to_owned()][..], Some(0), Some(1), None));
    assert_eq!((v.add_bos, v.add_eos), (Some(true), None));
    assert_eq!(v.precompiled_charsmap.as_deref(), Some(&[1, 2, 3][..]));
    assert_eq!(v.chat_template.as_deref(), Some("{{ messages }}"));

    let norm = c.info("norm.weight").unwrap();
    assert_eq!((norm.encoding, norm.shape), (Encoding::Plain(DType::F32), &[3][..]));
    assert!(c.blocks("norm.weight").unwrap().is_none());
    assert_eq!(read_all(c.get("norm.weight").unwrap().as_ref()).unwrap()[8..], 3f32.to_le_bytes());
    assert_eq!(c.total_bytes(), 12 + 136);
    // Version 2 is laid out the same.
    let mut two = small().bytes();
    two[4] = 2;
    assert_eq!(open(two).unwrap().tensors().len(), 2);
    // A file may have no tokenizer.
    let none = open(changed(|f| f.fields.retain(|(k, _)| !k.starts_with("tokenizer")))).unwrap();
    assert_eq!(none.gguf_vocabulary().unwrap(), None);
}

#[test]
fn vectors_of_blocks_are_read_from_the_middle() {
    let blocks: Vec<u8> = (0..34 * 40).map(|i| if i % 34 == 1 { 0x2C } else { (i % 34) as u8 }).collect();
    let c = open(changed(|f| {
        f.tensor("v", GgmlType::Q8_0.id(), &[1280], blocks);
    }))
    .unwrap();
    let v = c.get("v").unwrap();
    let all = read_all(v.as_ref()).unwrap();
    for (start, end) in [(0, 1), (31, 33), (5, 1279), (1000, 1200), (7, 7)] {
        let mut part = vec![0; (end - start) * 4];
        v.read_rows(start..end, &mut part).unwrap();
        assert_eq!(part, all[start * 4..end * 4], "{start}..{end}");
    }
    assert!(v.read_rows(1279..1281, &mut [0; 8]).is_err());
}

#[test]
fn versions_and_byte_orders() {
    let with_version = |v: u32| {
        let mut b = small().bytes();
        b[4..8].copy_from_slice(&v.to_le_bytes());
        b
    };
    refused(with_version(1), &["version 1", "versions 2 and 3 are read"]);
    refused(with_version(3u32.swap_bytes()), &["big-endian"]);
    refused(with_version(9), &["version 9"]);
}

#[test]
fn every_prefix_is_refused() {
    let whole = small().bytes();
    for n in 1..whole.len() {
        assert!(open(whole[..n].to_vec()).is_err(), "{n} of {} bytes", whole.len());
    }
}

#[test]
fn what_contradicts_itself_is_refused() {
    let raw = |ty: u32, bytes: &[u8]| {
        let field = Field::Raw(ty, bytes.to_vec());
        changed(|f| {
            f.set("x", field);
        })
    };
    refused(raw(99, &[]), &["the key `x` has the unknown type 99"]);
    refused(raw(7, &[2]), &["the key `x` has the truth value 2"]);
    refused(raw(8, &[2, 0, 0, 0, 0, 0, 0, 0, 0xC3, 0x28]), &["is not UTF-8"]);
    refused(raw(8, &u64::MAX.to_le_bytes()), &["has 18446744073709551615 bytes"]);
    let list = |ty: u32, count: u64| {
        let mut b = ty.to_le_bytes().to_vec();
        b.extend(count.to_le_bytes());
        raw(9, &b)
    };
    refused(list(13, 0), &["items of the unknown type 13"]);
    refused(list(10, 1 << 60), &["the key `x` is declared to have 1152921504606846976 items"]);
    refused(list(8, 1 << 40), &["is declared to have 1099511627776 items of 8 bytes or more"]);
    refused(
        changed(|f| f.fields.push(("llama.block_count".into(), Field::U32(1)))),
        &["`llama.block_count` is there twice"],
    );
    refused(
        changed(|f| {
            f.set("general.alignment", Field::U32(24));
        }),
        &["general.alignment is 24", "power of two"],
    );

    let tensor = |ty: u32, shape: &[usize], bytes: usize| {
        changed(|f| {
            f.tensor("t", ty, shape, vec![0; bytes]);
        })
    };
    refused(tensor(5, &[1], 4), &["tensor `t`: has the unknown type 5"]);
    refused(tensor(0, &[1, 1, 1, 1, 1], 4), &["has 5 dimensions"]);
    refused(tensor(GgmlType::Q4_K.id(), &[4, 128], 288), &["rows of 128 elements are no whole blocks of 256"]);
    refused(tensor(0, &[1 << 40, 1 << 40], 4), &["more elements than can be addressed"]);
    refused(tensor(0, &[100], 4), &["tensor `t`: its 400 bytes", "the file is cut short"]);
    refused(
        changed(|f| {
            f.f32("norm.weight", &[1], &[1.0]);
        }),
        &["tensor `norm.weight`: is listed twice"],
    );
    // An offset that is not where the tensor before ends.
    let mut shifted = small().bytes();
    let at = shifted.windows(12).position(|w| w == b"codes.weight").unwrap() + 12 + 4 + 16 + 4;
    assert_eq!(shifted[at..at + 8], 32u64.to_le_bytes());
    shifted[at] = 64;
    refused(shifted, &["tensor `codes.weight`: starts at byte 64 of the data, and the tensor before it ends at 32"]);

    // Types that are not decoded are told when the tensor is asked for.
    let c = open(tensor(GgmlType::Q8_1.id(), &[32], 36)).unwrap();
    let e = c.get("t").unwrap_err().to_string();
    assert!(e.contains("tensor `t` has the type Q8_1, which is not supported: known are F32 F16"), "{e}");
}

#[test]
fn vocabularies_that_contradict_themselves() {
    let told = |key: &str, value: Field| {
        let bytes = changed(|f| {
            f.set(key, value);
        });
        open(bytes).unwrap().gguf_vocabulary().unwrap_err().to_string()
    };
    let e = told("tokenizer.ggml.scores", Field::F32s(vec![1.0]));
    assert!(e.contains("`tokenizer.ggml.scores`") && e.contains("1 items where the vocabulary has 5"), "{e}");
    let e = told("tokenizer.ggml.bos_token_id", Field::U32(5));
    assert!(e.contains("`tokenizer.ggml.bos_token_id`") && e.contains("5 where it has 5 pieces"), "{e}");
    let e = told("tokenizer.ggml.tokens", Field::U32(5));
    assert!(e.contains("must be a list of texts, found 5"), "{e}");
    let e = told("tokenizer.ggml.tokens", Field::Texts(vec![]));
    assert!(e.contains("`tokenizer.ggml.tokens`"), "{e}");
}

/// Each limit of the format, just past it.
#[test]
fn limits() {
    use pteron_checkpoint::limits::*;
    let counts = |tensors: u64, fields: u64| {
        let mut b = small().bytes();
        b[8..16].copy_from_slice(&tensors.to_le_bytes());
        b[16..24].copy_from_slice(&fields.to_le_bytes());
        b
    };
    refused(counts(MAX_TENSORS as u64 + 1, 0), &["the number of tensors is 131073, more than the limit of 131072"]);
    refused(counts(0, MAX_GGUF_FIELDS + 1), &["key-value pairs is 65537"]);
    refused(
        changed(|f| {
            f.set(&"k".repeat(MAX_NAME_BYTES + 1), Field::U8(0));
        }),
        &["a key at byte", "1025 bytes, more than 1024"],
    );
    refused(
        changed(|f| {
            f.tensor(&"t".repeat(MAX_NAME_BYTES + 1), 0, &[1], vec![0; 4]);
        }),
        &["a tensor's name", "1025 bytes"],
    );
    assert_eq!(MAX_GGUF_RANK, 4);
    refused(
        changed(|f| {
            f.set("general.alignment", Field::U32(MAX_GGUF_ALIGNMENT as u32 * 2));
        }),
        &["general.alignment is 2097152"],
    );
    // Lists in lists: each has one item.
    let nested = |levels: usize| {
        let mut b = Vec::new();
        for _ in 1..levels {
            b.extend(9u32.to_le_bytes());
            b.extend(1u64.to_le_bytes());
        }
        b.extend(0u32.to_le_bytes());
        b.extend(0u64.to_le_bytes());
        changed(|f| {
            f.set("x", Field::Raw(9, b));
        })
    };
    assert!(open(nested(MAX_GGUF_DEPTH)).is_ok());
    refused(nested(MAX_GGUF_DEPTH + 1), &["lists in more than 4 levels"]);
    let texts = |n: u64| {
        let mut b = 8u32.to_le_bytes().to_vec();
        b.extend(n.to_le_bytes());
        b.resize(b.len() + 8 * n as usize, 0);
        changed(|f| {
            f.set("x", Field::Raw(9, b));
        })
    };
    refused(texts(MAX_GGUF_ITEMS), &["the number of texts in lists is"]);
    let v = open(changed(|f| {
        f.set("tokenizer.ggml.tokens", Field::Texts(vec![String::new(); MAX_GGUF_VOCABULARY + 1]));
    }));
    assert!(v.unwrap().gguf_vocabulary().unwrap_err().to_string().contains("pieces in the vocabulary is 1048577"));
    let mut long = 8u64.to_le_bytes().to_vec();
    long[..8].copy_from_slice(&MAX_GGUF_HEADER_BYTES.to_le_bytes());
    long.resize(8 + MAX_GGUF_HEADER_BYTES as usize, b'x');
    refused(
        changed(|f| {
            f.set("x", Field::Raw(8, long));
        }),
        &["the header's size in bytes", "more than the limit of 67108864"],
    );
}

fn part(number: u32, count: u32, tensor: &str) -> Vec<u8> {
    let mut f = if number == 0 { small() } else { GgufFile::default() };
    f.tensors.clear();
    f.set("split.no", Field::Raw(2, (number as u16).to_le_bytes().to_vec()));
    f.set("split.count", Field::Raw(2, (count as u16).to_le_bytes().to_vec()));
    f.set("split.tensors.count", Field::I32(count as i32));
    f.f32(tensor, &[1], &[number as f32]);
    f.bytes()
}

#[test]
fn parts_are_merged() {
    let dir = tempfile::tempdir().unwrap();
    let name = |i: usize| dir.path().join(format!("m-0000{i}-of-00003.gguf"));
    for (i, tensor) in [(1u32, "c"), (2, "a"), (3, "b")] {
        std::fs::write(name(i as usize), part(i - 1, 3, tensor)).unwrap();
    }
    for path in [dir.path().to_owned(), name(1), name(3)] {
        let c = Checkpoint::open(path).unwrap();
        assert_eq!(c.tensors().map(|t| t.name).collect::<String>(), "abc");
        assert_eq!(c.info("b").unwrap().file, name(3));
        assert_eq!(read_all(c.get("a").unwrap().as_ref()).unwrap()[..], 1f32.to_le_bytes());
        assert_eq!(c.gguf_vocabulary().unwrap().unwrap().tokens.len(), 5);
    }
    // One that is another part than its name says.
    std::fs::write(name(3), part(1, 3, "b")).unwrap();
    let e = Checkpoint::open(name(1)).unwrap_err().to_string();
    assert!(e.contains("m-00003-of-00003.gguf: ") && e.contains("part 2 of 3 by split.no"), "{e}");
    std::fs::remove_file(name(2)).unwrap();
    let e = Checkpoint::open(name(1)).unwrap_err().to_string();
    assert!(e.contains("1 shard(s) that are not in the folder: m-00002-of-00003.gguf"), "{e}");
    // Renamed, a part is alone.
    let lone = dir.path().join("lone");
    std::fs::rename(name(1), &lone).unwrap();
    let e = Checkpoint::open(&lone).unwrap_err().to_string();
    assert!(e.contains("part 1 of 3") && e.contains("-00001-of-00003.gguf"), "{e}");
}

#[test]
fn folders_with_several_kinds() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("b.gguf"), small().bytes()).unwrap();
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!((c.kind(), c.folder()), (CheckpointKind::Gguf, None));
    std::fs::write(at("a.gguf"), small().bytes()).unwrap();
    let e = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(e.contains("a.gguf, b.gguf; name one of them"), "{e}");
    common::single(dir.path(), &common::llama());
    let c = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(c.kind(), CheckpointKind::HuggingFace);
    assert!(
        c.warnings()[0].contains("ignored a.gguf, b.gguf, because the folder holds safetensors"),
        "{:?}",
        c.warnings()
    );
}
