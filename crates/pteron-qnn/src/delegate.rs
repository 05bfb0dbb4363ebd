//! The backend `QnnBackend`: payloads executed by Qualcomm's library.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use pteron_exec::{Context, DelegateEvent, DelegateFactory, DelegateInstance, Fuel};
use pteron_ir::Delegate;
use pteron_tensor::{Shape, View, ViewMut};

use crate::error::QnnError;
use crate::graph::Encoding;
use crate::host::{
    BinaryInfo, ContextId, GraphInfo, HostOptions, ProfileLevel, ProfileUnit, QnnLibrary, Sdk, TensorInfo,
};
use crate::names::{parse_input, parse_output};
use crate::payload::Payload;
use crate::spec::{BackendKind, COMPILE_SPEC, CompileSpec};

/// The backend's id in programs.
pub const BACKEND_ID: &str = "QnnBackend";

/// Executes delegates with the id `QnnBackend`. The library is opened when the first of them is prepared.
///
/// Delegates with one context binary share one context, as ExecuTorch's runtime has it for payloads of one signature: the
/// methods of a program whose weights are shared.
#[derive(Debug)]
pub struct QnnBackend {
    sdk: Option<PathBuf>,
    library: OnceLock<Result<Arc<dyn QnnLibrary>, QnnError>>,
    contexts: Mutex<BTreeMap<Key, Weak<Shared>>>,
}

/// A context binary by its bytes' digest and length, and the system that it is loaded for.
type Key = (i64, usize, Option<u32>);

impl QnnBackend {
    /// The backend with the library at `sdk`, or where [`Sdk::find`] finds it.
    pub fn new(sdk: Option<PathBuf>) -> QnnBackend {
        QnnBackend { sdk, library: OnceLock::new(), contexts: Mutex::default() }
    }

    /// The backend with a library that is open already.
    pub fn with_library(library: Arc<dyn QnnLibrary>) -> QnnBackend {
        QnnBackend { sdk: None, library: OnceLock::from(Ok(library)), contexts: Mutex::default() }
    }

    fn library(&self) -> Result<Arc<dyn QnnLibrary>, QnnError> {
        let open =
            || -> Result<Arc<dyn QnnLibrary>, QnnError> { HostOptions::new(Sdk::find(self.sdk.as_deref())?)?.open() };
        self.library.get_or_init(open).clone()
    }

    fn context(&self, bytes: &[u8], spec: &CompileSpec) -> Result<Arc<Shared>, QnnError> {
        let soc = spec.soc();
        let key = (crate::payload::signature(bytes), bytes.len(), soc.map(|s| s.model));
        let mut contexts = lock(&self.contexts);
        if let Some(shared) = contexts.get(&key).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let library = self.library()?;
        let (id, info) = library.load(bytes, soc)?;
        let shared = Arc::new(Shared { library, id, info, bytes: bytes.len() as u64, buffers: Mutex::default() });
        contexts.insert(key, Arc::downgrade(&shared));
        Ok(shared)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A context that one or more delegates use, with the mutable buffers that its graphs keep from call to call.
#[derive(Debug)]
struct Shared {
    library: Arc<dyn QnnLibrary>,
    id: ContextId,
    info: BinaryInfo,
    bytes: u64,
    buffers: Mutex<BTreeMap<u32, Vec<u8>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A context whose worker has ended is gone already.
        let _ = self.library.unload(self.id);
    }
}

impl DelegateFactory for QnnBackend {
    fn backend(&self) -> &str {
        BACKEND_ID
    }

    fn prepare(
        &self,
        delegate: &Delegate,
        _ctx: &Arc<Context>,
        max_memory: u64,
    ) -> Result<Box<dyn DelegateInstance>, String> {
        let payload = Payload::parse(&delegate.payload).map_err(|e| e.to_string())?;
        let spec = delegate.compile_specs.iter().find(|(key, _)| key.as_ref() == COMPILE_SPEC);
        let (_, spec) = spec.ok_or_else(|| format!("found no compile spec `{COMPILE_SPEC}`, expected one"))?;
        let spec = CompileSpec::parse(spec).map_err(|e| e.to_string())?;
        if spec.backend != BackendKind::Htp {
            return Err(format!("it is compiled for the backend `{}`, expected `htp`", spec.backend.name()));
        }
        if spec.op_packages > 0 {
            return Err("it needs operator packages of its own, which are not opened here".to_owned());
        }
        let context = payload.context(&delegate.payload);
        if context.len() as u64 > max_memory {
            return Err(format!("its context has {} bytes, {max_memory} are allowed", context.len()));
        }
        let shared = self.context(context, &spec).map_err(|e| e.to_string())?;
        let graphs = shared.info.graphs.iter().map(|g| Ok((g.name.clone(), Binding::of(g)?)));
        let graphs = graphs.collect::<Result<_, String>>()?;
        let mut instance = Instance { shared, graphs, method: String::new(), profiled: false, events: Vec::new() };
        instance.reset();
        Ok(Box::new(instance))
    }
}

/// Where a tensor of a graph is taken from, or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Port {
    /// An argument by its position among the inputs, or among the outputs.
    Argument(usize),
    /// A mutable buffer.
    Buffer(u32),
    /// Nowhere: an output that is there to be looked at.
    Dropped,
}

