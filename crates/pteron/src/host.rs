//! What the machine offers: threads, memory use, memory locking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use pteron_kernels::Threads;

/// Number of threads for a run: the performance cores where the system tells them apart (Linux: `cpu_capacity` of ARM's
/// big.LITTLE, `cpu_core` of hybrid x86), and never more than the process may use (its processors, and its quota of their
/// time where a control group has one).
pub fn default_threads() -> usize {
    threads(None, &[]).count
}

/// What the process may use at the same time: its processors, less where a control group's quota is less.
fn available() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Threads for a run: `count` of them, or as many as [`default_threads`] says, on the processors `cpus`. Where none are given
/// and the system tells performance cores apart, on these, if they are enough. Threads that are more than the process may use
/// do not wait by polling.
pub fn threads(count: Option<usize>, cpus: &[usize]) -> Threads {
    let available = available();
    let performance = if cpus.is_empty() { performance_cores().unwrap_or_default() } else { cpus.to_vec() };
    let most = if performance.is_empty() { available } else { performance.len().clamp(1, available) };
    let count = count.unwrap_or(most);
    let fits = !cpus.is_empty() || count <= performance.len();
    let spin = count <= if fits && !performance.is_empty() { most } else { available };
    Threads { count, cpus: if fits { performance } else { Vec::new() }, spin }
}

/// Lets the calling thread use only the processors `cpus`.
///
/// # Errors
/// What the system says.
pub fn bind(cpus: &[usize]) -> std::io::Result<()> {
    pteron_kernels::bind(cpus)
}

/// Reads a set of processors: a mask in hexadecimal digits as llama.cpp takes it (`0x` may stand before it; the lowest bit is
/// processor 0), or a list such as `0-3,6`, which has a hyphen or a comma.
///
/// # Errors
/// A sentence that says what was found.
pub fn parse_cpus(text: &str) -> Result<Vec<usize>, String> {
    /// Processors that a set of the system can name.
    const MOST: usize = 1024;
    let wrong = || format!("`{text}` is no mask in hexadecimal digits such as 0xf0 and no list such as 4-7,9");
    let cpus = if text.contains(['-', ',']) {
        cpu_list(text).ok_or_else(wrong)?
    } else {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
        let bits = |(i, c): (usize, char)| {
            let digit = c.to_digit(16).ok_or_else(wrong)?;
            Ok::<_, String>((0..4).filter(move |b| digit & (1 << b) != 0).map(move |b| 4 * i + b))
        };
        let nibbles = digits.chars().rev().enumerate().map(bits).collect::<Result<Vec<_>, _>>()?;
        nibbles.into_iter().flatten().collect()
    };
    match cpus.last() {
        None => Err(format!("`{text}` names no processor")),
        Some(&last) if last >= MOST => {
            Err(format!("`{text}` names processor {last}, the last possible one is {}", MOST - 1))
        }
        Some(_) => Ok(cpus),
    }
}

/// A mask in hexadecimal digits, as [`parse_cpus`] reads it.
pub fn cpu_mask(cpus: &[usize]) -> String {
    let digits = cpus.iter().max().map_or(1, |&last| last / 4 + 1);
    let digit = |d: usize| {
        let bits = (0..4).filter(|b| cpus.contains(&(4 * d + b))).fold(0, |n, b| n | 1 << b);
        char::from_digit(bits, 16).unwrap_or('0')
    };
    format!("0x{}", (0..digits).rev().map(digit).collect::<String>())
}

/// The instruction set that kernels use here.
pub fn instruction_set() -> String {
    pteron_kernels::Context::new(1).isa().to_string()
}

#[cfg(target_os = "linux")]
fn performance_cores() -> Option<Vec<usize>> {
    if let Ok(list) = std::fs::read_to_string("/sys/devices/cpu_core/cpus") {
        return cpu_list(list.trim());
    }
    let mut capacities = Vec::new();
    for cpu in 0.. {
        match std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/cpu_capacity")) {
            Ok(text) => capacities.push(text.trim().parse::<u32>().ok()?),
            Err(_) => break,
        }
    }
    above_smallest(&capacities)
}

#[cfg(not(target_os = "linux"))]
fn performance_cores() -> Option<Vec<usize>> {
    None
}

/// Cores of more than the smallest capacity; `None` if all are alike.
#[cfg_attr(not(any(target_os = "linux", test)), expect(dead_code, reason = "sysfs is Linux's"))]
fn above_smallest(capacities: &[u32]) -> Option<Vec<usize>> {
    let smallest = capacities.iter().min()?;
    let large = capacities.iter().enumerate().filter(|(_, c)| *c > smallest).map(|(i, _)| i);
    Some(large.collect::<Vec<_>>()).filter(|list| !list.is_empty())
}

/// Processors of a list such as `0-7,16`, in rising order.
fn cpu_list(list: &str) -> Option<Vec<usize>> {
    /// More than any machine has.
    const MOST: usize = 1 << 16;
    let mut cpus = Vec::new();
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.trim().parse::<usize>().ok()?, to.trim().parse::<usize>().ok()?);
        if from > to || to >= MOST {
            return None;
        }
        cpus.extend(from..=to);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

/// Memory of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct MemoryUse {
    /// Bytes that belong to no file (`RssAnon`).
    pub anonymous: u64,
    /// All bytes in memory, pages of mapped files among them (`VmRSS`).
    pub resident: u64,
}

