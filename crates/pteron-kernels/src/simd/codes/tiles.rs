//! The kernels for interleaved fours, written once over [`CodeLanes`].

use std::sync::atomic::{Ordering, compiler_fence};

use half::bf16;

use super::{CHANNELS, CodeBits, CodesArgs, LINE, Place, ScaleBits, Steps};
use crate::simd::lanes::Lanes;

/// Codes of a channel that one 32-bit lane holds.
const FOURS: usize = 4;
/// How far ahead of the codes at hand cache lines are asked for where memory is the limit, in bytes: into the second-level cache,
/// since the first level has room for few requests. For codes of 8 bits less is better.
const fn ahead_of(four: bool) -> usize {
    if four { 12 * 1024 } else { 8 * 1024 }
}

/// Registers of 32-bit lanes, each with four codes of a channel.
///
/// Every function is unsafe for one reason: the processor must have its instructions, and pointers the elements that it
/// reads or writes.
pub(super) trait CodeLanes {
    /// Registers of as many f32.
    type Floats: Lanes;
    type V: Copy;
    /// What `dot` takes from a code of activations before it multiplies.
    const BIAS: i32;
    /// Factor by which `planes` and `planes` of sums are larger than codes of 4 bits.
    const TIMES: i32;

    unsafe fn zero() -> Self::V;
    /// Four codes in each lane.
    unsafe fn load(p: *const u8) -> Self::V;
    /// The lower and the upper nibbles as codes of 8 bits, times `TIMES`.
    unsafe fn planes(v: Self::V) -> [Self::V; 2];
    /// Four codes of activations in every lane.
    unsafe fn four(p: *const u8) -> Self::V;
    /// `acc + Σ (x - BIAS)·w` over the four codes of each lane, modulo 2³².
    unsafe fn dot(acc: Self::V, x: Self::V, w: Self::V) -> Self::V;
    /// `acc + Σ w` over the four codes of each lane.
    unsafe fn sum(acc: Self::V, w: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `acc - zero·sums`, modulo 2³².
    unsafe fn less(acc: Self::V, zero: i32, sums: Self::V) -> Self::V;
    unsafe fn store(p: *mut i32, v: Self::V);
    unsafe fn to_floats(v: Self::V) -> <Self::Floats as Lanes>::V;
    /// The lanes shifted to the left, then back to the right keeping the sign: one code of each.
    unsafe fn field(v: Self::V, left: i32, right: i32) -> Self::V;
}

type Floats<S> = <<S as CodeLanes>::Floats as Lanes>::V;

const fn lanes<S: CodeLanes>() -> usize {
    <S::Floats as Lanes>::N
}

/// Where a register of channels lies.
#[derive(Clone, Copy)]
struct Column {
    /// The block, and the register's channel in it.
    block: *const u8,
    channel: usize,
    /// The sums of the block's groups if these are not in the block.
    sums: *const i32,
}

impl Column {
    /// The codes of a group that begin at `codes` in the block.
    ///
    /// # Safety
    /// `codes` lies in the block.
    #[inline(always)]
    unsafe fn codes(&self, codes: usize) -> *const u8 {
        // SAFETY: the caller's.
        unsafe { self.block.add(codes + self.channel * FOURS) }
    }

    /// The sums of a group.
    ///
    /// # Safety
    /// The block has the group, which begins at `place`; the sums are there.
    #[inline(always)]
    unsafe fn sums<S: CodeLanes, const FOUR: bool>(&self, group: usize, place: Place) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            if FOUR {
                S::load(self.sums.add(group * CHANNELS + self.channel).cast())
            } else {
                S::load(self.block.add(place.sums + self.channel * size_of::<i32>()))
            }
        }
    }

    /// The scales of a group, in bf16 if `half`.
    ///
    /// # Safety
    /// The block has the group, which begins at `place`.
    #[inline(always)]
    unsafe fn scales<S: CodeLanes>(&self, place: Place, half: bool) -> Floats<S> {
        // SAFETY: the caller's.
        unsafe {
            let first = self.block.add(place.scales);
            if half {
                S::Floats::load_bf16(first.cast::<bf16>().add(self.channel))
            } else {
                S::Floats::load(first.cast::<f32>().add(self.channel))
            }
        }
    }
}

