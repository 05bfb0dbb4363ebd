//! The checked reader.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ops::Range;

use super::{Field, Scalar};
use crate::limits::{MAX_DEPTH, MAX_FLATBUFFER_LEN, MAX_REVISIT, MAX_TABLES, MIN_VISIT_BUDGET};

/// A malformed field of a FlatBuffers buffer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {kind}")]
pub struct FlatError {
    /// Schema name of the field that was read.
    pub field: &'static str,
    /// Byte of the buffer that was looked at.
    pub at: usize,
    /// What is malformed.
    pub kind: FlatErrorKind,
}

/// What is malformed about a field of a FlatBuffers buffer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FlatErrorKind {
    /// Bytes past the end of the buffer are needed.
    #[error("found a buffer of {len} bytes, expected {need} bytes from here")]
    OutOfBounds {
        /// Length of the buffer.
        len: usize,
        /// Bytes needed from the position.
        need: usize,
    },
    /// A scalar, offset or vector is not aligned to its size.
    #[error("found an unaligned position, expected a multiple of {align}")]
    Unaligned {
        /// Required alignment.
        align: usize,
    },
    /// An offset is zero or leaves the buffer.
    #[error("found offset {offset}, expected one that stays within {len} bytes")]
    BadOffset {
        /// The offset.
        offset: i64,
        /// Length of the buffer.
        len: usize,
    },
    /// A vtable's own size field does not hold.
    #[error("found vtable size {found}, expected an even number of at least 4 within the buffer")]
    BadVtable {
        /// The size found.
        found: usize,
    },
    /// A field begins before its table's contents, or leaves the buffer.
    #[error(
        "found a field at byte {offset} of a table of {table} bytes, expected it to lie behind the table's start and inside the buffer"
    )]
    BadField {
        /// Offset of the field in its table.
        offset: usize,
        /// Size of the table.
        table: usize,
    },
    /// A string is not UTF-8.
    #[error("found bytes that are not UTF-8, expected a string")]
    NotUtf8,
    /// Tables are nested too deeply.
    #[error("found tables nested deeper than {limit}")]
    TooDeep {
        /// The limit.
        limit: u32,
    },
    /// The buffer makes the reader visit too many tables.
    #[error("found more than {limit} tables")]
    TooManyTables {
        /// The limit.
        limit: u32,
    },
    /// The buffer makes the reader visit too many bytes.
    #[error("found vectors that overlap to more than {limit} bytes")]
    TooManyBytes {
        /// The limit.
        limit: u64,
    },
    /// The buffer is longer than offsets can span.
    #[error("found {len} bytes, expected at most {limit}")]
    TooLong {
        /// Length of the buffer.
        len: u64,
        /// The limit.
        limit: u64,
    },
}

type Result<T> = std::result::Result<T, FlatError>;

/// A buffer that is being read, with the counters that bound the work.
#[derive(Debug)]
pub struct FlatBuffer<'a> {
    bytes: &'a [u8],
    tables: Cell<u32>,
    visited: Cell<u64>,
    budget: u64,
}

impl<'a> FlatBuffer<'a> {
    /// A reader of `bytes`; positions and alignments are relative to its start.
    pub fn new(bytes: &'a [u8]) -> Result<Self> {
        let len = bytes.len() as u64;
        if len > MAX_FLATBUFFER_LEN {
            let kind = FlatErrorKind::TooLong { len, limit: MAX_FLATBUFFER_LEN };
            return Err(FlatError { field: "root", at: 0, kind });
        }
        let budget = len.saturating_mul(MAX_REVISIT).max(MIN_VISIT_BUDGET);
        Ok(FlatBuffer { bytes, tables: Cell::new(0), visited: Cell::new(0), budget })
    }

    /// The root table of a buffer whose root offset is the `u32` at byte `at` (0, or 4 after a size prefix).
    pub fn root(&self, at: usize) -> Result<Table<'_, 'a>> {
        self.table_by_offset("root", at, 0)
    }

    fn fail<T>(&self, field: &'static str, at: usize, kind: FlatErrorKind) -> Result<T> {
        Err(FlatError { field, at, kind })
    }

