//! How far Qualcomm's library is from the graph on CPU kernels, operator by operator, and how far that graph is from itself.
//!
//! ```text
//! qnn_nodes nodes  MODEL TEXT [RECIPE]    each operator by itself, on the integers that the CPU computed
//! qnn_nodes layers MODEL TEXT [RECIPE]    each decoder layer as one part, on the same
//! qnn_nodes scales MODEL TEXT [RECIPE]    the CPU alone: logits with the scales of weights changed by a share of themselves
//! ```
//!
//! `MODEL` is a Hugging Face folder, `TEXT` a file that is calibrated with and whose beginning is run, `RECIPE` a recipe
//! (`qnn_16a8w` otherwise). Differences of integers are in steps of the output's own scale. The first two need Qualcomm's
//! libraries (`pteron doctor`).

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use pteron::calibration::{CalibrationOptions, DataOptions, EvaluationOptions};
use pteron::evaluation::{Position, measure_rows};
use pteron::exec::{NodeEvent, NodeHook, Session, SessionOptions, Value, ValueRef};
use pteron::host::default_threads;
use pteron::ir::{Arg, ConstData, ConstId, Def, Graph, Module, NodeId, Op, ValueId};
use pteron::kernels::Context;
use pteron::models::{MASKED, PREFILL_FORWARD};
use pteron::qnn::graph::Encoding;
use pteron::qnn::lower::{Boundary, LinearForm, lower};
use pteron::qnn::names::parse_input;
use pteron::qnn::partition::narrow;
use pteron::qnn::soc::{DEFAULT_SOC, Soc};
use pteron::qnn::{ComposeOptions, HostOptions, ProfileLevel, QnnLibrary, Sdk, TensorInfo};
use pteron::quant::recipe::Recipe;
use pteron::tensor::{DType, MemorySource, SharedSource, Tensor, read_all};
use pteron::{Exporter, QnnMode, QnnOptions, TokenizerSource};

type Res<T> = Result<T, Box<dyn Error>>;

/// Tokens of a call, and positions of the caches.
const BLOCK: usize = 32;
const CONTEXT: usize = 160;
/// Blocks of text whose logits are compared.
const BLOCKS: usize = 6;
/// Graphs of a context.
const AT_ONCE: usize = 32;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // Where standard error is closed, nobody is there to be told.
            let _ = writeln!(io::stderr(), "error: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Res<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (mode, model, text, recipe) = match &args[..] {
        [mode, model, text] => (mode.as_str(), model, text, "pt2e-quantize = 'qnn_16a8w'\n".to_owned()),
        [mode, model, text, recipe] => (mode.as_str(), model, text, std::fs::read_to_string(recipe)?),
        _ => return Err("usage: qnn_nodes nodes|layers|scales MODEL TEXT [RECIPE]".into()),
    };
    let soc = Soc::by_name(DEFAULT_SOC).ok_or("the default system is not in the table")?;
    let options = QnnOptions { mode: QnnMode::Hybrid, prefill_ar_len: BLOCK, on_cpu: true, ..QnnOptions::new(soc) };
    let data = DataOptions { files: vec![PathBuf::from(text)], limit: 8, window: Some(128), ..DataOptions::default() };
    let module = Exporter::open(model)?
        .kv_cache(true)
        .dynamic_shape(false)
        .max_seq_length(CONTEXT)
        .max_context_length(CONTEXT)
        .quantize(Recipe::parse(&recipe)?)
        .calibration(CalibrationOptions { data, state: None })
        .evaluation(EvaluationOptions { enabled: false, ..EvaluationOptions::default() })
        .qnn(options)
        .captured()?;
    let tokenizer = TokenizerSource::open(&Path::new(model).join("tokenizer.json"))?.tokenizer()?;
    let ids = tokenizer.encode(&std::fs::read_to_string(text)?, false)?;
    let blocks: Vec<&[u32]> = ids.chunks_exact(BLOCK).take(BLOCKS).collect();
    if mode == "scales" {
        return scales(&module, &blocks);
    }
    let block = blocks.first().ok_or("the text has less than one block")?;
    let library = HostOptions::new(Sdk::find(None)?)?.open()?;
    compare(module, block, mode == "layers", library.as_ref(), soc)
}

