//! What a program holds, as plain data.

use std::collections::BTreeMap;

use pteron_ir::MetaValue;
use pteron_pte::{ContainerKind, EValue, ExecutionPlan, Instruction, ParsedHead, ShapeDynamism, Storage, Tensor};

use crate::lift::is_constant_method;

/// A name and how often it occurs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Kernel key, or kind of instruction.
    pub name: String,
    /// Calls.
    pub count: usize,
}

/// An input or an output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSummary {
    /// Its name, if the file gives one.
    pub name: Option<String>,
    /// Its type: `f32[1, <=31, 64]`, `int`, `bool`, `float`, `string`, `none`. A size with `<=` may be smaller.
    pub ty: String,
    /// Bytes at its largest size; 0 for what is no tensor.
    pub bytes: u64,
    /// True if it has planned memory or is a constant; else the caller supplies its memory.
    pub planned: bool,
}

/// Planned memory of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaSummary {
    /// Its number, from 1.
    pub memory: u32,
    /// Its size, bytes.
    pub bytes: u64,
}

/// A delegate of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegateSummary {
    /// The backend.
    pub backend: String,
    /// Bytes of its payload.
    pub bytes: u64,
    /// Keys of its compile specs.
    pub compile_specs: Vec<String>,
    /// Calls.
    pub calls: usize,
}

/// A method that computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodSummary {
    /// Its name.
    pub name: String,
    /// Its inputs.
    pub inputs: Vec<PortSummary>,
    /// Its outputs.
    pub outputs: Vec<PortSummary>,
    /// Instructions.
    pub instructions: usize,
    /// Kernels by falling number of calls, then by key.
    pub operators: Vec<Count>,
    /// Jumps and moves.
    pub control: Vec<Count>,
    /// Its delegates.
    pub delegates: Vec<DelegateSummary>,
    /// Its planned memory.
    pub arenas: Vec<ArenaSummary>,
    /// Names of its mutable buffers, where the file gives them.
    pub named_buffers: Vec<String>,
    /// Keys of the external constants it reads.
    pub external_constants: Vec<String>,
    /// Different constants of the file that it reads.
    pub constants: usize,
    /// Their bytes.
    pub constant_bytes: u64,
}

/// A constant method.
#[derive(Debug, Clone)]
pub struct MetadataSummary {
    /// Its name.
    pub name: String,
    /// What it returns, without tensors' elements.
    pub values: Vec<Result<MetaValue, String>>,
}

/// A program.
#[derive(Debug, Clone)]
pub struct ProgramSummary {
    /// Length of the file, bytes.
    pub file_bytes: u64,
    /// Bytes of the part that describes methods.
    pub program_bytes: u64,
    /// Bytes of the constant segment.
    pub constant_bytes: u64,
    /// Bytes of initial contents of mutable buffers.
    pub mutable_bytes: u64,
    /// Bytes of named data.
    pub named_data_bytes: u64,
    /// Keys of named data.
    pub named_data: Vec<String>,
    /// True if the file has an extended header.
    pub extended_header: bool,
    /// The methods.
    pub methods: Vec<MethodSummary>,
    /// The constant methods.
    pub metadata: Vec<MetadataSummary>,
    /// What older exporters wrote.
    pub notes: Vec<String>,
}

/// Describes a verified program.
pub fn summary(head: &ParsedHead) -> ProgramSummary {
    let program = head.program();
    let segment = |i: u32| program.segments.get(i as usize).map_or(0, |s| s.size);
    let mut named: Vec<u32> = program.named_data.iter().map(|n| n.segment_index).collect();
    named.sort_unstable();
    named.dedup();
    let (constant, computing): (Vec<_>, Vec<_>) = program.execution_plans.iter().partition(|p| is_constant_method(p));
    ProgramSummary {
        file_bytes: head.file_len(),
        program_bytes: head.program_size(),
        constant_bytes: program.constant_segment.as_ref().map_or(0, |s| segment(s.segment_index))
            + program.constant_buffers.iter().map(|r| r.end.saturating_sub(r.start)).sum::<u64>(),
        mutable_bytes: program.mutable_data_segments.iter().map(|s| segment(s.segment_index)).sum(),
        named_data_bytes: named.into_iter().map(segment).sum(),
        named_data: program.named_data.iter().map(|n| n.key.clone()).collect(),
        extended_header: matches!(head.container(), ContainerKind::Extended(_)),
        methods: computing.into_iter().map(|p| method(head, p)).collect(),
        metadata: constant.into_iter().map(metadata).collect(),
        notes: head.notes().iter().map(ToString::to_string).collect(),
    }
}

fn metadata(plan: &ExecutionPlan) -> MetadataSummary {
    let value = |&o: &u32| match plan.values.get(o as usize) {
        Some(EValue::Int(i)) => Ok(MetaValue::Int(*i)),
        Some(EValue::Bool(b)) => Ok(MetaValue::Bool(*b)),
        Some(EValue::Double(d)) => Ok(MetaValue::Float(*d)),
        Some(EValue::String(s)) => Ok(MetaValue::Str(s.as_str().into())),
        Some(EValue::Tensor(t)) => Err(tensor_type(t)),
        other => Err(other.map_or("nothing", EValue::kind).to_owned()),
    };
    MetadataSummary { name: plan.name.clone(), values: plan.outputs.iter().map(value).collect() }
}

