//! The metadata of a GGUF file: keys `ARCHITECTURE.*` and `tokenizer.ggml.*`, with llama.cpp's defaults.

use pteron_checkpoint::Checkpoint;
use pteron_checkpoint::gguf::{GgufMetadata, GgufValue};
use pteron_tensor::{CastSource, DType, read_all};
use serde_json::{Map, Number, Value};

use super::fields::Fields;
use super::{Architecture, ConfigFormat, ModelConfig, RopeConfig, RopeScaling};
use crate::error::ModelError;
use crate::limits::{MAX_DIM, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN_DIM, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB};

/// What messages call the place of the fields.
pub(crate) const FILE: &str = "the GGUF metadata";

/// Keys that change the model in ways that are not built, with the number or truth value that leaves it alone.
const NEUTRAL: [(&str, f64); 13] = [
    ("expert_count", 0.0),
    ("use_parallel_residual", 0.0),
    ("attention.clamp_kqv", 0.0),
    ("attention.max_alibi_bias", 0.0),
    ("attention.sliding_window_pattern", 0.0),
    ("logit_scale", 1.0),
    ("embedding_scale", 1.0),
    ("residual_scale", 1.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("attention.temperature_length", 0.0),
    ("rope.scaling.yarn_ext_factor", 1.0),
    ("attention.shared_kv_layers", 0.0),
];

/// The factors of Llama 3.1's frequencies.
const ROPE_FREQS: &str = "rope_freqs.weight";

impl ModelConfig {
    /// Reads the metadata of a GGUF file whose tensors are `checkpoint`'s. The tensors say how large the vocabulary is,
    /// which projections have biases, and whether the output layer is tied to the embedding: then they have none.
    ///
    /// A number stored in f32 is taken as the shortest decimal that gives it: 1e-5, not 9.99999974737875e-6.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] for a model of another family, [`ModelError::Field`] for a field that is
    /// missing, of another type, out of range, or asks for something that is not built.
    pub fn from_gguf(metadata: &GgufMetadata, checkpoint: &Checkpoint) -> Result<ModelConfig, ModelError> {
        let architecture = architecture(metadata)?;
        let name = architecture.model_type();
        let all = as_json(metadata, name);
        let all = Fields::new(FILE, &all)?;
        let Some(fields) = all.object(name)? else {
            return Err(all.missing(&format!("{name}.block_count"), format!("an integer from 1 to {MAX_LAYERS}")));
        };
        for (key, plain) in NEUTRAL {
            let same = match fields.get(key) {
                None => true,
                Some(Value::Bool(b)) => f64::from(u8::from(*b)) == plain,
                Some(value) => value.as_f64() == Some(plain),
            };
            if !same {
                return Err(fields.wrong(key, fields.get(key).unwrap_or(&Value::Null), format!("{plain}, or nothing")));
            }
        }
        let dim = fields.required_size("embedding_length", 1..=MAX_DIM)?;
        let hidden_dim = fields.required_size("feed_forward_length", 1..=MAX_HIDDEN_DIM)?;
        let n_layers = fields.required_size("block_count", 1..=MAX_LAYERS)?;
        let n_heads = fields.required_size("attention.head_count", 1..=MAX_HEADS)?;
        let n_kv_heads = fields.size("attention.head_count_kv", 1..=MAX_HEADS)?.unwrap_or(n_heads);
        let head_dim = match fields.size("attention.key_length", 1..=MAX_HEAD_DIM)? {
            Some(d) => d,
            None if dim.is_multiple_of(n_heads) => dim / n_heads,
            None => {
                let expected = format!("a multiple of attention.head_count {n_heads}, since key_length is not given");
                return Err(fields.error("embedding_length", dim.to_string(), expected));
            }
        };
        for key in ["attention.value_length", "rope.dimension_count"] {
            if let Some(other) = fields.size(key, 0..=MAX_HEAD_DIM)?.filter(|&n| n != head_dim) {
                let expected = format!("{head_dim}, the size of a head: other sizes are not supported");
                return Err(fields.error(key, other.to_string(), expected));
            }
        }
        let rows = checkpoint.info(&ConfigFormat::Gguf.embedding()).and_then(|t| t.shape.first().copied());
        let vocab_size = match rows.filter(|n| (1..=MAX_VOCAB).contains(n)) {
            Some(rows) => rows,
            None => fields.required_size("vocab_size", 1..=MAX_VOCAB)?,
        };
        let max_positions = fields.required_size("context_length", 1..=1 << 40)?;
        let window = fields.size("attention.sliding_window", 0..=u32::MAX as usize)?.filter(|&w| w > 0);
        let [qkv_bias, o_bias, mlp_bias] =
            ConfigFormat::Gguf.first_biases().map(|name| checkpoint.info(&name).is_some());
        let tokenizer = Tokens::new(metadata)?;
        let config = ModelConfig {
            architecture,
            format: ConfigFormat::Gguf,
            // llama.cpp's converter permutes the rows of this architecture only.
            interleaved: architecture == Architecture::Llama,
            dim,
            hidden_dim,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
            norm_eps: fields.required_positive("attention.layer_norm_rms_epsilon")?,
            rope: RopeConfig {
                theta: fields.positive("rope.freq_base")?.unwrap_or(10_000.0),
                scaling: scaling(&fields, checkpoint, max_positions)?,
            },
            tie_word_embeddings: checkpoint.info(&ConfigFormat::Gguf.output()).is_none(),
            qkv_bias: qkv_bias || architecture == Architecture::Qwen2,
            o_bias,
            mlp_bias,
            qk_norm: architecture == Architecture::Qwen3,
            windows: vec![window; n_layers],
            max_position_embeddings: max_positions,
            dtype: None,
            bos_token_id: tokenizer.bos,
            eos_token_ids: tokenizer.eos,
            quantization_group: None,
        };
        config.validate()?;
        Ok(config)
    }
}

/// `general.architecture`; Mistral's files call themselves `llama`.
fn architecture(metadata: &GgufMetadata) -> Result<Architecture, ModelError> {
    const KNOWN: [Architecture; 3] = [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];
    let found = metadata.text("general.architecture")?.unwrap_or_default();
    KNOWN.into_iter().find(|a| a.model_type() == found).ok_or_else(|| ModelError::UnknownArchitecture {
        file: FILE,
        found: found.to_owned(),
        known: KNOWN.map(Architecture::model_type).join(", "),
    })
}

/// `{ARCHITECTURE: {KEY: value, …}}`.
fn as_json(metadata: &GgufMetadata, architecture: &str) -> Value {
    let own = metadata.iter().filter_map(|(key, value)| {
        let key = key.strip_prefix(architecture)?.strip_prefix('.')?;
        Some((key.to_owned(), json(value)))
    });
    let own: Map<String, Value> = own.collect();
    let mut all = Map::new();
    if !own.is_empty() {
        all.insert(architecture.to_owned(), Value::Object(own));
    }
    Value::Object(all)
}

fn json(value: &GgufValue) -> Value {
    let integer = |n: i128| match (i64::try_from(n), u64::try_from(n)) {
        (Ok(n), _) => Value::from(n),
        (_, Ok(n)) => Value::from(n),
        _ => Value::from(n.to_string()),
    };
    match value {
        GgufValue::Int(n) => integer(*n),
        GgufValue::F32(x) => {
            let shortest = x.to_string().parse::<f64>().ok().and_then(Number::from_f64);
            shortest.map_or_else(|| Value::from(x.to_string()), Value::Number)
        }
        GgufValue::F64(x) => Number::from_f64(*x).map_or_else(|| Value::from(x.to_string()), Value::Number),
        GgufValue::Bool(b) => Value::from(*b),
        GgufValue::Text(s) => Value::from(s.as_str()),
        // One value a layer: the same for all is the value.
        GgufValue::Array(items) => match items.integers() {
            Some(list) => match list.first() {
                Some(first) if list.iter().all(|n| n == first) => Value::from(*first),
                _ => Value::from("a list of different numbers"),
            },
            None => Value::from("a list"),
        },
    }
}

fn scaling(fields: &Fields<'_>, checkpoint: &Checkpoint, max_positions: usize) -> Result<RopeScaling, ModelError> {
    const TYPE: &str = "rope.scaling.type";
    const FACTOR: &str = "rope.scaling.factor";
    let factors = factors(checkpoint)?;
    let name = fields.text(TYPE)?;
    if factors.is_some() && !matches!(name, None | Some("none" | "linear")) {
        return Err(fields.wrong(TYPE, fields.get(TYPE).unwrap_or(&Value::Null), "none, beside rope_freqs.weight"));
    }
    // Before there were types.
    let old = fields.positive("rope.scale_linear")?;
    match (name, factors) {
        (_, Some(factors)) => match fields.positive(FACTOR)?.or(old) {
            Some(factor) if factor != 1.0 => {
                Err(fields.error(FACTOR, factor.to_string(), "nothing, beside rope_freqs.weight"))
            }
            _ => Ok(RopeScaling::Factors(factors.into())),
        },
        (None | Some("none"), None) => Ok(match old {
            Some(factor) if factor != 1.0 => RopeScaling::Linear { factor },
            _ => RopeScaling::None,
        }),
        (Some("linear"), None) => Ok(match fields.required_positive(FACTOR)? {
            1.0 => RopeScaling::None,
            factor => RopeScaling::Linear { factor },
        }),
        (Some("yarn"), None) => {
            let factor = fields.required_positive(FACTOR)?;
            let original = fields.size("rope.scaling.original_context_length", 1..=MAX_POSITIONS)?;
            let strength = match fields.positive("rope.scaling.yarn_attn_factor")? {
                Some(f) => f,
                None => fields.positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
            };
            // Section 3.4 of the paper, which llama.cpp computes without being asked.
            let temperature = if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 };
            Ok(RopeScaling::Yarn {
                factor,
                beta_fast: fields.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: fields.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original_max_position_embeddings: original.unwrap_or(max_positions.min(MAX_POSITIONS)),
                attention_factor: temperature * strength,
                truncate: true,
            })
        }
        (Some(other), None) => Err(fields.error(TYPE, format!("\"{other}\""), "none, linear or yarn")),
    }
}

