//! A call that repeats the one before it.
//!
//! The steps of decoding are the same but for numbers: a token, a position. When a call has changed no tensor's sizes, what
//! its nodes need is written down, in the order in which they are executed: where each operand lies, its sizes and strides,
//! small constants themselves. The next calls of these sizes read that list from its beginning to its end instead of looking
//! the same things up in the tables of the graph and the plan, which the weights of a step push out of the caches.
//!
//! Nodes whose sizes depend on numbers that the list does not know (a position) are executed as ever; where one of them gives
//! other sizes, the list ends there, and the rest of the call is executed as ever.

use pteron_ir::{Arg, ConstId, Graph, NodeId, Op, SideTable, Type, ValueId};
use pteron_kernels::ask_for;
use pteron_tensor::{AlignedBytes, DType, View, ViewMut};
use smallvec::SmallVec;

use crate::constants::Constants;
use crate::frame::{Frame, numbers_give_sizes};
use crate::fuse::Part;
use crate::fused::Known;
use crate::operands::{Readable, is_mutated};
use crate::plan::{MethodPlan, Place};

/// Bytes up to which a constant is copied beside the list.
const SMALL: usize = 16 * 1024;
/// Bytes of all such copies: what a program reads more than that is read where it lies.
const ALL_SMALL: usize = 4 * 1024 * 1024;
/// Steps that are asked for while one is executed.
const AHEAD: usize = 2;

/// Where an operand's bytes are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    /// At this offset of [`Prepared::small`].
    Small(usize),
    /// As the plan says.
    At(Place),
}

/// A tensor that a step reads or writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) spot: Spot,
    pub(crate) bytes: usize,
    dtype: DType,
    rank: u8,
    /// Where its sizes begin in [`Prepared::numbers`]; its strides follow.
    numbers: u32,
}

/// An argument of a single node.
#[derive(Clone, Debug)]
pub(crate) enum Given {
    /// The operand of this number.
    Operand(u32),
    /// Mutated in place.
    Mutated,
    /// What is looked up at every call: numbers, lists, strings.
    Other(Arg),
}

/// What a step does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// The node is executed as ever.
    Walk,
    /// The group of this number: its results, then what [`crate::fuse::Fused::operands`] names.
    Group(usize),
    /// A single node: its results, then arguments.
    Call(Op, [u32; 2]),
}

/// One step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) node: NodeId,
    /// Its position in the plan's walk.
    pub(crate) at: usize,
    pub(crate) kind: Kind,
    /// Its operands: from, outputs until, until.
    operands: [u32; 3],
    /// Small constants that it reads: from, until.
    small: [u32; 2],
}

/// The list.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The time by the clock of sizes at which it holds.
    pub(crate) time: u64,
    pub(crate) steps: Vec<Step>,
    operands: Vec<Operand>,
    numbers: Vec<usize>,
    args: Vec<Given>,
    small: AlignedBytes,
}

