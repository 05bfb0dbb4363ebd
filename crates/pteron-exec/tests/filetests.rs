//! Runs every file of `filetests/`: the commands of `pteron_ir::filetest`, and `run`, which executes the module's first
//! graph.
//!
//! `; calls: 1 2 3 ; 0 | 4 5 6 ; 3` makes two calls; inputs are separated by `;` and given as their row-major elements, from
//! which a symbolic size follows. State lives from call to call. After `; ---` stand the outputs of each call, floats with
//! four digits, or the error.

use std::fmt::Write as _;
use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, Value, ValueRef};
use pteron_ir::filetest::{Case, Command, Output, Registry};
use pteron_ir::{Graph, Type};
use pteron_tensor::{Scalar, Tensor};

struct Run;

fn input(graph: &Graph, ty: &Type, text: &str) -> Result<Value, String> {
    let numbers = text
        .split_whitespace()
        .map(|t| t.parse::<f64>().map_err(|_| format!("`{t}` is no number")))
        .collect::<Result<Vec<_>, _>>()?;
    let first = numbers.first().copied().unwrap_or_default();
    let t = match ty {
        Type::Tensor(t) => t,
        Type::Int(_) => return Ok(Value::Int(first as i64)),
        Type::Bool => return Ok(Value::Bool(first != 0.0)),
        Type::Float => return Ok(Value::Float(first)),
    };
    let known: i64 = t.dims.iter().filter_map(|d| d.as_const()).product();
    let rest = i64::try_from(numbers.len()).unwrap_or(0) / known.max(1);
    let size = |d: &pteron_ir::SymInt| usize::try_from(d.as_const().unwrap_or(rest)).unwrap_or(0);
    let sizes: Vec<usize> = t.dims.iter().map(size).collect();
    let mut tensor = Tensor::zeros(t.dtype, &sizes).map_err(|e| e.to_string())?;
    if tensor.numel() != numbers.len() {
        return Err(format!("{} elements for {} in graph `{}`", numbers.len(), t, graph.name));
    }
    for (i, x) in numbers.into_iter().enumerate() {
        let x = if t.dtype.is_float() { Scalar::Float(x) } else { Scalar::Int(x as i64) };
        tensor.view_mut().set_scalar(i, x).ok_or("past the end")?;
    }
    Ok(Value::Tensor(tensor))
}

fn show(out: &ValueRef<'_>) -> String {
    let number = |s: Scalar| match s {
        Scalar::Float(f) => format!("{f:.4}"),
        Scalar::Int(i) => i.to_string(),
        Scalar::Bool(b) => b.to_string(),
    };
    match out {
        ValueRef::Tensor(v) => {
            let items: Vec<String> = (0..v.numel()).filter_map(|i| v.scalar(i)).map(number).collect();
            format!("{}{:?} = [{}]", v.dtype(), v.sizes(), items.join(", "))
        }
        ValueRef::Int(i) => format!("int = {i}"),
        ValueRef::Bool(b) => format!("bool = {b}"),
        ValueRef::Float(f) => format!("float = {f:.4}"),
    }
}

impl Command for Run {
    fn name(&self) -> &str {
        "run"
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let parsed = match case.parse() {
            Ok(p) => p,
            Err(output) => return Ok(output),
        };
        pteron_ir::verify::module(&parsed.module).map_err(|e| e.to_string())?;
        let Some(graph) = parsed.module.graphs.first().cloned() else { return Err("there is no graph".to_owned()) };
        let mut text = String::new();
        let mut session = match Session::new(Arc::new(parsed.module), &SessionOptions::with_threads(1)) {
            Ok(s) => s,
            Err(e) => return Ok(Output::Text(format!("; error: {e}\n"))),
        };
        for (i, call) in case.setting("calls").unwrap_or("").split('|').enumerate() {
            let parts = call.split(';').map(str::trim).filter(|p| !p.is_empty());
            let types = graph.inputs.iter().map(|&v| graph.ty(v));
            let values = types.zip(parts).map(|(ty, p)| input(&graph, ty, p)).collect::<Result<Vec<_>, _>>()?;
            let refs: Vec<ValueRef<'_>> = values.iter().map(Value::as_ref).collect();
            match session.run(&graph.name, &refs) {
                Ok(outputs) => {
                    for o in outputs.iter() {
                        writeln!(text, "; call {i}: {}", show(&o)).map_err(|e| e.to_string())?;
                    }
                }
                Err(e) => writeln!(text, "; call {i}: error: {e}").map_err(|e| e.to_string())?,
            }
        }
        Ok(Output::Text(text))
    }
}

#[test]
fn every_file_is_as_its_commands_say() {
    let mut registry = Registry::default();
    registry.add(Run);
    pteron_testkit::filetests::every(env!("CARGO_MANIFEST_DIR"), 7, |files, bless| {
        registry.run(files.iter().copied(), bless)
    });
}
