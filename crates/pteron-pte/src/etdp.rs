//! `.etdp` files (ETDump): what a runtime measured and recorded.

use crate::ScalarType;
use crate::container::{check_identifier, u32_at};
use crate::decode::{each, scalar_type};
use crate::error::PteError;
use crate::flatbuf::{Field, FlatBuffer, Table};
use crate::limits::MAX_SCHEMA_VERSION;
use crate::place::{At, Item, Problem};
use crate::schema;

/// Identifier of a profile dump; it stands at byte 8, behind a size prefix and the root offset.
pub const ETDP_IDENTIFIER: &str = "ED00";

type Result<T> = std::result::Result<T, PteError>;

/// A profile dump.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EtDump {
    /// Schema version; 0.
    pub version: u32,
    /// Blocks of events, such as `Default` (loading) and `Execute`.
    pub run_data: Vec<RunData>,
}

/// One block of events.
#[derive(Debug, Clone, PartialEq)]
pub struct RunData {
    /// Name of the block.
    pub name: Option<String>,
    /// Index of the bundled input, or -1.
    pub bundled_input_index: i32,
    /// Names of the allocators that allocation events refer to.
    pub allocators: Vec<String>,
    /// The events in the order of their end.
    pub events: Vec<Event>,
}

/// One event; a writer sets one of the three.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Event {
    /// A time span.
    pub profile: Option<ProfileEvent>,
    /// An allocation.
    pub allocation: Option<AllocationEvent>,
    /// A recorded value.
    pub debug: Option<DebugEvent>,
}

/// A time span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileEvent {
    /// What was timed, such as `Method::execute` or `native_call_addmm.out`.
    pub name: Option<String>,
    /// Chain of the instruction.
    pub chain_index: i32,
    /// Instruction in the chain, or -1.
    pub instruction_id: i32,
    /// Number that a delegate gave to its own operation, or -1.
    pub delegate_debug_id_int: i32,
    /// Name that a delegate gave to its own operation.
    pub delegate_debug_id_str: Option<String>,
    /// What else a delegate recorded.
    pub delegate_debug_metadata: Option<Vec<u8>>,
    /// Start, ticks of the recording platform.
    pub start_time: u64,
    /// End, ticks of the recording platform.
    pub end_time: u64,
}

/// An allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocationEvent {
    /// Allocator number, from 1 as runtimes count.
    pub allocator_id: i32,
    /// Bytes.
    pub allocation_size: u64,
}

/// A recorded value.
#[derive(Debug, Clone, PartialEq)]
pub struct DebugEvent {
    /// Name of the event.
    pub name: Option<String>,
    /// Chain of the instruction.
    pub chain_index: u64,
    /// Instruction in the chain, or -1.
    pub instruction_id: i32,
    /// Number that a delegate gave to its own operation, or -1.
    pub delegate_debug_id_int: i32,
    /// Name that a delegate gave to its own operation.
    pub delegate_debug_id_str: Option<String>,
    /// The value.
    pub value: Option<DebugValue>,
    /// Whether the value is an output of the program.
    pub output: Option<bool>,
}

/// A value of a debug event.
#[derive(Debug, Clone, PartialEq)]
pub enum DebugValue {
    /// No value.
    Null,
    /// Integer.
    Int(i64),
    /// Boolean.
    Bool(bool),
    /// Single-precision number.
    Float(f32),
    /// Double-precision number.
    Double(f64),
    /// Tensor.
    Tensor(DebugTensor),
    /// Tensors.
    TensorList(Vec<DebugTensor>),
    /// String; the format has no field for its contents.
    String,
}

/// A tensor whose bytes are in the separate debug buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebugTensor {
    /// Element type.
    pub scalar_type: ScalarType,
    /// Sizes in logical order.
    pub sizes: Vec<i64>,
    /// Elements between neighbours of each dimension.
    pub strides: Vec<i64>,
    /// Byte offset in the debug buffer.
    pub offset: i64,
}

