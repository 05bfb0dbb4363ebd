//! Conversion of elements between types, with the meaning of C++'s `static_cast` as ExecuTorch's portable kernels use it.

use half::{bf16, f16};

use crate::{DType, Element};

/// One element, widened without loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    /// From a float type.
    Float(f64),
    /// From an integer type.
    Int(i64),
    /// From `bool`.
    Bool(bool),
}

impl Scalar {
    /// The value as `f64`; integers beyond 2^53 are rounded.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::Float(f) => f,
            Scalar::Int(i) => i as f64,
            Scalar::Bool(b) => f64::from(u8::from(b)),
        }
    }

    /// The value as `i64`; floats are truncated towards zero and saturate, NaN is 0.
    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::Float(f) => f as i64,
            Scalar::Int(i) => i,
            Scalar::Bool(b) => i64::from(b),
        }
    }

    /// True for anything but zero; NaN is true.
    pub fn as_bool(self) -> bool {
        match self {
            Scalar::Float(f) => f != 0.0,
            Scalar::Int(i) => i != 0,
            Scalar::Bool(b) => b,
        }
    }
}

/// Element `index` of contiguous `bytes`; `None` past the end.
pub fn read_scalar(dtype: DType, bytes: &[u8], index: usize) -> Option<Scalar> {
    fn at<T: Element>(bytes: &[u8], index: usize) -> Option<T> {
        let n = size_of::<T>();
        let start = index.checked_mul(n)?;
        bytes.get(start..start.checked_add(n)?).map(bytemuck::pod_read_unaligned)
    }
    Some(match dtype {
        DType::U8 => Scalar::Int(at::<u8>(bytes, index)?.into()),
        DType::I8 => Scalar::Int(at::<i8>(bytes, index)?.into()),
        DType::I16 => Scalar::Int(at::<i16>(bytes, index)?.into()),
        DType::U16 => Scalar::Int(at::<u16>(bytes, index)?.into()),
        DType::I32 => Scalar::Int(at::<i32>(bytes, index)?.into()),
        DType::I64 => Scalar::Int(at::<i64>(bytes, index)?),
        DType::F16 => Scalar::Float(at::<f16>(bytes, index)?.to_f64()),
        DType::BF16 => Scalar::Float(at::<bf16>(bytes, index)?.to_f64()),
        DType::F32 => Scalar::Float(at::<f32>(bytes, index)?.into()),
        DType::F64 => Scalar::Float(at::<f64>(bytes, index)?),
        DType::Bool => Scalar::Bool(at::<u8>(bytes, index)? != 0),
        DType::I4 => {
            let b = *bytes.get(index / 2)?;
            let nibble = if index.is_multiple_of(2) { b & 15 } else { b >> 4 };
            Scalar::Int(i64::from(((nibble << 4) as i8) >> 4))
        }
    })
}

/// Writes `value` as element `index` of contiguous `bytes`; `None` past the end. Floats going to an integer type are
/// truncated towards zero, then wrapped to its width.
pub fn write_scalar(dtype: DType, bytes: &mut [u8], index: usize, value: Scalar) -> Option<()> {
    fn put<T: Element>(bytes: &mut [u8], index: usize, v: T) -> Option<()> {
        let n = size_of::<T>();
        let start = index.checked_mul(n)?;
        bytes.get_mut(start..start.checked_add(n)?)?.copy_from_slice(bytemuck::bytes_of(&v));
        Some(())
    }
    match dtype {
        DType::U8 => put(bytes, index, value.as_i64() as u8),
        DType::I8 => put(bytes, index, value.as_i64() as i8),
        DType::I16 => put(bytes, index, value.as_i64() as i16),
        DType::U16 => put(bytes, index, value.as_i64() as u16),
        DType::I32 => put(bytes, index, value.as_i64() as i32),
        DType::I64 => put(bytes, index, value.as_i64()),
        // A double reaches a 16-bit float through `float`, as in C++.
        DType::F16 => put(bytes, index, f16::from_f32(value.as_f64() as f32)),
        DType::BF16 => put(bytes, index, bf16::from_f32(value.as_f64() as f32)),
        DType::F32 => put(bytes, index, value.as_f64() as f32),
        DType::F64 => put(bytes, index, value.as_f64()),
        DType::Bool => put(bytes, index, u8::from(value.as_bool())),
        DType::I4 => {
            let b = bytes.get_mut(index / 2)?;
            let nibble = (value.as_i64() as u8) & 15;
            *b = if index.is_multiple_of(2) { (*b & 0xF0) | nibble } else { (*b & 0x0F) | (nibble << 4) };
            Some(())
        }
    }
}

