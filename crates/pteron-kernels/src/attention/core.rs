//! Attention over blocks of keys: no score matrix larger than a tile by a block is ever built.
//!
//! A piece of work is a tile of queries of one batch entry and one key/value head (or, for one token's decoding, all of them),
//! together with all query heads that share it. For each block of [`KV_BLOCK`] keys: scores, the block's softmax numerators relative to its own maximum, their sum,
//! and their weighted values; then the block is merged into what the earlier blocks gave. Blocks begin at fixed keys and
//! are merged in their order, so a query's result does not depend on its tile, on the other queries, or on whether the
//! blocks were computed by one thread or several.

use std::cell::RefCell;

use half::bf16;
use pteron_tensor::{B8, DType};

use crate::matmul::gemm::Rounded;
use crate::operand::SharedMut;
use crate::quant::dequantize::{Dequantizer, Form};
use crate::scratch::Floats;
use crate::simd::{DotArgs, KEYS_STEP, Kernels, KeysArgs, MatrixElement, NnArgs, NtArgs, PanelLine, ask_for};
use crate::{Context, wide};

/// Keys in a block.
const KV_BLOCK: usize = 128;
/// Query rows (positions times heads of a group) that a tile aims at.
const TILE_ROWS: usize = 48;
/// Query rows of all heads up to which the heads of a position are read together.
const MOST_ROWS: usize = 128;
/// Query rows of a head up to which reading its keys and values takes longer than computing with them.
const FEW_ROWS: usize = 6;
/// Query rows from which laying keys out for them takes little beside their scores.
const MANY_ROWS: usize = 18;
/// Positions in a step of that.
const SHORT: usize = 8;
/// How far ahead of what is read the keys and values of few queries are asked for, in bytes.
const AHEAD: usize = 12 * 1024;
/// Multiply-adds below which waking another thread costs more than it saves.
const SMALL: usize = 256 * 1024;

/// A `[batch, head, position, dimension]` tensor: rows of contiguous elements.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, T> {
    pub(super) data: &'a [T],
    pub(super) batch: usize,
    pub(super) head: usize,
    pub(super) pos: usize,
}

impl<T> Rows<'_, T> {
    /// True if `batches × heads × positions` rows of `width` elements lie inside the data.
    fn hold(&self, batches: usize, heads: usize, positions: usize, width: usize) -> bool {
        if [batches, heads, positions, width].contains(&0) {
            return true;
        }
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        (|| {
            let at = last(batches, self.batch)?.checked_add(last(heads, self.head)?)?;
            at.checked_add(last(positions, self.pos)?)?.checked_add(width)
        })()
        .is_some_and(|end| end <= self.data.len())
    }
}

/// The elements of a mask.
#[derive(Clone, Copy)]
pub(super) enum MaskData<'a> {
    /// Added to the scaled scores.
    Add(&'a [f32]),
    /// False hides a key.
    Keep(&'a [B8]),
}

/// A mask over `[batch, query head, query, key]`; stride 0 where it is broadcast.
#[derive(Clone, Copy)]
pub(super) struct Mask<'a> {
    pub(super) data: MaskData<'a>,
    pub(super) strides: [usize; 4],
}

/// Sizes and rules.
#[derive(Clone, Copy)]
pub(super) struct Problem<'a> {
    pub(super) batches: usize,
    pub(super) query_heads: usize,
    /// Divides `query_heads`.
    pub(super) kv_heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    /// Elements of a query and of a key.
    pub(super) width: usize,
    /// Elements of a value.
    pub(super) value_width: usize,
    pub(super) scale: f32,
    /// Position of query 0 among the keys.
    pub(super) start: usize,
    /// Query `i` sees keys up to `start + i` only.
    pub(super) causal: bool,
    /// Query `i` sees keys after `start + i - window` only.
    pub(super) window: Option<usize>,
    pub(super) mask: Option<Mask<'a>>,
    /// What a query that sees no key gives: 0, else NaN.
    pub(super) empty_is_zero: bool,
}

