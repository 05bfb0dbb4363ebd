//! From codes as files hold them to [`Packed`].

use pteron_tensor::{DType, View};

use super::{CodeBits, Packed, ScaleBits};
use crate::Context;
use crate::operand::SharedMut;
use crate::simd::{CHANNELS, Geometry, LONGEST_GROUP};
use crate::wide::wide;

/// A matrix of codes as a program holds it: `w[n, k] = (codes[n, k] - zero_points[n, g])·scales[n, g]`, `g = k / group`.
#[derive(Clone, Copy, Debug)]
pub struct CodeMatrix<'a> {
    /// `[n, k]` of i8 or u8 with any strides, or of i4, row-major.
    pub codes: View<'a>,
    /// `[n][k / group]`.
    pub scales: &'a [f32],
    /// As the scales; all 0 if missing.
    pub zero_points: Option<&'a [i32]>,
    /// Codes that share a scale: `k`, or a multiple of 16 that divides it.
    pub group: usize,
}

/// Why a matrix cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpackable {
    /// No rows or columns, or not a matrix.
    #[error("codes of sizes {0:?}: a matrix that is not empty expected")]
    Sizes(Vec<usize>),
    /// Not a type of codes, or i4 that is not row-major.
    #[error("codes of type {0}: i8, u8 or row-major i4 expected")]
    Type(DType),
    /// A group that kernels do not have.
    #[error("groups of {group} in rows of {columns}: whole rows, or multiples of 16 that divide them, expected")]
    Group {
        /// Codes that share a scale.
        group: usize,
        /// Codes in a row.
        columns: usize,
    },
    /// Not a scale for each group.
    #[error("{found} scales or zero points for {expected} groups")]
    Scales {
        /// How many there are.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// A code less its zero point is beyond 8 bits.
    #[error("codes less their zero points go from {low} to {high}: -128 to 127 expected")]
    Range {
        /// The least one.
        low: i32,
        /// The largest one.
        high: i32,
    },
    /// The system has no memory.
    #[error("{bytes} bytes of memory: {reason}")]
    Memory {
        /// How many.
        bytes: usize,
        /// What the system said.
        reason: String,
    },
}

/// Codes that are summed as integers before they are scaled, as XNNPACK does when it packs.
const SUMMED: usize = 16;

/// Rows in one thread's piece of a scan.
const ROWS_A_PIECE: usize = 256;

