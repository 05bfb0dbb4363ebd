//! The one loop nest under all kernels: rows of up to four operands with strides.

use std::ops::{Deref, DerefMut, Range};

use pteron_tensor::Shape;

/// Most operands of one nest.
pub(crate) const OPERANDS: usize = 4;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dim {
    pub(crate) size: usize,
    pub(crate) strides: [usize; OPERANDS],
}

/// A list that needs no memory of its own while it is short.
#[derive(Debug, Default)]
struct Dims {
    few: [Dim; 6],
    len: usize,
    /// All of them, once there are more than `few` holds.
    many: Vec<Dim>,
}

impl Dims {
    fn push(&mut self, dim: Dim) {
        if let Some(place) = self.few.get_mut(self.len).filter(|_| self.many.is_empty()) {
            *place = dim;
        } else {
            if self.many.is_empty() {
                self.many.extend_from_slice(&self.few);
            }
            self.many.push(dim);
        }
        self.len += 1;
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.many.truncate(len);
    }
}

impl Deref for Dims {
    type Target = [Dim];
    fn deref(&self) -> &[Dim] {
        if self.many.is_empty() { &self.few[..self.len] } else { &self.many }
    }
}

impl DerefMut for Dims {
    fn deref_mut(&mut self) -> &mut [Dim] {
        if self.many.is_empty() { &mut self.few[..self.len] } else { &mut self.many }
    }
}

/// Dimensions of equal extent for several operands, merged where all of them lie without gaps. Strides are in elements
/// and may be negative as two's complement.
#[derive(Debug)]
pub(crate) struct Nest {
    dims: Dims,
    total: usize,
}

impl Nest {
    /// A nest over `sizes`; each operand has as many strides. With `reorder` the dimensions follow the memory order of
    /// operand 0, otherwise the order given.
    pub(crate) fn new(sizes: &[usize], operands: &[&[usize]], reorder: bool) -> Nest {
        if sizes.contains(&0) {
            let mut dims = Dims::default();
            dims.push(Dim { size: 0, strides: [1; OPERANDS] });
            return Nest { dims, total: 0 };
        }
        let total = sizes.iter().fold(1usize, |n, &s| n.saturating_mul(s));
        let mut dims = Dims::default();
        for (d, &size) in sizes.iter().enumerate().filter(|&(_, &s)| s != 1) {
            let mut strides = [0; OPERANDS];
            for (s, o) in strides.iter_mut().zip(operands) {
                *s = o[d];
            }
            dims.push(Dim { size, strides });
        }
        if reorder {
            dims.sort_by_key(|d| std::cmp::Reverse(d.strides[0]));
        }
        // Merged in place: the first `kept` are done.
        let mut kept = 0usize;
        for i in 0..dims.len() {
            let d = dims[i];
            match kept.checked_sub(1).map(|last| &mut dims[last]) {
                Some(outer) if (0..OPERANDS).all(|k| outer.strides[k] == d.strides[k].wrapping_mul(d.size)) => {
                    *outer = Dim { size: outer.size.saturating_mul(d.size), strides: d.strides };
                }
                _ => {
                    dims[kept] = d;
                    kept += 1;
                }
            }
        }
        dims.truncate(kept);
        if kept == 0 {
            dims.push(Dim { size: 1, strides: [1; OPERANDS] });
        }
        Nest { dims, total }
    }

    /// Number of positions.
    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// The merged dimensions, outermost first; at least one.
    pub(crate) fn dims(&self) -> &[Dim] {
        &self.dims
    }

    /// Strides of the innermost dimension.
    pub(crate) fn inner(&self) -> [usize; OPERANDS] {
        self.dims[self.dims.len() - 1].strides
    }

    /// True if operand 0 takes the positions `0..total` in the nest's order.
    pub(crate) fn is_dense(&self) -> bool {
        let mut expected = 1;
        self.dims.iter().rev().all(|d| {
            let ok = d.strides[0] == expected;
            expected *= d.size;
            ok
        })
    }

