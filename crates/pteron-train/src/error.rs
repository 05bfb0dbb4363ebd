//! Why training cannot begin, or ended.

use pteron_exec::ExecError;
use pteron_ir::InferError;
use pteron_ir::gradient::GradientError;
use pteron_quant::ObserveError;
use pteron_quant::pt2e::QuantizeError;

/// Why training cannot begin, or ended. Each message is one sentence that names the tensor, step or option.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A graph cannot be differentiated.
    #[error(transparent)]
    Gradient(#[from] GradientError),
    /// A node does not fit.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The annotations do not fit the graph.
    #[error(transparent)]
    Quantize(Box<QuantizeError>),
    /// A tensor whose range is learnt.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The executor.
    #[error(transparent)]
    Exec(Box<ExecError>),
    /// A form of quantization that is not trained.
    #[error("{tensor} cannot be fake-quantized: {reason}")]
    Unsupported {
        /// The tensor.
        tensor: String,
        /// Why.
        reason: String,
    },
    /// No fake quantization with a weight that is trained.
    #[error("the recipe has no trainable quantizer: {0}")]
    NothingToTrain(String),
    /// Weights that cannot be read.
    #[error("{0}")]
    Source(String),
    /// An option.
    #[error("{option} is {found}, expected {expected}")]
    Option {
        /// Its name.
        option: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A NaN or an infinity.
    #[error(
        "step {step}: the loss is no number any more, and {tensor} is the first tensor that went bad; a smaller learning rate \
         or --clip-norm may help"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// The first tensor.
        tensor: String,
    },
    /// A state that is of something else, or damaged.
    #[error("{0}")]
    Resume(String),
}

impl From<QuantizeError> for TrainError {
    fn from(e: QuantizeError) -> TrainError {
        TrainError::Quantize(Box::new(e))
    }
}

impl From<ExecError> for TrainError {
    fn from(e: ExecError) -> TrainError {
        TrainError::Exec(Box::new(e))
    }
}
