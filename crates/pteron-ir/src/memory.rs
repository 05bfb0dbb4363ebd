//! Which values share memory, how long each piece lives, and where it is put.
//!
//! Used twice: by the executor for its arena, and by the emitter for the planned memory of a program.

use std::fmt;

use crate::IdMap;
use crate::arg::Arg;
use crate::entity::{BufferId, ConstId, Id, NodeId, RegionId, SideTable, ValueId};
use crate::graph::{Def, Graph};
use crate::op::Op;
use crate::schema::OutputSpec;
use crate::types::Type;

/// A piece of memory that one or more values share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorageId(u32);

impl Id for StorageId {
    fn from_index(index: usize) -> Self {
        StorageId(u32::try_from(index).unwrap_or(u32::MAX))
    }
    fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

impl fmt::Debug for StorageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageKind {
    /// The caller's: an input of that position.
    Input(u32),
    /// A constant of the module.
    Const(ConstId),
    /// A mutable buffer of the module.
    Buffer(BufferId),
    /// The plan's own.
    Temp,
}

/// A piece of memory.
#[derive(Clone, Debug)]
pub struct Storage {
    /// Whose it is.
    pub kind: StorageKind,
    /// Size in bytes at the largest sizes.
    pub bytes: usize,
    /// Position of the node that first writes it, in [`Graph::all_nodes`]; 0 for what is there before.
    pub first: usize,
    /// Position of the node that last uses it; the number of nodes for what outlives the call.
    pub last: usize,
    /// The value it was made for.
    pub value: ValueId,
}

/// Storage of every tensor value of a graph.
#[derive(Clone, Debug)]
pub struct StorageMap {
    /// All pieces.
    pub storages: IdMap<StorageId, Storage>,
    /// The piece of each tensor value.
    pub of: SideTable<ValueId, Option<StorageId>>,
}

/// Why memory could not be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// A tensor whose size has no upper bound.
    #[error("{value} of type {ty} has no upper bound, so no memory can be planned for it")]
    Unbounded {
        /// The value.
        value: ValueId,
        /// Its type.
        ty: String,
    },
}

/// Assigns storage. With `alias_views`, the output of a view operator ([`Op::is_view`]) of a row-major tensor shares its
/// input's memory. The new version of a mutated argument always shares that argument's memory.
///
/// Lifetimes: what a region reads from outside lives to the region's end; inside a loop everything lives for the whole loop;
/// results of a branch or a loop's body live as long as the outputs of their node.
///
/// # Errors
/// [`MemoryError::Unbounded`].
pub fn storages(graph: &Graph, alias_views: bool) -> Result<StorageMap, MemoryError> {
    storages_where(graph, &|_| alias_views)
}

/// [`storages`], with views sharing memory only where their old contents cannot be overwritten while the view may still be
/// read: no later node, and in a graph with loops no node at all, writes the shared piece in place. For a consumer that
/// computes the other views.
///
/// # Errors
/// [`MemoryError::Unbounded`].
pub fn storages_with_safe_views(graph: &Graph) -> Result<StorageMap, MemoryError> {
    let shared = storages(graph, true)?;
    let order = graph.all_nodes();
    let loops = order.iter().any(|&n| graph.nodes[n].op == Op::Loop);
    // The last position at which each piece is written in place.
    let mut written: SideTable<StorageId, Option<usize>> = SideTable::new(None);
    for (i, &n) in order.iter().enumerate() {
        for k in 0..graph.nodes[n].outputs.len() {
            if let Some(source) = aliased_input(graph, n, k, false)
                && let Some(s) = shared.of[source]
            {
                written[s] = Some(i);
            }
        }
    }
    let mut safe: SideTable<NodeId, bool> = SideTable::new(true);
    for (i, &n) in order.iter().enumerate() {
        let out = graph.nodes[n].outputs.first().and_then(|&v| shared.of[v]);
        if let Some(at) = out.and_then(|s| written[s]) {
            safe[n] = at < i && !loops;
        }
    }
    storages_where(graph, &|n| safe[n])
}

