//! What a program says about itself through its constant methods.
//!
//! A constant method takes no input and returns literals (`get_max_seq_len` → `128`). The defaults are those of
//! ExecuTorch's runners; the set of methods changed over time:
//!
//! | method | 0.5 exporter | current exporter | absent |
//! |---|---|---|---|
//! | `get_max_seq_len` | yes | yes (the current runner insists on it) | 128 |
//! | `get_max_context_len` | no | yes | `get_max_seq_len` |
//! | `use_kv_cache` | yes | yes | true |
//! | `use_sdpa_with_kv_cache` | yes | yes | false |
//! | `enable_dynamic_shape` | yes | yes | false |
//! | `get_vocab_size`, `get_n_layers` | yes | yes | unknown |
//! | `get_bos_id`, `get_eos_ids` | yes | no | the tokenizer's own |
//!
//! Programs of the static Llama have `get_eos_id`, one number, which counts where there is no `get_eos_ids`.

use std::collections::BTreeMap;

/// `get_max_seq_len` where a program does not have it.
pub const DEFAULT_MAX_SEQ_LEN: usize = 128;

/// One literal of a constant method.
#[derive(Clone, Debug, PartialEq)]
pub enum ConstantValue {
    /// An integer.
    Int(i64),
    /// A truth value.
    Bool(bool),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Str(String),
    /// A list of integers as one value.
    IntList(Vec<i64>),
}

impl ConstantValue {
    fn kind(&self) -> &'static str {
        match self {
            Self::Int(_) => "an integer",
            Self::Bool(_) => "a boolean",
            Self::Float(_) => "a float",
            Self::Str(_) => "a string",
            Self::IntList(_) => "a list of integers",
        }
    }
}

/// Constant methods by name; a list-valued method returns one value per element.
pub type ConstantMethods = BTreeMap<String, Vec<ConstantValue>>;

/// A constant method that does not say what its name promises.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The value has another type.
    #[error("constant method `{method}` returns {found}, expected {expected}")]
    Type {
        /// The method.
        method: &'static str,
        /// The type found.
        found: &'static str,
        /// The type expected.
        expected: &'static str,
    },
    /// The method returns no value, or several where one is expected.
    #[error("constant method `{method}` returns {found} values, expected 1")]
    Count {
        /// The method.
        method: &'static str,
        /// How many there are.
        found: usize,
    },
    /// The number makes no sense.
    #[error("constant method `{method}` returns {found}, expected {expected}")]
    Range {
        /// The method.
        method: &'static str,
        /// The number.
        found: i64,
        /// The range.
        expected: &'static str,
    },
}

/// The facts a runner needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelMetadata {
    /// Most tokens of one call, and of a sequence when there is no separate context length.
    pub max_seq_len: usize,
    /// Whether the program states `max_seq_len` itself: ExecuTorch's current runner refuses it otherwise.
    pub declares_max_seq_len: bool,
    /// Most tokens of a conversation.
    pub max_context_len: usize,
    /// Whether the program keeps keys and values between calls.
    pub use_kv_cache: bool,
    /// Whether attention is ExecuTorch's custom operator.
    pub use_sdpa_with_kv_cache: bool,
    /// Whether one call takes any number of tokens.
    pub enable_dynamic_shape: bool,
    /// The beginning-of-text id.
    pub bos_id: Option<u32>,
    /// The ids that end a text; `None` where the program does not say.
    pub eos_ids: Option<Vec<u32>>,
    /// Rows of the logits.
    pub vocab_size: Option<usize>,
    /// Transformer layers.
    pub n_layers: Option<usize>,
}

impl Default for ModelMetadata {
    /// The metadata of a program without constant methods.
    fn default() -> Self {
        Self {
            max_seq_len: DEFAULT_MAX_SEQ_LEN,
            declares_max_seq_len: false,
            max_context_len: DEFAULT_MAX_SEQ_LEN,
            use_kv_cache: true,
            use_sdpa_with_kv_cache: false,
            enable_dynamic_shape: false,
            bos_id: None,
            eos_ids: None,
            vocab_size: None,
            n_layers: None,
        }
    }
}

