//! `pteron exec`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use pteron::Program;
use pteron::checkpoint::atomic::AtomicFile;

use super::low::ExecArgs;
use super::output::{Done, Failure, put};
use super::{high, json};

fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn read_calls(path: &PathBuf) -> Result<String, Failure> {
    if is_stream(path) {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("standard input cannot be read")?;
        return Ok(text);
    }
    Ok(std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?)
}

pub(super) fn run(a: &ExecArgs) -> Done {
    let load = high::exec_load(a)?;
    let text = read_calls(&a.calls)?;
    let at = a.calls.display();
    let calls = json::parse(&text).map_err(|e| anyhow!("{at}: {e}"))?;
    let wrong = |what: String| anyhow!("{at}: {what}");
    let calls = calls.as_array().ok_or_else(|| wrong("expected a list of calls".to_owned()))?;
    let mut parsed = Vec::with_capacity(calls.len());
    for (c, call) in calls.iter().enumerate() {
        let inputs = call.as_array().ok_or_else(|| wrong(format!("call {c}: expected a list of inputs")))?;
        let one = |(i, v)| json::input(v).map_err(|e| wrong(format!("call {c}, input {i}: {e}")));
        parsed.push(inputs.iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()?);
    }
    let out_file = if is_stream(&a.out) { None } else { Some(AtomicFile::create(&a.out)?) };
    let mut program = Program::open(&a.model, &load)?;
    let mut out = String::from("[");
    for (c, inputs) in parsed.iter().enumerate() {
        let outputs = program.call(&a.method, inputs).with_context(|| format!("call {c}"))?;
        out.push_str(if c > 0 { ", [" } else { "[" });
        for (i, o) in outputs.iter().enumerate() {
            if i > 0 {
                out.push_str(", ");
            }
            json::push_output(&mut out, o.as_ref());
        }
        out.push(']');
    }
    out.push(']');
    match out_file {
        None => put(&format!("{out}\n")),
        Some(mut file) => {
            file.write_all(out.as_bytes())?;
            file.commit()?;
            Ok(())
        }
    }
}
