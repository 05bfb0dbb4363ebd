//! Modules to ExecuTorch programs and back.
//!
//! * [`emit`] turns a [`pteron_ir::Module`] into an [`Emitted`] program: memory plan, call convention, head bytes, and the
//!   list of parts that [`Emitted::write_to`] streams behind the head.
//! * [`lift`] turns a verified program (`.pte`) into a [`Lifted`] module.
//! * [`summary`] and [`missing_operators`] say what a program holds and what a runtime would lack.
//! * [`bundled`] reads the test cases of a `.bpte`.
//!
//! The crate does no file IO: bytes come from [`pteron_tensor::ByteSource`]s and go to a [`std::io::Write`]. It computes nothing.

pub mod bundled;
mod convert;
mod emit;
mod error;
mod lift;
mod profile;
mod summary;

pub use convert::{dtype_of, scalar_type_of};
pub use emit::{
    ArenaReport, EmitOptions, EmitReport, Emitted, EmittedData, MethodReport, Part, emit, required_operators,
};
pub use error::{EmitError, LiftError, WriteError};
pub use lift::{DelegateInputs, ExternalData, InputSlot, LiftOptions, Lifted, MethodIo, OutputSlot, lift};
pub use profile::{MissingOperator, RuntimeProfile, missing_operators};
pub use summary::{
    ArenaSummary, Count, DelegateSummary, MetadataSummary, MethodSummary, PortSummary, ProgramSummary, summary,
};
