//! The scalar kernels against values worked out by hand, and their refusals.

#[path = "scalar_common/mod.rs"]
mod common;

use common::T;
use half::{bf16, f16};
use pteron_kernels::elementwise::{self as ew, Operand, RoundingMode};
use pteron_kernels::{Context, KernelError, KernelResult, index, nn, reduce, shape_ops};
use pteron_tensor::{B8, DType, Scalar, View, ViewMut};

const ONE: Scalar = Scalar::Int(1);

fn c() -> Context {
    Context::new(1)
}

fn refusal(r: KernelResult) -> String {
    r.map_err(|e: KernelError| e.to_string()).expect_err("the kernel accepted its arguments")
}

fn num(v: f64) -> Operand<'static> {
    Scalar::Float(v).into()
}

fn run(dtype: DType, sizes: &[usize], f: impl FnOnce(&Context, ViewMut<'_>) -> KernelResult) -> T {
    let mut out = T::empty(dtype, sizes);
    f(&c(), out.view_mut()).unwrap();
    out
}

#[test]
fn integers_wrap_to_the_promoted_type() {
    let a = T::of(&[3], &[127i8, -128, 5]);
    let b = T::of(&[3], &[1i8, -1, 2]);
    let wide = run(DType::I64, &[3], |c, o| ew::add(c, a.view().into(), b.view().into(), ONE, o));
    assert_eq!(wide.f64s(), [-128., 127., 7.]);
    let q =
        run(DType::I8, &[3], |c, o| ew::div_mode(c, a.view().into(), b.view().into(), Some(RoundingMode::Floor), o));
    assert_eq!(q.f64s(), [127., -128., 2.]);
    // A number takes the tensor's type: -3 is 253 of u8.
    let u = T::of(&[2], &[252u8, 254]);
    let gt = run(DType::Bool, &[2], |c, o| ew::gt(c, u.view().into(), Scalar::Int(-3).into(), o));
    assert_eq!(gt.f64s(), [0., 1.]);
    // So does a tensor without dimensions.
    let minus = T::of(&[], &[-3i64]);
    let gt = run(DType::Bool, &[2], |c, o| ew::gt(c, u.view().into(), minus.view().into(), o));
    assert_eq!(gt.f64s(), [0., 1.]);
}

#[test]
fn integer_division_by_zero_is_an_error() {
    let a = T::of(&[2], &[7i32, -7]);
    let z = T::of(&[2], &[2i32, 0]);
    for mode in [RoundingMode::Trunc, RoundingMode::Floor] {
        let mut o = T::empty(DType::I32, &[2]);
        let e = refusal(ew::div_mode(&c(), a.view().into(), z.view().into(), Some(mode), o.view_mut()));
        assert!(e.contains("division by zero"), "{e}");
    }
    let f = run(DType::F32, &[2], |c, o| ew::div(c, a.view().into(), z.view().into(), o));
    assert_eq!(f.f64s(), [3.5, f64::NEG_INFINITY]);
    let two = T::of(&[2], &[2i32, 2]);
    let by = |m| run(DType::I32, &[2], |c, o| ew::div_mode(c, a.view().into(), two.view().into(), Some(m), o)).f64s();
    assert_eq!(by(RoundingMode::Trunc), [3., -3.]);
    assert_eq!(by(RoundingMode::Floor), [3., -4.]);
    assert!(refusal("round".parse::<RoundingMode>().map(|_| ())).contains("`round`"));
}

#[test]
fn signs_of_zero_and_nan_pass_through() {
    let x = T::of(&[4], &[-0.0f32, f32::NAN, f32::NEG_INFINITY, 0.5]);
    let bits = |t: &T| t.bits();
    let id = run(DType::F32, &[4], |c, o| ew::mul(c, x.view().into(), num(1.0), o));
    assert_eq!(bits(&id), bits(&x));
    let relu = run(DType::F32, &[4], |c, o| ew::relu(c, x.view(), o));
    assert_eq!(relu.f64s()[2..], [0.0, 0.5]);
    assert!(relu.f64s()[1].is_nan());
    let max = run(DType::F32, &[4], |c, o| ew::maximum(c, num(0.0), x.view().into(), o)).f64s();
    assert!(max[1].is_nan() && max[2] == 0.0);
    let halves = T::of(&[4], &[0.5f32, 1.5, -0.5, 2.5]);
    let even = run(DType::F32, &[4], |c, o| ew::round(c, halves.view(), o)).f64s();
    assert_eq!(even, [0., 2., 0., 2.]);
    assert!(even[2].is_sign_negative());
    // The first NaN wins, and its place is told.
    let (mut v, mut i) = (T::empty(DType::F32, &[]), T::empty(DType::I64, &[]));
    reduce::max_dim(&c(), x.view(), 0, false, v.view_mut(), i.view_mut()).unwrap();
    assert!(v.f64s()[0].is_nan());
    assert_eq!(i.f64s(), [1.]);
}

#[test]
fn extrema_of_long_lines_are_the_first() {
    let mut v: Vec<f32> = (0..3001u32).map(|i| ((i * 7919) % 1009) as f32 - 500.0).collect();
    let place = |v: &[f32], max| {
        let t = T::of(&[v.len()], v).restrided();
        let f = if max { reduce::argmax } else { reduce::argmin };
        run(DType::I64, &[], |c, o| f(c, t.view(), None, false, o)).f64s()[0] as usize
    };
    let first = |v: &[f32], want: f32| v.iter().position(|&x| x == want).unwrap();
    assert_eq!(place(&v, true), first(&v, 508.0));
    assert_eq!(place(&v, false), first(&v, -500.0));
    (v[1500], v[2999]) = (600.0, 600.0);
    assert_eq!(place(&v, true), 1500);
    (v[2500], v[2800]) = (f32::NAN, f32::NAN);
    assert_eq!((place(&v, true), place(&v, false)), (2500, 2500));
    let zeros = T::of(&[3], &[-0.0f32, 0.0, -0.0]);
    let max = run(DType::F32, &[], |c, o| reduce::amax(c, zeros.view(), &[], false, o)).f64s()[0];
    assert!(max.is_sign_negative());
}

#[test]
fn sixteen_bit_floats_round_once() {
    // 2049 is no f16; the sum of 2048 and 1 in f32 is rounded once, to even.
    let a = T::of(&[1], &[f16::from_f32(2048.0)]);
    let b = T::of(&[1], &[f16::from_f32(1.0)]);
    let s = run(DType::F16, &[1], |c, o| ew::add(c, a.view().into(), b.view().into(), Scalar::Int(3), o));
    assert_eq!(s.f64s(), [2052.0]);
    let x = T::of(&[1, 2], &[bf16::from_f32(1.0), bf16::from_f32(2.0)]);
    let w = T::of(&[2], &[bf16::from_f32(3.0), bf16::from_f32(0.5)]);
    let y = run(DType::BF16, &[1, 2], |c, o| nn::rms_norm(c, x.view(), Some(w.view()), 0.0, o)).f64s();
    let scale = (2.5f32).sqrt().recip();
    let expect = [bf16::from_f32(scale).to_f32() * 3.0, bf16::from_f32(2.0 * scale).to_f32() * 0.5];
    assert_eq!(y, expect.map(|v| bf16::from_f32(v).to_f64()));
}

#[test]
fn numbers_fill_any_dtype() {
    for dtype in [DType::Bool, DType::U8, DType::I64, DType::F16, DType::F64] {
        let t = run(dtype, &[2, 2], |c, o| ew::full(c, &[2, 2], Scalar::Float(0.5), o));
        let want = if dtype == DType::Bool {
            1.0
        } else if dtype.is_float() {
            0.5
        } else {
            0.0
        };
        assert_eq!(t.f64s(), [want; 4], "{dtype}");
    }
    assert_eq!(run(DType::I32, &[], |c, o| ew::scalar_tensor(c, Scalar::Int(-4), o)).f64s(), [-4.]);
    let mut three = T::empty(DType::I64, &[3]);
    assert!(refusal(ew::full(&c(), &[2], ONE, three.view_mut())).contains("[2]"));
    ew::arange(&c(), Scalar::Int(10), Scalar::Int(3), Scalar::Int(-3), three.view_mut()).unwrap();
    assert_eq!(three.f64s(), [10., 7., 4.]);
    for (s, e, d) in [(0, 5, 0), (0, 5, -1), (0, 9, 1), (i64::MIN, i64::MAX, 1)] {
        refusal(ew::arange(&c(), Scalar::Int(s), Scalar::Int(e), Scalar::Int(d), three.view_mut()));
    }
    refusal(ew::arange(&c(), Scalar::Float(f64::NAN), ONE, ONE, three.view_mut()));
}

#[test]
fn outs_that_do_not_fit_are_refused() {
    let a = T::of(&[2, 1], &[1f32, 2.0]);
    let b = T::of(&[3], &[1i64, 2, 3]);
    let add = |o: ViewMut<'_>| ew::add(&c(), a.view().into(), b.view().into(), ONE, o);
    assert!(refusal(add(T::empty(DType::F32, &[3, 2]).view_mut())).contains("[2, 3]"));
    assert!(refusal(add(T::empty(DType::I64, &[2, 3]).view_mut())).contains("i64"));
    assert!(refusal(add(T::new(DType::F32, &[2, 3], &[0, 1]).view_mut())).contains("stride of 0"));
    let d = T::of(&[2], &[1f32, 2.0]);
    let mut o = T::empty(DType::F32, &[3]);
    assert!(refusal(ew::mul(&c(), d.view().into(), b.view().into(), o.view_mut())).contains("broadcast"));
    let nibbles = View::new(DType::I4, &[4], &[1], &[0x21, 0x43]).unwrap();
    assert!(refusal(ew::neg(&c(), nibbles, T::empty(DType::I8, &[4]).view_mut())).contains("i4"));
    assert!(refusal(ew::to_copy(&c(), nibbles, T::empty(DType::I8, &[4]).view_mut())).contains("i4"));
    let t = T::of(&[2], &[B8(1), B8(0)]);
    refusal(ew::sub(&c(), t.view().into(), t.view().into(), ONE, T::empty(DType::Bool, &[2]).view_mut()));
    refusal(ew::clamp(&c(), d.view(), None, None, T::empty(DType::F32, &[2]).view_mut()));
    let i = T::of(&[2], &[1i32, 2]);
    refusal(ew::add(&c(), i.view().into(), ONE.into(), Scalar::Float(0.5), T::empty(DType::I32, &[2]).view_mut()));
    refusal(ew::pow(&c(), i.view().into(), Scalar::Int(-1).into(), T::empty(DType::I32, &[2]).view_mut()));
}

#[test]
fn nothing_and_single_elements() {
    let none = T::of::<f32>(&[0, 3], &[]);
    assert_eq!(run(DType::F32, &[0, 3], |c, o| ew::exp(c, none.view(), o)).f64s(), [0.0; 0]);
    assert_eq!(run(DType::F32, &[3], |c, o| reduce::sum(c, none.view(), &[0], false, o)).f64s(), [0.; 3]);
    assert!(run(DType::F32, &[3], |c, o| reduce::mean(c, none.view(), &[0], false, o)).f64s()[0].is_nan());
    assert!(
        refusal(reduce::amax(&c(), none.view(), &[0], false, T::empty(DType::F32, &[3]).view_mut()))
            .contains("extremum")
    );
    run(DType::F32, &[0], |c, o| reduce::amax(c, none.view(), &[1], false, o));
    run(DType::F32, &[0, 3], |c, o| reduce::softmax(c, none.view(), 1, false, o));
    let s = T::of(&[], &[2.0f32]);
    assert_eq!(run(DType::F32, &[], |c, o| reduce::softmax(c, s.view(), -1, false, o)).f64s(), [1.]);
    assert_eq!(run(DType::F32, &[], |c, o| reduce::cumsum(c, s.view(), 0, o)).f64s(), [2.]);
    assert_eq!(run(DType::I64, &[], |c, o| reduce::argmax(c, s.view(), Some(0), false, o)).f64s(), [0.]);
    assert_eq!(run(DType::F32, &[1], |c, o| shape_ops::unsqueeze_copy(c, s.view(), -1, o)).f64s(), [2.]);
    assert_eq!(run(DType::F32, &[], |c, o| ew::add(c, s.view().into(), num(1.0), ONE, o)).f64s(), [3.]);
    refusal(shape_ops::select_copy(&c(), s.view(), 0, 0, T::empty(DType::F32, &[]).view_mut()));
    // Sizes of nothing may be enormous; nothing is allocated for them.
    let sizes = [0, 1 << 60];
    let big = View::new(DType::F32, &sizes, &[1 << 60, 1], &[]).unwrap();
    let mut bytes = [];
    let o = ViewMut::new(DType::F32, &sizes, &[1 << 60, 1], &mut bytes).unwrap();
    reduce::softmax(&c(), big, 1, false, o).unwrap();
    let o = ViewMut::new(DType::F32, &sizes, &[1 << 60, 1], &mut bytes).unwrap();
    nn::rms_norm(&c(), big, None, 1e-5, o).unwrap();
}

#[test]
fn dimensions_are_checked() {
    let a = T::of(&[2, 3], &[1f32, 2., 3., 4., 5., 6.]);
    let out = || T::empty(DType::F32, &[2]);
    for d in [2, -3, i64::MAX, i64::MIN] {
        assert!(refusal(reduce::sum(&c(), a.view(), &[d], false, out().view_mut())).contains("dim is"));
        refusal(shape_ops::slice_copy(&c(), a.view(), d, None, None, 1, out().view_mut()));
        refusal(shape_ops::select_copy(&c(), a.view(), d, 0, out().view_mut()));
        refusal(shape_ops::flip(&c(), a.view(), &[d], out().view_mut()));
    }
    assert!(refusal(reduce::sum(&c(), a.view(), &[0, -2], false, out().view_mut())).contains("twice"));
    refusal(shape_ops::permute_copy(&c(), a.view(), &[0, 0], out().view_mut()));
    refusal(shape_ops::select_copy(&c(), a.view(), 1, 3, out().view_mut()));
    refusal(shape_ops::slice_copy(&c(), a.view(), 1, None, None, 0, out().view_mut()));
    refusal(shape_ops::narrow(&c(), a.view(), 1, 2, 2, out().view_mut()));
    refusal(shape_ops::view_copy(&c(), a.view(), &[4, -1], out().view_mut()));
    refusal(shape_ops::view_copy(&c(), a.view(), &[-1, -1], out().view_mut()));
    refusal(shape_ops::expand_copy(&c(), a.view(), &[2, 4], out().view_mut()));
    refusal(shape_ops::repeat(&c(), a.view(), &[i64::MAX, i64::MAX], out().view_mut()));
    refusal(shape_ops::cat(&c(), &[], 0, out().view_mut()));
    refusal(shape_ops::split_with_sizes(&c(), a.view(), &[2, 2], 1, &mut []));
    let col = run(DType::F32, &[2, 1], |c, o| shape_ops::narrow(c, a.view(), 1, -1, 1, o));
    assert_eq!(col.f64s(), [3., 6.]);
    let end = run(DType::F32, &[2, 0], |c, o| shape_ops::slice_copy(c, a.view(), 1, Some(i64::MAX), None, i64::MAX, o));
    assert!(end.f64s().is_empty());
    refusal(reduce::topk(&c(), a.view(), 4, 1, true, true, out().view_mut(), T::empty(DType::I64, &[2]).view_mut()));
}

#[test]
fn rows_of_a_loop_are_written_in_place() {
    let mut to = T::of(&[3, 2], &[0i64; 6]);
    let row = T::of(&[2], &[7i64, 8]);
    shape_ops::copy_index(&c(), row.view(), 1, to.view_mut()).unwrap();
    assert_eq!(to.f64s(), [0., 0., 7., 8., 0., 0.]);
    for i in [3, -1] {
        assert!(refusal(shape_ops::copy_index(&c(), row.view(), i, to.view_mut())).contains("out of range"));
    }
    refusal(shape_ops::copy_index(&c(), to.view(), 0, T::empty(DType::I64, &[3, 2]).view_mut()));
}

#[test]
fn embedding_names_the_bad_index() {
    let w = T::of(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]);
    let out = || T::empty(DType::F32, &[1, 2]);
    for bad in [3i64, -1, i64::MAX] {
        let e = refusal(index::embedding(&c(), w.view(), T::of(&[1], &[bad]).view(), out().view_mut()));
        assert!(e.contains(&bad.to_string()) && e.contains("3 rows"), "{e}");
    }
    let f = T::of(&[1], &[1f32]);
    assert!(refusal(index::embedding(&c(), w.view(), f.view(), out().view_mut())).contains("i64 or i32"));
    let i = T::of(&[2, 1], &[2i32, 0]);
    let e = run(DType::BF16, &[2, 1, 2], |c, o| index::embedding(c, w.view(), i.view(), o));
    assert_eq!(e.f64s(), [5., 6., 1., 2.]);
    let bytes = T::of(&[2, 1], &[-3i8, 4]);
    let e = run(DType::I8, &[1, 1], |c, o| index::embedding(c, bytes.view(), T::of(&[1], &[1i64]).view(), o));
    assert_eq!(e.f64s(), [4.]);
}

