//! What the logits of one position say.

use std::sync::{Mutex, PoisonError};

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

/// A row of logits with its largest element and `ln Σ eˣ`.
struct Row<'a> {
    logits: &'a [f32],
    top: usize,
    log_sum: f64,
}

fn sum(values: &[f32]) -> f64 {
    values.chunks(BLOCK).map(|b| f64::from(b.iter().sum::<f32>())).sum()
}

/// Index of the largest element, the first among equals; `None` if an element is no finite number.
fn argmax(row: &[f32]) -> Option<usize> {
    let mut best: Option<(usize, f32)> = None;
    for (i, &v) in row.iter().enumerate() {
        if !v.is_finite() {
            return None;
        }
        if best.is_none_or(|(_, b)| v > b) {
            best = Some((i, v));
        }
    }
    best.map(|(i, _)| i)
}

impl<'a> Row<'a> {
    /// Fills `exps` with `eˣ⁻ᵐ`.
    fn new(ctx: &Context, logits: &'a [f32], exps: &mut Vec<f32>) -> Option<Row<'a>> {
        let top = argmax(logits)?;
        let max = logits[top];
        exps.clear();
        exps.extend(logits.iter().map(|v| v - max));
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
    for ((e, r), m) in exps.chunks(BLOCK).zip(r.logits.chunks(BLOCK)).zip(m.logits.chunks(BLOCK)) {
        let block: f32 = e.iter().zip(r).zip(m).map(|((e, r), m)| e * ((r - m) - shift)).sum();
        weighted += f64::from(block);
    }
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
    let slots: Vec<Mutex<Option<Position>>> = next.iter().map(|_| Mutex::new(None)).collect();
    ctx.pool().run(next.len(), &|i| {
        let range = i * vocab..(i + 1) * vocab;
        let row = model.get(range.clone());
        let other = reference.map(|r| r.get(range));
        let position = match (row, other) {
            (Some(row), None) => measure(ctx, row, None, next[i] as usize, &mut Vec::with_capacity(vocab)),
            (Some(row), Some(Some(r))) => measure(ctx, row, Some(r), next[i] as usize, &mut Vec::with_capacity(vocab)),
            _ => None,
        };
        *slots[i].lock().unwrap_or_else(PoisonError::into_inner) = position;
    });
    slots
        .into_iter()
        .enumerate()
        .map(|(i, s)| s.into_inner().unwrap_or_else(PoisonError::into_inner).ok_or(i))
        .collect()
}

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
