//! Graphs lowered to payloads: the same numbers before and after, in an order that keeps what buffers hold, and the reasons why
//! nodes stay.

use std::sync::Arc;

use pteron_exec::{Context, Delegates, Session, SessionOptions, Value, ValueRef};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::{Arg, GraphBuilder, Module, Op, TensorType, ValueId, args, passes, verify};
use pteron_tensor::{AlignedBytes, DType, MemorySource, Tensor, Tolerance};
use pteron_xnnpack::{BACKEND, Datatype, Payload, Report, Scope, XnnpackBackend, inline, lower};

fn wave(n: usize, seed: f32) -> Vec<f32> {
    (0..n).map(|i| ((i as f32 + seed) * 0.37).sin()).collect()
}

fn weight(b: &mut GraphBuilder<'_>, name: &str, sizes: &[usize], seed: f32) -> ValueId {
    let n = sizes.iter().product();
    let c = b.module_mut().add_tensor_constant(name, MemorySource::of(name, sizes, &wave(n, seed)).unwrap());
    b.constant(c)
}

/// The results of two calls, since state carries over.
fn results(m: &Module) -> Vec<f64> {
    let options =
        SessionOptions { delegates: Delegates::none().with(XnnpackBackend::new()), ..SessionOptions::with_threads(1) };
    let mut session = Session::new(Arc::new(m.clone()), &options).unwrap();
    let mut out = Vec::new();
    for seed in [1.0, 5.0] {
        let g = &m.graphs[0];
        let inputs: Vec<Value> = g
            .inputs
            .iter()
            .map(|&v| {
                let sizes = g.ty(v).as_tensor().unwrap().max_sizes(&g.symbols).unwrap();
                Value::Tensor(Tensor::of(&sizes, &wave(sizes.iter().product(), seed)).unwrap())
            })
            .collect();
        let given: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
        let found = session.run(&g.name, &given).unwrap();
        for i in 0..g.outputs().len() {
            out.extend(found.tensor(i).unwrap().to_f64_vec());
        }
    }
    out
}

fn lowered(m: &Module, scope: Scope) -> (Module, Report) {
    let mut m = m.clone();
    let report = lower(&mut m, scope, &Context::new(2)).unwrap();
    verify::module(&m).unwrap();
    Runner::new([passes::DCE]).run(&mut m, &PassContext::new(&passes::executorch_portable)).unwrap();
    (m, report)
}

/// Lowers, and compares the delegates' results and those of the payloads in place of their calls.
#[track_caller]
fn same_numbers(m: &Module, scope: Scope) -> (Module, Report) {
    verify::module(m).unwrap();
    let (low, report) = lowered(m, scope);
    let expected = results(m);
    Tolerance::KERNEL_F32.check(&expected, &results(&low)).unwrap();
    let mut flat = low.clone();
    assert_eq!(inline(&mut flat), report.delegates);
    verify::module(&flat).unwrap();
    assert!(flat.graphs[0].all_nodes().iter().all(|&n| flat.graphs[0].nodes[n].op != Op::Delegate));
    Tolerance::KERNEL_F32.check(&expected, &results(&flat)).unwrap();
    (low, report)
}

fn payloads(m: &Module) -> Vec<Payload> {
    m.delegates.values().map(|d| Payload::parse(&d.payload).unwrap()).collect()
}

