//! Profiles in the form that Chrome's and Perfetto's trace viewers open.

use serde_json::{Value, json};

use super::model::{ModelBench, TraceSpan};

/// The calls of all profiles as a trace: a process for each number of threads, a track for each test, times in microseconds
/// (the format of Chrome's `about:tracing`, "Trace Event Format": complete events `X`, names as metadata events `M`).
pub fn chrome_trace(bench: &ModelBench) -> Value {
    let mut events = Vec::new();
    for (process, t) in bench.threads.iter().enumerate() {
        let name = format!("{} threads", t.n_threads);
        events.push(json!({"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}));
        for (track, p) in t.profiles.iter().enumerate() {
            let thread =
                json!({"ph": "M", "name": "thread_name", "pid": process, "tid": track, "args": {"name": p.test}});
            events.push(thread);
            events.extend(p.spans.iter().map(|s| event(s, process, track)));
        }
    }
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}

fn event(TraceSpan { span, path }: &TraceSpan, process: usize, track: usize) -> Value {
    let inner: Vec<Value> = span
        .inner
        .iter()
        .map(|e| json!({"name": e.name, "depth": e.depth, "value": e.value, "unit": e.unit}))
        .collect();
    json!({
        "ph": "X",
        "name": span.op.name(),
        "cat": if span.scalar { "scalar" } else { "operator" },
        "pid": process,
        "tid": track,
        "ts": span.start as f64 / 1e3,
        "dur": span.nanoseconds as f64 / 1e3,
        "args": {"handle": span.handle.0, "path": path, "nodes": span.nodes, "scalar": span.scalar, "inner": inner},
    })
}
