//! The modules of tools/oracle/make_qnn_samples.py, with its weights.

use pteron_checkpoint::Checkpoint;
use pteron_exec::Value;
use pteron_ir::{Arg, GraphBuilder, Module, Op, TensorType, ValueId, args};
use pteron_tensor::{DType, SharedSource, Tensor, read_all};

const WIDTH: i64 = 64;
const HEADS: i64 = 4;
const KV_HEADS: i64 = 2;
const TOKENS: i64 = 8;
const HEAD: i64 = WIDTH / HEADS;

/// Weights and inputs.
pub(crate) struct Samples(Checkpoint);

impl Samples {
    pub(crate) fn open() -> Samples {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lowering/samples/samples.safetensors");
        Samples(Checkpoint::open(path).unwrap())
    }

    fn source(&self, name: &str) -> SharedSource {
        self.0.get(name).unwrap()
    }

    /// The inputs `0..=4` of a module; the last is measured.
    pub(crate) fn inputs(&self, module: &str, seed: usize) -> Vec<Value> {
        let name = |i: usize| format!("{module}.input{seed}.{i}");
        let tensor = |i: usize| {
            let source = self.source(&name(i));
            let bytes = read_all(source.as_ref()).unwrap();
            let numbers: &[f32] = bytemuck::cast_slice(&bytes);
            Value::Tensor(Tensor::of(source.shape(), numbers).unwrap())
        };
        (0..if module == "attn" { 4 } else { 1 }).map(tensor).collect()
    }
}

struct Build<'a> {
    b: GraphBuilder<'a>,
    samples: &'a Samples,
    module: &'a str,
}

impl Build<'_> {
    fn call(&mut self, op: Op, args: impl IntoIterator<Item = Arg>) -> ValueId {
        self.b.call(op, args).unwrap()
    }

    fn weight(&mut self, path: &str) -> ValueId {
        let source = self.samples.source(&format!("{}.{path}.weight", self.module));
        let id = self.b.module_mut().add_constant(&format!("{path}.weight"), source);
        self.b.constant(id)
    }

    fn linear(&mut self, path: &str, x: ValueId) -> ValueId {
        let w = self.weight(path);
        self.b.scope(path, |b| b.call(Op::Linear, args![x, w])).unwrap()
    }

    fn norm(&mut self, path: &str, x: ValueId) -> ValueId {
        let w = self.weight(path);
        self.b.scope(path, |b| b.call(Op::RmsNorm, args![x, Arg::ints(&[WIDTH]), w, 1e-5])).unwrap()
    }

    fn view(&mut self, x: ValueId, sizes: &[i64]) -> ValueId {
        self.call(Op::ViewCopy, args![x, Arg::ints(sizes)])
    }

    fn permute(&mut self, x: ValueId, order: [i64; 4]) -> ValueId {
        self.call(Op::PermuteCopy, args![x, Arg::ints(&order)])
    }

    fn mlp(&mut self, prefix: &str, x: ValueId) -> ValueId {
        let gate = self.linear(&format!("{prefix}gate"), x);
        let gate = self.call(Op::Silu, args![gate]);
        let up = self.linear(&format!("{prefix}up"), x);
        let product = self.call(Op::Mul, args![gate, up]);
        self.linear(&format!("{prefix}down"), product)
    }

    fn rope(&mut self, x: ValueId, cos: ValueId, sin: ValueId) -> ValueId {
        let a = self.call(Op::SliceCopy, args![x, 3i64, 0i64, HEAD / 2]);
        let b = self.call(Op::SliceCopy, args![x, 3i64, HEAD / 2, HEAD]);
        let (ac, bs) = (self.call(Op::Mul, args![a, cos]), self.call(Op::Mul, args![b, sin]));
        let left = self.call(Op::Sub, args![ac, bs]);
        let (bc, as_) = (self.call(Op::Mul, args![b, cos]), self.call(Op::Mul, args![a, sin]));
        let right = self.call(Op::Add, args![bc, as_]);
        self.call(Op::Cat, [Arg::tensors(&[left, right]), 3i64.into()])
    }

    fn attention(&mut self, x: ValueId) -> ValueId {
        let sizes = [1, TOKENS as usize, 1, HEAD as usize / 2];
        let mask_sizes = [1, 1, TOKENS as usize, TOKENS as usize];
        let mask = self.b.input("mask", TensorType::fixed(DType::F32, &mask_sizes));
        let cos = self.b.input("cos", TensorType::fixed(DType::F32, &sizes));
        let sin = self.b.input("sin", TensorType::fixed(DType::F32, &sizes));
        let h = self.norm("norm", x);
        let q = self.linear("q", h);
        let q = self.view(q, &[1, TOKENS, HEADS, HEAD]);
        let q = self.rope(q, cos, sin);
        let q = self.permute(q, [0, 2, 1, 3]);
        let q = self.call(Op::MulScalar, args![q, (HEAD as f64).powf(-0.5)]);
        let k = self.linear("k", h);
        let k = self.view(k, &[1, TOKENS, KV_HEADS, HEAD]);
        let k = self.rope(k, cos, sin);
        let k = self.permute(k, [0, 2, 3, 1]);
        let v = self.linear("v", h);
        let v = self.view(v, &[1, TOKENS, KV_HEADS, HEAD]);
        let v = self.permute(v, [0, 2, 1, 3]);
        let rows = HEADS / KV_HEADS * TOKENS;
        let (q, k) = (self.view(q, &[KV_HEADS, rows, HEAD]), self.view(k, &[KV_HEADS, HEAD, TOKENS]));
        let scores = self.call(Op::Bmm, args![q, k]);
        let scores = self.view(scores, &[1, HEADS, TOKENS, TOKENS]);
        let scores = self.call(Op::Add, args![scores, mask]);
        let weights = self.call(Op::Softmax, args![scores, -1i64, false]);
        let (weights, v) = (self.view(weights, &[KV_HEADS, rows, TOKENS]), self.view(v, &[KV_HEADS, TOKENS, HEAD]));
        let out = self.call(Op::Bmm, args![weights, v]);
        let out = self.view(out, &[1, HEADS, TOKENS, HEAD]);
        let out = self.permute(out, [0, 2, 1, 3]);
        let out = self.view(out, &[1, TOKENS, WIDTH]);
        let out = self.linear("o", out);
        let x = self.call(Op::Add, args![x, out]);
        let h = self.norm("norm2", x);
        let out = self.mlp("mlp.", h);
        self.call(Op::Add, args![x, out])
    }
}

/// The module `lin`, `mlp` or `attn`.
pub(crate) fn module(samples: &Samples, name: &str) -> Module {
    let mut module = Module::new(name);
    let mut build = Build { b: GraphBuilder::new(&mut module, "forward"), samples, module: name };
    let x = build.b.input("x", TensorType::fixed(DType::F32, &[1, TOKENS as usize, WIDTH as usize]));
    let out = match name {
        "lin" => build.linear("l", x),
        "mlp" => build.mlp("", x),
        _ => build.attention(x),
    };
    build.b.finish(&[out]);
    module
}
