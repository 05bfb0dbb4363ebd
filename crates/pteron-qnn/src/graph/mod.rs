//! A graph in QNN's own terms, as plain data.
//!
//! The lowering makes it, the host hands it to Qualcomm's library, and nothing here needs that library. Operators, parameters
//! and names are QNN's: a node is an operator of the package `qti.aisw` with named parameters, tensors in and tensors out.

mod check;
mod dtype;
mod encoding;
mod text;

use std::fmt;
use std::sync::Arc;

use pteron_kernels::Context;
use pteron_kernels::shape_ops::permute_copy;
use pteron_tensor::{SharedSource, SourceError, TensorSource, View, ViewMut, copy_range};

pub use check::GraphError;
pub use dtype::DataType;
pub use encoding::{BlockScales, Encoding, ScaleOffset};

/// The operator package that every node of these graphs comes from.
pub const PACKAGE: &str = "qti.aisw";

/// The role of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorKind {
    /// Input of the graph, written by the application.
    AppWrite,
    /// Output of the graph, read by the application.
    AppRead,
    /// Made by one node, read by others, never seen outside.
    Native,
    /// A constant.
    Static,
    /// An optional input of a node that is left out.
    Null,
}

impl TensorKind {
    /// QNN's number.
    pub const fn code(self) -> u32 {
        match self {
            TensorKind::AppWrite => 0,
            TensorKind::AppRead => 1,
            TensorKind::Native => 3,
            TensorKind::Static => 4,
            TensorKind::Null => 5,
        }
    }

    /// The kind with QNN's number `code`.
    pub const fn from_code(code: u32) -> Option<TensorKind> {
        Some(match code {
            0 => TensorKind::AppWrite,
            1 => TensorKind::AppRead,
            3 => TensorKind::Native,
            4 => TensorKind::Static,
            5 => TensorKind::Null,
            _ => return None,
        })
    }
}

/// The bytes of a constant: row-major, one byte or more an element, little-endian.
#[derive(Clone)]
pub enum Data {
    /// In memory.
    Bytes(Arc<[u8]>),
    /// Decoded by rows while they are handed over, so that they are never held here.
    Rows(SharedSource),
    /// A matrix whose columns are the rows of this one, decoded like those.
    Transposed(SharedSource),
}

/// Rows of a matrix that is transposed that are decoded at once: as many bytes are written in a row then, at least.
const TRANSPOSED_AT_ONCE: usize = 64;

impl Data {
    /// Number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Data::Bytes(b) => b.len() as u64,
            Data::Rows(s) | Data::Transposed(s) => s.byte_len() as u64,
        }
    }

    /// Whether there is no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes all bytes to `out`, which has as many.
    ///
    /// # Errors
    /// [`SourceError`] of the source, or of a buffer of another size.
    pub fn read(&self, out: &mut [u8]) -> Result<(), SourceError> {
        match self {
            Data::Bytes(b) => copy_range(&"a constant", b, 0, out),
            Data::Rows(s) => s.read_rows(0..s.rows(), out),
            Data::Transposed(s) => read_transposed(s.as_ref(), out),
        }
    }

    /// True if both are the same bytes for sure: of one source, in one order.
    #[cfg(target_os = "linux")]
    pub(crate) fn is(&self, other: &Data) -> bool {
        match (self, other) {
            (Data::Bytes(a), Data::Bytes(b)) => Arc::ptr_eq(a, b),
            (Data::Rows(a), Data::Rows(b)) | (Data::Transposed(a), Data::Transposed(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

fn read_transposed(source: &dyn TensorSource, out: &mut [u8]) -> Result<(), SourceError> {
    let failed = |reason: String| SourceError::Failed { what: source.label().to_owned(), reason };
    let &[rows, columns] = source.shape() else {
        return Err(failed(format!("found sizes {:?}, expected a matrix", source.shape())));
    };
    if out.len() != source.byte_len() {
        let (found, expected) = (out.len(), source.byte_len());
        return Err(SourceError::BufferSize { what: source.label().to_owned(), found, expected });
    }
    if columns == 0 {
        return Ok(());
    }
    let (context, dtype, row_bytes) = (Context::new(1), source.dtype(), source.row_bytes());
    let mut some = vec![0u8; TRANSPOSED_AT_ONCE.min(rows) * row_bytes];
    for start in (0..rows).step_by(TRANSPOSED_AT_ONCE) {
        let count = TRANSPOSED_AT_ONCE.min(rows - start);
        let (sizes, strides, out_sizes, out_strides) = ([count, columns], [columns, 1], [columns, count], [rows, 1]);
        let some = &mut some[..count * row_bytes];
        source.read_rows(start..start + count, some)?;
        let some = View::new(dtype, &sizes, &strides, some).map_err(|e| failed(e.to_string()))?;
        let out = &mut out[start * (row_bytes / columns)..];
        let out = ViewMut::new(dtype, &out_sizes, &out_strides, out).map_err(|e| failed(e.to_string()))?;
        permute_copy(&context, some, &[1, 0], out).map_err(|e| failed(e.to_string()))?;
    }
    Ok(())
}

impl From<Vec<u8>> for Data {
    fn from(bytes: Vec<u8>) -> Data {
        Data::Bytes(bytes.into())
    }
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Data::Bytes(b) => write!(f, "Bytes({})", b.len()),
            Data::Rows(s) => write!(f, "Rows({:?}, {:?})", s.dtype(), s.shape()),
            Data::Transposed(s) => write!(f, "Transposed({:?}, {:?})", s.dtype(), s.shape()),
        }
    }
}

/// A tensor of a graph.
#[derive(Debug, Clone)]
pub struct QnnTensor {
    /// Its name, unique in the graph. ExecuTorch's runtime reads meaning out of it: see [`crate::names`].
    pub name: String,
    /// Its role.
    pub kind: TensorKind,
    /// Type of its elements.
    pub dtype: DataType,
    /// Its sizes, slowest first.
    pub dims: Vec<u32>,
    /// How its integers stand for reals.
    pub encoding: Encoding,
    /// The constant's bytes: of [`TensorKind::Static`] tensors, and of no others.
    pub data: Option<Data>,
}

impl QnnTensor {
    /// Number of elements; `None` on overflow.
    pub fn numel(&self) -> Option<u64> {
        self.dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)))
    }

    /// Number of bytes that the library reads or writes for it; `None` on overflow.
    pub fn bytes(&self) -> Option<u64> {
        self.dtype.bytes_for(self.numel()?)
    }
}

