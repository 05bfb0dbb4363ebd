//! What the logits of one position say.

use std::sync::{Mutex, PoisonError};

use pteron_kernels::quant::wide::{self, Loop};
use pteron_kernels::{Context, vexp};

/// What one scored position says.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Position {
    /// Negative natural logarithm of the probability that the model gives the next token.
    pub nll: f64,
    /// The same of the reference.
    pub reference_nll: f64,
    /// `KL(reference ‖ model) = Σ pᵣ ln(pᵣ/pₘ)` in nats; not below 0 but for rounding.
    pub kl: f64,
    /// The model's probability of the next token less the reference's.
    pub delta_p: f64,
    /// Whether both have the same likeliest token (the first among equals).
    pub same_top: bool,
}

/// Elements that are summed in f32 before the sum goes into an f64.
const BLOCK: usize = 256;
/// Partial sums of a block.
const LANES: usize = 16;

/// A row of logits with its largest element and `ln Σ eˣ`.
struct Row<'a> {
    logits: &'a [f32],
    top: usize,
    log_sum: f64,
}

/// The largest element, and whether all are finite numbers.
struct Largest<'a> {
    row: &'a [f32],
    out: &'a mut (f32, bool),
}

impl Loop for Largest<'_> {
    #[inline(always)]
    fn run(self) {
        let (mut most, mut zero) = ([f32::NEG_INFINITY; LANES], [0f32; LANES]);
        let (lines, rest) = self.row.as_chunks::<LANES>();
        for line in lines {
            for k in 0..LANES {
                most[k] = if line[k] > most[k] { line[k] } else { most[k] };
                // 0 for every number, NaN for the rest.
                zero[k] += line[k] * 0.0;
            }
        }
        for (k, &v) in rest.iter().enumerate() {
            most[k] = most[k].max(v);
            zero[k] += v * 0.0;
        }
        *self.out = (most.into_iter().fold(f32::NEG_INFINITY, f32::max), zero.iter().all(|z| *z == 0.0));
    }
}

/// `out = x - m`.
struct Shift<'a> {
    x: &'a [f32],
    m: f32,
    out: &'a mut [f32],
}

impl Loop for Shift<'_> {
    #[inline(always)]
    fn run(self) {
        for (o, x) in self.out.iter_mut().zip(self.x) {
            *o = x - self.m;
        }
    }
}

struct Sum<'a> {
    x: &'a [f32],
    out: &'a mut f64,
}

impl Loop for Sum<'_> {
    #[inline(always)]
    fn run(self) {
        for block in self.x.chunks(BLOCK) {
            let mut acc = [0f32; LANES];
            let (lines, rest) = block.as_chunks::<LANES>();
            for line in lines {
                for k in 0..LANES {
                    acc[k] += line[k];
                }
            }
            for (a, v) in acc.iter_mut().zip(rest) {
                *a += v;
            }
            *self.out += f64::from(acc.iter().sum::<f32>());
        }
    }
}

/// `Σ e·((r − m) − shift)`.
struct Weighted<'a> {
    e: &'a [f32],
    r: &'a [f32],
    m: &'a [f32],
    shift: f32,
    out: &'a mut f64,
}

impl Loop for Weighted<'_> {
    #[inline(always)]
    fn run(self) {
        let Weighted { e, r, m, shift, out } = self;
        for ((e, r), m) in e.chunks(BLOCK).zip(r.chunks(BLOCK)).zip(m.chunks(BLOCK)) {
            let mut acc = [0f32; LANES];
            let ((es, e_rest), (rs, r_rest), (ms, m_rest)) = (e.as_chunks::<LANES>(), r.as_chunks(), m.as_chunks());
            for ((e, r), m) in es.iter().zip(rs).zip(ms) {
                let (r, m): (&[f32; LANES], &[f32; LANES]) = (r, m);
                for k in 0..LANES {
                    acc[k] += e[k] * ((r[k] - m[k]) - shift);
                }
            }
            for (((a, e), r), m) in acc.iter_mut().zip(e_rest).zip(r_rest).zip(m_rest) {
                *a += e * ((r - m) - shift);
            }
            *out += f64::from(acc.iter().sum::<f32>());
        }
    }
}

fn sum(x: &[f32]) -> f64 {
    let mut out = 0.0;
    wide::run(Sum { x, out: &mut out });
    out
}