/// Converts `numel` contiguous elements. `None` if either buffer is too short.
///
/// The common pairs run through tight loops; all others through [`read_scalar`] and [`write_scalar`].
pub fn cast_bytes(src: &[u8], from: DType, dst: &mut [u8], to: DType, numel: usize) -> Option<()> {
    let src = src.get(..from.bytes_for(numel)?)?;
    let dst = dst.get_mut(..to.bytes_for(numel)?)?;
    if from == to {
        dst.copy_from_slice(src);
        return Some(());
    }
    fn chunks<const N: usize, const M: usize>(src: &[u8], dst: &mut [u8], f: impl Fn([u8; N]) -> [u8; M]) {
        for (s, d) in src.as_chunks::<N>().0.iter().zip(dst.as_chunks_mut::<M>().0) {
            *d = f(*s);
        }
    }
    match (from, to) {
        (DType::F16, DType::F32) => {
            chunks::<2, 4>(src, dst, |b| f16::from_le_bytes(b).to_f32().to_le_bytes());
        }
        (DType::BF16, DType::F32) => {
            chunks::<2, 4>(src, dst, |b| bf16::from_le_bytes(b).to_f32().to_le_bytes());
        }
        (DType::F32, DType::F16) => {
            chunks::<4, 2>(src, dst, |b| f16::from_f32(f32::from_le_bytes(b)).to_le_bytes());
        }
        (DType::F32, DType::BF16) => {
            chunks::<4, 2>(src, dst, |b| bf16::from_f32(f32::from_le_bytes(b)).to_le_bytes());
        }
        // Codes of 16 bits, which PT2E holds in 32.
        (DType::I32, DType::I16 | DType::U16) => chunks::<4, 2>(src, dst, |[a, b, _, _]| [a, b]),
        _ => {
            for i in 0..numel {
                write_scalar(to, dst, i, read_scalar(from, src, i)?)?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_16_bits_keep_their_lower_half() {
        let src = [0, 65535, -1, 70000, -32768];
        for to in [DType::U16, DType::I16] {
            let (mut out, mut expected) = ([0u8; 10], [0u8; 10]);
            cast_bytes(bytemuck::cast_slice(&src), DType::I32, &mut out, to, 5).unwrap();
            for (i, v) in src.iter().enumerate() {
                write_scalar(to, &mut expected, i, Scalar::Int(i64::from(*v))).unwrap();
            }
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn floats_truncate_and_saturate() {
        let src = [1.9f32, -1.9, 300.0, f32::NAN];
        let mut out = [0u8; 16];
        cast_bytes(bytemuck::cast_slice(&src), DType::F32, &mut out, DType::I32, 4).unwrap();
        assert_eq!(bytemuck::pod_collect_to_vec::<u8, i32>(&out), [1, -1, 300, 0]);
        cast_bytes(bytemuck::cast_slice(&src), DType::F32, &mut out, DType::Bool, 4).unwrap();
        assert_eq!(out[..4], [1, 1, 1, 1]);
    }

    #[test]
    fn nibbles_are_low_first_and_signed() {
        let mut b = [0u8; 2];
        for (i, v) in [-8i64, 7, -1].into_iter().enumerate() {
            write_scalar(DType::I4, &mut b, i, Scalar::Int(v)).unwrap();
        }
        assert_eq!(b, [0x78, 0x0F]);
        let back: Vec<_> = (0..3).map(|i| read_scalar(DType::I4, &b, i).unwrap().as_i64()).collect();
        assert_eq!(back, [-8, 7, -1]);
    }

    #[test]
    fn short_buffers_are_refused() {
        assert!(cast_bytes(&[0; 3], DType::F32, &mut [0; 8], DType::F64, 1).is_none());
        assert!(cast_bytes(&[0; 4], DType::F32, &mut [0; 7], DType::F64, 1).is_none());
    }
}
