//! Every gradient rule against finite differences, and against PyTorch's gradients, in f64, over generated shapes.
//!
//! High-level operators, whose kernels compute in f32, are decomposed, so that what is differenced is f64 as well; their rules
//! are those of the whole operator.

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, Value, ValueRef};
use pteron_ir::gradient::{KeepAll, differentiate};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::{Arg, GraphBuilder, IntArg, Module, OPERATORS, Op, TensorType, ValueId, args, passes};
use pteron_tensor::{AlignedBytes, DType, Tensor};
use serde_json::json;
use sha2::{Digest, Sha256};

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, n: usize) -> usize {
        self.next() as usize % n.max(1)
    }

    fn size(&mut self) -> usize {
        1 + self.below(4)
    }

    /// Between −2 and 2, at a distance from 0 and from halves, where rules have kinks.
    fn real(&mut self) -> f64 {
        let v = (self.next() % 1_000_003) as f64 / 1_000_003.0;
        let v = 0.15 + 1.7 * v;
        if self.next().is_multiple_of(2) { v } else { -v }
    }
}

/// What a case gives its operator.
#[derive(Clone)]
enum Given {
    /// Differentiated.
    Real(Vec<usize>, Vec<f64>),
    /// Looked up with.
    Index(Vec<usize>, Vec<i64>),
    /// A condition.
    Mask(Vec<usize>, Vec<bool>),
}

impl Given {
    fn value(&self) -> Value {
        let tensor = |dtype, sizes: &[usize], bytes: &[u8]| {
            Value::Tensor(Tensor::from_bytes(dtype, sizes, AlignedBytes::copied(bytes)).unwrap())
        };
        match self {
            Given::Real(s, v) => tensor(DType::F64, s, bytemuck::cast_slice(v)),
            Given::Index(s, v) => tensor(DType::I64, s, bytemuck::cast_slice(v)),
            Given::Mask(s, v) => tensor(DType::Bool, s, &v.iter().map(|&b| u8::from(b)).collect::<Vec<_>>()),
        }
    }

    fn ty(&self) -> TensorType {
        match self {
            Given::Real(s, _) => TensorType::fixed(DType::F64, s),
            Given::Index(s, _) => TensorType::fixed(DType::I64, s),
            Given::Mask(s, _) => TensorType::fixed(DType::Bool, s),
        }
    }
}

/// The arguments, with the values that are given.
type Arguments = Box<dyn Fn(&[ValueId]) -> Vec<Arg>>;

/// One call of an operator.
struct Case {
    op: Op,
    given: Vec<Given>,
    args: Arguments,
}

fn reals(r: &mut Random, sizes: &[usize]) -> Given {
    let n = sizes.iter().product();
    Given::Real(sizes.to_vec(), (0..n).map(|_| r.real()).collect())
}

fn positive(r: &mut Random, sizes: &[usize]) -> Given {
    let n = sizes.iter().product();
    Given::Real(sizes.to_vec(), (0..n).map(|_| r.real().abs() + 0.2).collect())
}

/// Reals whose distances are larger than a difference's step.
fn distinct(r: &mut Random, sizes: &[usize]) -> Given {
    let n: usize = sizes.iter().product();
    let mut order: Vec<usize> = (0..n).collect();
    (1..n).for_each(|i| order.swap(i, r.below(i + 1)));
    Given::Real(sizes.to_vec(), order.iter().map(|&i| i as f64 * 0.1 - 0.45).collect())
}

fn indices(r: &mut Random, sizes: &[usize], below: usize) -> Given {
    let n = sizes.iter().product();
    Given::Index(sizes.to_vec(), (0..n).map(|_| r.below(below) as i64).collect())
}

fn case(op: Op, given: Vec<Given>, args: impl Fn(&[ValueId]) -> Vec<Arg> + 'static) -> Case {
    Case { op, given, args: Box::new(args) }
}

fn all(v: &[ValueId]) -> Vec<Arg> {
    v.iter().map(|&v| v.into()).collect()
}

fn ints(v: &[usize]) -> Arg {
    Arg::ints(&v.iter().map(|&n| n as i64).collect::<Vec<_>>())
}

/// Operators whose rule is not one of differences, and where it is tested.
const ELSEWHERE: &[Op] = &[
    // Straight through: tests of the kernel, and PyTorch's fixtures.
    Op::FakeQuantize,
    // Nothing goes back through what chooses parameters.
    Op::ObserveQparams,
    Op::ChooseQparams,
    Op::ChooseQparamsSymmetric,
    Op::ChooseQparamsPerTokenAsymmetric,
    Op::ChooseQparamsPerToken,
    Op::ChooseQparamsAffine,
];

