//! Verified programs: from the head of a file alone, or from all of its bytes.

use std::fmt;
use std::ops::Range;

use crate::container::{self, ContainerKind};
use crate::decode;
use crate::error::PteError;
use crate::limits::MAX_FLATBUFFER_LEN;
use crate::place::{At, Item, Problem};
use crate::program::{BackendDelegate, DelegateData, LegacyNote, Program};
use crate::tensor::{Storage, Tensor};
use crate::verify::{self, Constants, Surroundings};

/// A verified program and the byte ranges of everything it refers to, made from the head of a file and the file's length.
///
/// Ranges are absolute byte offsets in the file and lie within its length, so files beyond 4 GiB need no mapping as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct ParsedHead {
    program: Program,
    container: ContainerKind,
    notes: Vec<LegacyNote>,
    file_len: u64,
}

impl ParsedHead {
    /// Reads and verifies the program part of a file of `file_len` bytes. `head` is the start of the file, at least
    /// [`crate::bytes_needed`] bytes of it; more do no harm.
    ///
    /// # Errors
    /// Container, FlatBuffers structure, schema version, or anything that the program says and that does not hold.
    pub fn parse(head: &[u8], file_len: u64) -> Result<Self, PteError> {
        let kind = container::parse(head, file_len)?;
        let needed = kind.program_size(file_len);
        if needed > MAX_FLATBUFFER_LEN {
            return Err(PteError::TooLong { what: "program part", found: needed, limit: MAX_FLATBUFFER_LEN });
        }
        let bytes = usize::try_from(needed)
            .ok()
            .and_then(|n| head.get(..n))
            .ok_or(PteError::HeadTooShort { found: head.len() as u64, needed })?;
        let mut notes = Vec::new();
        if let ContainerKind::Extended(h) = kind {
            // The root table lies behind the spliced header; a smaller offset points into it.
            let least = container::HEADER_AT as u64 + u64::from(h.header_len);
            let root = u64::from(container::u32_at(bytes, 0).unwrap_or(0));
            if root < least {
                return Err(PteError::Header {
                    field: "root offset",
                    found: root.to_string(),
                    expected: format!("at least {least}, behind the extended header"),
                });
            }
            if h.header_len < container::HEADER_LEN {
                notes.push(LegacyNote::ShortExtendedHeader);
            }
        }
        let (program, more) = decode::program(bytes)?;
        notes.extend(more);
        let segments = segment_sizes(&program, kind, bytes, file_len)?;
        let around = Surroundings { segments: &segments, inline_delegates: program.inline_delegate_data.len() };
        verify::verify(&program, &around)?;
        Ok(ParsedHead { program, container: kind, notes, file_len })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The container header.
    pub fn container(&self) -> ContainerKind {
        self.container
    }

    /// What older exporters wrote; empty for a current file.
    pub fn notes(&self) -> &[LegacyNote] {
        &self.notes
    }

    /// Length of the file, bytes.
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// Bytes of the program part, from the start of the file.
    pub fn program_size(&self) -> u64 {
        self.container.program_size(self.file_len)
    }

    /// Byte range of a data segment, or `None` if there is no such segment.
    pub fn segment_range(&self, index: u32) -> Option<Range<u64>> {
        let s = self.program.segments.get(index as usize)?;
        let start = self.container.segment_base().checked_add(s.offset)?;
        Some(start..start.checked_add(s.size)?)
    }

    /// Byte range of a constant tensor of this program, or `None` if the tensor's storage is not a constant of this file.
    ///
    /// # Errors
    /// The tensor is not one of this program and points past its constants.
    pub fn constant_range(&self, tensor: &Tensor) -> Result<Option<Range<u64>>, PteError> {
        let Storage::Constant { buffer } = tensor.storage() else { return Ok(None) };
        let nbytes = nbytes(tensor)?;
        let start = match verify::constants(&self.program) {
            Constants::Segment(s) => {
                return self.subrange(s.segment_index, s.offsets.get(buffer as usize).copied(), nbytes).map(Some);
            }
            Constants::Inline(buffers) => {
                let i = At::FILE.index("data_buffer_idx", i64::from(buffer), buffers.len(), "inline constants")?;
                let r = buffers.get(i as usize).cloned().unwrap_or(0..0);
                At::FILE.within("data_buffer_idx", 0, nbytes, r.end.saturating_sub(r.start), "the inline constant")?;
                r.start
            }
        };
        Ok(Some(start..start.saturating_add(nbytes)))
    }

    /// Byte range of the initial contents of a mutable tensor of this program, or `None` if it has none.
    ///
    /// # Errors
    /// The tensor is not one of this program and points past its mutable data.
    pub fn mutable_init_range(&self, tensor: &Tensor) -> Result<Option<Range<u64>>, PteError> {
        let Storage::InitialisedPlanned { buffer, .. } = tensor.storage() else { return Ok(None) };
        let nbytes = nbytes(tensor)?;
        let s = At::FILE.need("mutable_data_segments", self.program.mutable_data_segments.first())?;
        self.subrange(s.segment_index, s.offsets.get(buffer as usize).copied(), nbytes).map(Some)
    }

    fn subrange(&self, segment: u32, offset: Option<u64>, nbytes: u64) -> Result<Range<u64>, PteError> {
        let range = At::FILE.need("segment_index", self.segment_range(segment))?;
        let offset = At::FILE.need("data_buffer_idx", offset)?;
        let room = range.end.saturating_sub(range.start);
        At::FILE.within("data_buffer_idx", offset, nbytes, room, "the segment")?;
        let start = range.start.saturating_add(offset);
        Ok(start..start.saturating_add(nbytes))
    }

    /// Byte range of a delegate's blob, or `None` if the delegate is not one of this program.
    pub fn delegate_range(&self, delegate: &BackendDelegate) -> Option<Range<u64>> {
        match delegate.data {
            DelegateData::Inline(i) => self.program.inline_delegate_data.get(i as usize).cloned(),
            DelegateData::Segment(i) => self.segment_range(i),
        }
    }

    /// Byte range of a named blob, or `None` if the key is not there.
    pub fn named_data_range(&self, key: &str) -> Option<Range<u64>> {
        let entry = self.program.named_data.iter().find(|n| n.key == key)?;
        self.segment_range(entry.segment_index)
    }
}

fn nbytes(tensor: &Tensor) -> Result<u64, PteError> {
    let found = || format!("{}{:?}", tensor.scalar_type, tensor.sizes);
    tensor.nbytes().ok_or_else(|| At::FILE.err("sizes", Problem::Overflow { found: found() }))
}

/// Checks every segment against the file and gives the sizes.
fn segment_sizes(program: &Program, kind: ContainerKind, head: &[u8], file_len: u64) -> Result<Vec<u64>, PteError> {
    for (i, s) in program.segments.iter().enumerate() {
        let at = At::new(Item::Segment(i));
        match kind {
            // An empty segment is what exporters write if there is no data at all.
            ContainerKind::Plain if s.size == 0 => {}
            ContainerKind::Plain => {
                let found = head.get(8..12).unwrap_or_default().escape_ascii();
                return Err(PteError::Header {
                    field: "magic",
                    found: format!("\"{found}\" and segment {i} of {} bytes", s.size),
                    expected: "\"eh00\" in a file that has segment data".to_owned(),
                });
            }
            ContainerKind::Extended(h) => {
                if h.segment_base_offset == 0 && s.size > 0 {
                    return Err(PteError::Header {
                        field: "segment_base_offset",
                        found: format!("0 and segment {i} of {} bytes", s.size),
                        expected: "the offset of the first segment".to_owned(),
                    });
                }
                let rest = file_len.saturating_sub(h.segment_base_offset);
                let room = if h.segment_data_size > 0 { h.segment_data_size } else { rest };
                at.within("offset", s.offset, s.size, room, "the segment data")?;
            }
        }
    }
    Ok(program.segments.iter().map(|s| s.size).collect())
}

/// A verified program together with all bytes of its file.
#[derive(Clone)]
pub struct PteFile<'a> {
    bytes: &'a [u8],
    head: ParsedHead,
}

