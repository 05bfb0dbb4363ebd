//! Loops that do nothing but load a processor, so that kernels can be measured against it. The caller has the clock.

use crate::Context;

/// Executes independent chains of multiply-adds on every thread of the context: `rounds`·12·[`lanes`] multiply-adds on
/// each. The result only keeps the work from being left out.
pub fn fma_chains(ctx: &Context, rounds: usize) -> f32 {
    let total = std::sync::Mutex::new(0.0);
    ctx.pool().run(ctx.pool().threads(), &|_| {
        // SAFETY: a context holds only variants that this processor executes.
        let sum = unsafe { (ctx.kernels().probe.fma_chains)(rounds) };
        *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += sum;
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Executes independent chains of the instruction that multiplies pairs of bf16, on every thread of the context, and gives
/// the multiply-adds of each thread; `None` if the context's kernels have no such instruction.
pub fn dot_chains(ctx: &Context, rounds: usize) -> Option<usize> {
    let chains = ctx.kernels().dot?.chains;
    ctx.pool().run(ctx.pool().threads(), &|_| {
        // SAFETY: a context holds only variants that this processor executes.
        std::hint::black_box(unsafe { chains(rounds) });
    });
    Some(rounds * 12 * super::DOT_LANES)
}

/// Executes independent chains of the instruction that the context's kernels for codes multiply with, on every thread of the
/// context, and gives the multiply-adds of each thread.
pub fn code_chains(ctx: &Context, rounds: usize) -> usize {
    let codes = ctx.kernels().codes();
    ctx.pool().run(ctx.pool().threads(), &|_| {
        // SAFETY: a context holds only variants that this processor executes.
        std::hint::black_box(unsafe { (codes.chains)(rounds) });
    });
    rounds * 12 * codes.products
}

/// Lanes of f32 in one vector of the context's instruction set.
pub fn lanes(ctx: &Context) -> usize {
    ctx.kernels().probe.lanes
}

/// Ways in which [`read_all`] can read: which one is the fastest depends on the machine and on the moment.
pub const READ_PATTERNS: usize = 4;

/// Reads every element of `data` once, in equal contiguous parts on the context's threads; within a part as `pattern`, below
/// [`READ_PATTERNS`], says (the last pattern for more): one stream, one with cache lines asked for ahead, two, four. The
/// result only keeps the work from being left out.
pub fn read_all(ctx: &Context, data: &[f32], pattern: usize) -> f32 {
    const PART: usize = 256 * 1024;
    let read = ctx.kernels().probe.read_all[pattern.min(READ_PATTERNS - 1)];
    let total = std::sync::Mutex::new(0.0);
    ctx.pool().run(data.len().div_ceil(PART), &|i| {
        let part = &data[i * PART..data.len().min((i + 1) * PART)];
        // SAFETY: a context holds only variants that this processor executes.
        let sum = unsafe { read(part) };
        *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += sum;
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