/// Memory of the process; `None` where the system does not tell.
pub fn memory_use() -> Option<MemoryUse> {
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let bytes = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
        };
        Some(MemoryUse { anonymous: bytes("RssAnon:")?, resident: bytes("VmRSS:")? })
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Bytes of memory the machine has; `None` where the system does not tell.
pub fn physical_memory() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Bytes of the first processor's last level of cache; `None` where the system does not tell.
pub fn last_level_cache() -> Option<usize> {
    #[cfg(target_os = "linux")]
    {
        let size =
            |index: u32| std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size")).ok();
        let text = (0..).map_while(size).last()?;
        text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
    }
    #[cfg(not(target_os = "linux"))]
    None
}

/// Samples [`memory_use`] on a thread of its own until it is finished.
#[derive(Debug)]
pub(crate) struct MemorySampler {
    stop: Arc<AtomicBool>,
    peak: Arc<Peak>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Peak {
    anonymous: AtomicU64,
    resident: AtomicU64,
}

impl Peak {
    fn raise(&self, to: MemoryUse) -> MemoryUse {
        MemoryUse {
            anonymous: self.anonymous.fetch_max(to.anonymous, Ordering::Relaxed).max(to.anonymous),
            resident: self.resident.fetch_max(to.resident, Ordering::Relaxed).max(to.resident),
        }
    }
}

impl MemorySampler {
    const INTERVAL: Duration = Duration::from_millis(5);

    pub(crate) fn start() -> MemorySampler {
        let (stop, peak) = (Arc::new(AtomicBool::new(false)), Arc::new(Peak::default()));
        let thread = memory_use().and_then(|first| {
            peak.raise(first);
            let (stop, peak) = (Arc::clone(&stop), Arc::clone(&peak));
            let sample = move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.raise(memory_use().unwrap_or_default());
                    std::thread::park_timeout(MemorySampler::INTERVAL);
                }
            };
            std::thread::Builder::new().name("pteron-memory".into()).spawn(sample).ok()
        });
        MemorySampler { stop, peak, thread }
    }

    /// The largest values seen; `None` where the system does not tell.
    pub(crate) fn finish(mut self) -> Option<MemoryUse> {
        self.join();
        Some(self.peak.raise(memory_use()?))
    }

    fn join(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(t) = self.thread.take() {
            t.thread().unpark();
            let _ = t.join();
        }
    }
}

impl Drop for MemorySampler {
    fn drop(&mut self) {
        self.join();
    }
}

/// Keeps the pages of `bytes` in memory until they are unmapped or freed.
///
/// # Errors
/// What the system gives: mostly that the limit of locked memory is too low.
#[cfg(unix)]
pub(crate) fn lock_memory(bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    // SAFETY: the range is that of a live slice. Locking changes no byte of it and takes no ownership.
    let result = unsafe { libc::mlock(bytes.as_ptr().cast(), bytes.len()) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Not available on this system.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub(crate) fn lock_memory(_: &[u8]) -> std::io::Result<()> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "memory is not locked on this system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors_are_counted() {
        assert_eq!(cpu_list("0-2,16,1"), Some(vec![0, 1, 2, 16]));
        assert_eq!(cpu_list("3"), Some(vec![3]));
        for wrong in ["", "7-3", "a", "0-99999999999", "1,,2"] {
            assert_eq!(cpu_list(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn masks_and_lists_of_processors_are_read() {
        for (text, cpus) in
            [("0x5", vec![0, 2]), ("f0", vec![4, 5, 6, 7]), ("0-1,4", vec![0, 1, 4]), ("100000000", vec![32])]
        {
            assert_eq!(parse_cpus(text).as_ref(), Ok(&cpus), "{text}");
            assert_eq!(parse_cpus(&cpu_mask(&cpus)), Ok(cpus), "{text}");
        }
        for (text, said) in [("0x0", "no processor"), ("g", "hexadecimal"), ("", "no processor"), ("1-2000", "2000")] {
            let e = parse_cpus(text).unwrap_err();
            assert!(e.contains(said), "{text}: {e}");
        }
    }

    #[test]
    fn threads_beyond_the_processors_do_not_poll() {
        let available = available();
        assert!(threads(Some(1), &[]).spin && !threads(Some(available + 1), &[]).spin);
        assert_eq!(threads(Some(2), &[0]).cpus, [0]);
        assert!(!threads(Some(2), &[0]).spin, "two threads on one processor");
    }

    #[test]
    fn little_cores_are_left_out() {
        assert_eq!(above_smallest(&[400, 400, 400, 800, 800, 1024]), Some(vec![3, 4, 5]));
        assert_eq!(above_smallest(&[1024, 1024]), None);
        assert_eq!(above_smallest(&[]), None);
        assert!(default_threads() >= 1);
    }

    #[test]
    fn the_sampler_sees_what_is_allocated() {
        let Some(before) = memory_use() else { return };
        let sampler = MemorySampler::start();
        let block = vec![1u8; 64 << 20];
        std::thread::sleep(MemorySampler::INTERVAL * 8);
        let sum: u64 = block.iter().step_by(4096).map(|&b| u64::from(b)).sum();
        drop(block);
        assert_eq!(sum, 16384);
        let peak = sampler.finish().unwrap();
        assert!(peak.anonymous >= before.anonymous + (48 << 20));
        assert!(peak.resident >= before.resident + (48 << 20));
    }

    #[test]
    fn nothing_and_a_page_can_be_locked() {
        if cfg!(unix) {
            lock_memory(&[]).unwrap();
            lock_memory(&[1; 64]).unwrap();
        }
    }
}
