//! The scale of least squared error of each group, weighted by how large the inputs are.

use pteron_kernels::quant::wide::{self, Loop};

use super::{code, largest};

/// Scales whose codes are tried for each group: this many between [`LEAST`] and 1 times the scale that clips nothing.
const CANDIDATES: usize = 48;
/// The smallest scale tried, as a part of the scale that clips nothing.
const LEAST: f32 = 0.35;
/// Rounds of rounding and least squares after the search.
const ROUNDS: usize = 8;
/// Partial sums of a loop over a group.
const LANES: usize = 8;

struct Rows<'a> {
    w: &'a [f32],
    columns: usize,
    group: usize,
    ends: (f32, f32),
    moments: Option<&'a [f32]>,
    scales: &'a mut [f32],
}

/// See [`super::rows`].
pub(super) fn rows(
    w: &[f32],
    columns: usize,
    group: usize,
    ends: (f32, f32),
    moments: Option<&[f32]>,
    scales: &mut [f32],
) {
    wide::run(Rows { w, columns, group, ends, moments, scales });
}

impl Loop for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { w, columns, group, ends, moments, scales } = self;
        let mut h = moments.map_or_else(|| vec![1f32; columns], <[f32]>::to_vec);
        // Columns that never see a value still count where all of a group's do; and only ratios within a group matter.
        for part in h.chunks_exact_mut(group) {
            let most = largest(part);
            part.iter_mut().for_each(|v| *v = if most > 0.0 { *v / most } else { 1.0 });
        }
        let mut unit = vec![0f32; group];
        for (row, scales) in w.chunks_exact(columns).zip(scales.chunks_exact_mut(columns / group)) {
            for ((part, h), scale) in row.chunks_exact(group).zip(h.chunks_exact(group)).zip(scales) {
                *scale = search(part, h, ends, &mut unit);
            }
        }
    }
}

/// Without the care for NaN that `clamp` takes, which keeps loops from wide registers.
#[inline(always)]
fn bounded(v: f32, lo: f32, hi: f32) -> f32 {
    let v = if v > lo { v } else { lo };
    if v < hi { v } else { hi }
}

/// `Σ h·v·q` and `Σ h·q²` for the codes `q` of `v` at the scale `1/inv`.
#[inline(always)]
fn fit(v: &[f32], h: &[f32], inv: f32, (lo, hi): (f32, f32)) -> (f32, f32) {
    let (mut num, mut den) = ([0f32; LANES], [0f32; LANES]);
    let (vs, v_rest) = v.as_chunks::<LANES>();
    let (hs, h_rest) = h.as_chunks::<LANES>();
    for (v, h) in vs.iter().zip(hs) {
        for k in 0..LANES {
            let q = bounded((v[k] * inv).round_ties_even(), lo, hi);
            let hq = h[k] * q;
            num[k] += hq * v[k];
            den[k] += hq * q;
        }
    }
    for (k, (v, h)) in v_rest.iter().zip(h_rest).enumerate() {
        let q = bounded((v * inv).round_ties_even(), lo, hi);
        num[k] += h * q * v;
        den[k] += h * q * q;
    }
    (num.iter().sum(), den.iter().sum())
}

/// `Σ h·(w − s·q)²`.
#[inline(always)]
fn error(part: &[f32], h: &[f32], scale: f32, ends: (f32, f32)) -> f64 {
    let one = |(&v, &h): (&f32, &f32)| {
        let d = f64::from(v) - f64::from(scale) * f64::from(code(v, scale, ends));
        f64::from(h) * d * d
    };
    part.iter().zip(h).map(one).sum()
}

#[inline(always)]
fn search(part: &[f32], h: &[f32], ends: (f32, f32), unit: &mut [f32]) -> f32 {
    let floor = f32::EPSILON;
    let (mut low, mut high) = (0f32, 0f32);
    for &v in part {
        low = low.min(v);
        high = high.max(v);
    }
    let end = |v: f32, end: f32| if end == 0.0 { 0.0 } else { v / end };
    let full = end(low, ends.0).max(end(high, ends.1));
    if full <= floor {
        return floor;
    }
    // In units of that scale, so that squares neither vanish nor overflow.
    for (u, v) in unit.iter_mut().zip(part) {
        *u = v / full;
    }
    let mut best = (0f32, 1f32);
    for i in 0..=CANDIDATES {
        let part = LEAST + (1.0 - LEAST) * i as f32 / CANDIDATES as f32;
        let (num, den) = fit(unit, h, 1.0 / part, ends);
        // The error of the best scale for these codes is `Σ h·w² − num²/den`.
        let gain = num * (num / den);
        if gain > best.0 {
            best = (gain, num / den);
        }
    }
    let absmax = low.abs().max(high);
    let known = [absmax / ((ends.1 - ends.0) / 2.0), absmax / ends.0.abs().max(ends.1)];
    let mut found = (f64::INFINITY, full);
    for s in [best.1 * full, known[0], known[1]].map(|s| s.max(floor)) {
        let e = error(part, h, s, ends);
        if e < found.0 {
            found = (e, s);
        }
    }
    for _ in 0..ROUNDS {
        let (num, den) = fit(unit, h, full / found.1, ends);
        let s = num / den * full;
        if !(s.is_finite() && s > floor) {
            break;
        }
        let e = error(part, h, s, ends);
        if e >= found.0 {
            break;
        }
        found = (e, s);
    }
    found.1
}