impl Prepared {
    /// Writes down what `walk`, the nodes of a method's body, needs for the sizes that `frame` has. `None` if one of them has
    /// regions of its own.
    pub(crate) fn new(graph: &Graph, plan: &MethodPlan, frame: &Frame, constants: &Constants) -> Option<Prepared> {
        let walk = &plan.walks[graph.body_id()];
        if walk.iter().any(|&n| !graph.nodes[n].regions.is_empty()) {
            return None;
        }
        let mut list = Writer {
            plan,
            frame,
            constants,
            small: Vec::new(),
            made: Prepared {
                time: frame.sizes_time(),
                steps: Vec::new(),
                operands: Vec::new(),
                numbers: Vec::new(),
                args: Vec::new(),
                small: AlignedBytes::zeroed(0),
            },
        };
        let varying = varying(graph);
        let reads_varying = |n: NodeId| {
            let mut found = false;
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(|v| found |= varying[v]));
            found
        };
        for (at, &n) in walk.iter().enumerate() {
            let node = &graph.nodes[n];
            let is_tensor = |v: &ValueId| frame.slots[*v].ty.as_tensor().is_some();
            if let Part::Turn(number) = plan.groups.part[n] {
                let group = &plan.groups.list[number];
                let together = matches!(frame.groups.get(number), Some(Some((_, k))) if !matches!(k, Known::OneByOne));
                let by_numbers = |&m: &NodeId| numbers_give_sizes(graph.nodes[m].op) && reads_varying(m);
                if together && !group.members.iter().any(by_numbers) {
                    list.step(n, at, Kind::Group(number), &group.outs, &group.what.operands())?;
                } else {
                    list.step(n, at, Kind::Walk, &[], &[])?;
                }
                continue;
            }
            let sized_by_numbers =
                numbers_give_sizes(node.op) && (plan.dynamic[n] || plan.alias[n]) && reads_varying(n);
            let packed = plan.folded.layers[n].is_some_and(|i| constants.packed(i).is_some());
            if !node.outputs.iter().all(is_tensor) {
                // Of sizes alone: the number is there.
                let known = !node.outputs.iter().any(|&v| varying[v]);
                if !known || node.outputs.is_empty() {
                    list.step(n, at, Kind::Walk, &[], &[])?;
                }
            } else if node.op == Op::Delegate || sized_by_numbers || packed {
                list.step(n, at, Kind::Walk, &[], &[])?;
            } else if !(plan.alias[n] || plan.in_place.idle[n]) {
                list.call(graph, n, at, plan.in_place.op(graph, n))?;
            }
        }
        let Writer { mut made, small, .. } = list;
        made.small = AlignedBytes::copied(&small);
        Some(made)
    }

    /// Asks for what the steps after step `i` read first.
    pub(crate) fn ask(&self, i: usize, plan: &MethodPlan) {
        ask_for(self.steps.get(i + AHEAD..i + AHEAD + 2).unwrap_or(&[]));
        let Some(step) = self.steps.get(i + AHEAD) else { return };
        let [from, _, until] = step.operands.map(|n| n as usize);
        ask_for(self.operands.get(from..until).unwrap_or(&[]));
        let first = |n: usize| self.operands.get(n).map(|o| o.numbers as usize);
        let end = first(until).unwrap_or(self.numbers.len());
        ask_for(first(from).and_then(|from| self.numbers.get(from..end)).unwrap_or(&[]));
        let [from, until] = step.small.map(|n| n as usize);
        ask_for(self.small.get(from..until).unwrap_or(&[]));
        match step.kind {
            Kind::Group(number) => ask_for(plan.groups.list.get(number..=number).unwrap_or(&[])),
            Kind::Call(_, [from, until]) => {
                ask_for(self.args.get(from as usize..until as usize).unwrap_or(&[]));
            }
            Kind::Walk => {}
        }
    }

    /// The operands that a step writes.
    pub(crate) fn outputs(&self, step: &Step) -> &[Operand] {
        let [from, until, _] = step.operands;
        self.operands.get(from as usize..until as usize).unwrap_or(&[])
    }

    /// Those that it reads.
    pub(crate) fn inputs(&self, step: &Step) -> &[Operand] {
        let [_, from, until] = step.operands;
        self.operands.get(from as usize..until as usize).unwrap_or(&[])
    }

    pub(crate) fn operand(&self, i: u32) -> Result<&Operand, String> {
        self.operands.get(i as usize).ok_or_else(|| "an operand is missing".to_owned())
    }

    pub(crate) fn args(&self, [from, until]: [u32; 2]) -> &[Given] {
        self.args.get(from as usize..until as usize).unwrap_or(&[])
    }

    /// The constant that an operand is, where its own bytes are meant.
    pub(crate) fn constant(o: &Operand) -> Option<ConstId> {
        match o.spot {
            Spot::At(Place::Const(c)) => Some(c),
            _ => None,
        }
    }

    fn shape(&self, o: &Operand) -> Option<(&[usize], &[usize])> {
        let (from, rank) = (o.numbers as usize, usize::from(o.rank));
        self.numbers.get(from..from + 2 * rank).map(|both| both.split_at(rank))
    }

    /// An operand's elements.
    pub(crate) fn view<'a>(&'a self, memory: &Readable<'a>, o: &Operand) -> Result<View<'a>, String> {
        let data = match o.spot {
            Spot::Small(at) => self.small.get(at..at + o.bytes).ok_or("a constant is missing")?,
            Spot::At(place) => memory.bytes(place, o.bytes)?,
        };
        let (sizes, strides) = self.shape(o).ok_or("sizes are missing")?;
        View::new(o.dtype, sizes, strides, data).map_err(|e| e.to_string())
    }

    /// An operand that is written, in `data`.
    pub(crate) fn view_mut<'a>(&'a self, o: &Operand, data: &'a mut [u8]) -> Result<ViewMut<'a>, String> {
        let (sizes, strides) = self.shape(o).ok_or("sizes are missing")?;
        ViewMut::new(o.dtype, sizes, strides, data).map_err(|e| e.to_string())
    }
}

