//! Models in the forms that the goldens were made of: the tiny Llama of `fixtures/tiny_llama_hf`, and glass-en.

use std::sync::Arc;

use pteron_checkpoint::Checkpoint;
use pteron_exec::{QuantSemantics, Session, SessionOptions, Value};
use pteron_ir::Module;
use pteron_models::{
    BuildOptions, CheckpointWeights, MASKED, ModelConfig, StaticOptions, WeightsOptions, build, build_static,
    build_static_calibration,
};
use pteron_quant::pt2e::{Calibration, PreparedGraph, RoundedRun};
use pteron_tensor::Tensor;

use crate::golden::Golden;

/// The form of the graph.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Model {
    /// What `build` captures without a cache.
    Plain,
    /// What `build_static_calibration` captures.
    Static,
}

fn with_checkpoint<T>(model: &str, f: impl FnOnce(&ModelConfig, &CheckpointWeights<'_>) -> T) -> T {
    let folder = match model {
        "tiny" => pteron_testkit::fixture("tiny_llama_hf"),
        _ => pteron_testkit::workspace_root().join("crates/pteron/assets/glass-en"),
    };
    let checkpoint = Checkpoint::open(folder).unwrap();
    let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &config, &WeightsOptions::default()).unwrap();
    f(&config, &weights)
}

impl Model {
    /// The form that a scheme's golden is of.
    pub(crate) fn of(scheme: &str) -> Model {
        if scheme.starts_with("qnn_") { Model::Static } else { Model::Plain }
    }

    /// The graph for windows of the golden's length.
    pub(crate) fn build(self, golden: &Golden) -> Module {
        let length = golden.windows[0].len();
        with_checkpoint(&golden.model, |config, weights| match self {
            Model::Plain => {
                let options = BuildOptions {
                    use_kv_cache: false,
                    dynamic_shape: false,
                    full_logits: true,
                    max_seq_length: length,
                    max_context_length: length,
                    ..BuildOptions::default()
                };
                build(config, weights, &options).unwrap()
            }
            Model::Static => {
                let options =
                    StaticOptions { max_context_length: length, prefill_ar_len: None, ..StaticOptions::default() };
                build_static_calibration(config, weights, &options, length).unwrap()
            }
        })
    }
}

/// The program for one token and for eight, in a context of 24.
pub(crate) fn hybrid() -> Module {
    let options = StaticOptions { max_context_length: 24, prefill_ar_len: Some(8), ..StaticOptions::default() };
    with_checkpoint("tiny", |config, weights| build_static(config, weights, &options).unwrap())
}

/// The inputs of a window.
pub(crate) fn inputs(module: &Module, tokens: &[i64]) -> Vec<Value> {
    let n = tokens.len();
    if module.graphs[0].inputs.len() == 1 {
        return vec![Value::Tensor(Tensor::of(&[1, n], tokens).unwrap())];
    }
    let tokens: Vec<i32> = tokens.iter().map(|&t| i32::try_from(t).unwrap()).collect();
    let mask: Vec<f32> = (0..n * n).map(|i| if i % n > i / n { MASKED } else { 0.0 }).collect();
    let positions: Vec<i32> = (0..n).map(|i| i32::try_from(i).unwrap()).collect();
    vec![
        Value::Tensor(Tensor::of(&[1, n], &tokens).unwrap()),
        Value::Tensor(Tensor::of(&[1, 1, n, n], &mask).unwrap()),
        Value::Tensor(Tensor::of(&[1, n], &positions).unwrap()),
    ]
}

fn session(module: &Module, quant: QuantSemantics) -> Session {
    let options = SessionOptions { quant, ..SessionOptions::with_threads(1) };
    Session::new(Arc::new(module.clone()), &options).unwrap()
}

/// One step of the observers for each window.
pub(crate) fn calibrate(module: &Module, prepared: &mut PreparedGraph, golden: &Golden) {
    if let Some(mut rounded) = RoundedRun::of(module, prepared).unwrap() {
        let mut session = session(rounded.module(), QuantSemantics::Eager);
        for window in &golden.windows {
            let mut given = inputs(module, window);
            given.extend(rounded.inputs().unwrap());
            step(&mut session, rounded.prepared_mut(), &given);
        }
        return rounded.finish(prepared);
    }
    let mut session = session(module, QuantSemantics::default());
    for window in &golden.windows {
        step(&mut session, prepared, &inputs(module, window));
    }
}

fn step(session: &mut Session, prepared: &mut PreparedGraph, given: &[Value]) {
    let module = Arc::clone(session.module());
    let graph = &module.graphs[0];
    let refs: Vec<_> = given.iter().map(Value::as_ref).collect();
    let mut hook = Calibration::new(prepared);
    hook.inputs(graph, given).unwrap();
    session.run_watched(&graph.name, &refs, &mut hook).unwrap();
    hook.finish().unwrap();
}

/// The logits of a window, by rows.
pub(crate) fn logits(module: &Module, window: &[i64]) -> Vec<Vec<f32>> {
    // As the converted graph computes in PyTorch.
    let mut session = session(module, QuantSemantics::Eager);
    let given = inputs(module, window);
    let refs: Vec<_> = given.iter().map(Value::as_ref).collect();
    let out = session.run(&module.graphs[0].name, &refs).unwrap();
    let all = out.tensor(0).unwrap().as_slice::<f32>().unwrap().to_vec();
    all.chunks(all.len() / window.len()).map(<[f32]>::to_vec).collect()
}
