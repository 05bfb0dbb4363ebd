//! Special tokens: what they are, and where a text spells them.

use super::prefix::PrefixTable;

/// A token that carries structure instead of text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its spelling.
    pub content: String,
}

/// What becomes of special tokens that a text spells out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecialText {
    /// They become their ids, as a rendered chat template needs.
    #[default]
    Parse,
    /// They are text like any other: what a stranger wrote cannot end a turn.
    AsText,
}

/// A stretch of a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Ordinary text, not empty.
    Text(&'t str),
    /// A token that was spelled out.
    Token(u32),
}

/// Tokens that are looked for in a text before anything else: leftmost first, the longest of those that start there.
#[derive(Debug, Default)]
pub(super) struct Spelled {
    /// Those that are text (`<tool>`): always looked for.
    always: PrefixTable,
    /// Special ones too.
    all: PrefixTable,
}

impl Spelled {
    /// Of tokens with their spelling: `special` ones, and `always` those that are text.
    pub(super) fn new(special: &[SpecialToken], always: Vec<(Box<[u8]>, u32)>) -> Self {
        let control = special.iter().map(|t| (t.content.as_bytes().into(), t.id));
        let all = PrefixTable::new(control.chain(always.iter().cloned()).collect());
        Self { always: PrefixTable::new(always), all }
    }

    /// Cuts a text into fragments.
    pub(super) fn cut<'t>(&self, text: &'t str, mode: SpecialText, mut fragment: impl FnMut(Fragment<'t>)) {
        let table = match mode {
            SpecialText::Parse => &self.all,
            SpecialText::AsText => &self.always,
        };
        let bytes = text.as_bytes();
        let (mut start, mut at) = (0, 0);
        while at < bytes.len() && !table.is_empty() {
            // Spellings are whole characters, so a match starts and ends between characters.
            let found = if table.has_first(bytes[at]) { table.longest(&bytes[at..], usize::MAX) } else { None };
            let Some((length, id)) = found else {
                at += 1;
                continue;
            };
            if let Some(before) = text.get(start..at).filter(|t| !t.is_empty()) {
                fragment(Fragment::Text(before));
            }
            fragment(Fragment::Token(id));
            at += length;
            start = at;
        }
        if let Some(rest) = text.get(start..).filter(|t| !t.is_empty()) {
            fragment(Fragment::Text(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leftmost_longest_spelling_counts() {
        let special = [("<s>", 1), ("<s><s>", 2), ("é", 3)].map(|(t, id)| SpecialToken { id, content: t.to_owned() });
        let spelled = Spelled::new(&special, vec![(b"<t>"[..].into(), 4)]);
        let cut = |text: &'static str, mode| {
            let mut out = Vec::new();
            spelled.cut(text, mode, |f| out.push(f));
            out
        };
        use Fragment::{Text, Token};
        assert_eq!(cut("a<s><s><s>bé", SpecialText::Parse), [Text("a"), Token(2), Token(1), Text("b"), Token(3)]);
        assert_eq!(cut("a<s><t>è", SpecialText::AsText), [Text("a<s>"), Token(4), Text("è")]);
        assert_eq!(cut("", SpecialText::Parse), []);
        assert_eq!(Spelled::default().all.longest(b"<s>", 1), None);
    }
}
