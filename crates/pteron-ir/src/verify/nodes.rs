//! Arguments, types, regions, delegates, handles, mutations.

use std::collections::BTreeMap;

use pteron_tensor::DType;

use super::{Cx, Rule};
use crate::arg::{Arg, IntArg};
use crate::entity::{DebugHandle, NodeId, ValueId};
use crate::graph::{Extra, Node};
use crate::infer::InferCtx;
use crate::location::Location;
use crate::op::Op;
use crate::schema::{ArgKind, SchemaArg};
use crate::types::Type;

pub(super) fn check(cx: &mut Cx<'_>) {
    let mut handles: BTreeMap<DebugHandle, NodeId> = BTreeMap::new();
    for n in cx.g.all_nodes() {
        let (at, node) = (cx.node(n), &cx.g.nodes[n]);
        if handles.insert(node.handle, n).is_some() {
            cx.report(at, Rule::Handles, format!("another node has the debug handle {} as well", node.handle));
        } else if node.handle.0 >= cx.g.next_handle {
            let message = format!("debug handle {} is not below the next one, #{}", node.handle, cx.g.next_handle);
            cx.report(at, Rule::Handles, message);
        }
        match (node.op, &node.extra) {
            (Op::Delegate, Extra::Delegate(_)) | (Op::Custom, Extra::Custom(_)) => {}
            (Op::Delegate, _) => cx.report(at, Rule::Delegates, "no delegate is named"),
            (Op::Custom, _) => cx.report(at, Rule::Delegates, "no kernel key is given"),
            (_, Extra::None) => {}
            (op, _) => cx.report(at, Rule::Delegates, format!("{op} names a delegate or a kernel key")),
        }
        match node.op {
            Op::Cond => cond(cx, at, node),
            Op::Loop => looped(cx, at, node),
            Op::Delegate => {
                if let Some(a) = node.args.iter().find(|a| !matches!(a, Arg::Value(_))) {
                    cx.report(at, Rule::Arguments, format!("an argument is {}, expected a value", a.kind_name()));
                }
                no_regions(cx, at, node);
            }
            Op::Custom => no_regions(cx, at, node),
            _ => {
                no_regions(cx, at, node);
                if arguments(cx, at, node) {
                    types(cx, at, node);
                }
            }
        }
    }
    mutations(cx);
}

fn no_regions(cx: &mut Cx<'_>, at: Location, node: &Node) {
    if !node.regions.is_empty() {
        cx.report(at, Rule::Regions, format!("{} has {} regions, expected none", node.op, node.regions.len()));
    }
}

/// True if every argument is of its kind.
fn arguments(cx: &mut Cx<'_>, at: Location, node: &Node) -> bool {
    let before = cx.found.len();
    let inputs: Vec<&SchemaArg> = node.op.schema().inputs().collect();
    if inputs.len() != node.args.len() {
        let message = format!("{} arguments given, {} expected", node.args.len(), inputs.len());
        cx.report(at, Rule::Arguments, message);
        return false;
    }
    for (a, declared) in node.args.iter().zip(inputs) {
        if let Some(found) = mismatch(cx, a, declared) {
            let message = format!("argument `{}` is {found}, expected {}", declared.name, wanted(declared));
            cx.report(at, Rule::Arguments, message);
        }
    }
    cx.found.len() == before
}

fn wanted(a: &SchemaArg) -> String {
    let kind = match a.kind {
        ArgKind::Tensor => "a tensor",
        ArgKind::TensorList => "a list of tensors",
        ArgKind::OptionalTensorList => "a list of tensors or None",
        ArgKind::Scalar => "a scalar",
        ArgKind::Int => "an int",
        ArgKind::IntList => "an int list",
        ArgKind::Float => "a float",
        ArgKind::FloatList => "a float list",
        ArgKind::Bool => "a bool",
        ArgKind::BoolList => "a bool list",
        ArgKind::Str => "a string",
        ArgKind::DType => "a dtype",
        ArgKind::MemoryFormat => "a memory format (an int)",
    };
    if a.optional { format!("{kind} or None") } else { kind.to_owned() }
}

