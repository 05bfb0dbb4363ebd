//! Rotary position embedding.

use std::ops::Range;

use pteron_tensor::{View, ViewMut};

use super::norm::{borrow_all, float_only};
use crate::elementwise::compute::Compute;
use crate::elementwise::drive::{check_out, in_pieces};
use crate::shape_ops::engine::check_dtype;
use crate::wide::wide;
use crate::{Context, KernelError, KernelResult};

/// Elements that one thread takes at a time, at least those of one position.
const PIECE: usize = 16 * 1024;

/// Which elements of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours: (0, 1), (2, 3), …, as in Meta's Llama.
    Interleaved,
    /// Halves: (0, D/2), (1, D/2 + 1), …, as in Hugging Face's Llama.
    HalfSplit,
    /// Halves as well, each half of the result by angles of its own: `x·cos + cat(-x₂, x₁)·sin` with `cos` and `sin` `[S, D]`.
    RotateHalf,
}

/// Rotates pair `i` of every head of `x [B, S, H, D]` by the angle whose cosine and sine are `cos[s, i]` and `sin[s, i]`:
/// `(a, b) → (a·cos - b·sin, a·sin + b·cos)`. `cos` and `sin` are `[S, D/2]` floats (`[S, D]` for
/// [`RopeStyle::RotateHalf`]); the rotation is in `f32`, rounded to the dtype of `x`.
///
/// # Errors
/// Also for an odd D.
pub fn rope(
    ctx: &Context,
    x: View<'_>,
    cos: View<'_>,
    sin: View<'_>,
    style: RopeStyle,
    mut out: ViewMut<'_>,
) -> KernelResult {
    let op = "pteron::rope";
    float_only(op, "x", x.dtype())?;
    let &[batch, seq, heads, d] = x.sizes() else {
        return Err(KernelError::new(op, format!("x has sizes {:?}, expected [B, S, H, D]", x.sizes())));
    };
    if !d.is_multiple_of(2) {
        return Err(KernelError::new(op, format!("the head dimension {d} is odd")));
    }
    let half = if style == RopeStyle::RotateHalf { d } else { d / 2 };
    for (what, v) in [("cos", &cos), ("sin", &sin)] {
        float_only(op, what, v.dtype())?;
        if v.sizes() != [seq, half] {
            return Err(KernelError::new(op, format!("{what} has sizes {:?}, expected [{seq}, {half}]", v.sizes())));
        }
    }
    check_dtype(op, &out, x.dtype())?;
    check_out(op, &out, x.sizes())?;
    if x.numel() == 0 {
        return Ok(());
    }
    let (cos, sin) = (borrow_all::<f32>(&cos), borrow_all::<f32>(&sin));
    let (i, o, dtype) = (x.strides(), out.strides(), x.dtype());
    // Positions `range` of those of all batches; `bytes` begins at element `skip` of out.
    let positions = |range: Range<usize>, skip: usize, bytes: &mut [u8]| {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        for p in range {
            let (b, s) = (p / seq, p % seq);
            let (cos, sin) = (&cos[s * half..(s + 1) * half], &sin[s * half..(s + 1) * half]);
            for h in 0..heads {
                let at = b * i[0] + s * i[1] + h * i[2];
                let row = if i[3] == 1 { f32::direct(dtype, x.bytes(), at, d) } else { None };
                let row = row.unwrap_or_else(|| {
                    from.resize(d, 0.0);
                    f32::load(dtype, x.bytes(), at, i[3], &mut from);
                    &from
                });
                let at = b * o[0] + s * o[1] + h * o[2] - skip;
                let place = if o[3] == 1 { f32::direct_mut(dtype, bytes, at, d) } else { None };
                if let Some(place) = place {
                    rotate(row, cos, sin, style, place);
                } else {
                    to.resize(d, 0.0);
                    rotate(row, cos, sin, style, &mut to);
                    f32::store(dtype, bytes, at, o[3], &to);
                }
            }
        }
    };
    if out.is_contiguous() {
        let row = heads * d;
        let each = (PIECE / row).max(1);
        let width = dtype.bits() / 8;
        in_pieces(ctx, &mut out.bytes_mut()[..batch * seq * row * width], each * row * width, &|p, b| {
            positions(p * each..p * each + b.len() / (row * width), p * each * row, b);
        });
    } else {
        positions(0..batch * seq, 0, out.bytes_mut());
    }
    Ok(())
}

fn rotate(x: &[f32], cos: &[f32], sin: &[f32], style: RopeStyle, out: &mut [f32]) {
    match style {
        RopeStyle::Interleaved => rotate_neighbours(x, cos, sin, out),
        RopeStyle::HalfSplit => rotate_halves(x, cos, sin, out),
        RopeStyle::RotateHalf => rotate_each_half(x, cos, sin, out),
    }
}

wide! {
    /// Pairs (0, 1), (2, 3), …
    pub(crate) fn rotate_neighbours(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let n = cos.len();
        let (pairs, outs) = (&x.as_chunks::<2>().0[..n], &mut out.as_chunks_mut::<2>().0[..n]);
        let sin = &sin[..n];
        for i in 0..n {
            let [a, b] = pairs[i];
            outs[i] = [a * cos[i] - b * sin[i], a * sin[i] + b * cos[i]];
        }
    }

    /// Pairs (0, D/2), (1, D/2 + 1), … with angles of each half.
    pub(crate) fn rotate_each_half(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let n = x.len() / 2;
        let ((a, b), (c0, c1), (s0, s1)) = (x.split_at(n), cos.split_at(n), sin.split_at(n));
        let (u, v) = out.split_at_mut(n);
        let (b, c1, s1, v) = (&b[..n], &c1[..n], &s1[..n], &mut v[..n]);
        for i in 0..n {
            u[i] = a[i] * c0[i] - b[i] * s0[i];
            v[i] = b[i] * c1[i] + a[i] * s1[i];
        }
    }

    /// Pairs (0, D/2), (1, D/2 + 1), …
    pub(crate) fn rotate_halves(x: &[f32], cos: &[f32], sin: &[f32], out: &mut [f32]) {
        let n = cos.len();
        let (a, b) = x.split_at(n);
        let (u, v) = out.split_at_mut(n);
        let (b, sin, v) = (&b[..n], &sin[..n], &mut v[..n]);
        for i in 0..n {
            u[i] = a[i] * cos[i] - b[i] * sin[i];
            v[i] = a[i] * sin[i] + b[i] * cos[i];
        }
    }
}
