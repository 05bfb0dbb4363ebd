//! ExecuTorch's source transforms: `--quantization-mode` for linear layers and `--embedding-quantize` for embeddings.
//!
//! They need no calibration. Scales are computed here, from the weights; codes are decoded by rows when they are read, so that
//! an export holds no weight.

mod embedding;
mod gptq;
mod linear;
mod scales;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use pteron_ir::{
    Arg, ConstData, ConstId, Def, Extra, Graph, InferCtx, InferError, Module, NodeId, Op, PathId, TensorType, ValueId,
};
use pteron_kernels::Context;
use pteron_tensor::{CastSource, DType, MemorySource, SharedSource};

use crate::error::TensorLabel;
use crate::format::IntFormat;
use crate::moments::Moments;
use crate::observer::Layout;
use crate::pt2e::{CodesSource, Rounding};
use crate::weight::{Method, WeightError};

use stored::Stored;

pub use stored::Lookup;

/// How the scales of weights are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// From the largest magnitude of a group.
    Affine,
    /// ExecuTorch's default: HQQ that moves scales only.
    #[default]
    Hqq,
    /// A search for the least squared error.
    Mse,
    /// Scales from the largest magnitude of a whole row, or by [`Algorithm::Mse`] of a group; codes that make up for each other's
    /// errors over the inputs of calibration data ([`crate::weight::gptq`]). Embeddings, which have no such inputs, take the
    /// scales of [`Algorithm::Mse`].
    Gptq,
    /// None: codes and scales are those that the checkpoint has. What it has no codes of stays float.
    Stored,
}

impl Algorithm {
    /// All, as `--weight-algorithm` spells them.
    pub const ALL: [Algorithm; 5] =
        [Algorithm::Affine, Algorithm::Hqq, Algorithm::Mse, Algorithm::Gptq, Algorithm::Stored];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Affine => "affine",
            Algorithm::Hqq => "hqq",
            Algorithm::Mse => "mse",
            Algorithm::Gptq => "gptq",
            Algorithm::Stored => "stored",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A `--quantization-mode` of linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinearMode {
    /// `int8`: weights per output channel, activations float.
    Int8,
    /// `int8` with a group size: 8-bit weights in groups, activations float.
    Int8Groups {
        /// Columns of a group, at least 1.
        group: usize,
    },
    /// `8da8w`: 8-bit weights, 8-bit activations whose range is chosen for each token at run time.
    Int8DynActInt8Weight {
        /// Columns of a group; 0 for whole rows.
        group: usize,
    },
    /// `8da4w`: 4-bit weights in groups, 8-bit activations whose range is chosen for each token at run time.
    Int8DynActInt4Weight {
        /// Columns of a group; 0 for whole rows.
        group: usize,
    },
    /// `4w`: 4-bit weights in groups, activations float.
    Int4Weight {
        /// Columns of a group; 0 for whole rows.
        group: usize,
    },
}

impl LinearMode {
    /// The modes' names.
    pub const NAMES: [&str; 4] = ["int8", "8da4w", "4w", "8da8w"];

    /// The mode called `name`, with a group size or the default for the mode: ExecuTorch's 128 for `8da4w` and 256 for `4w`,
    /// whole rows for `int8` and `8da8w`.
    pub fn from_name(name: &str, group: Option<usize>) -> Option<LinearMode> {
        Some(match name {
            "int8" => match group.unwrap_or(0) {
                0 => LinearMode::Int8,
                group => LinearMode::Int8Groups { group },
            },
            "8da8w" => LinearMode::Int8DynActInt8Weight { group: group.unwrap_or(0) },
            "8da4w" => LinearMode::Int8DynActInt4Weight { group: group.unwrap_or(128) },
            "4w" => LinearMode::Int4Weight { group: group.unwrap_or(256) },
            _ => return None,
        })
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            LinearMode::Int8 | LinearMode::Int8Groups { .. } => "int8",
            LinearMode::Int8DynActInt8Weight { .. } => "8da8w",
            LinearMode::Int8DynActInt4Weight { .. } => "8da4w",
            LinearMode::Int4Weight { .. } => "4w",
        }
    }

