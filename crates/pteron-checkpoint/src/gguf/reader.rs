//! The header of a GGUF file: magic, version, counts, key-value pairs, the list of tensors. Little-endian throughout. The
//! tensors' bytes follow at the next multiple of the alignment, one after the other, each at such a multiple.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::path::Path;

use pteron_tensor::{ByteSource, DType, Shape};

use super::metadata::{GgufArray, GgufMetadata, GgufValue};
use super::types::GgmlType;
use crate::error::{CheckpointError, Shown};
use crate::header::extent;
use crate::limits::{
    MAX_GGUF_ALIGNMENT, MAX_GGUF_DEPTH, MAX_GGUF_FIELDS, MAX_GGUF_HEADER_BYTES, MAX_GGUF_ITEMS, MAX_GGUF_RANK,
    MAX_NAME_BYTES, MAX_TENSORS,
};

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// One part of a GGUF file.
pub(super) struct Part {
    pub(super) metadata: GgufMetadata,
    pub(super) tensors: Vec<PartTensor>,
}

pub(super) struct PartTensor {
    pub(super) name: String,
    pub(super) ty: GgmlType,
    /// Slowest dimension first.
    pub(super) shape: Shape,
    /// From the file's beginning.
    pub(super) offset: u64,
    pub(super) bytes: u64,
}

/// Reads the header of `source`, which messages call `path`.
pub(super) fn read(path: &Path, source: &dyn ByteSource) -> Result<Part, CheckpointError> {
    let mut c = Cursor { path, source, len: source.len(), at: 0, buffer: Vec::new(), buffered: 0, items: 0 };
    if c.array::<4>()? != MAGIC {
        return Err(c.invalid("it does not begin with `GGUF`"));
    }
    let version = c.u32()?;
    match version {
        2 | 3 => {}
        1 => {
            let text = "it is of version 1, which had other sizes: versions 2 and 3 are read; convert it again";
            return Err(c.invalid(text));
        }
        _ if (1..=0xFFFF).contains(&version.swap_bytes()) => {
            return Err(c.invalid("it is big-endian, and only little-endian files are read"));
        }
        _ => return Err(c.invalid(format!("it is of version {version}, and versions 2 and 3 are read"))),
    }
    let tensor_count = c.u64()?;
    let field_count = c.u64()?;
    c.limited("the number of tensors", tensor_count, MAX_TENSORS as u64)?;
    c.limited("the number of key-value pairs", field_count, MAX_GGUF_FIELDS)?;
    let mut values = BTreeMap::new();
    for _ in 0..field_count {
        let key = c.text("a key", MAX_NAME_BYTES as u64)?;
        let value = c.value(&key)?;
        match values.entry(key) {
            Slot::Vacant(slot) => slot.insert(value),
            Slot::Occupied(slot) => return Err(c.invalid(format!("the key `{}` is there twice", Shown(slot.key())))),
        };
    }
    let alignment = match values.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(GgufValue::Int(n)) if u64::try_from(*n).is_ok_and(|n| n.is_power_of_two() && n <= MAX_GGUF_ALIGNMENT) => {
            *n as u64
        }
        Some(other) => {
            let expected = format!("a power of two up to {MAX_GGUF_ALIGNMENT}");
            return Err(c.invalid(format!("general.alignment is {}, not {expected}", other.describe())));
        }
    };
    let mut tensors = Vec::new();
    // Each takes at least a length, a rank, a type and an offset.
    c.fits(tensor_count, 24, "the list of tensors")?;
    tensors.reserve_exact(tensor_count as usize);
    // Where the next tensor must start, from the beginning of the data.
    let mut next = 0u64;
    for _ in 0..tensor_count {
        tensors.push(tensor(&mut c, &mut next, alignment)?);
    }
    let data = c.at.next_multiple_of(alignment);
    for t in &mut tensors {
        let end = data.checked_add(t.offset).and_then(|start| start.checked_add(t.bytes));
        match end {
            Some(end) if end <= c.len => t.offset += data,
            _ => {
                return Err(c.bad(
                    &t.name,
                    format!(
                        "its {} bytes from byte {} on do not lie within the file, which has {}: the file is cut short",
                        t.bytes,
                        data.saturating_add(t.offset),
                        c.len
                    ),
                ));
            }
        }
    }
    Ok(Part { metadata: GgufMetadata { path: path.to_owned(), version, values }, tensors })
}

