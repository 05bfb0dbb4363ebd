//! Activations as codes: a scale and a zero point for each row.

use pteron_tensor::{DType, View};

use crate::nn::Lines;
use crate::operand::SharedMut;
use crate::quant::QuantSemantics;
use crate::quant::qd8;
use crate::quant::qparams::{self, Mapping};
use crate::quant::quantize::{Form, Quantizer};
use crate::scratch::Floats;
use crate::simd::{Encode, EncodeKind, code_row};
use crate::{Context, KernelError, KernelResult};

/// How scale and zero point of activations are chosen at run time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choose {
    /// For each row, as `quantized_decomposed::choose_qparams_per_token_asymmetric`, codes −128 to 127.
    PerToken(QuantSemantics),
    /// For each row, as `torchao::choose_qparams_affine`; the smallest scale is `eps`.
    Affine {
        /// How the range becomes a scale.
        mapping: Mapping,
        /// The smallest scale.
        eps: f32,
    },
    /// For each row, as `xnnpack::convert_qd8`, codes −128 to 127; the form is that rule's own.
    Qd8,
    /// One for all rows, as `quantized_decomposed::choose_qparams.tensor`; `eps` counts for PyTorch's meaning only.
    PerTensor(QuantSemantics, f32),
}

/// Quantization of activations at run time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DynamicQuant {
    /// The rule of scales and zero points.
    pub choose: Choose,
    /// How a number becomes a code.
    pub form: Form,
    /// Least and largest code: within −128 to 127, or 0 to 255.
    pub range: (i64, i64),
}

/// Rows of codes, each with a scale and a zero point, as products read them.
#[derive(Debug, Default)]
pub struct Rows {
    pub(super) codes: Vec<u8>,
    pub(super) zero: Vec<i32>,
    pub(super) scale: Vec<f32>,
    pub(super) m: usize,
    pub(super) k: usize,
    /// What rows are computed into where their codes depend on all of them.
    floats: Floats,
}

const OP: &str = "linear of codes";

/// What is added to a code so that it is one of 0 to 255.
fn shift(range: (i64, i64)) -> Result<u8, KernelError> {
    match range {
        (lo, hi) if lo >= -128 && hi <= 127 && lo < hi => Ok(128),
        (lo, hi) if lo >= 0 && hi <= 255 && lo < hi => Ok(0),
        (lo, hi) => Err(KernelError::new(OP, format!("codes {lo} to {hi} of activations: expected 8 bits"))),
    }
}

impl Rows {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.m
    }

    /// Codes in a row.
    pub fn columns(&self) -> usize {
        self.k
    }

    fn resize(&mut self, m: usize, k: usize) {
        (self.m, self.k) = (m, k);
        self.codes.resize(m * code_row(k), 0);
        self.zero.resize(m, 0);
        self.scale.resize(m, 0.0);
    }

    /// Makes these the codes of the rows of `x`: exactly the codes, scales and zero points that the operators of `how` give one
    /// after the other.
    ///
    /// # Errors
    /// A range of codes beyond 8 bits; by ExecuTorch's rule, a row with a NaN in front.
    pub fn quantize(&mut self, ctx: &Context, x: &Lines<'_>, how: &DynamicQuant) -> KernelResult {
        let [m, k] = x.sizes();
        let whole = matches!(how.choose, Choose::PerTensor(..)) && m > 1;
        if whole && x.as_floats().is_none() {
            // The range of all of them comes before the first code.
            let mut all = std::mem::take(&mut self.floats);
            all.resize(m * k);
            let done = x.write(ctx, &mut all).and_then(|()| self.quantize(ctx, &Lines::floats(&all, [m, k])?, how));
            self.floats = all;
            return done;
        }
        let shift = shift(how.range)?;
        self.resize(m, k);
        if m == 0 {
            return Ok(());
        }
        if k == 0 {
            return Err(KernelError::new(OP, "a token has no element"));
        }
        let whole = x.as_floats().filter(|_| whole).map(|x| params(ctx, x, how)).transpose()?;
        let (codes, zero) = (SharedMut::new(&mut self.codes), SharedMut::new(&mut self.zero));
        let scale = SharedMut::new(&mut self.scale);
        let pitch = code_row(k);
        let failed = std::sync::Mutex::new(None);
        x.in_pieces(ctx, &|row| {
            // SAFETY: row `row` of the codes, of scales, zero points and of what is read: each row is one piece's.
            let done = unsafe {
                let out = std::slice::from_raw_parts_mut(codes.at(row * pitch), k);
                x.with(ctx, row, |values| row_of_codes(ctx, values, how, whole, shift, out))
            };
            match done {
                // SAFETY: as above.
                Ok((s, z)) => unsafe {
                    *scale.at(row) = s;
                    *zero.at(row) = i32::try_from(z).unwrap_or(0) + i32::from(shift);
                },
                Err(e) => *failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(e),
            }
        });
        match failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }

    /// Makes these the given codes, `[…, k]` of i8 or u8, with one scale and zero point for each row, or one for all of them.
    /// False if a zero point is no code, so that the kernels do not take it; the rows are empty then.
    ///
    /// # Errors
    /// Types or numbers that do not fit.
    pub fn take(&mut self, codes: &View<'_>, scales: &[f64], zero_points: &[i64]) -> Result<bool, KernelError> {
        let Some((&k, lead)) = codes.sizes().split_last() else {
            return Err(KernelError::new(OP, "codes of activations have no dimension"));
        };
        let m: usize = lead.iter().product();
        let fits = |n: usize| n == 1 || n == m;
        if !fits(scales.len()) || !fits(zero_points.len()) || !codes.is_contiguous() {
            let e = format!("{} scales and {} zero points for {m} rows", scales.len(), zero_points.len());
            return Err(KernelError::new(OP, e));
        }
        let shift: u8 = match codes.dtype() {
            DType::I8 => 128,
            DType::U8 => 0,
            other => return Err(KernelError::new(OP, format!("codes of activations are {other}, expected i8 or u8"))),
        };
        self.resize(m, k);
        for row in 0..m {
            let zero = zero_points[if zero_points.len() == 1 { 0 } else { row }];
            match u8::try_from(zero.saturating_add(i64::from(shift))) {
                Ok(z) => self.zero[row] = i32::from(z),
                Err(_) => {
                    self.resize(0, k);
                    return Ok(false);
                }
            }
            self.scale[row] = scales[if scales.len() == 1 { 0 } else { row }] as f32;
        }
        let pitch = code_row(k);
        if k > 0 {
            for (to, from) in self.codes.chunks_exact_mut(pitch).zip(codes.bytes().chunks_exact(k)) {
                to[..k].iter_mut().zip(from).for_each(|(o, &c)| *o = c ^ shift);
            }
        }
        Ok(true)
    }
}

