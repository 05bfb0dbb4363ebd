//! Backends that execute a part of the graph.

use std::fmt;
use std::sync::Arc;

use pteron_ir::Delegate;
use pteron_kernels::Context;
use pteron_tensor::{Shape, View, ViewMut};

use crate::fuel::Fuel;

/// Something that a backend measured within a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegateEvent {
    /// What: a node of the payload's graph, a stage.
    pub name: String,
    /// Nesting: 0 for the outermost.
    pub depth: u32,
    /// How much.
    pub value: u64,
    /// Of what: `us`, `cycles`, `bytes`; empty for a bare count.
    pub unit: &'static str,
}

/// A prepared payload.
pub trait DelegateInstance: Send + fmt::Debug {
    /// Says which method the next call is of. Payloads that several methods share may have a graph for each.
    fn method(&mut self, name: &str) {
        let _ = name;
    }

    /// Gives state that it keeps from call to call what it holds before the first.
    fn reset(&mut self) {}

    /// Sizes of the outputs for inputs of these sizes; `declared` are the largest ones the program allows.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    fn output_sizes(&mut self, inputs: &[View<'_>], declared: &[Shape]) -> Result<Vec<Shape>, String>;

    /// Computes the outputs, paying for it with `fuel`.
    ///
    /// # Errors
    /// A sentence that says what went wrong.
    fn execute(&mut self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], fuel: &mut Fuel) -> Result<(), String>;

    /// Bytes of memory that it holds for itself: working memory, state, decoded or packed constants.
    fn memory(&self) -> u64;

    /// Says whether calls are measured from now on, if the backend can.
    fn profile(&mut self, on: bool) {
        let _ = on;
    }

    /// What was measured since it was asked last.
    fn take_events(&mut self) -> Vec<DelegateEvent> {
        Vec::new()
    }
}

/// Prepares payloads of one backend.
pub trait DelegateFactory: Send + Sync + fmt::Debug {
    /// The backend's id in programs: `XnnpackBackend`.
    fn backend(&self) -> &str;

    /// Prepares a payload, to be executed with `ctx`, whose threads it shares. What it declares is checked before more than
    /// `max_memory` bytes are allocated for it.
    ///
    /// # Errors
    /// A sentence that says what the backend cannot take.
    fn prepare(
        &self,
        delegate: &Delegate,
        ctx: &Arc<Context>,
        max_memory: u64,
    ) -> Result<Box<dyn DelegateInstance>, String>;
}

/// The backends that a session may use.
#[derive(Debug, Default)]
pub struct Delegates {
    factories: Vec<Box<dyn DelegateFactory>>,
}

impl Delegates {
    /// No backend.
    pub fn none() -> Delegates {
        Delegates::default()
    }

    /// With one more backend.
    #[must_use]
    pub fn with(mut self, factory: impl DelegateFactory + 'static) -> Delegates {
        self.factories.push(Box::new(factory));
        self
    }

    /// Names of the backends.
    pub fn names(&self) -> Vec<&str> {
        self.factories.iter().map(|f| f.backend()).collect()
    }

    pub(crate) fn prepare(
        &self,
        delegate: &Delegate,
        ctx: &Arc<Context>,
        max_memory: u64,
    ) -> Result<Box<dyn DelegateInstance>, String> {
        match self.factories.iter().find(|f| f.backend() == delegate.backend.as_ref()) {
            Some(f) => f.prepare(delegate, ctx, max_memory),
            None if self.factories.is_empty() => Err("no backend is available here".to_owned()),
            None => Err(format!("not available here; available: {}", self.names().join(", "))),
        }
    }
}