#[test]
fn advanced_indexing_checks_its_indices() {
    let a = T::of(&[2, 3], &[1f32, 2., 3., 4., 5., 6.]);
    let at = |v: &[i64]| T::of(&[v.len()], v);
    let out = || T::empty(DType::F32, &[1, 3]);
    for bad in [2, -3, i64::MIN] {
        let e = refusal(index::index(&c(), a.view(), &[Some(at(&[bad]).view())], out().view_mut()));
        assert!(e.contains(&bad.to_string()) && e.contains("size 2"), "{e}");
    }
    refusal(index::index(&c(), a.view(), &[], out().view_mut()));
    refusal(index::index(&c(), a.view(), &[None, None, Some(at(&[0]).view())], out().view_mut()));
    refusal(index::index(&c(), a.view(), &[Some(at(&[0, 1]).view()), Some(at(&[0, 1, 2]).view())], out().view_mut()));
    refusal(index::index(&c(), a.view(), &[Some(T::of(&[1], &[0f32]).view())], out().view_mut()));
    let mask = T::of(&[3], &[B8(1), B8(0), B8(1)]);
    assert!(refusal(index::index(&c(), a.view(), &[Some(mask.view())], out().view_mut())).contains("mask"));
    // A refused write leaves the tensor alone.
    let mut t = a.clone();
    let v = T::of(&[3], &[9f32; 3]);
    refusal(index::index_put_inplace(&c(), t.view_mut(), &[Some(at(&[0, 5]).view())], v.view(), false));
    assert_eq!(t.f64s(), a.f64s());
    index::index_put_inplace(&c(), t.view_mut(), &[None, Some(mask.view())], T::of(&[], &[9f32]).view(), false)
        .unwrap();
    assert_eq!(t.f64s(), [9., 2., 9., 9., 5., 9.]);
    index::index_put_inplace(&c(), t.view_mut(), &[Some(at(&[1, 1, -1]).view())], v.view(), true).unwrap();
    assert_eq!(t.f64s(), [9., 2., 9., 36., 32., 36.]);
    refusal(index::gather(
        &c(),
        a.view(),
        1,
        T::of(&[2, 1], &[0i64, 3]).view(),
        T::empty(DType::F32, &[2, 1]).view_mut(),
    ));
    refusal(index::index_select(&c(), a.view(), 1, at(&[-1]).view(), T::empty(DType::F32, &[2, 1]).view_mut()));
}