fn prefill(module: &Module) -> Res<&Graph> {
    Ok(module.graphs.iter().find(|g| g.name == PREFILL_FORWARD).ok_or("the module has no prefill")?)
}

/// The inputs of a call for the first tokens of a text: nothing is cached.
fn inputs(graph: &Graph, tokens: &[u32]) -> Res<Vec<Value>> {
    let mut out = Vec::new();
    for (i, &v) in graph.inputs.iter().enumerate() {
        let ty = graph.ty(v).as_tensor().ok_or("an input is no tensor")?;
        let sizes = ty.fixed_sizes().ok_or("an input has no fixed sizes")?;
        out.push(Value::Tensor(match i {
            0 => Tensor::of(&sizes, &tokens.iter().map(|&t| t as i32).collect::<Vec<_>>())?,
            1 => {
                let past = CONTEXT - BLOCK;
                let seen = |i: usize| (past..=past + i / CONTEXT).contains(&(i % CONTEXT));
                let mask: Vec<f32> = (0..BLOCK * CONTEXT).map(|i| if seen(i) { 0.0 } else { MASKED }).collect();
                Tensor::of(&sizes, &mask)?
            }
            2 => Tensor::of(&sizes, &(0..BLOCK as i32).collect::<Vec<_>>())?,
            _ => Tensor::zeros(ty.dtype, &sizes)?,
        }));
    }
    Ok(out)
}

/// Keeps the bytes of values.
struct Kept {
    wanted: BTreeSet<ValueId>,
    bytes: BTreeMap<ValueId, (DType, Vec<u8>)>,
}

impl NodeHook for Kept {
    fn after(&mut self, event: &NodeEvent<'_>) {
        for (v, out) in event.graph.nodes[event.node].outputs.iter().zip(event.outputs) {
            if let (true, Value::Tensor(t)) = (self.wanted.contains(v), out.to_value()) {
                self.bytes.insert(*v, (t.dtype(), t.bytes().to_vec()));
            }
        }
    }
}

/// A part of the graph that is lowered by itself.
struct Part {
    name: String,
    nodes: Vec<NodeId>,
    boundary: Boundary,
}

