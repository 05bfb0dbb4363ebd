//! Matrix products: `linear`, `mm`, `addmm`, `bmm`, `matmul`.
//!
//! Element types. f16, bf16 and f32 operands are multiplied and summed in f32, and the result is rounded once. All operands
//! of a product have one type, except that an f32 left-hand operand takes an f16 or bf16 right-hand one with an f32 result
//! (weights kept small). f64 and integers are summed in their own type, integers wrapping.
//!
//! Each element of a result is the same whatever the number of rows, their position and the number of threads: a row
//! computed alone equals that row computed among others bit for bit. It does depend on how the right-hand operand lies in
//! memory and on the instruction set, within the tolerance of a reassociated sum.
//!
//! Where the processor multiplies pairs of bf16 (AVX512-BF16), a linear layer of bf16 uses that. It rounds after each
//! addition, takes subnormal numbers as 0, and adds in the order that `simd/dot.rs` says: still f32 sums of exact products,
//! rounded to bf16 once.

mod exact;
pub(crate) mod gemm;
mod panels;
mod several;

use std::borrow::Cow;

use half::{bf16, f16};
use pteron_tensor::{DType, Scalar, Shape, View, ViewMut};

use crate::operand::{Operand, write_row_major};
use crate::simd::{DotFn, MatrixElement};
use crate::{Context, KernelError, KernelResult};
use exact::{Matrix, Ring};
use gemm::{Blend, Dot, Epilogue, Gemm, Layout, Rounded};
pub use panels::Panels;
pub use several::{Layer, linears};

fn check(op: &'static str, ok: bool, reason: impl FnOnce() -> String) -> KernelResult {
    if ok { Ok(()) } else { Err(KernelError::new(op, reason())) }
}

/// True for the element types that are summed in f32.
fn summed_in_f32(d: DType) -> bool {
    matches!(d, DType::F32 | DType::F16 | DType::BF16)
}

/// The types of a product fit together.
fn check_dtypes(op: &'static str, a: DType, b: DType, out: DType) -> KernelResult {
    let mixed = a == DType::F32 && summed_in_f32(b) && out == DType::F32;
    let known = !matches!(a, DType::Bool | DType::I4);
    check(op, mixed || (known && a == b && a == out), || {
        format!("no product of {a} by {b} into {out}: operands have one type, or f32 by f16 or bf16 into f32")
    })
}

