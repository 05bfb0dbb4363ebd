//! The kernels, written once over [`Lanes`].
//!
//! Order of sums. In [`nt`] each output element has one register of partial sums: lane `l` adds the products of
//! `k = l, l+N, l+2N, …` in that order, and [`Lanes::sum`] adds the lanes at the end. In [`nn`] each output element adds its
//! products in the order of `k`. Neither depends on the tile, on the other rows, or on how the work was split.

use super::lanes::{Lanes, Weight};
use super::{Function, NnArgs, NtArgs};

/// Length in `k` up to which six rows stay in the first-level cache beside the columns that stream by.
const K_BLOCK: usize = 768;
/// Columns of a tile where one row is multiplied: enough sums in flight to keep up with the second-level cache, few enough
/// streams for the processor's own prefetching.
const GEMV_COLUMNS: usize = 4;
/// How far beyond the tile at hand cache lines are asked for where memory is the limit, in bytes: in the order in which they
/// lie,
const PREFETCH_BYTES: usize = 4096;
/// and this in each of several rows that are very long.
const PREFETCH_ROW: usize = 1024;
/// Lanes with which rows are read one after the other,
const STREAM_LANES: usize = 16;
/// and how far ahead then.
const PREFETCH_STREAM: usize = 3072;
/// Size up to which a tile waits for its turn in the second-level cache.
const PREFETCH_TILE: usize = 128 * 1024;

#[inline(always)]
unsafe fn nt_tile<S: Lanes, W: Weight, const R: usize, const C: usize, const FAR: bool>(
    x: *const f32,
    ldx: usize,
    w: *const W,
    ldw: usize,
    k: usize,
    ahead: usize,
    acc: &mut [[S::V; C]; R],
) {
    // SAFETY: the caller's: R rows of x and C rows of w have k elements each.
    unsafe {
        let mut sums = *acc;
        let whole = k - k % S::N;
        // One row of x reads w from memory. Short rows of w are asked for in the order in which they lie, a tile ahead,
        // which the processor recognizes as one stream; long ones each further on.
        let tile = C * ldw * size_of::<W>();
        let in_order = tile <= PREFETCH_TILE;
        let mut next = w.cast::<u8>().wrapping_add(tile + PREFETCH_BYTES);
        let mut i = 0;
        while i < whole {
            let mut xv = [S::splat(0.0); R];
            for r in 0..R {
                xv[r] = S::load(x.add(r * ldx + i));
            }
            for c in 0..C {
                let row = w.add(c * ldw + i);
                if R == 1 {
                    if in_order {
                        // Once a cache line, where a register takes half of it.
                        if (c * S::N * size_of::<W>()).is_multiple_of(64) {
                            S::prefetch_far(next);
                        }
                        next = next.wrapping_add(S::N * size_of::<W>());
                    } else {
                        S::prefetch(row.cast::<u8>().wrapping_add(PREFETCH_ROW));
                    }
                }
                if R > 1 && FAR && (i * size_of::<W>()).is_multiple_of(64) {
                    S::prefetch(row.cast::<u8>().wrapping_add(ahead));
                }
                let wv = W::load::<S>(row);
                for r in 0..R {
                    sums[r][c] = S::fma(xv[r], wv, sums[r][c]);
                }
            }
            i += S::N;
        }
        let left = k - whole;
        if left > 0 {
            for c in 0..C {
                let wv = W::load_part::<S>(w.add(c * ldw + whole), left);
                for r in 0..R {
                    sums[r][c] = S::fma(S::load_part(x.add(r * ldx + whole), left, 0.0), wv, sums[r][c]);
                }
            }
        }
        *acc = sums;
    }
}

