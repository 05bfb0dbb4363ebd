//! FlatBuffers program → data model.
//!
//! Indices are checked here as they are turned into `u32`; what they point at is checked by [`crate::verify`].

use std::ops::Range;

use crate::ScalarType;
use crate::error::PteError;
use crate::flatbuf::{Field, FlatBuffer, Table, TableVector};
use crate::limits::MAX_SCHEMA_VERSION;
use crate::place::{At, Item, Problem};
use crate::program::*;
use crate::schema;
use crate::tensor::{Allocation, ExtraTensorInfo, ShapeDynamism, Tensor};

type Result<T> = std::result::Result<T, PteError>;

/// The program of a buffer, with what is old about it.
pub(crate) fn program(bytes: &[u8]) -> Result<(Program, Vec<LegacyNote>)> {
    use schema::program as f;
    let at = At::FILE;
    let buffer = FlatBuffer::new(bytes).map_err(at.flat())?;
    let root = buffer.root(0).map_err(at.flat())?;
    let version = root.scalar(f::VERSION, 0u32).map_err(at.flat())?;
    if version > MAX_SCHEMA_VERSION {
        return Err(PteError::Version { found: version, expected: "version 0" });
    }
    let mut notes = Vec::new();
    let constant_buffers = blobs(root, f::CONSTANT_BUFFER, Item::ConstantBuffer)?;
    let inline_delegate_data = blobs(root, f::BACKEND_DELEGATE_DATA, Item::InlineDelegate)?;
    let segments = each(at, root, f::SEGMENTS, |i, t| {
        let at = At::new(Item::Segment(i));
        Ok(DataSegment {
            offset: t.scalar(schema::segment::OFFSET, 0u64).map_err(at.flat())?,
            size: t.scalar(schema::segment::SIZE, 0u64).map_err(at.flat())?,
        })
    })?;
    let constant_segment = match root.table(f::CONSTANT_SEGMENT).map_err(at.flat())? {
        Some(t) => Some(subsegment(at, t)?),
        None => None,
    };
    let mutable_data_segments =
        each(at, root, f::MUTABLE_DATA_SEGMENTS, |i, t| subsegment(At::new(Item::MutableSegment(i)), t))?;
    let named_data = each(at, root, f::NAMED_DATA, |i, t| {
        let at = At::new(Item::NamedData(i));
        Ok(NamedData {
            key: required_string(at, t, schema::named::KEY)?,
            segment_index: t.scalar(schema::named::SEGMENT_INDEX, 0u32).map_err(at.flat())?,
        })
    })?;
    let plans = at.need(f::EXECUTION_PLAN.name, root.tables(f::EXECUTION_PLAN).map_err(at.flat())?)?;
    let mut execution_plans = Vec::new();
    for (i, t) in plans.iter().enumerate() {
        execution_plans.push(plan(i, t.map_err(at.flat())?, &mut notes)?);
    }
    if constant_segment.as_ref().is_none_or(|s| s.offsets.is_empty()) {
        notes.push(LegacyNote::NoConstantSegment);
        if constant_buffers.len() > 1 {
            notes.push(LegacyNote::InlineConstants { count: constant_buffers.len() - 1 });
        }
    }
    if inline_delegate_data.iter().any(|r| !r.is_empty()) {
        notes.push(LegacyNote::InlineDelegates { count: inline_delegate_data.len() });
    }
    let program = Program {
        version,
        execution_plans,
        constant_buffers,
        inline_delegate_data,
        segments,
        constant_segment,
        mutable_data_segments,
        named_data,
    };
    Ok((program, notes))
}