/// What the argument is, if it is not what the schema wants.
fn mismatch(cx: &Cx<'_>, a: &Arg, declared: &SchemaArg) -> Option<String> {
    let ty = |v: ValueId| cx.g.ty(v);
    let of_value = |v: ValueId, fits: bool| (!fits).then(|| format!("{} of type {}", cx.name(v), ty(v)));
    if *a == Arg::None && declared.optional {
        return None;
    }
    match (declared.kind, a) {
        (ArgKind::Tensor, Arg::Value(v)) => of_value(*v, ty(*v).as_tensor().is_some()),
        (ArgKind::Scalar, Arg::Value(v)) => of_value(*v, ty(*v).as_tensor().is_none()),
        (ArgKind::Int, Arg::Value(v)) => of_value(*v, matches!(ty(*v), Type::Int(_))),
        (ArgKind::Float, Arg::Value(v)) => of_value(*v, *ty(*v) == Type::Float),
        (ArgKind::Bool, Arg::Value(v)) => of_value(*v, *ty(*v) == Type::Bool),
        (ArgKind::Scalar, Arg::Int(_) | Arg::Float(_) | Arg::Bool(_))
        | (ArgKind::Int | ArgKind::MemoryFormat | ArgKind::IntList, Arg::Int(_))
        | (ArgKind::Float, Arg::Float(_))
        | (ArgKind::FloatList, Arg::Floats(_))
        | (ArgKind::Bool, Arg::Bool(_))
        | (ArgKind::BoolList, Arg::Bools(_))
        | (ArgKind::Str, Arg::Str(_))
        | (ArgKind::DType, Arg::DType(_)) => None,
        (ArgKind::IntList, Arg::Ints(items)) => items.iter().find_map(|i| match i {
            IntArg::Value(v) if !matches!(ty(*v), Type::Int(_)) => {
                Some(format!("a list with {} of type {}", cx.name(*v), ty(*v)))
            }
            IntArg::Const(_) | IntArg::Value(_) => None,
        }),
        (ArgKind::TensorList | ArgKind::OptionalTensorList, Arg::Values(items)) => items.iter().find_map(|i| match i {
            None if declared.kind == ArgKind::TensorList => Some("a list with None".to_owned()),
            Some(v) if ty(*v).as_tensor().is_none() => Some(format!("a list with {} of type {}", cx.name(*v), ty(*v))),
            None | Some(_) => None,
        }),
        (_, other) => Some(other.kind_name().to_owned()),
    }
}

fn types(cx: &mut Cx<'_>, at: Location, node: &Node) {
    let g = cx.g;
    let types = |v: ValueId| g.ty(v);
    let ctx = InferCtx { op: node.op, args: &node.args, types: &types, symbols: &g.symbols };
    let inferred = match ctx.infer() {
        Ok(t) => t,
        Err(e) => return cx.report(at, Rule::Types, e.reason),
    };
    if inferred.len() != node.outputs.len() {
        let message = format!("{} outputs are declared, {} inferred", node.outputs.len(), inferred.len());
        return cx.report(at, Rule::Types, message);
    }
    for (&v, ty) in node.outputs.iter().zip(&inferred) {
        if !g.ty(v).may_equal(ty, &g.symbols) {
            cx.report(at, Rule::Types, format!("{} is declared as {}, inferred is {ty}", cx.name(v), g.ty(v)));
        }
    }
}

fn is_boolean(ty: &Type) -> bool {
    match ty {
        Type::Bool => true,
        Type::Tensor(t) => t.dtype == DType::Bool,
        Type::Int(_) | Type::Float => false,
    }
}

