//! Scales and zero points from ranges of values.
//!
//! Sources: `torchao.quantization.pt2e.observer.UniformQuantizationObserverBase._calculate_qparams` and
//! `torch.ao.quantization.utils.determine_qparams` (PT2E eager); `torch.ao.quantization.fx._decomposed` (per token);
//! `torchao.quantization.quant_primitives` (affine); FBGEMM's `ChooseQuantizationParams`, which ExecuTorch's
//! `choose_qparams` follows.

/// A scale and a zero point: `real = scale · (code − zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QParams<S> {
    /// The distance of neighbouring codes.
    pub scale: S,
    /// The code of 0.
    pub zero_point: i64,
}

/// The eps that PyTorch's observers use where none is given: the distance from 1 to the next `f32`.
pub const DEFAULT_EPS: f32 = f32::EPSILON;

/// Smallest and largest element; `None` if there is no element. A NaN makes both NaN (`torch.aminmax`).
pub fn aminmax(x: &[f32]) -> Option<(f32, f32)> {
    let (lo, hi) = min_max_element(x)?;
    let mut nan = false;
    super::wide::run(HasNan { x, out: &mut nan });
    Some(if nan { (f32::NAN, f32::NAN) } else { (lo, hi) })
}

/// Smallest and largest element as `std::min_element` finds them: a NaN in front stays, one further back is passed over.
/// `None` if there is no element.
pub fn min_max_element(x: &[f32]) -> Option<(f32, f32)> {
    let &first = x.first()?;
    let mut out = (first, first);
    super::wide::run(MinMax { x, out: &mut out });
    Some(out)
}

const LANES: usize = 32;

struct MinMax<'a> {
    x: &'a [f32],
    out: &'a mut (f32, f32),
}

impl super::wide::Loop for MinMax<'_> {
    #[inline(always)]
    fn run(self) {
        let (first, _) = *self.out;
        let (mut lo, mut hi) = ([first; LANES], [first; LANES]);
        let (blocks, rest) = self.x.as_chunks::<LANES>();
        for b in blocks {
            for i in 0..LANES {
                lo[i] = if b[i] < lo[i] { b[i] } else { lo[i] };
                hi[i] = if b[i] > hi[i] { b[i] } else { hi[i] };
            }
        }
        let least = |m: f32, &v: &f32| if v < m { v } else { m };
        let most = |m: f32, &v: &f32| if v > m { v } else { m };
        let out = (lo.iter().chain(rest).fold(first, least), hi.iter().chain(rest).fold(first, most));
        *self.out = out;
    }
}

struct HasNan<'a> {
    x: &'a [f32],
    out: &'a mut bool,
}

impl super::wide::Loop for HasNan<'_> {
    #[inline(always)]
    fn run(self) {
        let mut any = [false; LANES];
        let (blocks, rest) = self.x.as_chunks::<LANES>();
        for b in blocks {
            for i in 0..LANES {
                any[i] |= b[i].is_nan();
            }
        }
        *self.out = any.contains(&true) || rest.iter().any(|v| v.is_nan());
    }
}

/// The range widened to hold 0, NaN staying NaN (`torch.min`, `torch.max` against zeros).
fn around_zero(min: f32, max: f32) -> (f32, f32) {
    let low = if min.is_nan() || min < 0.0 { min } else { 0.0 };
    let high = if max.is_nan() || max > 0.0 { max } else { 0.0 };
    (low, high)
}

/// `torch.max(a, b)`: NaN if one is.
fn larger(a: f32, b: f32) -> f32 {
    if a.is_nan() || a > b { a } else { b }
}

/// A float as `Tensor.to(torch.int)` converts it on x86: what does not fit is the least int.
fn to_int(v: f32) -> i64 {
    let fits = v >= i32::MIN as f32 && v < -(i32::MIN as f32);
    if fits { v as i64 } else { i64::from(i32::MIN) }
}

