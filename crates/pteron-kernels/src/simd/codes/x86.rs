//! AVX-512 VNNI, AVX-VNNI and AVX2.

use std::arch::x86_64::*;

use super::tiles::{self, CodeLanes};
use super::{CodesArgs, CodesFns, RowFns, encode};
use crate::simd::{Isa, Kernel, Run};
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// 16 lanes, `vpdpbusd`.
struct Avx512Vnni;
/// 8 lanes, `vpdpbusd`.
struct AvxVnni;
/// 8 lanes, products of 16-bit pairs.
struct Pairs;

// SAFETY (every block below): the trait's contract: the processor has the instructions, and the pointers have the elements.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, stated above")]
impl CodeLanes for Avx512Vnni {
    type Floats = Avx512;
    type V = __m512i;
    const BIAS: i32 = 0;
    const TIMES: i32 = 16;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        unsafe { _mm512_setzero_si512() }
    }
    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn planes(v: __m512i) -> [__m512i; 2] {
        unsafe {
            let high = _mm512_set1_epi8(-16);
            [_mm512_and_si512(_mm512_slli_epi16::<4>(v), high), _mm512_and_si512(v, high)]
        }
    }
    #[inline(always)]
    unsafe fn four(p: *const u8) -> __m512i {
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn dot(acc: __m512i, x: __m512i, w: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, x, w) }
    }
    #[inline(always)]
    unsafe fn sum(acc: __m512i, w: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(acc, _mm512_set1_epi8(1), w) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn less(acc: __m512i, zero: i32, sums: __m512i) -> __m512i {
        unsafe { _mm512_sub_epi32(acc, _mm512_mullo_epi32(_mm512_set1_epi32(zero), sums)) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut i32, v: __m512i) {
        unsafe { _mm512_storeu_si512(p.cast(), v) }
    }
    #[inline(always)]
    unsafe fn to_floats(v: __m512i) -> __m512 {
        unsafe { _mm512_cvtepi32_ps(v) }
    }
    #[inline(always)]
    unsafe fn field(v: __m512i, left: i32, right: i32) -> __m512i {
        unsafe { _mm512_sra_epi32(_mm512_sll_epi32(v, _mm_cvtsi32_si128(left)), _mm_cvtsi32_si128(right)) }
    }
}

/// What [`AvxVnni`] and [`Pairs`] share.
macro_rules! eight_lanes {
    () => {
        type Floats = Avx2;
        type V = __m256i;
        const BIAS: i32 = 0;
        const TIMES: i32 = 16;

        #[inline(always)]
        unsafe fn zero() -> __m256i {
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m256i {
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn planes(v: __m256i) -> [__m256i; 2] {
            unsafe {
                let high = _mm256_set1_epi8(-16);
                [_mm256_and_si256(_mm256_slli_epi16::<4>(v), high), _mm256_and_si256(v, high)]
            }
        }
        #[inline(always)]
        unsafe fn four(p: *const u8) -> __m256i {
            unsafe { _mm256_set1_epi32(p.cast::<i32>().read_unaligned()) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
            unsafe { _mm256_add_epi32(a, b) }
        }
        #[inline(always)]
        unsafe fn less(acc: __m256i, zero: i32, sums: __m256i) -> __m256i {
            unsafe { _mm256_sub_epi32(acc, _mm256_mullo_epi32(_mm256_set1_epi32(zero), sums)) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut i32, v: __m256i) {
            unsafe { _mm256_storeu_si256(p.cast(), v) }
        }
        #[inline(always)]
        unsafe fn to_floats(v: __m256i) -> __m256 {
            unsafe { _mm256_cvtepi32_ps(v) }
        }
        #[inline(always)]
        unsafe fn field(v: __m256i, left: i32, right: i32) -> __m256i {
            unsafe { _mm256_sra_epi32(_mm256_sll_epi32(v, _mm_cvtsi32_si128(left)), _mm_cvtsi32_si128(right)) }
        }
    };
}

// SAFETY (every block below): as for `Avx512Vnni`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, stated above")]
impl CodeLanes for AvxVnni {
    eight_lanes!();

    #[inline(always)]
    unsafe fn dot(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(acc, x, w) }
    }
    #[inline(always)]
    unsafe fn sum(acc: __m256i, w: __m256i) -> __m256i {
        unsafe { _mm256_dpbusd_avx_epi32(acc, _mm256_set1_epi8(1), w) }
    }
}

// SAFETY (every block below): as for `Avx512Vnni`.
#[expect(clippy::undocumented_unsafe_blocks, reason = "one contract for all of them, stated above")]
impl CodeLanes for Pairs {
    eight_lanes!();

    #[inline(always)]
    unsafe fn dot(acc: __m256i, x: __m256i, w: __m256i) -> __m256i {
        // `vpmaddubsw` would saturate: the bytes become 16-bit numbers first, even ones and odd ones.
        unsafe {
            let (xe, xo) = (_mm256_and_si256(x, _mm256_set1_epi16(255)), _mm256_srli_epi16::<8>(x));
            let (we, wo) = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w)), _mm256_srai_epi16::<8>(w));
            _mm256_add_epi32(_mm256_add_epi32(acc, _mm256_madd_epi16(xe, we)), _mm256_madd_epi16(xo, wo))
        }
    }
    #[inline(always)]
    unsafe fn sum(acc: __m256i, w: __m256i) -> __m256i {
        unsafe {
            let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), w);
            _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
        }
    }
}

macro_rules! variant {
    ($module:ident, $lanes:ty, $features:literal, $tile:literal x $registers:literal, $products:literal, $rows:expr) => {
        mod $module {
            use super::*;

            #[target_feature(enable = $features)]
            unsafe fn codes(a: CodesArgs<u8>, scratch: &mut Vec<i32>) {
                // SAFETY: the caller vouches for the block; the features are those of this function.
                unsafe { tiles::codes::<$lanes, $tile, $registers>(a, scratch) }
            }
            #[target_feature(enable = $features)]
            unsafe fn floats(a: CodesArgs<f32>) {
                // SAFETY: as above.
                unsafe { tiles::floats::<$lanes, $tile, $registers>(a) }
            }
            #[target_feature(enable = $features)]
            unsafe fn chains(rounds: usize) -> i32 {
                // SAFETY: the features are those of this function.
                unsafe { tiles::chains::<$lanes>(rounds) }
            }
            pub(super) const FNS: CodesFns =
                CodesFns { interleave: 4, codes, floats, rows: $rows, chains, products: $products };
        }
    };
}
variant!(avx512_vnni, Avx512Vnni, "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", 6 x 2, 64,
    Some(RowFns { encode: encode::encode, extremes: encode::extremes }));
variant!(avx_vnni, AvxVnni, "avxvnni,avx2,fma,f16c", 3 x 2, 32, None);
variant!(avx2_pairs, Pairs, "avx2,fma,f16c", 3 x 2, 32, None);

const OP: &str = "x·wᵀ, w codes";

pub(in crate::simd) static TABLE: [Kernel; 3] = [
    Kernel { op: OP, name: "vpdpbusd zmm 6x32", isa: Isa::Avx512Vnni, quality: 40, run: Run::Codes(avx512_vnni::FNS) },
    Kernel { op: OP, name: "vpdpbusd ymm 3x16", isa: Isa::AvxVnni, quality: 30, run: Run::Codes(avx_vnni::FNS) },
    Kernel { op: OP, name: "vpmaddwd 3x16", isa: Isa::Avx2, quality: 20, run: Run::Codes(avx2_pairs::FNS) },
];
