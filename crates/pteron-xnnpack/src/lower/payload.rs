//! One partition as a payload.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{Arg, ConstId, Def, Graph, IntArg, Module, Node as IrNode, NodeId, Op, ValueId};

use super::constants::{Constants, Form};
use super::linear::{Linear, Weight};
use super::{Choice, Made, Unit, float};
use crate::error::XnnpackError;
use crate::payload::{
    Constant, ConstantBytes, Datatype, Node, NodeKind, OutputRange, Payload, QuantParams, Scales, UnaryKind, Value,
    ValueIndex,
};

type Result<T> = std::result::Result<T, XnnpackError>;

/// An activation's row is its last dimension.
const ROW_DIMS: i32 = 1;

struct Maker<'a> {
    module: &'a Module,
    graph: &'a Graph,
    constants: &'a mut Constants,
    payload: Payload,
    /// Entries of the table of constants, without the first.
    entries: Vec<usize>,
    known: BTreeMap<ValueId, ValueIndex>,
    tables: BTreeMap<usize, usize>,
    weights: BTreeMap<ConstId, ValueIndex>,
    /// What the partition is given and gives, with its external id.
    external: BTreeMap<ValueId, u32>,
    /// How many of these are given by the caller: the first ones.
    inputs: usize,
}

fn broken(what: &str) -> XnnpackError {
    XnnpackError::malformed("partition", what.to_owned(), "a node that fits its operator")
}

/// Makes the payload of `nodes`, which are in order.
pub(super) fn make(
    module: &Module,
    graph: &Graph,
    nodes: &[NodeId],
    choice: &Choice,
    constants: &mut Constants,
) -> Result<Made> {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let made_inside = |v: ValueId| matches!(graph.values[v].def, Def::Node(n, _) if inside.contains(&n));
    let mut inputs: Vec<ValueId> = Vec::new();
    for n in nodes {
        for &v in choice.get(n).iter().flat_map(|c| &c.inputs) {
            if !made_inside(v) && !inputs.contains(&v) {
                inputs.push(v);
            }
        }
    }
    // What somebody outside reads.
    let mut outside: BTreeSet<ValueId> = graph.outputs().iter().copied().collect();
    outside.extend(graph.mutations.iter().map(|m| m.1));
    for n in graph.body().nodes.iter().filter(|n| !inside.contains(n)) {
        match choice.get(n) {
            Some(c) => outside.extend(c.inputs.iter().copied()),
            None => outside.extend(graph.reads(*n)),
        }
    }
    let all = nodes.iter().flat_map(|&n| graph.nodes[n].outputs.iter().copied());
    let outputs: Vec<ValueId> = all.filter(|v| outside.contains(v)).collect();
    let external = (0u32..).zip(inputs.iter().chain(&outputs)).map(|(i, &v)| (v, i)).collect();
    let payload = Payload {
        version: "0".to_owned(),
        identifier: *b"XN01",
        values: Vec::new(),
        nodes: Vec::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        constants: vec![Constant { bytes: ConstantBytes::Blob(0..0), size: 0 }],
    };
    let mut m = Maker {
        module,
        graph,
        constants,
        payload,
        entries: Vec::new(),
        known: BTreeMap::new(),
        tables: BTreeMap::new(),
        weights: BTreeMap::new(),
        external,
        inputs: inputs.len(),
    };
    for &v in &inputs {
        let i = m.value(v)?;
        m.payload.inputs.push(i);
    }
    for &n in nodes {
        let node = &graph.nodes[n];
        match choice.get(&n).map(|c| &c.unit) {
            Some(Unit::Linear(l)) => m.linear(node, l)?,
            _ => m.float(node)?,
        }
    }
    m.payload.outputs = outputs.iter().map(|&v| m.value(v)).collect::<Result<_>>()?;
    let path = nodes.first().map(|&n| graph.nodes[n].path).ok_or_else(|| broken("no node"))?;
    Ok(Made { inputs, outputs, payload: m.payload, constants: m.entries, path })
}

