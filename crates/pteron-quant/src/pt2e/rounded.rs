//! Calibration of observers that stand in fake-quantize modules: what each sees has been rounded by those before it.
//!
//! PyTorch's `FakeQuantize` shows a tensor to its observer and passes it on rounded with the parameters that the observer has
//! then. Here the graph that is run does the same itself: the ranges that the moving averages had before the step are inputs,
//! and nodes bring them up to date, choose scale and zero point and round.

use std::collections::BTreeMap;

use pteron_exec::Value;
use pteron_ir::{Arg, Def, Graph, Module, Op, PathId, TensorType, Type, ValueId, args};
use pteron_tensor::{DType, Tensor};

use super::QuantizeError;
use super::convert::{Conversion, Folded};
use super::params::SlotParams;
use super::prepare::{PreparedGraph, SlotId, Tap};
use crate::groups::GroupSpec;
use crate::observer::{ObserverState, moving_average};
use crate::spec::ObserverKind;

/// A moving average within a graph.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moving {
    /// Least and largest value before the step: f32 `[2]`.
    range: ValueId,
    /// The weight of the step: f32 `[1]`.
    rate: ValueId,
    /// Least and largest value of the step: f32 `[2]`.
    step: Option<ValueId>,
}

/// A prepared graph with the rounding of its fake-quantize modules, one call a step.
#[derive(Debug)]
pub struct RoundedRun {
    module: Module,
    prepared: PreparedGraph,
    slots: Vec<SlotId>,
}

impl RoundedRun {
    /// The graph of `module` that was prepared, with rounding; `None` if no observer of activations stands in a fake-quantize
    /// module, so that the graph can be run as it is.
    ///
    /// # Errors
    /// [`QuantizeError::Unsupported`] naming a tensor whose observer is no moving average of one tensor as a whole.
    pub fn of(module: &Module, prepared: &PreparedGraph) -> Result<Option<RoundedRun>, QuantizeError> {
        let Some(at) = module.graphs.iter().position(|g| g.name == prepared.graph) else { return Ok(None) };
        let slots: Vec<SlotId> =
            prepared.learning(&module.graphs[at]).filter(|&s| in_fake_quant(prepared, s)).collect();
        if slots.is_empty() {
            return Ok(None);
        }
        let mut module = module.clone();
        let mut graphs = std::mem::take(&mut module.graphs);
        let steps = with_rounding(&mut module, &mut graphs[at], prepared, &slots)?;
        module.graphs = graphs;
        let mut watched = prepared.clone();
        for tap in watched.taps.values_mut() {
            tap.output = tap.output.filter(|s| !slots.contains(s));
            tap.edges.retain(|s| !slots.contains(s));
        }
        watched
            .taps
            .extend(steps.into_iter().map(|(slot, value)| (value, Tap { value, output: Some(slot), edges: vec![] })));
        Ok(Some(RoundedRun { module, prepared: watched, slots }))
    }

    /// What is run, with PyTorch's eager arithmetic; [`RoundedRun::inputs`] come behind the graph's own inputs.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// What the hook of a run needs.
    pub fn prepared_mut(&mut self) -> &mut PreparedGraph {
        &mut self.prepared
    }

    /// The further inputs of the next step.
    ///
    /// # Errors
    /// If there is no memory for them.
    pub fn inputs(&self) -> Result<Vec<Value>, pteron_tensor::ViewError> {
        let mut rate = 1.0;
        let mut out = Vec::with_capacity(self.slots.len() + 1);
        for &slot in &self.slots {
            let Some(observer) = &self.prepared.slot(slot).observer else { continue };
            let constant = observer.spec().observer.effective_averaging_constant() as f32;
            let before = match observer.state() {
                ObserverState::Steps(steps) => moving_average(constant, steps),
                _ => None,
            };
            if before.is_some() {
                rate = constant;
            }
            let (low, high) = before.unwrap_or_default();
            out.push(Value::Tensor(Tensor::of(&[2], &[low, high])?));
        }
        out.push(Value::Tensor(Tensor::of(&[1], &[rate])?));
        Ok(out)
    }

    /// Gives what was learnt to the graph that the run was made from.
    pub fn finish(self, prepared: &mut PreparedGraph) {
        prepared.slots = self.prepared.slots;
    }
}

fn in_fake_quant(prepared: &PreparedGraph, slot: SlotId) -> bool {
    prepared.slot(slot).observer.as_ref().is_some_and(|o| o.spec().observer.fake_quant.is_some())
}

