//! Executing a call, by the list of what it needs where there is one.

use pteron_ir::{Arg, ConstId, Op, ValueId};
use pteron_tensor::{View, ViewMut};
use smallvec::SmallVec;

use crate::dispatch::{Resolved, call};
use crate::error::ExecError;
use crate::fused::{Operands, compute};
use crate::hook::{NodeEvent, NodeHook};
use crate::operands::{resolve, split_at};
use crate::prepared::{Given, Kind, Operand, Prepared, Spot, Step};
use crate::run::Run;

impl Run<'_, '_> {
    /// The nodes of the body: by the list that an earlier call of the same sizes left, or one by one. A call that changed no
    /// sizes leaves such a list.
    pub(crate) fn body(&mut self, hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        let (body, time) = (self.graph.body_id(), self.frame.sizes_time());
        let watched = hook.is_active() && hook.wants_outputs();
        let walk = &self.plan.walks[body];
        if watched || self.fuel.limit().is_some() || self.steps_left < walk.len() as u64 {
            return self.region(body, hook);
        }
        match self.frame.prepared.take() {
            Some(list) if list.time == time => {
                let result = self.repeat_steps(&list, hook);
                // Sizes that changed meanwhile make it another list.
                if self.frame.sizes_time() == time {
                    self.frame.prepared = Some(list);
                }
                result
            }
            _ => {
                self.region(body, hook)?;
                if self.frame.sizes_time() == time {
                    let list = Prepared::new(self.graph, self.plan, self.frame, self.constants);
                    self.frame.prepared = list.map(Box::new);
                }
                Ok(())
            }
        }
    }

    fn repeat_steps(&mut self, list: &Prepared, hook: &mut dyn NodeHook) -> Result<(), ExecError> {
        let (graph, plan) = (self.graph, self.plan);
        let active = hook.is_active();
        for (i, step) in list.steps.iter().enumerate() {
            list.ask(i, plan);
            if matches!(step.kind, Kind::Walk) {
                self.node(step.node, hook)?;
                if self.frame.sizes_time() != list.time {
                    let rest = plan.walks[graph.body_id()].get(step.at + 1..).unwrap_or(&[]);
                    return self.walk(rest, hook);
                }
                continue;
            }
            if active {
                hook.before(graph, step.node);
            }
            self.ctx.pool().ask_ahead();
            let (op, nodes) = self.step(list, step).map_err(|e| self.failed(step.node, e))?;
            if let Kind::Group(number) = step.kind {
                self.look_ahead(number, &plan.groups.list[number]);
            }
            if active {
                let scalar = self.ctx.take_scalar();
                hook.after(&NodeEvent { graph, node: step.node, op, outputs: &[], nodes, scalar });
            }
        }
        Ok(())
    }

    /// Executes a step; gives what was executed, and how many nodes.
    fn step(&mut self, list: &Prepared, step: &Step) -> Result<(Op, usize), String> {
        let (graph, plan, ctx) = (self.graph, self.plan, self.ctx);
        let frame = &*self.frame;
        let places = list.outputs(step).iter().map(|o| match o.spot {
            Spot::At(place) => (Some(place), o.bytes),
            Spot::Small(_) => (None, 0),
        });
        let (mut memory, written) =
            split_at(self.arena, self.state, self.constants, self.inputs, &frame.copies, places)?;
        let mut outs: SmallVec<[ViewMut<'_>; 3]> = SmallVec::new();
        for (o, at) in list.outputs(step).iter().zip(written) {
            outs.push(list.view_mut(o, memory.take(at)?)?);
        }
        match step.kind {
            Kind::Group(number) => {
                let group = &plan.groups.list[number];
                let names = group.what.operands();
                let find = |v: ValueId| -> Option<&Operand> {
                    names.iter().zip(list.inputs(step)).find(|(n, _)| **n == v).map(|(_, o)| o)
                };
                let view = |v: ValueId| -> Result<View<'_>, String> {
                    list.view(&memory, find(v).ok_or("an operand is missing")?)
                };
                let constant = |v: ValueId| -> Option<ConstId> { find(v).and_then(Prepared::constant) };
                let int = |a: &Arg| frame.number(a);
                let operands = Operands { view: &view, constant: &constant, number: &int, constants: self.constants };
                let known = frame.groups[number].as_ref().map(|k| &k.1);
                compute(ctx, self.quant, &group.what, known, &operands, outs)?;
                Ok((group.what.op(), group.members.len()))
            }
            Kind::Call(op, args) => {
                let mut resolved: SmallVec<[Resolved<'_>; 8]> = SmallVec::new();
                for given in list.args(args) {
                    resolved.push(match given {
                        Given::Operand(i) => Resolved::Tensor(list.view(&memory, list.operand(*i)?)?),
                        Given::Mutated => Resolved::Mutated,
                        Given::Other(arg) => resolve(frame, plan, &memory, arg)?,
                    });
                }
                call(ctx, self.quant, op, &resolved, outs)?;
                Ok((graph.nodes[step.node].op, 1))
            }
            Kind::Walk => Ok((graph.nodes[step.node].op, 0)),
        }
    }
}
