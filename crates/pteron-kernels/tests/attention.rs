//! Attention against a plain definition in f64, rows against batches, threads against one thread.

use pteron_kernels::attention::{SdpaOptions, custom_sdpa, scaled_dot_product_attention, sdpa_with_kv_cache};
use pteron_kernels::quant::{Coded, custom_quantized_sdpa};
use pteron_kernels::simd::Isa;
use pteron_kernels::{Context, KernelError};
use pteron_tensor::{B8, DType, Tensor, Tolerance, View, cast_bytes};

fn noise(seed: u64, dtype: DType, sizes: &[usize]) -> Tensor {
    let n = sizes.iter().product();
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            ((s >> 40) as f32 / (1u64 << 23) as f32 - 1.0) * 2.0
        })
        .collect();
    let mut out = Tensor::zeros(dtype, sizes).unwrap();
    cast_bytes(bytemuck::cast_slice(&values), DType::F32, out.bytes_mut(), dtype, n).unwrap();
    out
}

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F16 => Tolerance::KERNEL_F16,
        DType::BF16 => Tolerance::KERNEL_BF16,
        _ => Tolerance::KERNEL_F32,
    }
}

/// Sizes of one attention: batch, queries, keys, query heads, key heads, width.
#[derive(Clone, Copy, Debug)]
struct Case {
    b: usize,
    s: usize,
    t: usize,
    hq: usize,
    hkv: usize,
    d: usize,
}

/// The definition. `q[b, s, h, d]` and so on; `score(b, h, i, j, dot)` gives the masked score or `None` for a hidden key.
fn reference(
    c: Case,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    score: impl Fn(usize, usize, usize, usize, f64) -> Option<f64>,
) -> Vec<f64> {
    let Case { b, s, t, hq, hkv, d } = c;
    let mut out = vec![0.0; b * s * hq * d];
    for (n, row) in out.chunks_mut(d).enumerate() {
        let (bi, i, h) = (n / hq / s, n / hq % s, n % hq);
        let kh = h / (hq / hkv);
        let key = |j: usize| &k[((bi * t + j) * hkv + kh) * d..][..d];
        let scores: Vec<(usize, f64)> = (0..t)
            .filter_map(|j| {
                let dot = q[n * d..][..d].iter().zip(key(j)).map(|(a, b)| a * b).sum();
                score(bi, h, i, j, dot).map(|x| (j, x))
            })
            .collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(s.1));
        let sum: f64 = scores.iter().map(|s| (s.1 - max).exp()).sum();
        for (e, o) in row.iter_mut().enumerate() {
            *o = scores.iter().map(|&(j, x)| (x - max).exp() * v[((bi * t + j) * hkv + kh) * d + e]).sum::<f64>() / sum;
        }
    }
    out
}

struct Operands {
    q: Tensor,
    k: Tensor,
    v: Tensor,
}

impl Operands {
    fn of(c: Case, dtype: DType) -> Operands {
        Operands {
            q: noise(1, dtype, &[c.b, c.s, c.hq, c.d]),
            k: noise(2, dtype, &[c.b, c.t, c.hkv, c.d]),
            v: noise(3, dtype, &[c.b, c.t, c.hkv, c.d]),
        }
    }

    fn f64s(&self) -> [Vec<f64>; 3] {
        [&self.q, &self.k, &self.v].map(|t| t.view().to_f64_vec())
    }

    fn custom(
        &self,
        ctx: &Context,
        start: usize,
        mask: Option<&Tensor>,
        options: SdpaOptions,
    ) -> Result<Tensor, KernelError> {
        let mut out = Tensor::zeros(self.q.dtype(), self.q.sizes()).unwrap();
        let start = i64::try_from(start).unwrap();
        let (q, k, v) = (self.q.view(), self.k.view(), self.v.view());
        custom_sdpa(ctx, &q, &k, &v, start, mask.map(Tensor::view).as_ref(), options, &mut out.view_mut())?;
        Ok(out)
    }
}