/// A range never observed (`min = +∞, max = −∞`): PyTorch's scale of 1 and zero point of 0.
fn is_unseen(min: f32, max: f32) -> bool {
    min == f32::INFINITY && max == f32::NEG_INFINITY
}

/// PT2E's affine rule, in `f32`: `scale = max((max⁺ − min⁻)/(qmax − qmin), eps)`,
/// `zp = clamp(qmin − round(min⁻/scale), qmin, qmax)`, half to even, with `min⁻ = min(min, 0)` and `max⁺ = max(max, 0)`.
///
/// `min` and `max` are the observed extremes in real units, `qmin..=qmax` the codes; `eps` the smallest scale
/// ([`DEFAULT_EPS`]). A range never observed (`+∞, −∞`) gives 1 and 0. NaN gives a NaN scale.
pub fn affine(min: f32, max: f32, qmin: i64, qmax: i64, eps: f32) -> QParams<f32> {
    if is_unseen(min, max) {
        return QParams { scale: 1.0, zero_point: 0 };
    }
    let (low, high) = around_zero(min, max);
    let scale = larger((high - low) / qmax.saturating_sub(qmin) as f32, eps);
    // PyTorch computes in 32 bits here.
    let zero_point = qmin.wrapping_sub(to_int((low / scale).round_ties_even())) as i32;
    QParams { scale, zero_point: i64::from(zero_point).max(qmin).min(qmax) }
}

/// PT2E's symmetric rule, in `f32`: `scale = max(max(−min⁻, max⁺)/((qmax − qmin)/2), eps)`. The zero point is the caller's:
/// see [`symmetric_zero_point`].
pub fn symmetric(min: f32, max: f32, qmin: i64, qmax: i64, eps: f32, zero_point: i64) -> QParams<f32> {
    if is_unseen(min, max) {
        return QParams { scale: 1.0, zero_point: 0 };
    }
    let (low, high) = around_zero(min, max);
    let half = (qmax.saturating_sub(qmin) as f64 / 2.0) as f32;
    QParams { scale: larger(larger(-low, high) / half, eps), zero_point }
}

/// The zero point of PT2E's symmetric rule: 0 for signed codes (and for unsigned 16-bit codes in an `i32` box, which PyTorch
/// takes for signed); for `u8` and `u16` half of the full range, or `⌊(qmin + qmax)/2⌋` if the range was given.
pub fn symmetric_zero_point(dtype: pteron_tensor::DType, custom_range: Option<(i64, i64)>) -> i64 {
    use pteron_tensor::DType::{U8, U16};
    match (dtype, custom_range) {
        (U8 | U16, Some((lo, hi))) => lo.saturating_add(hi).div_euclid(2),
        (U8, None) => 128,
        (U16, None) => 32768,
        _ => 0,
    }
}

/// PT2E's `per_channel_affine_float_qparams`: `scale = (max − min)/(qmax − qmin)`, 1 where that is not above `eps`;
/// `zp = −min/scale`, a float. Gives scale and zero point.
pub fn affine_float(min: f32, max: f32, qmin: i64, qmax: i64, eps: f32) -> (f32, f32) {
    if is_unseen(min, max) {
        return (1.0, 0.0);
    }
    let scale = (max - min) / qmax.saturating_sub(qmin) as f32;
    let scale = if scale > eps { scale } else { 1.0 };
    (scale, -min / scale)
}

/// PyTorch's eager `choose_qparams_per_token_asymmetric` of a token with these extremes, codes −128..=127, in `f32`:
/// `scale = max((max⁺ − min⁻)/255, 2⁻²³)`; with `a = min⁻/scale`, `b = max⁺/scale`, the zero point is `−128 − a` if
/// `(−128 + a) + (127 + b) > 0`, else `127 − b`, clamped and then rounded half to even.
pub fn per_token_asymmetric(min: f32, max: f32) -> QParams<f32> {
    let (qmin, qmax) = (-128.0f32, 127.0f32);
    let (low, high) = around_zero(min, max);
    let scale = larger((high - low) / 255.0, f32::EPSILON);
    let (a, b) = (low / scale, high / scale);
    let zero_point = if (qmin + a) + (qmax + b) > 0.0 { qmin - a } else { qmax - b };
    let zero_point = if zero_point.is_nan() { zero_point } else { zero_point.clamp(qmin, qmax) };
    let zero_point = if zero_point.is_nan() { i64::MIN } else { zero_point.round_ties_even() as i64 };
    QParams { scale, zero_point }
}

