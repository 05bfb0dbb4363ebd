//! Instruction lists to regions.

use std::collections::{BTreeMap, BTreeSet};

use pteron_ir::{Arg, Def, Extra, NodeId, Op, RegionId, SymInt, Type, ValueId};
use pteron_pte::{EValue, Instruction};

use super::method::{Lifter, Res, Trace, operands};
use super::state::{Cell, Entry, Handle, Key, Phi, State};

/// Loops inside loops: each level passes twice over its body.
const MAX_LOOP_DEPTH: usize = 4;
/// Branches inside branches.
const MAX_DEPTH: usize = 64;

/// The jumps of a chain.
struct Jumps {
    /// Backward jumps: target to the instructions that jump there.
    back: BTreeMap<usize, Vec<usize>>,
    /// Values that some instruction writes.
    written: BTreeSet<u32>,
}

/// When a loop goes on.
enum Again {
    /// While this value is false.
    UntilTrue(u32),
    /// While this value is true.
    WhileTrue(u32),
}

impl Lifter<'_, '_> {
    pub(super) fn chain(&mut self, c: usize) -> Res<()> {
        let plan = self.plan;
        let Some(chain) = plan.chains.get(c) else { return Ok(()) };
        let instructions = chain.instructions.as_slice();
        self.note_uses(instructions, c + 1);
        let mut jumps = Jumps { back: BTreeMap::new(), written: BTreeSet::new() };
        for i in plan.chains.iter().flat_map(|c| &c.instructions) {
            match i {
                Instruction::KernelCall { args, .. } => jumps.written.extend(args.last()),
                Instruction::DelegateCall { args, .. } => jumps.written.extend(args),
                Instruction::MoveCall { move_to, .. } => {
                    jumps.written.insert(*move_to);
                }
                _ => {}
            }
        }
        for (i, instruction) in instructions.iter().enumerate() {
            if let Instruction::JumpFalseCall { cond_value_index, destination_instruction } = instruction {
                let to = *destination_instruction as usize;
                if to <= i && self.constant_bool(*cond_value_index, &jumps) != Some(true) {
                    jumps.back.entry(to).or_default().push(i);
                }
            }
        }
        self.range(instructions, &jumps, 0, instructions.len(), 0)?;
        self.at.1 = instructions.len();
        Ok(())
    }

    /// Where each value is named last in this chain; what a later chain or the outputs name is needed to the end.
    fn note_uses(&mut self, instructions: &[Instruction], next_chain: usize) {
        let plan = self.plan;
        self.last_use = vec![0; plan.values.len()];
        let mut mark = |v: u32, at: usize| {
            let mut one = |v: u32| {
                if let Some(l) = self.last_use.get_mut(v as usize) {
                    *l = (*l).max(at);
                }
            };
            one(v);
            match plan.values.get(v as usize) {
                Some(EValue::TensorList(items) | EValue::IntList(items)) => items.iter().for_each(|&i| one(i)),
                Some(EValue::OptionalTensorList(items)) => items.iter().flatten().for_each(|&i| one(i)),
                _ => {}
            }
        };
        for (at, i) in instructions.iter().enumerate() {
            operands(i).into_iter().for_each(|v| mark(v, at));
        }
        let later = plan.chains.iter().skip(next_chain).flat_map(|c| &c.instructions).flat_map(operands);
        later.chain(plan.outputs.iter().copied()).for_each(|v| mark(v, usize::MAX));
    }

    /// The value of a boolean that nothing writes.
    fn constant_bool(&self, v: u32, jumps: &Jumps) -> Option<bool> {
        match self.plan.values.get(v as usize) {
            Some(EValue::Bool(b)) if !jumps.written.contains(&v) && !self.plan.inputs.contains(&v) => Some(*b),
            _ => None,
        }
    }

