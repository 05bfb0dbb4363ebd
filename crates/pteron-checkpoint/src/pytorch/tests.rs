//! Archives of PyTorch's own (`tests/pytorch`, made by `make_fixtures.py` there), and archives put together here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_tensor::{ByteSource, DType, RangeSource, SharedSource, SourceError, read_all};
use pteron_testkit::torch::{Pickle, TorchTensor, ZipWriter, save};
use serde_json::Value as Json;

use super::*;
use crate::files::MemoryBytes;
use crate::limits::{MAX_PICKLE_DEPTH, MAX_PICKLE_MEMO, MAX_PICKLE_OPCODES, MAX_ZIP_DIRECTORY_BYTES, MAX_ZIP_ENTRIES};

fn fixture(name: &str) -> Vec<u8> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "pytorch"].iter().collect();
    std::fs::read(folder.join(name)).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<(TorchFile, Arc<dyn ByteSource>), String> {
    let bytes: Arc<dyn ByteSource> = Arc::new(MemoryBytes::new(bytes));
    Ok((read(Path::new("x.pth"), &bytes, 0).map_err(|e| e.to_string())?, bytes))
}

#[track_caller]
fn refused(bytes: Vec<u8>, parts: &[&str]) {
    let e = open(bytes).unwrap_err();
    assert!(e.starts_with("x.pth: ") && !e.contains('\n'), "{e}");
    for part in parts {
        assert!(e.contains(part), "`{part}` is not in: {e}");
    }
}

fn source(entry: &Entry, bytes: &Arc<dyn ByteSource>) -> SharedSource {
    match &entry.place {
        Place::Range { offset } => {
            Arc::new(RangeSource::new(&entry.name, entry.dtype, &entry.shape, Arc::clone(bytes), *offset).unwrap())
        }
        Place::Source(source) => Arc::clone(source),
    }
}

/// Compares everything with what PyTorch itself reads.
#[test]
fn files_of_torch() {
    let expected: Json = serde_json::from_slice(&fixture("expected.json")).unwrap();
    let mut strided = Vec::new();
    let mut files = 0;
    for (file, expected) in expected.as_object().unwrap() {
        let Some(expected) = expected.as_object() else { continue };
        let (found, bytes) = open(fixture(file)).unwrap();
        let mut names: Vec<&str> = found.tensors.iter().map(|t| t.name.as_str()).collect();
        let mut theirs: Vec<&str> = expected.keys().map(String::as_str).collect();
        names.sort_unstable();
        theirs.sort_unstable();
        assert_eq!(names, theirs, "{file}");
        for tensor in &found.tensors {
            let e = &expected[&tensor.name];
            let what = format!("{file}: {}", tensor.name);
            assert_eq!(e["dtype"], tensor.dtype.torch_name(), "{what}");
            let shape: Vec<usize> =
                e["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect();
            assert_eq!(shape, tensor.shape.as_slice(), "{what}");
            let source = source(tensor, &bytes);
            assert_eq!((source.dtype(), source.shape(), source.label()), (tensor.dtype, &*tensor.shape, &*tensor.name));
            let all = read_all(source.as_ref()).unwrap();
            let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(e["hex"], hex, "{what}");
            assert_eq!(tensor.bytes, all.len() as u64);
            if matches!(tensor.place, Place::Source(_)) {
                strided.push(tensor.name.clone());
            }
        }
        files += 1;
    }
    assert_eq!(files, 9);
    strided.sort_unstable();
    assert_eq!(strided, ["columns", "middle", "permuted", "transposed"]);
}

#[test]
fn storages_are_shared() {
    let (found, _) = open(fixture("module-4.pth")).unwrap();
    let offset = |name: &str| match found.tensors.iter().find(|t| t.name == name).unwrap().place {
        Place::Range { offset } => offset,
        Place::Source(_) => panic!("{name} is strided"),
    };
    assert_eq!(offset("embedding.weight"), offset("output.weight"));
}

#[test]
fn what_is_left_out_is_said() {
    let (found, _) = open(fixture("training.pth")).unwrap();
    assert_eq!(found.warnings, ["x.pth: the weights are those under `model`; left out: optimizer"]);
    assert!(open(fixture("views.pth")).unwrap().0.warnings.is_empty());
}

#[test]
fn files_of_torch_that_are_refused() {
    for (file, parts) in [
        ("ema.pth", &["it is no dictionary of tensors, and holds none under model, ", "its entries are ema, step"][..]),
        ("list.pth", &["(pickle): it holds a list where a dictionary of names and tensors is expected"]),
        ("single.pth", &["it holds a single tensor where a dictionary"]),
        ("two.pth", &["several of its entries can be the weights: model, state_dict"]),
        ("nested.pth", &["the entry `heads` beside the weights holds tensors, but is no tensor"]),
        ("complex.pth", &["tensor `freqs_cis` has dtype `torch.complex64`, which is not supported"]),
        ("float8.pth", &["tensor `w` has dtype `torch.float8_e4m3fn`"]),
        ("negated.pth", &["a tensor is to be conjugated or negated when it is read"]),
        ("expanded.pth", &["tensor `w`: a view of shape [1000, 3] and strides [0, 1] repeats elements"]),
        ("namespace.pth", &["the pickle asks for `argparse.Namespace`", "nothing in a pickle is executed"]),
        ("evil.pth", &["the pickle asks for `posix.system`", "nothing in a pickle is executed"]),
        ("compressed.pth", &["(zip): the entry `module-2/data.pkl` is compressed (method 8)"]),
        ("torchscript.pt", &["it is a TorchScript program, not a checkpoint"]),
        ("legacy.pth", &["the file is cut short: a zip archive ends with its directory"]),
    ] {
        refused(fixture(file), parts);
    }
}

/// An archive of these entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut zip = ZipWriter::new(&mut out);
    for (name, bytes) in entries {
        zip.add(name, bytes).unwrap();
    }
    zip.finish().unwrap();
    out
}

