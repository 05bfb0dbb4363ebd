//! `pteron inspect`.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use pteron::checkpoint::{Checkpoint, Description, read_limited};
use pteron::ir::MetaValue;
use pteron::models::ModelConfig;
use pteron::program_format::{
    MethodSummary, MissingOperator, PortSummary, ProgramSummary, RuntimeProfile, missing_operators, summary,
};
use pteron::pte::{BundledProgram, EtDump, dump};
use pteron::tensor::natural_order;
use pteron::{LoadMode, ProgramFile, open_data};
use serde_json::{Value as Json, json};

use super::low::{InspectArgs, RuntimeArg};
use super::output::{Done, Failure, bytes, number, put, put_json, say};
use super::payloads;

/// What a path holds, as far as this command tells apart.
enum What {
    Program,
    Data,
    Profile,
    Checkpoint,
}

fn what(path: &Path) -> Result<What, Failure> {
    if path.is_dir() {
        return Ok(What::Checkpoint);
    }
    let mut prefix = [0u8; 16];
    let mut file = std::fs::File::open(path).with_context(|| format!("{}: cannot be opened", path.display()))?;
    let n =
        std::io::Read::read(&mut file, &mut prefix).with_context(|| format!("{}: cannot be read", path.display()))?;
    // A dump's table comes after its length.
    let (id, sized) = (prefix[..n].get(4..8).unwrap_or_default(), prefix[..n].get(8..12).unwrap_or_default());
    let numbered = |id: &[u8], letters: &[u8]| id.starts_with(letters) && id.iter().skip(2).all(u8::is_ascii_digit);
    Ok(match id {
        b"BP08" => What::Program,
        _ if id.len() == 4 && numbered(id, b"ET") => What::Program,
        _ if id.len() == 4 && numbered(id, b"FT") => What::Data,
        _ if sized.starts_with(b"ED") || id.starts_with(b"ED") => What::Profile,
        // What the file is not says its reader best.
        _ => match path.extension().and_then(|e| e.to_str()) {
            Some("pte" | "bpte") => What::Program,
            Some("ptd") => What::Data,
            Some("etdp") => What::Profile,
            _ => What::Checkpoint,
        },
    })
}

pub(super) fn run(a: &InspectArgs) -> Done {
    let what = what(&a.file)?;
    let needs_program = [(a.runtime.is_some(), "--runtime"), (a.dump, "--dump"), (a.ir, "--ir")];
    if let (false, Some((_, flag))) = (matches!(what, What::Program), needs_program.iter().find(|(on, _)| *on)) {
        return Err(Failure::Usage(format!("{flag} needs a program (.pte or .bpte), {} is none", a.file.display())));
    }
    match what {
        What::Program => program(a),
        What::Data => data(a),
        What::Profile => profile(a),
        What::Checkpoint => checkpoint(a),
    }
}

fn program(a: &InspectArgs) -> Done {
    let file = ProgramFile::open(&a.file, LoadMode::Mmap)?;
    if a.dump {
        return put(&dump::program(file.head().program()));
    }
    if a.ir {
        let lifted = file.lift(&[], LoadMode::Mmap)?;
        for n in &lifted.notes {
            say(&format!("note: {n}"));
        }
        return put(&pteron::ir::print::module(&lifted.module));
    }
    let s = summary(file.head());
    let cases = match file.bundle() {
        None => None,
        Some(all) => {
            let parsed = BundledProgram::parse(all).map_err(|e| anyhow!("{}: {e}", a.file.display()))?;
            Some(parsed.suites.iter().map(|s| (s.method_name.clone(), s.cases.len())).collect::<Vec<_>>())
        }
    };
    let lacks = a.runtime.map(|r| (r, missing(&file, r)));
    if a.json {
        let mut value = program_json(&s);
        if let Json::Object(o) = &mut value {
            o.insert("payloads".into(), payloads::json(&payloads::of(&file)));
        }
        if let (Json::Object(o), Some(cases)) = (&mut value, &cases) {
            o.insert("test_cases".into(), cases.iter().map(|(m, n)| json!({"method": m, "cases": n})).collect());
        }
        if let (Json::Object(o), Some((r, m))) = (&mut value, &lacks) {
            let rows: Vec<_> = m
                .iter()
                .map(|m| json!({"name": m.key, "kind": kind(m), "methods": m.methods, "calls": m.calls}))
                .collect();
            o.insert("missing".into(), json!({"runtime": profile_of(*r).name(), "operators": rows}));
        }
        put_json(&value)?;
    } else {
        let mut out = program_text(&s);
        out.push_str(&payloads::text(&payloads::of(&file)));
        for (method, n) in cases.iter().flatten() {
            let _ = writeln!(out, "\ntest cases of {method}: {n}");
        }
        if let Some((r, m)) = &lacks {
            let name = profile_of(*r).name();
            if m.is_empty() {
                let _ = writeln!(out, "\n{name} has every operator and backend that the program calls");
            } else {
                let _ = writeln!(out, "\n{name} lacks:");
            }
            for m in m {
                let _ = writeln!(out, "  {} {} ({} calls in {})", kind(m), m.key, m.calls, m.methods.join(", "));
            }
        }
        put(&out)?;
    }
    match lacks {
        Some((_, m)) if !m.is_empty() => Err(Failure::Told),
        _ => Ok(()),
    }
}

