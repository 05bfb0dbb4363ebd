//! Random modules that verify, for tests of whatever reads modules.

use pteron_ir::graph::{Def, Extra, Region};
use pteron_ir::module::{Delegate, MetaValue};
use pteron_ir::{
    Arg, BufferId, ConstData, DelegateId, Graph, GraphBuilder, Id, IntArg, Module, Op, PathId, RegionId, SymInt,
    TensorType, Type, ValueId, args,
};
use pteron_tensor::{AlignedBytes, DType, MemorySource, Tensor};

/// Numbers that a seed decides (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The numbers of `seed`.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is not 0.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// One of `items`, which are not empty.
    pub(crate) fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// True once in `n` times.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

const DTYPES: &[DType] =
    &[DType::F32, DType::F32, DType::F16, DType::BF16, DType::I64, DType::Bool, DType::F64, DType::U8];
const NAMES: &[&str] = &["w", "layers.0.q", "with \"quotes\"", "tab\there", "line\nbreak", "über 漢字", "", "\u{7}\\"];
const FLOATS: &[f64] = &[0.0, -0.0, 1.0, -2.5, 1e-5, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 5e-324];
const UNARY: &[Op] =
    &[Op::Relu, Op::Neg, Op::Abs, Op::Sigmoid, Op::Silu, Op::Exp, Op::LogicalNot, Op::Clone, Op::Rsqrt];
const BINARY: &[Op] = &[Op::Add, Op::Sub, Op::Mul, Op::Div, Op::Maximum, Op::Eq, Op::Lt, Op::LogicalAnd];
const SCALAR: &[Op] = &[Op::AddScalar, Op::MulScalar, Op::SubScalar, Op::EqScalar, Op::PowScalar];

/// A module of one or two graphs with at most `size` nodes in each body: constants of every dtype, symbolic sizes, views,
/// reductions, mutations, branches, loops, delegates and unknown operators. The same seed gives the same module.
pub(crate) fn random_module(seed: u64, size: usize) -> Module {
    let mut r = Random::new(seed);
    let mut m = Module::new(r.pick(NAMES));
    for _ in 0..r.below(5) {
        constant(&mut m, &mut r);
    }
    for _ in 0..r.below(3) {
        let payload: Vec<u8> = (0..r.below(100)).map(|_| r.next() as u8).collect();
        let compile_specs = (0..r.below(2)).map(|i| (format!("key{i}").into(), vec![i as u8; 3])).collect();
        m.delegates.push(Delegate {
            backend: r.pick(NAMES).into(),
            payload: payload.into(),
            compile_specs,
            named_data: Vec::new(),
        });
    }
    metadata(&mut m, &mut r);
    for name in ["forward", "other method"].iter().take(1 + r.below(2)) {
        graph(&mut m, &mut r, name, size);
    }
    m
}

fn constant(m: &mut Module, r: &mut Random) {
    let dtype = r.pick(&DType::ALL);
    let shape: Vec<usize> = (0..r.below(4)).map(|_| r.below(4)).collect();
    let numel: usize = shape.iter().product();
    let bytes = dtype.bytes_for(numel).unwrap_or(0);
    // The padding of an odd number of nibbles is not printed.
    let odd = dtype == DType::I4 && numel % 2 == 1;
    let mut data: Vec<u8> =
        (0..bytes).map(|_| if dtype == DType::Bool { r.below(2) as u8 } else { r.next() as u8 }).collect();
    if let (true, Some(last)) = (odd, data.last_mut()) {
        *last &= 15;
    }
    let name = r.pick(NAMES);
    if let Ok(source) = MemorySource::new(name, dtype, &shape, AlignedBytes::copied(&data)) {
        let c = m.add_tensor_constant(name, source);
        match r.below(6) {
            0 => m.constants[c].data = ConstData::Missing,
            1 => m.constants[c].data = ConstData::External(r.pick(NAMES).into()),
            _ => {}
        }
    }
}