/// An archive with this pickle and a storage `0` of 24 bytes.
fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let storage: Vec<u8> = (0..24).collect();
    zip(&[("a/data.pkl", pickle), ("a/data/0", &storage)])
}

/// An archive with a tensor `w`.
fn with_tensor(make: impl Fn(&mut Pickle)) -> Vec<u8> {
    let mut p = Pickle::new();
    p.op(b"}");
    p.text("w");
    make(&mut p);
    p.op(b"s");
    with_pickle(&p.finish())
}

#[test]
fn archives_without_torch() {
    let tensors = [
        TorchTensor { name: "a".into(), class: "BFloat16Storage", shape: vec![3, 2] },
        TorchTensor { name: "b".into(), class: "FloatStorage", shape: vec![2] },
    ];
    let mut out = Vec::new();
    save(&mut out, &tensors, &mut |t| vec![t.name.as_bytes()[0]; if t.name == "a" { 12 } else { 8 }]).unwrap();
    let (found, bytes) = open(out).unwrap();
    let [a, b] = found.tensors.as_slice() else { panic!("{found:?}") };
    assert_eq!((a.dtype, &a.shape[..], a.bytes), (DType::BF16, &[3, 2][..], 12));
    assert_eq!(&*read_all(source(b, &bytes).as_ref()).unwrap(), b"bbbbbbbb");
}

#[test]
fn views_must_stay_in_their_storage() {
    let view = |offset, shape: &[usize], strides: &[usize]| {
        with_tensor(|p| p.view("FloatStorage", "0", 6, offset, shape, strides))
    };
    assert!(open(view(0, &[2, 3], &[3, 1])).is_ok());
    assert!(open(view(5, &[1], &[9])).is_ok());
    assert!(open(view(99, &[0, 3], &[1, 1])).is_ok());
    let outside = |shape: &str| format!("tensor `w`: a view of shape {shape}");
    refused(
        view(1, &[2, 3], &[3, 1]),
        &[&outside("[2, 3], strides [3, 1] and offset 1 leaves its storage of 6 elements")],
    );
    refused(view(6, &[], &[]), &["leaves its storage"]);
    refused(view(0, &[2, 2], &[usize::MAX >> 1, 1]), &["leaves its storage"]);
    refused(view(0, &[1 << 40, 1 << 40], &[0, 0]), &["leaves its storage"]);
    refused(view(0, &[1 << 40], &[0]), &["repeats elements of its storage"]);
    refused(view(0, &[1; 7], &[1; 7]), &["the shape of a tensor is not what torch.save writes"]);
    refused(view(0, &[2, 3], &[1]), &["the strides of a tensor"]);
    refused(view(usize::MAX, &[1], &[1]), &["the offset of a tensor"]);
    // Another number of elements than the storage's entry has.
    refused(
        with_tensor(|p| p.view("FloatStorage", "0", 5, 0, &[5], &[1])),
        &["tensor `w`: its storage `a/data/0` has 24 bytes, and the pickle says 5 elements of 4 bytes"],
    );
    refused(with_tensor(|p| p.view("FloatStorage", "0", usize::MAX >> 2, 0, &[1], &[1])), &["has 24 bytes"]);
    refused(with_tensor(|p| p.tensor("FloatStorage", "7", &[6])), &["the entry `a/data/7`, is missing"]);
    refused(with_tensor(|p| p.tensor("FloatStorage", "../0", &[6])), &["a persistent id is not that of a storage"]);
}

