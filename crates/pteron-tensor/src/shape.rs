//! Concrete sizes and how they lie in memory.

use smallvec::SmallVec;

/// Concrete sizes of a tensor, outermost dimension first. Empty for a scalar tensor.
pub type Shape = SmallVec<[usize; 6]>;

/// A permutation of the dimensions from outermost to innermost in memory, as ExecuTorch's files give it.
pub type DimOrder = SmallVec<[u8; 6]>;

/// Sizes or an order that no tensor can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// The element or byte count does not fit in `usize`.
    #[error("the sizes {0:?} have more elements than fit in memory")]
    Overflow(Vec<usize>),
    /// The order is no permutation of the dimensions.
    #[error("dim order {order:?} is not a permutation of 0..{rank}")]
    NotAPermutation {
        /// The order found.
        order: Vec<u8>,
        /// The number of dimensions.
        rank: usize,
    },
}

/// The number of elements, or an error if it overflows. One for a scalar tensor.
///
/// # Errors
/// [`ShapeError::Overflow`].
pub fn checked_numel(sizes: &[usize]) -> Result<usize, ShapeError> {
    sizes.iter().try_fold(1usize, |n, &s| n.checked_mul(s)).ok_or_else(|| ShapeError::Overflow(sizes.to_vec()))
}

/// The order `0, 1, …, rank-1`: row-major.
pub fn contiguous_order(rank: usize) -> DimOrder {
    (0..rank).map(|d| u8::try_from(d).unwrap_or(u8::MAX)).collect()
}

/// Element strides of `sizes` laid out by `order`: the last of `order` has stride 1, and each outer one is the size
/// times the stride of the next inner one. An inner size of 0 contributes as if it were 1, as in ExecuTorch.
///
/// # Errors
/// [`ShapeError`] if `order` is no permutation or the extent overflows.
pub fn strides_for(sizes: &[usize], order: &[u8]) -> Result<Shape, ShapeError> {
    let bad = || ShapeError::NotAPermutation { order: order.to_vec(), rank: sizes.len() };
    if order.len() != sizes.len() {
        return Err(bad());
    }
    let mut seen: SmallVec<[bool; 6]> = SmallVec::from_elem(false, sizes.len());
    let mut strides: Shape = SmallVec::from_elem(0, sizes.len());
    let mut next = 1usize;
    for &d in order.iter().rev() {
        let d = usize::from(d);
        if d >= sizes.len() || seen[d] {
            return Err(bad());
        }
        seen[d] = true;
        strides[d] = next;
        next = next.checked_mul(sizes[d].max(1)).ok_or_else(|| ShapeError::Overflow(sizes.to_vec()))?;
    }
    Ok(strides)
}

/// True if `strides` are those of a row-major tensor of `sizes`; the stride of a dimension of size 1 does not matter.
pub fn is_contiguous(sizes: &[usize], strides: &[usize]) -> bool {
    if sizes.contains(&0) {
        return true;
    }
    let mut expected = 1usize;
    for (&size, &stride) in sizes.iter().zip(strides).rev() {
        if size != 1 {
            if stride != expected {
                return false;
            }
            expected = expected.saturating_mul(size);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_follow_the_order() {
        assert_eq!(strides_for(&[2, 3, 4], &[0, 1, 2]).unwrap().as_slice(), &[12, 4, 1]);
        // channels last: N H W C
        assert_eq!(strides_for(&[1, 3, 5, 7], &[0, 2, 3, 1]).unwrap().as_slice(), &[105, 1, 21, 3]);
        assert_eq!(strides_for(&[2, 0, 4], &[0, 1, 2]).unwrap().as_slice(), &[4, 4, 1]);
        assert!(strides_for(&[2, 3], &[0, 0]).is_err());
        assert!(strides_for(&[2, 3], &[0]).is_err());
        assert!(strides_for(&[usize::MAX, 3], &[1, 0]).is_err());
    }

    #[test]
    fn contiguity_ignores_unit_dimensions() {
        assert!(is_contiguous(&[2, 1, 3], &[3, 99, 1]));
        assert!(!is_contiguous(&[2, 3], &[1, 2]));
        assert!(is_contiguous(&[], &[]));
        assert!(is_contiguous(&[0, 3], &[7, 7]));
    }
}
