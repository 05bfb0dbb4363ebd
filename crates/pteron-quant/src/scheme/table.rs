//! The table. Sources: `extension/llm/export/quantizer_lib.py`, `backends/qualcomm/quantizer/qconfig.py` and `quantizer.py`,
//! `backends/xnnpack/quantizer/xnnpack_quantizer.py`, `backends/vulkan/quantizer/vulkan_quantizer.py`,
//! `backends/apple/coreml/quantizer`, `backends/arm/quantizer/arm_quantizer.py` of ExecuTorch, and
//! `quantization/pt2e/quantizer/embedding_quantizer.py` of torchao.

use pteron_tensor::DType;

use super::{
    AppliesTo, Compat, CustomAnnotation, ModuleQConfig, Numbers, Patterns, QuantDtype, Rule, Scheme, SchemeSpecs,
};
use crate::annotation::{BiasSpec, QuantizationConfig};
use crate::format::QScheme;
use crate::spec::{FakeQuantKind, ObserverCtr, ObserverKind, QuantizationSpec};

/// The smallest scale of XNNPACK's and Core ML's baseline.
const EPS_2_12: f64 = 1.0 / 4096.0;
/// That of Arm's specs.
const EPS_2_16: f64 = 1.0 / 65536.0;

pub(super) const SCHEMES: &[Scheme] = &[
    Scheme {
        name: "xnnpack_dynamic",
        backend: "xnnpack",
        summary: "Linears with int8 weights per channel and int8 activations whose range is chosen at run time.",
        specs: Numbers::Always(|| xnnpack_dynamic(127)),
    },
    Scheme {
        name: "xnnpack_dynamic_qc4",
        backend: "xnnpack",
        summary: "Linears with 4-bit weights per channel and int8 activations whose range is chosen at run time.",
        specs: Numbers::Always(|| xnnpack_dynamic(7)),
    },
    Scheme {
        name: "xnnpack",
        backend: "xnnpack",
        summary: "XNNPACK's static scheme: int8 activations from calibration, int8 weights per channel.",
        specs: Numbers::Always(|| xnnpack_static(127)),
    },
    Scheme {
        name: "embedding",
        backend: "portable",
        summary: "Embeddings as uint8 with float zero points, one scale for each row.",
        specs: Numbers::Always(embedding),
    },
    Scheme {
        name: "qnn_8a8w",
        backend: "qnn",
        summary: "8-bit activations, 8-bit weights; weights of convolutions and linears per channel.",
        specs: Numbers::ByRelease(|c| qnn(c, QuantDtype::Use8a8w)),
    },
    Scheme {
        name: "qnn_8a4w",
        backend: "qnn",
        summary: "8-bit activations, 4-bit weights; weights of convolutions and linears per channel.",
        specs: Numbers::Since1_5(|| qnn(Compat::ExecuTorch1_5, QuantDtype::Use8a4w)),
    },
    Scheme {
        name: "qnn_16a16w",
        backend: "qnn",
        summary: "16-bit activations, 16-bit weights per tensor.",
        specs: Numbers::ByRelease(|c| qnn(c, QuantDtype::Use16a16w)),
    },
    Scheme {
        name: "qnn_16a8w",
        backend: "qnn",
        summary: "16-bit activations, 8-bit weights; weights of convolutions and linears per channel.",
        specs: Numbers::ByRelease(|c| qnn(c, QuantDtype::Use16a8w)),
    },
    Scheme {
        name: "qnn_16a4w",
        backend: "qnn",
        summary: "16-bit activations, 4-bit weights; weights of convolutions and linears per channel.",
        specs: Numbers::ByRelease(|c| qnn(c, QuantDtype::Use16a4w)),
    },
    Scheme {
        name: "qnn_16a4w_block",
        backend: "qnn",
        summary: "16-bit activations, 4-bit weights with a scale for each block (LPBQ) where the block-size map has one.",
        specs: Numbers::Since1_5(|| qnn(Compat::ExecuTorch1_5, QuantDtype::Use16a4wBlock)),
    },
    Scheme {
        name: "coreml_c4w",
        backend: "coreml",
        summary: "4-bit weights per channel, float activations.",
        specs: Numbers::Always(|| coreml_4w(None)),
    },
    Scheme {
        name: "coreml_8a_c8w",
        backend: "coreml",
        summary: "uint8 activations, int8 weights per channel, both affine.",
        specs: Numbers::Always(coreml_8a_c8w),
    },
    Scheme {
        name: "coreml_8a_c4w",
        backend: "coreml",
        summary: "uint8 activations, 4-bit weights per channel.",
        specs: Numbers::Always(|| coreml_4w(Some(coreml_activation()))),
    },
    Scheme {
        name: "coreml_baseline_8a_c8w",
        backend: "coreml",
        summary: "XNNPACK's static scheme for Core ML: int8 activations, int8 weights per channel.",
        specs: Numbers::Always(|| xnnpack_static(127)),
    },
    Scheme {
        name: "coreml_baseline_8a_c4w",
        backend: "coreml",
        summary: "XNNPACK's static scheme for Core ML: int8 activations, 4-bit weights per channel.",
        specs: Numbers::Always(|| xnnpack_static(7)),
    },
    Scheme {
        name: "vulkan_8w",
        backend: "vulkan",
        summary: "Linears with int8 weights per channel, float activations.",
        specs: Numbers::Always(vulkan_8w),
    },
    Scheme {
        name: "tosa_8a8w",
        backend: "tosa",
        summary: "int8 activations, int8 weights per channel, for Arm's TOSA.",
        specs: Numbers::Since1_5(|| arm(arm_activation8())),
    },
    Scheme {
        name: "ethosu_8a8w",
        backend: "ethosu",
        summary: "int8 activations, int8 weights per channel, for Arm's Ethos-U.",
        specs: Numbers::Since1_5(|| arm(arm_activation8())),
    },
    Scheme {
        name: "ethosu_16a8w",
        backend: "ethosu",
        summary: "int16 activations, int8 weights per channel, for Arm's Ethos-U.",
        specs: Numbers::Since1_5(|| arm(arm_activation16())),
    },
    Scheme {
        name: "vgf_8a8w",
        backend: "vgf",
        summary: "int8 activations, int8 weights per channel, for Arm's VGF.",
        specs: Numbers::Since1_5(|| arm(arm_activation8())),
    },
    Scheme {
        name: "vgf_16a8w",
        backend: "vgf",
        summary: "int16 activations, int8 weights per channel, for Arm's VGF.",
        specs: Numbers::Since1_5(|| arm(arm_activation16())),
    },
    Scheme {
        name: "openvino_4wo",
        backend: "openvino",
        summary: "4-bit weights in groups, chosen by NNCF.",
        specs: Numbers::Unsupported(NNCF),
    },
    Scheme {
        name: "openvino_8wo",
        backend: "openvino",
        summary: "8-bit weights per channel, chosen by NNCF.",
        specs: Numbers::Unsupported(NNCF),
    },
];

