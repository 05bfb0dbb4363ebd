//! Matrix products: every variant against the scalar one, rows against batches, threads against one thread.

use half::{bf16, f16};
use proptest::prelude::*;
use pteron_kernels::Context;
use pteron_kernels::matmul::{Layer, Panels, addmm, bmm, linear, linears, matmul, mm};
use pteron_kernels::simd::Isa;
use pteron_tensor::{DType, Element, Scalar, Tensor, Tolerance, View, cast_bytes};

/// Values in -1..1 from a seed.
fn noise(seed: u64, dtype: DType, sizes: &[usize]) -> Tensor {
    let n = sizes.iter().product();
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    let mut out = Tensor::zeros(dtype, sizes).unwrap();
    let scale = if dtype.is_float() { 1.0 } else { 100.0 };
    let scaled: Vec<f32> = values.iter().map(|v| v * scale).collect();
    cast_bytes(bytemuck::cast_slice(&scaled), DType::F32, out.bytes_mut(), dtype, n).unwrap();
    out
}

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F16 => Tolerance::KERNEL_F16,
        DType::BF16 => Tolerance::KERNEL_BF16,
        DType::F32 => Tolerance::KERNEL_F32,
        _ => Tolerance::EXACT,
    }
}

/// `Σ_k a[m, k]·b[k, n]` in f64.
fn reference(a: &View<'_>, b: &View<'_>) -> Vec<f64> {
    let (m, k, n) = (a.sizes()[0], a.sizes()[1], b.sizes()[1]);
    let (a, b) = (a.to_f64_vec(), b.to_f64_vec());
    (0..m * n).map(|i| (0..k).map(|l| a[i / n * k + l] * b[l * n + i % n]).sum()).collect()
}

/// The combinations of types a linear layer meets: input, weight, output.
const MIXES: [(DType, DType, DType); 5] = [
    (DType::F32, DType::F32, DType::F32),
    (DType::F16, DType::F16, DType::F16),
    (DType::BF16, DType::BF16, DType::BF16),
    (DType::F32, DType::F16, DType::F32),
    (DType::F32, DType::BF16, DType::F32),
];

/// Shapes with tails in every dimension, single rows, nothing at all, and sizes past a block of `k` and a panel.
const SHAPES: [[usize; 3]; 22] = [
    [1, 1, 1],
    [1, 8, 16],
    [1, 13, 37],
    [2, 3, 5],
    [3, 4, 15],
    [4, 7, 17],
    [5, 9, 64],
    [6, 4, 16],
    [7, 5, 31],
    [8, 33, 100],
    [11, 65, 33],
    [13, 70, 129],
    [0, 4, 4],
    [4, 0, 4],
    [4, 4, 0],
    [1, 3, 0],
    [100, 130, 70],
    [1, 600, 300],
    [37, 21, 800],
    [6, 10, 1541],
    [19, 97, 1601],
    [200, 3, 2],
];

fn run_linear(ctx: &Context, x: &Tensor, w: &Tensor, bias: Option<&Tensor>, out: DType) -> Tensor {
    let mut sizes = x.sizes().to_vec();
    *sizes.last_mut().unwrap() = w.sizes()[0];
    let mut y = Tensor::zeros(out, &sizes).unwrap();
    linear(ctx, &x.view(), &w.view(), bias.map(Tensor::view).as_ref(), &mut y.view_mut()).unwrap();
    y
}

/// A row-major matrix at the beginning of `bytes`.
fn matrix(dtype: DType, sizes: [usize; 2], bytes: &[u8]) -> Tensor {
    let strides = [sizes[1], 1];
    Tensor::copy_of(&View::new(dtype, &sizes, &strides, bytes).unwrap())
}

fn run_mm(ctx: &Context, a: &View<'_>, b: &View<'_>, out: DType) -> Tensor {
    let mut y = Tensor::zeros(out, &[a.sizes()[0], b.sizes()[1]]).unwrap();
    mm(ctx, a, b, &mut y.view_mut()).unwrap();
    y
}

