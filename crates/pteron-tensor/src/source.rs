//! Where the bytes of a constant come from.
//!
//! A [`ByteSource`] is a span of raw bytes (a mapped file, memory). A [`TensorSource`] is a tensor decoded from it by rows,
//! when asked and no earlier, so that a model larger than memory can be written without ever being held.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::{AlignedBytes, DType, Shape, cast_bytes, checked_numel};

/// Why bytes could not be delivered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SourceError {
    /// A range outside what is there.
    #[error("{what}: bytes {start}..{end} asked for, {len} there")]
    OutOfRange {
        /// Which source.
        what: String,
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Bytes there.
        len: u64,
    },
    /// The caller's buffer has another size than the rows.
    #[error("{what}: a buffer of {found} bytes was given for rows of {expected} bytes")]
    BufferSize {
        /// Which source.
        what: String,
        /// Bytes given.
        found: usize,
        /// Bytes needed.
        expected: usize,
    },
    /// The declared shape does not fit the bytes.
    #[error("{what}: {dtype} {shape:?} needs {expected} bytes, found {found}")]
    Size {
        /// Which source.
        what: String,
        /// The element type.
        dtype: DType,
        /// The sizes.
        shape: Vec<usize>,
        /// Bytes needed.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Reading or decoding failed below.
    #[error("{what}: {reason}")]
    Failed {
        /// Which source.
        what: String,
        /// What went wrong.
        reason: String,
    },
}

/// A span of raw bytes.
pub trait ByteSource: Send + Sync + fmt::Debug {
    /// Number of bytes.
    fn len(&self) -> u64;

    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `out.len()` bytes from `offset`.
    ///
    /// # Errors
    /// [`SourceError::OutOfRange`] past the end, or what the medium reports.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError>;

    /// All the bytes, if they are addressable without copying.
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }

    /// Says that `len` bytes from `offset` are not needed for now, so that a mapped file's need not stay in memory. They are
    /// there as before when they are asked for again. Nothing, where there is nothing to do.
    fn release(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
}

/// A tensor whose rows (slices along dimension 0; a scalar tensor is one row) are decoded on demand. Elements are
/// little-endian and row-major.
pub trait TensorSource: Send + Sync + fmt::Debug {
    /// Element type of the decoded rows.
    fn dtype(&self) -> DType;

    /// Sizes of the whole tensor.
    fn shape(&self) -> &[usize];

    /// Decodes rows `rows` into `out`, which has exactly their size in bytes.
    ///
    /// # Errors
    /// [`SourceError`] if the range or the buffer does not fit, or decoding fails.
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError>;

    /// The decoded bytes, if they lie in memory as they are.
    fn as_slice(&self) -> Option<&[u8]> {
        None
    }

    /// Says that the bytes are not needed for now: [`ByteSource::release`].
    fn release(&self) {}

    /// What this is called in messages: the checkpoint's name of the tensor.
    fn label(&self) -> &str;

    /// Number of rows.
    fn rows(&self) -> usize {
        self.shape().first().copied().unwrap_or(1)
    }

    /// Elements in one row.
    fn row_numel(&self) -> usize {
        self.shape().iter().skip(1).product()
    }

    /// Bytes in one row; rows of `i4` are whole bytes.
    fn row_bytes(&self) -> usize {
        self.dtype().bytes_for(self.row_numel()).unwrap_or(usize::MAX)
    }

    /// Bytes in the whole tensor.
    fn byte_len(&self) -> usize {
        self.rows().saturating_mul(self.row_bytes())
    }
}

/// A shared, type-erased source, as constants hold it.
pub type SharedSource = Arc<dyn TensorSource>;

/// Decodes a whole source into memory.
///
/// # Errors
/// What [`TensorSource::read_rows`] gives.
pub fn read_all(source: &dyn TensorSource) -> Result<AlignedBytes, SourceError> {
    if let Some(s) = source.as_slice() {
        return Ok(AlignedBytes::copied(s));
    }
    let mut out = AlignedBytes::zeroed(source.byte_len());
    source.read_rows(0..source.rows(), &mut out)?;
    Ok(out)
}

