//! Prepare, calibrate and convert over small graphs, executed.

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, Value};
use pteron_ir::{GraphBuilder, Module, Op, TensorType, args, print, verify};
use pteron_quant::TensorLabel;
use pteron_quant::annotation::{Annotations, BiasSpec, QuantizationConfig};
use pteron_quant::format::QScheme;
use pteron_quant::observer::QuantParams;
use pteron_quant::pt2e::{
    Calibration, Encodings, QuantizeError, SlotParams, convert, observe_constants, prepare, prepare_module,
};
use pteron_quant::quantizer::{ComposableQuantizer, PatternQuantizer, QnnQuantizer, Quantizer};
use pteron_quant::scheme::{Compat, ModuleQConfig, QuantDtype};
use pteron_quant::spec::{ObserverCtr, ObserverKind, QuantizationSpec};
use pteron_tensor::{DType, MemorySource, Tensor};

const ROWS: usize = 3;

fn wave(n: usize, scale: f32, step: f32) -> Vec<f32> {
    (0..n).map(|i| scale * (step * i as f32).sin() + 0.1).collect()
}

/// `linear(linear(x, w0, b0), w1)` and `linear(x, w2)`: x has two readers.
fn module() -> Module {
    let mut m = Module::new("t");
    let constant = |m: &mut Module, name: &str, shape: &[usize], scale| {
        let values = wave(shape.iter().product(), scale, 0.37);
        m.add_tensor_constant(name, MemorySource::of(name, shape, &values).unwrap())
    };
    let w0 = constant(&mut m, "model.a.weight", &[4, 8], 0.5);
    let b0 = constant(&mut m, "model.a.bias", &[4], 0.2);
    let w1 = constant(&mut m, "model.b.weight", &[5, 4], 0.7);
    let w2 = constant(&mut m, "model.c.weight", &[2, 8], 0.3);
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[ROWS, 8]));
    let (w0, b0, w1, w2) = (b.constant(w0), b.constant(b0), b.constant(w1), b.constant(w2));
    let y = b.scope("model.a", |b| b.call(Op::Linear, args![x, w0, b0])).unwrap();
    let y = b.scope("model.b", |b| b.call(Op::Linear, args![y, w1])).unwrap();
    let z = b.scope("model.c", |b| b.call(Op::Linear, args![x, w2])).unwrap();
    b.finish(&[y, z]);
    m
}

fn spec(dtype: DType, range: (i64, i64), qscheme: QScheme, kind: ObserverKind) -> QuantizationSpec {
    QuantizationSpec {
        dtype,
        quant_min: Some(range.0),
        quant_max: Some(range.1),
        qscheme: Some(qscheme),
        ch_axis: (kind == ObserverKind::PerChannelMinMax).then_some(0),
        observer: ObserverCtr::new(kind).with_eps(2f64.powi(-12)),
        is_dynamic: false,
    }
}

fn weight() -> QuantizationSpec {
    spec(DType::I8, (-127, 127), QScheme::PerChannelSymmetric, ObserverKind::PerChannelMinMax)
}

fn static_config() -> QuantizationConfig {
    let activation = spec(DType::U8, (0, 255), QScheme::PerTensorAffine, ObserverKind::MinMax);
    QuantizationConfig {
        input_activation: Some(activation.clone()),
        output_activation: Some(activation),
        weight: Some(weight()),
        bias: Some(BiasSpec::Derived),
        ..QuantizationConfig::default()
    }
}

fn dynamic_config() -> QuantizationConfig {
    let mut activation = spec(DType::I8, (-128, 127), QScheme::PerTensorAffine, ObserverKind::Placeholder);
    activation.is_dynamic = true;
    QuantizationConfig { input_activation: Some(activation), weight: Some(weight()), ..QuantizationConfig::default() }
}

fn run(m: &Module, x: &Tensor) -> Vec<Vec<f32>> {
    let mut session = Session::new(Arc::new(m.clone()), &SessionOptions::with_threads(1)).unwrap();
    let x = Value::Tensor(x.clone());
    let inputs = [x.as_ref()];
    let out = session.run("forward", &inputs).unwrap();
    (0..2).map(|i| out.tensor(i).unwrap().as_slice::<f32>().unwrap().to_vec()).collect()
}

