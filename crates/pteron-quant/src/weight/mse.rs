//! The scale of least squared error of each group, weighted by how large the inputs are.

use super::{Matrix, QuantizedMatrix, WeightError, check_range, code, largest};
use crate::error::TensorLabel;

/// Scales tried for each group: this many between [`LEAST`] and 1 times the scale that clips nothing.
const CANDIDATES: usize = 64;
/// The smallest scale tried, as a part of the scale that clips nothing.
const LEAST: f32 = 0.35;
/// Rounds of least squares after the search.
const ROUNDS: usize = 8;

/// Searches each group's scale for the least error of the layer's output.
///
/// With `E[x²]` of input column `j` in `second_moments[j]` (1 for all if `None`), the expected squared error of a row's output,
/// leaving correlations between inputs out, is `Σ_j E[x_j²]·(w_j − s·q_j)²`. For each group, scales from 0.35 to 1 times
/// `max(w/qmax, w/qmin)`, which clips nothing, and the scales of [`super::affine`] and the start of [`super::hqq`] are tried;
/// the best is refined by weighted least squares, `s = Σ h·w·q / Σ h·q²`, as long as the error falls. Errors are summed in
/// `f64`; the result is never worse, in this error, than that of either of those two scales. `group` 0 is a whole row.
///
/// # Errors
/// If the group does not divide the columns, the range is none, or the moments are not one for each column.
pub fn mse(
    label: &TensorLabel,
    w: Matrix<'_>,
    group: usize,
    range: (i64, i64),
    second_moments: Option<&[f32]>,
) -> Result<QuantizedMatrix, WeightError> {
    let ends = check_range(range)?;
    let group = w.group(label, group)?;
    let ones;
    let moments = match second_moments {
        Some(m) if m.len() == w.columns && m.iter().all(|v| v.is_finite() && *v >= 0.0) => m,
        Some(m) => return Err(WeightError::Moments { label: label.clone(), columns: w.columns, found: m.len() }),
        None => {
            ones = vec![1f32; w.columns];
            &ones
        }
    };
    let mut out = QuantizedMatrix { codes: Vec::with_capacity(w.data.len()), scales: Vec::new(), group };
    for row in w.data.chunks_exact(w.columns) {
        for (part, h) in row.chunks_exact(group).zip(moments.chunks_exact(group)) {
            // Columns that never see a value still count where all of a group's do.
            let scale = match h.iter().any(|v| *v > 0.0) {
                true => search(part, h, ends),
                false => search(part, &vec![1f32; group], ends),
            };
            out.codes.extend(part.iter().map(|&v| code(v, scale, ends) as i8));
            out.scales.push(scale);
        }
    }
    Ok(out)
}

fn error(part: &[f32], h: &[f32], scale: f32, ends: (f32, f32)) -> f64 {
    let one = |(&v, &h): (&f32, &f32)| {
        let d = f64::from(v) - f64::from(scale) * f64::from(code(v, scale, ends));
        f64::from(h) * d * d
    };
    part.iter().zip(h).map(one).sum()
}

fn search(part: &[f32], h: &[f32], ends: (f32, f32)) -> f32 {
    let absmax = largest(part);
    let floor = f32::EPSILON;
    let need = |v: f32| {
        if v < 0.0 && ends.0 < 0.0 {
            v / ends.0
        } else if v > 0.0 && ends.1 > 0.0 {
            v / ends.1
        } else {
            0.0
        }
    };
    let full = part.iter().map(|&v| need(v)).fold(0f32, f32::max);
    if full <= floor {
        return floor;
    }
    let known = [absmax / ((ends.1 - ends.0) / 2.0), absmax / ends.0.abs().max(ends.1)];
    let grid = (0..=CANDIDATES).map(|i| full * (LEAST + (1.0 - LEAST) * i as f32 / CANDIDATES as f32));
    let mut best = (f64::INFINITY, full);
    for s in grid.chain(known).map(|s| s.max(floor)) {
        let e = error(part, h, s, ends);
        if e < best.0 {
            best = (e, s);
        }
    }
    for _ in 0..ROUNDS {
        let (mut num, mut den) = (0f64, 0f64);
        for (&v, &h) in part.iter().zip(h) {
            let q = f64::from(code(v, best.1, ends));
            num += f64::from(h) * f64::from(v) * q;
            den += f64::from(h) * q * q;
        }
        let s = (num / den) as f32;
        if !(s.is_finite() && s > floor) {
            break;
        }
        let e = error(part, h, s, ends);
        if e >= best.0 {
            break;
        }
        best = (e, s);
    }
    best.1
}
