//! Sizes of a lifted graph's values for inputs of given sizes.

use pteron_ir::{Graph, InferCtx, Type, ValueId};
use pteron_tensor::Shape;

/// The outputs' sizes for inputs of these sizes, or a sentence that says what does not fit. Every node is checked: a size
/// that the graph declares otherwise is refused here, before anything is computed.
pub(crate) fn output_sizes(graph: &Graph, inputs: &[Shape]) -> Result<Vec<Shape>, String> {
    let mut types: Vec<Type> = graph.values.values().map(|v| v.ty.clone()).collect();
    if inputs.len() != graph.inputs.len() {
        return Err(format!("{} inputs given, {} expected", inputs.len(), graph.inputs.len()));
    }
    for (position, (&v, sizes)) in graph.inputs.iter().zip(inputs).enumerate() {
        let Some(declared) = graph.ty(v).as_tensor() else { continue };
        let mut now = declared.clone();
        now.dims = sizes.iter().map(|&s| s.into()).collect();
        let now = Type::Tensor(now);
        if !fits(graph, &now, graph.ty(v)) {
            return Err(format!("input {position} is {now}, the payload declares {declared}"));
        }
        set(&mut types, v, now);
    }
    for n in graph.all_nodes() {
        let node = &graph.nodes[n];
        let inferred = {
            let of = |v: ValueId| -> &Type { types.get(pteron_ir::Id::index(v)).unwrap_or(graph.ty(v)) };
            let ctx = InferCtx { op: node.op, args: &node.args, types: &of, symbols: &graph.symbols };
            ctx.infer().map_err(|e| e.to_string())?
        };
        for (&v, ty) in node.outputs.iter().zip(inferred) {
            if !fits(graph, &ty, graph.ty(v)) {
                return Err(format!("{} gives {ty}, the payload declares {}", node.op, graph.ty(v)));
            }
            set(&mut types, v, ty);
        }
    }
    let sizes = |&v: &ValueId| {
        let ty = types.get(pteron_ir::Id::index(v)).and_then(Type::as_tensor);
        ty.and_then(pteron_ir::TensorType::fixed_sizes).ok_or_else(|| format!("the sizes of output {v} are not known"))
    };
    graph.outputs().iter().map(sizes).collect()
}

fn set(types: &mut [Type], v: ValueId, ty: Type) {
    if let Some(t) = types.get_mut(pteron_ir::Id::index(v)) {
        *t = ty;
    }
}

/// True if the sizes of `now` lie in the ranges that `declared` gives.
fn fits(graph: &Graph, now: &Type, declared: &Type) -> bool {
    let (Some(a), Some(b)) = (now.as_tensor(), declared.as_tensor()) else { return now == declared };
    a.dtype == b.dtype
        && a.rank() == b.rank()
        && a.dims.iter().zip(&b.dims).all(|(x, y)| {
            let (lo, hi) = y.range(&graph.symbols);
            x.as_const().is_some_and(|x| lo <= x && x <= hi)
        })
}
