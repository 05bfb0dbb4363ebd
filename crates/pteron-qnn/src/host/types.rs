//! What the library is asked and what it answers, and the trait that both sides of it meet at.

use std::fmt;

use pteron_tensor::SharedBytes;

use crate::error::QnnError;
use crate::graph::{DataType, Encoding, QnnGraph, TensorKind};
use crate::payload::HEADER;
use crate::soc::Soc;

/// A version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version {
    /// Changes break.
    pub major: u32,
    /// Changes add.
    pub minor: u32,
    /// Changes mend.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// What a library says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibraryInfo {
    /// `HTP_QTI_AISW`.
    pub provider: String,
    /// QNN's number of the backend: 6 for the HTP.
    pub backend_id: u32,
    /// The release: `v2.49.40...`.
    pub build: String,
    /// Version of QNN's core interface.
    pub core: Version,
    /// Version of the backend's own interface.
    pub backend: Version,
    /// Version of the system library's interface, if that library is there.
    pub system: Option<Version>,
}

/// The library's verdict over a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It can be in a graph.
    Supported,
    /// It cannot: the library's own words.
    Refused(String),
}

/// How the library optimizes a graph when it finalizes it, from fast to thorough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Optimization {
    /// Level 1.
    Fast,
    /// Level 2.
    Normal,
    /// Level 3, ExecuTorch's.
    #[default]
    Best,
}

impl Optimization {
    /// The library's number.
    pub const fn level(self) -> u32 {
        match self {
            Optimization::Fast => 1,
            Optimization::Normal => 2,
            Optimization::Best => 3,
        }
    }
}

/// How graphs are compiled into a context binary. The defaults are those of ExecuTorch's `generate_htp_compiler_spec`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ComposeOptions {
    /// The system to compile for.
    pub soc: Soc,
    /// Memory of the tensor processor that a graph may use, in MiB; the system's own if `None`.
    pub vtcm_mb: Option<u32>,
    /// How thoroughly.
    pub optimization: Optimization,
    /// Whether f32 tensors are computed in f16: for graphs that are not quantized.
    pub fp16: bool,
    /// Whether weights of equal bytes are held once for all graphs. The x86 library builds such a context and refuses to load
    /// it.
    pub weight_sharing: bool,
    /// Compression of activations in memory.
    pub dlbc: bool,
    /// Whether ReLU is folded into what comes before it.
    pub fold_relu: bool,
    /// Whether short convolutions run on the matrix unit.
    pub conv_hmx: bool,
    /// Vector threads of a graph; the library's choice if `None`.
    pub hvx_threads: Option<u64>,
}

impl ComposeOptions {
    /// ExecuTorch's defaults for a system.
    pub fn new(soc: Soc) -> ComposeOptions {
        ComposeOptions {
            soc,
            vtcm_mb: None,
            optimization: Optimization::default(),
            fp16: false,
            weight_sharing: false,
            dlbc: false,
            fold_relu: true,
            conv_hmx: true,
            hvx_threads: None,
        }
    }
}

/// How far the compilation of a context has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ComposeStage {
    /// Tensors and nodes of a graph are handed over.
    Composing {
        /// The graph.
        graph: String,
    },
    /// A graph is finalized.
    Finalizing {
        /// The graph.
        graph: String,
    },
    /// The context binary is read out.
    Serializing,
}

/// A finalized context.
#[derive(Debug, Clone)]
pub struct Composed {
    /// The context binary behind the header of a payload ([`crate::payload::write_payload`]), which it need not be copied for.
    pub payload: SharedBytes,
    /// Name of each graph, with the microseconds that the library's own finalize call took.
    pub finalize_us: Vec<(String, u64)>,
}

impl Composed {
    /// The context binary.
    pub fn binary(&self) -> &[u8] {
        self.payload.get(HEADER..).unwrap_or_default()
    }
}

/// A tensor at the boundary of a graph in a context binary.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// The number by which the library knows it.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its role.
    pub kind: TensorKind,
    /// Type of its elements.
    pub dtype: DataType,
    /// Its sizes.
    pub dims: Vec<u32>,
    /// How its integers stand for reals.
    pub encoding: Encoding,
}

impl TensorInfo {
    /// Bytes of the tensor; `None` on overflow.
    pub fn bytes(&self) -> Option<u64> {
        let numel = self.dims.iter().try_fold(1u64, |n, d| n.checked_mul(u64::from(*d)))?;
        self.dtype.bytes_for(numel)
    }
}

/// A graph in a context binary.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphInfo {
    /// Its name.
    pub name: String,
    /// Inputs in the graph's order.
    pub inputs: Vec<TensorInfo>,
    /// Outputs in the graph's order.
    pub outputs: Vec<TensorInfo>,
    /// Bytes of the buffer that it spills into where the tensor processor's own memory is too small; contexts of one program
    /// can have one between them.
    pub spill_fill_bytes: u64,
}

