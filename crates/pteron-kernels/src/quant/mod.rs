//! Quantization: choosing scales and zero points, quantizing, dequantizing, and operators over quantized tensors.
//!
//! The same operator name stands for two computations, because PyTorch's eager operators and ExecuTorch's C++ kernels differ:
//!
//! | | PT2E eager | ExecuTorch's kernels |
//! |---|---|---|
//! | parameters from a range | [`qparams::affine`], [`qparams::per_token_asymmetric`] | [`qparams::executorch`] (FBGEMM's rule; `eps` is not looked at) |
//! | `1/scale` | in the scales' dtype | in `f32` |
//! | per token: rounding | after the zero point is added | before |
//! | an element that is not finite | NaN gives 0 (least code of i32), ±∞ the ends of the range | NaN and +∞ give `quant_min` |
//!
//! [`QuantSemantics`] says which of the two the operators of `quantized_decomposed` compute. Operators of `torchao` and those
//! that ExecuTorch has no kernel for have one meaning only, PyTorch's; [`qd8`] is XNNPACK's.
//!
//! [`qparams`], [`quantize`] and [`dequantize`] are plain functions over numbers and slices, for whoever quantizes outside a
//! graph; the functions over views beside them are the operators.

pub mod dequantize;
pub mod qd8;
pub mod qparams;
pub mod quantize;
pub mod wide;

mod attention;
mod blocks;
mod choose;
mod convert;
mod embedding;
mod fake;
mod hadamard;
mod mixed;

pub use attention::{Coded, custom_quantized_sdpa};
pub use choose::{
    choose_qparams, choose_qparams_affine, choose_qparams_per_token, choose_qparams_per_token_asymmetric,
    choose_qparams_symmetric,
};
pub use convert::{
    Params, dequantize_affine, dequantize_per_channel, dequantize_per_channel_group, dequantize_per_tensor,
    dequantize_per_token, fake_quant_per_channel, quantize_affine, quantize_per_channel, quantize_per_channel_group,
    quantize_per_tensor, quantize_per_token,
};
pub use embedding::{TableBits, embedding};
pub use fake::{
    Faked, ObserveRule, fake_quantize, fake_quantize_backward, fake_quantize_params_backward, observe_qparams,
};
pub use hadamard::fast_hadamard_transform;
pub use mixed::{Affine, add, mixed_linear, mixed_mm};
pub use qd8::convert_qd8;

/// What the operators of `quantized_decomposed` compute where PyTorch and ExecuTorch differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum QuantSemantics {
    /// As ExecuTorch's C++ kernels, for programs.
    #[default]
    ExecuTorch,
    /// As PyTorch's eager operators, for graphs that PT2E converted and that are compared with it.
    Eager,
}
