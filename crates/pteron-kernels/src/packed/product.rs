//! Products with packed matrices: pieces for the threads, bias, rounding.

use std::cell::RefCell;

use half::{bf16, f16};
use pteron_tensor::{DType, ViewMut};

use super::{Packed, Rows};
use crate::matmul::gemm::Rounded;
use crate::operand::SharedMut;
use crate::scratch::Floats;
use crate::simd::{CHANNELS, CodesArgs, PLAIN, code_row};
use crate::{Context, KernelError, KernelResult};

/// The left-hand operand.
#[derive(Clone, Copy, Debug)]
pub enum Activations<'a> {
    /// Rows of codes.
    Codes(&'a Rows),
    /// So many rows of contiguous floats.
    Floats(&'a [f32], usize),
}

impl Activations<'_> {
    fn rows(&self) -> usize {
        match self {
            Activations::Codes(r) => r.rows(),
            Activations::Floats(_, m) => *m,
        }
    }
}

/// One of the products of the same activations: `out[m, n] = Σ_k x[m, k]·w[n, k] + bias[n]`.
#[derive(Debug)]
pub struct Product<'a, 'o> {
    /// The matrix.
    pub weight: &'a Packed,
    /// `[n]`.
    pub bias: Option<&'a [f32]>,
    /// `[…, n]` of f32, f16 or bf16, row-major; rounded once.
    pub out: ViewMut<'o>,
}

/// Rows up to which memory is the limit of a product.
pub const FEW_ROWS: usize = 6;
/// Blocks of a piece of many rows: they stay in the first-level cache while the rows go by.
const BLOCKS: usize = 2;
/// Rows of a piece of many.
const ROWS: usize = 258;
/// Multiply-adds below which waking another thread costs more than it saves.
const SMALL: usize = 192 * 1024;
const OP: &str = "linear of codes";

thread_local! {
    /// What kernels use between, and sums before they are rounded.
    static SCRATCH: RefCell<(Vec<i32>, Floats)> = const { RefCell::new((Vec::new(), Floats::new())) };
}

/// Where results go.
enum Out {
    F32(SharedMut<f32>),
    F16(SharedMut<f16>),
    Bf16(SharedMut<bf16>),
}

/// A product cut into pieces.
struct Cut<'a> {
    weight: &'a Packed,
    bias: Option<&'a [f32]>,
    out: Out,
    /// Bytes of a block.
    block: usize,
    /// Blocks and rows of a piece.
    blocks: usize,
    rows: usize,
    /// Pieces along the rows, and all of them.
    down: usize,
    pieces: usize,
}

impl Cut<'_> {
    /// The blocks that piece `i` reads.
    fn weights(&self, i: usize) -> &[u8] {
        let first = i / self.down * self.blocks * self.block;
        let all = self.weight.room.bytes();
        &all[first..(first + self.blocks * self.block).min(all.len())]
    }

    /// Executes piece `i`; `next` is what is read after it.
    fn piece(&self, ctx: &Context, x: &Activations<'_>, i: usize, next: &[u8]) {
        let g = self.weight.geometry;
        let (first, row) = (i / self.down * self.blocks, i % self.down * self.rows);
        let (blocks, m) = (self.blocks.min(g.blocks() - first), self.rows.min(x.rows() - row));
        let column = first * CHANNELS;
        let n = (blocks * CHANNELS).min(g.n - column);
        let own = ctx.kernels().codes();
        let fns = if own.interleave == g.interleave {
            own
        } else {
            ctx.note_scalar();
            PLAIN
        };
        let w = self.weights(i).as_ptr();
        let run = |out: *mut f32, ldo: usize, scratch: &mut Vec<i32>| {
            // SAFETY: `multiply` has checked the sizes of activations, matrix and output; the piece lies inside of them, and no
            // other one writes its part; the room begins on a cache line and blocks are whole lines; the kernel is one of
            // the context's, which this processor executes, or the scalar one.
            unsafe {
                match x {
                    Activations::Codes(rows) => {
                        let args = CodesArgs {
                            x: rows.codes.as_ptr().wrapping_add(row * code_row(g.k)),
                            ldx: code_row(g.k),
                            zero: rows.zero.as_ptr().wrapping_add(row),
                            scale: rows.scale.as_ptr().wrapping_add(row),
                            w,
                            blocks,
                            geometry: g,
                            out,
                            ldo,
                            m,
                            n,
                            next,
                        };
                        (fns.codes)(args, scratch);
                    }
                    Activations::Floats(x, _) => {
                        let args = CodesArgs {
                            x: x.as_ptr().wrapping_add(row * g.k),
                            ldx: g.k,
                            zero: std::ptr::null(),
                            scale: std::ptr::null(),
                            w,
                            blocks,
                            geometry: g,
                            out,
                            ldo,
                            m,
                            n,
                            next,
                        };
                        (fns.floats)(args);
                    }
                }
            }
        };
        let bias = self.bias.map(|b| &b[column..column + n]);
        let add = |sums: &mut [f32]| {
            if let Some(bias) = bias {
                sums.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
            }
        };
        with_scratch(|scratch, sums| {
            if let Out::F32(place) = &self.out {
                // SAFETY: rows of `out` from `row` on, columns from `column` on: this piece's.
                let at = unsafe { place.at(row * g.n + column) };
                run(at, g.n, scratch);
                for r in 0..if bias.is_some() { m } else { 0 } {
                    // SAFETY: as above.
                    add(unsafe { std::slice::from_raw_parts_mut(at.add(r * g.n), n) });
                }
                return;
            }
            sums.resize(m * n);
            run(sums.as_mut_ptr(), n, scratch);
            for (r, line) in sums.chunks_exact_mut(n).enumerate() {
                add(line);
                let at = (row + r) * g.n + column;
                // SAFETY: as above: this piece's part of row `row + r`.
                unsafe {
                    match &self.out {
                        Out::F32(_) => {}
                        Out::F16(o) => f16::round(line, std::slice::from_raw_parts_mut(o.at(at), n)),
                        Out::Bf16(o) => bf16::round(line, std::slice::from_raw_parts_mut(o.at(at), n)),
                    }
                }
            }
        });
    }
}

