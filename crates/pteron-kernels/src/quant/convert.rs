//! Tensors to codes and back.

use half::{bf16, f16};
use pteron_tensor::{DType, Tensor, View, ViewMut};

use super::QuantSemantics;
use super::blocks::{Blocks, elements, floats, in_pieces};
use super::dequantize::{self, Dequantizer};
use super::quantize::{self, Code, Quantizer};
use crate::elementwise::drive::PIECE;
use crate::operand::write_row_major;
use crate::{Context, KernelError, KernelResult};

/// The scales and zero points of a tensor, and the codes that may occur.
#[derive(Clone, Copy, Debug)]
pub struct Params<'a> {
    /// `f32` or `f64`.
    pub scales: View<'a>,
    /// Of an integer type, or floats; all 0 if missing.
    pub zero_points: Option<View<'a>>,
    /// Least code.
    pub qmin: i64,
    /// Largest code.
    pub qmax: i64,
}

/// Parameters read, as wide as any.
struct Known {
    scales: Vec<f64>,
    /// The scales are `f64`.
    double: bool,
    zero_points: Option<Vec<f64>>,
    /// The zero points are floats.
    float: bool,
}

impl Known {
    fn read(op: &'static str, p: &Params<'_>, count: usize) -> Result<Known, KernelError> {
        let double = match p.scales.dtype() {
            DType::F64 => true,
            DType::F32 => false,
            other => return Err(KernelError::new(op, format!("the scales are {other}, expected f32 or f64"))),
        };
        let (n, z) = (p.scales.numel(), p.zero_points.map(|z| z.numel()));
        if n != count || z.is_some_and(|z| z != count) {
            let z = z.map_or(String::new(), |z| format!(" and {z} zero points"));
            return Err(KernelError::new(op, format!("{n} scales{z}, expected {count}")));
        }
        let float = p.zero_points.is_some_and(|z| z.dtype().is_float());
        let zero_points = p.zero_points.map(|z| z.to_f64_vec());
        Ok(Known { scales: p.scales.to_f64_vec(), double, zero_points, float })
    }

    fn zero_point(&self, i: usize) -> f64 {
        self.zero_points.as_ref().and_then(|z| z.get(i)).copied().unwrap_or(0.0)
    }

    fn scale(&self, i: usize) -> f64 {
        self.scales.get(i).copied().unwrap_or(1.0)
    }
}

fn check_sizes(op: &'static str, x: &View<'_>, out: &ViewMut<'_>) -> KernelResult {
    if x.sizes() == out.sizes() {
        return Ok(());
    }
    Err(KernelError::new(op, format!("the input has sizes {:?}, but out has {:?}", x.sizes(), out.sizes())))
}

/// Calls `$run` for the code type of a dtype.
macro_rules! for_code {
    ($op:expr, $what:expr, $dtype:expr, $t:ident => $run:expr) => {
        match $dtype {
            DType::I8 => {
                type $t = i8;
                $run
            }
            DType::U8 => {
                type $t = u8;
                $run
            }
            DType::I16 => {
                type $t = i16;
                $run
            }
            DType::U16 => {
                type $t = u16;
                $run
            }
            DType::I32 => {
                type $t = i32;
                $run
            }
            other => {
                let e = format!("{} is {other}, expected i8, u8, i16, u16 or i32", $what);
                return Err(KernelError::new($op, e));
            }
        }
    };
}
pub(super) use for_code;

fn check_range<T: Code>(op: &'static str, qmin: i64, qmax: i64) -> KernelResult {
    let (lo, hi) = T::RANGE;
    if qmin < lo || qmax > hi || qmin > qmax {
        return Err(KernelError::new(op, format!("codes {qmin} to {qmax} do not fit {}, {lo} to {hi}", T::DTYPE)));
    }
    Ok(())
}

/// `out = codes of x`, one quantizer for each block.
fn to_codes<T: Code>(
    ctx: &Context,
    x: &[f32],
    blocks: &Blocks,
    quantizer: &(dyn Fn(usize) -> Quantizer + Sync),
    out: &mut [T],
) {
    in_pieces(ctx, out, PIECE, &|first, piece| {
        blocks.runs(first, piece.len(), |at, len, p| {
            quantizer(p).row(&x[at..at + len], &mut piece[at - first..at - first + len]);
        });
    });
}

