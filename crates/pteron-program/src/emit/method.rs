//! One graph to one execution plan.

use std::collections::BTreeMap;

use pteron_ir::{
    Arg, ArgKind, Def, DelegateId, Extra, Graph, Id, IntArg, Level, Module, NodeId, Op, OutputSpec, RegionId,
    TensorType, Type, ValueId,
};
use pteron_pte::{
    BackendDelegate, Chain, CompileSpec, DelegateData, EValue, ExecutionPlan, ExtraTensorInfo, Instruction, Operator,
    ShapeDynamism, Tensor,
};

use super::data::{ConstPlace, DataPool};
use super::plan::{MemoryPlan, Transfer};
use super::{EmitOptions, pytree};
use crate::convert::scalar_type_of;
use crate::error::EmitError;
use crate::lift::LIST_OUT_KERNELS;

pub(super) struct MethodEmitter<'a, 'm> {
    module: &'m Module,
    options: &'m EmitOptions,
    graph: &'a Graph,
    plan: &'a mut MemoryPlan,
    pool: &'a mut DataPool<'m>,
    /// Which buffers share memory 2.
    shared: &'a dyn Fn(pteron_ir::BufferId) -> bool,
    values: Vec<EValue>,
    index: BTreeMap<ValueId, u32>,
    instructions: Vec<Instruction>,
    operators: Vec<Operator>,
    operator_index: BTreeMap<Operator, u32>,
    delegates: Vec<BackendDelegate>,
    delegate_index: BTreeMap<DelegateId, u32>,
    /// The literal `false` of unconditional jumps.
    no: Option<u32>,
}

type Res<T> = Result<T, EmitError>;

impl<'a, 'm> MethodEmitter<'a, 'm> {
    pub(super) fn new(
        module: &'m Module,
        options: &'m EmitOptions,
        graph: &'a Graph,
        plan: &'a mut MemoryPlan,
        pool: &'a mut DataPool<'m>,
        shared: &'a dyn Fn(pteron_ir::BufferId) -> bool,
    ) -> Self {
        MethodEmitter {
            module,
            options,
            graph,
            plan,
            pool,
            shared,
            values: Vec::new(),
            index: BTreeMap::new(),
            instructions: Vec::new(),
            operators: Vec::new(),
            operator_index: BTreeMap::new(),
            delegates: Vec::new(),
            delegate_index: BTreeMap::new(),
            no: None,
        }
    }

    pub(super) fn emit(mut self) -> Res<ExecutionPlan> {
        self.placeholders()?;
        let inputs = self.graph.inputs.iter().map(|&v| self.of(v)).collect::<Res<Vec<_>>>()?;
        self.region(self.graph.body_id())?;
        let outputs = self.graph.outputs().iter().map(|&v| self.of(v)).collect::<Res<Vec<_>>>()?;
        let mut sizes = vec![0i64];
        for &a in &self.plan.arenas {
            sizes.push(i64::try_from(a).unwrap_or(i64::MAX));
        }
        Ok(ExecutionPlan {
            name: self.graph.name.clone(),
            container_in: pytree::inputs(inputs.len()),
            container_out: pytree::outputs(outputs.len(), "tuple"),
            values: self.values,
            inputs,
            outputs,
            chains: vec![Chain { instructions: self.instructions, ..Chain::default() }],
            operators: self.operators,
            delegates: self.delegates,
            non_const_buffer_sizes: sizes,
            non_const_buffer_device: Vec::new(),
        })
    }

    fn value_error(&self, v: ValueId, reason: impl Into<String>) -> EmitError {
        EmitError::Value { method: self.graph.name.clone(), value: v.to_string(), reason: reason.into() }
    }

    fn node_error(&self, n: NodeId, reason: impl Into<String>) -> EmitError {
        EmitError::Node { method: self.graph.name.clone(), node: name_of(self.graph, n), reason: reason.into() }
    }

    fn push(&mut self, v: EValue) -> u32 {
        self.values.push(v);
        u32::try_from(self.values.len() - 1).unwrap_or(u32::MAX)
    }

