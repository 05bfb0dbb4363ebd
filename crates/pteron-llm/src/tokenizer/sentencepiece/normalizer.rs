//! Rewriting of a text before pieces are looked for, by the rules of `NormalizerSpec`.
//!
//! `precompiled_charsmap` holds the size of a double-array trie in bytes, the trie, and the replacements, each ended by a
//! zero byte. The trie's units are those of Darts-clone: label in bits 0–7 and 31, whether a leaf follows in bit 8, offset
//! in bits 10–30, shifted by 8 where bit 9 is set; a leaf's unit is its value.

use super::super::TokenizerError;
use super::super::prefix::PrefixTable;
use super::super::validate::{MAX_REPLACEMENT_BYTES, SENTENCEPIECE, invalid};
use super::proto::NormalizerSpec;

/// The character that stands for a space in pieces.
pub(crate) const SPACE: &str = "\u{2581}";
/// Most matches of the trie, of which the longest counts.
const MAX_TRIE_MATCHES: usize = 32;
/// Most user-defined pieces at one place, of which the longest counts.
pub(super) const MAX_USER_MATCHES: usize = 64;

#[derive(Debug)]
struct CharsMap {
    units: Box<[u32]>,
    replacements: Box<str>,
}

impl CharsMap {
    fn parse(bytes: &[u8]) -> Result<Self, TokenizerError> {
        let broken = |what: &str| invalid(SENTENCEPIECE, format_args!("`precompiled_charsmap`: {what}"));
        let (size, rest) = bytes.split_first_chunk::<4>().ok_or_else(|| broken("its size is missing"))?;
        let size = u32::from_le_bytes(*size) as usize;
        if !size.is_multiple_of(4) {
            return Err(broken("the trie's size is no multiple of 4"));
        }
        let (trie, replacements) =
            rest.split_at_checked(size).ok_or_else(|| broken("the trie is larger than the field"))?;
        let replacements = std::str::from_utf8(replacements).map_err(|_| broken("a replacement is not UTF-8"))?;
        let unit = |c: &[u8]| c.try_into().map(u32::from_le_bytes).unwrap_or_default();
        Ok(Self { units: trie.chunks_exact(4).map(unit).collect(), replacements: replacements.into() })
    }

    /// Length of the longest rule that `text` starts with, and its replacement.
    fn longest(&self, text: &[u8]) -> Result<Option<(usize, &str)>, TokenizerError> {
        let offset = |unit: u32| (unit >> 10) << ((unit & (1 << 9)) >> 6);
        let unit = |at: u32| self.units.get(at as usize).copied();
        let Some(root) = unit(0) else { return Ok(None) };
        let (mut node, mut found, mut matches) = (offset(root), None, 0);
        for (at, &byte) in text.iter().enumerate() {
            node ^= u32::from(byte);
            let Some(here) = unit(node).filter(|u| u & (1 << 31 | 0xFF) == u32::from(byte)) else { break };
            node ^= offset(here);
            if here & 1 << 8 != 0 {
                let Some(leaf) = unit(node) else { break };
                found = Some((at + 1, leaf & !(1 << 31)));
                matches += 1;
                if matches == MAX_TRIE_MATCHES {
                    break;
                }
            }
        }
        let Some((length, at)) = found else { return Ok(None) };
        let broken = |what: &str| TokenizerError::Failed {
            action: "encode",
            message: format!("`precompiled_charsmap` {what}, the file is inconsistent"),
        };
        let rest = self.replacements.get(at as usize..).ok_or_else(|| broken("points outside its replacements"))?;
        let end = rest.bytes().take(MAX_REPLACEMENT_BYTES + 1).position(|b| b == 0).unwrap_or(rest.len());
        match rest.get(..end).filter(|r| r.len() <= MAX_REPLACEMENT_BYTES) {
            Some(replacement) => Ok(Some((length, replacement))),
            None => Err(broken("has a replacement that is longer than any text's")),
        }
    }
}

/// Rewrites texts.
#[derive(Debug)]
pub(super) struct Normalizer {
    spec: NormalizerSpec,
    charsmap: Option<CharsMap>,
    suffix: bool,
}

impl Normalizer {
    /// `suffix`: the space that is added goes behind the text instead of before it.
    pub(super) fn new(mut spec: NormalizerSpec, suffix: bool) -> Result<Self, TokenizerError> {
        let bytes = std::mem::take(&mut spec.charsmap);
        let charsmap = if bytes.is_empty() { None } else { Some(CharsMap::parse(&bytes)?) };
        Ok(Self { spec, charsmap, suffix })
    }

    pub(super) fn spec(&self) -> &NormalizerSpec {
        &self.spec
    }

