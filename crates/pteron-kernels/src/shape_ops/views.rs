//! Views made real: reshapes, permutations, pieces.

use pteron_tensor::{Shape, View, ViewMut, contiguous_order, strides_for};

use super::engine::{Plan, check_dtype, copy_strided, count_of, dim_of, dims_of, index_of};
use crate::elementwise::compute::broadcast_strides;
use crate::elementwise::drive::{check_out, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::{Context, KernelError, KernelResult};

/// Copies `a` as if it had `strides` from element `from` on, all of `out`.
fn gather_view(ctx: &Context, a: View<'_>, from: usize, strides: &[usize], mut out: ViewMut<'_>) -> KernelResult {
    copy_strided(ctx, a, from, strides, &mut out);
    Ok(())
}

fn row_major(op: &'static str, sizes: &[usize]) -> Result<Shape, KernelError> {
    strides_for(sizes, &contiguous_order(sizes.len())).map_err(|e| KernelError::new(op, e.to_string()))
}

/// The elements of `a` in row-major order with the sizes of `out` (`view_copy`, `reshape`). One entry of `sizes` may be
/// -1: what is left.
///
/// # Errors
/// Also if `sizes` does not have the elements of `a`, or `out` not these sizes.
pub fn view_copy(ctx: &Context, a: View<'_>, sizes: &[i64], mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::view_copy";
    let n = a.numel();
    let unknown = sizes.iter().filter(|&&s| s == -1).count();
    let known = sizes
        .iter()
        .filter(|&&s| s != -1)
        .try_fold(1usize, |p, &s| p.checked_mul(usize::try_from(s).ok()?))
        .filter(|&p| if unknown == 0 { p == n } else { unknown == 1 && p > 0 && n.is_multiple_of(p) })
        .ok_or_else(|| {
            KernelError::new(op, format!("size {sizes:?} does not fit {n} elements of sizes {:?}", a.sizes()))
        })?;
    let resolved: Shape = sizes.iter().map(|&s| usize::try_from(s).unwrap_or(n / known.max(1))).collect();
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &resolved)?;
    let from_rows = row_major(op, a.sizes())?;
    let to_rows = row_major(op, &resolved)?;
    if n == 0 {
        return Ok(());
    }
    if a.is_contiguous() {
        return gather_view(ctx, a, 0, &to_rows, out);
    }
    if out.is_contiguous() {
        // `out` read as if it had the sizes of `a`.
        Plan::new(a.sizes(), &from_rows, a.strides()).run_on(ctx, a, 0, &mut out, 0);
        return Ok(());
    }
    let w = a.dtype().bits() / 8;
    for i in 0..n {
        let (s, d) = (a.position(i) * w, out.position(i) * w);
        out.bytes_mut()[d..d + w].copy_from_slice(&a.bytes()[s..s + w]);
    }
    Ok(())
}

/// Dimension `i` of the result is dimension `dims[i]` of `a`.
pub fn permute_copy(ctx: &Context, a: View<'_>, dims: &[i64], out: ViewMut<'_>) -> KernelResult {
    let op = "aten::permute_copy";
    if dims.len() != a.rank() {
        return Err(KernelError::new(op, format!("dims is {dims:?}, expected {} dimensions", a.rank())));
    }
    dims_of(op, dims, a.rank())?;
    let order: Vec<usize> = dims.iter().map(|&d| dim_of(op, d, a.rank())).collect::<Result<_, _>>()?;
    let sizes: Shape = order.iter().map(|&d| a.sizes()[d]).collect();
    let strides: Shape = order.iter().map(|&d| a.strides()[d]).collect();
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &sizes)?;
    gather_view(ctx, a, 0, &strides, out)
}

/// `a` repeated along its dimensions of size 1 to `sizes`; -1 keeps a dimension.
pub fn expand_copy(ctx: &Context, a: View<'_>, sizes: &[i64], out: ViewMut<'_>) -> KernelResult {
    let op = "aten::expand_copy";
    let bad = || KernelError::new(op, format!("sizes {:?} do not expand to {sizes:?}", a.sizes()));
    let lead = sizes.len().checked_sub(a.rank()).ok_or_else(bad)?;
    let mut resolved = Shape::new();
    for (i, &s) in sizes.iter().enumerate() {
        let own = i.checked_sub(lead).map(|d| a.sizes()[d]);
        resolved.push(match (s, own) {
            (-1, Some(own)) => own,
            (s, own) => {
                let s = usize::try_from(s).map_err(|_| bad())?;
                if own.is_some_and(|o| o != s && o != 1) {
                    return Err(bad());
                }
                s
            }
        });
    }
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &resolved)?;
    gather_view(ctx, a, 0, &broadcast_strides(&resolved, a.sizes(), a.strides()), out)
}

