//! Rows and elements looked up by an index tensor.

use pteron_tensor::{DType, Shape, View, ViewMut};

use crate::elementwise::drive::{check_out, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::{Plan, check_dtype, dim_of, load_indices};
use crate::{Context, KernelError, KernelResult};

/// The entries of an `i64` or `i32` tensor, all in `0..size`.
pub(crate) fn row_indices(
    op: &'static str,
    indices: &View<'_>,
    size: usize,
    of: &str,
) -> Result<Vec<usize>, KernelError> {
    if !matches!(indices.dtype(), DType::I64 | DType::I32) {
        return Err(KernelError::new(op, format!("the indices are {}, expected i64 or i32", indices.dtype())));
    }
    let check = |i: i64| {
        usize::try_from(i)
            .ok()
            .filter(|&i| i < size)
            .ok_or_else(|| KernelError::new(op, format!("index {i} is out of range: there are {size} {of}")))
    };
    load_indices(indices).into_iter().map(check).collect()
}

/// Row `indices[…]` of `weight` for every index: `weight` is `[rows, width]`, `out` has the sizes of `indices` and then
/// `width`. Elements are converted to the dtype of `out`.
///
/// # Errors
/// Also for an index that is negative or not below the number of rows.
pub fn embedding(_ctx: &Context, weight: View<'_>, indices: View<'_>, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::embedding";
    whole_bytes(op, weight.dtype())?;
    let [rows, width] = *weight.sizes() else {
        return Err(KernelError::new(op, format!("weight has sizes {:?}, expected [rows, width]", weight.sizes())));
    };
    let mut sizes = Shape::from_slice(indices.sizes());
    sizes.push(width);
    check_out(op, &out, &sizes)?;
    let rank = indices.rank();
    let list = row_indices(op, &indices, rows, "rows")?;
    if width == 0 {
        return Ok(());
    }
    let row = Plan::new(&[width], &out.strides()[rank..], &weight.strides()[1..]);
    let places = Nest::new(indices.sizes(), &[&out.strides()[..rank]], false);
    let stride = weight.strides()[0];
    let mut next = list.iter();
    places.each(|at| {
        if let Some(&i) = next.next() {
            row.run(weight, i * stride, &mut out, at[0]);
        }
    });
    Ok(())
}

/// Positions `indices[…]` of dimension `dim` of `a`: `indices` has one dimension (or none, for one position). `out` has
/// the sizes of `a`, but for `dim` the number of indices.
pub fn index_select(_ctx: &Context, a: View<'_>, dim: i64, indices: View<'_>, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::index_select";
    check_dtype(op, &out, a.dtype())?;
    let d = dim_of(op, dim, a.rank())?;
    if indices.rank() > 1 {
        return Err(KernelError::new(op, format!("the indices have rank {}, expected 1", indices.rank())));
    }
    let mut sizes = Shape::from_slice(a.sizes());
    let size = sizes.get(d).copied().unwrap_or(1);
    let list = row_indices(op, &indices, size, "positions")?;
    if a.rank() == 0 {
        check_out(op, &out, &[])?;
        if list.len() != 1 {
            return Err(KernelError::new(op, format!("{} indices into a tensor without dimensions", list.len())));
        }
    } else {
        sizes[d] = list.len();
        check_out(op, &out, &sizes)?;
        sizes[d] = 1;
    }
    if out.numel() == 0 {
        return Ok(());
    }
    let plan = Plan::new(&sizes, out.strides(), a.strides());
    let (from, to) = if a.rank() == 0 { (0, 0) } else { (a.strides()[d], out.strides()[d]) };
    for (j, &i) in list.iter().enumerate() {
        plan.run(a, i * from, &mut out, j * to);
    }
    Ok(())
}

/// `out[i][j]… = a[indices[i][j]…][j]…`, the index taking the place of the position in dimension `dim`. `indices` has the
/// rank of `a`, and is no larger than it in the other dimensions; `out` has the sizes of `indices`.
pub fn gather(_ctx: &Context, a: View<'_>, dim: i64, indices: View<'_>, mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::gather";
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, indices.sizes())?;
    let d = dim_of(op, dim, a.rank())?;
    let fits = |(i, (&n, &s)): (usize, (&usize, &usize))| i == d || n <= s;
    if indices.numel() > 0
        && (indices.rank() != a.rank() || !indices.sizes().iter().zip(a.sizes()).enumerate().all(fits))
    {
        let e = format!("indices of sizes {:?} do not fit into {:?} along dim {d}", indices.sizes(), a.sizes());
        return Err(KernelError::new(op, e));
    }
    let size = a.sizes().get(d).copied().unwrap_or(1);
    let list = row_indices(op, &indices, size, "positions")?;
    if list.is_empty() {
        return Ok(());
    }
    let mut strides = Shape::from_slice(a.strides());
    let along = strides.get_mut(d).map_or(0, std::mem::take);
    let w = a.dtype().bits() / 8;
    let mut next = list.iter();
    Nest::new(indices.sizes(), &[out.strides(), &strides], false).each(|at| {
        if let Some(&i) = next.next() {
            let (o, s) = (at[0] * w, (at[1] + i * along) * w);
            out.bytes_mut()[o..o + w].copy_from_slice(&a.bytes()[s..s + w]);
        }
    });
    Ok(())
}