/// What a context binary says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryInfo {
    /// The backend that it is for: 6 is the HTP.
    pub backend_id: u32,
    /// The release that made it.
    pub build: String,
    /// Version of QNN's core interface that made it.
    pub core: Version,
    /// Version of the backend's own interface that made it.
    pub backend: Version,
    /// Version of the blob's layout.
    pub blob: Version,
    /// The system it was compiled for ([`Soc::model`]); 0 or `None` where it does not say.
    pub soc_model: Option<u32>,
    /// Its graphs.
    pub graphs: Vec<GraphInfo>,
}

impl BinaryInfo {
    /// The graph of a name.
    pub fn graph(&self, name: &str) -> Option<&GraphInfo> {
        self.graphs.iter().find(|g| g.name == name)
    }

    /// The largest [`GraphInfo::spill_fill_bytes`].
    pub fn spill_fill_bytes(&self) -> u64 {
        self.graphs.iter().map(|g| g.spill_fill_bytes).max().unwrap_or(0)
    }
}

/// A context in the library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContextId(pub u32);

/// How much a profile says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ProfileLevel {
    /// Nothing.
    #[default]
    Off,
    /// Whole calls.
    Basic,
    /// Nodes as well.
    Detailed,
}

/// An event of the library's profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfileEvent {
    /// What it is about: a node's name, a stage.
    pub name: String,
    /// QNN's number of its type: 300 finalize, 400 execute, 404 node.
    pub kind: u32,
    /// Unit of the value.
    pub unit: ProfileUnit,
    /// The value.
    pub value: u64,
    /// Nesting: 0 for the outermost.
    pub depth: u32,
}

/// Unit of a profile's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProfileUnit {
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// Cycles of the processor.
    Cycles,
    /// A count.
    Count,
    /// Another unit, by QNN's number.
    Other(u32),
}

impl ProfileUnit {
    /// The unit with QNN's number `code`.
    pub const fn from_code(code: u32) -> ProfileUnit {
        match code {
            1 => ProfileUnit::Micros,
            2 => ProfileUnit::Bytes,
            3 => ProfileUnit::Cycles,
            4 => ProfileUnit::Count,
            other => ProfileUnit::Other(other),
        }
    }

    /// QNN's number.
    pub const fn code(self) -> u32 {
        match self {
            ProfileUnit::Micros => 1,
            ProfileUnit::Bytes => 2,
            ProfileUnit::Cycles => 3,
            ProfileUnit::Count => 4,
            ProfileUnit::Other(code) => code,
        }
    }
}

/// What Qualcomm's library does to make a program. [`crate::HostOptions::open`] gives the one in a worker process; tests of what
/// stands above may have another.
pub trait QnnCompiler: Send + Sync + fmt::Debug {
    /// What the library says of itself.
    fn info(&self) -> &LibraryInfo;

    /// Asks for nodes of a graph, compiled for `soc`, whether they can be in it: a verdict each, in order. The graph may be
    /// incomplete in all but what these nodes name. Constants of more than a few KiB are not handed over; the library looks
    /// at their types and encodings.
    ///
    /// # Errors
    /// [`QnnError`] if the library cannot be asked. A refusal is no error.
    fn validate(&self, graph: &QnnGraph, nodes: &[usize], soc: Soc) -> Result<Vec<Verdict>, QnnError>;

    /// Composes and finalizes graphs, all in one context, and gives its binary. `progress` is told each stage as it begins.
    ///
    /// # Errors
    /// [`QnnError`]: a graph that does not hold, a node that is refused, an exhausted library.
    fn compose(
        &self,
        graphs: &[QnnGraph],
        options: &ComposeOptions,
        progress: &mut dyn FnMut(ComposeStage),
    ) -> Result<Composed, QnnError>;

    /// Reads what a context binary says of itself.
    ///
    /// # Errors
    /// [`QnnError`]: not a context binary, or the system library is not there.
    fn inspect(&self, binary: &[u8]) -> Result<BinaryInfo, QnnError>;
}

/// All that Qualcomm's library does, in a worker process.
pub trait QnnLibrary: QnnCompiler {
    /// Names of the operators that it knows, sorted.
    ///
    /// # Errors
    /// [`QnnError`].
    fn supported_operations(&self) -> Result<Vec<String>, QnnError>;

    /// Loads a context binary for a device of the system `soc`, and gives what it says of itself.
    ///
    /// # Errors
    /// [`QnnError`]: damaged, of another backend, for another system.
    fn load(&self, binary: &[u8], soc: Option<Soc>) -> Result<(ContextId, BinaryInfo), QnnError>;

    /// Executes a graph of a loaded context. `inputs` and `outputs` stand in the order of [`GraphInfo`], and each has the
    /// bytes that [`TensorInfo::bytes`] says.
    ///
    /// # Errors
    /// [`QnnError`]: an unknown context or graph, a buffer of another size, the library's own error.
    fn execute(
        &self,
        context: ContextId,
        graph: &str,
        inputs: &[&[u8]],
        outputs: &mut [&mut [u8]],
        profile: ProfileLevel,
    ) -> Result<Vec<ProfileEvent>, QnnError>;

    /// Gives a context back.
    ///
    /// # Errors
    /// [`QnnError`].
    fn unload(&self, context: ContextId) -> Result<(), QnnError>;
}
