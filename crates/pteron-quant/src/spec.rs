//! How one tensor is quantized: PT2E's quantization specs as data.
//!
//! The names, defaults and checks are those of `torchao.quantization.pt2e.quantizer` and of the observers' constructors in
//! `torchao.quantization.pt2e.observer`.

use std::fmt;

use pteron_tensor::DType;

use crate::annotation::Point;
use crate::error::SpecError;
use crate::format::{Granularity, IntFormat, QScheme, dtype_range};
use crate::observer::{DEFAULT_AVERAGING_CONSTANT, DEFAULT_BINS, DEFAULT_EPS};

/// The observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObserverKind {
    /// Running least and largest value.
    MinMax,
    /// Moving average of each step's least and largest value.
    MovingAverageMinMax,
    /// [`ObserverKind::MinMax`] for each channel.
    PerChannelMinMax,
    /// [`ObserverKind::MovingAverageMinMax`] for each channel.
    MovingAveragePerChannelMinMax,
    /// PyTorch's histogram whose range grows with the data. Depends on the order of the data.
    Histogram,
    /// A histogram whose range is fixed in a first pass; counts are integers, so that shards add up exactly. Pteron's own.
    ShardableHistogram,
    /// A scale and zero point that do not come from data.
    FixedQParams,
    /// No data: the range is chosen at run time (dynamic quantization).
    Placeholder,
    /// No data and no parameters.
    Noop,
    /// Keeps every tensor it sees.
    Recording,
    /// QNN's per-channel observer of parameters: looks at the first step only.
    PerChannelParam,
    /// QNN's per-channel observer of parameters that searches the clipping range of least squared error, at the first step.
    PerChannelParamWithLossEvaluation,
    /// QNN's per-block observer of parameters: symmetric, looks at the first step only.
    PerBlockParam,
    /// QNN's observer of a concatenation: a [`ObserverKind::MinMax`] whose range all inputs take.
    Concat,
    /// torchao's least and largest value in each block of a granularity.
    AffineQuantizedMinMax,
    /// torchao's moving average of them.
    AffineQuantizedMovingAverageMinMax,
    /// torchao's placeholder for a granularity.
    AffineQuantizedPlaceholder,
}

impl ObserverKind {
    /// All observers.
    pub const ALL: [ObserverKind; 17] = [
        ObserverKind::MinMax,
        ObserverKind::MovingAverageMinMax,
        ObserverKind::PerChannelMinMax,
        ObserverKind::MovingAveragePerChannelMinMax,
        ObserverKind::Histogram,
        ObserverKind::ShardableHistogram,
        ObserverKind::FixedQParams,
        ObserverKind::Placeholder,
        ObserverKind::Noop,
        ObserverKind::Recording,
        ObserverKind::PerChannelParam,
        ObserverKind::PerChannelParamWithLossEvaluation,
        ObserverKind::PerBlockParam,
        ObserverKind::Concat,
        ObserverKind::AffineQuantizedMinMax,
        ObserverKind::AffineQuantizedMovingAverageMinMax,
        ObserverKind::AffineQuantizedPlaceholder,
    ];