    /// Columns of a group, 0 for whole rows; `None` for the mode that has no groups.
    pub const fn group(self) -> Option<usize> {
        match self {
            LinearMode::Int8 => None,
            LinearMode::Int8Groups { group }
            | LinearMode::Int8DynActInt8Weight { group }
            | LinearMode::Int8DynActInt4Weight { group }
            | LinearMode::Int4Weight { group } => Some(group),
        }
    }

    /// Bits of a code.
    pub const fn bits(self) -> u32 {
        match self {
            LinearMode::Int8 | LinearMode::Int8Groups { .. } | LinearMode::Int8DynActInt8Weight { .. } => 8,
            LinearMode::Int8DynActInt4Weight { .. } | LinearMode::Int4Weight { .. } => 4,
        }
    }

    /// Whether activations are codes of 8 bits, chosen at run time.
    pub const fn is_dynamic(self) -> bool {
        matches!(self, LinearMode::Int8DynActInt8Weight { .. } | LinearMode::Int8DynActInt4Weight { .. })
    }

    /// How the mode's scales are chosen where nothing says how: ExecuTorch's ways.
    pub const fn default_algorithm(self) -> Algorithm {
        match self {
            LinearMode::Int8 => Algorithm::Affine,
            _ => Algorithm::Hqq,
        }
    }
}

/// `--embedding-quantize BITS,GROUP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingMode {
    /// Bits of a code: 2, 4 or 8.
    pub bits: u32,
    /// Columns of a group; 0 for whole rows.
    pub group: usize,
}

impl EmbeddingMode {
    /// `BITS,GROUP`, or `BITS` for whole rows; `None` if it is neither, or the bits are not 2, 4 or 8.
    pub fn parse(text: &str) -> Option<EmbeddingMode> {
        let (bits, group) = text.split_once(',').unwrap_or((text, "0"));
        let (bits, group) = (bits.trim().parse().ok()?, group.trim().parse().ok()?);
        matches!(bits, 2 | 4 | 8).then_some(EmbeddingMode { bits, group })
    }
}

/// The layers that are transformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LayerKind {
    /// `aten::linear`.
    Linear,
    /// `aten::embedding`.
    Embedding,
}

impl LayerKind {
    /// The kind of layer that an operator is, and its argument that is the weight.
    pub const fn of(op: Op) -> Option<(LayerKind, u16)> {
        match op {
            Op::Linear => Some((LayerKind::Linear, linear::WEIGHT)),
            Op::Embedding => Some((LayerKind::Embedding, embedding::WEIGHT)),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            LayerKind::Linear => "linear layer",
            LayerKind::Embedding => "embedding",
        }
    }
}

/// What becomes of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerChoice {
    /// A linear layer.
    Linear(LinearMode, Algorithm),
    /// An embedding.
    Embedding(EmbeddingMode, Algorithm),
}

impl LayerChoice {
    /// How scales are chosen.
    pub const fn algorithm(self) -> Algorithm {
        match self {
            LayerChoice::Linear(_, algorithm) | LayerChoice::Embedding(_, algorithm) => algorithm,
        }
    }

    const fn layer(self) -> LayerKind {
        match self {
            LayerChoice::Linear(..) => LayerKind::Linear,
            LayerChoice::Embedding(..) => LayerKind::Embedding,
        }
    }
}

/// What is transformed: a choice for each layer, by its module path; `None` leaves it float.
pub struct Transform<'a> {
    choose: &'a dyn Fn(&str, LayerKind) -> Option<LayerChoice>,
    stored: Option<Lookup<'a>>,
}

impl fmt::Debug for Transform<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform").finish_non_exhaustive()
    }
}

/// What a transform did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransformReport {
    /// Layers that were quantized.
    pub quantized: usize,
    /// Those of them whose codes are the checkpoint's.
    pub taken_over: usize,
    /// Module paths of layers that stay float, with the reason.
    pub kept: Vec<(String, String)>,
}

