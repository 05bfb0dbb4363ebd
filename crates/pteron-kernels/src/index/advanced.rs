//! Advanced indexing by several index tensors at once.

use pteron_tensor::{DType, Shape, View, ViewMut};

use crate::elementwise::compute::{Compute, Num, broadcast_sizes, broadcast_strides, in_compute};
use crate::elementwise::drive::{BLOCK, check_out, whole_bytes};
use crate::elementwise::nest::Nest;
use crate::shape_ops::engine::{Plan, check_dtype, load_indices};
use crate::{Context, KernelError, KernelResult};

/// Index tensors resolved against the tensor they index.
struct Advanced {
    /// Sizes of the indices broadcast together.
    lead: Shape,
    /// Where those sizes stand in the result.
    place: usize,
    /// Dimensions of the tensor that are not indexed.
    rest: Vec<usize>,
    slots: Vec<Slot>,
}

/// One indexed dimension: sizes of its index tensor and the entries in row-major order.
struct Slot {
    dim: usize,
    sizes: Shape,
    entries: Vec<i64>,
}

/// The slots of a `bool` mask over dimensions `dim..`: its true places.
fn mask_slots(op: &'static str, mask: &View<'_>, dim: usize, sizes: &[usize]) -> Result<Vec<Slot>, KernelError> {
    let own = mask.sizes();
    if own.is_empty() {
        return Err(KernelError::new(op, "a mask without dimensions is not supported"));
    }
    if sizes.get(dim..dim + own.len()) != Some(own) {
        let e = format!("a mask of sizes {own:?} does not fit dimensions {dim}.. of {sizes:?}");
        return Err(KernelError::new(op, e));
    }
    let set: Vec<usize> = load_indices(mask).iter().enumerate().filter(|&(_, &v)| v != 0).map(|(i, _)| i).collect();
    let mut slots = Vec::new();
    let mut inner = mask.numel();
    for (k, &n) in own.iter().enumerate() {
        inner /= n.max(1);
        let entries = set.iter().map(|&flat| (flat / inner.max(1) % n) as i64).collect();
        slots.push(Slot { dim: dim + k, sizes: Shape::from_slice(&[set.len()]), entries });
    }
    Ok(slots)
}

fn resolve(op: &'static str, sizes: &[usize], indices: &[Option<View<'_>>]) -> Result<Advanced, KernelError> {
    let mut slots: Vec<Slot> = Vec::new();
    let mut dim = 0;
    for index in indices {
        match index {
            None => dim += 1,
            Some(v) if matches!(v.dtype(), DType::Bool | DType::U8) => {
                slots.extend(mask_slots(op, v, dim, sizes)?);
                dim += v.rank();
            }
            Some(v) if matches!(v.dtype(), DType::I64 | DType::I32) => {
                slots.push(Slot { dim, sizes: Shape::from_slice(v.sizes()), entries: load_indices(v) });
                dim += 1;
            }
            Some(v) => {
                let e = format!("an index tensor is {}, expected i64, i32 or bool", v.dtype());
                return Err(KernelError::new(op, e));
            }
        }
    }
    if dim > sizes.len() {
        return Err(KernelError::new(op, format!("{dim} dimensions are indexed, but the tensor has {}", sizes.len())));
    }
    if slots.is_empty() {
        return Err(KernelError::new(op, "no dimension is indexed"));
    }
    let all: Vec<&[usize]> = slots.iter().map(|s| &s.sizes[..]).collect();
    let lead = broadcast_sizes(op, &all)?;
    let dims: Vec<usize> = slots.iter().map(|s| s.dim).collect();
    let adjacent = dims.windows(2).all(|w| w[1] == w[0] + 1);
    let rest = (0..sizes.len()).filter(|d| !dims.contains(d)).collect();
    Ok(Advanced { lead, place: if adjacent { dims[0] } else { 0 }, rest, slots })
}

impl Advanced {
    /// For every index tuple in row-major order, the element at which it begins in a tensor of these sizes and strides.
    fn starts(&self, op: &'static str, sizes: &[usize], strides: &[usize]) -> Result<Vec<usize>, KernelError> {
        let lead = &self.lead;
        let count = lead.iter().fold(1usize, |n, &s| n.saturating_mul(s));
        let mut starts = Vec::new();
        starts
            .try_reserve_exact(count)
            .map_err(|_| KernelError::new(op, format!("{count} index tuples are too many")))?;
        starts.resize(count, 0usize);
        for s in &self.slots {
            let n = sizes[s.dim] as i64;
            for &i in &s.entries {
                if i < -n || i >= n {
                    let e = format!("index {i} is out of range for dimension {} of size {n}", s.dim);
                    return Err(KernelError::new(op, e));
                }
            }
            let own: Shape = pteron_tensor::strides_for(&s.sizes, &pteron_tensor::contiguous_order(s.sizes.len()))
                .map_err(|e| KernelError::new(op, e.to_string()))?;
            let own = broadcast_strides(lead, &s.sizes, &own);
            let mut next = starts.iter_mut();
            Nest::new(lead, &[&own], false).each(|at| {
                if let (Some(start), Some(&i)) = (next.next(), s.entries.get(at[0])) {
                    let i = if i < 0 { i + n } else { i };
                    *start = start.wrapping_add((i as usize).wrapping_mul(strides[s.dim]));
                }
            });
        }
        Ok(starts)
    }

