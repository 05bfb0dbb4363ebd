//! Rules for the lines of a file.

use super::mask::code_only;

/// A longer Rust file is two files.
const MAX_RUST_LINES: usize = 800;

/// Beginnings of paths that exist on one machine only. Split, so that this file passes its own rule.
const MACHINE_PATHS: &[&str] = &[
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/wo", "rk/"),
    concat!("/tm", "p/"),
    concat!("/Us", "ers/"),
    concat!(":\\Us", "ers\\"),
    concat!(":\\\\Us", "ers\\\\"),
];

/// What must not stand in code, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("todo!", "no stub is merged"),
    ("unimplemented!", "no stub is merged"),
    ("dbg!", "a debugging leftover"),
    ("#[ignore", "a test that cannot run says so in PTERON_SKIP_LOG"),
];

/// The folders whose code may say `unsafe`: SIMD kernels, the memory map, memory locking and signals, the binding of Qualcomm's
/// libraries; in tests an allocator that counts.
const UNSAFE_CODE: &[&str] = &[
    "crates/pteron-kernels/",
    "crates/pteron-checkpoint/",
    "crates/pteron/",
    "crates/pteron-qnn/",
    "crates/pteron-testkit/src/hostile/alloc.rs",
];

/// Rules for every text file: no absolute paths of a machine, no white space at line ends, a line break at the end.
pub(crate) fn check(path: &str, content: &str, problems: &mut Vec<String>) {
    for (number, line) in (1..).zip(content.split('\n')) {
        for found in MACHINE_PATHS.iter().filter(|p| has_machine_path(line, p)) {
            problems.push(format!("{path}:{number}: an absolute path of one machine: {found}"));
        }
        if line.ends_with([' ', '\t', '\r']) {
            problems.push(format!("{path}:{number}: white space at the end of the line"));
        }
    }
    let by_hand = [".rs", ".toml", ".md", ".py", ".sh"].iter().any(|ending| path.ends_with(ending));
    if by_hand && !content.is_empty() && !content.ends_with('\n') {
        problems.push(format!("{path}: no line break at the end of the file"));
    }
}

/// Rules for Rust source: length, forbidden words, unsafe code, code in comments.
pub(crate) fn check_rust(path: &str, content: &str, problems: &mut Vec<String>) {
    let lines = content.lines().count();
    if lines > MAX_RUST_LINES {
        problems.push(format!("{path}: {lines} lines, the limit is {MAX_RUST_LINES}: make it two files"));
    }
    let may_be_unsafe = UNSAFE_CODE.iter().any(|folder| path.starts_with(folder));
    for (number, line) in (1..).zip(code_only(content).lines()) {
        for (word, why) in FORBIDDEN.iter().filter(|(word, _)| has_word(line, word)) {
            problems.push(format!("{path}:{number}: `{word}`: {why}"));
        }
        if !may_be_unsafe && has_word(line, "unsafe") {
            problems.push(format!("{path}:{number}: `unsafe` outside of {}", UNSAFE_CODE.join(", ")));
        }
    }
    for (number, line) in (1..).zip(content.lines()) {
        if is_commented_code(line) {
            problems.push(format!("{path}:{number}: code in a comment: delete it, git remembers"));
        }
    }
}

/// Whether `text` mentions the crate `name` itself, not only a crate whose name begins or ends with it.
pub(crate) fn names_crate(text: &str, name: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(in_name) && !after.is_some_and(in_name)
    })
}

/// Whether the path beginning `start` stands in `line` as the beginning of a path: `/x/y`, but not `a/x/y`.
fn has_machine_path(line: &str, start: &str) -> bool {
    line.match_indices(start).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + start.len()..].chars().next();
        let drive = start.starts_with(':');
        let begins = drive || !before.is_some_and(|c| c.is_alphanumeric() || "_.-/}~*$".contains(c));
        begins && after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// Whether `word` stands in `line` by itself: no name runs into it, nor out of it if it ends like one.
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let rest = &line[at + word.len()..];
        let runs_in = line[..at].ends_with(in_name);
        let runs_out = word.ends_with(in_name) && rest.starts_with(in_name);
        !(runs_in || runs_out)
    })
}