/// True if sums of codes are needed by the group: for zero points, or for what [`CodeLanes::dot`] takes from activations.
const fn needs_sums<S: CodeLanes, const GROUPED: bool>() -> bool {
    !GROUPED || S::BIAS != 0
}

/// What the total of a row and a register begins with: see the module's documentation.
///
/// # Safety
/// The matrix is grouped, the block is there, and the row's zero point.
#[inline(always)]
unsafe fn beginning<S: CodeLanes>(column: &Column, zero: i32) -> Floats<S> {
    // SAFETY: the caller's: a block of such a matrix begins with 16 numbers.
    unsafe {
        let sums = S::Floats::load(column.block.cast::<f32>().add(column.channel));
        S::Floats::mul(S::Floats::mul(sums, S::Floats::splat(zero as f32)), S::Floats::splat(S::TIMES as f32))
    }
}

/// Register `at` of the channels of the blocks behind `a.w`. `sums` are those of all blocks if the blocks have none.
///
/// # Safety
/// See [`CodesArgs`]: block `at·lanes/CHANNELS` is there.
#[inline(always)]
unsafe fn column<S: CodeLanes, X>(a: &CodesArgs<X>, steps: &Steps, at: usize, sums: *const i32) -> Column {
    let (block, channel) = (at * lanes::<S>() / CHANNELS, at * lanes::<S>() % CHANNELS);
    // SAFETY: the caller's.
    let first = unsafe { a.w.add(block * steps.block) };
    Column { block: first, channel, sums: sums.wrapping_add(block * steps.groups * CHANNELS) }
}

/// The registers from `at` on.
///
/// # Safety
/// As [`column`].
#[inline(always)]
unsafe fn columns<S: CodeLanes, X, const C: usize>(
    a: &CodesArgs<X>,
    steps: &Steps,
    at: usize,
    sums: *const i32,
) -> [Column; C] {
    // SAFETY: the caller's.
    unsafe {
        let mut all = [column::<S, X>(a, steps, at, sums); C];
        for (c, one) in all.iter_mut().enumerate() {
            *one = column::<S, X>(a, steps, at + c, sums);
        }
        all
    }
}

/// Stores the channels of register `at` that there are.
///
/// # Safety
/// See [`CodesArgs`]: row `row` is there.
#[inline(always)]
unsafe fn put<S: CodeLanes, X>(a: &CodesArgs<X>, row: usize, at: usize, v: Floats<S>) {
    let first = at * lanes::<S>();
    // SAFETY: the caller's: elements below `n` only.
    unsafe {
        let out = a.out.add(row * a.ldo + first);
        match a.n.saturating_sub(first) {
            0 => {}
            left if left < lanes::<S>() => S::Floats::store_part(out, left, v),
            _ => S::Floats::store(out, v),
        }
    }
}

/// The factor that makes a total the result.
#[inline(always)]
unsafe fn row_scale<S: CodeLanes, const FOUR: bool>(a: &CodesArgs<u8>, row: usize) -> f32 {
    // SAFETY: the caller's: the row is there.
    let scale = unsafe { *a.scale.add(row) };
    if FOUR { scale / S::TIMES as f32 } else { scale }
}

/// Adds the products of a unit: of R rows and C registers.
///
/// # Safety
/// See [`CodesArgs`]: a unit of codes is left of each column from `unit_at` on, and as many of the rows behind `x`.
#[inline(always)]
unsafe fn unit<S: CodeLanes, const R: usize, const C: usize, const FOUR: bool>(
    acc: &mut [[S::V; C]; R],
    columns: &[Column; C],
    unit_at: usize,
    x: *const u8,
    ldx: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut w = [[S::zero(); 2]; C];
        for c in 0..C {
            let v = S::load(columns[c].codes(unit_at));
            w[c] = if FOUR { S::planes(v) } else { [v; 2] };
        }
        for r in 0..R {
            let xv = S::four(x.add(r * ldx));
            for c in 0..C {
                acc[r][c] = S::dot(acc[r][c], xv, w[c][0]);
            }
        }
        if FOUR {
            for r in 0..R {
                let xv = S::four(x.add(r * ldx + FOURS));
                for c in 0..C {
                    acc[r][c] = S::dot(acc[r][c], xv, w[c][1]);
                }
            }
        }
    }
}

