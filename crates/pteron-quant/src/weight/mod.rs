//! Weight algorithms: from a float matrix to integer codes and scales, without a zero point.
//!
//! All take a matrix of `rows × columns`, row-major, and give each run of `group` columns of a row a scale of its own.

mod mse;

use pteron_kernels::quant::qparams::{self, Mapping, aminmax};
use pteron_kernels::quant::quantize::{Form, Quantizer};
use thiserror::Error;

pub use mse::mse;

use crate::error::TensorLabel;
use crate::observer::torch_sum;

/// A float matrix.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of `rows × columns`, row-major.
    ///
    /// # Errors
    /// If there are not as many elements, or an element is not finite; the error names `label`.
    pub fn new(label: &TensorLabel, data: &'a [f32], rows: usize, columns: usize) -> Result<Matrix<'a>, WeightError> {
        if rows.checked_mul(columns) != Some(data.len()) || columns == 0 {
            return Err(WeightError::Shape { label: label.clone(), elements: data.len(), rows, columns });
        }
        if let Some(at) = data.iter().position(|v| !v.is_finite()) {
            let (row, column) = (at / columns, at % columns);
            return Err(WeightError::NotFinite { label: label.clone(), value: data[at], row, column });
        }
        Ok(Matrix { data, rows, columns })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    fn group(&self, label: &TensorLabel, group: usize) -> Result<usize, WeightError> {
        match group {
            0 => Ok(self.columns),
            g if self.columns.is_multiple_of(g) => Ok(g),
            group => Err(WeightError::Group { label: label.clone(), group, columns: self.columns }),
        }
    }
}

/// What is wrong with a weight or with how it shall be quantized.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum WeightError {
    /// Not a matrix.
    #[error("{label} has {elements} elements; expected {rows} rows of {columns}, which must not be 0")]
    Shape {
        /// The weight.
        label: TensorLabel,
        /// Its elements.
        elements: usize,
        /// Rows expected.
        rows: usize,
        /// Columns expected.
        columns: usize,
    },
    /// A NaN or an infinity.
    #[error("{label} has {value} in row {row}, column {column}; weights must be finite")]
    NotFinite {
        /// The weight.
        label: TensorLabel,
        /// The element.
        value: f32,
        /// Its row.
        row: usize,
        /// Its column.
        column: usize,
    },
    /// The group size does not divide the columns.
    #[error("group size {group} does not divide the {columns} columns of {label}")]
    Group {
        /// The weight.
        label: TensorLabel,
        /// The group size.
        group: usize,
        /// Columns.
        columns: usize,
    },
    /// Codes that do not fit.
    #[error("codes {0}..={1} are no range for a weight; expected one within -128..=127 that holds 0 and more")]
    Range(i64, i64),
    /// As many second moments as columns are needed.
    #[error(
        "{label} has {columns} columns, and there are {found} second moments of its input, or one is negative or no number"
    )]
    Moments {
        /// The weight.
        label: TensorLabel,
        /// Columns.
        columns: usize,
        /// Moments found.
        found: usize,
    },
}

/// Codes of a matrix with their scales: `weight ≈ scale[row][group] · code`.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedMatrix {
    /// The codes, row-major.
    pub codes: Vec<i8>,
    /// The scales, row by row; as many in a row as it has groups.
    pub scales: Vec<f32>,
    /// Columns of a group.
    pub group: usize,
}

impl QuantizedMatrix {
    /// The matrix that the codes stand for.
    pub fn dequantize(&self) -> Vec<f32> {
        let groups = self.codes.chunks_exact(self.group).zip(&self.scales);
        groups.flat_map(|(codes, s)| codes.iter().map(move |&c| f32::from(c) * s)).collect()
    }
}

fn check_range(range: (i64, i64)) -> Result<(f32, f32), WeightError> {
    match range.0 < range.1 && range.0 <= 0 && range.1 >= 0 && range.0 >= -128 && range.1 <= 127 {
        true => Ok((range.0 as f32, range.1 as f32)),
        false => Err(WeightError::Range(range.0, range.1)),
    }
}

fn largest(group: &[f32]) -> f32 {
    aminmax(group).map_or(0.0, |(lo, hi)| (-lo).max(hi))
}

/// The nearest code of `w / scale`, half to even, within the range.
fn code(w: f32, scale: f32, (lo, hi): (f32, f32)) -> f32 {
    (w / scale).round_ties_even().clamp(lo, hi)
}

