//! The operands of one node: what it may read, and what it writes.

use std::ops::Range;

use pteron_ir::{Arg, IntArg, Op, OutputSpec, Type, ValueId};
use pteron_tensor::{Scalar, Tensor, View, ViewMut};
use smallvec::SmallVec;

use crate::constants::Constants;
use crate::dispatch::Resolved;
use crate::frame::{Frame, Slot};
use crate::memory::Carved;
use crate::plan::{MethodPlan, Place};
use crate::value::{Output, ValueRef};

/// Memory that is only read: what is left of the arena and the state, the constants and the inputs.
pub(crate) struct Readable<'a> {
    arena: Carved<'a>,
    state: Carved<'a>,
    constants: &'a Constants,
    inputs: &'a [ValueRef<'a>],
    copies: &'a [(usize, Tensor)],
}

impl<'a> Readable<'a> {
    /// Everything, nothing being written.
    pub(crate) fn whole(
        arena: &'a mut [u8],
        state: &'a mut [u8],
        constants: &'a Constants,
        inputs: &'a [ValueRef<'a>],
        frame: &'a Frame,
    ) -> Result<Readable<'a>, String> {
        let whole = |memory| Carved::new(memory, &[]).ok_or("memory cannot be read");
        Ok(Readable { arena: whole(arena)?, state: whole(state)?, constants, inputs, copies: &frame.copies })
    }

    pub(crate) fn view(&self, slot: &'a Slot, place: Option<Place>) -> Result<View<'a>, String> {
        let data = self.bytes(place.ok_or("an operand has no memory")?, slot.bytes)?;
        View::new(slot.dtype(), &slot.sizes, &slot.strides, data).map_err(|e| e.to_string())
    }

    /// The memory at `place`: of arena and state `len` bytes, else all that is there.
    pub(crate) fn bytes(&self, place: Place, len: usize) -> Result<&'a [u8], String> {
        match place {
            Place::Arena(at, _) => self.arena.read(at..at + len),
            Place::State(at, _) => self.state.read(at..at + len),
            Place::Const(c) => Some(self.constants.bytes(c)),
            Place::Folded(i) => Some(self.constants.folded(i)),
            Place::Input(i) => match self.copies.iter().find(|c| c.0 == i) {
                Some((_, t)) => Some(t.bytes()),
                None => match self.inputs.get(i) {
                    Some(ValueRef::Tensor(v)) => Some(v.bytes()),
                    _ => None,
                },
            },
        }
        .ok_or_else(|| "an operand lies in memory that the same node writes".to_owned())
    }

    /// The memory of an output.
    pub(crate) fn take(&mut self, at: Written) -> Result<&'a mut [u8], String> {
        let piece = match at {
            Written::Arena(i) => self.arena.written.get_mut(i),
            Written::State(i) => self.state.written.get_mut(i),
        };
        piece.and_then(Option::take).ok_or_else(|| "an output is written twice".to_owned())
    }
}

pub(crate) fn output<'a>(memory: &Readable<'a>, slot: &'a Slot, place: Option<Place>) -> Result<Output<'a>, String> {
    Ok(match slot.ty {
        Type::Tensor(_) => ValueRef::Tensor(memory.view(slot, place)?),
        _ => match slot.scalar {
            Scalar::Int(i) => ValueRef::Int(i),
            Scalar::Bool(b) => ValueRef::Bool(b),
            Scalar::Float(f) => ValueRef::Float(f),
        },
    })
}

/// Which of the carved ranges an output is.
#[derive(Clone, Copy)]
pub(crate) enum Written {
    Arena(usize),
    State(usize),
}

/// Cuts the memory of `outputs` out of arena and state; the rest can be read.
#[allow(clippy::type_complexity, reason = "a pair of what can be read and where each output is")]
pub(crate) fn split<'a>(
    arena: &'a mut [u8],
    state: &'a mut [u8],
    constants: &'a Constants,
    inputs: &'a [ValueRef<'a>],
    frame: &'a Frame,
    plan: &MethodPlan,
    outputs: &[ValueId],
) -> Result<(Readable<'a>, SmallVec<[Written; 3]>), String> {
    let places = outputs.iter().map(|&v| (plan.places[v], frame.slots[v].bytes));
    split_at(arena, state, constants, inputs, &frame.copies, places)
}

