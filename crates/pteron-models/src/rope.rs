//! Frequencies and tables of rotary position embedding.
//!
//! Frequencies are computed in `f32`, operation by operation as PyTorch does for `transformers` and for ExecuTorch's
//! exporter (where it divides a scalar by a tensor, PyTorch multiplies by the reciprocal). Powers, sines and cosines are
//! computed in `f64` and rounded once.

use std::f64::consts::PI;
use std::ops::Range;
use std::sync::Arc;

use pteron_tensor::{DType, SourceError, TensorSource};

use crate::config::{RopeConfig, RopeScaling};

/// The angle, in radians a position, by which each of the `head_dim / 2` pairs turns.
pub fn inv_freq(rope: &RopeConfig, head_dim: usize) -> Vec<f32> {
    let base: Vec<f32> = pos_freqs(rope.theta, head_dim).into_iter().map(f32::recip).collect();
    match rope.scaling {
        RopeScaling::None => base,
        RopeScaling::Factors(ref factors) => base.iter().zip(factors.iter()).map(|(f, factor)| f / factor).collect(),
        RopeScaling::Linear { factor } => base.into_iter().map(|f| f / factor as f32).collect(),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            let context = original_max_position_embeddings as f64;
            let (low, high, factor) = (low_freq_factor as f32, high_freq_factor as f32, factor as f32);
            let (longest, shortest) = ((context / low_freq_factor) as f32, (context / high_freq_factor) as f32);
            let span = (high_freq_factor - low_freq_factor) as f32;
            let scale = |f: f32| {
                let wave = f.recip() * (2.0 * PI) as f32;
                if wave > longest {
                    f / factor
                } else if wave < shortest {
                    f
                } else {
                    let smooth = (wave.recip() * context as f32 - low) / span;
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            debug_assert!(high > low);
            base.into_iter().map(scale).collect()
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_max_position_embeddings,
            attention_factor: _,
            truncate,
        } => {
            let (dim, context) = (head_dim as f64, original_max_position_embeddings as f64);
            // The dimension whose wave turns `turns` times within the original context.
            let at = |turns: f64| dim * (context / (turns * 2.0 * PI)).ln() / (2.0 * rope.theta.ln());
            let (mut low, mut high) = (at(beta_fast), at(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            let (low, mut high) = (low.max(0.0), high.min(dim - 1.0));
            if low == high {
                high += 0.001;
            }
            let (start, span) = (low as f32, (high - low) as f32);
            let blend = |(i, pos_freq): (usize, f32)| {
                let keep = 1.0 - ((i as f32 - start) / span).clamp(0.0, 1.0);
                (factor as f32 * pos_freq).recip() * (1.0 - keep) + pos_freq.recip() * keep
            };
            pos_freqs(rope.theta, head_dim).into_iter().enumerate().map(blend).collect()
        }
    }
}

/// `theta^(2j/D)` for each pair `j`.
fn pos_freqs(theta: f64, head_dim: usize) -> Vec<f32> {
    let base = f64::from(theta as f32);
    let power = |j: usize| base.powf(f64::from((2 * j) as f32 / head_dim as f32)) as f32;
    (0..head_dim / 2).map(power).collect()
}

/// What cosine and sine are multiplied by: 1 but for YaRN.
pub fn attention_factor(rope: &RopeConfig) -> f64 {
    match rope.scaling {
        RopeScaling::Yarn { attention_factor, .. } => attention_factor,
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Llama3 { .. } | RopeScaling::Factors(_) => 1.0,
    }
}

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Cosines.
    Cos,
    /// Sines.
    Sin,
}

/// A table f32 `[positions, D/2]`: entry `(p, j)` is the cosine or sine of `p · inv_freq[j]`, multiplied by the attention
/// factor. Rows are computed when they are read.
#[derive(Clone, Debug)]
pub struct RopeTable {
    table: Table,
    inv_freq: Arc<[f32]>,
    factor: f32,
    shape: [usize; 2],
}

impl RopeTable {
    /// Both tables, cosines first, of `positions` rows.
    pub fn pair(rope: &RopeConfig, head_dim: usize, positions: usize) -> [RopeTable; 2] {
        let inv_freq: Arc<[f32]> = inv_freq(rope, head_dim).into();
        let factor = attention_factor(rope) as f32;
        let shape = [positions, inv_freq.len()];
        [Table::Cos, Table::Sin].map(|table| RopeTable { table, inv_freq: inv_freq.clone(), factor, shape })
    }

    /// The entry at a position and a pair's frequency.
    fn entry(&self, position: usize, freq: f32) -> f32 {
        let angle = f64::from(position as f32 * freq);
        let value = match self.table {
            Table::Cos => angle.cos(),
            Table::Sin => angle.sin(),
        };
        value as f32 * self.factor
    }
}

impl TensorSource for RopeTable {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        pteron_tensor::check_rows(self, &rows, out)?;
        let (mut cells, _) = out.as_chunks_mut::<4>();
        for position in rows {
            let (row, rest) = cells.split_at_mut(self.inv_freq.len());
            for (cell, &freq) in row.iter_mut().zip(self.inv_freq.iter()) {
                *cell = self.entry(position, freq).to_le_bytes();
            }
            cells = rest;
        }
        Ok(())
    }

    fn label(&self) -> &str {
        match self.table {
            Table::Cos => "freqs_cos",
            Table::Sin => "freqs_sin",
        }
    }
}
