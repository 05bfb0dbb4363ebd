//! Attention over codes, `llama::custom_quantized_sdpa`.

use pteron_tensor::{DType, Tensor, View, ViewMut};

use super::blocks::elements;
use super::dequantize::{Dequantizer, Form};
use crate::attention::{SdpaOptions, custom_coded};
use crate::{Context, KernelError, KernelResult};

/// One of query, key and value: codes with a scale and a zero point for each row of the last dimension.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a> {
    /// The codes, i8, of rank 4.
    pub codes: View<'a>,
    /// The scales, f32, of the same sizes but 1 at the end.
    pub scales: View<'a>,
    /// The zero points, i8, of the sizes of the scales.
    pub zero_points: View<'a>,
}

const OP: &str = "llama::custom_quantized_sdpa";

impl Coded<'_> {
    /// Scales and zero points fit the codes.
    pub(crate) fn check(&self) -> KernelResult {
        let fail = |e: String| Err(KernelError::new(OP, e));
        let &[b, d1, d2, _] = self.codes.sizes() else {
            return fail(format!("codes of sizes {:?}: 4 expected", self.codes.sizes()));
        };
        let expected = [b, d1, d2, 1];
        if self.scales.sizes() != expected || self.zero_points.sizes() != expected {
            return fail(format!(
                "scales {:?} and zero points {:?} for codes {:?}: expected {expected:?}",
                self.scales.sizes(),
                self.zero_points.sizes(),
                self.codes.sizes()
            ));
        }
        let types = (self.codes.dtype(), self.scales.dtype(), self.zero_points.dtype());
        if types != (DType::I8, DType::F32, DType::I8) {
            return fail(format!("codes, scales and zero points of {types:?}: i8, f32 and i8 expected"));
        }
        Ok(())
    }

    /// As f32.
    fn numbers(&self) -> Result<Tensor, KernelError> {
        self.check()?;
        let width = self.codes.sizes().last().copied().unwrap_or(0);
        let codes = elements::<i8>(OP, &self.codes)?;
        let (scales, zero_points) = (elements::<f32>(OP, &self.scales)?, elements::<i8>(OP, &self.zero_points)?);
        let mut all = vec![0f32; codes.len()];
        let rows = codes.chunks(width.max(1)).zip(all.chunks_mut(width.max(1)));
        for ((codes, out), (&s, &z)) in rows.zip(scales.iter().zip(zero_points.iter())) {
            Dequantizer::new(Form::Integer, f64::from(s), i64::from(z)).row(codes, out);
        }
        Tensor::of(self.codes.sizes(), &all).map_err(|e| KernelError::new(OP, e.to_string()))
    }
}

/// Attention over codes: query, key and value are dequantized, keys and values block by block, and go through
/// [`custom_sdpa`](crate::attention::custom_sdpa), whose sizes and rules hold. `out` is f32.
///
/// ExecuTorch's kernel multiplies the codes as integers; that differs by the rounding of f32 sums.
///
/// # Errors
/// As [`custom_sdpa`](crate::attention::custom_sdpa); scales or zero points that do not fit the codes.
pub fn custom_quantized_sdpa(
    ctx: &Context,
    [q, k, v]: [&Coded<'_>; 3],
    start_pos: i64,
    mask: Option<&View<'_>>,
    options: SdpaOptions,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    if out.dtype() != DType::F32 {
        return Err(KernelError::new(OP, format!("out is {}, expected f32", out.dtype())));
    }
    let q = q.numbers()?;
    custom_coded(OP, ctx, &q.view(), [k, v], start_pos, mask, options, out)
}
