//! A high-level operator and its decomposition for ExecuTorch's portable kernels compute the same.

use std::sync::Arc;

use pteron_exec::{Session, SessionOptions, ValueRef};
use pteron_ir::pass::{PassContext, Runner};
use pteron_ir::passes::{CANONICALIZE, DCE, DECOMPOSE, executorch_portable};
use pteron_ir::{Arg, GraphBuilder, Module, Op, SymInt, TensorType, ValueId};
use pteron_tensor::{DType, Scalar, Tensor, Tolerance};
use pteron_testkit::Numbers;

/// A random tensor; booleans are true two times in three, and the first of a row always.
fn random(numbers: &mut Numbers, dtype: DType, sizes: &[usize]) -> Tensor {
    let mut t = Tensor::zeros(dtype, sizes).unwrap();
    let row = sizes.last().copied().unwrap_or(1).max(1);
    for i in 0..t.numel() {
        let x = match dtype {
            DType::Bool => Scalar::Bool(i % row == 0 || numbers.below(3) > 0),
            _ => Scalar::Float(f64::from(2.0 * numbers.unit())),
        };
        t.view_mut().set_scalar(i, x).unwrap();
    }
    t
}

/// Input sizes: `None` is the symbolic size.
type Sizes<'a> = &'a [Option<usize>];

fn tolerance(dtype: DType) -> Tolerance {
    match dtype {
        DType::F16 => Tolerance::KERNEL_F16,
        DType::BF16 => Tolerance::KERNEL_BF16,
        _ => Tolerance::KERNEL_F32,
    }
}

/// Builds `call` on inputs of these types and sizes, whole and decomposed, and runs both at several symbolic sizes.
fn check(
    what: &str,
    inputs: &[(DType, Sizes<'_>)],
    call: &dyn Fn(&mut GraphBuilder<'_>, &[ValueId]) -> ValueId,
    out: DType,
) {
    let mut whole = Module::new(what);
    let mut b = GraphBuilder::new(&mut whole, "forward");
    let symbol = b.symbol(1, 9);
    let dims = |sizes: Sizes<'_>| -> Vec<SymInt> {
        sizes.iter().map(|s| s.map_or_else(|| symbol.clone(), SymInt::from)).collect()
    };
    let values: Vec<ValueId> = inputs.iter().map(|(d, sizes)| b.input("x", TensorType::new(*d, dims(sizes)))).collect();
    let y = call(&mut b, &values);
    b.finish(&[y]);
    let mut parts = whole.clone();
    let ctx = PassContext::new(&executorch_portable);
    Runner::new([DECOMPOSE, CANONICALIZE, DCE]).run(&mut parts, &ctx).unwrap_or_else(|e| panic!("{what}: {e}"));
    let ops: Vec<Op> = parts.graphs[0].nodes.values().map(|n| n.op).collect();
    assert!(ops.len() > 1, "{what} was not decomposed");
    let open = |m: Module| Session::new(Arc::new(m), &SessionOptions::with_threads(1)).unwrap();
    let (mut whole, mut parts) = (open(whole), open(parts));
    let mut numbers = Numbers::new(11);
    for size in [1, 4, 9] {
        let tensors: Vec<Tensor> = inputs
            .iter()
            .map(|(d, sizes)| {
                let sizes: Vec<usize> = sizes.iter().map(|s| s.unwrap_or(size)).collect();
                random(&mut numbers, *d, &sizes)
            })
            .collect();
        let refs: Vec<ValueRef<'_>> = tensors.iter().map(|t| ValueRef::Tensor(t.view())).collect();
        let expected = whole.run("forward", &refs).unwrap().tensor(0).unwrap().to_f64_vec();
        let outputs = parts.run("forward", &refs).unwrap_or_else(|e| panic!("{what}, size {size}: {e}"));
        let found = outputs.tensor(0).unwrap();
        assert_eq!(found.dtype(), out, "{what}");
        assert!(!expected.is_empty() && expected.iter().all(|x| x.is_finite()), "{what}: {expected:?}");
        tolerance(out).check(&expected, &found.to_f64_vec()).unwrap_or_else(|e| panic!("{what}, size {size}: {e}"));
    }
}

const FLOATS: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

#[test]
fn norms_and_activations() {
    for d in FLOATS {
        let shape: Sizes<'_> = &[Some(1), None, Some(24)];
        let norm = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
            b.call(Op::RmsNorm, [v[0].into(), Arg::ints(&[24]), v[1].into(), 1e-5.into()]).unwrap()
        };
        check("rms_norm", &[(d, shape), (d, &[Some(24)])], &norm, d);
        let bare = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
            b.call(Op::RmsNorm, [v[0].into(), Arg::ints(&[24]), Arg::None, 1e-6.into()]).unwrap()
        };
        check("rms_norm without weight", &[(d, shape)], &bare, d);
        let silu = |b: &mut GraphBuilder<'_>, v: &[ValueId]| b.call(Op::Silu, [v[0].into()]).unwrap();
        check("silu", &[(d, shape)], &silu, d);
    }
}

