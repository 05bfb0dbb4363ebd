//! Nodes that are executed together give the bits that they give one by one, and only where nobody could tell the two apart.

mod events;

use std::sync::Arc;

use pteron_exec::{NodeHook, Session, SessionOptions, ValueRef};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::passes::{CANONICALIZE, DCE, DECOMPOSE, executorch_portable};
use pteron_ir::{Arg, GraphBuilder, Module, Op, SymInt, TensorType, ValueId, args};
use pteron_tensor::{DType, Scalar, Tensor, Tolerance};
use pteron_testkit::Numbers;

use events::Events;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Input sizes: `None` is the symbolic size.
type Sizes<'a> = &'a [Option<usize>];
/// What a graph computes of its inputs.
type Build<'a> = &'a dyn Fn(&mut GraphBuilder<'_>, &[ValueId]) -> Vec<ValueId>;

fn built(inputs: &[(DType, Sizes<'_>)], build: Build<'_>) -> Module {
    let mut m = Module::new("m");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let symbol = b.symbol(1, 9);
    let values: Vec<ValueId> = inputs
        .iter()
        .map(|(d, sizes)| {
            let dims: Vec<SymInt> = sizes.iter().map(|s| s.map_or_else(|| symbol.clone(), SymInt::from)).collect();
            b.input("x", TensorType::new(*d, dims))
        })
        .collect();
    let outputs = build(&mut b, &values);
    b.finish(&outputs);
    m
}

fn decomposed(inputs: &[(DType, Sizes<'_>)], build: Build<'_>) -> Module {
    let mut m = built(inputs, build);
    let ctx = PassContext::new(&executorch_portable);
    Runner::new([DECOMPOSE, CANONICALIZE, DCE]).run(&mut m, &ctx).unwrap();
    m
}

fn tensors(numbers: &mut Numbers, inputs: &[(DType, Sizes<'_>)], size: usize) -> Vec<Tensor> {
    let one = |(d, sizes): &(DType, Sizes<'_>)| {
        let sizes: Vec<usize> = sizes.iter().map(|s| s.unwrap_or(size)).collect();
        let mut t = Tensor::zeros(*d, &sizes).unwrap();
        for i in 0..t.numel() {
            let x = match d {
                // The first of a row is always seen.
                DType::Bool => Scalar::Bool(i % sizes.last().copied().unwrap_or(1) == 0 || numbers.below(3) > 0),
                _ => Scalar::Float(f64::from(4.0 * numbers.unit())),
            };
            t.view_mut().set_scalar(i, x).unwrap();
        }
        t
    };
    inputs.iter().map(one).collect()
}

fn bytes(session: &mut Session, inputs: &[Tensor], hook: &mut dyn NodeHook) -> Vec<Vec<u8>> {
    let refs: Vec<ValueRef<'_>> = inputs.iter().map(|t| ValueRef::Tensor(t.view())).collect();
    let out = session.run_watched("forward", &refs, hook).unwrap();
    (0..out.len()).map(|i| Tensor::copy_of(&out.tensor(i).unwrap()).bytes().to_vec()).collect()
}

/// Runs together and one by one, on 1 and 3 threads and at several sizes; gives the operators of both kinds of run. Both give
/// the same bits.
fn check(inputs: &[(DType, Sizes<'_>)], build: Build<'_>) -> (Vec<Op>, Vec<Op>) {
    check_within(inputs, build, None)
}

/// [`check`], both kinds of run being equal within a tolerance; the numbers of threads still give the same bits.
fn check_within(inputs: &[(DType, Sizes<'_>)], build: Build<'_>, tolerance: Option<Tolerance>) -> (Vec<Op>, Vec<Op>) {
    compare(&decomposed(inputs, build), inputs, tolerance)
}

/// [`check`] of the graph as it is built.
fn check_whole(inputs: &[(DType, Sizes<'_>)], build: Build<'_>) -> (Vec<Op>, Vec<Op>) {
    compare(&built(inputs, build), inputs, None)
}

fn compare(module: &Module, inputs: &[(DType, Sizes<'_>)], tolerance: Option<Tolerance>) -> (Vec<Op>, Vec<Op>) {
    let module = Arc::new(module.clone());
    let mut numbers = Numbers::new(5);
    let mut ops = (Vec::new(), Vec::new());
    let mut sessions: Vec<Session> =
        [1, 3].map(|threads| Session::new(Arc::clone(&module), &SessionOptions::with_threads(threads)).unwrap()).into();
    for size in [1, 4, 9] {
        let x = tensors(&mut numbers, inputs, size);
        let mut expected = None;
        for s in &mut sessions {
            let (mut all, mut few) =
                (Events { outputs: true, seen: Vec::new() }, Events { outputs: false, seen: Vec::new() });
            let one_by_one = bytes(s, &x, &mut all);
            let together = bytes(s, &x, &mut few);
            assert!(one_by_one.iter().flatten().any(|&b| b != 0));
            match tolerance {
                None => assert_eq!(one_by_one, together, "size {size}"),
                Some(t) => {
                    let floats = |all: &[Vec<u8>]| -> Vec<f64> {
                        let all = all.iter().flat_map(|b| b.as_chunks::<4>().0);
                        all.map(|b| f64::from(f32::from_ne_bytes(*b))).collect()
                    };
                    t.check(&floats(&one_by_one), &floats(&together)).unwrap_or_else(|e| panic!("size {size}: {e}"));
                }
            }
            assert_eq!(*expected.get_or_insert_with(|| together.clone()), together, "size {size}");
            ops = (all.seen, few.seen);
        }
    }
    ops
}

fn norm(b: &mut GraphBuilder<'_>, x: ValueId, w: ValueId) -> ValueId {
    b.call(Op::RmsNorm, [x.into(), Arg::ints(&[24]), w.into(), 1e-5.into()]).unwrap()
}

const LINES: Sizes<'_> = &[Some(1), None, Some(24)];

#[test]
fn norms() {
    for d in FLOATS {
        let inputs: [(DType, Sizes<'_>); 2] = [(d, LINES), (d, &[Some(24)])];
        let (each, together) = check(&inputs, &|b, v| vec![norm(b, v[0], v[1])]);
        assert!(each.len() > 4 && !each.contains(&Op::RmsNorm), "{each:?}");
        assert_eq!(together, [Op::RmsNorm], "{d}");
        // The sum before it is read by two: by the norm and by the one that asked.
        let (_, together) = check(&inputs, &|b, v| {
            let x = b.call(Op::Add, args![v[0], v[0], 1i64]).unwrap();
            let y = norm(b, x, v[1]);
            let z = b.call(Op::Mul, args![x, y]).unwrap();
            vec![z, norm(b, z, v[1])]
        });
        // The sum belongs to the first of the norms.
        assert_eq!(together, [Op::RmsNorm, Op::Mul, Op::RmsNorm], "{d}");
    }
}

#[test]
fn whole_norms_take_the_sum_before_them() {
    for d in FLOATS {
        let (each, together) = check_whole(&[(d, LINES), (d, LINES), (d, &[Some(24)])], &|b, v| {
            let x = b.call(Op::Add, args![v[0], v[1], 1i64]).unwrap();
            vec![norm(b, x, v[2]), x]
        });
        assert_eq!((&each[..], &together[..]), (&[Op::Add, Op::RmsNorm][..], &[Op::RmsNorm][..]), "{d}");
        // A sum that nothing else reads has a place of its own all the same.
        let (_, together) = check_whole(&[(d, LINES), (d, LINES), (d, &[Some(24)])], &|b, v| {
            let x = b.call(Op::Add, args![v[0], v[1], 1i64]).unwrap();
            vec![norm(b, x, v[2])]
        });
        assert_eq!(together, [Op::RmsNorm], "{d}");
        // Twice the other summand is another sum.
        let (_, together) = check_whole(&[(d, LINES), (d, LINES), (d, &[Some(24)])], &|b, v| {
            let x = b.call(Op::Add, args![v[0], v[1], 2i64]).unwrap();
            vec![norm(b, x, v[2])]
        });
        assert_eq!(together, [Op::Add, Op::RmsNorm], "{d}");
    }
}

#[test]
fn rotations() {
    let x: Sizes<'_> = &[Some(2), None, Some(3), Some(8)];
    let table: Sizes<'_> = &[None, Some(4)];
    for d in FLOATS {
        let rope = |interleaved: bool| {
            check(&[(d, x), (DType::F32, table), (DType::F32, table)], &move |b, v| {
                vec![b.call(Op::Rope, [v[0].into(), v[1].into(), v[2].into(), interleaved.into()]).unwrap()]
            })
        };
        for interleaved in [false, true] {
            let together = rope(interleaved).1;
            let computed: Vec<Op> = together.into_iter().filter(|o| !o.is_view()).collect();
            assert_eq!(computed, [Op::Rope], "{d} {interleaved}");
        }
    }
}

/// `x·cos + cat(-x₂, x₁)·sin`, as Hugging Face's models write it.
fn rotate_half(b: &mut GraphBuilder<'_>, v: &[ValueId], width: i64) -> ValueId {
    let half = width / 2;
    let cos = b.call(Op::UnsqueezeCopy, args![v[1], 1i64]).unwrap();
    let sin = b.call(Op::UnsqueezeCopy, args![v[2], 1i64]).unwrap();
    let low = b.call(Op::SliceCopy, args![v[0], 3i64, 0i64, half]).unwrap();
    let high = b.call(Op::SliceCopy, args![v[0], 3i64, half, i64::MAX]).unwrap();
    let minus = b.call(Op::Neg, args![high]).unwrap();
    let turned = b.call(Op::Cat, [Arg::tensors(&[minus, low]), (-1i64).into()]).unwrap();
    let (p, q) = (b.call(Op::Mul, args![v[0], cos]).unwrap(), b.call(Op::Mul, args![turned, sin]).unwrap());
    b.call(Op::Add, args![p, q, 1i64]).unwrap()
}

#[test]
fn rotations_by_rotate_half() {
    let x: Sizes<'_> = &[Some(1), None, Some(3), Some(8)];
    let table: Sizes<'_> = &[None, Some(8)];
    let inputs = [(DType::F32, x), (DType::F32, table), (DType::F32, table)];
    let (each, together) = check(&inputs, &|b, v| vec![rotate_half(b, v, 8)]);
    assert!(each.contains(&Op::Neg));
    assert_eq!(together.iter().filter(|o| !o.is_view()).collect::<Vec<_>>(), [&Op::Rope]);
}

#[test]
fn layers_of_one_input() {
    for d in FLOATS {
        let inputs: [(DType, Sizes<'_>); 5] =
            [(d, LINES), (d, &[Some(70), Some(24)]), (d, &[Some(16), Some(24)]), (d, &[Some(16)]), (d, LINES)];
        let (each, together) = check(&inputs, &|b, v| {
            let q = b.call(Op::Linear, [v[0].into(), v[1].into(), Arg::None]).unwrap();
            // Read before the second layer's turn.
            let q = b.call(Op::Neg, args![q]).unwrap();
            let k = b.call(Op::Linear, [v[0].into(), v[2].into(), v[3].into()]).unwrap();
            let other = b.call(Op::Linear, [v[4].into(), v[2].into(), Arg::None]).unwrap();
            vec![q, k, other]
        });
        assert_eq!(each, [Op::Linear, Op::Neg, Op::Linear, Op::Linear], "{d}");
        assert_eq!(together, [Op::Linear, Op::Neg, Op::Linear], "{d}");
    }
}

#[test]
fn large_layers_of_one_row_are_cut_among_threads() {
    let inputs: [(DType, Sizes<'_>); 3] = [
        (DType::F32, &[Some(1), Some(1), Some(300)]),
        (DType::F32, &[Some(341), Some(300)]),
        (DType::F32, &[Some(111), Some(300)]),
    ];
    let (_, together) = check(&inputs, &|b, v| {
        let one = |b: &mut GraphBuilder<'_>, w| b.call(Op::Linear, [v[0].into(), w, Arg::None]).unwrap();
        vec![one(b, v[1].into()), one(b, v[2].into())]
    });
    assert_eq!(together, [Op::Linear]);
}

#[test]
fn products_with_transposed_weights_are_layers() {
    let inputs: [(DType, Sizes<'_>); 3] =
        [(DType::F32, &[None, Some(24)]), (DType::F32, &[Some(7), Some(24)]), (DType::F32, &[Some(7)])];
    let (each, together) = check_within(
        &inputs,
        &|b, v| {
            let turned = b.call(Op::PermuteCopy, [v[1].into(), Arg::ints(&[1, 0])]).unwrap();
            let y = b.call(Op::Mm, args![v[0], turned]).unwrap();
            let turned = b.call(Op::PermuteCopy, [v[1].into(), Arg::ints(&[1, 0])]).unwrap();
            vec![y, b.call(Op::AddMm, args![v[2], v[0], turned, 1i64, 1i64]).unwrap()]
        },
        Some(Tolerance::KERNEL_F32),
    );
    assert!(each.contains(&Op::Mm) && each.contains(&Op::AddMm), "{each:?}");
    assert_eq!(together, [Op::Linear]);
}

#[test]
fn attention_in_its_parts() {
    let tolerance = Some(Tolerance::KERNEL_F32);
    let d = DType::F32;
    for (kv_heads, keys) in [(2, None), (2, Some(12)), (1, Some(12)), (4, None)] {
        let q: Sizes<'_> = &[Some(1), Some(4), None, Some(8)];
        let kv: Sizes<'_> = &[Some(1), Some(kv_heads), keys, Some(8)];
        let sdpa = |b: &mut GraphBuilder<'_>, v: &[ValueId], mask: Arg, causal: bool| {
            let [q, k, v] = [v[0].into(), v[1].into(), v[2].into()];
            b.call(Op::Sdpa, [q, k, v, mask, 0.0.into(), causal.into(), Arg::None, true.into()]).unwrap()
        };
        let check = |inputs: &[(DType, Sizes<'_>)], build: Build<'_>| {
            let (each, together) = check_within(inputs, build, tolerance);
            assert!(each.contains(&Op::Softmax) && !each.contains(&Op::Sdpa), "{each:?}");
            assert!(together.contains(&Op::Sdpa) && !together.contains(&Op::Softmax), "{together:?}");
            assert!(!together.contains(&Op::Bmm) && !together.contains(&Op::ExpandCopy), "{together:?}");
        };
        check(&[(d, q), (d, kv), (d, kv)], &|b, v| vec![sdpa(b, v, Arg::None, false)]);
        check(&[(d, q), (d, kv), (d, kv), (d, &[None, keys])], &|b, v| vec![sdpa(b, v, v[3].into(), false)]);
        check(&[(d, q), (d, kv), (d, kv), (DType::Bool, &[None, keys])], &|b, v| vec![sdpa(b, v, v[3].into(), false)]);
        check(&[(d, q), (d, kv), (d, kv), (d, &[Some(1), Some(4), None, keys])], &|b, v| {
            vec![sdpa(b, v, v[3].into(), false)]
        });
        // Heads behind positions, before and after.
        let (q, kv): (Sizes<'_>, Sizes<'_>) =
            (&[Some(1), None, Some(4), Some(8)], &[Some(1), keys, Some(kv_heads), Some(8)]);
        check(&[(d, q), (d, kv), (d, kv)], &|b, v| {
            let swapped: Vec<ValueId> =
                v.iter().map(|&x| b.call(Op::TransposeCopy, args![x, 1i64, 2i64]).unwrap()).collect();
            let y = sdpa(b, &swapped, Arg::None, false);
            vec![b.call(Op::TransposeCopy, args![y, 1i64, 2i64]).unwrap()]
        });
    }
}

#[test]
fn gates() {
    for d in FLOATS {
        let (_, together) = check(&[(d, LINES), (d, LINES)], &|b, v| {
            let s = b.call(Op::Silu, [v[0].into()]).unwrap();
            // Between the parts of the group, as an up-projection stands between those of a gate.
            let up = b.call(Op::Add, args![v[1], v[1], 1i64]).unwrap();
            vec![b.call(Op::Mul, args![s, up]).unwrap()]
        });
        assert_eq!(together, [Op::Add, Op::Silu], "{d}");
    }
}

#[test]
fn other_sizes_are_computed_one_by_one() {
    // The gate is broadcast over the lines where there are several, which no declared size tells.
    for d in FLOATS {
        let one: Sizes<'_> = &[Some(1), Some(1), Some(24)];
        let (_, together) = check(&[(d, LINES), (d, one)], &|b, v| {
            let s = b.call(Op::Silu, [v[0].into()]).unwrap();
            vec![b.call(Op::Mul, args![s, v[1]]).unwrap()]
        });
        assert_eq!(together, [Op::Silu], "{d}");
    }
}

#[test]
fn what_is_read_outside_is_computed() {
    // The sigmoid is a result of its own.
    let (_, together) = check(&[(DType::F32, LINES), (DType::F32, LINES)], &|b, v| {
        let s = b.call(Op::Sigmoid, [v[0].into()]).unwrap();
        let y = b.call(Op::Mul, args![v[0], s]).unwrap();
        vec![b.call(Op::Mul, args![y, v[1]]).unwrap(), s]
    });
    assert_eq!(together, [Op::Sigmoid, Op::Mul, Op::Mul]);
}

#[test]
fn what_is_overwritten_in_between_is_read_before() {
    // x is a buffer that gets another value between the sigmoid and the products.
    let mut m = Module::new("m");
    let ty = TensorType::fixed(DType::F32, &[4]);
    let buffer = m.add_buffer("b", ty.clone());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let (new, gate) = (b.input("new", ty.clone()), b.input("gate", ty));
    let x = b.buffer(buffer);
    let s = b.call(Op::Sigmoid, [x.into()]).unwrap();
    let y = b.call(Op::Mul, args![x, s]).unwrap();
    let after = b.call(Op::CopyInto, args![x, new]).unwrap();
    b.write_back(buffer, after);
    let z = b.call(Op::Mul, args![y, gate]).unwrap();
    b.finish(&[z]);
    let mut session = Session::new(Arc::new(m), &SessionOptions::with_threads(1)).unwrap();
    let (new, gate) = (Tensor::of(&[4], &[1f32, 2.0, 3.0, 4.0]).unwrap(), Tensor::of(&[4], &[1f32; 4]).unwrap());
    let inputs = [ValueRef::Tensor(new.view()), ValueRef::Tensor(gate.view())];
    let first = session.run("forward", &inputs).unwrap().tensor(0).unwrap().to_f64_vec();
    let second = session.run("forward", &inputs).unwrap().tensor(0).unwrap().to_f64_vec();
    assert_eq!(first, [0.0; 4]);
    for (x, found) in [1f64, 2.0, 3.0, 4.0].into_iter().zip(second) {
        assert!((found - x / (1.0 + (-x).exp())).abs() < 1e-6, "{x}: {found}");
    }
}