/// `out[…, n] = Σ_k x[…, k]·weight[n, k] + bias[n]` (`aten::linear`).
///
/// `x` is `[…, K]` of any rank from 1, `weight` `[N, K]`, `bias` `[N]`, `out` `[…, N]`. The bias may be f32 beside operands of
/// f16 or bf16; it is added before the rounding.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn linear(
    ctx: &Context,
    x: &View<'_>,
    weight: &View<'_>,
    bias: Option<&View<'_>>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    const OP: &str = "aten::linear";
    check_dtypes(OP, x.dtype(), weight.dtype(), out.dtype())?;
    check(OP, x.rank() >= 1 && weight.rank() == 2, || {
        format!("an input of rank {} and a weight of rank {}: 1 or more, and 2, expected", x.rank(), weight.rank())
    })?;
    let (lead, k) = x.sizes().split_at(x.rank() - 1);
    let (k, n) = (k[0], weight.sizes()[0]);
    check(OP, weight.sizes()[1] == k, || {
        format!("input sizes {:?} and weight sizes {:?} differ in their last", x.sizes(), weight.sizes())
    })?;
    check(OP, bias.is_none_or(|b| b.sizes() == [n]), || {
        format!("bias sizes {:?}: [{n}] expected", bias.map(|b| b.sizes()).unwrap_or_default())
    })?;
    let mut expected = Shape::from_slice(lead);
    expected.push(n);
    check(OP, out.sizes() == expected.as_slice(), || format!("output sizes {:?}: {expected:?} expected", out.sizes()))?;
    let m: usize = lead.iter().product();
    // Seen as one matrix: rows a fixed distance apart, or a copy.
    let flat = x.is_contiguous() || x.rank() <= 2;
    let copy;
    let x = if flat {
        *x
    } else {
        copy = pteron_tensor::Tensor::copy_of(x);
        copy.view()
    };
    let row = if x.rank() == 2 && !x.is_contiguous() { x.strides()[0] } else { k };
    let col = x.strides().last().copied().filter(|_| k != 1).unwrap_or(1);
    let bias_dtype = bias.map_or(x.dtype(), |b| b.dtype());
    if summed_in_f32(x.dtype()) {
        check(OP, summed_in_f32(bias_dtype), || format!("a bias of {bias_dtype} beside operands of {}", x.dtype()))?;
        let bias = bias.and_then(Operand::widened);
        let bias: Option<Vec<f32>> =
            bias.map(|b| (0..n).map(|i| b.data[i * b.strides.first().copied().unwrap_or(1)]).collect());
        let epilogue = Epilogue { bias: bias.as_deref(), blend: None };
        let pairs = [x.dtype(), weight.dtype(), out.dtype()] == [DType::BF16; 3];
        if let Some(kernel) = ctx.kernels().dot()
            && pairs
            && (weight.strides()[1] == 1 || k <= 1)
        {
            return dot_linear(ctx, kernel, &x, (row, col), weight, [m, n, k], epilogue, out)
                .ok_or_else(|| KernelError::new(OP, "operands whose elements do not lie in their memory".to_owned()));
        }
        // The operand's strides may be those of a copy: only f32 is used in place.
        let (row, col) = if x.dtype() == DType::F32 { (row, col) } else { (k, 1) };
        let a = widened_rows(OP, &x, row, col, k)?;
        let w_strides = [weight.strides()[1], weight.strides()[0]];
        let mats = Mats { m, n, k, a: &a, starts: &[(0, 0)] };
        return by_type(ctx, OP, &mats, weight, w_strides, epilogue, out);
    }
    check(OP, bias_dtype == x.dtype(), || format!("a bias of {bias_dtype} beside operands of {}", x.dtype()))?;
    ctx.note_scalar();
    macro_rules! exact {
        ($($d:ident: $t:ty),*) => {
            match x.dtype() {
                $(DType::$d => exact_linear::<$t>(&x, weight, bias, out, [m, n, k]),)*
                _ => None,
            }
        };
    }
    exact!(F64: f64, I64: i64, I32: i32, I16: i16, U16: u16, I8: i8, U8: u8)
        .ok_or_else(|| KernelError::new(OP, format!("no kernel for {}", x.dtype())))
}

/// [`linear`] of bf16 by pairs: no operand is widened. Elements that are not aligned, and rows that are not contiguous, are
/// copied.
fn dot_linear(
    ctx: &Context,
    kernel: DotFn<bf16>,
    x: &View<'_>,
    (row, col): (usize, usize),
    weight: &View<'_>,
    [m, n, k]: [usize; 3],
    epilogue: Epilogue<'_>,
    out: &mut ViewMut<'_>,
) -> Option<()> {
    let (x, ldx): (Cow<'_, [bf16]>, usize) = match x.as_strided::<bf16>() {
        Some(all) if col == 1 => (Cow::Borrowed(all), row),
        _ => (Operand::<bf16>::copied(x)?.data, k),
    };
    let (w, ldw): (Cow<'_, [bf16]>, usize) = match weight.as_strided::<bf16>() {
        Some(all) => (Cow::Borrowed(all), weight.strides()[0]),
        None => (Operand::<bf16>::copied(weight)?.data, k),
    };
    let g = Dot { m, n, k, x: &x, ldx, w: &w, ldw };
    write_row_major::<bf16, _>(out, |all| gemm::run_dot(ctx, kernel, &g, epilogue, all))
}

