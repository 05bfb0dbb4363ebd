//! `.ptd` files: tensors and blobs outside of a program, under keys.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use crate::container::{HEADER_AT, check_identifier, splice, u32_at, u64_at};
use crate::decode::{each, required_bytes, required_i32s, required_string, scalar_type};
use crate::error::PteError;
use crate::flatbuf::{Builder, FlatBuffer, Offset, TableFields};
use crate::limits::{MAX_FLATBUFFER_LEN, MAX_SCHEMA_VERSION};
use crate::place::{At, Item, Problem};
use crate::program::DataSegment;
use crate::schema;
use crate::segments::{DEFAULT_SEGMENT_ALIGNMENT, Encoded, SegmentSpec, align_up, join, lay_out};
use crate::tensor::{TensorLayout, check_shape};

/// Identifier of a file of external tensors.
pub const PTD_IDENTIFIER: &str = "FT01";

const MAGIC: &[u8; 4] = b"FH01";
/// Bytes of the header's fields.
const HEADER_LEN: u32 = 40;
/// The spliced header is padded to a multiple of this, bytes.
const HEADER_PAD: usize = 16;
/// Shortest file, bytes.
const MIN_LEN: u64 = 64;

/// One entry of a `.ptd` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtdEntry {
    /// Unique key: the fully qualified name of a tensor, or what a backend chose.
    pub key: String,
    /// Element type and shape; absent for an opaque blob.
    pub layout: Option<TensorLayout>,
    /// Index of the segment; several entries may share one.
    pub segment_index: u32,
    /// Absolute byte range in the file.
    pub range: Range<u64>,
}

/// The verified head of a `.ptd` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtdHead {
    /// The entries in file order.
    pub entries: Vec<PtdEntry>,
    /// The segments, relative to `segment_base_offset`.
    pub segments: Vec<DataSegment>,
    /// Absolute offset that segment offsets count from.
    pub segment_base_offset: u64,
    /// Bytes of all segments with the padding between them.
    pub segment_data_size: u64,
    /// Bytes of the FlatBuffers part, from the start of the file.
    pub head_size: u64,
}

struct Header {
    head_size: u64,
    base: u64,
    size: u64,
}

fn bad(field: &'static str, found: impl std::fmt::Display, expected: impl Into<String>) -> PteError {
    PteError::Header { field, found: found.to_string(), expected: expected.into() }
}

fn header(prefix: &[u8], file_len: u64) -> Result<Header, PteError> {
    check_identifier(prefix, 4, PTD_IDENTIFIER)?;
    let have = file_len.min(prefix.len() as u64);
    let short = || PteError::TooShort { what: ".ptd file", found: have, expected: MIN_LEN };
    if have < MIN_LEN {
        return Err(short());
    }
    let magic = prefix.get(HEADER_AT..HEADER_AT + 4).unwrap_or_default();
    if magic != MAGIC {
        return Err(bad("magic", format!("\"{}\"", magic.escape_ascii()), "\"FH01\""));
    }
    let len = u32_at(prefix, 12).ok_or_else(short)?;
    if len < HEADER_LEN {
        return Err(bad("header length", len, format!("at least {HEADER_LEN}")));
    }
    let offset = u64_at(prefix, 16).ok_or_else(short)?;
    let size = u64_at(prefix, 24).ok_or_else(short)?;
    let base = u64_at(prefix, 32).ok_or_else(short)?;
    let data = u64_at(prefix, 40).ok_or_else(short)?;
    let head_size = offset.checked_add(size).ok_or_else(|| bad("flatbuffer_size", size, "an end that fits 64 bits"))?;
    if head_size < MIN_LEN || head_size > file_len {
        return Err(bad(
            "flatbuffer_size",
            head_size,
            format!("an end from {MIN_LEN} to {file_len}, the file's length"),
        ));
    }
    if base < head_size {
        return Err(bad("segment_base_offset", base, format!("at least {head_size}, the end of the flatbuffer")));
    }
    let end = base.checked_add(data).ok_or_else(|| bad("segment_data_size", data, "an end that fits 64 bits"))?;
    // A file without data may end before the aligned base.
    if data > 0 && end > file_len {
        return Err(PteError::TooShort { what: "segment data", found: file_len, expected: end });
    }
    Ok(Header { head_size, base, size: data })
}

impl PtdHead {
    /// How many bytes from the start of a file [`PtdHead::parse`] needs, given at least the first 64 of them.
    ///
    /// # Errors
    /// Wrong identifier, truncation, header fields that do not hold.
    pub fn bytes_needed(prefix: &[u8], file_len: u64) -> Result<u64, PteError> {
        Ok(header(prefix, file_len)?.head_size)
    }