fn quantize_blocks(
    op: &'static str,
    ctx: &Context,
    x: &View<'_>,
    blocks: &Blocks,
    params: &Params<'_>,
    form: impl Fn(bool) -> quantize::Form,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    check_sizes(op, x, out)?;
    let known = Known::read(op, params, blocks.count())?;
    let form = form(known.double);
    let (qmin, qmax) = (params.qmin, params.qmax);
    let values = floats(op, x)?;
    let quantizer = |i: usize| Quantizer::with_float_zero_point(form, known.scale(i), known.zero_point(i), qmin, qmax);
    for_code!(op, "out", out.dtype(), T => {
        check_range::<T>(op, qmin, qmax)?;
        write_row_major::<T, _>(out, |all| to_codes(ctx, &values, blocks, &quantizer, all));
    });
    Ok(())
}

fn first(semantics: QuantSemantics) -> impl Fn(bool) -> quantize::Form {
    move |double| match (semantics, double) {
        (QuantSemantics::ExecuTorch, _) => quantize::Form::ExecuTorch,
        (QuantSemantics::Eager, false) => quantize::Form::First,
        (QuantSemantics::Eager, true) => quantize::Form::FirstF64,
    }
}

/// `quantized_decomposed::quantize_per_tensor`: one scale and zero point, given as numbers. `x` is f32, f16 or bf16, `out` has
/// its sizes and holds the codes `qmin..=qmax`.
///
/// # Errors
/// Sizes or types that do not fit, codes beyond the type of `out`.
pub fn quantize_per_tensor(
    ctx: &Context,
    semantics: QuantSemantics,
    x: &View<'_>,
    scale: f64,
    zero_point: i64,
    range: (i64, i64),
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::quantize_per_tensor";
    check_sizes(op, x, out)?;
    let values = floats(op, x)?;
    // A scale that is a Python number is a double; the reciprocal alone is rounded.
    let q = Quantizer::new(first(semantics)(false), scale, zero_point, range.0, range.1);
    let blocks = Blocks::per_tensor(x.sizes());
    for_code!(op, "out", out.dtype(), T => {
        check_range::<T>(op, range.0, range.1)?;
        write_row_major::<T, _>(out, |all| to_codes(ctx, &values, &blocks, &|_| q, all));
    });
    Ok(())
}

/// `quantized_decomposed::quantize_per_channel`: one scale and zero point for each position of dimension `axis`.
///
/// # Errors
/// As [`quantize_per_tensor`]; another number of scales or zero points.
pub fn quantize_per_channel(
    ctx: &Context,
    semantics: QuantSemantics,
    x: &View<'_>,
    params: &Params<'_>,
    axis: i64,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::quantize_per_channel";
    quantize_blocks(op, ctx, x, &Blocks::per_channel(op, x.sizes(), axis)?, params, first(semantics), out)
}

/// `quantized_decomposed::quantize_per_token`: one scale and zero point for each row of the last dimension.
///
/// # Errors
/// As [`quantize_per_channel`].
pub fn quantize_per_token(
    ctx: &Context,
    semantics: QuantSemantics,
    x: &View<'_>,
    params: &Params<'_>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::quantize_per_token";
    let form = |double| match (semantics, double) {
        (QuantSemantics::ExecuTorch, _) => quantize::Form::ExecuTorch,
        (QuantSemantics::Eager, false) => quantize::Form::Last,
        (QuantSemantics::Eager, true) => quantize::Form::LastF64,
    };
    quantize_blocks(op, ctx, x, &Blocks::per_token(op, x.sizes())?, params, form, out)
}

