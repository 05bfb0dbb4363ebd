//! Single instructions: kernels, delegates, moves.

use pteron_ir::{Arg, ArgKind, Extra, Op, OutputSpec, Schema, SchemaArg, SymInt, Type, ValueId};
use pteron_pte::{EValue, Instruction, Storage};
use pteron_tensor::DType;
use smallvec::SmallVec;

use super::method::{Lifter, Res, operands};
use super::state::{Cell, Entry, Handle, Key, Loc, Pointer};

/// Kernels outside the operator table that write a list of tensors, which their call names twice.
pub(crate) const LIST_OUT_KERNELS: &[&str] =
    &["aten::split_copy.Tensor_out", "aten::unbind_copy.int_out", "aten::unsafe_split.Tensor_out"];

impl Lifter<'_, '_> {
    pub(super) fn step(&mut self, i: &Instruction) -> Res<()> {
        match i {
            Instruction::KernelCall { op_index, args } => {
                let op = self.plan.operators.get(*op_index as usize).ok_or("the operator is not in the table")?;
                self.kernel(&op.to_string(), args)
            }
            Instruction::DelegateCall { delegate_index, args } => self.delegate(*delegate_index, args),
            Instruction::MoveCall { move_from, move_to } => self.move_handle(*move_from, *move_to),
            Instruction::FreeCall { value_index } => {
                let v = *value_index;
                match self.locate(v)? {
                    Loc::Cell(key, end) => {
                        self.put(key, end, Entry::Garbage("its memory was freed"), v);
                        Ok(())
                    }
                    Loc::Const(_) => Err(format!("value {v} is a constant and is freed")),
                }
            }
            Instruction::JumpFalseCall { .. } => Err("a jump in the middle of a call".into()),
        }?;
        self.largest = operands(i).into_iter().fold(self.largest, u32::max);
        Ok(())
    }

    fn move_handle(&mut self, from: u32, to: u32) -> Res<()> {
        match (self.value(from)?, self.value(to)?) {
            (EValue::Tensor(_), EValue::Tensor(_)) => {
                let handle = match self.handle(from) {
                    Ok(i) => Handle::Same(i),
                    Err(e) => Handle::Entry(e),
                };
                self.state.handles.insert(to, handle);
                self.defined.insert(to);
                Ok(())
            }
            (
                EValue::Int(_) | EValue::Bool(_) | EValue::Double(_),
                EValue::Int(_) | EValue::Bool(_) | EValue::Double(_),
            ) => {
                let entry = match self.scalar(from)? {
                    Arg::Value(v) => Entry::Value(v),
                    literal => Entry::Literal(literal),
                };
                self.put(Key::Scalar(to), 0, entry, to);
                Ok(())
            }
            (a, b) => Err(format!("moves a {} to a {}", a.kind(), b.kind())),
        }
    }

    fn kernel(&mut self, key: &str, args: &[u32]) -> Res<()> {
        if key == "executorch_prim::et_view.default" {
            return self.et_view(args);
        }
        match Op::from_kernel_key(key) {
            Some(op) => self.known(op, key, args),
            None => self.custom(key, args),
        }
    }

    fn et_view(&mut self, args: &[u32]) -> Res<()> {
        let &[from, sizes, out] = args else {
            return Err(format!("has {} arguments, expected 3: self, sizes, out", args.len()));
        };
        let EValue::IntList(items) = self.value(sizes)? else {
            return Err(format!("value {sizes} is a {}, expected an IntList", self.value(sizes)?.kind()));
        };
        let sizes = self.int_list(items)?;
        let source = self.read(from)?;
        let Ok(from) = self.handle(from) else {
            return Err("views what branches gave, whose place is not known".into());
        };
        let loc = self.locate(from)?;
        let (_, version, _) = self.content(loc, from)?;
        let Ok(out) = self.handle(out) else { return Err("its output was moved by branches".into()) };
        let view = self.view(source, sizes.clone(), out)?;
        self.state.pointers.insert(out, Pointer { loc, sizes });
        self.state.dynamic_views.insert((version, out), view);
        self.defined.insert(out);
        Ok(())
    }

