//! Custom annotations of language models. They overwrite what the rules wrote.

use std::collections::BTreeSet;

use pteron_ir::{NodeId, Op};

use super::ops::is_float;
use crate::annotation::{InputIndex, Point, QuantizationConfig};
use crate::quantizer::rules::Rules;
use crate::scheme::{Compat, CustomAnnotation, ModuleQConfig, QuantDtype};
use crate::spec::{ObserverKind, Spec};

/// The module whose linear layer gives the logits.
const LAST: &str = "lm_head";

pub(super) fn annotate(rules: &mut Rules<'_>, custom: CustomAnnotation, compat: Compat) {
    let nodes = rules.graph.all_nodes();
    match custom {
        CustomAnnotation::LlamaLastConv16a8w => {
            let config = ModuleQConfig::new(QuantDtype::Use16a8w, compat).per_channel(0);
            for n in nodes {
                let node = rules.node(n);
                let last = rules.graph.paths[node.path].as_ref() == LAST;
                if last && matches!(node.op, Op::Linear | Op::Convolution) {
                    rules.annotations.remove(node.handle);
                    // ExecuTorch's pattern has no bias.
                    rules.weighted(n, &QuantizationConfig { bias: None, ..config.clone() }, None, true);
                }
            }
        }
        CustomAnnotation::Matmul16a8w => {
            let config = ModuleQConfig::new(QuantDtype::Use16a8w, compat).per_tensor();
            let products = nodes.into_iter().filter(|&n| matches!(rules.node(n).op, Op::Bmm | Op::Mm));
            let products: Vec<NodeId> = products.collect();
            products.into_iter().for_each(|n| matmul(rules, n, &config));
        }
        CustomAnnotation::LlamaMatmul16a8w | CustomAnnotation::Kv8bit => {
            let products: Vec<NodeId> = nodes.into_iter().filter(|&n| is_attention(rules, n)).collect();
            for n in products {
                let cached = custom == CustomAnnotation::LlamaMatmul16a8w && writes_a_cache(rules, n);
                // Back to a cache written in place observers are moving averages, else minima and maxima.
                let observer = (!cached).then_some(ObserverKind::MinMax);
                let wide = ModuleQConfig::new(QuantDtype::Use16a8w, compat);
                matmul(rules, n, &ModuleQConfig { act_observer: observer, ..wide }.per_tensor());
                let narrow = ModuleQConfig::new(QuantDtype::Use8a8w, compat);
                let narrow = ModuleQConfig { act_observer: observer, act_symmetric: true, ..narrow }.per_tensor();
                let mut walk = Walk { rules, config: &narrow, seen: BTreeSet::new() };
                match cached {
                    true => walk.back_to_the_cache(operand(walk.rules, n, 1)),
                    false => walk.back_to_the_layer(operand(walk.rules, n, 1)),
                }
            }
        }
    }
}

/// A product of two computed tensors: only attention has such.
fn is_attention(rules: &Rules<'_>, n: NodeId) -> bool {
    rules.node(n).op == Op::Bmm && operand(rules, n, 0).is_some() && operand(rules, n, 1).is_some()
}

/// The node that gives argument `arg`.
fn operand(rules: &Rules<'_>, n: NodeId, arg: u16) -> Option<NodeId> {
    rules.input(n, arg).and_then(|v| rules.producer(v)).map(|(n, _)| n)
}

/// Whether the way back from the second operand leads to a cache that is written in place.
fn writes_a_cache(rules: &Rules<'_>, n: NodeId) -> bool {
    let mut at = operand(rules, n, 1);
    while let Some(n) = at {
        at = match rules.node(n).op {
            Op::IndexPut | Op::IndexPutInto => return true,
            Op::Cat => rules.inputs(n, 0).first().and_then(|&(_, v)| rules.producer(v)).map(|(n, _)| n),
            _ => operand(rules, n, 0),
        };
    }
    false
}

/// First operand and result as activations, the second as the weight.
fn matmul(rules: &mut Rules<'_>, n: NodeId, config: &QuantizationConfig) {
    let inputs = [(0, &config.input_activation), (1, &config.weight)];
    let inputs = inputs.into_iter().filter_map(|(arg, s)| Some((InputIndex::arg(arg), Spec::from(s.clone()?))));
    let inputs = inputs.collect();
    replace(rules, n, inputs, config.output_activation.clone().map(Spec::from));
}

