//! Programs of ExecuTorch's exporter, lifted.

mod common;

use common::{PROGRAMS, external, fixture, lift_bytes, operators, text, verified};
use pteron_ir::{ConstData, MetaValue, Op, Type};
use pteron_program::bundled::{CaseValue, test_cases};
use pteron_program::{InputSlot, OutputSlot, RuntimeProfile, missing_operators, summary};
use pteron_pte::{BundledProgram, ParsedHead};

#[test]
fn every_fixture_lifts_and_verifies() {
    for name in PROGRAMS {
        let lifted = lift_bytes(fixture(name), Vec::new()).unwrap_or_else(|e| panic!("{name}: {e}"));
        verified(&lifted.module);
        let expected: &[&str] =
            if name.ends_with("inline.pte") { &["1 delegate blobs are stored inside the program"] } else { &[] };
        assert_eq!(lifted.notes, expected, "{name}");
        assert_eq!(lifted.io.len(), lifted.module.graphs.len());
    }
}

#[test]
fn key_value_cache_by_index_put() {
    let l = lift_bytes(fixture("v2_kv.pte"), Vec::new()).unwrap();
    let (m, g) = (&l.module, &l.module.graphs[0]);
    assert_eq!(m.buffers.len(), 4);
    assert!(m.buffers.values().all(|b| b.ty.to_string() == "f32[1, 2, 32, 16]" && b.init.is_none()));
    assert_eq!(g.mutations.len(), 4);
    let count = |op: Op| g.all_nodes().into_iter().filter(|&n| g.nodes[n].op == op).count();
    assert_eq!((count(Op::IndexPut), count(Op::CopyInto), count(Op::Linear)), (4, 4, 15));
    // 24 dynamic views of the file; its static ones are on top.
    assert!(count(Op::ViewCopy) >= 24);
    assert_eq!(g.ty(g.inputs[0]).to_string(), "i64[1, ?0..=31]");
    assert_eq!(g.ty(g.outputs()[0]).to_string(), "f32[1, 512]");
    let eos = m.metadata.iter().find(|m| m.name.as_ref() == "get_eos_ids").unwrap();
    assert!(matches!(eos.values.as_slice(), [MetaValue::Int(2), MetaValue::Int(3)]));
    assert_eq!(m.metadata.len(), 9);
    // One mask of the file serves both layers.
    assert_eq!(m.constants.len(), 27);
}

#[test]
fn key_value_cache_by_custom_operators() {
    let l = lift_bytes(fixture("v3_kv_sdpa.pte"), Vec::new()).unwrap();
    let g = &l.module.graphs[0];
    let ops = operators(g);
    assert_eq!(ops.iter().filter(|o| **o == "llama::update_cache").count(), 4);
    assert_eq!(ops.iter().filter(|o| **o == "llama::custom_sdpa").count(), 2);
    assert_eq!(g.mutations.len(), 4);
    // Attention reads the cache as it is after the update.
    for n in g.all_nodes().into_iter().filter(|&n| g.nodes[n].op == Op::CustomSdpa) {
        let pteron_ir::Arg::Value(k) = g.nodes[n].args[1] else { panic!("no key") };
        assert!(g.mutations.iter().any(|m| m.1 == k));
    }
}

#[test]
fn jumps_become_regions() {
    let l = lift_bytes(fixture("micro/m_cond.pte"), Vec::new()).unwrap();
    let t = text(&l.module);
    assert!(t.contains("= cond(%2) : f32[2, 3]") && t.contains("yield %6") && t.contains("yield %10"), "{t}");
    let l = lift_bytes(fixture("micro/m_map.pte"), Vec::new()).unwrap();
    let t = text(&l.module);
    assert!(t.contains("= loop(%3, %4) : f32[?0..=2, ?0..=3], int"), "{t}");
    assert!(l.module.buffers.is_empty(), "the loop's scratch is no state");
    let l = lift_bytes(fixture("micro/m_scan.pte"), Vec::new()).unwrap();
    assert!(l.module.buffers.is_empty() && text(&l.module).contains("aten::copy_("), "{}", text(&l.module));
}

#[test]
fn state_and_its_initial_contents() {
    let l = lift_bytes(fixture("micro/m_mutbuf_init.pte"), Vec::new()).unwrap();
    let b = l.module.buffers.values().next().unwrap();
    assert_eq!(b.name.as_ref(), "forward.mem1@64");
    let ConstData::Source(s) = &l.module.constants[b.init.unwrap()].data else { panic!("no source") };
    assert_eq!(pteron_tensor::read_all(s.as_ref()).unwrap()[..4], 5f32.to_le_bytes());
    let l = lift_bytes(fixture("micro/m_mutbuf_named.pte"), Vec::new()).unwrap();
    assert_eq!(l.module.buffers.values().next().unwrap().name.as_ref(), "cnt");
    let l = lift_bytes(fixture("micro/m_shared_rw.pte"), Vec::new()).unwrap();
    assert_eq!(l.module.buffers.len(), 1);
    assert!(l.module.graphs.iter().all(|g| g.mutations.len() == 1));
}

