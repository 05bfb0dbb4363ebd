//! What inference functions see of a node.

use pteron_tensor::DType;
use smallvec::SmallVec;

use crate::arg::{Arg, IntArg};
use crate::entity::ValueId;
use crate::op::Op;
use crate::symint::{SymInt, Symbols};
use crate::types::{Dims, TensorType, Type};

/// Output types of a node, or why it has none.
pub type InferResult = Result<SmallVec<[Type; 2]>, InferError>;

/// Arguments that an operator cannot take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {reason}")]
pub struct InferError {
    /// The operator's edge name.
    pub op: &'static str,
    /// What does not fit, with what was found and what was expected.
    pub reason: String,
}

/// A scalar argument.
#[derive(Clone, Debug, PartialEq)]
pub enum ScalarArg {
    /// An int that may be symbolic.
    Int(SymInt),
    /// A float; `None` if known only at run time.
    Float(Option<f64>),
    /// A boolean; `None` if known only at run time.
    Bool(Option<bool>),
}

/// A node's arguments with the types of the values they read. The same functions run at capture on symbolic types, in the
/// verifier, and in the executor on the sizes of one call.
#[derive(Clone, Copy)]
pub struct InferCtx<'a> {
    /// The operator.
    pub op: Op,
    /// Its arguments.
    pub args: &'a [Arg],
    /// Types of values.
    pub types: &'a dyn Fn(ValueId) -> &'a Type,
    /// The graph's symbols.
    pub symbols: &'a Symbols,
}

impl<'a> InferCtx<'a> {
    /// Runs the operator's inference.
    ///
    /// # Errors
    /// [`InferError`] if the arguments do not fit the operator.
    pub fn infer(&self) -> InferResult {
        let expected = self.op.schema().inputs().count();
        if !self.op.is_structural() && self.args.len() != expected {
            return self.fail(format!("{} arguments given, {expected} expected", self.args.len()));
        }
        (self.op.def().infer)(self)
    }

    /// An error of this operator.
    pub fn error(&self, reason: impl Into<String>) -> InferError {
        InferError { op: self.op.name(), reason: reason.into() }
    }

    /// An error of this operator, as a result.
    ///
    /// # Errors
    /// Always.
    pub fn fail<T>(&self, reason: impl Into<String>) -> Result<T, InferError> {
        Err(self.error(reason))
    }

