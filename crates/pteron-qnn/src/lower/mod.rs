//! From nodes of a quantized graph to a QNN graph.
//!
//! Quantize and dequantize nodes say how tensors are encoded, and are nodes of QNN only where numbers really change: at a float
//! input (`Quantize`), at a float output (`Dequantize`), between a producer and a consumer of other parameters (`Convert`).
//! What ExecuTorch does with the passes `AnnotateQuantAttrs`, `FoldQDQ`, `InsertRequantize` and `InsertIOQDQ`.
//!
//! 64-bit integers are 32-bit ones in QNN (`I64toI32`). A tensor without dimensions has one of size 1.

mod elementwise;
mod layers;
mod params;
mod shape;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use pteron_ir::{BufferId, ConstId, Def, Graph, Module, Node, NodeId, Op, TensorType, ValueId};
use pteron_tensor::{CastSource, DType};

use crate::graph::{Data, DataType, Encoding, Param, ParamValue, QnnGraph, QnnNode, QnnTensor, Scalar, TensorKind};
use crate::names;
use params::Act;

pub(crate) use params::{is_dequantize, is_quantization, is_quantize};

/// The operator of QNN that a linear layer becomes. Both compute the same integers. Weights in blocks (LPBQ) become a
/// convolution whichever is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LinearForm {
    /// `FullyConnected`.
    FullyConnected,
    /// A 1×1 `Conv2d`, as ExecuTorch lowers language models for the HTP.
    #[default]
    Conv2d,
}

/// What a part of a graph reads and gives.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Boundary {
    /// Values from outside, in the order of the delegate's arguments.
    pub inputs: Vec<ValueId>,
    /// Values read outside, in the order of the delegate's results.
    pub outputs: Vec<ValueId>,
    /// Buffers that live in the delegate, with what each holds at the end.
    pub buffers: Vec<(BufferId, ValueId)>,
}

/// A part of a graph in QNN's terms.
#[derive(Debug, Clone)]
pub struct Lowered {
    /// The graph.
    pub graph: QnnGraph,
    /// For each node that was lowered, its nodes in [`Lowered::graph`]; none where it only says how a tensor is encoded.
    pub nodes: Vec<(NodeId, Range<usize>)>,
    /// Nodes that QNN has no words for, with the reason.
    pub refused: Vec<(NodeId, String)>,
}

/// Lowers `nodes`, in order. Where one cannot be lowered, what it gives is taken to come from outside.
pub fn lower(module: &Module, graph: &Graph, nodes: &[NodeId], boundary: &Boundary, form: LinearForm) -> Lowered {
    let mut b = Builder {
        module,
        graph,
        form,
        out: QnnGraph::new(graph.name.clone()),
        acts: params::activations(graph),
        inside: nodes.iter().copied().collect(),
        boundary,
        tensors: BTreeMap::new(),
        statics: BTreeMap::new(),
        narrowed: BTreeMap::new(),
        floats: BTreeMap::new(),
        names: BTreeMap::new(),
        results: Vec::new(),
        path: String::new(),
    };
    let (mut done, mut refused) = (Vec::new(), Vec::new());
    for &n in nodes {
        let start = (b.out.nodes.len(), b.out.tensors.len());
        match b.node(n) {
            Ok(()) => done.push((n, start.0..b.out.nodes.len())),
            Err(reason) => {
                // Tensors that it made stay, unread: the table of values may name them.
                b.out.nodes.truncate(start.0);
                b.narrowed.retain(|_, &mut to| to < start.1);
                b.floats.retain(|_, &mut to| to < start.1);
                b.inside.remove(&n);
                graph.nodes[n].outputs.iter().for_each(|v| {
                    b.tensors.remove(v);
                });
                refused.push((n, reason));
            }
        }
    }
    let close = b.close();
    if let (Err(reason), Some(&last)) = (close, nodes.last()) {
        refused.push((last, reason));
    }
    Lowered { graph: b.finish(), nodes: done, refused }
}

/// Which form of a constant a static tensor holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    Plain,
    Matrix,
    Convolution,
    Bias,
}