/// Why a transform failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TransformError {
    /// Weights that cannot be quantized.
    #[error(transparent)]
    Weight(#[from] WeightError),
    /// Weights that cannot be read.
    #[error("{0}")]
    Source(String),
    /// Products of a layer's inputs that were not gathered.
    #[error(
        "`{name}`: the algorithm gptq makes errors up over the layer's inputs, and there are none: give text that the model will \
         read with --calibration-data FILE"
    )]
    Grams {
        /// The weight.
        name: String,
    },
    /// Bits that embeddings do not have.
    #[error("embeddings have codes of 2, 4 or 8 bits, found {0}")]
    Bits(u32),
    /// Nothing to quantize.
    #[error("no {what} of the model can be quantized{}", first(.kept))]
    Nothing {
        /// `linear layer` or `embedding`.
        what: &'static str,
        /// Those that stay float, with the reason.
        kept: Vec<(String, String)>,
    },
    /// A node does not fit.
    #[error("`{path}`: {error}")]
    Infer {
        /// The module path.
        path: String,
        /// What does not fit.
        error: InferError,
    },
}

fn first(kept: &[(String, String)]) -> String {
    kept.first().map_or_else(String::new, |(path, why)| format!(": `{path}`: {why}"))
}

impl<'a> Transform<'a> {
    /// A transform of the layers for which `choose` gives something.
    pub fn new(choose: &'a dyn Fn(&str, LayerKind) -> Option<LayerChoice>) -> Transform<'a> {
        Transform { choose, stored: None }
    }

    /// Where [`Algorithm::Stored`] finds codes; without it there are none.
    #[must_use]
    pub fn stored(mut self, lookup: Lookup<'a>) -> Transform<'a> {
        self.stored = Some(lookup);
        self
    }

    /// Transforms every graph of `modules`, computing scales on the threads of `ctx`. Modules of one model share them: a weight
    /// of the same name is quantized alike, and its scales are found once. A layer whose columns the group size does not divide
    /// stays float, as in ExecuTorch, and is reported; a group that divides none is an error. [`Algorithm::Mse`] weighs errors
    /// by `moments`, where they have the weight; [`Algorithm::Gptq`] needs their products ([`Moments::gram`]). `progress` is called with the layers done and all. The report is the first
    /// module's.
    ///
    /// # Errors
    /// [`TransformError`] naming the weight.
    pub fn apply(
        &self,
        modules: &mut [&mut Module],
        moments: Option<&Moments>,
        ctx: &Context,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<TransformReport, TransformError> {
        let mut known = Vec::new();
        let mut first = None;
        for module in modules {
            let mut graphs = std::mem::take(&mut module.graphs);
            let done = self.graphs(module, &mut graphs, moments, &mut known, ctx, progress);
            module.graphs = graphs;
            let report = done?;
            first.get_or_insert(report);
        }
        Ok(first.unwrap_or_default())
    }

    fn graphs(
        &self,
        module: &mut Module,
        graphs: &mut [Graph],
        moments: Option<&Moments>,
        known: &mut Vec<(String, LayerChoice, Found)>,
        ctx: &Context,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<TransformReport, TransformError> {
        let mut report = TransformReport::default();
        let jobs = self.jobs(module, graphs, &mut report)?;
        let found = |known: &[(String, LayerChoice, Found)], job: &Job| {
            known.iter().find(|(name, choice, _)| *name == job.name && *choice == job.choice).map(|k| k.2.clone())
        };
        let searched: Vec<&Job> = jobs.iter().filter(|j| j.stored.is_none() && found(known, j).is_none()).collect();
        if !searched.is_empty() {
            let scales = scales::find(&searched, moments, ctx, progress)?;
            let codes = gptq::find(&searched, &scales, moments, ctx, progress)?;
            for ((job, scales), codes) in searched.iter().zip(scales).zip(codes) {
                known.push((job.name.clone(), job.choice, Found { scales: scales.into(), codes }));
            }
        }
        for job in jobs {
            let weight = match (&job.stored, found(known, &job)) {
                (Some(stored), _) => Weight::stored(module, &job, stored)?,
                (None, Some(found)) => Weight::new(module, &job, found)?,
                (None, None) => continue,
            };
            for graph in graphs.iter_mut() {
                let replaced = match job.choice {
                    LayerChoice::Linear(mode, _) => linear::replace(graph, module, &job.readers, mode, &weight)?,
                    LayerChoice::Embedding(mode, _) => embedding::replace(graph, module, &job.readers, mode, &weight)?,
                };
                report.quantized += replaced;
                report.taken_over += if job.stored.is_some() { replaced } else { 0 };
            }
        }
        Ok(report)
    }

    /// The weights to quantize, each once for each choice.
    fn jobs(
        &self,
        module: &Module,
        graphs: &[Graph],
        report: &mut TransformReport,
    ) -> Result<Vec<Job>, TransformError> {
        let mut jobs: Vec<Job> = Vec::new();
        // The kinds that are asked for, and whether only of the checkpoint's codes.
        let mut wanted: Vec<(LayerKind, bool)> = Vec::new();
        for graph in graphs {
            for n in graph.all_nodes() {
                let node = &graph.nodes[n];
                let path = &graph.paths[node.path];
                let Some((kind, argument)) = LayerKind::of(node.op) else { continue };
                let Some(choice) = (self.choose)(path, kind).filter(|c| c.layer() == kind) else { continue };
                if let LayerChoice::Embedding(e, _) = choice
                    && !matches!(e.bits, 2 | 4 | 8)
                {
                    return Err(TransformError::Bits(e.bits));
                }
                let stored = choice.algorithm() == Algorithm::Stored;
                match wanted.iter_mut().find(|(known, _)| *known == kind) {
                    Some((_, all_stored)) => *all_stored &= stored,
                    None => wanted.push((kind, stored)),
                }
                let Some(Arg::Value(v)) = node.args.get(usize::from(argument)) else { continue };
                let Def::Const(constant) = graph.values[*v].def else {
                    report.kept.push((path.to_string(), "its weight is no constant".to_owned()));
                    continue;
                };
                if let Some(job) = jobs.iter_mut().find(|j| j.readers.constant == constant && j.asked == choice) {
                    job.readers.paths.insert(path.to_string());
                    continue;
                }
                match Job::new(module, constant, path, choice, self.stored)? {
                    Ok(job) => jobs.push(job),
                    Err(why) => report.kept.push((path.to_string(), why)),
                }
            }
        }
        let kinds = |kind: LayerKind| jobs.iter().any(|j| j.choice.layer() == kind);
        match wanted.iter().find(|(kind, _)| !kinds(*kind)) {
            // Of a checkpoint's codes as many are taken over as there are, at least one.
            Some((_, true)) if !jobs.is_empty() => Ok(jobs),
            Some((_, true)) => Err(TransformError::Nothing { what: "layer", kept: std::mem::take(&mut report.kept) }),
            Some((kind, false)) => {
                Err(TransformError::Nothing { what: kind.name(), kept: std::mem::take(&mut report.kept) })
            }
            None => Ok(jobs),
        }
    }
}

impl LayerChoice {
    fn group(self) -> usize {
        match self {
            LayerChoice::Linear(mode, _) => mode.group().unwrap_or(0),
            LayerChoice::Embedding(e, _) => e.group,
        }
    }

    fn range(self) -> (i64, i64) {
        let bits = match self {
            LayerChoice::Linear(mode, _) => mode.bits(),
            LayerChoice::Embedding(e, _) => e.bits,
        };
        let half = 1i64 << (bits - 1);
        (-half, half - 1)
    }
}

/// The nodes that read a weight as one job quantizes it.
struct Readers {
    constant: ConstId,
    /// Their module paths.
    paths: BTreeSet<String>,
}

impl Readers {
    /// Whether node `n` of `graph` is one of them: one of operator `op` whose argument `weight` is the constant.
    fn has(&self, graph: &Graph, n: NodeId, op: Op, weight: u16) -> bool {
        let node = &graph.nodes[n];
        node.op == op
            && matches!(node.args.get(usize::from(weight)), Some(Arg::Value(w)) if graph.values[*w].def == Def::Const(self.constant))
            && self.paths.contains(graph.paths[node.path].as_ref())
    }
}

/// A weight to quantize.
struct Job {
    readers: Readers,
    name: String,
    /// What was asked for.
    asked: LayerChoice,
    /// What is made: another width and group than asked for, where codes are the checkpoint's.
    choice: LayerChoice,
    stored: Option<Stored>,
    source: SharedSource,
    rows: usize,
    columns: usize,
    group: usize,
}

impl Job {
    /// `Err` says why the layer stays float.
    fn new(
        module: &Module,
        constant: ConstId,
        path: &str,
        asked: LayerChoice,
        lookup: Option<Lookup<'_>>,
    ) -> Result<Result<Job, String>, TransformError> {
        let c = &module.constants[constant];
        let ConstData::Source(source) = &c.data else { return Ok(Err("its weight has no bytes here".to_owned())) };
        let source = CastSource::wrap(source.clone(), DType::F32);
        let &[rows, columns] = source.shape() else { return Ok(Err("its weight is no matrix".to_owned())) };
        let mut stored = None;
        if asked.algorithm() == Algorithm::Stored {
            let found = lookup.map_or_else(|| Ok(Err(stored::NO_CODES.to_owned())), |find| find(&c.name))?;
            let taken = match found {
                Ok(codes) => Stored::new(&codes, asked, [rows, columns])?,
                Err(why) => Err(why),
            };
            match taken {
                Ok(taken) => stored = Some(taken),
                Err(why) => return Ok(Err(why)),
            }
        }
        let choice = stored.as_ref().map_or(asked, |s| s.choice);
        let group = if choice.group() == 0 { columns } else { choice.group() };
        if columns == 0 || !columns.is_multiple_of(group) {
            return Ok(Err(format!("the group size {group} does not divide its {columns} columns")));
        }
        if let LayerChoice::Embedding(e, _) = choice
            && !columns.is_multiple_of(8 / e.bits as usize)
        {
            return Ok(Err(format!("its {columns} columns do not fill bytes of {} bits a code", e.bits)));
        }
        let readers = Readers { constant, paths: BTreeSet::from([path.to_owned()]) };
        Ok(Ok(Job { readers, name: c.name.to_string(), asked, choice, stored, source, rows, columns, group }))
    }

    fn label(&self) -> TensorLabel {
        let (module, port) = self.name.rsplit_once('.').unwrap_or(("", &self.name));
        TensorLabel::new(module, port)
    }

    fn method<'m>(&self, moments: Option<&'m Moments>) -> Method<'m> {
        match self.choice {
            LayerChoice::Linear(LinearMode::Int8, Algorithm::Affine | Algorithm::Gptq) => Method::Int8,
            LayerChoice::Linear(_, Algorithm::Gptq) if self.group == self.columns => Method::Affine,
            // A token's row of an embedding is read or not read: its columns have no inputs of their own.
            LayerChoice::Embedding(_, Algorithm::Mse | Algorithm::Gptq) => Method::Mse(None),
            LayerChoice::Linear(_, Algorithm::Mse | Algorithm::Gptq) => {
                Method::Mse(moments.and_then(|m| m.of(&self.name)))
            }
            LayerChoice::Linear(_, Algorithm::Hqq) | LayerChoice::Embedding(_, Algorithm::Hqq) => Method::Hqq,
            // Stored scales are not searched.
            LayerChoice::Linear(_, Algorithm::Affine | Algorithm::Stored)
            | LayerChoice::Embedding(_, Algorithm::Affine | Algorithm::Stored) => Method::Affine,
        }
    }
}

/// What was found for a weight.
#[derive(Clone)]
struct Found {
    scales: Arc<[f32]>,
    /// Its codes, where they are not those nearest to the weights.
    codes: Option<SharedSource>,
}

/// A quantized weight.
struct Weight {
    name: String,
    codes: SharedSource,
    scales: Arc<MemorySource>,
    group: usize,
    range: (i64, i64),
}

impl Weight {
    fn new(module: &Module, job: &Job, found: Found) -> Result<Weight, TransformError> {
        let (range, scales) = (job.choice.range(), found.scales);
        if let Some(codes) = found.codes {
            let (name, tensor) = Weight::names(module, job, &scales)?;
            return Ok(Weight { name, codes, scales: Arc::new(tensor), group: job.group, range });
        }
        let source = |e: String| TransformError::Source(e);
        let format = IntFormat::new(DType::I8, range.0, range.1).map_err(|e| source(e.to_string()))?;
        let rounding = match job.method(None) {
            Method::Affine => Rounding::Reciprocal,
            Method::Int8 | Method::Hqq | Method::Mse(_) => Rounding::Quotient,
        };
        let (name, tensor) = Weight::names(module, job, &scales)?;
        let layout = Layout::PerBlock { block_size: vec![1, job.group] };
        let codes = CodesSource::symmetric(job.source.clone(), scales, &layout, format, rounding).map_err(source)?;
        Ok(Weight { name, codes: Arc::new(codes), scales: Arc::new(tensor), group: job.group, range })
    }

    /// A weight whose codes are the checkpoint's.
    fn stored(module: &Module, job: &Job, stored: &Stored) -> Result<Weight, TransformError> {
        let (name, tensor) = Weight::names(module, job, &stored.scales)?;
        let range = job.choice.range();
        Ok(Weight { name, codes: stored.codes.clone(), scales: Arc::new(tensor), group: job.group, range })
    }

    /// What the codes are called, and the scales as a tensor.
    fn names(module: &Module, job: &Job, scales: &[f32]) -> Result<(String, MemorySource), TransformError> {
        let groups = job.columns / job.group;
        // Where a scale is for a whole row it stands alone, as ExecuTorch's `squeeze` has it.
        let shape: &[usize] = if groups == 1 { &[job.rows] } else { &[job.rows, groups] };
        let suffix = match job.choice {
            LayerChoice::Linear(..) => "",
            LayerChoice::Embedding(..) => "_embedding",
        };
        let name = unique(module, &format!("{}{suffix}_quantized", job.name));
        let tensor = MemorySource::of(&format!("{name}_scale"), shape, scales);
        Ok((name, tensor.map_err(|e| TransformError::Source(e.to_string()))?))
    }
}

fn unique(module: &Module, name: &str) -> String {
    let taken = |name: &str| module.constants.values().any(|c| c.name.as_ref() == name);
    (0..)
        .map(|i| if i == 0 { name.to_owned() } else { format!("{name}_{i}") })
        .find(|n| !taken(n))
        .unwrap_or_else(|| name.to_owned())
}

/// Appends nodes to a graph's body, whose nodes have been taken out.
struct Rewriter<'a> {
    module: &'a mut Module,
    graph: &'a mut Graph,
    path: PathId,
}

impl Rewriter<'_> {
    fn call(&mut self, op: Op, arguments: Vec<Arg>) -> Result<Vec<ValueId>, TransformError> {
        let mut arguments = arguments;
        for a in op.schema().inputs().skip(arguments.len()) {
            arguments.push(a.default.clone().unwrap_or(Arg::None));
        }
        let g = &mut *self.graph;
        let outputs = {
            let types = |v: ValueId| g.ty(v);
            InferCtx { op, args: &arguments, types: &types, symbols: &g.symbols }.infer()
        };
        let path = g.paths[self.path].to_string();
        let outputs = outputs.map_err(|error| TransformError::Infer { path, error })?;
        let body = g.body_id();
        let n = g.add_node(body, op, arguments, outputs, Extra::None, self.path);
        Ok(self.graph.nodes[n].outputs.to_vec())
    }

    fn one(&mut self, op: Op, arguments: Vec<Arg>) -> Result<ValueId, TransformError> {
        let outputs = self.call(op, arguments)?;
        outputs.first().copied().ok_or_else(|| TransformError::Source(format!("{} has no output", op.name())))
    }

    fn constant(&mut self, name: &str, source: SharedSource) -> ValueId {
        let known = self.module.constants.iter().find(|(_, c)| c.name.as_ref() == name).map(|(id, _)| id);
        let c = known.unwrap_or_else(|| self.module.add_constant(name, source));
        let ty = self.module.constants[c].ty.clone();
        self.graph.module_value(Def::Const(c), || ty.into())
    }

    fn tensor(&self, v: ValueId) -> TensorType {
        self.graph.ty(v).as_tensor().cloned().unwrap_or_else(|| TensorType::new(DType::F32, []))
    }
}
