//! Which values share an entry of the value table, which share memory, and where that memory is.

use std::collections::BTreeMap;

use pteron_ir::memory::{
    Interval, Storage, StorageId, StorageKind, StorageMap, aliased_input, executorch_greedy, place,
};
use pteron_ir::{Arg, BufferId, Def, Graph, Id, NodeId, Op, OutputSpec, RegionId, SideTable, TensorType, ValueId};
use pteron_pte::Allocation;

use super::EmitOptions;
use super::legalise::{Places, storage_map};
use crate::error::EmitError;

const ALIGN: usize = 16;

/// How a loop's or a branch's result gets into the entry of the node's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// It is written there by the node that makes it.
    InPlace,
    /// It is copied there.
    Copy,
    /// It is copied to memory of its own first, because another copy overwrites it.
    Through(usize),
}

pub(super) struct MemoryPlan {
    map: StorageMap,
    parent: Vec<usize>,
    storage_parent: Vec<usize>,
    allocations: SideTable<StorageId, Option<Allocation>>,
    /// First values of each loop's parameters.
    pub(super) entering: BTreeMap<NodeId, Vec<Transfer>>,
    /// Results of each region other than the body.
    pub(super) leaving: BTreeMap<RegionId, Vec<Transfer>>,
    /// Planned memory of temporaries of parallel copies, with their types.
    pub(super) extra: Vec<(Allocation, TensorType)>,
    /// Sizes of arenas 1 and up.
    pub(super) arenas: Vec<u64>,
    /// What ExecuTorch's own placement needs for the same pieces in arena 1.
    pub(super) executorch: u64,
}

/// Offsets of the buffers that several methods share, and their arena's size.
pub(super) struct SharedBuffers {
    pub(super) offsets: BTreeMap<BufferId, u64>,
    pub(super) size: u64,
}

