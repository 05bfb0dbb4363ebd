//! Lift, emit, lift again.

mod common;

use common::{PROGRAMS, emit_bytes, fixture, lift_bytes, operators, text, verified};
use pteron_program::EmitOptions;
use pteron_pte::ParsedHead;

/// View operators, which all become `et_view` or nothing, and sizes that they ask for.
fn is_view(op: &&str) -> bool {
    matches!(*op, "aten::view_copy" | "aten::unsqueeze_copy" | "aten::squeeze_copy.dims" | "aten::sym_size.int")
}

#[test]
fn a_lifted_program_emits_to_the_same_module() {
    for name in PROGRAMS {
        for alloc_graph_input in [false, true] {
            let options = EmitOptions { alloc_graph_input, ..EmitOptions::default() };
            let first = lift_bytes(fixture(name), Vec::new()).unwrap();
            let bytes = emit_bytes(&first.module, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(bytes, emit_bytes(&first.module, &options).unwrap(), "{name}: not deterministic");
            ParsedHead::parse(&bytes, bytes.len() as u64).unwrap_or_else(|e| panic!("{name}: {e}"));
            let second = lift_bytes(bytes, Vec::new()).unwrap_or_else(|e| panic!("{name}: {e}"));
            verified(&second.module);
            for (a, b) in first.module.graphs.iter().zip(&second.module.graphs) {
                let (a, b) = (operators(a), operators(b));
                let same = a.iter().filter(|o| !is_view(o)).eq(b.iter().filter(|o| !is_view(o)));
                assert!(same, "{name}:\n{}\n{}", text(&first.module), text(&second.module));
            }
            let again = lift_bytes(emit_bytes(&second.module, &options).unwrap(), Vec::new()).unwrap();
            assert_eq!(text(&second.module), text(&again.module), "{name}: the second time differs from the first");
            if !text(&first.module).lines().any(|l| ["squeeze_copy", "view_copy"].iter().any(|v| l.contains(v))) {
                assert_eq!(text(&first.module), text(&second.module), "{name}");
            }
        }
    }
}

#[test]
fn arenas_are_no_larger_than_executorchs() {
    for name in PROGRAMS.iter().filter(|n| !n.contains("noplan")) {
        let lifted = lift_bytes(fixture(name), Vec::new()).unwrap();
        let bytes = fixture(name);
        let head = ParsedHead::parse(&bytes, bytes.len() as u64).unwrap();
        let theirs: i64 = head.program().execution_plans.iter().flat_map(|p| &p.non_const_buffer_sizes).sum();
        // The language models were exported without memory for their inputs, the others with it.
        let options = EmitOptions { alloc_graph_input: !name.starts_with('v'), ..EmitOptions::default() };
        let e = pteron_program::emit(&lifted.module, &options).unwrap();
        let ours: u64 = e.report.methods.iter().flat_map(|m| &m.arenas).map(|a| a.bytes).sum();
        assert!(e.report.methods.iter().flat_map(|m| &m.arenas).all(|a| a.bytes <= a.executorch_bytes), "{name}");
        assert!(ours <= theirs as u64, "{name}: {ours} bytes, ExecuTorch's file {theirs}");
    }
}
