//! Attention: `llama::custom_sdpa`, `llama::sdpa_with_kv_cache` and `aten::scaled_dot_product_attention`.
//!
//! f32, f16 and bf16, summed in f32 and rounded once; keys and values as codes of 8 bits as well. A query's result is the same bit for bit whatever the number of
//! queries computed with it and the number of threads.

mod cache;
mod core;

use half::{bf16, f16};
use pteron_tensor::{B8, DType, Shape, View, ViewMut};

use self::core::{Codes, Inputs, Mask, MaskData, Problem, Rows, Source};
use crate::matmul::gemm::Rounded;
use crate::operand::{Operand, row_major, write_row_major};
use crate::quant::Coded;
use crate::simd::MatrixElement;
use crate::{Context, KernelError, KernelResult};

/// The attributes of `custom_sdpa`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SdpaOptions {
    /// The query at position `i` sees keys `0..=i` only. Excludes a mask.
    pub is_causal: bool,
    /// Multiplies `q·kᵀ`; 1/√D by default.
    pub scale: Option<f64>,
    /// The query at position `i` sees keys `j` with `i - window < j <= i` only; at least 1. Excludes a mask.
    pub sliding_window: Option<usize>,
    /// Operands are `[B, H, S, D]`, not `[B, S, H, D]`.
    pub is_seq_at_dim_2: bool,
}

fn fail<T>(op: &'static str, reason: String) -> Result<T, KernelError> {
    Err(KernelError::new(op, reason))
}

/// Sizes and strides of an operand as batch, heads, positions, dimension.
#[derive(Clone, Copy)]
struct Dims {
    batch: usize,
    heads: usize,
    len: usize,
    width: usize,
}

impl Dims {
    fn of(sizes: &[usize], seq_at_dim_2: bool) -> Option<Dims> {
        let &[batch, a, b, width] = sizes else { return None };
        let (heads, len) = if seq_at_dim_2 { (a, b) } else { (b, a) };
        Some(Dims { batch, heads, len, width })
    }
}

/// Strides of batch, head, position from those of the operand.
fn place(strides: &[usize], seq_at_dim_2: bool) -> [usize; 3] {
    if seq_at_dim_2 { [strides[0], strides[1], strides[2]] } else { [strides[0], strides[2], strides[1]] }
}

/// An operand as rows: its own memory if each row is contiguous there.
fn rows_of<'a, T: MatrixElement>(view: &View<'a>) -> Option<Operand<'a, T>> {
    let contiguous_rows = view.sizes().last() == Some(&1) || view.strides().last() == Some(&1);
    if contiguous_rows { Operand::of(view) } else { Operand::copied(view) }
}

fn rows<'a, T: Clone>(operand: &'a Operand<'_, T>, seq_at_dim_2: bool) -> Rows<'a, T> {
    let [batch, head, pos] = place(&operand.strides, seq_at_dim_2);
    Rows { data: &operand.data, batch, head, pos }
}

/// A mask's elements, kept for as long as the operator works.
enum MaskOperand<'a> {
    Add(Operand<'a, f32>),
    Keep(Operand<'a, B8>),
}

impl<'a> MaskOperand<'a> {
    fn of(op: &'static str, view: &View<'a>) -> Result<MaskOperand<'a>, KernelError> {
        let read = match view.dtype() {
            DType::Bool => Operand::of(view).map(MaskOperand::Keep),
            _ => Operand::widened(view).map(MaskOperand::Add),
        };
        read.ok_or_else(|| KernelError::new(op, format!("a mask of {}: a float or bool expected", view.dtype())))
    }

    /// Broadcast to four dimensions: stride 0 for those that are missing or of size 1.
    fn mask(&self, sizes: &[usize]) -> Mask<'_> {
        let (data, strides) = match self {
            MaskOperand::Add(o) => (MaskData::Add(&o.data), &o.strides),
            MaskOperand::Keep(o) => (MaskData::Keep(&o.data), &o.strides),
        };
        let mut of4 = [0; 4];
        for (d, slot) in of4.iter_mut().enumerate() {
            if let Some(at) = (d + sizes.len()).checked_sub(4)
                && sizes[at] != 1
            {
                *slot = strides[at];
            }
        }
        Mask { data, strides: of4 }
    }
}

