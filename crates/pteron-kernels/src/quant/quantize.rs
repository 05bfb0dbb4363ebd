//! From real numbers to codes.
//!
//! Sources: `torch.ao.quantization.fx._decomposed`, `torchao.quantization.quant_primitives` (eager);
//! `kernels/quantized/cpu/op_quantize.cpp` (ExecuTorch).

use pteron_tensor::Element;

use super::wide::{self, Loop};

/// In which type a code is computed, and whether rounding comes before or after the zero point is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `clamp(round(x · inv) + zp)` in `f32`, `inv = 1/scale` in the scale's type, then `f32`: PT2E per tensor, per channel with
    /// scales in `f32`, torchao affine.
    First,
    /// `clamp(round(x · inv + zp))` in `f32`: PT2E per token and per channel group, scales in `f32`.
    Last,
    /// [`Form::First`] in `f64`: PT2E per channel with scales in `f64`.
    FirstF64,
    /// [`Form::Last`] in `f64`: PT2E per token with scales in `f64`, as `choose_qparams_per_token_asymmetric` gives them.
    LastF64,
    /// ExecuTorch's kernels: as [`Form::First`], `inv` being `1/(scale as f32)` in `f32`; a NaN, and what is 2⁶³ or more
    /// after the zero point was added, gives `qmin`.
    ExecuTorch,
}

/// An element type that holds codes.
pub trait Code: Element + Default {
    /// The code nearest to `v`, a whole number.
    fn from_f32(v: f32) -> Self;
    /// The code nearest to `v`, a whole number.
    fn from_f64(v: f64) -> Self;
    /// The code as a wide integer.
    fn wide(self) -> i64;
    /// Least and largest code.
    const RANGE: (i64, i64);
    /// What PyTorch makes of a NaN on x86: the lower bits of the least 32-bit int.
    const OF_NAN: Self;
}

macro_rules! code {
    ($($t:ty),*) => { $(impl Code for $t {
        #[inline(always)]
        fn from_f32(v: f32) -> $t {
            v as i32 as $t
        }
        #[inline(always)]
        fn from_f64(v: f64) -> $t {
            v as i32 as $t
        }
        #[inline(always)]
        fn wide(self) -> i64 {
            i64::from(self)
        }
        const RANGE: (i64, i64) = (<$t>::MIN as i64, <$t>::MAX as i64);
        const OF_NAN: $t = i32::MIN as $t;
    })* };
}
code!(i8, u8, i16, u16, i32);

/// Quantization with one scale and one zero point to the codes `qmin..=qmax`, half to even.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    form: Form,
    inv: f64,
    zero_point: f64,
    qmin: i64,
    qmax: i64,
}

impl Quantizer {
    /// `scale` as its tensor holds it: a scale in `f32` widened to `f64` is itself. For [`Form::First`] the reciprocal is
    /// taken in `f64` and rounded to `f32`, which for a scale that is an `f32` gives the reciprocal in `f32`.
    pub fn new(form: Form, scale: f64, zero_point: i64, qmin: i64, qmax: i64) -> Quantizer {
        Quantizer::with_float_zero_point(form, scale, zero_point as f64, qmin, qmax)
    }

    /// [`Quantizer::new`], the zero point being a float that need not be whole (`per_channel_affine_float_qparams`).
    pub fn with_float_zero_point(form: Form, scale: f64, zero_point: f64, qmin: i64, qmax: i64) -> Quantizer {
        let inv = match form {
            Form::ExecuTorch => f64::from(1.0 / scale as f32),
            _ => 1.0 / scale,
        };
        Quantizer { form, inv, zero_point, qmin, qmax }
    }

    /// The code of one number, in `qmin..=qmax` (a NaN: see [`Form`]).
    pub fn code<T: Code>(&self, x: f32) -> T {
        let mut out = [T::default()];
        self.row(&[x], &mut out);
        out[0]
    }

    /// The codes of a row; as many as the shorter of the two.
    pub fn row<T: Code>(&self, x: &[f32], out: &mut [T]) {
        wide::run(Row { q: *self, x, out });
    }

    /// The codes as real numbers before they are converted: `clamp(round(x · inv) + zp, qmin, qmax)` for every element, for
    /// whoever goes on computing with them.
    pub fn row_f32(&self, x: &[f32], out: &mut [f32]) {
        wide::run(FloatRow { q: *self, x, out });
    }
}

struct Row<'a, T> {
    q: Quantizer,
    x: &'a [f32],
    out: &'a mut [T],
}

/// Bounds first at the lower end: a NaN becomes `lo`.
#[inline(always)]
fn bounded(t: f32, lo: f32, hi: f32) -> f32 {
    let t = if t > lo { t } else { lo };
    if t < hi { t } else { hi }
}

#[inline(always)]
fn bounded_f64(t: f64, lo: f64, hi: f64) -> f64 {
    let t = if t > lo { t } else { lo };
    if t < hi { t } else { hi }
}

impl<T: Code> Loop for Row<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Row { q, x, out } = self;
        let (inv, zp, lo, hi) = (q.inv as f32, q.zero_point as f32, q.qmin as f32, q.qmax as f32);
        let (lo64, hi64) = (q.qmin as f64, q.qmax as f64);
        let pairs = out.iter_mut().zip(x);
        match q.form {
            Form::First => pairs.for_each(|(o, &x)| {
                let t = (x * inv).round_ties_even() + zp;
                *o = if t.is_nan() { T::OF_NAN } else { T::from_f32(bounded(t, lo, hi)) };
            }),
            Form::Last => pairs.for_each(|(o, &x)| {
                let t = (x * inv + zp).round_ties_even();
                *o = if t.is_nan() { T::OF_NAN } else { T::from_f32(bounded(t, lo, hi)) };
            }),
            Form::FirstF64 => pairs.for_each(|(o, &x)| {
                let t = (f64::from(x) * q.inv).round_ties_even() + q.zero_point;
                *o = if t.is_nan() { T::OF_NAN } else { T::from_f64(bounded_f64(t, lo64, hi64)) };
            }),
            Form::LastF64 => pairs.for_each(|(o, &x)| {
                let t = (f64::from(x) * q.inv + q.zero_point).round_ties_even();
                *o = if t.is_nan() { T::OF_NAN } else { T::from_f64(bounded_f64(t, lo64, hi64)) };
            }),
            Form::ExecuTorch => pairs.for_each(|(o, &x)| {
                let t = (x * inv).round_ties_even() + zp;
                // Above the range of 64-bit integers x86 gives the least one.
                let t = if t < -(i64::MIN as f32) { t } else { lo };
                *o = T::from_f32(bounded(t, lo, hi));
            }),
        }
    }
}

struct FloatRow<'a> {
    q: Quantizer,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl Loop for FloatRow<'_> {
    #[inline(always)]
    fn run(self) {
        let FloatRow { q, x, out } = self;
        let (inv, zp, lo, hi) = (q.inv as f32, q.zero_point as f32, q.qmin as f32, q.qmax as f32);
        for (o, &x) in out.iter_mut().zip(x) {
            let t = (x * inv).round_ties_even() + zp;
            *o = if t.is_nan() { t } else { bounded(t, lo, hi) };
        }
    }
}
