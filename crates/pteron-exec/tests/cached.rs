//! A step of attention over caches, rotations and new rows included, is one kernel's call, and gives the bits of its nodes.

mod events;

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, ValueRef};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::passes::{CANONICALIZE, DCE, DECOMPOSE, executorch_portable};
use pteron_ir::{Arg, GraphBuilder, Module, Op, TensorType, ValueId, args};
use pteron_tensor::{DType, Tensor};
use pteron_testkit::Numbers;

use events::Events;

const ROOM: i64 = 24;
const WIDTH: i64 = 8;
const HEADS: [i64; 3] = [4, 2, 2];

/// What stands between the inputs and `custom_sdpa`.
#[derive(Clone, Copy, Debug)]
struct Case {
    /// Queries and keys are rotated.
    turned: [bool; 2],
    /// The rotated queries are an output as well.
    shown: bool,
    /// Keys are written a position later than values.
    apart: bool,
    /// Others read what the keys' cache held before, and what it holds then, in front of the attention.
    peeked: bool,
    dtype: DType,
}

fn module(case: Case) -> Arc<Module> {
    let Case { turned, shown, apart, peeked, dtype } = case;
    let mut m = Module::new("m");
    let cache = |heads: i64| TensorType::fixed(dtype, &[1, ROOM as usize, heads as usize, WIDTH as usize]);
    let buffers = [m.add_buffer("k", cache(HEADS[1])), m.add_buffer("v", cache(HEADS[2]))];
    let mut b = GraphBuilder::new(&mut m, "forward");
    let rows = b.symbol(1, 5);
    let input = |b: &mut GraphBuilder<'_>, name: &str, heads: i64| {
        b.input(name, TensorType::new(dtype, [1i64.into(), rows.clone(), heads.into(), WIDTH.into()]))
    };
    let [mut q, mut k, v] = [0, 1, 2].map(|i| input(&mut b, ["q", "k", "v"][i], HEADS[i]));
    let angles =
        ["cos", "sin"].map(|name| b.input(name, TensorType::new(DType::F32, [rows.clone(), (WIDTH / 2).into()])));
    let pos = b.input("input_pos", TensorType::fixed(DType::I64, &[1]));
    let start = b.local_int(pos, 0, ROOM - 1).unwrap();
    let rope = |b: &mut GraphBuilder<'_>, x: ValueId| -> ValueId {
        b.call(Op::Rope, args![x, angles[0], angles[1], false]).unwrap()
    };
    if turned[0] {
        q = rope(&mut b, q);
    }
    if turned[1] {
        k = rope(&mut b, k);
    }
    let later = b.call(Op::PrimAdd, args![start, 1i64]).unwrap();
    let (mut written, mut seen) = (Vec::new(), Vec::new());
    for (i, x) in [k, v].into_iter().enumerate() {
        let old = b.buffer(buffers[i]);
        if peeked && i == 0 {
            seen.push(b.call(Op::Neg, args![old]).unwrap());
        }
        let at = if apart && i == 0 { later } else { start };
        let node = b.node(Op::UpdateCache, args![x, old, at]).unwrap();
        let new = b.graph().nodes[node].outputs[1];
        b.write_back(buffers[i], new);
        written.push(new);
    }
    if peeked {
        seen.push(b.call(Op::Neg, args![written[0]]).unwrap());
    }
    let y = b.call(Op::CustomSdpa, args![q, written[0], written[1], start, Arg::None, 0.0, true]).unwrap();
    let mut outputs = vec![b.call(Op::MulScalar, args![y, 2.0]).unwrap()];
    outputs.extend(shown.then_some(q));
    outputs.extend(seen);
    b.finish(&outputs);
    let ctx = PassContext::new(&executorch_portable);
    Runner::new([DECOMPOSE, CANONICALIZE, DCE]).run(&mut m, &ctx).unwrap();
    Arc::new(m)
}

