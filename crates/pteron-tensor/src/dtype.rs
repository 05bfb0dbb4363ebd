//! Element types.

use std::fmt;
use std::str::FromStr;

use half::{bf16, f16};

/// The element type of a tensor.
///
/// Every type but [`DType::I4`] occupies whole bytes; `I4` packs two elements into a byte, low nibble first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// 8-bit unsigned integer (`Byte`).
    U8,
    /// 8-bit signed integer (`Char`).
    I8,
    /// 16-bit signed integer (`Short`).
    I16,
    /// 32-bit signed integer (`Int`).
    I32,
    /// 64-bit signed integer (`Long`).
    I64,
    /// IEEE 754 binary16 (`Half`).
    F16,
    /// IEEE 754 binary32 (`Float`).
    F32,
    /// IEEE 754 binary64 (`Double`).
    F64,
    /// One byte that is 0 or 1 (`Bool`).
    Bool,
    /// The upper half of a binary32 (`BFloat16`).
    BF16,
    /// 16-bit unsigned integer (`UInt16`).
    U16,
    /// 4-bit signed integer, two in a byte, low nibble first. Has no ExecuTorch code of its own.
    I4,
}

impl DType {
    /// Every element type, in the order of ExecuTorch's codes.
    pub const ALL: [DType; 12] = [
        DType::U8,
        DType::I8,
        DType::I16,
        DType::I32,
        DType::I64,
        DType::F16,
        DType::F32,
        DType::F64,
        DType::Bool,
        DType::BF16,
        DType::U16,
        DType::I4,
    ];

    /// Size of one element in bits.
    pub const fn bits(self) -> usize {
        match self {
            DType::I4 => 4,
            DType::U8 | DType::I8 | DType::Bool => 8,
            DType::I16 | DType::U16 | DType::F16 | DType::BF16 => 16,
            DType::I32 | DType::F32 => 32,
            DType::I64 | DType::F64 => 64,
        }
    }

    /// Size of one element in bytes; `None` for [`DType::I4`], whose elements share a byte.
    pub const fn size(self) -> Option<usize> {
        match self {
            DType::I4 => None,
            _ => Some(self.bits() / 8),
        }
    }

    /// Bytes that `numel` contiguous elements take; `None` if that overflows.
    pub fn bytes_for(self, numel: usize) -> Option<usize> {
        match self {
            DType::I4 => Some(numel / 2 + numel % 2),
            _ => numel.checked_mul(self.bits() / 8),
        }
    }

    /// True for `f16`, `bf16`, `f32` and `f64`.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// True for every integer type, without `bool`.
    pub const fn is_integer(self) -> bool {
        !self.is_float() && !matches!(self, DType::Bool)
    }

