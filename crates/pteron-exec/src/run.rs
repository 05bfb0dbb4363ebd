//! One call of a method.

use pteron_ir::{
    Arg, BufferId, DelegateId, Extra, Graph, Id, IdMap, InferCtx, NodeId, Op, RegionId, SymInt, Type, ValueId,
};
use pteron_kernels::Context;
use pteron_kernels::quant::QuantSemantics;
use pteron_tensor::{AlignedBytes, DType, Scalar, Tensor, View, ViewMut, read_scalar};
use smallvec::SmallVec;

use crate::coded;
use crate::constants::Constants;
use crate::delegate::DelegateInstance;
use crate::dispatch::{Resolved, call};
use crate::error::ExecError;
use crate::explain::numbers_of_inputs;
use crate::frame::{Frame, Slot};
use crate::fuel::{Fuel, cost};
use crate::fuse::Part;
use crate::hook::{NodeEvent, NodeHook};
use crate::operands::{Readable, is_mutated, output, resolve, split, take_out};
use crate::plan::{MethodPlan, Place, StateLayout};
use crate::scalar::evaluate;
use crate::value::{Outputs, ValueRef};

pub(crate) struct Run<'s, 'f> {
    pub(crate) graph: &'s Graph,
    pub(crate) plan: &'s MethodPlan,
    pub(crate) frame: &'s mut Frame,
    pub(crate) constants: &'s Constants,
    pub(crate) delegates: &'s mut IdMap<DelegateId, Option<Box<dyn DelegateInstance>>>,
    pub(crate) layout: &'s StateLayout,
    pub(crate) state: &'s mut [u8],
    pub(crate) arena: &'s mut [u8],
    pub(crate) inputs: &'s [ValueRef<'s>],
    pub(crate) ctx: &'s Context,
    pub(crate) quant: QuantSemantics,
    pub(crate) steps_left: u64,
    pub(crate) max_steps: u64,
    pub(crate) fuel: &'f mut Fuel,
}

