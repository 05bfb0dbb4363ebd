//! Counters and times of one run, in ExecuTorch's fields (`extension/llm/runner/stats.h`).
//!
//! Times are wall-clock milliseconds since the Unix epoch, sums are milliseconds. A wall clock may step back: every
//! difference is floored at zero, and a rate over zero time is not reported.

use std::fmt;

/// Ticks of the timestamps per second.
pub const SCALING_FACTOR_UNITS_PER_SECOND: i64 = 1000;

/// What happened and when.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Loading of the program and its tokenizer began.
    pub model_load_start_ms: i64,
    /// … and ended.
    pub model_load_end_ms: i64,
    /// `generate` was entered.
    pub inference_start_ms: i64,
    /// `generate` was left.
    pub inference_end_ms: i64,
    /// The last call of the model began.
    pub model_execution_start_ms: i64,
    /// … and ended.
    pub model_execution_end_ms: i64,
    /// The whole prompt was seen by the model.
    pub prompt_eval_end_ms: i64,
    /// The first new token was known.
    pub first_token_ms: i64,
    /// Time spent choosing tokens, in microseconds.
    pub aggregate_sampling_time_us: i64,
    /// Time spent inside the model, in microseconds.
    pub aggregate_model_execution_time_us: i64,
    /// Tokens of the prompt.
    pub num_prompt_tokens: u64,
    /// Tokens made by the decode loop. As in ExecuTorch, the token that prefill yields is not counted: it belongs to the
    /// prompt's time, and `num_generated_tokens / decode time` is then the speed of decoding.
    pub num_generated_tokens: u64,
}

impl Stats {
    /// Forgets everything but the load times.
    pub fn reset(&mut self) {
        *self = Self {
            model_load_start_ms: self.model_load_start_ms,
            model_load_end_ms: self.model_load_end_ms,
            ..Self::default()
        };
    }

    /// Load time in milliseconds.
    pub fn load_ms(&self) -> i64 {
        span(self.model_load_start_ms, self.model_load_end_ms)
    }

    /// Whole time of `generate` in milliseconds.
    pub fn inference_ms(&self) -> i64 {
        span(self.inference_start_ms, self.inference_end_ms)
    }

    /// Time of the prompt in milliseconds.
    pub fn prefill_ms(&self) -> i64 {
        span(self.inference_start_ms, self.prompt_eval_end_ms)
    }

    /// Time of the decode loop in milliseconds.
    pub fn decode_ms(&self) -> i64 {
        span(self.prompt_eval_end_ms, self.inference_end_ms)
    }

    /// Time to the first token in milliseconds.
    pub fn time_to_first_token_ms(&self) -> i64 {
        span(self.inference_start_ms, self.first_token_ms)
    }

    /// Time spent choosing tokens, in milliseconds, rounded down.
    pub fn aggregate_sampling_time_ms(&self) -> i64 {
        self.aggregate_sampling_time_us / 1000
    }

    /// Time spent inside the model, in milliseconds, rounded down.
    pub fn aggregate_model_execution_time_ms(&self) -> i64 {
        self.aggregate_model_execution_time_us / 1000
    }

    /// Prompt tokens per second; `None` when no time passed.
    pub fn prefill_tokens_per_second(&self) -> Option<f64> {
        rate(self.num_prompt_tokens, self.prefill_ms())
    }

    /// Decoded tokens per second; `None` when no time passed.
    pub fn decode_tokens_per_second(&self) -> Option<f64> {
        rate(self.num_generated_tokens, self.decode_ms())
    }

    /// One JSON object with the keys of ExecuTorch main, in its order. The two rates are left out when no time passed,
    /// as there; the keys of GPU memory never occur.
    pub fn to_json(&self) -> String {
        let mut object = serde_json::Map::new();
        let mut put = |key: &str, value: serde_json::Value| object.insert(key.to_owned(), value);
        if let Some(rate) = self.prefill_tokens_per_second() {
            put("prefill_token_per_sec", six_digits(rate).into());
        }
        if let Some(rate) = self.decode_tokens_per_second() {
            put("decode_token_per_sec", six_digits(rate).into());
        }
        put("prompt_tokens", self.num_prompt_tokens.into());
        put("generated_tokens", self.num_generated_tokens.into());
        put("model_load_start_ms", self.model_load_start_ms.into());
        put("model_load_end_ms", self.model_load_end_ms.into());
        put("inference_start_ms", self.inference_start_ms.into());
        put("inference_end_ms", self.inference_end_ms.into());
        put("model_execution_start_ms", self.model_execution_start_ms.into());
        put("model_execution_end_ms", self.model_execution_end_ms.into());
        put("prompt_eval_end_ms", self.prompt_eval_end_ms.into());
        put("first_token_ms", self.first_token_ms.into());
        put("aggregate_sampling_time_ms", self.aggregate_sampling_time_ms().into());
        put("aggregate_model_execution_time_ms", self.aggregate_model_execution_time_ms().into());
        put("SCALING_FACTOR_UNITS_PER_SECOND", SCALING_FACTOR_UNITS_PER_SECOND.into());
        serde_json::Value::Object(object).to_string()
    }

