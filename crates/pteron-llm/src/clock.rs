//! The time, passed in so that a run can be replayed.

use std::time::{SystemTime, UNIX_EPOCH};

/// A wall clock.
///
/// ExecuTorch's statistics are wall-clock milliseconds since the Unix epoch; microseconds are kept underneath so that
/// sums of many short intervals (sampling) are not all zero.
pub trait Clock {
    /// Microseconds since the Unix epoch.
    fn now_us(&self) -> i64;

    /// Milliseconds since the Unix epoch, rounded down.
    fn now_ms(&self) -> i64 {
        self.now_us().div_euclid(1000)
    }
}

impl<C: Clock + ?Sized> Clock for &C {
    fn now_us(&self) -> i64 {
        (**self).now_us()
    }
}

impl<C: Clock + ?Sized> Clock for Box<C> {
    fn now_us(&self) -> i64 {
        (**self).now_us()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_micros()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
        }
    }
}