fn profile_of(r: RuntimeArg) -> RuntimeProfile {
    match r {
        RuntimeArg::Executorch15 => RuntimeProfile::ExecuTorch1_5_1,
        RuntimeArg::Pteron => RuntimeProfile::Pteron,
    }
}

fn kind(m: &MissingOperator) -> &'static str {
    if m.is_backend { "backend" } else { "operator" }
}

/// What the runtime lacks. The backends of this program are known here.
fn missing(file: &ProgramFile, r: RuntimeArg) -> Vec<MissingOperator> {
    let mut rows = missing_operators(file.head(), profile_of(r));
    if r == RuntimeArg::Pteron {
        let delegates = pteron::delegates(None);
        let here = delegates.names();
        rows.retain(|m| !m.is_backend || !here.contains(&m.key.as_str()));
    }
    rows
}

/// A few lines about a program.
pub(super) fn brief(path: &Path) -> Result<String, Failure> {
    let file = ProgramFile::open(path, LoadMode::Mmap)?;
    let s = summary(file.head());
    let mut out = String::new();
    for m in &s.methods {
        let _ = writeln!(out, "{}({}) -> {}", m.name, ports(&m.inputs), ports(&m.outputs));
        let counts: Vec<_> = m.operators.iter().take(6).map(|c| format!("{} x{}", c.name, c.count)).collect();
        let _ = writeln!(out, "  {} instructions: {}, ...", m.instructions, counts.join(", "));
    }
    for m in &s.metadata {
        let _ = writeln!(out, "{} = {}", m.name, values(&m.values));
    }
    let lacks = missing(&file, RuntimeArg::Executorch15).len();
    let _ = writeln!(out, "operators that ExecuTorch 1.5.1 lacks: {lacks}");
    Ok(out)
}

fn ports(list: &[PortSummary]) -> String {
    let one = |p: &PortSummary| match &p.name {
        Some(n) => format!("{n}: {}", p.ty),
        None => p.ty.clone(),
    };
    list.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn meta_text(v: &Result<MetaValue, String>) -> String {
    match v {
        Ok(MetaValue::Int(i)) => i.to_string(),
        Ok(MetaValue::Bool(b)) => b.to_string(),
        Ok(MetaValue::Float(f)) => format!("{f:?}"),
        Ok(MetaValue::Str(s)) => format!("{s:?}"),
        Ok(MetaValue::Tensor(t)) => format!("{}{:?}", t.dtype(), t.sizes()),
        Err(other) => other.clone(),
    }
}

fn meta_json(v: &Result<MetaValue, String>) -> Json {
    match v {
        Ok(MetaValue::Int(i)) => json!(i),
        Ok(MetaValue::Bool(b)) => json!(b),
        Ok(MetaValue::Float(f)) => json!(f),
        Ok(MetaValue::Str(s)) => json!(s),
        other => json!(meta_text(other)),
    }
}

fn values(list: &[Result<MetaValue, String>]) -> String {
    list.iter().map(meta_text).collect::<Vec<_>>().join(", ")
}

fn program_text(s: &ProgramSummary) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "ExecuTorch program, {}", bytes(s.file_bytes));
    let _ = writeln!(out, "  description    {}", bytes(s.program_bytes));
    let _ = writeln!(out, "  constants      {}", bytes(s.constant_bytes));
    if s.mutable_bytes > 0 {
        let _ = writeln!(out, "  initial state  {}", bytes(s.mutable_bytes));
    }
    if !s.named_data.is_empty() {
        let _ = writeln!(out, "  named data     {} ({} entries)", bytes(s.named_data_bytes), s.named_data.len());
    }
    for m in &s.methods {
        method_text(&mut out, m);
    }
    if !s.metadata.is_empty() {
        let _ = writeln!(out, "\nconstant methods");
    }
    for m in &s.metadata {
        let _ = writeln!(out, "  {} = {}", m.name, values(&m.values));
    }
    for n in &s.notes {
        let _ = writeln!(out, "\nnote: {n}");
    }
    out
}

