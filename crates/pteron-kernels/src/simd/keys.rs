//! Scores of many queries: keys laid out so that a register holds the same element of sixteen of them.
//!
//! The bits are those of [`generic::nt`](super::generic::nt): partial sum `l` of a score adds the products of
//! `k = l, l+16, …` in that order, and partial sums half of their number apart are added until one is left. Here each is a
//! register of sixteen scores, so that adding them up takes no shuffles.

use std::arch::x86_64::*;
use std::sync::atomic::{Ordering, compiler_fence};

use super::avx512::Avx512;
use super::lanes::{Lanes, Weight};
use super::{KEYS_STEP as N, KeysArgs};

/// Queries of a tile: by two registers of keys, and with the partial sums that wait, they fill the registers.
const ROWS: usize = 3;

/// Sixteen rows of sixteen become sixteen columns.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn turned(r: [__m512; N]) -> [__m512; N] {
    // SAFETY: the caller's.
    unsafe {
        let mut a = r;
        // Pairs of rows, then fours, within the quarters of 128 bits.
        for i in 0..N / 2 {
            a[2 * i] = _mm512_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            a[2 * i + 1] = _mm512_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        let mut b = a;
        for i in 0..N / 4 {
            for half in 0..2 {
                let (x, y) = (_mm512_castps_pd(a[4 * i + half]), _mm512_castps_pd(a[4 * i + 2 + half]));
                b[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
                b[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
            }
        }
        // `b[4·i + c]` has in its quarter `q` column `4·q + c` of rows `4·i..4·i + 4`.
        let mut out = b;
        for c in 0..4 {
            let (p, q) = (b[c], b[4 + c]);
            let (s, t) = (b[8 + c], b[12 + c]);
            let low = [_mm512_shuffle_f32x4::<0b10_00_10_00>(p, q), _mm512_shuffle_f32x4::<0b10_00_10_00>(s, t)];
            let high = [_mm512_shuffle_f32x4::<0b11_01_11_01>(p, q), _mm512_shuffle_f32x4::<0b11_01_11_01>(s, t)];
            out[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(low[0], low[1]);
            out[8 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(low[0], low[1]);
            out[4 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(high[0], high[1]);
            out[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(high[0], high[1]);
        }
        out
    }
}

#[inline(always)]
unsafe fn lay_out<W: Weight>(w: *const W, ldw: usize, n: usize, k: usize, out: *mut f32) {
    // SAFETY: the caller's: see [`super::KeysFns`].
    unsafe {
        let mut from = 0;
        while from < n {
            let rows = n - from;
            let mut at = 0;
            while at < k {
                let mut r = [Avx512::splat(0.0); N];
                for i in 0..N {
                    if i < rows {
                        r[i] = W::load::<Avx512>(w.add((from + i) * ldw + at));
                    }
                }
                let columns = turned(r);
                for c in 0..N {
                    _mm512_storeu_ps(out.add(from * k + (at + c) * N), columns[c]);
                }
                at += N;
            }
            from += N;
        }
    }
}

/// Scores of R queries by C times sixteen keys, or a part of their sums.
type Sums<const R: usize, const C: usize> = [[__m512; C]; R];

/// Partial sum `l`.
#[inline(always)]
unsafe fn partial<const R: usize, const C: usize>(a: &KeysArgs, keys: *const f32, l: usize) -> Sums<R, C> {
    // SAFETY: the caller's.
    unsafe {
        let mut sum = [[_mm512_setzero_ps(); C]; R];
        let mut k = l;
        while k < a.k {
            let mut key = [_mm512_setzero_ps(); C];
            for c in 0..C {
                key[c] = _mm512_loadu_ps(keys.add((c * a.k + k) * N));
            }
            for r in 0..R {
                let x = _mm512_set1_ps(*a.x.add(r * a.ldx + k));
                for c in 0..C {
                    sum[r][c] = _mm512_fmadd_ps(x, key[c], sum[r][c]);
                }
            }
            k += N;
        }
        sum
    }
}

/// `x + y`.
#[inline(always)]
unsafe fn both<const R: usize, const C: usize>(x: Sums<R, C>, y: Sums<R, C>) -> Sums<R, C> {
    let mut out = x;
    for r in 0..R {
        for c in 0..C {
            // SAFETY: the caller's: the processor has AVX-512.
            out[r][c] = unsafe { _mm512_add_ps(out[r][c], y[r][c]) };
        }
    }
    out
}

/// Partial sums `l` and `l + 8`.
#[inline(always)]
unsafe fn of_two<const R: usize, const C: usize>(a: &KeysArgs, keys: *const f32, l: usize) -> Sums<R, C> {
    // SAFETY: the caller's.
    unsafe { both(partial(a, keys, l), partial(a, keys, l + 8)) }
}

/// Partial sums `l`, `l + 4`, …
#[inline(always)]
unsafe fn of_four<const R: usize, const C: usize>(a: &KeysArgs, keys: *const f32, l: usize) -> Sums<R, C> {
    // SAFETY: the caller's.
    unsafe { both(of_two(a, keys, l), of_two(a, keys, l + 4)) }
}

/// Partial sums `l`, `l + 2`, …
#[inline(always)]
unsafe fn of_eight<const R: usize, const C: usize>(a: &KeysArgs, keys: *const f32, l: usize) -> Sums<R, C> {
    // SAFETY: the caller's.
    unsafe { both(of_four(a, keys, l), of_four(a, keys, l + 2)) }
}

#[inline(always)]
unsafe fn tile<const R: usize, const C: usize>(a: &KeysArgs, keys: *const f32, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe {
        // One half waits in memory: the partial sums of the other one need the registers.
        let even: Sums<R, C> = of_eight(a, keys, 0);
        for r in 0..R {
            for c in 0..C {
                _mm512_storeu_ps(out.add(r * a.ldo + c * N), even[r][c]);
            }
        }
        compiler_fence(Ordering::AcqRel);
        let odd: Sums<R, C> = of_eight(a, keys, 1);
        let scale = _mm512_set1_ps(a.scale);
        for r in 0..R {
            for c in 0..C {
                let to = out.add(r * a.ldo + c * N);
                _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_add_ps(_mm512_loadu_ps(to), odd[r][c]), scale));
            }
        }
    }
}

/// C registers of keys from `from` on.
#[inline(always)]
unsafe fn columns<const C: usize>(a: &KeysArgs, from: usize) {
    // SAFETY: the caller's: the rows and the keys are there.
    unsafe {
        let keys = a.keys.add(from * a.k);
        let mut r = 0;
        while r < a.m {
            let rows = KeysArgs { x: a.x.add(r * a.ldx), ..*a };
            let out = a.out.add(r * a.ldo + from);
            if a.m - r >= ROWS {
                tile::<ROWS, C>(&rows, keys, out);
                r += ROWS;
            } else {
                tile::<1, C>(&rows, keys, out);
                r += 1;
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn lay_out_f32(w: *const f32, ldw: usize, n: usize, k: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { lay_out(w, ldw, n, k, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn lay_out_f16(w: *const half::f16, ldw: usize, n: usize, k: usize, out: *mut f32) {
    // SAFETY: the caller's.
    unsafe { lay_out(w, ldw, n, k, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn scores(a: KeysArgs) {
    // SAFETY: the caller's: see [`super::KeysFns`].
    unsafe {
        let mut from = 0;
        while from + N < a.n {
            columns::<2>(&a, from);
            from += 2 * N;
        }
        if from < a.n {
            columns::<1>(&a, from);
        }
    }
}