fn metadata(m: &mut Module, r: &mut Random) {
    for i in 0..r.below(4) {
        let values = (0..r.below(4))
            .map(|_| match r.below(5) {
                0 => MetaValue::Int(r.next() as i64),
                1 => MetaValue::Bool(r.one_in(2)),
                2 => MetaValue::Float(r.pick(FLOATS)),
                3 => MetaValue::Str(r.pick(NAMES).into()),
                _ => Tensor::of(&[2, 2], &[1f32, f32::MIN_POSITIVE, -0.0, 3.5])
                    .map_or(MetaValue::Int(0), MetaValue::Tensor),
            })
            .collect();
        m.set_metadata(&format!("get_{i}"), values);
    }
}

fn graph(m: &mut Module, r: &mut Random, name: &str, size: usize) {
    let constants: Vec<_> = m.constants.keys().collect();
    let delegates: Vec<_> = m.delegates.keys().collect();
    let mut b = GraphBuilder::new(m, name);
    let s0 = b.symbol(1, 1 + r.below(40) as i64);
    let mut pool: Vec<ValueId> = Vec::new();
    let mut ints: Vec<ValueId> = Vec::new();
    for i in 0..1 + r.below(4) {
        let dims: Vec<SymInt> =
            (0..r.below(4)).map(|_| r.pick(&[s0.clone(), 1i64.into(), 2i64.into(), 3i64.into()])).collect();
        let ty = TensorType::new(r.pick(DTYPES), dims);
        let input = b.input(&format!("in {i}"), ty);
        pool.push(input);
    }
    let bound = b.input("bound", TensorType::new(DType::F32, [s0]));
    pool.push(bound);
    let flag = b.input("flag", Type::Bool);
    let position = b.input("position", TensorType::fixed(DType::I64, &[1]));
    for c in constants {
        pool.push(b.constant(c));
    }
    for _ in 0..r.below(size.max(1)) {
        let scope = format!("layers.{}", r.below(3));
        b.scope(&scope, |b| step(b, r, &mut pool, &mut ints, flag, position, &delegates));
    }
    let outputs: Vec<ValueId> = (0..r.below(3)).map(|_| r.pick(&pool)).collect();
    b.finish(&outputs);
}

fn step(
    b: &mut GraphBuilder<'_>,
    r: &mut Random,
    pool: &mut Vec<ValueId>,
    ints: &mut Vec<ValueId>,
    flag: ValueId,
    position: ValueId,
    delegates: &[DelegateId],
) {
    let x = r.pick(pool);
    let rank = b.tensor_ty(x).rank();
    let dim = r.below(rank.max(1)) as i64;
    // What does not fit its operands is left out.
    let made = match r.below(20) {
        0..=2 => match r.pick(UNARY) {
            Op::Silu if !b.tensor_ty(x).dtype.is_float() => return,
            op => b.call(op, args![x]),
        },
        3..=5 => b.call(r.pick(BINARY), args![x, r.pick(pool)]),
        6 => {
            let scalar = if r.one_in(2) { Arg::Int(r.below(9) as i64 - 4) } else { Arg::Float(r.pick(FLOATS)) };
            b.call(r.pick(SCALAR), [x.into(), scalar])
        }
        7 => b
            .call(Op::ViewCopy, args![x, Arg::ints(&[-1])])
            .and_then(|v| b.call(Op::ViewCopy, args![v, Arg::ints(&[1, -1])])),
        8 => b.call(Op::UnsqueezeCopy, args![x, dim]),
        9 => {
            let mut order: Vec<i64> = (0..rank as i64).collect();
            (1..rank).for_each(|i| order.swap(i, r.below(i + 1)));
            b.call(Op::PermuteCopy, args![x, Arg::ints(&order)])
        }
        10 => b.call(Op::SliceCopy, args![x, dim, r.below(2) as i64, Arg::None, 1 + r.below(2) as i64]),
        11 => b.call(Op::Cat, [Arg::tensors(&[x, x]), dim.into()]),
        12 => b.call(Op::Sum, args![x, Arg::ints(&[dim]), r.one_in(2)]),
        13 => b.call(Op::ToCopy, args![x, r.pick(DTYPES)]),
        14 => match ints.last().copied() {
            Some(v) if r.one_in(2) => {
                let made = b.call(Op::PrimAdd, args![v, r.pick(ints)]);
                ints.extend(made.clone().ok());
                return;
            }
            Some(v) => b.call(Op::Full, [Arg::Ints([IntArg::Value(v), 2.into()].into_iter().collect()), 1.5.into()]),
            None => {
                ints.extend(b.local_int(position, 0, 7).ok());
                ints.extend(b.call(Op::SymSize, args![x, dim]).ok());
                return;
            }
        },
        15 => return mutate(b, r, x),
        16 => Ok(cond(b, r, x, flag)),
        17 => Ok(looped(b, x, flag)),
        18 => Ok(foreign(b, r, x, delegates)),
        _ => match b.node(Op::TopK, args![x, 1i64, dim]) {
            Ok(n) => {
                pool.extend(&b.graph().nodes[n].outputs);
                return;
            }
            Err(e) => Err(e),
        },
    };
    pool.extend(made.ok());
}

