//! A persistent thread pool for short loops.
//!
//! Workers are made once. Between loops they spin for a moment and then sleep, so that the hundreds of small loops of one
//! decoding step find them awake. The caller takes part in its own loop and never waits for a worker that has not begun.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Polls before a worker goes to sleep: some tens of microseconds.
const SPINS_BEFORE_SLEEP: usize = 4_000;
/// Polls before the caller, waiting for a worker's last piece, gives its processor away.
const SPINS_BEFORE_YIELD: usize = 2_000;
/// The gate's bit that says a loop may be entered; the bits above it count the workers inside.
const OPEN: usize = 1;
const INSIDE: usize = 2;

thread_local! {
    /// True while this thread executes a piece: a loop started from there runs on this thread alone.
    static IN_PIECE: Cell<bool> = const { Cell::new(false) };
}

/// One thread's share of the pieces. A cache line each, so that threads do not disturb each other.
#[repr(align(128))]
#[derive(Default)]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

/// The loop at hand, borrowed from the caller's stack for as long as the gate says.
#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize) + Sync),
}

struct Shared {
    /// Counts loops: a worker looks for work when it changes.
    generation: AtomicUsize,
    /// [`OPEN`] plus [`INSIDE`] for each worker that may read `job`.
    gate: AtomicUsize,
    /// Written by the caller only while the gate is 0; read by workers only between entering and leaving the gate.
    job: UnsafeCell<Option<Job>>,
    shares: Vec<Share>,
    /// A piece panicked: the rest is not begun.
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    shutdown: AtomicBool,
}

// SAFETY: `job` is the only field that is not `Sync` by itself. It is written only by the thread that holds
// `ThreadPool::busy` while the gate is 0 (closed, nobody inside), and read only by threads that are counted in the gate;
// entering is an acquire operation on the value that the caller released after writing.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` refers to a `Sync` closure, which may be called from any thread.
unsafe impl Send for Shared {}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held, and the guarded values are valid at every step.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes pieces, first of share `me`, then what others have left.
    fn work(&self, me: usize, body: &(dyn Fn(usize) + Sync)) {
        let before = IN_PIECE.replace(true);
        let n = self.shares.len();
        let result = catch_unwind(AssertUnwindSafe(|| {
            for k in 0..n {
                let share = &self.shares[(me + k) % n];
                let end = share.end.load(Ordering::Relaxed);
                // Looking first keeps the counter from growing without bound.
                while share.next.load(Ordering::Relaxed) < end && !self.stop.load(Ordering::Relaxed) {
                    let i = share.next.fetch_add(1, Ordering::Relaxed);
                    if i < end {
                        body(i);
                    }
                }
            }
        }));
        IN_PIECE.set(before);
        if let Err(payload) = result {
            self.stop.store(true, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }

    fn worker(&self, me: usize) {
        let mut seen = 0;
        loop {
            let mut spins = 0;
            loop {
                let now = self.generation.load(Ordering::Acquire);
                if now != seen {
                    seen = now;
                    break;
                }
                if self.shutdown.load(Ordering::Relaxed) {
                    return;
                }
                if spins < SPINS_BEFORE_SLEEP {
                    spins += 1;
                    std::hint::spin_loop();
                    continue;
                }
                // The counter goes up before the generation is looked at again, and the caller bumps the generation before
                // it looks at the counter (all sequentially consistent): one of the two sees the other.
                let mut guard = lock(&self.sleep);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while self.generation.load(Ordering::SeqCst) == seen && !self.shutdown.load(Ordering::SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            }
            if !self.enter() {
                continue;
            }
            // SAFETY: this thread is counted in the gate, so the caller neither writes `job` nor returns (and ends the
            // closure's borrow) before `leave` below.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                // SAFETY: as above: the closure outlives this worker's stay inside the gate.
                self.work(me, unsafe { &*job.body });
            }
            // Release: what the pieces wrote is there before the caller sees the gate empty.
            self.gate.fetch_sub(INSIDE, Ordering::Release);
        }
    }

    /// Counts this worker in, if a loop is open.
    fn enter(&self) -> bool {
        let mut gate = self.gate.load(Ordering::Relaxed);
        while gate & OPEN != 0 {
            match self.gate.compare_exchange_weak(gate, gate + INSIDE, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(found) => gate = found,
            }
        }
        false
    }
}

/// Runs pieces of one loop side by side.
///
/// The pieces are the caller's, so what a piece computes does not depend on the number of threads.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the thread whose loop the workers are on.
    busy: AtomicBool,
}

impl fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl ThreadPool {
    /// A pool of `threads` threads in all, the caller's among them; 0 counts as 1. If the system refuses to start one, the
    /// pool has those that it did start ([`ThreadPool::threads`] tells).
    pub fn new(threads: usize) -> ThreadPool {
        let threads = threads.clamp(1, 1024);
        let shared = Arc::new(Shared {
            generation: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            shares: (0..threads).map(|_| Share::default()).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            shutdown: AtomicBool::new(false),
        });
        let workers = (1..threads)
            .map_while(|me| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new().name(format!("kernels-{me}")).spawn(move || shared.worker(me)).ok()
            })
            .collect();
        ThreadPool { shared, workers, busy: AtomicBool::new(false) }
    }

    /// Number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body(i)` once for each `i` in `0..pieces`, in any order and on any thread, and returns when all are done.
    ///
    /// Neighbouring pieces go to the same thread as far as the balance allows. Called from inside a piece, or while another
    /// thread's loop has the workers, it runs all pieces on the calling thread.
    ///
    /// # Panics
    /// If `body` panics, the first panic is raised again here, after every piece that had begun has ended; pieces not begun
    /// by then may be left out.
    pub fn run(&self, pieces: usize, body: &(dyn Fn(usize) + Sync)) {
        let alone = pieces <= 1 || self.workers.is_empty() || IN_PIECE.get();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            (0..pieces).for_each(body);
            return;
        }
        let shared = &*self.shared;
        let n = shared.shares.len();
        for (t, share) in shared.shares.iter().enumerate() {
            // Widened, since `pieces * t` may overflow a usize.
            let cut = |t: usize| (pieces as u128 * t as u128 / n as u128) as usize;
            share.next.store(cut(t), Ordering::Relaxed);
            share.end.store(cut(t + 1), Ordering::Relaxed);
        }
        shared.stop.store(false, Ordering::Relaxed);
        // SAFETY: only the lifetime changes. The borrow lasts until the gate is closed and empty, which is awaited below
        // before this function returns or unwinds (`work` catches the panics of `body`).
        let body_static: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(body) };
        // SAFETY: `busy` makes this thread the only writer, and the gate is 0: no worker reads.
        unsafe { *shared.job.get() = Some(Job { body: body_static }) };
        shared.gate.store(OPEN, Ordering::Release);
        shared.generation.fetch_add(1, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.sleep));
            shared.wake.notify_all();
        }
        shared.work(0, body);
        // Closed: whoever is not inside by now stays outside. Acquire: what the workers wrote is there afterwards.
        let mut gate = shared.gate.fetch_and(!OPEN, Ordering::AcqRel) & !OPEN;
        let mut spins = 0;
        while gate != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
            gate = shared.gate.load(Ordering::Acquire);
        }
        let panic = lock(&shared.panic).take();
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        {
            let _guard = lock(&self.shared.sleep);
            self.shared.shutdown.store(true, Ordering::SeqCst);
        }
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of pieces and has none of its own.
            let _ = worker.join();
        }
    }
}
