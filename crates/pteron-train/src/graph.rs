//! The graph of a step: forward with fake quantization, loss, gradients.

use std::collections::BTreeMap;

use pteron_ir::gradient::{ByLayer, differentiate};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::{Arg, ConstId, GraphBuilder, Module, Op, TensorType, ValueId, args, passes};
use pteron_quant::pt2e::PreparedGraph;
use pteron_tensor::DType;

use crate::error::TrainError;
use crate::prepare::{Choice, Placer, Prepared, QatOptions, Switches, constants};

/// What is made small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// The Kullback-Leibler divergence of the model's next-token distribution from a teacher's, a mean over tokens.
    #[default]
    Distillation,
    /// The cross-entropy of the next token, a mean over tokens.
    CrossEntropy,
}

/// Low-rank adapters: a weight `w` `[N, K]` becomes `w + alpha/rank · b·a` with `b` `[N, rank]` and `a` `[rank, K]`, which alone are
/// trained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lora {
    /// Rows of `a`.
    pub rank: usize,
    /// Times the rank, the factor of the product.
    pub alpha: f64,
}

impl Lora {
    /// The factor of the product.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }
}

/// What a parameter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParamKind {
    /// The model's own, which is trained.
    Weight,
    /// The model's own, which an adapter stands on.
    Frozen,
    /// Of an adapter, `[rank, K]`; of the parameter of that index.
    LoraA(usize),
    /// Of an adapter, `[N, rank]`, zeros at first; of the parameter of that index.
    LoraB(usize),
    /// Scales of weights, by index of [`Prepared::weights`].
    WeightScale(usize),
    /// A scale of activations, by index of [`Prepared::learned`].
    Scale(usize),
    /// A zero point of activations, by index of [`Prepared::learned`].
    ZeroPoint(usize),
}

/// Something that goes into each step, and is trained unless it is [`ParamKind::Frozen`].
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its name: the checkpoint's for weights.
    pub name: String,
    /// What it is.
    pub kind: ParamKind,
    /// Its sizes.
    pub sizes: Vec<usize>,
    /// The constant of the model, for its own parameters.
    pub constant: Option<ConstId>,
    /// The graph's input.
    pub input: ValueId,
}

/// What an input of the graph is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Tokens,
    Target,
    Observe,
    FakeQuantize,
    Param(usize),
    /// Scales of a weight that follow from it.
    Scale(usize),
    /// Zero points of a weight.
    Zero(usize),
    Range(usize),
}

/// How a graph is made.
#[derive(Clone, Copy, Debug)]
pub struct TrainGraphOptions {
    /// What is made small.
    pub loss: Loss,
    /// How fake quantization is placed.
    pub qat: QatOptions,
    /// Adapters in the place of whole weights.
    pub lora: Option<Lora>,
}

/// The graph of a step, `train`, and that of a look at the model, `evaluate`, with what their inputs are.
#[derive(Debug)]
pub struct TrainGraph {
    pub(crate) module: Module,
    pub(crate) roles: Vec<Role>,
    /// Parameters, the model's own first.
    pub params: Vec<Parameter>,
    /// Indices of the parameters that are trained, in the order of the gradients.
    pub trained: Vec<usize>,
    /// What `prepare_qat` placed.
    pub prepared: Prepared,
    /// Tokens of a step.
    pub tokens: usize,
    /// Logits of a token.
    pub vocab: usize,
    pub(crate) loss: Loss,
    pub(crate) lora: Option<Lora>,
}

/// The method of a step.
pub(crate) const TRAIN: &str = "train";
/// The method of a look: loss and logits.
pub(crate) const EVALUATE: &str = "evaluate";
/// The module path whose numbered children are computed once more in the backward pass.
const LAYERS: &str = "model.layers";

