//! The one copy between any two layouts, and the checks that all kernels share.

use std::ops::Range;

use pteron_tensor::{DType, View, ViewMut, is_contiguous};

use crate::elementwise::compute::Compute;
use crate::elementwise::drive::{BLOCK, in_pieces, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::{Context, KernelError, KernelResult};

/// Bytes that one thread copies at a time.
const PIECE: usize = 128 * 1024;
/// Rows and columns of a block that is transposed at once: a cache line of 4-byte elements.
const TILE: usize = 16;

/// A copy of elements from one set of strides to another, to be run at any number of positions. Rows without gaps go as
/// one block of bytes; where rows of one become columns of the other, blocks that fit the cache are transposed; other dtypes
/// are converted through `f64` or `i64` (16-bit floats and `f32` through `f32`).
#[derive(Debug)]
pub(crate) struct Plan {
    nest: Nest,
    /// The last dimension but one has stride 1 in the source, and the last one in the output.
    transposes: bool,
}

/// Where a copy reads and writes: bytes, and the elements at which the nest's position 0 lies.
struct Sides<'a> {
    src: &'a [u8],
    from: usize,
    dst: &'a mut [u8],
    to: usize,
}

fn copy_rows<const W: usize>(nest: &Nest, range: Range<usize>, sides: Sides<'_>) {
    let Sides { src, from, dst, to } = sides;
    // One loop for each kind of row: the short ones are most of the work where rows are short.
    match nest.inner() {
        [1, 1, ..] => nest.rows(range, |at, len| {
            let (d, s) = (to.wrapping_add(at[0]), from.wrapping_add(at[1]));
            dst[d * W..(d + len) * W].copy_from_slice(&src[s * W..(s + len) * W]);
        }),
        [1, step, ..] => nest.rows(range, |at, len| {
            let (d, mut s) = (to.wrapping_add(at[0]), from.wrapping_add(at[1]));
            for o in dst[d * W..(d + len) * W].as_chunks_mut::<W>().0 {
                o.copy_from_slice(&src[s * W..s * W + W]);
                s = s.wrapping_add(step);
            }
        }),
        [step_to, step_from, ..] => nest.rows(range, |at, len| {
            let (mut d, mut s) = (to.wrapping_add(at[0]), from.wrapping_add(at[1]));
            for _ in 0..len {
                dst[d * W..d * W + W].copy_from_slice(&src[s * W..s * W + W]);
                d = d.wrapping_add(step_to);
                s = s.wrapping_add(step_from);
            }
        }),
    }
}

/// [`copy_rows`] of whole rows of a nest that transposes, row `i` of it being output row `i % size` of matrix `i / size`.
fn copy_transposed<const W: usize>(nest: &Nest, rows: Range<usize>, sides: Sides<'_>) {
    let Sides { src, from, dst, to } = sides;
    let &[ref outer @ .., row, col] = nest.dims() else { return };
    let mut done = rows.start;
    while done < rows.end {
        let first = done % row.size;
        let count = TILE.min(row.size - first).min(rows.end - done);
        let (mut d, mut s) = (to.wrapping_add(first.wrapping_mul(row.strides[0])), from.wrapping_add(first));
        let mut matrix = done / row.size;
        for dim in outer.iter().rev() {
            let i = matrix % dim.size;
            matrix /= dim.size;
            d = d.wrapping_add(i.wrapping_mul(dim.strides[0]));
            s = s.wrapping_add(i.wrapping_mul(dim.strides[1]));
        }
        let mut c = 0;
        while c < col.size {
            let n = TILE.min(col.size - c);
            let mut tile = [[[0u8; W]; TILE]; TILE];
            for (j, t) in tile[..n].iter_mut().enumerate() {
                let at = s.wrapping_add((c + j).wrapping_mul(col.strides[1])) * W;
                // A whole tile is copied as registers, not as memory of unknown length.
                if count == TILE {
                    t.copy_from_slice(src[at..at + TILE * W].as_chunks::<W>().0);
                } else {
                    t[..count].copy_from_slice(src[at..at + count * W].as_chunks::<W>().0);
                }
            }
            for i in 0..count {
                let at = d.wrapping_add(i.wrapping_mul(row.strides[0])).wrapping_add(c) * W;
                let out = dst[at..at + n * W].as_chunks_mut::<W>().0;
                if let Some(out) = out.first_chunk_mut::<TILE>() {
                    for j in 0..TILE {
                        out[j] = tile[j][i];
                    }
                } else {
                    for (o, t) in out.iter_mut().zip(&tile) {
                        *o = t[i];
                    }
                }
            }
            c += n;
        }
        done += count;
    }
}

