//! Fake quantization, for training: values through their codes and back, and what gradients become of it.

use pteron_tensor::{DType, View, ViewMut};

use super::blocks::{Blocks, elements, in_pieces, rows_a_piece};
use super::qparams;
use crate::elementwise::drive::PIECE;
use crate::operand::write_row_major;
use crate::{Context, KernelError, KernelResult};

/// Scales, zero points and codes of a fake quantization, of blocks of sizes `block`. Zero points are whole numbers, but for
/// those that are trained.
#[derive(Clone, Copy, Debug)]
pub struct Faked<'a> {
    /// f32 or f64, one a block.
    pub scales: View<'a>,
    /// Of any number type, one a block.
    pub zero_points: View<'a>,
    /// Sizes of a block, one a dimension.
    pub block: &'a [i64],
    /// Least and largest code.
    pub range: (i64, i64),
    /// f32: 0 lets values pass as they are.
    pub enabled: Option<View<'a>>,
}

/// The numbers of one block.
#[derive(Clone, Copy, Debug)]
struct Grid {
    scale: f32,
    inverse: f32,
    zero: f32,
    low: f32,
    high: f32,
}

impl Grid {
    /// `round(x / scale) + zero`, which is a code if it lies in the range.
    #[inline(always)]
    fn place(&self, x: f32) -> f32 {
        (x * self.inverse).round_ties_even() + self.zero
    }

    #[inline(always)]
    fn through(&self, x: f32) -> f32 {
        let place = self.place(x);
        // Comparisons, and no `clamp`: a NaN stays one.
        let code = if place < self.low { self.low } else { place };
        let code = if code > self.high { self.high } else { code };
        (code - self.zero) * self.scale
    }

    #[inline(always)]
    fn passes(&self, x: f32) -> bool {
        let place = self.place(x);
        place >= self.low && place <= self.high
    }
}

struct Through<'a> {
    grid: Grid,
    x: &'a [f32],
    out: &'a mut [f32],
}

impl super::wide::Loop for Through<'_> {
    #[inline(always)]
    fn run(self) {
        for (o, &x) in self.out.iter_mut().zip(self.x) {
            *o = self.grid.through(x);
        }
    }
}

struct Back<'a> {
    grid: Grid,
    g: &'a [f32],
    x: &'a [f32],
    out: &'a mut [f32],
}

impl super::wide::Loop for Back<'_> {
    #[inline(always)]
    fn run(self) {
        for ((o, &g), &x) in self.out.iter_mut().zip(self.g).zip(self.x) {
            *o = if self.grid.passes(x) { g } else { 0.0 };
        }
    }
}

fn number(v: &View<'_>, i: usize) -> f32 {
    v.scalar(i).map_or(f32::NAN, |s| s.as_f64() as f32)
}

/// The blocks of `x` with their numbers; `None` if fake quantization is switched off.
fn grids(op: &'static str, x: &View<'_>, f: &Faked<'_>) -> Result<(Blocks, Option<Vec<Grid>>), KernelError> {
    let blocks = Blocks::of(op, x.sizes(), f.block)?;
    let count = blocks.count();
    for (what, v) in [("scales", &f.scales), ("zero points", &f.zero_points)] {
        if v.numel() != count {
            return Err(KernelError::new(op, format!("{} {what} for {count} blocks", v.numel())));
        }
    }
    if f.enabled.is_some_and(|e| number(&e, 0) == 0.0) {
        return Ok((blocks, None));
    }
    let grid = |i: usize| {
        let scale = number(&f.scales, i);
        let zero = number(&f.zero_points, i);
        Grid { scale, inverse: 1.0 / scale, zero, low: f.range.0 as f32, high: f.range.1 as f32 }
    };
    Ok((blocks, Some((0..count).map(grid).collect())))
}

fn put(op: &'static str, out: &mut ViewMut<'_>, i: usize, v: f64) -> KernelResult {
    let f32s = out.dtype() == DType::F32;
    let done = out.set_scalar(i, pteron_tensor::Scalar::Float(v)).filter(|()| f32s);
    done.ok_or_else(|| unwritable(op))
}

fn unwritable(op: &'static str) -> KernelError {
    KernelError::new(op, "the result is no row-major f32 tensor")
}