/// `[a, b, c, d]` → `[a, c, b, d]`, copied.
fn swapped(t: &Tensor) -> Tensor {
    let &[a, b, c, d] = t.sizes() else { panic!("rank 4") };
    let (sizes, strides) = ([a, c, b, d], [b * c * d, d, c * d, 1]);
    Tensor::copy_of(&View::new(t.dtype(), &sizes, &strides, t.bytes()).unwrap())
}

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|i| i.is_supported_here())
}

const CASES: [(Case, usize); 10] = [
    (Case { b: 1, s: 1, t: 1, hq: 1, hkv: 1, d: 1 }, 0),
    (Case { b: 1, s: 3, t: 8, hq: 4, hkv: 2, d: 8 }, 5),
    (Case { b: 2, s: 5, t: 9, hq: 6, hkv: 2, d: 20 }, 3),
    (Case { b: 1, s: 1, t: 700, hq: 9, hkv: 3, d: 64 }, 650),
    (Case { b: 2, s: 70, t: 70, hq: 3, hkv: 3, d: 33 }, 0),
    (Case { b: 1, s: 130, t: 400, hq: 4, hkv: 1, d: 16 }, 260),
    (Case { b: 1, s: 129, t: 130, hq: 2, hkv: 2, d: 40 }, 0),
    (Case { b: 1, s: 40, t: 300, hq: 64, hkv: 1, d: 4 }, 200),
    (Case { b: 1, s: 2, t: 128, hq: 2, hkv: 1, d: 96 }, 126),
    (Case { b: 1, s: 6, t: 257, hq: 2, hkv: 1, d: 7 }, 251),
];

#[test]
fn custom_sdpa_is_the_definition() {
    for isa in isas() {
        let ctx = Context::with_isa(2, isa).unwrap();
        for (case, start) in CASES {
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let x = Operands::of(case, dtype);
                let [q, k, v] = x.f64s();
                let scale = 1.0 / (case.d as f64).sqrt();
                let seen = start + case.s;
                let mask = noise(9, DType::F32, &[case.s, case.t]);
                let m = mask.view().to_f64_vec();
                let window = 1 + case.t / 3;
                type Rule<'a> =
                    (&'a str, Option<&'a Tensor>, SdpaOptions, &'a dyn Fn(usize, usize, f64) -> Option<f64>);
                let default = SdpaOptions::default();
                let rules: [Rule<'_>; 5] = [
                    ("all", None, default, &|_, j, x| (j < seen).then_some(x * scale)),
                    ("causal", None, SdpaOptions { is_causal: true, ..default }, &|i, j, x| {
                        (j <= start + i).then_some(x * scale)
                    }),
                    ("scaled", None, SdpaOptions { is_causal: true, scale: Some(0.3), ..default }, &|i, j, x| {
                        (j <= start + i).then_some(x * 0.3)
                    }),
                    ("masked", Some(&mask), default, &|i, j, x| Some(x * scale + m[i * case.t + j])),
                    (
                        "window",
                        None,
                        SdpaOptions { is_causal: true, sliding_window: Some(window), ..default },
                        &|i, j, x| (j <= start + i && j + window > start + i).then_some(x * scale),
                    ),
                ];
                for (name, mask, options, rule) in rules {
                    let actual = x.custom(&ctx, start, mask, options).unwrap();
                    let expected = reference(case, &q, &k, &v, |_, _, i, j, x| rule(i, j, x));
                    let t = tolerance(dtype);
                    Tolerance { of_max: t.of_max.max(3e-6), ..t }
                        .check(&expected, &actual.view().to_f64_vec())
                        .unwrap_or_else(|e| panic!("{isa} {dtype} {name} {case:?} from {start}: {e}"));
                    // The other layout holds the same numbers.
                    let other = Operands { q: swapped(&x.q), k: swapped(&x.k), v: swapped(&x.v) };
                    let there =
                        other.custom(&ctx, start, mask, SdpaOptions { is_seq_at_dim_2: true, ..options }).unwrap();
                    assert_eq!(swapped(&there).bytes(), actual.bytes(), "{isa} {dtype} {name} {case:?}");
                }
            }
        }
    }
}

