//! Linear layers with quantized weights run on packed codes, however they are spelled: they give what the dequantized products
//! give, a row alone gives what it gives in a batch, and no weight is held in floats.

mod events;

use std::sync::Arc;

use pteron_exec::{NodeHook, Session, SessionOptions, ValueRef};
use pteron_ir::{Arg, GraphBuilder, Module, Op, SymInt, TensorType, ValueId, args};
use pteron_kernels::quant::QuantSemantics;
use pteron_tensor::{DType, MemorySource, Tensor, Tolerance};
use pteron_testkit::Numbers;

use events::Events;

const K: usize = 64;

/// How the activations of a layer come about.
type Activations = fn(&mut GraphBuilder<'_>, ValueId) -> ValueId;
/// A weight of so many rows as a layer reads it, `[n, K]`.
type Weight = fn(&mut GraphBuilder<'_>, &mut Numbers, usize) -> ValueId;

fn constant<T: pteron_tensor::Element>(b: &mut GraphBuilder<'_>, name: &str, sizes: &[usize], values: &[T]) -> ValueId {
    let c = b.module_mut().add_tensor_constant(name, MemorySource::of(name, sizes, values).unwrap());
    b.constant(c)
}

fn codes(b: &mut GraphBuilder<'_>, numbers: &mut Numbers, sizes: &[usize], low: i64, high: i64) -> ValueId {
    let n = sizes.iter().product();
    let span = u64::try_from(high - low + 1).unwrap();
    let all: Vec<i8> = (0..n).map(|_| (low + numbers.below(span) as i64) as i8).collect();
    constant(b, "codes", sizes, &all)
}

fn scales(b: &mut GraphBuilder<'_>, numbers: &mut Numbers, sizes: &[usize]) -> ValueId {
    let all: Vec<f32> = (0..sizes.iter().product()).map(|_| 0.01 + 0.005 * numbers.unit().abs()).collect();
    constant(b, "scales", sizes, &all)
}

fn two(b: &mut GraphBuilder<'_>, op: Op, args: Vec<Arg>) -> (ValueId, ValueId) {
    let n = b.node(op, args).unwrap();
    let outputs = &b.graph().nodes[n].outputs;
    (outputs[0], outputs[1])
}

fn floats(_: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    x
}

fn per_token(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let (s, z) = two(b, Op::ChooseQparamsPerTokenAsymmetric, args![x, DType::I8].into());
    let q = b.call(Op::QuantizePerToken, args![x, s, z, -128i64, 127i64, DType::I8]).unwrap();
    b.call(Op::DequantizePerToken, args![q, s, z, -128i64, 127i64, DType::I8, DType::F32]).unwrap()
}

fn per_tensor(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let (s, z) = two(b, Op::ChooseQparams, args![x, -128i64, 127i64, 1e-5f64, DType::I8].into());
    let q = b.call(Op::QuantizePerTensorTensor, args![x, s, z, -128i64, 127i64, DType::I8]).unwrap();
    b.call(Op::DequantizePerTensorTensor, args![q, s, z, -128i64, 127i64, DType::I8, Arg::None]).unwrap()
}

fn affine(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let block = Arg::ints(&[1, K as i64]);
    let choose =
        args![x, "ASYMMETRIC", block.clone(), DType::I8, -128i64, 127i64, Arg::None, DType::F32, DType::I8, true];
    let (s, z) = two(b, Op::ChooseQparamsAffine, choose.into());
    let q = b.call(Op::QuantizeAffine, args![x, block.clone(), s, z, DType::I8, -128i64, 127i64]).unwrap();
    b.call(Op::DequantizeAffine, args![q, block, s, z, DType::I8, -128i64, 127i64, DType::F32]).unwrap()
}

fn qd8(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let n = b.node(Op::ConvertQd8, args![x, 1i64]).unwrap();
    let [q, s, z] = b.graph().nodes[n].outputs[..] else { panic!("three outputs") };
    let block = Arg::ints(&[1, K as i64]);
    b.call(Op::DequantizeAffine, args![q, block, s, z, DType::I8, -128i64, 127i64, DType::F32]).unwrap()
}

/// As payloads of XNNPACK are lifted.
fn qd8_rows(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let n = b.node(Op::ConvertQd8, args![x, 1i64]).unwrap();
    let [q, s, z] = b.graph().nodes[n].outputs[..] else { panic!("three outputs") };
    b.call(Op::DequantizePerToken, args![q, s, z, -128i64, 127i64, DType::I8, DType::F32]).unwrap()
}

/// As `affine` is spelled with the kernels that ExecuTorch's runtime has.
fn in_parts(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    in_parts_through(b, x, DType::F32)
}

/// The same, the scales that make codes having been of type `through`.
fn in_parts_through(b: &mut GraphBuilder<'_>, x: ValueId, through: DType) -> ValueId {
    let rows = |b: &mut GraphBuilder<'_>| b.call(Op::ViewCopy, args![x, Arg::ints(&[-1, K as i64])]).unwrap();
    let number = |b: &mut GraphBuilder<'_>, v: f32| constant(b, "number", &[], &[v]);
    let (zero, steps, first) = (number(b, 0.0), number(b, 255.0), number(b, -128.0));
    let (y, z) = (rows(b), rows(b));
    let call = |b: &mut GraphBuilder<'_>, op: Op, args: Vec<Arg>| b.call(op, args).unwrap();
    let low = call(b, Op::Amin, args![y, Arg::ints(&[1])].into());
    let low = call(b, Op::Minimum, args![low, zero].into());
    let high = call(b, Op::Amax, args![y, Arg::ints(&[1])].into());
    let high = call(b, Op::Maximum, args![high, zero].into());
    let span = call(b, Op::Sub, args![high, low].into());
    let scale = call(b, Op::Div, args![span, steps].into());
    let scale = call(b, Op::Clamp, args![scale, f64::from(f32::MIN_POSITIVE)].into());
    let part = call(b, Op::Div, args![low, scale].into());
    let part = call(b, Op::Round, args![part].into());
    let point = call(b, Op::Sub, args![first, part].into());
    let point = call(b, Op::Clamp, args![point, -128i64, 127i64].into());
    let point = call(b, Op::ToCopy, args![point, DType::I8].into());
    let narrow = call(b, Op::ToCopy, args![scale, through].into());
    let (wide, long) =
        (call(b, Op::ToCopy, args![narrow, DType::F64].into()), call(b, Op::ToCopy, args![point, DType::I64].into()));
    let q = call(b, Op::QuantizePerChannel, args![z, wide, long, 0i64, -128i64, 127i64, DType::I8].into());
    let again = call(b, Op::ToCopy, args![point, DType::I64].into());
    let args = args![q, scale, again, 0i64, -128i64, 127i64, DType::I8, Arg::None];
    call(b, Op::DequantizePerChannel, args.into())
}

fn fixed(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let q = b.call(Op::QuantizePerTensor, args![x, 0.04f64, 7i64, -128i64, 127i64, DType::I8]).unwrap();
    b.call(Op::DequantizePerTensor, args![q, 0.04f64, 7i64, -128i64, 127i64, DType::I8, Arg::None]).unwrap()
}

/// The spellings of activations, whether a row depends on the others, and whether all of it is one kernel.
const ACTIVATIONS: [(&str, Activations, bool, bool); 8] = [
    ("in parts", in_parts, false, true),
    ("floats", floats, false, true),
    ("per token", per_token, false, true),
    ("per tensor", per_tensor, true, true),
    ("affine", affine, false, true),
    ("qd8", qd8, false, true),
    ("qd8 rows", qd8_rows, false, true),
    ("fixed", fixed, false, false),
];

fn per_channel(b: &mut GraphBuilder<'_>, r: &mut Numbers, n: usize) -> ValueId {
    let (q, s) = (codes(b, r, &[n, K], -127, 127), scales(b, r, &[n]));
    let args = args![q, s, Arg::None, 0i64, -127i64, 127i64, DType::I8, Arg::None];
    b.call(Op::DequantizePerChannel, args).unwrap()
}

fn per_group(b: &mut GraphBuilder<'_>, r: &mut Numbers, n: usize) -> ValueId {
    let (q, s) = (codes(b, r, &[n, K], -8, 7), scales(b, r, &[n, 2]));
    let block = Arg::ints(&[1, 32]);
    b.call(Op::DequantizeAffine, args![q, block, s, Arg::None, DType::I8, -8i64, 7i64, DType::F32]).unwrap()
}

/// As groups are spelled with the kernels that ExecuTorch's runtime has: a row a group, and back.
fn rows_of_groups(b: &mut GraphBuilder<'_>, r: &mut Numbers, n: usize) -> ValueId {
    let (q, s) = (codes(b, r, &[n, K], -8, 7), scales(b, r, &[n * 2]));
    let q = b.call(Op::ViewCopy, args![q, Arg::ints(&[2 * n as i64, 32])]).unwrap();
    let args = args![q, s, Arg::None, 0i64, -8i64, 7i64, DType::I8, Arg::None];
    let w = b.call(Op::DequantizePerChannel, args).unwrap();
    b.call(Op::ViewCopy, args![w, Arg::ints(&[n as i64, K as i64])]).unwrap()
}

fn with_zero_points(b: &mut GraphBuilder<'_>, r: &mut Numbers, n: usize) -> ValueId {
    let (q, s) = (codes(b, r, &[n, K], -20, 20), scales(b, r, &[n]));
    let zeros: Vec<i64> = (0..n).map(|_| r.below(20) as i64 - 10).collect();
    let z = constant(b, "zeros", &[n], &zeros);
    let args = args![q, s, z, 0i64, -128i64, 127i64, DType::I8, Arg::None];
    b.call(Op::DequantizePerChannel, args).unwrap()
}

fn widened(b: &mut GraphBuilder<'_>, r: &mut Numbers, n: usize) -> ValueId {
    let q = codes(b, r, &[n, K], -128, 127);
    b.call(Op::ToCopy, args![q, DType::F32]).unwrap()
}

const WEIGHTS: [(&str, Weight); 5] = [
    ("per channel", per_channel),
    ("per group", per_group),
    ("rows of groups", rows_of_groups),
    ("zero points", with_zero_points),
    ("codes as numbers", widened),
];

/// How a layer is spelled.
#[derive(Clone, Copy, Debug)]
enum Layer {
    Linear,
    Bias,
    Mm,
    AddMm,
}

fn layer(b: &mut GraphBuilder<'_>, x: ValueId, w: ValueId, n: usize, kind: Layer) -> ValueId {
    let bias: Vec<f32> = (0..n).map(|i| i as f32 * 0.1).collect();
    let turned = |b: &mut GraphBuilder<'_>| b.call(Op::PermuteCopy, args![w, Arg::ints(&[1, 0])]).unwrap();
    match kind {
        Layer::Linear => b.call(Op::Linear, args![x, w, Arg::None]).unwrap(),
        Layer::Bias => {
            let c = constant(b, "bias", &[n], &bias);
            b.call(Op::Linear, args![x, w, c]).unwrap()
        }
        Layer::Mm => {
            let t = turned(b);
            b.call(Op::Mm, args![x, t]).unwrap()
        }
        Layer::AddMm => {
            let (c, t) = (constant(b, "bias", &[n], &bias), turned(b));
            b.call(Op::AddMm, args![c, x, t, 1i64, 1i64]).unwrap()
        }
    }
}

fn module(build: &dyn Fn(&mut GraphBuilder<'_>, ValueId) -> Vec<ValueId>) -> Arc<Module> {
    let mut m = Module::new("m");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let rows = b.symbol(1, 300);
    let x = b.input("x", TensorType::new(DType::F32, [rows, SymInt::from(K)].to_vec()));
    let outputs = build(&mut b, x);
    b.finish(&outputs);
    Arc::new(m)
}

fn run(s: &mut Session, x: &Tensor, hook: &mut dyn NodeHook) -> Vec<Vec<f64>> {
    let inputs = [ValueRef::Tensor(x.view())];
    let out = s.run_watched("forward", &inputs, hook).unwrap();
    (0..out.len()).map(|i| out.tensor(i).unwrap().to_f64_vec()).collect()
}

fn rows(numbers: &mut Numbers, m: usize) -> Tensor {
    let x: Vec<f32> = (0..m * K).map(|_| 3.0 * numbers.unit() + 0.4).collect();
    Tensor::of(&[m, K], &x).unwrap()
}

/// Compares packed products with those of dequantized weights, whose sums of f32 are rounded differently.
fn check(m: &Arc<Module>, alone: bool, what: &str) -> Vec<Op> {
    let mut seen = Vec::new();
    for quant in [QuantSemantics::ExecuTorch, QuantSemantics::Eager] {
        let options =
            |threads, fold_weights| SessionOptions { quant, fold_weights, ..SessionOptions::with_threads(threads) };
        let mut plain = Session::new(Arc::clone(m), &options(1, false)).unwrap();
        let mut packed = Session::new(Arc::clone(m), &options(1, true)).unwrap();
        let mut three = Session::new(Arc::clone(m), &options(3, true)).unwrap();
        let mut numbers = Numbers::new(9);
        for size in [1, 4, 9] {
            let x = rows(&mut numbers, size);
            let mut events = Events::default();
            let got = run(&mut packed, &x, &mut events);
            seen = events.seen;
            assert_eq!(run(&mut three, &x, &mut Events::default()), got, "{what}: threads");
            let expected = run(&mut plain, &x, &mut Events::default());
            // Watched, each node runs by itself, on the packed weight as well.
            let watched = run(&mut packed, &x, &mut Events { outputs: true, ..Events::default() });
            for ((e, g), w) in expected.iter().zip(&got).zip(&watched) {
                let close = Tolerance { name: "sums of f32", abs: 0.0, rel: 0.0, of_max: 1e-5 };
                close.check(e, g).unwrap_or_else(|e| panic!("{what}, {quant:?}, {size} rows: {e}"));
                close.check(e, w).unwrap_or_else(|e| panic!("{what}, {quant:?}, {size} rows, watched: {e}"));
            }
            if alone {
                let values: Vec<f32> = x.view().to_f64_vec().iter().map(|&v| v as f32).collect();
                for r in 0..size {
                    let one = Tensor::of(&[1, K], &values[r * K..(r + 1) * K]).unwrap();
                    for (o, all) in run(&mut packed, &one, &mut Events::default()).iter().zip(&got) {
                        assert_eq!(o[..], all[r * o.len()..(r + 1) * o.len()], "{what}: row {r} alone");
                    }
                }
            }
        }
    }
    seen
}

#[test]
fn every_spelling_is_one_kernel() {
    for (a, activations, mixes, whole) in ACTIVATIONS {
        for (w, weight) in WEIGHTS {
            for kind in [Layer::Linear, Layer::Bias, Layer::Mm, Layer::AddMm] {
                let m = module(&|b, x| {
                    let mut numbers = Numbers::new(3);
                    let x = activations(b, x);
                    let w = weight(b, &mut numbers, 40);
                    vec![layer(b, x, w, 40, kind)]
                });
                let what = format!("{a}, {w}, {kind:?}");
                let seen = check(&m, !mixes, &what);
                let ran: Vec<&Op> = seen.iter().filter(|&&op| op != Op::ViewCopy).collect();
                let expected: &[&Op] = if whole { &[&Op::Linear] } else { &[&Op::QuantizePerTensor, &Op::Linear] };
                let folded = |op: &&&Op| {
                    matches!(op, Op::DequantizePerChannel | Op::DequantizeAffine | Op::PermuteCopy | Op::ToCopy)
                };
                let ran: Vec<&Op> = ran.into_iter().filter(|op| !folded(&op)).collect();
                assert_eq!(ran, expected, "{what}");
            }
        }
    }
}

/// Layers of the same activations are one go of the threads, with one quantization.
#[test]
fn layers_of_the_same_activations_go_together() {
    let m = module(&|b, x| {
        let mut numbers = Numbers::new(3);
        let x = per_token(b, x);
        let w: Vec<ValueId> = [24, 16, 40].into_iter().map(|n| per_channel(b, &mut numbers, n)).collect();
        w.into_iter().zip([24, 16, 40]).map(|(w, n)| layer(b, x, w, n, Layer::Linear)).collect()
    });
    let seen = check(&m, true, "three layers");
    assert_eq!(seen.iter().filter(|&&op| op == Op::Linear).count(), 1, "{seen:?}");
    assert!(!seen.contains(&Op::QuantizePerToken), "{seen:?}");
}

/// Rows that are heads joined, each reader of which has a view of its own.
#[test]
fn joined_heads_are_quantized_in_front_of_the_layer() {
    let m = module(&|b, x| {
        let mut numbers = Numbers::new(3);
        let heads = b.call(Op::ViewCopy, args![x, Arg::ints(&[-1, 4, K as i64 / 4])]).unwrap();
        let turned = b.call(Op::Neg, args![heads]).unwrap();
        let x = in_parts(b, turned);
        let w = per_channel(b, &mut numbers, 24);
        vec![layer(b, x, w, 24, Layer::Linear)]
    });
    let seen = check(&m, true, "joined heads");
    assert!(!seen.contains(&Op::Amin) && !seen.contains(&Op::QuantizePerChannel), "{seen:?}");
}

/// Scales that lost bits on their way are other scales.
#[test]
fn rounded_scales_are_taken_as_they_are() {
    let m = module(&|b, x| {
        let mut numbers = Numbers::new(3);
        let x = in_parts_through(b, x, DType::F16);
        let w = per_channel(b, &mut numbers, 24);
        vec![layer(b, x, w, 24, Layer::Linear)]
    });
    let seen = check(&m, true, "rounded scales");
    assert!(seen.contains(&Op::Amin) && seen.contains(&Op::QuantizePerChannel), "{seen:?}");
}

/// A norm or a gate, and what else it gives.
type Front = fn(&mut GraphBuilder<'_>, ValueId) -> (ValueId, Option<ValueId>);

fn norm(b: &mut GraphBuilder<'_>, x: ValueId) -> ValueId {
    let weight: Vec<f32> = (0..K).map(|i| 0.5 + i as f32 * 0.01).collect();
    let w = constant(b, "weight", &[K], &weight);
    b.call(Op::RmsNorm, [x.into(), Arg::ints(&[K as i64]), w.into(), 1e-5.into()]).unwrap()
}

const FRONTS: [(&str, Front); 3] = [
    ("norm", |b, x| (norm(b, x), None)),
    ("sum and norm", |b, x| {
        let half = b.call(Op::Sigmoid, args![x]).unwrap();
        let sum = b.call(Op::Add, args![x, half, 1i64]).unwrap();
        (norm(b, sum), Some(sum))
    }),
    ("gate", |b, x| {
        let other = b.call(Op::Neg, args![x]).unwrap();
        let s = b.call(Op::Sigmoid, args![x]).unwrap();
        let silu = b.call(Op::Mul, args![x, s]).unwrap();
        (b.call(Op::Mul, args![silu, other]).unwrap(), None)
    }),
];

/// A norm or a gate that only layers read is computed with them, row by row, and gives the bits that it gives alone.
#[test]
fn norms_and_gates_go_with_the_layers_behind_them() {
    for (name, front) in FRONTS {
        for (a, activations, mixes, whole) in ACTIVATIONS {
            let build = |b: &mut GraphBuilder<'_>, x: ValueId, seen: bool| {
                let mut numbers = Numbers::new(3);
                let (y, rest) = front(b, x);
                let view = b.call(Op::ViewCopy, args![y, Arg::ints(&[-1, K as i64])]).unwrap();
                let codes = activations(b, view);
                let outs = [24, 16].map(|n| {
                    let w = per_channel(b, &mut numbers, n);
                    layer(b, codes, w, n, Layer::Linear)
                });
                outs.into_iter().chain(rest).chain(seen.then_some(y)).collect()
            };
            let what = format!("{name}, {a}");
            let (hidden, shown) = (module(&|b, x| build(b, x, false)), module(&|b, x| build(b, x, true)));
            let ops = check(&hidden, !mixes, &what);
            let alone = |op: &&Op| matches!(op, Op::RmsNorm | Op::Silu);
            assert_eq!(ops.iter().filter(alone).count(), usize::from(!whole), "{what}: {ops:?}");
            let ops = check(&shown, !mixes, &what);
            assert_eq!(ops.iter().filter(alone).count(), 1, "{what}, read by others: {ops:?}");
            let [mut one, mut other] =
                [hidden, shown].map(|m| Session::new(m, &SessionOptions::with_threads(3)).unwrap());
            let x = rows(&mut Numbers::new(7), 300);
            let (got, expected) =
                (run(&mut one, &x, &mut Events::default()), run(&mut other, &x, &mut Events::default()));
            assert!(got.iter().zip(&expected).all(|(g, e)| g == e), "{what}");
        }
    }
}

/// Dequantized activations that somebody else reads as well are still there.
#[test]
fn others_see_the_dequantized_activations() {
    let m = module(&|b, x| {
        let mut numbers = Numbers::new(3);
        let x = per_token(b, x);
        let w = per_channel(b, &mut numbers, 8);
        let y = layer(b, x, w, 8, Layer::Linear);
        vec![y, b.call(Op::Neg, args![x]).unwrap()]
    });
    check(&m, true, "two readers");
}

/// A weight takes what its codes take.
#[test]
fn weights_are_not_held_in_floats() {
    for (weight, most) in [(per_group as Weight, 5), (per_channel, 9)] {
        let m = module(&|b, x| {
            let w = weight(b, &mut Numbers::new(3), 512);
            vec![layer(b, x, w, 512, Layer::Mm)]
        });
        let s = Session::new(m, &SessionOptions::with_threads(1)).unwrap();
        let held = s.memory().decoded_constants;
        // Codes and scales, and a sum for each channel.
        assert!(held > 0 && held <= 512 * (K as u64 * most / 8 + 4), "{held} bytes");
    }
}

/// A weight whose elements somebody else reads is dequantized.
#[test]
fn a_weight_that_others_read_stays_whole() {
    let m = module(&|b, x| {
        let w = per_channel(b, &mut Numbers::new(3), 16);
        let y = layer(b, x, w, 16, Layer::Linear);
        vec![y, b.call(Op::Neg, args![w]).unwrap()]
    });
    check(&m, false, "two readers of a weight");
    let s = Session::new(m, &SessionOptions::with_threads(1)).unwrap();
    assert!(s.memory().decoded_constants >= 16 * K as u64 * 4);
}

/// Codes of activations that a program has as an input's or another operator's result, and zero points beyond the codes.
#[test]
fn zero_points_that_are_no_codes() {
    let m = module(&|b, x| {
        let q = b.call(Op::QuantizePerTensor, args![x, 0.04f64, 7i64, -128i64, 127i64, DType::I8]).unwrap();
        let x =
            b.call(Op::DequantizePerTensor, args![q, 0.04f64, 1000i64, -128i64, 127i64, DType::I8, Arg::None]).unwrap();
        let w = per_channel(b, &mut Numbers::new(3), 16);
        vec![layer(b, x, w, 16, Layer::Linear)]
    });
    let mut plain =
        Session::new(Arc::clone(&m), &SessionOptions { fold_weights: false, ..SessionOptions::with_threads(1) })
            .unwrap();
    let mut packed = Session::new(m, &SessionOptions::with_threads(1)).unwrap();
    let x = rows(&mut Numbers::new(1), 3);
    let (e, g) = (run(&mut plain, &x, &mut Events::default()), run(&mut packed, &x, &mut Events::default()));
    Tolerance { name: "sums of f32", abs: 0.0, rel: 0.0, of_max: 1e-5 }.check(&e[0], &g[0]).unwrap();
}
