//! High arguments: what the commands take, made of low arguments and checked.

use std::path::{Path, PathBuf};

use pteron::calibration::{
    CalibrationOptions, DEFAULT_MAX_KL, DEFAULT_WINDOWS, DataOptions, EvaluationOptions, Purpose,
};
use pteron::checkpoint::read_limited;
use pteron::models::PreQuantized;
use pteron::quant::recipe::{Base, Recipe, Rotate, linear_mode};
use pteron::quant::scheme::Compat;
use pteron::quant::transform::{Algorithm, EmbeddingMode, LinearMode};
use pteron::tensor::DType;
use pteron::{LoadMode, LoadOptions, ShardOf, quantize};

use super::low::{
    AlgorithmArg, CalibrateArgs, CalibrationArgs, EvalArgs, ExecArgs, ExportArgs, ExportDType, GateArgs, LoadModeArg,
    PreqArgs, PreqModeArg, QnnLinearArg, QnnModeArg, QuantizationArgs, RunArgs, ThreadArgs,
};
use super::output::{Failure, say};

pub(crate) fn dtype(d: ExportDType) -> DType {
    match d {
        ExportDType::Fp32 => DType::F32,
        ExportDType::Fp16 => DType::F16,
        ExportDType::Bf16 => DType::BF16,
    }
}

pub(crate) fn load_mode(m: LoadModeArg) -> LoadMode {
    match m {
        LoadModeArg::File => LoadMode::File,
        LoadModeArg::Mmap => LoadMode::Mmap,
        LoadModeArg::Mlock => LoadMode::Mlock,
    }
}

/// Most bytes of a recipe.
const MAX_RECIPE_BYTES: u64 = 4 << 20;

/// Most threads that can be asked for.
const MOST_THREADS: i64 = 1024;

/// -1 is the default.
fn threads(n: i64) -> Result<Option<usize>, Failure> {
    const MOST: i64 = MOST_THREADS;
    match n {
        -1 => Ok(None),
        1..=MOST => Ok(usize::try_from(n).ok()),
        _ => Err(Failure::Usage(format!("--cpu-threads is {n}, expected -1 (performance cores) or 1 to {MOST}"))),
    }
}

/// The processors that were asked for, after the calling thread has been put there: it computes as well. Without any, it goes
/// to the performance cores, where the system tells them apart and lets it. Where that changes anything, it is said.
fn place(a: &ThreadArgs) -> Result<Vec<usize>, Failure> {
    let asked = a.cpu_mask.as_ref().map(|c| c.0.clone()).unwrap_or_default();
    bind(threads(a.cpu_threads)?, &asked)?;
    Ok(asked)
}

pub(crate) fn bind(count: Option<usize>, asked: &[usize]) -> Result<(), Failure> {
    let placed = pteron::host::threads(count, asked);
    if placed.cpus.is_empty() {
        return Ok(());
    }
    let mask = pteron::host::cpu_mask(&placed.cpus);
    match pteron::host::bind(&placed.cpus) {
        Ok(()) => say(&format!("threads: {} on processors {mask}", placed.count)),
        Err(e) if !asked.is_empty() => {
            return Err(Failure::Usage(format!(
                "--cpu-mask is {mask}: the system does not let this process run there ({e})"
            )));
        }
        // Performance cores that are closed to this process: it runs where it may.
        Err(_) => {}
    }
    Ok(())
}

/// Numbers of threads to measure with: 1 and the default if none is given.
pub(crate) fn thread_list(given: &[usize]) -> Result<Vec<usize>, Failure> {
    if let Some(n) = given.iter().find(|&&n| n == 0 || n as i64 > MOST_THREADS) {
        return Err(Failure::Usage(format!("--threads has {n}, expected 1 to {MOST_THREADS}")));
    }
    let mut list = if given.is_empty() { vec![1, pteron::host::default_threads()] } else { given.to_vec() };
    list.dedup();
    Ok(list)
}

