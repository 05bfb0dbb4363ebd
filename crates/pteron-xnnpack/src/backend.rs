//! The backend that executes payloads.

use std::collections::BTreeMap;
use std::sync::Arc;

use pteron_exec::{Context, DelegateFactory, DelegateInstance, Fuel, NoHook, Session, SessionOptions, ValueRef};
use pteron_ir::{Delegate, Module};
use pteron_tensor::{Shape, SharedSource, View, ViewMut};
use smallvec::SmallVec;

use crate::lift::{METHOD, lift};
use crate::payload::Payload;
use crate::sizes::output_sizes;

/// Executes delegates with the id `XnnpackBackend` on Pteron's own kernels.
///
/// Each prepared payload has its own memory plan and runs on its caller's threads. Inputs may have any sizes up to the ones that the payload
/// declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XnnpackBackend {
    max_memory: u64,
}

impl XnnpackBackend {
    /// Working memory that a payload may ask for unless told otherwise, bytes.
    pub const DEFAULT_MAX_MEMORY: u64 = 4 << 30;

    /// The backend with the default limit.
    pub fn new() -> XnnpackBackend {
        XnnpackBackend { max_memory: XnnpackBackend::DEFAULT_MAX_MEMORY }
    }

    /// The same, with another limit on the working memory of one payload, in bytes.
    #[must_use]
    pub fn with_max_memory(self, max_memory: u64) -> XnnpackBackend {
        XnnpackBackend { max_memory }
    }
}

impl Default for XnnpackBackend {
    fn default() -> XnnpackBackend {
        XnnpackBackend::new()
    }
}

impl DelegateFactory for XnnpackBackend {
    fn backend(&self) -> &str {
        "XnnpackBackend"
    }

    fn prepare(
        &self,
        delegate: &Delegate,
        ctx: &Arc<Context>,
        max_memory: u64,
    ) -> Result<Box<dyn DelegateInstance>, String> {
        let payload = Payload::parse(&delegate.payload).map_err(|e| e.to_string())?;
        let named: BTreeMap<&str, &SharedSource> = delegate.named_data.iter().map(|(k, s)| (k.as_ref(), s)).collect();
        let named = |key: &str| named.get(key).map(|&s| Arc::clone(s));
        let module = Arc::new(lift(&payload, &delegate.payload, &named).map_err(|e| e.to_string())?);
        let options = SessionOptions {
            max_memory: self.max_memory.min(max_memory),
            ..SessionOptions::with_threads(ctx.pool().threads())
        };
        let session = Session::on_context(Arc::clone(&module), &options, Arc::clone(ctx)).map_err(|e| e.to_string())?;
        Ok(Box::new(Instance { module, session, last: None }))
    }
}

#[derive(Debug)]
struct Instance {
    module: Arc<Module>,
    session: Session,
    /// Sizes of the inputs of the last call, and of the outputs for them.
    last: Option<(Vec<Shape>, Vec<Shape>)>,
}

/// Sizes as XNNPACK has them: a scalar tensor is a vector of one element.
fn at_least_one_dimension(sizes: &[usize]) -> Shape {
    if sizes.is_empty() { SmallVec::from_elem(1, 1) } else { SmallVec::from_slice(sizes) }
}

impl Instance {
    fn sizes(&mut self, inputs: &[View<'_>]) -> Result<Vec<Shape>, String> {
        for (i, v) in inputs.iter().enumerate() {
            let expected = self.module.graph(METHOD).and_then(|g| g.ty(*g.inputs.get(i)?).as_tensor().map(|t| t.dtype));
            if let Some(expected) = expected
                && v.dtype() != expected
            {
                return Err(format!("input {i} is {}, expected {expected}", v.dtype()));
            }
            if !v.is_contiguous() {
                return Err(format!(
                    "input {i} has strides {:?} for sizes {:?}, expected row-major",
                    v.strides(),
                    v.sizes()
                ));
            }
        }
        let now: Vec<Shape> = inputs.iter().map(|v| at_least_one_dimension(v.sizes())).collect();
        if let Some((known, sizes)) = &self.last
            && *known == now
        {
            return Ok(sizes.clone());
        }
        let graph = self.module.graph(METHOD).ok_or("the payload has no graph")?;
        let sizes = output_sizes(graph, &now)?;
        self.last = Some((now, sizes.clone()));
        Ok(sizes)
    }
}

impl DelegateInstance for Instance {
    fn output_sizes(&mut self, inputs: &[View<'_>], declared: &[Shape]) -> Result<Vec<Shape>, String> {
        let sizes = self.sizes(inputs)?;
        if sizes.len() != declared.len() {
            return Err(format!("the payload has {} outputs, the program expects {}", sizes.len(), declared.len()));
        }
        let as_declared = |(s, d): (Shape, &Shape)| if d.is_empty() && s.as_slice() == [1] { d.clone() } else { s };
        Ok(sizes.into_iter().zip(declared).map(as_declared).collect())
    }

    fn memory(&self) -> u64 {
        self.session.memory().total()
    }

    fn execute(&mut self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], fuel: &mut Fuel) -> Result<(), String> {
        let sizes = self.sizes(inputs)?;
        if sizes.len() != outputs.len() {
            return Err(format!("the payload has {} outputs, {} given", sizes.len(), outputs.len()));
        }
        for (i, (s, o)) in sizes.iter().zip(outputs.iter()).enumerate() {
            if *s != at_least_one_dimension(o.sizes()) {
                return Err(format!("output {i} is {}{:?}, expected {s:?}", o.dtype(), o.sizes()));
            }
        }
        let mut given: SmallVec<[ValueRef<'_>; 4]> = SmallVec::new();
        for v in inputs {
            let v = if v.rank() == 0 {
                View::new(v.dtype(), &[1], &[1], v.bytes()).map_err(|e| e.to_string())?
            } else {
                *v
            };
            given.push(ValueRef::Tensor(v));
        }
        let results = self.session.run_fuelled(METHOD, &given, &mut NoHook, fuel).map_err(|e| e.to_string())?;
        for (i, out) in outputs.iter_mut().enumerate() {
            let result = results.tensor(i).ok_or_else(|| format!("output {i} is no tensor"))?;
            if result.dtype() != out.dtype() {
                return Err(format!("output {i} is {}, the payload computes {}", out.dtype(), result.dtype()));
            }
            if let (Some(from), Some(to)) = (result.as_slice::<f32>(), out.as_slice_mut::<f32>()) {
                to.copy_from_slice(from);
                continue;
            }
            for k in 0..result.numel() {
                let copied = result.scalar(k).and_then(|x| out.set_scalar(k, x));
                copied.ok_or_else(|| format!("output {i} cannot be written"))?;
            }
        }
        Ok(())
    }
}
