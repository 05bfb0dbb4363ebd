//! What must hold of a run: the same on any number of threads, resumed as if never stopped, and an end that names what went bad.

mod common;

use pteron_exec::Threads;
use pteron_quant::format::IntFormat;
use pteron_quant::observer::{Layout, QuantParams, ZeroPoint};
use pteron_quant::pt2e::prepare_module;
use pteron_quant::recipe::{Base, Recipe};
use pteron_quant::transform::{Algorithm, LayerChoice, LayerKind, LinearMode};
use pteron_tensor::DType;
use pteron_train::{
    Batch, Identity, Lora, Loss, ParamKind, QatOptions, QuantStart, Target, TrainError, TrainGraph, Trainer,
    TrainerOptions,
};

fn choice(_: &str, kind: LayerKind) -> Option<LayerChoice> {
    let mode = LinearMode::Int8DynActInt4Weight { group: 16 };
    (kind == LayerKind::Linear).then_some(LayerChoice::Linear(mode, Algorithm::Affine))
}

fn trainer(threads: usize, lora: Option<Lora>) -> Trainer {
    let options = pteron_train::TrainGraphOptions { lora, ..common::graph_options(QatOptions::default()) };
    let graph = TrainGraph::new(&common::module(), None, &choice, &common::is_parameter, options).unwrap();
    Trainer::new(graph, common::options(), Threads::of(threads), &|_| None).unwrap()
}

/// A run whose scales are learned, of activations as well.
fn learning(threads: usize) -> Trainer {
    let mut module = common::module();
    let base = Base { pt2e: Some("qnn_8a8w".to_owned()), ..Base::default() };
    let resolved = Recipe { base, rules: Vec::new() }.resolve(&module).unwrap();
    let slots = prepare_module(&mut module, &resolved.quantizer().unwrap().unwrap()).unwrap();
    let qat = QatOptions { learn_scales: true, ..QatOptions::default() };
    let options = common::graph_options(qat);
    let graph = TrainGraph::new(&module, slots.first(), &|_, _| None, &common::is_parameter, options).unwrap();
    let params = QuantParams {
        scale: vec![0.02],
        zero_point: ZeroPoint::Int(vec![120]),
        layout: Layout::PerTensor,
        format: IntFormat::new(DType::U8, 0, 255).unwrap(),
    };
    let start = |_: &pteron_quant::TensorLabel| Some(QuantStart { range: None, params: Some(params.clone()) });
    let options = TrainerOptions { scale_rate: 0.01, ..common::options() };
    Trainer::new(graph, options, Threads::of(threads), &start).unwrap()
}

fn identity() -> Identity {
    Identity { model: "m".into(), data: "d".into(), settings: "s".into() }
}

#[test]
fn a_run_is_the_same_on_any_number_of_threads() {
    let bytes = |mut t: Trainer| {
        common::steps(&mut t, 3);
        t.to_bytes(&identity())
    };
    assert!(bytes(trainer(1, None)) == bytes(trainer(3, None)));
    assert!(bytes(learning(1)) == bytes(learning(3)));
}

#[test]
fn a_resumed_run_goes_on_to_the_same_bits() {
    let forms: [&dyn Fn(usize) -> Trainer; 2] = [&|threads| trainer(threads, None), &learning];
    for make in forms {
        let (mut straight, mut resumed) = (make(1), make(2));
        common::steps(&mut straight, 2);
        let saved = straight.to_bytes(&identity());
        resumed.resume(&saved, &identity()).unwrap();
        assert_eq!(resumed.steps(), 2);
        for _ in 0..2 {
            assert_eq!(common::step(&mut straight).unwrap(), common::step(&mut resumed).unwrap());
        }
        assert!(straight.to_bytes(&identity()) == resumed.to_bytes(&identity()));
    }
}

/// The ends of a learned range move by shares of themselves; where their ways differ, the zero point moves in steps of codes.
#[test]
fn learned_zero_points_move() {
    let mut t = learning(1);
    let zeros = |t: &Trainer| {
        let slots = t.graph().params.iter().enumerate();
        let of = slots.filter(|(_, p)| matches!(p.kind, ParamKind::ZeroPoint(_)));
        of.map(|(i, _)| t.parameter(i)[0]).collect::<Vec<f32>>()
    };
    let before = zeros(&t);
    common::steps(&mut t, 4);
    let moved = before.iter().zip(zeros(&t)).filter(|(a, b)| (*a - b).abs() > 0.1).count();
    assert!(moved > 0, "none of {} zero points moved", before.len());
}

