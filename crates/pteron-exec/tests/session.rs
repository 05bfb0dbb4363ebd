//! Sessions over graphs built by hand: state, symbolic sizes, control flow, limits, hooks.

use std::sync::Arc;

use pteron_exec::{ExecError, NodeEvent, NodeHook, Session, SessionOptions, ValueRef};
use pteron_ir::{
    Arg, BufferId, ConstData, Extra, Graph, GraphBuilder, Module, Op, Region, SymInt, TensorType, Type, args,
};
use pteron_tensor::{DType, MemorySource, Tensor};

fn session(module: Module) -> Session {
    Session::new(Arc::new(module), &SessionOptions::with_threads(1)).unwrap()
}

fn f32s(sizes: &[usize], values: &[f32]) -> Tensor {
    Tensor::of(sizes, values).unwrap()
}

fn run_f32(s: &mut Session, method: &str, inputs: &[&Tensor]) -> Vec<f32> {
    let inputs: Vec<ValueRef<'_>> = inputs.iter().map(|t| ValueRef::Tensor(t.view())).collect();
    let out = s.run(method, &inputs).unwrap();
    out.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec()
}

/// `counter += x; return counter * k`, through a functional mutation, and `peek`, a second method that reads the counter.
fn counter() -> Module {
    let mut m = Module::new("counter");
    let b = m.add_buffer("cnt", TensorType::fixed(DType::F32, &[2]));
    let k = m.add_tensor_constant("k", MemorySource::of("k", &[1], &[10f32]).unwrap());
    let init = m.add_tensor_constant("cnt.init", MemorySource::of("i", &[2], &[5f32, 6.0]).unwrap());
    set_init(&mut m, b, init);
    let mut g = GraphBuilder::new(&mut m, "forward");
    let x = g.input("x", TensorType::fixed(DType::F32, &[2]));
    let old = g.buffer(b);
    let k = g.constant(k);
    let new = g.call(Op::Add, args![old, x]).unwrap();
    let out = g.call(Op::Mul, args![new, k]).unwrap();
    g.write_back(b, new);
    g.finish(&[out]);
    let mut g = GraphBuilder::new(&mut m, "peek");
    let c = g.buffer(b);
    g.finish(&[c]);
    m
}

fn set_init(m: &mut Module, b: BufferId, c: pteron_ir::ConstId) {
    for (id, buffer) in m.buffers.iter_mut() {
        if id == b {
            buffer.init = Some(c);
        }
    }
}

#[test]
fn state_lives_between_calls_and_methods_and_can_be_reset() {
    let mut s = session(counter());
    let one = f32s(&[2], &[1.0, 1.0]);
    assert_eq!(run_f32(&mut s, "forward", &[&one]), [60.0, 70.0]);
    assert_eq!(run_f32(&mut s, "forward", &[&one]), [70.0, 80.0]);
    assert_eq!(run_f32(&mut s, "peek", &[]), [7.0, 8.0]);
    s.reset().unwrap();
    assert_eq!(run_f32(&mut s, "peek", &[]), [5.0, 6.0]);
}

#[test]
fn two_buffers_can_be_swapped() {
    let mut m = Module::new("swap");
    let ty = TensorType::fixed(DType::F32, &[1]);
    let (a, b) = (m.add_buffer("a", ty.clone()), m.add_buffer("b", ty));
    for (id, v) in [(a, 1f32), (b, 2.0)] {
        let c = m.add_tensor_constant("init", MemorySource::of("i", &[1], &[v]).unwrap());
        set_init(&mut m, id, c);
    }
    let mut g = GraphBuilder::new(&mut m, "forward");
    let (va, vb) = (g.buffer(a), g.buffer(b));
    let sum = g.call(Op::Sub, args![va, vb]).unwrap();
    g.write_back(a, vb);
    g.write_back(b, va);
    g.finish(&[sum]);
    let mut s = session(m);
    assert_eq!(run_f32(&mut s, "forward", &[]), [-1.0]);
    assert_eq!(run_f32(&mut s, "forward", &[]), [1.0]);
}

