//! Weights that come from a formula, for tests and measurements without a checkpoint.

use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
use pteron_tensor::{DType, SharedSource, SourceError, TensorSource, check_rows, checked_numel};

use crate::error::ModelError;
use crate::weights::Weights;

/// Deterministic weights for any configuration: each element depends on the seed, the weight's name and the element's
/// position, so that rows are computed in any order and no tensor is ever held.
///
/// Norms are near 1, biases near 0, embeddings have unit variance and other matrices the variance `1 / columns`, which
/// keeps activations of deep models in range.
#[derive(Clone, Copy, Debug)]
pub struct SyntheticWeights {
    seed: u64,
    dtype: DType,
}

impl SyntheticWeights {
    /// Weights in f32.
    pub const fn new(seed: u64) -> SyntheticWeights {
        SyntheticWeights { seed, dtype: DType::F32 }
    }

    /// The same values rounded to `dtype`: f32, f16 or bf16.
    pub const fn with_dtype(self, dtype: DType) -> SyntheticWeights {
        SyntheticWeights { dtype, ..self }
    }
}

impl Weights for SyntheticWeights {
    fn get(&self, name: &str, shape: &[usize]) -> Result<SharedSource, ModelError> {
        Ok(Arc::new(SyntheticSource::new(name, self.dtype, shape, self.seed)?))
    }
}

/// One weight of [`SyntheticWeights`].
#[derive(Clone, Debug)]
pub struct SyntheticSource {
    label: String,
    dtype: DType,
    shape: Vec<usize>,
    state: u64,
    center: f32,
    width: f32,
}

impl SyntheticSource {
    /// The weight `name` of sizes `shape` in `dtype`: f32, f16 or bf16.
    ///
    /// # Errors
    /// [`ModelError::WeightDType`] for another element type, [`ModelError::Source`] for sizes that overflow.
    pub fn new(name: &str, dtype: DType, shape: &[usize], seed: u64) -> Result<SyntheticSource, ModelError> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(ModelError::WeightDType { name: name.to_owned(), found: dtype });
        }
        let fits = checked_numel(shape).ok().and_then(|n| dtype.bytes_for(n));
        fits.ok_or_else(|| SourceError::Failed {
            what: name.to_owned(),
            reason: format!("the sizes {shape:?} have more bytes than can be counted"),
        })?;
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        let (center, deviation) = match shape {
            [_] if module.ends_with("norm") || module.ends_with("norm_fn") || module.ends_with("layernorm") => {
                (1.0, 0.1)
            }
            [_, _] if module.contains("embed") => (0.0, 1.0),
            [_, columns] => (0.0, 1.0 / (*columns as f32).max(1.0).sqrt()),
            _ => (0.0, 0.02),
        };
        Ok(SyntheticSource {
            label: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            state: state_of(name, seed),
            center,
            // A uniform number in ±√3 has unit variance.
            width: deviation * 3f32.sqrt(),
        })
    }

    fn value(&self, element: u64) -> f32 {
        // 24 bits are exact in f32.
        let bits = mix(self.state.wrapping_add(element.wrapping_mul(GOLDEN))) >> 40;
        let unit = bits as f32 / (1u32 << 23) as f32 - 1.0;
        self.center + unit * self.width
    }
}

pub(crate) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// Where the numbers of `name` begin for a seed.
pub(crate) fn state_of(name: &str, seed: u64) -> u64 {
    // FNV-1a of the name.
    let hash = name.bytes().fold(0xCBF2_9CE4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3));
    mix(hash ^ mix(seed))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl TensorSource for SyntheticSource {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let elements = (rows.start as u64 * self.row_numel() as u64)..;
        match self.dtype {
            DType::F16 => {
                let cells = out.as_chunks_mut::<2>().0.iter_mut().zip(elements);
                cells.for_each(|(cell, i)| *cell = f16::from_f32(self.value(i)).to_le_bytes());
            }
            DType::BF16 => {
                let cells = out.as_chunks_mut::<2>().0.iter_mut().zip(elements);
                cells.for_each(|(cell, i)| *cell = bf16::from_f32(self.value(i)).to_le_bytes());
            }
            _ => {
                let cells = out.as_chunks_mut::<4>().0.iter_mut().zip(elements);
                cells.for_each(|(cell, i)| *cell = self.value(i).to_le_bytes());
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        &self.label
    }
}
