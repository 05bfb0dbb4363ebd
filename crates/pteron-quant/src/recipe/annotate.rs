//! The PT2E part of a recipe, as a quantizer.

use std::collections::BTreeMap;

use pteron_ir::{DebugHandle, Def, Graph, Module, Node};
use pteron_tensor::DType;

use super::resolve::short_name;
use super::{Activation, Change, Plan, PlanLayer, RecipeError, Resolved, WeightGranularity};
use crate::annotation::{Annotations, QuantizationAnnotation};
use crate::error::SpecError;
use crate::format::{Granularity, QScheme};
use crate::pt2e::{QuantizeError, value_at};
use crate::quantizer::{ComposableQuantizer, QnnQuantizer, Quantizer, of_scheme};
use crate::scheme::{AppliesTo, Patterns, Scheme, SchemeSpecs};
use crate::spec::{FakeQuantKind, ObserverCtr, ObserverKind, QuantizationSpec, Spec};

/// Annotates as a recipe says: modules that a rule keeps float get nothing, modules with a scheme of their own are
/// annotated by that scheme's quantizers, all others by the base's; then the specs are changed as the rules say.
#[derive(Debug)]
pub struct RecipeQuantizer {
    resolved: Resolved,
    base: ComposableQuantizer,
    /// By the rules that name a scheme.
    of_rules: BTreeMap<usize, ComposableQuantizer>,
}

impl Resolved {
    /// The quantizer of the recipe's PT2E schemes; `None` if it has none.
    ///
    /// # Errors
    /// A scheme whose quantizer is not there, by its name.
    pub fn quantizer(&self) -> Result<Option<RecipeQuantizer>, RecipeError> {
        let schemes = self.recipe.schemes()?;
        if schemes.is_empty() {
            return Ok(None);
        }
        let mut base = Vec::new();
        for scheme in &schemes {
            base.extend(self.quantizers(scheme, &self.recipe.specs(scheme)?)?);
        }
        let mut of_rules = BTreeMap::new();
        for (i, rule) in self.recipe.rules.iter().enumerate() {
            let Some(name) = &rule.change.scheme else { continue };
            let scheme = Scheme::find(name).map_err(RecipeError::new)?;
            let mut specs = self.recipe.specs(scheme)?;
            // Passes over the whole graph are the base's.
            specs.custom_annotations.clear();
            of_rules.insert(i, ComposableQuantizer::new(self.quantizers(scheme, &specs)?));
        }
        Ok(Some(RecipeQuantizer { resolved: self.clone(), base: ComposableQuantizer::new(base), of_rules }))
    }

    fn quantizers(&self, scheme: &Scheme, specs: &SchemeSpecs) -> Result<Vec<Box<dyn Quantizer>>, RecipeError> {
        // Where the scheme has blocks of its own, groups of a rule are its blocks.
        if let (Patterns::Qnn(config), true) = (specs.patterns, has_blocks(specs)) {
            let blocks = self.rule_of.iter().filter_map(|(path, &i)| {
                let c = &self.recipe.rules[i].change;
                let group = c.group.filter(|g| *g > 0 && c.granularity == Some(WeightGranularity::Group))?;
                Some((path.clone(), vec![1, group]))
            });
            let quantizer = QnnQuantizer::new(scheme.name, config)
                .with_custom_annotations(specs.custom_annotations.clone())
                .with_block_size_map(blocks.collect());
            return Ok(vec![Box::new(quantizer)]);
        }
        of_scheme(scheme.name, specs).map_err(RecipeError)
    }
}

/// Whether a scheme has weights in blocks, where the block-size map has an entry.
fn has_blocks(specs: &SchemeSpecs) -> bool {
    specs.rules.iter().any(|r| r.applies_to == AppliesTo::BlockSizeMap)
}

/// Whose annotations a node takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Base,
    Rule(usize),
}

