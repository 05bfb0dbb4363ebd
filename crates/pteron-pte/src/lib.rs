//! The bytes of `.pte`, `.ptd`, `.bpte` and `.etdp` files: containers, FlatBuffers, verification.
//!
//! The crate works on slices and produces byte vectors plus layouts. It does no IO, knows no operator and executes
//! nothing. What a file says is checked completely before a caller sees it: a [`Program`] that [`PteFile::parse`]
//! returned has only indices, offsets and sizes that hold.
//!
//! | file | read | write |
//! |---|---|---|
//! | `.pte` program | [`PteFile`], [`ParsedHead`] (head only, 64-bit ranges) | [`encode_program`], [`write_all`] |
//! | `.ptd` external constants | [`PtdFile`], [`PtdHead`] | [`encode_ptd`], [`write_ptd`] |
//! | `.bpte` program with test cases | [`BundledProgram::parse`] | [`BundledProgram::encode`] |
//! | `.etdp` profile dump | [`EtDump::parse`] | [`EtDump::encode`] |
//!
//! Integers in all of these files are little-endian.

mod bpte;
mod container;
mod decode;
pub mod dump;
mod encode;
mod error;
mod etdp;
mod etdp_encode;
pub mod flatbuf;
mod head;
pub mod limits;
mod place;
mod program;
mod ptd;
mod scalar_type;
mod schema;
mod segments;
mod tensor;
mod verify;

pub use bpte::{BUNDLED_VERSION, BundledProgram, BundledTensor, BundledValue, TestCase, TestSuite};
pub use container::{ContainerKind, ExtendedHeader, PTE_IDENTIFIER, bytes_needed};
pub use encode::{EncodeOptions, encode_program, write_all};
pub use error::PteError;
pub use etdp::{
    AllocationEvent, DebugEvent, DebugTensor, DebugValue, ETDP_IDENTIFIER, EtDump, Event, ProfileEvent, RunData,
};
pub use head::{ParsedHead, PteFile};
pub use place::{Item, Place, Problem};
pub use program::{
    BackendDelegate, Chain, CompileSpec, DataSegment, DelegateData, DeviceType, EValue, ExecutionPlan, Frame,
    Instruction, LegacyNote, NamedData, NonConstBufferDevice, Operator, Program, SubsegmentOffsets,
};
pub use ptd::{PTD_IDENTIFIER, PtdEntry, PtdFile, PtdHead, PtdSpec, encode_ptd, write_ptd};
pub use scalar_type::ScalarType;
pub use segments::{DEFAULT_SEGMENT_ALIGNMENT, Encoded, SegmentSpec};
pub use tensor::{Allocation, ExtraTensorInfo, ShapeDynamism, Storage, Tensor, TensorLayout};