/// Reads every table of an optional vector.
pub(crate) fn each<'b, 'a, T>(
    at: At<'_>,
    table: Table<'b, 'a>,
    field: Field,
    mut read: impl FnMut(usize, Table<'b, 'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let Some(tables) = table.tables(field).map_err(at.flat())? else { return Ok(Vec::new()) };
    each_of(at, tables, &mut read)
}

fn each_of<'b, 'a, T>(
    at: At<'_>,
    tables: TableVector<'b, 'a>,
    read: &mut dyn FnMut(usize, Table<'b, 'a>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut out = Vec::new();
    for (i, t) in tables.iter().enumerate() {
        out.push(read(i, t.map_err(at.flat())?)?);
    }
    Ok(out)
}

/// A string that must be present.
pub(crate) fn required_string(at: At<'_>, table: Table<'_, '_>, field: Field) -> Result<String> {
    let s = table.string(field).map_err(at.flat())?;
    at.need(field.name, s).map(str::to_owned)
}

/// A string that is empty if absent.
fn optional_string(at: At<'_>, table: Table<'_, '_>, field: Field) -> Result<String> {
    Ok(table.string(field).map_err(at.flat())?.unwrap_or_default().to_owned())
}

/// The element type in a signed-byte enum field.
pub(crate) fn scalar_type(at: At<'_>, table: Table<'_, '_>, field: Field) -> Result<ScalarType> {
    let code = table.scalar(field, 0i8).map_err(at.flat())?;
    ScalarType::from_code(i64::from(code))
        .ok_or_else(|| at.err(field.name, Problem::value(format!("code {code}"), "an element type code from 0 to 29")))
}

/// A vector of `i32` that must be present (a rank-0 tensor has an empty one).
pub(crate) fn required_i32s(at: At<'_>, table: Table<'_, '_>, field: Field) -> Result<Vec<i32>> {
    let v = table.vector::<i32>(field).map_err(at.flat())?;
    Ok(at.need(field.name, v)?.to_vec())
}

/// A vector of bytes that must be present.
pub(crate) fn required_bytes<'a>(at: At<'_>, table: Table<'_, 'a>, field: Field) -> Result<&'a [u8]> {
    let v = table.vector::<u8>(field).map_err(at.flat())?;
    Ok(at.need(field.name, v)?.bytes())
}

fn device_type(at: At<'_>, table: Table<'_, '_>, field: Field) -> Result<DeviceType> {
    let code = table.scalar(field, 0i8).map_err(at.flat())?;
    DeviceType::from_code(code)
        .ok_or_else(|| at.err(field.name, Problem::value(format!("code {code}"), "0 (CPU) or 1 (CUDA)")))
}

fn blobs(root: Table<'_, '_>, field: Field, item: fn(usize) -> Item) -> Result<Vec<Range<u64>>> {
    each(At::FILE, root, field, |i, t| {
        let at = At::new(item(i));
        let range = t.byte_range(schema::blob::DATA).map_err(at.flat())?.unwrap_or(0..0);
        Ok(range.start as u64..range.end as u64)
    })
}

fn subsegment(at: At<'_>, t: Table<'_, '_>) -> Result<SubsegmentOffsets> {
    let offsets = t.vector::<u64>(schema::subsegment::OFFSETS).map_err(at.flat())?;
    Ok(SubsegmentOffsets {
        segment_index: t.scalar(schema::subsegment::SEGMENT_INDEX, 0u32).map_err(at.flat())?,
        offsets: offsets.map(|v| v.to_vec()).unwrap_or_default(),
    })
}

fn indices(at: At<'_>, t: Table<'_, '_>, field: Field, values: usize) -> Result<Option<Vec<u32>>> {
    let Some(v) = t.vector::<i32>(field).map_err(at.flat())? else { return Ok(None) };
    v.iter().map(|i| at.index(field.name, i64::from(i), values, "values")).collect::<Result<Vec<_>>>().map(Some)
}

fn required_indices(at: At<'_>, t: Table<'_, '_>, field: Field, values: usize) -> Result<Vec<u32>> {
    at.need(field.name, indices(at, t, field, values)?)
}