    /// `copy_` into memory of this method that was never written: nothing of it is state.
    fn first_copy(&mut self, given: &[u32]) -> Res<bool> {
        let &[to, from, ..] = given else { return Ok(false) };
        if !self.is_blank(to)? || !matches!(self.locate(to)?, Loc::Cell(Key::Arena(1, _) | Key::Own(_), _)) {
            return Ok(false);
        }
        let (a, b) = (self.tensor(to)?, self.tensor(from)?);
        if a.scalar_type != b.scalar_type || a.sizes != b.sizes || a.dim_order != b.dim_order {
            return Ok(false);
        }
        let args = [Arg::Value(self.read(from)?), Arg::None];
        let types = self.output_types(Op::Clone, &args, &[Some(to)])?;
        let node = self.add(Op::Clone, args, types, Extra::None);
        self.results(node, &[Some(to)], &[to])?;
        Ok(true)
    }

    /// A kernel of the operator table.
    fn known(&mut self, op: Op, key: &str, given: &[u32]) -> Res<()> {
        if op == Op::CopyInto && self.first_copy(given)? {
            return Ok(());
        }
        let schema = op.schema();
        let expected = schema.args.iter().filter(|a| !a.edge_only).count();
        let (named, rest) = given
            .split_at_checked(expected)
            .ok_or_else(|| format!("has {} arguments, expected {expected} and the results once more", given.len()))?;
        self.check_returns(op, schema, key, named, rest)?;
        let mut args: SmallVec<[Arg; 4]> = SmallVec::new();
        let mut slots: Vec<u32> = vec![0; schema.args.len()];
        let mut edge: Vec<usize> = Vec::new();
        let mut named = named.iter().copied();
        for (i, a) in schema.args.iter().enumerate() {
            if a.edge_only {
                edge.push(args.len());
                args.push(Arg::None);
                continue;
            }
            let Some(v) = named.next() else { return Err(format!("argument `{}` is missing", a.name)) };
            slots[i] = v;
            if a.is_out {
                continue;
            }
            if op == Op::CopyIndex && a.is_mutated() && self.is_blank(v)? {
                args.push(Arg::Value(self.blank_rows(v)?));
                continue;
            }
            args.push(self.argument(a, v).map_err(|e| format!("argument `{}`: {e}", a.name))?);
        }
        let mut outs: Vec<Option<u32>> = Vec::new();
        let mut scalars = rest.iter().copied();
        let mut targets: Vec<u32> = Vec::new();
        for spec in &schema.outputs {
            match *spec {
                OutputSpec::Out { arg } | OutputSpec::NewVersion { arg } => {
                    let v = slots.get(arg).copied().ok_or("has no kernel")?;
                    outs.push(Some(v));
                    targets.push(v);
                }
                OutputSpec::OutList { arg } => {
                    for v in self.list(slots.get(arg).copied().ok_or("has no kernel")?)? {
                        outs.push(Some(v));
                        targets.push(v);
                    }
                }
                OutputSpec::Scalar(_) => {
                    outs.push(None);
                    targets.push(scalars.next().ok_or("its result is missing")?);
                }
            }
        }
        if let Some(Some(out)) = outs.first() {
            let dtype = crate::convert::dtype_of(self.tensor(*out)?.scalar_type);
            for i in edge {
                args[i] = dtype.map_or(Arg::None, Arg::DType);
            }
        }
        let types = self.output_types(op, &args, &outs)?;
        let node = self.add(op, args, types, Extra::None);
        self.results(node, &outs, &targets)
    }

