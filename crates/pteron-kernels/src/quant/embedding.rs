//! Rows of a table of codes, dequantized as they are looked up.
//!
//! Source: `kernels/quantized/cpu/op_embedding.cpp`, `embeddingxb.cpp`.

use pteron_tensor::{DType, Shape, View, ViewMut};

use super::blocks::in_pieces;
use super::convert::write_floats;
use super::dequantize::Dequantizer;
use crate::elementwise::drive::{PIECE, check_out};
use crate::index::row_indices;
use crate::{Context, KernelError, KernelResult};

/// How many bits a code of a table has, and how the codes lie in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableBits {
    /// A byte a code, signed or not.
    Eight,
    /// Two codes a byte, each with 8 added; the even column in the upper half.
    Four,
    /// Four codes a byte, each with 2 added; the first column in the lowest bits.
    Two,
}

impl TableBits {
    /// Codes in a byte.
    pub const fn per_byte(self) -> usize {
        match self {
            TableBits::Eight => 1,
            TableBits::Four => 2,
            TableBits::Two => 4,
        }
    }
}

/// Codes of a packed row, one a byte.
fn unpack(bits: TableBits, bytes: &[u8], codes: &mut [i8]) {
    match bits {
        TableBits::Eight => {
            for (c, &b) in codes.iter_mut().zip(bytes) {
                *c = b as i8;
            }
        }
        TableBits::Four => {
            for (c, &b) in codes.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
                *c = [(b >> 4) as i8 - 8, (b & 15) as i8 - 8];
            }
        }
        TableBits::Two => {
            for (c, &b) in codes.as_chunks_mut::<4>().0.iter_mut().zip(bytes) {
                *c = [0, 2, 4, 6].map(|s| ((b >> s) & 3) as i8 - 2);
            }
        }
    }
}

/// `quantized_decomposed::embedding_byte`, `embedding_4bit` and `embedding_2bit`: rows `indices` of a table of codes,
/// `(code − zero_point) · scale` in f32.
///
/// `table` is `[rows, width / codes a byte]`, u8 (or i8 for [`TableBits::Eight`]); `scales`, of a float type, are `[rows]` or
/// `[rows, groups]`, `zero_points` alike, all 0 if missing. `out` is f32, f16 or bf16, the sizes of `indices` and then `width`.
///
/// # Errors
/// Sizes or types that do not fit; an index out of range.
pub fn embedding(
    ctx: &Context,
    bits: TableBits,
    table: &View<'_>,
    scales: &View<'_>,
    zero_points: Option<&View<'_>>,
    indices: &View<'_>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = match bits {
        TableBits::Eight => "quantized_decomposed::embedding_byte",
        TableBits::Four => "quantized_decomposed::embedding_4bit",
        TableBits::Two => "quantized_decomposed::embedding_2bit",
    };
    let fail = |e: String| Err(KernelError::new(op, e));
    let &[rows, packed] = table.sizes() else {
        return fail(format!("the table has sizes {:?}, expected two", table.sizes()));
    };
    let width = packed * bits.per_byte();
    let groups = match *scales.sizes() {
        [n] if n == rows => 1,
        [n, g] if n == rows && g > 0 && width.is_multiple_of(g) => g,
        _ => {
            return fail(format!(
                "scales of sizes {:?}: expected [{rows}] or [{rows}, groups] with groups that divide {width}",
                scales.sizes()
            ));
        }
    };
    if zero_points.is_some_and(|z| z.sizes() != scales.sizes()) {
        return fail(format!("the zero points have other sizes than the scales, {:?}", scales.sizes()));
    }
    let mut sizes = Shape::from_slice(indices.sizes());
    sizes.push(width);
    check_out(op, out, &sizes)?;
    let list = row_indices(op, indices, rows, "rows")?;
    let signed = match (table.dtype(), bits) {
        (DType::I8, TableBits::Eight) => true,
        (DType::U8, _) => false,
        (other, _) => return fail(format!("the table is {other}, expected u8")),
    };
    let copy;
    let bytes: &[u8] = if table.is_contiguous() {
        table.bytes()
    } else {
        copy = pteron_tensor::Tensor::copy_of(table);
        copy.bytes()
    };
    let group = width / groups;
    if width == 0 {
        return Ok(());
    }
    // Scales of the rows that are looked up, and no others: a table has many.
    let of = |view: &View<'_>| -> Result<Vec<f32>, KernelError> {
        if !view.dtype().is_float() || view.dtype() == DType::F64 {
            let e = format!("scales and zero points are {}, expected f32, f16 or bf16", view.dtype());
            return Err(KernelError::new(op, e));
        }
        let number = |i: usize| view.scalar(i).map_or(0.0, |v| v.as_f64() as f32);
        Ok(list.iter().flat_map(|&r| r * groups..(r + 1) * groups).map(number).collect())
    };
    let s = of(scales)?;
    let z = zero_points.map(&of).transpose()?;
    write_floats(op, out, |all| {
        let rows_each = (PIECE / width).max(1);
        in_pieces(ctx, all, rows_each * width, &|first, piece| {
            let mut codes = vec![0i8; width];
            for (k, line) in piece.chunks_exact_mut(width).enumerate() {
                let at = first / width + k;
                let row = &bytes[list[at] * packed..(list[at] + 1) * packed];
                if signed || bits != TableBits::Eight {
                    unpack(bits, row, &mut codes);
                }
                for g in 0..groups {
                    let p = at * groups + g;
                    let zp = z.as_ref().map_or(0.0, |z| z[p]);
                    let d = Dequantizer::with_float_zero_point(f64::from(s[p]), f64::from(zp));
                    let span = g * group..(g + 1) * group;
                    if signed || bits != TableBits::Eight {
                        d.row(&codes[span.clone()], &mut line[span]);
                    } else {
                        d.row(&row[span.clone()], &mut line[span]);
                    }
                }
            }
        });
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nibbles_and_crumbs() {
        let mut codes = [0i8; 4];
        unpack(TableBits::Four, &[0x59, 0xef], &mut codes);
        assert_eq!(codes, [-3, 1, 6, 7]);
        unpack(TableBits::Two, &[0b11_10_01_00], &mut codes);
        assert_eq!(codes, [-2, -1, 0, 1]);
    }
}
