//! Splits a batch of matrix products into pieces for the threads and the caches, and finishes each piece: bias, sum with
//! another matrix, rounding to the output's type.

use std::cell::RefCell;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use pteron_tensor::Element;

use crate::Context;
use crate::operand::SharedMut;
use crate::scratch::Floats;
use crate::simd::{DotArgs, DotFn, MatrixElement, NnArgs, NtArgs, PanelLine};

/// Elements of the right-hand block that one piece keeps in the second-level cache while rows go by.
const PANEL: usize = 96 * 1024;
/// Elements of the right-hand matrix that one piece streams where few rows use them and its columns lie apart.
const STREAM: usize = 16 * 1024;
/// Rows in a piece.
const ROWS: usize = 96;
/// Products below which waking another thread costs more than it saves.
const SMALL: usize = 48 * 1024;

/// How the right-hand matrices lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Row `n` holds the `k` contiguous factors of output column `n` (a linear layer's weight).
    Transposed,
    /// Row `k` holds the `n` contiguous columns.
    Plain,
}

/// `batches` products of `m × k` by `k × n`.
pub(crate) struct Gemm<'a, W> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) a: &'a [f32],
    pub(crate) a_row: usize,
    /// 1 for [`Layout::Transposed`].
    pub(crate) a_col: usize,
    pub(crate) b: &'a [W],
    /// Distance between the rows of `b`.
    pub(crate) ldb: usize,
    pub(crate) layout: Layout,
    /// Where each product's matrices begin in `a` and `b`.
    pub(crate) starts: &'a [(usize, usize)],
}

/// What is done to the f32 sums before they are rounded.
#[derive(Clone, Copy, Default)]
pub(crate) struct Epilogue<'a> {
    /// Added to each row.
    pub(crate) bias: Option<&'a [f32]>,
    /// `alpha·sum + beta·c[row, column]`.
    pub(crate) blend: Option<Blend<'a>>,
}

/// The other matrix of `addmm`.
#[derive(Clone, Copy)]
pub(crate) struct Blend<'a> {
    pub(crate) c: &'a [f32],
    pub(crate) row: usize,
    pub(crate) col: usize,
    pub(crate) alpha: f32,
    /// 0 leaves `c` out, whatever it holds.
    pub(crate) beta: f32,
}

impl Epilogue<'_> {
    fn is_empty(&self) -> bool {
        self.bias.is_none() && self.blend.is_none()
    }

    pub(super) fn apply(&self, row: usize, col: usize, sums: &mut [f32]) {
        if let Some(bias) = self.bias {
            for (s, b) in sums.iter_mut().zip(&bias[col..]) {
                *s += b;
            }
        }
        if let Some(c) = self.blend {
            for (j, s) in sums.iter_mut().enumerate() {
                *s *= c.alpha;
                if c.beta != 0.0 {
                    *s += c.beta * c.c[row * c.row + (col + j) * c.col];
                }
            }
        }
    }
}

/// An element type of the result.
pub(crate) trait Rounded: Element {
    /// Rounds each sum once, to nearest, ties to even.
    fn round(sums: &[f32], out: &mut [Self]);
}

impl Rounded for f32 {
    fn round(sums: &[f32], out: &mut [f32]) {
        out.copy_from_slice(sums);
    }
}

impl Rounded for f16 {
    fn round(sums: &[f32], out: &mut [f16]) {
        out.convert_from_f32_slice(sums);
    }
}

impl Rounded for bf16 {
    fn round(sums: &[f32], out: &mut [bf16]) {
        crate::wide::round_bf16(sums, bytemuck::cast_slice_mut(out));
    }
}

thread_local! {
    /// Sums of a piece before they are rounded, and the right-hand matrix as a tile reads it.
    static SCRATCH: RefCell<(Floats, Vec<PanelLine>)> = const { RefCell::new((Floats::new(), Vec::new())) };
}

/// Calls `f` with memory of this thread: `len` sums, whatever they hold, and a panel. What a thread keeps is bounded by the
/// pieces' sizes.
fn with_scratch(len: usize, f: impl FnOnce(&mut [f32], &mut Vec<PanelLine>)) {
    SCRATCH.with(|s| match s.try_borrow_mut() {
        Ok(mut s) => {
            let (sums, panel) = &mut *s;
            sums.resize(len);
            f(sums, panel);
        }
        Err(_) => f(&mut vec![0.0; len], &mut Vec::new()),
    });
}

/// Rows and columns of one piece. `stream` is how many elements of the right-hand matrix it streams where few rows use them.
fn piece(m: usize, n: usize, k: usize, layout: Layout, stream: usize) -> (usize, usize) {
    if m.saturating_mul(n).saturating_mul(k) <= SMALL {
        return (m, n);
    }
    let step = if layout == Layout::Plain { 64 } else { 8 };
    if m <= 6 {
        let stream = if layout == Layout::Plain { STREAM } else { stream };
        return (m, (stream / k.max(1)).clamp(1, n).next_multiple_of(step));
    }
    let cols = (PANEL / k.max(1)).clamp(16, 256).next_multiple_of(step);
    // Rows in equal parts, in whole tiles of six.
    let rows = m.div_ceil(m.div_ceil(ROWS)).next_multiple_of(6);
    (rows, cols)
}