impl TrainGraph {
    /// Makes the graphs of `module`, whose first graph takes tokens `[1, S]` and gives logits `[1, S, V]`, all sizes constant.
    /// `slots` are the observers that PT2E's quantizers ask for in that graph, `choice` what source transforms make of a layer.
    /// Constants called as `is_parameter` says are the model's parameters.
    ///
    /// # Errors
    /// [`TrainError`] naming the tensor that cannot be fake-quantized or the operator that cannot be differentiated.
    pub fn new(
        module: &Module,
        slots: Option<&PreparedGraph>,
        choice: Choice<'_>,
        is_parameter: &dyn Fn(&str) -> bool,
        options: TrainGraphOptions,
    ) -> Result<TrainGraph, TrainError> {
        let mut m = module.clone();
        if m.graphs.is_empty() {
            return Err(TrainError::Source("the model has no graph".to_owned()));
        }
        let mut graph = m.graphs.swap_remove(0);
        m.graphs.clear();
        m.metadata.clear();
        TRAIN.clone_into(&mut graph.name);
        let body = graph.body_id();
        let nodes = std::mem::take(&mut graph.regions[body].nodes);
        let results = std::mem::take(&mut graph.regions[body].results);
        let found = constants(&graph);
        let (Some(&logits), Some(&tokens_in)) = (results.first(), graph.inputs.first()) else {
            return Err(TrainError::Source("the model's graph has no tokens or no logits".to_owned()));
        };
        let ty = graph.ty(logits).as_tensor().and_then(TensorType::fixed_sizes);
        let Some(&[tokens, vocab]) = ty.as_deref().map(|s| &s[s.len().saturating_sub(2)..]) else {
            return Err(TrainError::Source("the model's logits have no constant sizes".to_owned()));
        };
        let mut b = GraphBuilder::resume(&mut m, graph);
        let mut roles = BTreeMap::from([(tokens_in, Role::Tokens)]);
        let flag = || TensorType::fixed(DType::F32, &[1]);
        let observe = b.input("observe", flag());
        let fake_quantize = b.input("fake_quantize", flag());
        let target = match options.loss {
            Loss::Distillation => b.input("teacher", TensorType::fixed(DType::F32, &[tokens, vocab])),
            Loss::CrossEntropy => b.input("targets", TensorType::fixed(DType::I64, &[tokens, 1])),
        };
        roles.extend([(observe, Role::Observe), (fake_quantize, Role::FakeQuantize), (target, Role::Target)]);
        let mut params = Vec::new();
        let mut replaced = BTreeMap::new();
        own_parameters(&mut b, &found, is_parameter, options.lora, &mut params, &mut replaced)?;
        let mut placer = Placer {
            b: &mut b,
            slots,
            choice,
            options: options.qat,
            switches: Switches { observe, fake_quantize },
            replaced,
            done: Prepared::default(),
            faked: BTreeMap::new(),
            scales: BTreeMap::new(),
            states: BTreeMap::new(),
            transformed: BTreeMap::new(),
        };
        let results = placer.run(nodes, &results)?;
        let prepared = placer.done;
        let logits = results[0];
        let loss = loss_of(&mut b, logits, target, options.loss, [tokens, vocab])?;
        scale_parameters(&prepared, options.qat, &mut params, &mut roles);
        for (i, r) in prepared.ranges.iter().enumerate() {
            roles.insert(r.input, Role::Range(i));
        }
        for (i, p) in params.iter().enumerate() {
            roles.insert(p.input, Role::Param(i));
        }
        let mut look = b.graph().clone();
        EVALUATE.clone_into(&mut look.name);
        look.set_outputs(vec![loss, logits]);
        let moves = |p: &Parameter| match p.kind {
            ParamKind::Frozen => false,
            ParamKind::ZeroPoint(i) => !prepared.learned[i].symmetric,
            ParamKind::Weight
            | ParamKind::LoraA(_)
            | ParamKind::LoraB(_)
            | ParamKind::WeightScale(_)
            | ParamKind::Scale(_) => true,
        };
        let trained: Vec<usize> = (0..params.len()).filter(|&i| moves(&params[i])).collect();
        let with: Vec<ValueId> = trained.iter().map(|&i| params[i].input).collect();
        let gradients = differentiate(&mut b, loss, &with, &ByLayer(LAYERS))?;
        let ranges = prepared.ranges.iter().map(|r| r.output);
        let outputs: Vec<ValueId> = std::iter::once(loss).chain(ranges).chain(gradients).collect();
        let roles = b.graph().inputs.iter().map(|v| roles.get(v).copied());
        let roles = roles.collect::<Option<Vec<Role>>>();
        let roles = roles.ok_or_else(|| TrainError::Source("an input of the graph has no meaning".to_owned()))?;
        b.finish(&outputs);
        m.graphs.push(look);
        let all = |_| true;
        Runner::new([passes::DCE])
            .run(&mut m, &PassContext::new(&all))
            .map_err(|e| TrainError::Source(e.to_string()))?;
        let TrainGraphOptions { loss, lora, .. } = options;
        Ok(TrainGraph { module: m, roles, params, trained, prepared, tokens, vocab, loss, lora })
    }
}

