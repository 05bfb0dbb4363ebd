//! What the rules of all quantizers ask of a graph, and write.

use std::collections::BTreeMap;

use pteron_ir::{Arg, ConstData, Def, Graph, Module, Node, NodeId, ValueId};
use pteron_tensor::{CastSource, DType, read_all};

use crate::annotation::{Annotations, BiasSpec, InputIndex, Point, QuantizationConfig};
use crate::format::QScheme;
use crate::pt2e::value_at;
use crate::spec::{DeriveQParams, DerivedQuantizationSpec, QuantizationSpec, Spec};

/// Arguments of `aten::linear` and `aten::convolution`: (input, weight, bias, ...).
const INPUT: u16 = 0;
const WEIGHT: u16 = 1;
const BIAS: u16 = 2;

/// A graph with the annotations that are being written.
pub(super) struct Rules<'a> {
    pub(super) module: &'a Module,
    pub(super) graph: &'a Graph,
    pub(super) annotations: &'a mut Annotations,
    /// Nodes that read a value, each as often as it reads; what leaves the graph counts as well.
    readers: BTreeMap<ValueId, Vec<Option<NodeId>>>,
}

impl<'a> Rules<'a> {
    pub(super) fn new(module: &'a Module, graph: &'a Graph, annotations: &'a mut Annotations) -> Rules<'a> {
        let mut readers: BTreeMap<ValueId, Vec<Option<NodeId>>> = BTreeMap::new();
        for n in graph.all_nodes() {
            for arg in &graph.nodes[n].args {
                arg.for_each_value(|v| readers.entry(v).or_default().push(Some(n)));
            }
        }
        let leaving = graph.regions.values().flat_map(|r| r.results.iter().copied());
        for v in leaving.chain(graph.mutations.iter().map(|m| m.1)) {
            readers.entry(v).or_default().push(None);
        }
        Rules { module, graph, annotations, readers }
    }

    pub(super) fn node(&self, n: NodeId) -> &'a Node {
        &self.graph.nodes[n]
    }

    pub(super) fn is_annotated(&self, n: NodeId) -> bool {
        self.annotations.is_annotated(self.node(n).handle)
    }

    /// The tensor at argument `arg` of `n`.
    pub(super) fn input(&self, n: NodeId, arg: u16) -> Option<ValueId> {
        value_at(self.node(n), InputIndex::arg(arg))
    }

    /// The tensors of the list that argument `arg` of `n` is.
    pub(super) fn inputs(&self, n: NodeId, arg: u16) -> Vec<(InputIndex, ValueId)> {
        let Some(Arg::Values(items)) = self.node(n).args.get(usize::from(arg)) else { return Vec::new() };
        let index = |i: usize| InputIndex::item(arg, u16::try_from(i).unwrap_or(u16::MAX));
        items.iter().enumerate().filter_map(|(i, v)| v.map(|v| (index(i), v))).collect()
    }

    pub(super) fn output(&self, n: NodeId) -> Option<ValueId> {
        self.node(n).outputs.first().copied()
    }

    pub(super) fn dtype(&self, v: ValueId) -> Option<DType> {
        self.graph.ty(v).as_tensor().map(|t| t.dtype)
    }

    /// The node that gives `v`, with the number of its output.
    pub(super) fn producer(&self, v: ValueId) -> Option<(NodeId, u16)> {
        match self.graph.values[v].def {
            Def::Node(n, output) => Some((n, u16::try_from(output).unwrap_or(u16::MAX))),
            Def::Input(_) | Def::Const(_) | Def::Buffer(_) | Def::Param(..) => None,
        }
    }

    /// The one node that reads `v`; `None` if there are several, or it leaves the graph.
    pub(super) fn only_reader(&self, v: ValueId) -> Option<NodeId> {
        match self.readers.get(&v).map(Vec::as_slice) {
            Some(&[Some(n)]) => Some(n),
            _ => None,
        }
    }

    /// The spec with which the producer of `v` annotates it, as a point that can be shared.
    pub(super) fn annotated_source(&self, v: ValueId) -> Option<Point> {
        let (n, output) = self.producer(v)?;
        let point = Point::Output { node: self.node(n).handle, output };
        self.annotations.spec(point).map(|_| point)
    }

    /// The number that a constant of one element is.
    pub(super) fn scalar_constant(&self, v: ValueId) -> Option<f32> {
        let Def::Const(c) = self.graph.values[v].def else { return None };
        let ConstData::Source(source) = &self.module.constants[c].data else { return None };
        if source.shape().iter().product::<usize>() != 1 {
            return None;
        }
        let bytes = read_all(CastSource::wrap(source.clone(), DType::F32).as_ref()).ok()?;
        bytemuck::cast_slice::<u8, f32>(&bytes).first().copied()
    }

    /// Annotates a linear layer or a convolution: input, weight, bias, and, if `with_output`, the output. `weight` replaces the
    /// configuration's.
    pub(super) fn weighted(
        &mut self,
        n: NodeId,
        config: &QuantizationConfig,
        weight: Option<&QuantizationSpec>,
        with_output: bool,
    ) {
        let node = self.node(n);
        let weight = weight.or(config.weight.as_ref());
        let bias = matches!(node.args.get(usize::from(BIAS)), Some(Arg::Value(_)))
            .then(|| bias_spec(node, config.bias.as_ref(), weight))
            .flatten();
        let at = self.annotations.at(node.handle);
        at.annotated = true;
        if let Some(spec) = &config.input_activation {
            at.set_input(InputIndex::arg(INPUT), spec.clone());
        }
        if let Some(spec) = weight {
            at.set_input(InputIndex::arg(WEIGHT), spec.clone());
        }
        if let Some(spec) = bias {
            at.set_input(InputIndex::arg(BIAS), spec);
        }
        if let (true, Some(spec)) = (with_output, &config.output_activation) {
            at.set_output(0, spec.clone());
        }
    }

    /// Annotates `n` with a spec for each of these inputs and one for its first output.
    pub(super) fn set(&mut self, n: NodeId, inputs: Vec<(InputIndex, Spec)>, output: Option<Spec>) {
        let at = self.annotations.at(self.graph.nodes[n].handle);
        at.annotated = true;
        for (input, spec) in inputs {
            at.set_input(input, spec);
        }
        if let Some(spec) = output {
            at.set_output(0, spec);
        }
    }
}

/// The spec of a bias beside a weight of `weight`.
fn bias_spec(node: &Node, bias: Option<&BiasSpec>, weight: Option<&QuantizationSpec>) -> Option<Spec> {
    match bias? {
        BiasSpec::Observed(spec) => Some(spec.clone().into()),
        BiasSpec::Derived => {
            let per_channel = weight.is_some_and(|w| w.effective_qscheme().is_per_channel());
            let qscheme = if per_channel { QScheme::PerChannelSymmetric } else { QScheme::PerTensorSymmetric };
            let spec = DerivedQuantizationSpec {
                derived_from: vec![Point::edge(node.handle, INPUT), Point::edge(node.handle, WEIGHT)],
                derive: DeriveQParams::Bias { repeat: 1 },
                dtype: DType::I32,
                quant_min: Some(i64::from(i32::MIN)),
                quant_max: Some(i64::from(i32::MAX)),
                qscheme: Some(qscheme),
                ch_axis: per_channel.then_some(0),
                is_dynamic: false,
            };
            Some(spec.into())
        }
    }
}