fn plan(i: usize, t: Table<'_, '_>, notes: &mut Vec<LegacyNote>) -> Result<ExecutionPlan> {
    use schema::plan as f;
    let name = required_string(At::new(Item::Method(i)), t, f::NAME)?;
    let at = At::method(&name);
    let (mut container_in, mut container_out) = (String::new(), String::new());
    if let Some(c) = t.table(f::CONTAINER).map_err(at.flat())? {
        container_in = optional_string(at, c, schema::container::INPUT)?;
        container_out = optional_string(at, c, schema::container::OUTPUT)?;
    }
    let values = at.need(f::VALUES.name, t.tables(f::VALUES).map_err(at.flat())?)?;
    let count = values.len();
    let values = each_of(at, values, &mut |i, t| evalue(at.item(Item::Value(i)), t, count))?;
    let operators = match t.tables(f::OPERATORS).map_err(at.flat())? {
        Some(tables) => each_of(at, tables, &mut |i, t| {
            let at = at.item(Item::Operator(i));
            Ok(Operator {
                name: required_string(at, t, schema::operator::NAME)?,
                overload: optional_string(at, t, schema::operator::OVERLOAD)?,
            })
        })?,
        None => {
            notes.push(LegacyNote::NoOperatorTable { method: name.clone() });
            Vec::new()
        }
    };
    let delegates = match t.tables(f::DELEGATES).map_err(at.flat())? {
        Some(tables) => each_of(at, tables, &mut |i, t| delegate(at.item(Item::Delegate(i)), t))?,
        None => {
            notes.push(LegacyNote::NoDelegateTable { method: name.clone() });
            Vec::new()
        }
    };
    let chains = at.need(f::CHAINS.name, t.tables(f::CHAINS).map_err(at.flat())?)?;
    let tables = Tables { values: count, operators: operators.len(), delegates: delegates.len() };
    let chains = each_of(at, chains, &mut |i, t| chain(at, i, t, tables))?;
    let sizes = at.need(f::BUFFER_SIZES.name, t.vector::<i64>(f::BUFFER_SIZES).map_err(at.flat())?)?.to_vec();
    let non_const_buffer_device = each(at, t, f::BUFFER_DEVICE, |_, t| {
        use schema::buffer_device as f;
        let index = t.scalar(f::BUFFER_IDX, 0i32).map_err(at.flat())?;
        Ok(NonConstBufferDevice {
            buffer_idx: at.index(f::BUFFER_IDX.name, i64::from(index), sizes.len(), "arenas")?,
            device_type: device_type(at, t, f::TYPE)?,
            device_index: t.scalar(f::INDEX, 0i8).map_err(at.flat())?,
        })
    })?;
    Ok(ExecutionPlan {
        container_in,
        container_out,
        values,
        inputs: required_indices(at, t, f::INPUTS, count)?,
        outputs: required_indices(at, t, f::OUTPUTS, count)?,
        chains,
        operators,
        delegates,
        non_const_buffer_sizes: sizes,
        non_const_buffer_device,
        name: name.clone(),
    })
}

fn delegate(at: At<'_>, t: Table<'_, '_>) -> Result<BackendDelegate> {
    use schema::delegate as f;
    let r = at.need(f::PROCESSED.name, t.table(f::PROCESSED).map_err(at.flat())?)?;
    let index = r.scalar(schema::reference::INDEX, 0u32).map_err(at.flat())?;
    let data = match r.scalar(schema::reference::LOCATION, 0i8).map_err(at.flat())? {
        0 => DelegateData::Inline(index),
        1 => DelegateData::Segment(index),
        code => {
            let problem = Problem::value(format!("code {code}"), "0 (inline) or 1 (segment)");
            return Err(at.err(schema::reference::LOCATION.name, problem));
        }
    };
    let compile_specs = each(at, t, f::COMPILE_SPECS, |_, t| {
        let value = t.vector::<u8>(schema::spec::VALUE).map_err(at.flat())?;
        Ok(CompileSpec {
            key: required_string(at, t, schema::spec::KEY)?,
            value: value.map(|v| v.bytes().to_vec()).unwrap_or_default(),
        })
    })?;
    Ok(BackendDelegate { id: required_string(at, t, f::ID)?, data, compile_specs })
}

