use pteron_ir::{GraphBuilder, TensorType, args, print, verify};
use pteron_tensor::{MemorySource, read_all};

use super::*;
use crate::weight::{self, Matrix};

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| 3.0 * (0.37 * i as f32).sin() + 0.2).collect()
}

fn module() -> Module {
    let mut m = Module::new("t");
    let w = m.add_tensor_constant("model.a.weight", MemorySource::of("model.a.weight", &[4, 16], &wave(64)).unwrap());
    let e = m.add_tensor_constant("model.e.weight", MemorySource::of("model.e.weight", &[4, 16], &wave(64)).unwrap());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let ids = b.input("ids", TensorType::fixed(DType::I64, &[1, 3]));
    let (w, e) = (b.constant(w), b.constant(e));
    let x = b.scope("model.e", |b| b.call(Op::Embedding, args![e, ids])).unwrap();
    let y = b.scope("model.a", |b| b.call(Op::Linear, args![x, w])).unwrap();
    let z = b.scope("model.a", |b| b.call(Op::Linear, args![x, w])).unwrap();
    b.finish(&[y, z]);
    m
}

/// One choice for all layers of a kind.
#[derive(Clone, Copy, Default)]
struct All {
    linear: Option<LinearMode>,
    embedding: Option<EmbeddingMode>,
    algorithm: Algorithm,
}

impl All {
    fn apply(self, m: &mut Module) -> Result<TransformReport, TransformError> {
        let choose = |_: &str, kind: LayerKind| match kind {
            LayerKind::Linear => self.linear.map(|l| LayerChoice::Linear(l, self.algorithm)),
            LayerKind::Embedding => self.embedding.map(|e| LayerChoice::Embedding(e, self.algorithm)),
        };
        Transform::new(&choose).apply(&mut [m], None, &Context::new(2), &mut |_, _| {})
    }
}

fn apply(t: All) -> (Module, TransformReport, String) {
    let mut m = module();
    let report = t.apply(&mut m).unwrap();
    verify::module(&m).unwrap();
    let text = print::graph(&m.graphs[0]);
    (m, report, text)
}

fn constant(m: &Module, name: &str) -> Vec<u8> {
    let c = m.constants.values().find(|c| c.name.as_ref() == name).unwrap_or_else(|| panic!("{name}"));
    let ConstData::Source(s) = &c.data else { panic!("no source") };
    read_all(s.as_ref()).unwrap().to_vec()
}

/// The figures of torchao for this matrix in groups of 8, as it prints them.
#[expect(clippy::excessive_precision, reason = "recorded digits")]
const AFFINE: [f32; 8] =
    [0.425018996, 0.371429265, 0.425256908, 0.371154368, 0.425476283, 0.370860994, 0.42567718, 0.408842891];
#[expect(clippy::excessive_precision, reason = "recorded digits")]
const HQQ: [f32; 8] =
    [0.436504334, 0.350581437, 0.435417145, 0.349882782, 0.438196689, 0.352705032, 0.433275819, 0.391469687];

#[test]
fn weights_in_groups_are_torchaos() {
    let mode = LinearMode::Int4Weight { group: 8 };
    for (algorithm, scales, row) in [
        (Algorithm::Affine, AFFINE, [0i8, 3, 5, 7, 7, 7, 6, 4, 2, -1, -4, -6, -7, -8, -7, -5]),
        (Algorithm::Hqq, HQQ, [0, 3, 5, 7, 7, 7, 6, 4, 2, -1, -4, -6, -8, -8, -7, -5]),
    ] {
        let (m, report, text) = apply(All { linear: Some(mode), embedding: None, algorithm });
        assert_eq!(report, TransformReport { quantized: 2, kept: Vec::new() });
        let got: Vec<f32> = bytemuck::pod_collect_to_vec(&constant(&m, "model.a.weight_quantized_scale"));
        for (g, e) in got.iter().zip(scales) {
            assert!((g - e).abs() <= 4.0 * f32::EPSILON * e, "{g} {e}");
        }
        let codes = constant(&m, "model.a.weight_quantized");
        assert_eq!(bytemuck::cast_slice::<u8, i8>(&codes)[..16], row);
        assert_eq!(text.matches("torchao::dequantize_affine").count(), 2, "{text}");
        assert!(!text.contains("choose_qparams"));
    }
}

#[test]
fn codes_are_those_that_the_algorithms_give() {
    for algorithm in Algorithm::ALL {
        for (mode, group) in [(LinearMode::Int4Weight { group: 4 }, 4), (LinearMode::Int8, 16)] {
            let (m, ..) = apply(All { linear: Some(mode), embedding: None, algorithm });
            let label = TensorLabel::new("model.a", "weight");
            let values = wave(64);
            let matrix = Matrix::new(&label, &values, 4, 16).unwrap();
            let expected = match (mode, algorithm) {
                (LinearMode::Int8, _) => weight::int8(&label, matrix).unwrap(),
                (_, Algorithm::Affine) => weight::affine(&label, matrix, group, (-8, 7)).unwrap(),
                (_, Algorithm::Hqq) => weight::hqq(&label, matrix, group, (-8, 7)).unwrap(),
                (_, Algorithm::Mse) => weight::mse(&label, matrix, group, (-8, 7), None).unwrap(),
            };
            let codes = constant(&m, "model.a.weight_quantized");
            assert_eq!(bytemuck::cast_slice::<u8, i8>(&codes), expected.codes);
            let scales = constant(&m, "model.a.weight_quantized_scale");
            assert_eq!(bytemuck::pod_collect_to_vec::<u8, f32>(&scales), expected.scales);
        }
    }
}