/// `pteron::fake_quantize`: `(clamp(round(x·(1/scale)) + zero_point, range) − zero_point)·scale`, rounding half to even, in f32
/// (ATen's `fake_quantize_per_tensor_affine` and its kin). A NaN stays one.
///
/// # Errors
/// Types or sizes that do not fit.
pub fn fake_quantize(ctx: &Context, x: &View<'_>, f: &Faked<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    let op = "pteron::fake_quantize";
    let (blocks, grids) = grids(op, x, f)?;
    let x = elements::<f32>(op, x)?;
    let done = write_row_major::<f32, _>(out, |all| {
        in_pieces(ctx, all, PIECE, &|first, piece| match &grids {
            None => piece.copy_from_slice(&x[first..first + piece.len()]),
            Some(grids) => blocks.runs(first, piece.len(), |at, len, p| {
                let (x, out) = (&x[at..at + len], &mut piece[at - first..at - first + len]);
                super::wide::run(Through { grid: grids[p], x, out });
            }),
        });
    });
    done.ok_or_else(|| unwritable(op))
}

/// `pteron::fake_quantize_backward`: the gradient where the code before clamping is one of the range, else 0
/// (ATen's `fake_quantize_per_tensor_affine_cachemask_backward`).
///
/// # Errors
/// Types or sizes that do not fit.
pub fn fake_quantize_backward(
    ctx: &Context,
    gradient: &View<'_>,
    x: &View<'_>,
    f: &Faked<'_>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "pteron::fake_quantize_backward";
    let (blocks, grids) = grids(op, x, f)?;
    let (g, x) = (same_sizes(op, gradient, x)?, elements::<f32>(op, x)?);
    let done = write_row_major::<f32, _>(out, |all| {
        in_pieces(ctx, all, PIECE, &|first, piece| match &grids {
            None => piece.copy_from_slice(&g[first..first + piece.len()]),
            Some(grids) => blocks.runs(first, piece.len(), |at, len, p| {
                let (g, x, out) = (&g[at..at + len], &x[at..at + len], &mut piece[at - first..at - first + len]);
                super::wide::run(Back { grid: grids[p], g, x, out });
            }),
        });
    });
    done.ok_or_else(|| unwritable(op))
}

fn same_sizes<'a>(
    op: &'static str,
    gradient: &View<'a>,
    x: &View<'_>,
) -> Result<super::blocks::Elements<'a, f32>, KernelError> {
    if gradient.sizes() != x.sizes() {
        let reason = format!("a gradient of sizes {:?} for an input of {:?}", gradient.sizes(), x.sizes());
        return Err(KernelError::new(op, reason));
    }
    elements::<f32>(op, gradient)
}

/// `pteron::fake_quantize_params_backward`: the gradients of scales and zero points, of each block
/// (ATen's `_fake_quantize_learnable_per_tensor_affine_backward`). With `q` the code of `x` before it is clamped:
/// `∂scale = factor·Σ g·((q − zp) − x/scale)` where `q` is in the range, else `factor·Σ g·(end − zp)`;
/// `∂zero_point = factor·Σ −g·scale` where it is not. The sums are of f64, element by element, so that they do not depend on
/// threads.
///
/// # Errors
/// Types or sizes that do not fit.
pub fn fake_quantize_params_backward(
    ctx: &Context,
    gradient: &View<'_>,
    x: &View<'_>,
    f: &Faked<'_>,
    factor: f64,
    scale_out: &mut ViewMut<'_>,
    zero_point_out: &mut ViewMut<'_>,
) -> KernelResult {
    let op = "pteron::fake_quantize_params_backward";
    let (blocks, grids) = grids(op, x, f)?;
    let (g, x) = (same_sizes(op, gradient, x)?, elements::<f32>(op, x)?);
    let mut sums = vec![(0f64, 0f64); blocks.count()];
    if let Some(grids) = &grids {
        let size = x.len().checked_div(sums.len()).unwrap_or(0);
        in_pieces(ctx, &mut sums, rows_a_piece(size), &|first, piece| {
            for (i, (scale, zero)) in piece.iter_mut().enumerate() {
                let grid = grids[first + i];
                blocks.block_runs(first + i, |at, len| {
                    for (&g, &x) in g[at..at + len].iter().zip(&x[at..at + len]) {
                        let place = grid.place(x);
                        if place < grid.low || place > grid.high {
                            let end = if place < grid.low { grid.low } else { grid.high };
                            *scale += f64::from(g * (end - grid.zero));
                            *zero -= f64::from(g * grid.scale);
                        } else {
                            *scale += f64::from(g * ((place - grid.zero) - x * grid.inverse));
                        }
                    }
                });
            }
        });
    }
    for (i, (scale, zero)) in sums.iter().enumerate() {
        put(op, scale_out, i, scale * factor)?;
        put(op, zero_point_out, i, zero * factor)?;
    }
    Ok(())
}

/// How [`observe_qparams`] learns a range and makes a scale of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ObserveRule {
    /// Weight of the newest step in a moving average; 0 widens the range instead.
    pub averaging_constant: f64,
    /// Least and largest code.
    pub range: (i64, i64),
    /// The smallest scale of the observers' rule.
    pub eps: f64,
    /// The zero point of symmetric codes; `None` for affine ones.
    pub symmetric: Option<i64>,
    /// FBGEMM's rule ([`qparams::fbgemm`]), which PyTorch's fused operator computes with while it trains, in the place of the
    /// observer's own, with which PT2E converts.
    pub fbgemm: bool,
}

