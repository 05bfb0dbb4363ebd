//! Reverse-mode differentiation: a graph that computes a number goes on to the gradients of that number.
//!
//! [`differentiate`] appends nodes to a graph: it walks the nodes from the last to the first, and each node whose result has a
//! gradient gives its arguments theirs by the rule beside its operator's declaration ([`crate::op::OpDef::gradient`]). Rules
//! append nodes of operators of the table, so the result is a graph like any other and runs on the same executor.
//!
//! Sizes must be constants. Gradients have the element type of what they are gradients of.
//!
//! *Recomputation.* Nodes can be put into segments ([`Segments`]). The walk enters a segment by computing it once more, and the
//! rules read these new values; of the first computation only what goes from segment to segment stays in memory. Where the
//! graph's memory is planned by the life of its values, that bounds it by one segment's activations.

pub(crate) mod elementwise;
pub(crate) mod index;
pub(crate) mod nn;
pub(crate) mod quant;
pub(crate) mod reduce;
pub(crate) mod shape;

use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use crate::arg::{Arg, IntArg};
use crate::builder::GraphBuilder;
use crate::entity::{NodeId, SideTable, ValueId};
use crate::graph::Node;
use crate::infer::InferError;
use crate::op::Op;
use crate::types::{TensorType, Type};

/// Gives a node's arguments their gradients: see [`Backward`].
pub type GradientFn = fn(&mut Backward<'_, '_>) -> GradientResult;

/// What a rule gives.
pub type GradientResult = Result<(), GradientError>;

/// Why a graph cannot be differentiated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GradientError {
    /// An operator on the way has no rule.
    #[error("`{op}` in `{path}` has no gradient rule; decompose it, or do not train what comes before it")]
    NoRule {
        /// Its edge name.
        op: &'static str,
        /// The module path of the node.
        path: String,
    },
    /// A rule does not take a node.
    #[error("the gradient of `{op}` in `{path}`: {reason}")]
    Unsupported {
        /// Its edge name.
        op: &'static str,
        /// The module path of the node.
        path: String,
        /// What was found, and what is expected.
        reason: String,
    },
    /// What is differentiated is no number.
    #[error("what is differentiated must be one float, found {0}")]
    NoNumber(String),
    /// A node that a rule appends does not fit its arguments.
    #[error(transparent)]
    Infer(#[from] InferError),
}

/// Which nodes are computed once more when gradients need their results.
pub trait Segments {
    /// The segment of a node of the graph, `None` for one whose results are kept. The nodes of a segment must stand together.
    fn of(&self, b: &GraphBuilder<'_>, node: NodeId) -> Option<u32>;
}

/// Keeps every result that a gradient needs.
#[derive(Clone, Copy, Debug)]
pub struct KeepAll;

impl Segments for KeepAll {
    fn of(&self, _: &GraphBuilder<'_>, _: NodeId) -> Option<u32> {
        None
    }
}

/// Makes segments of the nodes of each `<prefix>.<number>` of their module paths: `model.layers` has one a decoder layer.
/// Operators that keep count of what they see ([`Op::ObserveQparams`]) are in none.
#[derive(Clone, Copy, Debug)]
pub struct ByLayer<'a>(pub &'a str);

impl Segments for ByLayer<'_> {
    fn of(&self, b: &GraphBuilder<'_>, node: NodeId) -> Option<u32> {
        let g = b.graph();
        let node = &g.nodes[node];
        if node.op == Op::ObserveQparams {
            return None;
        }
        let rest = g.paths[node.path].strip_prefix(self.0)?.strip_prefix('.')?;
        rest.split('.').next()?.parse().ok()
    }
}

