//! `prepare_qat`: fake quantization in the places where post-training quantization has observers.
//!
//! The same quantizers annotate, and the same algorithm places ([`pteron_quant::pt2e::prepare`]). Where `convert` puts a
//! quantize and a dequantize node, this puts [`Op::FakeQuantize`], and before it, where a range of activations is learnt, an
//! [`Op::ObserveQparams`]; so that what is trained is what is converted. What changes from step to step comes in as inputs of the
//! graph and goes out as outputs: ranges, scales of weights, and whether observers and fake quantization are switched on.

use std::collections::BTreeMap;

use pteron_ir::{Arg, ConstId, Def, Graph, GraphBuilder, Node, NodeId, Op, TensorType, ValueId, args};
use pteron_quant::TensorLabel;
use pteron_quant::annotation::{InputIndex, Point};
use pteron_quant::format::IntFormat;
use pteron_quant::groups::{GroupId, GroupSpec};
use pteron_quant::observer::{BLOCK_SCALE_STEPS, Layout, Observer, QuantParams};
use pteron_quant::pt2e::{PreparedGraph, SlotId};
use pteron_quant::spec::{DeriveQParams, ObserverKind, QuantizationSpec};
use pteron_quant::transform::{LayerChoice, LayerKind, LinearMode};
use pteron_quant::weight;
use pteron_tensor::DType;

use crate::error::TrainError;

/// By which rule a range of activations becomes a scale while training.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QparamsRule {
    /// The observer's own, with which PT2E converts: training and deployment have the same grid. The default for that reason.
    #[default]
    Observer,
    /// FBGEMM's, which PyTorch's `FusedMovingAvgObsFakeQuantize` computes with in its training forward; what is converted lies on
    /// a slightly different grid then, as in PyTorch.
    Fbgemm,
}

/// How fake quantization is placed.
#[derive(Clone, Copy, Debug, Default)]
pub struct QatOptions {
    /// From range to scale while training.
    pub rule: QparamsRule,
    /// Scales are parameters that are trained (learned step size, LSQ) instead of following ranges.
    pub learn_scales: bool,
}

/// How the scales of a weight are chosen from it.
#[derive(Clone, Debug)]
pub enum Chooser {
    /// By the observer of the scheme.
    Observer(Box<Observer>),
    /// torchao's symmetric rule over groups of columns, by which the source transforms choose (`affine`).
    Affine {
        /// Columns of a group.
        group: usize,
        /// The codes.
        range: (i64, i64),
    },
}

/// A weight whose scales come in as inputs.
#[derive(Clone, Debug)]
pub struct WeightScales {
    /// The constant.
    pub constant: ConstId,
    /// The slot that it is quantized by; `None` for a source transform.
    pub slot: Option<SlotId>,
    /// What it is called.
    pub label: TensorLabel,
    /// How its scales are chosen.
    pub chooser: Chooser,
    /// The sizes of the constant.
    pub sizes: Vec<usize>,
    /// The input with the scales, f32, and that with the zero points.
    pub inputs: [ValueId; 2],
    /// Number of scales.
    pub count: usize,
    /// The largest code.
    pub quant_max: i64,
}

impl WeightScales {
    /// Scales and zero points of a weight with these elements.
    ///
    /// # Errors
    /// [`TrainError`] naming a weight with an element that is not finite.
    pub fn choose(&self, data: &[f32]) -> Result<QuantParams, TrainError> {
        match &self.chooser {
            Chooser::Observer(fresh) => {
                let mut observer = fresh.as_ref().clone();
                observer.observe(&self.label, &self.sizes, data)?;
                Ok(observer.calculate_qparams(&self.label)?)
            }
            &Chooser::Affine { group, range } => {
                let columns = self.sizes.last().copied().unwrap_or(1);
                let wrong = |e: weight::WeightError| TrainError::Source(e.to_string());
                let rows = data.len().checked_div(columns).unwrap_or(0);
                let matrix = weight::Matrix::new(&self.label, data, rows, columns).map_err(wrong)?;
                let mut scale = vec![0f32; data.len().checked_div(group).unwrap_or(0)];
                weight::rows(matrix, group, range, weight::Method::Affine, 1, &mut scale);
                let zero_point = pteron_quant::observer::ZeroPoint::Int(vec![0; scale.len()]);
                let format = IntFormat::new(DType::I8, range.0, range.1)
                    .map_err(|e| TrainError::Source(format!("{}: {e}", self.label)))?;
                Ok(QuantParams { scale, zero_point, layout: Layout::PerBlock { block_size: vec![1, group] }, format })
            }
        }
    }
}

