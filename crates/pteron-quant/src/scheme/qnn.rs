//! The numbers of QNN's configurations (`backends/qualcomm/quantizer/qconfig.py`, `ModuleQConfig` of `quantizer.py`).

use pteron_tensor::DType;

use super::Compat;
use crate::annotation::{BiasSpec, QuantizationConfig};
use crate::format::{Granularity, QScheme};
use crate::spec::{ObserverCtr, ObserverKind, QuantizationSpec};

/// That of 8-bit specs and of all specs by channel in release 0.5.
const EPS_2_12: f64 = 1.0 / 4096.0;
/// That of 16-bit specs in release 0.5.
const EPS_2_20: f64 = 1.0 / 1_048_576.0;
/// That of 8-bit specs.
const EPS_8BIT: f64 = 0.0001 / 255.0;
/// That of 16-bit specs, and of all specs by channel.
const EPS_16BIT: f64 = 0.0001 / 65535.0;

/// ExecuTorch's `QuantDtype`: bits of activations and of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QuantDtype {
    /// 16-bit activations, 16-bit weights.
    Use16a16w,
    /// 16-bit activations, 8-bit weights.
    Use16a8w,
    /// 16-bit activations, 4-bit weights.
    Use16a4w,
    /// 16-bit activations, 4-bit weights with a scale for each block where the block-size map has one.
    Use16a4wBlock,
    /// 8-bit activations, 8-bit weights.
    Use8a8w,
    /// 8-bit activations, 4-bit weights.
    Use8a4w,
}

impl QuantDtype {
    /// Bits of an activation.
    pub const fn activation_bits(self) -> u32 {
        match self {
            QuantDtype::Use8a8w | QuantDtype::Use8a4w => 8,
            QuantDtype::Use16a16w | QuantDtype::Use16a8w | QuantDtype::Use16a4w | QuantDtype::Use16a4wBlock => 16,
        }
    }

    /// The dtype and the codes of a symmetric weight.
    const fn weight(self) -> (DType, (i64, i64)) {
        match self {
            QuantDtype::Use16a16w => (DType::I16, (-32767, 32767)),
            QuantDtype::Use16a8w | QuantDtype::Use8a8w => (DType::I8, (-127, 127)),
            QuantDtype::Use16a4w | QuantDtype::Use16a4wBlock | QuantDtype::Use8a4w => (DType::I8, (-7, 7)),
        }
    }
}

/// ExecuTorch's `ModuleQConfig`: what a quantizer puts on the operators of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ModuleQConfig {
    /// The bits.
    pub quant_dtype: QuantDtype,
    /// Weights of convolutions have a scale for each channel.
    pub is_conv_per_channel: bool,
    /// Weights of linear layers have one.
    pub is_linear_per_channel: bool,
    /// Rows of embeddings have one, and codes of the weights' width.
    pub is_embedding_per_channel: bool,
    /// The observer of activations; `None`: moving averages.
    pub act_observer: Option<ObserverKind>,
    /// Activations have their zero in the middle.
    pub act_symmetric: bool,
    /// The smallest scale; `None`: the release's.
    pub eps: Option<f64>,
    /// Whose numbers.
    pub compat: Compat,
}

impl ModuleQConfig {
    /// With ExecuTorch's defaults: everything per tensor, activations affine.
    pub const fn new(quant_dtype: QuantDtype, compat: Compat) -> ModuleQConfig {
        ModuleQConfig {
            quant_dtype,
            is_conv_per_channel: false,
            is_linear_per_channel: false,
            is_embedding_per_channel: false,
            act_observer: None,
            act_symmetric: false,
            eps: None,
            compat,
        }
    }

    fn is_old(&self) -> bool {
        self.compat == Compat::ExecuTorch0_5
    }

    fn activation(&self, eps: f64) -> QuantizationSpec {
        let wide = self.quant_dtype.activation_bits() == 16;
        let ctr = ObserverCtr::new(self.act_observer.unwrap_or(ObserverKind::MovingAverageMinMax)).with_eps(eps);
        // Without a range, symmetric codes have their zero at 128; with one, at 127, which HTP does not want.
        let range = match (wide, self.act_symmetric) {
            (true, _) => Some((0, 65535)),
            (false, symmetric) => (!symmetric && !self.is_old()).then_some((0, 255)),
        };
        let qscheme = if self.act_symmetric { QScheme::PerTensorSymmetric } else { QScheme::PerTensorAffine };
        let axis = (self.act_symmetric && !wide).then_some(0);
        spec(if wide { DType::I32 } else { DType::U8 }, range, qscheme, axis, ctr)
    }

