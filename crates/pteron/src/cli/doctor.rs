//! `pteron doctor`.

use std::fmt::Write;

use pteron::doctor::{self, HOW_TO_GET, QnnReport};
use pteron::qnn::soc::SOCS;
use pteron::qnn::{BACKEND, QnnError, SYSTEM};
use serde_json::{Value as Json, json};

use super::low::DoctorArgs;
use super::output::{Done, Failure, bytes, put, put_json};

pub(super) fn run(a: &DoctorArgs) -> Done {
    let report = doctor::qnn(a.qnn.qnn_sdk.as_deref());
    if a.json {
        put_json(&as_json(&report))?;
    } else {
        put(&as_text(&report))?;
    }
    if report.is_broken() { Err(Failure::Told) } else { Ok(()) }
}

fn backends() -> Vec<String> {
    pteron::delegates(None).names().into_iter().map(str::to_owned).collect()
}

fn as_json(r: &QnnReport) -> Json {
    let looked = match &r.problem {
        Some(QnnError::NotFound { looked }) => looked.clone(),
        _ => Vec::new(),
    };
    json!({
        "pteron": env!("CARGO_PKG_VERSION"),
        "instruction_set": pteron::host::instruction_set(),
        "threads": pteron::host::default_threads(),
        "memory_bytes": pteron::host::physical_memory(),
        "backends": backends(),
        "qnn": {
            "found": r.sdk.is_some(),
            "folder": r.sdk.as_ref().map(|s| s.folder().display().to_string()),
            "found_through": r.sdk.as_ref().map(|s| s.origin().to_string()),
            "libraries": r.sdk.as_ref().map(libraries),
            "library": r.info.as_ref().map(|i| json!({
                "provider": i.provider,
                "backend_id": i.backend_id,
                "build": i.build,
                "core_api": i.core.to_string(),
                "backend_api": i.backend.to_string(),
                "system_api": i.system.map(|v| v.to_string()),
            })),
            "operators": r.operations,
            "test": r.test.as_ref().map(|t| json!({
                "soc": t.soc.name,
                "context_bytes": t.binary_bytes,
                "compile_seconds": t.compile.as_secs_f64(),
                "run_seconds": t.run.as_secs_f64(),
            })),
            "problem": r.problem.as_ref().map(ToString::to_string),
            "looked_at": looked,
            "how_to_get": if r.sdk.is_some() { Vec::new() } else { HOW_TO_GET.to_vec() },
            "socs": SOCS.iter().map(|s| json!({
                "name": s.name, "model": s.model, "htp": s.arch.to_string(), "vtcm_mb": s.vtcm_mb,
                "weight_sharing": s.shares_weights(),
            })).collect::<Vec<_>>(),
        },
    })
}

fn libraries(sdk: &pteron::qnn::Sdk) -> Vec<&'static str> {
    let system = sdk.system().is_file().then_some(SYSTEM);
    [BACKEND].into_iter().chain(system).chain(sdk.others()).collect()
}

fn as_text(r: &QnnReport) -> String {
    let mut out = String::new();
    let memory = pteron::host::physical_memory().map_or_else(|| "unknown".to_owned(), bytes);
    // Writing to a string does not fail.
    let _ = writeln!(out, "Pteron {} ({})", env!("CARGO_PKG_VERSION"), pteron::host::instruction_set());
    let _ = writeln!(out, "  threads   {}", pteron::host::default_threads());
    let _ = writeln!(out, "  memory    {memory}");
    let _ = writeln!(out, "  backends  {}", backends().join(", "));
    let _ = writeln!(out, "\nQualcomm QNN");
    if let Some(sdk) = &r.sdk {
        let _ = writeln!(out, "  folder    {} (through {})", sdk.folder().display(), sdk.origin());
        let _ = writeln!(out, "  libraries {}", libraries(sdk).join(", "));
    }
    if let Some(i) = &r.info {
        let _ = writeln!(out, "  release   {} ({}, backend {})", i.build, i.provider, i.backend_id);
        let system = i.system.map_or_else(|| "missing".to_owned(), |v| v.to_string());
        let _ = writeln!(out, "  versions  core {}, backend {}, system {system}", i.core, i.backend);
    }
    if let Some(n) = r.operations {
        let _ = writeln!(out, "  operators {n}");
    }
    if let Some(t) = &r.test {
        let (compile, run) = (t.compile.as_secs_f64() * 1e3, t.run.as_secs_f64() * 1e3);
        let _ = writeln!(
            out,
            "  test      one addition for {}: compiled in {compile:.0} ms, loaded and run in {run:.0} ms, right",
            t.soc.name
        );
    }
    match &r.problem {
        Some(QnnError::NotFound { looked }) => {
            let _ = writeln!(out, "  not found; everything but export --qnn and running QNN programs works without it");
            for place in looked {
                let _ = writeln!(out, "  looked at {place}");
            }
            for way in HOW_TO_GET {
                let _ = writeln!(out, "  {way}");
            }
        }
        Some(problem) => {
            let _ = writeln!(out, "  problem   {problem}");
        }
        None => {}
    }
    let _ = writeln!(out, "\n  SoC        model  HTP  VTCM MiB  weight sharing");
    for s in SOCS {
        let arch = s.arch.to_string();
        let sharing = if s.shares_weights() { "yes" } else { "no" };
        let _ = writeln!(out, "  {:<10} {:>5}  {arch:<4} {:>7}  {sharing}", s.name, s.model, s.vtcm_mb);
    }
    out
}
