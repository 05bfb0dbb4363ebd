//! QNN's search for the clipping range of each channel (`PerChannelParamObserverWithLossEvaluation`, after arXiv 2209.13325).

use pteron_kernels::quant::quantize::{Form, Quantizer};

use super::blocks::BlockRanges;
use super::params::{self, Layout, ZeroPoint};
use super::torch_sum;
use crate::spec::QuantizationSpec;

/// Candidates: this many equal parts of the channel's largest magnitude.
const STEPS: u32 = 100;

/// Replaces each channel's range by the symmetric one, of a hundred, whose codes have the least mean squared error.
pub(super) fn search(spec: &QuantizationSpec, shape: &[usize], data: &[f32], ranges: &mut BlockRanges) {
    let Ok(format) = spec.format() else {
        return;
    };
    let axis = spec.ch_axis.unwrap_or(0);
    let inner: usize = shape[axis + 1..].iter().product();
    let (channels, outer) = (shape[axis], shape[..axis].iter().product::<usize>());
    let largest: Vec<f32> = ranges.pairs().map(|(min, max)| if min.abs() > max { min.abs() } else { max }).collect();
    let mut best = vec![1e9f32; channels];
    let mut line = vec![0f32; outer * inner];
    let mut codes = vec![0f32; outer * inner];
    for i in 1..=STEPS {
        let limits: Vec<f32> = largest.iter().map(|m| m / STEPS as f32 * i as f32).collect();
        let pairs: Vec<(f32, f32)> = limits.iter().map(|&t| (-t, t)).collect();
        let p = params::choose(spec, format, Layout::PerChannel { axis }, &pairs);
        for c in 0..channels {
            let zero = match &p.zero_point {
                ZeroPoint::Int(z) => z[c],
                ZeroPoint::Float(z) => z[c] as i64,
            };
            for (o, part) in line.chunks_exact_mut(inner.max(1)).enumerate() {
                let from = (o * channels + c) * inner;
                part.copy_from_slice(&data[from..from + inner]);
            }
            let q = Quantizer::new(Form::First, f64::from(p.scale[c]), zero, format.quant_min, format.quant_max);
            q.row_f32(&line, &mut codes);
            for (code, x) in codes.iter_mut().zip(&line) {
                let error = (*code - zero as f32) * p.scale[c] - x;
                *code = error.abs() * error.abs();
            }
            // A channel's elements lie side by side, or are copied so, but for the columns of a matrix.
            let sum = match axis == 0 || inner > 1 {
                true => torch_sum::sum(&codes),
                false => torch_sum::sum_column(c, channels, codes.len(), |i| codes[i]),
            };
            let loss = sum / codes.len() as f32;
            if loss < best[c] {
                best[c] = loss;
                let (min, max) = ranges.parts_mut();
                (min[c], max[c]) = (-limits[c], limits[c]);
            }
        }
    }
}