fn method_text(out: &mut String, m: &MethodSummary) {
    let _ = writeln!(out, "\nmethod {}", m.name);
    for (name, list) in [("input", &m.inputs), ("output", &m.outputs)] {
        for (i, p) in list.iter().enumerate() {
            let label = p.name.as_ref().map(|n| format!(" {n}")).unwrap_or_default();
            let planned = if p.planned { "" } else { ", memory of the caller" };
            let _ = writeln!(out, "  {name} {i}{label}: {}{planned}", p.ty);
        }
    }
    for arena in &m.arenas {
        let _ = writeln!(out, "  memory {}: {}", arena.memory, bytes(arena.bytes));
    }
    let _ = writeln!(out, "  constants: {} of {}", m.constants, bytes(m.constant_bytes));
    if !m.named_buffers.is_empty() {
        const SHOWN: usize = 2;
        let more = m.named_buffers.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(", and {more} more (--json has all)") } else { String::new() };
        let shown: Vec<&str> = m.named_buffers.iter().take(SHOWN).map(String::as_str).collect();
        let _ = writeln!(out, "  buffers: {}{more}", shown.join(", "));
    }
    if !m.external_constants.is_empty() {
        let _ = writeln!(out, "  constants in a .ptd: {}", m.external_constants.join(", "));
    }
    for d in &m.delegates {
        let _ = writeln!(out, "  delegate {}: {}, {} calls", d.backend, bytes(d.bytes), d.calls);
    }
    let _ = writeln!(out, "  instructions: {}", m.instructions);
    for c in m.operators.iter().chain(&m.control) {
        let _ = writeln!(out, "  {:>7} {}", c.count, c.name);
    }
}

fn program_json(s: &ProgramSummary) -> Json {
    let port = |p: &PortSummary| json!({"name": p.name, "type": p.ty, "bytes": p.bytes, "planned": p.planned});
    let count = |c: &pteron::program_format::Count| json!({"name": c.name, "count": c.count});
    let method = |m: &MethodSummary| {
        json!({
            "name": m.name,
            "inputs": m.inputs.iter().map(port).collect::<Vec<_>>(),
            "outputs": m.outputs.iter().map(port).collect::<Vec<_>>(),
            "instructions": m.instructions,
            "operators": m.operators.iter().map(count).collect::<Vec<_>>(),
            "control": m.control.iter().map(count).collect::<Vec<_>>(),
            "delegates": m.delegates.iter().map(|d| json!({
                "backend": d.backend, "bytes": d.bytes, "compile_specs": d.compile_specs, "calls": d.calls,
            })).collect::<Vec<_>>(),
            "memory": m.arenas.iter().map(|a| json!({"memory": a.memory, "bytes": a.bytes})).collect::<Vec<_>>(),
            "buffers": m.named_buffers,
            "external_constants": m.external_constants,
            "constants": m.constants,
            "constant_bytes": m.constant_bytes,
        })
    };
    let metadata: serde_json::Map<String, Json> =
        s.metadata.iter().map(|m| (m.name.clone(), m.values.iter().map(meta_json).collect())).collect();
    json!({
        "kind": "program",
        "file_bytes": s.file_bytes,
        "program_bytes": s.program_bytes,
        "constant_bytes": s.constant_bytes,
        "mutable_bytes": s.mutable_bytes,
        "named_data_bytes": s.named_data_bytes,
        "named_data": s.named_data,
        "extended_header": s.extended_header,
        "methods": s.methods.iter().map(method).collect::<Vec<_>>(),
        "metadata": metadata,
        "notes": s.notes,
    })
}

fn data(a: &InspectArgs) -> Done {
    let file = open_data(&a.file, LoadMode::Mmap)?;
    let total: u64 = file.head.entries.iter().map(|e| e.range.end - e.range.start).sum();
    let mut entries: Vec<_> = file.head.entries.iter().collect();
    entries.sort_by(|a, b| natural_order(&a.key, &b.key));
    let shape = |e: &pteron::pte::PtdEntry| {
        e.layout.as_ref().map(|l| format!("{}{:?}", l.scalar_type, l.sizes)).unwrap_or_else(|| "bytes".to_owned())
    };
    if a.json {
        let entry = |e: &&pteron::pte::PtdEntry| json!({"key": e.key, "type": shape(e), "bytes": e.range.end - e.range.start, "segment": e.segment_index});
        let entries: Vec<_> = entries.iter().map(entry).collect();
        return put_json(&json!({"kind": "data", "bytes": total, "entries": entries}));
    }
    let mut out = format!("ExecuTorch data, {} in {} entries\n", bytes(total), file.head.entries.len());
    for e in entries {
        let _ = writeln!(out, "  {}: {}, {}", e.key, shape(e), bytes(e.range.end - e.range.start));
    }
    put(&out)
}

/// Most bytes of a profile dump.
const MAX_DUMP_BYTES: u64 = 1 << 30;

