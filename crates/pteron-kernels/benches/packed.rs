//! Packed weights, each variant beside what the machine can do in the same moments: a decoding step's products beside a loop
//! that reads as many bytes, a prompt's beside the instruction that multiplies codes.
//!
//!     cargo bench -p pteron-kernels --bench packed -- [INSTRUCTION SET…] [--threads N]
//!
//! The matrices are those of SmolLM2-135M: 30 layers and the head, so that no cache holds them.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::time::Instant;

use pteron_kernels::Context;
use pteron_kernels::nn::Lines;
use pteron_kernels::packed::{Activations, Choose, CodeMatrix, DynamicQuant, Packed, Product, Rows, multiply};
use pteron_kernels::quant::QuantSemantics;
use pteron_kernels::quant::quantize::Form;
use pteron_kernels::simd::{self, Isa, READ_PATTERNS};
use pteron_tensor::{DType, Tensor};

const LAYERS: usize = 30;
/// Products that share their activations, as rows and columns.
const LAYER: [&[(usize, usize)]; 4] =
    [&[(576, 576), (192, 576), (192, 576)], &[(576, 576)], &[(1536, 576), (1536, 576)], &[(576, 1536)]];
const HEAD: (usize, usize) = (49152, 576);
const HOW: DynamicQuant =
    DynamicQuant { choose: Choose::PerToken(QuantSemantics::ExecuTorch), form: Form::ExecuTorch, range: (-128, 127) };

/// The least seconds of some runs.
fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

struct Model {
    layers: Vec<[Vec<Packed>; 4]>,
    head: Packed,
}

impl Model {
    fn new(ctx: &Context, bits: u32, group: usize) -> Model {
        let mut seed = 1u32;
        let mut pack = |(n, k): (usize, usize)| {
            let mut next = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seed
            };
            let codes: Vec<i8> = (0..n * k).map(|_| ((next() >> 24) as i8) >> (8 - bits)).collect();
            let group = if group == 0 { k } else { group };
            let scales: Vec<f32> = (0..n * k / group)
                .map(|_| f32::from_bits((0.01 + (next() >> 20) as f32 * 1e-6).to_bits() & 0xffff_0000))
                .collect();
            let codes = Tensor::of(&[n, k], &codes).expect("codes of these sizes");
            let matrix = CodeMatrix { codes: codes.view(), scales: &scales, zero_points: None, group };
            Packed::new(ctx, &matrix).expect("a matrix that can be packed")
        };
        let layers = (0..LAYERS).map(|_| LAYER.map(|group| group.iter().map(|&s| pack(s)).collect())).collect();
        Model { layers, head: pack(HEAD) }
    }

    fn bytes(&self) -> usize {
        self.layers.iter().flatten().flatten().map(Packed::bytes).sum::<usize>() + self.head.bytes()
    }

    /// All products of `m` rows, the head's of one; seconds of the layers' four groups and of the head.
    fn run(&self, ctx: &Context, m: usize, floats: bool) -> [f64; 5] {
        let x: Vec<f32> = (0..m * 1536).map(|i| (i % 1013) as f32 * 0.01 - 4.0).collect();
        let mut rows = Rows::default();
        let mut seconds = [0f64; 5];
        let mut outs: Vec<Tensor> = (0..3).map(|_| Tensor::zeros(DType::F32, &[1]).expect("one element")).collect();
        let mut one = |weights: &[&Packed], m: usize| {
            let start = Instant::now();
            let k = weights[0].columns();
            let activations = if floats {
                Activations::Floats(&x[..m * k], m)
            } else {
                rows.quantize(ctx, &Lines::floats(&x[..m * k], [m, k]).expect("rows"), &HOW).expect("rows of codes");
                Activations::Codes(&rows)
            };
            for (o, w) in outs.iter_mut().zip(weights) {
                if o.sizes() != [m, w.rows()] {
                    *o = Tensor::zeros(DType::F32, &[m, w.rows()]).expect("an output");
                }
            }
            let mut list: Vec<Product<'_, '_>> = outs
                .iter_mut()
                .zip(weights)
                .map(|(o, w)| Product { weight: w, bias: None, out: o.view_mut() })
                .collect();
            multiply(ctx, &activations, &mut list).expect("products");
            start.elapsed().as_secs_f64()
        };
        for layer in &self.layers {
            for (i, group) in layer.iter().enumerate() {
                seconds[i] += one(&group.iter().collect::<Vec<_>>(), m);
            }
        }
        seconds[4] = one(&[&self.head], 1);
        seconds
    }
}

