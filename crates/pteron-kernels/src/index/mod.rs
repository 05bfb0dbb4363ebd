//! Operators that read or write at positions given by other tensors, and the key/value cache.
//!
//! Index tensors are `i64` or `i32`. Inputs and outputs may have any strides. Operators named `…_inplace` change the tensor
//! they are given and touch nothing if they give an error.
//!
//! All functions give a [`KernelError`](crate::KernelError) for sizes or dtypes that do not fit, for `i4` elements, and for
//! an index out of range, which the message names.

mod advanced;
mod cache;
mod lookup;

pub use advanced::{index, index_put, index_put_inplace};
pub use cache::{index_copy, index_copy_inplace, rows_of_cache, update_cache, update_cache_with_indices};
pub(crate) use lookup::row_indices;
pub use lookup::{embedding, gather, index_select};
