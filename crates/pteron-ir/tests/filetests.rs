//! Runs every file of `filetests/`: see `pteron_ir::filetest`.

use std::fs;
use std::path::{Path, PathBuf};

use pteron_ir::filetest::Registry;

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

#[test]
fn every_file_is_as_its_commands_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let texts: Vec<(String, String)> = paths
        .iter()
        .map(|p| (p.strip_prefix(&root).unwrap().display().to_string(), fs::read_to_string(p).unwrap()))
        .collect();
    let mut write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    let write: &mut dyn FnMut(&str, &str) = &mut write;
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1").then_some(write);
    let texts = texts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let count = Registry::default().run(texts, bless).unwrap_or_else(|e| panic!("{e}"));
    assert!(count >= 60, "only {count} files in {}", root.display());
}