fn cases(op: Op, r: &mut Random) -> Vec<Case> {
    let (a, b, c) = (r.size(), r.size(), r.size());
    let abc = [a, b, c];
    let unary = |g: Given| vec![case(op, vec![g], all)];
    match op {
        Op::Add | Op::Sub => vec![
            case(op, vec![reals(r, &abc), reals(r, &[b, c])], |v| args![v[0], v[1], 0.5].into()),
            case(op, vec![reals(r, &[a, 1, c]), reals(r, &abc)], |v| args![v[0], v[1], 2i64].into()),
        ],
        Op::Mul => vec![
            case(op, vec![reals(r, &abc), reals(r, &[b, 1])], all),
            case(op, vec![reals(r, &[1]), reals(r, &abc)], all),
        ],
        Op::Div => vec![
            case(op, vec![reals(r, &abc), reals(r, &[c])], all),
            case(op, vec![reals(r, &[b, 1]), reals(r, &abc)], all),
        ],
        Op::AddScalar | Op::SubScalar => {
            vec![case(op, vec![reals(r, &abc)], |v| args![v[0], 0.7, 2i64].into())]
        }
        Op::MulScalar | Op::DivScalar => vec![case(op, vec![reals(r, &abc)], |v| args![v[0], -1.7].into())],
        Op::Maximum | Op::Minimum => {
            let Given::Real(s, v) = distinct(r, &[a, b, 2]) else { unreachable!() };
            let (x, y) = v.split_at(v.len() / 2);
            let half = |v: &[f64]| Given::Real(vec![s.iter().product::<usize>() / 2], v.to_vec());
            vec![case(op, vec![half(x), half(y)], all)]
        }
        Op::PowScalar => [2.0, 3.0, 1.0, 0.0, -0.5, 1.5]
            .map(|e: f64| {
                let x = if e.fract() == 0.0 { reals(r, &abc) } else { positive(r, &abc) };
                case(op, vec![x], move |v| args![v[0], e].into())
            })
            .into(),
        Op::Where => {
            let mask = Given::Mask(vec![b, c], (0..b * c).map(|_| r.below(2) == 0).collect());
            vec![case(op, vec![mask, reals(r, &abc), reals(r, &[c])], all)]
        }
        Op::Clamp => vec![
            case(op, vec![distinct(r, &abc)], |v| args![v[0], -0.31, 0.77].into()),
            case(op, vec![distinct(r, &abc)], |v| args![v[0], Arg::None, 0.33].into()),
        ],
        Op::Sqrt | Op::Rsqrt | Op::Log => unary(positive(r, &abc)),
        Op::Neg | Op::Abs | Op::Relu | Op::Floor | Op::Ceil | Op::Round | Op::Reciprocal | Op::Exp | Op::Sin => {
            unary(reals(r, &abc))
        }
        Op::Cos | Op::Tanh | Op::Sigmoid | Op::Silu | Op::Clone | Op::CloneDimOrder => unary(reals(r, &abc)),
        Op::Gelu => {
            vec![case(op, vec![reals(r, &abc)], all), case(op, vec![reals(r, &abc)], |v| args![v[0], "tanh"].into())]
        }
        Op::ToCopy | Op::ToDimOrderCopy => {
            vec![case(op, vec![reals(r, &abc)], |v| args![v[0], DType::F64].into())]
        }
        Op::ViewCopy => vec![case(op, vec![reals(r, &abc)], move |v| vec![v[0].into(), ints(&[a * b, c])])],
        Op::UnsqueezeCopy => vec![case(op, vec![reals(r, &abc)], |v| args![v[0], -2i64].into())],
        Op::SqueezeDimsCopy => {
            vec![case(op, vec![reals(r, &[1, a, 1])], |v| vec![v[0].into(), Arg::ints(&[0, 2])])]
        }
        Op::SqueezeDimCopy => vec![case(op, vec![reals(r, &[a, 1, b])], |v| args![v[0], 1i64].into())],
        Op::PermuteCopy => vec![case(op, vec![reals(r, &abc)], |v| vec![v[0].into(), Arg::ints(&[2, 0, -2])])],
        Op::TransposeCopy => vec![case(op, vec![reals(r, &abc)], |v| args![v[0], 0i64, -1i64].into())],
        Op::ExpandCopy => vec![case(op, vec![reals(r, &[b, 1])], move |v| vec![v[0].into(), ints(&[a, b, c])])],
        Op::SliceCopy => vec![
            case(op, vec![reals(r, &[a, b + 2, c])], |v| args![v[0], 1i64, 1i64, -1i64].into()),
            case(op, vec![reals(r, &[a, 7])], |v| args![v[0], -1i64, 1i64, Arg::None, 3i64].into()),
            case(op, vec![reals(r, &abc)], |v| args![v[0], 0i64, Arg::None, i64::MAX].into()),
        ],
        Op::SelectCopy => vec![case(op, vec![reals(r, &abc)], |v| args![v[0], 1i64, -1i64].into())],
        Op::Cat => vec![case(op, vec![reals(r, &abc), reals(r, &[a, 2, c]), reals(r, &[a, 1, c])], |v| {
            vec![Arg::tensors(v), (-2i64).into()]
        })],
        Op::SplitWithSizesCopy => {
            vec![case(op, vec![reals(r, &[a, 6])], |v| vec![v[0].into(), Arg::ints(&[1, 3, 2]), 1i64.into()])]
        }
        Op::Repeat => vec![case(op, vec![reals(r, &[b, c])], |v| vec![v[0].into(), Arg::ints(&[2, 1, 3])])],
        Op::Flip => vec![case(op, vec![reals(r, &abc)], |v| vec![v[0].into(), Arg::ints(&[0, 2])])],
        Op::Sum | Op::Mean => vec![
            case(op, vec![reals(r, &abc)], |v| vec![v[0].into(), Arg::ints(&[0, -1]), false.into()]),
            case(op, vec![reals(r, &abc)], |v| vec![v[0].into(), Arg::ints(&[1]), true.into()]),
            case(op, vec![reals(r, &abc)], |v| args![v[0], Arg::None].into()),
        ],
        Op::Amax | Op::Amin => {
            vec![case(op, vec![distinct(r, &abc)], |v| vec![v[0].into(), Arg::ints(&[1]), false.into()])]
        }
        Op::Softmax | Op::LogSoftmax => vec![
            case(op, vec![reals(r, &abc)], |v| args![v[0], -1i64, false].into()),
            case(op, vec![reals(r, &abc)], |v| args![v[0], 1i64, false].into()),
        ],
        Op::Embedding => vec![case(op, vec![reals(r, &[5, c]), indices(r, &[a, b], 5)], all)],
        Op::Index => vec![case(op, vec![reals(r, &[4, b, 3]), indices(r, &[a, 1], 4), indices(r, &[2], 3)], |v| {
            vec![v[0].into(), Arg::Values([Some(v[1]), None, Some(v[2])].into_iter().collect())]
        })],
        Op::IndexSelect => {
            vec![case(op, vec![reals(r, &[a, 4]), indices(r, &[5], 4)], |v| args![v[0], 1i64, v[1]].into())]
        }
        Op::Gather => {
            vec![case(op, vec![reals(r, &[a, 4, c]), indices(r, &[a, 3, c], 4)], |v| args![v[0], 1i64, v[1]].into())]
        }
        Op::Linear => vec![
            case(op, vec![reals(r, &abc), reals(r, &[3, c]), reals(r, &[3])], all),
            case(op, vec![reals(r, &[b, c]), reals(r, &[2, c])], all),
        ],
        Op::Mm => vec![case(op, vec![reals(r, &[a, b]), reals(r, &[b, c])], all)],
        Op::AddMm => vec![case(op, vec![reals(r, &[c]), reals(r, &[a, b]), reals(r, &[b, c])], |v| {
            args![v[0], v[1], v[2], 0.5, 2.0].into()
        })],
        Op::Bmm => vec![case(op, vec![reals(r, &[2, a, b]), reals(r, &[2, b, c])], all)],
        Op::RmsNorm => {
            let n = 1 + c;
            let norm = move |v: &[ValueId], w: Arg| vec![v[0].into(), ints(&[n]), w, 1e-3.into()];
            vec![
                case(op, vec![reals(r, &[a, b, n]), reals(r, &[n])], move |v| norm(v, v[1].into())),
                case(op, vec![reals(r, &[b, n])], move |v| norm(v, Arg::None)),
            ]
        }
        Op::Rope => [false, true]
            .map(|interleaved| {
                let angles = |r: &mut Random| match reals(r, &[b, c]) {
                    Given::Real(s, v) => (s, v),
                    Given::Index(..) | Given::Mask(..) => unreachable!(),
                };
                let (s, turns) = angles(r);
                let part = |f: fn(f64) -> f64| Given::Real(s.clone(), turns.iter().map(|&t| f(t)).collect());
                let given = vec![reals(r, &[2, b, a, 2 * c]), part(f64::cos), part(f64::sin)];
                case(op, given, move |v| args![v[0], v[1], v[2], interleaved].into())
            })
            .into(),
        Op::Sdpa => {
            let (q, k) = (vec![2, 4, a, c], vec![2, 2, a, c]);
            let heads = vec![2, 2, b, c];
            let mask = Given::Mask(vec![1, 1, a, b], (0..a * b).map(|i| i % b == 0 || r.below(2) == 0).collect());
            vec![
                case(op, vec![reals(r, &q), reals(r, &k), reals(r, &k)], |v| {
                    args![v[0], v[1], v[2], Arg::None, 0.0, true, Arg::None, true].into()
                }),
                case(op, vec![reals(r, &[2, 2, a, c]), reals(r, &heads), reals(r, &heads)], |v| {
                    args![v[0], v[1], v[2], Arg::None, 0.0, false, 0.3, false].into()
                }),
                case(op, vec![reals(r, &q), reals(r, &heads), reals(r, &heads), mask], |v| {
                    args![v[0], v[1], v[2], v[3], 0.0, false, Arg::None, true].into()
                }),
            ]
        }
        other => panic!("{other} has a gradient rule and no case here"),
    }
}

