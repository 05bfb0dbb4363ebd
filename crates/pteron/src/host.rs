//! What the machine offers: threads, memory use, memory locking.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Number of threads for a run: the performance cores where the system tells them apart (Linux: `cpu_capacity` of ARM's
/// big.LITTLE, `cpu_core` of hybrid x86), and never more than the process may use.
pub fn default_threads() -> usize {
    let available = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    performance_cores().map_or(available, |n| n.clamp(1, available))
}

/// The instruction set that kernels use here.
pub fn instruction_set() -> String {
    pteron_kernels::Context::new(1).isa().to_string()
}

#[cfg(target_os = "linux")]
fn performance_cores() -> Option<usize> {
    if let Ok(list) = std::fs::read_to_string("/sys/devices/cpu_core/cpus") {
        return count_cpu_list(list.trim());
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
fn performance_cores() -> Option<usize> {
    None
}

/// Cores of more than the smallest capacity; `None` if all are alike.
#[cfg_attr(not(any(target_os = "linux", test)), expect(dead_code, reason = "sysfs is Linux's"))]
fn above_smallest(capacities: &[u32]) -> Option<usize> {
    let smallest = capacities.iter().min()?;
    Some(capacities.iter().filter(|&c| c > smallest).count()).filter(|&n| n > 0)
}

/// Processors of a list such as `0-7,16`.
#[cfg_attr(not(any(target_os = "linux", test)), expect(dead_code, reason = "sysfs is Linux's"))]
fn count_cpu_list(list: &str) -> Option<usize> {
    let mut count = 0usize;
    for part in list.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse::<usize>().ok()?, to.parse::<usize>().ok()?);
        count = count.checked_add(to.checked_sub(from)?.checked_add(1)?)?;
    }
    Some(count)
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
        assert_eq!(count_cpu_list("0-7,16"), Some(9));
        assert_eq!(count_cpu_list("3"), Some(1));
        assert_eq!(count_cpu_list(""), None);
        assert_eq!(count_cpu_list("7-3"), None);
    }

    #[test]
    fn little_cores_are_left_out() {
        assert_eq!(above_smallest(&[400, 400, 400, 800, 800, 1024]), Some(3));
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
