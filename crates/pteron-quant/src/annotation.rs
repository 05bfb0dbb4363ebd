//! What a quantizer writes down: for each node, how its inputs and outputs are quantized.

use std::collections::BTreeMap;
use std::fmt;

use pteron_ir::DebugHandle;

use crate::error::SpecError;
use crate::spec::{QuantizationSpec, Spec};

/// An input of a node: the argument's index in the schema and, for a list of tensors, the index in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputIndex {
    /// Index of the argument.
    pub arg: u16,
    /// Index within a list of tensors; 0 for a single tensor.
    pub item: u16,
}

impl InputIndex {
    /// The argument `arg`, a single tensor.
    pub const fn arg(arg: u16) -> InputIndex {
        InputIndex { arg, item: 0 }
    }

    /// The tensor `item` of the list that argument `arg` is.
    pub const fn item(arg: u16, item: u16) -> InputIndex {
        InputIndex { arg, item }
    }
}

/// A place where a tensor is quantized: PT2E's `EdgeOrNode`. An edge is known by its consumer and the input there, an output by
/// its producer, both by their stable numbers, so that annotations outlive renumbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// What `user` reads at `input`.
    Edge {
        /// The consumer.
        user: DebugHandle,
        /// Which of its inputs.
        input: InputIndex,
    },
    /// What `node` gives at `output`.
    Output {
        /// The producer.
        node: DebugHandle,
        /// Which of its outputs.
        output: u16,
    },
}

impl Point {
    /// The edge into the single-tensor argument `arg` of `user`.
    pub const fn edge(user: DebugHandle, arg: u16) -> Point {
        Point::Edge { user, input: InputIndex::arg(arg) }
    }

    /// The first output of `node`.
    pub const fn output(node: DebugHandle) -> Point {
        Point::Output { node, output: 0 }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Edge { user, input: InputIndex { arg, item: 0 } } => write!(f, "input {arg} of node {user}"),
            Point::Edge { user, input: InputIndex { arg, item } } => write!(f, "input {arg}[{item}] of node {user}"),
            Point::Output { node, output: 0 } => write!(f, "the output of node {node}"),
            Point::Output { node, output } => write!(f, "output {output} of node {node}"),
        }
    }
}

/// PT2E's `QuantizationAnnotation` of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationAnnotation {
    /// How each annotated input is quantized, in the order in which they were annotated: the order decides which spec a
    /// sharing group takes.
    pub inputs: Vec<(InputIndex, Spec)>,
    /// How each annotated output is quantized.
    pub outputs: Vec<(u16, Spec)>,
    /// Inputs whose spec equals that of the same tensor elsewhere share its observer.
    pub allow_implicit_sharing: bool,
    /// A quantizer has dealt with the node, even if it quantizes nothing there; others leave it alone.
    pub annotated: bool,
}

impl Default for QuantizationAnnotation {
    fn default() -> QuantizationAnnotation {
        QuantizationAnnotation {
            inputs: Vec::new(),
            outputs: Vec::new(),
            allow_implicit_sharing: true,
            annotated: false,
        }
    }
}

impl QuantizationAnnotation {
    /// Sets how an input is quantized; the last setting counts, at the place of the first.
    pub fn set_input(&mut self, input: InputIndex, spec: impl Into<Spec>) {
        let spec = spec.into();
        match self.inputs.iter_mut().find(|(i, _)| *i == input) {
            Some((_, s)) => *s = spec,
            None => self.inputs.push((input, spec)),
        }
    }

    /// Sets how an output is quantized.
    pub fn set_output(&mut self, output: u16, spec: impl Into<Spec>) {
        let spec = spec.into();
        match self.outputs.iter_mut().find(|(o, _)| *o == output) {
            Some((_, s)) => *s = spec,
            None => self.outputs.push((output, spec)),
        }
    }

    /// How an input is quantized.
    pub fn input(&self, input: InputIndex) -> Option<&Spec> {
        self.inputs.iter().find(|(i, _)| *i == input).map(|(_, s)| s)
    }

    /// How an output is quantized.
    pub fn output(&self, output: u16) -> Option<&Spec> {
        self.outputs.iter().find(|(o, _)| *o == output).map(|(_, s)| s)
    }

    /// Checks every spec.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        let specs = self.inputs.iter().map(|(_, s)| s).chain(self.outputs.iter().map(|(_, s)| s));
        specs.into_iter().try_for_each(Spec::validate)
    }
}

/// The annotations of a graph, by node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    nodes: BTreeMap<DebugHandle, QuantizationAnnotation>,
}

impl Annotations {
    /// No annotations.
    pub fn new() -> Annotations {
        Annotations::default()
    }

    /// The annotation of a node.
    pub fn get(&self, node: DebugHandle) -> Option<&QuantizationAnnotation> {
        self.nodes.get(&node)
    }

    /// The annotation of a node, made empty if there is none.
    pub fn at(&mut self, node: DebugHandle) -> &mut QuantizationAnnotation {
        self.nodes.entry(node).or_default()
    }

