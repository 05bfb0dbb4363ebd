//! The small operators of a decoding step, one row each: what they take beside the matrix products. Hot, with operands and code
//! in the caches; and cold, after as many bytes of something else as a layer's weights have.
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

/// Weights of a step: more than the last cache holds.
struct Weights(Vec<u64>, usize);

impl Weights {
    /// Reads as much as a layer's product does, other bytes each time.
    fn stream(&mut self) -> u64 {
        const PART: usize = 128 * 1024;
        self.1 = (self.1 + PART) % (self.0.len() - PART);
        std::hint::black_box(self.0[self.1..self.1 + PART].iter().fold(0, |a, b| a ^ b))
    }
}

/// The median of some runs behind a stream, in nanoseconds a run.
fn cold(weights: &mut Weights, mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..801)
        .map(|_| {
            weights.stream();
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64() * 1e9
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let ctx = Context::new(1);
    let mut weights = Weights((0..12u64 << 20).collect(), 0);
    let mut both = |mut f: &mut dyn FnMut()| {
        let a = best(&mut f);
        (a, cold(&mut weights, f))
    };
    println!("nothing: {:?}", both(&mut || {}));
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let (a, b, w) = (tensor(dtype, &[1, 576]), tensor(dtype, &[1, 576]), tensor(dtype, &[576]));
        let (mut sum, mut out) = (tensor(dtype, &[1, 576]), tensor(dtype, &[1, 576]));
        let mut show = |name: &str, f: &mut dyn FnMut()| {
            let (hot, cold) = both(f);
            println!("{dtype} {name}: {hot:.0} ns, cold {cold:.0} ns");
        };
        show("norm", &mut || rms_norm(&ctx, a.view(), Some(w.view()), 1e-5, out.view_mut()).expect("a norm"));
        show("sum and norm", &mut || {
            add_rms_norm(&ctx, a.view(), b.view(), w.view(), 1e-5, sum.view_mut(), out.view_mut()).expect("a norm");
        });
        let (x, y, mut z) = (tensor(dtype, &[1, 1536]), tensor(dtype, &[1, 1536]), tensor(dtype, &[1, 1536]));
        show("gate", &mut || silu_gate(&ctx, x.view(), y.view(), z.view_mut()).expect("a gate"));
        let (q, mut r) = (tensor(dtype, &[1, 1, 9, 64]), tensor(dtype, &[1, 1, 9, 64]));
        let (cos, sin) = (tensor(DType::F32, &[1, 32]), tensor(DType::F32, &[1, 32]));
        show("rotation of nine heads", &mut || {
            rope(&ctx, q.view(), cos.view(), sin.view(), RopeStyle::HalfSplit, r.view_mut()).expect("a rotation");
        });
        let (new, mut cache) = (tensor(dtype, &[1, 1, 3, 64]), tensor(dtype, &[1, 512, 3, 64]));
        show("row into a cache", &mut || {
            index::update_cache(&ctx, new.view(), cache.view_mut(), 77).expect("a row");
        });
    }
}