impl fmt::Debug for PteFile<'_> {
    /// The head and the number of bytes, not the bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PteFile").field("len", &self.bytes.len()).field("head", &self.head).finish()
    }
}

impl<'a> PteFile<'a> {
    /// Reads and verifies a whole program file.
    ///
    /// # Errors
    /// As [`ParsedHead::parse`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PteError> {
        Ok(PteFile { bytes, head: ParsedHead::parse(bytes, bytes.len() as u64)? })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        self.head.program()
    }

    /// Header, ranges and sizes.
    pub fn head(&self) -> &ParsedHead {
        &self.head
    }

    /// What older exporters wrote; empty for a current file.
    pub fn notes(&self) -> &[LegacyNote] {
        self.head.notes()
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn slice(&self, range: Range<u64>) -> Option<&'a [u8]> {
        self.bytes.get(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
    }

    fn checked(&self, range: Option<Range<u64>>) -> Result<Option<&'a [u8]>, PteError> {
        let Some(r) = range else { return Ok(None) };
        let too_short = PteError::TooShort { what: "tensor data", found: self.bytes.len() as u64, expected: r.end };
        self.slice(r).ok_or(too_short).map(Some)
    }

    /// Bytes of a constant tensor of this program, or `None` if its storage is not a constant of this file.
    ///
    /// # Errors
    /// As [`ParsedHead::constant_range`].
    pub fn constant_bytes(&self, tensor: &Tensor) -> Result<Option<&'a [u8]>, PteError> {
        self.checked(self.head.constant_range(tensor)?)
    }

    /// Initial contents of a mutable tensor of this program, or `None` if it has none.
    ///
    /// # Errors
    /// As [`ParsedHead::mutable_init_range`].
    pub fn mutable_init_bytes(&self, tensor: &Tensor) -> Result<Option<&'a [u8]>, PteError> {
        self.checked(self.head.mutable_init_range(tensor)?)
    }

    /// Bytes of a data segment, or `None` if there is no such segment.
    pub fn segment_bytes(&self, index: u32) -> Option<&'a [u8]> {
        self.slice(self.head.segment_range(index)?)
    }

    /// A delegate's blob, or `None` if the delegate is not one of this program.
    pub fn delegate_bytes(&self, delegate: &BackendDelegate) -> Option<&'a [u8]> {
        self.slice(self.head.delegate_range(delegate)?)
    }

    /// A named blob, or `None` if the key is not there.
    pub fn named_data(&self, key: &str) -> Option<&'a [u8]> {
        self.slice(self.head.named_data_range(key)?)
    }
}
