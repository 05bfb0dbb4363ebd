//! A hook that keeps which operators were executed.

use pteron_exec::{NodeEvent, NodeHook};
use pteron_ir::Op;

#[derive(Default)]
pub(crate) struct Events {
    /// Watches outputs: each node is executed by itself then.
    pub(crate) outputs: bool,
    pub(crate) seen: Vec<Op>,
}

impl NodeHook for Events {
    fn after(&mut self, event: &NodeEvent<'_>) {
        self.seen.push(event.op);
    }
    fn wants_outputs(&self) -> bool {
        self.outputs
    }
}