/// Checks what [`TensorSource::read_rows`] of `s` is asked for: for implementations to begin with.
///
/// # Errors
/// [`SourceError::OutOfRange`] for rows that are not there, [`SourceError::BufferSize`] for a buffer of another size.
pub fn check_rows(s: &dyn TensorSource, rows: &Range<usize>, out: &[u8]) -> Result<(), SourceError> {
    if rows.start > rows.end || rows.end > s.rows() {
        return Err(SourceError::OutOfRange {
            what: format!("{} (rows)", s.label()),
            start: rows.start as u64,
            end: rows.end as u64,
            len: s.rows() as u64,
        });
    }
    let expected = rows.len().saturating_mul(s.row_bytes());
    if out.len() != expected {
        return Err(SourceError::BufferSize { what: s.label().to_owned(), found: out.len(), expected });
    }
    Ok(())
}

/// Copies `out.len()` bytes from `offset` of `all`, for sources whose bytes lie in memory.
///
/// # Errors
/// [`SourceError::OutOfRange`] past the end, naming `what`.
pub fn copy_range(what: &dyn fmt::Display, all: &[u8], offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
    let end = offset.saturating_add(out.len() as u64);
    let span = usize::try_from(offset).ok().zip(usize::try_from(end).ok()).and_then(|(s, e)| all.get(s..e));
    let Some(bytes) = span else {
        return Err(SourceError::OutOfRange { what: what.to_string(), start: offset, end, len: all.len() as u64 });
    };
    out.copy_from_slice(bytes);
    Ok(())
}

/// Bytes in memory that others hold as well, whatever keeps them: a list, a map of a file.
#[derive(Clone)]
pub struct SharedBytes(Arc<dyn AsRef<[u8]> + Send + Sync>);

impl SharedBytes {
    /// The bytes of `kept`, which do not change.
    pub fn new(kept: impl AsRef<[u8]> + Send + Sync + 'static) -> SharedBytes {
        SharedBytes(Arc::new(kept))
    }
}

impl Deref for SharedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

impl fmt::Debug for SharedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedBytes({})", self.len())
    }
}

impl From<Vec<u8>> for SharedBytes {
    fn from(bytes: Vec<u8>) -> SharedBytes {
        SharedBytes::new(bytes)
    }
}

impl From<&[u8]> for SharedBytes {
    fn from(bytes: &[u8]) -> SharedBytes {
        bytes.to_vec().into()
    }
}

impl ByteSource for SharedBytes {
    fn len(&self) -> u64 {
        (**self).len() as u64
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        copy_range(&"bytes in memory", self, offset, out)
    }
    fn as_slice(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// The bytes of a tensor, of which another tensor may be a part.
#[derive(Debug, Clone)]
pub struct TensorBytes(pub SharedSource);

impl ByteSource for TensorBytes {
    fn len(&self) -> u64 {
        self.0.byte_len() as u64
    }
    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        if let Some(all) = self.0.as_slice() {
            return copy_range(&self.0.label(), all, offset, out);
        }
        let row = self.0.row_bytes().max(1);
        let past = || SourceError::OutOfRange {
            what: self.0.label().to_owned(),
            start: offset,
            end: offset.saturating_add(out.len() as u64),
            len: self.len(),
        };
        let start = usize::try_from(offset).map_err(|_| past())?;
        let end = start.checked_add(out.len()).filter(|&e| e <= self.0.byte_len()).ok_or_else(past)?;
        let rows = start / row..end.div_ceil(row);
        if start.is_multiple_of(row) && end.is_multiple_of(row) {
            return self.0.read_rows(rows, out);
        }
        let first = rows.start.saturating_mul(row);
        let mut whole = vec![0; rows.len().saturating_mul(row)];
        self.0.read_rows(rows, &mut whole)?;
        copy_range(&self.0.label(), &whole, (start - first) as u64, out)
    }
    fn as_slice(&self) -> Option<&[u8]> {
        self.0.as_slice()
    }
    fn release(&self, _: u64, _: u64) {
        self.0.release();
    }
}

/// A tensor held in memory.
#[derive(Debug, Clone)]
pub struct MemorySource {
    label: String,
    dtype: DType,
    shape: Shape,
    bytes: AlignedBytes,
}

impl MemorySource {
    /// A tensor from its bytes.
    ///
    /// # Errors
    /// [`SourceError::Size`] if `bytes` has another length than `shape` needs.
    pub fn new(label: &str, dtype: DType, shape: &[usize], bytes: AlignedBytes) -> Result<MemorySource, SourceError> {
        let shape = Shape::from_slice(shape);
        let expected = checked_numel(&shape).ok().and_then(|n| dtype.bytes_for(n)).unwrap_or(usize::MAX);
        if expected != bytes.len() {
            return Err(SourceError::Size {
                what: label.to_owned(),
                dtype,
                shape: shape.to_vec(),
                expected: expected as u64,
                found: bytes.len() as u64,
            });
        }
        Ok(MemorySource { label: label.to_owned(), dtype, shape, bytes })
    }

