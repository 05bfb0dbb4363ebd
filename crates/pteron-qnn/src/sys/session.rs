//! One library with one device, and what is done with them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::ptr;

use pteron_tensor::AlignedBytes;

use super::compose::ReceivedGraph;
use super::describe;
use super::keep::{Described, Keep};
use super::library::{Backend, System};
use super::types::{Handle, RawBuffer, RawConfig, RawHtpDevice, RawOp, RawTensor};
use crate::graph::{Encoding, ParamValue, QnnNode, QnnTensor, TensorKind};
use crate::host::{BinaryInfo, GraphInfo, LibraryInfo, ProfileEvent, ProfileLevel, ProfileUnit, TensorInfo, Verdict};
use crate::soc::Soc;

/// What the library refused, or why it could not be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it was asked to do.
    pub(crate) doing: String,
    /// What was wrong.
    pub(crate) what: String,
    /// QNN's number of the error; 0 where it is not the library's.
    pub(crate) code: u32,
}

impl Failure {
    pub(super) fn own(doing: impl Into<String>, what: impl Into<String>) -> Failure {
        Failure { doing: doing.into(), what: what.into(), code: 0 }
    }
}

pub(super) fn described(t: &QnnTensor) -> Described<'_> {
    Described { id: 0, name: &t.name, kind: t.kind.code(), dtype: t.dtype, dims: &t.dims, encoding: &t.encoding }
}

struct LoadedGraph {
    info: GraphInfo,
    handle: Handle,
    inputs: Vec<(RawTensor, AlignedBytes)>,
    outputs: Vec<(RawTensor, AlignedBytes)>,
}

struct Loaded {
    handle: Handle,
    graphs: Vec<LoadedGraph>,
    /// What the raw tensors point to.
    _keep: Keep,
}

/// The library, a device, and contexts.
pub(crate) struct Session {
    pub(super) library: Backend,
    system: Result<System, String>,
    log: Handle,
    pub(super) backend: Handle,
    pub(super) device: Handle,
    contexts: BTreeMap<u32, Loaded>,
    next: u32,
}

/// Only errors are printed.
const LOG_ERROR: u32 = 1;

/// A list of configurations as the library takes it: addresses with a null at the end.
pub(super) struct Configs<T> {
    // Neither list grows once the addresses of its items are taken.
    _custom: Vec<T>,
    _entries: Vec<RawConfig>,
    list: Vec<*const RawConfig>,
}

impl<T> Configs<T> {
    pub(super) fn new(items: impl IntoIterator<Item = T>) -> Configs<T> {
        let custom: Vec<T> = items.into_iter().collect();
        let entries: Vec<RawConfig> =
            custom.iter().map(|c| RawConfig { option: 0, custom: ptr::from_ref(c).cast() }).collect();
        let mut list: Vec<*const RawConfig> = entries.iter().map(ptr::from_ref).collect();
        list.push(ptr::null());
        Configs { _custom: custom, _entries: entries, list }
    }

    /// Null for an empty list.
    pub(super) fn as_ptr(&self) -> *const *const RawConfig {
        if self.list.len() == 1 { ptr::null() } else { self.list.as_ptr() }
    }
}

impl Session {
    /// Opens the backend library at `backend` and, if it is there, the system library, and makes a device of `soc`.
    pub(crate) fn open(backend: &Path, system: &Path, soc: Option<u32>) -> Result<Session, Failure> {
        let doing = "be opened";
        let library = Backend::open(backend).map_err(|what| Failure::own(doing, what))?;
        let none = ptr::null_mut();
        let mut session = Session {
            library,
            system: System::open(system),
            log: none,
            backend: none,
            device: none,
            contexts: BTreeMap::new(),
            next: 0,
        };
        let mut handle = ptr::null_mut();
        let code = session.library.log_create(LOG_ERROR, &mut handle);
        session.check(code, "make a log")?;
        session.log = handle;
        let mut handle = ptr::null_mut();
        let code = session.library.backend_create(session.log, &mut handle);
        session.check(code, "make a backend")?;
        session.backend = handle;
        let device = |model| RawHtpDevice { model_at_4: model, model_at_8: model, ..RawHtpDevice::default() };
        let configs = Configs::new(soc.map(device));
        let mut handle = ptr::null_mut();
        let code = session.library.device_create(session.log, configs.as_ptr(), &mut handle);
        let doing =
            soc.map_or_else(|| "make a device".to_owned(), |m| format!("make a device of {}", Soc::describe(m)));
        session.check(code, doing)?;
        session.device = handle;
        Ok(session)
    }

