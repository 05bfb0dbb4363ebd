//! What a program may take: memory that it declares, and work. Both are told before they are spent.

use std::sync::Arc;

use pteron_exec::{ExecError, Session, SessionOptions, ValueRef};
use pteron_ir::{Arg, Extra, Graph, GraphBuilder, Module, Op, Region, SymInt, TensorType, Type, args};
use pteron_tensor::{DType, MemorySource, Tensor};

/// `relu(x · wᵀ)` with x `[2, 8]` and w `[4, 8]`.
fn layer() -> Module {
    let mut m = Module::new("layer");
    let w = m.add_tensor_constant("w", MemorySource::of("w", &[4, 8], &[1f32; 32]).unwrap());
    let mut g = GraphBuilder::new(&mut m, "forward");
    let x = g.input("x", TensorType::fixed(DType::F32, &[2, 8]));
    let w = g.constant(w);
    let y = g.call(Op::Linear, args![x, w, Arg::None]).unwrap();
    let z = g.call(Op::Relu, args![y]).unwrap();
    g.finish(&[z]);
    m
}

fn with_fuel(module: Module, fuel: Option<u64>) -> Session {
    let mut options = SessionOptions::with_threads(1);
    options.fuel = fuel;
    Session::new(Arc::new(module), &options).unwrap()
}

#[test]
fn a_node_pays_before_it_runs_and_each_run_starts_anew() {
    let x = Tensor::of(&[2, 8], &[1f32; 16]).unwrap();
    let inputs = [ValueRef::Tensor(x.view())];
    // 2 · 4 · 8 multiply-adds, then 8 elements, and 64 for each node.
    let mut enough = with_fuel(layer(), Some(200));
    for _ in 0..3 {
        assert_eq!(enough.run("forward", &inputs).unwrap().tensor(0).unwrap().as_slice::<f32>().unwrap(), [8.0; 8]);
    }
    let mut short = with_fuel(layer(), Some(199));
    let e = short.run("forward", &inputs).unwrap_err();
    assert!(matches!(e, ExecError::OutOfFuel { needed: 72, left: 71, limit: 199, .. }), "{e}");
    let text = e.to_string();
    assert!(text.contains("aten::relu: needs 72 element operations, 71 of the run's 199 are left"), "{text}");
    let e = with_fuel(layer(), Some(127)).run("forward", &inputs).unwrap_err();
    assert!(matches!(&e, ExecError::OutOfFuel { op, needed: 128, left: 127, .. } if op == "aten::linear"), "{e}");
    assert!(with_fuel(layer(), None).run("forward", &inputs).is_ok());
}

/// `do { x = x · 2 } while (true)`.
fn endless() -> Module {
    let mut m = Module::new("endless");
    let ty = TensorType::fixed(DType::F32, &[2]);
    let mut g = Graph::new("forward");
    let root = g.paths.keys().next().unwrap();
    let x = g.add_input("x", ty.clone().into());
    let start: Vec<Arg> = vec![x.into(), 0i64.into()];
    let outputs: [Type; 2] = [ty.clone().into(), Type::Int(SymInt::ANY)];
    let lp = g.add_node(g.body_id(), Op::Loop, start, outputs, Extra::None, root);
    let inner = g.regions.push(Region::default());
    let px = g.add_value(ty.clone().into(), pteron_ir::Def::Param(inner, 0), None);
    let pi = g.add_value(Type::Int(SymInt::ANY), pteron_ir::Def::Param(inner, 1), None);
    g.regions[inner].params = vec![px, pi];
    let call = |g: &mut Graph, op, a: Vec<Arg>, t: Type| {
        let n = g.add_node(inner, op, a, [t], Extra::None, root);
        g.nodes[n].outputs[0]
    };
    let y = call(&mut g, Op::MulScalar, vec![px.into(), 2.0.into()], ty.into());
    let again = call(&mut g, Op::PrimEq, vec![pi.into(), pi.into()], Type::Bool);
    g.regions[inner].results = vec![again, y, pi];
    g.nodes[lp].regions.push(inner);
    let out = g.nodes[lp].outputs[0];
    g.set_outputs(vec![out]);
    m.graphs.push(g);
    m
}