    /// Pteron's name, as in the text form: `f32`, `i64`, `bool`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::U8 => "u8",
            DType::I8 => "i8",
            DType::I16 => "i16",
            DType::I32 => "i32",
            DType::I64 => "i64",
            DType::F16 => "f16",
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bool => "bool",
            DType::BF16 => "bf16",
            DType::U16 => "u16",
            DType::I4 => "i4",
        }
    }

    /// PyTorch's name without the module: `float32`, `int64`, `bool`.
    pub const fn torch_name(self) -> &'static str {
        match self {
            DType::U8 => "uint8",
            DType::I8 => "int8",
            DType::I16 => "int16",
            DType::I32 => "int32",
            DType::I64 => "int64",
            DType::F16 => "float16",
            DType::F32 => "float32",
            DType::F64 => "float64",
            DType::Bool => "bool",
            DType::BF16 => "bfloat16",
            DType::U16 => "uint16",
            DType::I4 => "int4",
        }
    }

    /// The `ScalarType` code by which ExecuTorch's files and operator arguments name this type; `None` for `I4`.
    pub const fn scalar_type_code(self) -> Option<i8> {
        Some(match self {
            DType::U8 => 0,
            DType::I8 => 1,
            DType::I16 => 2,
            DType::I32 => 3,
            DType::I64 => 4,
            DType::F16 => 5,
            DType::F32 => 6,
            DType::F64 => 7,
            DType::Bool => 11,
            DType::BF16 => 15,
            DType::U16 => 27,
            DType::I4 => return None,
        })
    }

    /// The inverse of [`DType::scalar_type_code`].
    pub fn from_scalar_type_code(code: i64) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.scalar_type_code().map(i64::from) == Some(code))
    }

    /// PyTorch's promotion of two tensor types of the same category (`torch.promote_types`): floats win over
    /// integers, integers over `bool`; `f16` with `bf16` gives `f32`; `u8` with a signed type gives the next
    /// wider signed type.
    ///
    /// ```
    /// use pteron_tensor::DType;
    /// assert_eq!(DType::promote(DType::I64, DType::F16), DType::F16);
    /// assert_eq!(DType::promote(DType::F16, DType::BF16), DType::F32);
    /// assert_eq!(DType::promote(DType::U8, DType::I8), DType::I16);
    /// ```
    pub fn promote(a: DType, b: DType) -> DType {
        use DType::*;
        if a == b {
            return a;
        }
        match (a.is_float(), b.is_float()) {
            (true, false) => return a,
            (false, true) => return b,
            (true, true) => {
                return match (a, b) {
                    (F64, _) | (_, F64) => F64,
                    (F32, _) | (_, F32) => F32,
                    _ => F32,
                };
            }
            (false, false) => {}
        }
        if a == Bool {
            return b;
        }
        if b == Bool {
            return a;
        }
        // A signed type holds an unsigned one only when it is strictly wider.
        let signed_bits = |d: DType| match d {
            U8 => 9,
            U16 => 17,
            other => other.bits(),
        };
        match signed_bits(a).max(signed_bits(b)) {
            0..=4 => I4,
            5..=8 => I8,
            9..=16 => I16,
            17..=32 => I32,
            _ => I64,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no element type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype `{0}`: known are u8 i8 i16 i32 i64 f16 f32 f64 bool bf16 u16 i4 and PyTorch's names of them")]
pub struct UnknownDType(pub String);

impl FromStr for DType {
    type Err = UnknownDType;

    /// Accepts Pteron's names, PyTorch's names (with or without `torch.`) and `fp16`/`fp32`.
    fn from_str(s: &str) -> Result<DType, UnknownDType> {
        let bare = s.strip_prefix("torch.").unwrap_or(s);
        let alias = match bare {
            "fp16" | "half" => "f16",
            "fp32" | "float" => "f32",
            "double" => "f64",
            other => other,
        };
        DType::ALL
            .into_iter()
            .find(|d| d.name() == alias || d.torch_name() == alias)
            .ok_or_else(|| UnknownDType(s.to_owned()))
    }
}

/// A boolean as tensors store it: one byte, 0 or 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct B8(pub u8);

impl B8 {
    /// The stored truth value: anything but 0 is true.
    pub const fn get(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for B8 {
    fn from(b: bool) -> B8 {
        B8(u8::from(b))
    }
}

/// A Rust type that is the element of a [`DType`].
pub trait Element: bytemuck::Pod + fmt::Debug + Send + Sync {
    /// The type's tag.
    const DTYPE: DType;
}

macro_rules! element {
    ($($t:ty => $d:ident),* $(,)?) => { $(impl Element for $t { const DTYPE: DType = DType::$d; })* };
}
element!(u8 => U8, i8 => I8, i16 => I16, i32 => I32, i64 => I64, f16 => F16, f32 => F32, f64 => F64, B8 => Bool,
         bf16 => BF16, u16 => U16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_round_trip() {
        for d in DType::ALL {
            assert_eq!(d.name().parse::<DType>().unwrap(), d);
            assert_eq!(format!("torch.{}", d.torch_name()).parse::<DType>().unwrap(), d);
            if let Some(code) = d.scalar_type_code() {
                assert_eq!(DType::from_scalar_type_code(code.into()), Some(d));
            }
        }
        assert_eq!(DType::from_scalar_type_code(12), None);
        assert!("f8".parse::<DType>().is_err());
    }

    #[test]
    fn promotion_is_commutative_and_idempotent() {
        for a in DType::ALL {
            assert_eq!(DType::promote(a, a), a);
            for b in DType::ALL {
                assert_eq!(DType::promote(a, b), DType::promote(b, a));
            }
        }
        assert_eq!(DType::promote(DType::U8, DType::Bool), DType::U8);
        assert_eq!(DType::promote(DType::U8, DType::I16), DType::I16);
        assert_eq!(DType::promote(DType::I8, DType::I64), DType::I64);
    }

    #[test]
    fn byte_counts() {
        assert_eq!(DType::I4.bytes_for(5), Some(3));
        assert_eq!(DType::F32.bytes_for(5), Some(20));
        assert_eq!(DType::F64.bytes_for(usize::MAX / 2), None);
    }
}