    /// Constants, buffers and inputs, in that order.
    fn placeholders(&mut self) -> Res<()> {
        let graph = self.graph;
        let mut used = vec![false; graph.values.len()];
        let mut mark = |v: ValueId| {
            if let Some(u) = used.get_mut(v.index()) {
                *u = true;
            }
        };
        for n in graph.all_nodes() {
            graph.nodes[n].args.iter().for_each(|a| a.for_each_value(&mut mark));
            for &r in &graph.nodes[n].regions {
                graph.regions[r].results.iter().for_each(|&v| mark(v));
            }
        }
        graph.outputs().iter().for_each(|&v| mark(v));
        let mut order: Vec<(u8, usize, ValueId)> = Vec::new();
        for (v, data) in graph.values.iter() {
            match data.def {
                Def::Const(c) if used[v.index()] => order.push((0, super::data::index(c), v)),
                Def::Buffer(b) if used[v.index()] => order.push((1, b.index(), v)),
                _ => {}
            }
        }
        order.sort();
        order.extend(graph.inputs.iter().enumerate().map(|(i, &v)| (2, i, v)));
        for (_, _, v) in order {
            self.of(v)?;
        }
        Ok(())
    }

    /// The index of `v` in the value table, made on first use.
    fn of(&mut self, v: ValueId) -> Res<u32> {
        let entry = self.plan.entry(v);
        if let Some(&i) = self.index.get(&entry) {
            return Ok(i);
        }
        let value = match self.graph.ty(entry) {
            Type::Tensor(ty) => EValue::Tensor(self.tensor(entry, ty)?),
            Type::Int(s) => EValue::Int(s.as_const().unwrap_or(0)),
            Type::Bool => EValue::Bool(false),
            Type::Float => EValue::Double(0.0),
        };
        let i = self.push(value);
        self.index.insert(entry, i);
        Ok(i)
    }