/// Attention over the first `start_pos + S` rows of `k` and `v`, or with a mask over all of them (`llama::custom_sdpa`).
///
/// `q` and `out` are `[B, S, Hq, D]`, `k` and `v` `[B, S_max, Hkv, D]` (usually the caches, already updated), or the layouts of
/// [`SdpaOptions::is_seq_at_dim_2`]; `Hkv` divides `Hq`, and query head `h` uses key head `h / (Hq / Hkv)`. `mask` is
/// `[S, S_max]` of a float type, added to the scaled scores. All operands have one type of f32, f16, bf16. A query that sees
/// no key, or only keys with -∞, gives NaN, as ExecuTorch's operator does.
///
/// # Errors
/// Sizes or element types that do not fit together; a mask together with `is_causal` or a window; a position outside `k`.
pub fn custom_sdpa(
    ctx: &Context,
    q: &View<'_>,
    k: &View<'_>,
    v: &View<'_>,
    start_pos: i64,
    mask: Option<&View<'_>>,
    options: SdpaOptions,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    custom("llama::custom_sdpa", ctx, q, [k, v], None, start_pos, mask, options, out)
}

/// [`custom_sdpa`] with queries in f32 and keys and values as codes, which become numbers block by block.
///
/// # Errors
/// As [`custom_sdpa`]; scales or zero points that do not fit the codes.
pub(crate) fn custom_coded(
    op: &'static str,
    ctx: &Context,
    q: &View<'_>,
    kv: [&Coded<'_>; 2],
    start_pos: i64,
    mask: Option<&View<'_>>,
    options: SdpaOptions,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    for c in kv {
        c.check()?;
    }
    custom(op, ctx, q, [&kv[0].codes, &kv[1].codes], Some(kv), start_pos, mask, options, out)
}

fn custom(
    op: &'static str,
    ctx: &Context,
    q: &View<'_>,
    [k, v]: [&View<'_>; 2],
    coded: Option<[&Coded<'_>; 2]>,
    start_pos: i64,
    mask: Option<&View<'_>>,
    options: SdpaOptions,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let seq2 = options.is_seq_at_dim_2;
    let dims = |v: &View<'_>| Dims::of(v.sizes(), seq2);
    let (Some(dq), Some(dk), Some(dv)) = (dims(q), dims(k), dims(v)) else {
        return fail(op, format!("ranks {}, {}, {} of q, k, v: 4 expected", q.rank(), k.rank(), v.rank()));
    };
    if out.sizes().len() != 4 || out.sizes()[..3] != q.sizes()[..3] || out.sizes()[3] != dv.width {
        return fail(
            op,
            format!("output sizes {:?} for queries {:?} and values {:?}", out.sizes(), q.sizes(), v.sizes()),
        );
    }
    if dk.batch != dq.batch || dv.batch != dq.batch || dk.heads != dv.heads || dk.len != dv.len || dk.width != dq.width
    {
        return fail(op, format!("sizes {:?}, {:?}, {:?} of q, k, v do not fit", q.sizes(), k.sizes(), v.sizes()));
    }
    if mask.is_some() && (options.is_causal || options.sliding_window.is_some()) {
        return fail(op, "a mask excludes is_causal and a sliding window".to_owned());
    }
    if options.sliding_window == Some(0) {
        return fail(op, "a sliding window of 0 keys: 1 or more expected".to_owned());
    }
    let end = usize::try_from(start_pos).ok().and_then(|s| s.checked_add(dq.len));
    let Some((start, end)) = end.filter(|&e| e <= dk.len).map(|e| (e - dq.len, e)) else {
        return fail(op, format!("start_pos {start_pos} with {} queries: {} keys are there", dq.len, dk.len));
    };
    if let Some(m) = mask
        && (m.sizes() != [dq.len, dk.len] || !m.dtype().is_float())
    {
        return fail(
            op,
            format!("a {} mask of sizes {:?}: a float one of [{}, {}] expected", m.dtype(), m.sizes(), dq.len, dk.len),
        );
    }
    let keys = if mask.is_some() { dk.len } else { end };
    let bounds = Bounds {
        start,
        keys,
        causal: options.is_causal || options.sliding_window.is_some(),
        window: options.sliding_window,
        empty_is_zero: false,
    };
    let layout = Layout::row_major(seq2, out);
    attend(op, ctx, [q, k, v], coded, [dq, dk, dv], layout, bounds, mask, options.scale, out)
}

/// Writes `k` and `v` into the caches from position `start_pos` on, then attends over the caches
/// (`llama::sdpa_with_kv_cache`). `seq_len` is the number of new positions, as in `q`; caches are `[B, S_max, Hkv, D]`, the
/// rest as in [`custom_sdpa`].
///
/// # Errors
/// As [`custom_sdpa`]; rows that do not fit into a cache. The caches are unchanged then.
pub fn sdpa_with_kv_cache(
    ctx: &Context,
    q: &View<'_>,
    k: &View<'_>,
    v: &View<'_>,
    key_cache: &mut ViewMut<'_>,
    value_cache: &mut ViewMut<'_>,
    start_pos: i64,
    seq_len: i64,
    mask: Option<&View<'_>>,
    options: SdpaOptions,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    const OP: &str = "llama::sdpa_with_kv_cache";
    let seq2 = options.is_seq_at_dim_2;
    let have = Dims::of(q.sizes(), seq2).map(|d| d.len);
    if have.is_none_or(|n| usize::try_from(seq_len) != Ok(n)) {
        return fail(OP, format!("seq_len {seq_len} for queries of sizes {:?}", q.sizes()));
    }
    let key_rows = cache::plan(OP, k, &key_cache.as_view(), start_pos, seq2)?;
    let value_rows = cache::plan(OP, v, &value_cache.as_view(), start_pos, seq2)?;
    cache::write(k, key_cache, key_rows, seq2);
    cache::write(v, value_cache, value_rows, seq2);
    let caches = [&key_cache.as_view(), &value_cache.as_view()];
    custom(OP, ctx, q, caches, None, start_pos, mask, options, out)
}

/// `softmax(scale·q·kᵀ + mask)·v` (`aten::scaled_dot_product_attention` without dropout).
///
/// `q` is `[B, Hq, S, D]`, `k` `[B, Hkv, T, D]`, `v` `[B, Hkv, T, Dv]`, `out` `[B, Hq, S, Dv]`; leading dimensions may be
/// missing in all of them. `attn_mask` broadcasts to `[B, Hq, S, T]`: a float one is added to the scaled scores, in a bool
/// one false hides. `is_causal` lets query `i` see keys `0..=i` (aligned at the first key) and excludes a mask. Without
/// `enable_gqa` `Hkv` equals `Hq`. A query whose keys are all hidden gives 0, as in PyTorch since 2.5.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn scaled_dot_product_attention(
    ctx: &Context,
    q: &View<'_>,
    k: &View<'_>,
    v: &View<'_>,
    attn_mask: Option<&View<'_>>,
    is_causal: bool,
    scale: Option<f64>,
    enable_gqa: bool,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    const OP: &str = "aten::scaled_dot_product_attention";
    let rank = q.rank();
    if !(2..=4).contains(&rank) || [k.rank(), v.rank(), out.rank()] != [rank; 3] {
        return fail(
            OP,
            format!("ranks {rank}, {}, {}, {}: one rank from 2 to 4 expected", k.rank(), v.rank(), out.rank()),
        );
    }
    // Missing leading dimensions have size 1.
    let widen = |sizes: &[usize], strides: &[usize]| {
        let lead = 4 - sizes.len();
        let mut s = Shape::from_elem(1, lead);
        let mut t = Shape::from_elem(0, lead);
        s.extend_from_slice(sizes);
        t.extend_from_slice(strides);
        (s, t)
    };
    let (qs, qt) = widen(q.sizes(), q.strides());
    let (ks, kt) = widen(k.sizes(), k.strides());
    let (vs, vt) = widen(v.sizes(), v.strides());
    let (Some(dq), Some(dk), Some(dv)) = (Dims::of(&qs, true), Dims::of(&ks, true), Dims::of(&vs, true)) else {
        return fail(OP, "operands of rank 4 expected".to_owned());
    };
    let heads_fit = dk.heads == dv.heads && (dk.heads == dq.heads || enable_gqa);
    if dk.batch != dq.batch || dv.batch != dq.batch || !heads_fit || dk.len != dv.len || dk.width != dq.width {
        return fail(OP, format!("sizes {:?}, {:?}, {:?} of q, k, v do not fit", q.sizes(), k.sizes(), v.sizes()));
    }
    if out.sizes()[..rank - 1] != q.sizes()[..rank - 1] || out.sizes()[rank - 1] != dv.width {
        return fail(
            OP,
            format!("output sizes {:?} for queries {:?} and values {:?}", out.sizes(), q.sizes(), v.sizes()),
        );
    }
    if is_causal && attn_mask.is_some() {
        return fail(OP, "a mask excludes is_causal".to_owned());
    }
    if let Some(m) = attn_mask {
        let scores = [dq.batch, dq.heads, dq.len, dk.len];
        let fits = m.rank() <= 4 && m.sizes().iter().rev().zip(scores.iter().rev()).all(|(&a, &b)| a == b || a == 1);
        if !fits {
            return fail(OP, format!("a mask of sizes {:?} does not broadcast to {scores:?}", m.sizes()));
        }
    }
    let [q, k, v] = &[reshaped(OP, q, &qs, &qt)?, reshaped(OP, k, &ks, &kt)?, reshaped(OP, v, &vs, &vt)?];
    let bounds = Bounds { start: 0, keys: dk.len, causal: is_causal, window: None, empty_is_zero: true };
    let layout = Layout::row_major(true, out);
    attend(OP, ctx, [q, k, v], None, [dq, dk, dv], layout, bounds, attn_mask, scale, out)
}

/// What [`heads`] computes, of views whose elements may lie anywhere.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a> {
    /// `[1, Hq, S, D]`.
    pub q: View<'a>,
    /// `[1, Hkv, T, D]`.
    pub k: View<'a>,
    /// `[1, Hkv, T, Dv]`.
    pub v: View<'a>,
    /// Added to the scaled scores; broadcasts to `[1, Hq, S, T]`.
    pub mask: Option<View<'a>>,
    /// Multiplies `q·kᵀ`.
    pub scale: f64,
    /// What a query whose keys are all hidden gives: 0, else NaN.
    pub empty_is_zero: bool,
    /// Distances in the result between heads and between positions.
    pub out: [usize; 2],
}

/// `softmax(scale·q·kᵀ + mask)·v` into `out`, row-major of any sizes, where each head's row of each position is put where
/// [`Heads::out`] says.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn heads(ctx: &Context, x: &Heads<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    const OP: &str = "aten::scaled_dot_product_attention";
    let dims = |v: &View<'_>| Dims::of(v.sizes(), true);
    let (Some(dq), Some(dk), Some(dv)) = (dims(&x.q), dims(&x.k), dims(&x.v)) else {
        return fail(OP, "operands of rank 4 expected".to_owned());
    };
    let fits = [dq.batch, dk.batch, dv.batch] == [1; 3]
        && (dk.heads, dk.len, dk.width) == (dv.heads, dv.len, dq.width)
        && out.numel() == dq.heads * dq.len * dv.width
        && out.is_contiguous();
    if !fits {
        let sizes = [x.q.sizes(), x.k.sizes(), x.v.sizes(), out.sizes()];
        return fail(OP, format!("sizes {sizes:?} of q, k, v and the result do not fit"));
    }
    if let Some(m) = &x.mask {
        let scores = [1, dq.heads, dq.len, dk.len];
        let fits = m.rank() <= 4 && m.sizes().iter().rev().zip(scores.iter().rev()).all(|(&a, &b)| a == b || a == 1);
        if !fits {
            return fail(OP, format!("a mask of sizes {:?} does not broadcast to {scores:?}", m.sizes()));
        }
    }
    let bounds = Bounds { start: 0, keys: dk.len, causal: false, window: None, empty_is_zero: x.empty_is_zero };
    let layout = Layout { seq_at_dim_2: true, out: [0, x.out[0], x.out[1]] };
    let qkv = [&x.q, &x.k, &x.v];
    attend(OP, ctx, qkv, None, [dq, dk, dv], layout, bounds, x.mask.as_ref(), Some(x.scale), out)
}

