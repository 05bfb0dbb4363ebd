//! A residual sum and the norm of it.

use pteron_tensor::{DType, View, ViewMut};

use super::Lines;
use super::norm::{Line, borrow_all, float_only, round_to};
use crate::elementwise::compute::Compute;
use crate::operand::SharedMut;
use crate::{Context, KernelError, KernelResult};

/// Elements that one thread takes at a time, at least one line of them.
const PIECE: usize = 16 * 1024;

/// `sum = a + b` and `out = rms_norm(sum)·weight`, of row-major tensors of f32, f16 or bf16 and of the same sizes, as `add` and
/// [`rms_norm`](super::rms_norm) compute them one after the other, bit for bit.
///
/// # Errors
/// Other types, sizes or orders in memory.
pub fn add_rms_norm(
    ctx: &Context,
    a: View<'_>,
    b: View<'_>,
    weight: View<'_>,
    eps: f64,
    mut sum: ViewMut<'_>,
    mut out: ViewMut<'_>,
) -> KernelResult {
    let op = "add_rms_norm";
    let dtype = a.dtype();
    float_only(op, "a", dtype)?;
    let n = a.sizes().last().copied().unwrap_or(0);
    let same = |sizes: &[usize], other: DType, contiguous: bool| sizes == a.sizes() && other == dtype && contiguous;
    let fits = dtype != DType::F64
        && same(b.sizes(), b.dtype(), b.is_contiguous() && a.is_contiguous())
        && same(sum.sizes(), sum.dtype(), sum.is_contiguous())
        && same(out.sizes(), out.dtype(), out.is_contiguous())
        && weight.sizes() == [n]
        && weight.dtype() == dtype;
    if !fits {
        let sizes = [a.sizes(), b.sizes(), weight.sizes(), sum.sizes(), out.sizes()];
        return Err(KernelError::new(op, format!("sizes {sizes:?} of a, b, weight and results of {dtype} do not fit")));
    }
    if a.numel() == 0 {
        return Ok(());
    }
    let w = borrow_all::<f32>(&weight);
    let rows = [a.numel() / n, n];
    if let (Some(a), Some(b)) = (a.as_slice(), b.as_slice())
        && let (Some(sum), Some(out)) = (sum.as_slice_mut(), out.as_slice_mut())
    {
        return Lines::add_norm([a, b], &w, eps, sum, rows)?.write(ctx, out);
    }
    let (lines, width) = (a.numel() / n, dtype.bits() / 8);
    let each = (PIECE / n).max(1);
    let (bytes, from) = (n * width, (a.bytes(), b.bytes()));
    let places = [sum.bytes_mut(), out.bytes_mut()].map(|bytes| {
        assert!(bytes.len() >= lines * n * width, "a view has the bytes of its elements");
        SharedMut::new(bytes)
    });
    ctx.pool().run(lines.div_ceil(each), &|piece| {
        let (mut x, mut y, mut rounded) = (Vec::new(), Vec::new(), Vec::new());
        for line in piece * each..((piece + 1) * each).min(lines) {
            // SAFETY: line `line` of both results, which lie inside their bytes (asserted above); each line is one piece's.
            let [sum, out] =
                [0, 1].map(|i| unsafe { std::slice::from_raw_parts_mut(places[i].at(line * bytes), bytes) });
            x.resize(n, 0.0);
            y.resize(n, 0.0);
            f32::load(dtype, from.0, line * n, 1, &mut x);
            f32::load(dtype, from.1, line * n, 1, &mut y);
            x.iter_mut().zip(&y).for_each(|(x, y)| *x += y);
            f32::store(dtype, sum, 0, 1, &x);
            f32::load(dtype, sum, 0, 1, &mut x);
            normalize(&mut x, eps, &w, dtype, &mut rounded);
            f32::store(dtype, out, 0, 1, &x);
        }
    });
    Ok(())
}

fn normalize(line: &mut [f32], eps: f64, weight: &[f32], dtype: DType, rounded: &mut Vec<u8>) {
    f32::normalize(line, eps);
    round_to(dtype, line, rounded);
    f32::multiply(line, weight);
}
