//! Recipes: which quantization each layer of a model takes, as a file.
//!
//! A recipe has a base for the whole model and ordered rules. A rule has a regular expression that must match the whole of a
//! module path, and what it changes there; the first rule that matches counts. A rule that matches nothing, or nothing that
//! an earlier one has not taken, is an error. The command line's flags are the base of a recipe without rules.
//!
//! ```toml
//! quantization-mode = "8da4w"
//! group-size = 32
//! embedding-quantize = "4,32"
//!
//! [[rule]]
//! path = 'lm_head'
//! quantization-mode = "int8"
//!
//! [[rule]]
//! path = 'model\.layers\.(0|29)\.mlp\.down_proj'
//! keep-float = true
//! ```
//!
//! | key | where | meaning |
//! |---|---|---|
//! | `quantization-mode`, `group-size`, `weight-algorithm` | both | source transform of linear layers (`group-size` and `weight-algorithm` of embeddings as well, in a rule) |
//! | `embedding-quantize` | both | source transform of embeddings: `"BITS,GROUP"` |
//! | `pt2e-quantize` | both | PT2E schemes; in a rule one scheme, whose numbers these modules take |
//! | `quant-compat` | base | whose numbers: `et0.5`, `et1.5` |
//! | `rotate`, `optimized-rotation-path` | base | rotations: `"hadamard,SEED"`, or those of a file |
//! | `use-spin-quant` | base | `"native"`: a Hadamard transform in front of the feed-forward's last layer |
//! | `path` | rule | the regular expression |
//! | `keep-float` | rule | these modules are not quantized |
//! | `bits` | rule | bits of the weights' codes |
//! | `activation` | rule | `float`, `int8`, `uint8`, `int16`, `uint16` |
//! | `granularity` | rule, PT2E | `tensor`, `channel`, `group` (with `group-size`) of the weights |
//! | `observer`, `weight-observer` | rule, PT2E | the observer of the activations, of the weights, by its class name |

mod annotate;
mod parse;
mod print;
mod resolve;
mod rotate;
#[cfg(test)]
mod tests;

use std::fmt;

use regex_automata::meta::Regex;

use crate::scheme::{Compat, Scheme, SchemeSpecs};
use crate::spec::ObserverKind;
use crate::transform::{Algorithm, EmbeddingMode, LinearMode};

pub use annotate::RecipeQuantizer;
pub use parse::{MOST_RULES, linear_mode};
pub use resolve::{Plan, PlanLayer, Resolved};
pub use rotate::Rotate;

/// What a whole model takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Base {
    /// Linear layers, by a source transform.
    pub linear: Option<LinearMode>,
    /// Embeddings, by a source transform.
    pub embedding: Option<EmbeddingMode>,
    /// How source transforms choose scales; `None` for the way of each mode ([`LinearMode::default_algorithm`], and
    /// [`Algorithm::Hqq`] for embeddings).
    pub algorithm: Option<Algorithm>,
    /// PT2E schemes, with commas between them.
    pub pt2e: Option<String>,
    /// Whose numbers the schemes take.
    pub compat: Compat,
    /// Rotations of the float model, whose function stays as it is.
    pub rotate: Option<Rotate>,
    /// Whether a Hadamard transform stands in front of the feed-forward's last layer (ExecuTorch's `use_spin_quant native`).
    pub spin_quant: bool,
}

/// A regular expression for the whole of a module path.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Regex,
}

impl Pattern {
    /// The pattern of this text.
    ///
    /// # Errors
    /// A sentence, if it is no regular expression or too large a one.
    pub fn new(text: &str) -> Result<Pattern, String> {
        const MOST_BYTES: usize = 1 << 20;
        let config = Regex::config().nfa_size_limit(Some(MOST_BYTES));
        let whole = format!("^(?:{text})$");
        let built = Regex::builder().configure(config).build(&whole);
        let regex = built.map_err(|e| {
            // The parser's message shows the expression first and ends with what is wrong.
            let why = match e.syntax_error().map(ToString::to_string) {
                Some(e) => e.rsplit("error: ").next().unwrap_or(&e).trim().to_owned(),
                None => "it is too large".to_owned(),
            };
            format!("is no regular expression: {why}")
        })?;
        Ok(Pattern { text: text.to_owned(), regex })
    }

    /// Whether all of `path` matches.
    pub fn matches(&self, path: &str) -> bool {
        self.regex.is_match(path)
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}

/// Number format of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Not quantized.
    Float,
    /// −128..=127.
    Int8,
    /// 0..=255.
    UInt8,
    /// −32768..=32767.
    Int16,
    /// 0..=65535, in an int32 box as PT2E has it.
    UInt16,
}

impl Activation {
    /// All.
    pub const ALL: [Activation; 5] =
        [Activation::Float, Activation::Int8, Activation::UInt8, Activation::Int16, Activation::UInt16];

    /// As a recipe spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Activation::Float => "float",
            Activation::Int8 => "int8",
            Activation::UInt8 => "uint8",
            Activation::Int16 => "int16",
            Activation::UInt16 => "uint16",
        }
    }
}