/// A prompt, tokens, a prompt, tokens.
fn calls(s: &mut Session, dtype: DType, outputs: bool) -> (Vec<Vec<u8>>, Vec<Op>) {
    let mut numbers = Numbers::new(11);
    let (mut all, mut ops) = (Vec::new(), Vec::new());
    for (rows, at) in [(5, 0), (1, 5), (1, 6), (1, 7), (3, 8), (1, 11), (1, 12), (1, 3)] {
        let mut random = |dtype: DType, sizes: &[usize]| {
            let values: Vec<f32> = (0..sizes.iter().product()).map(|_| 2.0 * numbers.unit()).collect();
            let t = Tensor::of(sizes, &values).unwrap();
            let mut out = Tensor::zeros(dtype, sizes).unwrap();
            for i in 0..values.len() {
                out.view_mut().set_scalar(i, t.view().scalar(i).unwrap()).unwrap();
            }
            out
        };
        let mut inputs: Vec<Tensor> =
            HEADS.iter().map(|&h| random(dtype, &[1, rows, h as usize, WIDTH as usize])).collect();
        inputs.extend([0, 1].map(|_| random(DType::F32, &[rows, WIDTH as usize / 2])));
        inputs.push(Tensor::of(&[1], &[at as i64]).unwrap());
        let refs: Vec<ValueRef<'_>> = inputs.iter().map(|t| ValueRef::Tensor(t.view())).collect();
        let mut events = Events { outputs, seen: Vec::new() };
        let out = s.run_watched("forward", &refs, &mut events).unwrap();
        all.extend((0..out.len()).map(|i| Tensor::copy_of(&out.tensor(i).unwrap()).bytes().to_vec()));
        ops = events.seen;
    }
    (all, ops)
}

#[test]
fn a_step_of_attention_is_one_call() {
    let all = [false, true];
    for dtype in [DType::F32, DType::BF16] {
        for turned in [[true; 2], [false; 2], [true, false], [false, true]] {
            for (shown, apart) in all.into_iter().flat_map(|s| all.map(|a| (s, a))) {
                let case = Case { turned, shown, apart, peeked: false, dtype };
                let m = module(case);
                let session = |threads| Session::new(Arc::clone(&m), &SessionOptions::with_threads(threads)).unwrap();
                let (expected, _) = calls(&mut session(1), dtype, true);
                for threads in [1, 3] {
                    let (got, ops) = calls(&mut session(threads), dtype, false);
                    assert!(got == expected, "{case:?}, {threads} threads");
                    // Rows of other positions are written by themselves, and queries that others read are rotated so.
                    let count = |op: Op| ops.iter().filter(|&&o| o == op).count();
                    assert_eq!(count(Op::UpdateCache), if apart { 2 } else { 0 }, "{case:?}: {ops:?}");
                    let alone = |i: usize| usize::from(turned[i] && (apart || i == 0 && shown));
                    assert_eq!(count(Op::Rope), alone(0) + alone(1), "{case:?}: {ops:?}");
                }
            }
        }
    }
}

/// What a cache holds before and after is there for others at their turns.
#[test]
fn others_read_the_caches_in_their_order() {
    for turned in [[true; 2], [false; 2]] {
        let m = module(Case { turned, shown: false, apart: false, peeked: true, dtype: DType::F32 });
        let session = |threads| Session::new(Arc::clone(&m), &SessionOptions::with_threads(threads)).unwrap();
        let (expected, _) = calls(&mut session(1), DType::F32, true);
        let (got, ops) = calls(&mut session(3), DType::F32, false);
        assert!(got == expected);
        assert_eq!(ops.iter().filter(|&&o| o == Op::UpdateCache).count(), 2, "{ops:?}");
    }
}

/// Rows that do not fit are refused by the same sentence, the first time and in a call that repeats others.
#[test]
fn rows_past_the_end_are_refused() {
    let m = module(Case { turned: [true; 2], shown: false, apart: false, peeked: false, dtype: DType::F32 });
    let mut s = Session::new(m, &SessionOptions::with_threads(1)).unwrap();
    let mut run = |at: i64, outputs: bool| {
        let mut inputs: Vec<Tensor> =
            HEADS.iter().map(|&h| Tensor::zeros(DType::F32, &[1, 5, h as usize, WIDTH as usize]).unwrap()).collect();
        inputs.extend([0, 1].map(|_| Tensor::zeros(DType::F32, &[5, WIDTH as usize / 2]).unwrap()));
        inputs.push(Tensor::of(&[1], &[at]).unwrap());
        let refs: Vec<ValueRef<'_>> = inputs.iter().map(|t| ValueRef::Tensor(t.view())).collect();
        let mut events = Events { outputs, seen: Vec::new() };
        s.run_watched("forward", &refs, &mut events).map(|_| ()).map_err(|e| e.to_string())
    };
    for at in [22, 0, 1, 2, 23, 3] {
        for outputs in [false, true] {
            match run(at, outputs) {
                Ok(()) => assert!(at < 20, "{at}"),
                Err(e) => {
                    assert!(
                        at > 20 && e.contains(&format!("5 rows at start_pos {at} leave a cache of 24 rows")),
                        "{e}"
                    );
                }
            }
        }
    }
}
