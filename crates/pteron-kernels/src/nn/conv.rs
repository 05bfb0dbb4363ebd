//! Convolution.

use pteron_tensor::{View, ViewMut};

use super::norm::{float_only, load_all};
use crate::elementwise::compute::{Compute, Flt, in_float};
use crate::elementwise::drive::check_out;
use crate::shape_ops::engine::check_dtype;
use crate::{Context, KernelError, KernelResult};

/// The attributes of [`convolution`]. Lists have one entry for each spatial dimension, or one entry for all.
#[derive(Clone, Copy, Debug)]
pub struct ConvParams<'a> {
    /// Steps of the window, at least 1.
    pub stride: &'a [i64],
    /// Zeros on both sides of the input, at least 0.
    pub padding: &'a [i64],
    /// Distance of the window's taps, at least 1.
    pub dilation: &'a [i64],
    /// Transposed convolution; refused.
    pub transposed: bool,
    /// Groups of channels that do not see each other, at least 1.
    pub groups: i64,
}

/// One spatial dimension.
#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    kernel: usize,
    output: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
}

impl Axis {
    /// The input position of a tap, if it lies in the input.
    fn tap(&self, out: usize, k: usize) -> Option<usize> {
        (out * self.stride + k * self.dilation).checked_sub(self.padding).filter(|&i| i < self.input)
    }
}

fn axis(op: &'static str, d: usize, input: usize, kernel: usize, p: &ConvParams<'_>) -> Result<Axis, KernelError> {
    let of = |what: &str, list: &[i64], least: usize| {
        let v = if list.len() == 1 { list.first() } else { list.get(d) };
        // Small enough that no position overflows.
        v.and_then(|&v| usize::try_from(v).ok()).filter(|&v| v >= least && v <= 1 << 24).ok_or_else(|| {
            KernelError::new(op, format!("{what} is {list:?}, expected {least} or more for each dimension"))
        })
    };
    let stride = of("stride", p.stride, 1)?;
    let padding = of("padding", p.padding, 0)?;
    let dilation = of("dilation", p.dilation, 1)?;
    let window = kernel.checked_sub(1).and_then(|k| k.checked_mul(dilation)).and_then(|k| k.checked_add(1));
    let padded = input.checked_add(2 * padding);
    let (Some(window), Some(padded)) = (window, padded) else {
        return Err(KernelError::new(op, format!("the kernel has size {kernel} along spatial dimension {d}")));
    };
    let output = padded.checked_sub(window).map(|room| room / stride + 1).ok_or_else(|| {
        KernelError::new(op, format!("a window of {window} is larger than the padded input {padded}"))
    })?;
    Ok(Axis { input, kernel, output, stride, padding, dilation })
}

/// Cross-correlation of `x [N, C, H, W]` with `weight [O, C/groups, KH, KW]` plus `bias [O]`, or of `x [N, C, L]` with
/// `weight [O, C/groups, K]`. `out` is `[N, O, …]` with `⌊(in + 2·padding - dilation·(k - 1) - 1)/stride⌋ + 1` positions in
/// each spatial dimension, and the dtype of `x`, as have `weight` and `bias`.
///
/// # Errors
/// Also for a transposed convolution and for other ranks.
pub fn convolution(
    _ctx: &Context,
    x: View<'_>,
    weight: View<'_>,
    bias: Option<View<'_>>,
    params: &ConvParams<'_>,
    mut out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::convolution";
    if params.transposed {
        return Err(KernelError::new(op, "transposed convolution is not supported"));
    }
    float_only(op, "x", x.dtype())?;
    let (xs, ws) = (x.sizes(), weight.sizes());
    if !matches!(xs.len(), 3 | 4) || ws.len() != xs.len() {
        let e = format!("x has sizes {xs:?} and weight {ws:?}, expected [N, C, L] and [O, C/groups, K], or four each");
        return Err(KernelError::new(op, e));
    }
    let groups = usize::try_from(params.groups)
        .ok()
        .filter(|&g| g > 0 && xs[1].is_multiple_of(g) && ws[0].is_multiple_of(g) && xs[1] / g == ws[1]);
    let Some(groups) = groups else {
        let e = format!("{} groups do not fit x of sizes {xs:?} and weight of sizes {ws:?}", params.groups);
        return Err(KernelError::new(op, e));
    };
    if weight.dtype() != x.dtype() || bias.is_some_and(|b| b.dtype() != x.dtype()) {
        return Err(KernelError::new(op, format!("x is {}, expected the same for weight and bias", x.dtype())));
    }
    if let Some(b) = bias.filter(|b| b.sizes() != [ws[0]]) {
        return Err(KernelError::new(op, format!("bias has sizes {:?}, expected [{}]", b.sizes(), ws[0])));
    }
    // A line is a picture one row high.
    let flat = Axis { input: 1, kernel: 1, output: 1, stride: 1, padding: 0, dilation: 1 };
    let (rows, cols) = if xs.len() == 4 {
        (axis(op, 0, xs[2], ws[2], params)?, axis(op, 1, xs[3], ws[3], params)?)
    } else {
        (flat, axis(op, 0, xs[2], ws[2], params)?)
    };
    let mut sizes = vec![xs[0], ws[0]];
    if xs.len() == 4 {
        sizes.push(rows.output);
    }
    sizes.push(cols.output);
    check_dtype(op, &out, x.dtype())?;
    check_out(op, &out, &sizes)?;
    if out.numel() == 0 {
        return Ok(());
    }
    let strides = out.strides();
    let (row_stride, col_stride) = (if xs.len() == 4 { strides[2] } else { 0 }, strides[xs.len() - 1]);
    let (in_group, out_group) = (ws[1], ws[0] / groups);
    let plane = rows.input * cols.input;
    let taps = rows.kernel * cols.kernel;
    let dtype = out.dtype();
    in_float!(x.dtype(), C => {
        let (data, w) = (load_all::<C>(&x), load_all::<C>(&weight));
        let bias: Option<Vec<C>> = bias.map(|b| load_all(&b));
        let mut line = vec![C::of(0.0); cols.output];
        for n in 0..xs[0] {
            for o in 0..ws[0] {
                let first = n * xs[1] + o / out_group * in_group;
                for r in 0..rows.output {
                    line.fill(bias.as_ref().map_or(C::of(0.0), |b| b[o]));
                    for c in 0..in_group {
                        for kr in 0..rows.kernel {
                            let Some(i) = rows.tap(r, kr) else { continue };
                            let input = &data[(first + c) * plane + i * cols.input..][..cols.input];
                            let kernel = &w[(o * in_group + c) * taps + kr * cols.kernel..][..cols.kernel];
                            for (kc, &k) in kernel.iter().enumerate() {
                                for (q, acc) in line.iter_mut().enumerate() {
                                    if let Some(j) = cols.tap(q, kc) {
                                        *acc += k * input[j];
                                    }
                                }
                            }
                        }
                    }
                    let at = n * strides[0] + o * strides[1] + r * row_stride;
                    C::store(dtype, out.bytes_mut(), at, col_stride, &line);
                }
            }
        }
    });
    Ok(())
}
