//! From a payload to a graph of operators.

mod constants;
mod nodes;
mod quantized;

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_ir::{Arg, ConstId, GraphBuilder, Module, Op, SymInt, TensorType, ValueId};
use pteron_tensor::{DType, SharedBytes, SharedSource};

use crate::error::XnnpackError;
use crate::payload::{Node, Payload, ValueIndex};
use quantized::Kind;

/// Name of the one graph of a lifted payload.
pub const METHOD: &str = "forward";

/// A payload as a module with the one graph [`METHOD`]: inputs and outputs in the order of the delegate call's arguments.
/// `blob` is what `payload` was parsed from, `named` finds named data by key. Constants are not copied.
///
/// The payload declares the largest sizes of inputs; a dimension of the graph's inputs that is not 1 may have any size from
/// 1 to the declared one.
///
/// Values are f32. One that the payload declares quantized goes through its codes: `qdint8`, whose scales are chosen at run
/// time, by [`Op::ConvertQd8`], one with a scale and zero point of its own by `quantize_per_tensor`; constants are dequantized.
/// The kernels of XNNPACK add the products of codes as integers, which in exact arithmetic is the same number.
///
/// # Errors
/// [`XnnpackError::Unsupported`] for values of other types and kinds of nodes that have no operator, other variants if the
/// graph does not hold together: a value read before it is computed or written twice, or inputs that do not fit their node.
pub fn lift(
    payload: &Payload,
    blob: &SharedBytes,
    named: &dyn Fn(&str) -> Option<SharedSource>,
) -> Result<Module, XnnpackError> {
    let kinds = payload.values.iter().map(Kind::of).collect::<Result<Vec<_>, _>>()?;
    let mut module = Module::new("xnnpack");
    let mut constants: Vec<Option<Constant>> = Vec::with_capacity(payload.values.len());
    for (v, kind) in payload.values.iter().zip(&kinds) {
        constants.push(match v.constant {
            None => None,
            Some(i) => {
                let source = constants::elements(payload, v, i, blob, named)?;
                let codes = module.add_constant(source.label(), Arc::clone(&source));
                let scales = constants::scales(payload, v, kind.counts(), blob, named)?
                    .map(|s| module.add_constant(s.label(), Arc::clone(&s)));
                Some(Constant { elements: codes, scales })
            }
        });
    }
    let mut lifter = Lifter {
        payload,
        b: GraphBuilder::new(&mut module, METHOD),
        values: vec![None; payload.values.len()],
        codes: vec![None; payload.values.len()],
        constants,
        kinds,
        converted: BTreeMap::new(),
    };
    for &i in &payload.inputs {
        let Some(v) = payload.values.get(i) else { continue };
        let dims = v.dims.iter().map(|&d| match i64::from(d) {
            1 => SymInt::Const(1),
            max => SymInt::Unknown { min: 1, max },
        });
        let Some(dtype) = lifter.kinds.get(i).and_then(Kind::at_the_border) else {
            return Err(XnnpackError::unsupported(format!("XNNPACK inputs of type {} are not supported", v.datatype)));
        };
        let input = lifter.b.input(&format!("value{}", v.id), TensorType::new(dtype, dims));
        lifter.set_input(i, input)?;
    }
    for (at, node) in payload.nodes.iter().enumerate() {
        lifter.node(at, node)?;
    }
    let mut outputs = Vec::with_capacity(payload.outputs.len());
    for &i in &payload.outputs {
        let id = payload.values.get(i).map_or(0, |v| v.id);
        match lifter.codes.get(i).copied().flatten().or(lifter.values.get(i).copied().flatten()) {
            Some(v) => outputs.push(v),
            None => {
                return Err(XnnpackError::malformed(format!("value {id}"), "no node that computes it", "an output"));
            }
        }
    }
    lifter.b.finish(&outputs);
    Ok(module)
}

/// A constant of the payload.
#[derive(Clone, Copy)]
struct Constant {
    /// Its elements, or their codes.
    elements: ConstId,
    /// The scales of its channels or groups.
    scales: Option<ConstId>,
}

struct Lifter<'p, 'm> {
    payload: &'p Payload,
    b: GraphBuilder<'m>,
    /// What is computed, in f32.
    values: Vec<Option<ValueId>>,
    /// The codes of values that the caller gives or takes as codes.
    codes: Vec<Option<ValueId>>,
    constants: Vec<Option<Constant>>,
    kinds: Vec<Kind>,
    /// Values through codes chosen row by row, by the number of dimensions of a row.
    converted: BTreeMap<(ValueId, usize), ValueId>,
}

impl Lifter<'_, '_> {
    fn set(&mut self, i: ValueIndex, v: ValueId) {
        if let Some(slot) = self.values.get_mut(i) {
            *slot = Some(v);
        }
    }

    fn id(&self, i: ValueIndex) -> u32 {
        self.payload.values.get(i).map_or(u32::MAX, |v| v.id)
    }

    /// The value that a node reads.
    fn get(&mut self, at: usize, i: ValueIndex) -> Result<ValueId, XnnpackError> {
        if let Some(v) = self.values.get(i).copied().flatten() {
            return Ok(v);
        }
        if let Some(c) = self.constants.get(i).copied().flatten() {
            let v = self.constant(at, i, c)?;
            self.set(i, v);
            return Ok(v);
        }
        let found = format!("value {}, which no node before it computes", self.id(i));
        Err(XnnpackError::malformed(format!("node {at}"), found, "a value that is there"))
    }

    fn call<const N: usize>(
        &mut self,
        at: usize,
        node: &Node,
        op: Op,
        args: [Arg; N],
    ) -> Result<ValueId, XnnpackError> {
        let kind = node.kind.name();
        self.b.call(op, args).map_err(|source| XnnpackError::Infer { node: at, kind, source })
    }

    /// Gives value `i` of the payload what a node computed.
    fn put(&mut self, at: usize, node: &Node, i: ValueIndex, v: ValueId) -> Result<(), XnnpackError> {
        let place = || format!("node {at} {}", node.kind.name());
        let taken =
            self.values.get(i).copied().flatten().is_some() || self.constants.get(i).copied().flatten().is_some();
        if taken {
            let found = format!("output value {}, which has a value already", self.id(i));
            return Err(XnnpackError::malformed(place(), found, "a value that nothing else writes"));
        }
        let ty = self.b.tensor_ty(v);
        if let Some(declared) = self.payload.values.get(i) {
            let symbols = self.b.symbols();
            let fits = ty.dtype == DType::F32
                && ty.rank() == declared.dims.len()
                && ty.dims.iter().zip(&declared.dims).all(|(d, &max)| d.min(symbols) <= i64::from(max));
            if !fits {
                let expected = format!("f32{:?}, as value {} is declared", declared.dims, declared.id);
                return Err(XnnpackError::malformed(place(), ty, expected));
            }
        }
        self.set_computed(at, node, i, v)
    }
}
