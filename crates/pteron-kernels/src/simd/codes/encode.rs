//! Rows of floats to codes, for AVX-512: the same operations as [`crate::quant::quantize`] and [`crate::quant::qd8`] have, bit for
//! bit.

use std::arch::x86_64::*;

use super::{Encode, EncodeKind};

/// Floats of a register.
const LANES: usize = 16;

#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= LANES { u16::MAX } else { (1u16 << n) - 1 }
}

/// The codes of a register, times or below what `e` says.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn codes(e: &Encode, x: __m512) -> __m128i {
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    // SAFETY: the caller's. `min` and `max` give their second operand where one is NaN.
    unsafe {
        let zero = _mm512_set1_ps(e.zero);
        let (lo, hi) = (_mm512_set1_ps(e.low), _mm512_set1_ps(e.high));
        let t = _mm512_mul_ps(x, _mm512_set1_ps(e.factor));
        let whole = match e.kind {
            EncodeKind::Qd8 => {
                let (lo, hi) = (_mm512_set1_ps(e.low - e.zero), _mm512_set1_ps(e.high - e.zero));
                let t = _mm512_max_ps(_mm512_min_ps(t, hi), lo);
                _mm512_cvttps_epi32(_mm512_add_ps(_mm512_roundscale_ps::<NEAREST>(t), zero))
            }
            EncodeKind::ExecuTorch => {
                let t = _mm512_add_ps(_mm512_roundscale_ps::<NEAREST>(t), zero);
                // Above the range of 64-bit integers x86 gives the least one.
                let fits = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(t, _mm512_set1_ps(-(i64::MIN as f32)));
                let t = _mm512_mask_blend_ps(fits, lo, t);
                _mm512_cvttps_epi32(_mm512_min_ps(_mm512_max_ps(t, lo), hi))
            }
            EncodeKind::First => {
                let t = _mm512_add_ps(_mm512_roundscale_ps::<NEAREST>(t), zero);
                // The lower bits of the least int.
                let number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(t, t);
                _mm512_maskz_cvttps_epi32(number, _mm512_min_ps(_mm512_max_ps(t, lo), hi))
            }
        };
        _mm_xor_si128(_mm512_cvtepi32_epi8(whole), _mm_set1_epi8(e.flip as i8))
    }
}

/// Codes of `x`; as many as `out` has.
///
/// # Safety
/// The processor has AVX-512 F, BW and VL; `x` is as long as `out`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn encode(e: Encode, x: &[f32], out: &mut [u8]) {
    let (n, from, to) = (out.len(), x.as_ptr(), out.as_mut_ptr());
    let whole = n - n % LANES;
    // SAFETY: the caller's; lanes from `n` on are neither read nor written.
    unsafe {
        for at in (0..whole).step_by(LANES) {
            _mm_storeu_si128(to.add(at).cast(), codes(&e, _mm512_loadu_ps(from.add(at))));
        }
        if whole < n {
            let mask = first(n - whole);
            let x = _mm512_maskz_loadu_ps(mask, from.add(whole));
            _mm_mask_storeu_epi8(to.add(whole).cast(), mask, codes(&e, x));
        }
    }
}

/// Least and largest element of `head` and `x`, passing over NaN but not over one in `head`; and whether one of `x` is NaN.
///
/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn extremes(head: f32, x: &[f32]) -> (f32, f32, bool) {
    const CHAINS: usize = 4;
    let start = _mm512_set1_ps(head);
    let (mut low, mut high) = ([start; CHAINS], [start; CHAINS]);
    let mut numbers = [u16::MAX; CHAINS];
    // `min` and `max` give their second operand where one is NaN.
    let mut take = |i: usize, v: __m512| {
        low[i] = _mm512_min_ps(v, low[i]);
        high[i] = _mm512_max_ps(v, high[i]);
        numbers[i] &= _mm512_cmp_ps_mask::<_CMP_ORD_Q>(v, v);
    };
    let (n, from) = (x.len(), x.as_ptr());
    let rounds = n - n % (CHAINS * LANES);
    // SAFETY: the caller's; lanes from `n` on are not read.
    unsafe {
        for at in (0..rounds).step_by(CHAINS * LANES) {
            for i in 0..CHAINS {
                take(i, _mm512_loadu_ps(from.add(at + i * LANES)));
            }
        }
        for at in (rounds..n).step_by(LANES) {
            take(0, _mm512_mask_loadu_ps(start, first(n - at), from.add(at)));
        }
    }
    // Lanes are NaN only where `head` is, and then all of them.
    let lo = _mm512_min_ps(_mm512_min_ps(low[0], low[1]), _mm512_min_ps(low[2], low[3]));
    let hi = _mm512_max_ps(_mm512_max_ps(high[0], high[1]), _mm512_max_ps(high[2], high[3]));
    (_mm512_reduce_min_ps(lo), _mm512_reduce_max_ps(hi), numbers != [u16::MAX; CHAINS])
}
