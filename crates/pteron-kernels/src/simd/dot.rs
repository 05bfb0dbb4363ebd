//! Products of two bf16 matrices by the instruction that multiplies pairs and adds both products to an f32
//! (`vdpbf16ps`, AVX512-BF16).
//!
//! Order of sums. Each output element has four partial sums: sum `l` adds the products of the pairs
//! `k = 2·(l + 4·i), 2·(l + 4·i) + 1` for `i = 0, 1, …` in that order, the second of a pair before the first, as the
//! instruction does; the result is `(s0 + s2) + (s1 + s3)`. It does not depend on the tile, on the other rows, or on how
//! the work was split. The instruction takes subnormal operands as 0, gives 0 for subnormal sums, and rounds each addition
//! to nearest, ties to even (Intel, Architecture Instruction Set Extensions, VDPBF16PS).

use std::arch::x86_64::*;

use half::bf16;

use super::{DotArgs, PANEL_COLUMNS as TILE_COLUMNS, PANEL_GROUP as GROUP, PanelLine, panel_lines};

/// Rows up to which the right-hand operand is used as it streams by; with more it is laid out for the tile first.
const FEW_ROWS: usize = 6;
/// Rows of a tile.
const TILE_ROWS: usize = 6;
/// Elements of a row that one load takes.
const STEP: usize = 32;
/// How far beyond the rows at hand cache lines are asked for, in bytes, in the order in which they lie,
const PREFETCH_BYTES: usize = 2048;
/// and in each of several very long rows.
const PREFETCH_ROW: usize = 1024;
/// How far ahead the panels of one row are asked for.
const PANEL_AHEAD: usize = 8192;
/// Size up to which rows are asked for in their order.
const PREFETCH_TILE: usize = 128 * 1024;

#[inline(always)]
fn pairs(v: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without invalid values.
    unsafe { std::mem::transmute(v) }
}

/// 32 elements from `p`, of which the first `n` are there; the others 0.
///
/// # Safety
/// The processor has AVX-512 BW; `n` elements lie behind `p`.
#[inline(always)]
unsafe fn load(p: *const bf16, n: usize) -> __m512i {
    // SAFETY: the caller's; lanes past `n` are not read.
    unsafe {
        if n >= STEP { _mm512_loadu_si512(p.cast()) } else { _mm512_maskz_loadu_epi16((1u32 << n) - 1, p.cast()) }
    }
}

/// Eight elements of a left-hand row, in all four quarters; those from `n` on are 0.
///
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn broadcast(p: *const bf16, n: usize) -> __m512bh {
    // SAFETY: the caller's; lanes past `n` are not read.
    unsafe {
        let v = if n >= GROUP { _mm_loadu_si128(p.cast()) } else { _mm_maskz_loadu_epi16((1u8 << n) - 1, p.cast()) };
        pairs(_mm512_broadcast_i32x4(v))
    }
}

/// Four rows of 32 elements become four registers, of which number `j` holds elements `8·j..8·j + 8` of each row.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn quarters(r: [__m512i; 4]) -> [__m512i; 4] {
    // SAFETY: the caller's.
    unsafe {
        let (ab_low, ab_high) =
            (_mm512_shuffle_i32x4::<0b01_00_01_00>(r[0], r[1]), _mm512_shuffle_i32x4::<0b11_10_11_10>(r[0], r[1]));
        let (cd_low, cd_high) =
            (_mm512_shuffle_i32x4::<0b01_00_01_00>(r[2], r[3]), _mm512_shuffle_i32x4::<0b11_10_11_10>(r[2], r[3]));
        [
            _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_low, cd_low),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_low, cd_low),
            _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_high, cd_high),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_high, cd_high),
        ]
    }
}

