//! The element types of GGUF files.

use std::fmt;

use pteron_tensor::DType;

/// An element type of a GGUF file: plain numbers, or blocks that share scales.
///
/// The numbers are ggml's (`enum ggml_type`); 4, 5, 31 to 33 and 36 to 38 were types that no file has any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
#[allow(non_camel_case_types, reason = "the names are ggml's")]
#[allow(missing_docs, reason = "TYPES says of each what it is")]
pub enum GgmlType {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q8_1 = 9,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    I8 = 24,
    I16 = 25,
    I32 = 26,
    I64 = 27,
    F64 = 28,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
    NVFP4 = 40,
    Q1_0 = 41,
}

struct Row {
    ty: GgmlType,
    name: &'static str,
    elements: u16,
    bytes: u16,
    read: Read,
}

/// How a type is read.
#[derive(Clone, Copy, PartialEq)]
enum Read {
    Plain(DType),
    /// Decoded by `decode.rs`.
    Blocks,
    No,
}

const fn row(ty: GgmlType, name: &'static str, elements: u16, bytes: u16, read: Read) -> Row {
    Row { ty, name, elements, bytes, read }
}

/// Name, elements and bytes of a block.
const TYPES: [Row; 34] = {
    use GgmlType as T;
    use Read::{Blocks, No, Plain};
    [
        row(T::F32, "F32", 1, 4, Plain(DType::F32)),
        row(T::F16, "F16", 1, 2, Plain(DType::F16)),
        row(T::BF16, "BF16", 1, 2, Plain(DType::BF16)),
        row(T::F64, "F64", 1, 8, Plain(DType::F64)),
        row(T::I8, "I8", 1, 1, Plain(DType::I8)),
        row(T::I16, "I16", 1, 2, Plain(DType::I16)),
        row(T::I32, "I32", 1, 4, Plain(DType::I32)),
        row(T::I64, "I64", 1, 8, Plain(DType::I64)),
        row(T::Q4_0, "Q4_0", 32, 18, Blocks),
        row(T::Q4_1, "Q4_1", 32, 20, Blocks),
        row(T::Q5_0, "Q5_0", 32, 22, Blocks),
        row(T::Q5_1, "Q5_1", 32, 24, Blocks),
        row(T::Q8_0, "Q8_0", 32, 34, Blocks),
        row(T::Q2_K, "Q2_K", 256, 84, Blocks),
        row(T::Q3_K, "Q3_K", 256, 110, Blocks),
        row(T::Q4_K, "Q4_K", 256, 144, Blocks),
        row(T::Q5_K, "Q5_K", 256, 176, Blocks),
        row(T::Q6_K, "Q6_K", 256, 210, Blocks),
        row(T::IQ4_NL, "IQ4_NL", 32, 18, Blocks),
        row(T::IQ4_XS, "IQ4_XS", 256, 136, Blocks),
        row(T::MXFP4, "MXFP4", 32, 17, Blocks),
        row(T::Q8_1, "Q8_1", 32, 36, No),
        row(T::Q8_K, "Q8_K", 256, 292, No),
        row(T::IQ2_XXS, "IQ2_XXS", 256, 66, Blocks),
        row(T::IQ2_XS, "IQ2_XS", 256, 74, Blocks),
        row(T::IQ3_XXS, "IQ3_XXS", 256, 98, Blocks),
        row(T::IQ1_S, "IQ1_S", 256, 50, Blocks),
        row(T::IQ3_S, "IQ3_S", 256, 110, Blocks),
        row(T::IQ2_S, "IQ2_S", 256, 82, Blocks),
        row(T::IQ1_M, "IQ1_M", 256, 56, Blocks),
        row(T::TQ1_0, "TQ1_0", 256, 54, Blocks),
        row(T::TQ2_0, "TQ2_0", 256, 66, Blocks),
        row(T::NVFP4, "NVFP4", 64, 36, Blocks),
        row(T::Q1_0, "Q1_0", 128, 18, Blocks),
    ]
};

impl GgmlType {
    /// The type that a file writes as `id`.
    pub fn from_id(id: u32) -> Option<GgmlType> {
        TYPES.iter().map(|r| r.ty).find(|t| t.id() == id)
    }

    /// Every type.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TYPES.iter().map(|r| r.ty)
    }

    /// What a file writes for it.
    pub const fn id(self) -> u32 {
        self as u32
    }

    const fn row(self) -> &'static Row {
        let mut i = 0;
        while i < TYPES.len() {
            if TYPES[i].ty as u8 == self as u8 {
                return &TYPES[i];
            }
            i += 1;
        }
        // Every variant has a row, which a test checks.
        &TYPES[0]
    }

    /// ggml's name: `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// Elements of a block; 1 for plain numbers. A block lies within a row.
    pub const fn block_elements(self) -> usize {
        self.row().elements as usize
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        self.row().bytes as usize
    }

    /// The element type, for plain numbers.
    pub const fn plain(self) -> Option<DType> {
        match self.row().read {
            Read::Plain(dtype) => Some(dtype),
            Read::Blocks | Read::No => None,
        }
    }

    /// True if its elements can be had: plain numbers, and blocks that are decoded.
    pub const fn is_read(self) -> bool {
        !matches!(self.row().read, Read::No)
    }

    /// Bytes of a row of `elements`; `None` if they are no whole blocks, or if it overflows.
    pub const fn row_bytes(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_elements()) {
            return None;
        }
        (elements / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// The names of the types that are read, for messages.
    pub(crate) fn names_read() -> String {
        TYPES.iter().filter(|r| r.read != Read::No).map(|r| r.name).collect::<Vec<_>>().join(" ")
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_its_row() {
        for ty in GgmlType::all() {
            assert_eq!(GgmlType::from_id(ty.id()), Some(ty));
            assert_eq!(format!("{ty:?}"), ty.name());
            if let Some(dtype) = ty.plain() {
                assert_eq!((ty.block_elements(), Some(ty.block_bytes())), (1, dtype.size()));
            }
        }
        assert_eq!(GgmlType::from_id(4), None);
        assert_eq!(GgmlType::from_id(u32::MAX), None);
    }

    #[test]
    fn rows_are_whole_blocks() {
        assert_eq!(GgmlType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(GgmlType::Q4_K.row_bytes(128), None);
        assert_eq!(GgmlType::F32.row_bytes(3), Some(12));
        assert_eq!(GgmlType::F64.row_bytes(usize::MAX), None);
    }
}
