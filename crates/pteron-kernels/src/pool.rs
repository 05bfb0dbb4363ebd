//! A persistent thread pool for short loops.
//!
//! Workers are made once. Between loops they spin for a moment and then sleep, so that the hundreds of small loops of one
//! decoding step find them awake. The caller takes part in its own loop and never waits for a worker that has not begun.

use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::simd::prefetch_far;

/// Polls before a worker goes to sleep: some tens of microseconds.
const SPINS_BEFORE_SLEEP: usize = 4_000;
/// Polls before the caller, waiting for a worker's last piece, gives its processor away.
const SPINS_BEFORE_YIELD: usize = 2_000;
/// Bits of an offer below its number: a worker has entered.
const INSIDE: usize = 1;
/// Most pieces of memory of [`ThreadPool::look_ahead`].
const AHEAD: usize = 3;
/// Most bytes that a worker asks for: what its own cache holds beside other things.
const AHEAD_BYTES: usize = 384 * 1024;
/// Cache lines that it asks for between two looks at its offer.
const AHEAD_LINES: usize = 4;
/// Lines that a caller asks for between its loops: as many as are on their way at once.
const CALLER_LINES: usize = 48;
/// Pieces of a thread where memory is the limit: few enough that each is read as one long stream, and more than one so that a
/// thread that is held up leaves work for the others.
const STREAMS: usize = 3;
/// Least bytes of such a piece.
const STREAM: usize = 16 * 1024;
/// Bytes of a cache line.
const LINE: usize = 64;

/// How many threads, and where they run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Threads {
    /// Threads in all, the caller's among them; 0 counts as 1.
    pub count: usize,
    /// The processors that workers may use, by number; empty for those of the process. The caller's thread is the caller's
    /// matter ([`bind`]).
    pub cpus: Vec<usize>,
    /// Threads that wait poll for a moment before they sleep. To be false where threads are more than the processors that the
    /// process may use, or than its quota of their time pays for: polling takes what the others need then.
    pub spin: bool,
}

impl Threads {
    /// `count` threads that run anywhere and poll.
    pub fn of(count: usize) -> Threads {
        Threads { count, cpus: Vec::new(), spin: true }
    }
}

/// Lets the calling thread use only the processors `cpus`.
///
/// # Errors
/// What the system says: mostly that none of them is there or open to the process.
pub fn bind(cpus: &[usize]) -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: an all-zero set is a valid one: it is plain bits.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &cpu in cpus {
            if cpu >= libc::CPU_SETSIZE as usize {
                return Err(std::io::Error::from(std::io::ErrorKind::InvalidInput));
            }
            // SAFETY: the number is below the size of the set.
            unsafe { libc::CPU_SET(cpu, &mut set) };
        }
        // SAFETY: 0 is the calling thread, and the set is read within its size.
        let result = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
        if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = cpus;
        Err(std::io::Error::from(std::io::ErrorKind::Unsupported))
    }
}

thread_local! {
    /// True while this thread executes a piece: a loop started from there runs on this thread alone.
    static IN_PIECE: Cell<bool> = const { Cell::new(false) };
}

thread_local! {
    /// What this thread has not asked for as a caller.
    static CALLER_REST: RefCell<Rest> = const { RefCell::new(Rest { version: 0, parts: [(0, 0); AHEAD] }) };
}

/// What belongs to one thread. The two cache lines are its own, so that threads do not disturb each other.
#[derive(Default)]
struct Slot {
    share: Share,
    offer: Offer,
}

/// A thread's share of the pieces.
#[repr(align(128))]
#[derive(Default)]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

/// Twice the number of the loop that a worker may enter, plus [`INSIDE`] from when it entered until it left; 0 if there is
/// nothing for it. The caller offers and withdraws, the worker enters and leaves.
#[repr(align(128))]
#[derive(Default)]
struct Offer(AtomicUsize);

/// Memory that the next loop will read.
#[repr(align(128))]
#[derive(Default)]
struct Ahead {
    /// Counts what was said.
    version: AtomicUsize,
    /// Beginnings and lengths. They are only ever asked for, never read through: what is torn or outdated does no harm.
    parts: [(AtomicPtr<u8>, AtomicUsize); AHEAD],
}

/// What of it a worker has not asked for yet.
#[derive(Default)]
struct Rest {
    version: usize,
    parts: [(usize, usize); AHEAD],
}

