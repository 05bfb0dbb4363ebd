//! Types of values.

use std::fmt;

use pteron_tensor::{DType, DimOrder, Shape, contiguous_order};
use smallvec::SmallVec;

use crate::symint::{SymInt, Symbols};

/// Sizes that may be symbolic.
pub type Dims = SmallVec<[SymInt; 4]>;

/// Type of a tensor value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub dims: Dims,
    /// Order of the dimensions in memory; `None` is row-major.
    pub order: Option<DimOrder>,
}

impl TensorType {
    /// A row-major tensor.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = SymInt>) -> TensorType {
        TensorType { dtype, dims: dims.into_iter().collect(), order: None }
    }

    /// A row-major tensor of constant sizes.
    pub fn fixed(dtype: DType, sizes: &[usize]) -> TensorType {
        TensorType::new(dtype, sizes.iter().map(|&s| s.into()))
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims.len()
    }

    /// The order of the dimensions in memory, spelled out.
    pub fn dim_order(&self) -> DimOrder {
        self.order.clone().unwrap_or_else(|| contiguous_order(self.rank()))
    }

    /// True if every size is constant.
    pub fn is_static(&self) -> bool {
        self.dims.iter().all(|d| d.as_const().is_some())
    }

    /// The sizes, if all are constant and none is negative.
    pub fn fixed_sizes(&self) -> Option<Shape> {
        self.dims.iter().map(|d| usize::try_from(d.as_const()?).ok()).collect()
    }

    /// The largest sizes; `None` if a dimension has no usable bound.
    pub fn max_sizes(&self, symbols: &Symbols) -> Option<Shape> {
        self.dims.iter().map(|d| usize::try_from(d.max(symbols)).ok().filter(|&m| m < 1 << 48)).collect()
    }

    /// Bytes at the largest sizes; `None` if unbounded or more than fit.
    pub fn max_bytes(&self, symbols: &Symbols) -> Option<usize> {
        let n = self.max_sizes(symbols)?.iter().try_fold(1usize, |n, &s| n.checked_mul(s))?;
        self.dtype.bytes_for(n)
    }

    /// The number of elements.
    pub fn numel(&self, symbols: &Symbols) -> SymInt {
        self.dims.iter().fold(SymInt::Const(1), |n, d| n.mul(d, symbols))
    }
}

/// Type of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// A tensor.
    Tensor(TensorType),
    /// An integer with what is known of it.
    Int(SymInt),
    /// A boolean.
    Bool,
    /// A double.
    Float,
}

impl Type {
    /// The tensor type, if it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// True unless no run can have both: same kind, dtype, rank and order, dimensions that may be equal.
    pub fn may_equal(&self, other: &Type, symbols: &Symbols) -> bool {
        match (self, other) {
            (Type::Tensor(a), Type::Tensor(b)) => {
                a.dtype == b.dtype
                    && a.rank() == b.rank()
                    && a.dim_order() == b.dim_order()
                    && a.dims.iter().zip(&b.dims).all(|(x, y)| x.may_equal(y, symbols))
            }
            (Type::Int(a), Type::Int(b)) => a.may_equal(b, symbols),
            (a, b) => a == b,
        }
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Type {
        Type::Tensor(t)
    }
}

impl fmt::Display for TensorType {
    /// `f32[1, s0, 64]`, with `{0,2,3,1}` appended when not row-major.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.dims.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")?;
        if let Some(order) = &self.order {
            f.write_str("{")?;
            for (i, d) in order.iter().enumerate() {
                write!(f, "{}{d}", if i > 0 { "," } else { "" })?;
            }
            f.write_str("}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Type {
    /// Tensors as [`TensorType`]; `int`, or `int(s0+1)` where something is known; `bool`; `float`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => t.fmt(f),
            Type::Int(s) if *s == SymInt::ANY => f.write_str("int"),
            Type::Int(s) => write!(f, "int({s})"),
            Type::Bool => f.write_str("bool"),
            Type::Float => f.write_str("float"),
        }
    }
}
