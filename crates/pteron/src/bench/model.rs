//! Prefill and decode of a text program beside the machine's limits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pteron_exec::{NoHook, NodeHook, OperatorTotal, Profiler, Span};
use pteron_llm::chat::DateTime;
use pteron_llm::runner::TextDecoder;

use super::machine::{DEFAULT_READ_MIB, Limits, Reader, limits};
use super::work::{Work, WorkCounter};
use super::{mean, stddev};
use crate::error::Error;
use crate::host::{self, MemorySampler, MemoryUse};
use crate::program::{LoadMode, LoadOptions, ProgramFile};
use crate::text::ProgramDecoder;

/// What is measured of a model.
#[derive(Debug, Clone)]
pub struct ModelPlan {
    /// Lengths of prompts; 0 for none.
    pub n_prompt: Vec<usize>,
    /// Tokens that are decoded one by one; 0 for none.
    pub n_gen: Vec<usize>,
    /// Tokens that are in the cache before.
    pub n_depth: Vec<usize>,
    /// Numbers of threads, each with a load of its own.
    pub threads: Vec<usize>,
    /// The processors that they run on; empty for those that [`host::threads`] takes.
    pub cpus: Vec<usize>,
    /// Times that each figure is measured, after a warm-up.
    pub repeat: usize,
    /// Method that is called.
    pub method: String,
    /// How the program's bytes are reached.
    pub mode: LoadMode,
    /// Files of external constants.
    pub data: Vec<PathBuf>,
    /// MiB of the buffer that stands for memory; `None` for one of the bytes that a token touches.
    pub read_mib: Option<usize>,
    /// Whether the time of each kind of operator is taken, after all else.
    pub profile: bool,
    /// Most memory in bytes that the program may declare; all the machine has if `None`.
    pub max_memory: Option<u64>,
    /// Most element operations of one call; no limit if `None`.
    pub max_operations: Option<u64>,
    /// [`LoadOptions::qnn_sdk`].
    pub qnn_sdk: Option<PathBuf>,
}

/// A prompt, or tokens one by one, measured some times. Fields that llama-bench has are named as there.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Test {
    /// Tokens of the prompt; 0 where tokens are decoded.
    pub n_prompt: usize,
    /// Tokens decoded; 0 for a prompt.
    pub n_gen: usize,
    /// Tokens in the cache before.
    pub n_depth: usize,
    /// When it was measured, in UTC.
    pub test_time: String,
    /// Mean of the times, in nanoseconds.
    pub avg_ns: u64,
    /// Their standard deviation.
    pub stddev_ns: u64,
    /// Mean of the speeds, in tokens a second.
    pub avg_ts: f64,
    /// Their standard deviation.
    pub stddev_ts: f64,
    /// Each time.
    pub samples_ns: Vec<u64>,
    /// Each speed.
    pub samples_ts: Vec<f64>,
    /// What the prompt needs, or the first token that is decoded.
    pub work: Work,
    /// Bytes that a token must read, on average; `None` for a prompt.
    pub bytes_per_token: Option<f64>,
    /// What was done in a second: 10⁹ operations for a prompt, 10⁹ bytes read for tokens; `None` if a delegate does some that
    /// are not known.
    pub achieved: Option<f64>,
    /// What the machine can do of that with the same threads: operations of the instruction that the products could use,
    /// bytes of memory.
    pub machine: f64,
    /// Unit of the two.
    pub unit: &'static str,
    /// The first by the second.
    pub share: Option<f64>,
}

impl Test {
    /// Its name as llama-bench writes it: `pp512`, `tg128 @ d512`.
    pub fn name(&self) -> String {
        let what = if self.n_gen > 0 { format!("tg{}", self.n_gen) } else { format!("pp{}", self.n_prompt) };
        if self.n_depth > 0 { format!("{what} @ d{}", self.n_depth) } else { what }
    }
}

/// Time of one kind of operator.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct OperatorTime {
    /// Name.
    pub operator: &'static str,
    /// Calls.
    pub calls: u64,
    /// Nodes of the graph that these executed: more than calls where several are one.
    pub nodes: u64,
    /// Milliseconds of all calls.
    pub milliseconds: f64,
    /// Part of the time of all operators.
    pub share: f64,
    /// Calls that were computed element by element, off the fast path.
    pub scalar: u64,
}

/// Where the time of some calls goes, the slowest operator first.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Profile {
    /// The test.
    pub test: String,
    /// Milliseconds of the calls, watched.
    pub milliseconds: f64,
    /// Operators.
    pub operators: Vec<OperatorTime>,
    /// The single calls.
    #[serde(skip)]
    pub spans: Vec<TraceSpan>,
}

/// One call of an operator.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceSpan {
    /// What was executed.
    pub span: Span,
    /// The module path that it came from.
    pub path: String,
}