impl RecipeQuantizer {
    fn path<'g>(graph: &'g Graph, node: &Node) -> &'g str {
        &graph.paths[node.path]
    }

    fn owner(&self, path: &str) -> Owner {
        match self.resolved.rule(path) {
            Some(i) if self.resolved.recipe.rules[i].change.keep_float => Owner::Nobody,
            Some(i) if self.of_rules.contains_key(&i) => Owner::Rule(i),
            _ => Owner::Base,
        }
    }

    /// Runs `quantizer` over the nodes of one owner: the others are marked as dealt with meanwhile.
    fn annotate_of(
        &self,
        owner: Owner,
        quantizer: &dyn Quantizer,
        module: &Module,
        graph: &Graph,
        annotations: &mut Annotations,
    ) -> Result<(), SpecError> {
        let mut marked: Vec<DebugHandle> = Vec::new();
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            if self.owner(Self::path(graph, node)) != owner && !annotations.is_annotated(node.handle) {
                annotations.at(node.handle).annotated = true;
                marked.push(node.handle);
            }
        }
        let done = quantizer.annotate(module, graph, annotations);
        // What passes over the whole graph have written there goes with the marks.
        for handle in marked {
            annotations.remove(handle);
        }
        done
    }

    /// What becomes of each operator of `graph`, which [`Quantizer::transform_for_annotation`] has brought to what the
    /// rules know.
    ///
    /// # Errors
    /// As [`Quantizer::annotate`].
    pub fn plan(&self, module: &Module, graph: &Graph) -> Result<Plan, SpecError> {
        let mut annotations = Annotations::new();
        self.annotate(module, graph, &mut annotations)?;
        let mut plan = Plan::default();
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            let path = Self::path(graph, node);
            let rule = self.resolved.rule(path);
            let described = annotations.get(node.handle).map(|a| describe(graph, node, a)).unwrap_or_default();
            let treatment = match (described.is_empty(), self.owner(path)) {
                (false, _) => described,
                (true, Owner::Nobody) => "float".to_owned(),
                (true, Owner::Base | Owner::Rule(_)) => continue,
            };
            let (path, operator) = (path.to_owned(), short_name(node.op).to_owned());
            plan.layers.push(PlanLayer { path, operator, treatment, rule: rule.map(|i| i + 1) });
        }
        Ok(plan)
    }
}

impl Quantizer for RecipeQuantizer {
    fn name(&self) -> &str {
        "recipe"
    }

    fn transform_for_annotation(&self, module: &mut Module) -> Result<(), QuantizeError> {
        self.base.transform_for_annotation(module)?;
        self.of_rules.values().try_for_each(|q| q.transform_for_annotation(module))
    }

    fn annotate(&self, module: &Module, graph: &Graph, annotations: &mut Annotations) -> Result<(), SpecError> {
        self.annotate_of(Owner::Base, &self.base, module, graph, annotations)?;
        for (&i, quantizer) in &self.of_rules {
            self.annotate_of(Owner::Rule(i), quantizer, module, graph, annotations)?;
        }
        let rules = &self.resolved.recipe.rules;
        let mut effect = vec![false; rules.len()];
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            let Some(i) = self.resolved.rule(Self::path(graph, node)) else { continue };
            let change = &rules[i].change;
            if change.keep_float {
                annotations.at(node.handle).annotated = true;
                effect[i] = true;
            } else if annotations.get(node.handle).is_some_and(|a| !a.inputs.is_empty() || !a.outputs.is_empty()) {
                effect[i] |= change.scheme.is_some();
                effect[i] |= edit(graph, node, change, annotations.at(node.handle));
            }
        }
        let used = |i: &usize| {
            graph.all_nodes().iter().any(|&n| self.resolved.rule(Self::path(graph, &graph.nodes[n])) == Some(*i))
        };
        match (0..rules.len()).find(|i| !effect[*i] && used(i)) {
            None => Ok(()),
            Some(i) => {
                let problem = "has no effect: the scheme quantizes nothing there that it could change";
                Err(SpecError::Rule { rule: self.resolved.recipe.rule_name(i), problem })
            }
        }
    }

    fn adjust(&self, module: &mut Module, graph: &mut Graph, annotations: &Annotations) -> Result<(), QuantizeError> {
        self.base.adjust(module, graph, annotations)?;
        self.of_rules.values().try_for_each(|q| q.adjust(module, graph, annotations))
    }
}

/// True if what `node` reads there is a weight: a constant. Biases have 32 bits, or follow from other specs.
fn is_weight(graph: &Graph, node: &Node, input: crate::annotation::InputIndex) -> bool {
    value_at(node, input).is_some_and(|v| matches!(graph.values[v].def, Def::Const(_)))
}

/// Changes a node's specs; true if there was something to change.
fn edit(graph: &Graph, node: &Node, c: &Change, a: &mut QuantizationAnnotation) -> bool {
    let mut changed = false;
    if c.activation == Some(Activation::Float) {
        let before = a.inputs.len() + a.outputs.len();
        a.inputs.retain(|(i, spec)| is_weight(graph, node, *i) && !matches!(spec, Spec::Derived(_)));
        a.outputs.clear();
        changed |= a.inputs.len() + a.outputs.len() != before;
    }
    for (index, spec) in &mut a.inputs {
        let Spec::Observed(spec) = spec else { continue };
        match is_weight(graph, node, *index) {
            true if spec.dtype != DType::I32 || spec.quant_max != Some(i64::from(i32::MAX)) => {
                changed |= edit_weight(spec, c);
            }
            true => {}
            false => changed |= edit_activation(spec, c),
        }
    }
    for (_, spec) in &mut a.outputs {
        if let Spec::Observed(spec) = spec {
            changed |= edit_activation(spec, c);
        }
    }
    changed
}

