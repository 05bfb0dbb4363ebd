//! One method: its state, reading and writing.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{
    Arg, BufferId, Def, Dims, Extra, Graph, Id, InferCtx, IntArg, MetaValue, NodeId, Op, PathId, Region, RegionId,
    SymInt, TensorType, Type, ValueId,
};
use pteron_pte::{EValue, ExecutionPlan, Instruction, ShapeDynamism, Storage, Tensor};
use smallvec::SmallVec;

use super::data::{Shared, fixed_type, fqn, order_of};
use super::state::{Cell, Entry, Handle, Key, Loc, Phi, State};
use super::{InputSlot, MethodIo, OutputSlot};
use crate::convert::dtype_of;
use crate::error::LiftError;

/// Result with a reason that the caller locates.
pub(super) type Res<T> = Result<T, String>;

/// Instructions and state entries that lifting may visit: far above real programs, and a bound for hostile ones.
const WORK_LIMIT: usize = 100_000_000;

/// What a loop's first passage over its body records.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// Number of the last write before the loop.
    pub(super) entry: u32,
    /// Cells read as they were before the loop.
    pub(super) reads: BTreeSet<Key>,
    /// Cells written.
    pub(super) writes: BTreeSet<Key>,
    /// Cells of `copy_index` that begin without contents.
    pub(super) fresh: BTreeSet<Key>,
}

/// Things of which a graph has one value each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Known {
    Const(usize),
    Buffer(usize),
    Phi(u32),
}

/// An interval of planned memory that is state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) end: u64,
    pub(super) buffer: BufferId,
    pub(super) value: u32,
}

pub(super) struct Lifter<'a, 'f> {
    pub(super) shared: &'a mut Shared<'f>,
    pub(super) plan: &'f ExecutionPlan,
    pub(super) graph: Graph,
    pub(super) region: RegionId,
    pub(super) state: State,
    pub(super) known: BTreeMap<Known, ValueId>,
    pub(super) slots: BTreeMap<(u32, u64), Slot>,
    pub(super) version: u32,
    pub(super) next_phi: u32,
    pub(super) traces: Vec<Trace>,
    /// Values that some instruction or the caller has defined.
    pub(super) defined: BTreeSet<u32>,
    /// Largest index of a value used so far.
    pub(super) largest: u32,
    /// Position of the last instruction of the present chain that names each value.
    pub(super) last_use: Vec<usize>,
    pub(super) work: usize,
    /// Chain, instruction and what it is, for errors.
    pub(super) at: (usize, usize),
    inputs: Vec<u32>,
}

impl<'a, 'f> Lifter<'a, 'f> {
    pub(super) fn new(shared: &'a mut Shared<'f>, plan: &'f ExecutionPlan) -> Result<Lifter<'a, 'f>, LiftError> {
        let graph = Graph::new(&plan.name);
        let region = graph.body_id();
        Ok(Lifter {
            shared,
            plan,
            graph,
            region,
            state: State::default(),
            known: BTreeMap::new(),
            slots: BTreeMap::new(),
            version: 0,
            next_phi: 0,
            traces: Vec::new(),
            defined: BTreeSet::new(),
            largest: 0,
            last_use: Vec::new(),
            work: 0,
            at: (0, 0),
            inputs: Vec::new(),
        })
    }

