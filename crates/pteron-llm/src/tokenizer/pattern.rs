//! Pre-tokenizer patterns: how a text is cut before pairs are merged.
//!
//! A pattern is a list of alternatives, the first that matches counts. The published ones end in `\s+(?!\S)|\s+`: white
//! space up to its last character, which goes with the word behind it. That look-ahead is done here by hand, so that
//! matching runs in linear time without backtracking. Files do not bring patterns of their own into the matcher: only those
//! of this list are executed.

use regex_automata::meta::Regex;
use regex_automata::{Input, MatchKind};

/// The end of a pattern that this module matches itself.
const TAIL: &str = r"|\s+(?!\S)|\s+";

/// A published pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Published(&'static str);

/// GPT-2's (`tiktoken` `gpt2`, `tokenizers` `ByteLevel`).
pub(super) const GPT2: Published =
    Published(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+");
/// Llama 3's (`llama-models`, `llama3/tokenizer.py`), which is `cl100k_base`'s.
pub(super) const LLAMA3: Published = Published(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Llama 3's as ExecuTorch's C++ tokenizer has it: RE2 knows no look-ahead, and its `\s` is that of ASCII.
pub(super) const LLAMA3_RE2: Published = Published(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\t\n\x0C\r \p{L}\p{N}]+[\r\n]*|[\t\n\x0C\r ]*[\r\n]+|[\t\n\x0C\r ]+",
);
/// `o200k_base`'s, which Llama 4 has.
pub(super) const O200K: Published = Published(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Mistral's Tekken.
pub(super) const TEKKEN: Published = Published(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Qwen 2's: Llama 3's with single digits.
pub(super) const QWEN2: Published = Published(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Qwen 3.5's: marks belong to their letters.
pub(super) const QWEN35: Published = Published(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// DeepSeek V3's last step.
pub(super) const DEEPSEEK3: Published = Published(
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
);
/// Seed-Coder's.
pub(super) const SEED_CODER: Published = Published(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
);
/// Bailing's.
pub(super) const BAILING: Published = Published(
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
);

/// Single steps of pre-tokenizers that have several.
pub(super) const DIGIT: Published = Published(r"\p{N}");
pub(super) const DIGITS: Published = Published(r"\p{N}+");
pub(super) const THREE_NUMBERS: Published = Published(r"\p{N}{1,3}");
pub(super) const THREE_DIGITS: Published = Published(r"[0-9][0-9][0-9]");
pub(super) const PUNCTUATION: Published = Published(r"[\p{P}\$\+<=>\^~\|]+");
pub(super) const FALCON_PUNCTUATION: Published = Published(r"[\p{P}\$\+<=>\^~\|`]+");
pub(super) const NEW_LINE: Published = Published(r"[\r\n]");
pub(super) const WORD: Published = Published(r"\s?\p{L}+");
pub(super) const PUNCTUATION_RUN: Published = Published(r"\s?\p{P}+");
pub(super) const CJK: Published = Published("[\u{4E00}-\u{9FA5}\u{0800}-\u{4E00}\u{AC00}-\u{D7FF}]+");
pub(super) const CJK_KANA: Published = Published("[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+");

/// The patterns that a `tekken.json` may name.
const NAMED: [Published; 5] = [TEKKEN, LLAMA3, O200K, GPT2, QWEN2];

/// The pattern with this source, if it is one of the published whole ones.
pub(super) fn find(source: &str) -> Option<Published> {
    NAMED.into_iter().find(|p| p.0 == source)
}

/// One step: a pattern that is ready to match.
#[derive(Debug)]
struct Step {
    /// The alternatives as pattern 0; white space, whose last character may be given back, as pattern 1.
    regex: Regex,
}

/// Steps that cut a text, each the parts that the one before it left: matches are parts, and so is what lies between.
#[derive(Debug)]
pub(super) struct Cutter {
    steps: Vec<Step>,
}

impl Cutter {
    pub(super) fn new(patterns: &[Published]) -> Result<Self, String> {
        let compile = |pattern: &Published| {
            let config = Regex::config().match_kind(MatchKind::LeftmostFirst);
            let compiled = match pattern.0.strip_suffix(TAIL) {
                Some(head) => Regex::builder().configure(config).build_many(&[head, r"\s+"]),
                None => Regex::builder().configure(config).build(pattern.0),
            };
            compiled.map(|regex| Step { regex }).map_err(|e| e.to_string())
        };
        Ok(Self { steps: patterns.iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// Calls `part` with every part of `text`, in order; together they are the text.
    pub(super) fn cut<'t>(&self, text: &'t str, part: &mut dyn FnMut(&'t str)) {
        cut(&self.steps, text, part);
    }
}

fn cut<'t>(steps: &[Step], text: &'t str, part: &mut dyn FnMut(&'t str)) {
    let Some((step, rest)) = steps.split_first() else {
        part(text);
        return;
    };
    let mut at = 0;
    while at < text.len() {
        let Some(found) = step.regex.search(&Input::new(text).range(at..)) else { break };
        let (start, mut end) = (found.start(), found.end());
        // White space in front of something that is none leaves its last character to it.
        if found.pattern().as_usize() == 1 && end < text.len() {
            let last = text[start..end].chars().next_back().map_or(0, char::len_utf8);
            if end - last > start {
                end -= last;
            }
        }
        if end == start {
            break;
        }
        if start > at {
            cut(rest, &text[at..start], part);
        }
        cut(rest, &text[start..end], part);
        at = end;
    }
    if at < text.len() {
        cut(rest, &text[at..], part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(patterns: &[Published], text: &str) -> Vec<String> {
        let mut out = Vec::new();
        Cutter::new(patterns).unwrap().cut(text, &mut |p| out.push(p.to_owned()));
        assert_eq!(out.concat(), text);
        out
    }

    #[test]
    fn every_pattern_compiles() {
        for p in [GPT2, LLAMA3, LLAMA3_RE2, O200K, TEKKEN, QWEN2, QWEN35, DEEPSEEK3, SEED_CODER, BAILING]
            .into_iter()
            .chain([DIGIT, DIGITS, THREE_NUMBERS, THREE_DIGITS, PUNCTUATION, FALCON_PUNCTUATION, NEW_LINE, WORD])
            .chain([PUNCTUATION_RUN, CJK, CJK_KANA])
        {
            assert!(Cutter::new(&[p]).is_ok(), "{p:?}");
            assert!(!p.0.strip_suffix(TAIL).unwrap_or(p.0).contains("(?!"), "{p:?}");
        }
    }

    #[test]
    fn white_space_gives_its_last_character_to_the_word_behind_it() {
        assert_eq!(parts(&[LLAMA3], "   hello"), ["  ", " hello"]);
        assert_eq!(parts(&[LLAMA3_RE2], "   hello"), ["   ", "hello"]);
        assert_eq!(parts(&[LLAMA3], "a  b"), ["a", " ", " b"]);
        assert_eq!(parts(&[LLAMA3_RE2], "a  b"), ["a", "  ", "b"]);
        assert_eq!(parts(&[LLAMA3], "x\n\n  y"), ["x", "\n\n", " ", " y"]);
        assert_eq!(parts(&[LLAMA3], "x \n y "), ["x", " \n", " y", " "]);
        assert_eq!(parts(&[LLAMA3], "a \u{3000}"), ["a", " \u{3000}"]);
        assert_eq!(parts(&[GPT2], "a\nb  "), ["a", "\n", "b", "  "]);
    }

    #[test]
    fn steps_cut_what_the_step_before_left() {
        assert_eq!(parts(&[DIGIT, GPT2], "ab 123 x"), ["ab", " ", "1", "2", "3", " x"]);
        assert_eq!(parts(&[THREE_NUMBERS], "1234x"), ["123", "4", "x"]);
        assert_eq!(parts(&[], "whole"), ["whole"]);
    }

    #[test]
    fn a_pattern_is_found_by_its_source() {
        assert_eq!(find(TEKKEN.0), Some(TEKKEN));
        assert_eq!(find("(a*)*b"), None);
    }
}
