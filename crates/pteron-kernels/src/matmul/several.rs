//! Linear layers that read the same input.

use pteron_tensor::{DType, View, ViewError, ViewMut};

use super::{Panels, linear, panels};
use crate::operand::SharedMut;
use crate::{Context, KernelError, KernelResult};

/// One of several linear layers of the same input.
#[derive(Debug)]
pub struct Layer<'a> {
    /// `[N, K]`.
    pub weight: View<'a>,
    /// The same elements, laid out.
    pub panels: Option<&'a Panels>,
    /// `[N]`.
    pub bias: Option<View<'a>>,
    /// `[…, N]`.
    pub out: ViewMut<'a>,
}

/// [`linear`] for each of `layers`, the same bits. For a single row of input, and where all have [`Panels`], all layers are one
/// loop of the thread pool: small ones beside a large one cost no waiting.
///
/// # Errors
/// As [`linear`].
pub fn linears(ctx: &Context, x: &View<'_>, layers: &mut [Layer<'_>]) -> KernelResult {
    if panels::linears(ctx, x, layers) {
        return Ok(());
    }
    if ctx.pool().threads() == 1 || layers.len() < 2 || !layers.iter().all(|l| is_row(x, l)) {
        return layers.iter_mut().try_for_each(|l| linear(ctx, x, &l.weight, l.bias.as_ref(), &mut l.out));
    }
    // Pieces of rows of weights: layer, first row, rows.
    let mut pieces: Vec<(usize, usize, usize)> = Vec::new();
    let stream = ctx.pool().stream(layers.iter().map(|l| l.weight.numel() * width(l.weight.dtype())).sum());
    for (i, l) in layers.iter().enumerate() {
        let (n, k) = (l.weight.sizes()[0], l.weight.sizes()[1]);
        let each = (stream / (k * width(l.weight.dtype())).max(1)).max(1).next_multiple_of(16);
        pieces.extend((0..n).step_by(each).map(|from| (i, from, each.min(n - from))));
    }
    let outs: Vec<SharedMut<u8>> = layers.iter_mut().map(|l| SharedMut::new(l.out.bytes_mut())).collect();
    let layers = &*layers;
    let failed = std::sync::Mutex::new(Ok(()));
    ctx.pool().run(pieces.len(), &|p| {
        let (i, from, rows) = pieces[p];
        // SAFETY: `is_row` holds: the output is `n` elements one behind the other, of which these belong to this piece alone.
        let out = unsafe { bytes_of(&outs[i], layers[i].out.dtype(), from, rows) };
        let result = rows_of(ctx, x, &layers[i], from, rows, out);
        if let (Err(e), Ok(mut slot)) = (result, failed.lock()) {
            *slot = Err(e);
        }
    });
    failed.into_inner().unwrap_or(Ok(()))
}

fn width(d: DType) -> usize {
    d.bits() / 8
}

/// The layer's operands are one row, and lie as rows do.
fn is_row(x: &View<'_>, l: &Layer<'_>) -> bool {
    let bytes = |d: DType| d.size().is_some();
    let [n, k] = *l.weight.sizes() else { return false };
    x.is_contiguous()
        && x.numel() == k
        && x.sizes().last() == Some(&k)
        && l.weight.is_contiguous()
        && l.out.is_contiguous()
        && l.out.numel() == n
        && l.out.bytes().len() >= n * width(l.out.dtype())
        && l.bias.is_none_or(|b| b.sizes() == [n] && b.is_contiguous() && bytes(b.dtype()))
        && bytes(l.weight.dtype())
        && bytes(l.out.dtype())
}

/// Elements `from..from + rows`.
///
/// # Safety
/// They lie inside the slice, and nobody else uses them meanwhile.
unsafe fn bytes_of<'a>(all: &SharedMut<u8>, dtype: DType, from: usize, rows: usize) -> &'a mut [u8] {
    // SAFETY: the caller's.
    unsafe { std::slice::from_raw_parts_mut(all.at(from * width(dtype)), rows * width(dtype)) }
}

/// Output channels `from..from + rows` of a layer.
fn rows_of(ctx: &Context, x: &View<'_>, l: &Layer<'_>, from: usize, rows: usize, out: &mut [u8]) -> KernelResult {
    let error = |e: ViewError| KernelError::new("aten::linear", e.to_string());
    let k = x.numel();
    let (w_sizes, w_strides) = ([rows, k], [k, 1]);
    let w = l.weight.bytes().get(from * k * width(l.weight.dtype())..).unwrap_or_default();
    let w = View::new(l.weight.dtype(), &w_sizes, &w_strides, w).map_err(error)?;
    let (x_sizes, x_strides) = ([1, k], [k, 1]);
    let x = View::new(x.dtype(), &x_sizes, &x_strides, x.bytes()).map_err(error)?;
    let (sizes, strides) = ([1, rows], [rows, 1]);
    let mut out = ViewMut::new(l.out.dtype(), &sizes, &strides, out).map_err(error)?;
    let Some(b) = l.bias else { return linear(ctx, &x, &w, None, &mut out) };
    let bytes = b.bytes().get(from * width(b.dtype())..).unwrap_or_default();
    let bias = View::new(b.dtype(), &sizes[1..], &strides[1..], bytes).map_err(error)?;
    linear(ctx, &x, &w, Some(&bias), &mut out)
}
