//! Encodings and bytes of weights.

use pteron_ir::ConstId;
use pteron_tensor::{CastSource, DType, SharedSource};

use crate::graph::{BlockScales, Data, DataType, Encoding, ScaleOffset};

/// A constant of integers and how they stand for reals, as a dequantize node says it.
#[derive(Debug, Clone)]
pub(super) struct WeightParams {
    /// The integers.
    pub(super) constant: ConstId,
    /// Their type in QNN.
    pub(super) dtype: DataType,
    /// Their type in the graph.
    pub(super) container: DType,
    /// The scales.
    pub(super) scales: Vec<f64>,
    /// The zero points, one or as many as scales.
    pub(super) zeros: Vec<f64>,
    /// The axis of channels, if each has a scale.
    pub(super) axis: Option<usize>,
    /// Sizes of a block, if each has a scale.
    pub(super) block: Option<Vec<usize>>,
    /// The least integer.
    pub(super) lo: i64,
    /// The largest integer.
    pub(super) hi: i64,
}

/// Relative error of a block's scale that f32 arithmetic explains.
const SCALE_TOLERANCE: f64 = 1e-4;
/// The largest factor of a block's scale in 4 bits.
const MAX_FACTOR: f64 = 15.0;

impl WeightParams {
    /// Bits of an integer where they are fewer than the container's.
    fn narrow_bits(&self) -> Option<u32> {
        match (self.dtype, self.hi - self.lo) {
            (DataType::SFixed8, ..=3) => Some(2),
            (DataType::SFixed8, ..=15) => Some(4),
            _ => None,
        }
    }

    fn offsets(&self) -> Result<Vec<i32>, String> {
        let zero = |z: &f64| {
            let zero = z.round_ties_even();
            let fits = (*z - zero).abs() < f64::EPSILON && zero.abs() < f64::from(i32::MAX);
            if fits { Ok((-zero) as i32) } else { Err(format!("found the zero point {z}, expected an integer")) }
        };
        self.zeros.iter().map(zero).collect()
    }

    /// The scale of each index along `axis` of the weight, for a bias or a check; the largest of its blocks where it has
    /// several.
    pub(super) fn channel_scales(&self, channels: usize) -> Vec<f64> {
        if let [scale] = self.scales[..] {
            return vec![scale; channels];
        }
        let per = (self.scales.len() / channels.max(1)).max(1);
        self.scales.chunks(per).map(|c| c.iter().copied().fold(0.0, f64::max)).collect()
    }

    /// The encoding of the tensor whose axis `axis` is the weight's axis 0 (or, per channel, its own axis).
    ///
    /// # Errors
    /// What cannot be said in QNN's terms.
    pub(super) fn encoding(&self, shape: &[usize], axis: usize) -> Result<Encoding, String> {
        if !self.dtype.is_fixed() {
            return Ok(Encoding::None);
        }
        let offsets = self.offsets()?;
        let axis = i32::try_from(axis).unwrap_or(i32::MAX);
        if let Some(block) = &self.block {
            return self.block_encoding(shape, block, &offsets, axis);
        }
        let offset = |i: usize| offsets.get(i).or(offsets.first()).copied().unwrap_or(0);
        let scale = |i: usize| ScaleOffset { scale: self.scales[i] as f32, offset: offset(i) };
        Ok(match (self.axis, self.narrow_bits()) {
            (None, _) if self.scales.len() != 1 => {
                return Err(format!("found {} scales for a whole tensor, expected 1", self.scales.len()));
            }
            (None, Some(2)) => return Err("2-bit weights need a scale for each channel".to_owned()),
            (None, Some(bitwidth)) => Encoding::BwScaleOffset { bitwidth, scale: scale(0) },
            (None, None) => Encoding::ScaleOffset(scale(0)),
            (Some(_), Some(bitwidth)) => Encoding::BwAxisScaleOffset {
                bitwidth,
                axis,
                scales: self.scales.iter().map(|s| *s as f32).collect(),
                offsets: if offsets.iter().all(|&o| o == 0) {
                    Vec::new()
                } else {
                    (0..self.scales.len()).map(offset).collect()
                },
            },
            (Some(_), None) => Encoding::AxisScaleOffset { axis, scales: (0..self.scales.len()).map(scale).collect() },
        })
    }