/// Threads to train on.
pub(crate) fn train_threads(n: i64) -> Result<usize, Failure> {
    Ok(threads(n)?.unwrap_or_else(pteron::host::default_threads))
}

/// Threads to measure with by default.
pub(crate) fn bench_threads(cpus: &[usize]) -> usize {
    pteron::host::threads(None, cpus).count
}

/// Size of the buffer that memory's speed is measured with.
pub(crate) fn read_mib(mib: usize) -> Result<usize, Failure> {
    const MOST: usize = 1 << 20;
    match mib {
        1..=MOST => Ok(mib),
        _ => Err(Failure::Usage(format!("--mib is {mib}, expected 1 to {MOST}"))),
    }
}

/// Times that a figure is measured.
pub(crate) fn repeat(n: usize) -> Result<usize, Failure> {
    const MOST: usize = 1000;
    match n {
        1..=MOST => Ok(n),
        _ => Err(Failure::Usage(format!("the number of repetitions is {n}, expected 1 to {MOST}"))),
    }
}

pub(crate) fn run_load(a: &RunArgs) -> Result<LoadOptions, Failure> {
    Ok(LoadOptions {
        mode: load_mode(a.load_mode),
        data: a.data_paths.clone(),
        threads: threads(a.threads.cpu_threads)?,
        cpus: place(&a.threads)?,
        max_memory: a.limits.max_memory,
        max_operations: a.limits.max_operations,
        methods: Vec::new(),
        qnn_sdk: a.qnn.qnn_sdk.clone(),
    })
}

pub(crate) fn eval_load(a: &EvalArgs) -> Result<LoadOptions, Failure> {
    Ok(LoadOptions { threads: threads(a.cpu_threads)?, qnn_sdk: a.qnn.qnn_sdk.clone(), ..LoadOptions::default() })
}

pub(crate) fn exec_load(a: &ExecArgs) -> Result<LoadOptions, Failure> {
    Ok(LoadOptions {
        mode: load_mode(a.load_mode),
        data: a.data.clone(),
        threads: threads(a.threads.cpu_threads)?,
        cpus: place(&a.threads)?,
        max_memory: a.limits.max_memory,
        max_operations: a.limits.max_operations,
        methods: vec![a.method.clone()],
        qnn_sdk: a.qnn.qnn_sdk.clone(),
    })
}

/// What is quantized: a recipe from a file, or the one that the flags are short for. With calibration data the scales of 4-bit
/// weights, and of 8-bit weights per channel, are searched by `mse`, unless another algorithm is asked for.
pub(crate) fn recipe(a: &QuantizationArgs, data: &[PathBuf]) -> Result<Recipe, Failure> {
    let usage = |s: String| Failure::Usage(s);
    if let Some(path) = &a.recipe {
        let text = read_limited(path, MAX_RECIPE_BYTES)?;
        let text = String::from_utf8(text).map_err(|_| anyhow::anyhow!("{}: it is not UTF-8", path.display()))?;
        let recipe = Recipe::parse(&text).map_err(|e| usage(format!("{}: {e}", path.display())))?;
        quantize::check(&recipe).map_err(|e| usage(format!("{}: {e}", path.display())))?;
        return Ok(recipe);
    }
    let linear = match &a.quantization_mode {
        None if a.group_size.is_some() => {
            return Err(usage("--group-size is for a --quantization-mode, which is not given".to_owned()));
        }
        None => None,
        Some(name) => Some(linear_mode(name, a.group_size).map_err(|e| usage(format!("--{e}")))?),
    };
    let embedding = a.embedding_quantize.as_deref().map(|text| embedding_mode("--embedding-quantize", text));
    let compat = match &a.quant_compat {
        None => Compat::default(),
        Some(name) => Compat::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = Compat::ALL.iter().map(|c| c.name()).collect();
            usage(format!("--quant-compat is {name}, expected {}", known.join(" or ")))
        })?,
    };
    let algorithm = match a.weight_algorithm {
        None if linear.is_some_and(|m| m.bits() == 4 || m == LinearMode::Int8) && !data.is_empty() => {
            Some(Algorithm::Mse)
        }
        None => None,
        Some(AlgorithmArg::Affine) => Some(Algorithm::Affine),
        Some(AlgorithmArg::Hqq) => Some(Algorithm::Hqq),
        Some(AlgorithmArg::Mse) => Some(Algorithm::Mse),
        Some(AlgorithmArg::Gptq) => Some(Algorithm::Gptq),
        Some(AlgorithmArg::Stored) => Some(Algorithm::Stored),
    };
    let (embedding, pt2e) = (embedding.transpose()?, a.pt2e_quantize.clone());
    let spin_quant = a.use_spin_quant.is_some();
    let base = Base { linear, embedding, algorithm, pt2e, compat, rotate: rotate(a)?, spin_quant };
    let recipe = Recipe { base, rules: Vec::new() };
    quantize::check(&recipe).map_err(|e| usage(e.to_string()))?;
    Ok(recipe)
}

