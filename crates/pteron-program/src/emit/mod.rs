//! Modules to programs.
//!
//! Every graph becomes a method, every constant method a plan of literals. Values stand in the order constants, buffers,
//! inputs, then node by node outputs and literals. A call names the arguments of the out variant in schema order and its
//! results once more. A static view of planned memory or of a constant is another value on the same memory and no
//! instruction; other views are `executorch_prim::et_view.default`. A branch's results are written into the memory of the
//! node's output by the kernels that make them where that is possible, else cloned there; a loop's parameters have memory
//! of their own, into which the first and the next values are written or cloned.

mod data;
mod legalise;
mod method;
mod plan;
mod pytree;
mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pteron_ir::{BufferId, ConstId, Def, Extra, Graph, Level, MetaValue, Metadata, Module, Op};
use pteron_pte::{
    Chain, DEFAULT_SEGMENT_ALIGNMENT, DataSegment, DelegateData, EValue, EncodeOptions, Encoded, ExecutionPlan,
    NamedData, Program, Tensor, encode_program, encode_ptd,
};
use pteron_tensor::MemorySource;

use crate::convert::scalar_type_of;
use crate::error::EmitError;
use data::{DataPool, Piece};
use method::MethodEmitter;
use plan::{MemoryPlan, SharedBuffers};

pub use write::{EmittedData, Part};

/// How a module is written.
#[derive(Debug, Clone)]
pub struct EmitOptions {
    /// Inputs have planned memory, into which the runtime copies the caller's; else the runtime takes the caller's memory.
    /// `false` as in ExecuTorch's exporter of language models.
    pub alloc_graph_input: bool,
    /// Outputs have planned memory; else the caller must give it before each call.
    pub alloc_graph_output: bool,
    /// Mutable buffers carry their names.
    pub emit_mutable_buffer_names: bool,
    /// Constants carry their names.
    pub emit_constant_names: bool,
    /// Buffers that several methods use are in memory 2, at the same place in each.
    pub share_mutable_buffers: bool,
    /// Alignment of segments, bytes.
    pub segment_alignment: u64,
    /// Alignment of constants in their segment, bytes.
    pub constant_alignment: u64,
    /// Constants that go to a file of external constants (`.ptd`) under their names.
    pub external: BTreeSet<ConstId>,
}

impl Default for EmitOptions {
    fn default() -> EmitOptions {
        EmitOptions {
            alloc_graph_input: false,
            alloc_graph_output: true,
            emit_mutable_buffer_names: true,
            emit_constant_names: true,
            share_mutable_buffers: true,
            segment_alignment: DEFAULT_SEGMENT_ALIGNMENT,
            constant_alignment: 16,
            external: BTreeSet::new(),
        }
    }
}

/// Sizes of a method's planned memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaReport {
    /// Memory number, from 1.
    pub memory: u32,
    /// Bytes planned.
    pub bytes: u64,
    /// Bytes that ExecuTorch's default placement needs for the same pieces and lifetimes.
    pub executorch_bytes: u64,
}

/// What a method became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodReport {
    /// Its name.
    pub name: String,
    /// Its planned memory.
    pub arenas: Vec<ArenaReport>,
    /// Entries of its value table.
    pub values: usize,
    /// Its instructions.
    pub instructions: usize,
}

/// What a module became.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EmitReport {
    /// The methods, without constant methods.
    pub methods: Vec<MethodReport>,
    /// Bytes of the constant segment.
    pub constant_bytes: u64,
    /// Bytes of constants that were there already and were not written again.
    pub deduplicated_bytes: u64,
    /// Bytes of delegates' payloads and named data.
    pub delegate_bytes: u64,
    /// Bytes of constants sent to the file beside the program.
    pub external_bytes: u64,
}

/// A program ready to be written.
#[derive(Debug, Clone)]
pub struct Emitted {
    /// The program.
    pub program: Program,
    /// The `.pte`: its head, and the parts behind it.
    pub file: EmittedData,
    /// The `.ptd`, if [`EmitOptions::external`] names constants that are used.
    pub external: Option<EmittedData>,
    /// Sizes.
    pub report: EmitReport,
}

impl Emitted {
    /// Writes the `.pte` from its first byte to its last. `progress` is told the bytes of each piece written. Constants
    /// are read by rows, in pieces of at most [`EmittedData::SCRATCH`] bytes or one row.
    ///
    /// # Errors
    /// [`crate::WriteError`] of a source or of the destination.
    pub fn write_to(
        &self,
        out: &mut dyn std::io::Write,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), crate::WriteError> {
        self.file.write_to(out, progress)
    }
}

