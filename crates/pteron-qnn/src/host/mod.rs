//! The library as the rest of the program sees it.

mod types;

pub use types::{
    BinaryInfo, ComposeOptions, ComposeStage, Composed, ContextId, GraphInfo, LibraryInfo, Optimization, ProfileEvent,
    ProfileLevel, ProfileUnit, QnnLibrary, TensorInfo, Verdict, Version,
};
