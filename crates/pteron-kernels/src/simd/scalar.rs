//! The scalar kernels. They define what the others compute: f32 sums in the order of `k`, and eˣ to the nearest f32 (up to
//! the last place of an f64).

use super::lanes::Weight;
use super::{Function, NnArgs, NtArgs};
use crate::elementwise::normal::normal_cdf;

pub(super) unsafe fn nt<W: Weight>(a: NtArgs<W>) {
    for m in 0..a.m {
        for n in 0..a.n {
            let mut sum = 0.0f32;
            for k in 0..a.k {
                // SAFETY: the caller's: see `NtArgs`.
                unsafe { sum += *a.x.add(m * a.ldx + k) * (*a.w.add(n * a.ldw + k)).widen() };
            }
            // SAFETY: the caller's: see `NtArgs`.
            unsafe { *a.out.add(m * a.ldo + n) = sum };
        }
    }
}

pub(super) unsafe fn nn<W: Weight>(a: NnArgs<W>) {
    for m in 0..a.m {
        if !a.onto {
            for n in 0..a.n {
                // SAFETY: the caller's: see `NnArgs`.
                unsafe { *a.out.add(m * a.ldo + n) = 0.0 };
            }
        }
        // Row by row of b, which is how it lies in memory; each sum still runs in the order of `k`.
        for k in 0..a.k {
            for n in 0..a.n {
                // SAFETY: the caller's: see `NnArgs`.
                unsafe {
                    *a.out.add(m * a.ldo + n) +=
                        *a.a.add(m * a.a_row + k * a.a_col) * (*a.b.add(k * a.ldb + n)).widen();
                }
            }
        }
    }
}

pub(super) fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

pub(super) unsafe fn exp_in_place(row: &mut [f32]) {
    for x in row {
        *x = exp(*x);
    }
}

/// `out = f(x)` for as many elements as both have.
pub(super) unsafe fn map(f: Function, x: &[f32], out: &mut [f32]) {
    fn each(x: &[f32], out: &mut [f32], f: impl Fn(f32) -> f32) {
        for (o, &v) in out.iter_mut().zip(x) {
            *o = f(v);
        }
    }
    match f {
        Function::Exp => each(x, out, exp),
        Function::Sigmoid => each(x, out, |v| 1.0 / (1.0 + exp(-v))),
        Function::Silu => each(x, out, |v| v / (1.0 + exp(-v))),
        Function::Tanh => each(x, out, |v| f64::from(v).tanh() as f32),
        Function::Gelu => each(x, out, |v| (f64::from(v) * normal_cdf(f64::from(v))) as f32),
        Function::GeluTanh => each(x, out, |v| {
            let inner = super::GELU_BETA * (v + 0.044_715 * v * v * v);
            0.5 * v * (1.0 + f64::from(inner).tanh() as f32)
        }),
    }
}

pub(super) unsafe fn exp_sub_sum(row: &mut [f32], max: f32) -> f32 {
    let mut sum = 0.0;
    for x in row {
        *x = exp(*x - max);
        sum += *x;
    }
    sum
}

pub(super) unsafe fn row_max(row: &[f32]) -> f32 {
    row.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

pub(super) unsafe fn fma_chains(rounds: usize) -> f32 {
    let (a, b) = (std::hint::black_box(0.999f32), std::hint::black_box(1e-3f32));
    let mut acc = [1.0f32; 12];
    for _ in 0..rounds {
        for v in &mut acc {
            *v = *v * a + b;
        }
    }
    acc.iter().sum()
}

pub(super) unsafe fn read_all(data: &[f32]) -> f32 {
    let mut acc = [0.0f32; 8];
    for chunk in data.as_chunks::<8>().0 {
        for (a, v) in acc.iter_mut().zip(chunk) {
            *a += *v;
        }
    }
    acc.iter().sum()
}
