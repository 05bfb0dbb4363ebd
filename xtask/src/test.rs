//! `cargo xtask test`: all tests with doctests, what was skipped, and the sum.

use std::env;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::process::Stdio;

use anyhow::{Context, Result};

use crate::fetch;
use crate::summary::{Totals, skips};
use crate::workspace::Workspace;

/// A test that cannot run here appends one line `TEST: REASON` to the file that this variable names, and returns.
const SKIP_LOG: &str = "PTERON_SKIP_LOG";

/// Tests that write gigabytes run only when this variable is 1: plain `cargo test` stays quick.
const LARGE_TESTS: &str = "PTERON_LARGE_TESTS";

/// With this variable at 1 nothing is downloaded.
const NO_FETCH: &str = "PTERON_NO_FETCH";

/// Fetches what the checks on real models need (those tests count as skipped where that fails), then runs `cargo test --workspace --no-fail-fast` with `extra` arguments and sums what its binaries report.
pub(crate) fn run(workspace: &Workspace, extra: &[&str]) -> Result<Totals> {
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
    let skipped = skips(&text);
    totals.skip(skipped.len());
    if !skipped.is_empty() {
        println!("\n*** SKIPPED: {} tests could not run here", skipped.len());
        for line in &skipped {
            println!("***   {line}");
        }
    }
    // A binary that does not build or that crashes has no result line of its own.
    if !status.success() && totals.failed == 0 {
        totals.failed = 1;
        println!("\n*** a test binary did not build or did not finish: see above");
    }
    println!();
    Ok(totals)
}

/// Copies test output line by line and sums its result lines.
fn pass_through(mut from: impl BufRead, mut to: impl Write) -> Result<Totals> {
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