/// One row of x by C rows of w, read one after the other as one stream: for registers so wide that the chain of a row's sums
/// keeps up with memory.
#[inline(always)]
unsafe fn nt_stream<S: Lanes, W: Weight, const C: usize>(
    x: *const f32,
    w: *const W,
    ldw: usize,
    k: usize,
    acc: &mut [[S::V; C]; 1],
) {
    // SAFETY: the caller's: x has k elements and C rows of w have k each.
    unsafe {
        let whole = k - k % S::N;
        for c in 0..C {
            let row = w.add(c * ldw);
            let mut sum = acc[0][c];
            let mut i = 0;
            while i < whole {
                // Once a cache line, where a register takes half of it.
                if (i * size_of::<W>()).is_multiple_of(64) {
                    S::prefetch(row.add(i).cast::<u8>().wrapping_add(PREFETCH_STREAM));
                }
                sum = S::fma(S::load(x.add(i)), W::load::<S>(row.add(i)), sum);
                i += S::N;
            }
            if whole < k {
                let wv = W::load_part::<S>(row.add(whole), k - whole);
                sum = S::fma(S::load_part(x.add(whole), k - whole, 0.0), wv, sum);
            }
            acc[0][c] = sum;
        }
    }
}

#[inline(always)]
unsafe fn nt_finish<S: Lanes, const R: usize, const C: usize>(acc: &[[S::V; C]; R], out: *mut f32, ldo: usize) {
    // SAFETY: the caller's: R rows of out have C elements each.
    unsafe {
        for r in 0..R {
            let mut c = 0;
            while c + 4 <= C {
                let sums = S::sum4([acc[r][c], acc[r][c + 1], acc[r][c + 2], acc[r][c + 3]]);
                for (l, s) in sums.into_iter().enumerate() {
                    *out.add(r * ldo + c + l) = s;
                }
                c += 4;
            }
            while c < C {
                *out.add(r * ldo + c) = S::sum(acc[r][c]);
                c += 1;
            }
        }
    }
}

/// All columns of R rows.
#[inline(always)]
unsafe fn nt_rows<S: Lanes, W: Weight, const R: usize, const FAR: bool>(a: NtArgs<W>) {
    // SAFETY: the caller's: see `NtArgs`; every tile lies inside the block.
    unsafe {
        let zero = S::splat(0.0);
        let mut c = 0;
        if R == 1 {
            while c + GEMV_COLUMNS <= a.n {
                let mut acc = [[zero; GEMV_COLUMNS]; 1];
                if S::N == STREAM_LANES {
                    nt_stream::<S, W, GEMV_COLUMNS>(a.x, a.w.add(c * a.ldw), a.ldw, a.k, &mut acc);
                } else {
                    nt_tile::<S, W, 1, GEMV_COLUMNS, false>(a.x, a.ldx, a.w.add(c * a.ldw), a.ldw, a.k, 0, &mut acc);
                }
                nt_finish::<S, 1, GEMV_COLUMNS>(&acc, a.out.add(c), a.ldo);
                c += GEMV_COLUMNS;
            }
        }
        while c + 4 <= a.n {
            let mut acc = [[zero; 4]; R];
            nt_tile::<S, W, R, 4, FAR>(a.x, a.ldx, a.w.add(c * a.ldw), a.ldw, a.k, a.ahead, &mut acc);
            nt_finish::<S, R, 4>(&acc, a.out.add(c), a.ldo);
            c += 4;
        }
        while c < a.n {
            let mut acc = [[zero; 1]; R];
            nt_tile::<S, W, R, 1, FAR>(a.x, a.ldx, a.w.add(c * a.ldw), a.ldw, a.k, a.ahead, &mut acc);
            nt_finish::<S, R, 1>(&acc, a.out.add(c), a.ldo);
            c += 1;
        }
    }
}

/// All columns of R rows in blocks of `k`, the partial sums waiting in `scratch` meanwhile: the same sums in the same order.
#[inline(always)]
unsafe fn nt_rows_blocked<S: Lanes, W: Weight, const R: usize>(a: NtArgs<W>, scratch: &mut Vec<[[S::V; 4]; R]>) {
    // SAFETY: the caller's: see `NtArgs`; every tile lies inside the block.
    unsafe {
        let groups = a.n / 4;
        scratch.clear();
        scratch.resize(groups, [[S::splat(0.0); 4]; R]);
        let mut k0 = 0;
        while k0 < a.k {
            let k = K_BLOCK.min(a.k - k0);
            for (g, acc) in scratch.iter_mut().enumerate() {
                nt_tile::<S, W, R, 4, false>(a.x.add(k0), a.ldx, a.w.add(g * 4 * a.ldw + k0), a.ldw, k, 0, acc);
            }
            k0 += k;
        }
        for (g, acc) in scratch.iter().enumerate() {
            nt_finish::<S, R, 4>(acc, a.out.add(g * 4), a.ldo);
        }
        for c in groups * 4..a.n {
            let mut acc = [[S::splat(0.0); 1]; R];
            nt_tile::<S, W, R, 1, false>(a.x, a.ldx, a.w.add(c * a.ldw), a.ldw, a.k, 0, &mut acc);
            nt_finish::<S, R, 1>(&acc, a.out.add(c), a.ldo);
        }
    }
}

