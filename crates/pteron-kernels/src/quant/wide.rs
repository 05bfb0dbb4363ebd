//! Loops over several element types, compiled a second time for wider registers.

/// A loop that [`run`] executes; its body must be `#[inline(always)]`.
pub trait Loop {
    /// Executes the loop.
    fn run(self);
}

/// Runs a loop with the widest registers that plain compilation can use. The result is the same bit for bit: the same
/// operations in the same order, never fused.
pub fn run<L: Loop>(l: L) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2<L: Loop>(l: L) {
            l.run();
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
        fn avx512<L: Loop>(l: L) {
            l.run();
        }
        if crate::simd::Isa::Avx512.is_supported_here() {
            // SAFETY: the processor has the instructions.
            return unsafe { avx512(l) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the processor has the instructions.
            return unsafe { avx2(l) };
        }
    }
    l.run();
}