#[test]
fn external_constants() {
    let l = lift_bytes(fixture("micro/m_mlp_ptd.pte"), Vec::new()).unwrap();
    assert!(l.module.constants.values().all(|c| matches!(c.data, ConstData::External(_))));
    let file = external("micro/_default_external_constant.ptd");
    let l = lift_bytes(fixture("micro/m_mlp_ptd.pte"), vec![file]).unwrap();
    let names: Vec<_> = l.module.constants.values().map(|c| c.name.to_string()).collect();
    assert_eq!(names, ["a.weight", "a.bias", "b.weight", "b.bias"]);
    let plain = lift_bytes(fixture("micro/m_mlp.pte"), Vec::new()).unwrap();
    for (a, b) in l.module.constants.values().zip(plain.module.constants.values()) {
        let (ConstData::Source(a), ConstData::Source(b)) = (&a.data, &b.data) else { panic!("no sources") };
        assert_eq!(
            &pteron_tensor::read_all(a.as_ref()).unwrap()[..],
            &pteron_tensor::read_all(b.as_ref()).unwrap()[..]
        );
    }
}

#[test]
fn delegates() {
    let l = lift_bytes(fixture("v6_kv_sdpa_xnn_fp32.pte"), Vec::new()).unwrap();
    let g = &l.module.graphs[0];
    let calls: Vec<_> = g.all_nodes().into_iter().filter(|&n| g.nodes[n].op == Op::Delegate).collect();
    assert!(!calls.is_empty() && calls.len() == l.module.delegates.len());
    assert!(calls.iter().all(|&n| !g.nodes[n].args.is_empty() && !g.nodes[n].outputs.is_empty()));
    assert!(l.module.delegates.values().all(|d| d.backend.as_ref() == "XnnpackBackend" && !d.named_data.is_empty()));
    let a = lift_bytes(fixture("micro/m_mlp_xnn.pte"), Vec::new()).unwrap();
    let b = lift_bytes(fixture("micro/m_mlp_xnn_inline.pte"), Vec::new()).unwrap();
    assert_eq!(text(&a.module), text(&b.module), "where the payload stands does not matter");
}

#[test]
fn inputs_and_outputs() {
    let l = lift_bytes(fixture("micro/m_multiout.pte"), Vec::new()).unwrap();
    let io = &l.io[0];
    assert!(matches!(io.inputs.as_slice(), [InputSlot::Graph { position: 0, traced: None }]));
    assert_eq!(io.outputs.len(), 6);
    assert!(io.outputs.iter().enumerate().all(|(i, o)| matches!(o, OutputSlot::Graph { position } if *position == i)));
    assert!(
        matches!(l.module.graphs[0].ty(l.module.graphs[0].outputs()[1]), Type::Tensor(t) if t.to_string() == "i64[2, 2]")
    );
}

#[test]
fn bundled_programs() {
    let bytes = fixture("micro/m_mlp.bpte");
    let file = BundledProgram::parse(&bytes).unwrap();
    let l = lift_bytes(file.program.to_vec(), Vec::new()).unwrap();
    verified(&l.module);
    let cases = test_cases(&file).unwrap();
    assert!(!cases.is_empty() && cases.iter().all(|c| c.method == "forward"));
    let CaseValue::Tensor(t) = &cases[0].inputs[0] else { panic!("no tensor") };
    assert_eq!(t.sizes(), [2, 4]);
    let CaseValue::Tensor(t) = &cases[0].expected[0] else { panic!("no tensor") };
    assert_eq!(t.sizes(), [2, 3]);
}

#[test]
fn summaries() {
    let bytes = fixture("v3_kv_sdpa.pte");
    let head = ParsedHead::parse(&bytes, bytes.len() as u64).unwrap();
    let s = summary(&head);
    let m = &s.methods[0];
    assert_eq!((m.name.as_str(), m.instructions, s.methods.len(), s.metadata.len()), ("forward", 145, 1, 9));
    assert_eq!((m.operators[0].name.as_str(), m.operators[0].count), ("aten::mul.out", 35));
    assert_eq!(m.inputs[0].ty, "i64[1, <=31]");
    assert!(!m.inputs[0].planned && m.outputs[0].planned);
    assert_eq!(m.constants, 24);
    assert!(missing_operators(&head, RuntimeProfile::ExecuTorch1_5_1).is_empty());
    assert!(missing_operators(&head, RuntimeProfile::Pteron).is_empty());
    let bytes = fixture("micro/m_mlp_xnn.pte");
    let head = ParsedHead::parse(&bytes, bytes.len() as u64).unwrap();
    assert!(missing_operators(&head, RuntimeProfile::Pteron).is_empty());
    // Another backend in its place is one that Pteron lacks.
    let at = bytes.windows(14).position(|w| w == b"XnnpackBackend").unwrap();
    let mut other = bytes.clone();
    other[at..at + 14].copy_from_slice(b"CoreMLBackendX");
    let other = ParsedHead::parse(&other, other.len() as u64).unwrap();
    let missing = missing_operators(&other, RuntimeProfile::Pteron);
    assert_eq!((missing.len(), missing[0].is_backend, missing[0].calls), (1, true, 1));
    assert_eq!(missing[0].key, "CoreMLBackendX");
    assert_eq!(summary(&head).methods[0].delegates[0].bytes, 1184);
}

#[test]
fn no_lift_of_a_damaged_program_panics() {
    // Every byte of a small program's head, changed: parsing refuses, or lifting gives a module or an error.
    for name in ["micro/m_cond.pte", "micro/m_scan.pte", "micro/m_mutbuf_init.pte"] {
        let bytes = fixture(name);
        for at in 40..bytes.len().min(2600) {
            for flip in [0x01, 0x80] {
                let mut b = bytes.clone();
                b[at] ^= flip;
                let _ = lift_bytes(b, Vec::new());
            }
        }
    }
}
