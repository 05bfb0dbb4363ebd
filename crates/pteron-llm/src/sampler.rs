//! One token id out of one row of logits, by ExecuTorch's rules.
//!
//! Source of the rules: ExecuTorch `extension/llm/sampler/sampler.cpp` (main).
//!
//! 1. temperature 0: the largest logit, the lowest index on ties. No random number is drawn.
//! 2. otherwise the logits are multiplied by `1 / temperature` and softmaxed, one random number in `[0, 1)` is drawn, and
//!    - `0 < top_k < vocab`: the `top_k` most probable entries share the coin (top-p is then ignored);
//!    - `top_p = 1`: the whole distribution;
//!    - else: entries below `(1 - top_p) / (vocab - 1)` are dropped, the rest is sorted, and the shortest head whose sum
//!      exceeds `top_p` shares the coin.
//!
//! Two deliberate differences. Half-precision logits are widened to f32 before any arithmetic (ExecuTorch adds up the
//! distribution in the logits' own type, where a large vocabulary's sum stalls below 1). Equal probabilities keep the order
//! of their ids (ExecuTorch's sort is unstable, so its order is unspecified).

use half::{bf16, f16};

/// The state that replaces seed 0.
///
/// xorshift64* never leaves state 0: ExecuTorch with seed 0 draws the coin 0 for every token. Pteron substitutes this
/// constant (the fraction of the golden ratio in 64 bits), so seed 0 is a seed like any other.
pub const SEED_ZERO_REPLACEMENT: u64 = 0x9E37_79B9_7F4A_7C15;

/// Why no token could be drawn.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// A parameter is out of its range.
    #[error("{name} is {value}, expected {expected}")]
    Parameter {
        /// The parameter's name.
        name: &'static str,
        /// What was given.
        value: f64,
        /// The range.
        expected: &'static str,
    },
    /// There is nothing to choose from.
    #[error("the model returned an empty row of logits")]
    Empty,
    /// A logit is not a number or is positive infinity.
    #[error(
        "logit {index} of {vocab} is {value}: the model's output is not usable (overflow in a half-precision model, or a damaged file)"
    )]
    NotFinite {
        /// Index in the row.
        index: usize,
        /// Length of the row.
        vocab: usize,
        /// NaN or infinity.
        value: f32,
    },
    /// Every logit is negative infinity.
    #[error("all {vocab} logits are -inf: every token is masked out")]
    AllMasked {
        /// Length of the row.
        vocab: usize,
    },
}

/// xorshift64* (Vigna 2014), as ExecuTorch and llama2.c use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XorShift64Star {
    state: u64,
}

impl XorShift64Star {
    /// Seeds the generator; 0 becomes [`SEED_ZERO_REPLACEMENT`].
    pub fn new(seed: u64) -> Self {
        Self { state: if seed == 0 { SEED_ZERO_REPLACEMENT } else { seed } }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// The next number in `[0, 1)`, a multiple of 2⁻²⁴.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 / 16_777_216.0
    }
}

/// How to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerConfig {
    /// 0 is greedy; else logits are divided by it. Finite, not negative.
    pub temperature: f32,
    /// Nucleus size in `(0, 1]`; 1 keeps everything.
    pub top_p: f32,
    /// Number of candidates; 0, or at least the vocabulary, is off. Takes precedence over `top_p`.
    pub top_k: usize,
    /// Seed of the random stream; 0 stands for [`SEED_ZERO_REPLACEMENT`].
    pub seed: u64,
}

impl SamplerConfig {
    /// ExecuTorch's defaults: temperature 0.8, top-p 0.9, no top-k.
    pub fn with_seed(seed: u64) -> Self {
        Self { temperature: 0.8, top_p: 0.9, top_k: 0, seed }
    }

    /// Greedy decoding.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::with_seed(0) }
    }

    /// Checks the ranges.
    pub fn validate(&self) -> Result<(), SamplerError> {
        if !self.temperature.is_finite() || self.temperature < 0.0 {
            return Err(SamplerError::Parameter {
                name: "temperature",
                value: self.temperature.into(),
                expected: "a finite number, 0 (greedy) or above",
            });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(SamplerError::Parameter {
                name: "top-p",
                value: self.top_p.into(),
                expected: "a number above 0 and at most 1",
            });
        }
        Ok(())
    }
}