/// The sums of 16 columns in their order: register `g` has the partial sums of columns `4·g..4·g + 4`, a quarter each.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn finish(acc: [__m512; 4]) -> __m512 {
    // SAFETY: the caller's.
    unsafe {
        let ab = _mm512_add_ps(
            _mm512_shuffle_ps::<0b01_00_01_00>(acc[0], acc[1]),
            _mm512_shuffle_ps::<0b11_10_11_10>(acc[0], acc[1]),
        );
        let cd = _mm512_add_ps(
            _mm512_shuffle_ps::<0b01_00_01_00>(acc[2], acc[3]),
            _mm512_shuffle_ps::<0b11_10_11_10>(acc[2], acc[3]),
        );
        let sums =
            _mm512_add_ps(_mm512_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm512_shuffle_ps::<0b11_01_11_01>(ab, cd));
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_ps(order, sums)
    }
}

#[inline(always)]
fn first(columns: usize) -> __mmask16 {
    ((1u32 << columns) - 1) as __mmask16
}

/// Lays 16 rows of `w` out as the tile reads them: for each eight elements four lines of four rows. Rows from `columns` on
/// are 0, and so is what `k` lacks to whole groups.
///
/// # Safety
/// `columns` rows of `k` elements `ldw` apart lie behind `w`; `panel` has room for four lines a group of eight.
#[inline(always)]
unsafe fn pack(w: *const bf16, ldw: usize, columns: usize, k: usize, panel: *mut PanelLine) {
    // SAFETY: the caller's: rows below `columns`, elements below `k`; lines below four times the groups.
    unsafe {
        for g in 0..4 {
            let mut at = 0;
            while at < k {
                let left = k - at;
                let mut rows = [_mm512_setzero_si512(); 4];
                for j in 0..4 {
                    if g * 4 + j < columns {
                        rows[j] = load(w.add((g * 4 + j) * ldw + at), left);
                    }
                }
                let lines = quarters(rows);
                let to = panel.add(at / GROUP * 4 + g);
                for j in 0..4 {
                    if j * GROUP < left {
                        _mm512_store_si512(to.add(j * 4).cast(), lines[j]);
                    }
                }
                at += STEP;
            }
        }
    }
}

/// The four lines of a group.
///
/// # Safety
/// The processor has AVX-512; four lines lie behind `line`.
#[inline(always)]
unsafe fn four(line: *const PanelLine) -> [__m512bh; 4] {
    // SAFETY: the caller's.
    unsafe {
        [
            pairs(_mm512_load_si512(line.cast())),
            pairs(_mm512_load_si512(line.add(1).cast())),
            pairs(_mm512_load_si512(line.add(2).cast())),
            pairs(_mm512_load_si512(line.add(3).cast())),
        ]
    }
}

/// Adds the products of up to eight elements of R rows and of four registers of four columns.
///
/// # Safety
/// `left` elements of R rows `ldx` apart lie behind `x`, or 8 if that is less.
#[inline(always)]
unsafe fn add<const R: usize>(acc: &mut [[__m512; 4]; R], x: *const bf16, ldx: usize, left: usize, w: [__m512bh; 4]) {
    for r in 0..R {
        // SAFETY: the caller's.
        unsafe {
            let xv = broadcast(x.add(r * ldx), left);
            for c in 0..4 {
                acc[r][c] = _mm512_dpbf16_ps(acc[r][c], xv, w[c]);
            }
        }
    }
}

/// R rows by the 16 columns of a panel, of which the first `columns` are written.
///
/// # Safety
/// See [`DotArgs`]; R rows are left, and `panel` is that of these columns.
#[inline(always)]
unsafe fn tile<const R: usize>(a: &DotArgs<bf16>, panel: *const PanelLine, columns: usize) {
    // SAFETY: the caller's.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); 4]; R];
        let (mut x, mut line) = (a.x, panel);
        for _ in 0..a.k / GROUP {
            if R == 1 {
                for j in 0..4 {
                    _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>().wrapping_add(PANEL_AHEAD + 64 * j));
                }
            }
            add(&mut acc, x, a.ldx, GROUP, four(line));
            x = x.add(GROUP);
            line = line.add(4);
        }
        if !a.k.is_multiple_of(GROUP) {
            add(&mut acc, x, a.ldx, a.k % GROUP, four(line));
        }
        for r in 0..R {
            _mm512_mask_storeu_ps(a.out.add(r * a.ldo), first(columns), finish(acc[r]));
        }
    }
}

