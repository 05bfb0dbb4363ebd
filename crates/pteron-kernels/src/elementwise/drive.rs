//! The drivers under all elementwise operators.

use std::sync::Mutex;

use pteron_tensor::{DType, Shape, View, ViewMut};

use super::compute::{Compute, Operand, broadcast_sizes, broadcast_strides};
use super::nest::{Nest, OPERANDS};
use crate::{Context, KernelError, KernelResult};

/// Elements converted at a time.
pub(crate) const BLOCK: usize = 256;
/// Elements one thread takes at a time.
pub(crate) const PIECE: usize = 32 * 1024;

/// Refuses sub-byte elements.
pub(crate) fn whole_bytes(op: &'static str, dtype: DType) -> KernelResult {
    match dtype {
        DType::I4 => Err(KernelError::new(op, "elements of type i4 are not addressable; unpack them to i8 first")),
        _ => Ok(()),
    }
}

/// Refuses an output of other sizes, of sub-byte elements, or whose elements share memory.
pub(crate) fn check_out(op: &'static str, out: &ViewMut<'_>, sizes: &[usize]) -> KernelResult {
    whole_bytes(op, out.dtype())?;
    if out.sizes() != sizes {
        return Err(KernelError::new(op, format!("the result has sizes {sizes:?}, but out has {:?}", out.sizes())));
    }
    if out.sizes().iter().zip(out.strides()).any(|(&size, &stride)| size > 1 && stride == 0) {
        return Err(KernelError::new(op, "out has a stride of 0: its elements share memory"));
    }
    Ok(())
}

/// Refuses an output that cannot hold the result's category: float into integer, number into `bool`.
pub(crate) fn check_cast(op: &'static str, from: DType, to: DType) -> KernelResult {
    if (from.is_float() && !to.is_float()) || (from != DType::Bool && to == DType::Bool) {
        return Err(KernelError::new(op, format!("a result of type {from} cannot go to an out of type {to}")));
    }
    Ok(())
}

/// Runs `body(piece, bytes)` over `bytes` cut into pieces of `piece` bytes, on the pool when there are several.
pub(crate) fn in_pieces(ctx: &Context, bytes: &mut [u8], piece: usize, body: &(dyn Fn(usize, &mut [u8]) + Sync)) {
    if bytes.len() <= piece || ctx.pool().threads() == 1 {
        for (i, b) in bytes.chunks_mut(piece.max(1)).enumerate() {
            body(i, b);
        }
        return;
    }
    let parts: Vec<Mutex<&mut [u8]>> = bytes.chunks_mut(piece).map(Mutex::new).collect();
    ctx.pool().run(parts.len(), &|i| {
        // A poisoned lock means that another call of this piece panicked; the pool reports that one.
        if let Some(Ok(mut b)) = parts.get(i).map(Mutex::lock) {
            body(i, &mut b);
        }
    });
}

fn narrow_to<C: Compute>(dtype: DType, values: &mut [C]) {
    if let Some(narrow) = C::NARROW {
        narrow(dtype, values);
    }
}

/// Elements of a number beside a tensor that has its results in place.
const REPEATED: usize = 64;

