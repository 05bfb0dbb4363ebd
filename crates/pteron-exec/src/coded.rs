//! Executing linear layers with packed weights.

use std::borrow::Cow;
use std::cell::RefCell;

use pteron_ir::ValueId;
use pteron_kernels::Context;
use pteron_kernels::elementwise::{self, Operand};
use pteron_kernels::nn::Lines;
use pteron_kernels::packed::{Activations, Choose, DynamicQuant, Packed, Product, Rows, multiply};
use pteron_kernels::quant::QuantSemantics;
use pteron_kernels::quant::qparams::Mapping;
use pteron_kernels::quant::quantize::Form;
use pteron_tensor::{DType, Scalar, Tensor, View, ViewMut, cast_bytes};
use smallvec::SmallVec;

use crate::fuse::{Param, Rule, Source};

thread_local! {
    /// Codes of the activations at hand.
    static ROWS: RefCell<Rows> = RefCell::default();
    /// Floats that are computed for layers that take them as they are.
    static FLOATS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// A layer with its operands: the weight, the bias, where the result goes.
pub(crate) type Layer<'a> = (&'a Packed, Option<View<'a>>, ViewMut<'a>);

/// The row-major elements of `v` in f32.
pub(crate) fn floats<'a>(v: &View<'a>) -> Result<Cow<'a, [f32]>, String> {
    if let Some(s) = v.as_slice::<f32>() {
        return Ok(Cow::Borrowed(s));
    }
    let copy = Tensor::copy_of(v);
    let mut out = vec![0f32; v.numel()];
    cast_bytes(copy.bytes(), v.dtype(), bytemuck::cast_slice_mut(&mut out), DType::F32, v.numel())
        .ok_or_else(|| format!("an operand is {}, expected floats", v.dtype()))?;
    Ok(Cow::Owned(out))
}

fn dynamic(rule: Rule, semantics: QuantSemantics) -> DynamicQuant {
    let eager = semantics == QuantSemantics::Eager;
    match rule {
        Rule::PerToken => DynamicQuant {
            choose: Choose::PerToken(semantics),
            form: if eager { Form::LastF64 } else { Form::ExecuTorch },
            range: (-128, 127),
        },
        Rule::PerTensor { range, eps } => DynamicQuant {
            choose: Choose::PerTensor(semantics, eps),
            form: if eager { Form::First } else { Form::ExecuTorch },
            range,
        },
        Rule::Affine { mapping, range, eps } => {
            DynamicQuant { choose: Choose::Affine { mapping, eps }, form: Form::First, range }
        }
        Rule::Parts { range, eps, double, .. } => DynamicQuant {
            choose: Choose::Affine { mapping: Mapping::Asymmetric, eps },
            form: match (eager, double) {
                (false, _) => Form::ExecuTorch,
                (true, true) => Form::FirstF64,
                (true, false) => Form::First,
            },
            range,
        },
        Rule::Qd8 => DynamicQuant { choose: Choose::Qd8, form: Form::First, range: (-128, 127) },
    }
}

fn products<'a, 'o>(ctx: &Context, x: &Activations<'_>, layers: &'a mut [Layer<'o>]) -> Result<(), String> {
    let biases =
        layers.iter().map(|l| l.1.as_ref().map(floats).transpose()).collect::<Result<SmallVec<[_; 3]>, _>>()?;
    let mut list: SmallVec<[Product<'_, '_>; 3]> = layers
        .iter_mut()
        .zip(&biases)
        .map(|((weight, _, out), bias)| Product { weight, bias: bias.as_deref(), out: out.reborrow() })
        .collect();
    multiply(ctx, x, &mut list).map_err(|e| e.reason)
}

/// `x·weightᵀ + bias` of each layer, `x` floats.
pub(crate) fn of_floats(ctx: &Context, x: &View<'_>, layers: &mut [Layer<'_>]) -> Result<(), String> {
    let m = x.sizes().split_last().map_or(1, |(_, lead)| lead.iter().product());
    products(ctx, &Activations::Floats(&floats(x)?, m), layers)
}

