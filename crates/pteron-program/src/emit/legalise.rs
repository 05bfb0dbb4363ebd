//! A copy of a graph in which every mutation may happen in place.
//!
//! * The value that a buffer ends with is copied into the buffer, unless it is already there.
//! * A mutated argument that is an input or a constant is cloned first; so is one that a loop's body mutates and that was
//!   made before the loop.
//! * Each version of a tensor is read for the last time before the next version is written: a later reader gets a clone
//!   made before the writer.

use pteron_ir::memory::{StorageKind, StorageMap, aliased_input, storages};
use pteron_ir::{Arg, Def, Extra, Graph, NodeId, Op, OutputSpec, PathId, RegionId, SideTable, ValueId};

use super::EmitOptions;
use crate::error::EmitError;

/// Where regions and nodes stand.
pub(super) struct Places {
    /// Region of each node.
    pub(super) region: SideTable<NodeId, Option<RegionId>>,
    /// Node that owns each region.
    pub(super) owner: SideTable<RegionId, Option<NodeId>>,
    /// Position of each node, in order of execution.
    pub(super) position: SideTable<NodeId, usize>,
    /// One past the position of the last node in each region.
    pub(super) end: SideTable<RegionId, usize>,
}

impl Places {
    pub(super) fn of(graph: &Graph) -> Places {
        let mut p = Places {
            region: SideTable::new(None),
            owner: SideTable::new(None),
            position: SideTable::new(usize::MAX),
            end: SideTable::new(0),
        };
        let mut next = 0;
        p.visit(graph, graph.body_id(), &mut next);
        p
    }

    fn visit(&mut self, graph: &Graph, r: RegionId, next: &mut usize) {
        for &n in &graph.regions[r].nodes {
            self.region[n] = Some(r);
            self.position[n] = *next;
            *next += 1;
            for &inner in &graph.nodes[n].regions {
                self.owner[inner] = Some(n);
                self.visit(graph, inner, next);
            }
        }
        self.end[r] = *next;
    }

    /// The regions around `r`, itself first.
    fn enclosing(&self, r: RegionId) -> Vec<RegionId> {
        let mut out = vec![r];
        let mut at = r;
        while let Some(outer) = self.owner[at].and_then(|n| self.region[n]) {
            out.push(outer);
            at = outer;
        }
        out
    }

    /// The region that defines a value.
    pub(super) fn def_region(&self, graph: &Graph, v: ValueId) -> RegionId {
        match graph.values[v].def {
            Def::Node(n, _) => self.region[n].unwrap_or(graph.body_id()),
            Def::Param(r, _) => r,
            _ => graph.body_id(),
        }
    }

    /// The node of region `outer` that is `n` or holds it.
    fn ancestor_in(&self, n: NodeId, outer: RegionId) -> Option<NodeId> {
        let mut at = n;
        loop {
            let r = self.region[at]?;
            if r == outer {
                return Some(at);
            }
            at = self.owner[r]?;
        }
    }
}

/// Who reads a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Node(NodeId, usize),
    Result(RegionId),
}

fn readers(graph: &Graph, v: ValueId) -> Vec<Reader> {
    let mut out = Vec::new();
    for n in graph.all_nodes() {
        for (i, a) in graph.nodes[n].args.iter().enumerate() {
            let mut found = false;
            a.for_each_value(|x| found |= x == v);
            if found {
                out.push(Reader::Node(n, i));
            }
        }
    }
    for (r, region) in graph.regions.iter() {
        if region.results.contains(&v) {
            out.push(Reader::Result(r));
        }
    }
    out
}

fn clone_before(graph: &mut Graph, v: ValueId, region: RegionId, at: usize, path: PathId) -> ValueId {
    let ty = graph.ty(v).clone();
    let n = graph.add_node(region, Op::Clone, [Arg::Value(v), Arg::None], [ty], Extra::None, path);
    graph.regions[region].nodes.pop();
    graph.regions[region].nodes.insert(at, n);
    graph.nodes[n].outputs[0]
}

fn index_of(graph: &Graph, region: RegionId, n: NodeId) -> usize {
    graph.regions[region].nodes.iter().position(|&m| m == n).unwrap_or(0)
}

