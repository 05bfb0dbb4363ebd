//! Programs from files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pteron_checkpoint::{FileKind, MemoryBytes, open_bytes};
use pteron_exec::{Delegates, Session, SessionOptions, Value, ValueRef};
use pteron_ir::{MetaValue, Module};
use pteron_llm::metadata::{ConstantMethods, ConstantValue, ModelMetadata};
use pteron_program::{ExternalData, InputSlot, LiftOptions, Lifted, MethodIo, OutputSlot, lift};
use pteron_pte::{BundledProgram, ParsedHead, PtdHead, PteError};
use pteron_qnn::QnnBackend;
use pteron_tensor::ByteSource;
use pteron_xnnpack::XnnpackBackend;

use crate::error::Error;
use crate::host;

/// How the bytes of a program are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LoadMode {
    /// Read into memory as far as they are needed.
    File,
    /// Mapped. The file must not be cut short while the program is in use.
    #[default]
    Mmap,
    /// Mapped and locked in memory.
    Mlock,
}

/// How a program is loaded.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// How bytes are reached.
    pub mode: LoadMode,
    /// Files of external constants (`.ptd`); the first that has a key wins.
    pub data: Vec<PathBuf>,
    /// Threads; [`host::default_threads`] if `None`.
    pub threads: Option<usize>,
    /// The processors that they run on, but for the caller's thread; empty for those that [`host::threads`] takes.
    pub cpus: Vec<usize>,
    /// Most memory in bytes that a program may declare: activations, state, constants that must be decoded, and what backends
    /// hold. Nothing past it is allocated. All the machine has if `None`.
    pub max_memory: Option<u64>,
    /// Most element operations of one call ([`pteron_exec::Fuel`]); no limit if `None`.
    pub max_operations: Option<u64>,
    /// Methods to prepare; empty for all.
    pub methods: Vec<String>,
    /// Where Qualcomm's QNN libraries lie; found as [`pteron_qnn::Sdk::find`] says if `None`. They are opened when a program
    /// needs them.
    pub qnn_sdk: Option<PathBuf>,
}

/// A program file, verified and not yet lifted.
#[derive(Debug, Clone)]
pub struct ProgramFile {
    path: PathBuf,
    head: ParsedHead,
    bytes: Arc<dyn ByteSource>,
    bundle: Option<Arc<dyn ByteSource>>,
}

/// A range of other bytes.
#[derive(Debug)]
struct SubBytes {
    inner: Arc<dyn ByteSource>,
    offset: u64,
    len: u64,
}

impl ByteSource for SubBytes {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), pteron_tensor::SourceError> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|e| e > self.len) {
            return Err(pteron_tensor::SourceError::OutOfRange {
                what: "bundled program".to_owned(),
                start: offset,
                end: end.unwrap_or(u64::MAX),
                len: self.len,
            });
        }
        self.inner.read_at(self.offset.saturating_add(offset), out)
    }

    fn as_slice(&self) -> Option<&[u8]> {
        let from = usize::try_from(self.offset).ok()?;
        let to = from.checked_add(usize::try_from(self.len).ok()?)?;
        self.inner.as_slice()?.get(from..to)
    }

    fn release(&self, offset: u64, len: u64) {
        self.inner.release(self.offset.saturating_add(offset), len);
    }
}

/// Reads the first `len` bytes.
fn read_start(path: &Path, bytes: &dyn ByteSource, len: u64) -> Result<Vec<u8>, Error> {
    let len = usize::try_from(len.min(bytes.len())).unwrap_or(usize::MAX);
    let mut out = vec![0u8; len];
    bytes.read_at(0, &mut out).map_err(|e| Error::Source { path: path.to_owned(), source: Box::new(e) })?;
    Ok(out)
}

/// Bytes of a file that tell what it is.
const PREFIX: u64 = 64;

fn open_source(path: &Path, mode: LoadMode) -> Result<Arc<dyn ByteSource>, Error> {
    let reader = match mode {
        LoadMode::File => pteron_checkpoint::LoadMode::File,
        LoadMode::Mmap | LoadMode::Mlock => pteron_checkpoint::LoadMode::Mmap,
    };
    let bytes = open_bytes(path, reader)?;
    if mode == LoadMode::Mlock {
        let slice = bytes.as_slice().unwrap_or(&[]);
        host::lock_memory(slice).map_err(|source| Error::Lock {
            path: path.to_owned(),
            bytes: slice.len() as u64,
            source,
        })?;
    }
    Ok(bytes)
}

