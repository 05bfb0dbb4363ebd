//! From a payload to a graph of operators.

mod nodes;

use std::sync::Arc;

use pteron_ir::{Arg, ConstId, GraphBuilder, Module, Op, SymInt, TensorType, ValueId};
use pteron_tensor::{ByteSource, DType, RangeSource, SharedSource, SourceError};

use crate::error::XnnpackError;
use crate::payload::{ConstantBytes, Datatype, Node, Payload, Value, ValueIndex};

/// Name of the one graph of a lifted payload.
pub const METHOD: &str = "forward";

/// Bytes in memory: a blob or an entry of the named data.
#[derive(Debug)]
struct SharedBytes(Arc<[u8]>);

impl ByteSource for SharedBytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(out.len());
        let Some(from) = self.0.get(start..end) else {
            return Err(SourceError::OutOfRange {
                what: "XNNPACK constant".to_owned(),
                start: offset,
                end: end as u64,
                len: self.0.len() as u64,
            });
        };
        out.copy_from_slice(from);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

/// A payload as a module with the one graph [`METHOD`]: inputs and outputs in the order of the delegate call's arguments.
/// `blob` is what `payload` was parsed from, `named` finds named data by key. Constants are not copied.
///
/// The payload declares the largest sizes of inputs; a dimension of the graph's inputs that is not 1 may have any size from
/// 1 to the declared one. Values must be f32.
///
/// # Errors
/// [`XnnpackError::Unsupported`] for values of other types and kinds of nodes that have no operator, other variants if the
/// graph does not hold together: a value read before it is computed or written twice, or inputs that do not fit their node.
pub fn lift(
    payload: &Payload,
    blob: &Arc<[u8]>,
    named: &dyn Fn(&str) -> Option<Arc<[u8]>>,
) -> Result<Module, XnnpackError> {
    for v in &payload.values {
        check_type(v)?;
    }
    let mut module = Module::new("xnnpack");
    let mut constants: Vec<Option<ConstId>> = Vec::with_capacity(payload.values.len());
    for v in &payload.values {
        constants.push(match v.constant {
            None => None,
            Some(i) => {
                let source = constant(payload, v, i, blob, named)?;
                Some(module.add_constant(source.label(), Arc::clone(&source)))
            }
        });
    }
    let mut lifter = Lifter {
        payload,
        b: GraphBuilder::new(&mut module, METHOD),
        values: vec![None; payload.values.len()],
        constants,
    };
    for &i in &payload.inputs {
        let Some(v) = payload.values.get(i) else { continue };
        let dims = v.dims.iter().map(|&d| match i64::from(d) {
            1 => SymInt::Const(1),
            max => SymInt::Unknown { min: 1, max },
        });
        let input = lifter.b.input(&format!("value{}", v.id), TensorType::new(DType::F32, dims));
        lifter.set(i, input);
    }
    for (at, node) in payload.nodes.iter().enumerate() {
        lifter.node(at, node)?;
    }
    let mut outputs = Vec::with_capacity(payload.outputs.len());
    for &i in &payload.outputs {
        let id = payload.values.get(i).map_or(0, |v| v.id);
        match lifter.values.get(i).copied().flatten() {
            Some(v) => outputs.push(v),
            None => {
                return Err(XnnpackError::malformed(format!("value {id}"), "no node that computes it", "an output"));
            }
        }
    }
    lifter.b.finish(&outputs);
    Ok(module)
}

/// Quantized values are refused here: executing them needs their kernels.
fn check_type(v: &Value) -> Result<(), XnnpackError> {
    if v.datatype.is_quantized() || v.quant.is_some() {
        return Err(XnnpackError::unsupported(format!(
            "quantized XNNPACK payloads are not supported yet (value {} is {})",
            v.id, v.datatype
        )));
    }
    if v.datatype != Datatype::Fp32 {
        return Err(XnnpackError::unsupported(format!(
            "XNNPACK payloads with {} values are not supported yet (value {}): only fp32 is",
            v.datatype, v.id
        )));
    }
    Ok(())
}

fn constant(
    payload: &Payload,
    v: &Value,
    index: usize,
    blob: &Arc<[u8]>,
    named: &dyn Fn(&str) -> Option<Arc<[u8]>>,
) -> Result<SharedSource, XnnpackError> {
    let Some(c) = payload.constants.get(index) else {
        return Err(XnnpackError::malformed(format!("value {}", v.id), format!("constant {index}"), "a constant"));
    };
    let (bytes, offset, label) = match &c.bytes {
        ConstantBytes::Blob(range) => (Arc::clone(blob), range.start as u64, format!("value{}", v.id)),
        ConstantBytes::Named(key) => match named(key) {
            Some(bytes) => (bytes, 0, key.clone()),
            None => return Err(XnnpackError::MissingData { value: v.id, key: key.clone() }),
        },
    };
    let shape: Vec<usize> = v.dims.iter().map(|&d| d as usize).collect();
    let found = bytes.len();
    match RangeSource::new(&label, DType::F32, &shape, Arc::new(SharedBytes(bytes)), offset) {
        Ok(source) => Ok(Arc::new(source)),
        Err(_) => Err(XnnpackError::malformed(
            format!("value {}, constant `{label}`", v.id),
            format!("{found} bytes"),
            format!("room for f32 {shape:?} from byte {offset}"),
        )),
    }
}

struct Lifter<'p, 'm> {
    payload: &'p Payload,
    b: GraphBuilder<'m>,
    values: Vec<Option<ValueId>>,
    constants: Vec<Option<ConstId>>,
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
            let v = self.b.constant(c);
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
        self.set(i, v);
        Ok(())
    }
}