    fn range(&mut self, list: &[Instruction], jumps: &Jumps, lo: usize, hi: usize, depth: usize) -> Res<()> {
        if depth > MAX_DEPTH {
            return Err(format!("control flow is nested more than {MAX_DEPTH} levels deep"));
        }
        let mut i = lo;
        while i < hi {
            self.spend(1)?;
            self.at.1 = i;
            let from = jumps.back.get(&i).and_then(|f| f.iter().rev().copied().find(|&j| j < hi));
            if let Some(j) = from {
                self.repeat(list, jumps, i, j, depth)?;
                i = j + 1;
                continue;
            }
            match list.get(i) {
                Some(Instruction::JumpFalseCall { cond_value_index, destination_instruction }) => {
                    i = self.jump(list, jumps, i, *cond_value_index, *destination_instruction as usize, hi, depth)?;
                    continue;
                }
                Some(other) => self.step(other)?,
                None => return Err("there is no such instruction".into()),
            }
            i += 1;
        }
        Ok(())
    }

    /// A forward jump: a branch. Gives the next instruction.
    #[allow(clippy::too_many_arguments, reason = "the place in the list and the bounds of the region are five numbers")]
    fn jump(
        &mut self,
        list: &[Instruction],
        jumps: &Jumps,
        i: usize,
        cond: u32,
        to: usize,
        hi: usize,
        depth: usize,
    ) -> Res<usize> {
        match self.constant_bool(cond, jumps) {
            Some(true) => return Ok(i + 1),
            Some(false) => return Err(format!("jumps to {to} unconditionally and ends no branch")),
            None => {}
        }
        if to <= i || to > hi {
            return Err(format!("jumps to {to}, out of the region that ends at {hi}"));
        }
        let unconditional = |k: usize| match list.get(k) {
            Some(Instruction::JumpFalseCall { cond_value_index, destination_instruction })
                if self.constant_bool(*cond_value_index, jumps) == Some(false) =>
            {
                Some(*destination_instruction as usize)
            }
            _ => None,
        };
        let (then_end, end) = match unconditional(to - 1) {
            Some(end) if to - 1 > i && end >= to && end <= hi => (to - 1, end),
            _ => (to, to),
        };
        let predicate = self.condition(cond)?;
        self.branches(list, jumps, predicate, (i + 1, then_end), (to, end), depth)?;
        Ok(end)
    }

    /// A boolean or a boolean tensor.
    fn condition(&mut self, cond: u32) -> Res<Arg> {
        match self.value(cond)? {
            EValue::Tensor(_) => self.read(cond).map(Arg::Value),
            EValue::Bool(_) => self.scalar(cond),
            other => Err(format!("the condition is a {}, expected a Bool or a Tensor", other.kind())),
        }
    }

    fn branches(
        &mut self,
        list: &[Instruction],
        jumps: &Jumps,
        predicate: Arg,
        then: (usize, usize),
        other: (usize, usize),
        depth: usize,
    ) -> Res<()> {
        let node = self.add(Op::Cond, [predicate], [], Extra::None);
        let outer = self.region;
        let entry = self.state.clone();
        self.spend(2 * entry.weight())?;
        let mut regions = [outer; 2];
        let mut ends = [State::default(), State::default()];
        for (side, (lo, hi)) in [then, other].into_iter().enumerate() {
            regions[side] = self.new_region();
            self.graph.nodes[node].regions.push(regions[side]);
            self.region = regions[side];
            self.state = entry.clone();
            self.range(list, jumps, lo, hi, depth + 1)?;
            ends[side] = std::mem::take(&mut self.state);
        }
        let [a, b] = ends;
        self.merge(node, outer, regions, entry, a, b)
    }

    fn fresh_phi(&mut self, node: NodeId, then: Entry, other: Entry) -> Entry {
        self.next_phi += 1;
        Entry::Phi(Box::new(Phi { id: self.next_phi, node, then, other }))
    }