impl ProgramFile {
    /// Opens and verifies a `.pte`, or the program in a `.bpte`. Only the head is read.
    ///
    /// # Errors
    /// [`Error`] naming the file: it cannot be read, is of another kind, or breaks the format's rules.
    pub fn open(path: impl AsRef<Path>, mode: LoadMode) -> Result<ProgramFile, Error> {
        let path = path.as_ref();
        let file = open_source(path, mode)?;
        let wrong = |e| Error::Format { path: path.to_owned(), source: Box::new(e) };
        let prefix = read_start(path, file.as_ref(), PREFIX)?;
        if prefix.get(4..8) == Some(b"BP08") {
            return ProgramFile::bundled(path, file);
        }
        let kind = FileKind::detect(&prefix, file.len());
        if kind != FileKind::ExecutorchProgram && kind != FileKind::Unknown {
            return Err(Error::Kind {
                path: path.to_owned(),
                found: kind.sentence().to_owned(),
                expected: "an ExecuTorch program (.pte or .bpte)",
            });
        }
        let needed = pteron_pte::bytes_needed(&prefix, file.len()).map_err(wrong)?;
        if needed > pteron_pte::limits::MAX_FLATBUFFER_LEN {
            let limit = pteron_pte::limits::MAX_FLATBUFFER_LEN;
            return Err(wrong(PteError::TooLong { what: "program part", found: needed, limit }));
        }
        let head = match file.as_slice().zip(usize::try_from(needed).ok()).and_then(|(s, n)| s.get(..n)) {
            Some(head) => ParsedHead::parse(head, file.len()),
            None => ParsedHead::parse(&read_start(path, file.as_ref(), needed)?, file.len()),
        };
        Ok(ProgramFile { path: path.to_owned(), head: head.map_err(wrong)?, bytes: file, bundle: None })
    }

    fn bundled(path: &Path, file: Arc<dyn ByteSource>) -> Result<ProgramFile, Error> {
        let wrong = |e| Error::Format { path: path.to_owned(), source: Box::new(e) };
        let file = match file.as_slice() {
            Some(_) => file,
            None if file.len() > pteron_pte::limits::MAX_FLATBUFFER_LEN => {
                let (found, limit) = (file.len(), pteron_pte::limits::MAX_FLATBUFFER_LEN);
                return Err(wrong(PteError::TooLong { what: "bundled program", found, limit }));
            }
            None => Arc::new(MemoryBytes::new(read_start(path, file.as_ref(), file.len())?)),
        };
        let all = file.as_slice().unwrap_or(&[]);
        let bundle = BundledProgram::parse(all).map_err(wrong)?;
        let head = ParsedHead::parse(bundle.program, bundle.program.len() as u64).map_err(wrong)?;
        // The program is a slice of the file.
        let offset = (bundle.program.as_ptr() as usize).saturating_sub(all.as_ptr() as usize) as u64;
        let len = bundle.program.len() as u64;
        let bytes = Arc::new(SubBytes { inner: Arc::clone(&file), offset, len });
        Ok(ProgramFile { path: path.to_owned(), head, bytes, bundle: Some(file) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The verified head.
    pub fn head(&self) -> &ParsedHead {
        &self.head
    }

    /// Bytes of the program (in a bundle: without the bundle's own).
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len()
    }

    /// The program's bytes.
    pub fn bytes(&self) -> &Arc<dyn ByteSource> {
        &self.bytes
    }

    /// All bytes of the `.bpte` that it came from, if it did.
    pub fn bundle(&self) -> Option<&[u8]> {
        self.bundle.as_deref().and_then(ByteSource::as_slice)
    }

    /// Lifts the program to a module.
    ///
    /// # Errors
    /// [`Error`] naming the file, and the method and instruction that cannot be lifted, or the `.ptd` that cannot be read.
    pub fn lift(&self, data: &[PathBuf], mode: LoadMode) -> Result<Lifted, Error> {
        let external = data.iter().map(|p| open_data(p, mode)).collect::<Result<_, _>>()?;
        let name = self.path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let options = LiftOptions { name, external, delegate_inputs: Some(delegate_inputs) };
        lift(&self.head, Arc::clone(&self.bytes), &options)
            .map_err(|e| Error::Lift { path: self.path.clone(), source: Box::new(e) })
    }
}

/// Opens and verifies a `.ptd`.
///
/// # Errors
/// [`Error`] naming the file.
pub fn open_data(path: &Path, mode: LoadMode) -> Result<ExternalData, Error> {
    let bytes = open_source(path, mode)?;
    let wrong = |e| Error::Format { path: path.to_owned(), source: Box::new(e) };
    let prefix = read_start(path, bytes.as_ref(), PREFIX)?;
    let needed = PtdHead::bytes_needed(&prefix, bytes.len()).map_err(wrong)?;
    if needed > pteron_pte::limits::MAX_FLATBUFFER_LEN {
        let limit = pteron_pte::limits::MAX_FLATBUFFER_LEN;
        return Err(wrong(PteError::TooLong { what: "head of the .ptd", found: needed, limit }));
    }
    let head = PtdHead::parse(&read_start(path, bytes.as_ref(), needed)?, bytes.len()).map_err(wrong)?;
    Ok(ExternalData { head, bytes })
}

/// How many inputs a payload has, if its backend's payloads say so.
fn delegate_inputs(backend: &str, payload: &[u8]) -> Option<usize> {
    (backend == pteron_xnnpack::BACKEND).then(|| pteron_xnnpack::Payload::parse(payload).ok())?.map(|p| p.inputs.len())
}

/// The backends that execute payloads here; `qnn_sdk` is [`LoadOptions::qnn_sdk`].
pub fn delegates(qnn_sdk: Option<&Path>) -> Delegates {
    Delegates::none().with(XnnpackBackend::new()).with(QnnBackend::new(qnn_sdk.map(Path::to_owned)))
}

/// A program that is ready to run.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    io: Vec<MethodIo>,
    notes: Vec<String>,
    session: Session,
}

impl Program {
    /// Opens, verifies, lifts and plans a `.pte` or `.bpte`. Constants stay where they lie in the file.
    ///
    /// # Errors
    /// [`Error`] naming the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Program, Error> {
        ProgramFile::open(path, options.mode)?.load(options)
    }

