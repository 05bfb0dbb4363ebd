//! Programs to modules.
//!
//! A method's instructions are executed in the abstract: each interval of an arena maps to the value that it holds. A read
//! that covers an interval exactly gives that value, reshaped where the sizes differ; a read of what was never written is
//! mutable state; anything else is an error that names the value and the range. `MoveCall` makes one value's handle
//! another's; forward jumps become [`pteron_ir::Op::Cond`], backward jumps [`pteron_ir::Op::Loop`].
//!
//! A `DelegateCall` does not say where its inputs end and its outputs begin. A payload that is understood does
//! ([`LiftOptions::delegate_inputs`]). For others the outputs are taken to be the longest run of arguments at the end that no
//! instruction has written, that are neither inputs, constants nor initialised, and whose index is larger than that of every
//! value used before: exporters make output values at the call. An input that is a view without an instruction of its own, in
//! the memory of what it shows, is beyond that rule.

mod call;
mod data;
mod flow;
mod method;
mod state;

pub(crate) use call::LIST_OUT_KERNELS;

use std::sync::Arc;

use pteron_ir::{MetaValue, Metadata, Module, TensorType};
use pteron_pte::{EValue, ExecutionPlan, ParsedHead, PtdHead, Storage};
use pteron_tensor::ByteSource;

use crate::error::LiftError;
use data::Shared;
use method::Lifter;

/// A `.ptd` file whose tensors a program may refer to.
#[derive(Debug, Clone)]
pub struct ExternalData {
    /// What it holds.
    pub head: PtdHead,
    /// Its bytes.
    pub bytes: Arc<dyn ByteSource>,
}

/// How many inputs a payload (`payload`) of a backend (`backend`) has; `None` if that is not known.
pub type DelegateInputs = fn(backend: &str, payload: &[u8]) -> Option<usize>;

/// How a program is lifted.
#[derive(Debug, Clone, Default)]
pub struct LiftOptions {
    /// Name of the module.
    pub name: String,
    /// Where external constants are looked up, the first file that has one wins. One that no file has becomes
    /// [`pteron_ir::ConstData::External`].
    pub external: Vec<ExternalData>,
    /// Asked where the inputs of a delegate's call end and its outputs begin.
    pub delegate_inputs: Option<DelegateInputs>,
}

/// Where an input of a method goes.
#[derive(Debug, Clone)]
pub enum InputSlot {
    /// To the graph's input of that position.
    Graph {
        /// Position among [`pteron_ir::Graph::inputs`].
        position: usize,
        /// For an int, bool or float: the value of the export, which ExecuTorch's runtime demands of every call.
        traced: Option<MetaValue>,
    },
    /// Nowhere: an input that is no tensor and no number (`None`, a string).
    Ignored {
        /// Kind of the program's value.
        kind: &'static str,
    },
}

/// Where an output of a method comes from.
#[derive(Debug, Clone)]
pub enum OutputSlot {
    /// From the graph's output of that position.
    Graph {
        /// Position among [`pteron_ir::Graph::outputs`].
        position: usize,
    },
    /// A literal of the program.
    Literal(MetaValue),
    /// `None`.
    Null,
}

/// Inputs and outputs of a method as the program counts them.
#[derive(Debug, Clone, Default)]
pub struct MethodIo {
    /// The method.
    pub method: String,
    /// The inputs in order.
    pub inputs: Vec<InputSlot>,
    /// The outputs in order.
    pub outputs: Vec<OutputSlot>,
}

/// A lifted program.
#[derive(Debug, Clone)]
pub struct Lifted {
    /// The module. Methods without inputs and instructions are its metadata.
    pub module: Module,
    /// Inputs and outputs of each graph, in the order of [`Module::graphs`].
    pub io: Vec<MethodIo>,
    /// What a reader of the module should know: kernels outside the operator table, types that were declared and could not
    /// be inferred, features of older files.
    pub notes: Vec<String>,
}

