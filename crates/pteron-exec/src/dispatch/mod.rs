//! From operators to kernels.

mod args;
mod quant;

use pteron_ir::{Level, Op};
use pteron_kernels::attention::SdpaOptions;
use pteron_kernels::elementwise::{self as ew, Gelu, Operand, RoundingMode};
use pteron_kernels::nn::{self, ConvParams, RopeStyle};
use pteron_kernels::quant::QuantSemantics;
use pteron_kernels::{Context, KernelError, attention, index, matmul, reduce, shape_ops};
use pteron_tensor::{Scalar, View, ViewMut};
use smallvec::SmallVec;

use args::Args;
pub(crate) use args::Resolved;

/// True if a node of this operator can be executed: by a kernel, as a scalar, as control flow or by a delegate.
pub fn has_kernel(op: Op) -> bool {
    match op.def().level {
        Level::Kernel | Level::HighLevel => true,
        Level::Structural => op != Op::Custom,
    }
}

type Outs<'a> = SmallVec<[ViewMut<'a>; 3]>;

fn one(outs: Outs<'_>) -> Result<ViewMut<'_>, String> {
    outs.into_iter().next().ok_or_else(|| "the node has no output".to_owned())
}

/// The outputs, exactly `N` of them.
fn exactly<const N: usize>(outs: Outs<'_>) -> Result<[ViewMut<'_>; N], String> {
    let n = outs.len();
    let list: Vec<_> = outs.into_vec();
    list.try_into().map_err(|_| format!("{n} outputs, {N} expected"))
}

fn text(e: KernelError) -> String {
    e.reason
}

/// Runs the kernel of `op`. Arguments are in the order of the schema's inputs; `outs` are the node's outputs, of which the
/// new version of a mutated argument is that argument's own memory.
pub(crate) fn call(
    ctx: &Context,
    semantics: QuantSemantics,
    op: Op,
    args: &[Resolved<'_>],
    outs: Outs<'_>,
) -> Result<(), String> {
    let a = Args(args);
    let result = match op {
        Op::Add => ew::add(ctx, a.operand(0)?, a.operand(1)?, a.scalar(2)?, one(outs)?),
        Op::Sub => ew::sub(ctx, a.operand(0)?, a.operand(1)?, a.scalar(2)?, one(outs)?),
        Op::AddScalar => ew::add(ctx, a.operand(0)?, a.operand(1)?, a.scalar(2)?, one(outs)?),
        Op::SubScalar => ew::sub(ctx, a.operand(0)?, a.operand(1)?, a.scalar(2)?, one(outs)?),
        Op::Mul | Op::MulScalar => ew::mul(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Div | Op::DivScalar => ew::div(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::DivMode => {
            let mode = match a.optional_str(2)? {
                None => None,
                Some("floor") => Some(RoundingMode::Floor),
                Some("trunc") => Some(RoundingMode::Trunc),
                Some(other) => return Err(format!("rounding_mode is `{other}`, expected `floor` or `trunc`")),
            };
            ew::div_mode(ctx, a.operand(0)?, a.operand(1)?, mode, one(outs)?)
        }
        Op::Maximum => ew::maximum(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Minimum => ew::minimum(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::PowScalar | Op::PowTensor => ew::pow(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Eq | Op::EqScalar => ew::eq(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Ne | Op::NeScalar => ew::ne(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Lt | Op::LtScalar => ew::lt(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Le | Op::LeScalar => ew::le(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Gt | Op::GtScalar => ew::gt(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::Ge | Op::GeScalar => ew::ge(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::LogicalNot => ew::logical_not(ctx, a.view(0)?, one(outs)?),
        Op::LogicalAnd => ew::logical_and(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::LogicalOr => ew::logical_or(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::LogicalXor => ew::logical_xor(ctx, a.operand(0)?, a.operand(1)?, one(outs)?),
        Op::IsNan => ew::isnan(ctx, a.view(0)?, one(outs)?),
        Op::IsInf => ew::isinf(ctx, a.view(0)?, one(outs)?),
        Op::Where => ew::where_self(ctx, a.view(0)?, a.operand(1)?, a.operand(2)?, one(outs)?),
        Op::Clamp => ew::clamp(ctx, a.view(0)?, a.optional_scalar(1)?, a.optional_scalar(2)?, one(outs)?),
        Op::Neg => ew::neg(ctx, a.view(0)?, one(outs)?),
        Op::Abs => ew::abs(ctx, a.view(0)?, one(outs)?),
        Op::Relu => ew::relu(ctx, a.view(0)?, one(outs)?),
        Op::Floor => ew::floor(ctx, a.view(0)?, one(outs)?),
        Op::Ceil => ew::ceil(ctx, a.view(0)?, one(outs)?),
        Op::Round => ew::round(ctx, a.view(0)?, one(outs)?),
        Op::Sqrt => ew::sqrt(ctx, a.view(0)?, one(outs)?),
        Op::Rsqrt => ew::rsqrt(ctx, a.view(0)?, one(outs)?),
        Op::Reciprocal => ew::reciprocal(ctx, a.view(0)?, one(outs)?),
        Op::Exp => ew::exp(ctx, a.view(0)?, one(outs)?),
        Op::Log => ew::log(ctx, a.view(0)?, one(outs)?),
        Op::Sin => ew::sin(ctx, a.view(0)?, one(outs)?),
        Op::Cos => ew::cos(ctx, a.view(0)?, one(outs)?),
        Op::Tanh => ew::tanh(ctx, a.view(0)?, one(outs)?),
        Op::Sigmoid => ew::sigmoid(ctx, a.view(0)?, one(outs)?),
        Op::Silu => ew::silu(ctx, a.view(0)?, one(outs)?),
        Op::Gelu => {
            let kind = match a.optional_str(1)? {
                None | Some("none") => Gelu::None,
                Some("tanh") => Gelu::Tanh,
                Some(other) => return Err(format!("approximate is `{other}`, expected `none` or `tanh`")),
            };
            ew::gelu(ctx, a.view(0)?, kind, one(outs)?)
        }
        Op::Full => ew::full(ctx, &a.ints(0)?, a.scalar(1)?, one(outs)?),
        Op::FullLike => ew::full_like(ctx, a.view(0)?, a.scalar(1)?, one(outs)?),
        Op::ScalarTensor => ew::scalar_tensor(ctx, a.scalar(0)?, one(outs)?),
        Op::Arange => ew::arange(ctx, a.scalar(0)?, a.scalar(1)?, a.scalar(2)?, one(outs)?),
        Op::ToCopy | Op::ToDimOrderCopy => ew::to_copy(ctx, a.view(0)?, one(outs)?),
        Op::Clone | Op::CloneDimOrder => ew::clone(ctx, a.view(0)?, one(outs)?),
        Op::CopyInto => ew::copy(ctx, a.view(1)?, one(outs)?),
        Op::ViewCopy => {
            let out = one(outs)?;
            let sizes = as_i64(out.sizes());
            shape_ops::view_copy(ctx, a.view(0)?, &sizes, out)
        }
        Op::UnsqueezeCopy => shape_ops::unsqueeze_copy(ctx, a.view(0)?, a.int(1)?, one(outs)?),
        Op::SqueezeDimsCopy => shape_ops::squeeze_copy(ctx, a.view(0)?, &a.ints(1)?, one(outs)?),
        Op::SqueezeDimCopy => shape_ops::squeeze_copy(ctx, a.view(0)?, &[a.int(1)?], one(outs)?),
        Op::PermuteCopy => shape_ops::permute_copy(ctx, a.view(0)?, &a.ints(1)?, one(outs)?),
        Op::TransposeCopy => {
            let x = a.view(0)?;
            let rank = i64::try_from(x.rank()).unwrap_or(0);
            let mut dims: SmallVec<[i64; 6]> = (0..rank).collect();
            let at = |d: i64| usize::try_from(if d < 0 { d + rank } else { d }).ok().filter(|&d| d < x.rank());
            if let (Some(i), Some(j)) = (at(a.int(1)?), at(a.int(2)?)) {
                dims.swap(i, j);
            }
            shape_ops::permute_copy(ctx, x, &dims, one(outs)?)
        }
        Op::ExpandCopy => {
            let out = one(outs)?;
            let sizes = as_i64(out.sizes());
            shape_ops::expand_copy(ctx, a.view(0)?, &sizes, out)
        }
        Op::SliceCopy => {
            let (start, end) = (a.optional_int(2)?, a.optional_int(3)?);
            shape_ops::slice_copy(ctx, a.view(0)?, a.int(1)?, start, end, a.int(4)?, one(outs)?)
        }
        Op::SelectCopy => shape_ops::select_copy(ctx, a.view(0)?, a.int(1)?, a.int(2)?, one(outs)?),
        Op::Cat => shape_ops::cat(ctx, &a.views(0)?, a.int(1)?, one(outs)?),
        Op::SplitWithSizesCopy => {
            let mut outs = outs.into_vec();
            shape_ops::split_with_sizes(ctx, a.view(0)?, &a.ints(1)?, a.int(2)?, &mut outs)
        }
        Op::Repeat => shape_ops::repeat(ctx, a.view(0)?, &a.ints(1)?, one(outs)?),
        Op::Flip => shape_ops::flip(ctx, a.view(0)?, &a.ints(1)?, one(outs)?),
        Op::CopyIndex => shape_ops::copy_index(ctx, a.view(1)?, a.int(2)?, one(outs)?),
        Op::Sum => reduce::sum(ctx, a.view(0)?, &a.ints_or_all(1)?, a.bool(2)?, one(outs)?),
        Op::Mean => reduce::mean(ctx, a.view(0)?, &a.ints_or_all(1)?, a.bool(2)?, one(outs)?),
        Op::Amax => reduce::amax(ctx, a.view(0)?, &a.ints_or_all(1)?, a.bool(2)?, one(outs)?),
        Op::Amin => reduce::amin(ctx, a.view(0)?, &a.ints_or_all(1)?, a.bool(2)?, one(outs)?),
        Op::Argmax => reduce::argmax(ctx, a.view(0)?, a.optional_int(1)?, a.bool(2)?, one(outs)?),
        Op::Argmin => reduce::argmin(ctx, a.view(0)?, a.optional_int(1)?, a.bool(2)?, one(outs)?),
        Op::MaxDim => {
            let [values, indices] = exactly(outs)?;
            reduce::max_dim(ctx, a.view(0)?, a.int(1)?, a.bool(2)?, values, indices)
        }
        Op::MinDim => {
            let [values, indices] = exactly(outs)?;
            reduce::min_dim(ctx, a.view(0)?, a.int(1)?, a.bool(2)?, values, indices)
        }
        Op::AnyDim => reduce::any_dim(ctx, a.view(0)?, a.int(1)?, a.bool(2)?, one(outs)?),
        Op::AnyAll => reduce::any(ctx, a.view(0)?, one(outs)?),
        Op::Softmax => reduce::softmax(ctx, a.view(0)?, a.int(1)?, a.bool(2)?, one(outs)?),
        Op::LogSoftmax => reduce::log_softmax(ctx, a.view(0)?, a.int(1)?, a.bool(2)?, one(outs)?),
        Op::TopK => {
            let [values, indices] = exactly(outs)?;
            reduce::topk(ctx, a.view(0)?, a.int(1)?, a.int(2)?, a.bool(3)?, a.bool(4)?, values, indices)
        }
        Op::CumSum => reduce::cumsum(ctx, a.view(0)?, a.int(1)?, one(outs)?),
        Op::Embedding => index::embedding(ctx, a.view(0)?, a.view(1)?, one(outs)?),
        Op::Index => index::index(ctx, a.view(0)?, &a.optional_views(1)?, one(outs)?),
        Op::IndexPut => index::index_put(ctx, a.view(0)?, &a.optional_views(1)?, a.view(2)?, a.bool(3)?, one(outs)?),
        Op::IndexPutInto => index::index_put_inplace(ctx, one(outs)?, &a.optional_views(1)?, a.view(2)?, a.bool(3)?),
        Op::IndexSelect => index::index_select(ctx, a.view(0)?, a.int(1)?, a.view(2)?, one(outs)?),
        Op::Gather => index::gather(ctx, a.view(0)?, a.int(1)?, a.view(2)?, one(outs)?),
        Op::Linear => {
            let (x, w, bias) = (a.view(0)?, a.view(1)?, a.optional_view(2)?);
            matmul::linear(ctx, &x, &w, bias.as_ref(), &mut one(outs)?)
        }
        Op::Mm => matmul::mm(ctx, &a.view(0)?, &a.view(1)?, &mut one(outs)?),
        Op::AddMm => {
            let (c, x, y) = (a.view(0)?, a.view(1)?, a.view(2)?);
            matmul::addmm(ctx, &c, &x, &y, a.scalar(3)?, a.scalar(4)?, &mut one(outs)?)
        }
        Op::Bmm => matmul::bmm(ctx, &a.view(0)?, &a.view(1)?, &mut one(outs)?),
        Op::Convolution => {
            let (stride, padding, dilation) = (a.ints(3)?, a.ints(4)?, a.ints(5)?);
            let params = ConvParams {
                stride: &stride,
                padding: &padding,
                dilation: &dilation,
                transposed: a.bool(6)?,
                groups: a.int(8)?,
            };
            nn::convolution(ctx, a.view(0)?, a.view(1)?, a.optional_view(2)?, &params, one(outs)?)
        }
        Op::LayerNorm => {
            let [out, mean, rstd] = exactly(outs)?;
            let (w, b) = (a.optional_view(2)?, a.optional_view(3)?);
            nn::native_layer_norm(ctx, a.view(0)?, &a.ints(1)?, w, b, a.float(4)?, out, mean, rstd)
        }
        Op::UpsampleNearest2d => {
            let factors = match a.optional_floats(2)? {
                None => None,
                Some([h, w]) => Some([*h, *w]),
                Some(other) => return Err(format!("{} scale_factors, expected 2", other.len())),
            };
            nn::upsample_nearest2d(ctx, a.view(0)?, factors, one(outs)?)
        }
        Op::RmsNorm => nn::rms_norm(ctx, a.view(0)?, a.optional_view(2)?, a.float(3)?, one(outs)?),
        Op::Rope => {
            let style = if a.bool(3)? { RopeStyle::Interleaved } else { RopeStyle::HalfSplit };
            nn::rope(ctx, a.view(0)?, a.view(1)?, a.view(2)?, style, one(outs)?)
        }
        Op::Sdpa => {
            let mask = a.optional_view(3)?;
            no_dropout(a.float(4)?)?;
            let (causal, scale, gqa) = (a.bool(5)?, a.optional_float(6)?, a.bool(7)?);
            attention::scaled_dot_product_attention(
                ctx,
                &a.view(0)?,
                &a.view(1)?,
                &a.view(2)?,
                mask.as_ref(),
                causal,
                scale,
                gqa,
                &mut one(outs)?,
            )
        }
        Op::UpdateCache => {
            let [unused, cache] = exactly(outs)?;
            // ExecuTorch's operator has a result that nobody reads.
            ew::fill(ctx, Scalar::Int(0), unused).map_err(text)?;
            index::update_cache(ctx, a.view(0)?, cache, a.int(2)?)
        }
        Op::CustomSdpa => {
            let mask = a.optional_view(4)?;
            no_dropout(a.float(5)?)?;
            let options = SdpaOptions { is_causal: a.bool(6)?, scale: a.optional_float(7)?, ..SdpaOptions::default() };
            attention::custom_sdpa(
                ctx,
                &a.view(0)?,
                &a.view(1)?,
                &a.view(2)?,
                a.int(3)?,
                mask.as_ref(),
                options,
                &mut one(outs)?,
            )
        }
        Op::SdpaWithKvCache => {
            let [mut out, mut keys, mut values] = exactly(outs)?;
            let mask = a.optional_view(7)?;
            no_dropout(a.float(8)?)?;
            let options = SdpaOptions { is_causal: a.bool(9)?, scale: a.optional_float(10)?, ..SdpaOptions::default() };
            attention::sdpa_with_kv_cache(
                ctx,
                &a.view(0)?,
                &a.view(1)?,
                &a.view(2)?,
                &mut keys,
                &mut values,
                a.int(5)?,
                a.int(6)?,
                mask.as_ref(),
                options,
                &mut out,
            )
        }
        other => return quant::call(ctx, semantics, other, &a, outs),
    };
    result.map_err(text)
}

fn no_dropout(p: f64) -> Result<(), String> {
    if p == 0.0 { Ok(()) } else { Err(format!("dropout is {p}, expected 0 at inference")) }
}

fn as_i64(sizes: &[usize]) -> SmallVec<[i64; 6]> {
    sizes.iter().map(|&s| i64::try_from(s).unwrap_or(i64::MAX)).collect()
}
