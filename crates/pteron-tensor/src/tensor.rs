//! Borrowed and owned tensors.

use crate::{AlignedBytes, DType, Element, Scalar, Shape, ShapeError, checked_numel, is_contiguous, strides_for};
use crate::{contiguous_order, read_scalar, write_scalar};

/// Why bytes, sizes and strides make no tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    /// The sizes are impossible.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// The buffer is too short.
    #[error("a {dtype} tensor of sizes {sizes:?} and strides {strides:?} needs {need} bytes, {have} given")]
    TooShort {
        /// Element type.
        dtype: DType,
        /// Sizes.
        sizes: Vec<usize>,
        /// Strides in elements.
        strides: Vec<usize>,
        /// Bytes needed.
        need: usize,
        /// Bytes given.
        have: usize,
    },
    /// Sizes and strides differ in number.
    #[error("{0} sizes but {1} strides")]
    Rank(usize, usize),
}

fn extent_bytes(dtype: DType, sizes: &[usize], strides: &[usize]) -> Result<usize, ViewError> {
    let overflow = || ViewError::Shape(ShapeError::Overflow(sizes.to_vec()));
    if sizes.len() != strides.len() {
        return Err(ViewError::Rank(sizes.len(), strides.len()));
    }
    checked_numel(sizes)?;
    if sizes.contains(&0) {
        return Ok(0);
    }
    let last = sizes
        .iter()
        .zip(strides)
        .try_fold(0usize, |n, (&size, &stride)| n.checked_add((size - 1).checked_mul(stride)?))
        .ok_or_else(overflow)?;
    dtype.bytes_for(last.checked_add(1).ok_or_else(overflow)?).ok_or_else(overflow)
}

/// A tensor that is read: element type, sizes, strides in elements, bytes. Constructing one checks that every element lies
/// inside the bytes, so that kernels may rely on it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    dtype: DType,
    sizes: &'a [usize],
    strides: &'a [usize],
    data: &'a [u8],
}

/// A tensor that is written. See [`View`].
#[derive(Debug)]
pub struct ViewMut<'a> {
    dtype: DType,
    sizes: &'a [usize],
    strides: &'a [usize],
    data: &'a mut [u8],
}

macro_rules! common {
    () => {
        /// Element type.
        pub fn dtype(&self) -> DType {
            self.dtype
        }
        /// Sizes, outermost first.
        pub fn sizes(&self) -> &'a [usize] {
            self.sizes
        }
        /// Strides in elements.
        pub fn strides(&self) -> &'a [usize] {
            self.strides
        }
        /// Number of dimensions.
        pub fn rank(&self) -> usize {
            self.sizes.len()
        }
        /// Number of elements.
        pub fn numel(&self) -> usize {
            self.sizes.iter().product()
        }
        /// True if the elements are row-major without gaps.
        pub fn is_contiguous(&self) -> bool {
            is_contiguous(self.sizes, self.strides)
        }
        /// Position in elements of the `flat`-th element in row-major order of the indices.
        pub fn position(&self, mut flat: usize) -> usize {
            let mut at = 0;
            for (&size, &stride) in self.sizes.iter().zip(self.strides).rev() {
                at += (flat % size.max(1)) * stride;
                flat /= size.max(1);
            }
            at
        }
    };
}

impl<'a> View<'a> {
    /// A view of `data`.
    ///
    /// # Errors
    /// [`ViewError`] if an element would lie outside `data`.
    pub fn new(dtype: DType, sizes: &'a [usize], strides: &'a [usize], data: &'a [u8]) -> Result<View<'a>, ViewError> {
        let need = extent_bytes(dtype, sizes, strides)?;
        if need > data.len() {
            return Err(ViewError::TooShort {
                dtype,
                sizes: sizes.to_vec(),
                strides: strides.to_vec(),
                need,
                have: data.len(),
            });
        }
        Ok(View { dtype, sizes, strides, data })
    }

    common!();

    /// The bytes, from the first element on.
    pub fn bytes(&self) -> &'a [u8] {
        self.data
    }