/// torchao's symmetric affine quantization (`choose_qparams_affine`, `quantize_affine`): `scale = absmax/((qmax − qmin)/2)`,
/// at least the least normal `f32`; `code = clamp(round(w·(1/scale)))`. `group` 0 is a whole row.
///
/// # Errors
/// If the group does not divide the columns or the range is none.
pub fn affine(
    label: &TensorLabel,
    w: Matrix<'_>,
    group: usize,
    range: (i64, i64),
) -> Result<QuantizedMatrix, WeightError> {
    check_range(range)?;
    let group = w.group(label, group)?;
    let mut out = QuantizedMatrix { codes: vec![0; w.data.len()], scales: Vec::new(), group };
    for (part, codes) in w.data.chunks_exact(group).zip(out.codes.chunks_exact_mut(group)) {
        let (min, max) = aminmax(part).unwrap_or((0.0, 0.0));
        // The zero point would be the middle of the codes, which is 0 for all ranges of weights: they are signed.
        let scale = qparams::torchao(min, max, Mapping::Symmetric, range.0, range.1, f32::MIN_POSITIVE).scale;
        Quantizer::new(Form::First, f64::from(scale), 0, range.0, range.1).row(part, codes);
        out.scales.push(scale);
    }
    Ok(out)
}

/// ExecuTorch's weight-only int8 (`dynamically_quantize_per_channel`): `scale = absmax/127.5`, at least 2⁻²³;
/// `code = clamp(round(w/scale), −128, 127)`, a scale for each row.
pub fn int8(w: Matrix<'_>) -> QuantizedMatrix {
    let mut out = QuantizedMatrix { codes: Vec::with_capacity(w.data.len()), scales: Vec::new(), group: w.columns };
    for row in w.data.chunks_exact(w.columns) {
        let scale = (largest(row) / 127.5).max(f32::EPSILON);
        out.codes.extend(row.iter().map(|&v| code(v, scale, (-128.0, 127.0)) as i8));
        out.scales.push(scale);
    }
    out
}

/// Rounds of [`hqq`].
const HQQ_ROUNDS: usize = 20;
/// [`hqq`] ends when no scale changes by more than this part.
const HQQ_TOLERANCE: f32 = 1e-5;

/// torchao's HQQ that moves the scales only (`_choose_qparams_and_quantize_scale_only_hqq`): from `absmax/max(|qmin|, qmax)`,
/// `code = clamp(round(w/scale))` and `scale = Σ w·code / Σ code²` in turn, twenty times or until the largest relative change
/// in the whole matrix is below 1e-5. `group` 0 is a whole row.
///
/// # Errors
/// If the group does not divide the columns or the range is none.
pub fn hqq(
    label: &TensorLabel,
    w: Matrix<'_>,
    group: usize,
    range: (i64, i64),
) -> Result<QuantizedMatrix, WeightError> {
    let ends = check_range(range)?;
    let group = w.group(label, group)?;
    let most = ends.0.abs().max(ends.1);
    let mut scales: Vec<f32> = w.data.chunks_exact(group).map(|g| (largest(g) / most).max(f32::EPSILON)).collect();
    let (mut products, mut squares) = (vec![0f32; group], vec![0f32; group]);
    for _ in 0..HQQ_ROUNDS {
        let mut change = 0f32;
        for (part, scale) in w.data.chunks_exact(group).zip(&mut scales) {
            for ((p, s), &v) in products.iter_mut().zip(&mut squares).zip(part) {
                let q = code(v, *scale, ends);
                (*p, *s) = (v * q, q * q);
            }
            let (num, den) = (torch_sum::sum(&products), torch_sum::sum(&squares));
            let next = if den > 0.0 { num / den } else { *scale };
            let next = next.max(f32::EPSILON);
            change = change.max((next - *scale).abs() / *scale);
            *scale = next;
        }
        if change < HQQ_TOLERANCE {
            break;
        }
    }
    let mut codes = Vec::with_capacity(w.data.len());
    for (part, &scale) in w.data.chunks_exact(group).zip(&scales) {
        codes.extend(part.iter().map(|&v| code(v, scale, ends) as i8));
    }
    Ok(QuantizedMatrix { codes, scales, group })
}

#[cfg(test)]
mod tests;