/// What some threads do.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ThreadBench {
    /// Threads.
    pub n_threads: usize,
    /// The processors that they were put on, as a mask; empty if the system chooses.
    pub cpu_mask: String,
    /// What the machine can do: the better of the measurements before and after.
    pub limits: Limits,
    /// Seconds until the program can be called: opened, verified, lifted, planned, weights packed.
    pub load_seconds: f64,
    /// Seconds from there to the logits of the first prompt (of the shortest length asked for), nothing being warm but the
    /// pages of the file.
    pub first_token_seconds: Option<f64>,
    /// Tokens of that prompt.
    pub first_token_prompt: usize,
    /// Largest memory of the process through load and warm-up; `None` where the system does not tell.
    pub peak_memory: Option<MemoryUse>,
    /// What was measured.
    pub tests: Vec<Test>,
    /// Where the time goes, if that was asked for: a profile for each test.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<Profile>,
}

/// A model, measured.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModelBench {
    /// The program.
    pub path: PathBuf,
    /// Bytes of the program.
    pub file_bytes: u64,
    /// Elements of its constants.
    pub constant_elements: u64,
    /// Element types of its constants, that of most bytes first.
    pub constant_types: String,
    /// Element type of its caches.
    pub cache_type: String,
    /// By number of threads, in the order asked for.
    pub threads: Vec<ThreadBench>,
}

/// Measures a program with a KV cache.
///
/// Each figure is taken `repeat` times after a warm-up, on tokens that mean nothing: speed does not depend on them.
///
/// # Errors
/// [`Error`] naming the file: it cannot be loaded, is no text program with a KV cache, or holds fewer positions than asked
/// for.
pub fn model(path: &Path, plan: &ModelPlan) -> Result<ModelBench, Error> {
    let mut bench = ModelBench {
        path: path.to_owned(),
        file_bytes: 0,
        constant_elements: 0,
        constant_types: String::new(),
        cache_type: String::new(),
        threads: Vec::with_capacity(plan.threads.len()),
    };
    // Before anything is measured.
    Loaded::open(path, plan, 1)?.check(plan)?;
    let tests = tests(plan);
    for &threads in &plan.threads {
        let before = limits(threads, DEFAULT_READ_MIB);
        let sampler = MemorySampler::start();
        let start = Instant::now();
        let mut loaded = Loaded::open(path, plan, threads)?;
        let load_seconds = start.elapsed().as_secs_f64();
        let first = tests.iter().filter(|t| t.1 == 0).map(|t| t.0).min();
        let first_token_seconds = match first {
            Some(n) => {
                let start = Instant::now();
                loaded.feed(0, n, &mut NoHook)?;
                Some(start.elapsed().as_secs_f64())
            }
            None => None,
        };
        loaded.warm_up(&tests)?;
        let peak_memory = sampler.finish();
        let module = std::sync::Arc::clone(loaded.decoder.program().module());
        bench.file_bytes = loaded.file_bytes;
        bench.constant_elements = module.num_parameters();
        (bench.constant_types, bench.cache_type) = types(&module);
        let placed = loaded.decoder.program_mut().session().context().pool().threads();
        let cpus = host::threads(Some(threads), &plan.cpus).cpus;
        let mut done = Vec::new();
        for &(prompt, generate, depth) in &tests {
            done.push(loaded.test((prompt, generate, depth), threads, plan)?);
        }
        let mut profiles = Vec::new();
        if plan.profile {
            for (test, &(prompt, generate, depth)) in done.iter().zip(&tests) {
                profiles.push(loaded.profile(test.name(), prompt, generate, depth)?);
            }
        }
        drop(loaded);
        let limits = limits(threads, DEFAULT_READ_MIB).or_better(&before);
        for t in &mut done {
            if t.bytes_per_token.is_none() {
                t.machine = limits.peak_of(&t.work);
            }
            t.share = t.achieved.map(|a| a / t.machine);
        }
        bench.threads.push(ThreadBench {
            n_threads: placed,
            cpu_mask: if cpus.is_empty() { String::new() } else { host::cpu_mask(&cpus) },
            limits,
            load_seconds,
            first_token_seconds,
            first_token_prompt: first.unwrap_or(0),
            peak_memory,
            tests: done,
            profiles,
        });
    }
    Ok(bench)
}

/// Prompt, tokens to decode and depth of each test.
fn tests(plan: &ModelPlan) -> Vec<(usize, usize, usize)> {
    let mut out = Vec::new();
    for &depth in &plan.n_depth {
        out.extend(plan.n_prompt.iter().filter(|&&n| n > 0).map(|&n| (n, 0, depth)));
        out.extend(plan.n_gen.iter().filter(|&&n| n > 0).map(|&n| (0, n, depth)));
    }
    out
}

