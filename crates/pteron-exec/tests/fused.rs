//! Nodes that are executed together give the bits that they give one by one, and only where nobody could tell the two apart.

use std::sync::Arc;

use pteron_exec::{NodeEvent, NodeHook, Session, SessionOptions, ValueRef};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::passes::{CANONICALIZE, DCE, DECOMPOSE, executorch_portable};
use pteron_ir::{Arg, GraphBuilder, Module, Op, SymInt, TensorType, ValueId, args};
use pteron_tensor::{DType, Scalar, Tensor};
use pteron_testkit::Numbers;

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Input sizes: `None` is the symbolic size.
type Sizes<'a> = &'a [Option<usize>];
/// What a graph computes of its inputs.
type Build<'a> = &'a dyn Fn(&mut GraphBuilder<'_>, &[ValueId]) -> Vec<ValueId>;

struct Events {
    outputs: bool,
    seen: Vec<Op>,
}

impl NodeHook for Events {
    fn after(&mut self, event: &NodeEvent<'_>) {
        self.seen.push(event.op);
    }
    fn wants_outputs(&self) -> bool {
        self.outputs
    }
}

fn decomposed(inputs: &[(DType, Sizes<'_>)], build: Build<'_>) -> Module {
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
    let ctx = PassContext::new(&executorch_portable);
    Runner::new([DECOMPOSE, CANONICALIZE, DCE]).run(&mut m, &ctx).unwrap();
    m
}

fn tensors(numbers: &mut Numbers, inputs: &[(DType, Sizes<'_>)], size: usize) -> Vec<Tensor> {
    let one = |(d, sizes): &(DType, Sizes<'_>)| {
        let sizes: Vec<usize> = sizes.iter().map(|s| s.unwrap_or(size)).collect();
        let mut t = Tensor::zeros(*d, &sizes).unwrap();
        for i in 0..t.numel() {
            t.view_mut().set_scalar(i, Scalar::Float(f64::from(4.0 * numbers.unit()))).unwrap();
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

/// Runs together and one by one, on 1 and 3 threads and at several sizes; gives the operators of both kinds of run.
fn check(inputs: &[(DType, Sizes<'_>)], build: Build<'_>) -> (Vec<Op>, Vec<Op>) {
    let module = Arc::new(decomposed(inputs, build));
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
            assert_eq!(one_by_one, together, "size {size}");
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
        assert_eq!(together.iter().filter(|&&o| o == Op::RmsNorm).count(), 2, "{d} {together:?}");
    }
}

#[test]
fn rotations_of_halves() {
    let x: Sizes<'_> = &[Some(2), None, Some(3), Some(8)];
    let table: Sizes<'_> = &[None, Some(4)];
    for d in FLOATS {
        let rope = |interleaved: bool| {
            check(&[(d, x), (DType::F32, table), (DType::F32, table)], &move |b, v| {
                vec![b.call(Op::Rope, [v[0].into(), v[1].into(), v[2].into(), interleaved.into()]).unwrap()]
            })
        };
        assert_eq!(rope(false).1, [Op::Rope], "{d}");
        assert!(!rope(true).1.contains(&Op::Rope), "neighbours are computed node by node");
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
