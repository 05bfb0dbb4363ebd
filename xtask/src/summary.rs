//! Counts of what the test binaries said.

use std::fmt;
use std::ops::AddAssign;

/// Sums over test binaries. The `Display` form is the closing line of `cargo xtask test` and of CI.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Totals {
    /// Reads one line of libtest's output; `None` unless it is a `test result:` line.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let (_verdict, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut totals = Self::default();
        for part in counts.split(';') {
            let Some((count, what)) = part.trim().split_once(' ') else {
                continue;
            };
            let field = match what {
                "passed" => &mut totals.passed,
                "failed" => &mut totals.failed,
                "ignored" => &mut totals.skipped,
                _ => continue,
            };
            *field = count.parse().ok()?;
        }
        Some(totals)
    }

    /// Moves `count` tests that returned early from passed to skipped.
    pub(crate) fn skip(&mut self, count: usize) {
        self.passed = self.passed.saturating_sub(count);
        self.skipped += count;
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// The distinct, sorted lines of a skip log: one `TEST: REASON` for each test that could not run here.
pub(crate) fn skips(log: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = log.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// Says loudly what could not run here, one `TEST: REASON` a line.
pub(crate) fn print_skipped(lines: &[String]) {
    if !lines.is_empty() {
        println!("\n*** SKIPPED: {} tests could not run here", lines.len());
        for line in lines {
            println!("***   {line}");
        }
    }
    println!();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_lines_are_summed() {
        let output = "\
running 3 tests
test a ... ok
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s
test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.20s

all doctests ran in 1.96s; merged doctests compilation took 1.84s
";
        let mut sum = Totals::default();
        for totals in output.lines().filter_map(Totals::from_line) {
            sum += totals;
        }
        assert_eq!(sum, Totals { passed: 13, failed: 2, skipped: 1 });
        assert_eq!(sum.to_string(), "13 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn other_lines_are_not_results() {
        for line in ["", "test result_lines ... ok", "running 3 tests", "test result: "] {
            assert_eq!(Totals::from_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_skipped_test_does_not_count_as_passed() {
        let mut totals = Totals { passed: 5, failed: 0, skipped: 1 };
        totals.skip(2);
        assert_eq!(totals, Totals { passed: 3, failed: 0, skipped: 3 });
    }

    #[test]
    fn the_skip_log_is_sorted_and_without_repeats() {
        assert_eq!(skips("b: no model\n\na: no oracle\nb: no model\n"), ["a: no oracle", "b: no model"]);
    }
}