/// R rows from `row` on by C registers of channels from `at` on. Groups have whole runs of U units.
///
/// # Safety
/// See [`CodesArgs`]; the rows and the registers are there, `sums` as [`column`] has them where they are needed.
#[inline(always)]
unsafe fn tile<S: CodeLanes, const R: usize, const C: usize, const FOUR: bool, const U: usize, const GROUPED: bool>(
    a: &CodesArgs<u8>,
    row: usize,
    steps: &Steps,
    at: usize,
    sums: *const i32,
) {
    let half = a.geometry.scales == ScaleBits::Sixteen;
    let runs = steps.units / U;
    let whole_rows = steps.groups == 1;
    let step = if FOUR { 2 * FOURS } else { FOURS };
    // SAFETY: the caller's; units and groups are walked in the order in which they lie.
    unsafe {
        let columns: [Column; C] = columns::<S, u8, C>(a, steps, at, sums);
        let mut zeros = [0i32; R];
        let mut totals = [[S::Floats::splat(0.0); C]; R];
        for r in 0..R {
            let zero = *a.zero.add(row + r);
            zeros[r] = if GROUPED { -S::BIAS } else { zero - S::BIAS };
            if GROUPED {
                for c in 0..C {
                    totals[r][c] = beginning::<S>(&columns[c], zero);
                }
            }
        }
        let mut x = a.x.add(row * a.ldx);
        for group in 0..steps.groups {
            let place = steps.place(group);
            let mut unit_at = place.codes;
            let mut acc = [[S::zero(); C]; R];
            for _ in 0..runs {
                unit::<S, R, C, FOUR>(&mut acc, &columns, unit_at, x, a.ldx);
                if U == 4 {
                    // Codes of a unit are loaded when its turn comes: all at once they would drive totals out of the registers.
                    compiler_fence(Ordering::AcqRel);
                    unit::<S, R, C, FOUR>(&mut acc, &columns, unit_at + LINE, x.add(step), a.ldx);
                    compiler_fence(Ordering::AcqRel);
                    unit::<S, R, C, FOUR>(&mut acc, &columns, unit_at + 2 * LINE, x.add(2 * step), a.ldx);
                    compiler_fence(Ordering::AcqRel);
                    unit::<S, R, C, FOUR>(&mut acc, &columns, unit_at + 3 * LINE, x.add(3 * step), a.ldx);
                }
                x = x.add(step * U);
                unit_at += LINE * U;
            }
            for c in 0..C {
                let scale = columns[c].scales::<S>(place, half);
                for r in 0..R {
                    let mut sum = acc[r][c];
                    if needs_sums::<S, GROUPED>() {
                        sum = S::less(sum, zeros[r], columns[c].sums::<S, FOUR>(group, place));
                    }
                    let sum = S::to_floats(sum);
                    totals[r][c] = if !GROUPED && whole_rows {
                        S::Floats::mul(S::Floats::mul(sum, S::Floats::splat(row_scale::<S, FOUR>(a, row + r))), scale)
                    } else {
                        S::Floats::fma(sum, scale, totals[r][c])
                    };
                }
            }
        }
        for r in 0..R {
            // Read here: in registers all the while the scales would drive totals out of them.
            let scale = S::Floats::splat(row_scale::<S, FOUR>(a, row + r));
            for c in 0..C {
                let total = totals[r][c];
                let done = if !GROUPED && whole_rows { total } else { S::Floats::mul(total, scale) };
                put::<S, u8>(a, row + r, at + c, done);
            }
        }
    }
}

/// What one row of a register's channels has come to: products and sums of codes, in two chains each, so that the processor
/// need not wait for one.
#[derive(Clone, Copy)]
struct Chains<V> {
    acc: [V; 2],
    sums: [V; 2],
}

