//! Modules built by hand, emitted and lifted back.

mod common;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{bytes_of, emit_bytes, lift_bytes, operators, text, verified};
use pteron_ir::{
    Arg, Def, Extra, GraphBuilder, IntArg, MetaValue, Module, Op, Region, SymInt, TensorType, Type, ValueId, args,
};
use pteron_program::{EmitError, EmitOptions, EmittedData, ExternalData, emit, required_operators};
use pteron_pte::{EValue, Instruction, ParsedHead, PtdHead, Storage};
use pteron_tensor::{DType, DimOrder, MemorySource, SourceError, TensorSource};

fn fixed(sizes: &[usize]) -> TensorType {
    TensorType::fixed(DType::F32, sizes)
}

fn keys(bytes: &[u8]) -> Vec<String> {
    let head = ParsedHead::parse(bytes, bytes.len() as u64).unwrap();
    let plan = &head.program().execution_plans[0];
    let call = |i: &Instruction| match i {
        Instruction::KernelCall { op_index, .. } => plan.operators[*op_index as usize].to_string(),
        Instruction::MoveCall { .. } => "move".into(),
        Instruction::JumpFalseCall { .. } => "jump".into(),
        other => format!("{other:?}"),
    };
    plan.chains[0].instructions.iter().map(call).collect()
}

#[test]
fn static_views_are_aliases_and_dynamic_ones_calls() {
    let mut m = Module::new("t");
    let w = m.add_tensor_constant("w", MemorySource::of("w", &[6], &[1f32, 2., 3., 4., 5., 6.]).unwrap());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[2, 3]));
    let w = b.constant(w);
    let w = b.call(Op::ViewCopy, args![w, Arg::ints(&[2, 3])]).unwrap();
    let y = b.call(Op::Add, args![x, w]).unwrap();
    let y = b.call(Op::ViewCopy, args![y, Arg::ints(&[3, 2])]).unwrap();
    let y = b.call(Op::Relu, args![y]).unwrap();
    let v = b.call(Op::ViewCopy, args![x, Arg::ints(&[6])]).unwrap();
    let z = b.call(Op::Neg, args![v]).unwrap();
    b.finish(&[y, z]);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    // Only the view of the caller's memory is a call.
    assert_eq!(keys(&bytes), ["aten::add.out", "aten::relu.out", "executorch_prim::et_view.default", "aten::neg.out"]);
    let planned = EmitOptions { alloc_graph_input: true, ..EmitOptions::default() };
    let bytes = emit_bytes(&m, &planned).unwrap();
    assert_eq!(keys(&bytes), ["aten::add.out", "aten::relu.out", "aten::neg.out"]);
    let l = lift_bytes(bytes, Vec::new()).unwrap();
    verified(&l.module);
    assert_eq!(operators(&l.module.graphs[0]).iter().filter(|o| **o == "aten::view_copy").count(), 2);

    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let (s, t) = (b.symbol(1, 7), b.symbol(1, 9));
    let x = b.input("x", TensorType::new(DType::F32, [s, 1i64.into(), t, 4i64.into()]));
    let y = b.call(Op::SqueezeDimsCopy, args![x, Arg::ints(&[1])]).unwrap();
    let y = b.call(Op::UnsqueezeCopy, args![y, 1i64]).unwrap();
    let n = b.call(Op::SymSize, args![x, 0i64]).unwrap();
    let list = Arg::Ints([IntArg::Value(n), IntArg::Const(-1), IntArg::Const(2)].into_iter().collect());
    let y = b.call(Op::ViewCopy, args![y, list]).unwrap();
    let y = b.call(Op::Relu, args![y]).unwrap();
    b.finish(&[y]);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    let views = keys(&bytes).iter().filter(|k| k.contains("et_view")).count();
    assert_eq!(views, 3);
    let l = lift_bytes(bytes, Vec::new()).unwrap();
    verified(&l.module);
}