/// Which parts of a weight have a scale of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightGranularity {
    /// The whole weight.
    Tensor,
    /// Each output channel.
    Channel,
    /// Each run of `group-size` columns of a row.
    Group,
}

impl WeightGranularity {
    /// All.
    pub const ALL: [WeightGranularity; 3] =
        [WeightGranularity::Tensor, WeightGranularity::Channel, WeightGranularity::Group];

    /// As a recipe spells it.
    pub const fn name(self) -> &'static str {
        match self {
            WeightGranularity::Tensor => "tensor",
            WeightGranularity::Channel => "channel",
            WeightGranularity::Group => "group",
        }
    }
}

/// What a rule changes; `None` leaves what the base says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// Not quantized.
    pub keep_float: bool,
    /// Name of a source transform.
    pub mode: Option<String>,
    /// Source transform of embeddings.
    pub embedding: Option<EmbeddingMode>,
    /// Name of a PT2E scheme.
    pub scheme: Option<String>,
    /// Bits of the weights' codes.
    pub bits: Option<u32>,
    /// Format of the activations.
    pub activation: Option<Activation>,
    /// Parts of a weight that have a scale.
    pub granularity: Option<WeightGranularity>,
    /// Columns of a group; 0 for whole rows.
    pub group: Option<usize>,
    /// How scales are chosen.
    pub algorithm: Option<Algorithm>,
    /// The activations' observer.
    pub observer: Option<ObserverKind>,
    /// The weights' observer.
    pub weight_observer: Option<ObserverKind>,
}

/// A rule: what changes where.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Where.
    pub path: Pattern,
    /// What.
    pub change: Change,
}

/// A recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// For the whole model.
    pub base: Base,
    /// In order; the first that matches a module counts.
    pub rules: Vec<Rule>,
}

/// What is wrong with a recipe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecipeError(pub String);

impl RecipeError {
    pub(crate) fn new(reason: impl fmt::Display) -> RecipeError {
        RecipeError(reason.to_string())
    }
}

impl Recipe {
    /// True if nothing is quantized.
    pub fn is_none(&self) -> bool {
        self.base.linear.is_none() && self.base.embedding.is_none() && self.base.pt2e.is_none() && self.rules.is_empty()
    }

    /// The rotations alone, nothing quantized: the float model that this recipe quantizes.
    #[must_use]
    pub fn float(&self) -> Recipe {
        let Base { rotate, spin_quant, .. } = self.base.clone();
        Recipe { base: Base { rotate, spin_quant, ..Base::default() }, rules: Vec::new() }
    }

    /// What is rotated, in a few words; `None` if nothing is.
    pub fn rotation(&self) -> Option<String> {
        let rotated = self.base.rotate.as_ref().map(|r| format!("rotated {r}"));
        let parts: Vec<String> =
            rotated.into_iter().chain(self.base.spin_quant.then(|| "spin quant".to_owned())).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The base's PT2E schemes.
    ///
    /// # Errors
    /// If one is not known, or two do not go together.
    pub fn schemes(&self) -> Result<Vec<&'static Scheme>, RecipeError> {
        match &self.base.pt2e {
            Some(list) => Scheme::parse_list(list).map_err(RecipeError::new),
            None => Ok(Vec::new()),
        }
    }

    pub(crate) fn specs(&self, scheme: &Scheme) -> Result<SchemeSpecs, RecipeError> {
        scheme.specs(self.base.compat).map_err(RecipeError::new)
    }

    /// Checks what can be checked without a model.
    ///
    /// # Errors
    /// A sentence that names the key, and the rule it is in.
    pub fn validate(&self) -> Result<(), RecipeError> {
        for scheme in self.schemes()? {
            self.specs(scheme)?;
        }
        if self.base.rotate.is_some() && self.uses_stored_codes() {
            let reason = "weight-algorithm stored takes the checkpoint's codes over, and codes cannot be rotated";
            return Err(RecipeError::new(reason));
        }
        if self.base.linear.is_some() && self.base.pt2e.is_some() {
            let reason = "--quantization-mode and --pt2e-quantize both quantize linear layers; give one of them";
            return Err(RecipeError::new(reason));
        }
        for number in 0..self.rules.len() {
            self.validate_rule(number)?;
        }
        Ok(())
    }

    fn uses_stored_codes(&self) -> bool {
        let stored = |a: Option<Algorithm>| a == Some(Algorithm::Stored);
        stored(self.base.algorithm) || self.rules.iter().any(|r| stored(r.change.algorithm))
    }

    /// `rule 2 (`lm_head`)`, as messages name it.
    pub(crate) fn rule_name(&self, number: usize) -> String {
        let path = self.rules.get(number).map_or("", |r| r.path.as_str());
        format!("rule {} (`{path}`)", number + 1)
    }