/// Makes a program of a module.
///
/// # Errors
/// [`EmitError`] names the method and the node, value, constant or buffer.
pub fn emit(module: &Module, options: &EmitOptions) -> Result<Emitted, EmitError> {
    let mut names = BTreeSet::new();
    let methods = module.graphs.iter().map(|g| g.name.as_str());
    for name in methods.chain(module.metadata.iter().map(|m| m.name.as_ref())) {
        if !names.insert(name) {
            return Err(EmitError::DuplicateMethod { name: name.to_owned() });
        }
    }
    let shared = shared_buffers(module, options)?;
    let mut pool = DataPool::new(module, options);
    let mut report = EmitReport::default();
    let mut plans = Vec::new();
    for graph in &module.graphs {
        check_operators(graph)?;
        let legal = legalise::legalise(module, graph, options)?;
        let mut memory = MemoryPlan::new(&legal, options, &shared)?;
        if calls_xnnpack(module, &legal) {
            memory.pad(XNNPACK_PADDING);
        }
        let is_shared = |b: BufferId| shared.offsets.contains_key(&b);
        let plan = MethodEmitter::new(module, options, &legal, &mut memory, &mut pool, &is_shared).emit()?;
        let arenas = memory.arenas.iter().enumerate().map(|(i, &bytes)| ArenaReport {
            memory: u32::try_from(i + 1).unwrap_or(u32::MAX),
            bytes,
            executorch_bytes: if i == 0 { memory.executorch } else { bytes },
        });
        report.methods.push(MethodReport {
            name: graph.name.clone(),
            arenas: arenas.collect(),
            values: plan.values.len(),
            instructions: plan.chains.iter().map(|c| c.instructions.len()).sum(),
        });
        plans.push(plan);
    }
    for m in &module.metadata {
        plans.push(constant_method(m, &mut pool)?);
    }
    assemble(plans, pool, options, report)
}

fn assemble(
    mut plans: Vec<ExecutionPlan>,
    pool: DataPool<'_>,
    options: &EmitOptions,
    mut report: EmitReport,
) -> Result<Emitted, EmitError> {
    let segments = pool.finish()?;
    for d in plans.iter_mut().flat_map(|p| &mut p.delegates) {
        if let DelegateData::Segment(i) = &mut d.data {
            *i += segments.first_delegate;
        }
    }
    report.constant_bytes = segments.constant_bytes;
    report.deduplicated_bytes = segments.saved;
    report.delegate_bytes = segments.delegate_bytes;
    let named = segments.named.iter().map(|(key, i)| NamedData { key: key.clone(), segment_index: *i });
    let mut program = Program {
        version: 0,
        execution_plans: plans,
        constant_segment: Some(segments.constants),
        mutable_data_segments: segments.mutable,
        named_data: named.collect(),
        ..Program::default()
    };
    let encode = EncodeOptions { segment_alignment: options.segment_alignment, ..EncodeOptions::default() };
    let encoded = encode_program(&program, &segments.specs, &encode)?;
    let base = encoded.segment_offsets.first().copied().unwrap_or(encoded.total_len);
    program.segments = (encoded.segment_offsets.iter().zip(&segments.specs))
        .map(|(o, s)| DataSegment { offset: o.saturating_sub(base), size: s.size })
        .collect();
    let file = file_of(encoded, segments.pieces);
    let external = if segments.external.is_empty() {
        None
    } else {
        let (entries, specs, pieces) = data::external(&segments.external, options.constant_alignment)?;
        report.external_bytes = specs.iter().map(|s| s.size).sum();
        Some(file_of(encode_ptd(&entries, &specs)?, pieces))
    };
    Ok(Emitted { program, file, external, report })
}

fn file_of(encoded: Encoded, pieces: Vec<(usize, Piece)>) -> EmittedData {
    let mut parts: Vec<Part> = pieces
        .into_iter()
        .filter(|(_, p)| p.len > 0)
        .map(|(segment, p)| {
            let start = encoded.segment_offsets.get(segment).copied().unwrap_or(encoded.total_len);
            Part::new(p.name, start.saturating_add(p.offset), p.len, p.data)
        })
        .collect();
    parts.sort_by_key(|p| p.offset);
    EmittedData { head: encoded.head, total_len: encoded.total_len, parts }
}

/// Buffers that more than one graph uses, one after the other in memory 2.
fn shared_buffers(module: &Module, options: &EmitOptions) -> Result<SharedBuffers, EmitError> {
    let mut shared = SharedBuffers { offsets: BTreeMap::new(), size: 0 };
    if !options.share_mutable_buffers {
        return Ok(shared);
    }
    let uses = |g: &Graph, b: BufferId| {
        g.mutations.iter().any(|m| m.0 == b) || g.values.values().any(|v| v.def == Def::Buffer(b))
    };
    for (b, buffer) in module.buffers.iter() {
        if module.graphs.iter().filter(|g| uses(g, b)).count() < 2 {
            continue;
        }
        let bytes = crate::lift::fixed_bytes(&buffer.ty).ok_or_else(|| EmitError::Buffer {
            name: buffer.name.to_string(),
            reason: format!("type {} has no constant size", buffer.ty),
        })?;
        shared.offsets.insert(b, shared.size);
        shared.size += bytes.next_multiple_of(16);
    }
    Ok(shared)
}

