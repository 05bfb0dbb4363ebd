//! A histogram that shards can fill: its range is fixed in a first pass, its counts are integers.

use pteron_kernels::Context;

use super::histogram::{count, finite};
use crate::error::{ObserveError, TensorLabel};

/// Pteron's histogram. The first pass over the data finds the range; [`ShardableHistogram::fix_range`] ends it, and a second
/// pass over the same data counts. Ranges of shards merge as ranges, counts as integers, so that the result depends neither on
/// the order of the data nor on how they were divided.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardableHistogram {
    bins: usize,
    range: Option<(f32, f32)>,
    counts: Option<Vec<u64>>,
}

impl ShardableHistogram {
    pub(crate) fn new(bins: usize) -> ShardableHistogram {
        ShardableHistogram { bins, range: None, counts: None }
    }

    /// `None` if the counts are not one for each bin.
    pub(crate) fn from_parts(bins: usize, range: Option<(f32, f32)>, counts: Option<Vec<u64>>) -> Option<Self> {
        let fits = counts.as_ref().is_none_or(|c| c.len() == bins && range.is_some());
        fits.then_some(ShardableHistogram { bins, range, counts })
    }

    /// Number of bins.
    pub fn bins(&self) -> usize {
        self.bins
    }

    /// Least and largest finite value.
    pub fn range(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// True in the second pass.
    pub fn is_counting(&self) -> bool {
        self.counts.is_some()
    }

    /// The counts as integers; `None` in the first pass.
    pub fn integer_counts(&self) -> Option<&[u64]> {
        self.counts.as_deref()
    }

    /// Ends the first pass, with the range of all shards, which must hold that of this one.
    ///
    /// # Errors
    /// If the range is not finite or does not hold what was seen, or the second pass has begun.
    pub fn fix_range(&mut self, label: &TensorLabel, min: f32, max: f32) -> Result<(), ObserveError> {
        let error = |problem| Err(ObserveError::HistogramPass { label: label.clone(), problem });
        if self.is_counting() {
            return error("has its range already");
        }
        if !(min.is_finite() && max.is_finite() && min <= max) {
            return error("was given a range that is not finite");
        }
        if self.range.is_some_and(|(low, high)| low < min || high > max) {
            return error("was given a range that does not hold what it saw");
        }
        self.range = Some((min, max));
        self.counts = Some(vec![0; self.bins]);
        Ok(())
    }

    pub(super) fn add(
        &mut self,
        label: &TensorLabel,
        low: f32,
        high: f32,
        data: &[f32],
        ctx: Option<&Context>,
    ) -> Result<(), ObserveError> {
        let Some((data, low, high)) = finite(low, high, data) else {
            return Ok(());
        };
        match (&mut self.counts, self.range) {
            (Some(counts), Some((min, max))) => {
                if low < min || high > max {
                    let problem = "saw a value beyond its range: the second pass must see the data of the first";
                    return Err(ObserveError::HistogramPass { label: label.clone(), problem });
                }
                count(label, &data, min, max, counts, ctx)
            }
            (_, None) => {
                self.range = Some((low, high));
                Ok(())
            }
            (None, Some((min, max))) => {
                self.range = Some((min.min(low), max.max(high)));
                Ok(())
            }
        }
    }

    /// The counts for the search.
    pub(super) fn counts(&self, label: &TensorLabel) -> Result<Vec<f32>, ObserveError> {
        let error = |problem| ObserveError::HistogramPass { label: label.clone(), problem };
        let counts =
            self.counts.as_ref().ok_or_else(|| error("has a range and no counts: the second pass is missing"))?;
        if counts.iter().all(|&c| c == 0) {
            return Err(error("counted nothing: the second pass saw no data"));
        }
        Ok(counts.iter().map(|&c| c as f32).collect())
    }

    /// Adds what another shard has learnt in the same pass.
    ///
    /// # Errors
    /// A sentence, if the passes, the bins or (in the second pass) the ranges differ, or a count overflows.
    pub(crate) fn merge(&mut self, other: &ShardableHistogram) -> Result<(), &'static str> {
        if self.bins != other.bins {
            return Err("the numbers of bins differ");
        }
        match (&mut self.counts, &other.counts) {
            (None, None) => {
                self.range = match (self.range, other.range) {
                    (Some((a, b)), Some((c, d))) => Some((a.min(c), b.max(d))),
                    (a, b) => a.or(b),
                };
                Ok(())
            }
            (Some(mine), Some(theirs)) if self.range == other.range => {
                for (a, b) in mine.iter_mut().zip(theirs) {
                    *a = a.checked_add(*b).ok_or("a count overflows")?;
                }
                Ok(())
            }
            (Some(_), Some(_)) => Err("the ranges that were fixed differ"),
            _ => Err("one is of the pass that finds the range, the other of the pass that counts"),
        }
    }
}