    /// The class name, as in torchao or ExecuTorch.
    pub const fn name(self) -> &'static str {
        match self {
            ObserverKind::MinMax => "MinMaxObserver",
            ObserverKind::MovingAverageMinMax => "MovingAverageMinMaxObserver",
            ObserverKind::PerChannelMinMax => "PerChannelMinMaxObserver",
            ObserverKind::MovingAveragePerChannelMinMax => "MovingAveragePerChannelMinMaxObserver",
            ObserverKind::Histogram => "HistogramObserver",
            ObserverKind::ShardableHistogram => "ShardableHistogramObserver",
            ObserverKind::FixedQParams => "FixedQParamsObserver",
            ObserverKind::Placeholder => "PlaceholderObserver",
            ObserverKind::Noop => "NoopObserver",
            ObserverKind::Recording => "RecordingObserver",
            ObserverKind::PerChannelParam => "PerChannelParamObserver",
            ObserverKind::PerChannelParamWithLossEvaluation => "PerChannelParamObserverWithLossEvaluation",
            ObserverKind::PerBlockParam => "PerBlockParamObserver",
            ObserverKind::Concat => "ConcatObserver",
            ObserverKind::AffineQuantizedMinMax => "AffineQuantizedMinMaxObserver",
            ObserverKind::AffineQuantizedMovingAverageMinMax => "AffineQuantizedMovingAverageMinMaxObserver",
            ObserverKind::AffineQuantizedPlaceholder => "AffineQuantizedPlaceholderObserver",
        }
    }

    /// The observer of that name.
    pub fn from_name(name: &str) -> Option<ObserverKind> {
        ObserverKind::ALL.into_iter().find(|k| k.name() == name)
    }

    /// True if the observer keeps a range for each channel, so that `ch_axis` is passed to it.
    pub const fn is_per_channel(self) -> bool {
        matches!(
            self,
            ObserverKind::PerChannelMinMax
                | ObserverKind::MovingAveragePerChannelMinMax
                | ObserverKind::PerChannelParam
                | ObserverKind::PerChannelParamWithLossEvaluation
        )
    }

    /// True for torchao's observers of blocks.
    pub const fn is_affine(self) -> bool {
        matches!(
            self,
            ObserverKind::PerBlockParam
                | ObserverKind::AffineQuantizedMinMax
                | ObserverKind::AffineQuantizedMovingAverageMinMax
                | ObserverKind::AffineQuantizedPlaceholder
        )
    }

    /// True if the observer learns its range from the data that pass.
    pub const fn needs_data(self) -> bool {
        !matches!(
            self,
            ObserverKind::FixedQParams
                | ObserverKind::Placeholder
                | ObserverKind::Noop
                | ObserverKind::AffineQuantizedPlaceholder
        )
    }

    /// True if states of several shards can be merged into that of one run.
    pub const fn is_shardable(self) -> bool {
        !matches!(self, ObserverKind::Histogram | ObserverKind::Recording)
    }
}

impl fmt::Display for ObserverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A module that quantizes and dequantizes while it observes, around an observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FakeQuantKind {
    /// Takes scale and zero point from its observer at each step.
    FakeQuantize,
    /// Fuses a moving-average observer; its forward pass chooses scale and zero point by FBGEMM's rule.
    FusedMovingAvgObsFakeQuantize,
}

impl FakeQuantKind {
    /// The class name.
    pub const fn name(self) -> &'static str {
        match self {
            FakeQuantKind::FakeQuantize => "FakeQuantize",
            FakeQuantKind::FusedMovingAvgObsFakeQuantize => "FusedMovingAvgObsFakeQuantize",
        }
    }
}

/// The constructor of an observer with its arguments. `None` means that the argument is not given, so that the observer's own
/// default holds: the accessors give it.
#[derive(Clone, Debug, PartialEq)]
pub struct ObserverCtr {
    /// Which observer.
    pub kind: ObserverKind,
    /// The fake-quantize module around it.
    pub fake_quant: Option<FakeQuantKind>,
    /// The smallest scale, in real units per code.
    pub eps: Option<f64>,
    /// Weight of the newest step in a moving average, 0..=1.
    pub averaging_constant: Option<f64>,
    /// Halves the range of codes, against overflow of some instructions.
    pub reduce_range: bool,
    /// Bins of a histogram.
    pub bins: Option<usize>,
    /// For torchao's observers of blocks: which parts have a scale.
    pub granularity: Option<Granularity>,
    /// For torchao's observers: a symmetric mapping that clips neither end.
    pub no_clipping_error: bool,
    /// For [`ObserverKind::FixedQParams`]: real units per code, and the code of 0.
    pub fixed: Option<(f64, i64)>,
}

impl ObserverCtr {
    /// The observer without arguments.
    pub const fn new(kind: ObserverKind) -> ObserverCtr {
        ObserverCtr {
            kind,
            fake_quant: None,
            eps: None,
            averaging_constant: None,
            reduce_range: false,
            bins: None,
            granularity: None,
            no_clipping_error: false,
            fixed: None,
        }
    }

    /// The observer that gives these, whatever it sees.
    pub const fn fixed_qparams(scale: f64, zero_point: i64) -> ObserverCtr {
        let mut ctr = ObserverCtr::new(ObserverKind::FixedQParams);
        ctr.fixed = Some((scale, zero_point));
        ctr
    }

    /// The same with `eps`.
    #[must_use]
    pub const fn with_eps(mut self, eps: f64) -> ObserverCtr {
        self.eps = Some(eps);
        self
    }