    /// The configuration of operators whose weights have one scale: `get_16a8w_qnn_ptq_config` and its like.
    pub fn per_tensor(&self) -> QuantizationConfig {
        let eps = self.eps.unwrap_or(match (self.is_old(), self.quant_dtype.activation_bits()) {
            (true, 8) => EPS_2_12,
            (true, _) => EPS_2_20,
            (false, 8) => EPS_8BIT,
            (false, _) => EPS_16BIT,
        });
        let ctr = ObserverCtr::new(ObserverKind::MinMax).with_eps(eps);
        let (dtype, range) = self.quant_dtype.weight();
        // 16a8w's have unsigned codes without a range, which gives them a zero point of 128.
        let (dtype, range) = match self.quant_dtype {
            QuantDtype::Use16a8w => (DType::U8, None),
            _ => (dtype, Some(range)),
        };
        let whole = Some((i64::from(i32::MIN), i64::from(i32::MAX)));
        QuantizationConfig {
            input_activation: Some(self.activation(eps)),
            output_activation: Some(self.activation(eps)),
            weight: Some(spec(dtype, range, QScheme::PerTensorSymmetric, Some(0), ctr.clone())),
            bias: Some(BiasSpec::Observed(spec(DType::I32, whole, QScheme::PerTensorSymmetric, None, ctr))),
            ..QuantizationConfig::default()
        }
    }

    fn by_channel(&self, observer: ObserverKind, axis: usize) -> QuantizationConfig {
        let eps = self.eps.unwrap_or(if self.is_old() { EPS_2_12 } else { EPS_16BIT });
        let (dtype, range) = self.quant_dtype.weight();
        let ctr = ObserverCtr::new(observer).with_eps(eps);
        QuantizationConfig {
            input_activation: Some(self.activation(eps)),
            output_activation: Some(self.activation(eps)),
            weight: Some(spec(dtype, Some(range), QScheme::PerChannelSymmetric, Some(axis), ctr)),
            bias: Some(BiasSpec::Derived),
            per_channel_embedding: self.is_embedding_per_channel,
            ..QuantizationConfig::default()
        }
    }

    /// The configuration of operators whose weights have a scale for each index of `axis`: `get_ptq_per_channel_quant_config`.
    pub fn per_channel(&self, axis: usize) -> QuantizationConfig {
        let observer = if self.is_old() { ObserverKind::PerChannelMinMax } else { ObserverKind::PerChannelParam };
        self.by_channel(observer, axis)
    }

    /// The configuration of operators whose weights have a scale for each block: `get_ptq_per_block_quant_config`; `None` for
    /// other bits than 16a4w_block. `block_size` has an entry for each axis of the weight; without it the observer's
    /// granularity is still to be set.
    pub fn per_block(&self, block_size: Option<&[usize]>) -> Option<QuantizationConfig> {
        if self.quant_dtype != QuantDtype::Use16a4wBlock {
            return None;
        }
        // ExecuTorch hands no eps on to these.
        let mut config = ModuleQConfig { eps: None, ..*self }.by_channel(ObserverKind::PerBlockParam, 0);
        config.block_size = block_size.map(<[usize]>::to_vec);
        if let (Some(sizes), Some(weight)) = (block_size, &mut config.weight) {
            weight.observer.granularity = Some(Granularity::PerBlock(sizes.to_vec()));
        }
        Some(config)
    }
}

fn spec(
    dtype: DType,
    range: Option<(i64, i64)>,
    qscheme: QScheme,
    ch_axis: Option<usize>,
    observer: ObserverCtr,
) -> QuantizationSpec {
    QuantizationSpec {
        dtype,
        quant_min: range.map(|r| r.0),
        quant_max: range.map(|r| r.1),
        qscheme: Some(qscheme),
        ch_axis,
        observer,
        is_dynamic: false,
    }
}
