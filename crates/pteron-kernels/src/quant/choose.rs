//! Choosing scales and zero points from what a tensor holds, at run time.

use std::sync::Mutex;

use pteron_tensor::{DType, View, ViewMut};

use super::QuantSemantics;
use super::blocks::{Blocks, elements, in_pieces, rows_a_piece};
use super::qparams::{self, Mapping, QParams};
use crate::elementwise::drive::PIECE;
use crate::operand::write_row_major;
use crate::{Context, KernelError, KernelResult};

/// Least and largest element, each piece of the tensor on a thread; NaN spreads or not as `find` has it.
fn extremes(ctx: &Context, x: &[f32], eager: bool) -> Option<(f32, f32)> {
    let find = |part: &[f32]| if eager { qparams::aminmax(part) } else { qparams::min_max_element(part) };
    let &first = x.first()?;
    if x.len() <= PIECE || ctx.pool().threads() == 1 {
        return find(x);
    }
    let mut parts: Vec<Option<(f32, f32)>> = vec![None; x.len().div_ceil(PIECE)];
    in_pieces(ctx, &mut parts, 1, &|i, out| {
        let part = &x[i * PIECE..x.len().min((i + 1) * PIECE)];
        out[0] = find(part);
    });
    // A NaN at the head of a piece is one further back in the tensor; of that piece the rest counts.
    let mut lo = vec![first];
    let mut hi = vec![first];
    for (i, part) in parts.into_iter().enumerate() {
        let (mut a, mut b) = part?;
        if !eager && a.is_nan() && i > 0 {
            let rest: Vec<f32> =
                x[i * PIECE..x.len().min((i + 1) * PIECE)].iter().copied().filter(|v| !v.is_nan()).collect();
            let Some(found) = find(&rest) else { continue };
            (a, b) = found;
        }
        lo.push(a);
        hi.push(b);
    }
    Some((find(&lo)?.0, find(&hi)?.1))
}

fn not_a_number(op: &'static str) -> impl Fn(qparams::NotANumber) -> KernelError {
    move |e| KernelError::new(op, e.to_string())
}

fn codes_i32(op: &'static str, qmin: i64, qmax: i64) -> Result<(i32, i32), KernelError> {
    match (i32::try_from(qmin), i32::try_from(qmax)) {
        (Ok(a), Ok(b)) if a < b => Ok((a, b)),
        _ => Err(KernelError::new(op, format!("codes {qmin} to {qmax}: expected two 32-bit ints in order"))),
    }
}

fn one_element(op: &'static str, out: &ViewMut<'_>, dtype: DType) -> KernelResult {
    if out.dtype() == dtype && out.sizes().iter().product::<usize>() == 1 {
        return Ok(());
    }
    Err(KernelError::new(op, format!("a result is {} {:?}, expected one {dtype}", out.dtype(), out.sizes())))
}

fn put(mut scale_out: ViewMut<'_>, mut zero_point_out: ViewMut<'_>, q: QParams<f64>) {
    write_row_major::<f64, _>(&mut scale_out, |s| s.fill(q.scale));
    write_row_major::<i64, _>(&mut zero_point_out, |z| z.fill(q.zero_point));
}

/// `quantized_decomposed::choose_qparams.tensor`: scale (one f64) and zero point (one i64) of the whole of `x`, f32, for codes
/// `qmin..=qmax`. By [`QuantSemantics`], [`qparams::executorch`], which does not look at `eps`, or [`qparams::affine`].
///
/// # Errors
/// Types that do not fit; no element; by ExecuTorch's rule, a NaN in front.
pub fn choose_qparams(
    ctx: &Context,
    semantics: QuantSemantics,
    x: &View<'_>,
    range: (i64, i64),
    eps: f64,
    scale_out: ViewMut<'_>,
    zero_point_out: ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::choose_qparams";
    one_element(op, &scale_out, DType::F64)?;
    one_element(op, &zero_point_out, DType::I64)?;
    let (qmin, qmax) = codes_i32(op, range.0, range.1)?;
    let values = elements::<f32>(op, x)?;
    let eager = semantics == QuantSemantics::Eager;
    let (lo, hi) = extremes(ctx, &values, eager).ok_or_else(|| KernelError::new(op, "the input has no element"))?;
    let q = match semantics {
        QuantSemantics::ExecuTorch => qparams::executorch(lo, hi, qmin, qmax).map_err(not_a_number(op))?,
        QuantSemantics::Eager => widened(qparams::affine(lo, hi, range.0, range.1, eps as f32)),
    };
    put(scale_out, zero_point_out, q);
    Ok(())
}

