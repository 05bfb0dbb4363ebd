//! Small modules in five schemes: how far the emulator is from the quantized graph, against ExecuTorch's own lowering.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use pteron_exec::{Session, SessionOptions, Value};
use pteron_ir::{Arg, Module, Op};
use pteron_qnn::lower::LinearForm;
use pteron_quant::pt2e::{convert_module, parameters, prepare_module, put_on_lpbq_grid};
use pteron_quant::quantizer::QnnQuantizer;
use pteron_quant::scheme::{Compat, ModuleQConfig, QuantDtype};
use pteron_quant::spec::ObserverKind;

use crate::common::{calibrate, compiled, largest_difference, libraries, run, session};
use crate::modules::{Samples, module};

/// How much further the emulator may be from Pteron's graph than it is from ExecuTorch's under ExecuTorch's lowering.
const FACTOR: f64 = 1.5;

/// Steps of the output that weights in blocks may be off: one, and one more where the graph's own value lies between two.
const LPBQ_STEPS: f64 = 2.0;

#[derive(serde::Deserialize)]
struct Row {
    lowering_error: f64,
}

#[derive(serde::Deserialize)]
struct Recorded {
    samples: BTreeMap<String, Row>,
}

fn recorded() -> Recorded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lowering/samples/samples.json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn quantized(samples: &Samples, name: &str, dtype: QuantDtype, blocks: &[(&str, usize)]) -> Module {
    let config = ModuleQConfig {
        is_linear_per_channel: true,
        is_conv_per_channel: true,
        act_observer: Some(ObserverKind::MinMax),
        ..ModuleQConfig::new(dtype, Compat::ExecuTorch1_5)
    };
    let mut module = module(samples, name);
    let map = blocks.iter().map(|&(path, size)| (path.to_owned(), vec![1, size])).collect();
    let quantizer = QnnQuantizer::new("sample", config).with_block_size_map(map);
    let mut prepared = prepare_module(&mut module, &quantizer).unwrap();
    let inputs: Vec<Vec<Value>> = (0..5).map(|seed| samples.inputs(name, seed)).collect();
    calibrate(&module, &mut prepared[0], &inputs);
    let mut params = parameters(&module.graphs[0], &prepared[0]).unwrap();
    put_on_lpbq_grid(&module.graphs[0], &prepared[0], &mut params);
    convert_module(&mut module, &prepared, &[params]).unwrap();
    module
}

fn check(test: &str, name: &str) {
    let (libraries, samples, recorded) = (libraries(test), Samples::open(), recorded());
    let schemes = [
        ("8a8w", QuantDtype::Use8a8w),
        ("16a8w", QuantDtype::Use16a8w),
        ("16a4w", QuantDtype::Use16a4w),
        ("16a16w", QuantDtype::Use16a16w),
        ("8a4w", QuantDtype::Use8a4w),
    ];
    let mut wrong = String::new();
    for (scheme, dtype) in schemes {
        let converted = quantized(&samples, name, dtype, &[]);
        let inputs = samples.inputs(name, 4);
        let mut cpu = Session::new(converted.clone().into(), &SessionOptions::with_threads(2)).unwrap();
        let expected = run(&mut cpu, "forward", &inputs);
        let allowed = FACTOR * recorded.samples[&format!("{name} {scheme}")].lowering_error;
        for (release, library) in &libraries {
            for form in [LinearForm::FullyConnected, LinearForm::Conv2d] {
                let (module, done) = match compiled(library, &converted, form, false) {
                    Ok(compiled) => compiled,
                    Err(e) => {
                        wrong.push_str(&format!("{release}, {name} {scheme} {form:?}: {e}\n"));
                        continue;
                    }
                };
                let found = run(&mut session(library, &module), "forward", &inputs);
                let error = largest_difference(&expected, &found);
                if error > allowed || !done.report.is_full() {
                    let report = &done.report;
                    wrong.push_str(&format!(
                        "{release}, {name} {scheme} {form:?}: {error:e}, allowed {allowed:e}\n{report}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_linear_layer() {
    check("a_linear_layer", "lin");
}

#[test]
fn a_feed_forward_layer() {
    check("a_feed_forward_layer", "mlp");
}

#[test]
fn a_decoder_layer() {
    check("a_decoder_layer", "attn");
}

/// The scale of the last tensor that is quantized.
fn output_scale(module: &Module) -> f64 {
    let graph = &module.graphs[0];
    let last = graph.body().nodes.iter().rev().find(|&&n| graph.nodes[n].op == Op::QuantizePerTensor).unwrap();
    match graph.nodes[*last].args[1] {
        Arg::Float(scale) => scale,
        _ => panic!("no scale"),
    }
}

/// Weights in blocks, which are convolutions whatever form is asked for.
#[test]
fn weights_in_blocks() {
    let libraries = libraries("weights_in_blocks");
    let samples = Samples::open();
    for block in [16, 32, 64] {
        let converted = quantized(&samples, "lin", QuantDtype::Use16a4wBlock, &[("l", block)]);
        let inputs = samples.inputs("lin", 4);
        let mut cpu = Session::new(converted.clone().into(), &SessionOptions::with_threads(2)).unwrap();
        let expected = run(&mut cpu, "forward", &inputs);
        let scale = output_scale(&converted);
        for (release, library) in &libraries {
            for form in [LinearForm::FullyConnected, LinearForm::Conv2d] {
                let (module, done) = compiled(library, &converted, form, false).unwrap_or_else(|e| panic!("{e}"));
                assert!(done.report.is_full(), "{release}: {}", done.report);
                let found = run(&mut session(library, &module), "forward", &inputs);
                let steps = largest_difference(&expected, &found) / scale;
                assert!(steps <= LPBQ_STEPS, "{release}, blocks of {block}, {form:?}: {steps} steps");
            }
        }
    }
}
