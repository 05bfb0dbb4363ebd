//! Properties of the scalar kernels over random shapes, broadcasts, strides and dtypes: agreement with a naive
//! computation, and independence from layout and from the number of threads.

#[path = "scalar_common/mod.rs"]
mod common;

use common::T;
use proptest::prelude::*;
use pteron_kernels::{Context, KernelResult, elementwise as ew, index, nn, reduce, shape_ops};
use pteron_tensor::{DType, Scalar, Tolerance, View, ViewMut};

const DTYPES: [DType; 11] = [
    DType::U8,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::F16,
    DType::F32,
    DType::F64,
    DType::Bool,
    DType::BF16,
    DType::U16,
];

fn dtype() -> impl Strategy<Value = DType> {
    prop::sample::select(&DTYPES[..])
}

/// Small whole numbers, exact in every dtype.
fn values(dtype: DType, sizes: &[usize], seed: u64) -> T {
    let n = sizes.iter().product();
    let mut x = seed | 1;
    let all: Vec<Scalar> = (0..n)
        .map(|_| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let v = (x >> 40) as i64 % 8;
            match dtype {
                DType::Bool => Scalar::Bool(v % 2 == 0),
                d if d.is_float() => Scalar::Float(v as f64 - 3.0),
                DType::U8 | DType::U16 => Scalar::Int(v),
                _ => Scalar::Int(v - 3),
            }
        })
        .collect();
    T::from_scalars(dtype, sizes, &common::row_major(sizes), &all)
}

/// Two sizes that broadcast, and the result.
fn broadcast() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Vec<usize>)> {
    (prop::collection::vec((0usize..4, 0u8..3), 0..4), 0usize..4, any::<bool>()).prop_map(|(dims, cut, swap)| {
        let out: Vec<usize> = dims.iter().map(|d| d.0).collect();
        let a: Vec<usize> = dims.iter().map(|&(n, k)| if k == 1 { 1 } else { n }).collect();
        let b: Vec<usize> = dims.iter().map(|&(n, k)| if k == 2 { 1 } else { n }).collect();
        let cut = cut.min(dims.len());
        // Leading dimensions may be missing in one operand only; where the other has 1 there, the result has 1.
        let out: Vec<usize> = out.iter().enumerate().map(|(d, &n)| if d < cut && a[d] == 1 { 1 } else { n }).collect();
        let b = b[cut..].to_vec();
        if swap { (b, a, out) } else { (a, b, out) }
    })
}