/// True for values whose rule refuses to be differentiated by them: tables of angles.
fn is_table(op: Op, i: usize) -> bool {
    op == Op::Rope && i > 0
}

/// `x · rsqrt(mean(x²) + 1e-3) · w`.
fn norm(b: &mut GraphBuilder<'_>, v: &[ValueId]) -> ValueId {
    let square = b.call(Op::Mul, args![v[0], v[0]]).unwrap();
    let mean = b.call(Op::Mean, [square.into(), Arg::ints(&[-1]), true.into()]).unwrap();
    let mean = b.call(Op::AddScalar, args![mean, 1e-3]).unwrap();
    let root = b.call(Op::Rsqrt, args![mean]).unwrap();
    let x = b.call(Op::Mul, args![v[0], root]).unwrap();
    v.get(1).map_or(x, |&w| b.call(Op::Mul, args![x, w]).unwrap())
}

/// Pairs turned by angles, whose cosines and sines are `[S, D/2]`.
fn turned(b: &mut GraphBuilder<'_>, v: &[ValueId], interleaved: bool) -> ValueId {
    let size = |b: &GraphBuilder<'_>, v, d: usize| b.tensor_ty(v).dims[d].as_const().unwrap();
    let (n, s, h, half) = (size(b, v[0], 0), size(b, v[0], 1), size(b, v[0], 2), size(b, v[1], 1));
    let apart = if interleaved { [n, s, h, half, 2] } else { [n, s, h, 2, half] };
    let along = if interleaved { 4i64 } else { 3 };
    let pairs = b.call(Op::ViewCopy, [v[0].into(), Arg::ints(&apart)]).unwrap();
    let [x, y] = [0i64, 1].map(|i| b.call(Op::SelectCopy, args![pairs, along, i]).unwrap());
    let [cos, sin] = [v[1], v[2]].map(|t| b.call(Op::ViewCopy, [t.into(), Arg::ints(&[s, 1, half])]).unwrap());
    let mut product = |a, t| b.call(Op::Mul, args![a, t]).unwrap();
    let [xc, ys, yc, xs] = [product(x, cos), product(y, sin), product(y, cos), product(x, sin)];
    let left = b.call(Op::Sub, args![xc, ys]).unwrap();
    let right = b.call(Op::Add, args![yc, xs]).unwrap();
    let [left, right] = [left, right].map(|t| b.call(Op::UnsqueezeCopy, args![t, along]).unwrap());
    let both = b.call(Op::Cat, [Arg::tensors(&[left, right]), along.into()]).unwrap();
    b.call(Op::ViewCopy, [both.into(), Arg::ints(&[n, s, h, 2 * half])]).unwrap()
}