const NNCF: &str = "OpenVINO's NNCF chooses its numbers by code of its own; xnnpack_dynamic_qc4 or vulkan_8w are the nearest \
                    weight formats here";

fn observer(kind: ObserverKind, eps: f64) -> ObserverCtr {
    ObserverCtr::new(kind).with_eps(eps)
}

fn spec(dtype: DType, range: Option<(i64, i64)>, qscheme: QScheme, observer: ObserverCtr) -> QuantizationSpec {
    QuantizationSpec {
        dtype,
        quant_min: range.map(|r| r.0),
        quant_max: range.map(|r| r.1),
        qscheme: Some(qscheme),
        ch_axis: None,
        observer,
        is_dynamic: false,
    }
}

/// The same along the first axis.
fn rows(s: QuantizationSpec) -> QuantizationSpec {
    QuantizationSpec { ch_axis: Some(0), ..s }
}

/// A scheme of one rule.
fn one(applies_to: AppliesTo, patterns: Patterns, config: QuantizationConfig, notes: Vec<&'static str>) -> SchemeSpecs {
    let rules = vec![Rule { name: "operator", applies_to, config }];
    SchemeSpecs { rules, patterns, custom_annotations: Vec::new(), notes }
}

/// XNNPACK's weight: up to `quant_max`; the 4-bit one has the code −8, the 8-bit one no −128.
fn xnnpack_weight(quant_max: i64) -> QuantizationSpec {
    let range = if quant_max == 7 { (-8, 7) } else { (-127, 127) };
    let kind = ObserverKind::PerChannelMinMax;
    rows(spec(DType::I8, Some(range), QScheme::PerChannelSymmetric, observer(kind, EPS_2_12)))
}