/// One call, chunks, single tokens; 1, 2 and 3 threads: the same bits.
#[test]
fn chunks_and_threads_do_not_change_a_bit() {
    for isa in isas() {
        let contexts: Vec<Context> = (1..=3).map(|t| Context::with_isa(t, isa).unwrap()).collect();
        let narrow = Case { b: 2, s: 300, t: 310, hq: 6, hkv: 2, d: 24 };
        let wide = Case { b: 1, d: 64, ..narrow };
        let cases = [(narrow, DType::F32), (wide, DType::F32), (wide, DType::F16)];
        for ((case, dtype), sliding_window) in cases.into_iter().flat_map(|c| [None, Some(150)].map(|w| (c, w))) {
            let x = Operands::of(case, dtype);
            let bytes = dtype.bits() / 8;
            let options = SdpaOptions { is_causal: true, sliding_window, ..Default::default() };
            let all = x.custom(&contexts[0], 0, None, options).unwrap();
            for ctx in &contexts {
                assert_eq!(
                    x.custom(ctx, 0, None, options).unwrap().bytes(),
                    all.bytes(),
                    "{isa} {dtype} {sliding_window:?}"
                );
                for chunk in [1, 7, 32, 128] {
                    for first in (0..case.s).step_by(if chunk == 1 { 37 } else { chunk }) {
                        let n = chunk.min(case.s - first);
                        let row = case.hq * case.d;
                        let (sizes, strides) = ([case.b, n, case.hq, case.d], [case.s * row, row, case.d, 1]);
                        let q = View::new(dtype, &sizes, &strides, &x.q.bytes()[first * row * bytes..]).unwrap();
                        let part = Operands { q: Tensor::copy_of(&q), k: x.k.clone(), v: x.v.clone() };
                        let got = part.custom(ctx, first, None, options).unwrap();
                        let want = View::new(dtype, &sizes, &strides, &all.bytes()[first * row * bytes..]).unwrap();
                        assert_eq!(got.bytes(), Tensor::copy_of(&want).bytes(), "{isa} {dtype} {chunk} from {first}");
                    }
                }
            }
        }
    }
}

#[test]
fn keys_that_nobody_sees_are_never_read() {
    for isa in isas() {
        let ctx = Context::with_isa(2, isa).unwrap();
        let case = Case { b: 1, s: 4, t: 300, hq: 2, hkv: 1, d: 16 };
        let mut x = Operands::of(case, DType::F32);
        let clean = x.custom(&ctx, 196, None, SdpaOptions { is_causal: true, ..Default::default() }).unwrap();
        let width = case.d * 4;
        for t in [&mut x.k, &mut x.v] {
            t.bytes_mut()[200 * width..].fill(0xff);
        }
        let poisoned = x.custom(&ctx, 196, None, SdpaOptions { is_causal: true, ..Default::default() }).unwrap();
        assert_eq!(clean.bytes(), poisoned.bytes(), "{isa}");
    }
}

