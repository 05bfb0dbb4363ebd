//! Weights of bf16 that stay laid out for the product of pairs.

use std::borrow::Cow;
use std::cell::RefCell;

use half::bf16;
use pteron_tensor::{AlignedBytes, DType, View};

use super::Layer;
use super::gemm::{Epilogue, Rounded, dot_piece};
use crate::Context;
use crate::operand::{Operand, SharedMut};
use crate::scratch::Floats;
use crate::simd::{DotArgs, PANEL_COLUMNS, PanelFns, PanelLine, panel_lines};

/// The weight of a linear layer, `n` rows (output channels) of `k`, in the order in which the kernel takes it: for each sixteen
/// rows their factors, eight of each row at a time. A product reads it as one stream, which rows side by side are not. (Its pages
/// are small ones: one stream is as fast with these, and where memory is in pieces the system takes long to find huge ones.)
#[derive(Debug)]
pub struct Panels {
    n: usize,
    k: usize,
    lines: AlignedBytes,
}

impl Panels {
    /// Bytes that a weight of `n` rows of `k` takes; `None` if it has none, or more than memory could.
    pub fn bytes_for(n: usize, k: usize) -> Option<usize> {
        let lines = n.div_ceil(PANEL_COLUMNS).checked_mul(panel_lines(k))?;
        lines.checked_mul(size_of::<PanelLine>()).filter(|&bytes| bytes > 0)
    }

    /// True if the kernels of `ctx` use panels.
    pub fn are_used_by(ctx: &Context) -> bool {
        ctx.kernels().panels().is_some()
    }

    /// Lays `weight` out, `[N, K]`; `None` where the context's kernels have no use for it, and for other elements than bf16 in
    /// contiguous rows.
    pub fn new(ctx: &Context, weight: &View<'_>) -> Option<Panels> {
        let fns = ctx.kernels().panels()?;
        let (&[n, k], &[ldw, col]) = (weight.sizes(), weight.strides()) else { return None };
        let w = weight.as_strided::<bf16>().filter(|_| col == 1)?;
        let bytes = Panels::bytes_for(n, k)?;
        (w.len() >= (n - 1).checked_mul(ldw)?.checked_add(k)?).then_some(())?;
        let mut lines = AlignedBytes::zeroed(bytes);
        let place = SharedMut::new(&mut lines[..]);
        let step = panel_lines(k) * size_of::<PanelLine>();
        ctx.pool().run(n.div_ceil(PANEL_COLUMNS), &|i| {
            let first = i * PANEL_COLUMNS;
            // SAFETY: rows from `first` on lie in `w`, as was checked; panel `i`, which begins on a cache line, belongs
            // to this piece; the kernel is one of the context's, which this processor executes.
            unsafe {
                let to = place.at(i * step).cast::<PanelLine>();
                (fns.lay_out)(w.as_ptr().add(first * ldw), ldw, PANEL_COLUMNS.min(n - first), k, to);
            }
        });
        Some(Panels { n, k, lines })
    }

    /// The memory that it takes, which a product reads from its beginning to its end.
    pub fn memory(&self) -> &[u8] {
        &self.lines
    }
}

thread_local! {
    /// Sums of a piece before they are rounded.
    static SUMS: RefCell<Floats> = const { RefCell::new(Floats::new()) };
}

/// A layer cut into pieces.
struct Cut<'a> {
    panels: &'a Panels,
    bias: Option<Vec<f32>>,
    out: SharedMut<bf16>,
    /// Rows and columns of a piece.
    rows: usize,
    columns: usize,
    /// Pieces along the rows, and all of them.
    down: usize,
    pieces: usize,
}

/// `m` rows of `k`, one behind the other.
struct Left<'a> {
    x: &'a [bf16],
    m: usize,
    k: usize,
}

