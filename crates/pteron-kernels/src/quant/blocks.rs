//! Which parameters apply to which elements.

use std::sync::Mutex;

use pteron_tensor::{DType, Element, Shape, View};

use crate::elementwise::drive::PIECE;
use crate::{Context, KernelError};

/// A tensor cut into blocks of equal size, each with parameters of its own; parameters are numbered as a row-major tensor of
/// blocks.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    sizes: Shape,
    block: Shape,
    /// Neighbouring elements of the same parameters.
    run: usize,
}

impl Blocks {
    fn new(sizes: &[usize], block: Shape) -> Blocks {
        let mut run = 1;
        for (&size, &b) in sizes.iter().zip(&block).rev() {
            run *= b;
            if b != size {
                break;
            }
        }
        Blocks { sizes: Shape::from_slice(sizes), block, run: run.max(1) }
    }

    /// One block.
    pub(super) fn per_tensor(sizes: &[usize]) -> Blocks {
        Blocks::new(sizes, Shape::from_slice(sizes))
    }

    /// One block for each position of dimension `axis`, which counts from the end if negative.
    pub(super) fn per_channel(op: &'static str, sizes: &[usize], axis: i64) -> Result<Blocks, KernelError> {
        let axis = crate::shape_ops::engine::dim_of(op, axis, sizes.len())?;
        let mut block = Shape::from_slice(sizes);
        if let Some(b) = block.get_mut(axis) {
            *b = 1;
        }
        Ok(Blocks::new(sizes, block))
    }

    /// One block for each row of the last dimension.
    pub(super) fn per_token(op: &'static str, sizes: &[usize]) -> Result<Blocks, KernelError> {
        let Some(&width) = sizes.last() else {
            return Err(KernelError::new(op, "the input has no dimension that could be a token's"));
        };
        let mut block = Shape::from_elem(1, sizes.len());
        if let Some(b) = block.last_mut() {
            *b = width;
        }
        Ok(Blocks::new(sizes, block))
    }

    /// Blocks of sizes `block`, one a dimension; each divides the dimension's size.
    pub(super) fn of(op: &'static str, sizes: &[usize], block: &[i64]) -> Result<Blocks, KernelError> {
        let block: Option<Shape> = block.iter().map(|&b| usize::try_from(b).ok()).collect();
        let fits = |b: &Shape| {
            b.len() == sizes.len() && b.iter().zip(sizes).all(|(&b, &s)| (b > 0 && s % b == 0) || (b == 0 && s == 0))
        };
        match block.filter(fits) {
            Some(b) => Ok(Blocks::new(sizes, b)),
            None => {
                Err(KernelError::new(op, format!("block sizes must divide the input's sizes {sizes:?}, one for each")))
            }
        }
    }

    /// Number of blocks.
    pub(super) fn count(&self) -> usize {
        self.sizes.iter().zip(&self.block).map(|(&s, &b)| s.checked_div(b).unwrap_or(0)).product()
    }

    fn numel(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The parameters of element `at`.
    fn param(&self, at: usize) -> usize {
        let (mut rest, mut stride, mut index) = (at, 1, 0);
        for (&s, &b) in self.sizes.iter().zip(&self.block).rev() {
            index += (rest % s) / b * stride;
            rest /= s;
            stride *= s / b;
        }
        index
    }

    /// Calls `f(first, len, param)` for the runs of elements `start..start + len`.
    pub(super) fn runs(&self, start: usize, len: usize, mut f: impl FnMut(usize, usize, usize)) {
        let mut at = start;
        while at < start + len {
            let n = (self.run - at % self.run).min(start + len - at);
            f(at, n, self.param(at));
            at += n;
        }
    }

    /// Calls `f(first, len)` for the elements of block `index`, run by run.
    pub(super) fn block_runs(&self, index: usize, mut f: impl FnMut(usize, usize)) {
        if self.numel() == 0 {
            return;
        }
        // Where the block begins, and the strides by which its runs lie.
        let (mut rest, mut stride, mut first) = (index, 1, 0);
        let mut dims: Vec<(usize, usize)> = Vec::with_capacity(self.sizes.len());
        for (&s, &b) in self.sizes.iter().zip(&self.block).rev() {
            first += rest % (s / b) * b * stride;
            rest /= s / b;
            dims.push((b, stride));
            stride *= s;
        }
        let runs = self.block.iter().product::<usize>() / self.run;
        for r in 0..runs {
            let (mut flat, mut at) = (r * self.run, first);
            for &(b, stride) in &dims {
                at += flat % b * stride;
                flat /= b;
            }
            f(at, self.run);
        }
    }
}

/// Runs `body(first, piece)` over `items` cut into pieces, on the pool when there are several.
pub(super) fn in_pieces<T: Send>(
    ctx: &Context,
    items: &mut [T],
    piece: usize,
    body: &(dyn Fn(usize, &mut [T]) + Sync),
) {
    let piece = piece.max(1);
    if items.len() <= piece || ctx.pool().threads() == 1 {
        for (i, p) in items.chunks_mut(piece).enumerate() {
            body(i * piece, p);
        }
        return;
    }
    let parts: Vec<Mutex<&mut [T]>> = items.chunks_mut(piece).map(Mutex::new).collect();
    ctx.pool().run(parts.len(), &|i| {
        // A poisoned lock means that another call of this piece panicked; the pool reports that one.
        if let Some(Ok(mut p)) = parts.get(i).map(Mutex::lock) {
            body(i * piece, &mut p);
        }
    });
}

/// How many rows of `width` elements one thread takes.
pub(super) fn rows_a_piece(width: usize) -> usize {
    (PIECE / width.max(1)).max(1)
}

/// The elements of a row-major copy of a view, or its own where it is row-major.
pub(super) enum Elements<'a, T> {
    Own(&'a [T]),
    Copy(Vec<T>),
}

impl<T> std::ops::Deref for Elements<'_, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Elements::Own(s) => s,
            Elements::Copy(v) => v,
        }
    }
}

