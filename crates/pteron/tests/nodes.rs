//! A quantized checkpoint against itself in float, node by node.

mod support;

use std::path::Path;
use std::sync::Arc;

use pteron::evaluation::nodes::{Codes, NodeError};
use pteron::ir::{ConstData, Module};
use pteron::quant::recipe::{Base, Recipe};
use pteron::quant::transform::LinearMode;
use pteron::tensor::{MemorySource, read_all};
use pteron::{EvalModel, Exporter, LoadOptions, Program, compare_nodes};
use support::{pteron, with_glass};

fn captured(path: &Path, base: Base) -> Module {
    let exporter = Exporter::open(path).unwrap().kv_cache(true).sdpa_with_kv_cache(true).full_logits(true);
    exporter.max_seq_length(33).max_context_length(64).quantize(Recipe { base, rules: Vec::new() }).captured().unwrap()
}

fn model(module: Module) -> EvalModel {
    let load = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    EvalModel::from_program(Program::from_module("glass-en", module, &load).unwrap(), "forward").unwrap()
}

fn compare(path: &Path, subject: Module) -> Vec<NodeError> {
    let tokens: Vec<u32> = (0..96).map(|i| i * 37 % 500).collect();
    let mut float = model(captured(path, Base::default()));
    compare_nodes(&mut model(subject), &mut float, &tokens, &[0..48, 48..96], &mut |_| true).unwrap()
}

fn int8() -> Base {
    Base { linear: Some(LinearMode::Int8), ..Base::default() }
}

#[test]
fn a_broken_scale_is_found_first() {
    let folder = with_glass();
    let path = folder.path().join("glass-en");
    for layer in ["model.layers.2.mlp.up_proj", "model.layers.0.self_attn.v_proj", "model.layers.3.self_attn.o_proj"] {
        let mut module = captured(&path, int8());
        let name = format!("{layer}.weight_quantized_scale");
        let id = module.constants.iter().find(|(_, c)| c.name.as_ref() == name).unwrap().0;
        let ConstData::Source(source) = &module.constants[id].data else { panic!("{name} has no bytes") };
        let bytes = read_all(source.as_ref()).unwrap();
        let scales: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b) * 3.0).collect();
        let shape = source.shape().to_vec();
        module.constants[id].data = ConstData::Source(Arc::new(MemorySource::of(&name, &shape, &scales).unwrap()));
        let nodes = compare(&path, module);
        // Three times the output: noise of four times the signal's power.
        assert_eq!(nodes[0].path, layer);
        assert!((nodes[0].error.sqnr_db + 10.0 * 4f64.log10()).abs() < 0.5, "{}", nodes[0].error.sqnr_db);
        assert!(nodes[1].own_sqnr_db > nodes[0].own_sqnr_db + 3.0, "{}", nodes[1].path);
    }
}

#[test]
fn equal_models_have_no_noise_and_quantized_layers_some() {
    let folder = with_glass();
    let path = folder.path().join("glass-en");
    let equal = compare(&path, captured(&path, Base::default()));
    assert!(equal.len() > 4 * 12 && equal.iter().all(|n| n.error.sqnr_db == f64::INFINITY && n.codes == Codes::None));
    let all = compare(&path, captured(&path, int8()));
    assert_eq!(all.len(), equal.len());
    // Every linear layer, however it is computed, and nothing before the first of them.
    let noisy = all.iter().filter(|n| n.operator == "aten::linear").collect::<Vec<_>>();
    assert_eq!(noisy.len(), 4 * 7 + 1);
    for n in noisy {
        let db = n.error.sqnr_db;
        assert!(db > 25.0 && db < 70.0 && n.own_sqnr_db > 25.0, "{}: {db}", n.path);
    }
    let embedding = all.iter().find(|n| n.path == "model.embed_tokens").unwrap();
    assert_eq!(embedding.error.sqnr_db, f64::INFINITY);
    // 4-bit weights with 8-bit activations: the norm's readers read codes.
    let base = Base { linear: Some(LinearMode::Int8DynActInt4Weight { group: 32 }), ..Base::default() };
    let dynamic = compare(&path, captured(&path, base));
    let norm = dynamic.iter().find(|n| n.path == "model.layers.0.input_layernorm").unwrap();
    assert!(
        norm.codes == Codes::Dynamic && norm.error.sqnr_db > 30.0 && norm.error.sqnr_db < 60.0,
        "{}",
        norm.error.sqnr_db
    );
}

#[test]
fn the_command_prints_and_draws_them() {
    let folder = with_glass();
    let text = include_str!("../assets/glass-en/LICENSE");
    std::fs::write(folder.path().join("text.txt"), text).unwrap();
    let base =
        ["eval", "glass-en", "--reference", "glass-en", "--text", "text.txt", "--window", "32", "--windows", "4"];
    let with = |more: &[&str]| {
        let args: Vec<&str> = base.iter().chain(more).copied().collect();
        pteron(folder.path(), &args)
    };
    let flags = ["-qmode", "8da4w", "-G", "32", "--nodes", "5", "--node-tokens", "64", "--report", "page.html"];
    let out = with(&[&flags[..], &["--positions", "positions.csv"]].concat()).ok();
    let rows: Vec<&str> = out.lines().skip_while(|l| !l.starts_with("node ")).skip(1).collect();
    assert_eq!(rows.len(), 5, "{out}");
    assert!(rows.iter().all(|r| r.starts_with("model.") || r.starts_with("lm_head")), "{out}");
    let page = std::fs::read_to_string(folder.path().join("page.html")).unwrap();
    assert!(page.contains("</html>") && page.matches("<figure>").count() > 20 && !page.contains("://"));
    let positions = std::fs::read_to_string(folder.path().join("positions.csv")).unwrap();
    assert_eq!(positions.lines().count(), 1 + 4 * 31);
    let json = with(&["-qmode", "int8", "--nodes", "--json"]).json();
    assert!(json["nodes"].as_array().unwrap().len() > 40 && json["nodes"][0]["sqnr_db"].is_number());
    pteron(folder.path(), &["export", "glass-en", "-o", "g.pte", "--generate-full-logits", "-kv"]).ok();
    let program = pteron(
        folder.path(),
        &[
            "eval",
            "g.pte",
            "--reference",
            "glass-en",
            "--text",
            "text.txt",
            "--window",
            "16",
            "--windows",
            "1",
            "--nodes",
        ],
    );
    assert!(program.fails(2).contains("g.pte is a program"));
}