    fn merge(
        &mut self,
        node: NodeId,
        outer: RegionId,
        regions: [RegionId; 2],
        entry: State,
        a: State,
        b: State,
    ) -> Res<()> {
        self.spend(a.weight() + b.weight())?;
        // Tensors whose handle a branch moved: what each side holds at its end.
        let moved: BTreeSet<u32> = a.handles.keys().chain(b.handles.keys()).copied().collect();
        let mut sides = [a, b];
        let mut held: BTreeMap<u32, Vec<Entry>> = BTreeMap::new();
        for (side, state) in sides.iter_mut().enumerate() {
            self.state = std::mem::take(state);
            self.region = regions[side];
            for &v in &moved {
                let now = match self.read(v) {
                    Ok(value) => Entry::Value(value),
                    Err(_) => Entry::Garbage("one of two branches leaves it without a value"),
                };
                held.entry(v).or_default().push(now);
            }
            *state = std::mem::take(&mut self.state);
        }
        self.region = outer;
        let [a, b] = sides;
        self.state = State { cells: BTreeMap::new(), ..entry };
        for (v, entries) in held {
            if let [x, y] = entries.as_slice() {
                let phi = self.fresh_phi(node, x.clone(), y.clone());
                self.state.handles.insert(v, Handle::Entry(phi));
            }
        }
        for (v, p) in a.pointers.iter().chain(&b.pointers) {
            self.state.pointers.entry(*v).or_insert_with(|| p.clone());
        }
        let keys: BTreeSet<Key> = a.cells.keys().chain(b.cells.keys()).copied().collect();
        let mut lost: Vec<(Key, Cell)> = Vec::new();
        for key in keys {
            match (self.side(&a, &b, key), self.side(&b, &a, key)) {
                (Some(x), Some(y)) if x.version == y.version && x.end == y.end => {
                    self.state.cells.insert(key, x);
                }
                (Some(x), Some(y)) if x.end == y.end && self.same_view(key, x.writer, y.writer) => {
                    let entry = self.fresh_phi(node, x.entry, y.entry);
                    self.version += 1;
                    let cell = Cell { end: x.end, entry, version: self.version, writer: x.writer };
                    self.state.cells.insert(key, cell);
                }
                (x, y) => lost.extend(x.into_iter().chain(y).map(|c| (key, c))),
            }
        }
        for (key, mut cell) in lost {
            self.version += 1;
            cell.version = self.version;
            cell.entry = Entry::Garbage("only one of two branches writes it");
            self.state.put(key, cell);
        }
        Ok(())
    }

    /// What a side holds at `key`, with what it would read if it had not touched the cell.
    fn side(&self, s: &State, other: &State, key: Key) -> Option<Cell> {
        if let Some(c) = s.cells.get(&key) {
            return Some(c.clone());
        }
        let cell = other.cells.get(&key)?;
        match key {
            Key::Scalar(v) => {
                let entry = Entry::Literal(self.literal(v).ok()?);
                Some(Cell { end: cell.end, entry, version: 0, writer: v })
            }
            Key::Arena(memory, start) => {
                let slot = self.slots.get(&(memory, start)).filter(|slot| slot.end == cell.end)?;
                let known = super::method::Known::Buffer(pteron_ir::Id::index(slot.buffer));
                let value = *self.known.get(&known)?;
                if !s.overlapping(memory, start, cell.end).is_empty() {
                    return None;
                }
                Some(Cell { end: cell.end, entry: Entry::Value(value), version: 0, writer: slot.value })
            }
            Key::Own(_) => None,
        }
    }

    /// True if two values of the table see the same tensor in the same memory.
    fn same_view(&self, key: Key, a: u32, b: u32) -> bool {
        if a == b || matches!(key, Key::Scalar(_)) {
            return true;
        }
        match (self.tensor(a), self.tensor(b)) {
            (Ok(x), Ok(y)) => {
                x.scalar_type == y.scalar_type
                    && x.sizes == y.sizes
                    && x.dim_order == y.dim_order
                    && x.dynamism == y.dynamism
            }
            _ => false,
        }
    }