impl Problem<'_> {
    /// The keys that query `i` sees, before the mask.
    fn visible(&self, i: usize) -> (usize, usize) {
        let after = self.start.saturating_add(i).saturating_add(1);
        let hi = if self.causal { after.min(self.keys) } else { self.keys };
        let lo = self.window.map_or(0, |w| after.saturating_sub(w));
        (lo.min(hi), hi)
    }

    fn group(&self) -> usize {
        self.query_heads / self.kv_heads.max(1)
    }
}

/// Softmax state of a tile: numerators' reference and sum of each row, and weighted values.
struct State<'a> {
    max: &'a mut [f32],
    sum: &'a mut [f32],
    out: &'a mut [f32],
}

impl<'a> State<'a> {
    /// Elements that a state of `rows` rows takes.
    fn len(rows: usize, width: usize) -> usize {
        rows * (2 + width)
    }

    /// That of a tile that has seen nothing, in `memory` of [`State::len`] elements.
    fn new(memory: &'a mut [f32], rows: usize) -> State<'a> {
        memory.fill(0.0);
        memory[..rows].fill(f32::NEG_INFINITY);
        State::of(memory, rows)
    }

    /// What is in `memory`.
    fn of(memory: &'a mut [f32], rows: usize) -> State<'a> {
        let (max, rest) = memory.split_at_mut(rows);
        let (sum, out) = rest.split_at_mut(rows);
        State { max, sum, out }
    }

    /// Merges a later block's row.
    fn merge_row(&mut self, r: usize, max: f32, sum: f32, out: &[f32]) {
        let width = out.len();
        let joint = self.max[r].max(max);
        // A side that saw nothing has no weight; its sum and values are 0, or NaN, which stays.
        let weight = |m: f32| match m {
            f32::NEG_INFINITY => 0.0,
            m if m == joint => 1.0,
            m => f64::from(m - joint).exp() as f32,
        };
        let (a, b) = (weight(self.max[r]), weight(max));
        self.max[r] = joint;
        self.sum[r] = self.sum[r] * a + sum * b;
        wide::blend(&mut self.out[r * width..(r + 1) * width], a, out, b);
    }
}

/// One tile: queries `first..first + count` of a batch entry and of some neighbouring key/value heads. Row
/// `(h·group + g)·count + i` is query `first + i` of head `g` of the group of key/value head `kv_head + h`.
#[derive(Clone, Copy)]
struct Tile {
    batch: usize,
    kv_head: usize,
    heads: usize,
    first: usize,
    count: usize,
}

impl Tile {
    /// Rows of one key/value head.
    fn rows(&self, p: &Problem<'_>) -> usize {
        p.group() * self.count
    }

    /// Rows of all heads.
    fn all_rows(&self, p: &Problem<'_>) -> usize {
        self.heads * self.rows(p)
    }
}

/// Keys or values.
#[derive(Clone, Copy)]
pub(super) enum Source<'a, T> {
    /// As they are.
    Plain(Rows<'a, T>),
    /// As codes, each row with a scale and a zero point: of f32 only.
    Codes(Codes<'a>),
}

/// Rows of codes: `(code - zero point)·scale`.
#[derive(Clone, Copy)]
pub(super) struct Codes<'a> {
    pub(super) codes: Rows<'a, i8>,
    /// Rows of one element.
    pub(super) scales: Rows<'a, f32>,
    pub(super) zero_points: Rows<'a, i8>,
}

impl Codes<'_> {
    /// `n` rows from position `j0` on as numbers, one behind the other.
    fn numbers(&self, batch: usize, head: usize, j0: usize, n: usize, width: usize, out: &mut Floats) {
        out.resize(n * width);
        for (j, row) in out.chunks_exact_mut(width.max(1)).enumerate() {
            let at = |r: [usize; 3]| batch * r[0] + head * r[1] + (j0 + j) * r[2];
            let strides = |batch, head, pos| [batch, head, pos];
            let (c, s, z) = (&self.codes, &self.scales, &self.zero_points);
            let from = at(strides(c.batch, c.head, c.pos));
            let scale = s.data[at(strides(s.batch, s.head, s.pos))];
            let zero = z.data[at(strides(z.batch, z.head, z.pos))];
            let d = Dequantizer::new(Form::Integer, f64::from(scale), i64::from(zero));
            d.row(&c.data[from..from + width], row);
        }
    }
}

impl<T: MatrixElement> Source<'_, T> {
    fn hold(&self, batches: usize, heads: usize, positions: usize, width: usize) -> bool {
        match self {
            Source::Plain(r) => r.hold(batches, heads, positions, width),
            Source::Codes(c) => {
                T::DTYPE == DType::F32
                    && c.codes.hold(batches, heads, positions, width)
                    && c.scales.hold(batches, heads, positions, 1)
                    && c.zero_points.hold(batches, heads, positions, 1)
            }
        }
    }

