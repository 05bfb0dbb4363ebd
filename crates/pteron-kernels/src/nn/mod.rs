//! Operators of neural networks: normalization, rotary embedding, convolution, upsampling.
//!
//! Floats only; `f16` and `bf16` are computed in `f32` and rounded at the end (where a function rounds in between, it says
//! so). Inputs and outputs may have any strides.
//!
//! All functions give a [`KernelError`](crate::KernelError) for sizes or dtypes that do not fit.

mod add_norm;
mod conv;
mod gate;
mod lines;
mod norm;
mod rope;
mod upsample;

pub use add_norm::add_rms_norm;
pub use conv::{ConvParams, convolution};
pub use gate::silu_gate;
pub use lines::Lines;
pub use norm::{native_layer_norm, rms_norm};
pub use rope::{RopeStyle, rope};
pub use upsample::upsample_nearest2d;
