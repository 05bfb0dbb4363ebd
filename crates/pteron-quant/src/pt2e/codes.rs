//! Weights as codes, quantized by rows when they are read.

use std::ops::Range;
use std::sync::Arc;

use pteron_kernels::quant::quantize::{Code, Form, Quantizer};
use pteron_tensor::{DType, SharedSource, SourceError, TensorSource, check_rows};

use crate::format::IntFormat;
use crate::observer::{Layout, QuantParams, ZeroPoint};

/// What is rounded to a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// `x·(1/scale)`: PT2E's operators and torchao's affine ones.
    Reciprocal,
    /// `x/scale`: HQQ, the scale search, ExecuTorch's weight-only int8. For codes without a zero point.
    Quotient,
}

/// Another source, of floats, as codes of its parameters: what `convert_pt2e` folds a quantize node of a weight into.
///
/// Codes are PyTorch's: `clamp(round(x·(1/scale)) + zero_point)`, half to even, by `quantize_per_tensor`,
/// `quantize_per_channel` or torchao's `quantize_affine`, which agree.
#[derive(Debug, Clone)]
pub struct CodesSource {
    inner: SharedSource,
    rounding: Rounding,
    scales: Arc<[f32]>,
    /// None where all are 0.
    zeros: Option<ZeroPoint>,
    format: IntFormat,
    /// Elements of a grid of parameters that one step along each dimension skips, and the sizes of a block.
    strides: Vec<usize>,
    blocks: Vec<usize>,
}

impl CodesSource {
    /// `inner`, which is f32, as codes.
    ///
    /// # Errors
    /// What does not fit: another element type, another number of scales than the layout has.
    pub fn new(inner: SharedSource, params: &QuantParams) -> Result<CodesSource, String> {
        let (scales, zeros) = (params.scale.len(), params.zero_point.len());
        if zeros != scales {
            return Err(format!("{}: {scales} scales and {zeros} zero points, expected as many", inner.label()));
        }
        let symmetric = match &params.zero_point {
            ZeroPoint::Int(z) => z.iter().all(|&z| z == 0),
            // Zero points of floats are added before rounding: another form, even where they are 0.
            ZeroPoint::Float(_) => false,
        };
        let scales = Arc::from(params.scale.as_slice());
        let codes = CodesSource::symmetric(inner, scales, &params.layout, params.format, Rounding::Reciprocal)?;
        Ok(CodesSource { zeros: (!symmetric).then(|| params.zero_point.clone()), ..codes })
    }

    /// [`CodesSource::new`] with zero points of 0, and codes rounded as `rounding` says.
    ///
    /// # Errors
    /// As [`CodesSource::new`].
    pub fn symmetric(
        inner: SharedSource,
        scales: Arc<[f32]>,
        layout: &Layout,
        format: IntFormat,
        rounding: Rounding,
    ) -> Result<CodesSource, String> {
        let shape = inner.shape().to_vec();
        if inner.dtype() != DType::F32 {
            return Err(format!("{} is {}, expected f32", inner.label(), inner.dtype()));
        }
        let blocks: Vec<usize> = match layout {
            Layout::PerTensor => shape.clone(),
            Layout::PerChannel { axis } if *axis < shape.len() => {
                shape.iter().enumerate().map(|(d, &n)| if d == *axis { 1 } else { n }).collect()
            }
            Layout::PerChannel { axis } => {
                return Err(format!("{} has {} dimensions and no axis {axis}", inner.label(), shape.len()));
            }
            Layout::PerBlock { block_size } => block_size.clone(),
        };
        crate::format::check_block_size(&blocks, &shape).map_err(|e| format!("{}: {e}", inner.label()))?;
        let mut strides = vec![1usize; shape.len()];
        let mut count = 1usize;
        for d in (0..shape.len()).rev() {
            strides[d] = count;
            count = count.saturating_mul(shape[d].checked_div(blocks[d]).unwrap_or(0));
        }
        if scales.len() != count {
            return Err(format!("{}: {} scales, expected {count}", inner.label(), scales.len()));
        }
        Ok(CodesSource { inner, rounding, scales, zeros: None, format, strides, blocks })
    }

    fn quantizer(&self, at: usize) -> Quantizer {
        let (scale, lo, hi) = (f64::from(self.scales[at]), self.format.quant_min, self.format.quant_max);
        match &self.zeros {
            None => Quantizer::new(Form::First, scale, 0, lo, hi),
            Some(ZeroPoint::Int(z)) => Quantizer::new(Form::First, scale, z[at], lo, hi),
            Some(ZeroPoint::Float(z)) => Quantizer::with_float_zero_point(Form::First, scale, f64::from(z[at]), lo, hi),
        }
    }

    /// Calls `f(first, len, parameter)` for the runs of equal parameters of a row.
    fn runs(&self, row: usize, mut f: impl FnMut(usize, usize, usize)) {
        let shape = self.inner.shape();
        let Some((&width, _)) = shape.last().zip(shape.get(1)) else {
            // A vector: each row is an element.
            let at = self.blocks.first().map_or(0, |b| row / b.max(&1));
            return f(0, 1, at * self.strides.first().copied().unwrap_or(0));
        };
        let run = self.blocks.last().copied().unwrap_or(1).max(1);
        let lines = self.inner.row_numel().checked_div(width).unwrap_or(0);
        for line in 0..lines {
            let mut at = row / self.blocks[0].max(1) * self.strides[0];
            let mut rest = line;
            for d in (1..shape.len() - 1).rev() {
                at += rest % shape[d] / self.blocks[d].max(1) * self.strides[d];
                rest /= shape[d];
            }
            for (i, start) in (0..width).step_by(run).enumerate() {
                f(line * width + start, run.min(width - start), at + i);
            }
        }
    }