    /// A backward jump from `j` to `i`: a loop over the instructions from `i`.
    fn repeat(&mut self, list: &[Instruction], jumps: &Jumps, i: usize, j: usize, depth: usize) -> Res<()> {
        if self.traces.len() >= MAX_LOOP_DEPTH {
            return Err(format!("loops are nested more than {MAX_LOOP_DEPTH} levels deep"));
        }
        let Some(Instruction::JumpFalseCall { cond_value_index: cond, .. }) = list.get(j) else {
            return Err("the end of the loop is no jump".into());
        };
        let (body_end, again) = match self.constant_bool(*cond, jumps) {
            None => (j, Again::UntilTrue(*cond)),
            Some(_) => match j.checked_sub(1).and_then(|k| list.get(k)) {
                Some(Instruction::JumpFalseCall { cond_value_index, destination_instruction })
                    if *destination_instruction as usize == j + 1 && j > i =>
                {
                    (j - 1, Again::WhileTrue(*cond_value_index))
                }
                _ => {
                    self.at.1 = j;
                    return Err(format!("jumps back to {i} unconditionally, and nothing leaves the loop before it"));
                }
            },
        };
        let weight = self.state.weight() + self.graph.values.len();
        self.spend(4 * weight)?;

        // First passage: which cells are carried from one passage to the next.
        let saved = (self.graph.clone(), self.known.clone(), self.state.clone(), self.version, self.defined.clone());
        let outer = self.region;
        self.traces.push(Trace { entry: self.version, ..Trace::default() });
        self.region = self.new_region();
        let first = self.range(list, jumps, i, body_end, depth + 1).and_then(|()| self.carried(j, &again));
        let trace = self.traces.pop().unwrap_or_default();
        self.region = outer;
        let carried = first?;
        (self.graph, self.known, self.state, self.version, self.defined) = saved;

        // The loop itself.
        let mut args = Vec::new();
        for c in &carried {
            args.push(self.first_value(c, &trace)?);
        }
        let types: Vec<Type> = carried.iter().zip(&args).map(|(c, a)| self.carried_type(c, a)).collect::<Res<_>>()?;
        let node = self.add(Op::Loop, args, [], Extra::None);
        let body = self.new_region();
        self.graph.nodes[node].regions.push(body);
        let before = self.state.clone();
        let entry = self.version;
        for (k, (c, ty)) in carried.iter().zip(&types).enumerate() {
            let param = self.graph.add_value(ty.clone(), Def::Param(body, position(k)), None);
            self.graph.regions[body].params.push(param);
            self.put(c.key, c.end, Entry::Value(param), c.writer);
            self.defined.insert(c.writer);
        }
        self.region = body;
        self.range(list, jumps, i, body_end, depth + 1)?;
        self.at.1 = j;
        let goes_on = self.goes_on(&again)?;
        let mut results = vec![goes_on];
        for (c, ty) in carried.iter().zip(&types) {
            let v = self.at_end(c)?;
            if !self.graph.ty(v).may_equal(ty, &self.graph.symbols) {
                let found = self.graph.ty(v);
                return Err(format!("value {} enters the loop as {ty} and leaves its body as {found}", c.writer));
            }
            results.push(v);
        }
        self.graph.regions[body].results = results;
        self.region = outer;
        let end = std::mem::replace(&mut self.state, before);
        for (key, cell) in &end.cells {
            if cell.version > entry && !carried.iter().any(|c| c.key == *key) {
                self.put(*key, cell.end, Entry::Garbage("it was written in the body of a loop"), cell.writer);
            } else if cell.version == 0 && !self.state.cells.contains_key(key) {
                // State first read in the body.
                self.state.cells.insert(*key, cell.clone());
            }
        }
        for (v, h) in end.handles {
            let unchanged =
                matches!((&h, self.state.handles.get(&v)), (Handle::Same(a), Some(Handle::Same(b))) if a == b);
            if !unchanged {
                let lost = Entry::Garbage("the body of a loop moved its handle");
                self.state.handles.insert(v, Handle::Entry(lost));
            }
        }
        for (v, p) in end.pointers {
            self.state.pointers.entry(v).or_insert(p);
        }
        for (k, (c, ty)) in carried.iter().zip(types).enumerate() {
            let out = self.graph.add_value(ty, Def::Node(node, position(k)), None);
            self.graph.nodes[node].outputs.push(out);
            self.put(c.key, c.end, Entry::Value(out), c.writer);
        }
        Ok(())
    }

