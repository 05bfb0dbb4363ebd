//! Payloads out of real programs, and payloads made for a test.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;

use pteron_ir::Delegate;
use pteron_pte::PteFile;
use pteron_pte::flatbuf::{Builder, Field, Offset, TableFields};
use pteron_tensor::{MemorySource, SharedSource};

pub(crate) fn fixture(path: &str) -> Vec<u8> {
    let path = format!("{}/../../fixtures/executorch/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The delegates of a program's first method, each with all of the program's named data.
pub(crate) fn delegates(path: &str) -> Vec<Delegate> {
    let bytes = fixture(path);
    let file = PteFile::parse(&bytes).unwrap();
    let program = file.program();
    let named = |key: &str| (Box::from(key), source(key, file.named_data(key).unwrap()));
    let named_data: Vec<_> = program.named_data.iter().map(|n| named(&n.key)).collect();
    let list = program.execution_plans[0].delegates.iter();
    list.map(|d| Delegate {
        backend: d.id.as_str().into(),
        payload: file.delegate_bytes(d).unwrap().into(),
        compile_specs: Vec::new(),
        named_data: named_data.clone(),
    })
    .collect()
}

/// Bytes under a key, as delegates hold them.
pub(crate) fn source(key: &str, bytes: &[u8]) -> SharedSource {
    Arc::new(MemorySource::of(key, &[bytes.len()], bytes).unwrap())
}

pub(crate) fn module_of(d: &Delegate) -> Result<pteron_ir::Module, pteron_xnnpack::XnnpackError> {
    let payload = pteron_xnnpack::Payload::parse(&d.payload)?;
    let named = |key: &str| d.named_data.iter().find(|n| n.0.as_ref() == key).map(|n| Arc::clone(&n.1));
    pteron_xnnpack::lift(&payload, &d.payload, &named)
}

pub(crate) const NONE: u32 = u32::MAX;

fn f(slot: u16) -> Field {
    Field::new(slot, "test")
}

/// What a field of a node holds.
pub(crate) enum Slot {
    Id(u32),
    Float(f32),
    List(Vec<u32>),
}

/// A node: its code, its fields by slot, its output range.
pub(crate) struct NodeSpec {
    pub(crate) code: u8,
    pub(crate) slots: Vec<(u16, Slot)>,
    pub(crate) range: Option<(f32, f32)>,
}

/// A node of ids only, in the order of its slots.
pub(crate) fn ids(code: u8, list: &[u32]) -> NodeSpec {
    let slots = list.iter().enumerate().map(|(i, &v)| (u16::try_from(i).unwrap(), Slot::Id(v))).collect();
    NodeSpec { code, slots, range: None }
}

/// Values in order of their ids; the first `inputs` are the inputs, the ones in `outputs` the outputs.
#[derive(Default)]
pub(crate) struct Graph {
    /// Datatype, sizes, elements of a constant.
    pub(crate) values: Vec<(u16, Vec<u32>, Option<Vec<f32>>)>,
    pub(crate) inputs: u32,
    pub(crate) outputs: Vec<u32>,
    pub(crate) nodes: Vec<NodeSpec>,
    /// Writes the constants into the FlatBuffers part, without header, as the oldest files did.
    pub(crate) legacy: bool,
}

impl Graph {
    pub(crate) fn blob(&self) -> Vec<u8> {
        let mut b = Builder::new();
        let mut data: Vec<u8> = Vec::new();
        let mut entries: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new())];
        let mut values = Vec::new();
        for (id, (datatype, dims, constant)) in self.values.iter().enumerate() {
            let id = u32::try_from(id).unwrap();
            let index = match constant {
                None => 0u32,
                Some(x) => {
                    data.resize(data.len().next_multiple_of(16), 0);
                    let bytes: Vec<u8> = x.iter().flat_map(|v| v.to_le_bytes()).collect();
                    entries.push((data.len() as u64, bytes.clone()));
                    data.extend(&bytes);
                    u32::try_from(entries.len() - 1).unwrap()
                }
            };
            let output = self.outputs.iter().position(|&o| o == id);
            let (external, flags) = match (id < self.inputs, output) {
                (true, _) => (id, 1u32),
                (_, Some(k)) => (self.inputs + u32::try_from(k).unwrap(), 2),
                _ => (NONE, 0),
            };
            let rank = u32::try_from(dims.len()).unwrap();
            let dims = b.vector(dims.iter().copied());
            let fields = TableFields::new()
                .scalar(f(0), *datatype, 0)
                .scalar(f(1), rank, 0)
                .offset(f(2), dims)
                .scalar(f(3), index, 0)
                .scalar(f(4), external, 0)
                .scalar(f(5), flags, 0)
                .scalar(f(6), id, 0);
            let v = b.table(fields);
            values.push(b.table(TableFields::new().union(f(1), 1, v)));
        }
        let nodes: Vec<Offset> = self.nodes.iter().map(|n| node(&mut b, n)).collect();
        let (nodes, values) = (b.offsets(&nodes), b.offsets(&values));
        let inputs: Vec<u32> = (0..self.inputs).collect();
        let (ins, outs) = (b.vector(inputs.iter().copied()), b.vector(self.outputs.iter().copied()));
        let table: Vec<Offset> = entries
            .iter()
            .map(|(offset, bytes)| {
                if self.legacy {
                    let storage = b.bytes(bytes, 16);
                    b.table(TableFields::new().offset(f(0), storage))
                } else {
                    let size = bytes.len() as u64;
                    b.table(TableFields::new().scalar(f(0), *offset, 0).scalar(f(1), size, 0))
                }
            })
            .collect();
        let table = b.offsets(&table);
        let externs = self.inputs + u32::try_from(self.outputs.len()).unwrap();
        let fields = TableFields::new()
            .offset(f(1), nodes)
            .offset(f(2), values)
            .scalar(f(3), externs, 0)
            .offset(f(4), ins)
            .offset(f(5), outs)
            .offset(f(if self.legacy { 6 } else { 8 }), table);
        let root = b.table(fields);
        let flat = b.finish(root, if self.legacy { b"XN00" } else { b"XN01" }, false).unwrap();
        if self.legacy {
            return flat;
        }
        let mut blob = vec![0u8; 32];
        let constants = (32 + flat.len()).next_multiple_of(16);
        blob[4..8].copy_from_slice(b"XH00");
        blob[8..10].copy_from_slice(&30u16.to_le_bytes());
        blob[10..14].copy_from_slice(&32u32.to_le_bytes());
        blob[14..18].copy_from_slice(&u32::try_from(flat.len()).unwrap().to_le_bytes());
        blob[18..22].copy_from_slice(&u32::try_from(constants).unwrap().to_le_bytes());
        blob[22..30].copy_from_slice(&(data.len() as u64).to_le_bytes());
        blob.extend(flat);
        blob.resize(constants, 0);
        blob.extend(data);
        blob
    }

    pub(crate) fn delegate(&self) -> Delegate {
        let (compile_specs, named_data) = (Vec::new(), Vec::new());
        Delegate { backend: "XnnpackBackend".into(), payload: self.blob().into(), compile_specs, named_data }
    }
}

fn node(b: &mut Builder, n: &NodeSpec) -> Offset {
    let mut fields = TableFields::new();
    for (slot, value) in &n.slots {
        fields = match value {
            Slot::Id(i) => fields.scalar(f(*slot), *i, 0),
            Slot::Float(x) => fields.scalar(f(*slot), *x, 0.0),
            Slot::List(l) => {
                let l = b.vector(l.iter().copied());
                fields.offset(f(*slot), l)
            }
        };
    }
    let kind = b.table(fields);
    let mut fields = TableFields::new().union(f(1), n.code, kind);
    if let Some((min, max)) = n.range {
        let range = b.table(TableFields::new().scalar(f(0), min, 0.0).scalar(f(1), max, 0.0));
        fields = fields.offset(f(3), range);
    }
    b.table(fields)
}
