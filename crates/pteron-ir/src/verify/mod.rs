//! What every module must satisfy.
//!
//! The rules, by the name under which an error gives them:
//!
//! * `names`: graphs and metadata entries have names, all different from each other.
//! * `constants`: sizes are static; a source has the declared dtype and shape.
//! * `buffers`: sizes are static; an initial value is a constant of the same dtype and shape.
//! * `ids`: every id names something that is there. Where this fails, nothing else of the graph is checked.
//! * `structure`: a region belongs to one node, a node stands in one region, a value is defined once and knows where;
//!   nesting is at most [`MAX_DEPTH`] deep. Where this fails, nothing else of the graph is checked.
//! * `dominance`: a value is used after its definition, in the region that defines it or one inside.
//! * `dims`: no size can only be negative, bounds are in order, a dim order is a permutation.
//! * `symbols`: a symbol in a type is declared, its bounds are in order, and it is bound before: an input's dimension or int
//!   is that symbol, or a region parameter or a node's output of type int is declared as it.
//! * `arguments`: as many as the schema says, each of its kind.
//! * `types`: the declared types of a node's outputs may equal the inferred ones ([`crate::Type::may_equal`]); the value of a
//!   constant or buffer has its type.
//! * `regions`: `cond` has a boolean predicate and two regions without parameters whose results may equal its outputs in
//!   type; `loop` has one region whose parameters, further results and the node's outputs may equal its arguments in type,
//!   and whose first result is boolean; no other node has regions.
//! * `delegates`: `delegate` names a delegate and `custom` a kernel key, no other node does; their arguments need no schema.
//! * `handles`: debug handles are unique in a graph and below the next one to be given.
//! * `versions`: a mutated argument goes back to a buffer or to a tensor made in the graph, never to a constant or an input;
//!   a version is written at most once in any run (so not from inside a loop that it does not belong to); all its readers
//!   come before the writer.
//! * `mutations`: each names another buffer, in order, with a value of the buffer's type.
//!
//! All errors are collected. Nodes, values and regions that cannot be reached from a graph's body are not looked at.

mod items;
mod nodes;
mod structure;
mod versions;

use std::cell::OnceCell;
use std::fmt;

use crate::entity::{Id, NodeId, RegionId, SideTable, ValueId};
use crate::graph::Graph;
use crate::location::{Location, insert_notes};
use crate::module::Module;
use crate::print::{self, Names};

/// Deepest nesting of regions.
pub const MAX_DEPTH: usize = 64;

/// The rule that was broken: see the list in [`crate::verify`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the module's documentation lists the rules by these names")]
pub enum Rule {
    Names,
    Constants,
    Buffers,
    Ids,
    Structure,
    Dominance,
    Dims,
    Symbols,
    Arguments,
    Types,
    Regions,
    Delegates,
    Handles,
    Versions,
    Mutations,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Names => "names",
            Rule::Constants => "constants",
            Rule::Buffers => "buffers",
            Rule::Ids => "ids",
            Rule::Structure => "structure",
            Rule::Dominance => "dominance",
            Rule::Dims => "dims",
            Rule::Symbols => "symbols",
            Rule::Arguments => "arguments",
            Rule::Types => "types",
            Rule::Regions => "regions",
            Rule::Delegates => "delegates",
            Rule::Handles => "handles",
            Rule::Versions => "versions",
            Rule::Mutations => "mutations",
        })
    }
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}{rule}: {message}",
    .graph.as_ref().map(|g| format!("graph `{g}`: ")).unwrap_or_default(),
    .node.as_ref().map(|n| format!("`{n}`: ")).unwrap_or_default())]
pub struct VerifyError {
    /// Where.
    pub location: Location,
    /// The graph's name, if it is in one.
    pub graph: Option<String>,
    /// The node as its line of text, if it is one.
    pub node: Option<String>,
    /// Which rule.
    pub rule: Rule,
    /// What was found and what was expected.
    pub message: String,
}

/// Every broken rule of a module, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifyErrors(pub Vec<VerifyError>);

impl fmt::Display for VerifyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        for (i, e) in self.0.iter().take(SHOWN).enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            e.fmt(f)?;
        }
        if self.0.len() > SHOWN {
            write!(f, "\nand {} more", self.0.len() - SHOWN)?;
        }
        Ok(())
    }
}

impl std::error::Error for VerifyErrors {}