    pub(super) fn run(mut self) -> Result<(Graph, MethodIo), LiftError> {
        let plan = self.plan;
        let value_error = |value: u32, reason: String| LiftError::Value { method: plan.name.clone(), value, reason };
        let mut io = MethodIo { method: plan.name.clone(), ..MethodIo::default() };
        for (i, &v) in plan.inputs.iter().enumerate() {
            let slot = self.input(i, v).map_err(|e| value_error(v, e))?;
            io.inputs.push(slot);
        }
        // State that the file declares as such.
        for (v, e) in plan.values.iter().enumerate() {
            let v = v as u32;
            let EValue::Tensor(t) = e else { continue };
            if t.dynamism == ShapeDynamism::DynamicUnbound {
                return Err(value_error(
                    v,
                    "its shape has no bound, which ExecuTorch's runtime refuses as well".into(),
                ));
            }
            let declared = match t.storage() {
                Storage::InitialisedPlanned { .. } | Storage::ExternalInitialisedPlanned { .. } => true,
                Storage::Planned(_) => fqn(t).is_some(),
                _ => false,
            };
            if declared && !plan.inputs.contains(&v) && self.is_referenced(v) {
                self.declare_state(v, t).map_err(|e| value_error(v, e))?;
            }
        }
        for c in 0..plan.chains.len() {
            self.at = (c, 0);
            self.chain(c).map_err(|reason| {
                let (chain, index) = self.at;
                let instruction = plan.chains.get(chain).and_then(|c| c.instructions.get(index));
                let what = instruction.map_or_else(|| "end".to_owned(), |i| self.describe(i));
                LiftError::Instruction { method: plan.name.clone(), chain, index, what, reason }
            })?;
        }
        let mut outputs = Vec::new();
        for &v in &plan.outputs {
            let slot = self.output(v, &mut outputs).map_err(|e| value_error(v, e))?;
            io.outputs.push(slot);
        }
        self.mutations()?;
        self.graph.set_outputs(outputs);
        Ok((self.graph, io))
    }

    /// True if an instruction or the plan's outputs name the value, directly or in a list.
    fn is_referenced(&self, v: u32) -> bool {
        let list = |e: &EValue| match e {
            EValue::TensorList(items) => items.contains(&v),
            EValue::OptionalTensorList(items) => items.contains(&Some(v)),
            _ => false,
        };
        let named = |i: &Instruction| operands(i).contains(&v);
        self.plan.outputs.contains(&v)
            || self.plan.chains.iter().any(|c| c.instructions.iter().any(named))
            || self.plan.values.iter().any(list)
    }

    pub(super) fn describe(&self, i: &Instruction) -> String {
        match i {
            Instruction::KernelCall { op_index, .. } => {
                self.plan.operators.get(*op_index as usize).map_or_else(|| "kernel".to_owned(), ToString::to_string)
            }
            Instruction::DelegateCall { delegate_index, .. } => format!("delegate {delegate_index}"),
            Instruction::MoveCall { .. } => "MoveCall".to_owned(),
            Instruction::JumpFalseCall { .. } => "JumpFalseCall".to_owned(),
            Instruction::FreeCall { .. } => "FreeCall".to_owned(),
        }
    }

    fn input(&mut self, i: usize, v: u32) -> Res<InputSlot> {
        let position = self.graph.inputs.len();
        let name = format!("input{i}");
        let (ty, traced) = match self.value(v)? {
            EValue::Tensor(t) => (Type::Tensor(self.declared(t)?), None),
            EValue::Int(c) => (Type::Int(SymInt::Const(*c)), Some(MetaValue::Int(*c))),
            EValue::Bool(b) => (Type::Bool, Some(MetaValue::Bool(*b))),
            EValue::Double(d) => (Type::Float, Some(MetaValue::Float(*d))),
            EValue::Null | EValue::String(_) => return Ok(InputSlot::Ignored { kind: self.value(v)?.kind() }),
            other => return Err(format!("an input is a {}, expected a tensor or a number", other.kind())),
        };
        if self.inputs.contains(&v) {
            return Err("the value is an input twice".into());
        }
        self.inputs.push(v);
        self.defined.insert(v);
        let tensor = ty.as_tensor().is_some();
        let id = self.graph.add_input(&name, ty);
        let (key, end) = if tensor {
            match self.home(v)? {
                Loc::Cell(key, end) => (key, end),
                Loc::Const(_) => return Err("an input is a constant".into()),
            }
        } else {
            (Key::Scalar(v), 0)
        };
        self.state.put(key, Cell { end, entry: Entry::Value(id), version: 0, writer: v });
        Ok(InputSlot::Graph { position, traced })
    }

