//! Operands as typed elements with strides.

use std::borrow::Cow;

use pteron_tensor::{DType, Element, Shape, Tensor, View, ViewMut, cast_bytes, contiguous_order, strides_for};

/// Elements of a tensor and where they lie: the tensor's own, or a row-major copy where those cannot be addressed as they
/// are (a pointer that is not aligned, another element type).
#[derive(Debug)]
pub(crate) struct Operand<'a, T: Clone> {
    pub(crate) data: Cow<'a, [T]>,
    /// In elements, one a dimension.
    pub(crate) strides: Shape,
}

impl<'a, T: Element> Operand<'a, T> {
    /// The elements of a view of type `T`; `None` if it has another type.
    pub(crate) fn of(view: &View<'a>) -> Option<Operand<'a, T>> {
        if T::DTYPE != view.dtype() {
            return None;
        }
        match view.as_strided::<T>() {
            Some(s) => Some(Operand { data: Cow::Borrowed(s), strides: Shape::from_slice(view.strides()) }),
            None => Operand::copied(view),
        }
    }

    /// A row-major copy.
    pub(crate) fn copied(view: &View<'_>) -> Option<Operand<'a, T>> {
        if T::DTYPE != view.dtype() {
            return None;
        }
        let copy = Tensor::copy_of(view);
        let strides = row_major(view.sizes());
        Some(Operand { data: Cow::Owned(bytemuck::pod_collect_to_vec(copy.bytes())), strides })
    }
}

impl<'a> Operand<'a, f32> {
    /// The elements of a view of type f32, or a row-major copy of one of f16 or bf16; `None` for other types.
    pub(crate) fn widened(view: &View<'a>) -> Option<Operand<'a, f32>> {
        match view.dtype() {
            DType::F32 => Operand::of(view),
            DType::F16 | DType::BF16 => {
                let n = view.numel();
                let mut data = vec![0f32; n];
                let out = bytemuck::cast_slice_mut(&mut data);
                if view.is_contiguous() {
                    cast_bytes(view.bytes(), view.dtype(), out, DType::F32, n)?;
                } else {
                    cast_bytes(Tensor::copy_of(view).bytes(), view.dtype(), out, DType::F32, n)?;
                }
                Some(Operand { data: Cow::Owned(data), strides: row_major(view.sizes()) })
            }
            _ => None,
        }
    }
}

/// Strides of a row-major tensor. The sizes are those of a view, so their product does not overflow.
pub(crate) fn row_major(sizes: &[usize]) -> Shape {
    strides_for(sizes, &contiguous_order(sizes.len())).unwrap_or_default()
}

/// Gives `fill` the row-major elements of `out`: its own memory where it is row-major, else a buffer that is copied to it
/// afterwards. `None` if `out` is not of type `T`.
pub(crate) fn write_row_major<T: Element, R>(out: &mut ViewMut<'_>, fill: impl FnOnce(&mut [T]) -> R) -> Option<R> {
    if T::DTYPE != out.dtype() {
        return None;
    }
    if let Some(all) = out.as_slice_mut::<T>() {
        return Some(fill(all));
    }
    let mut all = vec![T::zeroed(); out.numel()];
    let result = fill(&mut all);
    let size = size_of::<T>();
    for (i, v) in all.iter().enumerate() {
        let at = out.position(i) * size;
        out.bytes_mut()[at..at + size].copy_from_slice(bytemuck::bytes_of(v));
    }
    Some(result)
}

/// A pointer into an output whose disjoint parts are written by different threads.
#[derive(Debug)]
pub(crate) struct SharedMut<T>(*mut T);

// SAFETY: the pointer is only a place; whoever writes through it vouches (at that block) that no other thread uses the same
// elements.
unsafe impl<T: Send> Sync for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(crate) fn new(slice: &mut [T]) -> SharedMut<T> {
        SharedMut(slice.as_mut_ptr())
    }

    /// The place `offset` elements on.
    ///
    /// # Safety
    /// `offset` lies within the slice or at its end.
    pub(crate) unsafe fn at(&self, offset: usize) -> *mut T {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}
