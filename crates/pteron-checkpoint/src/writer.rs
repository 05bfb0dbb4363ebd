//! Writing safetensors files by rows.

use std::collections::BTreeSet;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use pteron_tensor::{DType, Shape, TensorSource};
use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::atomic::{AtomicError, AtomicFile};
use crate::error::{CheckpointError, Shown};
use crate::header::{METADATA_KEY, extent, name_of};
use crate::limits::{MAX_HEADER_BYTES, MAX_NAME_BYTES, MAX_RANK, MAX_TENSORS};

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DType,
    /// Its sizes.
    pub shape: Shape,
}

impl TensorSpec {
    /// A tensor of `shape`.
    pub fn new(name: impl Into<String>, dtype: DType, shape: &[usize]) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: Shape::from_slice(shape) }
    }
}

/// Writes a safetensors file whose tensors are all named first and whose bytes then follow in pieces of any size, tensor
/// by tensor in the order of the list.
///
/// In the file the tensors lie by falling element size and otherwise in the order of the list, so that each is aligned
/// to its element. The file appears when [`SafetensorsWriter::finish`] succeeds, and not before. The same input gives
/// the same bytes.
#[derive(Debug)]
pub struct SafetensorsWriter {
    file: AtomicFile,
    path: PathBuf,
    tensors: Vec<Placed>,
    /// The tensor whose bytes come next, and how many of them have come.
    current: usize,
    written: u64,
}

#[derive(Debug)]
struct Placed {
    name: String,
    /// From the end of the header.
    start: u64,
    bytes: u64,
    /// From the start of the file.
    offset: u64,
}

/// Bytes of a source that are decoded at a time.
const CHUNK: usize = 4 << 20;

impl SafetensorsWriter {
    /// Begins a file at `path` with `tensors`, and with `metadata` as pairs of free text (`transformers` wants
    /// `("format", "pt")`).
    ///
    /// # Errors
    /// [`CheckpointError::Unwritable`] for a name or metadata key that comes twice, is reserved or too long, for `i4`,
    /// and for sizes past what this crate reads back; [`CheckpointError::Write`] if the file cannot be begun.
    pub fn create(
        path: impl AsRef<Path>,
        tensors: &[TensorSpec],
        metadata: &[(&str, &str)],
    ) -> Result<SafetensorsWriter, CheckpointError> {
        SafetensorsWriter::create_with(path.as_ref(), tensors, metadata, |path| AtomicFile::create(path))
    }

    /// [`SafetensorsWriter::create`] with a file that `begin` gives.
    pub(crate) fn create_with(
        path: &Path,
        tensors: &[TensorSpec],
        metadata: &[(&str, &str)],
        begin: impl FnOnce(&Path) -> Result<AtomicFile, AtomicError>,
    ) -> Result<SafetensorsWriter, CheckpointError> {
        let refuse = |reason: String| CheckpointError::Unwritable { path: path.to_owned(), reason };
        let keys: BTreeSet<&str> = metadata.iter().map(|(k, _)| *k).collect();
        if keys.len() != metadata.len() {
            return Err(refuse("a metadata key comes twice".to_owned()));
        }
        let mut placed = place(tensors).map_err(refuse)?;
        let header = Header { tensors, placed: &placed, metadata };
        let mut text = serde_json::to_vec(&header).map_err(|e| refuse(e.to_string()))?;
        text.resize(text.len().next_multiple_of(8), b' ');
        if text.len() as u64 > MAX_HEADER_BYTES {
            return Err(refuse(format!("the header has {} bytes, more than {MAX_HEADER_BYTES}", text.len())));
        }
        let data_start = 8 + text.len() as u64;
        for tensor in &mut placed {
            tensor.offset = data_start + tensor.start;
        }
        let mut file = begin(path)?;
        let io = |e| AtomicError::from_io(path, e);
        file.write_all(&(text.len() as u64).to_le_bytes()).map_err(io)?;
        file.write_all(&text).map_err(io)?;
        let mut writer = SafetensorsWriter { file, path: path.to_owned(), tensors: placed, current: 0, written: 0 };
        writer.next_tensor()?;
        Ok(writer)
    }

    /// The tensor whose bytes come next; `None` when all are complete.
    pub fn current(&self) -> Option<&str> {
        self.tensors.get(self.current).map(|t| t.name.as_str())
    }