#[test]
fn buffers_are_written_back_without_losing_what_is_still_read() {
    let mut m = Module::new("t");
    let (p, q) = (m.add_buffer("p", fixed(&[4])), m.add_buffer("q", fixed(&[4])));
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[4]));
    let (old_p, old_q) = (b.buffer(p), b.buffer(q));
    let sum = b.call(Op::Add, args![old_p, x]).unwrap();
    // The two change places, and the old p is an output too.
    b.write_back(p, old_q);
    b.write_back(q, old_p);
    b.finish(&[sum, old_p]);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    let calls = keys(&bytes);
    assert_eq!(calls.iter().filter(|k| *k == "aten::copy_").count(), 2);
    assert!(calls.iter().filter(|k| *k == "aten::clone.out").count() >= 1, "{calls:?}");
    let l = lift_bytes(bytes, Vec::new()).unwrap();
    verified(&l.module);
    let g = &l.module.graphs[0];
    assert_eq!(g.mutations.len(), 2);
    let position = |op: &str| calls.iter().position(|k| k == op).unwrap();
    assert!(position("aten::clone.out") < position("aten::copy_"));
}

#[test]
fn an_old_version_that_is_read_late_is_cloned() {
    let mut m = Module::new("t");
    let c = m.add_buffer("cache", fixed(&[1, 8, 2, 4]));
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[1, 1, 2, 4]));
    let pos = b.input("pos", TensorType::fixed(DType::I64, &[1]));
    let start = b.local_int(pos, 0, 7).unwrap();
    let old = b.buffer(c);
    let n = b.node(Op::UpdateCache, args![x, old, start]).unwrap();
    let new = b.graph().nodes[n].outputs[1];
    b.write_back(c, new);
    let late = b.call(Op::Sub, args![new, old]).unwrap();
    b.finish(&[late]);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    assert_eq!(
        keys(&bytes),
        ["aten::_local_scalar_dense", "aten::clone.out", "llama::update_cache.out", "aten::sub.out"]
    );
    let l = lift_bytes(bytes, Vec::new()).unwrap();
    verified(&l.module);
    assert_eq!(l.module.buffers.values().next().unwrap().name.as_ref(), "cache");
}

/// Two buffers that exchange contents `n` times in a loop, and a counter.
fn swapping_loop(m: &mut Module) {
    let mut b = GraphBuilder::new(m, "forward");
    let x = b.input("x", fixed(&[3]));
    let y = b.input("y", fixed(&[3]));
    let zero = b.call(Op::PrimAdd, args![0i64, 0i64]).unwrap();
    let g = b.graph_mut();
    let ty = Type::Tensor(fixed(&[3]));
    let path = pteron_ir::Id::from_index(0);
    let int = Type::Int(SymInt::ANY);
    let body = g.body_id();
    let n = g.add_node(body, Op::Loop, args![x, y, zero], [ty.clone(), ty.clone(), int.clone()], Extra::None, path);
    let r = g.regions.push(Region::default());
    g.nodes[n].regions.push(r);
    let types = [ty.clone(), ty.clone(), int.clone()];
    let params: Vec<ValueId> =
        types.into_iter().enumerate().map(|(i, t)| g.add_value(t, Def::Param(r, i as u32), None)).collect();
    g.regions[r].params = params.clone();
    let one = |g: &mut pteron_ir::Graph, op: Op, a: Vec<Arg>, t: Type| {
        let n = g.add_node(r, op, a, [t], Extra::None, path);
        g.nodes[n].outputs[0]
    };
    let doubled = one(g, Op::Add, vec![params[0].into(), params[0].into(), Arg::Int(1)], ty.clone());
    let next = one(g, Op::PrimAdd, vec![params[2].into(), Arg::Int(1)], int);
    let again = one(g, Op::PrimLt, vec![next.into(), Arg::Int(5)], Type::Bool);
    g.regions[r].results = vec![again, params[1], doubled, next];
    let outputs: Vec<ValueId> = g.nodes[n].outputs.iter().take(2).copied().collect();
    b.finish(&outputs);
}