/// The model's own parameters become inputs; with adapters, matrices become sums.
fn own_parameters(
    b: &mut GraphBuilder<'_>,
    found: &[(ValueId, ConstId)],
    is_parameter: &dyn Fn(&str) -> bool,
    lora: Option<Lora>,
    params: &mut Vec<Parameter>,
    replaced: &mut BTreeMap<ValueId, ValueId>,
) -> Result<(), TrainError> {
    let mut adapted = Vec::new();
    for &(value, constant) in found {
        let c = b.module_mut().constants[constant].clone();
        if !is_parameter(&c.name) {
            continue;
        }
        let sizes = c.ty.fixed_sizes().map(|s| s.to_vec()).unwrap_or_default();
        let input = b.input(&c.name, TensorType::fixed(DType::F32, &sizes));
        replaced.insert(value, input);
        let kind = if lora.is_some() { ParamKind::Frozen } else { ParamKind::Weight };
        if lora.is_some() && sizes.len() == 2 {
            adapted.push((value, params.len()));
        }
        params.push(Parameter { name: c.name.to_string(), kind, sizes, constant: Some(constant), input });
    }
    let Some(lora) = lora else { return Ok(()) };
    for (value, of) in adapted {
        let (name, sizes, base) = (params[of].name.clone(), params[of].sizes.clone(), params[of].input);
        let mut add = |b: &mut GraphBuilder<'_>, leaf: &str, kind: ParamKind, sizes: [usize; 2]| {
            let name = format!("{name}.{leaf}");
            let input = b.input(&name, TensorType::fixed(DType::F32, &sizes));
            params.push(Parameter { name, kind, sizes: sizes.to_vec(), constant: None, input });
            input
        };
        let a = add(b, "lora_a", ParamKind::LoraA(of), [lora.rank, sizes[1]]);
        let up = add(b, "lora_b", ParamKind::LoraB(of), [sizes[0], lora.rank]);
        let product = b.call(Op::Mm, args![up, a])?;
        let product = b.call(Op::MulScalar, args![product, lora.scale()])?;
        replaced.insert(value, b.call(Op::Add, args![base, product])?);
    }
    Ok(())
}

/// Scales: learned ones are parameters, the others follow from what they scale.
fn scale_parameters(
    prepared: &Prepared,
    options: QatOptions,
    params: &mut Vec<Parameter>,
    roles: &mut BTreeMap<ValueId, Role>,
) {
    let parameter =
        |name: String, kind, count, input| Parameter { name, kind, sizes: vec![count], constant: None, input };
    for (i, w) in prepared.weights.iter().enumerate() {
        let [scale, zero] = w.inputs;
        roles.insert(zero, Role::Zero(i));
        if options.learn_scales {
            params.push(parameter(format!("{} scale", w.label), ParamKind::WeightScale(i), w.count, scale));
        } else {
            roles.insert(scale, Role::Scale(i));
        }
    }
    for (i, l) in prepared.learned.iter().enumerate() {
        let [scale, zero] = l.inputs;
        params.push(parameter(format!("{} scale", l.label), ParamKind::Scale(i), 1, scale));
        params.push(parameter(format!("{} zero point", l.label), ParamKind::ZeroPoint(i), 1, zero));
    }
}

fn loss_of(
    b: &mut GraphBuilder<'_>,
    logits: ValueId,
    target: ValueId,
    loss: Loss,
    [tokens, vocab]: [usize; 2],
) -> Result<ValueId, TrainError> {
    b.scope("loss", |b| {
        let rows = b.call(Op::ViewCopy, args![logits, Arg::ints(&[tokens as i64, vocab as i64])])?;
        let ours = b.call(Op::LogSoftmax, args![rows, -1i64, false])?;
        match loss {
            Loss::Distillation => {
                let theirs = b.call(Op::LogSoftmax, args![target, -1i64, false])?;
                let weight = b.call(Op::Exp, args![theirs])?;
                let apart = b.call(Op::Sub, args![theirs, ours])?;
                let weighed = b.call(Op::Mul, args![weight, apart])?;
                let of_token = b.call(Op::Sum, args![weighed, Arg::ints(&[1]), false])?;
                Ok(b.call(Op::Mean, args![of_token, Arg::ints(&[0]), true])?)
            }
            Loss::CrossEntropy => {
                let taken = b.call(Op::Gather, args![ours, 1i64, target])?;
                let mean = b.call(Op::Mean, args![taken, Arg::ints(&[0]), false])?;
                Ok(b.call(Op::Neg, args![mean])?)
            }
        }
    })
}
