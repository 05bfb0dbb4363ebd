//! Weight algorithms: from a float matrix to integer codes and scales, without a zero point.
//!
//! All take a matrix of `rows × columns`, row-major, and give each run of `group` columns of a row a scale of its own.

pub mod gptq;
mod hqq;
mod mse;

use pteron_kernels::quant::qparams::{self, Mapping, aminmax};
use pteron_kernels::quant::quantize::{Form, Quantizer};
use thiserror::Error;

pub use hqq::{HQQ_ROUNDS, rounds_of};

use crate::error::TensorLabel;

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

    /// Rows of a larger matrix, the first of which is its row `first`.
    ///
    /// # Errors
    /// As [`Matrix::new`]; the row that the error names is the larger matrix's.
    pub(crate) fn rows_from(
        label: &TensorLabel,
        data: &'a [f32],
        first: usize,
        columns: usize,
    ) -> Result<Matrix<'a>, WeightError> {
        let rows = data.len().checked_div(columns).unwrap_or(0);
        Matrix::new(label, data, rows, columns).map_err(|e| match e {
            WeightError::NotFinite { label, value, row, column } => {
                WeightError::NotFinite { label, value, row: first + row, column }
            }
            other => other,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
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
    /// As many means and mean squares as columns are needed.
    #[error(
        "{label} has {columns} columns, and there are {found} mean squares of its input, or one is negative or no number"
    )]
    Moments {
        /// The weight.
        label: TensorLabel,
        /// Columns.
        columns: usize,
        /// Mean squares found.
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

fn check_range(range: (i64, i64)) -> Result<(), WeightError> {
    match range.0 < range.1 && range.0 <= 0 && range.1 >= 0 && range.0 >= -128 && range.1 <= 127 {
        true => Ok(()),
        false => Err(WeightError::Range(range.0, range.1)),
    }
}

#[inline(always)]
fn largest(group: &[f32]) -> f32 {
    group.iter().fold(0f32, |most, v| most.max(v.abs()))
}

/// The nearest code of `w / scale`, half to even, within the range.
#[inline(always)]
fn code(w: f32, scale: f32, (lo, hi): (f32, f32)) -> f32 {
    (w / scale).round_ties_even().clamp(lo, hi)
}

/// How the scales of a matrix are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method<'a> {
    /// [`affine`].
    Affine,
    /// [`int8`]: one scale a row, codes -128..=127.
    Int8,
    /// [`hqq`].
    Hqq,
    /// [`mse`], with what the input's columns are like if that is known.
    Mse(Option<Inputs<'a>>),
}

/// What the columns of a layer's input are like, one number a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Inputs<'a> {
    /// `E[x]`.
    pub means: &'a [f32],
    /// `E[x²]`.
    pub squares: &'a [f32],
}

impl Inputs<'_> {
    fn is_of(&self, columns: usize) -> bool {
        let lengths = [self.means.len(), self.squares.len()];
        lengths == [columns; 2]
            && self.means.iter().all(|v| v.is_finite())
            && self.squares.iter().all(|v| v.is_finite() && *v >= 0.0)
    }
}

/// Checks what [`rows`] needs: that the group divides the columns, that the codes are a range, and that inputs have a number for
/// each column. Gives the columns of a group.
///
/// # Errors
/// [`WeightError`] naming `label`.
pub fn check(
    label: &TensorLabel,
    columns: usize,
    group: usize,
    range: (i64, i64),
    method: Method<'_>,
) -> Result<usize, WeightError> {
    check_range(range)?;
    if let Method::Mse(Some(inputs)) = method
        && !inputs.is_of(columns)
    {
        return Err(WeightError::Moments { label: label.clone(), columns, found: inputs.squares.len() });
    }
    match group {
        0 => Ok(columns),
        g if columns.is_multiple_of(g) => Ok(g),
        group => Err(WeightError::Group { label: label.clone(), group, columns }),
    }
}

/// What [`rows`] tells of some rows of a matrix.
pub type Changes = [f32; HQQ_ROUNDS];

