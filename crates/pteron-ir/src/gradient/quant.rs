//! The rule of fake quantization.

use super::{Backward, GradientResult};
use crate::arg::Arg;
use crate::op::Op;

/// Straight through where the code, before it is clamped, is one of the range, else 0. A scale and a zero point that are trained
/// get theirs as well (learned step size).
pub(crate) fn fake_quantize(b: &mut Backward<'_, '_>) -> GradientResult {
    let g = b.gradient()?;
    let shared: Vec<Arg> = std::iter::once(Arg::from(g)).chain((0..7).map(|i| b.arg(i))).collect();
    if b.needs(0) {
        let d = b.call(Op::FakeQuantizeBackward, shared.clone())?;
        b.give(0, d)?;
    }
    if b.needs(1) || b.needs(2) {
        let factor = b.arg(7);
        let found = b.several(Op::FakeQuantizeParamsBackward, shared.into_iter().chain([factor]))?;
        for (i, d) in [1, 2].into_iter().zip(found) {
            if b.needs(i) {
                b.give(i, d)?;
            }
        }
    }
    Ok(())
}
