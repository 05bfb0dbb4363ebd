//! Shipped code makes files in the atomic-write room only, so that no destination is ever half written.

use super::mask::code_only;
use super::text::has_word;

/// Calls that make a file or put one in another's place.
const CALLS: &[&str] = &[
    "File::create",
    "File::create_new",
    "File::options",
    "OpenOptions::new",
    "fs::write",
    "fs::copy",
    "fs::rename",
    "fs::hard_link",
    "tempfile",
];

/// Where they may stand, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/pteron-checkpoint/src/atomic", "the room itself"),
    ("crates/pteron-testkit/", "a development dependency"),
    ("crates/pteron/src/bench/export.rs", "a copy in a temporary folder, to be timed"),
];

/// Checks a Rust file of the workspace; `content` is its text.
pub(crate) fn check(path: &str, content: &str, problems: &mut Vec<String>) {
    if !is_shipped(path) || ALLOWED.iter().any(|(start, _)| path.starts_with(start)) {
        return;
    }
    let code = code_only(content);
    for (number, line) in (1..).zip(code.lines()).take(shipped_lines(&code)) {
        if let Some(call) = CALLS.iter().find(|call| has_word(line, call)) {
            problems.push(format!(
                "{path}:{number}: `{call}`: files are made by pteron_checkpoint::atomic, whole or not at all"
            ));
        }
    }
}

/// Code of the crates that is not a test, a benchmark or an example.
fn is_shipped(path: &str) -> bool {
    let Some((_, inside)) = path.strip_prefix("crates/").and_then(|p| p.split_once('/')) else {
        return false;
    };
    let is_test = inside.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "test_support.rs"));
    inside.starts_with("src/") && !is_test
}

/// The number of lines before the module of unit tests, which stands last.
fn shipped_lines(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let is_tests = |pair: &[&str]| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod ") && pair[1].ends_with('{');
    lines.windows(2).position(is_tests).unwrap_or(lines.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, content: &str) -> Vec<String> {
        let mut found = Vec::new();
        check(path, content, &mut found);
        found
    }

    #[test]
    fn files_made_elsewhere_are_found() {
        for call in [
            "std::fs::write(p, b)?;",
            "let f = File::create(p)?;",
            "OpenOptions::new().append(true)",
            "fs::rename(a, b)",
        ] {
            let found = problems("crates/pteron-llm/src/cache.rs", &format!("fn f() {{\n    {call}\n}}\n"));
            assert_eq!(found.len(), 1, "{call}: {found:?}");
            assert!(found[0].starts_with("crates/pteron-llm/src/cache.rs:2: `"), "{found:?}");
        }
    }

    #[test]
    fn reading_and_names_that_only_look_alike_pass() {
        for call in [
            "File::open(p)?",
            "fs::read(p)?",
            "OpenOptions::default()",
            "File::created()",
            "// fs::write",
            "my_fs::writes()",
        ] {
            assert_eq!(problems("crates/pteron-llm/src/a.rs", &format!("{call};\n")), [""; 0], "{call}");
        }
    }

    #[test]
    fn tests_and_the_room_are_free() {
        let code = "fs::write(p, b);\n";
        for path in [
            "crates/pteron/tests/crash/main.rs",
            "crates/pteron-checkpoint/src/atomic.rs",
            "crates/pteron-checkpoint/src/atomic/disk.rs",
            "crates/pteron-checkpoint/src/gguf/tests.rs",
            "crates/pteron-program/examples/reemit.rs",
            "xtask/src/codegen.rs",
        ] {
            assert_eq!(problems(path, code), [""; 0], "{path}");
        }
        let unit = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    fs::write(p, b);\n}\n";
        assert_eq!(problems("crates/pteron-llm/src/a.rs", unit), [""; 0]);
        let helper = "#[cfg(test)]\nfn only_for_tests() {}\nfn f() { fs::write(p, b) }\n";
        assert_eq!(problems("crates/pteron-llm/src/a.rs", helper).len(), 1);
    }
}
