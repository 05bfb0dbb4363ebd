//! Weights that are made ready once, when a session is made, and not at every call.
//!
//! `dequantize(constant)` in front of a linear layer is how PT2E writes a quantized weight. Where only linear layers read it,
//! it is packed as the codes that it is ([`pteron_kernels::packed`]) and never held in floats; else it is dequantized once:
//! computed anew, it would take a decoding step longer than the layer itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pteron_ir::memory::{StorageId, StorageKind, StorageMap};
use pteron_ir::{Arg, ConstId, Graph, IntArg, NodeId, Op, SideTable, TensorType, Type, ValueId};
use pteron_kernels::Context;
use pteron_kernels::quant::QuantSemantics;
use pteron_tensor::{AlignedBytes, DType, Scalar, Shape, View, ViewMut, contiguous_order, strides_for};
use smallvec::SmallVec;

use crate::constants::{Constants, Folded as Made};
use crate::dispatch::{Resolved, call};
use crate::weights::{Weight, weight_of};

/// Elements that an operator without tensors among its arguments may make.
const MOST_FILLED: usize = 1 << 20;

/// What is computed once.
fn is_worth_it(op: Op) -> bool {
    op.is_dequantize()
        || matches!(
            op,
            Op::QuantizePerTensor
                | Op::QuantizePerTensorTensor
                | Op::QuantizePerTensorTensor2
                | Op::QuantizePerChannel
                | Op::QuantizePerChannelGroup
                | Op::QuantizeAffine
                | Op::FakeQuantPerChannel
        )
}

/// What may stand around it: other sizes, another order, another type, a filled tensor.
fn may_go_along(op: Op) -> bool {
    op.is_view()
        || matches!(
            op,
            Op::PermuteCopy | Op::TransposeCopy | Op::ToCopy | Op::ConvertElementType | Op::Full | Op::Clone
        )
}

/// An argument that is known when a session is made.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    Const(ConstId, TensorType),
    Item(usize, TensorType),
    Other(Arg),
}

/// What reads an item when the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Nothing.
    None,
    /// Linear layers, as this weight.
    Weight(Weight),
    /// Something that needs its elements.
    Elements,
}

/// A tensor that is computed when a session is made.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) op: Op,
    pub(crate) args: Vec<Known>,
    pub(crate) ty: TensorType,
    used: Use,
}

/// The tensors that the methods of a session have computed once; the same for two methods is one.
#[derive(Debug, Default)]
pub(crate) struct Folder {
    items: Vec<Item>,
    known: BTreeMap<String, usize>,
}

/// What of a method is computed once.
#[derive(Debug)]
pub(crate) struct Folded {
    /// The item that lies in a piece of memory.
    pub(crate) storages: SideTable<StorageId, Option<usize>>,
    /// Nodes that are not executed.
    pub(crate) nodes: SideTable<NodeId, bool>,
    /// Linear layers and matrix products whose weight is an item, which may be packed.
    pub(crate) layers: SideTable<NodeId, Option<usize>>,
}

impl Folded {
    pub(crate) fn none() -> Folded {
        Folded { storages: SideTable::new(None), nodes: SideTable::new(false), layers: SideTable::new(None) }
    }
}

fn bytes_of(ty: &TensorType) -> Option<usize> {
    let n = ty.fixed_sizes()?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
    ty.dtype.bytes_for(n)
}

