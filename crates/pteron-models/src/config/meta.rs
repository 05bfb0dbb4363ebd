//! `params.json` of Meta, with the defaults of ExecuTorch's `ModelArgs`.

use pteron_checkpoint::Checkpoint;
use serde_json::{Value, json};

use super::fields::Fields;
use super::{Architecture, ConfigFormat, ModelConfig, RopeConfig, RopeScaling};
use crate::error::ModelError;
use crate::limits::{MAX_DIM, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN_DIM, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB};

/// Fields of `ModelArgs` that change the model in ways that are not built, with the value that leaves it alone.
fn neutral() -> [(&'static str, Value); 22] {
    [
        ("moe", json!(false)),
        ("attention_multiplier", Value::Null),
        ("post_attention_norm", json!(false)),
        ("post_ffn_norm", json!(false)),
        ("use_ffn_norm", json!(true)),
        ("output_bias", json!(false)),
        ("attention_type", json!("mha")),
        ("use_q_gate", json!(false)),
        ("norm_type", json!("rmsnorm")),
        ("act_fn", json!("silu")),
        ("rms_norm_add_unit_offset", json!(false)),
        ("logits_scaling", Value::Null),
        ("residual_multiplier", Value::Null),
        ("no_rope_layer_interval", Value::Null),
        ("local_rope_theta", Value::Null),
        ("rope_scaling_short_factor", Value::Null),
        ("rope_scaling_long_factor", Value::Null),
        ("layer_types", Value::Null),
        ("lora_args", Value::Null),
        ("final_logit_softcapping", Value::Null),
        ("attn_logit_softcapping", Value::Null),
        ("normalize_tok_embeddings", json!(false)),
    ]
}

/// The context length and the lower factor of Llama 3.1's scaling, which `params.json` does not carry.
const LLAMA3_ORIGINAL: usize = 8192;
const LLAMA3_LOW_FREQ: f64 = 1.0;

impl ModelConfig {
    /// [`ModelConfig::from_meta`] for weights at hand: they say how large the vocabulary is, and the output layer is tied
    /// to the embedding where they have none.
    ///
    /// # Errors
    /// As [`ModelConfig::from_meta`].
    pub fn from_meta_checkpoint(params: &Value, checkpoint: &Checkpoint) -> Result<ModelConfig, ModelError> {
        let embedding = checkpoint.info(&ConfigFormat::Meta.embedding());
        let mut config = ModelConfig::from_meta(params, embedding.and_then(|t| t.shape.first().copied()))?;
        config.tie_word_embeddings = embedding.is_some() && checkpoint.info(&ConfigFormat::Meta.output()).is_none();
        Ok(config)
    }

    /// Reads the object of a `params.json`. Llama 2's files have `vocab_size` -1, which stands for the tokenizer's: then
    /// `vocab_size` (the rows of `tok_embeddings.weight`) is used.
    ///
    /// Without `hidden_dim`, the feed-forward size is `⌊⌊8·dim/3⌋ · ffn_dim_multiplier⌋` rounded up to a multiple of
    /// `multiple_of`.
    ///
    /// # Errors
    /// [`ModelError::Field`] for a field that is missing, of another type, out of range, or asks for something that is
    /// not built.
    pub fn from_meta(params: &Value, vocab_size: Option<usize>) -> Result<ModelConfig, ModelError> {
        let fields = Fields::new("params.json", params)?;
        for (name, plain) in neutral() {
            if let Some(value) = fields.get(name)
                && *value != plain
            {
                return Err(fields.wrong(name, value, format!("{plain}: other values are not supported")));
            }
        }
        for name in ["partial_rotary_factor", "embedding_scale_factor", "scale_query_by"] {
            if let Some(n) = fields.number(name)?
                && n != 1.0
            {
                return Err(fields.error(name, n.to_string(), "1: other values are not supported"));
            }
        }
        let dim = fields.required_size("dim", 1..=MAX_DIM)?;
        let n_layers = fields.required_size("n_layers", 1..=MAX_LAYERS)?;
        let n_heads = fields.required_size("n_heads", 1..=MAX_HEADS)?;
        let n_kv_heads = fields.size("n_kv_heads", 1..=MAX_HEADS)?.unwrap_or(n_heads);
        let vocab_size = match (fields.get("vocab_size").and_then(Value::as_i64), vocab_size) {
            (Some(-1) | None, Some(rows)) if (1..=MAX_VOCAB).contains(&rows) => rows,
            _ => fields.required_size("vocab_size", 1..=MAX_VOCAB)?,
        };
        let head_dim = match fields.size("head_dim", 1..=MAX_HEAD_DIM)? {
            Some(d) => d,
            None if dim.is_multiple_of(n_heads) => dim / n_heads,
            None => {
                let expected = format!("a multiple of n_heads {n_heads}, since head_dim is not given");
                return Err(fields.error("dim", dim.to_string(), expected));
            }
        };
        let qk_norm = fields.bool("use_qk_norm")?.unwrap_or(false);
        if qk_norm {
            for (name, default) in [("qk_norm_before_rope", false), ("qk_norm_affine", true)] {
                if !fields.bool(name)?.unwrap_or(default) {
                    return Err(fields.error(name, "false", "true where use_qk_norm is true"));
                }
            }
        }
        let theta = match fields.positive("rope_theta")? {
            Some(t) => t,
            None => fields.positive("rope_freq_base")?.unwrap_or(10_000.0),
        };
        let scaling = if fields.bool("use_scaled_rope")?.unwrap_or(false) {
            let number =
                |names: [&str; 2]| Ok::<_, ModelError>(fields.positive(names[0])?.or(fields.positive(names[1])?));
            RopeScaling::Llama3 {
                factor: number(["rope_scale_factor", "rope_scaling_factor"])?.unwrap_or(scale_factor(dim, n_layers)),
                low_freq_factor: LLAMA3_LOW_FREQ,
                high_freq_factor: number(["high_freq_factor", "rope_high_freq_factor"])?.unwrap_or(4.0),
                original_max_position_embeddings: LLAMA3_ORIGINAL,
            }
        } else {
            RopeScaling::None
        };
        // Mistral's files have it.
        let window = fields.size("sliding_window", 1..=MAX_POSITIONS)?;
        let config = ModelConfig {
            architecture: if qk_norm { Architecture::Qwen3 } else { Architecture::Llama },
            format: ConfigFormat::Meta,
            interleaved: !fields.bool("use_hf_rope")?.unwrap_or(false),
            dim,
            hidden_dim: hidden_dim(&fields, dim)?,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
            norm_eps: fields.number("norm_eps")?.unwrap_or(1e-5),
            rope: RopeConfig { theta, scaling },
            tie_word_embeddings: false,
            qkv_bias: fields.bool("attention_qkv_bias")?.unwrap_or(false),
            o_bias: false,
            mlp_bias: false,
            qk_norm,
            windows: vec![window; n_layers],
            max_position_embeddings: fields.size("max_seq_len", 1..=MAX_POSITIONS)?.unwrap_or(MAX_POSITIONS),
            dtype: None,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            quantization_group: quantization_group(&fields)?,
        };
        config.validate()?;
        Ok(config)
    }
}

/// `quantization_args.group_size`.
fn quantization_group(fields: &Fields<'_>) -> Result<Option<usize>, ModelError> {
    let Some(arguments) = fields.get("quantization_args").filter(|v| !v.is_null()) else { return Ok(None) };
    match arguments.get("group_size").and_then(Value::as_u64).map(usize::try_from) {
        Some(Ok(group @ 1..)) => Ok(Some(group)),
        _ => {
            Err(fields.wrong("quantization_args", arguments, "null, or an object with a group_size from 1".to_owned()))
        }
    }
}

/// The factor of the scaling that a file without one means: Llama 3.2's (32), which its sizes tell, or Llama 3.1's.
fn scale_factor(dim: usize, n_layers: usize) -> f64 {
    if matches!((dim, n_layers), (2048, 16) | (3072, 28)) { 32.0 } else { 8.0 }
}

fn hidden_dim(fields: &Fields<'_>, dim: usize) -> Result<usize, ModelError> {
    if let Some(given) = fields.size("hidden_dim", 1..=MAX_HIDDEN_DIM)? {
        return Ok(given);
    }
    let multiple_of = fields.size("multiple_of", 1..=MAX_HIDDEN_DIM)?.unwrap_or(256);
    let mut hidden = 8 * dim / 3;
    if let Some(factor) = fields.positive("ffn_dim_multiplier")? {
        // Saturates; the range of the result is checked with the other sizes.
        hidden = (factor * hidden as f64) as usize;
    }
    hidden.checked_next_multiple_of(multiple_of).filter(|h| (1..=MAX_HIDDEN_DIM).contains(h)).ok_or_else(|| {
        let expected = format!("values that give a hidden_dim from 1 to {MAX_HIDDEN_DIM}");
        fields.error("ffn_dim_multiplier", format!("a hidden_dim of {hidden}"), expected)
    })
}