impl ModelMetadata {
    /// Reads the known methods and ignores others (`--metadata` may add any).
    pub fn from_constant_methods(methods: &ConstantMethods) -> Result<Self, MetadataError> {
        let reader = Reader(methods);
        let defaults = Self::default();
        let declared = reader.size("get_max_seq_len")?;
        let max_seq_len = declared.unwrap_or(defaults.max_seq_len);
        Ok(Self {
            max_seq_len,
            declares_max_seq_len: declared.is_some(),
            max_context_len: reader.size("get_max_context_len")?.unwrap_or(max_seq_len),
            use_kv_cache: reader.flag("use_kv_cache")?.unwrap_or(defaults.use_kv_cache),
            use_sdpa_with_kv_cache: reader.flag("use_sdpa_with_kv_cache")?.unwrap_or(defaults.use_sdpa_with_kv_cache),
            enable_dynamic_shape: reader.flag("enable_dynamic_shape")?.unwrap_or(defaults.enable_dynamic_shape),
            bos_id: reader.id("get_bos_id")?,
            eos_ids: reader.ids("get_eos_ids")?.or(reader.id("get_eos_id")?.map(|id| vec![id])),
            vocab_size: reader.size("get_vocab_size")?,
            n_layers: reader.size("get_n_layers")?,
        })
    }

    /// The ids that end a text: the program's list where it has one, else the tokenizer's own.
    pub fn resolve_eos_ids(&self, tokenizer_eos: Option<u32>) -> Vec<u32> {
        match &self.eos_ids {
            Some(ids) => ids.clone(),
            None => tokenizer_eos.into_iter().collect(),
        }
    }

    /// Whether the program declares what one with a ring cache does, shorter than the conversation: positions then have no
    /// upper end.
    pub fn is_ring(&self) -> bool {
        self.max_seq_len < self.max_context_len
    }
}

struct Reader<'a>(&'a ConstantMethods);

