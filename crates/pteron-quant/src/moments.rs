//! How large the inputs of linear layers are, column by column: what weights' errors are weighed by.

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_exec::{NodeEvent, NodeHook};
use pteron_ir::{Arg, ConstId, Def, Graph, Module, Op, ValueId};
use pteron_kernels::{Context, matmul};
use pteron_tensor::{DType, View, ViewMut};

use crate::watch;
use crate::weight::Inputs;

/// Means and mean squares of the columns that linear layers read, by the name of the layer's weight.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    columns: BTreeMap<String, Columns>,
    grams: BTreeMap<String, Arc<[f32]>>,
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

    /// Sums of the products of each two input columns of the linear layers with the weight `name`, `[columns, columns]`: the same
    /// list for layers that read the same input. `None` if they were not gathered.
    pub fn gram(&self, name: &str) -> Option<&Arc<[f32]>> {
        self.grams.get(name)
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
    /// Where products of columns are computed.
    ctx: Arc<Context>,
    graph: String,
    /// Values that linear layers read, with the weights that multiply them.
    taps: BTreeMap<ValueId, Tap>,
}

#[derive(Debug, Default)]
struct Tap {
    weights: Vec<String>,
    sums: Sums,
    /// The products of columns, where they are asked for; empty before the first row.
    gram: Option<Vec<f32>>,
    /// Rows of the present run.
    present: Vec<f32>,
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
        MomentsHook { ctx: Arc::new(Context::new(1)), graph: graph.name.clone(), taps }
    }

    /// The same, gathering the products of columns as well ([`Moments::gram`]) for the weights that `wanted` names, on the threads of
    /// `ctx`. Gives the bytes that they will take with the columns that the weights of `module` have.
    #[must_use]
    pub fn with_grams(
        mut self,
        module: &Module,
        ctx: &Arc<Context>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> (MomentsHook, u64) {
        self.ctx = Arc::clone(ctx);
        let mut bytes = 0u64;
        for tap in self.taps.values_mut() {
            let Some(name) = tap.weights.iter().find(|name| wanted(name)) else { continue };
            tap.gram = Some(Vec::new());
            let constant = module.constants.values().find(|c| c.name.as_ref() == name.as_str());
            let columns = constant.and_then(|c| c.ty.dims.last()?.as_const()).map_or(0, i64::unsigned_abs);
            bytes = bytes.saturating_add(columns.saturating_mul(columns).saturating_mul(4));
        }
        (self, bytes)
    }

    /// What was gathered. A weight that several layers read has the moments of all of them.
    pub fn finish(self) -> Moments {
        let mut all: BTreeMap<String, Sums> = BTreeMap::new();
        let mut grams: BTreeMap<String, Arc<[f32]>> = BTreeMap::new();
        for tap in self.taps.into_values().filter(|t| t.sums.rows > 0) {
            let gram: Option<Arc<[f32]>> = tap.gram.map(Arc::from);
            for name in tap.weights {
                if let Some(gram) = &gram {
                    let sum = |known: &Arc<[f32]>| known.iter().zip(gram.iter()).map(|(a, b)| a + b).collect();
                    let gram = grams.get(&name).map_or_else(|| Arc::clone(gram), sum);
                    grams.insert(name.clone(), gram);
                }
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
        Moments { columns: all.into_iter().map(|(name, s)| (name, columns(s))).collect(), grams, rows }
    }
}

fn constant_of(graph: &Graph, v: ValueId) -> Option<ConstId> {
    match graph.values[v].def {
        Def::Const(c) => Some(c),
        _ => None,
    }
}

impl Tap {
    /// Adds the products of the present rows' columns.
    fn multiply(&mut self, ctx: &Context) {
        let (Some(gram), n) = (&mut self.gram, self.sums.columns.len()) else { return };
        if self.present.is_empty() || n == 0 {
            return;
        }
        gram.resize(n * n, 0.0);
        let rows = self.present.len() / n;
        let bytes: &[u8] = bytemuck::cast_slice(&self.present);
        let mut product = vec![0f32; n * n];
        let (across, along, square) = ([n, rows], [rows, n], [n, n]);
        let (by_column, by_row) = ([1, n], [n, 1]);
        let x = View::new(DType::F32, &along, &by_row, bytes).ok();
        let transposed = View::new(DType::F32, &across, &by_column, bytes).ok();
        let out = ViewMut::new(DType::F32, &square, &by_row, bytemuck::cast_slice_mut(&mut product)).ok();
        // Sizes that were made here fit.
        let done = transposed.zip(x).zip(out).map(|((a, b), mut out)| matmul::mm(ctx, &a, &b, &mut out));
        debug_assert!(matches!(done, Some(Ok(()))));
        gram.iter_mut().zip(&product).for_each(|(sum, v)| *sum += v);
        // The rows of one layer at a time.
        self.present = Vec::new();
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
            if tap.gram.is_some() {
                tap.present.extend_from_slice(row);
            }
        });
        for output in &event.graph.nodes[event.node].outputs {
            if let Some(tap) = self.taps.get_mut(output) {
                tap.multiply(&self.ctx);
            }
        }
    }
}
