//! NEON: `sdot` where the processor has it, else products widened to 16 bits.

use std::arch::aarch64::*;
use std::arch::asm;

use super::tiles::{self, CodeLanes};
use super::{CodesArgs, CodesFns};
use crate::simd::neon::Neon;
use crate::simd::{Isa, Kernel, Run};

/// 4 lanes, `sdot`.
struct Dot;
/// 4 lanes, `smull` and pairwise additions.
struct Widening;

/// What the two share.
macro_rules! four_lanes {
    () => {
        type Floats = Neon;
        type V = int8x16_t;
        const BIAS: i32 = 128;
        const TIMES: i32 = 16;

        #[inline(always)]
        unsafe fn zero() -> int8x16_t {
            unsafe { vdupq_n_s8(0) }
        }
        #[inline(always)]
        unsafe fn load(p: *const u8) -> int8x16_t {
            unsafe { vld1q_s8(p.cast()) }
        }
        #[inline(always)]
        unsafe fn planes(v: int8x16_t) -> [int8x16_t; 2] {
            unsafe { [vshlq_n_s8::<4>(v), vandq_s8(v, vdupq_n_s8(-16))] }
        }
        #[inline(always)]
        unsafe fn four(p: *const u8) -> int8x16_t {
            // From 0..=255 to −128..=127, which `BIAS` makes up for.
            unsafe {
                let x = vreinterpretq_u8_u32(vdupq_n_u32(p.cast::<u32>().read_unaligned()));
                vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128)))
            }
        }
        #[inline(always)]
        unsafe fn sum(acc: int8x16_t, w: int8x16_t) -> int8x16_t {
            unsafe { vreinterpretq_s8_s32(vpadalq_s16(vreinterpretq_s32_s8(acc), vpaddlq_s8(w))) }
        }
        #[inline(always)]
        unsafe fn add(a: int8x16_t, b: int8x16_t) -> int8x16_t {
            unsafe { vreinterpretq_s8_s32(vaddq_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b))) }
        }
        #[inline(always)]
        unsafe fn less(acc: int8x16_t, zero: i32, sums: int8x16_t) -> int8x16_t {
            unsafe {
                let (acc, sums) = (vreinterpretq_s32_s8(acc), vreinterpretq_s32_s8(sums));
                vreinterpretq_s8_s32(vmlsq_s32(acc, vdupq_n_s32(zero), sums))
            }
        }
        #[inline(always)]
        unsafe fn store(p: *mut i32, v: int8x16_t) {
            unsafe { vst1q_s32(p, vreinterpretq_s32_s8(v)) }
        }
        #[inline(always)]
        unsafe fn to_floats(v: int8x16_t) -> float32x4_t {
            unsafe { vcvtq_f32_s32(vreinterpretq_s32_s8(v)) }
        }
        #[inline(always)]
        unsafe fn field(v: int8x16_t, left: i32, right: i32) -> int8x16_t {
            unsafe {
                let v = vshlq_s32(vreinterpretq_s32_s8(v), vdupq_n_s32(left));
                vreinterpretq_s8_s32(vshlq_s32(v, vdupq_n_s32(-right)))
            }
        }
    };
}

// SAFETY (every block below): the trait's contract: the processor has the instructions, and the pointers have the elements.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, stated above")]
impl CodeLanes for Dot {
    four_lanes!();

    #[inline(always)]
    unsafe fn dot(acc: int8x16_t, x: int8x16_t, w: int8x16_t) -> int8x16_t {
        unsafe {
            // The intrinsic is not stable.
            let mut acc = acc;
            asm!(".arch_extension dotprod", "sdot {acc:v}.4s, {x:v}.16b, {w:v}.16b", acc = inout(vreg) acc,
                 x = in(vreg) x, w = in(vreg) w, options(pure, nomem, nostack, preserves_flags));
            acc
        }
    }
}

// SAFETY (every block below): as for `Dot`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, stated above")]
impl CodeLanes for Widening {
    four_lanes!();

    #[inline(always)]
    unsafe fn dot(acc: int8x16_t, x: int8x16_t, w: int8x16_t) -> int8x16_t {
        unsafe {
            // Two neighbours' sums of products fit 32 bits only: −128·−128 twice is 2¹⁵.
            let low = vpaddlq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(w)));
            let high = vpaddlq_s16(vmull_s8(vget_high_s8(x), vget_high_s8(w)));
            vreinterpretq_s8_s32(vaddq_s32(vreinterpretq_s32_s8(acc), vpaddq_s32(low, high)))
        }
    }
}

macro_rules! variant {
    ($module:ident, $lanes:ty, $rows:literal x $registers:literal) => {
        mod $module {
            use super::*;

            #[target_feature(enable = "neon")]
            unsafe fn codes(a: CodesArgs<u8>, scratch: &mut Vec<i32>) {
                // SAFETY: the caller vouches for the block and the instructions.
                unsafe { tiles::codes::<$lanes, $rows, $registers>(a, scratch) }
            }
            #[target_feature(enable = "neon")]
            unsafe fn floats(a: CodesArgs<f32>) {
                // SAFETY: as above.
                unsafe { tiles::floats::<$lanes, $rows, $registers>(a) }
            }
            #[target_feature(enable = "neon")]
            unsafe fn chains(rounds: usize) -> i32 {
                // SAFETY: as above.
                unsafe { tiles::chains::<$lanes>(rounds) }
            }
            pub(in super::super) const FNS: CodesFns =
                CodesFns { interleave: 4, codes, floats, rows: None, chains, products: 16 };
        }
    };
}
variant!(dot, Dot, 3 x 4);
variant!(widening, Widening, 3 x 4);

const OP: &str = "x·wᵀ, w codes";

pub(in crate::simd) static TABLE: [Kernel; 2] = [
    Kernel { op: OP, name: "sdot 3x16", isa: Isa::NeonDot, quality: 30, run: Run::Codes(dot::FNS) },
    Kernel { op: OP, name: "smull 3x16", isa: Isa::Neon, quality: 20, run: Run::Codes(widening::FNS) },
];
