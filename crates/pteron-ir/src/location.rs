//! Places of a module that a line of its text stands for.

use std::collections::BTreeMap;

use crate::entity::{BufferId, ConstId, DelegateId, NodeId, RegionId};

/// A place in a module. Graphs are named by their position in [`crate::Module::graphs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Location {
    /// The module as a whole.
    Module,
    /// The declaration of a constant.
    Constant(ConstId),
    /// The declaration of a buffer.
    Buffer(BufferId),
    /// The declaration of a delegate.
    Delegate(DelegateId),
    /// The metadata entry of that position.
    Metadata(usize),
    /// A graph's header: name, inputs, symbols.
    Graph(usize),
    /// A node.
    Node(usize, NodeId),
    /// The results of a region: `return` of the body, `yield` of the others.
    Results(usize, RegionId),
    /// The mutation of that position in [`crate::Graph::mutations`].
    Mutation(usize, usize),
}

/// The line, counted from 1, on which each place of a module stands in a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineMap {
    lines: BTreeMap<Location, usize>,
}

impl LineMap {
    /// Notes that `location` stands on `line`.
    pub fn set(&mut self, location: Location, line: usize) {
        self.lines.insert(location, line);
    }

    /// The line of `location`; of what holds it if it has none of its own; 1 if nothing has.
    pub fn line(&self, location: Location) -> usize {
        let outer = match location {
            Location::Node(g, _) | Location::Results(g, _) | Location::Mutation(g, _) => Location::Graph(g),
            _ => Location::Module,
        };
        [location, outer, Location::Module].iter().find_map(|l| self.lines.get(l).copied()).unwrap_or(1)
    }
}

/// `text` with a comment line after each of the given lines, indented as the line it follows. Notes on one line keep their
/// order. A note's own line breaks become spaces.
pub fn insert_notes(text: &str, notes: &[(usize, String)]) -> String {
    let mut by_line: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    for (line, note) in notes {
        by_line.entry(*line).or_default().push(note);
    }
    let mut out = String::with_capacity(text.len());
    for (number, line) in (1..).zip(text.lines()) {
        out.push_str(line);
        out.push('\n');
        let indent = &line[..line.len() - line.trim_start().len()];
        for note in by_line.remove(&number).unwrap_or_default() {
            out.push_str(indent);
            out.push_str("; ");
            out.push_str(&note.split(['\n', '\r']).map(str::trim).collect::<Vec<_>>().join(" "));
            out.push('\n');
        }
    }
    for note in by_line.into_values().flatten() {
        out.push_str("; ");
        out.push_str(note);
        out.push('\n');
    }
    out
}
