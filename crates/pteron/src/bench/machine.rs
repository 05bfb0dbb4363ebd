//! What the machine can do.

use std::hint::black_box;
use std::time::Instant;

use pteron_kernels::Context;
use pteron_kernels::simd::{READ_PATTERNS, code_chains, dot_chains, fma_chains, lanes, read_all};

use super::work::Work;
use crate::host;

/// Size of the buffer that stands for memory, in MiB: far larger than any cache.
pub const DEFAULT_READ_MIB: usize = 512;

/// What some threads can do on this machine.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Limits {
    /// Threads.
    pub threads: usize,
    /// Instruction set of the loops.
    pub instruction_set: String,
    /// Size of the large buffer in MiB.
    pub memory_mib: usize,
    /// Bytes read from the large buffer, in 10⁹ a second.
    pub memory_gb_per_s: f64,
    /// Size of the small buffer in MiB: a quarter of the last level of cache.
    pub cache_mib: usize,
    /// Bytes read from the small buffer, in 10⁹ a second.
    pub cache_gb_per_s: f64,
    /// Operations of f32 multiply-adds in registers, two each, in 10⁹ a second.
    pub fma_gflop_per_s: f64,
    /// The same of the instruction that multiplies pairs of bf16; `None` where there is none.
    pub bf16_gflop_per_s: Option<f64>,
    /// The same of what multiplies bytes here: one instruction where there is one for that, else some.
    pub int8_gop_per_s: f64,
}

impl Limits {
    /// 10⁹ operations a second of the instruction that most products of `work` could use.
    pub(super) fn peak_of(&self, work: &Work) -> f64 {
        let most = |part: u64| 2 * part > work.matrix_flops;
        if most(work.int8_flops) {
            return self.int8_gop_per_s;
        }
        let pairs = self.bf16_gflop_per_s.filter(|_| most(work.bf16_flops));
        pairs.unwrap_or(self.fma_gflop_per_s)
    }

    /// The larger of each of two measurements.
    #[must_use]
    pub fn or_better(self, other: &Limits) -> Limits {
        Limits {
            memory_gb_per_s: self.memory_gb_per_s.max(other.memory_gb_per_s),
            cache_gb_per_s: self.cache_gb_per_s.max(other.cache_gb_per_s),
            fma_gflop_per_s: self.fma_gflop_per_s.max(other.fma_gflop_per_s),
            int8_gop_per_s: self.int8_gop_per_s.max(other.int8_gop_per_s),
            bf16_gflop_per_s: self.bf16_gflop_per_s.map(|r| r.max(other.bf16_gflop_per_s.unwrap_or(r))),
            ..self
        }
    }
}

/// Measures the limits of `threads` threads with a buffer of `mib` MiB, which is freed again: for each, the best of several
/// runs.
pub fn limits(threads: usize, mib: usize) -> Limits {
    /// Multiply-adds of one round on one thread, in vectors.
    const CHAINS: usize = 12;
    const ROUNDS: usize = 200_000;
    const MIB: usize = 1 << 20;
    let ctx = Context::on(&host::threads(Some(threads), &[]));
    let mib = mib.max(1);
    // Untouched pages would all be the one page of zeros.
    let buffer = vec![1.0f32; mib * (MIB / 4)];
    let cache_mib = (host::last_level_cache().unwrap_or(32 << 20) / 4 / MIB).clamp(1, mib);
    let small = buffer.get(..cache_mib * (MIB / 4)).unwrap_or(&buffer);
    let fma = best(|| {
        black_box(fma_chains(&ctx, ROUNDS));
    });
    let dot = dot_chains(&ctx, 1).map(|_| {
        best(|| {
            black_box(dot_chains(&ctx, ROUNDS));
        })
    });
    let bytes = best(|| {
        black_box(code_chains(&ctx, ROUNDS));
    });
    let byte_operations = 2 * code_chains(&ctx, 1) * ROUNDS * ctx.pool().threads();
    let memory = fastest_read(&ctx, &buffer);
    let cache = fastest_read(&ctx, small);
    let operations = 2 * ROUNDS * CHAINS * lanes(&ctx) * ctx.pool().threads();
    Limits {
        threads,
        instruction_set: ctx.isa().to_string(),
        memory_mib: mib,
        memory_gb_per_s: (mib * MIB) as f64 / memory / 1e9,
        cache_mib,
        cache_gb_per_s: (cache_mib * MIB) as f64 / cache / 1e9,
        fma_gflop_per_s: operations as f64 / fma / 1e9,
        int8_gop_per_s: byte_operations as f64 / bytes / 1e9,
        bf16_gflop_per_s: dot.map(|seconds| {
            let of_thread = dot_chains(&ctx, 1).unwrap_or(0) * ROUNDS;
            (2 * of_thread * ctx.pool().threads()) as f64 / seconds / 1e9
        }),
    }
}

/// A buffer that stands for the bytes that a token touches, read again and again between measurements of something else: what
/// memory gives changes from minute to minute.
pub(super) struct Reader {
    ctx: Context,
    buffer: Vec<f32>,
    /// Bytes read by each pattern in each round, in 10⁹ a second.
    rounds: Vec<[f64; READ_PATTERNS]>,
}

impl Reader {
    /// A buffer of `bytes`, read by threads like those of a program on `threads`.
    pub(super) fn new(threads: usize, bytes: usize) -> Reader {
        let buffer = vec![1.0f32; (bytes / 4).max(1 << 10)];
        Reader { ctx: Context::on(&host::threads(Some(threads), &[])), buffer, rounds: Vec::new() }
    }

    /// Reads it in every way, as many times each as a figure's runs are.
    pub(super) fn round(&mut self, times: usize) {
        let bytes = (self.buffer.len() * 4) as f64;
        let ctx = &self.ctx;
        let buffer = &self.buffer;
        let of = |pattern: usize| {
            // The first one wakes the threads and does not count.
            black_box(read_all(ctx, black_box(buffer), pattern));
            let start = Instant::now();
            for _ in 0..times.max(1) {
                black_box(read_all(ctx, black_box(buffer), pattern));
            }
            times.max(1) as f64 * bytes / start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE) / 1e9
        };
        self.rounds.push(std::array::from_fn(of));
    }

    /// Bytes in 10⁹ a second, as the mean of the rounds, by the pattern for which it is largest.
    pub(super) fn gb_per_s(&self) -> f64 {
        let mean = |p: usize| self.rounds.iter().map(|r| r[p]).sum::<f64>() / self.rounds.len().max(1) as f64;
        (0..READ_PATTERNS).map(mean).fold(0.0, f64::max)
    }
}

/// Seconds of reading `data` in the way that is fastest here.
fn fastest_read(ctx: &Context, data: &[f32]) -> f64 {
    let by = |pattern| {
        best(|| {
            black_box(read_all(ctx, black_box(data), pattern));
        })
    };
    (0..READ_PATTERNS).map(by).fold(f64::INFINITY, f64::min)
}

/// Seconds of the best of several runs, after one that does not count.
fn best(mut work: impl FnMut()) -> f64 {
    const LEAST_RUNS: usize = 5;
    const MOST_RUNS: usize = 2000;
    const SECONDS: f64 = 0.25;
    work();
    let begun = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < LEAST_RUNS || (runs < MOST_RUNS && begun.elapsed().as_secs_f64() < SECONDS) {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    best.max(f64::MIN_POSITIVE)
}
