//! Quantized values: against their definition, and as ExecuTorch wrote them.

mod common;

use std::sync::Arc;

use common::{delegates, module_of, source};
use pteron_exec::{Context, DelegateFactory, Fuel};
use pteron_ir::{Delegate, Op};
use pteron_kernels::quant::qd8;
use pteron_tensor::{DType, Shape, SharedSource, Tensor, Tolerance, ViewMut};
use pteron_xnnpack::{
    BinaryKind, Constant, ConstantBytes, Datatype, Node, NodeKind, Payload, QuantParams, Scales, UnaryKind, Value,
    XnnpackBackend,
};

const GOLDENS: [&str; 7] = [
    "v4_8da4w_xnn.pte",
    "v4b_8da4w_xnn_ext.pte",
    "v4d_8da4w_xnn_emb8.pte",
    "v4e_8da4w_xnn_emb4.pte",
    "v5_pt2e_xnn_dyn.pte",
    "v5b_pt2e_xnn_dyn_qc4.pte",
    "v6_kv_sdpa_xnn_fp32.pte",
];

#[test]
fn payloads_are_written_as_they_were_read() {
    let mut kinds = std::collections::BTreeSet::new();
    for name in GOLDENS {
        for d in delegates(name) {
            let payload = Payload::parse(&d.payload).unwrap();
            kinds.extend(payload.nodes.iter().map(|n| n.kind.name()));
            let blob = payload.to_blob().unwrap();
            assert_eq!(Payload::parse(&blob).unwrap(), payload, "{name}");
        }
    }
    assert!(kinds.len() >= 6, "{kinds:?}");
}

#[test]
fn readers_of_one_activation_share_its_codes() {
    let m = module_of(&delegates("v4_8da4w_xnn.pte")[0]).unwrap();
    let count = |op: Op| m.graphs[0].nodes.values().filter(|n| n.op == op).count();
    assert_eq!((count(Op::Linear), count(Op::ConvertQd8), count(Op::DequantizeAffine)), (3, 1, 3));
}

/// Builds a payload value by value.
struct Maker {
    payload: Payload,
    named: Vec<(Box<str>, SharedSource)>,
}

impl Maker {
    fn new() -> Maker {
        let payload = Payload {
            version: "0".to_owned(),
            identifier: *b"XN01",
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            constants: vec![Constant { bytes: ConstantBytes::Blob(0..0), size: 0 }],
        };
        Maker { payload, named: Vec::new() }
    }

    fn bytes(&mut self, bytes: &[u8]) -> usize {
        let key = format!("key{}", self.named.len());
        self.named.push((key.as_str().into(), source(&key, bytes)));
        self.payload.constants.push(Constant { bytes: ConstantBytes::Named(key), size: bytes.len() as u64 });
        self.payload.constants.len() - 1
    }

    fn value(
        &mut self,
        datatype: Datatype,
        dims: &[u32],
        quant: Option<QuantParams>,
        constant: Option<usize>,
    ) -> usize {
        self.payload.values.push(Value {
            id: u32::try_from(self.payload.values.len()).unwrap(),
            datatype,
            dims: dims.to_vec(),
            constant,
            external_id: None,
            is_input: false,
            is_output: false,
            dq_datatype: None,
            quant,
        });
        self.payload.values.len() - 1
    }

    fn node(&mut self, kind: NodeKind) {
        self.payload.nodes.push(Node { kind, flags: 0, debug_handle: 7, range: None });
    }

    fn delegate(&self, inputs: &[usize], outputs: &[usize]) -> Delegate {
        let mut p = self.payload.clone();
        for (e, &i) in (0u32..).zip(inputs.iter().chain(outputs)) {
            p.values[i].external_id = Some(e);
        }
        inputs.iter().for_each(|&i| p.values[i].is_input = true);
        outputs.iter().for_each(|&i| p.values[i].is_output = true);
        (p.inputs, p.outputs) = (inputs.to_vec(), outputs.to_vec());
        let (payload, named_data) = (p.to_blob().unwrap().into(), self.named.clone());
        Delegate { backend: "XnnpackBackend".into(), payload, compile_specs: Vec::new(), named_data }
    }
}