    /// An error for a code that says one; `doing` is what the library was asked to do.
    pub(super) fn check(&self, code: u64, doing: impl fmt::Display) -> Result<(), Failure> {
        let number = (code & 0xffff) as u32;
        if number == 0 {
            return Ok(());
        }
        let message = self.library.message(code);
        let what = if message.is_empty() { format!("error {number}") } else { format!("error {number}, {message}") };
        Err(Failure { doing: doing.to_string(), what, code: number })
    }

    /// What the library says of itself.
    pub(crate) fn info(&self) -> LibraryInfo {
        LibraryInfo {
            provider: self.library.provider.clone(),
            backend_id: self.library.backend_id,
            build: self.library.build(),
            core: self.library.core,
            backend: self.library.backend_version(),
            system: self.system.as_ref().ok().map(|s| s.version),
        }
    }

    /// Names of the operators.
    pub(crate) fn operations(&self) -> Result<Vec<String>, Failure> {
        let mut names = match self.library.operations(self.backend) {
            Ok(names) => names,
            Err(code) => {
                self.check(code, "list its operators")?;
                Vec::new()
            }
        };
        names.sort();
        names.dedup();
        Ok(names)
    }

    /// Makes the raw form of a node. With `graph`, the static tensors of its parameters are created in it.
    pub(super) fn raw_node(
        &self,
        keep: &mut Keep,
        node: &QnnNode,
        tensors: &[RawTensor],
        graph: Option<Handle>,
    ) -> Result<RawOp, Failure> {
        let mut params = Vec::new();
        for p in &node.params {
            params.push(match &p.value {
                ParamValue::Scalar(s) => keep.scalar_param(&p.name, *s),
                ParamValue::Tensor { dtype, dims, data } => {
                    let name = format!("{}_{}", node.name, p.name);
                    let kind = TensorKind::Static.code();
                    let described =
                        Described { id: 0, name: &name, kind, dtype: *dtype, dims, encoding: &Encoding::None };
                    let mut raw = keep.tensor(&described, Some(AlignedBytes::copied(data)));
                    if let Some(graph) = graph {
                        let code = self.library.tensor_create(graph, &mut raw);
                        self.check(code, format_args!("make the tensor `{name}`"))?;
                    }
                    keep.tensor_param(&p.name, raw)
                }
            });
        }
        let pick = |list: &[usize]| -> Result<Vec<RawTensor>, Failure> {
            let find = |i: &usize| tensors.get(*i).copied();
            list.iter().map(find).collect::<Option<_>>().ok_or_else(|| {
                Failure::own(format!("add the node `{}`", node.name), "it names a tensor that is not there")
            })
        };
        let (inputs, outputs) = (pick(&node.inputs)?, pick(&node.outputs)?);
        Ok(keep.node(&node.name, &node.op, params, inputs, outputs))
    }