/// `out[m, n] = Σ_k x[m, k]·w[n, k]` by tiles of R rows and 4 columns, `R <= 6`.
#[inline(always)]
pub(super) unsafe fn nt<S: Lanes, W: Weight, const R: usize>(a: NtArgs<W>) {
    // SAFETY: the caller's: see `NtArgs`.
    unsafe { if a.ahead > 0 { nt_all::<S, W, R, true>(a) } else { nt_all::<S, W, R, false>(a) } }
}

/// [`nt`], asking for lines ahead if `FAR`.
#[inline(always)]
unsafe fn nt_all<S: Lanes, W: Weight, const R: usize, const FAR: bool>(a: NtArgs<W>) {
    // SAFETY: the caller's: see `NtArgs`; every group of rows lies inside the block.
    unsafe {
        let mut scratch = Vec::new();
        let mut r = 0;
        while r < a.m {
            let left = a.m - r;
            let rows = NtArgs { x: a.x.add(r * a.ldx), out: a.out.add(r * a.ldo), ..a };
            r += match left {
                1 => {
                    nt_rows::<S, W, 1, FAR>(rows);
                    1
                }
                2 if R > 2 => {
                    nt_rows::<S, W, 2, FAR>(rows);
                    2
                }
                3 if R > 3 => {
                    nt_rows::<S, W, 3, FAR>(rows);
                    3
                }
                4 if R > 4 => {
                    nt_rows::<S, W, 4, FAR>(rows);
                    4
                }
                5 if R > 5 => {
                    nt_rows::<S, W, 5, FAR>(rows);
                    5
                }
                _ if a.k > K_BLOCK => {
                    nt_rows_blocked::<S, W, R>(rows, &mut scratch);
                    R
                }
                _ => {
                    nt_rows::<S, W, R, FAR>(rows);
                    R
                }
            };
        }
    }
}

