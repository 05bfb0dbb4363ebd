//! Attention of one token over a cache: hot (one layer's cache again and again, where it fits) and cold (60 caches by turns, as
//! the layers of a step have them), beside the loop that reads as many bytes; and of prompts.
//!
//!     cargo bench -p pteron-kernels --bench attention -- [INSTRUCTION SET…] [--threads N]
//!
//! The heads are those of SmolLM2-135M: 9 of queries, 3 of keys and values, 64 wide.
#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::time::Instant;

use pteron_kernels::Context;
use pteron_kernels::attention::{SdpaOptions, custom_sdpa};
use pteron_kernels::simd::Isa;
use pteron_tensor::{DType, Tensor};

const LAYERS: usize = 30;
const HEADS: [usize; 2] = [9, 3];
const WIDTH: usize = 64;
const ROOM: usize = 2048;
const DEPTHS: [usize; 5] = [1, 16, 128, 512, 1536];

/// A tensor of small numbers that differ.
fn tensor(sizes: &[usize], dtype: DType) -> Tensor {
    let mut t = Tensor::zeros(dtype, sizes).expect("sizes that fit");
    let n: usize = sizes.iter().product();
    match dtype {
        DType::BF16 => {
            let list = bytemuck::cast_slice_mut::<u8, half::bf16>(t.bytes_mut());
            (0..n).for_each(|i| list[i] = half::bf16::from_f32((i % 37) as f32 * 0.01));
        }
        _ => {
            let list = bytemuck::cast_slice_mut::<u8, f32>(t.bytes_mut());
            (0..n).for_each(|i| list[i] = (i % 37) as f32 * 0.01);
        }
    }
    t
}

fn measure(ctx: &Context, dtype: DType) {
    let cache = || tensor(&[1, ROOM, HEADS[1], WIDTH], dtype);
    let caches: Vec<[Tensor; 2]> = (0..LAYERS).map(|_| [cache(), cache()]).collect();
    let q = tensor(&[1, 1, HEADS[0], WIDTH], dtype);
    let mut out = Tensor::zeros(dtype, &[1, 1, HEADS[0], WIDTH]).expect("sizes that fit");
    let options = SdpaOptions { is_causal: true, ..SdpaOptions::default() };
    for depth in DEPTHS {
        let mut once = |[k, v]: &[Tensor; 2]| {
            let at = i64::try_from(depth - 1).expect("a position");
            custom_sdpa(ctx, &q.view(), &k.view(), &v.view(), at, None, options, &mut out.view_mut())
                .expect("attention");
        };
        // The best of some rounds of all layers, microseconds a layer.
        let mut best = |cold: bool| {
            (0..40)
                .map(|_| {
                    let start = Instant::now();
                    caches.iter().for_each(|c| once(if cold { c } else { &caches[0] }));
                    start.elapsed().as_secs_f64() * 1e6 / LAYERS as f64
                })
                .fold(f64::MAX, f64::min)
        };
        let bytes = 2 * depth * HEADS[1] * WIDTH * dtype.size().unwrap_or(0);
        let (hot, cold) = (best(false), best(true));
        println!(
            "{} {dtype} {depth:5} keys: hot {hot:7.2} us {:6.1} GB/s, cold {cold:7.2} us {:6.1} GB/s",
            ctx.isa(),
            bytes as f64 * 1e-3 / hot,
            bytes as f64 * 1e-3 / cold,
        );
    }
}

/// A prompt: as many queries as keys.
fn prompt(ctx: &Context, dtype: DType) {
    let options = SdpaOptions { is_causal: true, ..SdpaOptions::default() };
    for len in [128, 512, 1024] {
        let [q, k, v] = [HEADS[0], HEADS[1], HEADS[1]].map(|h| tensor(&[1, len, h, WIDTH], dtype));
        let mut out = Tensor::zeros(dtype, &[1, len, HEADS[0], WIDTH]).expect("sizes that fit");
        let seconds = (0..20)
            .map(|_| {
                let start = Instant::now();
                custom_sdpa(ctx, &q.view(), &k.view(), &v.view(), 0, None, options, &mut out.view_mut())
                    .expect("attention");
                start.elapsed().as_secs_f64()
            })
            .fold(f64::MAX, f64::min);
        let work = (2 * 2 * HEADS[0] * WIDTH * len * (len + 1) / 2) as f64;
        println!("{} {dtype} prompt of {len}: {:.2} ms, {:.0} GFLOP/s", ctx.isa(), seconds * 1e3, work / seconds / 1e9);
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut threads = 1;
    let mut wanted = Vec::new();
    let mut args = args.into_iter();
    while let Some(a) = args.next() {
        match a.as_str() {
            "--threads" => threads = args.next().and_then(|n| n.parse().ok()).unwrap_or(1),
            _ => wanted.push(a),
        }
    }
    for isa in Isa::ALL.into_iter().filter(|i| i.is_supported_here()) {
        if !wanted.is_empty() && !wanted.contains(&isa.to_string()) {
            continue;
        }
        let ctx = Context::with_isa(threads, isa).expect("it is supported here");
        measure(&ctx, DType::F32);
        measure(&ctx, DType::BF16);
        prompt(&ctx, DType::F32);
        prompt(&ctx, DType::BF16);
    }
}