fn widened(q: QParams<f32>) -> QParams<f64> {
    QParams { scale: f64::from(q.scale), zero_point: q.zero_point }
}

/// `quantized_decomposed::choose_qparams_symmetric.tensor`: as [`choose_qparams`], by [`qparams::symmetric`]. PyTorch's only:
/// ExecuTorch has no kernel. The zero point is 0, and 128 for codes of type u8.
///
/// # Errors
/// Types that do not fit; no element.
pub fn choose_qparams_symmetric(
    ctx: &Context,
    x: &View<'_>,
    range: (i64, i64),
    eps: f64,
    dtype: DType,
    scale_out: ViewMut<'_>,
    zero_point_out: ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::choose_qparams_symmetric";
    one_element(op, &scale_out, DType::F64)?;
    one_element(op, &zero_point_out, DType::I64)?;
    codes_i32(op, range.0, range.1)?;
    let values = elements::<f32>(op, x)?;
    let (lo, hi) = extremes(ctx, &values, true).ok_or_else(|| KernelError::new(op, "the input has no element"))?;
    // `determine_qparams` knows of no midpoint for u16.
    let zero_point = if dtype == DType::U8 { 128 } else { 0 };
    put(scale_out, zero_point_out, widened(qparams::symmetric(lo, hi, range.0, range.1, eps as f32, zero_point)));
    Ok(())
}

/// Scale and zero point of a row.
type OfRow<'a, S, Z> = dyn Fn(&[f32]) -> Result<(S, Z), KernelError> + Sync + 'a;

/// Runs `of(row)` for every row of the last dimension and stores scale and zero point.
fn per_row<S: pteron_tensor::Element, Z: pteron_tensor::Element>(
    op: &'static str,
    ctx: &Context,
    x: &View<'_>,
    mut scale_out: ViewMut<'_>,
    mut zero_point_out: ViewMut<'_>,
    of: &OfRow<'_, S, Z>,
) -> KernelResult {
    let Some((&width, lead)) = x.sizes().split_last() else {
        return Err(KernelError::new(op, "the input has no dimension that could be a token's"));
    };
    let mut sizes = lead.to_vec();
    sizes.push(1);
    for (out, dtype) in [(&scale_out, S::DTYPE), (&zero_point_out, Z::DTYPE)] {
        if out.dtype() != dtype || out.sizes() != sizes {
            let e = format!("a result is {} {:?}, expected {dtype} {sizes:?}", out.dtype(), out.sizes());
            return Err(KernelError::new(op, e));
        }
    }
    let values = elements::<f32>(op, x)?;
    let rows: usize = lead.iter().product();
    if width == 0 && rows > 0 {
        return Err(KernelError::new(op, "a token has no element"));
    }
    let mut found: Vec<Option<(S, Z)>> = vec![None; rows];
    let failed: Mutex<Option<KernelError>> = Mutex::new(None);
    in_pieces(ctx, &mut found, rows_a_piece(width), &|first, piece| {
        for (i, slot) in piece.iter_mut().enumerate() {
            let at = (first + i) * width;
            match of(&values[at..at + width]) {
                Ok(pair) => *slot = Some(pair),
                Err(e) => {
                    if let Ok(mut f) = failed.lock() {
                        *f = Some(e);
                    }
                }
            }
        }
    });
    if let Ok(mut f) = failed.lock()
        && let Some(e) = f.take()
    {
        return Err(e);
    }
    write_row_major::<S, _>(&mut scale_out, |all| {
        all.iter_mut().zip(&found).for_each(|(o, f)| *o = f.map_or(S::zeroed(), |f| f.0));
    });
    write_row_major::<Z, _>(&mut zero_point_out, |all| {
        all.iter_mut().zip(&found).for_each(|(o, f)| *o = f.map_or(Z::zeroed(), |f| f.1));
    });
    Ok(())
}