/// The codes of a matrix in memory.
enum Codes<'a> {
    /// Rows of contiguous bytes, signed.
    Rows(&'a [i8], usize),
    /// Bytes with two strides, signed or not.
    Bytes { data: &'a [u8], row: usize, col: usize, signed: bool },
    /// Nibbles, the lower one first, all rows behind each other.
    Nibbles(&'a [u8]),
}

impl<'a> Codes<'a> {
    fn of(view: &View<'a>) -> Option<Codes<'a>> {
        let [_, k] = *view.sizes() else { return None };
        let [row, col] = *view.strides() else { return None };
        match view.dtype() {
            DType::I4 if view.is_contiguous() => Some(Codes::Nibbles(view.bytes())),
            DType::I8 if col == 1 || k == 1 => Some(Codes::Rows(bytemuck::cast_slice(view.bytes()), row)),
            dtype @ (DType::I8 | DType::U8) => {
                Some(Codes::Bytes { data: view.bytes(), row, col, signed: dtype == DType::I8 })
            }
            _ => None,
        }
    }

    /// Row `n` as numbers.
    fn row(&self, n: usize, out: &mut [i32]) {
        let k = out.len();
        match *self {
            Codes::Rows(data, row) => {
                out.iter_mut().zip(&data[n * row..n * row + k]).for_each(|(o, &c)| *o = i32::from(c));
            }
            Codes::Bytes { data, row, col, signed } => {
                for (i, o) in out.iter_mut().enumerate() {
                    let byte = data[n * row + i * col];
                    *o = if signed { i32::from(byte as i8) } else { i32::from(byte) };
                }
            }
            Codes::Nibbles(data) => {
                for (i, o) in out.iter_mut().enumerate() {
                    let at = n * k + i;
                    let byte = data[at / 2];
                    let nibble = if at.is_multiple_of(2) { byte << 4 } else { byte };
                    *o = i32::from((nibble as i8) >> 4);
                }
            }
        }
    }
}

wide! {
    /// Least and largest element of `x`, and of `low` and `high`.
    pub(crate) fn extremes(x: &[i8], low: i8, high: i8) -> (i8, i8) {
        let (mut low, mut high) = ([low; 64], [high; 64]);
        let (chunks, rest) = x.as_chunks::<64>();
        for c in chunks {
            for i in 0..64 {
                low[i] = if c[i] < low[i] { c[i] } else { low[i] };
                high[i] = if c[i] > high[i] { c[i] } else { high[i] };
            }
        }
        (low.iter().chain(rest).copied().fold(i8::MAX, i8::min), high.iter().chain(rest).copied().fold(i8::MIN, i8::max))
    }
}

wide! {
    /// Signed codes of the nibbles of `packed`, the lower one first; of an odd number the last byte's upper one is left out.
    pub(crate) fn spread(packed: &[u8], out: &mut [i8]) {
        let (pairs, last) = out.as_chunks_mut::<2>();
        for (pair, &byte) in pairs.iter_mut().zip(packed) {
            *pair = [((byte << 4) as i8) >> 4, (byte as i8) >> 4];
        }
        if let ([last], Some(&byte)) = (last, packed.last()) {
            *last = ((byte << 4) as i8) >> 4;
        }
    }
}

wide! {
    /// The sum of the elements.
    pub(crate) fn sum_of(x: &[i8]) -> i32 {
        x.iter().fold(0i32, |sum, &v| sum.wrapping_add(i32::from(v)))
    }
}

/// A matrix with its numbers, before it has a place.
struct Source<'a> {
    codes: Codes<'a>,
    matrix: CodeMatrix<'a>,
    n: usize,
    k: usize,
    /// Groups of a row in the scales.
    groups: usize,
}

impl Source<'_> {
    fn is_plain(&self) -> bool {
        self.matrix.zero_points.is_none_or(|z| z.iter().all(|&z| z == 0))
    }

    /// Row `n` less its zero points, wide.
    fn numbers(&self, n: usize, out: &mut [i32]) {
        self.codes.row(n, out);
        if let Some(zeros) = self.matrix.zero_points {
            for (g, part) in out.chunks_mut(self.k.div_ceil(self.groups).max(1)).enumerate() {
                let zero = zeros[n * self.groups + g];
                part.iter_mut().for_each(|v| *v = v.wrapping_sub(zero));
            }
        }
    }

    /// Row `n` less its zero points; the caller knows that they fit.
    fn row(&self, n: usize, plain: bool, wide: &mut [i32], out: &mut [i8]) {
        match self.codes {
            Codes::Rows(data, row) if plain => out.copy_from_slice(&data[n * row..n * row + self.k]),
            Codes::Nibbles(data) if plain && (n * self.k).is_multiple_of(2) => {
                spread(&data[n * self.k / 2..(n * self.k + self.k).div_ceil(2)], out);
            }
            _ => {
                self.numbers(n, wide);
                out.iter_mut().zip(&*wide).for_each(|(o, &v)| *o = v as i8);
            }
        }
    }

    /// Least and largest code less its zero point.
    fn range(&self, ctx: &Context, plain: bool) -> (i32, i32) {
        if plain && matches!(self.codes, Codes::Nibbles(_)) {
            return (-8, 7);
        }
        let pieces = self.n.div_ceil(ROWS_A_PIECE);
        let mut found = vec![(i32::MAX, i32::MIN); pieces];
        let place = SharedMut::new(&mut found);
        ctx.pool().run(pieces, &|i| {
            let mut wide = vec![0i32; if plain { 0 } else { self.k }];
            let (mut low, mut high) = (i32::MAX, i32::MIN);
            for n in i * ROWS_A_PIECE..self.n.min((i + 1) * ROWS_A_PIECE) {
                match self.codes {
                    Codes::Rows(data, row) if plain => {
                        let (a, b) = extremes(&data[n * row..n * row + self.k], i8::MAX, i8::MIN);
                        (low, high) = (low.min(i32::from(a)), high.max(i32::from(b)));
                    }
                    _ => {
                        wide.resize(self.k, 0);
                        self.numbers(n, &mut wide);
                        low = wide.iter().copied().fold(low, i32::min);
                        high = wide.iter().copied().fold(high, i32::max);
                    }
                }
            }
            // SAFETY: element `i` of `found`, which belongs to this piece.
            unsafe { *place.at(i) = (low, high) };
        });
        found.into_iter().fold((i32::MAX, i32::MIN), |(l, h), (a, b)| (l.min(a), h.max(b)))
    }
}

/// Codes that share a scale in a packed matrix: as the source has it, but no more than an exact sum holds.
fn packed_group(k: usize, group: usize) -> Option<usize> {
    let group = group.min(k);
    if group != k && (!group.is_multiple_of(16) || !k.is_multiple_of(group)) {
        return None;
    }
    if group <= LONGEST_GROUP {
        return Some(group);
    }
    (16..=LONGEST_GROUP).rev().filter(|g| g.is_multiple_of(16)).find(|&g| group.is_multiple_of(g))
}

/// Four or eight neighbouring codes of a channel, as the layout has them, for each unit of a group and each channel.
fn interleave(g: &Geometry, rows: &[i8], pitch: usize, group: usize, out: &mut [u8]) {
    let (step, units) = (g.step(), g.units());
    let first = group * units * step;
    let channel = |u: usize, c: usize| &rows[c * pitch + first + u * step..c * pitch + first + (u + 1) * step];
    match (g.bits, g.interleave) {
        (CodeBits::Four, 4) => {
            for (u, unit) in out.as_chunks_mut::<64>().0.iter_mut().take(units).enumerate() {
                for (c, to) in unit.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let eight: [u8; 8] = bytemuck::cast_slice(channel(u, c)).try_into().unwrap_or_default();
                    let eight = u64::from_le_bytes(eight) & 0x0f0f_0f0f_0f0f_0f0f;
                    *to = ((eight | eight >> 28) as u32).to_le_bytes();
                }
            }
        }
        (CodeBits::Eight, 4) => {
            for (u, unit) in out.as_chunks_mut::<64>().0.iter_mut().take(units).enumerate() {
                for (c, to) in unit.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    *to = bytemuck::cast_slice(channel(u, c)).try_into().unwrap_or_default();
                }
            }
        }
        (bits, width) => {
            for (u, unit) in out.chunks_exact_mut(g.unit()).take(units).enumerate() {
                for (c, to) in unit.chunks_exact_mut(width).enumerate() {
                    let from = channel(u, c);
                    for (i, o) in to.iter_mut().enumerate() {
                        *o = match bits {
                            CodeBits::Eight => from[i] as u8,
                            CodeBits::Four => (from[i] as u8 & 15) | ((from[i + width] as u8) << 4),
                        };
                    }
                }
            }
        }
    }
}

