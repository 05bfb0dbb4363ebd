//! Matrix products of f64 and integers: plain loops.

use pteron_tensor::{Element, Scalar};

/// An element type with a sum and a product of its own; integers wrap, as in C++ on two's-complement machines.
pub(crate) trait Ring: Element {
    /// `sum + a·b`.
    fn mul_add(sum: Self, a: Self, b: Self) -> Self;
    /// A scalar argument in this type.
    fn of(s: Scalar) -> Self;
}

impl Ring for f64 {
    fn mul_add(sum: f64, a: f64, b: f64) -> f64 {
        sum + a * b
    }
    fn of(s: Scalar) -> f64 {
        s.as_f64()
    }
}

macro_rules! integer_ring {
    ($($t:ty)*) => { $(impl Ring for $t {
        fn mul_add(sum: $t, a: $t, b: $t) -> $t {
            sum.wrapping_add(a.wrapping_mul(b))
        }
        fn of(s: Scalar) -> $t {
            s.as_i64() as $t
        }
    })* };
}
integer_ring!(u8 i8 i16 u16 i32 i64);

/// A matrix inside a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) start: usize,
    pub(crate) row: usize,
    pub(crate) col: usize,
}

impl<T: Copy> Matrix<'_, T> {
    pub(crate) fn at(&self, r: usize, c: usize) -> T {
        self.data[self.start + r * self.row + c * self.col]
    }
}

/// `out[m, n] = Σ_k a[m, k]·b[k, n]`, sums in the order of `k`.
pub(crate) fn product<T: Ring>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T], m: usize, n: usize, k: usize) {
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k).fold(T::zeroed(), |sum, l| T::mul_add(sum, a.at(i, l), b.at(l, j)));
        }
    }
}
