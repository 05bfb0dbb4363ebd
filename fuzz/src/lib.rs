//! What the targets share: one run of a driver under the same bound on memory as in the tests, and a panic hook that lets
//! panics through which the code under test catches itself.

pub use libfuzzer_sys;
use pteron_testkit::hostile::{Counting, measured};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a run may hold at a time above its input.
pub const MEMORY: usize = 64 << 20;

/// Runs `drive` once; aborts if it panics or holds more memory than it may.
pub fn run(bytes: &[u8], drive: fn(&[u8]) -> Result<(), String>) {
    let cap = bytes.len() + MEMORY;
    let (verdict, peak) = measured(cap, || drive(bytes));
    assert!(peak <= cap, "{peak} bytes were allocated for a file of {}", bytes.len());
    if let Err(message) = verdict {
        assert!(!message.is_empty() && message.len() <= 4000, "a message of {} bytes", message.len());
    }
}

/// A target that runs a driver.
#[macro_export]
macro_rules! target {
    ($drive:expr) => {
        // libFuzzer's hook ends the process at every panic. One that is not caught still does: it unwinds into libFuzzer's
        // own guard.
        $crate::libfuzzer_sys::fuzz_target!(
            init: { let told = std::panic::take_hook(); drop(told); std::panic::set_hook(Box::new(|info| eprintln!("{info}"))); },
            |bytes: &[u8]| $crate::run(bytes, $drive)
        );
    };
}