    fn validate_rule(&self, number: usize) -> Result<(), RecipeError> {
        let c = &self.rules[number].change;
        let wrong = |what: &str| Err(RecipeError(format!("{}: {what}", self.rule_name(number))));
        let only_pt2e = [
            ("pt2e-quantize", c.scheme.is_some()),
            ("granularity", c.granularity.is_some()),
            ("observer", c.observer.is_some()),
            ("weight-observer", c.weight_observer.is_some()),
        ];
        let only_transform = [("quantization-mode", c.mode.is_some()), ("weight-algorithm", c.algorithm.is_some())];
        let either = [
            ("embedding-quantize", c.embedding.is_some()),
            ("bits", c.bits.is_some()),
            ("activation", c.activation.is_some()),
            ("group-size", c.group.is_some()),
        ];
        let given = |list: &[(&'static str, bool)]| list.iter().find(|(_, given)| *given).map(|(name, _)| *name);
        let any = given(&only_pt2e).or(given(&only_transform)).or(given(&either));
        match (c.keep_float, any) {
            (true, Some(name)) => return wrong(&format!("keep-float and {name} contradict each other")),
            (false, None) => return wrong("it changes nothing; expected keep-float = true or another key"),
            _ => {}
        }
        let is_pt2e = self.base.pt2e.is_some();
        if let Some(name) = given(&only_pt2e).filter(|_| !is_pt2e) {
            return wrong(&format!("{name} is for PT2E schemes, and the recipe has no pt2e-quantize"));
        }
        // An embedding may be transformed in front of a PT2E scheme.
        if let Some(name) = given(&only_transform).filter(|_| is_pt2e && self.base.embedding.is_none()) {
            return wrong(&format!("{name} is for source transforms, and the recipe has pt2e-quantize"));
        }
        if let Some(name) = &c.scheme {
            let scheme = Scheme::find(name).map_err(|e| RecipeError(format!("{}: {e}", self.rule_name(number))))?;
            self.specs(scheme)?;
        }
        if let Some(bits) = c.bits
            && !matches!(bits, 2..=8 | 16)
        {
            return wrong(&format!("bits is {bits}, expected 2 to 8 or 16"));
        }
        match (c.granularity, c.group) {
            (Some(WeightGranularity::Group), None) => wrong("granularity \"group\" needs a group-size"),
            (Some(WeightGranularity::Tensor | WeightGranularity::Channel), Some(_)) => {
                wrong("group-size goes with granularity \"group\"")
            }
            _ => Ok(()),
        }?;
        if let Some(kind) = c.observer
            && (kind.is_per_channel() || kind.is_affine())
        {
            return wrong(&format!("{kind} does not observe activations: they have one scale for the whole tensor"));
        }
        // Bits may be meant for an embedding: they are looked at where the layers are known.
        if !is_pt2e && c.mode.is_some() {
            self.linear_choice(number)?;
        }
        Ok(())
    }

    /// True if a range of activations is learnt from calibration data, as far as it can be told without a model.
    ///
    /// # Errors
    /// As [`Recipe::validate`].
    pub fn needs_calibration(&self) -> Result<bool, RecipeError> {
        let mut schemes = self.schemes()?;
        for rule in &self.rules {
            if let Some(name) = &rule.change.scheme {
                schemes.push(Scheme::find(name).map_err(RecipeError::new)?);
            }
        }
        for scheme in schemes {
            if self.specs(scheme)?.needs_calibration() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What the recipe is in a few words: modes and schemes by their names, with group sizes, algorithm and number of rules.
    pub fn describe(&self) -> String {
        let mut names = Vec::new();
        if let Some(mode) = self.base.linear {
            let algorithm = self.base.algorithm.unwrap_or(mode.default_algorithm());
            names.push(describe_linear(mode, algorithm));
        }
        if let Some(e) = self.base.embedding {
            names.push(describe(
                &format!("embedding {} bits", e.bits),
                Some(e.group),
                Some(self.base.algorithm.unwrap_or_default()),
            ));
        }
        names.extend(self.base.pt2e.clone());
        if !self.is_none() {
            names.extend(self.rotation());
        }
        match self.rules.len() {
            0 => {}
            1 => names.push("1 rule".to_owned()),
            n => names.push(format!("{n} rules")),
        }
        names.join("; ")
    }
}

/// `int8`, `8da4w, groups of 32, mse`.
fn describe_linear(mode: LinearMode, algorithm: Algorithm) -> String {
    // The plain rule of `int8` goes without saying; so do the groups of codes that a checkpoint has.
    let algorithm = Some(algorithm).filter(|_| (mode, algorithm) != (LinearMode::Int8, Algorithm::Affine));
    describe(mode.name(), mode.group().filter(|_| algorithm != Some(Algorithm::Stored)), algorithm)
}

fn describe(name: &str, group: Option<usize>, algorithm: Option<Algorithm>) -> String {
    let group = match group {
        Some(0) => ", a scale for each row".to_owned(),
        Some(g) => format!(", groups of {g}"),
        None => String::new(),
    };
    let algorithm = algorithm.map_or_else(String::new, |a| format!(", {a}"));
    format!("{name}{group}{algorithm}")
}
