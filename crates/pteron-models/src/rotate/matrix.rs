//! Orthogonal matrices, and what they make of vectors.

use std::f64::consts::PI;

use pteron_tensor::HADAMARD_28;

use crate::synthetic::{GOLDEN, mix, state_of};

/// Most rows of the part of a Hadamard matrix that is no product of 2 × 2 matrices.
const MOST_BLOCK: usize = 2048;

/// An orthogonal matrix `R`, by which row vectors are multiplied from the right.
#[derive(Debug)]
pub(super) enum Matrix {
    /// `diag(signs) · (B ⊗ S)`, where `S` is Sylvester's matrix of `power` rows over its root: vectors take `power · log(power)`
    /// sums for each row of `B`.
    Hadamard {
        /// 1 or −1 for each element of the vector.
        signs: Vec<f64>,
        /// `B` transposed, row by row: square.
        block: Vec<f64>,
        /// A power of two.
        power: usize,
    },
    /// Any matrix.
    Dense {
        /// Rows, and columns.
        size: usize,
        /// `R` transposed, row by row.
        transposed: Vec<f64>,
    },
}

/// A bit for each element, from a seed and the matrix's name.
fn signs(name: &str, size: usize, seed: u64) -> Vec<f64> {
    let state = state_of(name, seed);
    let bit = |i: usize| mix(state.wrapping_add((i as u64).wrapping_mul(GOLDEN))) >> 63;
    (0..size).map(|i| if bit(i) == 1 { -1.0 } else { 1.0 }).collect()
}

fn is_prime(n: usize) -> bool {
    n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
}

/// The quadratic character modulo a prime: 1 for squares, −1 for others, 0 for 0.
fn characters(q: usize) -> Vec<f64> {
    let mut out = vec![-1.0; q];
    (1..q).for_each(|x| out[x * x % q] = 1.0);
    out[0] = 0.0;
    out
}

/// The Hadamard matrix of `q + 1` rows for a prime `q` of the form 4k + 3 (Paley 1933, first construction), row by row.
fn paley_first(q: usize) -> Vec<f64> {
    let (n, chi) = (q + 1, characters(q));
    let at = |i: usize, j: usize| match (i, j) {
        (0, _) | (_, 0) => 1.0,
        (i, j) if i == j => -1.0,
        (i, j) => chi[(j + q - i) % q],
    };
    (0..n * n).map(|k| at(k / n, k % n)).collect()
}

/// The Hadamard matrix of `2(q + 1)` rows for a prime `q` of the form 4k + 1 (Paley 1933, second construction), row by row.
fn paley_second(q: usize) -> Vec<f64> {
    let (n, chi) = (2 * (q + 1), characters(q));
    let at = |i: usize, j: usize| {
        let (a, b) = (i % 2, j % 2);
        match (i / 2, j / 2) {
            (x, y) if x == y => {
                if a == 0 && b == 0 {
                    1.0
                } else {
                    -1.0
                }
            }
            (x, y) => {
                let c = if x == 0 || y == 0 { 1.0 } else { chi[(y + q - x) % q] };
                if a == 1 && b == 1 { -c } else { c }
            }
        }
    };
    (0..n * n).map(|k| at(k / n, k % n)).collect()
}

/// A Hadamard matrix of `n` rows, `n` a multiple of 4, if one of Paley's constructions over a prime gives it.
fn paley(n: usize) -> Option<Vec<f64>> {
    let half = n / 2;
    match n {
        _ if !n.is_multiple_of(4) || n > MOST_BLOCK => None,
        _ if is_prime(n - 1) => Some(paley_first(n - 1)),
        _ if is_prime(half - 1) && half % 4 == 2 => Some(paley_second(half - 1)),
        _ => None,
    }
}

/// The orthonormal cosine transform (DCT-II) of `n` elements, row by row: row `i` is input `i`.
fn cosines(n: usize) -> Vec<f64> {
    let at = |i: usize, j: usize| {
        let scale = if j == 0 { 1.0 } else { 2.0 };
        // The period is 4n, in whole numbers.
        let phase = (2 * i + 1) * j % (4 * n);
        (scale / n as f64).sqrt() * (PI * phase as f64 / (2 * n) as f64).cos()
    };
    (0..n * n).map(|k| at(k / n, k % n)).collect()
}

