//! Watching a run: observers and profilers.

use pteron_ir::{Graph, NodeId, Op};

use crate::value::Output;

/// A node that has just been executed.
#[derive(Debug)]
pub struct NodeEvent<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The node.
    pub node: NodeId,
    /// What was executed: the node's operator, or the one that a group of nodes makes together of which this is the last.
    pub op: Op,
    /// Its outputs, in order; empty for control flow.
    pub outputs: &'a [Output<'a>],
}

/// Called around every node of a run.
pub trait NodeHook {
    /// Before the node; the default does nothing.
    fn before(&mut self, graph: &Graph, node: NodeId) {
        let _ = (graph, node);
    }

    /// After the node, with its outputs if [`NodeHook::wants_outputs`].
    fn after(&mut self, event: &NodeEvent<'_>);

    /// True if the outputs shall be collected for [`NodeHook::after`]. Every node is executed by itself then; without, nodes
    /// that are executed together are one event, that of the last of them.
    fn wants_outputs(&self) -> bool {
        true
    }

    /// False if calls can be left out altogether.
    fn is_active(&self) -> bool {
        true
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoHook;

impl NodeHook for NoHook {
    fn after(&mut self, _: &NodeEvent<'_>) {}

    fn is_active(&self) -> bool {
        false
    }
}

/// Sums the time of each operator, by a clock that the caller brings (nanoseconds, monotonic).
#[derive(Debug)]
pub struct Profiler<C: FnMut() -> u64> {
    clock: C,
    started: u64,
    totals: Vec<(u64, u64)>,
}

impl<C: FnMut() -> u64> Profiler<C> {
    /// A profiler with all sums zero.
    pub fn new(clock: C) -> Profiler<C> {
        Profiler { clock, started: 0, totals: vec![(0, 0); pteron_ir::OPERATORS.len()] }
    }

    /// Operator name, calls and nanoseconds, the slowest first.
    pub fn totals(&self) -> Vec<(&'static str, u64, u64)> {
        let mut rows: Vec<_> = pteron_ir::OPERATORS
            .iter()
            .zip(&self.totals)
            .filter(|(_, t)| t.0 > 0)
            .map(|(d, t)| (d.name, t.0, t.1))
            .collect();
        rows.sort_by_key(|r| std::cmp::Reverse(r.2));
        rows
    }
}

impl<C: FnMut() -> u64> NodeHook for Profiler<C> {
    fn before(&mut self, _: &Graph, _: NodeId) {
        self.started = (self.clock)();
    }

    fn after(&mut self, event: &NodeEvent<'_>) {
        let spent = (self.clock)().saturating_sub(self.started);
        if let Some(t) = self.totals.get_mut(event.op as usize) {
            t.0 += 1;
            t.1 += spent;
        }
    }

    fn wants_outputs(&self) -> bool {
        false
    }
}
