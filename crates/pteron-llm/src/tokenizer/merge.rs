//! Byte-pair merging: of all neighbours that may become one symbol, the best pair is merged first, the leftmost of equals;
//! again until none is left. A queue of candidates keeps this at `n log n` for a run of any length.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: u32 = u32::MAX;

/// A piece of the text: the token it stands for, and the bytes it covers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    /// The token.
    pub(super) id: u32,
    /// Where it starts in the text, in bytes.
    pub(super) start: u32,
    /// How many bytes it covers; 0 once it has become part of the one before it.
    pub(super) len: u32,
    /// Whether it may be merged at all.
    pub(super) frozen: bool,
    prev: u32,
    next: u32,
}

impl Symbol {
    /// The bytes it covers.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// A pair that may be merged. Ordered so that the largest is the best: `K` ascending, then the place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<K> {
    order: Reverse<(K, u32)>,
    right: u32,
    len: u32,
    id: u32,
}

/// The buffers of merging, for use again.
#[derive(Debug)]
pub(super) struct Merger<K> {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate<K>>,
}

impl<K: std::fmt::Debug> std::fmt::Debug for Candidate<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}+{}", self.order, self.right)
    }
}

impl<K: Ord + Copy> Merger<K> {
    pub(super) fn new() -> Self {
        Self { symbols: Vec::new(), queue: BinaryHeap::new() }
    }

    /// Begins a new text.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Appends a symbol of at least one byte. The caller keeps texts below `u32::MAX` bytes.
    pub(super) fn push(&mut self, id: u32, start: u32, len: u32, frozen: bool) {
        let at = self.symbols.len() as u32;
        if let Some(last) = self.symbols.last_mut() {
            last.next = at;
        }
        let prev = at.checked_sub(1).unwrap_or(NONE);
        self.symbols.push(Symbol { id, start, len, frozen, prev, next: NONE });
    }

    /// Merges. `pair` says what two neighbours become and how good that is: the smallest key is the best.
    pub(super) fn run(&mut self, mut pair: impl FnMut(&Symbol, &Symbol) -> Option<(K, u32)>) {
        for right in 1..self.symbols.len() as u32 {
            self.consider(right - 1, right, &mut pair);
        }
        while let Some(Candidate { order: Reverse((_, left)), right, len, id }) = self.queue.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            // One of the two has been merged with another neighbour meanwhile.
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue;
            }
            let merged = &mut self.symbols[left as usize];
            merged.id = id;
            merged.len = len;
            merged.next = r.next;
            self.symbols[right as usize].len = 0;
            if let Some(next) = self.symbols.get_mut(r.next as usize) {
                next.prev = left;
            }
            self.consider(l.prev, left, &mut pair);
            self.consider(left, r.next, &mut pair);
        }
    }

    fn consider(&mut self, left: u32, right: u32, pair: &mut impl FnMut(&Symbol, &Symbol) -> Option<(K, u32)>) {
        let (Some(l), Some(r)) = (self.symbols.get(left as usize), self.symbols.get(right as usize)) else { return };
        if l.frozen || r.frozen {
            return;
        }
        if let Some((key, id)) = pair(l, r) {
            self.queue.push(Candidate { order: Reverse((key, left)), right, len: l.len + r.len, id });
        }
    }

    /// What is left, in the order of the text.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &Symbol> {
        self.symbols.iter().filter(|s| s.len > 0)
    }
}

/// A score as a key: the highest score is the smallest key, equal scores are equal keys. Scores are finite.
pub(super) fn by_score(score: f32) -> u32 {
    // Both zeros are one number.
    let bits = (score + 0.0).to_bits();
    let rising = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    !rising
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_pair_goes_first_and_the_leftmost_of_equals() {
        // Symbols are digits; a pair merges if its sum is 3 (best) or 2.
        let merged = |digits: &[u32]| {
            let mut merger = Merger::new();
            for (i, &d) in digits.iter().enumerate() {
                merger.push(d, i as u32, 1, false);
            }
            merger.run(|l, r| match l.id + r.id {
                3 => Some((0, 9)),
                2 => Some((1, 8)),
                _ => None,
            });
            merger.symbols().map(|s| (s.id, s.range())).collect::<Vec<_>>()
        };
        assert_eq!(merged(&[1, 1, 2]), [(1, 0..1), (9, 1..3)]);
        assert_eq!(merged(&[1, 1, 1]), [(8, 0..2), (1, 2..3)]);
        assert_eq!(merged(&[]), []);
        assert_eq!(merged(&[5]), [(5, 0..1)]);
    }

    #[test]
    fn frozen_symbols_stay() {
        let mut merger = Merger::new();
        merger.push(1, 0, 1, true);
        merger.push(1, 1, 1, false);
        merger.push(1, 2, 1, false);
        merger.run(|_, _| Some((0, 7)));
        assert_eq!(merger.symbols().map(|s| s.id).collect::<Vec<_>>(), [1, 7]);
    }

    #[test]
    fn scores_order_as_keys() {
        let falling = [f32::MAX, 2.0, 1.0e-40, 0.0, -1.0e-40, -1.0, -2.5, f32::MIN];
        assert!(falling.windows(2).all(|w| by_score(w[0]) < by_score(w[1])));
        assert_eq!(by_score(0.0), by_score(-0.0));
    }
}