#[test]
fn caches_take_rows_within_their_bounds() {
    let value: Vec<f32> = (1..=8).map(|v| v as f32).collect();
    let v = T::of(&[2, 2, 1, 2], &value);
    let mut cache = T::of(&[2, 3, 1, 2], &[0f32; 12]);
    index::update_cache(&c(), v.view(), cache.view_mut(), 1).unwrap();
    let want = [0., 0., 1., 2., 3., 4., 0., 0., 5., 6., 7., 8.];
    assert_eq!(cache.f64s(), want);
    for pos in [2, 3, -1, i64::MAX, i64::MIN] {
        let e = refusal(index::update_cache(&c(), v.view(), cache.view_mut(), pos));
        assert!(e.contains(&pos.to_string()) && e.contains("3 rows"), "{e}");
    }
    assert_eq!(cache.f64s(), want);
    let at = T::of(&[2, 2], &[2i64, 0, 1, 1]);
    index::update_cache_with_indices(&c(), v.view(), cache.view_mut(), at.view()).unwrap();
    assert_eq!(cache.f64s(), [3., 4., 1., 2., 1., 2., 0., 0., 7., 8., 7., 8.]);
    for bad in [3i64, -1] {
        let at = T::of(&[2, 2], &[0i64, 0, 0, bad]);
        let e = refusal(index::update_cache_with_indices(&c(), v.view(), cache.view_mut(), at.view()));
        assert!(e.contains(&bad.to_string()), "{e}");
    }
    let half = T::of(&[2, 2, 1, 2], &[f16::ONE; 8]);
    assert!(refusal(index::update_cache(&c(), half.view(), cache.view_mut(), 0)).contains("f16"));
    let other = T::of(&[2, 2, 2, 1], &value);
    assert!(refusal(index::update_cache(&c(), other.view(), cache.view_mut(), 0)).contains("[2, 2, 2, 1]"));
}

