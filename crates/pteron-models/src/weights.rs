//! Where weights come from.

use std::collections::BTreeMap;

use std::sync::Arc;

use pteron_checkpoint::gguf::GgmlBlocks;
use pteron_checkpoint::{CheckReport, Checkpoint, Expectations, ExpectedTensor, Shown};
use pteron_tensor::{
    CastSource, DType, GroupedCodes, MemorySource, RowMapSource, SharedSource, TensorSource, read_all,
};

use crate::config::{ConfigFormat, ModelConfig};
use crate::error::ModelError;
use crate::names::{EMBEDDING, OUTPUT, parameters};
use crate::rotate::Rotation;

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
#[derive(Clone, Debug, Default)]
pub struct WeightsOptions {
    /// Whether tensors that the model does not have are reported only ([`CheckpointWeights::unexpected`]) instead of
    /// being an error.
    pub allow_unexpected: bool,
    /// How matrices are read that have scales beside them; without it such a checkpoint is refused.
    pub pre_quantized: Option<PreQuantized>,
    /// Rotations that the weights are read with. The output layer is not tied to the embedding then.
    pub rotation: Option<Rotation>,
}

/// The layout of a pre-quantized checkpoint of Meta's: `NAME.weight` are codes in i8 `[rows, columns]` wherever there is a
/// `NAME.scales` beside it, of `[rows, columns / group]`. Codes are symmetric: a `NAME.zeros` must hold zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreQuantized {
    /// Columns of a group of a linear layer's codes, which have 4 bits.
    pub group: usize,
    /// Whether the output layer has codes of 8 bits and a scale for each row instead.
    pub output_of_8_bits: bool,
    /// Bits of the embedding's codes.
    pub embedding_bits: u32,
    /// Columns of a group of the embedding's codes; 0 for whole rows.
    pub embedding_group: usize,
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
    rotation: Option<Rotation>,
}

#[derive(Clone, Debug)]
struct Found {
    /// The name in the checkpoint.
    stored: String,
    interleaved: bool,
    codes: Option<Codes>,
}

/// How a weight that is stored as codes is read.
#[derive(Clone, Debug)]
struct Codes {
    /// What the tensors beside it begin with: `layers.0.attention.wq`.
    module: String,
    bits: u32,
    /// Columns of a group; 0 for whole rows.
    group: usize,
    /// What says so.
    because: &'static str,
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
    /// [`ModelError::Checkpoint`] that names every tensor that is missing, has other sizes, or is not the model's;
    /// [`ModelError::Codes`] and [`ModelError::Option`] where codes and [`PreQuantized`] contradict each other.
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
        if let (Some(stored), Some(layout)) = (config.quantization_group, options.pre_quantized)
            && stored != layout.group
        {
            let expected = format!("{stored}, the group_size in quantization_args of {}", config.file());
            return Err(ModelError::Option { option: "preq_group_size", found: layout.group.to_string(), expected });
        }
        let wanted = parameters(&config);
        let codes = wanted
            .iter()
            .map(|p| codes_of(checkpoint, &config, &p.stored, options.pre_quantized))
            .collect::<Result<Vec<_>, ModelError>>()?;
        for codes in codes.iter().flatten() {
            harmless.extend(["scales", "zeros"].map(|leaf| format!("{}.{leaf}", codes.module)));
        }
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
        let found = wanted.into_iter().zip(found_as).zip(codes).map(|((p, found), codes)| {
            let found = Found { stored: found.unwrap_or(p.stored), interleaved: p.interleaved, codes };
            (p.name, found)
        });
        let (found, head_dim) = (found.collect(), config.head_dim);
        if !unexpected.is_empty() {
            let first = Shown(unexpected.first().map_or("", String::as_str)).to_string();
            warnings.push(format!("{} tensor(s) are not the model's and are left out: `{first}`…", unexpected.len()));
        }
        let (tied, rotation) = (config.tie_word_embeddings, options.rotation.clone());
        Ok(CheckpointWeights { checkpoint, found, head_dim, unexpected, warnings, tied, rotation })
    }

    /// Makes `config` say what the checkpoint has: whether the output layer is tied.
    pub fn configure(&self, config: &mut ModelConfig) {
        config.tie_word_embeddings = self.tied && self.rotation.is_none();
    }

    /// The blocks in which the checkpoint stores the weight `name` (the module's name), with none of them decoded; `None`
    /// where it has plain numbers, and for names that are not the model's. Row `i` of the module is row
    /// [`CheckpointWeights::stored_row`] of the blocks.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`].
    pub fn blocks(&self, name: &str) -> Result<Option<GgmlBlocks>, ModelError> {
        match self.found.get(name) {
            Some(_) if self.rotation.is_some() => Ok(None),
            Some(found) => Ok(self.checkpoint.blocks(&found.stored)?),
            None => Ok(None),
        }
    }

    /// The weight `name` (the module's name, in its row order) as the codes and scales that the checkpoint has, of which
    /// [`Weights::get`] gives the products. The inner `Err` says why there are none.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`], and [`ModelError::Codes`] for codes that contradict [`PreQuantized`].
    pub fn codes(&self, name: &str) -> Result<Result<GroupedCodes, String>, ModelError> {
        if self.rotation.is_some() {
            return Ok(Err("it is rotated, which codes cannot be".to_owned()));
        }
        let Some(found) = self.found.get(name) else { return Err(ModelError::MissingWeight(name.to_owned())) };
        let codes = match (&found.codes, self.checkpoint.blocks(&found.stored)?) {
            (Some(codes), _) => codes.read(self.checkpoint, &found.stored)?,
            (None, Some(blocks)) => match blocks.codes() {
                Ok(codes) => codes,
                Err(why) => return Ok(Err(why)),
            },
            (None, None) => {
                let encoding = self.checkpoint.info(&found.stored).map_or("", |t| t.encoding.name());
                return Ok(Err(format!("it is stored as {encoding}, without codes")));
            }
        };
        Ok(Ok(if found.interleaved { codes.with_rows(interleaved_row, [self.head_dim, 0]) } else { codes }))
    }

    /// Which row of the stored weight `name` is row `row` of the module's: another one where the checkpoint has rotary
    /// pairs as neighbours.
    pub fn stored_row(&self, name: &str, row: usize) -> usize {
        match self.found.get(name) {
            Some(Found { interleaved: true, .. }) => interleaved_row(row, &[self.head_dim, 0]),
            _ => row,
        }
    }

    /// The weight `name` as the checkpoint has it; the embedding for the output layer that is tied to it.
    fn plain(&self, name: &str) -> Result<SharedSource, ModelError> {
        let tied = || self.found.get(EMBEDDING).filter(|_| self.tied && name == OUTPUT);
        let Some(found) = self.found.get(name).or_else(tied) else {
            return Err(ModelError::MissingWeight(name.to_owned()));
        };
        let source = match &found.codes {
            Some(codes) => codes.read(self.checkpoint, &found.stored)?.dequantized(),
            None => self.checkpoint.get(&found.stored)?,
        };
        Ok(if found.interleaved { RowMapSource::wrap(source, interleaved_row, [self.head_dim, 0]) } else { source })
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
    fn get(&self, name: &str, shape: &[usize]) -> Result<SharedSource, ModelError> {
        match &self.rotation {
            None => self.plain(name),
            Some(rotation) => rotation.weight(name, shape, &|name: &str, _: &[usize]| self.plain(name)),
        }
    }
}