/// A range of activations that a step gets and gives back.
#[derive(Clone, Debug)]
pub struct Range {
    /// The slot.
    pub slot: SlotId,
    /// What it is called.
    pub label: TensorLabel,
    /// The input, f32 `[2]`: least and largest value, `+∞, −∞` before the first step.
    pub input: ValueId,
    /// What it is behind the step.
    pub output: ValueId,
}

/// A learned scale of activations.
#[derive(Clone, Debug)]
pub struct LearnedScale {
    /// The slot.
    pub slot: SlotId,
    /// What it is called.
    pub label: TensorLabel,
    /// The inputs with the scale and the zero point, f32 `[1]`.
    pub inputs: [ValueId; 2],
    /// True if the zero point stays as it is.
    pub symmetric: bool,
    /// Least and largest code.
    pub codes: (i64, i64),
}

/// What `prepare_qat` placed.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Weights.
    pub weights: Vec<WeightScales>,
    /// Ranges.
    pub ranges: Vec<Range>,
    /// Learned scales of activations.
    pub learned: Vec<LearnedScale>,
    /// Number of fake quantizations.
    pub quantizers: usize,
}

/// Values that switch things on, f32 `[1]`.
#[derive(Clone, Copy, Debug)]
pub struct Switches {
    /// Observers.
    pub observe: ValueId,
    /// Fake quantization.
    pub fake_quantize: ValueId,
}

/// What a source transform makes of a layer.
pub type Choice<'a> = &'a dyn Fn(&str, LayerKind) -> Option<LayerChoice>;

type Quantized = (ValueId, ValueId);

/// Places fake quantization into a copy of a graph.
pub(crate) struct Placer<'a, 'b, 'm> {
    pub(crate) b: &'b mut GraphBuilder<'m>,
    /// The slots, if PT2E's quantizers annotated the graph.
    pub(crate) slots: Option<&'a PreparedGraph>,
    pub(crate) choice: Choice<'a>,
    pub(crate) options: QatOptions,
    pub(crate) switches: Switches,
    /// Constants that are inputs now.
    pub(crate) replaced: BTreeMap<ValueId, ValueId>,
    pub(crate) done: Prepared,
    pub(crate) faked: BTreeMap<(ValueId, SlotId), ValueId>,
    pub(crate) scales: BTreeMap<SlotId, Quantized>,
    pub(crate) states: BTreeMap<SlotId, (ValueId, ValueId)>,
    pub(crate) transformed: BTreeMap<(ValueId, String), ValueId>,
}