    /// Where the `n` rows of a head from position `j0` on begin, and the distance between them; codes become numbers in
    /// `numbers`.
    fn block(
        &self,
        batch: usize,
        head: usize,
        j0: usize,
        n: usize,
        width: usize,
        numbers: &mut Floats,
    ) -> (*const T, usize) {
        match self {
            Source::Plain(r) => (r.data[batch * r.batch + head * r.head + j0 * r.pos..].as_ptr(), r.pos),
            Source::Codes(c) => {
                c.numbers(batch, head, j0, n, width, numbers);
                // `hold` says that T is f32.
                (numbers.as_ptr().cast(), width)
            }
        }
    }

    /// True if the heads of a position lie one behind the other.
    fn heads_are_neighbours(&self, width: usize) -> bool {
        match self {
            Source::Plain(r) => r.head == width && r.pos > r.head,
            Source::Codes(c) => c.codes.head == width && c.codes.pos > c.codes.head,
        }
    }

    /// The distance in bytes at which the rows from position `j` on are asked for while the `n` before it are read, all of
    /// which are rows of `keys`; 0 where they end before that.
    fn ahead(&self, j: usize, keys: usize) -> usize {
        let Source::Plain(r) = self else { return 0 };
        let positions = AHEAD / (r.pos * size_of::<T>()).max(1);
        if j + positions <= keys { positions * r.pos * size_of::<T>() } else { 0 }
    }

    /// Asks for what [`Source::ahead`] leaves out at the beginning: the first positions of a tile's heads, which lie one behind
    /// the other if they are several.
    fn prefetch(&self, t: Tile, j0: usize, width: usize, keys: usize) {
        let Source::Plain(r) = self else { return };
        let positions = AHEAD / (r.pos * size_of::<T>()).max(1);
        for j in j0..(j0 + positions).min(keys) {
            let from = t.batch * r.batch + t.kv_head * r.head + j * r.pos;
            ask_for(&r.data[from..from + t.heads * width]);
        }
    }
}

/// Queries, keys, values.
pub(super) struct Inputs<'a, T> {
    pub(super) q: Rows<'a, T>,
    pub(super) k: Source<'a, T>,
    pub(super) v: Source<'a, T>,
}

/// Memory of a thread, kept from piece to piece. What is kept is bounded by a tile's sizes.
#[derive(Default)]
struct Space {
    /// The tile's queries in f32, or
    q: Floats,
    /// in their own type, where there is a kernel for that.
    narrow: Vec<bf16>,
    panel: Vec<PanelLine>,
    /// A block's keys, laid out for many queries.
    laid: Floats,
    scores: Floats,
    /// The block's maximum and sum of each row.
    sums: Vec<(f32, f32)>,
    part: Floats,
    /// Keys and values of a block of codes.
    keys: Floats,
    values: Floats,
    state: Floats,
}

