//! Rows written into a cache in place.

use pteron_tensor::{DType, View, ViewMut};

use super::lookup::row_indices;
use crate::elementwise::drive::{check_out, whole_bytes};
use crate::shape_ops::engine::{Plan, check_dtype, dim_of};
use crate::{Context, KernelError, KernelResult};

/// Checks `value [B, S, …]` against `cache [B, S_max, …]` and gives S and S_max.
fn rows(op: &'static str, value: &View<'_>, cache: &ViewMut<'_>) -> Result<(usize, usize), KernelError> {
    whole_bytes(op, value.dtype())?;
    check_out(op, cache, cache.sizes())?;
    let (v, c) = (value.sizes(), cache.sizes());
    let fits = v.len() == 4 && c.len() == 4 && v[0] == c[0] && v[2..] == c[2..];
    if !fits {
        let e = format!("value has sizes {v:?}, cache has {c:?}; expected [B, S, H, D] and [B, S_max, H, D]");
        return Err(KernelError::new(op, e));
    }
    if value.dtype() != cache.dtype() {
        return Err(KernelError::new(op, format!("value is {}, but the cache is {}", value.dtype(), cache.dtype())));
    }
    Ok((v[1], c[1]))
}

/// Where `start_pos` is, of S new rows and S_max that are there.
fn first_row(op: &'static str, s: usize, s_max: usize, start_pos: i64) -> Result<usize, KernelError> {
    usize::try_from(start_pos)
        .ok()
        .filter(|&p| p < s_max && s <= s_max - p)
        .ok_or_else(|| KernelError::new(op, format!("{s} rows at start_pos {start_pos} leave a cache of {s_max} rows")))
}

/// Rows `start_pos..start_pos + S` of dimension 1 of `cache [B, S_max, H, D]`, as a tensor of `sizes [B, S, H, D]` to write.
///
/// # Errors
/// As [`update_cache`].
pub fn rows_of_cache<'a>(
    cache: &'a mut ViewMut<'_>,
    sizes: &'a [usize],
    start_pos: i64,
) -> Result<ViewMut<'a>, KernelError> {
    let op = "llama::update_cache";
    let dtype = cache.dtype();
    whole_bytes(op, dtype)?;
    let c = cache.sizes();
    let fits = sizes.len() == 4 && c.len() == 4 && sizes[0] == c[0] && sizes[2..] == c[2..];
    if !fits {
        return Err(KernelError::new(op, format!("rows of sizes {sizes:?} of a cache of {c:?}")));
    }
    let strides = cache.strides();
    let at = first_row(op, sizes[1], c[1], start_pos)? * strides[1] * dtype.bits() / 8;
    let rows = cache.bytes_mut().get_mut(at..).unwrap_or(&mut []);
    ViewMut::new(dtype, sizes, strides, rows).map_err(|e| KernelError::new(op, e.to_string()))
}

/// Writes `value [B, S, H, D]` into rows `start_pos..start_pos + S` of dimension 1 of `cache [B, S_max, H, D]`
/// (`llama::update_cache`).
///
/// # Errors
/// Also if `start_pos` is negative or not below S_max, or the rows do not end by S_max.
pub fn update_cache(_ctx: &Context, value: View<'_>, mut cache: ViewMut<'_>, start_pos: i64) -> KernelResult {
    let op = "llama::update_cache";
    let (s, s_max) = rows(op, &value, &cache)?;
    let start = first_row(op, s, s_max, start_pos)?;
    if value.numel() > 0 {
        let stride = cache.strides()[1];
        if value.is_contiguous() && cache.is_contiguous() {
            let [row, batch] = [1, s_max].map(|n| n * stride * value.dtype().bits() / 8);
            let (from, to) = (value.bytes().chunks_exact(s * row), cache.bytes_mut().chunks_exact_mut(batch));
            for (from, to) in from.zip(to).take(value.sizes()[0]) {
                to[start * row..][..from.len()].copy_from_slice(from);
            }
            return Ok(());
        }
        Plan::new(value.sizes(), cache.strides(), value.strides()).run(value, 0, &mut cache, start * stride);
    }
    Ok(())
}

