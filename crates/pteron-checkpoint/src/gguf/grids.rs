//! The types whose codes are positions in tables of lattice points: IQ1, IQ2 and IQ3. As in `decode.rs`, operations and
//! their order are those of ggml's reference decoders.
//!
//! `grids.bin` holds the tables; `tests/gguf/make_grids.py` makes it.

use half::f16;

/// One u16 a point; the tables follow one another.
const GRIDS: &[u8; 2 * (256 + 512 + 1024 + 256 + 512 + 2048)] = include_bytes!("grids.bin");

const IQ2_XXS: usize = 0;
const IQ2_XS: usize = IQ2_XXS + 256;
const IQ2_S: usize = IQ2_XS + 512;
const IQ3_XXS: usize = IQ2_S + 1024;
const IQ3_S: usize = IQ3_XXS + 256;
const IQ1: usize = IQ3_S + 512;

/// The values of a coordinate by its code.
const VALUES2: [f32; 4] = [8.0, 25.0, 43.0, 0.0];
const VALUES3_XXS: [f32; 8] = [4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0];
const VALUES3_S: [f32; 8] = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];
const VALUES1: [f32; 4] = [-1.0, 0.0, 1.0, 0.0];

/// What is added to each coordinate of IQ1, or taken away.
const DELTA: f32 = 0.125;

fn point(at: usize) -> u16 {
    u16::from_le_bytes([GRIDS[2 * at], GRIDS[2 * at + 1]])
}

fn half(b: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([b[at], b[at + 1]]).to_f32()
}

fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// Eight signs of which seven are stored: their number is even.
fn even_signs(seven: u32) -> u8 {
    let bits = (seven & 127) as u8;
    bits | ((bits.count_ones() & 1) as u8) << 7
}

/// `scale · coordinate`, negated where the bit is set.
fn signed(y: &mut [f32], scale: f32, signs: u8, coordinate: impl Fn(usize) -> f32) {
    for (j, y) in y.iter_mut().enumerate() {
        let value = scale * coordinate(j);
        *y = if signs >> j & 1 == 1 { -value } else { value };
    }
}

fn eight(y: &mut [f32; 8], scale: f32, at: usize, signs: u8) {
    let point = point(at);
    signed(y, scale, signs, |j| VALUES2[usize::from(point >> (2 * j) & 3)]);
}

fn twice_four(y: &mut [f32; 8], scale: f32, points: [usize; 2], signs: u8, values: &[f32; 8]) {
    let points = points.map(point);
    signed(y, scale, signs, |j| values[usize::from(points[j / 4] >> (3 * (j % 4)) & 7)]);
}

/// The parts of 32 elements, each in four runs of eight.
fn parts(y: &mut [f32; 256]) -> impl Iterator<Item = (usize, &mut [[f32; 8]])> {
    y.as_chunks_mut::<8>().0.chunks_exact_mut(4).enumerate()
}