/// Adds the products of a unit of 4-bit codes, and the codes where their sums are needed.
///
/// # Safety
/// As [`unit`].
#[inline(always)]
unsafe fn add_planes<S: CodeLanes, const GROUPED: bool>(chains: &mut Chains<S::V>, code: *const u8, x: *const u8) {
    // SAFETY: the caller's.
    unsafe {
        let [low, high] = S::planes(S::load(code));
        let Chains { acc, sums } = *chains;
        chains.acc = [S::dot(acc[0], S::four(x), low), S::dot(acc[1], S::four(x.add(FOURS)), high)];
        if needs_sums::<S, GROUPED>() {
            chains.sums = [S::sum(sums[0], low), S::sum(sums[1], high)];
        }
    }
}

/// One row by C registers of channels, read as one stream; sums of 4-bit codes are made on the way. Groups have whole runs of
/// U units.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn stream<S: CodeLanes, const C: usize, const FOUR: bool, const U: usize, const GROUPED: bool>(
    a: &CodesArgs<u8>,
    steps: &Steps,
    at: usize,
) {
    let half = a.geometry.scales == ScaleBits::Sixteen;
    let units = steps.units;
    // SAFETY: the caller's; what is asked for ahead may lie anywhere.
    unsafe {
        let columns: [Column; C] = columns::<S, u8, C>(a, steps, at, std::ptr::null());
        let ahead = columns[0].block.wrapping_add(const { ahead_of(FOUR) });
        let zero = if GROUPED { -S::BIAS } else { *a.zero - S::BIAS };
        let row_scale = S::Floats::splat(row_scale::<S, FOUR>(a, 0));
        let whole_rows = steps.groups == 1;
        let mut x = a.x;
        let mut totals = [S::Floats::splat(0.0); C];
        if GROUPED {
            S::Floats::prefetch_far(ahead);
            for c in 0..C {
                totals[c] = beginning::<S>(&columns[c], *a.zero);
            }
        }
        for group in 0..steps.groups {
            let place = steps.place(group);
            let mut unit_at = place.codes;
            S::Floats::prefetch_far(ahead.wrapping_add(place.scales));
            let mut chains = [Chains { acc: [S::zero(); 2], sums: [S::zero(); 2] }; C];
            if FOUR {
                for _ in 0..units / U {
                    S::Floats::prefetch_far(ahead.wrapping_add(unit_at));
                    if U == 4 {
                        S::Floats::prefetch_far(ahead.wrapping_add(unit_at + LINE));
                        S::Floats::prefetch_far(ahead.wrapping_add(unit_at + 2 * LINE));
                        S::Floats::prefetch_far(ahead.wrapping_add(unit_at + 3 * LINE));
                    }
                    for c in 0..C {
                        let code = columns[c].codes(unit_at);
                        add_planes::<S, GROUPED>(&mut chains[c], code, x);
                        if U == 4 {
                            add_planes::<S, GROUPED>(&mut chains[c], code.add(LINE), x.add(2 * FOURS));
                            add_planes::<S, GROUPED>(&mut chains[c], code.add(2 * LINE), x.add(4 * FOURS));
                            add_planes::<S, GROUPED>(&mut chains[c], code.add(3 * LINE), x.add(6 * FOURS));
                        }
                    }
                    x = x.add(2 * FOURS * U);
                    unit_at += LINE * U;
                }
            } else {
                for _ in 0..units / 2 {
                    S::Floats::prefetch_far(ahead.wrapping_add(unit_at));
                    S::Floats::prefetch_far(ahead.wrapping_add(unit_at + LINE));
                    for c in 0..C {
                        let code = columns[c].codes(unit_at);
                        let acc = &mut chains[c].acc;
                        acc[0] = S::dot(acc[0], S::four(x), S::load(code));
                        acc[1] = S::dot(acc[1], S::four(x.add(FOURS)), S::load(code.add(LINE)));
                    }
                    x = x.add(2 * FOURS);
                    unit_at += 2 * LINE;
                }
                if !units.is_multiple_of(2) {
                    for c in 0..C {
                        let acc = &mut chains[c].acc;
                        acc[0] = S::dot(acc[0], S::four(x), S::load(columns[c].codes(unit_at)));
                    }
                    x = x.add(FOURS);
                }
            }
            for c in 0..C {
                let Chains { acc, sums } = chains[c];
                let mut sum = S::add(acc[0], acc[1]);
                if needs_sums::<S, GROUPED>() {
                    let sums = if FOUR { S::add(sums[0], sums[1]) } else { columns[c].sums::<S, false>(group, place) };
                    sum = S::less(sum, zero, sums);
                }
                let (sum, scale) = (S::to_floats(sum), columns[c].scales::<S>(place, half));
                totals[c] = if !GROUPED && whole_rows {
                    S::Floats::mul(S::Floats::mul(sum, row_scale), scale)
                } else {
                    S::Floats::fma(sum, scale, totals[c])
                };
            }
        }
        for c in 0..C {
            let done = if !GROUPED && whole_rows { totals[c] } else { S::Floats::mul(totals[c], row_scale) };
            put::<S, u8>(a, 0, at + c, done);
        }
    }
}

