//! What the observers of a prepared graph have learnt, as a state that can be written and merged.

use std::collections::BTreeSet;

use pteron_ir::{Def, Graph};

use super::prepare::{PreparedGraph, SlotId};
use crate::observer::{ObserverState, ShardableHistogram};
use crate::spec::ObserverKind;
use crate::state::{CalibrationState, StateError, StateHeader};

impl PreparedGraph {
    /// The slots whose observers learn from calibration data: not from constants alone.
    pub fn learning<'p>(&'p self, graph: &'p Graph) -> impl Iterator<Item = SlotId> + 'p {
        let fed: BTreeSet<SlotId> = self
            .taps
            .values()
            .filter(|t| !matches!(graph.values[t.value].def, Def::Const(_)))
            .flat_map(super::Tap::slots)
            .collect();
        fed.into_iter().filter(|&s| {
            let observer = self.slot(s).observer.as_ref();
            observer.is_some_and(|o| o.spec().observer.kind.needs_data() && !o.spec().is_dynamic)
        })
    }

    /// True if an observer learns from calibration data.
    pub fn needs_data(&self, graph: &Graph) -> bool {
        self.learning(graph).next().is_some()
    }

    /// What the observers of activations have learnt. Weights are looked at again where the state is used.
    ///
    /// # Errors
    /// [`StateError`] naming the tensor, if its observer cannot be sharded and the run is.
    pub fn state(&self, graph: &Graph, header: StateHeader) -> Result<CalibrationState, StateError> {
        let mut state = CalibrationState::new(header);
        for id in self.learning(graph) {
            let slot = self.slot(id);
            if let Some(observer) = &slot.observer {
                state.insert(slot.label.clone(), observer)?;
            }
        }
        Ok(state)
    }

    /// Gives the observers of activations what another run has learnt.
    ///
    /// # Errors
    /// [`StateError`] naming the tensor that the state does not have, or has from another observer.
    pub fn restore(&mut self, graph: &Graph, state: &CalibrationState) -> Result<(), StateError> {
        let ids: Vec<SlotId> = self.learning(graph).collect();
        for id in ids {
            let slot = &mut self.slots[id.0 as usize];
            let Some(observer) = &mut slot.observer else { continue };
            let label = &slot.label;
            let entry = state.get(label).ok_or_else(|| StateError::NoEntry { label: label.clone() })?;
            let expected = observer.spec().observer.kind;
            if entry.kind != expected {
                return Err(StateError::OtherObserver { label: label.clone(), found: entry.kind, expected });
            }
            observer
                .restore(entry.state.clone(), label)
                .map_err(|_| StateError::WrongState { label: label.clone(), kind: entry.kind })?;
        }
        Ok(())
    }

    /// Gives the histograms whose range is fixed before they count the ranges that the first pass over all data has found, so
    /// that the next pass counts.
    ///
    /// # Errors
    /// As [`PreparedGraph::restore`].
    pub fn restore_ranges(&mut self, graph: &Graph, state: &CalibrationState) -> Result<(), StateError> {
        let ids: Vec<SlotId> = self.learning(graph).collect();
        for id in ids {
            let slot = &mut self.slots[id.0 as usize];
            let Some(observer) = &mut slot.observer else { continue };
            let label = &slot.label;
            if observer.spec().observer.kind != ObserverKind::ShardableHistogram {
                continue;
            }
            let entry = state.get(label).ok_or_else(|| StateError::NoEntry { label: label.clone() })?;
            let failed = || StateError::WrongState { label: label.clone(), kind: entry.kind };
            let ObserverState::Shardable(h) = &entry.state else { return Err(failed()) };
            let ranges = ShardableHistogram::from_parts(h.bins(), h.range(), None).ok_or_else(failed)?;
            observer.restore(ObserverState::Shardable(ranges), label).map_err(|_| failed())?;
            observer.fix_range(label).map_err(|_| failed())?;
        }
        Ok(())
    }

    /// True if a histogram has its range, and has not counted yet.
    pub fn needs_counts(&self) -> bool {
        self.slots.iter().filter_map(|s| s.observer.as_ref()).any(|o| match o.state() {
            ObserverState::Shardable(h) => h.range().is_some() && !h.is_counting(),
            _ => false,
        })
    }
}
