//! What QNN's quantizer can be told of single modules and operators, over a small graph.

use std::sync::Arc;

use pteron_ir::{GraphBuilder, Module, Op, TensorType, args};
use pteron_quant::annotation::{Annotations, InputIndex, Point};
use pteron_quant::format::QScheme;
use pteron_quant::quantizer::{ModulePredicate, QnnQuantizer, Quantizer};
use pteron_quant::scheme::{Compat, CustomAnnotation, ModuleQConfig, QuantDtype};
use pteron_quant::spec::{QuantizationSpec, Spec};
use pteron_tensor::{DType, MemorySource};

/// `lm_head(model.b(model.a(x)) + x)`.
fn module() -> Module {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[3, 8]));
    let layer = |b: &mut GraphBuilder<'_>, path: &str, x| {
        let w = MemorySource::of("w", &[8, 8], &[0.5f32; 64]).unwrap();
        let w = b.module_mut().add_tensor_constant(&format!("{path}.weight"), w);
        let w = b.constant(w);
        b.scope(path, |b| b.call(Op::Linear, args![x, w])).unwrap()
    };
    let y = layer(&mut b, "model.a", x);
    let y = layer(&mut b, "model.b", y);
    let y = b.scope("model", |b| b.call(Op::Add, args![y, x])).unwrap();
    let y = layer(&mut b, "lm_head", y);
    b.finish(&[y]);
    m
}

fn config(dtype: QuantDtype) -> ModuleQConfig {
    ModuleQConfig { is_linear_per_channel: true, ..ModuleQConfig::new(dtype, Compat::ExecuTorch1_5) }
}

/// The specs of the linear layers' inputs and weights by module path; `None` where a layer is not annotated.
fn layers(quantizer: &QnnQuantizer) -> Vec<(String, Option<(QuantizationSpec, QuantizationSpec)>)> {
    let module = module();
    let graph = &module.graphs[0];
    let mut annotations = Annotations::new();
    quantizer.annotate(&module, graph, &mut annotations).unwrap();
    let observed = |spec: Option<&Spec>| match spec {
        Some(Spec::Observed(s)) => Some(s.clone()),
        _ => None,
    };
    let linear = graph.all_nodes().into_iter().filter(|&n| graph.nodes[n].op == Op::Linear);
    linear
        .map(|n| {
            let edge = |arg| Point::Edge { user: graph.nodes[n].handle, input: InputIndex::arg(arg) };
            let found = observed(annotations.spec(edge(0))).zip(observed(annotations.spec(edge(1))));
            (graph.paths[graph.nodes[n].path].to_string(), found)
        })
        .collect()
}

fn of(found: &[(String, Option<(QuantizationSpec, QuantizationSpec)>)], path: &str) -> Option<(u64, u64)> {
    let bits = |s: &QuantizationSpec| {
        let f = s.format().unwrap();
        u64::from((f.quant_max - f.quant_min).unsigned_abs().ilog2()) + 1
    };
    let (_, specs) = found.iter().find(|(p, _)| p == path).unwrap();
    specs.as_ref().map(|(input, weight)| (bits(input), bits(weight)))
}

#[test]
fn discarded_modules_stay_float() {
    let quantizer = QnnQuantizer::new("q", config(QuantDtype::Use8a8w)).with_discarded_nodes(["model.b".to_owned()]);
    let found = layers(&quantizer);
    assert_eq!(
        (of(&found, "model.a"), of(&found, "model.b"), of(&found, "lm_head")),
        (Some((8, 8)), None, Some((8, 8)))
    );
}

#[test]
fn discarded_operators_stay_float() {
    let quantizer = QnnQuantizer::new("q", config(QuantDtype::Use8a8w)).with_discarded_ops([Op::Linear]);
    assert!(layers(&quantizer).iter().all(|(_, specs)| specs.is_none()));
    let (module, mut annotations) = (module(), Annotations::new());
    quantizer.annotate(&module, &module.graphs[0], &mut annotations).unwrap();
    assert_eq!(annotations.iter().count(), 1, "the addition");
}

#[test]
fn the_first_submodule_configuration_that_matches_counts() {
    let is = |path: &'static str| -> ModulePredicate { Arc::new(move |p| p.starts_with(path)) };
    let quantizer = QnnQuantizer::new("q", config(QuantDtype::Use8a8w)).with_submodule_qconfigs(vec![
        (is("model.b"), config(QuantDtype::Use16a4w)),
        (is("model"), config(QuantDtype::Use16a8w)),
    ]);
    let found = layers(&quantizer);
    assert_eq!(
        (of(&found, "model.a"), of(&found, "model.b"), of(&found, "lm_head")),
        (Some((16, 8)), Some((16, 4)), Some((8, 8)))
    );
}

#[test]
fn the_last_layer_takes_8_bit_weights() {
    let quantizer = QnnQuantizer::new("q", config(QuantDtype::Use16a4w))
        .with_custom_annotations(vec![CustomAnnotation::LlamaLastConv16a8w]);
    let found = layers(&quantizer);
    assert_eq!((of(&found, "model.a"), of(&found, "lm_head")), (Some((16, 4)), Some((16, 8))));
    let (_, weight) = found.iter().find(|(p, _)| p == "lm_head").and_then(|(_, s)| s.clone()).unwrap();
    assert_eq!((weight.qscheme, weight.ch_axis), (Some(QScheme::PerChannelSymmetric), Some(0)));
}
