//! Where every tensor of a method lies, decided before the first run.

use std::ops::Range;

use pteron_ir::memory::{Interval, Storage, StorageId, StorageKind, place, storages_with_safe_views};
use pteron_ir::{BufferId, ConstId, Extra, Graph, IdMap, Module, NodeId, RegionId, SideTable, Type, ValueId};
use pteron_tensor::{AlignedBytes, DType};

use crate::constants::Need;
use crate::dispatch::has_kernel;
use crate::error::ExecError;
use crate::fold::{Folded, Folder};
use crate::fuse::{Fused, Groups, Part};
use crate::in_place::InPlace;

/// Where a tensor's bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At this offset of the arena, with room for so many bytes.
    Arena(usize, usize),
    /// At this offset of the state, with room for so many bytes.
    State(usize, usize),
    /// A constant.
    Const(ConstId),
    /// A tensor that was computed when the session was made.
    Folded(usize),
    /// An input of the call.
    Input(usize),
}

/// Offsets of the buffers in the state.
#[derive(Debug)]
pub(crate) struct StateLayout {
    pub(crate) ranges: IdMap<BufferId, Range<usize>>,
    pub(crate) total: usize,
}

impl StateLayout {
    pub(crate) fn of(module: &Module) -> Result<StateLayout, ExecError> {
        let mut ranges = IdMap::new();
        let mut total = 0usize;
        for (_, b) in module.buffers.iter() {
            let bytes =
                b.ty.fixed_sizes()
                    .and_then(|s| s.iter().try_fold(1usize, |n, &d| n.checked_mul(d)))
                    .and_then(|n| b.ty.dtype.bytes_for(n));
            let end = bytes.and_then(|n| total.checked_add(n));
            let (Some(end), true) = (end, b.ty.is_static()) else {
                return Err(ExecError::Constant {
                    name: b.name.to_string(),
                    reason: format!("a buffer of type {} has no fixed size in memory", b.ty),
                });
            };
            ranges.push(total..end);
            total = end.div_ceil(AlignedBytes::ALIGN).saturating_mul(AlignedBytes::ALIGN);
        }
        Ok(StateLayout { ranges, total })
    }
}

/// For each group of linear layers the next one of `walk`; after the last comes the first, in the next call.
fn weights_after(groups: &Groups, walk: &[NodeId]) -> Vec<Option<usize>> {
    let has_weights = |g: &usize| groups.list.get(*g).is_some_and(|g| g.what.reads_weights());
    let number = |&n: &NodeId| if let Part::Turn(g) = groups.part[n] { Some(g) } else { None };
    let order: Vec<usize> = walk.iter().filter_map(number).filter(has_weights).collect();
    let mut after = vec![None; groups.list.len()];
    for (i, &g) in order.iter().enumerate() {
        after[g] = order.get((i + 1) % order.len()).copied();
    }
    after
}

/// The plan of one method.
#[derive(Debug)]
pub(crate) struct MethodPlan {
    /// Place of each tensor value; `None` for scalars and unused constants.
    pub(crate) places: SideTable<ValueId, Option<Place>>,
    /// Nodes whose output sizes depend on the run.
    pub(crate) dynamic: SideTable<NodeId, bool>,
    /// Nodes whose outputs all share an input's memory: nothing is computed.
    pub(crate) alias: SideTable<NodeId, bool>,
    /// Nodes that write their first argument where it lies.
    pub(crate) in_place: InPlace,
    /// Nodes that are executed together.
    pub(crate) groups: Groups,
    /// The nodes of each region without those that a group passes over, and those that were executed when the session was made.
    pub(crate) walks: SideTable<RegionId, Vec<NodeId>>,
    /// For each group of linear layers the one that is executed after it.
    pub(crate) weights_after: Vec<Option<usize>>,
    /// Nodes that were executed when the session was made.
    pub(crate) folded: Folded,
    /// Bytes of arena that the method needs.
    pub(crate) arena_bytes: usize,
    /// Buffers that hold another value at the end than what lies in their memory.
    pub(crate) write_backs: Vec<(BufferId, ValueId)>,
    /// Outputs that lie in a buffer's memory and would be lost when that buffer gets its value at the end.
    pub(crate) saved: Vec<ValueId>,
}