/// A line comment that begins like an item or a statement and ends like one.
fn is_commented_code(line: &str) -> bool {
    const STARTS: &[&str] = &["let ", "pub ", "use ", "mod ", "fn ", "impl ", "#[", "println!", "assert"];
    let Some(body) = line.trim().strip_prefix("// ") else {
        return false;
    };
    STARTS.iter().any(|start| body.starts_with(start)) && body.ends_with([';', '{', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(check: impl Fn(&mut Vec<String>)) -> Vec<String> {
        let mut found = Vec::new();
        check(&mut found);
        found
    }

    #[test]
    fn paths_of_machines_are_found() {
        let bad = [
            concat!("open(\"/ho", "me/ann/x\")"),
            concat!("see /tm", "p/x"),
            concat!("--dir=/wo", "rk/a"),
            concat!("\"C:\\\\Us", "ers\\\\ann\""),
        ];
        for line in bad {
            let found = problems(|p| check("a.rs", &format!("fn f() {{}}\n{line}\n"), p));
            assert_eq!(found.len(), 1, "{line}: {found:?}");
            assert!(found[0].starts_with("a.rs:2: "), "{found:?}");
        }
    }

    #[test]
    fn other_paths_pass() {
        for line in ["crates/work/x", "$HOME/tmp/x", "a/home/b", "/usr/bin/env", "`/tmp/`", "../root/x", "\"a:\\n\""] {
            assert_eq!(problems(|p| check("a.rs", &format!("{line}\n"), p)), [""; 0], "{line}");
        }
    }

    #[test]
    fn line_ends() {
        assert_eq!(problems(|p| check("a.md", "a \nb\t\r\nc", p)).len(), 3);
        assert_eq!(problems(|p| check("a.json", "{}", p)), [""; 0]);
    }

    #[test]
    fn forbidden_words_are_found_in_code_only() {
        let code = "fn f() {\n    todo!()\n}\n// todo! is a word here\nlet s = \"dbg!(x)\";\n#[ignore = \"slow\"]\n";
        let found = problems(|p| check_rust("a.rs", code, p));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("a.rs:2: `todo!`"), "{found:?}");
        assert!(found[1].starts_with("a.rs:6: `#[ignore`"), "{found:?}");
        assert_eq!(problems(|p| check_rust("a.rs", "my_todo!(); #[must_use]\n", p)), [""; 0]);
    }

    #[test]
    fn unsafe_code_has_its_places() {
        let code = "unsafe { x() }\n";
        assert_eq!(problems(|p| check_rust("crates/pteron-ir/src/a.rs", code, p)).len(), 1);
        assert_eq!(problems(|p| check_rust("crates/pteron-kernels/src/a.rs", code, p)), [""; 0]);
        assert_eq!(problems(|p| check_rust("crates/pteron-ir/src/a.rs", "#![deny(unsafe_code)]\n", p)), [""; 0]);
    }

    #[test]
    fn long_files_are_found() {
        assert_eq!(problems(|p| check_rust("a.rs", &"x();\n".repeat(MAX_RUST_LINES), p)), [""; 0]);
        assert_eq!(problems(|p| check_rust("a.rs", &"x();\n".repeat(MAX_RUST_LINES + 1), p)).len(), 1);
    }

    #[test]
    fn code_in_comments_is_found() {
        assert!(is_commented_code("    // let x = 1;"));
        assert!(is_commented_code("// pub mod memory;"));
        assert!(!is_commented_code("// Let the caller choose;"));
        assert!(!is_commented_code("/// let x = 1;"));
        assert!(!is_commented_code("// use the second one when the first is taken"));
    }

    #[test]
    fn a_crate_is_named_by_its_whole_name() {
        assert!(names_crate("`pteron-ir` and more", "pteron-ir"));
        assert!(!names_crate("`pteron-ir`", "pteron"));
        assert!(!names_crate("pteron-irx", "pteron-ir"));
        assert!(names_crate("| `pteron` | the front door |", "pteron"));
    }
}