/// One row of logits, `[vocab]`.
#[derive(Clone, Copy, Debug)]
pub enum LogitsRow<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// IEEE half precision.
    F16(&'a [f16]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl LogitsRow<'_> {
    /// Number of logits.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(row) => row.len(),
            Self::F16(row) => row.len(),
            Self::Bf16(row) => row.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn widen_into(&self, out: &mut Vec<f32>) {
        out.clear();
        match self {
            Self::F32(row) => out.extend_from_slice(row),
            Self::F16(row) => out.extend(row.iter().map(|x| x.to_f32())),
            Self::Bf16(row) => out.extend(row.iter().map(|x| x.to_f32())),
        }
    }
}

/// A sampler with its random stream and scratch space.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    rng: XorShift64Star,
    probabilities: Vec<f32>,
    candidates: Vec<(f32, u32)>,
}

impl Sampler {
    /// A sampler at the start of its random stream.
    pub fn new(config: SamplerConfig) -> Result<Self, SamplerError> {
        config.validate()?;
        let rng = XorShift64Star::new(config.seed);
        Ok(Self { config, rng, probabilities: Vec::new(), candidates: Vec::new() })
    }

    /// The parameters.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Draws one token id, with the configured temperature.
    pub fn sample(&mut self, logits: LogitsRow<'_>) -> Result<u32, SamplerError> {
        let mut probabilities = std::mem::take(&mut self.probabilities);
        logits.widen_into(&mut probabilities);
        let token = self.sample_widened(&mut probabilities);
        self.probabilities = probabilities;
        token
    }

    /// The largest logit's id whatever the temperature is; draws no random number.
    pub fn greedy(&mut self, logits: LogitsRow<'_>) -> Result<u32, SamplerError> {
        logits.widen_into(&mut self.probabilities);
        argmax(&self.probabilities)
    }

    fn sample_widened(&mut self, row: &mut [f32]) -> Result<u32, SamplerError> {
        let best = argmax(row)?;
        if self.config.temperature == 0.0 {
            return Ok(best);
        }
        let inverse = 1.0 / self.config.temperature;
        let max = row[best as usize] * inverse;
        let coin = self.rng.next_f32();
        // A temperature so small that the scaled logits overflow is greedy in the limit.
        if !inverse.is_finite() || !max.is_finite() {
            return Ok(best);
        }
        let mut sum = 0.0f32;
        for x in row.iter_mut() {
            *x = (*x * inverse - max).exp();
            sum += *x;
        }
        for x in row.iter_mut() {
            *x /= sum;
        }
        Ok(if self.config.top_k > 0 && self.config.top_k < row.len() {
            self.pick_top_k(row, coin)
        } else if self.config.top_p >= 1.0 {
            pick(row.iter().copied().zip(0u32..), coin).unwrap_or(best)
        } else {
            self.pick_top_p(row, coin)
        })
    }

    fn pick_top_k(&mut self, row: &[f32], coin: f32) -> u32 {
        let k = self.config.top_k;
        self.candidates.clear();
        self.candidates.extend(row.iter().copied().zip(0u32..));
        self.candidates.select_nth_unstable_by(k - 1, by_probability);
        self.candidates.truncate(k);
        self.candidates.sort_unstable_by(by_probability);
        let sum: f32 = self.candidates.iter().map(|c| c.0).sum();
        pick(self.candidates.iter().copied(), coin * sum).unwrap_or(0)
    }

    fn pick_top_p(&mut self, row: &[f32], coin: f32) -> u32 {
        let top_p = self.config.top_p;
        // One logit has no other entries to share 1 - top_p among.
        let cutoff = if row.len() > 1 { (1.0 - top_p) / (row.len() - 1) as f32 } else { 0.0 };
        self.candidates.clear();
        self.candidates.extend(row.iter().copied().zip(0u32..).filter(|&(p, _)| p >= cutoff));
        self.candidates.sort_unstable_by(by_probability);
        let mut kept = 0.0f32;
        let head = self.candidates.iter().position(|&(p, _)| {
            kept += p;
            kept > top_p
        });
        if let Some(last) = head {
            self.candidates.truncate(last + 1);
        }
        pick(self.candidates.iter().copied(), coin * kept).unwrap_or(0)
    }
}

