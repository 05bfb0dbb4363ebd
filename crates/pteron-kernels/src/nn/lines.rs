//! Rows of f32 that are computed where they are read: a norm or a gate in front of whoever takes its rows one by one.

use std::cell::RefCell;

use crate::operand::SharedMut;
use crate::scratch::Floats;
use crate::simd::Function;
use crate::wide::wide;
use crate::{Context, KernelError, KernelResult};

/// Elements that one thread takes at a time, at least one row of them.
const PIECE: usize = 8 * 1024;
const OP: &str = "rows of a norm or a gate";

/// What [`Lines`] are made of; operands are row-major, and as long as all rows together.
#[derive(Debug)]
enum Source<'a> {
    Floats(&'a [f32]),
    Norm { x: &'a [f32], weight: &'a [f32], eps: f64 },
    AddNorm { a: &'a [f32], b: &'a [f32], weight: &'a [f32], eps: f64, sum: SharedMut<f32> },
    Gate { x: &'a [f32], gate: &'a [f32] },
}

/// `m` rows of `k` floats, as they lie in memory or computed where they are read.
#[derive(Debug)]
pub struct Lines<'a> {
    source: Source<'a>,
    m: usize,
    k: usize,
}

thread_local! {
    /// A row that is computed.
    static LINE: RefCell<Floats> = const { RefCell::new(Floats::new()) };
}

impl<'a> Lines<'a> {
    fn new(source: Source<'a>, [m, k]: [usize; 2], lens: &[usize]) -> Result<Lines<'a>, KernelError> {
        let all = m.checked_mul(k);
        if lens.iter().any(|&n| Some(n) != all) {
            return Err(KernelError::new(OP, format!("operands of {lens:?} elements for {m} rows of {k}")));
        }
        Ok(Lines { source, m, k })
    }

    /// Rows as they are.
    ///
    /// # Errors
    /// Sizes that do not fit, as for the other ones.
    pub fn floats(x: &'a [f32], sizes: [usize; 2]) -> Result<Lines<'a>, KernelError> {
        Lines::new(Source::Floats(x), sizes, &[x.len()])
    }

    /// `x · rsqrt(mean(x²) + eps) · weight`, as [`rms_norm`](super::rms_norm) computes it, bit for bit; `weight` is `[k]`.
    pub fn norm(x: &'a [f32], weight: &'a [f32], eps: f64, sizes: [usize; 2]) -> Result<Lines<'a>, KernelError> {
        weight_fits(weight, sizes)?;
        Lines::new(Source::Norm { x, weight, eps }, sizes, &[x.len()])
    }

    /// The norm of `a + b`, which goes to `sum` when its row is read, as [`add_rms_norm`](super::add_rms_norm) computes both.
    pub fn add_norm(
        [a, b]: [&'a [f32]; 2],
        weight: &'a [f32],
        eps: f64,
        sum: &'a mut [f32],
        sizes: [usize; 2],
    ) -> Result<Lines<'a>, KernelError> {
        weight_fits(weight, sizes)?;
        let lens = [a.len(), b.len(), sum.len()];
        Lines::new(Source::AddNorm { a, b, weight, eps, sum: SharedMut::new(sum) }, sizes, &lens)
    }

    /// `x · sigmoid(x) · gate`, as [`silu_gate`](super::silu_gate) computes it, bit for bit.
    pub fn gate(x: &'a [f32], gate: &'a [f32], sizes: [usize; 2]) -> Result<Lines<'a>, KernelError> {
        Lines::new(Source::Gate { x, gate }, sizes, &[x.len(), gate.len()])
    }

    /// Number and length of the rows.
    pub fn sizes(&self) -> [usize; 2] {
        [self.m, self.k]
    }