/// True if the last of `rows` rows of `cols` elements, `row` and `col` apart, from `start` on lies inside `len` elements.
fn inside(len: usize, start: usize, rows: usize, row: usize, cols: usize, col: usize) -> bool {
    if rows == 0 || cols == 0 {
        return true;
    }
    (rows - 1)
        .checked_mul(row)
        .and_then(|r| r.checked_add((cols - 1).checked_mul(col)?)?.checked_add(start))
        .is_some_and(|last| last < len)
}

/// Computes all products into `out`, row-major `[batches, m, n]`.
///
/// # Panics
/// If an operand does not lie inside its slice: a mistake of the caller, who has the sizes from checked views.
pub(crate) fn run<W: MatrixElement, O: Rounded>(ctx: &Context, g: &Gemm<'_, W>, epilogue: Epilogue<'_>, out: &mut [O]) {
    let (m, n, k) = (g.m, g.n, g.k);
    let fits = g.starts.len().checked_mul(m).and_then(|x| x.checked_mul(n)) == Some(out.len())
        && g.starts.iter().all(|&(a, b)| {
            inside(g.a.len(), a, m, g.a_row, k, g.a_col)
                && match g.layout {
                    Layout::Transposed => g.a_col == 1 && inside(g.b.len(), b, n, g.ldb, k, 1),
                    Layout::Plain => inside(g.b.len(), b, k, g.ldb, n, 1),
                }
        });
    assert!(fits, "a matrix product's operands lie inside their memory");
    if out.is_empty() {
        return;
    }
    let size = size_of::<W>().max(1);
    let all = n.saturating_mul(k).saturating_mul(g.starts.len()).saturating_mul(size);
    let (mb, nb) = piece(m, n, k, g.layout, ctx.pool().stream(all) / size);
    let (rows, cols) = (m.div_ceil(mb), n.div_ceil(nb));
    let direct = O::DTYPE == pteron_tensor::DType::F32;
    let place = SharedMut::new(out);
    ctx.pool().run(g.starts.len() * rows * cols, &|i| {
        // Pieces that share columns are neighbours: their part of `b` is still in the cache.
        let (batch, c0, r0) = (i / (rows * cols), i / rows % cols * nb, i % rows * mb);
        let (pm, pn) = (mb.min(m - r0), nb.min(n - c0));
        let (a, b) = g.starts[batch];
        let first = (batch * m + r0) * n + c0;
        let block = |sums: *mut f32, ldo: usize| {
            // SAFETY: the block lies inside the operands (`fits` above holds for the whole matrices, of which it is a part), no
            // other piece writes these rows and columns of `out`, and the context's kernels are those of this processor.
            unsafe {
                let at = g.a.as_ptr().wrapping_add(a + r0 * g.a_row);
                match g.layout {
                    Layout::Transposed => {
                        let w = g.b.as_ptr().wrapping_add(b + c0 * g.ldb);
                        let args =
                            NtArgs { x: at, ldx: g.a_row, w, ldw: g.ldb, out: sums, ldo, m: pm, n: pn, k, ahead: 0 };
                        (W::nt(ctx.kernels()))(args);
                    }
                    Layout::Plain => {
                        let b = g.b.as_ptr().wrapping_add(b + c0);
                        let args = NnArgs {
                            a: at,
                            a_row: g.a_row,
                            a_col: g.a_col,
                            b,
                            ldb: g.ldb,
                            out: sums,
                            ldo,
                            m: pm,
                            n: pn,
                            k,
                            onto: false,
                            ahead: 0,
                        };
                        (W::nn(ctx.kernels()))(args);
                    }
                }
            }
        };
        if direct {
            // SAFETY: `first` is an element of `out`, whose elements are f32.
            let sums = unsafe { place.at(first) }.cast::<f32>();
            block(sums, n);
            if !epilogue.is_empty() {
                for r in 0..pm {
                    // SAFETY: row `r` of the block just written, which no other piece touches.
                    epilogue.apply(r0 + r, c0, unsafe { std::slice::from_raw_parts_mut(sums.add(r * n), pn) });
                }
            }
            return;
        }
        with_scratch(pm * pn, |sums, _| {
            block(sums.as_mut_ptr(), pn);
            for (r, row) in sums.chunks_exact_mut(pn.max(1)).enumerate() {
                epilogue.apply(r0 + r, c0, row);
                // SAFETY: row `r` of this piece's block of `out`, which no other piece touches.
                let target = unsafe { std::slice::from_raw_parts_mut(place.at(first + r * n), pn) };
                O::round(row, target);
            }
        });
    });
}

