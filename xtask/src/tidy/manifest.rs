//! The parts of a `Cargo.toml` that tidy looks at.

/// Dependencies of one package on others, and whether it takes the workspace's lints.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) name: String,
    /// `[dependencies]` and `[build-dependencies]`, for any target.
    pub(crate) dependencies: Vec<String>,
    pub(crate) dev_dependencies: Vec<String>,
    pub(crate) workspace_lints: bool,
}

/// Reads the line-oriented TOML that this workspace's manifests use; lines it does not know are passed over.
pub(crate) fn parse(content: &str) -> Manifest {
    let mut manifest = Manifest::default();
    let mut section = String::new();
    for line in content.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[').and_then(|l| l.split(']').next()) {
            section = header.trim().to_owned();
            // `[dependencies.name]` is an entry of its own.
            if let Some((table, name)) = section.clone().rsplit_once('.')
                && let Some(list) = list_of(&mut manifest, table)
            {
                list.push(name.trim_matches('"').to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        if section == "package" && key == "name" {
            manifest.name = value.trim_matches('"').to_owned();
        } else if (section == "lints" && key == "workspace") || key == "lints.workspace" {
            manifest.workspace_lints = value == "true";
        } else if let Some(list) = list_of(&mut manifest, &section) {
            let key = key.split('.').next().unwrap_or(key).trim_matches('"');
            let renamed = value.split_once("package").and_then(|(_, rest)| rest.split('"').nth(1));
            list.push(renamed.unwrap_or(key).to_owned());
        }
    }
    manifest
}

fn list_of<'a>(manifest: &'a mut Manifest, section: &str) -> Option<&'a mut Vec<String>> {
    match section.rsplit_once('.').map_or(section, |(_, last)| last) {
        "dependencies" | "build-dependencies" => Some(&mut manifest.dependencies),
        "dev-dependencies" => Some(&mut manifest.dev_dependencies),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_a_dependency() {
        let manifest = parse(
            r#"
[package]
name = "a"
version.workspace = true

[dependencies] # comment
b.workspace = true
c = "1"
d = { package = "real-d", version = "2" }

[dependencies.e]
version = "1"

[target.'cfg(unix)'.dependencies]
f = { version = "1" }

[dev-dependencies]
g.workspace = true

[lints]
workspace = true
"#,
        );
        assert_eq!(manifest.name, "a");
        assert_eq!(manifest.dependencies, ["b", "c", "real-d", "e", "f"]);
        assert_eq!(manifest.dev_dependencies, ["g"]);
        assert!(manifest.workspace_lints);
        assert!(!parse("[package]\nname = \"a\"\n").workspace_lints);
    }
}