#[test]
fn layers_of_one_input_share_its_codes() {
    let mode = LinearMode::Int8DynActInt4Weight { group: 8 };
    let (_, report, text) = apply(All { linear: Some(mode), ..All::default() });
    assert_eq!(report.quantized, 2);
    assert_eq!(text.matches("torchao::choose_qparams_affine").count(), 1, "{text}");
    assert_eq!(text.matches("torchao::quantize_affine").count(), 1);
    assert_eq!(text.matches("torchao::dequantize_affine").count(), 3);
}

#[test]
fn int8_multiplies_by_scales_behind_the_layer() {
    let (_, _, text) = apply(All { linear: Some(LinearMode::Int8), ..All::default() });
    assert_eq!(text.matches("aten::mul.Tensor").count(), 2, "{text}");
}

#[test]
fn embeddings_are_packed_as_the_kernels_read_them() {
    for (bits, group, columns) in [(8, 0, 16), (4, 8, 8), (2, 0, 4)] {
        let embedding = Some(EmbeddingMode { bits, group });
        let (m, report, text) = apply(All { linear: None, embedding, algorithm: Algorithm::Affine });
        assert_eq!(report.quantized, 1);
        let name = if bits == 8 { "byte".to_owned() } else { format!("{bits}bit") };
        assert!(text.contains(&format!("quantized_decomposed::embedding_{name}.dtype")), "{text}");
        let packed = constant(&m, "model.e.weight_embedding_quantized");
        assert_eq!(packed.len(), 4 * columns);
        if bits == 4 {
            // Codes 0 and 3, 5 and 7: the even column in the high nibble, 8 added.
            assert_eq!(packed[..2], [0x8B, 0xDF]);
        }
        if bits == 2 {
            // The largest magnitude of row 0 is 3.19 over 1.5: codes 0, 1, 1, 1, 1, 1, 1, 1 of the first columns, 2 added.
            let first = packed[0];
            let code = |i: u32| i32::from(first >> (2 * i) & 3) - 2;
            assert_eq!([code(0), code(1), code(2), code(3)], [0, 1, 1, 1]);
        }
    }
}

#[test]
fn what_cannot_be_quantized_is_said() {
    let go = |t: All| t.apply(&mut module()).unwrap_err().to_string();
    let group = go(All { linear: Some(LinearMode::Int4Weight { group: 7 }), ..All::default() });
    assert!(group.contains("`model.a`") && group.contains("group size 7") && group.contains("16 columns"), "{group}");
    let bits = go(All { embedding: Some(EmbeddingMode { bits: 3, group: 0 }), ..All::default() });
    assert!(bits.contains("2, 4 or 8"), "{bits}");
    let mut m = module();
    let bad = MemorySource::of("model.a.weight", &[4, 16], &[f32::NAN; 64]).unwrap();
    let id = m.constants.iter().find(|(_, c)| c.name.as_ref() == "model.a.weight").unwrap().0;
    m.constants[id].data = ConstData::Source(Arc::new(bad));
    let t = All { linear: Some(LinearMode::Int8), ..All::default() };
    let nan = t.apply(&mut m).unwrap_err().to_string();
    assert!(nan.contains("`model.a`") && nan.contains("NaN"), "{nan}");
}

#[test]
fn layers_can_be_chosen_one_by_one() {
    let mut m = Module::new("t");
    let w = m.add_tensor_constant("a.weight", MemorySource::of("a.weight", &[4, 16], &wave(64)).unwrap());
    let mut b = GraphBuilder::new(&mut m, "forward");
    let x = b.input("x", TensorType::fixed(DType::F32, &[1, 16]));
    let w = b.constant(w);
    // One weight, three readers, two choices.
    let outputs: Vec<_> =
        ["a", "b", "c"].into_iter().map(|path| b.scope(path, |b| b.call(Op::Linear, args![x, w])).unwrap()).collect();
    b.finish(&outputs);
    let choose = |path: &str, _: LayerKind| match path {
        "a" => Some(LayerChoice::Linear(LinearMode::Int4Weight { group: 8 }, Algorithm::Affine)),
        "b" => Some(LayerChoice::Linear(LinearMode::Int8, Algorithm::Hqq)),
        _ => None,
    };
    let report = Transform::new(&choose).apply(&mut [&mut m], None, &Context::new(1), &mut |_, _| {}).unwrap();
    verify::module(&m).unwrap();
    assert_eq!(report, TransformReport { quantized: 2, kept: Vec::new() });
    let text = print::graph(&m.graphs[0]);
    assert_eq!((text.matches("dequantize_affine").count(), text.matches("aten::mul").count()), (1, 1), "{text}");
    assert_eq!(m.constants.values().filter(|c| c.name.contains("_scale")).count(), 2);
}