    fn results(&mut self, node: pteron_ir::NodeId, outs: &[Option<u32>], targets: &[u32]) -> Res<()> {
        let values: SmallVec<[ValueId; 4]> = self.graph.nodes[node].outputs.iter().copied().collect();
        for ((value, out), &target) in values.into_iter().zip(outs).zip(targets) {
            match out {
                Some(v) => self.write(*v, value)?,
                None => {
                    self.literal(target)?;
                    self.put(Key::Scalar(target), 0, Entry::Value(value), target);
                }
            }
        }
        Ok(())
    }

    /// After its arguments a call names its results once more.
    fn check_returns(&self, op: Op, schema: &Schema, key: &str, named: &[u32], rest: &[u32]) -> Res<()> {
        if op == Op::CopyIndex {
            return match rest {
                [] => Ok(()),
                _ => Err(format!("has {} arguments, expected 3", named.len() + rest.len())),
            };
        }
        // These are registered without a check of the count.
        if rest.is_empty() && key.starts_with("llama::") {
            return Ok(());
        }
        let [last] = rest else {
            return Err(format!("names {} results after its arguments, expected 1", rest.len()));
        };
        let mut kernel = schema.args.iter().filter(|a| !a.edge_only).zip(named);
        let results: Vec<u32> = match schema.returns.len() {
            0 => kernel.filter(|(a, _)| a.is_out).map(|(_, &v)| v).collect(),
            _ if matches!(schema.outputs.first(), Some(OutputSpec::Scalar(_))) => return Ok(()),
            1 => match schema.outputs.first() {
                Some(OutputSpec::NewVersion { arg }) => {
                    let name = schema.args.get(*arg).map(|a| a.name);
                    kernel.find(|(a, _)| Some(a.name) == name).map(|(_, &v)| v).into_iter().collect()
                }
                _ => kernel.filter(|(a, _)| a.is_out).map(|(_, &v)| v).collect(),
            },
            _ => kernel.filter(|(a, _)| a.is_out).map(|(_, &v)| v).collect(),
        };
        let found: Vec<u32> = match self.value(*last)? {
            EValue::TensorList(items) => items.clone(),
            _ => vec![*last],
        };
        let expected: Vec<u32> = match results.as_slice() {
            [one] => match self.value(*one)? {
                EValue::TensorList(items) => items.clone(),
                _ => vec![*one],
            },
            many => many.to_vec(),
        };
        if found == expected { Ok(()) } else { Err(format!("returns {found:?}, expected its results {expected:?}")) }
    }

    /// True if nothing has been written where the tensor lies.
    fn is_blank(&mut self, v: u32) -> Res<bool> {
        let Ok(i) = self.handle(v) else { return Ok(false) };
        Ok(match self.locate(i)? {
            Loc::Cell(key @ Key::Arena(arena, start), end) => {
                let declared = self.slots.contains_key(&(arena, start));
                let exact = self.state.cells.get(&key).is_some_and(|c: &Cell| {
                    c.end == end && !matches!(c.entry, Entry::Garbage(_)) && self.defined.contains(&i)
                });
                !declared && !exact
            }
            Loc::Cell(key, _) => !self.state.cells.contains_key(&key),
            Loc::Const(_) => false,
        })
    }

    /// A tensor of no rows, for rows to be appended to.
    fn blank_rows(&mut self, v: u32) -> Res<ValueId> {
        if let Ok(i) = self.handle(v)
            && let Loc::Cell(key, _) = self.locate(i)?
        {
            for t in &mut self.traces {
                t.fresh.insert(key);
                t.reads.insert(key);
            }
        }
        let ty = self.declared(self.tensor(v)?)?;
        self.blank(&ty, Some(0))
    }

    fn list(&self, v: u32) -> Res<Vec<u32>> {
        match self.value(v)? {
            EValue::TensorList(items) => Ok(items.clone()),
            other => Err(format!("value {v} is a {}, expected a TensorList", other.kind())),
        }
    }

