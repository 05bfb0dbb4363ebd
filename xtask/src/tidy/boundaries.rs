//! The `clippy.toml` files that keep files, environment, clock and threads out of the core crates.
//!
//! Clippy reads the nearest `clippy.toml` above a package's manifest and no other: what is meant for all crates is
//! repeated in each file, between two marks, and compared here.

const BEGIN: &str = "# --- common part";
const END: &str = "# --- end of the common part";

/// Beginnings of the paths that a file must list as completely as `pteron-tensor`'s file does.
const NO_FILES: &[&str] = &["std::fs::", "std::path::", "std::process::", "std::io::"];
const NO_ENVIRONMENT: &[&str] = &["std::env::", "std::time::"];
const NO_THREADS: &[&str] = &["std::thread::"];

/// The crates with a file of their own. The first one's lists are the complete ones.
const CORE: &[(&str, &[&[&str]])] = &[
    ("pteron-tensor", &[NO_FILES, NO_ENVIRONMENT, NO_THREADS]),
    ("pteron-ir", &[NO_FILES, NO_ENVIRONMENT, NO_THREADS]),
    ("pteron-pte", &[NO_FILES, NO_ENVIRONMENT, NO_THREADS]),
    ("pteron-program", &[NO_FILES, NO_ENVIRONMENT, NO_THREADS]),
    ("pteron-models", &[NO_FILES, NO_ENVIRONMENT, NO_THREADS]),
    ("pteron-kernels", &[NO_FILES, NO_ENVIRONMENT]),
    ("pteron-exec", &[NO_FILES, NO_ENVIRONMENT]),
    ("pteron-llm", &[NO_FILES]),
];

/// Checks the files, which `read` gives by their path from the root (`None`: not there). `crates` are all crates' names.
pub(crate) fn check(read: &dyn Fn(&str) -> Option<String>, crates: &[String], problems: &mut Vec<String>) {
    let reference = read("clippy.toml").unwrap_or_default();
    let Some(common) = common_part(&reference) else {
        problems.push("clippy.toml: no common part between its two marks".to_owned());
        return;
    };
    let complete = read(&path_of(CORE[0].0)).unwrap_or_default();
    for (name, groups) in CORE {
        let path = path_of(name);
        let Some(content) = read(&path) else {
            problems.push(format!("{path}: not there: {name} must keep to its boundaries"));
            continue;
        };
        for group in groups.iter().copied().flatten() {
            let wanted = paths(&complete, group);
            if wanted.is_empty() || paths(&content, group) != wanted {
                problems.push(format!("{path}: its {group} paths are not those of {}", path_of(CORE[0].0)));
            }
        }
    }
    for name in crates {
        let path = path_of(name);
        let Some(content) = read(&path) else {
            continue;
        };
        if common_part(&content) != Some(common) {
            problems.push(format!("{path}: its common part is not that of the root's clippy.toml"));
        }
    }
}

fn path_of(name: &str) -> String {
    format!("crates/{name}/clippy.toml")
}

fn common_part(content: &str) -> Option<&str> {
    let start = content.find(BEGIN)?;
    let length = content[start..].find(END)?;
    Some(&content[start..start + length])
}

/// The paths in `content` that begin with `group`, in their order.
fn paths<'a>(content: &'a str, group: &str) -> Vec<&'a str> {
    let quoted = content.split("path = \"").skip(1).filter_map(|rest| rest.split('"').next());
    quoted.filter(|path| path.starts_with(group)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: &str = "# --- common part: x\nallow = true\n# --- end of the common part\n";

    fn methods(groups: &[&[&str]]) -> String {
        groups.iter().copied().flatten().map(|g| format!("{{ path = \"{g}x\", reason = \"r\" }},\n")).collect()
    }

    fn problems(change: impl Fn(&str, String) -> Option<String>) -> Vec<String> {
        let read = |path: &str| {
            let core = CORE.iter().find(|(name, _)| path == path_of(name));
            let body = core.map_or_else(String::new, |(_, groups)| methods(groups));
            change(path, format!("{COMMON}{body}"))
        };
        let names: Vec<String> = CORE.iter().map(|(name, _)| (*name).to_owned()).collect();
        let mut found = Vec::new();
        check(&read, &names, &mut found);
        found
    }

    #[test]
    fn complete_files_pass() {
        assert_eq!(problems(|_, content| Some(content)), [""; 0]);
    }

    #[test]
    fn a_missing_file_is_found() {
        let found = problems(|path, content| (path != "crates/pteron-exec/clippy.toml").then_some(content));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("not there"), "{found:?}");
    }

    #[test]
    fn a_shorter_list_is_found() {
        let found = problems(|path, content| {
            Some(if path.contains("pteron-ir") { content.replace("std::time::x", "std::net::x") } else { content })
        });
        assert_eq!(
            found,
            ["crates/pteron-ir/clippy.toml: its std::time:: paths are not those of crates/pteron-tensor/clippy.toml"]
        );
    }

    #[test]
    fn another_common_part_is_found() {
        let found = problems(|path, content| {
            Some(if path.contains("pteron-llm") { content.replace("allow = true", "allow = false") } else { content })
        });
        assert_eq!(found, ["crates/pteron-llm/clippy.toml: its common part is not that of the root's clippy.toml"]);
    }
}
