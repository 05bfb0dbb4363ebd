//! From a quantized module to one whose parts are context binaries.

use std::time::Instant;

use pteron_ir::{Delegate, DelegateId, Module};

use super::{
    GraphReport, IoParams, Part, PartitionReport, Plan, apply, drop_unused_buffers, narrow, own_dequantize, plan,
};
use super::{ShardError, shard, tag_io};
use crate::error::QnnError;
use crate::graph::QnnGraph;
use crate::host::{ComposeOptions, ComposeStage, QnnCompiler};
use crate::lower::{LinearForm, lower};
use crate::soc::Soc;
use crate::spec::{COMPILE_SPEC, CompileSpec, HtpOptions};

/// Where a model is cut into shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards<'a> {
    /// How many, or one more where layers are left over: see [`shard`].
    pub count: usize,
    /// The model's layers.
    pub layers: usize,
    /// What stands before a layer's number in its module path.
    pub prefix: &'a str,
}

/// How a module is compiled.
#[derive(Debug, Clone, Copy)]
pub struct CompileOptions<'a> {
    /// The operator of linear layers.
    pub form: LinearForm,
    /// How contexts are compiled. Where weights are to be shared, the shared context is built beside the one that is kept: see
    /// [`Context::shared_bytes`].
    pub compose: ComposeOptions,
    /// Inputs and outputs of methods that are quantized are integers.
    pub quantized_io: bool,
    /// Where the model is cut.
    pub shards: Option<Shards<'a>>,
    /// A node that no delegate takes is an error.
    pub require_full_delegation: bool,
}

/// A context binary of the compiled module.
#[derive(Debug, Clone)]
pub struct Context {
    /// Names of its graphs.
    pub graphs: Vec<String>,
    /// Its delegate.
    pub delegate: DelegateId,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of the same graphs with shared weights, where sharing was asked for: what a phone of that system would load.
    pub shared_bytes: Option<u64>,
    /// For each graph the microseconds of the library's own finalize call.
    pub finalize_us: Vec<(String, u64)>,
    /// Microseconds of the whole compilation: handing the graphs over, finalizing them, reading the binary out.
    pub compose_us: u64,
}

/// Integers at the boundary of a method.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MethodIo {
    /// By input; `None` where it is no integer that stands for a real.
    pub inputs: Vec<Option<IoParams>>,
    /// By output.
    pub outputs: Vec<Option<IoParams>>,
}

/// What a module became.
#[derive(Debug, Clone, Default)]
pub struct Compiled {
    /// Where each node went.
    pub report: PartitionReport,
    /// The contexts.
    pub contexts: Vec<Context>,
    /// For each method, by its position.
    pub io: Vec<MethodIo>,
}

/// Why a module is not compiled.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The library.
    #[error(transparent)]
    Library(#[from] QnnError),
    /// The shards.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Nodes stay outside although all must be delegated.
    #[error(
        "{count} node(s) are not delegated, and all must be (--require-full-delegation); the first is `{op}` of `{path}` in method \
         `{method}`: {why}"
    )]
    NotFull {
        /// How many.
        count: usize,
        /// The first one's operator.
        op: &'static str,
        /// Its module.
        path: String,
        /// Its method.
        method: String,
        /// The reason.
        why: String,
        /// Where each node went.
        report: Box<PartitionReport>,
    },
    /// Nothing can be delegated.
    #[error("no node can be delegated; {0}")]
    Nothing(String),
    /// The graph cannot be put together again.
    #[error("method `{method}`: {reason}")]
    Graph {
        /// The method.
        method: String,
        /// What is wrong.
        reason: String,
    },
}

/// Keys and values of compile specs.
pub type CompileSpecs = Vec<(Box<str>, Vec<u8>)>;

/// What a delegate's compile specs say of the program's contexts together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Together {
    /// How many there are.
    pub contexts: usize,
    /// Bytes of the largest buffer that one of them spills into (`update_spill_fill_size`); 0 where there is one context, which
    /// shares its buffer with no other.
    pub spill_fill_bytes: u64,
}