#[test]
fn a_loop_that_exchanges_its_parameters() {
    let mut m = Module::new("t");
    swapping_loop(&mut m);
    verified(&m);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    let calls = keys(&bytes);
    // Two first values, and the exchange: one of the two takes a detour or is written late.
    assert_eq!(calls.iter().filter(|k| *k == "jump").count(), 2, "{calls:?}");
    let l = lift_bytes(bytes, Vec::new()).unwrap_or_else(|e| panic!("{e}"));
    verified(&l.module);
    let g = &l.module.graphs[0];
    let looped = g.all_nodes().into_iter().find(|&n| g.nodes[n].op == Op::Loop).unwrap();
    assert_eq!(g.nodes[looped].outputs.len(), 3, "{}", text(&l.module));
    assert!(l.module.buffers.is_empty());
    assert_eq!(interpret(&m, &[1., 2., 3.], &[10., 20., 30.]), interpret(&l.module, &[1., 2., 3.], &[10., 20., 30.]));
}

/// Executes the few operators of [`swapping_loop`] on vectors.
fn interpret(m: &Module, x: &[f64], y: &[f64]) -> Vec<Vec<f64>> {
    use std::collections::BTreeMap;
    let g = &m.graphs[0];
    let mut env: BTreeMap<ValueId, Vec<f64>> = BTreeMap::new();
    env.insert(g.inputs[0], x.to_vec());
    env.insert(g.inputs[1], y.to_vec());
    fn arg(env: &BTreeMap<ValueId, Vec<f64>>, a: &Arg) -> Vec<f64> {
        match a {
            Arg::Value(v) => env[v].clone(),
            Arg::Int(i) => vec![*i as f64],
            other => panic!("{other:?}"),
        }
    }
    fn run(g: &pteron_ir::Graph, r: pteron_ir::RegionId, env: &mut BTreeMap<ValueId, Vec<f64>>) {
        for &n in &g.regions[r].nodes {
            let node = &g.nodes[n];
            if node.op == Op::Loop {
                let body = node.regions[0];
                let mut now: Vec<_> = node.args.iter().map(|a| arg(env, a)).collect();
                loop {
                    for (&p, v) in g.regions[body].params.iter().zip(&now) {
                        env.insert(p, v.clone());
                    }
                    run(g, body, env);
                    let results = &g.regions[body].results;
                    now = results.iter().skip(1).map(|v| env[v].clone()).collect();
                    if env[&results[0]][0] == 0.0 {
                        break;
                    }
                }
                for (&o, v) in node.outputs.iter().zip(now) {
                    env.insert(o, v);
                }
                continue;
            }
            let a: Vec<Vec<f64>> = node.args.iter().filter(|a| **a != Arg::None).map(|a| arg(env, a)).collect();
            let out = match node.op {
                Op::Add | Op::PrimAdd => a[0].iter().zip(&a[1]).map(|(x, y)| x + y).collect(),
                Op::PrimLt => vec![f64::from(u8::from(a[0][0] < a[1][0]))],
                Op::PrimNot => vec![1.0 - a[0][0]],
                Op::Clone => a[0].clone(),
                Op::CopyInto => a[1].clone(),
                other => panic!("{other}"),
            };
            env.insert(node.outputs[0], out);
        }
    }
    run(g, g.body_id(), &mut env);
    g.outputs().iter().map(|v| env[v].clone()).collect()
}

#[test]
fn a_branch_that_gives_an_input_and_a_number() {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[2, 3]));
    let s = b.call(Op::Sum, args![x, Arg::ints(&[]), false, Arg::None]).unwrap();
    let p = b.call(Op::GtScalar, args![s, 0i64]).unwrap();
    let rows = b.call(Op::SymSize, args![x, 0i64]).unwrap();
    let g = b.graph_mut();
    let path = pteron_ir::Id::from_index(0);
    let body = g.body_id();
    let ty = Type::Tensor(fixed(&[2, 3]));
    let n = g.add_node(body, Op::Cond, args![p], [ty.clone(), Type::Int(SymInt::ANY)], Extra::None, path);
    let (then, other) = (g.regions.push(Region::default()), g.regions.push(Region::default()));
    g.nodes[n].regions.extend([then, other]);
    let neg = g.add_node(then, Op::Neg, args![x], [ty], Extra::None, path);
    let twice = g.add_node(then, Op::PrimAdd, args![rows, rows], [Type::Int(SymInt::Const(4))], Extra::None, path);
    g.regions[then].results = vec![g.nodes[neg].outputs[0], g.nodes[twice].outputs[0]];
    g.regions[other].results = vec![x, rows];
    let (tensor, number) = (g.nodes[n].outputs[0], g.nodes[n].outputs[1]);
    let y = b.call(Op::ViewCopy, args![tensor, Arg::ints(&[6])]).unwrap();
    let y = b.call(Op::Relu, args![y]).unwrap();
    b.finish(&[y, number]);
    verified(&m);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    // The view of the branch's result needs no call: both branches write one memory.
    assert!(!keys(&bytes).iter().any(|k| k.contains("et_view")));
    let l = lift_bytes(bytes.clone(), Vec::new()).unwrap_or_else(|e| panic!("{e}"));
    verified(&l.module);
    let t = text(&l.module);
    assert!(t.contains("cond(") && t.contains(": f32[2, 3], int"), "{t}");
    let again = emit_bytes(&l.module, &EmitOptions::default()).unwrap();
    assert_eq!(text(&lift_bytes(again, Vec::new()).unwrap().module), t);
}