    /// Reads and verifies the head of a file of `file_len` bytes.
    ///
    /// # Errors
    /// Header, FlatBuffers structure, version, shapes, duplicate keys, entries larger than their segment.
    pub fn parse(head: &[u8], file_len: u64) -> Result<Self, PteError> {
        use schema::flat_tensor as f;
        let h = header(head, file_len)?;
        let bytes = usize::try_from(h.head_size)
            .ok()
            .and_then(|n| head.get(..n))
            .ok_or(PteError::HeadTooShort { found: head.len() as u64, needed: h.head_size })?;
        let at = At::FILE;
        let buffer = FlatBuffer::new(bytes).map_err(at.flat())?;
        let root = u64::from(u32_at(bytes, 0).unwrap_or(0));
        let least = HEADER_AT as u64 + u64::from(HEADER_LEN);
        if root < least {
            return Err(bad("root offset", root, format!("at least {least}, behind the header")));
        }
        let root = buffer.root(0).map_err(at.flat())?;
        let version = root.scalar(f::VERSION, 0u32).map_err(at.flat())?;
        if version > MAX_SCHEMA_VERSION {
            return Err(PteError::Version { found: version, expected: "version 0" });
        }
        for field in [f::SEGMENTS, f::NAMED_DATA] {
            at.need(field.name, root.has(field).map_err(at.flat())?.then_some(()))?;
        }
        let segments = each(at, root, f::SEGMENTS, |i, t| {
            let at = At::new(Item::Segment(i));
            let s = DataSegment {
                offset: t.scalar(schema::segment::OFFSET, 0u64).map_err(at.flat())?,
                size: t.scalar(schema::segment::SIZE, 0u64).map_err(at.flat())?,
            };
            at.within("offset", s.offset, s.size, h.size, "the segment data")?;
            Ok(s)
        })?;
        let mut keys = BTreeSet::new();
        let entries = each(at, root, f::NAMED_DATA, |i, t| {
            use schema::named as f;
            let at = At::new(Item::NamedData(i));
            let key = required_string(at, t, f::KEY)?;
            if !keys.insert(key.clone()) {
                return Err(at.err("key", Problem::Duplicate { name: key }));
            }
            let index = t.scalar(f::SEGMENT_INDEX, 0u32).map_err(at.flat())?;
            at.index("segment_index", i64::from(index), segments.len(), "segments")?;
            let segment = segments.get(index as usize).copied().unwrap_or_default();
            let layout = match t.table(f::TENSOR_LAYOUT).map_err(at.flat())? {
                Some(l) => {
                    use schema::layout as f;
                    let layout = TensorLayout {
                        scalar_type: scalar_type(at, l, f::SCALAR_TYPE)?,
                        sizes: required_i32s(at, l, f::SIZES)?,
                        dim_order: required_bytes(at, l, f::DIM_ORDER)?.to_vec(),
                    };
                    check_layout(at, &layout, segment.size)?;
                    Some(layout)
                }
                None => None,
            };
            let start = h.base.saturating_add(segment.offset);
            Ok(PtdEntry { key, layout, segment_index: index, range: start..start.saturating_add(segment.size) })
        })?;
        Ok(PtdHead {
            entries,
            segments,
            segment_base_offset: h.base,
            segment_data_size: h.size,
            head_size: h.head_size,
        })
    }

    /// The entry of a key.
    pub fn entry(&self, key: &str) -> Option<&PtdEntry> {
        self.entries.iter().find(|e| e.key == key)
    }
}

fn check_layout(at: At<'_>, layout: &TensorLayout, room: u64) -> Result<(), PteError> {
    let nbytes = check_shape(at, layout.scalar_type, &layout.sizes, &layout.dim_order)?;
    at.within("tensor_layout", 0, nbytes, room, "the segment")
}

/// A verified `.ptd` file with all of its bytes.
#[derive(Clone)]
pub struct PtdFile<'a> {
    bytes: &'a [u8],
    head: PtdHead,
}

impl fmt::Debug for PtdFile<'_> {
    /// The head and the number of bytes, not the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PtdFile").field("len", &self.bytes.len()).field("head", &self.head).finish()
    }
}

impl<'a> PtdFile<'a> {
    /// Reads and verifies a whole file.
    ///
    /// # Errors
    /// As [`PtdHead::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PteError> {
        Ok(PtdFile { bytes, head: PtdHead::parse(bytes, bytes.len() as u64)? })
    }

    /// Entries and ranges.
    pub fn head(&self) -> &PtdHead {
        &self.head
    }

    /// The entries in file order.
    pub fn entries(&self) -> &[PtdEntry] {
        &self.head.entries
    }

    /// The bytes of a key, or `None` if the key is not there.
    pub fn data(&self, key: &str) -> Option<&'a [u8]> {
        let r = &self.head.entry(key)?.range;
        // An empty blob of a file without data may lie behind the file's end.
        if r.is_empty() {
            return Some(&[]);
        }
        self.bytes.get(usize::try_from(r.start).ok()?..usize::try_from(r.end).ok()?)
    }
}

