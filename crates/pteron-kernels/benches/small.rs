//! The small operators of a decoding step, one row each, their operands in the caches: what they take beside the matrix
//! products.
//!
//!     cargo bench -p pteron-kernels --bench small
//!
//! The sizes are those of SmolLM2-135M.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::time::Instant;

use pteron_kernels::nn::{RopeStyle, add_rms_norm, rms_norm, rope, silu_gate};
use pteron_kernels::{Context, index};
use pteron_tensor::{DType, Scalar, Tensor};

const RUNS: usize = 2000;

fn tensor(dtype: DType, sizes: &[usize]) -> Tensor {
    let mut t = Tensor::zeros(dtype, sizes).expect("sizes that fit");
    let n = t.numel();
    let mut view = t.view_mut();
    for i in 0..n {
        view.set_scalar(i, Scalar::Float((i % 89) as f64 * 0.03 - 1.2)).expect("an element");
    }
    t
}

/// The best of some rounds, in nanoseconds a run.
fn best(mut f: impl FnMut()) -> f64 {
    (0..20)
        .map(|_| {
            let start = Instant::now();
            (0..RUNS).for_each(|_| f());
            start.elapsed().as_secs_f64() * 1e9 / RUNS as f64
        })
        .fold(f64::MAX, f64::min)
}

fn main() {
    let ctx = Context::new(1);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let (a, b, w) = (tensor(dtype, &[1, 576]), tensor(dtype, &[1, 576]), tensor(dtype, &[576]));
        let (mut sum, mut out) = (tensor(dtype, &[1, 576]), tensor(dtype, &[1, 576]));
        let norm = best(|| rms_norm(&ctx, a.view(), Some(w.view()), 1e-5, out.view_mut()).expect("a norm"));
        let both = best(|| {
            add_rms_norm(&ctx, a.view(), b.view(), w.view(), 1e-5, sum.view_mut(), out.view_mut()).expect("a norm");
        });
        let (x, y, mut z) = (tensor(dtype, &[1, 1536]), tensor(dtype, &[1, 1536]), tensor(dtype, &[1, 1536]));
        let gate = best(|| silu_gate(&ctx, x.view(), y.view(), z.view_mut()).expect("a gate"));
        let (q, mut r) = (tensor(dtype, &[1, 1, 9, 64]), tensor(dtype, &[1, 1, 9, 64]));
        let (cos, sin) = (tensor(DType::F32, &[1, 32]), tensor(DType::F32, &[1, 32]));
        let turn = best(|| {
            rope(&ctx, q.view(), cos.view(), sin.view(), RopeStyle::HalfSplit, r.view_mut()).expect("a rotation");
        });
        let (new, mut cache) = (tensor(dtype, &[1, 1, 3, 64]), tensor(dtype, &[1, 512, 3, 64]));
        let write = best(|| index::update_cache(&ctx, new.view(), cache.view_mut(), 77).expect("a row"));
        println!(
            "{dtype}: norm {norm:.0} ns, sum and norm {both:.0} ns, gate {gate:.0} ns, rotation of nine heads {turn:.0} ns, row \
             into a cache {write:.0} ns"
        );
    }
}