    fn slice(&self, field: &'static str, at: usize, need: usize) -> Result<&'a [u8]> {
        let found = at.checked_add(need).and_then(|end| self.bytes.get(at..end));
        match found {
            Some(s) => Ok(s),
            None => self.fail(field, at, FlatErrorKind::OutOfBounds { len: self.bytes.len(), need }),
        }
    }

    fn scalar<T: Scalar>(&self, field: &'static str, at: usize) -> Result<T> {
        if !at.is_multiple_of(T::SIZE) {
            return self.fail(field, at, FlatErrorKind::Unaligned { align: T::SIZE });
        }
        Ok(T::from_le(self.slice(field, at, T::SIZE)?))
    }

    /// Follows the forward offset stored at `at`.
    fn follow(&self, field: &'static str, at: usize) -> Result<usize> {
        let offset: u32 = self.scalar(field, at)?;
        match at.checked_add(offset as usize) {
            Some(to) if offset != 0 && to < self.bytes.len() => Ok(to),
            _ => {
                let kind = FlatErrorKind::BadOffset { offset: i64::from(offset), len: self.bytes.len() };
                self.fail(field, at, kind)
            }
        }
    }

    fn charge(&self, field: &'static str, at: usize, bytes: usize) -> Result<()> {
        let visited = self.visited.get().saturating_add(bytes as u64);
        self.visited.set(visited);
        if visited > self.budget {
            return self.fail(field, at, FlatErrorKind::TooManyBytes { limit: self.budget });
        }
        Ok(())
    }

    fn table_by_offset(&self, field: &'static str, at: usize, depth: u32) -> Result<Table<'_, 'a>> {
        let pos = self.follow(field, at)?;
        if depth >= MAX_DEPTH {
            return self.fail(field, pos, FlatErrorKind::TooDeep { limit: MAX_DEPTH });
        }
        let tables = self.tables.get().saturating_add(1);
        self.tables.set(tables);
        if tables > MAX_TABLES {
            return self.fail(field, pos, FlatErrorKind::TooManyTables { limit: MAX_TABLES });
        }
        let back: i32 = self.scalar(field, pos)?;
        let vtable = pos as i64 - i64::from(back);
        let Some(vtable) = usize::try_from(vtable).ok().filter(|v| *v < self.bytes.len()) else {
            let kind = FlatErrorKind::BadOffset { offset: i64::from(back), len: self.bytes.len() };
            return self.fail(field, pos, kind);
        };
        let vtable_len = usize::from(self.scalar::<u16>(field, vtable)?);
        if vtable_len < 4 || !vtable_len.is_multiple_of(2) || self.slice(field, vtable, vtable_len).is_err() {
            return self.fail(field, vtable, FlatErrorKind::BadVtable { found: vtable_len });
        }
        let len = usize::from(self.scalar::<u16>(field, vtable.saturating_add(2))?);
        if len < 4 {
            return self.fail(field, vtable, FlatErrorKind::BadField { offset: 0, table: len });
        }
        self.slice(field, pos, len)?;
        Ok(Table { buffer: self, pos, len, vtable, vtable_len, depth })
    }

    /// Position and count of the vector that the offset at `at` points to, elements of `size` bytes.
    fn vector_at(&self, field: &'static str, at: usize, size: usize) -> Result<(usize, usize)> {
        let pos = self.follow(field, at)?;
        let count = self.scalar::<u32>(field, pos)? as usize;
        let start = pos.saturating_add(4);
        let bytes = count.saturating_mul(size);
        self.slice(field, start, bytes)?;
        // An empty vector has no element whose alignment could be wrong.
        if count > 0 && !start.is_multiple_of(size) {
            return self.fail(field, start, FlatErrorKind::Unaligned { align: size });
        }
        self.charge(field, pos, bytes)?;
        Ok((start, count))
    }

    fn str_at(&self, field: &'static str, at: usize) -> Result<&'a str> {
        let (start, count) = self.vector_at(field, at, 1)?;
        let bytes = self.slice(field, start, count)?;
        match std::str::from_utf8(bytes) {
            Ok(s) => Ok(s),
            Err(_) => self.fail(field, start, FlatErrorKind::NotUtf8),
        }
    }
}

/// A table whose vtable and extent have been checked.
#[derive(Debug, Clone, Copy)]
pub struct Table<'b, 'a> {
    buffer: &'b FlatBuffer<'a>,
    pos: usize,
    len: usize,
    vtable: usize,
    vtable_len: usize,
    depth: u32,
}

impl<'b, 'a> Table<'b, 'a> {
    /// Position of a field of `size` bytes, or `None` if the table does not hold it.
    fn locate(&self, field: Field, size: usize) -> Result<Option<usize>> {
        let entry = 4 + 2 * usize::from(field.slot);
        if entry + 2 > self.vtable_len {
            return Ok(None);
        }
        let offset = usize::from(self.buffer.scalar::<u16>(field.name, self.vtable.saturating_add(entry))?);
        if offset == 0 {
            return Ok(None);
        }
        // The table's own length is not looked at, as FlatBuffers' verifier does not: its Python writer shares a virtual table
        // between tables of other lengths, and ExecuTorch writes programs with it.
        if offset < 4 || self.buffer.slice(field.name, self.pos.saturating_add(offset), size).is_err() {
            let kind = FlatErrorKind::BadField { offset, table: self.len };
            return self.buffer.fail(field.name, self.pos, kind);
        }
        Ok(Some(self.pos + offset))
    }

    /// A scalar, or `default` if absent.
    pub fn scalar<T: Scalar>(&self, field: Field, default: T) -> Result<T> {
        match self.locate(field, T::SIZE)? {
            Some(at) => self.buffer.scalar(field.name, at),
            None => Ok(default),
        }
    }

    /// Whether the table holds the field.
    pub fn has(&self, field: Field) -> Result<bool> {
        Ok(self.locate(field, 1)?.is_some())
    }

    /// A string, or `None` if absent.
    pub fn string(&self, field: Field) -> Result<Option<&'a str>> {
        self.locate(field, 4)?.map(|at| self.buffer.str_at(field.name, at)).transpose()
    }

    /// A vector of scalars, or `None` if absent.
    pub fn vector<T: Scalar>(&self, field: Field) -> Result<Option<Vector<'a, T>>> {
        let Some(at) = self.locate(field, 4)? else { return Ok(None) };
        let (start, count) = self.buffer.vector_at(field.name, at, T::SIZE)?;
        let bytes = self.buffer.slice(field.name, start, count.saturating_mul(T::SIZE))?;
        Ok(Some(Vector { bytes, scalar: PhantomData }))
    }

