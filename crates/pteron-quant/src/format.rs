//! Number formats that explain themselves.

use std::fmt;

use pteron_tensor::DType;

use crate::error::SpecError;

/// Integer codes in a container: which codes, of how many bits, held by which dtype.
///
/// PT2E has no 4-bit and no unsigned 16-bit tensors of its own: it keeps 4-bit codes in an `int8` and 16-bit unsigned codes in an
/// `int32`. The width is therefore that of the codes, not that of the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntFormat {
    /// The dtype that holds a code.
    pub container: DType,
    /// Least code.
    pub quant_min: i64,
    /// Largest code.
    pub quant_max: i64,
}

impl IntFormat {
    /// Codes `quant_min..=quant_max` in `container`.
    ///
    /// # Errors
    /// If the container is not an integer of 8, 16 or 32 bits, the range is empty, or does not fit.
    pub fn new(container: DType, quant_min: i64, quant_max: i64) -> Result<IntFormat, SpecError> {
        let (low, high) = dtype_range(container)?;
        if quant_min > quant_max {
            return Err(SpecError::EmptyRange { min: quant_min, max: quant_max });
        }
        if quant_min < low || quant_max > high {
            return Err(SpecError::RangeBeyondDtype {
                min: quant_min,
                max: quant_max,
                dtype: container.torch_name(),
                low,
                high,
            });
        }
        Ok(IntFormat { container, quant_min, quant_max })
    }

    /// All codes of `container`.
    ///
    /// # Errors
    /// If the container is not an integer of 8, 16 or 32 bits.
    pub fn full(container: DType) -> Result<IntFormat, SpecError> {
        let (quant_min, quant_max) = dtype_range(container)?;
        Ok(IntFormat { container, quant_min, quant_max })
    }

    /// True if there are codes below 0.
    pub fn is_signed(self) -> bool {
        self.quant_min < 0
    }

    /// Bits that a code needs: two's complement if signed.
    pub fn bits(self) -> u32 {
        let unsigned = |v: i64| i64::BITS - v.max(0).leading_zeros();
        match self.is_signed() {
            false => unsigned(self.quant_max).max(1),
            true => unsigned(self.quant_max).max(unsigned(-(self.quant_min + 1))) + 1,
        }
    }

    /// Number of codes.
    pub fn codes(self) -> u64 {
        self.quant_max.abs_diff(self.quant_min).saturating_add(1)
    }

    /// True if the container is wider than the codes: an `int4` in an `int8` box, a `uint16` in an `int32` box.
    pub fn is_boxed(self) -> bool {
        self.bits() as usize != self.container.bits()
            || self.is_signed() != dtype_range(self.container).is_ok_and(|(low, _)| low < 0)
    }
}

impl fmt::Display for IntFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.is_signed() { "signed" } else { "unsigned" };
        write!(f, "{}-bit {sign} [{}, {}]", self.bits(), self.quant_min, self.quant_max)?;
        match self.is_boxed() {
            true => write!(f, " in an {} box", self.container.torch_name()),
            false => write!(f, " as {}", self.container.torch_name()),
        }
    }
}

/// A format of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NumberFormat {
    /// Fixed point: integer codes with a scale and a zero point.
    Int(IntFormat),
    /// Floating point, not quantized.
    Float(FloatFormat),
}

impl fmt::Display for NumberFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NumberFormat::Int(i) => i.fmt(f),
            NumberFormat::Float(x) => x.fmt(f),
        }
    }
}

/// A floating format by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FloatFormat {
    /// IEEE 754 binary32: 8 exponent bits, 23 fraction bits.
    Float32,
    /// IEEE 754 binary16: 5 exponent bits, 10 fraction bits.
    Float16,
    /// The upper half of a binary32: 8 exponent bits, 7 fraction bits.
    BFloat16,
    /// OCP FP8 E4M3 without infinities: 4 exponent bits, 3 fraction bits, largest 448.
    Float8E4M3Fn,
    /// OCP FP8 E5M2: 5 exponent bits, 2 fraction bits, largest 57344.
    Float8E5M2,
}