/// The blocks of a matrix whose rows are cut into groups. A group longer than a row of one scale is the row, as PyTorch has
/// it for GPTQ.
fn groups(op: &'static str, x: &View<'_>, scales: &View<'_>, group: i64) -> Result<Blocks, KernelError> {
    let [rows, width] = *x.sizes() else {
        return Err(KernelError::new(op, format!("the input has sizes {:?}, expected two", x.sizes())));
    };
    let _ = rows;
    let width = i64::try_from(width).unwrap_or(i64::MAX);
    let group = if group > width && scales.sizes().last() == Some(&1) { width } else { group };
    if group <= 1 || width % group != 0 {
        return Err(KernelError::new(op, format!("group_size {group} must be above 1 and divide {width}")));
    }
    Blocks::of(op, x.sizes(), &[1, group])
}

/// `quantized_decomposed::quantize_per_channel_group`: one scale and zero point for each `group` elements of a row of a
/// matrix. One meaning: PyTorch's, rounding after the zero point is added.
///
/// # Errors
/// As [`quantize_per_channel`]; a group that does not divide a row; a NaN in `x`.
pub fn quantize_per_channel_group(
    ctx: &Context,
    x: &View<'_>,
    params: &Params<'_>,
    group: i64,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::quantize_per_channel_group";
    let blocks = groups(op, x, &params.scales, group)?;
    if floats(op, x)?.iter().any(|v| v.is_nan()) {
        return Err(KernelError::new(op, "the input holds a NaN"));
    }
    let form = |double| if double { quantize::Form::LastF64 } else { quantize::Form::Last };
    quantize_blocks(op, ctx, x, &blocks, params, form, out)
}

/// `torchao::quantize_affine`: one scale and zero point for each block of `block` elements, one size a dimension.
///
/// # Errors
/// As [`quantize_per_channel`]; blocks that do not divide the sizes.
pub fn quantize_affine(
    ctx: &Context,
    x: &View<'_>,
    params: &Params<'_>,
    block: &[i64],
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "torchao::quantize_affine";
    let form = |double| if double { quantize::Form::FirstF64 } else { quantize::Form::First };
    quantize_blocks(op, ctx, x, &Blocks::of(op, x.sizes(), block)?, params, form, out)
}

/// `quantized_decomposed::fake_quant_per_channel`: to codes and back, in `f32`, one scale and zero point for each position of
/// dimension `axis`.
///
/// # Errors
/// As [`quantize_per_channel`], but `x` and `out` are f32.
pub fn fake_quant_per_channel(
    ctx: &Context,
    x: &View<'_>,
    params: &Params<'_>,
    axis: i64,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::fake_quant_per_channel";
    check_sizes(op, x, out)?;
    let blocks = Blocks::per_channel(op, x.sizes(), axis)?;
    let known = Known::read(op, params, blocks.count())?;
    let values = elements::<f32>(op, x)?;
    let done = write_row_major::<f32, _>(out, |all| {
        in_pieces(ctx, all, PIECE, &|first, piece| {
            blocks.runs(first, piece.len(), |at, len, p| {
                let (scale, zp) = (known.scale(p) as f32, known.zero_point(p));
                let form = quantize::Form::First;
                let q = Quantizer::with_float_zero_point(form, f64::from(scale), zp, params.qmin, params.qmax);
                let piece = &mut piece[at - first..at - first + len];
                q.row_f32(&values[at..at + len], piece);
                for v in piece {
                    *v = (*v - zp as f32) * scale;
                }
            });
        });
    });
    done.ok_or_else(|| KernelError::new(op, "out is not f32"))
}

/// Runs `fill` on the row-major `f32` elements that `out`, of a float type, shall have.
pub(super) fn write_floats(op: &'static str, out: &mut ViewMut<'_>, fill: impl FnOnce(&mut [f32])) -> KernelResult {
    match out.dtype() {
        DType::F32 => {
            write_row_major(out, fill);
        }
        dtype @ (DType::F16 | DType::BF16) => {
            let mut values = vec![0f32; out.numel()];
            fill(&mut values);
            let filled = match dtype {
                DType::F16 => write_row_major::<f16, _>(out, |all| {
                    all.iter_mut().zip(&values).for_each(|(o, &v)| *o = f16::from_f32(v));
                }),
                _ => write_row_major::<bf16, _>(out, |all| {
                    all.iter_mut().zip(&values).for_each(|(o, &v)| *o = bf16::from_f32(v));
                }),
            };
            if filled.is_none() {
                return Err(KernelError::new(op, "out cannot be written"));
            }
        }
        other => return Err(KernelError::new(op, format!("out is {other}, expected f32, f16 or bf16"))),
    }
    Ok(())
}