/// `d`, then for each part four positions and a word of four times seven signs and a scale.
pub(super) fn iq2_xxs(b: &[u8; 66], y: &mut [f32; 256]) {
    let d = half(b, 0);
    for (i, part) in parts(y) {
        let at = 2 + 8 * i;
        let signs = word(b, at + 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (l, y) in part.iter_mut().enumerate() {
            eight(y, scale, IQ2_XXS + usize::from(b[at + l]), even_signs(signs >> (7 * l)));
        }
    }
}

/// `d`, 32 words of a position (9 bits) and seven signs, 16 scales of 4 bits.
pub(super) fn iq2_xs(b: &[u8; 74], y: &mut [f32; 256]) {
    let d = half(b, 0);
    for (i, part) in parts(y) {
        for (l, y) in part.iter_mut().enumerate() {
            let code = u16::from_le_bytes([b[2 + 8 * i + 2 * l], b[3 + 8 * i + 2 * l]]);
            let scale = d * (0.5 + f32::from(b[66 + i] >> (l / 2 * 4) & 15)) * 0.25;
            eight(y, scale, IQ2_XS + usize::from(code & 511), even_signs(u32::from(code >> 9)));
        }
    }
}

/// `d`, low bytes of 32 positions, 32 bytes of signs, 2 high bits of each position, 16 scales of 4 bits.
pub(super) fn iq2_s(b: &[u8; 82], y: &mut [f32; 256]) {
    let d = half(b, 0);
    for (i, part) in parts(y) {
        for (l, y) in part.iter_mut().enumerate() {
            let high = usize::from(b[66 + i]) << (8 - 2 * l) & 0x300;
            let scale = d * (0.5 + f32::from(b[74 + i] >> (l / 2 * 4) & 15)) * 0.25;
            eight(y, scale, IQ2_S + (usize::from(b[2 + 4 * i + l]) | high), b[34 + 4 * i + l]);
        }
    }
}

/// `d`, 64 positions, for each part a word of four times seven signs and a scale.
pub(super) fn iq3_xxs(b: &[u8; 98], y: &mut [f32; 256]) {
    let d = half(b, 0);
    for (i, part) in parts(y) {
        let signs = word(b, 66 + 4 * i);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
        for (l, y) in part.iter_mut().enumerate() {
            let points = [0, 1].map(|k| IQ3_XXS + usize::from(b[2 + 8 * i + 2 * l + k]));
            twice_four(y, scale, points, even_signs(signs >> (7 * l)), &VALUES3_XXS);
        }
    }
}

/// `d`, low bytes of 64 positions, their ninth bits, 32 bytes of signs, 8 scales of 4 bits.
pub(super) fn iq3_s(b: &[u8; 110], y: &mut [f32; 256]) {
    let d = half(b, 0);
    for (i, part) in parts(y) {
        let scale = d * f32::from(1 + 2 * (b[106 + i / 2] >> (i % 2 * 4) & 15));
        for (l, y) in part.iter_mut().enumerate() {
            let points = [0, 1].map(|k| {
                let ninth = usize::from(b[66 + i] >> (2 * l + k) & 1) << 8;
                IQ3_S + (usize::from(b[2 + 8 * i + 2 * l + k]) | ninth)
            });
            twice_four(y, scale, points, b[74 + 4 * i + l], &VALUES3_S);
        }
    }
}

fn ternary(y: &mut [f32; 8], scale: f32, at: usize, minus: bool) {
    let (point, delta) = (point(IQ1 + at), if minus { -DELTA } else { DELTA });
    for (j, y) in y.iter_mut().enumerate() {
        *y = scale * (VALUES1[usize::from(point >> (2 * j) & 3)] + delta);
    }
}

/// `d`, low bytes of 32 positions, for each part a word of four times three high bits, a scale and the delta's sign.
pub(super) fn iq1_s(b: &[u8; 50], y: &mut [f32; 256]) {
    let d = half(b, 0);
    for (i, part) in parts(y) {
        let high = u16::from_le_bytes([b[34 + 2 * i], b[35 + 2 * i]]);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        for (l, y) in part.iter_mut().enumerate() {
            let at = usize::from(b[2 + 4 * i + l]) | usize::from(high >> (3 * l) & 7) << 8;
            ternary(y, scale, at, high & 0x8000 != 0);
        }
    }
}

/// Low bytes of 32 positions, a nibble for each of three high bits and the delta's sign, 16 scales of 3 bits in four words
/// whose highest nibbles are `d`.
pub(super) fn iq1_m(b: &[u8; 56], y: &mut [f32; 256]) {
    let words = [48, 50, 52, 54].map(|at| u16::from_le_bytes([b[at], b[at + 1]]));
    let d = words[0] >> 12 | words[1] >> 8 & 0xF0 | words[2] >> 4 & 0xF00 | words[3] & 0xF000;
    let d = f16::from_bits(d).to_f32();
    for (i, part) in parts(y) {
        for (l, y) in part.iter_mut().enumerate() {
            let nibble = b[32 + 2 * i + l / 2] >> (l % 2 * 4) & 15;
            let scale = d * f32::from(2 * (words[i / 2] >> (6 * (i % 2) + 3 * (l / 2)) & 7) + 1);
            ternary(y, scale, usize::from(b[4 * i + l]) | usize::from(nibble & 7) << 8, nibble & 8 != 0);
        }
    }
}
