//! XNNPACK's static patterns.

use pteron_ir::{Arg, NodeId, Op, ValueId};
use pteron_tensor::DType;

use super::PatternQuantizer;
use super::rules::Rules;
use crate::annotation::{InputIndex, Point, QuantizationConfig};
use crate::spec::{QuantizationSpec, Spec};

/// `torch.histc` counts up to here: operators with a constant beyond it are left alone.
const HISTC_UPPER_BOUND: f32 = 3.402_823_5e15;

/// What is captured whole here and is not in the graphs that ExecuTorch's Llama gives its quantizer; and numbers that its
/// `_convert_scalars_to_attrs` makes tensors.
const LACKING: &[Op] = &[Op::RmsNorm, Op::Rope, Op::AddScalar, Op::MulScalar];

impl PatternQuantizer {
    /// ExecuTorch's `XNNPACKQuantizer` with a static configuration set for the whole model: linear layers, convolutions,
    /// additions and products, each also with a ReLU behind it, concatenations; then what passes on an annotated tensor
    /// (`xnnpack_quantizer_utils.py`, `propagate_annotation`). Everything else stays float, as attention and SiLU do. Messages
    /// call it `name`.
    pub fn xnnpack(name: &str, config: QuantizationConfig) -> PatternQuantizer {
        PatternQuantizer { name: name.to_owned(), config, lacking: LACKING, annotate }
    }
}

fn annotate(rules: Rules<'_>, nodes: &[NodeId], config: &QuantizationConfig) {
    let mut patterns = Annotator { rules, config };
    // In the order of `SUPPORTED_PATTERNS`: what is annotated once is left alone.
    for op in [Op::Linear, Op::Convolution, Op::Add, Op::Mul] {
        for &n in nodes {
            if patterns.rules.node(n).op == op {
                patterns.one(n);
            }
        }
    }
    for &n in nodes {
        if patterns.rules.node(n).op == Op::Cat {
            patterns.cat(n);
        }
    }
    for &n in nodes {
        patterns.propagate(n);
    }
}

/// True for operators whose output has the values of their input, or of a subset of them, so that they take its parameters
/// (`_is_share_obs_or_fq_op`).
fn shares(op: Op) -> bool {
    matches!(
        op,
        Op::Relu | Op::Mean | Op::PermuteCopy | Op::TransposeCopy | Op::SqueezeDimCopy | Op::ViewCopy | Op::SliceCopy
    )
}

struct Annotator<'a> {
    rules: Rules<'a>,
    config: &'a QuantizationConfig,
}

impl Annotator<'_> {
    /// A ReLU that alone reads what `n` gives: the two are one pattern, and only the ReLU's output is quantized.
    fn relu_behind(&self, n: NodeId) -> Option<NodeId> {
        let relu = self.rules.only_reader(self.rules.output(n)?)?;
        (self.rules.node(relu).op == Op::Relu && !self.rules.is_annotated(relu)).then_some(relu)
    }

    fn one(&mut self, n: NodeId) {
        if self.rules.is_annotated(n) {
            return;
        }
        let relu = self.relu_behind(n);
        let done = match self.rules.node(n).op {
            Op::Linear => {
                self.rules.weighted(n, self.config, None, relu.is_none());
                true
            }
            Op::Convolution => self.convolution(n, relu.is_none()),
            _ => self.binary(n, relu.is_none()),
        };
        if let (true, Some(relu)) = (done, relu) {
            self.rules.set(relu, Vec::new(), self.output());
        }
    }

    fn output(&self) -> Option<Spec> {
        self.config.output_activation.clone().map(Spec::from)
    }

    /// Transposed ones have their output channels on the weight's second axis, and are known without groups only.
    fn convolution(&mut self, n: NodeId, with_output: bool) -> bool {
        let args = &self.rules.node(n).args;
        let transposed = matches!(args.get(6), Some(Arg::Bool(true)));
        if transposed && !matches!(args.get(8), Some(Arg::Int(1))) {
            return false;
        }
        let weight = self.config.weight.as_ref().filter(|_| transposed);
        let weight = weight.map(|w| QuantizationSpec { ch_axis: Some(1), ..w.clone() });
        self.rules.weighted(n, self.config, weight.as_ref(), with_output);
        true
    }

    fn binary(&mut self, n: NodeId, with_output: bool) -> bool {
        let mut inputs = Vec::new();
        for arg in 0..2u16 {
            let Some(v) = self.rules.input(n, arg) else { continue };
            if !self.is_quantizable(v) {
                return false;
            }
            if let Some(spec) = &self.config.input_activation {
                inputs.push((InputIndex::arg(arg), spec.clone().into()));
            }
        }
        let output = if with_output { self.output() } else { None };
        self.rules.set(n, inputs, output);
        true
    }

    fn is_quantizable(&self, v: ValueId) -> bool {
        let large = self.rules.scalar_constant(v).is_some_and(|c| c.abs() > HISTC_UPPER_BOUND);
        self.rules.dtype(v) == Some(DType::F32) && !large
    }

    /// All inputs and the output share the parameters of one input: the first that traces back to annotated parameters, else
    /// the first.
    fn cat(&mut self, n: NodeId) {
        let inputs = self.rules.inputs(n, 0);
        let float = inputs.iter().all(|&(_, v)| self.rules.dtype(v) == Some(DType::F32));
        let (false, true, Some(spec)) = (self.rules.is_annotated(n), float, &self.config.input_activation) else {
            return;
        };
        let source = inputs.iter().find(|&&(_, v)| self.traces_to_parameters(v)).or(inputs.first());
        let Some(&(source, _)) = source else { return };
        let shared = Spec::Shared(Point::Edge { user: self.rules.node(n).handle, input: source });
        // The source stands first: a group takes the spec of its first member.
        let own = std::iter::once((source, Spec::from(spec.clone())));
        let others = inputs.iter().filter(|(i, _)| *i != source).map(|&(i, _)| (i, shared.clone()));
        let all = own.chain(others).collect();
        self.rules.set(n, all, Some(shared));
    }

    /// Whether `v` is annotated by its producer, or is such a tensor after operators that pass it on.
    fn traces_to_parameters(&self, v: ValueId) -> bool {
        let mut v = v;
        loop {
            if self.rules.annotated_source(v).is_some() {
                return true;
            }
            let Some((n, _)) = self.rules.producer(v) else { return false };
            match (shares(self.rules.node(n).op), self.rules.input(n, 0)) {
                (true, Some(before)) => v = before,
                _ => return false,
            }
        }
    }

    fn propagate(&mut self, n: NodeId) {
        if !shares(self.rules.node(n).op) || self.rules.is_annotated(n) {
            return;
        }
        let Some(point) = self.rules.input(n, 0).and_then(|v| self.rules.annotated_source(v)) else { return };
        self.rules.set(n, vec![(InputIndex::arg(0), Spec::Shared(point))], Some(Spec::Shared(point)));
    }
}