/// Puts the rounding of `slots`, and of constants in fake-quantize modules, into `graph`; gives the values that are each slot's
/// least and largest.
fn with_rounding(
    module: &mut Module,
    graph: &mut Graph,
    prepared: &PreparedGraph,
    slots: &[SlotId],
) -> Result<Vec<(SlotId, ValueId)>, QuantizeError> {
    let mut params = vec![SlotParams::Float; prepared.slots.len()];
    let constants = prepared.taps.values().filter(|t| matches!(graph.values[t.value].def, Def::Const(_)));
    for slot in constants.flat_map(Tap::slots).filter(|s| in_fake_quant(prepared, *s) && !slots.contains(s)) {
        if let Some(observer) = &prepared.slot(slot).observer {
            let found = observer.calculate_qparams(&prepared.slot(slot).label)?;
            params[slot.0 as usize] = SlotParams::Static(found.into());
        }
    }
    let input = |graph: &mut Graph, name: &str, size| {
        graph.add_input(name, Type::Tensor(TensorType::fixed(DType::F32, &[size])))
    };
    let ranges: Vec<ValueId> = slots
        .iter()
        .map(|&s| {
            let name = format!("{}.range", prepared.slot(s).label);
            input(graph, &name, 2)
        })
        .collect();
    let rate = input(graph, "rate", 1);
    let moving: BTreeMap<SlotId, Moving> =
        slots.iter().zip(ranges).map(|(&slot, range)| (slot, Moving { range, rate, step: None })).collect();
    let mut folded = Folded::default();
    let mut c = Conversion::new(module, graph, prepared, &params, &mut folded);
    c.moving = moving;
    c.run()?;
    Ok(c.moving.iter().filter_map(|(&slot, m)| Some((slot, m.step?))).collect())
}

impl Conversion<'_> {
    fn one_of(&mut self, slot: SlotId, op: Op, arguments: Vec<Arg>, path: PathId) -> Result<ValueId, QuantizeError> {
        let n = self.call(slot, op, arguments, path)?;
        Ok(self.first(n))
    }

    /// `v` as a fake-quantize module passes it on.
    pub(super) fn rounded(&mut self, v: ValueId, slot: SlotId, path: PathId) -> Result<ValueId, QuantizeError> {
        if let Some(&known) = self.shared.get(&(v, slot)) {
            return Ok(known);
        }
        let moving = match self.moving.get(&slot) {
            Some(m) if m.step.is_none() => *m,
            _ => {
                return Err(
                    self.unsupported(slot, "a fake-quantize module that several tensors share cannot be calibrated")
                );
            }
        };
        let spec = match &self.prepared.slot(slot).spec {
            GroupSpec::Observed(s)
                if s.observer.kind == ObserverKind::MovingAverageMinMax && !s.effective_qscheme().is_symmetric() =>
            {
                s.clone()
            }
            _ => {
                let reason = "calibration with rounding needs an affine moving average of a tensor as a whole";
                return Err(self.unsupported(slot, reason));
            }
        };
        let float = self.graph.ty(v).as_tensor().map_or(DType::F32, |t| t.dtype);
        let mut ends = Vec::new();
        for op in [Op::Amin, Op::Amax] {
            let mut end = self.one_of(slot, op, args![v, Arg::ints(&[]), false].into(), path)?;
            if float != DType::F32 {
                end = self.one_of(slot, Op::ToCopy, args![end, DType::F32].into(), path)?;
            }
            ends.push(Some(self.one_of(slot, Op::ViewCopy, args![end, Arg::ints(&[1])].into(), path)?));
        }
        let step = self.one_of(slot, Op::Cat, vec![Arg::Values(ends.into_iter().collect()), 0i64.into()], path)?;
        let further = self.one_of(slot, Op::Sub, args![step, moving.range].into(), path)?;
        let further = self.one_of(slot, Op::Mul, args![further, moving.rate].into(), path)?;
        let range = self.one_of(slot, Op::Add, args![moving.range, further].into(), path)?;
        let format = spec.format()?;
        let (lo, hi, dtype) = (format.quant_min, format.quant_max, format.container);
        let eps = f64::from(spec.observer.effective_eps());
        let chosen = self.call(slot, Op::ChooseQparams, args![range, lo, hi, eps, dtype].into(), path)?;
        let (scale, zero) = (self.graph.nodes[chosen].outputs[0], self.graph.nodes[chosen].outputs[1]);
        let codes =
            self.one_of(slot, Op::QuantizePerTensorTensor, args![v, scale, zero, lo, hi, dtype].into(), path)?;
        let wide = if float == DType::F32 { Arg::None } else { float.into() };
        let out = self.one_of(
            slot,
            Op::DequantizePerTensorTensor,
            args![codes, scale, zero, lo, hi, dtype, wide].into(),
            path,
        )?;
        self.moving.insert(slot, Moving { step: Some(step), ..moving });
        self.shared.insert((v, slot), out);
        Ok(out)
    }
}
