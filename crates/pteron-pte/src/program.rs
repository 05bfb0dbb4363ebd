//! The data model: plain owned mirrors of the schema's tables.

use std::fmt;
use std::ops::Range;

use crate::tensor::Tensor;

/// A program: methods and the layout of their data.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Program {
    /// Schema version; 0.
    pub version: u32,
    /// The methods.
    pub execution_plans: Vec<ExecutionPlan>,
    /// Deprecated inline constants: byte ranges of the file. Entry 0 is a placeholder.
    pub constant_buffers: Vec<Range<u64>>,
    /// Delegate blobs inside the program part: byte ranges of the file.
    pub inline_delegate_data: Vec<Range<u64>>,
    /// Data segments after the program part.
    pub segments: Vec<DataSegment>,
    /// Constants: a segment and where in it each constant starts; entry 0 is a placeholder.
    pub constant_segment: Option<SubsegmentOffsets>,
    /// Initial contents of mutable buffers. ExecuTorch's runtime uses entry 0 only.
    pub mutable_data_segments: Vec<SubsegmentOffsets>,
    /// Blobs with names.
    pub named_data: Vec<NamedData>,
}

/// A byte interval after the program part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataSegment {
    /// Bytes from the segment base.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// Start offsets inside a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SubsegmentOffsets {
    /// Index into [`Program::segments`].
    pub segment_index: u32,
    /// Bytes from the start of the segment.
    pub offsets: Vec<u64>,
}

/// A blob with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedData {
    /// Unique key.
    pub key: String,
    /// Index into [`Program::segments`]; several keys may share one.
    pub segment_index: u32,
}

/// One method.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ExecutionPlan {
    /// Unique name, such as `forward`.
    pub name: String,
    /// How inputs are nested (pytree JSON); empty if unknown.
    pub container_in: String,
    /// How outputs are nested (pytree JSON); empty if unknown.
    pub container_out: String,
    /// The value table.
    pub values: Vec<EValue>,
    /// Value indices of the inputs.
    pub inputs: Vec<u32>,
    /// Value indices of the outputs.
    pub outputs: Vec<u32>,
    /// Instruction lists, executed one after the other; at least one.
    pub chains: Vec<Chain>,
    /// The operator table.
    pub operators: Vec<Operator>,
    /// The delegate table.
    pub delegates: Vec<BackendDelegate>,
    /// Arena sizes, bytes; entry 0 is reserved.
    pub non_const_buffer_sizes: Vec<i64>,
    /// Devices of arenas that are not on the CPU.
    pub non_const_buffer_device: Vec<NonConstBufferDevice>,
}

/// Device of an arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NonConstBufferDevice {
    /// Index into [`ExecutionPlan::non_const_buffer_sizes`].
    pub buffer_idx: u32,
    /// Kind of device.
    pub device_type: DeviceType,
    /// Number of the device.
    pub device_index: i8,
}

/// Kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceType {
    /// Host memory.
    #[default]
    Cpu,
    /// CUDA device memory.
    Cuda,
}

impl DeviceType {
    /// The code that the format stores.
    pub fn code(self) -> i8 {
        match self {
            DeviceType::Cpu => 0,
            DeviceType::Cuda => 1,
        }
    }

    /// The device type of a code.
    pub fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(DeviceType::Cpu),
            1 => Some(DeviceType::Cuda),
            _ => None,
        }
    }
}

/// An entry of a value table.
#[derive(Debug, Clone, PartialEq)]
pub enum EValue {
    /// No value.
    Null,
    /// Integer; also element types, layouts and memory formats, and symbolic ints overwritten at run time.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Floating-point number; may be infinite or NaN.
    Double(f64),
    /// Tensor.
    Tensor(Tensor),
    /// String.
    String(String),
    /// Indices of `Int` values.
    IntList(Vec<u32>),
    /// Literal numbers.
    DoubleList(Vec<f64>),
    /// Literal booleans.
    BoolList(Vec<bool>),
    /// Indices of `Tensor` values.
    TensorList(Vec<u32>),
    /// Indices of `Tensor` values or nothing (stored as -1).
    OptionalTensorList(Vec<Option<u32>>),
}

impl EValue {
    /// Name of the kind.
    pub fn kind(&self) -> &'static str {
        match self {
            EValue::Null => "Null",
            EValue::Int(_) => "Int",
            EValue::Bool(_) => "Bool",
            EValue::Double(_) => "Double",
            EValue::Tensor(_) => "Tensor",
            EValue::String(_) => "String",
            EValue::IntList(_) => "IntList",
            EValue::DoubleList(_) => "DoubleList",
            EValue::BoolList(_) => "BoolList",
            EValue::TensorList(_) => "TensorList",
            EValue::OptionalTensorList(_) => "OptionalTensorList",
        }
    }

    /// The tensor, if it is one.
    pub fn as_tensor(&self) -> Option<&Tensor> {
        match self {
            EValue::Tensor(t) => Some(t),
            _ => None,
        }
    }
}