    /// Plans a module that came from no program file: a captured checkpoint, which messages call `path`. Inputs and outputs
    /// are the graphs' own.
    ///
    /// # Errors
    /// [`Error::Exec`] if it cannot be planned within the memory that is allowed.
    pub fn from_module(path: impl Into<PathBuf>, module: Module, options: &LoadOptions) -> Result<Program, Error> {
        let io = module.graphs.iter().map(|g| MethodIo {
            method: g.name.clone(),
            inputs: (0..g.inputs.len()).map(|position| InputSlot::Graph { position, traced: None }).collect(),
            outputs: (0..g.outputs().len()).map(|position| OutputSlot::Graph { position }).collect(),
        });
        let io = io.collect();
        Program::plan(path.into(), Lifted { module, io, notes: Vec::new() }, options)
    }

    fn plan(path: PathBuf, lifted: Lifted, options: &LoadOptions) -> Result<Program, Error> {
        let Lifted { mut module, io, notes } = lifted;
        pteron_xnnpack::inline(&mut module);
        let mut session = SessionOptions::on(host::threads(options.threads, &options.cpus));
        session.max_memory = options.max_memory.or_else(host::physical_memory).unwrap_or(u64::MAX);
        session.fuel = options.max_operations;
        session.delegates = delegates(options.qnn_sdk.as_deref());
        session.methods = options.methods.clone();
        let session = Session::new(Arc::new(module), &session)
            .map_err(|e| Error::Exec { path: path.clone(), source: Box::new(e) })?;
        Ok(Program { path, io, notes, session })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The module that it was lifted to.
    pub fn module(&self) -> &Arc<Module> {
        self.session.module()
    }

    /// What a reader of the module should know, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Inputs and outputs of a method as the program counts them.
    pub fn io(&self, method: &str) -> Option<&MethodIo> {
        self.io.iter().find(|io| io.method == method)
    }

    /// The session, which counts inputs and outputs as the module does.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Where the memory goes.
    pub fn memory(&self) -> pteron_exec::MemoryReport {
        self.session.memory()
    }

    /// What the constant methods say.
    ///
    /// # Errors
    /// [`Error::Metadata`] for a known method with an unusable value.
    pub fn metadata(&self) -> Result<ModelMetadata, Error> {
        let methods = constant_methods(self.module());
        ModelMetadata::from_constant_methods(&methods)
            .map_err(|e| Error::Metadata { path: self.path.clone(), source: Box::new(e) })
    }

    /// Calls a method with inputs as the program counts them; `None` stands for an input or output that is none. State
    /// lives from call to call.
    ///
    /// # Errors
    /// [`Error::Call`] for inputs that do not fit, [`Error::Exec`] for a run that fails.
    pub fn call(&mut self, method: &str, inputs: &[Option<Value>]) -> Result<Vec<Option<Value>>, Error> {
        let path = &self.path;
        let wrong = |reason| Error::Call { path: path.clone(), method: method.to_owned(), reason };
        let Some(io) = self.io.iter().find(|io| io.method == method) else {
            let known: Vec<_> = self.io.iter().map(|io| format!("`{}`", io.method)).collect();
            let constant = self.session.module().metadata.iter().any(|m| m.name.as_ref() == method);
            let why = if constant { "it only returns constants" } else { "there is none" };
            return Err(wrong(format!("{why}; methods that can be called: {}", known.join(", "))));
        };
        if inputs.len() != io.inputs.len() {
            return Err(wrong(format!("{} inputs are given, it takes {}", inputs.len(), io.inputs.len())));
        }
        let mut given: Vec<(usize, ValueRef<'_>)> = Vec::with_capacity(inputs.len());
        for (i, (slot, value)) in io.inputs.iter().zip(inputs).enumerate() {
            match (slot, value) {
                (InputSlot::Ignored { .. }, None) => {}
                (InputSlot::Ignored { kind }, Some(v)) => {
                    return Err(wrong(format!(
                        "input {i} is {}, the program has {kind} there: give null",
                        v.describe()
                    )));
                }
                (InputSlot::Graph { .. }, None) => {
                    return Err(wrong(format!("input {i} is null, the program needs a value there")));
                }
                (InputSlot::Graph { position, traced }, Some(v)) => {
                    check_traced(traced.as_ref(), v).map_err(|reason| wrong(format!("input {i} {reason}")))?;
                    given.push((*position, v.as_ref()));
                }
            }
        }
        given.sort_by_key(|(position, _)| *position);
        let given: Vec<ValueRef<'_>> = given.into_iter().map(|(_, v)| v).collect();
        let failed = |e| Error::Exec { path: path.clone(), source: Box::new(e) };
        let outputs = self.session.run(method, &given).map_err(failed)?;
        let one = |slot: &OutputSlot| match slot {
            OutputSlot::Graph { position } => outputs.get(*position).map(|v| v.to_value()),
            OutputSlot::Null => None,
            OutputSlot::Literal(MetaValue::Int(i)) => Some(Value::Int(*i)),
            OutputSlot::Literal(MetaValue::Bool(b)) => Some(Value::Bool(*b)),
            OutputSlot::Literal(MetaValue::Float(f)) => Some(Value::Float(*f)),
            OutputSlot::Literal(MetaValue::Tensor(t)) => Some(Value::Tensor(t.clone())),
            OutputSlot::Literal(MetaValue::Str(_)) => None,
        };
        Ok(io.outputs.iter().map(one).collect())
    }
}

impl ProgramFile {
    /// Lifts and plans the program.
    ///
    /// # Errors
    /// As [`Program::open`].
    pub fn load(&self, options: &LoadOptions) -> Result<Program, Error> {
        Program::plan(self.path.clone(), self.lift(&options.data, options.mode)?, options)
    }
}

/// ExecuTorch bakes the values of scalar inputs into a program and refuses others.
fn check_traced(traced: Option<&MetaValue>, given: &Value) -> Result<(), String> {
    match (traced, given) {
        (Some(MetaValue::Int(t)), Value::Int(v)) if t != v => {
            Err(format!("is {v}, but the program was exported for {t} and holds for that alone"))
        }
        (Some(MetaValue::Bool(t)), Value::Bool(v)) if t != v => {
            Err(format!("is {v}, but the program was exported for {t} and holds for that alone"))
        }
        (Some(MetaValue::Float(t)), Value::Float(v)) if t.to_bits() != v.to_bits() => {
            Err(format!("is {v}, but the program was exported for {t} and holds for that alone"))
        }
        _ => Ok(()),
    }
}

/// The constant methods of a module, as the runner reads them. A tensor of integers is a list; other tensors are left out.
pub fn constant_methods(module: &Module) -> ConstantMethods {
    let one = |v: &MetaValue| match v {
        MetaValue::Int(i) => Some(ConstantValue::Int(*i)),
        MetaValue::Bool(b) => Some(ConstantValue::Bool(*b)),
        MetaValue::Float(f) => Some(ConstantValue::Float(*f)),
        MetaValue::Str(s) => Some(ConstantValue::Str(s.to_string())),
        MetaValue::Tensor(t) => t.view().as_slice::<i64>().map(|ids| ConstantValue::IntList(ids.to_vec())),
    };
    let entry = |m: &pteron_ir::Metadata| Some((m.name.to_string(), m.values.iter().map(one).collect::<Option<_>>()?));
    module.metadata.iter().filter_map(entry).collect()
}