fn exact_linear<T: Ring>(
    x: &View<'_>,
    weight: &View<'_>,
    bias: Option<&View<'_>>,
    out: &mut ViewMut<'_>,
    [m, n, k]: [usize; 3],
) -> Option<()> {
    let x = Operand::<T>::copied(x)?;
    let w = Operand::<T>::of(weight)?;
    let bias = match bias {
        Some(b) => Some(Operand::<T>::copied(b)?),
        None => None,
    };
    let a = Matrix { data: &x.data, start: 0, row: k, col: 1 };
    let b = Matrix { data: &w.data, start: 0, row: w.strides[1], col: w.strides[0] };
    write_row_major::<T, _>(out, |all| {
        exact::product(a, b, all, m, n, k);
        if let Some(bias) = bias {
            for row in all.chunks_exact_mut(n.max(1)) {
                for (o, &b) in row.iter_mut().zip(bias.data.iter()) {
                    *o = T::mul_add(*o, T::of(Scalar::Int(1)), b);
                }
            }
        }
    })
}

/// The left-hand operand in f32.
struct Left<'a> {
    data: Cow<'a, [f32]>,
    row: usize,
    col: usize,
}

/// `view` in f32: in place if it is f32, with the strides given; else a copy with rows of `k`.
fn widened_rows<'a>(
    op: &'static str,
    view: &View<'a>,
    row: usize,
    col: usize,
    k: usize,
) -> Result<Left<'a>, KernelError> {
    let wrong = || KernelError::new(op, format!("an operand of {} is not summed in f32", view.dtype()));
    let o = Operand::widened(view).ok_or_else(wrong)?;
    let in_place = matches!(o.data, Cow::Borrowed(_));
    Ok(if in_place { Left { data: o.data, row, col } } else { Left { data: o.data, row: k, col: 1 } })
}

/// Sizes and left-hand side of a batch of products.
struct Mats<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: &'a Left<'a>,
    starts: &'a [(usize, usize)],
}

/// Chooses the kernels by the types of the right-hand operand and the output. `b_strides` are those along `k` and `n`.
fn by_type(
    ctx: &Context,
    op: &'static str,
    mats: &Mats<'_>,
    b: &View<'_>,
    b_strides: [usize; 2],
    epilogue: Epilogue<'_>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    let done = match (b.dtype(), out.dtype()) {
        (DType::F32, DType::F32) => products::<f32, f32>(ctx, mats, b, b_strides, epilogue, out),
        (DType::F16, DType::F32) => products::<f16, f32>(ctx, mats, b, b_strides, epilogue, out),
        (DType::BF16, DType::F32) => products::<bf16, f32>(ctx, mats, b, b_strides, epilogue, out),
        (DType::F16, DType::F16) => products::<f16, f16>(ctx, mats, b, b_strides, epilogue, out),
        (DType::BF16, DType::BF16) => products::<bf16, bf16>(ctx, mats, b, b_strides, epilogue, out),
        _ => None,
    };
    done.ok_or_else(|| KernelError::new(op, format!("no kernel for {} into {}", b.dtype(), out.dtype())))
}