fn from_codes<T: Code>(
    ctx: &Context,
    q: &[T],
    blocks: &Blocks,
    dequantizer: &(dyn Fn(usize) -> Dequantizer + Sync),
    out: &mut [f32],
) {
    in_pieces(ctx, out, PIECE, &|first, piece| {
        blocks.runs(first, piece.len(), |at, len, p| {
            dequantizer(p).row(&q[at..at + len], &mut piece[at - first..at - first + len]);
        });
    });
}

/// Codes of two 4-bit numbers a byte, low nibble first, one a byte.
fn unpacked(op: &'static str, q: &View<'_>) -> Result<Tensor, KernelError> {
    let failed = |e: String| KernelError::new(op, e);
    if !q.is_contiguous() {
        return Err(failed("i4 elements must be row-major".to_owned()));
    }
    let n = q.numel();
    let nibble = |i: usize| {
        let b = q.bytes().get(i / 2).copied().unwrap_or(0);
        let v = if i.is_multiple_of(2) { b & 15 } else { b >> 4 };
        ((v << 4) as i8) >> 4
    };
    let codes: Vec<i8> = (0..n).map(nibble).collect();
    Tensor::of(q.sizes(), &codes).map_err(|e| failed(e.to_string()))
}

fn dequantize_blocks(
    op: &'static str,
    ctx: &Context,
    q: &View<'_>,
    blocks: &Blocks,
    dequantizer: &(dyn Fn(usize) -> Dequantizer + Sync),
    out: &mut ViewMut<'_>,
) -> KernelResult {
    check_sizes(op, q, out)?;
    if q.dtype() == DType::I4 {
        let t = unpacked(op, q)?;
        return dequantize_blocks(op, ctx, &t.view(), blocks, dequantizer, out);
    }
    for_code!(op, "the input", q.dtype(), T => {
        let codes = elements::<T>(op, q)?;
        write_floats(op, out, |all| from_codes(ctx, &codes, blocks, dequantizer, all))
    })
}

/// Dequantization as PyTorch's `(input.to(dtype) − zp) · scale` in 16 bits: rounded after each step.
fn narrow_steps(
    op: &'static str,
    q: &View<'_>,
    blocks: &Blocks,
    params: &(dyn Fn(usize) -> (f32, f32) + Sync),
    out: &mut ViewMut<'_>,
) -> KernelResult {
    check_sizes(op, q, out)?;
    let codes = match q.dtype() {
        DType::I4 => unpacked(op, q)?.view().to_f64_vec(),
        d if d.is_float() => return Err(KernelError::new(op, format!("the input is {d}, expected codes"))),
        _ => q.to_f64_vec(),
    };
    let half = out.dtype() == DType::F16;
    let round = |v: f32| if half { f16::from_f32(v).to_f32() } else { bf16::from_f32(v).to_f32() };
    write_floats(op, out, |all| {
        blocks.runs(0, all.len(), |at, len, p| {
            let (scale, zp) = params(p);
            for (o, &c) in all[at..at + len].iter_mut().zip(&codes[at..]) {
                *o = round(round(c as f32) - round(zp)) * scale;
            }
        });
    })
}

/// `quantized_decomposed::dequantize_per_tensor`: `(q − zero_point) · scale`. `out` is f32, f16 or bf16.
///
/// # Errors
/// Sizes or types that do not fit.
pub fn dequantize_per_tensor(
    ctx: &Context,
    semantics: QuantSemantics,
    q: &View<'_>,
    scale: f64,
    zero_point: i64,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::dequantize_per_tensor";
    let blocks = Blocks::per_tensor(q.sizes());
    let form = match semantics {
        QuantSemantics::ExecuTorch => dequantize::Form::Integer,
        QuantSemantics::Eager if matches!(out.dtype(), DType::F16 | DType::BF16) => {
            return narrow_steps(op, q, &blocks, &|_| (scale as f32, zero_point as f32), out);
        }
        QuantSemantics::Eager => dequantize::Form::Float,
    };
    let d = Dequantizer::new(form, scale, zero_point);
    dequantize_blocks(op, ctx, q, &blocks, &|_| d, out)
}