#[test]
fn methods_share_buffers_at_the_same_place() {
    let mut m = Module::new("t");
    let (own, shared) = (m.add_buffer("own", fixed(&[5])), m.add_buffer("shared", fixed(&[2, 3])));
    for name in ["accumulate", "replace"] {
        let mut b = GraphBuilder::new(&mut m, name);
        let x = b.input("x", fixed(&[2, 3]));
        let s = b.buffer(shared);
        let y = b.call(Op::Add, args![s, x]).unwrap();
        b.write_back(shared, if name == "replace" { x } else { y });
        if name == "replace" {
            let o = b.buffer(own);
            let o2 = b.call(Op::Neg, args![o]).unwrap();
            b.write_back(own, o2);
        }
        b.finish(&[y]);
    }
    m.set_metadata("get_eos_ids", vec![MetaValue::Int(2), MetaValue::Int(3)]);
    m.set_metadata("get_name", vec![MetaValue::Str("t".into())]);
    let e = emit(&m, &EmitOptions::default()).unwrap();
    let place = |plan: usize| {
        let tensors = e.program.execution_plans[plan].values.iter().filter_map(EValue::as_tensor);
        let shared = tensors.filter(|t| t.extra.as_deref().is_some_and(|x| x.fully_qualified_name == "shared"));
        shared.map(|t| t.allocation.unwrap()).next().unwrap()
    };
    assert_eq!(place(0), place(1));
    assert_eq!(place(0).memory_id, 2);
    assert_eq!(e.program.execution_plans[2].non_const_buffer_sizes, [0]);
    assert_eq!(e.program.execution_plans[2].outputs, [0, 1]);
    let l = lift_bytes(bytes_of(&e), Vec::new()).unwrap();
    verified(&l.module);
    assert_eq!(l.module.buffers.len(), 2);
    assert_eq!(l.module.metadata.len(), 2);
    assert_eq!(l.module.graphs[1].mutations.len(), 2);
}

#[test]
fn constants_go_beside_the_program() {
    let mut m = Module::new("t");
    let values: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let w = m.add_tensor_constant("layer.w", MemorySource::of("w", &[3, 4], &values).unwrap());
    let v = m.add_tensor_constant("layer.v", MemorySource::of("v", &[3, 4], &values).unwrap());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[3, 4]));
    let (w1, v1) = (b.constant(w), b.constant(v));
    let y = b.call(Op::Add, args![x, w1]).unwrap();
    let y = b.call(Op::Mul, args![y, v1]).unwrap();
    b.finish(&[y]);
    // Equal small constants are written once.
    let inside = emit(&m, &EmitOptions::default()).unwrap();
    assert_eq!((inside.report.constant_bytes, inside.report.deduplicated_bytes), (48, 48));
    let options = EmitOptions { external: [w, v].into_iter().collect(), ..EmitOptions::default() };
    let e = emit(&m, &options).unwrap();
    assert_eq!(e.report.constant_bytes, 0);
    let mut ptd = Vec::new();
    e.external.as_ref().unwrap().write_to(&mut ptd, &mut |_| {}).unwrap();
    let head = PtdHead::parse(&ptd, ptd.len() as u64).unwrap();
    assert_eq!(head.entries.iter().map(|x| x.key.as_str()).collect::<Vec<_>>(), ["layer.w", "layer.v"]);
    let file = ExternalData { head, bytes: Arc::new(common::Bytes(ptd)) };
    let l = lift_bytes(bytes_of(&e), vec![file]).unwrap();
    verified(&l.module);
    assert_eq!(l.module.constants.len(), 2);
    let pteron_ir::ConstData::Source(s) = &l.module.constants.values().next().unwrap().data else { panic!("external") };
    assert_eq!(&pteron_tensor::read_all(s.as_ref()).unwrap()[..], bytemuck(&values));
}