#[test]
fn what_is_not_the_runs_own_state_is_refused() {
    let mut t = trainer(1, None);
    common::step(&mut t).unwrap();
    let saved = t.to_bytes(&identity());
    let said = |t: &mut Trainer, bytes: &[u8], identity: &Identity| t.resume(bytes, identity).unwrap_err().to_string();
    let other = Identity { model: "another".into(), ..identity() };
    assert!(said(&mut t, &saved, &other).contains("another model: found m, expected another"));
    let other = Identity { settings: "x".into(), ..identity() };
    assert!(said(&mut t, &saved, &other).contains("other settings"));
    assert!(said(&mut t, b"PK", &identity()).contains("damaged"));
    assert!(said(&mut t, &[7; 100], &identity()).contains("no checkpoint of a run"));
    let mut cut = saved.clone();
    cut.truncate(saved.len() - 4);
    assert!(said(&mut t, &cut, &identity()).contains("damaged"));
    let mut flipped = saved.clone();
    flipped[saved.len() / 2] ^= 1;
    assert!(said(&mut t, &flipped, &identity()).contains("damaged"));
    assert_eq!(t.steps(), 1);
    assert!(t.to_bytes(&identity()) == saved);
}

#[test]
fn adapters_train_and_the_base_stays() {
    let mut t = trainer(1, Some(Lora { rank: 4, alpha: 8.0 }));
    let q = t.graph().params.iter().find(|p| p.name.ends_with("0.self_attn.q_proj.weight")).unwrap().constant.unwrap();
    let norm = t.graph().params.iter().find(|p| p.name == "model.norm.weight").unwrap().constant.unwrap();
    let before = (t.effective(q).unwrap(), t.effective(norm).unwrap());
    let first = common::step(&mut t).unwrap().loss;
    for _ in 0..4 {
        common::step(&mut t).unwrap();
    }
    assert_ne!(t.effective(q).unwrap(), before.0);
    assert_eq!(t.effective(norm).unwrap(), before.1);
    let (tokens, next) = common::window(0);
    let after = t.evaluate(&Batch { tokens: &tokens, target: Target::Tokens(&next) }, true).unwrap().0;
    assert!(after < first, "{after} {first}");
}

#[test]
fn a_loss_that_is_no_number_names_step_and_tensor() {
    let mut module = common::module();
    let id = module.constant_named("model.layers.1.mlp.up_proj.weight").unwrap();
    let sizes = [64usize, 32];
    let mut values = vec![0.1f32; 64 * 32];
    values[5] = f32::NAN;
    let source = pteron_tensor::MemorySource::of("bad", &sizes, &values).unwrap();
    module.constants[id].data = pteron_ir::ConstData::Source(std::sync::Arc::new(source));
    let options = common::graph_options(QatOptions::default());
    let graph = TrainGraph::new(&module, None, &|_, _| None, &common::is_parameter, options).unwrap();
    let mut t = Trainer::new(graph, common::options(), Threads::of(1), &|_| None).unwrap();
    let error = common::step(&mut t).unwrap_err();
    assert!(matches!(error, TrainError::NotFinite { step: 1, .. }));
    let said = error.to_string();
    assert!(said.contains("step 1") && said.contains("model.layers.1.mlp.up_proj.weight"), "{said}");
    assert_eq!(t.steps(), 0);
}

#[test]
fn distillation_from_the_model_itself_has_no_loss_and_no_gradient() {
    let options =
        pteron_train::TrainGraphOptions { loss: Loss::Distillation, ..common::graph_options(QatOptions::default()) };
    let graph = TrainGraph::new(&common::module(), None, &|_, _| None, &common::is_parameter, options).unwrap();
    let mut t = Trainer::new(graph, common::options(), Threads::of(1), &|_| None).unwrap();
    let (tokens, _) = common::window(0);
    let teacher = vec![0.0f32; common::LENGTH * common::VOCAB];
    let (far, logits) = t.evaluate(&Batch { tokens: &tokens, target: Target::Logits(&teacher) }, true).unwrap();
    assert!(far > 1e-3);
    let report = t.step(&[Batch { tokens: &tokens, target: Target::Logits(&logits) }]).unwrap();
    assert!(report.loss.abs() < 1e-6 && report.norm < 1e-4, "{report:?}");
}
