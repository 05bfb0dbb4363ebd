//! Prefill and decode of a text program beside the machine's limits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use pteron_exec::{NoHook, NodeHook, Profiler};
use pteron_llm::runner::TextDecoder;

use super::machine::{Limits, limits};
use super::median;
use super::work::{Work, WorkCounter};
use crate::error::Error;
use crate::host::{MemorySampler, MemoryUse};
use crate::program::{LoadMode, LoadOptions, ProgramFile};
use crate::text::ProgramDecoder;

/// What is measured of a model.
#[derive(Debug, Clone)]
pub struct ModelPlan {
    /// Lengths of prompts.
    pub prompt_tokens: Vec<usize>,
    /// Tokens that are in the cache when decoding begins.
    pub contexts: Vec<usize>,
    /// Tokens that are decoded one by one; 0 for no decoding.
    pub generate: usize,
    /// Numbers of threads, each with a load of its own.
    pub threads: Vec<usize>,
    /// Times that each figure is measured; the median counts.
    pub repeat: usize,
    /// Method that is called.
    pub method: String,
    /// How the program's bytes are reached.
    pub mode: LoadMode,
    /// Files of external constants.
    pub data: Vec<PathBuf>,
    /// Size of the buffer that stands for memory: see [`limits`].
    pub read_mib: usize,
    /// Whether the time of each kind of operator is taken, after all else.
    pub profile: bool,
    /// Most memory in bytes that the program may declare; all the machine has if `None`.
    pub max_memory: Option<u64>,
    /// Most element operations of one call; no limit if `None`.
    pub max_operations: Option<u64>,
}

/// A prompt of one length.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Prefill {
    /// Tokens.
    pub tokens: usize,
    /// Seconds of each time.
    pub seconds: Vec<f64>,
    /// Tokens a second by the median.
    pub tokens_per_s: f64,
    /// What the prompt needs.
    pub work: Work,
    /// 10⁹ operations a second; `None` if a delegate does some that are not known.
    pub gflop_per_s: Option<f64>,
    /// 10⁹ operations a second in registers: of the instruction for pairs of bf16 where most products are of bf16 and the
    /// processor has it, else of f32 multiply-adds.
    pub peak_gflop_per_s: f64,
    /// The rate achieved by that one.
    pub of_peak: Option<f64>,
}

/// Tokens one by one, after a context of one length.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Decode {
    /// Tokens in the cache when it begins.
    pub context: usize,
    /// Tokens decoded.
    pub tokens: usize,
    /// Seconds of each time.
    pub seconds: Vec<f64>,
    /// Tokens a second by the median.
    pub tokens_per_s: f64,
    /// What the first token needs.
    pub work: Work,
    /// Bytes that a token must read, on average.
    pub bytes_per_token: f64,
    /// 10⁹ of these bytes a second.
    pub gb_per_s: f64,
    /// The same by the rate at which memory is read.
    pub of_memory_bandwidth: f64,
}

/// Time of one kind of operator.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct OperatorTime {
    /// Name.
    pub operator: &'static str,
    /// Calls.
    pub calls: u64,
    /// Milliseconds of all calls.
    pub milliseconds: f64,
    /// Part of the time of all operators.
    pub share: f64,
}

/// Where the time of some calls goes, the slowest operator first.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Profile {
    /// Tokens of the prompt; 0 when decoding.
    pub prompt_tokens: usize,
    /// Tokens in the cache at the beginning.
    pub context: usize,
    /// Tokens decoded; 0 for a prompt.
    pub generated: usize,
    /// Milliseconds of the calls, watched.
    pub milliseconds: f64,
    /// Operators.
    pub operators: Vec<OperatorTime>,
}

/// What some threads do.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ThreadBench {
    /// What the machine can do: the better of the measurements before and after.
    pub limits: Limits,
    /// Seconds until the program can be called: opened, verified, lifted, planned. Mapped weights come with the first call.
    pub load_seconds: f64,
    /// Largest memory of the process through load and warm-up; `None` where the system does not tell.
    pub peak_memory: Option<MemoryUse>,
    /// Prompts.
    pub prefill: Vec<Prefill>,
    /// Decoding.
    pub decode: Vec<Decode>,
    /// Where the time goes, if that was asked for.
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
    /// By number of threads, in the order asked for.
    pub threads: Vec<ThreadBench>,
}

