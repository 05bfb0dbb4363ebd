//! Tensors in blocks: as they are stored, and decoded.

use std::ops::Range;
use std::sync::Arc;

use pteron_tensor::{ByteSource, DType, Shape, SourceError, TensorSource, check_rows};

use super::decode::decode;
use super::types::GgmlType;

/// A tensor in blocks, as it is stored: for those who take over its codes instead of decoding them.
///
/// A row is a run of elements along the last dimension. It is whole blocks: [`GgmlBlocks::row_bytes`] bytes.
#[derive(Debug, Clone)]
pub struct GgmlBlocks {
    label: String,
    ty: GgmlType,
    shape: Shape,
    bytes: Arc<dyn ByteSource>,
    offset: u64,
    rows: usize,
    row_bytes: usize,
}

impl GgmlBlocks {
    /// The tensor of `shape` whose blocks start at byte `offset` of `bytes`.
    pub(crate) fn new(
        label: &str,
        ty: GgmlType,
        shape: &[usize],
        bytes: Arc<dyn ByteSource>,
        offset: u64,
    ) -> Result<GgmlBlocks, SourceError> {
        let failed = |reason: String| SourceError::Failed { what: label.to_owned(), reason };
        let row = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |n, &s| n.checked_mul(s));
        let row_bytes =
            ty.row_bytes(row).ok_or_else(|| failed(format!("rows of {row} are no whole blocks of {ty}")))?;
        let sizes = rows.zip(rows.and_then(|n| n.checked_mul(row_bytes)));
        let (rows, all) = sizes.ok_or_else(|| failed("it has more elements than can be addressed".to_owned()))?;
        let end = offset.saturating_add(all as u64);
        if end > bytes.len() {
            return Err(SourceError::OutOfRange { what: label.to_owned(), start: offset, end, len: bytes.len() });
        }
        let (label, shape) = (label.to_owned(), Shape::from_slice(shape));
        Ok(GgmlBlocks { label, ty, shape, bytes, offset, rows, row_bytes })
    }

    /// The tensor's name in the file.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The type of the blocks.
    pub fn ty(&self) -> GgmlType {
        self.ty
    }

    /// Sizes in elements.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Number of rows: the product of all sizes but the last.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// All the bytes, if they lie in memory.
    pub fn as_slice(&self) -> Option<&[u8]> {
        let start = usize::try_from(self.offset).ok()?;
        self.bytes.as_slice()?.get(start..)?.get(..self.rows * self.row_bytes)
    }

    /// Copies the blocks of some rows.
    ///
    /// # Errors
    /// [`SourceError`] if range and buffer do not fit the tensor, or what the medium reports.
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        let what = || format!("{} (rows)", self.label);
        if rows.start > rows.end || rows.end > self.rows {
            let (start, end) = (rows.start as u64, rows.end as u64);
            return Err(SourceError::OutOfRange { what: what(), start, end, len: self.rows as u64 });
        }
        let expected = rows.len() * self.row_bytes;
        if out.len() != expected {
            return Err(SourceError::BufferSize { what: what(), found: out.len(), expected });
        }
        self.bytes.read_at(self.offset + (rows.start * self.row_bytes) as u64, out)
    }

    /// The blocks decoded to f32.
    ///
    /// # Errors
    /// [`SourceError::Failed`] for a type that is not decoded.
    pub fn decoded(&self) -> Result<impl TensorSource + use<>, SourceError> {
        BlockSource::new(self.clone())
    }
}

/// Elements that are decoded at once; whole blocks of every type.
const STEP: usize = 1024;

/// Most bytes of [`STEP`] elements.
const STEP_BYTES: usize = STEP / 32 * 36;

/// A tensor in blocks, decoded to f32 when it is read.
#[derive(Debug, Clone)]
pub(crate) struct BlockSource {
    blocks: GgmlBlocks,
}

impl BlockSource {
    pub(crate) fn new(blocks: GgmlBlocks) -> Result<BlockSource, SourceError> {
        let ty = blocks.ty;
        let fits = STEP.is_multiple_of(ty.block_elements()) && ty.row_bytes(STEP).is_some_and(|b| b <= STEP_BYTES);
        if ty.plain().is_some() || !ty.is_read() || !fits {
            return Err(SourceError::Failed { what: blocks.label, reason: format!("{ty} is not decoded") });
        }
        Ok(BlockSource { blocks })
    }
}

impl TensorSource for BlockSource {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn shape(&self) -> &[usize] {
        &self.blocks.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let (ty, block) = (self.blocks.ty, self.blocks.ty.block_elements());
        let mapped = self.blocks.as_slice();
        let mut stored = [0u8; STEP_BYTES];
        let mut values = [0f32; STEP];
        let mut at = rows.start * self.row_numel();
        let mut cells = out.as_chunks_mut::<4>().0;
        while !cells.is_empty() {
            // A row of a vector is an element: reading may begin and end within a block.
            let skip = at % block;
            let take = (STEP - skip).min(cells.len());
            let whole = (skip + take).next_multiple_of(block);
            let start = (at / block) * ty.block_bytes();
            let len = whole / block * ty.block_bytes();
            let stored = match mapped {
                Some(all) => all.get(start..start + len).unwrap_or_default(),
                None => {
                    let stored = &mut stored[..len];
                    self.blocks.bytes.read_at(self.blocks.offset + start as u64, stored)?;
                    stored
                }
            };
            if !decode(ty, stored, &mut values[..whole]) {
                let reason = format!("cannot decode {whole} elements of {ty} from {} bytes", stored.len());
                return Err(SourceError::Failed { what: self.label().to_owned(), reason });
            }
            let (now, later) = cells.split_at_mut(take);
            for (cell, value) in now.iter_mut().zip(&values[skip..]) {
                *cell = value.to_le_bytes();
            }
            cells = later;
            at += take;
        }
        Ok(())
    }

    fn label(&self) -> &str {
        &self.blocks.label
    }
}
