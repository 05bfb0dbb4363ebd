//! Softmax and its logarithm.

use pteron_tensor::{DType, Shape, View, ViewMut};

use crate::elementwise::compute::{Compute, Flt, Num, block_best, in_float};
use crate::elementwise::drive::{check_out, in_pieces};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::{check_dtype, dim_of};
use crate::simd::Kernels;
use crate::{Context, KernelError, KernelResult, wide};

/// Elements that one thread takes at a time, at least one line of them.
const PIECE: usize = 16 * 1024;

/// Elements whose sum is held in lanes of their own type; the sums of blocks are added in `f64`.
const BLOCK: usize = 1024;

/// What softmax does to one line.
trait Line: Flt {
    fn softmax(kernels: &Kernels, v: &mut [Self]);
    fn log_softmax(kernels: &Kernels, v: &mut [Self]);
}

impl Line for f32 {
    fn softmax(kernels: &Kernels, v: &mut [f32]) {
        let max = kernels.row_max(v);
        let total: f64 = v.chunks_mut(BLOCK).map(|b| f64::from(kernels.exp_sub_sum(b, max))).sum();
        wide::divide(v, total as f32);
    }

    fn log_softmax(kernels: &Kernels, v: &mut [f32]) {
        let max = kernels.row_max(v);
        let mut scratch = [0.0; BLOCK];
        let mut total = 0.0;
        for b in v.chunks(BLOCK) {
            let s = &mut scratch[..b.len()];
            s.copy_from_slice(b);
            total += f64::from(kernels.exp_sub_sum(s, max));
        }
        wide::subtract_two(v, max, total.ln() as f32);
    }
}

impl Line for f64 {
    fn softmax(_kernels: &Kernels, v: &mut [f64]) {
        let max = block_best(v, f64::NEG_INFINITY, f64::above);
        let mut total = 0.0;
        for b in v.chunks_mut(BLOCK) {
            for x in b.iter_mut() {
                *x = (*x - max).exp();
            }
            total += f64::block_sum(b);
        }
        for x in v.iter_mut() {
            *x /= total;
        }
    }

    fn log_softmax(_kernels: &Kernels, v: &mut [f64]) {
        let max = block_best(v, f64::NEG_INFINITY, f64::above);
        let log = v.iter().map(|x| (x - max).exp()).sum::<f64>().ln();
        for x in v.iter_mut() {
            *x = (*x - max) - log;
        }
    }
}

fn run(
    ctx: &Context,
    op: &'static str,
    a: View<'_>,
    dim: i64,
    half_to_float: bool,
    mut out: ViewMut<'_>,
    log: bool,
) -> KernelResult {
    if !a.dtype().is_float() {
        return Err(KernelError::new(op, format!("the operand is {}, expected a float type", a.dtype())));
    }
    if half_to_float && a.dtype() != DType::F16 {
        return Err(KernelError::new(op, format!("half_to_float is set, but the operand is {}", a.dtype())));
    }
    check_dtype(op, &out, if half_to_float { DType::F32 } else { a.dtype() })?;
    check_out(op, &out, a.sizes())?;
    let d = dim_of(op, dim, a.rank())?;
    let (n, step_in, step_out) = match a.rank() {
        0 => (1, 1, 1),
        _ => (a.sizes()[d], a.strides()[d], out.strides()[d]),
    };
    if a.numel() == 0 {
        return Ok(());
    }
    let mut sizes = Shape::from_slice(a.sizes());
    if let Some(s) = sizes.get_mut(d) {
        *s = 1;
    }
    let nest = Nest::new(&sizes, &[out.strides(), a.strides()], false);
    let (to, width) = (out.dtype(), out.dtype().bits() / 8);
    let [next_out, next_in, ..] = nest.inner();
    let kernels = ctx.kernels();
    in_float!(a.dtype(), C => {
        let lines = |range: std::ops::Range<usize>, skip: usize, bytes: &mut [u8]| {
            let mut buf = Vec::new();
            let line = |v: &mut [C], i: usize| {
                C::load(a.dtype(), a.bytes(), i, step_in, v);
                if log {
                    C::log_softmax(kernels, v);
                } else {
                    C::softmax(kernels, v);
                }
            };
            nest.rows(range, |at, len| {
                for j in 0..len {
                    let (o, i) = (at[0] + j * next_out - skip, at[1] + j * next_in);
                    let place = if step_out == 1 { C::direct_mut(to, bytes, o, n) } else { None };
                    if let Some(place) = place {
                        line(place, i);
                    } else {
                        buf.resize(n, C::of(0.0));
                        line(&mut buf, i);
                        C::store(to, bytes, o, step_out, &buf);
                    }
                }
            });
        };
        // Lines of a row-major out stand one after the other in memory.
        if out.is_contiguous() && step_out == 1 && d + 1 == a.rank() {
            let each = (PIECE / n).max(1);
            let bytes = nest.total() * n * width;
            in_pieces(ctx, &mut out.bytes_mut()[..bytes], each * n * width, &|p, b| {
                lines(p * each..p * each + b.len() / (n * width), p * each * n, b);
            });
        } else {
            lines(0..nest.total(), 0, out.bytes_mut());
        }
    });
    Ok(())
}

/// `e^(a - max) / Σ e^(a - max)` along `dim`. `f16` and `bf16` are computed in `f32`; with `half_to_float` an `f16` operand
/// gives `f32`. A line of `-∞` only gives NaN.
pub fn softmax(ctx: &Context, a: View<'_>, dim: i64, half_to_float: bool, out: ViewMut<'_>) -> KernelResult {
    run(ctx, "aten::_softmax", a, dim, half_to_float, out, false)
}

/// `a - max - ln Σ e^(a - max)` along `dim`. See [`softmax`].
pub fn log_softmax(ctx: &Context, a: View<'_>, dim: i64, half_to_float: bool, out: ViewMut<'_>) -> KernelResult {
    run(ctx, "aten::_log_softmax", a, dim, half_to_float, out, true)
}
