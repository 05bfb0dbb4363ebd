//! What a model is, as its configuration says it.

mod fields;
mod gguf;
mod hf;
mod llama2c;
mod meta;
mod scaling;

use std::fmt;
use std::sync::Arc;

use pteron_checkpoint::{Checkpoint, CheckpointError, Description};
use pteron_tensor::DType;

use crate::error::ModelError;
use crate::limits::{
    MAX_DIM, MAX_ELEMENTS, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN_DIM, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB,
};

pub(crate) use fields::describe;

/// A member of the family, named as `transformers` names its classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3.3, TinyLlama, SmolLM2.
    Llama,
    /// Mistral: a sliding window over all layers.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on query, key and value.
    Qwen2,
    /// Qwen3: norms of query and key heads.
    Qwen3,
}

impl Architecture {
    /// All members.
    pub const ALL: [Architecture; 4] =
        [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3];

    /// The entry of `architectures`: `LlamaForCausalLM`.
    pub const fn class_name(self) -> &'static str {
        match self {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The value of `model_type`: `llama`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Mistral => "mistral",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class_name())
    }
}

/// How a checkpoint spells the fields of its configuration and the names of its weights. The module that is built does
/// not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigFormat {
    /// `config.json`; `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
    /// `params.json`; `layers.0.attention.wq.weight`.
    Meta,
    /// The metadata of a GGUF file; `blk.0.attn_q.weight`.
    Gguf,
    /// The header of a llama2.c model; Meta's names.
    Llama2c,
}

/// The spelling of the fields in messages.
pub(crate) struct FieldNames {
    pub(crate) file: &'static str,
    pub(crate) dim: &'static str,
    pub(crate) hidden_dim: &'static str,
    pub(crate) n_layers: &'static str,
    pub(crate) n_heads: &'static str,
    pub(crate) n_kv_heads: &'static str,
    pub(crate) head_dim: &'static str,
    pub(crate) vocab_size: &'static str,
    pub(crate) norm_eps: &'static str,
    pub(crate) rope_theta: &'static str,
    pub(crate) max_positions: &'static str,
}

impl ConfigFormat {
    pub(crate) fn names(self) -> &'static FieldNames {
        match self {
            ConfigFormat::HuggingFace => &FieldNames {
                file: "config.json",
                dim: "hidden_size",
                hidden_dim: "intermediate_size",
                n_layers: "num_hidden_layers",
                n_heads: "num_attention_heads",
                n_kv_heads: "num_key_value_heads",
                head_dim: "head_dim",
                vocab_size: "vocab_size",
                norm_eps: "rms_norm_eps",
                rope_theta: "rope_theta",
                max_positions: "max_position_embeddings",
            },
            ConfigFormat::Meta => &FieldNames {
                file: "params.json",
                dim: "dim",
                hidden_dim: "hidden_dim",
                n_layers: "n_layers",
                n_heads: "n_heads",
                n_kv_heads: "n_kv_heads",
                head_dim: "head_dim",
                vocab_size: "vocab_size",
                norm_eps: "norm_eps",
                rope_theta: "rope_theta",
                max_positions: "max_seq_len",
            },
            ConfigFormat::Gguf => &FieldNames {
                file: gguf::FILE,
                dim: "embedding_length",
                hidden_dim: "feed_forward_length",
                n_layers: "block_count",
                n_heads: "attention.head_count",
                n_kv_heads: "attention.head_count_kv",
                head_dim: "attention.key_length",
                vocab_size: "vocab_size",
                norm_eps: "attention.layer_norm_rms_epsilon",
                rope_theta: "rope.freq_base",
                max_positions: "context_length",
            },
            ConfigFormat::Llama2c => &FieldNames {
                file: "the llama2.c header",
                dim: "dim",
                hidden_dim: "hidden_dim",
                n_layers: "n_layers",
                n_heads: "n_heads",
                n_kv_heads: "n_kv_heads",
                head_dim: "head_dim",
                vocab_size: "vocab_size",
                norm_eps: "norm_eps",
                rope_theta: "rope_theta",
                max_positions: "seq_len",
            },
        }
    }
}

