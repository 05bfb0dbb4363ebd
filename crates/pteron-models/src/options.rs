//! What form of a model is built.

use std::collections::BTreeMap;

use pteron_ir::MetaValue;
use pteron_tensor::DType;

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::limits::{MAX_ELEMENTS, MAX_POSITIONS};
use crate::metadata::SpecialTokens;
use crate::rotate::{has_operator, no_operator};

/// With dynamic shapes a call takes at most `max_seq_length` less this many tokens, as in ExecuTorch's exporter
/// (`Dim("token_dim", max=max_seq_len - 1)`), on whose bound its tools rely.
pub const DYNAMIC_RESERVE: usize = 1;

/// The scales of a cache of 8-bit codes (ExecuTorch's `StaticQuantizedKVCache`): one for each element of a head, the same for all
/// heads and positions of a layer's keys, and of its values.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticKvCache {
    /// The scale where `scales` has none: `1/127` fits keys and values within −1 and 1.
    pub scale: f32,
    /// Scales by the cache's name, such as `model.layers.0.self_attn.kv_cache.k_cache`: `head_dim` each.
    pub scales: BTreeMap<String, Vec<f32>>,
}

impl Default for StaticKvCache {
    /// `export_llama`'s: `1/127` for all.
    fn default() -> StaticKvCache {
        StaticKvCache { scale: 1.0 / 127.0, scales: BTreeMap::new() }
    }
}

/// What form of a model is built. The defaults are those of ExecuTorch's `export_llama`.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The element type of weights, activations and caches: f32, f16 or bf16.
    pub dtype: DType,
    /// Whether keys and values of earlier calls are kept, and the method takes a position.
    pub use_kv_cache: bool,
    /// Whether the cache is written and read by `llama::update_cache` and `llama::custom_sdpa`. Needs the cache.
    pub use_sdpa_with_kv_cache: bool,
    /// Whether that cache holds 8-bit codes with a scale and a zero point for each token and head, which attention reads as
    /// they are. Needs `use_sdpa_with_kv_cache`.
    pub quantize_kv_cache: bool,
    /// Keys and values as 8-bit codes whose scales are constants. Needs the cache, and it without `use_sdpa_with_kv_cache`.
    pub static_kv_cache: Option<StaticKvCache>,
    /// Whether the input of each feed-forward part's last layer is multiplied by a Hadamard matrix
    /// (`llama::fast_hadamard_transform`), as ExecuTorch's `use_spin_quant` does for weights that undo it:
    /// [`crate::Rotation::with_spin_quant`]. Needs f32 or f16.
    pub use_spin_quant: bool,
    /// Whether the number of tokens of a call may vary.
    pub dynamic_shape: bool,
    /// Tokens of one call at most; see [`DYNAMIC_RESERVE`].
    pub max_seq_length: usize,
    /// Positions that the cache holds.
    pub max_context_length: usize,
    /// Whether logits of all tokens of a call are returned, not only of the last.
    pub full_logits: bool,
    /// The tokens that the program tells its runner.
    pub tokens: SpecialTokens,
    /// Further constant methods, which win over the others: see [`crate::parse_metadata`].
    pub metadata: Vec<(String, Vec<MetaValue>)>,
}

impl Default for BuildOptions {
    fn default() -> BuildOptions {
        BuildOptions {
            dtype: DType::F32,
            use_kv_cache: false,
            use_sdpa_with_kv_cache: false,
            quantize_kv_cache: false,
            static_kv_cache: None,
            use_spin_quant: false,
            dynamic_shape: true,
            max_seq_length: 128,
            max_context_length: 128,
            full_logits: false,
            tokens: SpecialTokens::default(),
            metadata: Vec::new(),
        }
    }
}