thread_local! {
    static SPACE: RefCell<Space> = RefCell::default();
    /// States of all blocks where these go to several threads.
    static PARTS: RefCell<Floats> = const { RefCell::new(Floats::new()) };
}

/// Calls `f` with this thread's memory.
fn with<S: Default, R>(key: &'static std::thread::LocalKey<RefCell<S>>, f: impl FnOnce(&mut S) -> R) -> R {
    key.with(|s| match s.try_borrow_mut() {
        Ok(mut s) => f(&mut s),
        Err(_) => f(&mut S::default()),
    })
}

impl Space {
    /// Takes the tile's queries in and makes room for its scores.
    fn prepare<T: MatrixElement>(&mut self, kernels: &Kernels, p: &Problem<'_>, q: &Rows<'_, T>, t: Tile) {
        let rows = t.all_rows(p);
        let own = T::own(kernels).is_some();
        let narrow = own && T::DTYPE == DType::BF16;
        self.q.resize(if narrow { 0 } else { rows * p.width });
        self.narrow.clear();
        for g in 0..t.heads * p.group() {
            for i in 0..t.count {
                let at = t.batch * q.batch + (t.kv_head * p.group() + g) * q.head + (t.first + i) * q.pos;
                let row = &q.data[at..at + p.width];
                match bytemuck::try_cast_slice::<T, bf16>(row) {
                    Ok(row) if narrow => self.narrow.extend_from_slice(row),
                    _ => {
                        let r = g * t.count + i;
                        let to = &mut self.q[r * p.width..(r + 1) * p.width];
                        match bytemuck::try_cast_slice::<T, f32>(row) {
                            Ok(row) if T::DTYPE == DType::F32 => to.copy_from_slice(row),
                            _ => to.iter_mut().zip(row).for_each(|(to, x)| *to = x.widen()),
                        }
                    }
                }
            }
        }
        // Rows that were there before are written before they are read.
        self.scores.resize(rows * KV_BLOCK);
        self.part.resize(rows * p.value_width);
        self.sums.resize(rows, (0.0, 0.0));
    }
}

/// True if the mask hides all keys `j0..j0 + n` from all queries of the tile.
fn is_hidden(p: &Problem<'_>, t: Tile, j0: usize, n: usize) -> bool {
    let Some(mask) = p.mask else { return false };
    let [sb, sh, sq, sk] = mask.strides;
    let heads = if sh == 0 { 1 } else { t.heads * p.group() };
    let queries = if sq == 0 { 1 } else { t.count };
    (0..heads).all(|g| {
        (0..queries).all(|i| {
            let at = t.batch * sb + (t.kv_head * p.group() + g) * sh + (t.first + i) * sq + j0 * sk;
            match mask.data {
                MaskData::Add(m) if sk == 1 => m[at..at + n].iter().all(|&x| x == f32::NEG_INFINITY),
                MaskData::Add(m) => (0..n).all(|j| m[at + j * sk] == f32::NEG_INFINITY),
                MaskData::Keep(m) => (0..n).all(|j| !m[at + j * sk].get()),
            }
        })
    })
}

/// Hides from `row`, the scores of keys `j0..`, what the rules hide, and adds the mask.
fn restrict(p: &Problem<'_>, batch: usize, head: usize, query: usize, j0: usize, row: &mut [f32]) {
    let (lo, hi) = p.visible(query);
    let n = row.len();
    row[..lo.saturating_sub(j0).min(n)].fill(f32::NEG_INFINITY);
    row[hi.saturating_sub(j0).min(n)..].fill(f32::NEG_INFINITY);
    let Some(mask) = p.mask else { return };
    let [sb, sh, sq, sk] = mask.strides;
    let at = batch * sb + head * sh + query * sq + j0 * sk;
    match mask.data {
        MaskData::Add(m) if sk == 1 => {
            for (s, &m) in row.iter_mut().zip(&m[at..at + n]) {
                *s += m;
            }
        }
        MaskData::Add(m) => {
            for (j, s) in row.iter_mut().enumerate() {
                *s += m[at + j * sk];
            }
        }
        MaskData::Keep(m) => {
            for (j, s) in row.iter_mut().enumerate() {
                if !m[at + j * sk].get() {
                    *s = f32::NEG_INFINITY;
                }
            }
        }
    }
}

