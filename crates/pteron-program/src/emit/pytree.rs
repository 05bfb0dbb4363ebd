//! How inputs and outputs are nested, in the JSON of PyTorch's `pytree`.

const LEAF: &str = r#"{"type": null, "context": null, "children_spec": []}"#;

fn sequence(ty: &str, context: &str, n: usize) -> String {
    let children = vec![LEAF; n].join(", ");
    format!(r#"{{"type": "builtins.{ty}", "context": "{context}", "children_spec": [{children}]}}"#)
}

/// `n` positional arguments and no keyword arguments.
pub(super) fn inputs(n: usize) -> String {
    let (args, kwargs) = (sequence("tuple", "null", n), sequence("dict", "[]", 0));
    format!(r#"[1, {{"type": "builtins.tuple", "context": "null", "children_spec": [{args}, {kwargs}]}}]"#)
}

/// One result, or a tuple or list of several.
pub(super) fn outputs(n: usize, several: &str) -> String {
    if n == 1 { format!("[1, {LEAF}]") } else { format!("[1, {}]", sequence(several, "null", n)) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn as_the_exporter_writes_them() {
        assert_eq!(
            super::inputs(1),
            r#"[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}]}, {"type": "builtins.dict", "context": "[]", "children_spec": []}]}]"#
        );
        assert_eq!(super::outputs(1, "tuple"), r#"[1, {"type": null, "context": null, "children_spec": []}]"#);
        assert_eq!(
            super::outputs(2, "list"),
            r#"[1, {"type": "builtins.list", "context": "null", "children_spec": [{"type": null, "context": null, "children_spec": []}, {"type": null, "context": null, "children_spec": []}]}]"#
        );
    }
}