/// The sums of the codes of all blocks, `[blocks][groups][CHANNELS]`, as [`CodeLanes::planes`] has them.
///
/// # Safety
/// See [`CodesArgs`]; the codes have 4 bits.
#[inline(always)]
unsafe fn sums_of_planes<S: CodeLanes>(a: &CodesArgs<u8>, steps: &Steps, out: &mut Vec<i32>) {
    let needed = a.blocks * steps.groups * CHANNELS;
    if out.len() < needed {
        out.resize(needed, 0);
    }
    let to = out.as_mut_ptr();
    for at in 0..a.blocks * CHANNELS / lanes::<S>() {
        // SAFETY: the caller's; `out` has the lanes of every block and group.
        unsafe {
            let c = column::<S, u8>(a, steps, at, to);
            for group in 0..steps.groups {
                let mut code = c.codes(steps.place(group).codes);
                let mut sums = [S::zero(); 2];
                for _ in 0..steps.units {
                    let w = S::planes(S::load(code));
                    sums = [S::sum(sums[0], w[0]), S::sum(sums[1], w[1])];
                    code = code.add(LINE);
                }
                S::store(c.sums.cast_mut().add(group * CHANNELS + c.channel), S::add(sums[0], sums[1]));
            }
        }
    }
}

/// Cache lines of what is read next, asked for by a part of them before each tile: memory is waited for while there is work.
struct Next {
    at: *const u8,
    lines: usize,
    /// Lines of a part.
    part: usize,
}

impl Next {
    /// The parts for so many `tiles`.
    fn new(next: *const [u8], tiles: usize) -> Next {
        let lines = next.len().div_ceil(LINE);
        Next { at: next.cast(), lines, part: lines.div_ceil(tiles.max(1)) }
    }

    /// Asks for a part.
    ///
    /// # Safety
    /// The processor has the instructions of `S`.
    #[inline(always)]
    unsafe fn ask<S: CodeLanes>(&mut self) {
        let part = self.part.min(self.lines);
        for i in 0..part {
            // SAFETY: the caller's.
            unsafe { S::Floats::prefetch_far(self.at.wrapping_add(i * LINE)) };
        }
        self.at = self.at.wrapping_add(part * LINE);
        self.lines -= part;
    }
}

/// Calls a tile for all rows: R at a time, then what is left by twos and ones. More kinds of tiles would be more code than
/// the few rows are worth.
macro_rules! rows {
    ($tile:ident, $s:ty, $r:expr, $c:expr, [$($kind:expr),*], $next:ident, $a:expr $(, $more:expr)*) => {{
        let mut row = 0;
        while row < $a.m {
            $next.ask::<$s>();
            row += match $a.m - row {
                left if left >= $r => {
                    $tile::<$s, $r, { $c }, $($kind),*>($a, row $(, $more)*);
                    $r
                }
                1 => {
                    $tile::<$s, 1, { $c }, $($kind),*>($a, row $(, $more)*);
                    1
                }
                _ => {
                    $tile::<$s, 2, { $c }, $($kind),*>($a, row $(, $more)*);
                    2
                }
            };
        }
    }};
}

#[inline(always)]
unsafe fn by_codes<
    S: CodeLanes,
    const R: usize,
    const C: usize,
    const FOUR: bool,
    const U: usize,
    const GROUPED: bool,