/// How a graph's tensors stand to the arguments of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Binding {
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    input_arguments: usize,
    output_arguments: usize,
}

impl Binding {
    fn of(graph: &GraphInfo) -> Result<Binding, String> {
        let wrong = |t: &TensorInfo, expected: &str| {
            format!("graph `{}`: found a tensor `{}`, expected {expected}", graph.name, t.name)
        };
        let mut named = Vec::new();
        for (position, t) in graph.inputs.iter().enumerate() {
            let name = parse_input(&t.name).ok_or_else(|| wrong(t, "the name of an input, input_N_…"))?;
            named.push((name.input, position, name.mutable_buffer));
        }
        named.sort_by_key(|(id, position, _)| (*id, *position));
        let mut inputs = vec![Port::Dropped; named.len()];
        let mut input_arguments = 0;
        for (_, position, buffer) in named {
            inputs[position] = match buffer {
                Some(buffer) => Port::Buffer(buffer),
                None => {
                    input_arguments += 1;
                    Port::Argument(input_arguments - 1)
                }
            };
        }
        let mut output_arguments = 0;
        let outputs = graph.outputs.iter().map(|t| match parse_output(&t.name) {
            None => Port::Dropped,
            Some(name) => match name.mutable_buffer {
                Some(buffer) => Port::Buffer(buffer),
                None => {
                    output_arguments += 1;
                    Port::Argument(output_arguments - 1)
                }
            },
        });
        let outputs = outputs.collect();
        Ok(Binding { inputs, outputs, input_arguments, output_arguments })
    }
}

/// Bytes of a tensor whose every element stands for 0.
fn zeros(t: &TensorInfo) -> Vec<u8> {
    let len = usize::try_from(t.bytes().unwrap_or(0)).unwrap_or(0);
    let Encoding::ScaleOffset(s) = &t.encoding else { return vec![0; len] };
    let code = s.offset.wrapping_neg().to_le_bytes();
    let width = (t.dtype.bits() as usize / 8).clamp(1, code.len());
    code[..width].iter().copied().cycle().take(len).collect()
}

/// A payload that is ready.
#[derive(Debug)]
struct Instance {
    shared: Arc<Shared>,
    graphs: BTreeMap<String, Binding>,
    method: String,
    profiled: bool,
    events: Vec<DelegateEvent>,
}

impl Instance {
    /// The graph of the method that calls: that of its name, or the only one.
    fn graph(&self) -> Result<(&GraphInfo, &Binding), String> {
        let info = &self.shared.info;
        let named = info.graph(&self.method);
        let graph = match (named, info.graphs.as_slice()) {
            (Some(graph), _) => graph,
            (None, [only]) => only,
            (None, all) => {
                let known: Vec<String> = all.iter().map(|g| format!("`{}`", g.name)).collect();
                return Err(format!("found no graph for the method `{}`; there are {}", self.method, known.join(", ")));
            }
        };
        let binding = self.graphs.get(&graph.name).ok_or_else(|| format!("graph `{}` is not bound", graph.name))?;
        Ok((graph, binding))
    }
}

/// Checks an argument against the tensor that it is bound to.
fn check(what: &str, t: &TensorInfo, view: &View<'_>) -> Result<(), String> {
    let expected = t.dtype.dtype();
    if expected.is_some_and(|d| d != view.dtype()) {
        return Err(format!("the {what} `{}` is {}, expected {}", t.name, view.dtype(), t.dtype));
    }
    let found = view.dtype().bytes_for(view.numel()).map(|n| n as u64);
    if found != t.bytes() || !view.is_contiguous() {
        return Err(format!(
            "the {what} `{}` is {} {:?}, expected {} {:?} in row-major order",
            t.name,
            view.dtype(),
            view.sizes(),
            t.dtype,
            t.dims
        ));
    }
    Ok(())
}

impl DelegateInstance for Instance {
    fn method(&mut self, name: &str) {
        if self.method != name {
            name.clone_into(&mut self.method);
        }
    }

