//! The header before the FlatBuffers part.

use std::ops::Range;

use crate::error::XnnpackError;

/// Bytes of the header that are defined; all fields little-endian.
pub(super) const LEN_FIELD: u16 = 30;
const LEN: u64 = LEN_FIELD as u64;
/// At byte 4 of a blob with a header.
pub(super) const MAGIC: &[u8; 4] = b"XH00";
/// Identifiers of the graph: of older files with constants inside, and of current ones.
const IDENTIFIERS: [&[u8; 4]; 2] = [b"XN00", b"XN01"];
/// Shortest FlatBuffers part.
const MIN_FLATBUFFER: u64 = 8;

/// Where the parts of a blob are; all ranges lie in the blob.
pub(crate) struct Parts {
    pub(crate) flatbuffer: Range<usize>,
    pub(crate) constants: Range<usize>,
    pub(crate) identifier: [u8; 4],
}

fn le(blob: &[u8], at: usize, n: usize) -> u64 {
    let mut word = [0u8; 8];
    for (w, b) in word.iter_mut().zip(blob.iter().skip(at).take(n)) {
        *w = *b;
    }
    u64::from_le_bytes(word)
}

fn part(blob: &[u8], what: &str, offset: u64, size: u64) -> Result<Range<usize>, XnnpackError> {
    let fits = || {
        let (start, size) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
        let end = start.checked_add(size)?;
        (end <= blob.len()).then_some(start..end)
    };
    fits().ok_or_else(|| {
        XnnpackError::malformed(
            format!("header, {what}"),
            format!("{size} bytes from byte {offset}"),
            format!("a part of the {} bytes of the payload", blob.len()),
        )
    })
}

pub(crate) fn read(blob: &[u8]) -> Result<Parts, XnnpackError> {
    let magic = blob.get(4..8).unwrap_or_default();
    let (flatbuffer, constants) = if magic == MAGIC {
        if (blob.len() as u64) < LEN {
            return Err(XnnpackError::malformed("header", format!("{} bytes", blob.len()), format!("{LEN} bytes")));
        }
        let header_len = le(blob, 8, 2);
        let offset = le(blob, 10, 4);
        if header_len < LEN {
            return Err(XnnpackError::malformed("header, header length", header_len, format!("at least {LEN}")));
        }
        if offset < header_len {
            let expected = format!("at least {header_len}, behind the header");
            return Err(XnnpackError::malformed("header, flatbuffer offset", offset, expected));
        }
        (
            part(blob, "flatbuffer", offset, le(blob, 14, 4))?,
            part(blob, "constant data", le(blob, 18, 4), le(blob, 22, 8))?,
        )
    } else {
        (0..blob.len(), 0..0)
    };
    if (flatbuffer.len() as u64) < MIN_FLATBUFFER {
        let expected = format!("at least {MIN_FLATBUFFER} bytes");
        return Err(XnnpackError::malformed("flatbuffer", format!("{} bytes", flatbuffer.len()), expected));
    }
    let found = blob.get(flatbuffer.start + 4..flatbuffer.start + 8).unwrap_or_default();
    match IDENTIFIERS.iter().find(|i| i.as_slice() == found) {
        Some(i) => Ok(Parts { flatbuffer, constants, identifier: **i }),
        None => Err(XnnpackError::malformed(
            "file identifier",
            format!("\"{}\"", found.escape_ascii()),
            "\"XN00\" or \"XN01\", or a header with \"XH00\"",
        )),
    }
}
