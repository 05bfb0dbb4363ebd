//! Weights that are dequantized once, when a session is made, and not at every call.
//!
//! `dequantize(constant)` in front of a linear layer is how PT2E writes a quantized weight. As f32 the weight takes the memory
//! of the float model's; computed anew, it would take a decoding step longer than the layer itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pteron_ir::memory::{StorageId, StorageKind, StorageMap};
use pteron_ir::{Arg, ConstId, Graph, IntArg, NodeId, Op, SideTable, TensorType, Type, ValueId};
use pteron_kernels::Context;
use pteron_kernels::quant::QuantSemantics;
use pteron_tensor::{AlignedBytes, Scalar, Shape, View, ViewMut, contiguous_order, strides_for};
use smallvec::SmallVec;

use crate::constants::Constants;
use crate::dispatch::{Resolved, call};

/// Elements that an operator without tensors among its arguments may make.
const MOST_FILLED: usize = 1 << 20;

/// What is computed once.
fn is_worth_it(op: Op) -> bool {
    matches!(
        op,
        Op::DequantizePerTensor
            | Op::DequantizePerTensorTensor
            | Op::DequantizePerTensorTensor2
            | Op::DequantizePerChannel
            | Op::DequantizePerChannelGroup
            | Op::DequantizePerToken
            | Op::DequantizeAffine
            | Op::QuantizePerTensor
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
enum Known {
    Const(ConstId, TensorType),
    Item(usize, TensorType),
    Other(Arg),
}

/// A tensor that is computed when a session is made.
#[derive(Debug)]
struct Item {
    op: Op,
    args: Vec<Known>,
    ty: TensorType,
    /// Something that is executed reads it.
    kept: bool,
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
}

impl Folded {
    pub(crate) fn none() -> Folded {
        Folded { storages: SideTable::new(None), nodes: SideTable::new(false) }
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
            let (mut all, mut worth) = (true, is_worth_it(node.op));
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
                self.items.push(Item { op: node.op, args, ty: ty.clone(), kept: false });
                self.items.len() - 1
            });
            out.storages[storage] = Some(at);
            out.nodes[n] = true;
        }
        self.keep_what_is_read(graph, map, &out, &order);
        out
    }

    fn keep_what_is_read(&mut self, graph: &Graph, map: &StorageMap, folded: &Folded, order: &[NodeId]) {
        let item = |v: ValueId| map.of[v].and_then(|s| folded.storages[s]);
        let mut keep = |v: ValueId| {
            if let Some(i) = item(v) {
                self.items[i].kept = true;
            }
        };
        for &n in order.iter().filter(|&&n| !folded.nodes[n]) {
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(&mut keep));
        }
        for r in graph.regions.values() {
            r.results.iter().for_each(|&v| keep(v));
        }
        graph.mutations.iter().for_each(|&(_, v)| keep(v));
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

    /// Bytes of what is computed, all of it at once.
    pub(crate) fn bytes(&self) -> u64 {
        self.items.iter().map(|i| bytes_of(&i.ty).map_or(u64::MAX, |b| b as u64)).fold(0, u64::saturating_add)
    }

    /// Computes it; what only other items read is gone afterwards.
    pub(crate) fn compute(
        &self,
        ctx: &Context,
        semantics: QuantSemantics,
        constants: &Constants,
    ) -> Result<Vec<AlignedBytes>, String> {
        let mut last_use = vec![None; self.items.len()];
        for (at, item) in self.items.iter().enumerate() {
            for a in &item.args {
                if let Known::Item(i, _) = a {
                    last_use[*i] = Some(at);
                }
            }
        }
        let mut done: Vec<AlignedBytes> = Vec::with_capacity(self.items.len());
        for (at, item) in self.items.iter().enumerate() {
            let result = one(ctx, semantics, constants, item, &done).map_err(|e| format!("{}: {e}", item.op))?;
            done.push(result);
            for a in &item.args {
                if let Known::Item(i, _) = a
                    && !self.items[*i].kept
                    && last_use[*i] == Some(at)
                {
                    done[*i] = AlignedBytes::zeroed(0);
                }
            }
        }
        Ok(done)
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

fn one(
    ctx: &Context,
    semantics: QuantSemantics,
    constants: &Constants,
    item: &Item,
    done: &[AlignedBytes],
) -> Result<AlignedBytes, String> {
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
            (Known::Const(c, ty), Some(l)) => tensor(ty, l, constants.bytes(*c))?,
            (Known::Item(i, ty), Some(l)) => tensor(ty, l, done.get(*i).map_or(&[], |b| b))?,
            (Known::Other(arg), _) => literal(arg)?,
            _ => return Err("an argument has no sizes".to_owned()),
        });
    }
    let size = bytes_of(&item.ty).ok_or_else(|| format!("{} does not fit in memory", item.ty))?;
    let mut out = AlignedBytes::zeroed(size);
    let layout = Layout::of(&item.ty)?;
    let view = ViewMut::new(item.ty.dtype, &layout.sizes, &layout.strides, &mut out).map_err(|e| e.to_string())?;
    call(ctx, semantics, item.op, &resolved, SmallVec::from_iter([view]))?;
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
