//! NEON: 4 lanes.

use std::arch::aarch64::*;
use std::arch::asm;

use half::{bf16, f16};

use super::lanes::Lanes;

#[derive(Clone, Copy)]
pub(crate) struct Neon;

// SAFETY (every block below): the trait's contract: the processor has the instructions, and the pointers have the elements.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, stated above")]
impl Lanes for Neon {
    const N: usize = 4;
    type V = float32x4_t;

    #[inline(always)]
    unsafe fn splat(x: f32) -> float32x4_t {
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> float32x4_t {
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const f16) -> float32x4_t {
        unsafe {
            // The intrinsic needs a vector type that is not stable; the instruction is in every ARMv8 processor.
            let bits = vld1_u16(p.cast());
            let wide: float32x4_t;
            asm!("fcvtl {wide:v}.4s, {bits:v}.4h", wide = lateout(vreg) wide, bits = in(vreg) bits,
                 options(pure, nomem, nostack, preserves_flags));
            wide
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const bf16) -> float32x4_t {
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, v: float32x4_t) {
        unsafe { vst1q_f32(p, v) }
    }
    #[inline(always)]
    unsafe fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn select_lt(a: float32x4_t, b: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
        unsafe { vbslq_f32(vcltq_f32(a, b), x, y) }
    }
    #[inline(always)]
    unsafe fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        unsafe { vminq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn round(a: float32x4_t) -> float32x4_t {
        unsafe { vrndnq_f32(a) }
    }
    #[inline(always)]
    unsafe fn scale2(p: float32x4_t, n: float32x4_t) -> float32x4_t {
        unsafe {
            // In two halves, since 2ⁿ alone may leave the exponent's range.
            let n = vcvtq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let rest = vsubq_s32(n, half);
            let bias = vdupq_n_s32(127);
            let a = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
            let b = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(rest, bias)));
            vmulq_f32(vmulq_f32(p, a), b)
        }
    }
    #[inline(always)]
    unsafe fn sum(v: float32x4_t) -> f32 {
        unsafe {
            let half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(vpadd_f32(half, half))
        }
    }
    #[inline(always)]
    unsafe fn sum4([a, b, c, d]: [float32x4_t; 4]) -> [f32; 4] {
        unsafe {
            let low = |a, b| vcombine_f32(vget_low_f32(a), vget_low_f32(b));
            let high = |a, b| vcombine_f32(vget_high_f32(a), vget_high_f32(b));
            let ab = vaddq_f32(low(a, b), high(a, b));
            let cd = vaddq_f32(low(c, d), high(c, d));
            let mut out = [0.0; 4];
            vst1q_f32(out.as_mut_ptr(), vpaddq_f32(ab, cd));
            out
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        unsafe {
            asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn prefetch_far(p: *const u8) {
        unsafe {
            asm!("prfm pldl2keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags));
        }
    }
}
