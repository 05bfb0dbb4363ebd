//! Walks a text and sums up.

use pteron_kernels::Context;
use serde::Serialize;

use crate::measure::{Position, measure_rows};
use crate::model::{CausalModel, EvalError};
use crate::stats::{Estimate, Quantiles};
use crate::window::{Protocol, Window};

/// How far an evaluation has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Tokens fed, of all windows.
    pub done: usize,
    /// Tokens to be fed in all.
    pub total: usize,
    /// Perplexity so far.
    pub perplexity: f64,
}

/// A perplexity with the way it was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp(mean negative log-likelihood)`.
    pub value: f64,
    /// Its standard error, by the first derivative.
    pub stderr: f64,
    /// Mean negative log-likelihood of a scored token in nats, with its standard error.
    pub nll: Estimate,
}

impl Perplexity {
    fn of(nlls: impl Iterator<Item = f64> + Clone) -> Perplexity {
        let nll = Estimate::of(nlls);
        let p = nll.exp();
        Perplexity { value: p.mean, stderr: p.stderr, nll }
    }
}

/// How far a model is from its reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// The reference's own perplexity on the same positions.
    pub reference: Perplexity,
    /// `ln(perplexity / reference's)`, paired position by position: its error is far below those of the two.
    pub log_ratio: Estimate,
    /// Mean `KL(reference ‖ model)` in nats.
    pub kl: Estimate,
    /// How the KL divergence is spread over positions.
    pub kl_quantiles: Quantiles,
    /// Mean change of the next token's probability.
    pub delta_p: Estimate,
    /// Root of the mean square of that change.
    pub delta_p_rms: f64,
    /// Share of positions at which both have the same likeliest token.
    pub same_top: Estimate,
}

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evaluation {
    /// How the text was cut and scored.
    pub protocol: Protocol,
    /// Tokens of the text.
    pub text_tokens: usize,
    /// Windows.
    pub windows: usize,
    /// Tokens that were scored.
    pub scored: usize,
    /// Tokens at the end that no window had.
    pub left_out: usize,
    /// The token of beginning that stands first in each window, if one does.
    pub bos: Option<u32>,
    /// The model's perplexity.
    pub perplexity: Perplexity,
    /// Against the reference, if there was one.
    pub divergence: Option<Divergence>,
    /// Every scored position, in the text's order: what paired comparisons of two models need.
    #[serde(skip)]
    pub positions: Vec<Position>,
}

const MODEL: &str = "the model";
const REFERENCE: &str = "the reference";

