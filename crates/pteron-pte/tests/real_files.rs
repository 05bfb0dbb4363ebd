//! Files made by ExecuTorch: what they say, and that they survive a round trip.

mod common;

use common::{fixture, fixtures, slices, without_layout};
use pteron_pte::*;

/// Name, methods, values and instructions of the first method, arenas, segments `(offset, size)`, number of constant
/// offsets — as ExecuTorch's own reader lists them.
type Facts = (&'static str, &'static [&'static str], usize, usize, &'static [i64], &'static [(u64, u64)], usize);

const FACTS: &[Facts] = &[
    ("hand.pte", &["forward"], 5, 2, &[0, 64], &[(0, 24)], 2),
    ("micro/m_add.pte", &["forward"], 4, 1, &[0, 96], &[(0, 0)], 1),
    ("micro/m_add_noplan_io.pte", &["forward"], 4, 1, &[0, 0], &[(0, 0)], 1),
    ("micro/m_args.pte", &["forward"], 35, 10, &[0, 304], &[(0, 36)], 4),
    ("micro/m_cast.pte", &["forward"], 18, 4, &[0, 144], &[(0, 0)], 1),
    ("micro/m_cast_skipdo.pte", &["forward"], 12, 4, &[0, 144], &[(0, 0)], 1),
    ("micro/m_cond.pte", &["forward"], 27, 13, &[0, 160], &[(0, 24)], 3),
    ("micro/m_mlp.pte", &["forward", "get_name", "lst", "ten"], 20, 5, &[0, 256], &[(0, 288)], 6),
    ("micro/m_mlp_dyn.pte", &["forward"], 20, 5, &[0, 560], &[(0, 268)], 5),
    ("micro/m_mlp_ptd.pte", &["forward"], 20, 5, &[0, 256], &[(0, 0)], 1),
    (
        "micro/m_mlp_xnn.pte",
        &["forward"],
        2,
        1,
        &[0, 128],
        &[(0, 0), (0, 1184), (1280, 128), (1408, 32), (1536, 96), (1664, 12)],
        1,
    ),
    (
        "micro/m_mlp_xnn_inline.pte",
        &["forward"],
        2,
        1,
        &[0, 128],
        &[(0, 0), (0, 128), (128, 32), (256, 96), (384, 12)],
        1,
    ),
    ("micro/m_multiout.pte", &["forward"], 33, 7, &[0, 176], &[(0, 8)], 2),
    ("micro/m_mutbuf.pte", &["forward"], 7, 3, &[0, 96], &[(0, 4)], 2),
    ("micro/m_mutbuf_init.pte", &["forward"], 7, 3, &[0, 96], &[(0, 4), (128, 24)], 2),
    ("micro/m_mutbuf_named.pte", &["forward"], 7, 3, &[0, 96], &[(0, 4)], 2),
    (
        "v1_nokv.pte",
        &[
            "forward",
            "get_max_seq_len",
            "get_max_context_len",
            "get_n_layers",
            "get_vocab_size",
            "use_kv_cache",
            "use_sdpa_with_kv_cache",
            "enable_dynamic_shape",
            "get_bos_id",
            "get_eos_ids",
        ],
        641,
        206,
        &[0, 85312],
        &[(0, 610596)],
        28,
    ),
    (
        "v1b_nokv_static.pte",
        &[
            "forward",
            "get_max_seq_len",
            "get_max_context_len",
            "get_n_layers",
            "get_vocab_size",
            "use_kv_cache",
            "use_sdpa_with_kv_cache",
            "enable_dynamic_shape",
            "get_bos_id",
            "get_eos_ids",
        ],
        503,
        165,
        &[0, 86016],
        &[(0, 613648)],
        26,
    ),
    (
        "v2_kv.pte",
        &[
            "forward",
            "get_max_seq_len",
            "get_max_context_len",
            "get_n_layers",
            "get_vocab_size",
            "use_kv_cache",
            "use_sdpa_with_kv_cache",
            "enable_dynamic_shape",
            "get_bos_id",
            "get_eos_ids",
        ],
        677,
        225,
        &[0, 118336],
        &[(0, 610596)],
        28,
    ),
    (
        "v2b_kv_static.pte",
        &[
            "forward",
            "get_max_seq_len",
            "get_max_context_len",
            "get_n_layers",
            "get_vocab_size",
            "use_kv_cache",
            "use_sdpa_with_kv_cache",
            "enable_dynamic_shape",
            "get_bos_id",
            "get_eos_ids",
        ],
        540,
        177,
        &[0, 58240],
        &[(0, 610596)],
        28,
    ),
    (
        "v3_kv_sdpa.pte",
        &[
            "forward",
            "get_max_seq_len",
            "get_max_context_len",
            "get_n_layers",
            "get_vocab_size",
            "use_kv_cache",
            "use_sdpa_with_kv_cache",
            "enable_dynamic_shape",
            "get_bos_id",
            "get_eos_ids",
        ],
        389,
        145,
        &[0, 93760],
        &[(0, 609540)],
        25,
    ),
    (
        "v6_kv_sdpa_xnn_fp32.pte",
        &[
            "forward",
            "get_max_seq_len",
            "get_max_context_len",
            "get_n_layers",
            "get_vocab_size",
            "use_kv_cache",
            "use_sdpa_with_kv_cache",
            "enable_dynamic_shape",
            "get_bos_id",
            "get_eos_ids",
        ],
        359,
        139,
        &[0, 105728],
        &[
            (0, 134404),
            (134528, 1104),
            (135680, 576),
            (136320, 864),
            (137216, 576),
            (137856, 1104),
            (139008, 576),
            (139648, 864),
            (140544, 576),
            (141184, 576),
            (141824, 16384),
            (158208, 8192),
            (166400, 8192),
            (174592, 16384),
            (190976, 40960),
            (231936, 40960),
            (272896, 40960),
            (313856, 16384),
            (330240, 8192),
            (338432, 8192),
            (346624, 16384),
            (363008, 40960),
            (403968, 40960),
            (444928, 40960),
            (485888, 131072),
        ],
        10,
    ),
    ("micro/m_chlast.pte", &["forward"], 39, 4, &[0, 800], &[(0, 448)], 3),
    ("micro/m_map.pte", &["forward"], 17, 10, &[0, 128], &[(0, 8)], 2),
    ("micro/m_scan.pte", &["forward"], 25, 14, &[0, 160], &[(0, 8)], 2),
    ("micro/m_shared.pte", &["forward", "peek"], 9, 3, &[0, 80, 32], &[(0, 40)], 3),
    ("micro/m_shared_rw.pte", &["accumulate", "replace"], 10, 4, &[0, 80, 32], &[(0, 8)], 2),
];

#[test]
fn every_program_says_what_executorch_says() {
    let names = fixtures("pte");
    for (name, methods, values, instructions, arenas, segments, offsets) in FACTS {
        assert!(names.iter().any(|n| n == name), "{name} is not among the fixtures");
        let bytes = fixture(name);
        let file = PteFile::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let p = file.program();
        let found: Vec<&str> = p.execution_plans.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(&found, methods, "{name}");
        let plan = &p.execution_plans[0];
        assert_eq!(plan.values.len(), *values, "{name}");
        assert_eq!(plan.chains.len(), 1, "{name}");
        assert_eq!(plan.chains[0].instructions.len(), *instructions, "{name}");
        assert_eq!(&plan.non_const_buffer_sizes, arenas, "{name}");
        let found: Vec<(u64, u64)> = p.segments.iter().map(|s| (s.offset, s.size)).collect();
        assert_eq!(&found, segments, "{name}");
        assert_eq!(p.constant_segment.as_ref().unwrap().offsets.len(), *offsets, "{name}");
    }
}

#[test]
fn every_program_survives_a_round_trip() {
    for name in fixtures("pte") {
        let bytes = fixture(&name);
        let file = PteFile::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let p = file.program();
        let segments: Vec<Vec<u8>> =
            (0..p.segments.len() as u32).map(|i| file.segment_bytes(i).unwrap().to_vec()).collect();
        let inline: Vec<&[u8]> =
            p.inline_delegate_data.iter().map(|r| &bytes[r.start as usize..r.end as usize]).collect();
        let specs: Vec<SegmentSpec> = segments.iter().map(|s| SegmentSpec::new(s.len() as u64)).collect();
        let options = EncodeOptions { inline_delegate_data: &inline, ..EncodeOptions::default() };
        let encoded = encode_program(p, &specs, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(encoded, encode_program(p, &specs, &options).unwrap(), "{name}: bytes must be deterministic");

        let mut again = encoded.head.clone();
        for (offset, s) in encoded.segment_offsets.iter().zip(&segments) {
            again.resize((*offset as usize).max(again.len()), 0);
            again.extend_from_slice(s);
        }
        assert_eq!(again.len() as u64, encoded.total_len, "{name}");
        let back = PteFile::parse(&again).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(without_layout(back.program()), without_layout(p), "{name}");
        assert_eq!(back.program().segments, p.segments, "{name}: the exporter's segment offsets");
        assert_eq!(back.notes(), file.notes(), "{name}");
        assert_eq!(dump::program(&without_layout(back.program())), dump::program(&without_layout(p)), "{name}");
        for plan in &p.execution_plans {
            for t in plan.values.iter().filter_map(EValue::as_tensor) {
                assert_eq!(back.constant_bytes(t).unwrap(), file.constant_bytes(t).unwrap(), "{name}");
                assert_eq!(back.mutable_init_bytes(t).unwrap(), file.mutable_init_bytes(t).unwrap(), "{name}");
            }
            for d in &plan.delegates {
                assert_eq!(back.delegate_bytes(d).unwrap(), file.delegate_bytes(d).unwrap(), "{name}");
            }
        }
        for n in &p.named_data {
            assert_eq!(back.named_data(&n.key).unwrap(), file.named_data(&n.key).unwrap(), "{name}");
        }
    }
}

#[test]
fn mlp_constants_and_constant_methods() {
    let bytes = fixture("micro/m_mlp.pte");
    let file = PteFile::parse(&bytes).unwrap();
    assert_eq!(
        file.head().container(),
        ContainerKind::Extended(ExtendedHeader {
            header_len: 32,
            program_size: 3152,
            segment_base_offset: 3200,
            segment_data_size: 288
        })
    );
    assert!(file.notes().is_empty());
    let p = file.program();
    assert_eq!(p.constant_segment.as_ref().unwrap().offsets, [0, 0, 128, 160, 256, 272]);
    let forward = &p.execution_plans[0];
    let t = forward.values[1].as_tensor().unwrap();
    assert_eq!(t.storage(), Storage::Constant { buffer: 2 });
    assert_eq!(file.constant_bytes(t).unwrap().unwrap(), &bytes[3328..3360]);
    assert_eq!(file.head().constant_range(t).unwrap(), Some(3328..3360));
    let t = forward.values[4].as_tensor().unwrap();
    assert_eq!(t.storage(), Storage::Planned(Allocation { memory_id: 1, offset: 128 }));
    assert_eq!(file.constant_bytes(t).unwrap(), None);
    assert_eq!(forward.values[8], EValue::IntList(vec![6, 7]));
    assert_eq!(
        forward.chains[0].instructions[1],
        Instruction::KernelCall { op_index: 1, args: vec![1, 4, 5, 10, 11, 9, 9] }
    );
    assert_eq!(forward.operators[1].to_string(), "aten::addmm.out");
    assert_eq!(p.execution_plans[1].values, [EValue::String("hi".to_owned())]);
    assert_eq!(p.execution_plans[2].values, [EValue::Int(1), EValue::Double(2.5), EValue::Bool(true)]);
    assert!(forward.container_in.starts_with("[1, {\"type\": \"builtins.tuple\""));
}

#[test]
fn every_storage_class_occurs() {
    let check = |name: &str, value: usize, expected: Storage<'_>| {
        let bytes = fixture(name);
        let file = PteFile::parse(&bytes).unwrap();
        let t = file.program().execution_plans[0].values[value].as_tensor().unwrap().clone();
        assert_eq!(t.storage(), expected, "{name}");
    };
    let at = |offset| Allocation { memory_id: 1, offset };
    check("micro/m_mlp_ptd.pte", 1, Storage::ExternalConstant { key: "a.bias" });
    check("micro/m_mutbuf_init.pte", 0, Storage::InitialisedPlanned { buffer: 1, allocation: at(64) });
    check("micro/m_mutbuf_init.pte", 1, Storage::Constant { buffer: 1 });
    check("micro/m_mutbuf_named.pte", 0, Storage::Planned(at(64)));
    check("micro/m_add_noplan_io.pte", 0, Storage::RuntimeSupplied);
    let mut t = Tensor::contiguous(ScalarType::Float, vec![2]);
    t.extra = Some(Box::new(ExtraTensorInfo {
        fully_qualified_name: "w".to_owned(),
        external: true,
        ..ExtraTensorInfo::default()
    }));
    t.allocation = Some(at(0));
    assert_eq!(t.storage(), Storage::ExternalInitialisedPlanned { key: "w", allocation: at(0) });
}

#[test]
fn mutable_initial_contents_come_from_their_segment() {
    let bytes = fixture("micro/m_mutbuf_init.pte");
    let file = PteFile::parse(&bytes).unwrap();
    let values = &file.program().execution_plans[0].values;
    let t = values[0].as_tensor().unwrap();
    assert_eq!(file.mutable_init_bytes(t).unwrap().unwrap(), &bytes[1536 + 128..1536 + 152]);
    assert_eq!(file.constant_bytes(t).unwrap(), None);
    assert_eq!(file.mutable_init_bytes(values[1].as_tensor().unwrap()).unwrap(), None);
}

#[test]
fn control_flow_is_decoded() {
    let bytes = fixture("micro/m_cond.pte");
    let file = PteFile::parse(&bytes).unwrap();
    let code = &file.program().execution_plans[0].chains[0].instructions;
    assert_eq!(code[2], Instruction::JumpFalseCall { cond_value_index: 5, destination_instruction: 8 });
    assert_eq!(code[7], Instruction::JumpFalseCall { cond_value_index: 26, destination_instruction: 13 });
    assert_eq!(code[12], Instruction::MoveCall { move_from: 24, move_to: 7 });
}

#[test]
fn delegate_blobs_inline_and_in_a_segment_are_the_same() {
    let (inline, segment) = (fixture("micro/m_mlp_xnn_inline.pte"), fixture("micro/m_mlp_xnn.pte"));
    let (inline, segment) = (PteFile::parse(&inline).unwrap(), PteFile::parse(&segment).unwrap());
    let (a, b) =
        (&inline.program().execution_plans[0].delegates[0], &segment.program().execution_plans[0].delegates[0]);
    assert_eq!(a.id, "XnnpackBackend");
    assert_eq!(a.data, DelegateData::Inline(0));
    assert!(matches!(b.data, DelegateData::Segment(_)));
    let (a, b) = (inline.delegate_bytes(a).unwrap(), segment.delegate_bytes(b).unwrap());
    assert_eq!(&a[4..8], b"XH00");
    assert_eq!(a, b);
    assert_eq!(inline.notes(), [LegacyNote::InlineDelegates { count: 1 }]);
    let key = "b3c9a4c9abd7bebcee16784f8015fbea34e3e77e3a024cf1320c44fcd8272fa7";
    assert_eq!(inline.named_data(key).unwrap().len(), 128);
    assert_eq!(inline.named_data("nothing"), None);
}

#[test]
fn the_head_alone_is_enough() {
    let bytes = fixture("micro/m_mlp.pte");
    let needed = bytes_needed(&bytes[..64], bytes.len() as u64).unwrap();
    assert_eq!(needed, 3152);
    let head = ParsedHead::parse(&bytes[..3152], bytes.len() as u64).unwrap();
    assert_eq!(&head, PteFile::parse(&bytes).unwrap().head());
    assert_eq!(
        ParsedHead::parse(&bytes[..3151], bytes.len() as u64),
        Err(PteError::HeadTooShort { found: 3151, needed: 3152 })
    );
}

#[test]
fn a_program_without_segment_bytes_is_encoded_without_a_header() {
    let bytes = fixture("micro/m_add.pte");
    let file = PteFile::parse(&bytes).unwrap();
    assert_eq!(file.head().container(), ContainerKind::Plain);
    let again = write_all(file.program(), &slices(&[vec![]])).unwrap();
    let back = PteFile::parse(&again).unwrap();
    assert_eq!(back.head().container(), ContainerKind::Plain);
    assert_eq!(back.program().segments, [DataSegment { offset: 0, size: 0 }]);
    assert_eq!(back.program().constant_segment.as_ref().unwrap().offsets, [0]);
}