fn bytemuck(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A tensor of any size whose rows are made when asked for.
#[derive(Debug)]
struct Fake {
    shape: [usize; 2],
    largest: Arc<AtomicUsize>,
}

impl TensorSource for Fake {
    fn dtype(&self) -> DType {
        DType::F32
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        self.largest.fetch_max(out.len(), Ordering::Relaxed);
        out.chunks_exact_mut(self.row_bytes()).zip(rows).for_each(|(o, r)| o.fill(r as u8));
        Ok(())
    }
    fn label(&self) -> &str {
        "fake"
    }
}

fn with_weight(shape: [usize; 2], largest: &Arc<AtomicUsize>) -> Module {
    let mut m = Module::new("t");
    let w = m.add_tensor_constant("w", Fake { shape, largest: Arc::clone(largest) });
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::I64, &[2]));
    let w = b.constant(w);
    let y = b.call(Op::Embedding, args![w, x]).unwrap();
    b.finish(&[y]);
    m
}

#[test]
fn offsets_have_64_bits() {
    let largest = Arc::new(AtomicUsize::new(0));
    let mut m = with_weight([1_310_720, 1024], &largest);
    let small = m.add_tensor_constant("small", MemorySource::of("small", &[1], &[1f32]).unwrap());
    let g = m.graphs.remove(0);
    let outputs = g.outputs().to_vec();
    let mut b = GraphBuilder::resume(&mut m, g);
    let s = b.constant(small);
    let y = b.call(Op::Mul, args![outputs[0], s]).unwrap();
    b.finish(&[y]);
    let e = emit(&m, &EmitOptions::default()).unwrap();
    assert_eq!(e.report.constant_bytes, (5 << 30) + 4);
    assert!(e.file.total_len > 5 << 30);
    assert_eq!(e.file.parts.last().unwrap().offset, e.file.total_len - 4);
    assert_eq!(largest.load(Ordering::Relaxed), 0, "nothing was read for the layout");
    let head = ParsedHead::parse(&e.file.head, e.file.total_len).unwrap();
    let tensors = head.program().execution_plans[0].values.iter().filter_map(EValue::as_tensor);
    let ranges: Vec<_> = tensors
        .filter(|t| matches!(t.storage(), Storage::Constant { .. }))
        .map(|t| head.constant_range(t).unwrap().unwrap())
        .collect();
    assert_eq!(ranges[0].end - ranges[0].start, 5 << 30);
    assert_eq!(ranges[1].start, ranges[0].end);
}

#[test]
fn constants_are_streamed_by_rows() {
    let largest = Arc::new(AtomicUsize::new(0));
    let m = with_weight([3000, 1000], &largest);
    let e = emit(&m, &EmitOptions::default()).unwrap();
    let mut out = Vec::new();
    let mut told = 0;
    e.write_to(&mut out, &mut |n| told += n).unwrap();
    assert_eq!((told, out.len() as u64), (e.file.total_len, e.file.total_len));
    assert!(largest.load(Ordering::Relaxed) <= EmittedData::SCRATCH && largest.load(Ordering::Relaxed) > 0);
    let part = &e.file.parts[0];
    assert_eq!((part.name.as_str(), part.len), ("w", 12_000_000));
    for row in [0usize, 1, 261, 262, 263, 2999] {
        assert_eq!(out[part.offset as usize + row * 4000 + 7], row as u8);
    }
}