    /// A tensor of `values`.
    ///
    /// # Errors
    /// [`SourceError::Size`] if their number does not fit `shape`.
    pub fn of<T: crate::Element>(label: &str, shape: &[usize], values: &[T]) -> Result<MemorySource, SourceError> {
        MemorySource::new(label, T::DTYPE, shape, AlignedBytes::copied(bytemuck::cast_slice(values)))
    }
}

impl TensorSource for MemorySource {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let n = self.row_bytes();
        out.copy_from_slice(&self.bytes[rows.start * n..rows.end * n]);
        Ok(())
    }
    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.bytes)
    }
    fn label(&self) -> &str {
        &self.label
    }
}

/// A tensor that lies as it is in a span of a [`ByteSource`].
#[derive(Debug, Clone)]
pub struct RangeSource {
    label: String,
    dtype: DType,
    shape: Shape,
    bytes: Arc<dyn ByteSource>,
    offset: u64,
}

impl RangeSource {
    /// The tensor of `shape` that starts at byte `offset` of `bytes`.
    ///
    /// # Errors
    /// [`SourceError`] if it does not fit there.
    pub fn new(
        label: &str,
        dtype: DType,
        shape: &[usize],
        bytes: Arc<dyn ByteSource>,
        offset: u64,
    ) -> Result<RangeSource, SourceError> {
        let shape = Shape::from_slice(shape);
        let need = checked_numel(&shape).ok().and_then(|n| dtype.bytes_for(n)).unwrap_or(usize::MAX) as u64;
        let end = offset.saturating_add(need);
        if end > bytes.len() {
            return Err(SourceError::OutOfRange { what: label.to_owned(), start: offset, end, len: bytes.len() });
        }
        Ok(RangeSource { label: label.to_owned(), dtype, shape, bytes, offset })
    }
}

impl TensorSource for RangeSource {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        self.bytes.read_at(self.offset + (rows.start * self.row_bytes()) as u64, out)
    }
    fn as_slice(&self) -> Option<&[u8]> {
        let start = usize::try_from(self.offset).ok()?;
        self.bytes.as_slice()?.get(start..start + self.byte_len())
    }
    fn release(&self) {
        self.bytes.release(self.offset, self.byte_len() as u64);
    }
    fn label(&self) -> &str {
        &self.label
    }
}

/// Bytes of rows that a [`CastSource`] reads at once, if a row is no longer.
const CAST_SCRATCH: usize = 1 << 18;

/// Another source with its elements converted to `dtype`.
#[derive(Debug, Clone)]
pub struct CastSource {
    inner: SharedSource,
    dtype: DType,
}

impl CastSource {
    /// `inner` as `dtype`; `inner` itself if it already is.
    pub fn wrap(inner: SharedSource, dtype: DType) -> SharedSource {
        if inner.dtype() == dtype { inner } else { Arc::new(CastSource { inner, dtype }) }
    }
}