/// Adds the products of up to 32 elements of R rows and of four columns as they lie in memory.
///
/// # Safety
/// `left` elements of R rows `ldx` apart lie behind `x`, and of each of the rows behind `w`, or 32 if that is less.
#[inline(always)]
unsafe fn add_rows<const R: usize>(
    acc: &mut [__m512; R],
    x: *const bf16,
    ldx: usize,
    left: usize,
    w: [*const bf16; 4],
) {
    // SAFETY: the caller's; eight elements from `8·j` on are read where `left` is more than that.
    unsafe {
        let w = quarters([load(w[0], left), load(w[1], left), load(w[2], left), load(w[3], left)]);
        for j in 0..4 {
            if j * GROUP < left {
                for r in 0..R {
                    let xv = broadcast(x.add(r * ldx + j * GROUP), left - j * GROUP);
                    acc[r] = _mm512_dpbf16_ps(acc[r], xv, pairs(w[j]));
                }
            }
        }
    }
}

/// R rows by four columns as they lie in memory, of which `columns` are there.
///
/// # Safety
/// See [`DotArgs`]; R rows and `columns` of 1 to 4 columns are left.
#[inline(always)]
unsafe fn stream<const R: usize>(a: &DotArgs<bf16>, columns: usize) {
    // SAFETY: the caller's: columns that are not there are read as the last one that is, and not written.
    unsafe {
        let mut acc = [_mm512_setzero_ps(); R];
        let mut w = [a.w; 4];
        for j in 0..4 {
            w[j] = a.w.add(j.min(columns - 1) * a.ldw);
        }
        let tile = 4 * a.ldw * size_of::<bf16>();
        let in_order = tile <= PREFETCH_TILE;
        let mut next = a.w.cast::<i8>().wrapping_add(tile + PREFETCH_BYTES);
        let mut at = 0;
        while at + STEP <= a.k {
            for j in 0..4 {
                let far = match a.ahead {
                    0 if in_order => next.wrapping_add(64 * j),
                    0 => w[j].cast::<i8>().wrapping_add(PREFETCH_ROW),
                    ahead => w[j].cast::<i8>().wrapping_add(ahead),
                };
                _mm_prefetch::<_MM_HINT_T0>(far);
            }
            next = next.wrapping_add(4 * 64);
            add_rows(&mut acc, a.x.add(at), a.ldx, STEP, w);
            w = [w[0].add(STEP), w[1].add(STEP), w[2].add(STEP), w[3].add(STEP)];
            at += STEP;
        }
        if at < a.k {
            add_rows(&mut acc, a.x.add(at), a.ldx, a.k - at, w);
        }
        let zero = _mm512_setzero_ps();
        for r in 0..R {
            let sums = finish([acc[r], zero, zero, zero]);
            _mm512_mask_storeu_ps(a.out.add(r * a.ldo), first(columns), sums);
        }
    }
}

/// All columns of R rows as they lie in memory.
///
/// # Safety
/// See [`DotArgs`]; `a.m` is R.
#[inline(always)]
unsafe fn stream_all<const R: usize>(a: &DotArgs<bf16>) {
    let mut c = 0;
    while c < a.n {
        // SAFETY: the caller's: column `c` is there.
        unsafe { stream::<R>(&DotArgs { w: a.w.add(c * a.ldw), out: a.out.add(c), ..*a }, (a.n - c).min(4)) };
        c += 4;
    }
}