#[test]
fn a_query_without_keys_is_nan_in_the_custom_operator_and_zero_in_atens() {
    for isa in isas() {
        let ctx = Context::with_isa(1, isa).unwrap();
        let case = Case { b: 1, s: 2, t: 140, hq: 2, hkv: 1, d: 8 };
        let x = Operands::of(case, DType::F32);
        let mut mask = Tensor::zeros(DType::F32, &[2, 140]).unwrap();
        for b in mask.bytes_mut()[..140 * 4].chunks_mut(4) {
            b.copy_from_slice(&f32::NEG_INFINITY.to_le_bytes());
        }
        let got = x.custom(&ctx, 0, Some(&mask), SdpaOptions::default()).unwrap().view().to_f64_vec();
        assert!(got[..16].iter().all(|x| x.is_nan()), "{isa}");
        assert!(got[16..].iter().all(|x| x.is_finite()), "{isa}");

        let (q, k, v) = (swapped(&x.q), swapped(&x.k), swapped(&x.v));
        let mut out = Tensor::zeros(DType::F32, q.sizes()).unwrap();
        let run = |m: &Tensor, out: &mut Tensor| {
            let (q, k, v, m) = (q.view(), k.view(), v.view(), m.view());
            scaled_dot_product_attention(&ctx, &q, &k, &v, Some(&m), false, None, true, &mut out.view_mut()).unwrap();
        };
        run(&mask, &mut out);
        let added = swapped(&out).view().to_f64_vec();
        assert!(added[..16].iter().all(|&x| x == 0.0), "{isa}");
        assert_eq!(added[16..], got[16..], "{isa}");
        // The same rule as a bool mask, and a NaN in a float one is not swallowed.
        let keep: Vec<B8> = (0..280).map(|i| B8::from(i >= 140)).collect();
        run(&Tensor::of(&[2, 140], &keep).unwrap(), &mut out);
        assert_eq!(swapped(&out).view().to_f64_vec(), added, "{isa}");
        mask.bytes_mut()[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        run(&mask, &mut out);
        assert!(swapped(&out).view().to_f64_vec()[..16].iter().all(|x| x.is_nan()), "{isa}");
    }
}

#[test]
fn atens_operator_is_the_definition() {
    for isa in isas() {
        let ctx = Context::with_isa(2, isa).unwrap();
        for (case, _) in CASES {
            let x = Operands::of(case, DType::F32);
            let [qf, kf, vf] = x.f64s();
            let (q, k, v) = (swapped(&x.q), swapped(&x.k), swapped(&x.v));
            let scale = 1.0 / (case.d as f64).sqrt();
            let Case { b, s, t, hq, .. } = case;
            let masks = [
                None,
                Some(noise(4, DType::F32, &[b, hq, s, t])),
                Some(noise(4, DType::F32, &[s, t])),
                Some(noise(4, DType::F32, &[b, 1, 1, t])),
                Some(noise(4, DType::F32, &[hq, s, 1])),
            ];
            for (mask, is_causal) in masks.iter().map(|m| (m.as_ref(), false)).chain([(None, true)]) {
                let mut out = Tensor::zeros(DType::F32, q.sizes()).unwrap();
                let view = mask.map(Tensor::view);
                scaled_dot_product_attention(
                    &ctx,
                    &q.view(),
                    &k.view(),
                    &v.view(),
                    view.as_ref(),
                    is_causal,
                    None,
                    true,
                    &mut out.view_mut(),
                )
                .unwrap();
                let m = mask.map(|m| (m.view().to_f64_vec(), m.sizes().to_vec()));
                let expected = reference(case, &qf, &kf, &vf, |bi, h, i, j, x| {
                    if is_causal && j > i {
                        return None;
                    }
                    let add = m.as_ref().map_or(0.0, |(data, sizes)| {
                        let index = [bi, h, i, j];
                        let at = sizes
                            .iter()
                            .zip(&index[4 - sizes.len()..])
                            .fold(0, |at, (&n, &i)| at * n + if n == 1 { 0 } else { i });
                        data[at]
                    });
                    Some(x * scale + add)
                });
                let actual = swapped(&out).view().to_f64_vec();
                Tolerance { of_max: 3e-6, ..Tolerance::KERNEL_F32 }
                    .check(&expected, &actual)
                    .unwrap_or_else(|e| panic!("{isa} {case:?} mask {:?}: {e}", mask.map(Tensor::sizes)));
            }
        }
    }
}

#[test]
fn ranks_below_four_and_another_value_width_work() {
    let ctx = Context::new(2);
    let (q, k, v) =
        (noise(1, DType::F32, &[3, 5, 8]), noise(2, DType::F32, &[3, 7, 8]), noise(3, DType::F32, &[3, 7, 2]));
    let mut three = Tensor::zeros(DType::F32, &[3, 5, 2]).unwrap();
    scaled_dot_product_attention(
        &ctx,
        &q.view(),
        &k.view(),
        &v.view(),
        None,
        false,
        None,
        false,
        &mut three.view_mut(),
    )
    .unwrap();
    for h in 0..3 {
        let (qs, ks, vs) = ([5, 8], [7, 8], [7, 2]);
        let qh = View::new(DType::F32, &qs, &[8, 1], &q.bytes()[h * 160..]).unwrap();
        let kh = View::new(DType::F32, &ks, &[8, 1], &k.bytes()[h * 224..]).unwrap();
        let vh = View::new(DType::F32, &vs, &[2, 1], &v.bytes()[h * 56..]).unwrap();
        let mut two = Tensor::zeros(DType::F32, &[5, 2]).unwrap();
        scaled_dot_product_attention(&ctx, &qh, &kh, &vh, None, false, None, false, &mut two.view_mut()).unwrap();
        assert_eq!(two.bytes(), &three.bytes()[h * 40..(h + 1) * 40]);
    }
}

#[test]
fn the_cache_operator_is_update_then_attention() {
    let ctx = Context::new(2);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for seq2 in [false, true] {
            let options = SdpaOptions { is_causal: true, is_seq_at_dim_2: seq2, ..Default::default() };
            let lay = |t: Tensor| if seq2 { swapped(&t) } else { t };
            let (mut kc, mut vc) = (lay(noise(5, dtype, &[2, 16, 2, 8])), lay(noise(6, dtype, &[2, 16, 2, 8])));
            let (k, v) = (noise(7, dtype, &[2, 12, 2, 8]), noise(8, dtype, &[2, 12, 2, 8]));
            let q = noise(9, dtype, &[2, 12, 4, 8]);
            let mut whole = Vec::new();
            for (first, n) in [(0usize, 5usize), (5, 3), (8, 1), (9, 3)] {
                let part = |t: &Tensor| {
                    let &[b, s, h, d] = t.sizes() else { panic!("rank 4") };
                    let (sizes, strides) = ([b, n, h, d], [s * h * d, h * d, d, 1]);
                    let at = first * h * d * dtype.size().unwrap();
                    lay(Tensor::copy_of(&View::new(dtype, &sizes, &strides, &t.bytes()[at..]).unwrap()))
                };
                let (qp, kp, vp) = (part(&q), part(&k), part(&v));
                let mut out = Tensor::zeros(dtype, qp.sizes()).unwrap();
                let (start, len) = (first as i64, n as i64);
                sdpa_with_kv_cache(
                    &ctx,
                    &qp.view(),
                    &kp.view(),
                    &vp.view(),
                    &mut kc.view_mut(),
                    &mut vc.view_mut(),
                    start,
                    len,
                    None,
                    options,
                    &mut out.view_mut(),
                )
                .unwrap();
                let out = if seq2 { swapped(&out) } else { out };
                whole.push((first, n, out));
            }
            let plain = Operands { q, k, v };
            let all = plain.custom(&ctx, 0, None, SdpaOptions { is_seq_at_dim_2: false, ..options }).unwrap();
            for (first, n, out) in whole {
                let (sizes, strides) = ([2, n, 4, 8], [12 * 32, 32, 8, 1]);
                let want =
                    View::new(dtype, &sizes, &strides, &all.bytes()[first * 32 * dtype.size().unwrap()..]).unwrap();
                assert_eq!(out.bytes(), Tensor::copy_of(&want).bytes(), "{dtype} {first}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let ctx = Context::new(1);
    let case = Case { b: 1, s: 2, t: 8, hq: 4, hkv: 2, d: 8 };
    let x = Operands::of(case, DType::F32);
    let default = SdpaOptions::default();
    let refused = |x: &Operands, start: usize, mask: Option<&Tensor>, options, why: &str| {
        let e = x.custom(&ctx, start, mask, options).unwrap_err().to_string();
        assert!(e.contains(why), "{e}");
    };
    let mask = noise(1, DType::F32, &[2, 8]);
    refused(&x, 7, None, default, "start_pos 7");
    refused(&x, 0, Some(&mask), SdpaOptions { is_causal: true, ..default }, "excludes");
    refused(&x, 0, Some(&mask), SdpaOptions { sliding_window: Some(1), ..default }, "excludes");
    refused(&x, 0, None, SdpaOptions { sliding_window: Some(0), ..default }, "window of 0");
    refused(&x, 0, Some(&noise(1, DType::F32, &[2, 7])), default, "mask of sizes");
    refused(&x, 0, Some(&Tensor::of(&[2, 8], &[B8(1); 16]).unwrap()), default, "float");
    let with = |c: Case| Operands::of(c, DType::F32);
    refused(&with(Case { hq: 3, ..case }), 0, None, default, "no multiple");
    refused(&Operands { v: noise(1, DType::F32, &[1, 7, 2, 8]), ..with(case) }, 0, None, default, "do not fit");
    refused(&Operands { v: noise(1, DType::F16, &[1, 8, 2, 8]), ..with(case) }, 0, None, default, "one type");
    refused(&Operands::of(case, DType::F64), 0, None, default, "no kernel for f64");
    let mut out = Tensor::zeros(DType::F32, x.q.sizes()).unwrap();
    let (q, k, v) = (x.q.view(), x.k.view(), x.v.view());
    assert!(custom_sdpa(&ctx, &q, &k, &v, -1, None, default, &mut out.view_mut()).is_err());

    let (mut kc, mut vc) = (noise(1, DType::F32, &[1, 8, 2, 8]), noise(2, DType::F32, &[1, 8, 2, 8]));
    let before = kc.bytes().to_vec();
    let new = noise(3, DType::F32, &[1, 2, 2, 8]);
    let mut cached = |start, len| {
        let (kc, vc) = (&mut kc.view_mut(), &mut vc.view_mut());
        sdpa_with_kv_cache(&ctx, &q, &new.view(), &new.view(), kc, vc, start, len, None, default, &mut out.view_mut())
            .map_err(|e| e.to_string())
    };
    assert!(cached(7, 2).unwrap_err().contains("the cache has 8"));
    assert!(cached(-1, 2).is_err() && cached(i64::MAX, 2).is_err());
    assert!(cached(0, 3).unwrap_err().contains("seq_len"));
    assert_eq!(kc.bytes(), before);
}

#[test]
fn empty_operands_give_empty_results() {
    let ctx = Context::new(2);
    for case in [Case { b: 0, s: 2, t: 8, hq: 4, hkv: 2, d: 8 }, Case { b: 1, s: 0, t: 8, hq: 4, hkv: 2, d: 8 }] {
        let x = Operands::of(case, DType::F32);
        assert!(x.custom(&ctx, 0, None, SdpaOptions::default()).unwrap().bytes().is_empty());
    }
    // No key at all.
    let (q, k) = (noise(1, DType::F32, &[1, 2, 3, 4]), Tensor::zeros(DType::F32, &[1, 2, 0, 4]).unwrap());
    let mut out = noise(2, DType::F32, &[1, 2, 3, 4]);
    scaled_dot_product_attention(&ctx, &q.view(), &k.view(), &k.view(), None, false, None, false, &mut out.view_mut())
        .unwrap();
    assert!(out.view().to_f64_vec().iter().all(|&x| x == 0.0));
}

/// i8 codes with a scale and a zero point for each row, and the numbers that they are.
fn coded(seed: u64, sizes: [usize; 4]) -> ([Tensor; 3], Tensor) {
    let codes = noise(seed, DType::F32, &sizes).view().to_f64_vec();
    let codes: Vec<i8> = codes.iter().map(|x| (x * 60.0) as i8).collect();
    let params = [sizes[0], sizes[1], sizes[2], 1];
    let scales: Vec<f32> = noise(seed + 1, DType::F32, &params)
        .view()
        .to_f64_vec()
        .iter()
        .map(|x| (0.01 + x.abs() * 0.01) as f32)
        .collect();
    let zeros: Vec<i8> =
        noise(seed + 2, DType::F32, &params).view().to_f64_vec().iter().map(|x| (x * 9.0) as i8).collect();
    let row = |i: usize| i / sizes[3];
    let numbers: Vec<f32> = codes
        .iter()
        .enumerate()
        .map(|(i, &c)| (i32::from(c) - i32::from(zeros[row(i)])) as f32 * scales[row(i)])
        .collect();
    let parts = [
        Tensor::of(&sizes, &codes).unwrap(),
        Tensor::of(&params, &scales).unwrap(),
        Tensor::of(&params, &zeros).unwrap(),
    ];
    (parts, Tensor::of(&sizes, &numbers).unwrap())
}

fn part([codes, scales, zero_points]: &[Tensor; 3]) -> Coded<'_> {
    Coded { codes: codes.view(), scales: scales.view(), zero_points: zero_points.view() }
}

#[test]
fn codes_are_attended_to_as_the_numbers_that_they_are() {
    for (s, t, start) in [(1, 700, 650), (1, 20, 3), (37, 300, 200)] {
        for seq2 in [false, true] {
            let (hq, hkv, d) = (6, 2, 24);
            let sizes = |len: usize, heads: usize| if seq2 { [1, heads, len, d] } else { [1, len, heads, d] };
            let (q, q_numbers) = coded(1, sizes(s, hq));
            let (k, k_numbers) = coded(11, sizes(t, hkv));
            let (v, v_numbers) = coded(21, sizes(t, hkv));
            let options = SdpaOptions { is_causal: true, is_seq_at_dim_2: seq2, ..SdpaOptions::default() };
            let mut results = Vec::new();
            for threads in [1, 3] {
                let ctx = Context::new(threads);
                let mut out = Tensor::zeros(DType::F32, &sizes(s, hq)).unwrap();
                let (q, k, v) = (part(&q), part(&k), part(&v));
                custom_quantized_sdpa(&ctx, [&q, &k, &v], start, None, options, &mut out.view_mut()).unwrap();
                results.push(out.bytes().to_vec());
                let mut plain = Tensor::zeros(DType::F32, &sizes(s, hq)).unwrap();
                let [q, k, v] = [&q_numbers, &k_numbers, &v_numbers].map(Tensor::view);
                custom_sdpa(&ctx, &q, &k, &v, start, None, options, &mut plain.view_mut()).unwrap();
                results.push(plain.bytes().to_vec());
            }
            assert!(results.iter().all(|r| *r == results[0]), "{s} {t} {seq2}");
            assert!(results[0].iter().any(|&b| b != 0));
        }
    }
}

#[test]
fn keys_that_a_mask_hides_are_passed_over() {
    // A causal mask over a long cache: what it hides is not even a number.
    let (s, t, start) = (5, 600, 140);
    for (threads, dtype) in [(1, DType::F32), (3, DType::F32), (3, DType::BF16)] {
        let ctx = Context::new(threads);
        let q = noise(1, dtype, &[1, s, 4, 16]);
        let (mut k, mut v) = (noise(2, dtype, &[1, t, 2, 16]), noise(3, dtype, &[1, t, 2, 16]));
        let mut mask = Tensor::zeros(DType::F32, &[s, t]).unwrap();
        for i in 0..s * t {
            if i % t > start + i / t {
                mask.view_mut().set_scalar(i, pteron_tensor::Scalar::Float(f64::NEG_INFINITY)).unwrap();
            }
        }
        let mut causal = Tensor::zeros(dtype, &[1, s, 4, 16]).unwrap();
        let options = SdpaOptions { is_causal: true, ..SdpaOptions::default() };
        let views = (q.view(), k.view(), v.view());
        custom_sdpa(&ctx, &views.0, &views.1, &views.2, start as i64, None, options, &mut causal.view_mut()).unwrap();
        // Blocks that are wholly hidden.
        for i in 256 * 2 * 16..t * 2 * 16 {
            for x in [&mut k, &mut v] {
                x.view_mut().set_scalar(i, pteron_tensor::Scalar::Float(f64::NAN)).unwrap();
            }
        }
        let mut masked = Tensor::zeros(dtype, &[1, s, 4, 16]).unwrap();
        let views = (q.view(), k.view(), v.view());
        let none = SdpaOptions::default();
        custom_sdpa(&ctx, &views.0, &views.1, &views.2, start as i64, Some(&mask.view()), none, &mut masked.view_mut())
            .unwrap();
        assert_eq!(causal.bytes(), masked.bytes(), "{threads} {dtype}");
    }
}