    fn fill<T: Code + bytemuck::Pod>(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let n = self.inner.row_numel();
        let mut values = vec![0f32; n];
        let mut codes = vec![T::zeroed(); n];
        for (row, out) in rows.zip(out.chunks_exact_mut((n * size_of::<T>()).max(1))) {
            self.inner.read_rows(row..row + 1, bytemuck::cast_slice_mut(&mut values))?;
            if let Some(bad) = values.iter().position(|v| !v.is_finite()) {
                let reason = format!("element {bad} of row {row} is {}, which has no code", values[bad]);
                return Err(SourceError::Failed { what: self.label().to_owned(), reason });
            }
            self.runs(row, |first, len, at| {
                let (values, codes) = (&mut values[first..first + len], &mut codes[first..first + len]);
                match self.rounding {
                    Rounding::Reciprocal => self.quantizer(at).row(values, codes),
                    // A quotient is a whole number of scales once it is rounded: a scale of 1 leaves it as it is.
                    Rounding::Quotient => {
                        let (scale, f) = (self.scales[at], self.format);
                        values.iter_mut().for_each(|v| *v /= scale);
                        Quantizer::new(Form::First, 1.0, 0, f.quant_min, f.quant_max).row(values, codes);
                    }
                }
            });
            out.copy_from_slice(bytemuck::cast_slice(&codes));
        }
        Ok(())
    }
}

impl TensorSource for CodesSource {
    fn dtype(&self) -> DType {
        self.format.container
    }

    fn shape(&self) -> &[usize] {
        self.inner.shape()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        match self.dtype() {
            DType::I8 => self.fill::<i8>(rows, out),
            DType::U8 => self.fill::<u8>(rows, out),
            DType::I16 => self.fill::<i16>(rows, out),
            DType::U16 => self.fill::<u16>(rows, out),
            DType::I32 => self.fill::<i32>(rows, out),
            other => {
                let reason = format!("codes of {other} are not made");
                Err(SourceError::Failed { what: self.label().to_owned(), reason })
            }
        }
    }

    fn label(&self) -> &str {
        self.inner.label()
    }
}

#[cfg(test)]
mod tests {
    use pteron_tensor::{MemorySource, read_all};

    use super::*;

    fn codes(shape: &[usize], scale: &[f32], layout: Layout) -> Result<Vec<i8>, String> {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let source = Arc::new(MemorySource::of("w", shape, &values).unwrap());
        let format = IntFormat::new(DType::I8, -128, 127).unwrap();
        let zero_point = ZeroPoint::Int(vec![0; scale.len()]);
        let params = QuantParams { scale: scale.to_vec(), zero_point, layout, format };
        let source = CodesSource::new(source, &params)?;
        let all = bytemuck::cast_slice::<u8, i8>(&read_all(&source).unwrap()).to_vec();
        // By single rows as well.
        for row in 0..source.rows() {
            let mut one = vec![0u8; source.row_bytes()];
            source.read_rows(row..row + 1, &mut one).unwrap();
            assert_eq!(bytemuck::cast_slice::<u8, i8>(&one), &all[row * one.len()..(row + 1) * one.len()]);
        }
        Ok(all)
    }

    #[test]
    fn each_part_has_its_scale() {
        assert_eq!(codes(&[2, 3], &[1.0], Layout::PerTensor).unwrap(), [0, 1, 2, 3, 4, 5]);
        assert_eq!(codes(&[2, 3], &[1.0, 0.5], Layout::PerChannel { axis: 0 }).unwrap(), [0, 1, 2, 6, 8, 10]);
        assert_eq!(codes(&[2, 3], &[1.0, 0.5, 0.25], Layout::PerChannel { axis: 1 }).unwrap(), [0, 2, 8, 3, 8, 20]);
        let block = Layout::PerBlock { block_size: vec![1, 2] };
        assert_eq!(codes(&[2, 4], &[1.0, 0.5, 0.25, 0.125], block).unwrap(), [0, 1, 4, 6, 16, 20, 48, 56]);
        let block = Layout::PerBlock { block_size: vec![1, 1, 2] };
        assert_eq!(codes(&[2, 2, 2], &[1.0, 0.5, 0.25, 0.125], block).unwrap(), [0, 1, 4, 6, 16, 20, 48, 56]);
        let middle = Layout::PerChannel { axis: 1 };
        assert_eq!(codes(&[2, 2, 2], &[1.0, 0.5], middle).unwrap(), [0, 1, 4, 6, 4, 5, 12, 14]);
        assert_eq!(codes(&[3], &[1.0, 0.5, 0.25], Layout::PerChannel { axis: 0 }).unwrap(), [0, 2, 8]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        assert!(codes(&[2, 3], &[1.0], Layout::PerChannel { axis: 0 }).unwrap_err().contains("expected 2"));
        assert!(codes(&[2, 3], &[1.0], Layout::PerChannel { axis: 2 }).unwrap_err().contains("no axis 2"));
        assert!(codes(&[2, 3], &[1.0, 1.0], Layout::PerBlock { block_size: vec![2, 2] }).is_err());
    }

    #[test]
    fn a_nan_is_named() {
        let source = Arc::new(MemorySource::of("model.w", &[1, 2], &[1.0f32, f32::NAN]).unwrap());
        let format = IntFormat::new(DType::I8, -128, 127).unwrap();
        let params =
            QuantParams { scale: vec![1.0], zero_point: ZeroPoint::Int(vec![0]), layout: Layout::PerTensor, format };
        let source = CodesSource::new(source, &params).unwrap();
        let error = read_all(&source).unwrap_err().to_string();
        assert!(error.contains("model.w") && error.contains("element 1 of row 0"), "{error}");
    }
}
