//! Payloads that ExecuTorch wrote.

mod common;

use std::sync::Arc;

use common::{delegates, fixture, module_of};
use pteron_exec::DelegateFactory;
use pteron_exec::{Context, Fuel};
use pteron_ir::{Op, SymInt};
use pteron_tensor::{Shape, Tensor, Tolerance, View, ViewMut};
use pteron_xnnpack::{BinaryKind, ConstantBytes, Datatype, NodeKind, Payload, UnaryKind, XnnpackBackend, XnnpackError};

const V6: &str = "v6_kv_sdpa_xnn_fp32.pte";
const MLP: [&str; 2] = ["micro/m_mlp_xnn.pte", "micro/m_mlp_xnn_inline.pte"];

#[test]
fn the_payloads_of_a_model_are_read_as_dumped() {
    let all = delegates(V6);
    assert_eq!(all.len(), 9);
    let p = Payload::parse(&all[0].payload).unwrap();
    assert_eq!((p.version.as_str(), &p.identifier), ("0", b"XN01"));
    assert_eq!((p.inputs.as_slice(), p.outputs.as_slice()), ([0].as_slice(), [2, 4, 6].as_slice()));
    let facts: Vec<_> = p.values.iter().map(|v| (v.id, v.dims.as_slice(), v.constant, v.external_id)).collect();
    assert_eq!(facts.len(), 7);
    assert_eq!(facts[0], (0, [1, 31, 64].as_slice(), None, Some(0)));
    assert_eq!(facts[1], (1, [64, 64].as_slice(), Some(1), None));
    assert_eq!(facts[4], (4, [1, 31, 32].as_slice(), None, Some(2)));
    assert!(p.values.iter().all(|v| v.datatype == Datatype::Fp32 && v.quant.is_none()));
    assert!(p.values[0].is_input && !p.values[0].is_output && p.values[6].is_output);
    let handles: Vec<u32> = p.nodes.iter().map(|n| n.debug_handle).collect();
    assert_eq!(handles, [22, 24, 25]);
    assert_eq!(p.nodes[1].kind, NodeKind::FullyConnected { input: 0, filter: 3, bias: None, output: 4 });
    assert_eq!(p.constants.len(), 4);
    assert_eq!(p.constants[1].size, 16384);
    let key = "3823686e9f5456db399058b317e797f7a13807985e9524435462fe4a938b1c2c";
    assert_eq!(p.constants[1].bytes, ConstantBytes::Named(key.to_owned()));
}

#[test]
fn the_payloads_of_a_model_are_lifted() {
    let mut linears = 0;
    for d in delegates(V6) {
        let m = module_of(&d).unwrap();
        let g = &m.graphs[0];
        linears += g.nodes.values().filter(|n| n.op == Op::Linear).count();
        assert_eq!(g.nodes.len(), g.nodes.values().filter(|n| n.op == Op::Linear).count());
        let input = g.ty(g.inputs[0]).as_tensor().unwrap();
        assert_eq!(input.dims[0], SymInt::Const(1));
        // The last payload is the head, which sees the last token only.
        let rest = SymInt::Unknown { min: 1, max: if input.rank() == 3 { 31 } else { 64 } };
        assert_eq!(input.dims[1], rest);
    }
    assert_eq!(linears, 15);
}

#[test]
fn a_payload_with_its_constants_prints() {
    for path in MLP {
        let m = module_of(&delegates(path)[0]).unwrap();
        let ops: Vec<&str> = m.graphs[0].nodes.values().map(|n| n.op.name()).collect();
        assert_eq!(ops, ["aten::linear", "aten::relu", "aten::linear"]);
        let text = pteron_ir::print::module(&m);
        assert!(text.contains("aten::linear(%0, c0, c1) : f32[") && text.contains("graph forward("), "{text}");
        assert_eq!(m.constants.len(), 4);
    }
}

