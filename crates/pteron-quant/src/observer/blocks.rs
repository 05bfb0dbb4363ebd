//! Least and largest value of each block of a tensor; a channel is a block with one index of its axis.

use pteron_kernels::quant::qparams::aminmax;

use super::positive_zero;

/// Ranges of the blocks of a tensor, in row-major order of the blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockRanges {
    block: Vec<usize>,
    grid: Vec<usize>,
    min: Vec<f32>,
    max: Vec<f32>,
}

/// A row along the last axis: where its blocks' ranges stand.
struct Rows<'a> {
    shape: &'a [usize],
    block: &'a [usize],
    grid: &'a [usize],
}

impl Rows<'_> {
    /// Calls `f` with each row of `data` and the index of its first block.
    fn each(&self, data: &[f32], mut f: impl FnMut(&[f32], usize)) {
        let rank = self.shape.len();
        let last = self.shape.last().copied().unwrap_or(1);
        let mut index = vec![0usize; rank.saturating_sub(1)];
        for row in data.chunks_exact(last.max(1)) {
            let mut at = 0;
            for d in 0..index.len() {
                at = at * self.grid[d] + index[d] / self.block[d];
            }
            f(row, at * self.grid.last().copied().unwrap_or(1));
            for d in (0..index.len()).rev() {
                index[d] += 1;
                if index[d] < self.shape[d] {
                    break;
                }
                index[d] = 0;
            }
        }
    }
}

impl BlockRanges {
    /// The ranges of blocks of sizes `block`, which tile `shape`, in contiguous `data`. A NaN makes its block's range NaN.
    pub(crate) fn of(shape: &[usize], block: &[usize], data: &[f32]) -> BlockRanges {
        let grid: Vec<usize> = shape.iter().zip(block).map(|(s, b)| s / (*b).max(1)).collect();
        let count = grid.iter().product();
        let (mut min, mut max) = (vec![f32::INFINITY; count], vec![f32::NEG_INFINITY; count]);
        let mut nan = vec![false; count];
        let last = block.last().copied().unwrap_or(1).max(1);
        Rows { shape, block, grid: &grid }.each(data, |row, first| {
            let (mins, maxs) = (&mut min[first..], &mut max[first..]);
            let nans = &mut nan[first..];
            if last == 1 {
                for (((lo, hi), nan), &v) in mins.iter_mut().zip(maxs).zip(nans).zip(row) {
                    *lo = if v < *lo { v } else { *lo };
                    *hi = if v > *hi { v } else { *hi };
                    *nan |= v.is_nan();
                }
                return;
            }
            for (i, part) in row.chunks_exact(last).enumerate() {
                if let Some((lo, hi)) = aminmax(part) {
                    nans[i] |= lo.is_nan();
                    mins[i] = mins[i].min(lo);
                    maxs[i] = maxs[i].max(hi);
                }
            }
        });
        for i in 0..count {
            (min[i], max[i]) =
                if nan[i] { (f32::NAN, f32::NAN) } else { (positive_zero(min[i]), positive_zero(max[i])) };
        }
        BlockRanges { block: block.to_vec(), grid, min, max }
    }

    /// Ranges read from a file; `None` if the parts do not belong together.
    pub(crate) fn from_parts(block: Vec<usize>, grid: Vec<usize>, min: Vec<f32>, max: Vec<f32>) -> Option<BlockRanges> {
        let count = grid.iter().try_fold(1usize, |n, &g| n.checked_mul(g))?;
        (block.len() == grid.len() && min.len() == count && max.len() == count).then_some(BlockRanges {
            block,
            grid,
            min,
            max,
        })
    }

    /// Sizes of a block, one for each axis of the tensor.
    pub fn block_size(&self) -> &[usize] {
        &self.block
    }

    /// Number of blocks along each axis of the tensor.
    pub fn grid(&self) -> &[usize] {
        &self.grid
    }

    /// Least value of each block.
    pub fn min(&self) -> &[f32] {
        &self.min
    }

    /// Largest value of each block.
    pub fn max(&self) -> &[f32] {
        &self.max
    }

    pub(crate) fn parts_mut(&mut self) -> (&mut [f32], &mut [f32]) {
        (&mut self.min, &mut self.max)
    }

    /// Least and largest value, block by block.
    pub fn pairs(&self) -> impl Iterator<Item = (f32, f32)> {
        self.min.iter().copied().zip(self.max.iter().copied())
    }

    pub(crate) fn has_nan(&self) -> bool {
        self.min.iter().any(|v| v.is_nan())
    }

    /// Checks that `other` has the same blocks.
    pub(crate) fn check_like(&self, other: &BlockRanges) -> Result<(), String> {
        match (&self.grid, &self.block) == (&other.grid, &other.block) {
            true => Ok(()),
            false => Err(format!(
                "earlier steps had {:?} blocks of {:?}, this one has {:?} of {:?}",
                self.grid, self.block, other.grid, other.block
            )),
        }
    }

    /// Widens each range to hold that of `other`.
    pub(crate) fn widen(&mut self, other: &BlockRanges) -> Result<(), String> {
        self.check_like(other)?;
        for (a, b) in self.min.iter_mut().zip(&other.min) {
            *a = a.min(*b);
        }
        for (a, b) in self.max.iter_mut().zip(&other.max) {
            *a = a.max(*b);
        }
        Ok(())
    }

    /// The moving averages of the steps' ranges.
    pub(crate) fn moving_average(constant: f32, steps: &[BlockRanges]) -> Option<BlockRanges> {
        let (first, rest) = steps.split_first()?;
        let mut out = first.clone();
        for step in rest {
            for (m, now) in out.min.iter_mut().zip(&step.min).chain(out.max.iter_mut().zip(&step.max)) {
                *m += constant * (now - *m);
            }
        }
        Some(out)
    }
}
