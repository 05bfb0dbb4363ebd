//! Loops in plain Rust, compiled a second time for AVX2, and the 16-bit floats' way to `f32` and back by rows.
//!
//! Unlike the table of [`crate::simd`] these have one result on every processor: the same operations in the same order, never
//! fused, only more of them at a time.

use bytemuck::try_cast_slice;
use half::f16;
use half::slice::HalfFloatSliceExt;

/// Defines functions whose body is also compiled for AVX2 and called there.
macro_rules! wide {
    ($($(#[$meta:meta])* pub(crate) fn $name:ident($($arg:ident: $t:ty),*) $(-> $r:ty)? $body:block)*) => { $(
        $(#[$meta])*
        pub(crate) fn $name($($arg: $t),*) $(-> $r)? {
            #[inline(always)]
            fn body($($arg: $t),*) $(-> $r)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $t),*) $(-> $r)? {
                    body($($arg),*)
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has the instructions.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    )* };
}
pub(crate) use wide;

wide! {
    /// Elements of `bf16` as `f32`; as many as `out` has.
    pub(crate) fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
        let pairs = &bytes.as_chunks::<2>().0[..out.len()];
        for i in 0..out.len() {
            out[i] = f32::from_bits(u32::from(u16::from_ne_bytes(pairs[i])) << 16);
        }
    }

    /// Values rounded to `bf16`, to the nearest and ties to even; NaN stays NaN with its upper bits.
    pub(crate) fn round_bf16(values: &[f32], bytes: &mut [u8]) {
        let pairs = &mut bytes.as_chunks_mut::<2>().0[..values.len()];
        for i in 0..values.len() {
            let bits = values[i].to_bits();
            let near = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            let nan = (bits >> 16) | 0x40;
            let bits = if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { near };
            pairs[i] = (bits as u16).to_ne_bytes();
        }
    }

    /// Codes from −128 to 127 as codes from 0 to 255, and back.
    pub(crate) fn flip_signs(codes: &mut [u8]) {
        for c in codes {
            *c ^= 128;
        }
    }

    /// `x = x·scale`.
    pub(crate) fn scale(x: &mut [f32], scale: f32) {
        for v in x {
            *v *= scale;
        }
    }

    /// `x = x·a + y·b`, rounded after each operation.
    pub(crate) fn blend(x: &mut [f32], a: f32, y: &[f32], b: f32) {
        let y = &y[..x.len()];
        for i in 0..x.len() {
            x[i] = x[i] * a + y[i] * b;
        }
    }

    /// `x = x/divisor`.
    pub(crate) fn divide(x: &mut [f32], divisor: f32) {
        for v in x {
            *v /= divisor;
        }
    }

    /// `x = x·w`.
    pub(crate) fn multiply(x: &mut [f32], w: &[f32]) {
        let w = &w[..x.len()];
        for i in 0..x.len() {
            x[i] *= w[i];
        }
    }

    /// `x = (x - a) - b`.
    pub(crate) fn subtract_two(x: &mut [f32], a: f32, b: f32) {
        for v in x {
            *v = (*v - a) - b;
        }
    }

    /// The sum of the squares: within 1024 elements in sixteen lanes, then halves added to halves; those sums in `f64`.
    pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
        let mut sum = 0.0;
        for block in x.chunks(1024) {
            let mut acc = [0f32; 16];
            let (chunks, rest) = block.as_chunks::<16>();
            for c in chunks {
                for i in 0..16 {
                    acc[i] += c[i] * c[i];
                }
            }
            for (i, v) in rest.iter().enumerate() {
                acc[i] += v * v;
            }
            let half: [f32; 8] = std::array::from_fn(|i| acc[i] + acc[i + 8]);
            let half: [f32; 4] = std::array::from_fn(|i| half[i] + half[i + 4]);
            sum += f64::from((half[0] + half[2]) + (half[1] + half[3]));
        }
        sum
    }
}

/// Elements of `f16` as `f32`; as many as `out` has.
pub(crate) fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    match try_cast_slice::<u8, f16>(bytes) {
        Ok(row) if row.len() == out.len() => row.convert_to_f32_slice(out),
        _ => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *o = f16::from_ne_bytes(*b).to_f32();
            }
        }
    }
}

/// Values rounded to `f16`, to the nearest and ties to even.
pub(crate) fn round_f16(values: &[f32], bytes: &mut [u8]) {
    match bytemuck::try_cast_slice_mut::<u8, f16>(bytes) {
        Ok(row) if row.len() == values.len() => row.convert_from_f32_slice(values),
        _ => {
            for (v, b) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
                *b = f16::from_f32(*v).to_ne_bytes();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn rows_convert_as_elements_do() {
        // Every 16-bit pattern, and around each the f32 values where rounding turns; odd lengths and odd addresses.
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_ne_bytes).collect();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let mut out = vec![0f32; 1 << 16];
        widen_bf16(&all, &mut out);
        assert!(out.iter().zip(0..=u16::MAX).all(|(o, i)| same(*o, bf16::from_bits(i).to_f32())));
        widen_f16(&all, &mut out);
        assert!(out.iter().zip(0..=u16::MAX).all(|(o, i)| same(*o, f16::from_bits(i).to_f32())));
        let near: Vec<f32> = (0..=u16::MAX)
            .flat_map(|h| [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff].map(|l| f32::from_bits((u32::from(h) << 16) | l)))
            .chain((0..=u16::MAX).flat_map(|h| {
                let v = f16::from_bits(h).to_f32();
                [-1, 0, 1].map(|d| f32::from_bits(v.to_bits().wrapping_add_signed(d + 0x1000)))
            }))
            .collect();
        for skip in [0, 1, 5] {
            let values = &near[skip..];
            let mut bytes = vec![0u8; values.len() * 2 + 1];
            round_bf16(values, &mut bytes[skip % 2..][..values.len() * 2]);
            for (v, b) in values.iter().zip(bytes[skip % 2..].as_chunks::<2>().0) {
                assert_eq!(u16::from_ne_bytes(*b), bf16::from_f32(*v).to_bits(), "{v:e}");
            }
            round_f16(values, &mut bytes[skip % 2..][..values.len() * 2]);
            for (v, b) in values.iter().zip(bytes[skip % 2..].as_chunks::<2>().0) {
                let (got, want) = (f16::from_ne_bytes(*b), f16::from_f32(*v));
                assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{v:e}");
            }
        }
    }

    #[test]
    fn sums_of_squares_are_near_the_exact_ones() {
        for n in [0usize, 1, 15, 16, 17, 1023, 1024, 1025, 5000] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.7).sin()).collect();
            let exact: f64 = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
            assert!((sum_of_squares(&x) - exact).abs() <= 1e-6 * exact, "{n}");
        }
    }
}