#[test]
fn a_loop_pays_for_each_iteration() {
    let x = Tensor::of(&[2], &[1f32, 2.0]).unwrap();
    let inputs = [ValueRef::Tensor(x.view())];
    // Two elements go in. An iteration is itself, a product of two elements, a comparison, and two elements that are carried.
    let e = with_fuel(endless(), Some(2 + 1000 * (3 * 64 + 4) + 64 + 65)).run("forward", &inputs).unwrap_err();
    assert!(matches!(&e, ExecError::OutOfFuel { op, needed: 66, left: 65, .. } if op == "aten::mul.Scalar"), "{e}");
    // Without it the number of calls is the limit.
    let mut options = SessionOptions::with_threads(1);
    options.max_steps = 1000;
    let mut unlimited = Session::new(Arc::new(endless()), &options).unwrap();
    let e = unlimited.run("forward", &inputs).unwrap_err();
    assert!(matches!(e, ExecError::StepLimit { .. }), "{e}");
}

#[test]
fn what_a_program_declares_is_compared_before_it_is_allocated() {
    let mut m = Module::new("huge");
    // A thousand petabytes of state: allocating it would end the process.
    m.add_buffer("cache", TensorType::fixed(DType::F32, &[1 << 30, 1 << 28]));
    let mut g = GraphBuilder::new(&mut m, "forward");
    let x = g.input("x", TensorType::fixed(DType::F32, &[16]));
    let y = g.call(Op::Relu, args![x]).unwrap();
    g.finish(&[y]);
    let mut options = SessionOptions::with_threads(1);
    options.max_memory = 1 << 40;
    let e = Session::new(Arc::new(m), &options).unwrap_err();
    let ExecError::MemoryLimit { declared, needed, allowed } = &e else { panic!("{e}") };
    assert_eq!((declared.state, *allowed, *needed), (1 << 60, 1 << 40, declared.total()));
    let text = e.to_string();
    assert!(
        text.contains(&format!("state {}", 1u64 << 60)) && text.ends_with(&format!("{} are allowed", 1u64 << 40)),
        "{text}"
    );
}

#[test]
fn the_sum_of_all_memory_counts() {
    let mut options = SessionOptions::with_threads(1);
    let all = Session::new(Arc::new(layer()), &options).unwrap().memory();
    assert!(all.arena >= 64 && all.total() >= all.arena, "{all:?}");
    options.max_memory = all.total();
    Session::new(Arc::new(layer()), &options).unwrap();
    options.max_memory = all.total() - 1;
    assert!(matches!(Session::new(Arc::new(layer()), &options), Err(ExecError::MemoryLimit { .. })));
}

#[test]
fn an_error_names_the_numbers_that_the_call_gave() {
    let mut m = Module::new("from");
    let mut g = GraphBuilder::new(&mut m, "forward");
    let x = g.input("x", TensorType::fixed(DType::F32, &[4]));
    let pos = g.input("input_pos", TensorType::fixed(DType::I64, &[1]));
    let start = g.local_int(pos, -8, 8).unwrap();
    let rest = g.call(Op::SliceCopy, args![x, 0, start, Arg::None, 1]).unwrap();
    let y = g.call(Op::ViewCopy, [rest.into(), Arg::ints(&[2])]).unwrap();
    g.finish(&[y]);
    let mut s = with_fuel(m, None);
    let x = Tensor::of(&[4], &[0f32, 1.0, 2.0, 3.0]).unwrap();
    let mut call = |at: i64| {
        let pos = Tensor::of(&[1], &[at]).unwrap();
        let inputs = [ValueRef::Tensor(x.view()), ValueRef::Tensor(pos.view())];
        let out = s.run("forward", &inputs).map_err(|e| e.to_string())?;
        Ok::<_, String>(out.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec())
    };
    assert_eq!(call(2).unwrap(), [2.0, 3.0]);
    let e = call(-1).unwrap_err();
    assert!(e.ends_with("; in this call input 1 `input_pos` is -1"), "{e}");
}
