//! Qualcomm QNN.
//!
//! [`graph`] describes a graph in QNN's terms as plain data; [`names`] are the names by which ExecuTorch's runtime knows
//! tensors; [`soc`] is the table of systems on chip. [`QnnLibrary`] is what Qualcomm's library does for the rest.

mod error;
pub mod graph;
mod host;
pub mod names;
pub mod soc;

pub use error::QnnError;
pub use host::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, GraphInfo, LibraryInfo, Optimization, ProfileEvent,
    ProfileLevel, ProfileUnit, QnnLibrary, TensorInfo, Verdict, Version,
};