#[test]
fn constants_in_another_dim_order() {
    let mut m = Module::new("t");
    let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
    let w = m.add_tensor_constant("w", MemorySource::of("w", &[1, 4, 2, 3], &values).unwrap());
    let order: DimOrder = [0u8, 2, 3, 1].into_iter().collect();
    m.constants[w].ty.order = Some(order.clone());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let ty = TensorType { order: Some(order), ..fixed(&[1, 4, 2, 3]) };
    let x = b.input("x", ty);
    let w = b.constant(w);
    let y = b.call(Op::Add, args![x, w]).unwrap();
    b.finish(&[y]);
    let e = emit(&m, &EmitOptions::default()).unwrap();
    let bytes = bytes_of(&e);
    let at = e.file.parts[0].offset as usize;
    let found: Vec<f32> =
        bytes[at..at + 24].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(found, [0., 6., 12., 18., 1., 7.]);
    let l = lift_bytes(bytes, Vec::new()).unwrap();
    verified(&l.module);
    let pteron_ir::ConstData::Source(s) = &l.module.constants.values().next().unwrap().data else {
        panic!("no source")
    };
    assert_eq!(&pteron_tensor::read_all(s.as_ref()).unwrap()[..], bytemuck(&values), "rows come row-major again");
}

#[test]
fn outputs_in_the_callers_memory_are_written_by_kernels() {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[2, 3]));
    let y = b.call(Op::Neg, args![x]).unwrap();
    let z = b.call(Op::ViewCopy, args![y, Arg::ints(&[6])]).unwrap();
    b.finish(&[y, z, x]);
    let options = EmitOptions { alloc_graph_output: false, ..EmitOptions::default() };
    let bytes = emit_bytes(&m, &options).unwrap();
    let head = ParsedHead::parse(&bytes, bytes.len() as u64).unwrap();
    let plan = &head.program().execution_plans[0];
    for &o in &plan.outputs {
        assert_eq!(plan.values[o as usize].as_tensor().unwrap().storage(), Storage::RuntimeSupplied);
    }
    assert_eq!(keys(&bytes).iter().filter(|k| *k == "aten::clone.out").count(), 2);
    verified(&lift_bytes(bytes, Vec::new()).unwrap().module);
}

#[test]
fn what_cannot_be_written_is_named() {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[2, 3]));
    let y = b.scope("layers.0", |b| b.call(Op::Silu, args![x])).unwrap();
    b.finish(&[y]);
    let e = emit(&m, &EmitOptions::default()).unwrap_err();
    assert!(matches!(e, EmitError::HighLevel { op: "aten::silu", .. }) && e.to_string().contains("layers.0"), "{e}");
    assert_eq!(required_operators(&m).unwrap(), ["aten::silu.out"]);

    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::new(DType::F32, [SymInt::ANY]));
    let y = b.call(Op::Neg, args![x]).unwrap();
    b.finish(&[y]);
    assert!(matches!(emit(&m, &EmitOptions::default()), Err(EmitError::Memory { .. })));

    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "same");
    let x = b.input("x", fixed(&[1]));
    b.finish(&[x]);
    m.set_metadata("same", vec![MetaValue::Int(1)]);
    assert!(matches!(emit(&m, &EmitOptions::default()), Err(EmitError::DuplicateMethod { .. })));
}

#[test]
fn operators_outside_the_table_pass_through() {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", fixed(&[2, 3]));
    let g = b.graph_mut();
    let (body, path) = (g.body_id(), pteron_ir::Id::from_index(0));
    let extra = Extra::Custom("acme::split.out".into());
    let types = [Type::Tensor(fixed(&[2])), Type::Tensor(fixed(&[3]))];
    let n = g.add_node(body, Op::Custom, args![x, 3i64, "mode", Arg::Floats(vec![0.5])], types, extra, path);
    let outputs: Vec<ValueId> = g.nodes[n].outputs.to_vec();
    b.finish(&outputs);
    let bytes = emit_bytes(&m, &EmitOptions::default()).unwrap();
    assert_eq!(keys(&bytes), ["acme::split.out"]);
    let l = lift_bytes(bytes, Vec::new()).unwrap();
    assert!(l.notes.iter().any(|n| n.contains("acme::split.out")));
    let g = &l.module.graphs[0];
    let node = &g.nodes[g.all_nodes()[0]];
    assert_eq!((node.args.len(), node.outputs.len()), (4, 2));
    assert_eq!(node.extra, Extra::Custom("acme::split.out".into()));
}