impl Folder {
    /// Finds what of a method can be computed once.
    pub(crate) fn find(&mut self, graph: &Graph, map: &StorageMap) -> Folded {
        let mut out = Folded::none();
        let order = graph.all_nodes();
        let mut readers: BTreeMap<ValueId, Vec<NodeId>> = BTreeMap::new();
        for &n in &order {
            for a in &graph.nodes[n].args {
                a.for_each_value(|v| readers.entry(v).or_default().push(n));
            }
        }
        // Nodes of known arguments, and whether something worth it comes before or after.
        let mut known: SideTable<NodeId, bool> = SideTable::new(false);
        let mut before: SideTable<NodeId, bool> = SideTable::new(false);
        let mut made_by: BTreeMap<StorageId, NodeId> = BTreeMap::new();
        let is_const = |v: ValueId| map.of[v].is_some_and(|s| matches!(map.storages[s].kind, StorageKind::Const(_)));
        let widens = |n: NodeId| widens_codes_for_layers(graph, n, &readers);
        for &n in &order {
            let node = &graph.nodes[n];
            let ([output], true) = (&node.outputs[..], is_worth_it(node.op) || may_go_along(node.op)) else { continue };
            let (Type::Tensor(ty), Some(storage)) = (graph.ty(*output), map.of[*output]) else { continue };
            if map.storages[storage].kind != StorageKind::Temp || !ty.is_static() || ty.order.is_some() {
                continue;
            }
            if node.op == Op::Full && ty.fixed_sizes().is_none_or(|s| s.iter().product::<usize>() > MOST_FILLED) {
                continue;
            }
            let (mut all, mut worth) = (true, is_worth_it(node.op) || widens(n));
            for a in &node.args {
                a.for_each_value(|v| match map.of[v].and_then(|s| made_by.get(&s)) {
                    Some(&maker) => worth |= before[maker],
                    None => all &= is_const(v),
                });
            }
            // A view of what is computed once is that already.
            if all && !made_by.contains_key(&storage) {
                known[n] = true;
                before[n] = worth;
                made_by.insert(storage, n);
            }
        }
        let mut wanted: SideTable<NodeId, bool> = SideTable::new(false);
        for &n in order.iter().rev().filter(|&&n| known[n]) {
            let feeds = |v: &ValueId| readers.get(v).is_some_and(|list| list.iter().any(|&r| known[r] && wanted[r]));
            wanted[n] = before[n] || graph.nodes[n].outputs.iter().any(feeds);
        }
        for &n in order.iter().filter(|&&n| wanted[n]) {
            let node = &graph.nodes[n];
            let Some(args) = node.args.iter().map(|a| self.arg(graph, map, &out, a)).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let (Some(&output), Some(Type::Tensor(ty))) =
                (node.outputs.first(), node.outputs.first().map(|&v| graph.ty(v)))
            else {
                continue;
            };
            let Some(storage) = map.of[output] else { continue };
            let mut key = format!("{:?} {ty}", node.op);
            let _ = args.iter().try_for_each(|a| write!(key, " {a:?}"));
            let at = *self.known.entry(key).or_insert_with(|| {
                self.items.push(Item { op: node.op, args, ty: ty.clone(), used: Use::None });
                self.items.len() - 1
            });
            out.storages[storage] = Some(at);
            out.nodes[n] = true;
        }
        self.note_what_is_read(graph, map, &mut out, &order);
        out
    }

    fn note_what_is_read(&mut self, graph: &Graph, map: &StorageMap, folded: &mut Folded, order: &[NodeId]) {
        for &n in order.iter().filter(|&&n| !folded.nodes[n]) {
            // A view of an item is that item.
            let item = |v: &ValueId| map.of[*v].and_then(|s| folded.storages[s]);
            if graph.nodes[n].op.is_view() && graph.nodes[n].outputs.iter().all(|v| item(v).is_some()) {
                continue;
            }
            let weight = weight_of(graph, n);
            for a in &graph.nodes[n].args {
                a.for_each_value(|v| {
                    let Some(i) = map.of[v].and_then(|s| folded.storages[s]) else { return };
                    let now = match weight {
                        Some((w, value)) if value == v && matches!(a, Arg::Value(_)) => {
                            folded.layers[n] = Some(i);
                            Use::Weight(w)
                        }
                        _ => Use::Elements,
                    };
                    self.items[i].note(now);
                });
            }
        }
        let mut elements = |v: ValueId| {
            if let Some(i) = map.of[v].and_then(|s| folded.storages[s]) {
                self.items[i].note(Use::Elements);
            }
        };
        for r in graph.regions.values() {
            r.results.iter().for_each(|&v| elements(v));
        }
        graph.mutations.iter().for_each(|&(_, v)| elements(v));
    }

    fn arg(&self, graph: &Graph, map: &StorageMap, folded: &Folded, arg: &Arg) -> Option<Known> {
        let mut values = 0;
        arg.for_each_value(|_| values += 1);
        match arg {
            Arg::Value(v) => {
                let Type::Tensor(ty) = graph.ty(*v) else { return None };
                let s = map.of[*v]?;
                match (folded.storages[s], map.storages[s].kind) {
                    (Some(i), _) => Some(Known::Item(i, ty.clone())),
                    (None, StorageKind::Const(c)) => Some(Known::Const(c, ty.clone())),
                    _ => None,
                }
            }
            _ if values > 0 => None,
            other => Some(Known::Other(other.clone())),
        }
    }

    /// The most bytes that what is computed takes, all of it at once.
    pub(crate) fn bytes(&self) -> u64 {
        let one = |i: &Item| match i.used {
            Use::Weight(w) if self.packs(i).is_some() => Some(w.most_bytes()),
            Use::None => Some(0),
            _ => bytes_of(&i.ty).map(|b| b as u64),
        };
        self.items.iter().map(|i| one(i).unwrap_or(u64::MAX)).fold(0, u64::saturating_add)
    }

    pub(crate) fn item(&self, i: usize) -> Option<&Item> {
        self.items.get(i)
    }

