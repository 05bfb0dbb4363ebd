//! Counts what one thread allocates.
//!
//! A test binary installs the counter once: `#[global_allocator] static ALLOCATOR: Counting = Counting;`

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
    static PEAK: Cell<i64> = const { Cell::new(0) };
    /// The most that one request may ask for before it is told; 0 outside of a measurement.
    static CAP: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counted for each thread.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counting;

fn add(size: usize) {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let _ = LIVE.try_with(|live| {
        let now = live.get().saturating_add(size);
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

fn remove(size: usize) {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let _ = LIVE.try_with(|live| live.set(live.get().saturating_sub(size)));
}

/// Says that a request goes past the cap before it is made: the process may not live to say so afterwards.
fn tell(size: usize) {
    let over = CAP.try_with(|cap| cap.get() != 0 && size > cap.replace(if size > cap.get() { 0 } else { cap.get() }));
    if over == Ok(true) {
        let thread = std::thread::current();
        // Not `eprintln!`, whose text is held back while a test runs.
        let _ = writeln!(std::io::stderr(), "{}: one request of {size} bytes", thread.name().unwrap_or("a thread"));
    }
}

// SAFETY: every call goes to `System` with the caller's own arguments; the counters are cells of the calling thread, which
// neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        tell(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        let p = unsafe { System.alloc(layout) };
        if !p.is_null() {
            add(layout.size());
        }
        p
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        tell(layout.size());
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        let p = unsafe { System.alloc_zeroed(layout) };
        if !p.is_null() {
            add(layout.size());
        }
        p
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: `p` came from `System` with this layout.
        unsafe { System.dealloc(p, layout) };
        remove(layout.size());
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        tell(new_size);
        // SAFETY: `p` came from `System` with this layout, and the caller keeps the contract of `realloc`.
        let q = unsafe { System.realloc(p, layout, new_size) };
        if !q.is_null() {
            add(new_size);
            remove(layout.size());
        }
        q
    }
}

/// Runs `f` and gives its result with the most bytes that this thread held at a time above what it held before. 0 bytes
/// where [`Counting`] is not installed.
pub fn measured<T>(cap: usize, f: impl FnOnce() -> T) -> (T, usize) {
    let before = LIVE.with(Cell::get);
    PEAK.with(|p| p.set(before));
    CAP.with(|c| c.set(cap));
    let result = f();
    CAP.with(|c| c.set(0));
    let peak = PEAK.with(Cell::get).saturating_sub(before);
    (result, usize::try_from(peak).unwrap_or(0))
}

/// True where [`Counting`] is the global allocator.
pub fn is_installed() -> bool {
    measured(0, || drop(std::hint::black_box(vec![0u8; 4096]))).1 >= 4096
}
