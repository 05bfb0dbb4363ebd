//! Normalization over the last dimensions.

use std::borrow::Cow;

use pteron_tensor::{DType, View, ViewMut};

use super::Lines;
use crate::elementwise::compute::{Compute, Flt, Num, in_float};
use crate::elementwise::drive::{check_out, in_pieces};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::{check_dtype, count_of};
use crate::{Context, KernelError, KernelResult, wide};

/// Elements that one thread takes at a time, at least one line of them.
const PIECE: usize = 16 * 1024;

pub(super) fn float_only(op: &'static str, what: &str, dtype: DType) -> KernelResult {
    if dtype.is_float() {
        return Ok(());
    }
    Err(KernelError::new(op, format!("{what} is {dtype}, expected a float type")))
}

/// All elements in row-major order.
pub(super) fn load_all<C: Compute>(v: &View<'_>) -> Vec<C> {
    let nest = Nest::new(v.sizes(), &[v.strides()], false);
    let mut all = vec![C::default(); nest.total()];
    let (step, mut done) = (nest.inner()[0], 0);
    nest.rows(0..nest.total(), |at, len| {
        C::load(v.dtype(), v.bytes(), at[0], step, &mut all[done..done + len]);
        done += len;
    });
    all
}

/// All elements in row-major order, borrowed where they lie so.
pub(super) fn borrow_all<'a, C: Compute>(v: &View<'a>) -> Cow<'a, [C]> {
    let direct = if v.is_contiguous() { C::direct(v.dtype(), v.bytes(), 0, v.numel()) } else { None };
    direct.map_or_else(|| Cow::Owned(load_all(v)), Cow::Borrowed)
}

/// The parts of [`rms_norm`] on one line.
pub(super) trait Line: Flt {
    fn sum_of_squares(v: &[Self]) -> f64;
    fn scale(v: &mut [Self], scale: Self);
    fn multiply(v: &mut [Self], w: &[Self]);

    /// `x · rsqrt(mean(x²) + eps)`.
    fn normalize(line: &mut [Self], eps: f64) {
        let mean = Self::of(Self::sum_of_squares(line) / line.len() as f64);
        Self::scale(line, Self::of(1.0).over(mean.plus(Self::of(eps)).root()));
    }
}

impl Line for f32 {
    fn sum_of_squares(v: &[f32]) -> f64 {
        wide::sum_of_squares(v)
    }
    fn scale(v: &mut [f32], scale: f32) {
        wide::scale(v, scale);
    }
    fn multiply(v: &mut [f32], w: &[f32]) {
        wide::multiply(v, w);
    }
}

impl Line for f64 {
    fn sum_of_squares(v: &[f64]) -> f64 {
        v.iter().map(|x| x * x).sum()
    }
    fn scale(v: &mut [f64], scale: f64) {
        v.iter_mut().for_each(|x| *x *= scale);
    }
    fn multiply(v: &mut [f64], w: &[f64]) {
        v.iter_mut().zip(w).for_each(|(x, w)| *x *= w);
    }
}

/// Sum in blocks of 1024, each in 16 lanes.
fn total<C: Num<Acc = f64>>(v: &[C]) -> f64 {
    v.chunks(1024).map(C::block_sum).sum()
}

/// `x · rsqrt(mean(x²) + eps) · weight` over the last dimension, for `x [..., n]` and `weight [n]`. The normalized value is
/// rounded to the dtype of `x` before it meets the weight; the product is rounded to the dtype of `out`, which is that of
/// `x` or the promoted one of `x` and `weight`.
///
/// # Errors
/// Also for an `x` without dimensions.
pub fn rms_norm(ctx: &Context, x: View<'_>, weight: Option<View<'_>>, eps: f64, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::rms_norm";
    float_only(op, "x", x.dtype())?;
    let Some((&n, lead)) = x.sizes().split_last() else {
        return Err(KernelError::new(op, "x has no dimension to normalize over"));
    };
    if let Some(w) = weight {
        float_only(op, "weight", w.dtype())?;
        if w.sizes() != [n] {
            return Err(KernelError::new(op, format!("weight has sizes {:?}, expected [{n}]", w.sizes())));
        }
    }
    let wide = weight.map_or(x.dtype(), |w| DType::promote(x.dtype(), w.dtype()));
    if out.dtype() != wide {
        check_dtype(op, &out, x.dtype())?;
    }
    check_out(op, &out, x.sizes())?;
    if x.numel() == 0 {
        return Ok(());
    }
    if let (Some(w), Some(x), Some(out)) = (&weight, x.as_slice(), out.as_slice_mut())
        && let Some(w) = w.as_slice()
    {
        return Lines::norm(x, w, eps, [x.len() / n, n])?.write(ctx, out);
    }
    let (to, width, from) = (out.dtype(), out.dtype().bits() / 8, x.dtype());
    let d = lead.len();
    let (step_in, step_out) = (x.strides()[d], out.strides()[d]);
    let dense = out.is_contiguous();
    let nest = Nest::new(lead, &[&out.strides()[..d], &x.strides()[..d]], false);
    let [next_out, next_in, ..] = nest.inner();
    in_float!(wide, C => {
        let w: Option<Cow<'_, [C]>> = weight.map(|w| borrow_all(&w));
        let lines = |range: std::ops::Range<usize>, skip: usize, bytes: &mut [u8]| {
            let (mut buf, mut rounded) = (Vec::new(), Vec::new());
            let mut normalize = |line: &mut [C], i: usize| {
                C::load(from, x.bytes(), i, step_in, line);
                C::normalize(line, eps);
                if let Some(w) = &w {
                    round_to(from, line, &mut rounded);
                    C::multiply(line, w);
                }
            };
            nest.rows(range, |at, len| {
                for j in 0..len {
                    let (o, i) = (at[0] + j * next_out - skip, at[1] + j * next_in);
                    let place = if step_out == 1 { C::direct_mut(to, bytes, o, n) } else { None };
                    if let Some(place) = place {
                        normalize(place, i);
                    } else {
                        buf.resize(n, C::of(0.0));
                        normalize(&mut buf, i);
                        C::store(to, bytes, o, step_out, &buf);
                    }
                }
            });
        };
        if dense && step_out == 1 {
            let each = (PIECE / n).max(1);
            let bytes = nest.total() * n * width;
            in_pieces(ctx, &mut out.bytes_mut()[..bytes], each * n * width, &|p, b| {
                lines(p * each..p * each + b.len() / (n * width), p * each * n, b);
            });
        } else {
            lines(0..nest.total(), 0, out.bytes_mut());
        }
    });
    Ok(())
}

