//! NEON with i8mm: `usmmla` multiplies two rows of eight codes, 0 to 255, by two channels of eight.
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

/// `acc + x·w`, `x` unsigned and `w` signed; each lane the product of a row of `x` and a channel of `w`: (row 0, channel 0),
/// (0, 1), (1, 0), (1, 1).
///
/// # Safety
/// The processor has the instruction.
#[inline(always)]
unsafe fn usmmla(acc: int32x4_t, x: uint8x16_t, w: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: the caller's. The intrinsic is not stable.
    unsafe {
        asm!(".arch_extension i8mm", "usmmla {acc:v}.4s, {x:v}.16b, {w:v}.16b", acc = inout(vreg) acc, x = in(vreg) x,
             w = in(vreg) w, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// The next eight codes of two rows, and, of a unit of 4-bit codes, the eight after these.
///
/// # Safety
/// A unit's codes lie behind each.
#[inline(always)]
unsafe fn rows_of_eight<const FOUR: bool>([a, b]: [*const u8; 2]) -> [uint8x16_t; 2] {
    // SAFETY: the caller's.
    unsafe {
        if !FOUR {
            return [vcombine_u8(vld1_u8(a), vld1_u8(b)); 2];
        }
        let (a, b) = (vreinterpretq_u64_u8(vld1q_u8(a)), vreinterpretq_u64_u8(vld1q_u8(b)));
        [vreinterpretq_u8_u64(vzip1q_u64(a, b)), vreinterpretq_u8_u64(vzip2q_u64(a, b))]
    }
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

/// P pairs of rows from `row` on (the last one again where there is none) by a block.
///
/// # Safety
/// See [`CodesArgs`]; the processor has i8mm.
#[inline(always)]
unsafe fn pairs_of_rows<const P: usize, const FOUR: bool, const GROUPED: bool>(
    a: &CodesArgs<u8>,
    steps: &Steps,
    row: usize,
    block: usize,
) {
    let rows: [[usize; 2]; P] = std::array::from_fn(|p| [0, 1].map(|i| (row + 2 * p + i).min(a.m - 1)));
    let times = if FOUR { 16.0 } else { 1.0 };
    let step = if FOUR { 2 * EIGHT } else { EIGHT };
    // SAFETY: the caller's; units and groups are walked in the order in which they lie; rows of codes have whole lines.
    unsafe {
        let base = a.w.add(block * steps.block);
        let mut x = rows.map(|two| two.map(|r| a.x.add(r * a.ldx)));
        let mut totals = [[[vdupq_n_f32(0.0); QUADS]; 2]; P];
        if GROUPED {
            for (total, row) in totals.as_flattened_mut().iter_mut().zip(rows.as_flattened()) {
                for (q, t) in total.iter_mut().enumerate() {
                    let sums = vld1q_f32(base.cast::<f32>().add(4 * q));
                    *t = vmulq_n_f32(vmulq_n_f32(sums, *a.zero.add(*row) as f32), times);
                }
            }
        }
        let ones = vdupq_n_u8(1);
        for group in 0..steps.groups {
            let place = steps.place(group);
            let mut acc = [[vdupq_n_s32(0); PAIRS]; P];
            let mut sums = [vdupq_n_s32(0); PAIRS];
            let mut code = base.add(place.codes);
            for _ in 0..steps.units {
                let codes = x.map(|two| rows_of_eight::<FOUR>(two));
                for c in 0..PAIRS {
                    let v = vld1q_s8(code.add(c * 2 * EIGHT).cast());
                    let planes = if FOUR { [vshlq_n_s8::<4>(v), vandq_s8(v, vdupq_n_s8(-16))] } else { [v; 2] };
                    for p in 0..P {
                        acc[p][c] = usmmla(acc[p][c], codes[p][0], planes[0]);
                        if FOUR {
                            acc[p][c] = usmmla(acc[p][c], codes[p][1], planes[1]);
                        }
                    }
                    // What the matrix does not have.
                    if FOUR && !GROUPED {
                        sums[c] = usmmla(usmmla(sums[c], ones, planes[0]), ones, planes[1]);
                    }
                }
                x = x.map(|two| two.map(|r| r.add(step)));
                code = code.add(2 * EIGHT * PAIRS);
            }
            for q in 0..QUADS {
                let scale = scales(a, base, place, 4 * q);
                let sums = match (FOUR, GROUPED) {
                    (_, true) => vdupq_n_s32(0),
                    (true, false) => vcombine_s32(vget_low_s32(sums[2 * q]), vget_low_s32(sums[2 * q + 1])),
                    (false, false) => vld1q_s32(base.add(place.sums).cast::<i32>().add(4 * q)),
                };
                for p in 0..P {
                    let (even, odd) = (acc[p][2 * q], acc[p][2 * q + 1]);
                    let two = [
                        vcombine_s32(vget_low_s32(even), vget_low_s32(odd)),
                        vcombine_s32(vget_high_s32(even), vget_high_s32(odd)),
                    ];
                    for i in 0..2 {
                        let row = rows[p][i];
                        let v = if GROUPED { two[i] } else { vmlsq_n_s32(two[i], sums, *a.zero.add(row)) };
                        let (v, total) = (vcvtq_f32_s32(v), &mut totals[p][i][q]);
                        *total = if !GROUPED && steps.groups == 1 {
                            vmulq_f32(vmulq_n_f32(v, *a.scale.add(row) / times), scale)
                        } else {
                            vfmaq_f32(*total, v, scale)
                        };
                    }
                }
            }
        }
        for (total, row) in totals.as_flattened().iter().zip(rows.as_flattened()) {
            let scale = *a.scale.add(*row) / times;
            for q in 0..QUADS {
                let done = if !GROUPED && steps.groups == 1 { total[q] } else { vmulq_n_f32(total[q], scale) };
                put(a, *row, block * CHANNELS + 4 * q, done);
            }
        }
    }
}

/// All rows by a block: its codes stay in the first-level cache.
///
/// # Safety
/// As [`pairs_of_rows`].
#[inline(always)]
unsafe fn all_rows<const FOUR: bool, const GROUPED: bool>(a: &CodesArgs<u8>) {
    let steps = a.geometry.steps();
    for block in 0..a.blocks {
        let mut row = 0;
        while row < a.m {
            // SAFETY: the caller's.
            unsafe {
                if a.m - row > 2 {
                    pairs_of_rows::<2, FOUR, GROUPED>(a, &steps, row, block);
                    row += 4;
                } else {
                    pairs_of_rows::<1, FOUR, GROUPED>(a, &steps, row, block);
                    row += 2;
                }
            }
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn codes(a: CodesArgs<u8>, _: &mut Vec<i32>) {
    // SAFETY: the caller's: see `CodesArgs`.
    unsafe {
        match a.geometry.bits {
            CodeBits::Four if a.geometry.is_grouped() => all_rows::<true, true>(&a),
            CodeBits::Four => all_rows::<true, false>(&a),
            CodeBits::Eight => all_rows::<false, false>(&a),
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
        let (x, v) = (vld1q_u8(ones.as_ptr().cast()), vld1q_s8(ones.as_ptr()));
        let mut acc = [vdupq_n_s32(0); 12];
        for _ in 0..rounds {
            for a in &mut acc {
                *a = usmmla(*a, x, v);
            }
        }
        acc.into_iter().fold(0i32, |sum, v| sum.wrapping_add(vgetq_lane_s32::<0>(v)))
    }
}

pub(in crate::simd) static TABLE: [Kernel; 1] = [Kernel {
    op: "x·wᵀ, w codes",
    name: "usmmla 4x16",
    isa: Isa::NeonI8mm,
    quality: 40,
    run: Run::Codes(CodesFns { interleave: EIGHT, codes, floats, rows: None, chains, products: 32 }),
}];
