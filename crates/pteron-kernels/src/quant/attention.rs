//! Attention over codes, `llama::custom_quantized_sdpa`.

use pteron_tensor::{DType, Tensor, View, ViewMut};

use super::blocks::{elements, in_pieces, rows_a_piece};
use super::dequantize::{Dequantizer, Form};
use crate::attention::{SdpaOptions, custom_sdpa};
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
    /// The first `keep` positions as f32.
    fn numbers(&self, ctx: &Context, keep: usize, seq_at_dim_2: bool) -> Result<Tensor, KernelError> {
        let fail = |e: String| KernelError::new(OP, e);
        let &[b, d1, d2, width] = self.codes.sizes() else {
            return Err(fail(format!("codes of sizes {:?}: 4 expected", self.codes.sizes())));
        };
        let expected = [b, d1, d2, 1];
        if self.scales.sizes() != expected || self.zero_points.sizes() != expected {
            return Err(fail(format!(
                "scales {:?} and zero points {:?} for codes {:?}: expected {expected:?}",
                self.scales.sizes(),
                self.zero_points.sizes(),
                self.codes.sizes()
            )));
        }
        let codes = elements::<i8>(OP, &self.codes)?;
        let (scales, zero_points) = (elements::<f32>(OP, &self.scales)?, elements::<i8>(OP, &self.zero_points)?);
        // Outer blocks, rows in each, rows kept of each.
        let (outer, rows, kept, sizes) = match seq_at_dim_2 {
            true => (b * d1, d2, keep, [b, d1, keep, width]),
            false => (b, d1 * d2, keep * d2, [b, keep, d2, width]),
        };
        let mut lines: Vec<(usize, Vec<f32>)> = Vec::new();
        let per = rows_a_piece(width).min(kept.max(1));
        for o in 0..outer {
            for first in (0..kept).step_by(per) {
                lines.push((o * rows + first, vec![0f32; per.min(kept - first) * width]));
            }
        }
        in_pieces(ctx, &mut lines, 1, &|_, piece| {
            for (row, out) in piece {
                for (k, line) in out.chunks_mut(width.max(1)).enumerate() {
                    let at = *row + k;
                    let zp = i64::from(zero_points[at]);
                    Dequantizer::new(Form::Integer, f64::from(scales[at]), zp)
                        .row(&codes[at * width..(at + 1) * width], line);
                }
            }
        });
        let all: Vec<f32> = lines.into_iter().flat_map(|l| l.1).collect();
        Tensor::of(&sizes, &all).map_err(|e| fail(e.to_string()))
    }
}

/// Attention over codes: query, key and value are dequantized and go through [`custom_sdpa`], whose sizes and rules hold.
/// `out` is f32.
///
/// ExecuTorch's kernel multiplies the codes as integers; that differs by the rounding of f32 sums.
///
/// # Errors
/// As [`custom_sdpa`]; scales or zero points that do not fit the codes.
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
    let at = if options.is_seq_at_dim_2 { 2 } else { 1 };
    let len = |c: &Coded<'_>| c.codes.sizes().get(at).copied().unwrap_or(0);
    let (queries, room) = (len(q), len(k));
    let end = usize::try_from(start_pos).ok().and_then(|s| s.checked_add(queries)).filter(|&e| e <= room);
    let Some(end) = end else {
        let e = format!("start_pos {start_pos} with {queries} queries: {room} keys are there");
        return Err(KernelError::new(OP, e));
    };
    if len(v) != room {
        return Err(KernelError::new(OP, format!("{} values for {room} keys", len(v))));
    }
    let keep = if mask.is_some() { room } else { end };
    let seq2 = options.is_seq_at_dim_2;
    let (q, k, v) = (q.numbers(ctx, queries, seq2)?, k.numbers(ctx, keep, seq2)?, v.numbers(ctx, keep, seq2)?);
    custom_sdpa(ctx, &q.view(), &k.view(), &v.view(), start_pos, mask, options, out)
}