/// A list of instructions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// Value indices; exporters leave it empty.
    pub inputs: Vec<u32>,
    /// Value indices; exporters leave it empty.
    pub outputs: Vec<u32>,
    /// The instructions.
    pub instructions: Vec<Instruction>,
    /// Source frames of each instruction, innermost last; empty unless the exporter was asked for them.
    pub stacktrace: Vec<Vec<Frame>>,
}

/// A source location.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frame {
    /// Source file.
    pub filename: String,
    /// Line number, from 1.
    pub lineno: i32,
    /// Function.
    pub name: String,
    /// Text of the source line.
    pub context: String,
}

/// One step of a chain. All arguments are value indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instruction {
    /// Calls an operator.
    KernelCall {
        /// Index into the operator table.
        op_index: u32,
        /// Arguments in schema order, then the returned values once more.
        args: Vec<u32>,
    },
    /// Calls a delegate.
    DelegateCall {
        /// Index into the delegate table.
        delegate_index: u32,
        /// The delegate's inputs, then its outputs.
        args: Vec<u32>,
    },
    /// Copies the handle of a value; tensors then share memory.
    MoveCall {
        /// Source value.
        move_from: u32,
        /// Destination value.
        move_to: u32,
    },
    /// Jumps if the condition is false.
    JumpFalseCall {
        /// A `Bool` value, or a boolean tensor (false if any element is).
        cond_value_index: u32,
        /// Instruction index in the same chain; the number of instructions means the end.
        destination_instruction: u32,
    },
    /// Clears the data pointer of a tensor.
    FreeCall {
        /// The tensor value.
        value_index: u32,
    },
}

/// An operator that a method calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Operator {
    /// Name with namespace, such as `aten::add`.
    pub name: String,
    /// Overload, such as `out`; may be empty.
    pub overload: String,
}

impl fmt::Display for Operator {
    /// The lookup key: `name.overload`, or `name` if there is no overload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if !self.overload.is_empty() {
            write!(f, ".{}", self.overload)?;
        }
        Ok(())
    }
}

/// A part of a method that a backend executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendDelegate {
    /// Name of the backend, such as `XnnpackBackend`.
    pub id: String,
    /// Where the backend's blob is.
    pub data: DelegateData,
    /// Options for the backend.
    pub compile_specs: Vec<CompileSpec>,
}

/// Where a delegate's blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DelegateData {
    /// Index into [`Program::inline_delegate_data`].
    Inline(u32),
    /// Index into [`Program::segments`].
    Segment(u32),
}

/// An option for a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileSpec {
    /// Name.
    pub key: String,
    /// Contents, whose meaning the backend knows.
    pub value: Vec<u8>,
}

/// Something that older exporters wrote and newer ones do not; the file is readable all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LegacyNote {
    /// The extended header has 24 bytes, without the size of the segment data.
    ShortExtendedHeader,
    /// Constants are inside the program part; ExecuTorch 1.5 does not load such a file.
    InlineConstants {
        /// Number of inline constants, without the placeholder.
        count: usize,
    },
    /// There is no constant segment entry; ExecuTorch 1.5 does not load such a file.
    NoConstantSegment,
    /// Delegate blobs are inside the program part.
    InlineDelegates {
        /// Number of blobs.
        count: usize,
    },
    /// A method has no delegate table; ExecuTorch 1.5 does not load it.
    NoDelegateTable {
        /// Name of the method.
        method: String,
    },
    /// A method has no operator table.
    NoOperatorTable {
        /// Name of the method.
        method: String,
    },
}

impl fmt::Display for LegacyNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LegacyNote::ShortExtendedHeader => {
                write!(f, "the extended header has 24 bytes and does not give the size of the segment data")
            }
            LegacyNote::InlineConstants { count } => {
                write!(f, "{count} constants are stored inside the program; ExecuTorch 1.5 does not load them")
            }
            LegacyNote::NoConstantSegment => {
                write!(f, "there is no constant segment entry; ExecuTorch 1.5 does not load the file")
            }
            LegacyNote::InlineDelegates { count } => write!(f, "{count} delegate blobs are stored inside the program"),
            LegacyNote::NoDelegateTable { method } => {
                write!(f, "method '{method}' has no delegate table; ExecuTorch 1.5 does not load it")
            }
            LegacyNote::NoOperatorTable { method } => write!(f, "method '{method}' has no operator table"),
        }
    }
}