fn at(t: &T, out: &[usize], flat: usize) -> Scalar {
    let (mut rest, mut pos) = (flat, 0);
    let lead = out.len() - t.sizes.len();
    for d in (0..out.len()).rev() {
        let i = rest % out[d];
        rest /= out[d];
        if d >= lead && t.sizes[d - lead] != 1 {
            pos += i * common::row_major(&t.sizes)[d - lead];
        }
    }
    t.scalars()[pos]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn binary_operators_broadcast_promote_and_ignore_strides(
        (sa, sb, so) in broadcast(), da in dtype(), db in dtype(), op in 0usize..4, seed in any::<u64>(),
    ) {
        let c = Context::new(1);
        let (a, b) = (values(da, &sa, seed), values(db, &sb, seed.rotate_left(9)));
        // Tensors without dimensions promote by category only, which PyTorch's results test.
        prop_assume!((sa.is_empty()) == (sb.is_empty()));
        let to = if op == 3 { DType::Bool } else { DType::promote(da, db) };
        let mut out = T::empty(to, &so);
        let mut strided = T::empty(to, &so).restrided();
        let (ra, rb) = (a.restrided(), b.restrided());
        for (a, b, out) in [(&a, &b, &mut out), (&ra, &rb, &mut strided)] {
            let (x, y, o) = (a.view().into(), b.view().into(), out.view_mut());
            match op {
                0 => ew::add(&c, x, y, Scalar::Int(1), o),
                1 => ew::mul(&c, x, y, o),
                2 => ew::maximum(&c, x, y, o),
                _ => ew::lt(&c, x, y, o),
            }.unwrap();
        }
        prop_assert_eq!(out.bits(), strided.bits());
        for (i, got) in out.scalars().into_iter().enumerate() {
            let (x, y) = (at(&a, &so, i).as_f64(), at(&b, &so, i).as_f64());
            let want = match op { 0 => x + y, 1 => x * y, 2 => x.max(y), _ => f64::from(u8::from(x < y)) };
            let want = match to {
                DType::Bool => f64::from(u8::from(want != 0.0)),
                _ => want,
            };
            prop_assert_eq!(got.as_f64(), want);
        }
    }

    #[test]
    fn copies_convert_as_scalars_do(
        sizes in prop::collection::vec(0usize..4, 0..4), from in dtype(), to in dtype(), seed in any::<u64>(),
    ) {
        let a = values(from, &sizes, seed);
        let want: Vec<Scalar> =
            T::from_scalars(to, &sizes, &common::row_major(&sizes), &a.scalars()).scalars();
        let mut out = T::empty(to, &sizes).restrided();
        ew::to_copy(&Context::new(1), a.restrided().view(), out.view_mut()).unwrap();
        prop_assert_eq!(out.scalars(), want);
    }

    #[test]
    fn reductions_match_naive_sums(
        sizes in prop::collection::vec(1usize..6, 1..4), d in 0usize..3, from in dtype(), keep in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let d = d % sizes.len();
        let a = values(from, &sizes, seed);
        let mut kept = sizes.clone();
        if keep { kept[d] = 1 } else { kept.remove(d); }
        let to = if from.is_float() { from } else { DType::I64 };
        let (mut out, mut strided) = (T::empty(to, &kept), T::empty(to, &kept).restrided());
        let c = Context::new(1);
        reduce::sum(&c, a.view(), &[d as i64], keep, out.view_mut()).unwrap();
        reduce::sum(&c, a.restrided().view(), &[d as i64 - sizes.len() as i64], keep, strided.view_mut()).unwrap();
        prop_assert_eq!(out.bits(), strided.bits());
        let inner: usize = sizes[d + 1..].iter().product();
        let all = a.f64s();
        for (i, got) in out.f64s().into_iter().enumerate() {
            let first = i / inner * inner * sizes[d] + i % inner;
            let want: f64 = (0..sizes[d]).map(|k| all[first + k * inner]).sum();
            prop_assert_eq!(got, want);
        }
    }

    #[test]
    fn long_reductions_do_not_depend_on_strides(n in 900usize..5000, rows in 1usize..4, seed in any::<u64>()) {
        let c = Context::new(1);
        let mut a = values(DType::F32, &[rows, n], seed);
        for i in 0..rows * n {
            let v = a.view().scalar(i).unwrap().as_f64();
            a.view_mut().set_scalar(i, Scalar::Float(v * 0.1 + (i as f64).sin()));
        }
        let r = a.restrided();
        let want: Vec<f64> = a.f64s().chunks(n).map(|l| l.iter().sum()).collect();
        let (mut x, mut y) = (T::empty(DType::F32, &[rows]), T::empty(DType::F32, &[rows]));
        reduce::sum(&c, a.view(), &[1], false, x.view_mut()).unwrap();
        reduce::sum(&c, r.view(), &[1], false, y.view_mut()).unwrap();
        prop_assert_eq!(x.bits(), y.bits());
        let close = Tolerance { name: "sum", abs: 1e-3, rel: 1e-5, of_max: 0.0 };
        close.check(&want, &x.f64s()).unwrap();
        let (mut x, mut y) = (T::empty(DType::F32, &[]), T::empty(DType::F32, &[]));
        reduce::mean(&c, a.view(), &[], false, x.view_mut()).unwrap();
        reduce::mean(&c, r.view(), &[0, 1], false, y.view_mut()).unwrap();
        prop_assert_eq!(x.bits(), y.bits());
        let (mut x, mut y) = (T::empty(DType::F32, &[rows, n]), T::empty(DType::F32, &[rows, n]).restrided());
        reduce::softmax(&c, a.view(), -1, false, x.view_mut()).unwrap();
        reduce::softmax(&c, r.view(), -1, false, y.view_mut()).unwrap();
        prop_assert_eq!(x.bits(), y.bits());
        nn::rms_norm(&c, a.view(), None, 1e-5, x.view_mut()).unwrap();
        nn::rms_norm(&c, r.view(), None, 1e-5, y.view_mut()).unwrap();
        prop_assert_eq!(x.bits(), y.bits());
    }

    #[test]
    fn moves_undo_each_other(
        sizes in prop::collection::vec(1usize..5, 3), order in Just(vec![0i64, 1, 2]).prop_shuffle(), d in 0usize..3,
        cut in 0usize..5, from in dtype(), seed in any::<u64>(),
    ) {
        let c = Context::new(1);
        let a = values(from, &sizes, seed);
        let permuted: Vec<usize> = order.iter().map(|&o| sizes[o as usize]).collect();
        let mut inverse = vec![0i64; 3];
        for (i, &o) in order.iter().enumerate() {
            inverse[o as usize] = i as i64;
        }
        let mut p = T::empty(from, &permuted).restrided();
        let mut back = T::empty(from, &sizes);
        shape_ops::permute_copy(&c, a.view(), &order, p.view_mut()).unwrap();
        shape_ops::permute_copy(&c, p.view(), &inverse, back.view_mut()).unwrap();
        prop_assert_eq!(back.bits(), a.bits());

        shape_ops::flip(&c, a.restrided().view(), &[d as i64, ((d + 1) % 3) as i64], back.view_mut()).unwrap();
        let mut again = T::empty(from, &sizes).restrided();
        shape_ops::flip(&c, back.view(), &[d as i64, ((d + 1) % 3) as i64], again.view_mut()).unwrap();
        prop_assert_eq!(again.bits(), a.bits());

        let cut = cut.min(sizes[d]);
        let part = |n: usize| { let mut s = sizes.clone(); s[d] = n; s };
        let (mut l, mut r) = (T::empty(from, &part(cut)).restrided(), T::empty(from, &part(sizes[d] - cut)));
        let splits = [cut as i64, (sizes[d] - cut) as i64];
        shape_ops::split_with_sizes(&c, a.view(), &splits, d as i64, &mut [l.view_mut(), r.view_mut()]).unwrap();
        let mut sliced = T::empty(from, &part(cut));
        shape_ops::slice_copy(&c, a.view(), d as i64, None, Some(cut as i64), 1, sliced.view_mut()).unwrap();
        prop_assert_eq!(sliced.bits(), l.bits());
        let mut joined = T::empty(from, &sizes).restrided();
        shape_ops::cat(&c, &[l.view(), r.view()], d as i64, joined.view_mut()).unwrap();
        prop_assert_eq!(joined.bits(), a.bits());

        let total: usize = sizes.iter().product();
        let mut flat = T::empty(from, &[total]).restrided();
        shape_ops::view_copy(&c, joined.view(), &[-1], flat.view_mut()).unwrap();
        prop_assert_eq!(flat.bits(), a.bits());
    }

    #[test]
    fn writing_at_indices_is_read_back(
        rows in 1usize..6, width in 0usize..4, picks in prop::collection::vec(0usize..6, 0..5), from in dtype(),
        seed in any::<u64>(),
    ) {
        let c = Context::new(1);
        let mut picks: Vec<i64> = picks.into_iter().map(|p| (p % rows) as i64).collect();
        picks.sort_unstable();
        picks.dedup();
        let n = picks.len();
        let negative: Vec<i64> = picks.iter().map(|p| p - rows as i64).collect();
        let (i, neg) = (T::of(&[n], &picks), T::of(&[n], &negative));
        let a = values(from, &[rows, width], seed);
        let v = values(from, &[n, width], !seed);
        let mut put = a.restrided();
        index::index_put_inplace(&c, put.view_mut(), &[Some(neg.view())], v.view(), false).unwrap();
        let mut copied = T::empty(from, &[rows, width]);
        index::index_copy(&c, a.view(), 0, i.view(), v.view(), copied.view_mut()).unwrap();
        prop_assert_eq!(put.bits(), copied.bits());
        let mut got = T::empty(from, &[n, width]).restrided();
        index::index(&c, put.view(), &[Some(i.view())], got.view_mut()).unwrap();
        prop_assert_eq!(got.bits(), v.bits());
        index::index_select(&c, put.view(), 0, i.view(), got.view_mut()).unwrap();
        prop_assert_eq!(got.bits(), v.bits());
        index::embedding(&c, put.view(), i.view(), got.view_mut()).unwrap();
        prop_assert_eq!(got.bits(), v.bits());
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let n = 100_003;
    let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
    let (x, y) = (T::of(&[1, n], &a), T::of(&[n / 7, 7], &a[..n / 7 * 7]));
    let wide: Vec<f32> = a[..96 * 1024].to_vec();
    let (z, w) = (T::of(&[96, 1024], &wide), T::of(&[1024], &a[..1024]));
    let run = |threads| {
        let c = Context::new(threads);
        let mut outs = [
            T::empty(DType::F32, &[1, n]),
            T::empty(DType::BF16, &y.sizes),
            T::empty(DType::F32, &z.sizes),
            T::empty(DType::F32, &z.sizes),
            T::empty(DType::F16, &z.sizes),
        ];
        let [o0, o1, o2, o3, o4] = &mut outs;
        ew::silu(&c, x.view(), o0.view_mut()).unwrap();
        let column = T::of(&[y.sizes[0], 1], &a[..y.sizes[0]]);
        ew::mul(&c, y.view().into(), column.view().into(), o1.view_mut()).unwrap();
        reduce::softmax(&c, z.view(), 1, false, o2.view_mut()).unwrap();
        nn::rms_norm(&c, z.view(), Some(w.view()), 1e-5, o3.view_mut()).unwrap();
        ew::add(&c, z.view().into(), w.view().into(), Scalar::Int(2), o4.view_mut()).unwrap();
        outs.map(|o| o.data.to_vec())
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
    let expected: Vec<f64> = a.iter().map(|&v| f64::from(v) / (1.0 + (-f64::from(v)).exp())).collect();
    let got: Vec<f64> = bytemuck::pod_collect_to_vec::<u8, f32>(&one[0][..n * 4]).into_iter().map(f64::from).collect();
    Tolerance::KERNEL_F32.check(&expected, &got).unwrap();
}

/// Element values that are all different, as far as the dtype can tell them apart.
fn counted(dtype: DType, sizes: &[usize]) -> T {
    let n: usize = sizes.iter().product();
    let all: Vec<Scalar> = (0..n as i64).map(|i| Scalar::Int((i * 40_503) & 0x7f7f)).collect();
    T::from_scalars(dtype, sizes, &common::row_major(sizes), &all)
}

#[test]
fn large_copies_move_every_element() {
    // Sizes around the tiles of a transposed block, and large enough for several threads' pieces.
    let shapes: [([usize; 3], [i64; 3]); 8] = [
        ([1, 33, 47], [0, 2, 1]),
        ([3, 16, 100], [0, 2, 1]),
        ([3, 200, 300], [0, 2, 1]),
        ([300, 9, 64], [1, 0, 2]),
        ([300, 9, 64], [1, 2, 0]),
        ([300, 9, 64], [2, 1, 0]),
        ([64, 5, 513], [2, 0, 1]),
        ([17, 2, 15], [2, 1, 0]),
    ];
    for dtype in [DType::I8, DType::I16, DType::F32, DType::I64] {
        for (sizes, order) in shapes {
            let a = counted(dtype, &sizes);
            let from = order.map(|o| common::row_major(&sizes)[o as usize]);
            let to = order.map(|o| sizes[o as usize]);
            let bits = a.bits();
            let mut want = Vec::new();
            for i in 0..to[0] {
                for j in 0..to[1] {
                    for k in 0..to[2] {
                        want.push(bits[i * from[0] + j * from[1] + k * from[2]].clone());
                    }
                }
            }
            for threads in [1, 3] {
                let c = Context::new(threads);
                let mut out = T::empty(dtype, &to);
                shape_ops::permute_copy(&c, a.view(), &order, out.view_mut()).unwrap();
                assert_eq!(out.bits(), want, "{dtype} {sizes:?} {order:?} {threads}");
                let mut gaps = T::new(dtype, &to, &[to[1] * to[2] * 2, to[2] * 2, 2]);
                shape_ops::permute_copy(&c, a.view(), &order, gaps.view_mut()).unwrap();
                assert_eq!(gaps.bits(), want, "{dtype} {sizes:?} {order:?} {threads}, with gaps");
            }
        }
    }
    // Repeats and joins, and parts that begin inside of an out.
    let a = counted(DType::F32, &[2, 1, 300, 128]);
    let bits = a.bits();
    for threads in [1, 3] {
        let c = Context::new(threads);
        let mut wide = T::empty(DType::F32, &[2, 3, 300, 128]);
        shape_ops::expand_copy(&c, a.view(), &[-1, 3, -1, -1], wide.view_mut()).unwrap();
        let half = 300 * 128;
        for (i, part) in wide.bits().chunks(half).enumerate() {
            assert_eq!(part, &bits[i / 3 * half..][..half], "{threads}");
        }
        let mut two = T::empty(DType::F32, &[4, 1, 300, 128]);
        shape_ops::cat(&c, &[a.view(), a.view()], 0, two.view_mut()).unwrap();
        assert_eq!(two.bits(), [&bits[..], &bits[..]].concat(), "{threads}");
        let mut converted = T::empty(DType::F16, &[2, 1, 300, 128]);
        ew::to_copy(&c, a.view(), converted.view_mut()).unwrap();
        let want: Vec<f64> = a.f64s().iter().map(|&v| half::f16::from_f64(v).to_f64()).collect();
        assert_eq!(converted.f64s(), want, "{threads}");
        let mut slice = T::empty(DType::F32, &[2, 1, 299, 128]);
        shape_ops::slice_copy(&c, a.view(), 2, Some(1), None, 1, slice.view_mut()).unwrap();
        assert_eq!(slice.bits(), [&bits[128..half], &bits[half + 128..]].concat(), "{threads}");
    }
}

#[test]
fn functions_depend_on_neither_threads_nor_strides() {
    let n = 40_001;
    let values: Vec<f32> = (0..2 * n).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
    type Unary<'a> = &'a dyn Fn(&Context, View<'_>, ViewMut<'_>) -> KernelResult;
    let all: [(&str, Unary<'_>); 8] = [
        ("exp", &|c, x, o| ew::exp(c, x, o)),
        ("tanh", &|c, x, o| ew::tanh(c, x, o)),
        ("sigmoid", &|c, x, o| ew::sigmoid(c, x, o)),
        ("silu", &|c, x, o| ew::silu(c, x, o)),
        ("gelu", &|c, x, o| ew::gelu(c, x, ew::Gelu::None, o)),
        ("gelu tanh", &|c, x, o| ew::gelu(c, x, ew::Gelu::Tanh, o)),
        ("log_softmax", &|c, x, o| reduce::log_softmax(c, x, 1, false, o)),
        ("rms_norm", &|c, x, o| nn::rms_norm(c, x, None, 1e-6, o)),
    ];
    let wide = T::of(&[2, n], &values);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut x = T::empty(dtype, &[2, n]);
        ew::to_copy(&Context::new(1), wide.view(), x.view_mut()).unwrap();
        let r = x.restrided();
        for (name, f) in all {
            let (mut one, mut three) = (T::empty(dtype, &[2, n]), T::empty(dtype, &[2, n]));
            let mut strided = T::empty(dtype, &[2, n]).restrided();
            f(&Context::new(1), x.view(), one.view_mut()).unwrap();
            f(&Context::new(3), x.view(), three.view_mut()).unwrap();
            f(&Context::new(3), r.view(), strided.view_mut()).unwrap();
            assert!(one.data[..] == three.data[..], "{name} {dtype}: threads");
            assert!(one.bits() == strided.bits(), "{name} {dtype}: strides");
        }
    }
}

#[test]
fn rotations_depend_on_neither_threads_nor_strides() {
    let (batch, seq, heads, d) = (2, 150, 5, 24);
    let sizes = [batch, seq, heads, d];
    let total = batch * seq * heads * d;
    let values: Vec<f32> = (0..total).map(|i| (i as f32 * 0.61).sin()).collect();
    let angles: Vec<f32> = (0..seq * d / 2).map(|i| i as f32 * 0.01).collect();
    let cos = T::of(&[seq, d / 2], &angles.iter().map(|a| a.cos()).collect::<Vec<f32>>());
    let sin = T::of(&[seq, d / 2], &angles.iter().map(|a| a.sin()).collect::<Vec<f32>>());
    let twice = |t: &T| {
        let rows: Vec<f32> = t.f64s().iter().map(|&x| x as f32).collect();
        let both: Vec<f32> = rows.chunks(d / 2).flat_map(|row| [row, row].concat()).collect();
        T::of(&[seq, d], &both)
    };
    let full = (twice(&cos), twice(&sin));
    for style in [nn::RopeStyle::HalfSplit, nn::RopeStyle::RotateHalf, nn::RopeStyle::Interleaved] {
        let (cos, sin) = if style == nn::RopeStyle::RotateHalf { (&full.0, &full.1) } else { (&cos, &sin) };
        for dtype in [DType::F32, DType::BF16] {
            let mut x = T::empty(dtype, &sizes);
            ew::to_copy(&Context::new(1), T::of(&sizes, &values).view(), x.view_mut()).unwrap();
            let (mut one, mut three) = (T::empty(dtype, &sizes), T::empty(dtype, &sizes));
            let mut strided = T::empty(dtype, &sizes).restrided();
            nn::rope(&Context::new(1), x.view(), cos.view(), sin.view(), style, one.view_mut()).unwrap();
            nn::rope(&Context::new(3), x.view(), cos.view(), sin.view(), style, three.view_mut()).unwrap();
            let (r, c, s) = (x.restrided(), cos.restrided(), sin.restrided());
            nn::rope(&Context::new(3), r.view(), c.view(), s.view(), style, strided.view_mut()).unwrap();
            assert_eq!(one.data[..], three.data[..]);
            assert_eq!(one.bits(), strided.bits());
            let (v, got) = (x.f64s(), one.f64s());
            let want: Vec<f64> = (0..total)
                .map(|i| {
                    let (row, k, s) = (i / d * d, i % d, i / (heads * d) % seq);
                    let (pair, a, b) = match style {
                        nn::RopeStyle::Interleaved => (k / 2, row + k / 2 * 2, row + k / 2 * 2 + 1),
                        _ => (k % (d / 2), row + k % (d / 2), row + k % (d / 2) + d / 2),
                    };
                    let angle = f64::from(angles[s * d / 2 + pair]);
                    if i == a {
                        v[a] * angle.cos() - v[b] * angle.sin()
                    } else {
                        v[a] * angle.sin() + v[b] * angle.cos()
                    }
                })
                .collect();
            let near = if dtype == DType::F32 { Tolerance::KERNEL_F32 } else { Tolerance::KERNEL_BF16 };
            near.check(&want, &got).unwrap();
        }
    }
}