/// R rows by C registers of columns, or, with `part`, by that many columns of one register.
#[inline(always)]
unsafe fn nn_tile<S: Lanes, W: Weight, const R: usize, const C: usize, const FAR: bool>(a: NnArgs<W>, part: usize) {
    // SAFETY: the caller's: R rows of a, and C registers (or `part` elements) of each row of b and out.
    unsafe {
        let mut acc = [[S::splat(0.0); C]; R];
        if a.onto {
            for r in 0..R {
                for c in 0..C {
                    let out = a.out.add(r * a.ldo + c * S::N);
                    acc[r][c] = if part > 0 { S::load_part(out, part, 0.0) } else { S::load(out) };
                }
            }
        }
        for k in 0..a.k {
            let row = a.b.add(k * a.ldb);
            let mut bv = [S::splat(0.0); C];
            for c in 0..C {
                if FAR {
                    if (c * S::N * size_of::<W>()).is_multiple_of(64) {
                        S::prefetch(row.cast::<u8>().wrapping_add(c * S::N * size_of::<W>() + a.ahead));
                    }
                } else if R == 1 && C > 4 {
                    S::prefetch(row.wrapping_add(8 * a.ldb + c * S::N).cast());
                }
                bv[c] = if part > 0 { W::load_part::<S>(row, part) } else { W::load::<S>(row.add(c * S::N)) };
            }
            for r in 0..R {
                let av = S::splat(*a.a.add(r * a.a_row + k * a.a_col));
                for c in 0..C {
                    acc[r][c] = S::fma(av, bv[c], acc[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let out = a.out.add(r * a.ldo + c * S::N);
                if part > 0 {
                    S::store_part(out, part, acc[r][c]);
                } else {
                    S::store(out, acc[r][c]);
                }
            }
        }
    }
}

/// All rows of C registers of columns (or of `part` columns).
#[inline(always)]
unsafe fn nn_columns<S: Lanes, W: Weight, const R: usize, const C: usize, const FAR: bool>(a: NnArgs<W>, part: usize) {
    // SAFETY: the caller's: every tile lies inside the block.
    unsafe {
        let mut r = 0;
        while r < a.m {
            let left = a.m - r;
            let rows = NnArgs { a: a.a.add(r * a.a_row), out: a.out.add(r * a.ldo), ..a };
            r += match left {
                1 => {
                    nn_tile::<S, W, 1, C, FAR>(rows, part);
                    1
                }
                2 if R > 2 => {
                    nn_tile::<S, W, 2, C, FAR>(rows, part);
                    2
                }
                3 if R > 3 => {
                    nn_tile::<S, W, 3, C, FAR>(rows, part);
                    3
                }
                4 if R > 4 => {
                    nn_tile::<S, W, 4, C, FAR>(rows, part);
                    4
                }
                5 if R > 5 => {
                    nn_tile::<S, W, 5, C, FAR>(rows, part);
                    5
                }
                _ => {
                    nn_tile::<S, W, R, C, FAR>(rows, part);
                    R
                }
            };
        }
    }
}

/// `out[m, n] = Σ_k a[m, k]·b[k, n]` by tiles of R rows and C registers of columns, `R <= 6`.
#[inline(always)]
pub(super) unsafe fn nn<S: Lanes, W: Weight, const R: usize, const C: usize>(a: NnArgs<W>) {
    // SAFETY: the caller's: see `NnArgs`.
    unsafe { if a.ahead > 0 { nn_all::<S, W, R, C, true>(a) } else { nn_all::<S, W, R, C, false>(a) } }
}

/// [`nn`], asking for lines ahead if `FAR`.
#[inline(always)]
unsafe fn nn_all<S: Lanes, W: Weight, const R: usize, const C: usize, const FAR: bool>(a: NnArgs<W>) {
    // SAFETY: the caller's: see `NnArgs`; every group of columns lies inside the block.
    unsafe {
        let mut c = 0;
        let at = |c: usize| NnArgs { b: a.b.add(c), out: a.out.add(c), ..a };
        if a.m == 1 {
            // One row reads b only once: longer stretches of each of its rows, and more sums in flight.
            while c + 12 * S::N <= a.n {
                nn_tile::<S, W, 1, 12, FAR>(at(c), 0);
                c += 12 * S::N;
            }
        }
        while c + C * S::N <= a.n {
            nn_columns::<S, W, R, C, FAR>(at(c), 0);
            c += C * S::N;
        }
        while c + S::N <= a.n {
            nn_columns::<S, W, R, 1, FAR>(at(c), 0);
            c += S::N;
        }
        if c < a.n {
            nn_columns::<S, W, R, 1, FAR>(at(c), a.n - c);
        }
    }
}

/// eˣ: `x = n·ln 2 + r` with `|r| <= ln 2 / 2`, ln 2 in two parts (Cody and Waite), then Taylor's polynomial of degree 7,
/// whose remainder is below `r⁸/8!` = 5.2e-9.
#[inline(always)]
unsafe fn exp<S: Lanes>(x: S::V) -> S::V {
    // SAFETY: the caller's: the processor has the instructions.
    unsafe {
        // Below, the result rounds to 0; above, it is infinite. NaN passes: it is the second operand.
        let x = S::max(S::splat(-104.5), x);
        let x = S::min(S::splat(89.0), x);
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // 355/512 has 9 bits, so its product with n is exact; the second part is ln 2 - 355/512.
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let mut p = S::splat(1.0 / 5040.0);
        for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
            p = S::fma(p, r, S::splat(c));
        }
        S::scale2(p, n)
    }
}

/// `x = eˣ`.
#[inline(always)]
pub(super) unsafe fn exp_in_place<S: Lanes>(row: &mut [f32]) {
    let n = row.len();
    let p = row.as_mut_ptr();
    // SAFETY: the positions are below `n`; the processor has the instructions by the caller's word.
    unsafe {
        let whole = n - n % S::N;
        let mut i = 0;
        while i < whole {
            S::store(p.add(i), exp::<S>(S::load(p.add(i))));
            i += S::N;
        }
        if i < n {
            S::store_part(p.add(i), n - i, exp::<S>(S::load_part(p.add(i), n - i, 0.0)));
        }
    }
}

/// tanh x: up to 0.625 the continued fraction of Lambert, x/(1 + x²/(3 + x²/(5 + x²/(7 + x²/9)))) (DLMF 4.39.1), whose
/// error is below x¹¹/(945²·11); beyond, 1 - 2/(e²ˣ + 1) of the magnitude, with the sign of x.
#[inline(always)]
unsafe fn tanh<S: Lanes>(x: S::V) -> S::V {
    // SAFETY: the caller's: the processor has the instructions.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let square = S::mul(x, x);
        let over = S::fma(S::add(square, S::splat(105.0)), square, S::splat(945.0));
        let under = S::fma(S::fma(square, S::splat(15.0), S::splat(420.0)), square, S::splat(945.0));
        let near = S::mul(x, S::div(over, under));
        let magnitude = S::max(S::sub(zero, x), x);
        let far = S::sub(one, S::div(S::splat(2.0), S::add(exp::<S>(S::add(magnitude, magnitude)), one)));
        let far = S::select_lt(x, zero, S::sub(zero, far), far);
        S::select_lt(magnitude, S::splat(0.625), near, far)
    }
}

/// Φ(-a)·e^(a²/2)/t as a polynomial of t = 1/(1 + 0.24·a), a ≥ 0: interpolated at the Chebyshev nodes for a ≤ 15, where
/// e^(-a²/2) has left the range of f32. The relative error is below 2e-8.
const NORMAL_TAIL: [f32; 10] = [
    0.095_740_77,
    0.095_881_26,
    0.088_744_12,
    0.088_609_56,
    0.025_814_9,
    0.145_612_47,
    -0.149_046_58,
    0.208_899_24,
    -0.126_026_3,
    0.025_770_568,
];

/// x·Φ(x), Φ being the normal distribution.
#[inline(always)]
unsafe fn gelu<S: Lanes>(x: S::V) -> S::V {
    // SAFETY: the caller's: the processor has the instructions.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        let a = S::max(S::sub(zero, x), x);
        let t = S::div(one, S::fma(a, S::splat(0.24), one));
        let mut p = S::splat(NORMAL_TAIL[9]);
        for c in NORMAL_TAIL[..9].iter().rev() {
            p = S::fma(p, t, S::splat(*c));
        }
        let half = S::mul(a, S::splat(-0.5));
        let tail = S::mul(S::mul(p, t), exp::<S>(S::mul(half, a)));
        S::mul(x, S::select_lt(x, zero, tail, S::sub(one, tail)))
    }
}

