//! From blocks to f32, with the operations of ggml's reference decoders (`dequantize_row_*`) in their order, so that every
//! bit is theirs.
//!
//! `d` and `m` are a block's scale and minimum in f16; "super-blocks" of 256 elements scale their parts by small integers.

use half::f16;

use super::grids;
use super::types::GgmlType;

/// Decodes whole blocks. `out` has their elements. False for types that are not decoded and for sizes that do not match.
pub(super) fn decode(ty: GgmlType, blocks: &[u8], out: &mut [f32]) -> bool {
    match ty {
        GgmlType::Q4_0 => product(blocks, out, q4_0),
        GgmlType::Q4_1 => each(blocks, out, q4_1),
        GgmlType::Q5_0 => product(blocks, out, q5_0),
        GgmlType::Q5_1 => each(blocks, out, q5_1),
        GgmlType::Q8_0 => product(blocks, out, q8_0),
        GgmlType::Q2_K => each(blocks, out, q2_k),
        GgmlType::Q3_K => product(blocks, out, q3_k),
        GgmlType::Q4_K => each(blocks, out, q4_k),
        GgmlType::Q5_K => each(blocks, out, q5_k),
        GgmlType::Q6_K => product(blocks, out, q6_k),
        GgmlType::IQ4_NL => product(blocks, out, iq4_nl),
        GgmlType::IQ4_XS => product(blocks, out, iq4_xs),
        GgmlType::MXFP4 => product(blocks, out, mxfp4),
        GgmlType::NVFP4 => product(blocks, out, nvfp4),
        GgmlType::TQ1_0 => product(blocks, out, tq1_0),
        GgmlType::TQ2_0 => product(blocks, out, tq2_0),
        GgmlType::Q1_0 => product(blocks, out, q1_0),
        GgmlType::IQ2_XXS => each(blocks, out, grids::iq2_xxs),
        GgmlType::IQ2_XS => each(blocks, out, grids::iq2_xs),
        GgmlType::IQ2_S => each(blocks, out, grids::iq2_s),
        GgmlType::IQ3_XXS => each(blocks, out, grids::iq3_xxs),
        GgmlType::IQ3_S => each(blocks, out, grids::iq3_s),
        GgmlType::IQ1_S => each(blocks, out, grids::iq1_s),
        GgmlType::IQ1_M => each(blocks, out, grids::iq1_m),
        _ => false,
    }
}

/// How a type is a product: each element is a whole number times a scale that a run of elements shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Product {
    /// Bits that hold every code, two's complement: 2, 4 or 8.
    pub(super) bits: u32,
    /// Elements of a run; whole runs fill a block.
    pub(super) run: usize,
}

/// How `ty` is a product; `None` for types that have minima, or whose codes stand for several elements.
pub(super) fn product_of(ty: GgmlType) -> Option<Product> {
    let (bits, run) = match ty {
        GgmlType::TQ1_0 => (2, 256),
        // Its two bits reach 2, though ggml writes no more than 1.
        GgmlType::TQ2_0 => (4, 256),
        GgmlType::Q1_0 => (2, 128),
        GgmlType::Q3_K => (4, 16),
        GgmlType::Q4_0 => (4, 32),
        GgmlType::Q5_0 | GgmlType::Q8_0 | GgmlType::IQ4_NL | GgmlType::IQ4_XS | GgmlType::MXFP4 => (8, 32),
        GgmlType::Q6_K | GgmlType::NVFP4 => (8, 16),
        _ => return None,
    };
    Some(Product { bits, run })
}

/// Takes whole blocks of a [`product_of`] type apart. False for other types and for sizes that do not match.
pub(super) fn split(ty: GgmlType, blocks: &[u8], codes: &mut [i8], scales: &mut [f32]) -> bool {
    match ty {
        GgmlType::Q4_0 => parts(blocks, codes, scales, q4_0),
        GgmlType::Q5_0 => parts(blocks, codes, scales, q5_0),
        GgmlType::Q8_0 => parts(blocks, codes, scales, q8_0),
        GgmlType::Q3_K => parts(blocks, codes, scales, q3_k),
        GgmlType::Q6_K => parts(blocks, codes, scales, q6_k),
        GgmlType::IQ4_NL => parts(blocks, codes, scales, iq4_nl),
        GgmlType::IQ4_XS => parts(blocks, codes, scales, iq4_xs),
        GgmlType::MXFP4 => parts(blocks, codes, scales, mxfp4),
        GgmlType::NVFP4 => parts(blocks, codes, scales, nvfp4),
        GgmlType::TQ1_0 => parts(blocks, codes, scales, tq1_0),
        GgmlType::TQ2_0 => parts(blocks, codes, scales, tq2_0),
        GgmlType::Q1_0 => parts(blocks, codes, scales, q1_0),
        _ => false,
    }
}

