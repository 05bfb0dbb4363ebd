//! Building graphs node by node, with types inferred on the way.

use pteron_tensor::DType;
use smallvec::SmallVec;

use crate::arg::Arg;
use crate::entity::{BufferId, ConstId, NodeId, PathId, RegionId, ValueId};
use crate::graph::{Def, Extra, Graph};
use crate::infer::{InferCtx, InferError};
use crate::module::Module;
use crate::op::Op;
use crate::symint::{SymInt, Symbols};
use crate::types::{TensorType, Type};

/// Appends nodes to a graph.
///
/// Every node made inside [`GraphBuilder::scope`] carries the scope's module path. Trailing arguments with a default may be
/// left out.
#[derive(Debug)]
pub struct GraphBuilder<'m> {
    module: &'m mut Module,
    graph: Graph,
    region: RegionId,
    path: PathId,
    scope: String,
}

impl<'m> GraphBuilder<'m> {
    /// A builder of a new graph, which joins the module at [`GraphBuilder::finish`].
    pub fn new(module: &'m mut Module, name: &str) -> GraphBuilder<'m> {
        GraphBuilder::resume(module, Graph::new(name))
    }

    /// A builder that goes on at the end of `graph`'s body.
    pub fn resume(module: &'m mut Module, graph: Graph) -> GraphBuilder<'m> {
        let region = graph.body_id();
        let mut b =
            GraphBuilder { module, graph, region, path: crate::entity::Id::from_index(0), scope: String::new() };
        b.path = b.graph.intern_path("");
        b
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The graph so far.
    pub fn graph_mut(&mut self) -> &mut Graph {
        &mut self.graph
    }

    /// The module.
    pub fn module_mut(&mut self) -> &mut Module {
        self.module
    }

    /// The graph's symbols.
    pub fn symbols(&self) -> &Symbols {
        &self.graph.symbols
    }

    /// A new symbol with inclusive bounds.
    pub fn symbol(&mut self, min: i64, max: i64) -> SymInt {
        self.graph.add_symbol(min, max).into()
    }

    /// A new input.
    pub fn input(&mut self, name: &str, ty: impl Into<Type>) -> ValueId {
        self.graph.add_input(name, ty.into())
    }

    /// The value of a constant.
    pub fn constant(&mut self, c: ConstId) -> ValueId {
        let ty = self.module.constants[c].ty.clone();
        self.graph.module_value(Def::Const(c), || ty.into())
    }

    /// The value of a buffer when the graph begins.
    pub fn buffer(&mut self, b: BufferId) -> ValueId {
        let ty = self.module.buffers[b].ty.clone();
        self.graph.module_value(Def::Buffer(b), || ty.into())
    }

    /// Runs `body` with `name` appended to the module path, dots between.
    pub fn scope<R>(&mut self, name: &str, body: impl FnOnce(&mut Self) -> R) -> R {
        let (outer_len, outer_path) = (self.scope.len(), self.path);
        if !self.scope.is_empty() {
            self.scope.push('.');
        }
        self.scope.push_str(name);
        self.path = self.graph.intern_path(&self.scope);
        let r = body(self);
        self.scope.truncate(outer_len);
        self.path = outer_path;
        r
    }

    /// The present module path with `name` appended: the checkpoint's name of a parameter.
    pub fn path_of(&self, name: &str) -> String {
        if self.scope.is_empty() { name.to_owned() } else { format!("{}.{name}", self.scope) }
    }

    /// Type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.graph.ty(v)
    }

    /// Type of a tensor value; a scalar f32 tensor type if it is no tensor, which inference then refuses.
    pub fn tensor_ty(&self, v: ValueId) -> TensorType {
        self.ty(v).as_tensor().cloned().unwrap_or_else(|| TensorType::new(DType::F32, []))
    }

    /// The types `op` gives for `args`.
    ///
    /// # Errors
    /// [`InferError`] if the arguments do not fit.
    pub fn infer(&self, op: Op, args: &[Arg]) -> Result<SmallVec<[Type; 2]>, InferError> {
        let graph = &self.graph;
        let types = |v: ValueId| graph.ty(v);
        InferCtx { op, args, types: &types, symbols: &graph.symbols }.infer()
    }

    /// Appends a node and gives it; trailing arguments that have a default may be missing.
    ///
    /// # Errors
    /// [`InferError`] if the arguments do not fit the operator.
    pub fn node(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Result<NodeId, InferError> {
        let mut args: SmallVec<[Arg; 4]> = args.into_iter().collect();
        for a in op.schema().inputs().skip(args.len()) {
            match &a.default {
                Some(d) => args.push(d.clone()),
                None if a.optional => args.push(Arg::None),
                None => {
                    return Err(InferError { op: op.name(), reason: format!("argument `{}` is missing", a.name) });
                }
            }
        }
        let types = self.infer(op, &args)?;
        Ok(self.graph.add_node(self.region, op, args, types, Extra::None, self.path))
    }

    /// Appends a node and gives its first output.
    ///
    /// # Errors
    /// [`InferError`] if the arguments do not fit the operator.
    pub fn call(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Result<ValueId, InferError> {
        let n = self.node(op, args)?;
        self.graph.nodes[n]
            .outputs
            .first()
            .copied()
            .ok_or_else(|| InferError { op: op.name(), reason: "has no output".into() })
    }

    /// Reads a one-element integer tensor as an int between `min` and `max`: a new symbol.
    ///
    /// # Errors
    /// [`InferError`] if `tensor` is no one-element integer tensor.
    pub fn local_int(&mut self, tensor: ValueId, min: i64, max: i64) -> Result<ValueId, InferError> {
        let v = self.call(Op::LocalScalarDense, [tensor.into()])?;
        let symbol = self.graph.add_symbol(min, max);
        self.graph.values[v].ty = Type::Int(symbol.into());
        Ok(v)
    }

    /// Says that `buffer` holds `value` when the graph ends.
    pub fn write_back(&mut self, buffer: BufferId, value: ValueId) {
        match self.graph.mutations.iter_mut().find(|m| m.0 == buffer) {
            Some(m) => m.1 = value,
            None => self.graph.mutations.push((buffer, value)),
        }
        self.graph.mutations.sort();
    }

    /// Ends the graph with these outputs and adds it to the module.
    pub fn finish(mut self, outputs: &[ValueId]) {
        self.graph.set_outputs(outputs.to_vec());
        self.module.graphs.push(self.graph);
    }
}

/// Arguments of mixed kinds: `args![x, 1, None, [2, 3]]` is spelled `args!(x, 1i64, Arg::None, Arg::ints(&[2, 3]))`.
#[macro_export]
macro_rules! args {
    ($($a:expr),* $(,)?) => { [$($crate::Arg::from($a)),*] };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_flow_and_paths_nest() {
        let mut m = Module::new("t");
        let cache = m.add_buffer("layers.0.k", TensorType::fixed(DType::F32, &[1, 32, 2, 16]));
        let mut b = GraphBuilder::new(&mut m, "forward");
        let s = b.symbol(1, 31);
        let k = b.input("k", TensorType::new(DType::F32, [1i64.into(), s, 2i64.into(), 16i64.into()]));
        let pos = b.input("pos", TensorType::fixed(DType::I64, &[1]));
        let out = b
            .scope("layers.0", |b| {
                let start = b.local_int(pos, 0, 31)?;
                let c = b.buffer(cache);
                let n = b.node(Op::UpdateCache, args![k, c, start])?;
                let next = b.graph().nodes[n].outputs[1];
                b.write_back(cache, next);
                b.call(Op::CustomSdpa, args![k, next, next, start, Arg::None, 0.0, true])
            })
            .unwrap();
        assert_eq!(b.ty(out).to_string(), "f32[1, s0, 2, 16]");
        assert!(b.call(Op::Add, args![k]).is_err());
        b.finish(&[out]);
        let g = &m.graphs[0];
        assert_eq!(g.paths[g.nodes.values().next().unwrap().path].as_ref(), "layers.0");
        assert_eq!(g.mutations.len(), 1);
    }
}
