//! Where weights come from.

use std::collections::BTreeMap;

use pteron_checkpoint::gguf::GgmlBlocks;
use pteron_checkpoint::{CheckReport, Checkpoint, Expectations, ExpectedTensor, Shown};
use pteron_tensor::{RowMapSource, SharedSource, TensorSource};

use crate::config::{ConfigFormat, ModelConfig};
use crate::error::ModelError;
use crate::names::parameters;

/// Looks weights up by their names in the module. The builder checks sizes and element type, and converts elements lazily.
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

/// The weights of a checkpoint, all of them found and of the right sizes, under the module's names and in its row order.
#[derive(Clone, Debug)]
pub struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    /// By the module's name.
    found: BTreeMap<String, Found>,
    head_dim: usize,
    unexpected: Vec<String>,
    warnings: Vec<String>,
    tied: bool,
}

#[derive(Clone, Debug)]
struct Found {
    /// The name in the checkpoint.
    stored: String,
    interleaved: bool,
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
        let output = config.format.output();
        let mut harmless: Vec<String> = match config.format {
            ConfigFormat::HuggingFace => {
                ["*.rotary_emb.inv_freq", "*.self_attn.bias", "*.self_attn.masked_bias"].map(String::from).to_vec()
            }
            ConfigFormat::Meta | ConfigFormat::Llama2c => vec!["rope.freqs".to_owned()],
            // The configuration has them.
            ConfigFormat::Gguf => vec!["rope_freqs.weight".to_owned()],
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
        let wanted = parameters(&config);
        let expected: Vec<ExpectedTensor> = wanted
            .iter()
            .map(|p| ExpectedTensor {
                alternatives: p.stored.strip_prefix("model.").map(str::to_owned).into_iter().collect(),
                name: p.stored.clone(),
                shape: p.shape.clone(),
                required: true,
                because: p.because.clone(),
            })
            .collect();
        let expectations = Expectations { tensors: expected, harmless, allow_unexpected: options.allow_unexpected };
        let CheckReport { found_as, unexpected, .. } = checkpoint.check(&expectations)?;
        let found = wanted
            .into_iter()
            .zip(found_as)
            .map(|(p, found)| (p.name, Found { stored: found.unwrap_or(p.stored), interleaved: p.interleaved }));
        let (found, head_dim) = (found.collect(), config.head_dim);
        if !unexpected.is_empty() {
            let first = Shown(unexpected.first().map_or("", String::as_str)).to_string();
            warnings.push(format!("{} tensor(s) are not the model's and are left out: `{first}`…", unexpected.len()));
        }
        let tied = config.tie_word_embeddings;
        Ok(CheckpointWeights { checkpoint, found, head_dim, unexpected, warnings, tied })
    }

    /// Makes `config` say what the checkpoint has: whether the output layer is tied.
    pub fn configure(&self, config: &mut ModelConfig) {
        config.tie_word_embeddings = self.tied;
    }

    /// The blocks in which the checkpoint stores the weight `name` (the module's name), with none of them decoded; `None`
    /// where it has plain numbers, and for names that are not the model's. Row `i` of the module is row
    /// [`CheckpointWeights::stored_row`] of the blocks.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`].
    pub fn blocks(&self, name: &str) -> Result<Option<GgmlBlocks>, ModelError> {
        match self.found.get(name) {
            Some(found) => Ok(self.checkpoint.blocks(&found.stored)?),
            None => Ok(None),
        }
    }

    /// Which row of the stored weight `name` is row `row` of the module's: another one where the checkpoint has rotary
    /// pairs as neighbours.
    pub fn stored_row(&self, name: &str, row: usize) -> usize {
        match self.found.get(name) {
            Some(Found { interleaved: true, .. }) => interleaved_row(row, &[self.head_dim, 0]),
            _ => row,
        }
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
        let Some(found) = self.found.get(name) else { return Err(ModelError::MissingWeight(name.to_owned())) };
        let source = self.checkpoint.get(&found.stored)?;
        Ok(if found.interleaved { RowMapSource::wrap(source, interleaved_row, [self.head_dim, 0]) } else { source })
    }
}

/// Where row `row` of heads of `head_dim` rows, whose rotary pairs are half a head apart, lies where pairs are neighbours.
fn interleaved_row(row: usize, &[head_dim, _]: &[usize; 2]) -> usize {
    let (head, i, half) = (row / head_dim, row % head_dim, head_dim / 2);
    head * head_dim + if i < half { 2 * i } else { 2 * (i - half) + 1 }
}

/// True if the output layer's weight is the embedding's, element by element. False as well where the shapes differ, which
/// the check that follows tells with the file's name.
fn same_elements(checkpoint: &Checkpoint, config: &ModelConfig, output: &str) -> Result<bool, ModelError> {
    let name = config.format.embedding();
    let names = [name.as_str(), name.strip_prefix("model.").unwrap_or(&name)];
    let Some(embedding) = names.into_iter().find(|n| checkpoint.info(n).is_some()) else { return Ok(false) };
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
