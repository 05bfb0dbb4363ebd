//! Quantization: from operators to kernels.

use pteron_ir::Op;
use pteron_kernels::attention::SdpaOptions;
use pteron_kernels::quant::qparams::Mapping;
use pteron_kernels::quant::{self, Affine, Coded, Faked, ObserveRule, Params, QuantSemantics, TableBits};
use pteron_kernels::{Context, elementwise as ew, index};
use pteron_tensor::{DType, Scalar};

use super::args::Args;
use super::{Outs, exactly, no_dropout, one, text};

/// Least and largest code of a type.
fn range_of(dtype: DType) -> (i64, i64) {
    match dtype {
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::I16 => (-32768, 32767),
        DType::U16 => (0, 65535),
        _ => (i64::from(i32::MIN), i64::from(i32::MAX)),
    }
}

impl<'a> Args<'a, '_> {
    /// Scales at `i`, zero points behind them, the codes from `range` on, which may be missing.
    fn params(&self, i: usize, range: usize, of: DType) -> Result<Params<'a>, String> {
        let (qmin, qmax) = self.codes(range, of)?;
        Ok(Params { scales: self.view(i)?, zero_points: self.optional_view(i + 1)?, qmin, qmax })
    }

    /// The codes from argument `i` to the next, by default those of `of`.
    fn codes(&self, i: usize, of: DType) -> Result<(i64, i64), String> {
        let (lo, hi) = range_of(of);
        let number = |i: usize| Ok::<_, String>(self.optional_scalar(i)?.map(Scalar::as_i64));
        Ok((number(i)?.unwrap_or(lo), number(i + 1)?.unwrap_or(hi)))
    }

    /// The number in a tensor of one.
    fn number(&self, i: usize) -> Result<f64, String> {
        let v = self.view(i)?;
        match (v.numel(), v.scalar(0)) {
            (1, Some(s)) => Ok(s.as_f64()),
            (n, _) => Err(format!("argument {i} has {n} elements, expected 1")),
        }
    }

    /// A fake quantization with its scales at `i`.
    fn faked<'b>(&self, i: usize, block: &'b [i64]) -> Result<Faked<'b>, String>
    where
        'a: 'b,
    {
        let range = (self.int(i + 3)?, self.int(i + 4)?);
        let enabled = self.optional_view(i + 5)?;
        Ok(Faked { scales: self.view(i)?, zero_points: self.view(i + 1)?, block, range, enabled })
    }

    fn affine(&self, i: usize) -> Result<Affine, String> {
        let range = (self.int(i + 2)?, self.int(i + 3)?);
        Ok(Affine { scale: self.float(i)?, zero_point: self.int(i + 1)?, range })
    }
}