fn linear_matches_scalar(isa: Isa) {
    let (scalar, ctx) = (Context::with_isa(1, Isa::Scalar).unwrap(), Context::with_isa(2, isa).unwrap());
    assert_eq!(ctx.isa(), isa);
    for (i, [m, n, k]) in SHAPES.into_iter().enumerate() {
        for (dx, dw, dy) in MIXES {
            let (x, w) = (noise(i as u64, dx, &[m, k]), noise(99 + i as u64, dw, &[n, k]));
            let bias = noise(7, dx, &[n]);
            for bias in [None, Some(&bias)] {
                let expected = run_linear(&scalar, &x, &w, bias, dy).view().to_f64_vec();
                let actual = run_linear(&ctx, &x, &w, bias, dy).view().to_f64_vec();
                if let Err(e) = tolerance(dy).check(&expected, &actual) {
                    panic!("{isa} linear {dx}×{dw} {m}×{n}×{k}: {e}");
                }
            }
        }
    }
}

/// Right-hand operands row-major, as a transposed view, and in neither order; left-hand ones row-major and transposed.
fn mm_matches_scalar(isa: Isa) {
    let (scalar, ctx) = (Context::with_isa(1, Isa::Scalar).unwrap(), Context::with_isa(2, isa).unwrap());
    for (i, [m, n, k]) in SHAPES.into_iter().enumerate() {
        for (dx, dw, dy) in MIXES {
            let (a, b) = (noise(i as u64, dx, &[m, k * 2]), noise(5 + i as u64, dw, &[k.max(n) * 3, k.max(n) * 2]));
            let a_sizes = [m, k];
            let a_strides = [[k, 1], [1, m], [2 * k, 2]];
            let b_sizes = [k, n];
            let b_strides = [[n, 1], [1, k], [2 * n, 2], [2, 2 * k]];
            for (sa, sb) in a_strides.iter().flat_map(|a| b_strides.iter().map(move |b| (a, b))) {
                let a = View::new(dx, &a_sizes, sa, a.bytes()).unwrap();
                let b = View::new(dw, &b_sizes, sb, b.bytes()).unwrap();
                let expected = run_mm(&scalar, &a, &b, dy).view().to_f64_vec();
                let actual = run_mm(&ctx, &a, &b, dy).view().to_f64_vec();
                if let Err(e) = tolerance(dy).check(&expected, &actual) {
                    panic!("{isa} mm {dx}×{dw} {m}×{n}×{k} strides {sa:?} {sb:?}: {e}");
                }
                if isa == Isa::Scalar {
                    Tolerance { of_max: 1e-6 + tolerance(dy).of_max, ..tolerance(dy) }
                        .check(&reference(&a, &b), &actual)
                        .unwrap_or_else(|e| panic!("{isa} mm {dx}×{dw} {m}×{n}×{k} strides {sa:?} {sb:?}: {e}"));
                }
            }
        }
    }
}

/// A row computed alone equals bit for bit the same row computed among others, on 1, 2 and 3 threads.
fn rows_do_not_depend_on_their_company(isa: Isa) {
    let contexts: Vec<Context> = (1..=3).map(|t| Context::with_isa(t, isa).unwrap()).collect();
    for [m, n, k] in [[7, 9, 33], [13, 130, 576], [100, 40, 1600], [64, 300, 70], [97, 512, 769]] {
        for (dx, dw, dy) in MIXES {
            let (x, w) = (noise(1, dx, &[m, k]), noise(2, dw, &[n, k]));
            let bias = noise(3, dx, &[n]);
            let all = run_linear(&contexts[0], &x, &w, Some(&bias), dy);
            let b_sizes = [k, n];
            let b_strides = [n, 1];
            let plain = View::new(dw, &b_sizes, &b_strides, w.bytes()).unwrap();
            let all_mm = run_mm(&contexts[0], &x.view(), &plain, dy);
            for ctx in &contexts[1..] {
                assert_eq!(
                    run_linear(ctx, &x, &w, Some(&bias), dy).bytes(),
                    all.bytes(),
                    "{isa} {m}×{n}×{k} {dx}×{dw}"
                );
                assert_eq!(run_mm(ctx, &x.view(), &plain, dy).bytes(), all_mm.bytes(), "{isa} {m}×{n}×{k} {dx}×{dw}");
            }
            // A left-hand operand that is a transposed view gives the same sums.
            let turned = Tensor::copy_of(&View::new(dx, &[k, m], &[1, k], x.bytes()).unwrap());
            let a_sizes = [m, k];
            let a_strides = [1, m];
            let turned = View::new(dx, &a_sizes, &a_strides, turned.bytes()).unwrap();
            assert_eq!(run_mm(&contexts[0], &turned, &plain, dy).bytes(), all_mm.bytes());
            let (row_in, row_out) = (x.bytes().len() / m, all.bytes().len() / m);
            for rows in [1, 2, 3, 4, 5, 6] {
                for first in [0, 1, m - rows] {
                    let part = matrix(dx, [rows, k], &x.bytes()[first * row_in..]);
                    let want = first * row_out..(first + rows) * row_out;
                    let got = run_linear(&contexts[rows % 3], &part, &w, Some(&bias), dy);
                    assert_eq!(
                        got.bytes(),
                        &all.bytes()[want.clone()],
                        "{isa} linear {dx}×{dw} {m}×{n}×{k}: {rows} rows from {first}"
                    );
                    let got = run_mm(&contexts[rows % 3], &part.view(), &plain, dy);
                    assert_eq!(
                        got.bytes(),
                        &all_mm.bytes()[want],
                        "{isa} mm {dx}×{dw} {m}×{n}×{k}: {rows} rows from {first}"
                    );
                }
            }
        }
    }
}