/// The rotations of the flags.
fn rotate(a: &QuantizationArgs) -> Result<Option<Rotate>, Failure> {
    match (&a.rotate, &a.optimized_rotation_path) {
        (Some(text), _) => match Rotate::parse(text) {
            Some(rotate) => Ok(Some(rotate)),
            None => Err(Failure::Usage(format!("--rotate is {text}, expected hadamard or hadamard,SEED"))),
        },
        (None, Some(path)) => match path.to_str() {
            Some(path) => Ok(Some(Rotate::File(path.to_owned()))),
            None => Err(Failure::Usage(format!(
                "--optimized-rotation-path: {} is not UTF-8, and a recipe could not name it",
                path.display()
            ))),
        },
        (None, None) => Ok(None),
    }
}

fn embedding_mode(flag: &str, text: &str) -> Result<EmbeddingMode, Failure> {
    EmbeddingMode::parse(text).ok_or_else(|| {
        let expected = "BITS,GROUP such as 4,32 with 2, 4 or 8 bits";
        Failure::Usage(format!("{flag} is {text}, expected {expected}"))
    })
}

/// How a pre-quantized checkpoint is laid out; `None` for one that is not.
pub(crate) fn pre_quantized(a: &PreqArgs) -> Result<Option<PreQuantized>, Failure> {
    let Some(mode) = a.preq_mode else { return Ok(None) };
    if a.preq_group_size == 0 {
        return Err(Failure::Usage("--preq-group-size is 0, expected columns of a group such as 32".to_owned()));
    }
    // export_llama writes `none` for whole rows as well.
    let text = a.preq_embedding_quantize.to_lowercase().replace(",none", ",0");
    let embedding = embedding_mode("--preq-embedding-quantize", &text)?;
    Ok(Some(PreQuantized {
        group: a.preq_group_size,
        output_of_8_bits: mode == PreqModeArg::Int8DynActInt4WeightOutputInt8DynActInt8Weight,
        embedding_bits: embedding.bits,
        embedding_group: embedding.group,
    }))
}

/// Where a static scheme learns the ranges of activations.
pub(crate) fn calibration(a: &CalibrationArgs, state: Option<&Path>) -> Result<CalibrationOptions, Failure> {
    let given = [
        ("--calibration-limit", a.calibration_limit.is_some()),
        ("--calibration-seq-length", a.calibration_seq_length.is_some()),
        ("--calibration-seed", a.calibration_seed.is_some()),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given)
        && a.calibration_data.is_empty()
    {
        return Err(Failure::Usage(format!("{flag} is for --calibration-data FILE, which is not given")));
    }
    let data = DataOptions {
        purpose: Purpose::Calibration,
        files: a.calibration_data.clone(),
        limit: a.calibration_limit.unwrap_or(DEFAULT_WINDOWS),
        window: a.calibration_seq_length,
        seed: a.calibration_seed,
    };
    Ok(CalibrationOptions { data, state: state.map(Path::to_owned) })
}

