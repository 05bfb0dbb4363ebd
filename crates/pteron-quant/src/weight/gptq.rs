//! Codes that make up for each other's errors: GPTQ (Frantar et al. 2022, arXiv 2210.17323).
//!
//! With `H = E[x·xᵀ]` of a layer's inputs, the expected squared error of a row's output is `η·H·ηᵀ` for the error `η` of its
//! weights. `H = (U + 1)·D·(U + 1)ᵀ` with a strictly upper `U` and a diagonal `D` makes it `Σ D[k]·(η[k] + Σ_{j<k} η[j]·U[j][k])²`:
//! each column is rounded after what the columns before it have done wrong is added to it, and what is left is the rounding
//! alone. (This is GPTQ without the inverse of `H`: Chee et al. 2023, arXiv 2307.13304, theorem 6.)

use pteron_kernels::quant::wide::{self, Loop};

use super::code;

/// What is added to the diagonal, as a part of its mean.
const DAMP: f64 = 0.01;
/// Rows that are rounded side by side.
const ROWS: usize = 16;
/// Partial sums of a dot product.
const LANES: usize = 8;

/// What the rounding errors of some columns are to the columns after them.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// Columns in the order in which they are rounded.
    order: Vec<u32>,
    /// `U` row by row, in that order.
    upper: Vec<f32>,
}

impl Feedback {
    /// That of inputs whose products are `gram`, `[columns, columns]` sums of `x·xᵀ` on any scale: only ratios matter. Columns of
    /// large inputs are rounded first, so that most others can make up for them.
    ///
    /// # Errors
    /// A sentence, if there are not `columns²` of them, or one is no number.
    pub fn new(gram: &[f32], columns: usize) -> Result<Feedback, String> {
        if gram.len() != columns * columns || columns == 0 || columns > u32::MAX as usize {
            return Err(format!("{} products of inputs, expected {columns} × {columns}", gram.len()));
        }
        if let Some(at) = gram.iter().position(|v| !v.is_finite()) {
            return Err(format!("the product of input columns {} and {} is {}", at / columns, at % columns, gram[at]));
        }
        let diagonal = |i: usize| gram[i * columns + i];
        let mut order: Vec<usize> = (0..columns).collect();
        order.sort_by(|&a, &b| diagonal(b).total_cmp(&diagonal(a)).then(a.cmp(&b)));
        let mean = (0..columns).map(|i| f64::from(diagonal(i))).sum::<f64>() / columns as f64;
        let damp = if mean > 0.0 { DAMP * mean } else { 1.0 };
        let mut root = vec![0f64; columns * columns];
        for (row, &i) in root.chunks_exact_mut(columns).zip(&order) {
            row.iter_mut().zip(&order).for_each(|(v, &j)| *v = f64::from(gram[i * columns + j]));
        }
        (0..columns).for_each(|i| root[i * columns + i] += damp);
        wide::run(Root { values: &mut root, columns, least: damp * 1e-6 });
        let pivots: Vec<f64> = (0..columns).map(|i| root[i * columns + i]).collect();
        let upper = |(k, v): (usize, &f64)| {
            let (j, k) = (k / columns, k % columns);
            if j < k { (v / pivots[k]) as f32 } else { 0.0 }
        };
        let upper = root.iter().enumerate().map(upper).collect();
        Ok(Feedback { order: order.into_iter().map(|i| i as u32).collect(), upper })
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.order.len()
    }
}

/// `R`, upper, with `R·Rᵀ` the symmetric matrix, in its place; from the last column to the first.
struct Root<'a> {
    values: &'a mut [f64],
    columns: usize,
    least: f64,
}