/// Bytes behind the last tensor that XNNPACK's kernels may read.
const XNNPACK_PADDING: u64 = 64;

fn calls_xnnpack(module: &Module, graph: &Graph) -> bool {
    graph.nodes.values().any(|n| match n.extra {
        Extra::Delegate(d) => module.delegates[d].backend.to_ascii_lowercase().contains("xnnpack"),
        _ => false,
    })
}

fn check_operators(graph: &Graph) -> Result<(), EmitError> {
    for n in graph.all_nodes() {
        let node = &graph.nodes[n];
        if node.op.def().level == Level::HighLevel {
            let path = graph.paths.get(node.path).map_or("", |p| p.as_ref());
            return Err(EmitError::HighLevel {
                method: graph.name.clone(),
                node: if path.is_empty() { node.handle.to_string() } else { format!("{} of `{path}`", node.handle) },
                op: node.op.name(),
            });
        }
    }
    Ok(())
}

fn constant_method(m: &Metadata, pool: &mut DataPool<'_>) -> Result<ExecutionPlan, EmitError> {
    let fail = |reason: String| EmitError::Constant { name: m.name.to_string(), reason };
    let mut values = Vec::with_capacity(m.values.len());
    for v in &m.values {
        values.push(match v {
            MetaValue::Int(i) => EValue::Int(*i),
            MetaValue::Bool(b) => EValue::Bool(*b),
            MetaValue::Float(f) => EValue::Double(*f),
            MetaValue::Str(s) => EValue::String(s.to_string()),
            MetaValue::Tensor(t) => {
                let scalar_type = scalar_type_of(t.dtype())
                    .ok_or_else(|| fail(format!("{} has no element type in the format", t.dtype())))?;
                let sizes = t.sizes().iter().map(|&s| i32::try_from(s)).collect::<Result<Vec<_>, _>>();
                let sizes = sizes.map_err(|_| fail(format!("{:?} has a size beyond 31 bits", t.sizes())))?;
                let contiguous = pteron_tensor::Tensor::copy_of(&t.view());
                let bytes = pteron_tensor::AlignedBytes::copied(contiguous.bytes());
                let source = MemorySource::new(&m.name, t.dtype(), t.sizes(), bytes)?;
                let mut tensor = Tensor::contiguous(scalar_type, sizes);
                tensor.data_buffer_idx = pool.tensor(&m.name, Arc::new(source))?;
                EValue::Tensor(tensor)
            }
        });
    }
    let n = values.len();
    Ok(ExecutionPlan {
        name: m.name.to_string(),
        container_in: String::new(),
        container_out: pytree::outputs(n, "list"),
        values,
        inputs: Vec::new(),
        outputs: (0..u32::try_from(n).unwrap_or(u32::MAX)).collect(),
        chains: vec![Chain::default()],
        operators: Vec::new(),
        delegates: Vec::new(),
        non_const_buffer_sizes: vec![0],
        non_const_buffer_device: Vec::new(),
    })
}

/// Keys of the kernels that the module's program calls, sorted; high-level operators under the key that their kernel would
/// have. `clone`, `copy_`, `sym_size` and `et_view` that emission adds are included where the module's structure asks for
/// them.
///
/// # Errors
/// [`EmitError`] as for [`emit`], but for high-level operators.
pub fn required_operators(module: &Module) -> Result<Vec<String>, EmitError> {
    let options = EmitOptions::default();
    let shared = shared_buffers(module, &options)?;
    let mut keys: BTreeSet<String> = BTreeSet::new();
    for graph in &module.graphs {
        let high: Vec<Op> = graph
            .all_nodes()
            .into_iter()
            .map(|n| graph.nodes[n].op)
            .filter(|op| op.def().level == Level::HighLevel)
            .collect();
        if !high.is_empty() {
            keys.extend(high.iter().map(|op| op.schema().kernel_key()));
            let rest = graph.all_nodes().into_iter().map(|n| graph.nodes[n].op);
            keys.extend(rest.filter(|op| op.def().level == Level::Kernel).map(|op| op.schema().kernel_key()));
            continue;
        }
        let legal = legalise::legalise(module, graph, &options)?;
        let mut memory = MemoryPlan::new(&legal, &options, &shared)?;
        let mut pool = DataPool::new(module, &options);
        let is_shared = |b: BufferId| shared.offsets.contains_key(&b);
        let plan = MethodEmitter::new(module, &options, &legal, &mut memory, &mut pool, &is_shared).emit()?;
        keys.extend(plan.operators.iter().map(ToString::to_string));
    }
    Ok(keys.into_iter().collect())
}
