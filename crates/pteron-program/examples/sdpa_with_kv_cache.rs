//! Writes programs that call `llama::sdpa_with_kv_cache`, which ExecuTorch's present exporter no longer does, and the calls
//! to run them with. `tools/oracle/make_sdpa_with_kv_cache.sh` records what ExecuTorch computes for them.
//!
//! Four query heads share two key heads of size 8; the caches hold 16 positions. A first method-less call fills positions 0
//! to 4, the second continues at position 5.

use std::fs;
use std::path::Path;

use pteron_ir::{Arg, GraphBuilder, Module, Op, TensorType, args};
use pteron_program::{EmitOptions, emit};
use pteron_tensor::DType;

const HEADS: i64 = 4;
const KV_HEADS: i64 = 2;
const SIZE: i64 = 8;
const CONTEXT: i64 = 16;

/// A program over `[1, S, H, D]` queries with S up to 7: tokens' projections, a start position and, if `masked`, a mask.
fn module(masked: bool) -> Module {
    let mut m = Module::new("sdpa_with_kv_cache");
    let cache = TensorType::new(DType::F32, [1i64.into(), CONTEXT.into(), KV_HEADS.into(), SIZE.into()]);
    let (kc, vc) = (m.add_buffer("k_cache", cache.clone()), m.add_buffer("v_cache", cache));
    let mut b = GraphBuilder::new(&mut m, "forward");
    let s = b.symbol(1, 7);
    let of = |heads: i64| TensorType::new(DType::F32, [1i64.into(), s.clone(), heads.into(), SIZE.into()]);
    let (q, k, v) = (b.input("q", of(HEADS)), b.input("k", of(KV_HEADS)), b.input("v", of(KV_HEADS)));
    let pos = b.input("start_pos", TensorType::fixed(DType::I64, &[1]));
    let mask = masked.then(|| b.input("mask", TensorType::new(DType::F32, [s.clone(), CONTEXT.into()])));
    let mut build = || {
        let start = b.local_int(pos, 0, CONTEXT - 1)?;
        let length = b.call(Op::SymSize, args![q, 1i64])?;
        let (keys, values) = (b.buffer(kc), b.buffer(vc));
        let arguments = args![q, k, v, keys, values, start, length, mask, 0.0, !masked, Arg::None];
        let node = b.node(Op::SdpaWithKvCache, arguments)?;
        let outputs = b.graph().nodes[node].outputs.clone();
        b.write_back(kc, outputs[1]);
        b.write_back(vc, outputs[2]);
        Ok::<_, pteron_ir::InferError>(outputs[0])
    };
    let out = build().unwrap_or_else(|e| panic!("{e}"));
    b.finish(&[out]);
    m
}

/// A tensor of the calls' JSON with values that only depend on `seed` and the position.
fn tensor(shape: &[i64], seed: f32) -> String {
    let n: i64 = shape.iter().product();
    let data: Vec<String> = (0..n).map(|i| ((i as f32 * 0.37 + seed).sin()).to_string()).collect();
    format!("{{\"dtype\":\"float32\",\"shape\":{shape:?},\"data\":[{}]}}", data.join(","))
}

/// 0 where the query at position `start + row` may look, -1e9 elsewhere: causal, but for every third key.
fn mask(rows: i64, start: i64) -> String {
    let cell = |r: i64, c: i64| if c <= start + r && (c % 3 != 1 || c == start + r) { "0.0" } else { "-1000000000.0" };
    let data: Vec<&str> = (0..rows).flat_map(|r| (0..CONTEXT).map(move |c| cell(r, c))).collect();
    format!("{{\"dtype\":\"float32\",\"shape\":[{rows},{CONTEXT}],\"data\":[{}]}}", data.join(","))
}

fn call(rows: i64, start: i64, seed: f32, masked: bool) -> String {
    let mut parts = vec![
        tensor(&[1, rows, HEADS, SIZE], seed),
        tensor(&[1, rows, KV_HEADS, SIZE], seed + 1.0),
        tensor(&[1, rows, KV_HEADS, SIZE], seed + 2.0),
        format!("{{\"dtype\":\"int64\",\"shape\":[1],\"data\":[{start}]}}"),
    ];
    if masked {
        parts.push(mask(rows, start));
    }
    format!("[{}]", parts.join(","))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: sdpa_with_kv_cache FOLDER")?;
    for (name, masked) in [("causal", false), ("masked", true)] {
        let emitted = emit(&module(masked), &EmitOptions::default())?;
        let mut bytes = Vec::new();
        emitted.write_to(&mut bytes, &mut |_| {})?;
        let at = |suffix: &str| Path::new(&folder).join(format!("sdpa_with_kv_cache_{name}{suffix}"));
        fs::write(at(".pte"), bytes)?;
        let calls = [call(5, 0, 0.1, masked), call(3, 5, 0.7, masked), call(1, 8, 1.3, masked)];
        fs::write(at(".calls.json"), format!("[{}]", calls.join(",\n")))?;
    }
    Ok(())
}
