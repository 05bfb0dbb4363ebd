//! Calibration: texts run through a captured model under the eyes of observers, and what that was worth.

mod data;
mod gate;
pub(crate) mod hash;
mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_exec::{ExecError, NodeHook, QuantSemantics, Session, SessionOptions, Value, ValueRef};
use pteron_ir::Module;
use pteron_kernels::Context;
use pteron_models::{CALIBRATE_FORWARD, MASKED};
use pteron_quant::kv_cache::KvCacheHook;
use pteron_quant::moments::{Moments, MomentsHook};
use pteron_quant::pt2e::{Calibration, PreparedGraph, RoundedRun};
use pteron_tensor::Tensor;

use crate::error::Error;
use crate::host;

pub(crate) use data::begins;
pub use data::{CalibrationData, DEFAULT_WINDOW, DEFAULT_WINDOWS, DataOptions, HELD_BACK, MAX_DATA_BYTES, Purpose};
pub use gate::{DEFAULT_MAX_KL, EvaluationOptions, ExportEvaluation};
pub(crate) use gate::{Probe, Recorded, compare, measure, record};
pub use hash::{FileHash, hex};
pub use state::{MAX_STATE_BYTES, merge, read_state, write_state};

/// Most bytes of products of inputs that are gathered at once.
const MAX_GRAM_BYTES: u64 = 32 << 30;

/// Where the ranges of activations come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CalibrationOptions {
    /// Texts to run.
    pub data: DataOptions,
    /// A state file that a calibration wrote; no text is run then.
    pub state: Option<PathBuf>,
}

impl CalibrationOptions {
    /// True if neither texts nor a state are given.
    pub fn is_none(&self) -> bool {
        self.data.files.is_empty() && self.state.is_none()
    }
}

/// What a quantized model was calibrated with.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CalibrationReport {
    /// Names of the files, without folders; empty where a state file was read.
    pub files: Vec<String>,
    /// SHA-256 of the files' bytes, one file after the other.
    pub sha256: String,
    /// Tokens that observers saw.
    pub tokens: u64,
    /// Windows, each one step of every observer.
    pub windows: u64,
    /// Tokens of a window.
    pub window: usize,
    /// Observers of activations.
    pub observers: usize,
    /// The instruction set that computed the activations.
    pub kernel_tier: String,
}

impl CalibrationReport {
    /// Of a run over all of `data` on this machine.
    pub(crate) fn of(data: &CalibrationData, observers: usize) -> CalibrationReport {
        CalibrationReport {
            files: data.names.clone(),
            sha256: hex(&data.sha256),
            tokens: data.tokens(),
            windows: data.windows.len() as u64,
            window: data.window,
            observers,
            kernel_tier: host::instruction_set(),
        }
    }
}

/// Which passes over the data are made, for histograms whose range is fixed before they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passes {
    /// Both: the ranges, then the counts.
    Both,
    /// One: histograms that have their range count, others find it.
    One,
}

/// Inputs of static Llama's calibration graph: tokens, a causal mask, that of a sliding window where layers have one, positions.
fn static_inputs(tokens: &[u32], window: Option<usize>) -> Result<Vec<Value>, pteron_tensor::ViewError> {
    let n = tokens.len();
    let ids: Vec<i32> = tokens.iter().map(|&t| i32::try_from(t).unwrap_or(i32::MAX)).collect();
    let mask = |window: usize| -> Result<Value, pteron_tensor::ViewError> {
        let seen = |row: usize, column: usize| column <= row && row - column < window;
        let mask: Vec<f32> = (0..n * n).map(|i| if seen(i / n, i % n) { 0.0 } else { MASKED }).collect();
        Ok(Value::Tensor(Tensor::of(&[1, 1, n, n], &mask)?))
    };
    let positions: Vec<i32> = (0..n).map(|i| i32::try_from(i).unwrap_or(i32::MAX)).collect();
    let mut inputs = vec![Value::Tensor(Tensor::of(&[1, n], &ids)?), mask(n)?];
    inputs.extend(window.map(mask).transpose()?);
    inputs.push(Value::Tensor(Tensor::of(&[1, n], &positions)?));
    Ok(inputs)
}

/// A float module with windows to run through it.
pub(crate) struct Feed<'a> {
    /// What messages call the model.
    pub(crate) path: &'a Path,
    /// The module; its first graph is run.
    pub(crate) module: &'a Module,
    /// The windows.
    pub(crate) windows: &'a [Vec<u32>],
    /// Threads.
    pub(crate) threads: usize,
}

