//! Versions of mutated tensors.

use super::{Cx, Rule};
use crate::arg::Arg;
use crate::entity::{NodeId, RegionId, SideTable, ValueId};
use crate::graph::Def;
use crate::location::Location;
use crate::op::Op;
use crate::schema::OutputSpec;

/// A point of execution: a position in the text, and the branches and loops it is in, outermost first.
#[derive(Clone, Debug)]
struct Point {
    position: usize,
    /// Each enclosing node with its region.
    inside: Vec<(NodeId, RegionId)>,
}

impl Point {
    /// True if no run reaches both: they are in different branches of one node.
    fn excludes(&self, other: &Point) -> bool {
        self.inside.iter().zip(&other.inside).any(|(a, b)| a.0 == b.0 && a.1 != b.1)
    }
}

struct Write {
    node: NodeId,
    version: ValueId,
    at: Point,
}

struct Read {
    location: Location,
    value: ValueId,
    by: Option<NodeId>,
    at: Point,
}

struct Scan {
    writes: Vec<Write>,
    reads: Vec<Read>,
    position: usize,
    inside: Vec<(NodeId, RegionId)>,
    /// Loops around the definition of each value.
    home: SideTable<ValueId, Vec<NodeId>>,
    loops: Vec<NodeId>,
}

pub(super) fn check(cx: &mut Cx<'_>) {
    let mut scan = Scan {
        writes: Vec::new(),
        reads: Vec::new(),
        position: 0,
        inside: Vec::new(),
        home: SideTable::new(Vec::new()),
        loops: Vec::new(),
    };
    if !cx.g.all_nodes().iter().any(|&n| cx.g.nodes[n].op.mutates()) {
        return;
    }
    scan.region(cx, cx.g.body_id());
    let end = Point { position: scan.position, inside: Vec::new() };
    for (i, &(_, v)) in cx.g.mutations.iter().enumerate() {
        let location = Location::Mutation(cx.index, i);
        scan.reads.push(Read { location, value: v, by: None, at: end.clone() });
    }
    for (i, w) in scan.writes.iter().enumerate() {
        let at = cx.node(w.node);
        let version = cx.name(w.version);
        match root(cx, w.version) {
            Def::Const(c) => cx.report(at, Rule::Versions, format!("{version} is written, and is constant {c}")),
            Def::Input(_) => {
                cx.report(at, Rule::Versions, format!("{version} is written, and is an input of the graph"));
            }
            Def::Buffer(_) | Def::Node(..) | Def::Param(..) => {}
        }
        let loops: Vec<NodeId> = w.at.inside.iter().map(|i| i.0).filter(|&n| cx.g.nodes[n].op == Op::Loop).collect();
        if loops != scan.home[w.version] {
            cx.report(at, Rule::Versions, format!("{version} is written in every round of a loop it is not made in"));
        }
        let same = |other: &&Write| other.version == w.version && !other.at.excludes(&w.at);
        if scan.writes[..i].iter().any(|o| same(&o)) {
            cx.report(at, Rule::Versions, format!("{version} is written a second time: its newest version is another"));
        }
        for r in scan.reads.iter().filter(|r| r.value == w.version && !r.at.excludes(&w.at)) {
            if r.by == Some(w.node) {
                cx.report(at, Rule::Versions, format!("{version} is read by the node that writes it"));
            } else if r.at.position > w.at.position {
                cx.report(
                    r.location,
                    Rule::Versions,
                    format!("{version} is read after it was written: its memory holds a newer version"),
                );
            }
        }
    }
}

/// What the memory of a version is in the beginning.
fn root(cx: &Cx<'_>, version: ValueId) -> Def {
    let mut v = version;
    // Each step goes to a value defined before, or the graph breaks the rule `dominance`.
    for _ in 0..cx.g.values.len() {
        let def = cx.g.values[v].def;
        let Def::Node(n, k) = def else { return def };
        let node = &cx.g.nodes[n];
        if node.op.is_structural() {
            return def;
        }
        let Some(OutputSpec::NewVersion { arg }) = node.op.schema().outputs.get(k as usize) else { return def };
        let Some(Arg::Value(older)) = node.args.get(node.op.schema().input_of(*arg)) else { return def };
        v = *older;
    }
    cx.g.values[v].def
}

impl Scan {
    fn point(&self) -> Point {
        Point { position: self.position, inside: self.inside.clone() }
    }

    fn region(&mut self, cx: &Cx<'_>, r: RegionId) {
        for &p in &cx.g.regions[r].params {
            self.home[p] = self.loops.clone();
        }
        for &n in &cx.g.regions[r].nodes {
            self.position += 1;
            let node = &cx.g.nodes[n];
            let mutated: Vec<usize> = if node.op.is_structural() {
                Vec::new()
            } else {
                let inputs = node.op.schema().inputs().enumerate();
                inputs.filter(|(_, a)| a.is_mutated()).map(|(i, _)| i).collect()
            };
            for (i, a) in node.args.iter().enumerate() {
                match a {
                    Arg::Value(v) if mutated.contains(&i) => {
                        self.writes.push(Write { node: n, version: *v, at: self.point() });
                    }
                    _ => a.for_each_value(|v| {
                        let (location, at) = (cx.node(n), self.point());
                        self.reads.push(Read { location, value: v, by: Some(n), at });
                    }),
                }
            }
            for &v in &node.outputs {
                self.home[v] = self.loops.clone();
            }
            for &inner in &node.regions {
                self.inside.push((n, inner));
                if node.op == Op::Loop {
                    self.loops.push(n);
                }
                self.region(cx, inner);
                if node.op == Op::Loop {
                    self.loops.pop();
                }
                self.inside.pop();
            }
        }
        self.position += 1;
        for &v in &cx.g.regions[r].results {
            let location = Location::Results(cx.index, r);
            self.reads.push(Read { location, value: v, by: None, at: self.point() });
        }
    }
}