fn dequantize_known(
    op: &'static str,
    ctx: &Context,
    semantics: QuantSemantics,
    q: &View<'_>,
    blocks: &Blocks,
    params: &Params<'_>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let known = Known::read(op, params, blocks.count())?;
    let form = match (semantics, known.double, known.float) {
        (_, false, true) => dequantize::Form::Float,
        (QuantSemantics::Eager, true, _) => dequantize::Form::Double,
        _ => dequantize::Form::Integer,
    };
    let dequantizer = |i: usize| match form {
        dequantize::Form::Float => Dequantizer::with_float_zero_point(known.scale(i), known.zero_point(i)),
        form => Dequantizer::new(form, known.scale(i), known.zero_point(i) as i64),
    };
    dequantize_blocks(op, ctx, q, blocks, &dequantizer, out)
}

/// `quantized_decomposed::dequantize_per_channel`: one scale and zero point for each position of dimension `axis`.
///
/// # Errors
/// As [`dequantize_per_tensor`]; another number of scales or zero points.
pub fn dequantize_per_channel(
    ctx: &Context,
    semantics: QuantSemantics,
    q: &View<'_>,
    params: &Params<'_>,
    axis: i64,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::dequantize_per_channel";
    dequantize_known(op, ctx, semantics, q, &Blocks::per_channel(op, q.sizes(), axis)?, params, out)
}

/// `quantized_decomposed::dequantize_per_token`: one scale and zero point for each row of the last dimension.
///
/// # Errors
/// As [`dequantize_per_channel`].
pub fn dequantize_per_token(
    ctx: &Context,
    semantics: QuantSemantics,
    q: &View<'_>,
    params: &Params<'_>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::dequantize_per_token";
    dequantize_known(op, ctx, semantics, q, &Blocks::per_token(op, q.sizes())?, params, out)
}

/// `quantized_decomposed::dequantize_per_channel_group`: one scale and zero point for each `group` elements of a row of a
/// matrix. One meaning: PyTorch's.
///
/// # Errors
/// As [`dequantize_per_channel`]; a group that does not divide a row.
pub fn dequantize_per_channel_group(
    ctx: &Context,
    q: &View<'_>,
    params: &Params<'_>,
    group: i64,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "quantized_decomposed::dequantize_per_channel_group";
    let blocks = groups(op, q, &params.scales, group)?;
    dequantize_known(op, ctx, QuantSemantics::Eager, q, &blocks, params, out)
}

/// `torchao::dequantize_affine`: `(q − zp) · scale` in the type of `out`, one scale and zero point for each block of `block`
/// elements.
///
/// # Errors
/// As [`dequantize_per_channel`]; blocks that do not divide the sizes.
pub fn dequantize_affine(
    ctx: &Context,
    q: &View<'_>,
    params: &Params<'_>,
    block: &[i64],
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "torchao::dequantize_affine";
    let blocks = Blocks::of(op, q.sizes(), block)?;
    let known = Known::read(op, params, blocks.count())?;
    if matches!(out.dtype(), DType::F16 | DType::BF16) {
        let params = |i: usize| (known.scale(i) as f32, known.zero_point(i) as f32);
        return narrow_steps(op, q, &blocks, &params, out);
    }
    let dequantizer = |i: usize| match known.double {
        true => Dequantizer::new(dequantize::Form::Double, known.scale(i), known.zero_point(i) as i64),
        false => Dequantizer::with_float_zero_point(known.scale(i), known.zero_point(i)),
    };
    dequantize_blocks(op, ctx, q, &blocks, &dequantizer, out)
}