impl Maker<'_> {
    fn push(&mut self, mut v: Value) -> ValueIndex {
        let i = self.payload.values.len();
        v.id = u32::try_from(i).unwrap_or(u32::MAX);
        self.payload.values.push(v);
        i
    }

    fn dims(&self, v: ValueId) -> Result<Vec<u32>> {
        let ty = self.graph.ty(v).as_tensor().ok_or_else(|| broken("a value that is no tensor"))?;
        let dims = ty.dims.iter().map(|d| u32::try_from(d.max(&self.graph.symbols)));
        dims.collect::<std::result::Result<_, _>>().map_err(|_| broken("a size that has no bound"))
    }

    /// A value that is computed, or given by the caller.
    fn value(&mut self, v: ValueId) -> Result<ValueIndex> {
        if let Some(&i) = self.known.get(&v) {
            return Ok(i);
        }
        let external_id = self.external.get(&v).copied();
        let is_input = external_id.is_some_and(|e| (e as usize) < self.inputs);
        let is_output = external_id.is_some() && !is_input;
        let dims = self.dims(v)?;
        let value = Value { external_id, is_input, is_output, ..internal(Datatype::Fp32, dims) };
        let i = self.push(value);
        self.known.insert(v, i);
        Ok(i)
    }

    /// Position of a constant's form in the payload's table.
    fn entry(&mut self, c: ConstId, form: Form) -> Result<usize> {
        let at = self.constants.add(self.module, c, form)?;
        if let Some(&i) = self.tables.get(&at) {
            return Ok(i);
        }
        self.entries.push(at);
        let size = self.constants.source(at).map_or(0, |s| s.byte_len() as u64);
        self.payload.constants.push(Constant { bytes: ConstantBytes::Blob(0..0), size });
        let i = self.payload.constants.len() - 1;
        self.tables.insert(at, i);
        Ok(i)
    }

    /// A constant of f32.
    fn float_constant(&mut self, c: ConstId) -> Result<ValueIndex> {
        if let Some(&i) = self.weights.get(&c) {
            return Ok(i);
        }
        let dims = self.constant_dims(c)?;
        let constant = Some(self.entry(c, Form::Float)?);
        let i = self.push(Value { constant, ..internal(Datatype::Fp32, dims) });
        self.weights.insert(c, i);
        Ok(i)
    }

    fn constant_dims(&self, c: ConstId) -> Result<Vec<u32>> {
        let sizes = self.module.constants[c].ty.fixed_sizes().ok_or_else(|| broken("a constant of unknown size"))?;
        let dims: std::result::Result<Vec<u32>, _> = sizes.iter().map(|&s| u32::try_from(s)).collect();
        match dims {
            Ok(dims) if dims.is_empty() => Ok(vec![1]),
            Ok(dims) => Ok(dims),
            Err(_) => Err(broken("a size beyond 32 bits")),
        }
    }

    fn weight(&mut self, w: Weight) -> Result<ValueIndex> {
        let (codes, scales, form, group) = match w {
            Weight::Float(c) => return self.float_constant(c),
            Weight::PerChannel { codes, scales, .. } => (codes, scales, Form::ScalesF32, None),
            Weight::PerGroup { codes, scales, group } => (codes, scales, Form::ScalesBf16, Some(group)),
        };
        if let Some(&i) = self.weights.get(&codes) {
            return Ok(i);
        }
        let dims = self.constant_dims(codes)?;
        let constant = Some(self.entry(codes, w.form())?);
        let index = self.entry(scales, form)?;
        let count = self.module.constants[scales].ty.numel(&self.graph.symbols).as_const();
        let count = count.and_then(|n| u32::try_from(n).ok()).ok_or_else(|| broken("an unknown number of scales"))?;
        let scales = Scales::Constant { index, count };
        let (datatype, quant) = match (group, w.form()) {
            (Some(group), _) => {
                let group_size = i32::try_from(group).map_err(|_| broken("a group beyond 32 bits"))?;
                (Datatype::QbInt4, QuantParams::PerChannelGroup { scales, channel_dim: 0, group_size })
            }
            (None, Form::Nibbles) => (Datatype::QcInt4, QuantParams::PerChannel { scales, channel_dim: 0 }),
            (None, _) => (Datatype::QcInt8, QuantParams::PerChannel { scales, channel_dim: 0 }),
        };
        let i = self.push(Value { constant, quant: Some(quant), ..internal(datatype, dims) });
        self.weights.insert(codes, i);
        Ok(i)
    }

    fn add(&mut self, node: &IrNode, kind: NodeKind, bits: u32, range: Option<OutputRange>) {
        self.payload.nodes.push(Node { kind, flags: bits, debug_handle: node.handle.0, range });
    }

    /// Each layer converts its activation for itself, as ExecuTorch's exporter duplicates the chain of quantization.
    fn linear(&mut self, node: &IrNode, l: &Linear) -> Result<()> {
        let mut input = self.value(l.x)?;
        if l.is_dynamic() {
            let quant = Some(QuantParams::PerTokenDynamic { num_nonbatch_dims: ROW_DIMS });
            let codes = self.push(Value { quant, ..internal(Datatype::QdInt8, self.dims(l.x)?) });
            self.add(node, NodeKind::Unary { kind: UnaryKind::Convert, input, output: codes }, 0, None);
            input = codes;
        }
        let filter = self.weight(l.weight)?;
        let bias = l.bias.map(|b| self.float_constant(b)).transpose()?;
        let output = self.value(*node.outputs.first().ok_or_else(|| broken("a layer without output"))?)?;
        self.add(node, NodeKind::FullyConnected { input, filter, bias, output }, 0, None);
        Ok(())
    }

    /// Argument `i`: a value, a constant, or a number as a constant of one element.
    fn operand(&mut self, node: &IrNode, i: usize) -> Result<ValueIndex> {
        match node.args.get(i) {
            Some(Arg::Value(v)) => match self.graph.values[*v].def {
                Def::Const(c) => self.float_constant(c),
                _ => self.value(*v),
            },
            other => match float::number(other) {
                Some(x) => {
                    let constant = Some(self.number(x as f32)?);
                    Ok(self.push(Value { constant, ..internal(Datatype::Fp32, vec![1]) }))
                }
                None => Err(broken("an argument that is neither tensor nor number")),
            },
        }
    }

    /// Position of a number in the payload's table.
    fn number(&mut self, x: f32) -> Result<usize> {
        let at = self.constants.number(x)?;
        if let Some(&i) = self.tables.get(&at) {
            return Ok(i);
        }
        self.entries.push(at);
        self.payload.constants.push(Constant { bytes: ConstantBytes::Blob(0..0), size: 4 });
        let i = self.payload.constants.len() - 1;
        self.tables.insert(at, i);
        Ok(i)
    }

    fn ints(&self, node: &IrNode, i: usize) -> Result<Vec<i64>> {
        let Some(Arg::Ints(list)) = node.args.get(i) else { return Err(broken("a list of ints is missing")) };
        let known = |a: &IntArg| if let IntArg::Const(c) = a { Ok(*c) } else { Err(broken("an int is not known")) };
        list.iter().map(known).collect()
    }

    fn float(&mut self, node: &IrNode) -> Result<()> {
        let out = *node.outputs.first().ok_or_else(|| broken("a node without output"))?;
        if let Some(kind) = float::binary(node.op) {
            let (a, b) = (self.operand(node, 0)?, self.operand(node, 1)?);
            let output = self.value(out)?;
            self.add(node, NodeKind::Binary { kind, a, b, output }, 0, None);
            return Ok(());
        }
        if node.op == Op::Cat {
            return self.concatenate(node, out);
        }
        let input = self.operand(node, 0)?;
        let output = self.value(out)?;
        let range = match node.op {
            Op::Relu => Some(OutputRange { min: 0.0, max: f32::INFINITY }),
            Op::Clamp => Some(OutputRange {
                min: float::number(node.args.get(1)).map_or(f32::NEG_INFINITY, |x| x as f32),
                max: float::number(node.args.get(2)).map_or(f32::INFINITY, |x| x as f32),
            }),
            _ => None,
        };
        let kind = match (float::unary(node.op), node.op) {
            (Some(kind), _) => NodeKind::Unary { kind, input, output },
            (None, Op::PermuteCopy) => {
                let rank = i64::try_from(self.dims(out)?.len()).unwrap_or(i64::MAX);
                let perm = self.ints(node, 1)?.into_iter().map(|d| u32::try_from(if d < 0 { d + rank } else { d }));
                let perm = perm.collect::<std::result::Result<_, _>>().map_err(|_| broken("a permutation"))?;
                NodeKind::StaticTranspose { perm, input, output }
            }
            (None, Op::SliceCopy) => {
                let (axis, start, kept) = float::slice(self.graph, node).ok_or_else(|| broken("a slice"))?;
                let mut sizes = self.dims(out)?;
                let mut offsets = vec![0; sizes.len()];
                if let (Some(o), Some(s)) = (offsets.get_mut(axis), sizes.get_mut(axis)) {
                    (*o, *s) = (start, kept);
                }
                NodeKind::StaticSlice { offsets, sizes, input, output }
            }
            (None, _) => NodeKind::StaticReshape { new_shape: self.dims(out)?, input, output },
        };
        self.add(node, kind, 0, range);
        Ok(())
    }

    fn concatenate(&mut self, node: &IrNode, out: ValueId) -> Result<()> {
        let Some(Arg::Values(list)) = node.args.first() else { return Err(broken("tensors to join are missing")) };
        let mut inputs = Vec::with_capacity(list.len());
        for v in list.iter().flatten() {
            inputs.push(match self.graph.values[*v].def {
                Def::Const(c) => self.float_constant(c)?,
                _ => self.value(*v)?,
            });
        }
        let rank = i64::try_from(self.dims(out)?.len()).unwrap_or(i64::MAX);
        let axis = match node.args.get(1) {
            Some(Arg::Int(d)) => u32::try_from(if *d < 0 { d + rank } else { *d }).map_err(|_| broken("an axis"))?,
            _ => return Err(broken("an axis that is no number")),
        };
        let output = self.value(out)?;
        self.add(node, NodeKind::Concatenate { axis, inputs, output }, 0, None);
        Ok(())
    }
}

fn internal(datatype: Datatype, dims: Vec<u32>) -> Value {
    Value {
        id: 0,
        datatype,
        dims,
        constant: None,
        external_id: None,
        is_input: false,
        is_output: false,
        dq_datatype: None,
        quant: None,
    }
}
