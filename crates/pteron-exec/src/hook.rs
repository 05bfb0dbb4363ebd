//! Watching a run: observers and profilers.

use pteron_ir::{DebugHandle, Graph, NodeId, Op, PathId};

use crate::delegate::DelegateEvent;
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
    /// Nodes that were executed: more than one for a group.
    pub nodes: usize,
    /// A kernel computed element by element what it computes by vectors for other types or on other processors.
    pub scalar: bool,
}

/// Called around every node of a run.
pub trait NodeHook {
    /// Before the node; the default does nothing.
    fn before(&mut self, graph: &Graph, node: NodeId) {
        let _ = (graph, node);
    }

    /// After the node, with its outputs if [`NodeHook::wants_outputs`].
    fn after(&mut self, event: &NodeEvent<'_>);

    /// After a node that a backend executes, what the backend measured within it, if [`NodeHook::wants_inner`]; before
    /// [`NodeHook::after`].
    fn inner(&mut self, graph: &Graph, node: NodeId, events: &[DelegateEvent]) {
        let _ = (graph, node, events);
    }

    /// True if backends shall measure what they do. It may slow them.
    fn wants_inner(&self) -> bool {
        false
    }

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

/// Time of the calls of one operator, alone or as the head of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperatorTotal {
    /// Calls.
    pub calls: u64,
    /// Nodes that these calls executed.
    pub nodes: u64,
    /// Nanoseconds.
    pub nanoseconds: u64,
    /// Calls in which a kernel computed element by element ([`NodeEvent::scalar`]).
    pub scalar: u64,
}

/// One call, for a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What was executed.
    pub op: Op,
    /// The node, or the last one of a group.
    pub handle: DebugHandle,
    /// The module path that it came from, in its graph.
    pub path: PathId,
    /// When it began, by the profiler's clock.
    pub start: u64,
    /// How long it took, in nanoseconds.
    pub nanoseconds: u64,
    /// Nodes that were executed.
    pub nodes: usize,
    /// See [`NodeEvent::scalar`].
    pub scalar: bool,
    /// What a backend measured within it.
    pub inner: Vec<DelegateEvent>,
}

/// Sums the time of each operator, by a clock that the caller brings (nanoseconds, monotonic), and keeps the single calls if
/// they are wanted.
#[derive(Debug)]
pub struct Profiler<C: FnMut() -> u64> {
    clock: C,
    started: u64,
    totals: Vec<OperatorTotal>,
    spans: Option<Vec<Span>>,
    inner: Vec<DelegateEvent>,
}

impl<C: FnMut() -> u64> Profiler<C> {
    /// A profiler with all sums zero.
    pub fn new(clock: C) -> Profiler<C> {
        let totals = vec![OperatorTotal::default(); pteron_ir::OPERATORS.len()];
        Profiler { clock, started: 0, totals, spans: None, inner: Vec::new() }
    }

    /// The same, which keeps the single calls as well.
    pub fn with_spans(clock: C) -> Profiler<C> {
        Profiler { spans: Some(Vec::new()), ..Profiler::new(clock) }
    }

    /// Operators by name with what their calls took, the slowest first.
    pub fn totals(&self) -> Vec<(&'static str, OperatorTotal)> {
        let mut rows: Vec<_> = pteron_ir::OPERATORS
            .iter()
            .zip(&self.totals)
            .filter(|(_, t)| t.calls > 0)
            .map(|(d, t)| (d.name, *t))
            .collect();
        rows.sort_by_key(|r| std::cmp::Reverse(r.1.nanoseconds));
        rows
    }

    /// The single calls in their order; none if they were not wanted.
    pub fn into_spans(self) -> Vec<Span> {
        self.spans.unwrap_or_default()
    }
}

impl<C: FnMut() -> u64> NodeHook for Profiler<C> {
    fn before(&mut self, _: &Graph, _: NodeId) {
        self.started = (self.clock)();
    }

    fn after(&mut self, event: &NodeEvent<'_>) {
        let nanoseconds = (self.clock)().saturating_sub(self.started);
        if let Some(t) = self.totals.get_mut(event.op as usize) {
            t.calls += 1;
            t.nodes += event.nodes as u64;
            t.nanoseconds += nanoseconds;
            t.scalar += u64::from(event.scalar);
        }
        if let Some(spans) = &mut self.spans {
            let node = &event.graph.nodes[event.node];
            let (start, op, nodes, scalar) = (self.started, event.op, event.nodes, event.scalar);
            let inner = std::mem::take(&mut self.inner);
            spans.push(Span { op, handle: node.handle, path: node.path, start, nanoseconds, nodes, scalar, inner });
        }
    }

    fn inner(&mut self, _: &Graph, _: NodeId, events: &[DelegateEvent]) {
        self.inner.extend_from_slice(events);
    }

    /// Where single calls are kept.
    fn wants_inner(&self) -> bool {
        self.spans.is_some()
    }

    fn wants_outputs(&self) -> bool {
        false
    }
}