    /// The weight that an item is packed as.
    fn packs(&self, item: &Item) -> Option<Weight> {
        match item.used {
            Use::Weight(w) => crate::weights::is_packable(self, item).then_some(w),
            _ => None,
        }
    }

    /// Computes it, weights of linear layers packed; what only other items read is gone afterwards.
    pub(crate) fn compute(
        &self,
        ctx: &Context,
        semantics: QuantSemantics,
        constants: &Constants,
    ) -> Result<Vec<Made>, String> {
        let mut work = Work { folder: self, ctx, semantics, constants, done: Vec::new(), passing: Vec::new() };
        work.done.resize_with(self.items.len(), || None);
        let mut made: Vec<Made> = Vec::with_capacity(self.items.len());
        for (i, item) in self.items.iter().enumerate() {
            let packed = match self.packs(item) {
                Some(w) => crate::weights::pack(&mut work, item, w)?,
                None => None,
            };
            made.push(match (packed, item.used) {
                (Some(p), _) => Made::Packed(Box::new(p)),
                (None, Use::None) => Made::Gone,
                (None, _) => {
                    work.need(i)?;
                    Made::Gone
                }
            });
            // Nothing waits for what others were made from: it is made anew where it is needed again, which is rare.
            let waits = |j: usize| self.items[j].used != Use::None && matches!(made.get(j), Some(Made::Gone));
            for j in 0..work.done.len() {
                if work.done[j].is_some() && !waits(j) && !self.feeds(j, i) {
                    work.done[j] = None;
                }
            }
        }
        for ((m, bytes), item) in made.iter_mut().zip(work.done).zip(&self.items) {
            if let (Made::Gone, Some(b), true) = (&*m, bytes, item.used != Use::None) {
                *m = Made::Bytes(b);
            }
        }
        Ok(made)
    }

    /// The elements of item `i`, computed now.
    pub(crate) fn elements(
        &self,
        ctx: &Context,
        semantics: QuantSemantics,
        constants: &Constants,
        i: usize,
    ) -> Result<AlignedBytes, String> {
        let mut work = Work { folder: self, ctx, semantics, constants, done: Vec::new(), passing: Vec::new() };
        work.done.resize_with(self.items.len(), || None);
        work.need(i)?;
        work.done.swap_remove(i).ok_or_else(|| "was not computed".to_owned())
    }

    /// An item after `i` reads item `j`.
    fn feeds(&self, j: usize, i: usize) -> bool {
        let reads = |item: &Item| item.args.iter().any(|a| matches!(a, Known::Item(k, _) if *k == j));
        self.items.get(i + 1..).unwrap_or(&[]).iter().take(NEAR).any(reads)
    }
}

/// Items after which another that was made for them is not waited for.
const NEAR: usize = 8;

impl Item {
    fn note(&mut self, now: Use) {
        self.used = match (self.used, now) {
            (Use::None, u) => u,
            (u, now) if u == now => u,
            _ => Use::Elements,
        };
    }
}

/// True for `to(codes)` that only linear layers read, as their weight: torchao's `int8`.
fn widens_codes_for_layers(graph: &Graph, n: NodeId, readers: &BTreeMap<ValueId, Vec<NodeId>>) -> bool {
    let node = &graph.nodes[n];
    let (Op::ToCopy, Some(Arg::Value(x)), [out]) = (node.op, node.args.first(), &node.outputs[..]) else {
        return false;
    };
    let codes = graph.ty(*x).as_tensor().is_some_and(|t| t.dtype == DType::I8 && t.dims.len() == 2);
    let by_layers = |v: ValueId| {
        let layer = |&r: &NodeId| weight_of(graph, r).is_some_and(|(_, w)| w == v);
        readers.get(&v).is_some_and(|list| list.iter().all(layer))
    };
    let turned = |&r: &NodeId| {
        let node = &graph.nodes[r];
        matches!(node.op, Op::PermuteCopy | Op::TransposeCopy) && node.outputs.first().is_some_and(|&v| by_layers(v))
    };
    codes && (by_layers(*out) || readers.get(out).is_some_and(|list| list.iter().all(turned)))
}

/// Items as they are computed.
pub(crate) struct Work<'a> {
    folder: &'a Folder,
    pub(crate) ctx: &'a Context,
    semantics: QuantSemantics,
    pub(crate) constants: &'a Constants,
    done: Vec<Option<AlignedBytes>>,
    /// Constants that are decoded for the item at hand.
    passing: Vec<(ConstId, AlignedBytes)>,
}