struct Builder<'a> {
    module: &'a Module,
    graph: &'a Graph,
    form: LinearForm,
    out: QnnGraph,
    acts: BTreeMap<ValueId, Act>,
    inside: BTreeSet<NodeId>,
    boundary: &'a Boundary,
    /// Tensors of values, by canonical value.
    tensors: BTreeMap<ValueId, usize>,
    /// Static tensors of constants; a number tells biases of different scales apart.
    statics: BTreeMap<(ConstId, Form, usize), usize>,
    /// 32-bit copies of 64-bit tensors.
    narrowed: BTreeMap<usize, usize>,
    /// Dequantized copies of integers.
    floats: BTreeMap<usize, usize>,
    names: BTreeMap<String, usize>,
    /// Tensors of the boundary's outputs, then of its buffers.
    results: Vec<usize>,
    /// The name of the node that is lowered.
    path: String,
}

type Res<T> = Result<T, String>;

/// QNN's type of numbers that are not quantized.
fn plain_type(dtype: DType) -> Res<DataType> {
    Ok(match dtype {
        DType::F32 => DataType::Float32,
        DType::F16 => DataType::Float16,
        DType::I64 | DType::I32 => DataType::Int32,
        DType::I16 => DataType::Int16,
        DType::I8 => DataType::Int8,
        DType::U8 => DataType::UInt8,
        DType::U16 => DataType::UInt16,
        DType::Bool => DataType::Bool8,
        other => return Err(format!("QNN has no elements of {other} here")),
    })
}

fn dims_of(ty: &TensorType) -> Res<Vec<u32>> {
    let sizes = ty.fixed_sizes().ok_or_else(|| format!("{ty} has a size that is not constant"))?;
    if sizes.is_empty() {
        return Ok(vec![1]);
    }
    sizes.iter().map(|&s| u32::try_from(s).map_err(|_| format!("{ty} has a size beyond 32 bits"))).collect()
}