/// `a` with a new dimension of size 1 at `dim`, which may be the rank of `a`.
pub fn unsqueeze_copy(ctx: &Context, a: View<'_>, dim: i64, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::unsqueeze_copy";
    let d = dim_of(op, dim, a.rank() + 1)?;
    let (mut sizes, mut strides) = (Shape::from_slice(a.sizes()), Shape::from_slice(a.strides()));
    sizes.insert(d, 1);
    strides.insert(d, 1);
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &sizes)?;
    gather_view(ctx, a, 0, &strides, out)
}

/// `a` without those of `dims` that have size 1; the others stay.
pub fn squeeze_copy(ctx: &Context, a: View<'_>, dims: &[i64], out: ViewMut<'_>) -> KernelResult {
    let op = "aten::squeeze_copy";
    let set = dims_of(op, dims, a.rank())?;
    let keep = |d: &usize| !(set[*d] && a.sizes()[*d] == 1);
    let sizes: Shape = (0..a.rank()).filter(keep).map(|d| a.sizes()[d]).collect();
    let strides: Shape = (0..a.rank()).filter(keep).map(|d| a.strides()[d]).collect();
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &sizes)?;
    gather_view(ctx, a, 0, &strides, out)
}

/// Positions `start, start + step, …` below `end` of dimension `dim`. Negative limits count from the end, limits outside
/// the dimension are moved to it, as in Python; `step` is at least 1.
pub fn slice_copy(
    ctx: &Context,
    a: View<'_>,
    dim: i64,
    start: Option<i64>,
    end: Option<i64>,
    step: i64,
    out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::slice_copy";
    if a.rank() == 0 {
        return Err(KernelError::new(op, "a tensor without dimensions cannot be sliced"));
    }
    let d = dim_of(op, dim, a.rank())?;
    let step = usize::try_from(step)
        .ok()
        .filter(|&s| s > 0)
        .ok_or_else(|| KernelError::new(op, format!("step is {step}, expected 1 or more")))?;
    let size = a.sizes()[d];
    let limit = |v: i64| {
        let n = size as i64;
        (if v < 0 { v.saturating_add(n) } else { v }).clamp(0, n) as usize
    };
    let start = limit(start.unwrap_or(0));
    let end = limit(end.unwrap_or(i64::MAX)).max(start);
    let (mut sizes, mut strides) = (Shape::from_slice(a.sizes()), Shape::from_slice(a.strides()));
    sizes[d] = (end - start).div_ceil(step);
    // A stride that is not used may overflow.
    strides[d] = strides[d].wrapping_mul(step);
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &sizes)?;
    gather_view(ctx, a, start.wrapping_mul(a.strides()[d]), &strides, out)
}

/// Positions `start..start + length` of dimension `dim`.
///
/// # Errors
/// Also if they are not all there.
pub fn narrow(ctx: &Context, a: View<'_>, dim: i64, start: i64, length: i64, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::narrow_copy";
    let d = dim_of(op, dim, a.rank())?;
    let size = a.sizes().get(d).copied().unwrap_or(0) as i64;
    let first = if start < 0 { start.saturating_add(size) } else { start };
    if length < 0 || first < 0 || first.checked_add(length).is_none_or(|e| e > size) {
        let e = format!("start {start} and length {length} leave a dimension of size {size}");
        return Err(KernelError::new(op, e));
    }
    slice_copy(ctx, a, dim, Some(first), Some(first + length), 1, out)
}

/// Position `index` of dimension `dim`, without that dimension.
pub fn select_copy(ctx: &Context, a: View<'_>, dim: i64, index: i64, out: ViewMut<'_>) -> KernelResult {
    let op = "aten::select_copy";
    if a.rank() == 0 {
        return Err(KernelError::new(op, "a tensor without dimensions has no positions to select"));
    }
    let d = dim_of(op, dim, a.rank())?;
    let index = index_of(op, "index", index, a.sizes()[d])?;
    let (mut sizes, mut strides) = (Shape::from_slice(a.sizes()), Shape::from_slice(a.strides()));
    sizes.remove(d);
    let stride = strides.remove(d);
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &sizes)?;
    gather_view(ctx, a, index.wrapping_mul(stride), &strides, out)
}

/// `a` with the order of positions reversed in each of `dims`.
pub fn flip(ctx: &Context, a: View<'_>, dims: &[i64], out: ViewMut<'_>) -> KernelResult {
    let op = "aten::flip";
    let set = dims_of(op, dims, a.rank())?;
    let mut strides = Shape::from_slice(a.strides());
    let mut from = 0usize;
    for (d, s) in strides.iter_mut().enumerate().filter(|&(d, _)| set[d]) {
        from = from.wrapping_add(a.sizes()[d].saturating_sub(1).wrapping_mul(*s));
        *s = s.wrapping_neg();
    }
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, a.sizes())?;
    gather_view(ctx, a, from, &strides, out)
}

