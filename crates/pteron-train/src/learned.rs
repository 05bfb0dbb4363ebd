//! How learned scales and zero points of activations move.

use crate::optimizer::AdamW;

/// Moments of Adam for one number: first and second.
pub(crate) type Moments<'a> = (&'a mut [f32], &'a mut [f32]);

/// Adam's `ε` for an end. Its gradients are small, and Adam does not heed their size as long as `ε` is smaller; a square that f32
/// rounds to 0 belongs to a gradient below it.
const EPS: f64 = 1e-15;

/// Scale and zero point of affine codes `least..=most`, moved by the ends of the range that they reach:
/// `low = s·(least − z)` and `high = s·(most − z)`, as of a learned range (TQT and LSQ+ train the same function). An end is moved
/// by a share of itself: whatever the other end and the number of codes, the range may shrink on one side only, which a scale
/// with a zero point beside it does not do: a step of the zero point that fits 8-bit codes says nothing to 16-bit ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    /// `s`.
    pub(crate) scale: f32,
    /// `z`, not rounded.
    pub(crate) zero: f32,
    /// Least and largest code.
    pub(crate) codes: (i64, i64),
}

impl Affine {
    fn count(&self) -> f64 {
        (self.codes.1 - self.codes.0).max(1) as f64
    }

    /// The ends.
    fn ends(&self) -> [f64; 2] {
        let end = |code: i64| f64::from(self.scale) * (code as f64 - f64::from(self.zero));
        [end(self.codes.0), end(self.codes.1)]
    }

    /// The gradients of the ends, from those of scale and zero point: with `n` codes between the ends and `w = high − low`,
    /// `s = w/n` and `z = least − n·low/w`.
    fn gradients(&self, scale: f64, zero: f64) -> [f64; 2] {
        let ([low, high], n) = (self.ends(), self.count());
        let width = high - low;
        let of_zero = n / (width * width) * zero;
        [-scale / n - of_zero * high, scale / n + of_zero * low]
    }

    /// One step of `rate`, a share of each end, against the gradients of scale and zero point. The range keeps 0, and at least a
    /// code's width.
    pub(crate) fn step(
        self,
        adam: &AdamW,
        (t, rate): (u64, f64),
        [scale, zero]: [f32; 2],
        moments: [Moments<'_>; 2],
    ) -> Affine {
        let adam = AdamW { eps: EPS, weight_decay: 0.0, ..*adam };
        let gradients = self.gradients(f64::from(scale), f64::from(zero));
        let mut ends = self.ends();
        for ((end, g), (first, second)) in ends.iter_mut().zip(gradients).zip(moments) {
            let size = end.abs().max(f64::from(self.scale));
            let mut moved = [0.0f32];
            adam.step(t, rate, 1.0, &mut moved, first, second, &[(g * size) as f32]);
            *end += f64::from(moved[0]) * size;
        }
        let (low, high) = (ends[0].min(0.0), ends[1].max(0.0));
        let width = (high - low).max(self.count() * f64::from(f32::EPSILON));
        let scale = width / self.count();
        Affine { scale: scale as f32, zero: (self.codes.0 as f64 - low / scale) as f32, codes: self.codes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const U8: (i64, i64) = (0, 255);

    /// Against differences of a function of scale and zero point, taken along the ends.
    #[test]
    fn gradients_of_the_ends() {
        let a = Affine { scale: 0.25, zero: 100.0, codes: U8 };
        let (gs, gz) = (3.0, -0.5);
        let of = |low: f64, high: f64| {
            let s = (high - low) / 255.0;
            gs * s + gz * (-low / s)
        };
        let [low, high] = a.ends();
        let d = 1e-5;
        let by_low = (of(low + d, high) - of(low - d, high)) / (2.0 * d);
        let by_high = (of(low, high + d) - of(low, high - d)) / (2.0 * d);
        let [gl, gh] = a.gradients(gs, gz);
        assert!((gl - by_low).abs() < 1e-6 && (gh - by_high).abs() < 1e-6, "{gl} {by_low}, {gh} {by_high}");
    }

    /// The first step of Adam is the rate: each end moves by that share of itself. A smaller scale draws both in, a smaller zero
    /// point moves both up.
    #[test]
    fn ends_move_by_shares() {
        let a = Affine { scale: 1.0, zero: 244.0, codes: U8 };
        for (gradients, expected) in [([1.0, 0.0], [-122.0, 5.5]), ([0.0, 1.0], [-122.0, 16.5])] {
            let (mut low, mut high) = ([[0.0f32]; 2], [[0.0f32]; 2]);
            let ([l1, l2], [h1, h2]) = (&mut low, &mut high);
            let b = a.step(&AdamW::default(), (1, 0.5), gradients, [(l1, l2), (h1, h2)]);
            for (end, expected) in b.ends().iter().zip(expected) {
                assert!((end - expected).abs() < 1e-3, "{gradients:?}: {:?}", b.ends());
            }
        }
    }

    /// Gradients whose squares are 0 in f32 move nothing far.
    #[test]
    fn small_gradients_are_no_leaps() {
        let a = Affine { scale: 1.0, zero: 100.0, codes: U8 };
        for g in [1e-20, 1e-25, 1e-30, 1e-38] {
            let (mut low, mut high) = ([[0.0f32]; 2], [[0.0f32]; 2]);
            let ([l1, l2], [h1, h2]) = (&mut low, &mut high);
            let b = a.step(&AdamW::default(), (1, 0.01), [g, 0.0], [(l1, l2), (h1, h2)]);
            assert!((b.scale - 1.0).abs() <= 0.0101, "{g}: {b:?}");
        }
    }

    #[test]
    fn the_range_keeps_zero_and_a_width() {
        let mut a = Affine { scale: 1e-6, zero: 0.0, codes: U8 };
        let (mut low, mut high) = ([[0.0f32]; 2], [[0.0f32]; 2]);
        for t in 1..200 {
            let ([l1, l2], [h1, h2]) = (&mut low, &mut high);
            a = a.step(&AdamW::default(), (t, 0.5), [1.0, 1.0], [(l1, l2), (h1, h2)]);
        }
        let [low, high] = a.ends();
        assert!(low <= 0.0 && high >= 0.0 && a.scale >= f32::EPSILON && a.scale.is_finite() && a.zero.is_finite());
    }
}