/// Layers with a weight that was laid out give the bits that [`linear`] gives, whatever the sizes, the bias, the number of layers and
/// of threads; a piece of another weight (rows that lie apart) is laid out as well.
fn panels_give_the_same_bits(isa: Isa) {
    let contexts: Vec<Context> = (1..=3).map(|t| Context::with_isa(t, isa).unwrap()).collect();
    let more = [[1, 49, 576], [1, 1536, 40], [6, 341, 1536], [7, 16, 8], [300, 65, 72], [1, 2000, 341]];
    for (i, [m, n, k]) in SHAPES.into_iter().chain(more).enumerate() {
        let dtype = DType::BF16;
        let (x, w) = (noise(i as u64, dtype, &[m, k]), noise(3 + i as u64, dtype, &[n + 1, k + 3]));
        let (narrow, bias) = (noise(50, dtype, &[n.div_ceil(2), k]), noise(9, DType::F32, &[n]));
        let (sizes, strides) = ([n, k], [k + 3, 1]);
        let wide = View::new(dtype, &sizes, &strides, w.bytes()).unwrap();
        let ctx = &contexts[i % 3];
        let laid_out = [&wide, &narrow.view()].map(|w| Panels::new(ctx, w));
        if !Panels::are_used_by(ctx) || n == 0 || k == 0 {
            assert!(laid_out.iter().all(Option::is_none), "{isa} {n}×{k}");
            continue;
        }
        let [wide_out, narrow_out] = laid_out.map(Option::unwrap);
        assert_eq!(wide_out.memory().len(), Panels::bytes_for(n, k).unwrap());
        let dense = Tensor::copy_of(&wide);
        let expected = [run_linear(ctx, &x, &dense, Some(&bias), dtype), run_linear(ctx, &x, &narrow, None, dtype)];
        for ctx in &contexts {
            let mut found =
                [Tensor::zeros(dtype, &[m, n]).unwrap(), Tensor::zeros(dtype, &[m, n.div_ceil(2)]).unwrap()];
            let [first, second] = &mut found;
            let mut layers = [
                Layer { weight: wide, panels: Some(&wide_out), bias: Some(bias.view()), out: first.view_mut() },
                Layer { weight: narrow.view(), panels: Some(&narrow_out), bias: None, out: second.view_mut() },
            ];
            linears(ctx, &x.view(), &mut layers).unwrap();
            for (e, f) in expected.iter().zip(&found) {
                assert_eq!(e.bytes(), f.bytes(), "{isa} {m}×{n}×{k} on {} threads", ctx.pool().threads());
            }
        }
    }
}

/// Sizes of weights that no memory has are refused.
#[test]
fn panels_have_sizes_that_can_be() {
    assert_eq!(Panels::bytes_for(0, 5), None);
    assert_eq!(Panels::bytes_for(5, 0), None);
    assert_eq!(Panels::bytes_for(17, 9), Some(2 * 8 * 64));
    for (n, k) in [(usize::MAX, 1), (1, usize::MAX), (1 << 33, 1 << 33)] {
        assert_eq!(Panels::bytes_for(n, k), None);
    }
}

