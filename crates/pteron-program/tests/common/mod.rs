//! Fixtures and byte sources of the tests.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;
use std::sync::Arc;

use pteron_program::{EmitOptions, Emitted, ExternalData, LiftOptions, Lifted, emit, lift};
use pteron_pte::{ParsedHead, PtdHead};
use pteron_tensor::{ByteSource, SourceError};

/// Bytes in memory.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl ByteSource for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let start = offset as usize;
        out.copy_from_slice(&self.0[start..start + out.len()]);
        Ok(())
    }

    fn as_slice(&self) -> Option<&[u8]> {
        Some(&self.0)
    }
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/executorch")).join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn lift_bytes(bytes: Vec<u8>, external: Vec<ExternalData>) -> Result<Lifted, String> {
    let head = ParsedHead::parse(&bytes, bytes.len() as u64).map_err(|e| e.to_string())?;
    let options = LiftOptions { name: "m".into(), external, delegate_inputs: None };
    lift(&head, Arc::new(Bytes(bytes)), &options).map_err(|e| e.to_string())
}

pub(crate) fn external(name: &str) -> ExternalData {
    let bytes = fixture(name);
    let head = PtdHead::parse(&bytes, bytes.len() as u64).unwrap();
    ExternalData { head, bytes: Arc::new(Bytes(bytes)) }
}

/// Every program of the fixtures.
pub(crate) const PROGRAMS: &[&str] = &[
    "v1_nokv.pte",
    "v1b_nokv_static.pte",
    "v2_kv.pte",
    "v2b_kv_static.pte",
    "v3_kv_sdpa.pte",
    "v6_kv_sdpa_xnn_fp32.pte",
    "v7_kv_sdpa_qkv.pte",
    "v7b_kv_sdpa_emb4.pte",
    "v7c_kv_sdpa_emb8.pte",
    "quant/embeddings.pte",
    "quant/per_channel.pte",
    "quant/per_tensor.pte",
    "quant/per_token.pte",
    "quant/pt2e_dynamic.pte",
    "quant/pt2e_static.pte",
    "hand.pte",
    "micro/m_add.pte",
    "micro/m_add_noplan_io.pte",
    "micro/m_args.pte",
    "micro/m_cast.pte",
    "micro/m_cast_skipdo.pte",
    "micro/m_chlast.pte",
    "micro/m_cond.pte",
    "micro/m_map.pte",
    "micro/m_mlp.pte",
    "micro/m_mlp_dyn.pte",
    "micro/m_mlp_ptd.pte",
    "micro/m_mlp_xnn.pte",
    "micro/m_mlp_xnn_inline.pte",
    "micro/m_multiout.pte",
    "micro/m_mutbuf.pte",
    "micro/m_mutbuf_init.pte",
    "micro/m_mutbuf_named.pte",
    "micro/m_scan.pte",
    "micro/m_shared.pte",
    "micro/m_shared_rw.pte",
];

pub(crate) fn bytes_of(e: &Emitted) -> Vec<u8> {
    let mut out = Vec::new();
    e.write_to(&mut out, &mut |_| {}).unwrap();
    assert_eq!(out.len() as u64, e.file.total_len);
    out
}

pub(crate) fn emit_bytes(m: &pteron_ir::Module, options: &EmitOptions) -> Result<Vec<u8>, String> {
    emit(m, options).map(|e| bytes_of(&e)).map_err(|e| e.to_string())
}

pub(crate) fn text(m: &pteron_ir::Module) -> String {
    pteron_ir::print::module(m)
}

/// Fails with the annotated text if the module does not verify.
pub(crate) fn verified(m: &pteron_ir::Module) {
    if let Err(e) = pteron_ir::verify::module(m) {
        panic!("{}", pteron_ir::verify::annotate(m, &e));
    }
}

/// Operators of a graph in order of execution.
pub(crate) fn operators(g: &pteron_ir::Graph) -> Vec<&'static str> {
    g.all_nodes().into_iter().map(|n| g.nodes[n].op.name()).collect()
}
