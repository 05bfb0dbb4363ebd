//! Parameters by module path and port.

use std::collections::BTreeMap;

use pteron_ir::Graph;

use super::QuantizeError;
use super::params::{SlotParams, parameters, parameters_where};
use super::prepare::{PreparedGraph, Slot, SlotId};
use crate::error::TensorLabel;
use crate::groups::GroupSpec;
use crate::observer::{Layout, QuantParams};

/// The parameters of a calibrated graph, by module path and port, so that they can be put onto other graphs of the same model:
/// a language model is calibrated over texts, and runs with one graph for one token and one for many.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encodings {
    by_label: BTreeMap<TensorLabel, SlotParams>,
}

/// Two scales of one activation, found by training and by calibration, differ by this factor at most, where only one operator's
/// name says that it is the same tensor.
const SAME_TENSOR: f32 = 2.0;
/// By this factor a trained range may be smaller than the calibrated one where two operators' names say that it is the same
/// tensor, the one that gives it and one that reads it: learned scales give up what is far off.
const GIVEN_UP: f32 = 64.0;

/// The operator of a port: `add` of `add_2.output`.
fn operator(port: &str) -> &str {
    let node = port.split('.').next().unwrap_or(port);
    node.rsplit_once('_').filter(|(_, n)| n.bytes().all(|b| b.is_ascii_digit())).map_or(node, |(op, _)| op)
}

impl FromIterator<(TensorLabel, SlotParams)> for Encodings {
    /// Those that training found, or a file has.
    fn from_iter<I: IntoIterator<Item = (TensorLabel, SlotParams)>>(entries: I) -> Encodings {
        Encodings { by_label: entries.into_iter().collect() }
    }
}

impl Encodings {
    /// Those of a calibrated graph. Every member of a sharing group has an entry.
    ///
    /// # Errors
    /// As of [`parameters`].
    pub fn of(graph: &Graph, prepared: &PreparedGraph) -> Result<Encodings, QuantizeError> {
        let params = parameters(graph, prepared)?;
        let mut by_label = BTreeMap::new();
        for (slot, params) in prepared.slots.iter().zip(&params) {
            for label in slot.members.iter().filter_map(|p| prepared.labels.get(p)) {
                by_label.insert(label.clone(), params.clone());
            }
        }
        Ok(Encodings { by_label })
    }

    /// The parameters of a tensor.
    pub fn get(&self, label: &TensorLabel) -> Option<&SlotParams> {
        self.by_label.get(label)
    }

    /// All of them, by label.
    pub fn iter(&self) -> impl Iterator<Item = (&TensorLabel, &SlotParams)> {
        self.by_label.iter()
    }

    /// The parameters of every slot of `prepared`, which was prepared by the same quantizer of another graph of the model. A
    /// slot takes those of the calibrated tensors among its members; one that has none, as what joins a cache to new keys, takes
    /// those of the concatenation that it goes into. Constants that this graph alone has are observed in it.
    ///
    /// # Errors
    /// [`QuantizeError::NoEncoding`] for a tensor that was not calibrated, [`QuantizeError::Encodings`] if tensors share
    /// parameters here and have different ones.
    pub fn apply(&self, graph: &Graph, prepared: &PreparedGraph) -> Result<Vec<SlotParams>, QuantizeError> {
        let mut out: Vec<Option<SlotParams>> = Vec::with_capacity(prepared.slots.len());
        for slot in &prepared.slots {
            out.push(self.of_slot(graph, prepared, slot)?);
        }
        for concat in &prepared.concats {
            let Some(Some(params)) = out.get(concat.output.0 as usize).cloned() else { continue };
            for &SlotId(input) in &concat.inputs {
                out[input as usize].get_or_insert_with(|| params.clone());
            }
        }
        parameters_where(graph, prepared, out)
    }

    /// These, which data gave for the graph of `prepared`, with those of `trained` in their place where training found some for
    /// the same tensor in a graph of another form: for the same integers and layout, and for activations only near what data
    /// gave, because a name may mean another tensor there (half to twice as large; where two operators' names agree, down to a
    /// 64th). Gives how many slots have trained ones
    /// and how many have not, too.
    #[must_use]
    pub fn with_trained(mut self, trained: &Encodings, prepared: &PreparedGraph) -> (Encodings, usize, usize) {
        let (mut taken, mut left) = (0, 0);
        for slot in prepared.slots.iter().filter(|s| !matches!(s.spec, GroupSpec::Derived(..))) {
            let labels: Vec<&TensorLabel> = slot.members.iter().filter_map(|p| prepared.labels.get(p)).collect();
            let Some(SlotParams::Static(own)) = labels.first().and_then(|l| self.get(l)) else { continue };
            let known: Vec<(&str, &SlotParams)> =
                labels.iter().filter_map(|l| Some((operator(&l.port), trained.get(l)?))).collect();
            let several = known.iter().any(|(operator, _)| *operator != known[0].0);
            let least = if several { GIVEN_UP } else { SAME_TENSOR }.recip();
            let fits = |p: &QuantParams| {
                let factor = p.scale[0] / own.scale[0];
                let near = p.layout != Layout::PerTensor || (least..=SAME_TENSOR).contains(&factor);
                p.format == own.format && p.layout == own.layout && near
            };
            let mut found = known.iter().map(|(_, params)| *params);
            let first = found.next().filter(|first| found.all(|other| other == *first));
            match first {
                Some(params @ SlotParams::Static(p)) if fits(p) => {
                    taken += 1;
                    self.by_label.extend(labels.into_iter().map(|l| (l.clone(), params.clone())));
                }
                _ => left += 1,
            }
        }
        (self, taken, left)
    }

    fn of_slot(
        &self,
        graph: &Graph,
        prepared: &PreparedGraph,
        slot: &Slot,
    ) -> Result<Option<SlotParams>, QuantizeError> {
        // A bias's parameters follow from the others' again.
        if matches!(slot.spec, GroupSpec::Derived(..)) {
            return Ok(None);
        }
        let labels = slot.members.iter().filter_map(|p| prepared.labels.get(p));
        let mut found = labels.filter_map(|l| self.by_label.get_key_value(l));
        let Some((first, params)) = found.next() else { return Ok(None) };
        match found.find(|(_, other)| *other != params) {
            Some((second, _)) => Err(QuantizeError::Encodings {
                graph: graph.name.clone(),
                first: first.to_string(),
                second: second.to_string(),
            }),
            None => Ok(Some(params.clone())),
        }
    }
}