>(
    a: &CodesArgs<u8>,
    scratch: &mut Vec<i32>,
) {
    let (registers, steps) = (a.n.div_ceil(lanes::<S>()), a.geometry.steps());
    // SAFETY: the caller's: see `CodesArgs`; the registers and rows are inside.
    unsafe {
        let mut at = 0;
        if a.m == 1 {
            // The registers of one block are neighbours in memory.
            let whole = const { CHANNELS / <S::Floats as Lanes>::N };
            while at < registers {
                match whole {
                    1 => stream::<S, 1, FOUR, U, GROUPED>(a, &steps, at),
                    2 => stream::<S, 2, FOUR, U, GROUPED>(a, &steps, at),
                    _ => stream::<S, 4, FOUR, U, GROUPED>(a, &steps, at),
                }
                at += whole;
            }
            return;
        }
        if FOUR && needs_sums::<S, GROUPED>() {
            sums_of_planes::<S>(a, &steps, scratch);
        }
        let sums = scratch.as_ptr();
        let mut next = Next::new(a.next, registers.div_ceil(C) * a.m.div_ceil(R));
        // A block's registers are there even where its channels are not.
        let whole = const { CHANNELS / <S::Floats as Lanes>::N };
        while at + C <= a.blocks * whole && at < registers {
            rows!(tile, S, R, C, [FOUR, U, GROUPED], next, a, &steps, at, sums);
            at += C;
        }
        if C > whole {
            while at < registers {
                rows!(tile, S, R, 1, [FOUR, U, GROUPED], next, a, &steps, at, sums);
                at += 1;
            }
        }
    }
}

/// Activations that are codes, by tiles of R rows and C registers of channels, `R <= 6`.
///
/// # Safety
/// See [`CodesArgs`]; the processor has the instructions of `S`, and the layout's interleave is 4.
#[inline(always)]
pub(super) unsafe fn codes<S: CodeLanes, const R: usize, const C: usize>(a: CodesArgs<u8>, scratch: &mut Vec<i32>) {
    // Groups of 32 have four units: a loop's end mispredicted at each would cost as much as the products.
    let four = a.geometry.units().is_multiple_of(4);
    // SAFETY: the caller's.
    unsafe {
        match a.geometry.bits {
            CodeBits::Four if a.geometry.is_grouped() && four => by_codes::<S, R, C, true, 4, true>(&a, scratch),
            CodeBits::Four if a.geometry.is_grouped() => by_codes::<S, R, C, true, 1, true>(&a, scratch),
            CodeBits::Four if four => by_codes::<S, R, C, true, 4, false>(&a, scratch),
            CodeBits::Four => by_codes::<S, R, C, true, 1, false>(&a, scratch),
            CodeBits::Eight => by_codes::<S, R, C, false, 1, false>(&a, scratch),
        }
    }
}

/// Code `at` of a unit, of each lane.
#[inline(always)]
unsafe fn number<S: CodeLanes, const FOUR: bool>(v: S::V, at: usize) -> Floats<S> {
    let byte = 8 * (at % FOURS) as i32;
    let (left, right) = match (FOUR, at < FOURS) {
        (false, _) => (24 - byte, 24),
        (true, true) => (28 - byte, 28),
        (true, false) => (24 - byte, 28),
    };
    // SAFETY: the caller's: the processor has the instructions.
    unsafe { S::to_floats(S::field(v, left, right)) }
}