fn storages_where(graph: &Graph, alias_view: &dyn Fn(NodeId) -> bool) -> Result<StorageMap, MemoryError> {
    let order = graph.all_nodes();
    let mut map = StorageMap { storages: IdMap::new(), of: SideTable::new(None) };
    let mut position: SideTable<NodeId, usize> = SideTable::new(usize::MAX);
    for (i, &n) in order.iter().enumerate() {
        position[n] = i;
    }
    let end = order.len();
    for (v, data) in graph.values.iter() {
        let kind = match data.def {
            Def::Input(i) => StorageKind::Input(i),
            Def::Const(c) => StorageKind::Const(c),
            Def::Buffer(b) => StorageKind::Buffer(b),
            _ => continue,
        };
        add(&mut map, graph, v, kind, 0)?;
    }
    // Pieces: in order of definition.
    for (i, &n) in order.iter().enumerate() {
        let node = &graph.nodes[n];
        for &r in &node.regions {
            for &p in &graph.regions[r].params {
                add(&mut map, graph, p, StorageKind::Temp, i)?;
            }
        }
        for (k, &v) in node.outputs.iter().enumerate() {
            if let Some(source) = aliased_input(graph, n, k, alias_view(n))
                && let Some(s) = map.of[source]
            {
                map.of[v] = Some(s);
                continue;
            }
            add(&mut map, graph, v, StorageKind::Temp, i)?;
        }
    }
    // Uses.
    extend_region(graph, graph.body_id(), &position, None, &mut map);
    let keep = |map: &mut StorageMap, v: ValueId| {
        if let Some(s) = map.of[v] {
            map.storages[s].last = end;
        }
    };
    graph.outputs().iter().for_each(|&v| keep(&mut map, v));
    graph.mutations.iter().for_each(|m| keep(&mut map, m.1));
    for (_, s) in map.storages.iter_mut() {
        if matches!(s.kind, StorageKind::Buffer(_)) {
            s.last = end;
        }
    }
    // A branch's results must outlive every use of the outputs they become, in whatever order nodes are nested.
    for &n in order.iter().rev() {
        let node = &graph.nodes[n];
        for &r in &node.regions {
            let skip = usize::from(node.op == Op::Loop);
            for (&result, &out) in graph.regions[r].results.iter().skip(skip).zip(&node.outputs) {
                if let (Some(a), Some(b)) = (map.of[result], map.of[out]) {
                    map.storages[a].last = map.storages[a].last.max(map.storages[b].last);
                }
            }
        }
    }
    Ok(map)
}

fn add(map: &mut StorageMap, graph: &Graph, v: ValueId, kind: StorageKind, at: usize) -> Result<(), MemoryError> {
    let Type::Tensor(ty) = graph.ty(v) else { return Ok(()) };
    let bytes = ty.max_bytes(&graph.symbols).ok_or_else(|| MemoryError::Unbounded { value: v, ty: ty.to_string() })?;
    map.of[v] = Some(map.storages.push(Storage { kind, bytes, first: at, last: at, value: v }));
    Ok(())
}

/// The input whose memory output `k` of `n` shares.
pub fn aliased_input(graph: &Graph, n: NodeId, k: usize, alias_views: bool) -> Option<ValueId> {
    let node = &graph.nodes[n];
    if node.op.is_structural() {
        return None;
    }
    let schema = node.op.schema();
    let arg = match schema.outputs.get(k)? {
        OutputSpec::NewVersion { arg } => schema.input_of(*arg),
        _ if alias_views && node.op.is_view() => 0,
        _ => return None,
    };
    let Some(Arg::Value(v)) = node.args.get(arg) else { return None };
    if node.op.is_view() && graph.ty(*v).as_tensor().is_none_or(|t| t.order.is_some()) {
        return None;
    }
    Some(*v)
}