impl EtDump {
    /// Reads and verifies a dump.
    ///
    /// # Errors
    /// Size prefix, identifier, version, FlatBuffers structure, unknown types, spans that end before they start.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        use schema::etdump as f;
        check_identifier(bytes, 8, ETDP_IDENTIFIER)?;
        let size = u64::from(u32_at(bytes, 0).unwrap_or(0));
        let rest = (bytes.len() as u64).saturating_sub(4);
        if size > rest {
            return Err(PteError::TooShort { what: "size prefix", found: rest, expected: size });
        }
        let end = usize::try_from(size.saturating_add(4)).unwrap_or(usize::MAX);
        let at = At::FILE;
        // The buffer keeps its prefix, because alignments count from the start of the file.
        let buffer = FlatBuffer::new(bytes.get(..end).unwrap_or(bytes)).map_err(at.flat())?;
        let root = buffer.root(4).map_err(at.flat())?;
        let version = root.scalar(f::VERSION, 0u32).map_err(at.flat())?;
        if version > MAX_SCHEMA_VERSION {
            return Err(PteError::Version { found: version, expected: "ETDump version 0" });
        }
        Ok(EtDump { version, run_data: each(at, root, f::RUN_DATA, run)? })
    }

    /// All profile events with the name of their block, in file order.
    pub fn profile_events(&self) -> impl Iterator<Item = (Option<&str>, &ProfileEvent)> {
        self.run_data
            .iter()
            .flat_map(|r| r.events.iter().filter_map(|e| Some((r.name.as_deref(), e.profile.as_ref()?))))
    }
}

fn text(at: At<'_>, t: Table<'_, '_>, field: Field) -> Result<Option<String>> {
    Ok(t.string(field).map_err(at.flat())?.map(str::to_owned))
}

fn run(index: usize, t: Table<'_, '_>) -> Result<RunData> {
    use schema::run as f;
    let at = At::new(Item::Run(index));
    Ok(RunData {
        name: text(at, t, f::NAME)?,
        bundled_input_index: t.scalar(f::INPUT_INDEX, -1i32).map_err(at.flat())?,
        allocators: each(at, t, f::ALLOCATORS, |_, t| Ok(text(at, t, schema::allocator::NAME)?.unwrap_or_default()))?,
        events: each(at, t, f::EVENTS, |i, t| event(at.item(Item::Event { run: index, index: i }), t))?,
    })
}

fn event(at: At<'_>, t: Table<'_, '_>) -> Result<Event> {
    use schema::event as f;
    let profile = match t.table(f::PROFILE).map_err(at.flat())? {
        Some(p) => Some(profile(at, p)?),
        None => None,
    };
    let allocation = match t.table(f::ALLOCATION).map_err(at.flat())? {
        Some(a) => {
            use schema::alloc_event as f;
            Some(AllocationEvent {
                allocator_id: a.scalar(f::ALLOCATOR, 0i32).map_err(at.flat())?,
                allocation_size: a.scalar(f::SIZE, 0u64).map_err(at.flat())?,
            })
        }
        None => None,
    };
    let debug = match t.table(f::DEBUG).map_err(at.flat())? {
        Some(d) => Some(debug(at, d)?),
        None => None,
    };
    Ok(Event { profile, allocation, debug })
}

fn profile(at: At<'_>, p: Table<'_, '_>) -> Result<ProfileEvent> {
    use schema::profile as f;
    let start_time = p.scalar(f::START, 0u64).map_err(at.flat())?;
    let end_time = p.scalar(f::END, 0u64).map_err(at.flat())?;
    // A span that was started and never ended keeps 0.
    if end_time != 0 && end_time < start_time {
        return Err(at.err("end_time", Problem::value(end_time, format!("at least start_time, {start_time}"))));
    }
    Ok(ProfileEvent {
        name: text(at, p, f::NAME)?,
        chain_index: p.scalar(f::CHAIN, 0i32).map_err(at.flat())?,
        instruction_id: p.scalar(f::INSTRUCTION, -1i32).map_err(at.flat())?,
        delegate_debug_id_int: p.scalar(f::DELEGATE_INT, -1i32).map_err(at.flat())?,
        delegate_debug_id_str: text(at, p, f::DELEGATE_STR)?,
        delegate_debug_metadata: p.vector::<u8>(f::METADATA).map_err(at.flat())?.map(|v| v.bytes().to_vec()),
        start_time,
        end_time,
    })
}

