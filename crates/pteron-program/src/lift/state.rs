//! What the memory and the value table of a method hold at a point of its instructions.

use std::collections::BTreeMap;

use pteron_ir::{Arg, NodeId, ValueId};

/// A cell: what an instruction reads or writes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// The interval of an arena that starts here.
    Arena(u32, u64),
    /// Memory that the caller supplies for this tensor value.
    Own(u32),
    /// An int, bool or double of the value table.
    Scalar(u32),
}

/// What a cell holds.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// A value of the graph.
    Value(ValueId),
    /// A literal.
    Literal(Arg),
    /// One thing or the other, by the branch that was taken; an output of the node if it is ever read.
    Phi(Box<Phi>),
    /// Nothing that may be read, and why.
    Garbage(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Phi {
    pub(super) id: u32,
    pub(super) node: NodeId,
    pub(super) then: Entry,
    pub(super) other: Entry,
}

#[derive(Clone, Debug)]
pub(super) struct Cell {
    /// One past the last byte, for arenas.
    pub(super) end: u64,
    pub(super) entry: Entry,
    /// Number of the write; 0 for what is there when the method begins.
    pub(super) version: u32,
    /// The tensor value through which it was written.
    pub(super) writer: u32,
}

/// Where a tensor value's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loc {
    /// A constant of the program or of a file beside it.
    Const(u32),
    /// A cell, with one past its last byte for arenas.
    Cell(Key, u64),
}

/// What a `MoveCall` made of a value.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    /// The tensor of another value.
    Same(u32),
    /// What the branches gave.
    Entry(Entry),
}

/// A pointer set by `et_view`, with the sizes asked for.
#[derive(Clone, Debug)]
pub(super) struct Pointer {
    pub(super) loc: Loc,
    pub(super) sizes: Arg,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) cells: BTreeMap<Key, Cell>,
    pub(super) handles: BTreeMap<u32, Handle>,
    pub(super) pointers: BTreeMap<u32, Pointer>,
    /// Views by version of what they view and the value that views it.
    pub(super) dynamic_views: BTreeMap<(u32, u32), ValueId>,
    /// Views by version of what they view and their sizes.
    pub(super) static_views: BTreeMap<(u32, Vec<i32>), ValueId>,
}

impl State {
    /// Size for the work budget.
    pub(super) fn weight(&self) -> usize {
        self.cells.len() + self.handles.len() + self.pointers.len() + self.dynamic_views.len() + self.static_views.len()
    }

    /// Keys of the cells of an arena that overlap `start..end`, from the last to the first.
    pub(super) fn overlapping(&self, arena: u32, start: u64, end: u64) -> Vec<Key> {
        self.cells
            .range(Key::Arena(arena, 0)..Key::Arena(arena, end))
            .rev()
            .take_while(|(_, c)| c.end > start)
            .map(|(k, _)| *k)
            .collect()
    }

    /// Puts a cell; what else lay there is gone, and what is left of it may not be read.
    pub(super) fn put(&mut self, key: Key, cell: Cell) {
        if let Key::Arena(arena, start) = key {
            for k in self.overlapping(arena, start, cell.end) {
                let (Some(old), Key::Arena(_, old_start)) = (self.cells.remove(&k), k) else { continue };
                let rest = |end| Cell { end, entry: Entry::Garbage("was partly overwritten"), ..old.clone() };
                if old_start < start {
                    self.cells.insert(k, rest(start));
                }
                if old.end > cell.end {
                    self.cells.insert(Key::Arena(arena, cell.end), rest(old.end));
                }
            }
        }
        self.cells.insert(key, cell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(end: u64, version: u32) -> Cell {
        Cell { end, entry: Entry::Literal(Arg::Int(1)), version, writer: 0 }
    }

    #[test]
    fn a_write_leaves_unreadable_rests() {
        let mut s = State::default();
        s.put(Key::Arena(1, 0), cell(32, 1));
        s.put(Key::Arena(1, 32), cell(64, 2));
        s.put(Key::Arena(2, 0), cell(64, 3));
        s.put(Key::Arena(1, 16), cell(48, 4));
        let seen: Vec<_> = s.cells.iter().map(|(k, c)| (*k, c.end, matches!(c.entry, Entry::Garbage(_)))).collect();
        let expected = [
            (Key::Arena(1, 0), 16, true),
            (Key::Arena(1, 16), 48, false),
            (Key::Arena(1, 48), 64, true),
            (Key::Arena(2, 0), 64, false),
        ];
        assert_eq!(seen, expected);
        assert_eq!(s.overlapping(1, 10, 20), [Key::Arena(1, 16), Key::Arena(1, 0)]);
        assert!(s.overlapping(1, 64, 80).is_empty());
    }
}
