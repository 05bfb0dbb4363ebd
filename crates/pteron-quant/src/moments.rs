//! How large the inputs of linear layers are, column by column: what weights' errors are weighed by.

use std::collections::BTreeMap;

use pteron_exec::{NodeEvent, NodeHook};
use pteron_ir::{Arg, ConstId, Def, Graph, Module, Op, ValueId};

use crate::watch;
use crate::weight::Inputs;

/// Means and mean squares of the columns that linear layers read, by the name of the layer's weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    columns: BTreeMap<String, Columns>,
    rows: u64,
}

#[derive(Clone, Debug, PartialEq)]
struct Columns {
    means: Vec<f32>,
    squares: Vec<f32>,
}

impl Moments {
    /// What the input columns of the linear layers with the weight `name` are like; `None` if they were not observed.
    pub fn of(&self, name: &str) -> Option<Inputs<'_>> {
        self.columns.get(name).map(|c| Inputs { means: &c.means, squares: &c.squares })
    }

    /// Rows (tokens) that a layer saw, at the most.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Weights that have moments.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
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
    sums: Sums,
}

/// Sums of a column's values and of their squares, for each column.
#[derive(Clone, Debug, Default)]
struct Sums {
    columns: Vec<[f64; 2]>,
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
        let mut all: BTreeMap<String, Sums> = BTreeMap::new();
        for tap in self.taps.into_values().filter(|t| t.sums.rows > 0) {
            for name in tap.weights {
                let sums = all.entry(name).or_default();
                sums.columns.resize(tap.sums.columns.len(), [0.0; 2]);
                for (a, b) in sums.columns.iter_mut().zip(&tap.sums.columns) {
                    *a = [a[0] + b[0], a[1] + b[1]];
                }
                sums.rows += tap.sums.rows;
            }
        }
        let rows = all.values().map(|s| s.rows).max().unwrap_or(0);
        let columns = |s: Sums| {
            let mean = |k: usize| s.columns.iter().map(|c| (c[k] / s.rows as f64) as f32).collect();
            Columns { means: mean(0), squares: mean(1) }
        };
        Moments { columns: all.into_iter().map(|(name, s)| (name, columns(s))).collect(), rows }
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
        watch::rows(event, &self.graph, &mut self.taps, |tap, row| {
            tap.sums.columns.resize(row.len(), [0.0; 2]);
            for (sum, &x) in tap.sums.columns.iter_mut().zip(row) {
                let x = f64::from(x);
                *sum = [sum[0] + x, sum[1] + x * x];
            }
            tap.sums.rows += 1;
        });
    }
}
