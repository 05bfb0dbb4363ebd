//! `pteron calibrate`.

use std::fmt::Write;

use pteron::calibration::{hex, merge, read_state, write_state};
use pteron::checkpoint::atomic::AtomicFile;
use pteron::quant::state::CalibrationState;
use pteron::{Calibrated, Exporter};
use serde_json::json;

use super::export::{Bar, failure};
use super::high;
use super::low::CalibrateArgs;
use super::output::{Done, Failure, number, put, put_json, say};

pub(super) fn run(a: &CalibrateArgs) -> Done {
    // Before any work: a folder that cannot be written to is known at once.
    drop(AtomicFile::create(&a.output)?);
    if !a.merge.is_empty() {
        let state = merge(&a.merge)?;
        write_state(&a.output, &state)?;
        return report(a, &state, None);
    }
    let Some(checkpoint) = &a.checkpoint else {
        return Err(Failure::Usage("no checkpoint: give a Hugging Face folder or a safetensors file".to_owned()));
    };
    if a.use_sdpa_with_kv_cache && !a.use_kv_cache {
        return Err(Failure::Usage("--use-sdpa-with-kv-cache needs --use-kv-cache (-kv)".to_owned()));
    }
    if a.quantization.quantize_kv_cache && !a.use_sdpa_with_kv_cache {
        return Err(Failure::Usage("--quantize-kv-cache needs --use-sdpa-with-kv-cache".to_owned()));
    }
    let shard = a.shard.as_deref().map(high::shard).transpose()?;
    let ranges = a.ranges.as_deref().map(read_state).transpose()?;
    let mut exporter = Exporter::open(checkpoint)?
        .dtype(high::dtype(a.dtype_override))
        .kv_cache(a.use_kv_cache)
        .sdpa_with_kv_cache(a.use_sdpa_with_kv_cache)
        .quantize_kv_cache(a.quantization.quantize_kv_cache)
        .allow_unexpected(a.allow_unexpected)
        .quantize(high::recipe(&a.quantization, &a.calibration.calibration_data)?)
        .calibration(high::calibration(&a.calibration, None)?);
    if a.qnn {
        let positions = a.max_context_length;
        exporter = exporter.max_seq_length(positions).max_context_length(positions).qnn(high::calibrated_qnn(a)?);
    }
    if let Some(path) = &a.params {
        exporter = exporter.params(path);
    }
    if let Some(path) = &a.tokenizer_path {
        exporter = exporter.tokenizer(path);
    }
    let bar = Bar::new();
    let done = exporter.on_progress(|p| bar.show(p, false)).calibrate(shard, ranges.as_ref());
    bar.bar.finish_and_clear();
    let done = done.map_err(failure)?;
    for w in &done.warnings {
        say(&format!("warning: {w}"));
    }
    write_state(&a.output, &done.state)?;
    report(a, &done.state, Some(&done))
}

fn report(a: &CalibrateArgs, state: &CalibrationState, run: Option<&Calibrated>) -> Done {
    let h = &state.header;
    let shard = h.shard;
    if a.json {
        return put_json(&json!({
            "state": a.output,
            "scheme": h.scheme,
            "observers": state.len(),
            "shard": { "index": shard.index, "count": shard.count },
            "windows": { "first": shard.first_window, "end": shard.end_window, "total": shard.total_windows },
            "window_tokens": h.window_tokens,
            "tokens": h.data_tokens,
            "data_sha256": hex(&h.data),
            "model_sha256": hex(&h.model),
            "kernel_tier": h.kernel_tier,
            "needs_counts": run.is_some_and(|r| r.needs_counts),
            "seconds": run.map(|r| r.seconds),
        }));
    }
    let mut out = String::new();
    let mut row = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<14} {text}");
    };
    row("state", a.output.display().to_string());
    row("scheme", h.scheme.clone());
    let windows = format!("{}..{} of {}", shard.first_window, shard.end_window, shard.total_windows);
    let part = if shard.count > 1 { format!("shard {}/{}: ", shard.index, shard.count) } else { String::new() };
    row("windows", format!("{part}{windows}, {} tokens each", h.window_tokens));
    row("observers", number(state.len() as u64));
    row("kernel tier", h.kernel_tier.clone());
    if let Some(r) = run {
        let speed = r.tokens as f64 / r.seconds.max(1e-9);
        row("time", format!("{:.2} s, {speed:.0} tokens/s", r.seconds));
    }
    let output = a.output.display();
    row(
        "next",
        match (run.is_some_and(|r| r.needs_counts), shard.count > 1) {
            (true, _) => format!(
                "histograms have their ranges; merge all {} shards, and run each again with --ranges MERGED",
                shard.count
            ),
            (false, true) => format!("pteron calibrate --merge with the files of all {} shards", shard.count),
            (false, false) => {
                let form = if a.qnn { "--qnn " } else { "" };
                format!("pteron export ... {form}--calibration-state {output}")
            }
        },
    );
    put(&out)
}
