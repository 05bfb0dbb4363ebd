//! Putting nodes in the place of a node.

use std::sync::Arc;

use pteron_tensor::{AlignedBytes, DType, MemorySource, Scalar, TensorSource as _, write_scalar};
use smallvec::SmallVec;

use crate::arg::{Arg, IntArg};
use crate::entity::{NodeId, PathId, RegionId, ValueId};
use crate::graph::{Def, Extra, Graph};
use crate::infer::{InferCtx, InferError};
use crate::module::{ConstData, Constant, Module};
use crate::op::Op;
use crate::print::{Float, default_of};
use crate::symint::SymInt;
use crate::types::{TensorType, Type};

/// Makes sizes available at run time: remembers the ints that can be read at the present place of a graph, and adds nodes
/// for those that cannot.
#[derive(Clone, Debug, Default)]
pub(super) struct Materializer {
    ints: Vec<(SymInt, ValueId)>,
}

impl Materializer {
    /// One that knows the inputs of `g`.
    pub(super) fn new(g: &Graph) -> Materializer {
        let mut m = Materializer::default();
        g.inputs.iter().for_each(|&v| m.note(g, v));
        m
    }

    /// Remembers `v`, if it is an int of a known expression, for what comes after it.
    pub(super) fn note(&mut self, g: &Graph, v: ValueId) {
        if let Type::Int(s @ SymInt::Linear(_)) = g.ty(v) {
            self.ints.push((s.clone(), v));
        }
    }

    /// How much is remembered: to be given back to [`Materializer::forget_to`] at the end of a region.
    pub(super) fn mark(&self) -> usize {
        self.ints.len()
    }

    /// Forgets what a region made that has ended.
    pub(super) fn forget_to(&mut self, mark: usize) {
        self.ints.truncate(mark);
    }

    fn known(&self, size: &SymInt) -> Option<ValueId> {
        self.ints.iter().find(|(s, _)| s == size).map(|&(_, v)| v)
    }
}

/// Appends nodes to a region in the place of a node that was taken out of it.
pub(super) struct Emitter<'a> {
    pub(super) module: &'a mut Module,
    pub(super) g: &'a mut Graph,
    pub(super) ints: &'a mut Materializer,
    pub(super) region: RegionId,
    pub(super) path: PathId,
    pub(super) made: Vec<NodeId>,
}

/// A size with a tensor's dimension that has it.
#[derive(Clone, Debug)]
pub(super) struct Size {
    pub(super) size: SymInt,
    pub(super) of: Option<(ValueId, usize)>,
}

impl From<i64> for Size {
    fn from(size: i64) -> Size {
        Size { size: size.into(), of: None }
    }
}

