//! Exports for Qualcomm's tensor processors: the static forms, their quantization, and context binaries.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use pteron_ir::{MetaValue, Module};
use pteron_models::{
    CheckpointWeights, ModelConfig, ModelError, StaticOptions, build_static, build_static_calibration,
    build_static_mutable,
};
use pteron_program::EmitOptions;
use pteron_qnn::lower::LinearForm;
use pteron_qnn::partition::{
    CompileOptions, Compiled, IoParams, PartitionReport, Placement, Shards, compile, compile_specs,
};
use pteron_qnn::soc::Soc;
use pteron_qnn::spec::{HtpOptions, PerformanceMode, Precision};
use pteron_qnn::{ComposeOptions, ComposeStage, HostOptions, Optimization, QnnLibrary, Sdk};
use pteron_tensor::DType;

use super::{Captured, Exporter, Progress};
use crate::error::Error;
use crate::quantize;

/// What stands before a layer's number in its module path.
const LAYERS: &str = "model.layers.";
/// Tokens of a call of the form that is measured.
const MEASURED_BLOCK: usize = 128;

/// The methods of a program for Qualcomm's tensor processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum QnnMode {
    /// `forward` for one token, with caches as mutable buffers: what `export_llama --qnn` writes.
    #[default]
    Mutable,
    /// `kv_forward` for one token, with caches as inputs and outputs.
    Kv,
    /// `kv_forward`, and `prefill_forward` for a block of tokens, in one context.
    Hybrid,
}

impl QnnMode {
    /// `mutable`, `kv`, `hybrid`.
    pub fn name(self) -> &'static str {
        match self {
            QnnMode::Mutable => "mutable",
            QnnMode::Kv => "kv",
            QnnMode::Hybrid => "hybrid",
        }
    }
}

/// How a program for Qualcomm's tensor processors is made. The defaults are those of ExecuTorch's exporters.
#[derive(Clone, Debug)]
pub struct QnnOptions {
    /// The methods.
    pub mode: QnnMode,
    /// Tokens of one call of `prefill_forward`.
    pub prefill_ar_len: usize,
    /// The system on chip.
    pub soc: Soc,
    /// Shards of layers, each in a context of its own; 0 and 1 are one context.
    pub num_sharding: usize,
    /// Each head of attention has products of its own.
    pub single_heads: bool,
    /// The operator that linear layers become.
    pub linear: LinearForm,
    /// How the processor is clocked.
    pub performance_mode: PerformanceMode,
    /// How thoroughly the library optimizes.
    pub optimization: Optimization,
    /// The context with shared weights is built as well, and its size reported: x86 cannot load it.
    pub weight_sharing: bool,
    /// Activations are compressed in memory.
    pub dlbc: bool,
    /// A node that is not delegated is an error.
    pub require_full_delegation: bool,
    /// The same graphs, quantized the same, for CPU kernels: nothing is lowered, and Qualcomm's libraries are not needed.
    pub on_cpu: bool,
    /// Where Qualcomm's libraries lie; [`Sdk::find`] looks for them otherwise.
    pub sdk: Option<PathBuf>,
}

impl QnnOptions {
    /// ExecuTorch's defaults for a system on chip.
    pub fn new(soc: Soc) -> QnnOptions {
        QnnOptions {
            mode: QnnMode::default(),
            prefill_ar_len: 32,
            soc,
            num_sharding: 0,
            single_heads: false,
            linear: LinearForm::default(),
            performance_mode: PerformanceMode::Burst,
            optimization: Optimization::default(),
            weight_sharing: false,
            dlbc: false,
            require_full_delegation: false,
            on_cpu: false,
            sdk: None,
        }
    }
}

/// Where a node is executed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct QnnNodeReport {
    /// The method.
    pub method: String,
    /// Its operator.
    pub op: String,
    /// Its module.
    pub path: String,
    /// Its delegate in the method, if it has one.
    pub delegate: Option<usize>,
    /// Why not, if it has none.
    pub reason: Option<String>,
}

/// A context binary.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QnnContextReport {
    /// Its graphs: the methods.
    pub graphs: Vec<String>,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes with shared weights, if that was asked for.
    pub shared_bytes: Option<u64>,
    /// Seconds of the library's own finalize calls.
    pub finalize_seconds: f64,
    /// Seconds of the whole compilation: handing the graphs over, finalizing them, reading the binary out.
    pub compose_seconds: f64,
}

/// What Qualcomm's library made of a program.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QnnReport {
    /// The release of the library.
    pub library: String,
    /// The system on chip.
    pub soc: String,
    /// The methods' form.
    pub mode: &'static str,
    /// The context binaries.
    pub contexts: Vec<QnnContextReport>,
    /// Nodes in delegates.
    pub delegated: usize,
    /// Nodes outside.
    pub outside: usize,
    /// Every node.
    pub nodes: Vec<QnnNodeReport>,
    /// Seconds from the first validation to the last context.
    pub seconds: f64,
    /// The same as a table.
    #[serde(skip)]
    pub table: String,
}