#[derive(Clone, Copy)]
struct Tables {
    values: usize,
    operators: usize,
    delegates: usize,
}

fn chain(at: At<'_>, index: usize, t: Table<'_, '_>, tables: Tables) -> Result<Chain> {
    use schema::chain as f;
    let at = at.item(Item::Chain(index));
    let code = at.need(f::INSTRUCTIONS.name, t.tables(f::INSTRUCTIONS).map_err(at.flat())?)?;
    let count = code.len();
    let instructions = each_of(at, code, &mut |i, t| {
        instruction(at.item(Item::Instruction { chain: index, index: i }), t, tables, count)
    })?;
    let stacktrace = each(at, t, f::STACKTRACE, |_, t| {
        each(at, t, schema::list::ITEMS, |_, t| {
            use schema::frame as f;
            Ok(Frame {
                filename: optional_string(at, t, f::FILENAME)?,
                lineno: t.scalar(f::LINENO, 0i32).map_err(at.flat())?,
                name: optional_string(at, t, f::NAME)?,
                context: optional_string(at, t, f::CONTEXT)?,
            })
        })
    })?;
    Ok(Chain {
        inputs: indices(at, t, f::INPUTS, tables.values)?.unwrap_or_default(),
        outputs: indices(at, t, f::OUTPUTS, tables.values)?.unwrap_or_default(),
        instructions,
        stacktrace,
    })
}

fn instruction(at: At<'_>, t: Table<'_, '_>, tables: Tables, count: usize) -> Result<Instruction> {
    use schema::call as f;
    let field = schema::instruction::ARGS;
    let (code, args) = t.union(field).map_err(at.flat())?;
    if !(1..=5).contains(&code) {
        let problem = Problem::value(format!("type {code}"), "an instruction type from 1 to 5");
        return Err(at.err("instr_args_type", problem));
    }
    let t = at.need(field.name, args)?;
    let index = |field: Field, len: usize, of: &'static str| {
        let i = t.scalar(field, 0i32).map_err(at.flat())?;
        at.index(field.name, i64::from(i), len, of)
    };
    Ok(match code {
        1 => Instruction::KernelCall {
            op_index: index(f::OP_INDEX, tables.operators, "operators")?,
            args: required_indices(at, t, f::ARGS, tables.values)?,
        },
        2 => Instruction::DelegateCall {
            delegate_index: index(f::DELEGATE_INDEX, tables.delegates, "delegates")?,
            args: required_indices(at, t, f::ARGS, tables.values)?,
        },
        3 => Instruction::MoveCall {
            move_from: index(f::MOVE_FROM, tables.values, "values")?,
            move_to: index(f::MOVE_TO, tables.values, "values")?,
        },
        4 => Instruction::JumpFalseCall {
            cond_value_index: index(f::COND, tables.values, "values")?,
            destination_instruction: index(f::DESTINATION, count.saturating_add(1), "instructions and the end")?,
        },
        _ => Instruction::FreeCall { value_index: index(f::VALUE, tables.values, "values")? },
    })
}

