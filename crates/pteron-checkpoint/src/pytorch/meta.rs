//! The shards of Meta's checkpoints: each has a part of every weight, as the ranks of tensor parallelism had it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_tensor::{DType, RangeSource, Shape, SharedSource, SourceError, TensorSource, check_rows, read_all};
use serde_json::Value;

use crate::error::CheckpointError;
use crate::files::Bytes;
use crate::opened::{Encoding, Entry, Place};

/// How a weight is divided among the shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Split {
    /// Rows: column-parallel layers, whose outputs are divided.
    Rows,
    /// Columns: row-parallel layers, whose inputs are divided.
    Columns,
    /// Llama 1 and 2 divide the columns of the embedding, Llama 3 its rows: the sizes tell.
    Embedding,
    /// Every shard has the whole.
    Replicated,
}

/// The ends of the names of weights, and how those are divided.
const SPLITS: [(&str, Split); 22] = [
    ("tok_embeddings.weight", Split::Embedding),
    ("output.weight", Split::Rows),
    ("attention.wq.weight", Split::Rows),
    ("attention.wk.weight", Split::Rows),
    ("attention.wv.weight", Split::Rows),
    ("attention.wo.weight", Split::Columns),
    ("attention.wq.bias", Split::Rows),
    ("attention.wk.bias", Split::Rows),
    ("attention.wv.bias", Split::Rows),
    ("attention.wo.bias", Split::Replicated),
    ("feed_forward.w1.weight", Split::Rows),
    ("feed_forward.w3.weight", Split::Rows),
    ("feed_forward.w2.weight", Split::Columns),
    ("feed_forward.w1.bias", Split::Rows),
    ("feed_forward.w3.bias", Split::Rows),
    ("feed_forward.w2.bias", Split::Replicated),
    ("attention_norm.weight", Split::Replicated),
    ("ffn_norm.weight", Split::Replicated),
    ("attention.q_norm_fn.weight", Split::Replicated),
    ("attention.k_norm_fn.weight", Split::Replicated),
    ("norm.weight", Split::Replicated),
    ("rope.freqs", Split::Replicated),
];

/// The projection whose rows tell how many shards there are.
const PROBE: &str = "layers.0.attention.wq.weight";

const NORM: &str = "norm.weight";

/// True for names that only Meta's checkpoints have.
pub(crate) fn is_meta_name(name: &str) -> bool {
    name == "tok_embeddings.weight" || (name.starts_with("layers.") && name.contains(".attention.w"))
}

fn split_of(name: &str) -> Option<Split> {
    let is = |end: &str| name.strip_suffix(end).is_some_and(|before| before.is_empty() || before.ends_with('.'));
    SPLITS.iter().find(|(end, _)| is(end)).map(|(_, split)| *split)
}

/// Puts the shards of a checkpoint together; their files are `files`, in the same order. The first shard's tensors say
/// which there are. `params` is the object of `params.json`, from which the number of shards follows.
pub(super) fn merge(
    mut shards: Vec<Vec<Entry>>,
    files: &[(PathBuf, Bytes)],
    params: Option<&Value>,
) -> Result<Vec<Entry>, CheckpointError> {
    let path = |shard: usize| files.get(shard).map_or(Path::new(""), |(path, _)| path.as_path());
    if let (Some(first), Some(params)) = (shards.first(), params) {
        check_count(path(0), first, files.len(), params)?;
    }
    if shards.len() < 2 {
        return Ok(shards.pop().unwrap_or_default());
    }
    let mut others: Vec<BTreeMap<String, Entry>> =
        shards.drain(1..).map(|s| s.into_iter().map(|e| (e.name.clone(), e)).collect()).collect();
    let first = shards.pop().unwrap_or_default();
    let width = first.iter().find(|e| e.name == NORM).and_then(|e| e.shape.first().copied());
    let mut merged = Vec::with_capacity(first.len());
    for entry in first {
        let mut parts = vec![entry];
        for (other, shard) in others.iter_mut().zip(1..) {
            let name = parts.first().map_or("", |p| p.name.as_str());
            let part = other.remove(name).ok_or_else(|| CheckpointError::ShardTensor {
                path: path(shard).to_owned(),
                tensor: name.to_owned(),
                reason: format!("is missing here, and {} has it", path(0).display()),
            })?;
            parts.push(part);
        }
        merged.push(whole(parts, files, width)?);
    }
    for (other, shard) in others.iter().zip(1..) {
        if let Some(tensor) = other.keys().min() {
            return Err(CheckpointError::ShardTensor {
                path: path(shard).to_owned(),
                tensor: tensor.clone(),
                reason: format!("is here, and {} does not have it", path(0).display()),
            });
        }
    }
    Ok(merged)
}

/// Compares the rows of the first query projection with those that `params` implies.
fn check_count(path: &Path, first: &[Entry], found: usize, params: &Value) -> Result<(), CheckpointError> {
    let size = |name: &str| params.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
    let Some(probe) = first.iter().find(|e| e.name == PROBE) else { return Ok(()) };
    let of = match (size("dim"), size("n_heads"), size("head_dim")) {
        (_, Some(heads), Some(head)) => heads.checked_mul(head),
        (dim, ..) => dim,
    };
    // What does not fit at all is told with the sizes of all weights.
    let (Some(of), Some(&rows)) = (of, probe.shape.first()) else { return Ok(()) };
    if rows == 0 || !of.is_multiple_of(rows) || of / rows <= found || of / rows > 100 {
        return Ok(());
    }
    let expected = of / rows;
    let missing = (found..expected).map(|i| format!("consolidated.{i:02}.pth")).collect();
    Err(CheckpointError::ShardCount { path: path.to_owned(), tensor: PROBE, rows, of, expected, found, missing })
}