/// How the weight `stored` is read if it is one with scales beside it.
fn codes_of(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    stored: &str,
    layout: Option<PreQuantized>,
) -> Result<Option<Codes>, ModelError> {
    let Some(module) = stored.strip_suffix(".weight") else { return Ok(None) };
    let is_codes = checkpoint.info(stored).is_some_and(|t| t.dtype == DType::I8);
    let scales = checkpoint.info(&format!("{module}.scales")).is_some();
    let wrong = |reason: &str| Err(ModelError::Codes { name: stored.to_owned(), reason: reason.to_owned() });
    let layout = match (is_codes, scales, layout) {
        (false, false, _) | (false, true, None) => return Ok(None),
        (true, true, Some(layout)) => layout,
        (true, true, None) => {
            return wrong("it is quantized already, i8 with scales beside it: say how with --preq-mode");
        }
        (true, false, _) => return wrong(&format!("it is i8, and there is no `{module}.scales` beside it")),
        (false, true, Some(_)) => return wrong(&format!("there is a `{module}.scales` beside it, and it is not i8")),
    };
    let (bits, group, because) = match stored {
        _ if stored == config.format.embedding() => {
            (layout.embedding_bits, layout.embedding_group, "--preq-embedding-quantize")
        }
        _ if layout.output_of_8_bits && stored == config.format.output() => (8, 0, "--preq-mode 8da4w_output_8da8w"),
        _ => (4, layout.group, "--preq-group-size"),
    };
    Ok(Some(Codes { module: module.to_owned(), bits, group, because }))
}

impl Codes {
    fn read(&self, checkpoint: &Checkpoint, stored: &str) -> Result<GroupedCodes, ModelError> {
        let wrong = |reason: String| ModelError::Codes { name: stored.to_owned(), reason };
        let codes = checkpoint.get(stored)?;
        let &[rows, columns] = codes.shape() else {
            return Err(wrong(format!("codes of shape {:?}, expected a matrix", codes.shape())));
        };
        let numbers = |leaf: &str| -> Result<Option<Vec<f32>>, ModelError> {
            let name = format!("{}.{leaf}", self.module);
            if checkpoint.info(&name).is_none() {
                return Ok(None);
            }
            let source = CastSource::wrap(checkpoint.get(&name)?, DType::F32);
            let bytes = read_all(source.as_ref())?;
            Ok(Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()))
        };
        let group = if self.group == 0 { columns } else { self.group };
        if group == 0 || !columns.is_multiple_of(group) {
            return Err(wrong(format!("groups of {group} ({}) do not divide its {columns} columns", self.because)));
        }
        let (groups, scales) = (columns / group, numbers("scales")?.unwrap_or_default());
        if scales.len() != rows * groups {
            let (found, expected) = (scales.len(), rows * groups);
            let (module, because) = (&self.module, self.because);
            return Err(wrong(format!(
                "`{module}.scales` has {found} elements for {rows} rows of {columns} codes, expected {expected} for groups of \
                 {group} ({because})"
            )));
        }
        if let Some(zero) = numbers("zeros")?.and_then(|zeros| zeros.into_iter().find(|z| *z != 0.0)) {
            let module = &self.module;
            return Err(wrong(format!(
                "`{module}.zeros` has {zero}; codes are symmetric, and all zero points must be 0"
            )));
        }
        let label = format!("{}.scales", self.module);
        let scales = MemorySource::of(&label, &[rows, groups], &scales)?;
        GroupedCodes::new(codes, Arc::new(scales), self.bits).map_err(wrong)
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