/// Puts `kind` in the place of the spec's observer, with the arguments that both take.
fn set_observer(spec: &mut QuantizationSpec, kind: ObserverKind) {
    let old = &spec.observer;
    let fake_quant = old.fake_quant.filter(|f| *f == FakeQuantKind::FakeQuantize);
    spec.observer = ObserverCtr { eps: old.eps, fake_quant, ..ObserverCtr::new(kind) };
}

fn edit_activation(spec: &mut QuantizationSpec, c: &Change) -> bool {
    let before = spec.clone();
    let codes = |s: &QuantizationSpec| s.format().map_or(256.0, |f| f.codes() as f64);
    let range = match c.activation {
        None | Some(Activation::Float) => None,
        Some(Activation::Int8) => Some((DType::I8, -128, 127)),
        Some(Activation::UInt8) => Some((DType::U8, 0, 255)),
        Some(Activation::Int16) => Some((DType::I16, -32768, 32767)),
        Some(Activation::UInt16) => Some((DType::I32, 0, 65535)),
    };
    if let Some((dtype, lo, hi)) = range {
        let old = codes(spec);
        (spec.dtype, spec.quant_min, spec.quant_max) = (dtype, Some(lo), Some(hi));
        // The least range that a scale stands for stays as it was.
        spec.observer.eps = spec.observer.eps.map(|eps| eps * old / codes(spec));
    }
    if let Some(kind) = c.observer
        && !spec.is_dynamic
    {
        set_observer(spec, kind);
    }
    *spec != before || range.is_some() || (c.observer.is_some() && !spec.is_dynamic)
}

fn edit_weight(spec: &mut QuantizationSpec, c: &Change) -> bool {
    if let Some(bits) = c.bits {
        let half = 1i64 << (bits - 1);
        // Codes stay symmetric where they were.
        let full = spec.quant_range().is_ok_and(|(lo, hi)| lo != -hi);
        spec.dtype = if bits > 8 { DType::I16 } else { DType::I8 };
        (spec.quant_min, spec.quant_max) = (Some(if full { -half } else { 1 - half }), Some(half - 1));
    }
    match c.granularity {
        None => {}
        Some(WeightGranularity::Tensor) => {
            set_observer(spec, ObserverKind::MinMax);
            (spec.qscheme, spec.ch_axis) = (Some(QScheme::PerTensorSymmetric), None);
        }
        Some(WeightGranularity::Channel) => {
            set_observer(spec, ObserverKind::PerChannelMinMax);
            (spec.qscheme, spec.ch_axis) = (Some(QScheme::PerChannelSymmetric), Some(0));
        }
        // Blocks that the scheme's quantizer has made.
        Some(WeightGranularity::Group) if spec.observer.kind == ObserverKind::PerBlockParam => {}
        Some(WeightGranularity::Group) => {
            set_observer(spec, ObserverKind::AffineQuantizedMinMax);
            spec.observer.fake_quant = None;
            spec.observer.granularity = Some(match c.group {
                Some(0) | None => Granularity::PerRow,
                Some(group) => Granularity::PerGroup(group),
            });
            (spec.qscheme, spec.ch_axis) = (Some(QScheme::PerBlockSymmetric), None);
        }
    }
    if let Some(kind) = c.weight_observer {
        let granularity = spec.observer.granularity.take().filter(|_| kind.is_affine());
        set_observer(spec, kind);
        spec.observer.granularity = granularity;
    }
    c.bits.is_some() || c.granularity.is_some() || c.weight_observer.is_some()
}

/// `8-bit weight per_channel_symmetric; 8-bit input per_tensor_affine, HistogramObserver`.
fn describe(graph: &Graph, node: &Node, a: &QuantizationAnnotation) -> String {
    let mut parts = Vec::new();
    let one = |spec: &Spec| match spec {
        Spec::Observed(s) => {
            let bits = s.format().map_or_else(|_| s.dtype.to_string(), |f| format!("{} bits", f.bits()));
            let how = if s.is_dynamic { "chosen at run time".to_owned() } else { s.observer.kind.to_string() };
            format!("{bits} {}, {how}", s.effective_qscheme())
        }
        Spec::Fixed(s) => format!("fixed, scale {}, zero point {}", s.scale, s.zero_point),
        Spec::Shared(_) => "shared".to_owned(),
        Spec::Derived(_) => "derived".to_owned(),
    };
    for (input, spec) in &a.inputs {
        let role = match is_weight(graph, node, *input) {
            true => "weight",
            false => node.op.schema().inputs().nth(usize::from(input.arg)).map_or("input", |a| a.name),
        };
        parts.push(format!("{role} {}", one(spec)));
    }
    for (_, spec) in &a.outputs {
        parts.push(format!("output {}", one(spec)));
    }
    parts.join("; ")
}
