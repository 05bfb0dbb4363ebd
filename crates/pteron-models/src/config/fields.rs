//! Typed access to the fields of a JSON object, with errors that name them.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::error::ModelError;

/// An object of a configuration file. `null` counts as absent.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a> {
    pub(crate) file: &'static str,
    /// The field that holds the object; empty for the file's own.
    prefix: &'static str,
    map: &'a Map<String, Value>,
}

/// What a value is, in a few words.
pub(crate) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => format!("\"{s}\""),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
    }
}

impl<'a> Fields<'a> {
    /// The fields of `value`.
    pub(crate) fn new(file: &'static str, value: &'a Value) -> Result<Fields<'a>, ModelError> {
        match value {
            Value::Object(map) => Ok(Fields { file, prefix: "", map }),
            other => Err(ModelError::Field {
                file,
                field: "(the whole file)".into(),
                found: describe(other),
                expected: "an object".into(),
            }),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|v| !v.is_null())
    }

    /// The object `name`.
    pub(crate) fn object(&self, name: &'static str) -> Result<Option<Fields<'a>>, ModelError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { file: self.file, prefix: name, map })),
            Some(other) => Err(self.wrong(name, other, "an object")),
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = (&'a str, &'a Value)> + use<'a> {
        self.map.iter().map(|(k, v)| (k.as_str(), v))
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }

    pub(crate) fn error(&self, name: &str, found: impl Into<String>, expected: impl Into<String>) -> ModelError {
        ModelError::Field { file: self.file, field: self.full(name), found: found.into(), expected: expected.into() }
    }

    pub(crate) fn wrong(&self, name: &str, found: &Value, expected: impl Into<String>) -> ModelError {
        self.error(name, describe(found), expected)
    }

    pub(crate) fn missing(&self, name: &str, expected: impl Into<String>) -> ModelError {
        self.error(name, "nothing", expected)
    }

    /// An integer in `range`.
    pub(crate) fn size(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| range.contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(name, value, integer(&range))),
        }
    }

    /// An integer in `range` that must be there.
    pub(crate) fn required_size(&self, name: &str, range: RangeInclusive<usize>) -> Result<usize, ModelError> {
        let expected = integer(&range);
        self.size(name, range)?.ok_or_else(|| self.missing(name, expected))
    }

    /// A number; a JSON number is always finite.
    pub(crate) fn number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().filter(|n| n.is_finite()).map(Some).ok_or_else(|| self.wrong(name, value, "a finite number"))
    }

    /// A number above zero.
    pub(crate) fn positive(&self, name: &str) -> Result<Option<f64>, ModelError> {
        match self.number(name)? {
            Some(n) if n <= 0.0 => Err(self.error(name, n.to_string(), "a number above 0")),
            other => Ok(other),
        }
    }

    /// A number above zero that must be there.
    pub(crate) fn required_positive(&self, name: &str) -> Result<f64, ModelError> {
        self.positive(name)?.ok_or_else(|| self.missing(name, "a number above 0"))
    }

    pub(crate) fn bool(&self, name: &str) -> Result<Option<bool>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(name, value, "true or false"))
    }

    pub(crate) fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.wrong(name, value, "a string"))
    }

    /// An integer, or a list of them.
    pub(crate) fn integers(&self, name: &str) -> Result<Vec<i64>, ModelError> {
        let Some(value) = self.get(name) else { return Ok(Vec::new()) };
        let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let one = |v: &Value| v.as_i64().ok_or_else(|| self.wrong(name, value, "an integer or a list of integers"));
        items.iter().map(one).collect()
    }
}

fn integer(range: &RangeInclusive<usize>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}