/// The scales of some rows of a matrix, row by row, into `scales`: as many as the rows have groups. `group` is what [`check`]
/// gave for the same arguments. Each row's scales depend on that row alone, but for [`Method::Hqq`], which takes `rounds` steps
/// and tells the largest change of each: [`rounds_of`] says after which of them the whole matrix ends.
pub fn rows(
    w: Matrix<'_>,
    group: usize,
    range: (i64, i64),
    method: Method<'_>,
    rounds: usize,
    scales: &mut [f32],
) -> Changes {
    let ends = (range.0 as f32, range.1 as f32);
    let mut changes = [0f32; HQQ_ROUNDS];
    match method {
        Method::Affine => {
            for (part, scale) in w.data.chunks_exact(group).zip(scales) {
                let (min, max) = aminmax(part).unwrap_or((0.0, 0.0));
                // The zero point would be the middle of the codes, which is 0 for all ranges of weights: they are signed.
                *scale = qparams::torchao(min, max, Mapping::Symmetric, range.0, range.1, f32::MIN_POSITIVE).scale;
            }
        }
        Method::Int8 => {
            for (row, scale) in w.data.chunks_exact(group).zip(scales) {
                *scale = (largest(row) / 127.5).max(f32::EPSILON);
            }
        }
        Method::Hqq => hqq::rows(w.data, group, ends, rounds, scales, &mut changes),
        Method::Mse(inputs) => mse::rows(w.data, w.columns, group, ends, inputs, scales),
    }
    changes
}

fn quantized(
    label: &TensorLabel,
    w: Matrix<'_>,
    group: usize,
    range: (i64, i64),
    method: Method<'_>,
) -> Result<QuantizedMatrix, WeightError> {
    let group = check(label, w.columns, group, range, method)?;
    let mut scales = vec![0f32; w.data.len().checked_div(group).unwrap_or(0)];
    let changes = rows(w, group, range, method, HQQ_ROUNDS, &mut scales);
    if method == Method::Hqq
        && let Some(rounds) = rounds_of(&changes)
    {
        rows(w, group, range, method, rounds, &mut scales);
    }
    let ends = (range.0 as f32, range.1 as f32);
    let mut codes = vec![0i8; w.data.len()];
    for ((part, codes), &scale) in w.data.chunks_exact(group).zip(codes.chunks_exact_mut(group)).zip(&scales) {
        if method == Method::Affine {
            Quantizer::new(Form::First, f64::from(scale), 0, range.0, range.1).row(part, codes);
            continue;
        }
        for (c, &v) in codes.iter_mut().zip(part) {
            *c = code(v, scale, ends) as i8;
        }
    }
    Ok(QuantizedMatrix { codes, scales, group })
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
    quantized(label, w, group, range, Method::Affine)
}

/// ExecuTorch's weight-only int8 (`dynamically_quantize_per_channel`): `scale = absmax/127.5`, at least 2⁻²³;
/// `code = clamp(round(w/scale), −128, 127)`, a scale for each row.
///
/// # Errors
/// None that a [`Matrix`] can have.
pub fn int8(label: &TensorLabel, w: Matrix<'_>) -> Result<QuantizedMatrix, WeightError> {
    quantized(label, w, 0, (-128, 127), Method::Int8)
}

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
    quantized(label, w, group, range, Method::Hqq)
}

/// Searches each group's scale for the least error of the layer's output.
///
/// With `μ_j = E[x_j]` and `h_j = E[x_j²] − μ_j²` of input column `j` (1 and 0 for all if `None`), the expected squared error of
/// a row's output, leaving out how inputs vary together, is `Σ_j h_j·(w_j − s·q_j)² + (r + Σ_j μ_j·(w_j − s·q_j))²`: its second
/// part is the square of the row's mean error, of which `r` is the share of the groups before this one. Whatever the scale that
/// the codes `q` were rounded with, the best one for them is `(Σ h·w·q + (r + Σ μ·w)·Σ μ·q) / (Σ h·q² + (Σ μ·q)²)`: for each
/// group, codes of scales from 0.35 to 1 times `max(w/qmax, w/qmin)`, which clips nothing, are tried, and the best of them is
/// improved by rounding and least squares in turn, as long as the error falls. Each group's result is never worse, in this error,
/// than the scale of [`affine`] and the one that [`hqq`] starts with.
///
/// `group` 0 is a whole row. A row with one scale has nothing left with which to cancel its mean error but the fit of all its
/// weights, and the mean over all tokens is not what most rows of an output layer matter at: such rows are searched for the least
/// `Σ_j E[x_j²]·(w_j − s·q_j)²` alone.
///
/// # Errors
/// If the group does not divide the columns, the range is none, or the inputs have not a number for each column.
pub fn mse(
    label: &TensorLabel,
    w: Matrix<'_>,
    group: usize,
    range: (i64, i64),
    inputs: Option<Inputs<'_>>,
) -> Result<QuantizedMatrix, WeightError> {
    quantized(label, w, group, range, Method::Mse(inputs))
}

#[cfg(test)]
mod tests;
