//! What a program says must hold: indices, kinds, shapes, byte intervals, names.

use std::collections::BTreeSet;

use crate::error::PteError;
use crate::limits::{MAX_OPERATOR_KEY_LEN, MAX_SCHEMA_VERSION};
use crate::place::{At, Item, Problem};
use crate::program::*;
use crate::tensor::{Storage, Tensor, check_shape};

type Result<T> = std::result::Result<T, PteError>;

/// What lies outside of the model.
pub(crate) struct Surroundings<'s> {
    /// Size of each data segment, bytes.
    pub(crate) segments: &'s [u64],
    /// Number of inline delegate blobs.
    pub(crate) inline_delegates: usize,
}

/// Checks a whole program.
pub(crate) fn verify(program: &Program, around: &Surroundings<'_>) -> Result<()> {
    if program.version > MAX_SCHEMA_VERSION {
        return Err(PteError::Version { found: program.version, expected: "version 0" });
    }
    if let Some(s) = &program.constant_segment {
        // One offset is the placeholder alone; the segment it names need not exist then.
        if s.offsets.len() > 1 || s.offsets.iter().any(|o| *o != 0) {
            subsegment(At::FILE, "constant_segment", s, around)?;
        }
    }
    for (i, s) in program.mutable_data_segments.iter().enumerate() {
        subsegment(At::new(Item::MutableSegment(i)), "segment_index", s, around)?;
    }
    let mut keys = BTreeSet::new();
    for (i, n) in program.named_data.iter().enumerate() {
        let at = At::new(Item::NamedData(i));
        at.index("segment_index", i64::from(n.segment_index), around.segments.len(), "segments")?;
        at.name("key", &n.key)?;
        if !keys.insert(n.key.as_str()) {
            return Err(at.err("key", Problem::Duplicate { name: n.key.clone() }));
        }
    }
    let mut names = BTreeSet::new();
    for (i, p) in program.execution_plans.iter().enumerate() {
        At::new(Item::Method(i)).name("name", &p.name)?;
        if !names.insert(p.name.as_str()) {
            return Err(At::new(Item::Method(i)).err("name", Problem::Duplicate { name: p.name.clone() }));
        }
        plan(program, p, around)?;
    }
    Ok(())
}

fn subsegment(at: At<'_>, field: &'static str, s: &SubsegmentOffsets, around: &Surroundings<'_>) -> Result<()> {
    let segments = around.segments;
    let index = at.index(field, i64::from(s.segment_index), segments.len(), "segments")?;
    let room = segments.get(index as usize).copied().unwrap_or(0);
    for offset in &s.offsets {
        at.within("offsets", *offset, 0, room, "the segment")?;
    }
    Ok(())
}

fn plan(program: &Program, p: &ExecutionPlan, around: &Surroundings<'_>) -> Result<()> {
    let at = At::method(&p.name);
    let count = p.values.len();
    for (i, size) in p.non_const_buffer_sizes.iter().enumerate() {
        if *size < 0 {
            let found = format!("size {size} of arena {i}");
            return Err(at.err("non_const_buffer_sizes", Problem::value(found, "sizes of at least 0")));
        }
    }
    for d in &p.non_const_buffer_device {
        at.index("buffer_idx", i64::from(d.buffer_idx), p.non_const_buffer_sizes.len(), "arenas")?;
    }
    for (i, op) in p.operators.iter().enumerate() {
        let at = at.item(Item::Operator(i));
        if op.name.is_empty() {
            return Err(at.err("name", Problem::value("an empty string", "an operator name")));
        }
        at.name("name", &op.name)?;
        at.name("overload", &op.overload)?;
        let overload = if op.overload.is_empty() { 0 } else { op.overload.len() + 1 };
        let len = op.name.len().saturating_add(overload);
        if len > MAX_OPERATOR_KEY_LEN {
            let expected = format!("at most {MAX_OPERATOR_KEY_LEN} bytes with the overload");
            return Err(at.err("name", Problem::value(format!("{len} bytes"), expected)));
        }
    }
    for (i, d) in p.delegates.iter().enumerate() {
        let at = at.item(Item::Delegate(i));
        if d.id.is_empty() {
            return Err(at.err("id", Problem::value("an empty string", "a backend name")));
        }
        at.name("id", &d.id)?;
        match d.data {
            DelegateData::Inline(index) => {
                at.index("processed.index", i64::from(index), around.inline_delegates, "inline delegate blobs")?;
            }
            DelegateData::Segment(index) => {
                at.index("processed.index", i64::from(index), around.segments.len(), "segments")?;
            }
        }
    }
    for (i, v) in p.values.iter().enumerate() {
        value(program, p, around, at.item(Item::Value(i)), v)?;
    }
    for (field, list) in [("inputs", &p.inputs), ("outputs", &p.outputs)] {
        for i in list {
            at.index(field, i64::from(*i), count, "values")?;
        }
    }
    if p.chains.is_empty() {
        return Err(at.err("chains", Problem::value("no chain", "at least one")));
    }
    let moved = moved(p);
    for (chain, c) in p.chains.iter().enumerate() {
        let here = at.item(Item::Chain(chain));
        for (field, list) in [("inputs", &c.inputs), ("outputs", &c.outputs)] {
            for i in list {
                here.index(field, i64::from(*i), count, "values")?;
            }
        }
        for (index, ins) in c.instructions.iter().enumerate() {
            instruction(p, c, &moved, at.item(Item::Instruction { chain, index }), ins)?;
        }
    }
    Ok(())
}