    /// The line that ExecuTorch's runners print: `PyTorchObserver {json}`, without a newline.
    pub fn observer_line(&self) -> String {
        format!("PyTorchObserver {}", self.to_json())
    }
}

/// The report for people, several lines, no newline at the end.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |rate: Option<f64>| match rate {
            Some(rate) => format!("{rate:.2} tok/s"),
            None => "too short to measure".to_owned(),
        };
        writeln!(f, "load            {:>10.3} s", self.load_ms() as f64 / 1000.0)?;
        writeln!(
            f,
            "prompt          {:>10.3} s  {:>7} tokens  {}",
            self.prefill_ms() as f64 / 1000.0,
            self.num_prompt_tokens,
            per_second(self.prefill_tokens_per_second()),
        )?;
        writeln!(
            f,
            "generation      {:>10.3} s  {:>7} tokens  {}",
            self.decode_ms() as f64 / 1000.0,
            self.num_generated_tokens,
            per_second(self.decode_tokens_per_second()),
        )?;
        writeln!(f, "first token     {:>10.3} s", self.time_to_first_token_ms() as f64 / 1000.0)?;
        writeln!(f, "sampling        {:>10.3} s", self.aggregate_sampling_time_us as f64 / 1e6)?;
        writeln!(f, "model           {:>10.3} s", self.aggregate_model_execution_time_us as f64 / 1e6)?;
        write!(f, "total           {:>10.3} s", self.inference_ms() as f64 / 1000.0)
    }
}

fn span(start: i64, end: i64) -> i64 {
    end.saturating_sub(start).max(0)
}

fn rate(count: u64, ms: i64) -> Option<f64> {
    (ms > 0).then(|| count as f64 / ms as f64 * SCALING_FACTOR_UNITS_PER_SECOND as f64)
}

/// Rounded to six significant digits, the precision of a C++ stream's default.
fn six_digits(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Stats {
        Stats {
            model_load_start_ms: 1000,
            model_load_end_ms: 1250,
            inference_start_ms: 2000,
            inference_end_ms: 5000,
            model_execution_start_ms: 4980,
            model_execution_end_ms: 4990,
            prompt_eval_end_ms: 2300,
            first_token_ms: 2300,
            aggregate_sampling_time_us: 12_900,
            aggregate_model_execution_time_us: 2_900_000,
            num_prompt_tokens: 10,
            num_generated_tokens: 27,
        }
    }

    #[test]
    fn observer_line_has_executorchs_keys_in_order() {
        assert_eq!(
            sample().observer_line(),
            "PyTorchObserver {\"prefill_token_per_sec\":33.3333,\"decode_token_per_sec\":10.0,\"prompt_tokens\":10,\
             \"generated_tokens\":27,\"model_load_start_ms\":1000,\"model_load_end_ms\":1250,\
             \"inference_start_ms\":2000,\"inference_end_ms\":5000,\"model_execution_start_ms\":4980,\
             \"model_execution_end_ms\":4990,\"prompt_eval_end_ms\":2300,\"first_token_ms\":2300,\
             \"aggregate_sampling_time_ms\":12,\"aggregate_model_execution_time_ms\":2900,\
             \"SCALING_FACTOR_UNITS_PER_SECOND\":1000}"
        );
    }

    #[test]
    fn no_time_means_no_rate() {
        let json = Stats { num_prompt_tokens: 3, ..Stats::default() }.to_json();
        assert!(json.starts_with("{\"prompt_tokens\":3,"), "{json}");
        let stepped_back = Stats { inference_start_ms: 10, prompt_eval_end_ms: 5, ..sample() };
        assert_eq!(stepped_back.prefill_tokens_per_second(), None);
        assert_eq!(stepped_back.prefill_ms(), 0);
        assert!(Stats::default().to_string().contains("too short to measure"));
    }

    #[test]
    fn reset_keeps_the_load_times() {
        let mut stats = sample();
        stats.reset();
        assert_eq!(stats, Stats { model_load_start_ms: 1000, model_load_end_ms: 1250, ..Stats::default() });
    }

    #[test]
    fn report_names_counts_and_rates() {
        let text = sample().to_string();
        for part in ["0.250 s", "10 tokens  33.33 tok/s", "27 tokens  10.00 tok/s", "0.013 s", "3.000 s"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert_eq!(text.lines().count(), 7);
    }
}
