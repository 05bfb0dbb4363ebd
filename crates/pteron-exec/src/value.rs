//! What goes into a method and what comes out.

use pteron_tensor::{Tensor, View};

/// An owned argument or result.
#[derive(Clone, Debug)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A double.
    Float(f64),
}

impl Value {
    /// Borrowed, as [`crate::Session::run`] takes it.
    pub fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Value::Tensor(t) => ValueRef::Tensor(t.view()),
            Value::Int(i) => ValueRef::Int(*i),
            Value::Bool(b) => ValueRef::Bool(*b),
            Value::Float(f) => ValueRef::Float(*f),
        }
    }

    /// What it is, in messages: `f32[1, 3]`, `int`.
    pub fn describe(&self) -> String {
        self.as_ref().describe()
    }
}

/// A borrowed argument.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// A tensor.
    Tensor(View<'a>),
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A double.
    Float(f64),
}

impl ValueRef<'_> {
    /// What it is, in messages: `f32[1, 3]`, `int`.
    pub fn describe(&self) -> String {
        match self {
            ValueRef::Tensor(t) => format!("{}{:?}", t.dtype(), t.sizes()),
            ValueRef::Int(_) => "an int".to_owned(),
            ValueRef::Bool(_) => "a bool".to_owned(),
            ValueRef::Float(_) => "a float".to_owned(),
        }
    }

    /// An owned copy.
    pub fn to_value(&self) -> Value {
        match self {
            ValueRef::Tensor(t) => Value::Tensor(Tensor::copy_of(t)),
            ValueRef::Int(i) => Value::Int(*i),
            ValueRef::Bool(b) => Value::Bool(*b),
            ValueRef::Float(f) => Value::Float(*f),
        }
    }
}

/// One result of a call, in the session's memory until the next call.
pub type Output<'a> = ValueRef<'a>;

/// The results of a call.
#[derive(Debug)]
pub struct Outputs<'a> {
    pub(crate) items: Vec<Output<'a>>,
}

impl<'a> Outputs<'a> {
    /// Number of results.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Result `i`.
    pub fn get(&self, i: usize) -> Option<Output<'a>> {
        self.items.get(i).copied()
    }

    /// Result `i`, a tensor.
    pub fn tensor(&self, i: usize) -> Option<View<'a>> {
        match self.items.get(i) {
            Some(ValueRef::Tensor(v)) => Some(*v),
            _ => None,
        }
    }

    /// The results in order.
    pub fn iter(&self) -> impl Iterator<Item = Output<'a>> + '_ {
        self.items.iter().copied()
    }

    /// Owned copies.
    pub fn to_values(&self) -> Vec<Value> {
        self.items.iter().map(ValueRef::to_value).collect()
    }
}