fn tensor(c: &mut Cursor<'_>, next: &mut u64, alignment: u64) -> Result<PartTensor, CheckpointError> {
    let name = c.text("a tensor's name", MAX_NAME_BYTES as u64)?;
    let rank = c.u32()?;
    if rank > MAX_GGUF_RANK {
        return Err(c.bad(&name, format!("has {rank} dimensions, more than the limit of {MAX_GGUF_RANK}")));
    }
    let mut shape = Shape::new();
    for _ in 0..rank {
        let size = c.u64()?;
        let size = usize::try_from(size).map_err(|_| c.bad(&name, format!("has a dimension of {size}")))?;
        shape.push(size);
    }
    // The file has the fastest dimension first.
    shape.reverse();
    let id = c.u32()?;
    let offset = c.u64()?;
    let ty = GgmlType::from_id(id).ok_or_else(|| c.bad(&name, format!("has the unknown type {id}")))?;
    // What is decoded takes at most 8 bytes an element.
    let row = shape.last().copied().unwrap_or(1);
    let rows: usize = match extent(DType::F64, &shape) {
        Some(_) => shape.iter().rev().skip(1).product(),
        None => {
            let text = format!("its shape {:?} has more elements than can be addressed", shape.as_slice());
            return Err(c.bad(&name, text));
        }
    };
    let bytes = ty.row_bytes(row).and_then(|b| b.checked_mul(rows)).ok_or_else(|| {
        let block = ty.block_elements();
        c.bad(&name, format!("its rows of {row} elements are no whole blocks of {block}, as {ty} has them"))
    })? as u64;
    if offset != *next {
        return Err(
            c.bad(&name, format!("starts at byte {offset} of the data, and the tensor before it ends at {next}"))
        );
    }
    let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(alignment));
    *next = end.ok_or_else(|| c.bad(&name, "ends behind any address".to_owned()))?;
    Ok(PartTensor { name, ty, shape, offset, bytes })
}

/// Where reading stands.
struct Cursor<'a> {
    path: &'a Path,
    source: &'a dyn ByteSource,
    len: u64,
    at: u64,
    /// Bytes of the file from `buffered` on.
    buffer: Vec<u8>,
    buffered: u64,
    /// Texts and lists within lists so far.
    items: u64,
}