/// [`map`] where nothing broadcasts and nothing is converted: every tensor has the sizes of `out`, all are row-major, of the
/// types computed in and aligned. False if that is not so.
fn map_flat<C: Compute, R: Compute, const N: usize>(
    ctx: &Context,
    ins: &[Operand<'_>; N],
    out: &mut ViewMut<'_>,
    common: DType,
    kernel: &(impl Fn([&[C]; N], &mut [R]) + Sync),
) -> bool {
    let dtype = out.dtype();
    if !out.is_contiguous() || (R::NARROW.is_some() && common != dtype) {
        return false;
    }
    let total = out.numel();
    let mut all: [&[C]; N] = [&[]; N];
    let (mut tensors, mut numbers) = (false, false);
    for (o, all) in ins.iter().zip(&mut all) {
        let Operand::View(v) = o else {
            numbers = true;
            continue;
        };
        tensors = true;
        let narrow = C::NARROW.is_some() && v.dtype() != common;
        if narrow || v.sizes() != out.sizes() || !v.is_contiguous() {
            return false;
        }
        match C::direct(v.dtype(), v.bytes(), 0, total) {
            Some(s) => *all = s,
            None => return false,
        }
    }
    let Some(results) = R::direct_mut(dtype, out.bytes_mut(), 0, total).filter(|_| tensors) else { return false };
    let run = |first: usize, out: &mut [R]| {
        if !numbers {
            kernel(all.map(|s| &s[first..first + out.len()]), out);
            return;
        }
        let mut repeated = [[C::default(); REPEATED]; N];
        for (r, o) in repeated.iter_mut().zip(ins) {
            if let Operand::Scalar(s) = o {
                r.fill(C::from_scalar(*s));
                narrow_to(common, r);
            }
        }
        for (i, o) in out.chunks_mut(REPEATED).enumerate() {
            let at = first + i * REPEATED;
            let rows = std::array::from_fn(|k| match ins[k] {
                Operand::View(_) => &all[k][at..at + o.len()],
                Operand::Scalar(_) => &repeated[k][..o.len()],
            });
            kernel(rows, o);
        }
    };
    if total <= PIECE || ctx.pool().threads() == 1 {
        // In the same pieces, which stay in the cache between the steps of a kernel.
        for (i, o) in results.chunks_mut(PIECE).enumerate() {
            run(i * PIECE, o);
        }
        return true;
    }
    let parts: Vec<Mutex<&mut [R]>> = results.chunks_mut(PIECE).map(Mutex::new).collect();
    ctx.pool().run(parts.len(), &|i| {
        // See `in_pieces`.
        if let Some(Ok(mut o)) = parts.get(i).map(Mutex::lock) {
            run(i * PIECE, &mut o);
        }
    });
    true
}

/// Computes `out[i] = kernel(ins[i])` by rows, broadcasting the inputs. Integer operands
/// and results are narrowed to `common`, the promoted type.
pub(crate) fn map<C: Compute, R: Compute, const N: usize>(
    ctx: &Context,
    op: &'static str,
    ins: [Operand<'_>; N],
    mut out: ViewMut<'_>,
    common: DType,
    kernel: &(impl Fn([&[C]; N], &mut [R]) + Sync),
) -> KernelResult {
    if map_flat(ctx, &ins, &mut out, common, kernel) {
        return Ok(());
    }
    let sizes = broadcast_sizes(op, &ins.each_ref().map(|o| o.sizes()))?;
    check_out(op, &out, &sizes)?;
    let mut strides: [Shape; N] = std::array::from_fn(|_| Shape::new());
    for (o, s) in ins.iter().zip(&mut strides) {
        *s = match o {
            Operand::View(v) => {
                whole_bytes(op, v.dtype())?;
                broadcast_strides(&sizes, v.sizes(), v.strides())
            }
            Operand::Scalar(_) => Shape::from_elem(0, sizes.len()),
        };
    }
    let mut operands: [&[usize]; OPERANDS] = [&[]; OPERANDS];
    operands[0] = out.strides();
    for (o, s) in operands[1..].iter_mut().zip(&strides) {
        *o = s;
    }
    let nest = Nest::new(&sizes, &operands[..=N], true);
    if nest.total() == 0 {
        return Ok(());
    }
    let dtype = out.dtype();
    let narrow = R::NARROW.is_some() && common != dtype;
    let width = dtype.bits() / 8;
    let step = nest.inner();
    // Rows of flat positions `first..`, whose output begins at element `first` of the nest when `dense`.
    let run = |range: std::ops::Range<usize>, skip: usize, bytes: &mut [u8]| {
        let mut bufs = [[C::default(); BLOCK]; N];
        for (b, o) in bufs.iter_mut().zip(&ins) {
            if let Operand::Scalar(s) = o {
                b.fill(C::from_scalar(*s));
                narrow_to(common, b);
            }
        }
        let mut results = [R::default(); BLOCK];
        // A tensor without dimensions may be of a wider type than the promoted one.
        let wider = |v: &View<'_>| C::NARROW.is_some() && v.dtype().bits() >= common.bits() && v.dtype() != common;
        let narrow_in = |v: &View<'_>, values: &mut [C]| {
            if wider(v) {
                narrow_to(common, values);
            }
        };
        let direct = |k: usize, at: usize, n: usize| match &ins[k] {
            Operand::View(v) if step[k + 1] == 1 && !wider(v) => C::direct(v.dtype(), v.bytes(), at, n),
            _ => None,
        };
        nest.rows(range, |at, len| {
            let to = at[0] - skip;
            let mut from = 0;
            // A row that needs no conversion at all goes in one call.
            let mut rows: [&[C]; N] = [&[]; N];
            if step[0] == 1
                && !narrow
                && rows.iter_mut().enumerate().all(|(k, r)| direct(k, at[k + 1], len).map(|s| *r = s).is_some())
                && let Some(o) = R::direct_mut(dtype, bytes, to, len)
            {
                kernel(rows, o);
                return;
            }
            while from < len {
                let n = BLOCK.min(len - from);
                let pos = |k: usize| at[k].wrapping_add(from.wrapping_mul(step[k]));
                for (k, buf) in bufs.iter_mut().enumerate() {
                    let Operand::View(v) = &ins[k] else { continue };
                    if step[k + 1] == 0 {
                        if from == 0 {
                            buf[..n].fill(C::load_one(v, pos(k + 1)));
                            narrow_in(v, &mut buf[..n]);
                        }
                    } else if direct(k, pos(k + 1), n).is_none() {
                        C::load(v.dtype(), v.bytes(), pos(k + 1), step[k + 1], &mut buf[..n]);
                        narrow_in(v, &mut buf[..n]);
                    }
                }
                let rows: [&[C]; N] = std::array::from_fn(|k| direct(k, pos(k + 1), n).unwrap_or(&bufs[k][..n]));
                let to = to.wrapping_add(from.wrapping_mul(step[0]));
                let target = if step[0] == 1 && !narrow { R::direct_mut(dtype, bytes, to, n) } else { None };
                if let Some(o) = target {
                    kernel(rows, o);
                } else {
                    kernel(rows, &mut results[..n]);
                    if narrow {
                        narrow_to(common, &mut results[..n]);
                    }
                    R::store(dtype, bytes, to, step[0], &results[..n]);
                }
                from += n;
            }
        });
    };
    if nest.is_dense() && nest.total() > PIECE {
        let bytes = &mut out.bytes_mut()[..nest.total() * width];
        in_pieces(ctx, bytes, PIECE * width, &|i, b| {
            let first = i * PIECE;
            run(first..first + b.len() / width, first, b);
        });
    } else {
        run(0..nest.total(), 0, out.bytes_mut());
    }
    Ok(())
}

/// [`map`] of a function of one element.
pub(crate) fn map1<C: Compute, R: Compute>(
    ctx: &Context,
    op: &'static str,
    a: Operand<'_>,
    out: ViewMut<'_>,
    common: DType,
    f: impl Fn(C) -> R + Sync,
) -> KernelResult {
    map(ctx, op, [a], out, common, &|[a]: [&[C]; 1], o: &mut [R]| {
        for (o, &a) in o.iter_mut().zip(a) {
            *o = f(a);
        }
    })
}

/// [`map`] of a function of two elements.
pub(crate) fn map2<C: Compute, R: Compute>(
    ctx: &Context,
    op: &'static str,
    [a, b]: [Operand<'_>; 2],
    out: ViewMut<'_>,
    common: DType,
    f: impl Fn(C, C) -> R + Sync,
) -> KernelResult {
    map(ctx, op, [a, b], out, common, &|[a, b]: [&[C]; 2], o: &mut [R]| {
        for ((o, &a), &b) in o.iter_mut().zip(a).zip(b) {
            *o = f(a, b);
        }
    })
}

/// [`map`] of a function of three elements.
pub(crate) fn map3<C: Compute, R: Compute>(
    ctx: &Context,
    op: &'static str,
    ins: [Operand<'_>; 3],
    out: ViewMut<'_>,
    common: DType,
    f: impl Fn(C, C, C) -> R + Sync,
) -> KernelResult {
    map(ctx, op, ins, out, common, &|[a, b, c]: [&[C]; 3], o: &mut [R]| {
        for (((o, &a), &b), &c) in o.iter_mut().zip(a).zip(b).zip(c) {
            *o = f(a, b, c);
        }
    })
}