/// Measures `model` on `tokens`, and against `reference` if there is one, on the threads of `ctx`.
///
/// `bos` is what [`Protocol::LlamaCpp`] puts in the first place of each window: the tokenizer's token of beginning if it
/// adds one to a text. At most `limit` windows are taken. `progress` is called after every call of a model; `false` stops.
///
/// # Errors
/// [`EvalError`].
pub fn evaluate(
    ctx: &Context,
    model: &mut dyn CausalModel,
    mut reference: Option<&mut dyn CausalModel>,
    tokens: &[u32],
    protocol: Protocol,
    bos: Option<u32>,
    limit: Option<usize>,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Evaluation, EvalError> {
    let cut = protocol.cut(tokens.len(), limit)?;
    let vocab = model.vocab_size();
    let longest = cut.windows.iter().map(|w| w.tokens.len()).max().unwrap_or(0);
    fits(model, MODEL, longest, tokens)?;
    let mut step = step_of(model, longest);
    if let Some(r) = reference.as_deref() {
        fits(r, REFERENCE, longest, tokens)?;
        if r.vocab_size() != vocab {
            return Err(EvalError::Vocabulary { model: vocab, reference: r.vocab_size() });
        }
        step = match (model.whole_context(), r.whole_context()) {
            (false, false) => step.min(step_of(r, longest)),
            (true, false) if step_of(r, longest) < longest => step_of(r, longest),
            _ => longest,
        };
    }
    let total = cut.windows.iter().map(|w| w.tokens.len()).sum();
    let mut positions: Vec<Position> = Vec::new();
    let (mut done, mut nll) = (0usize, 0.0);
    let mut context = Vec::new();
    for window in &cut.windows {
        context.clear();
        context.extend_from_slice(&tokens[window.tokens.clone()]);
        if let (true, Some(bos), Some(first)) = (window.begins, bos, context.first_mut()) {
            *first = bos;
        }
        model.restart().map_err(|e| failed(MODEL, window.tokens.start, e))?;
        if let Some(r) = reference.as_deref_mut() {
            r.restart().map_err(|e| failed(REFERENCE, window.tokens.start, e))?;
        }
        // Without a cache a model takes the window at once; the other one follows in its own steps, row by row.
        let mut held: Vec<f32> = Vec::new();
        for start in (0..context.len()).step_by(step.max(1)) {
            let end = context.len().min(start + step);
            let at = window.tokens.start + start;
            let rows = &context[start..end];
            let wanted = wanted(window, start, end);
            let other = match reference.as_deref_mut() {
                None => None,
                Some(r) => {
                    held.clear();
                    feed_all(r, REFERENCE, rows, at, &mut held)?;
                    Some(held.as_slice())
                }
            };
            let mut own: Vec<f32> = Vec::new();
            let logits = if rows.len() <= model.most_tokens() {
                let n = rows.len();
                checked(model.feed(rows).map_err(|e| failed(MODEL, at, e))?, MODEL, n, vocab)?
            } else {
                feed_all(model, MODEL, rows, at, &mut own)?;
                &own
            };
            if !wanted.is_empty() {
                let range = (wanted.start - start) * vocab..(wanted.end - start) * vocab;
                let next = &context[wanted.start + 1..wanted.end + 1];
                let measured = measure_rows(ctx, &logits[range.clone()], other.map(|o| &o[range]), vocab, next);
                let measured = measured.map_err(|i| {
                    let bad = |x: &[f32]| x.iter().any(|v| !v.is_finite());
                    let row = (wanted.start - start + i) * vocab..(wanted.start - start + i + 1) * vocab;
                    let which = if bad(&logits[row]) { MODEL } else { REFERENCE };
                    EvalError::NotFinite { which, position: window.tokens.start + wanted.start + i }
                })?;
                nll += measured.iter().map(|p| p.nll).sum::<f64>();
                positions.extend(measured);
            }
            done += rows.len();
            if !progress(Progress { done, total, perplexity: (nll / positions.len() as f64).exp() }) {
                return Err(EvalError::Stopped);
            }
        }
    }
    let begins = cut.windows.first().is_some_and(|w| w.begins);
    Ok(Evaluation {
        protocol,
        text_tokens: tokens.len(),
        windows: cut.windows.len(),
        scored: positions.len(),
        left_out: cut.left_out,
        bos: bos.filter(|_| begins),
        perplexity: Perplexity::of(positions.iter().map(|p| p.nll)),
        divergence: reference.is_some().then(|| divergence(&positions)).flatten(),
        positions,
    })
}

fn failed(which: &'static str, position: usize, source: crate::ModelError) -> EvalError {
    EvalError::Model { which, position, source }
}

fn fits(model: &dyn CausalModel, which: &'static str, longest: usize, tokens: &[u32]) -> Result<(), EvalError> {
    let most = if model.whole_context() { model.most_tokens().min(model.max_context()) } else { model.max_context() };
    if longest > most {
        return Err(EvalError::Context { which, window: longest, most });
    }
    let vocab = model.vocab_size();
    match tokens.iter().position(|&t| t as usize >= vocab) {
        Some(position) => Err(EvalError::Token { which, token: tokens[position], position, vocab }),
        None => Ok(()),
    }
}

fn step_of(model: &dyn CausalModel, longest: usize) -> usize {
    if model.whole_context() { longest } else { model.most_tokens().clamp(1, longest.max(1)) }
}

/// The positions of a window in `start..end` whose next token is scored.
fn wanted(window: &Window, start: usize, end: usize) -> std::ops::Range<usize> {
    let last = window.tokens.len() - 1;
    let (from, to) = (window.from.max(start), last.min(end));
    from..to.max(from)
}

fn checked<'a>(logits: &'a [f32], which: &'static str, tokens: usize, vocab: usize) -> Result<&'a [f32], EvalError> {
    let expected = tokens.saturating_mul(vocab);
    if logits.len() != expected {
        return Err(EvalError::Logits { which, tokens, found: logits.len(), expected });
    }
    Ok(logits)
}

fn feed_all(
    model: &mut dyn CausalModel,
    which: &'static str,
    tokens: &[u32],
    at: usize,
    out: &mut Vec<f32>,
) -> Result<(), EvalError> {
    let (most, vocab) = (model.most_tokens().max(1), model.vocab_size());
    for (i, piece) in tokens.chunks(most).enumerate() {
        let logits = model.feed(piece).map_err(|e| failed(which, at + i * most, e))?;
        out.extend_from_slice(checked(logits, which, piece.len(), vocab)?);
    }
    Ok(())
}

fn divergence(positions: &[Position]) -> Option<Divergence> {
    let all = positions.iter();
    let of = |f: fn(&Position) -> f64| Estimate::of(all.clone().map(f));
    Some(Divergence {
        reference: Perplexity::of(all.clone().map(|p| p.reference_nll)),
        log_ratio: of(|p| p.nll - p.reference_nll),
        kl: of(|p| p.kl),
        kl_quantiles: Quantiles::of(all.clone().map(|p| p.kl).collect())?,
        delta_p: of(|p| p.delta_p),
        delta_p_rms: of(|p| p.delta_p * p.delta_p).mean.sqrt(),
        same_top: of(|p| f64::from(u8::from(p.same_top))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Logits that depend on all tokens of the context so far.
    struct Fake {
        vocab: usize,
        most: usize,
        cache: bool,
        scale: f32,
        state: u64,
        out: Vec<f32>,
        calls: usize,
    }

    impl Fake {
        fn new(most: usize, cache: bool, scale: f32) -> Fake {
            Fake { vocab: 11, most, cache, scale, state: 0, out: Vec::new(), calls: 0 }
        }
    }

    impl CausalModel for Fake {
        fn vocab_size(&self) -> usize {
            self.vocab
        }
        fn most_tokens(&self) -> usize {
            self.most
        }
        fn whole_context(&self) -> bool {
            !self.cache
        }
        fn max_context(&self) -> usize {
            64
        }
        fn restart(&mut self) -> Result<(), crate::ModelError> {
            self.state = 7;
            Ok(())
        }
        fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], crate::ModelError> {
            self.calls += 1;
            self.out.clear();
            for &t in tokens {
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(u64::from(t) + 1);
                for v in 0..self.vocab {
                    let bits = (self.state >> 33).wrapping_mul(v as u64 + 3) % 97;
                    self.out.push(bits as f32 / 97.0 * self.scale);
                }
            }
            Ok(&self.out)
        }
    }

    fn text(n: usize) -> Vec<u32> {
        (0..n as u32).map(|i| i * 7 % 11).collect()
    }

    fn run(m: &mut Fake, r: Option<&mut Fake>, protocol: Protocol) -> Evaluation {
        let r = r.map(|r| r as &mut dyn CausalModel);
        evaluate(&Context::new(1), m, r, &text(50), protocol, Some(3), None, &mut |_| true).unwrap()
    }

    #[test]
    fn the_size_of_calls_changes_nothing() {
        for protocol in [
            Protocol::NonOverlapping { window: 16 },
            Protocol::LlamaCpp { window: 16 },
            Protocol::Strided { window: 16, stride: 5 },
        ] {
            let whole = run(&mut Fake::new(64, false, 3.0), Some(&mut Fake::new(64, false, 2.0)), protocol);
            for (a, b) in
                [((5, true), (64, false)), ((64, false), (3, true)), ((5, true), (3, true)), ((64, true), (7, true))]
            {
                let pieces = run(&mut Fake::new(a.0, a.1, 3.0), Some(&mut Fake::new(b.0, b.1, 2.0)), protocol);
                assert_eq!(pieces, whole, "{protocol} {a:?} {b:?}");
            }
            let d = whole.divergence.unwrap();
            assert!(d.kl.mean > 0.0 && d.same_top.mean == 1.0);
            let ratio = (whole.perplexity.value / d.reference.value).ln();
            assert!((ratio - d.log_ratio.mean).abs() < 1e-9);
            assert_eq!(whole.bos, matches!(protocol, Protocol::LlamaCpp { .. }).then_some(3));
        }
    }

    #[test]
    fn a_uniform_model_has_the_vocabularys_perplexity() {
        let e = run(&mut Fake::new(64, true, 0.0), None, Protocol::NonOverlapping { window: 10 });
        assert!((e.perplexity.value - 11.0).abs() < 1e-5);
        assert_eq!((e.scored, e.windows, e.left_out, e.divergence), (45, 5, 0, None));
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let ctx = Context::new(1);
        let go = |m: &mut Fake, tokens: &[u32], window| {
            evaluate(&ctx, m, None, tokens, Protocol::NonOverlapping { window }, None, None, &mut |_| true).unwrap_err()
        };
        assert!(matches!(go(&mut Fake::new(8, true, 1.0), &text(200), 100), EvalError::Context { most: 64, .. }));
        assert!(matches!(go(&mut Fake::new(8, false, 1.0), &text(200), 10), EvalError::Context { most: 8, .. }));
        assert!(matches!(go(&mut Fake::new(8, true, 1.0), &[1, 2, 11, 4], 4), EvalError::Token { position: 2, .. }));
        assert!(matches!(go(&mut Fake::new(8, true, 1.0), &[1, 2], 4), EvalError::TooShort { found: 2, .. }));
        assert!(matches!(go(&mut Fake::new(8, true, f32::NAN), &text(9), 4), EvalError::NotFinite { .. }));
        let stopped = evaluate(
            &ctx,
            &mut Fake::new(8, true, 1.0),
            None,
            &text(9),
            Protocol::NonOverlapping { window: 4 },
            None,
            None,
            &mut |_| false,
        );
        assert!(matches!(stopped, Err(EvalError::Stopped)));
    }
}