    fn argument(&mut self, a: &SchemaArg, v: u32) -> Res<Arg> {
        let value = self.value(v)?;
        let wrong = |wanted: &str| Err(format!("value {v} is a {}, expected {wanted}", value.kind()));
        if *value == EValue::Null {
            return if a.optional { Ok(Arg::None) } else { wrong("a value") };
        }
        match a.kind {
            ArgKind::Tensor => match value {
                EValue::Tensor(_) => self.read(v).map(Arg::Value),
                _ => wrong("a Tensor"),
            },
            ArgKind::TensorList | ArgKind::OptionalTensorList => match value {
                EValue::TensorList(items) => {
                    items.iter().map(|&i| self.read(i).map(Some)).collect::<Res<_>>().map(Arg::Values)
                }
                EValue::OptionalTensorList(items) if a.kind == ArgKind::OptionalTensorList => {
                    items.iter().map(|i| i.map(|i| self.read(i)).transpose()).collect::<Res<_>>().map(Arg::Values)
                }
                _ => wrong("a TensorList"),
            },
            ArgKind::Scalar => self.scalar(v),
            ArgKind::Int | ArgKind::MemoryFormat => match self.scalar(v)? {
                found @ (Arg::Int(_) | Arg::Value(_)) => Ok(found),
                _ => wrong("an Int"),
            },
            ArgKind::Float => match self.scalar(v)? {
                Arg::Int(i) => Ok(Arg::Float(i as f64)),
                found @ (Arg::Float(_) | Arg::Value(_)) => Ok(found),
                _ => wrong("a Double"),
            },
            ArgKind::Bool => match self.scalar(v)? {
                found @ (Arg::Bool(_) | Arg::Value(_)) => Ok(found),
                _ => wrong("a Bool"),
            },
            ArgKind::IntList => match value {
                EValue::IntList(items) => self.int_list(items),
                _ => wrong("an IntList"),
            },
            ArgKind::FloatList => match value {
                EValue::DoubleList(items) => Ok(Arg::Floats(items.clone())),
                _ => wrong("a DoubleList"),
            },
            ArgKind::BoolList => match value {
                EValue::BoolList(items) => Ok(Arg::Bools(items.clone())),
                _ => wrong("a BoolList"),
            },
            ArgKind::Str => match value {
                EValue::String(s) => Ok(Arg::Str(s.as_str().into())),
                _ => wrong("a String"),
            },
            ArgKind::DType => match value {
                EValue::Int(code) => DType::from_scalar_type_code(*code)
                    .map(Arg::DType)
                    .ok_or_else(|| format!("value {v}: element type {code} is not supported")),
                _ => wrong("an Int that names an element type"),
            },
        }
    }

    /// A kernel outside the table: its results are what it names at the end.
    fn custom(&mut self, key: &str, given: &[u32]) -> Res<()> {
        let method = self.plan.name.clone();
        self.shared
            .note(format!("method `{method}`: kernel `{key}` is outside the operator table and cannot be executed"));
        let Some((&last, before)) = given.split_last() else { return Err("has no arguments".into()) };
        let (inputs, outs): (&[u32], Vec<u32>) = match self.value(last)? {
            EValue::TensorList(items) if LIST_OUT_KERNELS.contains(&key) => {
                (before.split_last().map_or(before, |(_, b)| b), items.clone())
            }
            EValue::TensorList(items) if before.ends_with(items) => {
                (&before[..before.len() - items.len()], items.clone())
            }
            EValue::Tensor(_) => match before.split_last() {
                Some((&second, inputs)) if second == last => (inputs, vec![last]),
                _ if before.contains(&last) => (before, vec![last]),
                _ => (before, vec![last]),
            },
            EValue::Int(_) | EValue::Bool(_) | EValue::Double(_) => (before, vec![last]),
            other => return Err(format!("returns a {}, expected a tensor, tensors or a number", other.kind())),
        };
        let mut args = Vec::with_capacity(inputs.len());
        for &v in inputs {
            args.push(self.any_argument(v)?);
        }
        let mut types: Vec<Type> = Vec::new();
        let mut slots: Vec<Option<u32>> = Vec::new();
        for &v in &outs {
            let (ty, slot) = match self.value(v)? {
                EValue::Tensor(t) => (Type::Tensor(self.declared(t)?), Some(v)),
                EValue::Bool(_) => (Type::Bool, None),
                EValue::Double(_) => (Type::Float, None),
                _ => (Type::Int(SymInt::ANY), None),
            };
            types.push(ty);
            slots.push(slot);
        }
        let node = self.add(Op::Custom, args, types, Extra::Custom(key.into()));
        self.results(node, &slots, &outs)
    }