    /// The rows, where they lie in memory as they are.
    pub fn as_floats(&self) -> Option<&'a [f32]> {
        match &self.source {
            Source::Floats(x) => Some(x),
            _ => None,
        }
    }

    /// Gives row `i` to `f`.
    ///
    /// # Safety
    /// No other thread reads row `i` meanwhile.
    pub(crate) unsafe fn with<R>(&self, ctx: &Context, i: usize, f: impl FnOnce(&[f32]) -> R) -> R {
        if let Source::Floats(x) = &self.source {
            return f(&x[i * self.k..(i + 1) * self.k]);
        }
        LINE.with(|line| {
            let mut own = Floats::new();
            let mut kept = line.try_borrow_mut();
            let line = kept.as_deref_mut().unwrap_or(&mut own);
            line.resize(self.k);
            // SAFETY: the caller's word.
            unsafe { self.write_row(ctx, i, line) };
            f(line)
        })
    }

    /// Writes row `i`.
    ///
    /// # Safety
    /// No other thread reads row `i` meanwhile.
    unsafe fn write_row(&self, ctx: &Context, i: usize, out: &mut [f32]) {
        let row = |all: &&'a [f32]| &all[i * self.k..(i + 1) * self.k];
        match &self.source {
            Source::Floats(x) => out.copy_from_slice(row(x)),
            Source::Norm { x, weight, eps } => {
                let x = row(x);
                normalized(x, root(crate::wide::sum_of_squares(x), x.len(), *eps), weight, out);
            }
            Source::AddNorm { a, b, weight, eps, sum } => {
                // SAFETY: row `i` of as many rows as there are, which nobody else has.
                let sum = unsafe { std::slice::from_raw_parts_mut(sum.at(i * self.k), self.k) };
                sums(row(a), row(b), sum);
                normalized(sum, root(crate::wide::sum_of_squares(sum), sum.len(), *eps), weight, out);
            }
            Source::Gate { x, gate } => {
                ctx.kernels().map(Function::Sigmoid, row(x), out);
                gated(row(x), row(gate), out);
            }
        }
    }

    /// Writes all rows to `out`, row-major.
    ///
    /// # Errors
    /// An `out` of another length.
    pub fn write(&self, ctx: &Context, out: &mut [f32]) -> KernelResult {
        if out.len() != self.m * self.k {
            return Err(KernelError::new(OP, format!("{} elements for {} rows of {}", out.len(), self.m, self.k)));
        }
        let place = SharedMut::new(out);
        self.in_pieces(ctx, &|i| {
            // SAFETY: row `i` of `out`, whose length is that of all rows, and of what is read: each row is one piece's.
            unsafe { self.write_row(ctx, i, std::slice::from_raw_parts_mut(place.at(i * self.k), self.k)) };
        });
        Ok(())
    }

    /// Calls `each` once for every row, on the threads.
    pub(crate) fn in_pieces(&self, ctx: &Context, each: &(dyn Fn(usize) + Sync)) {
        let rows = (PIECE / self.k.max(1)).max(1);
        let piece = |p: usize| (p * rows..self.m.min((p + 1) * rows)).for_each(each);
        ctx.pool().run(self.m.div_ceil(rows), &piece);
    }
}

fn weight_fits(weight: &[f32], [_, k]: [usize; 2]) -> KernelResult {
    if weight.len() == k && k > 0 {
        return Ok(());
    }
    Err(KernelError::new(OP, format!("a weight of {} elements for rows of {k}", weight.len())))
}

/// `1/√(squares/n + eps)`, the mean rounded to f32 first.
fn root(squares: f64, n: usize, eps: f64) -> f32 {
    let mean = (squares / n as f64) as f32;
    1.0 / (mean + eps as f32).sqrt()
}

wide! {
    /// `out = a + b`.
    pub(crate) fn sums(a: &[f32], b: &[f32], out: &mut [f32]) {
        let (a, b) = (&a[..out.len()], &b[..out.len()]);
        for i in 0..out.len() {
            out[i] = a[i] + b[i];
        }
    }

    /// `out = (x·scale)·weight`.
    pub(crate) fn normalized(x: &[f32], scale: f32, weight: &[f32], out: &mut [f32]) {
        let (x, weight) = (&x[..out.len()], &weight[..out.len()]);
        for i in 0..out.len() {
            out[i] = (x[i] * scale) * weight[i];
        }
    }

    /// `s = (s·x)·gate`.
    pub(crate) fn gated(x: &[f32], gate: &[f32], s: &mut [f32]) {
        let (x, gate) = (&x[..s.len()], &gate[..s.len()]);
        for i in 0..s.len() {
            s[i] = (s[i] * x[i]) * gate[i];
        }
    }
}
