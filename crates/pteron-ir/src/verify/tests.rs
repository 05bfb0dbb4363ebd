//! Graphs that no text can say.

use super::*;
use crate::arg::Arg;
use crate::entity::{ConstId, DebugHandle, DelegateId, PathId};
use crate::graph::{Def, Extra, Region};
use crate::module::{ConstData, Constant};
use crate::op::Op;
use crate::types::{TensorType, Type};
use pteron_tensor::{DType, MemorySource};

const TEXT: &str = "module \"t\" { const c0 \"w\" : f32[2] buffer b0 \"s\" : f32[2] graph f(%0: f32[2], %1: bool) { \
                    %2 = aten::add.Tensor(%0, c0) %3 = cond(%1) then { %4 = aten::relu(%2) yield %4 } else { yield %2 } \
                    mutate b0 = %3 return %3 } }";

/// The rules that a graph breaks after `change`; printing what is broken must not fail either.
fn broken(change: impl FnOnce(&mut Module)) -> Vec<String> {
    let mut m = crate::parse::module(TEXT).unwrap();
    module(&m).unwrap();
    change(&mut m);
    let errors = module(&m).expect_err("the change breaks nothing");
    let text = annotate(&m, &errors);
    for e in &errors.0 {
        assert!(text.contains(&e.message), "{} is not in\n{text}", e.message);
        assert!(!e.to_string().is_empty());
    }
    errors.0.iter().map(|e| format!("{}: {}", e.rule, e.message)).collect()
}

fn check(change: impl FnOnce(&mut Module), expected: &[&str]) {
    assert_eq!(broken(change), expected);
}

fn v(i: usize) -> ValueId {
    ValueId::from_index(i)
}
fn n(i: usize) -> NodeId {
    NodeId::from_index(i)
}
fn r(i: usize) -> RegionId {
    RegionId::from_index(i)
}

#[test]
fn ids_out_of_range() {
    check(|m| m.graphs[0].inputs.push(v(99)), &["ids: there is no value %99"]);
    check(|m| m.graphs[0].nodes[n(0)].args[0] = Arg::Value(v(99)), &["ids: there is no value %99"]);
    check(|m| m.graphs[0].set_outputs(vec![v(99)]), &["ids: there is no value %99"]);
    check(|m| m.graphs[0].mutations[0].1 = v(99), &["ids: there is no value %99"]);
    check(|m| m.graphs[0].regions[r(0)].nodes.push(n(99)), &["ids: there is no node n99"]);
    check(|m| m.graphs[0].nodes[n(1)].regions.push(r(99)), &["ids: there is no region r99"]);
    check(|m| m.graphs[0].nodes[n(0)].path = PathId::from_index(7), &["ids: there is no module path p7"]);
    check(
        |m| {
            for (_, d) in m.graphs[0].values.iter_mut() {
                if let Def::Const(_) = d.def {
                    d.def = Def::Const(ConstId::from_index(9));
                }
            }
        },
        &["ids: there is no constant c9"],
    );
}

#[test]
fn broken_structure() {
    let twice = broken(|m| m.graphs[0].regions[r(0)].nodes.push(n(0)));
    assert_eq!(twice, ["structure: node n0 stands twice in the graph"]);
    let shared = broken(|m| m.graphs[0].nodes[n(1)].regions[1] = r(1));
    assert_eq!(shared, ["structure: region r1 belongs to two nodes"]);
    let cycle = broken(|m| m.graphs[0].nodes[n(2)].regions.push(r(0)));
    assert_eq!(cycle, ["structure: region r0 belongs to two nodes"]);
    let defined = broken(|m| {
        let out = m.graphs[0].nodes[n(0)].outputs[0];
        m.graphs[0].nodes[n(1)].outputs[0] = out;
    });
    assert!(defined[0].starts_with("structure: value %") && defined[0].ends_with("is defined twice"));
    let elsewhere = broken(|m| {
        let out = m.graphs[0].nodes[n(0)].outputs[0];
        m.graphs[0].values[out].def = Def::Node(n(1), 0);
    });
    assert!(elsewhere[0].contains("is a node's output here, but says it is Node(n1, 0)"), "{elsewhere:?}");
    let copies = broken(|m| {
        let g = &mut m.graphs[0];
        let second = g.add_value(TensorType::fixed(DType::F32, &[2]).into(), Def::Const(ConstId::from_index(0)), None);
        g.nodes[n(0)].args[0] = Arg::Value(second);
    });
    assert!(copies[0].starts_with("structure: Const(c0) has two values"), "{copies:?}");
}