    /// A verdict for each of `nodes`; `said` gives what the library printed since it was asked last. Constants without bytes in
    /// `data` are zeros: the library looks at their types and encodings.
    pub(crate) fn validate(
        &self,
        received: ReceivedGraph,
        data: &[u8],
        nodes: &[usize],
        said: &mut dyn FnMut() -> String,
    ) -> Result<Vec<Verdict>, Failure> {
        let ReceivedGraph { graph, places } = received;
        let mut keep = Keep::default();
        let mut tensors = Vec::new();
        for (t, place) in graph.tensors.iter().zip(&places) {
            let bytes = match place {
                Some(place) => Some(AlignedBytes::copied(data.get(place.clone()).unwrap_or_default())),
                // Pages of a constant that was not sent are never touched, so they take no memory.
                None if t.kind == TensorKind::Static => {
                    let len = t.bytes().and_then(|b| usize::try_from(b).ok());
                    let len = len.filter(|b| u32::try_from(*b).is_ok());
                    let no_size = || Failure::own("validate nodes", format!("the tensor `{}` has no size", t.name));
                    Some(AlignedBytes::zeroed(len.ok_or_else(no_size)?))
                }
                None => None,
            };
            tensors.push(keep.tensor(&described(t), bytes));
        }
        let mut verdicts = Vec::new();
        for &index in nodes {
            let Some(node) = graph.nodes.get(index) else {
                return Err(Failure::own("validate a node", "there is no such node"));
            };
            said();
            let op = self.raw_node(&mut keep, node, &tensors, None)?;
            let code = self.library.validate(self.backend, op);
            verdicts.push(match self.check(code, "take it") {
                Ok(()) => Verdict::Supported,
                Err(failure) => {
                    let said = said();
                    let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
                    let words = if lines.is_empty() { String::new() } else { format!(": {}", lines.join("; ")) };
                    Verdict::Refused(format!("{}{words}", failure.what))
                }
            });
        }
        Ok(verdicts)
    }

    /// What a context binary says of itself.
    pub(crate) fn inspect(&self, bytes: &[u8]) -> Result<BinaryInfo, Failure> {
        let doing = "read the context binary";
        let system = self.system.as_ref().map_err(|e| Failure::own(doing, format!("libQnnSystem.so: {e}")))?;
        match system.with_binary(bytes, describe::binary) {
            Ok(described) => described.map_err(|what| Failure::own(doing, what)),
            Err(code) => {
                let number = (code & 0xffff) as u32;
                let what = format!("error {number}: the bytes are not a context binary, or not a whole one");
                Err(Failure { doing: doing.to_owned(), what, code: number })
            }
        }
    }

    /// Loads a context binary and retrieves its graphs.
    pub(crate) fn load(&mut self, bytes: &[u8]) -> Result<(u32, BinaryInfo), Failure> {
        let doing = "load the context binary";
        let info = self.inspect(bytes)?;
        if info.backend_id != self.library.backend_id {
            let what = format!("it is for backend {}, this is backend {}", info.backend_id, self.library.backend_id);
            return Err(Failure::own(doing, what));
        }
        let mut handle = ptr::null_mut();
        let code = self.library.context_from_binary(self.backend, self.device, bytes, &mut handle);
        self.check(code, doing)?;
        let mut keep = Keep::default();
        match self.retrieve(handle, &info, &mut keep) {
            Ok(graphs) => {
                let id = self.next;
                self.next += 1;
                self.contexts.insert(id, Loaded { handle, graphs, _keep: keep });
                Ok((id, info))
            }
            Err(failure) => {
                self.library.context_free(handle);
                Err(failure)
            }
        }
    }

    fn retrieve(&self, context: Handle, info: &BinaryInfo, keep: &mut Keep) -> Result<Vec<LoadedGraph>, Failure> {
        let mut graphs = Vec::new();
        for graph in &info.graphs {
            let (mut handle, name) = (ptr::null_mut(), keep.name(&graph.name));
            let code = self.library.graph_retrieve(context, name, &mut handle);
            self.check(code, format_args!("retrieve the graph `{}`", graph.name))?;
            let mut raw = |t: &TensorInfo| -> Result<(RawTensor, AlignedBytes), Failure> {
                let len = t.bytes().and_then(|b| usize::try_from(b).ok()).filter(|b| u32::try_from(*b).is_ok());
                let len = len.ok_or_else(|| {
                    Failure::own("retrieve a graph", format!("the tensor `{}` is of sizes {:?}", t.name, t.dims))
                })?;
                let (kind, dtype) = (t.kind.code(), t.dtype);
                let described =
                    Described { id: t.id, name: &t.name, kind, dtype, dims: &t.dims, encoding: &t.encoding };
                Ok((keep.tensor(&described, None), AlignedBytes::zeroed(len)))
            };
            let inputs = graph.inputs.iter().map(&mut raw).collect::<Result<_, _>>()?;
            let outputs = graph.outputs.iter().map(&mut raw).collect::<Result<_, _>>()?;
            graphs.push(LoadedGraph { info: graph.clone(), handle, inputs, outputs });
        }
        Ok(graphs)
    }

