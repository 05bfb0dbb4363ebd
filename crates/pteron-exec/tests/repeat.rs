//! Calls that repeat the one before them give the bits that each call gives for itself.

mod events;

use std::sync::Arc;

use pteron_exec::{NodeHook, Session, SessionOptions, ValueRef};
use pteron_ir::{Arg, ConstId, GraphBuilder, Module, Op, TensorType, Type, args};
use pteron_tensor::{DType, MemorySource, Tensor};

use events::Events;

/// Positions of the cache.
const ROOM: usize = 24;
/// Elements of a row.
const WIDTH: usize = 4;

/// A layer that writes a cache and reads it, with a norm of weights, views by the number of rows, and, with `window`, the last
/// so many rows of the cache, which an input counts.
fn layer(window: bool) -> Module {
    let mut m = Module::new("layer");
    let cache = m.add_buffer("cache", TensorType::fixed(DType::F32, &[1, ROOM, 1, WIDTH]));
    let mut constant = |name: &str, values: [f32; WIDTH]| -> ConstId {
        m.add_tensor_constant(name, MemorySource::of(name, &[WIDTH], &values).unwrap())
    };
    let (weight, scale) = (constant("weight", [1.0, 0.5, -2.0, 3.0]), constant("scale", [0.25, 1.0, 2.0, 1.5]));
    let mut g = GraphBuilder::new(&mut m, "forward");
    let rows = g.symbol(1, 6);
    let x = g.input("x", TensorType::new(DType::F32, [rows, WIDTH.into()]));
    let pos = g.input("input_pos", TensorType::fixed(DType::I64, &[1]));
    let any = g.symbol(1, ROOM as i64);
    let seen = g.input("seen", Type::Int(any));
    let start = g.local_int(pos, 0, ROOM as i64 - 6).unwrap();
    let n = g.call(Op::SymSize, args![x, 0i64]).unwrap();
    let (w, s) = (g.constant(weight), g.constant(scale));
    let normed = g.call(Op::RmsNorm, args![x, Arg::ints(&[WIDTH as i64]), w, 1e-5]).unwrap();
    let mut sizes = vec![pteron_ir::IntArg::Const(1), pteron_ir::IntArg::Value(n)];
    sizes.extend([1, WIDTH as i64].map(pteron_ir::IntArg::Const));
    let heads = g.call(Op::ViewCopy, [normed.into(), Arg::Ints(sizes.into())]).unwrap();
    let old = g.buffer(cache);
    let node = g.node(Op::UpdateCache, args![heads, old, start]).unwrap();
    let new = g.graph().nodes[node].outputs[1];
    g.write_back(cache, new);
    let y = g.call(Op::CustomSdpa, args![heads, new, new, start, Arg::None, 0.0, true]).unwrap();
    let flat = g.call(Op::ViewCopy, [y.into(), Arg::ints(&[-1, WIDTH as i64])]).unwrap();
    let out = g.call(Op::Mul, args![flat, s]).unwrap();
    let mut outputs = vec![out];
    if window {
        let rows = g.call(Op::ViewCopy, [new.into(), Arg::ints(&[ROOM as i64, WIDTH as i64])]).unwrap();
        let some = g.call(Op::SliceCopy, args![rows, 0i64, 0i64, seen, 1i64]).unwrap();
        let weighed = g.call(Op::Mul, args![some, s]).unwrap();
        let twice = g.call(Op::MulScalar, args![weighed, 2.0]).unwrap();
        outputs.push(twice);
    }
    g.finish(&outputs);
    m
}

fn call(
    s: &mut Session,
    (rows, pos, seen): (usize, usize, usize),
    hook: &mut dyn NodeHook,
) -> Vec<(Vec<usize>, Vec<u8>)> {
    let values: Vec<f32> = (0..rows * WIDTH).map(|i| ((i + 7 * pos + rows) as f32 * 0.61).sin()).collect();
    let x = Tensor::of(&[rows, WIDTH], &values).unwrap();
    let at = Tensor::of(&[1], &[pos as i64]).unwrap();
    let inputs = [ValueRef::Tensor(x.view()), ValueRef::Tensor(at.view()), ValueRef::Int(seen as i64)];
    let out = s.run_watched("forward", &inputs, hook).unwrap();
    (0..out.len())
        .map(|i| Tensor::copy_of(&out.tensor(i).unwrap()))
        .map(|t| (t.sizes().to_vec(), t.bytes().to_vec()))
        .collect()
}

#[test]
fn repeated_calls_give_the_bits_of_single_ones() {
    // A prompt, tokens, another prompt, tokens; the window stays, grows, and grows at each call.
    let calls = [(3, 0, 3), (1, 3, 3), (1, 4, 3), (1, 5, 3), (1, 6, 3), (1, 7, 8), (1, 8, 8), (1, 9, 8), (1, 10, 11)];
    let more = [(1, 11, 12), (2, 12, 14), (2, 14, 14), (2, 16, 14), (2, 18, 20), (1, 18, 20), (1, 18, 20), (1, 18, 20)];
    for window in [false, true] {
        let module = Arc::new(layer(window));
        for threads in [1, 3] {
            let options = SessionOptions::with_threads(threads);
            let mut repeating = Session::new(Arc::clone(&module), &options).unwrap();
            // Who counts fuel has each node executed for itself.
            let fuelled = SessionOptions { fuel: Some(u64::MAX), ..SessionOptions::with_threads(1) };
            let mut single = Session::new(Arc::clone(&module), &fuelled).unwrap();
            for c in calls.into_iter().chain(more) {
                let expected = call(&mut single, c, &mut Events::default());
                assert_eq!(call(&mut repeating, c, &mut Events::default()), expected, "call {c:?}, window {window}");
            }
        }
    }
}

#[test]
fn a_repeated_call_passes_over_what_is_known() {
    let mut s = Session::new(Arc::new(layer(true)), &SessionOptions::with_threads(1)).unwrap();
    let mut ops = |c| {
        let mut count = Events::default();
        call(&mut s, c, &mut count);
        count.seen
    };
    let views = |ops: &[Op]| ops.iter().filter(|&&o| o == Op::ViewCopy || o == Op::SymSize).count();
    // The first call finds sizes, the second leaves the list, the third follows it.
    let first = ops((1, 0, 2));
    assert_eq!(ops((1, 1, 2)), first);
    let third = ops((1, 2, 2));
    assert_eq!(views(&first), 4);
    assert_eq!(views(&third), 0);
    assert_eq!(third.len(), first.len() - 4);
    // Other sizes end it: what comes after the slice is executed as in the first call, and the next call begins anew.
    assert_eq!(ops((1, 3, 5)), third);
    assert_eq!(ops((1, 4, 5)), first);
    assert_eq!(ops((1, 5, 5)), third);
}
