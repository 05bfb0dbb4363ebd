//! What is trained against is what is converted: the logits of a fake-quantized model are those of the converted one.

mod common;

use std::sync::Arc;

use pteron_exec::{Context, Session, SessionOptions, Threads, Value, ValueRef};
use pteron_ir::Module;
use pteron_quant::pt2e::{Encodings, PreparedGraph, SlotParams, convert_module, prepare_module};
use pteron_quant::recipe::{Base, Recipe};
use pteron_quant::transform::{Algorithm, LayerKind, Transform};
use pteron_tensor::Tensor;
use pteron_train::{Batch, Lora, QatOptions, ScaleMode, Target, TrainGraph, Trainer, TrainerOptions};

fn recipe(scheme: &str) -> Recipe {
    let base = match scheme.split_once(' ') {
        Some((mode, group)) => {
            let linear = pteron_quant::recipe::linear_mode(mode, group.parse().ok()).unwrap();
            Base { linear: Some(linear), algorithm: Some(Algorithm::Affine), ..Base::default() }
        }
        None => Base { pt2e: Some(scheme.to_owned()), ..Base::default() },
    };
    Recipe { base, rules: Vec::new() }
}

/// Trains for some steps; gives the run and the observers' places.
fn trained(
    recipe: &Recipe,
    bias: bool,
    qat: QatOptions,
    options: TrainerOptions,
    lora: Option<Lora>,
) -> (Trainer, Option<PreparedGraph>) {
    let mut module = common::module_with(bias, &|_| None);
    let resolved = recipe.resolve(&module).unwrap();
    let mut slots = None;
    if let Some(quantizer) = resolved.quantizer().unwrap() {
        slots = prepare_module(&mut module, &quantizer).unwrap().into_iter().next();
    }
    let choice = |path: &str, kind: LayerKind| resolved.layer(path, kind);
    let graph_options = pteron_train::TrainGraphOptions { lora, ..common::graph_options(qat) };
    let graph = TrainGraph::new(&module, slots.as_ref(), &choice, &common::is_parameter, graph_options).unwrap();
    assert!(!graph.prepared.weights.is_empty());
    let narrow = recipe.base.pt2e.as_deref().is_some_and(|s| s.contains("8a"));
    let start = |_: &pteron_quant::TensorLabel| {
        // So narrow a range that values lie outside: its ends matter.
        let (most, scale, zero) = if narrow { (255, 0.01, 128) } else { (65535, 4e-5, 32768) };
        let format = pteron_quant::format::IntFormat::new(pteron_tensor::DType::I32, 0, most).unwrap();
        let params = pteron_quant::observer::QuantParams {
            scale: vec![scale],
            zero_point: pteron_quant::observer::ZeroPoint::Int(vec![zero]),
            layout: pteron_quant::observer::Layout::PerTensor,
            format,
        };
        qat.learn_scales.then_some(pteron_train::QuantStart { range: None, params: Some(params) })
    };
    let mut trainer = Trainer::new(graph, options, Threads::of(1), &start).unwrap();
    common::steps(&mut trainer, 4);
    (trainer, slots)
}

/// The trained weights in a model of their own, converted.
fn converted(recipe: &Recipe, bias: bool, trainer: &Trainer, slots: Option<&PreparedGraph>) -> Module {
    let weight = |name: &str| {
        let constant = trainer.graph().params.iter().find(|p| p.name == name)?.constant?;
        Some(trainer.effective(constant).unwrap())
    };
    let mut module = common::module_with(bias, &weight);
    let resolved = recipe.resolve(&module).unwrap();
    if let Some(quantizer) = resolved.quantizer().unwrap() {
        let found = trainer.encodings(slots).unwrap();
        let encodings: Encodings =
            found.into_iter().map(|(label, p)| (label, SlotParams::Static(Arc::new(p)))).collect();
        let prepared = prepare_module(&mut module, &quantizer).unwrap();
        let params = encodings.apply(&module.graphs[0], &prepared[0]).unwrap();
        let converted = convert_module(&mut module, &prepared, &[params]).unwrap();
        assert!(converted[0].folded > 0);
    } else {
        let choice = |path: &str, kind: LayerKind| resolved.layer(path, kind);
        let report = Transform::new(&choice).apply(&mut [&mut module], None, &Context::new(1), &mut |_, _| {}).unwrap();
        assert!(report.quantized > 0);
    }
    module
}

fn check(scheme: &str, qat: QatOptions, scales: ScaleMode, lora: Option<Lora>) {
    check_with(scheme, false, qat, scales, lora);
}

fn check_with(scheme: &str, bias: bool, qat: QatOptions, scales: ScaleMode, lora: Option<Lora>) {
    let recipe = recipe(scheme);
    let rate = pteron_train::Schedule { peak: 1e-3, ..common::options().schedule };
    let options = TrainerOptions { scales, schedule: rate, scale_rate: 0.05, ..common::options() };
    let (mut trainer, slots) = trained(&recipe, bias, qat, options, lora);
    let (tokens, next) = common::window(9);
    let window = Batch { tokens: &tokens, target: Target::Tokens(&next) };
    let (_, expected) = trainer.evaluate(&window, true).unwrap();
    let (_, float) = trainer.evaluate(&window, false).unwrap();
    let module = converted(&recipe, bias, &trainer, slots.as_ref());
    let mut options = SessionOptions::with_threads(1);
    options.fold_weights = false;
    let mut session = Session::new(Arc::new(module), &options).unwrap();
    let input = Value::Tensor(Tensor::of(&[1, common::LENGTH], &tokens).unwrap());
    let inputs: [ValueRef<'_>; 1] = [input.as_ref()];
    let out = session.run("forward", &inputs).unwrap();
    let found = out.tensor(0).unwrap().to_f64_vec();
    assert_eq!(found.len(), expected.len());
    let far = |a: &[f32]| found.iter().zip(a).map(|(f, e)| (f - f64::from(*e)).abs()).fold(0.0, f64::max);
    assert_eq!(far(&expected), 0.0, "{scheme}: logits differ");
    assert!(far(&float) > 1e-4, "{scheme}: the quantized model is the float model");
}

const QAT: QatOptions = QatOptions { rule: pteron_train::QparamsRule::Observer, learn_scales: false };

#[test]
fn the_converted_model_is_the_trained_one() {
    for scheme in
        ["8da4w 8", "4w 16", "qnn_8a8w", "qnn_16a4w", "qnn_16a8w", "qnn_16a4w_block", "xnnpack", "xnnpack_dynamic"]
    {
        check(scheme, QAT, ScaleMode::Live, None);
    }
}

#[test]
fn so_it_is_with_frozen_and_with_learned_scales_and_with_adapters() {
    check("qnn_16a4w", QAT, ScaleMode::Frozen, None);
    for scheme in ["qnn_16a4w", "qnn_8a8w"] {
        check(scheme, QatOptions { learn_scales: true, ..QAT }, ScaleMode::Live, None);
    }
    check("qnn_8a8w", QAT, ScaleMode::Live, Some(Lora { rank: 2, alpha: 4.0 }));
    check("8da4w 8", QAT, ScaleMode::Live, Some(Lora { rank: 2, alpha: 4.0 }));
}

/// A bias's scale follows from those of the activation and the weight that it is added to: of one scale, of channels, of blocks.
#[test]
fn biases_have_derived_scales() {
    for scheme in ["qnn_8a8w", "qnn_16a4w", "qnn_16a4w_block"] {
        check_with(scheme, true, QAT, ScaleMode::Live, None);
    }
}
