//! The thread pool: every piece once, panics, nesting, sharing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use pteron_kernels::{ThreadPool, Threads, bind};

fn counts(pool: &ThreadPool, pieces: usize) -> Vec<usize> {
    let counts: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
    pool.run(pieces, &|i| {
        counts[i].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_piece_runs_once() {
    for threads in [0, 1, 2, 3, 8] {
        let pool = ThreadPool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for pieces in [0, 1, 2, 3, 7, 64, 1000] {
            assert_eq!(counts(&pool, pieces), vec![1; pieces], "{threads} threads");
        }
    }
}

#[test]
fn many_short_loops_see_each_others_results() {
    let pool = ThreadPool::new(3);
    let mut a = vec![0u64; 64];
    for round in 0..5_000u64 {
        let cells: Vec<AtomicUsize> = a.iter().map(|&x| AtomicUsize::new(x as usize)).collect();
        pool.run(cells.len(), &|i| {
            // Reads what another piece of the loop before wrote.
            cells[i].store(a[(i + 1) % a.len()] as usize + 1, Ordering::Relaxed);
        });
        a = cells.into_iter().map(|c| c.into_inner() as u64).collect();
        assert!(a.iter().all(|&x| x == round + 1));
    }
}

#[test]
fn work_after_a_pause_wakes_sleepers() {
    let pool = ThreadPool::new(4);
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(3));
        assert_eq!(counts(&pool, 100), vec![1; 100]);
    }
}

#[test]
fn all_threads_take_part() {
    let pool = ThreadPool::new(3);
    let barrier = std::sync::Barrier::new(3);
    // Each piece waits for the two others: only three threads can finish this.
    pool.run(3, &|_| {
        barrier.wait();
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = ThreadPool::new(3);
    for bad in [0, 17, 99] {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            pool.run(100, &|i| {
                if i == bad {
                    std::panic::panic_any(i);
                }
            });
        }));
        assert_eq!(caught.expect_err("the piece panicked").downcast_ref::<usize>(), Some(&bad));
        assert_eq!(counts(&pool, 100), vec![1; 100]);
    }
}

#[test]
fn a_nested_loop_runs_on_its_own_thread() {
    let (outer, other) = (ThreadPool::new(3), ThreadPool::new(2));
    let total = AtomicUsize::new(0);
    outer.run(8, &|_| {
        let me = std::thread::current().id();
        outer.run(5, &|_| {
            assert_eq!(std::thread::current().id(), me);
            total.fetch_add(1, Ordering::Relaxed);
        });
        other.run(5, &|_| {
            assert_eq!(std::thread::current().id(), me);
            total.fetch_add(1, Ordering::Relaxed);
        });
    });
    assert_eq!(total.into_inner(), 80);
}

#[test]
fn callers_may_share_a_pool() {
    let pool = ThreadPool::new(3);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..300 {
                    assert_eq!(counts(&pool, 13), vec![1; 13]);
                }
            });
        }
    });
}

#[test]
fn dropping_ends_the_workers() {
    for _ in 0..50 {
        let pool = ThreadPool::new(4);
        assert_eq!(counts(&pool, 4), vec![1; 4]);
    }
    drop(ThreadPool::new(4));
}

#[test]
fn threads_that_do_not_poll_do_the_same_work() {
    // More threads than there are processors, none of which waits by polling.
    let pool = ThreadPool::with(&Threads { spin: false, ..Threads::of(16) });
    for _ in 0..200 {
        assert_eq!(counts(&pool, 33), vec![1; 33]);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn workers_run_where_they_are_told() {
    // A processor that this process may use is the one that it runs on.
    let here = std::fs::read_to_string("/proc/self/stat").unwrap();
    let cpu: usize = here.rsplit(')').next().unwrap().split_whitespace().nth(36).unwrap().parse().unwrap();
    let pool = ThreadPool::with(&Threads { cpus: vec![cpu], ..Threads::of(3) });
    assert!(pool.is_bound());
    assert_eq!(counts(&pool, 50), vec![1; 50]);
    let allowed = std::sync::Mutex::new(Vec::new());
    std::thread::spawn(move || {
        bind(&[cpu]).unwrap();
        let pool = ThreadPool::with(&Threads { cpus: vec![cpu], ..Threads::of(2) });
        let barrier = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            barrier.wait();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            let list = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:")).unwrap();
            allowed.lock().unwrap().push(list.trim().to_owned());
        });
        assert_eq!(allowed.into_inner().unwrap(), [cpu.to_string(), cpu.to_string()]);
    })
    .join()
    .unwrap();
    // No such processor: the pool works, and says that it is not where it was wanted.
    let pool = ThreadPool::with(&Threads { cpus: vec![1023], ..Threads::of(2) });
    assert!(!pool.is_bound());
    assert_eq!(counts(&pool, 9), vec![1; 9]);
    assert!(bind(&[1 << 20]).is_err());
}
