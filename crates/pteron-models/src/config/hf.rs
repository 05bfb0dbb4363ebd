//! `config.json` of Hugging Face, with the defaults of transformers' configuration classes.

use pteron_tensor::DType;
use serde_json::Value;

use super::fields::Fields;
use super::{Architecture, ConfigFormat, ModelConfig, scaling};
use crate::error::ModelError;
use crate::limits::{MAX_DIM, MAX_HEAD_DIM, MAX_HEADS, MAX_HIDDEN_DIM, MAX_LAYERS, MAX_VOCAB};

/// In what the members of the family differ.
struct Family {
    architecture: Architecture,
    /// `num_key_value_heads` when the field is absent; `None` for `num_attention_heads`.
    kv_heads: Option<usize>,
    /// `head_dim` when the field is absent; `None` for `hidden_size / num_attention_heads`.
    head_dim: Option<usize>,
    /// `max_position_embeddings` when the field is absent.
    max_positions: usize,
    /// Biases of query, key and value without a field that asks for them.
    qkv_bias: bool,
    /// Whether `attention_bias` is a field: query, key, value and output.
    has_attention_bias: bool,
    /// Whether `mlp_bias` is a field.
    has_mlp_bias: bool,
    qk_norm: bool,
    window: Window,
    bos: Option<i64>,
    eos: Option<i64>,
}

#[derive(PartialEq)]
enum Window {
    /// `sliding_window` is no field.
    Never,
    /// `sliding_window`, 4096 when absent, holds for all layers; `null` is none.
    AllLayers,
    /// `sliding_window` holds if `use_sliding_window`, for `layer_types` or from `max_window_layers` on.
    ByLayer,
}

const DEFAULT_WINDOW: usize = 4096;
const DEFAULT_MAX_WINDOW_LAYERS: usize = 28;

static FAMILIES: [Family; 4] = [
    Family {
        architecture: Architecture::Llama,
        kv_heads: None,
        head_dim: None,
        max_positions: 2048,
        qkv_bias: false,
        has_attention_bias: true,
        has_mlp_bias: true,
        qk_norm: false,
        window: Window::Never,
        bos: Some(1),
        eos: Some(2),
    },
    Family {
        architecture: Architecture::Mistral,
        kv_heads: Some(8),
        head_dim: None,
        max_positions: 131_072,
        qkv_bias: false,
        has_attention_bias: false,
        has_mlp_bias: false,
        qk_norm: false,
        window: Window::AllLayers,
        bos: Some(1),
        eos: Some(2),
    },
    Family {
        architecture: Architecture::Qwen2,
        kv_heads: Some(32),
        head_dim: None,
        max_positions: 32_768,
        qkv_bias: true,
        has_attention_bias: false,
        has_mlp_bias: false,
        qk_norm: false,
        window: Window::ByLayer,
        bos: None,
        eos: None,
    },
    Family {
        architecture: Architecture::Qwen3,
        kv_heads: Some(32),
        head_dim: Some(128),
        max_positions: 32_768,
        qkv_bias: false,
        has_attention_bias: true,
        has_mlp_bias: false,
        qk_norm: true,
        window: Window::ByLayer,
        bos: None,
        eos: None,
    },
];

fn unknown(found: &str) -> ModelError {
    let known = FAMILIES.iter().map(|f| f.architecture.class_name()).collect::<Vec<_>>().join(", ");
    ModelError::UnknownArchitecture { file: "config.json", found: found.to_owned(), known }
}

fn family(fields: &Fields<'_>) -> Result<&'static Family, ModelError> {
    let model_type = fields.text("model_type")?;
    let by_type = |t: &str| FAMILIES.iter().find(|f| f.architecture.model_type() == t);
    let names: Vec<&str> = match fields.get("architectures") {
        None => Vec::new(),
        Some(Value::Array(items)) => {
            let text = |v: &'_ Value| v.as_str().map(str::to_owned);
            if items.iter().any(|v| text(v).is_none()) {
                return Err(fields.error("architectures", "a list with other things", "a list of strings"));
            }
            items.iter().filter_map(Value::as_str).collect()
        }
        Some(other) => return Err(fields.wrong("architectures", other, "a list of strings")),
    };
    let Some(first) = names.first() else {
        return match model_type {
            Some(t) => by_type(t).ok_or_else(|| unknown(t)),
            None => Err(fields.missing("architectures", "a list with the name of the model's class")),
        };
    };
    let found = names.iter().find_map(|n| FAMILIES.iter().find(|f| f.architecture.class_name() == *n));
    let family = found.ok_or_else(|| unknown(first))?;
    match model_type {
        Some(t) if t != family.architecture.model_type() => {
            let expected = format!("\"{}\", since architectures has {first}", family.architecture.model_type());
            Err(fields.error("model_type", format!("\"{t}\""), expected))
        }
        _ => Ok(family),
    }
}

fn windows(fields: &Fields<'_>, family: &Family, n_layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let most = usize::try_from(u32::MAX).unwrap_or(usize::MAX);
    let absent = !fields.keys().any(|(k, _)| k == "sliding_window");
    let window = || -> Result<Option<usize>, ModelError> {
        if absent { Ok(Some(DEFAULT_WINDOW)) } else { fields.size("sliding_window", 1..=most) }
    };
    match family.window {
        Window::Never => Ok(vec![None; n_layers]),
        Window::AllLayers => Ok(vec![window()?; n_layers]),
        Window::ByLayer => {
            let window = if fields.bool("use_sliding_window")? == Some(true) { window()? } else { None };
            let slides = match fields.get("layer_types") {
                Some(value) => layer_types(fields, value, n_layers)?,
                None => {
                    let given = fields.size("max_window_layers", 0..=usize::MAX)?;
                    let from = given.unwrap_or(DEFAULT_MAX_WINDOW_LAYERS);
                    (0..n_layers).map(|i| window.is_some() && i >= from).collect()
                }
            };
            if window.is_none()
                && let Some(i) = slides.iter().position(|s| *s)
            {
                let expected = "full_attention, since no sliding window is set";
                return Err(fields.error(&format!("layer_types[{i}]"), "\"sliding_attention\"", expected));
            }
            Ok(slides.into_iter().map(|s| window.filter(|_| s)).collect())
        }
    }
}

/// For each layer whether it slides.
fn layer_types(fields: &Fields<'_>, value: &Value, n_layers: usize) -> Result<Vec<bool>, ModelError> {
    let expected = format!("a list of {n_layers} (num_hidden_layers) strings");
    let Some(items) = value.as_array().filter(|items| items.len() == n_layers) else {
        return Err(fields.wrong("layer_types", value, expected));
    };
    let one = |(i, v): (usize, &Value)| match v.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(fields.wrong(&format!("layer_types[{i}]"), v, "full_attention or sliding_attention")),
    };
    items.iter().enumerate().map(one).collect()
}

