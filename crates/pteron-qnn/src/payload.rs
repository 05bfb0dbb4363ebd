//! The bytes that a delegate `QnnBackend` carries: a context binary behind one of three headers.
//!
//! | ExecuTorch | layout |
//! |---|---|
//! | 0.5 | FlatBuffer `BinaryInfo { signature: string, data: [ubyte] }` |
//! | 0.6 | u32 magic, i64 signature, u64 size, then the context at byte 20 |
//! | later | the same fields, zeros up to byte 256, then the context |
//!
//! Integers are little-endian. Two magics tell a context from a graph that is compiled where it runs (*online prepare*): that
//! one, and a bare DLC, are named and refused.

use std::ops::Range;

use pteron_pte::flatbuf::{Field, FlatBuffer, FlatError};

/// Bytes of the header that is written.
pub const HEADER: usize = 256;
const OLD_HEADER: usize = 20;
const MAGIC: u32 = 0x5678_ABCD;
const ONLINE_MAGIC: u32 = 0x1234_ABCD;

/// A payload that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// It is compiled where it runs.
    #[error(
        "QNN payload: found a graph to be compiled on the device (online prepare, {what}), expected a context binary: export \
         it without online prepare"
    )]
    OnlinePrepare {
        /// What was found.
        what: &'static str,
    },
    /// The context is cut.
    #[error("QNN payload: its header says {expected} bytes of context, found {found}")]
    Cut {
        /// Bytes behind the header.
        found: u64,
        /// Bytes that the header says.
        expected: u64,
    },
    /// It is nothing that is known.
    #[error(
        "QNN payload: found {len} bytes that begin with {start:02x?}, expected a context binary of ExecuTorch's: {why}"
    )]
    Unknown {
        /// Its length.
        len: usize,
        /// Its first bytes.
        start: Vec<u8>,
        /// Why the last guess failed.
        why: FlatError,
    },
    /// There is no context in it.
    #[error("QNN payload: field `data` is missing, expected a context binary")]
    NoData,
}

/// Which ExecuTorch wrote a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 0.5.
    Flat,
    /// 0.6.
    Short,
    /// Later ones.
    Long,
}

/// A payload, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// Who wrote it.
    pub era: Era,
    /// By it the runtime knows that two methods share one context.
    pub signature: String,
    /// Where the context binary lies in the payload.
    pub context: Range<usize>,
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

impl Payload {
    /// Takes a payload apart.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn parse(bytes: &[u8]) -> Result<Payload, PayloadError> {
        match u32_at(bytes, 0) {
            Some(MAGIC) => {}
            Some(ONLINE_MAGIC) => return Err(PayloadError::OnlinePrepare { what: "QCIR" }),
            _ if bytes.starts_with(b"PK\x03\x04") => return Err(PayloadError::OnlinePrepare { what: "DLC" }),
            _ => return Payload::parse_flat(bytes),
        }
        let (signature, size) = (u64_at(bytes, 4).unwrap_or(0) as i64, u64_at(bytes, 12).unwrap_or(u64::MAX));
        let signature = signature.to_string();
        let behind = |header: usize| bytes.len().saturating_sub(header) as u64;
        // The long header is told by its zeros: a context does not begin with 236 of them, nor is it nothing but zeros.
        let pad = bytes.get(OLD_HEADER..bytes.len().min(HEADER)).unwrap_or(&[]);
        let is_long = !pad.is_empty() && pad.iter().all(|b| *b == 0);
        let (era, header) = if is_long { (Era::Long, HEADER) } else { (Era::Short, OLD_HEADER) };
        let end = usize::try_from(size).ok().and_then(|s| header.checked_add(s)).filter(|end| *end <= bytes.len());
        match end {
            Some(end) => Ok(Payload { era, signature, context: header..end }),
            None => Err(PayloadError::Cut { found: behind(header), expected: size }),
        }
    }

    fn parse_flat(bytes: &[u8]) -> Result<Payload, PayloadError> {
        let unknown = |why| PayloadError::Unknown {
            len: bytes.len(),
            start: bytes.get(..bytes.len().min(8)).unwrap_or(&[]).to_vec(),
            why,
        };
        let read = || -> Result<Option<(String, Range<usize>)>, FlatError> {
            let buffer = FlatBuffer::new(bytes)?;
            let root = buffer.root(0)?;
            let signature = root.string(Field::new(0, "signature"))?.unwrap_or_default().to_owned();
            Ok(root.byte_range(Field::new(1, "data"))?.map(|range| (signature, range)))
        };
        let (signature, context) = read().map_err(unknown)?.ok_or(PayloadError::NoData)?;
        Ok(Payload { era: Era::Flat, signature, context })
    }

    /// The context binary.
    pub fn context<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.context.clone()).unwrap_or(&[])
    }
}