impl Loop for Root<'_> {
    #[inline(always)]
    fn run(self) {
        let (n, values) = (self.columns, self.values);
        for k in (0..n).rev() {
            let (above, row) = values.split_at_mut(k * n);
            let row = &mut row[..n];
            let pivot = (row[k] - dot(&row[k + 1..], &row[k + 1..])).max(self.least).sqrt();
            row[k] = pivot;
            for other in above.chunks_exact_mut(n) {
                other[k] = (other[k] - dot(&other[k + 1..], &row[k + 1..])) / pivot;
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0f64; LANES];
    let ((xs, x_rest), (ys, y_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (x, y) in xs.iter().zip(ys) {
        for k in 0..LANES {
            sums[k] += x[k] * y[k];
        }
    }
    let rest: f64 = x_rest.iter().zip(y_rest).map(|(x, y)| x * y).sum();
    sums.iter().sum::<f64>() + rest
}

struct Rows<'a> {
    w: &'a [f32],
    group: usize,
    ends: (f32, f32),
    scales: &'a [f32],
    feedback: &'a Feedback,
    codes: &'a mut [i8],
}

/// The codes of some rows of a matrix, `scales` being those of their groups of `group` columns. Each row's codes depend on that row
/// alone.
pub fn codes(w: &[f32], group: usize, range: (i64, i64), scales: &[f32], feedback: &Feedback, codes: &mut [i8]) {
    wide::run(Rows { w, group, ends: (range.0 as f32, range.1 as f32), scales, feedback, codes });
}

impl Loop for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { w, group, ends, scales, feedback, codes } = self;
        let n = feedback.columns();
        let groups = n / group;
        // Column by column in the order of rounding: the weights, and the weights with what was added to them.
        let (mut plain, mut target) = (vec![[0f32; ROWS]; n], vec![[0f32; ROWS]; n]);
        let parts = w.chunks(n * ROWS).zip(scales.chunks(groups * ROWS)).zip(codes.chunks_mut(n * ROWS));
        for ((w, scales), codes) in parts {
            let rows = w.len() / n;
            for (cells, &column) in plain.iter_mut().zip(&feedback.order) {
                for (r, cell) in cells.iter_mut().enumerate() {
                    *cell = if r < rows { w[r * n + column as usize] } else { 0.0 };
                }
            }
            target.copy_from_slice(&plain);
            for (j, &column) in feedback.order.iter().enumerate() {
                let column = column as usize;
                let mut error = [0f32; ROWS];
                for r in 0..rows {
                    let scale = scales[r * groups + column / group];
                    let q = code(target[j][r], scale, ends);
                    codes[r * n + column] = q as i8;
                    error[r] = plain[j][r] - q * scale;
                }
                let upper = &feedback.upper[j * n + j + 1..(j + 1) * n];
                for (cells, &u) in target[j + 1..].iter_mut().zip(upper) {
                    for r in 0..ROWS {
                        cells[r] += u * error[r];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pteron_testkit::{Numbers, quadratic_form};

    use super::*;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        Numbers::new(seed).units(n)
    }

    /// Products of inputs that vary together: mixes of a few common parts and noise.
    fn gram(columns: usize) -> Vec<f32> {
        let (common, rows) = (4, 200);
        let mix = noise(common * columns, 3);
        let mut out = vec![0f32; columns * columns];
        for row in 0..rows {
            let parts = noise(common, row + 10);
            let own = noise(columns, row + 1000);
            let x: Vec<f32> = (0..columns)
                .map(|c| (0..common).map(|k| parts[k] * mix[k * columns + c]).sum::<f32>() + 0.1 * own[c])
                .collect();
            for i in 0..columns {
                for j in 0..columns {
                    out[i * columns + j] += x[i] * x[j];
                }
            }
        }
        out
    }

    fn error(w: &[f32], codes: &[i8], scales: &[f32], group: usize, gram: &[f32], columns: usize) -> f64 {
        let groups = columns / group;
        let rows = w.chunks(columns).zip(codes.chunks(columns)).zip(scales.chunks(groups));
        rows.map(|((w, q), scales)| {
            let off = |c: usize| f64::from(w[c]) - f64::from(q[c]) * f64::from(scales[c / group]);
            quadratic_form(&(0..columns).map(off).collect::<Vec<f64>>(), gram)
        })
        .sum()
    }

    #[test]
    fn the_root_gives_the_matrix_back() {
        let n = 24;
        let g = gram(n);
        let mut root: Vec<f64> = g.iter().map(|&v| f64::from(v)).collect();
        (0..n).for_each(|i| root[i * n + i] += 0.5);
        let whole = root.clone();
        wide::run(Root { values: &mut root, columns: n, least: 1e-9 });
        for i in 0..n {
            for j in i..n {
                let sum: f64 = (j..n).map(|m| root[i * n + m] * root[j * n + m]).sum();
                assert!((sum - whole[i * n + j]).abs() < 1e-9 * whole[0].abs().max(1.0), "{i} {j}");
            }
        }
    }

    #[test]
    fn outputs_are_nearer_than_with_rounding_alone() {
        let (rows, n) = (19, 64);
        let (w, g) = (noise(rows * n, 7), gram(n));
        let feedback = Feedback::new(&g, n).unwrap();
        for (group, range) in [(n, (-128, 127)), (16, (-8, 7))] {
            let most = |part: &[f32]| part.iter().fold(0f32, |m, v| m.max(v.abs()));
            let scales: Vec<f32> = w.chunks(group).map(|part| most(part) / range.1 as f32).collect();
            let mut found = vec![0i8; rows * n];
            codes(&w, group, range, &scales, &feedback, &mut found);
            let plain: Vec<i8> = w
                .chunks(group)
                .zip(&scales)
                .flat_map(|(part, &s)| {
                    let ends = (range.0 as f32, range.1 as f32);
                    part.iter().map(move |&v| code(v, s, ends) as i8).collect::<Vec<_>>()
                })
                .collect();
            let [a, b] = [&found, &plain].map(|q| error(&w, q, &scales, group, &g, n));
            assert!(a < 0.4 * b, "{group}: {a} {b}");
            // A row alone is what it is among others.
            let groups = n / group;
            let mut alone = vec![0i8; n];
            codes(&w[17 * n..18 * n], group, range, &scales[17 * groups..18 * groups], &feedback, &mut alone);
            assert_eq!(alone, found[17 * n..18 * n]);
        }
    }

    #[test]
    fn inputs_that_do_not_vary_together_leave_rounding_as_it_is() {
        let n = 8;
        let mut g = vec![0f32; n * n];
        (0..n).for_each(|i| g[i * n + i] = 1.0 + i as f32);
        let (w, scales) = (noise(n, 1), [1.0 / 127.0]);
        for gram in [g, vec![0f32; n * n]] {
            let feedback = Feedback::new(&gram, n).unwrap();
            let mut found = vec![0i8; n];
            codes(&w, n, (-128, 127), &scales, &feedback, &mut found);
            let plain: Vec<i8> = w.iter().map(|&v| code(v, scales[0], (-128.0, 127.0)) as i8).collect();
            assert_eq!(found, plain);
        }
        assert!(Feedback::new(&[0.0; 3], 2).is_err() && Feedback::new(&[f32::NAN], 1).is_err());
    }
}
