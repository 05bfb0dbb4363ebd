//! Attention over blocks of keys: no score matrix larger than a tile by a block is ever built.
//!
//! A piece of work is a tile of queries of one batch entry and one key/value head, together with all query heads that share
//! it. For each block of [`KV_BLOCK`] keys: scores, the block's softmax numerators relative to its own maximum, their sum,
//! and their weighted values; then the block is merged into what the earlier blocks gave. Blocks begin at fixed keys and
//! are merged in their order, so a query's result does not depend on its tile, on the other queries, or on whether the
//! blocks were computed by one thread or several.

use pteron_tensor::B8;

use crate::Context;
use crate::matmul::gemm::Rounded;
use crate::operand::SharedMut;
use crate::simd::{DotArgs, Kernels, MatrixElement, NnArgs, NtArgs, PanelLine};

/// Keys in a block.
const KV_BLOCK: usize = 128;
/// Query rows (positions times heads of a group) that a tile aims at.
const TILE_ROWS: usize = 48;

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
struct State {
    max: Vec<f32>,
    sum: Vec<f32>,
    out: Vec<f32>,
}

impl State {
    fn new(rows: usize, width: usize) -> State {
        State { max: vec![f32::NEG_INFINITY; rows], sum: vec![0.0; rows], out: vec![0.0; rows * width] }
    }

    /// Merges a later block's row.
    fn merge_row(&mut self, r: usize, max: f32, sum: f32, out: &[f32]) {
        let width = out.len();
        let joint = self.max[r].max(max);
        // A side that saw nothing has no weight; its sum and values are 0, or NaN, which stays.
        let weight = |m: f32| if m == f32::NEG_INFINITY { 0.0 } else { f64::from(m - joint).exp() as f32 };
        let (a, b) = (weight(self.max[r]), weight(max));
        self.max[r] = joint;
        self.sum[r] = self.sum[r] * a + sum * b;
        for (o, &v) in self.out[r * width..(r + 1) * width].iter_mut().zip(out) {
            *o = *o * a + v * b;
        }
    }
}

/// One tile: queries `first..first + count` of a batch entry and a key/value head. Row `g·count + i` is query `first + i` of
/// the group's head `g`.
#[derive(Clone, Copy)]
struct Tile {
    batch: usize,
    kv_head: usize,
    first: usize,
    count: usize,
}

/// Queries, keys, values.
pub(super) struct Inputs<'a, T> {
    pub(super) q: Rows<'a, T>,
    pub(super) k: Rows<'a, T>,
    pub(super) v: Rows<'a, T>,
}

/// Buffers of one piece.
struct Scratch<T> {
    /// The tile's queries in f32, or
    q: Vec<f32>,
    /// in their own type, where there is a kernel for that.
    narrow: Vec<T>,
    panel: Vec<PanelLine>,
    scores: Vec<f32>,
    part: Vec<f32>,
}

impl<T: MatrixElement> Scratch<T> {
    /// With the tile's queries.
    fn of(kernels: &Kernels, p: &Problem<'_>, q: &Rows<'_, T>, t: Tile) -> Scratch<T> {
        let rows = p.group() * t.count;
        let own = T::own(kernels).is_some();
        let mut wide = Vec::with_capacity(if own { 0 } else { rows * p.width });
        let mut narrow = Vec::with_capacity(if own { rows * p.width } else { 0 });
        for g in 0..p.group() {
            for i in 0..t.count {
                let at = t.batch * q.batch + (t.kv_head * p.group() + g) * q.head + (t.first + i) * q.pos;
                let row = &q.data[at..at + p.width];
                if own {
                    narrow.extend_from_slice(row);
                } else {
                    wide.extend(row.iter().map(|x| x.widen()));
                }
            }
        }
        let (scores, part) = (vec![0.0; rows * KV_BLOCK], vec![0.0; rows * p.value_width]);
        Scratch { q: wide, narrow, panel: Vec::new(), scores, part }
    }
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
    scratch: &mut Scratch<T>,
    state: &mut State,
) {
    let (group, width) = (p.group(), p.value_width);
    let rows = group * t.count;
    let n = (j0 + KV_BLOCK).min(p.visible(t.first + t.count - 1).1) - j0;
    let k = &x.k.data[t.batch * x.k.batch + t.kv_head * x.k.head + j0 * x.k.pos..];
    // SAFETY: `run` checked that the keys `0..p.keys` of every head lie inside the data, and `j0 + n <= p.keys`; the scratch
    // buffers have `rows` rows of `p.width` (those of the queries that are used) and of KV_BLOCK elements, and belong to this
    // piece.
    unsafe {
        let (ldx, w, ldw, out, ldo) = (p.width, k.as_ptr(), x.k.pos, scratch.scores.as_mut_ptr(), KV_BLOCK);
        match T::own(kernels) {
            Some(dot) => {
                let q = scratch.narrow.as_ptr();
                dot(DotArgs { x: q, ldx, w, ldw, out, ldo, m: rows, n, k: p.width }, &mut scratch.panel);
            }
            None => {
                let q = scratch.q.as_ptr();
                (T::nt(kernels))(NtArgs { x: q, ldx, w, ldw, out, ldo, m: rows, n, k: p.width });
            }
        }
    }
    let mut sums = [(0.0f32, 0.0f32); TILE_ROWS];
    let mut many = Vec::new();
    let sums: &mut [(f32, f32)] = if rows <= TILE_ROWS {
        &mut sums[..rows]
    } else {
        many.resize(rows, (0.0, 0.0));
        &mut many
    };
    for g in 0..group {
        for i in 0..t.count {
            let r = g * t.count + i;
            let row = &mut scratch.scores[r * KV_BLOCK..r * KV_BLOCK + n];
            for s in row.iter_mut() {
                *s *= p.scale;
            }
            restrict(p, t.batch, t.kv_head * group + g, t.first + i, j0, row);
            let max = kernels.row_max(row);
            // Where nothing is seen, -∞ - 0 still gives 0, and NaN stays NaN.
            let reference = if max == f32::NEG_INFINITY { 0.0 } else { max };
            sums[r] = (max, kernels.exp_sub_sum(row, reference));
        }
    }
    let v = &x.v.data[t.batch * x.v.batch + t.kv_head * x.v.head + j0 * x.v.pos..];
    // SAFETY: as above, for the values; `part` has `rows` rows of `width` elements.
    unsafe {
        (T::nn(kernels))(NnArgs {
            a: scratch.scores.as_ptr(),
            a_row: KV_BLOCK,
            a_col: 1,
            b: v.as_ptr(),
            ldb: x.v.pos,
            out: scratch.part.as_mut_ptr(),
            ldo: width,
            m: rows,
            n: width,
            k: n,
        });
    }
    for (r, &(max, sum)) in sums.iter().enumerate() {
        state.merge_row(r, max, sum, &scratch.part[r * width..(r + 1) * width]);
    }
}

