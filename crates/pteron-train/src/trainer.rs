//! A run: parameters, optimizer, and what a step does.

use std::sync::Arc;

use pteron_exec::{Context, NodeEvent, NodeHook, Session, SessionOptions, Threads, ValueRef};
use pteron_ir::ConstData;
use pteron_kernels::matmul;
use pteron_quant::observer::{QuantParams, ZeroPoint};
use pteron_tensor::{AlignedBytes, CastSource, DType, Tensor, View, read_all};

use crate::error::TrainError;
use crate::graph::{EVALUATE, Loss, ParamKind, Role, TRAIN, TrainGraph};
use crate::learned::Affine;
use crate::optimizer::{AdamW, Schedule};
use crate::order::splitmix;

/// Whether the scales of weights follow the weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScaleMode {
    /// They are chosen anew after each step, as an export would choose them from the weights there are. The default: no weight can
    /// grow out of its range.
    #[default]
    Live,
    /// They stay as chosen before the first step, as PyTorch's `FakeQuantize` around QNN's per-channel observer keeps them.
    Frozen,
}

/// How a run trains.
#[derive(Clone, Copy, Debug)]
pub struct TrainerOptions {
    /// The optimizer.
    pub adam: AdamW,
    /// The learning rate's course.
    pub schedule: Schedule,
    /// The largest norm of all gradients together; longer ones are shortened to it.
    pub clip_norm: Option<f64>,
    /// Scales of weights.
    pub scales: ScaleMode,
    /// The largest learning rate of learned scales, as a share of them; of affine ones as a share of each end of the range.
    pub scale_rate: f64,
    /// First step, from 1, whose forward pass is fake-quantized.
    pub quantize_from: u64,
    /// First step, from 1, whose observers do not move ranges any more; `None` for none.
    pub observe_until: Option<u64>,
    /// Weights are rounded to bf16 in every forward pass, and saved so; the optimizer moves f32 copies.
    pub bf16: bool,
    /// Decides the adapters' first elements.
    pub seed: u64,
}

/// What a window is trained towards.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// The teacher's logits, row-major `[S, V]`.
    Logits(&'a [f32]),
    /// The next tokens, `[S]`.
    Tokens(&'a [i64]),
}

/// One window.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The tokens, `[S]`.
    pub tokens: &'a [i64],
    /// What they are trained towards.
    pub target: Target<'a>,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Its number, from 1.
    pub step: u64,
    /// The loss, a mean over its windows, before the parameters moved.
    pub loss: f64,
    /// The norm of all gradients together, before it was shortened.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
}

