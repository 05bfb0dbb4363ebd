use pteron_ir::{GraphBuilder, Module, Op, TensorType, args};
use pteron_tensor::{DType, MemorySource};

use super::*;
use crate::quantizer::Quantizer;
use crate::transform::{LayerChoice, LayerKind};

fn module() -> Module {
    let mut m = Module::new("t");
    let mut weight = |name: &str| m.add_tensor_constant(name, MemorySource::of(name, &[8, 8], &[0.5f32; 64]).unwrap());
    let (e, a, b_, h) =
        (weight("model.embed.weight"), weight("model.a.weight"), weight("model.b.weight"), weight("head.weight"));
    let mut b = GraphBuilder::new(&mut m, "forward");
    let ids = b.input("ids", TensorType::fixed(DType::I64, &[1, 3]));
    let [e, a, b_, h] = [e, a, b_, h].map(|c| b.constant(c));
    let x = b.scope("model.embed", |b| b.call(Op::Embedding, args![e, ids])).unwrap();
    let x = b.scope("model.a", |b| b.call(Op::Linear, args![x, a])).unwrap();
    let x = b.scope("model.b", |b| b.call(Op::Linear, args![x, b_])).unwrap();
    let x = b.scope("model", |b| b.call(Op::Add, args![x, x])).unwrap();
    let x = b.scope("head", |b| b.call(Op::Linear, args![x, h])).unwrap();
    b.finish(&[x]);
    m
}

fn wrong(text: &str) -> String {
    Recipe::parse(text).unwrap_err().to_string()
}

const WHOLE: &str = "\
quantization-mode = '8da4w'
group-size = 8
embedding-quantize = '4,8'
weight-algorithm = 'mse'

[[rule]]
path = 'head'
quantization-mode = 'int8'

[[rule]]
path = 'model\\.[ab]'
group-size = 4
";

#[test]
fn what_is_printed_reads_back() {
    let recipe = Recipe::parse(WHOLE).unwrap();
    assert_eq!(recipe.to_string(), WHOLE);
    assert_eq!(recipe.describe(), "8da4w, groups of 8, mse; embedding 4 bits, groups of 8, mse; 2 rules");
    let pt2e = "\
pt2e-quantize = 'xnnpack_dynamic,embedding'
quant-compat = 'et1.5'

[[rule]]
path = \"it's\\\\.\"
pt2e-quantize = 'vulkan_8w'
activation = 'float'
granularity = 'group'
observer = 'MinMaxObserver'
weight-observer = 'PerChannelMinMaxObserver'
bits = 4
group-size = 32
";
    assert_eq!(Recipe::parse(pt2e).unwrap().to_string(), pt2e);
    assert!(Recipe::parse("").unwrap().is_none());
    // The spelling of export_llama's flags.
    assert_eq!(Recipe::parse("quantization_mode = \"int8\"").unwrap().base.linear, Some(LinearMode::Int8));
}

#[test]
fn the_first_rule_that_matches_counts() {
    let text = format!("{WHOLE}\n[[rule]]\npath = 'model\\..*'\nbits = 8\n");
    let resolved = Recipe::parse(&text).unwrap().resolve(&module()).unwrap();
    let mse = Algorithm::Mse;
    let grouped = |group| LayerChoice::Linear(LinearMode::Int8DynActInt4Weight { group }, mse);
    assert_eq!(resolved.layer("model.a", LayerKind::Linear), Some(grouped(4)));
    assert_eq!(resolved.layer("head", LayerKind::Linear), Some(LayerChoice::Linear(LinearMode::Int8, mse)));
    assert_eq!(resolved.layer("other", LayerKind::Linear), Some(grouped(8)));
    let embedding = LayerChoice::Embedding(EmbeddingMode { bits: 8, group: 8 }, mse);
    assert_eq!(resolved.layer("model.embed", LayerKind::Embedding), Some(embedding));
    let plan = resolved.transform_plan(&module().graphs[0]).to_string();
    assert_eq!(
        plan,
        "model.embed  embedding  8 bits, groups of 8, mse  (rule 3)\n\
         model.a      linear     8da4w, groups of 4, mse  (rule 2)\n\
         model.b      linear     8da4w, groups of 4, mse  (rule 2)\n\
         head         linear     int8, mse  (rule 1)\n"
    );
}