impl Rest {
    /// Takes over what was said last; worker `me` of `n` threads has its part of all of it.
    fn renew(&mut self, ahead: &Ahead, me: usize, n: usize) {
        let version = ahead.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        self.version = version;
        let all: [(usize, usize); AHEAD] = std::array::from_fn(|i| {
            let (start, len) = &ahead.parts[i];
            (start.load(Ordering::Relaxed) as usize, len.load(Ordering::Relaxed))
        });
        let total = all.iter().fold(0usize, |sum, p| sum.saturating_add(p.1));
        let (mut skip, mut left) = (total / n * me, (total / n).min(AHEAD_BYTES));
        self.parts = all.map(|(start, len)| {
            let skipped = skip.min(len);
            let taken = left.min(len - skipped);
            skip -= skipped;
            left -= taken;
            (start.wrapping_add(skipped), taken)
        });
    }

    /// Asks for `lines` lines.
    fn ask(&mut self, lines: usize) {
        for _ in 0..lines {
            let Some((start, len)) = self.parts.iter_mut().find(|p| p.1 > 0) else { return };
            prefetch_far(std::ptr::without_provenance(*start));
            *start = start.wrapping_add(LINE);
            *len = len.saturating_sub(LINE);
        }
    }
}

/// The loop at hand, borrowed from the caller's stack for as long as a worker is inside.
#[derive(Clone, Copy)]
struct Job {
    body: *const (dyn Fn(usize) + Sync),
    /// Threads that have a share.
    shares: usize,
}

struct Shared {
    /// Written by the caller only while no offer stands; read by workers only between entering and leaving.
    job: UnsafeCell<Option<Job>>,
    slots: Vec<Slot>,
    spin: bool,
    /// A piece panicked: the rest is not begun.
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
    shutdown: AtomicBool,
    ahead: Ahead,
}