/// The tensor of frequency factors, if there is one.
fn factors(checkpoint: &Checkpoint) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(info) = checkpoint.info(ROPE_FREQS) else { return Ok(None) };
    if info.shape.iter().product::<usize>() > MAX_HEAD_DIM || !info.dtype.is_float() {
        return Err(ModelError::Field {
            file: FILE,
            field: ROPE_FREQS.to_owned(),
            found: format!("{} {:?}", info.encoding, info.shape),
            expected: format!("at most {MAX_HEAD_DIM} floats"),
        });
    }
    let bytes = read_all(CastSource::wrap(checkpoint.get(ROPE_FREQS)?, DType::F32).as_ref())?;
    Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
}

/// The special tokens of the tokenizer.
struct Tokens {
    bos: Option<i64>,
    eos: Vec<i64>,
}

impl Tokens {
    fn new(metadata: &GgufMetadata) -> Result<Tokens, ModelError> {
        let eos = metadata.u32("tokenizer.ggml.eos_token_id")?;
        // The end of a turn ends generation as well.
        let eot = metadata.u32("tokenizer.ggml.eot_token_id")?.filter(|id| eos != Some(*id));
        Ok(Tokens {
            bos: metadata.u32("tokenizer.ggml.bos_token_id")?.map(i64::from),
            eos: eos.into_iter().chain(eot).map(i64::from).collect(),
        })
    }
}
