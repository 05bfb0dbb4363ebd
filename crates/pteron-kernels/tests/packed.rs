//! Products with packed codes: every variant gives the scalar kernel's bits, which are those of exact integers and a fixed
//! order of f32; a row alone is that row in a batch; threads do not matter.

use proptest::prelude::*;
use pteron_kernels::Context;
use pteron_kernels::nn::Lines;
use pteron_kernels::packed::{
    Activations, Choose, CodeBits, CodeMatrix, DynamicQuant, Packed, Product, Rows, ScaleBits, Unpackable, multiply,
};
use pteron_kernels::quant::QuantSemantics;
use pteron_kernels::quant::quantize::Form;
use pteron_kernels::simd::Isa;
use pteron_tensor::{DType, Tensor, View};

fn isas() -> Vec<Isa> {
    Isa::ALL.into_iter().filter(|i| i.is_supported_here()).collect()
}

/// A sequence that is the same on every machine.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    fn float(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 32768.0 - 1.0
    }
}

/// A matrix of codes and its parameters.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    k: usize,
    group: usize,
    codes: Vec<i8>,
    scales: Vec<f32>,
    zero_points: Option<Vec<i32>>,
}

impl Case {
    fn new(n: usize, k: usize, group: usize, bits: CodeBits, half: bool, seed: u64) -> Case {
        let mut noise = Noise(seed | 1);
        let (low, span) = if bits == CodeBits::Four { (-8, 16) } else { (-128, 256) };
        let codes = (0..n * k).map(|_| (low + (noise.next() % span) as i64) as i8).collect();
        let mask = if half { 0xffff_0000 } else { u32::MAX };
        let scales =
            (0..n * (k / group)).map(|_| f32::from_bits((noise.float().abs() * 0.1 + 1e-3).to_bits() & mask)).collect();
        Case { n, k, group, codes, scales, zero_points: None }
    }

    fn matrix<'a>(&'a self, codes: View<'a>) -> CodeMatrix<'a> {
        CodeMatrix { codes, scales: &self.scales, zero_points: self.zero_points.as_deref(), group: self.group }
    }

    fn pack(&self, ctx: &Context) -> Packed {
        let t = Tensor::of(&[self.n, self.k], &self.codes).unwrap();
        Packed::new(ctx, &self.matrix(t.view())).unwrap()
    }

    fn weight(&self, n: usize, k: usize) -> i64 {
        let g = k / self.group;
        let zero = self.zero_points.as_ref().map_or(0, |z| z[n * (self.k / self.group) + g]);
        i64::from(self.codes[n * self.k + k]) - i64::from(zero)
    }
}

fn floats(m: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut noise = Noise(seed | 1);
    (0..m * k).map(|_| noise.float() * 3.0 + 0.3).collect()
}

const PER_TOKEN: DynamicQuant =
    DynamicQuant { choose: Choose::PerToken(QuantSemantics::ExecuTorch), form: Form::ExecuTorch, range: (-128, 127) };

fn product(ctx: &Context, w: &Packed, x: &Activations<'_>, m: usize, bias: Option<&[f32]>, dtype: DType) -> Vec<f32> {
    let mut out = Tensor::zeros(dtype, &[m, w.rows()]).unwrap();
    multiply(ctx, x, &mut [Product { weight: w, bias, out: out.view_mut() }]).unwrap();
    out.view().to_f64_vec().into_iter().map(|v| v as f32).collect()
}

fn by_codes(ctx: &Context, w: &Packed, x: &[f32], m: usize) -> Vec<f32> {
    let mut rows = Rows::default();
    rows.quantize(ctx, &Lines::floats(x, [m, w.columns()]).unwrap(), &PER_TOKEN).unwrap();
    product(ctx, w, &Activations::Codes(&rows), m, None, DType::F32)
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|x| x.to_bits()).collect()
}

/// Integer sums in 64 bits, then the operations that the documentation of the layout lists.
fn by_hand(c: &Case, x: &[f32], m: usize) -> Vec<f32> {
    let mut out = Vec::new();
    for row in x.chunks(c.k).take(m) {
        let (lo, hi) = row.iter().fold((f32::MAX, f32::MIN), |(l, h), &v| (l.min(v), h.max(v)));
        let q = pteron_kernels::quant::qparams::executorch(lo, hi, -128, 127).unwrap();
        let inv = 1.0 / q.scale as f32;
        let code = |v: f32| (((v * inv).round_ties_even() + q.zero_point as f32) as i64).clamp(-128, 127);
        for n in 0..c.n {
            let groups = c.k / c.group;
            let four = (0..c.n * c.k).all(|i| (-8..8).contains(&c.weight(i / c.k, i % c.k)));
            let grouped = four && groups > 1;
            let zero = if grouped { -128 } else { q.zero_point };
            let scale = |g: usize| c.scales[n * groups + g];
            let mut total = 0f32;
            if grouped {
                for first in (0..c.k).step_by(16) {
                    let sum: i64 = (first..first + 16).map(|k| c.weight(n, k)).sum();
                    total -= sum as f32 * scale(first / c.group);
                }
                total *= (q.zero_point + 128) as f32;
            }
            for g in 0..groups {
                let sum: i64 = (g * c.group..(g + 1) * c.group).map(|k| (code(row[k]) - zero) * c.weight(n, k)).sum();
                total = match groups {
                    1 => sum as f32 * q.scale as f32 * scale(g),
                    _ => (sum as f32).mul_add(scale(g), total),
                };
            }
            out.push(if groups == 1 { total } else { total * q.scale as f32 });
        }
    }
    out
}

