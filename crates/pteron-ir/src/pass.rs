//! Passes over modules, and the runner that verifies around each.

use std::cell::Cell;
use std::fmt;

use crate::entity::DebugHandle;
use crate::infer::InferError;
use crate::module::Module;
use crate::op::Op;
use crate::verify::{self, VerifyErrors};

/// What a pass may know of its surroundings.
pub struct PassContext<'a> {
    has: &'a dyn Fn(Op) -> bool,
    steps: Cell<usize>,
    limit: Option<usize>,
}

impl fmt::Debug for PassContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PassContext").field("steps", &self.steps).field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl<'a> PassContext<'a> {
    /// For a target that has the operators for which `has` is true. Structure ([`Op::is_structural`]) is had by every
    /// target.
    pub fn new(has: &'a dyn Fn(Op) -> bool) -> PassContext<'a> {
        PassContext { has, steps: Cell::new(0), limit: None }
    }

    /// The same with at most `limit` rewrites in all passes together: with it, a rewrite that breaks a module is found by
    /// halving.
    pub fn with_step_limit(self, limit: Option<usize>) -> PassContext<'a> {
        PassContext { limit, ..self }
    }

    /// True if the target has `op`.
    pub fn has(&self, op: Op) -> bool {
        op.is_structural() || (self.has)(op)
    }

    /// Asked by a pass before each rewrite; false once the step limit is reached.
    pub fn step(&self) -> bool {
        if self.limit.is_some_and(|l| self.steps.get() >= l) {
            return false;
        }
        self.steps.set(self.steps.get() + 1);
        true
    }

    /// True if no further rewrite is allowed.
    pub fn is_exhausted(&self) -> bool {
        self.limit.is_some_and(|l| self.steps.get() >= l)
    }

    /// Rewrites so far.
    pub fn steps(&self) -> usize {
        self.steps.get()
    }
}

/// A node that a pass put in the place of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// The graph's name.
    pub graph: String,
    /// The debug handle of the new node.
    pub new: DebugHandle,
    /// The debug handle of the node it stands for.
    pub old: DebugHandle,
}

/// What a pass did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// Number of rewrites.
    pub changed: usize,
    /// New nodes with the nodes they stand for.
    pub replaced: Vec<Replaced>,
    /// Remarks for people.
    pub notes: Vec<String>,
}

/// Why a pass could not do its work. The module is then in no defined state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// A node that the pass made does not fit its arguments.
    #[error("graph `{graph}`, `{node}`: {error}")]
    Infer {
        /// The graph's name.
        graph: String,
        /// The line of the node that was to be replaced.
        node: String,
        /// What does not fit.
        error: InferError,
    },
    /// A node that the pass has no rule for.
    #[error("graph `{graph}`, `{node}`: {reason}")]
    Unsupported {
        /// The graph's name.
        graph: String,
        /// The line of the node.
        node: String,
        /// Why, and what would do.
        reason: String,
    },
}

/// A pass.
#[derive(Clone, Copy)]
pub struct Pass {
    /// Its name, as in file tests.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// The pass.
    pub run: fn(&mut Module, &PassContext<'_>) -> Result<PassReport, PassError>,
}

impl fmt::Debug for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pass").field(&self.name).finish()
    }
}

/// Why a run of passes ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The module was broken before the first pass.
    #[error("the module given to the passes does not verify:\n{0}")]
    Before(VerifyErrors),
    /// A pass broke the module.
    #[error("after pass `{pass}` the module does not verify:\n{errors}")]
    After {
        /// The pass.
        pass: &'static str,
        /// The rules it broke.
        errors: VerifyErrors,
    },
    /// A pass gave up.
    #[error("pass `{pass}`: {error}")]
    Pass {
        /// The pass.
        pass: &'static str,
        /// Why.
        error: PassError,
    },
}

/// Runs passes in order; verifies before the first and after each.
#[derive(Clone, Debug)]
pub struct Runner {
    passes: Vec<Pass>,
    verify_in_release: bool,
}

impl Runner {
    /// A runner of `passes`.
    pub fn new(passes: impl IntoIterator<Item = Pass>) -> Runner {
        Runner { passes: passes.into_iter().collect(), verify_in_release: true }
    }

    /// Whether builds without debug assertions verify as well; they do by default. Others always do.
    pub fn verify_in_release(self, verify: bool) -> Runner {
        Runner { verify_in_release: verify, ..self }
    }

    /// Runs the passes and gives each one's name and report.
    ///
    /// # Errors
    /// [`RunError`] naming the pass that failed or broke the module, with the rules it broke.
    pub fn run(
        &self,
        module: &mut Module,
        context: &PassContext<'_>,
    ) -> Result<Vec<(&'static str, PassReport)>, RunError> {
        let verified = self.verify_in_release || cfg!(debug_assertions);
        let check = |m: &Module| if verified { verify::module(m) } else { Ok(()) };
        check(module).map_err(RunError::Before)?;
        let mut reports = Vec::with_capacity(self.passes.len());
        for pass in &self.passes {
            let report = (pass.run)(module, context).map_err(|error| RunError::Pass { pass: pass.name, error })?;
            check(module).map_err(|errors| RunError::After { pass: pass.name, errors })?;
            reports.push((pass.name, report));
        }
        Ok(reports)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes;

    fn small() -> Module {
        crate::parse::module(
            "module \"t\" { graph f(%0: f32[2]) { %1 = aten::silu(%0) %2 = aten::silu(%1) return %2 } }",
        )
        .unwrap()
    }

    fn breaks_handles(m: &mut Module, _: &PassContext<'_>) -> Result<PassReport, PassError> {
        for (_, n) in m.graphs[0].nodes.iter_mut() {
            n.handle = DebugHandle(0);
        }
        Ok(PassReport::default())
    }

    #[test]
    fn a_pass_that_breaks_the_module_is_named_with_the_rule() {
        let bad = Pass { name: "bad", about: "", run: breaks_handles };
        let all = |_: Op| true;
        let error = Runner::new([bad]).run(&mut small(), &PassContext::new(&all)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "after pass `bad` the module does not verify:\ngraph `f`: `%2 = aten::silu(%1) : f32[2] #0`: handles: another \
             node has the debug handle #0 as well"
        );
        let mut broken = small();
        breaks_handles(&mut broken, &PassContext::new(&all)).unwrap();
        let error = Runner::new([]).run(&mut broken, &PassContext::new(&all)).unwrap_err();
        assert!(matches!(error, RunError::Before(_)));
    }

    #[test]
    fn steps_are_limited() {
        let kernels = |op: Op| op != Op::Silu;
        let decompose = passes::by_name("decompose").unwrap();
        for (limit, left) in [(Some(0), 2), (Some(1), 1), (Some(2), 0), (None, 0)] {
            let mut m = small();
            let context = PassContext::new(&kernels).with_step_limit(limit);
            let reports = Runner::new([decompose]).run(&mut m, &context).unwrap();
            assert_eq!(reports[0].1.changed, 2 - left);
            assert_eq!(context.steps(), 2 - left);
            let g = &m.graphs[0];
            assert_eq!(g.all_nodes().iter().filter(|&&n| g.nodes[n].op == Op::Silu).count(), left);
        }
    }
}