impl Emitter<'_> {
    pub(super) fn tensor_ty(&self, v: ValueId) -> TensorType {
        self.g.ty(v).as_tensor().cloned().unwrap_or_else(|| TensorType::new(DType::F32, []))
    }

    /// Dimension `d` of `v`.
    pub(super) fn size(&self, v: ValueId, d: usize) -> Size {
        let size = self.tensor_ty(v).dims.get(d).cloned().unwrap_or(SymInt::ANY);
        Size { size, of: Some((v, d)) }
    }

    /// The product of two sizes, which no single dimension has.
    pub(super) fn product(&self, a: &Size, b: &Size) -> Size {
        Size { size: a.size.mul(&b.size, &self.g.symbols), of: None }
    }

    /// Appends a node; trailing arguments may be left out where the schema allows it.
    pub(super) fn call(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> Result<ValueId, InferError> {
        let mut args: SmallVec<[Arg; 4]> = args.into_iter().collect();
        for a in op.schema().inputs().skip(args.len()) {
            let missing = || InferError { op: op.name(), reason: format!("argument `{}` is missing", a.name) };
            args.push(default_of(a).ok_or_else(missing)?);
        }
        let (g, region, path) = (&mut *self.g, self.region, self.path);
        let outputs = {
            let types = |v: ValueId| g.ty(v);
            InferCtx { op, args: &args, types: &types, symbols: &g.symbols }.infer()?
        };
        let n = g.add_node(region, op, args, outputs, Extra::None, path);
        self.made.push(n);
        let outputs = &self.g.nodes[n].outputs;
        outputs.first().copied().ok_or_else(|| InferError { op: op.name(), reason: "has no output".into() })
    }

    /// `x` as `dtype`.
    pub(super) fn cast(&mut self, x: ValueId, dtype: DType) -> Result<ValueId, InferError> {
        if self.tensor_ty(x).dtype == dtype { Ok(x) } else { self.call(Op::ToCopy, [x.into(), dtype.into()]) }
    }

    /// A constant tensor of no dimensions: one for each value and dtype in a module.
    pub(super) fn scalar(&mut self, dtype: DType, value: f64) -> Result<ValueId, InferError> {
        let name = format!("_scalar_{dtype}_{}", Float(value));
        let ty = TensorType::fixed(dtype, &[]);
        let mut bytes = AlignedBytes::zeroed(dtype.bytes_for(1).unwrap_or(0));
        write_scalar(dtype, &mut bytes, 0, Scalar::Float(value));
        let failed = |reason: String| InferError { op: "constant", reason };
        let source = MemorySource::new(&name, dtype, &[], bytes).map_err(|e| failed(e.to_string()))?;
        let same = |c: &Constant| match &c.data {
            ConstData::Source(s) => c.ty == ty && s.as_slice() == source.as_slice(),
            ConstData::External(_) | ConstData::Missing => false,
        };
        let known = self.module.constants.iter().find(|(_, c)| c.name.as_ref() == name && same(c)).map(|(id, _)| id);
        let c = known.unwrap_or_else(|| self.module.add_constant(&name, Arc::new(source)));
        Ok(self.g.module_value(Def::Const(c), || ty.into()))
    }

    /// A size as an argument: a number; an int that is there already; the size of the tensor it is named with; or the sum
    /// that its expression says, of ints and sizes of inputs.
    pub(super) fn int(&mut self, size: &Size) -> Result<IntArg, InferError> {
        if let Some(c) = size.size.as_const() {
            return Ok(IntArg::Const(c));
        }
        if let Some(v) = self.ints.known(&size.size) {
            return Ok(v.into());
        }
        let v = match (&size.of, &size.size) {
            (Some((tensor, d)), _) => self.sym_size(*tensor, *d)?,
            (None, SymInt::Linear(l)) => {
                let (terms, constant) = (l.terms().to_vec(), l.constant());
                let mut sum: Option<ValueId> = None;
                for (s, coefficient) in terms {
                    let mut term = self.symbol(s)?;
                    if coefficient != 1 {
                        term = self.call(Op::PrimMul, [term.into(), coefficient.into()])?;
                    }
                    sum = Some(match sum {
                        None => term,
                        Some(before) => self.call(Op::PrimAdd, [before.into(), term.into()])?,
                    });
                }
                let sum = sum.ok_or_else(|| unreadable(&size.size))?;
                if constant == 0 { sum } else { self.call(Op::PrimAdd, [sum.into(), constant.into()])? }
            }
            (None, other) => return Err(unreadable(other)),
        };
        self.ints.note(self.g, v);
        Ok(v.into())
    }

    fn sym_size(&mut self, tensor: ValueId, d: usize) -> Result<ValueId, InferError> {
        self.call(Op::SymSize, [tensor.into(), i64::try_from(d).unwrap_or(i64::MAX).into()])
    }

    fn symbol(&mut self, s: crate::entity::SymbolId) -> Result<ValueId, InferError> {
        let wanted = SymInt::from(s);
        if let Some(v) = self.ints.known(&wanted) {
            return Ok(v);
        }
        let of_input = self.g.inputs.iter().find_map(|&v| {
            let dims = &self.g.ty(v).as_tensor()?.dims;
            dims.iter().position(|d| *d == wanted).map(|d| (v, d))
        });
        let Some((input, d)) = of_input else { return Err(unreadable(&wanted)) };
        let v = self.sym_size(input, d)?;
        self.ints.note(self.g, v);
        Ok(v)
    }

    /// `x` viewed with other sizes. One size that is not known is left to the view; more are made available.
    pub(super) fn reshape(&mut self, x: ValueId, sizes: &[Size]) -> Result<ValueId, InferError> {
        let dynamic = |s: &Size| s.size.as_const().is_none();
        // The size that is hardest to read is the one to leave out: a product, an unknown.
        let left_out = (0..sizes.len()).filter(|&i| dynamic(&sizes[i])).max_by_key(|&i| {
            (sizes[i].of.is_none() && self.ints.known(&sizes[i].size).is_none(), std::cmp::Reverse(i))
        });
        let mut ints: SmallVec<[IntArg; 4]> = SmallVec::new();
        for (i, s) in sizes.iter().enumerate() {
            ints.push(if Some(i) == left_out { IntArg::Const(-1) } else { self.int(s)? });
        }
        let v = self.call(Op::ViewCopy, [x.into(), Arg::Ints(ints)])?;
        // What is known of the sizes is more than what can be computed back from the number of elements.
        let dtype = self.tensor_ty(x).dtype;
        self.g.values[v].ty = TensorType::new(dtype, sizes.iter().map(|s| s.size.clone())).into();
        Ok(v)
    }

    /// Makes `results` the values that `old` gave, each by a copy.
    pub(super) fn take_over_all(&mut self, old: NodeId, results: &[ValueId]) -> Result<(), InferError> {
        for (k, &result) in results.iter().enumerate() {
            let copy = self.call(Op::Clone, [result.into()])?;
            let Some(&value) = self.g.nodes[old].outputs.get(k) else { continue };
            let def = self.g.values[copy].def;
            self.g.values[value].def = def;
            if let Def::Node(n, _) = def {
                self.g.nodes[n].outputs[0] = value;
            }
        }
        Ok(())
    }

    /// Makes `result`, an output of the last node made, the value that `old` gave.
    pub(super) fn take_over(&mut self, old: NodeId, result: ValueId) -> Result<(), InferError> {
        let fresh = matches!(self.g.values[result].def, Def::Node(n, 0) if self.made.last() == Some(&n));
        if !fresh {
            let copy = self.call(Op::Clone, [result.into()])?;
            return self.take_over(old, copy);
        }
        let Some(&value) = self.g.nodes[old].outputs.first() else { return Ok(()) };
        let def = self.g.values[result].def;
        self.g.values[value].def = def;
        if let Def::Node(n, _) = def {
            self.g.nodes[n].outputs[0] = value;
        }
        Ok(())
    }
}

