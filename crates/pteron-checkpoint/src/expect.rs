//! Comparing the tensors of a checkpoint with those that a model needs.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::error::{CheckpointError, Shown, did_you_mean};

/// A tensor that a model needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpectedTensor {
    /// Its usual name.
    pub name: String,
    /// Its sizes.
    pub shape: Vec<usize>,
    /// Whether the model cannot do without it.
    pub required: bool,
    /// Other names under which it may be found, tried in order after the usual one.
    pub alternatives: Vec<String>,
    /// Where the sizes come from, for messages: `vocab_size 512 × hidden_size 64 of config.json`. May be empty.
    pub because: String,
}

impl ExpectedTensor {
    /// A required tensor without other names.
    pub fn required(name: impl Into<String>, shape: &[usize], because: impl Into<String>) -> ExpectedTensor {
        ExpectedTensor {
            name: name.into(),
            shape: shape.to_vec(),
            required: true,
            alternatives: Vec::new(),
            because: because.into(),
        }
    }
}

/// The tensors that a model needs, and what else may lie beside them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expectations {
    /// The tensors.
    pub tensors: Vec<ExpectedTensor>,
    /// Names that are known to do no harm; `*` stands for any characters: `*.rotary_emb.inv_freq`.
    pub harmless: Vec<String>,
    /// Whether any other tensor is reported only, instead of being an error.
    pub allow_unexpected: bool,
}

/// What was found by a check that passed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CheckReport {
    /// For each expected tensor, in order, the name under which it is there; `None` for an absent optional one.
    pub found_as: Vec<Option<String>>,
    /// Tensors that match a harmless pattern.
    pub harmless: Vec<String>,
    /// Tensors that nothing expects, if those are allowed.
    pub unexpected: Vec<String>,
}

/// A required tensor that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingTensor {
    /// Its usual name.
    pub name: String,
    /// The other names tried.
    pub alternatives: Vec<String>,
    /// The file that would have it: the index, or the only file of weights.
    pub place: PathBuf,
    /// A name that is there, that nothing expects and that looks like it.
    pub near: Option<String>,
}

/// A tensor of other sizes than the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongShape {
    /// The name under which it is there.
    pub name: String,
    /// The file that has it.
    pub file: PathBuf,
    /// Its sizes there.
    pub found: Vec<usize>,
    /// The sizes needed.
    pub expected: Vec<usize>,
    /// Where those come from.
    pub because: String,
}

/// Everything in which a checkpoint's tensors differ from those expected. Its text shows the first of each kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TensorMismatches {
    /// What was opened.
    pub checkpoint: PathBuf,
    /// Required tensors that are not there.
    pub missing: Vec<MissingTensor>,
    /// Tensors of other sizes.
    pub wrong_shape: Vec<WrongShape>,
    /// Tensors that nothing expects, each with the file that has it.
    pub unexpected: Vec<(String, PathBuf)>,
}

impl std::error::Error for TensorMismatches {}

impl fmt::Display for TensorMismatches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TensorMismatches { checkpoint, missing, wrong_shape, unexpected } = self;
        write!(
            f,
            "{}: the tensors do not fit the model: {} missing, {} of another shape, {} unexpected",
            checkpoint.display(),
            missing.len(),
            wrong_shape.len(),
            unexpected.len()
        )?;
        show(f, missing, |f, m| {
            write!(f, "missing `{}`", Shown(&m.name))?;
            if !m.alternatives.is_empty() {
                write!(f, " (also looked for: {})", crate::error::listed(&m.alternatives))?;
            }
            write!(f, ": not in {}{}", m.place.display(), did_you_mean(m.near.as_deref()))
        })?;
        show(f, wrong_shape, |f, w| {
            let (name, file) = (Shown(&w.name), w.file.display());
            write!(f, "`{name}` has shape {:?} in {file}, expected {:?}", w.found, w.expected)?;
            if w.because.is_empty() { Ok(()) } else { write!(f, " from {}", w.because) }
        })?;
        show(f, unexpected, |f, (name, file)| write!(f, "unexpected `{}` in {}", Shown(name), file.display()))
    }
}

/// A line for each of the first items, and one for the rest.
fn show<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    line: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    const MOST: usize = 12;
    for item in items.iter().take(MOST) {
        f.write_str("\n  ")?;
        line(f, item)?;
    }
    if items.len() > MOST { write!(f, "\n  … and {} more like this", items.len() - MOST) } else { Ok(()) }
}