fn profile(a: &InspectArgs) -> Done {
    let text = read_limited(&a.file, MAX_DUMP_BYTES)?;
    let dump = EtDump::parse(&text).map_err(|e| anyhow!("{}: {e}", a.file.display()))?;
    let mut rows: Vec<(String, u64, u64)> = Vec::new();
    for (_, e) in dump.profile_events() {
        let name = e.name.clone().or(e.delegate_debug_id_str.clone()).unwrap_or_else(|| "(no name)".to_owned());
        let spent = e.end_time.saturating_sub(e.start_time);
        match rows.iter_mut().find(|r| r.0 == name) {
            Some(r) => {
                r.1 += 1;
                r.2 = r.2.saturating_add(spent);
            }
            None => rows.push((name, 1, spent)),
        }
    }
    rows.sort_by_key(|r| std::cmp::Reverse(r.2));
    if a.json {
        let blocks: Vec<_> = dump.run_data.iter().map(|r| json!({"name": r.name, "events": r.events.len()})).collect();
        let events: Vec<_> = rows.iter().map(|(n, c, t)| json!({"name": n, "count": c, "ticks": t})).collect();
        return put_json(&json!({"kind": "profile", "blocks": blocks, "events": events}));
    }
    let mut out = format!("ExecuTorch profile dump, {} blocks\n", dump.run_data.len());
    for r in &dump.run_data {
        let _ = writeln!(out, "  block {}: {} events", r.name.as_deref().unwrap_or("(no name)"), r.events.len());
    }
    let _ = writeln!(out, "{:>12} {:>8}  event", "ticks", "count");
    for (name, count, ticks) in rows {
        let _ = writeln!(out, "{ticks:>12} {count:>8}  {name}");
    }
    put(&out)
}

fn checkpoint(a: &InspectArgs) -> Done {
    let c = Checkpoint::open(&a.file)?;
    // A file of tensors need not be a model.
    let config = match c.description() {
        Description::HuggingFace { config: None } | Description::Meta { params: None } => None,
        _ => Some(ModelConfig::from_checkpoint(&c)),
    };
    let generation = c.generation_config()?;
    let tensor =
        |t: pteron::checkpoint::TensorInfo<'_>| (t.name.to_owned(), format!("{}{:?}", t.encoding, t.shape), t.bytes);
    let mut tensors: Vec<_> = c.tensors().map(tensor).collect();
    tensors.sort_by(|a, b| natural_order(&a.0, &b.0));
    let files: Vec<_> = c.files().map(|p| p.display().to_string()).collect();
    if a.json {
        let model = match &config {
            None => Json::Null,
            Some(Err(e)) => json!({"error": e.to_string()}),
            Some(Ok(m)) => json!({
                "architecture": m.architecture.class_name(), "dim": m.dim, "n_layers": m.n_layers,
                "n_heads": m.n_heads, "n_kv_heads": m.n_kv_heads, "head_dim": m.head_dim, "hidden_dim": m.hidden_dim,
                "vocab_size": m.vocab_size, "max_position_embeddings": m.max_position_embeddings,
                "tie_word_embeddings": m.tie_word_embeddings,
            }),
        };
        let tensors: Vec<_> = tensors.iter().map(|(n, t, b)| json!({"name": n, "type": t, "bytes": b})).collect();
        return put_json(&json!({
            "kind": "checkpoint", "files": files, "model": model, "parameters": c.num_parameters(),
            "bytes": c.total_bytes(), "tensors": tensors, "warnings": c.warnings(),
            "eos_token_ids": generation.as_ref().map(|g| g.eos_token_ids.clone()),
        }));
    }
    let mut out = String::new();
    let (count, size) = (number(c.num_parameters()), bytes(c.total_bytes()));
    let _ = writeln!(out, "checkpoint, {count} elements in {} tensors, {size}", tensors.len());
    for f in &files {
        let _ = writeln!(out, "  file {f}");
    }
    match &config {
        None => out.push_str("  no file that says which model it is\n"),
        Some(Err(e)) => {
            let _ = writeln!(out, "  {e}");
        }
        Some(Ok(m)) => {
            let _ = writeln!(
                out,
                "  {}: {} layers of {}, {} heads ({} of keys) of {}, feed-forward {}, vocabulary {}, {} positions",
                m.architecture.class_name(),
                m.n_layers,
                m.dim,
                m.n_heads,
                m.n_kv_heads,
                m.head_dim,
                m.hidden_dim,
                m.vocab_size,
                m.max_position_embeddings
            );
        }
    }
    for w in c.warnings() {
        let _ = writeln!(out, "  warning: {w}");
    }
    for (name, ty, size) in &tensors {
        let _ = writeln!(out, "  {name}: {ty}, {}", bytes(*size));
    }
    put(&out)
}
