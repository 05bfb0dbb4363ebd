//! Upsampling.

use pteron_tensor::{View, ViewMut};

use crate::elementwise::drive::check_out;
use crate::shape_ops::engine::check_dtype;
use crate::{Context, KernelError, KernelResult};

/// Nearest-neighbour scaling of `x [N, C, H, W]` to the sizes of `out`, `[N, C, H', W']`: position `i` reads
/// `min(⌊i·s⌋, size - 1)` with `s = 1/scale` in `f32` where `scale_factors` (height, width) are given, otherwise
/// `s = size/size'`. Any dtype.
///
/// # Errors
/// Also for scale factors that are not positive or do not give the sizes of `out` (`⌊size·scale⌋`).
pub fn upsample_nearest2d(
    _ctx: &Context,
    x: View<'_>,
    scale_factors: Option<[f64; 2]>,
    mut out: ViewMut<'_>,
) -> KernelResult {
    let op = "aten::upsample_nearest2d";
    check_dtype(op, &out, x.dtype())?;
    let (xs, os) = (x.sizes(), out.sizes());
    if xs.len() != 4 || os.len() != 4 || xs[..2] != os[..2] {
        let e = format!("x has sizes {xs:?} and out {os:?}, expected [N, C, H, W] and [N, C, H', W']");
        return Err(KernelError::new(op, e));
    }
    check_out(op, &out, os)?;
    if out.numel() == 0 {
        return Ok(());
    }
    let mut maps: [Vec<usize>; 2] = [vec![], vec![]];
    for (k, map) in maps.iter_mut().enumerate() {
        let (from, to) = (xs[2 + k], os[2 + k]);
        if from == 0 {
            return Err(KernelError::new(op, format!("x has sizes {xs:?}: there is nothing to scale")));
        }
        let step = match scale_factors.map(|f| f[k]) {
            None => from as f32 / to as f32,
            Some(f) if f > 0.0 && f.is_finite() && (from as f64 * f) as usize == to => (1.0 / f) as f32,
            Some(f) => {
                return Err(KernelError::new(op, format!("scale factor {f} does not take size {from} to {to}")));
            }
        };
        map.extend((0..to).map(|i| ((i as f32 * step).floor() as usize).min(from - 1)));
    }
    let w = x.dtype().bits() / 8;
    let (i, o) = (x.strides(), out.strides());
    for n in 0..xs[0] {
        for c in 0..xs[1] {
            for (r, &fr) in maps[0].iter().enumerate() {
                for (q, &fq) in maps[1].iter().enumerate() {
                    let s = (n * i[0] + c * i[1] + fr * i[2] + fq * i[3]) * w;
                    let d = (n * o[0] + c * o[1] + r * o[2] + q * o[3]) * w;
                    out.bytes_mut()[d..d + w].copy_from_slice(&x.bytes()[s..s + w]);
                }
            }
        }
    }
    Ok(())
}
