//! The key-value pairs of a GGUF file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::CheckpointError;

/// A value of a GGUF file's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An integer of any width and sign.
    Int(i128),
    /// A 32-bit float.
    F32(f32),
    /// A 64-bit float.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    Text(String),
    /// A list whose items have one type.
    Array(GgufArray),
}

/// A list in a GGUF file's metadata, in the width that the file has.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are the types of the items")]
pub enum GgufArray {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    Text(Vec<String>),
    Array(Vec<GgufArray>),
}

impl GgufArray {
    /// Number of items.
    pub fn len(&self) -> usize {
        match self {
            GgufArray::U8(v) => v.len(),
            GgufArray::I8(v) => v.len(),
            GgufArray::U16(v) => v.len(),
            GgufArray::I16(v) => v.len(),
            GgufArray::U32(v) => v.len(),
            GgufArray::I32(v) => v.len(),
            GgufArray::U64(v) => v.len(),
            GgufArray::I64(v) => v.len(),
            GgufArray::F32(v) => v.len(),
            GgufArray::F64(v) => v.len(),
            GgufArray::Bool(v) => v.len(),
            GgufArray::Text(v) => v.len(),
            GgufArray::Array(v) => v.len(),
        }
    }

    /// True if there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The items as integers; `None` if they are something else.
    pub fn integers(&self) -> Option<Vec<i64>> {
        Some(match self {
            GgufArray::U8(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::I8(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::U16(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::I16(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::U32(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::I32(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::U64(v) => v.iter().map(|&x| i64::try_from(x)).collect::<Result<_, _>>().ok()?,
            GgufArray::I64(v) => v.clone(),
            GgufArray::F32(_) | GgufArray::F64(_) | GgufArray::Bool(_) | GgufArray::Text(_) | GgufArray::Array(_) => {
                return None;
            }
        })
    }
}

impl GgufValue {
    /// What the value is, in a few words for messages.
    pub fn describe(&self) -> String {
        match self {
            GgufValue::Int(n) => n.to_string(),
            GgufValue::F32(x) => x.to_string(),
            GgufValue::F64(x) => x.to_string(),
            GgufValue::Bool(b) => b.to_string(),
            GgufValue::Text(s) => format!("\"{}\"", crate::Shown(s)),
            GgufValue::Array(a) => format!("a list of {}", a.len()),
        }
    }
}

/// The metadata of a GGUF file. Of a file in several parts it is the first part's.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufMetadata {
    pub(super) path: PathBuf,
    pub(super) version: u32,
    pub(super) values: BTreeMap<String, GgufValue>,
}

impl GgufMetadata {
    /// The file, as messages call it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.values.get(key)
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &GgufValue)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }

    fn typed<'a, T>(
        &'a self,
        field: &'static str,
        expected: &'static str,
        take: impl FnOnce(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.values.get(field) else { return Ok(None) };
        take(value).map(Some).ok_or_else(|| CheckpointError::Field {
            path: self.path.clone(),
            field,
            expected,
            found: value.describe(),
        })
    }

    /// The text of `key`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn text(&self, key: &'static str) -> Result<Option<&str>, CheckpointError> {
        self.typed(key, "text", |v| match v {
            GgufValue::Text(s) => Some(s.as_str()),
            _ => None,
        })
    }

    /// The truth value of `key`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn bool(&self, key: &'static str) -> Result<Option<bool>, CheckpointError> {
        self.typed(key, "true or false", |v| match v {
            GgufValue::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// The integer of `key`, which must fit 32 bits without sign.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn u32(&self, key: &'static str) -> Result<Option<u32>, CheckpointError> {
        self.typed(key, "an integer from 0 to 4294967295", |v| match v {
            GgufValue::Int(n) => u32::try_from(*n).ok(),
            _ => None,
        })
    }

    /// The texts of the list `key`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn texts(&self, key: &'static str) -> Result<Option<&[String]>, CheckpointError> {
        self.typed(key, "a list of texts", |v| match v {
            GgufValue::Array(GgufArray::Text(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The f32 numbers of the list `key`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn f32s(&self, key: &'static str) -> Result<Option<&[f32]>, CheckpointError> {
        self.typed(key, "a list of f32 numbers", |v| match v {
            GgufValue::Array(GgufArray::F32(items)) => Some(items.as_slice()),
            _ => None,
        })
    }

    /// The integers of the list `key`, which must fit 32 bits with sign.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn i32s(&self, key: &'static str) -> Result<Option<Vec<i32>>, CheckpointError> {
        self.typed(key, "a list of 32-bit integers", |v| match v {
            GgufValue::Array(GgufArray::I32(items)) => Some(items.clone()),
            GgufValue::Array(items) => items.integers()?.into_iter().map(|n| i32::try_from(n).ok()).collect(),
            _ => None,
        })
    }

    /// The bytes of the list `key`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] if it is something else.
    pub fn bytes(&self, key: &'static str) -> Result<Option<Vec<u8>>, CheckpointError> {
        self.typed(key, "a list of bytes", |v| match v {
            GgufValue::Array(GgufArray::U8(items)) => Some(items.clone()),
            GgufValue::Array(GgufArray::I8(items)) => Some(items.iter().map(|b| b.to_ne_bytes()[0]).collect()),
            _ => None,
        })
    }
}
