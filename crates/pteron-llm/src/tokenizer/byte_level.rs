//! The byte alphabet of byte-level BPE: each byte is one visible character.
//!
//! Source: GPT-2's `bytes_to_unicode`. Bytes that are visible in Latin-1 stand for themselves; the other 68, in rising
//! order, take the characters from U+0100 on.

/// Whether a byte stands for itself.
const fn is_visible(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

const SHIFTED: [u8; 68] = {
    let mut table = [0; 68];
    let (mut byte, mut n) = (0usize, 0);
    while byte < 256 {
        if !is_visible(byte as u8) {
            table[n] = byte as u8;
            n += 1;
        }
        byte += 1;
    }
    table
};

/// The byte a character stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ 0..=0xFF if is_visible(code as u8) => Some(code as u8),
        code @ 0x100.. => SHIFTED.get(code as usize - 0x100).copied(),
        _ => None,
    }
}

/// The character of a byte.
pub(super) fn char_of(byte: u8) -> char {
    if is_visible(byte) {
        return char::from(byte);
    }
    // Rising, so that the place in the table is the place in the alphabet.
    let place = SHIFTED.binary_search(&byte).unwrap_or_default() as u32;
    char::from_u32(0x100 + place).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Appends the bytes of a token. A token with a character outside the alphabet (an added token) stands for its own text.
pub(super) fn push_bytes(piece: &str, out: &mut Vec<u8>) {
    let start = out.len();
    for c in piece.chars() {
        match byte_of(c) {
            Some(byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(piece.as_bytes());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut seen = [false; 256];
        for byte in (0..=0x200).filter_map(char::from_u32).filter_map(byte_of) {
            assert!(!std::mem::replace(&mut seen[usize::from(byte)], true));
        }
        assert!(seen.iter().all(|&s| s));
        assert!((0..=255).all(|byte| byte_of(char_of(byte)) == Some(byte)));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('▁'), None);
    }
}