impl Reader<'_> {
    fn one(&self, method: &'static str) -> Result<Option<&ConstantValue>, MetadataError> {
        match self.0.get(method).map(Vec::as_slice) {
            None => Ok(None),
            Some([value]) => Ok(Some(value)),
            Some(values) => Err(MetadataError::Count { method, found: values.len() }),
        }
    }

    fn size(&self, method: &'static str) -> Result<Option<usize>, MetadataError> {
        let Some(value) = self.one(method)? else { return Ok(None) };
        let found = int(method, value)?;
        match i32::try_from(found) {
            Ok(size) if size > 0 => Ok(Some(size as usize)),
            _ => Err(MetadataError::Range { method, found, expected: "a positive 32-bit number" }),
        }
    }

    fn flag(&self, method: &'static str) -> Result<Option<bool>, MetadataError> {
        let Some(value) = self.one(method)? else { return Ok(None) };
        match *value {
            ConstantValue::Bool(flag) => Ok(Some(flag)),
            ConstantValue::Int(found @ (0 | 1)) => Ok(Some(found == 1)),
            ConstantValue::Int(found) => Err(MetadataError::Range { method, found, expected: "0 or 1" }),
            ref other => Err(MetadataError::Type { method, found: other.kind(), expected: "a boolean" }),
        }
    }

    fn id(&self, method: &'static str) -> Result<Option<u32>, MetadataError> {
        self.one(method)?.map(|value| token_id(method, int(method, value)?)).transpose()
    }

    fn ids(&self, method: &'static str) -> Result<Option<Vec<u32>>, MetadataError> {
        let Some(values) = self.0.get(method) else { return Ok(None) };
        let mut ids = Vec::new();
        for value in values {
            let found = match value {
                ConstantValue::IntList(list) => list.as_slice(),
                other => &[int(method, other)?],
            };
            for &id in found {
                let id = token_id(method, id)?;
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Ok(Some(ids))
    }
}

fn int(method: &'static str, value: &ConstantValue) -> Result<i64, MetadataError> {
    match value {
        ConstantValue::Int(value) => Ok(*value),
        other => Err(MetadataError::Type { method, found: other.kind(), expected: "an integer" }),
    }
}

fn token_id(method: &'static str, found: i64) -> Result<u32, MetadataError> {
    u32::try_from(found).map_err(|_| MetadataError::Range { method, found, expected: "a token id (0 or above)" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ConstantValue::{Bool, Float, Int, IntList, Str};

    fn read(methods: &[(&str, &[ConstantValue])]) -> Result<ModelMetadata, MetadataError> {
        let methods = methods.iter().map(|(name, values)| ((*name).to_owned(), values.to_vec())).collect();
        ModelMetadata::from_constant_methods(&methods)
    }

    #[test]
    fn nothing_declared_gives_executorchs_defaults() {
        let metadata = read(&[]).unwrap();
        assert_eq!(metadata, ModelMetadata::default());
        assert_eq!((metadata.max_seq_len, metadata.max_context_len), (128, 128));
        assert!(metadata.use_kv_cache && !metadata.enable_dynamic_shape && !metadata.use_sdpa_with_kv_cache);
    }

    #[test]
    fn seed_era_program() {
        let metadata = read(&[
            ("get_max_seq_len", &[Int(64)]),
            ("get_bos_id", &[Int(1)]),
            ("get_eos_ids", &[Int(2)]),
            ("use_kv_cache", &[Int(1)]),
            ("get_vocab_size", &[Int(512)]),
            ("get_n_layers", &[Int(5)]),
        ])
        .unwrap();
        assert_eq!(metadata.max_context_len, 64);
        assert!(!metadata.is_ring() && metadata.declares_max_seq_len);
        assert_eq!((metadata.bos_id, metadata.vocab_size, metadata.n_layers), (Some(1), Some(512), Some(5)));
        assert_eq!(metadata.resolve_eos_ids(Some(9)), [2]);
    }

    #[test]
    fn current_program_leaves_the_ids_to_the_tokenizer() {
        let metadata = read(&[
            ("get_max_seq_len", &[Int(128)]),
            ("get_max_context_len", &[Int(2048)]),
            ("use_kv_cache", &[Bool(true)]),
            ("enable_dynamic_shape", &[Bool(true)]),
            ("something_of_the_user", &[Str("x".into())]),
        ])
        .unwrap();
        assert!(metadata.is_ring() && metadata.enable_dynamic_shape);
        assert_eq!(metadata.resolve_eos_ids(Some(9)), [9]);
        assert!(metadata.resolve_eos_ids(None).is_empty());
    }

    #[test]
    fn a_static_llama_has_one_eos_id() {
        assert_eq!(read(&[("get_eos_id", &[Int(2)])]).unwrap().eos_ids, Some(vec![2]));
        assert_eq!(read(&[("get_eos_id", &[Int(2)]), ("get_eos_ids", &[Int(3)])]).unwrap().eos_ids, Some(vec![3]));
    }

    #[test]
    fn eos_ids_come_as_outputs_or_as_a_list() {
        let several = read(&[("get_eos_ids", &[Int(128_009), Int(128_001), Int(128_009)])]).unwrap();
        assert_eq!(several.eos_ids.as_deref(), Some([128_009, 128_001].as_slice()));
        let list = read(&[("get_eos_ids", &[IntList(vec![7, 8])])]).unwrap();
        assert_eq!(list.resolve_eos_ids(Some(1)), [7, 8]);
    }

    #[test]
    fn wrong_values_name_the_method() {
        for (methods, message) in [
            (("get_max_seq_len", vec![Float(1.0)]), "`get_max_seq_len` returns a float, expected an integer"),
            (("get_max_seq_len", vec![Int(0)]), "`get_max_seq_len` returns 0, expected a positive 32-bit number"),
            (("get_vocab_size", vec![Int(i64::MAX)]), "expected a positive 32-bit number"),
            (("get_bos_id", vec![Int(1), Int(2)]), "`get_bos_id` returns 2 values, expected 1"),
            (("get_bos_id", vec![]), "`get_bos_id` returns 0 values"),
            (("get_eos_ids", vec![Int(-1)]), "`get_eos_ids` returns -1, expected a token id"),
            (("use_kv_cache", vec![Str("yes".into())]), "`use_kv_cache` returns a string, expected a boolean"),
            (("use_kv_cache", vec![Int(2)]), "expected 0 or 1"),
        ] {
            let error = read(&[(methods.0, &methods.1)]).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