fn with_scratch(f: impl FnOnce(&mut Vec<i32>, &mut Floats)) {
    SCRATCH.with(|s| match s.try_borrow_mut() {
        Ok(mut s) => {
            let (ints, floats) = &mut *s;
            f(ints, floats);
        }
        Err(_) => f(&mut Vec::new(), &mut Floats::new()),
    });
}

/// Computes all `products` of `x` in one go of the threads.
///
/// # Errors
/// Sizes that do not fit together, or an output that is not row-major of a float type.
pub fn multiply(ctx: &Context, x: &Activations<'_>, products: &mut [Product<'_, '_>]) -> KernelResult {
    let m = x.rows();
    let mut cuts = Vec::with_capacity(products.len());
    let mut work = 0usize;
    let stream = ctx.pool().stream(products.iter().map(|p| p.weight.bytes()).sum());
    for p in products.iter_mut() {
        let g = p.weight.geometry;
        let wrong = |what: String| KernelError::new(OP, what);
        let fits = match x {
            Activations::Codes(r) => r.columns() == g.k,
            Activations::Floats(x, m) => m.checked_mul(g.k) == Some(x.len()),
        };
        if !fits {
            return Err(wrong(format!("the activations are no rows of {}", g.k)));
        }
        let lead = p.out.sizes().split_last().filter(|(last, _)| **last == g.n).map(|(_, lead)| lead.iter().product());
        if lead != Some(m) || p.bias.is_some_and(|b| b.len() != g.n) {
            return Err(wrong(format!("an output of {:?} for {m} rows of {}", p.out.sizes(), g.n)));
        }
        let dtype = p.out.dtype();
        let out = match dtype {
            DType::F32 => p.out.as_slice_mut::<f32>().map(|s| Out::F32(SharedMut::new(s))),
            DType::F16 => p.out.as_slice_mut::<f16>().map(|s| Out::F16(SharedMut::new(s))),
            DType::BF16 => p.out.as_slice_mut::<bf16>().map(|s| Out::Bf16(SharedMut::new(s))),
            _ => None,
        };
        let out = out.ok_or_else(|| wrong(format!("an output of {dtype} that is not row-major floats")))?;
        let block = g.block();
        let (blocks, rows) = match m {
            0..=FEW_ROWS => ((stream / block.max(1)).max(1), m.max(1)),
            _ => (BLOCKS, m.div_ceil(m.div_ceil(ROWS)).next_multiple_of(6)),
        };
        let down = m.div_ceil(rows);
        let pieces = down * g.blocks().div_ceil(blocks);
        work = work.saturating_add(m.saturating_mul(g.n).saturating_mul(g.k));
        cuts.push(Cut { weight: p.weight, bias: p.bias, out, block, blocks, rows, down, pieces });
    }
    let total: usize = cuts.iter().map(|c| c.pieces).sum();
    // The product and the number in it of the piece that is number `i` of all.
    let find = |mut i: usize| {
        for c in &cuts {
            if i < c.pieces {
                return Some((c, i));
            }
            i -= c.pieces;
        }
        None
    };
    let one = |i: usize| {
        let Some((cut, at)) = find(i) else { return };
        // Rows that go by the same blocks find them in the caches.
        let next = find(i + 1).filter(|&(c, at)| at % c.down == 0).map_or(&[][..], |(c, at)| c.weights(at));
        cut.piece(ctx, x, at, next);
    };
    if work <= SMALL {
        (0..total).for_each(one);
    } else {
        ctx.pool().run(total, &one);
    }
    Ok(())
}
