//! Speed and memory, as ratios to what the machine can do.
//!
//! Limits are measured in the same run by loops that do nothing else ([`limits`]): the rate at which memory is read, and
//! the rate of multiply-adds in registers. A model's speed ([`model()`]) stands beside the bytes and operations that its
//! program needs ([`Work`]); an export ([`export()`]) beside a copy of the file that it writes.

mod export;
mod machine;
mod model;
mod work;

pub use export::{ExportBench, export};
pub use machine::{DEFAULT_READ_MIB, Limits, limits};
pub use model::{Decode, ModelBench, ModelPlan, OperatorTime, Prefill, Profile, ThreadBench, model};
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

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), 0.0);
        assert_eq!(median(vec![3.0]), 3.0);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
    }
}