/// How far a quantized model may be from the float one.
pub(crate) fn gate(a: &GateArgs) -> Result<EvaluationOptions, Failure> {
    let max_kl = a.max_kl.unwrap_or(DEFAULT_MAX_KL);
    if max_kl.is_nan() || max_kl < 0.0 {
        return Err(Failure::Usage(format!("--max-kl is {max_kl}, expected nats from 0 up")));
    }
    Ok(EvaluationOptions { enabled: !a.no_evaluation, max_kl, allow_degraded: a.allow_degraded })
}

/// `I/N`.
pub(crate) fn shard(text: &str) -> Result<ShardOf, Failure> {
    let parsed = text.split_once('/').and_then(|(i, n)| Some((i.trim().parse().ok()?, n.trim().parse().ok()?)));
    match parsed {
        Some((index, count)) if (1..=count).contains(&index) => Ok(ShardOf { index, count }),
        _ => Err(Failure::Usage(format!("--shard is {text}, expected I/N such as 1/4 with I from 1 to N"))),
    }
}

/// The checkpoint, given either way.
pub(crate) fn checkpoint(a: &ExportArgs) -> Result<&Path, Failure> {
    a.checkpoint.as_deref().or(a.checkpoint_flag.as_deref()).ok_or_else(|| {
        Failure::Usage("no checkpoint: give a Hugging Face folder or a safetensors file (CHECKPOINT or -c PATH)".into())
    })
}

/// The file to write: `-o` itself if it ends in `.pte`; else `-n` itself if it ends in `.pte`; else a file in the folder
/// `-o` named by `-n`, `--model` or the checkpoint (with `_h` behind it for fp16, but for `-n`).
pub(crate) fn output_file(a: &ExportArgs, checkpoint: &Path) -> Result<PathBuf, Failure> {
    let is_pte = |p: &Path| p.extension().is_some_and(|e| e == "pte");
    if is_pte(&a.output_dir) && !a.output_dir.is_dir() {
        return match &a.output_name {
            None => Ok(a.output_dir.clone()),
            Some(n) => Err(Failure::Usage(format!(
                "-o {} names a file and so does -n {n}: give a folder with -o, or leave -n out",
                a.output_dir.display()
            ))),
        };
    }
    if let Some(name) = &a.output_name {
        let path = PathBuf::from(name);
        return Ok(if is_pte(&path) { path } else { a.output_dir.join(format!("{name}.pte")) });
    }
    let base = match &a.model {
        Some(m) => m.clone(),
        None => checkpoint_name(checkpoint),
    };
    let half = if a.dtype_override == ExportDType::Fp16 { "_h" } else { "" };
    Ok(a.output_dir.join(format!("{base}{half}.pte")))
}

/// The folder's name, or that of a file without its extension; `model.safetensors` is called as its folder.
fn checkpoint_name(path: &Path) -> String {
    let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let stem = |p: &Path| p.file_stem().map(|s| s.to_string_lossy().into_owned());
    let whole = |p: &Path| p.file_name().map(|s| s.to_string_lossy().into_owned());
    let general = |s: &String| s != "model" && s != "consolidated" && !s.starts_with("model.") && s != "config";
    let own = if path.is_dir() { whole(&path) } else { stem(&path).filter(general) };
    own.or_else(|| path.parent().and_then(whole)).unwrap_or_else(|| "model".to_owned())
}

