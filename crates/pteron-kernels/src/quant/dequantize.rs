//! From codes to real numbers.
//!
//! Sources as of [`super::quantize`], and `kernels/quantized/cpu/op_dequantize.cpp`.

use super::quantize::Code;
use super::wide::{self, Loop};

/// In which type a code becomes a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// `(q − zp)` as integers, then `· scale` in `f32`: ExecuTorch's kernels, PT2E per channel and per token with scales in
    /// `f32`.
    Integer,
    /// `(q as f32 − zp as f32) · scale` in `f32`: PT2E per tensor, torchao affine. Differs from [`Form::Integer`] only where a
    /// code or a zero point is beyond 2²⁴, or the zero point is no whole number.
    Float,
    /// `(q − zp) · scale` in `f64`, rounded to `f32` once: PT2E per channel and per token with scales in `f64`.
    Double,
}

/// Dequantization with one scale and one zero point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dequantizer {
    form: Form,
    scale: f64,
    zero_point: f64,
}

impl Dequantizer {
    /// `real = (code − zero_point) · scale`. For other forms than [`Form::Double`] the scale is rounded to `f32`.
    pub fn new(form: Form, scale: f64, zero_point: i64) -> Dequantizer {
        Dequantizer { form, scale, zero_point: zero_point as f64 }
    }

    /// [`Dequantizer::new`], the zero point being a float that need not be whole; computed as [`Form::Float`].
    pub fn with_float_zero_point(scale: f64, zero_point: f64) -> Dequantizer {
        Dequantizer { form: Form::Float, scale, zero_point }
    }

    /// The number that a code stands for.
    pub fn value<T: Code>(&self, q: T) -> f32 {
        let mut out = [0.0];
        self.row(&[q], &mut out);
        out[0]
    }

    /// The numbers of a row of codes; as many as the shorter of the two.
    pub fn row<T: Code>(&self, q: &[T], out: &mut [f32]) {
        wide::run(Row { d: *self, q, out });
    }
}

struct Row<'a, T> {
    d: Dequantizer,
    q: &'a [T],
    out: &'a mut [f32],
}

impl<T: Code> Loop for Row<'_, T> {
    #[inline(always)]
    fn run(self) {
        let Row { d, q, out } = self;
        let (scale, zp) = (d.scale as f32, d.zero_point as f32);
        let small = T::RANGE.1 <= i64::from(u16::MAX) && d.zero_point.abs() < 1e6 && d.zero_point.fract() == 0.0;
        let pairs = out.iter_mut().zip(q);
        match d.form {
            // All differences are exact in f32.
            Form::Integer if small => {
                let zp = d.zero_point as i32;
                pairs.for_each(|(o, &q)| *o = (q.wide() as i32 - zp) as f32 * scale);
            }
            Form::Integer => {
                let zp = d.zero_point as i64;
                pairs.for_each(|(o, &q)| *o = q.wide().wrapping_sub(zp) as f32 * scale);
            }
            Form::Float => pairs.for_each(|(o, &q)| *o = (q.wide() as i32 as f32 - zp) * scale),
            Form::Double => {
                let zp = d.zero_point as i64;
                pairs.for_each(|(o, &q)| *o = (q.wide().wrapping_sub(zp) as f64 * d.scale) as f32);
            }
        }
    }
}