/// The module of a case: `loss = Σ weight·out` over all results, and the gradients of the reals if asked for.
fn module(case: &Case, weights: &[f64], with_gradients: bool) -> Module {
    let mut m = Module::new("case");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let inputs: Vec<ValueId> = case.given.iter().map(|g| b.input("x", g.ty())).collect();
    let outs: Vec<ValueId> = match (case.op, with_gradients) {
        // The decompositions of these compute in f32.
        (Op::RmsNorm, false) => vec![norm(&mut b, &inputs)],
        (Op::Rope, false) => vec![turned(&mut b, &inputs, (case.args)(&inputs)[3] == Arg::Bool(true))],
        _ => {
            let node = b.node(case.op, (case.args)(&inputs)).unwrap();
            b.graph().nodes[node].outputs.to_vec()
        }
    };
    let mut loss: Option<ValueId> = None;
    for (i, out) in outs.into_iter().enumerate() {
        let n: i64 = b.tensor_ty(out).dims.iter().filter_map(pteron_ir::SymInt::as_const).product();
        let flat = b.call(Op::ViewCopy, [out.into(), Arg::ints(&[n])]).unwrap();
        // Weights that differ from element to element, and from result to result.
        let start = b.call(Op::Arange, args![0i64, n, 1i64, DType::F64]).unwrap();
        let w = b.call(Op::MulScalar, args![start, weights[0] + i as f64]).unwrap();
        let w = b.call(Op::AddScalar, args![w, weights[1]]).unwrap();
        let w = b.call(Op::Sin, args![w]).unwrap();
        let part = b.call(Op::Mul, args![flat, w]).unwrap();
        let part = b.call(Op::Sum, [part.into(), Arg::ints(&[0]), true.into()]).unwrap();
        loss = Some(loss.map_or(part, |l| b.call(Op::Add, args![l, part]).unwrap()));
    }
    let loss = loss.unwrap();
    let mut outputs = vec![loss];
    if with_gradients {
        let reals = inputs.iter().zip(&case.given).enumerate();
        let reals = reals.filter(|(i, (_, g))| matches!(g, Given::Real(..)) && !is_table(case.op, *i));
        let with: Vec<ValueId> = reals.map(|(_, (v, _))| *v).collect();
        outputs.extend(differentiate(&mut b, loss, &with, &KeepAll).unwrap());
    }
    b.finish(&outputs);
    let runner = Runner::new([passes::DECOMPOSE]);
    runner.run(&mut m, &PassContext::new(&passes::executorch_portable)).unwrap();
    m
}