/// The factors of a size that `llama::fast_hadamard_transform` takes: 1 or 28, and a power of two.
pub(super) fn operator_parts(size: usize) -> Option<(usize, usize)> {
    let n = if size.is_multiple_of(28) { 28 } else { 1 };
    let power = size / n;
    power.is_power_of_two().then_some((n, power))
}

fn transpose(values: &[f64], n: usize) -> Vec<f64> {
    (0..n * n).map(|k| values[k % n * n + k / n]).collect()
}

impl Matrix {
    /// A Hadamard matrix of `size` rows, over its root, with the signs of its rows drawn by `seed` for the matrix called `name`.
    /// Where none is known of that size, the odd factor takes a cosine transform. `None` for a size whose odd factor is too large.
    pub(super) fn hadamard(size: usize, name: &str, seed: u64) -> Option<Matrix> {
        let twos = size.trailing_zeros();
        let odd = size >> twos;
        let (block, n) = if odd == 1 {
            (vec![1.0], 1)
        } else if let Some((j, block)) = (2..=twos).find_map(|j| Some((j, paley(odd << j)?))) {
            let n = odd << j;
            let root = (n as f64).sqrt();
            (block.into_iter().map(|v| v / root).collect(), n)
        } else if odd <= MOST_BLOCK {
            (cosines(odd), odd)
        } else {
            return None;
        };
        Some(Matrix::Hadamard { signs: signs(name, size, seed), block: transpose(&block, n), power: size / n })
    }

    /// What undoes `llama::fast_hadamard_transform` over `size` elements: a weight times this from the right takes transformed
    /// inputs. `None` for a size that the operator does not have.
    pub(super) fn undoing_operator(size: usize) -> Option<Matrix> {
        let (n, power) = operator_parts(size)?;
        // The operator divides by the root of the power of two only.
        let block = match n {
            1 => vec![1.0],
            n => {
                let sign = |j: usize, i: usize| if HADAMARD_28[j] >> i & 1 == 1 { 1.0 } else { -1.0 };
                (0..n * n).map(|k| sign(k / n, k % n) / n as f64).collect()
            }
        };
        Some(Matrix::Hadamard { signs: vec![1.0; size], block, power })
    }

    /// The matrix of these elements, row by row: `size` squared of them.
    pub(super) fn dense(size: usize, values: &[f64]) -> Matrix {
        Matrix::Dense { size, transposed: transpose(values, size) }
    }

    /// Rows, and columns.
    pub(super) fn size(&self) -> usize {
        match self {
            Matrix::Hadamard { signs, .. } => signs.len(),
            Matrix::Dense { size, .. } => *size,
        }
    }

    /// Each column `v` of `data`, `[size, width]`, becomes `v · R`. A column's result does not depend on the others.
    pub(super) fn apply(&self, data: &mut [f64], width: usize, scratch: &mut Vec<f64>) {
        match self {
            Matrix::Hadamard { signs, block, power } => {
                for (row, sign) in data.chunks_exact_mut(width).zip(signs) {
                    row.iter_mut().for_each(|v| *v *= sign);
                }
                data.chunks_exact_mut(power * width).for_each(|part| sylvester(part, width));
                let n = signs.len() / power;
                if n > 1 {
                    multiply(block, n, data, power * width, scratch);
                }
            }
            Matrix::Dense { size, transposed } => multiply(transposed, *size, data, width, scratch),
        }
    }

    /// How far `R · Rᵀ` is from one, as some vectors of signs show it: the largest element of what they become, less themselves.
    pub(super) fn skew(&self) -> f64 {
        const VECTORS: usize = 16;
        let n = self.size();
        let Matrix::Dense { transposed, .. } = self else { return 0.0 };
        let mut before = vec![0.0; n * VECTORS];
        for column in 0..VECTORS {
            let some = signs("skew", n, column as u64);
            some.iter().enumerate().for_each(|(i, s)| before[i * VECTORS + column] = *s);
        }
        let (mut after, mut scratch) = (before.clone(), Vec::new());
        self.apply(&mut after, VECTORS, &mut scratch);
        multiply(&transpose(transposed, n), n, &mut after, VECTORS, &mut scratch);
        before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }
}

/// Rows of `data`, `[n, width]`, become their products with the rows of `matrix`.
fn multiply(matrix: &[f64], n: usize, data: &mut [f64], width: usize, scratch: &mut Vec<f64>) {
    scratch.clear();
    scratch.resize(data.len(), 0.0);
    for (row, out) in matrix.chunks_exact(n).zip(scratch.chunks_exact_mut(width)) {
        for (factor, part) in row.iter().zip(data.chunks_exact(width)) {
            out.iter_mut().zip(part).for_each(|(o, v)| *o += factor * v);
        }
    }
    data.copy_from_slice(scratch);
}