/// Writes the codes of a row, from 0 to 255; gives its scale and its zero point as the rule has it. `whole` are those of all
/// rows, if they share them.
fn row_of_codes(
    ctx: &Context,
    x: &[f32],
    how: &DynamicQuant,
    whole: Option<(f64, i64)>,
    shift: u8,
    out: &mut [u8],
) -> Result<(f32, i64), KernelError> {
    let fast = ctx.kernels().codes().rows;
    if how.choose == Choose::Qd8 {
        let Some(fns) = fast else {
            let q = qd8::quantize_row(x, bytemuck::cast_slice_mut(out));
            crate::wide::flip_signs(out);
            return Ok((q.scale, q.zero_point));
        };
        // SAFETY: the kernels are the context's, which this processor executes; `out` is as long as `x`.
        unsafe {
            let (lo, hi, _) = (fns.extremes)(0.0, x);
            let (factor, q) = qd8::params(lo, hi);
            let zero = q.zero_point as f32;
            let e = Encode { kind: EncodeKind::Qd8, factor, zero, low: -128.0, high: 127.0, flip: shift };
            (fns.encode)(e, x, out);
            return Ok((q.scale, q.zero_point));
        }
    }
    let (s, z) = match whole {
        Some(pair) => pair,
        None => params(ctx, x, how)?,
    };
    let kind = match how.form {
        Form::ExecuTorch => Some((EncodeKind::ExecuTorch, 1.0 / s as f32)),
        // The reciprocal of an f32, rounded once.
        Form::First => Some((EncodeKind::First, (1.0 / s) as f32)),
        Form::Last | Form::FirstF64 | Form::LastF64 => None,
    };
    if let (Some(fns), Some((kind, factor))) = (fast, kind) {
        let (low, high) = (how.range.0 as f32, how.range.1 as f32);
        let e = Encode { kind, factor, zero: z as f32, low, high, flip: shift };
        // SAFETY: as above.
        unsafe { (fns.encode)(e, x, out) };
        return Ok((s as f32, z));
    }
    let q = Quantizer::new(how.form, s, z, how.range.0, how.range.1);
    if shift == 0 {
        q.row::<u8>(x, out);
    } else {
        q.row::<i8>(x, bytemuck::cast_slice_mut(out));
        crate::wide::flip_signs(out);
    }
    Ok((s as f32, z))
}

/// Scale and zero point of the range of `x`.
fn params(ctx: &Context, x: &[f32], how: &DynamicQuant) -> Result<(f64, i64), KernelError> {
    let nan = |e: qparams::NotANumber| KernelError::new(OP, e.to_string());
    let none = || KernelError::new(OP, "a token has no element");
    let codes = |v: i64| i32::try_from(v).map_err(|_| KernelError::new(OP, "codes of activations go beyond 32 bits"));
    let skips_nan = matches!(
        how.choose,
        Choose::PerToken(QuantSemantics::ExecuTorch) | Choose::PerTensor(QuantSemantics::ExecuTorch, _)
    );
    let &head = x.first().ok_or_else(none)?;
    let (lo, hi) = match ctx.kernels().codes().rows {
        Some(fns) => {
            // SAFETY: the kernels are the context's, which this processor executes.
            let (lo, hi, nan) = unsafe { (fns.extremes)(head, x) };
            if nan && !skips_nan { (f32::NAN, f32::NAN) } else { (lo, hi) }
        }
        None if skips_nan => qparams::min_max_element(x).ok_or_else(none)?,
        None => qparams::aminmax(x).ok_or_else(none)?,
    };
    let wide = |q: qparams::QParams<f32>| (f64::from(q.scale), q.zero_point);
    Ok(match how.choose {
        Choose::PerToken(QuantSemantics::ExecuTorch) => {
            let q = qparams::executorch(lo, hi, -128, 127).map_err(nan)?;
            (q.scale, q.zero_point)
        }
        Choose::PerToken(QuantSemantics::Eager) => wide(qparams::per_token_asymmetric(lo, hi)),
        Choose::Qd8 => wide(qd8::params(lo, hi).1),
        Choose::PerTensor(QuantSemantics::ExecuTorch, _) => {
            let q = qparams::executorch(lo, hi, codes(how.range.0)?, codes(how.range.1)?).map_err(nan)?;
            (q.scale, q.zero_point)
        }
        Choose::PerTensor(QuantSemantics::Eager, eps) => wide(qparams::affine(lo, hi, how.range.0, how.range.1, eps)),
        Choose::Affine { mapping, eps } => wide(qparams::torchao(lo, hi, mapping, how.range.0, how.range.1, eps)),
    })
}