fn products<W: MatrixElement, O: Rounded>(
    ctx: &Context,
    mats: &Mats<'_>,
    b: &View<'_>,
    [b_k, b_n]: [usize; 2],
    epilogue: Epilogue<'_>,
    out: &mut ViewMut<'_>,
) -> Option<()> {
    let Mats { m, n, k, a, starts } = *mats;
    // Bytes that are not aligned for their type are copied, as far as the products reach.
    let mut b_data = match b.as_strided::<W>() {
        Some(all) => Cow::Borrowed(all),
        None => {
            let last = starts.iter().map(|s| s.1).max().unwrap_or(0);
            let reach = if n == 0 || k == 0 { 0 } else { last + (k - 1) * b_k + (n - 1) * b_n + 1 };
            (b.dtype() == W::DTYPE).then_some(())?;
            Cow::Owned(bytemuck::pod_collect_to_vec(b.bytes().get(..reach.checked_mul(size_of::<W>())?)?))
        }
    };
    let (rows_of_k, rows_of_n) = (b_k == 1 || k <= 1, b_n == 1 || n <= 1);
    let mut b_starts = None;
    let (layout, ldb) = if rows_of_k && (n <= 1 || !rows_of_n) {
        (Layout::Transposed, b_n)
    } else if rows_of_n {
        (Layout::Plain, b_k)
    } else {
        // Neither way do the elements lie in rows: each matrix is copied to rows of `n`.
        let mut distinct: Vec<usize> = starts.iter().map(|s| s.1).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let mut rows = Vec::with_capacity(distinct.len() * k * n);
        for &start in &distinct {
            for i in 0..k {
                rows.extend((0..n).map(|j| b_data[start + i * b_k + j * b_n]));
            }
        }
        let moved = |s: &(usize, usize)| distinct.binary_search(&s.1).map(|at| (s.0, at * k * n));
        b_starts = Some(starts.iter().map(moved).collect::<Result<Vec<_>, _>>().ok()?);
        b_data = Cow::Owned(rows);
        (Layout::Plain, n)
    };
    let mut starts_now = b_starts.unwrap_or_else(|| starts.to_vec());
    let (mut a_data, mut a_row, mut a_col) = (Cow::Borrowed(&*a.data), a.row, a.col);
    if layout == Layout::Transposed && a_col != 1 && k > 1 {
        let mut rows = Vec::with_capacity(starts_now.len() * m * k);
        for (start, _) in &mut starts_now {
            let from = *start;
            *start = rows.len();
            for i in 0..m {
                rows.extend((0..k).map(|l| a_data[from + i * a_row + l * a_col]));
            }
        }
        (a_data, a_row, a_col) = (Cow::Owned(rows), k, 1);
    }
    if k <= 1 {
        a_col = 1;
    }
    let g = Gemm { m, n, k, a: &a_data, a_row, a_col, b: &b_data, ldb, layout, starts: &starts_now };
    write_row_major::<O, _>(out, |all| gemm::run(ctx, &g, epilogue, all))
}

/// `out = a·b` for matrices (`aten::mm`): `a` is `[M, K]`, `b` `[K, N]`, `out` `[M, N]`; views with any strides.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn mm(ctx: &Context, a: &View<'_>, b: &View<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    const OP: &str = "aten::mm";
    check(OP, a.rank() == 2 && b.rank() == 2, || {
        format!("operands of sizes {:?} and {:?}: two matrices expected", a.sizes(), b.sizes())
    })?;
    batched(ctx, OP, a, b, None, out)
}

/// `out = a·b` for each of a batch (`aten::bmm`): `a` is `[B, M, K]`, `b` `[B, K, N]`, `out` `[B, M, N]`.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn bmm(ctx: &Context, a: &View<'_>, b: &View<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    const OP: &str = "aten::bmm";
    check(OP, a.rank() == 3 && b.rank() == 3 && a.sizes()[0] == b.sizes()[0], || {
        format!("operands of sizes {:?} and {:?}: two equal batches of matrices expected", a.sizes(), b.sizes())
    })?;
    batched(ctx, OP, a, b, None, out)
}

/// `out = a·b` (`aten::matmul` of operands of rank 2 and more): `a` is `[…, M, K]`, `b` `[…, K, N]`; the leading dimensions
/// are broadcast against each other.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn matmul(ctx: &Context, a: &View<'_>, b: &View<'_>, out: &mut ViewMut<'_>) -> KernelResult {
    const OP: &str = "aten::matmul";
    check(OP, a.rank() >= 2 && b.rank() >= 2, || {
        format!("operands of sizes {:?} and {:?}: rank 2 or more expected", a.sizes(), b.sizes())
    })?;
    batched(ctx, OP, a, b, None, out)
}