/// Most probable first, lower id first among equals.
fn by_probability(a: &(f32, u32), b: &(f32, u32)) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// The entry in whose interval `coin` falls; the last one when rounding left the sum short; `None` without entries.
fn pick(entries: impl Iterator<Item = (f32, u32)>, coin: f32) -> Option<u32> {
    let mut cumulative = 0.0f32;
    let mut last = None;
    for (probability, id) in entries {
        cumulative += probability;
        last = Some(id);
        if coin < cumulative {
            break;
        }
    }
    last
}

fn argmax(row: &[f32]) -> Result<u32, SamplerError> {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    for (index, &value) in row.iter().enumerate() {
        if value.is_nan() || value == f32::INFINITY {
            return Err(SamplerError::NotFinite { index, vocab: row.len(), value });
        }
        if value > max {
            max = value;
            best = index;
        }
    }
    if row.is_empty() {
        return Err(SamplerError::Empty);
    }
    if max == f32::NEG_INFINITY {
        return Err(SamplerError::AllMasked { vocab: row.len() });
    }
    Ok(best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(config: SamplerConfig, row: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(config).unwrap();
        (0..n).map(|_| sampler.sample(LogitsRow::F32(row)).unwrap()).collect()
    }

    #[test]
    fn random_streams_are_executorchs() {
        for (seed, golden) in [
            (1, [1_206_177_355u32, 2_882_512_552, 3_117_485_455, 1_303_648_416]),
            (42, [1_456_360_119, 3_359_763_283, 3_393_612_768, 4_054_632_243]),
        ] {
            let mut rng = XorShift64Star::new(seed);
            assert_eq!([(); 4].map(|()| rng.next_u32()), golden, "seed {seed}");
            let mut rng = XorShift64Star::new(seed);
            for bits in golden {
                assert_eq!(rng.next_f32(), (bits >> 8) as f32 / 16_777_216.0);
            }
        }
    }

    #[test]
    fn seed_zero_is_a_living_stream() {
        let mut zero = XorShift64Star::new(0);
        let mut named = XorShift64Star::new(SEED_ZERO_REPLACEMENT);
        let stream: Vec<u32> = (0..8).map(|_| zero.next_u32()).collect();
        assert_eq!(stream, (0..8).map(|_| named.next_u32()).collect::<Vec<_>>());
        assert!(stream.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn argmax_takes_the_lowest_index_on_ties_in_every_dtype() {
        let row = [0.5f32, 2.0, -1.0, 2.0];
        let mut sampler = Sampler::new(SamplerConfig::greedy()).unwrap();
        assert_eq!(sampler.sample(LogitsRow::F32(&row)).unwrap(), 1);
        assert_eq!(sampler.sample(LogitsRow::F16(&row.map(f16::from_f32))).unwrap(), 1);
        assert_eq!(sampler.sample(LogitsRow::Bf16(&row.map(bf16::from_f32))).unwrap(), 1);
    }

    #[test]
    fn greedy_draws_no_coin() {
        let mut sampler = Sampler::new(SamplerConfig { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 42 }).unwrap();
        sampler.greedy(LogitsRow::F32(&[1.0, 2.0])).unwrap();
        assert_eq!(sampler.rng, XorShift64Star::new(42));
    }

    /// Equal logits make the CDF i/4, so the token is floor(4·coin): coins of seed 42 are 0.339, 0.782, 0.790, 0.944.
    #[test]
    fn linear_cdf_follows_the_coins() {
        let config = SamplerConfig { temperature: 1.0, top_p: 1.0, top_k: 0, seed: 42 };
        assert_eq!(draw(config, &[0.0; 4], 4), [1, 3, 3, 3]);
    }

    #[test]
    fn temperature_divides_the_logits() {
        // p = softmax([0, ln 3]) = [1/4, 3/4]; at temperature 1/2: [1/10, 9/10]. First coin of seed 1 is 0.2808.
        let row = [0.0, 3f32.ln()];
        // First coin of seed 42 is 0.3391, of seed 1 0.2808; both lie above 1/4. At temperature 2: [0.366, 0.634].
        let at = |temperature| draw(SamplerConfig { temperature, top_p: 1.0, top_k: 0, seed: 1 }, &row, 1)[0];
        assert_eq!(at(1.0), 1);
        assert_eq!(at(2.0), 0);
    }

    #[test]
    fn top_k_one_is_greedy_and_precedes_top_p() {
        let row = [1.0, 3.0, 2.0, 2.9];
        for seed in 0..50 {
            let config = SamplerConfig { temperature: 5.0, top_p: 1.0, top_k: 1, seed };
            assert_eq!(draw(config, &row, 3), [1, 1, 1]);
        }
        // top_p this small alone would leave only the best; with top_k 2 both best entries occur.
        let config = SamplerConfig { temperature: 5.0, top_p: 0.01, top_k: 2, seed: 7 };
        let drawn = draw(config, &row, 200);
        assert!(drawn.contains(&1) && drawn.contains(&3) && drawn.iter().all(|id| [1, 3].contains(id)));
    }

    #[test]
    fn top_k_of_the_vocabulary_or_more_is_off() {
        let row = [0.3, 0.1, 0.9, 0.5];
        let with = |top_k| draw(SamplerConfig { temperature: 1.0, top_p: 0.7, top_k, seed: 9 }, &row, 50);
        assert_eq!(with(4), with(0));
        assert_eq!(with(99), with(0));
    }

    #[test]
    fn top_p_keeps_the_shortest_head() {
        // p = [0.5, 0.3, 0.15, 0.05]: 0.7 needs two entries, 0.4 one.
        let row = [0.5f32, 0.3, 0.15, 0.05].map(f32::ln);
        let drawn = draw(SamplerConfig { temperature: 1.0, top_p: 0.7, top_k: 0, seed: 3 }, &row, 300);
        let ones = drawn.iter().filter(|&&id| id == 1).count();
        assert!(drawn.iter().all(|&id| id < 2));
        // 0.3 / 0.8 of 300 is 112.5; three standard deviations are 25.
        assert!((88..=137).contains(&ones), "{ones}");
        assert!(
            draw(SamplerConfig { temperature: 1.0, top_p: 0.4, top_k: 0, seed: 3 }, &row, 50).iter().all(|&id| id == 0)
        );
    }

    #[test]
    fn masked_tokens_never_occur_and_one_logit_is_enough() {
        let row = [f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY, 0.0];
        for top_p in [0.9, 1.0] {
            let drawn = draw(SamplerConfig { temperature: 1.0, top_p, top_k: 0, seed: 5 }, &row, 100);
            assert!(drawn.iter().all(|id| [1, 3].contains(id)));
        }
        assert_eq!(draw(SamplerConfig::with_seed(1), &[0.25], 3), [0, 0, 0]);
    }

    #[test]
    fn tiny_temperature_is_greedy() {
        let config = SamplerConfig { temperature: f32::MIN_POSITIVE / 8.0, top_p: 0.9, top_k: 0, seed: 5 };
        assert_eq!(draw(config, &[1.0, 300.0, 2.0], 3), [1, 1, 1]);
    }

    #[test]
    fn bad_rows_and_parameters_are_errors() {
        let mut sampler = Sampler::new(SamplerConfig::greedy()).unwrap();
        let nan = sampler.sample(LogitsRow::F32(&[0.0, f32::NAN])).unwrap_err();
        assert!(nan.to_string().starts_with("logit 1 of 2 is NaN"), "{nan}");
        assert!(matches!(sampler.sample(LogitsRow::F16(&[f16::INFINITY])), Err(SamplerError::NotFinite { .. })));
        assert_eq!(sampler.sample(LogitsRow::F32(&[])), Err(SamplerError::Empty));
        let masked = [f32::NEG_INFINITY; 3];
        assert_eq!(sampler.sample(LogitsRow::F32(&masked)), Err(SamplerError::AllMasked { vocab: 3 }));
        for (temperature, top_p) in
            [(-0.1, 0.9), (f32::NAN, 0.9), (f32::INFINITY, 0.9), (1.0, 0.0), (1.0, 1.1), (1.0, f32::NAN), (1.0, -1.0)]
        {
            let config = SamplerConfig { temperature, top_p, top_k: 0, seed: 1 };
            assert!(matches!(Sampler::new(config), Err(SamplerError::Parameter { .. })));
        }
    }
}
