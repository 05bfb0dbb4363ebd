//! A module that is ready to run.

use std::sync::Arc;

use pteron_ir::{ConstId, DelegateId, IdMap, Module};
use pteron_kernels::matmul::Panels;
use pteron_kernels::quant::QuantSemantics;
use pteron_kernels::{Context, Threads};
use pteron_tensor::AlignedBytes;

use crate::constants::{Constants, Need, bytes_to_decode, in_memory_order};
use crate::delegate::{DelegateInstance, Delegates};
use crate::error::ExecError;
use crate::fold::Folder;
use crate::frame::Frame;
use crate::fuel::Fuel;
use crate::hook::{NoHook, NodeHook};
use crate::plan::{MethodPlan, StateLayout};
use crate::run::Run;
use crate::value::{Outputs, ValueRef};

/// How a session works.
#[derive(Debug)]
pub struct SessionOptions {
    /// How many threads, and where they run.
    pub threads: Threads,
    /// Most memory that the program may declare, in bytes: activations, state, constants that must be decoded, and what
    /// backends hold.
    pub max_memory: u64,
    /// Element operations that one run may execute, as [`Fuel`] counts them; `None` for no limit.
    pub fuel: Option<u64>,
    /// The backends it may use.
    pub delegates: Delegates,
    /// Methods to prepare; empty for all.
    pub methods: Vec<String>,
    /// Operator calls after which a run is taken not to end; ExecuTorch's own limit is ten million instructions.
    pub max_steps: u64,
    /// What the operators of `quantized_decomposed` compute where PyTorch's and ExecuTorch's differ.
    pub quant: QuantSemantics,
    /// Weights that are codes are made ready once, when the session is made: packed where linear layers read them, else
    /// dequantized; otherwise they are dequantized at every call, and products are those of floats.
    pub fold_weights: bool,
    /// Weights of bf16 are copied, once, in the order in which linear layers read them, where the processor multiplies pairs of
    /// bf16 and `max_memory` has room. Of a mapped file the pages are given back.
    pub lay_out_weights: bool,
}

impl SessionOptions {
    /// ExecuTorch's limit of instructions in one run.
    pub const MAX_STEPS: u64 = 10_000_000;

    /// `threads` threads, no limit on memory and work, no backends, all methods.
    pub fn with_threads(threads: usize) -> SessionOptions {
        SessionOptions::on(Threads::of(threads))
    }

    /// [`SessionOptions::with_threads`], with threads that run where `threads` says.
    pub fn on(threads: Threads) -> SessionOptions {
        SessionOptions {
            threads,
            max_memory: u64::MAX,
            fuel: None,
            delegates: Delegates::none(),
            methods: Vec::new(),
            max_steps: SessionOptions::MAX_STEPS,
            quant: QuantSemantics::ExecuTorch,
            fold_weights: true,
            lay_out_weights: true,
        }
    }
}

/// Where a session's memory goes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Activations: one arena for all methods.
    pub arena: u64,
    /// Mutable buffers.
    pub state: u64,
    /// Constants decoded into memory, beside those that are read where they lie.
    pub decoded_constants: u64,
    /// What backends hold: their own working memory, state and constants.
    pub delegates: u64,
}

impl MemoryReport {
    /// The sum.
    pub fn total(&self) -> u64 {
        [self.arena, self.state, self.decoded_constants, self.delegates].into_iter().fold(0, u64::saturating_add)
    }

    fn check(self, allowed: u64) -> Result<(), ExecError> {
        let needed = self.total();
        if needed > allowed { Err(ExecError::MemoryLimit { declared: self, needed, allowed }) } else { Ok(()) }
    }
}

struct Method {
    graph: usize,
    plan: MethodPlan,
    frame: Frame,
}

