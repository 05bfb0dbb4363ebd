//! What a run is asked for.

use super::RunnerError;
use crate::sampler::SamplerConfig;

/// The settings of one run: ExecuTorch's `GenerationConfig` and the sampler's.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerationConfig {
    /// Give the prompt to the callback before the new text. Default true.
    pub echo: bool,
    /// Do not stop at the ids that end a text. Default false.
    pub ignore_eos: bool,
    /// Most new tokens; −1 (default) is no limit of its own.
    pub max_new_tokens: i64,
    /// Most tokens of prompt and answer together, counted from the start of the conversation; −1 (default) is no limit of
    /// its own.
    pub seq_len: i64,
    /// 0 is greedy. Default 0.8.
    pub temperature: f32,
    /// Nucleus in `(0, 1]`. Default 0.9.
    pub topp: f32,
    /// Candidates, 0 (default) is off; takes precedence over `topp`.
    pub topk: usize,
    /// Seed of the random stream; `None` (default) takes the clock's microseconds.
    pub seed: Option<u64>,
    /// Beginning ids put before the prompt. Default 0.
    pub num_bos: usize,
    /// End ids put after the prompt. Default 0.
    pub num_eos: usize,
    /// Run without text, and leave position and statistics as they were. Default false.
    pub warming: bool,
    /// Take the most probable first token whatever the temperature is. Default true, as ExecuTorch's runner always does;
    /// with false the first token is sampled like the others.
    pub first_token_greedy: bool,
    /// Leave special tokens out of the text. Default true.
    pub skip_special_tokens: bool,
}

impl Default for GenerationConfig {
    fn default() -> Self {
        let sampler = SamplerConfig::with_seed(0);
        Self {
            echo: true,
            ignore_eos: false,
            max_new_tokens: -1,
            seq_len: -1,
            temperature: sampler.temperature,
            topp: sampler.top_p,
            topk: sampler.top_k,
            seed: None,
            num_bos: 0,
            num_eos: 0,
            warming: false,
            first_token_greedy: true,
            skip_special_tokens: true,
        }
    }
}

impl GenerationConfig {
    /// How many new tokens the limits leave when `occupied` of the context's `max_context_len` tokens are taken, never
    /// below 0: the context's rest, at most `max_new_tokens`, and at most `seq_len − occupied`.
    pub fn resolve_max_new_tokens(&self, max_context_len: usize, occupied: usize) -> usize {
        let limit = |value: i64| if value == -1 { usize::MAX } else { usize::try_from(value).unwrap_or(0) };
        limit(self.seq_len).min(max_context_len).saturating_sub(occupied).min(limit(self.max_new_tokens))
    }

    /// Checks every setting, before anything is generated.
    ///
    /// # Errors
    /// [`RunnerError::Limit`] for a limit that is neither -1 nor above 0, [`RunnerError::Sampler`] for temperature or
    /// top-p out of range.
    pub fn validate(&self) -> Result<(), RunnerError> {
        for (name, value) in [("max_new_tokens", self.max_new_tokens), ("seq_len", self.seq_len)] {
            if value != -1 && value <= 0 {
                return Err(RunnerError::Limit { name, value });
            }
        }
        SamplerConfig { temperature: self.temperature, top_p: self.topp, top_k: self.topk, seed: 0 }.validate()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::GenerationConfig;

    /// The cases of ExecuTorch's `test_generation_config.cpp`, and more: (seq_len, max_new, context, occupied) → new.
    #[test]
    fn limits_resolve_as_in_executorch() {
        for (seq_len, max_new_tokens, context, occupied, expected) in [
            (-1, -1, 100, 20, 80),
            (-1, -1, 100, 100, 0),
            (-1, 50, 100, 20, 50),
            (-1, 90, 100, 20, 80),
            (50, -1, 100, 20, 30),
            (150, -1, 100, 20, 80),
            (20, -1, 100, 20, 0),
            (50, 25, 100, 20, 25),
            (50, 40, 100, 20, 30),
            (30, 40, 100, 50, 0),
            (-1, -1, 100, 200, 0),
            (0, -1, 100, 0, 0),
        ] {
            let config = GenerationConfig { seq_len, max_new_tokens, ..GenerationConfig::default() };
            assert_eq!(
                config.resolve_max_new_tokens(context, occupied),
                expected,
                "seq_len {seq_len}, max_new_tokens {max_new_tokens}, context {context}, occupied {occupied}"
            );
        }
    }

    #[test]
    fn limits_and_sampling_parameters_are_checked() {
        assert!(GenerationConfig::default().validate().is_ok());
        let error = GenerationConfig { seq_len: 0, ..Default::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "seq_len is 0, expected -1 (no limit) or a number above 0");
        assert!(GenerationConfig { max_new_tokens: -2, ..Default::default() }.validate().is_err());
        assert!(GenerationConfig { temperature: f32::NAN, ..Default::default() }.validate().is_err());
        assert!(GenerationConfig { topp: 0.0, ..Default::default() }.validate().is_err());
    }
}