impl<'a> Work<'a> {
    pub(crate) fn folder(&self) -> &'a Folder {
        self.folder
    }

    /// Computes item `i` and what it is made from.
    pub(crate) fn need(&mut self, i: usize) -> Result<(), String> {
        let folder = self.folder;
        let (Some(item), Some(None)) = (folder.items.get(i), self.done.get(i)) else { return Ok(()) };
        for a in &item.args {
            if let Known::Item(j, _) = a {
                self.need(*j)?;
            }
        }
        for a in &item.args {
            self.bring(a)?;
        }
        let result = one(self, item).map_err(|e| format!("{}: {e}", item.op))?;
        self.done[i] = Some(result);
        self.let_go();
        Ok(())
    }

    /// Decodes a constant for the item at hand, if it is not there. Other items may not be computed before
    /// [`Work::let_go`].
    pub(crate) fn bring(&mut self, known: &Known) -> Result<(), String> {
        if let Known::Const(c, _) = known
            && !self.passing.iter().any(|p| p.0 == *c)
            && let Some(bytes) = self.constants.passing(*c)?
        {
            self.passing.push((*c, bytes));
        }
        Ok(())
    }

    /// Drops what was decoded for the item at hand.
    pub(crate) fn let_go(&mut self) {
        self.passing.clear();
    }

    /// The elements of a constant.
    pub(crate) fn constant(&self, c: ConstId) -> &[u8] {
        self.passing.iter().find(|p| p.0 == c).map_or_else(|| self.constants.bytes(c), |p| &p.1)
    }

    /// The elements of item `i`, which has been computed.
    pub(crate) fn done(&self, i: usize) -> &[u8] {
        self.done.get(i).and_then(Option::as_deref).unwrap_or(&[])
    }
}

struct Layout {
    sizes: Shape,
    strides: Shape,
}

impl Layout {
    fn of(ty: &TensorType) -> Result<Layout, String> {
        let sizes = ty.fixed_sizes().ok_or_else(|| format!("the sizes of {ty} are not known"))?;
        let order = ty.order.clone().unwrap_or_else(|| contiguous_order(sizes.len()));
        let strides = strides_for(&sizes, &order).map_err(|e| e.to_string())?;
        Ok(Layout { sizes, strides })
    }
}

fn one(work: &Work<'_>, item: &Item) -> Result<AlignedBytes, String> {
    let layouts = item
        .args
        .iter()
        .map(|a| match a {
            Known::Const(_, ty) | Known::Item(_, ty) => Layout::of(ty).map(Some),
            Known::Other(_) => Ok(None),
        })
        .collect::<Result<Vec<_>, String>>()?;
    let mut resolved: SmallVec<[Resolved<'_>; 8]> = SmallVec::new();
    for (a, layout) in item.args.iter().zip(&layouts) {
        resolved.push(match (a, layout) {
            (Known::Const(c, ty), Some(l)) => tensor(ty, l, work.constant(*c))?,
            (Known::Item(i, ty), Some(l)) => tensor(ty, l, work.done(*i))?,
            (Known::Other(arg), _) => literal(arg)?,
            _ => return Err("an argument has no sizes".to_owned()),
        });
    }
    let size = bytes_of(&item.ty).ok_or_else(|| format!("{} does not fit in memory", item.ty))?;
    let mut out = AlignedBytes::zeroed(size);
    let layout = Layout::of(&item.ty)?;
    let view = ViewMut::new(item.ty.dtype, &layout.sizes, &layout.strides, &mut out).map_err(|e| e.to_string())?;
    call(work.ctx, work.semantics, item.op, &resolved, SmallVec::from_iter([view]))?;
    Ok(out)
}

fn tensor<'a>(ty: &TensorType, layout: &'a Layout, bytes: &'a [u8]) -> Result<Resolved<'a>, String> {
    View::new(ty.dtype, &layout.sizes, &layout.strides, bytes).map(Resolved::Tensor).map_err(|e| e.to_string())
}

fn literal(arg: &Arg) -> Result<Resolved<'_>, String> {
    Ok(match arg {
        Arg::None => Resolved::None,
        Arg::Int(i) => Resolved::Scalar(Scalar::Int(*i)),
        Arg::Float(f) => Resolved::Scalar(Scalar::Float(*f)),
        Arg::Bool(b) => Resolved::Scalar(Scalar::Bool(*b)),
        Arg::Str(s) => Resolved::Str(s),
        Arg::DType(d) => Resolved::DType(*d),
        Arg::Floats(f) => Resolved::Floats(f),
        Arg::Ints(items) => Resolved::Ints(
            items
                .iter()
                .map(|i| match i {
                    IntArg::Const(c) => Ok(*c),
                    IntArg::Value(_) => Err("an int is not known".to_owned()),
                })
                .collect::<Result<_, _>>()?,
        ),
        other => return Err(format!("{} is no argument of it", other.kind_name())),
    })
}