/// Marks uses in `region`; in a loop (`span`) every use lasts to the loop's end.
fn extend_region(
    graph: &Graph,
    region: RegionId,
    position: &SideTable<NodeId, usize>,
    span: Option<(usize, usize)>,
    map: &mut StorageMap,
) {
    let mut touch = |v: ValueId, at: usize| {
        if let Some(s) = map.of[v] {
            let s = &mut map.storages[s];
            match span {
                Some((from, to)) => {
                    if s.first > from {
                        s.first = from;
                    }
                    s.last = s.last.max(to);
                }
                None => s.last = s.last.max(at),
            }
        }
    };
    for &n in &graph.regions[region].nodes {
        let node = &graph.nodes[n];
        let at = position[n];
        node.outputs.iter().for_each(|&v| touch(v, at));
        node.args.iter().for_each(|a| a.for_each_value(|v| touch(v, at)));
    }
    let last = graph.regions[region].nodes.last().map_or(0, |&n| last_position(graph, n, position));
    if region != graph.body_id() {
        graph.regions[region].results.iter().for_each(|&v| touch(v, last));
        graph.regions[region].params.iter().for_each(|&v| touch(v, last));
    }
    for &n in &graph.regions[region].nodes {
        let node = &graph.nodes[n];
        let inner = match (span, node.op) {
            (None, Op::Loop) => Some((position[n], last_position(graph, n, position))),
            (span, _) => span,
        };
        for &r in &node.regions {
            extend_region(graph, r, position, inner, map);
            // The node's outputs are written while its regions run.
            for &v in &node.outputs {
                if let Some(s) = map.of[v] {
                    let to = inner.map_or(last_position(graph, n, position), |s| s.1);
                    map.storages[s].last = map.storages[s].last.max(to);
                }
            }
        }
    }
}

fn last_position(graph: &Graph, n: NodeId, position: &SideTable<NodeId, usize>) -> usize {
    let regions = graph.nodes[n].regions.iter();
    let inner =
        regions.filter_map(|&r| graph.regions[r].nodes.iter().map(|&m| last_position(graph, m, position)).max());
    inner.max().unwrap_or(position[n]).max(position[n])
}

/// A piece to be placed: its size and the positions between which it lives, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interval {
    /// Size in bytes.
    pub bytes: usize,
    /// First position.
    pub first: usize,
    /// Last position.
    pub last: usize,
}

impl Interval {
    fn overlaps(&self, other: &Interval) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Offsets of pieces in one arena.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Offset of each piece, in the order given.
    pub offsets: Vec<usize>,
    /// Size of the arena.
    pub total: usize,
}

fn align_up(n: usize, align: usize) -> usize {
    n.div_ceil(align.max(1)).saturating_mul(align.max(1))
}

/// Places pieces so that those alive together do not overlap. Three orders are tried (by size, by lifetime × size, by time)
/// with best-fit gaps, and ExecuTorch's own greedy placement; the smallest arena wins, so it is never larger than
/// ExecuTorch's for the same pieces. Deterministic.
pub fn place(items: &[Interval], align: usize) -> Placement {
    let mut by_size: Vec<usize> = (0..items.len()).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(items[i].bytes), items[i].first, i));
    let mut by_area = by_size.clone();
    by_area.sort_by_key(|&i| (std::cmp::Reverse(items[i].bytes.saturating_mul(1 + items[i].last - items[i].first)), i));
    let mut by_time: Vec<usize> = (0..items.len()).collect();
    by_time.sort_by_key(|&i| (items[i].first, std::cmp::Reverse(items[i].bytes), i));
    let mut best = executorch_greedy(items, align);
    for order in [by_size, by_area, by_time] {
        let p = best_fit(items, &order, align);
        if p.total < best.total {
            best = p;
        }
    }
    best
}