    fn output(&mut self, v: u32, outputs: &mut Vec<ValueId>) -> Res<OutputSlot> {
        let out = match self.value(v)? {
            EValue::Tensor(_) => self.read(v)?,
            EValue::Int(_) | EValue::Bool(_) | EValue::Double(_) => match self.scalar(v)? {
                Arg::Value(id) => id,
                Arg::Int(i) => return Ok(OutputSlot::Literal(MetaValue::Int(i))),
                Arg::Bool(b) => return Ok(OutputSlot::Literal(MetaValue::Bool(b))),
                Arg::Float(f) => return Ok(OutputSlot::Literal(MetaValue::Float(f))),
                other => return Err(format!("an output is {}", other.kind_name())),
            },
            EValue::String(s) => return Ok(OutputSlot::Literal(MetaValue::Str(s.as_str().into()))),
            EValue::Null => return Ok(OutputSlot::Null),
            other => return Err(format!("an output is a {}, expected a tensor or a literal", other.kind())),
        };
        outputs.push(out);
        Ok(OutputSlot::Graph { position: outputs.len() - 1 })
    }

    /// Records what each state interval holds at the end.
    fn mutations(&mut self) -> Result<(), LiftError> {
        let method = self.plan.name.clone();
        for ((memory, start), slot) in self.slots.clone() {
            let fail = |reason: String| LiftError::Value { method: method.clone(), value: slot.value, reason };
            let key = Key::Arena(memory, start);
            let changed = match self.state.cells.get(&key) {
                Some(c) if c.end == slot.end => c.version != 0,
                _ => {
                    let end = slot.end;
                    return Err(fail(format!(
                        "mutable state at {start}..{end} of memory {memory} was overwritten by tensors of other sizes"
                    )));
                }
            };
            if !changed {
                continue;
            }
            // The value that names the state, read where the method ends.
            let v = self.read_home(slot.value).map_err(fail)?;
            let own = self.known.get(&Known::Buffer(slot.buffer.index()));
            if own != Some(&v) {
                self.graph.mutations.push((slot.buffer, v));
            }
        }
        self.graph.mutations.sort();
        Ok(())
    }