/// Lowers, runs and compares part after part.
fn compare(mut module: Module, block: &[u32], by_layer: bool, library: &dyn QnnLibrary, soc: Soc) -> Res<()> {
    let graph = prefill(&module)?.clone();
    let parts = parts(&graph, by_layer);
    let ends = parts.iter().flat_map(|p| p.boundary.inputs.iter().chain(&p.boundary.outputs));
    let mut kept = Kept { wanted: ends.copied().collect(), bytes: BTreeMap::new() };
    let given = inputs(&graph, block)?;
    for (&v, value) in graph.inputs.iter().zip(&given) {
        if let Value::Tensor(t) = value {
            kept.bytes.insert(v, (t.dtype(), t.bytes().to_vec()));
        }
    }
    let options = SessionOptions::with_threads(default_threads());
    let mut session = Session::new(Arc::new(module.clone()), &options)?;
    session.run_watched(PREFILL_FORWARD, &given.iter().map(Value::as_ref).collect::<Vec<_>>(), &mut kept)?;
    narrow(&mut module);
    let graph = prefill(&module)?;
    // 16-bit codes, which were 32-bit ones on the CPU.
    let bytes = |v: ValueId| -> Res<Vec<u8>> {
        let (found, bytes) = kept.bytes.get(&v).ok_or("a value was not computed")?;
        let to = graph.ty(v).as_tensor().map(|t| t.dtype);
        Ok(match (found, to) {
            (DType::I32, Some(DType::U16)) => bytes.chunks_exact(4).flat_map(|c| [c[0], c[1]]).collect(),
            _ => bytes.clone(),
        })
    };
    let mut out = io::stdout().lock();
    writeln!(out, "largest      mean       rms   differ  rms/signal  what")?;
    for some in parts.chunks(AT_ONCE) {
        let mut graphs = Vec::new();
        for (i, p) in some.iter().enumerate() {
            let lowered = lower(&module, graph, &p.nodes, &p.boundary, LinearForm::default());
            graphs.push(pteron::qnn::graph::QnnGraph { name: format!("g{i}"), ..lowered.graph });
        }
        let composed = library.compose(&graphs, &ComposeOptions::new(soc), &mut |_| {})?;
        let (context, info) = library.load(composed.binary(), Some(soc))?;
        for (i, p) in some.iter().enumerate() {
            let name = format!("g{i}");
            let found = info.graph(&name).ok_or("a graph is gone")?;
            let place = |t: &TensorInfo| parse_input(&t.name).and_then(|n| n.input).map_or(0, |i| i as usize);
            let ins: Vec<Vec<u8>> =
                found.inputs.iter().map(|t| bytes(p.boundary.inputs[place(t)])).collect::<Res<_>>()?;
            let size = |t: &TensorInfo| usize::try_from(t.bytes().unwrap_or(0)).unwrap_or(0);
            let mut outs: Vec<Vec<u8>> = found.outputs.iter().map(|t| vec![0; size(t)]).collect();
            let given: Vec<&[u8]> = ins.iter().map(Vec::as_slice).collect();
            let mut taken: Vec<&mut [u8]> = outs.iter_mut().map(Vec::as_mut_slice).collect();
            library.execute(context, &name, &given, &mut taken, ProfileLevel::Off)?;
            for ((t, out_bytes), &v) in found.outputs.iter().zip(&outs).zip(&p.boundary.outputs) {
                let row = differences(t, out_bytes, &bytes(v)?);
                writeln!(out, "{row}  {} {:?}", p.name, t.dims)?;
            }
        }
        library.unload(context)?;
    }
    Ok(())
}

fn numbers(t: &TensorInfo, bytes: &[u8]) -> Vec<f64> {
    match t.dtype.bits() {
        8 => bytes.iter().map(|b| f64::from(*b)).collect(),
        16 => bytes.as_chunks().0.iter().map(|b| f64::from(u16::from_le_bytes(*b))).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect(),
    }
}

/// Largest, mean and root mean square of what the library gives more than the CPU, the share that differs, and the root mean
/// square over that of the CPU's numbers.
fn differences(t: &TensorInfo, found: &[u8], expected: &[u8]) -> String {
    let (found, expected) = (numbers(t, found), numbers(t, expected));
    let zero = match &t.encoding {
        Encoding::ScaleOffset(s) => f64::from(-s.offset),
        _ => 0.0,
    };
    let n = found.len().max(1) as f64;
    let d: Vec<f64> = found.iter().zip(&expected).map(|(a, b)| a - b).collect();
    let rms = |sum: f64| (sum / n).sqrt();
    let largest = d.iter().fold(0f64, |m, d| m.max(d.abs()));
    let differ = d.iter().filter(|d| **d != 0.0).count() as f64 / n;
    let (error, signal) = (rms(d.iter().map(|d| d * d).sum()), rms(expected.iter().map(|e| (e - zero).powi(2)).sum()));
    let mean = d.iter().sum::<f64>() / n;
    format!("{largest:7.1} {mean:9.3} {error:9.3} {differ:8.3} {:11.2e}", error / signal.max(f64::MIN_POSITIVE))
}

fn maker(graph: &Graph, v: ValueId) -> Option<NodeId> {
    if let Def::Node(n, _) = graph.values[v].def { Some(n) } else { None }
}

/// The constant that a node dequantizes.
fn constant(graph: &Graph, n: NodeId) -> Option<ConstId> {
    match graph.nodes[n].args.first() {
        Some(Arg::Value(v)) if graph.nodes[n].op.is_dequantize() => match graph.values[*v].def {
            Def::Const(c) => Some(c),
            _ => None,
        },
        _ => None,
    }
}