/// `out = f(x)` for as many elements as both have.
#[inline(always)]
pub(super) unsafe fn map<S: Lanes>(f: Function, x: &[f32], out: &mut [f32]) {
    let n = x.len().min(out.len());
    let (from, to) = (x.as_ptr(), out.as_mut_ptr());
    macro_rules! each {
        (|$v:ident| $e:expr) => {{
            let whole = n - n % S::N;
            let mut i = 0;
            while i < whole {
                let $v = S::load(from.add(i));
                S::store(to.add(i), $e);
                i += S::N;
            }
            if i < n {
                let $v = S::load_part(from.add(i), n - i, 0.0);
                S::store_part(to.add(i), n - i, $e);
            }
        }};
    }
    // SAFETY: the positions are below `n`; the processor has the instructions by the caller's word.
    unsafe {
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        match f {
            Function::Exp => each!(|v| exp::<S>(v)),
            Function::Sigmoid => each!(|v| S::div(one, S::add(one, exp::<S>(S::sub(zero, v))))),
            Function::Silu => each!(|v| S::div(v, S::add(one, exp::<S>(S::sub(zero, v))))),
            Function::Tanh => each!(|v| tanh::<S>(v)),
            Function::Gelu => each!(|v| gelu::<S>(v)),
            Function::GeluTanh => each!(|v| {
                let cube = S::mul(S::mul(S::mul(S::splat(0.044_715), v), v), v);
                let inner = S::mul(S::splat(super::GELU_BETA), S::add(v, cube));
                S::mul(S::mul(S::splat(0.5), v), S::add(one, tanh::<S>(inner)))
            }),
        }
    }
}

