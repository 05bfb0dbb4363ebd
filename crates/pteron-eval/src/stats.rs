//! Means with their standard errors, and quantiles.

use serde::Serialize;

/// A mean and its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The standard error of the mean: the sample's standard deviation over the square root of its size. Positions count
    /// as independent, as in llama.cpp's tool; those of one text are not quite.
    pub stderr: f64,
}

impl Estimate {
    /// Of `values`; NaN for none, an error of 0 for one.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Estimate {
        let (n, sum) = values.clone().fold((0u64, 0.0), |(n, s), v| (n + 1, s + v));
        let count = n as f64;
        let mean = sum / count;
        if n < 2 {
            return Estimate { mean, stderr: 0.0 };
        }
        let squares: f64 = values.map(|v| (v - mean) * (v - mean)).sum();
        Estimate { mean, stderr: (squares / (count - 1.0) / count).sqrt() }
    }

    /// The same of `f(value)`, by the first derivative: the error of `exp(mean)` is `exp(mean)` times the mean's.
    #[must_use]
    pub fn exp(self) -> Estimate {
        let mean = self.mean.exp();
        Estimate { mean, stderr: mean * self.stderr }
    }
}

/// What lies at certain ranks of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// The smallest value.
    pub min: f64,
    /// Half lie below it.
    pub median: f64,
    /// 90% lie below it.
    pub p90: f64,
    /// 95% lie below it.
    pub p95: f64,
    /// 99% lie below it.
    pub p99: f64,
    /// 99.9% lie below it.
    pub p99_9: f64,
    /// The largest value.
    pub max: f64,
}

impl Quantiles {
    /// Of `values`, by linear interpolation between neighbouring ranks; `None` for none. NaN counts as the largest.
    pub fn of(mut values: Vec<f64>) -> Option<Quantiles> {
        values.sort_by(f64::total_cmp);
        let (&min, &max) = values.first().zip(values.last())?;
        let at = |q: f64| {
            let place = q * (values.len() - 1) as f64;
            let (low, part) = (place.floor() as usize, place.fract());
            let value = |i: usize| values.get(i).copied().unwrap_or(max);
            if part == 0.0 { value(low) } else { value(low) * (1.0 - part) + value(low + 1) * part }
        };
        Some(Quantiles { min, median: at(0.5), p90: at(0.9), p95: at(0.95), p99: at(0.99), p99_9: at(0.999), max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_samples_deviation_over_the_root_of_its_size() {
        let e = Estimate::of([1.0, 2.0, 3.0, 4.0].into_iter());
        assert_eq!(e.mean, 2.5);
        // Sum of squares 5, over 3, over 4.
        assert!((e.stderr - (5.0f64 / 12.0).sqrt()).abs() < 1e-15);
        let of_exp = e.exp();
        assert!((of_exp.stderr / of_exp.mean - e.stderr).abs() < 1e-15);
        assert_eq!(Estimate::of([7.0].into_iter()), Estimate { mean: 7.0, stderr: 0.0 });
        assert!(Estimate::of(std::iter::empty()).mean.is_nan());
    }

    #[test]
    fn quantiles_lie_between_ranks() {
        let q = Quantiles::of((0..=100).map(f64::from).rev().collect()).unwrap();
        assert_eq!((q.min, q.median, q.p90, q.p99, q.max), (0.0, 50.0, 90.0, 99.0, 100.0));
        assert!((q.p99_9 - 99.9).abs() < 1e-9);
        assert_eq!(Quantiles::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert!(Quantiles::of(Vec::new()).is_none());
    }
}