#[test]
fn one_storage_is_of_one_type() {
    let mut p = Pickle::new();
    p.op(b"}(");
    p.text("a");
    p.tensor("FloatStorage", "0", &[6]);
    p.text("b");
    p.tensor("IntStorage", "0", &[6]);
    p.op(b"u");
    refused(with_pickle(&p.finish()), &["the storage `0` is described in two ways"]);
}

#[test]
fn items_of_python_2() {
    let mut p = Pickle::new();
    p.global("collections", "OrderedDict");
    p.op(b"(]](U\x01w");
    p.tensor("FloatStorage", "0", &[6]);
    p.op(b"eatR");
    let (found, _) = open(with_pickle(&p.finish())).unwrap();
    assert_eq!(found.tensors[0].name, "w");
}

/// Each alone after the head of the pickle.
#[test]
fn broken_pickles() {
    for (body, said) in [
        (&b"\x80"[..], "the opcode 0x80"),
        (b"}", "it is cut short (at byte 3)"),
        (b".", "it does not end with one value"),
        (b"}}.", "it does not end with one value"),
        (b"}(.", "it does not end with one value"),
        (b"}..", "1 bytes follow its end"),
        (b"s.", "it takes from an empty stack"),
        (b"(K\x01K\x02s.", "it sets items of something that is no dictionary"),
        (b"K\x01(K\x02\x86.", "it takes from an empty stack"),
        (b"(0.", "it takes from an empty stack"),
        (b"u.", "it takes up to a mark that is not there"),
        (b"}(K\x01u.", "a key has no value"),
        (b"K\x01K\x02a.", "it appends to something that is no list"),
        (b"h\x05.", "it recalls value 5, which was not stored"),
        (b"q\x05.", "it takes from an empty stack"),
        (b"K\x01)R.", "it calls something that is no name"),
        (b"ccollections\nOrderedDict\nK\x01R.", "the arguments are no tuple"),
        (b"ccollections\nOrderedDict\n(K\x01tR.", "the arguments of OrderedDict"),
        (b"ctorch._utils\n_rebuild_tensor_v2\n)R.", "the arguments of RebuildTensor"),
        (b"ctorch._utils\n_rebuild_parameter\n(K\x01tR.", "the arguments of RebuildParameter"),
        (b"K\x01}b.", "it sets the state of something that is no dictionary"),
        (b"K\x01Q.", "the arguments are no tuple"),
        (b")Q.", "a persistent id is not that of a storage"),
        (b"X\x02\0\0\0\xff\xff.", "a text is not UTF-8"),
        (b"X\xff\xff\xff\xffab.", "it is cut short"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffab.", "it is cut short"),
        (b"B\xff\xff\xff\x7f.", "it is cut short"),
        (b"\x8b\xff\xff\xff\xff.", "it is cut short"),
        (b"cos", "it is cut short"),
        (b"cos\nsystem\n)R.", "the pickle asks for `os.system`"),
        (b"\x8c\x02os\x8c\x06system\x93)R.", "the pickle asks for `os.system`"),
        (b"c__builtin__\neval\n.", "the pickle asks for `__builtin__.eval`"),
        (b"K\x01K\x02\x93.", "a name is not text"),
        (b"(K\x01ios\nsystem\n.", "the opcode 0x69 (INST)"),
        (b"(o.", "the opcode 0x6f (OBJ)"),
        (b")\x81.", "the opcode 0x81 (NEWOBJ)"),
        (b"\x82\x01.", "the opcode 0x82 (EXT)"),
        (b"P0\n.", "the opcode 0x50 (PERSID)"),
        (b"I1\n.", "the opcode 0x49 is not one that torch.save writes"),
        (b"}.", "it is no dictionary of tensors, and holds none under model, state_dict, "),
        (b"N.", "it holds no tensors where a dictionary"),
    ] {
        refused(with_pickle(&[b"\x80\x02", body].concat()), &["x.pth: ", said]);
    }
    refused(with_pickle(b"\x80\x01}."), &["it does not begin as one of protocol 2 to 5"]);
    refused(with_pickle(b""), &["it does not begin as one of protocol 2 to 5"]);
}

#[test]
fn cycles_and_nesting_end() {
    // A list in itself, beside the weights.
    let mut p = Pickle::new();
    p.op(b"}(");
    p.text("loop");
    p.op(b"]q\x00h\x00a");
    p.text("w");
    p.tensor("FloatStorage", "0", &[6]);
    p.op(b"u");
    assert_eq!(open(with_pickle(&p.finish())).unwrap().0.tensors.len(), 1);

    // A dictionary that is its own `model`.
    let mut p = Pickle::new();
    p.op(b"}q\x00");
    p.text("model");
    p.op(b"h\x00s");
    refused(with_pickle(&p.finish()), &["it is no dictionary of tensors"]);
    let mut p = Pickle::new();
    p.op(b"}q\x00(");
    p.text("model");
    p.op(b"h\x00");
    p.text("list");
    p.op(b"](");
    p.tensor("FloatStorage", "0", &[6]);
    p.op(b"eu");
    refused(with_pickle(&p.finish()), &["the weights lie under more than 4 dictionaries"]);

    // Every look goes through everything before it.
    let mut p = Pickle::new();
    p.op(b"}(");
    p.text("w");
    p.tensor("FloatStorage", "0", &[6]);
    p.op(b"K\x00](");
    (0..2000).for_each(|_| p.op(b"]"));
    p.op(b"eq\x00");
    for _ in 0..4000 {
        p.op(b"K\x00h\x00");
    }
    p.op(b"u");
    refused(with_pickle(&p.finish()), &["the entry `0` beside the weights holds tensors"]);
}

#[test]
fn limits_of_the_pickle() {
    let filled = |one: &[u8], n: u64| [b"\x80\x02", &one.repeat(n as usize)[..], b"."].concat();
    refused(
        with_pickle(&filled(b"(", MAX_PICKLE_DEPTH + 1)),
        &["the nesting of the pickle is 257, more than the limit"],
    );
    refused(with_pickle(&filled(b"(", MAX_PICKLE_DEPTH)), &["it does not end with one value"]);
    refused(
        with_pickle(&filled(b"N", MAX_PICKLE_VALUES + 1)),
        &["the number of the pickle's values is 2097153, more than the limit of 2097152"],
    );
    // Containers count more than once.
    refused(with_pickle(&filled(b"]", MAX_PICKLE_VALUES / 2)), &["the number of the pickle's values is"]);
    refused(
        with_pickle(&[b"\x80\x02N", &b"q\0".repeat(MAX_PICKLE_OPCODES as usize)[..], b"."].concat()),
        &["the number of the pickle's opcodes is 4194305"],
    );
    let far = (MAX_PICKLE_MEMO as u32).to_le_bytes();
    refused(
        with_pickle(&[b"\x80\x02Nr", &far[..], b"."].concat()),
        &["the number of the pickle's stored values is 1048577"],
    );
    refused(
        with_pickle(&vec![b'N'; MAX_PICKLE_BYTES as usize + 1]),
        &["the entry `data.pkl` in bytes is 16777217, more than the limit of 16777216"],
    );
    let mut p = Pickle::new();
    p.op(b"}");
    p.text(&"n".repeat(MAX_NAME_BYTES + 1));
    p.tensor("FloatStorage", "0", &[6]);
    p.op(b"s");
    refused(with_pickle(&p.finish()), &["the length of a tensor's name in bytes is 1025"]);
}

#[test]
fn the_byte_order_is_little() {
    let pickle = {
        let mut p = Pickle::new();
        p.op(b"}");
        p.text("w");
        p.tensor("FloatStorage", "0", &[1]);
        p.op(b"s");
        p.finish()
    };
    let of = |order: &[u8]| zip(&[("a/data.pkl", &pickle), ("a/byteorder", order), ("a/data/0", &[0; 4])]);
    assert!(open(of(b"little")).is_ok());
    refused(of(b"big"), &["its byte order is `big`: only `little` is read"]);
    refused(of(&[b'x'; 17]), &["the entry `byteorder` in bytes is 17"]);
}

#[test]
fn archives_that_are_no_checkpoints() {
    refused(zip(&[]), &["there is no `data.pkl` in it"]);
    refused(zip(&[("data.pkl", b"")]), &["there is no `data.pkl` in it"]);
    refused(zip(&[("a/b/data.pkl", b"")]), &["there is no `data.pkl` in it"]);
    refused(zip(&[("a/data.pkl", b""), ("b/data.pkl", b"")]), &["there are several `data.pkl` in it"]);
    refused(zip(&[("a/data.pkl", b""), ("a/data.pkl", b"")]), &["the entry `a/data.pkl` is there twice"]);
    refused(zip(&[("a/../data.pkl", b"")]), &["an entry is called `a/../data.pkl`"]);
    refused(zip(&[("/a/data.pkl", b"")]), &["an entry is called `/a/data.pkl`"]);
}

/// Changes of single fields, by signature of the record, which one of them, and the offset in it.
#[test]
fn contradictions_of_the_directory() {
    let good = with_tensor(|p| p.tensor("FloatStorage", "0", &[6]));
    assert!(open(good.clone()).is_ok());
    let find =
        |signature: &[u8], nth: usize| (0..good.len()).filter(|&i| good[i..].starts_with(signature)).nth(nth).unwrap();
    let (local, central, end) = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06");
    for (signature, nth, offset, value, said) in [
        (local, 1, 6, 8, "is described differently at its bytes"),
        (local, 1, 8, 8, "is described differently at its bytes"),
        (local, 1, 14, 77, "is described differently at its bytes"),
        (local, 1, 18, 23, "is described differently at its bytes"),
        (local, 1, 22, 23, "is described differently at its bytes"),
        (local, 1, 30, b'b', "the entry `a/data/0` is described differently at its bytes"),
        (local, 0, 0, 0, "is described differently at its bytes"),
        (central, 0, 0, 0, "does not begin with its signature"),
        (central, 1, 8, 1, "the entry `a/data/0` is encrypted"),
        (central, 1, 8, 8, "is described differently at its bytes"),
        (central, 1, 10, 12, "is compressed (method 12)"),
        (central, 1, 20, 23, "is stored, but has 23 bytes for 24"),
        (central, 1, 34, 1, "lies in another part of the archive"),
        (central, 1, 42, 0, "overlaps the one before it"),
        (central, 0, 42, 1, "comes after a hole"),
        (central, 1, 46, b'b', "is described differently at its bytes"),
        (end, 0, 4, 1, "one of several parts"),
        (end, 0, 8, 1, "one of several parts"),
        (end, 0, 20, 1, "has a comment"),
        (end, 0, 12, 9, "does not end where the last records begin"),
        (end, 0, 16, 9, "does not end where the last records begin"),
    ] {
        let mut bad = good.clone();
        bad[find(signature, nth) + offset] = value;
        refused(bad, &[said]);
    }
    // The second entry is told to be as long as the first, and runs into the directory.
    let mut bad = good.clone();
    for (record, offset) in [(find(local, 1), 18), (find(central, 1), 20)] {
        bad[record + offset..record + offset + 2].copy_from_slice(&[0, 9]);
        bad[record + offset + 4..record + offset + 6].copy_from_slice(&[0, 9]);
    }
    refused(bad, &["the entry `a/data/0` of 2304 bytes reaches past the end of the data"]);
    // Something before the archive, in it, and behind it.
    refused([b"PK\x03\x04", &good[..]].concat(), &["(zip): "]);
    refused([&good[..], b"x"].concat(), &["the file is cut short"]);
    let at = find(central, 0);
    let mut holed = [&good[..at], &[0; 4], &good[at..]].concat();
    let offset = holed.len() - 6;
    holed[offset..offset + 4].copy_from_slice(&(at as u32 + 4).to_le_bytes());
    refused(holed, &["the entries end at byte", "and the directory begins at"]);
    // Every number of entries but the right one.
    for n in [0u16, 1, 3, 200] {
        let mut bad = good.clone();
        let at = find(end, 0);
        bad[at + 8..at + 10].copy_from_slice(&n.to_le_bytes());
        bad[at + 10..at + 12].copy_from_slice(&n.to_le_bytes());
        refused(bad, &["(zip): "]);
    }
}

#[test]
fn every_truncation_and_every_bit() {
    for file in ["module-2.pth", "stored-again.pth"] {
        let good = fixture(file);
        for cut in 0..good.len() {
            assert!(open(good[..cut].to_vec()).is_err(), "{file} cut to {cut}");
        }
        let (mut accepted, mut refused) = (0, 0);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match open(bad) {
                Ok((found, bytes)) => {
                    accepted += 1;
                    for tensor in &found.tensors {
                        assert_eq!(read_all(source(tensor, &bytes).as_ref()).unwrap().len() as u64, tensor.bytes);
                    }
                }
                Err(_) => refused += 1,
            }
        }
        // Data, names, padding and checksums may change; records may not.
        assert!(accepted > 1000 && refused > 3000, "{file}: {accepted} accepted, {refused} refused");
    }
}

