//! Speed and memory, as ratios to what the machine can do.
//!
//! Limits are measured in the same run by loops that do nothing else ([`limits`]): the rate at which memory is read, and
//! the rate of multiply-adds in registers. A model's speed ([`model()`]) stands beside the bytes and operations that its
//! program needs ([`Work`]); an export ([`export()`]) beside a copy of the file that it writes.

mod export;
mod machine;
mod model;
mod trace;
mod work;

pub use export::{ExportBench, export};
pub use machine::{DEFAULT_READ_MIB, Limits, limits};
pub use model::{ModelBench, ModelPlan, OperatorTime, Profile, Test, ThreadBench, TraceSpan, model};
pub use trace::chrome_trace;
pub use work::{Work, WorkCounter};

/// The middle of some values, or the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match (values.get(n / 2), values.get(n.wrapping_sub(1) / 2)) {
        (Some(a), Some(b)) => (a + b) / 2.0,
        _ => 0.0,
    }
}

/// The mean; 0 of none.
fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of a sample; 0 of fewer than two.
fn stddev(values: &[f64]) -> f64 {
    let m = mean(values);
    let squares: f64 = values.iter().map(|v| (v - m) * (v - m)).sum();
    if values.len() < 2 { 0.0 } else { (squares / (values.len() - 1) as f64).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::{mean, median, stddev};

    #[test]
    fn means_and_deviations() {
        assert_eq!((mean(&[]), stddev(&[]), stddev(&[7.0])), (0.0, 0.0, 0.0));
        assert_eq!((mean(&[1.0, 2.0, 3.0, 4.0]), stddev(&[1.0, 3.0])), (2.5, 2f64.sqrt()));
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
