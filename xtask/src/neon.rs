//! `cargo xtask neon`: the kernels' tests built for AArch64 Linux and run there, on another processor by emulation.
//!
//! The emulated processor has every extension that kernels are written for (`-cpu max`: dot products, i8mm, bf16).

use std::env;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::summary::Totals;
use crate::test::pass_through;
use crate::workspace::{Workspace, check, output};

const TARGET: &str = "aarch64-unknown-linux-gnu";

/// The crates that have code for AArch64, or that run it.
pub(crate) const ALL: &[&str] = &["pteron-tensor", "pteron-kernels", "pteron-exec"];

/// The crate with the code for AArch64: what CI has the time for.
pub(crate) const KERNELS: &[&str] = &["pteron-kernels"];

/// The register tiles for NEON against the scalar kernel, and that this processor's sets are among those tested.
const TILES: &[&str] = &["--package", "pteron-kernels", "--test", "matmul", "--", "neon::", "instruction_sets"];

/// With this variable at 1 what is missing is installed first (Debian, as root).
const INSTALL: &str = "PTERON_NEON_INSTALL";

/// With this variable at 1 the tests are skipped.
const OFF: &str = "PTERON_NO_NEON";

/// What builds and runs tests for AArch64.
#[derive(Debug, PartialEq, Eq)]
struct Tools {
    /// The compiler, if it is not the toolchain's own.
    rustc: Option<PathBuf>,
    /// The linker, if it is not the machine's own.
    linker: Option<&'static str>,
    /// What runs the tests, if it is not the machine itself.
    runner: Option<String>,
}

/// Builds and runs the library tests of `crates` and the kernels' [`TILES`], or says what is missing.
pub(crate) fn run(workspace: &Workspace, crates: &[&str], install: bool) -> Result<Totals> {
    if install && find(workspace).is_err() {
        self::install()?;
    }
    let tools = find(workspace).map_err(|missing| anyhow::anyhow!("{}", missing.join("; ")))?;
    let start = Instant::now();
    let packages: Vec<&str> = crates.iter().flat_map(|&name| ["--package", name]).collect();
    let mut totals = cargo_test(workspace, &tools, &[&["--lib"], packages.as_slice()].concat())?;
    totals += cargo_test(workspace, &tools, TILES)?;
    println!("neon: {totals} on {TARGET}, {:.0} s", start.elapsed().as_secs_f64());
    Ok(totals)
}

/// One call of `cargo test` for the target, with these arguments.
fn cargo_test(workspace: &Workspace, tools: &Tools, args: &[&str]) -> Result<Totals> {
    // Another compiler than the host's would have everything built again by turns in the same folder.
    let mut command = workspace.cargo(&["test", "--no-fail-fast", "--target", TARGET, "--target-dir"]);
    command.arg(workspace.target_dir().join("neon")).args(args);
    if let Some(rustc) = &tools.rustc {
        command.env("RUSTC", rustc);
    }
    for (what, value) in [("LINKER", tools.linker), ("RUNNER", tools.runner.as_deref())] {
        if let Some(value) = value {
            command.env(variable(what), value);
        }
    }
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start `cargo test`")?;
    let stdout = child.stdout.take().context("`cargo test` has no output")?;
    let mut totals = pass_through(BufReader::new(stdout), io::stdout().lock())?;
    let status = child.wait().context("cannot wait for `cargo test`")?;
    if !status.success() && totals.failed == 0 {
        totals.failed = 1;
        println!("\n*** tests for {TARGET} did not build or did not finish: see above");
    }
    Ok(totals)
}

/// As [`run`] over the kernels, but what cannot be had counts as one skipped test, with the reason.
pub(crate) fn run_or_skip(workspace: &Workspace) -> (Totals, Option<String>) {
    let is_1 = |name| env::var_os(name).is_some_and(|v| v == "1");
    let skipped = |reason: String| (Totals { skipped: 1, ..Totals::default() }, Some(format!("neon: {reason}")));
    if is_1(OFF) {
        return skipped(format!("{OFF} is 1"));
    }
    match run(workspace, KERNELS, is_1(INSTALL)) {
        Ok(totals) => (totals, None),
        Err(error) => skipped(format!("{error:#}")),
    }
}

fn variable(what: &str) -> String {
    format!("CARGO_TARGET_{}_{what}", TARGET.to_uppercase().replace('-', "_"))
}

/// What is there, or all that is missing.
fn find(workspace: &Workspace) -> Result<Tools, Vec<String>> {
    let own_sysroot = sysroot(workspace.command("rustc"));
    let is_native = cfg!(all(target_arch = "aarch64", target_os = "linux"));
    choose(
        own_sysroot.as_deref().is_some_and(has_target),
        &|rustc| sysroot(Command::new(rustc)).as_deref().is_some_and(has_target),
        &|program| works(program),
        &|what| env::var_os(variable(what)).is_some(),
        is_native,
    )
}