fn check(c: &Case, m: usize, seed: u64) {
    let x = floats(m, c.k, seed);
    let scalar = Context::with_isa(1, Isa::Scalar).unwrap();
    let packed = c.pack(&scalar);
    let codes = by_codes(&scalar, &packed, &x, m);
    assert_eq!(bits(&codes), bits(&by_hand(c, &x, m)), "the scalar kernel");
    let plain = product(&scalar, &packed, &Activations::Floats(&x, m), m, None, DType::F32);
    for isa in isas() {
        for threads in [1, 3] {
            let ctx = Context::with_isa(threads, isa).unwrap();
            let w = c.pack(&ctx);
            assert_eq!(bits(&by_codes(&ctx, &w, &x, m)), bits(&codes), "{isa}, {threads} threads, codes");
            let got = product(&ctx, &w, &Activations::Floats(&x, m), m, None, DType::F32);
            assert_eq!(bits(&got), bits(&plain), "{isa}, {threads} threads, floats");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_variant_gives_the_scalar_bits(
        n in 1usize..80, groups in 1usize..5, sixteens in 1usize..9, m in 0usize..15, four: bool, half: bool, seed: u64,
    ) {
        let bits = if four { CodeBits::Four } else { CodeBits::Eight };
        let group = sixteens * 16;
        check(&Case::new(n, groups * group, group, bits, half, seed), m, seed ^ 7);
    }

    #[test]
    fn whole_rows_of_any_length(n in 1usize..40, k in 1usize..400, m in 0usize..9, four: bool, seed: u64) {
        let bits = if four { CodeBits::Four } else { CodeBits::Eight };
        check(&Case::new(n, k, k, bits, false, seed), m, seed ^ 9);
    }
}

#[test]
fn awkward_shapes() {
    for bits in [CodeBits::Four, CodeBits::Eight] {
        for (n, k, group, m) in [
            (1, 1, 1, 1),
            (341, 341, 341, 1),
            (16, 341, 341, 7),
            (17, 64, 32, 0),
            (576, 1536, 128, 2),
            (33, 576, 32, 25),
        ] {
            check(&Case::new(n, k, group, bits, true, 5), m, 11);
        }
    }
}

#[test]
fn a_row_alone_is_that_row_in_a_batch() {
    let ctx = Context::new(2);
    for (c, m) in [
        (Case::new(100, 576, 32, CodeBits::Four, true, 3), 19),
        (Case::new(100, 577, 577, CodeBits::Eight, false, 3), 300),
    ] {
        let (w, x) = (c.pack(&ctx), floats(m, c.k, 21));
        let (codes, plain) =
            (by_codes(&ctx, &w, &x, m), product(&ctx, &w, &Activations::Floats(&x, m), m, None, DType::F32));
        for r in 0..m {
            let row = &x[r * c.k..(r + 1) * c.k];
            assert_eq!(bits(&by_codes(&ctx, &w, row, 1)), bits(&codes[r * c.n..(r + 1) * c.n]));
            let alone = product(&ctx, &w, &Activations::Floats(row, 1), 1, None, DType::F32);
            assert_eq!(bits(&alone), bits(&plain[r * c.n..(r + 1) * c.n]));
        }
    }
}

#[test]
fn products_of_the_same_rows_together_are_those_alone() {
    let ctx = Context::new(2);
    let cases: Vec<Case> = [(576, CodeBits::Four), (192, CodeBits::Eight), (40, CodeBits::Four)]
        .into_iter()
        .map(|(n, bits)| Case::new(n, 576, 64, bits, false, n as u64))
        .collect();
    let packed: Vec<Packed> = cases.iter().map(|c| c.pack(&ctx)).collect();
    for m in [1, 9] {
        let x = floats(m, 576, 4);
        let mut rows = Rows::default();
        rows.quantize(&ctx, &Lines::floats(&x, [m, 576]).unwrap(), &PER_TOKEN).unwrap();
        let bias: Vec<f32> = (0..576).map(|i| i as f32).collect();
        let mut outs: Vec<Tensor> = cases.iter().map(|c| Tensor::zeros(DType::F32, &[m, c.n]).unwrap()).collect();
        let mut products: Vec<Product<'_, '_>> = outs
            .iter_mut()
            .zip(&packed)
            .map(|(o, w)| Product { weight: w, bias: Some(&bias[..w.rows()]), out: o.view_mut() })
            .collect();
        multiply(&ctx, &Activations::Codes(&rows), &mut products).unwrap();
        for (o, w) in outs.iter().zip(&packed) {
            let alone = product(&ctx, w, &Activations::Codes(&rows), m, Some(&bias[..w.rows()]), DType::F32);
            assert_eq!(o.view().to_f64_vec(), alone.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
        }
    }
}

#[test]
fn results_are_rounded_once() {
    let ctx = Context::new(1);
    let c = Case::new(20, 64, 32, CodeBits::Four, true, 8);
    let (w, x) = (c.pack(&ctx), floats(3, 64, 2));
    let wide = product(&ctx, &w, &Activations::Floats(&x, 3), 3, None, DType::F32);
    let half = product(&ctx, &w, &Activations::Floats(&x, 3), 3, None, DType::F16);
    let brain = product(&ctx, &w, &Activations::Floats(&x, 3), 3, None, DType::BF16);
    for ((w, h), b) in wide.iter().zip(half).zip(brain) {
        assert_eq!((half::f16::from_f32(*w).to_f32(), half::bf16::from_f32(*w).to_f32()), (h, b));
    }
}

#[test]
fn widths_are_chosen_by_what_is_there() {
    let ctx = Context::new(1);
    let w = Case::new(40, 96, 32, CodeBits::Four, true, 1).pack(&ctx);
    assert_eq!((w.code_bits(), w.scale_bits(), w.group()), (CodeBits::Four, ScaleBits::Sixteen, 32));
    // Half a byte a code, two bytes for each 32 of them and four for each channel, in whole blocks of 16 channels.
    assert_eq!(w.bytes(), 3 * (64 + 128 + 16 * 48));
    let w = Case::new(40, 96, 96, CodeBits::Eight, false, 1).pack(&ctx);
    assert_eq!((w.code_bits(), w.scale_bits(), w.group()), (CodeBits::Eight, ScaleBits::ThirtyTwo, 96));
    assert_eq!(w.bytes(), 3 * (64 + 64 + 16 * 96));
}

/// Every way in which files hold the same codes gives the same matrix.
#[test]
fn sources_of_codes_agree() {
    let ctx = Context::new(1);
    let c = Case::new(37, 64, 32, CodeBits::Four, false, 6);
    let x = floats(2, 64, 3);
    let expected = bits(&by_codes(&ctx, &c.pack(&ctx), &x, 2));
    let nibbles: Vec<u8> = c.codes.chunks(2).map(|p| (p[0] as u8 & 15) | ((p[1] as u8) << 4)).collect();
    let packed = View::new(DType::I4, &[37, 64], &[64, 1], &nibbles).unwrap();
    let got = Packed::new(&ctx, &c.matrix(packed)).unwrap();
    assert_eq!(bits(&by_codes(&ctx, &got, &x, 2)), expected, "nibbles");
    let turned: Vec<i8> = (0..64 * 37).map(|i| c.codes[i % 37 * 64 + i / 37]).collect();
    let view = View::new(DType::I8, &[37, 64], &[1, 37], bytemuck::cast_slice(&turned)).unwrap();
    let got = Packed::new(&ctx, &c.matrix(view)).unwrap();
    assert_eq!(bits(&by_codes(&ctx, &got, &x, 2)), expected, "columns");
    let zeros: Vec<i32> = (0..37 * 2).map(|i| 100 + i % 40).collect();
    let shifted: Vec<u8> =
        (0..37 * 64).map(|i| (i32::from(c.codes[i]) + zeros[i / 64 * 2 + i % 64 / 32]) as u8).collect();
    let view = View::new(DType::U8, &[37, 64], &[64, 1], &shifted).unwrap();
    let matrix = CodeMatrix { zero_points: Some(&zeros), ..c.matrix(view) };
    let got = Packed::new(&ctx, &matrix).unwrap();
    assert_eq!(got.code_bits(), CodeBits::Four);
    assert_eq!(bits(&by_codes(&ctx, &got, &x, 2)), expected, "zero points");
}

#[test]
fn what_cannot_be_packed_says_why() {
    let ctx = Context::new(1);
    let c = Case::new(4, 48, 48, CodeBits::Eight, false, 6);
    let t = Tensor::of(&[4, 48], &c.codes).unwrap();
    let of = |m: CodeMatrix<'_>| Packed::new(&ctx, &m).unwrap_err();
    let groups = CodeMatrix { group: 24, scales: &[1.0; 8], ..c.matrix(t.view()) };
    assert_eq!(of(groups), Unpackable::Group { group: 24, columns: 48 });
    assert_eq!(
        of(CodeMatrix { scales: &[1.0; 3], ..c.matrix(t.view()) }),
        Unpackable::Scales { found: 3, expected: 4 }
    );
    let zeros = CodeMatrix { zero_points: Some(&[0, 0, 0, 300]), ..c.matrix(t.view()) };
    assert!(matches!(of(zeros), Unpackable::Range { low, .. } if low < -128));
    let wide = Tensor::zeros(DType::I16, &[4, 48]).unwrap();
    assert_eq!(of(c.matrix(wide.view())), Unpackable::Type(DType::I16));
    let none = Tensor::zeros(DType::I8, &[0, 48]).unwrap();
    assert_eq!(of(c.matrix(none.view())), Unpackable::Sizes(vec![0, 48]));
}

/// Codes that a graph has made already are taken as they are.
#[test]
fn rows_taken_are_rows_made() {
    let ctx = Context::new(1);
    let c = Case::new(21, 40, 40, CodeBits::Eight, false, 2);
    let w = c.pack(&ctx);
    let mut noise = Noise(77);
    for signed in [true, false] {
        let raw: Vec<u8> = (0..3 * 40).map(|_| noise.next() as u8).collect();
        let dtype = if signed { DType::I8 } else { DType::U8 };
        let view = View::new(dtype, &[3, 40], &[40, 1], &raw).unwrap();
        let (scales, zeros) = ([0.5f64, 0.25, 2.0], if signed { [-128i64, 3, 127] } else { [0, 3, 255] });
        let mut rows = Rows::default();
        assert!(rows.take(&view, &scales, &zeros).unwrap());
        let got = product(&ctx, &w, &Activations::Codes(&rows), 3, None, DType::F32);
        for r in 0..3 {
            for n in 0..21 {
                let code =
                    |k: usize| if signed { i64::from(raw[r * 40 + k] as i8) } else { i64::from(raw[r * 40 + k]) };
                let sum: i64 = (0..40).map(|k| (code(k) - zeros[r]) * c.weight(n, k)).sum();
                assert_eq!(got[r * 21 + n], sum as f32 * scales[r] as f32 * c.scales[n]);
            }
        }
        assert!(!rows.take(&view, &[1.0], &[400]).unwrap(), "a zero point that is no code");
    }
}

/// Every variant makes the codes that the scalar loops make: rules, ranges, what is no number.
#[test]
fn rows_are_the_same_everywhere() {
    use pteron_kernels::quant::qparams::Mapping;
    let affine = Choose::Affine { mapping: Mapping::Asymmetric, eps: f32::MIN_POSITIVE };
    let rules = [
        PER_TOKEN,
        DynamicQuant { choose: Choose::PerToken(QuantSemantics::Eager), form: Form::LastF64, range: (-128, 127) },
        DynamicQuant { choose: affine, form: Form::First, range: (-128, 127) },
        DynamicQuant { choose: Choose::Qd8, form: Form::First, range: (-128, 127) },
        DynamicQuant {
            choose: Choose::PerTensor(QuantSemantics::ExecuTorch, 1e-5),
            form: Form::ExecuTorch,
            range: (0, 255),
        },
        DynamicQuant { choose: Choose::PerTensor(QuantSemantics::Eager, 1e-5), form: Form::First, range: (-127, 127) },
    ];
    let scalar = Context::with_isa(1, Isa::Scalar).unwrap();
    for how in rules {
        for k in [1, 15, 16, 17, 63, 64, 65, 341] {
            for odd in [None, Some(f32::INFINITY), Some(f32::NAN), Some(-f32::NAN), Some(0.0), Some(-3e38)] {
                let mut x = floats(4, k, k as u64);
                if let Some(v) = odd {
                    x[k / 2] = v;
                    x[2 * k..3 * k].fill(v);
                    x[3 * k..].iter_mut().step_by(3).for_each(|x| *x = v);
                }
                let made = |ctx: &Context| {
                    let mut rows = Rows::default();
                    let x = Lines::floats(&x, [4, k]).unwrap();
                    let done = rows.quantize(ctx, &x, &how).map_err(|e| e.to_string());
                    done.map(|()| format!("{rows:?}").replace("-NaN", "NaN"))
                };
                let expected = made(&scalar);
                for isa in isas() {
                    let ctx = Context::with_isa(2, isa).unwrap();
                    assert_eq!(made(&ctx), expected, "{isa}, {how:?}, {k} of {odd:?}");
                }
            }
        }
    }
}
