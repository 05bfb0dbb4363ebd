//! Measures the operators that a decoder runs beside its matrices: elementwise functions, norms, softmax, copies. Prints the
//! best and the median time of one call.
//!
//! `cargo run --release -p pteron-kernels --example elementwise_bench -- [THREADS] [NAME]`: only the lines whose name
//! contains NAME.
#![allow(clippy::print_stdout, reason = "it reports to a terminal")]
#![allow(clippy::disallowed_methods, reason = "it measures time, and its settings are arguments")]

use std::time::Instant;

use pteron_kernels::elementwise::{self as ew, Gelu};
use pteron_kernels::{Context, KernelResult, nn, reduce, shape_ops};
use pteron_tensor::{DType, Scalar, Tensor, View, ViewMut};

type Call<'a> = &'a dyn Fn(&Context, View<'_>, ViewMut<'_>) -> KernelResult;

fn noise(dtype: DType, sizes: &[usize]) -> Result<Tensor, Box<dyn std::error::Error>> {
    let mut t = Tensor::zeros(dtype, sizes)?;
    let mut s = 0x9e37_79b9u32;
    for i in 0..t.numel() {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        t.view_mut().set_scalar(i, Scalar::Float(f64::from(s >> 8) / 2_097_152.0 - 4.0));
    }
    Ok(t)
}

struct Bench {
    ctx: Context,
    only: Option<String>,
}

impl Bench {
    fn line(
        &self,
        name: &str,
        dtype: DType,
        sizes: &[usize],
        out: &[usize],
        f: Call<'_>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let label = format!("{name} {dtype} {sizes:?}");
        if self.only.as_ref().is_some_and(|o| !label.contains(o.as_str())) {
            return Ok(());
        }
        let x = noise(dtype, sizes)?;
        let mut y = Tensor::zeros(dtype, out)?;
        // Small calls are timed by the hundred.
        let rounds = if x.numel() < 20_000 { 100 } else { 1 };
        let begun = Instant::now();
        let mut times = Vec::new();
        while times.len() < 10 || (begun.elapsed().as_secs_f64() < 0.15 && times.len() < 2000) {
            let t = Instant::now();
            for _ in 0..rounds {
                f(&self.ctx, x.view(), y.view_mut())?;
            }
            times.push(t.elapsed().as_secs_f64() * 1e6 / f64::from(rounds));
        }
        times.sort_by(f64::total_cmp);
        println!("{label:44} {:10.2} µs {:10.2} µs", times[0], times[times.len() / 2]);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let threads = args.first().map_or(Ok(2), |t| t.parse())?;
    let b = Bench { ctx: Context::new(threads), only: args.get(1).cloned() };
    println!("{:44} {:>13} {:>13}", format!("{threads} threads"), "best", "median");
    let big = [256, 1024];
    let unary: &[(&str, Call<'_>)] = &[
        ("silu", &|c, x, o| ew::silu(c, x, o)),
        ("sigmoid", &|c, x, o| ew::sigmoid(c, x, o)),
        ("exp", &|c, x, o| ew::exp(c, x, o)),
        ("tanh", &|c, x, o| ew::tanh(c, x, o)),
        ("gelu none", &|c, x, o| ew::gelu(c, x, Gelu::None, o)),
        ("gelu tanh", &|c, x, o| ew::gelu(c, x, Gelu::Tanh, o)),
        ("softmax", &|c, x, o| reduce::softmax(c, x, -1, false, o)),
        ("log_softmax", &|c, x, o| reduce::log_softmax(c, x, -1, false, o)),
        ("add", &|c, x, o| ew::add(c, x.into(), x.into(), Scalar::Int(1), o)),
        ("mul number", &|c, x, o| ew::mul(c, x.into(), Scalar::Float(0.5).into(), o)),
        ("clone", &|c, x, o| ew::clone(c, x, o)),
    ];
    for &(name, f) in unary {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            b.line(name, dtype, &big, &big, f)?;
        }
        b.line(name, DType::F32, &[1, 1, 1536], &[1, 1, 1536], f)?;
        b.line(name, DType::F32, &[1], &[1], f)?;
    }
    b.line("silu", DType::F32, &[1, 512, 1536], &[1, 512, 1536], &|c, x, o| ew::silu(c, x, o))?;
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let row = noise(dtype, &[1024])?;
        let col = noise(dtype, &[256, 1])?;
        b.line("mul [D]", dtype, &big, &big, &|c, x, o| ew::mul(c, x.into(), row.view().into(), o))?;
        b.line("mul [..,1]", dtype, &big, &big, &|c, x, o| ew::mul(c, x.into(), col.view().into(), o))?;
        b.line("div", dtype, &big, &big, &|c, x, o| ew::div(c, x.into(), x.into(), o))?;
        let w = noise(dtype, &[576])?;
        for n in [512, 1] {
            b.line("rms_norm", dtype, &[1, n, 576], &[1, n, 576], &|c, x, o| {
                nn::rms_norm(c, x, Some(w.view()), 1e-5, o)
            })?;
            let angles = noise(DType::F32, &[n, 32])?;
            for style in [nn::RopeStyle::HalfSplit, nn::RopeStyle::Interleaved] {
                let sizes = [1, n, 9, 64];
                b.line(&format!("rope {style:?}"), dtype, &sizes, &sizes, &|c, x, o| {
                    nn::rope(c, x, angles.view(), angles.view(), style, o)
                })?;
            }
        }
        b.line("permute 1 0", dtype, &big, &[1024, 256], &|c, x, o| shape_ops::permute_copy(c, x, &[1, 0], o))?;
        b.line("permute 1 0 2", dtype, &[512, 9, 64], &[9, 512, 64], &|c, x, o| {
            shape_ops::permute_copy(c, x, &[1, 0, 2], o)
        })?;
        b.line("permute 1 2 0", dtype, &[512, 9, 64], &[9, 64, 512], &|c, x, o| {
            shape_ops::permute_copy(c, x, &[1, 2, 0], o)
        })?;
        b.line("permute 2 1 0", dtype, &[512, 9, 64], &[64, 9, 512], &|c, x, o| {
            shape_ops::permute_copy(c, x, &[2, 1, 0], o)
        })?;
        b.line("expand", dtype, &[3, 1, 512, 64], &[3, 3, 512, 64], &|c, x, o| {
            shape_ops::expand_copy(c, x, &[-1, 3, -1, -1], o)
        })?;
        b.line("cat -1", dtype, &[512, 9, 64], &[512, 9, 128], &|c, x, o| shape_ops::cat(c, &[x, x], -1, o))?;
        b.line("slice -1", dtype, &[512, 9, 64], &[512, 9, 32], &|c, x, o| {
            shape_ops::slice_copy(c, x, -1, Some(32), None, 1, o)
        })?;
        b.line("slice -1", dtype, &[1, 9, 64], &[1, 9, 32], &|c, x, o| {
            shape_ops::slice_copy(c, x, -1, Some(32), None, 1, o)
        })?;
    }
    Ok(())
}