#[test]
fn rotations_pair_as_the_style_says() {
    let x = T::of(&[1, 2, 1, 4], &[1f32, 2., 3., 4., 1., 2., 3., 4.]);
    let cos = T::of(&[2, 2], &[0f32, 1., 1., 0.]);
    let sin = T::of(&[2, 2], &[1f32, 0., 0., 1.]);
    let with =
        |style| run(DType::F32, &[1, 2, 1, 4], |c, o| nn::rope(c, x.view(), cos.view(), sin.view(), style, o)).f64s();
    assert_eq!(with(nn::RopeStyle::Interleaved), [-2., 1., 3., 4., 1., 2., -4., 3.]);
    assert_eq!(with(nn::RopeStyle::HalfSplit), [-3., 2., 1., 4., 1., -4., 3., 2.]);
    let odd = T::of(&[1, 2, 1, 3], &[0f32; 6]);
    let mut o = T::empty(DType::F32, &[1, 2, 1, 3]);
    assert!(
        refusal(nn::rope(&c(), odd.view(), cos.view(), sin.view(), nn::RopeStyle::HalfSplit, o.view_mut()))
            .contains("odd")
    );
    let mut o = T::empty(DType::F32, &[1, 2, 1, 4]);
    let short = T::of(&[1, 2], &[0f32; 2]);
    refusal(nn::rope(&c(), x.view(), short.view(), sin.view(), nn::RopeStyle::HalfSplit, o.view_mut()));
}