/// Element types of the constants of most bytes, and of the caches.
fn types(module: &pteron_ir::Module) -> (String, String) {
    let mut sums: Vec<(String, u64)> = Vec::new();
    for c in module.constants.values() {
        let n = c.ty.fixed_sizes().map_or(0, |s| s.iter().product::<usize>());
        let bytes = c.ty.dtype.bytes_for(n).unwrap_or(0) as u64;
        let name = c.ty.dtype.to_string();
        match sums.iter_mut().find(|s| s.0 == name) {
            Some(s) => s.1 += bytes,
            None => sums.push((name, bytes)),
        }
    }
    sums.sort_by_key(|s| std::cmp::Reverse(s.1));
    let whole: u64 = sums.iter().map(|s| s.1).sum();
    let large: Vec<&str> = sums.iter().filter(|s| s.1 * 50 > whole).map(|s| s.0.as_str()).collect();
    let cache = module.buffers.values().find(|b| b.ty.dims.len() == 4).map(|b| b.ty.dtype.to_string());
    (large.join("+"), cache.unwrap_or_default())
}

/// A program that is ready.
struct Loaded {
    decoder: ProgramDecoder,
    method: String,
    path: PathBuf,
    file_bytes: u64,
    vocabulary: i64,
    positions: usize,
}

/// Tokens that are decoded by a warm-up.
const WARM_TOKENS: usize = 4;

impl Loaded {
    fn open(path: &Path, plan: &ModelPlan, threads: usize) -> Result<Loaded, Error> {
        let file = ProgramFile::open(path, plan.mode)?;
        let known: Vec<&str> = file.head().program().execution_plans.iter().map(|p| p.name.as_str()).collect();
        let methods = ProgramDecoder::methods(&known, &plan.method);
        let options = LoadOptions {
            mode: plan.mode,
            data: plan.data.clone(),
            threads: Some(threads),
            cpus: plan.cpus.clone(),
            max_memory: plan.max_memory,
            max_operations: plan.max_operations,
            methods,
            qnn_sdk: plan.qnn_sdk.clone(),
        };
        let file_bytes = file.file_bytes();
        let program = file.load(&options)?;
        let decoder = ProgramDecoder::new(program, &plan.method)?;
        let metadata = decoder.metadata()?;
        let vocabulary = metadata.vocab_size.and_then(|n| i64::try_from(n).ok()).unwrap_or(256).max(1);
        let (method, path) = (plan.method.clone(), path.to_owned());
        Ok(Loaded { decoder, method, path, file_bytes, vocabulary, positions: metadata.max_context_len })
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Call { path: self.path.clone(), method: self.method.clone(), reason }
    }

    fn check(&self, plan: &ModelPlan) -> Result<(), Error> {
        if !self.decoder.uses_kv_cache() {
            return Err(
                self.wrong("it has no KV cache, so there is no decoding to measure; export with -kv".to_owned())
            );
        }
        for (prompt, generate, depth) in tests(plan) {
            let (needed, held) = (prompt.saturating_add(generate).saturating_add(depth), self.positions);
            if needed > held {
                let test = if generate > 0 { format!("tg{generate}") } else { format!("pp{prompt}") };
                let after = if depth > 0 { format!(" after {depth}") } else { String::new() };
                return Err(self.wrong(format!("{test}{after} needs {needed} positions, the program has {held}")));
            }
        }
        Ok(())
    }

    /// Calls of the method for `n` tokens from position `start` on, as many at a time as it takes.
    fn feed(&mut self, start: usize, n: usize, hook: &mut dyn NodeHook) -> Result<(), Error> {
        let most = self.decoder.tokens_per_call().most().max(1);
        let mut at = start;
        while at < start + n {
            let count = most.min(start + n - at);
            self.call(at, count, hook)?;
            at += count;
        }
        Ok(())
    }

    fn call(&mut self, start: usize, count: usize, hook: &mut dyn NodeHook) -> Result<(), Error> {
        let vocabulary = self.vocabulary;
        let tokens: Vec<i64> = (start as i64..).take(count).map(|i| (i * 7919 + 1) % vocabulary).collect();
        let result = self.decoder.step_watched(&tokens, start as i64, hook).map(|logits| {
            std::hint::black_box(logits);
        });
        result.map_err(|e| self.wrong(e.to_string()))
    }

    fn one_by_one(&mut self, start: usize, n: usize, hook: &mut dyn NodeHook) -> Result<(), Error> {
        (start..start + n).try_for_each(|at| self.call(at, 1, hook))
    }

    fn warm_up(&mut self, tests: &[(usize, usize, usize)]) -> Result<(), Error> {
        if let Some(n) = tests.iter().map(|t| t.0).max().filter(|&n| n > 0) {
            self.feed(0, n, &mut NoHook)?;
        }
        let tokens = tests.iter().map(|t| t.1).max().unwrap_or(0);
        self.one_by_one(0, tokens.min(WARM_TOKENS), &mut NoHook)
    }