/// A parameter's elements with the optimizer's moments.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    pub(crate) values: Vec<f32>,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// A run of training.
pub struct Trainer {
    pub(crate) graph: TrainGraph,
    session: Session,
    options: TrainerOptions,
    pub(crate) slots: Vec<Slot>,
    /// What the graph reads of each parameter where that is not the parameter itself: weights in bf16, whole zero points.
    rounded: Vec<Option<Vec<f32>>>,
    /// Scales and zero points of weights.
    pub(crate) scales: Vec<(Vec<f32>, Vec<f32>)>,
    /// Ranges of activations.
    pub(crate) ranges: Vec<[f32; 2]>,
    pub(crate) step: u64,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("step", &self.step).field("params", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Trainer {
    /// A run at its first step. `ranges` gives the range of activations that a slot begins with, as calibration found it; where it
    /// gives none the first step's own counts.
    ///
    /// # Errors
    /// [`TrainError`] if a weight cannot be read, or the executor does not take the graph.
    pub fn new(
        mut graph: TrainGraph,
        options: TrainerOptions,
        threads: Threads,
        ranges: &dyn Fn(&pteron_quant::TensorLabel) -> Option<QuantStart>,
    ) -> Result<Trainer, TrainError> {
        let mut slots = Vec::with_capacity(graph.params.len());
        let mut seed = options.seed;
        for p in &graph.params {
            let n: usize = p.sizes.iter().product();
            let values = match p.kind {
                ParamKind::Weight | ParamKind::Frozen => weight(&graph, p.constant, &p.name)?,
                // He's rule for the one, zeros for the other: the product is 0 at first.
                ParamKind::LoraA(_) => {
                    let bound = (3.0 / p.sizes.get(1).copied().unwrap_or(1) as f64).sqrt();
                    let uniform = |s: &mut u64| (splitmix(s) >> 11) as f64 / (1u64 << 53) as f64;
                    (0..n).map(|_| ((2.0 * uniform(&mut seed) - 1.0) * bound) as f32).collect()
                }
                ParamKind::LoraB(_) | ParamKind::WeightScale(_) => vec![0.0; n],
                ParamKind::Scale(i) | ParamKind::ZeroPoint(i) => {
                    let label = &graph.prepared.learned[i].label;
                    let start = ranges(label).and_then(|s| s.params);
                    let first = |p: QuantParams| match p.zero_point {
                        ZeroPoint::Int(z) => (p.scale.first().copied(), z.first().map(|&z| z as f32)),
                        ZeroPoint::Float(z) => (p.scale.first().copied(), z.first().copied()),
                    };
                    let (scale, zero) = start.map_or((None, None), first);
                    let found = if matches!(p.kind, ParamKind::Scale(_)) { scale } else { zero };
                    vec![found.ok_or_else(|| {
                        TrainError::Source(format!(
                            "{label}: a learned scale begins with a calibrated one, and there is none"
                        ))
                    })?]
                }
            };
            let moments = if p.kind == ParamKind::Frozen { 0 } else { n };
            slots.push(Slot { values, first: vec![0.0; moments], second: vec![0.0; moments] });
        }
        let ranges = graph.prepared.ranges.iter().map(|r| {
            let start = ranges(&r.label).and_then(|s| s.range);
            start.map_or([f32::INFINITY, f32::NEG_INFINITY], |(low, high)| [low, high])
        });
        let ranges = ranges.collect();
        let mut session = SessionOptions::on(threads);
        session.fold_weights = false;
        let module = Arc::new(std::mem::take(&mut graph.module));
        let session = Session::new(module, &session)?;
        let scales = graph.prepared.weights.iter().map(|w| (vec![0.0; w.count], vec![0.0; w.count])).collect();
        let rounded = vec![None; slots.len()];
        let mut trainer = Trainer { graph, session, options, slots, rounded, scales, ranges, step: 0 };
        trainer.follow(true)?;
        Ok(trainer)
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// The graph's tables.
    pub fn graph(&self) -> &TrainGraph {
        &self.graph
    }

    /// The elements of the parameter of [`TrainGraph::params`] at `at`, as the optimizer has moved them; none past the last.
    pub fn parameter(&self, at: usize) -> &[f32] {
        self.slots.get(at).map_or(&[], |s| &s.values)
    }

    /// Threads and kernels.
    pub fn context(&self) -> &Context {
        self.session.context()
    }

    /// Bytes of the executor's memory.
    pub fn arena_bytes(&self) -> u64 {
        self.session.memory().total()
    }

    /// Brings what follows the parameters up to them: rounded copies and scales of weights.
    pub(crate) fn follow(&mut self, first: bool) -> Result<(), TrainError> {
        for (slot, (p, out)) in self.slots.iter().zip(self.graph.params.iter().zip(&mut self.rounded)) {
            *out = match p.kind {
                ParamKind::Weight if self.options.bf16 => {
                    Some(slot.values.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect())
                }
                // The grid that is trained against is the one that is exported.
                ParamKind::ZeroPoint(_) => Some(slot.values.iter().map(|z| z.round_ties_even()).collect()),
                _ => None,
            };
        }
        if !first && self.options.scales == ScaleMode::Frozen {
            return Ok(());
        }
        let learned = |i: usize| {
            let is = |p: &crate::graph::Parameter| p.kind == ParamKind::WeightScale(i);
            self.graph.params.iter().position(is)
        };
        for i in 0..self.graph.prepared.weights.len() {
            let at = learned(i);
            if !first && at.is_some() {
                continue;
            }
            let w = &self.graph.prepared.weights[i];
            let params = w.choose(&self.effective(w.constant)?)?;
            let zeros = match params.zero_point {
                ZeroPoint::Int(z) => z.into_iter().map(|z| z as f32).collect(),
                ZeroPoint::Float(z) => z,
            };
            if let Some(at) = at {
                self.slots[at].values.clone_from(&params.scale);
            }
            self.scales[i] = (params.scale, zeros);
        }
        Ok(())
    }

    /// The elements of a constant of the model as the forward pass reads them: trained, with its adapter, rounded.
    ///
    /// # Errors
    /// [`TrainError`] if the model has no such parameter.
    pub fn effective(&self, constant: pteron_ir::ConstId) -> Result<Vec<f32>, TrainError> {
        let at = self.graph.params.iter().position(|p| p.constant == Some(constant));
        let Some(at) = at else { return weight_of(self.session.module(), Some(constant), "a weight") };
        let base = self.rounded[at].as_ref().unwrap_or(&self.slots[at].values);
        let find = |kind: ParamKind| self.graph.params.iter().position(|p| p.kind == kind);
        let (Some(a), Some(up), Some(lora)) = (find(ParamKind::LoraA(at)), find(ParamKind::LoraB(at)), self.graph.lora)
        else {
            return Ok(base.clone());
        };
        // The same kernels as the graph's nodes.
        let (a, up, sizes) = (self.tensor(a)?, self.tensor(up)?, &self.graph.params[at].sizes);
        let failed = |e: pteron_kernels::KernelError| TrainError::Source(e.to_string());
        let mut product = Tensor::zeros(DType::F32, sizes).map_err(|e| TrainError::Source(e.to_string()))?;
        matmul::mm(self.context(), &up.view(), &a.view(), &mut product.view_mut()).map_err(failed)?;
        let scale = lora.scale() as f32;
        let product: &[f32] = bytemuck::cast_slice(product.bytes());
        Ok(base.iter().zip(product).map(|(b, p)| b + p * scale).collect())
    }

    fn tensor(&self, at: usize) -> Result<Tensor, TrainError> {
        let bytes = AlignedBytes::copied(bytemuck::cast_slice(&self.slots[at].values));
        Tensor::from_bytes(DType::F32, &self.graph.params[at].sizes, bytes)
            .map_err(|e| TrainError::Source(e.to_string()))
    }

    /// One step over some windows, whose gradients are averaged.
    ///
    /// # Errors
    /// [`TrainError::NotFinite`] if the loss or a gradient is no number; the run is then as it was before the step, but for ranges.
    pub fn step(&mut self, windows: &[Batch<'_>]) -> Result<StepReport, TrainError> {
        let step = self.step + 1;
        let observe = self.options.observe_until.is_none_or(|last| step < last);
        let quantize = step >= self.options.quantize_from;
        let share = 1.0 / windows.len().max(1) as f32;
        let (mut loss, mut sums): (f64, Vec<Vec<f32>>) = (0.0, Vec::new());
        let ranges_before = self.ranges.clone();
        for window in windows {
            let inputs = Inputs::new(&self.graph, window, observe, quantize)?;
            let refs = inputs.refs(&self.graph, &self.slots, &self.rounded, &self.scales, &self.ranges)?;
            let out = self.session.run(TRAIN, &refs)?;
            let number = |i: usize| out.tensor(i).map(|v| v.to_f64_vec()).unwrap_or_default();
            let of_window = number(0).first().copied().unwrap_or(f64::NAN);
            loss += of_window * f64::from(share);
            let n = self.graph.prepared.ranges.len();
            let ranges: Vec<[f32; 2]> = (0..n)
                .map(|i| match number(1 + i).as_slice() {
                    [low, high] => [*low as f32, *high as f32],
                    _ => [f32::NAN; 2],
                })
                .collect();
            let mut bad = (!of_window.is_finite()).then(|| "loss".to_owned());
            for (i, &p) in self.graph.trained.iter().enumerate() {
                let view = out.tensor(1 + n + i);
                let Some(g) = view.as_ref().and_then(View::as_slice::<f32>) else {
                    return Err(TrainError::Source(format!(
                        "the gradient of {} is no tensor",
                        self.graph.params[p].name
                    )));
                };
                if sums.len() <= i {
                    sums.push(vec![0.0; g.len()]);
                }
                for (s, g) in sums[i].iter_mut().zip(g) {
                    *s += g * share;
                }
            }
            if bad.is_none() {
                let of = sums.iter().zip(&self.graph.trained);
                let found = of.into_iter().find(|(s, _)| s.iter().any(|v| !v.is_finite()));
                bad = found.map(|(_, &p)| format!("the gradient of {}", self.graph.params[p].name));
            }
            if let Some(bad) = bad {
                let tensor =
                    if bad == "loss" { self.first_bad(window, observe, quantize)?.unwrap_or(bad) } else { bad };
                self.ranges = ranges_before;
                return Err(TrainError::NotFinite { step, tensor });
            }
            self.ranges = ranges;
        }
        let norm = sums.iter().flatten().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
        let factor = self.options.clip_norm.map_or(1.0, |most| (most / (norm + 1e-6)).min(1.0)) as f32;
        let rate = self.options.schedule.at(step);
        // Of scales: a share of them, on the same course.
        let scale_rate = self.options.scale_rate * (rate / self.options.schedule.peak);
        for i in 0..self.graph.prepared.learned.len() {
            self.move_range(i, &sums, (step, scale_rate));
        }
        for (at, &p) in self.graph.trained.iter().enumerate() {
            let (g, kind) = (&sums[at], self.graph.params[p].kind);
            match kind {
                // Moved together, above.
                ParamKind::ZeroPoint(_) => {}
                ParamKind::Scale(i) if !self.graph.prepared.learned[i].symmetric => {}
                _ => {
                    // Decay is for matrices.
                    let matrix = self.graph.params[p].sizes.len() >= 2;
                    let weight_decay = if matrix { self.options.adam.weight_decay } else { 0.0 };
                    let adam = AdamW { weight_decay, ..self.options.adam };
                    let Slot { values, first, second } = &mut self.slots[p];
                    if matches!(kind, ParamKind::Scale(_) | ParamKind::WeightScale(_)) {
                        let of_values = values.iter().sum::<f32>() / values.len().max(1) as f32;
                        let rate = scale_rate * f64::from(of_values);
                        adam.step(step, rate, factor, values, first, second, g);
                        values.iter_mut().for_each(|s| *s = s.max(f32::EPSILON));
                    } else {
                        adam.step(step, rate, factor, values, first, second, g);
                    }
                }
            }
        }
        self.step = step;
        self.follow(false)?;
        Ok(StepReport { step, loss, norm, rate })
    }

    /// Moves scale and zero point of learned scale `i`, unless it is symmetric; `sums` are the gradients of what is trained.
    fn move_range(&mut self, i: usize, sums: &[Vec<f32>], when: (u64, f64)) {
        let learned = &self.graph.prepared.learned[i];
        let of = |kind: ParamKind| {
            let slot = self.graph.params.iter().position(|p| p.kind == kind)?;
            let index = self.graph.trained.iter().position(|&p| p == slot)?;
            Some((slot, *sums.get(index)?.first()?))
        };
        let (Some((at, of_scale)), Some((zero_at, of_zero)), false) =
            (of(ParamKind::Scale(i)), of(ParamKind::ZeroPoint(i)), learned.symmetric)
        else {
            return;
        };
        let Ok([scale, zero]) = self.slots.get_disjoint_mut([at, zero_at]) else { return };
        let now = Affine { scale: scale.values[0], zero: zero.values[0], codes: learned.codes };
        // The upper end's moments lie with the scale, the lower end's with the zero point.
        let moments = [(&mut zero.first[..], &mut zero.second[..]), (&mut scale.first[..], &mut scale.second[..])];
        let next = now.step(&self.options.adam, when, [of_scale, of_zero], moments);
        (scale.values[0], zero.values[0]) = (next.scale, next.zero);
    }

    /// Loss and logits `[S, V]` of a window, with fake quantization and without moving anything.
    ///
    /// # Errors
    /// The executor's.
    pub fn evaluate(&mut self, window: &Batch<'_>, quantize: bool) -> Result<(f64, Vec<f32>), TrainError> {
        let inputs = Inputs::new(&self.graph, window, false, quantize)?;
        let refs = inputs.refs(&self.graph, &self.slots, &self.rounded, &self.scales, &self.ranges)?;
        let out = self.session.run(EVALUATE, &refs)?;
        let loss = out.tensor(0).and_then(|v| v.scalar(0)).map_or(f64::NAN, |s| s.as_f64());
        let logits = out.tensor(1).map(|v| v.to_f64_vec().into_iter().map(|v| v as f32).collect());
        Ok((loss, logits.unwrap_or_default()))
    }

    /// The first tensor of a window's forward pass that holds a NaN or, among parameters, an infinity.
    fn first_bad(&mut self, window: &Batch<'_>, observe: bool, quantize: bool) -> Result<Option<String>, TrainError> {
        for (p, slot) in self.graph.params.iter().zip(&self.slots) {
            if slot.values.iter().any(|v| !v.is_finite()) {
                return Ok(Some(p.name.clone()));
            }
        }
        let inputs = Inputs::new(&self.graph, window, observe, quantize)?;
        let refs = inputs.refs(&self.graph, &self.slots, &self.rounded, &self.scales, &self.ranges)?;
        let mut hook = FirstNan::default();
        self.session.run_watched(EVALUATE, &refs, &mut hook)?;
        Ok(hook.found)
    }

    /// The parameters of every slot and weight as an export takes them: by label.
    ///
    /// # Errors
    /// [`TrainError`] for a range that was never observed.
    pub fn encodings(
        &self,
        slots: Option<&pteron_quant::pt2e::PreparedGraph>,
    ) -> Result<Vec<(pteron_quant::TensorLabel, QuantParams)>, TrainError> {
        let mut out = Vec::new();
        let Some(slots) = slots else { return Ok(out) };
        let mut put = |id: pteron_quant::pt2e::SlotId, params: QuantParams| {
            let labels = slots.slot(id).members.iter().filter_map(|p| slots.labels.get(p));
            out.extend(labels.map(|l| (l.clone(), params.clone())));
        };
        for (i, w) in self.graph.prepared.weights.iter().enumerate() {
            let Some(slot) = w.slot else { continue };
            let like = w.choose(&self.effective(w.constant)?)?;
            let (mut scale, _) = self.scales[i].clone();
            let learned = self.graph.params.iter().position(|p| p.kind == ParamKind::WeightScale(i));
            if let Some(at) = learned {
                scale.clone_from(&self.slots[at].values);
            }
            put(slot, QuantParams { scale, ..like });
        }
        let roots = &self.graph.prepared.ranges;
        for (r, range) in roots.iter().zip(&self.ranges) {
            let concat = slots.concats.iter().find(|c| c.output == r.slot);
            let members = concat.into_iter().flat_map(|c| c.inputs.iter().copied()).chain([r.slot]);
            let mut members: Vec<_> = members.collect();
            members.dedup();
            for id in members {
                let slot = slots.slot(id);
                if let Some(observer) = &slot.observer {
                    put(id, observer.qparams_of(&slot.label, (range[0], range[1]))?);
                }
            }
        }
        for (i, l) in self.graph.prepared.learned.iter().enumerate() {
            let slot = slots.slot(l.slot);
            let Some(observer) = &slot.observer else { continue };
            let like = observer.qparams_of(&slot.label, (-1.0, 1.0))?;
            let value = |kind: ParamKind| {
                let at = self.graph.params.iter().position(|p| p.kind == kind);
                at.and_then(|at| self.slots[at].values.first().copied())
            };
            let scale = value(ParamKind::Scale(i)).map_or(like.scale.clone(), |s| vec![s]);
            // Codes have whole zero points.
            let zero_point = match value(ParamKind::ZeroPoint(i)) {
                Some(z) => ZeroPoint::Int(vec![z.round_ties_even() as i64]),
                None => like.zero_point.clone(),
            };
            put(l.slot, QuantParams { scale, zero_point, ..like });
        }
        Ok(out)
    }
}

/// What a slot begins with.
#[derive(Clone, Debug, Default)]
pub struct QuantStart {
    /// The least and largest value.
    pub range: Option<(f32, f32)>,
    /// Scale and zero point.
    pub params: Option<QuantParams>,
}

/// The tensors of one call that are not the run's own.
struct Inputs {
    tokens: Vec<i64>,
    logits: Vec<f32>,
    targets: Vec<i64>,
    switches: [f32; 2],
    sizes: Vec<Vec<usize>>,
    strides: Vec<Vec<usize>>,
}

impl Inputs {
    fn new(graph: &TrainGraph, window: &Batch<'_>, observe: bool, quantize: bool) -> Result<Inputs, TrainError> {
        let (s, v) = (graph.tokens, graph.vocab);
        let found = match (window.target, graph.loss) {
            (Target::Logits(l), Loss::Distillation) => l.len() == s * v,
            (Target::Tokens(t), Loss::CrossEntropy) => t.len() == s,
            (Target::Logits(_) | Target::Tokens(_), _) => false,
        };
        if window.tokens.len() != s || !found {
            return Err(TrainError::Source(format!(
                "a window does not fit: {} tokens, expected {s}",
                window.tokens.len()
            )));
        }
        let (logits, targets) = match window.target {
            Target::Logits(l) => (l.to_vec(), Vec::new()),
            Target::Tokens(t) => (Vec::new(), t.to_vec()),
        };
        let flag = |b: bool| f32::from(u8::from(b));
        let sizes = graph.roles.iter().map(|role| match *role {
            Role::Tokens => vec![1, s],
            Role::Target if graph.loss == Loss::Distillation => vec![s, v],
            Role::Target => vec![s, 1],
            Role::Observe | Role::FakeQuantize => vec![1],
            Role::Param(i) => graph.params[i].sizes.clone(),
            Role::Scale(i) | Role::Zero(i) => vec![graph.prepared.weights[i].count],
            Role::Range(_) => vec![2],
        });
        let sizes: Vec<Vec<usize>> = sizes.collect();
        let strides = sizes.iter().map(|s: &Vec<usize>| {
            let mut strides = vec![1; s.len()];
            for d in (1..s.len()).rev() {
                strides[d - 1] = strides[d] * s[d];
            }
            strides
        });
        let strides = strides.collect();
        let switches = [flag(observe), flag(quantize)];
        Ok(Inputs { tokens: window.tokens.to_vec(), logits, targets, switches, sizes, strides })
    }

    fn refs<'a>(
        &'a self,
        graph: &TrainGraph,
        slots: &'a [Slot],
        rounded: &'a [Option<Vec<f32>>],
        scales: &'a [(Vec<f32>, Vec<f32>)],
        ranges: &'a [[f32; 2]],
    ) -> Result<Vec<ValueRef<'a>>, TrainError> {
        let f32s = |v: &'a [f32]| (DType::F32, bytemuck::cast_slice::<f32, u8>(v));
        let i64s = |v: &'a [i64]| (DType::I64, bytemuck::cast_slice::<i64, u8>(v));
        let each = graph.roles.iter().enumerate().map(|(i, role)| {
            let (dtype, bytes) = match *role {
                Role::Tokens => i64s(&self.tokens),
                Role::Target if graph.loss == Loss::Distillation => f32s(&self.logits),
                Role::Target => i64s(&self.targets),
                Role::Observe => f32s(&self.switches[..1]),
                Role::FakeQuantize => f32s(&self.switches[1..]),
                Role::Param(p) => f32s(rounded[p].as_ref().unwrap_or(&slots[p].values)),
                Role::Scale(w) => f32s(&scales[w].0),
                Role::Zero(w) => f32s(&scales[w].1),
                Role::Range(r) => f32s(&ranges[r]),
            };
            let view = View::new(dtype, &self.sizes[i], &self.strides[i], bytes);
            view.map(ValueRef::Tensor).map_err(|e| TrainError::Source(e.to_string()))
        });
        each.collect()
    }
}

/// The elements of a parameter as f32.
fn weight(graph: &TrainGraph, constant: Option<pteron_ir::ConstId>, name: &str) -> Result<Vec<f32>, TrainError> {
    weight_of(&graph.module, constant, name)
}

fn weight_of(
    module: &pteron_ir::Module,
    constant: Option<pteron_ir::ConstId>,
    name: &str,
) -> Result<Vec<f32>, TrainError> {
    let source = constant.and_then(|c| match &module.constants[c].data {
        ConstData::Source(s) => Some(s.clone()),
        ConstData::External(_) | ConstData::Missing => None,
    });
    let source = source.ok_or_else(|| TrainError::Source(format!("{name} has no data")))?;
    let bytes = read_all(CastSource::wrap(source, DType::F32).as_ref());
    let bytes = bytes.map_err(|e| TrainError::Source(e.to_string()))?;
    Ok(bytemuck::pod_collect_to_vec(&bytes))
}

/// Finds the first node whose result holds a NaN.
#[derive(Default)]
struct FirstNan {
    found: Option<String>,
}

impl NodeHook for FirstNan {
    fn after(&mut self, event: &NodeEvent<'_>) {
        if self.found.is_some() {
            return;
        }
        let node = &event.graph.nodes[event.node];
        let nan = event.outputs.iter().any(|o| match o {
            ValueRef::Tensor(v) if v.dtype().is_float() => v.to_f64_vec().iter().any(|v| v.is_nan()),
            _ => false,
        });
        if nan {
            let path = &event.graph.paths[node.path];
            self.found = Some(format!("the result of {} in `{path}`", node.op));
        }
    }
}
