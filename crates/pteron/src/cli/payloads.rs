//! What the payloads of a program's delegates hold, for `pteron inspect`.

use std::collections::BTreeMap;
use std::fmt::Write;

use pteron::ProgramFile;
use pteron::xnnpack::{BACKEND, Payload, QuantParams};
use serde_json::{Value as Json, json};

/// The payload of a delegate.
pub(super) struct PayloadSummary {
    method: String,
    backend: String,
    /// What it holds; a sentence if it cannot be read, nothing for a backend whose payloads are not known.
    contents: Option<Result<Contents, String>>,
}

struct Contents {
    inputs: usize,
    outputs: usize,
    nodes: BTreeMap<&'static str, usize>,
    constants: BTreeMap<String, usize>,
}

/// The payloads of all methods, in the order of the file.
pub(super) fn of(file: &ProgramFile) -> Vec<PayloadSummary> {
    let plans = &file.head().program().execution_plans;
    let all = plans.iter().flat_map(|p| p.delegates.iter().map(move |d| (p, d)));
    all.map(|(plan, d)| {
        let bytes = || -> Result<Vec<u8>, String> {
            let range = file.head().delegate_range(d).ok_or("its bytes are not in the file")?;
            let len = usize::try_from(range.end.saturating_sub(range.start)).map_err(|e| e.to_string())?;
            let mut out = vec![0; len];
            file.bytes().read_at(range.start, &mut out).map_err(|e| e.to_string())?;
            Ok(out)
        };
        let contents = (d.id == BACKEND).then(|| {
            let payload = Payload::parse(&bytes()?).map_err(|e| e.to_string())?;
            Ok(contents(&payload))
        });
        PayloadSummary { method: plan.name.clone(), backend: d.id.clone(), contents }
    })
    .collect()
}

fn contents(p: &Payload) -> Contents {
    let mut out = Contents {
        inputs: p.inputs.len(),
        outputs: p.outputs.len(),
        nodes: BTreeMap::new(),
        constants: BTreeMap::new(),
    };
    for n in &p.nodes {
        *out.nodes.entry(n.kind.name()).or_default() += 1;
    }
    for v in p.values.iter().filter(|v| v.constant.is_some()) {
        let what = match &v.quant {
            Some(QuantParams::PerChannelGroup { group_size, .. }) => {
                format!("{} in groups of {group_size}", v.datatype)
            }
            _ => v.datatype.to_string(),
        };
        *out.constants.entry(what).or_default() += 1;
    }
    out
}

fn counted<K: AsRef<str>>(list: &BTreeMap<K, usize>) -> String {
    list.iter().map(|(name, n)| format!("{} x{n}", name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Payloads that say the same in one line.
pub(super) fn text(list: &[PayloadSummary]) -> String {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for p in list {
        let line = match &p.contents {
            None => continue,
            Some(Err(e)) => format!("{}, {}: {e}", p.method, p.backend),
            Some(Ok(c)) => {
                let constants = if c.constants.is_empty() {
                    String::new()
                } else {
                    format!("; constants {}", counted(&c.constants))
                };
                let (inputs, outputs, nodes) = (c.inputs, c.outputs, counted(&c.nodes));
                format!("{}, {}: {inputs} in, {outputs} out; {nodes}{constants}", p.method, p.backend)
            }
        };
        match lines.iter_mut().find(|(l, _)| *l == line) {
            Some((_, n)) => *n += 1,
            None => lines.push((line, 1)),
        }
    }
    let mut out = String::new();
    if !lines.is_empty() {
        out.push_str("\npayloads\n");
    }
    for (line, n) in lines {
        let _ = writeln!(out, "  {n:>5} {line}");
    }
    out
}

/// A list of objects.
pub(super) fn json(list: &[PayloadSummary]) -> Json {
    let one = |p: &PayloadSummary| match &p.contents {
        None => json!({"method": p.method, "backend": p.backend}),
        Some(Err(e)) => json!({"method": p.method, "backend": p.backend, "error": e}),
        Some(Ok(c)) => json!({
            "method": p.method,
            "backend": p.backend,
            "inputs": c.inputs,
            "outputs": c.outputs,
            "nodes": c.nodes,
            "constants": c.constants,
        }),
    };
    list.iter().map(one).collect()
}
