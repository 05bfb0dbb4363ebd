//! Matrices that are stored as codes.

use std::ops::Range;
use std::sync::Arc;

use crate::dtype::DType;
use crate::source::{RowMapSource, SharedSource, SourceError, TensorSource, check_rows};

/// A matrix as codes with scales: element `[r, c]` is `scales[r, c / group] · codes[r, c]`.
#[derive(Debug, Clone)]
pub struct GroupedCodes {
    codes: SharedSource,
    scales: SharedSource,
    group: usize,
    bits: u32,
}

impl GroupedCodes {
    /// `codes`, i8 `[rows, columns]`, all of them within `bits` bits of two's complement, and `scales`, f32
    /// `[rows, columns / group]`.
    ///
    /// # Errors
    /// A sentence about what does not fit.
    pub fn new(codes: SharedSource, scales: SharedSource, bits: u32) -> Result<GroupedCodes, String> {
        let (&[rows, columns], &[scale_rows, groups]) = (codes.shape(), scales.shape()) else {
            let (a, b) = (codes.shape(), scales.shape());
            return Err(format!("codes of shape {a:?} with scales of shape {b:?}, expected matrices"));
        };
        if (codes.dtype(), scales.dtype()) != (DType::I8, DType::F32) {
            let (a, b) = (codes.dtype(), scales.dtype());
            return Err(format!("codes of {a} with scales of {b}, expected i8 and f32"));
        }
        if rows != scale_rows || columns == 0 || groups == 0 || !columns.is_multiple_of(groups) {
            return Err(format!("scales [{scale_rows}, {groups}] do not divide codes [{rows}, {columns}] into groups"));
        }
        if !(1..=8).contains(&bits) {
            return Err(format!("codes of {bits} bits, expected 1 to 8"));
        }
        Ok(GroupedCodes { codes, scales, group: columns / groups, bits })
    }

    /// The codes, i8 `[rows, columns]`.
    pub fn codes(&self) -> &SharedSource {
        &self.codes
    }

    /// The scales, f32 `[rows, columns / group]`.
    pub fn scales(&self) -> &SharedSource {
        &self.scales
    }

    /// Columns of a group.
    pub fn group(&self) -> usize {
        self.group
    }

    /// Bits that hold every code.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The same matrix with row `i` taken from row `map(i, params)`, a permutation.
    #[must_use]
    pub fn with_rows(self, map: fn(usize, &[usize; 2]) -> usize, params: [usize; 2]) -> GroupedCodes {
        let wrap = |source| RowMapSource::wrap(source, map, params);
        GroupedCodes { codes: wrap(self.codes), scales: wrap(self.scales), ..self }
    }

    /// The matrix in f32.
    pub fn dequantized(self) -> SharedSource {
        Arc::new(Dequantized(self))
    }
}

#[derive(Debug)]
struct Dequantized(GroupedCodes);

impl TensorSource for Dequantized {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.codes.shape()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let GroupedCodes { codes, scales, group, .. } = &self.0;
        let mut row_codes = vec![0u8; codes.row_bytes()];
        let mut row_scales = vec![0u8; scales.row_bytes()];
        for (row, out) in rows.zip(out.chunks_exact_mut(self.row_bytes().max(1))) {
            codes.read_rows(row..row + 1, &mut row_codes)?;
            scales.read_rows(row..row + 1, &mut row_scales)?;
            let parts = out.chunks_exact_mut(group * 4).zip(row_codes.chunks_exact(*group));
            for ((out, codes), scale) in parts.zip(row_scales.as_chunks::<4>().0) {
                let scale = f32::from_le_bytes(*scale);
                for (out, &code) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
                    *out = (scale * f32::from(code.cast_signed())).to_le_bytes();
                }
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        self.0.codes.label()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{MemorySource, read_all};

    fn grouped(
        codes: &[i8],
        shape: &[usize],
        scales: &[f32],
        groups: &[usize],
        bits: u32,
    ) -> Result<GroupedCodes, String> {
        let codes = MemorySource::of("w", shape, codes).unwrap();
        let scales = MemorySource::of("w.scales", groups, scales).unwrap();
        GroupedCodes::new(Arc::new(codes), Arc::new(scales), bits)
    }

    #[test]
    fn elements_are_scales_times_codes() {
        let g = grouped(&[1, -2, 3, -4, 5, -6, 7, -8], &[2, 4], &[0.5, 2.0, 1.0, -0.25], &[2, 2], 4).unwrap();
        assert_eq!((g.group(), g.bits()), (2, 4));
        let floats = |s: SharedSource| {
            read_all(s.as_ref()).unwrap().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<_>>()
        };
        assert_eq!(floats(g.clone().dequantized()), [0.5, -1.0, 6.0, -8.0, 5.0, -6.0, -1.75, 2.0]);
        let turned = g.with_rows(|i, _| 1 - i, [0; 2]).dequantized();
        assert_eq!(floats(turned.clone()), [5.0, -6.0, -1.75, 2.0, 0.5, -1.0, 6.0, -8.0]);
        assert_eq!((turned.label(), turned.shape()), ("w", &[2, 4][..]));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let wrong = |shape: &[usize], groups: &[usize], bits| {
            let (n, m) = (shape.iter().product(), groups.iter().product());
            grouped(&vec![0; n], shape, &vec![1.0; m], groups, bits).unwrap_err()
        };
        assert!(wrong(&[2, 4], &[2], 4).contains("expected matrices"));
        assert!(wrong(&[2, 4], &[1, 2], 4).contains("do not divide codes [2, 4]"));
        assert!(wrong(&[2, 4], &[2, 3], 4).contains("into groups"));
        assert!(wrong(&[2, 4], &[2, 2], 9).contains("codes of 9 bits"));
        let floats = Arc::new(MemorySource::of("w", &[1, 1], &[1.0f32]).unwrap());
        assert!(GroupedCodes::new(floats.clone(), floats, 8).unwrap_err().contains("codes of f32"));
    }
}