/// A node under differentiation, as its rule sees it: what it read and gave, the gradients of its results, and a way to append
/// nodes.
#[derive(Debug)]
pub struct Backward<'a, 'm> {
    b: &'a mut GraphBuilder<'m>,
    /// The node with the values that are at hand: computed once more, where the node is in a segment.
    node: Node,
    /// Whether each argument is differentiated.
    active: &'a SideTable<ValueId, bool>,
    /// The values that the node reads, as the gradients are booked for.
    original: Node,
    gradients: SmallVec<[Option<ValueId>; 1]>,
    given: Vec<(ValueId, ValueId)>,
}

impl Backward<'_, '_> {
    /// The gradient of the first result.
    ///
    /// # Errors
    /// If it has none: rules are called only if a result has one.
    pub fn gradient(&self) -> Result<ValueId, GradientError> {
        self.gradient_of(0).ok_or_else(|| self.error("the first result has no gradient"))
    }

    /// The gradient of result `i`, if it has one.
    pub fn gradient_of(&self, i: usize) -> Option<ValueId> {
        self.gradients.get(i).copied().flatten()
    }

    /// Result `i`.
    pub fn output(&self, i: usize) -> ValueId {
        self.node.outputs[i]
    }

    /// The node's arguments.
    pub fn args(&self) -> &[Arg] {
        &self.node.args
    }

    /// Argument `i`.
    pub fn arg(&self, i: usize) -> Arg {
        self.node.args.get(i).cloned().unwrap_or(Arg::None)
    }

    /// Argument `i`, a tensor.
    ///
    /// # Errors
    /// If it is none.
    pub fn tensor(&self, i: usize) -> Result<ValueId, GradientError> {
        match self.node.args.get(i) {
            Some(Arg::Value(v)) => Ok(*v),
            other => self.fail(format!("argument {i} is {}, expected a tensor", kind(other))),
        }
    }

    /// Argument `i`, a tensor or nothing.
    pub fn optional_tensor(&self, i: usize) -> Option<ValueId> {
        match self.node.args.get(i) {
            Some(Arg::Value(v)) => Some(*v),
            _ => None,
        }
    }

    /// Argument `i`, a known int.
    ///
    /// # Errors
    /// If it is none.
    pub fn int(&self, i: usize) -> Result<i64, GradientError> {
        match self.node.args.get(i) {
            Some(Arg::Int(n)) => Ok(*n),
            Some(Arg::Value(v)) => match self.b.ty(*v) {
                Type::Int(s) if s.as_const().is_some() => Ok(s.as_const().unwrap_or(0)),
                ty => self.fail(format!("argument {i} is {ty}, expected a known int")),
            },
            other => self.fail(format!("argument {i} is {}, expected a known int", kind(other))),
        }
    }

    /// Argument `i`, a known int or nothing.
    ///
    /// # Errors
    /// If it is neither.
    pub fn optional_int(&self, i: usize) -> Result<Option<i64>, GradientError> {
        match self.node.args.get(i) {
            None | Some(Arg::None) => Ok(None),
            _ => self.int(i).map(Some),
        }
    }

    /// Argument `i`, known ints; nothing is an empty list.
    ///
    /// # Errors
    /// If it is something else.
    pub fn ints(&self, i: usize) -> Result<Vec<i64>, GradientError> {
        match self.node.args.get(i) {
            None | Some(Arg::None) => Ok(Vec::new()),
            Some(Arg::Int(n)) => Ok(vec![*n]),
            Some(Arg::Ints(items)) => items
                .iter()
                .map(|a| match a {
                    IntArg::Const(n) => Ok(*n),
                    IntArg::Value(_) => self.fail(format!("argument {i} has an int that is not known")),
                })
                .collect(),
            other => self.fail(format!("argument {i} is {}, expected known ints", kind(other))),
        }
    }

    /// Argument `i`, a boolean; nothing is `false`.
    pub fn bool(&self, i: usize) -> bool {
        matches!(self.node.args.get(i), Some(Arg::Bool(true)))
    }