    fn any_argument(&mut self, v: u32) -> Res<Arg> {
        Ok(match self.value(v)? {
            EValue::Null => Arg::None,
            EValue::Tensor(_) => Arg::Value(self.read(v)?),
            EValue::Int(_) | EValue::Bool(_) | EValue::Double(_) => self.scalar(v)?,
            EValue::String(s) => Arg::Str(s.as_str().into()),
            EValue::IntList(items) => self.int_list(items)?,
            EValue::DoubleList(items) => Arg::Floats(items.clone()),
            EValue::BoolList(items) => Arg::Bools(items.clone()),
            EValue::TensorList(items) => {
                Arg::Values(items.iter().map(|&i| self.read(i).map(Some)).collect::<Res<_>>()?)
            }
            EValue::OptionalTensorList(items) => {
                Arg::Values(items.iter().map(|i| i.map(|i| self.read(i)).transpose()).collect::<Res<_>>()?)
            }
        })
    }

    fn delegate(&mut self, index: u32, args: &[u32]) -> Res<()> {
        let d = self.plan.delegates.get(index as usize).ok_or("the delegate is not in the table")?;
        let id = self.shared.delegate(d)?;
        let split = match self.shared.inputs_of(id).filter(|&n| n <= args.len()) {
            Some(known) => known,
            None => self.delegate_outputs(args)?,
        };
        let (inputs, outs) = args.split_at(split);
        let mut given = Vec::with_capacity(inputs.len());
        for &v in inputs {
            given.push(self.any_argument(v)?);
        }
        let mut types = Vec::with_capacity(outs.len());
        let mut slots = Vec::with_capacity(outs.len());
        for &v in outs {
            types.push(Type::Tensor(self.declared(self.tensor(v)?)?));
            slots.push(Some(v));
        }
        let node = self.add(Op::Delegate, given, types, Extra::Delegate(id));
        self.results(node, &slots, outs)
    }

    /// Position of a delegate call's first output among its arguments.
    fn delegate_outputs(&self, args: &[u32]) -> Res<usize> {
        let mut largest = self.largest;
        let mut split = 0;
        for (i, &v) in args.iter().enumerate() {
            let input = match self.value(v)? {
                EValue::Tensor(t) => {
                    let given = !matches!(t.storage(), Storage::Planned(_) | Storage::RuntimeSupplied);
                    given || self.defined.contains(&v) || v < largest
                }
                _ => true,
            };
            if input {
                split = i + 1;
                largest = largest.max(v);
            }
        }
        if split < args.len() || args.is_empty() {
            return Ok(split);
        }
        // Values made in another order: what was not written is an output.
        let undefined = |v: &u32| {
            let t = self.value(*v).ok().and_then(EValue::as_tensor);
            t.is_some_and(|t| matches!(t.storage(), Storage::Planned(_) | Storage::RuntimeSupplied))
                && !self.defined.contains(v)
        };
        let outputs = args.iter().rev().take_while(|v| undefined(v)).count();
        if outputs == 0 {
            return Err("every argument is already written, so the call has no outputs".into());
        }
        Ok(args.len() - outputs)
    }
}