/// Chooses among compilers, linkers and emulators by what `has_target` and `works` say of them, and by what is `set` in the
/// environment already.
fn choose(
    own_has_target: bool,
    has_target: &dyn Fn(&str) -> bool,
    works: &dyn Fn(&str) -> bool,
    set: &dyn Fn(&str) -> bool,
    is_native: bool,
) -> Result<Tools, Vec<String>> {
    /// A distribution's compiler, whose standard libraries come as packages.
    const DISTRIBUTION: &str = "/usr/bin/rustc";
    const LINKER: &str = "aarch64-linux-gnu-gcc";
    const EMULATORS: &[&str] = &["qemu-aarch64-static", "qemu-aarch64"];

    let mut missing = Vec::new();
    let rustc = match own_has_target {
        true => None,
        false if has_target(DISTRIBUTION) => Some(PathBuf::from(DISTRIBUTION)),
        false => {
            missing.push(format!("no compiler here has the standard library for {TARGET}"));
            None
        }
    };
    let linker = match is_native || set("LINKER") {
        true => None,
        false if works(LINKER) => Some(LINKER),
        false => {
            missing.push(format!("there is no {LINKER}"));
            None
        }
    };
    let runner = match is_native || set("RUNNER") {
        true => None,
        false => match EMULATORS.iter().find(|e| works(e)) {
            Some(emulator) => Some(format!("{emulator} -L /usr/aarch64-linux-gnu -cpu max")),
            None => {
                missing.push(format!("there is no {}", EMULATORS.join(" and no ")));
                None
            }
        },
    };
    if missing.is_empty() { Ok(Tools { rustc, linker, runner }) } else { Err(missing) }
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let text = output(rustc.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(String::from_utf8(text).ok()?.trim()))
}

fn has_target(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn works(program: &str) -> bool {
    let quiet = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

/// The packages of Debian 12 and later: a newer compiler than the distribution's default, its standard library for arm64
/// (unpacked beside the machine's own, because both cannot be installed), a linker, and the emulator.
const SCRIPT: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
dpkg --add-architecture arm64
apt-get update -qq
apt-get install -y -qq rustc-web qemu-user-static gcc-aarch64-linux-gnu libc6-dev-arm64-cross >/dev/null
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
library=$(apt-cache depends libstd-rust-web-dev:arm64 | sed -n 's/.*Depends: \(libstd-rust-web-1[^:]*\).*/\1:arm64/p' | head -n 1)
apt-get download -qq libstd-rust-web-dev:arm64 "$library"
for package in *_arm64.deb; do dpkg -x "$package" unpacked; done
cp -r unpacked/usr/lib/rustlib/aarch64-unknown-linux-gnu /usr/lib/rustlib/
"#;

fn install() -> Result<()> {
    if !works("apt-get") {
        bail!("what is missing can be installed on Debian only: there is no apt-get");
    }
    println!("installing a compiler, a linker and an emulator for {TARGET}");
    check(Command::new("sh").args(["-c", SCRIPT])).context("the tools for AArch64 could not be installed")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: &dyn Fn(&str) -> bool = &|_| false;
    const YES: &dyn Fn(&str) -> bool = &|_| true;

    #[test]
    fn all_that_is_missing_is_said() {
        let missing = choose(false, NO, NO, NO, false).expect_err("nothing is there");
        assert_eq!(missing.len(), 3, "{missing:?}");
        assert!(missing[1].contains("aarch64-linux-gnu-gcc") && missing[2].contains("qemu-aarch64"), "{missing:?}");
        assert_eq!(choose(true, NO, NO, NO, true), Ok(Tools { rustc: None, linker: None, runner: None }));
        assert_eq!(choose(true, NO, NO, YES, false), Ok(Tools { rustc: None, linker: None, runner: None }));
    }

    #[test]
    fn the_toolchain_is_preferred_to_the_distribution() {
        let tools = choose(true, YES, YES, NO, false).expect("all is there");
        assert_eq!((tools.rustc, tools.linker), (None, Some("aarch64-linux-gnu-gcc")));
        assert_eq!(tools.runner.as_deref(), Some("qemu-aarch64-static -L /usr/aarch64-linux-gnu -cpu max"));
        let other: &dyn Fn(&str) -> bool = &|program| program != "qemu-aarch64-static";
        let tools = choose(false, YES, other, NO, false).expect("all is there");
        assert_eq!(tools.rustc, Some(PathBuf::from("/usr/bin/rustc")));
        assert!(tools.runner.is_some_and(|r| r.starts_with("qemu-aarch64 ")));
    }

    #[test]
    fn variables_are_cargos() {
        assert_eq!(variable("LINKER"), "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER");
    }
}