fn parts<const B: usize, const E: usize, const S: usize>(
    blocks: &[u8],
    codes: &mut [i8],
    scales: &mut [f32],
    one: impl Fn(&[u8; B], &mut [i8; E]) -> [f32; S],
) -> bool {
    let ((blocks, rest), (codes, more)) = (blocks.as_chunks::<B>(), codes.as_chunks_mut::<E>());
    let (scales, others) = scales.as_chunks_mut::<S>();
    let odd = !(rest.is_empty() && more.is_empty() && others.is_empty());
    if odd || blocks.len() != codes.len() || blocks.len() != scales.len() {
        return false;
    }
    blocks.iter().zip(codes).zip(scales).for_each(|((b, codes), scales)| *scales = one(b, codes));
    true
}

/// Decodes blocks of products.
fn product<const B: usize, const E: usize, const S: usize>(
    blocks: &[u8],
    out: &mut [f32],
    one: impl Fn(&[u8; B], &mut [i8; E]) -> [f32; S],
) -> bool {
    each(blocks, out, |b: &[u8; B], y: &mut [f32; E]| {
        let mut codes = [0i8; E];
        let scales = one(b, &mut codes);
        for ((y, codes), scale) in y.chunks_exact_mut(E / S).zip(codes.chunks_exact(E / S)).zip(scales) {
            y.iter_mut().zip(codes).for_each(|(y, &c)| *y = scale * f32::from(c));
        }
    })
}

fn each<const B: usize, const E: usize>(blocks: &[u8], out: &mut [f32], one: impl Fn(&[u8; B], &mut [f32; E])) -> bool {
    let ((blocks, rest), (out, more)) = (blocks.as_chunks::<B>(), out.as_chunks_mut::<E>());
    if !rest.is_empty() || !more.is_empty() || blocks.len() != out.len() {
        return false;
    }
    blocks.iter().zip(out).for_each(|(b, y)| one(b, y));
    true
}

/// The f16 at byte `AT`.
fn half<const AT: usize, const B: usize>(b: &[u8; B]) -> f32 {
    f16::from_le_bytes([b[AT], b[AT + 1]]).to_f32()
}

/// Low nibbles are the first half of a run, high nibbles the second.
fn nibbles<T>(qs: &[u8], y: &mut [T], value: impl Fn(u8) -> T) {
    let (low, high) = y.split_at_mut(qs.len());
    for ((&q, low), high) in qs.iter().zip(low).zip(high) {
        *low = value(q & 15);
        *high = value(q >> 4);
    }
}

fn q4_0(b: &[u8; 18], codes: &mut [i8; 32]) -> [f32; 1] {
    nibbles(&b[2..], codes, |q| q as i8 - 8);
    [half::<0, 18>(b)]
}

fn q4_1(b: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half::<0, 20>(b), half::<2, 20>(b));
    nibbles(&b[4..], y, |q| f32::from(q) * d + m);
}

/// Nibbles with a fifth bit each, bit `j` of `high` for element `j`.
fn five_bits<T>(qs: &[u8; 16], high: [u8; 4], y: &mut [T; 32], value: impl Fn(u8) -> T) {
    let high = u32::from_le_bytes(high);
    for (j, &q) in qs.iter().enumerate() {
        let (first, second) = ((high >> j & 1) as u8, (high >> (j + 16) & 1) as u8);
        y[j] = value(q & 15 | first << 4);
        y[j + 16] = value(q >> 4 | second << 4);
    }
}

fn q5_0(b: &[u8; 22], codes: &mut [i8; 32]) -> [f32; 1] {
    let [_, _, h0, h1, h2, h3, qs @ ..] = b;
    five_bits(qs, [*h0, *h1, *h2, *h3], codes, |q| q as i8 - 16);
    [half::<0, 22>(b)]
}

fn q5_1(b: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half::<0, 24>(b), half::<2, 24>(b));
    let [_, _, _, _, h0, h1, h2, h3, qs @ ..] = b;
    five_bits(qs, [*h0, *h1, *h2, *h3], y, |q| f32::from(q) * d + m);
}

fn q8_0(b: &[u8; 34], codes: &mut [i8; 32]) -> [f32; 1] {
    codes.iter_mut().zip(&b[2..]).for_each(|(c, &q)| *c = q as i8);
    [half::<0, 34>(b)]
}

