//! Pteron's developer commands: one command equals CI.
//!
//! Only the standard library and `anyhow` are used, so that this crate builds in a second on a fresh clone.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its user")]

mod ci;
mod codegen;
mod fetch;
mod neon;
mod sha256;
mod summary;
mod test;
mod tidy;
mod workspace;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use summary::Totals;
use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci                   everything that must hold before a change is merged: fmt, clippy, boundaries,
                       tidy, docs, codegen --check, tests
  test [ARGS]          all tests of the workspace with doctests, those on real models too, which are fetched
                       first unless PTERON_NO_FETCH=1; ARGS go to `cargo test`
  neon [--install]     tests of the kernels and what runs them, built for AArch64 Linux and run under
                       emulation; with --install, or PTERON_NEON_INSTALL=1, a compiler, a linker and the
                       emulator are installed first where they are missing (Debian, as root); `test` and
                       `ci` run the kernels' part, unless PTERON_NO_NEON=1
  tidy                 rules that the compiler does not check
  codegen [--check]    write the generated files (docs/cli.md, docs/operators.md), or say which are stale
  fetch [--models]     download what the optional checks need, pinned by SHA-256, into target/fetch
                       (or $PTERON_FETCH_DIR)
  fetch --qnn          download Qualcomm's QNN libraries of three releases, pinned by SHA-256, for tests: by using
                       them you accept Qualcomm's licence, see docs/qnn.md
  fetch --oracle DIR   make a Python environment with ExecuTorch in DIR (about 7 GB)
";

/// Exit status for a command line that is not understood.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let workspace = Workspace::of_this_build();
    // These end with a closing line that sums the tests, whatever happens.
    let sum = match args.as_slice() {
        ["ci"] => Some(ci::run(&workspace)),
        ["neon"] => Some(neon::run(&workspace, neon::ALL, false)),
        ["neon", "--install"] => Some(neon::run(&workspace, neon::ALL, true)),
        ["test", rest @ ..] => Some(test::run(&workspace, rest)),
        _ => None,
    };
    if let Some(sum) = sum {
        return close(sum);
    }
    let result = match args.as_slice() {
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(())
        }
        ["tidy"] => tidy::run(&workspace),
        ["codegen"] => codegen::run(&workspace, codegen::Mode::Write),
        ["codegen", "--check"] => codegen::run(&workspace, codegen::Mode::Check),
        ["fetch"] | ["fetch", "--models"] => fetch::models(&workspace),
        ["fetch", "--qnn"] => fetch::qnn(&workspace),
        ["fetch", "--oracle", dir] => fetch::oracle(Path::new(dir)),
        [] => {
            eprint!("{USAGE}");
            return ExitCode::from(USAGE_ERROR);
        }
        unknown => {
            eprint!("error: not understood: {}\n\n{USAGE}", unknown.join(" "));
            return ExitCode::from(USAGE_ERROR);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the closing line `N passed, N failed, N skipped`, last of all; what stopped the tests counts as one failure.
fn close(sum: Result<Totals>) -> ExitCode {
    let totals = sum.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        Totals { failed: 1, ..Totals::default() }
    });
    println!("{totals}");
    if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