/// Quantizes with the data of `calibration`, one tensor a step.
fn quantize(m: &mut Module, config: QuantizationConfig, calibration: &[Tensor]) -> Result<String, QuantizeError> {
    let mut graph = m.graphs.remove(0);
    let mut annotations = Annotations::new();
    PatternQuantizer::linear("linear", config).annotate(m, &graph, &mut annotations)?;
    let mut prepared = prepare(m, &graph, &annotations)?;
    observe_constants(m, &graph, &mut prepared)?;
    let mut float = m.clone();
    float.graphs.push(graph.clone());
    let mut session = Session::new(Arc::new(float), &SessionOptions::with_threads(1)).unwrap();
    for x in calibration {
        let inputs = [Value::Tensor(x.clone())];
        let refs = [inputs[0].as_ref()];
        let mut hook = Calibration::new(&mut prepared);
        hook.inputs(&graph, &inputs)?;
        session.run_watched("forward", &refs, &mut hook).unwrap();
        hook.finish()?;
    }
    convert(m, &mut graph, &prepared)?;
    let text = print::graph(&graph);
    m.graphs.push(graph);
    verify::module(m).unwrap();
    Ok(text)
}

fn data() -> Vec<Tensor> {
    [0.5f32, 1.5, 1.0].iter().map(|&s| Tensor::of(&[ROWS, 8], &wave(ROWS * 8, s, 0.9)).unwrap()).collect()
}

/// The rule of affine u8 codes, by hand.
fn fake(values: &[f32], min: f32, max: f32) -> Vec<f32> {
    let (lo, hi) = (min.min(0.0), max.max(0.0));
    let scale = ((hi - lo) / 255.0).max(2f32.powi(-12));
    let zero = -(lo / scale).round_ties_even();
    let inv = (1.0 / f64::from(scale)) as f32;
    values.iter().map(|v| (((v * inv).round_ties_even() + zero).clamp(0.0, 255.0) - zero) * scale).collect()
}

fn fake_weight(values: &[f32], columns: usize) -> Vec<f32> {
    let row = |r: &[f32]| {
        let most = r.iter().fold(0f32, |m, v| m.max(v.abs()));
        let scale = (most / 127.0).max(2f32.powi(-12));
        let inv = 1.0 / scale;
        r.iter().map(move |v| (v * inv).round_ties_even().clamp(-127.0, 127.0) * scale).collect::<Vec<_>>()
    };
    values.chunks(columns).flat_map(row).collect()
}

fn linear(x: &[f32], w: &[f32], columns: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
    x.chunks(columns).flat_map(|x| w.chunks(columns).map(move |w| dot(x, w))).collect()
}

fn range(tensors: &[Vec<f32>]) -> (f32, f32) {
    let all = tensors.iter().flatten().copied();
    (all.clone().fold(f32::INFINITY, f32::min), all.fold(f32::NEG_INFINITY, f32::max))
}

#[test]
fn static_quantization_is_the_formula() {
    let mut m = module();
    let float: Vec<Vec<Vec<f32>>> = data().iter().map(|x| run(&m, x)).collect();
    let text = quantize(&mut m, static_config(), &data()).unwrap();
    assert_eq!(text.matches("quantized_decomposed::quantize_per_tensor(").count(), 4, "x, y, b and c\n{text}");
    assert_eq!(text.matches("aten::linear").count(), 3);
    // Path c by hand: x and w2 are fake-quantized, so is what comes out.
    let x = wave(ROWS * 8, 1.0, 0.9);
    let inputs: Vec<Vec<f32>> = [0.5f32, 1.5, 1.0].iter().map(|&s| wave(ROWS * 8, s, 0.9)).collect();
    let (lo, hi) = range(&inputs);
    let outputs: Vec<Vec<f32>> = float.iter().map(|f| f[1].clone()).collect();
    let (out_lo, out_hi) = range(&outputs);
    let expected = linear(&fake(&x, lo, hi), &fake_weight(&wave(16, 0.3, 0.37), 8), 8);
    let expected = fake(&expected, out_lo, out_hi);
    let got = run(&m, &Tensor::of(&[ROWS, 8], &x).unwrap());
    for (g, e) in got[1].iter().zip(&expected) {
        assert!((g - e).abs() < 1e-5, "{g} {e}");
    }
    // Path a-b stays near the float model.
    for (g, e) in got[0].iter().zip(&float[2][0]) {
        assert!((g - e).abs() < 0.05 && g != e, "{g} {e}");
    }
}

#[test]
fn dynamic_quantization_needs_no_data_and_shares_its_chain() {
    let mut m = module();
    let float = run(&m, &data()[1]);
    let text = quantize(&mut m, dynamic_config(), &[]).unwrap();
    assert_eq!(text.matches("quantized_decomposed::choose_qparams").count(), 2, "one for x, one for y\n{text}");
    assert_eq!(text.matches("quantized_decomposed::dequantize_per_channel").count(), 3);
    let got = run(&m, &data()[1]);
    for (g, e) in got.iter().flatten().zip(float.iter().flatten()) {
        assert!((g - e).abs() < 0.05, "{g} {e}");
    }
}

#[test]
fn an_observer_without_data_names_the_tensor() {
    let error = quantize(&mut module(), static_config(), &[]).unwrap_err().to_string();
    assert!(error.contains("saw no data") && error.contains("`model.a`"), "{error}");
}