impl Feed<'_> {
    fn failed(&self, e: ExecError) -> Error {
        Error::Exec { path: self.path.to_owned(), source: Box::new(e) }
    }

    fn session(&self, module: &Module, quant: QuantSemantics, ctx: &Arc<Context>) -> Result<Session, Error> {
        let mut options = SessionOptions { quant, ..SessionOptions::with_threads(self.threads) };
        // Windows of tokens gain little, and float weights stay in their files.
        options.lay_out_weights = false;
        options.max_memory = host::physical_memory().unwrap_or(u64::MAX);
        Session::on_context(Arc::new(module.clone()), &options, Arc::clone(ctx)).map_err(|e| self.failed(e))
    }

    /// Inputs of a window: its tokens and, with a cache, the position of the first.
    fn inputs(&self, tokens: &[u32]) -> Result<Vec<Value>, Error> {
        let wrong = |e: pteron_tensor::ViewError| Error::Calibration { reason: e.to_string() };
        if self.module.graphs.first().is_some_and(|g| g.name == CALIBRATE_FORWARD) {
            let window = crate::static_llama::window(self.module);
            return static_inputs(tokens, window).map_err(wrong);
        }
        let ids: Vec<i64> = tokens.iter().map(|&t| i64::from(t)).collect();
        let mut inputs = vec![Value::Tensor(Tensor::of(&[1, ids.len()], &ids).map_err(wrong)?)];
        if self.module.graphs.first().is_some_and(|g| g.inputs.len() > 1) {
            inputs.push(Value::Tensor(Tensor::of(&[1], &[0i64]).map_err(wrong)?));
        }
        Ok(inputs)
    }

    /// Runs every window through the module, one step of every observer each. Where observers stand in fake-quantize modules, what
    /// is run rounds as they do.
    pub(crate) fn observe(
        &self,
        prepared: &mut PreparedGraph,
        passes: Passes,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), Error> {
        let ctx = Arc::new(Context::new(self.threads));
        let total = self.windows.len();
        let mut tell = |done| progress(done, total);
        let failed = |e: pteron_quant::pt2e::QuantizeError| Error::Calibration { reason: e.to_string() };
        if let Some(mut rounded) = RoundedRun::of(self.module, prepared).map_err(failed)? {
            let mut session = self.session(rounded.module(), QuantSemantics::Eager, &ctx)?;
            let wrong = |e: pteron_tensor::ViewError| Error::Calibration { reason: e.to_string() };
            for (i, tokens) in self.windows.iter().enumerate() {
                let mut inputs = self.inputs(tokens)?;
                inputs.extend(rounded.inputs().map_err(wrong)?);
                self.step(&mut session, &ctx, rounded.prepared_mut(), false, &inputs)?;
                tell(i + 1);
            }
            rounded.finish(prepared);
            return Ok(());
        }
        let mut session = self.session(self.module, QuantSemantics::default(), &ctx)?;
        self.pass(&mut session, &ctx, prepared, false, &mut tell)?;
        let observed = |e: pteron_quant::ObserveError| Error::Calibration { reason: e.to_string() };
        if passes == Passes::Both && prepared.fix_ranges().map_err(observed)? {
            tell(0);
            self.pass(&mut session, &ctx, prepared, true, &mut tell)?;
        }
        Ok(())
    }

    fn pass(
        &self,
        session: &mut Session,
        ctx: &Context,
        prepared: &mut PreparedGraph,
        counting: bool,
        progress: &mut dyn FnMut(usize),
    ) -> Result<(), Error> {
        for (i, tokens) in self.windows.iter().enumerate() {
            self.step(session, ctx, prepared, counting, &self.inputs(tokens)?)?;
            progress(i + 1);
        }
        Ok(())
    }

    /// One call of the first graph under the eyes of the observers.
    fn step(
        &self,
        session: &mut Session,
        ctx: &Context,
        prepared: &mut PreparedGraph,
        counting: bool,
        inputs: &[Value],
    ) -> Result<(), Error> {
        let module = Arc::clone(session.module());
        let Some(graph) = module.graphs.first() else { return Ok(()) };
        let observed = |e: pteron_quant::ObserveError| Error::Calibration { reason: e.to_string() };
        session.reset().map_err(|e| self.failed(e))?;
        let mut hook = Calibration::new(prepared).on_threads(ctx);
        if counting {
            hook = hook.counting();
        }
        hook.inputs(graph, inputs).map_err(observed)?;
        let given: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
        session.run_watched(&graph.name, &given, &mut hook).map_err(|e| self.failed(e))?;
        hook.finish().map_err(observed)
    }

    /// Means and mean squares of the inputs of linear layers, and products of their columns for the weights that `grams` names.
    pub(crate) fn moments(
        &self,
        grams: &dyn Fn(&str) -> bool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Moments, Error> {
        let Some(graph) = self.module.graphs.first() else { return Ok(Moments::default()) };
        let ctx = Arc::new(Context::new(self.threads));
        let (mut hook, bytes) = MomentsHook::new(self.module, graph).with_grams(self.module, &ctx, grams);
        if bytes > MAX_GRAM_BYTES {
            return Err(Error::Calibration {
                reason: format!(
                    "the algorithm gptq would hold {} GiB of products of inputs, and {} GiB are the most that are held: give \
                     some layers another weight-algorithm with the rules of a --recipe",
                    bytes >> 30,
                    MAX_GRAM_BYTES >> 30
                ),
            });
        }
        self.watch(&mut hook, progress)?;
        Ok(hook.finish())
    }

    /// The scales of a static cache, by the caches' names.
    pub(crate) fn kv_scales(
        &self,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<BTreeMap<String, Vec<f32>>, Error> {
        let Some(graph) = self.module.graphs.first() else { return Ok(BTreeMap::new()) };
        let mut hook = KvCacheHook::new(self.module, graph);
        self.watch(&mut hook, progress)?;
        hook.finish().map_err(|e| Error::Calibration { reason: e.to_string() })
    }

    /// Runs every window through the first graph, from an empty cache, under the eyes of `hook`.
    fn watch(&self, hook: &mut dyn NodeHook, progress: &mut dyn FnMut(usize, usize)) -> Result<(), Error> {
        let ctx = Arc::new(Context::new(self.threads));
        let mut session = self.session(self.module, QuantSemantics::default(), &ctx)?;
        let Some(graph) = self.module.graphs.first() else { return Ok(()) };
        for (i, tokens) in self.windows.iter().enumerate() {
            session.reset().map_err(|e| self.failed(e))?;
            let inputs = self.inputs(tokens)?;
            let given: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
            session.run_watched(&graph.name, &given, hook).map_err(|e| self.failed(e))?;
            progress(i + 1, self.windows.len());
        }
        Ok(())
    }
}