impl<'a> Row<'a> {
    /// Fills `exps` with `eˣ⁻ᵐ`.
    fn new(ctx: &Context, logits: &'a [f32], exps: &mut Vec<f32>) -> Option<Row<'a>> {
        let mut most = (0.0, false);
        wide::run(Largest { row: logits, out: &mut most });
        let (max, true) = most else { return None };
        let top = logits.iter().position(|v| *v == max)?;
        exps.resize(logits.len(), 0.0);
        wide::run(Shift { x: logits, m: max, out: exps });
        vexp::exp_in_place(ctx, exps);
        Some(Row { logits, top, log_sum: f64::from(max) + sum(exps).ln() })
    }

    fn nll(&self, token: usize) -> Option<f64> {
        self.logits.get(token).map(|&x| self.log_sum - f64::from(x))
    }
}

fn measure(
    ctx: &Context,
    model: &[f32],
    reference: Option<&[f32]>,
    next: usize,
    exps: &mut Vec<f32>,
) -> Option<Position> {
    let m = Row::new(ctx, model, exps)?;
    let nll = m.nll(next)?;
    let Some(reference) = reference else { return Some(Position { nll, same_top: true, ..Position::default() }) };
    let r = Row::new(ctx, reference, exps)?;
    let reference_nll = r.nll(next)?;
    // Σ pᵣ (r - m) with pᵣ = e / Σe; what is common to both is taken off first, so that the products stay small.
    let total = sum(exps);
    let shift = r.logits[r.top] - m.logits[r.top];
    let mut weighted = 0.0;
    wide::run(Weighted { e: exps, r: r.logits, m: m.logits, shift, out: &mut weighted });
    let kl = weighted / total + f64::from(shift) - r.log_sum + m.log_sum;
    let delta_p = (-nll).exp() - (-reference_nll).exp();
    Some(Position { nll, reference_nll, kl, delta_p, same_top: m.top == r.top })
}

/// Measures rows side by side on all threads of `ctx`: row `i` of `model` (f32 `[next.len(), vocab]`) and of `reference`,
/// against the token `next[i]` that follows. Without a reference only [`Position::nll`] means something.
///
/// # Errors
/// The first row that has an element that is no finite number, or a token outside the row.
pub fn measure_rows(
    ctx: &Context,
    model: &[f32],
    reference: Option<&[f32]>,
    vocab: usize,
    next: &[u32],
) -> Result<Vec<Position>, usize> {
    let pieces = next.len().div_ceil(ROWS);
    let slots: Vec<Mutex<Vec<Option<Position>>>> = (0..pieces).map(|_| Mutex::new(Vec::new())).collect();
    ctx.pool().run(pieces, &|piece| {
        let mut exps = Vec::with_capacity(vocab);
        let mut one = |i: usize| {
            let range = i * vocab..(i + 1) * vocab;
            let (row, token) = (model.get(range.clone())?, next[i] as usize);
            match reference {
                None => measure(ctx, row, None, token, &mut exps),
                Some(r) => measure(ctx, row, Some(r.get(range)?), token, &mut exps),
            }
        };
        let found = (piece * ROWS..next.len().min((piece + 1) * ROWS)).map(&mut one).collect();
        *slots[piece].lock().unwrap_or_else(PoisonError::into_inner) = found;
    });
    let rows = slots.into_iter().flat_map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner));
    rows.enumerate().map(|(i, row)| row.ok_or(i)).collect()
}

/// Rows that a thread takes at a time.
const ROWS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, n: usize, scale: f32) -> Vec<f32> {
        let mut s = seed | 1;
        (0..n)
            .map(|_| {
                s ^= s << 13;
                s ^= s >> 7;
                s ^= s << 17;
                ((s >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * scale
            })
            .collect()
    }

    /// The definitions in f64.
    fn plain(m: &[f32], r: &[f32], next: usize) -> Position {
        let softmax = |x: &[f32]| -> Vec<f64> {
            let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let e: Vec<f64> = x.iter().map(|&v| (f64::from(v) - f64::from(max)).exp()).collect();
            let sum: f64 = e.iter().sum();
            e.iter().map(|v| v / sum).collect()
        };
        let (pm, pr) = (softmax(m), softmax(r));
        let kl = pr.iter().zip(&pm).map(|(r, m)| r * (r / m).ln()).sum();
        let top = |p: &[f64]| p.iter().enumerate().fold(0, |b, (i, v)| if *v > p[b] { i } else { b });
        Position {
            nll: -pm[next].ln(),
            reference_nll: -pr[next].ln(),
            kl,
            delta_p: pm[next] - pr[next],
            same_top: top(&pm) == top(&pr),
        }
    }

    #[test]
    fn rows_are_measured_by_the_definitions() {
        let (ctx, vocab, rows) = (Context::new(2), 1003, 7);
        for noise_scale in [0.01, 1.0, 8.0] {
            let r = noise(1, rows * vocab, 24.0);
            let m: Vec<f32> = r.iter().zip(noise(2, rows * vocab, noise_scale)).map(|(a, b)| a + b + 3.0).collect();
            let next: Vec<u32> = (0..rows as u32).map(|i| i * 131 % 1003).collect();
            let got = measure_rows(&ctx, &m, Some(&r), vocab, &next).unwrap();
            for (i, p) in got.iter().enumerate() {
                let range = i * vocab..(i + 1) * vocab;
                let e = plain(&m[range.clone()], &r[range], next[i] as usize);
                for (a, b) in [(p.nll, e.nll), (p.reference_nll, e.reference_nll), (p.kl, e.kl), (p.delta_p, e.delta_p)]
                {
                    assert!((a - b).abs() < 3e-6 * (1.0 + b.abs()), "{a} {b}");
                }
                assert_eq!(p.same_top, e.same_top);
            }
        }
    }

    #[test]
    fn equal_logits_do_not_diverge_and_bad_ones_are_named() {
        let ctx = Context::new(1);
        let mut r = noise(5, 200, 30.0);
        let p = measure_rows(&ctx, &r, Some(&r), 100, &[1, 99]).unwrap();
        assert!(p.iter().all(|p| p.kl.abs() < 1e-9 && p.same_top && p.delta_p == 0.0));
        assert_eq!(measure_rows(&ctx, &r, None, 100, &[1, 100]), Err(1));
        r[150] = f32::NAN;
        assert_eq!(measure_rows(&ctx, &r, None, 100, &[1, 99]), Err(1));
    }
}