impl Packed {
    /// Packs `matrix` for the kernels of `ctx`, on its threads. Codes are kept in 4 bits where all of them fit, else in 8;
    /// scales in bf16 where all of them are such numbers, else in f32.
    ///
    /// # Errors
    /// [`Unpackable`]; nothing large has been allocated then.
    pub fn new(ctx: &Context, matrix: &CodeMatrix<'_>) -> Result<Packed, Unpackable> {
        let sizes = || Unpackable::Sizes(matrix.codes.sizes().to_vec());
        let [n, k] = *matrix.codes.sizes() else { return Err(sizes()) };
        if n == 0 || k == 0 {
            return Err(sizes());
        }
        let codes = Codes::of(&matrix.codes).ok_or(Unpackable::Type(matrix.codes.dtype()))?;
        let wrong = Unpackable::Group { group: matrix.group, columns: k };
        let group = packed_group(k, matrix.group).ok_or_else(|| wrong.clone())?;
        let groups = k.checked_div(matrix.group.min(k)).ok_or(wrong)?;
        let expected = n.saturating_mul(groups);
        for found in [matrix.scales.len(), matrix.zero_points.map_or(expected, <[i32]>::len)] {
            if found != expected {
                return Err(Unpackable::Scales { found, expected });
            }
        }
        let source = Source { codes, matrix: *matrix, n, k, groups };
        let plain = source.is_plain();
        let bits = match source.range(ctx, plain) {
            (low, high) if low >= -8 && high <= 7 => CodeBits::Four,
            (low, high) if low >= -128 && high <= 127 => CodeBits::Eight,
            (low, high) => return Err(Unpackable::Range { low, high }),
        };
        let short = matrix.scales.iter().all(|s| s.to_bits() & 0xffff == 0);
        let scales = if short { ScaleBits::Sixteen } else { ScaleBits::ThirtyTwo };
        let geometry = Geometry { n, k, group, bits, scales, interleave: ctx.kernels().codes().interleave };
        let bytes = geometry.bytes();
        let mut room = ctx.slab().room(bytes).map_err(|e| Unpackable::Memory { bytes, reason: e.to_string() })?;
        let place = SharedMut::new(room.bytes_mut());
        let step = geometry.block();
        ctx.pool().run(geometry.blocks(), &|i| {
            // SAFETY: block `i` of the room, which belongs to this piece.
            let block = unsafe { std::slice::from_raw_parts_mut(place.at(i * step), step) };
            source.block(&geometry, plain, i * CHANNELS, block);
        });
        Ok(Packed { geometry, room })
    }
}