/// 16 pairs of 4-bit scale and minimum, 2 bits an element, `d`, `m`.
fn q2_k(b: &[u8; 84], y: &mut [f32; 256]) {
    let (scales, qs) = (&b[..16], &b[16..80]);
    let (d, m) = (half::<80, 84>(b), half::<82, 84>(b));
    for (i, (y, &s)) in y.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
        let (scale, minimum) = (d * f32::from(s & 15), m * f32::from(s >> 4));
        let (from, shift) = (i / 8 * 32 + i % 2 * 16, i % 8 / 2 * 2);
        for (y, &q) in y.iter_mut().zip(&qs[from..from + 16]) {
            *y = scale * f32::from(q >> shift & 3) - minimum;
        }
    }
}

/// 256 high bits, low 2 bits of each element, 16 scales of 6 bits, `d`. A high bit that is not set means minus 4.
fn q3_k(b: &[u8; 110], codes: &mut [i8; 256]) -> [f32; 16] {
    let (high, qs, packed) = (&b[..32], &b[32..96], &b[96..108]);
    let d = half::<108, 110>(b);
    let mut scales = [0f32; 16];
    for (i, (codes, scale)) in codes.as_chunks_mut::<16>().0.iter_mut().zip(&mut scales).enumerate() {
        let low = packed[i % 8] >> (i / 8 * 4) & 15;
        let top = packed[8 + i % 4] >> (i / 4 * 2) & 3;
        *scale = d * f32::from((low | top << 4) as i8 - 32);
        let (from, shift) = (i / 8 * 32 + i % 2 * 16, i % 8 / 2 * 2);
        let (mask, at) = (1u8 << (i / 2), i % 2 * 16);
        for ((c, &q), &h) in codes.iter_mut().zip(&qs[from..from + 16]).zip(&high[at..at + 16]) {
            let offset = if h & mask == 0 { 4 } else { 0 };
            *c = (q >> shift & 3) as i8 - offset;
        }
    }
    scales
}

/// Scale and minimum, 6 bits each, of part `i` of 8.
fn scale_and_minimum(packed: &[u8], i: usize) -> (f32, f32) {
    let (scale, minimum) = if i < 4 {
        (packed[i] & 63, packed[i + 4] & 63)
    } else {
        let (low, s, m) = (packed[i + 4], packed[i - 4], packed[i]);
        (low & 15 | s >> 6 << 4, low >> 4 | m >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// `d`, `m`, 8 scales and minima, 4 bits an element.
fn q4_k(b: &[u8; 144], y: &mut [f32; 256]) {
    let (d, m) = (half::<0, 144>(b), half::<2, 144>(b));
    let (packed, qs) = (&b[4..16], &b[16..]);
    for (i, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, i);
        let (scale, minimum) = (d * scale, m * minimum);
        let (from, shift) = (i / 2 * 32, i % 2 * 4);
        for (y, &q) in y.iter_mut().zip(&qs[from..from + 32]) {
            *y = scale * f32::from(q >> shift & 15) - minimum;
        }
    }
}

/// As [`q4_k`] with a fifth bit: bit `i` of a byte for part `i`.
fn q5_k(b: &[u8; 176], y: &mut [f32; 256]) {
    let (d, m) = (half::<0, 176>(b), half::<2, 176>(b));
    let (packed, high, qs) = (&b[4..16], &b[16..48], &b[48..]);
    for (i, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, minimum) = scale_and_minimum(packed, i);
        let (scale, minimum) = (d * scale, m * minimum);
        let (from, shift) = (i / 2 * 32, i % 2 * 4);
        for ((y, &q), &h) in y.iter_mut().zip(&qs[from..from + 32]).zip(high) {
            *y = scale * f32::from(q >> shift & 15 | (h >> i & 1) << 4) - minimum;
        }
    }
}

/// Low 4 bits, high 2 bits, 16 signed scales, `d`.
fn q6_k(b: &[u8; 210], codes: &mut [i8; 256]) -> [f32; 16] {
    let (low, high) = (&b[..128], &b[128..192]);
    for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (from, shift) = (i / 4 * 64 + i % 2 * 32, i % 4 / 2 * 4);
        let (high_from, high_shift) = (i / 4 * 32, i % 4 * 2);
        for (part, codes) in codes.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let (low, high) = (&low[from + part * 16..][..16], &high[high_from + part * 16..][..16]);
            for ((c, &l), &h) in codes.iter_mut().zip(low).zip(high) {
                let q = l >> shift & 15 | (h >> high_shift & 3) << 4;
                *c = q as i8 - 32;
            }
        }
    }
    let d = half::<208, 210>(b);
    std::array::from_fn(|i| d * f32::from(b[192 + i] as i8))
}

