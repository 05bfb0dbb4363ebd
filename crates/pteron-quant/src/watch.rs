//! What hooks of a calibration share: the values that they watch, as rows of floats.

use std::collections::BTreeMap;

use pteron_exec::{NodeEvent, ValueRef};
use pteron_ir::ValueId;

/// Calls `row` for every row, which is the last dimension, of the outputs of `event` that `taps` has, if it is one of the graph
/// called `graph`. What is no number is a NaN.
pub(crate) fn rows<T>(
    event: &NodeEvent<'_>,
    graph: &str,
    taps: &mut BTreeMap<ValueId, T>,
    mut row: impl FnMut(&mut T, &[f32]),
) {
    if event.graph.name != graph {
        return;
    }
    for (value, output) in event.graph.nodes[event.node].outputs.iter().zip(event.outputs) {
        let (Some(tap), ValueRef::Tensor(view)) = (taps.get_mut(value), output) else { continue };
        let Some(&columns) = view.sizes().last().filter(|&&c| c > 0) else { continue };
        let wide: Vec<f32>;
        let data = match view.as_slice::<f32>() {
            Some(data) => data,
            None => {
                let number = |i| view.scalar(i).map_or(f32::NAN, |s| s.as_f64() as f32);
                wide = (0..view.numel()).map(number).collect();
                &wide
            }
        };
        data.chunks_exact(columns).for_each(|r| row(tap, r));
    }
}
