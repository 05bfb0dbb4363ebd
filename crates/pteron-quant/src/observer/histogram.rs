//! PyTorch's histogram whose range grows with the data (`HistogramObserver`).

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use pteron_kernels::Context;
use pteron_kernels::quant::qparams::aminmax;
use pteron_kernels::quant::wide;

use super::{positive_zero, torch_sum};
use crate::error::{ObserveError, TensorLabel};

/// Elements that are counted at a time.
const PIECE: usize = 1 << 16;

/// Sub-bins that an old bin is cut into when its histogram moves to a wider range.
const UPSAMPLE: usize = 16;

/// Counts over a range that grows with the data. What it holds depends on the order of the steps.
#[derive(Clone, Debug, PartialEq)]
pub struct GrowingHistogram {
    counts: Vec<f32>,
    range: Option<(f32, f32)>,
}

impl GrowingHistogram {
    /// An empty histogram.
    pub(crate) fn new(bins: usize) -> GrowingHistogram {
        GrowingHistogram { counts: vec![0.0; bins], range: None }
    }

    pub(crate) fn from_parts(counts: Vec<f32>, range: Option<(f32, f32)>) -> GrowingHistogram {
        GrowingHistogram { counts, range }
    }

    /// The counts of the bins, which have equal widths over the range; fractions arise when the range grows.
    pub fn counts(&self) -> &[f32] {
        &self.counts
    }

    /// Least and largest finite value seen; `None` before the first.
    pub fn range(&self) -> Option<(f32, f32)> {
        self.range
    }

    /// One step. `low` and `high` are the extremes of `data`; elements that are infinite are dropped.
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
        let bins = self.counts.len();
        let Some((old_low, old_high)) = self.range else {
            self.counts = histc(label, &data, bins, low, high, ctx)?;
            self.range = Some((low, high));
            return Ok(());
        };
        let (new_low, new_high) = (old_low.min(low), old_high.max(high));
        let mut counts = histc(label, &data, bins, new_low, new_high, ctx)?;
        if (new_low, new_high) == (old_low, old_high) {
            add(&mut counts, &self.counts);
        } else if old_low == old_high {
            // The old histogram is one point: all of it goes into the bin that holds the point.
            let mass = torch_sum::sum(&self.counts);
            let mut old = histc(label, &[old_low], bins, new_low, new_high, None)?;
            old.iter_mut().for_each(|c| *c *= mass);
            add(&mut counts, &old);
        } else {
            add(&mut counts, &rebin(&self.counts, (old_low, old_high), (new_low, new_high)));
        }
        self.counts = counts;
        self.range = Some((new_low, new_high));
        Ok(())
    }
}

/// The finite elements with their extremes; `None` if there are none.
pub(super) fn finite(low: f32, high: f32, data: &[f32]) -> Option<(Cow<'_, [f32]>, f32, f32)> {
    if low.is_finite() && high.is_finite() {
        return Some((Cow::Borrowed(data), low, high));
    }
    let kept: Vec<f32> = data.iter().copied().filter(|v| v.is_finite()).collect();
    let (low, high) = aminmax(&kept)?;
    Some((Cow::Owned(kept), positive_zero(low), positive_zero(high)))
}

fn add(to: &mut [f32], from: &[f32]) {
    for (a, b) in to.iter_mut().zip(from) {
        *a += b;
    }
}

/// `torch.histc`: counts of the elements in `bins` bins of equal width over `low..=high`.
fn histc(
    label: &TensorLabel,
    data: &[f32],
    bins: usize,
    low: f32,
    high: f32,
    ctx: Option<&Context>,
) -> Result<Vec<f32>, ObserveError> {
    let mut counts = vec![0u64; bins];
    count(label, data, low, high, &mut counts, ctx)?;
    Ok(counts.into_iter().map(|c| c as f32).collect())
}