/// The row-major elements of a view of type `T`.
pub(super) fn elements<'a, T: Element>(op: &'static str, v: &View<'a>) -> Result<Elements<'a, T>, KernelError> {
    if let Some(s) = v.as_slice::<T>() {
        return Ok(Elements::Own(s));
    }
    if v.dtype() != T::DTYPE {
        return Err(KernelError::new(op, format!("a tensor is {}, expected {}", v.dtype(), T::DTYPE)));
    }
    let copy = pteron_tensor::Tensor::copy_of(v);
    Ok(Elements::Copy(bytemuck::pod_collect_to_vec(copy.bytes())))
}

/// The row-major elements of a view of a float type as `f32`.
pub(super) fn floats<'a>(op: &'static str, v: &View<'a>) -> Result<Elements<'a, f32>, KernelError> {
    match v.dtype() {
        DType::F32 => elements(op, v),
        DType::F16 | DType::BF16 => {
            let copy = pteron_tensor::Tensor::copy_of(v);
            let mut out = vec![0f32; v.numel()];
            match v.dtype() {
                DType::F16 => crate::wide::widen_f16(copy.bytes(), &mut out),
                _ => crate::wide::widen_bf16(copy.bytes(), &mut out),
            }
            Ok(Elements::Copy(out))
        }
        other => Err(KernelError::new(op, format!("the input is {other}, expected f32, f16 or bf16"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_number_their_elements() {
        let sizes = [2usize, 3, 4, 6];
        for block in [[2, 3, 4, 6], [1, 3, 4, 6], [2, 1, 4, 6], [1, 1, 1, 6], [1, 1, 1, 3], [2, 3, 2, 2], [1, 1, 1, 1]]
        {
            let b = Blocks::of("t", &sizes, &block).unwrap();
            let mut seen = vec![usize::MAX; 144];
            b.runs(0, 144, |at, len, p| seen[at..at + len].fill(p));
            // By hand.
            for (flat, &p) in seen.iter().enumerate() {
                let c = [flat / 72, flat / 24 % 3, flat / 6 % 4, flat % 6];
                let mut index = 0;
                for d in 0..4 {
                    let n = block[d] as usize;
                    index = index * (sizes[d] / n) + c[d] / n;
                }
                assert_eq!(p, index, "{block:?} {flat}");
            }
            let mut again = vec![usize::MAX; 144];
            for i in 0..b.count() {
                b.block_runs(i, |at, len| again[at..at + len].fill(i));
            }
            assert_eq!(seen, again, "{block:?}");
            // From the middle of a run.
            let mut part = vec![usize::MAX; 144];
            b.runs(5, 100, |at, len, p| part[at..at + len].fill(p));
            assert_eq!(part[5..105], seen[5..105]);
            assert!(part[..5].iter().chain(&part[105..]).all(|&p| p == usize::MAX));
        }
        assert!(Blocks::of("t", &sizes, &[1, 1, 1]).is_err());
        assert!(Blocks::of("t", &sizes, &[1, 2, 1, 1]).is_err());
        assert!(Blocks::of("t", &sizes, &[1, 0, 1, 1]).is_err());
        assert_eq!(Blocks::of("t", &[0, 4], &[1, 2]).unwrap().count(), 0);
    }
}
