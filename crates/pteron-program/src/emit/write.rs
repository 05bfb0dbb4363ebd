//! Streaming a file: head, then each part at its offset, zeros between.

use std::io::Write;

use pteron_ir::TensorType;
use pteron_tensor::{SharedSource, strides_for};

use super::data::PieceData;
use crate::error::WriteError;

/// Bytes that stand at an offset of a file.
#[derive(Debug, Clone)]
pub struct Part {
    /// What it is: a constant's name, a key of named data, `delegate`.
    pub name: String,
    /// Offset of its first byte in the file.
    pub offset: u64,
    /// Its bytes.
    pub len: u64,
    data: PieceData,
}

impl Part {
    pub(super) fn new(name: String, offset: u64, len: u64, data: PieceData) -> Part {
        Part { name, offset, len, data }
    }
}

/// A file to be written: its first bytes, and parts of which nothing has been read yet.
#[derive(Debug, Clone)]
pub struct EmittedData {
    /// The first bytes.
    pub head: Vec<u8>,
    /// Length of the whole file.
    pub total_len: u64,
    /// What stands behind the head, by rising offset.
    pub parts: Vec<Part>,
}

impl EmittedData {
    /// Largest piece of a constant that is read at once, bytes; a single row may be larger.
    pub const SCRATCH: usize = 1 << 20;

    /// Writes the file from its first byte to its last; `progress` is told the bytes of each piece written.
    ///
    /// # Errors
    /// [`WriteError`] of a source or of the destination.
    pub fn write_to(&self, out: &mut dyn Write, progress: &mut dyn FnMut(u64)) -> Result<(), WriteError> {
        let mut w = Writer { out, progress, at: 0, scratch: Vec::new() };
        w.bytes(&self.head)?;
        for p in &self.parts {
            w.zeros(p.offset)?;
            match &p.data {
                PieceData::Bytes(b) => w.bytes(b)?,
                PieceData::Tensor(source, ty) => {
                    let result = if ty.order.is_some() { w.ordered(source, ty) } else { w.rows(source) };
                    result.map_err(|e| match e {
                        Failure::Source(source) => WriteError::Source { name: p.name.clone(), source },
                        Failure::Sink(e) => WriteError::Sink(e),
                    })?;
                }
            }
        }
        w.zeros(self.total_len)?;
        Ok(())
    }
}

enum Failure {
    Source(pteron_tensor::SourceError),
    Sink(std::io::Error),
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Failure {
        Failure::Sink(e)
    }
}

impl From<pteron_tensor::SourceError> for Failure {
    fn from(e: pteron_tensor::SourceError) -> Failure {
        Failure::Source(e)
    }
}

struct Writer<'w> {
    out: &'w mut dyn Write,
    progress: &'w mut dyn FnMut(u64),
    at: u64,
    scratch: Vec<u8>,
}

impl Writer<'_> {
    fn bytes(&mut self, b: &[u8]) -> std::io::Result<()> {
        for piece in b.chunks(EmittedData::SCRATCH) {
            self.out.write_all(piece)?;
            self.at += piece.len() as u64;
            (self.progress)(piece.len() as u64);
        }
        Ok(())
    }

    fn zeros(&mut self, to: u64) -> std::io::Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < to {
            let n = usize::try_from(to - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.bytes(&ZEROS[..n])?;
        }
        Ok(())
    }

    /// A tensor as its rows come.
    fn rows(&mut self, source: &SharedSource) -> Result<(), Failure> {
        if let Some(all) = source.as_slice() {
            return Ok(self.bytes(all)?);
        }
        let (rows, row) = (source.rows(), source.row_bytes());
        let step = (EmittedData::SCRATCH / row.max(1)).max(1);
        let mut from = 0;
        while from < rows {
            let to = from.saturating_add(step).min(rows);
            let mut scratch = std::mem::take(&mut self.scratch);
            scratch.resize((to - from).saturating_mul(row), 0);
            source.read_rows(from..to, &mut scratch)?;
            self.bytes(&scratch)?;
            self.scratch = scratch;
            from = to;
        }
        Ok(())
    }

    /// A row-major tensor into another dim order: one piece of the result at a time, for which all rows are read.
    fn ordered(&mut self, source: &SharedSource, ty: &TensorType) -> Result<(), Failure> {
        let shape = source.shape().to_vec();
        let failed = |reason: String| {
            Failure::Source(pteron_tensor::SourceError::Failed { what: source.label().to_owned(), reason })
        };
        let strides = strides_for(&shape, &ty.dim_order()).map_err(|e| failed(e.to_string()))?;
        let size = source.dtype().bits() / 8;
        let (rows, row) = (source.rows(), source.row_bytes());
        let total = source.byte_len();
        let step = (EmittedData::SCRATCH / row.max(1)).max(1);
        let mut piece_start = 0;
        while piece_start < total {
            let piece_end = piece_start.saturating_add(EmittedData::SCRATCH / size.max(1) * size).min(total);
            let mut piece = vec![0u8; piece_end - piece_start];
            let mut from = 0;
            while from < rows {
                let to = from.saturating_add(step).min(rows);
                let mut scratch = std::mem::take(&mut self.scratch);
                scratch.resize((to - from).saturating_mul(row), 0);
                source.read_rows(from..to, &mut scratch)?;
                let mut index = vec![0usize; shape.len()];
                if let Some(first) = index.first_mut() {
                    *first = from;
                }
                for element in scratch.chunks_exact(size.max(1)) {
                    let at = index.iter().zip(&strides).map(|(i, s)| i * s).sum::<usize>() * size;
                    if (piece_start..piece_end).contains(&at)
                        && let Some(target) = piece.get_mut(at - piece_start..at - piece_start + size)
                    {
                        target.copy_from_slice(element);
                    }
                    for d in (0..shape.len()).rev() {
                        index[d] += 1;
                        if index[d] < shape[d] || d == 0 {
                            break;
                        }
                        index[d] = 0;
                    }
                }
                self.scratch = scratch;
                from = to;
            }
            self.bytes(&piece)?;
            piece_start = piece_end;
        }
        Ok(())
    }
}