/// R rows of floats from `row` on by C registers of channels from `at` on.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn float_tile<S: CodeLanes, const R: usize, const C: usize, const FOUR: bool>(
    a: &CodesArgs<f32>,
    row: usize,
    steps: &Steps,
    at: usize,
) {
    let g = &a.geometry;
    let half = g.scales == ScaleBits::Sixteen;
    let step = g.step();
    // SAFETY: the caller's; `x` is read below `k` only.
    unsafe {
        let columns: [Column; C] = columns::<S, f32, C>(a, steps, at, std::ptr::null());
        let x = a.x.add(row * a.ldx);
        let mut totals = [[S::Floats::splat(0.0); C]; R];
        for group in 0..steps.groups {
            let place = steps.place(group);
            let mut unit_at = place.codes;
            let mut acc = [[S::Floats::splat(0.0); C]; R];
            let mut k = group * g.group;
            let end = k + g.group;
            while k < end {
                let mut v = [S::zero(); C];
                for c in 0..C {
                    let code = columns[c].codes(unit_at);
                    v[c] = S::load(code);
                    if R == 1 && (c == 0 || lanes::<S>() == CHANNELS) {
                        S::Floats::prefetch(code.wrapping_add(const { ahead_of(FOUR) }));
                    }
                }
                let here = step.min(end - k);
                for i in 0..if FOUR { 2 * FOURS } else { FOURS } {
                    if i >= here {
                        break;
                    }
                    let mut w = [S::Floats::splat(0.0); C];
                    for c in 0..C {
                        w[c] = number::<S, FOUR>(v[c], i);
                    }
                    for r in 0..R {
                        let xv = S::Floats::splat(*x.add(r * a.ldx + k + i));
                        for c in 0..C {
                            acc[r][c] = S::Floats::fma(xv, w[c], acc[r][c]);
                        }
                    }
                }
                k += here;
                unit_at += LINE;
            }
            for c in 0..C {
                let scale = columns[c].scales::<S>(place, half);
                for r in 0..R {
                    totals[r][c] = S::Floats::fma(acc[r][c], scale, totals[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                put::<S, f32>(a, row + r, at + c, totals[r][c]);
            }
        }
    }
}

#[inline(always)]
unsafe fn by_floats<S: CodeLanes, const R: usize, const C: usize, const FOUR: bool>(a: &CodesArgs<f32>) {
    let (registers, steps) = (a.n.div_ceil(lanes::<S>()), a.geometry.steps());
    // SAFETY: the caller's: see `CodesArgs`; the registers and rows are inside.
    unsafe {
        let mut at = 0;
        if a.m == 1 {
            // Each sum waits for the one before: four columns at a time.
            while at + 4 <= registers {
                float_tile::<S, 1, 4, FOUR>(a, 0, &steps, at);
                at += 4;
            }
        }
        let mut next = Next::new(a.next, registers.div_ceil(C) * a.m.div_ceil(R));
        let whole = const { CHANNELS / <S::Floats as Lanes>::N };
        while at + C <= a.blocks * whole && at < registers {
            rows!(float_tile, S, R, C, [FOUR], next, a, &steps, at);
            at += C;
        }
        if C > whole {
            while at < registers {
                rows!(float_tile, S, R, 1, [FOUR], next, a, &steps, at);
                at += 1;
            }
        }
    }
}

/// Activations in f32, by tiles of R rows and C registers of channels, `R <= 6`.
///
/// # Safety
/// As [`codes`].
#[inline(always)]
pub(super) unsafe fn floats<S: CodeLanes, const R: usize, const C: usize>(a: CodesArgs<f32>) {
    // SAFETY: the caller's.
    unsafe {
        match a.geometry.bits {
            CodeBits::Four => by_floats::<S, R, C, true>(&a),
            CodeBits::Eight => by_floats::<S, R, C, false>(&a),
        }
    }
}

/// Twelve independent chains of [`CodeLanes::dot`].
///
/// # Safety
/// The processor has the instructions.
#[inline(always)]
pub(super) unsafe fn chains<S: CodeLanes>(rounds: usize) -> i32 {
    // Unknown to the compiler, so that the loop is not computed in advance.
    let bytes = std::hint::black_box([1u8; LINE]);
    // SAFETY: the caller's; `bytes` is as long as any register.
    unsafe {
        let (x, w) = (S::four(bytes.as_ptr()), S::load(bytes.as_ptr()));
        let mut acc = [S::zero(); 12];
        for _ in 0..rounds {
            for v in &mut acc {
                *v = S::dot(*v, x, w);
            }
        }
        let mut out = [0i32; 16];
        let mut sum = 0i32;
        for v in acc {
            S::store(out.as_mut_ptr(), v);
            sum = sum.wrapping_add(out[0]);
        }
        sum
    }
}