    /// The same with an averaging constant.
    #[must_use]
    pub const fn with_averaging_constant(mut self, c: f64) -> ObserverCtr {
        self.averaging_constant = Some(c);
        self
    }

    /// The same within a fake-quantize module.
    #[must_use]
    pub const fn in_fake_quant(mut self, kind: FakeQuantKind) -> ObserverCtr {
        self.fake_quant = Some(kind);
        self
    }

    /// The same for a granularity.
    #[must_use]
    pub fn with_granularity(mut self, granularity: Granularity) -> ObserverCtr {
        self.granularity = Some(granularity);
        self
    }

    /// The smallest scale: the argument, or 2⁻²³.
    pub fn effective_eps(&self) -> f32 {
        self.eps.map_or(DEFAULT_EPS, |e| e as f32)
    }

    /// The averaging constant: the argument, or 0.01.
    pub fn effective_averaging_constant(&self) -> f64 {
        self.averaging_constant.unwrap_or(DEFAULT_AVERAGING_CONSTANT)
    }

    /// The number of bins: the argument, or 2048.
    pub fn effective_bins(&self) -> usize {
        self.bins.unwrap_or(DEFAULT_BINS)
    }

    fn check(&self) -> Result<(), SpecError> {
        if let Some(eps) = self.eps
            && !(eps > 0.0 && eps.is_finite())
        {
            return Err(SpecError::NotPositive { what: "eps", value: eps });
        }
        if let Some(c) = self.averaging_constant
            && !(0.0..=1.0).contains(&c)
        {
            return Err(SpecError::AveragingConstant(c));
        }
        if let Some(bins) = self.bins
            && !(2..=65536).contains(&bins)
        {
            return Err(SpecError::Bins(bins));
        }
        match (self.kind.is_affine(), &self.granularity) {
            (true, None) => {
                let (observer, problem) = (self.kind.name(), "needs a granularity");
                Err(SpecError::BlockSize { observer, problem })
            }
            (false, Some(_)) => {
                let (observer, problem) = (self.kind.name(), "takes no granularity");
                Err(SpecError::BlockSize { observer, problem })
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for ObserverCtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(fake) = self.fake_quant {
            write!(f, "{}(", fake.name())?;
        }
        f.write_str(self.kind.name())?;
        let mut arguments = Vec::new();
        if let Some(eps) = self.eps {
            arguments.push(format!("eps={}", Eps(eps)));
        }
        if let Some(c) = self.averaging_constant {
            arguments.push(format!("averaging_constant={c}"));
        }
        if self.reduce_range {
            arguments.push("reduce_range=True".to_owned());
        }
        if let Some(bins) = self.bins {
            arguments.push(format!("bins={bins}"));
        }
        if let Some(g) = &self.granularity {
            arguments.push(format!("granularity={g}"));
        }
        if !arguments.is_empty() {
            write!(f, "({})", arguments.join(", "))?;
        }
        if self.fake_quant.is_some() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// An eps as people know it: a power of two by its exponent.
pub(crate) struct Eps(pub(crate) f64);

impl fmt::Display for Eps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exponent = self.0.log2();
        match exponent.fract() == 0.0 && exponent.exp2() == self.0 {
            true => write!(f, "2^{exponent}"),
            false => write!(f, "{:e}", self.0),
        }
    }
}

/// PT2E's `QuantizationSpec`: the tensor is quantized with a range learnt by an observer.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizationSpec {
    /// The dtype that holds a code.
    pub dtype: DType,
    /// Least code; `None`: the dtype's, which is not the same as giving it (see [`Self::has_customized_qrange`]).
    pub quant_min: Option<i64>,
    /// Largest code.
    pub quant_max: Option<i64>,
    /// How numbers map to codes.
    pub qscheme: Option<QScheme>,
    /// The channel axis.
    pub ch_axis: Option<usize>,
    /// The observer.
    pub observer: ObserverCtr,
    /// The range is chosen at run time, for each call.
    pub is_dynamic: bool,
}

impl QuantizationSpec {
    /// The scheme: the one given, or `per_tensor_affine`.
    pub fn effective_qscheme(&self) -> QScheme {
        self.qscheme.unwrap_or(QScheme::PerTensorAffine)
    }

    /// True if both ends of the range are given. This alone moves the zero point of a symmetric `uint8` from 128 to 127.
    pub const fn has_customized_qrange(&self) -> bool {
        self.quant_min.is_some() && self.quant_max.is_some()
    }