/// Bytes of a file of any size, of which only some are not 0.
#[derive(Debug)]
struct Sparse {
    len: u64,
    pieces: Vec<(u64, Vec<u8>)>,
}

impl ByteSource for Sparse {
    fn len(&self) -> u64 {
        self.len
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        out.fill(0);
        for (at, piece) in &self.pieces {
            for (i, byte) in piece.iter().enumerate() {
                let slot = (at + i as u64).checked_sub(offset).and_then(|i| out.get_mut(usize::try_from(i).ok()?));
                if let Some(slot) = slot {
                    *slot = *byte;
                }
            }
        }
        Ok(())
    }
}

/// An archive of 5 GiB as `torch.save` lays it out: sizes behind the bytes and in ZIP64 fields.
#[test]
fn large_archives() {
    const LEN: u64 = 5 << 30;
    let mut p = Pickle::new();
    p.op(b"}(");
    p.text("big");
    p.tensor("ByteStorage", "0", &[LEN as usize]);
    p.text("small");
    p.tensor("ByteStorage", "1", &[4]);
    p.op(b"u");
    let pickle = p.finish();
    let (mut at, mut pieces, mut central) = (0u64, Vec::new(), Vec::new());
    let entries: [(&str, u64, &[u8]); 3] =
        [("a/data.pkl", pickle.len() as u64, &pickle), ("a/data/0", LEN, &[]), ("a/data/1", 4, b"tail")];
    for (name, len, bytes) in entries {
        let long = len >= u64::from(u32::MAX);
        let header = at;
        let name_len = (name.len() as u16).to_le_bytes();
        let local_extra =
            if long { [&[1, 0, 16, 0][..], &len.to_le_bytes(), &len.to_le_bytes()].concat() } else { vec![] };
        let flags = [0u8, 0, 8, 8];
        let extra_len = (local_extra.len() as u16).to_le_bytes();
        let record =
            [b"PK\x03\x04", &flags[..], &[0; 18], &name_len, &extra_len, name.as_bytes(), &local_extra, bytes].concat();
        let data = at + (record.len() - bytes.len()) as u64;
        pieces.push((at, record));
        at = data + len;
        let size = if long { len.to_le_bytes().to_vec() } else { (len as u32).to_le_bytes().to_vec() };
        let descriptor = [b"PK\x07\x08", &[9; 4][..], &size, &size].concat();
        pieces.push((at, descriptor.clone()));
        at += descriptor.len() as u64;
        let mut fields = Vec::new();
        let mut short = |n: u64| {
            if n >= u64::from(u32::MAX) {
                fields.extend(n.to_le_bytes());
                return u32::MAX.to_le_bytes();
            }
            (n as u32).to_le_bytes()
        };
        let (size, offset) = ([short(len), short(len)].concat(), short(header));
        let extra = [&[1, 0][..], &(fields.len() as u16).to_le_bytes(), &fields].concat();
        let extra_len = (extra.len() as u16).to_le_bytes();
        central.extend(
            [
                b"PK\x01\x02",
                &[0; 2][..],
                &flags,
                &[0; 6],
                &[9; 4],
                &size,
                &name_len,
                &extra_len,
                &[0; 10],
                &offset,
                name.as_bytes(),
                &extra,
            ]
            .concat(),
        );
    }
    let (directory, n) = (at, 3u64.to_le_bytes());
    let (len, offset) = ((central.len() as u64).to_le_bytes(), directory.to_le_bytes());
    let end64 = directory + central.len() as u64;
    let end = [
        &central[..],
        b"PK\x06\x06",
        &44u64.to_le_bytes(),
        &[0; 12],
        &n,
        &n,
        &len,
        &offset,
        b"PK\x06\x07",
        &[0; 4],
        &end64.to_le_bytes(),
        &[1, 0, 0, 0],
        b"PK\x05\x06",
        &[0; 4],
        &n[..2],
        &n[..2],
        &len[..4],
        &[0xFF; 4],
        &[0; 2],
    ]
    .concat();
    pieces.push((at, end.clone()));
    let len = at + end.len() as u64;
    let open = |pieces: Vec<(u64, Vec<u8>)>| {
        let bytes: Arc<dyn ByteSource> = Arc::new(Sparse { len, pieces });
        read(Path::new("x.pth"), &bytes, 0).map(|found| (found, bytes)).map_err(|e| e.to_string())
    };
    let (found, bytes) = open(pieces.clone()).unwrap();
    let [big, small] = found.tensors.as_slice() else { panic!("{found:?}") };
    assert_eq!((big.bytes, &big.shape[..]), (LEN, &[LEN as usize][..]));
    assert_eq!(&*read_all(source(small, &bytes).as_ref()).unwrap(), b"tail");
    // The ZIP64 record must be where its locator says, agree with the short one, and be there.
    for (back, value, said) in [
        (22 + 12, 1, "the ZIP64 record is not where its locator says"),
        (22 + 20, 0, "the ZIP64 locator is missing"),
        (22 + 20 + 56, 0, "the ZIP64 record is not where its locator says"),
        (22 + 20 + 32, 4, "one of several parts"),
        (22 + 20 + 16, 1, "contradicts the last record"),
    ] {
        let mut bad = pieces.clone();
        let last = bad.last_mut().unwrap();
        let at = last.1.len() - back;
        last.1[at] = value;
        let e = open(bad).unwrap_err();
        assert!(e.contains(said), "{e}");
    }
}

