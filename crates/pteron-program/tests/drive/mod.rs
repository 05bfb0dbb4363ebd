//! Drives a program from bytes to two calls of each method under limits; the fuzz target uses this file as well.
#![allow(dead_code, reason = "each user takes a part")]

use std::sync::Arc;

use pteron_exec::{Delegates, Session, SessionOptions, Value, ValueRef};
use pteron_ir::{Graph, Type};
use pteron_program::{LiftOptions, lift};
use pteron_pte::ParsedHead;
use pteron_tensor::{ByteSource, DType, SourceError, Tensor};
use pteron_xnnpack::XnnpackBackend;

/// Working memory that a program may declare, bytes.
pub(crate) const MAX_MEMORY: u64 = 8 << 20;
/// Element operations of one call.
pub(crate) const FUEL: u64 = 2_000_000;
/// Bytes of the inputs of one call.
const MAX_INPUT: usize = 4 << 20;

#[derive(Debug)]
struct File(Vec<u8>);

impl ByteSource for File {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = from.saturating_add(out.len());
        let found = self.0.get(from..end).ok_or_else(|| SourceError::OutOfRange {
            what: "the file".to_owned(),
            start: offset,
            end: end as u64,
            len: self.0.len() as u64,
        })?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

/// Parses, lifts, verifies and plans a program, and calls each method twice, with zeros and then with other numbers.
/// `Ok` means that it was planned: an error of a call is a result like another.
pub(crate) fn program(bytes: &[u8]) -> Result<(), String> {
    let head = ParsedHead::parse(bytes, bytes.len() as u64).map_err(|e| e.to_string())?;
    let source = Arc::new(File(bytes.to_vec()));
    let lifted = lift(&head, source, &LiftOptions::default()).map_err(|e| e.to_string())?;
    let module = Arc::new(lifted.module);
    let mut options = SessionOptions::with_threads(1);
    options.max_memory = MAX_MEMORY;
    options.delegates = Delegates::none().with(XnnpackBackend::new());
    options.fuel = Some(FUEL);
    let mut session = Session::new(Arc::clone(&module), &options).map_err(|e| e.to_string())?;
    for graph in &module.graphs {
        for step in 0..2 {
            let Some(inputs) = inputs(graph, step) else { continue };
            let refs: Vec<ValueRef<'_>> = inputs.iter().map(Value::as_ref).collect();
            match session.run(&graph.name, &refs) {
                Ok(outputs) => (0..graph.outputs().len()).for_each(|i| drop(outputs.get(i).map(|v| v.to_value()))),
                Err(e) => assert!(!e.to_string().is_empty()),
            }
        }
    }
    Ok(())
}

/// Inputs that the method declares: of the smallest sizes at the first step, and at the second of larger ones.
fn inputs(graph: &Graph, step: i64) -> Option<Vec<Value>> {
    let mut room = MAX_INPUT;
    let mut out = Vec::new();
    for &v in &graph.inputs {
        out.push(match graph.ty(v) {
            Type::Tensor(t) => {
                let mut sizes = Vec::new();
                for d in &t.dims {
                    let (lo, hi) = d.range(&graph.symbols);
                    let size = if step == 0 { lo.max(1).min(hi) } else { hi.min(lo.max(3)) };
                    sizes.push(usize::try_from(size).ok()?);
                }
                let numel = sizes.iter().try_fold(1usize, |n, &d| n.checked_mul(d))?;
                room = room.checked_sub(t.dtype.bytes_for(numel)?)?;
                let mut tensor = Tensor::zeros(t.dtype, &sizes).ok()?;
                if step > 0 {
                    fill(&mut tensor, t.dtype);
                }
                Value::Tensor(tensor)
            }
            Type::Int(_) => Value::Int(step),
            Type::Float => Value::Float(0.5),
            Type::Bool => Value::Bool(step > 0),
        });
    }
    Some(out)
}

fn fill(t: &mut Tensor, dtype: DType) {
    let n = t.numel();
    let mut view = t.view_mut();
    for i in 0..n {
        let x = match dtype {
            DType::Bool => pteron_tensor::Scalar::Bool(i % 2 == 0),
            d if d.is_float() => pteron_tensor::Scalar::Float(i as f64 * 0.25 - 1.0),
            _ => pteron_tensor::Scalar::Int(1 + i as i64 % 5),
        };
        let _ = view.set_scalar(i, x);
    }
}
