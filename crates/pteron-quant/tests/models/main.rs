//! Whole models against ExecuTorch's own quantizers (`tools/oracle/make_pt2e_goldens.py`): what is annotated, scales and zero
//! points after the same windows, the codes of weights, the converted graph's logits.

mod golden;
mod model;
mod teacher;

use std::path::PathBuf;

use golden::Golden;
use model::Model;
use pteron_ir::Module;
use pteron_quant::pt2e::{Encodings, SlotParams, convert_module, parameters, prepare_module};

/// Scales of activations, relative.
const SCALE: f32 = 1e-5;
/// Logits, of the largest.
const LOGITS: f32 = 1e-4;
/// Logits where a 16-bit code of a query stands so near a tie that the order of a sum decides it, as in these two goldens. The
/// scale of the scores reaches from the mask's -255, so that one code of a score is 0.4% of a softmax weight. Each piece of these
/// graphs, the one that ends in the logits' codes among them, is compared on the oracle's codes as well, by [`APART`].
const LOGITS_AFTER_A_TIE: f32 = 1e-3;
/// Codes that may be one apart, where the piece of the graph before each is run on the same codes.
const APART: f64 = 1e-3;

/// Calibrates and converts the model of a golden as the golden was made, and compares everything but logits.
fn converted(golden: &Golden, scheme: &str) -> Module {
    let quantizer = golden::quantizer(scheme);
    let mut module = Model::of(scheme).build(golden);
    let mut prepared = prepare_module(&mut module, quantizer.as_ref()).unwrap();
    model::calibrate(&module, &mut prepared[0], golden);
    let replaced = golden.check_recorded(&module.graphs[0], &mut prepared[0]);
    assert!(replaced * 20 <= prepared[0].slots.len(), "{replaced} histograms differ");
    let encodings = Encodings::of(&module.graphs[0], &prepared[0]).unwrap();
    golden.compare_points(&module, &prepared[0], &encodings, SCALE);
    let params = parameters(&module.graphs[0], &prepared[0]).unwrap();
    assert_eq!(
        encodings.apply(&module.graphs[0], &prepared[0]).unwrap(),
        params,
        "parameters put back onto their graph"
    );
    convert_module(&mut module, &prepared, &[params]).unwrap();
    golden.compare_constants(&module);
    if !golden.codes.is_empty() {
        let last = model::inputs(&module, golden.windows.last().unwrap());
        let (all, apart) = teacher::compare(&module, &prepared[0], &last, &golden.codes);
        assert!(apart as f64 <= APART * all as f64, "{scheme}: {apart} of {all} codes are one apart");
    }
    module
}

fn holds(scheme: &str, logits: f32) {
    let golden = Golden::read("tiny", scheme);
    let module = converted(&golden, scheme);
    golden.compare_logits(&model::logits(&module, golden.windows.last().unwrap()), logits);
}

/// With a folder that `make_pt2e_goldens.py --text` made of glass-en: distributions over all windows as well.
#[test]
fn glass_en() {
    let Some(folder) = std::env::var_os("PTERON_PT2E_GOLDENS").map(PathBuf::from) else {
        let reason = "PTERON_PT2E_GOLDENS names no folder (tools/oracle/check_pt2e.sh makes it)";
        return pteron_testkit::skip("models::glass_en", reason);
    };
    for scheme in ["xnnpack_dynamic_qc4", "xnnpack", "qnn_8a8w", "qnn_16a8w", "qnn_16a4w"] {
        let golden = Golden::read_from(&folder, "glass", scheme);
        let module = converted(&golden, scheme);
        let rows: Vec<Vec<f32>> = golden.windows.iter().flat_map(|w| model::logits(&module, w)).collect();
        let raw = std::fs::read(folder.join(format!("glass.{scheme}.logits.f32"))).unwrap();
        let recorded: Vec<f32> = bytemuck::pod_collect_to_vec(&raw);
        let (kl, same) = golden::distributions(&recorded, &rows);
        let shown = format!("{scheme}: mean KL {kl:.1e}, same top token {:.2}% of {}", 100.0 * same, rows.len());
        // Where a flipped code changes what a whole token becomes, PyTorch is not that near to itself.
        let (own_kl, own_same) = golden.itself;
        let (most, least) = (f64::max(1e-4, 2.0 * own_kl), f64::min(0.995, 1.0 - 2.0 * (1.0 - own_same)));
        println!("{shown}; PyTorch against itself: {own_kl:.1e}, {:.2}%", 100.0 * own_same);
        assert!(kl <= most && same >= least, "{shown}");
    }
}

#[test]
fn xnnpack_static() {
    holds("xnnpack", LOGITS);
    holds("coreml_baseline_8a_c4w", LOGITS);
}

#[test]
fn linear_layers_and_embeddings() {
    for scheme in ["xnnpack_dynamic", "xnnpack_dynamic_qc4", "vulkan_8w", "embedding"] {
        holds(scheme, LOGITS);
    }
}

/// Core ML's fake-quantize modules round activations while they are calibrated.
#[test]
fn coreml() {
    holds("coreml_8a_c8w", LOGITS);
}

#[test]
fn qnn_8_bit_activations() {
    holds("qnn_8a8w", LOGITS);
    holds("qnn_8a4w", LOGITS);
}

#[test]
fn qnn_16_bit_activations() {
    holds("qnn_16a16w", LOGITS_AFTER_A_TIE);
    holds("qnn_16a8w", LOGITS_AFTER_A_TIE);
    holds("qnn_16a4w", LOGITS);
}

#[test]
fn qnn_blocks() {
    holds("qnn_16a4w_block", LOGITS);
}

/// What one graph learnt is put onto the graphs that a program has, for one token and for many; weights are folded once.
#[test]
fn encodings_go_from_the_calibrated_graph_to_those_of_a_program() {
    for scheme in ["qnn_8a8w", "qnn_16a4w"] {
        let golden = Golden::read("tiny", scheme);
        let quantizer = golden::quantizer(scheme);
        let mut calibration = Model::Static.build(&golden);
        let mut learnt = prepare_module(&mut calibration, quantizer.as_ref()).unwrap();
        model::calibrate(&calibration, &mut learnt[0], &golden);
        let encodings = Encodings::of(&calibration.graphs[0], &learnt[0]).unwrap();

        let mut program: Module = model::hybrid();
        let prepared = prepare_module(&mut program, quantizer.as_ref()).unwrap();
        let params: Vec<Vec<SlotParams>> =
            program.graphs.iter().zip(&prepared).map(|(g, p)| encodings.apply(g, p).unwrap()).collect();
        convert_module(&mut program, &prepared, &params).unwrap();
        let codes = program.constants.values().filter(|c| c.name.contains("_proj.weight_quantized")).count();
        assert_eq!(codes, 14, "{scheme}: weights of seven projections in two layers, once for both methods");
        assert_eq!(program.graphs.len(), 2);
    }
}