fn run(d: &Delegate, inputs: &[Tensor], dtype: DType, sizes: &[usize]) -> Vec<f64> {
    let mut instance = XnnpackBackend::new().prepare(d, &Arc::new(Context::new(1)), u64::MAX).unwrap();
    let views: Vec<_> = inputs.iter().map(Tensor::view).collect();
    let found = instance.output_sizes(&views, &[Shape::from_slice(sizes)]).unwrap();
    assert_eq!(found[0].as_slice(), sizes);
    let mut out = Tensor::zeros(dtype, sizes).unwrap();
    let outs: &mut [ViewMut<'_>] = &mut [out.view_mut()];
    instance.execute(&views, outs, &mut Fuel::new(None)).unwrap();
    out.view().to_f64_vec()
}

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37).sin() * 2.0 + 0.3).collect()
}

fn per_token() -> Option<QuantParams> {
    Some(QuantParams::PerTokenDynamic { num_nonbatch_dims: 1 })
}

/// A layer of `rows` inputs of `ic` numbers to `oc`: its delegate, and the weight's codes and scales.
fn layer(datatype: Datatype, oc: usize, ic: usize, group: usize, bias: bool, listed: bool) -> (Delegate, Vec<f64>) {
    let mut m = Maker::new();
    let (ocu, icu) = (u32::try_from(oc).unwrap(), u32::try_from(ic).unwrap());
    let x = m.value(Datatype::Fp32, &[1, 3, icu], None, None);
    let codes = m.value(Datatype::QdInt8, &[1, 3, icu], per_token(), None);
    let four = datatype != Datatype::QcInt8;
    let code = |i: usize| if four { ((i * 5 + i / 7) % 16) as i32 - 8 } else { (i * 37 % 255) as i32 - 127 };
    let all: Vec<i32> = (0..oc * ic).map(code).collect();
    let packed: Vec<u8> = match four {
        false => all.iter().map(|&c| c as u8).collect(),
        true => all
            .chunks(ic)
            .flat_map(|row| row.chunks(2))
            .map(|p| ((p.get(1).copied().unwrap_or(0) + 8) << 4 | (p[0] + 8)) as u8)
            .collect(),
    };
    // Numbers that bf16 holds.
    let scales: Vec<f32> = (0..oc * ic / group).map(|i| 0.125 + (i % 8) as f32 / 64.0).collect();
    let groups = datatype == Datatype::QbInt4;
    let kept = if listed {
        Scales::List(scales.clone())
    } else {
        let bytes: Vec<u8> = match groups {
            true => scales.iter().flat_map(|s| s.to_bits().to_le_bytes()[2..].to_vec()).collect(),
            false => scales.iter().flat_map(|s| s.to_le_bytes()).collect(),
        };
        let index = m.bytes(&bytes);
        Scales::Constant { index, count: u32::try_from(scales.len()).unwrap() }
    };
    let quant = match groups {
        true => {
            QuantParams::PerChannelGroup { scales: kept, channel_dim: 0, group_size: i32::try_from(group).unwrap() }
        }
        false => QuantParams::PerChannel { scales: kept, channel_dim: 0 },
    };
    let constant = Some(m.bytes(&packed));
    let w = m.value(datatype, &[ocu, icu], Some(quant), constant);
    let b: Vec<f32> = (0..oc).map(|i| i as f32 * 0.5 - 1.0).collect();
    let bias = bias.then(|| {
        let constant = Some(m.bytes(&b.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()));
        m.value(Datatype::Fp32, &[ocu], None, constant)
    });
    let y = m.value(Datatype::Fp32, &[1, 3, ocu], None, None);
    m.node(NodeKind::Unary { kind: UnaryKind::Convert, input: x, output: codes });
    m.node(NodeKind::FullyConnected { input: codes, filter: w, bias, output: y });
    let mut expected = Vec::new();
    for row in wave(3 * ic).chunks(ic) {
        let mut q = vec![0i8; ic];
        let p = qd8::quantize_row(row, &mut q);
        for (o, w) in all.chunks(ic).enumerate() {
            let mut sum = 0.0;
            for (g, part) in w.chunks(group).enumerate() {
                let products =
                    part.iter().zip(&q[g * group..]).map(|(&w, &q)| i64::from(w) * (i64::from(q) - p.zero_point));
                sum += products.sum::<i64>() as f64 * f64::from(scales[(o * ic + g * group) / group]);
            }
            expected.push(sum * f64::from(p.scale) + if bias.is_some() { f64::from(b[o]) } else { 0.0 });
        }
    }
    (m.delegate(&[x], &[y]), expected)
}