/// PyTorch's eager `choose_qparams_per_token`: `max(absmax, 1e-5)/127` in `f32`, zero point 0.
pub fn per_token_symmetric(absmax: f32) -> QParams<f32> {
    QParams { scale: larger(absmax, 1e-5) / 127.0, zero_point: 0 }
}

/// The smallest scale that FBGEMM's rule gives.
pub const FBGEMM_SMALLEST_SCALE: f32 = 6.1e-5;

/// FBGEMM's `ChooseQuantizationParams`, which ExecuTorch's `choose_qparams` kernels and PyTorch's fused
/// observe-and-fake-quantize follow.
///
/// With `symmetric` and a range on both sides of 0, the range becomes `t·sym_qmin ..= t·sym_qmax`, where
/// `sym_qmin = −((qmax − qmin)/2 + 1)`, `sym_qmax = (qmax − qmin)/2` and `t = max(|min/sym_qmin|, |max/sym_qmax|)`. Then, in
/// double precision, `scale = (max⁺ − min⁻)/(qmax − qmin)`; 0.1 where that or its reciprocal is no number in `f32`; at least
/// [`FBGEMM_SMALLEST_SCALE`], the range being stretched with it. The zero point comes from the end of the range that
/// has the smaller rounding error, or, with `symmetric` and a range on both sides, is `round((qmin + qmax)/2)`; it is rounded
/// half to even and clamped.
///
/// # Errors
/// If the scale is not above 0: where `min` or `max` is NaN.
pub fn fbgemm(min: f32, max: f32, qmin: i32, qmax: i32, symmetric: bool) -> Result<QParams<f64>, NotANumber> {
    let (scale, initial) = fbgemm_unrounded(min, max, qmin, qmax, symmetric)?;
    Ok(QParams { scale, zero_point: nudged(initial, initial.round_ties_even(), qmin, qmax) })
}

/// The zero point: the end of the range that `initial` lies beyond, else `rounded`.
fn nudged(initial: f64, rounded: f64, qmin: i32, qmax: i32) -> i64 {
    if initial < f64::from(qmin) {
        i64::from(qmin)
    } else if initial > f64::from(qmax) {
        i64::from(qmax)
    } else if rounded.is_nan() {
        i64::from(i32::MIN)
    } else {
        i64::from(rounded as i32)
    }
}

fn fbgemm_unrounded(min: f32, max: f32, qmin: i32, qmax: i32, symmetric: bool) -> Result<(f64, f64), NotANumber> {
    let (mut min, mut max) = (min, max);
    let centred = symmetric && min < 0.0 && max > 0.0;
    if centred {
        let half = (i64::from(qmax) - i64::from(qmin)) / 2;
        let (low, high) = (-(half + 1) as f64, half as f64);
        let t = f64::from((min / low as f32).abs().max((max / high as f32).abs()));
        min = (t * low) as f32;
        max = (t * high) as f32;
    }
    // `std::min(x, 0)` and `std::max(x, 0)` leave a NaN.
    min = if 0.0 < min { 0.0 } else { min };
    max = if max < 0.0 { 0.0 } else { max };
    let steps = (i64::from(qmax) - i64::from(qmin)) as f64;
    let mut scale = (f64::from(max) - f64::from(min)) / steps;
    if scale as f32 == 0.0 || (1.0 / scale as f32).is_infinite() {
        scale = 0.1;
    }
    if scale.is_nan() || scale <= 0.0 {
        return Err(NotANumber);
    }
    if scale < f64::from(FBGEMM_SMALLEST_SCALE) {
        let before = scale as f32;
        scale = f64::from(FBGEMM_SMALLEST_SCALE);
        if min == 0.0 {
            max = FBGEMM_SMALLEST_SCALE * steps as f32;
        } else if max == 0.0 {
            min = -FBGEMM_SMALLEST_SCALE * steps as f32;
        } else {
            let amplifier = FBGEMM_SMALLEST_SCALE / before;
            min *= amplifier;
            max *= amplifier;
        }
    }
    let (low, high) = (f64::from(min) / scale, f64::from(max) / scale);
    let (qlo, qhi) = (f64::from(qmin), f64::from(qmax));
    let from_min = qlo.abs() - low.abs() < qhi.abs() - high.abs();
    let initial = match (centred, from_min) {
        (true, _) => (qlo + qhi) / 2.0,
        (false, true) => qlo - low,
        (false, false) => qhi - high,
    };
    Ok((scale, initial))
}

