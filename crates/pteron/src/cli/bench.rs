//! `pteron bench`.

mod tables;

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::anyhow;
use pteron::bench::{self, ExportBench, Limits, ModelPlan};
use pteron_checkpoint::atomic::AtomicFile;

use super::low::{BenchArgs, BenchBandwidthArgs, BenchCommand, BenchExportArgs, BenchModelArgs, BenchOutputArg};
use super::output::{Done, Failure, bytes, number, put, put_json, put_line, say};
use super::{export, high};

pub(super) fn run(a: &BenchArgs) -> Done {
    match &a.command {
        None => model(&a.model),
        Some(BenchCommand::Bandwidth(a)) => bandwidth(a),
        Some(BenchCommand::Export(a)) => exported(a),
    }
}

fn bandwidth(a: &BenchBandwidthArgs) -> Done {
    let mib = high::read_mib(a.mib)?;
    let rows: Vec<Limits> = high::thread_list(&a.threads)?.into_iter().map(|t| bench::limits(t, mib)).collect();
    if a.json {
        return put_json(&rows);
    }
    let Some(first) = rows.first() else { return Ok(()) };
    small_buffer(first);
    let mut out = format!(
        "| threads ({}) | read {} MiB, GB/s | read {} MiB, GB/s | f32 multiply-adds, GFLOP/s | pairs of bf16, GFLOP/s | products of bytes, GOP/s |\n|---|---|---|---|---|---|\n",
        first.instruction_set, first.memory_mib, first.cache_mib
    );
    for l in &rows {
        let bf16 = l.bf16_gflop_per_s.map_or_else(|| "no such instruction".to_owned(), |r| format!("{r:.0}"));
        let (memory, cache, fma) = (l.memory_gb_per_s, l.cache_gb_per_s, l.fma_gflop_per_s);
        let _ =
            writeln!(out, "| {} | {memory:.1} | {cache:.1} | {fma:.0} | {bf16} | {:.0} |", l.threads, l.int8_gop_per_s);
    }
    put(&out)
}

/// A buffer that fits the cache says nothing of memory.
fn small_buffer(l: &Limits) {
    if let Some(cache) = pteron::host::last_level_cache()
        && l.memory_mib < 4 * cache / (1 << 20)
    {
        say(&format!(
            "note: {} MiB is not far larger than the cache of {}: what is called memory here is cache in part",
            l.memory_mib,
            bytes(cache as u64)
        ));
    }
}

fn model(a: &BenchModelArgs) -> Done {
    let Some(path) = a.model.as_ref().or(a.model_flag.as_ref()) else {
        return Err(Failure::Usage("no program: give a .pte file, or one of the subcommands that --help lists".into()));
    };
    let cpus = a.cpu_mask.as_ref().map(|c| c.0.clone()).unwrap_or_default();
    let default = [high::bench_threads(&cpus)];
    let threads = high::thread_list(if a.threads.is_empty() { &default } else { &a.threads })?;
    let nothing = |list: &[usize]| list.iter().all(|&n| n == 0);
    if nothing(&a.n_prompt) && nothing(&a.n_gen) {
        return Err(Failure::Usage("-p and -n are 0: there is nothing to measure".to_owned()));
    }
    high::bind(threads.iter().max().copied(), &cpus)?;
    let plan = ModelPlan {
        n_prompt: a.n_prompt.clone(),
        n_gen: a.n_gen.clone(),
        n_depth: a.n_depth.clone(),
        threads,
        cpus,
        repeat: high::repeat(a.repetitions)?,
        method: a.method_name.clone(),
        mode: high::load_mode(a.load_mode),
        data: a.data_paths.clone(),
        read_mib: a.mib.map(high::read_mib).transpose()?,
        profile: a.profile || a.profile_trace.is_some(),
        max_memory: a.limits.max_memory,
        max_operations: a.limits.max_operations,
        qnn_sdk: a.qnn.qnn_sdk.clone(),
    };
    let measured = bench::model(path, &plan)?;
    if let Some(to) = &a.profile_trace {
        let text = serde_json::to_vec(&bench::chrome_trace(&measured))?;
        write_file(to, &text)?;
        say(&format!("wrote {}", to.display()));
    }
    match a.output {
        BenchOutputArg::Md => put(&tables::model(&measured)),
        BenchOutputArg::Json => put_json(&tables::rows(&measured)),
        BenchOutputArg::Jsonl => tables::rows(&measured).iter().try_for_each(|r| put_line(&serde_json::to_string(r)?)),
        BenchOutputArg::Csv => put(&tables::csv(&measured)),
    }
}

fn write_file(path: &Path, bytes: &[u8]) -> Done {
    let failed = |e| anyhow!("{}: {e}", path.display());
    let mut file = AtomicFile::create(path).map_err(failed)?;
    file.write_all(bytes).map_err(|e| anyhow!("{}: {e}", path.display()))?;
    file.commit().map_err(failed)?;
    Ok(())
}

fn exported(a: &BenchExportArgs) -> Done {
    let checkpoint = high::checkpoint(&a.export)?;
    if a.export.export_only {
        return Err(Failure::Usage("--export-only writes nothing that could be measured".to_owned()));
    }
    if a.export.output_name.is_some() || a.export.output_dir.extension().is_some_and(|e| e == "pte") {
        return Err(Failure::Usage(
            "no program is kept: -o is the folder for temporary files, and -n names none".into(),
        ));
    }
    let repeat = high::repeat(a.repeat)?;
    let mut exporter = || export::exporter(&a.export, checkpoint);
    let measured = bench::export::<Failure>(&a.export.output_dir, repeat, &mut exporter)?;
    if a.export.json { put_json(&measured) } else { put(&export_table(&measured)) }
}

fn export_table(b: &ExportBench) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} parameters as {}, file of {}\n", number(b.parameters), b.dtype, bytes(b.file_bytes));
    out.push_str(
        "| export | copy of the file, flushed | ratio | peak RssAnon | of the file |\n|---|---|---|---|---|\n",
    );
    let (peak, part) = match (b.peak_anonymous_bytes, b.peak_anonymous_of_file) {
        (Some(p), Some(r)) => (bytes(p), format!("{:.1}%", 100.0 * r)),
        _ => ("not known".to_owned(), String::new()),
    };
    let (export, copy) = (b.median_export_seconds(), b.median_copy_seconds());
    let _ = writeln!(out, "| {export:.3} s | {copy:.3} s | {:.2} | {peak} | {part} |", b.ratio);
    out
}