/// Adds to `counts` how many elements fall into each bin over `low..=high`; a range of one point is widened by 1 on
/// both sides. Elements outside are not counted. On the threads of `ctx`, if there is one: counts are integers, so that it does
/// not matter who counts what.
pub(super) fn count(
    label: &TensorLabel,
    data: &[f32],
    low: f32,
    high: f32,
    counts: &mut [u64],
    ctx: Option<&Context>,
) -> Result<(), ObserveError> {
    let (left, right) = if low == high { (low - 1.0, high + 1.0) } else { (low, high) };
    let (bins, width) = (counts.len() as f32, right - left);
    if !(width * bins).is_finite() || width <= 0.0 {
        return Err(ObserveError::TooWide { label: label.clone(), min: low, max: high });
    }
    let add = |part: &[u32], counts: &mut [u64]| {
        counts.iter_mut().zip(part).for_each(|(c, p)| *c += u64::from(*p));
    };
    match ctx.filter(|c| c.pool().threads() > 1 && data.len() > PIECE) {
        None => data.chunks(PIECE).for_each(|part| add(&bins_of(part, left, right, counts.len()), counts)),
        Some(ctx) => {
            let pieces = data.len().div_ceil(PIECE);
            let found: Vec<Mutex<Vec<u32>>> = (0..pieces).map(|_| Mutex::new(Vec::new())).collect();
            ctx.pool().run(pieces, &|i| {
                let part = &data[i * PIECE..data.len().min((i + 1) * PIECE)];
                *found[i].lock().unwrap_or_else(PoisonError::into_inner) = bins_of(part, left, right, counts.len());
            });
            for part in found {
                add(&part.into_inner().unwrap_or_else(PoisonError::into_inner), counts);
            }
        }
    }
    Ok(())
}

/// Counts of a piece of the data.
fn bins_of(data: &[f32], left: f32, right: f32, bins: usize) -> Vec<u32> {
    // Neighbours often fall into the same bin: several tables keep their additions apart.
    let mut tables = vec![0u32; bins * TABLES];
    wide::run(Bins { data, left, right, bins, tables: &mut tables });
    let (first, others) = tables.split_at_mut(bins);
    for other in others.chunks_exact(bins) {
        first.iter_mut().zip(other).for_each(|(a, b)| *a += b);
    }
    tables.truncate(bins);
    tables
}

const TABLES: usize = 4;

struct Bins<'a> {
    data: &'a [f32],
    left: f32,
    right: f32,
    bins: usize,
    tables: &'a mut [u32],
}

impl wide::Loop for Bins<'_> {
    #[inline(always)]
    fn run(self) {
        // Bins are found a block at a time in a loop that the compiler turns into vectors.
        const BLOCK: usize = 64;
        let (bins, width, last) = (self.bins as f32, self.right - self.left, self.bins as i32 - 1);
        let mut bin = [0i32; BLOCK];
        for block in self.data.chunks(BLOCK) {
            for (b, &v) in bin.iter_mut().zip(block) {
                let at = ((v - self.left) * bins / width) as i32;
                *b = if v >= self.left && v <= self.right { at.min(last) } else { -1 };
            }
            for (i, &b) in bin[..block.len()].iter().enumerate() {
                if let Ok(b) = usize::try_from(b) {
                    self.tables[i % TABLES * self.bins + b] += 1;
                }
            }
        }
    }
}

/// `torch.linspace(from, to, steps)` at index `i`. ATen counts from the nearer end, and its compiler fuses the product
/// with the sum.
fn linspace(from: f32, to: f32, steps: usize, i: usize) -> f32 {
    let step = (to - from) / (steps - 1) as f32;
    match i < steps / 2 {
        true => step.mul_add(i as f32, from),
        false => (-step).mul_add((steps - i - 1) as f32, to),
    }
}

/// An old histogram over the new, wider range: each bin is cut into sixteen, and each of those goes to the bin where its
/// middle lies.
fn rebin(counts: &[f32], old: (f32, f32), new: (f32, f32)) -> Vec<f32> {
    let bins = counts.len();
    let fine = bins * UPSAMPLE;
    let half = 0.5 * ((old.1 - old.0) / fine as f32);
    let boundaries: Vec<f32> = (0..=bins).map(|i| linspace(new.0, new.1, bins + 1, i)).collect();
    let mut out = vec![0f32; bins];
    for i in 0..fine {
        let middle = linspace(old.0, old.1, fine + 1, i) + half;
        let above = boundaries.partition_point(|&b| b <= middle);
        let at = above.saturating_sub(1).min(bins - 1);
        out[at] += counts[i / UPSAMPLE] / UPSAMPLE as f32;
    }
    out
}
