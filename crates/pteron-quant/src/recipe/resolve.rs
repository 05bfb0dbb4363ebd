//! A recipe against a model: which rule each module takes.

use std::collections::BTreeMap;
use std::fmt;

use pteron_ir::{Graph, Module, Op};

use super::parse::linear_mode;
use super::{Activation, Change, Recipe, RecipeError};
use crate::near::{did_you_mean, suggestions};
use crate::transform::{EmbeddingMode, LayerChoice, LayerKind, LinearMode};

/// A recipe with the rule that each module of a model takes.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub(super) recipe: Recipe,
    /// The rule that a module path takes, if one matches.
    pub(super) rule_of: BTreeMap<String, usize>,
}

/// What becomes of one operator of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanLayer {
    /// Its module path.
    pub path: String,
    /// The operator.
    pub operator: String,
    /// What becomes of it.
    pub treatment: String,
    /// The rule that says so, counted from 1; `None` for the base.
    pub rule: Option<usize>,
}

/// What becomes of a model, operator by operator, in the order in which they are computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The operators that are quantized, and those that a rule keeps float.
    pub layers: Vec<PlanLayer>,
}

impl fmt::Display for Plan {
    /// A line each: path, operator, treatment, rule.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |part: fn(&PlanLayer) -> usize| self.layers.iter().map(part).max().unwrap_or(0);
        let (paths, operators) = (width(|l| l.path.len()), width(|l| l.operator.len()));
        for l in &self.layers {
            write!(f, "{:paths$}  {:operators$}  {}", l.path, l.operator, l.treatment)?;
            match l.rule {
                Some(rule) => writeln!(f, "  (rule {rule})")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

/// An operator's name as a plan shows it: `linear` for `aten::linear`.
pub(super) fn short_name(op: Op) -> &'static str {
    let name = op.name().split_once("::").map_or(op.name(), |(_, name)| name);
    name.split_once('.').map_or(name, |(name, _)| name)
}

impl Recipe {
    /// Finds the rule of each module of `module`, which must not have been quantized yet.
    ///
    /// # Errors
    /// A sentence that names the rule that matches no module, or none that an earlier rule has not taken.
    pub fn resolve(&self, module: &Module) -> Result<Resolved, RecipeError> {
        self.validate()?;
        let mut rule_of = BTreeMap::new();
        let mut matched = vec![false; self.rules.len()];
        let mut used = vec![false; self.rules.len()];
        let paths = self.paths(&module.graphs);
        for path in &paths {
            let mut first = None;
            for (i, rule) in self.rules.iter().enumerate() {
                if rule.path.matches(path) {
                    matched[i] = true;
                    first.get_or_insert(i);
                }
            }
            if let Some(i) = first {
                used[i] = true;
                rule_of.insert((*path).to_owned(), i);
            }
        }
        for (i, rule) in self.rules.iter().enumerate() {
            let name = self.rule_name(i);
            if !matched[i] {
                let near = suggestions(rule.path.as_str(), paths.iter().copied());
                let example = match (near.is_empty(), paths.last()) {
                    (true, Some(last)) => format!("; it has {last}, for example"),
                    _ => did_you_mean(&near),
                };
                let what = if self.base.pt2e.is_some() { "module" } else { "linear layer or embedding" };
                return Err(RecipeError(format!("{name} matches no {what} of the model{example}")));
            }
            if !used[i] {
                return Err(RecipeError(format!("{name} has no effect: earlier rules take all that it matches")));
            }
        }
        let resolved = Resolved { recipe: self.clone(), rule_of };
        for graph in &module.graphs {
            resolved.layers(graph)?;
        }
        Ok(resolved)
    }

    /// Paths of what can be quantized, each once, in the order of the nodes.
    fn paths<'g>(&self, graphs: &'g [Graph]) -> Vec<&'g str> {
        let mut out: Vec<&str> = Vec::new();
        for graph in graphs {
            let mut seen = vec![false; graph.paths.len()];
            for n in graph.all_nodes() {
                let node = &graph.nodes[n];
                let index = pteron_ir::Id::index(node.path);
                if seen.get(index) != Some(&false) || (self.base.pt2e.is_none() && LayerKind::of(node.op).is_none()) {
                    continue;
                }
                seen[index] = true;
                out.push(&graph.paths[node.path]);
            }
        }
        out.dedup();
        out
    }

    /// What rule `number` makes of the base's linear layers.
    pub(super) fn linear_choice(&self, number: usize) -> Result<Option<LayerChoice>, RecipeError> {
        let c = &self.rules[number].change;
        let mode = self.changed_mode(c).map_err(|e| RecipeError(format!("{}: {e}", self.rule_name(number))))?;
        let algorithm = c.algorithm.or(self.base.algorithm);
        Ok(mode.map(|m| LayerChoice::Linear(m, algorithm.unwrap_or(m.default_algorithm()))))
    }