    /// After the first passage: the cells that a loop carries, with the types they have at its end.
    fn carried(&mut self, j: usize, again: &Again) -> Res<Vec<Carried>> {
        self.goes_on(again)?;
        let Some(trace) = self.traces.last() else { return Ok(Vec::new()) };
        let (reads, writes) = (trace.reads.clone(), trace.writes.clone());
        let mut out = Vec::new();
        for key in writes {
            let cell = match self.state.cells.get(&key) {
                Some(c) if !matches!(c.entry, Entry::Garbage(_)) => c.clone(),
                _ if reads.contains(&key) => {
                    return Err(format!("the loop's body reads {key:?} and leaves other tensors there"));
                }
                _ => continue,
            };
            let later = self.last_use.get(cell.writer as usize).is_some_and(|&l| l > j);
            if !reads.contains(&key) && !later {
                continue;
            }
            let value = match &cell.entry {
                Entry::Literal(_) => None,
                e => Some(self.materialise(&e.clone())?),
            };
            let ty = value.map(|v| self.graph.ty(v).clone());
            out.push(Carried { key, end: cell.end, writer: cell.writer, ty });
        }
        for key in &reads {
            let gone = self.state.cells.get(key).is_some_and(|c| matches!(c.entry, Entry::Garbage(_)));
            if gone || (matches!(key, Key::Arena(..)) && !self.state.cells.contains_key(key)) {
                return Err(format!("the loop's body reads {key:?} and leaves other tensors there"));
            }
        }
        Ok(out)
    }

    fn goes_on(&mut self, again: &Again) -> Res<ValueId> {
        let (v, until) = match again {
            Again::UntilTrue(v) => (*v, true),
            Again::WhileTrue(v) => (*v, false),
        };
        let mut cond = match self.condition(v)? {
            Arg::Value(v) => v,
            other => return Err(format!("the loop's condition is {}, expected a value", other.kind_name())),
        };
        if self.graph.ty(cond).as_tensor().is_some() {
            cond = self.one_result(Op::LocalScalarDense, cond)?;
        }
        if until { self.one_result(Op::PrimNot, cond) } else { Ok(cond) }
    }

    fn one_result(&mut self, op: Op, arg: ValueId) -> Res<ValueId> {
        let args = [Arg::Value(arg)];
        let types = self.output_types(op, &args, &[None])?;
        let n = self.add(op, args, types, Extra::None);
        self.graph.nodes[n].outputs.first().copied().ok_or_else(|| "no value".into())
    }

    /// What a carried cell holds when the loop begins.
    fn first_value(&mut self, c: &Carried, trace: &Trace) -> Res<Arg> {
        if matches!(c.key, Key::Scalar(_)) {
            let first = self.scalar(c.writer)?;
            return match first {
                Arg::Value(_) => Ok(first),
                literal => self.materialise(&Entry::Literal(literal)).map(Arg::Value),
            };
        }
        let readable = self.state.cells.get(&c.key).is_some_and(|x| x.end == c.end);
        if readable || (trace.reads.contains(&c.key) && !trace.fresh.contains(&c.key)) {
            return self.read(c.writer).map(Arg::Value);
        }
        let ty = self.declared(self.tensor(c.writer)?)?;
        let rows = trace.fresh.contains(&c.key).then_some(0);
        self.blank(&ty, rows).map(Arg::Value)
    }

    fn carried_type(&self, c: &Carried, first: &Arg) -> Res<Type> {
        match c.key {
            Key::Scalar(v) => Ok(match self.value(v)? {
                EValue::Bool(_) => Type::Bool,
                EValue::Double(_) => Type::Float,
                _ => Type::Int(SymInt::ANY),
            }),
            _ => {
                let declared = Type::Tensor(self.declared(self.tensor(c.writer)?)?);
                match first {
                    Arg::Value(v) if Some(self.graph.ty(*v)) == c.ty.as_ref() => Ok(self.graph.ty(*v).clone()),
                    _ => Ok(declared),
                }
            }
        }
    }

    fn at_end(&mut self, c: &Carried) -> Res<ValueId> {
        let Some(cell) = self.state.cells.get(&c.key).filter(|x| x.end == c.end).cloned() else {
            return Err(format!("value {} is gone at the end of the loop's body", c.writer));
        };
        let v = self.materialise(&cell.entry)?;
        match c.key {
            Key::Scalar(_) => Ok(v),
            _ => self.shaped(c.writer, v, cell.version, cell.writer),
        }
    }
}

/// A cell that a loop carries.
struct Carried {
    key: Key,
    end: u64,
    writer: u32,
    ty: Option<Type>,
}

fn position(k: usize) -> u32 {
    u32::try_from(k).unwrap_or(u32::MAX)
}
