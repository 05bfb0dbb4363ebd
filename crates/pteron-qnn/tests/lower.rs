//! Runs every file of `filetests/`: the commands of `pteron_ir::filetest`, and `lower`, which lowers the first graph as a whole
//! and prints it in QNN's terms. `; form: fc` makes fully connected layers of linear ones, else they become convolutions;
//! `; io: quantized` takes integers in and out.

use std::fmt::Write as _;

use pteron_ir::filetest::{Case, Command, Output, Registry};
use pteron_qnn::lower::{Boundary, LinearForm, lower};
use pteron_qnn::partition::{narrow, tag_io};

struct Lower;

impl Command for Lower {
    fn name(&self) -> &str {
        "lower"
    }

    fn run(&self, case: &Case<'_>) -> Result<Output, String> {
        let mut module = match case.parse() {
            Ok(p) => p.module,
            Err(output) => return Ok(output),
        };
        pteron_ir::verify::module(&module).map_err(|e| e.to_string())?;
        narrow(&mut module);
        if case.setting("io") == Some("quantized") {
            tag_io(&mut module.graphs[0]);
        }
        pteron_ir::verify::module(&module).map_err(|e| format!("after preparation: {e}"))?;
        let form = if case.setting("form") == Some("fc") { LinearForm::FullyConnected } else { LinearForm::Conv2d };
        let graph = &module.graphs[0];
        let boundary = Boundary {
            inputs: graph.inputs.clone(),
            outputs: graph.outputs().to_vec(),
            buffers: graph.mutations.clone(),
        };
        let lowered = lower(&module, graph, &graph.body().nodes, &boundary, form);
        let mut text = lowered.graph.to_string();
        for (n, reason) in &lowered.refused {
            writeln!(text, "refused {}: {reason}", graph.nodes[*n].op).map_err(|e| e.to_string())?;
        }
        match lowered.graph.check() {
            Err(e) if lowered.refused.is_empty() => Err(e.to_string()),
            _ => Ok(Output::Text(text.lines().map(|l| format!("; {l}\n")).collect())),
        }
    }
}

#[test]
fn every_file_is_as_its_commands_say() {
    let mut registry = Registry::default();
    registry.add(Lower);
    pteron_testkit::filetests::every(env!("CARGO_MANIFEST_DIR"), 6, |files, bless| {
        registry.run(files.iter().copied(), bless)
    });
}