    fn changed_mode(&self, c: &Change) -> Result<Option<LinearMode>, String> {
        if c.keep_float {
            return Ok(None);
        }
        if let Some(name) = &c.mode {
            return linear_mode(name, c.group).map(Some);
        }
        let (bits, activation, group) = match self.base.linear {
            Some(m) if m.is_dynamic() => (m.bits(), Activation::Int8, m.group()),
            Some(m) => (m.bits(), Activation::Float, m.group()),
            None => match c.bits {
                Some(bits) => (bits, Activation::Float, None),
                None => return Ok(None),
            },
        };
        let (bits, activation) = (c.bits.unwrap_or(bits), c.activation.unwrap_or(activation));
        let name = match (bits, activation) {
            (8, Activation::Float) => "int8",
            (4, Activation::Float) => "4w",
            (4, Activation::Int8) => "8da4w",
            (8, Activation::Int8) => "8da8w",
            (bits, a) => {
                return Err(format!(
                    "no source transform has {bits}-bit weights and {} activations; there are int8 (8 bits, float), 4w (4 \
                     bits, float), 8da4w (4 bits, int8) and 8da8w (8 bits, int8)",
                    a.name()
                ));
            }
        };
        // A group size of 4-bit weights is not meant for 8-bit ones.
        let same_bits = self.base.linear.is_some_and(|m| m.bits() == bits);
        linear_mode(name, c.group.or(group.filter(|_| same_bits))).map(Some)
    }

    fn embedding_choice(&self, number: Option<usize>) -> Option<LayerChoice> {
        let none = Change::default();
        let c = number.map_or(&none, |i| &self.rules[i].change);
        if c.keep_float {
            return None;
        }
        let algorithm = c.algorithm.or(self.base.algorithm).unwrap_or_default();
        let base = c.embedding.or(self.base.embedding)?;
        let mode = match c.embedding {
            Some(mode) => mode,
            None => EmbeddingMode { bits: c.bits.unwrap_or(base.bits), group: c.group.unwrap_or(base.group) },
        };
        Some(LayerChoice::Embedding(mode, algorithm))
    }
}

/// A layer's module path, its operator, and what source transforms make of it.
type Layer<'g> = (&'g str, Op, Option<LayerChoice>);

impl Resolved {
    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The index of the rule that a module takes.
    pub fn rule(&self, path: &str) -> Option<usize> {
        self.rule_of.get(path).copied()
    }

    pub(super) fn change(&self, path: &str) -> Option<&Change> {
        self.rule(path).map(|i| &self.recipe.rules[i].change)
    }

    /// What source transforms make of a layer; `None` leaves it as it is.
    ///
    /// # Errors
    /// A sentence that names the rule, if what it asks for is not there.
    fn choice(&self, path: &str, kind: LayerKind) -> Result<Option<LayerChoice>, RecipeError> {
        let rule = self.rule(path);
        match (kind, rule) {
            (LayerKind::Linear, _) if self.recipe.base.pt2e.is_some() => Ok(None),
            (LayerKind::Linear, None) => {
                let algorithm = |m: LinearMode| self.recipe.base.algorithm.unwrap_or(m.default_algorithm());
                Ok(self.recipe.base.linear.map(|m| LayerChoice::Linear(m, algorithm(m))))
            }
            (LayerKind::Linear, Some(i)) => self.recipe.linear_choice(i),
            (LayerKind::Embedding, rule) => Ok(self.recipe.embedding_choice(rule)),
        }
    }

    /// The layers of a graph that source transforms change or a rule names, with the choice for each.
    fn layers<'g>(&self, graph: &'g Graph) -> Result<Vec<Layer<'g>>, RecipeError> {
        let mut out = Vec::new();
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            let Some((kind, _)) = LayerKind::of(node.op) else { continue };
            let path: &str = &graph.paths[node.path];
            let choice = self.choice(path, kind)?;
            // What PT2E makes of it is another plan.
            if choice.is_some() || (self.recipe.base.pt2e.is_none() && self.change(path).is_some()) {
                out.push((path, node.op, choice));
            }
        }
        Ok(out)
    }

    /// What source transforms make of a layer, for [`crate::transform::Transform::new`].
    pub fn layer(&self, path: &str, kind: LayerKind) -> Option<LayerChoice> {
        // What is wrong with a rule was said when the recipe was resolved.
        self.choice(path, kind).ok().flatten()
    }

    /// True if source transforms change something.
    pub fn transforms(&self, module: &Module) -> bool {
        module.graphs.iter().any(|g| self.layers(g).is_ok_and(|l| l.iter().any(|(.., choice)| choice.is_some())))
    }

    /// What source transforms make of each layer of `graph`.
    pub fn transform_plan(&self, graph: &Graph) -> Plan {
        let layer = |(path, op, choice): Layer<'_>| PlanLayer {
            path: path.to_owned(),
            operator: short_name(op).to_owned(),
            treatment: choice.map_or_else(|| "float".to_owned(), describe),
            rule: self.rule(path).map(|i| i + 1),
        };
        Plan { layers: self.layers(graph).unwrap_or_default().into_iter().map(layer).collect() }
    }
}

fn describe(choice: LayerChoice) -> String {
    match choice {
        LayerChoice::Linear(mode, algorithm) => super::describe_linear(mode, algorithm),
        LayerChoice::Embedding(e, algorithm) => {
            super::describe(&format!("{} bits", e.bits), Some(e.group), Some(algorithm))
        }
    }
}
