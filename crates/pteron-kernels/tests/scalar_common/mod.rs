//! Tensors with any strides, for the tests of the scalar kernels.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of this module")]

use pteron_tensor::{AlignedBytes, DType, Element, Scalar, View, ViewMut};

/// An owned tensor with any strides.
#[derive(Clone, Debug)]
pub struct T {
    pub dtype: DType,
    pub sizes: Vec<usize>,
    pub strides: Vec<usize>,
    pub data: AlignedBytes,
}

pub fn row_major(sizes: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; sizes.len()];
    for d in (1..sizes.len()).rev() {
        strides[d - 1] = strides[d] * sizes[d].max(1);
    }
    strides
}

impl T {
    /// Filled with a byte that no test expects.
    pub fn new(dtype: DType, sizes: &[usize], strides: &[usize]) -> T {
        let last: usize = sizes.iter().zip(strides).map(|(&n, &s)| n.saturating_sub(1) * s).sum();
        let mut data = AlignedBytes::zeroed(dtype.bytes_for(last + 1).unwrap());
        data.fill(0xA5);
        T { dtype, sizes: sizes.to_vec(), strides: strides.to_vec(), data }
    }

    pub fn empty(dtype: DType, sizes: &[usize]) -> T {
        T::new(dtype, sizes, &row_major(sizes))
    }

    pub fn of<E: Element>(sizes: &[usize], values: &[E]) -> T {
        assert_eq!(sizes.iter().product::<usize>(), values.len());
        let data = AlignedBytes::copied(bytemuck::cast_slice(values));
        T { dtype: E::DTYPE, sizes: sizes.to_vec(), strides: row_major(sizes), data }
    }

    pub fn from_scalars(dtype: DType, sizes: &[usize], strides: &[usize], values: &[Scalar]) -> T {
        let mut t = T::new(dtype, sizes, strides);
        for (i, &v) in values.iter().enumerate() {
            t.view_mut().set_scalar(i, v).unwrap();
        }
        t
    }

    /// The same elements with gaps of one element between those of the last dimension, and dimensions reversed in memory.
    pub fn restrided(&self) -> T {
        let mut next = 2;
        let mut strides = vec![0; self.sizes.len()];
        for (s, &n) in strides.iter_mut().zip(&self.sizes) {
            *s = next;
            next *= n.max(1);
        }
        T::from_scalars(self.dtype, &self.sizes, &strides, &self.scalars())
    }

    pub fn view(&self) -> View<'_> {
        View::new(self.dtype, &self.sizes, &self.strides, &self.data).unwrap()
    }

    pub fn view_mut(&mut self) -> ViewMut<'_> {
        ViewMut::new(self.dtype, &self.sizes, &self.strides, &mut self.data).unwrap()
    }

    pub fn scalars(&self) -> Vec<Scalar> {
        (0..self.view().numel()).map(|i| self.view().scalar(i).unwrap()).collect()
    }

    pub fn f64s(&self) -> Vec<f64> {
        self.view().to_f64_vec()
    }

    /// Bit patterns in row-major order, so that NaN and the sign of zero count.
    pub fn bits(&self) -> Vec<Vec<u8>> {
        let w = self.dtype.bits() / 8;
        let v = self.view();
        (0..v.numel()).map(|i| v.position(i) * w).map(|p| self.data[p..p + w].to_vec()).collect()
    }
}