    /// Argument `i`, a number that is known.
    ///
    /// # Errors
    /// If it is none.
    pub fn number(&self, i: usize) -> Result<f64, GradientError> {
        match self.node.args.get(i) {
            Some(Arg::Float(f)) => Ok(*f),
            Some(Arg::Bool(b)) => Ok(f64::from(u8::from(*b))),
            _ => Ok(self.int(i)? as f64),
        }
    }

    /// The type of a tensor.
    pub fn ty(&self, v: ValueId) -> TensorType {
        self.b.tensor_ty(v)
    }

    /// The sizes of a tensor.
    ///
    /// # Errors
    /// If one is not constant.
    pub fn sizes(&self, v: ValueId) -> Result<Vec<i64>, GradientError> {
        let ty = self.ty(v);
        let fixed = || ty.dims.iter().map(crate::symint::SymInt::as_const).collect::<Option<Vec<i64>>>();
        fixed().ok_or_else(|| self.error(format!("a tensor is {ty}, expected constant sizes")))
    }

    /// A dimension counted from the front.
    ///
    /// # Errors
    /// If there is no such dimension.
    pub fn dim(&self, dim: i64, rank: usize) -> Result<usize, GradientError> {
        let n = i64::try_from(rank.max(1)).unwrap_or(i64::MAX);
        let d = if dim < 0 { dim + n } else { dim };
        let found = usize::try_from(d).ok().filter(|&d| d < rank.max(1));
        found.ok_or_else(|| self.error(format!("dimension {dim} of a tensor with {rank} dimensions")))
    }

    /// True if argument `i`, a tensor, is differentiated.
    pub fn needs(&self, i: usize) -> bool {
        matches!(self.original.args.get(i), Some(Arg::Value(v)) if self.active[*v])
    }

    /// True if item `item` of argument `i`, a list of tensors, is differentiated.
    pub fn needs_item(&self, i: usize, item: usize) -> bool {
        let v = match self.original.args.get(i) {
            Some(Arg::Values(items)) => items.get(item).copied().flatten(),
            _ => None,
        };
        v.is_some_and(|v| self.active[v])
    }

    /// Books `gradient` for argument `i`: summed over what was broadcast, and in the argument's element type.
    ///
    /// # Errors
    /// If the sizes do not fit.
    pub fn give(&mut self, i: usize, gradient: ValueId) -> GradientResult {
        if let Some(Arg::Value(v)) = self.original.args.get(i) {
            let v = *v;
            let gradient = self.summed_to(gradient, v)?;
            self.given.push((v, gradient));
        }
        Ok(())
    }

    /// Books `gradient` for item `item` of argument `i`, a list of tensors.
    pub fn give_item(&mut self, i: usize, item: usize, gradient: ValueId) {
        if let Some(Arg::Values(items)) = self.original.args.get(i)
            && let Some(Some(v)) = items.get(item)
        {
            self.given.push((*v, gradient));
        }
    }