/// The blocks that some query of the tile sees.
fn blocks(p: &Problem<'_>, t: Tile) -> std::ops::Range<usize> {
    let (lo, hi) = (p.visible(t.first).0, p.visible(t.first + t.count - 1).1);
    lo / KV_BLOCK..hi.div_ceil(KV_BLOCK).max(lo / KV_BLOCK)
}

/// Divides by the sums and rounds into the output, whose rows lie as `place` says.
fn finish<T: Rounded>(p: &Problem<'_>, t: Tile, state: &mut State, out: &SharedMut<T>, place: [usize; 3]) {
    let width = p.value_width;
    for g in 0..p.group() {
        for i in 0..t.count {
            let r = g * t.count + i;
            let row = &mut state.out[r * width..(r + 1) * width];
            let sum = state.sum[r];
            for o in row.iter_mut() {
                *o = if sum == 0.0 && p.empty_is_zero { 0.0 } else { *o / sum };
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
    let count = p.batches * p.kv_heads * tiles;
    let tile = |i: usize| {
        let first = i % tiles * per_tile;
        Tile {
            batch: i / tiles / p.kv_heads,
            kv_head: i / tiles % p.kv_heads,
            first,
            count: per_tile.min(p.queries - first),
        }
    };
    let widest = (0..tiles).map(|i| blocks(p, tile(i)).len()).max().unwrap_or(0);
    // Few tiles with many blocks (one token's decoding): the blocks go to the threads, and are merged afterwards in the
    // order in which one thread would have merged them.
    if widest > 1 && count < 4 * ctx.pool().threads() {
        let mut parts: Vec<State> = Vec::with_capacity(count * widest);
        for i in 0..count {
            let rows = p.group() * tile(i).count;
            parts.extend((0..widest).map(|_| State::new(rows, p.value_width)));
        }
        let slots = SharedMut::new(&mut parts);
        ctx.pool().run(count * widest, &|piece| {
            let t = tile(piece / widest);
            let Some(b) = blocks(p, t).nth(piece % widest) else { return };
            // SAFETY: one slot a piece.
            let state = unsafe { &mut *slots.at(piece) };
            block(kernels, p, x, t, b * KV_BLOCK, &mut Scratch::of(kernels, p, &x.q, t), state);
        });
        for (i, parts) in parts.chunks(widest).enumerate() {
            let t = tile(i);
            let rows = p.group() * t.count;
            let mut state = State::new(rows, p.value_width);
            for part in &parts[..blocks(p, t).len()] {
                for (r, row) in part.out.chunks(p.value_width.max(1)).enumerate() {
                    state.merge_row(r, part.max[r], part.sum[r], row);
                }
            }
            finish(p, t, &mut state, &out, place);
        }
        return;
    }
    ctx.pool().run(count, &|i| {
        let t = tile(i);
        let mut scratch = Scratch::of(kernels, p, &x.q, t);
        let mut state = State::new(p.group() * t.count, p.value_width);
        for b in blocks(p, t) {
            block(kernels, p, x, t, b * KV_BLOCK, &mut scratch, &mut state);
        }
        finish(p, t, &mut state, &out, place);
    });
}
