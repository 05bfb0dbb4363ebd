//! Running data past observers.

use pteron_exec::{NodeEvent, NodeHook, Value, ValueRef};
use pteron_ir::{ConstData, Def, Graph, Module, ValueId};
use pteron_kernels::Context;
use pteron_tensor::{CastSource, DType, read_all};

use super::QuantizeError;
use super::prepare::{PreparedGraph, SlotId};
use crate::error::ObserveError;
use crate::observer::{Observer, ObserverState, Seen};

/// The hook that feeds observers. One run of the module with it is one step of every observer, whatever the batching.
///
/// The first error is kept and ends observation; ask [`Calibration::finish`] for it after each run.
pub struct Calibration<'p> {
    prepared: &'p mut PreparedGraph,
    ctx: Option<&'p Context>,
    counting: bool,
    error: Option<ObserveError>,
}

impl std::fmt::Debug for Calibration<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Calibration").field("graph", &self.prepared.graph).finish_non_exhaustive()
    }
}

impl<'p> Calibration<'p> {
    /// A hook for runs of the graph that was prepared.
    pub fn new(prepared: &'p mut PreparedGraph) -> Calibration<'p> {
        Calibration { prepared, ctx: None, counting: false, error: None }
    }

    /// Observes on the threads of `ctx`: those that the session runs on, which are idle meanwhile.
    #[must_use]
    pub fn on_threads(mut self, ctx: &'p Context) -> Calibration<'p> {
        self.ctx = Some(ctx);
        self
    }

    /// The second pass over the same data: only histograms that have their range see it. See [`PreparedGraph::fix_ranges`].
    #[must_use]
    pub fn counting(mut self) -> Calibration<'p> {
        self.counting = true;
        self
    }

    /// Feeds what no node gives: the graph's inputs, and constants that share the observer of a computed tensor. Call it before
    /// each run, with the same inputs.
    ///
    /// # Errors
    /// [`ObserveError`] naming the tensor.
    pub fn inputs(&mut self, graph: &Graph, inputs: &[Value]) -> Result<(), ObserveError> {
        let PreparedGraph { slots, again, .. } = &mut *self.prepared;
        for &(slot, low, high) in again.iter().filter(|_| !self.counting) {
            let slot = &mut slots[slot.0 as usize];
            if let Some(observer) = &mut slot.observer {
                observer.observe(&slot.label, &[2], &[low, high])?;
            }
        }
        for (&value, given) in graph.inputs.iter().zip(inputs) {
            self.observe(value, &given.as_ref())?;
        }
        Ok(())
    }

    /// What went wrong during the run.
    ///
    /// # Errors
    /// [`ObserveError`] naming the tensor.
    pub fn finish(self) -> Result<(), ObserveError> {
        self.error.map_or(Ok(()), Err)
    }

    fn observe(&mut self, value: ValueId, data: &ValueRef<'_>) -> Result<(), ObserveError> {
        let PreparedGraph { slots, taps, .. } = &mut *self.prepared;
        let (Some(tap), ValueRef::Tensor(view)) = (taps.get(&value), data) else { return Ok(()) };
        let mut seen = None;
        for slot in tap.slots() {
            let slot = &mut slots[slot.0 as usize];
            let Some(observer) = slot.observer.as_mut().filter(|o| learns(o, self.counting)) else { continue };
            let seen = match &seen {
                Some(seen) => seen,
                None => {
                    let found = Seen::of(view, self.ctx).ok_or_else(|| ObserveError::NotFloat {
                        label: slot.label.clone(),
                        dtype: view.dtype().torch_name(),
                    })?;
                    seen.insert(found)
                }
            };
            observer.observe_seen(&slot.label, view.sizes(), seen)?;
        }
        Ok(())
    }
}

/// Whether an observer learns something in this pass.
fn learns(observer: &Observer, counting: bool) -> bool {
    let counts = matches!(observer.state(), ObserverState::Shardable(h) if h.is_counting());
    observer.spec().observer.kind.needs_data() && (counts || !counting)
}

impl PreparedGraph {
    /// Ends the first pass over the data: each histogram whose range is fixed before it counts gets the range that it has seen.
    /// True if there are such, so that the data must pass once more with [`Calibration::counting`].
    ///
    /// # Errors
    /// [`ObserveError`] for a histogram that saw no data, naming the tensor.
    pub fn fix_ranges(&mut self) -> Result<bool, ObserveError> {
        let mut any = false;
        for slot in &mut self.slots {
            if let Some(observer) = &mut slot.observer {
                any |= observer.fix_range(&slot.label)?;
            }
        }
        Ok(any)
    }
}

impl NodeHook for Calibration<'_> {
    fn after(&mut self, event: &NodeEvent<'_>) {
        if self.error.is_some() || event.graph.name != self.prepared.graph {
            return;
        }
        for (&value, output) in event.graph.nodes[event.node].outputs.iter().zip(event.outputs) {
            if let Err(e) = self.observe(value, output) {
                self.error = Some(e);
                return;
            }
        }
    }
}

/// Feeds the observers of constants: weights, once. A shared observer of several constants sees each. A moving average that
/// computed tensors share with a constant, as an embedding's rows do with its table, sees the constant at each step anew, as in
/// PT2E ([`Calibration::inputs`]).
///
/// # Errors
/// [`QuantizeError`] naming the constant that cannot be read, or that holds a NaN.
pub fn observe_constants(module: &Module, graph: &Graph, prepared: &mut PreparedGraph) -> Result<(), QuantizeError> {
    let constants: Vec<(ValueId, pteron_ir::ConstId)> = prepared
        .taps
        .keys()
        .filter_map(|&v| match graph.values[v].def {
            Def::Const(c) => Some((v, c)),
            _ => None,
        })
        .collect();
    for (value, c) in constants {
        let constant = &module.constants[c];
        let needed = |s: &SlotId| {
            let observer = prepared.slots[s.0 as usize].observer.as_ref();
            observer.is_some_and(|o| o.spec().observer.kind.needs_data())
        };
        let slots: Vec<SlotId> = prepared.taps[&value].slots().filter(needed).collect();
        if slots.is_empty() {
            continue;
        }
        let ConstData::Source(source) = &constant.data else {
            return Err(QuantizeError::NoData { constant: constant.name.to_string() });
        };
        let failed = |e: pteron_tensor::SourceError| QuantizeError::Source { reason: e.to_string() };
        let bytes = read_all(CastSource::wrap(source.clone(), DType::F32).as_ref()).map_err(failed)?;
        let data: &[f32] = bytemuck::cast_slice(&bytes);
        for id in slots {
            let shared = prepared.observed_values(graph, id) > 0;
            let slot = &mut prepared.slots[id.0 as usize];
            let Some(observer) = &mut slot.observer else { continue };
            if !(shared && matches!(observer.state(), ObserverState::Steps(_))) {
                observer.observe(&slot.label, source.shape(), data)?;
                continue;
            }
            let mut once = Observer::new(observer.spec())?;
            once.observe(&slot.label, source.shape(), data)?;
            if let ObserverState::Steps(steps) = once.state() {
                prepared.again.extend(steps.iter().map(|&(low, high)| (id, low, high)));
            }
        }
    }
    Ok(())
}
