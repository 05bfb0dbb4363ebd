//! Modules: graphs with one constant pool, shared mutable buffers, delegates and metadata.

use pteron_tensor::{SharedBytes, SharedSource, Tensor, TensorSource};

use crate::entity::{BufferId, ConstId, DelegateId, IdMap};
use crate::graph::{Def, Graph};
use crate::types::{TensorType, Type};

/// Where a constant's bytes are.
#[derive(Clone, Debug)]
pub enum ConstData {
    /// Decoded from this source; its dtype and shape are the constant's.
    Source(SharedSource),
    /// In a file beside the program (`.ptd`), under this key.
    External(Box<str>),
    /// Nowhere: the module has a shape and no weights. It can be verified, not run.
    Missing,
}

/// A constant tensor.
#[derive(Clone, Debug)]
pub struct Constant {
    /// Its fully qualified name: the checkpoint's.
    pub name: Box<str>,
    /// Its type, of constant sizes.
    pub ty: TensorType,
    /// Its bytes.
    pub data: ConstData,
}

/// A mutable buffer: state that outlives a call, shared by all graphs.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Its fully qualified name.
    pub name: Box<str>,
    /// Its type, of constant sizes.
    pub ty: TensorType,
    /// What it holds before the first call; zeros if `None`.
    pub init: Option<ConstId>,
}

/// A payload for a backend, called by [`crate::op::Op::Delegate`] nodes.
#[derive(Clone, Debug)]
pub struct Delegate {
    /// The backend: `XnnpackBackend`.
    pub backend: Box<str>,
    /// The payload.
    pub payload: SharedBytes,
    /// Key and value of each compile spec.
    pub compile_specs: Vec<(Box<str>, Vec<u8>)>,
    /// Named data that the payload refers to: the bytes of each source in row-major order.
    pub named_data: Vec<(Box<str>, SharedSource)>,
}

/// A value that a constant method returns.
#[derive(Clone, Debug)]
pub enum MetaValue {
    /// An integer.
    Int(i64),
    /// A boolean.
    Bool(bool),
    /// A double.
    Float(f64),
    /// A string.
    Str(Box<str>),
    /// A tensor.
    Tensor(Tensor),
}

/// A constant method: a name and what it returns.
#[derive(Clone, Debug)]
pub struct Metadata {
    /// The method's name: `get_max_seq_len`.
    pub name: Box<str>,
    /// Its outputs.
    pub values: Vec<MetaValue>,
}

/// Graphs and what they share.
#[derive(Clone, Debug, Default)]
pub struct Module {
    /// A name for people.
    pub name: String,
    /// All constants.
    pub constants: IdMap<ConstId, Constant>,
    /// All mutable buffers.
    pub buffers: IdMap<BufferId, Buffer>,
    /// All delegates.
    pub delegates: IdMap<DelegateId, Delegate>,
    /// The methods.
    pub graphs: Vec<Graph>,
    /// The constant methods, in order.
    pub metadata: Vec<Metadata>,
}

impl Module {
    /// An empty module.
    pub fn new(name: &str) -> Module {
        Module { name: name.to_owned(), ..Module::default() }
    }

    /// The method called `name`.
    pub fn graph(&self, name: &str) -> Option<&Graph> {
        self.graphs.iter().find(|g| g.name == name)
    }

    /// The method called `name`.
    pub fn graph_mut(&mut self, name: &str) -> Option<&mut Graph> {
        self.graphs.iter_mut().find(|g| g.name == name)
    }

    /// Adds a constant with the type of its source.
    pub fn add_constant(&mut self, name: &str, source: SharedSource) -> ConstId {
        let ty = TensorType::fixed(source.dtype(), source.shape());
        self.constants.push(Constant { name: name.into(), ty, data: ConstData::Source(source) })
    }

    /// The constant called `name`.
    pub fn constant_named(&self, name: &str) -> Option<ConstId> {
        self.constants.iter().find(|(_, c)| c.name.as_ref() == name).map(|(id, _)| id)
    }

    /// Adds a small constant from memory.
    pub fn add_tensor_constant(&mut self, name: &str, source: impl TensorSource + 'static) -> ConstId {
        self.add_constant(name, std::sync::Arc::new(source))
    }

    /// Adds a mutable buffer of zeros.
    pub fn add_buffer(&mut self, name: &str, ty: TensorType) -> BufferId {
        self.buffers.push(Buffer { name: name.into(), ty, init: None })
    }

    /// Sets a constant method, replacing one of the same name.
    pub fn set_metadata(&mut self, name: &str, values: Vec<MetaValue>) {
        match self.metadata.iter_mut().find(|m| m.name.as_ref() == name) {
            Some(m) => m.values = values,
            None => self.metadata.push(Metadata { name: name.into(), values }),
        }
    }

    /// The type that a graph's value for `def` has: of a constant or a buffer.
    pub fn def_type(&self, def: Def) -> Option<Type> {
        match def {
            Def::Const(c) => self.constants.get(c).map(|c| Type::Tensor(c.ty.clone())),
            Def::Buffer(b) => self.buffers.get(b).map(|b| Type::Tensor(b.ty.clone())),
            _ => None,
        }
    }

    /// Number of elements in all constants that the graphs use as parameters.
    pub fn num_parameters(&self) -> u64 {
        self.constants
            .values()
            .filter_map(|c| c.ty.fixed_sizes())
            .map(|s| s.iter().map(|&d| d as u64).product::<u64>())
            .sum()
    }
}
