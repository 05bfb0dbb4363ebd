//! NEON with i8mm: `smmla` multiplies two rows of eight codes by two channels of eight.
//!
//! The layout is that of interleaved eights: a register holds two channels. Single rows are computed as two of which one is
//! thrown away: they wait for memory anyway. Activations in f32 go the scalar way of the same layout's fields, four channels
//! at a time.

use std::arch::aarch64::*;
use std::arch::asm;

use half::bf16;

use super::{CHANNELS, CodeBits, CodesArgs, CodesFns, Place, ScaleBits, Steps};
use crate::simd::lanes::Lanes;
use crate::simd::neon::Neon;
use crate::simd::{Isa, Kernel, Run};

/// Codes of a channel that lie together.
const EIGHT: usize = 8;
/// Registers of two channels in a block.
const PAIRS: usize = CHANNELS / 2;
/// Registers of four channels in a block.
const QUADS: usize = CHANNELS / 4;

/// `acc + x·w`, each lane the product of a row of `x` and a channel of `w`: (row 0, channel 0), (0, 1), (1, 0), (1, 1).
///
/// # Safety
/// The processor has the instruction.
#[inline(always)]
unsafe fn smmla(acc: int32x4_t, x: int8x16_t, w: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: the caller's. The intrinsic is not stable.
    unsafe {
        asm!(".arch_extension i8mm", "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b", acc = inout(vreg) acc, x = in(vreg) x,
             w = in(vreg) w, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Eight codes of each of two rows, from 0..=255 to −128..=127.
///
/// # Safety
/// Eight bytes lie behind each.
#[inline(always)]
unsafe fn rows_of_eight(a: *const u8, b: *const u8) -> int8x16_t {
    // SAFETY: the caller's.
    unsafe { vreinterpretq_s8_u8(veorq_u8(vcombine_u8(vld1_u8(a), vld1_u8(b)), vdupq_n_u8(128))) }
}

/// The scales of four channels from `channel` on.
///
/// # Safety
/// `block` is a block of `a`, which has the group that begins at `place`.
#[inline(always)]
unsafe fn scales<X>(a: &CodesArgs<X>, block: *const u8, place: Place, channel: usize) -> float32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let first = block.add(place.scales);
        match a.geometry.scales {
            ScaleBits::Sixteen => Neon::load_bf16(first.cast::<bf16>().add(channel)),
            ScaleBits::ThirtyTwo => Neon::load(first.cast::<f32>().add(channel)),
        }
    }
}

/// Stores four channels of a row, as far as they are there.
///
/// # Safety
/// See [`CodesArgs`].
#[inline(always)]
unsafe fn put<X>(a: &CodesArgs<X>, row: usize, first: usize, v: float32x4_t) {
    // SAFETY: the caller's: elements below `n` only.
    unsafe {
        let out = a.out.add(row * a.ldo + first);
        match a.n.saturating_sub(first) {
            0 => {}
            left @ 1..=3 => Neon::store_part(out, left, v),
            _ => Neon::store(out, v),
        }
    }
}

/// Rows `row` and `row + 1` (the same one where there is no other) by a block.
///
/// # Safety
/// See [`CodesArgs`]; the processor has i8mm.
#[inline(always)]
unsafe fn two_rows<const FOUR: bool>(a: &CodesArgs<u8>, steps: &Steps, row: usize, block: usize) {
    let g = &a.geometry;
    let second = (row + 1).min(a.m - 1);
    // SAFETY: the caller's; units and groups are walked in the order in which they lie.
    unsafe {
        let base = a.w.add(block * steps.block);
        let (mut x0, mut x1) = (a.x.add(row * a.ldx), a.x.add(second * a.ldx));
        let zeros = [*a.zero.add(row), *a.zero.add(second)];
        let [z0, z1] = if g.is_grouped() { [0, 0] } else { zeros };
        let zero = vcombine_s32(vdup_n_s32(z0 - 128), vdup_n_s32(z1 - 128));
        let times = if FOUR { 16.0 } else { 1.0 };
        let row_scales = [row, second].map(|r| vdupq_n_f32(*a.scale.add(r) / times));
        let mut totals = [[vdupq_n_f32(0.0); QUADS]; 2];
        if g.is_grouped() {
            for (total, zero) in totals.iter_mut().zip(zeros) {
                for (q, t) in total.iter_mut().enumerate() {
                    let sums = vld1q_f32(base.cast::<f32>().add(4 * q));
                    *t = vmulq_n_f32(vmulq_n_f32(sums, zero as f32), times);
                }
            }
        }
        let ones = vdupq_n_s8(1);
        for group in 0..steps.groups {
            let mut acc = [vdupq_n_s32(0); PAIRS];
            let mut sums = [vdupq_n_s32(0); PAIRS];
            let mut code = base.add(steps.place(group).codes);
            for _ in 0..steps.units {
                let low = rows_of_eight(x0, x1);
                let high = if FOUR { rows_of_eight(x0.add(EIGHT), x1.add(EIGHT)) } else { low };
                for p in 0..PAIRS {
                    let v = vld1q_s8(code.add(p * 2 * EIGHT).cast());
                    if FOUR {
                        let (a, b) = (vshlq_n_s8::<4>(v), vandq_s8(v, vdupq_n_s8(-16)));
                        acc[p] = smmla(smmla(acc[p], low, a), high, b);
                        sums[p] = smmla(smmla(sums[p], ones, a), ones, b);
                    } else {
                        acc[p] = smmla(acc[p], low, v);
                        sums[p] = smmla(sums[p], ones, v);
                    }
                }
                let step = if FOUR { 2 * EIGHT } else { EIGHT };
                (x0, x1) = (x0.add(step), x1.add(step));
                code = code.add(g.unit());
            }
            for q in 0..QUADS {
                let (even, odd) =
                    (vmlsq_s32(acc[2 * q], zero, sums[2 * q]), vmlsq_s32(acc[2 * q + 1], zero, sums[2 * q + 1]));
                let rows = [
                    vcombine_s32(vget_low_s32(even), vget_low_s32(odd)),
                    vcombine_s32(vget_high_s32(even), vget_high_s32(odd)),
                ];
                let scale = scales(a, base, steps.place(group), 4 * q);
                for ((total, v), row_scale) in totals.iter_mut().zip(rows).zip(row_scales) {
                    let v = vcvtq_f32_s32(v);
                    total[q] = if steps.groups == 1 {
                        vmulq_f32(vmulq_f32(v, row_scale), scale)
                    } else {
                        vfmaq_f32(total[q], v, scale)
                    };
                }
            }
        }
        for (r, row) in [row, second].into_iter().enumerate() {
            if r == 1 && second == row {
                break;
            }
            for q in 0..QUADS {
                let total = totals[r][q];
                let done = if steps.groups == 1 { total } else { vmulq_f32(total, row_scales[r]) };
                put(a, row, block * CHANNELS + 4 * q, done);
            }
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn codes(a: CodesArgs<u8>, _: &mut Vec<i32>) {
    let steps = a.geometry.steps();
    for block in 0..a.blocks {
        let mut row = 0;
        while row < a.m {
            // SAFETY: the caller's: see `CodesArgs`.
            unsafe {
                match a.geometry.bits {
                    CodeBits::Four => two_rows::<true>(&a, &steps, row, block),
                    CodeBits::Eight => two_rows::<false>(&a, &steps, row, block),
                }
            }
            row += 2;
        }
    }
}

/// Code `at` of a channel's eight (or sixteen) as a number, of four channels from register `2·q` on.
///
/// # Safety
/// The block's unit lies behind `unit`.
#[inline(always)]
unsafe fn numbers(unit: *const u8, bits: CodeBits, quad: usize, at: usize) -> float32x4_t {
    let mut out = [0f32; 4];
    for (i, o) in out.iter_mut().enumerate() {
        // SAFETY: the caller's.
        let byte = unsafe { *unit.add((quad * 4 + i) * EIGHT + at % EIGHT) };
        *o = f32::from(match (bits, at < EIGHT) {
            (CodeBits::Eight, _) => byte as i8,
            (CodeBits::Four, true) => ((byte << 4) as i8) >> 4,
            (CodeBits::Four, false) => (byte as i8) >> 4,
        });
    }
    // SAFETY: four elements.
    unsafe { vld1q_f32(out.as_ptr()) }
}

#[target_feature(enable = "neon")]
unsafe fn floats(a: CodesArgs<f32>) {
    let (g, steps) = (&a.geometry, a.geometry.steps());
    for block in 0..a.blocks {
        for quad in 0..QUADS {
            for row in 0..a.m {
                // SAFETY: the caller's: see `CodesArgs`; `x` is read below `k` only.
                unsafe {
                    let base = a.w.add(block * steps.block);
                    let x = a.x.add(row * a.ldx);
                    let mut total = vdupq_n_f32(0.0);
                    for group in 0..steps.groups {
                        let mut sum = vdupq_n_f32(0.0);
                        for at in 0..g.group {
                            let unit = base.add(steps.place(group).codes + at / g.step() * g.unit());
                            let w = numbers(unit, g.bits, quad, at % g.step());
                            sum = vfmaq_f32(sum, vdupq_n_f32(*x.add(group * g.group + at)), w);
                        }
                        total = vfmaq_f32(total, sum, scales(&a, base, steps.place(group), 4 * quad));
                    }
                    put(&a, row, block * CHANNELS + 4 * quad, total);
                }
            }
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn chains(rounds: usize) -> i32 {
    // Unknown to the compiler, so that the loop is not computed in advance.
    let ones = std::hint::black_box([1i8; 16]);
    // SAFETY: the caller's: the processor has the instruction; 16 bytes are there.
    unsafe {
        let v = vld1q_s8(ones.as_ptr());
        let mut acc = [vdupq_n_s32(0); 12];
        for _ in 0..rounds {
            for x in &mut acc {
                *x = smmla(*x, v, v);
            }
        }
        acc.into_iter().fold(0i32, |sum, v| sum.wrapping_add(vgetq_lane_s32::<0>(v)))
    }
}

pub(in crate::simd) static TABLE: [Kernel; 1] = [Kernel {
    op: "x·wᵀ, w codes",
    name: "smmla 2x16",
    isa: Isa::NeonI8mm,
    quality: 40,
    run: Run::Codes(CodesFns { interleave: EIGHT, codes, floats, rows: None, chains, products: 32 }),
}];