/// The values that the nibbles of `IQ4_NL` and `IQ4_XS` stand for.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn iq4_nl(b: &[u8; 18], codes: &mut [i8; 32]) -> [f32; 1] {
    nibbles(&b[2..], codes, |q| IQ4[usize::from(q & 15)]);
    [half::<0, 18>(b)]
}

/// `d`, high 2 bits of 8 scales, low 4 bits of them, 4 bits an element.
fn iq4_xs(b: &[u8; 136], codes: &mut [i8; 256]) -> [f32; 8] {
    let d = half::<0, 136>(b);
    let top = u16::from_le_bytes([b[2], b[3]]);
    let (low, qs) = (&b[4..8], &b[8..]);
    for (codes, qs) in codes.as_chunks_mut::<32>().0.iter_mut().zip(qs.chunks_exact(16)) {
        nibbles(qs, codes, |q| IQ4[usize::from(q & 15)]);
    }
    std::array::from_fn(|i| {
        let scale = low[i / 2] >> (i % 2 * 4) & 15 | ((top >> (2 * i) & 3) as u8) << 4;
        d * f32::from(scale as i8 - 32)
    })
}

/// Twice the values of FP4 (E2M1); the scale is half a power of two, so that products are exact.
const E2M1: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

fn mxfp4(b: &[u8; 17], codes: &mut [i8; 32]) -> [f32; 1] {
    nibbles(&b[1..], codes, |q| E2M1[usize::from(q & 15)]);
    // Half of 2^(e - 127); the first two are subnormal.
    let bits = if b[0] < 2 { 0x0020_0000 << b[0] } else { u32::from(b[0] - 1) << 23 };
    [f32::from_bits(bits)]
}

/// Four scales in FP8 (E4M3 without sign), halved as those of [`mxfp4`], for 16 elements each.
fn nvfp4(b: &[u8; 36], codes: &mut [i8; 64]) -> [f32; 4] {
    for (codes, qs) in codes.as_chunks_mut::<16>().0.iter_mut().zip(b[4..].chunks_exact(8)) {
        nibbles(qs, codes, |q| E2M1[usize::from(q & 15)]);
    }
    std::array::from_fn(|i| {
        let (exponent, mantissa) = (b[i] >> 3 & 15, f32::from(b[i] & 7));
        // 2^-10 and 2^(e - 8), as bits.
        match b[i] {
            0 | 0x7F => 0.0,
            _ if exponent == 0 => mantissa * f32::from_bits(117 << 23),
            _ => (1.0 + mantissa / 8.0) * f32::from_bits((u32::from(exponent) + 119) << 23),
        }
    })
}

/// The ternary digit that comes first once `q`, a fraction of 243 in 8 bits, is multiplied by a power of 3; less one.
fn ternary(q: u8, power: u8) -> i8 {
    ((u16::from(q.wrapping_mul(power)) * 3) >> 8) as i8 - 1
}

/// Five ternary digits a byte in 32 and in 16 bytes, four a byte in 4 bytes, `d`.
fn tq1_0(b: &[u8; 54], codes: &mut [i8; 256]) -> [f32; 1] {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let mut codes = codes.iter_mut();
    for (bytes, powers) in [(&b[..32], &POWERS[..]), (&b[32..48], &POWERS[..]), (&b[48..52], &POWERS[..4])] {
        for &power in powers {
            for (&q, c) in bytes.iter().zip(&mut codes) {
                *c = ternary(q, power);
            }
        }
    }
    [half::<52, 54>(b)]
}

/// Four ternary digits a byte, `d`.
fn tq2_0(b: &[u8; 66], codes: &mut [i8; 256]) -> [f32; 1] {
    for (i, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (c, &q) in codes.iter_mut().zip(&b[i / 4 * 32..]) {
            *c = (q >> (i % 4 * 2) & 3) as i8 - 1;
        }
    }
    [half::<64, 66>(b)]
}

/// A sign bit an element.
fn q1_0(b: &[u8; 18], codes: &mut [i8; 128]) -> [f32; 1] {
    for (codes, &bits) in codes.as_chunks_mut::<8>().0.iter_mut().zip(&b[2..]) {
        for (j, c) in codes.iter_mut().enumerate() {
            *c = if bits >> j & 1 == 1 { 1 } else { -1 };
        }
    }
    [half::<0, 18>(b)]
}