/// Values that a `MoveCall` overwrites: their kind at run time is not the one in the table.
fn moved(p: &ExecutionPlan) -> BTreeSet<u32> {
    let code = p.chains.iter().flat_map(|c| &c.instructions);
    code.filter_map(|i| match i {
        Instruction::MoveCall { move_to, .. } => Some(*move_to),
        _ => None,
    })
    .collect()
}

fn instruction(
    p: &ExecutionPlan,
    chain: &Chain,
    moved: &BTreeSet<u32>,
    at: At<'_>,
    instruction: &Instruction,
) -> Result<()> {
    let count = p.values.len();
    let value = |field: &'static str, i: u32| at.index(field, i64::from(i), count, "values");
    let kind = |index: u32, field: &'static str, expected: &'static str, ok: fn(&EValue) -> bool| match p
        .values
        .get(index as usize)
    {
        Some(v) if !ok(v) && !moved.contains(&index) => {
            Err(at.err(field, Problem::Kind { index: index as usize, found: v.kind(), expected }))
        }
        _ => Ok(()),
    };
    match instruction {
        Instruction::KernelCall { op_index, args } => {
            at.index("op_index", i64::from(*op_index), p.operators.len(), "operators")?;
            args.iter().try_for_each(|i| value("args", *i).map(drop))
        }
        Instruction::DelegateCall { delegate_index, args } => {
            at.index("delegate_index", i64::from(*delegate_index), p.delegates.len(), "delegates")?;
            args.iter().try_for_each(|i| value("args", *i).map(drop))
        }
        Instruction::MoveCall { move_from, move_to } => {
            value("move_from", *move_from)?;
            value("move_to", *move_to).map(drop)
        }
        Instruction::JumpFalseCall { cond_value_index, destination_instruction } => {
            value("cond_value_index", *cond_value_index)?;
            let expected = "Bool or a boolean Tensor";
            kind(*cond_value_index, "cond_value_index", expected, |v| match v {
                EValue::Bool(_) => true,
                EValue::Tensor(t) => t.scalar_type == crate::ScalarType::Bool,
                _ => false,
            })?;
            let end = chain.instructions.len().saturating_add(1);
            let to = i64::from(*destination_instruction);
            at.index("destination_instruction", to, end, "instructions and the end").map(drop)
        }
        Instruction::FreeCall { value_index } => {
            value("value_index", *value_index)?;
            kind(*value_index, "value_index", "Tensor", |v| matches!(v, EValue::Tensor(_)))
        }
    }
}

