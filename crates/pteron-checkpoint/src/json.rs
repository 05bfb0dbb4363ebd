//! JSON files of limited size and depth.

use std::path::Path;

use serde_json::Value;

use crate::error::CheckpointError;
use crate::limits::MAX_JSON_DEPTH;

/// Parses the text of `path`, whose size the caller has limited.
pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Value, CheckpointError> {
    check_depth(path, text)?;
    serde_json::from_slice(text)
        .map_err(|e| CheckpointError::Json { path: path.to_owned(), reason: Reason(&e).to_string() })
}

/// `serde_json`'s message, whose text can quote the file, made safe to show.
pub(crate) struct Reason<'a>(pub(crate) &'a serde_json::Error);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (line, column) = (self.0.line(), self.0.column());
        let full = self.0.to_string();
        let place = format!(" at line {line} column {column}");
        let what = full.strip_suffix(&place).unwrap_or(&full);
        write!(f, "{} at line {line} column {column}", crate::error::Shown(what))
    }
}

/// Refuses text nested more deeply than [`MAX_JSON_DEPTH`], before a parser recurses into it.
pub(crate) fn check_depth(path: &Path, text: &[u8]) -> Result<(), CheckpointError> {
    let (mut depth, mut line, mut line_start) = (0usize, 1usize, 0usize);
    let (mut in_string, mut escaped) = (false, false);
    for (at, &byte) in text.iter().enumerate() {
        if byte == b'\n' {
            (line, line_start) = (line + 1, at + 1);
        }
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_JSON_DEPTH {
                    let column = at - line_start + 1;
                    return Err(CheckpointError::Json {
                        path: path.to_owned(),
                        reason: format!("nested more than {MAX_JSON_DEPTH} levels deep at line {line} column {column}"),
                    });
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// What a value is, for messages.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("the string `{}`", crate::error::Shown(s)),
        Value::Array(a) => format!("a list of {}", a.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_limited_and_strings_do_not_count() {
        let path = Path::new("config.json");
        let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(path, deep(MAX_JSON_DEPTH).as_bytes()).is_ok());
        let e = parse(path, format!("\n {}", deep(MAX_JSON_DEPTH + 1)).as_bytes()).unwrap_err().to_string();
        assert_eq!(e, "config.json: invalid JSON: nested more than 64 levels deep at line 2 column 66");
        let text = format!(r#"{{"a\"":"{}\\"}}"#, "[".repeat(500));
        assert!(parse(path, text.as_bytes()).is_ok());
        assert!(parse(path, "[".repeat(1 << 20).as_bytes()).is_err());
    }

    #[test]
    fn errors_have_line_and_column() {
        let e = parse(Path::new("config.json"), b"{\n  \"a\": x\n}").unwrap_err().to_string();
        assert!(e.starts_with("config.json: invalid JSON: ") && e.contains("line 2 column"), "{e}");
    }
}
