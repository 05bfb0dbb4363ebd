//! Payloads in place of the calls of delegates, so that one plan sees the whole program.

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_ir::{Arg, ConstId, Def, DelegateId, Extra, Graph, InferCtx, Module, Node, NodeId, RegionId, Type, ValueId};

use crate::lift::{METHOD, lift};
use crate::lower::BACKEND;
use crate::payload::Payload;

/// The graph of a payload, and its constants as the program's.
struct Body {
    graph: Graph,
    constants: BTreeMap<ConstId, ConstId>,
}

/// Replaces calls of XNNPACK delegates by the operators of their payloads; gives how many were replaced. A call stays where
/// its payload cannot be lifted or its arguments do not fit it: what is wrong is said when the delegate is prepared or called.
pub fn inline(module: &mut Module) -> usize {
    let mut bodies: BTreeMap<DelegateId, Option<Body>> = BTreeMap::new();
    let mut graphs = std::mem::take(&mut module.graphs);
    let mut count = 0;
    for graph in &mut graphs {
        let regions: Vec<RegionId> = graph.regions.iter().map(|(id, _)| id).collect();
        for r in regions {
            for n in std::mem::take(&mut graph.regions[r].nodes) {
                let Extra::Delegate(id) = graph.nodes[n].extra else {
                    graph.regions[r].nodes.push(n);
                    continue;
                };
                let body = bodies.entry(id).or_insert_with(|| lifted(module, id));
                let before = graph.regions[r].nodes.len();
                match body.as_ref().and_then(|b| place(graph, r, n, b)) {
                    Some(results) => {
                        let old = graph.nodes[n].outputs.clone();
                        old.iter().zip(results).for_each(|(&old, new)| graph.replace_uses(old, new));
                        count += 1;
                    }
                    None => {
                        graph.regions[r].nodes.truncate(before);
                        graph.regions[r].nodes.push(n);
                    }
                }
            }
        }
    }
    module.graphs = graphs;
    count
}

fn lifted(module: &mut Module, id: DelegateId) -> Option<Body> {
    let d = module.delegates.get(id).filter(|d| d.backend.as_ref() == BACKEND)?;
    let payload = Payload::parse(&d.payload).ok()?;
    let named = |key: &str| d.named_data.iter().find(|n| n.0.as_ref() == key).map(|n| Arc::clone(&n.1));
    let mut inner = lift(&payload, &d.payload, &named).ok()?;
    let constants = inner.constants.iter().map(|(c, constant)| (c, module.constants.push(constant.clone()))).collect();
    let at = inner.graphs.iter().position(|g| g.name == METHOD)?;
    Some(Body { graph: inner.graphs.swap_remove(at), constants })
}

/// The type of a node in its new place. What its payload knows of a size and the arguments do not say stays.
fn merged(inferred: Type, known: &Type) -> Type {
    let (Type::Tensor(mut t), Type::Tensor(k)) = (inferred, known) else { return known.clone() };
    for (d, k) in t.dims.iter_mut().zip(&k.dims) {
        if d.as_const().is_none() && k.as_const().is_some() {
            d.clone_from(k);
        }
    }
    Type::Tensor(t)
}

/// Adds the nodes of `body` at the end of region `r` in place of call `n`; gives the results.
fn place(graph: &mut Graph, r: RegionId, n: NodeId, body: &Body) -> Option<Vec<ValueId>> {
    let call = graph.nodes[n].clone();
    let inner = &body.graph;
    let mut values: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    if call.args.len() != inner.inputs.len() || call.outputs.len() != inner.outputs().len() {
        return None;
    }
    for (arg, &input) in call.args.iter().zip(&inner.inputs) {
        let Arg::Value(v) = arg else { return None };
        let (given, declared) = (graph.ty(*v).as_tensor()?, inner.ty(input).as_tensor()?);
        let rank = given.rank() == declared.rank() && given.order.is_none();
        let fits = |(g, d): (&pteron_ir::SymInt, &pteron_ir::SymInt)| {
            let ((_, most), (_, allowed)) = (g.range(&graph.symbols), d.range(&inner.symbols));
            g.may_equal(d, &graph.symbols) && most <= allowed
        };
        if !rank || given.dtype != declared.dtype || !given.dims.iter().zip(&declared.dims).all(fits) {
            return None;
        }
        values.insert(input, *v);
    }
    for (v, data) in inner.values.iter() {
        if let Def::Const(c) = data.def {
            let c = *body.constants.get(&c)?;
            let ty = data.ty.clone();
            values.insert(v, graph.module_value(Def::Const(c), || ty));
        }
    }
    for &inner_node in &inner.body().nodes {
        let Node { op, args, outputs, .. } = &inner.nodes[inner_node];
        let mut args = args.clone();
        let mut known = true;
        for a in &mut args {
            a.map_values(|v| match values.get(&v) {
                Some(&new) => new,
                None => {
                    known = false;
                    v
                }
            });
        }
        if !known {
            return None;
        }
        let inferred = {
            let types = |v: ValueId| graph.ty(v);
            InferCtx { op: *op, args: &args, types: &types, symbols: &graph.symbols }.infer().ok()?
        };
        let types: Vec<Type> = inferred.into_iter().zip(outputs).map(|(t, &v)| merged(t, inner.ty(v))).collect();
        let new = graph.add_node(r, *op, args, types, Extra::None, call.path);
        for (&old, &new) in outputs.iter().zip(&graph.nodes[new].outputs) {
            values.insert(old, new);
        }
    }
    let mut results = Vec::with_capacity(call.outputs.len());
    for (&old, inner_output) in call.outputs.iter().zip(inner.outputs()) {
        let new = *values.get(inner_output)?;
        let made_here = matches!(graph.values[new].def, Def::Node(..)) && !inner.inputs.contains(inner_output);
        if !made_here || !graph.ty(new).may_equal(graph.ty(old), &graph.symbols) {
            return None;
        }
        results.push(new);
    }
    Some(results)
}