#[test]
fn dynamically_quantized_layers() {
    for bias in [false, true] {
        for listed in [false, true] {
            for (datatype, oc, ic, group) in [
                (Datatype::QcInt8, 5, 12, 12),
                (Datatype::QcInt4, 5, 12, 12),
                // Rows that do not fill their last byte.
                (Datatype::QcInt4, 3, 7, 7),
                (Datatype::QbInt4, 4, 64, 32),
                (Datatype::QbInt4, 2, 32, 32),
            ] {
                // A scale of a list is rounded up to bf16, which these are already but for the last bit.
                if listed && datatype == Datatype::QbInt4 {
                    continue;
                }
                let (d, expected) = layer(datatype, oc, ic, group, bias, listed);
                let x = Tensor::of(&[1, 3, ic], &wave(3 * ic)).unwrap();
                let found = run(&d, &[x], DType::F32, &[1, 3, oc]);
                Tolerance::KERNEL_F32.check(&expected, &found).unwrap_or_else(|e| panic!("{datatype} {oc}x{ic}: {e}"));
            }
        }
    }
}

#[test]
fn scales_of_groups_in_lists_become_bf16() {
    let mut m = Maker::new();
    let x = m.value(Datatype::Fp32, &[1, 32], None, None);
    let codes = m.value(Datatype::QdInt8, &[1, 32], per_token(), None);
    // 0.3 lies between the bf16 numbers 0.298828125 and 0.30078125.
    let scales = Scales::List(vec![0.3]);
    let quant = Some(QuantParams::PerChannelGroup { scales, channel_dim: 0, group_size: 32 });
    let constant = Some(m.bytes(&[0x99; 16]));
    let w = m.value(Datatype::QbInt4, &[1, 32], quant, constant);
    let y = m.value(Datatype::Fp32, &[1, 1], None, None);
    m.node(NodeKind::Unary { kind: UnaryKind::Convert, input: x, output: codes });
    m.node(NodeKind::FullyConnected { input: codes, filter: w, bias: None, output: y });
    let found = run(&m.delegate(&[x], &[y]), &[Tensor::of(&[1, 32], &[1f32; 32]).unwrap()], DType::F32, &[1, 1]);
    Tolerance::KERNEL_F32.check(&[32.0 * 0.300_781_25], &found).unwrap();
}

/// Codes in, codes out: `(a + b)` of what the codes stand for.
#[test]
fn codes_with_a_scale_of_their_own() {
    let mut m = Maker::new();
    let of = |scale: f32, zero_point: i32| Some(QuantParams::PerTensor { scale, zero_point });
    let a = m.value(Datatype::QInt8, &[4], of(0.5, 1), None);
    let x = m.value(Datatype::Fp32, &[4], None, None);
    let b = m.value(Datatype::QUint8, &[4], of(0.25, 128), None);
    let sum = m.value(Datatype::QInt8, &[4], of(1.0, -3), None);
    m.node(NodeKind::Unary { kind: UnaryKind::Convert, input: x, output: b });
    m.node(NodeKind::Binary { kind: BinaryKind::Add, a, b, output: sum });
    let d = m.delegate(&[a, x], &[sum]);
    let given =
        [Tensor::of(&[4], &[1i8, 3, -7, 127]).unwrap(), Tensor::of(&[4], &[0.3f32, 1.0, -100.0, 100.0]).unwrap()];
    // 0 + 0.25, 1 + 1, -4 - 32 (the least code), 63 + 31.75 (the largest one).
    assert_eq!(run(&d, &given, DType::I8, &[4]), [-3.0, -1.0, -39.0, 92.0]);
    let mut instance = XnnpackBackend::new().prepare(&d, &Arc::new(Context::new(1)), u64::MAX).unwrap();
    let floats = Tensor::of(&[4], &[0f32; 4]).unwrap();
    let e = instance.output_sizes(&[floats.view(), floats.view()], &[Shape::from_slice(&[4])]).unwrap_err();
    assert_eq!(e, "input 0 is f32, expected i8");
}