/// How operands lie.
#[derive(Clone, Copy)]
struct Layout {
    seq_at_dim_2: bool,
    /// Distances in the result between batch entries, heads and positions.
    out: [usize; 3],
}

impl Layout {
    /// That of a row-major result.
    fn row_major(seq_at_dim_2: bool, out: &ViewMut<'_>) -> Layout {
        let strides = row_major(out.sizes());
        let out = match strides.len() {
            4 => place(&strides, seq_at_dim_2),
            // Leading dimensions that are missing.
            3 => [0, strides[0], strides[1]],
            _ => [0, 0, strides.first().copied().unwrap_or(0)],
        };
        Layout { seq_at_dim_2, out }
    }
}

/// The same elements with other sizes and strides.
fn reshaped<'a>(
    op: &'static str,
    view: &View<'a>,
    sizes: &'a [usize],
    strides: &'a [usize],
) -> Result<View<'a>, KernelError> {
    View::new(view.dtype(), sizes, strides, view.bytes()).map_err(|e| KernelError::new(op, e.to_string()))
}

struct Bounds {
    start: usize,
    keys: usize,
    causal: bool,
    window: Option<usize>,
    empty_is_zero: bool,
}

/// The common part, after the sizes have been checked.
fn attend(
    op: &'static str,
    ctx: &Context,
    qkv: [&View<'_>; 3],
    coded: Option<[&Coded<'_>; 2]>,
    [dq, dk, dv]: [Dims; 3],
    layout: Layout,
    bounds: Bounds,
    mask: Option<&View<'_>>,
    scale: Option<f64>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    if out.numel() == 0 {
        return Ok(());
    }
    if dk.heads == 0 || dq.heads % dk.heads != 0 {
        return fail(op, format!("{} query heads are no multiple of {} key heads", dq.heads, dk.heads));
    }
    let dtype = qkv[0].dtype();
    let same = qkv[1..].iter().all(|v| v.dtype() == if coded.is_some() { DType::I8 } else { dtype });
    if !same || out.dtype() != dtype || (coded.is_some() && dtype != DType::F32) {
        let [q, k, v] = qkv.map(|v| v.dtype());
        return fail(op, format!("types {q}, {k}, {v} of q, k, v into {}: one type expected", out.dtype()));
    }
    let operand = mask.map(|m| MaskOperand::of(op, m)).transpose()?;
    let problem = Problem {
        batches: dq.batch,
        query_heads: dq.heads,
        kv_heads: dk.heads,
        queries: dq.len,
        keys: bounds.keys,
        width: dq.width,
        value_width: dv.width,
        scale: scale.unwrap_or_else(|| 1.0 / (dq.width as f64).sqrt()) as f32,
        start: bounds.start,
        causal: bounds.causal,
        window: bounds.window,
        mask: operand.as_ref().zip(mask).map(|(o, view)| o.mask(view.sizes())),
        empty_is_zero: bounds.empty_is_zero,
    };
    let done = match dtype {
        DType::F32 if coded.is_some() => coded.and_then(|kv| of_codes(ctx, &problem, qkv[0], kv, layout, out)),
        DType::F32 => typed::<f32>(ctx, &problem, qkv, layout, out),
        DType::F16 => typed::<f16>(ctx, &problem, qkv, layout, out),
        DType::BF16 => typed::<bf16>(ctx, &problem, qkv, layout, out),
        _ => None,
    };
    done.ok_or_else(|| KernelError::new(op, format!("no kernel for {dtype}: f32, f16 or bf16 expected")))
}

fn typed<T: MatrixElement + Rounded>(
    ctx: &Context,
    problem: &Problem<'_>,
    [q, k, v]: [&View<'_>; 3],
    layout: Layout,
    out: &mut ViewMut<'_>,
) -> Option<()> {
    let (q, k, v) = (rows_of::<T>(q)?, rows_of::<T>(k)?, rows_of::<T>(v)?);
    let at = layout.seq_at_dim_2;
    let inputs = Inputs { q: rows(&q, at), k: Source::Plain(rows(&k, at)), v: Source::Plain(rows(&v, at)) };
    write_row_major::<T, _>(out, |all| core::run(ctx, problem, &inputs, all, layout.out))
}

fn of_codes(
    ctx: &Context,
    problem: &Problem<'_>,
    q: &View<'_>,
    kv: [&Coded<'_>; 2],
    layout: Layout,
    out: &mut ViewMut<'_>,
) -> Option<()> {
    let at = layout.seq_at_dim_2;
    let q = rows_of::<f32>(q)?;
    let parts = kv.map(|c| {
        let codes = match c.codes.strides().last() {
            Some(1) => Operand::<i8>::of(&c.codes),
            _ => Operand::copied(&c.codes),
        };
        Some((codes?, Operand::<f32>::of(&c.scales)?, Operand::<i8>::of(&c.zero_points)?))
    });
    let [Some(k), Some(v)] = &parts else { return None };
    let inputs = Inputs { q: rows(&q, at), k: codes_of(k, at), v: codes_of(v, at) };
    write_row_major::<f32, _>(out, |all| core::run(ctx, problem, &inputs, all, layout.out))
}

/// Codes with their scales and zero points.
type CodedOperand<'a> = (Operand<'a, i8>, Operand<'a, f32>, Operand<'a, i8>);

fn codes_of<'a>((codes, scales, zero_points): &'a CodedOperand<'_>, seq_at_dim_2: bool) -> Source<'a, f32> {
    let at = seq_at_dim_2;
    Source::Codes(Codes { codes: rows(codes, at), scales: rows(scales, at), zero_points: rows(zero_points, at) })
}