/// A module with its constants, its state and a thread pool. Buffers keep their contents from call to call, and all methods
/// share them.
pub struct Session {
    module: Arc<Module>,
    methods: Vec<Method>,
    constants: Constants,
    delegates: IdMap<DelegateId, Option<Box<dyn DelegateInstance>>>,
    layout: StateLayout,
    state: AlignedBytes,
    arena: AlignedBytes,
    ctx: Arc<Context>,
    max_steps: u64,
    quant: QuantSemantics,
    fuel: Option<u64>,
    /// A method has run since buffers had what they hold before the first call.
    used: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("module", &self.module.name)
            .field("memory", &self.memory())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Plans the methods of `module`, resolves what they need and allocates their memory.
    ///
    /// # Errors
    /// [`ExecError`] if an operator has no kernel, a constant no data, a size no bound, a delegate no backend, or the memory
    /// goes past the limit. Nothing large is allocated before all that is known.
    pub fn new(module: Arc<Module>, options: &SessionOptions) -> Result<Session, ExecError> {
        let ctx = Arc::new(Context::on(&options.threads));
        Session::on_context(module, options, ctx)
    }

    /// [`Session::new`], on threads that others use as well; `options.threads` is not looked at.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn on_context(module: Arc<Module>, options: &SessionOptions, ctx: Arc<Context>) -> Result<Session, ExecError> {
        let layout = StateLayout::of(&module)?;
        let known = || module.graphs.iter().map(|g| g.name.clone()).collect::<Vec<_>>();
        if let Some(name) = options.methods.iter().find(|m| module.graph(m).is_none()) {
            return Err(ExecError::UnknownMethod { name: name.clone(), known: known() });
        }
        let mut methods = Vec::new();
        let mut folder = Folder::default();
        let mut needs = pteron_ir::SideTable::new(Need::Unused);
        for (i, graph) in module.graphs.iter().enumerate() {
            if !options.methods.is_empty() && !options.methods.contains(&graph.name) {
                continue;
            }
            let plan = MethodPlan::new(graph, &layout, options.fold_weights.then_some(&mut folder))?;
            plan.note_constants(graph, &mut |c, need| needs[c] = need.max(needs[c]));
            methods.push(Method { graph: i, plan, frame: Frame::new(graph) });
        }
        for (_, b) in module.buffers.iter() {
            if let Some(c) = b.init {
                needs[c] = Need::Running;
            }
        }
        let arena_bytes = methods.iter().map(|m| m.plan.arena_bytes).max().unwrap_or(0);
        let mut declared = MemoryReport {
            arena: arena_bytes as u64,
            state: layout.total as u64,
            decoded_constants: bytes_to_decode(&module, &|c: ConstId| needs[c]).saturating_add(folder.bytes()),
            delegates: 0,
        };
        declared.check(options.max_memory)?;
        let mut constants = Constants::resolve(&module, &|c: ConstId| needs[c])?;
        let failed = |reason| ExecError::Constant { name: "a weight made of codes".to_owned(), reason };
        constants.fold(&ctx, options.quant, folder).map_err(failed)?;
        if options.lay_out_weights && Panels::are_used_by(&ctx) {
            let mut weights: Vec<ConstId> = methods.iter().flat_map(|m| m.plan.bf16_weights()).collect();
            weights.sort_unstable();
            weights.dedup();
            let size = |&c: &ConstId| match module.constants[c].ty.fixed_sizes().as_deref() {
                Some(&[n, k]) => Panels::bytes_for(n, k).map_or(u64::MAX, |b| b as u64),
                _ => 0,
            };
            let all = weights.iter().map(size).fold(0, u64::saturating_add);
            // Who has no room for them does without.
            let with = MemoryReport { decoded_constants: declared.decoded_constants.saturating_add(all), ..declared };
            if with.check(options.max_memory).is_ok() {
                constants.lay_out(&ctx, &module, &weights);
                declared = with;
            }
        }
        let mut delegates = IdMap::new();
        for (id, d) in module.delegates.iter() {
            let called = methods.iter().any(|m| {
                let g = &module.graphs[m.graph];
                g.all_nodes().iter().any(|&n| g.nodes[n].extra == pteron_ir::Extra::Delegate(id))
            });
            if !called {
                delegates.push(None);
                continue;
            }
            let wrap = |reason| ExecError::Delegate { backend: d.backend.to_string(), reason };
            let room = options.max_memory.saturating_sub(declared.total());
            let instance = options.delegates.prepare(d, &ctx, room).map_err(wrap)?;
            declared.delegates = declared.delegates.saturating_add(instance.memory());
            declared.check(options.max_memory)?;
            delegates.push(Some(instance));
        }
        let mut session = Session {
            methods,
            constants,
            delegates,
            state: AlignedBytes::zeroed(layout.total),
            arena: AlignedBytes::zeroed(arena_bytes),
            layout,
            ctx,
            max_steps: options.max_steps,
            quant: options.quant,
            fuel: options.fuel,
            used: false,
            module,
        };
        session.initialize()?;
        Ok(session)
    }

    /// The module.
    pub fn module(&self) -> &Arc<Module> {
        &self.module
    }

    /// Names of the methods that can be run.
    pub fn methods(&self) -> Vec<&str> {
        self.methods.iter().map(|m| self.module.graphs[m.graph].name.as_str()).collect()
    }

    /// The threads that it runs on.
    pub fn context(&self) -> &Context {
        &self.ctx
    }

    /// Where the memory goes.
    pub fn memory(&self) -> MemoryReport {
        MemoryReport {
            arena: self.arena.len() as u64,
            state: self.state.len() as u64,
            decoded_constants: self.constants.owned_bytes(),
            delegates: self.delegates.values().flatten().map(|d| d.memory()).fold(0, u64::saturating_add),
        }
    }

    /// Gives every buffer what it holds before the first call, those that backends keep as well.
    ///
    /// # Errors
    /// [`ExecError::Source`] if an initial value cannot be read.
    pub fn reset(&mut self) -> Result<(), ExecError> {
        // Zeros over zeros would take memory for all of a cache.
        if std::mem::take(&mut self.used) {
            self.state.fill(0);
        }
        self.initialize()
    }

    /// Writes the initial values of buffers that have one over zeros. Caches have none: their pages are not touched before
    /// they are used.
    fn initialize(&mut self) -> Result<(), ExecError> {
        for (id, b) in self.module.buffers.iter() {
            let range = self.layout.ranges[id].clone();
            let to = &mut self.state[range];
            if let Some(c) = b.init
                && let pteron_ir::ConstData::Source(s) = &self.module.constants[c].data
            {
                let bytes = in_memory_order(&b.ty, s)?;
                let n = bytes.len().min(to.len());
                to[..n].copy_from_slice(&bytes[..n]);
            }
        }
        self.delegates.iter_mut().filter_map(|(_, d)| d.as_mut()).for_each(|d| d.reset());
        Ok(())
    }

    /// Runs a method. The results lie in the session's memory until the next call.
    ///
    /// # Errors
    /// [`ExecError`] if the inputs do not fit or a node cannot be executed; buffers may then hold a mixture of old and new.
    pub fn run<'s>(&'s mut self, method: &str, inputs: &'s [ValueRef<'s>]) -> Result<Outputs<'s>, ExecError> {
        self.run_watched(method, inputs, &mut NoHook)
    }

    /// [`Session::run`], with a hook around every node.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_watched<'s>(
        &'s mut self,
        method: &str,
        inputs: &'s [ValueRef<'s>],
        hook: &mut dyn NodeHook,
    ) -> Result<Outputs<'s>, ExecError> {
        self.run_fuelled(method, inputs, hook, &mut Fuel::new(self.fuel))
    }

    /// [`Session::run_watched`], on the fuel of a caller who has paid for other things as well.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_fuelled<'s>(
        &'s mut self,
        method: &str,
        inputs: &'s [ValueRef<'s>],
        hook: &mut dyn NodeHook,
        fuel: &mut Fuel,
    ) -> Result<Outputs<'s>, ExecError> {
        let module = &self.module;
        let names = |m: &Method| module.graphs[m.graph].name.clone();
        let Some(at) = self.methods.iter().position(|m| module.graphs[m.graph].name == method) else {
            return Err(ExecError::UnknownMethod {
                name: method.to_owned(),
                known: self.methods.iter().map(names).collect(),
            });
        };
        self.used = true;
        let m = &mut self.methods[at];
        let run = Run {
            graph: &module.graphs[m.graph],
            plan: &m.plan,
            frame: &mut m.frame,
            constants: &self.constants,
            delegates: &mut self.delegates,
            layout: &self.layout,
            state: &mut self.state,
            arena: &mut self.arena,
            inputs,
            ctx: &self.ctx,
            quant: self.quant,
            steps_left: self.max_steps,
            max_steps: self.max_steps,
            fuel,
        };
        run.execute(hook)
    }
}