fn xnnpack_activation(kind: ObserverKind, is_dynamic: bool) -> QuantizationSpec {
    let s = spec(DType::I8, Some((-128, 127)), QScheme::PerTensorAffine, observer(kind, EPS_2_12));
    QuantizationSpec { is_dynamic, ..s }
}

fn xnnpack_dynamic(quant_max: i64) -> SchemeSpecs {
    let config = QuantizationConfig {
        input_activation: Some(xnnpack_activation(ObserverKind::Placeholder, true)),
        weight: Some(xnnpack_weight(quant_max)),
        ..QuantizationConfig::default()
    };
    one(AppliesTo::Linear, Patterns::Xnnpack, config, Vec::new())
}

fn xnnpack_static(quant_max: i64) -> SchemeSpecs {
    let activation = xnnpack_activation(ObserverKind::Histogram, false);
    let config = QuantizationConfig {
        input_activation: Some(activation.clone()),
        output_activation: Some(activation),
        weight: Some(xnnpack_weight(quant_max)),
        ..QuantizationConfig::default()
    };
    one(AppliesTo::Everything, Patterns::Xnnpack, config, Vec::new())
}

fn embedding() -> SchemeSpecs {
    let s = spec(
        DType::U8,
        None,
        QScheme::PerChannelAffineFloatQParams,
        observer(ObserverKind::PerChannelMinMax, EPS_2_12),
    );
    let config = QuantizationConfig { weight: Some(rows(s)), ..QuantizationConfig::default() };
    one(AppliesTo::Embedding, Patterns::Xnnpack, config, Vec::new())
}

fn vulkan_8w() -> SchemeSpecs {
    let ctr = ObserverCtr::new(ObserverKind::PerChannelMinMax);
    let weight = rows(spec(DType::I8, Some((-128, 127)), QScheme::PerChannelSymmetric, ctr));
    let config = QuantizationConfig { weight: Some(weight), ..QuantizationConfig::default() };
    one(AppliesTo::Linear, Patterns::Xnnpack, config, Vec::new())
}

fn coreml_activation() -> QuantizationSpec {
    let ctr = ObserverCtr::new(ObserverKind::MovingAverageMinMax).in_fake_quant(FakeQuantKind::FakeQuantize);
    spec(DType::U8, None, QScheme::PerTensorAffine, ctr)
}

fn coreml_8a_c8w() -> SchemeSpecs {
    let kind = ObserverKind::MovingAveragePerChannelMinMax;
    let ctr = ObserverCtr::new(kind).in_fake_quant(FakeQuantKind::FakeQuantize);
    let config = QuantizationConfig {
        input_activation: Some(coreml_activation()),
        output_activation: Some(coreml_activation()),
        weight: Some(spec(DType::I8, None, QScheme::PerChannelAffine, ctr)),
        ..QuantizationConfig::default()
    };
    let notes = vec![
        "Weights are affine: coremltools gives its scheme to activations and weights alike. The channel axis is not given, so \
         that the observer's 0 holds.",
        "FakeQuantize rounds activations while they are calibrated, so that each range is learnt from rounded inputs.",
    ];
    one(AppliesTo::Everything, Patterns::CoreMl, config, notes)
}

