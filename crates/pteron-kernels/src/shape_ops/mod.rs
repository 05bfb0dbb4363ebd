//! Operators that move elements without computing: views made real, pieces, joins.
//!
//! Inputs and outputs may have any strides. `out` has the dtype of the input (for [`cat`] and [`stack`] the promoted one)
//! and exactly the result's sizes. A dimension argument counts from the end if it is negative.
//!
//! All functions give a [`KernelError`](crate::KernelError) for sizes, dtypes or dimensions that do not fit, and for `i4`
//! elements.

pub(crate) mod engine;
mod join;
mod views;

pub use join::{cat, split_with_sizes, stack};
pub use views::{
    copy_index, expand_copy, flip, narrow, permute_copy, repeat, select_copy, slice_copy, squeeze_copy, tril, triu,
    unsqueeze_copy, view_copy,
};