#[test]
fn layers_of_one_level_go_together() {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let rows = b.symbol(1, 3);
    let x = b.input("x", TensorType::new(DType::F32, [1i64.into(), rows, 8i64.into()]));
    let (w1, w2, w3) =
        (weight(&mut b, "a", &[6, 8], 1.0), weight(&mut b, "b", &[6, 8], 2.0), weight(&mut b, "c", &[4, 6], 3.0));
    let bias = weight(&mut b, "bias", &[4], 4.0);
    let p = b.call(Op::Linear, args![x, w1]).unwrap();
    let s = b.call(Op::Silu, args![p]).unwrap();
    let q = b.call(Op::Linear, args![x, w2]).unwrap();
    let g = b.call(Op::Mul, args![s, q]).unwrap();
    let y = b.call(Op::Linear, args![g, w3, bias]).unwrap();
    b.finish(&[y, q]);
    let (low, report) = same_numbers(&m, Scope::Linear);
    assert_eq!((report.delegates, report.lowered[&Op::Linear], report.dynamic_layers), (2, 3, 0));
    assert!(report.refused.is_empty());
    let all = payloads(&low);
    assert_eq!(all.iter().map(|p| (p.inputs.len(), p.outputs.len())).collect::<Vec<_>>(), [(1, 2), (1, 1)]);
    // The largest sizes.
    assert_eq!(all[0].values[all[0].inputs[0]].dims, [1, 3, 8]);
    assert!(low.delegates.values().all(|d| d.backend.as_ref() == BACKEND));
    // The same weights again have the same keys and the same bytes.
    let again = lowered(&m, Scope::Linear).0;
    let keys = |m: &Module| -> Vec<String> {
        m.delegates.values().flat_map(|d| d.named_data.iter().map(|n| n.0.to_string())).collect()
    };
    assert_eq!(keys(&low), keys(&again));
}

#[test]
fn float_operators() {
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[2, 3, 4]));
    let y = b.input("y", TensorType::fixed(DType::F32, &[2, 3, 4]));
    let w = weight(&mut b, "norm", &[4], 1.0);
    let mut one = |op: Op, args: Vec<Arg>| b.call(op, args).unwrap();
    let t = one(Op::Mul, args![x, w].into());
    let t = one(Op::AddScalar, args![t, 3.0].into());
    let t = one(Op::Sqrt, args![t].into());
    let u = one(Op::Sigmoid, args![y].into());
    let u = one(Op::PowScalar, args![u, 2i64].into());
    let sum = one(Op::Sub, args![t, u].into());
    let sum = one(Op::Div, args![sum, u].into());
    let clamped = one(Op::Clamp, args![sum, -1.0, 2.0].into());
    let soft = one(Op::Softmax, args![clamped, -1i64, false].into());
    let turned = one(Op::PermuteCopy, args![soft, Arg::ints(&[0, 2, -2])].into());
    let product = one(Op::Bmm, args![x, turned].into());
    let part = one(Op::SliceCopy, args![product, 2i64, 1i64, 3i64].into());
    let joined = one(Op::Cat, args![Arg::tensors(&[part, part, product]), -1i64].into());
    let flat = one(Op::ViewCopy, args![joined, Arg::ints(&[2, 21])].into());
    let exp = one(Op::Exp, args![flat].into());
    let exp = one(Op::Maximum, args![exp, flat].into());
    b.finish(&[exp, soft]);
    let (low, report) = same_numbers(&m, Scope::Extended);
    assert_eq!(report.delegates, 1);
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    let kinds: Vec<&str> = payloads(&low)[0].nodes.iter().map(|n| n.kind.name()).collect();
    for kind in ["Multiply", "Clamp", "StaticTranspose", "StaticSlice", "Concatenate3", "StaticReshape", "Square"] {
        assert!(kinds.contains(&kind), "{kind} in {kinds:?}");
    }
}

/// A buffer is read by a node that is lowered, and overwritten before the result is used.
#[test]
fn readers_of_a_buffer_come_before_its_writer() {
    let mut m = Module::new("t");
    let buffer = m.add_buffer("state", TensorType::fixed(DType::F32, &[2, 4]));
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[2, 4]));
    let state = b.buffer(buffer);
    let seen = b.call(Op::Mul, args![state, x]).unwrap();
    let doubled = b.call(Op::Add, args![x, x]).unwrap();
    let written = b.call(Op::CopyInto, args![state, doubled, false]).unwrap();
    b.write_back(buffer, written);
    let out = b.call(Op::Add, args![seen, written]).unwrap();
    let flipped = b.call(Op::Flip, args![out, Arg::ints(&[0])]).unwrap();
    let end = b.call(Op::Sub, args![flipped, seen]).unwrap();
    b.finish(&[end]);
    let (_, report) = same_numbers(&m, Scope::Extended);
    assert_eq!(report.delegates, 3);
    assert_eq!(report.refused.iter().map(|r| r.op).collect::<Vec<_>>(), [Op::CopyInto, Op::Flip]);
}