/// How frequencies are changed for contexts longer than those of pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: long waves divided by `factor`, short ones kept, a blend between.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// Waves longer than the original context over this are divided.
        low_freq_factor: f64,
        /// Waves shorter than the original context over this are kept.
        high_freq_factor: f64,
        /// The context of pre-training.
        original_max_position_embeddings: usize,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071), as `transformers` computes it.
    Yarn {
        /// The divisor of the long waves.
        factor: f64,
        /// Waves that turn at least this often within the original context are kept.
        beta_fast: f64,
        /// Waves that turn at most this often are divided.
        beta_slow: f64,
        /// The context of pre-training.
        original_max_position_embeddings: usize,
        /// What cosine and sine are multiplied by, so that the attention's temperature fits.
        attention_factor: f64,
        /// Whether the bounds of the blend are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// The frequency of pair `j` divided by factor `j`: `rope_freqs.weight` of a GGUF file, in which Llama 3.1's scaling
    /// is stored.
    Factors(Arc<[f32]>),
}

/// Rotary position embedding. The two elements of a pair lie half a head apart.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the frequencies: pair `j` of `D/2` turns by `theta^(-2j/D)` a position.
    pub theta: f64,
    /// Changes for long contexts.
    pub scaling: RopeScaling,
}

/// What a model is.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The member of the family.
    pub architecture: Architecture,
    /// How the checkpoint spells fields and weights.
    pub format: ConfigFormat,
    /// Whether the checkpoint has the two rows of a rotary pair as neighbours in the weights of query and key. The module
    /// has them half a head apart, as Hugging Face's checkpoints.
    pub interleaved: bool,
    /// Elements of the residual stream.
    pub dim: usize,
    /// Elements between the two halves of the feed-forward part.
    pub hidden_dim: usize,
    /// Decoder layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Elements of a head; even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// What RMSNorm adds to the mean square.
    pub norm_eps: f64,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Whether the output layer uses the embedding's weight.
    pub tie_word_embeddings: bool,
    /// Whether query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether query and key heads are normalized before they are rotated.
    pub qk_norm: bool,
    /// For each layer how many positions a token sees, itself included; `None` for all before it.
    pub windows: Vec<Option<usize>>,
    /// The longest context that the model was made for.
    pub max_position_embeddings: usize,
    /// The element type that the weights are meant to have.
    pub dtype: Option<DType>,
    /// The token before every text.
    pub bos_token_id: Option<i64>,
    /// The tokens at which generation stops.
    pub eos_token_ids: Vec<i64>,
    /// Columns of a group, where the configuration says that weights are stored as codes.
    pub quantization_group: Option<usize>,
}