/// Measures a program with a KV cache.
///
/// A figure is taken `repeat` times after a warm-up, on tokens that mean nothing: speed does not depend on them.
///
/// # Errors
/// [`Error`] naming the file: it cannot be loaded, is no text program with a KV cache, or holds fewer positions than asked
/// for.
pub fn model(path: &Path, plan: &ModelPlan) -> Result<ModelBench, Error> {
    let mut bench = ModelBench {
        path: path.to_owned(),
        file_bytes: 0,
        constant_elements: 0,
        threads: Vec::with_capacity(plan.threads.len()),
    };
    // Before anything is measured.
    Loaded::open(path, plan, 1)?.check(plan)?;
    for &threads in &plan.threads {
        let before = limits(threads, plan.read_mib);
        let sampler = MemorySampler::start();
        let start = Instant::now();
        let mut loaded = Loaded::open(path, plan, threads)?;
        let load_seconds = start.elapsed().as_secs_f64();
        loaded.warm_up(plan)?;
        let peak_memory = sampler.finish();
        bench.file_bytes = loaded.file_bytes;
        bench.constant_elements = loaded.decoder.program().module().num_parameters();
        let mut prefill = Vec::new();
        for &n in &plan.prompt_tokens {
            prefill.push(loaded.prefill(n, plan.repeat)?);
        }
        let mut decode = Vec::new();
        for &context in plan.contexts.iter().filter(|_| plan.generate > 0) {
            decode.push(loaded.decode(context, plan.generate, plan.repeat)?);
        }
        let profiles = if plan.profile { loaded.profiles(plan)? } else { Vec::new() };
        drop(loaded);
        let limits = limits(threads, plan.read_mib).or_better(&before);
        for p in &mut prefill {
            let pairs = limits.bf16_gflop_per_s.filter(|_| 2 * p.work.bf16_flops > p.work.matrix_flops);
            p.peak_gflop_per_s = pairs.unwrap_or(limits.fma_gflop_per_s);
            p.of_peak = p.gflop_per_s.map(|r| r / p.peak_gflop_per_s);
        }
        for d in &mut decode {
            d.of_memory_bandwidth = d.gb_per_s / limits.memory_gb_per_s;
        }
        bench.threads.push(ThreadBench { limits, load_seconds, peak_memory, prefill, decode, profiles });
    }
    Ok(bench)
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
            max_memory: plan.max_memory,
            max_operations: plan.max_operations,
            methods,
        };
        let file_bytes = file.file_bytes();
        let program = file.load(&options)?;
        let metadata = program.metadata()?;
        let decoder = ProgramDecoder::new(program, &plan.method)?;
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
        let longest = plan.prompt_tokens.iter().copied().max().unwrap_or(0);
        let decoded = match plan.generate {
            0 => 0,
            n => plan.contexts.iter().map(|c| c.saturating_add(n)).max().unwrap_or(0),
        };
        for (needed, what) in
            [(longest, "the longest prompt"), (decoded, "the largest context and the tokens after it")]
        {
            if needed > self.positions {
                let held = self.positions;
                return Err(self.wrong(format!("{what} need {needed} positions, the program has {held}")));
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

    fn warm_up(&mut self, plan: &ModelPlan) -> Result<(), Error> {
        if let Some(n) = plan.prompt_tokens.iter().copied().max() {
            self.feed(0, n, &mut NoHook)?;
        }
        self.one_by_one(0, plan.generate.min(WARM_TOKENS), &mut NoHook)
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

    fn timed(
        &mut self,
        repeat: usize,
        calls: &mut dyn FnMut(&mut Loaded) -> Result<(), Error>,
    ) -> Result<Vec<f64>, Error> {
        let mut seconds = Vec::with_capacity(repeat);
        for _ in 0..repeat.max(1) {
            let start = Instant::now();
            calls(self)?;
            seconds.push(start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE));
        }
        Ok(seconds)
    }

    fn prefill(&mut self, n: usize, repeat: usize) -> Result<Prefill, Error> {
        let work = self.work(0, n)?;
        let seconds = self.timed(repeat, &mut |l| l.feed(0, n, &mut NoHook))?;
        let middle = median(seconds.clone());
        let gflop_per_s = work.flops().map(|f| f as f64 / middle / 1e9);
        Ok(Prefill {
            tokens: n,
            seconds,
            tokens_per_s: n as f64 / middle,
            work,
            gflop_per_s,
            peak_gflop_per_s: 0.0,
            of_peak: None,
        })
    }

    fn decode(&mut self, context: usize, n: usize, repeat: usize) -> Result<Decode, Error> {
        self.feed(0, context, &mut NoHook)?;
        let work = self.work(context, 1)?;
        self.one_by_one(context, n - 1, &mut NoHook)?;
        // The bytes grow by the same number with every token.
        let last = self.work(context + n - 1, 1)?;
        let bytes_per_token = (work.bytes() as f64 + last.bytes() as f64) / 2.0;
        let seconds = self.timed(repeat, &mut |l| l.one_by_one(context, n, &mut NoHook))?;
        let tokens_per_s = n as f64 / median(seconds.clone());
        let gb_per_s = bytes_per_token * tokens_per_s / 1e9;
        Ok(Decode {
            context,
            tokens: n,
            seconds,
            tokens_per_s,
            work,
            bytes_per_token,
            gb_per_s,
            of_memory_bandwidth: 0.0,
        })
    }

    fn profiles(&mut self, plan: &ModelPlan) -> Result<Vec<Profile>, Error> {
        let mut out = Vec::new();
        if let Some(&n) = plan.prompt_tokens.first() {
            let (milliseconds, operators) = self.profile(&mut |l, hook| l.feed(0, n, hook))?;
            out.push(Profile { prompt_tokens: n, context: 0, generated: 0, milliseconds, operators });
        }
        if let (Some(&context), n @ 1..) = (plan.contexts.last(), plan.generate) {
            self.feed(0, context, &mut NoHook)?;
            let (milliseconds, operators) = self.profile(&mut |l, hook| l.one_by_one(context, n, hook))?;
            out.push(Profile { prompt_tokens: 0, context, generated: n, milliseconds, operators });
        }
        Ok(out)
    }

    fn profile(
        &mut self,
        calls: &mut dyn FnMut(&mut Loaded, &mut dyn NodeHook) -> Result<(), Error>,
    ) -> Result<(f64, Vec<OperatorTime>), Error> {
        let begun = Instant::now();
        let clock = || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let mut profiler = Profiler::new(clock);
        calls(self, &mut profiler)?;
        let all = begun.elapsed().as_secs_f64() * 1e3;
        let totals = profiler.totals();
        let sum: u64 = totals.iter().map(|t| t.2).sum();
        let row = |&(operator, calls, ns): &(&'static str, u64, u64)| OperatorTime {
            operator,
            calls,
            milliseconds: ns as f64 / 1e6,
            share: ns as f64 / sum.max(1) as f64,
        };
        Ok((all, totals.iter().map(row).collect()))
    }
}