/// `a` laid `repeats[i]` times along dimension `i`; leading dimensions are added as needed.
pub fn repeat(ctx: &Context, a: View<'_>, repeats: &[i64], mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::repeat";
    let lead = repeats.len().checked_sub(a.rank()).ok_or_else(|| {
        KernelError::new(op, format!("repeats is {repeats:?}, expected {} numbers or more", a.rank()))
    })?;
    let mut own = Shape::from_elem(1, lead);
    own.extend_from_slice(a.sizes());
    let counts: Vec<usize> = repeats.iter().map(|&r| count_of(op, "a repeat", r)).collect::<Result<_, _>>()?;
    let sizes: Option<Shape> = own.iter().zip(&counts).map(|(&s, &r)| s.checked_mul(r)).collect();
    let sizes = sizes.ok_or_else(|| KernelError::new(op, format!("repeats {repeats:?} make the result too large")))?;
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, &sizes)?;
    // Every result dimension is (repeat, position); the repeat has stride 0 in the input.
    let in_strides = broadcast_strides(&own, a.sizes(), a.strides());
    let (mut s, mut o, mut i) = (Shape::new(), Shape::new(), Shape::new());
    for d in 0..own.len() {
        s.extend([counts[d], own[d]]);
        o.extend([out.strides()[d].wrapping_mul(own[d]), out.strides()[d]]);
        i.extend([0, in_strides[d]]);
    }
    if out.numel() > 0 {
        Plan::new(&s, &o, &i).run_on(ctx, a, 0, &mut out, 0);
    }
    Ok(())
}

fn triangle(op: &'static str, a: View<'_>, diagonal: i64, mut out: ViewMut<'_>, lower: bool) -> KernelResult {
    let Some(d) = a.rank().checked_sub(2) else {
        return Err(KernelError::new(op, format!("the operand has rank {}, expected 2 or more", a.rank())));
    };
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, a.sizes())?;
    let [rows, cols] = [a.sizes()[d], a.sizes()[d + 1]];
    let strides: Vec<usize> = out.strides().to_vec();
    let lead = Nest::new(&a.sizes()[..d], &[&strides[..d], &a.strides()[..d]], false);
    let w = a.dtype().bits() / 8;
    lead.each(|at| {
        for r in 0..rows {
            // First column beyond the diagonal of this row.
            let beyond = (r as i64).saturating_add(diagonal).saturating_add(i64::from(lower));
            let cut = usize::try_from(beyond).unwrap_or(0).min(cols);
            for c in 0..cols {
                let o = (at[0] + r * strides[d] + c * strides[d + 1]) * w;
                let i = (at[1] + r * a.strides()[d] + c * a.strides()[d + 1]) * w;
                let target = &mut out.bytes_mut()[o..o + w];
                if (c < cut) == lower {
                    target.copy_from_slice(&a.bytes()[i..i + w]);
                } else {
                    target.fill(0);
                }
            }
        }
    });
    Ok(())
}

/// The elements of the last two dimensions on and below diagonal `diagonal` (0: the main one, positive: above); zeros
/// elsewhere.
pub fn tril(_ctx: &Context, a: View<'_>, diagonal: i64, out: ViewMut<'_>) -> KernelResult {
    triangle("aten::tril", a, diagonal, out, true)
}

/// The elements of the last two dimensions on and above diagonal `diagonal` (0: the main one, positive: above); zeros
/// elsewhere.
pub fn triu(_ctx: &Context, a: View<'_>, diagonal: i64, out: ViewMut<'_>) -> KernelResult {
    triangle("aten::triu", a, diagonal, out, false)
}

/// Writes `from` as row `index` of `to` in place (`executorch_prim::et_copy_index`): `to` has one leading dimension more
/// than `from` and the same dtype.
///
/// # Errors
/// Also if `index` is not below the leading size of `to`.
pub fn copy_index(ctx: &Context, from: View<'_>, index: i64, mut to: ViewMut<'_>) -> KernelResult {
    let op = "executorch_prim::et_copy_index";
    check_dtype(op, &to, from.dtype())?;
    if to.rank() == 0 || &to.sizes()[1..] != from.sizes() {
        let e = format!("a row has sizes {:?}, but the target has {:?}", from.sizes(), to.sizes());
        return Err(KernelError::new(op, e));
    }
    let (sizes, strides) = (to.sizes(), to.strides());
    check_out(op, &to, sizes)?;
    whole_bytes(op, from.dtype())?;
    let row = usize::try_from(index)
        .ok()
        .filter(|&i| i < sizes[0])
        .ok_or_else(|| KernelError::new(op, format!("index is {index}, out of range for {} rows", sizes[0])))?;
    if from.numel() > 0 {
        Plan::new(from.sizes(), &strides[1..], from.strides()).run_on(ctx, from, 0, &mut to, row * strides[0]);
    }
    Ok(())
}
