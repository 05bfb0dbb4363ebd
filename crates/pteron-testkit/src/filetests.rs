//! Text files at the graph's level: the walk over a crate's `filetests/`.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

/// Writes a file's new text, by its name.
pub type Bless<'a> = &'a mut dyn FnMut(&str, &str);

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "pir") {
            out.push(path);
        }
    }
}

/// Gives every `.pir` under `filetests/` of the crate whose `CARGO_MANIFEST_DIR` is `crate_root` to `run`, name and text, sorted by name;
/// `run` says how many it ran. With `BLESS=1` in the environment it gets what writes the outputs into the files.
///
/// # Panics
/// If a file is not as its commands say, or if fewer than `at_least` were run.
pub fn every<E: Display>(
    crate_root: &str,
    at_least: usize,
    run: impl FnOnce(&[(&str, &str)], Option<Bless<'_>>) -> Result<usize, E>,
) {
    let root = Path::new(crate_root).join("filetests");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let texts: Vec<(String, String)> = paths
        .iter()
        .map(|p| (p.strip_prefix(&root).unwrap().display().to_string(), fs::read_to_string(p).unwrap()))
        .collect();
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let mut write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    let write: Bless<'_> = &mut write;
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1").then_some(write);
    let count = run(&texts, bless).unwrap_or_else(|e| panic!("{e}"));
    assert!(count >= at_least, "only {count} files in {}", root.display());
}