fn dtype(fields: &Fields<'_>) -> Result<Option<DType>, ModelError> {
    let key = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let Some(name) = fields.text(key)? else { return Ok(None) };
    match name.parse::<DType>() {
        Ok(d @ (DType::F32 | DType::F16 | DType::BF16)) => Ok(Some(d)),
        _ => Err(fields.error(key, format!("\"{name}\""), "float32, float16 or bfloat16")),
    }
}

impl ModelConfig {
    /// Reads the object of a `config.json`.
    ///
    /// Absent fields have the defaults of transformers' configuration classes; sizes without which no model is described
    /// must be there. Fields that are not read (dropout, caching, training) have no influence on the forward pass.
    ///
    /// # Errors
    /// [`ModelError::UnknownArchitecture`] for a model of another family, [`ModelError::Field`] for a field that is
    /// missing, of another type, out of range, or asks for something that is not built.
    pub fn from_hf(config: &Value) -> Result<ModelConfig, ModelError> {
        let fields = Fields::new("config.json", config)?;
        let family = family(&fields)?;
        if let Some(q) = fields.object("quantization_config")? {
            let method = q.text("quant_method")?.unwrap_or("unnamed");
            return Err(q.error("quant_method", format!("\"{method}\""), "a checkpoint that is not quantized"));
        }
        if let Some(act) = fields.text("hidden_act")?
            && !matches!(act, "silu" | "swish")
        {
            return Err(fields.error("hidden_act", format!("\"{act}\""), "silu"));
        }
        let dim = fields.required_size("hidden_size", 1..=MAX_DIM)?;
        let hidden_dim = fields.required_size("intermediate_size", 1..=MAX_HIDDEN_DIM)?;
        let n_layers = fields.required_size("num_hidden_layers", 1..=MAX_LAYERS)?;
        let n_heads = fields.required_size("num_attention_heads", 1..=MAX_HEADS)?;
        let vocab_size = fields.required_size("vocab_size", 1..=MAX_VOCAB)?;
        let kv_written = fields.keys().any(|(k, _)| k == "num_key_value_heads");
        let kv_default = family.kv_heads.filter(|_| !kv_written).unwrap_or(n_heads);
        let n_kv_heads = fields.size("num_key_value_heads", 1..=MAX_HEADS)?.unwrap_or(kv_default);
        let head_dim = match (fields.size("head_dim", 1..=MAX_HEAD_DIM)?, family.head_dim) {
            (Some(d), _) | (None, Some(d)) => d,
            (None, None) if dim.is_multiple_of(n_heads) => dim / n_heads,
            (None, None) => {
                let expected = format!("a multiple of num_attention_heads {n_heads}, since head_dim is not given");
                return Err(fields.error("hidden_size", dim.to_string(), expected));
            }
        };
        let max_positions = fields.size("max_position_embeddings", 1..=1 << 40)?.unwrap_or(family.max_positions);
        let attention_bias = family.has_attention_bias && fields.bool("attention_bias")?.unwrap_or(false);
        let given = |key: &str| fields.keys().any(|(k, _)| k == key);
        let bos = match fields.integers("bos_token_id")?.as_slice() {
            [] if given("bos_token_id") => None,
            [] => family.bos.filter(|id| usize::try_from(*id).is_ok_and(|id| id < vocab_size)),
            [one] => Some(*one),
            many => return Err(fields.error("bos_token_id", format!("a list of {}", many.len()), "one integer")),
        };
        let mut eos = fields.integers("eos_token_id")?;
        if !given("eos_token_id") {
            eos.extend(family.eos.filter(|id| usize::try_from(*id).is_ok_and(|id| id < vocab_size)));
        }
        let config = ModelConfig {
            architecture: family.architecture,
            format: ConfigFormat::HuggingFace,
            interleaved: false,
            dim,
            hidden_dim,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size,
            norm_eps: fields.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope: scaling::read(&fields, max_positions)?,
            tie_word_embeddings: fields.bool("tie_word_embeddings")?.unwrap_or(false),
            qkv_bias: family.qkv_bias || attention_bias,
            o_bias: attention_bias,
            mlp_bias: family.has_mlp_bias && fields.bool("mlp_bias")?.unwrap_or(false),
            qk_norm: family.qk_norm,
            windows: windows(&fields, family, n_layers)?,
            max_position_embeddings: max_positions,
            dtype: dtype(&fields)?,
            bos_token_id: bos,
            eos_token_ids: eos,
            quantization_group: None,
        };
        config.validate()?;
        Ok(config)
    }
}