/// Streams of [`signature`].
const LANES: usize = 8;

/// Takes a word into a hash: multiplied upwards, then folded down, so that each bit of it reaches all others.
fn mixed(hash: u64, word: u64) -> u64 {
    // 2^64 divided by the golden ratio.
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ (product >> 32)
}

/// A 64-bit hash: equal contexts get equal signatures, which ExecuTorch takes from the clock. Over words of 8 bytes, in streams
/// that a processor follows at once, because a context has hundreds of megabytes; then over their hashes and the bytes that are
/// left.
pub(crate) fn signature(bytes: &[u8]) -> i64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|lane| lane as u64);
    let (blocks, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mixed(*lane, u64::from_le_bytes(*word));
        }
    }
    let end = rest.iter().map(|b| u64::from(*b));
    lanes.into_iter().chain(end).fold(bytes.len() as u64, mixed) as i64
}

/// What stands before a context binary, for ExecuTorch 1.5's runtime to read.
pub(crate) fn header(context: &[u8]) -> [u8; HEADER] {
    let mut out = [0u8; HEADER];
    out[..4].copy_from_slice(&MAGIC.to_le_bytes());
    out[4..12].copy_from_slice(&signature(context).to_le_bytes());
    out[12..20].copy_from_slice(&(context.len() as u64).to_le_bytes());
    out
}

/// A payload around a context binary, as ExecuTorch 1.5's runtime reads it.
pub fn write_payload(context: &[u8]) -> Vec<u8> {
    [&header(context), context].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pteron_pte::flatbuf::{Builder, TableFields};

    const CONTEXT: &[u8] = b"a context binary that is none";

    #[test]
    fn what_is_written_is_read() {
        let bytes = write_payload(CONTEXT);
        let payload = Payload::parse(&bytes).expect("it was just written");
        assert_eq!((payload.era, payload.context(&bytes)), (Era::Long, CONTEXT));
        assert_eq!(payload.signature, signature(CONTEXT).to_string());
        assert_ne!(signature(CONTEXT), signature(&CONTEXT[1..]));
        // Every byte counts, in whole blocks and behind them.
        let bytes: Vec<u8> = (0..200).collect();
        let changed = |at: usize| {
            let mut other = bytes.clone();
            other[at] ^= 1;
            signature(&other)
        };
        let all: std::collections::BTreeSet<i64> = (0..bytes.len()).map(changed).chain([signature(&bytes)]).collect();
        assert_eq!(all.len(), bytes.len() + 1);
    }

    #[test]
    fn the_header_without_padding() {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.extend((-7i64).to_le_bytes());
        bytes.extend((CONTEXT.len() as u64).to_le_bytes());
        bytes.extend(CONTEXT);
        let payload = Payload::parse(&bytes).expect("ExecuTorch 0.6's");
        assert_eq!((payload.era, payload.signature.as_str()), (Era::Short, "-7"));
        assert_eq!(payload.context(&bytes), CONTEXT);
        let short = Payload::parse(&bytes[..bytes.len() - 1]);
        assert_eq!(short, Err(PayloadError::Cut { found: 28, expected: 29 }));
    }

    #[test]
    fn the_flatbuffer() {
        let mut b = Builder::new();
        let (signature, data) = (b.string("1720000"), b.bytes(CONTEXT, 1));
        let fields =
            TableFields::new().offset(Field::new(0, "signature"), signature).offset(Field::new(1, "data"), data);
        let root = b.table(fields);
        let bytes = b.finish_plain(root).expect("short");
        let payload = Payload::parse(&bytes).expect("ExecuTorch 0.5's");
        assert_eq!((payload.era, payload.signature.as_str()), (Era::Flat, "1720000"));
        assert_eq!(payload.context(&bytes), CONTEXT);
    }

    #[test]
    fn what_is_no_context_is_named() {
        let refused = |bytes: &[u8]| Payload::parse(bytes).expect_err("no context").to_string();
        assert!(refused(&ONLINE_MAGIC.to_le_bytes()).contains("QCIR"));
        assert!(refused(b"PK\x03\x04 and more").contains("DLC"));
        assert!(refused(&MAGIC.to_le_bytes()).contains("found 0"));
        assert!(refused(b"").contains("found 0 bytes"));
        assert!(refused(b"something else entirely").contains("expected a context binary"));
        let long = &write_payload(CONTEXT)[..HEADER + 3];
        assert!(refused(long).contains("found 3"), "{}", refused(long));
    }
}