    /// The codes that the observer uses: the range given or the dtype's, halved by `reduce_range`
    /// (`torchao.quantization.pt2e.utils.calculate_qmin_qmax`).
    ///
    /// # Errors
    /// If the dtype cannot hold codes.
    pub fn quant_range(&self) -> Result<(i64, i64), SpecError> {
        let reduce = self.observer.reduce_range;
        if let (Some(lo), Some(hi)) = (self.quant_min, self.quant_max) {
            return Ok(if reduce { (lo.div_euclid(2), hi.div_euclid(2)) } else { (lo, hi) });
        }
        let full = dtype_range(self.dtype)?;
        // Affine observers take the end that is not given from the dtype; the others then look at neither.
        if self.observer.kind.is_affine() {
            return Ok((self.quant_min.unwrap_or(full.0), self.quant_max.unwrap_or(full.1)));
        }
        Ok(match (self.dtype, reduce) {
            (DType::I8, true) => (-64, 63),
            (DType::U8, true) => (0, 127),
            _ => full,
        })
    }

    /// The codes as a format.
    ///
    /// # Errors
    /// If the range does not fit the dtype.
    pub fn format(&self) -> Result<IntFormat, SpecError> {
        let (lo, hi) = self.quant_range()?;
        IntFormat::new(self.dtype, lo, hi)
    }

    /// Checks the spec as PT2E and the observer's constructor do, and that the codes fit the dtype.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        if let (Some(min), Some(max)) = (self.quant_min, self.quant_max) {
            if min > max {
                return Err(SpecError::EmptyRange { min, max });
            }
            // `validate_qmin_qmax`: 0 must be a code.
            if min == max || min > 0 || max < 0 {
                return Err(SpecError::RangeWithoutZero { min, max });
            }
        }
        self.format()?;
        self.observer.check()?;
        let kind = self.observer.kind;
        let qscheme = self.effective_qscheme();
        let scheme_error =
            |supported| Err(SpecError::Scheme { observer: kind.name(), qscheme: qscheme.to_string(), supported });
        match kind {
            ObserverKind::MinMax
            | ObserverKind::MovingAverageMinMax
            | ObserverKind::Histogram
            | ObserverKind::ShardableHistogram
            | ObserverKind::FixedQParams
            | ObserverKind::Concat => {
                if !qscheme.is_per_tensor() {
                    return scheme_error("per_tensor_affine and per_tensor_symmetric");
                }
            }
            ObserverKind::PerChannelMinMax
            | ObserverKind::MovingAveragePerChannelMinMax
            | ObserverKind::PerChannelParam
            | ObserverKind::PerChannelParamWithLossEvaluation => {
                if !qscheme.is_per_channel() {
                    return scheme_error(
                        "per_channel_affine, per_channel_symmetric and per_channel_affine_float_qparams",
                    );
                }
            }
            // QNN gives its per-block observer the name of the per-channel scheme.
            ObserverKind::PerBlockParam => {
                if !matches!(qscheme, QScheme::PerBlockSymmetric | QScheme::PerChannelSymmetric) {
                    return scheme_error("per_block_symmetric and per_channel_symmetric");
                }
            }
            ObserverKind::Placeholder
            | ObserverKind::Noop
            | ObserverKind::Recording
            | ObserverKind::AffineQuantizedMinMax
            | ObserverKind::AffineQuantizedMovingAverageMinMax
            | ObserverKind::AffineQuantizedPlaceholder => {}
        }
        if self.is_dynamic {
            let averages =
                matches!(kind, ObserverKind::MovingAverageMinMax | ObserverKind::AffineQuantizedMovingAverageMinMax);
            let forgets = self.observer.effective_averaging_constant() == 1.0;
            let static_only = matches!(
                kind,
                ObserverKind::PerChannelMinMax
                    | ObserverKind::MovingAveragePerChannelMinMax
                    | ObserverKind::PerChannelParam
                    | ObserverKind::Histogram
                    | ObserverKind::ShardableHistogram
                    | ObserverKind::FixedQParams
            );
            if static_only || averages && !forgets {
                return Err(SpecError::Dynamic(kind.name()));
            }
        }
        Ok(())
    }
}

