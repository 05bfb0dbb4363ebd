//! The constant methods that a program carries beside `forward`.

use pteron_checkpoint::GenerationConfigFile;
use pteron_ir::{MetaValue, Module};
use serde_json::Value;

use crate::config::{ModelConfig, describe};
use crate::error::ModelError;
use crate::limits::MAX_METADATA;
use crate::options::BuildOptions;

/// The tokens that a runner must know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `get_bos_id`: the token before every text. Not written if `None`.
    pub bos: Option<i64>,
    /// `get_eos_ids`: the tokens at which generation stops. Not written if empty.
    pub eos: Vec<i64>,
}

impl SpecialTokens {
    /// The tokens that `generation_config.json` names, and where it names none those of the configuration.
    ///
    /// # Errors
    /// [`ModelError::Field`] for a token outside the vocabulary.
    pub fn new(config: &ModelConfig, generation: Option<&GenerationConfigFile>) -> Result<SpecialTokens, ModelError> {
        let bos = generation.and_then(|g| g.bos_token_id);
        let eos = generation.map_or(&[][..], |g| g.eos_token_ids.as_slice());
        let named = bos.iter().map(|id| ("bos_token_id", *id)).chain(eos.iter().map(|id| ("eos_token_id", *id)));
        for (field, id) in named {
            if usize::try_from(id).map_or(true, |id| id >= config.vocab_size) {
                return Err(ModelError::Field {
                    file: "generation_config.json",
                    field: field.to_owned(),
                    found: id.to_string(),
                    expected: format!("a token from 0 to {} (vocab_size of {})", config.vocab_size - 1, config.file()),
                });
            }
        }
        let eos = if eos.is_empty() { &config.eos_token_ids } else { eos };
        Ok(SpecialTokens { bos: bos.or(config.bos_token_id), eos: unique(eos) })
    }
}

/// Every id once, in the order of first appearance.
fn unique(ids: &[i64]) -> Vec<i64> {
    let mut out = Vec::new();
    for &id in ids {
        if !out.contains(&id) {
            out.push(id);
        }
    }
    out
}

/// Reads the constant methods that a user adds: an object of name to integer, float, boolean, string, or a list of those.
///
/// # Errors
/// [`ModelError::Metadata`] for anything else, for the name `forward`, and for more than is sensible.
pub fn parse_metadata(value: &Value) -> Result<Vec<(String, Vec<MetaValue>)>, ModelError> {
    let error = |name: &str, found: String, expected| ModelError::Metadata { name: name.to_owned(), found, expected };
    let Value::Object(entries) = value else {
        return Err(error("", describe(value), "an object of name to value"));
    };
    if entries.len() > MAX_METADATA {
        return Err(error("", format!("{} entries", entries.len()), "at most 4096 entries"));
    }
    let one = |name: &str, value: &Value| match value {
        Value::Bool(b) => Ok(MetaValue::Bool(*b)),
        Value::String(s) => Ok(MetaValue::Str(s.as_str().into())),
        Value::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Ok(MetaValue::Int(i)),
            (None, Some(f)) if n.is_f64() => Ok(MetaValue::Float(f)),
            _ => Err(error(name, n.to_string(), "an integer of 64 bits")),
        },
        other => Err(error(name, describe(other), "an integer, a float, a boolean, a string, or a list of those")),
    };
    let entry = |(name, value): (&String, &Value)| {
        if name.is_empty() || name == "forward" {
            return Err(error(name, "this name".into(), "a name that is neither empty nor a method of the model"));
        }
        let values = match value {
            Value::Array(items) if items.len() > MAX_METADATA => {
                return Err(error(name, describe(value), "at most 4096 values"));
            }
            Value::Array(items) => items.iter().map(|v| one(name, v)).collect::<Result<_, _>>()?,
            single => vec![one(name, single)?],
        };
        Ok((name.clone(), values))
    };
    entries.iter().map(entry).collect()
}

/// Writes the constant methods of ExecuTorch's runners, then the user's, which win.
pub(crate) fn write(module: &mut Module, config: &ModelConfig, options: &BuildOptions) {
    let int = |n: usize| vec![MetaValue::Int(i64::try_from(n).unwrap_or(i64::MAX))];
    module.set_metadata("get_max_seq_len", int(options.max_seq_length));
    module.set_metadata("get_max_context_len", int(options.max_context_length));
    module.set_metadata("get_n_layers", int(config.n_layers));
    module.set_metadata("get_vocab_size", int(config.vocab_size));
    module.set_metadata("use_kv_cache", vec![MetaValue::Bool(options.use_kv_cache)]);
    module.set_metadata("use_sdpa_with_kv_cache", vec![MetaValue::Bool(options.use_sdpa_with_kv_cache)]);
    module.set_metadata("enable_dynamic_shape", vec![MetaValue::Bool(options.dynamic_shape)]);
    if let Some(bos) = options.tokens.bos {
        module.set_metadata("get_bos_id", vec![MetaValue::Int(bos)]);
    }
    if !options.tokens.eos.is_empty() {
        module.set_metadata("get_eos_ids", options.tokens.eos.iter().map(|&id| MetaValue::Int(id)).collect());
    }
    for (name, values) in &options.metadata {
        module.set_metadata(name, values.clone());
    }
}
