//! The codes in programs that ExecuTorch's exporter wrote are made again of the float checkpoint
//! (`tools/oracle/make_pte_codes.py` read them out).

use std::fs;

use pteron_checkpoint::Checkpoint;
use pteron_ir::{ConstData, Module};
use pteron_kernels::Context;
use pteron_models::{BuildOptions, CheckpointWeights, ModelConfig, WeightsOptions, build};
use pteron_quant::pt2e::{convert_module, parameters, prepare_module};
use pteron_quant::quantizer::{ComposableQuantizer, of_scheme};
use pteron_quant::scheme::{Compat, Scheme};
use pteron_quant::transform::{Algorithm, EmbeddingMode, LayerChoice, LayerKind, LinearMode, Transform};
use pteron_tensor::read_all;
use serde_json::Value;

fn float_model() -> Module {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny_llama_hf");
    let checkpoint = Checkpoint::open(folder).unwrap();
    let config = ModelConfig::from_checkpoint(&checkpoint).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &config, &WeightsOptions::default()).unwrap();
    let options = BuildOptions { max_seq_length: 32, max_context_length: 32, ..BuildOptions::default() };
    build(&config, &weights, &options).unwrap()
}

fn golden(program: &str) -> serde_json::Map<String, Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/pte_codes.json");
    let all: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    all[program].as_object().unwrap().clone()
}

fn constant(m: &Module, name: &str) -> Vec<u8> {
    let c = m.constants.values().find(|c| c.name.as_ref() == name).unwrap_or_else(|| panic!("{name}"));
    let ConstData::Source(s) = &c.data else { panic!("{name} has no source") };
    read_all(s.as_ref()).unwrap().to_vec()
}

/// From base64.
fn bytes(v: &Value) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let text = v.as_str().unwrap().trim_end_matches('=').as_bytes();
    let value = |c: &u8| u32::try_from(ALPHABET.iter().position(|a| a == c).unwrap()).unwrap();
    let group = |g: &[u8]| {
        let bits = g.iter().fold(0, |bits, c| bits << 6 | value(c)) << (6 * (4 - g.len()));
        bits.to_be_bytes()[1..g.len()].to_vec()
    };
    text.chunks(4).flat_map(group).collect()
}

fn codes(entry: &Value) -> Vec<i8> {
    let raw = bytes(&entry["codes"]);
    match entry["bits"].as_u64().unwrap() {
        4 => raw.iter().flat_map(|b| [b & 15, b >> 4]).map(|c| c.cast_signed() - 8).collect(),
        _ => raw.iter().map(|b| b.cast_signed()).collect(),
    }
}

fn scales(entry: &Value) -> Vec<f32> {
    bytes(&entry["scales"]).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

/// Compares a weight's codes and scales. `bits` of a scale's mantissa are kept in the program.
fn compare(m: &Module, tensor: &str, entry: &Value, ties: usize, bits: i32) {
    let found: Vec<i8> = constant(m, &format!("{tensor}_quantized")).iter().map(|b| b.cast_signed()).collect();
    let expected = codes(entry);
    assert_eq!(found.len(), expected.len(), "{tensor}");
    let apart = found.iter().zip(&expected).filter(|(a, b)| a != b).count();
    let far = found.iter().zip(&expected).filter(|(a, b)| (i16::from(**a) - i16::from(**b)).abs() > 1).count();
    assert!(far == 0 && apart <= ties, "{tensor}: {apart} of {} codes differ, {far} by more than one", found.len());
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&constant(m, &format!("{tensor}_quantized_scale")));
    let scales = scales(entry);
    assert_eq!(found.len(), scales.len(), "{tensor}");
    for (a, b) in found.iter().zip(&scales) {
        assert!((a - b).abs() <= 2f32.powi(-bits) * b.abs(), "{tensor}: scale {a:e}, expected {b:e}");
    }
}

#[test]
fn dynamic_schemes() {
    for (program, scheme) in [("v5", "xnnpack_dynamic"), ("v5b", "xnnpack_dynamic_qc4")] {
        let mut m = float_model();
        let specs = Scheme::find(scheme).unwrap().specs(Compat::ExecuTorch1_5).unwrap();
        let quantizer = ComposableQuantizer::new(of_scheme(scheme, &specs).unwrap());
        let prepared = prepare_module(&mut m, &quantizer).unwrap();
        let params = parameters(&m.graphs[0], &prepared[0]).unwrap();
        convert_module(&mut m, &prepared, &[params]).unwrap();
        let golden = golden(program);
        assert_eq!(golden.len(), 15);
        for (tensor, entry) in &golden {
            // The names that conversion gives.
            let found: Vec<i8> = constant(&m, &format!("{tensor}_quantized")).iter().map(|b| b.cast_signed()).collect();
            assert!(found == codes(entry), "{program} {tensor}");
            let found: Vec<f32> = bytemuck::pod_collect_to_vec(&constant(&m, &format!("{tensor}_scale")));
            for (a, b) in found.iter().zip(&scales(entry)) {
                assert!((a - b).abs() <= f32::EPSILON * b.abs(), "{program} {tensor}: {a:e} {b:e}");
            }
        }
    }
}

#[test]
fn source_transforms() {
    for (program, embedding) in
        [("v4d", EmbeddingMode { bits: 8, group: 0 }), ("v4e", EmbeddingMode { bits: 4, group: 32 })]
    {
        let mut m = float_model();
        let choose = |_: &str, kind: LayerKind| match kind {
            LayerKind::Linear => {
                Some(LayerChoice::Linear(LinearMode::Int8DynActInt4Weight { group: 32 }, Algorithm::Hqq))
            }
            LayerKind::Embedding => Some(LayerChoice::Embedding(embedding, Algorithm::Hqq)),
        };
        Transform::new(&choose).apply(&mut [&mut m], None, &Context::new(1), &mut |_, _| {}).unwrap();
        for (tensor, entry) in &golden(program) {
            match tensor.contains("embed") {
                true => embedding_codes(&m, tensor, entry, embedding),
                // HQQ is a search: a code may stand at a tie. XNNPACK keeps scales as bf16.
                false => compare(&m, tensor, entry, 2, 8),
            }
        }
    }
}

/// Embeddings of 4 bits are packed two a byte, the first in the high half, plus 8.
fn embedding_codes(m: &Module, tensor: &str, entry: &Value, mode: EmbeddingMode) {
    let raw = constant(m, &format!("{tensor}_embedding_quantized"));
    let found: Vec<i8> = match mode.bits {
        4 => raw.iter().flat_map(|b| [b >> 4, b & 15]).map(|c| c.cast_signed() - 8).collect(),
        _ => raw.iter().map(|b| b.cast_signed()).collect(),
    };
    assert!(found == codes(entry), "{tensor}");
    let found: Vec<f32> = bytemuck::pod_collect_to_vec(&constant(m, &format!("{tensor}_embedding_quantized_scale")));
    for (a, b) in found.iter().zip(&scales(entry)) {
        assert!((a - b).abs() <= f32::EPSILON * b.abs(), "{tensor}: {a:e} {b:e}");
    }
}
