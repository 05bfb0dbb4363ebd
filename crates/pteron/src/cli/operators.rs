//! `pteron operators`.

use std::fmt::Write;

use pteron::exec::has_kernel;
use pteron::ir::op::Library;
use pteron::ir::{Level, OPERATORS};
use pteron::program_format::RuntimeProfile;
use serde_json::json;

use super::low::OperatorsArgs;
use super::output::{Done, put, put_json};

fn level(l: Level) -> &'static str {
    match l {
        Level::Kernel => "kernel",
        Level::HighLevel => "high level",
        Level::Structural => "structure",
    }
}

fn mark(yes: bool) -> &'static str {
    if yes { "yes" } else { "" }
}

pub(super) fn run(a: &OperatorsArgs) -> Done {
    if a.json {
        let rows: Vec<_> = OPERATORS
            .iter()
            .map(|d| {
                json!({
                    "name": d.name,
                    "schema": d.schema_text,
                    "level": level(d.level),
                    "library": d.library().map(Library::name),
                    "executes": has_kernel(d.op),
                    "executorch_1_5_1": in_executorch(d),
                })
            })
            .collect();
        return put_json(&rows);
    }
    let mut out = String::new();
    if a.markdown {
        out.push_str(
            "# Operators\n\nThe operators of the intermediate representation. *Kernel*: ExecuTorch's runtime calls one under \
             the schema's name. *High level*: captured whole, and decomposed for targets that lack it. *Structure*: branches, \
             loops, delegates and operators outside the table. *Library*: the one of ExecuTorch that has the kernel; `custom_ops` \
             is `extension/llm/custom_ops`, `quantized` is `kernels/quantized`.\n\n\
             | operator | level | library | runs here | ExecuTorch 1.5.1 | schema |\n|---|---|---|---|---|---|\n",
        );
    }
    for d in OPERATORS {
        let (here, there) = (mark(has_kernel(d.op)), mark(in_executorch(d)));
        let library = d.library().map_or("", Library::name);
        let _ = match a.markdown {
            true => {
                let schema = d.schema_text.replace('|', "\\|");
                let schema = if schema.is_empty() { schema } else { format!("`{schema}`") };
                writeln!(out, "| `{}` | {} | {library} | {here} | {there} | {schema} |", d.name, level(d.level))
            }
            false => writeln!(out, "{:<46} {:<11} {library:<10} {}", d.name, level(d.level), d.schema_text),
        };
    }
    put(&out)
}

fn in_executorch(d: &pteron::ir::op::OpDef) -> bool {
    d.level != Level::Structural && RuntimeProfile::ExecuTorch1_5_1.has_operator(&d.op.schema().kernel_key())
}
