use half::bf16;
use pteron_ir::{GraphBuilder, TensorType, args, print, verify};
use pteron_tensor::{Element, GroupedCodes, MemorySource, read_all};

use super::*;
use crate::weight::{self, Matrix};

fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| 3.0 * (0.37 * i as f32).sin() + 0.2).collect()
}

fn module() -> Module {
    module_of(&wave(64))
}

fn module_of<T: Element>(values: &[T]) -> Module {
    let mut m = Module::new("t");
    let w = m.add_tensor_constant("model.a.weight", MemorySource::of("model.a.weight", &[4, 16], values).unwrap());
    let e = m.add_tensor_constant("model.e.weight", MemorySource::of("model.e.weight", &[4, 16], values).unwrap());
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
        assert_eq!(report, TransformReport { quantized: 2, ..TransformReport::default() });
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
    for algorithm in [Algorithm::Affine, Algorithm::Hqq, Algorithm::Mse] {
        let modes = [
            (LinearMode::Int4Weight { group: 4 }, 4),
            (LinearMode::Int8, 16),
            (LinearMode::Int8Groups { group: 8 }, 8),
            (LinearMode::Int8DynActInt8Weight { group: 0 }, 16),
        ];
        for (mode, group) in modes {
            let (m, ..) = apply(All { linear: Some(mode), embedding: None, algorithm });
            let label = TensorLabel::new("model.a", "weight");
            let values = wave(64);
            let matrix = Matrix::new(&label, &values, 4, 16).unwrap();
            let range = if mode.bits() == 4 { (-8, 7) } else { (-128, 127) };
            let expected = match (mode, algorithm) {
                (LinearMode::Int8, Algorithm::Affine) => weight::int8(&label, matrix).unwrap(),
                (_, Algorithm::Affine) => weight::affine(&label, matrix, group, range).unwrap(),
                (_, Algorithm::Hqq) => weight::hqq(&label, matrix, group, range).unwrap(),
                _ => weight::mse(&label, matrix, group, range, None).unwrap(),
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
fn layers_of_bf16_are_computed_in_f32() {
    let values: Vec<bf16> = wave(64).into_iter().map(bf16::from_f32).collect();
    let modes = [
        LinearMode::Int8,
        LinearMode::Int8Groups { group: 8 },
        LinearMode::Int4Weight { group: 8 },
        LinearMode::Int8DynActInt4Weight { group: 8 },
        LinearMode::Int8DynActInt8Weight { group: 0 },
    ];
    for mode in modes {
        let mut m = module_of(&values);
        All { linear: Some(mode), ..All::default() }.apply(&mut m).unwrap();
        verify::module(&m).unwrap();
        let outputs = &m.graphs[0].body().results;
        assert!(outputs.iter().all(|&v| m.graphs[0].values[v].ty.as_tensor().is_some_and(|t| t.dtype == DType::BF16)));
        let text = print::graph(&m.graphs[0]);
        let shared = usize::from(text.contains("choose_qparams_affine"));
        assert_eq!(text.matches("choose_qparams_affine").count(), shared, "{text}");
        assert!(!text.contains("dequantize_affine") || !text.contains("output_dtype=bf16"), "{text}");
    }
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
    assert_eq!(report, TransformReport { quantized: 2, ..TransformReport::default() });
    let text = print::graph(&m.graphs[0]);
    assert_eq!((text.matches("dequantize_affine").count(), text.matches("aten::mul").count()), (1, 1), "{text}");
    assert_eq!(m.constants.values().filter(|c| c.name.contains("_scale")).count(), 2);
}

fn codes_of(bits: u32, most: i8, scales: &[f32], shape: [usize; 2]) -> GroupedCodes {
    let codes: Vec<i8> = (0..64).map(|i| (i % (2 * i16::from(most) + 1) - i16::from(most)) as i8).collect();
    let codes = Arc::new(MemorySource::of("w.codes", &shape, &codes).unwrap());
    let groups = scales.len() / shape[0];
    let scales = Arc::new(MemorySource::of("w.scales", &[shape[0], groups], scales).unwrap());
    GroupedCodes::new(codes, scales, bits).unwrap()
}

fn stored(group: usize, bits: u32, most: i8) -> GroupedCodes {
    // Scales may be negative, as llama.cpp's are.
    let scales: Vec<f32> = (0..64 / group).map(|i| 0.5 - i as f32 / 8.0).collect();
    codes_of(bits, most, &scales, [4, 16])
}

#[test]
fn stored_codes_are_taken_over_as_they_are() {
    let mode = |linear| LayerChoice::Linear(linear, Algorithm::Stored);
    let embedding = |bits, group| LayerChoice::Embedding(EmbeddingMode { bits, group }, Algorithm::Stored);
    let dynamic = LinearMode::Int8DynActInt4Weight { group: 4 };
    // What was asked for, what the codes are, and what is made of both.
    for (asked, group, bits, made) in [
        (mode(LinearMode::Int4Weight { group: 16 }), 8, 4, mode(LinearMode::Int4Weight { group: 8 })),
        (mode(LinearMode::Int4Weight { group: 16 }), 8, 8, mode(LinearMode::Int8Groups { group: 8 })),
        (mode(dynamic), 8, 4, mode(LinearMode::Int8DynActInt4Weight { group: 8 })),
        (mode(dynamic), 16, 8, mode(LinearMode::Int8DynActInt8Weight { group: 0 })),
        (mode(LinearMode::Int8), 8, 4, mode(LinearMode::Int8Groups { group: 8 })),
        (mode(LinearMode::Int8Groups { group: 4 }), 16, 8, mode(LinearMode::Int8)),
        (embedding(4, 0), 8, 8, embedding(8, 8)),
        (embedding(8, 0), 16, 4, embedding(8, 0)),
    ] {
        let codes = stored(group, bits, if bits == 8 { 127 } else { 7 });
        assert_eq!(stored::Stored::new(&codes, asked, [4, 16]).unwrap().unwrap().choice, made);
        let mut m = module();
        let lookup = |name: &str| match name {
            "model.a.weight" | "model.e.weight" => Ok(Ok(codes.clone())),
            other => panic!("{other}"),
        };
        let choose = |_: &str, kind| (asked.layer() == kind).then_some(asked);
        let transform = Transform::new(&choose).stored(&lookup);
        let report = transform.apply(&mut [&mut m], None, &Context::new(1), &mut |_, _| {}).unwrap();
        verify::module(&m).unwrap();
        assert!(report.kept.is_empty() && report.taken_over == report.quantized && report.quantized > 0);
        let name = match asked.layer() {
            LayerKind::Linear => "model.a.weight_quantized",
            LayerKind::Embedding => "model.e.weight_embedding_quantized",
        };
        assert_eq!(constant(&m, name), read_all(codes.codes().as_ref()).unwrap().to_vec(), "{asked:?}");
        let scales: Vec<f32> = bytemuck::pod_collect_to_vec(&constant(&m, &format!("{name}_scale")));
        let expected: Vec<f32> = bytemuck::pod_collect_to_vec(&read_all(codes.scales().as_ref()).unwrap());
        assert_eq!(scales, expected, "{asked:?}");
    }
}

#[test]
fn what_has_no_codes_stays_float() {
    let choose = |_: &str, kind: LayerKind| match kind {
        LayerKind::Linear => Some(LayerChoice::Linear(LinearMode::Int8, Algorithm::Stored)),
        LayerKind::Embedding => Some(LayerChoice::Embedding(EmbeddingMode { bits: 8, group: 0 }, Algorithm::Stored)),
    };
    let go = |lookup: Lookup<'_>| {
        let mut m = module();
        let report =
            Transform::new(&choose).stored(lookup).apply(&mut [&mut m], None, &Context::new(1), &mut |_, _| {});
        report.map(|r| (r, m))
    };
    let (report, m) = go(&|name| match name {
        "model.a.weight" => Ok(Ok(stored(8, 8, 127))),
        _ => Ok(Err("it is stored as Q4_K".to_owned())),
    })
    .unwrap();
    assert_eq!((report.quantized, report.taken_over), (2, 2));
    assert_eq!(report.kept, [("model.e".to_owned(), "it is stored as Q4_K".to_owned())]);
    assert!(print::graph(&m.graphs[0]).contains("aten::embedding"));
    // None at all, by itself or because nothing is asked.
    let none = go(&|_| Ok(Err("it is stored as Q4_K".to_owned()))).unwrap_err().to_string();
    assert!(none.contains("no layer") && none.contains("`model.e`") && none.contains("Q4_K"), "{none}");
    // Scales and codes that do not fit.
    let bad = |codes: GroupedCodes| go(&|_| Ok(Ok(codes.clone()))).unwrap_err().to_string();
    let infinite = bad(codes_of(8, 127, &[1.0, 1.0, 1.0, f32::INFINITY, 1.0, 1.0, 1.0, 1.0], [4, 16]));
    assert!(infinite.contains("the scale of group 1 of row 1 of its weight is inf"), "{infinite}");
    let turned = bad(codes_of(8, 127, &[1.0; 16], [16, 4]));
    assert!(turned.contains("its codes have the shape [16, 4], expected [4, 16]"), "{turned}");
    // A code of 8 bits among those that are said to have 4.
    let wide = stored(8, 4, 127);
    let mut m = module();
    let choose = |_: &str, kind: LayerKind| {
        (kind == LayerKind::Linear)
            .then_some(LayerChoice::Linear(LinearMode::Int4Weight { group: 8 }, Algorithm::Stored))
    };
    let lookup = |_: &str| Ok(Ok(wide.clone()));
    Transform::new(&choose).stored(&lookup).apply(&mut [&mut m], None, &Context::new(1), &mut |_, _| {}).unwrap();
    let c = m.constants.values().find(|c| c.name.as_ref() == "model.a.weight_quantized").unwrap();
    let ConstData::Source(source) = &c.data else { panic!("no source") };
    let said = read_all(source.as_ref()).unwrap_err().to_string();
    assert!(said.contains("w.codes") && said.contains("code -127 in row 0, column 0, expected -8 to 7"), "{said}");
}
