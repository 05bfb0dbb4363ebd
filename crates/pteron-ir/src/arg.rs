//! Arguments of nodes.

use pteron_tensor::DType;
use smallvec::SmallVec;

use crate::entity::ValueId;

/// An element of an int list: known, or the value of a symbolic int.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntArg {
    /// Known.
    Const(i64),
    /// A value of type int.
    Value(ValueId),
}

/// One argument of a node, in the order of the operator's schema.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// An optional argument that is not there.
    None,
    /// A tensor, or a symbolic int, float or bool.
    Value(ValueId),
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Str(Box<str>),
    /// An element type.
    DType(DType),
    /// A list of integers.
    Ints(SmallVec<[IntArg; 4]>),
    /// A list of floats.
    Floats(Vec<f64>),
    /// A list of booleans.
    Bools(Vec<bool>),
    /// A list of tensors, of which some may be missing where the schema allows it.
    Values(SmallVec<[Option<ValueId>; 4]>),
}

impl Arg {
    /// Calls `f` for each value that the argument reads.
    pub fn for_each_value(&self, mut f: impl FnMut(ValueId)) {
        match self {
            Arg::Value(v) => f(*v),
            Arg::Ints(items) => items.iter().for_each(|i| {
                if let IntArg::Value(v) = i {
                    f(*v);
                }
            }),
            Arg::Values(items) => items.iter().flatten().for_each(|v| f(*v)),
            _ => {}
        }
    }

    /// Replaces each value that the argument reads by `f` of it.
    pub fn map_values(&mut self, mut f: impl FnMut(ValueId) -> ValueId) {
        match self {
            Arg::Value(v) => *v = f(*v),
            Arg::Ints(items) => items.iter_mut().for_each(|i| {
                if let IntArg::Value(v) = i {
                    *v = f(*v);
                }
            }),
            Arg::Values(items) => items.iter_mut().flatten().for_each(|v| *v = f(*v)),
            _ => {}
        }
    }

    /// What kind of argument this is, in messages.
    pub fn kind_name(&self) -> &'static str {
        match self {
            Arg::None => "None",
            Arg::Value(_) => "a value",
            Arg::Int(_) => "an int",
            Arg::Float(_) => "a float",
            Arg::Bool(_) => "a bool",
            Arg::Str(_) => "a string",
            Arg::DType(_) => "a dtype",
            Arg::Ints(_) => "an int list",
            Arg::Floats(_) => "a float list",
            Arg::Bools(_) => "a bool list",
            Arg::Values(_) => "a tensor list",
        }
    }

    /// An int list of constants.
    pub fn ints(items: &[i64]) -> Arg {
        Arg::Ints(items.iter().map(|&i| IntArg::Const(i)).collect())
    }

    /// A tensor list.
    pub fn tensors(items: &[ValueId]) -> Arg {
        Arg::Values(items.iter().map(|&v| Some(v)).collect())
    }
}

impl From<ValueId> for Arg {
    fn from(v: ValueId) -> Arg {
        Arg::Value(v)
    }
}

impl From<Option<ValueId>> for Arg {
    fn from(v: Option<ValueId>) -> Arg {
        v.map_or(Arg::None, Arg::Value)
    }
}

impl From<i64> for Arg {
    fn from(v: i64) -> Arg {
        Arg::Int(v)
    }
}

impl From<f64> for Arg {
    fn from(v: f64) -> Arg {
        Arg::Float(v)
    }
}

impl From<bool> for Arg {
    fn from(v: bool) -> Arg {
        Arg::Bool(v)
    }
}

impl From<&str> for Arg {
    fn from(v: &str) -> Arg {
        Arg::Str(v.into())
    }
}

impl From<DType> for Arg {
    fn from(v: DType) -> Arg {
        Arg::DType(v)
    }
}

impl From<IntArg> for Arg {
    fn from(v: IntArg) -> Arg {
        match v {
            IntArg::Const(c) => Arg::Int(c),
            IntArg::Value(v) => Arg::Value(v),
        }
    }
}

impl From<&[IntArg]> for Arg {
    fn from(v: &[IntArg]) -> Arg {
        Arg::Ints(SmallVec::from_slice(v))
    }
}

impl From<i64> for IntArg {
    fn from(v: i64) -> IntArg {
        IntArg::Const(v)
    }
}

impl From<ValueId> for IntArg {
    fn from(v: ValueId) -> IntArg {
        IntArg::Value(v)
    }
}
