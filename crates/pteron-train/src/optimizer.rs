//! AdamW and the learning rate's course.

/// AdamW (`torch.optim.AdamW`): `p ← p·(1 − lr·decay)`, `m ← m + (g − m)·(1 − β₁)`, `v ← v·β₂ + g²·(1 − β₂)`,
/// `p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + ε)`. Factors are computed in f64 and rounded to f32, elements in f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// `β₁` and `β₂`.
    pub betas: (f64, f64),
    /// `ε`.
    pub eps: f64,
    /// Share of the learning rate that a parameter loses at each step.
    pub weight_decay: f64,
}

impl Default for AdamW {
    /// PyTorch's, without weight decay.
    fn default() -> AdamW {
        AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

impl AdamW {
    /// Step `t`, from 1, of one parameter: its elements, first and second moments, and gradient, scaled by `factor`.
    pub fn step(&self, t: u64, lr: f64, factor: f32, p: &mut [f32], m: &mut [f32], v: &mut [f32], g: &[f32]) {
        let (b1, b2) = self.betas;
        let t = i32::try_from(t).unwrap_or(i32::MAX);
        let (c1, c2) = (1.0 - b1.powi(t), 1.0 - b2.powi(t));
        let keep = (1.0 - lr * self.weight_decay) as f32;
        let (w1, keep2, w2) = ((1.0 - b1) as f32, b2 as f32, (1.0 - b2) as f32);
        let (size, root, eps) = ((lr / c1) as f32, c2.sqrt() as f32, self.eps as f32);
        for (((p, m), v), &g) in p.iter_mut().zip(m).zip(v).zip(g) {
            let g = g * factor;
            *p *= keep;
            *m += (g - *m) * w1;
            *v = *v * keep2 + g * g * w2;
            *p -= size * (*m / (v.sqrt() / root + eps));
        }
    }
}

/// The learning rate: up from 0 in a line over the first steps, then down along half a cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The largest.
    pub peak: f64,
    /// Steps of the way up.
    pub warmup: u64,
    /// Steps in all.
    pub steps: u64,
    /// What share of the largest is left at the end; 1 keeps it.
    pub floor: f64,
}

impl Schedule {
    /// The learning rate of step `step`, from 1.
    pub fn at(&self, step: u64) -> f64 {
        if step <= self.warmup {
            return self.peak * step as f64 / self.warmup.max(1) as f64;
        }
        let rest = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let along = ((step - self.warmup - 1) as f64 / rest).min(1.0);
        let share = 0.5 * (1.0 + (std::f64::consts::PI * along).cos());
        self.peak * (self.floor + (1.0 - self.floor) * share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let s = Schedule { peak: 1.0, warmup: 4, steps: 104, floor: 0.1 };
        assert_eq!((s.at(1), s.at(4), s.at(5)), (0.25, 1.0, 1.0));
        assert!((s.at(55) - 0.55).abs() < 1e-12);
        assert!(s.at(104) < 0.101 && s.at(104) > 0.1);
        let constant = Schedule { peak: 0.5, warmup: 0, steps: 3, floor: 1.0 };
        assert_eq!((constant.at(1), constant.at(3)), (0.5, 0.5));
    }

    /// By hand: the first step of Adam moves each element by the learning rate, against its gradient's sign.
    #[test]
    fn the_first_step_is_the_rate() {
        let (mut p, mut m, mut v) = ([1.0f32, -2.0], [0.0; 2], [0.0; 2]);
        let adam = AdamW { weight_decay: 0.5, ..AdamW::default() };
        adam.step(1, 0.01, 1.0, &mut p, &mut m, &mut v, &[4.0, -0.25]);
        assert!((p[0] - (0.995 - 0.01)).abs() < 1e-6 && (p[1] - (-1.99 + 0.01)).abs() < 1e-6, "{p:?}");
        assert!((m[0] - 0.4).abs() < 1e-6 && (v[0] - 0.016).abs() < 1e-6);
    }
}
