//! From observers to quantize and dequantize nodes.

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_ir::{
    Arg, ConstData, ConstId, Def, Extra, Graph, InferCtx, InferError, Module, NodeId, Op, PathId, ValueId, args,
};
use pteron_tensor::{AlignedBytes, CastSource, DType, MemorySource};

use super::QuantizeError;
use super::codes::CodesSource;
use super::params::{SlotParams, parameters};
use super::prepare::{PreparedGraph, SlotId};
use super::rounded::Moving;
use crate::annotation::Point;
use crate::error::TensorLabel;
use crate::groups::GroupSpec;
use crate::observer::{Layout, QuantParams, ZeroPoint};
use crate::spec::QuantizationSpec;

/// The parameters that were chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Converted {
    /// By slot.
    pub params: Vec<SlotParams>,
    /// Nodes that quantize.
    pub quantized: usize,
    /// Constants that became codes.
    pub folded: usize,
}

/// Writes quantize and dequantize nodes into `graph` of `module`, as `convert_pt2e` does: behind each observed value a quantize
/// node, before each annotated reader a dequantize node of its own (`DuplicateDQPass`), one for all other readers; dynamic
/// chains of choose_qparams, quantize, dequantize are shared. Constants become codes (`fold_quantize`), decoded by rows when
/// they are read; their dequantize nodes stay.
///
/// # Errors
/// [`QuantizeError`].
pub fn convert(module: &mut Module, graph: &mut Graph, prepared: &PreparedGraph) -> Result<Converted, QuantizeError> {
    let params = parameters(graph, prepared)?;
    convert_with(module, graph, prepared, params, &mut Folded::default())
}

/// Constants that were folded, so that the graphs of a module share them.
#[derive(Debug, Default)]
pub(super) struct Folded(Vec<FoldedConstant>);

#[derive(Debug)]
struct FoldedConstant {
    of: ConstId,
    params: Arc<QuantParams>,
    codes: ConstId,
    /// Scales and zero points where there are several.
    scales: Option<(ConstId, ConstId)>,
}

/// [`convert`] with the parameters of each slot.
pub(super) fn convert_with(
    module: &mut Module,
    graph: &mut Graph,
    prepared: &PreparedGraph,
    params: Vec<SlotParams>,
    folded: &mut Folded,
) -> Result<Converted, QuantizeError> {
    let mut c = Conversion::new(module, graph, prepared, &params, folded);
    c.run()?;
    let mut done = c.done;
    done.params = params;
    Ok(done)
}

/// What quantize gave: codes, and for dynamic slots scale and zero point.
#[derive(Clone, Copy)]
struct Quantized {
    codes: ValueId,
    dynamic: Option<(ValueId, ValueId)>,
    constants: Option<(ValueId, ValueId)>,
}

pub(super) struct Conversion<'a> {
    pub(super) module: &'a mut Module,
    pub(super) graph: &'a mut Graph,
    pub(super) prepared: &'a PreparedGraph,
    params: &'a [SlotParams],
    folded: &'a mut Folded,
    /// By the value that is read and the slot.
    quantized: BTreeMap<(ValueId, SlotId), Quantized>,
    /// Dequantized values for readers without one of their own.
    pub(super) shared: BTreeMap<(ValueId, SlotId), ValueId>,
    /// Slots whose tensors are rounded with a range that the graph itself brings up to date; see [`super::rounded`].
    pub(super) moving: BTreeMap<SlotId, Moving>,
    done: Converted,
}