/// Runs the kernel of an operator of quantization; an error for any other.
pub(super) fn call(
    ctx: &Context,
    semantics: QuantSemantics,
    op: Op,
    a: &Args<'_, '_>,
    outs: Outs<'_>,
) -> Result<(), String> {
    let result = match op {
        Op::QuantizePerTensor => {
            let (scale, zp, range) = (a.float(1)?, a.int(2)?, (a.int(3)?, a.int(4)?));
            quant::quantize_per_tensor(ctx, semantics, &a.view(0)?, scale, zp, range, &mut one(outs)?)
        }
        Op::QuantizePerTensorTensor => {
            let (scale, zp, range) = (a.number(1)?, a.number(2)? as i64, (a.int(3)?, a.int(4)?));
            quant::quantize_per_tensor(ctx, semantics, &a.view(0)?, scale, zp, range, &mut one(outs)?)
        }
        Op::QuantizePerTensorTensor2 => {
            let (scale, zp) = (a.number(1)?, a.number(2)? as i64);
            let range = (a.number(3)? as i64, a.number(4)? as i64);
            let eager = QuantSemantics::Eager;
            quant::quantize_per_tensor(ctx, eager, &a.view(0)?, scale, zp, range, &mut one(outs)?)
        }
        Op::DequantizePerTensor => {
            let (scale, zp) = (a.float(1)?, a.int(2)?);
            quant::dequantize_per_tensor(ctx, semantics, &a.view(0)?, scale, zp, &mut one(outs)?)
        }
        Op::DequantizePerTensorTensor => {
            let (scale, zp) = (a.number(1)?, a.number(2)? as i64);
            quant::dequantize_per_tensor(ctx, semantics, &a.view(0)?, scale, zp, &mut one(outs)?)
        }
        Op::DequantizePerTensorTensor2 => {
            let (scale, zp) = (a.number(1)?, a.number(2)? as i64);
            quant::dequantize_per_tensor(ctx, QuantSemantics::Eager, &a.view(0)?, scale, zp, &mut one(outs)?)
        }
        Op::QuantizePerChannel => {
            let mut out = one(outs)?;
            let p = a.params(1, 4, out.dtype())?;
            quant::quantize_per_channel(ctx, semantics, &a.view(0)?, &p, a.int(3)?, &mut out)
        }
        Op::DequantizePerChannel => {
            let q = a.view(0)?;
            let p = a.params(1, 4, q.dtype())?;
            quant::dequantize_per_channel(ctx, semantics, &q, &p, a.int(3)?, &mut one(outs)?)
        }
        Op::FakeQuantPerChannel => {
            let p = a.params(1, 4, DType::I32)?;
            quant::fake_quant_per_channel(ctx, &a.view(0)?, &p, a.int(3)?, &mut one(outs)?)
        }
        Op::QuantizePerToken => {
            let mut out = one(outs)?;
            let p = a.params(1, 3, out.dtype())?;
            quant::quantize_per_token(ctx, semantics, &a.view(0)?, &p, &mut out)
        }
        Op::DequantizePerToken => {
            let q = a.view(0)?;
            let p = a.params(1, 3, q.dtype())?;
            quant::dequantize_per_token(ctx, semantics, &q, &p, &mut one(outs)?)
        }
        Op::QuantizePerChannelGroup => {
            let mut out = one(outs)?;
            let p = a.params(1, 3, out.dtype())?;
            quant::quantize_per_channel_group(ctx, &a.view(0)?, &p, a.int(6)?, &mut out)
        }
        Op::DequantizePerChannelGroup => {
            let q = a.view(0)?;
            let p = a.params(1, 3, q.dtype())?;
            quant::dequantize_per_channel_group(ctx, &q, &p, a.int(6)?, &mut one(outs)?)
        }
        Op::QuantizeAffine => {
            let mut out = one(outs)?;
            let p = a.params(2, 5, out.dtype())?;
            quant::quantize_affine(ctx, &a.view(0)?, &p, &a.ints(1)?, &mut out)
        }
        Op::DequantizeAffine => {
            let q = a.view(0)?;
            let p = a.params(2, 5, q.dtype())?;
            quant::dequantize_affine(ctx, &q, &p, &a.ints(1)?, &mut one(outs)?)
        }
        Op::ChooseQparams | Op::ChooseQparamsSymmetric => {
            let [scale, zp] = exactly(outs)?;
            let (x, range, eps) = (a.view(0)?, (a.int(1)?, a.int(2)?), a.float(3)?);
            if op == Op::ChooseQparams {
                quant::choose_qparams(ctx, semantics, &x, range, eps, scale, zp)
            } else {
                quant::choose_qparams_symmetric(ctx, &x, range, eps, a.dtype(4)?, scale, zp)
            }
        }
        Op::ChooseQparamsPerTokenAsymmetric => {
            let [scale, zp] = exactly(outs)?;
            quant::choose_qparams_per_token_asymmetric(ctx, semantics, &a.view(0)?, scale, zp)
        }
        Op::ChooseQparamsPerToken => {
            let [scale, zp] = exactly(outs)?;
            quant::choose_qparams_per_token(ctx, &a.view(0)?, scale, zp)
        }
        Op::ChooseQparamsAffine => {
            let [scale, zp] = exactly(outs)?;
            let mapping = match a.optional_str(1)? {
                Some("SYMMETRIC") => Mapping::Symmetric,
                Some("SYMMETRIC_NO_CLIPPING_ERR") => Mapping::SymmetricNoClippingError,
                Some("ASYMMETRIC") => Mapping::Asymmetric,
                other => return Err(format!("mapping_type is {other:?}, expected one of torchao's")),
            };
            let (range, eps) = (a.codes(4, a.dtype(3)?)?, a.optional_float(6)?);
            quant::choose_qparams_affine(ctx, &a.view(0)?, mapping, &a.ints(2)?, range, eps, scale, zp)
        }
        Op::ConvertQd8 => {
            let [codes, scale, zp] = exactly(outs)?;
            quant::convert_qd8(ctx, &a.view(0)?, a.int(1)?, codes, scale, zp)
        }
        Op::ObserveQparams => {
            let [mut range, mut scale, mut zero] = exactly(outs)?;
            let rule = ObserveRule {
                averaging_constant: a.float(3)?,
                range: (a.int(4)?, a.int(5)?),
                eps: a.float(6)?,
                symmetric: a.bool(7)?.then_some(a.int(8)?),
                fbgemm: a.bool(9)?,
            };
            let outs = [&mut range, &mut scale, &mut zero];
            quant::observe_qparams(ctx, &a.view(0)?, &a.view(1)?, &a.view(2)?, &rule, outs)
        }
        Op::FakeQuantize => {
            let block = a.ints(3)?;
            quant::fake_quantize(ctx, &a.view(0)?, &a.faked(1, &block)?, &mut one(outs)?)
        }
        Op::FakeQuantizeBackward => {
            let block = a.ints(4)?;
            quant::fake_quantize_backward(ctx, &a.view(0)?, &a.view(1)?, &a.faked(2, &block)?, &mut one(outs)?)
        }
        Op::FakeQuantizeParamsBackward => {
            let block = a.ints(4)?;
            let [mut scale, mut zero] = exactly(outs)?;
            let (g, x, f, factor) = (a.view(0)?, a.view(1)?, a.faked(2, &block)?, a.float(8)?);
            quant::fake_quantize_params_backward(ctx, &g, &x, &f, factor, &mut scale, &mut zero)
        }
        Op::ConvertElementType => ew::to_copy(ctx, a.view(0)?, one(outs)?),
        Op::EmbeddingByte | Op::EmbeddingByteDType => embedding(ctx, TableBits::Eight, a, outs)?,
        Op::Embedding4Bit | Op::Embedding4BitDType => embedding(ctx, TableBits::Four, a, outs)?,
        Op::Embedding2Bit | Op::Embedding2BitDType => embedding(ctx, TableBits::Two, a, outs)?,
        Op::QuantizedAdd => {
            let (x, y) = (a.view(0)?, a.view(5)?);
            quant::add(ctx, (&x, a.affine(1)?), (&y, a.affine(6)?), a.affine(10)?, &mut one(outs)?)
        }
        Op::MixedMm | Op::MixedLinear => {
            let p = a.params_without_codes()?;
            let run = if op == Op::MixedMm { quant::mixed_mm } else { quant::mixed_linear };
            run(ctx, &a.view(0)?, &a.view(1)?, &p, &mut one(outs)?)
        }
        Op::Fallback => ew::clone(ctx, a.view(0)?, one(outs)?),
        Op::FastHadamardTransform => quant::fast_hadamard_transform(ctx, &a.view(0)?, &mut one(outs)?),
        Op::CustomQuantizedSdpa => {
            no_dropout(a.float(5)?)?;
            let options = SdpaOptions {
                is_causal: a.bool(6)?,
                scale: a.optional_float(7)?,
                is_seq_at_dim_2: a.bool(14)?,
                ..SdpaOptions::default()
            };
            let coded = |i: usize, p: usize| {
                Ok::<_, String>(Coded { codes: a.view(i)?, zero_points: a.view(p)?, scales: a.view(p + 1)? })
            };
            let (q, k, v) = (coded(0, 8)?, coded(1, 10)?, coded(2, 12)?);
            let mask = a.optional_view(4)?;
            quant::custom_quantized_sdpa(ctx, [&q, &k, &v], a.int(3)?, mask.as_ref(), options, &mut one(outs)?)
        }
        Op::UpdateCacheWithIndices => {
            let [unused, cache] = exactly(outs)?;
            ew::fill(ctx, Scalar::Int(0), unused).map_err(text)?;
            index::update_cache_with_indices(ctx, a.view(0)?, cache, a.view(3)?)
        }
        other => return Err(format!("{other} is not computed by a kernel")),
    };
    result.map_err(text)
}

fn embedding(
    ctx: &Context,
    bits: TableBits,
    a: &Args<'_, '_>,
    outs: Outs<'_>,
) -> Result<pteron_kernels::KernelResult, String> {
    let (table, scales, zero_points) = (a.view(0)?, a.view(1)?, a.optional_view(2)?);
    Ok(quant::embedding(ctx, bits, &table, &scales, zero_points.as_ref(), &a.view(5)?, &mut one(outs)?))
}

impl<'a> Args<'a, '_> {
    fn params_without_codes(&self) -> Result<Params<'a>, String> {
        Ok(Params { scales: self.view(2)?, zero_points: self.optional_view(3)?, qmin: -128, qmax: 127 })
    }
}