fn value(program: &Program, p: &ExecutionPlan, around: &Surroundings<'_>, at: At<'_>, v: &EValue) -> Result<()> {
    let item = |index: u32, expected: &'static str, ok: fn(&EValue) -> bool| {
        at.index("items", i64::from(index), p.values.len(), "values")?;
        match p.values.get(index as usize) {
            Some(v) if !ok(v) => {
                Err(at.err("items", Problem::Kind { index: index as usize, found: v.kind(), expected }))
            }
            _ => Ok(()),
        }
    };
    match v {
        EValue::Null
        | EValue::Int(_)
        | EValue::Bool(_)
        | EValue::Double(_)
        | EValue::String(_)
        | EValue::DoubleList(_)
        | EValue::BoolList(_) => Ok(()),
        EValue::Tensor(t) => tensor(program, p, around, at, t),
        EValue::IntList(items) => items.iter().try_for_each(|i| item(*i, "Int", |v| matches!(v, EValue::Int(_)))),
        EValue::TensorList(items) => {
            items.iter().try_for_each(|i| item(*i, "Tensor", |v| matches!(v, EValue::Tensor(_))))
        }
        EValue::OptionalTensorList(items) => items
            .iter()
            .flatten()
            .try_for_each(|i| item(*i, "Tensor or Null", |v| matches!(v, EValue::Tensor(_) | EValue::Null))),
    }
}

fn tensor(program: &Program, p: &ExecutionPlan, around: &Surroundings<'_>, at: At<'_>, t: &Tensor) -> Result<()> {
    if t.storage_offset != 0 {
        return Err(at.err("storage_offset", Problem::value(t.storage_offset, "0")));
    }
    if t.layout != 0 {
        return Err(at.err("layout", Problem::value(t.layout, "0 (strided)")));
    }
    let nbytes = check_shape(at, t.scalar_type, &t.sizes, &t.dim_order)?;
    if let Some(a) = t.allocation {
        let arenas = &p.non_const_buffer_sizes;
        match arenas.get(a.memory_id as usize) {
            Some(size) if a.memory_id > 0 => {
                at.within("memory_offset", a.offset, nbytes, u64::try_from(*size).unwrap_or(0), "the arena")?;
            }
            _ => {
                let expected = format!("1 to {} (non_const_buffer_sizes)", arenas.len().saturating_sub(1));
                return Err(at.err("memory_id", Problem::value(a.memory_id, expected)));
            }
        }
    }
    match t.storage() {
        Storage::ExternalConstant { key } | Storage::ExternalInitialisedPlanned { key, .. } => {
            if key.is_empty() {
                return Err(at.err("fully_qualified_name", Problem::value("an empty string", "the external key")));
            }
            at.name("fully_qualified_name", key)
        }
        Storage::Constant { buffer } => match constants(program) {
            Constants::Segment(s) => part(at, s, buffer, nbytes, around),
            Constants::Inline(buffers) => {
                let i = at.index("data_buffer_idx", i64::from(buffer), buffers.len(), "inline constants")?;
                let room = buffers.get(i as usize).map_or(0, |r| r.end.saturating_sub(r.start));
                at.within("data_buffer_idx", 0, nbytes, room, "the inline constant")
            }
        },
        Storage::InitialisedPlanned { buffer, .. } => match program.mutable_data_segments.first() {
            Some(s) => part(at, s, buffer, nbytes, around),
            None => Err(at.err(
                "data_buffer_idx",
                Problem::Index { found: i64::from(buffer), len: 0, of: "mutable data segments" },
            )),
        },
        Storage::Planned(_) | Storage::RuntimeSupplied => Ok(()),
    }
}

/// Where constants are: the segment if it has an offset at all, else the deprecated inline table.
pub(crate) enum Constants<'p> {
    Segment(&'p SubsegmentOffsets),
    Inline(&'p [std::ops::Range<u64>]),
}

pub(crate) fn constants(program: &Program) -> Constants<'_> {
    match &program.constant_segment {
        Some(s) if !s.offsets.is_empty() => Constants::Segment(s),
        _ => Constants::Inline(&program.constant_buffers),
    }
}

fn part(at: At<'_>, s: &SubsegmentOffsets, buffer: u32, nbytes: u64, around: &Surroundings<'_>) -> Result<()> {
    let i = at.index("data_buffer_idx", i64::from(buffer), s.offsets.len(), "segment offsets")?;
    let offset = s.offsets.get(i as usize).copied().unwrap_or(u64::MAX);
    let room = around.segments.get(s.segment_index as usize).copied().unwrap_or(0);
    at.within("data_buffer_idx", offset, nbytes, room, "the segment")
}
