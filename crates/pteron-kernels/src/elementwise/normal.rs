//! The normal distribution, for which `std` has no function.

/// `Φ(x) = erfc(-x/√2)/2`, the probability that a normal variable is below `x`; relative to the smaller of it and `1 - Φ` to
/// about 1e-10.
///
/// With `a = |x|/√2`: below 3 through the series of positive terms `erf(a) = 2/√π · e^(-a²) · Σ 2ⁿ a^(2n+1)/(2n+1)!!`
/// (DLMF 7.6.2); above, the continued fraction of erfc (DLMF 7.9.1) evaluated from its tail.
pub(crate) fn normal_cdf(x: f64) -> f64 {
    if x.is_nan() {
        return x;
    }
    let a = x.abs() * std::f64::consts::FRAC_1_SQRT_2;
    let density = std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp();
    let erfc = if a < 3.0 {
        let (mut term, mut sum, mut n) = (a, a, 1.0);
        while term > sum * 1e-17 {
            term *= 2.0 * a * a / (2.0 * n + 1.0);
            sum += term;
            n += 1.0;
        }
        1.0 - density * sum
    } else {
        let mut tail = 0.0;
        for k in (1..=60).rev() {
            tail = f64::from(k) / 2.0 / (a + tail);
        }
        density / 2.0 / (a + tail)
    };
    if x < 0.0 { erfc / 2.0 } else { 1.0 - erfc / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::normal_cdf;

    #[test]
    fn known_values() {
        // Values of erf and erfc as in DLMF's tables and their like, to the digits given.
        for (a, erf) in [
            (0.0, 0.0),
            (0.1, 0.112462916018285),
            (0.5, 0.520499877813047),
            (1.0, 0.842700792949715),
            (2.0, 0.995322265018953),
            (2.999, 0.999977769574),
            (3.001, 0.999978048025),
            (4.0, 0.999999984582742),
        ] {
            let x = a * std::f64::consts::SQRT_2;
            assert!((2.0 * normal_cdf(x) - 1.0 - erf).abs() < 1e-9, "{a}");
            assert!((normal_cdf(-x) + normal_cdf(x) - 1.0).abs() < 1e-15, "{a}");
        }
        for (a, erfc) in [(2.0, 4.677_734_981_047_3e-3), (4.0, 1.541_725_790_028e-8), (6.0, 2.151_973_671_25e-17)] {
            let tail = 2.0 * normal_cdf(-a * std::f64::consts::SQRT_2);
            assert!((tail - erfc).abs() < 1e-9 * erfc, "{a}: {tail:e}");
        }
        let near = 3.0 * std::f64::consts::SQRT_2;
        assert!((normal_cdf(-near * (1.0 - 1e-13)) / normal_cdf(-near) - 1.0).abs() < 1e-9);
        assert_eq!([f64::INFINITY, f64::NEG_INFINITY, 0.0].map(normal_cdf), [1.0, 0.0, 0.5]);
        assert!(normal_cdf(f64::NAN).is_nan());
    }
}
