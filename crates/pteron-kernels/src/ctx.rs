//! What a kernel needs beside its arguments.

use crate::simd::{Isa, Kernels};
use crate::{KernelError, ThreadPool};

/// The thread pool kernels run on and the variants chosen for this processor. One for an executor; shared by all kernels it
/// calls.
#[derive(Debug)]
pub struct Context {
    pool: ThreadPool,
    kernels: Kernels,
}

impl Context {
    /// A context with `threads` threads in all, the caller's among them; 0 counts as 1. Of each kernel the best variant that
    /// this processor executes is chosen.
    pub fn new(threads: usize) -> Context {
        Context { pool: ThreadPool::new(threads), kernels: Kernels::best() }
    }

    /// The same, with the variants of one instruction set; kernels that have none for it are the scalar ones. For tests and
    /// measurements.
    ///
    /// # Errors
    /// If this processor does not have `isa`.
    pub fn with_isa(threads: usize, isa: Isa) -> Result<Context, KernelError> {
        if !isa.is_supported_here() {
            return Err(KernelError::new("context", format!("this processor does not execute {isa} kernels")));
        }
        Ok(Context { pool: ThreadPool::new(threads), kernels: Kernels::of(isa) })
    }

    /// The pool.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// The instruction set of the matrix kernels in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }
}
