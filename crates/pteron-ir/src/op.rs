//! The operator table: one declaration an operator.
//!
//! A declaration gives the variant of [`Op`], the edge-dialect name (as in the text form), the schema of the kernel that
//! ExecuTorch's files call, a level, the shape and dtype inference and, if it can be differentiated, its gradient rule.
//! Printer, parser, verifier, emitter, lifter, reverse-mode differentiation and the generated reference all read this table.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::gradient::{self as grad, GradientFn};
use crate::infer::{InferCtx, InferResult};
use crate::ops::{control, elementwise, index, nn, quant, reduce, shape, sym};
use crate::schema::Schema;

/// Who can execute an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// ExecuTorch's runtime has a kernel under the schema's name: may stand in a program.
    Kernel,
    /// Captured whole because backends want it whole; decomposed for targets that lack it.
    HighLevel,
    /// Structure: branches, loops, delegates, operators outside the table.
    Structural,
}

/// The library of ExecuTorch that has an operator's kernel. A runtime is built with some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Library {
    /// `kernels/portable` and the runtime's own operators: every runtime has them.
    Portable,
    /// `extension/llm/custom_ops`, the operators `llama::…`; `executorch.extension.llm.custom_ops` in Python.
    CustomOps,
    /// `kernels/quantized`, the operators `quantized_decomposed::…`; `executorch.kernels.quantized` in Python.
    Quantized,
}

impl Library {
    /// Its name: `portable`, `custom_ops`, `quantized`.
    pub const fn name(self) -> &'static str {
        match self {
            Library::Portable => "portable",
            Library::CustomOps => "custom_ops",
            Library::Quantized => "quantized",
        }
    }

    /// The library that has the kernel under `key`, by its namespace.
    pub fn of_key(key: &str) -> Library {
        match key.split("::").next() {
            Some("llama") => Library::CustomOps,
            Some("quantized_decomposed") => Library::Quantized,
            _ => Library::Portable,
        }
    }
}

/// Computes a node's output types from its arguments.
pub type InferFn = for<'a> fn(&InferCtx<'a>) -> InferResult;

/// One row of the table.
#[derive(Debug)]
pub struct OpDef {
    /// The operator.
    pub op: Op,
    /// Its name in the edge dialect: `aten::add.Tensor`.
    pub name: &'static str,
    /// The schema of its kernel, in PyTorch's notation with the additions of [`crate::schema`].
    pub schema_text: &'static str,
    /// Who can execute it.
    pub level: Level,
    /// Shape and dtype inference.
    pub infer: InferFn,
    /// What its arguments' gradients are; `None` if it has none, and a value that is differentiated cannot go through it.
    pub gradient: Option<GradientFn>,
}

macro_rules! gradient {
    () => {
        None
    };
    ($rule:path) => {
        Some($rule)
    };
}