fn tensor_type(t: &Tensor) -> String {
    let dynamic = t.dynamism != ShapeDynamism::Static;
    let dim = |s: &i32| if dynamic && *s > 1 { format!("<={s}") } else { s.to_string() };
    let dims: Vec<String> = t.sizes.iter().map(dim).collect();
    let mut out = format!("{}[{}]", t.scalar_type, dims.join(", "));
    if !t.dim_order.is_sorted() {
        out += &format!("{:?}", t.dim_order).replace('[', "{").replace(']', "}").replace(' ', "");
    }
    out
}

fn port(plan: &ExecutionPlan, v: u32) -> PortSummary {
    let plain = |ty: &str| PortSummary { name: None, ty: ty.to_owned(), bytes: 0, planned: true };
    match plan.values.get(v as usize) {
        Some(EValue::Tensor(t)) => PortSummary {
            name: t.extra.as_deref().map(|e| e.fully_qualified_name.clone()).filter(|n| !n.is_empty()),
            ty: tensor_type(t),
            bytes: t.nbytes().unwrap_or(0),
            planned: !matches!(t.storage(), Storage::RuntimeSupplied),
        },
        Some(EValue::Int(_)) => plain("int"),
        Some(EValue::Bool(_)) => plain("bool"),
        Some(EValue::Double(_)) => plain("float"),
        Some(EValue::String(_)) => plain("string"),
        _ => plain("none"),
    }
}

fn counts(map: BTreeMap<String, usize>) -> Vec<Count> {
    let mut out: Vec<Count> = map.into_iter().map(|(name, count)| Count { name, count }).collect();
    out.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
    out
}

fn method(head: &ParsedHead, plan: &ExecutionPlan) -> MethodSummary {
    let mut operators: BTreeMap<String, usize> = BTreeMap::new();
    let mut control: BTreeMap<String, usize> = BTreeMap::new();
    let mut calls = vec![0usize; plan.delegates.len()];
    for i in plan.chains.iter().flat_map(|c| &c.instructions) {
        match i {
            Instruction::KernelCall { op_index, .. } => {
                if let Some(o) = plan.operators.get(*op_index as usize) {
                    *operators.entry(o.to_string()).or_default() += 1;
                }
            }
            Instruction::DelegateCall { delegate_index, .. } => {
                if let Some(c) = calls.get_mut(*delegate_index as usize) {
                    *c += 1;
                }
            }
            Instruction::MoveCall { .. } => *control.entry("MoveCall".into()).or_default() += 1,
            Instruction::JumpFalseCall { .. } => *control.entry("JumpFalseCall".into()).or_default() += 1,
            Instruction::FreeCall { .. } => *control.entry("FreeCall".into()).or_default() += 1,
        }
    }
    let mut constants: BTreeMap<u32, u64> = BTreeMap::new();
    let (mut named_buffers, mut external_constants) = (Vec::new(), Vec::new());
    for t in plan.values.iter().filter_map(EValue::as_tensor) {
        match t.storage() {
            Storage::Constant { buffer } => {
                let bytes = constants.entry(buffer).or_default();
                *bytes = (*bytes).max(t.nbytes().unwrap_or(0));
            }
            Storage::ExternalConstant { key } => external_constants.push(key.to_owned()),
            Storage::Planned(_) | Storage::InitialisedPlanned { .. } | Storage::ExternalInitialisedPlanned { .. } => {
                let name = t.extra.as_deref().map(|e| e.fully_qualified_name.as_str()).unwrap_or_default();
                if !name.is_empty() {
                    named_buffers.push(name.to_owned());
                }
            }
            Storage::RuntimeSupplied => {}
        }
    }
    let delegates = plan.delegates.iter().zip(calls).map(|(d, calls)| DelegateSummary {
        backend: d.id.clone(),
        bytes: head.delegate_range(d).map_or(0, |r| r.end.saturating_sub(r.start)),
        compile_specs: d.compile_specs.iter().map(|s| s.key.clone()).collect(),
        calls,
    });
    let arenas = plan.non_const_buffer_sizes.iter().enumerate().skip(1).map(|(i, &bytes)| ArenaSummary {
        memory: u32::try_from(i).unwrap_or(u32::MAX),
        bytes: u64::try_from(bytes).unwrap_or(0),
    });
    MethodSummary {
        name: plan.name.clone(),
        inputs: plan.inputs.iter().map(|&v| port(plan, v)).collect(),
        outputs: plan.outputs.iter().map(|&v| port(plan, v)).collect(),
        instructions: plan.chains.iter().map(|c| c.instructions.len()).sum(),
        operators: counts(operators),
        control: counts(control),
        delegates: delegates.collect(),
        arenas: arenas.collect(),
        named_buffers,
        external_constants,
        constants: constants.len(),
        constant_bytes: constants.values().sum(),
    }
}