/// One weight from its parts, of which there are at least two.
fn whole(parts: Vec<Entry>, files: &[(PathBuf, Bytes)], width: Option<usize>) -> Result<Entry, CheckpointError> {
    let Some(first) = parts.first() else { return Err(CheckpointError::NotFound { path: PathBuf::new() }) };
    let fail = |part: &Entry, reason: String| CheckpointError::ShardTensor {
        path: files.get(part.file).map(|(path, _)| path.clone()).unwrap_or_default(),
        tensor: part.name.clone(),
        reason,
    };
    if let Some(other) = parts.iter().find(|p| (p.dtype, &p.shape) != (first.dtype, &first.shape)) {
        let (a, b) = (&other.shape, &first.shape);
        return Err(fail(other, format!("is {} {a:?}, and in the first shard {} {b:?}", other.dtype, first.dtype)));
    }
    let split = match (split_of(&first.name), width) {
        (Some(Split::Embedding), Some(width)) if first.shape.get(1) == Some(&width) => Split::Rows,
        (Some(Split::Embedding), Some(_)) => Split::Columns,
        (Some(Split::Embedding), None) => return Err(fail(first, format!("cannot be merged without `{NORM}`"))),
        (Some(split), _) => split,
        (None, _) => return Err(fail(first, "nothing says how this weight is divided".to_owned())),
    };
    let mut sources = Vec::with_capacity(parts.len());
    for part in &parts {
        sources.push(source(part, files).map_err(|e| fail(part, e.to_string()))?);
    }
    let rank = first.shape.len();
    let axis = match split {
        Split::Replicated => {
            return if rank <= 1 { same(parts, &sources, files) } else { Err(fail(first, "is no vector".to_owned())) };
        }
        Split::Rows if rank >= 1 => 0,
        Split::Columns if rank == 2 => 1,
        _ => return Err(fail(first, format!("has shape {:?}, which cannot be divided so", first.shape))),
    };
    let mut shape = first.shape.clone();
    let size = shape.get(axis).and_then(|n| n.checked_mul(parts.len()));
    match (shape.get_mut(axis), size) {
        (Some(slot), Some(size)) => *slot = size,
        _ => return Err(fail(first, "is too large".to_owned())),
    }
    let (name, dtype, file) = (first.name.clone(), first.dtype, first.file);
    let bytes = parts.iter().fold(0u64, |sum, p| sum.saturating_add(p.bytes));
    let (label, whole) = (name.clone(), shape.clone());
    let source: SharedSource = if axis == 0 {
        Arc::new(RowsSource { label, dtype, shape: whole, parts: sources })
    } else {
        Arc::new(ColumnsSource { label, dtype, shape: whole, parts: sources })
    };
    Ok(Entry { name, dtype, shape, file, bytes, encoding: Encoding::Plain(dtype), place: Place::Source(source) })
}

/// The first of parts that must all have the same elements.
fn same(mut parts: Vec<Entry>, sources: &[SharedSource], files: &[(PathBuf, Bytes)]) -> Result<Entry, CheckpointError> {
    let path = |part: &Entry| files.get(part.file).map(|(path, _)| path.clone()).unwrap_or_default();
    let mut first = None;
    for (part, source) in parts.iter().zip(sources) {
        let bytes = read_all(source.as_ref()).map_err(|e| crate::error::read_failed(&path(part), &e))?;
        match &first {
            None => first = Some(bytes),
            Some(expected) if **expected == *bytes => {}
            Some(_) => {
                let reason = "must be the same in every shard, and differs from the first".to_owned();
                return Err(CheckpointError::ShardTensor { path: path(part), tensor: part.name.clone(), reason });
            }
        }
    }
    Ok(parts.swap_remove(0))
}

fn source(entry: &Entry, files: &[(PathBuf, Bytes)]) -> Result<SharedSource, SourceError> {
    let offset = match &entry.place {
        Place::Source(source) => return Ok(Arc::clone(source)),
        Place::Range { offset } => *offset,
    };
    let bytes = files.get(entry.file).map(|(_, bytes)| bytes.shared());
    let bytes = bytes
        .ok_or_else(|| SourceError::Failed { what: entry.name.clone(), reason: "its file is not open".to_owned() })?;
    Ok(Arc::new(RangeSource::new(&entry.name, entry.dtype, &entry.shape, bytes, offset)?))
}

/// Parts of equal shape, one below the other.
#[derive(Debug)]
struct RowsSource {
    label: String,
    dtype: DType,
    shape: Shape,
    parts: Vec<SharedSource>,
}

impl TensorSource for RowsSource {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let (row_bytes, mut start, mut rest) = (self.row_bytes(), 0, out);
        for part in &self.parts {
            let end = start + part.rows();
            let here = rows.start.max(start)..rows.end.min(end);
            if !here.is_empty() {
                let (head, tail) = rest.split_at_mut(here.len() * row_bytes);
                part.read_rows(here.start - start..here.end - start, head)?;
                rest = tail;
            }
            start = end;
        }
        Ok(())
    }
    fn label(&self) -> &str {
        &self.label
    }
}

/// Matrices of equal shape, side by side.
#[derive(Debug)]
struct ColumnsSource {
    label: String,
    dtype: DType,
    shape: Shape,
    parts: Vec<SharedSource>,
}

impl TensorSource for ColumnsSource {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let mut rest = out;
        for row in rows {
            for part in &self.parts {
                let (head, tail) = rest.split_at_mut(part.row_bytes());
                part.read_rows(row..row + 1, head)?;
                rest = tail;
            }
        }
        Ok(())
    }
    fn label(&self) -> &str {
        &self.label
    }
}