/// Sylvester's transform of each column of `data`, `[2^k, width]`, over the root of 2^k.
fn sylvester(data: &mut [f64], width: usize) {
    let mut step = width;
    while step < data.len() {
        for pair in data.chunks_exact_mut(step * 2) {
            let (a, b) = pair.split_at_mut(step);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
    let scale = ((data.len() / width) as f64).sqrt().recip();
    data.iter_mut().for_each(|v| *v *= scale);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The matrix, row by row.
    fn whole(m: &Matrix) -> Vec<f64> {
        let n = m.size();
        let mut out = vec![0.0; n * n];
        for i in 0..n {
            let mut unit = vec![0.0; n];
            unit[i] = 1.0;
            m.apply(&mut unit, 1, &mut Vec::new());
            out[i * n..][..n].copy_from_slice(&unit);
        }
        out
    }

    #[test]
    fn matrices_of_every_size_are_orthogonal() {
        for n in [1, 2, 3, 6, 8, 12, 16, 20, 25, 36, 40, 48, 64, 72, 80, 92, 96, 104, 112, 144, 576] {
            let m = Matrix::hadamard(n, "R1", 7).unwrap();
            let values = whole(&m);
            let dense = Matrix::dense(n, &values);
            assert!(dense.skew() < 1e-11, "{n}: {}", dense.skew());
            // All columns at once are what they are one by one.
            let mut together: Vec<f64> = (0..n * n).map(|i| (i % 7) as f64).collect();
            let mut other = together.clone();
            m.apply(&mut together, n, &mut Vec::new());
            dense.apply(&mut other, n, &mut Vec::new());
            assert!(together.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-11), "{n}");
            // A Hadamard matrix has elements of one magnitude.
            if ![3, 6, 25, 92].contains(&n) {
                let one = 1.0 / (n as f64).sqrt();
                assert!(values.iter().all(|v| (v.abs() - one).abs() < 1e-14), "{n}");
            }
        }
        assert!(Matrix::hadamard(2 * 5003, "R1", 0).is_none());
    }

    #[test]
    fn seeds_and_names_give_other_signs() {
        let of = |name, seed| whole(&Matrix::hadamard(16, name, seed).unwrap());
        assert_eq!(of("R1", 3), of("R1", 3));
        assert_ne!(of("R1", 3), of("R1", 4));
        assert_ne!(of("R1", 3), of("R2", 3));
    }

    #[test]
    fn the_operator_is_undone() {
        for (n, scale) in [(8, 1.0), (56, 28.0)] {
            let undo = Matrix::undoing_operator(n).unwrap();
            // The operator as `fast_hadamard_transform` computes it: Sylvester's rows, then columns of 28.
            let parts = if n % 28 == 0 { 28 } else { 1 };
            let operator = |x: &[f64]| {
                let mut y = x.to_vec();
                y.chunks_exact_mut(n / parts).for_each(|part| sylvester(part, 1));
                if parts == 1 {
                    return y;
                }
                let p = n / parts;
                let sign = |j: usize, i: usize| if HADAMARD_28[j] >> i & 1 == 1 { 1.0 } else { -1.0 };
                (0..n).map(|k| (0..28).map(|i| sign(k / p, i) * y[i * p + k % p]).sum()).collect()
            };
            let x: Vec<f64> = (0..n).map(|i| ((i * 37) % 11) as f64 - 4.0).collect();
            let mut row: Vec<f64> = (0..n).map(|i| ((i * 23) % 13) as f64 - 5.0).collect();
            let before: f64 = row.iter().zip(&x).map(|(a, b)| a * b).sum();
            undo.apply(&mut row, 1, &mut Vec::new());
            let after: f64 = row.iter().zip(operator(&x)).map(|(a, b)| a * b).sum();
            assert!((before - after).abs() < 1e-9 * scale, "{n}: {before} {after}");
        }
        assert!(Matrix::undoing_operator(1536).is_none() && Matrix::undoing_operator(28 * 3).is_none());
    }

    #[test]
    fn what_is_not_orthogonal_is_seen() {
        let mut values = whole(&Matrix::hadamard(16, "R1", 0).unwrap());
        values[37] += 0.01;
        assert!(Matrix::dense(16, &values).skew() > 1e-3);
    }
}