impl Checkpoint {
    /// Compares names and shapes with those that a model needs. All differences are collected.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] if a required tensor is missing, a tensor has other sizes, or (unless allowed) a
    /// tensor is there that is neither expected nor harmless.
    pub fn check(&self, expected: &Expectations) -> Result<CheckReport, CheckpointError> {
        let mut report = CheckReport::default();
        let mut wrong = TensorMismatches { checkpoint: self.path().to_owned(), ..TensorMismatches::default() };
        let mut used = BTreeSet::new();
        let mut absent = Vec::new();
        for tensor in &expected.tensors {
            let names = std::iter::once(&tensor.name).chain(&tensor.alternatives);
            let found = names.filter_map(|n| self.info(n)).next();
            report.found_as.push(found.map(|t| t.name.to_owned()));
            match found {
                None if tensor.required => absent.push(tensor),
                None => {}
                Some(t) => {
                    used.insert(t.name);
                    if t.shape != tensor.shape {
                        wrong.wrong_shape.push(WrongShape {
                            name: t.name.to_owned(),
                            file: t.file.to_owned(),
                            found: t.shape.to_vec(),
                            expected: tensor.shape.clone(),
                            because: tensor.because.clone(),
                        });
                    }
                }
            }
        }
        let mut strangers = Vec::new();
        for tensor in self.tensors().filter(|t| !used.contains(t.name)) {
            if expected.harmless.iter().any(|pattern| matches_pattern(pattern, tensor.name)) {
                report.harmless.push(tensor.name.to_owned());
            } else {
                strangers.push(tensor);
            }
        }
        let mut suggester = Suggester::new(strangers.iter().map(|t| t.name));
        for tensor in absent {
            wrong.missing.push(MissingTensor {
                name: tensor.name.clone(),
                alternatives: tensor.alternatives.clone(),
                place: self.inventory().to_owned(),
                near: suggester.nearest(&tensor.name),
            });
        }
        if expected.allow_unexpected {
            report.unexpected.extend(strangers.iter().map(|t| t.name.to_owned()));
        } else {
            wrong.unexpected.extend(strangers.iter().map(|t| (t.name.to_owned(), t.file.to_owned())));
        }
        let fits = wrong.missing.is_empty() && wrong.wrong_shape.is_empty() && wrong.unexpected.is_empty();
        if fits { Ok(report) } else { Err(CheckpointError::Mismatch(Box::new(wrong))) }
    }
}

/// True if `pattern`, in which `*` stands for any characters, covers all of `name`.
fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return left.ends_with(part);
        }
        // The earliest match of a middle part leaves the most for those after it.
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// Finds names that look like one that is not there, with a bounded amount of work over all questions.
pub(crate) struct Suggester<'a> {
    names: Vec<&'a str>,
    /// Cells of edit-distance tables that may still be computed.
    budget: usize,
}

impl<'a> Suggester<'a> {
    /// Longer names are not compared.
    const LONGEST: usize = 200;

    pub(crate) fn new(names: impl Iterator<Item = &'a str>) -> Suggester<'a> {
        Suggester { names: names.filter(|n| n.len() <= Self::LONGEST).collect(), budget: 20_000_000 }
    }

    /// The name that differs from `wanted` by a prefix of whole path segments, or by the fewest edits if those are few.
    pub(crate) fn nearest(&mut self, wanted: &str) -> Option<String> {
        if wanted.len() > Self::LONGEST {
            return None;
        }
        let under = |long: &str, short: &str| long.strip_suffix(short).is_some_and(|p| p.ends_with('.'));
        let mut best: Option<(usize, &str)> = None;
        for name in &self.names {
            if self.budget == 0 {
                break;
            }
            self.budget = self.budget.saturating_sub(name.len());
            if !name.is_empty() && (under(name, wanted) || under(wanted, name)) {
                return Some((*name).to_owned());
            }
            let most = best.map_or((wanted.len() / 5).clamp(1, 6), |(d, _)| d - 1);
            if name.len().abs_diff(wanted.len()) > most {
                continue;
            }
            self.budget = self.budget.saturating_sub(name.len() * wanted.len());
            if let Some(d) = distance(wanted.as_bytes(), name.as_bytes(), most) {
                best = Some((d, name));
                if d == 0 {
                    break;
                }
            }
        }
        best.map(|(_, name)| name.to_owned())
    }
}

/// Insertions, deletions and replacements that turn `a` into `b`, if they are at most `most`.
fn distance(a: &[u8], b: &[u8], most: usize) -> Option<usize> {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        let mut least = left;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let value = (diagonal + usize::from(x != y)).min(left + 1).min(*cell + 1);
            diagonal = std::mem::replace(cell, value);
            left = value;
            least = least.min(value);
        }
        if least > most {
            return None;
        }
    }
    row.last().copied().filter(|&d| d <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.inv_freq", true),
            ("*.rotary_emb.inv_freq", "model.rotary_emb.inv_freq.x", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("a*a", "a", false),
            ("**b", "xb", true),
        ] {
            assert_eq!(matches_pattern(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, d) in [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("abc", "ab", 1)] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes(), 9), Some(d));
            assert_eq!(distance(b.as_bytes(), a.as_bytes(), 9), Some(d));
            assert_eq!(distance(a.as_bytes(), b.as_bytes(), d), Some(d));
            assert_eq!(d.checked_sub(1).and_then(|m| distance(a.as_bytes(), b.as_bytes(), m)), None);
        }
    }

    #[test]
    fn suggestions() {
        let names = ["model.layers.0.mlp.up_proj.weight", "transformer.wte.weight", ""];
        let near = |w: &str| Suggester::new(names.into_iter()).nearest(w);
        assert_eq!(near("model.layers.0.mlp.up_porj.weight").as_deref(), Some(names[0]));
        assert_eq!(near("layers.0.mlp.up_proj.weight").as_deref(), Some(names[0]));
        assert_eq!(near("language_model.transformer.wte.weight").as_deref(), Some(names[1]));
        assert_eq!(near("lm_head.weight"), None);
    }

    #[test]
    fn suggesting_is_bounded() {
        let many: Vec<String> = (0..20_000).map(|i| format!("{i:0>190}")).collect();
        let mut s = Suggester::new(many.iter().map(String::as_str));
        for i in 0..5_000 {
            s.nearest(&format!("{i:x>190}"));
        }
        assert_eq!(s.budget, 0);
    }
}