impl Cut<'_> {
    /// Executes piece `i`.
    fn piece(&self, kernel: PanelFns, left: &Left<'_>, i: usize) {
        let (m, n, k) = (left.m, self.panels.n, left.k);
        let (column, row) = (i / self.down * self.columns, i % self.down * self.rows);
        let (rows, columns) = (self.rows.min(m - row), self.columns.min(n - column));
        let epilogue = Epilogue { bias: self.bias.as_deref(), blend: None };
        let run = |sums: &mut Floats| {
            sums.resize(rows * columns);
            let x = left.x.as_ptr().wrapping_add(row * k);
            let out = sums.as_mut_ptr();
            let args = DotArgs { x, ldx: k, w: x, ldw: 0, out, ldo: columns, m: rows, n: columns, k, ahead: 0 };
            let skip = column / PANEL_COLUMNS * panel_lines(k) * size_of::<PanelLine>();
            // SAFETY: `linears` has checked the sizes of operands and output; pieces begin at whole panels, which lie
            // on cache lines; `sums` has the piece's rows and columns; the kernel is one of the context's, which this processor
            // executes.
            unsafe { (kernel.dot)(args, self.panels.lines[skip..].as_ptr().cast()) };
            for (r, line) in sums.chunks_exact_mut(columns).enumerate() {
                epilogue.apply(row + r, column, line);
                // SAFETY: this piece's part of row `row + r`.
                let to = unsafe { std::slice::from_raw_parts_mut(self.out.at((row + r) * n + column), columns) };
                bf16::round(line, to);
            }
        };
        SUMS.with(|s| match s.try_borrow_mut() {
            Ok(mut sums) => run(&mut sums),
            Err(_) => run(&mut Floats::new()),
        });
    }
}

/// All `layers` of `x` in one go of the threads, if each has panels and all operands are those that their kernel takes: true then.
pub(super) fn linears(ctx: &Context, x: &View<'_>, layers: &mut [Layer<'_>]) -> bool {
    let Some(kernel) = ctx.kernels().panels() else { return false };
    let Some((&k, lead)) = x.sizes().split_last() else { return false };
    let m: usize = lead.iter().product();
    let fits = |l: &Layer<'_>| {
        let sizes = l.out.sizes().split_last();
        l.panels.is_some_and(|p| p.k == k && sizes == Some((&p.n, lead)) && l.weight.sizes() == [p.n, k])
            && l.out.dtype() == DType::BF16
            && l.out.is_contiguous()
            && l.bias.is_none_or(|b| [DType::F32, DType::F16, DType::BF16].contains(&b.dtype()))
            && l.bias.is_none_or(|b| l.weight.sizes().first() == b.sizes().first() && b.rank() == 1)
    };
    if x.dtype() != DType::BF16 || m == 0 || !layers.iter().all(fits) {
        return false;
    }
    let rows: Cow<'_, [bf16]> = match x.as_slice::<bf16>() {
        Some(all) => Cow::Borrowed(all),
        None => match Operand::<bf16>::copied(x) {
            Some(copy) => copy.data,
            None => return false,
        },
    };
    let left = Left { x: &rows, m, k };
    let mut cuts: Vec<Cut<'_>> = Vec::with_capacity(layers.len());
    let all = layers.iter().filter_map(|l| l.panels).map(|p| p.memory().len()).sum();
    let stream = ctx.pool().stream(all) / size_of::<bf16>();
    for l in layers.iter_mut() {
        let bias = l.bias.and_then(|b| Operand::widened(&b).map(|o| (o, b.numel())));
        let bias = bias.map(|(o, n)| (0..n).map(|i| o.data[i * o.strides[0]]).collect());
        let (Some(panels), Some(out)) = (l.panels, l.out.as_slice_mut::<bf16>()) else { return false };
        let (rows, columns) = dot_piece(m, panels.n, k, stream);
        let down = m.div_ceil(rows);
        let pieces = down * panels.n.div_ceil(columns);
        cuts.push(Cut { panels, bias, out: SharedMut::new(out), rows, columns, down, pieces });
    }
    assert!(rows.len() == m * k, "rows of a linear layer's input lie behind each other");
    ctx.pool().run(cuts.iter().map(|c| c.pieces).sum(), &|mut i| {
        for c in &cuts {
            if i < c.pieces {
                return c.piece(kernel, &left, i);
            }
            i -= c.pieces;
        }
    });
    true
}
