//! Weights whose codes a checkpoint has already: they are taken over as they are, and nothing is quantized again.

use std::ops::Range;
use std::sync::Arc;

use pteron_tensor::{DType, GroupedCodes, SharedSource, SourceError, TensorSource, check_rows, read_all};

use super::{EmbeddingMode, LayerChoice, LinearMode, TransformError};

/// Why a layer has none, where the checkpoint is one without codes.
pub(super) const NO_CODES: &str = "its weight is stored as plain numbers, of which no codes can be taken over";

/// The codes that a checkpoint has of the weight of a name (the module's), with none of them read; the inner `Err` says why there
/// are none that can be taken over.
///
/// # Errors
/// The outer one: what is stored cannot be read.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Result<Result<GroupedCodes, String>, TransformError>;

/// A weight's codes as they are taken over.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) codes: SharedSource,
    /// The scales, row by row.
    pub(super) scales: Vec<f32>,
    /// What the layer becomes.
    pub(super) choice: LayerChoice,
}

impl Stored {
    /// `codes` for a layer that shall become `asked` and whose weight has `shape`.
    ///
    /// # Errors
    /// The outer one if they cannot be read; the inner one says what of them does not fit.
    pub(super) fn new(
        codes: &GroupedCodes,
        asked: LayerChoice,
        shape: [usize; 2],
    ) -> Result<Result<Stored, String>, TransformError> {
        let (source, bits) = (codes.codes().clone(), codes.bits());
        if source.shape() != shape {
            return Ok(Err(format!("its codes have the shape {:?}, expected {shape:?}", source.shape())));
        }
        let scales = read_all(codes.scales().as_ref()).map_err(|e| TransformError::Source(e.to_string()))?;
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&scales);
        if let Some(at) = scales.iter().position(|s| !s.is_finite()) {
            let groups = shape[1] / codes.group();
            let (row, group) = (at / groups, at % groups);
            return Ok(Err(format!("the scale of group {group} of row {row} of its weight is {}", scales[at])));
        }
        let group = if codes.group() == shape[1] { 0 } else { codes.group() };
        let choice = choice(asked, bits, group);
        let (lo, hi) = choice.range();
        let codes: SharedSource = match (lo, hi) {
            (..=-128, 127..) => source,
            range => Arc::new(Within { codes: source, range }),
        };
        Ok(Ok(Stored { codes, scales, choice }))
    }
}

/// `asked` with the group of the codes (0 for whole rows), and with as many bits as they have where it has fewer. Codes of fewer
/// bits than `asked` has stand in wider ones.
fn choice(asked: LayerChoice, bits: u32, group: usize) -> LayerChoice {
    match asked {
        LayerChoice::Linear(mode, algorithm) => {
            let mode = match (mode.is_dynamic(), bits.max(mode.bits()) > 4, group) {
                (true, true, _) => LinearMode::Int8DynActInt8Weight { group },
                (true, false, _) => LinearMode::Int8DynActInt4Weight { group },
                (false, true, 0) => LinearMode::Int8,
                (false, true, _) => LinearMode::Int8Groups { group },
                (false, false, _) => LinearMode::Int4Weight { group },
            };
            LayerChoice::Linear(mode, algorithm)
        }
        LayerChoice::Embedding(e, algorithm) => {
            let bits = match e.bits.max(bits) {
                ..=2 => 2,
                3 | 4 => 4,
                _ => 8,
            };
            LayerChoice::Embedding(EmbeddingMode { bits, group }, algorithm)
        }
    }
}

/// Codes that are looked at when they are read.
#[derive(Debug)]
struct Within {
    codes: SharedSource,
    range: (i64, i64),
}

impl TensorSource for Within {
    fn dtype(&self) -> DType {
        DType::I8
    }

    fn shape(&self) -> &[usize] {
        self.codes.shape()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut [u8]) -> Result<(), SourceError> {
        check_rows(self, &rows, out)?;
        self.codes.read_rows(rows.clone(), out)?;
        let (lo, hi) = self.range;
        let bad = |c: &u8| !(lo..=hi).contains(&i64::from(c.cast_signed()));
        match out.iter().position(bad) {
            None => Ok(()),
            Some(at) => {
                let (row, column) = (rows.start + at / self.row_numel().max(1), at % self.row_numel().max(1));
                let reason =
                    format!("code {} in row {row}, column {column}, expected {lo} to {hi}", out[at].cast_signed());
                Err(SourceError::Failed { what: self.label().to_owned(), reason })
            }
        }
    }

    fn label(&self) -> &str {
        self.codes.label()
    }
}