/// `beta·c + alpha·(x·weightᵀ)`, `x` floats, `c` of any sizes that broadcast.
pub(crate) fn add_product(
    ctx: &Context,
    c: &View<'_>,
    x: &View<'_>,
    weight: &Packed,
    (beta, alpha): (f64, f64),
    mut out: ViewMut<'_>,
) -> Result<(), String> {
    let failed = |e: pteron_kernels::KernelError| e.reason;
    let mut product = Tensor::zeros(DType::F32, out.sizes()).map_err(|e| e.to_string())?;
    of_floats(ctx, x, &mut [(weight, None, product.view_mut())])?;
    let mut wide = Tensor::zeros(DType::F32, out.sizes()).map_err(|e| e.to_string())?;
    let c = Operand::View(*c);
    if beta == 0.0 {
        elementwise::mul(ctx, Operand::View(product.view()), Operand::Scalar(Scalar::Float(alpha)), wide.view_mut())
            .map_err(failed)?;
    } else {
        let mut scaled = Tensor::zeros(DType::F32, out.sizes()).map_err(|e| e.to_string())?;
        let one = Operand::View(product.view());
        elementwise::mul(ctx, one, Operand::Scalar(Scalar::Float(alpha)), scaled.view_mut()).map_err(failed)?;
        elementwise::add(ctx, Operand::View(scaled.view()), c, Scalar::Float(beta), wide.view_mut()).map_err(failed)?;
    }
    elementwise::to_copy(ctx, wide.view(), out.reborrow()).map_err(failed)
}

fn with_rows(f: &mut dyn FnMut(&mut Rows) -> Result<(), String>) -> Result<(), String> {
    ROWS.with(|r| match r.try_borrow_mut() {
        Ok(mut rows) => f(&mut rows),
        Err(_) => f(&mut Rows::default()),
    })
}

/// `x·weightᵀ + bias` of each layer, `x` the floats or quantized floats that `source` says, as computed by `lines`.
pub(crate) fn of_lines(
    ctx: &Context,
    semantics: QuantSemantics,
    source: &Source,
    lines: &Lines<'_>,
    layers: &mut [Layer<'_>],
) -> Result<(), String> {
    match *source {
        Source::Dynamic { rule, .. } => with_rows(&mut |rows| {
            rows.quantize(ctx, lines, &dynamic(rule, semantics)).map_err(|e| e.reason)?;
            products(ctx, &Activations::Codes(rows), layers)
        }),
        Source::Floats(_) => {
            let [m, k] = lines.sizes();
            let mut all = FLOATS.take();
            all.resize(m * k, 0.0);
            let done = lines.write(ctx, &mut all).map_err(|e| e.reason);
            let done = done.and_then(|()| products(ctx, &Activations::Floats(&all, m), layers));
            FLOATS.set(all);
            done
        }
        Source::Codes { .. } => Err("codes are not computed from floats".to_owned()),
    }
}

/// The same as [`of_floats`], `x` as `source` says.
pub(crate) fn execute<'a>(
    ctx: &Context,
    semantics: QuantSemantics,
    source: &Source,
    view: &dyn Fn(ValueId) -> Result<View<'a>, String>,
    layers: &mut [Layer<'_>],
) -> Result<(), String> {
    match *source {
        Source::Floats(x) => of_floats(ctx, &view(x)?, layers),
        Source::Dynamic { x, .. } => {
            let x = view(x)?;
            let Some((&k, lead)) = x.sizes().split_last() else { return Err("activations have no dimension".into()) };
            let values = floats(&x)?;
            let lines = Lines::floats(&values, [lead.iter().product(), k]).map_err(|e| e.reason)?;
            of_lines(ctx, semantics, source, &lines, layers)
        }
        Source::Codes { codes, scales, zero_points } => {
            let codes = view(codes)?;
            let numbers = |p: Param| match p {
                Param::Number(n) => Ok::<_, String>(vec![n]),
                Param::Value(v) => Ok(view(v)?.to_f64_vec()),
            };
            let scales = numbers(scales)?;
            let zeros = zero_points.map_or(Ok(vec![0.0]), numbers)?;
            with_rows(&mut |rows| {
                let whole: Vec<i64> = zeros.iter().map(|&z| z as i64).collect();
                let exact = zeros.iter().zip(&whole).all(|(z, &w)| *z == w as f64);
                if exact && rows.take(&codes, &scales, &whole).map_err(|e| e.reason)? {
                    return products(ctx, &Activations::Codes(rows), layers);
                }
                // A zero point that is no code: as floats.
                let k = codes.sizes().last().copied().unwrap_or(1).max(1);
                let of =
                    |list: &[f64], row: usize| list.get(if list.len() == 1 { 0 } else { row }).copied().unwrap_or(0.0);
                let real = |(i, q): (usize, f64)| (q as f32 - of(&zeros, i / k) as f32) * of(&scales, i / k) as f32;
                let x: Vec<f32> = codes.to_f64_vec().into_iter().enumerate().map(real).collect();
                products(ctx, &Activations::Floats(&x, x.len() / k), layers)
            })
        }
    }
}