/// PT2E's `FixedQParamsQuantizationSpec`: scale and zero point are given.
#[derive(Clone, Debug, PartialEq)]
pub struct FixedQParamsQuantizationSpec {
    /// The dtype that holds a code.
    pub dtype: DType,
    /// Real units per code.
    pub scale: f64,
    /// The code of 0.
    pub zero_point: i64,
    /// Least code.
    pub quant_min: Option<i64>,
    /// Largest code.
    pub quant_max: Option<i64>,
    /// How numbers map to codes.
    pub qscheme: Option<QScheme>,
    /// Must be false: a fixed range is not chosen at run time.
    pub is_dynamic: bool,
}

impl FixedQParamsQuantizationSpec {
    /// The codes.
    ///
    /// # Errors
    /// If they do not fit the dtype.
    pub fn format(&self) -> Result<IntFormat, SpecError> {
        let full = dtype_range(self.dtype)?;
        IntFormat::new(self.dtype, self.quant_min.unwrap_or(full.0), self.quant_max.unwrap_or(full.1))
    }

    /// Checks range, scale and zero point.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.format()?;
        if !(self.scale > 0.0 && self.scale.is_finite()) {
            return Err(SpecError::NotPositive { what: "scale", value: self.scale });
        }
        match self.is_dynamic {
            true => Err(SpecError::Dynamic(ObserverKind::FixedQParams.name())),
            false => Ok(()),
        }
    }
}

/// How the parameters of a [`DerivedQuantizationSpec`] follow from those it is derived from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeriveQParams {
    /// A bias: `scale[c] = scale_activation · scale_weight[c]` in `f32`, zero point 0. If the weight has block scales, the
    /// largest block of each channel over the 16 steps of a block scale. Derived from activation and weight, in this order.
    Bias {
        /// A transposed convolution's groups: each scale stands for as many channels (`repeat_interleave`).
        repeat: usize,
    },
}

/// PT2E's `DerivedQuantizationSpec`: scale and zero point follow from those of other tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct DerivedQuantizationSpec {
    /// The edges and outputs it is derived from.
    pub derived_from: Vec<Point>,
    /// How.
    pub derive: DeriveQParams,
    /// The dtype that holds a code.
    pub dtype: DType,
    /// Least code.
    pub quant_min: Option<i64>,
    /// Largest code.
    pub quant_max: Option<i64>,
    /// How numbers map to codes.
    pub qscheme: Option<QScheme>,
    /// The channel axis.
    pub ch_axis: Option<usize>,
    /// The range is chosen at run time.
    pub is_dynamic: bool,
}

impl DerivedQuantizationSpec {
    /// The codes.
    ///
    /// # Errors
    /// If they do not fit the dtype.
    pub fn format(&self) -> Result<IntFormat, SpecError> {
        let full = dtype_range(self.dtype)?;
        IntFormat::new(self.dtype, self.quant_min.unwrap_or(full.0), self.quant_max.unwrap_or(full.1))
    }
}

/// How an edge or an output is quantized.
#[derive(Clone, Debug, PartialEq)]
pub enum Spec {
    /// With a range learnt by an observer.
    Observed(QuantizationSpec),
    /// With a given scale and zero point.
    Fixed(FixedQParamsQuantizationSpec),
    /// With the parameters of another edge or output.
    Shared(Point),
    /// With parameters that follow from others'.
    Derived(DerivedQuantizationSpec),
}

impl Spec {
    /// Checks the spec.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), SpecError> {
        match self {
            Spec::Observed(s) => s.validate(),
            Spec::Fixed(s) => s.validate(),
            Spec::Derived(s) => s.format().map(drop),
            Spec::Shared(_) => Ok(()),
        }
    }
}

impl From<QuantizationSpec> for Spec {
    fn from(s: QuantizationSpec) -> Spec {
        Spec::Observed(s)
    }
}

impl From<FixedQParamsQuantizationSpec> for Spec {
    fn from(s: FixedQParamsQuantizationSpec) -> Spec {
        Spec::Fixed(s)
    }
}