/// What ExecuTorch's `choose_qparams` and `choose_qparams_per_token_asymmetric` kernels compute from a range: [`fbgemm`]
/// without `symmetric`, but for the zero point, which they turn into an `f32` before they round it. They are given an `eps`
/// and do not look at it.
///
/// # Errors
/// As [`fbgemm`].
pub fn executorch(min: f32, max: f32, qmin: i32, qmax: i32) -> Result<QParams<f64>, NotANumber> {
    let (scale, initial) = fbgemm_unrounded(min, max, qmin, qmax, false)?;
    let rounded = f64::from((initial as f32).round_ties_even());
    Ok(QParams { scale, zero_point: nudged(initial, rounded, qmin, qmax) })
}

/// A range with a NaN has no scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the range of values is not a number, so that there is no scale above 0")]
pub struct NotANumber;

/// How torchao's `choose_qparams_affine` maps a range to codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mapping {
    /// `SYMMETRIC`: the larger magnitude over half the range of codes.
    Symmetric,
    /// `SYMMETRIC_NO_CLIPPING_ERR`: the larger of `min/qmin` and `max/qmax`, so that neither end is clipped.
    SymmetricNoClippingError,
    /// `ASYMMETRIC`: the whole range.
    Asymmetric,
}

/// torchao's `choose_qparams_affine` of one block with these extremes, in `f32`. `SYMMETRIC`: `scale =
/// max(−min⁻, max⁺)/((qmax − qmin)/2)`; `SYMMETRIC_NO_CLIPPING_ERR`: the larger of `min⁻/qmin` and `max⁺/qmax`; both have the
/// zero point `⌊(qmin + qmax + 1)/2⌋` towards 0. `ASYMMETRIC`: as [`affine`]. A scale below `eps` becomes `eps`, which is the
/// least normal number of the input's dtype by default.
pub fn torchao(min: f32, max: f32, mapping: Mapping, qmin: i64, qmax: i64, eps: f32) -> QParams<f32> {
    let (low, high) = around_zero(min, max);
    let steps = qmax.saturating_sub(qmin);
    let middle = qmax.saturating_add(qmin).saturating_add(1) / 2;
    match mapping {
        Mapping::Symmetric => {
            let half = (steps as f64 / 2.0) as f32;
            QParams { scale: larger(larger(-low, high) / half, eps), zero_point: middle }
        }
        Mapping::SymmetricNoClippingError => {
            let (a, b) = (low / qmin as f32, high / qmax as f32);
            QParams { scale: larger(if a > b { a } else { b }, eps), zero_point: middle }
        }
        Mapping::Asymmetric => {
            let scale = larger((high - low) / steps as f32, eps);
            let zero_point = qmin as f32 - (low / scale).round_ties_even();
            let zero_point =
                if zero_point.is_nan() { zero_point } else { zero_point.max(qmin as f32).min(qmax as f32) };
            QParams { scale, zero_point: to_int(zero_point) }
        }
    }
}