/// `x = eˣ⁻ᵐᵃˣ`; gives the sum.
#[inline(always)]
pub(super) unsafe fn exp_sub_sum<S: Lanes>(row: &mut [f32], max: f32) -> f32 {
    let n = row.len();
    let p = row.as_mut_ptr();
    // SAFETY: the positions are below `n`; the processor has the instructions by the caller's word.
    unsafe {
        let m = S::splat(max);
        let mut sum = S::splat(0.0);
        let whole = n - n % S::N;
        let mut i = 0;
        while i < whole {
            let e = exp::<S>(S::sub(S::load(p.add(i)), m));
            S::store(p.add(i), e);
            sum = S::add(sum, e);
            i += S::N;
        }
        if i < n {
            let e = exp::<S>(S::sub(S::load_part(p.add(i), n - i, f32::NEG_INFINITY), m));
            S::store_part(p.add(i), n - i, e);
            sum = S::add(sum, e);
        }
        S::sum(sum)
    }
}

/// The largest element that is not NaN; -∞ if there is none.
#[inline(always)]
pub(super) unsafe fn row_max<S: Lanes>(row: &[f32]) -> f32 {
    let n = row.len();
    let p = row.as_ptr();
    let mut lanes = [f32::NEG_INFINITY; 16];
    // SAFETY: the positions are below `n`; the processor has the instructions by the caller's word.
    unsafe {
        let whole = n - n % S::N;
        let mut m = [S::splat(f32::NEG_INFINITY); 2];
        let mut i = 0;
        while i < whole {
            let at = (i / S::N) % 2;
            // The second operand is what is kept where the first is NaN.
            m[at] = S::max(S::load(p.add(i)), m[at]);
            i += S::N;
        }
        if i < n {
            m[0] = S::max(S::load_part(p.add(i), n - i, f32::NEG_INFINITY), m[0]);
        }
        S::store(lanes.as_mut_ptr(), S::max(m[0], m[1]));
    }
    // Halves against each other, which takes a few instructions where a chain would take one after the other. None is NaN.
    let mut half = lanes.len() / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = if lanes[i + half] > lanes[i] { lanes[i + half] } else { lanes[i] };
        }
        half /= 2;
    }
    lanes[0]
}

/// Independent chains of multiply-adds, for measuring: executes `rounds`·12·`N` of them.
#[inline(always)]
pub(super) unsafe fn fma_chains<S: Lanes>(rounds: usize) -> f32 {
    // SAFETY: the processor has the instructions by the caller's word.
    unsafe {
        // Unknown to the compiler, so that the loop is not computed in advance.
        let (a, b) = (S::splat(std::hint::black_box(0.999)), S::splat(std::hint::black_box(1e-3)));
        let mut acc = [S::splat(1.0); 12];
        for _ in 0..rounds {
            for v in &mut acc {
                *v = S::fma(*v, a, b);
            }
        }
        let mut total = acc[0];
        for v in &acc[1..] {
            total = S::add(total, *v);
        }
        S::sum(total)
    }
}

/// Reads every element once, in `STREAMS` parts side by side, for measuring. With `AHEAD`, cache lines are asked for that
/// many bytes before they are read.
#[inline(always)]
pub(super) unsafe fn read_all<S: Lanes, const STREAMS: usize, const AHEAD: usize>(data: &[f32]) -> f32 {
    let step = 8 * S::N;
    let part = data.len() / STREAMS;
    // SAFETY: the positions are below the length; the processor has the instructions by the caller's word.
    unsafe {
        let mut acc = [S::splat(0.0); 8];
        let mut i = 0;
        while i + step <= part {
            for s in 0..STREAMS {
                let p = data.as_ptr().add(s * part + i);
                for (c, v) in acc.iter_mut().enumerate() {
                    let at = p.add(c * S::N);
                    if AHEAD > 0 {
                        S::prefetch(at.cast::<u8>().wrapping_add(AHEAD));
                    }
                    *v = S::add(*v, S::load(at));
                }
            }
            i += step;
        }
        let mut total = acc[0];
        for v in &acc[1..] {
            total = S::add(total, *v);
        }
        let rest = |s: usize| {
            (s * part + i..(s + 1) * part).chain(STREAMS * part..if s + 1 == STREAMS { data.len() } else { 0 })
        };
        S::sum(total) + (0..STREAMS).flat_map(rest).map(|at| data[at]).sum::<f32>()
    }
}