/// Merges the block of keys from `j0` into `state`. The block of the caller's choice is one that some query of the tile sees.
fn block<T: MatrixElement>(
    kernels: &Kernels,
    p: &Problem<'_>,
    x: &Inputs<'_, T>,
    t: Tile,
    j0: usize,
    space: &mut Space,
    state: &mut State<'_>,
) {
    let is_first = state.max.iter().all(|&m| m == f32::NEG_INFINITY);
    let width = p.value_width;
    let (rows, all) = (t.rows(p), t.all_rows(p));
    let n = (j0 + KV_BLOCK).min(p.visible(t.first + t.count - 1).1) - j0;
    // What is hidden has no weight.
    if is_hidden(p, t, j0, n) {
        return;
    }
    // Several heads lie one behind the other: in short steps the memory is read as one stream. What few queries read is asked
    // for ahead; of the values the first rows now, so that they come while the keys are read.
    let few = rows <= FEW_ROWS;
    let step = if t.heads > 1 { SHORT } else { n };
    if few && is_first {
        x.v.prefetch(t, j0, width, p.keys);
    }
    let many = T::keys(kernels).filter(|_| t.heads == 1 && rows >= MANY_ROWS && p.width.is_multiple_of(KEYS_STEP));
    if let Some((lay_out, scores)) = many {
        let (w, ldw) = x.k.block(t.batch, t.kv_head, j0, n, p.width, &mut space.keys);
        space.laid.resize(KV_BLOCK * p.width);
        let (keys, out) = (space.laid.as_mut_ptr(), space.scores.as_mut_ptr());
        let (ldx, ldo, scale) = (p.width, KV_BLOCK, p.scale);
        // SAFETY: as below; a block of keys, whole steps of them, has room where they are laid out and in each row of scores.
        unsafe {
            lay_out(w, ldw, n, p.width, keys);
            scores(KeysArgs { x: space.q.as_ptr(), ldx, keys, out, ldo, m: rows, n, k: p.width, scale });
        }
    }
    for from in (0..if many.is_some() { 0 } else { n }).step_by(step.max(1)) {
        let some = step.min(n - from);
        let ahead = if few { x.k.ahead(j0 + from + some, p.keys) } else { 0 };
        for h in 0..t.heads {
            let (w, ldw) = x.k.block(t.batch, t.kv_head + h, j0 + from, some, p.width, &mut space.keys);
            let out = space.scores[h * rows * KV_BLOCK + from..].as_mut_ptr();
            let (ldx, ldo, first) = (p.width, KV_BLOCK, h * rows * p.width);
            // SAFETY: `run` checked that the keys `0..p.keys` of every head lie inside the data, and `j0 + n <= p.keys`; the
            // thread's buffers have `rows` rows for each head of `p.width` (those of the queries that are used) and of KV_BLOCK
            // elements.
            unsafe {
                match T::own(kernels) {
                    Some(dot) => {
                        // Only bf16 has such a kernel.
                        let q = space.narrow.as_ptr().add(first).cast::<T>();
                        dot(
                            DotArgs { x: q, ldx, w, ldw, out, ldo, m: rows, n: some, k: p.width, ahead },
                            &mut space.panel,
                        );
                    }
                    None => {
                        let q = space.q.as_ptr().add(first);
                        (T::nt(kernels))(NtArgs { x: q, ldx, w, ldw, out, ldo, m: rows, n: some, k: p.width, ahead });
                    }
                }
            }
        }
    }
    for g in 0..t.heads * p.group() {
        for i in 0..t.count {
            let r = g * t.count + i;
            let row = &mut space.scores[r * KV_BLOCK..r * KV_BLOCK + n];
            if many.is_none() {
                wide::scale(row, p.scale);
            }
            restrict(p, t.batch, t.kv_head * p.group() + g, t.first + i, j0, row);
            let max = kernels.row_max(row);
            // Where nothing is seen, -∞ - 0 still gives 0, and NaN stays NaN.
            let reference = if max == f32::NEG_INFINITY { 0.0 } else { max };
            space.sums[r] = (max, kernels.exp_sub_sum(row, reference));
        }
    }
    for from in (0..n).step_by(step.max(1)) {
        let some = step.min(n - from);
        let ahead = if few { x.v.ahead(j0 + from + some, p.keys) } else { 0 };
        for h in 0..t.heads {
            let (b, ldb) = x.v.block(t.batch, t.kv_head + h, j0 + from, some, width, &mut space.values);
            // SAFETY: as above, for the values; `part` has `rows` rows of `width` elements for each head.
            unsafe {
                (T::nn(kernels))(NnArgs {
                    a: space.scores.as_ptr().add(h * rows * KV_BLOCK + from),
                    a_row: KV_BLOCK,
                    a_col: 1,
                    b,
                    ldb,
                    out: space.part.as_mut_ptr().add(h * rows * width),
                    ldo: width,
                    m: rows,
                    n: width,
                    k: some,
                    onto: from > 0,
                    ahead,
                });
            }
        }
    }
    for (r, &(max, sum)) in space.sums[..all].iter().enumerate() {
        state.merge_row(r, max, sum, &space.part[r * width..(r + 1) * width]);
    }
}