fn run(session: &mut Session, given: &[Given]) -> Vec<Vec<f64>> {
    let values: Vec<Value> = given.iter().map(Given::value).collect();
    let refs: Vec<ValueRef<'_>> = values.iter().map(Value::as_ref).collect();
    let out = session.run("forward", &refs).unwrap();
    (0..out.len()).map(|i| out.tensor(i).unwrap().to_f64_vec()).collect()
}

fn session(m: Module) -> Session {
    Session::new(Arc::new(m), &SessionOptions::with_threads(1)).unwrap()
}

#[test]
fn every_rule_equals_finite_differences() {
    const STEP: f64 = 1e-5;
    let mut random = Random(7);
    let mut checked = 0;
    for def in OPERATORS.iter().filter(|d| d.gradient.is_some() && !ELSEWHERE.contains(&d.op)) {
        for round in 0..4 {
            for (k, case) in cases(def.op, &mut random).into_iter().enumerate() {
                let weights = [random.real(), random.real()];
                let mut forward = session(module(&case, &weights, false));
                let found = run(&mut session(module(&case, &weights, true)), &case.given);
                let mut gradients = found[1..].iter();
                for i in 0..case.given.len() {
                    let Given::Real(sizes, values) = case.given[i].clone() else { continue };
                    if is_table(case.op, i) {
                        continue;
                    }
                    let gradient = gradients.next().unwrap();
                    assert_eq!(gradient.len(), values.len());
                    for (j, &g) in gradient.iter().enumerate() {
                        let mut at = |d: f64| {
                            let mut given = case.given.clone();
                            let mut moved = values.clone();
                            moved[j] += d;
                            given[i] = Given::Real(sizes.clone(), moved);
                            run(&mut forward, &given)[0][0]
                        };
                        let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                        let tolerance = if case.op == Op::Rope { 1e-6 } else { 1e-7 };
                        let close = (g - expected).abs() <= tolerance * (1.0 + expected.abs());
                        let name = def.name;
                        assert!(close, "{name}, case {k}, round {round}: argument {i}[{j}] {sizes:?}: {g}, {expected}");
                        checked += 1;
                    }
                }
            }
        }
    }
    assert!(checked > 3000, "only {checked} derivatives were compared");
}

