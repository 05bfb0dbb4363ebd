//! Runs a parser on damaged files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::alloc::{is_installed, measured};
use super::mutate::{Mutator, Seed};

/// What became of a file: accepted and used as far as it goes, or refused with a message.
pub type Verdict = Result<(), String>;

/// Drives a parser, and what stands behind it, with the bytes of one file.
pub type Drive = fn(&[u8]) -> Verdict;

/// The variable that names the folder to which tests write their seeds, each in a folder of the test's name: the first inputs
/// of the fuzz targets.
pub const SEED_DIR: &str = "PTERON_SEED_DIR";

/// What a run may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Stack, in bytes.
    pub stack: usize,
    /// Memory above the file's own size, in bytes.
    pub memory: usize,
    /// Wall-clock time. A run that takes longer is made once more, because the machine may have been busy.
    pub time: Duration,
    /// One mutant in so many is run: more than 1 where each takes long.
    pub one_in: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { stack: 256 << 10, memory: 64 << 20, time: Duration::from_secs(2), one_in: 1 }
    }
}

/// How many files went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Accepted.
    pub accepted: usize,
    /// Refused.
    pub refused: usize,
}

/// Mutants that a test runs: 2,000, and 20,000 where [`crate::LARGE_TESTS`] is set.
pub fn mutant_count() -> u64 {
    if std::env::var_os(crate::LARGE_TESTS).is_some_and(|v| v == "1") { 20_000 } else { 2_000 }
}

/// Runs `drive` once under `limits`.
///
/// # Errors
/// A sentence about the limit that was passed, the panic, or the message that is no sentence.
pub fn check(label: &str, bytes: &[u8], limits: &Limits, drive: Drive) -> Result<Verdict, String> {
    match attempt(label, bytes, limits, drive) {
        Some(result) => result,
        None => attempt(label, bytes, limits, drive)
            .unwrap_or_else(|| Err(format!("two runs took longer than {:?} each", limits.time))),
    }
}

/// One run; `None` if it took too long.
fn attempt(label: &str, bytes: &[u8], limits: &Limits, drive: Drive) -> Option<Result<Verdict, String>> {
    let (send, receive) = sync_channel(1);
    let owned = bytes.to_vec();
    let cap = bytes.len().saturating_add(limits.memory);
    // The name stands in what the runtime says when a stack overflows, which ends the process.
    let builder = std::thread::Builder::new().name(label.to_owned()).stack_size(limits.stack);
    let spawned = builder.spawn(move || {
        let (result, peak) = measured(cap, || catch_unwind(AssertUnwindSafe(|| drive(&owned))));
        let _ = send.send((result, peak));
    });
    if let Err(e) = spawned {
        return Some(Err(format!("no thread could be started: {e}")));
    }
    match receive.recv_timeout(limits.time) {
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(Err("the thread ended without a result".to_owned())),
        Ok((Err(panic), _)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            Some(Err(format!("panicked: {text}")))
        }
        Ok((Ok(verdict), peak)) => Some(if peak > cap {
            Err(format!("{peak} bytes were allocated for a file of {}", bytes.len()))
        } else {
            match &verdict {
                // A message goes to a terminal.
                Err(e) if e.is_empty() || e.len() > 2000 || e.contains(|c: char| c.is_control() && c != '\n') => {
                    Err(format!("the message has {} bytes: {:?}", e.len(), e.chars().take(200).collect::<String>()))
                }
                _ => Ok(verdict),
            }
        }),
    }
}

struct Run<'a> {
    test: &'a str,
    limits: Limits,
    drive: Drive,
    tally: Tally,
    wrong: Vec<String>,
}

