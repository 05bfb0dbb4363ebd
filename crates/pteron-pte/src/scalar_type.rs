//! Element types of the format.

use std::fmt;

macro_rules! scalar_types {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $size:literal;)*) => {
        /// Element type of a tensor, with the codes that the format stores.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum ScalarType {
            $($(#[$doc])* $variant = $code,)*
        }

        impl ScalarType {
            /// Every element type, in the order of the codes.
            pub const ALL: &'static [ScalarType] = &[$(ScalarType::$variant,)*];

            /// The type of a code, or `None` if the format has no such code.
            pub fn from_code(code: i64) -> Option<Self> {
                match code {
                    $($code => Some(ScalarType::$variant),)*
                    _ => None,
                }
            }

            /// Short lower-case name.
            pub fn name(self) -> &'static str {
                match self {
                    $(ScalarType::$variant => $name,)*
                }
            }

            /// Bytes that one element of a tensor occupies in memory and in a file. For the packed types (`quint4x2`,
            /// `quint2x4`, `bits…x…`) an element is one byte that holds several numbers.
            pub fn size_of(self) -> usize {
                match self {
                    $(ScalarType::$variant => $size,)*
                }
            }
        }
    };
}

scalar_types! {
    /// Unsigned 8-bit integer.
    Byte = 0, "u8", 1;
    /// Signed 8-bit integer.
    Char = 1, "i8", 1;
    /// Signed 16-bit integer.
    Short = 2, "i16", 2;
    /// Signed 32-bit integer.
    Int = 3, "i32", 4;
    /// Signed 64-bit integer.
    Long = 4, "i64", 8;
    /// IEEE half precision.
    Half = 5, "f16", 2;
    /// IEEE single precision.
    Float = 6, "f32", 4;
    /// IEEE double precision.
    Double = 7, "f64", 8;
    /// Pair of half-precision numbers.
    ComplexHalf = 8, "c32", 4;
    /// Pair of single-precision numbers.
    ComplexFloat = 9, "c64", 8;
    /// Pair of double-precision numbers.
    ComplexDouble = 10, "c128", 16;
    /// One byte, 0 or 1.
    Bool = 11, "bool", 1;
    /// Quantized signed 8-bit integer.
    QInt8 = 12, "qint8", 1;
    /// Quantized unsigned 8-bit integer.
    QUInt8 = 13, "quint8", 1;
    /// Quantized signed 32-bit integer.
    QInt32 = 14, "qint32", 4;
    /// Brain floating point, 16 bits.
    BFloat16 = 15, "bf16", 2;
    /// Two quantized unsigned 4-bit integers in a byte.
    QUInt4x2 = 16, "quint4x2", 1;
    /// Four quantized unsigned 2-bit integers in a byte.
    QUInt2x4 = 17, "quint2x4", 1;
    /// Eight single bits in a byte.
    Bits1x8 = 18, "bits1x8", 1;
    /// Four 2-bit fields in a byte.
    Bits2x4 = 19, "bits2x4", 1;
    /// Two 4-bit fields in a byte.
    Bits4x2 = 20, "bits4x2", 1;
    /// Eight uninterpreted bits.
    Bits8 = 21, "bits8", 1;
    /// Sixteen uninterpreted bits.
    Bits16 = 22, "bits16", 2;
    /// 8-bit float, 5 exponent bits, 2 mantissa bits.
    Float8e5m2 = 23, "f8e5m2", 1;
    /// 8-bit float, 4 exponent bits, 3 mantissa bits, finite.
    Float8e4m3fn = 24, "f8e4m3fn", 1;
    /// `Float8e5m2` without negative zero, finite.
    Float8e5m2fnuz = 25, "f8e5m2fnuz", 1;
    /// `Float8e4m3fn` without negative zero.
    Float8e4m3fnuz = 26, "f8e4m3fnuz", 1;
    /// Unsigned 16-bit integer.
    UInt16 = 27, "u16", 2;
    /// Unsigned 32-bit integer.
    UInt32 = 28, "u32", 4;
    /// Unsigned 64-bit integer.
    UInt64 = 29, "u64", 8;
}

impl ScalarType {
    /// The code that the format stores.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for ScalarType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