impl ObserveRule {
    /// The range after a step that saw values from `low` to `high`. Before the first it is `+∞, −∞`.
    pub fn widened(&self, (min, max): (f32, f32), (low, high): (f32, f32)) -> (f32, f32) {
        if self.averaging_constant == 0.0 {
            return (min.min(low), max.max(high));
        }
        if min == f32::INFINITY && max == f32::NEG_INFINITY {
            return (low, high);
        }
        let c = self.averaging_constant as f32;
        (min + c * (low - min), max + c * (high - max))
    }

    /// Scale and zero point of a range; NaN for one of NaN.
    pub fn choose(&self, (min, max): (f32, f32)) -> (f32, f32) {
        let (qmin, qmax) = self.range;
        if min.is_nan() || max.is_nan() {
            return (f32::NAN, 0.0);
        }
        if self.fbgemm && min <= max {
            let to_i32 = |v: i64| i32::try_from(v).unwrap_or(if v < 0 { i32::MIN } else { i32::MAX });
            return match qparams::fbgemm(min, max, to_i32(qmin), to_i32(qmax), self.symmetric.is_some()) {
                Ok(q) => (q.scale as f32, q.zero_point as f32),
                Err(_) => (f32::NAN, 0.0),
            };
        }
        let eps = self.eps as f32;
        let q = match self.symmetric {
            Some(zero) => qparams::symmetric(min, max, qmin, qmax, eps, zero),
            None => qparams::affine(min, max, qmin, qmax, eps),
        };
        (q.scale, q.zero_point as f32)
    }
}

