//! XNNPACK's dynamic quantization, `qd8`: codes of 8 bits, a scale and a zero point for each row, chosen when the row is there.
//!
//! Source: `xnn_f32_qd8_asymmetric_quantization_params` and the `f32-qs8-vcvt` kernels of XNNPACK, which an `XNNConvert` to
//! `qdint8` runs.

use pteron_tensor::{DType, View, ViewMut};

use super::blocks::{elements, rows_a_piece};
use super::qparams::QParams;
use super::wide::{self, Loop};
use crate::operand::{SharedMut, write_row_major};
use crate::{Context, KernelError, KernelResult};

/// Least and largest code.
const RANGE: (f32, f32) = (-128.0, 127.0);

/// The rule of `qd8` for a row whose least and largest element are `min` and `max`, in `f32`: what a row is multiplied by, and
/// the scale and zero point that its codes have then.
///
/// With `lo = min(min, 0)` and `hi = max(max, 0)` the multiplier is `m = 255 / (hi − lo)`, 1 if both are 0, and the scale
/// `1 / m`. The zero point is the one of the end of the range that is nearer to a whole number of steps from its code:
/// `−128 − lo·m` if `(−128 + lo·m) + (127 + hi·m) > 0`, else `127 − hi·m`; limited to −128..=127 and rounded, half to even.
pub fn params(min: f32, max: f32) -> (f32, QParams<f32>) {
    let (qmin, qmax) = RANGE;
    let (lo, hi) = (if min < 0.0 { min } else { 0.0 }, if max > 0.0 { max } else { 0.0 });
    let multiplier = if lo == hi { 1.0 } else { (qmax - qmin) / (hi - lo) };
    let (low, high) = (lo * multiplier, hi * multiplier);
    let zero_point = if (qmin + low) + (qmax + high) > 0.0 { qmin - low } else { qmax - high };
    let zero_point = if zero_point > qmin { zero_point } else { qmin };
    let zero_point = if zero_point < qmax { zero_point } else { qmax };
    (multiplier, QParams { scale: 1.0 / multiplier, zero_point: zero_point.round_ties_even() as i64 })
}

struct Codes<'a> {
    x: &'a [f32],
    out: &'a mut [i8],
    multiplier: f32,
    zero_point: f32,
}

impl Loop for Codes<'_> {
    #[inline(always)]
    fn run(self) {
        let (lo, hi) = (RANGE.0 - self.zero_point, RANGE.1 - self.zero_point);
        for (o, &x) in self.out.iter_mut().zip(self.x) {
            // Bounds first at the upper end: a NaN becomes the largest code.
            let t = x * self.multiplier;
            let t = if t < hi { t } else { hi };
            let t = if t > lo { t } else { lo };
            *o = (t.round_ties_even() + self.zero_point) as i32 as i8;
        }
    }
}

const LANES: usize = 32;

struct Range<'a> {
    x: &'a [f32],
    out: &'a mut (f32, f32),
}

impl Loop for Range<'_> {
    #[inline(always)]
    fn run(self) {
        let (mut lo, mut hi) = ([0f32; LANES], [0f32; LANES]);
        let (blocks, rest) = self.x.as_chunks::<LANES>();
        for b in blocks {
            for i in 0..LANES {
                lo[i] = if b[i] < lo[i] { b[i] } else { lo[i] };
                hi[i] = if b[i] > hi[i] { b[i] } else { hi[i] };
            }
        }
        let least = |m: f32, &v: &f32| if v < m { v } else { m };
        let most = |m: f32, &v: &f32| if v > m { v } else { m };
        *self.out = (lo.iter().chain(rest).fold(0.0, least), hi.iter().chain(rest).fold(0.0, most));
    }
}

/// The range that a row's codes cover: its least and largest element and 0. A NaN is passed over.
pub fn range(x: &[f32]) -> (f32, f32) {
    let mut out = (0.0, 0.0);
    wide::run(Range { x, out: &mut out });
    out
}

