//! Runs every file of `filetests/`: the commands of `pteron_ir::filetest`, and `lower`, which lowers the first graph as a whole
//! and prints it in QNN's terms. `; form: fc` makes fully connected layers of linear ones, else they become convolutions;
//! `; io: quantized` takes integers in and out.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

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

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "pir") {
            out.push(path);
        }
    }
}

#[test]
fn every_file_is_as_its_commands_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("filetests");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    let texts: Vec<(String, String)> = paths
        .iter()
        .map(|p| (p.strip_prefix(&root).unwrap().display().to_string(), fs::read_to_string(p).unwrap()))
        .collect();
    let mut write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    let write: &mut dyn FnMut(&str, &str) = &mut write;
    let bless = std::env::var_os("BLESS").is_some_and(|v| v == "1").then_some(write);
    let mut registry = Registry::default();
    registry.add(Lower);
    let texts = texts.iter().map(|(name, text)| (name.as_str(), text.as_str()));
    let count = registry.run(texts, bless).unwrap_or_else(|e| panic!("{e}"));
    assert!(count >= 6, "only {count} files in {}", root.display());
}
