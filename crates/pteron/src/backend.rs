//! Parts of a captured model that go to XNNPACK.

use pteron_exec::Context;
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::{Module, Op, passes};
use pteron_xnnpack::{BACKEND, Report, Scope};

use crate::error::Error;

/// What of a model XNNPACK computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Xnnpack {
    /// Float operators too (`--xnnpack-extended-ops`), not only linear layers.
    pub extended_ops: bool,
    /// Whether a linear layer that has to stay out is an error.
    pub require_full_delegation: bool,
}

/// Nodes of one operator that stay where they are for one reason.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Undelegated {
    /// The operator.
    pub operator: String,
    /// How many.
    pub count: usize,
    /// Why.
    pub reason: String,
    /// Module path of the first one.
    pub first: String,
}

/// What a backend took of a model, and what it did not.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PartitionReport {
    /// The backend's id in the program.
    pub backend: String,
    /// Delegates in the program.
    pub delegates: usize,
    /// Nodes taken, by operator.
    pub delegated: Vec<(String, usize)>,
    /// Linear layers of these whose activations are quantized when the program runs, by the backend's own rule: a scale and a
    /// zero point for each row.
    pub dynamic_layers: usize,
    /// Nodes not taken.
    pub undelegated: Vec<Undelegated>,
    /// Bytes of the weights that delegates hold.
    pub weight_bytes: u64,
}

impl PartitionReport {
    fn new(report: Report) -> PartitionReport {
        let undelegated = report.refused.into_iter().map(|r| Undelegated {
            operator: r.op.to_string(),
            count: r.count,
            reason: r.reason,
            first: r.first,
        });
        PartitionReport {
            backend: BACKEND.to_owned(),
            delegates: report.delegates,
            delegated: report.lowered.into_iter().map(|(op, n)| (op.to_string(), n)).collect(),
            dynamic_layers: report.dynamic_layers,
            undelegated: undelegated.collect(),
            weight_bytes: report.named_data_bytes,
        }
    }
}

fn wrong(e: impl std::fmt::Display) -> Error {
    Error::Backend { backend: BACKEND.to_owned(), reason: e.to_string() }
}

/// Lowers a module to XNNPACK around `decompose`, which leaves kernels of ExecuTorch's only: linear layers before it, because it
/// takes their quantization apart, and float operators after it, because then they are there.
///
/// # Errors
/// [`Error::Backend`] if nothing can be lowered, or a linear layer cannot although it must; whatever `decompose` says.
pub(crate) fn lower(
    module: &mut Module,
    xnnpack: Xnnpack,
    ctx: &Context,
    decompose: impl FnOnce(&mut Module) -> Result<(), Error>,
) -> Result<PartitionReport, Error> {
    let mut report = pteron_xnnpack::lower(module, Scope::Linear, ctx).map_err(wrong)?;
    if xnnpack.require_full_delegation
        && let Some(r) = report.refused.iter().find(|r| r.op == Op::Linear)
    {
        let (count, first, reason) = (r.count, &r.first, &r.reason);
        return Err(wrong(format!("{count} linear layers are not delegated, `{first}` is the first: {reason}")));
    }
    // What only the lowered layers read goes before it is taken apart.
    let clean = |module: &mut Module| {
        Runner::new([passes::DCE]).run(module, &PassContext::new(&passes::executorch_portable)).map_err(Box::new)
    };
    clean(module)?;
    decompose(module)?;
    if xnnpack.extended_ops {
        report.extend(pteron_xnnpack::lower(module, Scope::Extended, ctx).map_err(wrong)?);
        clean(module)?;
    }
    if report.delegates == 0 {
        let why = report.refused.first().map_or_else(String::new, |r| format!(": {} {}: {}", r.count, r.op, r.reason));
        return Err(wrong(format!("nothing of the model can be lowered{why}")));
    }
    Ok(PartitionReport::new(report))
}