/// [`split`], of outputs whose places and bytes are at hand.
#[allow(clippy::type_complexity, reason = "a pair of what can be read and where each output is")]
pub(crate) fn split_at<'a>(
    arena: &'a mut [u8],
    state: &'a mut [u8],
    constants: &'a Constants,
    inputs: &'a [ValueRef<'a>],
    copies: &'a [(usize, Tensor)],
    outputs: impl Iterator<Item = (Option<Place>, usize)>,
) -> Result<(Readable<'a>, SmallVec<[Written; 3]>), String> {
    let mut in_arena: SmallVec<[Range<usize>; 3]> = SmallVec::new();
    let mut in_state: SmallVec<[Range<usize>; 3]> = SmallVec::new();
    let mut written = SmallVec::new();
    for (place, bytes) in outputs {
        match place {
            Some(Place::Arena(at, _)) => {
                written.push(Written::Arena(in_arena.len()));
                in_arena.push(at..at + bytes);
            }
            Some(Place::State(at, _)) => {
                written.push(Written::State(in_state.len()));
                in_state.push(at..at + bytes);
            }
            _ => return Err("would write a constant or an input".to_owned()),
        }
    }
    let overlap = "two outputs share memory";
    let memory = Readable {
        arena: Carved::new(arena, &in_arena).ok_or(overlap)?,
        state: Carved::new(state, &in_state).ok_or(overlap)?,
        constants,
        inputs,
        copies,
    };
    Ok((memory, written))
}

pub(crate) fn take_out<'a>(memory: &mut Readable<'a>, slot: &'a Slot, at: Written) -> Result<ViewMut<'a>, String> {
    ViewMut::new(slot.dtype(), &slot.sizes, &slot.strides, memory.take(at)?).map_err(|e| e.to_string())
}

/// True if `op` writes its input `i` where it lies: the memory is among the outputs.
pub(crate) fn is_mutated(op: Op, i: usize) -> bool {
    let schema = op.schema();
    let writes = |o: &OutputSpec| matches!(o, OutputSpec::NewVersion { arg } if schema.input_of(*arg) == i);
    schema.outputs.iter().any(writes)
}

pub(crate) fn resolve<'a>(
    frame: &'a Frame,
    plan: &MethodPlan,
    memory: &Readable<'a>,
    arg: &'a Arg,
) -> Result<Resolved<'a>, String> {
    let value = |v: ValueId| -> Result<Resolved<'a>, String> {
        let slot = &frame.slots[v];
        Ok(match slot.ty {
            Type::Tensor(_) => Resolved::Tensor(memory.view(slot, plan.places[v])?),
            _ => Resolved::Scalar(slot.scalar),
        })
    };
    let int = |a: &IntArg| match a {
        IntArg::Const(c) => Ok(*c),
        IntArg::Value(v) => match frame.slots[*v].ty {
            Type::Tensor(_) => Err(format!("{v} is a tensor, expected an int")),
            _ => Ok(frame.slots[*v].scalar.as_i64()),
        },
    };
    Ok(match arg {
        Arg::None => Resolved::None,
        Arg::Value(v) => value(*v)?,
        Arg::Int(i) => Resolved::Scalar(Scalar::Int(*i)),
        Arg::Float(f) => Resolved::Scalar(Scalar::Float(*f)),
        Arg::Bool(b) => Resolved::Scalar(Scalar::Bool(*b)),
        Arg::Str(s) => Resolved::Str(s),
        Arg::DType(d) => Resolved::DType(*d),
        Arg::Ints(items) => Resolved::Ints(items.iter().map(int).collect::<Result<_, _>>()?),
        Arg::Floats(f) => Resolved::Floats(f),
        Arg::Bools(_) => return Err("no kernel takes a list of booleans".to_owned()),
        Arg::Values(items) => {
            let one = |v: &Option<ValueId>| match v {
                None => Ok(None),
                Some(v) => memory.view(&frame.slots[*v], plan.places[*v]).map(Some),
            };
            Resolved::Tensors(items.iter().map(one).collect::<Result<_, _>>()?)
        }
    })
}
