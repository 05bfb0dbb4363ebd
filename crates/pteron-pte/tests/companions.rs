//! `.ptd`, `.bpte` and `.etdp`.

mod common;

use common::{fixture, fixtures, small_program};
use pteron_pte::*;

#[test]
fn every_companion_fixture_is_readable() {
    for name in fixtures("ptd") {
        PtdFile::parse(&fixture(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for name in fixtures("bpte") {
        BundledProgram::parse(&fixture(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    for name in fixtures("etdp") {
        EtDump::parse(&fixture(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn external_constants_of_executorch() {
    let bytes = fixture("micro/_default_external_constant.ptd");
    let file = PtdFile::parse(&bytes).unwrap();
    let head = file.head();
    assert_eq!((head.segment_base_offset, head.segment_data_size, head.head_size), (512, 396, 504));
    let found: Vec<(&str, Vec<i32>, u64)> = file
        .entries()
        .iter()
        .map(|e| (e.key.as_str(), e.layout.as_ref().unwrap().sizes.clone(), e.range.end - e.range.start))
        .collect();
    let expected =
        [("a.weight", vec![8, 4], 128), ("a.bias", vec![8], 32), ("b.weight", vec![3, 8], 96), ("b.bias", vec![3], 12)];
    assert_eq!(found, expected);
    // The tensors of the program that uses the file find their data by name, with the same shape.
    let pte = fixture("micro/m_mlp_ptd.pte");
    let pte = PteFile::parse(&pte).unwrap();
    let mut external = 0;
    for t in pte.program().execution_plans[0].values.iter().filter_map(EValue::as_tensor) {
        if let Storage::ExternalConstant { key } = t.storage() {
            let layout = head.entry(key).unwrap().layout.clone().unwrap();
            assert_eq!((layout.scalar_type, &layout.sizes, &layout.dim_order), (t.scalar_type, &t.sizes, &t.dim_order));
            assert_eq!(file.data(key).unwrap().len() as u64, t.nbytes().unwrap());
            external += 1;
        }
    }
    assert_eq!(external, 4);
}

#[test]
fn ptd_round_trip() {
    let bytes = fixture("micro/_default_external_constant.ptd");
    let file = PtdFile::parse(&bytes).unwrap();
    let head = file.head();
    let specs: Vec<PtdSpec> = head
        .entries
        .iter()
        .map(|e| PtdSpec { key: e.key.clone(), layout: e.layout.clone(), segment_index: e.segment_index })
        .collect();
    let base = head.segment_base_offset;
    let segments: Vec<&[u8]> =
        head.segments.iter().map(|s| &bytes[(base + s.offset) as usize..(base + s.offset + s.size) as usize]).collect();
    let again = write_ptd(&specs, &segments).unwrap();
    assert_eq!(again, write_ptd(&specs, &segments).unwrap());
    let back = PtdFile::parse(&again).unwrap();
    assert_eq!(back.head().segments, head.segments);
    for (a, b) in back.entries().iter().zip(&head.entries) {
        assert_eq!((&a.key, &a.layout, a.segment_index), (&b.key, &b.layout, b.segment_index));
        assert_eq!(a.range.start % 128, 0);
        assert_eq!(back.data(&a.key), file.data(&b.key));
    }
    assert_eq!(&again[4..8], b"FT01");
    assert_eq!(again[16..24], 48u64.to_le_bytes());
}

#[test]
fn ptd_writer_refuses_what_the_reader_refuses() {
    let spec = |key: &str, sizes: Vec<i32>, segment_index| PtdSpec {
        key: key.to_owned(),
        layout: Some(TensorLayout { scalar_type: ScalarType::Float, dim_order: vec![0], sizes }),
        segment_index,
    };
    let segments = [SegmentSpec::new(16)];
    assert!(encode_ptd(&[spec("a", vec![4], 0)], &segments).is_ok());
    let message = |entries: &[PtdSpec]| encode_ptd(entries, &segments).unwrap_err().to_string();
    assert!(message(&[spec("a", vec![4], 0), spec("a", vec![4], 0)]).contains("'a' a second time"));
    assert!(message(&[spec("a", vec![5], 0)]).contains("20 bytes at offset 0, expected them within 16"));
    assert!(message(&[spec("a", vec![4], 1)]).contains("index 1"));
    assert!(message(&[spec("a", vec![-4], 0)]).contains("sizes of at least 0"));
    // An opaque blob and no entry at all.
    let opaque = PtdSpec { key: "x".to_owned(), layout: None, segment_index: 0 };
    let file = write_ptd(&[opaque], &[b"abc"]).unwrap();
    assert_eq!(PtdFile::parse(&file).unwrap().data("x").unwrap(), b"abc");
    assert!(PtdFile::parse(&write_ptd(&[], &[]).unwrap()).unwrap().entries().is_empty());
}

#[test]
fn ptd_beyond_four_gib() {
    let gib = 1u64 << 30;
    let layout = Some(TensorLayout { scalar_type: ScalarType::Byte, sizes: vec![5, 1 << 30], dim_order: vec![0, 1] });
    let entries = [
        PtdSpec { key: "big".to_owned(), layout, segment_index: 0 },
        PtdSpec { key: "behind".to_owned(), layout: None, segment_index: 1 },
    ];
    let e = encode_ptd(&entries, &[SegmentSpec::new(5 * gib), SegmentSpec { size: 10, alignment: 4096 }]).unwrap();
    assert_eq!(e.segment_offsets[1] % 4096, 0);
    let head = PtdHead::parse(&e.head, e.total_len).unwrap();
    assert_eq!(head.entry("behind").unwrap().range, e.segment_offsets[1]..e.total_len);
    assert!(matches!(PtdHead::parse(&e.head, e.total_len - 1), Err(PteError::TooShort { .. })));
    assert_eq!(PtdHead::bytes_needed(&e.head[..64], e.total_len).unwrap(), e.program_size);
}

#[test]
fn bundled_program_of_executorch() {
    let bytes = fixture("micro/m_mlp.bpte");
    let b = BundledProgram::parse(&bytes).unwrap();
    assert_eq!(b.suites.len(), 1);
    let suite = &b.suites[0];
    assert_eq!((suite.method_name.as_str(), suite.cases.len()), ("forward", 1));
    let BundledValue::Tensor(input) = &suite.cases[0].inputs[0] else { panic!("the input is a tensor") };
    assert_eq!((input.scalar_type, input.sizes.as_slice(), input.data.len()), (ScalarType::Float, &[2, 4][..], 32));
    let BundledValue::Tensor(output) = &suite.cases[0].expected_outputs[0] else { panic!("the output is a tensor") };
    assert_eq!(output.sizes, [2, 3]);
    assert_eq!(b.pte().unwrap().program().execution_plans[0].values.len(), 20);

    let again = b.encode().unwrap();
    assert_eq!(again, b.encode().unwrap());
    assert_eq!(BundledProgram::parse(&again).unwrap(), b);
    let at = again.windows(b.program.len()).position(|w| w == b.program).unwrap();
    assert_eq!(at % 32, 0, "the embedded program must be aligned");
}

#[test]
fn bundled_values_of_every_kind_and_refusals() {
    let (program, segments) = small_program();
    let pte = write_all(&program, &common::slices(&segments)).unwrap();
    let data = [0u8; 24];
    let tensor = |data| {
        BundledValue::Tensor(BundledTensor {
            scalar_type: ScalarType::Float,
            sizes: vec![2, 3],
            dim_order: vec![0, 1],
            data,
        })
    };
    let bundle = |method: &str, inputs, expected_outputs| BundledProgram {
        suites: vec![TestSuite { method_name: method.to_owned(), cases: vec![TestCase { inputs, expected_outputs }] }],
        program: &pte,
    };
    for v in [tensor(&data), BundledValue::Int(-3), BundledValue::Bool(true), BundledValue::Double(0.25)] {
        let b = bundle("forward", vec![tensor(&data)], vec![v]);
        assert_eq!(BundledProgram::parse(&b.encode().unwrap()).unwrap(), b);
    }
    let message = |b: BundledProgram<'_>| b.encode().unwrap_err().to_string();
    assert!(message(bundle("backward", vec![], vec![])).contains("found 'backward'"));
    assert!(message(bundle("forward", vec![], vec![])).contains("found 0 values, expected 1, the method's inputs"));
    assert!(message(bundle("forward", vec![tensor(&data[..20])], vec![])).contains("20 bytes of data"));
    let two = vec![tensor(&data), tensor(&data)];
    assert!(message(bundle("forward", vec![tensor(&data)], two)).contains("none or 1, the method's outputs"));
}

#[test]
fn profile_dump_of_executorch() {
    let bytes = fixture("micro/m_mlp.etdp");
    let dump = EtDump::parse(&bytes).unwrap();
    let blocks: Vec<&str> = dump.run_data.iter().map(|r| r.name.as_deref().unwrap()).collect();
    assert_eq!(blocks, ["Default", "Execute"]);
    let names: Vec<&str> = dump.profile_events().filter_map(|(_, e)| e.name.as_deref()).collect();
    for name in ["Program::load_method", "Method::execute", "OPERATOR_CALL", "native_call_addmm.out"] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    assert_eq!(names.iter().filter(|n| **n == "OPERATOR_CALL").count(), 5, "one for each instruction");
    let span = |name: &str| dump.profile_events().find(|(_, e)| e.name.as_deref() == Some(name)).unwrap().1;
    let method = span("Method::execute");
    assert!(method.end_time > method.start_time);
    for (_, e) in dump.profile_events().filter(|(_, e)| e.name.as_deref() == Some("OPERATOR_CALL")) {
        assert!(method.start_time <= e.start_time && e.end_time <= method.end_time);
    }
    let again = dump.encode().unwrap();
    assert_eq!(EtDump::parse(&again).unwrap(), dump);
    assert_eq!(u32::from_le_bytes(again[..4].try_into().unwrap()) as usize, again.len() - 4);
}

#[test]
fn every_kind_of_event_survives() {
    let tensor = DebugTensor { scalar_type: ScalarType::Half, sizes: vec![2, 3], strides: vec![3, 1], offset: 64 };
    let values = [
        DebugValue::Null,
        DebugValue::Int(-1),
        DebugValue::Bool(true),
        DebugValue::Float(0.5),
        DebugValue::Double(-0.0),
        DebugValue::Tensor(tensor.clone()),
        DebugValue::TensorList(vec![tensor.clone(), tensor]),
        DebugValue::String,
    ];
    let mut events: Vec<Event> = values
        .into_iter()
        .map(|v| Event {
            debug: Some(DebugEvent {
                name: Some("x".to_owned()),
                chain_index: 1,
                instruction_id: 2,
                delegate_debug_id_int: -1,
                delegate_debug_id_str: None,
                value: Some(v),
                output: Some(true),
            }),
            ..Event::default()
        })
        .collect();
    events.push(Event {
        allocation: Some(AllocationEvent { allocator_id: 1, allocation_size: 1 << 40 }),
        ..Event::default()
    });
    events.push(Event {
        profile: Some(ProfileEvent {
            name: None,
            chain_index: 0,
            instruction_id: -1,
            delegate_debug_id_int: 7,
            delegate_debug_id_str: Some("node".to_owned()),
            delegate_debug_metadata: Some(vec![1, 2, 3]),
            start_time: 5,
            end_time: 9,
        }),
        ..Event::default()
    });
    let run = RunData {
        name: Some("Execute".to_owned()),
        bundled_input_index: 3,
        allocators: vec!["a".to_owned(), String::new()],
        events,
    };
    let mut dump = EtDump { version: 0, run_data: vec![run] };
    assert_eq!(EtDump::parse(&dump.encode().unwrap()).unwrap(), dump);
    let last = dump.run_data[0].events.last_mut().unwrap();
    last.profile.as_mut().unwrap().end_time = 4;
    let message = EtDump::parse(&dump.encode().unwrap()).unwrap_err().to_string();
    assert!(message.contains("run 0 event 9") && message.contains("end_time"), "{message}");
}