/// XNNPACK reads rows of 4-bit codes one behind the other: where a row ends within a byte, codes are written as bytes.
#[test]
fn four_bit_rows_of_odd_length_are_bytes() {
    for (columns, expected) in [(6usize, Datatype::QcInt4), (5, Datatype::QcInt8)] {
        let mut m = Module::new("t");
        let mut b = GraphBuilder::new(&mut m, "forward");
        let x = b.input("x", TensorType::fixed(DType::F32, &[2, columns]));
        let codes: Vec<i8> = (0..3 * columns).map(|i| (i % 16) as i8 - 8).collect();
        let codes = MemorySource::of("codes", &[3, columns], &codes).unwrap();
        let codes = b.module_mut().add_tensor_constant("codes", codes);
        let zeros = b.module_mut().add_tensor_constant("zeros", MemorySource::of("zeros", &[3], &[0i64; 3]).unwrap());
        let (codes, zeros) = (b.constant(codes), b.constant(zeros));
        let scales = weight(&mut b, "scales", &[3], 1.0);
        let arguments = args![codes, scales, zeros, 0i64, -8i64, 7i64, DType::I8];
        let w = b.call(Op::DequantizePerChannel, arguments).unwrap();
        let range = (-128i64, 127i64);
        let n = b.node(Op::ChooseQparams, args![x, range.0, range.1, 1e-5, DType::I8]).unwrap();
        let (s, z) = (b.graph().nodes[n].outputs[0], b.graph().nodes[n].outputs[1]);
        let q = b.call(Op::QuantizePerTensorTensor, args![x, s, z, range.0, range.1, DType::I8]).unwrap();
        let x = b.call(Op::DequantizePerTensorTensor, args![q, s, z, range.0, range.1, DType::I8]).unwrap();
        let y = b.call(Op::Linear, args![x, w]).unwrap();
        b.finish(&[y]);
        let (low, report) = lowered(&m, Scope::Linear);
        assert_eq!((report.delegates, report.dynamic_layers), (1, 1));
        assert!(payloads(&low)[0].values.iter().any(|v| v.datatype == expected), "{columns} columns");
    }
}

