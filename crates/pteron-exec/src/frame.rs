//! The values of a call.

use pteron_ir::{Arg, Graph, IdMap, NodeId, Op, SideTable, SymInt, TensorType, Type, ValueId};
use pteron_tensor::{AlignedBytes, DType, Scalar, Shape, Tensor, contiguous_order, strides_for};

use crate::fused::Known;
use crate::prepared::Prepared;

/// What a value is in this call.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    /// Its type with the sizes of this call.
    pub(crate) ty: Type,
    /// A tensor's sizes.
    pub(crate) sizes: Shape,
    /// A tensor's strides in elements.
    pub(crate) strides: Shape,
    /// A tensor's bytes.
    pub(crate) bytes: usize,
    /// Its element type; that of bytes for what is none.
    dtype: DType,
    /// A scalar's value.
    pub(crate) scalar: Scalar,
    /// When its type or its number last became another one, by the frame's clock.
    changed: u64,
}

/// The values of a method, kept between calls so that fixed sizes are computed once.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) slots: IdMap<ValueId, Slot>,
    /// Row-major copies of inputs that were not.
    pub(crate) copies: Vec<(usize, Tensor)>,
    /// Bytes of outputs whose memory is written at the end of the call.
    pub(crate) saved: Vec<(ValueId, AlignedBytes)>,
    /// Counts changes of slots.
    clock: u64,
    /// Counts those of tensors' sizes among them.
    sizes_clock: u64,
    /// What the next calls of the same sizes need.
    pub(crate) prepared: Option<Box<Prepared>>,
    /// When the sizes of a node's outputs were last inferred; they hold until one of its inputs changes.
    pub(crate) inferred: SideTable<NodeId, Option<u64>>,
    /// The same for groups of nodes, by their number, with what was found of these sizes.
    pub(crate) groups: Vec<Option<(u64, Known)>>,
}

impl Frame {
    pub(crate) fn new(graph: &Graph) -> Frame {
        let mut slots = IdMap::new();
        for data in graph.values.values() {
            let mut slot = Slot {
                ty: data.ty.clone(),
                sizes: Shape::new(),
                strides: Shape::new(),
                bytes: 0,
                dtype: data.ty.as_tensor().map_or(DType::U8, |t| t.dtype),
                scalar: Scalar::Int(0),
                changed: 0,
            };
            if let Type::Tensor(t) = &data.ty
                && t.is_static()
            {
                // A size that overflows was refused when memory was planned.
                let _ = slot.set_tensor(data.ty.clone());
            }
            slots.push(slot);
        }
        Frame {
            slots,
            copies: Vec::new(),
            saved: Vec::new(),
            clock: 0,
            sizes_clock: 0,
            prepared: None,
            inferred: SideTable::new(None),
            groups: Vec::new(),
        }
    }

    /// Gives `v` a tensor type with known sizes.
    pub(crate) fn set_tensor(&mut self, v: ValueId, ty: Type) -> Result<(), String> {
        let slot = &mut self.slots[v];
        if slot.ty == ty && ty.as_tensor().is_some_and(TensorType::is_static) {
            return Ok(());
        }
        slot.set_tensor(ty)?;
        self.clock += 1;
        self.sizes_clock += 1;
        slot.changed = self.clock;
        Ok(())
    }

    pub(crate) fn set_scalar(&mut self, v: ValueId, value: Scalar) {
        let slot = &mut self.slots[v];
        if slot.set_scalar(value) {
            self.clock += 1;
            slot.changed = self.clock;
        }
    }

    /// An integer of the graph or of this call.
    pub(crate) fn number(&self, arg: &Arg) -> Result<i64, String> {
        match arg {
            Arg::Int(i) => Ok(*i),
            Arg::Value(v) if self.slots[*v].ty.as_tensor().is_none() => Ok(self.slots[*v].scalar.as_i64()),
            other => Err(format!("{other:?} is no number")),
        }
    }

    /// The time by the frame's clock.
    pub(crate) fn now(&self) -> u64 {
        self.clock
    }

    /// The time by the clock of tensors' sizes.
    pub(crate) fn sizes_time(&self) -> u64 {
        self.sizes_clock
    }

    /// True if `v` has had its sizes, or its number, since `time`.
    pub(crate) fn is_unchanged(&self, v: ValueId, time: u64) -> bool {
        self.slots[v].changed <= time
    }

    /// True if the outputs of a node still have the sizes that its inputs give.
    pub(crate) fn is_inferred(&self, n: NodeId, op: Op, args: &[Arg]) -> bool {
        let Some(at) = self.inferred[n] else { return false };
        let numbers_count = numbers_give_sizes(op);
        let same = |v: ValueId| self.is_unchanged(v, at) || !numbers_count && self.slots[v].ty.as_tensor().is_none();
        args.iter().all(|a| match a {
            Arg::Value(v) => same(*v),
            other => {
                let mut all = true;
                other.for_each_value(|v| all &= same(v));
                all
            }
        })
    }
}

/// False if the sizes that `op` gives depend on those of its tensors alone: the position in a cache, another one at every call,
/// changes none.
pub(crate) fn numbers_give_sizes(op: Op) -> bool {
    !matches!(op, Op::UpdateCache | Op::CustomSdpa | Op::SdpaWithKvCache)
}

impl Slot {
    /// Gives the slot a tensor type with known sizes.
    fn set_tensor(&mut self, ty: Type) -> Result<(), String> {
        let Type::Tensor(t) = &ty else { return Err(format!("{ty} is no tensor")) };
        let Some(sizes) = t.fixed_sizes() else { return Err(format!("the sizes of {t} are not known")) };
        let strides = match &t.order {
            Some(order) => strides_for(&sizes, order),
            None => strides_for(&sizes, &contiguous_order(sizes.len())),
        };
        self.strides = strides.map_err(|e| e.to_string())?;
        let numel = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        self.bytes = numel.and_then(|n| t.dtype.bytes_for(n)).ok_or_else(|| format!("{t} does not fit in memory"))?;
        (self.sizes, self.dtype) = (sizes, t.dtype);
        self.ty = ty;
        Ok(())
    }

    /// Gives the slot a number; true if it is another one than before.
    fn set_scalar(&mut self, value: Scalar) -> bool {
        let ty = match value {
            Scalar::Int(i) => Type::Int(SymInt::Const(i)),
            Scalar::Float(_) => Type::Float,
            Scalar::Bool(_) => Type::Bool,
        };
        let changed = self.ty != ty || self.scalar != value;
        (self.ty, self.scalar) = (ty, value);
        changed
    }

    #[inline]
    pub(crate) fn dtype(&self) -> DType {
        self.dtype
    }
}
