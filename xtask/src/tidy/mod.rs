//! `cargo xtask tidy`: rules that the compiler does not check. Each is a function from text to problems.

mod boundaries;
mod layers;
mod manifest;
mod mask;
mod text;
mod writes;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, output};

/// A larger file belongs into a download, not into the repository.
const MAX_FILE_BYTES: u64 = 3 << 20;

/// Runs all checks over the files that git tracks or would add; an error with the number of problems.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let root = workspace.root();
    let paths = files(workspace)?;
    let mut problems = Vec::new();
    for path in &paths {
        check_file(root, path, &mut problems)?;
    }
    check_crates(root, &mut problems)?;
    problems.sort();
    problems.dedup();
    for problem in &problems {
        println!("{problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} problems", problems.len());
    }
    println!("tidy: {} files", paths.len());
    Ok(())
}

/// Tracked files and those that git would add, relative to the root; sorted.
fn files(workspace: &Workspace) -> Result<Vec<String>> {
    let mut list = workspace.command("git");
    list.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = String::from_utf8(output(&mut list)?).context("a file's name is not UTF-8")?;
    let mut paths: Vec<String> = listed.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    // A tracked file that was deleted is still listed; a link's text is not ours to check.
    paths.retain(|p| fs::symlink_metadata(workspace.root().join(p)).is_ok_and(|m| m.is_file()));
    Ok(paths)
}

fn check_file(root: &Path, path: &str, problems: &mut Vec<String>) -> Result<()> {
    let bytes = fs::read(root.join(path)).with_context(|| format!("cannot read {path}"))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        problems.push(format!("{path}: {} bytes, the limit is {MAX_FILE_BYTES}", bytes.len()));
    }
    // Files with NUL or without UTF-8 are binary: weights, programs.
    let Ok(content) = str::from_utf8(&bytes) else {
        return Ok(());
    };
    if content.contains('\0') || path == "Cargo.lock" {
        return Ok(());
    }
    text::check(path, content, problems);
    if path.ends_with(".rs") {
        text::check_rust(path, content, problems);
        writes::check(path, content, problems);
    }
    Ok(())
}

fn check_crates(root: &Path, problems: &mut Vec<String>) -> Result<()> {
    let crates = root.join("crates");
    let mut names = Vec::new();
    for entry in fs::read_dir(&crates).context("cannot list crates/")? {
        let entry = entry.context("cannot list crates/")?;
        if entry.path().join("Cargo.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();

    let read = |path: &str| fs::read_to_string(root.join(path));
    let architecture = read("ARCHITECTURE.md").unwrap_or_else(|error| {
        problems.push(format!("ARCHITECTURE.md: cannot be read: {error}"));
        String::new()
    });
    for name in &names {
        if !text::names_crate(&architecture, name) {
            problems.push(format!("ARCHITECTURE.md: does not mention the crate {name}"));
        }
    }
    for path in names.iter().map(|name| format!("crates/{name}/Cargo.toml")).chain(["xtask/Cargo.toml".to_owned()]) {
        let content = read(&path).with_context(|| format!("cannot read {path}"))?;
        layers::check(&path, &manifest::parse(&content), problems);
    }
    boundaries::check(&|path| read(path).ok(), &names, problems);
    Ok(())
}