fn replace(rules: &mut Rules<'_>, n: NodeId, inputs: Vec<(InputIndex, Spec)>, output: Option<Spec>) {
    rules.annotations.remove(rules.node(n).handle);
    rules.set(n, inputs, output);
}

struct Walk<'w, 'a> {
    rules: &'w mut Rules<'a>,
    /// 8-bit, symmetric.
    config: &'w QuantizationConfig,
    /// Nodes that are annotated: ways that meet are walked once.
    seen: BTreeSet<NodeId>,
}

impl Walk<'_, '_> {
    fn act(&self) -> Option<Spec> {
        self.config.input_activation.clone().map(Spec::from)
    }

    /// Argument `arg` as the activation, the output as `output` or sharing with the argument.
    fn single(&mut self, n: NodeId, arg: u16, share: bool) {
        let (Some(act), handle) = (self.act(), self.rules.node(n).handle) else { return };
        let output = if share { Spec::Shared(Point::edge(handle, arg)) } else { act.clone() };
        replace(self.rules, n, vec![(InputIndex::arg(arg), act)], Some(output));
    }

    /// The first tensor as the activation, the others and the output sharing with it.
    fn cat(&mut self, n: NodeId) {
        let items = self.rules.inputs(n, 0);
        let (Some(act), Some(&(first, _))) = (self.act(), items.first()) else { return };
        let shared = Spec::Shared(Point::Edge { user: self.rules.node(n).handle, input: first });
        let spec = |&(i, _): &(InputIndex, _)| (i, if i == first { act.clone() } else { shared.clone() });
        let inputs = items.iter().map(spec).collect();
        replace(self.rules, n, inputs, Some(shared));
    }

    fn items(&self, n: NodeId) -> Vec<Option<NodeId>> {
        let items = self.rules.inputs(n, 0);
        items.iter().map(|&(_, v)| self.rules.producer(v).map(|(n, _)| n)).collect()
    }

    /// `custom_annotate_llama_matmul_16a8w`: everything back to inputs and buffers. ExecuTorch stops at what is written into a
    /// cache; here the way goes on to the layer that gives it, so that a graph with a cache has the parameters that a graph over
    /// a whole text learns, which has none.
    fn back_to_the_cache(&mut self, from: Option<NodeId>) {
        let mut open: Vec<Option<NodeId>> = vec![from];
        while let Some(next) = open.pop() {
            let Some(n) = next.filter(|n| self.seen.insert(*n)) else { continue };
            match self.rules.node(n).op {
                Op::IndexPut | Op::IndexPutInto => {
                    self.single(n, 2, true);
                    open.push(operand(self.rules, n, 0));
                    self.back_to_the_layer(operand(self.rules, n, 2));
                }
                Op::Cat => {
                    self.cat(n);
                    open.extend(self.items(n));
                }
                _ => {
                    let float = self.rules.input(n, 0).is_some_and(|v| is_float(self.rules, v));
                    if float {
                        self.single(n, 0, false);
                        open.push(operand(self.rules, n, 0));
                    }
                }
            }
        }
    }

    /// `annotate_kv_8bit`: keys back to the sums of their rotary embedding, values back to their linear layer (ExecuTorch's
    /// static Llama has convolutions for those).
    fn back_to_the_layer(&mut self, from: Option<NodeId>) {
        let mut at = from;
        while let Some(n) = at.filter(|n| self.seen.insert(*n)) {
            at = match self.rules.node(n).op {
                Op::SelectCopy | Op::SliceCopy => {
                    self.single(n, 0, false);
                    operand(self.rules, n, 0)
                }
                Op::PermuteCopy
                | Op::SqueezeDimCopy
                | Op::TransposeCopy
                | Op::ViewCopy
                | Op::ExpandCopy
                | Op::UnsqueezeCopy => {
                    self.single(n, 0, true);
                    operand(self.rules, n, 0)
                }
                Op::RmsNorm => {
                    let Some(act) = self.act() else { return };
                    let inputs = vec![(InputIndex::arg(0), act.clone()), (InputIndex::arg(2), act.clone())];
                    replace(self.rules, n, inputs, Some(act));
                    operand(self.rules, n, 0)
                }
                // What is past, then what is new: the way goes on through what is new.
                Op::Cat => {
                    self.cat(n);
                    self.items(n).get(1).copied().flatten()
                }
                Op::Add | Op::Sub | Op::Bmm | Op::Mm | Op::Linear | Op::Convolution => None,
                _ => operand(self.rules, n, 0),
            };
        }
    }
}
