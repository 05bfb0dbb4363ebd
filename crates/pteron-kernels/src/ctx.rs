//! What a kernel needs beside its arguments.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::packed::Slab;
use crate::simd::{Isa, Kernels};
use crate::{KernelError, ThreadPool, Threads};

/// The thread pool kernels run on and the variants chosen for this processor. One for an executor; shared by all kernels it
/// calls.
#[derive(Debug)]
pub struct Context {
    pool: ThreadPool,
    kernels: Kernels,
    /// A kernel computed element by element since this was last asked for.
    scalar: AtomicBool,
    /// Where packed weights lie.
    slab: Slab,
}

impl Context {
    /// A context with `threads` threads in all, the caller's among them; 0 counts as 1. Of each kernel the best variant that
    /// this processor executes is chosen.
    pub fn new(threads: usize) -> Context {
        Context::on(&Threads::of(threads))
    }

    /// [`Context::new`], with threads that run where `threads` says.
    pub fn on(threads: &Threads) -> Context {
        Context {
            pool: ThreadPool::with(threads),
            kernels: Kernels::best(),
            scalar: AtomicBool::new(false),
            slab: Slab::default(),
        }
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
        Ok(Context {
            pool: ThreadPool::new(threads),
            kernels: Kernels::of(isa),
            scalar: AtomicBool::new(false),
            slab: Slab::default(),
        })
    }

    /// The pool.
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// The instruction set of the matrix kernels in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa
    }

    /// Notes that a kernel computes element by element what it computes by vectors for other types or on other processors.
    pub(crate) fn note_scalar(&self) {
        self.scalar.store(true, Ordering::Relaxed);
    }

    /// True if a kernel computed element by element since this was last asked. On a processor for which there are only scalar
    /// kernels it is always true.
    pub fn take_scalar(&self) -> bool {
        self.scalar.swap(false, Ordering::Relaxed) || self.kernels.isa == Isa::Scalar
    }

    pub(crate) fn slab(&self) -> &Slab {
        &self.slab
    }

    pub(crate) fn kernels(&self) -> &Kernels {
        &self.kernels
    }
}
