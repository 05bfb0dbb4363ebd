//! Views whose elements do not lie one behind the other: transposes and slices.

use std::ops::Range;
use std::sync::Arc;

use pteron_tensor::{ByteSource, DType, Shape, SourceError, TensorSource, check_rows};

/// Bytes of a storage that are read at once.
const SPAN_BYTES: usize = 64 << 10;

/// Elements further apart than this are read one by one.
const WIDEST_STRIDE: usize = 64;

/// A tensor of any strides in a span of a [`ByteSource`]; its rows are gathered when they are asked for.
#[derive(Debug, Clone)]
pub(crate) struct StridedSource {
    label: String,
    dtype: DType,
    shape: Shape,
    strides: Shape,
    bytes: Arc<dyn ByteSource>,
    /// Where the first element lies, in bytes.
    first: u64,
}

impl StridedSource {
    /// The view of `shape` and `strides` that begins `offset` elements after byte `storage` of `bytes`. The caller has
    /// checked that all its elements lie there. `dtype` has whole bytes.
    pub(crate) fn new(
        label: &str,
        dtype: DType,
        shape: &[usize],
        strides: &[usize],
        bytes: Arc<dyn ByteSource>,
        storage: u64,
        offset: u64,
    ) -> StridedSource {
        let first = storage.saturating_add(offset.saturating_mul(dtype.size().unwrap_or(1) as u64));
        let (shape, strides) = (Shape::from_slice(shape), Shape::from_slice(strides));
        StridedSource { label: label.to_owned(), dtype, shape, strides, bytes, first }
    }

    /// Copies `n` elements that are `stride` apart from element `from` of the view's storage to places in `out` that are
    /// `step` apart, from element `to`.
    fn copy_run(&self, run: Run, scratch: &mut Vec<u8>, out: &mut [u8]) -> Result<(), SourceError> {
        let size = self.dtype.size().unwrap_or(1);
        let Run { from, stride, to, step, n } = run;
        let at_once = if stride > WIDEST_STRIDE { 1 } else { (SPAN_BYTES / size / stride.max(1)).max(1) };
        let mut done = 0;
        while done < n {
            let count = (n - done).min(at_once);
            let span = ((count - 1) * stride + 1) * size;
            scratch.resize(span, 0);
            let start = from.saturating_add((done * stride) as u64).saturating_mul(size as u64);
            self.bytes.read_at(self.first.saturating_add(start), scratch)?;
            for i in 0..count {
                let (a, b) = (i * stride * size, (to + (done + i) * step) * size);
                if let (Some(from), Some(to)) = (scratch.get(a..a + size), out.get_mut(b..b + size)) {
                    to.copy_from_slice(from);
                }
            }
            done += count;
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Run {
    from: u64,
    stride: usize,
    to: usize,
    step: usize,
    n: usize,
}

impl TensorSource for StridedSource {
    fn dtype(&self) -> DType {
        self.dtype
    }
    fn shape(&self) -> &[usize] {
        &self.shape
    }
    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        if out.is_empty() {
            return Ok(());
        }
        // Size, stride in the storage and step in `out` of each dimension, that of the rows asked for first.
        let mut dims: Vec<(usize, usize, usize)> = Vec::with_capacity(self.shape.len());
        let mut step = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            dims.push((size, stride, step));
            step *= size;
        }
        let mut from = 0u64;
        if let Some(outermost) = dims.last_mut() {
            outermost.0 = rows.len();
            from = (rows.start as u64).saturating_mul(outermost.1 as u64);
        }
        dims.retain(|(size, ..)| *size > 1);
        // In the storage's order: what lies closest together is read together.
        dims.sort_by_key(|(_, stride, _)| *stride);
        let (n, stride, step) = if dims.is_empty() { (1, 1, 1) } else { dims.remove(0) };
        let mut counters = vec![0usize; dims.len()];
        let (mut to, mut scratch) = (0usize, Vec::new());
        loop {
            self.copy_run(Run { from, stride, to, step, n }, &mut scratch, out)?;
            // The next combination of the outer dimensions.
            let mut carried = true;
            for (counter, &(size, stride, step)) in counters.iter_mut().zip(&dims) {
                if *counter + 1 < size {
                    *counter += 1;
                    from = from.saturating_add(stride as u64);
                    to += step;
                    carried = false;
                    break;
                }
                from -= *counter as u64 * stride as u64;
                to -= *counter * step;
                *counter = 0;
            }
            if carried {
                return Ok(());
            }
        }
    }
    fn label(&self) -> &str {
        &self.label
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::MemoryBytes;

    /// Elements of a u16 view, all rows and in pieces of two.
    fn read(shape: &[usize], strides: &[usize], offset: u64) -> Vec<u16> {
        let storage: Vec<u8> = (0..300u16).flat_map(u16::to_le_bytes).collect();
        let bytes = Arc::new(MemoryBytes::new([vec![9, 9, 9], storage].concat()));
        let source = StridedSource::new("w", DType::U16, shape, strides, bytes, 3, offset);
        let mut all = vec![0; source.byte_len()];
        source.read_rows(0..source.rows(), &mut all).unwrap();
        let mut pieces = Vec::new();
        for start in (0..source.rows()).step_by(2) {
            let rows = start..source.rows().min(start + 2);
            let mut part = vec![0; rows.len() * source.row_bytes()];
            source.read_rows(rows, &mut part).unwrap();
            pieces.extend(part);
        }
        assert_eq!(all, pieces);
        all.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b)).collect()
    }

    #[test]
    fn elements_are_gathered() {
        assert_eq!(read(&[3, 2], &[1, 3], 0), [0, 3, 1, 4, 2, 5]);
        assert_eq!(read(&[2, 3], &[10, 2], 5), [5, 7, 9, 15, 17, 19]);
        assert_eq!(read(&[3], &[100], 1), [1, 101, 201]);
        assert_eq!(read(&[2, 1, 2, 2], &[1, 77, 100, 10], 0), [0, 10, 100, 110, 1, 11, 101, 111]);
        assert_eq!(read(&[2, 2], &[0, 1], 4), [4, 5, 4, 5]);
        assert_eq!(read(&[], &[], 7), [7]);
        assert_eq!(read(&[5, 0], &[1, 1], 0), [] as [u16; 0]);
    }

    #[test]
    fn long_runs_are_read_in_pieces() {
        let n = SPAN_BYTES; // elements of one byte, three apart
        let storage: Vec<u8> = (0..3 * n).map(|i| (i % 251) as u8).collect();
        let bytes = Arc::new(MemoryBytes::new(storage.clone()));
        let source = StridedSource::new("w", DType::U8, &[n], &[3], bytes, 0, 0);
        let mut all = vec![0; n];
        source.read_rows(0..n, &mut all).unwrap();
        assert!(all.iter().enumerate().all(|(i, &b)| b == storage[3 * i]));
    }
}
