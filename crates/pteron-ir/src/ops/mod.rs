//! Shape and dtype inference, one family a file.

pub(crate) mod control;
pub(crate) mod elementwise;
pub(crate) mod index;
pub(crate) mod nn;
pub(crate) mod quant;
pub(crate) mod reduce;
pub(crate) mod shape;
pub(crate) mod sym;