fn coreml_4w(activation: Option<QuantizationSpec>) -> SchemeSpecs {
    let config = QuantizationConfig {
        input_activation: activation.clone(),
        output_activation: activation,
        weight: Some(xnnpack_weight(7)),
        ..QuantizationConfig::default()
    };
    let notes = vec![
        "ExecuTorch has the name and raises NotImplementedError; these are Pteron's numbers: the weights of \
         coreml_baseline_8a_c4w, the activations of coreml_8a_c8w.",
    ];
    let applies_to = if config.input_activation.is_some() { AppliesTo::Everything } else { AppliesTo::Linear };
    one(applies_to, Patterns::CoreMl, config, notes)
}

fn arm_activation8() -> QuantizationSpec {
    let ctr = observer(ObserverKind::Histogram, EPS_2_16);
    spec(DType::I8, Some((-128, 127)), QScheme::PerTensorAffine, ctr)
}

fn arm_activation16() -> QuantizationSpec {
    let ctr = observer(ObserverKind::Histogram, EPS_2_12);
    spec(DType::I16, Some((-32767, 32767)), QScheme::PerTensorSymmetric, ctr)
}

fn arm(activation: QuantizationSpec) -> SchemeSpecs {
    let ctr = observer(ObserverKind::PerChannelMinMax, EPS_2_16);
    let config = QuantizationConfig {
        input_activation: Some(activation.clone()),
        output_activation: Some(activation),
        weight: Some(rows(spec(DType::I8, Some((-127, 127)), QScheme::PerChannelSymmetric, ctr))),
        bias: Some(BiasSpec::Derived),
        ..QuantizationConfig::default()
    };
    one(AppliesTo::Everything, Patterns::Arm, config, Vec::new())
}

/// QNN's schemes as `get_qnn_quantizer` sets them up: weights of convolutions and linears per channel except with 16a16w;
/// 16-bit activations with MinMaxObserver, 8-bit ones with the quantizer's default.
fn qnn(compat: Compat, quant_dtype: QuantDtype) -> SchemeSpecs {
    let wide = quant_dtype.activation_bits() == 16;
    let by_channel = quant_dtype != QuantDtype::Use16a16w;
    let config = ModuleQConfig {
        is_conv_per_channel: by_channel,
        is_linear_per_channel: by_channel,
        act_observer: wide.then_some(ObserverKind::MinMax),
        ..ModuleQConfig::new(quant_dtype, compat)
    };
    let mut rules = Vec::new();
    if let Some(config) = config.per_block(None) {
        rules.push(Rule { name: "per_block", applies_to: AppliesTo::BlockSizeMap, config });
    }
    if by_channel {
        rules.push(Rule { name: "per_channel", applies_to: AppliesTo::ConvAndLinear, config: config.per_channel(0) });
    }
    rules.push(Rule { name: "operator", applies_to: AppliesTo::Everything, config: config.per_tensor() });
    let mut notes = Vec::new();
    if !by_channel {
        notes.push("Weights are per tensor on purpose: QNN's HTP fails with 16-bit weights per channel.");
    }
    if quant_dtype == QuantDtype::Use16a4wBlock {
        notes.push("A block's scale is its own times a channel's: the block size comes from the block-size map.");
    }
    if matches!(quant_dtype, QuantDtype::Use8a4w | QuantDtype::Use16a8w | QuantDtype::Use16a4wBlock) {
        notes.push(
            "export_llama does not offer this name; the numbers are those of QnnQuantizer's dtype, set up as export_llama sets \
             up qnn_8a8w or qnn_16a4w.",
        );
    }
    let attention = wide && by_channel;
    if attention {
        notes.push(
            "Where keys and values reach attention without a cache written in place, their way is that of annotate_kv_8bit.",
        );
    }
    SchemeSpecs {
        rules,
        patterns: Patterns::Qnn(config),
        custom_annotations: if attention { vec![CustomAnnotation::LlamaMatmul16a8w] } else { Vec::new() },
        notes,
    }
}