impl<'s> Run<'s, '_> {
    pub(crate) fn execute(mut self, hook: &mut dyn NodeHook) -> Result<Outputs<'s>, ExecError> {
        self.bind_inputs()?;
        self.body(hook)?;
        self.save_outputs()?;
        self.write_back()?;
        let Run { graph, plan, frame, constants, state, arena, inputs, .. } = self;
        let frame: &'s Frame = frame;
        let unreadable = |reason| ExecError::Constant { name: "an output".to_owned(), reason };
        let memory = Readable::whole(arena, state, constants, inputs, frame).map_err(unreadable)?;
        let items = graph
            .outputs()
            .iter()
            .map(|&v| {
                let slot = &frame.slots[v];
                match frame.saved.iter().find(|s| s.0 == v) {
                    Some((_, bytes)) => View::new(slot.dtype(), &slot.sizes, &slot.strides, bytes)
                        .map(ValueRef::Tensor)
                        .map_err(|e| e.to_string()),
                    None => output(&memory, slot, plan.places[v]),
                }
            })
            .collect::<Result<Vec<_>, String>>()
            .map_err(unreadable)?;
        Ok(Outputs { items })
    }

    fn bind_inputs(&mut self) -> Result<(), ExecError> {
        let (graph, inputs) = (self.graph, self.inputs);
        if inputs.len() != graph.inputs.len() {
            return Err(ExecError::InputCount {
                method: graph.name.clone(),
                expected: graph.inputs.len(),
                found: inputs.len(),
            });
        }
        self.frame.copies.clear();
        let mut symbols: SmallVec<[Option<i64>; 4]> = SmallVec::from_elem(None, graph.symbols.len());
        for (position, (&v, input)) in graph.inputs.iter().zip(inputs).enumerate() {
            let declared = graph.ty(v);
            let refuse = || ExecError::Input {
                method: graph.name.clone(),
                position,
                name: graph.values[v].name.as_deref().unwrap_or("").to_owned(),
                found: input.describe(),
                expected: describe_declared(graph, declared),
            };
            match (input, declared) {
                (ValueRef::Tensor(t), Type::Tensor(ty)) => {
                    if t.dtype() != ty.dtype || t.rank() != ty.rank() {
                        return Err(refuse());
                    }
                    for (&size, dim) in t.sizes().iter().zip(&ty.dims) {
                        let size = i64::try_from(size).unwrap_or(i64::MAX);
                        let (lo, hi) = dim.range(&graph.symbols);
                        let fits = lo <= size && size <= hi;
                        // The first appearance of a symbol gives its value; later ones must agree.
                        let agrees = match dim.as_symbol() {
                            Some(s) => *symbols[s.index()].get_or_insert(size) == size,
                            None => dim.eval(&|s| symbols[s.index()]).is_none_or(|d| d == size),
                        };
                        if !fits || !agrees {
                            return Err(refuse());
                        }
                    }
                    let mut now = ty.clone();
                    now.dims = t.sizes().iter().map(|&s| s.into()).collect();
                    self.frame.set_tensor(v, Type::Tensor(now)).map_err(|_| refuse())?;
                    let slot = &self.frame.slots[v];
                    let elements = t.numel();
                    let aligned = (t.bytes().as_ptr() as usize).is_multiple_of(t.dtype().size().unwrap_or(1));
                    if elements > 0 && (slot.strides.as_slice() != t.strides() && !both_row_major(t, slot) || !aligned)
                    {
                        let order = ty.dim_order();
                        let mut copy = Tensor::zeros_in_order(t.dtype(), t.sizes(), &order).map_err(|_| refuse())?;
                        let mut to = copy.view_mut();
                        for i in 0..elements {
                            t.scalar(i).and_then(|x| to.set_scalar(i, x)).ok_or_else(refuse)?;
                        }
                        self.frame.copies.push((position, copy));
                    }
                }
                (ValueRef::Int(i), Type::Int(s)) => {
                    let (lo, hi) = s.range(&graph.symbols);
                    if *i < lo || *i > hi {
                        return Err(refuse());
                    }
                    self.frame.set_scalar(v, Scalar::Int(*i));
                }
                (ValueRef::Bool(b), Type::Bool) => self.frame.set_scalar(v, Scalar::Bool(*b)),
                (ValueRef::Float(f), Type::Float) => self.frame.set_scalar(v, Scalar::Float(*f)),
                (ValueRef::Int(i), Type::Float) => self.frame.set_scalar(v, Scalar::Float(*i as f64)),
                _ => return Err(refuse()),
            }
        }
        Ok(())
    }

    pub(crate) fn region(&mut self, region: RegionId, hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        let watched = hook.is_active() && hook.wants_outputs();
        let plan = self.plan;
        let nodes = if watched { &self.graph.regions[region].nodes } else { &plan.walks[region] };
        self.walk(nodes, hook)
    }

    /// Executes nodes in their order.
    pub(crate) fn walk(&mut self, nodes: &[NodeId], hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        nodes.iter().try_for_each(|&n| self.node(n, hook))
    }

    /// Executes a node, or a group at its turn.
    pub(crate) fn node(&mut self, n: NodeId, hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        let graph = self.graph;
        let active = hook.is_active();
        let watched = active && hook.wants_outputs();
        self.steps_left = match self.steps_left.checked_sub(1) {
            Some(left) => left,
            None => return Err(ExecError::StepLimit { method: graph.name.clone(), limit: self.max_steps }),
        };
        let part = if watched { Part::Alone } else { self.plan.groups.part[n] };
        if active {
            hook.before(graph, n);
        }
        self.ctx.pool().ask_ahead();
        if let Part::Turn(group) = part {
            let op = self.group(group)?;
            if active {
                let nodes = self.plan.groups.list[group].members.len();
                let scalar = self.ctx.take_scalar();
                hook.after(&NodeEvent { graph, node: n, op, outputs: &[], nodes, scalar });
            }
            return Ok(());
        }
        match graph.nodes[n].op {
            Op::Cond => self.cond(n, hook)?,
            Op::Loop => self.repeat(n, hook)?,
            Op::Delegate => self.delegate(n, hook).map_err(|e| self.failed(n, e))?,
            _ => self.simple(n).map_err(|e| self.failed(n, e))?,
        }
        if active {
            self.watch(n, hook).map_err(|e| ExecError::at(graph, n, e))?;
        }
        Ok(())
    }

    /// The error of a node: that fuel ran out, or `reason`.
    pub(crate) fn failed(&self, n: NodeId, reason: String) -> ExecError {
        match (self.fuel.refused(), self.fuel.limit()) {
            (Some(needed), Some(limit)) => ExecError::out_of_fuel(self.graph, n, needed, self.fuel.left(), limit),
            _ => {
                let numbers = numbers_of_inputs(self.graph, n, &|v| self.frame.slots[v].scalar);
                ExecError::at(self.graph, n, reason + &numbers)
            }
        }
    }

    /// Pays for a node whose outputs have their sizes of this call.
    pub(crate) fn charge(&mut self, n: NodeId) -> Result<(), String> {
        let (node, frame) = (&self.graph.nodes[n], &*self.frame);
        let int = |i: usize| match node.args.get(i) {
            Some(Arg::Int(v)) => Some(*v),
            Some(Arg::Value(v)) => Some(frame.slots[*v].scalar.as_i64()),
            _ => None,
        };
        self.fuel.charge(|| cost(node.op, &node.args, &node.outputs, &|v| &frame.slots[v].sizes, &int))
    }

    fn watch(&mut self, n: NodeId, hook: &mut dyn NodeHook) -> Result<(), String> {
        let graph = self.graph;
        let wanted = hook.wants_outputs() && !matches!(graph.nodes[n].op, Op::Cond | Op::Loop);
        let frame = &*self.frame;
        let memory = Readable::whole(self.arena, self.state, self.constants, self.inputs, frame)?;
        let list: &[ValueId] = if wanted { &graph.nodes[n].outputs } else { &[] };
        // What was made when the session was, and is not there as elements: a packed weight.
        let mut made: SmallVec<[Option<AlignedBytes>; 2]> = SmallVec::new();
        for &v in list {
            made.push(match self.plan.places[v] {
                Some(Place::Folded(i)) => self.constants.made_again(self.ctx, self.quant, i)?,
                _ => None,
            });
        }
        let outputs = list
            .iter()
            .zip(&made)
            .map(|(&v, made)| {
                let slot = &frame.slots[v];
                match made {
                    Some(bytes) => View::new(slot.dtype(), &slot.sizes, &slot.strides, bytes)
                        .map(ValueRef::Tensor)
                        .map_err(|e| e.to_string()),
                    None => output(&memory, slot, self.plan.places[v]),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let scalar = self.ctx.take_scalar() && has_elements(graph.nodes[n].op);
        hook.after(&NodeEvent { graph, node: n, op: graph.nodes[n].op, outputs: &outputs, nodes: 1, scalar });
        Ok(())
    }

    /// A node without regions: infers sizes where they are not fixed, then computes.
    pub(crate) fn simple(&mut self, n: NodeId) -> Result<(), String> {
        if self.plan.folded.nodes[n] {
            return Ok(());
        }
        let node = &self.graph.nodes[n];
        let op = node.op;
        match op {
            Op::SymSize | Op::SymNumel => {
                let types = self.infer(n)?;
                let Some(Type::Int(SymInt::Const(v))) = types.first() else {
                    return Err("the size is not known".into());
                };
                self.set_scalar(node.outputs[0], Scalar::Int(*v))
            }
            Op::LocalScalarDense => {
                let value = self.read_one(node.args.first())?;
                self.set_scalar(node.outputs[0], value)
            }
            _ if matches!(
                node.outputs.first().map(|&v| self.graph.ty(v)),
                Some(Type::Int(_) | Type::Bool | Type::Float)
            ) =>
            {
                let args =
                    node.args.iter().map(|a| self.scalar_arg(a)).collect::<Result<SmallVec<[Scalar; 2]>, _>>()?;
                self.fuel.charge(|| Fuel::NODE)?;
                let value = evaluate(op, &args).map_err(|e| e.reason)?;
                self.set_scalar(node.outputs[0], value)
            }
            _ => {
                self.infer_outputs(n)?;
                if self.plan.alias[n] || self.plan.in_place.idle[n] {
                    return self.fuel.charge(|| Fuel::NODE);
                }
                self.charge(n)?;
                self.kernel(n)
            }
        }
    }

    /// Gives the outputs of a node their sizes where these are not fixed, unless they have them from an earlier call.
    pub(crate) fn infer_outputs(&mut self, n: NodeId) -> Result<(), String> {
        let node = &self.graph.nodes[n];
        let (dynamic, alias) = (self.plan.dynamic[n], self.plan.alias[n]);
        if !(dynamic || alias) || self.frame.is_inferred(n, node.op, &node.args) {
            return Ok(());
        }
        self.frame.inferred[n] = None;
        if dynamic {
            let types = self.infer(n)?;
            for (&v, ty) in node.outputs.iter().zip(types) {
                self.set_type(v, ty)?;
            }
        }
        if alias {
            self.check_alias(n)?;
        }
        self.frame.inferred[n] = Some(self.frame.now());
        Ok(())
    }

    /// A view over its input's memory has as many bytes as the input has in this call, which declared types alone do not
    /// promise where one of the two is fixed and the other is not.
    fn check_alias(&self, n: NodeId) -> Result<(), String> {
        let node = &self.graph.nodes[n];
        let (Some(Arg::Value(from)), Some(&to)) = (node.args.first(), node.outputs.first()) else { return Ok(()) };
        let (from, to) = (&self.frame.slots[*from], &self.frame.slots[to]);
        if from.bytes == to.bytes { Ok(()) } else { Err(format!("{} cannot be viewed as {}", from.ty, to.ty)) }
    }

    fn infer(&self, n: NodeId) -> Result<SmallVec<[Type; 2]>, String> {
        let node = &self.graph.nodes[n];
        let slots = &self.frame.slots;
        let types = |v: ValueId| &slots[v].ty;
        let ctx = InferCtx { op: node.op, args: &node.args, types: &types, symbols: &self.graph.symbols };
        let types = ctx.infer().map_err(|e| e.reason)?;
        if types.len() == node.outputs.len() {
            Ok(types)
        } else {
            Err(format!("gives {} results, {} are declared", types.len(), node.outputs.len()))
        }
    }

    /// Gives value `v` its type in this call: of the declared dtype and rank, and small enough for its memory.
    fn set_type(&mut self, v: ValueId, ty: Type) -> Result<(), String> {
        let declared = self.graph.ty(v);
        let (Some(d), Some(t)) = (declared.as_tensor(), ty.as_tensor()) else {
            return Err(format!("{v} is {ty}, declared as {declared}"));
        };
        if d.dtype != t.dtype || d.rank() != t.rank() {
            return Err(format!("{v} is {ty}, declared as {declared}"));
        }
        self.frame.set_tensor(v, ty)?;
        let slot = &self.frame.slots[v];
        let room = match self.plan.places[v] {
            Some(Place::Arena(_, room) | Place::State(_, room)) => room,
            _ => usize::MAX,
        };
        if slot.bytes > room {
            return Err(format!(
                "{v} needs {} bytes, the program plans {room}: it is {}, declared as {declared}",
                slot.bytes, slot.ty
            ));
        }
        Ok(())
    }

    fn set_scalar(&mut self, v: ValueId, value: Scalar) -> Result<(), String> {
        if let (Type::Int(s), Scalar::Int(i)) = (self.graph.ty(v), value) {
            let (lo, hi) = s.range(&self.graph.symbols);
            if i < lo || i > hi {
                return Err(format!("the value is {i}, the program allows {lo} to {hi}"));
            }
        }
        self.frame.set_scalar(v, value);
        Ok(())
    }

    fn scalar_arg(&self, arg: &Arg) -> Result<Scalar, String> {
        Ok(match arg {
            Arg::Int(i) => Scalar::Int(*i),
            Arg::Float(f) => Scalar::Float(*f),
            Arg::Bool(b) => Scalar::Bool(*b),
            Arg::Value(v) => match &self.frame.slots[*v] {
                slot if slot.ty.as_tensor().is_none() => slot.scalar,
                slot => return Err(format!("{v} is {}, expected a scalar", slot.ty)),
            },
            other => return Err(format!("{} given, expected a scalar", other.kind_name())),
        })
    }

    fn read_one(&mut self, arg: Option<&Arg>) -> Result<Scalar, String> {
        let Some(Arg::Value(v)) = arg else { return Err("expected a tensor".into()) };
        let (bytes, dtype) = self.bytes_of(*v)?;
        read_scalar(dtype, bytes, 0).ok_or_else(|| "the tensor is empty".to_owned())
    }

    /// The bytes of a tensor value, nothing being written.
    fn bytes_of(&mut self, v: ValueId) -> Result<(&[u8], DType), String> {
        let frame = &*self.frame;
        let memory = Readable::whole(self.arena, self.state, self.constants, self.inputs, frame)?;
        let slot = &frame.slots[v];
        let view = memory.view(slot, self.plan.places[v])?;
        let bytes = view.bytes();
        Ok((bytes.get(..slot.bytes).unwrap_or(bytes), slot.dtype()))
    }

    fn kernel(&mut self, n: NodeId) -> Result<(), String> {
        let (graph, plan) = (self.graph, self.plan);
        let node = &graph.nodes[n];
        if let Some(i) = plan.folded.layers[n]
            && self.constants.packed(i).is_some()
        {
            return self.coded_layer(n, i);
        }
        let op = plan.in_place.op(graph, n);
        let frame = &*self.frame;
        let (mut memory, written) =
            split(self.arena, self.state, self.constants, self.inputs, frame, plan, &node.outputs)?;
        let mut resolved: SmallVec<[Resolved<'_>; 8]> = SmallVec::new();
        for (i, arg) in node.args.iter().enumerate() {
            resolved.push(if is_mutated(op, i) { Resolved::Mutated } else { resolve(frame, plan, &memory, arg)? });
        }
        let mut outs: SmallVec<[ViewMut<'_>; 3]> = SmallVec::new();
        for (&v, at) in node.outputs.iter().zip(written) {
            outs.push(take_out(&mut memory, &frame.slots[v], at)?);
        }
        call(self.ctx, self.quant, op, &resolved, outs)
    }

    /// A layer with packed weight `i`, by itself.
    fn coded_layer(&mut self, n: NodeId, i: usize) -> Result<(), String> {
        let (plan, node, frame) = (self.plan, &self.graph.nodes[n], &*self.frame);
        let (mut memory, written) =
            split(self.arena, self.state, self.constants, self.inputs, frame, plan, &node.outputs)?;
        let (&[v], &[at]) = (&node.outputs[..], &written[..]) else { return Err("has not one output".to_owned()) };
        let out = take_out(&mut memory, &frame.slots[v], at)?;
        let operand = |i: usize| match node.args.get(i) {
            Some(Arg::Value(v)) => memory.view(&frame.slots[*v], plan.places[*v]).map(Some),
            _ => Ok(None),
        };
        let weight = self.constants.packed(i).ok_or("a weight is not packed")?;
        let (x, bias) = match node.op {
            Op::AddMm => (operand(1)?, operand(0)?),
            Op::Linear => (operand(0)?, operand(2)?),
            _ => (operand(0)?, None),
        };
        let x = x.ok_or("has no input")?;
        if node.op != Op::AddMm {
            return coded::of_floats(self.ctx, &x, &mut [(weight, bias, out)]);
        }
        let bias = bias.ok_or("has no summand")?;
        let factor = |i: usize| match node.args.get(i) {
            Some(Arg::Float(f)) => *f,
            Some(Arg::Int(i)) => *i as f64,
            _ => 1.0,
        };
        coded::add_product(self.ctx, &bias, &x, weight, (factor(3), factor(4)), out)
    }

    fn delegate(&mut self, n: NodeId, hook: &mut dyn NodeHook) -> Result<(), String> {
        let (graph, plan) = (self.graph, self.plan);
        let node = &graph.nodes[n];
        let Extra::Delegate(id) = node.extra else { return Err("names no delegate".into()) };
        let mut instance = match self.delegates.get(id) {
            Some(Some(_)) => self.delegates[id].take(),
            _ => None,
        };
        let result = match instance.as_mut() {
            None => Err("the delegate is not prepared".to_owned()),
            Some(d) => {
                d.profile(hook.wants_inner());
                self.call_delegate(d.as_mut(), node.args.as_slice(), &node.outputs, plan)
            }
        };
        if let Some(mut d) = instance {
            if hook.wants_inner() {
                hook.inner(graph, n, &d.take_events());
            }
            self.delegates[id] = Some(d);
        }
        result
    }

    fn call_delegate(
        &mut self,
        instance: &mut dyn DelegateInstance,
        args: &[Arg],
        outputs: &[ValueId],
        plan: &MethodPlan,
    ) -> Result<(), String> {
        let inputs: SmallVec<[ValueId; 4]> = args
            .iter()
            .map(|a| if let Arg::Value(v) = a { Ok(*v) } else { Err("a delegate's argument is no tensor".to_owned()) })
            .collect::<Result<_, _>>()?;
        let sizes = {
            let frame = &*self.frame;
            let (memory, _) = split(self.arena, self.state, self.constants, self.inputs, frame, plan, &[])?;
            let views =
                inputs.iter().map(|&v| memory.view(&frame.slots[v], plan.places[v])).collect::<Result<Vec<_>, _>>()?;
            let largest = |&v: &ValueId| {
                let t = self.graph.ty(v).as_tensor();
                t.and_then(|t| t.max_sizes(&self.graph.symbols)).ok_or("an output of a delegate has no bound")
            };
            let declared = outputs.iter().map(largest).collect::<Result<Vec<_>, _>>()?;
            instance.method(&self.graph.name);
            instance.output_sizes(&views, &declared)?
        };
        for (&v, sizes) in outputs.iter().zip(&sizes) {
            let Some(t) = self.graph.ty(v).as_tensor() else { return Err("a delegate gives tensors only".into()) };
            let mut now = t.clone();
            now.dims = sizes.iter().map(|&s| s.into()).collect();
            self.set_type(v, Type::Tensor(now))?;
        }
        let frame = &*self.frame;
        let (mut memory, written) = split(self.arena, self.state, self.constants, self.inputs, frame, plan, outputs)?;
        let views =
            inputs.iter().map(|&v| memory.view(&frame.slots[v], plan.places[v])).collect::<Result<Vec<_>, _>>()?;
        let mut outs = Vec::with_capacity(outputs.len());
        for (&v, at) in outputs.iter().zip(written) {
            outs.push(take_out(&mut memory, &frame.slots[v], at)?);
        }
        self.fuel.charge(|| Fuel::NODE)?;
        instance.execute(&views, &mut outs, self.fuel)
    }

    fn truth(&mut self, v: ValueId) -> Result<bool, String> {
        if self.frame.slots[v].ty.as_tensor().is_none() {
            return Ok(self.frame.slots[v].scalar.as_bool());
        }
        // A tensor is true if none of its elements is false.
        let (bytes, dtype) = self.bytes_of(v)?;
        if dtype == DType::Bool {
            Ok(!bytes.contains(&0))
        } else {
            Err(format!("a condition of type {dtype}, expected bool"))
        }
    }

    fn cond(&mut self, n: NodeId, hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let fail = |reason: String| ExecError::at(graph, n, reason);
        let taken = match node.args.first() {
            Some(Arg::Value(v)) => self.truth(*v).map_err(fail)?,
            Some(Arg::Bool(b)) => *b,
            _ => return Err(fail("has no condition".to_owned())),
        };
        let Some(&region) = node.regions.get(usize::from(!taken)) else {
            return Err(fail("has no branch for the condition".to_owned()));
        };
        self.region(region, hook)?;
        self.assign(&graph.regions[region].results, &node.outputs).map_err(|e| self.failed(n, e))
    }

    fn repeat(&mut self, n: NodeId, hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        let graph = self.graph;
        let node = &graph.nodes[n];
        let fail = |reason: String| ExecError::at(graph, n, reason);
        let Some(&region) = node.regions.first() else { return Err(fail("has no body".to_owned())) };
        let body = &graph.regions[region];
        let Some((&again, results)) = body.results.split_first() else {
            return Err(fail("its body does not say whether to go on".to_owned()));
        };
        for (arg, &param) in node.args.iter().zip(&body.params) {
            match arg {
                Arg::Value(v) => self.assign(&[*v], &[param]).map_err(|e| self.failed(n, e))?,
                other => {
                    let value = self.scalar_arg(other).map_err(fail)?;
                    self.frame.set_scalar(param, value);
                }
            }
        }
        loop {
            self.fuel.charge(|| Fuel::NODE).map_err(|e| self.failed(n, e))?;
            self.region(region, hook)?;
            if !self.truth(again).map_err(fail)? {
                break;
            }
            self.assign(results, &body.params).map_err(|e| self.failed(n, e))?;
        }
        self.assign(results, &node.outputs).map_err(|e| self.failed(n, e))
    }

    /// Gives each of `to` the value of the one of `from` beside it, all at once.
    fn assign(&mut self, from: &[ValueId], to: &[ValueId]) -> Result<(), String> {
        let frame = &*self.frame;
        let numel = |&v: &ValueId| frame.slots[v].sizes.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        let is_tensor = |v: &&ValueId| frame.slots[**v].ty.as_tensor().is_some();
        self.fuel.charge(|| from.iter().filter(is_tensor).map(numel).fold(0, u64::saturating_add))?;
        let mut tensors: SmallVec<[Option<Vec<u8>>; 2]> = SmallVec::new();
        for &v in from {
            let is_tensor = self.frame.slots[v].ty.as_tensor().is_some();
            tensors.push(if is_tensor { Some(self.bytes_of(v)?.0.to_vec()) } else { None });
        }
        let slots: SmallVec<[Slot; 2]> = from.iter().map(|&v| self.frame.slots[v].clone()).collect();
        for ((slot, bytes), &v) in slots.into_iter().zip(tensors).zip(to) {
            match bytes {
                None => self.frame.set_scalar(v, slot.scalar),
                Some(bytes) => {
                    self.set_type(v, slot.ty)?;
                    self.write(self.plan.places[v], &bytes)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, place: Option<Place>, bytes: &[u8]) -> Result<(), String> {
        let to = match place {
            Some(Place::Arena(at, room)) if bytes.len() <= room => self.arena.get_mut(at..at + bytes.len()),
            Some(Place::State(at, room)) if bytes.len() <= room => self.state.get_mut(at..at + bytes.len()),
            _ => None,
        };
        to.ok_or("a value has no memory of its own")?.copy_from_slice(bytes);
        Ok(())
    }

    fn save_outputs(&mut self) -> Result<(), ExecError> {
        self.frame.saved.clear();
        for &v in &self.plan.saved {
            let fail = |reason| ExecError::Constant { name: format!("output {v}"), reason };
            let bytes = AlignedBytes::copied(self.bytes_of(v).map_err(fail)?.0);
            self.frame.saved.push((v, bytes));
        }
        Ok(())
    }

    /// Copies what the buffers shall hold at the end; all is read before any is written.
    fn write_back(&mut self) -> Result<(), ExecError> {
        let plan = self.plan;
        let fail = |b: BufferId, reason: String| ExecError::Constant { name: format!("buffer {b}"), reason };
        let mut pending = Vec::new();
        for &(b, v) in &plan.write_backs {
            let bytes = self.bytes_of(v).map_err(|e| fail(b, e))?.0.to_vec();
            pending.push((b, bytes));
        }
        for (b, bytes) in pending {
            let range = self.layout.ranges[b].clone();
            if range.len() != bytes.len() {
                return Err(fail(b, format!("{} bytes to store in {}", bytes.len(), range.len())));
            }
            self.state[range].copy_from_slice(&bytes);
        }
        Ok(())
    }
}

/// True for operators that compute elements of tensors.
fn has_elements(op: Op) -> bool {
    !op.is_structural() && !op.is_view() && !matches!(op, Op::SymSize | Op::SymNumel | Op::LocalScalarDense)
}

fn both_row_major(t: &View<'_>, slot: &Slot) -> bool {
    t.is_contiguous() && slot.ty.as_tensor().is_some_and(|t| t.order.is_none())
}

fn describe_declared(graph: &Graph, ty: &Type) -> String {
    let Type::Tensor(t) = ty else { return ty.to_string() };
    let dims: Vec<String> = t
        .dims
        .iter()
        .map(|d| match d.range(&graph.symbols) {
            (a, b) if a == b => a.to_string(),
            (a, b) => format!("{a}..={b}"),
        })
        .collect();
    format!("{}[{}]", t.dtype, dims.join(", "))
}