/// `quantized_decomposed::choose_qparams_per_token_asymmetric`: scale (f64) and zero point (i64) of every row of the last
/// dimension of `x`, f32, for codes −128..=127; results have the sizes of `x` but 1 at the end. By [`QuantSemantics`],
/// [`qparams::executorch`] or [`qparams::per_token_asymmetric`].
///
/// # Errors
/// As [`choose_qparams`].
pub fn choose_qparams_per_token_asymmetric(
    ctx: &Context,
    semantics: QuantSemantics,
    x: &View<'_>,
    scale_out: ViewMut<'_>,
    zero_point_out: ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::choose_qparams_per_token_asymmetric";
    let none = || KernelError::new(op, "a token has no element");
    per_row::<f64, i64>(op, ctx, x, scale_out, zero_point_out, &|row| {
        let q = match semantics {
            QuantSemantics::ExecuTorch => {
                let (lo, hi) = qparams::min_max_element(row).ok_or_else(none)?;
                qparams::executorch(lo, hi, -128, 127).map_err(not_a_number(op))?
            }
            QuantSemantics::Eager => {
                let (lo, hi) = qparams::aminmax(row).ok_or_else(none)?;
                widened(qparams::per_token_asymmetric(lo, hi))
            }
        };
        Ok((q.scale, q.zero_point))
    })
}

/// `quantized_decomposed::choose_qparams_per_token`, symmetric: scale and zero point, both f32, of every row of the last
/// dimension of `x`, f32, by [`qparams::per_token_symmetric`]. PyTorch's only.
///
/// # Errors
/// As [`choose_qparams`].
pub fn choose_qparams_per_token(
    ctx: &Context,
    x: &View<'_>,
    scale_out: ViewMut<'_>,
    zero_point_out: ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::choose_qparams_per_token";
    let none = || KernelError::new(op, "a token has no element");
    per_row::<f32, f32>(op, ctx, x, scale_out, zero_point_out, &|row| {
        let (lo, hi) = qparams::aminmax(row).ok_or_else(none)?;
        let absmax = if lo.is_nan() { f32::NAN } else { lo.abs().max(hi.abs()) };
        Ok((qparams::per_token_symmetric(absmax).scale, 0.0))
    })
}

/// `torchao::choose_qparams_affine`: scale and zero point of every block of `block` elements of `x`, f32, by
/// [`qparams::torchao`]. `scale_out` is f32 or f64, `zero_point_out` of an integer type or f32; each has one element a block.
/// `eps` is the least normal f32 by default.
///
/// # Errors
/// Types that do not fit; blocks that do not divide the sizes.
pub fn choose_qparams_affine(
    ctx: &Context,
    x: &View<'_>,
    mapping: Mapping,
    block: &[i64],
    range: (i64, i64),
    eps: Option<f64>,
    mut scale_out: ViewMut<'_>,
    mut zero_point_out: ViewMut<'_>,
) -> KernelResult {
    let op = "torchao::choose_qparams_affine";
    if range.0 >= range.1 {
        return Err(KernelError::new(op, format!("codes {} to {}: expected two in order", range.0, range.1)));
    }
    let blocks = Blocks::of(op, x.sizes(), block)?;
    let values = elements::<f32>(op, x)?;
    let count = blocks.count();
    for out in [&scale_out, &zero_point_out] {
        let n: usize = out.sizes().iter().product();
        if n != count {
            return Err(KernelError::new(op, format!("a result has {n} elements for {count} blocks")));
        }
    }
    let eps = eps.map_or(f32::MIN_POSITIVE, |e| e as f32);
    let mut found = vec![QParams { scale: 0f32, zero_point: 0 }; count];
    let size = x.numel().checked_div(count).unwrap_or(0);
    in_pieces(ctx, &mut found, rows_a_piece(size), &|first, piece| {
        for (i, slot) in piece.iter_mut().enumerate() {
            let (mut lo, mut hi) = (f32::INFINITY, f32::NEG_INFINITY);
            blocks.block_runs(first + i, |at, len| {
                if let Some((a, b)) = qparams::aminmax(&values[at..at + len]) {
                    lo = if lo.is_nan() || lo < a { lo } else { a };
                    hi = if hi.is_nan() || hi > b { hi } else { b };
                }
            });
            *slot = qparams::torchao(lo, hi, mapping, range.0, range.1, eps);
        }
    });
    let failed = || KernelError::new(op, "a result cannot hold scales or zero points");
    for (i, q) in found.iter().enumerate() {
        let scale = pteron_tensor::Scalar::Float(f64::from(q.scale));
        scale_out.set_scalar(i, scale).filter(|()| scale_out.dtype().is_float()).ok_or_else(failed)?;
        zero_point_out.set_scalar(i, pteron_tensor::Scalar::Int(q.zero_point)).ok_or_else(failed)?;
    }
    Ok(())
}
