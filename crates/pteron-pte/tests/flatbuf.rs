//! Malformed FlatBuffers: each defect is found where it is.

use pteron_pte::flatbuf::{Builder, Field, FlatBuffer, FlatErrorKind, TableFields};

const TEXT: Field = Field::new(0, "text");
const NUMBER: Field = Field::new(1, "number");
const NUMBERS: Field = Field::new(2, "numbers");
const CHILDREN: Field = Field::new(3, "children");

fn sample() -> Vec<u8> {
    let mut b = Builder::new();
    let text = b.string("héllo");
    let numbers = b.vector([1i64, -2].into_iter());
    let child = b.table(TableFields::new().forced(NUMBER, 3u32));
    let children = b.offsets(&[child, child]);
    let root = TableFields::new().offset(TEXT, text).forced(NUMBER, 7u64).offset(NUMBERS, numbers);
    let root = b.table(root.offset(CHILDREN, children));
    b.finish(root, b"TEST", false).unwrap()
}

/// Reads every field of the sample.
fn read(bytes: &[u8]) -> Result<(), FlatErrorKind> {
    let run = || {
        let buffer = FlatBuffer::new(bytes)?;
        let root = buffer.root(0)?;
        assert_eq!(root.string(TEXT)?, Some("héllo"));
        assert_eq!(root.scalar(NUMBER, 0u64)?, 7);
        assert_eq!(root.vector::<i64>(NUMBERS)?.map(|v| v.to_vec()), Some(vec![1, -2]));
        let children = root.tables(CHILDREN)?.unwrap();
        assert_eq!((children.len(), children.is_empty()), (2, false));
        for child in children.iter() {
            assert_eq!(child?.scalar(NUMBER, 0u32)?, 3);
        }
        Ok(())
    };
    run().map_err(|e: pteron_pte::flatbuf::FlatError| e.kind)
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// Positions of the root table, its vtable, and the place that holds a field's offset.
fn places(bytes: &[u8], slot: usize) -> (usize, usize, usize) {
    let root = u32_at(bytes, 0);
    let vtable = (root as i64 - i64::from(u32_at(bytes, root) as u32 as i32)) as usize;
    let entry = vtable + 4 + 2 * slot;
    let field = root + usize::from(u16::from_le_bytes([bytes[entry], bytes[entry + 1]]));
    (root, vtable, field)
}

fn broken(change: impl FnOnce(&mut Vec<u8>)) -> FlatErrorKind {
    let mut bytes = sample();
    change(&mut bytes);
    read(&bytes).expect_err("the defect must be found")
}

#[test]
fn the_sample_is_readable() {
    assert_eq!(read(&sample()), Ok(()));
}

#[test]
fn offsets() {
    let len = sample().len();
    assert_eq!(broken(|b| b[0..4].fill(0)), FlatErrorKind::BadOffset { offset: 0, len });
    assert_eq!(broken(|b| b[0..4].fill(0xff)), FlatErrorKind::BadOffset { offset: 0xffff_ffff, len });
    assert_eq!(broken(|b| b[0] += 1), FlatErrorKind::Unaligned { align: 4 });
    let (root, _, text) = places(&sample(), 0);
    assert_eq!(
        broken(|b| b[text + 3] = 0x7f),
        FlatErrorKind::BadOffset { offset: 0x7f00_0000 + u32_at(&sample(), text) as i64, len }
    );
    assert!(matches!(broken(|b| b[root + 3] = 0x7f), FlatErrorKind::BadOffset { .. }));
    assert!(matches!(read(&[]), Err(FlatErrorKind::OutOfBounds { len: 0, need: 4 })));
}

#[test]
fn vtables_and_fields() {
    let (_, vtable, _) = places(&sample(), 0);
    for found in [0, 3, 13, 255] {
        assert_eq!(broken(|b| b[vtable] = found), FlatErrorKind::BadVtable { found: usize::from(found) });
    }
    assert_eq!(broken(|b| b[vtable + 2] = 3), FlatErrorKind::BadField { offset: 0, table: 3 });
    assert!(matches!(broken(|b| b[vtable + 3] = 0xff), FlatErrorKind::OutOfBounds { .. }));
    assert!(matches!(broken(|b| b[vtable + 4] = 2), FlatErrorKind::BadField { offset: 2, .. }));
    assert!(matches!(broken(|b| b[vtable + 5] = 2), FlatErrorKind::BadField { .. }));
    // The number's field moved by four bytes is no longer a multiple of eight.
    let moved = broken(|b| b[vtable + 6] += 4);
    assert!(matches!(moved, FlatErrorKind::Unaligned { align: 8 } | FlatErrorKind::BadField { .. }), "{moved:?}");
}

#[test]
fn vectors_and_strings() {
    let bytes = sample();
    let (_, _, numbers) = places(&bytes, 2);
    let at = numbers + u32_at(&bytes, numbers);
    assert!(matches!(broken(|b| b[at..at + 4].fill(0xff)), FlatErrorKind::OutOfBounds { .. }));
    assert!(matches!(broken(|b| b[at + 1] = 1), FlatErrorKind::OutOfBounds { need: 2064, .. }));
    let (_, _, text) = places(&bytes, 0);
    let at = text + u32_at(&bytes, text);
    assert_eq!(&bytes[at + 4..at + 10], "héllo".as_bytes());
    assert_eq!(broken(|b| b[at + 5] = 0xff), FlatErrorKind::NotUtf8);
}

#[test]
fn a_vector_of_wide_scalars_must_be_aligned() {
    // Byte vectors start at multiples of four; of these two, one starts at a multiple of eight.
    let mut b = Builder::new();
    let mut kinds = Vec::new();
    let blobs = [b.bytes(&[1; 4], 1), b.bytes(&[1; 8], 1)];
    let root = b.table(TableFields::new().offset(TEXT, blobs[0]).offset(NUMBERS, blobs[1]));
    let mut bytes = b.finish(root, b"TEST", false).unwrap();
    bytes.resize(bytes.len() + 128, 1);
    let buffer = FlatBuffer::new(&bytes).unwrap();
    let root = buffer.root(0).unwrap();
    for field in [TEXT, NUMBERS] {
        kinds.push(root.vector::<u64>(field).map(|v| v.unwrap().len()).map_err(|e| e.kind));
    }
    assert_eq!(kinds.iter().filter(|k| **k == Err(FlatErrorKind::Unaligned { align: 8 })).count(), 1, "{kinds:?}");
}

#[test]
fn strings_need_no_nul() {
    let mut bytes = sample();
    let (_, _, text) = places(&bytes, 0);
    let at = text + u32_at(&bytes, text);
    bytes[at + 10] = b'!';
    assert_eq!(read(&bytes), Ok(()));
}

#[test]
fn vectors_of_strings() {
    let mut b = Builder::new();
    let (one, two) = (b.string("one"), b.string(""));
    let both = b.offsets(&[one, two]);
    let root = b.table(TableFields::new().offset(TEXT, both));
    let bytes = b.finish(root, b"TEST", false).unwrap();
    let buffer = FlatBuffer::new(&bytes).unwrap();
    assert_eq!(buffer.root(0).unwrap().strings(TEXT).unwrap(), Some(vec!["one", ""]));
}