fn evalue(at: At<'_>, t: Table<'_, '_>, values: usize) -> Result<EValue> {
    let field = schema::evalue::VAL;
    let (code, value) = t.union(field).map_err(at.flat())?;
    if !(1..=11).contains(&code) {
        return Err(at.err("val_type", Problem::value(format!("type {code}"), "a value type from 1 to 11")));
    }
    if code == 1 {
        return Ok(EValue::Null);
    }
    let t = at.need(field.name, value)?;
    let boxed = schema::boxed::VALUE;
    let items = schema::list::ITEMS;
    Ok(match code {
        2 => EValue::Int(t.scalar(boxed, 0i64).map_err(at.flat())?),
        3 => EValue::Bool(t.scalar(boxed, false).map_err(at.flat())?),
        4 => EValue::Double(t.scalar(boxed, 0f64).map_err(at.flat())?),
        5 => EValue::Tensor(tensor(at, t)?),
        6 => EValue::String(required_string(at, t, boxed)?),
        7 => {
            let v = at.need(items.name, t.vector::<i64>(items).map_err(at.flat())?)?;
            EValue::IntList(v.iter().map(|i| at.index(items.name, i, values, "values")).collect::<Result<_>>()?)
        }
        8 => EValue::DoubleList(at.need(items.name, t.vector::<f64>(items).map_err(at.flat())?)?.to_vec()),
        9 => EValue::BoolList(at.need(items.name, t.vector::<bool>(items).map_err(at.flat())?)?.to_vec()),
        10 => EValue::TensorList(required_indices(at, t, items, values)?),
        _ => {
            let v = at.need(items.name, t.vector::<i32>(items).map_err(at.flat())?)?;
            let item = |i: i32| match i {
                -1 => Ok(None),
                i => at.index(items.name, i64::from(i), values, "values").map(Some),
            };
            EValue::OptionalTensorList(v.iter().map(item).collect::<Result<_>>()?)
        }
    })
}

fn tensor(at: At<'_>, t: Table<'_, '_>) -> Result<Tensor> {
    use schema::tensor as f;
    let allocation = match t.table(f::ALLOCATION_INFO).map_err(at.flat())? {
        Some(a) => {
            use schema::allocation as f;
            let low = a.scalar(f::LOW, 0u32).map_err(at.flat())?;
            let high = a.scalar(f::HIGH, 0u32).map_err(at.flat())?;
            let memory_id = a.scalar(f::MEMORY_ID, 0u32).map_err(at.flat())?;
            Some(Allocation { memory_id, offset: u64::from(high) << 32 | u64::from(low) })
        }
        None => None,
    };
    let extra = match t.table(f::EXTRA).map_err(at.flat())? {
        Some(e) => {
            use schema::extra as f;
            let external = match e.scalar(f::LOCATION, 0i8).map_err(at.flat())? {
                0 => false,
                1 => true,
                code => {
                    let problem = Problem::value(format!("code {code}"), "0 (segment) or 1 (external)");
                    return Err(at.err(f::LOCATION.name, problem));
                }
            };
            Some(Box::new(ExtraTensorInfo {
                mutable_data_segments_idx: e.scalar(f::SEGMENTS_IDX, 0u64).map_err(at.flat())?,
                fully_qualified_name: optional_string(at, e, f::NAME)?,
                external,
                device_type: device_type(at, e, f::DEVICE_TYPE)?,
                device_index: e.scalar(f::DEVICE_INDEX, 0i8).map_err(at.flat())?,
            }))
        }
        None => None,
    };
    let code = t.scalar(f::SHAPE_DYNAMISM, 0i8).map_err(at.flat())?;
    let dynamism = ShapeDynamism::from_code(code)
        .ok_or_else(|| at.err(f::SHAPE_DYNAMISM.name, Problem::value(format!("code {code}"), "0, 1 or 2")))?;
    Ok(Tensor {
        scalar_type: scalar_type(at, t, f::SCALAR_TYPE)?,
        sizes: required_i32s(at, t, f::SIZES)?,
        dim_order: required_bytes(at, t, f::DIM_ORDER)?.to_vec(),
        storage_offset: t.scalar(f::STORAGE_OFFSET, 0i32).map_err(at.flat())?,
        requires_grad: t.scalar(f::REQUIRES_GRAD, false).map_err(at.flat())?,
        data_buffer_idx: t.scalar(f::DATA_BUFFER_IDX, 0u32).map_err(at.flat())?,
        allocation,
        layout: t.scalar(f::LAYOUT, 0i8).map_err(at.flat())?,
        dynamism,
        extra,
    })
}
