//! The container around a program, old files, files beyond 4 GiB, and limits.

mod common;

use common::{fixture, slices, small_program};
use pteron_pte::flatbuf::{Builder, Field, FlatBuffer, FlatErrorKind, Offset, Table, TableFields};
use pteron_pte::limits::*;
use pteron_pte::*;

fn message(bytes: &[u8]) -> String {
    PteFile::parse(bytes).expect_err("the file must be refused").to_string()
}

fn patched(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = fixture("micro/m_mlp.pte");
    change(&mut bytes);
    bytes
}

fn put(bytes: &mut [u8], at: usize, value: u64, size: usize) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

#[test]
fn other_files_are_named() {
    let hint = |id: &[u8; 4]| message(&patched(|b| b[4..8].copy_from_slice(id)));
    assert!(hint(b"ET13").contains("found \"ET13\", expected \"ET12\"; the file is a program of another"));
    assert!(hint(b"FT01").contains(".ptd"));
    assert!(hint(b"BP08").contains("bundled program"));
    assert!(hint(b"BP07").contains("another format version"));
    assert!(hint(b"\x00\x01\xffa").contains("found \"\\x00\\x01\\xffa\""));
    assert!(message(&fixture("micro/m_mlp.etdp")).contains("ETDump"));
    assert!(message(b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaa").contains("zip"));
    assert!(message(b"GGUF\x03\0\0\0aaaaaaaa").contains("GGUF"));
    assert!(message(b"\x10\0\0\0\0\0\0\0{\"a\":1}").contains("safetensors"));
    assert!(message(b"").contains("found 0 bytes, expected at least 8"));
    let wrong = PtdFile::parse(&fixture("micro/m_mlp.pte")).unwrap_err().to_string();
    assert!(wrong.contains("found \"ET12\", expected \"FT01\"; the file is a .pte program"), "{wrong}");
}

#[test]
fn header_fields() {
    let with = |at, value, size| message(&patched(|b| put(b, at, value, size)));
    assert!(with(12, 23, 4).contains("field 'header length': found 23, expected at least 24"));
    assert!(with(16, 1 << 40, 8).contains("program part: found 3488 bytes"));
    assert!(with(16, 8, 8).contains("field 'program_size': found 8"));
    assert!(with(24, 3151, 8).contains("'segment_base_offset': found 3151, expected at least program_size"));
    assert!(with(24, u64::MAX, 8).contains("an end that fits 64 bits"));
    assert!(with(24, 0, 8).contains("'segment_data_size': found 288, expected 0"));
    assert!(with(32, 289, 8).contains("segment data: found 3488 bytes, expected at least 3489"));
    assert!(with(32, 287, 8).contains("segment 0, field 'offset': found 288 bytes at offset 0"));
    assert!(with(0, 30, 4).contains("field 'root offset': found 30, expected at least 40"));
    // A damaged magic would make a runtime read constants from the start of the file.
    let m = message(&patched(|b| b[8..12].copy_from_slice(b"eh01")));
    assert!(m.contains("'magic': found \"eh01\" and segment 0 of 288 bytes, expected \"eh00\""), "{m}");
}

#[test]
fn a_header_of_24_bytes_is_accepted_with_a_note() {
    let bytes = patched(|b| put(b, 12, 24, 4));
    let file = PteFile::parse(&bytes).unwrap();
    assert_eq!(file.notes(), [LegacyNote::ShortExtendedHeader]);
    let ContainerKind::Extended(h) = file.head().container() else { panic!("there is a header") };
    assert_eq!((h.header_len, h.segment_data_size), (24, 0));
    assert_eq!(file.segment_bytes(0).unwrap().len(), 288);
    let m = message(&bytes[..bytes.len() - 1]);
    assert!(m.contains("288 bytes at offset 0, expected them within 287"), "{m}");
    // Longer headers of later writers are accepted as long as the root table lies behind them.
    assert!(PteFile::parse(&patched(|b| put(b, 12, 52, 4))).unwrap().notes().is_empty());
    assert!(message(&patched(|b| put(b, 12, 53, 4))).contains("field 'root offset': found 60, expected at least 61"));
}

const fn slot(n: u16) -> Field {
    Field::new(n, "test")
}

/// A program as an old exporter wrote it: inline constants and delegate blobs, no constant segment, no delegate table, no
/// upper half of memory offsets, no header.
fn old_program(constant: &[u8], version: u32) -> Vec<u8> {
    let mut b = Builder::new();
    let table = |b: &mut Builder, t: TableFields| b.table(t);
    let tensor = |b: &mut Builder, buffer: u32, arena: bool| {
        let sizes = b.vector([2i32].into_iter());
        let order = b.bytes(&[0], 1);
        let allocation = arena.then(|| table(b, TableFields::new().forced(slot(0), 1u32).forced(slot(1), 8u32)));
        let t = TableFields::new().forced(slot(0), 6i8).offset(slot(2), sizes).offset(slot(3), order);
        let t = b.table(t.scalar(slot(5), buffer, 0).maybe(slot(6), allocation));
        b.table(TableFields::new().union(slot(1), 5, t))
    };
    let values = [tensor(&mut b, 1, false), tensor(&mut b, 0, true)];
    let values = b.offsets(&values);
    let name = b.string("forward");
    let io = b.vector([1i32].into_iter());
    let none: Offset = b.offsets(&[]);
    let chain = b.table(TableFields::new().offset(slot(2), none));
    let chains = b.offsets(&[chain]);
    let sizes = b.vector([0i64, 16].into_iter());
    let plan = TableFields::new().offset(slot(0), name).offset(slot(2), values).offset(slot(3), io);
    let plan = plan.offset(slot(4), io).offset(slot(5), chains).offset(slot(8), sizes);
    let plan = b.table(plan);
    let plans = b.offsets(&[plan]);
    let placeholder = b.table(TableFields::new());
    let data = b.bytes(constant, 16);
    let data = b.table(TableFields::new().offset(slot(0), data));
    let buffers = b.offsets(&[placeholder, data]);
    let blobs = b.offsets(&[data]);
    let root = TableFields::new().scalar(slot(0), version, 0).offset(slot(1), plans).offset(slot(2), buffers);
    let root = b.table(root.offset(slot(3), blobs));
    b.finish(root, b"ET12", false).unwrap()
}

#[test]
fn old_files_are_accepted_with_notes() {
    let bytes = old_program(b"12345678", 0);
    let file = PteFile::parse(&bytes).unwrap();
    let notes = [
        LegacyNote::NoOperatorTable { method: "forward".to_owned() },
        LegacyNote::NoDelegateTable { method: "forward".to_owned() },
        LegacyNote::NoConstantSegment,
        LegacyNote::InlineConstants { count: 1 },
        LegacyNote::InlineDelegates { count: 1 },
    ];
    assert_eq!(file.notes(), notes);
    assert!(notes.iter().all(|n| !n.to_string().is_empty()));
    let values = &file.program().execution_plans[0].values;
    assert_eq!(file.constant_bytes(values[0].as_tensor().unwrap()).unwrap().unwrap(), b"12345678");
    let planned = values[1].as_tensor().unwrap();
    assert_eq!(planned.storage(), Storage::Planned(Allocation { memory_id: 1, offset: 8 }));
    let m = message(&old_program(b"1234567", 0));
    assert!(m.contains("value 0") && m.contains("8 bytes at offset 0, expected them within 7 bytes"), "{m}");
    assert!(message(&old_program(b"12345678", 1)).contains("schema version: found 1"));
}

#[test]
fn four_gib_and_beyond() {
    let gib = 1u64 << 30;
    let (mut program, _) = small_program();
    let plan = &mut program.execution_plans[0];
    let EValue::Tensor(t) = &mut plan.values[1] else { panic!("value 1 is a tensor") };
    t.data_buffer_idx = 2;
    plan.non_const_buffer_sizes = vec![0, 6 * gib as i64];
    let EValue::Tensor(t) = &mut plan.values[0] else { panic!("value 0 is a tensor") };
    let allocation = Allocation { memory_id: 1, offset: 5 * gib + 16 };
    t.allocation = Some(allocation);
    program.constant_segment = Some(SubsegmentOffsets { segment_index: 0, offsets: vec![0, 0, 5 * gib] });
    let specs = [SegmentSpec::new(5 * gib + 24), SegmentSpec { size: 7 * gib, alignment: 4096 }];
    let e = encode_program(&program, &specs, &EncodeOptions::default()).unwrap();
    assert!(e.head.len() < 1 << 16, "the head holds no segment");
    assert_eq!(e.segment_offsets[0], e.head.len() as u64);
    assert_eq!(e.segment_offsets[1] % 4096, 0);
    assert_eq!(e.total_len, e.segment_offsets[1] + 7 * gib);

    let head = ParsedHead::parse(&e.head, e.total_len).unwrap();
    let values = &head.program().execution_plans[0].values;
    let constant = head.constant_range(values[1].as_tensor().unwrap()).unwrap().unwrap();
    assert_eq!(constant, e.segment_offsets[0] + 5 * gib..e.segment_offsets[0] + 5 * gib + 24);
    assert_eq!(values[0].as_tensor().unwrap().allocation, Some(allocation));
    assert_eq!(head.named_data_range("a").unwrap(), e.segment_offsets[1]..e.total_len);
    assert_eq!(bytes_needed(&e.head[..64], e.total_len).unwrap(), e.program_size);
    assert!(matches!(ParsedHead::parse(&e.head, e.total_len - 1), Err(PteError::TooShort { .. })));
    let huge = [SegmentSpec::new(i64::MAX as u64), SegmentSpec::new(1)];
    assert!(matches!(
        encode_program(&program, &huge, &EncodeOptions::default()),
        Err(PteError::Unwritable { what: "segment layout", .. })
    ));
}

#[test]
fn segments_are_aligned_and_inline_blobs_too() {
    let (mut program, _) = small_program();
    let inline = DelegateData::Inline(0);
    let delegate = BackendDelegate {
        id: "XnnpackBackend".to_owned(),
        data: inline,
        compile_specs: vec![CompileSpec { key: "k".to_owned(), value: vec![1, 2] }],
    };
    program.execution_plans[0].delegates.push(delegate.clone());
    let specs = [SegmentSpec::new(24), SegmentSpec { size: 5, alignment: 96 }];
    let options = EncodeOptions { segment_alignment: 64, inline_delegate_data: &[b"blob"] };
    let e = encode_program(&program, &specs, &options).unwrap();
    assert_eq!(e.segment_offsets[0] % 64, 0);
    assert_eq!(e.segment_offsets[1] % 192, 0);
    let head = ParsedHead::parse(&e.head, e.total_len).unwrap();
    let r = head.delegate_range(&delegate).unwrap();
    assert_eq!(r.start % 16, 0);
    assert_eq!(&e.head[r.start as usize..r.end as usize], b"blob");
    assert_eq!(head.program().execution_plans[0].delegates, [delegate]);
    let bad = [SegmentSpec { size: 24, alignment: 0 }, SegmentSpec::new(5)];
    assert!(encode_program(&program, &bad, &options).is_err());
}

/// `count` tables nested into one another.
fn nested(count: u32) -> Vec<u8> {
    let mut b = Builder::new();
    let mut t = b.table(TableFields::new());
    for _ in 1..count {
        t = b.table(TableFields::new().offset(slot(0), t));
    }
    b.finish(t, b"TEST", false).unwrap()
}

fn depth(table: Table<'_, '_>) -> Result<u32, FlatErrorKind> {
    match table.table(slot(0)).map_err(|e| e.kind)? {
        Some(t) => Ok(depth(t)? + 1),
        None => Ok(1),
    }
}

#[test]
fn limit_depth() {
    let read = |count| {
        let bytes = nested(count);
        let buffer = FlatBuffer::new(&bytes).unwrap();
        depth(buffer.root(0).unwrap())
    };
    assert_eq!(read(MAX_DEPTH), Ok(MAX_DEPTH));
    assert_eq!(read(MAX_DEPTH + 1), Err(FlatErrorKind::TooDeep { limit: MAX_DEPTH }));
}

/// A program part whose named data are `count` references to one table.
fn many_tables(count: usize) -> Vec<u8> {
    let mut b = Builder::new();
    let segment = b.table(TableFields::new());
    let segments = b.offsets(&vec![segment; count]);
    let plans = b.offsets(&[]);
    let root = b.table(TableFields::new().offset(slot(1), plans).offset(slot(4), segments));
    b.finish(root, b"ET12", false).unwrap()
}

#[test]
fn limit_tables() {
    // One table is the root.
    let bytes = many_tables(MAX_TABLES as usize - 1);
    assert_eq!(PteFile::parse(&bytes).unwrap().program().segments.len(), MAX_TABLES as usize - 1);
    let m = message(&many_tables(MAX_TABLES as usize));
    assert!(m.contains("field 'segments'") && m.contains("more than 1000000 tables"), "{m}");
}

#[test]
fn limit_bytes_visited() {
    // Thousands of fields that share one long string: each one alone is well-formed.
    let build = |count: usize| {
        let mut b = Builder::new();
        let text = b.string(&"x".repeat(1 << 16));
        let key = b.table(TableFields::new().offset(slot(0), text).offset(slot(1), text));
        let operators = b.offsets(&vec![key; count]);
        let name = b.string("forward");
        let none = b.offsets(&[]);
        let plan = TableFields::new().offset(slot(0), name).offset(slot(2), none).offset(slot(6), operators);
        let plan = b.table(plan);
        let plans = b.offsets(&[plan]);
        let root = b.table(TableFields::new().offset(slot(1), plans));
        b.finish(root, b"ET12", false).unwrap()
    };
    let bytes = build(1000);
    assert!((bytes.len() as u64) * MAX_REVISIT > MIN_VISIT_BUDGET);
    assert!(message(&bytes).contains("vectors that overlap to more than"), "{}", message(&bytes));
    assert!(message(&build(1)).contains("field 'chains': found nothing"), "{}", message(&build(1)));
}

#[test]
fn limit_rank() {
    let with_rank = |rank: usize| {
        let (mut program, segments) = small_program();
        program.execution_plans[0].values[13] = EValue::Tensor(Tensor::contiguous(ScalarType::Bool, vec![1; rank]));
        write_all(&program, &slices(&segments)).map(|b| PteFile::parse(&b).map(drop))
    };
    assert_eq!(with_rank(MAX_RANK), Ok(Ok(())));
    let m = with_rank(MAX_RANK + 1).unwrap_err().to_string();
    assert!(m.contains("value 13, field 'sizes': found rank 17, expected a rank of at most 16"), "{m}");
}

#[test]
fn limit_operator_key() {
    let with_name = |len: usize| {
        let (mut program, segments) = small_program();
        program.execution_plans[0].operators[0].name = "n".repeat(len);
        write_all(&program, &slices(&segments))
    };
    // ".out" takes four bytes.
    assert!(with_name(MAX_OPERATOR_KEY_LEN - 4).is_ok());
    let m = with_name(MAX_OPERATOR_KEY_LEN - 3).unwrap_err().to_string();
    assert!(m.contains("operator 0, field 'name': found 100 bytes, expected at most 99"), "{m}");
}

#[test]
fn limit_file_length() {
    let short = &fixture("micro/m_add.pte")[..MIN_FILE_LEN as usize - 1];
    assert!(message(short).contains("program file: found 63 bytes, expected at least 64"));
    // A plain file is a FlatBuffers buffer as a whole, and so cannot be longer than offsets span.
    let head = fixture("micro/m_add.pte");
    let len = MAX_FLATBUFFER_LEN + 1;
    assert_eq!(
        ParsedHead::parse(&head, len),
        Err(PteError::TooLong { what: "program part", found: len, limit: MAX_FLATBUFFER_LEN })
    );
}

#[test]
fn limit_schema_version() {
    assert_eq!(MAX_SCHEMA_VERSION, 0);
    assert!(PteFile::parse(&old_program(b"12345678", MAX_SCHEMA_VERSION)).is_ok());
    assert!(PteFile::parse(&old_program(b"12345678", MAX_SCHEMA_VERSION + 1)).is_err());
}