    /// Appends a node and gives its first result.
    ///
    /// # Errors
    /// If the arguments do not fit the operator.
    pub fn call(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Result<ValueId, GradientError> {
        Ok(self.b.call(op, args)?)
    }

    /// Appends a node and gives all its results.
    ///
    /// # Errors
    /// If the arguments do not fit the operator.
    pub fn several(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Result<Vec<ValueId>, GradientError> {
        let n = self.b.node(op, args)?;
        Ok(self.b.graph().nodes[n].outputs.to_vec())
    }

    /// `a · b`.
    ///
    /// # Errors
    /// If they do not broadcast.
    pub fn mul(&mut self, a: ValueId, b: ValueId) -> Result<ValueId, GradientError> {
        self.call(Op::Mul, [a.into(), b.into()])
    }

    /// `a · number`.
    ///
    /// # Errors
    /// If `a` is no tensor.
    pub fn scaled(&mut self, a: ValueId, number: f64) -> Result<ValueId, GradientError> {
        if number == 1.0 { Ok(a) } else { self.call(Op::MulScalar, [a.into(), number.into()]) }
    }

    /// `x` with other sizes.
    ///
    /// # Errors
    /// If the number of elements differs.
    pub fn view(&mut self, x: ValueId, sizes: &[i64]) -> Result<ValueId, GradientError> {
        if self.sizes(x)? == sizes { Ok(x) } else { self.call(Op::ViewCopy, [x.into(), Arg::ints(sizes)]) }
    }

    /// Zeros of the type and sizes of `like`.
    ///
    /// # Errors
    /// If a size is not constant.
    pub fn zeros(&mut self, sizes: &[i64], like: ValueId) -> Result<ValueId, GradientError> {
        let dtype = self.ty(like).dtype;
        self.call(Op::Full, [Arg::ints(sizes), 0.0.into(), dtype.into()])
    }

    /// `x` summed over `dims`, which stay with size 1.
    ///
    /// # Errors
    /// If there is no such dimension.
    pub fn sum(&mut self, x: ValueId, dims: &[i64]) -> Result<ValueId, GradientError> {
        if dims.is_empty() { Ok(x) } else { self.call(Op::Sum, [x.into(), Arg::ints(dims), true.into()]) }
    }

    /// `gradient` as that of `like`: summed over the dimensions along which `like` was broadcast, in its element type.
    ///
    /// # Errors
    /// If the sizes do not fit.
    fn summed_to(&mut self, gradient: ValueId, like: ValueId) -> Result<ValueId, GradientError> {
        let (from, to) = (self.sizes(gradient)?, self.sizes(like)?);
        let lead = from.len().saturating_sub(to.len());
        let spread = |d: &usize| *d < lead || (to[*d - lead] == 1 && from[*d] != 1);
        let dims: Vec<i64> = (0..from.len()).filter(spread).map(|d| d as i64).collect();
        let summed = self.sum(gradient, &dims)?;
        let mut out = self.view(summed, &to)?;
        let dtype = self.ty(like).dtype;
        if self.ty(out).dtype != dtype {
            out = self.call(Op::ToCopy, [out.into(), dtype.into()])?;
        }
        Ok(out)
    }

    /// An error of this node.
    pub fn error(&self, reason: impl Into<String>) -> GradientError {
        let path = self.b.graph().paths[self.original.path].to_string();
        GradientError::Unsupported { op: self.original.op.name(), path, reason: reason.into() }
    }

    /// An error of this node, as a result.
    ///
    /// # Errors
    /// Always.
    pub fn fail<T>(&self, reason: impl Into<String>) -> Result<T, GradientError> {
        Err(self.error(reason))
    }
}

fn kind(arg: Option<&Arg>) -> &'static str {
    arg.map_or("missing", Arg::kind_name)
}

/// True for values that a gradient can have.
fn differentiable(ty: &Type) -> bool {
    ty.as_tensor().is_some_and(|t| t.dtype.is_float())
}

/// Appends to `b`'s graph what computes the gradients of `of`, a tensor of one float, by each of `with`, in their order. What
/// does not reach `of` has a gradient of zeros.
///
/// # Errors
/// [`GradientError`] if an operator between has no rule, or a size on the way is not constant.
pub fn differentiate(
    b: &mut GraphBuilder<'_>,
    of: ValueId,
    with: &[ValueId],
    segments: &dyn Segments,
) -> Result<Vec<ValueId>, GradientError> {
    let one =
        b.ty(of).as_tensor().is_some_and(|t| t.dtype.is_float() && t.dims.iter().all(|d| d.as_const() == Some(1)));
    if !one {
        return Err(GradientError::NoNumber(b.ty(of).to_string()));
    }
    let nodes = b.graph().body().nodes.clone();
    let active = reached(b, &nodes, with);
    let mut gradients: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    let ty = b.tensor_ty(of);
    let sizes: Vec<i64> = ty.dims.iter().filter_map(crate::symint::SymInt::as_const).collect();
    gradients.insert(of, b.call(Op::Full, [Arg::ints(&sizes), 1.0.into(), ty.dtype.into()])?);
    let placed: Vec<Option<u32>> = nodes.iter().map(|&n| segments.of(b, n)).collect();
    let mut again: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    let mut entered: Option<u32> = None;
    for (at, &n) in nodes.iter().enumerate().rev() {
        let original = b.graph().nodes[n].clone();
        let has = original.outputs.iter().any(|v| gradients.contains_key(v));
        if !has || !original.outputs.iter().any(|&v| active[v]) {
            continue;
        }
        let Some(rule) = original.op.def().gradient else {
            let path = b.graph().paths[original.path].to_string();
            return Err(GradientError::NoRule { op: original.op.name(), path });
        };
        if let Some(segment) = placed[at]
            && entered != placed[at]
        {
            let members = nodes.iter().zip(&placed).filter(|(_, p)| **p == Some(segment)).map(|(n, _)| *n);
            again = repeated(b, &members.collect::<Vec<_>>());
            entered = placed[at];
        }
        let now = |v: ValueId| if placed[at].is_some() { again.get(&v).copied().unwrap_or(v) } else { v };
        let mut node = original.clone();
        node.args.iter_mut().for_each(|a| a.map_values(now));
        node.outputs.iter_mut().for_each(|v| *v = now(*v));
        let of_results = original.outputs.iter().map(|v| gradients.get(v).copied()).collect();
        let mut backward = Backward { b, node, active: &active, original, gradients: of_results, given: Vec::new() };
        rule(&mut backward)?;
        for (v, g) in backward.given {
            if !active[v] {
                continue;
            }
            let sum = match gradients.get(&v) {
                Some(&before) => b.call(Op::Add, [before.into(), g.into()])?,
                None => g,
            };
            gradients.insert(v, sum);
        }
    }
    with.iter()
        .map(|v| match gradients.get(v) {
            Some(&g) => Ok(g),
            None => {
                let ty = b.tensor_ty(*v);
                let sizes: Option<Vec<i64>> = ty.dims.iter().map(crate::symint::SymInt::as_const).collect();
                let sizes = sizes.ok_or_else(|| GradientError::NoNumber(ty.to_string()))?;
                Ok(b.call(Op::Full, [Arg::ints(&sizes), 0.0.into(), ty.dtype.into()])?)
            }
        })
        .collect()
}

/// The values that depend on one of `with` through floats.
fn reached(b: &GraphBuilder<'_>, nodes: &[NodeId], with: &[ValueId]) -> SideTable<ValueId, bool> {
    let mut active = SideTable::new(false);
    with.iter().for_each(|&v| active[v] = true);
    for &n in nodes {
        if b.graph().reads(n).iter().any(|&v| active[v]) {
            for &v in &b.graph().nodes[n].outputs {
                active[v] = differentiable(b.ty(v));
            }
        }
    }
    active
}

/// Appends copies of `nodes`, and gives for each of their results the copy's.
fn repeated(b: &mut GraphBuilder<'_>, nodes: &[NodeId]) -> FxHashMap<ValueId, ValueId> {
    let mut now: FxHashMap<ValueId, ValueId> = FxHashMap::default();
    let body = b.graph().body_id();
    for &n in nodes {
        let mut node = b.graph().nodes[n].clone();
        node.args.iter_mut().for_each(|a| a.map_values(|v| now.get(&v).copied().unwrap_or(v)));
        let types: Vec<Type> = node.outputs.iter().map(|&v| b.ty(v).clone()).collect();
        let copy = b.graph_mut().add_node(body, node.op, node.args, types, node.extra, node.path);
        for (i, v) in node.outputs.iter().enumerate() {
            now.insert(*v, b.graph().nodes[copy].outputs[i]);
        }
    }
    now
}