/// Numbers that may be others in the next call although no tensor's sizes are.
fn varying(graph: &Graph) -> SideTable<ValueId, bool> {
    let mut varying = SideTable::new(false);
    let is_number = |v: ValueId| graph.ty(v).as_tensor().is_none();
    graph.inputs.iter().filter(|&&v| is_number(v)).for_each(|&v| varying[v] = true);
    for n in graph.all_nodes() {
        let node = &graph.nodes[n];
        let mut any = node.op == Op::LocalScalarDense;
        node.args.iter().for_each(|a| a.for_each_value(|v| any |= is_number(v) && varying[v]));
        node.outputs.iter().filter(|&&v| is_number(v)).for_each(|&v| varying[v] = any);
    }
    varying
}

struct Writer<'a> {
    plan: &'a MethodPlan,
    frame: &'a Frame,
    constants: &'a Constants,
    small: Vec<u8>,
    made: Prepared,
}

impl Writer<'_> {
    fn here(&self) -> Option<u32> {
        u32::try_from(self.made.operands.len()).ok()
    }

    fn small_end(&self) -> Option<u32> {
        u32::try_from(self.small.len()).ok()
    }

    fn operand(&mut self, v: ValueId) -> Option<u32> {
        let slot = &self.frame.slots[v];
        let place = self.plan.places[v]?;
        let at = self.here()?;
        let mut spot = Spot::At(place);
        // What a packed weight or one that was laid out stands for is not there as bytes.
        let bytes = match place {
            Place::Const(c) => self.constants.bytes(c),
            Place::Folded(i) => self.constants.folded(i),
            _ => &[],
        };
        if slot.bytes <= SMALL
            && self.small.len() < ALL_SMALL
            && let Some(bytes) = bytes.get(..slot.bytes).filter(|b| !b.is_empty())
        {
            let at = self.small.len().next_multiple_of(AlignedBytes::ALIGN);
            self.small.resize(at, 0);
            self.small.extend_from_slice(bytes);
            spot = Spot::Small(at);
        }
        let numbers = u32::try_from(self.made.numbers.len()).ok()?;
        let rank = u8::try_from(slot.sizes.len()).ok()?;
        self.made.numbers.extend(slot.sizes.iter().chain(&slot.strides));
        self.made.operands.push(Operand { spot, bytes: slot.bytes, dtype: slot.dtype(), rank, numbers });
        Some(at)
    }

    fn step(&mut self, node: NodeId, at: usize, kind: Kind, outs: &[ValueId], inputs: &[ValueId]) -> Option<()> {
        let (from, small) = (self.here()?, self.small_end()?);
        for &v in outs {
            self.operand(v)?;
        }
        let until = self.here()?;
        for &v in inputs {
            self.operand(v)?;
        }
        let (operands, small) = ([from, until, self.here()?], [small, self.small_end()?]);
        self.made.steps.push(Step { node, at, kind, operands, small });
        Some(())
    }

    fn call(&mut self, graph: &Graph, n: NodeId, at: usize, op: Op) -> Option<()> {
        let node = &graph.nodes[n];
        let first = u32::try_from(self.made.args.len()).ok()?;
        let mut inputs: SmallVec<[ValueId; 4]> = SmallVec::new();
        let outs = u32::try_from(node.outputs.len()).ok()?;
        let from = self.here()?;
        for (i, arg) in node.args.iter().enumerate() {
            let given = match arg {
                _ if is_mutated(op, i) => Given::Mutated,
                Arg::Value(v) if matches!(self.frame.slots[*v].ty, Type::Tensor(_)) => {
                    inputs.push(*v);
                    Given::Operand(from + outs + u32::try_from(inputs.len()).ok()? - 1)
                }
                other => Given::Other(other.clone()),
            };
            self.made.args.push(given);
        }
        let args = [first, u32::try_from(self.made.args.len()).ok()?];
        self.step(n, at, Kind::Call(op, args), &node.outputs, &inputs)
    }
}
