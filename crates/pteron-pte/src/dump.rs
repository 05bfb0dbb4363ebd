//! A compact listing of a program for people and tests.

use std::fmt::Write;

use crate::program::*;
use crate::tensor::{ShapeDynamism, Storage, Tensor};

/// Most items of a list that are shown.
const MAX_ITEMS: usize = 64;

/// Lists a program: segments, then for each method its tables, every value and every instruction.
///
/// Values are `%index`, tensors `dtype[sizes]` with a `<` before the sizes if these are upper bounds, then `const N`,
/// `init N`, `external "key"`, `arena ID@OFFSET` or `supplied` for the storage.
pub fn program(p: &Program) -> String {
    let mut s = String::new();
    // Writing to a String cannot fail.
    let _ = write_program(&mut s, p);
    s
}

fn write_program(s: &mut String, p: &Program) -> std::fmt::Result {
    writeln!(s, "program version {}", p.version)?;
    for (i, seg) in p.segments.iter().enumerate() {
        writeln!(s, "segment {i}: offset {} size {}", seg.offset, seg.size)?;
    }
    if let Some(c) = &p.constant_segment {
        writeln!(s, "constants: segment {} offsets {}", c.segment_index, list(c.offsets.iter()))?;
    }
    for m in &p.mutable_data_segments {
        writeln!(s, "mutable data: segment {} offsets {}", m.segment_index, list(m.offsets.iter()))?;
    }
    for (name, blobs) in [("inline constant", &p.constant_buffers), ("inline delegate", &p.inline_delegate_data)] {
        for (i, r) in blobs.iter().enumerate() {
            writeln!(s, "{name} {i}: bytes {}..{}", r.start, r.end)?;
        }
    }
    for n in &p.named_data {
        writeln!(s, "named \"{}\": segment {}", n.key.escape_debug(), n.segment_index)?;
    }
    for plan in &p.execution_plans {
        writeln!(s)?;
        method(s, plan)?;
    }
    Ok(())
}

fn list(items: impl ExactSizeIterator<Item = impl std::fmt::Display>) -> String {
    let count = items.len();
    let mut out = String::from("[");
    for (i, item) in items.take(MAX_ITEMS).enumerate() {
        let _ = write!(out, "{}{item}", if i > 0 { " " } else { "" });
    }
    if count > MAX_ITEMS {
        let _ = write!(out, " … {count} in all");
    }
    out.push(']');
    out
}

fn refs(items: &[u32]) -> String {
    list(items.iter().map(|i| format!("%{i}")))
}

fn method(s: &mut String, p: &ExecutionPlan) -> std::fmt::Result {
    writeln!(s, "method \"{}\"", p.name.escape_debug())?;
    writeln!(s, "  inputs {} outputs {}", refs(&p.inputs), refs(&p.outputs))?;
    writeln!(s, "  arenas {}", list(p.non_const_buffer_sizes.iter()))?;
    for d in &p.non_const_buffer_device {
        writeln!(s, "  arena {} on {:?} {}", d.buffer_idx, d.device_type, d.device_index)?;
    }
    for (name, text) in [("in", &p.container_in), ("out", &p.container_out)] {
        if !text.is_empty() {
            writeln!(s, "  container {name} {}", text.escape_debug())?;
        }
    }
    for (i, d) in p.delegates.iter().enumerate() {
        let place = match d.data {
            DelegateData::Inline(i) => format!("inline {i}"),
            DelegateData::Segment(i) => format!("segment {i}"),
        };
        writeln!(s, "  delegate {i}: {} at {place}", d.id.escape_debug())?;
        for spec in &d.compile_specs {
            writeln!(s, "    {} = {} bytes", spec.key.escape_debug(), spec.value.len())?;
        }
    }
    for (i, v) in p.values.iter().enumerate() {
        writeln!(s, "  %{i} = {}", value(v))?;
    }
    for (c, chain) in p.chains.iter().enumerate() {
        writeln!(s, "  chain {c}")?;
        for (i, ins) in chain.instructions.iter().enumerate() {
            writeln!(s, "    {i}: {}", instruction(p, ins))?;
        }
    }
    Ok(())
}

fn instruction(p: &ExecutionPlan, i: &Instruction) -> String {
    match i {
        Instruction::KernelCall { op_index, args } => match p.operators.get(*op_index as usize) {
            Some(op) => format!("{op} {}", refs(args)),
            None => format!("operator {op_index} {}", refs(args)),
        },
        Instruction::DelegateCall { delegate_index, args } => format!("delegate {delegate_index} {}", refs(args)),
        Instruction::MoveCall { move_from, move_to } => format!("move %{move_from} to %{move_to}"),
        Instruction::JumpFalseCall { cond_value_index, destination_instruction } => {
            format!("jump to {destination_instruction} if not %{cond_value_index}")
        }
        Instruction::FreeCall { value_index } => format!("free %{value_index}"),
    }
}

fn value(v: &EValue) -> String {
    match v {
        EValue::Null => "none".to_owned(),
        EValue::Int(i) => format!("int {i}"),
        EValue::Bool(b) => format!("bool {b}"),
        EValue::Double(d) => format!("double {d:?}"),
        EValue::String(t) => format!("string \"{}\"", t.escape_debug()),
        EValue::Tensor(t) => tensor(t),
        EValue::IntList(v) => format!("ints {}", refs(v)),
        EValue::DoubleList(v) => format!("doubles {}", list(v.iter())),
        EValue::BoolList(v) => format!("bools {}", list(v.iter())),
        EValue::TensorList(v) => format!("tensors {}", refs(v)),
        EValue::OptionalTensorList(v) => {
            format!("optional tensors {}", list(v.iter().map(|i| i.map_or("none".to_owned(), |i| format!("%{i}")))))
        }
    }
}

fn tensor(t: &Tensor) -> String {
    let bound = match t.dynamism {
        ShapeDynamism::Static => "",
        ShapeDynamism::DynamicBound => "<",
        ShapeDynamism::DynamicUnbound => "?",
    };
    let mut s = format!("{}{bound}{}", t.scalar_type, list(t.sizes.iter()));
    if t.dim_order.iter().enumerate().any(|(i, d)| usize::from(*d) != i) {
        let _ = write!(s, " order {}", list(t.dim_order.iter()));
    }
    let _ = match t.storage() {
        Storage::ExternalConstant { key } => write!(s, " external \"{}\"", key.escape_debug()),
        Storage::ExternalInitialisedPlanned { key, allocation: a } => {
            write!(s, " external \"{}\" arena {}@{}", key.escape_debug(), a.memory_id, a.offset)
        }
        Storage::Constant { buffer } => write!(s, " const {buffer}"),
        Storage::InitialisedPlanned { buffer, allocation: a } => {
            write!(s, " init {buffer} arena {}@{}", a.memory_id, a.offset)
        }
        Storage::Planned(a) => write!(s, " arena {}@{}", a.memory_id, a.offset),
        Storage::RuntimeSupplied => write!(s, " supplied"),
    };
    if let Some(e) = t.extra.as_deref().filter(|e| !e.external && !e.fully_qualified_name.is_empty()) {
        let _ = write!(s, " name \"{}\"", e.fully_qualified_name.escape_debug());
    }
    s
}