fn convert<C: Compute>(nest: &Nest, range: Range<usize>, (a, b): (DType, DType), sides: Sides<'_>) {
    let Sides { src, from, dst, to } = sides;
    let [step_to, step_from, ..] = nest.inner();
    let mut buf = [C::default(); BLOCK];
    nest.rows(range, |at, len| {
        let mut done = 0usize;
        while done < len {
            let n = BLOCK.min(len - done);
            let s = from.wrapping_add(at[1]).wrapping_add(done.wrapping_mul(step_from));
            let d = to.wrapping_add(at[0]).wrapping_add(done.wrapping_mul(step_to));
            C::load(a, src, s, step_from, &mut buf[..n]);
            C::store(b, dst, d, step_to, &buf[..n]);
            done += n;
        }
    });
}

impl Plan {
    /// A copy of `sizes`. Strides may be negative as two's complement.
    pub(crate) fn new(sizes: &[usize], out_strides: &[usize], in_strides: &[usize]) -> Plan {
        let nest = Nest::new(sizes, &[out_strides, in_strides], true);
        let transposes = match nest.dims() {
            [.., row, col] => row.strides[1] == 1 && col.strides[0] == 1 && row.size > 1 && col.size > 1,
            _ => false,
        };
        Plan { nest, transposes }
    }

    /// Copies from element `from` of `src` to element `to` of `out`; the caller has checked that the region lies in both.
    pub(crate) fn run(&self, src: View<'_>, from: usize, out: &mut ViewMut<'_>, to: usize) {
        let dtypes = (src.dtype(), out.dtype());
        self.part(dtypes, 0..self.nest.total(), Sides { src: src.bytes(), from, dst: out.bytes_mut(), to });
    }

    /// [`Plan::run`] with the pool's threads where there is much to copy.
    pub(crate) fn run_on(&self, ctx: &Context, src: View<'_>, from: usize, out: &mut ViewMut<'_>, to: usize) {
        let (total, dtypes) = (self.nest.total(), (src.dtype(), out.dtype()));
        let width = out.dtype().bits() / 8;
        if total.saturating_mul(width) <= PIECE || ctx.pool().threads() == 1 || !self.nest.is_dense() {
            return self.run(src, from, out, to);
        }
        // Whole rows, and of those whole tiles, for a copy that transposes.
        let unit = match self.nest.dims() {
            [.., col] if self.transposes => col.size.saturating_mul(TILE),
            _ => 1,
        };
        let piece = (PIECE / width / unit).max(1).saturating_mul(unit);
        let bytes = &mut out.bytes_mut()[to * width..(to + total) * width];
        in_pieces(ctx, bytes, piece.saturating_mul(width), &|p, dst| {
            let first = p * piece;
            let range = first..first + dst.len() / width;
            self.part(dtypes, range, Sides { src: src.bytes(), from, dst, to: first.wrapping_neg() });
        });
    }

    /// The positions of flat range `range`; whole rows of them for a copy that transposes.
    fn part(&self, (a, b): (DType, DType), range: Range<usize>, sides: Sides<'_>) {
        if a == b {
            match a.bits() {
                8 => self.copy::<1>(range, sides),
                16 => self.copy::<2>(range, sides),
                32 => self.copy::<4>(range, sides),
                _ => self.copy::<8>(range, sides),
            }
        } else if a == DType::F64 {
            convert::<f64>(&self.nest, range, (a, b), sides);
        } else if a.is_float() {
            convert::<f32>(&self.nest, range, (a, b), sides);
        } else {
            convert::<i64>(&self.nest, range, (a, b), sides);
        }
    }