/// Qualcomm's library, unless the export does without it.
pub(super) fn library(q: &QnnOptions) -> Result<Option<Arc<dyn QnnLibrary>>, Error> {
    if q.on_cpu {
        return Ok(None);
    }
    let sdk = Sdk::find(q.sdk.as_deref()).map_err(qnn)?;
    Ok(Some(HostOptions::new(sdk).map_err(qnn)?.open().map_err(qnn)?))
}

fn qnn(e: impl std::fmt::Display) -> Error {
    Error::Qnn { reason: e.to_string() }
}

/// A sentence for each operator that stays outside for a reason of its own.
fn outside(report: &PartitionReport) -> Vec<String> {
    let mut kinds: Vec<(&str, &str, String, usize)> = Vec::new();
    for (method, node, why) in report.refused() {
        match kinds.iter_mut().find(|(op, reason, ..)| (*op, *reason) == (node.op, why)) {
            Some((.., count)) => *count += 1,
            None => kinds.push((node.op, why, format!("`{}` in `{method}`", node.path), 1)),
        }
    }
    let sentence = |(op, why, place, count)| match count {
        1 => format!("`{op}` of {place} runs on the CPU: {why}"),
        n => format!("{n} nodes `{op}`, the first of {place}, run on the CPU: {why}"),
    };
    kinds.into_iter().map(sentence).collect()
}

impl Exporter<'_> {
    /// Lowers to Qualcomm's QNN: every method's nodes that its library takes become parts of context binaries.
    #[must_use]
    pub fn qnn(mut self, options: QnnOptions) -> Self {
        self.qnn = Some(options);
        self
    }

    fn static_options(&self, q: &QnnOptions) -> StaticOptions {
        StaticOptions {
            dtype: self.options.dtype,
            max_context_length: self.options.max_context_length,
            prefill_ar_len: (q.mode == QnnMode::Hybrid).then_some(q.prefill_ar_len),
            single_heads: q.single_heads,
            tokens: self.options.tokens.clone(),
            metadata: self.options.metadata.clone(),
        }
    }

    /// The form that is calibrated, over windows of `window` tokens.
    pub(super) fn static_twin(
        &self,
        q: &QnnOptions,
        config: &ModelConfig,
        weights: &CheckpointWeights<'_>,
        window: usize,
    ) -> Result<Module, Error> {
        // Calibration windows may be longer than the context of the program.
        let options = self.static_options(q);
        let longest = options.max_context_length.max(window);
        let options = StaticOptions { max_context_length: longest, prefill_ar_len: None, ..options };
        Ok(build_static_calibration(config, weights, &options, window)?)
    }

    /// The form that is measured, over windows of `window` tokens: blocks of many tokens, whatever the program's methods take.
    pub(super) fn static_measured(
        &self,
        q: &QnnOptions,
        config: &ModelConfig,
        weights: &CheckpointWeights<'_>,
        window: usize,
    ) -> Result<Module, Error> {
        let block = window.clamp(2, MEASURED_BLOCK);
        // A block of its own length needs a column of the past beside it.
        let max_context_length = window.next_multiple_of(block) + 1;
        let options = StaticOptions { prefill_ar_len: Some(block), max_context_length, ..self.static_options(q) };
        Ok(build_static(config, weights, &options)?)
    }

    /// The static form that is exported.
    pub(super) fn static_module(
        &self,
        q: &QnnOptions,
        config: &ModelConfig,
        weights: &CheckpointWeights<'_>,
    ) -> Result<Module, Error> {
        if self.options.dtype != DType::F32 {
            return Err(qnn(format!(
                "--qnn takes a model in fp32, found {}: the library computes with integers, or in half precision where \
                 nothing is quantized",
                self.options.dtype
            )));
        }
        let fail = |option, found: String, expected: String| {
            Err(Error::Model(Box::new(ModelError::Option { option, found, expected })))
        };
        if q.weight_sharing && !q.soc.shares_weights() {
            let found = format!("given for {} ({})", q.soc.name, q.soc.arch);
            return fail("weight_sharing", found, "a system on chip with V73 or later (--soc-model)".to_owned());
        }
        if q.num_sharding > config.n_layers {
            return fail(
                "num_sharding",
                q.num_sharding.to_string(),
                format!("at most {} (the model's layers)", config.n_layers),
            );
        }
        let options = self.static_options(q);
        Ok(match q.mode {
            QnnMode::Mutable => build_static_mutable(config, weights, &options)?,
            QnnMode::Kv | QnnMode::Hybrid => build_static(config, weights, &options)?,
        })
    }

    /// Compiles what was captured.
    pub(super) fn lower_qnn(
        &mut self,
        q: &QnnOptions,
        library: &dyn QnnLibrary,
        captured: &mut Captured,
        warnings: &mut Vec<String>,
    ) -> Result<(), Error> {
        let fp16 = captured.quantization.is_none();
        let module = &mut captured.module;
        if fp16 {
            // What stays float is taken apart by the rules that a quantizer applies.
            quantize::decompose_for_qnn(module)?;
        }
        let compose = ComposeOptions {
            optimization: q.optimization,
            fp16,
            weight_sharing: q.weight_sharing && module.graphs.len() > 1,
            dlbc: q.dlbc,
            ..ComposeOptions::new(q.soc)
        };
        let layers = captured.config.n_layers;
        let shards = Shards { count: q.num_sharding, layers, prefix: LAYERS };
        let options = CompileOptions {
            form: q.linear,
            compose,
            quantized_io: q.mode != QnnMode::Mutable,
            shards: (q.num_sharding > 1).then_some(shards),
            require_full_delegation: q.require_full_delegation,
        };
        let htp = HtpOptions {
            performance_mode: q.performance_mode,
            precision: if fp16 { Precision::Fp16 } else { Precision::Quantized },
            use_dlbc: q.dlbc,
            ..HtpOptions::default()
        };
        let started = Instant::now();
        self.tell(Progress::Compiling);
        let mut tell = |_: ComposeStage| self.tell(Progress::Compiling);
        let compiled = compile(module, library, &options, &compile_specs(q.soc, htp), &mut tell).map_err(qnn)?;
        let seconds = started.elapsed().as_secs_f64();
        warnings.extend(outside(&compiled.report));
        if q.mode != QnnMode::Mutable {
            self.describe_io(module, &compiled, layers);
        }
        self.tell(Progress::Lowering);
        quantize::lower(module)?;
        captured.qnn = Some(report(q, library.info().build.clone(), &compiled, seconds));
        Ok(())
    }

    /// The constant methods by which a runner knows what the integers at the boundary stand for.
    fn describe_io(&self, module: &mut Module, compiled: &Compiled, layers: usize) {
        let Some(io) = compiled.io.first() else { return };
        let bits = |p: &Option<IoParams>| p.map_or(32, |p| if p.dtype == DType::U8 { 8 } else { 16 });
        let mut set = |name: &str, values: Vec<MetaValue>| {
            if !self.options.metadata.iter().any(|(given, _)| given == name) {
                module.set_metadata(name, values);
            }
        };
        if let Some(Some(logits)) = io.outputs.first() {
            set("get_logits_scale", vec![MetaValue::Float(logits.scale)]);
            set("get_logits_zero_point", vec![MetaValue::Int(logits.zero_point)]);
        }
        if let Some(key) = io.outputs.get(1) {
            set("get_kv_io_bit_width", vec![MetaValue::Int(bits(key))]);
        }
        for i in 0..2 * layers {
            if let Some(Some(p)) = io.outputs.get(1 + i) {
                let values = vec![
                    MetaValue::Float(p.scale),
                    MetaValue::Int(p.zero_point),
                    MetaValue::Int(p.quant_min),
                    MetaValue::Int(p.quant_max),
                ];
                set(&format!("get_kv_output_{i}_quant_attr"), values);
            }
        }
    }

    /// How programs of this form are written: the static ones take their outputs' memory from the caller, as ExecuTorch's
    /// runners give it.
    pub(super) fn emit_options(&self) -> EmitOptions {
        let caller_owns = self.qnn.as_ref().is_some_and(|q| q.mode != QnnMode::Mutable);
        EmitOptions { alloc_graph_output: !caller_owns, ..EmitOptions::default() }
    }
}

