//! From observers to parameters.

use std::sync::Arc;

use pteron_ir::Graph;

use super::QuantizeError;
use super::prepare::{Concat, PreparedGraph, Slot, SlotId, value_at};
use crate::annotation::Point;
use crate::groups::{GroupId, GroupSpec};
use crate::observer::{Layout, ObserverState, QuantParams, bias_qparams};
use crate::spec::{DeriveQParams, DerivedQuantizationSpec, ObserverKind};

/// How the parameters of a slot come about.
#[derive(Clone, Debug, PartialEq)]
pub enum SlotParams {
    /// Known now.
    Static(Arc<QuantParams>),
    /// Chosen at run time, from each tensor.
    Dynamic,
    /// Stays float: a placeholder that is not dynamic, an observer without parameters.
    Float,
}

/// The codes of QNN's 4-bit weights in blocks, whose scales must be factors of their channel's.
const LPBQ_RANGE: (i64, i64) = (-7, 7);

/// Puts the scales of 4-bit weights in blocks on the grid that QNN's blockwise expansion can hold
/// ([`QuantParams::on_lpbq_grid`]), before codes are made with them. It is for graphs that are lowered to QNN: ExecuTorch's
/// quantizers choose scales without a thought of the grid, and so does [`parameters`].
pub fn put_on_lpbq_grid(graph: &Graph, prepared: &PreparedGraph, params: &mut [SlotParams]) {
    for tap in prepared.taps.values() {
        let channels = graph.values[tap.value].ty.as_tensor().and_then(|t| t.dims.first()?.as_const());
        let Some(channels) = channels.and_then(|c| usize::try_from(c).ok()) else { continue };
        for slot in tap.slots() {
            let Some(SlotParams::Static(p)) = params.get_mut(slot.0 as usize) else { continue };
            let in_blocks = matches!(p.layout, Layout::PerBlock { .. });
            if in_blocks && (p.format.quant_min, p.format.quant_max) == LPBQ_RANGE {
                *p = Arc::new(p.on_lpbq_grid(channels));
            }
        }
    }
}

/// The parameters of every slot, derived ones after those they are derived from.
///
/// # Errors
/// [`QuantizeError::Observe`] for an observer that saw no data, naming the tensor; a bias that does not fit.
pub fn parameters(graph: &Graph, prepared: &PreparedGraph) -> Result<Vec<SlotParams>, QuantizeError> {
    let mut known = vec![None; prepared.slots.len()];
    // QNN's observer of a concatenation gives its range to the observers of all inputs, at each step anew.
    for concat in &prepared.concats {
        let Some(range) = concat_range(graph, prepared, concat) else { continue };
        for &id in concat.inputs.iter().chain([&concat.output]) {
            let slot = prepared.slot(id);
            if let Some(observer) = &slot.observer {
                let params = observer.qparams_of(&slot.label, range)?;
                known[id.0 as usize] = Some(SlotParams::Static(Arc::new(params)));
            }
        }
    }
    complete(graph, prepared, known)
}

/// The range of a concatenation after the last step; `None` before the first.
///
/// `ConcatObserver` widens its range by what it sees and gives it to the observers of the inputs. They have one range between
/// them then: at the next step those that are moving averages draw it towards what they see, one after the other, before the
/// concatenation widens it again.
fn concat_range(graph: &Graph, prepared: &PreparedGraph, concat: &Concat) -> Option<(f32, f32)> {
    let steps = |id: SlotId| match prepared.slot(id).observer.as_ref() {
        Some(observer) => match observer.state() {
            ObserverState::Steps(steps) => Some((observer, steps.as_slice())),
            _ => None,
        },
        None => None,
    };
    let (_, seen) = steps(concat.output)?;
    // What passes the concatenation on shares its observer, which sees several tensors of a run then.
    let each = prepared.observed_values(graph, concat.output).max(1);
    let mut inputs = concat.inputs.clone();
    inputs.dedup();
    let mut range: Option<(f32, f32)> = None;
    for (t, seen) in seen.chunks(each).enumerate() {
        for &id in &inputs {
            let (Some((min, max)), Some((observer, steps))) = (&mut range, steps(id)) else { continue };
            if observer.spec().observer.kind != ObserverKind::MovingAverageMinMax {
                continue;
            }
            let constant = observer.spec().observer.effective_averaging_constant() as f32;
            let each = prepared.observed_values(graph, id).max(1);
            for (low, high) in steps.chunks(each).nth(t).unwrap_or_default() {
                *min += constant * (low - *min);
                *max += constant * (high - *max);
            }
        }
        for &(low, high) in seen {
            range = Some(range.map_or((low, high), |(min, max)| (min.min(low), max.max(high))));
        }
    }
    range
}