impl Run<'_> {
    fn one(&mut self, label: &str, what: &str, bytes: &[u8]) -> Option<Verdict> {
        let result = check(&format!("{} {label}", self.test), bytes, &self.limits, self.drive);
        match &result {
            Ok(Ok(())) => self.tally.accepted += 1,
            Ok(Err(_)) => self.tally.refused += 1,
            Err(e) => {
                self.wrong.push(format!("{} {label} ({what}): {e}", self.test));
                if self.wrong.len() >= 8 {
                    self.end();
                }
            }
        }
        result.ok()
    }

    fn end(&self) {
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

fn start<'a>(test: &'a str, seeds: &[Seed], limits: Limits, drive: Drive) -> Run<'a> {
    assert!(is_installed(), "{test}: the test binary does not install the counting allocator");
    let mut run = Run { test, limits, drive, tally: Tally::default(), wrong: Vec::new() };
    for seed in seeds {
        let verdict = run.one("seed", &seed.name, &seed.bytes);
        if let Some(Err(e)) = verdict {
            run.wrong.push(format!("{test}: the seed `{}` is refused: {e}", seed.name));
        }
    }
    run.end();
    run.tally = Tally::default();
    if let Some(folder) = std::env::var_os(SEED_DIR) {
        let folder = std::path::Path::new(&folder).join(test);
        std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for seed in seeds {
            let path = folder.join(seed.name.replace([' ', '/'], "_"));
            std::fs::write(&path, &seed.bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        }
    }
    run
}

/// Runs `drive` on the seeds, which must be accepted, and on [`mutant_count`] mutants of them.
///
/// # Panics
/// If a mutant panics, hangs or goes past the default [`Limits`]; the message has its number.
#[track_caller]
pub fn mutants(test: &str, seeds: Vec<Seed>, drive: Drive) -> Tally {
    mutants_within(test, seeds, Limits::default(), drive)
}

/// [`mutants`] with other limits.
///
/// # Panics
/// As [`mutants`].
#[track_caller]
pub fn mutants_within(test: &str, seeds: Vec<Seed>, limits: Limits, drive: Drive) -> Tally {
    let one_in = limits.one_in.max(1);
    let mut run = start(test, &seeds, limits, drive);
    let mutator = Mutator::new(seeds);
    let asked = std::env::var("PTERON_MUTANT").ok().and_then(|v| v.parse::<u64>().ok());
    let numbers = asked.map_or(0..mutant_count() / one_in, |n| n..n + 1);
    for number in numbers {
        let mutant = mutator.mutant(number);
        run.one(&format!("mutant {number}"), &mutant.what, &mutant.bytes);
    }
    run.end();
    run.tally
}

/// Runs `drive` on every proper prefix of the seed's header; each must be refused unless `may_pass` says otherwise of its
/// length.
///
/// # Panics
/// If a prefix panics, hangs, goes past the limits, or is accepted.
#[track_caller]
pub fn truncations(test: &str, seed: &Seed, may_pass: impl Fn(usize) -> bool, drive: Drive) -> Tally {
    let mut run = start(test, std::slice::from_ref(seed), Limits::default(), drive);
    for len in 0..seed.header.min(seed.bytes.len().saturating_sub(1)) {
        let verdict = run.one(&format!("cut to {len} bytes"), &seed.name, &seed.bytes[..len]);
        if verdict == Some(Ok(())) && !may_pass(len) {
            run.wrong.push(format!("{test}: `{}` cut to {len} bytes is accepted", seed.name));
        }
    }
    run.end();
    run.tally
}

/// Runs `drive` with every single bit of the seed's header turned.
///
/// # Panics
/// If one panics, hangs or goes past the limits.
#[track_caller]
pub fn bit_flips(test: &str, seed: &Seed, drive: Drive) -> Tally {
    let mut run = start(test, std::slice::from_ref(seed), Limits::default(), drive);
    for bit in 0..seed.header * 8 {
        let mut bytes = seed.bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        run.one(&format!("bit {bit}"), &seed.name, &bytes);
    }
    run.end();
    run.tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: super::super::Counting = super::super::Counting;

    fn limits() -> Limits {
        Limits { time: Duration::from_millis(200), memory: 1 << 20, ..Limits::default() }
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let told = |drive: Drive| check("t", b"abc", &limits(), drive);
        assert_eq!(told(|_| Ok(())), Ok(Ok(())));
        assert_eq!(told(|b| Err(format!("{} bytes", b.len()))), Ok(Err("3 bytes".to_owned())));
        assert!(told(|_| panic!("broken {}", 1)).unwrap_err().contains("panicked: broken 1"));
        assert!(told(|_| Err(String::new())).unwrap_err().contains("0 bytes"));
        let much = told(|_| {
            drop(std::hint::black_box(vec![1u8; 3 << 20]));
            Ok(())
        });
        assert!(much.unwrap_err().contains("3145728 bytes"));
        let slow = told(|_| {
            std::thread::sleep(Duration::from_millis(600));
            Ok(())
        });
        assert!(slow.unwrap_err().contains("longer"));
    }
}