    /// Writes the next bytes of the current tensor: little-endian, row-major. A tensor that is complete makes the next
    /// one current; a piece must not reach past its tensor.
    ///
    /// # Errors
    /// [`CheckpointError::Unwritable`] for more bytes than the tensor has; [`CheckpointError::Write`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(tensor) = self.tensors.get(self.current) else {
            return Err(self.refuse(format!("{} bytes came after the last tensor was complete", bytes.len())));
        };
        let left = tensor.bytes - self.written;
        if bytes.len() as u64 > left {
            let (name, came) = (Shown(&tensor.name), bytes.len());
            return Err(self.refuse(format!("tensor `{name}` needs {left} more bytes, and {came} came")));
        }
        self.file.write_all(bytes).map_err(|e| self.io(e))?;
        self.written += bytes.len() as u64;
        if self.written == tensor.bytes {
            self.current += 1;
            self.next_tensor()?;
        }
        Ok(())
    }

    /// Writes all of the tensor `name` from `source`, a few rows at a time. It must be the current tensor, or, if it has
    /// no bytes, any tensor of the list.
    ///
    /// # Errors
    /// [`CheckpointError::Unwritable`] if it is not its turn, if the source has another size, or if the source fails;
    /// [`CheckpointError::Write`].
    pub fn write_source(&mut self, name: &str, source: &dyn TensorSource) -> Result<(), CheckpointError> {
        let wanted = match self.tensors.get(self.current) {
            Some(t) if t.name == name && self.written == 0 => t.bytes,
            _ if self.tensors.iter().any(|t| t.name == name && t.bytes == 0) => 0,
            _ => return Err(self.refuse(format!("it is not the turn of tensor `{}`", Shown(name)))),
        };
        if source.byte_len() as u64 != wanted {
            let (name, found) = (Shown(name), source.byte_len());
            return Err(self.refuse(format!("tensor `{name}` needs {wanted} bytes, and its source has {found}")));
        }
        if wanted == 0 {
            return Ok(());
        }
        if let Some(bytes) = source.as_slice() {
            return self.write(bytes);
        }
        let row = source.row_bytes();
        let step = (CHUNK / row).max(1);
        let mut buffer = vec![0u8; row * step.min(source.rows())];
        let mut at = 0;
        while at < source.rows() {
            let rows = at..source.rows().min(at + step);
            let out = &mut buffer[..rows.len() * row];
            at = rows.end;
            source.read_rows(rows, out).map_err(|e| self.refuse(e.to_string()))?;
            self.write(out)?;
        }
        Ok(())
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`CheckpointError::Unwritable`] if bytes are missing; [`CheckpointError::Write`].
    pub fn finish(self) -> Result<(), CheckpointError> {
        if let Some(t) = self.tensors.get(self.current) {
            let left = t.bytes - self.written;
            return Err(self.refuse(format!("tensor `{}` lacks {left} of its {} bytes", Shown(&t.name), t.bytes)));
        }
        Ok(self.file.commit()?)
    }

    /// Skips tensors without bytes and goes to where the current one lies.
    fn next_tensor(&mut self) -> Result<(), CheckpointError> {
        self.written = 0;
        while self.tensors.get(self.current).is_some_and(|t| t.bytes == 0) {
            self.current += 1;
        }
        if let Some(t) = self.tensors.get(self.current)
            && self.file.stream_position().map_err(|e| self.io(e))? != t.offset
        {
            self.file.seek(SeekFrom::Start(t.offset)).map_err(|e| self.io(e))?;
        }
        Ok(())
    }

    fn refuse(&self, reason: String) -> CheckpointError {
        CheckpointError::Unwritable { path: self.path.clone(), reason }
    }

    fn io(&self, error: std::io::Error) -> CheckpointError {
        AtomicError::from_io(&self.path, error).into()
    }
}

/// Where each tensor lies behind the header, in the order of the list.
fn place(tensors: &[TensorSpec]) -> Result<Vec<Placed>, String> {
    if tensors.len() > MAX_TENSORS {
        return Err(format!("{} tensors are more than {MAX_TENSORS}", tensors.len()));
    }
    let mut names = BTreeSet::new();
    let mut placed = Vec::with_capacity(tensors.len());
    for t in tensors {
        let name = Shown(&t.name);
        if t.name == METADATA_KEY || t.name.len() > MAX_NAME_BYTES {
            return Err(format!("`{name}` cannot be the name of a tensor"));
        }
        if !names.insert(&t.name) {
            return Err(format!("tensor `{name}` comes twice"));
        }
        if name_of(t.dtype).is_none() {
            return Err(format!("tensor `{name}` has dtype {}, for which the format has no name", t.dtype));
        }
        let bytes = extent(t.dtype, &t.shape).filter(|_| t.shape.len() <= MAX_RANK);
        let bytes = bytes.ok_or_else(|| format!("tensor `{name}` cannot have shape {:?}", t.shape.as_slice()))?;
        placed.push(Placed { name: t.name.clone(), start: 0, bytes, offset: 0 });
    }
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(tensors[i].dtype.bits()));
    let mut end = 0u64;
    for i in order {
        placed[i].start = end;
        end = end
            .checked_add(placed[i].bytes)
            .filter(|&e| e <= i64::MAX as u64)
            .ok_or_else(|| "all tensors together are too large for a file".to_owned())?;
    }
    Ok(placed)
}

struct Header<'a> {
    tensors: &'a [TensorSpec],
    placed: &'a [Placed],
    metadata: &'a [(&'a str, &'a str)],
}

impl Serialize for Header<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        if !self.metadata.is_empty() {
            map.serialize_entry(METADATA_KEY, &Texts(self.metadata))?;
        }
        for (t, p) in self.tensors.iter().zip(self.placed) {
            let entry =
                EntryText { dtype: name_of(t.dtype), shape: &t.shape, data_offsets: (p.start, p.start + p.bytes) };
            map.serialize_entry(&t.name, &entry)?;
        }
        map.end()
    }
}

struct Texts<'a>(&'a [(&'a str, &'a str)]);

impl Serialize for Texts<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().copied())
    }
}

#[derive(serde::Serialize)]
struct EntryText<'a> {
    dtype: Option<&'static str>,
    shape: &'a [usize],
    data_offsets: (u64, u64),
}