/// Rounds to a 16-bit float and back; wider types are what is computed in.
pub(super) fn round_to<C: Compute>(dtype: DType, line: &mut [C], scratch: &mut Vec<u8>) {
    if dtype.bits() > 16 {
        return;
    }
    scratch.resize(line.len() * 2, 0);
    C::store(dtype, scratch, 0, 1, line);
    C::load(dtype, scratch, 0, 1, line);
}

/// `(x - mean)·rstd·weight + bias` over the last `normalized_shape.len()` dimensions, whose sizes are `normalized_shape`,
/// with `rstd = 1/√(var + eps)` of the biased variance. `weight` and `bias` have those sizes; `mean` and `rstd` have the
/// sizes of `x` with those dimensions of size 1. All outs have the dtype of `x`.
pub fn native_layer_norm(
    _ctx: &Context,
    x: View<'_>,
    normalized_shape: &[i64],
    weight: Option<View<'_>>,
    bias: Option<View<'_>>,
    eps: f64,
    mut out: ViewMut<'_>,
    mut mean: ViewMut<'_>,
    mut rstd: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::native_layer_norm";
    float_only(op, "x", x.dtype())?;
    let tail: Vec<usize> =
        normalized_shape.iter().map(|&s| count_of(op, "a normalized size", s)).collect::<Result<_, _>>()?;
    if tail.is_empty() || !x.sizes().ends_with(&tail) {
        let e = format!("x has sizes {:?}, which do not end with normalized_shape {normalized_shape:?}", x.sizes());
        return Err(KernelError::new(op, e));
    }
    for (what, v) in [("weight", weight), ("bias", bias)] {
        let Some(v) = v else { continue };
        float_only(op, what, v.dtype())?;
        if v.sizes() != tail {
            return Err(KernelError::new(op, format!("{what} has sizes {:?}, expected {tail:?}", v.sizes())));
        }
    }
    let d = x.rank() - tail.len();
    check_dtype(op, &out, x.dtype())?;
    check_out(op, &out, x.sizes())?;
    let mut stat_sizes = x.sizes().to_vec();
    stat_sizes[d..].fill(1);
    for s in [&mean, &rstd] {
        check_dtype(op, s, x.dtype())?;
        check_out(op, s, &stat_sizes)?;
    }
    let lead = Nest::new(
        &x.sizes()[..d],
        &[&out.strides()[..d], &x.strides()[..d], &mean.strides()[..d], &rstd.strides()[..d]],
        false,
    );
    let inner = Nest::new(&tail, &[&out.strides()[d..], &x.strides()[d..]], false);
    let n = inner.total();
    let [step_out, step_in, ..] = inner.inner();
    if lead.total() == 0 {
        return Ok(());
    }
    in_float!(x.dtype(), C => {
        let weight: Option<Vec<C>> = weight.map(|w| load_all(&w));
        let bias: Option<Vec<C>> = bias.map(|b| load_all(&b));
        let mut line = vec![C::of(0.0); n];
        let mut centred = vec![C::of(0.0); n];
        lead.each(|at| {
            let mut done = 0;
            inner.rows(0..n, |r, len| {
                C::load(x.dtype(), x.bytes(), at[1] + r[1], step_in, &mut line[done..done + len]);
                done += len;
            });
            let m = total(&line) / n as f64;
            for (c, &v) in centred.iter_mut().zip(&line) {
                let dv = v - C::of(m);
                *c = dv * dv;
            }
            let r = 1.0 / (total(&centred) / n as f64 + eps).sqrt();
            for (k, v) in line.iter_mut().enumerate() {
                let mut y = (*v - C::of(m)) * C::of(r);
                if let Some(w) = &weight {
                    y *= w[k];
                }
                if let Some(b) = &bias {
                    y += b[k];
                }
                *v = y;
            }
            let mut done = 0;
            let dtype = out.dtype();
            inner.rows(0..n, |r, len| {
                C::store(dtype, out.bytes_mut(), at[0] + r[0], step_out, &line[done..done + len]);
                done += len;
            });
            C::store_one(&mut mean, at[2], C::of(m));
            C::store_one(&mut rstd, at[3], C::of(r));
        });
    });
    Ok(())
}