#[test]
fn the_padding_row_of_a_table_gets_nothing() {
    let table = Given::Real(vec![3, 1], vec![1.0, 2.0, 3.0]);
    let rows = Given::Index(vec![4], vec![0, 1, 2, 2]);
    let case = case(Op::Embedding, vec![table, rows], |v| args![v[0], v[1], 1i64].into());
    let found = run(&mut session(module(&case, &[0.0, 0.5], true)), &case.given);
    let w = 0.5f64.sin();
    assert_eq!(found[1], [w, 0.0, 2.0 * w]);
}

/// Where the script that records PyTorch's gradients wants the cases written.
const CASES: &str = "PTERON_GRADIENT_CASES";

/// The case as `tools/oracle/make_gradient_goldens.py` reads it. Values of arguments are positions among `given`.
fn described(name: &str, case: &Case, weights: &[f64]) -> serde_json::Value {
    let given: Vec<_> = case
        .given
        .iter()
        .map(|g| match g {
            Given::Real(sizes, data) => json!({"dtype": "float64", "sizes": sizes, "data": data}),
            Given::Index(sizes, data) => json!({"dtype": "int64", "sizes": sizes, "data": data}),
            Given::Mask(sizes, data) => json!({"dtype": "bool", "sizes": sizes, "data": data}),
        })
        .collect();
    let mut m = Module::new("case");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let inputs: Vec<ValueId> = case.given.iter().map(|g| b.input("x", g.ty())).collect();
    let value = |v: ValueId| json!({"value": inputs.iter().position(|&i| i == v)});
    let args: Vec<_> = (case.args)(&inputs)
        .iter()
        .map(|a| match a {
            Arg::None => json!(null),
            Arg::Value(v) => value(*v),
            Arg::Int(i) => json!(i),
            Arg::Float(f) => json!(f),
            Arg::Bool(t) => json!(t),
            Arg::Str(t) => json!(t),
            Arg::DType(_) => json!({"dtype": "float64"}),
            Arg::Ints(items) => {
                let known = |i: &IntArg| match i {
                    IntArg::Const(n) => *n,
                    IntArg::Value(_) => panic!("{name}: a size that is computed"),
                };
                json!(items.iter().map(known).collect::<Vec<_>>())
            }
            Arg::Floats(items) => json!(items),
            Arg::Bools(items) => json!(items),
            Arg::Values(items) => json!(items.iter().map(|v| v.map(value)).collect::<Vec<_>>()),
        })
        .collect();
    json!({"op": name, "given": given, "args": args, "weights": weights})
}

#[test]
fn every_rule_of_a_pytorch_operator_equals_its_gradient() {
    let mut random = Random(11);
    let mut cases_of_pytorch = Vec::new();
    for def in OPERATORS.iter().filter(|d| d.gradient.is_some() && !ELSEWHERE.contains(&d.op)) {
        for case in cases(def.op, &mut random) {
            let weights = [random.real(), random.real()];
            if def.name.starts_with("aten::") {
                cases_of_pytorch.push((described(def.name, &case, &weights), case, weights));
            }
        }
    }
    if let Some(path) = std::env::var_os(CASES) {
        let all: Vec<_> = cases_of_pytorch.iter().map(|(d, _, _)| d).collect();
        std::fs::write(path, json!(all).to_string()).unwrap();
        return;
    }
    let golden: serde_json::Value = serde_json::from_str(include_str!("goldens/gradients.json")).unwrap();
    let golden = golden["cases"].as_array().unwrap();
    assert_eq!(golden.len(), cases_of_pytorch.len(), "the cases are others than those recorded: record them again");
    for (recorded, (description, case, weights)) in golden.iter().zip(&cases_of_pytorch) {
        let name = description["op"].as_str().unwrap();
        let digest: String =
            Sha256::digest(description.to_string()).iter().take(8).map(|b| format!("{b:02x}")).collect();
        assert_eq!(recorded["case"], digest, "{name} is another case than the one recorded: record it again");
        let found = run(&mut session(module(case, weights, true)), &case.given);
        let expected = recorded["gradients"].as_array().unwrap();
        assert_eq!(found.len(), 1 + expected.len(), "{name}");
        for (found, expected) in found[1..].iter().zip(expected) {
            let expected: Vec<f64> = expected.as_array().unwrap().iter().map(|g| g.as_f64().unwrap()).collect();
            assert_eq!(found.len(), expected.len(), "{name}");
            for (j, (g, e)) in found.iter().zip(&expected).enumerate() {
                assert!((g - e).abs() <= 1e-9 * (1.0 + e.abs()), "{name}: element {j}: {g}, PyTorch {e}");
            }
        }
    }
}
