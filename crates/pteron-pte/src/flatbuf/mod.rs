//! A small FlatBuffers reader and writer in safe code.
//!
//! The reader checks every access against the bytes that are there: bounds, alignment relative to the start of the
//! buffer, vtable and table sizes, UTF-8 of strings, nesting, number of tables and total bytes visited (see
//! [`crate::limits`]). The writer builds back to front, merges equal vtables and gives the same bytes for the same calls.

mod read;
mod write;

pub use read::{FlatBuffer, FlatError, FlatErrorKind, Table, TableVector, Vector};
pub use write::{Builder, Offset, TableFields};

/// One declared field of a table: its slot (declaration number) and its schema name.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Declaration number; the vtable entry is at byte `4 + 2 * slot`.
    pub slot: u16,
    /// Schema name, for errors.
    pub name: &'static str,
}

impl Field {
    /// A field by slot and name.
    pub const fn new(slot: u16, name: &'static str) -> Self {
        Field { slot, name }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A fixed-size little-endian scalar of FlatBuffers.
pub trait Scalar: Copy + PartialEq + sealed::Sealed {
    /// Size and alignment, bytes (1 to 8).
    const SIZE: usize;
    /// Decodes from the first `SIZE` bytes; missing bytes read as zero.
    fn from_le(bytes: &[u8]) -> Self;
    /// Encodes into the low `SIZE` bytes of a little-endian word.
    fn to_bits(self) -> u64;
}

macro_rules! scalars {
    ($($t:ty, $bits:ident => $from:expr, $v:ident => $to:expr;)*) => {$(
        impl sealed::Sealed for $t {}
        impl Scalar for $t {
            const SIZE: usize = size_of::<$t>();
            fn from_le(bytes: &[u8]) -> Self {
                let mut word = [0u8; 8];
                for (w, b) in word.iter_mut().zip(bytes.iter().take(Self::SIZE)) {
                    *w = *b;
                }
                let $bits = u64::from_le_bytes(word);
                $from
            }
            fn to_bits(self) -> u64 {
                let $v = self;
                $to
            }
        }
    )*};
}

scalars! {
    u8, b => b as u8, v => u64::from(v);
    i8, b => b as i8, v => u64::from(v as u8);
    u16, b => b as u16, v => u64::from(v);
    u32, b => b as u32, v => u64::from(v);
    i32, b => b as i32, v => u64::from(v as u32);
    u64, b => b, v => v;
    i64, b => b as i64, v => v as u64;
    f32, b => f32::from_bits(b as u32), v => u64::from(v.to_bits());
    f64, b => f64::from_bits(b), v => f64::to_bits(v);
    bool, b => b != 0, v => u64::from(v);
}