/// What `--qnn` and its options say; `None` without `--qnn`.
pub(super) fn qnn(export: &ExportArgs) -> Result<Option<pteron::QnnOptions>, Failure> {
    use pteron::qnn::soc::{SOCS, Soc};
    use pteron::qnn::spec::PerformanceMode;
    let a = &export.qnn;
    if !a.qnn {
        return Ok(None);
    }
    let soc = Soc::by_name(&a.soc_model).ok_or_else(|| {
        let known: Vec<&str> = SOCS.iter().map(|s| s.name).collect();
        Failure::Usage(format!("--soc-model is {}, expected one of {}", a.soc_model, known.join(", ")))
    })?;
    let performance_mode = PerformanceMode::by_name(&a.htp_performance_mode).ok_or_else(|| {
        let known: Vec<&str> = PerformanceMode::ALL.iter().map(|m| m.name()).collect();
        Failure::Usage(format!(
            "--htp-performance-mode is {}, expected one of {}",
            a.htp_performance_mode,
            known.join(", ")
        ))
    })?;
    Ok(Some(pteron::QnnOptions {
        mode: match a.qnn_mode {
            QnnModeArg::Mutable => pteron::QnnMode::Mutable,
            QnnModeArg::Kv => pteron::QnnMode::Kv,
            QnnModeArg::Hybrid => pteron::QnnMode::Hybrid,
        },
        prefill_ar_len: a.prefill_ar_len,
        num_sharding: a.num_sharding,
        single_heads: a.use_qnn_sha,
        linear: match a.qnn_linear {
            QnnLinearArg::Conv2d => pteron::qnn::lower::LinearForm::Conv2d,
            QnnLinearArg::FullyConnected => pteron::qnn::lower::LinearForm::FullyConnected,
        },
        performance_mode,
        optimization: match a.htp_optimization {
            1 => pteron::qnn::Optimization::Fast,
            2 => pteron::qnn::Optimization::Normal,
            _ => pteron::qnn::Optimization::Best,
        },
        weight_sharing: a.weight_sharing,
        dlbc: a.htp_dlbc,
        require_full_delegation: export.require_full_delegation,
        on_cpu: a.qnn_on_cpu,
        sdk: a.libraries.qnn_sdk.clone(),
        ..pteron::QnnOptions::new(soc)
    }))
}

/// What of the form for Qualcomm's processors a calibration sees: its layers, but neither methods nor a system on chip.
pub(super) fn calibrated_qnn(a: &CalibrateArgs) -> Result<pteron::QnnOptions, Failure> {
    use pteron::qnn::soc::{DEFAULT_SOC, Soc};
    let soc = Soc::by_name(DEFAULT_SOC).ok_or_else(|| anyhow::anyhow!("{DEFAULT_SOC} is not in the table"))?;
    Ok(pteron::QnnOptions { single_heads: a.use_qnn_sha, on_cpu: true, ..pteron::QnnOptions::new(soc) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::low::{Cli, Command};
    use clap::Parser;

    fn named(args: &[&str]) -> Result<String, String> {
        let list = ["pteron", "export"].iter().chain(args).copied();
        let Some(Command::Export(a)) = Cli::try_parse_from(list).unwrap().command else { panic!("not export") };
        let checkpoint = a.checkpoint.clone().unwrap();
        output_file(&a, &checkpoint).map(|p| p.display().to_string()).map_err(|e| e.to_string())
    }

    #[test]
    fn files_are_named_as_export_llama_names_them() {
        for (args, expected) in [
            (&["x/smol", "-o", "a.pte"][..], "a.pte"),
            (&["x/smol", "-o", "out"], "out/smol.pte"),
            (&["x/smol", "-o", "out", "-d", "fp16"], "out/smol_h.pte"),
            (&["x/smol", "-o", "out", "-n", "b"], "out/b.pte"),
            (&["x/smol", "-o", "out", "-n", "b", "-d", "fp16"], "out/b.pte"),
            (&["x/smol", "-o", "out", "-n", "b.pte"], "b.pte"),
            (&["x/smol", "-o", "out", "--model", "llama3_2"], "out/llama3_2.pte"),
            (&["x/smol/model.safetensors"], "./smol.pte"),
            (&["x/smol/tiny.safetensors"], "./tiny.pte"),
        ] {
            assert_eq!(named(args).unwrap(), expected, "{args:?}");
        }
        assert!(named(&["x", "-o", "a.pte", "-n", "b"]).unwrap_err().contains("names a file and so does -n b"));
    }

    #[test]
    fn threads_are_checked() {
        assert_eq!(threads(-1).unwrap(), None);
        assert_eq!(threads(3).unwrap(), Some(3));
        assert!(threads(0).is_err() && threads(-2).is_err() && threads(4096).is_err());
    }
}