impl Placer<'_, '_, '_> {
    /// Appends `nodes` of the original graph, whose results are `results`; gives these.
    pub(crate) fn run(&mut self, nodes: Vec<NodeId>, results: &[ValueId]) -> Result<Vec<ValueId>, TrainError> {
        for n in nodes {
            self.node(n)?;
        }
        let results = results.iter().map(|&v| self.read(v, "")).collect();
        for (&slot, &(input, output)) in &self.states {
            let label = self.slots.map(|p| p.slot(slot).label.clone()).unwrap_or_default();
            self.done.ranges.push(Range { slot, label, input, output });
        }
        results
    }

    fn node(&mut self, n: NodeId) -> Result<(), TrainError> {
        let node: Node = self.b.graph().nodes[n].clone();
        let path = self.b.graph().paths[node.path].to_string();
        let choice = LayerKind::of(node.op).and_then(|(kind, _)| (self.choice)(&path, kind));
        let mut arguments = node.args.clone();
        for (i, argument) in arguments.iter_mut().enumerate() {
            let arg = u16::try_from(i).unwrap_or(u16::MAX);
            match argument {
                Arg::Value(v) => {
                    let read = self.edge(*v, Point::edge(node.handle, arg), &path)?;
                    *v = match choice {
                        Some(choice) => self.transform(*v, read, node.op, i, choice, &path)?,
                        None => read,
                    };
                }
                Arg::Values(items) => {
                    for (j, v) in items.iter_mut().enumerate() {
                        let input = InputIndex::item(arg, u16::try_from(j).unwrap_or(u16::MAX));
                        if let Some(v) = v {
                            *v = self.edge(*v, Point::Edge { user: node.handle, input }, &path)?;
                        }
                    }
                }
                _ => {}
            }
        }
        let graph = self.b.graph_mut();
        graph.nodes[n].args = arguments;
        let body = graph.body_id();
        graph.regions[body].nodes.push(n);
        Ok(())
    }

    /// The value that stands for `v` in the new graph.
    fn now(&self, v: ValueId) -> ValueId {
        self.replaced.get(&v).copied().unwrap_or(v)
    }

    fn edge(&mut self, v: ValueId, point: Point, path: &str) -> Result<ValueId, TrainError> {
        let Some(slots) = self.slots else { return Ok(self.now(v)) };
        match slots.edges.get(&point) {
            Some(&slot) => {
                let output = slots.tap(v).and_then(|t| t.output);
                let from = match output {
                    Some(o) if o != slot => self.read(v, path)?,
                    _ => self.now(v),
                };
                self.fake(v, from, slot, path)
            }
            None => self.read(v, path),
        }
    }

    fn read(&mut self, v: ValueId, path: &str) -> Result<ValueId, TrainError> {
        match self.slots.and_then(|s| s.tap(v)).and_then(|t| t.output) {
            Some(slot) => self.fake(v, self.now(v), slot, path),
            None => Ok(self.now(v)),
        }
    }

    fn unsupported<T>(&self, slot: SlotId, reason: impl Into<String>) -> Result<T, TrainError> {
        let tensor = self.slots.map_or_else(String::new, |p| p.slot(slot).label.to_string());
        Err(TrainError::Unsupported { tensor, reason: reason.into() })
    }

    fn call(&mut self, path: &str, op: Op, arguments: Vec<Arg>) -> Result<Vec<ValueId>, TrainError> {
        let n = self.b.scope(path, |b| b.node(op, arguments))?;
        Ok(self.b.graph().nodes[n].outputs.to_vec())
    }

    fn first(&mut self, path: &str, op: Op, arguments: Vec<Arg>) -> Result<ValueId, TrainError> {
        self.call(path, op, arguments)?
            .first()
            .copied()
            .ok_or_else(|| TrainError::Source(format!("{op} has no result")))
    }

    /// `from`, which stands for the original graph's `v`, through the fake quantization of `slot`.
    fn fake(&mut self, v: ValueId, from: ValueId, slot: SlotId, path: &str) -> Result<ValueId, TrainError> {
        if let Some(&known) = self.faked.get(&(v, slot)) {
            return Ok(known);
        }
        let Some(slots) = self.slots else { return Ok(from) };
        let sizes = self.sizes(from)?;
        let whole: Vec<i64> = sizes.clone();
        let Some((format, (scale, zero), block)) = self.slot_scales(slots, v, from, slot, path, whole)? else {
            return Ok(from);
        };
        let made = self.quantizer(from, (scale, zero), &block, (format.quant_min, format.quant_max), path)?;
        self.faked.insert((v, slot), made);
        Ok(made)
    }

    fn quantizer(
        &mut self,
        x: ValueId,
        (scale, zero): Quantized,
        block: &[i64],
        (lo, hi): (i64, i64),
        path: &str,
    ) -> Result<ValueId, TrainError> {
        self.done.quantizers += 1;
        let n: i64 = self.sizes(x)?.iter().product();
        let factor = ((n as f64) * (hi.max(1) as f64)).sqrt().recip();
        let on = self.switches.fake_quantize;
        self.first(path, Op::FakeQuantize, args![x, scale, zero, Arg::ints(block), lo, hi, on, factor].into())
    }

    fn sizes(&self, v: ValueId) -> Result<Vec<i64>, TrainError> {
        let ty = self.b.tensor_ty(v);
        let sizes = ty.dims.iter().map(pteron_ir::SymInt::as_const).collect::<Option<Vec<i64>>>();
        sizes.ok_or_else(|| TrainError::Source(format!("a tensor is {ty}, expected constant sizes")))
    }

    /// Codes, scale and zero point of a slot for the value `v`, and the sizes of its blocks; `None` where it stays float.
    fn slot_scales(
        &mut self,
        slots: &PreparedGraph,
        v: ValueId,
        from: ValueId,
        slot: SlotId,
        path: &str,
        whole: Vec<i64>,
    ) -> Result<Option<(IntFormat, Quantized, Vec<i64>)>, TrainError> {
        let data = slots.slot(slot);
        let wrong = |e: pteron_quant::SpecError| TrainError::Unsupported {
            tensor: data.label.to_string(),
            reason: e.to_string(),
        };
        match &data.spec {
            GroupSpec::Observed(spec) if spec.is_dynamic => {
                let f = spec.format().map_err(wrong)?;
                let scheme = spec.effective_qscheme();
                if !scheme.is_per_tensor() {
                    return self.unsupported(slot, format!("dynamic quantization is per tensor here, found {scheme}"));
                }
                let op = if scheme.is_symmetric() { Op::ChooseQparamsSymmetric } else { Op::ChooseQparams };
                let eps = f64::from(spec.observer.effective_eps());
                let chosen = self.call(path, op, args![from, f.quant_min, f.quant_max, eps, f.container].into())?;
                Ok(Some((f, (chosen[0], chosen[1]), whole)))
            }
            GroupSpec::Observed(spec)
                if matches!(
                    spec.observer.kind,
                    ObserverKind::Placeholder
                        | ObserverKind::AffineQuantizedPlaceholder
                        | ObserverKind::Noop
                        | ObserverKind::Recording
                ) =>
            {
                Ok(None)
            }
            GroupSpec::Observed(spec) if spec.observer.fixed.is_some() => {
                let f = spec.format().map_err(wrong)?;
                let (scale, zero) = spec.observer.fixed.unwrap_or((1.0, 0));
                Ok(Some((f, self.numbers(path, scale, zero)?, whole)))
            }
            GroupSpec::Observed(spec) if self.is_weight(slots, slot) => {
                let f = spec.format().map_err(wrong)?;
                let (scales, block) = self.weight_scales(slots, v, slot)?;
                Ok(Some((f, scales, block)))
            }
            GroupSpec::Observed(spec) => {
                let f = spec.format().map_err(wrong)?;
                let scales = self.activation(spec, from, slot, f, path)?;
                self.scales.insert(slot, scales);
                Ok(Some((f, scales, whole)))
            }
            GroupSpec::Fixed(spec) => {
                let f = spec.format().map_err(wrong)?;
                Ok(Some((f, self.numbers(path, spec.scale, spec.zero_point)?, whole)))
            }
            GroupSpec::Derived(spec, from_groups) => {
                let f = spec.format().map_err(wrong)?;
                let DeriveQParams::Bias { repeat } = spec.derive;
                let scales = self.bias(slot, from_groups, &whole, repeat, path)?;
                let block = vec![1; whole.len()];
                Ok(Some((f, scales, block)))
            }
        }
    }

    /// A scale and a zero point that are given.
    fn numbers(&mut self, path: &str, scale: f64, zero: i64) -> Result<Quantized, TrainError> {
        let mut number = |v: f64| self.first(path, Op::Full, args![Arg::ints(&[1]), v, DType::F32].into());
        Ok((number(scale)?, number(zero as f64)?))
    }

    /// True if only constants are quantized by a slot.
    fn is_weight(&self, slots: &PreparedGraph, slot: SlotId) -> bool {
        let mut taps = slots.taps.values().filter(|t| t.slots().any(|s| s == slot));
        taps.all(|t| matches!(self.b.graph().values[t.value].def, Def::Const(_)))
    }

    fn scale_inputs(&mut self, name: &str, count: usize) -> [ValueId; 2] {
        let ty = TensorType::fixed(DType::F32, &[count]);
        let scale = self.b.input(&format!("{name}_scale"), ty.clone());
        [scale, self.b.input(&format!("{name}_zero_point"), ty)]
    }

    fn weight_scales(
        &mut self,
        slots: &PreparedGraph,
        v: ValueId,
        slot: SlotId,
    ) -> Result<(Quantized, Vec<i64>), TrainError> {
        let data = slots.slot(slot);
        let (Def::Const(constant), Some(observer)) = (self.b.graph().values[v].def, &data.observer) else {
            return self.unsupported(slot, "a weight's scales come from a constant and its observer");
        };
        let sizes = self.b.tensor_ty(v).fixed_sizes().map(|s| s.to_vec()).unwrap_or_default();
        // The observer has seen the checkpoint's weights: what it gives for them says how scales are laid out.
        let params = observer.calculate_qparams(&data.label)?;
        let block = block_of(&params.layout, &sizes);
        let fresh = Observer::new(observer.spec()).map_err(QuantizeSpec::wrap(&data.label))?;
        let inputs = match self.done.weights.iter().find(|w| w.slot == Some(slot)) {
            Some(known) if known.constant == constant => known.inputs,
            Some(_) => return self.unsupported(slot, "two weights share one scale"),
            None => {
                let inputs = self.scale_inputs(&data.label.to_string(), params.scale.len());
                self.done.weights.push(WeightScales {
                    constant,
                    slot: Some(slot),
                    label: data.label.clone(),
                    chooser: Chooser::Observer(Box::new(fresh)),
                    sizes,
                    inputs,
                    count: params.scale.len(),
                    quant_max: params.format.quant_max,
                });
                inputs
            }
        };
        self.scales.insert(slot, (inputs[0], inputs[1]));
        Ok(((inputs[0], inputs[1]), block))
    }

    /// Scale and zero point of activations, which the value's own range moves first.
    fn activation(
        &mut self,
        spec: &QuantizationSpec,
        from: ValueId,
        slot: SlotId,
        f: IntFormat,
        path: &str,
    ) -> Result<Quantized, TrainError> {
        let scheme = spec.effective_qscheme();
        if !scheme.is_per_tensor() {
            return self.unsupported(slot, format!("activations have one scale a tensor here, found {scheme}"));
        }
        let slots = self.slots;
        let data = |s: SlotId| slots.map(|p| p.slot(s));
        let label = data(slot).map(|d| d.label.clone()).unwrap_or_default();
        if self.options.learn_scales {
            if let Some(known) = self.done.learned.iter().find(|l| l.slot == slot) {
                return Ok((known.inputs[0], known.inputs[1]));
            }
            let inputs = self.scale_inputs(&label.to_string(), 1);
            let symmetric = scheme.is_symmetric();
            let codes = (f.quant_min, f.quant_max);
            self.done.learned.push(LearnedScale { slot, label, inputs, symmetric, codes });
            return Ok((inputs[0], inputs[1]));
        }
        // QNN's observer of a concatenation has one range with the inputs of it.
        let concats = slots.map_or(&[][..], |p| &p.concats);
        let root = concats.iter().find(|c| c.inputs.contains(&slot)).map_or(slot, |c| c.output);
        let state = match self.states.get(&root) {
            Some(&(_, now)) => now,
            None => {
                let name = data(root).map(|d| d.label.to_string()).unwrap_or_default();
                let input = self.b.input(&format!("{name}_range"), TensorType::fixed(DType::F32, &[2]));
                self.states.insert(root, (input, input));
                input
            }
        };
        let averaging = match spec.observer.kind {
            ObserverKind::Concat | ObserverKind::MinMax | ObserverKind::AffineQuantizedMinMax => 0.0,
            _ => spec.observer.effective_averaging_constant(),
        };
        let symmetric = scheme.is_symmetric();
        let zero = match symmetric {
            // The zero point of a symmetric range does not depend on it.
            true => data(slot)
                .and_then(|d| d.observer.as_ref())
                .and_then(|o| o.qparams_of(&label, (-1.0, 1.0)).ok())
                .map_or(0, |p| match p.zero_point {
                    pteron_quant::observer::ZeroPoint::Int(z) => z.first().copied().unwrap_or(0),
                    pteron_quant::observer::ZeroPoint::Float(_) => 0,
                }),
            false => 0,
        };
        let fbgemm = self.options.rule == QparamsRule::Fbgemm;
        let eps = f64::from(spec.observer.effective_eps());
        let observe = self.switches.observe;
        let arguments = args![from, state, observe, averaging, f.quant_min, f.quant_max, eps, symmetric, zero, fbgemm];
        let found = self.call(path, Op::ObserveQparams, arguments.into())?;
        if let Some(s) = self.states.get_mut(&root) {
            s.1 = found[0];
        }
        Ok((found[1], found[2]))
    }

    /// A bias's scales: the activation's times the weight's; of a weight in blocks the largest of each channel, over 16.
    fn bias(
        &mut self,
        slot: SlotId,
        from: &[GroupId],
        whole: &[i64],
        repeat: usize,
        path: &str,
    ) -> Result<Quantized, TrainError> {
        let known = |i: usize| from.get(i).and_then(|g| self.scales.get(&SlotId(g.0)).copied());
        let (Some((activation, _)), Some((weight, _))) = (known(0), known(1)) else {
            return self.unsupported(slot, "its scale follows from an activation and a weight that come before it");
        };
        if repeat > 1 {
            return self.unsupported(slot, "biases of transposed convolutions are not trained");
        }
        let n: i64 = whole.iter().product();
        let mut scale = self.first(path, Op::Mul, args![activation, weight].into())?;
        let found: i64 = self.sizes(scale)?.iter().product();
        if found > n {
            let rows = self.first(path, Op::ViewCopy, args![scale, Arg::ints(&[n, found / n.max(1)])].into())?;
            let most = self.first(path, Op::Amax, args![rows, Arg::ints(&[1]), false].into())?;
            scale = self.first(path, Op::DivScalar, args![most, f64::from(BLOCK_SCALE_STEPS)].into())?;
        } else if found < n {
            scale = self.first(path, Op::ExpandCopy, args![scale, Arg::ints(&[n])].into())?;
        }
        let zero = self.first(path, Op::Full, args![Arg::ints(&[n]), 0.0, DType::F32].into())?;
        Ok((scale, zero))
    }

    /// What a source transform makes of argument `i` of a layer: its weight in groups, and for `8da4w` its activation token by
    /// token.
    fn transform(
        &mut self,
        v: ValueId,
        read: ValueId,
        op: Op,
        i: usize,
        choice: LayerChoice,
        path: &str,
    ) -> Result<ValueId, TrainError> {
        let weight_at = LayerKind::of(op).map(|(_, w)| usize::from(w));
        let (group, range, activations) = match choice {
            LayerChoice::Linear(LinearMode::Int8DynActInt4Weight { group }, _) => (group, (-8, 7), true),
            LayerChoice::Linear(LinearMode::Int4Weight { group }, _) => (group, (-8, 7), false),
            LayerChoice::Embedding(mode, _) => {
                let half = 1i64 << (mode.bits.clamp(1, 8) - 1);
                (mode.group, (-half, half - 1), false)
            }
            LayerChoice::Linear(
                LinearMode::Int8 | LinearMode::Int8Groups { .. } | LinearMode::Int8DynActInt8Weight { .. },
                _,
            ) => {
                let reason =
                    "8-bit weights (int8, 8da8w) lose next to nothing and are not trained; there are 8da4w and 4w"
                        .to_owned();
                return Err(TrainError::Unsupported { tensor: path.to_owned(), reason });
            }
        };
        let key = (v, format!("{choice:?}"));
        if let Some(&known) = self.transformed.get(&key) {
            return Ok(known);
        }
        let made = if Some(i) == weight_at {
            let Def::Const(constant) = self.b.graph().values[v].def else { return Ok(read) };
            let sizes = self.b.tensor_ty(v).fixed_sizes().map(|s| s.to_vec()).unwrap_or_default();
            let columns = sizes.last().copied().unwrap_or(1);
            let group = if group == 0 { columns } else { group };
            if !columns.is_multiple_of(group) {
                return Ok(read);
            }
            let label = TensorLabel::new(path, "weight");
            let count = sizes.iter().product::<usize>() / group.max(1);
            let inputs = self.scale_inputs(path, count);
            let chooser = Chooser::Affine { group, range };
            let block: Vec<i64> = vec![1, group as i64];
            let quant_max = range.1;
            self.done.weights.push(WeightScales {
                constant,
                slot: None,
                label,
                chooser,
                sizes,
                inputs,
                count,
                quant_max,
            });
            self.quantizer(read, (inputs[0], inputs[1]), &block, range, path)?
        } else if activations && i == 0 {
            let sizes = self.sizes(read)?;
            let mut block = vec![1i64; sizes.len()];
            if let (Some(b), Some(&n)) = (block.last_mut(), sizes.last()) {
                *b = n;
            }
            let (lo, hi) = (-128i64, 127i64);
            let chosen = self.call(
                path,
                Op::ChooseQparamsAffine,
                args![read, "ASYMMETRIC", Arg::ints(&block), DType::I8, lo, hi, Arg::None, DType::F32, DType::I8, true]
                    .into(),
            )?;
            self.quantizer(read, (chosen[0], chosen[1]), &block, (lo, hi), path)?
        } else {
            return Ok(read);
        };
        self.transformed.insert(key, made);
        Ok(made)
    }
}

/// Sizes of the blocks of a layout.
fn block_of(layout: &Layout, sizes: &[usize]) -> Vec<i64> {
    let mut block: Vec<i64> = sizes.iter().map(|&s| s as i64).collect();
    match layout {
        Layout::PerTensor => {}
        Layout::PerChannel { axis } => {
            if let Some(b) = block.get_mut(*axis) {
                *b = 1;
            }
        }
        Layout::PerBlock { block_size } => block = block_size.iter().map(|&b| b as i64).collect(),
    }
    block
}

/// Errors of specs with the tensor they are of.
struct QuantizeSpec;

impl QuantizeSpec {
    fn wrap(label: &TensorLabel) -> impl Fn(pteron_quant::SpecError) -> TrainError + '_ {
        |e| TrainError::Unsupported { tensor: label.to_string(), reason: e.to_string() }
    }
}

/// The constants that a graph reads, with their values.
pub(crate) fn constants(graph: &Graph) -> Vec<(ValueId, ConstId)> {
    let found = graph.values.iter().filter_map(|(v, d)| match d.def {
        Def::Const(c) => Some((v, c)),
        _ => None,
    });
    found.collect()
}