/// The attention part of a decoder: cache update and custom_sdpa at a position read from a tensor.
fn attention() -> Module {
    let mut m = Module::new("attention");
    let ty = TensorType::fixed(DType::F32, &[1, 8, 1, 2]);
    let (kc, vc) = (m.add_buffer("k", ty.clone()), m.add_buffer("v", ty));
    let mut g = GraphBuilder::new(&mut m, "forward");
    let s = g.symbol(1, 7);
    let x = g.input("x", TensorType::new(DType::F32, [1i64.into(), s, 1i64.into(), 2i64.into()]));
    let pos = g.input("input_pos", TensorType::fixed(DType::I64, &[1]));
    let start = g.local_int(pos, 0, 7).unwrap();
    let mut caches = Vec::new();
    for b in [kc, vc] {
        let cache = g.buffer(b);
        let n = g.node(Op::UpdateCache, args![x, cache, start]).unwrap();
        let next = g.graph().nodes[n].outputs[1];
        g.write_back(b, next);
        caches.push(next);
    }
    let y = g.call(Op::CustomSdpa, args![x, caches[0], caches[1], start, Arg::None, 0.0, true]).unwrap();
    let flat = g.call(Op::ViewCopy, [y.into(), Arg::ints(&[-1, 2])]).unwrap();
    let twice = g.call(Op::MulScalar, args![flat, 2.0]).unwrap();
    g.finish(&[twice]);
    m
}

#[test]
fn sizes_follow_the_input_and_chunks_equal_one_call() {
    let data: Vec<f32> = (0..10).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut whole = session(attention());
    let all = f32s(&[1, 5, 1, 2], &data);
    let zero = Tensor::of(&[1], &[0i64]).unwrap();
    let expected = run_f32(&mut whole, "forward", &[&all, &zero]);
    assert_eq!(expected.len(), 10);
    let mut parts = session(attention());
    let mut got = Vec::new();
    for (at, n) in [(0usize, 2usize), (2, 1), (3, 2)] {
        let x = f32s(&[1, n, 1, 2], &data[2 * at..2 * (at + n)]);
        let pos = Tensor::of(&[1], &[at as i64]).unwrap();
        got.extend(run_f32(&mut parts, "forward", &[&x, &pos]));
    }
    assert_eq!(got, expected);
}

#[test]
fn inputs_that_do_not_fit_are_refused_with_what_was_expected() {
    let mut s = session(attention());
    let long = f32s(&[1, 8, 1, 2], &[0.0; 16]);
    let zero = Tensor::of(&[1], &[0i64]).unwrap();
    let inputs = [ValueRef::Tensor(long.view()), ValueRef::Tensor(zero.view())];
    let message = s.run("forward", &inputs).unwrap_err().to_string();
    assert_eq!(message, "method `forward`, input 0 `x`: f32[1, 8, 1, 2] given, f32[1, 1..=7, 1, 2] expected");
    let far = Tensor::of(&[1], &[9i64]).unwrap();
    let x = f32s(&[1, 1, 1, 2], &[0.0; 2]);
    let inputs = [ValueRef::Tensor(x.view()), ValueRef::Tensor(far.view())];
    let message = s.run("forward", &inputs).unwrap_err().to_string();
    assert!(message.contains("the value is 9, the program allows 0 to 7"), "{message}");
    assert!(matches!(s.run("forward", &inputs[..1]), Err(ExecError::InputCount { .. })));
    assert!(matches!(s.run("backward", &[]), Err(ExecError::UnknownMethod { .. })));
}