    /// The byte range of a `[ubyte]` vector's contents, or `None` if absent.
    pub fn byte_range(&self, field: Field) -> Result<Option<Range<usize>>> {
        let Some(at) = self.locate(field, 4)? else { return Ok(None) };
        let (start, count) = self.buffer.vector_at(field.name, at, 1)?;
        Ok(Some(start..start.saturating_add(count)))
    }

    /// A vector of strings, or `None` if absent.
    pub fn strings(&self, field: Field) -> Result<Option<Vec<&'a str>>> {
        let Some(at) = self.locate(field, 4)? else { return Ok(None) };
        let (start, count) = self.buffer.vector_at(field.name, at, 4)?;
        (0..count).map(|i| self.buffer.str_at(field.name, start + 4 * i)).collect::<Result<Vec<_>>>().map(Some)
    }

    /// A table, or `None` if absent.
    pub fn table(&self, field: Field) -> Result<Option<Table<'b, 'a>>> {
        let buffer = self.buffer;
        self.locate(field, 4)?.map(|at| buffer.table_by_offset(field.name, at, self.depth + 1)).transpose()
    }

    /// A vector of tables, or `None` if absent.
    pub fn tables(&self, field: Field) -> Result<Option<TableVector<'b, 'a>>> {
        let Some(at) = self.locate(field, 4)? else { return Ok(None) };
        let (start, count) = self.buffer.vector_at(field.name, at, 4)?;
        Ok(Some(TableVector { buffer: self.buffer, field: field.name, start, count, depth: self.depth }))
    }

    /// A union: its type code (0 if absent) and its table if there is one. `field` is the value's slot; the type code
    /// is in the slot before it.
    pub fn union(&self, field: Field) -> Result<(u8, Option<Table<'b, 'a>>)> {
        let code = self.scalar(Field::new(field.slot.saturating_sub(1), field.name), 0u8)?;
        Ok((code, self.table(field)?))
    }

    /// Byte of the buffer where the table starts.
    pub fn position(&self) -> usize {
        self.pos
    }
}

/// A vector of scalars inside the buffer.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a, T> {
    bytes: &'a [u8],
    scalar: PhantomData<T>,
}

impl<'a, T: Scalar + 'a> Vector<'a, T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / T::SIZE
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + 'a {
        self.bytes.chunks_exact(T::SIZE).map(T::from_le)
    }

    /// The elements, copied.
    pub fn to_vec(&self) -> Vec<T> {
        self.iter().collect()
    }

    /// The bytes of the elements.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// A vector of tables inside the buffer.
#[derive(Debug, Clone, Copy)]
pub struct TableVector<'b, 'a> {
    buffer: &'b FlatBuffer<'a>,
    field: &'static str,
    start: usize,
    count: usize,
    depth: u32,
}

impl<'b, 'a> TableVector<'b, 'a> {
    /// Number of tables.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no table.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The tables in order; each one is checked when it is reached.
    pub fn iter(&self) -> impl Iterator<Item = Result<Table<'b, 'a>>> + use<'b, 'a> {
        let TableVector { buffer, field, start, count, depth } = *self;
        (0..count).map(move |i| buffer.table_by_offset(field, start + 4 * i, depth + 1))
    }
}