fn root(parent: &mut [usize], mut i: usize) -> usize {
    while parent[i] != i {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    i
}

impl MemoryPlan {
    pub(super) fn new(graph: &Graph, options: &EmitOptions, shared: &SharedBuffers) -> Result<MemoryPlan, EmitError> {
        let map = storage_map(graph)?;
        let mut plan = MemoryPlan {
            parent: (0..graph.values.len()).collect(),
            storage_parent: (0..map.storages.len()).collect(),
            allocations: SideTable::new(None),
            entering: BTreeMap::new(),
            leaving: BTreeMap::new(),
            extra: Vec::new(),
            arenas: Vec::new(),
            executorch: 0,
            map,
        };
        let order = graph.all_nodes();
        for &n in &order {
            for k in 0..graph.nodes[n].outputs.len() {
                if let Some(source) = aliased_input(graph, n, k, false) {
                    let out = graph.nodes[n].outputs[k];
                    plan.join(source, out);
                }
            }
        }
        let places = Places::of(graph);
        let mut temporaries: Vec<(Interval, TensorType)> = Vec::new();
        for &n in &order {
            match graph.nodes[n].op {
                Op::Loop => plan.plan_loop(graph, &places, n, &mut temporaries),
                Op::Cond => plan.plan_branches(graph, &places, n),
                _ => {}
            }
        }
        plan.place(graph, options, shared, &order, temporaries);
        Ok(plan)
    }

    /// Adds bytes behind arena 1.
    pub(super) fn pad(&mut self, bytes: u64) {
        if let Some(first) = self.arenas.first_mut() {
            *first = first.saturating_add(bytes);
            self.executorch = self.executorch.saturating_add(bytes);
        }
    }

    /// The value whose entry `v` uses.
    pub(super) fn entry(&mut self, v: ValueId) -> ValueId {
        ValueId::from_index(root(&mut self.parent, v.index()))
    }

    /// The piece of memory of `v`, merged pieces as one.
    fn piece(&mut self, v: ValueId) -> Option<usize> {
        let s = self.map.of[v]?;
        Some(root(&mut self.storage_parent, s.index()))
    }

    /// Whose memory `v` is in.
    pub(super) fn kind(&mut self, v: ValueId) -> Option<StorageKind> {
        let s = self.piece(v)?;
        Some(self.map.storages[StorageId::from_index(s)].kind)
    }

    /// Where `v` lies in planned memory.
    pub(super) fn allocation(&mut self, v: ValueId) -> Option<Allocation> {
        let s = self.piece(v)?;
        self.allocations[StorageId::from_index(s)]
    }

    /// Makes `v` use the entry and the memory of `keep`.
    fn join(&mut self, keep: ValueId, v: ValueId) {
        let (a, b) = (root(&mut self.parent, keep.index()), root(&mut self.parent, v.index()));
        self.parent[b] = a;
        let (Some(s), Some(t)) = (self.piece(keep), self.piece(v)) else { return };
        if s != t {
            self.storage_parent[t] = s;
            let other = self.map.storages[StorageId::from_index(t)].clone();
            let mine = &mut self.map.storages[StorageId::from_index(s)];
            mine.bytes = mine.bytes.max(other.bytes);
            mine.first = mine.first.min(other.first);
            mine.last = mine.last.max(other.last);
        }
    }

    /// True if `v` is made by a kernel in `region` that can write it into the entry of `into`.
    fn can_be_written_into(
        &mut self,
        graph: &Graph,
        places: &Places,
        v: ValueId,
        into: ValueId,
        region: RegionId,
    ) -> bool {
        let first = self.entry(v);
        let Def::Node(n, k) = graph.values[first].def else { return false };
        if places.region[n] != Some(region) {
            return false;
        }
        let op = graph.nodes[n].op;
        let written = if op == Op::Custom {
            true
        } else {
            !op.is_structural()
                && matches!(op.schema().outputs.get(k as usize), Some(OutputSpec::Out { .. }))
                && aliased_input(graph, n, k as usize, true).is_none()
        };
        let (Some(a), Some(b)) = (graph.ty(v).as_tensor(), graph.ty(into).as_tensor()) else { return false };
        let fits = a.dtype == b.dtype
            && a.dim_order() == b.dim_order()
            && (!b.is_static() || (a.dims == b.dims && graph.ty(first) == graph.ty(v)));
        written && fits && self.kind(v) == Some(StorageKind::Temp)
    }

    /// How often anything in `v`'s memory is read by nodes and results.
    fn uses(&mut self, graph: &Graph, v: ValueId) -> usize {
        let Some(piece) = self.piece(v) else { return 0 };
        let mut count = 0;
        let mut add = |this: &mut Self, u: ValueId| count += usize::from(this.piece(u) == Some(piece));
        for n in graph.all_nodes() {
            let mut read = Vec::new();
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(|u| read.push(u)));
            read.into_iter().for_each(|u| add(self, u));
        }
        for (_, r) in graph.regions.iter() {
            r.results.iter().for_each(|&u| add(self, u));
        }
        count
    }

    fn plan_branches(&mut self, graph: &Graph, places: &Places, n: NodeId) {
        let node = &graph.nodes[n];
        for &r in &node.regions {
            let mut transfers = Vec::new();
            let results = &graph.regions[r].results;
            for (&v, &out) in results.iter().zip(&node.outputs) {
                let once = results.iter().filter(|&&u| self.piece(u) == self.piece(v)).count() == 1;
                if graph.ty(v).as_tensor().is_some() && once && self.can_be_written_into(graph, places, v, out, r) {
                    self.join(out, v);
                    transfers.push(Transfer::InPlace);
                } else {
                    transfers.push(Transfer::Copy);
                }
            }
            self.leaving.insert(r, transfers);
        }
    }

    fn plan_loop(&mut self, graph: &Graph, places: &Places, n: NodeId, temporaries: &mut Vec<(Interval, TensorType)>) {
        let node = &graph.nodes[n];
        let (Some(&body), Some(region)) = (node.regions.first(), places.region[n]) else { return };
        let params = graph.regions[body].params.clone();
        for (&p, &out) in params.iter().zip(&node.outputs) {
            self.join(p, out);
        }
        let mut entering = Vec::new();
        for (arg, &p) in node.args.iter().zip(&params) {
            let in_place = match arg {
                Arg::Value(v) => {
                    graph.ty(*v).as_tensor().is_some()
                        && self.can_be_written_into(graph, places, *v, p, region)
                        && self.uses(graph, *v) == 1
                }
                _ => false,
            };
            if let (true, Arg::Value(v)) = (in_place, arg) {
                self.join(p, *v);
            }
            entering.push(if in_place { Transfer::InPlace } else { Transfer::Copy });
        }
        self.entering.insert(n, entering);
        let results: Vec<ValueId> = graph.regions[body].results.iter().skip(1).copied().collect();
        let mut leaving = vec![Transfer::InPlace];
        for (&v, &p) in results.iter().zip(&params) {
            let in_place = if graph.ty(v).as_tensor().is_none() {
                self.entry(v) == self.entry(p)
            } else {
                self.piece(v) == self.piece(p) || self.next_in_place(graph, places, v, p, body)
            };
            if in_place && self.piece(v) != self.piece(p) {
                self.join(p, v);
            }
            leaving.push(if in_place { Transfer::InPlace } else { Transfer::Copy });
        }
        // What a copy reads and another overwrites takes a detour.
        let span = Interval { bytes: 0, first: places.position[n], last: places.end[body].saturating_sub(1) };
        let span = Interval { last: span.last.max(span.first), ..span };
        for k in 0..results.len() {
            if leaving[k + 1] != Transfer::Copy {
                continue;
            }
            let v = results[k];
            let clash = params.iter().enumerate().any(|(j, &p)| {
                j != k
                    && match graph.ty(v).as_tensor() {
                        Some(_) => self.piece(v).is_some() && self.piece(v) == self.piece(p),
                        None => self.entry(v) == self.entry(p),
                    }
            });
            if clash {
                match graph.ty(v).as_tensor() {
                    Some(ty) => {
                        let bytes = ty.max_bytes(&graph.symbols).unwrap_or(0);
                        temporaries.push((Interval { bytes, ..span }, ty.clone()));
                        leaving[k + 1] = Transfer::Through(temporaries.len() - 1);
                    }
                    None => leaving[k + 1] = Transfer::Through(usize::MAX),
                }
            }
        }
        self.leaving.insert(body, leaving);
    }

    /// True if the body's node that makes `v` can write it over the parameter, which nothing reads from there on.
    fn next_in_place(&mut self, graph: &Graph, places: &Places, v: ValueId, p: ValueId, body: RegionId) -> bool {
        if !self.can_be_written_into(graph, places, v, p, body) || self.uses(graph, v) != 1 {
            return false;
        }
        let first = self.entry(v);
        let Def::Node(maker, _) = graph.values[first].def else { return false };
        let Some(piece) = self.piece(p) else { return false };
        let (from, to) = (places.position[maker], places.end[body]);
        for n in graph.all_nodes() {
            let at = places.position[n];
            if at < from || at >= to {
                continue;
            }
            let mut read = Vec::new();
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(|u| read.push(u)));
            for &r in &graph.nodes[n].regions {
                read.extend(&graph.regions[r].results);
            }
            if read.into_iter().any(|u| self.piece(u) == Some(piece)) {
                return false;
            }
        }
        let results = graph.regions[body].results.clone();
        !results.into_iter().any(|u| self.piece(u) == Some(piece))
    }

    /// First and last position of the pieces that are made and read for the last time in one passage over a loop's body;
    /// nothing of them is left for the next.
    fn within_a_passage(&mut self, graph: &Graph, order: &[NodeId]) -> BTreeMap<usize, (usize, usize)> {
        let places = Places::of(graph);
        // The loop bodies around a region, the innermost first.
        let bodies = |mut r: RegionId| {
            let mut out = Vec::new();
            while let Some(owner) = places.owner[r] {
                if graph.nodes[owner].op == Op::Loop {
                    out.push(r);
                }
                let Some(outer) = places.region[owner] else { break };
                r = outer;
            }
            out
        };
        let mut home: BTreeMap<usize, Option<RegionId>> = BTreeMap::new();
        let mut span: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (v, data) in graph.values.iter() {
            let Some(piece) = self.piece(v) else { continue };
            let body = match data.def {
                Def::Node(n, _) if graph.nodes[n].op != Op::Loop => {
                    let Some(region) = places.region[n] else { continue };
                    let end =
                        if graph.nodes[n].op == Op::Cond { last_inside(graph, &places, n) } else { places.position[n] };
                    let s = span.entry(piece).or_insert((places.position[n], end));
                    *s = (s.0.min(places.position[n]), s.1.max(end));
                    bodies(region).first().copied()
                }
                _ => None,
            };
            home.entry(piece).and_modify(|h| *h = h.filter(|h| Some(*h) == body)).or_insert(body);
        }
        let mut uses: Vec<(usize, RegionId, usize)> = Vec::new();
        for &n in order {
            let Some(region) = places.region[n] else { continue };
            let mut read = Vec::new();
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(|v| read.push(v)));
            uses.extend(read.into_iter().filter_map(|v| self.piece(v)).map(|p| (p, region, places.position[n])));
            for &r in &graph.nodes[n].regions {
                let end = places.end[r].max(places.position[n] + 1) - 1;
                let results = graph.regions[r].results.clone();
                uses.extend(results.into_iter().filter_map(|v| self.piece(v)).map(|p| (p, r, end)));
            }
        }
        for (piece, region, at) in uses {
            let (Some(Some(body)), Some(s)) = (home.get(&piece), span.get_mut(&piece)) else { continue };
            // A read inside a further loop may happen until that loop ends.
            let deeper = bodies(region).into_iter().take_while(|b| b != body).last();
            s.1 = s.1.max(deeper.map_or(at, |d| places.end[d].max(at)));
        }
        span.retain(|piece, _| matches!(home.get(piece), Some(Some(_))));
        span
    }

    fn place(
        &mut self,
        graph: &Graph,
        options: &EmitOptions,
        shared: &SharedBuffers,
        order: &[NodeId],
        temporaries: Vec<(Interval, TensorType)>,
    ) {
        let outputs: Vec<usize> = if options.alloc_graph_output {
            Vec::new()
        } else {
            graph.outputs().iter().filter_map(|&v| self.piece(v)).collect()
        };
        let within = self.within_a_passage(graph, order);
        let mut items: Vec<Interval> = Vec::new();
        let mut of: Vec<StorageId> = Vec::new();
        let mut uses_shared = false;
        for i in 0..self.map.storages.len() {
            if root(&mut self.storage_parent, i) != i {
                continue;
            }
            let id = StorageId::from_index(i);
            let s = self.map.storages[id].clone();
            match s.kind {
                StorageKind::Const(_) => continue,
                StorageKind::Input(_) if !options.alloc_graph_input => continue,
                StorageKind::Buffer(b) => {
                    if let Some(&offset) = shared.offsets.get(&b) {
                        self.allocations[id] = Some(Allocation { memory_id: 2, offset });
                        uses_shared = true;
                        continue;
                    }
                }
                StorageKind::Temp if outputs.contains(&i) => continue,
                StorageKind::Temp | StorageKind::Input(_) => {}
            }
            let s = match within.get(&i) {
                Some(&(first, last)) => Storage { first, last, ..s },
                None => s,
            };
            let first = if matches!(s.kind, StorageKind::Temp) { s.first } else { 0 };
            let last = if matches!(s.kind, StorageKind::Buffer(_)) { order.len() } else { s.last.max(first) };
            items.push(Interval { bytes: s.bytes, first, last });
            of.push(id);
        }
        let pieces = items.len();
        items.extend(temporaries.iter().map(|t| t.0));
        let placement = place(&items, ALIGN);
        let at = |i: usize| placement.offsets.get(i).copied().unwrap_or(0) as u64;
        for (i, id) in of.into_iter().enumerate() {
            self.allocations[id] = Some(Allocation { memory_id: 1, offset: at(i) });
        }
        for (i, (_, ty)) in temporaries.into_iter().enumerate() {
            self.extra.push((Allocation { memory_id: 1, offset: at(pieces + i) }, ty));
        }
        self.executorch = executorch_greedy(&items, ALIGN).total as u64;
        self.arenas.push(placement.total as u64);
        if uses_shared {
            self.arenas.push(shared.size);
        }
    }
}

/// Position of the last node in the node's regions, or its own.
fn last_inside(graph: &Graph, places: &Places, n: NodeId) -> usize {
    let ends = graph.nodes[n].regions.iter().map(|&r| places.end[r].max(1) - 1);
    ends.fold(places.position[n], usize::max)
}
