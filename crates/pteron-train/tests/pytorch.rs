//! Fixed runs of 20 steps against PyTorch's: `tools/oracle/make_qat_goldens.py`.

mod common;

use pteron_exec::Threads;
use pteron_quant::annotation::QuantizationConfig;
use pteron_quant::format::QScheme;
use pteron_quant::pt2e::{PreparedGraph, prepare_module};
use pteron_quant::quantizer::PatternQuantizer;
use pteron_quant::spec::{FakeQuantKind, ObserverCtr, ObserverKind, QuantizationSpec};
use pteron_quant::transform::{Algorithm, LayerChoice, LayerKind, LinearMode};
use pteron_tensor::DType;
use pteron_train::{QatOptions, QparamsRule, ScaleMode, TrainGraph, Trainer, TrainerOptions};

fn golden(mode: &str) -> Vec<f64> {
    let all: serde_json::Value = serde_json::from_str(include_str!("goldens/qat.json")).unwrap();
    all[mode]["losses"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn check(mut trainer: Trainer, mode: &str, tolerance: impl Fn(usize) -> f64) {
    for (i, expected) in golden(mode).into_iter().enumerate() {
        let found = common::step(&mut trainer).unwrap().loss;
        let apart = (found - expected).abs();
        assert!(apart <= tolerance(i), "{mode}, step {}: {found}, PyTorch has {expected}", i + 1);
    }
}

fn trainer(
    slots: Option<&PreparedGraph>,
    module: &pteron_ir::Module,
    choice: &dyn Fn(&str, LayerKind) -> Option<LayerChoice>,
    qat: QatOptions,
    scales: ScaleMode,
) -> Trainer {
    let graph = TrainGraph::new(module, slots, choice, &common::is_parameter, common::graph_options(qat)).unwrap();
    let options = TrainerOptions { scales, ..common::options() };
    Trainer::new(graph, options, Threads::of(1), &|_| None).unwrap()
}

/// 1e-4 for five steps, 1e-3 to the last: codes at the edge of a rounding fall to either side.
fn with_codes(step: usize) -> f64 {
    if step < 5 { 1e-4 } else { 1e-3 }
}

#[test]
fn without_fake_quantization_losses_are_pytorchs() {
    let module = common::module();
    check(trainer(None, &module, &|_, _| None, QatOptions::default(), ScaleMode::Live), "float", |_| 1e-5);
}

#[test]
fn losses_of_8da4w_are_torchaos() {
    let module = common::module();
    let choice = |_: &str, kind: LayerKind| match kind {
        LayerKind::Linear => {
            Some(LayerChoice::Linear(LinearMode::Int8DynActInt4Weight { group: 8 }, Algorithm::Affine))
        }
        LayerKind::Embedding => None,
    };
    check(trainer(None, &module, &choice, QatOptions::default(), ScaleMode::Frozen), "8da4w", with_codes);
}

#[test]
fn losses_with_the_fused_observer_are_pytorchs() {
    let spec = |dtype, range: (i64, i64), qscheme, observer| QuantizationSpec {
        dtype,
        quant_min: Some(range.0),
        quant_max: Some(range.1),
        qscheme: Some(qscheme),
        ch_axis: None,
        observer,
        is_dynamic: false,
    };
    let fused = ObserverCtr::new(ObserverKind::MovingAverageMinMax);
    let fused = fused.in_fake_quant(FakeQuantKind::FusedMovingAvgObsFakeQuantize);
    let weight = ObserverCtr::new(ObserverKind::PerChannelMinMax).in_fake_quant(FakeQuantKind::FakeQuantize);
    let weight = spec(DType::I8, (-127, 127), QScheme::PerChannelSymmetric, weight);
    let config = QuantizationConfig {
        input_activation: Some(spec(DType::U8, (0, 255), QScheme::PerTensorAffine, fused)),
        output_activation: None,
        weight: Some(QuantizationSpec { ch_axis: Some(0), ..weight }),
        bias: None,
        ..QuantizationConfig::default()
    };
    let mut module = common::module();
    let prepared = prepare_module(&mut module, &PatternQuantizer::linear("fused", config)).unwrap();
    let qat = QatOptions { rule: QparamsRule::Fbgemm, learn_scales: false };
    check(trainer(prepared.first(), &module, &|_, _| None, qat, ScaleMode::Live), "fused", with_codes);
}
