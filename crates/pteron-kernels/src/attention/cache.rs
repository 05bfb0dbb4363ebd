//! New rows into a cache.

use pteron_tensor::{View, ViewMut};

use super::Dims;
use crate::KernelError;

/// The checked position of the first new row.
#[derive(Clone, Copy)]
pub(super) struct Start(usize);

/// Checks that the rows of `new` fit into `cache` from `start_pos` on.
///
/// # Errors
/// Sizes other than the position that differ, another element type, a position outside.
pub(super) fn plan(
    op: &'static str,
    new: &View<'_>,
    cache: &View<'_>,
    start_pos: i64,
    seq_at_dim_2: bool,
) -> Result<Start, KernelError> {
    let sizes = (Dims::of(new.sizes(), seq_at_dim_2), Dims::of(cache.sizes(), seq_at_dim_2));
    let fits = match sizes {
        (Some(n), Some(c)) => n.batch == c.batch && n.heads == c.heads && n.width == c.width,
        _ => false,
    };
    if !fits || new.dtype() != cache.dtype() || new.dtype().size().is_none() {
        return Err(KernelError::new(
            op,
            format!(
                "rows of {} {:?} do not fit a cache of {} {:?}",
                new.dtype(),
                new.sizes(),
                cache.dtype(),
                cache.sizes()
            ),
        ));
    }
    let (len, room) = (sizes.0.map_or(0, |d| d.len), sizes.1.map_or(0, |d| d.len));
    let start = usize::try_from(start_pos).ok().filter(|s| s.checked_add(len).is_some_and(|end| end <= room));
    match start {
        Some(s) if s < room || len == 0 => Ok(Start(s)),
        _ => Err(KernelError::new(op, format!("{len} rows from position {start_pos} on: the cache has {room}"))),
    }
}

/// Copies the rows.
pub(super) fn write(new: &View<'_>, cache: &mut ViewMut<'_>, Start(start): Start, seq_at_dim_2: bool) {
    let Some(size) = new.dtype().size() else { return };
    let &[batches, d1, d2, width] = new.sizes() else { return };
    let (from, to) = (new.strides(), cache.strides());
    // The position is dimension 1 or 2.
    let (off1, off2) = if seq_at_dim_2 { (0, start) } else { (start, 0) };
    let contiguous_rows = width <= 1 || (from[3] == 1 && to[3] == 1);
    let (source, target) = (new.bytes(), cache.bytes_mut());
    let mut copy = |at: usize, to: usize, elements: usize| {
        let (at, to, bytes) = (at * size, to * size, elements * size);
        target[to..to + bytes].copy_from_slice(&source[at..at + bytes]);
    };
    for b in 0..batches {
        for i in 0..d1 {
            for j in 0..d2 {
                let at = b * from[0] + i * from[1] + j * from[2];
                let to_at = b * to[0] + (i + off1) * to[1] + (j + off2) * to[2];
                if contiguous_rows {
                    copy(at, to_at, width);
                } else {
                    for e in 0..width {
                        copy(at + e * from[3], to_at + e * to[3], 1);
                    }
                }
            }
        }
    }
}
