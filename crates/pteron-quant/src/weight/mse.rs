//! The scale of least squared error of each group, weighted by how large the inputs are.

use pteron_kernels::quant::wide::{self, Loop};

use super::{Inputs, code, largest};

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
    inputs: Option<Inputs<'a>>,
    scales: &'a mut [f32],
}

/// See [`super::rows`].
pub(super) fn rows(
    w: &[f32],
    columns: usize,
    group: usize,
    ends: (f32, f32),
    inputs: Option<Inputs<'_>>,
    scales: &mut [f32],
) {
    wide::run(Rows { w, columns, group, ends, inputs, scales });
}

impl Loop for Rows<'_> {
    #[inline(always)]
    fn run(self) {
        let Rows { w, columns, group, ends, inputs, scales } = self;
        let (h, mean) = inputs.map_or_else(|| (vec![1f32; columns], vec![0f32; columns]), |i| weights(i, group));
        let mut unit = vec![0f32; group];
        for (row, scales) in w.chunks_exact(columns).zip(scales.chunks_exact_mut(columns / group)) {
            let mut before = 0f64;
            let parts = row.chunks_exact(group).zip(h.chunks_exact(group)).zip(mean.chunks_exact(group));
            for (((part, h), mean), scale) in parts.zip(scales) {
                let group = Group { w: part, h, mean, before, ends };
                *scale = search(&group, &mut unit);
                before = group.mean_error(*scale);
            }
        }
    }
}

/// Variances and means of the columns, in units in which the largest mean square of a row is 1: only ratios matter. Where a row is
/// one group, mean squares and means of 0: see [`super::mse`].
fn weights(inputs: Inputs<'_>, group: usize) -> (Vec<f32>, Vec<f32>) {
    let most = largest(inputs.squares);
    if most == 0.0 {
        return (vec![1.0; inputs.squares.len()], vec![0.0; inputs.squares.len()]);
    }
    let unit = most.sqrt();
    let counts = group < inputs.means.len();
    let mean: Vec<f32> = inputs.means.iter().map(|m| if counts { m / unit } else { 0.0 }).collect();
    let mut h: Vec<f32> = inputs.squares.iter().zip(&mean).map(|(s, m)| (s / most - m * m).max(0.0)).collect();
    // Columns that never see a value still count where all of a group's do.
    for (h, mean) in h.chunks_exact_mut(group).zip(mean.chunks_exact(group)) {
        if largest(h) == 0.0 && largest(mean) == 0.0 {
            h.fill(1.0);
        }
    }
    (h, mean)
}

/// A group whose scale is searched.
struct Group<'a> {
    w: &'a [f32],
    /// Variances of its input columns.
    h: &'a [f32],
    /// Their means.
    mean: &'a [f32],
    /// The row's mean error in the groups before this one.
    before: f64,
    ends: (f32, f32),
}

/// Without the care for NaN that `clamp` takes, which keeps loops from wide registers.
#[inline(always)]
fn bounded(v: f32, lo: f32, hi: f32) -> f32 {
    let v = if v > lo { v } else { lo };
    if v < hi { v } else { hi }
}

/// Sums over a group for its codes `q` at some scale.
struct Fit {
    /// `Σ h·v·q`.
    num: f32,
    /// `Σ h·q²`.
    den: f32,
    /// `Σ μ·q`.
    mean: f32,
}

impl Fit {
    /// The best scale for the codes, and how much less the squared error is than with codes of 0, for a mean error of `whole`
    /// with those.
    #[inline(always)]
    fn best(&self, whole: f32) -> (f32, f32) {
        let (num, den) = (self.num + whole * self.mean, self.den + self.mean * self.mean);
        (num / den, num * (num / den))
    }
}

