//! `cargo xtask ci`: every check, in the order that fails fastest.

use std::time::Instant;

use anyhow::{Context, Result};

use crate::summary::Totals;
use crate::workspace::{Workspace, check};
use crate::{codegen, test, tidy};

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

/// Runs all steps, then the tests; the first step that fails is the error.
pub(crate) fn run(workspace: &Workspace) -> Result<Totals> {
    let mut passed = String::new();
    for (name, step) in STEPS {
        let seconds = timed(name, || step(workspace))?.1;
        passed.push_str(&format!(" {name} {seconds:.1} s,"));
    }
    let (totals, seconds) = timed("test", || test::run(workspace, &[]))?;
    println!("=== passed:{passed} then the tests took {seconds:.1} s");
    Ok(totals)
}

/// Announces a step, runs it, and says how long it took; an error names the step.
fn timed<T>(name: &str, step: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
    println!("=== {name}");
    let start = Instant::now();
    let result = step();
    let seconds = start.elapsed().as_secs_f64();
    let value = result.with_context(|| format!("step `{name}` failed after {seconds:.1} s, no later step ran"))?;
    println!("=== {name}: {seconds:.1} s");
    Ok((value, seconds))
}