/// `found` and `expected` must be as many, and each may equal its partner in type.
fn same_types(cx: &mut Cx<'_>, at: Location, what: &str, found: &[ValueId], than: &str, expected: &[ValueId]) {
    if found.len() != expected.len() {
        return cx.report(at, Rule::Regions, format!("{} {what}, but {} {than}", found.len(), expected.len()));
    }
    for (&a, &b) in found.iter().zip(expected) {
        if !cx.g.ty(a).may_equal(cx.g.ty(b), &cx.g.symbols) {
            let (x, y) = (cx.name(a), cx.name(b));
            let message = format!("{what} have {x} of type {}, {than} have {y} of type {}", cx.g.ty(a), cx.g.ty(b));
            cx.report(at, Rule::Regions, message);
        }
    }
}

fn cond(cx: &mut Cx<'_>, at: Location, node: &Node) {
    let g = cx.g;
    match node.args.as_slice() {
        [Arg::Value(v)] if is_boolean(g.ty(*v)) => {}
        [Arg::Value(v)] => cx.report(at, Rule::Regions, format!("the predicate is {}, expected bool", g.ty(*v))),
        args => cx.report(at, Rule::Regions, format!("{} arguments, expected one value: the predicate", args.len())),
    }
    if node.regions.len() != 2 {
        return cx.report(
            at,
            Rule::Regions,
            format!("cond has {} regions, expected then and else", node.regions.len()),
        );
    }
    for (&r, word) in node.regions.iter().zip(["then", "else"]) {
        let region = &g.regions[r];
        if !region.params.is_empty() {
            cx.report(at, Rule::Regions, format!("`{word}` has {} parameters, expected none", region.params.len()));
        }
        same_types(cx, at, &format!("results of `{word}`"), &region.results, "outputs of the node", &node.outputs);
    }
}

fn looped(cx: &mut Cx<'_>, at: Location, node: &Node) {
    let g = cx.g;
    let args: Vec<ValueId> =
        node.args.iter().filter_map(|a| if let Arg::Value(v) = a { Some(*v) } else { None }).collect();
    if args.len() != node.args.len() {
        return cx.report(at, Rule::Regions, "an argument of loop is not a value");
    }
    let [r] = node.regions.as_slice() else {
        return cx.report(at, Rule::Regions, format!("loop has {} regions, expected its body", node.regions.len()));
    };
    let body = &g.regions[*r];
    same_types(cx, at, "parameters of the body", &body.params, "arguments of the loop", &args);
    same_types(cx, at, "outputs of the loop", &node.outputs, "parameters of the body", &body.params);
    let Some((go_on, next)) = body.results.split_first() else {
        return cx.report(
            at,
            Rule::Regions,
            "the body gives nothing, expected whether to go on and the next parameters",
        );
    };
    if !is_boolean(g.ty(*go_on)) {
        let message = format!("the body's first result is {}, expected bool: whether to go on", g.ty(*go_on));
        cx.report(at, Rule::Regions, message);
    }
    same_types(cx, at, "next parameters that the body gives", next, "parameters of the body", &body.params);
}

fn mutations(cx: &mut Cx<'_>) {
    for (i, &(b, v)) in cx.g.mutations.iter().enumerate() {
        let at = Location::Mutation(cx.index, i);
        let Some(buffer) = cx.m.buffers.get(b) else { continue };
        let expected = Type::Tensor(buffer.ty.clone());
        if !cx.g.ty(v).may_equal(&expected, &cx.g.symbols) {
            cx.report(at, Rule::Mutations, format!("{b} is {expected}, the value it is to hold is {}", cx.g.ty(v)));
        }
        match i.checked_sub(1).map(|k| cx.g.mutations[k].0) {
            Some(before) if before == b => cx.report(at, Rule::Mutations, format!("{b} is named twice")),
            Some(before) if before > b => cx.report(at, Rule::Mutations, format!("{b} stands after {before}")),
            _ => {}
        }
    }
}
