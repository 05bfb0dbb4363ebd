//! SECURITY.md against the code: its table of limits, and the tests that it names.

use std::fs;

use pteron_testkit::workspace_root;

/// The files whose public constants are limits on what others made.
const SOURCES: [&str; 7] = [
    "crates/pteron-pte/src/limits.rs",
    "crates/pteron-checkpoint/src/limits.rs",
    "crates/pteron-models/src/limits.rs",
    "crates/pteron-llm/src/tokenizer/validate.rs",
    "crates/pteron-llm/src/chat/mod.rs",
    "crates/pteron-ir/src/parse/mod.rs",
    "crates/pteron-exec/src/session.rs",
];

fn read(path: &str) -> String {
    let path = workspace_root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Rows of the numeric constants: file, name, value, and the first sentence of the documentation.
fn table() -> String {
    let mut out = String::from("| constant | value | what it limits |\n|---|---|---|\n");
    for source in SOURCES {
        let text = read(source);
        let mut doc = String::new();
        for line in text.lines().map(str::trim) {
            if let Some(d) = line.strip_prefix("///") {
                doc.push_str(d);
                continue;
            }
            if let Some(rest) = line.strip_prefix("pub const ")
                && let Some((name, rest)) = rest.split_once(':')
                && let Some((kind, value)) = rest.split_once('=')
                && ["u32", "u64", "usize"].contains(&kind.trim())
            {
                let sentence = doc.trim().split(". ").next().unwrap_or_default().trim_end_matches('.');
                let sentence = sentence.replace(['[', ']'], "").replace('|', "\\|");
                let crate_name = source.split('/').nth(1).unwrap_or_default();
                let value = value.trim().trim_end_matches(';');
                out.push_str(&format!("| `{crate_name}`: `{name}` | `{value}` | {sentence} |\n"));
            }
            doc.clear();
        }
    }
    out
}

const BEGIN: &str = "<!-- limits: written by `BLESS=1 cargo test -p pteron-testkit --test security` -->\n";
const END: &str = "<!-- end of limits -->";

#[test]
fn the_table_of_limits_is_that_of_the_code() {
    let text = read("SECURITY.md");
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (found, after) = rest.split_once(END).unwrap();
    let expected = table();
    assert!(expected.lines().count() > 40, "{expected}");
    if std::env::var_os("BLESS").is_some() {
        fs::write(workspace_root().join("SECURITY.md"), format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert!(found == expected, "SECURITY.md has other limits than the code; BLESS=1 writes them again");
}

#[test]
fn the_tests_that_it_names_are_there() {
    let text = read("SECURITY.md");
    let mut named = 0;
    for part in text.split('`').filter(|p| p.starts_with("crates/")) {
        let (path, test) = part.split_once("::").unwrap_or((part, ""));
        let code = read(path);
        assert!(test.is_empty() || code.contains(&format!("fn {test}()")), "{part}");
        named += 1;
    }
    assert!(named > 15, "{named} tests are named");
}