#[test]
fn a_nan_in_a_weight_is_named() {
    let mut m = module();
    let bad = MemorySource::of("model.c.weight", &[2, 8], &[f32::NAN; 16]).unwrap();
    let id = m.constants.iter().find(|(_, c)| c.name.as_ref() == "model.c.weight").unwrap().0;
    m.constants[id].data = pteron_ir::ConstData::Source(Arc::new(bad));
    let error = quantize(&mut m, dynamic_config(), &[]).unwrap_err().to_string();
    assert!(error.contains("`model.c`") && error.contains("NaN"), "{error}");
}

#[test]
fn quantizers_do_not_overwrite_each_other() {
    #[derive(Debug)]
    struct Rude;
    impl Quantizer for Rude {
        fn name(&self) -> &str {
            "Rude"
        }
        fn annotate(
            &self,
            _: &Module,
            graph: &pteron_ir::Graph,
            annotations: &mut Annotations,
        ) -> Result<(), pteron_quant::SpecError> {
            let first = graph.nodes[graph.all_nodes()[0]].handle;
            annotations.remove(first);
            Ok(())
        }
    }
    let m = module();
    let linear = || Box::new(PatternQuantizer::linear("linear", dynamic_config()));
    let mut annotations = Annotations::new();
    let polite = ComposableQuantizer::new(vec![linear(), linear()]);
    polite.annotate(&m, &m.graphs[0], &mut annotations).unwrap();
    let rude = ComposableQuantizer::new(vec![linear(), Box::new(Rude)]);
    let error = rude.annotate(&m, &m.graphs[0], &mut Annotations::new()).unwrap_err().to_string();
    assert!(error.contains("Rude"), "{error}");
}

/// `softmax(x + y)` in one module.
fn scores() -> Module {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[ROWS, 4]));
    let y = b.input("y", TensorType::fixed(DType::F32, &[ROWS, 4]));
    let p = b.scope("model.attn", |b| {
        let sum = b.call(Op::Add, args![x, y])?;
        b.call(Op::Softmax, args![sum, -1i64, false])
    });
    b.finish(&[p.unwrap()]);
    m
}

/// Scales that training found go to a graph of another form by name: near what data gave, and farther below it where two
/// operators' names say that the tensor is the same.
#[test]
fn trained_scales_go_to_another_form() {
    let mut module = scores();
    let config = ModuleQConfig::new(QuantDtype::Use8a8w, Compat::ExecuTorch1_5);
    let mut prepared = prepare_module(&mut module, &QnnQuantizer::new("t", config)).unwrap();
    let graph = &module.graphs[0];
    let x = Tensor::of(&[ROWS, 4], &wave(4 * ROWS, 2.0, 0.7)).unwrap();
    let y = Tensor::of(&[ROWS, 4], &[0.0f32, 0.0, -255.0, -255.0].repeat(ROWS)).unwrap();
    let inputs = [Value::Tensor(x), Value::Tensor(y)];
    let mut session = Session::new(Arc::new(module.clone()), &SessionOptions::with_threads(1)).unwrap();
    let mut hook = Calibration::new(&mut prepared[0]);
    hook.inputs(graph, &inputs).unwrap();
    session.run_watched("forward", &[inputs[0].as_ref(), inputs[1].as_ref()], &mut hook).unwrap();
    hook.finish().unwrap();
    let own = Encodings::of(graph, &prepared[0]).unwrap();
    let label = |port: &str| TensorLabel::new("model.attn", port);
    let scale = |e: &Encodings, port: &str| match e.get(&label(port)) {
        Some(SlotParams::Static(p)) => p.scale[0],
        _ => panic!("{port} has no scale"),
    };
    let trained = |ports: &[&str], factor: f32| -> Encodings {
        let entry = |port: &&str| match own.get(&label(port)) {
            Some(SlotParams::Static(p)) => {
                let p = QuantParams { scale: vec![p.scale[0] * factor], ..(**p).clone() };
                (label(port), SlotParams::Static(Arc::new(p)))
            }
            _ => panic!("{port} has no scale"),
        };
        ports.iter().map(entry).collect()
    };
    let (sum, read, alone) = ("add.output", "_softmax.self", "_softmax.output");
    for (ports, factor, taken) in [
        (&[sum, read][..], 0.05, true),
        (&[sum, read], 0.001, false),
        (&[sum, read], 3.0, false),
        (&[alone], 0.7, true),
        (&[alone], 0.05, false),
    ] {
        let (with, count, _) = own.clone().with_trained(&trained(ports, factor), &prepared[0]);
        let found = scale(&with, ports[0]) / scale(&own, ports[0]);
        let expected = if taken { factor } else { 1.0 };
        assert!((found - expected).abs() < 1e-6 && count == usize::from(taken), "{ports:?} {factor}: {found}, {count}");
    }
}