macro_rules! operators {
    ($($(#[$doc:meta])* $variant:ident: $level:ident $name:literal, $schema:literal, $infer:path $(, $gradient:path)?;)*) => {
        /// An operator. The set is closed; what is not in the table is [`Op::Custom`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Op {
            $($(#[$doc])* #[doc = concat!("`", $name, "`")] $variant,)*
        }

        /// All operators, in the order of [`Op`].
        pub static OPERATORS: &[OpDef] = &[
            $(OpDef {
                op: Op::$variant,
                name: $name,
                schema_text: $schema,
                level: Level::$level,
                infer: $infer,
                gradient: gradient!($($gradient)?),
            },)*
        ];
    };
}

operators! {
    // Elementwise.
    Add: Kernel "aten::add.Tensor", "aten::add.out(Tensor self, Tensor other, *, Scalar alpha=1, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic, grad::elementwise::add;
    AddScalar: Kernel "aten::add.Scalar", "aten::add.Scalar_out(Tensor self, Scalar other, Scalar alpha=1, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic_scalar, grad::elementwise::same;
    Sub: Kernel "aten::sub.Tensor", "aten::sub.out(Tensor self, Tensor other, *, Scalar alpha=1, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic, grad::elementwise::sub;
    SubScalar: Kernel "aten::sub.Scalar", "aten::sub.Scalar_out(Tensor self, Scalar other, Scalar alpha=1, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic_scalar, grad::elementwise::same;
    Mul: Kernel "aten::mul.Tensor", "aten::mul.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic, grad::elementwise::mul;
    MulScalar: Kernel "aten::mul.Scalar", "aten::mul.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic_scalar, grad::elementwise::mul_scalar;
    Div: Kernel "aten::div.Tensor", "aten::div.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::true_division, grad::elementwise::div;
    DivScalar: Kernel "aten::div.Scalar", "aten::div.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::true_division_scalar, grad::elementwise::div_scalar;
    DivMode: Kernel "aten::div.Tensor_mode", "aten::div.out_mode(Tensor self, Tensor other, *, str? rounding_mode, Tensor(a!) out) -> Tensor(a!)", elementwise::division_with_mode;
    Maximum: Kernel "aten::maximum", "aten::maximum.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic, grad::elementwise::larger;
    Minimum: Kernel "aten::minimum", "aten::minimum.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic, grad::elementwise::smaller;
    PowScalar: Kernel "aten::pow.Tensor_Scalar", "aten::pow.Tensor_Scalar_out(Tensor self, Scalar exponent, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic_scalar, grad::elementwise::pow_scalar;
    PowTensor: Kernel "aten::pow.Tensor_Tensor", "aten::pow.Tensor_Tensor_out(Tensor self, Tensor exponent, *, Tensor(a!) out) -> Tensor(a!)", elementwise::arithmetic;
    Eq: Kernel "aten::eq.Tensor", "aten::eq.Tensor_out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    EqScalar: Kernel "aten::eq.Scalar", "aten::eq.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    Ne: Kernel "aten::ne.Tensor", "aten::ne.Tensor_out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    NeScalar: Kernel "aten::ne.Scalar", "aten::ne.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    Lt: Kernel "aten::lt.Tensor", "aten::lt.Tensor_out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    LtScalar: Kernel "aten::lt.Scalar", "aten::lt.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    Le: Kernel "aten::le.Tensor", "aten::le.Tensor_out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    LeScalar: Kernel "aten::le.Scalar", "aten::le.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    Gt: Kernel "aten::gt.Tensor", "aten::gt.Tensor_out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    GtScalar: Kernel "aten::gt.Scalar", "aten::gt.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    Ge: Kernel "aten::ge.Tensor", "aten::ge.Tensor_out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    GeScalar: Kernel "aten::ge.Scalar", "aten::ge.Scalar_out(Tensor self, Scalar other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    LogicalNot: Kernel "aten::logical_not", "aten::logical_not.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    LogicalAnd: Kernel "aten::logical_and", "aten::logical_and.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    LogicalOr: Kernel "aten::logical_or", "aten::logical_or.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    LogicalXor: Kernel "aten::logical_xor", "aten::logical_xor.out(Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::comparison;
    IsNan: Kernel "aten::isnan", "aten::isnan.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    IsInf: Kernel "aten::isinf", "aten::isinf.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::predicate;
    Where: Kernel "aten::where.self", "aten::where.self_out(Tensor condition, Tensor self, Tensor other, *, Tensor(a!) out) -> Tensor(a!)", elementwise::select_by_condition, grad::elementwise::select_by_condition;
    Clamp: Kernel "aten::clamp", "aten::clamp.out(Tensor self, Scalar? min=None, Scalar? max=None, *, Tensor(a!) out) -> Tensor(a!)", elementwise::clamp, grad::elementwise::clamp;
    Neg: Kernel "aten::neg", "aten::neg.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::elementwise::neg;
    Abs: Kernel "aten::abs", "aten::abs.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::elementwise::abs;
    Relu: Kernel "aten::relu", "aten::relu.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::elementwise::relu;
    Floor: Kernel "aten::floor", "aten::floor.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::elementwise::flat;
    Ceil: Kernel "aten::ceil", "aten::ceil.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::elementwise::flat;
    Round: Kernel "aten::round", "aten::round.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::elementwise::flat;
    Sqrt: Kernel "aten::sqrt", "aten::sqrt.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::sqrt;
    Rsqrt: Kernel "aten::rsqrt", "aten::rsqrt.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::rsqrt;
    Reciprocal: Kernel "aten::reciprocal", "aten::reciprocal.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::reciprocal;
    Exp: Kernel "aten::exp", "aten::exp.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::exp;
    Log: Kernel "aten::log", "aten::log.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::log;
    Sin: Kernel "aten::sin", "aten::sin.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::sin;
    Cos: Kernel "aten::cos", "aten::cos.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::cos;
    Tanh: Kernel "aten::tanh", "aten::tanh.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::tanh;
    Sigmoid: Kernel "aten::sigmoid", "aten::sigmoid.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::to_float, grad::elementwise::sigmoid;
    Gelu: Kernel "aten::gelu", "aten::gelu.out(Tensor self, *, str approximate=\"none\", Tensor(a!) out) -> Tensor(a!)", elementwise::same_float, grad::elementwise::gelu;
    /// `x · sigmoid(x)`.
    Silu: HighLevel "aten::silu", "aten::silu.out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same_float, grad::elementwise::silu;

    // Making and converting.
    Full: Kernel "aten::full", "aten::full.out(SymInt[] size, Scalar fill_value, *, edge ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", elementwise::full;
    FullLike: Kernel "aten::full_like", "aten::full_like.out(Tensor self, Scalar fill_value, *, edge ScalarType? dtype=None, MemoryFormat? memory_format=None, Tensor(a!) out) -> Tensor(a!)", elementwise::full_like;
    ScalarTensor: Kernel "aten::scalar_tensor", "aten::scalar_tensor.out(Scalar s, *, edge ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", elementwise::scalar_tensor;
    Arange: Kernel "aten::arange.start_step", "aten::arange.start_out(Scalar start, Scalar end, Scalar step=1, *, edge ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", elementwise::arange;
    ToCopy: Kernel "aten::_to_copy", "aten::_to_copy.out(Tensor self, *, edge ScalarType? dtype=None, bool non_blocking=False, MemoryFormat? memory_format=None, Tensor(a!) out) -> Tensor(a!)", elementwise::to_copy, grad::elementwise::converted;
    Clone: Kernel "aten::clone", "aten::clone.out(Tensor self, *, MemoryFormat? memory_format=None, Tensor(a!) out) -> Tensor(a!)", elementwise::clone, grad::elementwise::same;
    ToDimOrderCopy: Kernel "dim_order_ops::_to_dim_order_copy", "dim_order_ops::_to_dim_order_copy.out(Tensor self, *, edge ScalarType? dtype=None, bool non_blocking=False, int[]? dim_order=None, Tensor(a!) out) -> Tensor(a!)", elementwise::to_dim_order_copy, grad::elementwise::converted;
    CloneDimOrder: Kernel "dim_order_ops::_clone_dim_order", "dim_order_ops::_clone_dim_order.out(Tensor self, *, bool non_blocking=False, int[]? dim_order=None, Tensor(a!) out) -> Tensor(a!)", elementwise::clone_dim_order, grad::elementwise::same;
    /// Writes `src` over `self`.
    CopyInto: Kernel "aten::copy_", "aten::copy_(Tensor(a!) self, Tensor src, bool non_blocking=False) -> Tensor(a!)", elementwise::copy_into;

    // Shape.
    ViewCopy: Kernel "aten::view_copy", "aten::view_copy.out(Tensor self, SymInt[] size, *, Tensor(a!) out) -> Tensor(a!)", shape::view, grad::shape::viewed;
    UnsqueezeCopy: Kernel "aten::unsqueeze_copy", "aten::unsqueeze_copy.out(Tensor self, int dim, *, Tensor(a!) out) -> Tensor(a!)", shape::unsqueeze, grad::shape::viewed;
    SqueezeDimsCopy: Kernel "aten::squeeze_copy.dims", "aten::squeeze_copy.dims_out(Tensor self, int[] dim, *, Tensor(a!) out) -> Tensor(a!)", shape::squeeze_dims, grad::shape::viewed;
    SqueezeDimCopy: Kernel "aten::squeeze_copy.dim", "aten::squeeze_copy.dim_out(Tensor self, int dim, *, Tensor(a!) out) -> Tensor(a!)", shape::squeeze_dim, grad::shape::viewed;
    PermuteCopy: Kernel "aten::permute_copy", "aten::permute_copy.out(Tensor self, int[] dims, *, Tensor(a!) out) -> Tensor(a!)", shape::permute, grad::shape::permute;
    TransposeCopy: Kernel "aten::transpose_copy.int", "aten::transpose_copy.int_out(Tensor self, int dim0, int dim1, *, Tensor(a!) out) -> Tensor(a!)", shape::transpose, grad::shape::transpose;
    ExpandCopy: Kernel "aten::expand_copy", "aten::expand_copy.out(Tensor self, SymInt[] size, *, bool implicit=False, Tensor(a!) out) -> Tensor(a!)", shape::expand, grad::shape::expand;
    SliceCopy: Kernel "aten::slice_copy.Tensor", "aten::slice_copy.Tensor_out(Tensor self, int dim=0, SymInt? start=None, SymInt? end=None, SymInt step=1, *, Tensor(a!) out) -> Tensor(a!)", shape::slice, grad::shape::slice;
    SelectCopy: Kernel "aten::select_copy.int", "aten::select_copy.int_out(Tensor self, int dim, SymInt index, *, Tensor(a!) out) -> Tensor(a!)", shape::select, grad::shape::select;
    Cat: Kernel "aten::cat", "aten::cat.out(Tensor[] tensors, int dim=0, *, Tensor(a!) out) -> Tensor(a!)", shape::cat, grad::shape::cat;
    SplitWithSizesCopy: Kernel "aten::split_with_sizes_copy", "aten::split_with_sizes_copy.out(Tensor self, SymInt[] split_sizes, int dim=0, *, Tensor(a!)[] out) -> ()", shape::split_with_sizes, grad::shape::split_with_sizes;
    Repeat: Kernel "aten::repeat", "aten::repeat.out(Tensor self, SymInt[] repeats, *, Tensor(a!) out) -> Tensor(a!)", shape::repeat, grad::shape::repeat;
    Flip: Kernel "aten::flip", "aten::flip.out(Tensor self, int[] dims, *, Tensor(a!) out) -> Tensor(a!)", elementwise::same, grad::shape::flip;
    /// Writes `copy_from` as row `index` of `copy_to`, which then has `index + 1` rows.
    CopyIndex: Kernel "executorch_prim::et_copy_index.tensor", "executorch_prim::et_copy_index.tensor(Tensor(a!) copy_to, Tensor copy_from, SymInt index) -> Tensor(a!)", shape::copy_index;

    // Reductions.
    Sum: Kernel "aten::sum.dim_IntList", "aten::sum.IntList_out(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", reduce::sum, grad::reduce::sum;
    Mean: Kernel "aten::mean.dim", "aten::mean.out(Tensor self, int[1]? dim, bool keepdim=False, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", reduce::mean, grad::reduce::mean;
    Amax: Kernel "aten::amax", "aten::amax.out(Tensor self, int[1] dim=[], bool keepdim=False, *, Tensor(a!) out) -> Tensor(a!)", reduce::extreme, grad::reduce::extreme;
    Amin: Kernel "aten::amin", "aten::amin.out(Tensor self, int[1] dim=[], bool keepdim=False, *, Tensor(a!) out) -> Tensor(a!)", reduce::extreme, grad::reduce::extreme;
    Argmax: Kernel "aten::argmax", "aten::argmax.out(Tensor self, int? dim=None, bool keepdim=False, *, Tensor(a!) out) -> Tensor(a!)", reduce::arg_extreme;
    Argmin: Kernel "aten::argmin", "aten::argmin.out(Tensor self, int? dim=None, bool keepdim=False, *, Tensor(a!) out) -> Tensor(a!)", reduce::arg_extreme;
    MaxDim: Kernel "aten::max.dim", "aten::max.dim_max(Tensor self, int dim, bool keepdim=False, *, Tensor(a!) max, Tensor(b!) max_values) -> (Tensor(a!) values, Tensor(b!) indices)", reduce::extreme_with_index;
    MinDim: Kernel "aten::min.dim", "aten::min.dim_min(Tensor self, int dim, bool keepdim=False, *, Tensor(a!) min, Tensor(b!) min_indices) -> (Tensor(a!) values, Tensor(b!) indices)", reduce::extreme_with_index;
    AnyDim: Kernel "aten::any.dim", "aten::any.out(Tensor self, int dim, bool keepdim=False, *, Tensor(a!) out) -> Tensor(a!)", reduce::any_dim;
    AnyAll: Kernel "aten::any", "aten::any.all_out(Tensor self, *, Tensor(a!) out) -> Tensor(a!)", reduce::any_all;
    Softmax: Kernel "aten::_softmax", "aten::_softmax.out(Tensor self, int dim, bool half_to_float, *, Tensor(a!) out) -> Tensor(a!)", reduce::softmax, grad::reduce::softmax;
    LogSoftmax: Kernel "aten::_log_softmax", "aten::_log_softmax.out(Tensor self, int dim, bool half_to_float, *, Tensor(a!) out) -> Tensor(a!)", reduce::softmax, grad::reduce::log_softmax;
    TopK: Kernel "aten::topk", "aten::topk.values(Tensor self, SymInt k, int dim=-1, bool largest=True, bool sorted=True, *, Tensor(a!) values, Tensor(b!) indices) -> (Tensor(a!) values, Tensor(b!) indices)", reduce::topk;
    CumSum: Kernel "aten::cumsum", "aten::cumsum.out(Tensor self, int dim, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", reduce::cumsum;

    // Indexing.
    Embedding: Kernel "aten::embedding", "aten::embedding.out(Tensor weight, Tensor indices, SymInt padding_idx=-1, bool scale_grad_by_freq=False, bool sparse=False, *, Tensor(a!) out) -> Tensor(a!)", index::embedding, grad::index::embedding;
    Index: Kernel "aten::index.Tensor", "aten::index.Tensor_out(Tensor self, Tensor?[] indices, *, Tensor(a!) out) -> Tensor(a!)", index::index, grad::index::index;
    IndexPut: Kernel "aten::index_put", "aten::index_put.out(Tensor self, Tensor?[] indices, Tensor values, bool accumulate=False, *, Tensor(a!) out) -> Tensor(a!)", index::index_put;
    IndexPutInto: Kernel "aten::index_put_", "aten::index_put_(Tensor(a!) self, Tensor?[] indices, Tensor values, bool accumulate=False) -> Tensor(a!)", index::index_put;
    IndexSelect: Kernel "aten::index_select", "aten::index_select.out(Tensor self, int dim, Tensor index, *, Tensor(a!) out) -> Tensor(a!)", index::index_select, grad::index::index_select;
    Gather: Kernel "aten::gather", "aten::gather.out(Tensor self, int dim, Tensor index, *, bool sparse_grad=False, Tensor(a!) out) -> Tensor(a!)", index::gather, grad::index::gather;

    // Matrices and layers.
    Linear: Kernel "aten::linear", "aten::linear.out(Tensor input, Tensor weight, Tensor? bias=None, *, Tensor(a!) out) -> Tensor(a!)", nn::linear, grad::nn::linear;
    Mm: Kernel "aten::mm", "aten::mm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)", nn::mm, grad::nn::mm;
    AddMm: Kernel "aten::addmm", "aten::addmm.out(Tensor self, Tensor mat1, Tensor mat2, *, Scalar beta=1, Scalar alpha=1, Tensor(a!) out) -> Tensor(a!)", nn::addmm, grad::nn::addmm;
    Bmm: Kernel "aten::bmm", "aten::bmm.out(Tensor self, Tensor mat2, *, Tensor(a!) out) -> Tensor(a!)", nn::bmm, grad::nn::bmm;
    Convolution: Kernel "aten::convolution", "aten::convolution.out(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups, *, Tensor(a!) out) -> Tensor(a!)", nn::convolution;
    LayerNorm: Kernel "aten::native_layer_norm", "aten::native_layer_norm.out(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias, float eps, *, Tensor(a!) out0, Tensor(b!) out1, Tensor(c!) out2) -> (Tensor(a!), Tensor(b!), Tensor(c!))", nn::native_layer_norm;
    UpsampleNearest2d: Kernel "aten::upsample_nearest2d.vec", "aten::upsample_nearest2d.vec_out(Tensor input, SymInt[]? output_size, float[]? scale_factors, *, Tensor(a!) out) -> Tensor(a!)", nn::upsample_nearest2d;
    /// `x · rsqrt(mean(x²) + eps) · weight` over the last dimension, the norm in f32.
    RmsNorm: HighLevel "aten::rms_norm", "aten::rms_norm.out(Tensor input, SymInt[] normalized_shape, Tensor? weight, float eps, *, Tensor(a!) out) -> Tensor(a!)", nn::rms_norm, grad::nn::rms_norm;
    /// Rotary embedding of `x` [B, S, H, D] by `cos`, `sin` [S, D/2]; pairs are neighbours if `interleaved`, else halves.
    Rope: HighLevel "pteron::rope", "pteron::rope.out(Tensor x, Tensor cos, Tensor sin, bool interleaved, *, Tensor(a!) out) -> Tensor(a!)", nn::rope, grad::nn::rope;
    /// Attention over `[B, H, S, D]`; with `enable_gqa`, query head h uses key head `h / (Hq / Hkv)`.
    Sdpa: HighLevel "aten::scaled_dot_product_attention", "aten::scaled_dot_product_attention.out(Tensor query, Tensor key, Tensor value, Tensor? attn_mask=None, float dropout_p=0.0, bool is_causal=False, *, float? scale=None, bool enable_gqa=False, Tensor(a!) out) -> Tensor(a!)", nn::sdpa, grad::nn::sdpa;

    // ExecuTorch's custom operators for language models.
    UpdateCache: Kernel "llama::update_cache", "llama::update_cache.out(Tensor value, Tensor(a!) cache, SymInt start_pos, *, Tensor(b!) out) -> Tensor(b!)", nn::update_cache;
    UpdateCacheWithIndices: Kernel "llama::update_cache_with_indices", "llama::update_cache_with_indices.out(Tensor value, Tensor(a!) cache, SymInt start_pos, Tensor indices, *, Tensor(b!) out) -> Tensor(b!)", quant::update_cache_with_indices;
    CustomSdpa: Kernel "llama::custom_sdpa", "llama::custom_sdpa.out(Tensor query, Tensor key, Tensor value, SymInt start_pos, Tensor? attn_mask=None, float drpout_p=0.0, bool is_causal=False, float? scale=None, *, Tensor(a!) out) -> Tensor(a!)", nn::custom_sdpa;
    SdpaWithKvCache: Kernel "llama::sdpa_with_kv_cache", "llama::sdpa_with_kv_cache.out(Tensor query, Tensor key, Tensor value, Tensor(a!) key_cache, Tensor(b!) value_cache, SymInt start_pos, SymInt seq_len, Tensor? attn_mask=None, float drpout_p=0.0, bool is_causal=False, float? scale=None, *, Tensor(c!) out) -> Tensor(c!)", nn::sdpa_with_kv_cache;
    CustomQuantizedSdpa: Kernel "llama::custom_quantized_sdpa", "llama::custom_quantized_sdpa.out(Tensor query, Tensor key, Tensor value, SymInt start_pos, Tensor? attn_mask=None, float drpout_p=0.0, bool is_causal=False, float? scale=None, Tensor? q_zero_points=None, Tensor? q_scales=None, Tensor? k_zero_points=None, Tensor? k_scales=None, Tensor? v_zero_points=None, Tensor? v_scales=None, bool is_seq_at_dim_2=False, *, Tensor(a!) out) -> Tensor(a!)", quant::quantized_sdpa;
    /// The input itself.
    Fallback: Kernel "llama::fallback", "llama::fallback.out(Tensor input, *, Tensor(a!) output) -> Tensor(a!)", elementwise::same;
    FastHadamardTransform: Kernel "llama::fast_hadamard_transform", "llama::fast_hadamard_transform.out(Tensor mat, *, Tensor(a!) out) -> Tensor(a!)", quant::hadamard;

    // Quantization.
    QuantizePerTensor: Kernel "quantized_decomposed::quantize_per_tensor", "quantized_decomposed::quantize_per_tensor.out(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_per_tensor;
    QuantizePerTensorTensor: Kernel "quantized_decomposed::quantize_per_tensor.tensor", "quantized_decomposed::quantize_per_tensor.Tensor_out(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_per_tensor_tensor;
    QuantizePerTensorTensor2: HighLevel "quantized_decomposed::quantize_per_tensor.tensor2", "quantized_decomposed::quantize_per_tensor.tensor2_out(Tensor input, Tensor scale, Tensor zero_point, Tensor quant_min, Tensor quant_max, ScalarType dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_per_tensor_tensor2;
    DequantizePerTensor: Kernel "quantized_decomposed::dequantize_per_tensor", "quantized_decomposed::dequantize_per_tensor.out(Tensor input, float scale, int zero_point, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_per_tensor;
    DequantizePerTensorTensor: Kernel "quantized_decomposed::dequantize_per_tensor.tensor", "quantized_decomposed::dequantize_per_tensor.Tensor_out(Tensor input, Tensor scale, Tensor zero_point, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_per_tensor_tensor;
    DequantizePerTensorTensor2: HighLevel "quantized_decomposed::dequantize_per_tensor.tensor2", "quantized_decomposed::dequantize_per_tensor.tensor2_out(Tensor input, Tensor scale, Tensor zero_point, Tensor quant_min, Tensor quant_max, ScalarType dtype, *, ScalarType? out_dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_per_tensor_tensor;
    QuantizePerChannel: Kernel "quantized_decomposed::quantize_per_channel", "quantized_decomposed::quantize_per_channel.out(Tensor input, Tensor scales, Tensor zero_points, int axis, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_per_channel;
    DequantizePerChannel: Kernel "quantized_decomposed::dequantize_per_channel", "quantized_decomposed::dequantize_per_channel.out(Tensor input, Tensor scales, Tensor? zero_points, int axis, int quant_min, int quant_max, ScalarType dtype, *, ScalarType? out_dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_per_channel;
    QuantizePerToken: Kernel "quantized_decomposed::quantize_per_token", "quantized_decomposed::quantize_per_token.out(Tensor input, Tensor scales, Tensor zero_points, int quant_min, int quant_max, ScalarType dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_per_token;
    DequantizePerToken: Kernel "quantized_decomposed::dequantize_per_token", "quantized_decomposed::dequantize_per_token.out(Tensor input, Tensor scales, Tensor zero_points, int quant_min, int quant_max, ScalarType dtype, ScalarType output_dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_per_token;
    ChooseQparams: Kernel "quantized_decomposed::choose_qparams.tensor", "quantized_decomposed::choose_qparams.Tensor_out(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype, *, Tensor(a!) scale_out, Tensor(b!) zero_point_out) -> (Tensor(a!), Tensor(b!))", quant::choose_qparams, grad::elementwise::flat;
    ChooseQparamsSymmetric: HighLevel "quantized_decomposed::choose_qparams_symmetric.tensor", "quantized_decomposed::choose_qparams_symmetric.Tensor_out(Tensor input, int quant_min, int quant_max, float eps, ScalarType dtype, *, Tensor(a!) scale_out, Tensor(b!) zero_point_out) -> (Tensor(a!), Tensor(b!))", quant::choose_qparams, grad::elementwise::flat;
    ChooseQparamsPerTokenAsymmetric: Kernel "quantized_decomposed::choose_qparams_per_token_asymmetric", "quantized_decomposed::choose_qparams_per_token_asymmetric.out(Tensor input, ScalarType dtype, *, Tensor(a!) scale_out, Tensor(b!) zero_point_out) -> (Tensor(a!), Tensor(b!))", quant::choose_qparams_per_token_asymmetric, grad::elementwise::flat;
    ChooseQparamsPerToken: HighLevel "quantized_decomposed::choose_qparams_per_token", "quantized_decomposed::choose_qparams_per_token.out(Tensor input, ScalarType dtype, *, Tensor(a!) scale_out, Tensor(b!) zero_point_out) -> (Tensor(a!), Tensor(b!))", quant::choose_qparams_per_token, grad::elementwise::flat;
    /// Rounds after the zero point is added.
    QuantizePerChannelGroup: HighLevel "quantized_decomposed::quantize_per_channel_group", "quantized_decomposed::quantize_per_channel_group.out(Tensor input, Tensor scales, Tensor zero_points, int quant_min, int quant_max, ScalarType dtype, int group_size, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_per_channel_group;
    DequantizePerChannelGroup: HighLevel "quantized_decomposed::dequantize_per_channel_group", "quantized_decomposed::dequantize_per_channel_group.out(Tensor input, Tensor scales, Tensor? zero_points, int quant_min, int quant_max, ScalarType dtype, int group_size, ScalarType output_dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_per_channel_group;
    FakeQuantPerChannel: HighLevel "quantized_decomposed::fake_quant_per_channel", "quantized_decomposed::fake_quant_per_channel.out(Tensor input, Tensor scales, Tensor zero_points, int axis, int quant_min, int quant_max, *, Tensor(a!) out) -> Tensor(a!)", quant::fake_quant_per_channel;
    ConvertElementType: HighLevel "quantized_decomposed::convert_element_type.no_fuse", "quantized_decomposed::convert_element_type.no_fuse_out(Tensor input, ScalarType dtype, *, Tensor(a!) out) -> Tensor(a!)", quant::convert_element_type;
    EmbeddingByte: Kernel "quantized_decomposed::embedding_byte", "quantized_decomposed::embedding_byte.out(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, Tensor(a!) out) -> Tensor(a!)", quant::embedding_byte;
    EmbeddingByteDType: Kernel "quantized_decomposed::embedding_byte.dtype", "quantized_decomposed::embedding_byte.dtype_out(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::embedding_byte;
    Embedding4Bit: Kernel "quantized_decomposed::embedding_4bit", "quantized_decomposed::embedding_4bit.out(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, Tensor(a!) out) -> Tensor(a!)", quant::embedding_4bit;
    Embedding4BitDType: Kernel "quantized_decomposed::embedding_4bit.dtype", "quantized_decomposed::embedding_4bit.dtype_out(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::embedding_4bit;
    Embedding2Bit: Kernel "quantized_decomposed::embedding_2bit", "quantized_decomposed::embedding_2bit.out(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, Tensor(a!) out) -> Tensor(a!)", quant::embedding_2bit;
    Embedding2BitDType: Kernel "quantized_decomposed::embedding_2bit.dtype", "quantized_decomposed::embedding_2bit.dtype_out(Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, int weight_quant_min, int weight_quant_max, Tensor indices, *, ScalarType? dtype=None, Tensor(a!) out) -> Tensor(a!)", quant::embedding_2bit;
    MixedMm: Kernel "quantized_decomposed::mixed_mm", "quantized_decomposed::mixed_mm.out(Tensor input, Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, *, Tensor(a!) out) -> Tensor(a!)", quant::mixed_mm;
    MixedLinear: Kernel "quantized_decomposed::mixed_linear", "quantized_decomposed::mixed_linear.out(Tensor input, Tensor weight, Tensor weight_scales, Tensor? weight_zero_points, ScalarType? dtype=None, *, Tensor(a!) out) -> Tensor(a!)", quant::mixed_linear;
    /// Codes of the sum of what the codes `a` and `b` stand for.
    QuantizedAdd: Kernel "quantized_decomposed::add", "quantized_decomposed::add.out(Tensor a, float a_scale, int a_zero_point, int a_quant_min, int a_quant_max, Tensor b, float b_scale, int b_zero_point, int b_quant_min, int b_quant_max, float out_scale, int out_zero_point, int out_quant_min, int out_quant_max, *, Tensor(a!) out) -> Tensor(a!)", quant::add;
    ChooseQparamsAffine: HighLevel "torchao::choose_qparams_affine", "torchao::choose_qparams_affine.out(Tensor input, str mapping_type, SymInt[] block_size, ScalarType target_dtype, Scalar? quant_min=None, Scalar? quant_max=None, float? eps=None, ScalarType? scale_dtype=None, ScalarType? zero_point_dtype=None, bool keepdim=False, *, Tensor(a!) scale_out, Tensor(b!) zero_point_out) -> (Tensor(a!), Tensor(b!))", quant::choose_qparams_affine, grad::elementwise::flat;
    QuantizeAffine: HighLevel "torchao::quantize_affine", "torchao::quantize_affine.out(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, ScalarType output_dtype, Scalar? quant_min=None, Scalar? quant_max=None, *, Tensor(a!) out) -> Tensor(a!)", quant::quantize_affine;
    DequantizeAffine: HighLevel "torchao::dequantize_affine", "torchao::dequantize_affine.out(Tensor input, SymInt[] block_size, Tensor scale, Tensor? zero_point, ScalarType input_dtype, Scalar? quant_min=None, Scalar? quant_max=None, ScalarType output_dtype=f32, *, Tensor(a!) out) -> Tensor(a!)", quant::dequantize_affine;
    /// Codes, scale and zero point of each row, what the last `num_nonbatch_dims` dimensions hold, by XNNPACK's rule for
    /// dynamically quantized values: `XNNConvert` to `qdint8`.
    ConvertQd8: HighLevel "xnnpack::convert_qd8", "xnnpack::convert_qd8.out(Tensor input, int num_nonbatch_dims=1, *, Tensor(a!) out, Tensor(b!) scale_out, Tensor(c!) zero_point_out) -> (Tensor(a!), Tensor(b!), Tensor(c!))", quant::convert_qd8;

    // Quantization-aware training.
    /// Widens `range`, f32 least and largest value, by those of `input` if `enabled` is not 0, and gives what it becomes with the
    /// scale and zero point, f32, that it asks for. With an `averaging_constant` the range is a moving average.
    ObserveQparams: HighLevel "pteron::observe_qparams", "pteron::observe_qparams.out(Tensor input, Tensor range, Tensor enabled, float averaging_constant, int quant_min, int quant_max, float eps, bool symmetric, int symmetric_zero_point, bool fbgemm, *, Tensor(a!) range_out, Tensor(b!) scale_out, Tensor(c!) zero_point_out) -> (Tensor(a!), Tensor(b!), Tensor(c!))", quant::observe_qparams, grad::elementwise::flat;
    /// `(clamp(round(input / scale) + zero_point, quant_min, quant_max) − zero_point) · scale`, with a scale and zero point for each
    /// block; `input` itself if `enabled` is 0.
    FakeQuantize: HighLevel "pteron::fake_quantize", "pteron::fake_quantize.out(Tensor input, Tensor scale, Tensor zero_point, SymInt[] block_size, int quant_min, int quant_max, Tensor? enabled=None, float scale_gradient=1.0, *, Tensor(a!) out) -> Tensor(a!)", quant::fake_quantize, grad::quant::fake_quantize;
    /// The straight-through gradient of `fake_quantize` by its input.
    FakeQuantizeBackward: HighLevel "pteron::fake_quantize_backward", "pteron::fake_quantize_backward.out(Tensor gradient, Tensor input, Tensor scale, Tensor zero_point, SymInt[] block_size, int quant_min, int quant_max, Tensor? enabled=None, *, Tensor(a!) out) -> Tensor(a!)", quant::fake_quantize_backward;
    /// The gradients of `fake_quantize` by its scales and zero points, times `scale_gradient`.
    FakeQuantizeParamsBackward: HighLevel "pteron::fake_quantize_params_backward", "pteron::fake_quantize_params_backward.out(Tensor gradient, Tensor input, Tensor scale, Tensor zero_point, SymInt[] block_size, int quant_min, int quant_max, Tensor? enabled=None, float scale_gradient=1.0, *, Tensor(a!) scale_out, Tensor(b!) zero_point_out) -> (Tensor(a!), Tensor(b!))", quant::fake_quantize_params_backward;

    // Symbolic scalars.
    SymSize: Kernel "aten::sym_size.int", "aten::sym_size.int(Tensor self, int dim) -> SymInt", sym::size;
    SymNumel: Kernel "aten::sym_numel", "aten::sym_numel(Tensor self) -> SymInt", sym::numel;
    LocalScalarDense: Kernel "aten::_local_scalar_dense", "aten::_local_scalar_dense(Tensor self) -> Scalar", sym::local_scalar_dense;
    PrimAdd: Kernel "executorch_prim::add.Scalar", "executorch_prim::add.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimSub: Kernel "executorch_prim::sub.Scalar", "executorch_prim::sub.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimMul: Kernel "executorch_prim::mul.Scalar", "executorch_prim::mul.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimFloorDiv: Kernel "executorch_prim::floordiv.Scalar", "executorch_prim::floordiv.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimMod: Kernel "executorch_prim::mod.Scalar", "executorch_prim::mod.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimTrueDiv: Kernel "executorch_prim::truediv.Scalar", "executorch_prim::truediv.Scalar(Scalar a, Scalar b) -> float", sym::real;
    PrimMax: Kernel "executorch_prim::sym_max.Scalar", "executorch_prim::sym_max.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimMin: Kernel "executorch_prim::sym_min.Scalar", "executorch_prim::sym_min.Scalar(Scalar a, Scalar b) -> Scalar", sym::arithmetic;
    PrimNeg: Kernel "executorch_prim::neg.Scalar", "executorch_prim::neg.Scalar(Scalar a) -> Scalar", sym::negation;
    PrimEq: Kernel "executorch_prim::eq.Scalar", "executorch_prim::eq.Scalar(Scalar a, Scalar b) -> bool", sym::comparison;
    PrimLt: Kernel "executorch_prim::lt.Scalar", "executorch_prim::lt.Scalar(Scalar a, Scalar b) -> bool", sym::comparison;
    PrimLe: Kernel "executorch_prim::le.Scalar", "executorch_prim::le.Scalar(Scalar a, Scalar b) -> bool", sym::comparison;
    PrimGt: Kernel "executorch_prim::gt.Scalar", "executorch_prim::gt.Scalar(Scalar a, Scalar b) -> bool", sym::comparison;
    PrimGe: Kernel "executorch_prim::ge.Scalar", "executorch_prim::ge.Scalar(Scalar a, Scalar b) -> bool", sym::comparison;
    PrimNot: Kernel "executorch_prim::sym_not.Scalar", "executorch_prim::sym_not.Scalar(bool a) -> bool", sym::comparison;
    PrimFloat: Kernel "executorch_prim::sym_float.Scalar", "executorch_prim::sym_float.Scalar(Scalar a) -> float", sym::real;

    // Structure.
    /// Two branches of which one is executed; the results of its region are the outputs.
    Cond: Structural "cond", "cond(Scalar predicate) -> ()", control::declared;
    /// A body that is executed, and executed again while its first result is true; its other results are the next
    /// parameters and, at the end, the outputs.
    Loop: Structural "loop", "loop() -> ()", control::declared;
    /// A call of a delegate's payload.
    Delegate: Structural "delegate", "delegate() -> ()", control::declared;
    /// An operator outside the table. Can be kept, printed and written back; running one is an error.
    Custom: Structural "custom", "custom() -> ()", control::declared;
}

impl OpDef {
    /// The library of ExecuTorch that has the kernel; `None` if none has.
    pub fn library(&self) -> Option<Library> {
        (self.level == Level::Kernel).then(|| Library::of_key(self.name))
    }
}

impl Op {
    /// Its row of the table.
    pub fn def(self) -> &'static OpDef {
        &OPERATORS[self as usize]
    }

    /// Its name in the edge dialect: `aten::add.Tensor`.
    pub fn name(self) -> &'static str {
        self.def().name
    }

    /// Its parsed schema.
    pub fn schema(self) -> &'static Schema {
        static SCHEMAS: OnceLock<Vec<Schema>> = OnceLock::new();
        let all = SCHEMAS.get_or_init(|| {
            let parse = |d: &OpDef| match Schema::parse(d.schema_text) {
                Ok(s) => s,
                // The table is a constant of this crate, and a test parses every row.
                Err(e) => unreachable!("{e}"),
            };
            OPERATORS.iter().map(parse).collect()
        });
        &all[self as usize]
    }

    /// Operators with regions, delegates and operators outside the table: their schema says nothing of their arguments.
    pub fn is_structural(self) -> bool {
        self.def().level == Level::Structural
    }

    /// The operator whose kernel ExecuTorch's files call `key`: `aten::add.out`.
    pub fn from_kernel_key(key: &str) -> Option<Op> {
        static KEYS: OnceLock<Vec<(String, Op)>> = OnceLock::new();
        let keys = KEYS.get_or_init(|| {
            let rows = OPERATORS.iter().filter(|d| d.level != Level::Structural);
            let mut keys: Vec<_> = rows.map(|d| (d.op.schema().kernel_key(), d.op)).collect();
            keys.sort();
            keys
        });
        keys.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok().map(|i| keys[i].1)
    }

    /// True for operators whose output is the input's elements in the same order under other sizes: where both are
    /// row-major, the output may share the input's memory.
    pub fn is_view(self) -> bool {
        matches!(self, Op::ViewCopy | Op::UnsqueezeCopy | Op::SqueezeDimsCopy | Op::SqueezeDimCopy)
    }

    /// True for operators that turn codes into numbers by a scale and a zero point.
    pub fn is_dequantize(self) -> bool {
        matches!(
            self,
            Op::DequantizePerTensor
                | Op::DequantizePerTensorTensor
                | Op::DequantizePerTensorTensor2
                | Op::DequantizePerChannel
                | Op::DequantizePerChannelGroup
                | Op::DequantizePerToken
                | Op::DequantizeAffine
        )
    }

    /// True if some argument is mutated in place.
    pub fn mutates(self) -> bool {
        self.schema().args.iter().any(|a| a.is_mutated())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no operator of the table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown operator `{found}`{}", .near.as_ref().map(|n| format!(": did you mean `{n}`?")).unwrap_or_default())]
pub struct UnknownOp {
    /// The name found.
    pub found: String,
    /// A name of the table that differs little.
    pub near: Option<&'static str>,
}

impl FromStr for Op {
    type Err = UnknownOp;

    fn from_str(s: &str) -> Result<Op, UnknownOp> {
        OPERATORS.iter().find(|d| d.name == s).map(|d| d.op).ok_or_else(|| {
            let base = s.split('.').next().unwrap_or(s);
            let near = OPERATORS.iter().map(|d| d.name).find(|n| n.split('.').next() == Some(base));
            UnknownOp { found: s.to_owned(), near }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_its_place_and_parses() {
        for (i, d) in OPERATORS.iter().enumerate() {
            assert_eq!(d.op as usize, i);
            Schema::parse(d.schema_text).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(d.name.parse::<Op>(), Ok(d.op));
            if d.level != Level::Structural {
                assert_eq!(Op::from_kernel_key(&d.op.schema().kernel_key()), Some(d.op));
            }
        }
        assert_eq!("aten::add".parse::<Op>().unwrap_err().near, Some("aten::add.Tensor"));
    }
}