    /// A tensor entry of a type, without memory.
    fn shape(&self, v: ValueId, ty: &TensorType) -> Res<Tensor> {
        let scalar_type = scalar_type_of(ty.dtype)
            .ok_or_else(|| self.value_error(v, format!("{} has no element type in the format", ty.dtype)))?;
        let max =
            ty.max_sizes(&self.graph.symbols).ok_or_else(|| self.value_error(v, format!("{ty} has no upper bound")))?;
        let sizes = max
            .iter()
            .map(|&s| i32::try_from(s))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| self.value_error(v, format!("{ty} has a size beyond 31 bits")))?;
        let mut t = Tensor::contiguous(scalar_type, sizes);
        t.dim_order = ty.dim_order().to_vec();
        if !ty.is_static() {
            t.dynamism = ShapeDynamism::DynamicBound;
        }
        Ok(t)
    }

    fn tensor(&mut self, v: ValueId, ty: &TensorType) -> Res<Tensor> {
        let mut t = self.shape(v, ty)?;
        match self.graph.values[v].def {
            Def::Const(c) => match self.pool.constant(c)? {
                ConstPlace::Segment(i) => {
                    t.data_buffer_idx = i;
                    if self.options.emit_constant_names {
                        t.extra = Some(named(&self.module.constants[c].name, false));
                    }
                }
                ConstPlace::External(key) => t.extra = Some(named(&key, true)),
            },
            Def::Buffer(b) => {
                t.allocation = self.plan.allocation(v);
                let buffer = &self.module.buffers[b];
                if self.options.emit_mutable_buffer_names || (self.shared)(b) {
                    t.extra = Some(named(&buffer.name, false));
                }
                if let Some(init) = buffer.init {
                    if self.module.constants[init].ty != buffer.ty {
                        let found = &self.module.constants[init].ty;
                        return Err(EmitError::Buffer {
                            name: buffer.name.to_string(),
                            reason: format!("its initial contents are {found}, expected {}", buffer.ty),
                        });
                    }
                    match self.pool.initial(init)? {
                        ConstPlace::Segment(i) => t.data_buffer_idx = i,
                        ConstPlace::External(key) => t.extra = Some(named(&key, true)),
                    }
                }
            }
            _ => t.allocation = self.plan.allocation(v),
        }
        Ok(t)
    }

    fn operator(&mut self, name: &str, overload: &str) -> u32 {
        let op = Operator { name: name.to_owned(), overload: overload.to_owned() };
        if let Some(&i) = self.operator_index.get(&op) {
            return i;
        }
        let i = u32::try_from(self.operators.len()).unwrap_or(u32::MAX);
        self.operators.push(op.clone());
        self.operator_index.insert(op, i);
        i
    }

    fn call(&mut self, name: &str, overload: &str, args: Vec<u32>) {
        let op_index = self.operator(name, overload);
        self.instructions.push(Instruction::KernelCall { op_index, args });
    }

    fn region(&mut self, r: RegionId) -> Res<()> {
        let graph = self.graph;
        for &n in &graph.regions[r].nodes {
            self.node(n)?;
        }
        Ok(())
    }

    fn node(&mut self, n: NodeId) -> Res<()> {
        let op = self.graph.nodes[n].op;
        match (op, op.def().level) {
            (Op::Cond, _) => self.cond(n),
            (Op::Loop, _) => self.repeat(n),
            (Op::Delegate, _) => self.delegate(n),
            (Op::Custom, _) => self.custom(n),
            (_, Level::HighLevel) => Err(EmitError::HighLevel {
                method: self.graph.name.clone(),
                node: name_of(self.graph, n),
                op: op.name(),
            }),
            (op, _) if op.is_view() && pteron_ir::memory::aliased_input(self.graph, n, 0, true).is_some() => {
                self.view(n)
            }
            _ => self.kernel(n),
        }
    }

    /// A view: another entry on the same memory, or a call that sets the pointer.
    fn view(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let (Some(Arg::Value(source)), Some(&out)) = (node.args.first(), node.outputs.first()) else {
            return Err(self.node_error(n, "a view without input or output"));
        };
        let source = *source;
        let (Some(from), Some(to)) = (graph.ty(source).as_tensor(), graph.ty(out).as_tensor()) else {
            return Err(self.node_error(n, "a view of what is no tensor"));
        };
        let from_index = self.of(source)?;
        let from_entry = match self.values.get(from_index as usize) {
            Some(EValue::Tensor(t)) => t.clone(),
            _ => return Err(self.node_error(n, "a view of what is no tensor")),
        };
        let external = from_entry.extra.as_deref().is_some_and(|e| e.external);
        let constant = from_entry.allocation.is_none() && from_entry.data_buffer_idx > 0;
        let fixed = from.is_static() && to.is_static() && from_entry.dynamism == ShapeDynamism::Static;
        let mut t = self.shape(out, to)?;
        t.allocation = from_entry.allocation;
        if fixed && !external && (constant || from_entry.allocation.is_some()) {
            if constant {
                t.data_buffer_idx = from_entry.data_buffer_idx;
            }
            let i = self.push(EValue::Tensor(t));
            self.index.insert(out, i);
            return Ok(());
        }
        let i = self.push(EValue::Tensor(t));
        self.index.insert(out, i);
        let sizes = match (node.op, node.args.get(1)) {
            (Op::ViewCopy, Some(list)) => self.argument(n, list, ArgKind::IntList)?,
            _ => self.sizes_of_view(n, source, from, to)?,
        };
        self.call("executorch_prim::et_view", "default", vec![from_index, sizes, i]);
        Ok(())
    }

    /// The sizes of a squeezed or unsqueezed tensor: known ones as literals, one as -1, further ones asked of the input.
    fn sizes_of_view(&mut self, n: NodeId, source: ValueId, from: &TensorType, to: &TensorType) -> Res<u32> {
        // Both keep the order of the other dimensions: match what is not 1 from the front.
        let mut kept: Vec<Option<usize>> = Vec::new();
        let unsqueezed = to.rank() > from.rank();
        let mut at = 0;
        for (i, d) in to.dims.iter().enumerate() {
            if unsqueezed {
                let rest = to.rank() - i;
                let inserted = d.as_const() == Some(1) && from.rank() - at < rest;
                let inserted = inserted && self.graph.nodes[n].args.get(1).is_none_or(|a| self.is_dim(a, i, to.rank()));
                kept.push((!inserted).then_some(at));
                at += usize::from(!inserted);
            } else {
                while at < from.rank() && from.dims[at] != *d && from.dims[at].as_const() == Some(1) {
                    at += 1;
                }
                kept.push(Some(at));
                at += 1;
            }
        }
        let unknown = to.dims.iter().filter(|d| d.as_const().is_none()).count();
        let mut left = unknown;
        let mut items = Vec::new();
        for (d, source_dim) in to.dims.iter().zip(kept) {
            items.push(match d.as_const() {
                Some(c) => self.push(EValue::Int(c)),
                None if left == 1 => self.push(EValue::Int(-1)),
                None => {
                    left -= 1;
                    let Some(dim) = source_dim else {
                        return Err(self.node_error(n, "a size of the view is not one of its input"));
                    };
                    let tensor = self.of(source)?;
                    let dim = self.push(EValue::Int(i64::try_from(dim).unwrap_or(0)));
                    let size = self.push(EValue::Int(0));
                    self.call("aten::sym_size", "int", vec![tensor, dim, size]);
                    size
                }
            });
        }
        Ok(self.push(EValue::IntList(items)))
    }

    /// True if `arg`, a dimension, is `dim` of `rank`.
    fn is_dim(&self, arg: &Arg, dim: usize, rank: usize) -> bool {
        let Arg::Int(d) = arg else { return false };
        let rank = i64::try_from(rank).unwrap_or(0);
        i64::try_from(dim).ok() == Some(if *d < 0 { d + rank } else { *d })
    }

    fn kernel(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let schema = node.op.schema();
        let mut args = Vec::new();
        let mut outs: Vec<u32> = Vec::new();
        let mut lists = Vec::new();
        let mut returned: Vec<u32> = Vec::new();
        // Entries of the outputs come first, as in ExecuTorch's files.
        for &v in &node.outputs {
            if graph.ty(v).as_tensor().is_some() {
                self.of(v)?;
            }
        }
        let mut position = 0;
        for (i, a) in schema.args.iter().enumerate() {
            if a.is_out {
                let mine = |s: &OutputSpec| *s == OutputSpec::Out { arg: i } || *s == OutputSpec::OutList { arg: i };
                let first = schema.outputs.iter().position(mine);
                let Some(first) = first else { return Err(self.node_error(n, "an output is missing in the schema")) };
                if schema.outputs[first] == (OutputSpec::OutList { arg: i }) {
                    let items = node.outputs.iter().skip(first).map(|&v| self.of(v)).collect::<Res<Vec<_>>>()?;
                    args.push(self.push(EValue::TensorList(items.clone())));
                    lists = items;
                } else {
                    let Some(&v) = node.outputs.get(first) else {
                        return Err(self.node_error(n, "an output is missing"));
                    };
                    let out = self.of(v)?;
                    args.push(out);
                    outs.push(out);
                }
                continue;
            }
            let Some(arg) = node.args.get(position) else {
                return Err(self.node_error(n, format!("argument `{}` is missing", a.name)));
            };
            position += 1;
            if a.edge_only {
                continue;
            }
            if !a.optional && matches!(arg, Arg::None) {
                return Err(self.node_error(n, format!("argument `{}` is None, expected a value", a.name)));
            }
            args.push(self.argument(n, arg, a.kind)?);
        }
        for (spec, &v) in schema.outputs.iter().zip(&node.outputs) {
            match spec {
                OutputSpec::Scalar(_) => returned.push(self.of(v)?),
                OutputSpec::NewVersion { .. } if outs.is_empty() && returned.is_empty() => returned.push(self.of(v)?),
                _ => {}
            }
        }
        if node.op == Op::CopyIndex {
            returned.clear();
        } else if !lists.is_empty() {
            returned = vec![self.push(EValue::TensorList(lists))];
        } else if outs.len() > 1 {
            returned = vec![self.push(EValue::TensorList(outs))];
        } else if let [one] = outs.as_slice() {
            returned = vec![*one];
        }
        args.extend(returned);
        self.call(schema.name, schema.overload, args);
        Ok(())
    }

    fn argument(&mut self, n: NodeId, arg: &Arg, kind: ArgKind) -> Res<u32> {
        let value = match (arg, kind) {
            (Arg::None, _) => EValue::Null,
            (Arg::Value(v), _) => return self.of(*v),
            (Arg::Int(i), ArgKind::Float) => EValue::Double(*i as f64),
            (Arg::Int(i), ArgKind::IntList) => {
                let item = self.push(EValue::Int(*i));
                EValue::IntList(vec![item])
            }
            (Arg::Int(i), _) => EValue::Int(*i),
            (Arg::Float(f), _) => EValue::Double(*f),
            (Arg::Bool(b), _) => EValue::Bool(*b),
            (Arg::Str(s), _) => EValue::String(s.to_string()),
            (Arg::DType(d), _) => match d.scalar_type_code() {
                Some(code) => EValue::Int(i64::from(code)),
                None => return Err(self.node_error(n, format!("{d} has no element type in the format"))),
            },
            (Arg::Ints(items), _) => {
                let mut list = Vec::with_capacity(items.len());
                for i in items {
                    list.push(match i {
                        IntArg::Const(c) => self.push(EValue::Int(*c)),
                        IntArg::Value(v) => self.of(*v)?,
                    });
                }
                EValue::IntList(list)
            }
            (Arg::Floats(f), _) => EValue::DoubleList(f.clone()),
            (Arg::Bools(b), _) => EValue::BoolList(b.clone()),
            (Arg::Values(items), ArgKind::TensorList) => {
                let mut list = Vec::with_capacity(items.len());
                for v in items {
                    let Some(v) = v else { return Err(self.node_error(n, "a tensor list has a gap")) };
                    list.push(self.of(*v)?);
                }
                EValue::TensorList(list)
            }
            (Arg::Values(items), _) => {
                let one = |v: &Option<ValueId>| v.map(|v| self.of(v)).transpose();
                EValue::OptionalTensorList(items.iter().map(one).collect::<Res<_>>()?)
            }
        };
        Ok(self.push(value))
    }

    fn custom(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let Extra::Custom(key) = &node.extra else { return Err(self.node_error(n, "a custom operator without a key")) };
        let base = key.find("::").map_or(0, |i| i + 2);
        let (name, overload) = match key[base..].find('.') {
            Some(dot) => (&key[..base + dot], &key[base + dot + 1..]),
            None => (&key[..], ""),
        };
        if name.ends_with('_') {
            let reason = format!("`{key}` mutates its argument, which cannot be told of operators outside the table");
            return Err(self.node_error(n, reason));
        }
        let outs = node.outputs.iter().map(|&v| self.of(v)).collect::<Res<Vec<_>>>()?;
        let mut args = Vec::new();
        for a in &node.args {
            let gaps = matches!(a, Arg::Values(items) if items.iter().any(Option::is_none));
            let kind = if gaps { ArgKind::OptionalTensorList } else { ArgKind::TensorList };
            let kind = if matches!(a, Arg::Values(_)) { kind } else { ArgKind::Scalar };
            args.push(self.argument(n, a, kind)?);
        }
        let tensors = node.outputs.iter().all(|&v| graph.ty(v).as_tensor().is_some());
        if LIST_OUT_KERNELS.contains(&key.as_ref()) {
            args.push(self.push(EValue::TensorList(outs.clone())));
            args.push(self.push(EValue::TensorList(outs)));
        } else if !tensors {
            args.extend(outs);
        } else {
            args.extend(&outs);
            match outs.as_slice() {
                [one] => args.push(*one),
                _ => args.push(self.push(EValue::TensorList(outs))),
            }
        }
        self.call(name, overload, args);
        Ok(())
    }

    fn delegate(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let Extra::Delegate(id) = node.extra else {
            return Err(self.node_error(n, "a delegate call without delegate"));
        };
        let mut args = Vec::new();
        for a in &node.args {
            args.push(self.argument(n, a, ArgKind::Scalar)?);
        }
        for &v in &node.outputs {
            args.push(self.of(v)?);
        }
        let delegate_index = match self.delegate_index.get(&id) {
            Some(&i) => i,
            None => {
                let d = &self.module.delegates[id];
                let data = DelegateData::Segment(self.pool.delegate(id)?);
                let specs = d.compile_specs.iter();
                let compile_specs = specs.map(|(k, v)| CompileSpec { key: k.to_string(), value: v.clone() }).collect();
                let i = u32::try_from(self.delegates.len()).unwrap_or(u32::MAX);
                self.delegates.push(BackendDelegate { id: d.backend.to_string(), data, compile_specs });
                self.delegate_index.insert(id, i);
                i
            }
        };
        self.instructions.push(Instruction::DelegateCall { delegate_index, args });
        Ok(())
    }

    fn jump(&mut self, cond_value_index: u32) -> usize {
        self.instructions.push(Instruction::JumpFalseCall { cond_value_index, destination_instruction: 0 });
        self.instructions.len() - 1
    }

    fn land(&mut self, jump: usize, at: usize) {
        if let Some(Instruction::JumpFalseCall { destination_instruction, .. }) = self.instructions.get_mut(jump) {
            *destination_instruction = u32::try_from(at).unwrap_or(u32::MAX);
        }
    }

    fn no(&mut self) -> u32 {
        match self.no {
            Some(i) => i,
            None => {
                let i = self.push(EValue::Bool(false));
                self.no = Some(i);
                i
            }
        }
    }

    /// Makes the entry `to` hold what `v` holds.
    fn copy(&mut self, v: ValueId, to: u32) -> Res<()> {
        let from = self.of(v)?;
        if self.graph.ty(v).as_tensor().is_some() {
            let order = self.push(EValue::Null);
            self.call("aten::clone", "out", vec![from, order, to, to]);
        } else {
            self.instructions.push(Instruction::MoveCall { move_from: from, move_to: to });
        }
        Ok(())
    }

    fn branch(&mut self, n: NodeId, r: RegionId) -> Res<()> {
        self.region(r)?;
        let graph = self.graph;
        let transfers = self.plan.leaving.get(&r).cloned().unwrap_or_default();
        for ((&v, &out), t) in graph.regions[r].results.iter().zip(&graph.nodes[n].outputs).zip(transfers) {
            if t != Transfer::InPlace {
                let to = self.of(out)?;
                self.copy(v, to)?;
            }
        }
        Ok(())
    }

    fn cond(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let &[then, other] = node.regions.as_slice() else {
            return Err(self.node_error(n, "a branch without two sides"));
        };
        for &v in &node.outputs {
            self.of(v)?;
        }
        let cond = match node.args.first() {
            Some(Arg::Bool(b)) => return self.branch(n, if *b { then } else { other }),
            Some(Arg::Value(v)) => self.of(*v)?,
            _ => return Err(self.node_error(n, "a branch without a condition")),
        };
        let to_else = self.jump(cond);
        self.branch(n, then)?;
        let no = self.no();
        let to_end = self.jump(no);
        self.land(to_else, self.instructions.len());
        self.branch(n, other)?;
        self.land(to_end, self.instructions.len());
        Ok(())
    }

    fn repeat(&mut self, n: NodeId) -> Res<()> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let Some(&body) = node.regions.first() else { return Err(self.node_error(n, "a loop without a body")) };
        let params = &graph.regions[body].params;
        let entering = self.plan.entering.get(&n).cloned().unwrap_or_default();
        for ((arg, &p), t) in node.args.iter().zip(params).zip(entering) {
            let to = self.of(p)?;
            match (t, arg) {
                (Transfer::InPlace, _) => {}
                (_, Arg::Value(v)) => self.copy(*v, to)?,
                (_, literal) => {
                    let from = self.argument(n, literal, ArgKind::Scalar)?;
                    self.instructions.push(Instruction::MoveCall { move_from: from, move_to: to });
                }
            }
        }
        let start = self.instructions.len();
        let (again, until) = self.condition(body);
        for &m in &graph.regions[body].nodes {
            if !(until && Def::Node(m, 0) == graph.values[graph.regions[body].results[0]].def) {
                self.node(m)?;
            }
        }
        let mut again = match again {
            Some(v) => self.of(v)?,
            None => return Err(self.node_error(n, "its body does not say whether to go on")),
        };
        let overwritten = params.iter().map(|&p| self.of(p)).collect::<Res<Vec<_>>>()?.contains(&again);
        if overwritten {
            let copy = self.push(EValue::Bool(false));
            self.instructions.push(Instruction::MoveCall { move_from: again, move_to: copy });
            again = copy;
        }
        let leaving = self.plan.leaving.get(&body).cloned().unwrap_or_default();
        let results = &graph.regions[body].results;
        let mut second = Vec::new();
        for ((&v, &p), t) in results.iter().skip(1).zip(params).zip(leaving.into_iter().skip(1)) {
            let to = self.of(p)?;
            match t {
                Transfer::InPlace => {}
                Transfer::Copy => second.push((v, to, None)),
                Transfer::Through(k) => {
                    let through = match graph.ty(v) {
                        Type::Tensor(ty) => {
                            let mut t = self.shape(v, ty)?;
                            t.allocation = self.plan.extra.get(k).map(|e| e.0);
                            EValue::Tensor(t)
                        }
                        Type::Int(_) => EValue::Int(0),
                        Type::Bool => EValue::Bool(false),
                        Type::Float => EValue::Double(0.0),
                    };
                    let through = self.push(through);
                    self.copy(v, through)?;
                    second.push((v, to, Some(through)));
                }
            }
        }
        for (v, to, through) in second {
            match through {
                None => self.copy(v, to)?,
                Some(from) if graph.ty(v).as_tensor().is_some() => {
                    let order = self.push(EValue::Null);
                    self.call("aten::clone", "out", vec![from, order, to, to]);
                }
                Some(from) => self.instructions.push(Instruction::MoveCall { move_from: from, move_to: to }),
            }
        }
        if until {
            let back = self.jump(again);
            self.land(back, start);
        } else {
            let leave = self.jump(again);
            let no = self.no();
            let back = self.jump(no);
            self.land(back, start);
            self.land(leave, self.instructions.len());
        }
        Ok(())
    }

    /// The value that a loop's last jump looks at, and whether the loop goes on until it is true: what `sym_not` negates
    /// for the loop alone need not be negated.
    fn condition(&mut self, body: RegionId) -> (Option<ValueId>, bool) {
        let graph = self.graph;
        let Some(&again) = graph.regions[body].results.first() else { return (None, false) };
        if let Def::Node(m, 0) = graph.values[again].def
            && graph.nodes[m].op == Op::PrimNot
            && graph.regions[body].nodes.contains(&m)
            && let Some(Arg::Value(x)) = graph.nodes[m].args.first()
        {
            let mut uses = 0;
            for q in graph.all_nodes() {
                graph.nodes[q].args.iter().for_each(|a| a.for_each_value(|v| uses += usize::from(v == again)));
            }
            for (_, r) in graph.regions.iter() {
                uses += r.results.iter().filter(|&&v| v == again).count();
            }
            if uses == 1 {
                return (Some(*x), true);
            }
        }
        (Some(again), false)
    }
}

fn named(name: &str, external: bool) -> Box<ExtraTensorInfo> {
    Box::new(ExtraTensorInfo { fully_qualified_name: name.to_owned(), external, ..ExtraTensorInfo::default() })
}

/// A node in messages.
fn name_of(graph: &Graph, n: NodeId) -> String {
    let node = &graph.nodes[n];
    let path = graph.paths.get(node.path).map_or("", |p| p.as_ref());
    if path.is_empty() { node.handle.to_string() } else { format!("{} of `{path}`", node.handle) }
}
