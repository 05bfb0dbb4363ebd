//! A measured model as tables, rows and lines.

use std::fmt::Write;

use pteron::bench::{ModelBench, Test, ThreadBench};
use serde_json::{Map, Value, json};

use crate::cli::output::{bytes, number};

fn percent(share: f64) -> String {
    format!("{:.0}%", 100.0 * share)
}

fn file_name(m: &ModelBench) -> String {
    m.path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The tables: speeds in the shape of llama-bench's, load and memory, profiles.
pub(super) fn model(m: &ModelBench) -> String {
    let mut out = String::from(
        "| model | size | params | backend | threads | test | t/s | achieved | machine | share |\n\
         | --- | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    let name = format!("{} {}", file_name(m), m.constant_types);
    for t in &m.threads {
        for test in &t.tests {
            let (size, params, threads) = (bytes(m.file_bytes), number(m.constant_elements), threads(t));
            let speed = format!("{:.2} ± {:.2}", test.avg_ts, test.stddev_ts);
            let (machine, unit) = (test.machine, test.unit);
            let (done, share) = match (test.achieved, test.share) {
                (Some(a), Some(s)) => (format!("{a:.1} {unit}"), percent(s)),
                _ => ("not known: a delegate".to_owned(), String::new()),
            };
            let _ = writeln!(
                out,
                "| {name} | {size} | {params} | CPU | {threads} | {} | {speed} | {done} | {machine:.1} {unit} | {share} |",
                test.name()
            );
        }
    }
    out.push_str(
        "\n| threads | load | first token | peak RSS | peak RssAnon | read | f32 multiply-adds | pairs of bf16 | products of bytes |\n\
         | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for t in &m.threads {
        let unknown = || ("not known".to_owned(), "not known".to_owned());
        let (all, own) = t.peak_memory.map_or_else(unknown, |p| (bytes(p.resident), bytes(p.anonymous)));
        let first = t.first_token_seconds.map_or_else(String::new, |s| {
            format!("{:.1} ms after {} tokens", 1e3 * (t.load_seconds + s), t.first_token_prompt)
        });
        let l = &t.limits;
        let pairs = l.bf16_gflop_per_s.map_or_else(|| "no such instruction".to_owned(), |r| format!("{r:.0} GOP/s"));
        let _ = writeln!(
            out,
            "| {} | {:.1} ms | {first} | {all} | {own} | {:.1} GB/s | {:.0} GOP/s | {pairs} | {:.0} GOP/s |",
            threads(t),
            1e3 * t.load_seconds,
            l.memory_gb_per_s,
            l.fma_gflop_per_s,
            l.int8_gop_per_s
        );
    }
    m.threads.iter().for_each(|t| profiles(&mut out, t));
    out
}

fn threads(t: &ThreadBench) -> String {
    if t.cpu_mask.is_empty() { t.n_threads.to_string() } else { format!("{} on {}", t.n_threads, t.cpu_mask) }
}

fn profiles(out: &mut String, t: &ThreadBench) {
    for p in &t.profiles {
        let _ = writeln!(out, "\n{}, {} threads, watched: {:.2} ms\n", p.test, t.n_threads, p.milliseconds);
        out.push_str("| operator | calls | nodes | ms | share | off the fast path |\n|---|---:|---:|---:|---:|---:|\n");
        for o in &p.operators {
            let slow = if o.scalar > 0 { format!("scalar in {} calls", number(o.scalar)) } else { String::new() };
            let (calls, nodes, share) = (number(o.calls), number(o.nodes), 100.0 * o.share);
            let _ =
                writeln!(out, "| {} | {calls} | {nodes} | {:.3} | {share:.1}% | {slow} |", o.operator, o.milliseconds);
        }
    }
}

/// An object for each test, with llama-bench's names for what it has as well.
pub(super) fn rows(m: &ModelBench) -> Vec<Map<String, Value>> {
    m.threads.iter().flat_map(|t| t.tests.iter().enumerate().map(move |(i, test)| row(m, t, test, i))).collect()
}

fn row(m: &ModelBench, t: &ThreadBench, test: &Test, number: usize) -> Map<String, Value> {
    let first = t.first_token_seconds.map(|s| 1e3 * (t.load_seconds + s));
    let mut out = object(json!({
        "build_commit": env!("CARGO_PKG_VERSION"),
        "cpu_info": t.limits.instruction_set,
        "backends": "CPU",
        "model_filename": m.path,
        "model_type": m.constant_types,
        "model_size": m.file_bytes,
        "model_n_params": m.constant_elements,
        "n_threads": t.n_threads,
        "cpu_mask": t.cpu_mask,
        "type_k": m.cache_type,
        "type_v": m.cache_type,
    }));
    out.extend(object(serde_json::to_value(test).unwrap_or_default()));
    out.extend(object(json!({
        "load_ms": 1e3 * t.load_seconds,
        "first_token_ms": first,
        "first_token_prompt": t.first_token_prompt,
        "peak_rss_bytes": t.peak_memory.map(|p| p.resident),
        "peak_rss_anon_bytes": t.peak_memory.map(|p| p.anonymous),
        "limits": t.limits,
    })));
    if let Some(p) = t.profiles.get(number) {
        out.extend(object(json!({"profile": p})));
    }
    out
}

fn object(v: Value) -> Map<String, Value> {
    if let Value::Object(o) = v { o } else { Map::new() }
}

/// The rows' plain fields, comma-separated.
pub(super) fn csv(m: &ModelBench) -> String {
    let rows = rows(m);
    let plain = |v: &Value| !v.is_array() && !v.is_object();
    let names: Vec<&String> =
        rows.first().map(|r| r.iter().filter(|(_, v)| plain(v)).map(|(k, _)| k).collect()).unwrap_or_default();
    let quoted = |s: &str| format!("\"{}\"", s.replace('"', "\"\""));
    let mut out = names.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(",") + "\n";
    for r in &rows {
        let cell = |name: &&String| match r.get(*name) {
            Some(Value::String(s)) => quoted(s),
            None | Some(Value::Null) => String::new(),
            Some(v) => v.to_string(),
        };
        out.push_str(&(names.iter().map(cell).collect::<Vec<_>>().join(",") + "\n"));
    }
    out
}