/// A number as a parameter of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// `bool8`.
    Bool(bool),
    /// `int32`.
    I32(i32),
    /// `uint32`.
    U32(u32),
    /// `float32`.
    F32(f32),
}

/// A parameter of a node.
#[derive(Debug, Clone)]
pub enum ParamValue {
    /// A number.
    Scalar(Scalar),
    /// A small constant tensor without encoding; the host makes it a static tensor of the name `NODE_PARAM`.
    Tensor {
        /// Type of its elements.
        dtype: DataType,
        /// Its sizes.
        dims: Vec<u32>,
        /// Its bytes.
        data: Vec<u8>,
    },
}

impl ParamValue {
    /// A tensor of unsigned integers: axes, strides, a permutation.
    pub fn u32s(dims: &[u32], values: &[u32]) -> ParamValue {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        ParamValue::Tensor { dtype: DataType::UInt32, dims: dims.to_vec(), data }
    }

    /// A tensor of signed integers: the ranges of a strided slice.
    pub fn i32s(dims: &[u32], values: &[i32]) -> ParamValue {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        ParamValue::Tensor { dtype: DataType::Int32, dims: dims.to_vec(), data }
    }
}

/// A named parameter of a node.
#[derive(Debug, Clone)]
pub struct Param {
    /// QNN's name: `axis`, `pad_amount`.
    pub name: String,
    /// Its value.
    pub value: ParamValue,
}

/// A node of a graph.
#[derive(Debug, Clone)]
pub struct QnnNode {
    /// Its name, unique in the graph; profiles name nodes by it.
    pub name: String,
    /// QNN's name of the operator: `FullyConnected`.
    pub op: String,
    /// Parameters.
    pub params: Vec<Param>,
    /// Tensors in, as indices into [`QnnGraph::tensors`].
    pub inputs: Vec<usize>,
    /// Tensors out, as indices into [`QnnGraph::tensors`].
    pub outputs: Vec<usize>,
}

/// A graph: one method of a context binary.
#[derive(Debug, Clone, Default)]
pub struct QnnGraph {
    /// The method's name: `forward`, `kv_forward`.
    pub name: String,
    /// Tensors. Graph inputs and outputs are listed in the order of this table.
    pub tensors: Vec<QnnTensor>,
    /// Nodes in an order in which each comes after those whose outputs it reads.
    pub nodes: Vec<QnnNode>,
}

impl QnnGraph {
    /// A graph without tensors and nodes.
    pub fn new(name: impl Into<String>) -> QnnGraph {
        QnnGraph { name: name.into(), ..QnnGraph::default() }
    }

    /// Adds a tensor and gives its index.
    pub fn add_tensor(&mut self, tensor: QnnTensor) -> usize {
        self.tensors.push(tensor);
        self.tensors.len() - 1
    }

    /// Adds a node and gives its index.
    pub fn add_node(&mut self, node: QnnNode) -> usize {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Indices of the tensors of one kind, in order.
    pub fn tensors_of(&self, kind: TensorKind) -> impl Iterator<Item = usize> + '_ {
        self.tensors.iter().enumerate().filter(move |(_, t)| t.kind == kind).map(|(i, _)| i)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pteron_tensor::{CastSource, DType, MemorySource};

    #[test]
    fn a_transposed_matrix() {
        let all = |rows: usize, columns: usize, dtype| {
            let values: Vec<i16> = (0..rows * columns).map(|i| i as i16).collect();
            let source: SharedSource = Arc::new(MemorySource::of("w", &[rows, columns], &values).expect("they fit"));
            let data = Data::Transposed(CastSource::wrap(source, dtype));
            let mut out = vec![0u8; usize::try_from(data.len()).expect("few")];
            data.read(&mut out).expect("a matrix");
            assert!(data.read(&mut out[1..]).is_err());
            out
        };
        assert_eq!(all(2, 3, DType::I8), [0, 3, 1, 4, 2, 5]);
        assert_eq!(all(2, 2, DType::I16), [0, 0, 2, 0, 1, 0, 3, 0]);
        // More rows than are decoded at once, of elements of two bytes.
        let (rows, columns) = (2 * TRANSPOSED_AT_ONCE + 5, 7);
        let out = all(rows, columns, DType::I16);
        for (r, c) in [(0, 0), (TRANSPOSED_AT_ONCE, 3), (rows - 1, columns - 1)] {
            let at = (c * rows + r) * 2;
            let expected = ((r * columns + c) as i16).to_le_bytes();
            assert_eq!(out[at..at + 2], expected, "{r}, {c}");
        }
    }

    #[test]
    fn what_is_no_matrix_is_not_transposed() {
        let source: SharedSource = Arc::new(MemorySource::of("w", &[3], &[1i8, 2, 3]).expect("they fit"));
        let error = Data::Transposed(source).read(&mut [0; 3]).expect_err("a vector");
        assert!(error.to_string().contains("expected a matrix"), "{error}");
    }
}
