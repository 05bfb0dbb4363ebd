//! The safetensors writer.

mod common;

use std::fs;
use std::ops::Range;

use common::*;
use proptest::prelude::*;
use pteron_checkpoint::{Checkpoint, SafetensorsWriter, TensorSpec};
use pteron_tensor::{AlignedBytes, DType, MemorySource, SourceError, TensorSource, read_all};
use tempfile::tempdir;

const DTYPES: [DType; 11] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I64,
    DType::I32,
    DType::I16,
    DType::I8,
    DType::U16,
    DType::U8,
    DType::Bool,
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written is what Pteron and the `safetensors` crate read.
    #[test]
    fn round_trip(tensors in prop::collection::vec((0usize..11, prop::collection::vec(0usize..5, 0..4)), 0..12)) {
        let specs: Vec<TensorSpec> = tensors
            .iter()
            .enumerate()
            .map(|(i, (d, shape))| TensorSpec::new(format!("t\"{i}\\ü"), DTYPES[*d], shape))
            .collect();
        let dir = tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        write(&path, &specs);
        let c = Checkpoint::open(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        prop_assert_eq!(theirs.len(), specs.len());
        prop_assert_eq!(c.tensors().len(), specs.len());
        for spec in &specs {
            let source = c.get(&spec.name).unwrap();
            prop_assert_eq!(source.dtype(), spec.dtype);
            prop_assert_eq!(source.shape(), spec.shape.as_slice());
            let all = read_all(source.as_ref()).unwrap();
            let expected = bytes_of(spec);
            prop_assert_eq!(&*all, expected.as_slice());
            let t = theirs.tensor(&spec.name).unwrap();
            prop_assert_eq!(t.shape(), spec.shape.as_slice());
            prop_assert_eq!(t.data(), &*all);
            // The map begins at a page, and each tensor is aligned to its element in the file.
            let slice = source.as_slice().unwrap();
            prop_assert!(slice.is_empty() || (slice.as_ptr() as usize).is_multiple_of(spec.dtype.size().unwrap()));
        }
    }
}

/// A source that is decoded, not held.
#[derive(Debug)]
struct Counting(Vec<usize>);

impl TensorSource for Counting {
    fn dtype(&self) -> DType {
        DType::I64
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let first = rows.start * self.row_numel();
        for (i, out) in out.chunks_exact_mut(8).enumerate() {
            out.copy_from_slice(&((first + i) as i64).to_le_bytes());
        }
        Ok(())
    }
    fn label(&self) -> &str {
        "counting"
    }
}

#[test]
fn sources_are_written_by_rows() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let (big, small) = (Counting(vec![1000, 1000]), MemorySource::of("s", &[2], &[1u8, 2]).unwrap());
    let empty = MemorySource::new("e", DType::F32, &[0, 3], AlignedBytes::zeroed(0)).unwrap();
    let specs = [
        TensorSpec::new("s", DType::U8, &[2]),
        TensorSpec::new("e", DType::F32, &[0, 3]),
        TensorSpec::new("big", DType::I64, &[1000, 1000]),
    ];
    let mut bytes = Vec::new();
    for _ in 0..2 {
        let mut w = SafetensorsWriter::create(&path, &specs, &[]).unwrap();
        w.write_source("s", &small).unwrap();
        w.write_source("e", &empty).unwrap();
        assert_eq!(w.current(), Some("big"));
        w.write_source("big", &big).unwrap();
        assert_eq!(w.current(), None);
        w.finish().unwrap();
        bytes.push(fs::read(&path).unwrap());
    }
    assert!(bytes[0] == bytes[1], "the same input gave other bytes");
    let c = Checkpoint::open(&path).unwrap();
    let all = read_all(c.get("big").unwrap().as_ref()).unwrap();
    let last = i64::from_le_bytes(all[all.len() - 8..].try_into().unwrap());
    assert_eq!((all.len(), last), (8_000_000, 999_999));
    assert_eq!(&*read_all(c.get("s").unwrap().as_ref()).unwrap(), [1, 2]);
}

#[test]
fn misuse_is_refused_and_the_old_file_stays() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    fs::write(&path, "old").unwrap();
    let spec = |name: &str| TensorSpec::new(name, DType::F32, &[2]);
    let create = |specs: &[TensorSpec]| SafetensorsWriter::create(&path, specs, &[]);
    let refused = |specs: &[TensorSpec], part: &str| {
        let e = create(specs).unwrap_err().to_string();
        assert!(e.starts_with(&path.display().to_string()) && e.contains(part), "{e}");
    };
    refused(&[spec("a"), spec("a")], "tensor `a` comes twice");
    refused(&[spec("__metadata__")], "cannot be the name");
    refused(&[spec(&"n".repeat(1025))], "cannot be the name");
    refused(&[TensorSpec::new("a", DType::I4, &[2])], "dtype i4");
    refused(&[TensorSpec::new("a", DType::F32, &[1 << 40, 1 << 40])], "cannot have shape");
    refused(&[TensorSpec::new("a", DType::F32, &[1; 9])], "cannot have shape");
    let halves = [TensorSpec::new("a", DType::U8, &[1 << 62]), TensorSpec::new("b", DType::U8, &[1 << 62])];
    refused(&halves, "too large for a file");
    assert!(SafetensorsWriter::create(&path, &[], &[("k", "1"), ("k", "2")]).is_err());

    let mut w = create(&[spec("a"), spec("b")]).unwrap();
    w.write(&[0; 5]).unwrap();
    let e = w.write(&[0; 4]).unwrap_err().to_string();
    assert!(e.contains("tensor `a` needs 3 more bytes, and 4 came"), "{e}");
    w.write(&[0; 3]).unwrap();
    let e = w.write_source("a", &Counting(vec![1])).unwrap_err().to_string();
    assert!(e.contains("not the turn of tensor `a`"), "{e}");
    let e = w.write_source("b", &Counting(vec![2])).unwrap_err().to_string();
    assert!(e.contains("tensor `b` needs 8 bytes, and its source has 16"), "{e}");
    let e = w.finish().unwrap_err().to_string();
    assert!(e.contains("tensor `b` lacks 8 of its 8 bytes"), "{e}");
    assert_eq!(fs::read(&path).unwrap(), b"old");

    let mut w = create(&[spec("a")]).unwrap();
    w.write(&[0; 8]).unwrap();
    assert!(w.write(&[0]).unwrap_err().to_string().contains("after the last tensor"));
    w.finish().unwrap();
    assert_eq!(Checkpoint::open(&path).unwrap().num_parameters(), 2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