/// A product of bf16 by bf16: `m` rows of `x` by `n` rows of `w`, all of `k` contiguous elements.
pub(crate) struct Dot<'a> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    pub(crate) x: &'a [bf16],
    /// Distance between the rows of `x`.
    pub(crate) ldx: usize,
    pub(crate) w: &'a [bf16],
    /// Distance between the rows of `w`.
    pub(crate) ldw: usize,
}

/// Rows and columns of one piece of a [`Dot`], with `stream` as in [`piece`].
pub(super) fn dot_piece(m: usize, n: usize, k: usize, stream: usize) -> (usize, usize) {
    /// Rows that share the laying out of a panel.
    const MOST_ROWS: usize = 258;
    /// Columns of a piece, whole tiles of 16.
    const COLUMNS: usize = 64;
    if m.saturating_mul(n).saturating_mul(k) <= SMALL {
        return (m, n);
    }
    if m <= 6 {
        return (m, (stream / k.max(1)).clamp(1, n).next_multiple_of(16));
    }
    (m.div_ceil(m.div_ceil(MOST_ROWS)).next_multiple_of(6), COLUMNS)
}

/// Computes a product by `kernel` into `out`, row-major `[m, n]`.
///
/// # Panics
/// As [`run`].
pub(crate) fn run_dot<O: Rounded>(
    ctx: &Context,
    kernel: DotFn<bf16>,
    g: &Dot<'_>,
    epilogue: Epilogue<'_>,
    out: &mut [O],
) {
    let (m, n, k) = (g.m, g.n, g.k);
    let fits = m.checked_mul(n) == Some(out.len())
        && inside(g.x.len(), 0, m, g.ldx, k, 1)
        && inside(g.w.len(), 0, n, g.ldw, k, 1);
    assert!(fits, "a matrix product's operands lie inside their memory");
    if out.is_empty() {
        return;
    }
    let (mb, nb) = dot_piece(m, n, k, ctx.pool().stream(n * k * size_of::<bf16>()) / size_of::<bf16>());
    let rows = m.div_ceil(mb);
    let place = SharedMut::new(out);
    ctx.pool().run(rows * n.div_ceil(nb), &|i| {
        let (c0, r0) = (i / rows * nb, i % rows * mb);
        let (pm, pn) = (mb.min(m - r0), nb.min(n - c0));
        with_scratch(pm * pn, |sums, panel| {
            let args = DotArgs {
                x: g.x.as_ptr().wrapping_add(r0 * g.ldx),
                ldx: g.ldx,
                w: g.w.as_ptr().wrapping_add(c0 * g.ldw),
                ldw: g.ldw,
                out: sums.as_mut_ptr(),
                ldo: pn,
                m: pm,
                n: pn,
                k,
                ahead: 0,
            };
            // SAFETY: the block is a part of the matrices, which lie inside their slices (`fits`); `sums` has `pm` rows of
            // `pn`; the kernel is one of the context's, which this processor executes.
            unsafe { kernel(args, panel) };
            for (r, row) in sums.chunks_exact_mut(pn.max(1)).enumerate() {
                epilogue.apply(r0 + r, c0, row);
                // SAFETY: row `r` of this piece's block of `out`, which no other piece touches.
                let target = unsafe { std::slice::from_raw_parts_mut(place.at((r0 + r) * n + c0), pn) };
                O::round(row, target);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_and_stay_in_bounds() {
        for layout in [Layout::Plain, Layout::Transposed] {
            for (m, n, k) in
                [(1, 49152, 576), (128, 1536, 576), (512, 576, 1536), (7, 3, 100_000), (97, 1, 0), (2, 9, 1 << 40)]
            {
                for stream in [1, STREAM, usize::MAX / 4] {
                    let (mb, nb) = piece(m, n, k, layout, stream);
                    assert!(mb > 0 && nb > 0, "{m} {n} {k}");
                    assert!(m <= 6 || m * n * k <= SMALL || mb <= ROWS, "{m} {n} {k}");
                }
            }
        }
    }

    #[test]
    fn pieces_of_pairs_cover() {
        for (m, n, k) in
            [(1, 49152, 576), (512, 192, 576), (259, 1536, 576), (7, 3, 100_000), (97, 1, 0), (2, 9, 1 << 40)]
        {
            let (mb, nb) = dot_piece(m, n, k, STREAM);
            assert!(mb > 0 && nb > 0, "{m} {n} {k}");
            assert!(m <= 6 || m * n * k <= SMALL || mb <= 258, "{m} {n} {k}");
        }
    }

    #[test]
    fn extents_are_checked_without_overflow() {
        assert!(inside(6, 0, 2, 3, 3, 1));
        assert!(!inside(5, 0, 2, 3, 3, 1));
        assert!(!inside(6, 1, 2, 3, 3, 1));
        assert!(!inside(6, 0, usize::MAX, usize::MAX, 2, 1));
        assert!(inside(0, 0, 0, 7, 3, 1));
    }
}