/// Quantizes one row by [`params`] of its [`range`]: `code = clamp(round(x · m) + zp)`, half to even; gives the scale and zero
/// point that `real = scale · (code − zero_point)` has. A NaN in the row gets the code 127; with an infinity in it the scale is
/// infinite. As many codes as the shorter of the two has elements.
pub fn quantize_row(x: &[f32], out: &mut [i8]) -> QParams<f32> {
    let (lo, hi) = range(x);
    let (multiplier, found) = params(lo, hi);
    wide::run(Codes { x, out, multiplier, zero_point: found.zero_point as f32 });
    found
}

/// `xnnpack::convert_qd8`: codes (i8, sizes of `x`), scale (f32) and zero point (i32) of every row of `x`, f32. A row is what
/// the last `num_nonbatch_dims` dimensions hold; scales and zero points have the sizes of `x` but 1 there. See
/// [`quantize_row`].
///
/// # Errors
/// Types and sizes that do not fit; `num_nonbatch_dims` that `x` does not have.
pub fn convert_qd8(
    ctx: &Context,
    x: &View<'_>,
    num_nonbatch_dims: i64,
    mut codes_out: ViewMut<'_>,
    mut scale_out: ViewMut<'_>,
    mut zero_point_out: ViewMut<'_>,
) -> KernelResult {
    let op = "xnnpack::convert_qd8";
    let inner = usize::try_from(num_nonbatch_dims).ok().filter(|&n| n >= 1 && n <= x.rank());
    let Some(inner) = inner else {
        let e = format!("num_nonbatch_dims is {num_nonbatch_dims} for {} dimensions", x.rank());
        return Err(KernelError::new(op, e));
    };
    let (lead, row) = x.sizes().split_at(x.rank() - inner);
    let mut per_row = lead.to_vec();
    per_row.resize(x.rank(), 1);
    let wanted = [
        (&codes_out, DType::I8, x.sizes()),
        (&scale_out, DType::F32, &per_row),
        (&zero_point_out, DType::I32, &per_row),
    ];
    for (out, dtype, sizes) in wanted {
        if out.dtype() != dtype || out.sizes() != sizes {
            let e = format!("a result is {} {:?}, expected {dtype} {sizes:?}", out.dtype(), out.sizes());
            return Err(KernelError::new(op, e));
        }
    }
    let values = elements::<f32>(op, x)?;
    let (rows, width) = (lead.iter().product::<usize>(), row.iter().product::<usize>());
    write_row_major::<i8, _>(&mut codes_out, |codes| {
        write_row_major::<f32, _>(&mut scale_out, |scales| {
            write_row_major::<i32, _>(&mut zero_point_out, |zero_points| {
                let (codes, scales, zero_points) =
                    (SharedMut::new(codes), SharedMut::new(scales), SharedMut::new(zero_points));
                let piece = rows_a_piece(width).max(1);
                let run = |i: usize| {
                    for r in i * piece..rows.min((i + 1) * piece) {
                        // SAFETY: `codes` has `rows · width` elements and the other two `rows`; a row belongs to one piece,
                        // and a piece to one thread.
                        let (out, scale, zero_point) = unsafe {
                            (
                                std::slice::from_raw_parts_mut(codes.at(r * width), width),
                                &mut *scales.at(r),
                                &mut *zero_points.at(r),
                            )
                        };
                        let q = quantize_row(&values[r * width..(r + 1) * width], out);
                        (*scale, *zero_point) = (q.scale, q.zero_point as i32);
                    }
                };
                ctx.pool().run(rows.div_ceil(piece), &run);
            })
        })
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use pteron_tensor::Tensor;

    use super::*;

    /// The numbers of the rule, worked by hand: 255 steps over the range, one of its ends on a code.
    #[test]
    fn parameters() {
        // Steps of 1/255: 0 is the lowest code.
        assert_eq!(params(0.0, 1.0), (255.0, QParams { scale: 1.0 / 255.0, zero_point: -128 }));
        assert_eq!(params(0.25, 1.0), params(0.0, 1.0));
        assert_eq!(params(-1.0, 0.0).1.zero_point, 127);
        assert_eq!(params(-1.0, -0.5), params(-1.0, 0.0));
        // -128 - (-127.5) = -0.5: to even.
        assert_eq!(params(-1.0, 1.0), (127.5, QParams { scale: 1.0 / 127.5, zero_point: 0 }));
        assert_eq!(params(0.0, 0.0), (1.0, QParams { scale: 1.0, zero_point: 127 }));
        let (m, q) = params(-3.0, 1.0);
        assert_eq!((m, q.zero_point), (63.75, 63));
        assert!(params(0.0, f32::INFINITY).1.scale.is_infinite());
    }

    #[test]
    fn a_row() {
        let mut codes = [0i8; 5];
        let q = quantize_row(&[0.0, 1.0, 0.5, 0.25, 0.125], &mut codes);
        assert_eq!(q, QParams { scale: 1.0 / 255.0, zero_point: -128 });
        // 127.5, 63.75 and 31.875 steps from the zero point.
        assert_eq!(codes, [-128, 127, 0, -64, -96]);
        let q = quantize_row(&[f32::NAN, -1.0, 1.0, 0.0, 0.5], &mut codes);
        assert_eq!(q, QParams { scale: 1.0 / 127.5, zero_point: 0 });
        assert_eq!(codes, [127, -128, 127, 0, 64]);
        assert_eq!(quantize_row(&[], &mut []), QParams { scale: 1.0, zero_point: 127 });
        assert_eq!(quantize_row(&[0.0; 3], &mut codes).scale, 1.0);
        assert_eq!(codes[..3], [127; 3]);
    }

    fn converted(threads: usize, sizes: &[usize], inner: i64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let n: usize = sizes.iter().product();
        let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin() * (1.0 + i as f32 * 0.01) + 0.2).collect();
        let mut one = sizes.to_vec();
        let lead = sizes.len() - usize::try_from(inner).unwrap();
        one[lead..].fill(1);
        let mut codes = Tensor::zeros(DType::I8, sizes).unwrap();
        let (mut scale, mut zp) = (Tensor::zeros(DType::F32, &one).unwrap(), Tensor::zeros(DType::I32, &one).unwrap());
        let x = Tensor::of(sizes, &x).unwrap();
        let outs = (codes.view_mut(), scale.view_mut(), zp.view_mut());
        convert_qd8(&Context::new(threads), &x.view(), inner, outs.0, outs.1, outs.2).unwrap();
        (codes.view().to_f64_vec(), scale.view().to_f64_vec(), zp.view().to_f64_vec())
    }

    /// What the codes stand for is within half a step of the input, and within one where the zero point was rounded.
    #[test]
    fn rows_of_any_shape() {
        for (sizes, inner) in
            [(&[3usize, 5, 7][..], 1), (&[3, 5, 7], 2), (&[1, 341], 1), (&[0, 4], 1), (&[6], 1), (&[2, 1], 1)]
        {
            let (codes, scale, zp) = converted(1, sizes, inner);
            assert_eq!(converted(3, sizes, inner), (codes.clone(), scale.clone(), zp.clone()));
            let width = codes.len().checked_div(scale.len()).unwrap_or(0);
            for (i, q) in codes.iter().enumerate() {
                let x = f64::from((i as f32 * 0.37).sin() * (1.0 + i as f32 * 0.01) + 0.2);
                let real = scale[i / width] * (q - zp[i / width]);
                assert!((real - x).abs() <= 1.001 * scale[i / width], "{sizes:?} {i}: {real} for {x}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let x = Tensor::of(&[2, 3], &[0f32; 6]).unwrap();
        let refuse = |inner: i64, codes: &[usize], dtype: DType| {
            let mut codes = Tensor::zeros(dtype, codes).unwrap();
            let (mut scale, mut zp) =
                (Tensor::zeros(DType::F32, &[2, 1]).unwrap(), Tensor::zeros(DType::I32, &[2, 1]).unwrap());
            let outs = (codes.view_mut(), scale.view_mut(), zp.view_mut());
            convert_qd8(&Context::new(1), &x.view(), inner, outs.0, outs.1, outs.2).unwrap_err().to_string()
        };
        assert!(refuse(0, &[2, 3], DType::I8).contains("num_nonbatch_dims is 0"));
        assert!(refuse(3, &[2, 3], DType::I8).contains("num_nonbatch_dims is 3"));
        assert!(refuse(1, &[3, 2], DType::I8).contains("expected i8 [2, 3]"));
        assert!(refuse(1, &[2, 3], DType::U8).contains("expected i8 [2, 3]"));
        assert!(refuse(2, &[2, 3], DType::I8).contains("expected f32 [1, 1]"));
    }
}