impl<'a> Conversion<'a> {
    pub(super) fn new(
        module: &'a mut Module,
        graph: &'a mut Graph,
        prepared: &'a PreparedGraph,
        params: &'a [SlotParams],
        folded: &'a mut Folded,
    ) -> Conversion<'a> {
        Conversion {
            module,
            graph,
            prepared,
            params,
            folded,
            quantized: BTreeMap::new(),
            shared: BTreeMap::new(),
            moving: BTreeMap::new(),
            done: Converted::default(),
        }
    }

    pub(super) fn run(&mut self) -> Result<(), QuantizeError> {
        let body = self.graph.body_id();
        // Inputs and buffers are quantized where the graph begins.
        let root = self.graph.intern_path("");
        let taps: Vec<ValueId> = self.prepared.taps.keys().copied().collect();
        let nodes = std::mem::take(&mut self.graph.regions[body].nodes);
        for &v in &taps {
            if matches!(self.graph.values[v].def, Def::Input(_) | Def::Buffer(_))
                && let Some(slot) = self.prepared.taps[&v].output
            {
                self.quantize(v, slot, root)?;
            }
        }
        for n in nodes {
            self.node(n)?;
        }
        // What leaves the graph goes through the output's observer as well.
        let results = self.graph.regions[body].results.clone();
        let through = results.into_iter().map(|v| self.read(v, root)).collect::<Result<_, _>>()?;
        self.graph.regions[body].results = through;
        let mutations = self.graph.mutations.clone();
        for (i, (_, v)) in mutations.into_iter().enumerate() {
            self.graph.mutations[i].1 = self.read(v, root)?;
        }
        Ok(())
    }

    fn node(&mut self, n: NodeId) -> Result<(), QuantizeError> {
        let body = self.graph.body_id();
        let (handle, path) = (self.graph.nodes[n].handle, self.graph.nodes[n].path);
        let mut arguments = self.graph.nodes[n].args.clone();
        for (i, argument) in arguments.iter_mut().enumerate() {
            let arg = u16::try_from(i).unwrap_or(u16::MAX);
            match argument {
                Arg::Value(v) => *v = self.edge(*v, Point::edge(handle, arg), path)?,
                Arg::Values(items) => {
                    for (j, v) in items.iter_mut().enumerate() {
                        let item = u16::try_from(j).unwrap_or(u16::MAX);
                        let input = crate::annotation::InputIndex::item(arg, item);
                        if let Some(v) = v {
                            *v = self.edge(*v, Point::Edge { user: handle, input }, path)?;
                        }
                    }
                }
                _ => {}
            }
        }
        self.graph.nodes[n].args = arguments;
        self.graph.regions[body].nodes.push(n);
        Ok(())
    }

    /// What the reader at `point` reads in the place of `v`.
    fn edge(&mut self, v: ValueId, point: Point, path: PathId) -> Result<ValueId, QuantizeError> {
        match self.prepared.edges.get(&point) {
            Some(&slot) => {
                let output = self.prepared.tap(v).and_then(|t| t.output);
                let from = match output {
                    Some(o) if o != slot => self.read(v, path)?,
                    _ => v,
                };
                self.dequantized(from, slot, path)
            }
            None => self.read(v, path),
        }
    }

    /// What a reader without an annotation reads: through the output's observer, if there is one.
    fn read(&mut self, v: ValueId, path: PathId) -> Result<ValueId, QuantizeError> {
        let Some(slot) = self.prepared.tap(v).and_then(|t| t.output) else { return Ok(v) };
        if let Some(&known) = self.shared.get(&(v, slot)) {
            return Ok(known);
        }
        let made = self.dequantized(v, slot, path)?;
        self.shared.insert((v, slot), made);
        Ok(made)
    }

    fn label(&self, slot: SlotId) -> &TensorLabel {
        &self.prepared.slot(slot).label
    }

    pub(super) fn unsupported(&self, slot: SlotId, reason: impl Into<String>) -> QuantizeError {
        let (graph, label) = (self.graph.name.clone(), self.label(slot).to_string());
        QuantizeError::Unsupported { graph, label, reason: reason.into() }
    }

    pub(super) fn call(
        &mut self,
        slot: SlotId,
        op: Op,
        arguments: Vec<Arg>,
        path: PathId,
    ) -> Result<NodeId, QuantizeError> {
        let (graph, label) = (self.graph.name.clone(), self.label(slot).to_string());
        let wrong = |error: InferError| QuantizeError::Infer { graph, label, error };
        let mut arguments = arguments;
        for a in op.schema().inputs().skip(arguments.len()) {
            arguments.push(a.default.clone().unwrap_or(Arg::None));
        }
        let g = &mut *self.graph;
        let outputs = {
            let types = |v: ValueId| g.ty(v);
            InferCtx { op, args: &arguments, types: &types, symbols: &g.symbols }.infer().map_err(wrong)?
        };
        let body = g.body_id();
        Ok(g.add_node(body, op, arguments, outputs, Extra::None, path))
    }

    pub(super) fn first(&self, n: NodeId) -> ValueId {
        self.graph.nodes[n].outputs[0]
    }

    fn constant(&mut self, name: &str, source: Arc<dyn pteron_tensor::TensorSource>) -> ConstId {
        let taken = |m: &Module, name: &str| m.constants.values().any(|c| c.name.as_ref() == name);
        let mut unique = name.to_owned();
        for i in 1.. {
            if !taken(self.module, &unique) {
                break;
            }
            unique = format!("{name}_{i}");
        }
        self.module.add_constant(&unique, source)
    }

    fn constant_value(&mut self, c: ConstId) -> ValueId {
        let ty = &self.module.constants[c].ty;
        self.graph.module_value(Def::Const(c), || ty.clone().into())
    }

    /// Scales and zero points as constants, named after what they belong to.
    fn scales(&mut self, base: &str, p: &QuantParams, grid: &[usize]) -> Result<(ConstId, ConstId), QuantizeError> {
        let wrong = |e: pteron_tensor::SourceError| QuantizeError::Source { reason: e.to_string() };
        let (scale_name, zero_name) = (format!("{base}_scale"), format!("{base}_zero_point"));
        let scale = MemorySource::of(&scale_name, grid, &p.scale).map_err(wrong)?;
        let zero = match &p.zero_point {
            ZeroPoint::Int(z) => {
                MemorySource::new(&zero_name, DType::I64, grid, AlignedBytes::copied(bytemuck::cast_slice(z)))
            }
            ZeroPoint::Float(z) => MemorySource::of(&zero_name, grid, z),
        };
        let zero = zero.map_err(wrong)?;
        Ok((self.constant(&scale_name, Arc::new(scale)), self.constant(&zero_name, Arc::new(zero))))
    }

    /// The codes of `v`, made once.
    fn quantize(&mut self, v: ValueId, slot: SlotId, path: PathId) -> Result<Option<Quantized>, QuantizeError> {
        if let Some(&known) = self.quantized.get(&(v, slot)) {
            return Ok(Some(known));
        }
        let params = self.params[slot.0 as usize].clone();
        let made = match params {
            SlotParams::Float => return Ok(None),
            SlotParams::Dynamic => self.dynamic(v, slot, path)?,
            SlotParams::Static(p) => match self.graph.values[v].def {
                Def::Const(c) => self.fold(c, &p)?,
                Def::Node(..) | Def::Input(_) | Def::Buffer(_) | Def::Param(..) => self.fixed(v, slot, &p, path)?,
            },
        };
        self.done.quantized += 1;
        self.quantized.insert((v, slot), made);
        Ok(Some(made))
    }

    fn dynamic(&mut self, v: ValueId, slot: SlotId, path: PathId) -> Result<Quantized, QuantizeError> {
        let GroupSpec::Observed(spec) = &self.prepared.slot(slot).spec else {
            return Err(self.unsupported(slot, "only an observed spec can be dynamic"));
        };
        let spec: QuantizationSpec = spec.clone();
        let format = spec.format()?;
        let scheme = spec.effective_qscheme();
        if !scheme.is_per_tensor() {
            return Err(self.unsupported(slot, format!("dynamic quantization is per tensor here, found {scheme}")));
        }
        let choose = if scheme.is_symmetric() { Op::ChooseQparamsSymmetric } else { Op::ChooseQparams };
        let (lo, hi, dtype) = (format.quant_min, format.quant_max, format.container);
        let eps = f64::from(spec.observer.effective_eps());
        let chosen = self.call(slot, choose, args![v, lo, hi, eps, dtype].into(), path)?;
        let (scale, zero) = (self.graph.nodes[chosen].outputs[0], self.graph.nodes[chosen].outputs[1]);
        let q = self.call(slot, Op::QuantizePerTensorTensor, args![v, scale, zero, lo, hi, dtype].into(), path)?;
        Ok(Quantized { codes: self.first(q), dynamic: Some((scale, zero)), constants: None })
    }

    fn fixed(&mut self, v: ValueId, slot: SlotId, p: &QuantParams, path: PathId) -> Result<Quantized, QuantizeError> {
        let (lo, hi, dtype) = (p.format.quant_min, p.format.quant_max, p.format.container);
        match &p.layout {
            Layout::PerTensor => {
                let (scale, zero) = self.one(slot, p)?;
                let q = self.call(slot, Op::QuantizePerTensor, args![v, scale, zero, lo, hi, dtype].into(), path)?;
                Ok(Quantized { codes: self.first(q), dynamic: None, constants: None })
            }
            Layout::PerChannel { axis } => {
                let base = self.label(slot).to_string();
                let (scale, zero) = self.scales(&base, p, &[p.scale.len()])?;
                let constants = (self.constant_value(scale), self.constant_value(zero));
                let axis = i64::try_from(*axis).unwrap_or(i64::MAX);
                let arguments = args![v, constants.0, constants.1, axis, lo, hi, dtype];
                let q = self.call(slot, Op::QuantizePerChannel, arguments.into(), path)?;
                Ok(Quantized { codes: self.first(q), dynamic: None, constants: Some(constants) })
            }
            Layout::PerBlock { .. } => Err(self.unsupported(slot, "block scales are for constants")),
        }
    }

    fn one(&self, slot: SlotId, p: &QuantParams) -> Result<(f64, i64), QuantizeError> {
        match (p.scale.first(), &p.zero_point) {
            (Some(&s), ZeroPoint::Int(z)) => Ok((f64::from(s), z.first().copied().unwrap_or(0))),
            _ => Err(self.unsupported(slot, "a tensor as a whole has one scale and an integer zero point")),
        }
    }

    /// A constant as codes, made once for all graphs of the module.
    fn fold(&mut self, c: ConstId, p: &Arc<QuantParams>) -> Result<Quantized, QuantizeError> {
        let known = self.folded.0.iter().find(|k| k.of == c && k.params == *p);
        let (codes, constants) = match known {
            Some(known) => (known.codes, known.scales),
            None => {
                let (codes, scales) = self.fold_anew(c, p)?;
                self.folded.0.push(FoldedConstant { of: c, params: Arc::clone(p), codes, scales });
                (codes, scales)
            }
        };
        self.done.folded += 1;
        let codes = self.constant_value(codes);
        let constants = constants.map(|(scale, zero)| (self.constant_value(scale), self.constant_value(zero)));
        Ok(Quantized { codes, dynamic: None, constants })
    }

    fn fold_anew(
        &mut self,
        c: ConstId,
        p: &Arc<QuantParams>,
    ) -> Result<(ConstId, Option<(ConstId, ConstId)>), QuantizeError> {
        let constant = &self.module.constants[c];
        let name = constant.name.to_string();
        let ConstData::Source(source) = &constant.data else {
            return Err(QuantizeError::NoData { constant: name });
        };
        let source = CastSource::wrap(source.clone(), DType::F32);
        let shape = source.shape().to_vec();
        let codes = CodesSource::new(source, p).map_err(|reason| QuantizeError::Source { reason })?;
        let codes = self.constant(&format!("{name}_quantized"), Arc::new(codes));
        let constants = match &p.layout {
            Layout::PerTensor => None,
            Layout::PerChannel { .. } => Some(self.scales(&name, p, &[p.scale.len()])?),
            Layout::PerBlock { block_size } => {
                let grid: Vec<usize> = shape.iter().zip(block_size).map(|(n, b)| n / b.max(&1)).collect();
                Some(self.scales(&name, p, &grid)?)
            }
        };
        Ok((codes, constants))
    }

    /// `v` through quantize and dequantize, the latter made anew but for dynamic slots.
    fn dequantized(&mut self, v: ValueId, slot: SlotId, path: PathId) -> Result<ValueId, QuantizeError> {
        if self.moving.contains_key(&slot) {
            return self.rounded(v, slot, path);
        }
        let Some(q) = self.quantize(v, slot, path)? else { return Ok(v) };
        if q.dynamic.is_some()
            && let Some(&known) = self.shared.get(&(v, slot))
        {
            return Ok(known);
        }
        let float = self.graph.ty(v).as_tensor().map_or(DType::F32, |t| t.dtype);
        let wide = if float == DType::F32 { Arg::None } else { float.into() };
        let n = match (&self.params[slot.0 as usize].clone(), q) {
            (SlotParams::Dynamic, Quantized { dynamic: Some((scale, zero)), .. }) => {
                let GroupSpec::Observed(spec) = &self.prepared.slot(slot).spec else {
                    return Err(self.unsupported(slot, "only an observed spec can be dynamic"));
                };
                let f = spec.format()?;
                let arguments = args![q.codes, scale, zero, f.quant_min, f.quant_max, f.container, wide];
                self.call(slot, Op::DequantizePerTensorTensor, arguments.into(), path)?
            }
            (SlotParams::Static(p), _) => {
                let (lo, hi, dtype) = (p.format.quant_min, p.format.quant_max, p.format.container);
                match (&p.layout, q.constants) {
                    (Layout::PerTensor, _) => {
                        let (scale, zero) = self.one(slot, p)?;
                        let arguments = args![q.codes, scale, zero, lo, hi, dtype, wide];
                        self.call(slot, Op::DequantizePerTensor, arguments.into(), path)?
                    }
                    (Layout::PerChannel { axis }, Some((scale, zero))) => {
                        let axis = i64::try_from(*axis).unwrap_or(i64::MAX);
                        let arguments = args![q.codes, scale, zero, axis, lo, hi, dtype, wide];
                        self.call(slot, Op::DequantizePerChannel, arguments.into(), path)?
                    }
                    (Layout::PerBlock { block_size }, Some((scale, zero))) => {
                        let block: Vec<i64> =
                            block_size.iter().map(|&b| i64::try_from(b).unwrap_or(i64::MAX)).collect();
                        let arguments = args![q.codes, Arg::ints(&block), scale, zero, dtype, lo, hi, float];
                        self.call(slot, Op::DequantizeAffine, arguments.into(), path)?
                    }
                    (Layout::PerChannel { .. } | Layout::PerBlock { .. }, None) => {
                        return Err(self.unsupported(slot, "its scales are missing"));
                    }
                }
            }
            (SlotParams::Dynamic | SlotParams::Float, _) => return Ok(v),
        };
        let out = self.first(n);
        if q.dynamic.is_some() {
            self.shared.insert((v, slot), out);
        }
        Ok(out)
    }
}
