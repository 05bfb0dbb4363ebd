//! The gate of a feed-forward layer.

use pteron_tensor::{DType, View, ViewMut};

use super::Lines;
use crate::elementwise::compute::Compute;
use crate::elementwise::drive::{check_out, in_pieces};
use crate::shape_ops::engine::check_dtype;
use crate::simd::Function;
use crate::{Context, KernelError, KernelResult, wide};

/// Elements computed at a time: they stay in the first-level cache.
const BLOCK: usize = 1024;
/// Elements that one thread takes at a time.
const PIECE: usize = 16 * 1024;

/// `x · sigmoid(x) · gate` of row-major tensors of f32, f16 or bf16 and of the same sizes. The sigmoid and both products are
/// computed in f32 and rounded to the operands' type one by one, as the three operators do it.
///
/// # Errors
/// Other sizes, types or orders in memory.
pub fn silu_gate(ctx: &Context, x: View<'_>, gate: View<'_>, mut out: ViewMut<'_>) -> KernelResult {
    let op = "silu_gate";
    let dtype = x.dtype();
    if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) || gate.dtype() != dtype {
        return Err(KernelError::new(op, format!("operands of {dtype} and {}: one float type expected", gate.dtype())));
    }
    check_dtype(op, &out, dtype)?;
    check_out(op, &out, x.sizes())?;
    if gate.sizes() != x.sizes() || !x.is_contiguous() || !gate.is_contiguous() || !out.is_contiguous() {
        return Err(KernelError::new(
            op,
            format!("operands of sizes {:?} and {:?}, row-major and the same expected", x.sizes(), gate.sizes()),
        ));
    }
    let (n, width) = (x.numel(), dtype.bits() / 8);
    let k = x.sizes().last().copied().unwrap_or(1).max(1);
    if let (Some(x), Some(gate), Some(out)) = (x.as_slice(), gate.as_slice(), out.as_slice_mut()) {
        return Lines::gate(x, gate, [n / k, k])?.write(ctx, out);
    }
    let kernels = ctx.kernels();
    let (x, gate) = (&x.bytes()[..n * width], &gate.bytes()[..n * width]);
    let round = |v: &mut [f32], bytes: &mut [u8]| {
        if dtype != DType::F32 {
            f32::store(dtype, bytes, 0, 1, v);
            f32::load(dtype, bytes, 0, 1, v);
        }
    };
    in_pieces(ctx, &mut out.bytes_mut()[..n * width], PIECE * width, &|piece, bytes| {
        let (mut a, mut s) = ([0f32; BLOCK], [0f32; BLOCK]);
        let mut at = piece * PIECE;
        for to in bytes.chunks_mut(BLOCK * width) {
            let len = to.len() / width;
            let (a, s) = (&mut a[..len], &mut s[..len]);
            f32::load(dtype, x, at, 1, a);
            kernels.map(Function::Sigmoid, a, s);
            round(s, to);
            wide::multiply(s, a);
            round(s, to);
            f32::load(dtype, gate, at, 1, a);
            wide::multiply(s, a);
            f32::store(dtype, to, 0, 1, s);
            at += len;
        }
    });
    Ok(())
}