/// `out = beta·c + alpha·(a·b)` (`aten::addmm`): `a` is `[M, K]`, `b` `[K, N]`, `c` broadcasts to `[M, N]`. With `beta` 0 the
/// contents of `c` do not matter, not even a NaN. The factors are taken in f32 for element types summed in f32 (with one
/// rounding at the end), else in the operands' type.
///
/// # Errors
/// Sizes or element types that do not fit together.
pub fn addmm(
    ctx: &Context,
    c: &View<'_>,
    a: &View<'_>,
    b: &View<'_>,
    beta: Scalar,
    alpha: Scalar,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    const OP: &str = "aten::addmm";
    check(OP, a.rank() == 2 && b.rank() == 2, || {
        format!("operands of sizes {:?} and {:?}: two matrices expected", a.sizes(), b.sizes())
    })?;
    let (m, n) = (a.sizes()[0], b.sizes()[1]);
    let dims = c.sizes().iter().rev().zip([n, m]);
    check(OP, c.rank() <= 2 && dims.clone().all(|(&have, want)| have == want || have == 1), || {
        format!("a summand of sizes {:?} does not broadcast to [{m}, {n}]", c.sizes())
    })?;
    check(OP, c.dtype() == out.dtype(), || format!("a summand of {} for an output of {}", c.dtype(), out.dtype()))?;
    batched(ctx, OP, a, b, Some(AddMm { c, beta, alpha }), out)
}

struct AddMm<'a> {
    c: &'a View<'a>,
    beta: Scalar,
    alpha: Scalar,
}

/// Strides of `strides` along the last two dimensions with 0 where `sizes` broadcasts.
fn broadcast_strides(sizes: &[usize], strides: &[usize]) -> (usize, usize) {
    let of = |d: usize| {
        let at = sizes.len().checked_sub(d)?;
        (sizes[at] != 1).then_some(strides[at])
    };
    (of(2).unwrap_or(0), of(1).unwrap_or(0))
}

/// Where each product's operands begin, in elements, with the leading dimensions broadcast; `None` if they do not.
fn batch_starts(
    a: &[usize],
    a_strides: &[usize],
    b: &[usize],
    b_strides: &[usize],
) -> Option<(Shape, Vec<(usize, usize)>)> {
    let (la, lb) = (a.len() - 2, b.len() - 2);
    let rank = la.max(lb);
    let dim = |sizes: &[usize], strides: &[usize], lead: usize, d: usize| match (d + lead).checked_sub(rank) {
        Some(at) => (sizes[at], strides[at]),
        None => (1, 0),
    };
    let mut lead = Shape::new();
    let mut starts = vec![(0, 0)];
    for d in 0..rank {
        let ((sa, ta), (sb, tb)) = (dim(a, a_strides, la, d), dim(b, b_strides, lb, d));
        let size = if sa == sb || sb == 1 {
            sa
        } else if sa == 1 {
            sb
        } else {
            return None;
        };
        let (ta, tb) = (if sa == 1 { 0 } else { ta }, if sb == 1 { 0 } else { tb });
        lead.push(size);
        starts = starts.iter().flat_map(|&(x, y)| (0..size).map(move |i| (x + i * ta, y + i * tb))).collect();
    }
    Some((lead, starts))
}

