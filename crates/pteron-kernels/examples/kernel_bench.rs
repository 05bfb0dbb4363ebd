//! Measures the matrix and attention kernels against the machine: multiply-adds against a loop of nothing else, streams of
//! weights against a loop that only reads.
//!
//! `cargo run --release -p pteron-kernels --example kernel_bench -- [ISA|best] [THREADS] [rows|matrices|attention]`
#![allow(clippy::print_stdout, reason = "it reports to a terminal")]
#![allow(clippy::disallowed_methods, reason = "it measures time, and its settings are arguments")]

use std::time::Instant;

use pteron_kernels::attention::{SdpaOptions, custom_sdpa};
use pteron_kernels::matmul::{linear, mm};
use pteron_kernels::simd::{Isa, READ_PATTERNS, fma_chains, kernels, lanes, read_all};
use pteron_kernels::{Context, KernelError};
use pteron_tensor::{DType, Tensor, View};

/// Best of several runs, in seconds.
fn best(mut f: impl FnMut()) -> f64 {
    f();
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || (begun.elapsed().as_secs_f64() < 0.15 && runs < 2000) {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn noise(dtype: DType, sizes: &[usize]) -> Tensor {
    let mut s = 0x9e37_79b9u32;
    let mut t = Tensor::zeros(DType::F32, sizes).expect("the sizes fit");
    let n = t.numel();
    for i in 0..n {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (s >> 8) as f32 / 8_388_608.0 - 1.0;
        t.bytes_mut()[4 * i..4 * i + 4].copy_from_slice(&x.to_le_bytes());
    }
    if dtype == DType::F32 {
        return t;
    }
    let mut out = Tensor::zeros(dtype, sizes).expect("the sizes fit");
    pteron_tensor::cast_bytes(t.bytes(), DType::F32, out.bytes_mut(), dtype, n).expect("the buffers fit");
    out
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let isa = args.first().filter(|s| *s != "best").map(|s| s.parse::<Isa>()).transpose()?;
    let threads: Vec<usize> = match args.get(1) {
        Some(t) => vec![t.parse()?],
        None => vec![1, 2],
    };
    for k in kernels().iter().filter(|k| k.chosen_here) {
        println!("{:14} {}", k.op, k.name);
    }
    for &t in &threads {
        let ctx = match isa {
            Some(isa) => Context::with_isa(t, isa)?,
            None => Context::new(t),
        };
        let peak = machine(&ctx);
        let part = |name: &str| args.get(2).is_none_or(|a| a == name);
        if part("rows") {
            one_row(&ctx)?;
        }
        if part("matrices") {
            matrices(&ctx, peak)?;
        }
        if part("attention") {
            attention(&ctx, peak)?;
        }
    }
    Ok(())
}

fn fastest_read(ctx: &Context, data: &[f32]) -> f64 {
    let by = |pattern| {
        best(|| {
            std::hint::black_box(read_all(ctx, data, pattern));
        })
    };
    (0..READ_PATTERNS).map(by).fold(f64::INFINITY, f64::min)
}

/// Peak in GFLOP/s.
fn machine(ctx: &Context) -> f64 {
    let threads = ctx.pool().threads();
    println!("\n== {} with {threads} thread(s)", ctx.isa());
    let rounds = 200_000;
    let seconds = best(|| {
        std::hint::black_box(fma_chains(ctx, rounds));
    });
    let peak = 2.0 * (rounds * 12 * lanes(ctx) * threads) as f64 / seconds / 1e9;
    let big = noise(DType::F32, &[64 * 1024 * 1024]);
    let data = big.view();
    let data = data.as_slice::<f32>().unwrap_or_default();
    let seconds = fastest_read(ctx, data);
    let bandwidth = big.bytes().len() as f64 / seconds / 1e9;
    println!("peak {peak:.0} GFLOP/s, read {bandwidth:.1} GB/s");
    let seconds = best(|| ctx.pool().run(threads, &|_| {}));
    println!("empty loop {:.2} us", seconds * 1e6);
    peak
}

fn one_row(ctx: &Context) -> Result<(), KernelError> {
    println!("-- linear, one row: GB/s of weights, and of what reading the same bytes in the same moments gives");
    for (n, k) in [(49152, 576), (576, 49152), (8192, 2048), (16384, 4096), (1536, 576), (576, 576)] {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let (w, x) = (noise(dtype, &[n, k]), noise(dtype, &[1, k]));
            let mut out = noise(dtype, &[1, n]);
            linear(ctx, &x.view(), &w.view(), None, &mut out.view_mut())?;
            let words = w.bytes().len() / 4;
            let (sizes, strides) = ([words], [1]);
            let data = View::new(DType::F32, &sizes, &strides, w.bytes()).ok();
            let data = data.and_then(|d| d.as_slice::<f32>()).unwrap_or_default();
            let (mut seconds, mut reading) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..5 {
                seconds = seconds.min(best(|| {
                    let _ = linear(ctx, &x.view(), &w.view(), None, &mut out.view_mut());
                }));
                reading = reading.min(fastest_read(ctx, data));
            }
            let rate = w.bytes().len() as f64 / seconds / 1e9;
            println!(
                "{dtype:>5} N={n:<6} K={k:<6} {rate:7.1} GB/s {:4.0}%  {:9.1} us",
                100.0 * reading / seconds,
                seconds * 1e6
            );
        }
    }
    Ok(())
}

fn matrices(ctx: &Context, peak: f64) -> Result<(), KernelError> {
    println!("-- linear: GFLOP/s, of the peak");
    for m in [6, 32, 128, 512] {
        for (n, k) in [(1536, 576), (576, 1536), (576, 576), (49152, 576), (2048, 8192)] {
            for dtype in [DType::F32, DType::BF16] {
                let (w, x) = (noise(dtype, &[n, k]), noise(dtype, &[m, k]));
                let mut out = noise(dtype, &[m, n]);
                linear(ctx, &x.view(), &w.view(), None, &mut out.view_mut())?;
                let seconds = best(|| {
                    let _ = linear(ctx, &x.view(), &w.view(), None, &mut out.view_mut());
                });
                let rate = 2.0 * (m * n * k) as f64 / seconds / 1e9;
                println!("{dtype:>5} M={m:<4} N={n:<6} K={k:<6} {rate:7.1} GFLOP/s {:4.0}%", 100.0 * rate / peak);
            }
        }
    }
    println!("-- mm with a row-major right-hand side, and with a transposed view");
    for (m, n, k) in [(128, 1536, 576), (512, 512, 64), (512, 64, 512), (1, 49152, 576)] {
        let (a, b) = (noise(DType::F32, &[m, k]), noise(DType::F32, &[k, n]));
        let mut out = noise(DType::F32, &[m, n]);
        let (sizes, strides) = ([k, n], [1, k]);
        let transposed =
            View::new(DType::F32, &sizes, &strides, b.bytes()).map_err(|e| KernelError::new("bench", e.to_string()))?;
        mm(ctx, &a.view(), &transposed, &mut out.view_mut())?;
        let plain = best(|| {
            let _ = mm(ctx, &a.view(), &b.view(), &mut out.view_mut());
        });
        let view = best(|| {
            let _ = mm(ctx, &a.view(), &transposed, &mut out.view_mut());
        });
        let rate = |s: f64| 2.0 * (m * n * k) as f64 / s / 1e9;
        println!(
            "M={m:<4} N={n:<6} K={k:<4} {:7.1} GFLOP/s {:4.0}%   {:7.1} GFLOP/s {:4.0}%",
            rate(plain),
            100.0 * rate(plain) / peak,
            rate(view),
            100.0 * rate(view) / peak
        );
    }
    Ok(())
}

fn attention(ctx: &Context, peak: f64) -> Result<(), KernelError> {
    println!("-- custom_sdpa, causal, 9 heads on 3 of 64");
    for (s, start) in [(1, 127), (1, 2047), (128, 0), (512, 0), (2048, 0)] {
        let keys = start + s;
        let (q, k) = (noise(DType::F32, &[1, s, 9, 64]), noise(DType::F32, &[1, keys, 3, 64]));
        let v = noise(DType::F32, &[1, keys, 3, 64]);
        let mut out = noise(DType::F32, &[1, s, 9, 64]);
        let options = SdpaOptions { is_causal: true, ..Default::default() };
        let at = i64::try_from(start).unwrap_or(0);
        custom_sdpa(ctx, &q.view(), &k.view(), &v.view(), at, None, options, &mut out.view_mut())?;
        let seconds = best(|| {
            let _ = custom_sdpa(ctx, &q.view(), &k.view(), &v.view(), at, None, options, &mut out.view_mut());
        });
        let pairs: usize = (0..s).map(|i| start + i + 1).sum();
        let flops = 4.0 * (pairs * 64 * 9) as f64;
        let bytes = (2 * keys * 3 * 64 * 4) as f64;
        println!(
            "S={s:<5} start={start:<5} {:9.1} us {:7.1} GFLOP/s {:4.0}%  {:6.1} GB/s",
            seconds * 1e6,
            flops / seconds / 1e9,
            100.0 * flops / seconds / 1e9 / peak,
            bytes / seconds / 1e9
        );
    }
    Ok(())
}