impl ModelConfig {
    /// Reads what the checkpoint itself says about the model.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] for a model of another family, [`ModelError::Field`] for a field that is
    /// missing, of another type, out of range, or asks for something that is not built, [`ModelError::Checkpoint`] where
    /// the file that should say it is not there.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<ModelConfig, ModelError> {
        match checkpoint.description() {
            Description::HuggingFace { .. } => ModelConfig::from_hf(checkpoint.config_json()?),
            Description::Meta { params: Some(params) } => ModelConfig::from_meta_checkpoint(params, checkpoint),
            Description::Meta { params: None } => {
                let path = checkpoint.folder().unwrap_or(checkpoint.path()).to_owned();
                Err(CheckpointError::MissingParams { path }.into())
            }
            Description::Gguf(metadata) => ModelConfig::from_gguf(metadata, checkpoint),
            Description::Llama2c(header) => ModelConfig::from_llama2c(header),
        }
    }

    /// What messages call the place of the fields: `config.json`, `params.json`, the metadata of a GGUF file.
    pub fn file(&self) -> &'static str {
        self.format.names().file
    }

    fn field_error(&self, field: &str, found: impl fmt::Display, expected: impl Into<String>) -> ModelError {
        ModelError::Field {
            file: self.file(),
            field: field.to_owned(),
            found: found.to_string(),
            expected: expected.into(),
        }
    }

    /// Checks that every size is in range and fits the others, so that a graph can be built. The parsers have done it;
    /// [`crate::build`] does it again, because the fields are public.
    ///
    /// # Errors
    /// [`ModelError::Field`].
    pub fn validate(&self) -> Result<(), ModelError> {
        let n = self.format.names();
        for (field, found, most) in [
            (n.dim, self.dim, MAX_DIM),
            (n.hidden_dim, self.hidden_dim, MAX_HIDDEN_DIM),
            (n.n_layers, self.n_layers, MAX_LAYERS),
            (n.n_heads, self.n_heads, MAX_HEADS),
            (n.n_kv_heads, self.n_kv_heads, MAX_HEADS),
            (n.head_dim, self.head_dim, MAX_HEAD_DIM),
            (n.vocab_size, self.vocab_size, MAX_VOCAB),
            (n.max_positions, self.max_position_embeddings, 1 << 40),
        ] {
            if !(1..=most).contains(&found) {
                return Err(self.field_error(field, found, format!("an integer from 1 to {most}")));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of {} {}", n.n_heads, self.n_heads);
            return Err(self.field_error(n.n_kv_heads, self.n_kv_heads, expected));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(self.field_error(n.head_dim, self.head_dim, "an even number: rotary pairs are two elements"));
        }
        let widest = self.dim.max(self.hidden_dim).max(self.n_heads * self.head_dim).max(self.vocab_size) as u64;
        let elements = widest.saturating_mul(self.dim as u64);
        if elements > MAX_ELEMENTS {
            let expected = format!("sizes of which no weight has more than {MAX_ELEMENTS} elements");
            return Err(self.field_error(n.dim, format!("{} (a weight of {elements} elements)", self.dim), expected));
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps < 1.0) {
            return Err(self.field_error(n.norm_eps, self.norm_eps, "a number from 0 to below 1"));
        }
        if !(self.rope.theta > 1.0 && self.rope.theta.is_finite() && self.rope.theta <= f64::from(f32::MAX)) {
            return Err(self.field_error(n.rope_theta, self.rope.theta, "a finite number above 1"));
        }
        self.validate_scaling()?;
        if self.windows.len() != self.n_layers {
            let expected = format!("one entry for each of {} layers", self.n_layers);
            return Err(self.field_error("sliding_window", format!("{} entries", self.windows.len()), expected));
        }
        if self.windows.contains(&Some(0)) {
            return Err(self.field_error("sliding_window", 0, "at least 1"));
        }
        let ids = self.bos_token_id.iter().map(|id| ("bos_token_id", *id));
        for (field, id) in ids.chain(self.eos_token_ids.iter().map(|id| ("eos_token_id", *id))) {
            if usize::try_from(id).map_or(true, |id| id >= self.vocab_size) {
                let expected = format!("a token from 0 to {} ({} - 1)", self.vocab_size - 1, n.vocab_size);
                return Err(self.field_error(field, id, expected));
            }
        }
        Ok(())
    }

    fn validate_scaling(&self) -> Result<(), ModelError> {
        let positive = |field: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                Ok(())
            } else {
                Err(self.field_error(&format!("rope_scaling.{field}"), value, "a finite number above 0"))
            }
        };
        let original = |value: usize| {
            if (1..=MAX_POSITIONS).contains(&value) {
                return Ok(());
            }
            let expected = format!("an integer from 1 to {MAX_POSITIONS}");
            Err(self.field_error("rope_scaling.original_max_position_embeddings", value, expected))
        };
        let ordered = |low: &str, a: f64, high: &str, b: f64, strict: bool| {
            if b > a || (b == a && !strict) {
                return Ok(());
            }
            let expected = format!("a number {} {low} {a}", if strict { "above" } else { "not below" });
            Err(self.field_error(&format!("rope_scaling.{high}"), b, expected))
        };
        match self.rope.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Factors(ref factors) => {
                if factors.len() != self.head_dim / 2 {
                    let (found, expected) = (factors.len(), format!("{} factors, one for a pair", self.head_dim / 2));
                    return Err(self.field_error("rope_freqs.weight", format!("{found} factors"), expected));
                }
                match factors.iter().find(|f| !(f.is_finite() && **f > 0.0)) {
                    Some(wrong) => Err(self.field_error("rope_freqs.weight", wrong, "finite numbers above 0")),
                    None => Ok(()),
                }
            }
            RopeScaling::Linear { factor } => positive("factor", factor),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings,
            } => {
                positive("factor", factor)?;
                positive("low_freq_factor", low)?;
                positive("high_freq_factor", high)?;
                ordered("low_freq_factor", low, "high_freq_factor", high, true)?;
                original(original_max_position_embeddings)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_max_position_embeddings,
                attention_factor,
                truncate: _,
            } => {
                positive("factor", factor)?;
                positive("beta_fast", beta_fast)?;
                positive("beta_slow", beta_slow)?;
                positive("attention_factor", attention_factor)?;
                ordered("beta_slow", beta_slow, "beta_fast", beta_fast, false)?;
                original(original_max_position_embeddings)
            }
        }
    }

    /// Elements of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Elements of all key heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}
