//! Which pieces of a list a text starts with: a sorted list, narrowed byte by byte.

/// Pieces with their ids, sorted by their bytes. Needs no memory beyond the pieces.
#[derive(Debug, Default)]
pub(super) struct PrefixTable {
    pieces: Vec<(Box<[u8]>, u32)>,
    /// Where the pieces with each first byte start; 257 entries, none for an empty table.
    first: Vec<u32>,
}

impl PrefixTable {
    /// Of pieces of at least one byte, each of which occurs once.
    pub(super) fn new(mut pieces: Vec<(Box<[u8]>, u32)>) -> Self {
        pieces.retain(|(piece, _)| !piece.is_empty());
        if pieces.is_empty() {
            return Self::default();
        }
        pieces.sort_unstable();
        pieces.dedup_by(|a, b| a.0 == b.0);
        let mut first = vec![0u32; 257];
        for (piece, _) in &pieces {
            first[usize::from(piece[0]) + 1] += 1;
        }
        for byte in 0..256 {
            first[byte + 1] += first[byte];
        }
        Self { pieces, first }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether any piece starts with this byte.
    pub(super) fn has_first(&self, byte: u8) -> bool {
        let at = usize::from(byte);
        !self.pieces.is_empty() && self.first[at] < self.first[at + 1]
    }

    /// Calls `found` with length and id of every piece that `text` starts with, the shortest first, until it says stop.
    pub(super) fn each(&self, text: &[u8], mut found: impl FnMut(usize, u32) -> bool) {
        let Some(&byte) = text.first().filter(|_| !self.pieces.is_empty()) else { return };
        let (mut low, mut high) = (self.first[usize::from(byte)] as usize, self.first[usize::from(byte) + 1] as usize);
        let mut depth = 1;
        while low < high {
            // All pieces of the range share the first `depth` bytes of the text.
            if self.pieces[low].0.len() == depth {
                if !found(depth, self.pieces[low].1) {
                    return;
                }
                low += 1;
            }
            let Some(&byte) = text.get(depth) else { return };
            let range = &self.pieces[low..high];
            let start = range.partition_point(|(piece, _)| piece[depth] < byte);
            let end = start + range[start..].partition_point(|(piece, _)| piece[depth] == byte);
            (low, high) = (low + start, low + end);
            depth += 1;
        }
    }

    /// The longest piece that `text` starts with, among the first `most` that are found: its length and id.
    pub(super) fn longest(&self, text: &[u8], most: usize) -> Option<(usize, u32)> {
        let (mut best, mut seen) = (None, 0);
        self.each(text, |length, id| {
            best = Some((length, id));
            seen += 1;
            seen < most
        });
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pieces: &[&str]) -> PrefixTable {
        PrefixTable::new(pieces.iter().enumerate().map(|(i, p)| (p.as_bytes().into(), i as u32)).collect())
    }

    #[test]
    fn all_prefixes_are_found_shortest_first() {
        let t = table(&["b", "abc", "a", "abd", "ab", "é", "abcde"]);
        let all = |text: &str| {
            let mut found = Vec::new();
            t.each(text.as_bytes(), |length, id| {
                found.push((length, id));
                true
            });
            found
        };
        assert_eq!(all("abcdx"), [(1, 2), (2, 4), (3, 1)]);
        assert_eq!(all("abcde"), [(1, 2), (2, 4), (3, 1), (5, 6)]);
        assert_eq!(all("é!"), [(2, 5)]);
        assert_eq!(all("x"), []);
        assert_eq!(all(""), []);
        assert_eq!(t.longest(b"abd", usize::MAX), Some((3, 3)));
        assert_eq!(t.longest(b"abd", 2), Some((2, 4)));
        assert!(t.has_first(b'a') && !t.has_first(b'x'));
        assert!(table(&[]).is_empty() && !table(&[]).has_first(b'a') && table(&[]).longest(b"a", 9).is_none());
    }
}
