//! HQQ that moves the scales only, group by group.

use pteron_kernels::quant::wide::{self, Loop};

use super::{code, largest};
use crate::observer::torch_sum;

/// Steps of [`super::hqq`].
pub const HQQ_ROUNDS: usize = 20;
/// [`super::hqq`] ends when no scale changes by more than this part.
const TOLERANCE: f32 = 1e-5;

/// After how many steps the whole matrix ends, if that is before the last one: `changes` are the largest of all its rows.
/// `None` too if no scale changes after that step, so that the scales are those already.
pub fn rounds_of(changes: &[f32; HQQ_ROUNDS]) -> Option<usize> {
    let last = changes.iter().position(|c| *c < TOLERANCE)?;
    changes[last + 1..].iter().any(|c| *c > 0.0).then_some(last + 1)
}

struct Rows<'a> {
    w: &'a [f32],
    group: usize,
    ends: (f32, f32),
    rounds: usize,
    scales: &'a mut [f32],
    changes: &'a mut [f32; HQQ_ROUNDS],
}

/// See [`super::rows`].
pub(super) fn rows(
    w: &[f32],
    group: usize,
    ends: (f32, f32),
    rounds: usize,
    scales: &mut [f32],
    changes: &mut [f32; HQQ_ROUNDS],
) {
    wide::run(Rows { w, group, ends, rounds, scales, changes });
}

impl Loop for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { w, group, ends, rounds, scales, changes } = self;
        let most = ends.0.abs().max(ends.1);
        let (mut products, mut squares) = (vec![0f32; group], vec![0f32; group]);
        for (part, out) in w.chunks_exact(group).zip(scales) {
            let mut scale = (largest(part) / most).max(f32::EPSILON);
            for change in changes.iter_mut().take(rounds) {
                for ((p, s), &v) in products.iter_mut().zip(&mut squares).zip(part) {
                    let q = code(v, scale, ends);
                    (*p, *s) = (v * q, q * q);
                }
                let (num, den) = (torch_sum::sum(&products), torch_sum::sum(&squares));
                let next = if den > 0.0 { num / den } else { scale };
                let next = next.max(f32::EPSILON);
                if next.to_bits() == scale.to_bits() {
                    // The codes will be the same from here on, and so will the scale.
                    break;
                }
                *change = change.max((next - scale).abs() / scale);
                scale = next;
            }
            *out = scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The algorithm as torchao has it: every group takes every step, and the whole matrix ends together.
    fn whole(w: &[f32], group: usize, ends: (f32, f32)) -> Vec<f32> {
        let most = ends.0.abs().max(ends.1);
        let mut scales: Vec<f32> = w.chunks_exact(group).map(|g| (largest(g) / most).max(f32::EPSILON)).collect();
        for _ in 0..HQQ_ROUNDS {
            let mut change = 0f32;
            for (part, scale) in w.chunks_exact(group).zip(&mut scales) {
                let q: Vec<f32> = part.iter().map(|&v| code(v, *scale, ends)).collect();
                let products: Vec<f32> = part.iter().zip(&q).map(|(v, q)| v * q).collect();
                let squares: Vec<f32> = q.iter().map(|q| q * q).collect();
                let (num, den) = (torch_sum::sum(&products), torch_sum::sum(&squares));
                let next = if den > 0.0 { num / den } else { *scale }.max(f32::EPSILON);
                change = change.max((next - *scale).abs() / *scale);
                *scale = next;
            }
            if change < TOLERANCE {
                break;
            }
        }
        scales
    }

    #[test]
    fn rows_by_themselves_end_where_the_whole_matrix_does() {
        let mut early = 0;
        for seed in 1..40u64 {
            let mut s = seed;
            let w: Vec<f32> = (0..1024)
                .map(|_| {
                    s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let u = (s >> 40) as f32 / (1 << 23) as f32 - 1.0;
                    u * u * u
                })
                .collect();
            for (group, ends) in [(32, (-8.0, 7.0)), (1024, (-128.0, 127.0)), (24, (-2.0, 1.0))] {
                let w = &w[..w.len() / group * group];
                let n = w.len() / group;
                let (mut scales, mut changes) = (vec![0f32; n], [0f32; HQQ_ROUNDS]);
                // In pieces, as a matrix that is read by rows.
                for (w, out) in w.chunks(group * 2).zip(scales.chunks_mut(2)) {
                    rows(w, group, ends, HQQ_ROUNDS, out, &mut changes);
                }
                if let Some(rounds) = rounds_of(&changes) {
                    early += 1;
                    rows(w, group, ends, rounds, &mut scales, &mut [0f32; HQQ_ROUNDS]);
                }
                assert_eq!(scales, whole(w, group, ends), "{seed} {group}");
            }
        }
        assert!(early > 0, "no case ends before the last step");
    }
}