fn unreadable(size: &SymInt) -> InferError {
    InferError { op: "sym_size", reason: format!("no int at run time is known to be {size}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::{Id, SymbolId};
    use crate::print;

    fn lines(size: &SymInt, sources: &str) -> Result<(IntArg, Vec<String>), InferError> {
        let text = format!("module \"t\" {{ graph f({sources}) where s0 in 1..=9, s1 in 1..=9 {{ return }} }}");
        let mut module = crate::parse::module(&text).unwrap();
        let mut g = module.graphs.pop().unwrap();
        let mut ints = Materializer::new(&g);
        let (region, path) = (g.body_id(), g.intern_path(""));
        let mut e = Emitter { module: &mut module, g: &mut g, ints: &mut ints, region, path, made: Vec::new() };
        let size = Size { size: size.clone(), of: None };
        let first = e.int(&size)?;
        let count = e.made.len();
        // Asked a second time, it is there.
        assert_eq!(e.int(&size)?, first);
        assert_eq!(e.made.len(), count);
        let made = e.made;
        Ok((first, made.iter().map(|&n| print::node(&g, n)).collect()))
    }

    #[test]
    fn expressions_are_made_of_sizes_and_ints() {
        let (s0, s1) = (SymbolId::from_index(0), SymbolId::from_index(1));
        let sum = SymInt::linear([(s0, 2), (s1, 1)], 3);
        let (value, made) = lines(&sum, "%0: f32[4, s0], %1: int(s1)").unwrap();
        assert!(matches!(value, IntArg::Value(_)));
        assert_eq!(
            made,
            [
                "%2 = aten::sym_size.int(%0, 1) : int(s0) #0",
                "%3 = executorch_prim::mul.Scalar(%2, 2) : int(2*s0) #1",
                "%4 = executorch_prim::add.Scalar(%3, %1) : int(2*s0+s1) #2",
                "%5 = executorch_prim::add.Scalar(%4, 3) : int(2*s0+s1+3) #3",
            ]
        );
        assert_eq!(lines(&SymInt::Const(7), "%0: f32[s0, s1]").unwrap(), (IntArg::Const(7), Vec::new()));
        assert_eq!(lines(&s1.into(), "%0: f32[s0], %1: int(s1)").unwrap().1, [""; 0]);
    }

    #[test]
    fn what_no_input_has_is_an_error() {
        let missing = lines(&SymbolId::from_index(1).into(), "%0: f32[s0]").unwrap_err();
        assert_eq!(missing.to_string(), "sym_size: no int at run time is known to be s1");
        assert!(lines(&SymInt::ANY, "%0: f32[s0]").is_err());
    }
}