    /// The next stretch of `text`, rewritten, and how many bytes it stood for.
    fn prefix<'t>(&'t self, text: &'t str, user: &PrefixTable) -> Result<(&'t str, usize), TokenizerError> {
        if let Some((length, _)) = user.longest(text.as_bytes(), MAX_USER_MATCHES)
            && let Some(piece) = text.get(..length)
        {
            return Ok((piece, length));
        }
        if let Some(map) = &self.charsmap
            && let Some((length, replacement)) = map.longest(text.as_bytes())?
            && text.is_char_boundary(length)
        {
            return Ok((replacement, length));
        }
        let length = text.chars().next().map_or(0, char::len_utf8);
        Ok((&text[..length], length))
    }

    /// `text` as pieces are looked for in it. Pieces of `user` stay as they are.
    pub(super) fn normalize(&self, text: &str, user: &PrefixTable) -> Result<String, TokenizerError> {
        let mut rest = text;
        let mut out = String::with_capacity(text.len() + text.len() / 4 + SPACE.len());
        let space = if self.spec.escape_whitespaces { SPACE } else { " " };
        if self.spec.remove_extra_whitespaces {
            while !rest.is_empty() {
                let (stretch, length) = self.prefix(rest, user)?;
                if stretch != " " {
                    break;
                }
                rest = &rest[length..];
            }
        }
        if rest.is_empty() {
            return Ok(out);
        }
        if self.spec.add_dummy_prefix && !self.suffix {
            out.push_str(space);
        }
        let mut after_space = self.spec.remove_extra_whitespaces;
        while !rest.is_empty() {
            let (mut stretch, length) = self.prefix(rest, user)?;
            if after_space {
                stretch = stretch.trim_start_matches(' ');
            }
            if !stretch.is_empty() {
                for (at, part) in stretch.split(' ').enumerate() {
                    if at > 0 {
                        out.push_str(space);
                    }
                    out.push_str(part);
                }
                after_space = stretch.ends_with(' ');
            }
            if !self.spec.remove_extra_whitespaces {
                after_space = false;
            }
            rest = &rest[length..];
        }
        if self.spec.remove_extra_whitespaces {
            out.truncate(out.trim_end_matches(space).len());
        }
        if self.spec.add_dummy_prefix && self.suffix {
            out.push_str(space);
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(spec: NormalizerSpec, suffix: bool, text: &str) -> String {
        let user = PrefixTable::new(vec![(b" !"[..].into(), 0)]);
        Normalizer::new(spec, suffix).unwrap().normalize(text, &user).unwrap()
    }

    #[test]
    fn white_space_follows_the_flags() {
        let plain = NormalizerSpec { remove_extra_whitespaces: false, ..NormalizerSpec::default() };
        assert_eq!(normalized(NormalizerSpec::default(), false, "  a  b "), "▁a▁b");
        assert_eq!(normalized(NormalizerSpec::default(), true, "  a  b "), "a▁b▁");
        assert_eq!(normalized(NormalizerSpec::default(), false, "   "), "");
        assert_eq!(normalized(plain.clone(), false, "  a "), "▁▁▁a▁");
        assert_eq!(normalized(plain.clone(), false, ""), "");
        assert_eq!(normalized(NormalizerSpec { add_dummy_prefix: false, ..plain.clone() }, false, "a b"), "a▁b");
        assert_eq!(normalized(NormalizerSpec { escape_whitespaces: false, ..plain }, false, "a b"), " a b");
        assert_eq!(normalized(NormalizerSpec::default(), false, "a  !b"), "▁a▁!b");
    }

    #[test]
    fn a_broken_map_is_an_error_and_never_more() {
        for (map, part) in [
            (&b"\x01"[..], "its size is missing"),
            (b"\x03\0\0\0abc", "no multiple of 4"),
            (b"\x08\0\0\0abcd", "larger than the field"),
            (b"\0\0\0\0\xFF", "not UTF-8"),
        ] {
            let spec = NormalizerSpec { charsmap: map.to_vec(), ..NormalizerSpec::default() };
            let error = Normalizer::new(spec, false).unwrap_err().to_string();
            assert!(error.contains(part), "{part} in: {error}");
        }
        // Root with offset 0; the unit of `a` has a leaf, at its own place xor its offset.
        let mut units = [0u32; 128];
        units[0x61] = 0x61 | 1 << 8 | 1 << 10;
        let map = |value: u32, replacements: &[u8]| {
            let mut units = units;
            units[0x61 ^ 1] = value | 1 << 31;
            let mut bytes = 512u32.to_le_bytes().to_vec();
            bytes.extend(units.iter().flat_map(|u| u.to_le_bytes()));
            bytes.extend(replacements);
            let spec = NormalizerSpec { charsmap: bytes, add_dummy_prefix: false, ..NormalizerSpec::default() };
            Normalizer::new(spec, false).unwrap().normalize("xay", &PrefixTable::default())
        };
        assert_eq!(map(0, b"AB\0").unwrap(), "xABy");
        assert_eq!(map(2, b"AB\0").unwrap(), "xy");
        assert_eq!(map(1, b"AB").unwrap(), "xBy");
        assert!(map(4, b"AB\0").unwrap_err().to_string().contains("points outside"));
        assert!(map(1, "é\0".as_bytes()).unwrap_err().to_string().contains("points outside"));
        let long = [b'A'; MAX_REPLACEMENT_BYTES + 1];
        assert!(map(0, &long).unwrap_err().to_string().contains("longer than any"));
        assert_eq!(map(1, &long).unwrap().len(), MAX_REPLACEMENT_BYTES + 2);
    }
}