/// `pteron::observe_qparams`: the range `[2]` after it saw `x` (if `enabled` is not 0), and the scale and zero point `[1]` that
/// follow. All are f32.
///
/// # Errors
/// Types or sizes that do not fit.
pub fn observe_qparams(
    ctx: &Context,
    x: &View<'_>,
    range: &View<'_>,
    enabled: &View<'_>,
    rule: &ObserveRule,
    [range_out, scale_out, zero_point_out]: [&mut ViewMut<'_>; 3],
) -> KernelResult {
    let op = "pteron::observe_qparams";
    if range.numel() != 2 {
        return Err(KernelError::new(op, format!("a range of {} numbers, expected 2", range.numel())));
    }
    let mut now = (number(range, 0), number(range, 1));
    if number(enabled, 0) != 0.0 {
        let x = elements::<f32>(op, x)?;
        let pieces = x.len().div_ceil(PIECE);
        let mut found = vec![None; pieces];
        in_pieces(ctx, &mut found, 1, &|first, slot| {
            let part = &x[first * PIECE..x.len().min((first + 1) * PIECE)];
            slot[0] = qparams::aminmax(part);
        });
        let seen = found.into_iter().flatten().reduce(|(a, b): (f32, f32), (low, high): (f32, f32)| {
            if a.is_nan() || low.is_nan() { (f32::NAN, f32::NAN) } else { (a.min(low), b.max(high)) }
        });
        if let Some((low, high)) = seen {
            // A NaN must not be lost in a minimum.
            now = if low.is_nan() { (low, high) } else { rule.widened(now, (low + 0.0, high + 0.0)) };
        }
    }
    let (scale, zero) = rule.choose(now);
    put(op, range_out, 0, f64::from(now.0))?;
    put(op, range_out, 1, f64::from(now.1))?;
    put(op, scale_out, 0, f64::from(scale))?;
    put(op, zero_point_out, 0, f64::from(zero))
}

#[cfg(test)]
mod tests {
    use pteron_tensor::Tensor;

    use super::*;

    fn tensor(v: &[f32]) -> Tensor {
        let bytes = pteron_tensor::AlignedBytes::copied(bytemuck::cast_slice(v));
        Tensor::from_bytes(DType::F32, &[v.len()], bytes).unwrap()
    }

    fn values(t: &Tensor) -> &[f32] {
        bytemuck::cast_slice(t.bytes())
    }

    fn run(x: &[f32], scale: &[f32], zero: &[f32], block: &[i64], range: (i64, i64)) -> (Vec<f32>, Vec<f32>) {
        let ctx = Context::new(1);
        let (x, s, z) = (tensor(x), tensor(scale), tensor(zero));
        let ones = tensor(&vec![1.0; x.numel()]);
        let f = Faked { scales: s.view(), zero_points: z.view(), block, range, enabled: None };
        let (mut out, mut back) = (tensor(&vec![9.0; x.numel()]), tensor(&vec![9.0; x.numel()]));
        fake_quantize(&ctx, &x.view(), &f, &mut out.view_mut()).unwrap();
        fake_quantize_backward(&ctx, &ones.view(), &x.view(), &f, &mut back.view_mut()).unwrap();
        (values(&out).to_vec(), values(&back).to_vec())
    }

    #[test]
    fn pytorchs_example_of_values_and_straight_through_gradients() {
        let x = [-1.3, -0.75, -0.25, 0.0, 0.25, 0.75, 1.25, 5.0];
        let (out, back) = run(&x, &[0.5], &[1.0], &[8], (-4, 3));
        assert_eq!(out, [-1.5, -1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]);
        assert_eq!(back, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn each_block_has_its_grid_and_a_nan_stays() {
        let (out, back) = run(&[0.4, 0.6, 0.4, f32::NAN], &[1.0, 0.25], &[0.0, 0.0], &[2], (-1, 1));
        assert_eq!(out[..3], [0.0, 1.0, 0.25]);
        assert!(out[3].is_nan());
        assert_eq!(back, [1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn pytorchs_example_of_a_learned_scale() {
        let ctx = Context::new(2);
        let (x, s, z) = (tensor(&[-3.0, -0.6, 0.3, 0.9, 5.0]), tensor(&[0.5]), tensor(&[0.0]));
        let ones = tensor(&[1.0; 5]);
        let f = Faked { scales: s.view(), zero_points: z.view(), block: &[5], range: (-4, 3), enabled: None };
        let (mut ds, mut dz, mut dx) = (tensor(&[9.0]), tensor(&[9.0]), tensor(&[9.0; 5]));
        let (scale, zero) = (&mut ds.view_mut(), &mut dz.view_mut());
        fake_quantize_params_backward(&ctx, &ones.view(), &x.view(), &f, 1.0, scale, zero).unwrap();
        fake_quantize_backward(&ctx, &ones.view(), &x.view(), &f, &mut dx.view_mut()).unwrap();
        assert!((values(&ds)[0] + 0.2).abs() < 1e-6);
        assert_eq!(values(&dz), [-1.0]);
        assert_eq!(values(&dx), [0.0, 1.0, 1.0, 1.0, 0.0]);
    }

    #[test]
    fn switched_off_it_does_nothing() {
        let ctx = Context::new(1);
        let (x, s, z, off) = (tensor(&[0.3, 7.0]), tensor(&[0.5]), tensor(&[0.0]), tensor(&[0.0]));
        let f =
            Faked { scales: s.view(), zero_points: z.view(), block: &[2], range: (-1, 1), enabled: Some(off.view()) };
        let mut out = tensor(&[0.0; 2]);
        fake_quantize(&ctx, &x.view(), &f, &mut out.view_mut()).unwrap();
        assert_eq!(values(&out), [0.3, 7.0]);
    }

    /// Recorded from PyTorch 2.14 (`fused_moving_avg_obs_fake_quant`) and torchao 0.18's observers over
    /// `3·sin(0.37·i) + 0.2`, `i` from 0 to 63.
    #[test]
    fn ranges_become_pytorchs_scales() {
        let ctx = Context::new(1);
        let x: Vec<f32> = (0..64).map(|i| (3.0 * (0.37 * f64::from(i)).sin() + 0.2) as f32).collect();
        let x = tensor(&x);
        let unseen = tensor(&[f32::INFINITY, f32::NEG_INFINITY]);
        let on = tensor(&[1.0]);
        let eps = f64::from(f32::EPSILON);
        let check = |range, symmetric, fbgemm, scale: f32, zero: f32| {
            let rule = ObserveRule { averaging_constant: 0.01, range, eps, symmetric, fbgemm };
            let (mut r, mut s, mut z) = (tensor(&[0.0; 2]), tensor(&[0.0]), tensor(&[0.0]));
            let outs = [&mut r.view_mut(), &mut s.view_mut(), &mut z.view_mut()];
            observe_qparams(&ctx, &x.view(), &unseen.view(), &on.view(), &rule, outs).unwrap();
            let found = values(&s)[0];
            assert!((found - scale).abs() <= scale * 1e-6, "{found} {scale}");
            assert_eq!(values(&z)[0], zero);
        };
        check((0, 255), None, true, 0.023_444_306, 119.0);
        check((0, 255), None, false, 0.023_444_306, 119.0);
        check((-127, 127), Some(0), true, 0.025_237_385, 0.0);
        check((-127, 127), Some(0), false, 0.025_138_415, 0.0);
        check((-7, 7), Some(0), true, 0.488_66, 0.0);
        check((-7, 7), Some(0), false, 0.456_082_67, 0.0);
    }
}