    /// What the calls for `n` tokens from `start` on need.
    fn work(&mut self, start: usize, n: usize) -> Result<Work, Error> {
        let module = std::sync::Arc::clone(self.decoder.program().module());
        let most = self.decoder.tokens_per_call().most().max(1);
        let mut work = Work::default();
        let mut at = start;
        while at < start + n {
            let count = most.min(start + n - at);
            let mut counter = WorkCounter::new(&module, at);
            self.call(at, count, &mut counter)?;
            work += counter.work();
            at += count;
        }
        Ok(work)
    }

    /// Measures a prompt (`generate` is 0) or tokens one by one, with `depth` tokens in the cache before. What memory gives is
    /// measured between the repetitions of the latter.
    fn test(
        &mut self,
        (prompt, generate, depth): (usize, usize, usize),
        threads: usize,
        plan: &ModelPlan,
    ) -> Result<Test, Error> {
        /// Times that a buffer is read between two repetitions.
        const READS: usize = 4;
        self.feed(0, depth, &mut NoHook)?;
        let work = self.work(depth, if generate > 0 { 1 } else { prompt })?;
        let mut bytes_per_token = None;
        if generate > 0 {
            self.one_by_one(depth, generate - 1, &mut NoHook)?;
            // The bytes grow by the same number with every token.
            let last = self.work(depth + generate - 1, 1)?;
            bytes_per_token = Some((work.bytes() as f64 + last.bytes() as f64) / 2.0);
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let now = DateTime::from_unix_seconds(i64::try_from(now).unwrap_or(0));
        let tokens = prompt + generate;
        let mut seconds = Vec::with_capacity(plan.repeat);
        let mut reader = bytes_per_token.map(|b| Reader::new(threads, plan.read_mib.map_or(b as usize, |m| m << 20)));
        for _ in 0..plan.repeat.max(1) {
            if let Some(reader) = &mut reader {
                reader.round(READS);
                // Caches hold what a token left in them again.
                self.call(depth, 1, &mut NoHook)?;
            }
            let start = Instant::now();
            match generate {
                0 => self.feed(depth, prompt, &mut NoHook)?,
                n => self.one_by_one(depth, n, &mut NoHook)?,
            }
            seconds.push(start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
        }
        let speeds: Vec<f64> = seconds.iter().map(|s| tokens as f64 / s).collect();
        let nanoseconds = |s: f64| (s * 1e9).round() as u64;
        let avg_ts = mean(&speeds);
        let achieved = match bytes_per_token {
            Some(bytes) => Some(bytes * avg_ts / 1e9),
            None => work.flops().map(|f| f as f64 / mean(&seconds) / 1e9),
        };
        Ok(Test {
            n_prompt: prompt,
            n_gen: generate,
            n_depth: depth,
            test_time: now.iso8601(),
            avg_ns: nanoseconds(mean(&seconds)),
            stddev_ns: nanoseconds(stddev(&seconds)),
            avg_ts,
            stddev_ts: stddev(&speeds),
            samples_ns: seconds.iter().map(|&s| nanoseconds(s)).collect(),
            samples_ts: speeds,
            work,
            bytes_per_token,
            achieved,
            machine: reader.map_or(0.0, |r| r.gb_per_s()),
            unit: if generate > 0 { "GB/s" } else { "GOP/s" },
            share: None,
        })
    }

    fn profile(&mut self, test: String, prompt: usize, generate: usize, depth: usize) -> Result<Profile, Error> {
        self.feed(0, depth, &mut NoHook)?;
        let begun = Instant::now();
        let clock = || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut profiler = Profiler::with_spans(clock);
        match generate {
            0 => self.feed(depth, prompt, &mut profiler)?,
            n => self.one_by_one(depth, n, &mut profiler)?,
        }
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        let totals = profiler.totals();
        let sum: u64 = totals.iter().map(|t| t.1.nanoseconds).sum();
        let row = |&(operator, t): &(&'static str, OperatorTotal)| OperatorTime {
            operator,
            calls: t.calls,
            nodes: t.nodes,
            milliseconds: t.nanoseconds as f64 / 1e6,
            share: t.nanoseconds as f64 / sum.max(1) as f64,
            scalar: t.scalar,
        };
        let operators = totals.iter().map(row).collect();
        let graph = self.decoder.program().module().graph(&self.method);
        let path = |s: &Span| graph.and_then(|g| g.paths.get(s.path)).map(|p| p.to_string()).unwrap_or_default();
        let spans = profiler.into_spans().into_iter().map(|span| TraceSpan { path: path(&span), span }).collect();
        Ok(Profile { test, milliseconds, operators, spans })
    }
}