    fn copy<const W: usize>(&self, range: Range<usize>, sides: Sides<'_>) {
        match self.nest.dims() {
            [.., col] if self.transposes => {
                copy_transposed::<W>(&self.nest, range.start / col.size..range.end / col.size, sides);
            }
            _ => copy_rows::<W>(&self.nest, range, sides),
        }
    }
}

/// Copies `a` as if it had `strides` from element `from` on, all of `out`; the caller has checked that those lie in `a`.
pub(crate) fn copy_strided(ctx: &Context, a: View<'_>, from: usize, strides: &[usize], out: &mut ViewMut<'_>) {
    let n = out.numel();
    if n == 0 {
        return;
    }
    let bytes = n * (out.dtype().bits() / 8);
    if a.dtype() == out.dtype() && bytes <= PIECE && out.is_contiguous() && is_contiguous(out.sizes(), strides) {
        let first = from.wrapping_mul(bytes / n);
        out.bytes_mut()[..bytes].copy_from_slice(&a.bytes()[first..first + bytes]);
        return;
    }
    Plan::new(out.sizes(), out.strides(), strides).run_on(ctx, a, from, out, 0);
}

/// `dim` as a position in `0..rank`; a tensor without dimensions counts as having one.
pub(crate) fn dim_of(op: &'static str, dim: i64, rank: usize) -> Result<usize, KernelError> {
    let n = rank.max(1) as i64;
    let d = if dim < 0 { dim.checked_add(n) } else { Some(dim) };
    match d.filter(|d| (0..n).contains(d)) {
        Some(d) => Ok(d as usize),
        None => Err(KernelError::new(op, format!("dim is {dim}, expected {}..={} for rank {rank}", -n, n - 1))),
    }
}

/// Distinct dimensions as flags of length `rank`.
pub(crate) fn dims_of(op: &'static str, dims: &[i64], rank: usize) -> Result<Vec<bool>, KernelError> {
    let mut set = vec![false; rank.max(1)];
    for &d in dims {
        let i = dim_of(op, d, rank)?;
        if std::mem::replace(&mut set[i], true) {
            return Err(KernelError::new(op, format!("dim {d} appears twice in {dims:?}")));
        }
    }
    set.truncate(rank);
    Ok(set)
}

/// `index` of a dimension of `size`, counted from the end if negative.
pub(crate) fn index_of(op: &'static str, what: &str, index: i64, size: usize) -> Result<usize, KernelError> {
    let n = i64::try_from(size).unwrap_or(i64::MAX);
    let i = if index < 0 { index.saturating_add(n) } else { index };
    if (0..n).contains(&i) {
        return Ok(i as usize);
    }
    Err(KernelError::new(op, format!("{what} is {index}, out of range for a dimension of size {size}")))
}

/// A count or size that must not be negative.
pub(crate) fn count_of(op: &'static str, what: &str, n: i64) -> Result<usize, KernelError> {
    usize::try_from(n).map_err(|_| KernelError::new(op, format!("{what} is {n}, expected 0 or more")))
}

/// Refuses an out of another dtype than `expected`.
pub(crate) fn check_dtype(op: &'static str, out: &ViewMut<'_>, expected: DType) -> KernelResult {
    whole_bytes(op, expected)?;
    if out.dtype() == expected {
        return Ok(());
    }
    Err(KernelError::new(op, format!("out is {}, expected {expected}", out.dtype())))
}

/// Element `at` of `view` as an index; the caller has checked that it is an integer tensor.
pub(crate) fn load_indices(view: &View<'_>) -> Vec<i64> {
    let nest = Nest::new(view.sizes(), &[view.strides()], false);
    let mut all = vec![0i64; nest.total()];
    let (step, mut done) = (nest.inner()[0], 0);
    nest.rows(0..nest.total(), |at, len| {
        i64::load(view.dtype(), view.bytes(), at[0], step, &mut all[done..done + len]);
        done += len;
    });
    all
}