fn u32_of(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn scalar(name: &str, value: Scalar) -> Param {
    Param { name: name.to_owned(), value: ParamValue::Scalar(value) }
}

fn u32s(name: &str, values: &[u32]) -> Param {
    Param { name: name.to_owned(), value: ParamValue::u32s(&[u32_of(values.len())], values) }
}

/// A module path or an operator as a part of a name.
fn plain_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

impl Builder<'_> {
    /// The value whose tensor stands for `v`: what says only how a tensor is encoded is passed over.
    fn canonical(&self, v: ValueId) -> ValueId {
        let mut v = v;
        loop {
            let Def::Node(n, _) = self.graph.values[v].def else { return v };
            let node = &self.graph.nodes[n];
            let Some(x) = params::value(node, 0) else { return v };
            if node.op == Op::DequantizePerTensor && params::constant(self.graph, x).is_some() {
                return x;
            }
            if !self.inside.contains(&n) {
                return v;
            }
            if node.op == Op::DequantizePerTensor {
                v = x;
            } else if node.op == Op::QuantizePerTensor {
                let from = self.canonical(x);
                match (self.act(from), params::per_tensor(node)) {
                    (Some(a), Some(b)) if a == b => v = from,
                    _ => return v,
                }
            } else {
                return v;
            }
        }
    }

    /// The parameters of a value's tensor; none for floats from outside.
    fn act(&self, v: ValueId) -> Option<Act> {
        let float = self.graph.ty(v).as_tensor().is_some_and(|t| t.dtype.is_float());
        let outside = match self.graph.values[v].def {
            Def::Node(n, _) => !self.inside.contains(&n),
            Def::Input(_) | Def::Param(..) => true,
            Def::Buffer(_) | Def::Const(_) => false,
        };
        if float && outside { None } else { self.acts.get(&v).copied() }
    }

    fn ty(&self, v: ValueId) -> Res<&TensorType> {
        self.graph.ty(v).as_tensor().ok_or_else(|| "a number that is no tensor is not known to QNN".to_owned())
    }

    fn dims(&self, v: ValueId) -> Res<Vec<u32>> {
        dims_of(self.ty(v)?)
    }

    /// A name that no tensor and no node has.
    fn fresh(&mut self, base: &str) -> String {
        let count = self.names.entry(base.to_owned()).or_insert(0);
        *count += 1;
        if *count == 1 { base.to_owned() } else { format!("{base}__{count}") }
    }

    fn add(&mut self, base: &str, kind: TensorKind, dtype: DataType, dims: Vec<u32>, encoding: Encoding) -> usize {
        let name = self.fresh(base);
        self.out.add_tensor(QnnTensor { name, kind, dtype, dims, encoding, data: None })
    }

    fn add_static(&mut self, base: &str, dtype: DataType, dims: Vec<u32>, encoding: Encoding, data: Data) -> usize {
        let name = self.fresh(base);
        let kind = TensorKind::Static;
        self.out.add_tensor(QnnTensor { name, kind, dtype, dims, encoding, data: Some(data) })
    }

    /// Adds a node named after the one that is lowered. Where one of its tensors is of floats, it computes with floats: integers
    /// among its inputs are dequantized before it, and those that it gives are quantized behind it.
    fn op(&mut self, op: &str, params: Vec<Param>, mut inputs: Vec<usize>, mut outputs: Vec<usize>) {
        let mut quantized = Vec::new();
        let is_float = |b: &Self, t: &usize| matches!(b.out.tensors[*t].dtype, DataType::Float32 | DataType::Float16);
        let converts = matches!(op, "Quantize" | "Dequantize" | "Convert" | "Cast");
        if !converts && inputs.iter().chain(&outputs).any(|t| is_float(self, t)) {
            for t in &mut inputs {
                *t = self.float_of(*t);
            }
            for t in &mut outputs {
                if self.out.tensors[*t].dtype.is_fixed() {
                    let (dims, base) = (self.out.tensors[*t].dims.clone(), format!("{}_float", self.path));
                    let float = self.add(&base, TensorKind::Native, DataType::Float32, dims, Encoding::None);
                    quantized.push((float, std::mem::replace(t, float)));
                }
            }
        }
        self.add_op(op, params, inputs, outputs);
        for (float, to) in quantized {
            self.add_op("Quantize", Vec::new(), vec![float], vec![to]);
        }
    }

    fn add_op(&mut self, op: &str, params: Vec<Param>, inputs: Vec<usize>, outputs: Vec<usize>) {
        let base = format!("{}_{op}", self.path);
        let name = self.fresh(&base);
        self.out.add_node(QnnNode { name, op: op.to_owned(), params, inputs, outputs });
    }

    /// The floats that the integers of a tensor with one scale stand for; other tensors as they are.
    fn float_of(&mut self, t: usize) -> usize {
        let tensor = &self.out.tensors[t];
        if !tensor.dtype.is_fixed() || !matches!(tensor.encoding, Encoding::ScaleOffset(_)) {
            return t;
        }
        if let Some(&known) = self.floats.get(&t) {
            return known;
        }
        let (base, dims) = (format!("{}_float", tensor.name), tensor.dims.clone());
        let float = self.add(&base, TensorKind::Native, DataType::Float32, dims, Encoding::None);
        self.add_op("Dequantize", Vec::new(), vec![t], vec![float]);
        self.floats.insert(t, float);
        float
    }

    /// The tensor of an argument.
    fn arg(&mut self, node: &Node, i: usize) -> Res<usize> {
        let v = params::value(node, i).ok_or_else(|| format!("argument {i} is no tensor"))?;
        self.tensor(v)
    }

    /// The tensor of a value, with 64-bit integers as 32-bit ones.
    fn tensor(&mut self, v: ValueId) -> Res<usize> {
        let v = self.canonical(v);
        let t = match self.tensors.get(&v) {
            Some(&t) => t,
            None => match self.graph.values[v].def {
                Def::Const(c) => self.plain_constant(v, c)?,
                Def::Node(n, _) if self.reads_constant(n) => self.constant_of(n)?,
                Def::Input(_) | Def::Buffer(_) | Def::Param(..) | Def::Node(..) => self.outside_value(v)?,
            },
        };
        if self.out.tensors[t].dtype != DataType::Int64 {
            return Ok(t);
        }
        if let Some(&known) = self.narrowed.get(&t) {
            return Ok(known);
        }
        let (base, dims) = (format!("{}_i32", self.out.tensors[t].name), self.out.tensors[t].dims.clone());
        let narrow = self.add(&base, TensorKind::Native, DataType::Int32, dims, Encoding::None);
        self.op("Cast", Vec::new(), vec![t], vec![narrow]);
        self.narrowed.insert(t, narrow);
        Ok(narrow)
    }

    /// True for a node that dequantizes a constant.
    fn reads_constant(&self, n: NodeId) -> bool {
        let node = &self.graph.nodes[n];
        let of = params::value(node, 0).and_then(|v| params::constant(self.graph, v));
        params::is_dequantize(node.op) && of.is_some()
    }

    /// A constant by itself, or one that is dequantized with one scale.
    fn plain_constant(&mut self, v: ValueId, c: ConstId) -> Res<usize> {
        if let Some(&t) = self.statics.get(&(c, Form::Plain, 0)) {
            return Ok(t);
        }
        let (source, dims) = (params::source(self.module, c)?, self.dims(v)?);
        let act = self.acts.get(&v).copied();
        let (dtype, encoding) = match act {
            Some(act) if !source.dtype().is_float() => (act.dtype, act.encoding()),
            _ => (plain_type(source.dtype())?, Encoding::None),
        };
        let stored = dtype.dtype().unwrap_or(source.dtype());
        let base = plain_name(&self.module.constants[c].name);
        let t = self.add_static(&base, dtype, dims, encoding, Data::Rows(CastSource::wrap(source, stored)));
        self.statics.insert((c, Form::Plain, 0), t);
        Ok(t)
    }

    /// The constant that dequantize node `n` reads, in its own order.
    fn constant_of(&mut self, n: NodeId) -> Res<usize> {
        let weight = self.weight(&self.graph.nodes[n])?;
        let (c, axis) = (weight.constant, weight.axis.unwrap_or(0));
        if let Some(&t) = self.statics.get(&(c, Form::Plain, 0)) {
            return Ok(t);
        }
        let source = params::source(self.module, c)?;
        let shape = source.shape().to_vec();
        let encoding = weight.encoding(&shape, axis)?;
        let dims = if shape.is_empty() { vec![1] } else { shape.iter().map(|&s| u32_of(s)).collect() };
        let base = plain_name(&self.module.constants[c].name);
        let t = self.add_static(&base, weight.dtype, dims, encoding, weight.codes(source));
        self.statics.insert((c, Form::Plain, 0), t);
        Ok(t)
    }

    /// The parameters of the constant that a dequantize node reads.
    fn weight(&self, node: &Node) -> Res<weights::WeightParams> {
        params::weight(self.module, self.graph, node)?
            .ok_or_else(|| format!("{} of a value that is no constant is not known to QNN", node.op))
    }

    /// A tensor that another part of the program gives, or a buffer.
    fn outside_value(&mut self, v: ValueId) -> Res<usize> {
        let ty = self.ty(v)?;
        let (dims, plain) = (dims_of(ty)?, ty.dtype);
        let (dtype, encoding) = match self.act(v) {
            Some(act) => (act.dtype, act.encoding()),
            // Only at the boundary, where the program's tensor has them.
            None if plain == DType::I64 => (DataType::Int64, Encoding::None),
            None => (plain_type(plain)?, Encoding::None),
        };
        let base = match &self.graph.values[v].name {
            Some(name) => plain_name(name),
            None => format!("v{v}").replace('%', ""),
        };
        let position = self.boundary.inputs.iter().position(|&i| i == v);
        let name = match self.graph.values[v].def {
            Def::Buffer(b) => {
                let at = self.boundary.buffers.iter().position(|x| x.0 == b).unwrap_or(0);
                let id = self.boundary.inputs.len() + at;
                names::mutable_input(u32_of(id), u32_of(at), &plain_name(&self.module.buffers[b].name))
            }
            _ => names::input(position.map_or(u32::MAX, u32_of), &base),
        };
        let t = self.add(&name, TensorKind::AppWrite, dtype, dims, encoding);
        self.tensors.insert(v, t);
        Ok(t)
    }

    /// The tensor that a node's output becomes, native for now.
    fn output(&mut self, v: ValueId) -> Res<usize> {
        let ty = self.ty(v)?;
        let (dims, plain) = (dims_of(ty)?, ty.dtype);
        let (dtype, encoding) = match self.act(v) {
            Some(act) => (act.dtype, act.encoding()),
            None => (plain_type(plain)?, Encoding::None),
        };
        let base = self.path.clone();
        let t = self.add(&base, TensorKind::Native, dtype, dims, encoding);
        self.tensors.insert(v, t);
        Ok(t)
    }

    /// A native tensor of the type and encoding of `like`, with other sizes.
    fn like(&mut self, like: usize, dims: Vec<u32>, suffix: &str) -> usize {
        let (dtype, encoding) = (self.out.tensors[like].dtype, self.out.tensors[like].encoding.clone());
        let base = format!("{}_{suffix}", self.path);
        self.add(&base, TensorKind::Native, dtype, dims, encoding)
    }

    fn node(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let path = graph.paths.get(node.path).map_or("", |p| p.as_ref());
        let short = node.op.name().rsplit("::").next().unwrap_or_default();
        self.path = plain_name(&format!("{path}{}{short}_{}", if path.is_empty() { "" } else { "_" }, node.handle.0));
        if let Some(wrong) = node.outputs.iter().find_map(|&v| self.dims(v).err()) {
            return Err(wrong);
        }
        match node.op {
            op if params::is_quantization(op) => self.quantization(n, node),
            op if elementwise::is(op) => self.elementwise(node),
            op if shape::is(op) => self.shape(node),
            op if layers::is(op) => self.layer(node),
            op => Err(format!("QNN has no operator for {op} here")),
        }
    }

    /// A node that says how a tensor is encoded: an operator only where numbers change.
    fn quantization(&mut self, n: NodeId, node: &Node) -> Res<()> {
        if params::is_dequantize(node.op) {
            if self.reads_constant(n) {
                return self.weight(node).map(|_| ());
            }
            if params::per_tensor(node).is_none() {
                return Err("only tensors with one scale are dequantized in QNN".to_owned());
            }
            // The tensor is that of the codes; a reader outside gets a Dequantize when the graph is closed.
            return Ok(());
        }
        let (Some(act), Some(x), Some(&out)) = (params::per_tensor(node), params::value(node, 0), node.outputs.first())
        else {
            return Err("only one scale that is known before the graph runs is quantized with in QNN".to_owned());
        };
        if self.canonical(out) != out {
            return Ok(());
        }
        let from = self.tensor(x)?;
        let kind = self.out.tensors[from].dtype;
        if self.out.tensors[from].kind == TensorKind::Static && !kind.is_fixed() {
            return self.fold(n, act, x, out);
        }
        let to = self.output(out)?;
        let op = if kind.is_fixed() { "Convert" } else { "Quantize" };
        self.op(op, Vec::new(), vec![from], vec![to]);
        Ok(())
    }

    /// A constant that is quantized when the graph is lowered.
    fn fold(&mut self, n: NodeId, act: Act, x: ValueId, out: ValueId) -> Res<()> {
        let c = params::constant(self.graph, self.canonical(x)).ok_or("the constant has no data")?;
        let codes: Vec<i64> = params::small_numbers(self.module, c)?.into_iter().map(|v| act.code(v)).collect();
        let base = format!("{}_n{n}", plain_name(&self.module.constants[c].name));
        let t = self.add_static(&base, act.dtype, self.dims(x)?, act.encoding(), act.bytes(codes).into());
        self.tensors.insert(out, t);
        Ok(())
    }

    /// Makes the boundary's outputs.
    fn close(&mut self) -> Res<()> {
        let boundary = self.boundary;
        self.path = "output".to_owned();
        for (i, &v) in boundary.outputs.iter().enumerate() {
            let float = self.ty(v)?.dtype.is_float();
            let t = self.tensor(v)?;
            let base = format!("{}_{i}", self.base_name(v));
            let fixed = self.out.tensors[t].dtype.is_fixed();
            let again = boundary.outputs[..i].iter().any(|&o| self.canonical(o) == self.canonical(v));
            let to = if float && fixed {
                let (dtype, dims) = (plain_type(self.ty(v)?.dtype)?, self.dims(v)?);
                let to = self.add(&names::output(&base), TensorKind::AppRead, dtype, dims, Encoding::None);
                self.op("Dequantize", Vec::new(), vec![t], vec![to]);
                to
            } else if self.out.tensors[t].kind == TensorKind::Native && !again {
                self.out.tensors[t].name = self.fresh(&names::output(&base));
                self.out.tensors[t].kind = TensorKind::AppRead;
                t
            } else {
                let dims = self.out.tensors[t].dims.clone();
                let (dtype, encoding) = (self.out.tensors[t].dtype, self.out.tensors[t].encoding.clone());
                let to = self.add(&names::output(&base), TensorKind::AppRead, dtype, dims, encoding);
                self.op("Reshape", Vec::new(), vec![t], vec![to]);
                to
            };
            self.results.push(to);
        }
        for (k, &(b, v)) in boundary.buffers.iter().enumerate() {
            let t = self.tensor(v)?;
            let name = names::mutable_output(u32_of(k), &plain_name(&self.module.buffers[b].name));
            if self.out.tensors[t].kind != TensorKind::Native {
                return Err(format!(
                    "the buffer `{}` is written with what is an input or output",
                    self.module.buffers[b].name
                ));
            }
            self.out.tensors[t].name = self.fresh(&name);
            self.out.tensors[t].kind = TensorKind::AppRead;
            self.results.push(t);
        }
        Ok(())
    }

    fn base_name(&self, v: ValueId) -> String {
        match self.graph.values[self.canonical(v)].def {
            Def::Node(n, _) => {
                let node = &self.graph.nodes[n];
                let path = self.graph.paths.get(node.path).map_or("", |p| p.as_ref());
                plain_name(&format!("{path}_{}", node.handle.0))
            }
            Def::Input(_) | Def::Const(_) | Def::Buffer(_) | Def::Param(..) => format!("v{}", v).replace('%', ""),
        }
    }

    /// The graph with its inputs first, in the order of the arguments, then its outputs.
    fn finish(self) -> QnnGraph {
        let QnnGraph { name, tensors, mut nodes } = self.out;
        let used: BTreeSet<usize> = nodes.iter().flat_map(|n| n.inputs.iter().chain(&n.outputs)).copied().collect();
        let results = &self.results;
        let rank = |i: usize| {
            let t: &QnnTensor = &tensors[i];
            let position = match t.kind {
                TensorKind::AppWrite => names::parse_input(&t.name).and_then(|n| n.input).map(|n| n as usize),
                _ => results.iter().position(|&r| r == i),
            };
            let class = match t.kind {
                TensorKind::AppWrite => 0,
                TensorKind::AppRead => 1,
                TensorKind::Native | TensorKind::Static | TensorKind::Null => 2,
            };
            (class, if class == 2 { 0 } else { position.unwrap_or(usize::MAX) }, i)
        };
        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by_key(|&i| rank(i));
        order.retain(|i| used.contains(i));
        let mut place = vec![usize::MAX; tensors.len()];
        order.iter().enumerate().for_each(|(to, &from)| place[from] = to);
        let mut slots: Vec<Option<QnnTensor>> = tensors.into_iter().map(Some).collect();
        let tensors = order.iter().filter_map(|&i| slots[i].take()).collect();
        for node in &mut nodes {
            node.inputs.iter_mut().chain(&mut node.outputs).for_each(|t| *t = place[*t]);
        }
        QnnGraph { name, tensors, nodes }
    }
}