/// The sums for the codes of `v` at the scale `1/inv`.
#[inline(always)]
fn fit(v: &[f32], g: &Group<'_>, inv: f32) -> Fit {
    let (lo, hi) = g.ends;
    let (mut num, mut den, mut mean) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    let (vs, v_rest) = v.as_chunks::<LANES>();
    let (hs, h_rest) = g.h.as_chunks::<LANES>();
    let (ms, m_rest) = g.mean.as_chunks::<LANES>();
    for ((v, h), m) in vs.iter().zip(hs).zip(ms) {
        for k in 0..LANES {
            let q = bounded((v[k] * inv).round_ties_even(), lo, hi);
            let hq = h[k] * q;
            num[k] += hq * v[k];
            den[k] += hq * q;
            mean[k] += m[k] * q;
        }
    }
    for (k, ((v, h), m)) in v_rest.iter().zip(h_rest).zip(m_rest).enumerate() {
        let q = bounded((v * inv).round_ties_even(), lo, hi);
        num[k] += h * q * v;
        den[k] += h * q * q;
        mean[k] += m * q;
    }
    Fit { num: num.iter().sum(), den: den.iter().sum(), mean: mean.iter().sum() }
}

impl Group<'_> {
    /// The row's mean error behind this group: `before + Σ μ·(w − s·q)`.
    #[inline(always)]
    fn mean_error(&self, scale: f32) -> f64 {
        let one = |(&v, &m): (&f32, &f32)| f64::from(m) * self.residue(v, scale);
        self.before + self.w.iter().zip(self.mean).map(one).sum::<f64>()
    }

    /// `Σ h·(w − s·q)² + mean_error²`.
    #[inline(always)]
    fn error(&self, scale: f32) -> f64 {
        let one = |(&v, &h): (&f32, &f32)| {
            let d = self.residue(v, scale);
            f64::from(h) * d * d
        };
        let mean = self.mean_error(scale);
        self.w.iter().zip(self.h).map(one).sum::<f64>() + mean * mean
    }

    #[inline(always)]
    fn residue(&self, v: f32, scale: f32) -> f64 {
        f64::from(v) - f64::from(scale) * f64::from(code(v, scale, self.ends))
    }
}

#[inline(always)]
fn search(g: &Group<'_>, unit: &mut [f32]) -> f32 {
    let floor = f32::EPSILON;
    let ends = g.ends;
    let (mut low, mut high) = (0f32, 0f32);
    for &v in g.w {
        low = low.min(v);
        high = high.max(v);
    }
    let end = |v: f32, end: f32| if end == 0.0 { 0.0 } else { v / end };
    let full = end(low, ends.0).max(end(high, ends.1));
    if full <= floor {
        return floor;
    }
    // In units of that scale, so that squares neither vanish nor overflow.
    for (u, v) in unit.iter_mut().zip(g.w) {
        *u = v / full;
    }
    let dot = |(&v, &m): (&f32, &f32)| f64::from(m) * f64::from(v);
    let whole = ((g.before + g.w.iter().zip(g.mean).map(dot).sum::<f64>()) / f64::from(full)) as f32;
    let mut best = (0f32, 1f32);
    for i in 0..=CANDIDATES {
        let part = LEAST + (1.0 - LEAST) * i as f32 / CANDIDATES as f32;
        let (scale, gain) = fit(unit, g, 1.0 / part).best(whole);
        if scale > 0.0 && gain > best.0 {
            best = (gain, scale);
        }
    }
    let absmax = low.abs().max(high);
    let known = [absmax / ((ends.1 - ends.0) / 2.0), absmax / ends.0.abs().max(ends.1)];
    let mut found = (f64::INFINITY, full);
    for s in [best.1 * full, known[0], known[1]].map(|s| s.max(floor)) {
        let e = g.error(s);
        if e < found.0 {
            found = (e, s);
        }
    }
    for _ in 0..ROUNDS {
        let s = fit(unit, g, full / found.1).best(whole).0 * full;
        if !(s.is_finite() && s > floor) {
            break;
        }
        let e = g.error(s);
        if e >= found.0 {
            break;
        }
        found = (e, s);
    }
    found.1
}