/// Operators that floats join, each with the conversions around it; or all of a decoder layer.
fn parts(graph: &Graph, by_layer: bool) -> Vec<Part> {
    let body = &graph.body().nodes;
    let converts = |n: NodeId| graph.nodes[n].op == Op::QuantizePerTensor || graph.nodes[n].op.is_dequantize();
    let mut groups: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    let mut group_of: BTreeMap<NodeId, String> = BTreeMap::new();
    for (at, &n) in body.iter().enumerate().filter(|(_, n)| !converts(**n)) {
        let node = &graph.nodes[n];
        let path = graph.paths.get(node.path).map_or("", |p| p.as_ref());
        let own = match by_layer {
            true => path.split('.').take(3).collect::<Vec<_>>().join("."),
            false => format!("{at:05} {} of {path}", node.op),
        };
        let joined = graph.reads(n).into_iter().find_map(|v| group_of.get(&maker(graph, v)?).cloned());
        let key = joined.filter(|_| !by_layer).unwrap_or(own);
        group_of.insert(n, key.clone());
        groups.entry(key).or_default().push(n);
    }
    let with_conversions = |(name, nodes): (String, Vec<NodeId>)| {
        let own: BTreeSet<NodeId> = nodes.iter().copied().collect();
        let made_by = |n: NodeId| graph.reads(n).into_iter().filter_map(|v| maker(graph, v)).collect::<Vec<_>>();
        let read: BTreeSet<NodeId> = nodes.iter().flat_map(|&n| made_by(n)).collect();
        let in_part = |n: NodeId| {
            let before = graph.nodes[n].op.is_dequantize() && constant(graph, n).is_none() && read.contains(&n);
            let behind = graph.nodes[n].op == Op::QuantizePerTensor && made_by(n).iter().any(|m| own.contains(m));
            own.contains(&n) || before || behind
        };
        let nodes: Vec<NodeId> = body.iter().copied().filter(|&n| in_part(n)).collect();
        let boundary = boundary(graph, &nodes);
        Part { name, nodes, boundary }
    };
    let mut parts: Vec<Part> = groups.into_iter().map(with_conversions).collect();
    // From integers to integers of another scale.
    let of_integers = |n: NodeId| {
        let from = graph.reads(n).into_iter().find_map(|v| maker(graph, v))?;
        let again = graph.nodes[n].op == Op::QuantizePerTensor && graph.nodes[from].op.is_dequantize();
        let path = graph.paths.get(graph.nodes[n].path).map_or("", |p| p.as_ref());
        let nodes = vec![from, n];
        again.then(|| Part { name: format!("conversion of {path}"), boundary: boundary(graph, &nodes), nodes })
    };
    if !by_layer {
        parts.extend(body.iter().copied().filter_map(of_integers));
    }
    parts.retain(|p| !p.boundary.outputs.is_empty());
    parts
}

fn boundary(graph: &Graph, nodes: &[NodeId]) -> Boundary {
    let inside: BTreeSet<NodeId> = nodes.iter().copied().collect();
    let mut b = Boundary::default();
    let put = |list: &mut Vec<ValueId>, v: ValueId| {
        if !list.contains(&v) {
            list.push(v);
        }
    };
    for v in nodes.iter().flat_map(|&n| graph.reads(n)) {
        let from_outside = match graph.values[v].def {
            Def::Const(_) => false,
            Def::Node(m, _) => !inside.contains(&m) && constant(graph, m).is_none(),
            Def::Input(_) | Def::Param(..) | Def::Buffer(_) => true,
        };
        if from_outside {
            put(&mut b.inputs, v);
        }
    }
    let outside = graph.all_nodes().into_iter().filter(|n| !inside.contains(n)).flat_map(|n| graph.reads(n));
    for v in outside.chain(graph.outputs().iter().copied()) {
        if maker(graph, v).is_some_and(|m| inside.contains(&m) && !graph.nodes[m].op.is_dequantize()) {
            put(&mut b.outputs, v);
        }
    }
    b
}