#[test]
fn strided_inputs_are_taken() {
    let mut m = Module::new("t");
    let mut g = GraphBuilder::new(&mut m, "forward");
    let x = g.input("x", TensorType::fixed(DType::F32, &[3, 2]));
    let y = g.call(Op::Neg, args![x]).unwrap();
    g.finish(&[y]);
    let mut s = session(m);
    let t = f32s(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let view = pteron_tensor::View::new(DType::F32, &[3, 2], &[1, 3], t.bytes()).unwrap();
    let inputs = [ValueRef::Tensor(view)];
    let out = s.run("forward", &inputs).unwrap();
    assert_eq!(out.tensor(0).unwrap().as_slice::<f32>().unwrap(), [-0.0, -3.0, -1.0, -4.0, -2.0, -5.0]);
}

/// `do { x = x * 2; i = i + 1 } while (i < 3)` and a branch on the sum.
fn control() -> Module {
    let mut m = Module::new("control");
    let ty = TensorType::fixed(DType::F32, &[2]);
    let mut g = Graph::new("forward");
    let root = g.paths.keys().next().unwrap();
    let body = g.body_id();
    let x = g.add_input("x", ty.clone().into());
    let lp = g.add_node(
        body,
        Op::Loop,
        [x.into(), 0i64.into()],
        [ty.clone().into(), Type::Int(SymInt::ANY)],
        Extra::None,
        root,
    );
    let inner = g.regions.push(Region::default());
    let px = g.add_value(ty.clone().into(), pteron_ir::Def::Param(inner, 0), None);
    let pi = g.add_value(Type::Int(SymInt::ANY), pteron_ir::Def::Param(inner, 1), None);
    g.regions[inner].params = vec![px, pi];
    let call = |g: &mut Graph, r, op, a: Vec<Arg>, t: Type| {
        let n = g.add_node(r, op, a, [t], Extra::None, root);
        g.nodes[n].outputs[0]
    };
    let y = call(&mut g, inner, Op::MulScalar, vec![px.into(), 2.0.into()], ty.clone().into());
    let i = call(&mut g, inner, Op::PrimAdd, vec![pi.into(), 1i64.into()], Type::Int(SymInt::ANY));
    let again = call(&mut g, inner, Op::PrimLt, vec![i.into(), 3i64.into()], Type::Bool);
    g.regions[inner].results = vec![again, y, i];
    g.nodes[lp].regions.push(inner);
    let looped = g.nodes[lp].outputs[0];
    let scalar: Type = TensorType::new(DType::F32, []).into();
    let sum = call(&mut g, body, Op::Sum, vec![looped.into(), Arg::ints(&[]), false.into(), Arg::None], scalar);
    let flag: Type = TensorType::new(DType::Bool, []).into();
    let positive = call(&mut g, body, Op::GtScalar, vec![sum.into(), 0i64.into()], flag);
    let cond = g.add_node(body, Op::Cond, [positive.into()], [ty.clone().into()], Extra::None, root);
    for k in [1.0, -1.0] {
        let r = g.regions.push(Region::default());
        let v = call(&mut g, r, Op::MulScalar, vec![looped.into(), k.into()], ty.clone().into());
        g.regions[r].results = vec![v];
        g.nodes[cond].regions.push(r);
    }
    let out = g.nodes[cond].outputs[0];
    g.set_outputs(vec![out]);
    m.graphs.push(g);
    m
}

#[test]
fn loops_and_branches() {
    let mut s = session(control());
    assert_eq!(run_f32(&mut s, "forward", &[&f32s(&[2], &[1.0, 2.0])]), [8.0, 16.0]);
    assert_eq!(run_f32(&mut s, "forward", &[&f32s(&[2], &[-1.0, -2.0])]), [8.0, 16.0]);
}

#[test]
fn limits_are_kept() {
    let mut options = SessionOptions::with_threads(1);
    options.max_steps = 6;
    let mut s = Session::new(Arc::new(control()), &options).unwrap();
    let x = f32s(&[2], &[1.0, 2.0]);
    let inputs = [ValueRef::Tensor(x.view())];
    assert!(matches!(s.run("forward", &inputs), Err(ExecError::StepLimit { .. })));
    options.max_memory = 10;
    assert!(matches!(Session::new(Arc::new(attention()), &options), Err(ExecError::MemoryLimit { .. })));
}

#[test]
fn what_cannot_run_is_refused_before_it_runs() {
    let mut m = counter();
    let c = m.constants.keys().next().unwrap();
    m.constants[c].data = ConstData::Missing;
    let e = Session::new(Arc::new(m), &SessionOptions::with_threads(1)).unwrap_err();
    assert_eq!(e.to_string(), "constant `k` has no data: the module was built without weights");
    let mut m = Module::new("custom");
    let mut g = Graph::new("forward");
    let root = g.paths.keys().next().unwrap();
    let ty: Type = TensorType::fixed(DType::F32, &[1]).into();
    let n = g.add_node(g.body_id(), Op::Custom, [], [ty], Extra::Custom("my::op.out".into()), root);
    let out = g.nodes[n].outputs[0];
    g.set_outputs(vec![out]);
    m.graphs.push(g);
    let e = Session::new(Arc::new(m), &SessionOptions::with_threads(1)).unwrap_err();
    assert_eq!(e.to_string(), "method `forward`, node #0 my::op.out: there is no kernel `my::op.out`");
}

struct Seen(Vec<(String, usize)>);

impl NodeHook for Seen {
    fn after(&mut self, e: &NodeEvent<'_>) {
        self.0.push((e.graph.nodes[e.node].op.to_string(), e.outputs.len()));
    }
}

#[test]
fn hooks_see_every_node() {
    let mut s = session(counter());
    let one = f32s(&[2], &[1.0, 1.0]);
    let inputs = [ValueRef::Tensor(one.view())];
    let mut seen = Seen(Vec::new());
    s.run_watched("forward", &inputs, &mut seen).unwrap();
    assert_eq!(seen.0, [("aten::add.Tensor".to_owned(), 1), ("aten::mul.Tensor".to_owned(), 1)]);
}

#[test]
fn constants_come_row_major_and_lie_in_their_dim_order() {
    let mut m = Module::new("order");
    let c = m.add_tensor_constant("w", MemorySource::of("w", &[2, 3], &[0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap());
    m.constants[c].ty.order = Some(smallvec::SmallVec::from_slice(&[1, 0]));
    let mut g = GraphBuilder::new(&mut m, "forward");
    let w = g.constant(c);
    let row = g.call(Op::SelectCopy, args![w, 0i64, 1i64]).unwrap();
    g.finish(&[row]);
    assert_eq!(run_f32(&mut session(m), "forward", &[]), [3.0, 4.0, 5.0]);
}

#[test]
fn what_is_read_late_is_what_it_was() {
    // `old` is returned although the buffer gets a new value; a view of the buffer is read after an in-place write.
    let mut m = Module::new("late");
    let ty = TensorType::fixed(DType::F32, &[2]);
    let (a, b) = (m.add_buffer("a", ty.clone()), m.add_buffer("b", ty.clone()));
    let mut g = GraphBuilder::new(&mut m, "forward");
    let x = g.input("x", ty);
    let old = g.buffer(a);
    g.write_back(a, x);
    let before = g.buffer(b);
    let view = g.call(Op::ViewCopy, [before.into(), Arg::ints(&[2, 1])]).unwrap();
    let after = g.call(Op::CopyInto, args![before, x]).unwrap();
    g.write_back(b, after);
    let twice = g.call(Op::MulScalar, args![view, 2.0]).unwrap();
    g.finish(&[old, twice]);
    let mut s = session(m);
    for (x, expected) in [([1.0f32, 2.0], [0.0f32, 0.0]), ([3.0, 4.0], [1.0, 2.0]), ([5.0, 6.0], [3.0, 4.0])] {
        let x = f32s(&[2], &x);
        let inputs = [ValueRef::Tensor(x.view())];
        let out = s.run("forward", &inputs).unwrap();
        assert_eq!(out.tensor(0).unwrap().as_slice::<f32>().unwrap(), expected);
        assert_eq!(out.tensor(1).unwrap().as_slice::<f32>().unwrap(), expected.map(|v| 2.0 * v));
    }
}

/// `index_put` of a row into a cache of four, whose new contents are read and written back by a copy; `late` reads the old
/// contents after that.
fn cache_by_copy(late: bool) -> Module {
    let mut m = Module::new("m");
    let ty = TensorType::fixed(DType::F32, &[4, 2]);
    let cache = m.add_buffer("cache", ty);
    let mut g = GraphBuilder::new(&mut m, "forward");
    let at = g.input("at", TensorType::fixed(DType::I64, &[1]));
    let row = g.input("row", TensorType::fixed(DType::F32, &[1, 2]));
    let old = g.buffer(cache);
    let new = g.call(Op::IndexPut, [old.into(), Arg::tensors(&[at]), row.into(), false.into()]).unwrap();
    let seen = g.call(Op::Neg, args![new]).unwrap();
    let before = if late { g.call(Op::Abs, args![old]).unwrap() } else { seen };
    let after = g.call(Op::CopyInto, args![old, new]).unwrap();
    g.write_back(cache, after);
    g.finish(&[seen, before]);
    m
}

#[test]
fn a_cache_that_is_copied_back_is_written_in_place() {
    let mut arenas = Vec::new();
    for late in [false, true] {
        let mut s = Session::new(Arc::new(cache_by_copy(late)), &SessionOptions::with_threads(1)).unwrap();
        let mut expected = [0f64; 8];
        for (call, watched) in [(0usize, false), (2, true), (3, false), (2, false)] {
            let row = [call as f32 + 1.0, -5.0];
            let (at, row) = (Tensor::of(&[1], &[call as i64]).unwrap(), Tensor::of(&[1, 2], &row).unwrap());
            let inputs = [ValueRef::Tensor(at.view()), ValueRef::Tensor(row.view())];
            let before = expected;
            expected[2 * call..2 * call + 2].copy_from_slice(&[call as f64 + 1.0, -5.0]);
            let mut log = Seen(Vec::new());
            let out = if watched { s.run_watched("forward", &inputs, &mut log) } else { s.run("forward", &inputs) };
            let out = out.unwrap();
            assert_eq!(out.tensor(0).unwrap().to_f64_vec(), expected.map(|x| -x), "{late}");
            let second = if late { before.map(f64::abs) } else { expected.map(|x| -x) };
            assert_eq!(out.tensor(1).unwrap().to_f64_vec(), second, "{late}");
        }
        arenas.push(s.memory().arena);
    }
    assert!(arenas[0] < arenas[1], "{arenas:?}");
}