/// The parameters of every slot; `known` has some of them already, and a slot that was not calibrated is an error.
pub(super) fn parameters_where(
    graph: &Graph,
    prepared: &PreparedGraph,
    known: Vec<Option<SlotParams>>,
) -> Result<Vec<SlotParams>, QuantizeError> {
    for (slot, known) in prepared.slots.iter().zip(&known) {
        if known.is_none() && slot.observer.as_ref().is_some_and(|o| !o.has_data()) {
            let (graph, label) = (graph.name.clone(), slot.label.to_string());
            return Err(QuantizeError::NoEncoding { graph, label });
        }
    }
    complete(graph, prepared, known)
}

fn complete(
    graph: &Graph,
    prepared: &PreparedGraph,
    known: Vec<Option<SlotParams>>,
) -> Result<Vec<SlotParams>, QuantizeError> {
    let mut out: Vec<SlotParams> = known.iter().map(|k| k.clone().unwrap_or(SlotParams::Float)).collect();
    for &id in &prepared.order {
        if known[id.0 as usize].is_some() {
            continue;
        }
        let slot = prepared.slot(id);
        out[id.0 as usize] = match (&slot.spec, &slot.observer) {
            (GroupSpec::Observed(s), _) if s.is_dynamic => SlotParams::Dynamic,
            (GroupSpec::Observed(s), _)
                if matches!(
                    s.observer.kind,
                    ObserverKind::Placeholder
                        | ObserverKind::AffineQuantizedPlaceholder
                        | ObserverKind::Noop
                        | ObserverKind::Recording
                ) =>
            {
                SlotParams::Float
            }
            (GroupSpec::Derived(spec, from), _) => {
                SlotParams::Static(Arc::new(derived(graph, slot, spec, from, &out)?))
            }
            (_, Some(observer)) => SlotParams::Static(Arc::new(observer.calculate_qparams(&slot.label)?)),
            (_, None) => SlotParams::Float,
        };
    }
    Ok(out)
}

/// A bias's parameters.
fn derived(
    graph: &Graph,
    slot: &Slot,
    spec: &DerivedQuantizationSpec,
    from: &[GroupId],
    params: &[SlotParams],
) -> Result<QuantParams, QuantizeError> {
    let known = |i: usize| match from.get(i).map(|g| &params[g.0 as usize]) {
        Some(SlotParams::Static(p)) => Some(p.clone()),
        _ => None,
    };
    let unsupported = |reason: &str| QuantizeError::Unsupported {
        graph: graph.name.clone(),
        label: slot.label.to_string(),
        reason: reason.to_owned(),
    };
    let DeriveQParams::Bias { repeat } = spec.derive;
    let (Some(activation), Some(weight)) = (known(0), known(1)) else {
        let reason = "its scale follows from an activation and a weight with static scales, and they have none";
        return Err(unsupported(reason));
    };
    let channels = channels(graph, slot).unwrap_or(0);
    let params = bias_qparams(&activation, &weight, channels, repeat, spec.format()?);
    params.ok_or_else(|| unsupported("the weight's scales do not divide into its channels"))
}

/// Elements of the tensor that the first edge of a slot reads: a bias's channels.
fn channels(graph: &Graph, slot: &Slot) -> Option<usize> {
    slot.members.iter().find_map(|p| {
        let Point::Edge { user, input } = p else { return None };
        let node = graph.nodes.values().find(|n| n.handle == *user)?;
        let dims = graph.ty(value_at(node, *input)?).as_tensor()?.fixed_sizes()?;
        Some(dims.iter().product())
    })
}
