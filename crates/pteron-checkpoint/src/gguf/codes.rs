//! Blocks taken over as codes with scales, without a float between.

use std::ops::Range;
use std::sync::Arc;

use pteron_tensor::{DType, GroupedCodes, Shape, SourceError, TensorSource, check_rows};

use super::blocks::GgmlBlocks;
use super::decode::{Product, product_of, split};

/// Which part of the blocks is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Codes,
    Scales,
}

/// The codes or the scales of a matrix in blocks.
#[derive(Debug)]
struct PartSource {
    blocks: GgmlBlocks,
    part: Part,
    product: Product,
    shape: Shape,
}

impl GgmlBlocks {
    /// The matrix as the codes and scales that are stored, whose products are the decoded elements, bit for bit.
    ///
    /// # Errors
    /// A sentence that says why the tensor is none: it is no matrix, or of a type with minima (`Q4_1`, `Q4_K`) or whose codes
    /// stand for several elements.
    pub fn codes(&self) -> Result<GroupedCodes, String> {
        let ty = self.ty();
        let Some(product) = product_of(ty) else {
            return Err(format!("it is stored as {ty}, whose elements are no products of a code and a scale"));
        };
        let &[rows, columns] = self.shape() else {
            return Err(format!("it has the shape {:?}, and codes are taken over of matrices", self.shape()));
        };
        let source = |part, columns| {
            let shape = Shape::from_slice(&[rows, columns]);
            Arc::new(PartSource { blocks: self.clone(), part, product, shape })
        };
        GroupedCodes::new(source(Part::Codes, columns), source(Part::Scales, columns / product.run), product.bits)
    }
}

impl TensorSource for PartSource {
    fn dtype(&self) -> DType {
        match self.part {
            Part::Codes => DType::I8,
            Part::Scales => DType::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        let columns = self.blocks.shape().last().copied().unwrap_or(0);
        let mut stored = vec![0u8; self.blocks.row_bytes()];
        let (mut codes, mut scales) = (vec![0i8; columns], vec![0f32; columns / self.product.run]);
        for (row, out) in rows.zip(out.chunks_exact_mut(self.row_bytes().max(1))) {
            self.blocks.read_rows(row..row + 1, &mut stored)?;
            if !split(self.blocks.ty(), &stored, &mut codes, &mut scales) {
                let reason = format!("cannot take {columns} elements of {} apart", self.blocks.ty());
                return Err(SourceError::Failed { what: self.label().to_owned(), reason });
            }
            match self.part {
                Part::Codes => out.iter_mut().zip(&codes).for_each(|(o, c)| *o = c.cast_unsigned()),
                Part::Scales => {
                    out.as_chunks_mut::<4>().0.iter_mut().zip(&scales).for_each(|(o, s)| *o = s.to_le_bytes());
                }
            }
        }
        Ok(())
    }

    fn label(&self) -> &str {
        self.blocks.label()
    }
}
