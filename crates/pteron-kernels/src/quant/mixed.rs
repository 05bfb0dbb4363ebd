//! Operators that compute with codes: addition, and products of floats with a matrix of codes.
//!
//! Source: `kernels/quantized/cpu/op_add.cpp`, `op_mixed_linear.cpp`, `op_mixed_mm.cpp`.

use pteron_tensor::{DType, Tensor, View, ViewMut};

use super::blocks::{elements, floats, in_pieces};
use super::convert::{Params, for_code, write_floats};
use super::quantize::{Code, Form, Quantizer};
use crate::elementwise::drive::PIECE;
use crate::operand::write_row_major;
use crate::{Context, KernelError, KernelResult};

/// Scale, zero point and codes of one operand of [`add`].
#[derive(Clone, Copy, Debug)]
pub struct Affine {
    /// Its scale, rounded to f32 when it is used.
    pub scale: f64,
    /// Its zero point.
    pub zero_point: i64,
    /// Least and largest code.
    pub range: (i64, i64),
}

/// `quantized_decomposed::add`: codes of `real(a) + real(b)`, each dequantized to f32, added in f32 and quantized as
/// ExecuTorch does. `a`, `b` and `out` have the same sizes and the same type.
///
/// # Errors
/// Sizes or types that do not fit.
pub fn add(
    ctx: &Context,
    a: (&View<'_>, Affine),
    b: (&View<'_>, Affine),
    to: Affine,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::add";
    let ((a, pa), (b, pb)) = (a, b);
    if a.sizes() != b.sizes() || a.sizes() != out.sizes() || a.dtype() != b.dtype() || a.dtype() != out.dtype() {
        let e = format!(
            "{} {:?} and {} {:?} into {} {:?}: expected the same",
            a.dtype(),
            a.sizes(),
            b.dtype(),
            b.sizes(),
            out.dtype(),
            out.sizes()
        );
        return Err(KernelError::new(op, e));
    }
    let q = Quantizer::new(Form::ExecuTorch, to.scale, to.zero_point, to.range.0, to.range.1);
    let (sa, sb) = (f64::from(pa.scale as f32), f64::from(pb.scale as f32));
    for_code!(op, "an operand", a.dtype(), T => {
        let (x, y) = (elements::<T>(op, a)?, elements::<T>(op, b)?);
        write_row_major::<T, _>(out, |all| {
            in_pieces(ctx, all, PIECE, &|first, piece| {
                let mut sums = [0f32; 256];
                for (k, o) in piece.chunks_mut(256).enumerate() {
                    let at = first + k * 256;
                    for (i, s) in sums[..o.len()].iter_mut().enumerate() {
                        let ra = (x[at + i].wide().wrapping_sub(pa.zero_point) as f64 * sa) as f32;
                        let rb = (y[at + i].wide().wrapping_sub(pb.zero_point) as f64 * sb) as f32;
                        *s = ra + rb;
                    }
                    q.row(&sums[..o.len()], o);
                }
            });
        });
    });
    Ok(())
}

fn matrix(op: &'static str, name: &str, v: &View<'_>) -> Result<(usize, usize), KernelError> {
    match *v.sizes() {
        [a, b] => Ok((a, b)),
        _ => Err(KernelError::new(op, format!("{name} has sizes {:?}, expected two", v.sizes()))),
    }
}

fn check_types(op: &'static str, x: &View<'_>, w: &View<'_>, p: &Params<'_>) -> KernelResult {
    let fits = matches!(x.dtype(), DType::F32 | DType::F16) && w.dtype() == DType::I8 && p.scales.dtype() == x.dtype();
    if !fits {
        let e = format!(
            "{} · {} with scales of {}: expected f32 or f16, i8, and scales as the first",
            x.dtype(),
            w.dtype(),
            p.scales.dtype()
        );
        return Err(KernelError::new(op, e));
    }
    if p.zero_points.is_some() {
        return Err(KernelError::new(op, "zero points are not supported, by ExecuTorch's kernel either"));
    }
    Ok(())
}

/// `quantized_decomposed::mixed_mm`: `x · (w · scales)`, `x` `[m, k]` of f32 or f16, `w` `[k, n]` of i8, one scale for each
/// row of `w`, `out` `[m, n]`. The weight is dequantized to f32 and multiplied as floats are.
///
/// # Errors
/// Sizes or types that do not fit; zero points, which ExecuTorch's kernel does not take.
pub fn mixed_mm(ctx: &Context, x: &View<'_>, w: &View<'_>, p: &Params<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    let op = "quantized_decomposed::mixed_mm";
    let ((m, k), (rows, n)) = (matrix(op, "the input", x)?, matrix(op, "the weight", w)?);
    check_types(op, x, w, p)?;
    if k != rows || p.scales.sizes() != [rows] || out.sizes() != [m, n] {
        return Err(KernelError::new(
            op,
            format!("sizes {:?} · {:?} into {:?} do not fit", x.sizes(), w.sizes(), out.sizes()),
        ));
    }
    let weight = dequantized(op, ctx, w, &p.scales, n)?;
    product(op, ctx, x, &weight, out, crate::matmul::mm)
}

/// `quantized_decomposed::mixed_linear`: `x · wᵀ` with scales, `x` `[m, k]` of f32 or f16, `w` `[n, k]` of i8, `scales` `[n]` or
/// `[n, groups]`, `out` `[m, n]` of f32 or f16.
///
/// # Errors
/// As [`mixed_mm`].
pub fn mixed_linear(ctx: &Context, x: &View<'_>, w: &View<'_>, p: &Params<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    let op = "quantized_decomposed::mixed_linear";
    let ((m, k), (n, cols)) = (matrix(op, "the input", x)?, matrix(op, "the weight", w)?);
    check_types(op, x, w, p)?;
    let groups = match *p.scales.sizes() {
        [rows] if rows == n => 1,
        [rows, g] if rows == n && g > 0 => g,
        _ => 0,
    };
    if k != cols || groups == 0 || out.sizes() != [m, n] {
        let e = format!(
            "sizes {:?} · {:?} with scales {:?} into {:?} do not fit",
            x.sizes(),
            w.sizes(),
            p.scales.sizes(),
            out.sizes()
        );
        return Err(KernelError::new(op, e));
    }
    // As the kernel cuts a row: the last group may be shorter.
    let group = k.div_ceil(groups).max(1);
    if k.div_ceil(group) != groups && k > 0 {
        return Err(KernelError::new(op, format!("{groups} groups cannot cut {k} columns evenly")));
    }
    let weight = if k.is_multiple_of(group) {
        dequantized(op, ctx, w, &p.scales, group)?
    } else {
        return Err(KernelError::new(op, format!("{groups} groups do not divide {k} columns")));
    };
    product(op, ctx, x, &weight, out, |ctx, x, w, out| crate::matmul::linear(ctx, x, w, None, out))
}

/// `w · scale`, one scale for each `group` neighbours.
fn dequantized(
    op: &'static str,
    ctx: &Context,
    w: &View<'_>,
    scales: &View<'_>,
    group: usize,
) -> Result<Tensor, KernelError> {
    let codes = elements::<i8>(op, w)?;
    let s = floats(op, scales)?;
    let mut out = Tensor::zeros(DType::F32, w.sizes()).map_err(|e| KernelError::new(op, e.to_string()))?;
    write_floats(op, &mut out.view_mut(), |all| {
        in_pieces(ctx, all, (PIECE / group.max(1)).max(1) * group, &|first, piece| {
            for (k, o) in piece.chunks_mut(group.max(1)).enumerate() {
                let at = first + k * group;
                let scale = s[at / group];
                o.iter_mut().zip(&codes[at..]).for_each(|(o, &c)| *o = f32::from(c) * scale);
            }
        });
    })?;
    Ok(out)
}

fn product(
    op: &'static str,
    ctx: &Context,
    x: &View<'_>,
    w: &Tensor,
    out: &mut ViewMut<'_>,
    multiply: impl Fn(&Context, &View<'_>, &View<'_>, &mut ViewMut<'_>) -> KernelResult,
) -> KernelResult {
    if x.dtype() == DType::F32 && out.dtype() == DType::F32 {
        return multiply(ctx, x, &w.view(), out);
    }
    let failed = |e: String| KernelError::new(op, e);
    let wide = floats(op, x)?;
    let wide = Tensor::of(x.sizes(), &wide).map_err(|e| failed(e.to_string()))?;
    let mut result = Tensor::zeros(DType::F32, out.sizes()).map_err(|e| failed(e.to_string()))?;
    multiply(ctx, &wide.view(), &w.view(), &mut result.view_mut())?;
    let values = elements::<f32>(op, &result.view())?.to_vec();
    write_floats(op, out, |all| all.copy_from_slice(&values))
}
