//! `cargo xtask ci`: every check, in the order that fails fastest.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::summary::{Totals, print_skipped};
use crate::workspace::{Workspace, check};
use crate::{codegen, neon, test, tidy};

type Step = (&'static str, fn(&Workspace) -> Result<()>);

/// What runs before the tests.
const STEPS: &[Step] = &[
    ("fmt", |ws| check(&mut ws.cargo(&["fmt", "--all", "--check"]))),
    ("tidy", tidy::run),
    ("clippy", |ws| {
        let args = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        check(&mut ws.cargo(&args))
    }),
    // The crates' clippy.toml files name what a crate must not touch. Tests are exempt: they may read fixtures.
    ("boundaries", |ws| {
        let mut args = vec!["clippy", "--workspace", "--lib", "--bins", "--"];
        args.extend(["-D", "warnings", "-D", "clippy::disallowed_methods"]);
        check(&mut ws.cargo(&args))
    }),
    ("docs", |ws| {
        let args = ["doc", "--workspace", "--no-deps"];
        check(ws.cargo(&args).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("codegen", |ws| codegen::run(ws, codegen::Mode::Check)),
];

/// What a run of CI may take, as `.ci/run` holds it to.
const LIMIT: Duration = Duration::from_secs(39 * 60);

/// The step that needs no part of the others and may be left out begins only with this much time left.
const NEON_NEEDS: Duration = Duration::from_secs(12 * 60);

/// Runs all steps, then the tests; the first step that fails is the error. What each took is said last.
pub(crate) fn run(workspace: &Workspace) -> Result<Totals> {
    let mut times = Times { start: Instant::now(), steps: Vec::new() };
    let result = run_all(workspace, &mut times);
    println!("\n{}", times.table());
    result
}

fn run_all(workspace: &Workspace, times: &mut Times) -> Result<Totals> {
    for (name, step) in STEPS {
        times.step(name, || step(workspace))?;
    }
    let mut skipped = Vec::new();
    let mut totals = times.step("test", || test::run_natively(workspace, &[], &mut skipped))?;
    let left = LIMIT.saturating_sub(times.start.elapsed());
    let (more, reason) = if left < NEON_NEEDS {
        let reason = format!("neon: {} of the time are left, it may need {}", minutes(left), minutes(NEON_NEEDS));
        (Totals { skipped: 1, ..Totals::default() }, Some(reason))
    } else {
        times.step("neon", || Ok(neon::run_or_skip(workspace)))?
    };
    totals += more;
    skipped.extend(reason);
    print_skipped(&skipped);
    Ok(totals)
}

/// What each step took.
struct Times {
    start: Instant,
    steps: Vec<(&'static str, Duration)>,
}

impl Times {
    /// Announces a step, runs it, and notes how long it took; an error names the step.
    fn step<T>(&mut self, name: &'static str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("=== {name}");
        let start = Instant::now();
        let result = step();
        let took = start.elapsed();
        self.steps.push((name, took));
        println!("=== {name}: {}", minutes(took));
        result.with_context(|| format!("step `{name}` failed after {}, no later step ran", minutes(took)))
    }

    fn table(&self) -> String {
        let all = self.start.elapsed();
        let mut text = format!("=== {} of {} used", minutes(all), minutes(LIMIT));
        for (name, took) in &self.steps {
            let share = 100.0 * took.as_secs_f64() / all.as_secs_f64().max(f64::MIN_POSITIVE);
            text.push_str(&format!("\n  {name:<10} {:>9} {share:>3.0}%", minutes(*took)));
        }
        text
    }
}

/// `7:05 min`, or `12.3 s` below two minutes.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 120 {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_step_that_ran() {
        let mut times = Times { start: Instant::now(), steps: Vec::new() };
        times.step("one", || Ok(())).expect("it gives Ok");
        let error = times.step("two", || -> Result<()> { anyhow::bail!("no") }).expect_err("it fails");
        assert!(error.to_string().contains("step `two` failed"), "{error}");
        let table = times.table();
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(table.contains("of 39:00 min used") && table.contains("one") && table.contains("two"), "{table}");
    }

    #[test]
    fn times_read_well() {
        let read = |seconds| minutes(Duration::from_secs_f64(seconds));
        assert_eq!([read(0.04), read(119.96), read(120.0), read(425.9)], ["0.0 s", "120.0 s", "2:00 min", "7:05 min"]);
    }
}