#[test]
fn what_does_not_hold_is_refused_by_name() {
    let refuse = |datatype: Datatype, dims: &[u32], quant: Option<QuantParams>, constant: bool| {
        let mut m = Maker::new();
        let x = m.value(Datatype::Fp32, &[2, 4], None, None);
        let constant = constant.then(|| m.bytes(&[0; 64]));
        let y = m.value(datatype, dims, quant, constant);
        m.node(NodeKind::Unary { kind: UnaryKind::Copy, input: x, output: y });
        let outputs: Vec<usize> = constant.is_none().then_some(y).into_iter().collect();
        module_of(&m.delegate(&[x], &outputs)).unwrap_err().to_string()
    };
    let list = |n: usize| Scales::List(vec![0.5; n]);
    let groups = |n: usize, channel_dim: i32, group_size: i32| {
        Some(QuantParams::PerChannelGroup { scales: list(n), channel_dim, group_size })
    };
    let channels = |n: usize, channel_dim: i32| Some(QuantParams::PerChannel { scales: list(n), channel_dim });
    let tensor = |scale: f32, zero_point: i32| Some(QuantParams::PerTensor { scale, zero_point });
    let rows = |num_nonbatch_dims: i32| Some(QuantParams::PerTokenDynamic { num_nonbatch_dims });
    let cases: &[(String, &str)] = &[
        (refuse(Datatype::QInt8, &[2, 4], None, false), "value 1, field quant_params: found nothing"),
        (refuse(Datatype::QInt8, &[2, 4], tensor(0.0, 0), false), "field scale: found 0"),
        (refuse(Datatype::QInt8, &[2, 4], tensor(f32::NAN, 0), false), "field scale: found NaN"),
        (refuse(Datatype::QInt8, &[2, 4], tensor(1.0, 128), false), "field zero_point: found 128"),
        (refuse(Datatype::QInt32, &[2, 4], tensor(1.0, 0), false), "a result of type i32"),
        (refuse(Datatype::QdInt8, &[2, 4], rows(0), false), "num_nonbatch_dims: found 0"),
        (refuse(Datatype::QdInt8, &[2, 4], rows(3), false), "num_nonbatch_dims: found 3"),
        (refuse(Datatype::QdInt8, &[2, 4], rows(1), true), "constant_buffer_idx: found a constant"),
        (refuse(Datatype::QcInt8, &[2, 4], channels(3, 0), true), "field scale: found 3 scales, expected 2"),
        (refuse(Datatype::QcInt8, &[2, 4], channels(2, 2), true), "channel_dim: found 2"),
        (refuse(Datatype::QcInt8, &[2, 4], channels(2, 0), false), "has and no constant"),
        (refuse(Datatype::QbInt4, &[2, 4], groups(2, 1, 4), true), "channel_dim: found 1"),
        (refuse(Datatype::QbInt4, &[2, 4], groups(2, 0, 3), true), "group_size: found 3, expected a divisor of 4"),
        (refuse(Datatype::QbInt4, &[2, 4], groups(2, 0, 0), true), "group_size: found 0"),
        (refuse(Datatype::QbInt4, &[2, 4], groups(2, 0, 2), true), "found 2 scales, expected 4"),
        (refuse(Datatype::QbInt4, &[8], groups(2, 0, 4), true), "a matrix, because it has groups"),
        (refuse(Datatype::Fp32, &[2, 4], tensor(1.0, 0), false), "a quantized one, because of quant_params"),
        (refuse(Datatype::Fp16, &[2, 4], None, false), "fp16 values are not supported yet (value 1)"),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected), "{found}\nexpected: {expected}");
    }
}
