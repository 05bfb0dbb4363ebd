//! The Walsh–Hadamard transform, `llama::fast_hadamard_transform`.

use pteron_tensor::{DType, HADAMARD_28, View, ViewMut};

use super::blocks::{floats, in_pieces, rows_a_piece};
use super::convert::write_floats;
use crate::{Context, KernelError, KernelResult};

/// The transform of one row of 2^k elements, in Sylvester's order, divided by √2^k.
fn transform(row: &mut [f32]) {
    let n = row.len();
    let mut step = 1;
    while step < n {
        for pair in row.chunks_exact_mut(step * 2) {
            let (a, b) = pair.split_at_mut(step);
            for (a, b) in a.iter_mut().zip(b) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
    let log2 = n.trailing_zeros();
    let root = (1u64 << (log2 / 2)) as f32 * if log2 % 2 == 1 { std::f32::consts::SQRT_2 } else { 1.0 };
    let inverse = 1.0 / root;
    row.iter_mut().for_each(|v| *v *= inverse);
}

/// `llama::fast_hadamard_transform`: every row of the last dimension of `x`, f32 or f16, times the Hadamard matrix of its
/// length n, a power of two, over √n. A length of 28·2^k is 28 rows of 2^k, each transformed, and then each column times a
/// Hadamard matrix of 28 rows, which is not normalised (so ExecuTorch's kernel).
///
/// # Errors
/// Sizes or types that do not fit; a length that is neither.
pub fn fast_hadamard_transform(ctx: &Context, x: &View<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    let op = "llama::fast_hadamard_transform";
    if x.sizes() != out.sizes() || x.dtype() != out.dtype() || !matches!(x.dtype(), DType::F32 | DType::F16) {
        let e = format!(
            "{} {:?} into {} {:?}: expected the same sizes, and f32 or f16",
            x.dtype(),
            x.sizes(),
            out.dtype(),
            out.sizes()
        );
        return Err(KernelError::new(op, e));
    }
    if x.numel() == 0 {
        return Ok(());
    }
    let width = x.sizes().last().copied().unwrap_or(1);
    let parts = if width.is_multiple_of(28) { 28 } else { 1 };
    let power = width / parts;
    if !power.is_power_of_two() {
        return Err(KernelError::new(op, format!("rows of {width} elements: expected 2^k or 28·2^k")));
    }
    let values = floats(op, x)?;
    write_floats(op, out, |all| {
        all.copy_from_slice(&values);
        in_pieces(ctx, all, rows_a_piece(width) * width, &|_, piece| {
            let mut column = [0f32; 28];
            for row in piece.chunks_exact_mut(width) {
                row.chunks_exact_mut(power).for_each(transform);
                if parts == 1 {
                    continue;
                }
                for c in 0..power {
                    for (i, v) in column.iter_mut().enumerate() {
                        *v = row[i * power + c];
                    }
                    for (j, signs) in HADAMARD_28.iter().enumerate() {
                        let term = |(i, &v): (usize, &f32)| if signs >> i & 1 == 1 { v } else { -v };
                        row[j * power + c] = column.iter().enumerate().map(term).sum();
                    }
                }
            }
        });
    })
}
