//! A vector of f32 lanes, as each instruction set has it.

use half::{bf16, f16};

/// One instruction set's vector of f32 lanes.
///
/// # Safety
/// Every function requires that the processor has the instruction set. Those with a pointer require that the named number
/// of elements lies behind it; no alignment is required. They are `inline(always)`, so that they become single
/// instructions inside a caller compiled with `target_feature`.
pub(crate) trait Lanes: Copy {
    /// Number of lanes; a power of two of at most 16.
    const N: usize;
    /// The register.
    type V: Copy;

    /// Every lane `x`.
    unsafe fn splat(x: f32) -> Self::V;
    /// `N` elements.
    unsafe fn load(p: *const f32) -> Self::V;
    /// `N` elements, widened.
    unsafe fn load_f16(p: *const f16) -> Self::V;
    /// `N` elements, widened.
    unsafe fn load_bf16(p: *const bf16) -> Self::V;
    /// Writes `N` elements.
    unsafe fn store(p: *mut f32, v: Self::V);
    /// `a·b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a·b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `x` in the lanes where `a < b`, `y` in the others.
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// The larger one; `b` where either is NaN, or NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// The smaller one; `b` where either is NaN, or NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// `p·2ⁿ` for integral `n` of magnitude up to 152 and `p` of about 1; overflow gives infinity, underflow rounds to the
    /// subnormals and 0.
    unsafe fn scale2(p: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes: lanes a half apart first, then a quarter, and so on.
    unsafe fn sum(v: Self::V) -> f32;
    /// [`Lanes::sum`] of four registers, bit for bit the same.
    unsafe fn sum4(v: [Self::V; 4]) -> [f32; 4];
    /// Asks for the cache line of `p`, which may lie anywhere.
    unsafe fn prefetch(p: *const u8);
    /// The same, into the second-level cache: what is needed much later waits there, and more of it can be on its way.
    unsafe fn prefetch_far(p: *const u8);

    /// The first `n < N` elements, the other lanes `fill`.
    #[inline(always)]
    unsafe fn load_part(p: *const f32, n: usize, fill: f32) -> Self::V {
        let mut buf = [fill; 16];
        // SAFETY: the caller vouches for `n` elements, `n < N <= 16`; the buffer has 16.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n);
            Self::load(buf.as_ptr())
        }
    }
    /// The first `n < N` elements widened, the other lanes 0.
    #[inline(always)]
    unsafe fn load_part_f16(p: *const f16, n: usize) -> Self::V {
        let mut buf = [f16::ZERO; 16];
        // SAFETY: as in `load_part`.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n);
            Self::load_f16(buf.as_ptr())
        }
    }
    /// The first `n < N` elements widened, the other lanes 0.
    #[inline(always)]
    unsafe fn load_part_bf16(p: *const bf16, n: usize) -> Self::V {
        let mut buf = [bf16::ZERO; 16];
        // SAFETY: as in `load_part`.
        unsafe {
            std::ptr::copy_nonoverlapping(p, buf.as_mut_ptr(), n);
            Self::load_bf16(buf.as_ptr())
        }
    }
    /// Writes the first `n < N` lanes.
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, n: usize, v: Self::V) {
        let mut buf = [0.0f32; 16];
        // SAFETY: as in `load_part`, and `p` may be written for `n` elements.
        unsafe {
            Self::store(buf.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(buf.as_ptr(), p, n);
        }
    }
}

/// An element type of the right-hand matrix: widened to f32 as it is loaded, which is exact.
pub(crate) trait Weight: pteron_tensor::Element {
    /// The value.
    fn widen(self) -> f32;
    /// `S::N` elements.
    ///
    /// # Safety
    /// As [`Lanes::load`].
    unsafe fn load<S: Lanes>(p: *const Self) -> S::V;
    /// The first `n` elements, the other lanes 0.
    ///
    /// # Safety
    /// As [`Lanes::load_part`].
    unsafe fn load_part<S: Lanes>(p: *const Self, n: usize) -> S::V;
}

macro_rules! weight {
    ($t:ty, $widen:expr, $load:ident, $part:ident $(, $fill:expr)?) => {
        impl Weight for $t {
            #[inline(always)]
            fn widen(self) -> f32 {
                let widen: fn($t) -> f32 = $widen;
                widen(self)
            }
            #[inline(always)]
            unsafe fn load<S: Lanes>(p: *const Self) -> S::V {
                // SAFETY: the same contract.
                unsafe { S::$load(p) }
            }
            #[inline(always)]
            unsafe fn load_part<S: Lanes>(p: *const Self, n: usize) -> S::V {
                // SAFETY: the same contract.
                unsafe { S::$part(p, n $(, $fill)?) }
            }
        }
    };
}
weight!(f32, |x| x, load, load_part, 0.0);
weight!(f16, f16::to_f32, load_f16, load_part_f16);
weight!(bf16, bf16::to_f32, load_bf16, load_part_bf16);
