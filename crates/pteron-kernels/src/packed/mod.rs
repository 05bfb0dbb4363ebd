//! Matrices of codes, packed for the processor, and products with them.
//!
//! A quantized weight is packed once, when a program is loaded: 4 or 8 bits a code, its scales beside it, in the layout that
//! the context's kernels read as one stream ([`Packed::new`]). It is never held in floats. Products take activations that are
//! codes themselves ([`Rows`], quantized once for all products that read them) or floats:
//!
//! * [`Rows`]: `out[m, n] = s[m] · Σ_g scale[n, g] · Σ_{k in g} (x[m, k] - z[m])·w[n, k]`, the sums of products of codes exact;
//! * floats: `out[m, n] = Σ_g scale[n, g] · Σ_{k in g} x[m, k]·w[n, k]` in f32.
//!
//! The order of all float operations is fixed ([`crate::simd`]'s module of codes): each variant gives the same bits, a row alone
//! equals that row in a batch, and nothing depends on the number of threads.

mod pack;
mod product;
mod rows;
mod slab;

use crate::simd::Geometry;
use slab::Room;

pub use crate::simd::{CodeBits, ScaleBits};
pub use pack::{CodeMatrix, Unpackable};
pub use product::{Activations, FEW_ROWS, Product, multiply};
pub use rows::{Choose, DynamicQuant, Rows};
pub(crate) use slab::Slab;

/// A matrix of codes, `n` rows (output channels) of `k`, packed for the kernels of a context.
#[derive(Debug)]
pub struct Packed {
    geometry: Geometry,
    room: Room,
}

impl Packed {
    /// Rows.
    pub fn rows(&self) -> usize {
        self.geometry.n
    }

    /// Codes in a row.
    pub fn columns(&self) -> usize {
        self.geometry.k
    }

    /// Codes that share a scale.
    pub fn group(&self) -> usize {
        self.geometry.group
    }

    /// The width of a code.
    pub fn code_bits(&self) -> CodeBits {
        self.geometry.bits
    }

    /// The width of a scale.
    pub fn scale_bits(&self) -> ScaleBits {
        self.geometry.scales
    }

    /// The memory that it takes, which a product reads from its beginning to its end.
    pub fn memory(&self) -> &[u8] {
        self.room.bytes()
    }

    /// Bytes that it takes, all of which a product reads.
    pub fn bytes(&self) -> usize {
        self.geometry.bytes()
    }
}