/// The node's mutated arguments: their positions, with the values they are.
fn mutated(graph: &Graph, n: NodeId) -> Vec<(usize, ValueId)> {
    let node = &graph.nodes[n];
    if node.op.is_structural() || !node.op.mutates() {
        return Vec::new();
    }
    let schema = node.op.schema();
    let specs = schema.outputs.iter().filter_map(|s| match s {
        OutputSpec::NewVersion { arg } => Some(schema.input_of(*arg)),
        _ => None,
    });
    specs
        .filter_map(|i| match node.args.get(i) {
            Some(Arg::Value(v)) => Some((i, *v)),
            _ => None,
        })
        .collect()
}

pub(super) fn storage_map(graph: &Graph) -> Result<StorageMap, EmitError> {
    storages(graph, true).map_err(|source| EmitError::Memory { method: graph.name.clone(), source })
}

/// The copy.
pub(super) fn legalise(module: &pteron_ir::Module, graph: &Graph, options: &EmitOptions) -> Result<Graph, EmitError> {
    let mut g = graph.clone();
    own_memory(&mut g)?;
    write_back(module, &mut g)?;
    own_memory(&mut g)?;
    separate_versions(&mut g)?;
    own_outputs(&mut g, options)?;
    Ok(g)
}

/// Clones what may not be mutated where it is.
fn own_memory(g: &mut Graph) -> Result<(), EmitError> {
    let map = storage_map(g)?;
    let places = Places::of(g);
    for n in g.all_nodes() {
        for (i, v) in mutated(g, n) {
            let kind = map.of[v].map(|s| map.storages[s].kind);
            let foreign = matches!(kind, Some(StorageKind::Const(_) | StorageKind::Input(_)));
            let Some(region) = places.region[n] else { continue };
            let home = places.def_region(g, v);
            let regions = places.enclosing(region);
            let crossed = regions.iter().take_while(|r| **r != home);
            // A copy overwrites all of it, so repeating it does no harm.
            let repeated = g.nodes[n].op != Op::CopyInto
                && crossed.into_iter().any(|&r| places.owner[r].is_some_and(|o| g.nodes[o].op == Op::Loop));
            if foreign || repeated {
                let (at, path) = (index_of(g, region, n), g.nodes[n].path);
                let clone = clone_before(g, v, region, at, path);
                g.nodes[n].args[i] = Arg::Value(clone);
            }
        }
    }
    Ok(())
}

/// Appends a copy into each buffer that does not already hold what it must end with.
fn write_back(module: &pteron_ir::Module, g: &mut Graph) -> Result<(), EmitError> {
    let mutations = std::mem::take(&mut g.mutations);
    let mut copies: Vec<(ValueId, ValueId)> = Vec::new();
    for (b, v) in mutations {
        let ty = module.buffers[b].ty.clone();
        let buffer = g.module_value(Def::Buffer(b), || ty.into());
        if v != buffer {
            copies.push((buffer, v));
        }
    }
    let map = storage_map(g)?;
    let places = Places::of(g);
    let defined = |v: ValueId| match g.values[v].def {
        Def::Node(n, _) => places.position[n] + 1,
        _ => 0,
    };
    let order = g.all_nodes();
    copies.retain(|&(buffer, v)| {
        let same = map.of[v].is_some() && map.of[v] == map.of[buffer];
        let overwritten = order.iter().any(|&n| {
            places.position[n] + 1 > defined(v) && mutated(g, n).iter().any(|m| map.of[m.1] == map.of[buffer])
        });
        !same || overwritten
    });
    // What another copy reads is overwritten last.
    while !copies.is_empty() {
        let free = |i: &usize| {
            let to = map.of[copies[*i].0];
            copies.iter().enumerate().all(|(j, c)| j == *i || map.of[c.1] != to)
        };
        let i = (0..copies.len()).find(free).unwrap_or(0);
        let (buffer, v) = copies.remove(i);
        let ty = g.ty(buffer).clone();
        let path = match g.values[v].def {
            Def::Node(n, _) => g.nodes[n].path,
            _ => pteron_ir::Id::from_index(0),
        };
        let args = [Arg::Value(buffer), Arg::Value(v), Arg::Bool(false)];
        let body = g.body_id();
        g.add_node(body, Op::CopyInto, args, [ty], Extra::None, path);
    }
    Ok(())
}

