//! The quantization schemes by their `--pt2e-quantize` names, as a table.
//!
//! A scheme is a list of rules: which operators, and the [`QuantizationConfig`] that their tensors take. The numbers are those
//! of ExecuTorch's own quantizers; for release 1.5 a test compares each field with what they say when they are asked. Where
//! release 0.5 has other numbers, [`Compat::ExecuTorch0_5`] gives those.

mod explain;
mod qnn;
mod table;

use std::fmt;

use thiserror::Error;

pub use explain::{Explanation, Field, RuleExplanation, TensorExplanation, Value, explain};
pub use qnn::{ModuleQConfig, QuantDtype};

use crate::annotation::QuantizationConfig;
use crate::near::{did_you_mean, suggestions};

/// Whose numbers a scheme takes, where ExecuTorch's releases differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compat {
    /// Release 0.5.
    ExecuTorch0_5,
    /// Release 1.5.
    #[default]
    ExecuTorch1_5,
}

impl Compat {
    /// All.
    pub const ALL: [Compat; 2] = [Compat::ExecuTorch0_5, Compat::ExecuTorch1_5];

    /// As `--quant-compat` spells it: `et0.5`.
    pub const fn name(self) -> &'static str {
        match self {
            Compat::ExecuTorch0_5 => "et0.5",
            Compat::ExecuTorch1_5 => "et1.5",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Compat> {
        Compat::ALL.into_iter().find(|c| c.name() == name)
    }
}

impl fmt::Display for Compat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Passes over the whole graph that a scheme adds to its rules (`backends/qualcomm/quantizer/custom_annotation.py`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CustomAnnotation {
    /// The second operand of attention's matrix products, back to the cache that was written in place, is 8-bit:
    /// `custom_annotate_llama_matmul_16a8w`. Where no such cache is on the way, as [`CustomAnnotation::Kv8bit`].
    LlamaMatmul16a8w,
    /// The second operand of attention's matrix products is 8-bit back to the rotary embedding of keys and to the linear layer
    /// of values: `annotate_kv_8bit`.
    Kv8bit,
    /// The last linear layer has 8-bit weights per channel: `custom_annotate_llama_last_conv_16a8w`.
    LlamaLastConv16a8w,
    /// The second operand of every matrix product is 8-bit: `custom_annotate_matmul_16a8w`.
    Matmul16a8w,
}

impl CustomAnnotation {
    /// ExecuTorch's name of the function.
    pub const fn name(self) -> &'static str {
        match self {
            CustomAnnotation::LlamaMatmul16a8w => "custom_annotate_llama_matmul_16a8w",
            CustomAnnotation::Kv8bit => "annotate_kv_8bit",
            CustomAnnotation::LlamaLastConv16a8w => "custom_annotate_llama_last_conv_16a8w",
            CustomAnnotation::Matmul16a8w => "custom_annotate_matmul_16a8w",
        }
    }
}

/// On which operators a rule applies. The first rule of a scheme that applies is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AppliesTo {
    /// Operators whose weight has an entry in the block-size map.
    BlockSizeMap,
    /// Convolutions and linears.
    ConvAndLinear,
    /// Linears.
    Linear,
    /// Embeddings.
    Embedding,
    /// Every operator that the quantizer knows.
    Everything,
}

impl AppliesTo {
    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            AppliesTo::BlockSizeMap => "operators in the block-size map",
            AppliesTo::ConvAndLinear => "conv1d, conv2d, conv3d, conv_transpose2d, conv_transpose3d, linear",
            AppliesTo::Linear => "linear",
            AppliesTo::Embedding => "embedding",
            AppliesTo::Everything => "every operator that the quantizer knows",
        }
    }
}

/// Whose quantizer says how the operators of [`AppliesTo::Everything`] are annotated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Patterns {
    /// `XNNPACKQuantizer`.
    Xnnpack,
    /// `QnnQuantizer`, with what it puts on modules.
    Qnn(ModuleQConfig),
    /// `CoreMLQuantizer`.
    CoreMl,
    /// Arm's `TOSAQuantizer` and those made from it.
    Arm,
}

/// A rule of a scheme.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its name: `operator`, `per_channel`, `per_block`.
    pub name: &'static str,
    /// Where it applies.
    pub applies_to: AppliesTo,
    /// What it puts there.
    pub config: QuantizationConfig,
}

/// The numbers of a scheme.
#[derive(Clone, Debug, PartialEq)]
pub struct SchemeSpecs {
    /// The rules; the first that applies is taken.
    pub rules: Vec<Rule>,
    /// Whose patterns.
    pub patterns: Patterns,
    /// Passes over the whole graph, after the rules.
    pub custom_annotations: Vec<CustomAnnotation>,
    /// What the numbers do not say.
    pub notes: Vec<&'static str>,
}