#[test]
fn nesting_is_limited_and_no_depth_overflows_the_stack() {
    let deep = |depth: usize| {
        let mut m = Module::new("deep");
        let mut g = Graph::new("f");
        let p = g.add_input("p", Type::Bool);
        let mut region = g.body_id();
        for _ in 0..depth {
            let node = g.add_node(region, Op::Cond, [Arg::Value(p)], [], Extra::None, PathId::from_index(0));
            let (then, other) = (g.regions.push(Region::default()), g.regions.push(Region::default()));
            g.nodes[node].regions.extend([then, other]);
            region = then;
        }
        m.graphs.push(g);
        m
    };
    module(&deep(MAX_DEPTH)).unwrap();
    for depth in [MAX_DEPTH + 1, 100_000] {
        let m = deep(depth);
        let errors = module(&m).unwrap_err();
        // Both branches are too deep; what is inside them is not looked at.
        assert_eq!(errors.0.len(), 2);
        assert!(errors.0.iter().all(|e| e.message == "regions are nested more than 64 deep"));
        assert!(annotate(&m, &errors).contains("; error: structure: regions are nested"));
    }
}

#[test]
fn schemas_and_payloads() {
    check(
        |m| {
            m.graphs[0].nodes[n(0)].args.pop();
        },
        &["arguments: 2 arguments given, 3 expected"],
    );
    check(
        |m| m.graphs[0].nodes[n(0)].extra = Extra::Custom("x".into()),
        &["delegates: aten::add.Tensor names a delegate or a kernel key"],
    );
    check(
        |m| m.graphs[0].nodes[n(0)].extra = Extra::Delegate(DelegateId::from_index(3)),
        &["ids: there is no delegate d3"],
    );
    check(|m| m.graphs[0].nodes[n(2)].op = Op::Custom, &["delegates: no kernel key is given"]);
    check(|m| m.graphs[0].nodes[n(2)].op = Op::Delegate, &["delegates: no delegate is named"]);
    check(
        |m| m.graphs[0].nodes[n(0)].handle = DebugHandle(99),
        &["handles: debug handle #99 is not below the next one, #3"],
    );
}

#[test]
fn sources_have_the_declared_type() {
    check(
        |m| {
            let source = MemorySource::of("w", &[3], &[1f32, 2., 3.]).unwrap();
            m.constants[ConstId::from_index(0)].data = ConstData::Source(std::sync::Arc::new(source));
        },
        &["constants: declared as f32[2], its source has f32[3]"],
    );
    check(
        |m| {
            let c = &mut m.constants[ConstId::from_index(0)];
            *c = Constant { ty: TensorType::fixed(DType::F32, &[1]), ..c.clone() };
        },
        &["types: the value of c0 is f32[2], declared as f32[1]"],
    );
}

#[test]
fn errors_say_where() {
    let mut m = crate::parse::module(TEXT).unwrap();
    m.graphs[0].nodes[n(2)].handle = DebugHandle(0);
    let errors = module(&m).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "graph `f`: `%4 = aten::relu(%2) : f32[2] #0`: handles: another node has the debug handle #0 as well"
    );
    let text = annotate(&m, &errors);
    let line =
        "      %4 = aten::relu(%2) : f32[2] #0\n      ; error: handles: another node has the debug handle #0 as well\n";
    assert!(text.contains(line), "{text}");
    assert_eq!(graph(&m, 0).unwrap_err(), errors);
}
