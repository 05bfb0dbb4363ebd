//! How the values of a tensor are spread.

/// Bins of a [`Histogram`], over a range that is the same on both sides of 0.
const BINS: usize = 512;

/// Counts of values in bins of one width. The range is a power of two and grows with the data; bins are then joined in pairs,
/// so that the counts are exact, whatever the order of the data.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Exponent of two: values lie in `-2ᵉ..2ᵉ`.
    exponent: i32,
    min: f32,
    max: f32,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; BINS], exponent: -20, min: f32::INFINITY, max: f32::NEG_INFINITY }
    }
}

impl Histogram {
    /// Counts the finite ones of `values`.
    pub fn add(&mut self, values: &[f32]) {
        let finite = values.iter().filter(|v| v.is_finite());
        let (min, max) = finite.clone().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
        if min > max {
            return;
        }
        self.min = self.min.min(min);
        self.max = self.max.max(max);
        let most = f64::from(min.abs().max(max.abs()));
        while 2f64.powi(self.exponent) <= most {
            self.widen();
        }
        let scale = (BINS / 2) as f64 / 2f64.powi(self.exponent);
        for &v in finite {
            let bin = (f64::from(v) * scale).floor() as i64 + (BINS / 2) as i64;
            self.counts[usize::try_from(bin).unwrap_or(0).min(BINS - 1)] += 1;
        }
    }

    fn widen(&mut self) {
        let mut joined = vec![0u64; BINS];
        for (i, pair) in self.counts.chunks_exact(2).enumerate() {
            joined[BINS / 4 + i] = pair[0] + pair[1];
        }
        self.counts = joined;
        self.exponent += 1;
    }

    /// The smallest and the largest value; `None` before any.
    pub fn range(&self) -> Option<(f32, f32)> {
        (self.min <= self.max).then_some((self.min, self.max))
    }

    /// The bins between the smallest and the largest value: where the first begins, their width, and the counts.
    pub fn bins(&self) -> (f64, f64, &[u64]) {
        let width = 2f64.powi(self.exponent) / (BINS / 2) as f64;
        let first = self.counts.iter().position(|c| *c > 0).unwrap_or(0);
        let last = self.counts.iter().rposition(|c| *c > 0).map_or(first, |l| l + 1);
        ((first as f64 - (BINS / 2) as f64) * width, width, &self.counts[first..last])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_data_changes_nothing() {
        let values: Vec<f32> =
            (0..4000).map(|i| ((i * 37 % 997) as f32 - 400.0) * 0.01 * (1.0 + (i % 7) as f32)).collect();
        let mut whole = Histogram::default();
        whole.add(&values);
        let mut pieces = Histogram::default();
        values.rchunks(17).for_each(|c| pieces.add(c));
        assert_eq!(whole, pieces);
        let (first, width, counts) = whole.bins();
        assert_eq!(counts.iter().sum::<u64>(), 4000);
        let (min, max) = whole.range().unwrap();
        assert!(first <= f64::from(min) && f64::from(min) < first + width);
        let end = first + width * counts.len() as f64;
        assert!(f64::from(max) < end && f64::from(max) >= end - width);
        let below = values.iter().filter(|v| f64::from(**v) < first + 3.0 * width).count() as u64;
        assert_eq!(counts[..3].iter().sum::<u64>(), below);
    }

    #[test]
    fn what_is_no_number_is_left_out() {
        let mut h = Histogram::default();
        h.add(&[f32::NAN, f32::INFINITY]);
        assert_eq!(h.range(), None);
        h.add(&[0.0, -1.0, f32::NEG_INFINITY]);
        assert_eq!((h.range(), h.bins().2.iter().sum::<u64>()), (Some((-1.0, 0.0)), 2));
    }
}