impl BuildOptions {
    /// Checks the options against each other and against the model.
    ///
    /// # Errors
    /// [`ModelError::Option`] that names the option.
    pub fn validate(&self, config: &ModelConfig) -> Result<(), ModelError> {
        let fail = |option, found: String, expected: String| Err(ModelError::Option { option, found, expected });
        if !matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16) {
            return fail("dtype-override", self.dtype.to_string(), "fp32, fp16 or bf16".into());
        }
        if self.use_sdpa_with_kv_cache && !self.use_kv_cache {
            return fail("use_sdpa_with_kv_cache", "true".into(), "use_kv_cache as well".into());
        }
        if self.quantize_kv_cache && !self.use_sdpa_with_kv_cache {
            return fail("quantize_kv_cache", "true".into(), "use_sdpa_with_kv_cache as well".into());
        }
        if let Some(cache) = &self.static_kv_cache {
            let option = "static_quantize_kv_cache";
            if !self.use_kv_cache {
                return fail(option, "true".into(), "use_kv_cache as well".into());
            }
            if self.use_sdpa_with_kv_cache {
                let expected = "a cache without use_sdpa_with_kv_cache, whose operators read float caches";
                return fail(option, "true".into(), expected.into());
            }
            let positive = |s: f32| s.is_finite() && s > 0.0;
            if !positive(cache.scale) {
                let expected = "a positive number".into();
                return fail("static_quantize_kv_cache_scale", cache.scale.to_string(), expected);
            }
            let odd = |s: &&Vec<f32>| s.len() != config.head_dim || !s.iter().all(|&s| positive(s));
            if let Some(scales) = cache.scales.values().find(odd) {
                let expected = format!("{} positive scales for each cache (head_dim)", config.head_dim);
                return fail(option, format!("{} scales", scales.len()), expected);
            }
        }
        if self.use_spin_quant && self.dtype == DType::BF16 {
            let expected = "fp32 or fp16 with --use-spin-quant, whose operator takes these";
            return fail("dtype-override", "bf16".into(), expected.into());
        }
        if self.use_spin_quant && !has_operator(config.hidden_dim) {
            return Err(no_operator(config));
        }
        let least = if self.dynamic_shape { 1 + DYNAMIC_RESERVE } else { 1 };
        if !(least..=MAX_POSITIONS).contains(&self.max_seq_length) {
            let shape = if self.dynamic_shape { "with a dynamic shape" } else { "with a static shape" };
            let expected = format!("an integer from {least} to {MAX_POSITIONS} {shape}");
            return fail("max_seq_length", self.max_seq_length.to_string(), expected);
        }
        if !(self.max_seq_length..=MAX_POSITIONS).contains(&self.max_context_length) {
            let expected = format!("an integer from {} (max_seq_length) to {MAX_POSITIONS}", self.max_seq_length);
            return fail("max_context_length", self.max_context_length.to_string(), expected);
        }
        let cache = self.max_context_length as u64 * config.kv_dim() as u64;
        if self.use_kv_cache && cache > MAX_ELEMENTS {
            let expected = format!("a cache of at most {MAX_ELEMENTS} elements");
            return fail("max_context_length", format!("{} ({cache} elements)", self.max_context_length), expected);
        }
        Ok(())
    }

    /// What is odd about the options without being an error, a sentence each.
    pub fn warnings(&self, config: &ModelConfig) -> Vec<String> {
        let mut out = Vec::new();
        if self.max_context_length > config.max_position_embeddings {
            out.push(format!(
                "a context of {} tokens is longer than the {} positions that the model was made for ({})",
                self.max_context_length,
                config.max_position_embeddings,
                config.file()
            ));
        }
        out
    }

    /// Tokens of one call at most: 1 with a cache and a static shape.
    pub fn max_tokens(&self) -> usize {
        match (self.dynamic_shape, self.use_kv_cache) {
            (true, _) => self.max_seq_length.saturating_sub(DYNAMIC_RESERVE),
            (false, true) => 1,
            (false, false) => self.max_seq_length,
        }
    }

    /// Positions that the program can address: rows of the rotary tables.
    pub fn positions(&self) -> usize {
        if self.use_kv_cache { self.max_context_length } else { self.max_seq_length }
    }
}

/// What form of *static Llama* is built: see [`crate::build_static`].
#[derive(Clone, Debug)]
pub struct StaticOptions {
    /// The element type of weights, activations and caches: f32, f16 or bf16.
    pub dtype: DType,
    /// Positions that a method sees: its caches and its own tokens.
    pub max_context_length: usize,
    /// Tokens of one call of `prefill_forward`; `None` leaves that method out.
    pub prefill_ar_len: Option<usize>,
    /// Whether each head of attention has products of its own (`--use_qnn_sha`): smaller ones, and no head beside another in
    /// a tensor until they are joined. The inputs and outputs are the same.
    pub single_heads: bool,
    /// The tokens that the program tells its runner.
    pub tokens: SpecialTokens,
    /// Further constant methods, which win over the others: see [`crate::parse_metadata`].
    pub metadata: Vec<(String, Vec<MetaValue>)>,
}

impl Default for StaticOptions {
    /// The defaults of ExecuTorch's script: hybrid, 32 tokens a prefill, a context of 512.
    fn default() -> StaticOptions {
        StaticOptions {
            dtype: DType::F32,
            max_context_length: 512,
            prefill_ar_len: Some(32),
            single_heads: false,
            tokens: SpecialTokens::default(),
            metadata: Vec::new(),
        }
    }
}