    /// Calls `f(positions, length)` for the rows of flat range `range`.
    pub(crate) fn rows(&self, range: Range<usize>, mut f: impl FnMut([usize; OPERANDS], usize)) {
        let end = range.end.min(self.total);
        if range.start >= end {
            return;
        }
        let (outer, inner) = self.dims.split_at(self.dims.len() - 1);
        let inner = inner[0];
        let mut col = range.start % inner.size;
        let mut flat = range.start / inner.size;
        let mut base = [0usize; OPERANDS];
        let mut index = Shape::from_elem(0, outer.len());
        let index = &mut index[..];
        for (i, d) in index.iter_mut().zip(outer).rev() {
            *i = flat % d.size;
            flat /= d.size;
            for k in 0..OPERANDS {
                base[k] = base[k].wrapping_add(i.wrapping_mul(d.strides[k]));
            }
        }
        let mut done = range.start;
        loop {
            let len = (inner.size - col).min(end - done);
            let at: [usize; OPERANDS] =
                std::array::from_fn(|k| base[k].wrapping_add(col.wrapping_mul(inner.strides[k])));
            f(at, len);
            done += len;
            if done >= end {
                return;
            }
            col = 0;
            for (i, d) in index.iter_mut().zip(outer).rev() {
                *i += 1;
                for k in 0..OPERANDS {
                    base[k] = base[k].wrapping_add(d.strides[k]);
                }
                if *i < d.size {
                    break;
                }
                for k in 0..OPERANDS {
                    base[k] = base[k].wrapping_sub(d.size.wrapping_mul(d.strides[k]));
                }
                *i = 0;
            }
        }
    }

    /// Calls `f(positions)` for every position.
    pub(crate) fn each(&self, mut f: impl FnMut([usize; OPERANDS])) {
        let step = self.inner();
        self.rows(0..self.total, |at, len| {
            for j in 0..len {
                f(std::array::from_fn(|k| at[k].wrapping_add(j.wrapping_mul(step[k]))));
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contiguous_dimensions_merge() {
        let n = Nest::new(&[2, 3, 4], &[&[12, 4, 1], &[12, 4, 1]], true);
        assert_eq!(n.dims.len(), 1);
        assert!(n.is_dense());
        let n = Nest::new(&[2, 3, 4], &[&[12, 1, 3]], true);
        assert_eq!(n.dims.len(), 1);
        let n = Nest::new(&[2, 3, 4], &[&[12, 1, 3]], false);
        assert_eq!(n.dims.len(), 3);
        assert!(!n.is_dense());
    }

    #[test]
    fn a_range_meets_each_position_once() {
        let n = Nest::new(&[3, 2, 5], &[&[20, 10, 1], &[0, 5, 1]], false);
        let mut whole = Vec::new();
        n.each(|at| whole.push(at));
        assert_eq!(whole.len(), 30);
        for cut in 0..=30 {
            let mut parts = Vec::new();
            let step = n.inner();
            for r in [0..cut, cut..30] {
                n.rows(r, |at, len| {
                    for j in 0..len {
                        parts.push(std::array::from_fn(|k| at[k] + j * step[k]));
                    }
                });
            }
            assert_eq!(parts, whole);
        }
    }

    #[test]
    fn many_dimensions() {
        let sizes = [2; 9];
        let own: Vec<usize> = (0..9).map(|d| 3 << d).collect();
        let mut seen = Vec::new();
        let nest = Nest::new(&sizes, &[&own], true);
        nest.each(|at| seen.push(at[0]));
        assert_eq!(nest.dims().len(), 1);
        assert_eq!(seen, (0..512).map(|i| 3 * i).collect::<Vec<_>>());
        let mixed: Vec<usize> = (0..9).map(|d| 1 << [3, 1, 5, 0, 8, 2, 7, 4, 6][d]).collect();
        let nest = Nest::new(&sizes, &[&mixed], false);
        assert!(nest.dims().len() > 6);
        seen.clear();
        nest.each(|at| seen.push(at[0]));
        seen.sort_unstable();
        assert_eq!(seen, (0..512).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_and_one() {
        let mut count = 0;
        Nest::new(&[3, 0], &[&[1, 1]], true).each(|_| count += 1);
        assert_eq!(count, 0);
        Nest::new(&[], &[&[]], true).each(|at| {
            assert_eq!(at[0], 0);
            count += 1;
        });
        assert_eq!(count, 1);
    }
}