impl MethodPlan {
    pub(crate) fn new(graph: &Graph, state: &StateLayout, fold: Option<&mut Folder>) -> Result<MethodPlan, ExecError> {
        let memory = |source| ExecError::Memory { method: graph.name.clone(), source };
        let mut map = storages_with_safe_views(graph).map_err(memory)?;
        let in_place = InPlace::find(graph, &mut map);
        let folded = fold.map_or_else(Folded::none, |f| f.find(graph, &map));
        let groups = Groups::find(graph, &mut map, &folded);
        let is_temp = |(id, s): &(StorageId, &Storage)| s.kind == StorageKind::Temp && folded.storages[*id].is_none();
        let temps: Vec<_> = map.storages.iter().filter(is_temp).map(|(id, _)| id).collect();
        let items: Vec<Interval> = temps
            .iter()
            .map(|&id| &map.storages[id])
            .map(|s| Interval { bytes: s.bytes, first: s.first, last: s.last })
            .collect();
        let placement = place(&items, AlignedBytes::ALIGN);
        let mut offsets = SideTable::new(0usize);
        temps.iter().zip(&placement.offsets).for_each(|(&id, &at)| offsets[id] = at);
        let mut places = SideTable::new(None);
        for v in graph.values.keys() {
            let Some(id) = map.of[v] else { continue };
            let s = &map.storages[id];
            if let Some(i) = folded.storages[id] {
                places[v] = Some(Place::Folded(i));
                continue;
            }
            places[v] = Some(match s.kind {
                StorageKind::Input(i) => Place::Input(i as usize),
                StorageKind::Const(c) => Place::Const(c),
                StorageKind::Buffer(b) => {
                    let r = &state.ranges[b];
                    Place::State(r.start, r.len())
                }
                StorageKind::Temp => Place::Arena(offsets[id], s.bytes),
            });
        }
        let fixed = |v: ValueId| match graph.ty(v) {
            Type::Tensor(t) => t.is_static(),
            _ => false,
        };
        let mut dynamic = SideTable::new(false);
        let mut alias = SideTable::new(false);
        for n in graph.all_nodes() {
            let node = &graph.nodes[n];
            if let Extra::Custom(key) = &node.extra {
                return Err(ExecError::at(graph, n, format!("there is no kernel `{key}`")));
            }
            if !has_kernel(node.op) {
                return Err(ExecError::at(graph, n, "there is no kernel for this operator"));
            }
            dynamic[n] = !node.outputs.iter().all(|&v| fixed(v));
            let shares = |k: usize| {
                pteron_ir::memory::aliased_input(graph, n, k, true)
                    .is_some_and(|input| map.of[input] == map.of[node.outputs[k]])
            };
            alias[n] = node.op.is_view() && (0..node.outputs.len()).all(shares);
        }
        let is_there =
            |&(b, v): &(BufferId, ValueId)| map.of[v].is_some_and(|s| map.storages[s].kind == StorageKind::Buffer(b));
        let write_backs: Vec<_> = graph.mutations.iter().filter(|m| !is_there(m)).copied().collect();
        let overwritten = |v: &ValueId| match map.of[*v].map(|s| map.storages[s].kind) {
            Some(StorageKind::Buffer(b)) => write_backs.iter().any(|w| w.0 == b),
            _ => false,
        };
        let saved = graph.outputs().iter().filter(|v| overwritten(v)).copied().collect();
        let mut walks = SideTable::new(Vec::new());
        for (id, r) in graph.regions.iter() {
            let walked = |&n: &NodeId| groups.part[n] != Part::Inner && !folded.nodes[n];
            walks[id] = r.nodes.iter().copied().filter(walked).collect();
        }
        let after = weights_after(&groups, &walks[graph.body_id()]);
        Ok(MethodPlan {
            places,
            dynamic,
            alias,
            in_place,
            groups,
            walks,
            weights_after: after,
            folded,
            arena_bytes: placement.total,
            write_backs,
            saved,
        })
    }

    /// The constant that a value is.
    pub(crate) fn constant(&self, v: ValueId) -> Option<ConstId> {
        match self.places[v] {
            Some(Place::Const(c)) => Some(c),
            _ => None,
        }
    }

    /// The constants that groups of linear layers of bf16 have as weights.
    pub(crate) fn bf16_weights(&self) -> impl Iterator<Item = ConstId> + '_ {
        let layers = self.groups.list.iter().filter_map(|g| match &g.what {
            Fused::Linears { layers, of: DType::BF16, .. } => Some(layers),
            _ => None,
        });
        layers.flatten().filter_map(|l| self.constant(l.weight))
    }

    /// Says of each constant that the method has what it needs it for.
    pub(crate) fn note_constants(&self, graph: &Graph, note: &mut dyn FnMut(ConstId, Need)) {
        for data in graph.values.values() {
            if let pteron_ir::Def::Const(c) = data.def {
                note(c, Need::Making);
            }
        }
        let mut read = |v: ValueId| {
            if let Some(Place::Const(c)) = self.places[v] {
                note(c, Need::Running);
            }
        };
        // A view reads nothing itself.
        for n in graph.all_nodes().into_iter().filter(|&n| !self.folded.nodes[n] && !self.alias[n]) {
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(&mut read));
        }
        graph.regions.values().flat_map(|r| &r.results).for_each(|&v| read(v));
        graph.mutations.iter().for_each(|m| read(m.1));
    }
}