impl Source<'_> {
    /// Writes the block of the channels from `first` on.
    fn block(&self, g: &Geometry, plain: bool, first: usize, out: &mut [u8]) {
        let pitch = g.groups() * g.units() * g.step();
        let mut rows = vec![0i8; pitch * CHANNELS];
        let mut wide = vec![0i32; self.k];
        let here = CHANNELS.min(self.n - first);
        for c in 0..here {
            self.row(first + c, plain, &mut wide, &mut rows[c * pitch..c * pitch + self.k]);
        }
        // A packed group is a whole one or a part of one.
        let parts = g.groups() / self.groups;
        if g.is_grouped() {
            for c in 0..here {
                let scales = &self.matrix.scales[(first + c) * self.groups..(first + c + 1) * self.groups];
                let (row, group) = (&rows[c * pitch..c * pitch + self.k], self.k / self.groups);
                let sum = scales.iter().zip(row.chunks_exact(group)).fold(0f32, |total, (&scale, codes)| {
                    codes.chunks(SUMMED).fold(total, |total, part| total - sum_of(part) as f32 * scale)
                });
                out[c * 4..c * 4 + 4].copy_from_slice(&sum.to_ne_bytes());
            }
        }
        for group in 0..g.groups() {
            let place = g.place(group);
            for c in 0..here {
                let scale = self.matrix.scales[(first + c) * self.groups + group / parts].to_bits();
                match g.scales {
                    ScaleBits::Sixteen => {
                        let at = place.scales + c * 2;
                        out[at..at + 2].copy_from_slice(&((scale >> 16) as u16).to_ne_bytes());
                    }
                    ScaleBits::ThirtyTwo => {
                        let at = place.scales + c * 4;
                        out[at..at + 4].copy_from_slice(&scale.to_ne_bytes());
                    }
                }
                if g.bits == CodeBits::Eight {
                    let from = c * pitch + group * g.units() * g.step();
                    let sum = sum_of(&rows[from..from + g.units() * g.step()]);
                    let at = place.sums + c * 4;
                    out[at..at + 4].copy_from_slice(&sum.to_ne_bytes());
                }
            }
            interleave(g, &rows, pitch, group, &mut out[place.codes..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_kernels_have() {
        assert_eq!(packed_group(341, 341), Some(341));
        assert_eq!(packed_group(341, 1000), Some(341));
        assert_eq!(packed_group(576, 32), Some(32));
        assert_eq!(packed_group(576, 24), None);
        assert_eq!(packed_group(576, 128), None);
        assert_eq!(packed_group(1 << 20, 1 << 20), Some(LONGEST_GROUP));
        assert_eq!(packed_group(65_537, 65_537), None);
    }
}