impl TensorSource for CastSource {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        self.inner.shape()
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let (n, numel) = (self.inner.row_bytes(), self.row_numel());
        let failed = || SourceError::Failed {
            what: self.label().to_owned(),
            reason: format!("cannot convert {} to {}", self.inner.dtype(), self.dtype),
        };
        if let Some(all) = self.inner.as_slice() {
            let src = &all[rows.start * n..rows.end * n];
            return cast_bytes(src, self.inner.dtype(), out, self.dtype, numel * rows.len()).ok_or_else(failed);
        }
        // A few rows at a time keep the scratch small whatever the caller asks for.
        let packed = self.inner.dtype() == DType::I4 || self.dtype == DType::I4;
        // Rows of i4 are whole bytes, whatever their length.
        let step = if packed { 1 } else { (CAST_SCRATCH / n.max(1)).clamp(1, rows.len().max(1)) };
        let mut scratch = vec![0u8; n * step];
        for (start, out) in rows.clone().step_by(step).zip(out.chunks_mut((self.row_bytes() * step).max(1))) {
            let some = start..rows.end.min(start + step);
            let scratch = &mut scratch[..n * some.len()];
            self.inner.read_rows(some.clone(), scratch)?;
            cast_bytes(scratch, self.inner.dtype(), out, self.dtype, numel * some.len()).ok_or_else(failed)?;
        }
        Ok(())
    }
    fn release(&self) {
        self.inner.release();
    }
    fn label(&self) -> &str {
        self.inner.label()
    }
}

/// Another source with its rows in another order: row `i` is the inner row `map(i)`.
#[derive(Clone)]
pub struct RowMapSource {
    inner: SharedSource,
    map: fn(usize, &[usize; 2]) -> usize,
    params: [usize; 2],
}

impl RowMapSource {
    /// `inner` with row `i` taken from inner row `map(i, params)`, a permutation.
    pub fn wrap(inner: SharedSource, map: fn(usize, &[usize; 2]) -> usize, params: [usize; 2]) -> SharedSource {
        Arc::new(RowMapSource { inner, map, params })
    }
}

impl fmt::Debug for RowMapSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowMapSource").field("inner", &self.inner).field("params", &self.params).finish_non_exhaustive()
    }
}

impl TensorSource for RowMapSource {
    fn dtype(&self) -> DType {
        self.inner.dtype()
    }
    fn shape(&self) -> &[usize] {
        self.inner.shape()
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        for (row, out) in rows.zip(out.chunks_exact_mut(self.row_bytes().max(1))) {
            let from = (self.map)(row, &self.params);
            self.inner.read_rows(from..from + 1, out)?;
        }
        Ok(())
    }
    fn release(&self) {
        self.inner.release();
    }
    fn label(&self) -> &str {
        self.inner.label()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> SharedSource {
        let v: Vec<f32> = (0..12).map(|i| i as f32).collect();
        Arc::new(MemorySource::of("w", &[4, 3], &v).unwrap())
    }

    #[test]
    fn rows_are_decoded_by_range() {
        let mut out = [0u8; 12];
        CastSource::wrap(source(), DType::F16).read_rows(1..3, &mut out).unwrap();
        let h: Vec<f32> = bytemuck::pod_collect_to_vec::<u8, half::f16>(&out).iter().map(|h| h.to_f32()).collect();
        assert_eq!(h, [3., 4., 5., 6., 7., 8.]);
    }

    #[test]
    fn rows_are_permuted() {
        let s = RowMapSource::wrap(source(), |i, p| p[0] - 1 - i, [4, 0]);
        let all = read_all(CastSource::wrap(s, DType::I64).as_ref()).unwrap();
        assert_eq!(bytemuck::cast_slice::<u8, i64>(&all)[..4], [9, 10, 11, 6]);
    }

    #[test]
    fn the_bytes_of_a_tensor_are_read_at_any_offset() {
        let whole = TensorBytes(source());
        // Decoded by rows: has no slice.
        let decoded = TensorBytes(RowMapSource::wrap(source(), |i, _| i, [0, 0]));
        for (offset, len) in [(0, 48), (12, 12), (5, 20), (47, 1), (48, 0), (13, 3)] {
            let (mut a, mut b) = (vec![0u8; len], vec![1u8; len]);
            whole.read_at(offset, &mut a).unwrap();
            decoded.read_at(offset, &mut b).unwrap();
            assert_eq!(a, b, "{offset} {len}");
        }
        assert!(whole.read_at(40, &mut [0; 9]).is_err() && decoded.read_at(40, &mut [0; 9]).is_err());
    }

    #[test]
    fn ranges_and_buffers_are_checked() {
        let s = source();
        assert!(matches!(s.read_rows(3..5, &mut [0; 24]), Err(SourceError::OutOfRange { .. })));
        assert!(matches!(s.read_rows(0..1, &mut [0; 11]), Err(SourceError::BufferSize { .. })));
        assert!(MemorySource::of("w", &[5], &[1f32]).is_err());
    }
}