/// Compiles `module`, which is quantized: prepares its graphs, finds their parts, compiles part `i` of all methods into one
/// context, and puts delegates in the parts' places. Where methods have different numbers of parts, each part has a context of its
/// own. `specs` gives the delegates' compile specs.
///
/// # Errors
/// [`CompileError`]; the module is then not to be used.
pub fn compile(
    module: &mut Module,
    library: &dyn QnnCompiler,
    options: &CompileOptions<'_>,
    specs: &dyn Fn(Together) -> CompileSpecs,
    progress: &mut dyn FnMut(ComposeStage),
) -> Result<Compiled, CompileError> {
    let mut compiled = Compiled::default();
    narrow(module);
    for g in &mut module.graphs {
        let (inputs, outputs) = if options.quantized_io { tag_io(g) } else { Default::default() };
        compiled.io.push(MethodIo { inputs, outputs });
        if let Some(s) = options.shards {
            shard(g, s.layers, s.count, s.prefix)?;
        }
        own_dequantize(g);
    }
    let mut plans: Vec<Plan> = Vec::new();
    for g in &module.graphs {
        let plan = plan(module, g, library, options.compose.soc, options.form)?;
        compiled.report.methods.push(GraphReport::new(g, &plan));
        plans.push(plan);
    }
    if let (true, Some((method, node, why))) = (options.require_full_delegation, compiled.report.first_refused()) {
        return Err(CompileError::NotFull {
            count: compiled.report.refused().count(),
            op: node.op,
            path: node.path.clone(),
            method: method.to_owned(),
            why: why.to_owned(),
            report: Box::new(compiled.report.clone()),
        });
    }
    let contexts = groups(&plans);
    if contexts.is_empty() {
        let why = compiled.report.first_refused().map(|(_, n, why)| format!("`{}`: {why}", n.op));
        return Err(CompileError::Nothing(why.unwrap_or_else(|| "the module has none".to_owned())));
    }
    let mut composed = Vec::with_capacity(contexts.len());
    for members in &contexts {
        let graphs: Vec<QnnGraph> = members
            .iter()
            .map(|&(g, p)| {
                let (nodes, boundary) = &plans[g].parts[p];
                lower(module, &module.graphs[g], nodes, boundary, options.form).graph
            })
            .collect();
        let plain = ComposeOptions { weight_sharing: false, ..options.compose };
        let started = Instant::now();
        let context = library.compose(&graphs, &plain, progress)?;
        let compose_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let shared_bytes = if options.compose.weight_sharing {
            Some(library.compose(&graphs, &options.compose, &mut |_| {})?.binary().len() as u64)
        } else {
            None
        };
        composed.push((graphs.iter().map(|g| g.name.clone()).collect::<Vec<_>>(), context, compose_us, shared_bytes));
    }
    let mut together = Together { contexts: composed.len(), spill_fill_bytes: 0 };
    if together.contexts > 1 {
        for (_, context, ..) in &composed {
            together.spill_fill_bytes =
                together.spill_fill_bytes.max(library.inspect(context.binary())?.spill_fill_bytes());
        }
    }
    let mut parts: Vec<Vec<Part>> = vec![Vec::new(); plans.len()];
    for (members, (graphs, composed, compose_us, shared_bytes)) in contexts.iter().zip(composed) {
        let bytes = composed.binary().len() as u64;
        let delegate = module.delegates.push(Delegate {
            backend: crate::BACKEND_ID.into(),
            payload: composed.payload,
            compile_specs: specs(together),
            named_data: Vec::new(),
        });
        for &(g, p) in members {
            let (nodes, boundary) = plans[g].parts[p].clone();
            parts[g].push(Part { nodes, boundary, delegate });
        }
        compiled.contexts.push(Context {
            graphs,
            delegate,
            bytes,
            shared_bytes,
            finalize_us: composed.finalize_us,
            compose_us,
        });
    }
    for (g, parts) in module.graphs.iter_mut().zip(&parts) {
        apply(g, parts).map_err(|reason| CompileError::Graph { method: g.name.clone(), reason })?;
    }
    drop_unused_buffers(module);
    Ok(compiled)
}

/// Which parts (method, part) each context has.
fn groups(plans: &[Plan]) -> Vec<Vec<(usize, usize)>> {
    let counts: Vec<usize> = plans.iter().map(|p| p.parts.len()).collect();
    match counts[..] {
        [first, ref rest @ ..] if rest.iter().all(|c| *c == first) => {
            (0..first).map(|p| (0..plans.len()).map(|g| (g, p)).collect()).collect()
        }
        _ => counts.iter().enumerate().flat_map(|(g, &n)| (0..n).map(move |p| vec![(g, p)])).collect(),
    }
}

/// Compile specs for `soc`, as ExecuTorch 1.5's runtime reads them; several contexts say that they are several, and how large a
/// buffer they need between them.
pub fn compile_specs(soc: Soc, htp: HtpOptions) -> impl Fn(Together) -> CompileSpecs {
    move |together| {
        let max_sf_buf_size = i32::try_from(together.spill_fill_bytes).unwrap_or(i32::MAX);
        let htp = HtpOptions { use_multi_contexts: together.contexts > 1, max_sf_buf_size, ..htp.clone() };
        // A spec of numbers and empty strings is far below the format's limit.
        let spec = CompileSpec::for_soc(soc, htp).write().unwrap_or_default();
        vec![(COMPILE_SPEC.into(), spec)]
    }
}
