//! The header around the program part of a `.pte`.

use crate::error::PteError;
use crate::limits::MIN_FILE_LEN;

/// Identifier of a program file.
pub const PTE_IDENTIFIER: &str = "ET12";

pub(crate) const HEADER_MAGIC: &[u8; 4] = b"eh00";
pub(crate) const HEADER_AT: usize = 8;
/// Fields up to the segment base offset.
const SHORT_HEADER_LEN: u32 = 24;
/// Fields up to the segment data size.
pub(crate) const HEADER_LEN: u32 = 32;

/// The extended header as it stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtendedHeader {
    /// Bytes of the header's fields: 24 or more.
    pub header_len: u32,
    /// Bytes of the program part, from the start of the file.
    pub program_size: u64,
    /// Absolute offset of the first segment; 0 if there is none.
    pub segment_base_offset: u64,
    /// Bytes of all segments with the padding between them; 0 if the header is too short to say.
    pub segment_data_size: u64,
}

/// How the program part is wrapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerKind {
    /// The whole file is the program part.
    Plain,
    /// An extended header gives program part and segments.
    Extended(ExtendedHeader),
}

impl ContainerKind {
    /// Bytes of the program part of a file of `file_len` bytes.
    pub fn program_size(&self, file_len: u64) -> u64 {
        match self {
            ContainerKind::Plain => file_len,
            ContainerKind::Extended(h) => h.program_size,
        }
    }

    /// Absolute offset that segment offsets count from.
    pub fn segment_base(&self) -> u64 {
        match self {
            ContainerKind::Plain => 0,
            ContainerKind::Extended(h) => h.segment_base_offset,
        }
    }
}

/// How many bytes from the start of a file [`crate::ParsedHead::parse`] needs, given at least the first 64 of them.
///
/// # Errors
/// The errors of the container header: wrong identifier, truncation, sizes that do not fit `file_len`.
pub fn bytes_needed(prefix: &[u8], file_len: u64) -> Result<u64, PteError> {
    Ok(parse(prefix, file_len)?.program_size(file_len))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What a file with another identifier seems to be.
fn hint(bytes: &[u8]) -> &'static str {
    let id = bytes.get(4..8).unwrap_or_default();
    match id {
        b"FT01" => "the file is a .ptd file of external tensors",
        b"BP08" => "the file is a bundled program (.bpte), which contains a program",
        b"ET12" => "the file is a .pte program",
        _ if bytes.get(8..12) == Some(b"ED00") => "the file is an ETDump (.etdp)",
        [b'E', b'T', ..] => "the file is a program of another, incompatible format version",
        [b'B', b'P', ..] => "the file is a bundled program of another format version",
        _ if bytes.starts_with(b"PK\x03\x04") => "the file is a zip archive (a PyTorch checkpoint, .pt2 or .etrecord)",
        _ if bytes.starts_with(b"GGUF") => "the file is a GGUF checkpoint",
        _ if bytes.get(8) == Some(&b'{') => "the file looks like a safetensors checkpoint",
        _ => "the file is of another kind or damaged",
    }
}

/// Checks the four-byte identifier at `at`.
pub(crate) fn check_identifier(bytes: &[u8], at: usize, expected: &'static str) -> Result<(), PteError> {
    let Some(found) = bytes.get(at..at + 4) else {
        let (found, need) = (bytes.len() as u64, at as u64 + 4);
        return Err(PteError::TooShort { what: "file identifier", found, expected: need });
    };
    if found != expected.as_bytes() {
        let found = format!("\"{}\"", found.escape_ascii());
        return Err(PteError::WrongIdentifier { found, expected, hint: hint(bytes) });
    }
    Ok(())
}

fn header(field: &'static str, found: impl std::fmt::Display, expected: impl Into<String>) -> PteError {
    PteError::Header { field, found: found.to_string(), expected: expected.into() }
}

/// Reads and checks the container of a file of `file_len` bytes that starts with `prefix`.
pub(crate) fn parse(prefix: &[u8], file_len: u64) -> Result<ContainerKind, PteError> {
    check_identifier(prefix, 4, PTE_IDENTIFIER)?;
    let have = file_len.min(prefix.len() as u64);
    if have < MIN_FILE_LEN {
        return Err(PteError::TooShort { what: "program file", found: have, expected: MIN_FILE_LEN });
    }
    if prefix.get(HEADER_AT..HEADER_AT + 4) != Some(HEADER_MAGIC.as_slice()) {
        return Ok(ContainerKind::Plain);
    }
    let too_short = || PteError::TooShort { what: "extended header", found: have, expected: MIN_FILE_LEN };
    let header_len = u32_at(prefix, 12).ok_or_else(too_short)?;
    if header_len < SHORT_HEADER_LEN {
        return Err(header("header length", header_len, format!("at least {SHORT_HEADER_LEN}")));
    }
    let program_size = u64_at(prefix, 16).ok_or_else(too_short)?;
    let segment_base_offset = u64_at(prefix, 24).ok_or_else(too_short)?;
    let segment_data_size = if header_len >= HEADER_LEN { u64_at(prefix, 32).ok_or_else(too_short)? } else { 0 };
    if program_size < MIN_FILE_LEN.min(HEADER_AT as u64 + u64::from(header_len)) {
        return Err(header("program_size", program_size, "at least the size of the header"));
    }
    if program_size > file_len {
        return Err(PteError::TooShort { what: "program part", found: file_len, expected: program_size });
    }
    if segment_base_offset == 0 {
        if segment_data_size != 0 {
            return Err(header("segment_data_size", segment_data_size, "0, because segment_base_offset is 0"));
        }
    } else {
        if segment_base_offset < program_size {
            let expected = format!("at least program_size, which is {program_size}");
            return Err(header("segment_base_offset", segment_base_offset, expected));
        }
        let end = segment_base_offset
            .checked_add(segment_data_size)
            .ok_or_else(|| header("segment_data_size", segment_data_size, "an end that fits 64 bits"))?;
        if end > file_len {
            return Err(PteError::TooShort { what: "segment data", found: file_len, expected: end });
        }
    }
    Ok(ContainerKind::Extended(ExtendedHeader { header_len, program_size, segment_base_offset, segment_data_size }))
}

/// Splices a header of `fields` bytes, zero-padded to a multiple of `pad`, into a finished buffer at byte 8. The root
/// offset grows by the splice, all other offsets are relative.
pub(crate) fn splice(plain: &[u8], fields: &[u8], pad: usize) -> Option<Vec<u8>> {
    let padded = fields.len().checked_next_multiple_of(pad)?;
    let root = u32_at(plain, 0)?.checked_add(u32::try_from(padded).ok()?)?;
    let mut out = Vec::with_capacity(plain.len().checked_add(padded)?);
    out.extend_from_slice(&root.to_le_bytes());
    out.extend_from_slice(plain.get(4..HEADER_AT)?);
    out.extend_from_slice(fields);
    out.resize(HEADER_AT.checked_add(padded)?, 0);
    out.extend_from_slice(plain.get(HEADER_AT..)?);
    Some(out)
}
