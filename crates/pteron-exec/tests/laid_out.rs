//! Weights of bf16 that are laid out for their layers change no bit, and whoever has no memory for them does without.

use std::sync::Arc;

use half::bf16;
use pteron_exec::{Session, SessionOptions, ValueRef};
use pteron_ir::{Arg, GraphBuilder, Module, Op, SymInt, TensorType, ValueId};
use pteron_kernels::Context;
use pteron_kernels::matmul::Panels;
use pteron_tensor::{DType, MemorySource, Tensor};
use pteron_testkit::Numbers;

const K: usize = 72;
/// Rows of the weights: two layers of the input, one of the first's result, which is also a table of rows.
const ROWS: [usize; 3] = [72, 33, 341];

fn weight(b: &mut GraphBuilder<'_>, numbers: &mut Numbers, rows: usize) -> ValueId {
    let all: Vec<bf16> = (0..rows * K).map(|_| bf16::from_f32(numbers.unit())).collect();
    let c = b.module_mut().add_tensor_constant("w", MemorySource::of("w", &[rows, K], &all).unwrap());
    b.constant(c)
}

fn module() -> Module {
    let mut m = Module::new("m");
    let mut numbers = Numbers::new(11);
    let mut b = GraphBuilder::new(&mut m, "forward");
    let rows = b.symbol(1, 9);
    let x = b.input("x", TensorType::new(DType::BF16, [rows, SymInt::from(K)]));
    let index = b.input("index", TensorType::new(DType::I64, [SymInt::from(2usize)]));
    let [one, two, three] = ROWS.map(|n| weight(&mut b, &mut numbers, n));
    let layer =
        |b: &mut GraphBuilder<'_>, x: ValueId, w: ValueId| b.call(Op::Linear, [x.into(), w.into(), Arg::None]).unwrap();
    let (first, second) = (layer(&mut b, x, one), layer(&mut b, x, two));
    let last = layer(&mut b, first, three);
    let table = b.call(Op::Embedding, [three.into(), index.into()]).unwrap();
    b.finish(&[second, last, table]);
    m
}

fn results(session: &mut Session, rows: usize) -> Vec<Vec<u8>> {
    let mut numbers = Numbers::new(rows as u64);
    let all: Vec<bf16> = (0..rows * K).map(|_| bf16::from_f32(numbers.unit())).collect();
    let x = Tensor::of(&[rows, K], &all).unwrap();
    let index = Tensor::of(&[2], &[340i64, 7]).unwrap();
    let inputs = [ValueRef::Tensor(x.view()), ValueRef::Tensor(index.view())];
    let out = session.run("forward", &inputs).unwrap();
    (0..out.len()).map(|i| Tensor::copy_of(&out.tensor(i).unwrap()).bytes().to_vec()).collect()
}

#[test]
fn weights_that_are_laid_out_change_no_bit() {
    let module = Arc::new(module());
    let session = |threads: usize, lay_out_weights: bool, max_memory: u64| {
        let options = SessionOptions { lay_out_weights, max_memory, ..SessionOptions::with_threads(threads) };
        Session::new(Arc::clone(&module), &options).unwrap()
    };
    let mut plain = session(1, false, u64::MAX);
    assert_eq!(plain.memory().decoded_constants, 0);
    let bytes: usize = ROWS.iter().map(|&n| Panels::bytes_for(n, K).unwrap()).sum();
    let expected = if Panels::are_used_by(&Context::new(1)) { bytes as u64 } else { 0 };
    // One byte too few for all of them.
    let enough = plain.memory().total() + bytes as u64;
    let mut tight = session(2, true, enough - 1);
    assert_eq!(tight.memory().decoded_constants, 0);
    let mut others = [session(1, true, enough), session(3, true, u64::MAX)];
    for s in &others {
        assert_eq!(s.memory().decoded_constants, expected);
    }
    for rows in [1, 3, 9, 1] {
        let want = results(&mut plain, rows);
        assert!(want.iter().flatten().any(|&b| b != 0));
        assert_eq!(results(&mut tight, rows), want, "{rows} rows");
        for s in &mut others {
            assert_eq!(results(s, rows), want, "{rows} rows");
        }
    }
}
