//! Layout of the data segments behind a head.

use crate::error::PteError;

/// Alignment of segments unless asked otherwise, bytes (the exporter's default).
pub const DEFAULT_SEGMENT_ALIGNMENT: u64 = 128;

/// Size and alignment of a segment that the caller will write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSpec {
    /// Bytes.
    pub size: u64,
    /// Alignment of the segment's first byte beside the file-wide one; at least 1.
    pub alignment: u64,
}

impl SegmentSpec {
    /// A segment without an alignment of its own.
    pub fn new(size: u64) -> Self {
        SegmentSpec { size, alignment: 1 }
    }
}

/// The head of a file and where the caller puts the segments.
///
/// A file is `head`, then each segment at its offset with zero bytes between; `total_len` bytes in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// The first bytes of the file, padded with zeros up to the segment base if there is segment data.
    pub head: Vec<u8>,
    /// Bytes of the head without the padding.
    pub program_size: u64,
    /// Absolute offset of each segment in the file; a segment without bytes may lie at `total_len`.
    pub segment_offsets: Vec<u64>,
    /// Length of the file.
    pub total_len: u64,
}

/// Segments relative to the base.
pub(crate) struct Layout {
    pub(crate) offsets: Vec<u64>,
    /// End of the last segment.
    pub(crate) len: u64,
    /// Alignment of the base that makes every segment's absolute offset aligned as asked.
    pub(crate) base_alignment: u64,
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn too_big(found: impl std::fmt::Display) -> PteError {
    PteError::Unwritable {
        what: "segment layout",
        found: found.to_string(),
        expected: "offsets, sizes and alignments that fit 63 bits".to_owned(),
    }
}

pub(crate) fn align_up(n: u64, alignment: u64) -> Option<u64> {
    let up = n.checked_next_multiple_of(alignment)?;
    (up <= i64::MAX as u64).then_some(up)
}

/// Puts each segment at the next multiple of the least common multiple of `alignment` and its own alignment.
pub(crate) fn lay_out(specs: &[SegmentSpec], alignment: u64) -> Result<Layout, PteError> {
    let mut layout = Layout { offsets: Vec::with_capacity(specs.len()), len: 0, base_alignment: alignment };
    for spec in specs {
        if spec.alignment == 0 || alignment == 0 {
            return Err(PteError::Unwritable {
                what: "segment layout",
                found: "alignment 0".to_owned(),
                expected: "an alignment of at least 1".to_owned(),
            });
        }
        let lcm = |a: u64, b: u64| (a / gcd(a, b)).checked_mul(b).ok_or_else(|| too_big(format!("alignment {b}")));
        let own = lcm(alignment, spec.alignment)?;
        layout.base_alignment = lcm(layout.base_alignment, own)?;
        let start = align_up(layout.len, own).ok_or_else(|| too_big(format!("offset {}", layout.len)))?;
        layout.offsets.push(start);
        layout.len = start
            .checked_add(spec.size)
            .filter(|end| *end <= i64::MAX as u64)
            .ok_or_else(|| too_big(format!("a segment of {} bytes", spec.size)))?;
    }
    Ok(layout)
}

/// Puts a head and its segments together in memory.
pub(crate) fn join(encoded: Encoded, segments: &[&[u8]]) -> Result<Vec<u8>, PteError> {
    let too_long = || too_big(format!("{} bytes in memory", encoded.total_len));
    let total = usize::try_from(encoded.total_len).map_err(|_| too_long())?;
    let mut file = encoded.head;
    file.reserve_exact(total.saturating_sub(file.len()));
    for (offset, bytes) in encoded.segment_offsets.iter().zip(segments) {
        if bytes.is_empty() {
            continue;
        }
        let offset = usize::try_from(*offset).map_err(|_| too_big(offset))?;
        file.resize(offset, 0);
        file.extend_from_slice(bytes);
    }
    file.resize(total, 0);
    Ok(file)
}