/// `out[m, n] = Σ_k x[m, k]·w[n, k]`. `panel` is memory that is reused; what it holds does not matter.
///
/// # Safety
/// See [`DotArgs`]; the processor has AVX-512 F, BW, DQ, VL and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn dot(a: DotArgs<bf16>, panel: &mut Vec<PanelLine>) {
    // SAFETY: the caller's; every tile lies inside the block, and the panel has four lines a group of eight elements.
    unsafe {
        match a.m {
            0 => return,
            1 => return stream_all::<1>(&a),
            2 => return stream_all::<2>(&a),
            3 => return stream_all::<3>(&a),
            4 => return stream_all::<4>(&a),
            5 => return stream_all::<5>(&a),
            FEW_ROWS => return stream_all::<FEW_ROWS>(&a),
            _ => {}
        }
        let lines = panel_lines(a.k);
        if panel.len() < lines {
            panel.resize(lines, PanelLine::default());
        }
        let panel = panel.as_mut_ptr();
        let mut c = 0;
        while c < a.n {
            let columns = (a.n - c).min(TILE_COLUMNS);
            pack(a.w.add(c * a.ldw), a.ldw, columns, a.k, panel);
            tiles(&DotArgs { out: a.out.add(c), ..a }, panel, columns);
            c += TILE_COLUMNS;
        }
    }
}

/// All rows by the 16 columns of a panel, of which the first `columns` are written.
///
/// # Safety
/// As [`tile`], of all rows.
#[inline(always)]
unsafe fn tiles(a: &DotArgs<bf16>, panel: *const PanelLine, columns: usize) {
    // SAFETY: the caller's: row `r` is there, and so are the next ones up to `a.m`.
    unsafe {
        let mut r = 0;
        while r < a.m {
            let rows = DotArgs { x: a.x.add(r * a.ldx), out: a.out.add(r * a.ldo), ..*a };
            match a.m - r {
                1 => tile::<1>(&rows, panel, columns),
                2 => tile::<2>(&rows, panel, columns),
                3 => tile::<3>(&rows, panel, columns),
                4 => tile::<4>(&rows, panel, columns),
                5 => tile::<5>(&rows, panel, columns),
                _ => tile::<TILE_ROWS>(&rows, panel, columns),
            }
            r += TILE_ROWS;
        }
    }
}

/// [`pack`], for whoever keeps panels.
///
/// # Safety
/// As [`pack`]; the processor has AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn lay_out(w: *const bf16, ldw: usize, columns: usize, k: usize, panel: *mut PanelLine) {
    // SAFETY: the caller's.
    unsafe { pack(w, ldw, columns, k, panel) };
}

/// [`dot`], the same bits, with the right-hand matrix in panels behind each other; `a.w` is not looked at.
///
/// # Safety
/// As [`dot`]; a panel of `a.k` factors lies behind `panel` for each 16 of the `a.n` columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) unsafe fn dot_panels(a: DotArgs<bf16>, panel: *const PanelLine) {
    let lines = panel_lines(a.k);
    let (mut c, mut at) = (0, panel);
    while c < a.n {
        // SAFETY: the caller's: column `c` is there, and its panel.
        unsafe { tiles(&DotArgs { out: a.out.add(c), ..a }, at, (a.n - c).min(TILE_COLUMNS)) };
        at = at.wrapping_add(lines);
        c += TILE_COLUMNS;
    }
}

/// Independent chains of the instruction, for measuring: executes `rounds`·12 of them, of 32 multiply-adds each.
///
/// # Safety
/// The processor has AVX-512 F and AVX512-BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn chains(rounds: usize) -> f32 {
    // Unknown to the compiler, so that the loop is not computed in advance: pairs of 1 and of 2⁻¹⁰.
    let a = pairs(_mm512_set1_epi32(std::hint::black_box(0x3f80_3f80)));
    let b = pairs(_mm512_set1_epi32(std::hint::black_box(0x3a80_3a80)));
    let mut acc = [_mm512_set1_ps(1.0); 12];
    for _ in 0..rounds {
        for v in &mut acc {
            *v = _mm512_dpbf16_ps(*v, a, b);
        }
    }
    acc.into_iter().fold(0.0, |sum, v| sum + _mm512_reduce_add_ps(v))
}