/// One module for each instruction set, with every check.
macro_rules! every_variant {
    ($($module:ident: $isa:expr;)*) => { $(mod $module {
        use super::*;
        #[test]
        fn linear_matches_the_scalar_kernel() {
            if $isa.is_supported_here() {
                linear_matches_scalar($isa);
            }
        }
        #[test]
        fn mm_matches_the_scalar_kernel() {
            if $isa.is_supported_here() {
                mm_matches_scalar($isa);
            }
        }
        #[test]
        fn rows_are_bitwise_independent() {
            if $isa.is_supported_here() {
                rows_do_not_depend_on_their_company($isa);
            }
        }
        #[test]
        fn panels_change_no_bit() {
            if $isa.is_supported_here() {
                panels_give_the_same_bits($isa);
            }
        }
    })* };
}
every_variant! {
    scalar: Isa::Scalar;
    avx2: Isa::Avx2;
    avx512: Isa::Avx512;
    avx512bf16: Isa::Avx512Bf16;
    neon: Isa::Neon;
}

#[test]
fn the_instruction_sets_of_this_machine_are_tested() {
    // The modules above skip what is not here; the best one is never the scalar one on the machines Pteron is built for.
    let best = Context::new(1).isa();
    assert!(best.is_supported_here());
    assert_eq!(best == Isa::Scalar, !Isa::ALL[1..].iter().any(|i| i.is_supported_here()));
    for isa in Isa::ALL.into_iter().filter(|i| !i.is_supported_here()) {
        assert!(Context::with_isa(1, isa).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn linear_of_any_shape_is_the_definition(
        lead in prop::collection::vec(0usize..5, 0..3), m in 1usize..9, n in 0usize..40, k in 0usize..90, seed in any::<u64>(), mix in 0usize..5,
    ) {
        let (dx, dw, dy) = MIXES[mix];
        let mut sizes = lead;
        sizes.push(m);
        sizes.push(k);
        let rows = sizes[..sizes.len() - 1].iter().product();
        let (x, w, b) = (noise(seed, dx, &sizes), noise(seed ^ 1, dw, &[n, k]), noise(seed ^ 2, dx, &[n]));
        let y = run_linear(&Context::new(2), &x, &w, Some(&b), dy);
        let transposed = ([k, n], [1, k]);
        let x = matrix(dx, [rows, k], x.bytes());
        let w = View::new(dw, &transposed.0, &transposed.1, w.bytes()).unwrap();
        let bias = b.view().to_f64_vec();
        let expected: Vec<f64> = reference(&x.view(), &w).iter().enumerate().map(|(i, v)| v + bias[i % n]).collect();
        let t = tolerance(dy);
        let checked = Tolerance { of_max: t.of_max + 1e-6, ..t }.check(&expected, &y.view().to_f64_vec());
        prop_assert!(checked.is_ok(), "{:?}", checked);
    }
}

#[test]
fn doubles_and_integers_keep_their_type() {
    let ctx = Context::new(2);
    for dtype in [DType::F64, DType::I64, DType::I32, DType::I16, DType::I8, DType::U8] {
        let (a, b) = (noise(1, dtype, &[3, 5]), noise(2, dtype, &[5, 4]));
        let y = run_mm(&ctx, &a.view(), &b.view(), dtype);
        if dtype == DType::F64 || dtype == DType::I64 || dtype == DType::I32 {
            Tolerance { rel: 1e-15, abs: 1e-12, ..Tolerance::EXACT }
                .check(&reference(&a.view(), &b.view()), &y.view().to_f64_vec())
                .unwrap();
        }
        let (sizes, strides) = ([4, 5], [1, 4]);
        let w = Tensor::copy_of(&View::new(dtype, &sizes, &strides, b.bytes()).unwrap());
        assert_eq!(run_linear(&ctx, &a, &w, None, dtype).bytes(), y.bytes());
    }
    let wraps = run_mm(
        &ctx,
        &Tensor::of(&[1, 1], &[i32::MAX]).unwrap().view(),
        &Tensor::of(&[1, 1], &[2i32]).unwrap().view(),
        DType::I32,
    );
    assert_eq!(wraps.view().to_f64_vec(), [-2.0]);
}

fn blend<T: Element>(c: &[T], sizes: &[usize], beta: Scalar, alpha: Scalar) -> Result<Vec<f64>, String> {
    let cast = |v: [f32; 4]| {
        let mut t = Tensor::zeros(T::DTYPE, &[2, 2]).unwrap();
        cast_bytes(bytemuck::cast_slice(&v), DType::F32, t.bytes_mut(), T::DTYPE, 4).unwrap();
        t
    };
    let (a, b) = (cast([1., 2., 3., 4.]), cast([1., 0., 1., 2.]));
    let c = Tensor::of(sizes, c).unwrap();
    let mut y = Tensor::zeros(T::DTYPE, &[2, 2]).unwrap();
    addmm(&Context::new(2), &c.view(), &a.view(), &b.view(), beta, alpha, &mut y.view_mut())
        .map_err(|e| e.to_string())?;
    Ok(y.view().to_f64_vec())
}

#[test]
fn addmm_blends_and_broadcasts() {
    // a·b = [3 4; 7 8]
    let (one, two, zero) = (Scalar::Int(1), Scalar::Int(2), Scalar::Int(0));
    assert_eq!(blend(&[10f32, 20.], &[2], one, one).unwrap(), [13., 24., 17., 28.]);
    assert_eq!(blend(&[10f32, 20.], &[2, 1], two, one).unwrap(), [23., 24., 47., 48.]);
    assert_eq!(blend(&[10f32], &[], one, Scalar::Float(0.5)).unwrap(), [11.5, 12., 13.5, 14.]);
    assert_eq!(blend(&[f32::NAN], &[1], zero, two).unwrap(), [6., 8., 14., 16.]);
    assert_eq!(blend(&[1f64, 2., 3., 4.], &[2, 2], Scalar::Float(0.5), one).unwrap(), [3.5, 5., 8.5, 10.]);
    assert_eq!(blend(&[1i64, 2, 3, 4], &[2, 2], two, two).unwrap(), [8., 12., 20., 24.]);
    assert_eq!(blend(&[f16::ONE; 2], &[2], one, one).unwrap(), [4., 5., 8., 9.]);
    assert_eq!(blend(&[bf16::ONE; 2], &[2], one, one).unwrap(), [4., 5., 8., 9.]);
    assert!(blend(&[1f32; 3], &[3], one, one).unwrap_err().contains("does not broadcast"));
}

#[test]
fn batches_are_products_one_by_one() {
    for isa in Isa::ALL.into_iter().filter(|i| i.is_supported_here()) {
        let ctx = Context::with_isa(2, isa).unwrap();
        for (dtype, [count, m, n, k]) in [
            (DType::F32, [3, 5, 7, 33]),
            (DType::BF16, [9, 40, 64, 20]),
            (DType::F16, [2, 1, 70, 9]),
            (DType::I32, [2, 3, 4, 5]),
        ] {
            let (a, b) = (noise(1, dtype, &[count, m, k]), noise(2, dtype, &[count, k, n]));
            let mut y = Tensor::zeros(dtype, &[count, m, n]).unwrap();
            bmm(&ctx, &a.view(), &b.view(), &mut y.view_mut()).unwrap();
            let size = dtype.size().unwrap();
            for i in 0..count {
                let (ai, bi) = (
                    matrix(dtype, [m, k], &a.bytes()[i * m * k * size..]),
                    matrix(dtype, [k, n], &b.bytes()[i * k * n * size..]),
                );
                assert_eq!(
                    run_mm(&ctx, &ai.view(), &bi.view(), dtype).bytes(),
                    &y.bytes()[i * m * n * size..(i + 1) * m * n * size],
                    "{isa}"
                );
            }
            // The second operand as a transposed view, and one matrix for the whole batch.
            let (sizes, strides) = ([count, k, n], [0, 1, k]);
            let shared = View::new(dtype, &sizes, &strides, b.bytes()).unwrap();
            let first = View::new(dtype, &sizes[1..], &strides[1..], b.bytes()).unwrap();
            let (mut each, mut broadcast) = (y.clone(), y.clone());
            bmm(&ctx, &a.view(), &shared, &mut each.view_mut()).unwrap();
            matmul(&ctx, &a.view(), &first, &mut broadcast.view_mut()).unwrap();
            assert_eq!(each.bytes(), broadcast.bytes());
        }
    }
}

#[test]
fn matmul_broadcasts_leading_dimensions() {
    let ctx = Context::new(1);
    let (a, b) = (noise(1, DType::F32, &[2, 1, 3, 4]), noise(2, DType::F32, &[5, 4, 6]));
    let mut y = Tensor::zeros(DType::F32, &[2, 5, 3, 6]).unwrap();
    matmul(&ctx, &a.view(), &b.view(), &mut y.view_mut()).unwrap();
    for i in 0..10 {
        let (ai, bi) = (
            matrix(DType::F32, [3, 4], &a.bytes()[i / 5 * 48..]),
            matrix(DType::F32, [4, 6], &b.bytes()[i % 5 * 96..]),
        );
        assert_eq!(run_mm(&ctx, &ai.view(), &bi.view(), DType::F32).bytes(), &y.bytes()[i * 72..(i + 1) * 72]);
    }
}

#[test]
fn bytes_without_alignment_and_outputs_with_gaps_work() {
    let ctx = Context::new(2);
    let (x, w) = (noise(1, DType::F32, &[3, 40]), noise(2, DType::F32, &[5, 40]));
    let expected = run_linear(&ctx, &x, &w, None, DType::F32);
    let shift = |t: &Tensor| [&[0u8][..], t.bytes()].concat();
    let (xs, ws) = (shift(&x), shift(&w));
    let xv = View::new(DType::F32, &[3, 40], &[40, 1], &xs[1..]).unwrap();
    let wv = View::new(DType::F32, &[5, 40], &[40, 1], &ws[1..]).unwrap();
    // Column-major, with a gap.
    let mut bytes = vec![0u8; 4 * 5 * 4];
    let mut out = pteron_tensor::ViewMut::new(DType::F32, &[3, 5], &[1, 4], &mut bytes).unwrap();
    linear(&ctx, &xv, &wv, None, &mut out).unwrap();
    assert_eq!(Tensor::copy_of(&out.as_view()).bytes(), expected.bytes());
}

#[test]
fn what_does_not_fit_is_refused() {
    let ctx = Context::new(1);
    let t = |d, s: &[usize]| Tensor::zeros(d, s).unwrap();
    let f = DType::F32;
    let run = |x: &Tensor, w: &Tensor, b: Option<&Tensor>, mut y: Tensor| {
        linear(&ctx, &x.view(), &w.view(), b.map(Tensor::view).as_ref(), &mut y.view_mut()).map_err(|e| e.to_string())
    };
    assert!(run(&t(f, &[2, 3]), &t(f, &[4, 3]), None, t(f, &[2, 4])).is_ok());
    for (x, w, b, y, why) in [
        (t(f, &[2, 3]), t(f, &[4, 2]), None, t(f, &[2, 4]), "differ"),
        (t(f, &[2, 3]), t(f, &[4, 3]), None, t(f, &[2, 5]), "output sizes"),
        (t(f, &[]), t(f, &[4, 3]), None, t(f, &[4]), "rank"),
        (t(f, &[2, 3]), t(f, &[4, 3]), Some(t(f, &[3])), t(f, &[2, 4]), "bias"),
        (t(f, &[2, 3]), t(DType::I64, &[4, 3]), None, t(f, &[2, 4]), "no product"),
        (t(DType::F16, &[2, 3]), t(f, &[4, 3]), None, t(f, &[2, 4]), "no product"),
        (t(DType::Bool, &[2, 3]), t(DType::Bool, &[4, 3]), None, t(DType::Bool, &[2, 4]), "no product"),
        (t(f, &[2, 3]), t(f, &[4, 3]), Some(t(DType::I64, &[4])), t(f, &[2, 4]), "bias of"),
    ] {
        let e = run(&x, &w, b.as_ref(), y).unwrap_err();
        assert!(e.contains(why), "{e}");
    }
    let mut y = t(f, &[2, 2]);
    assert!(mm(&ctx, &t(f, &[2, 3]).view(), &t(f, &[2, 2]).view(), &mut y.view_mut()).is_err());
    assert!(mm(&ctx, &t(f, &[2]).view(), &t(f, &[2, 2]).view(), &mut y.view_mut()).is_err());
    assert!(bmm(&ctx, &t(f, &[1, 2, 2]).view(), &t(f, &[2, 2, 2]).view(), &mut t(f, &[2, 2, 2]).view_mut()).is_err());
    assert!(
        matmul(&ctx, &t(f, &[3, 2, 2]).view(), &t(f, &[2, 2, 2]).view(), &mut t(f, &[3, 2, 2]).view_mut()).is_err()
    );
}
