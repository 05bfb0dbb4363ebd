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

/// Lanes of f32 in one vector of the context's instruction set.
pub fn lanes(ctx: &Context) -> usize {
    ctx.kernels().probe.lanes
}

/// Reads every element of `data` once, in equal contiguous parts on the context's threads. The result only keeps the work
/// from being left out.
pub fn read_all(ctx: &Context, data: &[f32]) -> f32 {
    const PART: usize = 64 * 1024;
    let total = std::sync::Mutex::new(0.0);
    ctx.pool().run(data.len().div_ceil(PART), &|i| {
        let part = &data[i * PART..data.len().min((i + 1) * PART)];
        // SAFETY: a context holds only variants that this processor executes.
        let sum = unsafe { (ctx.kernels().probe.read_all)(part) };
        *total.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += sum;
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}
