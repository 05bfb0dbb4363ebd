//! Which crate may depend on which: strictly downward.

use super::manifest::Manifest;

/// Each crate with the crates of this workspace that its shipped code may name. A crate stands below all that name it.
const LAYERS: &[(&str, &[&str])] = &[
    ("pteron-tensor", &[]),
    ("pteron-pte", &[]),
    ("pteron-llm", &[]),
    ("pteron-ir", &["pteron-tensor"]),
    ("pteron-kernels", &["pteron-tensor"]),
    ("pteron-checkpoint", &["pteron-tensor"]),
    ("pteron-testkit", &["pteron-tensor", "pteron-ir"]),
    ("pteron-exec", &["pteron-tensor", "pteron-ir", "pteron-kernels"]),
    ("pteron-quant", &["pteron-tensor", "pteron-ir", "pteron-kernels", "pteron-exec"]),
    ("pteron-models", &["pteron-tensor", "pteron-ir", "pteron-checkpoint"]),
    ("pteron-program", &["pteron-tensor", "pteron-ir", "pteron-pte"]),
    ("pteron-xnnpack", &["pteron-tensor", "pteron-ir", "pteron-exec", "pteron-pte"]),
    ("pteron-qnn", &["pteron-tensor", "pteron-ir", "pteron-kernels", "pteron-exec", "pteron-quant", "pteron-pte"]),
    ("pteron-eval", &["pteron-tensor", "pteron-ir", "pteron-kernels", "pteron-exec"]),
    ("pteron-train", &["pteron-tensor", "pteron-ir", "pteron-kernels", "pteron-exec", "pteron-quant"]),
    (
        "pteron",
        &[
            "pteron-tensor",
            "pteron-ir",
            "pteron-kernels",
            "pteron-exec",
            "pteron-quant",
            "pteron-checkpoint",
            "pteron-models",
            "pteron-pte",
            "pteron-program",
            "pteron-xnnpack",
            "pteron-qnn",
            "pteron-llm",
            "pteron-eval",
            "pteron-train",
        ],
    ),
    ("xtask", &[]),
];

fn below(name: &str) -> Option<&'static [&'static str]> {
    LAYERS.iter().find(|(crate_name, _)| *crate_name == name).map(|(_, below)| *below)
}

/// Whether `from` is `to` or depends on it, directly or not.
fn reaches(from: &str, to: &str) -> bool {
    from == to || below(from).unwrap_or_default().iter().any(|next| reaches(next, to))
}

/// Checks one manifest against the table, and that it takes the workspace's lints.
///
/// A test may use any crate that does not depend on the tested one: a cycle would build the tested crate twice, with
/// types that do not match.
pub(crate) fn check(path: &str, manifest: &Manifest, problems: &mut Vec<String>) {
    let name = manifest.name.as_str();
    if !manifest.workspace_lints {
        problems.push(format!("{path}: `[lints] workspace = true` is missing"));
    }
    let Some(allowed) = below(name) else {
        problems.push(format!("{path}: the crate {name} is not in the table of xtask/src/tidy/layers.rs"));
        return;
    };
    for dependency in manifest.dependencies.iter().filter(|d| is_ours(d)) {
        if !allowed.contains(&dependency.as_str()) {
            problems
                .push(format!("{path}: {name} must not depend on {dependency} (it may on: {})", allowed.join(", ")));
        }
    }
    for dependency in manifest.dev_dependencies.iter().filter(|d| is_ours(d)) {
        if reaches(dependency, name) {
            problems.push(format!("{path}: tests of {name} must not use {dependency}, which depends on {name}"));
        }
    }
}

fn is_ours(dependency: &str) -> bool {
    dependency == "pteron" || dependency.starts_with("pteron-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(name: &str, dependencies: &[&str], dev_dependencies: &[&str]) -> Vec<String> {
        let owned = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
        let manifest = Manifest {
            name: name.to_owned(),
            dependencies: owned(dependencies),
            dev_dependencies: owned(dev_dependencies),
            workspace_lints: true,
        };
        let mut found = Vec::new();
        check("Cargo.toml", &manifest, &mut found);
        found
    }

    #[test]
    fn the_table_goes_down_and_only_names_itself() {
        for (at, (name, below)) in LAYERS.iter().enumerate() {
            for lower in *below {
                let place = LAYERS.iter().position(|(other, _)| other == lower);
                assert!(place.is_some_and(|p| p < at), "{name} -> {lower}");
            }
        }
    }

    #[test]
    fn upward_arrows_are_found() {
        assert_eq!(problems("pteron-ir", &["pteron-tensor", "serde"], &["proptest"]), [""; 0]);
        assert_eq!(problems("pteron-kernels", &["pteron-ir"], &[]).len(), 1);
        assert_eq!(problems("pteron-program", &["pteron-exec"], &[]).len(), 1);
        assert_eq!(problems("pteron-new", &[], &[]).len(), 1);
    }

    #[test]
    fn tests_may_look_sideways_but_not_up() {
        assert_eq!(problems("pteron-program", &[], &["pteron-exec", "pteron-testkit"]), [""; 0]);
        assert_eq!(problems("pteron-ir", &[], &["pteron-testkit"]).len(), 1);
        assert_eq!(problems("pteron-tensor", &[], &["pteron"]).len(), 1);
    }

    #[test]
    fn lints_are_required() {
        let mut found = Vec::new();
        check("Cargo.toml", &Manifest { name: "xtask".to_owned(), ..Manifest::default() }, &mut found);
        assert_eq!(found, ["Cargo.toml: `[lints] workspace = true` is missing"]);
    }
}
