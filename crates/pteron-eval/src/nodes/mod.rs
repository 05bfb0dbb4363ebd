//! A quantized graph against the float graph it was made from, node by node.
//!
//! Both come from one capture, neither decomposed, so that a node of the float graph is found in the quantized one by its debug
//! handle; where quantization has put others in the place of the only node of a module path, by that path. A value is compared
//! as its readers see it: where all of them read it through codes, that is what the codes stand for.
//!
//! Noise is handed on from node to node, so that the worst signal is seldom where the damage is done. Therefore each node also
//! has its *own* noise: what its output's share of noise is above that of the worst of its inputs. Nodes are sorted by it.

mod histogram;
mod pairs;
mod sums;

use pteron_exec::{NodeEvent, NodeHook, ValueRef};
use pteron_ir::{Graph, Module, ValueId};
use serde::Serialize;

pub use histogram::Histogram;
pub use pairs::{Codes, Pair, Pairing};
pub use sums::{ErrorSums, TensorError};

/// What is known of one node after a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeError {
    /// The module path.
    pub path: String,
    /// The float graph's operator.
    pub operator: &'static str,
    /// The node's debug handle.
    pub handle: u32,
    /// Its output against the float graph's.
    #[serde(flatten)]
    pub error: TensorError,
    /// Signal to noise of the worst of its inputs in decibel; infinite if they are the float graph's.
    pub input_sqnr_db: f64,
    /// Signal to the noise that the node itself adds, in decibel: `-10 log₁₀(noise/signal of its output less the largest
    /// noise/signal of its inputs)`; infinite if it adds none.
    pub own_sqnr_db: f64,
    /// How its readers' codes are made, if they read codes.
    pub codes: Codes,
    /// The float graph's values.
    #[serde(skip)]
    pub values: Histogram,
}

/// Compares two graphs over any number of runs with the same inputs: a run of the float graph with
/// [`NodeComparison::reference`] as its hook, then one of the quantized graph with [`NodeComparison::subject`].
#[derive(Debug)]
pub struct NodeComparison {
    pairing: Pairing,
    graph: String,
    sums: Vec<ErrorSums>,
    values: Vec<Histogram>,
    /// What the float graph's run gave and the other has not been compared with yet.
    held: Vec<Option<Vec<f32>>>,
}

impl NodeComparison {
    /// Pairs the nodes of `graph` of both modules.
    pub fn new(reference: &Graph, subject: &Graph, subject_module: &Module) -> NodeComparison {
        let pairing = Pairing::of(reference, subject, subject_module);
        let n = pairing.pairs.len();
        NodeComparison {
            pairing,
            graph: reference.name.clone(),
            sums: vec![ErrorSums::default(); n],
            values: vec![Histogram::default(); n],
            held: vec![None; n],
        }
    }

    /// The hook of a run of the float graph.
    pub fn reference(&mut self) -> impl NodeHook + '_ {
        Reference(self)
    }

    /// The hook of a run of the quantized graph on the same inputs.
    pub fn subject(&mut self) -> impl NodeHook + '_ {
        Subject(self)
    }

    /// The nodes that were compared, those that add the most noise of their own first; a value that is no number is worst.
    pub fn finish(self) -> Vec<NodeError> {
        let errors: Vec<Option<TensorError>> = self.sums.iter().map(ErrorSums::error).collect();
        let share = |i: usize| errors[i].as_ref().map_or(0.0, |e| 10f64.powf(-e.sqnr_db / 10.0));
        let db = |share: f64| if share > 0.0 { -10.0 * share.log10() } else { f64::INFINITY };
        let mut out = Vec::new();
        for (i, (pair, values)) in self.pairing.pairs.iter().zip(self.values).enumerate() {
            let Some(error) = errors[i] else { continue };
            let inputs = pair.inputs.iter().map(|&i| share(i)).fold(0.0, f64::max);
            let own = share(i) - inputs;
            out.push(NodeError {
                path: pair.path.clone(),
                operator: pair.operator,
                handle: pair.handle,
                error,
                input_sqnr_db: db(inputs),
                own_sqnr_db: if own.is_nan() { f64::NEG_INFINITY } else { db(own) },
                codes: pair.codes,
                values,
            });
        }
        out.sort_by(|a, b| a.own_sqnr_db.total_cmp(&b.own_sqnr_db).then(a.handle.cmp(&b.handle)));
        out
    }
}

/// A tensor of floats as `f32`, row-major.
fn floats(output: &ValueRef<'_>) -> Option<Vec<f32>> {
    let ValueRef::Tensor(view) = output else { return None };
    if !view.dtype().is_float() {
        return None;
    }
    match view.as_slice::<f32>() {
        Some(data) => Some(data.to_vec()),
        None => (0..view.numel()).map(|i| view.scalar(i).map(|s| s.as_f64() as f32)).collect(),
    }
}

struct Reference<'c>(&'c mut NodeComparison);

impl NodeHook for Reference<'_> {
    fn after(&mut self, event: &NodeEvent<'_>) {
        let c = &mut *self.0;
        if event.graph.name != c.graph {
            return;
        }
        for (&value, output) in event.graph.nodes[event.node].outputs.iter().zip(event.outputs) {
            if let Some(i) = c.pairing.of_reference(value)
                && let Some(data) = floats(output)
            {
                c.values[i].add(&data);
                c.held[i] = Some(data);
            }
        }
    }
}

struct Subject<'c>(&'c mut NodeComparison);

impl Subject<'_> {
    fn compare(&mut self, value: ValueId, output: &ValueRef<'_>) {
        let c = &mut *self.0;
        for &i in c.pairing.of_subject(value) {
            if let (Some(reference), Some(data)) = (c.held[i].take(), floats(output)) {
                c.sums[i].add(&data, &reference);
            }
        }
    }
}

impl NodeHook for Subject<'_> {
    fn after(&mut self, event: &NodeEvent<'_>) {
        if event.graph.name != self.0.graph {
            return;
        }
        for (&value, output) in event.graph.nodes[event.node].outputs.iter().zip(event.outputs) {
            self.compare(value, output);
        }
    }
}