    fn reset(&mut self) {
        let mut buffers = lock(&self.shared.buffers);
        buffers.clear();
        for graph in &self.shared.info.graphs {
            for t in &graph.inputs {
                if let Some(buffer) = parse_input(&t.name).and_then(|n| n.mutable_buffer) {
                    buffers.entry(buffer).or_insert_with(|| zeros(t));
                }
            }
        }
    }

    fn output_sizes(&mut self, inputs: &[View<'_>], declared: &[Shape]) -> Result<Vec<Shape>, String> {
        let (graph, binding) = self.graph()?;
        let counts =
            [("inputs", inputs.len(), binding.input_arguments), ("outputs", declared.len(), binding.output_arguments)];
        for (what, found, expected) in counts {
            if found != expected {
                return Err(format!("graph `{}` is called with {found} {what}, expected {expected}", graph.name));
            }
        }
        // Sizes are fixed when a context is compiled.
        Ok(declared.to_vec())
    }

    fn execute(&mut self, inputs: &[View<'_>], outputs: &mut [ViewMut<'_>], _fuel: &mut Fuel) -> Result<(), String> {
        let (graph, binding) = self.graph()?;
        let mut buffers = lock(&self.shared.buffers);
        let lost = |t: &TensorInfo| format!("`{}` of graph `{}` has no place", t.name, graph.name);
        let mut given: Vec<&[u8]> = Vec::with_capacity(graph.inputs.len());
        for (t, port) in graph.inputs.iter().zip(&binding.inputs) {
            given.push(match port {
                Port::Argument(i) => {
                    let view = inputs.get(*i).ok_or_else(|| lost(t))?;
                    check("input", t, view)?;
                    let len = usize::try_from(t.bytes().unwrap_or(0)).unwrap_or(0);
                    view.bytes().get(..len).ok_or_else(|| lost(t))?
                }
                Port::Buffer(b) => buffers.get(b).ok_or_else(|| lost(t))?,
                Port::Dropped => return Err(lost(t)),
            });
        }
        // What does not go into an argument's memory goes into memory of its own first: buffers are inputs of this call too.
        let mut own: Vec<Vec<u8>> = Vec::new();
        let mut slots: Vec<Option<&mut ViewMut<'_>>> = outputs.iter_mut().map(Some).collect();
        for (t, port) in graph.outputs.iter().zip(&binding.outputs) {
            let is_own = !matches!(port, Port::Argument(_));
            own.push(if is_own { vec![0; usize::try_from(t.bytes().unwrap_or(0)).unwrap_or(0)] } else { Vec::new() });
        }
        let mut wanted: Vec<&mut [u8]> = Vec::with_capacity(graph.outputs.len());
        for ((t, port), own) in graph.outputs.iter().zip(&binding.outputs).zip(&mut own) {
            wanted.push(match port {
                Port::Argument(i) => {
                    let view = slots.get_mut(*i).and_then(Option::take).ok_or_else(|| lost(t))?;
                    check("output", t, &view.as_view())?;
                    let len = usize::try_from(t.bytes().unwrap_or(0)).unwrap_or(0);
                    view.bytes_mut().get_mut(..len).ok_or_else(|| lost(t))?
                }
                Port::Buffer(_) | Port::Dropped => own,
            });
        }
        let level = if self.profiled { ProfileLevel::Detailed } else { ProfileLevel::Off };
        let done = self.shared.library.execute(self.shared.id, &graph.name, &given, &mut wanted, level);
        let events = done.map_err(|e| e.to_string())?;
        for (port, own) in binding.outputs.iter().zip(own) {
            if let Port::Buffer(b) = port {
                buffers.insert(*b, own);
            }
        }
        drop(buffers);
        self.events.extend(events.into_iter().map(|e| DelegateEvent {
            name: e.name,
            depth: e.depth,
            value: e.value,
            unit: match e.unit {
                ProfileUnit::Micros => "us",
                ProfileUnit::Bytes => "bytes",
                ProfileUnit::Cycles => "cycles",
                ProfileUnit::Count | ProfileUnit::Other(_) => "",
            },
        }));
        Ok(())
    }

    fn memory(&self) -> u64 {
        let buffers: u64 = lock(&self.shared.buffers).values().map(|b| b.len() as u64).sum();
        self.shared.bytes.saturating_add(buffers)
    }

    fn profile(&mut self, on: bool) {
        self.profiled = on;
    }

    fn take_events(&mut self) -> Vec<DelegateEvent> {
        std::mem::take(&mut self.events)
    }
}