    fn loaded(&mut self, context: u32, graph: &str) -> Result<&mut LoadedGraph, Failure> {
        let doing = || format!("execute the graph `{graph}`");
        let loaded =
            self.contexts.get_mut(&context).ok_or_else(|| Failure::own(doing(), "there is no such context"))?;
        let found = loaded.graphs.iter_mut().find(|g| g.info.name == graph);
        found.ok_or_else(|| Failure::own(doing(), "the context has no such graph"))
    }

    /// The buffers of a graph's inputs, to be filled.
    pub(crate) fn inputs(&mut self, context: u32, graph: &str) -> Result<Vec<&mut [u8]>, Failure> {
        Ok(self.loaded(context, graph)?.inputs.iter_mut().map(|(_, bytes)| &mut bytes[..]).collect())
    }

    /// The buffers of a graph's outputs.
    pub(crate) fn outputs(&mut self, context: u32, graph: &str) -> Result<Vec<&[u8]>, Failure> {
        Ok(self.loaded(context, graph)?.outputs.iter().map(|(_, bytes)| &bytes[..]).collect())
    }

    /// Executes a graph on its buffers.
    pub(crate) fn execute(
        &mut self,
        context: u32,
        graph: &str,
        level: ProfileLevel,
    ) -> Result<Vec<ProfileEvent>, Failure> {
        let loaded = self.loaded(context, graph)?;
        // Each buffer has the size that its tensor says, which the library relies on.
        let bound = |(t, bytes): &mut (RawTensor, AlignedBytes)| {
            t.v1.buffer = RawBuffer { data: bytes.as_mut_ptr().cast(), size: bytes.len() as u32 };
            *t
        };
        let inputs: Vec<RawTensor> = loaded.inputs.iter_mut().map(bound).collect();
        let mut outputs: Vec<RawTensor> = loaded.outputs.iter_mut().map(bound).collect();
        let handle = loaded.handle;
        let mut profile: Handle = ptr::null_mut();
        let level = match level {
            ProfileLevel::Off => None,
            ProfileLevel::Basic => Some(1),
            ProfileLevel::Detailed => Some(2),
        };
        if let Some(level) = level {
            let code = self.library.profile_create(self.backend, level, &mut profile);
            self.check(code, "make a profile")?;
        }
        let code = self.library.execute(handle, &inputs, &mut outputs, profile);
        let mut events = Vec::new();
        if !profile.is_null() {
            self.collect(self.library.events(profile as u64, false), 0, &mut events);
            self.library.profile_free(profile);
        }
        self.check(code, format_args!("execute the graph `{graph}`"))?;
        Ok(events)
    }

    fn collect(&self, ids: Vec<u64>, depth: u32, out: &mut Vec<ProfileEvent>) {
        const MAX_DEPTH: u32 = 16;
        for id in ids {
            let Some((data, name)) = self.library.event(id) else { continue };
            let unit = ProfileUnit::from_code(data.unit);
            out.push(ProfileEvent { name, kind: data.kind, unit, value: data.value, depth });
            if depth < MAX_DEPTH {
                self.collect(self.library.events(id, true), depth + 1, out);
            }
        }
    }

    /// Gives a context back.
    pub(crate) fn unload(&mut self, context: u32) -> Result<(), Failure> {
        match self.contexts.remove(&context) {
            Some(loaded) => {
                let code = self.library.context_free(loaded.handle);
                self.check(code, "give the context back")
            }
            None => Err(Failure::own("give a context back", "there is no such context")),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for loaded in std::mem::take(&mut self.contexts).into_values() {
            self.library.context_free(loaded.handle);
        }
        self.library.free(self.log, self.backend, self.device);
    }
}