impl FloatFormat {
    /// All formats.
    pub const ALL: [FloatFormat; 5] = [
        FloatFormat::Float32,
        FloatFormat::Float16,
        FloatFormat::BFloat16,
        FloatFormat::Float8E4M3Fn,
        FloatFormat::Float8E5M2,
    ];

    /// PyTorch's name: `float32`, `float8_e4m3fn`.
    pub const fn name(self) -> &'static str {
        match self {
            FloatFormat::Float32 => "float32",
            FloatFormat::Float16 => "float16",
            FloatFormat::BFloat16 => "bfloat16",
            FloatFormat::Float8E4M3Fn => "float8_e4m3fn",
            FloatFormat::Float8E5M2 => "float8_e5m2",
        }
    }

    /// Exponent and fraction bits.
    pub const fn layout(self) -> (u32, u32) {
        match self {
            FloatFormat::Float32 => (8, 23),
            FloatFormat::Float16 => (5, 10),
            FloatFormat::BFloat16 => (8, 7),
            FloatFormat::Float8E4M3Fn => (4, 3),
            FloatFormat::Float8E5M2 => (5, 2),
        }
    }

    /// The largest finite value.
    pub fn max(self) -> f64 {
        match self {
            FloatFormat::Float32 => f64::from(f32::MAX),
            FloatFormat::Float16 => 65504.0,
            FloatFormat::BFloat16 => f64::from(f32::from_bits(0x7f7f_0000)),
            FloatFormat::Float8E4M3Fn => 448.0,
            FloatFormat::Float8E5M2 => 57344.0,
        }
    }
}

impl fmt::Display for FloatFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (exponent, fraction) = self.layout();
        write!(f, "{} (1 sign, {exponent} exponent, {fraction} fraction bits)", self.name())
    }
}

/// Least and largest value of an integer dtype that can hold codes.
///
/// # Errors
/// If it cannot: floats, `bool`, `int64` and packed `int4`.
pub fn dtype_range(dtype: DType) -> Result<(i64, i64), SpecError> {
    Ok(match dtype {
        DType::U8 => (0, i64::from(u8::MAX)),
        DType::I8 => (i64::from(i8::MIN), i64::from(i8::MAX)),
        DType::I16 => (i64::from(i16::MIN), i64::from(i16::MAX)),
        DType::U16 => (0, i64::from(u16::MAX)),
        DType::I32 => (i64::from(i32::MIN), i64::from(i32::MAX)),
        DType::I64 | DType::F16 | DType::F32 | DType::F64 | DType::Bool | DType::BF16 | DType::I4 => {
            return Err(SpecError::Dtype(dtype.torch_name()));
        }
    })
}

/// How real numbers map to codes, and for which parts of a tensor there is a scale of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum QScheme {
    /// One scale and zero point.
    PerTensorAffine,
    /// One scale, the zero point in the middle of the codes.
    PerTensorSymmetric,
    /// A scale and zero point for each index of `ch_axis`.
    PerChannelAffine,
    /// A scale for each index of `ch_axis`, the zero point in the middle of the codes.
    PerChannelSymmetric,
    /// A scale and a float zero point for each index of `ch_axis`: `code = x/scale + zero_point`.
    PerChannelAffineFloatQParams,
    /// A scale and zero point for each block (group).
    PerBlockAffine,
    /// A scale for each block (group), the zero point in the middle of the codes.
    PerBlockSymmetric,
    /// A scale and zero point for each row along the last axis.
    PerTokenAffine,
    /// A scale for each row along the last axis, zero point 0.
    PerTokenSymmetric,
}

impl QScheme {
    /// All schemes.
    pub const ALL: [QScheme; 9] = [
        QScheme::PerTensorAffine,
        QScheme::PerTensorSymmetric,
        QScheme::PerChannelAffine,
        QScheme::PerChannelSymmetric,
        QScheme::PerChannelAffineFloatQParams,
        QScheme::PerBlockAffine,
        QScheme::PerBlockSymmetric,
        QScheme::PerTokenAffine,
        QScheme::PerTokenSymmetric,
    ];

