//! Errors: one sentence each, naming the tensor where there is one.

use std::fmt;

use thiserror::Error;

/// Which tensor an observer watches: the module path it comes from and the port there, for errors and state files.
///
/// The port is the role within the module, as `input 0`, `weight` or `output`; it may be empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TensorLabel {
    /// Path of the module, as `model.layers.0.mlp.down_proj`.
    pub module: String,
    /// Which tensor of that module.
    pub port: String,
}

impl TensorLabel {
    /// A label of these two.
    pub fn new(module: impl Into<String>, port: impl Into<String>) -> TensorLabel {
        TensorLabel { module: module.into(), port: port.into() }
    }
}

impl fmt::Display for TensorLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.port.is_empty(), self.module.is_empty()) {
            (true, _) => write!(f, "tensor `{}`", self.module),
            (false, true) => write!(f, "tensor `{}`", self.port),
            (false, false) => write!(f, "tensor `{}` of module `{}`", self.port, self.module),
        }
    }
}

/// What is wrong with a quantization spec or an annotation.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum SpecError {
    /// The range is empty.
    #[error("quant_min is {min} and quant_max {max}; quant_min must not be above quant_max")]
    EmptyRange {
        /// `quant_min`.
        min: i64,
        /// `quant_max`.
        max: i64,
    },
    /// A range of codes that an observer cannot use.
    #[error("the range of codes {min}..={max} must hold 0 and more than one code")]
    RangeWithoutZero {
        /// `quant_min`.
        min: i64,
        /// `quant_max`.
        max: i64,
    },
    /// The range does not fit the dtype.
    #[error("codes {min}..={max} do not fit {dtype}, which holds {low}..={high}")]
    RangeBeyondDtype {
        /// `quant_min`.
        min: i64,
        /// `quant_max`.
        max: i64,
        /// The dtype.
        dtype: &'static str,
        /// Least value of the dtype.
        low: i64,
        /// Largest value of the dtype.
        high: i64,
    },
    /// The dtype cannot hold codes.
    #[error("dtype {0} cannot hold codes; expected int8, uint8, int16, uint16 or int32")]
    Dtype(&'static str),
    /// The observer does not know the scheme.
    #[error("{observer} does not support {qscheme}; it supports {supported}")]
    Scheme {
        /// The observer.
        observer: &'static str,
        /// The scheme asked for.
        qscheme: String,
        /// The schemes that it supports.
        supported: &'static str,
    },
    /// The observer has no dynamic form.
    #[error("{0} does not support dynamic quantization")]
    Dynamic(&'static str),
    /// `reduce_range` with symmetric `uint8`.
    #[error("{0} cannot reduce the range of symmetric uint8")]
    ReduceRange(&'static str),
    /// An eps or a scale that is no positive number.
    #[error("{what} is {value}; expected a number above 0")]
    NotPositive {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// An averaging constant outside 0..=1.
    #[error("averaging_constant is {0}; expected a number from 0 to 1")]
    AveragingConstant(f64),
    /// A number of bins that a histogram cannot have.
    #[error("bins is {0}; expected 2 to 65536")]
    Bins(usize),
    /// An observer needs a block size and has none, or the other way round.
    #[error("{observer} {problem}")]
    BlockSize {
        /// The observer.
        observer: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// A rule of a recipe that cannot be followed.
    #[error("{rule} {problem}")]
    Rule {
        /// The rule.
        rule: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Annotations that refer to each other in a circle, or to nothing.
    #[error("the annotation of {point} {problem}")]
    Reference {
        /// The edge or output.
        point: String,
        /// What is wrong with what it refers to.
        problem: String,
    },
}

/// What is wrong with an observation or with what was observed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ObserveError {
    /// Nothing was observed.
    #[error("the observer of {0} saw no data: no calibration window reached it")]
    NoData(TensorLabel),
    /// A NaN among the values.
    #[error("{0} has a NaN: its range is not a number")]
    NotANumber(TensorLabel),
    /// The range is infinite.
    #[error("{label} ranges from {min} to {max}: an infinite range has no scale")]
    Infinite {
        /// The tensor.
        label: TensorLabel,
        /// Smallest value seen.
        min: f32,
        /// Largest value seen.
        max: f32,
    },
    /// The data do not have the shape that the observer knows.
    #[error("{label} has shape {found:?}; {expected}")]
    Shape {
        /// The tensor.
        label: TensorLabel,
        /// The shape found.
        found: Vec<usize>,
        /// What was expected.
        expected: String,
    },
    /// The observer has no parameters by design.
    #[error("{label} is observed by {observer}, which has no scale: {why}")]
    NoQParams {
        /// The tensor.
        label: TensorLabel,
        /// The observer.
        observer: &'static str,
        /// Why.
        why: &'static str,
    },
    /// The dtype of the data is not a float.
    #[error("{label} holds {dtype}; observers watch float32, float16 and bfloat16")]
    NotFloat {
        /// The tensor.
        label: TensorLabel,
        /// Its dtype.
        dtype: &'static str,
    },
    /// A shardable histogram that has a range but no counts yet, or the other way round.
    #[error("the histogram of {label} {problem}")]
    HistogramPass {
        /// The tensor.
        label: TensorLabel,
        /// What is missing.
        problem: &'static str,
    },
    /// The range lies so far out that it cannot be divided into bins.
    #[error("{label} ranges from {min:e} to {max:e}, which is too wide for a histogram in float32")]
    TooWide {
        /// The tensor.
        label: TensorLabel,
        /// Smallest value seen.
        min: f32,
        /// Largest value seen.
        max: f32,
    },
}
