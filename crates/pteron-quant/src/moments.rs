//! How large the inputs of linear layers are, column by column: what weights' errors are weighed by.

use std::collections::BTreeMap;

use pteron_exec::{NodeEvent, NodeHook, ValueRef};
use pteron_ir::{Arg, ConstId, Def, Graph, Module, Op, ValueId};

/// Mean squares of the columns that linear layers read, by the name of the layer's weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    means: BTreeMap<String, Vec<f32>>,
    rows: u64,
}

impl Moments {
    /// `E[x²]` of each input column of the linear layers with the weight `name`; `None` if it was not observed.
    pub fn of(&self, name: &str) -> Option<&[f32]> {
        self.means.get(name).map(Vec::as_slice)
    }

    /// Rows (tokens) that a layer saw, at the most.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Weights that have moments.
    pub fn len(&self) -> usize {
        self.means.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.means.is_empty()
    }
}

/// The hook that gathers [`Moments`] over any number of runs of a float graph.
///
/// Sums are `f64`, row after row, so that the cut into runs changes nothing.
#[derive(Debug)]
pub struct MomentsHook {
    graph: String,
    /// Values that linear layers read, with the weights that multiply them.
    taps: BTreeMap<ValueId, Tap>,
}

#[derive(Debug, Default)]
struct Tap {
    weights: Vec<String>,
    sums: Vec<f64>,
    rows: u64,
}

impl MomentsHook {
    /// A hook for runs of `graph` of `module`.
    pub fn new(module: &Module, graph: &Graph) -> MomentsHook {
        let mut taps: BTreeMap<ValueId, Tap> = BTreeMap::new();
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            let (Some(Arg::Value(x)), Some(Arg::Value(w)), Op::Linear) = (node.args.first(), node.args.get(1), node.op)
            else {
                continue;
            };
            if let Some(c) = constant_of(graph, *w) {
                taps.entry(*x).or_default().weights.push(module.constants[c].name.to_string());
            }
        }
        MomentsHook { graph: graph.name.clone(), taps }
    }

    /// What was gathered. A weight that several layers read has the moments of all of them.
    pub fn finish(self) -> Moments {
        let mut sums: BTreeMap<String, (Vec<f64>, u64)> = BTreeMap::new();
        for tap in self.taps.into_values().filter(|t| t.rows > 0) {
            for name in tap.weights {
                let (sum, rows) = sums.entry(name).or_insert_with(|| (vec![0.0; tap.sums.len()], 0));
                sum.iter_mut().zip(&tap.sums).for_each(|(a, b)| *a += b);
                *rows += tap.rows;
            }
        }
        let rows = sums.values().map(|s| s.1).max().unwrap_or(0);
        let mean = |(sum, rows): (Vec<f64>, u64)| sum.iter().map(|s| (s / rows as f64) as f32).collect();
        Moments { means: sums.into_iter().map(|(name, s)| (name, mean(s))).collect(), rows }
    }
}

fn constant_of(graph: &Graph, v: ValueId) -> Option<ConstId> {
    match graph.values[v].def {
        Def::Const(c) => Some(c),
        _ => None,
    }
}

impl NodeHook for MomentsHook {
    fn after(&mut self, event: &NodeEvent<'_>) {
        if event.graph.name != self.graph {
            return;
        }
        for (value, output) in event.graph.nodes[event.node].outputs.iter().zip(event.outputs) {
            let (Some(tap), ValueRef::Tensor(view)) = (self.taps.get_mut(value), output) else { continue };
            let Some(&columns) = view.sizes().last().filter(|&&c| c > 0) else { continue };
            let wide;
            let data: &[f32] = match view.as_slice::<f32>() {
                Some(data) => data,
                None => {
                    wide = (0..view.numel())
                        .map(|i| view.scalar(i).map_or(0.0, |s| s.as_f64() as f32))
                        .collect::<Vec<_>>();
                    &wide
                }
            };
            tap.sums.resize(columns, 0.0);
            for row in data.chunks_exact(columns) {
                for (sum, &x) in tap.sums.iter_mut().zip(row) {
                    *sum += f64::from(x) * f64::from(x);
                }
                tap.rows += 1;
            }
        }
    }
}