    /// The name, PyTorch's where it has one: `per_tensor_affine`.
    pub const fn name(self) -> &'static str {
        match self {
            QScheme::PerTensorAffine => "per_tensor_affine",
            QScheme::PerTensorSymmetric => "per_tensor_symmetric",
            QScheme::PerChannelAffine => "per_channel_affine",
            QScheme::PerChannelSymmetric => "per_channel_symmetric",
            QScheme::PerChannelAffineFloatQParams => "per_channel_affine_float_qparams",
            QScheme::PerBlockAffine => "per_block_affine",
            QScheme::PerBlockSymmetric => "per_block_symmetric",
            QScheme::PerTokenAffine => "per_token_affine",
            QScheme::PerTokenSymmetric => "per_token_symmetric",
        }
    }

    /// The scheme of that name.
    pub fn from_name(name: &str) -> Option<QScheme> {
        QScheme::ALL.into_iter().find(|s| s.name() == name)
    }

    /// True if the zero point is fixed in the middle of the codes.
    pub const fn is_symmetric(self) -> bool {
        matches!(
            self,
            QScheme::PerTensorSymmetric
                | QScheme::PerChannelSymmetric
                | QScheme::PerBlockSymmetric
                | QScheme::PerTokenSymmetric
        )
    }

    /// One scale for the tensor.
    pub const fn is_per_tensor(self) -> bool {
        matches!(self, QScheme::PerTensorAffine | QScheme::PerTensorSymmetric)
    }

    /// A scale for each channel.
    pub const fn is_per_channel(self) -> bool {
        matches!(self, QScheme::PerChannelAffine | QScheme::PerChannelSymmetric | QScheme::PerChannelAffineFloatQParams)
    }

    /// A scale for each block.
    pub const fn is_per_block(self) -> bool {
        matches!(self, QScheme::PerBlockAffine | QScheme::PerBlockSymmetric)
    }
}

impl fmt::Display for QScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// For which parts of a tensor torchao's affine observers keep a scale.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// The whole tensor.
    PerTensor,
    /// Each index of an axis; a negative axis counts from the last.
    PerAxis(isize),
    /// Each run of so many elements along the last axis.
    PerGroup(usize),
    /// Each row along the last axis, for activations.
    PerToken,
    /// Each row along the last axis, for weights.
    PerRow,
    /// Each block of these sizes, one size for each axis.
    PerBlock(Vec<usize>),
}

impl Granularity {
    /// The sizes of a block in a tensor of `shape`.
    ///
    /// # Errors
    /// A sentence, if the axis is not there or a size does not divide.
    pub fn block_size(&self, shape: &[usize]) -> Result<Vec<usize>, String> {
        let mut block = shape.to_vec();
        match self {
            Granularity::PerTensor => {}
            Granularity::PerAxis(axis) => {
                let at = match usize::try_from(*axis) {
                    Ok(a) => Some(a),
                    Err(_) => shape.len().checked_sub(axis.unsigned_abs()),
                };
                match at.and_then(|a| block.get_mut(a)) {
                    Some(size) => *size = 1,
                    None => return Err(format!("axis {axis} is not among its {} axes", shape.len())),
                }
            }
            Granularity::PerGroup(group) => {
                block = vec![1; shape.len()];
                match block.last_mut() {
                    Some(size) => *size = *group,
                    None => return Err("a scalar has no groups".to_owned()),
                }
            }
            Granularity::PerToken | Granularity::PerRow => {
                block = vec![1; shape.len()];
                match (block.last_mut(), shape.last()) {
                    (Some(size), Some(last)) => *size = *last,
                    _ => return Err("a scalar has no rows".to_owned()),
                }
            }
            Granularity::PerBlock(sizes) => block.clone_from(sizes),
        }
        check_block_size(&block, shape)?;
        Ok(block)
    }
}