    pub(super) fn value(&self, v: u32) -> Res<&'f EValue> {
        self.plan.values.get(v as usize).ok_or_else(|| format!("value {v} is not in the table"))
    }

    pub(super) fn tensor(&self, v: u32) -> Res<&'f Tensor> {
        match self.value(v)? {
            EValue::Tensor(t) => Ok(t),
            other => Err(format!("value {v} is a {}, expected a Tensor", other.kind())),
        }
    }

    pub(super) fn spend(&mut self, n: usize) -> Res<()> {
        self.work = self.work.saturating_add(n);
        if self.work > WORK_LIMIT { Err("the control flow is too large to be followed".into()) } else { Ok(()) }
    }

    /// The declared type: full sizes, or unknown sizes up to the bound.
    pub(super) fn declared(&self, t: &Tensor) -> Res<TensorType> {
        if t.dynamism == ShapeDynamism::Static {
            return fixed_type(t);
        }
        let dtype =
            dtype_of(t.scalar_type).ok_or_else(|| format!("element type {} is not supported", t.scalar_type))?;
        let dim = |&s: &i32| match i64::from(s) {
            s @ ..=1 => SymInt::Const(s.max(0)),
            s => SymInt::Unknown { min: 0, max: s },
        };
        Ok(TensorType { dtype, dims: t.sizes.iter().map(dim).collect(), order: order_of(t) })
    }

    /// The inferred type made narrower by the declared one; `None` if they contradict each other.
    fn refine(&self, inferred: &TensorType, t: &Tensor) -> Option<TensorType> {
        let declared = self.declared(t).ok()?;
        if inferred.dtype != declared.dtype || inferred.rank() != declared.rank() {
            return None;
        }
        let symbols = &self.graph.symbols;
        let one = |(i, &bound): (&SymInt, &i32)| {
            let bound = i64::from(bound);
            if t.dynamism == ShapeDynamism::Static {
                return i.may_equal(&SymInt::Const(bound), symbols).then_some(SymInt::Const(bound));
            }
            match i {
                SymInt::Unknown { min, max } => match ((*min).max(0), (*max).min(bound)) {
                    (a, b) if a == b => Some(SymInt::Const(a)),
                    (a, b) => (a < b).then_some(SymInt::Unknown { min: a, max: b }),
                },
                known => (known.min(symbols) <= bound).then(|| known.clone()),
            }
        };
        let dims = inferred.dims.iter().zip(&t.sizes).map(one).collect::<Option<Dims>>()?;
        Some(TensorType { dtype: declared.dtype, dims, order: declared.order })
    }

    /// Types of a node's outputs: inferred, made narrower by what the file declares of tensor outputs (`outs`, in order;
    /// `None` for scalars). What cannot be inferred is as declared, with a note.
    pub(super) fn output_types(&mut self, op: Op, args: &[Arg], outs: &[Option<u32>]) -> Res<SmallVec<[Type; 2]>> {
        let graph = &self.graph;
        let types = |v: ValueId| graph.ty(v);
        let inferred = InferCtx { op, args, types: &types, symbols: &graph.symbols }.infer();
        let inferred = match inferred {
            Ok(i) if i.len() == outs.len() => Ok(i),
            Ok(i) => Err(format!("{op} has {} results and the program takes {}", i.len(), outs.len())),
            Err(e) => Err(e.to_string()),
        };
        let mut out = SmallVec::new();
        for (k, o) in outs.iter().enumerate() {
            let guess = inferred.as_ref().ok().and_then(|i| i.get(k));
            out.push(match (o, guess) {
                (None, Some(t)) => t.clone(),
                (None, None) => return Err(inferred.err().unwrap_or_default()),
                (Some(v), guess) => {
                    let t = self.tensor(*v)?;
                    match guess.and_then(Type::as_tensor).and_then(|g| self.refine(g, t)) {
                        Some(ty) => Type::Tensor(ty),
                        None => {
                            let ty = self.declared(t)?;
                            let found = match &inferred {
                                Ok(i) => i.get(k).map_or_else(String::new, ToString::to_string),
                                Err(e) => e.clone(),
                            };
                            let (method, (chain, index)) = (&self.plan.name, self.at);
                            let at = format!("method `{method}`, instruction {chain}.{index}");
                            self.shared.note(format!("{at}: value {v} is {ty} as declared; inferred: {found}"));
                            Type::Tensor(ty)
                        }
                    }
                }
            });
        }
        Ok(out)
    }

    /// Where the value's tensor lies by the file, before any `et_view`.
    fn home(&self, v: u32) -> Res<Loc> {
        let t = self.tensor(v)?;
        Ok(match t.storage() {
            Storage::Constant { .. } | Storage::ExternalConstant { .. } => Loc::Const(v),
            Storage::RuntimeSupplied => Loc::Cell(Key::Own(v), 0),
            Storage::Planned(a)
            | Storage::InitialisedPlanned { allocation: a, .. }
            | Storage::ExternalInitialisedPlanned { allocation: a, .. } => {
                let bytes = t.nbytes().ok_or("its size overflows")?;
                if bytes == 0 {
                    Loc::Cell(Key::Own(v), 0)
                } else {
                    let end = a.offset.checked_add(bytes).ok_or("its place overflows")?;
                    Loc::Cell(Key::Arena(a.memory_id, a.offset), end)
                }
            }
        })
    }

    /// Where the value's tensor lies now.
    pub(super) fn locate(&self, v: u32) -> Res<Loc> {
        match self.state.pointers.get(&v) {
            Some(p) => Ok(p.loc),
            None => self.home(v),
        }
    }

    /// The value whose tensor `v`'s handle is, or what branches made of it.
    pub(super) fn handle(&self, v: u32) -> Result<u32, Entry> {
        match self.state.handles.get(&v) {
            None => Ok(v),
            Some(Handle::Same(i)) => Ok(*i),
            Some(Handle::Entry(e)) => Err(e.clone()),
        }
    }

    /// The tensor that the value `v` holds.
    pub(super) fn read(&mut self, v: u32) -> Res<ValueId> {
        match self.handle(v) {
            Ok(i) => self.read_home(i),
            Err(e) => self.materialise(&e),
        }
    }

    fn read_home(&mut self, i: u32) -> Res<ValueId> {
        let loc = self.locate(i)?;
        let (value, version, writer) = self.content(loc, i)?;
        self.shaped(i, value, version, writer)
    }

    /// What lies at `loc`, with the number of its write and the value it was written through.
    pub(super) fn content(&mut self, loc: Loc, reader: u32) -> Res<(ValueId, u32, u32)> {
        let (key, end) = match loc {
            Loc::Const(c) => return Ok((self.constant(c)?, 0, c)),
            Loc::Cell(key, end) => (key, end),
        };
        let overlap = match key {
            Key::Arena(arena, start) => self.state.overlapping(arena, start, end),
            other => self.state.cells.contains_key(&other).then_some(other).into_iter().collect(),
        };
        if let [found] = overlap.as_slice()
            && *found == key
            && let Some(cell) = self.state.cells.get(found).cloned()
            && cell.end == end
        {
            self.traced_read(key, cell.version);
            let value =
                self.materialise(&cell.entry).map_err(|e| format!("value {reader} {}: {e}", place(key, end)))?;
            if let Some(c) = self.state.cells.get_mut(&key) {
                c.entry = Entry::Value(value);
            }
            return Ok((value, cell.version, cell.writer));
        }
        if !overlap.is_empty() {
            let found: Vec<String> =
                overlap.iter().rev().map(|k| place(*k, self.state.cells.get(k).map_or(0, |c| c.end))).collect();
            return Err(format!(
                "value {reader} {} covers only a part of what lies there: {}",
                place(key, end),
                found.join(", ")
            ));
        }
        // Never written: mutable state.
        let Key::Arena(..) = key else {
            return Err(format!("value {reader} is read before anything gave it memory"));
        };
        let t = self.tensor(reader)?;
        self.declare_state(reader, t)?;
        self.traced_read(key, 0);
        match self.state.cells.get(&key).map(|c| c.entry.clone()) {
            Some(Entry::Value(v)) => Ok((v, 0, reader)),
            _ => Err(format!("value {reader} is read before it is written, and is no state")),
        }
    }

    fn traced_read(&mut self, key: Key, version: u32) {
        for t in &mut self.traces {
            if version <= t.entry {
                t.reads.insert(key);
            }
        }
    }

    /// Makes the value's planned memory a mutable buffer.
    fn declare_state(&mut self, v: u32, t: &Tensor) -> Res<()> {
        let Loc::Cell(key @ Key::Arena(memory, start), end) = self.home(v)? else { return Ok(()) };
        let same = |s: &Slot| s.end == end;
        let buffer = match self.slots.get(&(memory, start)) {
            Some(s) if same(s) => s.buffer,
            Some(s) => {
                return Err(format!(
                    "value {v} {} and value {} are state of different sizes at one place",
                    place(key, end),
                    s.value
                ));
            }
            None => self.shared.buffer(&self.plan.name, t, memory, start)?,
        };
        self.slots.entry((memory, start)).or_insert(Slot { end, buffer, value: v });
        if self.state.cells.contains_key(&key) {
            return Ok(());
        }
        let value = self.buffer_value(buffer);
        self.state.put(key, Cell { end, entry: Entry::Value(value), version: 0, writer: v });
        Ok(())
    }

    pub(super) fn buffer_value(&mut self, b: BufferId) -> ValueId {
        if let Some(&v) = self.known.get(&Known::Buffer(b.index())) {
            return v;
        }
        let ty = self.shared.module.buffers[b].ty.clone();
        let v = self.graph.add_value(ty.into(), Def::Buffer(b), None);
        self.known.insert(Known::Buffer(b.index()), v);
        v
    }

    fn constant(&mut self, v: u32) -> Res<ValueId> {
        let t = self.tensor(v)?;
        let c = self.shared.constant(t)?;
        if let Some(&v) = self.known.get(&Known::Const(c.index())) {
            return Ok(v);
        }
        let ty = self.shared.module.constants[c].ty.clone();
        let v = self.graph.add_value(ty.into(), Def::Const(c), None);
        self.known.insert(Known::Const(c.index()), v);
        Ok(v)
    }

    /// `value`, written through value `writer`, as value `i` sees it.
    pub(super) fn shaped(&mut self, i: u32, value: ValueId, version: u32, writer: u32) -> Res<ValueId> {
        if writer == i {
            return Ok(value);
        }
        if let Some(&v) = self.state.dynamic_views.get(&(version, i)) {
            return Ok(v);
        }
        if let Some(p) = self.state.pointers.get(&i).cloned() {
            let v = self.view(value, p.sizes, i)?;
            self.state.dynamic_views.insert((version, i), v);
            return Ok(v);
        }
        let (a, b) = (self.tensor(writer)?, self.tensor(i)?);
        if a.scalar_type != b.scalar_type {
            let (x, y) = (a.scalar_type, b.scalar_type);
            return Err(format!("value {i} reads as {y} what value {writer} wrote as {x}"));
        }
        if a.sizes == b.sizes && a.dim_order == b.dim_order && a.dynamism == b.dynamism {
            return Ok(value);
        }
        if a.dynamism != ShapeDynamism::Static || b.dynamism != ShapeDynamism::Static {
            return Err(format!("value {i} shares the memory of value {writer}, and one of them has a dynamic shape"));
        }
        if order_of(a).is_some() || order_of(b).is_some() {
            return Err(format!("value {i} shares the memory of value {writer} in another dim order"));
        }
        let key = (version, b.sizes.clone());
        if let Some(&v) = self.state.static_views.get(&key)
            && version != 0
        {
            return Ok(v);
        }
        let sizes: Vec<i64> = b.sizes.iter().map(|&s| i64::from(s)).collect();
        let v = self.view(value, Arg::ints(&sizes), i)?;
        self.state.static_views.insert(key, v);
        self.state.dynamic_views.insert((version, i), v);
        Ok(v)
    }

    pub(super) fn view(&mut self, value: ValueId, sizes: Arg, out: u32) -> Res<ValueId> {
        let args = [Arg::Value(value), sizes];
        let types = self.output_types(Op::ViewCopy, &args, &[Some(out)])?;
        let n = self.add(Op::ViewCopy, args, types, Extra::None);
        self.graph.nodes[n].outputs.first().copied().ok_or_else(|| "a view without output".into())
    }

    /// Appends a node to the present region.
    pub(super) fn add(
        &mut self,
        op: Op,
        args: impl IntoIterator<Item = Arg>,
        types: impl IntoIterator<Item = Type>,
        extra: Extra,
    ) -> NodeId {
        self.graph.add_node(self.region, op, args, types, extra, PathId::from_index(0))
    }

    /// Writes `value` where value `v`'s tensor lies.
    pub(super) fn write(&mut self, v: u32, value: ValueId) -> Res<()> {
        let Ok(i) = self.handle(v) else {
            return Err(format!("value {v} is written after branches gave it different tensors"));
        };
        match self.locate(i)? {
            Loc::Const(_) => Err(format!("value {v} is a constant and is written")),
            Loc::Cell(key, end) => {
                self.check_slots(key, end, v)?;
                self.put(key, end, Entry::Value(value), i);
                self.defined.insert(v);
                Ok(())
            }
        }
    }

    /// State may be overwritten as a whole only.
    fn check_slots(&self, key: Key, end: u64, v: u32) -> Res<()> {
        let Key::Arena(memory, start) = key else { return Ok(()) };
        for ((_, s), slot) in self.slots.range((memory, 0)..(memory, end)).rev() {
            if slot.end > start && (*s, slot.end) != (start, end) {
                let state = place(Key::Arena(memory, *s), slot.end);
                return Err(format!("value {v} {} overwrites a part of mutable state {state}", place(key, end)));
            }
            if slot.end <= start {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn put(&mut self, key: Key, end: u64, entry: Entry, writer: u32) {
        self.version += 1;
        for t in &mut self.traces {
            t.writes.insert(key);
        }
        self.state.put(key, Cell { end, entry, version: self.version, writer });
    }

    /// The int, bool or double that the value `v` holds: a value of the graph or a literal.
    pub(super) fn scalar(&mut self, v: u32) -> Res<Arg> {
        let key = Key::Scalar(v);
        if let Some(cell) = self.state.cells.get(&key).cloned() {
            self.traced_read(key, cell.version);
            return match cell.entry {
                Entry::Literal(a) => Ok(a),
                other => self.materialise(&other).map(Arg::Value),
            };
        }
        self.traced_read(key, 0);
        self.literal(v)
    }

    /// The number that the file gives for `v`.
    pub(super) fn literal(&self, v: u32) -> Res<Arg> {
        Ok(match self.value(v)? {
            EValue::Int(i) => Arg::Int(*i),
            EValue::Bool(b) => Arg::Bool(*b),
            EValue::Double(d) => Arg::Float(*d),
            other => return Err(format!("value {v} is a {}, expected a number", other.kind())),
        })
    }

    /// The value of an entry, in the present region.
    pub(super) fn materialise(&mut self, e: &Entry) -> Res<ValueId> {
        match e {
            Entry::Value(v) => Ok(*v),
            Entry::Literal(a) => self.literal_value(a.clone(), self.region),
            Entry::Garbage(why) => Err(format!("is read, but {why}")),
            Entry::Phi(p) => self.phi(p),
        }
    }

    /// A literal as a value, where only values may stand.
    fn literal_value(&mut self, a: Arg, region: RegionId) -> Res<ValueId> {
        let (op, args) = match a {
            Arg::Bool(b) => (Op::PrimEq, [Arg::Int(i64::from(b)), Arg::Int(1)]),
            Arg::Int(_) | Arg::Float(_) => (Op::PrimAdd, [a, Arg::Int(0)]),
            other => return Err(format!("{} is no number", other.kind_name())),
        };
        let outer = std::mem::replace(&mut self.region, region);
        let types = self.output_types(op, &args, &[None]);
        let node = types.map(|t| self.add(op, args, t, Extra::None));
        self.region = outer;
        self.graph.nodes[node?].outputs.first().copied().ok_or_else(|| "no value".into())
    }

    fn in_branch(&mut self, e: &Entry, region: RegionId) -> Res<ValueId> {
        match e {
            Entry::Literal(a) => self.literal_value(a.clone(), region),
            other => self.materialise(other),
        }
    }

    fn phi(&mut self, p: &Phi) -> Res<ValueId> {
        if let Some(&v) = self.known.get(&Known::Phi(p.id)) {
            return Ok(v);
        }
        let regions = self.graph.nodes[p.node].regions.clone();
        let [then, other] = regions.as_slice() else { return Err("a branch without two sides".into()) };
        let a = self.in_branch(&p.then, *then)?;
        let b = self.in_branch(&p.other, *other)?;
        let ty = join(self.graph.ty(a), self.graph.ty(b)).ok_or_else(|| {
            let (x, y) = (self.graph.ty(a), self.graph.ty(b));
            format!("one branch gives {x} and the other {y}")
        })?;
        self.graph.regions[*then].results.push(a);
        self.graph.regions[*other].results.push(b);
        let position = u32::try_from(self.graph.nodes[p.node].outputs.len()).unwrap_or(u32::MAX);
        let v = self.graph.add_value(ty, Def::Node(p.node, position), None);
        self.graph.nodes[p.node].outputs.push(v);
        self.known.insert(Known::Phi(p.id), v);
        Ok(v)
    }

    /// A tensor of type `ty` without contents, made in `region`.
    pub(super) fn blank(&mut self, ty: &TensorType, rows: Option<i64>) -> Res<ValueId> {
        let mut sizes: Vec<i64> = ty.dims.iter().map(|d| d.max(&self.graph.symbols)).collect();
        if let (Some(first), Some(rows)) = (sizes.first_mut(), rows) {
            *first = rows;
        }
        let args = [Arg::ints(&sizes), Arg::Float(0.0), Arg::DType(ty.dtype)];
        let types = self.output_types(Op::Full, &args, &[None])?;
        let n = self.add(Op::Full, args, types, Extra::None);
        self.graph.nodes[n].outputs.first().copied().ok_or_else(|| "no value".into())
    }

    pub(super) fn new_region(&mut self) -> RegionId {
        self.graph.regions.push(Region::default())
    }

    /// An int list whose items are values of the table.
    pub(super) fn int_list(&mut self, items: &[u32]) -> Res<Arg> {
        let mut out: SmallVec<[IntArg; 4]> = SmallVec::new();
        for &i in items {
            out.push(match self.scalar(i)? {
                Arg::Int(c) => IntArg::Const(c),
                Arg::Value(v) => IntArg::Value(v),
                other => return Err(format!("item {i} of an int list is {}", other.kind_name())),
            });
        }
        Ok(Arg::Ints(out))
    }
}

/// Values that an instruction names.
pub(super) fn operands(i: &Instruction) -> SmallVec<[u32; 8]> {
    match i {
        Instruction::KernelCall { args, .. } | Instruction::DelegateCall { args, .. } => SmallVec::from_slice(args),
        Instruction::MoveCall { move_from, move_to } => SmallVec::from_slice(&[*move_from, *move_to]),
        Instruction::JumpFalseCall { cond_value_index, .. } => SmallVec::from_slice(&[*cond_value_index]),
        Instruction::FreeCall { value_index } => SmallVec::from_slice(&[*value_index]),
    }
}

/// A cell in messages.
pub(super) fn place(key: Key, end: u64) -> String {
    match key {
        Key::Arena(memory, start) => format!("at {start}..{end} of memory {memory}"),
        Key::Own(v) => format!("in memory of its own ({v})"),
        Key::Scalar(v) => format!("in the value table ({v})"),
    }
}

/// A type that holds both; `None` if there is none.
pub(super) fn join(a: &Type, b: &Type) -> Option<Type> {
    match (a, b) {
        (Type::Tensor(x), Type::Tensor(y)) => {
            if x.dtype != y.dtype || x.rank() != y.rank() || x.dim_order() != y.dim_order() {
                return None;
            }
            let dims = x.dims.iter().zip(&y.dims).map(|(p, q)| both(p, q)).collect();
            Some(Type::Tensor(TensorType { dtype: x.dtype, dims, order: x.order.clone() }))
        }
        (Type::Int(x), Type::Int(y)) => Some(Type::Int(if x == y { x.clone() } else { SymInt::ANY })),
        (x, y) => (x == y).then(|| x.clone()),
    }
}

fn both(a: &SymInt, b: &SymInt) -> SymInt {
    let none = pteron_ir::Symbols::new();
    if a == b {
        return a.clone();
    }
    let ((p, q), (r, s)) = (a.range(&none), b.range(&none));
    SymInt::Unknown { min: p.min(r), max: q.max(s) }
}