/// A copy that is written, or a buffer that is written back.
fn mutate(b: &mut GraphBuilder<'_>, r: &mut Random, x: ValueId) {
    let ty = b.tensor_ty(x);
    if ty.is_static() && r.one_in(2) {
        let buffer: BufferId = b.module_mut().add_buffer(r.pick(NAMES), ty);
        let old = b.buffer(buffer);
        if let Ok(new) = b.call(Op::CopyInto, args![old, x]) {
            b.write_back(buffer, new);
        }
    } else if let Ok(copy) = b.call(Op::Clone, args![x]) {
        // The old version is in nobody's reach from here on.
        drop(b.call(Op::CopyInto, args![copy, x]));
    }
}

fn add(g: &mut Graph, region: RegionId, op: Op, args: Vec<Arg>, ty: &Type, extra: Extra) -> ValueId {
    let n = g.add_node(region, op, args, [ty.clone()], extra, PathId::from_index(0));
    g.nodes[n].outputs[0]
}

fn cond(b: &mut GraphBuilder<'_>, r: &mut Random, x: ValueId, flag: ValueId) -> ValueId {
    let ty = b.ty(x).clone();
    let g = b.graph_mut();
    let v = add(g, g.body_id(), Op::Cond, vec![flag.into()], &ty, Extra::None);
    let Def::Node(n, _) = g.values[v].def else { return x };
    for _ in 0..2 {
        let region = g.regions.push(Region::default());
        g.nodes[n].regions.push(region);
        let result = if r.one_in(2) { add(g, region, Op::Abs, vec![x.into()], &ty, Extra::None) } else { x };
        g.regions[region].results = vec![result];
    }
    v
}

fn looped(b: &mut GraphBuilder<'_>, x: ValueId, flag: ValueId) -> ValueId {
    let ty = b.ty(x).clone();
    let g = b.graph_mut();
    let v = add(g, g.body_id(), Op::Loop, vec![x.into()], &ty, Extra::None);
    let Def::Node(n, _) = g.values[v].def else { return x };
    let region = g.regions.push(Region::default());
    g.nodes[n].regions.push(region);
    let param = g.add_value(ty.clone(), Def::Param(region, 0), Some("carried"));
    let next = add(g, region, Op::CopyInto, vec![param.into(), x.into(), false.into()], &ty, Extra::None);
    g.regions[region].params = vec![param];
    g.regions[region].results = vec![flag, next];
    v
}

fn foreign(b: &mut GraphBuilder<'_>, r: &mut Random, x: ValueId, delegates: &[DelegateId]) -> ValueId {
    let ty = b.ty(x).clone();
    let g = b.graph_mut();
    let body = g.body_id();
    if let (false, true) = (delegates.is_empty(), r.one_in(2)) {
        return add(g, body, Op::Delegate, vec![x.into()], &ty, Extra::Delegate(r.pick(delegates)));
    }
    let args = vec![
        x.into(),
        Arg::Floats(vec![r.pick(FLOATS), r.pick(FLOATS)]),
        Arg::Bools(vec![true, r.one_in(2)]),
        Arg::Values([Some(x), None].into_iter().collect()),
        Arg::ints(&[r.next() as i64]),
        r.pick(NAMES).into(),
        r.pick(DTYPES).into(),
        Arg::None,
    ];
    add(g, body, Op::Custom, args, &ty, Extra::Custom("my::op.out".into()))
}
