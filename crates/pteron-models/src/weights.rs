//! Where weights come from.

use std::collections::BTreeMap;

use pteron_checkpoint::{CheckReport, Checkpoint, Expectations, ExpectedTensor, Shown};
use pteron_tensor::{SharedSource, TensorSource};

use crate::config::{ConfigFormat, ModelConfig};
use crate::error::ModelError;
use crate::names::parameters;

/// Looks weights up by their names. The builder checks sizes and element type, and converts elements lazily.
pub trait Weights {
    /// The weight `name`, which the model needs with sizes `shape`.
    ///
    /// # Errors
    /// [`ModelError`] if there is none.
    fn get(&self, name: &str, shape: &[usize]) -> Result<SharedSource, ModelError>;
}

impl<F: Fn(&str, &[usize]) -> Result<SharedSource, ModelError>> Weights for F {
    fn get(&self, name: &str, shape: &[usize]) -> Result<SharedSource, ModelError> {
        self(name, shape)
    }
}

/// How a checkpoint's tensors are compared with a model's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsOptions {
    /// Whether tensors that the model does not have are reported only ([`CheckpointWeights::unexpected`]) instead of
    /// being an error.
    pub allow_unexpected: bool,
}

/// The weights of a checkpoint, all of them found and of the right sizes.
#[derive(Clone, Debug)]
pub struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    /// The model's names to those in the checkpoint, where they differ.
    renamed: BTreeMap<String, String>,
    unexpected: Vec<String>,
    warnings: Vec<String>,
    tied: bool,
}

/// Rows of a table that are compared at once.
const COMPARED_BYTES: usize = 1 << 20;

impl<'a> CheckpointWeights<'a> {
    /// Checks that `checkpoint` has every weight that `config` implies. Hugging Face names may lack the leading `model.`,
    /// as where only the base model was saved.
    ///
    /// Where the configuration ties the output layer to the embedding and the checkpoint has both, they are compared; if
    /// they differ, both are used, as `transformers` does: see [`CheckpointWeights::configure`].
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] that names every tensor that is missing, has other sizes, or is not the model's.
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &ModelConfig,
        options: &WeightsOptions,
    ) -> Result<CheckpointWeights<'a>, ModelError> {
        let mut config = config.clone();
        let mut warnings = Vec::new();
        let output = format!("{}.weight", config.format.modules().output);
        let mut harmless: Vec<String> = match config.format {
            ConfigFormat::HuggingFace => {
                ["*.rotary_emb.inv_freq", "*.self_attn.bias", "*.self_attn.masked_bias"].map(String::from).to_vec()
            }
            ConfigFormat::Meta => vec!["rope.freqs".to_owned()],
        };
        if config.tie_word_embeddings && checkpoint.info(&output).is_some() {
            if same_elements(checkpoint, &config, &output)? {
                harmless.push(output);
            } else {
                config.tie_word_embeddings = false;
                warnings.push(format!(
                    "{} ties the output layer to the embedding, but `{output}` differs from it: both are used",
                    config.file()
                ));
            }
        }
        let expected: Vec<ExpectedTensor> = parameters(&config)
            .into_iter()
            .map(|p| ExpectedTensor {
                alternatives: p.name.strip_prefix("model.").map(str::to_owned).into_iter().collect(),
                name: p.name,
                shape: p.shape,
                required: true,
                because: p.because,
            })
            .collect();
        let expectations = Expectations { tensors: expected, harmless, allow_unexpected: options.allow_unexpected };
        let CheckReport { found_as, unexpected, .. } = checkpoint.check(&expectations)?;
        let renamed = expectations
            .tensors
            .into_iter()
            .zip(found_as)
            .filter_map(|(t, found)| found.filter(|f| *f != t.name).map(|f| (t.name, f)))
            .collect();
        if !unexpected.is_empty() {
            let first = Shown(unexpected.first().map_or("", String::as_str)).to_string();
            warnings.push(format!("{} tensor(s) are not the model's and are left out: `{first}`…", unexpected.len()));
        }
        Ok(CheckpointWeights { checkpoint, renamed, unexpected, warnings, tied: config.tie_word_embeddings })
    }

    /// Makes `config` say what the checkpoint has: whether the output layer is tied.
    pub fn configure(&self, config: &mut ModelConfig) {
        config.tie_word_embeddings = self.tied;
    }

    /// Tensors of the checkpoint that the model does not have, sorted by name.
    pub fn unexpected(&self) -> &[String] {
        &self.unexpected
    }

    /// What is odd about the weights without making them unusable, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

impl Weights for CheckpointWeights<'_> {
    fn get(&self, name: &str, _shape: &[usize]) -> Result<SharedSource, ModelError> {
        let name = self.renamed.get(name).map_or(name, String::as_str);
        Ok(self.checkpoint.get(name)?)
    }
}

/// True if the output layer's weight is the embedding's, element by element. False as well where the shapes differ, which
/// the check that follows tells with the file's name.
fn same_elements(checkpoint: &Checkpoint, config: &ModelConfig, output: &str) -> Result<bool, ModelError> {
    let modules = config.format.modules();
    let names = [format!("{}.{}.weight", modules.root, modules.embedding), format!("{}.weight", modules.embedding)];
    let Some(embedding) = names.iter().find(|n| checkpoint.info(n).is_some()) else { return Ok(false) };
    let (a, b) = (checkpoint.get(embedding)?, checkpoint.get(output)?);
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return Ok(false);
    }
    if let (Some(x), Some(y)) = (a.as_slice(), b.as_slice()) {
        return Ok(x == y);
    }
    let step = (COMPARED_BYTES / a.row_bytes().max(1)).max(1);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    let read = |source: &dyn TensorSource, rows: std::ops::Range<usize>, out: &mut Vec<u8>| {
        out.resize(rows.len().saturating_mul(source.row_bytes()), 0);
        source.read_rows(rows, out)
    };
    for start in (0..a.rows()).step_by(step) {
        let rows = start..a.rows().min(start + step);
        read(a.as_ref(), rows.clone(), &mut x)?;
        read(b.as_ref(), rows, &mut y)?;
        if x != y {
            return Ok(false);
        }
    }
    Ok(true)
}