#[test]
fn limits_of_the_directory() {
    let ending = |entries: u64, len: u64| {
        let total = len + 56 + 20 + 22;
        let n = entries.to_le_bytes();
        let end = [
            b"PK\x06\x06",
            &44u64.to_le_bytes()[..],
            &[0; 12],
            &n,
            &n,
            &len.to_le_bytes(),
            &[0; 8],
            b"PK\x06\x07",
            &[0; 4],
            &len.to_le_bytes(),
            &[1, 0, 0, 0],
            b"PK\x05\x06",
            &[0; 4],
            &[0xFF; 4],
            &[0xFF; 8],
            &[0; 2],
        ]
        .concat();
        let bytes: Arc<dyn ByteSource> = Arc::new(Sparse { len: total, pieces: vec![(len, end)] });
        read(Path::new("x.pth"), &bytes, 0).unwrap_err().to_string()
    };
    let e = ending(MAX_ZIP_ENTRIES + 1, 1 << 20);
    assert!(e.contains("the number of entries of the archive is 131137, more than the limit of 131136"), "{e}");
    let e = ending(1, MAX_ZIP_DIRECTORY_BYTES + 1);
    assert!(e.contains("the archive's directory in bytes is 33554433, more than the limit of 33554432"), "{e}");
    let e = ending(MAX_ZIP_ENTRIES, 1000);
    assert!(e.contains("131136 entries do not fit a directory of 1000 bytes"), "{e}");
}
