//! Scales, zero points and codes of one recorded wave, as PyTorch 2.14, torchao 0.18 and ExecuTorch 1.5.1 give them.

use pteron_kernels::quant::dequantize::{self, Dequantizer};
use pteron_kernels::quant::qparams::{self, DEFAULT_EPS, Mapping, QParams};
use pteron_kernels::quant::quantize::{Form, Quantizer};
use pteron_tensor::DType;

/// x[i] = 3·sin(0.37 i) + 0.2, as torch computes it.
fn wave() -> Vec<f32> {
    (0..64).map(|i| 3.0 * (0.37f32 * i as f32).sin() + 0.2).collect()
}

fn near(found: f64, expected: f64) {
    // Sines of two libraries differ in the last bit.
    assert!((found - expected).abs() <= expected.abs() * 5e-7, "{found} instead of {expected}");
}

#[test]
fn ranges_give_parameters() {
    let (lo, hi) = qparams::aminmax(&wave()).unwrap();
    near(f64::from(lo), -2.785_719_39);
    near(f64::from(hi), 3.192_578_79);
    let check = |q: QParams<f32>, scale: f64, zp: i64| {
        near(f64::from(q.scale), scale);
        assert_eq!(q.zero_point, zp);
    };
    check(qparams::affine(lo, hi, 0, 255, DEFAULT_EPS), 0.023_444_306_1, 119);
    check(qparams::affine(lo, hi, 0, 65535, DEFAULT_EPS), 9.122_298_07e-5, 30537);
    let symmetric = |dtype, qmin, qmax, custom: bool| {
        let zp = qparams::symmetric_zero_point(dtype, custom.then_some((qmin, qmax)));
        qparams::symmetric(lo, hi, qmin, qmax, DEFAULT_EPS, zp)
    };
    check(symmetric(DType::U8, 0, 255, false), 0.025_039_833, 128);
    check(symmetric(DType::U8, 0, 255, true), 0.025_039_833, 127);
    check(symmetric(DType::I8, -127, 127, true), 0.025_138_415_4, 0);
    check(symmetric(DType::I8, -7, 7, true), 0.456_082_672, 0);
    check(symmetric(DType::I8, -8, 7, true), 0.425_677_18, 0);
    check(symmetric(DType::I16, -32767, 32767, true), 9.743_274_86e-5, 0);
    let fbgemm = |qmin, qmax, symmetric| qparams::fbgemm(lo, hi, qmin, qmax, symmetric).unwrap();
    near(fbgemm(0, 255, false).scale, 0.023_444_306_1);
    assert_eq!(fbgemm(0, 255, false).zero_point, 119);
    near(fbgemm(-127, 127, true).scale, 0.025_237_385_2);
    near(fbgemm(-7, 7, true).scale, 0.488_660_007_7);
    assert_eq!(qparams::affine(f32::INFINITY, f32::NEG_INFINITY, 0, 255, DEFAULT_EPS).scale, 1.0);
}

#[test]
fn tokens_and_groups() {
    let x = wave();
    let expected = [(0.023_424_949_5, -9), (0.023_423_859_8, -9), (0.023_421_684_3, -9), (0.023_128_891_4, -11)];
    for (row, (scale, zp)) in x.chunks(16).zip(expected) {
        let (lo, hi) = qparams::aminmax(row).unwrap();
        let q = qparams::per_token_asymmetric(lo, hi);
        near(f64::from(q.scale), scale);
        assert_eq!(q.zero_point, zp);
    }
    let (lo, hi) = qparams::aminmax(&x[..16]).unwrap();
    let q = qparams::per_token_asymmetric(lo, hi);
    let mut codes = [0i8; 16];
    Quantizer::new(Form::LastF64, f64::from(q.scale), q.zero_point, -128, 127).row(&x[..16], &mut codes);
    assert_eq!(codes, [0, 46, 86, 114, 127, 123, 102, 67, 23, -24, -68, -103, -124, -128, -115, -86]);
    let scales = [
        0.425_018_996,
        0.371_429_265,
        0.425_256_908,
        0.371_154_368,
        0.425_476_283,
        0.370_860_994,
        0.425_677_18,
        0.408_842_891,
    ];
    let mut first = [0i8; 16];
    for (i, (group, scale)) in x.chunks(8).zip(scales).enumerate() {
        let (lo, hi) = qparams::aminmax(group).unwrap();
        let q = qparams::torchao(lo, hi, Mapping::Symmetric, -8, 7, f32::MIN_POSITIVE);
        near(f64::from(q.scale), scale);
        assert_eq!(q.zero_point, 0);
        if i < 2 {
            Quantizer::new(Form::First, f64::from(q.scale), 0, -8, 7).row(group, &mut first[i * 8..i * 8 + 8]);
        }
    }
    assert_eq!(first, [0, 3, 5, 7, 7, 7, 6, 4, 2, -1, -4, -6, -7, -8, -7, -5]);
}

#[test]
fn rounding_comes_before_the_zero_point() {
    let x = [-1.3f32, -0.75, -0.25, 0.0, 0.25, 0.75, 1.25, 5.0];
    let q = Quantizer::new(Form::First, 0.5, 1, -4, 3);
    let d = Dequantizer::new(dequantize::Form::Float, 0.5, 1);
    let back = x.map(|v| d.value(q.code::<i8>(v)));
    assert_eq!(back, [-1.5, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
    // A tie is even before the zero point, or with it.
    assert_eq!(Quantizer::new(Form::First, 1.0, 1, -8, 7).code::<i8>(0.5), 1);
    assert_eq!(Quantizer::new(Form::Last, 1.0, 1, -8, 7).code::<i8>(0.5), 2);
}