/// The logits of blocks of text, one after the other, and what `change` makes of the weights' scales before.
fn logits(module: &Module, blocks: &[&[u32]], share: f64) -> Res<Vec<f32>> {
    let mut module = module.clone();
    let mut of_weights = BTreeSet::new();
    for graph in &module.graphs {
        for n in graph.all_nodes().into_iter().filter(|&n| graph.nodes[n].op == Op::DequantizePerChannel) {
            if let Some(Arg::Value(v)) = graph.nodes[n].args.get(1)
                && let Def::Const(c) = graph.values[*v].def
            {
                of_weights.insert(c);
            }
        }
    }
    // Xorshift: which way each scale goes.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for c in of_weights {
        let ConstData::Source(source) = &module.constants[c].data else { continue };
        let bytes = read_all(source.as_ref())?;
        let mut factor = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 0 { 1.0 + share } else { 1.0 - share }
        };
        let changed: SharedSource = match source.dtype() {
            DType::F64 => {
                let scales: Vec<f64> = bytemuck::pod_collect_to_vec(&bytes);
                let scales: Vec<f64> = scales.into_iter().map(|s| s * factor()).collect();
                Arc::new(MemorySource::of("scales", source.shape(), &scales)?)
            }
            DType::F32 => {
                let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
                let scales: Vec<f32> = scales.into_iter().map(|s| (f64::from(s) * factor()) as f32).collect();
                Arc::new(MemorySource::of("scales", source.shape(), &scales)?)
            }
            other => return Err(format!("scales of {other} are not known here").into()),
        };
        module.constants[c].data = ConstData::Source(changed);
    }
    let graph = prefill(&module)?.clone();
    let mut session = Session::new(Arc::new(module), &SessionOptions::with_threads(default_threads()))?;
    let mut out = Vec::new();
    for block in blocks {
        let given = inputs(&graph, block)?;
        let given: Vec<ValueRef<'_>> = given.iter().map(Value::as_ref).collect();
        let outputs = session.run(PREFILL_FORWARD, &given)?;
        let logits = outputs.tensor(0).ok_or("there are no logits")?;
        out.extend(logits.to_f64_vec().into_iter().map(|l| l as f32));
    }
    Ok(out)
}

fn scales(module: &Module, blocks: &[&[u32]]) -> Res<()> {
    let ctx = Context::new(default_threads());
    let reference = logits(module, blocks, 0.0)?;
    let next: Vec<u32> = blocks.concat();
    let vocab = reference.len().checked_div(next.len()).filter(|v| *v > 0).ok_or("the text has less than one block")?;
    let mut out = io::stdout().lock();
    writeln!(out, "share    same top  largest/range median  worst        KL  ({} positions)", next.len())?;
    for share in [1e-7, 1e-6, 1e-5, 1e-4] {
        let changed = logits(module, blocks, share)?;
        let positions = measure_rows(&ctx, &changed, Some(&reference), vocab, &next)
            .map_err(|row| format!("row {row} has what is no number"))?;
        let n = positions.len() as f64;
        let mean = |f: &dyn Fn(&Position) -> f64| positions.iter().map(f).sum::<f64>() / n;
        let apart = |(a, b): (&[f32], &[f32])| {
            let (low, high) = a.iter().fold((f32::MAX, f32::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
            a.iter().zip(b).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / (high - low)
        };
        let mut rows: Vec<f32> = reference.chunks_exact(vocab).zip(changed.chunks_exact(vocab)).map(apart).collect();
        rows.sort_by(f32::total_cmp);
        let (same, kl) = (mean(&|p| f64::from(u8::from(p.same_top))), mean(&|p| p.kl));
        let (median, worst) = (rows[rows.len() / 2], rows[rows.len() - 1]);
        writeln!(out, "{share:<7.0e} {same:9.3} {median:21.4} {worst:6.4} {kl:9.2e}")?;
    }
    Ok(())
}