/// The blocks that some query of the tile sees.
fn blocks(p: &Problem<'_>, t: Tile) -> std::ops::Range<usize> {
    let (lo, hi) = (p.visible(t.first).0, p.visible(t.first + t.count - 1).1);
    lo / KV_BLOCK..hi.div_ceil(KV_BLOCK).max(lo / KV_BLOCK)
}

/// Divides by the sums and rounds into the output, whose rows lie as `place` says.
fn finish<T: Rounded>(p: &Problem<'_>, t: Tile, state: &mut State<'_>, out: &SharedMut<T>, place: [usize; 3]) {
    let width = p.value_width;
    for g in 0..t.heads * p.group() {
        for i in 0..t.count {
            let r = g * t.count + i;
            let row = &mut state.out[r * width..(r + 1) * width];
            let sum = state.sum[r];
            if sum == 0.0 && p.empty_is_zero {
                row.fill(0.0);
            } else {
                wide::divide(row, sum);
            }
            let at = t.batch * place[0] + (t.kv_head * p.group() + g) * place[1] + (t.first + i) * place[2];
            // SAFETY: `run` checked that all rows lie inside the output; each row belongs to one tile.
            let target = unsafe { std::slice::from_raw_parts_mut(out.at(at), width) };
            T::round(row, target);
        }
    }
}