impl fmt::Display for Granularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Granularity::PerTensor => write!(f, "PerTensor"),
            Granularity::PerAxis(axis) => write!(f, "PerAxis({axis})"),
            Granularity::PerGroup(group) => write!(f, "PerGroup({group})"),
            Granularity::PerToken => write!(f, "PerToken"),
            Granularity::PerRow => write!(f, "PerRow"),
            Granularity::PerBlock(sizes) => write!(f, "PerBlock({sizes:?})"),
        }
    }
}

/// Checks that blocks of sizes `block` tile a tensor of `shape`.
///
/// # Errors
/// A sentence that names the axis.
pub fn check_block_size(block: &[usize], shape: &[usize]) -> Result<(), String> {
    if block.len() != shape.len() {
        return Err(format!("the block size {block:?} has {} axes and the tensor {}", block.len(), shape.len()));
    }
    for (axis, (&b, &s)) in block.iter().zip(shape).enumerate() {
        if b == 0 && s != 0 || b != 0 && s % b != 0 {
            return Err(format!("block size {b} does not divide axis {axis} of size {s}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_say_what_they_are() {
        let said = |dtype, lo, hi| IntFormat::new(dtype, lo, hi).unwrap().to_string();
        assert_eq!(said(DType::U8, 0, 255), "8-bit unsigned [0, 255] as uint8");
        assert_eq!(said(DType::I8, -127, 127), "8-bit signed [-127, 127] as int8");
        assert_eq!(said(DType::I8, -8, 7), "4-bit signed [-8, 7] in an int8 box");
        assert_eq!(said(DType::I8, -7, 7), "4-bit signed [-7, 7] in an int8 box");
        assert_eq!(said(DType::I8, -2, 1), "2-bit signed [-2, 1] in an int8 box");
        assert_eq!(said(DType::I32, 0, 65535), "16-bit unsigned [0, 65535] in an int32 box");
        assert_eq!(said(DType::I16, -32767, 32767), "16-bit signed [-32767, 32767] as int16");
        assert_eq!(IntFormat::full(DType::I32).unwrap().bits(), 32);
        assert_eq!(IntFormat::full(DType::I32).unwrap().codes(), 1 << 32);
        assert_eq!(FloatFormat::Float8E4M3Fn.to_string(), "float8_e4m3fn (1 sign, 4 exponent, 3 fraction bits)");
    }

    #[test]
    fn ranges_that_do_not_fit_are_refused() {
        assert!(matches!(IntFormat::new(DType::I8, -129, 0), Err(SpecError::RangeBeyondDtype { .. })));
        assert!(matches!(IntFormat::new(DType::I8, 1, 0), Err(SpecError::EmptyRange { .. })));
        assert_eq!(IntFormat::full(DType::F32), Err(SpecError::Dtype("float32")));
    }

    #[test]
    fn names_are_unique() {
        for s in QScheme::ALL {
            assert_eq!(QScheme::from_name(s.name()), Some(s));
        }
    }

    #[test]
    fn granularities_give_blocks() {
        let g = |g: Granularity| g.block_size(&[4, 6, 8]);
        assert_eq!(g(Granularity::PerTensor), Ok(vec![4, 6, 8]));
        assert_eq!(g(Granularity::PerAxis(1)), Ok(vec![4, 1, 8]));
        assert_eq!(g(Granularity::PerAxis(-1)), Ok(vec![4, 6, 1]));
        assert_eq!(g(Granularity::PerGroup(4)), Ok(vec![1, 1, 4]));
        assert_eq!(g(Granularity::PerToken), Ok(vec![1, 1, 8]));
        assert_eq!(g(Granularity::PerBlock(vec![2, 3, 8])), Ok(vec![2, 3, 8]));
        assert_eq!(g(Granularity::PerGroup(3)).unwrap_err(), "block size 3 does not divide axis 2 of size 8");
        assert_eq!(g(Granularity::PerGroup(0)).unwrap_err(), "block size 0 does not divide axis 2 of size 8");
        assert!(g(Granularity::PerAxis(3)).unwrap_err().contains("axis 3"));
        assert!(g(Granularity::PerAxis(-4)).unwrap_err().contains("axis -4"));
        assert!(Granularity::PerToken.block_size(&[]).unwrap_err().contains("scalar"));
    }
}