impl From<DerivedQuantizationSpec> for Spec {
    fn from(s: DerivedQuantizationSpec) -> Spec {
        Spec::Derived(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(kind: ObserverKind, dtype: DType, range: Option<(i64, i64)>, qscheme: QScheme) -> QuantizationSpec {
        QuantizationSpec {
            dtype,
            quant_min: range.map(|r| r.0),
            quant_max: range.map(|r| r.1),
            qscheme: Some(qscheme),
            ch_axis: None,
            observer: ObserverCtr::new(kind),
            is_dynamic: false,
        }
    }

    #[test]
    fn reduced_ranges() {
        let mut s = spec(ObserverKind::MinMax, DType::I8, None, QScheme::PerTensorAffine);
        assert_eq!(s.quant_range(), Ok((-128, 127)));
        s.observer.reduce_range = true;
        assert_eq!(s.quant_range(), Ok((-64, 63)));
        (s.quant_min, s.quant_max) = (Some(-127), Some(127));
        assert_eq!(s.quant_range(), Ok((-64, 63)), "Python's // rounds down");
        (s.quant_min, s.quant_max) = (Some(-7), Some(7));
        assert_eq!(s.quant_range(), Ok((-4, 3)));
        s = spec(ObserverKind::MinMax, DType::U8, None, QScheme::PerTensorAffine);
        s.observer.reduce_range = true;
        assert_eq!(s.quant_range(), Ok((0, 127)));
    }

    #[test]
    fn specs_are_checked_as_pt2e_does() {
        let good = spec(ObserverKind::MinMax, DType::I8, Some((-127, 127)), QScheme::PerTensorSymmetric);
        assert_eq!(good.validate(), Ok(()));
        let bad = |change: fn(&mut QuantizationSpec)| {
            let mut s = good.clone();
            change(&mut s);
            s.validate().unwrap_err().to_string()
        };
        assert!(bad(|s| s.quant_min = Some(128)).contains("quant_min is 128"));
        assert!(bad(|s| s.quant_min = Some(3)).contains("must hold 0"));
        assert!(bad(|s| s.quant_max = Some(300)).contains("do not fit int8"));
        assert!(
            bad(|s| s.qscheme = Some(QScheme::PerChannelSymmetric))
                .contains("MinMaxObserver does not support per_channel")
        );
        assert!(bad(|s| s.observer.eps = Some(0.0)).contains("eps is 0"));
        assert!(bad(|s| s.observer.eps = Some(f64::NAN)).contains("eps is NaN"));
        assert!(bad(|s| s.observer.averaging_constant = Some(1.5)).contains("averaging_constant"));
        assert!(bad(|s| s.observer.bins = Some(1)).contains("bins is 1"));
        assert!(bad(|s| s.dtype = DType::F32).contains("float32 cannot hold codes"));
        assert!(bad(|s| s.observer.kind = ObserverKind::PerChannelMinMax).contains("does not support per_tensor"));
        assert!(bad(|s| s.observer.kind = ObserverKind::AffineQuantizedMinMax).contains("needs a granularity"));
        assert!(bad(|s| s.observer.granularity = Some(Granularity::PerTensor)).contains("takes no granularity"));
        assert!(
            bad(|s| {
                s.is_dynamic = true;
                s.observer.kind = ObserverKind::MovingAverageMinMax;
            })
            .contains("dynamic")
        );
    }

    #[test]
    fn a_moving_average_that_forgets_may_be_dynamic() {
        let mut s = spec(ObserverKind::MovingAverageMinMax, DType::I8, None, QScheme::PerTensorAffine);
        s.is_dynamic = true;
        s.observer = s.observer.with_averaging_constant(1.0);
        assert_eq!(s.validate(), Ok(()));
    }

    #[test]
    fn constructors_print_as_in_python() {
        assert_eq!(
            ObserverCtr::new(ObserverKind::MinMax).with_eps(2f64.powi(-12)).to_string(),
            "MinMaxObserver(eps=2^-12)"
        );
        let fake = ObserverCtr::new(ObserverKind::MovingAverageMinMax).in_fake_quant(FakeQuantKind::FakeQuantize);
        assert_eq!(fake.to_string(), "FakeQuantize(MovingAverageMinMaxObserver)");
        let block = ObserverCtr::new(ObserverKind::PerBlockParam).with_granularity(Granularity::PerBlock(vec![1, 32]));
        assert_eq!(block.to_string(), "PerBlockParamObserver(granularity=PerBlock([1, 32]))");
    }

    #[test]
    fn observers_have_unique_names() {
        for k in ObserverKind::ALL {
            assert_eq!(ObserverKind::from_name(k.name()), Some(k));
        }
    }
}