#[test]
fn reasons() {
    let reason = |make: &dyn Fn(&mut GraphBuilder<'_>) -> ValueId, scope: Scope| {
        let mut m = Module::new("t");
        let mut b = GraphBuilder::new(&mut m, "forward");
        let y = make(&mut b);
        b.finish(&[y]);
        let report = lowered(&m, scope).1;
        assert_eq!(report.delegates, 0);
        report.refused.into_iter().last().unwrap().reason
    };
    let f32s = |b: &mut GraphBuilder<'_>, sizes: &[usize]| b.input("x", TensorType::fixed(DType::F32, sizes));
    let linear = |make: &dyn Fn(&mut GraphBuilder<'_>) -> ValueId| reason(make, Scope::Linear);
    let float = |make: &dyn Fn(&mut GraphBuilder<'_>) -> ValueId| reason(make, Scope::Extended);
    let found = linear(&|b| {
        let (x, w) = (f32s(b, &[2, 4]), b.input("w", TensorType::fixed(DType::F32, &[3, 4])));
        b.call(Op::Linear, args![x, w]).unwrap()
    });
    assert_eq!(found, "its weight is no constant");
    let found = linear(&|b| {
        let x = b.input("x", TensorType::fixed(DType::F16, &[2, 4]));
        let w = MemorySource::new("w", DType::F16, &[3, 4], AlignedBytes::zeroed(24)).unwrap();
        let w = b.module_mut().add_tensor_constant("w", w);
        let w = b.constant(w);
        b.call(Op::Linear, args![x, w]).unwrap()
    });
    assert_eq!(found, "its weight is f16, expected f32 or codes");
    // Weights in groups, activations as they are, quantized symmetrically, and by XNNPACK's own rule.
    let grouped_by = |b: &mut GraphBuilder<'_>, group: i64, mapping: Option<&'static str>, seed: f32| {
        let x = f32s(b, &[2, 96]);
        let codes = MemorySource::of("codes", &[3, 96], &[1i8; 288]).unwrap();
        let codes = b.module_mut().add_tensor_constant("codes", codes);
        let codes = b.constant(codes);
        let scales = weight(b, "scales", &[3, usize::try_from(96 / group).unwrap()], seed);
        let block = Arg::ints(&[1, group]);
        let w = b.call(Op::DequantizeAffine, args![codes, block, scales, Arg::None, DType::I8, -8i64, 7i64]).unwrap();
        let rows = || Arg::ints(&[1, 96]);
        let x = match mapping {
            None => x,
            Some(mapping) => {
                let range = (-128i64, 127i64);
                let chosen =
                    args![x, mapping, rows(), DType::I8, range.0, range.1, Arg::None, DType::F32, DType::I32, true];
                let n = b.node(Op::ChooseQparamsAffine, chosen).unwrap();
                let (s, z) = (b.graph().nodes[n].outputs[0], b.graph().nodes[n].outputs[1]);
                let q = b.call(Op::QuantizeAffine, args![x, rows(), s, z, DType::I8, range.0, range.1]).unwrap();
                b.call(Op::DequantizeAffine, args![q, rows(), s, z, DType::I8, range.0, range.1]).unwrap()
            }
        };
        b.call(Op::Linear, args![x, w]).unwrap()
    };
    // All of them above 0.
    let grouped = |b: &mut GraphBuilder<'_>, group, mapping| grouped_by(b, group, mapping, 0.2);
    assert_eq!(linear(&|b| grouped(b, 32, None)), "its weight is quantized and its activation is not");
    assert!(linear(&|b| grouped(b, 32, Some("SYMMETRIC"))).starts_with("its activation is quantized symmetrically"));
    assert!(linear(&|b| grouped(b, 48, Some("ASYMMETRIC"))).starts_with("its weight has groups of 48"));
    let negative = linear(&|b| grouped_by(b, 32, Some("ASYMMETRIC"), -1.0));
    assert!(negative.starts_with("its weight has a scale of -0.36"), "{negative}");
    assert!(linear(&|b| grouped_by(b, 32, Some("ASYMMETRIC"), 0.0)).starts_with("its weight has a scale of 0,"));
    let mut m = Module::new("t");
    let mut b = GraphBuilder::new(&mut m, "forward");
    let y = grouped(&mut b, 32, Some("ASYMMETRIC"));
    b.finish(&[y]);
    let report = lowered(&m, Scope::Linear).1;
    assert_eq!((report.delegates, report.dynamic_layers), (1, 1));

    let found = float(&|b| {
        let x = f32s(b, &[2, 4]);
        b.call(Op::Softmax, args![x, 0i64, false]).unwrap()
    });
    assert_eq!(found, "XNNPACK's softmax is over the last dimension");
    let found = float(&|b| {
        let x = f32s(b, &[2, 4]);
        b.call(Op::PowScalar, args![x, 3i64]).unwrap()
    });
    assert_eq!(found, "XNNPACK has squares, no other powers");
    let found = float(&|b| {
        let x = f32s(b, &[2, 4]);
        b.call(Op::SliceCopy, args![x, 1i64, 0i64, 4i64, 2i64]).unwrap()
    });
    assert_eq!(found, "XNNPACK's slices have a step of 1");
    let found = float(&|b| {
        let x = f32s(b, &[2, 4]);
        b.call(Op::Mean, args![x, Arg::ints(&[-1]), true]).unwrap()
    });
    assert_eq!(found, "XNNPACK has no such operator");
}