/// Writes row `[b, s]` of `value [B, S, H, D]` into row `indices[b, s]` of `cache [B, S_max, H, D]`
/// (`llama::update_cache_with_indices`). `indices` is `[B, S]`, `i64`.
///
/// # Errors
/// Also if an index is negative or not below S_max.
pub fn update_cache_with_indices(
    _ctx: &Context,
    value: View<'_>,
    mut cache: ViewMut<'_>,
    indices: View<'_>,
) -> KernelResult {
    let op = "llama::update_cache_with_indices";
    let (s, s_max) = rows(op, &value, &cache)?;
    if indices.dtype() != DType::I64 || indices.sizes() != &value.sizes()[..2] {
        let e = format!(
            "indices are {} of sizes {:?}, expected i64 of {:?}",
            indices.dtype(),
            indices.sizes(),
            &value.sizes()[..2]
        );
        return Err(KernelError::new(op, e));
    }
    let list = row_indices(op, &indices, s_max, "rows in the cache")?;
    if value.numel() == 0 {
        return Ok(());
    }
    let (v, c) = (value.strides(), cache.strides());
    let plan = Plan::new(&value.sizes()[2..], &c[2..], &v[2..]);
    for (flat, &row) in list.iter().enumerate() {
        let (b, i) = (flat / s, flat % s);
        plan.run(value, b * v[0] + i * v[1], &mut cache, b * c[0] + row * c[1]);
    }
    Ok(())
}

/// `out` becomes `a` with `source` written at positions `indices` of dimension `dim`. See [`index_copy_inplace`].
pub fn index_copy(
    ctx: &Context,
    a: View<'_>,
    dim: i64,
    indices: View<'_>,
    source: View<'_>,
    mut out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::index_copy";
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, a.sizes())?;
    crate::elementwise::clone(ctx, a, out.reborrow())?;
    index_copy_inplace(ctx, out, dim, indices, source)
}

/// Writes position `j` of dimension `dim` of `source` at position `indices[j]` of `target`. `indices` has one dimension
/// (or none); `source` has the sizes of `target` but for `dim`, where it has one position for each index, and its dtype.
pub fn index_copy_inplace(
    _ctx: &Context,
    mut target: ViewMut<'_>,
    dim: i64,
    indices: View<'_>,
    source: View<'_>,
) -> KernelResult {
    let op = "aten::index_copy";
    let (sizes, strides) = (target.sizes(), target.strides());
    check_out(op, &target, sizes)?;
    if source.dtype() != target.dtype() {
        let e = format!("source is {}, but the tensor is {}", source.dtype(), target.dtype());
        return Err(KernelError::new(op, e));
    }
    let d = dim_of(op, dim, target.rank())?;
    let mut expected = sizes.to_vec();
    if let Some(n) = expected.get_mut(d) {
        *n = indices.numel();
    }
    if indices.rank() > 1 || source.sizes() != expected || (sizes.is_empty() && indices.numel() != 1) {
        let e = format!(
            "source has sizes {:?} for indices of {:?} along dim {d} of {sizes:?}; expected {expected:?}",
            source.sizes(),
            indices.sizes()
        );
        return Err(KernelError::new(op, e));
    }
    let list = row_indices(op, &indices, sizes.get(d).copied().unwrap_or(1), "positions")?;
    if source.numel() == 0 {
        return Ok(());
    }
    let (from, to) = if sizes.is_empty() { (0, 0) } else { (source.strides()[d], strides[d]) };
    if let Some(n) = expected.get_mut(d) {
        *n = 1;
    }
    let plan = Plan::new(&expected, strides, source.strides());
    for (j, &i) in list.iter().enumerate() {
        plan.run(source, j * from, &mut target, i * to);
    }
    Ok(())
}
