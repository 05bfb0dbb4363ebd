//! Arguments of a kernel call.

use pteron_tensor::DType;

use super::{Operand, Scalar, SmallVec, View};

/// An argument with its value in this call.
#[derive(Debug)]
pub(crate) enum Resolved<'a> {
    None,
    /// Mutated in place: its memory is among the outputs.
    Mutated,
    Tensor(View<'a>),
    Scalar(Scalar),
    Str(&'a str),
    /// An element type; of a result, that result's own says the same.
    DType(DType),
    Ints(SmallVec<[i64; 6]>),
    Floats(&'a [f64]),
    Tensors(SmallVec<[Option<View<'a>>; 4]>),
}

/// Access by position and kind.
pub(super) struct Args<'a, 'r>(pub(super) &'r [Resolved<'a>]);

fn wrong<T>(i: usize, wanted: &str) -> Result<T, String> {
    Err(format!("argument {i} is not {wanted}"))
}

impl<'a> Args<'a, '_> {
    fn get(&self, i: usize) -> &Resolved<'a> {
        self.0.get(i).unwrap_or(&Resolved::None)
    }

    pub(super) fn view(&self, i: usize) -> Result<View<'a>, String> {
        match self.get(i) {
            Resolved::Tensor(v) => Ok(*v),
            _ => wrong(i, "a tensor"),
        }
    }

    pub(super) fn optional_view(&self, i: usize) -> Result<Option<View<'a>>, String> {
        match self.get(i) {
            Resolved::None => Ok(None),
            _ => self.view(i).map(Some),
        }
    }

    pub(super) fn operand(&self, i: usize) -> Result<Operand<'a>, String> {
        match self.get(i) {
            Resolved::Tensor(v) => Ok(Operand::View(*v)),
            Resolved::Scalar(s) => Ok(Operand::Scalar(*s)),
            _ => wrong(i, "a tensor or a number"),
        }
    }

    pub(super) fn views(&self, i: usize) -> Result<SmallVec<[View<'a>; 4]>, String> {
        match self.get(i) {
            Resolved::Tensors(items) => {
                items.iter().map(|v| v.map_or_else(|| wrong(i, "a list of tensors"), Ok)).collect()
            }
            _ => wrong(i, "a list of tensors"),
        }
    }

    pub(super) fn optional_views(&self, i: usize) -> Result<SmallVec<[Option<View<'a>>; 4]>, String> {
        match self.get(i) {
            Resolved::Tensors(items) => Ok(items.clone()),
            _ => wrong(i, "a list of tensors"),
        }
    }

    pub(super) fn scalar(&self, i: usize) -> Result<Scalar, String> {
        match self.get(i) {
            Resolved::Scalar(s) => Ok(*s),
            _ => wrong(i, "a number"),
        }
    }

    pub(super) fn optional_scalar(&self, i: usize) -> Result<Option<Scalar>, String> {
        match self.get(i) {
            Resolved::None => Ok(None),
            _ => self.scalar(i).map(Some),
        }
    }

    pub(super) fn int(&self, i: usize) -> Result<i64, String> {
        match self.get(i) {
            Resolved::Scalar(s @ (Scalar::Int(_) | Scalar::Bool(_))) => Ok(s.as_i64()),
            _ => wrong(i, "an int"),
        }
    }

    pub(super) fn optional_int(&self, i: usize) -> Result<Option<i64>, String> {
        match self.get(i) {
            Resolved::None => Ok(None),
            _ => self.int(i).map(Some),
        }
    }

    pub(super) fn float(&self, i: usize) -> Result<f64, String> {
        self.scalar(i).map(Scalar::as_f64)
    }

    pub(super) fn optional_float(&self, i: usize) -> Result<Option<f64>, String> {
        match self.get(i) {
            Resolved::None => Ok(None),
            _ => self.float(i).map(Some),
        }
    }

    pub(super) fn bool(&self, i: usize) -> Result<bool, String> {
        match self.get(i) {
            Resolved::Scalar(Scalar::Bool(b)) => Ok(*b),
            _ => wrong(i, "a bool"),
        }
    }

    pub(super) fn ints(&self, i: usize) -> Result<SmallVec<[i64; 6]>, String> {
        match self.get(i) {
            Resolved::Ints(items) => Ok(items.clone()),
            Resolved::Scalar(Scalar::Int(v)) => Ok(SmallVec::from_slice(&[*v])),
            _ => wrong(i, "a list of ints"),
        }
    }

    /// Dimensions to reduce; none given means all, which kernels take as an empty list.
    pub(super) fn ints_or_all(&self, i: usize) -> Result<SmallVec<[i64; 6]>, String> {
        match self.get(i) {
            Resolved::None => Ok(SmallVec::new()),
            _ => self.ints(i),
        }
    }

    pub(super) fn optional_floats(&self, i: usize) -> Result<Option<&'a [f64]>, String> {
        match self.get(i) {
            Resolved::None => Ok(None),
            Resolved::Floats(f) => Ok(Some(f)),
            _ => wrong(i, "a list of floats"),
        }
    }

    pub(super) fn dtype(&self, i: usize) -> Result<DType, String> {
        match self.get(i) {
            Resolved::DType(d) => Ok(*d),
            _ => wrong(i, "an element type"),
        }
    }

    pub(super) fn optional_str(&self, i: usize) -> Result<Option<&'a str>, String> {
        match self.get(i) {
            Resolved::None => Ok(None),
            Resolved::Str(s) => Ok(Some(s)),
            _ => wrong(i, "a string"),
        }
    }
}