#[test]
fn bits_and_activations_choose_a_mode() {
    let choice = |rule: &str| {
        let text = format!("quantization-mode = '4w'\ngroup-size = 4\n[[rule]]\npath = 'head'\n{rule}");
        Recipe::parse(&text).unwrap().resolve(&module()).unwrap().layer("head", LayerKind::Linear)
    };
    let hqq = Algorithm::Hqq;
    assert_eq!(choice("bits = 8"), Some(LayerChoice::Linear(LinearMode::Int8, Algorithm::Affine)));
    assert_eq!(
        choice("bits = 8\nactivation = 'int8'\ngroup-size = 8\nweight-algorithm = 'hqq'"),
        Some(LayerChoice::Linear(LinearMode::Int8DynActInt8Weight { group: 8 }, hqq))
    );
    assert_eq!(choice("bits = 8\ngroup-size = 2"), Some(LayerChoice::Linear(LinearMode::Int8Groups { group: 2 }, hqq)));
    let dynamic = LinearMode::Int8DynActInt4Weight { group: 4 };
    assert_eq!(choice("activation = 'int8'"), Some(LayerChoice::Linear(dynamic, hqq)));
    assert_eq!(choice("keep-float = true"), None);
    let affine = LayerChoice::Linear(LinearMode::Int4Weight { group: 0 }, Algorithm::Affine);
    assert_eq!(choice("group-size = 0\nweight-algorithm = 'affine'"), Some(affine));
}

#[test]
fn a_rule_without_effect_is_an_error() {
    let resolve = |text: &str| Recipe::parse(text).unwrap().resolve(&module()).map(drop).unwrap_err().to_string();
    let said = resolve("quantization-mode = 'int8'\n[[rule]]\npath = 'model.c'\nkeep-float = true");
    assert!(
        said.contains("rule 1 (`model.c`) matches no linear layer") && said.contains("did you mean model.a"),
        "{said}"
    );
    // A module of its own counts for PT2E only, and a part of a path is no match.
    for path in ["model", "odel.a", "model.a."] {
        let said = resolve(&format!("quantization-mode = 'int8'\n[[rule]]\npath = '{path}'\nkeep-float = true"));
        assert!(said.contains("matches no linear layer"), "{path}: {said}");
    }
    let said = resolve(
        "quantization-mode = 'int8'\n[[rule]]\npath = 'model.*'\nbits = 4\n[[rule]]\npath = 'model.a'\nkeep-float = true",
    );
    assert!(said.contains("rule 2 (`model.a`) has no effect"), "{said}");
    let said = resolve("quantization-mode = '4w'\ngroup-size = 4\n[[rule]]\npath = 'head'\nbits = 5");
    assert!(said.contains("rule 1 (`head`)") && said.contains("no source transform has 5-bit weights"), "{said}");
}