/// Gives readers of overwritten versions a clone.
fn separate_versions(g: &mut Graph) -> Result<(), EmitError> {
    'again: loop {
        let map = storage_map(g)?;
        let places = Places::of(g);
        for n in g.all_nodes() {
            for (i, m) in mutated(g, n) {
                let Some(storage) = map.of[m] else { continue };
                let stale: Vec<ValueId> = g
                    .values
                    .iter()
                    .map(|(v, _)| v)
                    .filter(|&v| map.of[v] == Some(storage) && before(g, &places, v, n))
                    .collect();
                for u in stale {
                    let late: Vec<Reader> = readers(g, u)
                        .into_iter()
                        .filter(|r| *r != Reader::Node(n, i) && reads_after(g, &places, *r, n, u))
                        .collect();
                    if late.is_empty() {
                        continue;
                    }
                    let region = places.def_region(g, u);
                    let Some(anchor) = places.ancestor_in(n, region) else { continue };
                    let (at, path) = (index_of(g, region, anchor), g.nodes[n].path);
                    let clone = clone_before(g, u, region, at, path);
                    for r in late {
                        let swap = |v: ValueId| if v == u { clone } else { v };
                        match r {
                            Reader::Node(q, k) => g.nodes[q].args[k].map_values(swap),
                            Reader::Result(r) => g.regions[r].results.iter_mut().for_each(|v| *v = swap(*v)),
                        }
                    }
                    continue 'again;
                }
            }
        }
        return Ok(());
    }
}

/// True if `v` is there before `n` is executed.
fn before(g: &Graph, places: &Places, v: ValueId, n: NodeId) -> bool {
    match g.values[v].def {
        Def::Node(d, _) => places.position[d] < places.position[n],
        Def::Param(r, _) => {
            places.region[n].is_some_and(|at| places.enclosing(at).contains(&r)) || places.end[r] <= places.position[n]
        }
        _ => true,
    }
}

/// True if the reader may read `u` after `n` wrote over it.
fn reads_after(g: &Graph, places: &Places, reader: Reader, n: NodeId, u: ValueId) -> bool {
    let Some(writer_region) = places.region[n] else { return false };
    let (region, after) = match reader {
        Reader::Node(q, i) => {
            let Some(r) = places.region[q] else { return false };
            // A copy does not read what it overwrites.
            if g.nodes[q].op == Op::CopyInto && i == 0 {
                return false;
            }
            (r, places.position[q] >= places.position[n])
        }
        Reader::Result(r) => (r, places.end[r] > places.position[n]),
    };
    let (around_n, around_q) = (places.enclosing(writer_region), places.enclosing(region));
    let common = around_n.iter().find(|r| around_q.contains(r)).copied();
    let Some(common) = common else { return false };
    // In one loop, and made before it: the next passage reads it again.
    let home = places.def_region(g, u);
    let outside = places.enclosing(home);
    let looped = around_n.iter().any(|r| {
        around_q.contains(r) && !outside.contains(r) && places.owner[*r].is_some_and(|o| g.nodes[o].op == Op::Loop)
    });
    if looped {
        return true;
    }
    // In different branches of one node.
    let side = |around: &[RegionId]| around.iter().copied().take_while(|r| *r != common).last();
    if let (Some(a), Some(b)) = (side(&around_n), side(&around_q))
        && a != b
        && places.owner[a] == places.owner[b]
    {
        return false;
    }
    after
}

/// Clones outputs that cannot stand where the caller looks for them.
fn own_outputs(g: &mut Graph, options: &EmitOptions) -> Result<(), EmitError> {
    let map = storage_map(g)?;
    let mut seen = Vec::new();
    let outputs = g.outputs().to_vec();
    let mut new = Vec::with_capacity(outputs.len());
    for v in outputs {
        let Some(s) = map.of[v] else {
            new.push(v);
            continue;
        };
        let storage = &map.storages[s];
        let plain = match g.values[v].def {
            Def::Node(n, k) => {
                !matches!(g.nodes[n].op, Op::Cond | Op::Loop) && aliased_input(g, n, k as usize, true).is_none()
            }
            _ => false,
        };
        let fixed = matches!(storage.kind, StorageKind::Const(_) | StorageKind::Input(_));
        let foreign = !options.alloc_graph_output && (!plain || seen.contains(&s));
        seen.push(s);
        if fixed || foreign {
            let body = g.body_id();
            let (at, path) = (g.regions[body].nodes.len(), pteron_ir::Id::from_index(0));
            new.push(clone_before(g, v, body, at, path));
        } else {
            new.push(v);
        }
    }
    g.set_outputs(new);
    Ok(())
}