fn batched(
    ctx: &Context,
    op: &'static str,
    a: &View<'_>,
    b: &View<'_>,
    add: Option<AddMm<'_>>,
    out: &mut ViewMut<'_>,
) -> KernelResult {
    check_dtypes(op, a.dtype(), b.dtype(), out.dtype())?;
    let (ra, rb) = (a.rank(), b.rank());
    let (m, k, n) = (a.sizes()[ra - 2], a.sizes()[ra - 1], b.sizes()[rb - 1]);
    let mismatch = || format!("sizes {:?} and {:?} make no product", a.sizes(), b.sizes());
    check(op, b.sizes()[rb - 2] == k, mismatch)?;
    let in_f32 = summed_in_f32(a.dtype());
    // Sizes first, then places: an operand that is copied on the way has other strides.
    let left;
    let (a_op, a_strides) = if in_f32 {
        let o = Operand::widened(a).ok_or_else(|| KernelError::new(op, mismatch()))?;
        let strides = o.strides.clone();
        left = Left { data: o.data, row: strides[ra - 2], col: strides[ra - 1] };
        (Some(&left), strides)
    } else {
        (None, Shape::from_slice(a.strides()))
    };
    let (lead, starts) =
        batch_starts(a.sizes(), &a_strides, b.sizes(), b.strides()).ok_or_else(|| KernelError::new(op, mismatch()))?;
    let mut expected = lead;
    expected.extend([m, n]);
    check(op, out.sizes() == expected.as_slice(), || format!("output sizes {:?}: {expected:?} expected", out.sizes()))?;
    if out.numel() == 0 {
        return Ok(());
    }
    if let Some(left) = a_op {
        let c = match &add {
            Some(add) => Some(Operand::widened(add.c).ok_or_else(|| KernelError::new(op, mismatch()))?),
            None => None,
        };
        let blend = add.as_ref().zip(c.as_ref()).map(|(add, c)| {
            let (row, col) = broadcast_strides(add.c.sizes(), &c.strides);
            Blend { c: &c.data, row, col, alpha: add.alpha.as_f64() as f32, beta: add.beta.as_f64() as f32 }
        });
        let mats = Mats { m, n, k, a: left, starts: &starts };
        let b_strides = [b.strides()[rb - 2], b.strides()[rb - 1]];
        return by_type(ctx, op, &mats, b, b_strides, Epilogue { bias: None, blend }, out);
    }
    ctx.note_scalar();
    macro_rules! exact {
        ($($d:ident: $t:ty),*) => {
            match a.dtype() {
                $(DType::$d => exact_batched::<$t>(a, b, add, out, [m, n, k]),)*
                _ => None,
            }
        };
    }
    exact!(F64: f64, I64: i64, I32: i32, I16: i16, U16: u16, I8: i8, U8: u8)
        .ok_or_else(|| KernelError::new(op, format!("no kernel for {}", a.dtype())))
}

fn exact_batched<T: Ring>(
    a: &View<'_>,
    b: &View<'_>,
    add: Option<AddMm<'_>>,
    out: &mut ViewMut<'_>,
    [m, n, k]: [usize; 3],
) -> Option<()> {
    let (ra, rb) = (a.rank(), b.rank());
    let (x, y) = (Operand::<T>::of(a)?, Operand::<T>::of(b)?);
    let (_, starts) = batch_starts(a.sizes(), &x.strides, b.sizes(), &y.strides)?;
    let c = match &add {
        Some(add) => Some((Operand::<T>::of(add.c)?, T::of(add.beta), T::of(add.alpha))),
        None => None,
    };
    write_row_major::<T, _>(out, |all| {
        for (&(xs, ys), block) in starts.iter().zip(all.chunks_exact_mut((m * n).max(1))) {
            let left = Matrix { data: &x.data, start: xs, row: x.strides[ra - 2], col: x.strides[ra - 1] };
            let right = Matrix { data: &y.data, start: ys, row: y.strides[rb - 2], col: y.strides[rb - 1] };
            exact::product(left, right, block, m, n, k);
            if let (Some((c, beta, alpha)), Some(add)) = (&c, &add) {
                let (row, col) = broadcast_strides(add.c.sizes(), &c.strides);
                for (i, o) in block.iter_mut().enumerate() {
                    let product = T::mul_add(T::zeroed(), *alpha, *o);
                    let summand = c.data[i / n * row + i % n * col];
                    *o = if add.beta.as_bool() { T::mul_add(product, *beta, summand) } else { product };
                }
            }
        }
    })
}