// SAFETY: `job` is the only field that is not `Sync` by itself. It is written only by the thread that holds
// `ThreadPool::busy` while no worker has an offer, and read only by workers that entered: entering is an acquire operation on
// the offer that the caller released after writing.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `job` refers to a `Sync` closure, which may be called from any thread.
unsafe impl Send for Shared {}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held, and the guarded values are valid at every step.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Takes pieces, first of share `me`, then what others have left.
    fn work(&self, me: usize, job: &Job, body: &(dyn Fn(usize) + Sync)) {
        let before = IN_PIECE.replace(true);
        let n = job.shares;
        let result = catch_unwind(AssertUnwindSafe(|| {
            for k in 0..n {
                let share = &self.slots[(me + k) % n].share;
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
        let offer = &self.slots[me].offer.0;
        let most = if self.spin { SPINS_BEFORE_SLEEP } else { 0 };
        let mut rest = Rest::default();
        loop {
            let mut spins = 0;
            let standing = loop {
                let now = offer.load(Ordering::Acquire);
                if now != 0 {
                    break now;
                }
                if self.shutdown.load(Ordering::Relaxed) {
                    return;
                }
                if spins < most {
                    spins += 1;
                    rest.renew(&self.ahead, me, self.slots.len());
                    rest.ask(AHEAD_LINES);
                    std::hint::spin_loop();
                    continue;
                }
                // The counter goes up before the offer is looked at again, and the caller offers before it looks at the
                // counter (all sequentially consistent): one of the two sees the other.
                let mut guard = lock(&self.sleep);
                self.sleepers.fetch_add(1, Ordering::SeqCst);
                while offer.load(Ordering::SeqCst) == 0 && !self.shutdown.load(Ordering::SeqCst) {
                    guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                }
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
            };
            // Another loop may have begun meanwhile: its offer has another number.
            if offer.compare_exchange(standing, standing | INSIDE, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            // SAFETY: this thread is inside, so the caller neither writes `job` nor returns (and ends the closure's borrow)
            // before the offer is 0 again, below.
            let job = unsafe { *self.job.get() };
            if let Some(job) = job {
                // SAFETY: as above: the closure outlives this worker's stay.
                self.work(me, &job, unsafe { &*job.body });
            }
            // Release: what the pieces wrote is there before the caller sees that this worker has left.
            offer.store(0, Ordering::Release);
        }
    }

    /// Withdraws what worker `me` has not taken up, or waits until it has left.
    fn close(&self, me: usize, offered: usize) {
        let offer = &self.slots[me].offer.0;
        if offer.compare_exchange(offered, 0, Ordering::Acquire, Ordering::Acquire).is_ok() {
            return;
        }
        let mut spins = if self.spin { 0 } else { SPINS_BEFORE_YIELD };
        while offer.load(Ordering::Acquire) != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
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
    /// Counts loops.
    loops: AtomicUsize,
    /// True if every worker runs on the processors that were asked for.
    bound: bool,
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
        ThreadPool::with(&Threads::of(threads))
    }

    /// [`ThreadPool::new`], with workers on some processors only. Where the system does not let them, they run anywhere
    /// ([`ThreadPool::is_bound`] tells).
    pub fn with(threads: &Threads) -> ThreadPool {
        let count = threads.count.clamp(1, 1024);
        let shared = Arc::new(Shared {
            job: UnsafeCell::new(None),
            slots: (0..count).map(|_| Slot::default()).collect(),
            spin: threads.spin,
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
            shutdown: AtomicBool::new(false),
            ahead: Ahead::default(),
        });
        let (tell, told) = std::sync::mpsc::channel();
        let workers: Vec<JoinHandle<()>> = (1..count)
            .map_while(|me| {
                let (shared, cpus, tell) = (Arc::clone(&shared), threads.cpus.clone(), tell.clone());
                let begin = move || {
                    if !cpus.is_empty() {
                        // Nobody listens any more only if the pool is gone.
                        let _ = tell.send(bind(&cpus).is_ok());
                    }
                    drop(tell);
                    shared.worker(me);
                };
                std::thread::Builder::new().name(format!("kernels-{me}")).spawn(begin).ok()
            })
            .collect();
        drop(tell);
        let bound = !threads.cpus.is_empty() && told.iter().all(|ok| ok);
        ThreadPool { shared, workers, busy: AtomicBool::new(false), loops: AtomicUsize::new(0), bound }
    }

    /// True if processors were asked for and every worker runs on these.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// Number of threads, the caller's among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Bytes of a piece of the loop that reads `all` bytes from memory once.
    pub(crate) fn stream(&self, all: usize) -> usize {
        match self.threads() {
            1 => all.max(1),
            n => (all / (n * STREAMS)).max(STREAM),
        }
    }

    /// Says which memory the next loop reads from its beginning to its end, the threads' shares behind each other. Workers that
    /// wait bring theirs into their caches meanwhile, and the caller by [`ThreadPool::ask_ahead`]; of more than three parts the
    /// first three count.
    pub fn look_ahead(&self, parts: &[&[u8]]) {
        let ahead = &self.shared.ahead;
        for (i, (start, len)) in ahead.parts.iter().enumerate() {
            let part = parts.get(i).copied().unwrap_or(&[]);
            start.store(part.as_ptr().cast_mut(), Ordering::Relaxed);
            len.store(part.len(), Ordering::Relaxed);
        }
        ahead.version.fetch_add(1, Ordering::Release);
    }

    /// Asks for some of the calling thread's share of what [`ThreadPool::look_ahead`] said, without waiting for it.
    pub fn ask_ahead(&self) {
        CALLER_REST.with_borrow_mut(|rest| {
            rest.renew(&self.shared.ahead, 0, self.threads());
            rest.ask(CALLER_LINES);
        });
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
        // No more threads than pieces.
        let n = (self.workers.len() + 1).min(pieces);
        for (t, slot) in shared.slots[..n].iter().enumerate() {
            // Widened, since `pieces * t` may overflow a usize.
            let cut = |t: usize| (pieces as u128 * t as u128 / n as u128) as usize;
            slot.share.next.store(cut(t), Ordering::Relaxed);
            slot.share.end.store(cut(t + 1), Ordering::Relaxed);
        }
        shared.stop.store(false, Ordering::Relaxed);
        // SAFETY: only the lifetime changes. The borrow lasts until every offer is withdrawn or its worker has left, which is
        // awaited below before this function returns or unwinds (`work` catches the panics of `body`).
        let body_static: &'static (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(body) };
        let job = Job { body: body_static, shares: n };
        // SAFETY: `busy` makes this thread the only writer, and no offer stands: no worker reads.
        unsafe { *shared.job.get() = Some(job) };
        // Never 0, and another number than that of any loop that a worker may still have in mind.
        let offered = (self.loops.fetch_add(1, Ordering::Relaxed) & (usize::MAX >> 2)) * 2 + 2;
        for slot in &shared.slots[1..n] {
            slot.offer.0.store(offered, Ordering::SeqCst);
        }
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&shared.sleep));
            shared.wake.notify_all();
        }
        shared.work(0, &job, body);
        (1..n).for_each(|me| shared.close(me, offered));
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
