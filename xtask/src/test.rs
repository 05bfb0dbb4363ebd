//! `cargo xtask test`: all tests with doctests, what was skipped, and the sum.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::summary::{Totals, print_skipped, skips};
use crate::workspace::Workspace;
use crate::{fetch, neon};

/// A test that cannot run here appends one line `TEST: REASON` to the file that this variable names, and returns.
const SKIP_LOG: &str = "PTERON_SKIP_LOG";

/// Tests that write gigabytes run only when this variable is 1: plain `cargo test` stays quick.
const LARGE_TESTS: &str = "PTERON_LARGE_TESTS";

/// With this variable at 1 nothing is downloaded.
const NO_FETCH: &str = "PTERON_NO_FETCH";

/// Runs the tests here and, if all of them are wanted (there are no `extra` arguments), the kernels' tests for AArch64.
pub(crate) fn run(workspace: &Workspace, extra: &[&str]) -> Result<Totals> {
    let mut skipped = Vec::new();
    let mut totals = run_natively(workspace, extra, &mut skipped)?;
    if extra.is_empty() {
        let (more, reason) = neon::run_or_skip(workspace);
        totals += more;
        skipped.extend(reason);
    }
    print_skipped(&skipped);
    Ok(totals)
}

/// Fetches what the checks on real models need (those tests count as skipped where that fails), then runs
/// `cargo test --workspace --no-fail-fast` with `extra` arguments and sums what its binaries report. The lines of the tests
/// that could not run are added to `skipped`.
pub(crate) fn run_natively(workspace: &Workspace, extra: &[&str], skipped: &mut Vec<String>) -> Result<Totals> {
    let target = workspace.target_dir();
    fs::create_dir_all(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let log = target.join("test-skips.log");
    match fs::remove_file(&log) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", log.display()));
        }
        _ => {}
    }
    if env::var_os(NO_FETCH).is_some_and(|v| v == "1") {
        println!("{NO_FETCH} is 1: nothing is downloaded");
    } else if let Err(error) = fetch::models(workspace) {
        println!("*** real models cannot be had here, their tests are skipped: {error:#}");
    }
    if env::var_os(NO_FETCH).is_none_or(|v| v != "1")
        && let Err(error) = fetch::qnn(workspace)
    {
        println!("*** Qualcomm's libraries cannot be had here, their tests are skipped: {error:#}");
    }
    let mut command = workspace.cargo(&["test", "--workspace", "--no-fail-fast"]);
    command.args(extra).env(SKIP_LOG, &log).env(LARGE_TESTS, "1").stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start `cargo test`")?;
    let stdout = child.stdout.take().context("`cargo test` has no output")?;
    let mut totals = pass_through(BufReader::new(stdout), io::stdout().lock())?;
    let status = child.wait().context("cannot wait for `cargo test`")?;

    let text = match fs::read_to_string(&log) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", log.display()))?,
    };
    let lines = skips(&text);
    totals.skip(lines.len());
    skipped.extend(lines.into_iter().map(str::to_owned));
    // A binary that does not build or that crashes has no result line of its own.
    if !status.success() && totals.failed == 0 {
        totals.failed = 1;
        println!("\n*** a test binary did not build or did not finish: see above");
    }
    Ok(totals)
}

/// Copies test output line by line and sums its result lines.
pub(crate) fn pass_through(mut from: impl BufRead, mut to: impl Write) -> Result<Totals> {
    let mut totals = Totals::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = from.read_until(b'\n', &mut line).context("cannot read the tests' output")?;
        if length == 0 {
            return Ok(totals);
        }
        to.write_all(&line).context("cannot write the tests' output")?;
        if let Some(one) = Totals::from_line(&String::from_utf8_lossy(&line)) {
            totals += one;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_passes_through_unchanged() {
        let text = b"\xff not text\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\nlast, no newline";
        let mut copy = Vec::new();
        let totals = pass_through(text.as_slice(), &mut copy).expect("reading from memory");
        assert_eq!(copy, text);
        assert_eq!(totals, Totals { passed: 2, failed: 0, skipped: 0 });
    }
}