/// Lifts a verified program. `bytes` is the whole file, of which constants become ranges: nothing of them is read, but for
/// the tensors of constant methods and for delegates' payloads.
///
/// Sizes of a tensor whose shape is dynamic are [`pteron_ir::SymInt::Unknown`] between 0 and the bound; a bound of 1 is
/// taken as the constant 1, because `torch.export` does not let a dynamic dimension be at most 1.
///
/// The module is well-formed: the verifier has passed it.
///
/// # Errors
/// [`LiftError`], which names the method and the instruction or value.
pub fn lift(head: &ParsedHead, bytes: Arc<dyn ByteSource>, options: &LiftOptions) -> Result<Lifted, LiftError> {
    let mut shared = Shared::new(head, bytes, options);
    for n in head.notes() {
        shared.note(n.to_string());
    }
    let mut io = Vec::new();
    for plan in &head.program().execution_plans {
        if is_constant_method(plan) {
            let values = constant_values(&mut shared, plan)?;
            shared.module.metadata.push(Metadata { name: plan.name.as_str().into(), values });
            continue;
        }
        let (graph, ports) = Lifter::new(&mut shared, plan)?.run()?;
        shared.module.graphs.push(graph);
        io.push(ports);
    }
    if let Err(errors) = pteron_ir::verify::module(&shared.module) {
        let first = errors.0.first().map(ToString::to_string).unwrap_or_default();
        return Err(LiftError::Contradiction { first, more: errors.0.len().saturating_sub(1) });
    }
    Ok(Lifted { module: shared.module, io, notes: shared.notes })
}

/// True for a method that only returns literals and constants.
pub(crate) fn is_constant_method(plan: &ExecutionPlan) -> bool {
    let constant = |v: &EValue| match v {
        EValue::Int(_) | EValue::Bool(_) | EValue::Double(_) | EValue::String(_) => true,
        EValue::Tensor(t) => matches!(t.storage(), Storage::Constant { .. } | Storage::ExternalConstant { .. }),
        _ => false,
    };
    plan.inputs.is_empty()
        && plan.chains.iter().all(|c| c.instructions.is_empty())
        && plan.outputs.iter().all(|&o| plan.values.get(o as usize).is_some_and(constant))
}

fn constant_values(shared: &mut Shared<'_>, plan: &ExecutionPlan) -> Result<Vec<MetaValue>, LiftError> {
    let fail = |value: u32, reason: String| LiftError::Value { method: plan.name.clone(), value, reason };
    let mut out = Vec::with_capacity(plan.outputs.len());
    for &o in &plan.outputs {
        out.push(match plan.values.get(o as usize) {
            Some(EValue::Int(i)) => MetaValue::Int(*i),
            Some(EValue::Bool(b)) => MetaValue::Bool(*b),
            Some(EValue::Double(d)) => MetaValue::Float(*d),
            Some(EValue::String(s)) => MetaValue::Str(s.as_str().into()),
            Some(EValue::Tensor(t)) => {
                let range = shared.head.constant_range(t)?;
                let bytes = match range {
                    Some(r) => data::read_range(shared.bytes.as_ref(), &r)?,
                    None => external_bytes(shared, t).map_err(|e| fail(o, e))?,
                };
                let t = crate::bundled::row_major_tensor(t.scalar_type, &t.sizes, &t.dim_order, &bytes);
                MetaValue::Tensor(t.map_err(|e| fail(o, e))?)
            }
            _ => return Err(fail(o, "a constant method returns what is neither a literal nor a constant".into())),
        });
    }
    Ok(out)
}

fn external_bytes(shared: &Shared<'_>, t: &pteron_pte::Tensor) -> Result<Vec<u8>, String> {
    let Storage::ExternalConstant { key } = t.storage() else { return Err("the tensor is no constant".into()) };
    for x in &shared.options.external {
        if let Some(e) = x.head.entry(key) {
            return data::read_range(x.bytes.as_ref(), &e.range).map_err(|e| e.to_string());
        }
    }
    Err(format!("a constant method returns the external constant `{key}`, which no given file holds"))
}

/// Bytes of a tensor type with constant sizes.
pub(crate) fn fixed_bytes(ty: &TensorType) -> Option<u64> {
    let n = pteron_tensor::checked_numel(&ty.fixed_sizes()?).ok()?;
    Some(ty.dtype.bytes_for(n)? as u64)
}