fn best_fit(items: &[Interval], order: &[usize], align: usize) -> Placement {
    let mut offsets = vec![0usize; items.len()];
    // Placed pieces, by offset.
    let mut placed: Vec<usize> = Vec::with_capacity(items.len());
    let mut total = 0;
    for &i in order {
        let need = align_up(items[i].bytes, align);
        if need == 0 {
            continue;
        }
        let (mut at, mut best, mut cursor) = (None::<usize>, usize::MAX, 0usize);
        for &j in placed.iter().filter(|&&j| items[j].overlaps(&items[i])) {
            if let Some(gap) = offsets[j].checked_sub(cursor)
                && gap >= need
                && gap < best
            {
                at = Some(cursor);
                best = gap;
            }
            cursor = cursor.max(offsets[j] + align_up(items[j].bytes, align));
        }
        let at = at.unwrap_or(cursor);
        offsets[i] = at;
        total = total.max(at + need);
        let slot = placed.partition_point(|&j| offsets[j] <= at);
        placed.insert(slot, i);
    }
    Placement { offsets, total }
}

/// The placement of ExecuTorch's default planner (`greedy`): pieces by falling size (among equal sizes the last first); each
/// goes to the first bucket where nothing overlaps it in time, else to the first bucket with room after the overlapping ones,
/// else to a new bucket of its size; buckets are laid end to end.
pub fn executorch_greedy(items: &[Interval], align: usize) -> Placement {
    struct Bucket {
        size: usize,
        members: Vec<(usize, usize)>,
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|&i| align_up(items[i].bytes, align));
    order.reverse();
    let mut buckets: Vec<Bucket> = Vec::new();
    let mut slot = vec![(0usize, 0usize); items.len()];
    for &i in &order {
        let need = align_up(items[i].bytes, align);
        let free_from = |b: &Bucket| {
            let over = b.members.iter().filter(|m| items[m.0].overlaps(&items[i]));
            over.map(|m| m.1 + align_up(items[m.0].bytes, align)).max().unwrap_or(0)
        };
        let empty = buckets.iter().position(|b| free_from(b) == 0 && need <= b.size);
        let found = empty.or_else(|| buckets.iter().position(|b| free_from(b) + need <= b.size));
        let k = found.unwrap_or_else(|| {
            buckets.push(Bucket { size: need, members: Vec::new() });
            buckets.len() - 1
        });
        let at = free_from(&buckets[k]);
        buckets[k].members.push((i, at));
        slot[i] = (k, at);
    }
    let mut starts = Vec::with_capacity(buckets.len());
    let mut total = 0;
    for b in &buckets {
        starts.push(total);
        total += b.size;
    }
    Placement { offsets: slot.iter().map(|&(k, at)| starts.get(k).copied().unwrap_or(0) + at).collect(), total }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(items: &[Interval], p: &Placement, align: usize) {
        for (i, a) in items.iter().enumerate() {
            assert!(p.offsets[i] + a.bytes <= p.total || a.bytes == 0);
            assert_eq!(p.offsets[i] % align, 0);
            for (j, b) in items.iter().enumerate().skip(i + 1) {
                if a.overlaps(b) && a.bytes > 0 && b.bytes > 0 {
                    let apart = p.offsets[i] + a.bytes <= p.offsets[j] || p.offsets[j] + b.bytes <= p.offsets[i];
                    assert!(apart, "{a:?} at {} and {b:?} at {}", p.offsets[i], p.offsets[j]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_alive_overlaps_and_never_worse_than_executorch(
            raw in proptest::collection::vec((0usize..2000, 0usize..40, 0usize..10), 0..60)
        ) {
            let items: Vec<_> =
                raw.iter().map(|&(bytes, first, len)| Interval { bytes, first, last: first + len }).collect();
            let (ours, theirs) = (place(&items, 16), executorch_greedy(&items, 16));
            check(&items, &ours, 16);
            check(&items, &theirs, 16);
            prop_assert!(ours.total <= theirs.total);
        }
    }

    #[test]
    fn chains_reuse_memory() {
        let items: Vec<_> = (0..10).map(|i| Interval { bytes: 100, first: i, last: i + 1 }).collect();
        assert_eq!(place(&items, 16).total, 224);
    }
}