fn debug(at: At<'_>, d: Table<'_, '_>) -> Result<DebugEvent> {
    use schema::debug as f;
    let (mut value, mut output) = (None, None);
    if let Some(v) = d.table(f::ENTRY).map_err(at.flat())? {
        value = Some(debug_value(at, v)?);
        if let Some(o) = v.table(schema::debug_value::OUTPUT).map_err(at.flat())? {
            output = Some(o.scalar(schema::boxed::VALUE, false).map_err(at.flat())?);
        }
    }
    Ok(DebugEvent {
        name: text(at, d, f::NAME)?,
        chain_index: d.scalar(f::CHAIN, 0u64).map_err(at.flat())?,
        instruction_id: d.scalar(f::INSTRUCTION, -1i32).map_err(at.flat())?,
        delegate_debug_id_int: d.scalar(f::DELEGATE_INT, -1i32).map_err(at.flat())?,
        delegate_debug_id_str: text(at, d, f::DELEGATE_STR)?,
        value,
        output,
    })
}

fn debug_value(at: At<'_>, v: Table<'_, '_>) -> Result<DebugValue> {
    use schema::debug_value as f;
    let boxed = schema::boxed::VALUE;
    let table = |field: Field| at.need(field.name, v.table(field).map_err(at.flat())?);
    Ok(match v.scalar(f::KIND, 0i8).map_err(at.flat())? {
        0 => DebugValue::Null,
        1 => DebugValue::Int(table(f::INT)?.scalar(boxed, 0i64).map_err(at.flat())?),
        2 => DebugValue::Bool(table(f::BOOL)?.scalar(boxed, false).map_err(at.flat())?),
        3 => DebugValue::Float(table(f::FLOAT)?.scalar(boxed, 0f32).map_err(at.flat())?),
        4 => DebugValue::Double(table(f::DOUBLE)?.scalar(boxed, 0f64).map_err(at.flat())?),
        5 => DebugValue::Tensor(debug_tensor(at, table(f::TENSOR)?)?),
        6 => DebugValue::TensorList(each(at, table(f::TENSOR_LIST)?, schema::list::ITEMS, |_, t| debug_tensor(at, t))?),
        7 => DebugValue::String,
        code => return Err(at.err("val", Problem::value(format!("type {code}"), "a value type from 0 to 7"))),
    })
}

fn debug_tensor(at: At<'_>, t: Table<'_, '_>) -> Result<DebugTensor> {
    use schema::debug_tensor as f;
    let sizes = t.vector::<i64>(f::SIZES).map_err(at.flat())?.map(|v| v.to_vec()).unwrap_or_default();
    let strides = t.vector::<i64>(f::STRIDES).map_err(at.flat())?.map(|v| v.to_vec()).unwrap_or_default();
    let offset = t.scalar(f::OFFSET, 0i64).map_err(at.flat())?;
    if let Some(s) = sizes.iter().find(|s| **s < 0) {
        return Err(at.err("sizes", Problem::value(s, "sizes of at least 0")));
    }
    if strides.len() != sizes.len() {
        let expected = format!("{}, the rank", sizes.len());
        return Err(at.err("strides", Problem::value(format!("{} strides", strides.len()), expected)));
    }
    Ok(DebugTensor { scalar_type: scalar_type(at, t, f::SCALAR_TYPE)?, sizes, strides, offset })
}