    fn result_sizes(&self, sizes: &[usize]) -> Shape {
        let mut all: Shape = self.rest.iter().map(|&d| sizes[d]).collect();
        all.insert_from_slice(self.place, &self.lead);
        all
    }

    /// Takes strides of the result apart: those of the index tuple, those of the rest.
    fn split(&self, strides: &[usize]) -> (Shape, Shape) {
        let end = self.place + self.lead.len();
        let mut rest = Shape::from_slice(&strides[..self.place]);
        rest.extend_from_slice(&strides[end..]);
        (Shape::from_slice(&strides[self.place..end]), rest)
    }
}

/// `a[i₀[…], i₁[…], …]`: the index tensors broadcast together, `None` takes a whole dimension, negative indices count from
/// the end, and a `bool` mask stands for the places where it is true. The broadcast sizes replace the indexed dimensions
/// where those are adjacent; otherwise they come first.
pub fn index(_ctx: &Context, a: View<'_>, indices: &[Option<View<'_>>], mut out: ViewMut<'_>) -> KernelResult {
    let op = "aten::index";
    check_dtype(op, &out, a.dtype())?;
    let adv = resolve(op, a.sizes(), indices)?;
    check_out(op, &out, &adv.result_sizes(a.sizes()))?;
    let starts = adv.starts(op, a.sizes(), a.strides())?;
    if out.numel() == 0 {
        return Ok(());
    }
    let (lead, rest) = adv.split(out.strides());
    let sizes: Shape = adv.rest.iter().map(|&d| a.sizes()[d]).collect();
    let strides: Shape = adv.rest.iter().map(|&d| a.strides()[d]).collect();
    let plan = Plan::new(&sizes, &rest, &strides);
    let mut next = starts.iter();
    Nest::new(&adv.lead, &[&lead], false).each(|at| {
        if let Some(&start) = next.next() {
            plan.run(a, start, &mut out, at[0]);
        }
    });
    Ok(())
}

/// `out` becomes `a` with `values` written at the indexed places. See [`index_put_inplace`].
pub fn index_put(
    ctx: &Context,
    a: View<'_>,
    indices: &[Option<View<'_>>],
    values: View<'_>,
    accumulate: bool,
    mut out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::index_put";
    check_dtype(op, &out, a.dtype())?;
    check_out(op, &out, a.sizes())?;
    crate::elementwise::clone(ctx, a, out.reborrow())?;
    index_put_inplace(ctx, out, indices, values, accumulate)
}

/// Writes `values`, broadcast to the sizes that [`index`] would give, at the indexed places of `target`; with `accumulate`
/// adds them. Of several values for one place the last in row-major order stays.
///
/// # Errors
/// Also if `values` has another dtype than `target`.
pub fn index_put_inplace(
    _ctx: &Context,
    mut target: ViewMut<'_>,
    indices: &[Option<View<'_>>],
    values: View<'_>,
    accumulate: bool,
) -> KernelResult {
    let op = "aten::index_put";
    let (sizes, strides) = (target.sizes(), target.strides());
    check_out(op, &target, sizes)?;
    whole_bytes(op, values.dtype())?;
    if values.dtype() != target.dtype() {
        let e = format!("values are {}, but the tensor is {}", values.dtype(), target.dtype());
        return Err(KernelError::new(op, e));
    }
    let adv = resolve(op, sizes, indices)?;
    let result = adv.result_sizes(sizes);
    if broadcast_sizes(op, &[&result, values.sizes()])? != result {
        let e = format!("values of sizes {:?} do not broadcast to {result:?}", values.sizes());
        return Err(KernelError::new(op, e));
    }
    let starts = adv.starts(op, sizes, strides)?;
    if result.contains(&0) {
        return Ok(());
    }
    let (lead, rest) = adv.split(&broadcast_strides(&result, values.sizes(), values.strides()));
    let own_sizes: Shape = adv.rest.iter().map(|&d| sizes[d]).collect();
    let own: Shape = adv.rest.iter().map(|&d| strides[d]).collect();
    let mut next = starts.iter();
    let places = Nest::new(&adv.lead, &[&lead], false);
    if !accumulate {
        let plan = Plan::new(&own_sizes, &own, &rest);
        places.each(|at| {
            if let Some(&start) = next.next() {
                plan.run(values, at[0], &mut target, start);
            }
        });
        return Ok(());
    }
    let dtype = target.dtype();
    let rows = Nest::new(&own_sizes, &[&own, &rest], true);
    let [step_to, step_from, ..] = rows.inner();
    in_compute!(dtype, C => {
        let (mut sum, mut add) = ([C::ZERO; BLOCK], [C::ZERO; BLOCK]);
        places.each(|at| {
            let Some(&start) = next.next() else { return };
            rows.rows(0..rows.total(), |r, len| {
                let mut done = 0;
                while done < len {
                    let n = BLOCK.min(len - done);
                    let to = start + r[0] + done * step_to;
                    C::load(dtype, target.bytes(), to, step_to, &mut sum[..n]);
                    C::load(dtype, values.bytes(), at[0] + r[1] + done * step_from, step_from, &mut add[..n]);
                    for (s, &v) in sum[..n].iter_mut().zip(&add[..n]) {
                        *s = s.plus(v);
                    }
                    C::store(dtype, target.bytes_mut(), to, step_to, &sum[..n]);
                    done += n;
                }
            });
        });
    });
    Ok(())
}