#[test]
fn convolutions_check_their_geometry() {
    let x = T::of(&[1, 2, 4], &[1f32, 2., 3., 4., 5., 6., 7., 8.]);
    let w = T::of(&[1, 2, 2], &[1f32, 0., 0., 1.]);
    let p = nn::ConvParams { stride: &[1], padding: &[0], dilation: &[1], transposed: false, groups: 1 };
    let go = |p: &nn::ConvParams<'_>| {
        let mut o = T::empty(DType::F32, &[1, 1, 3]);
        nn::convolution(&c(), x.view(), w.view(), None, p, o.view_mut()).map(|()| o.f64s())
    };
    assert_eq!(go(&p).unwrap(), [7., 9., 11.]);
    for bad in [
        nn::ConvParams { transposed: true, ..p },
        nn::ConvParams { stride: &[0], ..p },
        nn::ConvParams { padding: &[-1], ..p },
        nn::ConvParams { dilation: &[i64::MAX], ..p },
        nn::ConvParams { dilation: &[9], ..p },
        nn::ConvParams { groups: 0, ..p },
        nn::ConvParams { groups: 2, ..p },
        nn::ConvParams { stride: &[], ..p },
    ] {
        refusal(go(&bad).map(|_| ()));
    }
    let mut o = T::empty(DType::F32, &[1, 1, 3, 3]);
    let y = T::of(&[1, 1, 2, 2], &[0f32; 4]);
    refusal(nn::upsample_nearest2d(&c(), y.view(), Some([2.0, 1.5]), o.view_mut()));
    nn::upsample_nearest2d(&c(), y.view(), Some([1.5, 1.5]), o.view_mut()).unwrap();
}