#[test]
fn rotary_embeddings() {
    for d in FLOATS {
        for interleaved in [false, true] {
            let rope = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
                b.call(Op::Rope, [v[0].into(), v[1].into(), v[2].into(), interleaved.into()]).unwrap()
            };
            let x: Sizes<'_> = &[Some(1), None, Some(3), Some(8)];
            let table: Sizes<'_> = &[None, Some(4)];
            check("rope", &[(d, x), (DType::F32, table), (DType::F32, table)], &rope, d);
        }
    }
}

#[test]
fn attention() {
    let q: Sizes<'_> = &[Some(1), Some(4), None, Some(8)];
    let kv: Sizes<'_> = &[Some(1), Some(2), None, Some(8)];
    let full: Sizes<'_> = &[Some(1), Some(2), Some(12), Some(8)];
    for d in FLOATS {
        for causal in [false, true] {
            let sdpa = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
                let [q, k, v] = [v[0].into(), v[1].into(), v[2].into()];
                b.call(Op::Sdpa, [q, k, v, Arg::None, 0.0.into(), causal.into(), Arg::None, true.into()]).unwrap()
            };
            check("sdpa", &[(d, q), (d, kv), (d, kv)], &sdpa, d);
        }
        for mask in [DType::Bool, d] {
            let sdpa = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
                let [q, k, v, m] = [v[0].into(), v[1].into(), v[2].into(), v[3].into()];
                b.call(Op::Sdpa, [q, k, v, m, 0.0.into(), false.into(), 0.3.into(), true.into()]).unwrap()
            };
            check("sdpa with a mask", &[(d, q), (d, full), (d, full), (mask, &[None, Some(12)])], &sdpa, d);
        }
    }
}

#[test]
fn blocks_of_codes() {
    let rows: Sizes<'_> = &[None, Some(16)];
    let groups: Sizes<'_> = &[None, Some(4)];
    let group = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
        let [q, s, z] = [v[0].into(), v[1].into(), v[2].into()];
        let range = [(-8i64).into(), 7i64.into()];
        let [lo, hi] = range;
        b.call(Op::DequantizePerChannelGroup, [q, s, z, lo, hi, DType::I8.into(), 4i64.into(), DType::F32.into()])
            .unwrap()
    };
    let inputs = [(DType::I8, rows), (DType::F32, groups), (DType::I32, groups)];
    check("dequantize_per_channel_group", &inputs, &group, DType::F32);
    for block in [[1i64, 4], [1, 16]] {
        let params: Sizes<'_> = if block[1] == 4 { groups } else { &[None, Some(1)] };
        let there = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
            let [x, s, z] = [v[0].into(), v[1].into(), v[2].into()];
            let (lo, hi) = ((-8i64).into(), 7i64.into());
            b.call(Op::QuantizeAffine, [x, Arg::ints(&block), s, z, DType::I8.into(), lo, hi]).unwrap()
        };
        check("quantize_affine", &[(DType::F32, rows), (DType::F32, params), (DType::I32, params)], &there, DType::I8);
        let back = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
            let [q, s, z] = [v[0].into(), v[1].into(), v[2].into()];
            let (lo, hi) = ((-8i64).into(), 7i64.into());
            let args = [q, Arg::ints(&block), s, z, DType::I8.into(), lo, hi, DType::F32.into()];
            b.call(Op::DequantizeAffine, args).unwrap()
        };
        check("dequantize_affine", &[(DType::I8, rows), (DType::F32, params), (DType::I32, params)], &back, DType::F32);
    }
    for (mapping, lo) in [("SYMMETRIC", -8i64), ("SYMMETRIC_NO_CLIPPING_ERR", -8), ("ASYMMETRIC", 0)] {
        let scales = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
            let codes = if lo < 0 { DType::I8 } else { DType::U8 };
            let args =
                [v[0].into(), Arg::Str(mapping.into()), Arg::ints(&[1, 4]), codes.into(), lo.into(), 7i64.into()];
            let rest = [Arg::None, Arg::None, Arg::None, false.into()];
            b.call(Op::ChooseQparamsAffine, args.into_iter().chain(rest)).unwrap()
        };
        check("choose_qparams_affine", &[(DType::F32, rows)], &scales, DType::F32);
    }
    let scale = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
        let args = [v[0].into(), (-127i64).into(), 127i64.into(), 1e-5.into(), DType::I8.into()];
        b.call(Op::ChooseQparamsSymmetric, args).unwrap()
    };
    check("choose_qparams_symmetric", &[(DType::F32, rows)], &scale, DType::F64);
    let token = |b: &mut GraphBuilder<'_>, v: &[ValueId]| {
        b.call(Op::ChooseQparamsPerToken, [v[0].into(), DType::I8.into()]).unwrap()
    };
    check("choose_qparams_per_token", &[(DType::F32, rows)], &token, DType::F32);
}