/// Computes attention into `out`; `place` are the distances in it between batch entries, heads and positions.
///
/// # Panics
/// If an operand does not lie inside its slice: a mistake of the caller, who has the sizes from checked views.
pub(super) fn run<T: MatrixElement + Rounded>(
    ctx: &Context,
    p: &Problem<'_>,
    x: &Inputs<'_, T>,
    out: &mut [T],
    place: [usize; 3],
) {
    let [batch, head, pos] = place;
    let whole = Rows { data: &*out, batch, head, pos };
    let fits = p.kv_heads > 0
        && p.query_heads.is_multiple_of(p.kv_heads)
        && x.q.hold(p.batches, p.query_heads, p.queries, p.width)
        && x.k.hold(p.batches, p.kv_heads, p.keys, p.width)
        && x.v.hold(p.batches, p.kv_heads, p.keys, p.value_width)
        && whole.hold(p.batches, p.query_heads, p.queries, p.value_width);
    assert!(fits, "attention's operands lie inside their memory");
    if out.is_empty() || p.queries == 0 || p.query_heads == 0 || p.batches == 0 {
        return;
    }
    let out = SharedMut::new(out);
    let kernels = ctx.kernels();
    let per_tile = (TILE_ROWS / p.group()).clamp(1, p.queries);
    let tiles = p.queries.div_ceil(per_tile);
    // One token's heads together, where that leaves enough for each thread.
    let together = tiles == 1
        && p.queries * p.query_heads <= MOST_ROWS
        && x.k.heads_are_neighbours(p.width)
        && x.v.heads_are_neighbours(p.value_width)
        && (p.keys.div_ceil(KV_BLOCK) >= 2 * ctx.pool().threads() || ctx.pool().threads() == 1);
    let heads = if together { p.kv_heads } else { 1 };
    let count = p.batches * p.kv_heads / heads * tiles;
    let tile = |i: usize| {
        let first = i % tiles * per_tile;
        Tile {
            batch: i / tiles / (p.kv_heads / heads),
            kv_head: i / tiles % (p.kv_heads / heads) * heads,
            heads,
            first,
            count: per_tile.min(p.queries - first),
        }
    };
    let whole = |i: usize| {
        let t = tile(i);
        let rows = t.all_rows(p);
        with(&SPACE, |space| {
            space.prepare(kernels, p, &x.q, t);
            let mut memory = std::mem::take(&mut space.state);
            memory.resize(State::len(rows, p.value_width));
            let mut state = State::new(&mut memory, rows);
            for b in blocks(p, t) {
                block(kernels, p, x, t, b * KV_BLOCK, space, &mut state);
            }
            finish(p, t, &mut state, &out, place);
            space.state = memory;
        });
    };
    let seen: usize = (0..tiles).map(|i| blocks(p, tile(i)).len() * KV_BLOCK * per_tile).sum();
    let work = seen.saturating_mul(p.batches * p.query_heads).saturating_mul(p.width + p.value_width);
    if work <= SMALL {
        (0..count).for_each(whole);
        return;
    }
    let widest = (0..tiles).map(|i| blocks(p, tile(i)).len()).max().unwrap_or(0);
    // Few tiles with many blocks (one token's decoding): the blocks go to the threads, and are merged afterwards in the
    // order in which one thread would have merged them.
    if widest > 1 && count < 4 * ctx.pool().threads() && ctx.pool().threads() > 1 {
        let most = State::len(heads * p.group() * per_tile, p.value_width);
        with(&PARTS, |parts| {
            parts.resize((count * widest + 1) * most);
            let slots = SharedMut::new(parts);
            ctx.pool().run(count * widest, &|piece| {
                let t = tile(piece / widest);
                let rows = t.all_rows(p);
                // SAFETY: one slot a piece, of the elements that the largest tile takes.
                let memory = unsafe { std::slice::from_raw_parts_mut(slots.at(piece * most), most) };
                let mut state = State::new(&mut memory[..State::len(rows, p.value_width)], rows);
                if let Some(b) = blocks(p, t).nth(piece % widest) {
                    with(&SPACE, |space| {
                        space.prepare(kernels, p, &x.q, t);
                        block(kernels, p, x, t, b * KV_BLOCK, space, &mut state);
                    });
                }
            });
            let (parts, last) = parts.split_at_mut(count * widest * most);
            for (i, parts) in parts.chunks_mut(widest * most).enumerate() {
                let t = tile(i);
                let rows = t.all_rows(p);
                let len = State::len(rows, p.value_width);
                let mut state = State::new(&mut last[..len], rows);
                for part in parts.chunks_mut(most).take(blocks(p, t).len()) {
                    let part = State::of(&mut part[..len], rows);
                    for (r, row) in part.out.chunks(p.value_width.max(1)).enumerate() {
                        state.merge_row(r, part.max[r], part.sum[r], row);
                    }
                }
                finish(p, t, &mut state, &out, place);
            }
        });
        return;
    }
    ctx.pool().run(count, &whole);
}