    /// True if a quantizer has dealt with the node.
    pub fn is_annotated(&self, node: DebugHandle) -> bool {
        self.nodes.get(&node).is_some_and(|a| a.annotated)
    }

    /// The spec at a point.
    pub fn spec(&self, point: Point) -> Option<&Spec> {
        match point {
            Point::Edge { user, input } => self.nodes.get(&user)?.input(input),
            Point::Output { node, output } => self.nodes.get(&node)?.output(output),
        }
    }

    /// Nodes with their annotations, by number.
    pub fn iter(&self) -> impl Iterator<Item = (DebugHandle, &QuantizationAnnotation)> {
        self.nodes.iter().map(|(h, a)| (*h, a))
    }

    /// Removes the annotation of a node.
    pub fn remove(&mut self, node: DebugHandle) -> Option<QuantizationAnnotation> {
        self.nodes.remove(&node)
    }

    /// The nodes whose annotation in `after` differs from that in `self` or is gone, for quantizers that are composed: a later
    /// one must not change what an earlier one wrote.
    pub fn overwritten_in(&self, after: &Annotations) -> Vec<DebugHandle> {
        self.nodes.iter().filter(|(h, a)| after.nodes.get(h) != Some(a)).map(|(h, _)| *h).collect()
    }
}

/// How a bias is quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum BiasSpec {
    /// By its own range.
    Observed(QuantizationSpec),
    /// By the product of the activation's and the weight's scales, `int32`, for each channel (see
    /// [`crate::spec::DeriveQParams::Bias`]).
    Derived,
}

/// PT2E's `QuantizationConfig`: the specs that a quantizer puts on an operator's tensors. `None`: stays float.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QuantizationConfig {
    /// Input activations.
    pub input_activation: Option<QuantizationSpec>,
    /// Output activations.
    pub output_activation: Option<QuantizationSpec>,
    /// Weights.
    pub weight: Option<QuantizationSpec>,
    /// Biases.
    pub bias: Option<BiasSpec>,
    /// Made for quantization-aware training.
    pub is_qat: bool,
    /// Sizes of a weight's blocks.
    pub block_size: Option<Vec<usize>>,
    /// QNN: embeddings take the weight's per-channel spec in place of the activation's.
    pub per_channel_embedding: bool,
}

impl QuantizationConfig {
    /// Checks every spec.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        let specs = [&self.input_activation, &self.output_activation, &self.weight];
        specs.into_iter().flatten().try_for_each(QuantizationSpec::validate)?;
        match &self.bias {
            Some(BiasSpec::Observed(s)) => s.validate(),
            Some(BiasSpec::Derived) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pteron_tensor::DType;

    use super::*;
    use crate::spec::FixedQParamsQuantizationSpec;

    fn fixed(scale: f64) -> FixedQParamsQuantizationSpec {
        FixedQParamsQuantizationSpec {
            dtype: DType::U8,
            scale,
            zero_point: 0,
            quant_min: None,
            quant_max: None,
            qscheme: None,
            is_dynamic: false,
        }
    }

    #[test]
    fn later_settings_replace_earlier_ones() {
        let mut a = Annotations::new();
        let node = DebugHandle(3);
        a.at(node).set_input(InputIndex::arg(1), fixed(1.0));
        a.at(node).set_input(InputIndex::item(2, 1), fixed(2.0));
        a.at(node).set_input(InputIndex::arg(1), fixed(3.0));
        a.at(node).set_output(0, fixed(4.0));
        assert_eq!(a.get(node).unwrap().inputs.len(), 2);
        assert_eq!(a.spec(Point::edge(node, 1)), Some(&Spec::Fixed(fixed(3.0))));
        assert_eq!(a.spec(Point::output(node)), Some(&Spec::Fixed(fixed(4.0))));
        assert_eq!(a.spec(Point::output(DebugHandle(4))), None);
        assert!(!a.is_annotated(node));
        assert_eq!(a.get(node).unwrap().validate(), Ok(()));
    }

    #[test]
    fn overwriting_is_seen() {
        let mut before = Annotations::new();
        before.at(DebugHandle(1)).set_output(0, fixed(1.0));
        before.at(DebugHandle(2)).set_output(0, fixed(1.0));
        let mut after = before.clone();
        after.at(DebugHandle(9)).annotated = true;
        assert_eq!(before.overwritten_in(&after), []);
        after.at(DebugHandle(2)).set_output(0, fixed(2.0));
        after.remove(DebugHandle(1));
        assert_eq!(before.overwritten_in(&after), [DebugHandle(1), DebugHandle(2)]);
    }

    #[test]
    fn points_have_names() {
        assert_eq!(Point::edge(DebugHandle(7), 1).to_string(), "input 1 of node #7");
        let item = Point::Edge { user: DebugHandle(7), input: InputIndex::item(0, 2) };
        assert_eq!(item.to_string(), "input 0[2] of node #7");
        assert_eq!(Point::output(DebugHandle(7)).to_string(), "the output of node #7");
    }
}
