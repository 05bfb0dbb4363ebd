//! `pteron bench`.

use std::fmt::Write;

use pteron::bench::{self, ExportBench, Limits, ModelBench, ModelPlan, ThreadBench};

use super::low::{BenchArgs, BenchBandwidthArgs, BenchCommand, BenchExportArgs, BenchModelArgs};
use super::output::{Done, Failure, bytes, number, put, put_json, say};
use super::{export, high};

pub(super) fn run(a: &BenchArgs) -> Done {
    match &a.command {
        BenchCommand::Bandwidth(a) => bandwidth(a),
        BenchCommand::Model(a) => model(a),
        BenchCommand::Export(a) => exported(a),
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
        "| threads ({}) | read {} MiB, GB/s | read {} MiB, GB/s | f32 multiply-adds, GFLOP/s | pairs of bf16, GFLOP/s |\n|---|---|---|---|---|\n",
        first.instruction_set, first.memory_mib, first.cache_mib
    );
    for l in &rows {
        let bf16 = l.bf16_gflop_per_s.map_or_else(|| "no such instruction".to_owned(), |r| format!("{r:.0}"));
        let (memory, cache, fma) = (l.memory_gb_per_s, l.cache_gb_per_s, l.fma_gflop_per_s);
        let _ = writeln!(out, "| {} | {memory:.1} | {cache:.1} | {fma:.0} | {bf16} |", l.threads);
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
    let plan = ModelPlan {
        prompt_tokens: positive("--prompt-tokens", &a.prompt_tokens)?,
        contexts: a.context.clone(),
        generate: a.generate,
        threads: high::thread_list(&a.threads)?,
        repeat: high::repeat(a.repeat)?,
        method: a.method_name.clone(),
        mode: high::load_mode(a.load_mode),
        data: a.data_paths.clone(),
        read_mib: high::read_mib(a.mib)?,
        profile: a.profile,
        max_memory: a.limits.max_memory,
        max_operations: a.limits.max_operations,
    };
    let measured = bench::model(&a.model, &plan)?;
    if a.json {
        return put_json(&measured);
    }
    if let Some(t) = measured.threads.first() {
        small_buffer(&t.limits);
    }
    put(&model_tables(&measured))
}

fn positive(flag: &str, list: &[usize]) -> Result<Vec<usize>, Failure> {
    match list.contains(&0) {
        true => Err(Failure::Usage(format!("{flag} has 0, expected 1 or more"))),
        false => Ok(list.to_vec()),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

fn model_tables(m: &ModelBench) -> String {
    let mut out = String::new();
    let name = m.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let _ = writeln!(out, "{name}: {}, {} elements of constants\n", bytes(m.file_bytes), number(m.constant_elements));
    out.push_str("| threads | test | tokens/s | achieved | machine | share |\n|---|---|---|---|---|---|\n");
    for t in &m.threads {
        let threads = t.limits.threads;
        for p in &t.prefill {
            let (done, share) = match (p.gflop_per_s, p.of_peak) {
                (Some(r), Some(s)) => (format!("{r:.0} GFLOP/s"), percent(s)),
                _ => ("not known: a delegate".to_owned(), String::new()),
            };
            let peak = p.peak_gflop_per_s;
            let _ = writeln!(
                out,
                "| {threads} | pp{} | {:.1} | {done} | {peak:.0} GFLOP/s | {share} |",
                p.tokens, p.tokens_per_s
            );
        }
        for d in &t.decode {
            let _ = writeln!(
                out,
                "| {threads} | tg{} at {} | {:.1} | {:.1} GB/s | {:.1} GB/s | {} |",
                d.tokens,
                d.context,
                d.tokens_per_s,
                d.gb_per_s,
                t.limits.memory_gb_per_s,
                percent(d.of_memory_bandwidth)
            );
        }
    }
    out.push_str("\n| threads | load | peak RSS | peak RssAnon |\n|---|---|---|---|\n");
    for t in &m.threads {
        let unknown = || ("not known".to_owned(), "not known".to_owned());
        let (all, own) = t.peak_memory.map_or_else(unknown, |p| (bytes(p.resident), bytes(p.anonymous)));
        let _ = writeln!(out, "| {} | {:.1} ms | {all} | {own} |", t.limits.threads, 1e3 * t.load_seconds);
    }
    m.threads.iter().for_each(|t| profiles(&mut out, t));
    out
}

fn profiles(out: &mut String, t: &ThreadBench) {
    for p in &t.profiles {
        let what = match p.generated {
            0 => format!("pp{}", p.prompt_tokens),
            n => format!("tg{n} at {}", p.context),
        };
        let threads = t.limits.threads;
        let _ = writeln!(out, "\n{what}, {threads} threads, watched: {:.2} ms\n", p.milliseconds);
        out.push_str("| operator | calls | ms | share |\n|---|---|---|---|\n");
        for o in &p.operators {
            let share = 100.0 * o.share;
            let _ = writeln!(out, "| {} | {} | {:.3} | {share:.1}% |", o.operator, number(o.calls), o.milliseconds);
        }
    }
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