fn nodes(report: &PartitionReport) -> Vec<QnnNodeReport> {
    let row = |method: &str, n: &pteron_qnn::partition::NodeReport| QnnNodeReport {
        method: method.to_owned(),
        op: n.op.to_owned(),
        path: n.path.clone(),
        delegate: match n.placement {
            Placement::Delegated(d) => Some(d),
            Placement::Refused(_) => None,
        },
        reason: match &n.placement {
            Placement::Delegated(_) => None,
            Placement::Refused(why) => Some(why.clone()),
        },
    };
    report.methods.iter().flat_map(|m| m.nodes.iter().map(|n| row(&m.method, n))).collect()
}

fn report(q: &QnnOptions, library: String, compiled: &Compiled, seconds: f64) -> QnnReport {
    let nodes = nodes(&compiled.report);
    let outside = compiled.report.refused().count();
    QnnReport {
        library,
        soc: q.soc.name.to_owned(),
        mode: q.mode.name(),
        contexts: compiled
            .contexts
            .iter()
            .map(|c| QnnContextReport {
                graphs: c.graphs.clone(),
                bytes: c.bytes,
                shared_bytes: c.shared_bytes,
                finalize_seconds: c.finalize_us.iter().map(|f| f.1 as f64 / 1e6).sum(),
                compose_seconds: c.compose_us as f64 / 1e6,
            })
            .collect(),
        delegated: nodes.iter().filter(|n| n.delegate.is_some()).count(),
        outside,
        nodes,
        seconds,
        table: compiled.report.to_string(),
    }
}