/// One entry to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PtdSpec {
    /// Unique key.
    pub key: String,
    /// Element type and shape; `None` for an opaque blob.
    pub layout: Option<TensorLayout>,
    /// Index into the segments; entries with the same bytes share one.
    pub segment_index: u32,
}

/// Verifies entries and encodes the head of a `.ptd` file. Each segment is aligned to the least common multiple of 128 and
/// its own alignment, also in absolute file offsets.
///
/// # Errors
/// Duplicate keys, segment indices, shapes, entries larger than their segment, a layout beyond 63 bits.
pub fn encode_ptd(entries: &[PtdSpec], segments: &[SegmentSpec]) -> Result<Encoded, PteError> {
    use schema::flat_tensor as f;
    let mut keys = BTreeSet::new();
    for (i, e) in entries.iter().enumerate() {
        let at = At::new(Item::NamedData(i));
        if !keys.insert(e.key.as_str()) {
            return Err(at.err("key", Problem::Duplicate { name: e.key.clone() }));
        }
        at.index("segment_index", i64::from(e.segment_index), segments.len(), "segments")?;
        if let Some(l) = &e.layout {
            check_layout(at, l, segments.get(e.segment_index as usize).map_or(0, |s| s.size))?;
        }
    }
    let layout = lay_out(segments, DEFAULT_SEGMENT_ALIGNMENT)?;
    let mut b = Builder::new();
    let tables: Vec<Offset> = layout
        .offsets
        .iter()
        .zip(segments)
        .map(|(offset, s)| {
            use schema::segment as f;
            b.table(TableFields::new().scalar(f::OFFSET, *offset, 0).scalar(f::SIZE, s.size, 0))
        })
        .collect();
    let segment_tables = b.offsets(&tables);
    let named: Vec<Offset> = entries
        .iter()
        .map(|e| {
            let key = b.string(&e.key);
            let tensor_layout = e.layout.as_ref().map(|l| {
                use schema::layout as f;
                let sizes = b.vector(l.sizes.iter().copied());
                let dim_order = b.bytes(&l.dim_order, 1);
                let fields = TableFields::new()
                    .scalar(f::SCALAR_TYPE, l.scalar_type.code() as i8, 0)
                    .offset(f::SIZES, sizes)
                    .offset(f::DIM_ORDER, dim_order);
                b.table(fields)
            });
            use schema::named as f;
            let fields = TableFields::new()
                .offset(f::KEY, key)
                .scalar(f::SEGMENT_INDEX, e.segment_index, 0)
                .maybe(f::TENSOR_LAYOUT, tensor_layout);
            b.table(fields)
        })
        .collect();
    let named = b.offsets(&named);
    let root = b.table(TableFields::new().offset(f::SEGMENTS, segment_tables).offset(f::NAMED_DATA, named));
    let too_long = || PteError::Unwritable {
        what: ".ptd head",
        found: "more than 2 GiB".to_owned(),
        expected: format!("at most {MAX_FLATBUFFER_LEN} bytes"),
    };
    let identifier = PTD_IDENTIFIER.as_bytes().first_chunk::<4>().copied().unwrap_or_default();
    let plain = b.finish(root, &identifier, false).ok_or_else(too_long)?;

    let padded = u64::from(HEADER_LEN).next_multiple_of(HEADER_PAD as u64);
    let head_size = plain.len() as u64 + padded;
    let base = align_up(head_size, layout.base_alignment).ok_or_else(too_long)?;
    let total = base.checked_add(layout.len).filter(|n| *n <= i64::MAX as u64).ok_or_else(too_long)?;
    let mut fields = Vec::with_capacity(HEADER_LEN as usize);
    fields.extend_from_slice(MAGIC);
    fields.extend_from_slice(&HEADER_LEN.to_le_bytes());
    for field in [padded, plain.len() as u64, base, layout.len] {
        fields.extend_from_slice(&field.to_le_bytes());
    }
    let mut head = splice(&plain, &fields, HEADER_PAD).ok_or_else(too_long)?;
    let room = usize::try_from(base).ok().filter(|b| b - head.len() <= MAX_FLATBUFFER_LEN as usize);
    head.resize(room.ok_or_else(too_long)?, 0);
    Ok(Encoded {
        head,
        program_size: head_size,
        segment_offsets: layout.offsets.iter().map(|o| base.saturating_add(*o)).collect(),
        total_len: total,
    })
}

/// Encodes a `.ptd` file with its segments in memory.
///
/// # Errors
/// As [`encode_ptd`].
pub fn write_ptd(entries: &[PtdSpec], segments: &[&[u8]]) -> Result<Vec<u8>, PteError> {
    let specs: Vec<SegmentSpec> = segments.iter().map(|s| SegmentSpec::new(s.len() as u64)).collect();
    join(encode_ptd(entries, &specs)?, segments)
}