#[test]
fn mistakes_are_named() {
    for (text, parts) in [
        ("quantisation-mode = 'int8'", &["unknown key `quantisation-mode`", "did you mean quantization-mode?"][..]),
        ("[[rule]]\npath = 'a'\nkeep_flaot = true", &["rule 1: unknown key `keep_flaot`", "keep-float"]),
        ("x = ", &["line 1"]),
        ("\n\nquantization-mode = 3", &["`quantization-mode` is 3", "a string"]),
        ("quantization-mode = '8da5w'", &["8da5w", "8da4w"]),
        ("group-size = 32", &["group-size is for"]),
        ("quantization-mode = 'int8'\npt2e-quantize = 'vulkan_8w'", &["both quantize linear layers"]),
        ("pt2e-quantize = 'xnnpack_dynamics'", &["did you mean xnnpack_dynamic"]),
        ("pt2e-quantize = 'openvino_4wo'", &["NNCF"]),
        ("embedding-quantize = '3,4'", &["2, 4 or 8 bits"]),
        ("quant-compat = 'et2'", &["et0.5, et1.5"]),
        ("rule = 3", &["[[rule]]"]),
        ("[[rule]]\nbits = 4", &["rule 1: `path` is missing"]),
        ("[[rule]]\npath = '('\nbits = 4", &["rule 1: `path` is no regular expression"]),
        ("[[rule]]\npath = 'a'", &["rule 1 (`a`): it changes nothing"]),
        ("[[rule]]\npath = 'a'\nkeep-float = true\nbits = 4", &["keep-float and bits contradict"]),
        ("[[rule]]\npath = 'a'\nbits = 99", &["bits is 99"]),
        (
            "quantization-mode = '4w'\n[[rule]]\npath = 'a'\nobserver = 'MinMaxObserver'",
            &["observer is for PT2E schemes"],
        ),
        (
            "pt2e-quantize = 'vulkan_8w'\n[[rule]]\npath = 'a'\nquantization-mode = 'int8'",
            &["is for source transforms"],
        ),
        ("pt2e-quantize = 'vulkan_8w'\n[[rule]]\npath = 'a'\ngranularity = 'group'", &["needs a group-size"]),
        (
            "pt2e-quantize = 'vulkan_8w'\n[[rule]]\npath = 'a'\nobserver = 'MinMaxObservr'",
            &["did you mean", "MinMaxObserver"],
        ),
        (
            "pt2e-quantize = 'vulkan_8w'\n[[rule]]\npath = 'a'\npt2e-quantize = 'vulkan_9w'",
            &["rule 1 (`a`)", "vulkan_8w"],
        ),
    ] {
        let said = wrong(text);
        assert!(parts.iter().all(|p| said.contains(p)), "{text}\n{said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

fn annotated(text: &str) -> Result<String, String> {
    let mut m = module();
    let resolved = Recipe::parse(text).unwrap().resolve(&m).map_err(|e| e.to_string())?;
    let quantizer = resolved.quantizer().map_err(|e| e.to_string())?.unwrap();
    quantizer.transform_for_annotation(&mut m).unwrap();
    let plan = quantizer.plan(&m, &m.graphs[0]).map_err(|e| e.to_string())?;
    Ok(plan.to_string())
}

#[test]
fn rules_change_annotations() {
    let plan = annotated(
        "pt2e-quantize = 'xnnpack_dynamic'\n\
         [[rule]]\npath = 'model.a'\nkeep-float = true\n\
         [[rule]]\npath = 'model.b'\nbits = 4\n\
         [[rule]]\npath = 'head'\npt2e-quantize = 'vulkan_8w'\ngranularity = 'group'\ngroup-size = 4\n",
    )
    .unwrap();
    assert_eq!(
        plan,
        "model.a  linear  float  (rule 1)\n\
         model.b  linear  input 8 bits per_tensor_affine, chosen at run time; weight 4 bits per_channel_symmetric, \
         PerChannelMinMaxObserver  (rule 2)\n\
         head     linear  weight 8 bits per_block_symmetric, AffineQuantizedMinMaxObserver  (rule 3)\n"
    );
    let plan = annotated(
        "pt2e-quantize = 'xnnpack'\n[[rule]]\npath = 'head'\nactivation = 'uint16'\nobserver = 'MinMaxObserver'\n",
    );
    let head = plan.unwrap();
    let head = head.lines().last().unwrap();
    assert!(
        head.contains("input 16 bits per_tensor_affine, MinMaxObserver") && head.contains("output 16 bits"),
        "{head}"
    );
    let float = annotated("pt2e-quantize = 'xnnpack'\n[[rule]]\npath = 'head'\nactivation = 'float'\n").unwrap();
    let head = float.lines().last().unwrap();
    assert!(head.contains("weight 8 bits") && !head.contains("input") && !head.contains("output"), "{head}");
}

#[test]
fn rules_give_qnn_its_blocks() {
    let plan = annotated(
        "pt2e-quantize = 'qnn_16a4w_block'\n\
         [[rule]]\npath = 'model.a'\ngranularity = 'group'\ngroup-size = 4\n\
         [[rule]]\npath = 'head'\npt2e-quantize = 'qnn_16a8w'\n",
    )
    .unwrap();
    let line = |path: &str| plan.lines().find(|l| l.starts_with(path) && l.contains("linear")).unwrap().to_owned();
    assert!(line("model.a").contains("weight 4 bits per_channel_symmetric, PerBlockParamObserver"), "{plan}");
    assert!(line("model.b").contains("weight 4 bits per_channel_symmetric"), "{plan}");
    assert!(line("head").contains("weight 8 bits per_channel_symmetric"), "{plan}");
}

#[test]
fn a_change_without_effect_is_an_error() {
    let said =
        annotated("pt2e-quantize = 'vulkan_8w'\n[[rule]]\npath = 'head'\nobserver = 'MinMaxObserver'\n").unwrap_err();
    assert!(said.contains("rule 1 (`head`) has no effect"), "{said}");
}

#[test]
fn rotations_are_read_and_printed() {
    let text = "quantization-mode = 'int8'\nrotate = 'hadamard,7'\nuse-spin-quant = 'native'\n";
    let recipe = Recipe::parse(text).unwrap();
    assert_eq!(recipe.base.rotate, Some(Rotate::Hadamard { seed: 7 }));
    assert!(recipe.base.spin_quant);
    assert_eq!(recipe.to_string(), text);
    assert_eq!(recipe.describe(), "int8; rotated hadamard,7; spin quant");
    assert_eq!(recipe.float().to_string(), "rotate = 'hadamard,7'\nuse-spin-quant = 'native'\n");
    assert!(recipe.float().is_none());
    let file = Recipe::parse("optimized-rotation-path = 'R.bin'\n").unwrap();
    assert_eq!(file.base.rotate, Some(Rotate::File("R.bin".to_owned())));
    assert_eq!(file.to_string(), "optimized-rotation-path = 'R.bin'\n");
    assert_eq!(Recipe::parse("rotate = 'hadamard'").unwrap().to_string(), "rotate = 'hadamard,0'\n");
    for (text, says) in [
        ("rotate = 'givens'", "`rotate` is \"givens\", expected hadamard or hadamard,SEED"),
        ("rotate = 'hadamard,-1'", "`rotate` is \"hadamard,-1\", expected hadamard or hadamard,SEED"),
        (
            "rotate = 'hadamard'\noptimized-rotation-path = 'R.bin'",
            "rotate and optimized-rotation-path exclude each other",
        ),
        ("use-spin-quant = 'cuda'", "`use-spin-quant` is \"cuda\", expected one of native"),
        (
            "quantization-mode = '4w'\nweight-algorithm = 'stored'\nrotate = 'hadamard'",
            "weight-algorithm stored takes the checkpoint's codes over, and codes cannot be rotated",
        ),
    ] {
        assert_eq!(wrong(text), says);
    }
}