fn golden(path: &str) -> (Vec<f32>, Vec<f64>) {
    let json: serde_json::Value = serde_json::from_slice(&fixture(path)).unwrap();
    let data = |side: &str| -> Vec<f64> {
        json[0][side][0]["data"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    (data("inputs").iter().map(|&x| x as f32).collect(), data("outputs"))
}

#[test]
fn a_payload_gives_the_outputs_that_executorch_recorded() {
    for path in MLP {
        let (input, expected) = golden(&path.replace(".pte", ".json"));
        for threads in [1, 2] {
            let mut d =
                XnnpackBackend::new().prepare(&delegates(path)[0], &Arc::new(Context::new(threads)), u64::MAX).unwrap();
            let x = Tensor::of(&[2, 4], &input).unwrap();
            let declared = [Shape::from_slice(&[2, 3])];
            assert_eq!(d.output_sizes(&[x.view()], &declared).unwrap(), declared);
            let mut out = [0f32; 6];
            for _ in 0..2 {
                out.fill(f32::NAN);
                let view = ViewMut::new(x.dtype(), &[2, 3], &[3, 1], as_bytes(&mut out)).unwrap();
                d.execute(&[x.view()], &mut [view], &mut Fuel::new(None)).unwrap();
                let actual: Vec<f64> = out.iter().map(|&x| f64::from(x)).collect();
                Tolerance::GOLDEN_F32.check(&expected, &actual).unwrap();
            }
        }
    }
}

fn as_bytes(x: &mut [f32]) -> &mut [u8] {
    bytemuck::cast_slice_mut(x)
}

/// Prefill of three tokens, then one, then the most that is declared: each row as if it were alone.
#[test]
fn inputs_may_be_smaller_than_declared() {
    let delegate = &delegates(V6)[0];
    let mut d = XnnpackBackend::new().prepare(delegate, &Arc::new(Context::new(1)), u64::MAX).unwrap();
    let row = |i: usize| (0..64).map(move |k| ((i * 64 + k) as f32 * 0.37).sin());
    let mut run = |rows: std::ops::Range<usize>| -> Vec<Vec<f64>> {
        let n = rows.len();
        let x: Vec<f32> = rows.flat_map(row).collect();
        let x = Tensor::of(&[1, n, 64], &x).unwrap();
        let declared: Vec<Shape> = [64, 32, 32].iter().map(|&w| Shape::from_slice(&[1, 31, w])).collect();
        let sizes = d.output_sizes(&[x.view()], &declared).unwrap();
        assert_eq!(sizes[1].as_slice(), [1, n, 32]);
        let mut outs: Vec<Tensor> = sizes.iter().map(|s| Tensor::zeros(x.dtype(), s).unwrap()).collect();
        let mut views: Vec<ViewMut<'_>> = outs.iter_mut().map(Tensor::view_mut).collect();
        d.execute(&[x.view()], &mut views, &mut Fuel::new(None)).unwrap();
        outs.iter().map(|t| t.view().to_f64_vec()).collect()
    };
    let (many, one, all) = (run(0..3), run(2..3), run(0..31));
    for ((many, one), all) in many.iter().zip(&one).zip(&all) {
        let width = one.len();
        Tolerance::KERNEL_F32.check(one, &many[2 * width..]).unwrap();
        Tolerance::KERNEL_F32.check(many, &all[..3 * width]).unwrap();
    }
    // The first output against the definition.
    let payload = Payload::parse(&delegate.payload).unwrap();
    let ConstantBytes::Named(key) = &payload.constants[1].bytes else { panic!() };
    let w = &delegate.named_data.iter().find(|n| n.0.as_ref() == key).unwrap().1;
    let w: Vec<f32> = bytemuck::pod_collect_to_vec(w.as_slice().unwrap());
    let x: Vec<f64> = row(2).map(f64::from).collect();
    let expected: Vec<f64> = w.chunks(64).map(|r| r.iter().zip(&x).map(|(&a, b)| f64::from(a) * b).sum()).collect();
    Tolerance::KERNEL_F32.check(&expected, &one[0]).unwrap();
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    let mut d = XnnpackBackend::new().prepare(&delegates(V6)[0], &Arc::new(Context::new(1)), u64::MAX).unwrap();
    let declared: Vec<Shape> = [64, 32, 32].iter().map(|&w| Shape::from_slice(&[1, 31, w])).collect();
    let mut refuse = |sizes: &[usize], declared: &[Shape]| {
        let x = Tensor::zeros(pteron_tensor::DType::F32, sizes).unwrap();
        d.output_sizes(&[x.view()], declared).unwrap_err()
    };
    assert!(refuse(&[1, 32, 64], &declared).contains("input 0 is f32[1, 32, 64]"));
    assert!(refuse(&[1, 3, 63], &declared).contains("63"));
    assert!(refuse(&[3, 64], &declared).contains("input 0"));
    assert!(refuse(&[1, 3, 64], &declared[..1]).contains("3 outputs"));
    let x = Tensor::zeros(pteron_tensor::DType::I64, &[1, 3, 64]).unwrap();
    assert!(d.output_sizes(&[x.view()], &declared).unwrap_err().contains("i64"));
    let strided = View::new(pteron_tensor::DType::F32, &[1, 3, 64], &[192, 1, 3], x.bytes()).unwrap();
    assert!(d.output_sizes(&[strided], &declared).unwrap_err().contains("row-major"));
}

#[test]
fn absent_named_data_is_named() {
    let mut d = delegates(MLP[0]).remove(0);
    d.named_data.remove(0);
    assert!(matches!(module_of(&d), Err(XnnpackError::MissingData { .. })));
    let mut d = delegates(MLP[0]).remove(0);
    for n in &mut d.named_data {
        n.1 = common::source(&n.0, &n.1.as_slice().unwrap()[..4]);
    }
    let e = module_of(&d).unwrap_err().to_string();
    assert!(e.contains("4 bytes") && e.contains("room for f32"), "{e}");
}

#[test]
fn node_kinds_have_the_names_of_the_schema() {
    let p = Payload::parse(&delegates(MLP[0])[0].payload).unwrap();
    let names: Vec<&str> = p.nodes.iter().map(|n| n.kind.name()).collect();
    assert!(names.contains(&"FullyConnected"), "{names:?}");
    let add = NodeKind::Binary { kind: BinaryKind::Add, a: 0, b: 0, output: 1 };
    let exp = NodeKind::Unary { kind: UnaryKind::Exp, input: 0, output: 1 };
    assert_eq!((add.name(), exp.name()), ("Add", "Exp"));
}
