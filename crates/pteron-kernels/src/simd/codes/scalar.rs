//! The scalar kernels: they read any layout, and define what the others compute.

use half::bf16;

use super::{CHANNELS, CodeBits, CodesArgs, CodesFns, Geometry, ScaleBits};
use crate::simd::{Isa, Kernel, Run};

pub(super) const FNS: CodesFns = CodesFns { interleave: 4, codes, floats, rows: None, chains, products: 1 };

pub(in crate::simd) static SCALAR: [Kernel; 1] =
    [Kernel { op: "x·wᵀ, w codes", name: "scalar", isa: Isa::Scalar, quality: 1, run: Run::Codes(FNS) }];

/// Code `at` of group `group` of a channel.
///
/// # Safety
/// `block` is a block of `g`; group, code and channel are there.
unsafe fn code(g: &Geometry, block: *const u8, group: usize, at: usize, channel: usize) -> i32 {
    let (unit, within) = (at / g.step(), at % g.step());
    let (plane, off) = (within / g.interleave, within % g.interleave);
    let place = g.place(group).codes + unit * g.unit() + channel * g.interleave + off;
    // SAFETY: the caller's: the place lies inside the block.
    let byte = unsafe { *block.add(place) };
    match (g.bits, plane) {
        (CodeBits::Eight, _) => i32::from(byte as i8),
        (CodeBits::Four, 0) => i32::from(((byte << 4) as i8) >> 4),
        (CodeBits::Four, _) => i32::from((byte as i8) >> 4),
    }
}

/// The scale of a group of a channel.
///
/// # Safety
/// As [`code`].
unsafe fn scale(g: &Geometry, block: *const u8, group: usize, channel: usize) -> f32 {
    // SAFETY: the caller's; scales lie on a cache line's boundary.
    unsafe {
        let first = block.add(g.place(group).scales);
        match g.scales {
            ScaleBits::Sixteen => (*first.cast::<bf16>().add(channel)).to_f32(),
            ScaleBits::ThirtyTwo => *first.cast::<f32>().add(channel),
        }
    }
}

/// Calls `element(row, block, channel)` and stores what it gives.
///
/// # Safety
/// See [`CodesArgs`].
unsafe fn each<X>(a: &CodesArgs<X>, element: impl Fn(usize, *const u8, usize) -> f32) {
    for m in 0..a.m {
        for n in 0..a.n {
            // SAFETY: the caller's: block `n/CHANNELS` is there, and this element of `out`.
            unsafe {
                let block = a.w.add(n / CHANNELS * a.geometry.block());
                *a.out.add(m * a.ldo + n) = element(m, block, n % CHANNELS);
            }
        }
    }
}

unsafe fn codes(a: CodesArgs<u8>, _: &mut Vec<i32>) {
    let g = a.geometry;
    let element = |m: usize, block: *const u8, channel: usize| {
        let mut total = 0f32;
        // SAFETY: the caller's: see `CodesArgs`; a grouped matrix has a line of sums before a block's chunks.
        unsafe {
            let mut zero = *a.zero.add(m);
            if g.is_grouped() {
                total = *block.cast::<f32>().add(channel) * zero as f32;
                zero = 0;
            }
            for group in 0..g.groups() {
                let mut sum = 0i32;
                for at in 0..g.group {
                    let x = i32::from(*a.x.add(m * a.ldx + group * g.group + at)) - zero;
                    sum = sum.wrapping_add(x * code(&g, block, group, at, channel));
                }
                if g.groups() == 1 {
                    return sum as f32 * *a.scale.add(m) * scale(&g, block, group, channel);
                }
                total = (sum as f32).mul_add(scale(&g, block, group, channel), total);
            }
            total * *a.scale.add(m)
        }
    };
    // SAFETY: the caller's.
    unsafe { each(&a, element) }
}

unsafe fn floats(a: CodesArgs<f32>) {
    let g = a.geometry;
    let element = |m: usize, block: *const u8, channel: usize| {
        let mut total = 0f32;
        for group in 0..g.groups() {
            let mut sum = 0f32;
            // SAFETY: the caller's: see `CodesArgs`.
            unsafe {
                for at in 0..g.group {
                    let x = *a.x.add(m * a.ldx + group * g.group + at);
                    sum = x.mul_add(code(&g, block, group, at, channel) as f32, sum);
                }
                total = sum.mul_add(scale(&g, block, group, channel), total);
            }
        }
        total
    };
    // SAFETY: the caller's.
    unsafe { each(&a, element) }
}

unsafe fn chains(rounds: usize) -> i32 {
    let (x, w) = (std::hint::black_box(3i32), std::hint::black_box(-5i32));
    let mut acc = [1i32; 12];
    for _ in 0..rounds {
        for v in &mut acc {
            *v = v.wrapping_add(std::hint::black_box(x) * w);
        }
    }
    acc.iter().fold(0, |sum, v| sum.wrapping_add(*v))
}