    /// LPBQ: the scale of each block as a factor from 1 to 15 of its channel's.
    fn block_encoding(&self, shape: &[usize], block: &[usize], offsets: &[i32], axis: i32) -> Result<Encoding, String> {
        let (&[channels, width], &[1, size]) = (shape, block) else {
            return Err(format!("found blocks {block:?} of a weight {shape:?}, expected blocks of a row of a matrix"));
        };
        if self.narrow_bits() != Some(4) || offsets.iter().any(|&o| o != 0) {
            return Err("weights in blocks are 4-bit integers without zero point in QNN".to_owned());
        }
        let blocks = width.checked_div(size).unwrap_or(0);
        if blocks == 0 || blocks * size != width || self.scales.len() != channels * blocks {
            return Err(format!("found {} scales for blocks of {size} in {shape:?}", self.scales.len()));
        }
        let (mut scales, mut factors) = (Vec::with_capacity(channels), Vec::with_capacity(self.scales.len()));
        for (channel, row) in self.scales.chunks(blocks).enumerate() {
            let (base, row) = factors_of(row).ok_or_else(|| {
                format!(
                    "the scales of row {channel}'s blocks are no multiples from 1 to 15 of one scale: the graph was not \
                     quantized for LPBQ"
                )
            })?;
            scales.push(ScaleOffset { scale: base as f32, offset: 0 });
            factors.extend(row);
        }
        Ok(Encoding::BlockwiseExpansion {
            axis,
            scales,
            blocks_per_axis: u32::try_from(blocks).unwrap_or(u32::MAX),
            block_scale_bitwidth: 4,
            block_scales: BlockScales::U8(factors),
        })
    }

    /// The integers as rows of the tensor, in the matrix's own order.
    pub(super) fn codes(&self, source: SharedSource) -> Data {
        Data::Rows(CastSource::wrap(source, self.stored()))
    }

    /// The integers of a matrix `[N, K]` as `[K, N]`.
    pub(super) fn transposed(&self, source: SharedSource) -> Data {
        Data::Transposed(CastSource::wrap(source, self.stored()))
    }

    fn stored(&self) -> DType {
        self.dtype.dtype().unwrap_or(self.container)
    }
}

/// One scale of which all of `scales` are multiples by 1 to 15, and the factors.
fn factors_of(scales: &[f64]) -> Option<(f64, Vec<u8>)> {
    let largest = scales.iter().copied().fold(0.0, f64::max);
    if !(largest > 0.0 && largest.is_finite()) {
        return None;
    }
    (1..=15u8).rev().find_map(|top| {
        let base = largest / f64::from(top);
        let factor = |s: &f64| {
            let factor = (s / base).round();
            let fits = (1.0..=MAX_FACTOR).contains(&factor) && (s / base - factor).abs() <= SCALE_TOLERANCE * factor;
            fits.then_some(factor as u8)
        };
        Some((base, scales.iter().map(factor).collect::<Option<Vec<u8>>>()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_scales_are_factors_of_one_scale() {
        let base = 0.01f32;
        let scales: Vec<f64> = [3u8, 15, 1, 8].iter().map(|&f| f64::from(base * f32::from(f))).collect();
        let (found, factors) = factors_of(&scales).unwrap();
        assert_eq!(factors, [3, 15, 1, 8]);
        assert!((found - f64::from(base)).abs() < 1e-8);
        // The largest factor need not be 15.
        assert_eq!(factors_of(&[0.7, 0.3]).unwrap().1, [14, 6]);
        assert_eq!(factors_of(&[0.1, 0.0]), None);
        assert_eq!(factors_of(&[1.0, 0.51234]), None);
    }
}
