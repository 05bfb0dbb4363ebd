//! The largest or smallest elements of each line.

use std::cmp::Ordering;

use pteron_tensor::{DType, View, ViewMut};

use crate::elementwise::compute::{Compute, Num, in_compute};
use crate::elementwise::drive::{check_out, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::{check_dtype, count_of, dim_of};
use crate::{Context, KernelError, KernelResult};

/// The `k` largest (or smallest) elements along `dim` and where they stand (`i64`), best first; of equals the first comes
/// first. NaN is above everything. `sorted = false` leaves the order open; it is the same here.
///
/// # Errors
/// Also if the dimension has fewer than `k` elements.
pub fn topk(
    _ctx: &Context,
    a: View<'_>,
    k: i64,
    dim: i64,
    largest: bool,
    _sorted: bool,
    mut values: ViewMut<'_>,
    mut indices: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::topk";
    whole_bytes(op, a.dtype())?;
    check_dtype(op, &values, a.dtype())?;
    check_dtype(op, &indices, DType::I64)?;
    let d = dim_of(op, dim, a.rank())?;
    let k = count_of(op, "k", k)?;
    let (n, step) = if a.rank() == 0 { (1, 1) } else { (a.sizes()[d], a.strides()[d]) };
    if k > n {
        return Err(KernelError::new(op, format!("k is {k}, but the dimension has {n} elements")));
    }
    let mut sizes = a.sizes().to_vec();
    if let Some(s) = sizes.get_mut(d) {
        *s = k;
    }
    let shape = if a.rank() == 0 { vec![] } else { sizes.clone() };
    check_out(op, &values, &shape)?;
    check_out(op, &indices, &shape)?;
    if values.numel() == 0 {
        return Ok(());
    }
    let (to_value, to_index) = if a.rank() == 0 { (1, 1) } else { (values.strides()[d], indices.strides()[d]) };
    if let Some(s) = sizes.get_mut(d) {
        *s = 1;
    }
    let nest = Nest::new(&sizes, &[a.strides(), values.strides(), indices.strides()], false);
    in_compute!(a.dtype(), C => {
        let mut line = vec![C::ZERO; n];
        let mut order: Vec<usize> = Vec::with_capacity(n);
        nest.each(|at| {
            C::load(a.dtype(), a.bytes(), at[0], step, &mut line);
            order.clear();
            order.extend(0..n);
            let rank = |&x: &usize, &y: &usize| {
                let (x_nan, y_nan) = (line[x].nan(), line[y].nan());
                let up = x_nan.cmp(&y_nan).then(line[x].partial_cmp(&line[y]).unwrap_or(Ordering::Equal));
                (if largest { up.reverse() } else { up }).then(x.cmp(&y))
            };
            if k < n {
                order.select_nth_unstable_by(k - 1, rank);
            }
            order[..k].sort_unstable_by(rank);
            for (j, &i) in order[..k].iter().enumerate() {
                C::store_one(&mut values, at[1] + j * to_value, line[i]);
                i64::store_one(&mut indices, at[2] + j * to_index, i as i64);
            }
        });
    });
    Ok(())
}