impl SchemeSpecs {
    /// The rule of that name.
    pub fn rule(&self, name: &str) -> Option<&Rule> {
        self.rules.iter().find(|r| r.name == name)
    }

    /// True if a tensor's range is learnt from calibration data: an activation that is neither dynamic nor fixed.
    pub fn needs_calibration(&self) -> bool {
        let activations = |r: &Rule| [r.config.input_activation.clone(), r.config.output_activation.clone()];
        self.rules.iter().flat_map(activations).flatten().any(|s| !s.is_dynamic && s.observer.kind.needs_data())
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scheme {
    /// The name for `--pt2e-quantize`.
    pub name: &'static str,
    /// The backend that it is made for.
    pub backend: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    specs: Numbers,
}

#[derive(Clone, Copy, Debug)]
enum Numbers {
    /// The same in all releases.
    Always(fn() -> SchemeSpecs),
    /// Different ones.
    ByRelease(fn(Compat) -> SchemeSpecs),
    /// Release 0.5 has no such scheme.
    Since1_5(fn() -> SchemeSpecs),
    /// ExecuTorch has it, this does not, because of this.
    Unsupported(&'static str),
}

/// Why there is no scheme.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SchemeError {
    /// No such name.
    #[error("there is no quantization scheme {name:?}{}; `pteron explain-scheme` lists them", did_you_mean(.suggestions))]
    Unknown {
        /// The name.
        name: String,
        /// Names that look like it, nearest first.
        suggestions: Vec<&'static str>,
    },
    /// A scheme of ExecuTorch that is not implemented.
    #[error("the scheme {name} is ExecuTorch's, and not implemented here: {why}")]
    Unsupported {
        /// The name.
        name: &'static str,
        /// Why.
        why: &'static str,
    },
    /// A scheme that came after a release.
    #[error("the scheme {name} is not in ExecuTorch 0.5, so that --quant-compat et0.5 has no numbers for it")]
    NotInRelease {
        /// The name.
        name: &'static str,
    },
    /// Two schemes for the same operators.
    #[error("{0} and {1} both quantize linears; give one of them")]
    Conflict(&'static str, &'static str),
    /// A name is there twice, or none is.
    #[error("{0:?} is no list of schemes: expected names with commas between them, each once")]
    List(String),
}

impl Scheme {
    /// All schemes, in the order in which help lists them.
    pub fn all() -> &'static [Scheme] {
        table::SCHEMES
    }

    /// The scheme of that name.
    ///
    /// # Errors
    /// If there is none: with names that look like it.
    pub fn find(name: &str) -> Result<&'static Scheme, SchemeError> {
        let found = table::SCHEMES.iter().find(|s| s.name == name);
        found.ok_or_else(|| SchemeError::Unknown {
            name: name.to_owned(),
            suggestions: suggestions(name, table::SCHEMES.iter().map(|s| s.name)),
        })
    }

    /// The schemes of a list with commas, as `xnnpack_dynamic,embedding`.
    ///
    /// # Errors
    /// If a name is unknown or there twice, or two of them quantize the same operators.
    pub fn parse_list(text: &str) -> Result<Vec<&'static Scheme>, SchemeError> {
        let mut out: Vec<&'static Scheme> = Vec::new();
        for name in text.split(',').map(str::trim) {
            if name.is_empty() {
                return Err(SchemeError::List(text.to_owned()));
            }
            let scheme = Scheme::find(name)?;
            if out.iter().any(|s| s.name == scheme.name) {
                return Err(SchemeError::List(text.to_owned()));
            }
            // An embedding goes with anything; the others all quantize linears.
            if scheme.name != "embedding"
                && let Some(other) = out.iter().find(|s| s.name != "embedding")
            {
                return Err(SchemeError::Conflict(other.name, scheme.name));
            }
            out.push(scheme);
        }
        Ok(out)
    }

    /// Its numbers.
    ///
    /// # Errors
    /// If it is not implemented, or not in that release.
    pub fn specs(&self, compat: Compat) -> Result<SchemeSpecs, SchemeError> {
        match (self.specs, compat) {
            (Numbers::Always(f), _) | (Numbers::Since1_5(f), Compat::ExecuTorch1_5) => Ok(f()),
            (Numbers::ByRelease(f), c) => Ok(f(c)),
            (Numbers::Since1_5(_), Compat::ExecuTorch0_5) => Err(SchemeError::NotInRelease { name: self.name }),
            (Numbers::Unsupported(why), _) => Err(SchemeError::Unsupported { name: self.name, why }),
        }
    }

    /// Why it is not implemented; `None` if it is.
    pub fn unsupported(&self) -> Option<&'static str> {
        match self.specs {
            Numbers::Unsupported(why) => Some(why),
            Numbers::Always(_) | Numbers::ByRelease(_) | Numbers::Since1_5(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