    /// The elements in row-major order, if they are contiguous, of type `T` and aligned for it.
    pub fn as_slice<T: Element>(&self) -> Option<&'a [T]> {
        if T::DTYPE != self.dtype || !self.is_contiguous() {
            return None;
        }
        let n = self.numel();
        bytemuck::try_cast_slice(self.data.get(..n * size_of::<T>())?).ok()
    }

    /// All elements reachable by strides, if the data is of type `T` and aligned for it: index them with
    /// [`View::position`].
    pub fn as_strided<T: Element>(&self) -> Option<&'a [T]> {
        if T::DTYPE != self.dtype {
            return None;
        }
        let n = extent_bytes(self.dtype, self.sizes, self.strides).ok()?;
        bytemuck::try_cast_slice(&self.data[..n]).ok()
    }

    /// The `flat`-th element in row-major order of the indices.
    pub fn scalar(&self, flat: usize) -> Option<Scalar> {
        if flat >= self.numel() {
            return None;
        }
        read_scalar(self.dtype, self.data, self.position(flat))
    }

    /// The elements in row-major order as `f64`.
    pub fn to_f64_vec(&self) -> Vec<f64> {
        (0..self.numel()).filter_map(|i| self.scalar(i)).map(Scalar::as_f64).collect()
    }
}

impl<'a> ViewMut<'a> {
    /// A view of `data`.
    ///
    /// # Errors
    /// [`ViewError`] if an element would lie outside `data`.
    pub fn new(
        dtype: DType,
        sizes: &'a [usize],
        strides: &'a [usize],
        data: &'a mut [u8],
    ) -> Result<ViewMut<'a>, ViewError> {
        View::new(dtype, sizes, strides, data)?;
        Ok(ViewMut { dtype, sizes, strides, data })
    }

    common!();

    /// The bytes, from the first element on.
    pub fn bytes(&self) -> &[u8] {
        self.data
    }

    /// The bytes, from the first element on.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.data
    }

    /// Reads through the same memory.
    pub fn as_view(&self) -> View<'_> {
        View { dtype: self.dtype, sizes: self.sizes, strides: self.strides, data: self.data }
    }

    /// A shorter borrow of the same view.
    pub fn reborrow(&mut self) -> ViewMut<'_> {
        ViewMut { dtype: self.dtype, sizes: self.sizes, strides: self.strides, data: self.data }
    }

    /// The elements in row-major order, if they are contiguous, of type `T` and aligned for it.
    pub fn as_slice_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        if T::DTYPE != self.dtype || !self.is_contiguous() {
            return None;
        }
        let n = self.numel();
        bytemuck::try_cast_slice_mut(self.data.get_mut(..n * size_of::<T>())?).ok()
    }

    /// All elements reachable by strides, if the data is of type `T` and aligned for it: index them with
    /// [`ViewMut::position`].
    pub fn as_strided_mut<T: Element>(&mut self) -> Option<&mut [T]> {
        if T::DTYPE != self.dtype {
            return None;
        }
        let n = extent_bytes(self.dtype, self.sizes, self.strides).ok()?;
        bytemuck::try_cast_slice_mut(&mut self.data[..n]).ok()
    }

    /// Writes the `flat`-th element in row-major order of the indices; `None` past the end.
    pub fn set_scalar(&mut self, flat: usize, value: Scalar) -> Option<()> {
        if flat >= self.numel() {
            return None;
        }
        write_scalar(self.dtype, self.data, self.position(flat), value)
    }
}

/// An owned tensor, laid out by a dim order without gaps.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    sizes: Shape,
    strides: Shape,
    data: AlignedBytes,
}

impl Tensor {
    /// Zeros, row-major.
    ///
    /// # Errors
    /// [`ShapeError::Overflow`].
    pub fn zeros(dtype: DType, sizes: &[usize]) -> Result<Tensor, ShapeError> {
        Tensor::zeros_in_order(dtype, sizes, &contiguous_order(sizes.len()))
    }