impl Cursor<'_> {
    fn invalid(&self, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Gguf { path: self.path.to_owned(), reason: reason.into() }
    }

    fn bad(&self, tensor: &str, reason: String) -> CheckpointError {
        CheckpointError::Tensor { path: self.path.to_owned(), tensor: tensor.to_owned(), reason }
    }

    fn limited(&self, what: &'static str, found: u64, limit: u64) -> Result<(), CheckpointError> {
        if found <= limit {
            return Ok(());
        }
        Err(CheckpointError::TooLarge { path: self.path.to_owned(), what, found, limit })
    }

    /// That `count` things of at least `each` bytes can follow.
    fn fits(&self, count: u64, each: u64, what: &str) -> Result<(), CheckpointError> {
        let there = self.len - self.at;
        match count.checked_mul(each) {
            Some(bytes) if bytes <= there => Ok(()),
            _ => Err(self.invalid(format!(
                "{what} is declared to have {count} items of {each} bytes or more at byte {}, where {there} bytes are \
                 left: the file is cut short or damaged",
                self.at
            ))),
        }
    }

    /// Fills `out` with the bytes that follow.
    fn read(&mut self, out: &mut [u8]) -> Result<(), CheckpointError> {
        let n = out.len() as u64;
        if n > self.len - self.at {
            return Err(self.invalid(format!("it ends within its header, at byte {}", self.len)));
        }
        self.limited("the header's size in bytes", self.at + n, MAX_GGUF_HEADER_BYTES)?;
        let fail =
            |e: pteron_tensor::SourceError| CheckpointError::Gguf { path: self.path.to_owned(), reason: e.to_string() };
        if out.len() > BUFFER {
            self.source.read_at(self.at, out).map_err(fail)?;
            self.at += n;
            return Ok(());
        }
        // `buffered <= at` always; both differences fit a usize once compared with the buffer's length.
        let skip = usize::try_from(self.at - self.buffered).unwrap_or(usize::MAX);
        let there = skip.checked_add(out.len()).and_then(|end| self.buffer.get(skip..end));
        if let Some(bytes) = there {
            out.copy_from_slice(bytes);
        } else {
            let size = usize::try_from(self.len - self.at).unwrap_or(BUFFER).min(BUFFER);
            self.buffer.resize(size, 0);
            self.source.read_at(self.at, &mut self.buffer).map_err(fail)?;
            self.buffered = self.at;
            out.copy_from_slice(&self.buffer[..out.len()]);
        }
        self.at += n;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        self.read(&mut out)?;
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self, what: &str, limit: u64) -> Result<String, CheckpointError> {
        let len = self.u64()?;
        if len > limit {
            return Err(self.invalid(format!("{what} at byte {} has {len} bytes, more than {limit}", self.at)));
        }
        self.fits(len, 1, what)?;
        // There, and at most the limit of the header: checked.
        self.limited("the header's size in bytes", self.at + len, MAX_GGUF_HEADER_BYTES)?;
        let start = self.at;
        let mut bytes = vec![0; len as usize];
        self.read(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.invalid(format!("{what} at byte {start} is not UTF-8")))
    }

    fn value(&mut self, key: &str) -> Result<GgufValue, CheckpointError> {
        let ty = self.u32()?;
        Ok(match ty {
            0 => GgufValue::Int(u8::from_le_bytes(self.array()?).into()),
            1 => GgufValue::Int(i8::from_le_bytes(self.array()?).into()),
            2 => GgufValue::Int(u16::from_le_bytes(self.array()?).into()),
            3 => GgufValue::Int(i16::from_le_bytes(self.array()?).into()),
            4 => GgufValue::Int(self.u32()?.into()),
            5 => GgufValue::Int(i32::from_le_bytes(self.array()?).into()),
            6 => GgufValue::F32(f32::from_le_bytes(self.array()?)),
            7 => GgufValue::Bool(self.bool(key)?),
            8 => GgufValue::Text(self.text("a text", MAX_GGUF_HEADER_BYTES)?),
            9 => GgufValue::Array(self.list(key, 0)?),
            10 => GgufValue::Int(self.u64()?.into()),
            11 => GgufValue::Int(i64::from_le_bytes(self.array()?).into()),
            12 => GgufValue::F64(f64::from_le_bytes(self.array()?)),
            other => return Err(self.invalid(format!("the key `{}` has the unknown type {other}", Shown(key)))),
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool, CheckpointError> {
        match self.array::<1>()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.invalid(format!("the key `{}` has the truth value {other}", Shown(key)))),
        }
    }

    fn list(&mut self, key: &str, depth: usize) -> Result<GgufArray, CheckpointError> {
        if depth == MAX_GGUF_DEPTH {
            let text = format!("the key `{}` has lists in more than {MAX_GGUF_DEPTH} levels", Shown(key));
            return Err(self.invalid(text));
        }
        let ty = self.u32()?;
        let count = self.u64()?;
        let what = format!("the key `{}`", Shown(key));
        let each = match ty {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10 | 11 | 12 => 8,
            9 => 12,
            other => return Err(self.invalid(format!("{what} has items of the unknown type {other}"))),
        };
        self.fits(count, each, &what)?;
        self.limited("the header's size in bytes", self.at + count * each, MAX_GGUF_HEADER_BYTES)?;
        if matches!(ty, 8 | 9) {
            self.items = self.items.saturating_add(count);
            self.limited("the number of texts in lists", self.items, MAX_GGUF_ITEMS)?;
        }
        // Fits the header's limit: checked.
        let count = count as usize;
        Ok(match ty {
            0 => {
                let mut bytes = vec![0; count];
                self.read(&mut bytes)?;
                GgufArray::U8(bytes)
            }
            1 => GgufArray::I8(self.numbers(count, i8::from_le_bytes)?),
            2 => GgufArray::U16(self.numbers(count, u16::from_le_bytes)?),
            3 => GgufArray::I16(self.numbers(count, i16::from_le_bytes)?),
            4 => GgufArray::U32(self.numbers(count, u32::from_le_bytes)?),
            5 => GgufArray::I32(self.numbers(count, i32::from_le_bytes)?),
            6 => GgufArray::F32(self.numbers(count, f32::from_le_bytes)?),
            7 => {
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.bool(key)?);
                }
                GgufArray::Bool(items)
            }
            8 => {
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.text(&what, MAX_GGUF_HEADER_BYTES)?);
                }
                GgufArray::Text(items)
            }
            9 => {
                let mut items = Vec::with_capacity(count);
                for _ in 0..count {
                    items.push(self.list(key, depth + 1)?);
                }
                GgufArray::Array(items)
            }
            10 => GgufArray::U64(self.numbers(count, u64::from_le_bytes)?),
            11 => GgufArray::I64(self.numbers(count, i64::from_le_bytes)?),
            _ => GgufArray::F64(self.numbers(count, f64::from_le_bytes)?),
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        count: usize,
        one: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(one(self.array()?));
        }
        Ok(items)
    }
}