    fn arg_name(&self, i: usize) -> &'static str {
        self.op.schema().inputs().nth(i).map_or("argument", |a| a.name)
    }

    fn arg(&self, i: usize) -> Result<&'a Arg, InferError> {
        self.args.get(i).ok_or_else(|| self.error(format!("argument `{}` is missing", self.arg_name(i))))
    }

    fn wrong<T>(&self, i: usize, wanted: &str) -> Result<T, InferError> {
        let found = self.args.get(i).map_or("nothing", Arg::kind_name);
        self.fail(format!("argument `{}` is {found}, expected {wanted}", self.arg_name(i)))
    }

    /// The tensor value `v`.
    ///
    /// # Errors
    /// If it is no tensor.
    pub fn tensor_of(&self, v: ValueId) -> Result<&'a TensorType, InferError> {
        let ty = (self.types)(v);
        ty.as_tensor().ok_or_else(|| self.error(format!("{v} is {ty}, expected a tensor")))
    }

    /// Argument `i`, a tensor.
    ///
    /// # Errors
    /// If it is none.
    pub fn tensor(&self, i: usize) -> Result<&'a TensorType, InferError> {
        match self.arg(i)? {
            Arg::Value(v) => self.tensor_of(*v),
            _ => self.wrong(i, "a tensor"),
        }
    }

    /// Argument `i`, a tensor or `None`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn optional_tensor(&self, i: usize) -> Result<Option<&'a TensorType>, InferError> {
        match self.arg(i)? {
            Arg::None => Ok(None),
            _ => self.tensor(i).map(Some),
        }
    }

    /// Argument `i`, a list of tensors of which some may be missing.
    ///
    /// # Errors
    /// If it is none.
    pub fn tensor_list(&self, i: usize) -> Result<Vec<Option<&'a TensorType>>, InferError> {
        match self.arg(i)? {
            Arg::Values(items) => items.iter().map(|v| v.map(|v| self.tensor_of(v)).transpose()).collect(),
            _ => self.wrong(i, "a tensor list"),
        }
    }

    fn int_arg(&self, i: usize, arg: IntArg) -> Result<SymInt, InferError> {
        match arg {
            IntArg::Const(c) => Ok(SymInt::Const(c)),
            IntArg::Value(v) => match (self.types)(v) {
                Type::Int(s) => Ok(s.clone()),
                other => self.fail(format!("argument `{}`: {v} is {other}, expected an int", self.arg_name(i))),
            },
        }
    }

    /// Argument `i`, an int that may be symbolic.
    ///
    /// # Errors
    /// If it is none.
    pub fn int(&self, i: usize) -> Result<SymInt, InferError> {
        match self.arg(i)? {
            Arg::Int(c) => Ok(SymInt::Const(*c)),
            Arg::Value(v) => self.int_arg(i, IntArg::Value(*v)),
            _ => self.wrong(i, "an int"),
        }
    }

    /// Argument `i`, an int that may be symbolic, or `None`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn optional_int(&self, i: usize) -> Result<Option<SymInt>, InferError> {
        match self.arg(i)? {
            Arg::None => Ok(None),
            _ => self.int(i).map(Some),
        }
    }

    /// Argument `i`, a known int.
    ///
    /// # Errors
    /// If it is none.
    pub fn const_int(&self, i: usize) -> Result<i64, InferError> {
        match self.int(i)?.as_const() {
            Some(c) => Ok(c),
            None => self.wrong(i, "a known int"),
        }
    }

    /// Argument `i`, a list of ints that may be symbolic; a single int counts as a list of one.
    ///
    /// # Errors
    /// If it is none.
    pub fn ints(&self, i: usize) -> Result<Dims, InferError> {
        match self.arg(i)? {
            Arg::Ints(items) => items.iter().map(|&a| self.int_arg(i, a)).collect(),
            Arg::Int(c) => Ok(SmallVec::from_elem(SymInt::Const(*c), 1)),
            _ => self.wrong(i, "an int list"),
        }
    }

    /// Argument `i`, a list of known ints, or `None`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn optional_const_ints(&self, i: usize) -> Result<Option<SmallVec<[i64; 4]>>, InferError> {
        match self.arg(i)? {
            Arg::None => Ok(None),
            _ => self.const_ints(i).map(Some),
        }
    }

    /// Argument `i`, a list of known ints.
    ///
    /// # Errors
    /// If it is none.
    pub fn const_ints(&self, i: usize) -> Result<SmallVec<[i64; 4]>, InferError> {
        self.ints(i)?.iter().map(|d| d.as_const().map_or_else(|| self.wrong(i, "a list of known ints"), Ok)).collect()
    }

    /// Argument `i`, a boolean.
    ///
    /// # Errors
    /// If it is none.
    pub fn bool(&self, i: usize) -> Result<bool, InferError> {
        match self.arg(i)? {
            Arg::Bool(b) => Ok(*b),
            _ => self.wrong(i, "a bool"),
        }
    }

    /// Argument `i`, an element type or `None`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn optional_dtype(&self, i: usize) -> Result<Option<DType>, InferError> {
        match self.arg(i)? {
            Arg::None => Ok(None),
            Arg::DType(d) => Ok(Some(*d)),
            _ => self.wrong(i, "a dtype"),
        }
    }

    /// Argument `i`, a list of floats or `None`.
    ///
    /// # Errors
    /// If it is neither.
    pub fn optional_floats(&self, i: usize) -> Result<Option<&'a [f64]>, InferError> {
        match self.arg(i)? {
            Arg::None => Ok(None),
            Arg::Floats(f) => Ok(Some(f)),
            _ => self.wrong(i, "a float list"),
        }
    }

    /// Argument `i`, a scalar.
    ///
    /// # Errors
    /// If it is none.
    pub fn scalar(&self, i: usize) -> Result<ScalarArg, InferError> {
        Ok(match self.arg(i)? {
            Arg::Int(c) => ScalarArg::Int(SymInt::Const(*c)),
            Arg::Float(f) => ScalarArg::Float(Some(*f)),
            Arg::Bool(b) => ScalarArg::Bool(Some(*b)),
            Arg::Value(v) => match (self.types)(*v) {
                Type::Int(s) => ScalarArg::Int(s.clone()),
                Type::Float => ScalarArg::Float(None),
                Type::Bool => ScalarArg::Bool(None),
                Type::Tensor(_) => return self.wrong(i, "a scalar"),
            },
            _ => return self.wrong(i, "a scalar"),
        })
    }

    /// A dimension counted from the front, for a tensor of `rank` dimensions (a scalar tensor counts as one).
    ///
    /// # Errors
    /// If there is no such dimension.
    pub fn dim(&self, dim: i64, rank: usize) -> Result<usize, InferError> {
        let n = i64::try_from(rank.max(1)).unwrap_or(i64::MAX);
        let d = if dim < 0 { dim + n } else { dim };
        usize::try_from(d)
            .ok()
            .filter(|_| d < n)
            .ok_or_else(|| self.error(format!("dimension {dim} of a tensor with {rank} dimensions")))
    }

    /// The sizes of `a` and `b` broadcast against each other.
    ///
    /// # Errors
    /// If two sizes can never be equal and neither is 1.
    pub fn broadcast(&self, a: &[SymInt], b: &[SymInt]) -> Result<Dims, InferError> {
        let rank = a.len().max(b.len());
        let one = SymInt::Const(1);
        let at =
            |dims: &[SymInt], i: usize| (i + dims.len()).checked_sub(rank).map_or(one.clone(), |k| dims[k].clone());
        (0..rank)
            .map(|i| {
                let (x, y) = (at(a, i), at(b, i));
                if x == one {
                    Ok(y)
                } else if y == one || x.is_equal(&y) {
                    Ok(x)
                } else if !x.may_equal(&y, self.symbols) {
                    self.fail(format!("sizes {x} and {y} of dimension {i} do not broadcast"))
                } else if x.as_const().is_some() {
                    Ok(x)
                } else if y.as_const().is_some() {
                    Ok(y)
                } else {
                    let ((p, q), (r, s)) = (x.range(self.symbols), y.range(self.symbols));
                    // An unknown that may be 1 leaves the other; else both are equal at run time.
                    Ok(SymInt::Unknown { min: p.max(r).min(q.max(s)), max: q.max(s) })
                }
            })
            .collect()
    }
}

/// One output.
pub(crate) fn one(ty: impl Into<Type>) -> InferResult {
    Ok(SmallVec::from_iter([ty.into()]))
}