    /// Zeros, laid out by `order`.
    ///
    /// # Errors
    /// [`ShapeError`].
    pub fn zeros_in_order(dtype: DType, sizes: &[usize], order: &[u8]) -> Result<Tensor, ShapeError> {
        let overflow = || ShapeError::Overflow(sizes.to_vec());
        let strides = strides_for(sizes, order)?;
        let bytes = dtype.bytes_for(checked_numel(sizes)?).ok_or_else(overflow)?;
        Ok(Tensor { dtype, sizes: Shape::from_slice(sizes), strides, data: AlignedBytes::zeroed(bytes) })
    }

    /// Row-major elements.
    ///
    /// # Errors
    /// [`ViewError`] if there are fewer than `sizes` need.
    pub fn of<T: Element>(sizes: &[usize], values: &[T]) -> Result<Tensor, ViewError> {
        Tensor::from_bytes(T::DTYPE, sizes, AlignedBytes::copied(bytemuck::cast_slice(values)))
    }

    /// Row-major bytes.
    ///
    /// # Errors
    /// [`ViewError`] if there are fewer than `sizes` need.
    pub fn from_bytes(dtype: DType, sizes: &[usize], data: AlignedBytes) -> Result<Tensor, ViewError> {
        let strides = strides_for(sizes, &contiguous_order(sizes.len()))?;
        View::new(dtype, sizes, &strides, &data)?;
        Ok(Tensor { dtype, sizes: Shape::from_slice(sizes), strides, data })
    }

    /// A row-major copy of what `view` shows.
    pub fn copy_of(view: &View<'_>) -> Tensor {
        let sizes = Shape::from_slice(view.sizes());
        let n = view.numel();
        let bytes = view.dtype().bytes_for(n).unwrap_or(0);
        let mut data = AlignedBytes::zeroed(bytes);
        if view.is_contiguous() && view.bytes().len() >= bytes {
            data.copy_from_slice(&view.bytes()[..bytes]);
        } else {
            for i in 0..n {
                if let Some(s) = view.scalar(i) {
                    write_scalar(view.dtype(), &mut data, i, s);
                }
            }
        }
        let strides = strides_for(&sizes, &contiguous_order(sizes.len())).unwrap_or_default();
        Tensor { dtype: view.dtype(), sizes, strides, data }
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Sizes, outermost first.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.sizes.iter().product()
    }

    /// The bytes in memory order.
    pub fn bytes(&self) -> &[u8] {
        &self.data
    }

    /// The bytes in memory order.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// Borrowed for reading.
    pub fn view(&self) -> View<'_> {
        View { dtype: self.dtype, sizes: &self.sizes, strides: &self.strides, data: &self.data }
    }

    /// Borrowed for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut { dtype: self.dtype, sizes: &self.sizes, strides: &self.strides, data: &mut self.data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_check_their_extent() {
        let data = [0u8; 24];
        assert!(View::new(DType::F32, &[2, 3], &[3, 1], &data).is_ok());
        assert!(View::new(DType::F32, &[2, 3], &[4, 1], &data).is_err());
        assert!(View::new(DType::F32, &[2, 3], &[3], &data).is_err());
        assert!(View::new(DType::F32, &[usize::MAX, 3], &[3, 1], &data).is_err());
        assert!(View::new(DType::F32, &[0, 3], &[3, 1], &[]).is_ok());
    }

    #[test]
    fn strided_elements_are_found() {
        let t = Tensor::of(&[2, 3], &[0i32, 1, 2, 3, 4, 5]).unwrap();
        let v = View::new(DType::I32, &[3, 2], &[1, 3], t.bytes()).unwrap();
        assert_eq!(v.to_f64_vec(), [0., 3., 1., 4., 2., 5.]);
        assert!(v.as_slice::<i32>().is_none());
        assert_eq!(Tensor::copy_of(&v).view().as_slice::<i32>().unwrap(), [0, 3, 1, 4, 2, 5]);
    }
}
