//! Weights that are rotated while they are read.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pteron_tensor::{CastSource, DType, SharedSource, SourceError, TensorSource, check_rows};

use super::matrix::Matrix;

/// Rows, or columns, that are rotated together.
const TOGETHER: usize = 16;

/// The whole matrix that was rotated last, as f32, and the number of its source: rows of a product with a matrix on the left need
/// all rows, and a weight's rows are asked for one part after the other.
#[derive(Debug, Default)]
pub(super) struct Desk(Mutex<Option<(u64, Arc<Vec<u8>>)>>);

/// Sources so far.
static SOURCES: AtomicU64 = AtomicU64::new(0);

impl Desk {
    fn get(
        &self,
        source: u64,
        make: impl FnOnce() -> Result<Vec<u8>, SourceError>,
    ) -> Result<Arc<Vec<u8>>, SourceError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, bytes)) = &*held
            && *of == source
        {
            return Ok(Arc::clone(bytes));
        }
        // Before the next one is made, so that there is one at a time.
        *held = None;
        let bytes = Arc::new(make()?);
        *held = Some((source, Arc::clone(&bytes)));
        Ok(bytes)
    }

    fn clear(&self, source: u64) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if held.as_ref().is_some_and(|(of, _)| *of == source) {
            *held = None;
        }
    }
}

/// `Lᵀ · W · diag(gain) · R` as f32, each product computed in f64. `L` and `R` are repeated along the diagonal until they have the
/// weight's sizes. A vector has one column.
#[derive(Debug)]
pub(super) struct RotatedSource {
    /// Its number on the desk.
    number: u64,
    /// Elements of f32.
    inner: SharedSource,
    pub(super) gain: Option<Arc<[f64]>>,
    pub(super) left: Option<Arc<Matrix>>,
    pub(super) right: Option<Arc<Matrix>>,
    desk: Arc<Desk>,
}

impl RotatedSource {
    /// `inner` as it is, until something is set.
    pub(super) fn new(inner: SharedSource, desk: &Arc<Desk>) -> RotatedSource {
        let (number, inner) = (SOURCES.fetch_add(1, Ordering::Relaxed), CastSource::wrap(inner, DType::F32));
        RotatedSource { number, inner, gain: None, left: None, right: None, desk: Arc::clone(desk) }
    }

    /// Rows of `W · diag(gain) · R`.
    fn read_right(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let (columns, bytes) = (self.row_numel(), self.row_bytes());
        let (mut values, mut scratch) = (Vec::new(), Vec::new());
        for (start, out) in rows.clone().step_by(TOGETHER).zip(out.chunks_mut((bytes * TOGETHER).max(1))) {
            let some = start..rows.end.min(start + TOGETHER);
            let width = some.len();
            self.inner.read_rows(some, out)?;
            let cells = out.as_chunks_mut::<4>().0;
            values.clear();
            values.resize(cells.len(), 0.0);
            for (i, cell) in cells.iter().enumerate() {
                let (row, column) = (i / columns, i % columns);
                let value = f64::from(f32::from_le_bytes(*cell));
                if !value.is_finite() {
                    let reason = format!("row {}, column {column} is {value}: it cannot be rotated", start + row);
                    return Err(SourceError::Failed { what: self.label().to_owned(), reason });
                }
                values[column * width + row] = value * self.gain.as_ref().map_or(1.0, |g| g[column]);
            }
            if let Some(right) = &self.right {
                let part = right.size() * width;
                values.chunks_exact_mut(part).for_each(|part| right.apply(part, width, &mut scratch));
            }
            for (i, cell) in cells.iter_mut().enumerate() {
                *cell = (values[i % columns * width + i / columns] as f32).to_le_bytes();
            }
        }
        Ok(())
    }

    /// All of it.
    fn whole(&self, left: &Matrix) -> Result<Vec<u8>, SourceError> {
        let mut out = vec![0; self.byte_len()];
        self.read_right(0..self.rows(), &mut out)?;
        let (rows, columns) = (self.rows(), self.row_numel());
        let cells = out.as_chunks_mut::<4>().0;
        let (mut values, mut scratch) = (Vec::new(), Vec::new());
        for start in (0..columns).step_by(TOGETHER) {
            let width = TOGETHER.min(columns - start);
            values.clear();
            for row in 0..rows {
                let some = &cells[row * columns + start..][..width];
                values.extend(some.iter().map(|cell| f64::from(f32::from_le_bytes(*cell))));
            }
            values.chunks_exact_mut(left.size() * width).for_each(|part| left.apply(part, width, &mut scratch));
            for (row, values) in values.chunks_exact(width).enumerate() {
                let some = &mut cells[row * columns + start..][..width];
                some.iter_mut().zip(values).for_each(|(cell, v)| *cell = (*v as f32).to_le_bytes());
            }
        }
        self.inner.release();
        Ok(out)
    }
}

impl TensorSource for RotatedSource {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn shape(&self) -> &[usize] {
        self.inner.shape()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let Some(left) = &self.left else { return self.read_right(rows, out) };
        let all = self.desk.get(self.number, || self.whole(left))?;
        let n = self.row_bytes();
        out.copy_from_slice(&all[rows.start * n..rows.end * n]);
        Ok(())
    }

    fn release(&self) {
        self.inner.release();
        self.desk.clear(self.number);
    }

    fn label(&self) -> &str {
        self.inner.label()
    }
}
