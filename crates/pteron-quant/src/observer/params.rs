//! From ranges to scales and zero points.

use pteron_kernels::quant::qparams::{self, Mapping};
use pteron_tensor::DType;

use super::BLOCK_SCALE_STEPS;
use crate::format::{IntFormat, QScheme};
use crate::spec::{ObserverKind, QuantizationSpec};

/// Zero points, one for each scale.
#[derive(Clone, Debug, PartialEq)]
pub enum ZeroPoint {
    /// Codes.
    Int(Vec<i64>),
    /// Codes with a fraction (`per_channel_affine_float_qparams`).
    Float(Vec<f32>),
}

impl ZeroPoint {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            ZeroPoint::Int(v) => v.len(),
            ZeroPoint::Float(v) => v.len(),
        }
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which part of the tensor each scale is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One scale for all.
    PerTensor,
    /// A scale for each index of an axis.
    PerChannel {
        /// The axis.
        axis: usize,
    },
    /// A scale for each block, in row-major order of the blocks.
    PerBlock {
        /// Sizes of a block, one for each axis of the tensor.
        block_size: Vec<usize>,
    },
}

/// Scales and zero points of a tensor: `real = scale · (code − zero_point)`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantParams {
    /// Real units per code.
    pub scale: Vec<f32>,
    /// The codes of 0.
    pub zero_point: ZeroPoint,
    /// What each is for.
    pub layout: Layout,
    /// The codes.
    pub format: IntFormat,
}

/// The largest factor of a block's scale in QNN's blockwise expansion, which has 4 bits for it.
const LPBQ_STEPS: f32 = 15.0;

impl QuantParams {
    /// Scales of blocks as QNN's *low-power block quantization* has them: each a whole factor, 1 to 15, of one scale of its
    /// channel, the factor nearest to what it was. The codes must be made with these scales: ExecuTorch's exporter makes them
    /// with the observer's and rounds only what it writes.
    #[must_use]
    pub fn on_lpbq_grid(&self, channels: usize) -> QuantParams {
        let blocks = self.scale.len().checked_div(channels).unwrap_or(0).max(1);
        let row = |row: &[f32]| -> Vec<f32> {
            let base = row.iter().copied().fold(0.0, f32::max) / LPBQ_STEPS;
            row.iter().map(|s| base * (s / base).round_ties_even().clamp(1.0, LPBQ_STEPS)).collect()
        };
        QuantParams { scale: self.scale.chunks(blocks).flat_map(row).collect(), ..self.clone() }
    }
}

/// The zero point that PyTorch's observers give symmetric codes. `torch.uint16` has its middle whatever the range.
fn symmetric_zero_point(spec: &QuantizationSpec, range: (i64, i64)) -> i64 {
    let custom = (spec.has_customized_qrange() && spec.dtype != DType::U16).then_some(range);
    qparams::symmetric_zero_point(spec.dtype, custom)
}

pub(super) fn choose(spec: &QuantizationSpec, format: IntFormat, layout: Layout, ranges: &[(f32, f32)]) -> QuantParams {
    let (lo, hi) = (format.quant_min, format.quant_max);
    let eps = spec.observer.effective_eps();
    let qscheme = spec.effective_qscheme();
    if !spec.observer.kind.is_affine() && qscheme == QScheme::PerChannelAffineFloatQParams {
        let (scale, zero) = ranges.iter().map(|&(min, max)| qparams::affine_float(min, max, lo, hi, eps)).unzip();
        return QuantParams { scale, zero_point: ZeroPoint::Float(zero), layout, format };
    }
    let one = |&(min, max): &(f32, f32)| {
        if spec.observer.kind.is_affine() {
            let mapping = match (
                qscheme.is_symmetric() || spec.observer.kind == ObserverKind::PerBlockParam,
                spec.observer.no_clipping_error,
            ) {
                (true, true) => Mapping::SymmetricNoClippingError,
                (true, false) => Mapping::Symmetric,
                (false, _) => Mapping::Asymmetric,
            };
            return qparams::torchao(min, max, mapping, lo, hi, eps);
        }
        match qscheme.is_symmetric() {
            true => qparams::symmetric(min, max, lo, hi, eps, symmetric_zero_point(spec, (lo, hi))),
            false => qparams::affine(min, max, lo, hi, eps),
        }
    };
    let (scale, zero) = ranges.iter().map(one).map(|p| (p.scale, p.zero_point)).unzip();
    QuantParams { scale, zero_point: ZeroPoint::Int(zero), layout, format }
}

/// A bias's parameters from those of the activation and the weight it is added to (QNN's `_derive_bias_qparams_fn`):
/// `scale[c] = scale_activation · scale_weight[c]` in `f32`, zero point 0, in `format`.
///
/// `channels` is the number of output channels. A weight with block scales gives each channel its largest block's scale over
/// the 16 steps of a block scale. `repeat` repeats each scale, for the groups of a transposed convolution. `None` if the
/// activation has not one scale, or the weight's scales do not divide into channels.
pub fn bias_qparams(
    activation: &QuantParams,
    weight: &QuantParams,
    channels: usize,
    repeat: usize,
    format: IntFormat,
) -> Option<QuantParams> {
    let &[scale] = activation.scale.as_slice() else {
        return None;
    };
    let products: Vec<f32> = weight.scale.iter().map(|w| scale * w).collect();
    let mut out: Vec<f32> = match &weight.layout {
        Layout::PerTensor => return (products.len() == 1).then(|| bias(products, Layout::PerTensor, format)),
        Layout::PerChannel { .. } => products,
        Layout::PerBlock { .. } => {
            let blocks = products.len().checked_div(channels)?;
            if blocks == 0 || blocks * channels != products.len() {
                return None;
            }
            let largest = |part: &[f32]| part.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            products.chunks_exact(blocks).map(|part| largest(part) / BLOCK_SCALE_STEPS as f32).collect()
        }
    };
    if repeat > 1 {
        out = out.iter().flat_map(|&s| std::iter::repeat_n(s, repeat)).collect();
    }
    (out.len() == channels).then(|| bias(out, Layout::PerChannel { axis: 0 }, format))
}

fn bias(scale: Vec<f32>, layout: Layout, format: IntFormat) -> QuantParams {
    let zero_point = ZeroPoint::Int(vec![0; scale.len()]);
    QuantParams { scale, zero_point, layout, format }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_blocks_are_factors_of_their_channels() {
        let params = QuantParams {
            scale: vec![1.5, 0.96, 0.01, 0.2, 0.4, 0.6],
            zero_point: ZeroPoint::Int(vec![0; 6]),
            layout: Layout::PerBlock { block_size: vec![1, 32] },
            format: IntFormat::new(DType::I8, -7, 7).unwrap(),
        };
        let factors = [15.0, 10.0, 1.0, 5.0, 10.0, 15.0];
        let bases = [1.5f32 / 15.0, 0.6f32 / 15.0];
        let expected: Vec<f32> = factors.iter().enumerate().map(|(i, f)| bases[i / 3] * f).collect();
        assert_eq!(params.on_lpbq_grid(2).scale, expected);
    }
}