/// Checks a module.
///
/// # Errors
/// Every rule that it breaks.
pub fn module(m: &Module) -> Result<(), VerifyErrors> {
    let mut errors = Vec::new();
    items::check(m, &mut errors);
    for index in 0..m.graphs.len() {
        check_graph(m, index, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(VerifyErrors(errors)) }
}

/// Checks the graph at `index` of the module, and nothing else of the module.
///
/// # Errors
/// Every rule that it breaks.
pub fn graph(m: &Module, index: usize) -> Result<(), VerifyErrors> {
    let mut errors = Vec::new();
    check_graph(m, index, &mut errors);
    if errors.is_empty() { Ok(()) } else { Err(VerifyErrors(errors)) }
}

/// The module's text with each error as a comment under its line.
pub fn annotate(m: &Module, errors: &VerifyErrors) -> String {
    let (text, lines) = print::module_with_lines(m);
    let notes: Vec<_> = errors.0.iter().map(|e| (lines.line(e.location), note(e))).collect();
    insert_notes(&text, &notes)
}

/// An error as a comment says it, where the line itself is in sight.
pub(crate) fn note(e: &VerifyError) -> String {
    format!("error: {}: {}", e.rule, e.message)
}

fn check_graph(m: &Module, index: usize, errors: &mut Vec<VerifyError>) {
    let Some(g) = m.graphs.get(index) else { return };
    let mut cx = Cx { m, g, index, found: Vec::new(), names: OnceCell::new() };
    if structure::check(&mut cx) {
        structure::dominance(&mut cx);
        nodes::check(&mut cx);
        versions::check(&mut cx);
    }
    if cx.found.is_empty() {
        return;
    }
    // Errors of one place stand together, in order of the text.
    let mut order = TextOrder { positions: SideTable::new(usize::MAX), seen: SideTable::new(false), next: 0 };
    order.region(g, g.body_id(), 0);
    let mut found = std::mem::take(&mut cx.found);
    found.sort_by_key(|(location, rule, _)| (order.rank(*location), *rule));
    errors.extend(found.into_iter().map(|(location, rule, message)| VerifyError {
        location,
        graph: Some(g.name.clone()),
        node: match location {
            Location::Node(_, n) => Some(print::node_line(g, cx.names(), n)),
            _ => None,
        },
        rule,
        message,
    }));
}

/// Positions of nodes in the text, as far as they can be reached: the graph may be broken in any way.
struct TextOrder {
    positions: SideTable<NodeId, usize>,
    seen: SideTable<RegionId, bool>,
    next: usize,
}

impl TextOrder {
    fn region(&mut self, g: &Graph, r: RegionId, depth: usize) {
        let Some(region) = g.regions.get(r) else { return };
        if std::mem::replace(&mut self.seen[r], true) || depth > MAX_DEPTH {
            return;
        }
        for (&n, node) in region.nodes.iter().filter_map(|n| g.nodes.get(*n).map(|node| (n, node))) {
            self.positions[n] = self.next;
            self.next += 1;
            node.regions.iter().for_each(|&inner| self.region(g, inner, depth + 1));
        }
    }

    fn rank(&self, location: Location) -> (usize, usize) {
        match location {
            Location::Node(_, n) => (1, self.positions[n]),
            Location::Mutation(_, i) => (2, i),
            Location::Results(_, r) => (3, r.index()),
            Location::Module
            | Location::Constant(_)
            | Location::Buffer(_)
            | Location::Delegate(_)
            | Location::Metadata(_)
            | Location::Graph(_) => (0, 0),
        }
    }
}

/// A graph under check.
struct Cx<'a> {
    m: &'a Module,
    g: &'a Graph,
    index: usize,
    found: Vec<(Location, Rule, String)>,
    names: OnceCell<Names>,
}

impl Cx<'_> {
    fn names(&self) -> &Names {
        self.names.get_or_init(|| Names::new(self.g))
    }

    fn name(&self, v: ValueId) -> String {
        self.names().of(self.g, v)
    }

    fn report(&mut self, location: Location, rule: Rule, message: impl Into<String>) {
        self.found.push((location, rule, message.into()));
    }

    fn node(&self, n: NodeId) -> Location {
        Location::Node(self.index, n)
    }

    fn header(&self) -> Location {
        Location::Graph(self.index)
    }
}

#[cfg(test)]
mod tests;
