//! Types of elements.

use std::fmt;

use pteron_tensor::DType;

/// QNN's type of an element. `SFixed*` and `UFixed*` are integers that stand for reals through an [`Encoding`].
///
/// [`Encoding`]: super::Encoding
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub enum DataType {
    Int8,
    Int16,
    Int32,
    Int64,
    UInt8,
    UInt16,
    UInt32,
    UInt64,
    Float16,
    BFloat16,
    Float32,
    Float64,
    /// Two in a byte. The HTP refuses tensors of it: 4-bit weights are [`DataType::SFixed8`] with a bit width in the encoding.
    SFixed4,
    SFixed8,
    SFixed16,
    SFixed32,
    /// Two in a byte.
    UFixed4,
    UFixed8,
    UFixed16,
    UFixed32,
    Bool8,
}

/// Each type with QNN's number, whose low byte is the width in bits written in decimal digits, the width, and its name.
const TABLE: [(DataType, u32, u32, &str); 21] = [
    (DataType::Int8, 0x0008, 8, "int8"),
    (DataType::Int16, 0x0016, 16, "int16"),
    (DataType::Int32, 0x0032, 32, "int32"),
    (DataType::Int64, 0x0064, 64, "int64"),
    (DataType::UInt8, 0x0108, 8, "uint8"),
    (DataType::UInt16, 0x0116, 16, "uint16"),
    (DataType::UInt32, 0x0132, 32, "uint32"),
    (DataType::UInt64, 0x0164, 64, "uint64"),
    (DataType::Float16, 0x0216, 16, "float16"),
    (DataType::BFloat16, 0x0226, 16, "bfloat16"),
    (DataType::Float32, 0x0232, 32, "float32"),
    (DataType::Float64, 0x0264, 64, "float64"),
    (DataType::SFixed4, 0x0304, 4, "sfixed4"),
    (DataType::SFixed8, 0x0308, 8, "sfixed8"),
    (DataType::SFixed16, 0x0316, 16, "sfixed16"),
    (DataType::SFixed32, 0x0332, 32, "sfixed32"),
    (DataType::UFixed4, 0x0404, 4, "ufixed4"),
    (DataType::UFixed8, 0x0408, 8, "ufixed8"),
    (DataType::UFixed16, 0x0416, 16, "ufixed16"),
    (DataType::UFixed32, 0x0432, 32, "ufixed32"),
    (DataType::Bool8, 0x0508, 8, "bool8"),
];

impl DataType {
    fn row(self) -> &'static (DataType, u32, u32, &'static str) {
        // Rows stand in the order of the enum, which a test checks.
        &TABLE[self as usize]
    }

    /// QNN's number.
    pub fn code(self) -> u32 {
        self.row().1
    }

    /// The type with QNN's number `code`.
    pub fn from_code(code: u32) -> Option<DataType> {
        TABLE.iter().find(|row| row.1 == code).map(|row| row.0)
    }

    /// Width of an element in bits.
    pub fn bits(self) -> u32 {
        self.row().2
    }

    /// `ufixed16`.
    pub fn name(self) -> &'static str {
        self.row().3
    }

    /// Bytes of `numel` elements; `None` on overflow.
    pub fn bytes_for(self, numel: u64) -> Option<u64> {
        numel.checked_mul(u64::from(self.bits())).map(|bits| bits.div_ceil(8))
    }

    /// Whether integers of this type stand for reals.
    pub fn is_fixed(self) -> bool {
        matches!(self.code() >> 8, 3 | 4)
    }

    /// The type that a program's tensor has for a tensor of this type at the boundary of a graph.
    pub fn dtype(self) -> Option<DType> {
        Some(match self {
            DataType::Int8 | DataType::SFixed8 => DType::I8,
            DataType::Int16 | DataType::SFixed16 => DType::I16,
            DataType::Int32 | DataType::SFixed32 => DType::I32,
            DataType::Int64 => DType::I64,
            DataType::UInt8 | DataType::UFixed8 => DType::U8,
            DataType::UInt16 | DataType::UFixed16 => DType::U16,
            DataType::Float16 => DType::F16,
            DataType::BFloat16 => DType::BF16,
            DataType::Float32 => DType::F32,
            DataType::Float64 => DType::F64,
            DataType::Bool8 => DType::Bool,
            DataType::UInt32 | DataType::UInt64 | DataType::UFixed32 | DataType::SFixed4 | DataType::UFixed4 => {
                return None;
            }
        })
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_enum() {
        for (at, row) in TABLE.iter().enumerate() {
            assert_eq!(row.0 as usize, at);
            assert_eq!(DataType::from_code(row.1), Some(row.0));
            if row.0 != DataType::BFloat16 {
                assert_eq!(format!("{:x}", row.1 & 0xff), format!("{}", row.2).trim_start_matches('0'), "{}", row.3);
            }
        }
        assert_eq!(DataType::from_code(0x0708), None);
    }

    #[test]
    fn half_bytes_are_rounded_up() {
        assert_eq!(DataType::SFixed4.bytes_for(5), Some(3));
        assert_eq!(DataType::UFixed16.bytes_for(5), Some(10));
        assert_eq!(DataType::Float64.bytes_for(u64::MAX / 8), None);
    }
}
