//! `cargo xtask codegen`: committed files that the program itself writes.

use std::fs;
use std::io::ErrorKind;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, output};

/// Whether generated files are written or only compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Write,
    Check,
}

/// Generated files, and the arguments of `pteron` that print them.
const GENERATED: &[(&str, &[&str])] =
    &[("docs/cli.md", &["help-markdown"]), ("docs/operators.md", &["operators", "--markdown"])];

const NOTICE: &str = "<!-- Written by `cargo xtask codegen`. Do not edit. -->\n\n";

/// Writes the generated files, or fails with the names of those that differ.
pub(crate) fn run(workspace: &Workspace, mode: Mode) -> Result<()> {
    let mut stale = Vec::new();
    for (path, args) in GENERATED {
        let wanted = text(workspace, args).with_context(|| format!("cannot generate {path}"))?;
        let file = workspace.root().join(path);
        let found = match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            other => Some(other.with_context(|| format!("cannot read {path}"))?),
        };
        if found.as_deref() == Some(wanted.as_str()) {
            println!("{path} is current");
            continue;
        }
        if mode == Mode::Check {
            stale.push(*path);
            continue;
        }
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make the folder of {path}"))?;
        }
        fs::write(&file, wanted).with_context(|| format!("cannot write {path}"))?;
        println!("{path} written");
    }
    if !stale.is_empty() {
        bail!("{} not current: run `cargo xtask codegen` and commit the result", stale.join(", "));
    }
    Ok(())
}

/// What `pteron ARGS` prints, under a notice.
fn text(workspace: &Workspace, args: &[&str]) -> Result<String> {
    let mut command = workspace.cargo(&["run", "--quiet", "--package", "pteron", "--"]);
    // Help is wrapped at the terminal's width: the same width everywhere.
    command.args(args).env("COLUMNS", "100").env("NO_COLOR", "1");
    let body = String::from_utf8(output(&mut command)?).context("the output is not UTF-8")?;
    if body.trim().is_empty() {
        bail!("`pteron {}` printed nothing", args.join(" "));
    }
    Ok(format!("{NOTICE}{}\n", body.trim_end()))
}