/// Gigabytes a second at which a buffer of `bytes` is read, the best of all patterns.
fn reading(ctx: &Context, bytes: usize) -> f64 {
    let data = vec![1f32; bytes / 4];
    let seconds = (0..READ_PATTERNS)
        .map(|p| {
            best(6, || {
                std::hint::black_box(simd::read_all(ctx, &data, p));
            })
        })
        .fold(f64::MAX, f64::min);
    (bytes / 4 * 4) as f64 / seconds / 1e9
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads = args.iter().position(|a| a == "--threads").and_then(|i| args.get(i + 1)).and_then(|n| n.parse().ok());
    let wanted: Vec<Isa> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let all: Vec<Isa> = Isa::ALL.into_iter().filter(|i| i.is_supported_here()).collect();
    let isas = if wanted.is_empty() {
        all.into_iter().filter(|i| !matches!(i, Isa::Scalar | Isa::Avx512 | Isa::Avx512Bf16)).collect()
    } else {
        wanted
    };
    for isa in isas {
        for threads in threads.map_or(vec![1, 2], |t: usize| vec![t]) {
            let ctx = match Context::with_isa(threads, isa) {
                Ok(ctx) => ctx,
                Err(e) => {
                    println!("{e}");
                    continue;
                }
            };
            let rounds = 2_000_000;
            let mut products = 0;
            let seconds = best(3, || products = simd::code_chains(&ctx, rounds));
            let peak = (products * threads * 2) as f64 / seconds / 1e9;
            println!("\n{isa}, {threads} thread(s): {peak:.0} GOPS in registers");
            for (name, bits, group, floats) in [
                ("4 bits, groups of 32", 4, 32, false),
                ("8 bits, whole rows", 8, 0, false),
                ("4 bits, groups of 32, floats", 4, 32, true),
                ("8 bits, whole rows, floats", 8, 0, true),
            ] {
                let start = Instant::now();
                let model = Model::new(&ctx, bits, group);
                let made = start.elapsed().as_secs_f64();
                let bytes = model.bytes();
                let read = reading(&ctx, bytes);
                let mut parts = [f64::MAX; 5];
                let seconds = best(12, || {
                    let now = model.run(&ctx, 1, floats);
                    parts.iter_mut().zip(now).for_each(|(p, s)| *p = p.min(s));
                });
                let rate = bytes as f64 / seconds / 1e9;
                println!(
                    "{name}: {:.1} MB made in {made:.2} s; a step {:.3} ms, {rate:.1} of {read:.1} GB/s, {:.0}%",
                    bytes as f64 / 1e6,
                    seconds * 1e3,
                    100.0 * rate / read
                );
                let of = |i: usize| {
                    let b: usize = match i {
                        4 => model.head.bytes(),
                        i => model.layers.iter().flat_map(|l| &l[i]).map(Packed::bytes).sum(),
                    };
                    format!("{:.1}", b as f64 / parts[i] / 1e9)
                };
                println!("    GB/s: qkv {}, o {}, gate·up {}, down {}, head {}", of(0), of(1), of(2), of(3), of(4));
                for m in [128, 512] {
                    let mut parts = [f64::MAX; 5];
                    best(3, || {
                        let now = model.run(&ctx, m, floats);
                        parts.iter_mut().zip(now).for_each(|(p, s)| *p = p.min(s));
                    });
                    let ops = |i: usize| {
                        let macs: usize = LAYER[i].iter().map(|(n, k)| n * k).sum();
                        (macs * LAYERS * m * 2) as f64 / 1e9
                    };
                    let total = (0..4).map(ops).sum::<f64>() / parts[..4].iter().sum::<f64>();
                    let of = |i: usize| format!("{:.0}", ops(i) / parts[i]);
                    println!(
                        "    {m} rows: {total:.0} GOPS, {:.0}% (qkv {}, o {}, gate·up {}, down {})",
                        100.0 * total / peak,
                        of(0),
                        of(1),
                        of(2),
                        of(3)
                    );
                }
            }
        }
    }
}
