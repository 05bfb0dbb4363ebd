//! Named classes by which results are compared.

use std::fmt;

/// How far a result may lie from what is expected.
///
/// `|actual - expected| <= abs + rel·|expected| + of_max·max|expected|`. NaN equals NaN only, infinities only themselves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    /// The class's name in messages.
    pub name: &'static str,
    /// Absolute part.
    pub abs: f64,
    /// Part relative to each expected element.
    pub rel: f64,
    /// Part relative to the largest expected magnitude.
    pub of_max: f64,
}

impl Tolerance {
    /// Bit for bit (up to the sign of zero): integers, booleans, copies.
    pub const EXACT: Tolerance = Tolerance { name: "exact", abs: 0.0, rel: 0.0, of_max: 0.0 };
    /// An f32 program against ExecuTorch's recorded output: 1e-5 of the largest magnitude.
    pub const GOLDEN_F32: Tolerance = Tolerance { name: "golden-f32", abs: 0.0, rel: 0.0, of_max: 1e-5 };
    /// The same function computed in another order over a whole model: 1e-4 of the largest magnitude.
    pub const REORDERED_MODEL_F32: Tolerance =
        Tolerance { name: "reordered-model-f32", abs: 0.0, rel: 0.0, of_max: 1e-4 };
    /// One f32 kernel against the scalar one, sums reassociated.
    pub const KERNEL_F32: Tolerance = Tolerance { name: "kernel-f32", abs: 1e-6, rel: 1e-5, of_max: 1e-6 };
    /// One f16 kernel, result rounded to f16.
    pub const KERNEL_F16: Tolerance = Tolerance { name: "kernel-f16", abs: 1e-4, rel: 2e-3, of_max: 1e-3 };
    /// One bf16 kernel, result rounded to bf16.
    pub const KERNEL_BF16: Tolerance = Tolerance { name: "kernel-bf16", abs: 1e-3, rel: 1.6e-2, of_max: 8e-3 };

    /// Compares element by element.
    ///
    /// # Errors
    /// The worst [`Mismatch`] if any element is out of tolerance, or one that tells the lengths apart.
    pub fn check(&self, expected: &[f64], actual: &[f64]) -> Result<(), Mismatch> {
        if expected.len() != actual.len() {
            return Err(Mismatch {
                class: self.name,
                index: None,
                expected: expected.len() as f64,
                actual: actual.len() as f64,
                allowed: 0.0,
                count: 1,
            });
        }
        let max = expected.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
        let mut worst: Option<(f64, Mismatch)> = None;
        let mut count = 0;
        for (i, (&e, &a)) in expected.iter().zip(actual).enumerate() {
            let allowed = self.abs + self.rel * e.abs() + self.of_max * max;
            let same = e == a || (e.is_nan() && a.is_nan());
            let diff = (a - e).abs();
            if same || (e.is_finite() && diff <= allowed) {
                continue;
            }
            count += 1;
            let badness = if diff.is_nan() { f64::INFINITY } else { diff };
            if worst.as_ref().is_none_or(|(b, _)| badness > *b) {
                let m = Mismatch { class: self.name, index: Some(i), expected: e, actual: a, allowed, count: 0 };
                worst = Some((badness, m));
            }
        }
        match worst {
            None => Ok(()),
            Some((_, m)) => Err(Mismatch { count, ..m }),
        }
    }
}

/// Two results that differ by more than a [`Tolerance`] allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// Name of the class.
    pub class: &'static str,
    /// Worst element; `None` if the lengths differ.
    pub index: Option<usize>,
    /// Expected value, or length.
    pub expected: f64,
    /// Value found, or length.
    pub actual: f64,
    /// Largest difference allowed there.
    pub allowed: f64,
    /// Number of elements out of tolerance.
    pub count: usize,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.index {
            None => write!(f, "expected {} elements, found {}", self.expected, self.actual),
            Some(i) => write!(
                f,
                "{} elements out of tolerance `{}`; the worst is element {i}: expected {:e}, found {:e}, allowed ±{:e}",
                self.count, self.class, self.expected, self.actual, self.allowed
            ),
        }
    }
}

impl std::error::Error for Mismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_compare_as_they_say() {
        assert!(Tolerance::EXACT.check(&[1.0, f64::NAN], &[1.0, f64::NAN]).is_ok());
        assert!(Tolerance::EXACT.check(&[1.0], &[1.0 + 1e-15]).is_err());
        assert!(Tolerance::GOLDEN_F32.check(&[1.0, 100.0], &[1.0009, 100.0]).is_ok());
        assert!(Tolerance::GOLDEN_F32.check(&[1.0, 100.0], &[1.0011, 100.0]).is_err());
        assert!(Tolerance::GOLDEN_F32.check(&[1.0], &[f64::NAN]).is_err());
        assert!(Tolerance::GOLDEN_F32.check(&[f64::INFINITY], &[1e300]).is_err());
        assert!(Tolerance::GOLDEN_F32.check(&[1.0], &[]).is_err());
    }
}
